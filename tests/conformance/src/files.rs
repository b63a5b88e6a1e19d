//! Files of the data directory, and the blocks that carry their bytes.

use crate::{Ground, Seen, Side, pattern};
use driver::{BlockId, Driver, FileId, Token};

const PAGE: usize = 4096;

fn created(seen: &[Seen], token: Token) -> Option<Result<FileId, i32>> {
    seen.iter().find_map(|seen| match seen {
        Seen::Created(of, result) if *of == token => Some(*result),
        _ => None,
    })
}

fn create<D: Driver>(side: &mut Side<D>, name: &str, bytes: usize, token: u64) -> Result<FileId, i32> {
    side.driver.create(name, bytes as u64, Token(token));
    side.until("a file to be made", |seen| created(seen, Token(token)).is_some());
    created(&side.seen, Token(token)).expect("waited for")
}

/// Waits for a removal or renaming; what came of it.
fn directory<D: Driver>(side: &mut Side<D>, token: u64) -> Result<(), i32> {
    let of = |seen: &[Seen]| {
        seen.iter().find_map(|seen| match seen {
            Seen::Directory(of, result) if *of == Token(token) => Some(*result),
            _ => None,
        })
    };
    side.until("the directory to change", |seen| of(seen).is_some());
    of(&side.seen).expect("waited for")
}

/// A block filled with a pattern.
fn filled<D: Driver>(side: &mut Side<D>, seed: u64, bytes: usize) -> BlockId {
    let block = side.driver.take_block().expect("a block is free");
    side.driver.block(block)[..bytes].copy_from_slice(&pattern(seed, bytes));
    block
}

/// Writes a pattern and waits until it is on disk.
fn write<D: Driver>(side: &mut Side<D>, file: FileId, offset: u64, seed: u64, bytes: usize) {
    let block = filled(side, seed, bytes);
    let token = Token(1_000_000 + side.seen.len() as u64);
    side.driver.write(file, offset, block, bytes, token);
    side.until("a write", |seen| seen.iter().any(|s| matches!(s, Seen::Written(of, _) if *of == token)));
    assert!(side.seen.contains(&Seen::Written(token, Ok(()))));
    side.driver.give_block(block);
}

fn read<D: Driver>(side: &mut Side<D>, file: FileId, offset: u64, bytes: usize) -> Vec<u8> {
    let block = side.driver.take_block().expect("a block is free");
    let token = Token(2_000_000 + side.seen.len() as u64);
    side.driver.read(file, offset, block, bytes, token);
    side.until("a read", |seen| seen.iter().any(|s| matches!(s, Seen::Read(of, _) if *of == token)));
    let got = side.seen.iter().find_map(|seen| match seen {
        Seen::Read(of, result) if *of == token => Some(result.expect("a good read")),
        _ => None,
    });
    let content = side.driver.block(block)[..got.expect("waited for")].to_vec();
    side.driver.give_block(block);
    content
}

/// A made file has its size, is listed, and holds zeros.
pub fn a_new_file_is_zeros<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    assert_eq!(side.driver.files().expect("a directory"), []);
    let file = create(&mut side, "b.seg", 5 * PAGE, 1).expect("made");
    create(&mut side, "a.seg", PAGE, 2).expect("made");
    let listed = side.driver.files().expect("a directory");
    assert_eq!(listed, [("a.seg".to_string(), PAGE as u64), ("b.seg".to_string(), 5 * PAGE as u64)]);
    assert_eq!(read(&mut side, file, 0, 5 * PAGE), vec![0; 5 * PAGE]);
}

/// A file that is there is not made again, and keeps what it holds.
pub fn a_file_is_made_once<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let file = create(&mut side, "one", 2 * PAGE, 1).expect("made");
    write(&mut side, file, 0, 5, PAGE);
    assert_eq!(create(&mut side, "one", 2 * PAGE, 2), Err(libc::EEXIST));
    assert_eq!(read(&mut side, file, 0, PAGE), pattern(5, PAGE));
}

/// What was told to be written is there after the process is gone.
pub fn writes_are_there_for_the_next_process<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let file = create(&mut side, "log", 16 * PAGE, 1).expect("made");
    write(&mut side, file, 4 * PAGE as u64, 1, 3 * PAGE);
    write(&mut side, file, 0, 2, PAGE);
    drop(side);
    let mut side = Side::new(ground.driver());
    let file = side.driver.open("log").expect("it is there");
    let mut expected = vec![0; 16 * PAGE];
    expected[..PAGE].copy_from_slice(&pattern(2, PAGE));
    expected[4 * PAGE..7 * PAGE].copy_from_slice(&pattern(1, 3 * PAGE));
    let all: Vec<u8> =
        (0..4).flat_map(|part| read(&mut side, file, part * 4 * PAGE as u64, 4 * PAGE)).collect();
    assert!(all == expected, "the file differs from what was written");
}

