//! Whose turn it is: weighted round robin between the tenants of a level, and round robin between a tenant's functions.
//!
//! **Laws**: a tenant gives at most as many calls in its turn as its weight; then it goes behind all others of its
//! level. So between two turns of a tenant each other one gives at most its weight: with something to run at its level
//! it waits for a bounded number of calls, however many functions and calls the others have. Inside a tenant the same
//! holds between functions, one call each.

use crate::mask::{MASK_BITS, Mask};
use crate::policy::TenantRef;
use crate::rings::Rings;
use crate::words::FunctionRef;

/// The largest weight of a tenant: what others of its level may have to wait for.
pub const WEIGHT_MAX: u32 = 1000;

/// The functions that have a call to give, by level and tenant.
#[derive(Debug)]
pub struct Fairness {
    /// A ring of functions for each tenant at each level.
    functions: Rings,
    /// A ring per level of the tenants that have functions there: an item is the number of such a ring.
    tenants: Rings,
    /// Levels that have tenants.
    occupied: Mask,
    /// Per level: calls that the tenant whose turn it is may still give.
    left: [u32; MASK_BITS],
    weights: Vec<u32>,
}

impl Fairness {
    /// No function has a call. Every tenant has the weight 1.
    pub fn new(functions_max: usize, tenants_max: usize) -> Fairness {
        assert!(tenants_max > 0, "a function has a tenant, the first if nothing is said");
        Fairness {
            functions: Rings::new(functions_max, tenants_max * MASK_BITS),
            tenants: Rings::new(tenants_max * MASK_BITS, MASK_BITS),
            occupied: Mask::EMPTY,
            left: [0; MASK_BITS],
            weights: vec![1; tenants_max],
        }
    }

    /// Another weight, from the tenant's next turn on.
    ///
    /// # Panics
    /// If it is not between 1 and [`WEIGHT_MAX`].
    pub fn set_weight(&mut self, tenant: TenantRef, weight: u32) {
        assert!((1..=WEIGHT_MAX).contains(&weight), "a weight of {weight}");
        self.weights[usize::from(tenant.0)] = weight;
    }

    /// How many calls a tenant may give in its turn.
    pub fn weight(&self, tenant: TenantRef) -> u32 {
        self.weights[usize::from(tenant.0)]
    }

    /// A function has calls of this level: it goes behind all others of its tenant there.
    pub fn push_back(&mut self, level: u8, tenant: TenantRef, function: FunctionRef) {
        let ring = ring(level, tenant);
        if self.functions.is_empty(ring) {
            if !self.occupied.has(usize::from(level)) {
                self.occupied.set(usize::from(level), true);
                self.left[usize::from(level)] = self.weight(tenant);
            }
            self.tenants.push_back(usize::from(level), ring as u32);
        }
        self.functions.push_back(ring, function.0);
    }

    /// A function leaves the level. With its last function the tenant's turn is over.
    pub fn remove(&mut self, level: u8, tenant: TenantRef, function: FunctionRef) {
        let ring = ring(level, tenant);
        self.functions.remove(function.0);
        if self.functions.is_empty(ring) {
            let had_the_turn = self.tenants.front(usize::from(level)) == Some(ring as u32);
            self.tenants.remove(ring as u32);
            if self.tenants.is_empty(usize::from(level)) {
                self.occupied.set(usize::from(level), false);
            } else if had_the_turn {
                self.begin_turn(level);
            }
        }
    }

    /// The function whose turn it is gave a call: it goes behind the others of its tenant, if it `stays` in the level,
    /// and its tenant, if it has given enough, behind the others of the level.
    pub fn served(&mut self, level: u8, tenant: TenantRef, stays: bool) {
        debug_assert_eq!(self.tenants.front(usize::from(level)), Some(ring(level, tenant) as u32));
        if stays {
            self.functions.rotate(ring(level, tenant));
        }
        let left = &mut self.left[usize::from(level)];
        *left -= 1;
        if *left == 0 {
            self.tenants.rotate(usize::from(level));
            self.begin_turn(level);
        }
    }

    fn begin_turn(&mut self, level: u8) {
        let next = self.tenants.front(usize::from(level)).expect("a level with a turn has tenants");
        self.left[usize::from(level)] = self.weights[next as usize / MASK_BITS];
    }

    /// The function whose turn it is, of the highest level that has any.
    pub fn best(&self) -> Option<(u8, FunctionRef)> {
        let level = self.occupied.highest()?;
        let tenant = self.tenants.front(level).expect("an occupied level has tenants");
        let function =
            self.functions.front(tenant as usize).expect("a tenant in a level has functions there");
        Some((level as u8, FunctionRef(function)))
    }

    /// The functions whose turn comes next at the highest level, if nothing changes: how many were found. A tenant that has
    /// fewer than its weight is counted once round.
    pub fn coming(&self, into: &mut [FunctionRef]) -> usize {
        let Some(level) = self.occupied.highest() else { return 0 };
        let first = self.left[level] as usize;
        let of = |(n, tenant): (usize, u32)| {
            let most = if n == 0 { first } else { self.weights[tenant as usize / MASK_BITS] as usize };
            self.functions.iter(tenant as usize).take(most)
        };
        let coming = self.tenants.iter(level).enumerate().flat_map(of);
        into.iter_mut().zip(coming).map(|(slot, function)| *slot = FunctionRef(function)).count()
    }

