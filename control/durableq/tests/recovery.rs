//! The log after a crash, after damage, and as arbitrary bytes.

mod world;

use call::frame::FrameBuf;
use call::limits::Limits;
use call::{Instant, Status, WallTime};
use durableq::log::GROUP_ALIGN;
use durableq::log::dump::{Entry, dump};
use durableq::{HolderRef, Recovery, RecoveryError};
use proptest::prelude::*;
use world::{Disk, Random, World, limits};

/// A log of several segments with every kind of record, all of which a start reads.
fn busy(seed: u64) -> World {
    busy_with(Limits { checkpoint_segments: usize::MAX, ..limits() }, seed)
}

fn busy_with(limits: Limits, seed: u64) -> World {
    let mut world = World::new(limits, seed);
    for round in 0..60 {
        let payload = if round % 20 == 7 { 20_000 } else { 300 };
        world.submit(round % 3, 0, payload, round % 2 == 0);
        world.settle_disk();
        world.poll(round % 3);
        world.lease(0, HolderRef(0));
        let status = if round % 4 == 0 { Status::Trap } else { Status::Ok };
        if round % 5 != 0 {
            world.settle(0, status, 40);
        }
        world.advance(3_000_000);
    }
    world.settle_disk();
    world
}

#[test]
fn a_dump_shows_every_record() {
    let world = busy(1);
    let mut kinds = std::collections::BTreeMap::new();
    for file in world.disk.files.values() {
        let mut bytes = FrameBuf::new();
        bytes.extend_from_slice(file);
        for entry in dump(&bytes) {
            match entry {
                Entry::Record { frame, .. } => *kinds.entry(frame.kind() as u8).or_insert(0) += 1,
                Entry::Group { .. } | Entry::Part { .. } => {}
                other => panic!("{other:?} in a sound log"),
            }
        }
    }
    for kind in [call::Kind::Submit, call::Kind::Retry, call::Kind::Done] {
        assert!(kinds.contains_key(&(kind as u8)), "{kind:?} in {kinds:?}");
    }
}

/// Each prefix of the log, cut at any group, is a log; and it holds what was acknowledged by then.
#[test]
fn the_log_may_end_at_any_group() {
    let world = busy(2);
    for (index, (segment, offset, _)) in world.disk.groups().into_iter().enumerate() {
        let mut disk = Disk::default();
        disk.files.extend(world.disk.files.range(..=segment).map(|(number, file)| (*number, file.clone())));
        disk.files.get_mut(&segment).expect("cut here")[offset..].fill(0);
        let queue = disk.recover(&world.limits, 1).expect("a prefix");
        queue.check();
        // One more than the groups say, if there is one.
        assert_eq!(queue.incarnation(), if index == 0 { 1 } else { 2 });
    }
}

/// A group that is broken while later ones say that it had been on disk: that is no crash.
#[test]
fn lost_groups_are_told_and_not_forgotten() {
    let world = busy(3);
    let all = world.disk.groups();
    // Groups in flight together with the last are not claimed by it.
    for (segment, offset, header) in &all[..all.len() - 1] {
        let mut disk = Disk::default();
        disk.files = world.disk.files.clone();
        disk.files.get_mut(segment).expect("broken here")[offset + 100] ^= 1;
        match disk.recover(&world.limits, 1) {
            Err(RecoveryError::Damaged { missing, .. }) => assert!(missing <= header.sequence + 1),
            // The oldest group on disk may have been the one that was broken.
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("group {} was forgotten in silence", header.sequence),
        }
    }
}

/// The process dies again and again, soon after its start, and each time a call was accepted.
fn dying(times: usize) -> World {
    let mut world = World::new(limits(), 5);
    for _ in 0..times {
        world.submit(0, 0, 100, false);
        world.settle_disk();
        world.queue = world.disk.recover(&world.limits, world.now).expect("a crash");
        world.leased.clear();
        world.offered.clear();
        (0..3).for_each(|of| assert!(world.queue.intern(world::function(of)).is_some()));
    }
    world
}

