//! Locality groups: which of the cores that are ready for a function run it.
//!
//! **Law**: a call of a function of a group runs on a core of that group or of none, as long as one of them is open and
//! ready for the function; otherwise on any that is ready. A group saves memory; it is no reason to wait for ever.

use crate::mask::{MASK_BITS, Mask};
use crate::policy::GroupRef;
use crate::words::CoreRef;

/// Locality groups of one scheduler, [`GroupRef::NONE`] included: each has a core of its own.
pub const GROUPS_MAX: usize = 256;

/// The cores of each group.
#[derive(Debug)]
pub struct Locality {
    /// Per core: its group.
    groups: Vec<GroupRef>,
    /// Per group: its cores.
    cores: Vec<Mask>,
}

impl Locality {
    /// All cores are in no group.
    pub fn new(cores_max: usize) -> Locality {
        assert!(cores_max <= MASK_BITS, "cores fit a mask");
        let mut cores = vec![Mask::EMPTY; GROUPS_MAX];
        (0..cores_max).for_each(|core| cores[0].set(core, true));
        Locality { groups: vec![GroupRef::NONE; cores_max], cores }
    }

    /// Moves a core.
    pub fn set(&mut self, core: CoreRef, group: GroupRef) {
        let before = std::mem::replace(&mut self.groups[usize::from(core.0)], group);
        self.cores[usize::from(before.0)].set(usize::from(core.0), false);
        self.cores[usize::from(group.0)].set(usize::from(core.0), true);
    }

    /// The group of a core.
    pub fn group(&self, core: CoreRef) -> GroupRef {
        self.groups[usize::from(core.0)]
    }

    /// Of the cores that are ready for a function of `group`, those that run it.
    pub fn within(&self, group: GroupRef, ready: Mask) -> Mask {
        if group == GroupRef::NONE {
            return ready;
        }
        let own = ready & (self.cores[usize::from(group.0)] | self.cores[0]);
        if own.is_empty() { ready } else { own }
    }

    /// Panics unless each core is in one group.
    pub fn check(&self) {
        for (core, group) in self.groups.iter().enumerate() {
            let cores = self.cores[usize::from(group.0)];
            let members = self.groups.iter().filter(|of| *of == group).count();
            assert!(cores.has(core) && cores.count() as usize == members, "members of {group:?}: {cores:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_function_stays_in_its_group_while_the_group_can_run_it(
            moves in proptest::collection::vec((0..8u16, 0..4u16), 0..20),
            ready in proptest::collection::vec(any::<bool>(), 8),
            group in 0..4u16,
        ) {
            let mut locality = Locality::new(8);
            for (core, group) in moves {
                locality.set(CoreRef(core), GroupRef(group));
                locality.check();
            }
            let mut mask = Mask::EMPTY;
            ready.iter().enumerate().for_each(|(core, ready)| mask.set(core, *ready));
            let given = locality.within(GroupRef(group), mask);
            let fits = |core: &usize| {
                let of = locality.group(CoreRef(*core as u16));
                group == 0 || of == GroupRef(group) || of == GroupRef::NONE
            };
            let own: Vec<usize> = mask.iter().filter(fits).collect();
            let expected = if own.is_empty() { mask.iter().collect() } else { own };
            prop_assert_eq!(given.iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    #[should_panic(expected = "members of GroupRef(2)")]
    fn canary_two_groups() {
        let mut locality = Locality::new(8);
        locality.set(CoreRef(1), GroupRef(2));
        locality.cores[2].set(3, true);
        locality.check();
    }
}
