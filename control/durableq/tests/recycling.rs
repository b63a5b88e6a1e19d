//! Segments that are used again: what stands in them from earlier is never taken for the log.

mod world;

use call::body::{Arguments, Submit, append_submit};
use call::frame::FrameBuf;
use call::{CallId, Status, WallTime};
use durableq::HolderRef;
use durableq::log::dump::{Entry, dump};
use durableq::log::{GROUP_HEADER_BYTES, GroupHeader};
use world::{Disk, KEY, Random, World, limits};

/// Calls come and end, some after they have failed.
fn churn(world: &mut World, rounds: usize) {
    for round in 0..rounds {
        world.submit(round % 3, 0, 2500, round % 2 == 0);
        world.settle_disk();
        world.poll(round % 3);
        if world.lease(0, HolderRef(0)) {
            world.settle(0, if round % 7 == 0 { Status::Trap } else { Status::Ok }, 40);
        }
        world.advance(3_000_000);
    }
    world.settle_disk();
}

/// A log whose segments have all been used before.
fn recycled(seed: u64) -> World {
    let mut world = World::new(limits(), seed);
    churn(&mut world, 200);
    assert!(world.disk.recycled >= 4, "only {} segments were used again", world.disk.recycled);
    world
}

/// All groups that stand in a segment, whatever their headers say.
fn entries(file: &[u8]) -> Vec<(usize, GroupHeader)> {
    let mut bytes = FrameBuf::new();
    bytes.extend_from_slice(file);
    let groups = dump(&bytes).filter_map(|entry| match entry {
        Entry::Group { offset, header } => Some((offset as usize, header)),
        _ => None,
    });
    groups.collect()
}

/// The last segment that holds a group of the log, and where the log ends in it.
fn end(disk: &Disk) -> (u64, usize, GroupHeader) {
    let last = disk.files.iter().rev().find_map(|(number, file)| {
        let mut here = entries(file).into_iter().filter(|(_, header)| header.segment == *number);
        here.next_back().map(|(offset, header)| (*number, offset + header.bytes_on_disk(), header))
    });
    last.expect("a log")
}

/// A group with one submit of a call that nobody made, as it would have to look to be the next of the log.
fn next_group(segment: u64, last: &GroupHeader, key: u64) -> Vec<u8> {
    let mut block = FrameBuf::new();
    block.resize(GROUP_HEADER_BYTES, 0);
    let submit = Submit {
        call: INVENTED,
        function: world::function(0),
        start_at: WallTime(0),
        deadline: WallTime(0),
        criticality: 0,
        want_outcome: false,
        arguments: Arguments { payload: b"never submitted", attributes: &[] },
        ..Submit::default()
    };
    append_submit(&mut block, &submit).expect("small arguments");
    let header = GroupHeader {
        bytes: block.len() as u32,
        sequence: last.sequence + 1,
        durable: last.sequence,
        segment,
        key,
        ..*last
    };
    header.seal(&mut block);
    block.to_vec()
}

const INVENTED: CallId = CallId(0xdead_0000);

/// Puts a group behind the end of the log and recovers; whether its call is there then.
fn is_taken(world: &mut World, segment: impl Fn(u64) -> u64, key: u64) -> bool {
    let (number, at, last) = end(&world.disk);
    let group = next_group(segment(number), &last, key);
    let file = world.disk.files.get_mut(&number).expect("there");
    file[at..at + group.len()].copy_from_slice(&group);
    let queue = world.disk.recover(&world.limits, world.now).expect("stale bytes are no damage");
    queue.check();
    queue.find(INVENTED).is_some()
}

#[test]
fn segments_are_used_again_and_no_more_are_made() {
    let mut world = recycled(1);
    let made = |world: &World| world.disk.files.keys().last().expect("segments") - world.disk.recycled;
    let (before, recycled) = (made(&world), world.disk.recycled);
    churn(&mut world, 400);
    // A call that waits for its retry may hold several segments, which end at once.
    let (made, again) = (made(&world) - before, world.disk.recycled - recycled);
    assert!(made * 4 <= again, "{made} segments were made, {again} used again");
    assert!(world.disk.files.len() <= 8, "{} files", world.disk.files.len());
}

#[test]
fn stale_groups_behind_the_end_and_in_spare_segments_are_not_the_log() {
    for seed in 0..20 {
        let mut world = recycled(seed);
        churn(&mut world, seed as usize);
        let stale = |(number, file): (&u64, &Vec<u8>)| {
            entries(file).iter().filter(|(_, header)| header.segment != *number).count()
        };
        assert!(world.disk.files.iter().map(stale).sum::<usize>() > 0, "seed {seed} has no stale group");
        let (before, last) = (world.queue.counters(), end(&world.disk).2.sequence);
        world.crash();
        assert_eq!(world.queue.counters().recovered, before.pending_now + before.dead_now);
        churn(&mut world, 1);
        assert!(end(&world.disk).2.sequence > last, "the log goes on behind its last group");
        world.run_to_the_end();
    }
}

