//! Pre-warming: what controllers foresee of a function is passed on to the cores that would run its calls.
//!
//! Advice, off the path: a word that is lost costs a cold start.

use crate::catalog::header_about;
use crate::node::Node;
use call::admin::FORESIGHT;
use call::frame::Header;
use call::frame::{FrameBuf, Kind, append};
use call::function::RuntimeKind;
use driver::Driver;
use scheduler::{FunctionRef, GroupRef};

/// Cores that make a sandbox for one foreseen call, at most: any core of the function's group may get the call, and
/// a sandbox on each of many would take more memory than a cold start is worth.
const SANDBOXES_MAX: usize = 16;

impl<D: Driver> Node<D> {
    /// A call of a function is likely soon, or not: tells the cores that have its code and run it first. Tells whether
    /// any was told.
    pub(crate) fn foresee(&mut self, function: FunctionRef, likely: bool) -> bool {
        let Some(deployed) = self.catalog.get(function) else { return false };
        let group = self.grouping.in_force(function);
        let most = match deployed.spec.runtime {
            RuntimeKind::Process if likely => SANDBOXES_MAX,
            _ => usize::MAX,
        };
        let mut frame = FrameBuf::new();
        let header = Header { stamp: 0, level: likely.into(), ..header_about(Kind::Foresee, &deployed.spec) };
        append(&mut frame, &header, &[]);
        let told: Vec<_> = self
            .workers
            .cores()
            .filter(|(core, entry)| {
                let is_near = group == GroupRef::NONE || self.grouping.told(*core) == group;
                // Whoever may have it warm from earlier hears that it need not be.
                let is_concerned = !likely || is_near && deployed.ready.contains(&entry.host);
                let knows = entry.backends.iter().any(|(thing, _)| thing == FORESIGHT);
                entry.is_up && !entry.far && is_concerned && knows
            })
            .map(|(_, entry)| entry.session)
            .take(most)
            .collect();
        for session in &told {
            self.sessions.send(&mut self.driver, *session, &frame);
        }
        self.stats.foreseen += u64::from(likely && !told.is_empty());
        !told.is_empty()
    }
}
