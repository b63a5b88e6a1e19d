//! Wire frames: a fixed 64-byte little-endian header, readable from C and XDP, then a body, padded to 16 bytes.
//!
//! The same bytes are a frame on TCP, on a Unix socket, in a shared-memory ring and in the log on disk.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | `MLRC` |
//! | 4 | 1 | version | [`VERSION`] |
//! | 5 | 1 | kind | [`Kind`] |
//! | 6 | 2 | flags | [`flag`]; bits that the kind does not know are refused |
//! | 8 | 4 | body bytes | without the padding, at most [`BODY_BYTES_MAX`] |
//! | 12 | 4 | CRC-32C | of bytes 0..12, 16..64 and the body; of the header alone if the body is sealed |
//! | 16 | 16 | call | [`CallId`] |
//! | 32 | 8 | function | [`FunctionId`] |
//! | 40 | 8 | stamp | submit: start time; lease, outcome, return, cancel, done, dead, redrive: epoch; retry: executions that failed, and above 32 bits those that met back-pressure; credit: slots granted in all; fetch, piece, keep: offset; kept: how many bytes are there; publish, retire, ready: version; incarnation: its number; index: a turn; ask, answer: correlation; recall: version of the shard map |
//! | 48 | 8 | deadline | submit, lease: deadline; retry: not before; done: remembered until; dead: its place among dead letters, by age; fetch, piece, keep, kept: epoch |
//! | 56 | 1 | level | submit, lease: criticality; outcome, return, done, retry, dead, ready, recall, piece, kept: [`Status`]; foresee: 1 or 0 |
//! | 57 | 1 | label | submit: [`Label`] of its arguments; otherwise zero |
//! | 58 | 2 | attempt | lease, outcome, retry: how many times the call has been delivered, from 1; answer, keep: how many frames with more of the same body follow |
//! | 60 | 4 | key | submit: [`CallKey`], zero for none; otherwise zero |
//!
//! The body of a [`Kind::Lease`] is a whole submit frame, byte for byte as the client wrote it: a *sealed* body,
//! which brings a CRC of its own and is not summed again. The lease is the small envelope for what changes.
//!
//! Label and key were reserved, and zero, in earlier builds: a submit without either is the same bytes, and an earlier
//! build refuses one that has them rather than forget them.
//!
//! A broken frame is one whose magic, version, kind, flags, reserved bytes, length or CRC is wrong, or that has a body
//! although its kind has none; the connection that brought it is closed, the log that holds it ends there.

use crate::ids::{CallId, CallKey, Epoch, FunctionId};
use crate::label::Label;
use crate::limits::{BODY_BYTES_MAX, FRAME_ALIGN, HEADER_BYTES};
use crate::outcome::Status;
use crate::time::WallTime;
use rkyv::util::AlignedVec;
use std::fmt;

/// A buffer whose start is aligned for frames.
pub type FrameBuf = AlignedVec<FRAME_ALIGN>;

/// `MLRC` as it stands in memory.
pub const MAGIC: [u8; 4] = *b"MLRC";
/// The version of the header and of all bodies.
pub const VERSION: u8 = 1;

/// Bits of the header's flags.
pub mod flag {
    /// Submit: the client wants the outcome frame on this connection, and the outcome's body kept with the call.
    pub const WANT_OUTCOME: u16 = 1;
    /// The body is a frame of its own, with its own CRC.
    pub const SEALED_BODY: u16 = 2;
    /// Submit: an execution that failed is not tried again, whatever the function says, and the call is no dead letter:
    /// who waits for it decides. A lost worker is no failure: the call runs elsewhere.
    pub const ONCE: u16 = 4;
    /// Submit: a call that has not begun by its deadline, which it must have, ends as
    /// [`crate::Status::Expired`].
    pub const EXPIRES: u16 = 8;
    /// Submit: the call's id was made of an idempotency key ([`crate::CallId::of_key`]), and is remembered for its
    /// function's window after the call has ended.
    pub const KEYED: u16 = 16;
    /// Submit: the payload is not the arguments but names a blob that has them ([`crate::blob::Reference`]). Outcome: so
    /// it is with the output and the result.
    pub const BLOB: u16 = 32;
}

