//! Replays a trace against a node and keeps a ledger of its own.
//!
//! Nothing here asks the node how many calls it ran: [`Ledger`] holds what this process sent and what it heard, call by
//! call, so that its totals are independent evidence.

mod engine;
mod ledger;
mod picture;

/// The wasm file of a function that does what the arguments of a replayed call say: see `busy.wat`.
pub fn busy() -> Vec<u8> {
    wat::parse_str(include_str!("busy.wat")).expect("it is a part of this program")
}

pub use engine::{Options, Progress, run};
pub use ledger::{Entry, Fate, Ledger, Summary, verdict_name};
pub use picture::picture;
