//! What other platforms of this host left that were killed and never came back: pinned programs, which slow down every
//! context switch of the host, and empty groups.

use super::say;
use crate::cgroup::{Hierarchy, Leftovers, Verdict};
use bpf::LeftPins;

/// Removes what is certainly nobody's: no jailer holds the platform's groups or pins, and no process is in its groups, so
/// that nothing is left to enforce. What cannot be judged stays, and is named.
pub fn remove(own: &str) {
    // Before the groups, which a platform makes first: pins of one that starts meanwhile are not among them.
    let pinned = LeftPins::names();
    let mut groups = match Hierarchy::discover().leftovers(own) {
        Ok(groups) => groups,
        Err(error) => return say(format_args!("event=leftovers-not-looked-for reason=\"{error}\"")),
    };
    for name in pinned.iter().filter(|name| *name != own && !groups.contains_key(*name)) {
        // Its groups may be out of this process's sight.
        let remedy = format!("if nothing uses them: rm -r /sys/fs/bpf/millrace/{name}");
        say(format_args!("event=leftovers-kept platform={name} reason=\"pins without groups; {remedy}\""));
    }
    // Again, now that the groups are locked.
    let pinned = LeftPins::names();
    while let Some((name, verdict)) = groups.pop_first() {
        let removed = match verdict {
            Verdict::InUse => continue,
            Verdict::Unknown(why) => Err(why),
            Verdict::Left(left) => remove_one(&name, left, pinned.contains(&name)),
        };
        match removed {
            Ok(Some(count)) => say(format_args!("event=leftovers-removed platform={name} cgroups={count}")),
            Ok(None) => {}
            Err(why) => say(format_args!("event=leftovers-kept platform={name} reason=\"{why}\"")),
        }
    }
}

/// How many groups went; none: it is in use. The groups go last, and with them their locks, for which a jailer that
/// starts here waits: it meets either all of the old or nothing.
fn remove_one(name: &str, left: Leftovers, is_pinned: bool) -> Result<Option<usize>, String> {
    if is_pinned {
        match LeftPins::hold(name).map_err(|error| error.to_string())? {
            Some(pins) => pins.remove().map_err(|error| error.to_string())?,
            None => return Ok(None),
        }
    }
    left.remove().map(Some).map_err(|error| error.to_string())
}
