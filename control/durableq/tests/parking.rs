//! Frames of calls that wait are on disk only: they come back in order and whole, or their loss is told.

mod world;

use call::limits::Limits;
use call::{CallId, Status};
use durableq::{HolderRef, State};
use proptest::prelude::*;
use world::{World, limits};

const CORE: HolderRef = HolderRef(0);
/// Ahead of the tests' time, ns.
const HOUR: u64 = 3_600_000_000_000;

/// Room for many calls, and little memory for frames.
fn many() -> Limits {
    Limits { calls_max: 4000, pending_bytes_max: 256 << 10, ..limits() }
}

/// Calls that wait for one instant, of three functions in turn.
fn waiting(world: &mut World, count: usize, payload: usize) -> Vec<CallId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(world.submit(n % 3, HOUR, payload, false));
        if n % 8 == 7 {
            world.settle_disk();
        }
    }
    world.settle_disk();
    ids
}

/// Runs all that is due, and gives the calls in the order in which they were leased.
fn run(world: &mut World) -> Vec<CallId> {
    let mut order = Vec::new();
    let mut idle = 0;
    while idle < 2 {
        world.settle_disk();
        world.queue.check();
        let before = order.len();
        for of in 0..3 {
            while world.poll(of) && world.lease(0, CORE) {
                order.push(world.leased.last().expect("leased").0.call);
                world.settle(0, Status::Ok, 10);
            }
        }
        // What was asked for by a poll in vain comes before the next.
        idle = if order.len() == before { idle + 1 } else { 0 };
    }
    order
}

#[test]
fn calls_that_wait_take_no_memory_for_frames_and_all_run_in_order() {
    let mut world = World::new(many(), 1);
    let ids = waiting(&mut world, 3000, 1000);
    let counters = world.queue.counters();
    assert_eq!((world.refused, counters.parked_now), (0, 3000), "more than ten times the memory");
    assert_eq!(counters.frame_bytes_now, 0);
    world.advance(HOUR);
    let order = run(&mut world);
    for of in 0..3 {
        let is = |id: &&CallId| id.0 as usize % 3 == (of + 1) % 3;
        assert!(ids.iter().filter(is).eq(order.iter().filter(is)), "the order of function {of}");
    }
    let counters = world.queue.counters();
    assert_eq!((counters.completed, counters.parked_now), (3000, 0));
    assert!(counters.read_back >= 3000);
}

#[test]
fn a_backlog_of_due_calls_is_on_disk_but_for_what_memory_allows() {
    let mut world = World::new(many(), 1);
    for n in 0..1000 {
        world.submit(n % 3, 0, 1000, false);
        world.settle_disk();
    }
    let counters = world.queue.counters();
    assert_eq!(world.refused, 0);
    assert!(counters.parked_now > 700 && counters.frame_bytes_now < 160 << 10, "{counters:?}");
    assert_eq!(run(&mut world).len(), 1000);
}

#[test]
fn after_a_crash_everything_waits_on_disk() {
    let mut world = World::new(many(), 1);
    let ids = waiting(&mut world, 500, 300);
    world.crash();
    let counters = world.queue.counters();
    assert_eq!((counters.parked_now, counters.frame_bytes_now), (500, 0));
    world.advance(HOUR);
    assert_eq!(run(&mut world).len(), ids.len());
}

#[test]
fn one_call_that_waits_holds_no_disk() {
    let mut world = World::new(many(), 1);
    let old = waiting(&mut world, 20, 500);
    for _ in 0..3000 {
        world.submit(1, 0, 1000, false);
        world.settle_disk();
        run(&mut world);
    }
    let counters = world.queue.counters();
    assert!(counters.segments_now <= 8, "{counters:?}");
    assert!(counters.relocated >= 20 && counters.parked_now == 20, "{counters:?}");
    world.crash();
    world.advance(HOUR);
    assert_eq!(
        run(&mut world),
        old.iter()
            .copied()
            .filter(|id| id.0 % 3 == 1)
            .chain(old.iter().copied().filter(|id| id.0 % 3 == 2))
            .chain(old.iter().copied().filter(|id| id.0 % 3 == 0))
            .collect::<Vec<_>>()
    );
}

