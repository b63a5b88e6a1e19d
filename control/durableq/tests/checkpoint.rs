//! A start from a checkpoint finds what a start from the oldest segment finds, and reads no more than it must.

mod world;

use call::limits::Limits;
use call::{CallId, Kind, Status};
use durableq::log::dump::{Entry, dump};
use durableq::log::page::{self, ENTRY_BYTES, entries};
use durableq::log::{GROUP_HEADER_BYTES, GroupHeader};
use durableq::{DurableQ, HolderRef, Recover, Recovery, RecoveryError, State};
use std::collections::{BTreeMap, BTreeSet};
use world::{Disk, World, aligned, limits};

/// A second and more: so long as this a call waits on disk only.
const FAR: u64 = 3_000_000_000;

fn roomy() -> Limits {
    Limits { calls_max: 600, dead_letters_max: 40, outcomes_max: 100, ..limits() }
}

/// Calls that wait for long, some with large arguments, while others come, fail, die and end, until the log is some
/// segments long and names a checkpoint.
fn busy(seed: u64) -> World {
    let mut world = World::new(roomy(), seed);
    for round in 0..200 {
        let payload = if round % 50 == 7 { 20_000 } else { 6000 };
        world.submit(round % 3, world.now + 100 * FAR, payload, false);
        world.submit(round % 3, 0, 300, round % 2 == 0);
        for again in 0..2 {
            world.settle_disk();
            world.poll((round + again) % 3);
            world.lease(0, HolderRef(0));
            let fails = world.leased.first().is_some_and(|(lease, _)| lease.call.0 % 3 == 0);
            world.settle(0, if fails { Status::Trap } else { Status::Ok }, 40);
            world.advance(30_000_000);
        }
    }
    world.settle_disk();
    assert!(world.queue.counters().checkpoints > 2, "{:?}", world.queue.counters());
    world
}

/// The number of the segment at which a start begins.
fn begin(disk: &Disk) -> u64 {
    let mut last = BTreeMap::new();
    for (segment, _, header) in disk.groups() {
        last.entry(segment).or_insert(header.from);
    }
    *last.values().last().expect("groups")
}

/// How many bytes of each segment are read, and what comes of it.
fn read(disk: &Disk, limits: &Limits) -> (BTreeMap<u64, usize>, Result<DurableQ, RecoveryError>) {
    let mut recovery = Recovery::new(limits);
    recovery.segments(disk.files.iter().map(|(number, file)| (*number, file.len() as u64)));
    let mut reads = BTreeMap::new();
    while let Some((number, offset)) = recovery.next_read() {
        let file = &disk.files[&number];
        let bytes = aligned(&file[offset as usize..file.len().min(offset as usize + limits.group_bytes)]);
        *reads.entry(number).or_insert(0) += bytes.len();
        if let Err(error) = recovery.feed(&bytes) {
            return (reads, Err(error));
        }
    }
    (reads, recovery.finish(call::Instant(1), call::WallTime(1), world::KEY))
}

fn copy(disk: &Disk) -> Disk {
    let mut copy = Disk::default();
    copy.files = disk.files.clone();
    copy
}

#[test]
fn a_start_does_not_read_what_stands_before_the_checkpoint() {
    let world = busy(1);
    let (from, oldest) = (begin(&world.disk), *world.disk.files.keys().next().expect("segments"));
    assert!(from > oldest + 10, "a start begins at {from} and the log at {oldest}");
    let (reads, queue) = read(&world.disk, &world.limits);
    let queue = queue.expect("sound");
    queue.check();
    assert!(reads.keys().all(|number| *number >= from), "{from}: {reads:?}");
    assert_eq!(queue.counters().pending_now, world.queue.counters().pending_now);
    // What operators are told is that: of a checkpoint that the last group does not name yet, a little less.
    let told = world.queue.counters().start_bytes_now / world.limits.segment_bytes;
    let read = reads.values().filter(|bytes| **bytes > 0).count() as u64;
    assert!((1..=read).contains(&told), "{told} segments told, {read} read");
}