/// What a frame says. Numbers are on the wire and on disk; never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First frame of every connection, both ways. Body: JSON [`crate::admin::Hello`].
    Hello = 1,
    /// Client to node; also the log record of an accepted call. Body: rkyv [`crate::body::Arguments`].
    Submit = 2,
    /// Node to client: what became of each of several submits. Body: rkyv [`crate::body::Verdicts`].
    Verdicts = 3,
    /// Node to core: run this. Body: the submit frame, sealed.
    Lease = 4,
    /// Core to node; also node to a client that asked for it. Body: rkyv [`crate::body::Reply`].
    Outcome = 5,
    /// Core to node: slots granted since the connection began. Also the heartbeat. No body. The node of another region
    /// hears its own back, so that it knows that the link lives.
    Credit = 6,
    /// Node to core or host: a function as it is now. Body: JSON [`crate::FunctionSpec`].
    Publish = 7,
    /// Node to core or host: the function is gone. No body.
    Retire = 8,
    /// Host to node: how it stands with a function. `level`: [`Status::Ok`] if the artefact is compiled and on local
    /// disk; otherwise the body is a JSON string with the reason.
    Ready = 9,
    /// Admin side to node: an operator's question or order. Body: JSON [`crate::admin::Ask`].
    Ask = 10,
    /// Node to admin side: its answer, with the same correlation. Body: JSON [`crate::admin::Answer`].
    Answer = 11,
    /// Node to core: finish what you hold and take nothing new. Core to node: it takes nothing new. No body.
    Drain = 12,
    /// Region to node: a lease comes back. `level`: [`Status::Ok`] if the call was not begun, and does not count as a
    /// delivery; [`Status::WorkerLost`] if its core was lost. No body.
    Return = 13,
    /// Node to core: stop this call, whose lease has this epoch, and report it as [`Status::Cancelled`]; one that has
    /// ended stays as it is. Node to region: the same. No body.
    Cancel = 14,
    /// Node to core: whether a call of the function is likely soon, as its history says. `level`: 1 to make it warm,
    /// 0 to let go of what is warm and idle. Advice: a core may do nothing. Said only to a core whose hello has
    /// [`crate::admin::FORESIGHT`], since one that does not know the word would close the connection. No body.
    Foresee = 15,
    /// Shard to shard: is this call held there? With [`flag::WANT_OUTCOME`]: and if so, its outcome is wanted here. Of one
    /// that is held a verdict answers, `duplicate`, as if it had been submitted. Otherwise the same word does, with
    /// `level` [`Status::Ok`]: it is not held, and is not accepted there by any map up to the version of `stamp`; or
    /// [`Status::Unavailable`]: the map there is older than that, or the queue can tell nothing now. No body.
    Recall = 16,
    /// Core to node, and node to the store of blobs: a piece of this blob is wanted for this call. `stamp`: from which byte
    /// on. Body: a [`crate::blob::Reference`], as it stands. Asked again if no answer comes.
    Fetch = 17,
    /// The store to the node, and node to core: the piece that was asked for. `stamp`: from which byte on. `level`:
    /// [`Status::Ok`], and the body is the bytes, [`crate::blob::PIECE_BYTES`] of them or up to the blob's end; or why
    /// there is none, and the body says it in words.
    Piece = 18,
    /// Core to node, and node to the store of blobs: a piece of the call's result, which is too large for a frame; see
    /// [`crate::upload`]. `stamp`: from which byte on. `attempt`: how many pieces follow. Sent again if no answer comes.
    Keep = 19,
    /// The store to the node, and node to core: how it stands with the call's result. `level`: [`Status::Ok`], and so many
    /// bytes as `stamp` says are there; if that is all, it is on disk, and the body is its [`crate::blob::Reference`].
    /// Any other status: it is not kept, and the body says why, in words. Node to the store: the node has heard of that
    /// blob, or will not know of it.
    Kept = 20,

    /// Log only: the call has ended. Body: the outcome frame, sealed, if the client wanted it.
    Done = 32,
    /// Log only: the call failed and may run again, not before `deadline`. Body: its [`crate::History`], if there is one.
    Retry = 33,
    /// Log only: the call goes to the dead letters. Body: its last outcome frame, sealed, if there is one that is kept. A
    /// body that is not sealed begins with the call's [`crate::History`]; behind that, padded, stands the outcome frame.
    Dead = 34,
    /// Log only: a dead letter becomes a pending call again. Body: its [`crate::History`], if there is one.
    Redrive = 35,
    /// Log only: a new incarnation of the queue began; stamp is its number. No body.
    Incarnation = 36,
    /// Log only: what the queue knows of some calls without their frames, part of a checkpoint; stamp is the turn that
    /// the queue has come to. Body: entries, by the queue's own table.
    Index = 37,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 26] = [
        Kind::Hello,
        Kind::Submit,
        Kind::Verdicts,
        Kind::Lease,
        Kind::Outcome,
        Kind::Credit,
        Kind::Publish,
        Kind::Retire,
        Kind::Ready,
        Kind::Ask,
        Kind::Answer,
        Kind::Drain,
        Kind::Return,
        Kind::Cancel,
        Kind::Foresee,
        Kind::Recall,
        Kind::Fetch,
        Kind::Piece,
        Kind::Keep,
        Kind::Kept,
        Kind::Done,
        Kind::Retry,
        Kind::Dead,
        Kind::Redrive,
        Kind::Incarnation,
        Kind::Index,
    ];

    /// From its number.
    pub fn from_wire(number: u8) -> Option<Kind> {
        let index = match number {
            1..=20 => number - 1,
            32..=37 => number - 32 + 20,
            _ => return None,
        };
        Some(Kind::ALL[usize::from(index)])
    }

    /// The bits of [`flag`] that a frame of this kind may have. Only an envelope has a sealed body: the checksum of
    /// any other frame covers all of it.
    pub const fn flags(self) -> u16 {
        match self {
            Kind::Submit => flag::WANT_OUTCOME | flag::ONCE | flag::EXPIRES | flag::KEYED | flag::BLOB,
            Kind::Lease => flag::WANT_OUTCOME | flag::SEALED_BODY,
            Kind::Recall => flag::WANT_OUTCOME,
            Kind::Outcome => flag::BLOB,
            Kind::Done | Kind::Dead => flag::SEALED_BODY,
            _ => 0,
        }
    }

    /// Whether a frame of this kind is its header and nothing more.
    pub const fn is_bare(self) -> bool {
        matches!(
            self,
            Kind::Credit
                | Kind::Retire
                | Kind::Drain
                | Kind::Return
                | Kind::Cancel
                | Kind::Foresee
                | Kind::Recall
                | Kind::Incarnation
        )
    }
}

