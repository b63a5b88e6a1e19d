//! The rules one by one, and the invariants under any sequence of events.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const F: FunctionId = FunctionId(1);
const G: FunctionId = FunctionId(2);
const BOUNDS: Bounds =
    Bounds { concurrent: 1, sandboxes: 8, idle: Duration::from_secs(60), init: Duration::from_secs(10) };

fn ms(time: u64) -> Instant {
    Instant(time * 1_000_000)
}

fn slot(number: u32) -> SlotId {
    SlotId(number)
}

fn actions(pool: &mut Pool) -> Vec<Action> {
    std::iter::from_fn(|| pool.action()).collect()
}

/// The sandboxes that are to be made.
fn made(pool: &mut Pool) -> Vec<SandboxId> {
    let one = |action| match action {
        Action::Make { sandbox, .. } => sandbox,
        other => panic!("{other:?}"),
    };
    actions(pool).into_iter().map(one).collect()
}

fn pool(bounds: Bounds) -> Pool {
    let mut pool = Pool::new(8, 64);
    pool.publish(F, bounds);
    pool.publish(G, bounds);
    pool
}

/// A sandbox of F that waits for a call.
fn warm(pool: &mut Pool, at: Instant) -> SandboxId {
    assert_eq!(pool.arrive(slot(63), F, at), Arrived::Queued);
    let sandbox = made(pool)[0];
    assert_eq!(pool.seat(sandbox, at), Some(slot(63)));
    pool.done(slot(63), at);
    assert_eq!(pool.seat(sandbox, at), None);
    sandbox
}

#[test]
fn a_call_makes_a_sandbox_which_is_used_again() {
    let mut pool = pool(BOUNDS);
    let sandbox = warm(&mut pool, ms(0));
    assert_eq!(pool.arrive(slot(1), F, ms(1)), Arrived::Given(sandbox));
    assert_eq!(pool.done(slot(1), ms(2)), sandbox);
    assert_eq!(pool.seat(sandbox, ms(2)), None);
    assert_eq!(actions(&mut pool), []);
    pool.check();
}

#[test]
fn a_call_that_was_foreseen_finds_a_sandbox_and_one_that_is_not_likely_finds_none() {
    let mut pool = pool(BOUNDS);
    pool.expect(F, ms(0));
    pool.expect(F, ms(1));
    let sandbox = made(&mut pool)[..].try_into().map(|[only]: [SandboxId; 1]| only).expect("one");
    assert_eq!(pool.seat(sandbox, ms(9)), None);
    assert_eq!(pool.arrive(slot(1), F, ms(10)), Arrived::Given(sandbox));
    pool.release(F);
    assert_eq!(actions(&mut pool), [], "it is not idle");
    pool.done(slot(1), ms(20));
    pool.seat(sandbox, ms(20));
    pool.release(F);
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox }]);
    pool.expect(FunctionId(99), ms(21));
    // One that could not begin is not tried before its time.
    pool.expect(G, ms(30));
    let other = made(&mut pool)[0];
    pool.failed(other, Status::Init, "no module", ms(31));
    pool.gone(other, Status::Killed, "", ms(31));
    actions(&mut pool);
    pool.expect(G, ms(32));
    assert_eq!(actions(&mut pool), []);
    pool.expect(G, ms(131));
    assert_eq!(made(&mut pool).len(), 1);
    pool.check();
}

#[test]
fn a_queue_that_does_not_get_shorter_doubles_the_sandboxes() {
    let mut pool = pool(BOUNDS);
    for number in 0..20 {
        pool.arrive(slot(number), F, ms(0));
    }
    let (mut now, mut steps) = (0, Vec::new());
    for _ in 0..5 {
        steps.push(made(&mut pool).len());
        now += 5;
        pool.tick(ms(now));
    }
    assert_eq!(steps, [1, 1, 2, 4, 0], "up to the bound of 8");
    pool.check();
}

