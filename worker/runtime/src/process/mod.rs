//! Process functions.

pub mod api;
pub mod pool;
