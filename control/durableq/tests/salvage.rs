//! A damaged log, when an operator says that recovery goes on: all that is sound is there, all that is lost is told.

mod world;

use call::limits::Limits;
use call::{CallId, Status};
use durableq::log::{GROUP_ALIGN, GroupHeader};
use durableq::{DurableQ, HolderRef, Loss, Recover, State};
use proptest::prelude::*;
use std::collections::BTreeSet;
use world::{Disk, Random, World, limits};

/// A log with calls that wait, have ended, and are dead letters, and without a checkpoint: all of it is read.
fn busy(seed: u64) -> World {
    busy_with(usize::MAX, seed)
}

fn busy_with(checkpoint_segments: usize, seed: u64) -> World {
    // Room for calls that are back because the record of their end is lost.
    let limits = Limits { calls_max: 400, dead_letters_max: 100, checkpoint_segments, ..limits() };
    let mut world = World::new(limits, seed);
    for round in 0..60 {
        let payload = if round % 20 == 7 { 20_000 } else { 300 };
        for _ in 0..3 {
            world.submit(round % 3, 0, payload / 2, false);
        }
        world.submit(round % 3, 0, payload, round % 2 == 0);
        world.settle_disk();
        world.poll(round % 3);
        world.lease(0, HolderRef(0));
        if round % 5 != 0 {
            world.settle(0, if round % 4 == 0 { Status::Trap } else { Status::Ok }, 40);
        }
        world.advance(3_000_000);
    }
    world.settle_disk();
    world
}

fn copy(disk: &Disk) -> Disk {
    let mut copy = Disk::default();
    copy.files = disk.files.clone();
    copy
}

/// Calls that are pending or dead letters.
fn live(world: &World, queue: &DurableQ) -> BTreeSet<CallId> {
    let is = |id: &&CallId| queue.find(**id).is_some_and(|view| view.state != State::Done);
    world.ledger.keys().filter(is).copied().collect()
}

/// Whatever differs from the sound log is told: by its id, or as a record that cannot be read any more.
fn check_told(world: &World, sound: &DurableQ, salvaged: &DurableQ, losses: &[Loss]) {
    let told: BTreeSet<CallId> = losses.iter().flat_map(|loss| &loss.lost).map(|lost| lost.call).collect();
    let untold = losses.iter().any(|loss| loss.untold_bytes > 0 || loss.groups > loss.damaged);
    let (before, after) = (live(world, sound), live(world, salvaged));
    for id in before.symmetric_difference(&after) {
        assert!(untold || told.contains(id), "{id} is lost, or back, and nobody says so: {losses:?}");
    }
}

fn salvage(world: &World, disk: &Disk) -> (DurableQ, Vec<Loss>) {
    let (queue, losses) = disk.recover_by(&world.limits, world.now, Recover::Salvage).expect("salvaged");
    queue.check();
    (queue, losses)
}

/// A bit of one record: the others of its group are saved, and the call is named.
#[test]
fn a_flipped_bit_costs_one_record() {
    let world = busy(1);
    let sound = world.disk.recover(&world.limits, world.now).expect("sound");
    let all = world.disk.groups();
    let mut saved = 0;
    for (segment, offset, header) in all[..all.len() - 8].iter().filter(|(.., header)| header.continues == 0)
    {
        let mut disk = copy(&world.disk);
        // In the header of the group's first record, where its checksum stands.
        disk.files.get_mut(segment).expect("there")[offset + 64 + 12] ^= 1;
        assert!(disk.recover(&world.limits, world.now).is_err(), "strict is the default");
        let (queue, losses) = salvage(&world, &disk);
        let [loss] = &losses[..] else { panic!("one break, not {losses:?}") };
        assert_eq!((loss.group, loss.groups, loss.damaged), (header.sequence, 1, 1), "{loss}");
        assert!(!loss.lost.is_empty() || loss.untold_bytes > 0, "{loss}");
        if let Some(lost) = loss.lost.first() {
            assert_eq!((lost.segment, lost.offset), (*segment, *offset as u64 + 64));
        }
        check_told(&world, &sound, &queue, &losses);
        saved += loss.saved;
    }
    assert!(saved > 50, "{saved} records were saved beside damaged ones");
}