/// Why bytes are not a frame. None of these can be repaired by reading on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The first four bytes are not [`MAGIC`]: the peer speaks another protocol.
    Magic([u8; 4]),
    /// Another version than [`VERSION`].
    Version(u8),
    /// A kind this version does not know.
    Kind(u8),
    /// Flag bits that the frame's kind does not know.
    Flags(u16),
    /// Reserved bytes are not zero.
    Reserved,
    /// The body is longer than [`BODY_BYTES_MAX`].
    TooLong(u32),
    /// The checksum does not match: `said` in the header, `is` by the bytes.
    Crc {
        /// As the header says.
        said: u32,
        /// As computed.
        is: u32,
    },
    /// The bytes end before the frame does.
    Short,
    /// The bytes do not start at a multiple of [`FRAME_ALIGN`].
    Misaligned,
    /// The body is not what the kind promises.
    Body,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Magic(m) => {
                write!(f, "not a millrace frame (first bytes {m:02x?}); is this the right port?")
            }
            FrameError::Version(v) => write!(f, "frame version {v}, this build speaks {VERSION}"),
            FrameError::Kind(k) => write!(f, "unknown frame kind {k}"),
            FrameError::Flags(b) => write!(f, "frame flags {b:#06x}, not all known for its kind"),
            FrameError::Reserved => f.write_str("reserved header bytes are not zero"),
            FrameError::TooLong(n) => write!(f, "frame body of {n} bytes, at most {BODY_BYTES_MAX} allowed"),
            FrameError::Crc { said, is } => {
                write!(f, "frame checksum is {is:08x}, the header says {said:08x}")
            }
            FrameError::Short => f.write_str("frame is cut off"),
            FrameError::Misaligned => f.write_str("frame does not start at a multiple of 16"),
            FrameError::Body => f.write_str("frame body is malformed"),
        }
    }
}

impl std::error::Error for FrameError {}

/// What a writer says about a frame; the rest of the header follows from the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the frame says.
    pub kind: Kind,
    /// Bits of [`flag`].
    pub flags: u16,
    /// The call, zero if the frame is about none.
    pub call: CallId,
    /// The function, zero if the frame is about none.
    pub function: FunctionId,
    /// See the table of the module.
    pub stamp: u64,
    /// See the table of the module.
    pub deadline: u64,
    /// See the table of the module.
    pub level: u8,
    /// See the table of the module.
    pub attempt: u16,
    /// See the table of the module.
    pub label: Label,
    /// See the table of the module.
    pub key: CallKey,
}

