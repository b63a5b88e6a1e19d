//! What only the simulation can show: equal seeds, crashes, cuts. The rest is in `tests/conformance`.

use super::*;
use crate::arrivals::Event;
use crate::seam::Closed;
use call::frame::{self, Header, Kind};

fn at() -> Endpoint {
    "tcp:10.0.0.1:7410".parse().expect("an endpoint")
}

fn frames(count: u64) -> FrameBuf {
    let mut out = FrameBuf::new();
    for stamp in 0..count {
        frame::append(&mut out, &Header { stamp, ..Header::new(Kind::Outcome) }, &[7; 100]);
    }
    out
}

/// Reaps until `until` and shows each event.
fn run(driver: &mut SimDriver, until: Instant, mut see: impl FnMut(&mut SimDriver, Event<'_>)) {
    let mut arrivals = Arrivals::new();
    while driver.now() < until {
        driver.reap(until, &mut arrivals);
        arrivals.iter().for_each(|event| see(driver, event));
    }
}

/// A server that counts frames, a client that sends 500 and may be cut: what the server saw, how it ended, the hash.
fn cut_run(seed: u64, cut_ppm: Ppm) -> (u64, Option<Closed>, u64) {
    let world = World::new(seed, Conditions { cut_ppm, ..Conditions::default() });
    let (mut server, mut client) = (world.boot("a", Sizes::default()), world.boot("b", Sizes::default()));
    server.listen(&at()).expect("a free endpoint");
    let connection = client.connect(&at());
    client.send(connection, &frames(500)).expect("room");
    client.reap(world.now(), &mut Arrivals::new());
    let (mut seen, mut end) = (0, None);
    run(&mut server, world.now() + Duration::from_secs(2), |_, event| match event {
        Event::Frame { frame, .. } => {
            assert_eq!(frame.stamp(), seen, "in order");
            seen += 1;
        }
        Event::Closed { reason, .. } => end = Some(reason),
        _ => {}
    });
    (seen, end, world.trace_hash())
}

#[test]
fn equal_seeds_give_equal_worlds() {
    assert_eq!(cut_run(7, 100_000), cut_run(7, 100_000));
    assert_ne!(cut_run(7, 100_000).2, cut_run(8, 100_000).2);
}

#[test]
fn a_cut_connection_loses_its_tail_and_says_so() {
    assert_eq!(cut_run(1, 0).0, 500);
    let cut: Vec<_> =
        (0..50).map(|seed| cut_run(seed, 300_000)).filter(|(_, end, _)| end.is_some()).collect();
    assert!(cut.len() > 10, "only {} were cut", cut.len());
    assert!(cut.iter().any(|(seen, ..)| *seen < 500));
}

fn write_page(driver: &mut SimDriver, file: FileId, page: u64, fill: u8) {
    let block = driver.take_block().expect("a block");
    driver.block(block)[..8192].fill(fill);
    driver.write(file, page * 4096, block, 8192, Token(page));
}

/// Makes a file, writes pages 0 and 1 and waits, then writes pages 2 and 3 and dies at once. What is there then?
fn crash_run(seed: u64, lying_disk: bool) -> Vec<u8> {
    let world = World::new(seed, Conditions { lying_disk, ..Conditions::default() });
    let mut driver = world.boot("a", Sizes::default());
    driver.create("f", 16 << 10, Token(9));
    let mut file = None;
    run(&mut driver, world.now() + Duration::from_secs(1), |driver, event| match event {
        Event::Created { result, .. } => {
            file = Some(result.expect("room"));
            write_page(driver, file.expect("just made"), 0, 1);
        }
        Event::Written { token, result } => assert_eq!((token, result), (Token(0), Ok(()))),
        other => panic!("{other:?}"),
    });
    write_page(&mut driver, file.expect("made"), 2, 2);
    drop(driver);
    let mut driver = world.boot("a", Sizes::default());
    let (file, block) = (driver.open("f").expect("it is there"), driver.take_block().expect("a block"));
    driver.read(file, 0, block, 16 << 10, Token(1));
    let mut content = Vec::new();
    run(&mut driver, world.now() + Duration::from_secs(1), |driver, event| match event {
        Event::Read { result, .. } => content = driver.block(block)[..result.expect("read")].to_vec(),
        other => panic!("{other:?}"),
    });
    content
}

#[test]
fn what_was_told_to_be_written_survives_and_the_rest_may_be_torn() {
    let mut shapes = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let content = crash_run(seed, false);
        assert!(content[..8192].iter().all(|byte| *byte == 1), "seed {seed}");
        let sectors = content[8192..].chunks(512).map(|sector| sector[0]).collect::<Vec<_>>();
        shapes.insert(sectors);
    }
    assert!(shapes.contains(&vec![0; 16]) && shapes.contains(&vec![2; 16]) && shapes.len() > 10);
}

/// Makes four files, removes two and renames two, one of each to the end; what is there after a crash?
fn relinked_run(seed: u64) -> Vec<String> {
    let world = World::new(seed, Conditions::default());
    let mut driver = world.boot("a", Sizes::default());
    let mut made = Vec::new();
    let wait = |driver: &mut SimDriver, made: &mut Vec<FileId>| {
        run(driver, world.now() + Duration::from_millis(10), |_, event| match event {
            Event::Created { result, .. } => made.push(result.expect("room")),
            Event::Directory { result, .. } => result.expect("a good disk"),
            other => panic!("{other:?}"),
        });
    };
    for name in ["a", "b", "c", "d"] {
        driver.create(name, 4096, Token(0));
        wait(&mut driver, &mut made);
    }
    driver.remove(made[0], "a", Token(1));
    driver.rename("b", "x", Token(2));
    wait(&mut driver, &mut made);
    driver.remove(made[2], "c", Token(3));
    driver.rename("d", "y", Token(4));
    drop(driver);
    let files = world.boot("a", Sizes::default()).files().expect("a directory");
    files.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_removed_file_or_an_old_name_may_come_back_until_it_is_told() {
    let seen: std::collections::BTreeSet<String> =
        (0..40).map(relinked_run).map(|names| names.join("")).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["cdx", "cxy", "dx", "xy"]);
}

#[test]
#[should_panic(expected = "lost")]
fn canary_a_lying_disk_loses_what_it_told_to_be_written() {
    for seed in 0..20 {
        assert!(crash_run(seed, true)[0] == 1, "lost with seed {seed}");
    }
}
