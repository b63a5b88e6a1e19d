//! One rule of the queue a test.

mod world;

use call::limits::Limits;
use call::{CallId, Instant, Status, VerdictCode, WallTime};
use durableq::{Event, Fate, HolderRef, Origin, State};
use world::{DEFAULTS, World, limits};

const CORE: HolderRef = HolderRef(0);

fn state(world: &World, id: CallId) -> Option<State> {
    world.queue.find(id).map(|view| view.state)
}

/// Brings the oldest due call of function `of` to a core.
fn lease(world: &mut World, of: usize) {
    if !world.poll(of) {
        // Its frame comes from the disk.
        world.settle_disk();
        assert!(world.poll(of));
    }
    assert!(world.lease(0, CORE));
}

#[test]
fn the_verdict_waits_for_the_disk_and_for_the_groups_before() {
    let mut world = World::new(limits(), 1);
    world.settle_disk();
    let first = world.submit(0, 0, 10, false);
    world.flush();
    let second = world.submit(0, 0, 10, false);
    world.flush();
    // The later group is on disk first.
    assert!(world.disk_step(1));
    assert_eq!((world.events(), state(&world, second)), (vec![], Some(State::Appended)));
    assert!(world.disk_step(0));
    let accepted = |call| Event::Verdict { origin: Origin(7), call, code: VerdictCode::Accepted };
    assert_eq!(world.events(), [accepted(first), accepted(second)]);
}

#[test]
fn groups_grow_while_writes_are_in_flight() {
    let mut world = World::new(limits(), 1);
    world.settle_disk();
    for _ in 0..20 {
        world.submit(0, 0, 10, false);
        world.flush();
    }
    let before = world.queue.counters().groups;
    world.settle_disk();
    // Three writes at once, and what came meanwhile in one.
    assert_eq!(world.queue.counters().groups - before, 4);
}

#[test]
fn due_calls_come_in_the_order_of_their_times() {
    let mut world = World::new(limits(), 1);
    let late = world.submit(0, 3000, 0, false);
    let early = world.submit(0, 2000, 0, false);
    let now = world.submit(0, 0, 0, false);
    world.settle_disk();
    assert_eq!(world.queue.next_wake(), Instant(2000));
    world.advance(5000);
    let mut order = Vec::new();
    let function = world.queue.next_due().expect("one has due calls");
    world.queue.peek(function, 10, &mut order);
    let ids: Vec<CallId> = order.iter().map(|at| world.queue.view(*at).expect("due").id).collect();
    assert_eq!(ids, [now, early, late]);
    assert_eq!(world.queue.next_due(), None);
    // What the scheduler gives back, in whatever order, is at its old place.
    (0..3).for_each(|_| assert!(world.poll(0)));
    for at in [2, 0, 1] {
        world.queue.give_back(world.offered[at]);
    }
    let mut again = Vec::new();
    world.queue.peek(function, 10, &mut again);
    assert_eq!(again, order);
    world.queue.check();
}

#[test]
fn a_call_says_its_urgency_or_its_function_does() {
    let mut world = World::new(limits(), 1);
    world.submit(0, 5000, 0, false);
    world.settle_disk();
    world.advance(9000);
    let function = world.queue.next_due().expect("due");
    let offer = world.queue.poll(function, &DEFAULTS).expect("due");
    assert_eq!((offer.criticality, offer.deadline), (100, WallTime(5000 + DEFAULTS.deadline_ns)));
    let lease = world.queue.lease(offer.call, CORE, &DEFAULTS).expect("live");
    assert_eq!((lease.start_at, lease.header.attempt), (WallTime(5000), 1));
    assert_eq!(lease.header.deadline, 5000 + DEFAULTS.deadline_ns);
}

