//! Who holds leases, and since when nothing was heard of them.

use super::calls::Calls;
use super::list::{BY_PLACE, List};
use crate::words::{CallRef, HolderRef};
use call::Instant;
use call::history::WORKER_BYTES_MAX;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
struct Holder {
    /// [`Instant::NEVER`] while no core has this number, or after its silence was told.
    heard: Instant,
    leases: List<BY_PLACE>,
    /// What it is called, for histories; and how many bytes of that are in use.
    name: [u8; WORKER_BYTES_MAX],
    name_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Holders {
    holders: Vec<Holder>,
    lease: Duration,
    /// No holder can be silent for too long before this.
    check_at: Instant,
}

impl Holders {
    /// Room for so many, each of which may be silent for `lease`.
    pub fn new(cores_max: usize, lease: Duration) -> Holders {
        let none =
            Holder { heard: Instant::NEVER, leases: List::EMPTY, name: [0; WORKER_BYTES_MAX], name_bytes: 0 };
        Holders { holders: vec![none; cores_max], lease, check_at: Instant::NEVER }
    }

    /// A holder is called so from now on; of a long name the beginning is kept.
    pub fn call(&mut self, at: HolderRef, name: &str) {
        let name = &name[..name.floor_char_boundary(WORKER_BYTES_MAX)];
        let holder = &mut self.holders[usize::from(at.0)];
        holder.name[..name.len()].copy_from_slice(name.as_bytes());
        holder.name_bytes = name.len();
    }

    /// What a holder is called.
    pub fn name(&self, at: HolderRef) -> &str {
        let holder = &self.holders[usize::from(at.0)];
        std::str::from_utf8(&holder.name[..holder.name_bytes]).expect("cut between characters")
    }

    /// Something was heard of a holder.
    pub fn hear(&mut self, at: HolderRef, now: Instant) {
        self.holders[usize::from(at.0)].heard = now;
        self.check_at = self.check_at.min(now + self.lease);
    }

    /// When [`Holders::next_silent`] has something to say, at the earliest.
    pub fn check_at(&self) -> Instant {
        self.check_at
    }

    /// A holder that has been silent for too long; each is named once.
    pub fn next_silent(&mut self, now: Instant) -> Option<HolderRef> {
        if now < self.check_at {
            return None;
        }
        self.check_at = Instant::NEVER;
        for (at, holder) in self.holders.iter_mut().enumerate() {
            let until = holder.heard + self.lease;
            if until <= now {
                holder.heard = Instant::NEVER;
                self.check_at = now;
                return Some(HolderRef(at as u16));
            }
            self.check_at = self.check_at.min(until);
        }
        None
    }

    /// Nothing is expected of a holder any more.
    pub fn forget(&mut self, at: HolderRef) {
        self.holders[usize::from(at.0)].heard = Instant::NEVER;
    }

    /// The list of a holder's leases.
    pub fn leases(&mut self, at: HolderRef) -> &mut List<BY_PLACE> {
        &mut self.holders[usize::from(at.0)].leases
    }

    /// The leases of all holders.
    pub fn iter<'a>(&'a self, calls: &'a Calls) -> impl Iterator<Item = (HolderRef, CallRef)> + 'a {
        let numbered = self.holders.iter().enumerate();
        numbered
            .flat_map(|(at, holder)| holder.leases.iter(calls).map(move |call| (HolderRef(at as u16), call)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_holder_is_named_once() {
        let mut holders = Holders::new(4, Duration::from_nanos(10));
        holders.hear(HolderRef(1), Instant(0));
        holders.hear(HolderRef(2), Instant(5));
        assert_eq!(holders.next_silent(Instant(9)), None);
        assert_eq!(
            (holders.next_silent(Instant(10)), holders.next_silent(Instant(10))),
            (Some(HolderRef(1)), None)
        );
        assert_eq!(holders.check_at(), Instant(15));
        holders.hear(HolderRef(2), Instant(12));
        assert_eq!(holders.next_silent(Instant(21)), None);
        assert_eq!(
            (holders.next_silent(Instant(22)), holders.next_silent(Instant(22))),
            (Some(HolderRef(2)), None)
        );
        assert_eq!(holders.check_at(), Instant::NEVER);
    }
}
