//! The two kills of the demo: a worker core and the control node, each by SIGKILL, in the middle of the traffic.

use super::platform::Platform;
use crate::replay::Progress;
use std::time::Duration;

/// Something that was killed.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Kill {
    /// `worker core` or `control node`.
    pub what: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since the replay began.
    pub at_s: f64,
}

/// The kills that are planned, and those that were done.
pub struct Faults {
    planned: Vec<(Duration, &'static str)>,
    done: Vec<Kill>,
}

impl Faults {
    /// A core after two fifths of the time, the node after two thirds.
    pub fn new(kills: bool, seconds: f64) -> Faults {
        let at = |share: f64| Duration::from_secs_f64(seconds * share);
        let planned = vec![(at(0.66), "control node"), (at(0.40), "worker core")];
        Faults { planned: if kills { planned } else { Vec::new() }, done: Vec::new() }
    }

    /// Does what is due. A victim that cannot be found is tried again at the next step.
    pub fn step(&mut self, platform: &Platform, progress: &Progress) {
        let Some(&(at, what)) = self.planned.last() else { return };
        if progress.elapsed < at {
            return;
        }
        let victim = if what == "worker core" { platform.a_core() } else { platform.control() };
        if let Some(pid) = victim.filter(|pid| super::platform::kill_now(*pid)) {
            self.planned.pop();
            self.done.push(Kill { what: what.into(), pid, at_s: progress.elapsed.as_secs_f64() });
        }
    }

    /// What was killed.
    pub fn done(&self) -> &[Kill] {
        &self.done
    }
}