impl Header {
    /// A header of `kind` with everything else zero.
    pub fn new(kind: Kind) -> Header {
        Header {
            kind,
            flags: 0,
            call: CallId(0),
            function: FunctionId(0),
            stamp: 0,
            deadline: 0,
            level: 0,
            attempt: 0,
            label: Label::LOWEST,
            key: CallKey::NONE,
        }
    }

    /// The 64 bytes for a body of this length and content. `body` is summed unless the flags say it is sealed.
    ///
    /// # Panics
    /// If [`Frame::parse`] would refuse the frame: for the body's length, or for flags, a body, a label or a key that its
    /// kind does not have.
    pub fn encode(&self, body: &[u8]) -> [u8; HEADER_BYTES] {
        assert!(body.len() <= BODY_BYTES_MAX, "a writer checks its body's length first");
        assert!(self.flags & !self.kind.flags() == 0, "{:?} has no flags {:#06x}", self.kind, self.flags);
        assert!(body.is_empty() || !self.kind.is_bare(), "{:?} has no body", self.kind);
        let is_plain = self.label == Label::LOWEST && self.key.is_none();
        assert!(is_plain || self.kind == Kind::Submit, "{:?} has no label and no key", self.kind);
        let mut out = [0u8; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
        out[16..32].copy_from_slice(&self.call.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.function.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.stamp.to_le_bytes());
        out[48..56].copy_from_slice(&self.deadline.to_le_bytes());
        out[56] = self.level;
        out[57] = self.label.0;
        out[58..60].copy_from_slice(&self.attempt.to_le_bytes());
        out[60..64].copy_from_slice(&self.key.0.to_le_bytes());
        let crc = checksum(&out, if self.flags & flag::SEALED_BODY != 0 { &[] } else { body });
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

fn checksum(header: &[u8; HEADER_BYTES], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&header[0..12]);
    let crc = crc32c::crc32c_append(crc, &header[16..]);
    if body.is_empty() { crc } else { crc32c::crc32c_append(crc, body) }
}

/// `bytes` rounded up to where the next frame may start.
pub const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(FRAME_ALIGN)
}

/// Appends a frame with this body, and its padding.
///
/// # Panics
/// If the body is longer than [`BODY_BYTES_MAX`] or `out` does not end at a multiple of [`FRAME_ALIGN`].
pub fn append(out: &mut FrameBuf, header: &Header, body: &[u8]) {
    assert!(out.len().is_multiple_of(FRAME_ALIGN), "frames start aligned");
    out.extend_from_slice(&header.encode(body));
    out.extend_from_slice(body);
    pad(out);
}

/// Appends a frame whose body `write` appends; the header is filled in afterwards, so the body is written once.
///
/// On an error of `write` nothing stays appended.
pub fn append_with<E>(
    out: &mut FrameBuf,
    header: &Header,
    write: impl FnOnce(&mut FrameBuf) -> Result<(), E>,
) -> Result<(), E> {
    assert!(out.len().is_multiple_of(FRAME_ALIGN), "frames start aligned");
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    if let Err(error) = write(out) {
        out.resize(start, 0);
        return Err(error);
    }
    let (head, body) = out[start..].split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&header.encode(body));
    pad(out);
    Ok(())
}

fn pad(out: &mut FrameBuf) {
    const ZERO: [u8; FRAME_ALIGN] = [0; FRAME_ALIGN];
    let missing = padded(out.len()) - out.len();
    out.extend_from_slice(&ZERO[..missing]);
}

/// Bytes of the frame that starts here, padding included, or `None` while fewer than [`HEADER_BYTES`] are there.
///
/// Checks what bounds the length and no more: for readers that wait for the rest of a stream.
pub fn frame_bytes(start: &[u8]) -> Result<Option<usize>, FrameError> {
    if start.len() < HEADER_BYTES {
        return Ok(None);
    }
    let kind = check_fixed(start)?;
    let body = u32_at(start, 8);
    if body as usize > BODY_BYTES_MAX {
        return Err(FrameError::TooLong(body));
    }
    if body > 0 && kind.is_bare() {
        return Err(FrameError::Body);
    }
    Ok(Some(padded(HEADER_BYTES + body as usize)))
}

