//! One rule a test: what functions and operators say about calls that wait, and about those that have ended.

mod world;

use call::function::RetrySpec;
use call::{CallId, Status, VerdictCode, WallTime};
use durableq::{Backlog, Cancel, Event, Fate, HolderRef, Rules, State};
use world::{TENANT, World, limits};

const CORE: HolderRef = HolderRef(0);

fn lease(world: &mut World, of: usize) {
    assert!(world.poll(of) && world.lease(0, CORE));
}

fn state(world: &World, id: CallId) -> Option<State> {
    world.queue.find(id).map(|view| view.state)
}

/// Runs so many calls of function 2, each of which fills a good part of a segment.
fn churn(world: &mut World, calls: usize) {
    for _ in 0..calls {
        world.submit(2, 0, 7000, false);
        world.settle_disk();
        lease(world, 2);
        world.settle(0, Status::Ok, 0);
    }
    world.settle_disk();
}

#[test]
fn a_full_backlog_refuses_and_frees_itself_as_calls_end() {
    let mut world = World::new(limits(), 1);
    let frame = world.submit_bytes(CallId(99), 0, 0, 100, false).len() as u64;
    world.rule(0, Rules { backlog: Backlog { calls: 3, bytes: u64::MAX }, ..Rules::default() });
    world.rule(1, Rules { backlog: Backlog { calls: u64::MAX, bytes: 2 * frame }, ..Rules::default() });
    for (of, most) in [(0, 3), (1, 2)] {
        for n in 0..most + 2 {
            let refused = world.refused;
            world.submit(of, 0, 100, false);
            assert_eq!(world.refused - refused, u64::from(n >= most), "call {n} of function {of}");
        }
    }
    assert_eq!(world.queue.counters().backlog_full, 4);
    world.settle_disk();
    // A restart counts again.
    world.crash();
    world.settle_disk();
    let refused = world.refused;
    world.submit(0, 0, 100, false);
    assert_eq!(world.refused, refused + 1);
    lease(&mut world, 0);
    world.settle(0, Status::Ok, 10);
    world.submit(0, 0, 100, false);
    assert_eq!(world.refused, refused + 1, "one has ended");
}

#[test]
fn the_functions_of_a_tenant_share_its_backlog() {
    let mut world = World::new(limits(), 1);
    for of in 0..2 {
        world.submit(of, 0, 10, false);
        world.rule(of, Rules { tenant: TENANT, ..Rules::default() });
    }
    world.bound_tenant(Backlog { calls: 3, bytes: u64::MAX });
    world.submit(0, 0, 10, false);
    world.submit(1, 0, 10, false);
    assert_eq!(world.refused, 1);
    world.submit(2, 0, 10, false);
    assert_eq!(world.refused, 1, "another tenant");
    // A function that leaves its tenant takes its calls along.
    world.rule(0, Rules::default());
    world.submit(1, 0, 10, false);
    assert_eq!(world.refused, 1);
    world.queue.check();
}

#[test]
fn what_has_not_begun_in_time_ends_and_what_has_goes_on() {
    let mut world = World::new(limits(), 1);
    world.settle_disk();
    world.rule(1, Rules { expires_ns: 100, expired_dead: true, ..Rules::default() });
    let waits = world.submit_expiring(0, 10, 50);
    let begins = world.submit_expiring(0, 11, 50);
    let by_rule = world.submit(1, 10, 0, false);
    let never = world.submit(0, 10, 0, false);
    world.settle_disk();
    world.advance(20);
    // The first is with the scheduler, the second runs.
    assert!(world.poll(0) && world.poll(0) && world.poll(0));
    assert!(world.lease(2, CORE));
    let running = world.leased[0].0.call;
    world.advance(40);
    assert_eq!(world.queue.counters().expired, if running == never { 2 } else { 1 });
    let expired = if running == begins { waits } else { begins };
    assert_eq!(world.queue.find(expired).map(|view| view.status), Some(Some(Status::Expired)));
    assert_eq!(state(&world, by_rule), Some(State::Due));
    world.advance(60);
    assert_eq!(
        world.queue.find(by_rule).map(|view| (view.state, view.status)),
        Some((State::Dead, Some(Status::Expired)))
    );
    world.queue.check();
    // A dead letter that is redriven has a life without end.
    let at = world.queue.number(by_rule).expect("a dead letter");
    assert!(world.queue.redrive(&mut world.memory, at));
    let entry = world.ledger.get_mut(&by_rule).expect("submitted");
    (entry.ended, entry.dead, entry.status, entry.lasting) = (false, false, None, true);
    world.settle_disk();
    world.advance(1000);
    assert_eq!(state(&world, by_rule), Some(State::Due));
    world.crash();
    world.settle_disk();
    world.advance(1000);
    assert_eq!(state(&world, by_rule), Some(State::Due));
}

