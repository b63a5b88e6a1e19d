//! All checkers, in one place that every simulated process can reach. The first violation ends the run.

use crate::bug::Bug;
use crate::leases::{Leases, Promises};
use crate::ledger::Ledger;
use crate::rot::Rot;
use std::cell::RefCell;
use std::rc::Rc;

/// What is known of the run.
pub struct Witness {
    /// What the clients know.
    pub ledger: Ledger,
    /// What passed the node's door.
    pub leases: Leases,
    /// What rotted on the node's disk, and what the node said of it.
    pub rot: Rot,
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
        let rot = Rot::default();
        Rc::new(RefCell::new(Witness { ledger, leases, rot, bug, recycled: 0, violation: None, verbose }))
    }

    /// The node said that records of these calls are lost.
    pub fn told_lost(&mut self, calls: impl IntoIterator<Item = call::CallId>) {
        for call in calls {
            self.ledger.told_lost(call);
            self.leases.told_lost(call);
        }
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