/// At random instants, again and again: in the middle of a new name, before the first group, with torn groups.
#[test]
fn crashes_while_segments_are_used_again_lose_nothing() {
    let (mut total, mut crashes) = (0, 0);
    for seed in 0..40 {
        let mut world = World::new(limits(), seed);
        let mut random = Random(seed);
        for _ in 0..12 {
            let steps = 40 + random.below(2500);
            for _ in 0..steps {
                step(&mut world, &mut random);
                world.queue.check();
            }
            total += std::mem::take(&mut world.disk.recycled);
            crashes += 1;
            world.crash();
        }
        world.run_to_the_end();
    }
    assert!(total > crashes, "{total} segments were used again between {crashes} crashes");
}

/// One small step, so that a crash may come between any two.
fn step(world: &mut World, random: &mut Random) {
    match random.below(16) {
        0 | 1 => {
            let payload = if random.below(8) == 0 { 12_000 } else { 2500 };
            world.submit(random.below(3), 0, payload, random.below(2) == 0);
        }
        2 | 3 => world.flush(),
        4..=6 => {
            world.disk_step(random.below(8));
        }
        7 | 8 => drop(world.events()),
        9 | 10 => {
            world.poll(random.below(3));
        }
        11 | 12 => {
            world.lease(random.below(8), HolderRef(0));
        }
        13 | 14 => drop(world.settle(random.below(8), Status::Ok, 30)),
        _ => world.advance(2_000_000),
    }
}

/// A segment whose new name is on disk, and nothing else: its first group is a stale one.
#[test]
fn a_segment_that_only_got_its_new_name_adds_nothing() {
    let world = recycled(3);
    let spare = world.disk.files.iter().find(|(number, file)| {
        let (offset, header) = entries(file)[0];
        offset == 0 && header.segment != **number
    });
    let (number, _) = spare.expect("a segment waits for its turn");
    let with = world.disk.recover(&world.limits, world.now).expect("a log").counters();
    let mut disk = Disk::default();
    disk.files.extend(world.disk.files.iter().filter(|(n, _)| *n != number).map(|(n, f)| (*n, f.clone())));
    let without = disk.recover(&world.limits, world.now).expect("a log").counters();
    assert_eq!(with.recovered, without.recovered);
}

/// Segments of the process before are removed: one of its writes may still reach them.
#[test]
fn segments_of_an_earlier_start_are_not_used_again() {
    let mut world = recycled(4);
    let before: Vec<u64> = world.disk.files.keys().copied().collect();
    world.disk.recycled = 0;
    world.crash();
    let mut removed = 0;
    for _ in 0..400 {
        churn(&mut world, 1);
        removed = before.iter().filter(|number| !world.disk.files.contains_key(number)).count();
        if removed == before.len() {
            break;
        }
        assert_eq!(world.disk.recycled_of(&before), 0, "a segment of the earlier start got another number");
    }
    assert_eq!(removed, before.len());
    churn(&mut world, 100);
    assert!(world.disk.recycled > 0, "its own are");
}

#[test]
fn without_renaming_segments_are_made_and_removed() {
    let mut world = World::new(limits(), 5);
    world.disk.no_rename = true;
    churn(&mut world, 200);
    assert_eq!(world.disk.recycled, 0);
    assert!(world.disk.files.len() <= 8, "{} files", world.disk.files.len());
    world.crash();
    world.run_to_the_end();
}

/// A client may have written whatever it likes at the place where the reader looks for the next group.
#[test]
fn what_a_client_wrote_is_never_a_group() {
    for seed in 0..8 {
        let mut world = recycled(seed);
        assert!(!is_taken(&mut world, |number| number, KEY ^ 1), "another key");
        assert!(!is_taken(&mut world, |number| number - 1, KEY), "of an earlier life of the file");
    }
}

/// The test above sees a group that is taken.
#[test]
#[should_panic(expected = "a forged group is taken")]
fn canary_the_key_is_known() {
    let mut world = recycled(1);
    assert!(!is_taken(&mut world, |number| number, KEY), "a forged group is taken");
}

/// The tests above see a log that takes stale groups: here they carry the new number of their segment.
#[test]
#[should_panic(expected = "recovered")]
fn canary_stale_groups_carry_the_new_number() {
    let mut world = recycled(2);
    let before = world.queue.counters();
    for (number, file) in &mut world.disk.files {
        for (offset, header) in entries(file) {
            GroupHeader { segment: *number, ..header }.seal(&mut file[offset..]);
        }
    }
    match world.disk.recover(&world.limits, world.now) {
        Ok(queue) => {
            assert_eq!(queue.counters().recovered, before.pending_now + before.dead_now, "recovered")
        }
        Err(error) => panic!("recovered: {error}"),
    }
}