#[test]
fn the_time_to_live_of_a_call_that_comes_after_its_start_counts_from_its_coming() {
    for crashes in [false, true] {
        let mut world = World::new(limits(), 1);
        world.settle_disk();
        world.rule(0, Rules { expires_ns: 100, ..Rules::default() });
        world.advance(1_000_000);
        // Born in this millisecond, to start long before.
        let id = CallId::new(1, 5);
        let bytes = world.submit_bytes(id, 0, 10, 0, false);
        world.submit_frame(&bytes, 0);
        world.settle_disk();
        if crashes {
            world.crash();
            world.settle_disk();
        }
        world.advance(90);
        assert_eq!(state(&world, id), Some(State::Due), "crashes: {crashes}");
        world.advance(20);
        let status = world.queue.find(id).and_then(|view| view.status);
        assert_eq!(status, Some(Status::Expired), "crashes: {crashes}");
    }
}

#[test]
fn a_call_that_would_have_expired_is_refused() {
    let mut world = World::new(limits(), 1);
    world.advance(1000);
    let bytes = {
        let plain = world.submit_bytes(CallId(5), 0, 0, 0, false);
        let (header, body) = (world::frame(&plain).header(), world::frame(&plain).body());
        let mut out = call::frame::FrameBuf::new();
        let flags = header.flags | call::frame::flag::EXPIRES;
        call::frame::append(&mut out, &call::Header { flags, deadline: 999, ..header }, body);
        out
    };
    let function = world.queue.function(world::function(0)).expect("interned");
    let judged = world.queue.submit(&mut world.memory, world::frame(&bytes), function, durableq::Origin(1));
    assert_eq!(judged, Err(VerdictCode::BadTime));
}

/// Settles the only lease with this status and stderr.
fn settle_with(world: &mut World, retry: &RetrySpec, status: Status, stderr: &[u8]) -> Fate {
    let (lease, _) = world.leased.pop().expect("leased");
    let mut out = call::frame::FrameBuf::new();
    let reply = call::body::Reply::new(&call::Usage::default(), b"", stderr);
    call::body::append_outcome(&mut out, &lease, status, &reply).expect("small");
    world.queue.settle(&mut world.memory, world::frame(&out), retry, 7).expect("live").fate
}

#[test]
fn a_function_says_when_to_try_again_and_uses_up_nothing_by_it() {
    let mut world = World::new(limits(), 1);
    let id = world.submit(0, 0, 10, false);
    for n in 0..10 {
        world.settle_disk();
        lease(&mut world, 0);
        let fate = settle_with(&mut world, &world::RETRY, Status::Again, b"busy\nagain-in: 2s\n");
        assert_eq!(fate, Fate::Retry { not_before: WallTime(world.now + 2_000_000_000) }, "{n}");
        world.advance(1_999_999_999);
        assert!(!world.poll(0), "not before its time");
        world.advance(1);
    }
    // One that says no time waits as its function's rules have it.
    world.settle_disk();
    lease(&mut world, 0);
    let fate = settle_with(&mut world, &world::RETRY, Status::Again, b"again-in: soon");
    let Fate::Retry { not_before } = fate else { panic!("{fate:?}") };
    assert!(not_before.0 - world.now <= 10_000_000);
    assert_eq!(world.queue.find(id).map(|view| view.status), Some(Some(Status::Again)));
}

#[test]
fn a_final_end_is_not_tried_again() {
    let mut world = World::new(limits(), 1);
    let retry = RetrySpec { finals: vec![Status::Exit, Status::Timeout], ..world::RETRY };
    for (status, fate) in [(Status::Exit, true), (Status::Trap, false)] {
        let id = world.submit(0, 0, 10, false);
        world.settle_disk();
        lease(&mut world, 0);
        let dead = settle_with(&mut world, &retry, status, b"") == Fate::Dead;
        assert_eq!((dead, state(&world, id) == Some(State::Dead)), (fate, fate), "{status:?}");
    }
}

