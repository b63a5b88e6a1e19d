//! Process functions.

pub mod api;