#[test]
fn failures_are_retried_and_then_dead() {
    let mut world = World::new(limits(), 1);
    let id = world.submit(0, 0, 10, true);
    for attempt in 1..=3 {
        world.settle_disk();
        world.advance(20_000_000);
        lease(&mut world, 0);
        let settled = world.settle(0, Status::Trap, 30).expect("leased");
        match settled.fate {
            Fate::Retry { not_before } => {
                // Half the wait at least, and less than all of it: 1 ms, then 2.
                let wait = not_before.0 - world.now;
                assert!((attempt * 500_000..attempt * 1_000_000).contains(&wait), "{attempt}: {wait}");
                assert_eq!(state(&world, id), Some(State::Scheduled));
            }
            fate => assert_eq!((fate, attempt), (Fate::Dead, 3)),
        }
    }
    world.settle_disk();
    assert!(world.ledger[&id].told_end);
    let kept = world.queue.outcome(id).expect("kept for who looks into it");
    assert_eq!(kept.status(), Ok(Status::Trap));
    world.crash();
    let view = world.queue.find(id).expect("a dead letter");
    assert_eq!((view.state, view.status, view.deliveries), (State::Dead, Some(Status::Trap), 3));
    assert!(view.outcome.is_some());
    // Redriven, it has all its executions before it.
    let mut dead = Vec::new();
    world.queue.dead_letters(10, &mut dead);
    assert!(world.queue.redrive(&mut world.memory, dead[0]));
    world.redriven(id);
    let entry = world.ledger.get_mut(&id).expect("submitted");
    (entry.ended, entry.dead, entry.told_end) = (false, false, false);
    world.settle_disk();
    world.crash();
    let view = world.queue.find(id).expect("pending");
    assert_eq!((view.deliveries, view.status), (0, None));
}

#[test]
fn back_pressure_uses_up_no_attempts_until_it_lasts_too_long() {
    let limits = Limits { pressures_max: 6, ..limits() };
    let mut world = World::new(limits, 1);
    let id = world.submit(0, 0, 10, false);
    let fate = |world: &mut World, status| {
        world.settle_disk();
        world.advance(20_000_000);
        lease(world, 0);
        world.settle(0, status, 30).expect("leased").fate
    };
    // More than the three attempts and the four deliveries, with a failure among them and a crash behind it.
    for n in 0..5 {
        assert!(matches!(fate(&mut world, Status::BackPressure), Fate::Retry { .. }), "{n}");
    }
    assert!(matches!(fate(&mut world, Status::Trap), Fate::Retry { .. }));
    world.settle_disk();
    world.crash();
    assert!(matches!(fate(&mut world, Status::BackPressure), Fate::Retry { .. }), "the sixth");
    assert!(matches!(fate(&mut world, Status::BackPressure), Fate::Retry { .. }), "the second failure");
    assert_eq!(fate(&mut world, Status::BackPressure), Fate::Dead, "the third");
    world.settle_disk();
    let view = world.queue.find(id).expect("a dead letter");
    assert_eq!((view.state, view.status), (State::Dead, Some(Status::BackPressure)));
}

#[test]
fn the_leases_of_a_silent_core_are_offered_again_and_its_outcomes_fenced() {
    let mut world = World::new(limits(), 1);
    let lease_ns = call::time::nanos(world.limits.lease);
    world.queue.holder_up(CORE, "core");
    let id = world.submit(0, 0, 10, false);
    world.settle_disk();
    for delivery in 1..=world.limits.deliveries_max {
        lease(&mut world, 0);
        world.queue.heartbeat(CORE);
        world.advance(lease_ns - 1);
        assert_eq!(world.queue.next_silent(), None);
        world.advance(1);
        assert_eq!((world.queue.next_silent(), world.queue.next_silent()), (Some(CORE), None));
        assert_eq!(world.lose(CORE), 1);
        world.late_outcomes();
        let dead = delivery == world.limits.deliveries_max;
        assert_eq!(state(&world, id), Some(if dead { State::Dead } else { State::Due }));
        world.queue.check();
    }
    assert_eq!(world.queue.find(id).expect("dead").status, Some(Status::WorkerLost));
}

#[test]
fn a_lease_that_comes_back_unbegun_is_no_delivery() {
    let mut world = World::new(limits(), 1);
    let id = world.submit(0, 0, 10, false);
    world.settle_disk();
    for _ in 0..2 * world.limits.deliveries_max {
        lease(&mut world, 0);
        assert_eq!(world.return_lease(0, false).expect("leased").fate, Fate::Again);
        world.late_outcomes();
        world.queue.check();
    }
    assert_eq!(world.queue.find(id).expect("pending").deliveries, 0);
    for delivery in 1..=world.limits.deliveries_max {
        lease(&mut world, 0);
        let fate = if delivery == world.limits.deliveries_max { Fate::Dead } else { Fate::Again };
        assert_eq!(world.return_lease(0, true).expect("leased").fate, fate, "{delivery}");
    }
    assert_eq!(world.queue.find(id).expect("dead").status, Some(Status::WorkerLost));
    world.queue.check();
}

