//! Nothing is allocated after the start: counted by an allocator.
//!
//! The tests run a core on the thread that counts and a node on another, over real shared memory and real TCP.
//!
//! - [`counting`]: the allocator. - [`node`]: the other side.

pub mod counting;
pub mod node;