fn check_fixed(head: &[u8]) -> Result<Kind, FrameError> {
    if head[0..4] != MAGIC {
        return Err(FrameError::Magic(head[0..4].try_into().expect("four bytes")));
    }
    if head[4] != VERSION {
        return Err(FrameError::Version(head[4]));
    }
    let kind = Kind::from_wire(head[5]).ok_or(FrameError::Kind(head[5]))?;
    let flags = u16::from_le_bytes([head[6], head[7]]);
    if flags & !kind.flags() != 0 {
        return Err(FrameError::Flags(flags));
    }
    if kind != Kind::Submit && (head[57] != 0 || head[60..64] != [0; 4]) {
        return Err(FrameError::Reserved);
    }
    Ok(kind)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A whole frame, in place: fixed fields and checksum were checked when it was made, the body was not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Header and body, without padding. Invariant: starts aligned, `len == HEADER_BYTES + body length`.
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes` and how many bytes it takes with its padding.
    ///
    /// Padding that is missing at the very end of `bytes` counts as there.
    pub fn parse(bytes: &'a [u8]) -> Result<(Frame<'a>, usize), FrameError> {
        if !(bytes.as_ptr() as usize).is_multiple_of(FRAME_ALIGN) {
            return Err(FrameError::Misaligned);
        }
        let whole = frame_bytes(bytes)?.ok_or(FrameError::Short)?;
        let exact = HEADER_BYTES + u32_at(bytes, 8) as usize;
        let frame = Frame { bytes: bytes.get(..exact).ok_or(FrameError::Short)? };
        let head: &[u8; HEADER_BYTES] = frame.bytes[..HEADER_BYTES].try_into().expect("a whole header");
        let sealed = frame.flags() & flag::SEALED_BODY != 0;
        let is = checksum(head, if sealed { &[] } else { frame.body() });
        let said = u32_at(head, 12);
        if is != said {
            return Err(FrameError::Crc { said, is });
        }
        Ok((frame, whole.min(bytes.len())))
    }

    /// A frame that [`Frame::parse`] accepted before, found again: nothing is checked a second time.
    ///
    /// `bytes` is what [`Frame::bytes`] gave. Other bytes give wrong answers or a panic later, nothing worse.
    pub fn parsed_before(bytes: &'a [u8]) -> Frame<'a> {
        debug_assert!(Frame::parse(bytes).is_ok_and(|(frame, _)| frame.bytes.len() == bytes.len()));
        Frame { bytes }
    }

    /// Header and body as they stand, without padding.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The body, without padding. Its start is aligned to [`FRAME_ALIGN`].
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The frame inside a sealed body.
    pub fn sealed(&self) -> Result<Frame<'a>, FrameError> {
        if self.flags() & flag::SEALED_BODY == 0 {
            return Err(FrameError::Body);
        }
        let (inner, _) = Frame::parse(self.body())?;
        if inner.bytes.len() != self.body().len() { Err(FrameError::Body) } else { Ok(inner) }
    }

    /// All fields that a writer chose.
    pub fn header(&self) -> Header {
        Header {
            kind: self.kind(),
            flags: self.flags(),
            call: self.call(),
            function: self.function(),
            stamp: self.stamp(),
            deadline: u64_at(self.bytes, 48),
            level: self.bytes[56],
            attempt: self.attempt(),
            label: self.label(),
            key: self.key(),
        }
    }

    /// What the frame says.
    pub fn kind(&self) -> Kind {
        Kind::from_wire(self.bytes[5]).expect("checked when parsed")
    }

    /// Bits of [`flag`].
    pub fn flags(&self) -> u16 {
        u16::from_le_bytes([self.bytes[6], self.bytes[7]])
    }

    /// The call it is about.
    pub fn call(&self) -> CallId {
        CallId(u128::from_le_bytes(self.bytes[16..32].try_into().expect("sixteen bytes")))
    }

    /// The function it is about.
    pub fn function(&self) -> FunctionId {
        FunctionId(u64_at(self.bytes, 32))
    }

    /// The raw stamp; see the table of the module.
    pub fn stamp(&self) -> u64 {
        u64_at(self.bytes, 40)
    }

    /// Submit: when the call may start.
    pub fn start_at(&self) -> WallTime {
        WallTime(self.stamp())
    }

    /// Lease, outcome: the lease's epoch.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.stamp())
    }

    /// Submit, lease: when the call must be done; zero if the function's default holds. Retry: not before.
    pub fn deadline(&self) -> WallTime {
        WallTime(u64_at(self.bytes, 48))
    }

    /// Submit, lease: criticality, larger is more important.
    pub fn criticality(&self) -> u8 {
        self.bytes[56]
    }

    /// Outcome, done, retry, dead, ready: how it ended.
    pub fn status(&self) -> Result<Status, FrameError> {
        Status::from_wire(self.bytes[56]).ok_or(FrameError::Body)
    }

    /// Submit: the label of its arguments.
    pub fn label(&self) -> Label {
        Label(self.bytes[57])
    }

    /// Submit: its key.
    pub fn key(&self) -> CallKey {
        CallKey(u32_at(self.bytes, 60))
    }

    /// How many times the call has been delivered, from 1.
    pub fn attempt(&self) -> u16 {
        u16::from_le_bytes([self.bytes[58], self.bytes[59]])
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} + {} bytes", self.header(), self.body().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping() -> FrameBuf {
        let mut out = FrameBuf::new();
        append(&mut out, &Header { stamp: 7, ..Header::new(Kind::Credit) }, b"");
        out
    }

    #[test]
    fn every_kind_survives_its_number() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_wire(kind as u8), Some(kind));
        }
        assert_eq!((0..=255).filter(|n| Kind::from_wire(*n).is_some()).count(), Kind::ALL.len());
    }

    #[test]
    fn each_flipped_bit_is_noticed() {
        let good = ping();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::parse(&bad).is_err(), "bit {bit}");
        }
    }

    /// Bytes as a peer could send them, which no writer of ours makes: the checksum is right.
    fn forged(kind: Kind, flags: u16, body: &[u8]) -> FrameBuf {
        let mut out = FrameBuf::new();
        append(&mut out, &Header::new(Kind::Outcome), body);
        out[5] = kind as u8;
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        let head: [u8; HEADER_BYTES] = out[..HEADER_BYTES].try_into().unwrap();
        let crc = checksum(&head, if flags & flag::SEALED_BODY != 0 { &[] } else { body });
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    #[test]
    fn a_kind_has_the_flags_and_the_body_it_may_have() {
        for kind in Kind::ALL {
            for flags in (0..16).map(|bit| 1 << bit) {
                let parsed = Frame::parse(&forged(kind, flags, b"")).map(|_| ());
                let allowed = kind.flags() & flags != 0;
                assert_eq!(parsed, if allowed { Ok(()) } else { Err(FrameError::Flags(flags)) }, "{kind:?}");
            }
            let parsed = Frame::parse(&forged(kind, 0, b"x")).map(|_| ());
            assert_eq!(parsed, if kind.is_bare() { Err(FrameError::Body) } else { Ok(()) }, "{kind:?}");
        }
    }

    #[test]
    fn only_a_submit_has_a_label_and_a_key() {
        for at in [57, 60, 63] {
            for kind in Kind::ALL {
                let mut bytes = forged(kind, 0, b"");
                bytes[at] = 3;
                let head: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
                bytes[12..16].copy_from_slice(&checksum(&head, b"").to_le_bytes());
                let parsed = Frame::parse(&bytes).map(|(frame, _)| (frame.label().0, frame.key().0));
                match (kind, at) {
                    (Kind::Submit, 57) => assert_eq!(parsed, Ok((3, 0))),
                    (Kind::Submit, _) => assert_eq!(parsed.map(|(_, key)| key != 0), Ok(true)),
                    _ => assert_eq!(parsed, Err(FrameError::Reserved), "{kind:?}"),
                }
            }
        }
    }

    #[test]
    fn a_submit_cannot_hide_its_body_from_its_checksum() {
        let sealed = forged(Kind::Submit, flag::SEALED_BODY, b"arguments");
        assert_eq!(Frame::parse(&sealed).unwrap_err(), FrameError::Flags(flag::SEALED_BODY));
    }

    #[test]
    fn a_sealed_body_is_the_same_bytes() {
        let inner = ping();
        let mut out = FrameBuf::new();
        append(&mut out, &Header { flags: flag::SEALED_BODY, ..Header::new(Kind::Lease) }, &inner);
        let (frame, _) = Frame::parse(&out).unwrap();
        assert_eq!(frame.sealed().unwrap().bytes(), &inner[..]);
        let at = HEADER_BYTES + 41;
        out[at] ^= 1;
        let (frame, _) = Frame::parse(&out).expect("the envelope's own checksum holds");
        assert!(matches!(frame.sealed(), Err(FrameError::Crc { .. })), "the inner one does not");
    }

    #[test]
    fn a_failed_body_leaves_nothing() {
        let mut out = ping();
        let before = out.len();
        let result = append_with(&mut out, &Header::new(Kind::Submit), |out| {
            out.extend_from_slice(b"half");
            Err(())
        });
        assert_eq!((result, out.len()), (Err(()), before));
    }
}
