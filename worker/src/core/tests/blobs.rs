//! Arguments that are blobs: fetched from the node that the test plays.

use super::*;
use call::blob::{BlobId, PIECE_BYTES};
use std::collections::BTreeMap;

/// What the node has, and how it behaves.
#[derive(Default)]
pub(super) struct Store {
    blobs: BTreeMap<BlobId, Vec<u8>>,
    /// Asked so often.
    asked: u32,
    /// Leaves each n-th question without an answer; 0 for none.
    loses: u32,
    /// Says each piece twice.
    twice: bool,
    /// Has lost what it had.
    damaged: bool,
    /// The last piece that was asked for.
    last: Option<(CallId, u64)>,
}

impl Stage {
    pub(super) fn fetched(&mut self, fetch: &Frame<'_>) {
        let store = &mut self.store;
        store.asked += 1;
        if let Some((call, offset)) = store.last.replace((fetch.call(), fetch.stamp())) {
            assert!(call != fetch.call() || offset <= fetch.stamp(), "pieces are asked for in order");
        }
        if store.loses > 0 && store.asked.is_multiple_of(store.loses) {
            return;
        }
        let reference = Reference::from_bytes(fetch.body()).expect("a reference");
        let blob = &store.blobs[&reference.id];
        let (from, damaged, twice) = (fetch.stamp() as usize, store.damaged, store.twice);
        let piece = blob[from..blob.len().min(from + PIECE_BYTES)].to_vec();
        let status = if damaged { Status::Damaged } else { Status::Ok };
        let header = Header { kind: Kind::Piece, level: status as u8, ..fetch.header() };
        for _ in 0..1 + u32::from(twice) {
            self.node_sends(header, if damaged { b"a bit flipped" } else { &piece });
        }
    }

    /// Leases a call whose arguments are this script, and so many bytes, as a blob.
    fn lease_blob(&mut self, name: &str, call: u64, script: &str, bytes: usize) {
        let mut blob = format!("{script};").into_bytes();
        blob.resize(bytes.max(blob.len()), b';');
        let reference = Reference { id: BlobId([call as u8; 32]), bytes: blob.len() as u64 };
        self.store.blobs.insert(reference.id, blob);
        let submit = submit_with(name, call, &reference.to_bytes(), true);
        self.lease_of(name, call, call, &submit);
    }
}

#[test]
fn a_call_begins_when_all_of_its_blob_is_there_and_others_run_meanwhile() {
    let mut stage = Stage::ready(4);
    stage.lease_blob("f", 1, "output=large;slices=2", 5 << 20);
    stage.until(|stage| stage.store.asked > 2);
    stage.lease("f", 2, "output=small");
    stage.until(|stage| stage.seen.len() == 2);
    assert_eq!((stage.seen[0].call, stage.seen[1].call), (2, 1), "the small one did not wait");
    assert_eq!((stage.outcome(1).status, &*stage.outcome(1).output), (Status::Ok, &b"large"[..]));
    assert_eq!(stage.store.asked, 20, "each piece once");
}

#[test]
fn blobs_of_each_length_come_whole_whatever_is_lost_on_the_way() {
    let lengths = [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES];
    for (n, bytes) in lengths.into_iter().enumerate() {
        let mut stage = Stage::ready(4);
        (stage.store.loses, stage.store.twice) = (2 + n as u32 % 2, n % 2 == 0);
        for call in 1..=3 {
            stage.lease_blob("f", call, &format!("output={call}"), bytes);
        }
        stage.until(|stage| stage.seen.len() == 3);
        stage.assert_all_ok();
        for call in 1..=3 {
            assert_eq!(stage.outcome(call).output, call.to_string().as_bytes());
        }
    }
}

#[test]
fn blobs_stay_within_their_memory_and_all_calls_run() {
    let mut stage = Stage::ready(16);
    stage.core.fetches = crate::fetch::Fetches::new(16, 3 << 20);
    for call in 1..=12 {
        stage.lease_blob("f", call, "slices=5", 1 << 20);
    }
    // `check`, in each turn, holds the bound.
    stage.until(|stage| stage.seen.len() == 12);
    stage.assert_all_ok();
    stage.lease_blob("f", 13, "output=no", (3 << 20) + 1);
    stage.until(|stage| stage.seen.len() == 13);
    let seen = stage.outcome(13);
    assert!(seen.status == Status::Memory && seen.stderr.contains("3145729 bytes"), "{}", seen.stderr);
}

#[test]
fn a_blob_that_does_not_fit_its_function_is_told() {
    let mut stage = Stage::ready(4);
    publish(&mut stage, &FunctionSpec { memory_bytes: 1 << 20, ..function("f") });
    stage.lease_blob("f", 1, "output=no", 2 << 20);
    stage.until(|stage| stage.seen.len() == 1);
    let seen = stage.outcome(1);
    let told = seen.stderr.contains("the memory for them 1048576");
    assert!(seen.status == Status::Memory && told, "{}", seen.stderr);
    assert_eq!(stage.store.asked, 0);
}

