//! Who gets a CPU first: sandboxes that answer are told apart from those that compute. Pure.
//!
//! The kernel shares a CPU by weight, and lets one that wakes up run at once only if it has had less than its share up to
//! that very moment; otherwise at the next tick of the clock, up to 4 ms later. A function that answers in 0.1 ms and then
//! waits has a small share over any longer time, and has often had too much over the last one. Beside a neighbour that
//! computes all the time, with the same weight, its p99 is then the clock's tick. So those that compute stand back.

/// A sandbox that used this much of one CPU while it was watched computes, per mille.
const COMPUTES: u64 = 500;
/// And one below this does no more, unless it computes by the next rule. In between it stays what it was.
const ANSWERS: u64 = 250;
/// Where it has to share the CPU with many it computes if it used this much of one, per mille,
const COMPUTES_BESIDE_OTHERS: u64 = 30;
/// and ran so long from one wait to the next, ns: more than ticks of the clock, and than an answer should take that others
/// wait for.
const RUN_NS: u64 = 5_000_000;

/// What a sandbox had of CPUs so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Had {
    /// CPU time, ns.
    pub cpu_ns: u64,
    /// How often one of its threads waited for something; none: nothing counts that.
    pub waits: Option<u64>,
}

/// How a sandbox uses CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turns {
    /// It waits for something most of the time.
    Answers,
    /// It runs as long as it is let.
    Computes,
}

/// What is known of one sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Habit {
    /// When it was last looked at; none: never.
    had: Option<Had>,
    turns: Turns,
}

impl Habit {
    /// Of a new sandbox.
    pub const NEW: Habit = Habit { had: None, turns: Turns::Answers };

    /// As at the last look.
    pub fn turns(&self) -> Turns {
        self.turns
    }

    /// Looked at with this since it was made, so long after the last time: how it is to be treated.
    pub fn step(&mut self, had: Had, elapsed_ns: u64) -> Turns {
        let before = self.had.replace(had);
        let Some(before) = before.filter(|_| elapsed_ns > 0) else { return self.turns };
        let used_ns = had.cpu_ns.saturating_sub(before.cpu_ns);
        let is_part =
            |permille: u64| u128::from(used_ns) * 1000 >= u128::from(elapsed_ns) * u128::from(permille);
        let waits = had.waits.zip(before.waits).map(|(now, before)| now.saturating_sub(before));
        // What it ran before its first wait and after its last one is one run more.
        let runs_long = waits.is_some_and(|waits| used_ns / waits.saturating_add(1) >= RUN_NS);
        if is_part(COMPUTES) || runs_long && is_part(COMPUTES_BESIDE_OTHERS) {
            self.turns = Turns::Computes;
        } else if !is_part(ANSWERS) {
            self.turns = Turns::Answers;
        }
        self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    /// Between two looks.
    const LOOK: u64 = 100 * MS;

    /// How one is treated that has had so much, ms, and has waited so often, at each look.
    fn treated(looks: &[(u64, Option<u64>)]) -> Vec<Turns> {
        let mut habit = Habit::NEW;
        looks.iter().map(|(ms, waits)| habit.step(Had { cpu_ns: ms * MS, waits: *waits }, LOOK)).collect()
    }

    #[test]
    fn one_that_computes_stands_back_until_it_waits_again() {
        use Turns::{Answers, Computes};
        // Up to the first look it was being made.
        let looks = [900, 930, 1030, 1060, 1084, 1124, 1324, 1324].map(|ms| (ms, None));
        let turns = [Answers, Answers, Computes, Computes, Answers, Answers, Computes, Answers];
        assert_eq!(treated(&looks), turns);
    }

    #[test]
    fn one_that_computes_is_known_by_its_long_runs_where_it_gets_little() {
        use Turns::{Answers, Computes};
        // A tenth of a CPU each time: never waiting, waiting twice, waiting for each of a hundred calls, hardly running.
        let looks = [(0, 0), (10, 0), (20, 2), (30, 102), (40, 103), (42, 103)].map(|(ms, n)| (ms, Some(n)));
        assert_eq!(treated(&looks), [Answers, Computes, Answers, Answers, Computes, Answers]);
        // Half a CPU is much, however often it waits.
        assert_eq!(treated(&[(0, Some(0)), (50, Some(9000))]), [Answers, Computes]);
    }

    proptest! {
        /// Whatever the numbers, and none of them overflows: who used half of a CPU computes, who used nothing does not, and
        /// between the borders it stays what it was.
        #[test]
        fn the_border_has_a_width(
            looks in prop::collection::vec((any::<u64>(), any::<Option<u64>>(), any::<u64>()), 1..40),
        ) {
            let (mut habit, mut cpu_ns) = (Habit::NEW, 0u64);
            for (more, waits, elapsed) in looks {
                let before = habit;
                let next = cpu_ns.saturating_add(more);
                let turns = habit.step(Had { cpu_ns: next, waits }, elapsed);
                let used = u128::from(next - cpu_ns) * 1000;
                let of = |permille: u64| u128::from(elapsed) * u128::from(permille);
                match before.had {
                    Some(_) if elapsed > 0 && used >= of(COMPUTES) => prop_assert_eq!(turns, Turns::Computes),
                    Some(_) if elapsed > 0 && used == 0 => prop_assert_eq!(turns, Turns::Answers),
                    Some(_) if elapsed > 0 && used >= of(ANSWERS) && turns != before.turns => {
                        prop_assert_eq!(turns, Turns::Computes)
                    }
                    None => prop_assert_eq!(turns, before.turns),
                    _ => {}
                }
                cpu_ns = next;
            }
        }
    }
}