#[test]
fn a_queue_that_a_new_sandbox_would_not_help_makes_none() {
    let mut pool = pool(BOUNDS);
    pool.arrive(slot(1), F, ms(0));
    let sandbox = made(&mut pool)[0];
    // It took 400 ms to come.
    assert_eq!(pool.seat(sandbox, ms(400)), Some(slot(1)));
    pool.arrive(slot(2), F, ms(500));
    pool.tick(ms(899));
    assert_eq!(made(&mut pool), []);
    pool.tick(ms(900));
    assert_eq!(made(&mut pool).len(), 1);
}

#[test]
fn a_sandbox_that_is_about_to_ask_is_waited_for_but_not_for_ever() {
    let mut pool = pool(BOUNDS);
    let sandbox = warm(&mut pool, ms(0));
    assert_eq!(pool.arrive(slot(1), F, ms(1)), Arrived::Given(sandbox));
    pool.done(slot(1), ms(2));
    pool.arrive(slot(2), F, ms(2));
    pool.tick(ms(500));
    assert_eq!(made(&mut pool), []);
    pool.tick(ms(1100));
    assert_eq!(made(&mut pool).len(), 1);
    pool.check();
}

#[test]
fn the_sandbox_used_last_is_used_next_and_the_others_go() {
    let mut pool = pool(BOUNDS);
    for number in 0..2 {
        pool.arrive(slot(number), F, ms(0));
    }
    pool.tick(ms(5));
    let [a, b] = made(&mut pool)[..] else { panic!("two") };
    assert_eq!((pool.seat(a, ms(6)), pool.seat(b, ms(6))), (Some(slot(0)), Some(slot(1))));
    for (number, sandbox) in [(0, a), (1, b)] {
        pool.done(slot(number), ms(7));
        pool.seat(sandbox, ms(7));
    }
    for turn in 0..100 {
        let now = ms(10 + turn * 1000);
        assert_eq!(pool.arrive(slot(3), F, now), Arrived::Given(b));
        pool.done(slot(3), now);
        pool.seat(b, now);
        pool.tick(now);
    }
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox: a }]);
    pool.check();
}

#[test]
fn a_function_that_cannot_begin_fails_its_calls_and_is_tried_ever_later() {
    let mut pool = pool(BOUNDS);
    pool.arrive(slot(1), F, ms(0));
    let sandbox = made(&mut pool)[0];
    pool.failed(sandbox, Status::Init, "no module", ms(10));
    let fail = |slot| Action::Fail { slot, status: Status::Init, text: "no module".into() };
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox }, fail(slot(1))]);
    assert_eq!(pool.arrive(slot(2), F, ms(109)), Arrived::Refused(Status::Init, "no module".into()));
    pool.gone(sandbox, Status::Killed, "", ms(109));
    assert_eq!(pool.arrive(slot(2), F, ms(110)), Arrived::Queued);
    let sandbox = made(&mut pool)[0];
    pool.gone(sandbox, Status::Init, "again", ms(111));
    assert_eq!(actions(&mut pool).len(), 1);
    assert!(matches!(pool.arrive(slot(3), F, ms(310)), Arrived::Refused(..)));
    assert_eq!(pool.arrive(slot(3), F, ms(311)), Arrived::Queued);
    let sandbox = made(&mut pool)[0];
    assert_eq!(pool.seat(sandbox, ms(312)), Some(slot(3)));
    pool.gone(sandbox, Status::Killed, "signal 9", ms(313));
    assert_eq!(pool.arrive(slot(4), F, ms(313)), Arrived::Queued, "it began once: no pause");
    pool.check();
}

#[test]
fn init_takes_as_long_as_it_may() {
    let mut pool = pool(BOUNDS);
    pool.arrive(slot(1), F, ms(0));
    let sandbox = made(&mut pool)[0];
    while pool.alarm() < ms(10_000) {
        let now = pool.alarm();
        pool.tick(now);
        assert_eq!(actions(&mut pool), []);
    }
    pool.tick(ms(10_000));
    let all = actions(&mut pool);
    assert_eq!(all[0], Action::Stop { sandbox });
    assert!(
        matches!(&all[1], Action::Fail { status: Status::Init, text, .. } if text.contains("within 10s"))
    );
    assert_eq!(pool.seat(sandbox, ms(10_001)), None, "too late");
}

