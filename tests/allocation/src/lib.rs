//! Nothing is allocated after the start: counted by an allocator.
//!
//! The tests run a core on the thread that counts and a node on another, over real shared memory and real TCP.
//!
//! [`node`] is the other side; the allocator is the crate `counting`.

pub mod node;