/// A group of which nothing can be read: it is counted, and all others are there.
#[test]
fn a_group_that_is_gone_is_counted() {
    let world = busy(2);
    let sound = world.disk.recover(&world.limits, world.now).expect("sound");
    let all = world.disk.groups();
    for (segment, offset, header) in &all[..all.len() - 8] {
        let mut disk = copy(&world.disk);
        disk.files.get_mut(segment).expect("there")[*offset..offset + header.bytes_on_disk()].fill(0);
        let (queue, losses) = salvage(&world, &disk);
        assert_eq!(losses.len(), 1, "{losses:?}");
        assert_eq!((losses[0].group, losses[0].groups, losses[0].damaged), (header.sequence, 1, 0));
        check_told(&world, &sound, &queue, &losses);
        // Of the calls whose groups are there, none is lost.
        let missing = live(&world, &sound).difference(&live(&world, &queue)).count();
        assert!(missing <= 4, "{missing} calls of one group");
    }
}

/// What was salvaged is copied to the tail of the log, and the next start is a strict one again.
#[test]
fn a_salvaged_log_is_rewritten() {
    let mut world = busy(3);
    let all = world.disk.groups();
    for at in [all.len() / 4, all.len() / 2] {
        let (segment, offset, _) = all[at];
        world.disk.files.get_mut(&segment).expect("there")[offset + 64 + 12] ^= 1;
    }
    let (queue, losses) = salvage(&world, &copy(&world.disk));
    assert_eq!(losses.len(), 2, "{losses:?}");
    assert!(queue.is_rewriting());
    world.leased.clear();
    world.offered.clear();
    world.queue = queue;
    for of in 0..3 {
        assert!(world.queue.intern(world::function(of)).is_some());
    }
    let salvaged = live(&world, &world.queue);
    for _ in 0..1000 {
        world.queue.advance(call::Instant(world.now), call::WallTime(world.now));
        world.flush();
        while world.disk_step(0) {}
        while world.queue.next_event().is_some() {}
    }
    world.queue.check();
    assert!(!world.queue.is_rewriting(), "{:?}", world.queue.counters());
    let again = world.disk.recover(&world.limits, world.now).expect("sound again");
    assert_eq!(live(&world, &again), salvaged);
}

/// The oldest segment holds one group, and that is damaged: the log does not begin behind it. And when its key is damaged,
/// the others are known by theirs.
#[test]
fn a_log_begins_with_what_is_damaged_there() {
    let mut world = World::new(limits(), 5);
    for of in 0..3 {
        world.submit(of, 0, 100, false);
    }
    world.settle_disk();
    // A start begins a segment.
    world.crash();
    world.settle_disk();
    let all = world.disk.groups();
    let (first, others): (Vec<&(u64, usize, GroupHeader)>, Vec<_>) =
        all.iter().partition(|(segment, ..)| *segment == all[0].0);
    assert!(first.len() < 3 && !others.is_empty(), "{all:?}");
    let key = first[0].1 + 48;
    for bit in 0..64 {
        let mut disk = copy(&world.disk);
        for (segment, offset, header) in &first {
            disk.files.get_mut(segment).expect("there")[offset + header.bytes as usize - 1] ^= 1;
        }
        disk.files.get_mut(&first[0].0).expect("there")[key + bit / 8] ^= 1 << (bit % 8);
        assert!(disk.recover(&world.limits, world.now).is_err(), "bit {bit}: calls are forgotten");
        let (queue, losses) = salvage(&world, &disk);
        assert_eq!(losses.len(), 1, "{losses:?}");
        assert_eq!(losses[0].group, first[0].2.sequence);
        let incarnation = world.queue.incarnation();
        assert_eq!(queue.incarnation(), incarnation + 1, "the others are there");
    }
}

/// The same, whatever bit of the first header it is: also when it says another sequence, or that it is no group at all.
#[test]
fn a_log_whose_first_header_is_damaged_does_not_begin_behind_it() {
    let mut world = World::new(limits(), 5);
    world.submit(0, 0, 100, false);
    world.settle_disk();
    world.crash();
    world.settle_disk();
    let all = world.disk.groups();
    let oldest = all.iter().filter(|(segment, ..)| *segment == all[0].0);
    let sequence = oldest.clone().map(|(.., header)| header.sequence).max().expect("at least one");
    for bit in 0..64 * 8 {
        let mut disk = copy(&world.disk);
        for (segment, offset, _) in oldest.clone() {
            disk.files.get_mut(segment).expect("there")[offset + bit / 8] ^= 1 << (bit % 8);
        }
        let strict = disk.recover(&world.limits, world.now);
        assert!(strict.is_err(), "bit {bit}: {} groups are forgotten", oldest.clone().count());
        let (_, losses) = salvage(&world, &disk);
        let [loss] = &losses[..] else { panic!("bit {bit}: {losses:?}") };
        assert!(loss.groups >= 1 && loss.group <= sequence, "bit {bit}: {loss}");
    }
}