#[test]
fn a_duplicate_gets_the_outcome() {
    let mut world = World::new(limits(), 1);
    let id = world.submit(0, 0, 10, true);
    let bytes = world.submit_bytes(id, 0, 0, 10, true);
    let again = |world: &mut World, origin| {
        let function = world.queue.function(world::function(0)).expect("interned");
        world.queue.submit(&mut world.memory, world::frame(&bytes), function, Origin(origin)).expect("held");
    };
    world.settle_disk();
    again(&mut world, 8);
    let duplicate =
        |origin| Event::Verdict { origin: Origin(origin), call: id, code: VerdictCode::Duplicate };
    assert_eq!(world.events(), [duplicate(8)]);
    lease(&mut world, 0);
    world.settle(0, Status::Ok, 33);
    assert_eq!(world.events(), [], "its end is not on disk");
    world.flush();
    while world.disk_step(0) {}
    let function = world::function(0);
    let ended = |origin| Event::Ended { origin: Origin(origin), call: id, function, status: Status::Ok };
    assert_eq!(world.events(), [ended(8)], "to the last who wanted it");
    world.crash();
    again(&mut world, 9);
    assert_eq!(world.events(), [duplicate(9), ended(9)], "at once, also in the next incarnation");
    let outcome = world.queue.outcome(id).expect("kept");
    assert_eq!(call::body::reply(outcome.body()).expect("a reply").output, [3; 33]);
}

#[test]
fn a_full_disk_refuses_calls_and_forgets_none() {
    let mut world = World::new(limits(), 1);
    world.settle_disk();
    world.disk.full = true;
    let mut codes = 0;
    for _ in 0..400 {
        let refused = world.refused;
        world.submit(0, 0, 3000, false);
        world.settle_disk();
        codes += world.refused - refused;
        while world.poll(0) && world.lease(0, CORE) && world.settle(0, Status::Ok, 0).is_some() {}
        world.queue.check();
    }
    assert_eq!(
        (codes, world.queue.no_space()),
        (0, None),
        "calls that end free segments, which are used again"
    );
    for _ in 0..45 {
        // They stay, each in its segment.
        world.submit(0, 0, 9000, false);
        world.settle_disk();
        world.queue.check();
    }
    assert!(world.refused > 0 && world.queue.no_space() == Some(world::ENOSPC), "{} refused", world.refused);
    world.disk.full = false;
    // Tried again after a second.
    assert!(world.queue.next_wake() <= Instant(world.now + 1_000_000_000));
    world.advance(1_000_000_000);
    world.settle_disk();
    let refused = world.refused;
    world.submit(0, 0, 3000, false);
    assert_eq!(world.refused, refused);
    world.run_to_the_end();
}

#[test]
fn a_failed_write_stops_the_log() {
    let mut world = World::new(limits(), 1);
    let before = world.submit(0, 0, 10, false);
    world.settle_disk();
    let id = world.submit(0, 0, 10, false);
    world.flush();
    assert!(world.disk_error());
    assert_eq!(world.queue.failed(), Some(5));
    let failed = Event::Verdict { origin: Origin(7), call: id, code: VerdictCode::DiskFailed };
    assert_eq!(world.events(), [failed]);
    let refused = world.refused;
    world.submit(0, 0, 10, false);
    assert_eq!(world.refused, refused + 1);
    assert_eq!(world.queue.next_op(&mut world.memory), None);
    assert!(!world.poll(0), "what could not be settled is not leased");
    world.crash();
    assert_eq!(state(&world, before), Some(State::Due));
}

#[test]
fn the_largest_call_spans_groups_and_segments() {
    let limits = Limits { pending_bytes_max: 8 << 20, ..limits() };
    let mut world = World::new(limits, 1);
    let small = world.submit(0, 0, 100, false);
    let large = world.submit(1, 0, call::limits::ARGUMENTS_BYTES_MAX, true);
    let behind = world.submit(2, 0, 100, false);
    world.settle_disk();
    world.crash();
    for id in [small, large, behind] {
        assert_eq!(state(&world, id), Some(State::Due), "{id}");
    }
    world.settle_disk();
    lease(&mut world, 1);
    world.settle(0, Status::Ok, call::limits::OUTPUT_BYTES_MAX);
    world.settle_disk();
    world.crash();
    let outcome = world.queue.outcome(large).expect("kept");
    assert_eq!(outcome.body().len() >> 20, 1);
}

