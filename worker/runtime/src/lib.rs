//! What runs a call.
//!
//! A [`Runtime`] serves many calls at once on one thread, each in a slot. It runs a call for one slice at a
//! time; the core loop decides which slot is next. [`wasm`] runs modules in the core itself, [`process`] ordinary
//! programs in sandboxes beside it, [`by_kind`] both; [`scripted`] plays outcomes for tests and simulation.

pub mod seam;
pub mod results;
pub mod scripted;
pub mod wasm;
pub mod process;
pub mod by_kind;

#[cfg(test)]
mod testing;

pub use by_kind::ByKind;
pub use process::ProcessRuntime;
pub use results::Room;
pub use scripted::Scripted;
pub use seam::{Begin, Ended, Progress, Runtime, SlotId};
pub use wasm::{Options, WasmRuntime};