#[test]
fn a_damaged_blob_ends_its_call_and_no_other() {
    let mut stage = Stage::ready(4);
    stage.store.damaged = true;
    stage.lease_blob("f", 1, "output=no", 100);
    stage.until(|stage| stage.seen.len() == 1);
    assert_eq!(stage.outcome(1).status, Status::Damaged);
    stage.store.damaged = false;
    stage.lease_blob("f", 2, "output=yes", 100);
    stage.until(|stage| stage.seen.len() == 2);
    assert_eq!(stage.outcome(2).status, Status::Ok);
}

#[test]
fn a_blob_that_never_comes_is_given_up() {
    let mut stage = Stage::ready(4);
    stage.store.loses = 1;
    stage.lease_blob("f", 1, "output=no", 100);
    stage.lease("f", 2, "output=yes");
    stage.until(|stage| stage.seen.len() == 2);
    assert_eq!((stage.outcome(2).status, stage.outcome(1).status), (Status::Ok, Status::Unavailable));
    assert!((20..=40).contains(&stage.store.asked), "once a second: {}", stage.store.asked);
}

#[test]
fn calls_that_wait_for_blobs_are_cancelled_and_dropped_like_others() {
    let mut stage = Stage::ready(4);
    stage.store.loses = 1;
    (1..=3).for_each(|call| stage.lease_blob("f", call, "output=no", 1 << 20));
    stage.run(Duration::from_millis(20));
    for call in [1, 3] {
        let header = Header { call: CallId(call.into()), stamp: call, ..Header::new(Kind::Cancel) };
        stage.node_sends(header, &[]);
    }
    stage.until(|stage| stage.seen.len() == 2);
    assert!(stage.seen.iter().all(|seen| seen.status == Status::Cancelled && seen.call != 2));
    let connection = stage.connection.expect("connected");
    stage.node.close(connection);
    stage.until(|stage| stage.connections == 2 && stage.granted == 4);
    assert_eq!((stage.core.held(), stage.core.fetches.len()), (0, 0));
    stage.store.loses = 0;
    stage.lease_blob("f", 5, "output=yes", 1 << 20);
    stage.until(|stage| stage.seen.len() == 3);
    assert_eq!(stage.outcome(5).status, Status::Ok);
}

#[test]
#[should_panic(expected = "each blob counts once")]
fn canary_memory_that_is_counted_twice_is_caught() {
    let mut stage = Stage::ready(4);
    stage.lease_blob("f", 1, "slices=forever", 1 << 20);
    stage.until(|stage| stage.core.fetches.len() == 0 && stage.store.asked == 4);
    stage.core.fetches.forge(1);
    stage.step();
}

/// What the node has of results, and how it behaves.
#[derive(Default)]
pub(super) struct Shelf {
    coming: BTreeMap<(u128, u64), Vec<u8>>,
    /// Results that are whole, by their names.
    kept: BTreeMap<BlobId, Vec<u8>>,
    heard: u32,
    /// Leaves each n-th piece without an answer; 0 for none.
    loses: u32,
    /// Says each word twice.
    twice: bool,
    /// Forgets what has come so far at this piece; 0 for never.
    restarts_at: u32,
    /// Answers with this instead.
    refuses: Option<Status>,
    /// Says nothing at all.
    silent: bool,
}

impl Stage {
    pub(super) fn keeps(&mut self, keep: &Frame<'_>) {
        let shelf = &mut self.shelf;
        shelf.heard += 1;
        if shelf.restarts_at == shelf.heard {
            shelf.coming.clear();
        }
        let key = (keep.call().0, keep.deadline().0);
        let coming = shelf.coming.entry(key).or_default();
        if keep.stamp() == coming.len() as u64 {
            coming.extend_from_slice(keep.body());
        }
        let is_whole = keep.stamp() + keep.body().len() as u64 == coming.len() as u64 && keep.attempt() == 0;
        if shelf.silent || shelf.loses > 0 && shelf.heard.is_multiple_of(shelf.loses) {
            return;
        }
        let (stamp, twice) = (coming.len() as u64, shelf.twice);
        let mut header = Header { kind: Kind::Kept, stamp, attempt: 0, level: 0, ..keep.header() };
        let mut body = Vec::new();
        if let Some(status) = shelf.refuses {
            (header.level, body) = (status as u8, b"the disk is full".to_vec());
        } else if is_whole {
            let id = BlobId([key.0 as u8; 32]);
            shelf.kept.insert(id, coming.clone());
            body = Reference { id, bytes: stamp }.to_bytes().to_vec();
        }
        for _ in 0..1 + u32::from(twice) {
            self.node_sends(header, &body);
        }
    }