/// Several writes at once; each is told once, in any order, and all are there.
pub fn many_writes_are_in_flight<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let file = create(&mut side, "log", 64 * PAGE, 1).expect("made");
    for round in 0..16 {
        let blocks: Vec<BlockId> = (0..4).map(|n| filled(&mut side, round * 4 + n, PAGE)).collect();
        for (n, block) in (0..4).zip(&blocks) {
            let page = round * 4 + n;
            side.driver.write(file, page * PAGE as u64, *block, PAGE, Token(page));
        }
        let told = |seen: &[Seen]| seen.iter().filter(|s| matches!(s, Seen::Written(..))).count() as u64;
        side.until("four writes", |seen| told(seen) == round * 4 + 4);
        blocks.into_iter().for_each(|block| side.driver.give_block(block));
    }
    for page in 0..64 {
        assert!(side.seen.contains(&Seen::Written(Token(page), Ok(()))), "write {page} was not told");
        assert!(
            read(&mut side, file, page * PAGE as u64, PAGE) == pattern(page, PAGE),
            "page {page} differs"
        );
    }
}

/// A read across the end of a file brings what there is.
pub fn a_read_at_the_end_is_short<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let file = create(&mut side, "short", 2 * PAGE, 1).expect("made");
    assert_eq!(read(&mut side, file, PAGE as u64, 4 * PAGE).len(), PAGE);
    assert_eq!(read(&mut side, file, 2 * PAGE as u64, PAGE).len(), 0);
}

/// Opening what is not there says so.
pub fn a_missing_file_is_an_error<G: Ground>(ground: &mut G) {
    let error = ground.driver().open("nothing").expect_err("there is no such file");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

/// A removed file is gone from the directory; its name is free.
pub fn a_removed_file_is_gone<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let file = create(&mut side, "old", PAGE, 1).expect("made");
    write(&mut side, file, 0, 3, PAGE);
    side.driver.remove(file, "old", Token(7));
    assert_eq!(directory(&mut side, 7), Ok(()));
    assert_eq!(side.driver.files().expect("a directory"), []);
    assert!(side.driver.open("old").is_err());
    let file = create(&mut side, "old", PAGE, 2).expect("the name is free again");
    assert_eq!(read(&mut side, file, 0, PAGE), vec![0; PAGE], "the old bytes are gone");
}

/// A file that is renamed keeps what it holds, under the new name only, and takes writes as before.
pub fn a_renamed_file_keeps_what_it_holds<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let file = create(&mut side, "old", 2 * PAGE, 1).expect("made");
    write(&mut side, file, 0, 3, PAGE);
    side.driver.rename("old", "new", Token(7));
    assert_eq!(directory(&mut side, 7), Ok(()));
    let listed = side.driver.files().expect("a directory");
    assert_eq!(listed, [("new".to_string(), 2 * PAGE as u64)]);
    write(&mut side, file, PAGE as u64, 4, PAGE);
    drop(side);
    let mut side = Side::new(ground.driver());
    assert!(side.driver.open("old").is_err());
    let file = side.driver.open("new").expect("it is there");
    assert!(read(&mut side, file, 0, PAGE) == pattern(3, PAGE), "what was in it");
    assert!(read(&mut side, file, PAGE as u64, PAGE) == pattern(4, PAGE), "what was written since");
    side.driver.remove(file, "new", Token(8));
    assert_eq!(directory(&mut side, 8), Ok(()));
    assert_eq!(side.driver.files().expect("a directory"), []);
}

/// A file does not take the name of another one, nor is one renamed that is not there; all stays as it was.
pub fn a_taken_name_is_refused<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let one = create(&mut side, "one", PAGE, 1).expect("made");
    let two = create(&mut side, "two", PAGE, 2).expect("made");
    write(&mut side, one, 0, 5, PAGE);
    write(&mut side, two, 0, 6, PAGE);
    side.driver.rename("one", "two", Token(7));
    assert_eq!(directory(&mut side, 7), Err(libc::EEXIST));
    side.driver.rename("three", "four", Token(8));
    assert_eq!(directory(&mut side, 8), Err(libc::ENOENT));
    let names: Vec<String> =
        side.driver.files().expect("a directory").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["one", "two"]);
    for (name, seed) in [("one", 5), ("two", 6)] {
        let file = side.driver.open(name).expect("it is there");
        assert!(read(&mut side, file, 0, PAGE) == pattern(seed, PAGE), "{name} holds other bytes");
    }
}

/// Blocks are page-aligned, apart from each other, bounded in number, and come back.
pub fn blocks_are_a_fixed_supply<G: Ground>(ground: &mut G) {
    let mut driver = ground.driver();
    let bytes = driver.block_bytes();
    assert!(bytes >= 4 * PAGE && bytes.is_multiple_of(PAGE));
    let mut taken = Vec::new();
    while let Some(block) = driver.take_block() {
        assert!(taken.len() < 100_000, "the supply has no bound");
        assert!(!taken.contains(&block), "{block:?} was given twice");
        taken.push(block);
    }
    assert!(taken.len() >= 4, "only {} blocks", taken.len());
    for (index, block) in taken.iter().enumerate() {
        let memory = driver.block(*block);
        assert_eq!((memory.len(), memory.as_ptr() as usize % PAGE), (bytes, 0));
        memory.fill(index as u8);
    }
    for (index, block) in taken.iter().enumerate() {
        assert!(driver.block(*block).iter().all(|byte| *byte == index as u8), "blocks overlap");
    }
    driver.give_block(taken[0]);
    assert_eq!(driver.take_block(), Some(taken[0]), "the only free one");
    assert_eq!(driver.take_block(), None);
}
