//! A log on disk that may hold anything: recovery gives a queue whose invariants hold, or an error. In salvage it goes on
//! past each error that is damage, and says what it lost.
//!
//! The input is read as a recipe: segments of groups of records, with checksums that fit, and a few bytes that do not;
//! and then bits that turn over in what was sound. Random bytes alone would not pass the first checksum.

#![no_main]

use call::frame::{FrameBuf, Header, append, frame_bytes};
use call::history::HistoryBuf;
use call::limits::{HEADER_BYTES, Limits};
use call::{Attempt, CallId, FunctionId, Instant, Kind, Status, WallTime};
use durableq::log::dump::dump;
use durableq::log::page::Entry;
use durableq::log::{GROUP_ALIGN, GROUP_HEADER_BYTES, GroupHeader};
use durableq::{Blocks, DurableQ, LogOp, Recover, Recovery, RecoveryError};

const GROUP_BYTES: usize = 16 << 10;
/// Of the log.
const KEY: u64 = 0x6b65_79ab_cdef_0123;
const RECORDS: [Kind; 7] =
    [Kind::Submit, Kind::Done, Kind::Retry, Kind::Dead, Kind::Redrive, Kind::Incarnation, Kind::Index];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut recipe = Recipe { bytes, sequence: 0, incarnation: 1, number: 0, forged: false };
    let mut segments: Vec<FrameBuf> = (0..1 + recipe.byte() % 3).map(|_| recipe.segment()).collect();
    let rot = recipe.byte() % 4;
    (0..rot).for_each(|_| recipe.turn_a_bit(&mut segments));
    let strict = recover(&segments, Recover::Strict);
    let salvaged = recover(&segments, Recover::Salvage);
    match (strict, salvaged) {
        // A strict start does not look at what stands before a checkpoint, and forged groups and pages may say anything.
        _ if recipe.forged => {}
        (Ok(_), salvaged) => assert_eq!(salvaged, Ok(0), "nothing was lost"),
        (Err(RecoveryError::Damaged { .. }), Ok(losses)) => assert!(losses > 0, "damage that is not told"),
        (_, Err(error)) => assert!(matches!(error, RecoveryError::TooSmall { .. }), "{error}"),
        (Err(RecoveryError::TooSmall { .. } | RecoveryError::Missing { .. }), Ok(_)) => {}
    }
    for segment in &segments {
        dump(segment).for_each(drop);
    }
});

/// Recovers, and goes on for a while; how many losses there were.
fn recover(segments: &[FrameBuf], recover: Recover) -> Result<usize, RecoveryError> {
    let limits = Limits { calls_max: 8, functions_max: 4, pending_bytes_max: 64 << 10, ..Limits::small() };
    let limits =
        Limits { group_bytes: GROUP_BYTES, dead_letters_max: 4, history_bytes_max: 32 << 10, ..limits };
    let mut recovery = Recovery::with(&limits, recover);
    recovery.segments((1..).zip(segments).map(|(number, segment)| (number, segment.len() as u64)));
    while let Some((number, offset)) = recovery.next_read() {
        let block = &segments[number as usize - 1][offset as usize..];
        recovery.feed(&block[..block.len().min(GROUP_BYTES)])?;
    }
    let losses = recovery.losses().len();
    let mut queue = recovery.finish(Instant(1), WallTime(1 << 60), KEY)?;
    queue.check();
    let mut blocks = Memory((0..durableq::block_count(&limits)).map(|_| aligned(GROUP_BYTES)).collect());
    for _ in 0..8 {
        disk(&mut queue, &mut blocks, segments);
        while queue.next_event().is_some() {}
        while let Some(function) = queue.next_due() {
            let defaults = durableq::Defaults { criticality: 100, deadline_ns: 1 };
            while queue.poll(function, &defaults).is_some() {}
        }
        queue.check();
    }
    Ok(losses)
}

struct Memory(Vec<FrameBuf>);

impl Blocks for Memory {
    fn block(&mut self, number: u32) -> &mut [u8] {
        &mut self.0[number as usize]
    }
}

fn aligned(bytes: usize) -> FrameBuf {
    let mut block = FrameBuf::new();
    block.resize(bytes, 0);
    block
}

/// What was in the log is read back from where it was; what is written goes nowhere.
fn disk(queue: &mut DurableQ, blocks: &mut Memory, segments: &[FrameBuf]) {
    while let Some(op) = queue.next_op(blocks) {
        match op {
            LogOp::Create { segment, .. } | LogOp::Recycle { segment, .. } => queue.created(segment, Ok(())),
            LogOp::Write { group, .. } => queue.written(group, Ok(())),
            LogOp::Remove { segment } => queue.removed(segment, Ok(())),
            LogOp::Read { segment, offset, block, bytes, read } => {
                let file = segment.checked_sub(1).and_then(|at| segments.get(at as usize));
                let found = file.and_then(|file| file.get(offset as usize..)).unwrap_or(&[]);
                let found = &found[..found.len().min(bytes)];
                blocks.block(block)[..found.len()].copy_from_slice(found);
                queue.read(blocks, read, Ok(found.len()));
            }
        }
    }
}

struct Recipe<'a> {
    bytes: &'a [u8],
    sequence: u64,
    incarnation: u32,
    /// Of the segment at hand.
    number: u64,
    /// A group is not where it says that it is in the chain, or there is something of a checkpoint that is none.
    forged: bool,
}