#[test]
#[should_panic(expected = "nobody says so")]
fn canary_a_loss_that_is_not_told() {
    let world = busy(4);
    let sound = world.disk.recover(&world.limits, world.now).expect("sound");
    for (segment, offset, _) in world.disk.groups() {
        let mut disk = copy(&world.disk);
        disk.files.get_mut(&segment).expect("there")[offset + 64 + 12] ^= 1;
        let (queue, mut losses) = salvage(&world, &disk);
        losses.clear();
        check_told(&world, &sound, &queue, &losses);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    /// Bytes of a log that were changed, moved or cut: nothing panics, and calls are as they were submitted.
    #[test]
    fn whatever_is_damaged_the_rest_is_as_it_was(seed in 0u64..20, changes in 1usize..8, random in any::<u64>()) {
        let world = busy(seed);
        let mut disk = copy(&world.disk);
        let mut random = Random(random);
        for _ in 0..changes {
            let numbers: Vec<u64> = disk.files.keys().copied().collect();
            let file = disk.files.get_mut(&numbers[random.below(numbers.len())]).expect("there");
            let at = random.below(file.len());
            match random.below(4) {
                0 | 1 => file[at] ^= 1 << random.below(8),
                2 => file[at..].fill(0),
                _ => file[at / GROUP_ALIGN * GROUP_ALIGN..][..GROUP_ALIGN].fill(0),
            }
        }
        let strict = disk.recover(&world.limits, world.now);
        let (queue, losses) = salvage(&world, &disk);
        for (id, entry) in &world.ledger {
            if let Some(submit) = queue.find(*id).and_then(|view| view.submit) {
                prop_assert_eq!(submit.bytes(), &entry.frame[..]);
            }
        }
        match strict {
            // Nothing is damaged but what a crash may leave: then both are the same.
            Ok(strict) => {
                prop_assert!(losses.is_empty(), "{:?}", losses);
                prop_assert_eq!(live(&world, &strict), live(&world, &queue));
            }
            Err(_) => prop_assert!(!losses.is_empty(), "damage that is not told"),
        }
    }

    /// The same with checkpoints, which know of calls whose records are damaged: of each call that waits the bytes are
    /// there, or it is told, at the start or when it is read.
    #[test]
    fn whatever_a_checkpoint_knows_is_there_or_told(seed in 0u64..20, changes in 1usize..8, random in any::<u64>()) {
        let mut world = busy_with(1, seed);
        let sound = world.disk.recover(&world.limits, world.now).expect("sound");
        let mut random = Random(random);
        for _ in 0..changes {
            let numbers: Vec<u64> = world.disk.files.keys().copied().collect();
            let file = world.disk.files.get_mut(&numbers[random.below(numbers.len())]).expect("there");
            let at = random.below(file.len());
            match random.below(3) {
                0 | 1 => file[at] ^= 1 << random.below(8),
                _ => file[at / GROUP_ALIGN * GROUP_ALIGN..][..GROUP_ALIGN].fill(0),
            }
        }
        let (queue, losses) = salvage(&world, &copy(&world.disk));
        world.queue = queue;
        let mut told: BTreeSet<CallId> = losses.iter().flat_map(|loss| &loss.lost).map(|lost| lost.call).collect();
        for id in live(&world, &world.queue) {
            while !world.queue.fetch(id) {
                world.flush();
                while world.disk_step(0) {}
                told.extend(std::iter::from_fn(|| world.queue.next_damage()).map(|damage| damage.call));
            }
            let submit = world.queue.find(id).and_then(|view| view.submit);
            let same = submit.is_some_and(|submit| submit.bytes() == &world.ledger[&id].frame[..]);
            prop_assert!(same || told.contains(&id), "{}: other bytes, and nobody says so", id);
        }
        told.extend(std::iter::from_fn(|| world.queue.next_damage()).map(|damage| damage.call));
        let untold = losses.iter().any(|loss| loss.untold_bytes > 0 || loss.groups > loss.damaged);
        for id in live(&world, &sound).difference(&live(&world, &world.queue)) {
            prop_assert!(untold || told.contains(id), "{} is lost, and nobody says so: {:?}", id, losses);
        }
    }
}