    /// Leases a call that returns its arguments, so many bytes; they end with its number.
    fn lease_echo(&mut self, call: u64, bytes: usize) -> Vec<u8> {
        let mut text = format!("output={};", "x".repeat(bytes)).into_bytes();
        text.truncate(7 + bytes);
        let end = call.to_string();
        let from = text.len() - end.len();
        text[from..].copy_from_slice(end.as_bytes());
        let submit = submit_with("f", call, &text, false);
        let before = self.core.stats().leased;
        self.lease_wanted("f", call, call, &submit, true);
        // The node has no room for another of its kind at once.
        self.until(|stage| stage.core.stats().leased > before);
        text[7..].to_vec()
    }
}

#[test]
fn large_results_are_stored_before_they_are_told_whatever_is_lost_on_the_way() {
    let lengths = [PIECE_BYTES + 1, 2 * PIECE_BYTES - 1, 2 * PIECE_BYTES, 3 * PIECE_BYTES + 7, 900_000];
    for (n, bytes) in lengths.into_iter().enumerate() {
        let mut stage = Stage::ready(4);
        (stage.shelf.loses, stage.shelf.twice) = (2 + n as u32 % 2, n % 2 == 0);
        stage.shelf.restarts_at = n as u32;
        let sent: Vec<Vec<u8>> = (1..=3).map(|call| stage.lease_echo(call, bytes)).collect();
        stage.lease("f", 4, "output=small");
        stage.until(|stage| stage.seen.len() == 4);
        stage.assert_all_ok();
        let first_lost = stage.shelf.loses == 2;
        assert!(!first_lost || stage.seen[0].call == 4, "the small one did not wait");
        for (call, sent) in (1..=3).zip(&sent) {
            let named = stage.outcome(call).stored.expect("its outcome names it");
            assert!(stage.shelf.kept[&named.id] == *sent, "call {call}: byte for byte");
        }
    }
}

#[test]
fn a_result_that_nobody_wants_or_that_fits_is_not_stored() {
    let mut stage = Stage::ready(4);
    let submit = submit_with("f", 1, format!("output={}", "x".repeat(PIECE_BYTES + 1)).as_bytes(), false);
    stage.lease_of("f", 1, 1, &submit);
    (0..20).for_each(|_| stage.step());
    let fits = stage.lease_echo(2, PIECE_BYTES);
    stage.until(|stage| stage.seen.len() == 2);
    assert_eq!(stage.shelf.heard, 0);
    let unwanted = stage.outcome(1);
    assert!(unwanted.output.is_empty() && unwanted.usage.truncated && unwanted.stored.is_none());
    assert!(stage.outcome(2).output == fits && stage.outcome(2).stored.is_none());
}

#[test]
fn a_result_that_the_node_does_not_take_ends_its_call_and_no_other() {
    let mut stage = Stage::ready(4);
    stage.shelf.refuses = Some(Status::Unavailable);
    stage.lease_echo(1, 600_000);
    stage.until(|stage| stage.seen.len() == 1);
    let ended = stage.outcome(1);
    assert_eq!((ended.status, &*ended.stderr, ended.stored), (Status::Unavailable, "the disk is full", None));
    (stage.shelf.refuses, stage.shelf.silent) = (None, true);
    stage.lease_echo(2, 600_000);
    stage.lease("f", 3, "output=small");
    stage.until(|stage| stage.seen.len() == 3);
    assert_eq!(stage.outcome(3).status, Status::Ok);
    let ended = stage.outcome(2);
    assert!(
        ended.status == Status::Unavailable && ended.stderr.contains("did not take it in 30s"),
        "{ended:?}"
    );
    stage.shelf.silent = false;
    stage.lease_echo(4, 600_000);
    stage.until(|stage| stage.seen.len() == 4);
    assert_eq!(stage.outcome(4).status, Status::Ok);
}

#[test]
fn a_lost_connection_takes_its_large_results_along() {
    let mut stage = Stage::ready(2);
    stage.shelf.silent = true;
    stage.lease_echo(1, 600_000);
    stage.lease_echo(2, 600_000);
    stage.until(|stage| stage.shelf.heard > 0);
    assert_eq!(stage.core.held(), 2);
    let connection = stage.connection.expect("connected");
    stage.node.close(connection);
    stage.until(|stage| stage.connections == 2);
    stage.shelf.silent = false;
    let sent = stage.lease_echo(3, 600_000);
    stage.until(|stage| stage.seen.len() == 1);
    assert!(stage.shelf.kept[&stage.outcome(3).stored.expect("stored").id] == sent);
}
