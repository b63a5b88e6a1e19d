//! The controllers' process and a node that holds what it is told: observations and conclusions are lost, the process
//! is killed, functions come, are called and go.

use call::admin::{Conclusions, Observation, ObservedCore, ObservedFunction, Versioned, Wanted};
use call::limits::Limits;
use control::steering::{Settings, Steering};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// A node as controllers see it: what happens to it comes from outside, and it takes what is newer.
struct Node {
    at_ns: u64,
    cores: Vec<ObservedCore>,
    /// Each with when it changed last: after the look that was at that instant.
    functions: BTreeMap<u32, (ObservedFunction, u64)>,
    opportunistic: Versioned<u32>,
    wanted: Versioned<Wanted>,
    warmed: Vec<u32>,
}

fn take<T>(held: &mut Versioned<T>, said: Versioned<T>) -> bool {
    let is_newer = said.version > held.version;
    if is_newer {
        *held = said;
    }
    is_newer
}

impl Node {
    fn new(cores: u16) -> Node {
        Node {
            at_ns: 1,
            cores: (0..cores).map(|core| ObservedCore { core, ..ObservedCore::default() }).collect(),
            functions: BTreeMap::new(),
            opportunistic: Versioned::default(),
            wanted: Versioned::default(),
            warmed: Vec::new(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.at_ns += call::time::nanos(time);
    }

    /// A function is called: its executions begin and end at once, and take so much CPU.
    fn call(&mut self, function: u32, count: u64, cpu: Duration) {
        let fresh =
            || (ObservedFunction { function, memory_bytes: 1 << 20, ..ObservedFunction::default() }, 0);
        let (of, changed) = self.functions.entry(function).or_insert_with(fresh);
        (of.gone, of.begun, of.ended) = (false, of.begun + count, of.ended + count);
        of.cpu_ns += count * call::time::nanos(cpu);
        *changed = self.at_ns + 1;
    }

    fn change(&mut self, function: u32, change: impl FnOnce(&mut ObservedFunction)) {
        if let Some((of, changed)) = self.functions.get_mut(&function) {
            change(of);
            *changed = self.at_ns + 1;
        }
    }

    fn observed(&self, after_ns: u64) -> Observation {
        let changed = self.functions.values().filter(|(_, changed)| *changed > after_ns);
        Observation {
            incarnation: 1,
            at_ns: self.at_ns,
            cores: self.cores.clone(),
            functions: changed.map(|(of, _)| of.clone()).collect(),
            opportunistic: self.opportunistic,
            wanted: self.wanted.clone(),
            ..Observation::default()
        }
    }

    fn conclude(&mut self, said: Conclusions) {
        for (core, group) in said.cores {
            take(&mut self.cores[usize::from(core)].group, group);
        }
        for (function, group) in said.groups {
            let (of, changed) = self.functions.get_mut(&function).expect("observed");
            assert!(!of.gone, "a group for a function that is gone");
            if take(&mut of.group, group) {
                *changed = self.at_ns + 1;
            }
        }
        if let Some(wanted) = said.wanted {
            take(&mut self.wanted, wanted);
        }
        if let Some(s) = said.opportunistic {
            take(&mut self.opportunistic, s);
        }
        self.warmed.extend(said.warm);
    }

    /// One look that arrives, and its conclusions, if these are not lost.
    fn look(&mut self, steering: &mut Steering, is_lost: bool) {
        self.pass(Duration::from_millis(500));
        let concluded = steering.observe(&self.observed(steering.after_ns()));
        if !is_lost {
            self.conclude(concluded);
        }
    }

    fn group(&self, function: u32) -> Option<u16> {
        self.functions[&function].0.group.value
    }
}

fn steering() -> Steering {
    let mut settings = Settings::default();
    settings.locality.workers_least = 1;
    settings.prewarm.seen_least = 3;
    settings.prewarm.released_after = Duration::from_secs(1);
    Steering::new(Limits::small(), settings)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_lost_in_the_end_the_node_holds_groups_and_owners_win(
        steps in proptest::collection::vec((0..6u8, 0..16u32, any::<bool>()), 0..60),
    ) {
        let (mut node, mut controllers) = (Node::new(4), steering());
        for (what, function, is_lost) in steps {
            match what {
                0 | 1 => node.call(function, 3, Duration::from_millis(1)),
                2 => node.change(function, |of| of.together = format!("owners {}", function % 2)),
                3 => node.change(function, |of| of.together = String::new()),
                4 => node.change(function, |of| *of = ObservedFunction { function, gone: true, ..ObservedFunction::default() }),
                _ => controllers = steering(),
            }
            node.look(&mut controllers, is_lost);
        }
        (0..2).for_each(|_| node.look(&mut controllers, false));
        for core in &node.cores {
            prop_assert!(core.group.value.is_some(), "{core:?} is in no group");
        }
        let mut places = BTreeMap::new();
        for (of, _) in node.functions.values().filter(|(of, _)| !of.gone) {
            let group = of.group.value;
            prop_assert!(group.is_some_and(|group| group < 4), "{of:?} is in no group");
            if !of.together.is_empty() {
                prop_assert_eq!(*places.entry(of.together.clone()).or_insert(group), group, "{:?} is apart", of);
            }
        }
    }
}

#[test]
fn controllers_that_start_again_move_nothing() {
    let (mut node, mut controllers) = (Node::new(4), steering());
    (0..8).for_each(|function| node.call(function, 1, Duration::from_millis(1)));
    (0..4).for_each(|_| node.look(&mut controllers, false));
    let groups = |node: &Node| (0..8).map(|function| node.group(function)).collect::<Vec<_>>();
    let (before, cores) = (groups(&node), node.cores.clone());
    let mut again = steering();
    (0..4).for_each(|_| node.look(&mut again, false));
    assert_eq!((groups(&node), &node.cores), (before, &cores));
    node.call(9, 1, Duration::from_millis(1));
    node.look(&mut again, false);
    assert!(node.group(9).is_some());
    assert!(node.functions[&9].0.group.version > node.functions[&0].0.group.version);
}

#[test]
fn a_call_is_foreseen_by_the_times_between_those_before() {
    let (mut node, mut controllers) = (Node::new(1), steering());
    let mut foreseen = 0;
    for _ in 0..6 {
        node.call(3, 1, Duration::from_millis(1));
        for look in 0..40 {
            node.look(&mut controllers, false);
            let warmed = std::mem::take(&mut node.warmed);
            assert!(warmed.is_empty() || (warmed == [3] && look > 24), "{warmed:?} at look {look}, of 40");
            foreseen += warmed.len();
        }
    }
    // What was called before the first look is not counted, and three times between calls are learned from.
    assert_eq!(foreseen, 2);
}

#[test]
fn cores_are_wanted_for_reserved_calls_and_not_for_those_that_can_wait() {
    let wanted = |opportunistic: bool| {
        let (mut node, mut controllers) = (Node::new(2), steering());
        for _ in 0..400 {
            // Five cores' work, of which two cores do what they can.
            node.call(0, 5, Duration::from_millis(500));
            node.change(0, |of| (of.opportunistic, of.waiting) = (opportunistic, 1000));
            node.cores.iter_mut().for_each(|core| core.cpu_ns += 500_000_000);
            node.look(&mut controllers, false);
        }
        node.wanted.value
    };
    let reserved = wanted(false);
    assert!(reserved.cores >= 6 && reserved.needed_millis >= 5000, "{reserved:?}");
    let waiting = wanted(true);
    assert_eq!((waiting.cores, waiting.reason.as_str(), waiting.needed_millis), (2, "least", 0));
}
