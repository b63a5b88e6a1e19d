//! The tables of the queue: plain memory, taken once, touched only as far as it is used.

pub mod ids;
pub mod index;
pub mod store;
pub mod histories;
pub mod calls;
pub mod progress;
pub mod list;
pub mod timers;
pub mod starts;
pub mod functions;
pub mod holders;
pub mod ended;