#[test]
fn old_calls_move_so_that_the_log_stays_short() {
    let mut world = World::new(limits(), 1);
    let start = 3_000_000_000_000;
    let waiting: Vec<CallId> = (0..6).map(|_| world.submit(0, start, 500, false)).collect();
    // One of them has failed once, one is dead: that moves with them.
    let failing = world.submit(1, 0, 10, false);
    world.settle_disk();
    lease(&mut world, 1);
    world.settle(0, Status::Trap, 0);
    let dead = world.submit(2, start, 10, false);
    world.settle_disk();
    let at = world.queue.number(dead).expect("pending");
    assert!(world.queue.bury(&mut world.memory, at, Status::Unavailable));
    world
        .ledger
        .get_mut(&dead)
        .map(|entry| (entry.ended, entry.dead, entry.status) = (true, true, Some(Status::Unavailable)))
        .expect("submitted");
    for _ in 0..400 {
        world.submit(0, 0, 3000, false);
        world.settle_disk();
        lease(&mut world, 0);
        world.settle(0, Status::Ok, 0);
        assert!(world.queue.counters().segments_now <= 7, "{:?}", world.queue.counters());
    }
    assert!(world.queue.counters().relocated >= 8, "{:?}", world.queue.counters());
    world.queue.check();
    world.settle_disk();
    world.crash();
    for id in waiting {
        assert_eq!(
            world.queue.find(id).map(|view| (view.state, view.start_at)),
            Some((State::Scheduled, WallTime(start)))
        );
    }
    let view = world.queue.find(failing).expect("pending");
    assert_eq!((view.deliveries, view.status), (1, Some(Status::Trap)));
    assert_eq!(state(&world, dead), Some(State::Dead));
}

#[test]
fn a_call_too_far_ahead_is_refused() {
    let mut world = World::new(limits(), 1);
    let week = call::time::nanos(call::limits::START_AHEAD_MAX);
    let function = world.queue.function(world::function(0)).expect("interned");
    let bytes = world.submit_bytes(CallId(9), 0, world.now + week + 1, 0, false);
    let refused = world.queue.submit(&mut world.memory, world::frame(&bytes), function, Origin(1));
    assert_eq!(refused, Err(VerdictCode::BadTime));
}

#[test]
fn the_oldest_dead_letters_make_room() {
    let mut world = World::new(limits(), 1);
    let ids: Vec<CallId> = (0..8).map(|_| world.submit(0, 1 << 48, 0, false)).collect();
    world.settle_disk();
    for id in &ids {
        let at = world.queue.number(*id).expect("pending");
        assert!(world.queue.bury(&mut world.memory, at, Status::Unavailable));
        world
            .ledger
            .get_mut(id)
            .map(|entry| (entry.ended, entry.dead, entry.status) = (true, true, Some(Status::Unavailable)))
            .expect("submitted");
    }
    world.settle_disk();
    let counters = world.queue.counters();
    assert_eq!((counters.dead_now, counters.dead_dropped, counters.pending_now), (6, 2, 0));
    assert_eq!((state(&world, ids[0]), state(&world, ids[2])), (Some(State::Done), Some(State::Dead)));
    world.crash();
    assert_eq!(world.queue.counters().dead_now, 6);
}

#[test]
fn with_the_memory_full_of_pending_calls_an_outcome_takes_the_place_of_its_own_call() {
    // Calls that run are in memory, and fill it long before `calls_max`.
    let mut world = World::new(Limits { calls_max: 1000, group_bytes: 16 << 10, ..limits() }, 1);
    let mut wanted = Vec::new();
    while world.refused == 0 {
        wanted.push(world.submit(0, 0, 7000, true));
        world.settle_disk();
        if world.refused == 0 {
            lease(&mut world, 0);
        }
    }
    wanted.pop();
    world.leased.reverse();
    assert!(wanted.len() > 20, "{} calls filled it", wanted.len());
    for id in wanted {
        let last = world.leased.len() - 1;
        assert_eq!(world.leased[last].0.call, id);
        world.settle(last, Status::Ok, 7000).expect("leased");
        assert!(world.queue.outcome(id).is_some(), "the outcome of {id} found no room");
        // Another one takes the room again, as soon as the outcome was told.
        world.settle_disk();
        let refused = world.refused;
        world.submit(0, 0, 7000, false);
        world.settle_disk();
        assert_eq!(world.refused, refused);
    }
}
