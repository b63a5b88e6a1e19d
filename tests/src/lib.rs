//! Tests of the whole: structure, crash, end to end. Simulation, conformance and allocation are crates beside this
//! one, so that each builds without the others.

pub mod clients;
pub mod harness;
pub mod http;
pub mod ledger;
pub mod peers;