/// What earlier starts left empty is not read: of each segment but the last ones, where its groups are.
#[test]
fn a_start_does_not_read_what_earlier_starts_left_empty() {
    let world = dying(30);
    let used: std::collections::BTreeSet<u64> = world.disk.groups().iter().map(|group| group.0).collect();
    let last = *used.last().expect("groups");
    let mut recovery = durableq::Recovery::new(&world.limits);
    recovery.segments(world.disk.files.iter().map(|(number, file)| (*number, file.len() as u64)));
    let mut reads = std::collections::BTreeMap::new();
    while let Some((number, offset)) = recovery.next_read() {
        *reads.entry(number).or_insert(0) += 1;
        let file = &world.disk.files[&number];
        let end = file.len().min(offset as usize + world.limits.group_bytes);
        recovery.feed(&world::aligned(&file[offset as usize..end])).expect("a crash");
    }
    let whole = world.disk.files.values().next().expect("segments").len() / world.limits.group_bytes;
    for (number, reads) in reads {
        // Two groups a life, and the look at what stands behind them.
        assert!(number >= last || reads <= 2, "segment {number}: {reads} reads of {whole}");
    }
}

/// The last group of an earlier start, which was on disk, is not there any more. Later starts went on behind it.
#[test]
fn a_group_that_an_earlier_start_lost_is_told() {
    let world = dying(5);
    let all = world.disk.groups();
    let starts: Vec<_> =
        all.windows(2).filter(|two| two[0].2.incarnation < two[1].2.incarnation).map(|two| two[0]).collect();
    // Where a log begins it may have been cut: its first group may be any.
    let starts = &starts[1..];
    assert!(!starts.is_empty(), "no life but the first in the log");
    for &(segment, offset, header) in starts {
        let mut disk = Disk::default();
        disk.files = world.disk.files.clone();
        let group = offset..offset + header.bytes_on_disk();
        disk.files.get_mut(&segment).expect("there")[group].fill(0);
        match disk.recover(&world.limits, 1) {
            Err(RecoveryError::Damaged { missing, .. }) => assert_eq!(missing, header.sequence),
            other => panic!("group {}: {:?}", header.sequence, other.map(|_| "forgotten in silence")),
        }
    }
}

/// A write of the process that died reaches the disk after the next process has read the log.
#[test]
fn a_write_that_lands_late_does_no_harm() {
    let mut world = busy(4);
    let (segment, offset, header) = *world.disk.groups().last().expect("groups");
    let file = &world.disk.files[&segment];
    let late = file[offset..offset + header.bytes_on_disk()].to_vec();
    world.disk.files.get_mut(&segment).expect("there")[offset..offset + late.len()].fill(0);
    for round in 0..3 {
        world.queue = world.disk.recover(&world.limits, world.now).expect("a crash");
        world.leased.clear();
        world.offered.clear();
        (0..3).for_each(|of| assert!(world.queue.intern(world::function(of)).is_some()));
        let id = world.submit(round, 0, 100, false);
        world.settle_disk();
        if world.disk.files.contains_key(&segment) {
            world.disk.files.get_mut(&segment).expect("there")[offset..offset + late.len()]
                .copy_from_slice(&late);
        }
        let queue = world.disk.recover(&world.limits, world.now).expect("the late group is no damage");
        queue.check();
        assert!(queue.find(id).is_some(), "what was acknowledged behind the late group");
    }
}

/// The lying disk: what a test of this crate finds when a write is told to be on disk and is not.
#[test]
#[should_panic(expected = "was accepted and is None")]
fn canary_acknowledged_before_it_is_on_disk() {
    let mut world = World::new(limits(), 5);
    world.submit(0, 0, 10, false);
    world.settle_disk();
    world.disk.lies = true;
    world.submit(0, 0, 10, false);
    world.settle_disk();
    world.crash();
}

/// The checker of lease epochs finds a log that forgot its incarnation.
#[test]
#[should_panic(expected = "an epoch is given once")]
fn canary_an_incarnation_is_forgotten() {
    let mut world = World::new(limits(), 6);
    for _ in 0..2 {
        world.submit(0, 0, 10, false);
        world.settle_disk();
        assert!(world.poll(0) && world.lease(0, HolderRef(0)));
        world.ledger.clear();
        world.disk.files.clear();
        world.crash();
    }
}

