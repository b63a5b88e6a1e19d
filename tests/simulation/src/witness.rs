//! All checkers, in one place that every simulated process can reach. The first violation ends the run.

use crate::bug::Bug;
use crate::leases::{Leases, Promises};
use crate::ledger::Ledger;
use std::cell::RefCell;
use std::rc::Rc;

/// What is known of the run.
pub struct Witness {
    /// What the clients know.
    pub ledger: Ledger,
    /// What passed the node's door.
    pub leases: Leases,
    /// The bug of this run.
    pub bug: Bug,
    /// Log segments that the node used again.
    pub recycled: u64,
    violation: Option<String>,
    /// Prints what happens.
    verbose: bool,
}

/// A hand on the witness.
pub type Shared = Rc<RefCell<Witness>>;

impl Witness {
    /// Nothing has been seen.
    pub fn new(promises: Promises, bug: Bug, verbose: bool) -> Shared {
        let (ledger, leases) = (Ledger::default(), Leases::new(promises));
        Rc::new(RefCell::new(Witness { ledger, leases, bug, recycled: 0, violation: None, verbose }))
    }

    /// Keeps the first violation.
    pub fn check(&mut self, result: Result<(), String>) {
        if let Err(what) = result {
            self.violation.get_or_insert(what);
        }
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        self.violation.clone()
    }

    /// Prints a line if the run is to be followed.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            println!("{}", line());
        }
    }
}