/// Whatever is cut off at the end, at any group: what is there is the same from the checkpoint and from the oldest segment.
#[test]
fn it_is_the_same_from_the_checkpoint_and_from_all_of_the_log() {
    let mut world = busy(2);
    let all = world.disk.groups();
    // Before these, old segments were there that have been retired since.
    let recent = &all[all.len() - 60..];
    for (segment, offset, _) in recent {
        let mut disk = Disk::default();
        disk.files.extend(world.disk.files.range(..=segment).map(|(number, file)| (*number, file.clone())));
        disk.files.get_mut(segment).expect("cut here")[*offset..].fill(0);
        let Ok(whole) = disk.without_checkpoint().recover(&world.limits, world.now) else { continue };
        world.queue = disk.recover(&world.limits, world.now).expect("a prefix");
        world.queue.check();
        world.check_same(&whole);
    }
}

/// Dead letters are listed by age, and their outcomes are there.
#[test]
fn dead_letters_and_ends_are_as_they_were() {
    let mut world = busy(3);
    let of = |queue: &DurableQ| {
        let mut dead = Vec::new();
        queue.dead_letters(usize::MAX, &mut dead);
        let view =
            |at| queue.view(at).map(|view| (view.id, view.status, view.outcome.map(|of| of.bytes().len())));
        dead.into_iter().map(|at| view(at).expect("a dead letter")).collect::<Vec<_>>()
    };
    let ended = |world: &World| {
        let is = |id: &&CallId| world.queue.find(**id).is_some_and(|view| view.state == State::Done);
        world.ledger.keys().filter(is).copied().collect::<BTreeSet<_>>()
    };
    let (dead, ends) = (of(&world.queue), ended(&world));
    assert!(dead.len() > 10 && ends.len() > 50, "{} dead letters, {} ends", dead.len(), ends.len());
    world.queue = world.disk.recover(&world.limits, world.now).expect("sound");
    assert_eq!(of(&world.queue), dead);
    assert_eq!(ended(&world), ends);
}

/// A checkpoint is of use for the next start as well, and for the one after the process has died in the middle of another.
#[test]
fn a_process_that_dies_again_and_again_goes_on() {
    let mut world = busy(4);
    for round in 0..40 {
        world.submit(0, world.now + 100 * FAR, 1500, false);
        for _ in 0..round {
            world.flush();
            world.disk_step(round);
        }
        world.events();
        world.crash();
    }
    world.settle_disk();
}

/// A segment before the checkpoint is gone, in which calls wait.
#[test]
fn a_missing_segment_is_told_by_a_call_that_waits_in_it() {
    let world = busy(5);
    let from = begin(&world.disk);
    let before: Vec<u64> = world.disk.files.range(..from).map(|(number, _)| *number).collect();
    for missing in &before {
        let mut disk = copy(&world.disk);
        let file = disk.files.remove(missing).expect("there");
        let waiting = submits(&file, *missing).into_iter().filter(|id| is_held(&world.queue, *id)).count();
        let (strict, salvaged) = (
            disk.recover(&world.limits, world.now),
            disk.recover_by(&world.limits, world.now, Recover::Salvage),
        );
        if waiting == 0 {
            strict.expect("nobody needs it");
            continue;
        }
        match strict {
            Err(RecoveryError::Missing { segment, call }) => {
                assert!(
                    segment >= *missing && is_held(&world.queue, call),
                    "{segment} for {missing}, {call}"
                );
            }
            other => panic!("segment {missing}: {:?}", other.map(|_| "forgotten in silence")),
        }
        let (mut queue, _) = salvaged.expect("salvaged");
        queue.check();
        let mut told = BTreeSet::new();
        while let Some(damage) = queue.next_damage() {
            assert_eq!(damage.segment, *missing, "{damage}");
            told.insert(damage.call);
        }
        let lost = world.ledger.keys().filter(|id| is_held(&world.queue, **id) && !is_held(&queue, **id));
        assert!(lost.eq(&told), "each that is lost is told, and no other");
    }
}

/// The first group of the segment at which a start begins is damaged: that is told, and nothing is taken for the log.
#[test]
fn damage_where_a_start_begins_is_told() {
    let world = busy(6);
    let from = begin(&world.disk);
    let mut disk = copy(&world.disk);
    disk.files.get_mut(&from).expect("there")[100] ^= 1;
    assert!(matches!(disk.recover(&world.limits, world.now), Err(RecoveryError::Damaged { .. })));
    // Groups from there on as before: each that is broken is told.
    for (segment, offset, header) in world.disk.groups().into_iter().filter(|group| group.0 >= from) {
        if header.sequence + 4 > world.disk.groups().last().expect("groups").2.sequence {
            continue;
        }
        let mut disk = copy(&world.disk);
        disk.files.get_mut(&segment).expect("there")[offset + 100] ^= 1;
        assert!(disk.recover(&world.limits, world.now).is_err(), "group {} was forgotten", header.sequence);
    }
}

