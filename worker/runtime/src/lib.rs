//! What runs a call.
//!
//! A [`Runtime`] serves many calls at once on one thread, each in a slot. It runs a call for one slice at a
//! time; the core loop decides which slot is next. [`wasm`] is the real thing, [`scripted`] plays outcomes
//! for tests and simulation.

pub mod seam;
pub mod scripted;
pub mod wasm;
pub mod process;

#[cfg(test)]
mod testing;

pub use scripted::Scripted;
pub use seam::{Begin, Ended, Progress, Runtime, SlotId};
pub use wasm::{Options, WasmRuntime};