/// Changes one bit of the record of a call, wherever it is. Its segment and offset.
fn rot(world: &mut World, id: CallId, bit: usize) -> (u64, u64) {
    let frame = &world.ledger[&id].frame;
    for (segment, file) in &mut world.disk.files {
        if let Some(at) = file.windows(frame.len()).position(|bytes| bytes == &frame[..]) {
            file[at + bit / 8 % frame.len()] ^= 1 << (bit % 8);
            return (*segment, at as u64);
        }
    }
    panic!("{id} is not on disk");
}

#[test]
fn a_damaged_frame_is_told_with_its_place_and_never_served() {
    let mut world = World::new(many(), 1);
    let ids = waiting(&mut world, 60, 300);
    let (segment, offset) = rot(&mut world, ids[30], 1000);
    world.ledger.get_mut(&ids[30]).expect("submitted").ended = true;
    world.advance(HOUR);
    let order = run(&mut world);
    assert_eq!(order.len(), 59);
    assert!(!order.contains(&ids[30]));
    let damage = world.queue.next_damage().expect("told");
    assert_eq!((damage.call, damage.segment, damage.offset, damage.errno), (ids[30], segment, offset, None));
    let text = damage.to_string();
    assert!(text.contains(&ids[30].to_string()) && text.contains(&format!("byte {offset} of ")), "{text}");
    assert_eq!(world.queue.next_damage(), None);
    let view = world.queue.find(ids[30]).expect("a dead letter");
    assert_eq!((view.state, view.status), (State::Dead, Some(Status::Damaged)));
    assert_eq!(world.queue.counters().damaged, 1);
    // Redriven, it is read again, and dead again.
    let at = world.queue.number(ids[30]).expect("a dead letter");
    assert!(world.queue.redrive(&mut world.memory, at));
    assert_eq!(run(&mut world), []);
    assert_eq!(world.queue.next_damage().map(|damage| damage.call), Some(ids[30]));
    // It does not hold the log.
    for _ in 0..1000 {
        world.submit(1, 0, 1000, false);
        world.settle_disk();
        run(&mut world);
    }
    assert!(world.queue.counters().segments_now <= 8);
}

#[test]
fn a_read_that_fails_once_costs_no_call_and_one_that_fails_again_costs_one() {
    let mut world = World::new(many(), 1);
    let ids = waiting(&mut world, 12, 300);
    world.advance(HOUR);
    // Neighbours are read by one read; then each alone.
    world.disk.unreadable = 1;
    assert_eq!(run(&mut world).len(), 12);
    assert_eq!(world.queue.next_damage(), None);
    let mut world = World::new(many(), 1);
    waiting(&mut world, 12, 300);
    world.advance(HOUR);
    world.disk.unreadable = 2;
    for id in &ids {
        world.ledger.get_mut(id).expect("submitted").ended = true;
    }
    assert_eq!(run(&mut world).len(), 11);
    assert_eq!(world.queue.counters().damaged, 1, "told, or the world would have another ledger");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Whatever bit of whatever record changes: one call is lost, that one, and told.
    #[test]
    fn each_flipped_bit_costs_its_own_call(pick in 0usize..30, bit in 0usize..8000) {
        let mut world = World::new(many(), 1);
        let ids = waiting(&mut world, 30, 600);
        rot(&mut world, ids[pick], bit);
        world.ledger.get_mut(&ids[pick]).expect("submitted").ended = true;
        world.advance(HOUR);
        let order = run(&mut world);
        prop_assert_eq!(order.len(), 29);
        prop_assert_eq!(world.queue.next_damage().map(|damage| damage.call), Some(ids[pick]));
        prop_assert_eq!(world.queue.next_damage(), None);
    }
}

/// The check of the bytes that come back is what keeps damage from being served: without rot, it finds nothing.
#[test]
#[should_panic(expected = "the bytes of the client")]
fn canary_a_frame_that_was_changed_together_with_its_checksum() {
    let mut world = World::new(many(), 1);
    let ids = waiting(&mut world, 30, 600);
    let frame = world.ledger[&ids[3]].frame.clone();
    let forged = {
        let parsed = world::frame_of(&frame);
        let mut body = parsed.frame().body().to_vec();
        let last = body.len() / 2;
        body[last] ^= 1;
        let mut out = call::frame::FrameBuf::new();
        call::frame::append(&mut out, &parsed.frame().header(), &body);
        out
    };
    for file in world.disk.files.values_mut() {
        if let Some(at) = file.windows(frame.len()).position(|bytes| bytes == &frame[..]) {
            file[at..at + forged.len()].copy_from_slice(&forged);
        }
    }
    world.advance(HOUR);
    run(&mut world);
}