#[test]
fn ends_are_remembered_for_their_time_whatever_else_ends_and_whenever_the_node_dies() {
    let mut world = World::new(limits(), 1);
    let minute = 60_000_000_000;
    world.rule(0, Rules { retain_ns: minute, ..Rules::default() });
    world.rule(1, Rules { window_ns: minute, ..Rules::default() });
    let kept = world.submit(0, 0, 10, true);
    let keyed = world.submit_expiring(1, world.now + 1, world.now + 1_000_000);
    let plain = world.submit(2, 0, 10, true);
    world.settle_disk();
    world.advance(2);
    for of in 0..3 {
        lease(&mut world, of);
        world.settle(0, Status::Ok, 40);
    }
    world.settle_disk();
    for _ in 0..3 {
        churn(&mut world, 60);
        world.queue.check();
        assert!(world.queue.counters().segments_now <= 8, "{:?}", world.queue.counters());
        world.crash();
    }
    assert!(world.queue.find(plain).is_none(), "nobody asked to remember it");
    assert!(world.queue.find(keyed).is_some());
    let outcome = world.queue.outcome(kept).expect("with its outcome");
    assert_eq!(call::body::reply(outcome.body()).expect("a reply").output, [3; 40]);
    // While the time lasts, a second submit is a duplicate; then it is a new call.
    let bytes = world::aligned(&world.ledger[&keyed].frame.clone());
    let accepted = world.queue.counters().accepted;
    world.ledger.get_mut(&keyed).expect("submitted").until = 0;
    let function = world.queue.function(world::function(1)).expect("interned");
    let submit = |world: &mut World| {
        // Its deadline has passed, which does not matter for a duplicate.
        world.queue.submit(&mut world.memory, world::frame(&bytes), function, durableq::Origin(3))
    };
    assert_eq!(submit(&mut world), Ok(()));
    assert_eq!(world.queue.counters().accepted, accepted);
    world.settle_disk();
    world.advance(minute);
    assert_eq!(submit(&mut world), Err(VerdictCode::BadTime), "it is new, and comes too late");
    // What is past is let go of: the log does not keep its segments.
    churn(&mut world, 60);
    world.queue.check();
    world.crash();
    assert!(world.queue.find(keyed).is_none() && world.queue.find(kept).is_none());
}

#[test]
fn a_call_that_is_cancelled_before_it_is_on_disk_ends_when_it_is() {
    let mut world = World::new(limits(), 1);
    let id = world.submit(0, 0, 10, true);
    let function = world.queue.function(world::function(0)).expect("interned");
    assert_eq!(world.queue.cancel(&mut world.memory, id), Some(Cancel::Ended { function }));
    let entry = world.ledger.get_mut(&id).expect("submitted");
    (entry.ended, entry.cancel, entry.status) = (true, true, Some(Status::Cancelled));
    assert_eq!(state(&world, id), Some(State::Appended));
    world.flush();
    while world.disk_step(0) {
        world.flush();
    }
    let told: Vec<bool> = world
        .events()
        .iter()
        .map(|event| matches!(event, Event::Verdict { code: VerdictCode::Accepted, .. }))
        .collect();
    assert_eq!(told, [true], "first that it was accepted");
    world.settle_disk();
    assert!(world.ledger[&id].told_end);
    assert_eq!(state(&world, id), Some(State::Done));
}

#[test]
fn what_waits_for_room_of_the_log_may_be_cancelled_and_purged() {
    let mut world = World::new(limits(), 1);
    let ids: Vec<CallId> = (0..3).map(|_| world.submit(0, 0, 10, true)).collect();
    world.settle_disk();
    assert!(world.poll(0) && world.poll(0) && world.poll(0));
    // No block is free: nothing can be written, all of it waits.
    let group = world.limits.group_bytes;
    while world.refused == 0 {
        world.submit(1, 0, group - 600, false);
    }
    for id in &ids {
        assert!(world.cancel(*id));
        world.queue.check();
    }
    // The scheduler lets go of one before its end is written, of the others after.
    world.give_back(0);
    world.queue.check();
    world.settle_disk();
    world.queue.check();
    assert!(!world.lease(0, CORE));
    world.give_back(0);
    world.queue.check();
    assert!(ids.iter().all(|id| world.ledger[id].told_end));
}