    /// Whether the tenant stands in a level.
    pub fn stands(&self, level: u8, tenant: TenantRef) -> bool {
        self.tenants.is_linked(ring(level, tenant) as u32)
    }

    /// Panics unless tenants that stand in a level have functions there, and a turn is not longer than the weight.
    pub fn check(&self) {
        for level in 0..MASK_BITS {
            assert_eq!(self.occupied.has(level), !self.tenants.is_empty(level), "level {level}");
        }
        for level in self.occupied.iter() {
            assert!((1..=WEIGHT_MAX).contains(&self.left[level]), "level {level}");
            for ring in self.tenants.iter(level) {
                assert_eq!(ring as usize % MASK_BITS, level, "a tenant at another level");
                assert!(
                    !self.functions.is_empty(ring as usize),
                    "a tenant without functions at level {level}"
                );
            }
        }
    }
}

/// The ring of a tenant's functions at a level.
fn ring(level: u8, tenant: TenantRef) -> usize {
    usize::from(tenant.0) * MASK_BITS + usize::from(level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TENANTS: u16 = 4;
    const LEVEL: u8 = 9;

    /// Who is served when functions of `counts[t]` of each tenant always have calls.
    fn served(counts: &[u32], weights: &[u32], calls: usize) -> Vec<(TenantRef, FunctionRef)> {
        let mut fairness = Fairness::new(64, usize::from(TENANTS));
        let mut owner = Vec::new();
        for (tenant, (&count, &weight)) in counts.iter().zip(weights).enumerate() {
            let tenant = TenantRef(tenant as u16);
            fairness.set_weight(tenant, weight);
            for _ in 0..count {
                fairness.push_back(LEVEL, tenant, FunctionRef(owner.len() as u32));
                owner.push(tenant);
            }
        }
        let one = |_| {
            let (level, function) = fairness.best().expect("all have calls");
            let tenant = owner[function.0 as usize];
            fairness.served(level, tenant, true);
            fairness.check();
            (tenant, function)
        };
        (0..calls).map(one).collect()
    }

    /// In every round of all weights each tenant gives its weight, and its functions differ by one at most.
    fn is_fair(order: &[(TenantRef, FunctionRef)], counts: &[u32], weights: &[u32]) {
        let there = |tenant: &usize| counts[*tenant] > 0;
        let round: u32 = (0..counts.len()).filter(there).map(|tenant| weights[tenant]).sum();
        for part in order.chunks_exact(round as usize) {
            for tenant in (0..counts.len()).filter(there) {
                let given = part.iter().filter(|(of, _)| usize::from(of.0) == tenant).count();
                assert_eq!(given, weights[tenant] as usize, "unfair to tenant {tenant}: {part:?}");
            }
        }
        for tenant in (0..counts.len()).filter(there) {
            let of = |wanted: u32| order.iter().filter(|(_, function)| function.0 == wanted).count();
            let first: u32 = counts[..tenant].iter().sum();
            let calls: Vec<usize> = (first..first + counts[tenant]).map(of).collect();
            let (most, fewest) = (calls.iter().max(), calls.iter().min());
            assert!(most.unwrap() - fewest.unwrap() <= 1, "unfair inside tenant {tenant}: {calls:?}");
        }
    }

    proptest! {
        #[test]
        fn tenants_share_by_weight_however_many_functions_they_have(
            counts in proptest::collection::vec(0..6u32, TENANTS as usize),
            weights in proptest::collection::vec(1..5u32, TENANTS as usize),
        ) {
            prop_assume!(counts.iter().any(|&count| count > 0));
            is_fair(&served(&counts, &weights, 60), &counts, &weights);
        }

        #[test]
        fn whoever_comes_and_goes_the_rings_agree(
            steps in proptest::collection::vec((0..12u32, 0..3u8, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let mut fairness = Fairness::new(12, usize::from(TENANTS));
            let mut stands = [None; 12];
            for (function, level, serves, stays) in steps {
                let of = |function: FunctionRef| TenantRef(function.0 as u16 % TENANTS);
                match fairness.best().filter(|_| serves) {
                    Some((level, function)) => {
                        fairness.served(level, of(function), stays);
                        if !stays {
                            fairness.remove(level, of(function), function);
                            stands[function.0 as usize] = None;
                        }
                    }
                    None => {
                        let function = FunctionRef(function);
                        match stands[function.0 as usize].take() {
                            Some(level) => fairness.remove(level, of(function), function),
                            None => {
                                fairness.push_back(level, of(function), function);
                                stands[function.0 as usize] = Some(level);
                            }
                        }
                    }
                }
                fairness.check();
                for (function, level) in stands.iter().enumerate().filter_map(|(f, l)| Some((f as u16, (*l)?))) {
                    prop_assert!(fairness.stands(level, TenantRef(function % TENANTS)));
                }
                prop_assert_eq!(fairness.best().map(|(level, _)| level), stands.iter().flatten().max().copied());
            }
        }
    }

    #[test]
    #[should_panic(expected = "unfair to tenant 0")]
    fn canary_weights() {
        is_fair(&served(&[1, 1, 0, 0], &[3, 1, 1, 1], 60), &[1, 1, 0, 0], &[2, 2, 1, 1]);
    }
}