#[test]
fn a_sandbox_whose_call_timed_out_is_never_used_again() {
    let mut pool = pool(Bounds { concurrent: 2, ..BOUNDS });
    let sandbox = warm(&mut pool, ms(0));
    pool.seat(sandbox, ms(0));
    assert_eq!(pool.arrive(slot(1), F, ms(1)), Arrived::Given(sandbox));
    assert_eq!(pool.arrive(slot(2), F, ms(1)), Arrived::Given(sandbox));
    assert_eq!(pool.stop(slot(1), ms(9)), Was::In(sandbox));
    assert_eq!(actions(&mut pool), [], "the other call goes on");
    assert_eq!(pool.seat(sandbox, ms(10)), None);
    assert_eq!(pool.arrive(slot(3), F, ms(11)), Arrived::Queued);
    assert_eq!(made(&mut pool).len(), 1);
    pool.done(slot(2), ms(12));
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox }]);
    pool.check();
}

#[test]
fn the_calls_of_a_sandbox_that_dies_end_as_it_did() {
    let mut pool = pool(BOUNDS);
    let sandbox = warm(&mut pool, ms(0));
    pool.arrive(slot(1), F, ms(1));
    pool.gone(sandbox, Status::Memory, "too much", ms(2));
    let expected = Action::Fail { slot: slot(1), status: Status::Memory, text: "too much".into() };
    assert_eq!(actions(&mut pool), [expected]);
    assert_eq!(pool.counts(), (0, 0, 0));
}

#[test]
fn a_function_without_a_place_gets_that_of_an_idle_sandbox() {
    let mut pool = Pool::new(1, 64);
    pool.publish(F, BOUNDS);
    pool.publish(G, BOUNDS);
    let sandbox = warm(&mut pool, ms(0));
    pool.arrive(slot(1), G, ms(1));
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox }]);
    pool.gone(sandbox, Status::Killed, "", ms(2));
    assert_eq!(made(&mut pool).len(), 1);
}

#[test]
fn pressure_takes_the_sandboxes_that_were_idle_longest() {
    let mut pool = pool(BOUNDS);
    let first = warm(&mut pool, ms(0));
    pool.arrive(slot(1), F, ms(1));
    let second = warm_another(&mut pool, ms(1000));
    pool.done(slot(1), ms(2000));
    pool.seat(first, ms(2000));
    pool.pressure(false);
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox: second }]);
    pool.pressure(false);
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox: first }]);
    pool.pressure(true);
    assert_eq!(actions(&mut pool), []);
}

/// One more, while the others are busy.
fn warm_another(pool: &mut Pool, at: Instant) -> SandboxId {
    pool.arrive(slot(62), F, at);
    pool.tick(at + GROW_MAX);
    let sandbox = made(pool)[0];
    assert_eq!(pool.seat(sandbox, at), Some(slot(62)));
    pool.done(slot(62), at);
    assert_eq!(pool.seat(sandbox, at), None);
    sandbox
}

#[test]
fn a_new_version_lets_old_sandboxes_finish() {
    let mut pool = pool(BOUNDS);
    let old = warm(&mut pool, ms(0));
    pool.arrive(slot(1), F, ms(1));
    pool.renew(F, ms(2));
    assert_eq!(pool.arrive(slot(2), F, ms(3)), Arrived::Queued);
    let new = made(&mut pool)[0];
    pool.done(slot(1), ms(4));
    assert_eq!(actions(&mut pool), [Action::Stop { sandbox: old }]);
    assert_eq!(pool.seat(new, ms(5)), Some(slot(2)));
    pool.retire(F, ms(6));
    pool.done(slot(2), ms(7));
    pool.gone(old, Status::Killed, "", ms(8));
    pool.gone(new, Status::Killed, "", ms(8));
    assert!(!pool.functions.contains_key(&F), "nothing is left of it");
    pool.check();
}

