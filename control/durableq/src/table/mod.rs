//! The tables of the queue: plain memory, taken once, touched only as far as it is used.

pub mod ids;
pub mod store;
pub mod calls;
pub mod timers;
pub mod functions;
pub mod holders;
pub mod ended;
