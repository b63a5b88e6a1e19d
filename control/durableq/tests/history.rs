//! The attempts of calls that failed: listed, through crashes and segments that are gone, until the call ends.

mod world;

use call::limits::Limits;
use call::{CallId, Status};
use durableq::{Fate, HolderRef, State};
use world::{World, limits};

const CORE: HolderRef = HolderRef(1);

/// Runs the only call of function 0 once, so that it ends like this.
fn attempt(world: &mut World, status: Status) -> Fate {
    world.settle_disk();
    while !world.poll(0) {
        world.advance(20_000_000_000);
        world.settle_disk();
    }
    assert!(world.lease(0, CORE));
    world.advance(7_000_000);
    if status == Status::WorkerLost {
        assert_eq!(world.lose(CORE), 1);
        return Fate::Again;
    }
    let fate = world.settle(0, status, 10).expect("leased").fate;
    world.check_histories();
    fate
}

/// Number, status and whether it was before a redrive.
fn listed(world: &World, id: CallId) -> Vec<(u16, Status, bool)> {
    let history = world.queue.find(id).expect("known").history;
    let attempts = history.into_iter().flat_map(|history| history.attempts());
    attempts.map(|attempt| (attempt.number, attempt.status, attempt.redriven)).collect()
}

#[test]
fn attempts_are_listed_until_the_call_ends() {
    let mut world = World::new(limits(), 1);
    let id = world.submit(0, 0, 100, false);
    assert!(world.queue.find(id).expect("known").history.is_none());
    attempt(&mut world, Status::Trap);
    attempt(&mut world, Status::WorkerLost);
    attempt(&mut world, Status::Exit);
    assert_eq!(attempt(&mut world, Status::Memory), Fate::Dead);
    let first = [(1, Status::Trap), (2, Status::WorkerLost), (3, Status::Exit), (4, Status::Memory)];
    assert_eq!(listed(&world, id), first.map(|(number, status)| (number, status, false)));
    let history = world.queue.find(id).expect("dead").history.expect("listed");
    for of in history.attempts() {
        assert_eq!((of.ended.0 - of.began.0) / 1_000_000, 7, "a lease of 7 ms");
        assert_eq!((of.worker, of.text.is_empty()), ("host/1", of.status == Status::WorkerLost));
    }
    world.settle_disk();
    world.crash();
    assert_eq!(listed(&world, id), first.map(|(number, status)| (number, status, false)));
    // Redriven, it fails once more and then ends well.
    let at = world.queue.number(id).expect("dead");
    assert!(world.queue.redrive(&mut world.memory, at));
    world.redriven(id);
    let entry = world.ledger.get_mut(&id).expect("submitted");
    (entry.dead, entry.ended, entry.lasting) = (false, false, true);
    attempt(&mut world, Status::Trap);
    world.settle_disk();
    world.crash();
    let marked = first.map(|(number, status)| (number, status, true));
    assert_eq!(listed(&world, id), [&marked[..], &[(1, Status::Trap, false)]].concat());
    assert_eq!(attempt(&mut world, Status::Ok), Fate::Done);
    assert!(world.queue.find(id).expect("remembered").history.is_none());
    world.queue.check();
}

/// The segments in which its attempts were recorded are gone: the last record says all of them.
#[test]
fn a_history_outlives_the_segments_of_its_attempts() {
    let mut world = World::new(limits(), 2);
    let id = world.submit(0, 0, 100, false);
    attempt(&mut world, Status::Trap);
    attempt(&mut world, Status::Trap);
    attempt(&mut world, Status::Exit);
    world.settle_disk();
    let before: Vec<u64> = world.disk.files.keys().copied().collect();
    for _ in 0..400 {
        world.submit(2, 0, 7000, false);
        world.settle_disk();
        world.poll(2);
        world.lease(0, HolderRef(0));
        world.settle(0, Status::Ok, 0);
    }
    world.settle_disk();
    assert!(before.iter().all(|number| !world.disk.files.contains_key(number)), "the log has moved on");
    let attempts = [(1, Status::Trap, false), (2, Status::Trap, false), (3, Status::Exit, false)];
    assert_eq!(listed(&world, id), attempts);
    world.crash();
    assert_eq!(listed(&world, id), attempts);
}

/// Of many attempts the last are listed, and the others counted.
#[test]
fn earlier_attempts_are_counted() {
    let mut world = World::new(limits(), 3);
    let id = world.submit(0, 0, 100, false);
    for _ in 0..30 {
        attempt(&mut world, Status::BackPressure);
    }
    for _ in 0..2 {
        let history = world.queue.find(id).expect("pending").history.expect("listed");
        assert_eq!((history.earlier(), history.is_partial()), (22, false));
        assert!(history.attempts().map(|attempt| attempt.number).eq(23..=30));
        world.settle_disk();
        world.crash();
    }
}

/// When memory for histories is used up, what is missing is said; and what ends makes room.
#[test]
fn a_history_without_memory_says_so() {
    let limits =
        Limits { history_bytes_max: 32 << 10, calls_max: 400, pending_bytes_max: 4 << 20, ..limits() };
    let mut world = World::new(limits, 4);
    for _ in 0..300 {
        world.submit(0, 0, 10, false);
        attempt(&mut world, Status::BackPressure);
    }
    world.settle_disk();
    world.queue.check();
    let partial = |world: &World| {
        let calls = world.ledger.keys().filter_map(|id| world.queue.find(*id)?.history);
        calls.filter(|history| history.is_partial()).count()
    };
    let missing = partial(&world);
    assert!((100..300).contains(&missing), "{missing} calls of 300");
    world.crash();
    world.settle_disk();
    assert!(partial(&world) >= missing, "it is said after a restart too");
    world.run_to_the_end();
    world.check_histories();
    world.submit(0, 0, 10, false);
    attempt(&mut world, Status::Trap);
    assert_eq!(partial(&world), 0);
}

/// A call that kills its workers is known by that, whatever becomes of the node.
#[test]
fn a_lost_lease_counts_after_a_restart() {
    let mut world = World::new(limits(), 5);
    let id = world.submit(0, 0, 100, false);
    for delivery in 1..4 {
        attempt(&mut world, Status::WorkerLost);
        world.settle_disk();
        world.crash();
        let view = world.queue.find(id).expect("pending");
        assert_eq!(view.deliveries, delivery);
    }
    world.settle_disk();
    world.advance(1);
    assert!(world.poll(0) && world.lease(0, CORE));
    assert_eq!(world.lose(CORE), 1);
    assert_eq!(world.queue.find(id).expect("dead").state, State::Dead, "the fourth worker was the last");
}

#[test]
#[should_panic(expected = "attempts of")]
fn canary_an_attempt_that_is_not_listed() {
    let mut world = World::new(limits(), 6);
    let id = world.submit(0, 0, 100, false);
    attempt(&mut world, Status::Trap);
    world.change_history(id, |of| of.push(of[0].clone()));
    world.check_histories();
}

/// A disk that lies about a write: the history on it is older than the one that was on disk.
#[test]
#[should_panic(expected = "attempts of")]
fn canary_a_history_that_is_lost() {
    let mut world = World::new(limits(), 7);
    world.submit(0, 0, 100, false);
    world.settle_disk();
    world.disk.lies = true;
    attempt(&mut world, Status::Trap);
    world.settle_disk();
    world.crash();
}