#[test]
fn when_the_jailer_is_lost_so_are_all_calls() {
    let mut pool = pool(BOUNDS);
    warm(&mut pool, ms(0));
    pool.arrive(slot(1), F, ms(1));
    pool.arrive(slot(2), F, ms(1));
    pool.arrive(slot(3), G, ms(1));
    actions(&mut pool);
    pool.lost(Status::WorkerLost, "gone", ms(2));
    let all = actions(&mut pool);
    assert!(
        all.len() == 3 && all.iter().all(|a| matches!(a, Action::Fail { status: Status::WorkerLost, .. }))
    );
    assert_eq!(pool.counts(), (0, 0, 0));
    pool.check();
    assert_eq!(pool.arrive(slot(1), F, ms(3)), Arrived::Queued);
}

#[derive(Clone, Debug)]
enum Move {
    Foresee(bool, bool),
    Arrive(u32, bool),
    Seat(u32),
    Unseat(u32),
    Done(u32),
    Stop(u32),
    Fail(u32),
    Gone(u32),
    Renew(bool),
    Retire,
    Pressure(bool),
    Lost,
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0..16_u32, any::<bool>()).prop_map(|(slot, other)| Move::Arrive(slot, other)),
        8 => (0..4_u32).prop_map(Move::Seat),
        1 => (0..4_u32).prop_map(Move::Unseat),
        6 => (0..16_u32).prop_map(Move::Done),
        2 => (0..16_u32).prop_map(Move::Stop),
        1 => (0..4_u32).prop_map(Move::Fail),
        2 => (0..4_u32).prop_map(Move::Gone),
        1 => any::<bool>().prop_map(Move::Renew),
        1 => Just(Move::Retire),
        1 => any::<bool>().prop_map(Move::Pressure),
        1 => Just(Move::Lost),
        2 => any::<(bool, bool)>().prop_map(|(other, likely)| Move::Foresee(other, likely)),
        4 => (0..40_000_u64).prop_map(Move::Pass),
    ];
    prop::collection::vec(one, 0..120)
}

/// The pool with a jailer and functions that do what the moves say.
struct World {
    pool: Pool,
    now: u64,
    concurrent: u32,
    /// Sandboxes there are, by place, and whether each was told to end.
    there: BTreeMap<u32, (SandboxId, bool)>,
    /// Where each call is: in a queue, or in a sandbox.
    calls: BTreeMap<u32, Option<SandboxId>>,
}

impl World {
    fn new(concurrent: u32) -> World {
        let mut pool = Pool::new(4, 16);
        for function in [F, G] {
            pool.publish(function, Bounds { concurrent, sandboxes: 3, ..BOUNDS });
        }
        World { pool, now: 0, concurrent, there: BTreeMap::new(), calls: BTreeMap::new() }
    }

    fn make(&mut self, a_move: &Move) {
        let now = ms(self.now);
        let there = |world: &World, place: &u32| world.there.get(place).map(|(id, _)| *id);
        match a_move {
            Move::Arrive(number, other) if !self.calls.contains_key(number) => {
                match self.pool.arrive(slot(*number), if *other { G } else { F }, now) {
                    Arrived::Given(id) => self.given(*number, id),
                    Arrived::Queued => drop(self.calls.insert(*number, None)),
                    Arrived::Refused(..) => {}
                }
            }
            Move::Seat(place) => {
                if let Some(id) = there(self, place) {
                    self.seat(id);
                }
            }
            Move::Unseat(place) => {
                if let Some(id) = there(self, place) {
                    self.pool.unseat(id);
                }
            }
            Move::Done(number) => {
                if let Some(Some(id)) = self.calls.get(number).copied() {
                    self.calls.remove(number);
                    assert_eq!(self.pool.done(slot(*number), now), id);
                    self.seat(id);
                }
            }
            Move::Stop(number) => {
                if let Some(was) = self.calls.remove(number) {
                    assert_eq!(self.pool.stop(slot(*number), now), was.map_or(Was::Queued, Was::In));
                }
            }
            Move::Fail(place) => {
                if let Some(id) = there(self, place) {
                    self.pool.failed(id, Status::Init, "", now);
                }
            }
            Move::Gone(place) => {
                if let Some((id, _)) = self.there.remove(place) {
                    self.pool.gone(id, Status::Killed, "", now);
                }
            }
            Move::Renew(other) => self.pool.renew(if *other { G } else { F }, now),
            Move::Retire => {
                self.pool.retire(G, now);
                self.pool.publish(G, Bounds { concurrent: self.concurrent, sandboxes: 3, ..BOUNDS });
            }
            Move::Foresee(other, true) => self.pool.expect(if *other { G } else { F }, now),
            Move::Foresee(other, false) => self.pool.release(if *other { G } else { F }),
            Move::Pressure(is_hard) => self.pool.pressure(*is_hard),
            Move::Lost => {
                self.there.clear();
                self.pool.lost(Status::WorkerLost, "", now);
            }
            Move::Pass(time) => {
                self.now += time;
                self.pool.tick(ms(self.now));
            }
            Move::Arrive(..) => {}
        }
        self.act();
    }