impl Recipe<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Mostly what a sound log would have here, now and then anything.
    fn usually(&mut self, sound: u64) -> u64 {
        match self.byte() {
            0 => self.word(),
            1 => sound.wrapping_add(1),
            2 => sound.saturating_sub(1),
            _ => sound,
        }
    }

    fn turn_a_bit(&mut self, segments: &mut [FrameBuf]) {
        let at = self.word() as usize;
        let segment = &mut segments[at % 3 % segments.len()];
        if !segment.is_empty() {
            let at = at / 3 % segment.len();
            segment[at] ^= 1 << (self.byte() % 8);
        }
    }

    fn segment(&mut self) -> FrameBuf {
        let mut out = FrameBuf::new();
        self.number += 1;
        for _ in 0..self.byte() % 5 {
            match self.byte() {
                0 => out.extend_from_slice(&[0; GROUP_ALIGN]),
                1 => {
                    let junk = self.byte();
                    out.extend_from_slice(&[junk; GROUP_ALIGN]);
                }
                _ => self.group(&mut out),
            }
        }
        out.resize(out.len() + usize::from(self.byte() % 2) * GROUP_ALIGN, 0);
        out
    }

    fn group(&mut self, out: &mut FrameBuf) {
        let mut records = FrameBuf::new();
        for _ in 0..1 + self.byte() % 6 {
            self.record(&mut records);
        }
        // A record may be cut: at its end here, or because it began in the group before.
        let cut = usize::from(self.byte().saturating_sub(200)) * 16;
        let kept = records.len().saturating_sub(cut).max(16).min(GROUP_BYTES - GROUP_HEADER_BYTES);
        let first = frame_bytes(&records).ok().flatten().unwrap_or(0);
        let continues = if self.byte() < 16 { first.min(kept) as u32 } else { 0 };
        let sequence = self.usually(self.sequence + 1);
        let incarnation = self.usually(u64::from(self.incarnation)) as u32;
        let durable = self.usually(sequence.saturating_sub(1));
        self.forged |=
            (sequence, incarnation, durable) != (self.sequence + 1, self.incarnation, self.sequence);
        (self.sequence, self.incarnation) = (sequence.min(1 << 62), incarnation);
        let mut block = vec![0; GROUP_HEADER_BYTES];
        block.extend_from_slice(&records[..kept]);
        let bytes = block.len() as u32;
        let (segment, key) = (self.usually(self.number), self.usually(KEY));
        let from = if self.byte() < 16 { self.usually(self.number) } else { 0 };
        self.forged |= (segment, key, from) != (self.number, KEY, 0);
        GroupHeader { bytes, sequence, incarnation, continues, durable, segment, key, from }.seal(&mut block);
        block.resize(block.len().next_multiple_of(GROUP_ALIGN), 0);
        out.extend_from_slice(&block);
    }

    /// The body of a record of a call's state: its attempts, and perhaps its last outcome; mostly sound.
    fn history(&mut self, kind: Kind, call: CallId, body: &mut FrameBuf) {
        let (mut buf, mut before) = (HistoryBuf::default(), Vec::new());
        for number in 0..1 + u16::from(self.byte() % 12) {
            let (byte, text) = (self.byte(), [b'x'; 255]);
            let attempt = Attempt {
                number,
                began: WallTime(u64::from(byte)),
                ended: WallTime(u64::from(number)),
                ran_ns: 7,
                status: Status::Trap,
                worker: &"a host's name"[..usize::from(byte % 14)],
                text: &text[..usize::from(byte)],
                cut: false,
                redriven: byte % 2 == 0,
            };
            let said = (!before.is_empty()).then(|| call::History::parsed_before(&before));
            before = buf.extend(said, &attempt).bytes().to_vec();
        }
        body.extend_from_slice(&before);
        if kind == Kind::Dead && self.byte() < 128 {
            body.resize(body.len().next_multiple_of(16), 0);
            append(body, &Header { call, ..Header::new(Kind::Outcome) }, b"outcome");
        }
        if self.byte() < 32 {
            let at = self.word() as usize % body.len();
            body[at] = self.byte();
        }
    }

    fn entry(&mut self) -> Entry {
        Entry {
            call: CallId(u128::from(self.byte() % 12)),
            function: FunctionId(u64::from(self.byte() % 6)),
            start_at: self.usually(0),
            begin_by: self.usually(0),
            turn: self.usually(1) & ((1 << 48) - 1),
            flags: u16::from(self.byte()) & Kind::Submit.flags(),
            segment: self.usually(1),
            offset: u32::from(self.byte()) * 4,
            length: self.usually(HEADER_BYTES as u64 + 16) as u32,
        }
    }

    fn record(&mut self, out: &mut FrameBuf) {
        let which = self.byte();
        let kind = RECORDS.get(usize::from(which) % 8).copied().unwrap_or(Kind::Ask);
        let header = Header {
            flags: u16::from(self.byte()) & kind.flags(),
            call: CallId(u128::from(self.byte() % 12)),
            function: FunctionId(u64::from(self.byte() % 6)),
            stamp: self.usually(u64::from(which)),
            deadline: self.usually(0),
            level: self.byte() % 12,
            attempt: self.usually(1) as u16,
            ..Header::new(kind)
        };
        let mut body = FrameBuf::new();
        match self.byte() {
            _ if kind.is_bare() => {}
            entries if kind == Kind::Index => {
                self.forged = true;
                (0..entries % 4).for_each(|_| body.extend_from_slice(&self.entry().encode()));
            }
            0..80 => {}
            80..120 => self.history(kind, header.call, &mut body),
            120..200 => {
                append(&mut body, &Header { call: header.call, ..Header::new(Kind::Outcome) }, b"outcome")
            }
            long => {
                let filler = self.byte();
                body.resize(usize::from(long - 200) * 200, filler);
            }
        }
        append(out, &header, &body);
    }
}