fn arbitrary_file() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..3 * GROUP_ALIGN)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Arbitrary bytes are not a log.
    #[test]
    fn arbitrary_bytes_hold_no_call(files in prop::collection::vec(arbitrary_file(), 1..4)) {
        let mut disk = Disk::default();
        disk.files.extend(files.into_iter().enumerate().map(|(number, file)| (number as u64, file)));
        let queue = disk.recover(&limits(), 1).expect("nothing to be read");
        queue.check();
        prop_assert_eq!(queue.counters().recovered, 0);
    }

    /// Bytes of a log that were changed, moved or cut give an error or a queue, and calls only as they were submitted.
    #[test]
    fn mutated_logs_give_an_error_or_a_prefix(seed in 0u64..20, changes in 1usize..8, random in any::<u64>()) {
        let world = busy_with(limits(), seed);
        let mut disk = Disk::default();
        disk.files = world.disk.files.clone();
        let mut random = Random(random);
        for _ in 0..changes {
            mutate(&mut disk, &mut random);
        }
        if let Ok(queue) = disk.recover(&world.limits, 1) {
            queue.check();
            for (id, entry) in &world.ledger {
                if let Some(submit) = queue.find(*id).and_then(|view| view.submit) {
                    prop_assert_eq!(submit.bytes(), &entry.frame[..]);
                }
            }
        }
    }

    /// Sound groups around records that are none, or in an order that cannot be: nothing panics, nothing half is applied.
    #[test]
    fn forged_groups_never_panic(seed in any::<u64>()) {
        let mut random = Random(seed);
        let world = busy_with(limits(), seed % 8);
        let mut disk = Disk::default();
        disk.files = world.disk.files.clone();
        let all = disk.groups();
        for _ in 0..4 {
            let (segment, offset, mut header) = all[random.below(all.len())];
            let file = disk.files.get_mut(&segment).expect("there");
            let at = offset + 64 + random.below(header.bytes as usize - 64);
            file[at] ^= 1 << random.below(8);
            match random.below(6) {
                0 => header.continues = 16 * random.below(header.bytes as usize / 16 - 4) as u32,
                1 => header.sequence = header.sequence.saturating_add(random.below(3) as u64).max(header.durable + 1),
                2 => header.incarnation += random.below(2) as u32,
                3 => header.bytes = (header.bytes - 16).max(80),
                _ => {}
            }
            header.seal(&mut file[offset..]);
        }
        if let Ok(queue) = disk.recover(&world.limits, 1) {
            queue.check();
        }
    }
}

fn mutate(disk: &mut Disk, random: &mut Random) {
    let numbers: Vec<u64> = disk.files.keys().copied().collect();
    let number = numbers[random.below(numbers.len())];
    let file = disk.files.get_mut(&number).expect("there");
    if file.is_empty() {
        return;
    }
    let at = random.below(file.len());
    match random.below(5) {
        0 => file[at] ^= 1 << random.below(8),
        1 => file[at..].fill(0),
        2 => file.truncate(at),
        3 => {
            let page = random.below(file.len() / GROUP_ALIGN + 1) * GROUP_ALIGN;
            let end = (page + GROUP_ALIGN).min(file.len());
            file[page.min(end)..end].fill(0);
        }
        _ => {
            disk.files.remove(&number);
        }
    }
    if disk.files.is_empty() {
        disk.files.insert(1, vec![0; 4096]);
    }
}

#[test]
fn smaller_limits_are_told() {
    let world = busy(9);
    let less = Limits { calls_max: 3, ..world.limits.clone() };
    let error = world.disk.recover(&less, 1).expect_err("more calls than that");
    assert_eq!(error, RecoveryError::TooSmall { limit: "calls_max", value: 3 });
    let less = Limits { group_bytes: 4096, ..world.limits.clone() };
    let error = world.disk.recover(&less, 1).expect_err("larger groups than that");
    assert_eq!(error, RecoveryError::TooSmall { limit: "group_bytes", value: 4096 });
    assert!(error.to_string().contains("limits of before"), "{error}");
}

#[test]
fn an_empty_directory_is_an_empty_queue() {
    let queue = Recovery::new(&limits()).finish(Instant(0), WallTime(0), world::KEY).expect("no log");
    queue.check();
    assert_eq!((queue.incarnation(), queue.counters().recovered), (1, 0));
}