    /// The sandbox asks for a call, if it may: it is bound by its session.
    fn seat(&mut self, id: SandboxId) {
        let busy = self.calls.values().filter(|at| **at == Some(id)).count() as u32;
        let seats = self.pool.sandboxes[id.place as usize].seats;
        if busy + seats < self.concurrent
            && let Some(slot) = self.pool.seat(id, ms(self.now))
        {
            self.given(slot.0, id);
        }
    }

    fn given(&mut self, number: u32, id: SandboxId) {
        let (there, stopped) = self.there[&id.place];
        assert!(there == id && !stopped, "a call for a sandbox that is not there");
        self.calls.insert(number, Some(id));
        let busy = self.calls.values().filter(|at| **at == Some(id)).count();
        assert!(busy <= self.concurrent as usize, "more calls than it may have");
    }

    fn act(&mut self) {
        while let Some(action) = self.pool.action() {
            match action {
                Action::Make { sandbox, .. } => {
                    assert!(
                        self.there.insert(sandbox.place, (sandbox, false)).is_none(),
                        "the place is taken"
                    );
                }
                Action::Stop { sandbox } => {
                    assert!(!self.calls.values().any(|at| *at == Some(sandbox)), "stopped with calls");
                    let (there, stopped) = self.there.get_mut(&sandbox.place).expect("it is there");
                    assert!(*there == sandbox && !std::mem::replace(stopped, true), "stopped once");
                }
                Action::Fail { slot, .. } => {
                    assert!(self.calls.remove(&slot.0).is_some(), "a call ends once");
                }
            }
        }
        self.pool.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_call_is_lost_and_no_sandbox_leaks(moves in moves(), concurrent in 1..3_u32) {
        let mut world = World::new(concurrent);
        moves.iter().for_each(|a_move| world.make(a_move));
        // The functions serve all that waits. What was told to end does.
        for _ in 0..200 {
            let stopped: Vec<u32> = world.there.iter().filter(|(_, (_, end))| *end).map(|(place, _)| *place).collect();
            stopped.iter().for_each(|place| world.make(&Move::Gone(*place)));
            (0..4).for_each(|place| world.make(&Move::Seat(place)));
            (0..16).for_each(|number| world.make(&Move::Done(number)));
            world.make(&Move::Pass(5));
        }
        prop_assert!(world.calls.is_empty(), "calls that nobody serves: {:?}", world.calls);
        // Nothing is called any more: all go.
        world.make(&Move::Pass(60_001));
        world.make(&Move::Pass(60_001));
        for place in 0..4 {
            prop_assert!(world.there.get(&place).is_none_or(|(_, stopped)| *stopped), "one stays for ever");
            world.make(&Move::Gone(place));
        }
        prop_assert_eq!(world.pool.counts(), (0, 0, 0));
    }
}

#[test]
#[should_panic(expected = "each call is in one place")]
fn canary_a_call_that_is_forgotten_is_seen() {
    let mut world = World::new(1);
    world.make(&Move::Arrive(0, false));
    // As a pool would that drops its queue with a sandbox.
    world.pool.functions.get_mut(&F).unwrap().queue.clear();
    world.make(&Move::Gone(0));
}