/// Where the segment of a checkpoint is gone, a start begins at the oldest.
#[test]
fn a_checkpoint_that_was_retired_is_not_needed() {
    let mut world = busy(7);
    let from = begin(&world.disk);
    // Nothing waits any more, so that the log gets short; and no checkpoint is worth its while.
    world.limits.checkpoint_segments = usize::MAX;
    world.queue = world.disk.recover(&world.limits, world.now).expect("sound");
    (0..3).for_each(|of| assert!(world.queue.intern(world::function(of)).is_some()));
    let all: Vec<CallId> = world.ledger.keys().copied().filter(|id| waits(&world.queue, *id)).collect();
    for some in all.chunks(20) {
        for id in some {
            world.cancel(*id);
        }
        world.settle_disk();
    }
    for _ in 0..200 {
        let id = world.submit(0, world.now + FAR, 1500, false);
        world.settle_disk();
        world.cancel(id);
        world.settle_disk();
    }
    assert!(!world.disk.files.contains_key(&from), "segment {from} is still there");
    let id = world.submit(0, world.now + FAR, 1500, false);
    world.settle_disk();
    let queue = world.disk.recover(&world.limits, world.now).expect("sound");
    assert!(waits(&queue, id));
}

fn waits(queue: &DurableQ, id: CallId) -> bool {
    queue.find(id).is_some_and(|view| {
        matches!(view.state, State::Scheduled | State::Due | State::Leased(..) | State::Offered)
    })
}

/// A dead letter or one that waits.
fn is_held(queue: &DurableQ, id: CallId) -> bool {
    queue.find(id).is_some_and(|view| view.state != State::Done)
}

fn submits(file: &[u8], number: u64) -> Vec<CallId> {
    let bytes = aligned(file);
    let mut here = false;
    let mut found = Vec::new();
    for entry in dump(&bytes) {
        match entry {
            Entry::Group { header, .. } => here = header.segment == number,
            Entry::Record { frame, .. } if here && frame.kind() == Kind::Submit => found.push(frame.call()),
            _ => {}
        }
    }
    found
}

/// An index that leaves out a call is found by the comparison with all of the log.
#[test]
#[should_panic(expected = "from the checkpoint, and from all of the log")]
fn canary_an_index_without_one_of_its_calls() {
    let mut world = busy(8);
    let (from, whole) = (begin(&world.disk), world.disk.without_checkpoint());
    let behind: BTreeSet<CallId> =
        world.disk.files.range(from..).flat_map(|(number, file)| submits(file, *number)).collect();
    let known = |id: &&CallId| waits(&world.queue, **id) && !behind.contains(id);
    let left_out = *world.ledger.keys().find(known).expect("known by the index alone");
    let mut disk = copy(&world.disk);
    for (segment, offset, header) in world.disk.groups().into_iter().filter(|group| group.0 >= from) {
        leave_out(&mut disk.files.get_mut(&segment).expect("there")[offset..], &header, left_out);
    }
    world.queue = disk.recover(&world.limits, world.now).expect("nothing shows it");
    let all = whole.recover(&world.limits, world.now).expect("sound");
    world.check_same(&all);
}

/// Puts another one's entry in the place of a call's, in all pages of a group.
fn leave_out(group: &mut [u8], header: &GroupHeader, call: CallId) {
    let mut at = GROUP_HEADER_BYTES + header.continues as usize;
    while at < header.bytes as usize {
        let bytes = aligned(&group[at..header.bytes as usize]);
        let Ok((frame, used)) = call::Frame::parse(&bytes) else { break };
        if frame.kind() == Kind::Index {
            let body: Vec<[u8; ENTRY_BYTES]> = entries(frame.body())
                .expect("a page")
                .map(
                    |entry| if entry.call == call { page::Entry { call: CallId(0), ..entry } } else { entry },
                )
                .map(|entry| entry.encode())
                .collect();
            let record = [&frame.header().encode(body.as_flattened())[..], body.as_flattened()].concat();
            group[at..at + record.len()].copy_from_slice(&record);
        }
        at += used;
    }
    header.seal(group);
}
