//! The scheduler as a whole.

use crate::words::{CoreRef, Depth, Effects, FunctionRef, Input};
use call::limits::Limits;

/// Decides which call runs next and where. See the crate's documentation for the laws it keeps.
#[derive(Debug)]
pub struct Scheduler {}

impl Scheduler {
    /// A scheduler without functions and cores. The only allocation: about 40 bytes per call of
    /// `limits.calls_max` and 150 bytes per function of `limits.functions_max`.
    ///
    /// # Panics
    /// If `limits.cores_max` is above [`crate::CORES_MAX`].
    pub fn new(_limits: &Limits) -> Scheduler {
        Scheduler {}
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, _input: Input, _out: &mut Effects) {}

    /// How many calls of a function are where.
    pub fn depth(&self, _function: FunctionRef) -> Depth {
        Depth::default()
    }

    /// Credits that a core has left.
    pub fn credits(&self, _core: CoreRef) -> u64 {
        0
    }

    /// Calls in the RunQ.
    pub fn run_q_len(&self) -> usize {
        0
    }

    /// Panics if an invariant does not hold. For tests: it walks over everything.
    pub fn check(&self) {}
}
