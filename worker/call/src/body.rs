//! Bodies of the frames on the path of a call: rkyv archives, read in place.
//!
//! `access` validates (bytecheck) and costs tens of nanoseconds; it is called once at each trust boundary. The root
//! of an archive stands at its end, so a body must have its exact length: [`crate::Frame::body`] has.

use crate::frame::{self, FrameBuf, FrameError, Header, Kind, flag};
use crate::ids::{CallId, CallKey, FunctionId};
use crate::label::Label;
use crate::limits::{
    ARGUMENTS_BYTES_MAX, ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, BODY_BYTES_MAX, OUTPUT_BYTES_MAX,
    STDERR_BYTES_MAX,
};
use crate::outcome::{Status, Usage};
use crate::time::WallTime;
use rkyv::api::serialize_using;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::Serializer;
use rkyv::ser::allocator::SubAllocator;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};
use std::mem::MaybeUninit;

/// One attribute of a call: trace context, content type, and the like (CloudEvents names where there is one).
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its name.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a str,
    /// Its value.
    #[rkyv(with = InlineAsBox)]
    pub value: &'a str,
}

/// Keys of attributes that the platform itself gives a meaning.
pub mod attribute {
    /// What an invoker of the Lambda API says about itself: JSON, in the Runtime API's `Lambda-Runtime-Client-Context`.
    pub const CLIENT_CONTEXT: &str = "clientcontext";
    /// The trace that the call belongs to, as `X-Amzn-Trace-Id` has it: `Lambda-Runtime-Trace-Id`.
    pub const TRACE_ID: &str = "xamzntraceid";
    /// The text of the call's key, of which the frame's header has a hash: CloudEvents' extension for partitioning.
    pub const KEY: &str = "partitionkey";
}

/// Body of [`Kind::Submit`]: what the function will read.
#[derive(Archive, Serialize, Clone, Copy, Debug, Default)]
pub struct Arguments<'a> {
    /// The function's argument bytes: stdin of a command, the buffer of the fast ABI.
    #[rkyv(with = InlineAsBox)]
    pub payload: &'a [u8],
    /// Attributes, in the client's order.
    #[rkyv(with = InlineAsBox)]
    pub attributes: &'a [Attribute<'a>],
}

/// What became of one submit.
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The call as the client named it, in two halves (low, high): an archive of 8-aligned words has no holes.
    pub call: [u64; 2],
    /// [`VerdictCode`] as a number.
    pub code: u32,
    /// If refused as full: how long to wait before the next try, ms. If unknown function etc.: zero.
    pub retry_after_ms: u32,
}

impl Verdict {
    /// A verdict about `call`.
    pub fn new(call: CallId, code: VerdictCode, retry_after_ms: u32) -> Verdict {
        Verdict { call: [call.0 as u64, (call.0 >> 64) as u64], code: code as u32, retry_after_ms }
    }

    /// Whether it answers this call.
    pub fn is_of(&self, call: CallId) -> bool {
        self.call == [call.0 as u64, (call.0 >> 64) as u64]
    }
}

impl ArchivedVerdict {
    /// The call it is about.
    pub fn call(&self) -> CallId {
        CallId(u128::from(self.call[0].to_native()) | (u128::from(self.call[1].to_native()) << 64))
    }

    /// What became of it; an unknown number is an error.
    pub fn code(&self) -> Result<VerdictCode, FrameError> {
        VerdictCode::from_wire(self.code.to_native()).ok_or(FrameError::Body)
    }
}

/// Verdicts of the longest [`Kind::Verdicts`] body, with room for the archive's root.
pub const VERDICTS_MAX: usize = (BODY_BYTES_MAX - 64) / size_of::<ArchivedVerdict>();

/// "Full" is a different word from "broken".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum VerdictCode {
    /// On disk; it will run at least once.
    Accepted = 0,
    /// The queue already has (or recently finished) a call of this id; nothing was added.
    Duplicate = 1,
    /// No room now; try again after `retry_after_ms`.
    Full = 2,
    /// No function of this id is deployed.
    UnknownFunction = 3,
    /// The start time is further ahead than [`crate::limits::START_AHEAD_MAX`], or the deadline before the start.
    BadTime = 4,
    /// The arguments are too large or the body is malformed.
    Malformed = 5,
    /// The node is draining, or the shard of the call is away; another node, or later.
    Draining = 6,
    /// The disk refused the write; nothing was accepted.
    DiskFailed = 7,
    /// Of this function, or of its tenant, so many calls are pending as may be; try again after `retry_after_ms`.
    Backlog = 8,
    /// An operator drains the function's queue: it takes no new calls until it is resumed.
    Closed = 9,
    /// It names a blob that the node does not have: store it first.
    NoBlob = 10,
}

impl VerdictCode {
    /// All, in the order of their numbers.
    pub const ALL: [VerdictCode; 11] = [
        VerdictCode::Accepted,
        VerdictCode::Duplicate,
        VerdictCode::Full,
        VerdictCode::UnknownFunction,
        VerdictCode::BadTime,
        VerdictCode::Malformed,
        VerdictCode::Draining,
        VerdictCode::DiskFailed,
        VerdictCode::Backlog,
        VerdictCode::Closed,
        VerdictCode::NoBlob,
    ];

    /// From its number.
    pub fn from_wire(number: u32) -> Option<VerdictCode> {
        VerdictCode::ALL.get(number as usize).copied()
    }

    /// Whether the queue holds the call (now, or held it before).
    pub fn is_held(self) -> bool {
        matches!(self, VerdictCode::Accepted | VerdictCode::Duplicate)
    }

    /// Whether the same submit may succeed later.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            VerdictCode::Full | VerdictCode::Draining | VerdictCode::DiskFailed | VerdictCode::Backlog
        )
    }

    /// A sentence for a person.
    pub fn message(self) -> &'static str {
        match self {
            VerdictCode::Accepted => "accepted",
            VerdictCode::Duplicate => "already accepted under this id",
            VerdictCode::Full => "the queue is full; try again later",
            VerdictCode::UnknownFunction => "no such function is deployed; see `millrace function list`",
            VerdictCode::BadTime => {
                "the start time is more than 7 days ahead, or the deadline before the start, or the call would have expired"
            }
            VerdictCode::Malformed => {
                "the arguments are malformed, or larger than the 1 MiB that a frame has room for: store them as a blob"
            }
            VerdictCode::Draining => {
                "the node is draining, or the shard of this call is away; try again later"
            }
            VerdictCode::Backlog => {
                "the backlog of the function or its tenant is full; try again later, or see `millrace queue list`"
            }
            VerdictCode::Closed => {
                "an operator drains the function's queue, which takes no new calls until it is resumed"
            }
            VerdictCode::DiskFailed => "the node could not write its log; see its output",
            VerdictCode::NoBlob => {
                "it names a blob that the node does not have; store it first with PUT /v1/blobs"
            }
        }
    }
}

/// Body of [`Kind::Verdicts`].
#[derive(Archive, Serialize, Clone, Copy, Debug)]
pub struct Verdicts<'a> {
    /// One per submit, in any order.
    #[rkyv(with = InlineAsBox)]
    pub verdicts: &'a [Verdict],
}

/// Body of [`Kind::Outcome`].
///
/// The root stands at the end of an archive: readers of before the first three fields came find theirs behind them.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// See [`Usage::init_ns`].
    pub init_ns: u64,
    /// See [`Usage::bytes_in`].
    pub bytes_in: u64,
    /// See [`Usage::bytes_out`].
    pub bytes_out: u64,
    /// See [`Usage::wait_ns`].
    pub wait_ns: u64,
    /// See [`Usage::run_ns`].
    pub run_ns: u64,
    /// See [`Usage::cpu_ns`].
    pub cpu_ns: u64,
    /// See [`Usage::memory_bytes`].
    pub memory_bytes: u64,
    /// See [`Usage::exit_code`].
    pub exit_code: i32,
    /// Bit 0: [`Usage::cold`]. Bit 1: [`Usage::truncated`]. Bit 2: the first three fields are there. The upper 24 bits:
    /// [`Usage::denied`]; readers of before it came do not look at them.
    pub bits: u32,
    /// What the function returned; for a command, its stdout. With [`flag::BLOB`] the name of a blob that has it.
    #[rkyv(with = InlineAsBox)]
    pub output: &'a [u8],
    /// A command's stderr, or the text of a trap.
    #[rkyv(with = InlineAsBox)]
    pub stderr: &'a [u8],
}

/// The bit that says that a reply is a whole one.
const WHOLE: u32 = 4;
/// Where denied attempts stand in the bits of a reply, and how many fit.
const DENIED_SHIFT: u32 = 8;
const DENIED_MAX: u32 = u32::MAX >> DENIED_SHIFT;

/// A [`Reply`] without its first three fields: logs of earlier builds hold such outcomes.
#[derive(Archive, Serialize, Clone, Copy, Debug)]
pub struct EarlyReply<'a> {
    /// See [`Usage::wait_ns`].
    pub wait_ns: u64,
    /// See [`Usage::run_ns`].
    pub run_ns: u64,
    /// See [`Usage::cpu_ns`].
    pub cpu_ns: u64,
    /// See [`Usage::memory_bytes`].
    pub memory_bytes: u64,
    /// See [`Usage::exit_code`].
    pub exit_code: i32,
    /// As in [`Reply`].
    pub bits: u32,
    /// As in [`Reply`].
    #[rkyv(with = InlineAsBox)]
    pub output: &'a [u8],
    /// As in [`Reply`].
    #[rkyv(with = InlineAsBox)]
    pub stderr: &'a [u8],
}

impl<'a> Reply<'a> {
    /// A reply with this usage.
    pub fn new(usage: &Usage, output: &'a [u8], stderr: &'a [u8]) -> Reply<'a> {
        Reply {
            init_ns: usage.init_ns,
            bytes_in: usage.bytes_in,
            bytes_out: usage.bytes_out,
            wait_ns: usage.wait_ns,
            run_ns: usage.run_ns,
            cpu_ns: usage.cpu_ns,
            memory_bytes: usage.memory_bytes,
            exit_code: usage.exit_code,
            bits: u32::from(usage.cold)
                | (u32::from(usage.truncated) << 1)
                | WHOLE
                | usage.denied.min(DENIED_MAX) << DENIED_SHIFT,
            output,
            stderr,
        }
    }
}

/// A validated reply, read in place.
#[derive(Clone, Copy, Debug)]
pub struct ReadReply<'a> {
    usage: Usage,
    /// What the function returned; for a command, its stdout.
    pub output: &'a [u8],
    /// A command's stderr, or the text of a trap.
    pub stderr: &'a [u8],
}

impl ReadReply<'_> {
    /// What it took.
    pub fn usage(&self) -> Usage {
        self.usage
    }
}

impl ArchivedReply<'static> {
    fn read(&self) -> ReadReply<'_> {
        let bits = self.bits.to_native();
        let usage = Usage {
            wait_ns: self.wait_ns.to_native(),
            run_ns: self.run_ns.to_native(),
            cpu_ns: self.cpu_ns.to_native(),
            memory_bytes: self.memory_bytes.to_native(),
            exit_code: self.exit_code.to_native(),
            init_ns: self.init_ns.to_native(),
            bytes_in: self.bytes_in.to_native(),
            bytes_out: self.bytes_out.to_native(),
            denied: bits >> DENIED_SHIFT,
            cold: bits & 1 != 0,
            truncated: bits & 2 != 0,
        };
        ReadReply { usage, output: &self.output, stderr: &self.stderr }
    }
}

impl ArchivedEarlyReply<'static> {
    fn read(&self) -> ReadReply<'_> {
        let bits = self.bits.to_native();
        let usage = Usage {
            wait_ns: self.wait_ns.to_native(),
            run_ns: self.run_ns.to_native(),
            cpu_ns: self.cpu_ns.to_native(),
            memory_bytes: self.memory_bytes.to_native(),
            exit_code: self.exit_code.to_native(),
            cold: bits & 1 != 0,
            truncated: bits & 2 != 0,
            ..Usage::default()
        };
        ReadReply { usage, output: &self.output, stderr: &self.stderr }
    }
}

/// Reads and validates a submit body: sizes within limits, text is UTF-8.
pub fn arguments(body: &[u8]) -> Result<&ArchivedArguments<'static>, FrameError> {
    let read = rkyv::access::<ArchivedArguments<'static>, Failure>(body).map_err(|_| FrameError::Body)?;
    let small = |a: &ArchivedAttribute<'static>| {
        a.key.len() <= ATTRIBUTE_BYTES_MAX && a.value.len() <= ATTRIBUTE_BYTES_MAX
    };
    let fits = read.payload.len() <= ARGUMENTS_BYTES_MAX
        && read.attributes.len() <= ATTRIBUTES_MAX
        && read.attributes.iter().all(small);
    if fits { Ok(read) } else { Err(FrameError::Body) }
}

/// Reads and validates a verdicts body.
pub fn verdicts(body: &[u8]) -> Result<&[ArchivedVerdict], FrameError> {
    let read = rkyv::access::<ArchivedVerdicts<'static>, Failure>(body).map_err(|_| FrameError::Body)?;
    Ok(&read.verdicts)
}

/// Reads and validates an outcome body: sizes within limits.
pub fn reply(body: &[u8]) -> Result<ReadReply<'_>, FrameError> {
    let whole = rkyv::access::<ArchivedReply<'static>, Failure>(body).ok();
    let read = match whole.filter(|reply| reply.bits.to_native() & WHOLE != 0) {
        Some(reply) => reply.read(),
        None => rkyv::access::<ArchivedEarlyReply<'static>, Failure>(body)
            .ok()
            .filter(|reply| reply.bits.to_native() & WHOLE == 0)
            .ok_or(FrameError::Body)?
            .read(),
    };
    let fits = read.output.len() <= OUTPUT_BYTES_MAX && read.stderr.len() <= STDERR_BYTES_MAX;
    if fits { Ok(read) } else { Err(FrameError::Body) }
}

/// A call as a client means it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Submit<'a> {
    /// Made by the client; see [`CallId`].
    pub call: CallId,
    /// Which function.
    pub function: FunctionId,
    /// Not before; zero for now.
    pub start_at: WallTime,
    /// To be done by; zero for the function's default.
    pub deadline: WallTime,
    /// Larger is more important; 0 for the function's default.
    pub criticality: u8,
    /// Send the outcome on this connection and keep its body.
    pub want_outcome: bool,
    /// Whom it is about: at most `concurrency_per_key` calls of one key run at once.
    pub key: CallKey,
    /// How its arguments may flow.
    pub label: Label,
    /// It must begin by its deadline, or ends as [`Status::Expired`].
    pub expires: bool,
    /// Its id was made of an idempotency key: [`Submit::keyed_by`].
    pub keyed: bool,
    /// The payload names a blob that has the arguments: [`crate::blob::Reference::to_bytes`].
    pub blob: bool,
    /// What the function reads.
    pub arguments: Arguments<'a>,
}

impl Submit<'_> {
    /// The same call under an idempotency key: a second one with the same key and function is a duplicate of the first,
    /// has the same id, and is told so, until the function's window after the first one's end is over. It starts `now`
    /// if nothing else was said: its id does not tell when it was born.
    #[must_use]
    pub fn keyed_by(self, key: &str, now: WallTime) -> Self {
        let start_at = if self.start_at.0 == 0 { now } else { self.start_at };
        Submit { call: CallId::of_key(self.function, key), keyed: true, start_at, ..self }
    }
}

/// Appends a submit frame: the one encoding of a call's life.
///
/// # Errors
/// [`FrameError::Body`] if the arguments are larger than the limits; nothing is appended.
pub fn append_submit(out: &mut FrameBuf, submit: &Submit<'_>) -> Result<(), FrameError> {
    let arguments = &submit.arguments;
    let small =
        |a: &Attribute<'_>| a.key.len() <= ATTRIBUTE_BYTES_MAX && a.value.len() <= ATTRIBUTE_BYTES_MAX;
    let fits = arguments.payload.len() <= ARGUMENTS_BYTES_MAX
        && arguments.attributes.len() <= ATTRIBUTES_MAX
        && arguments.attributes.iter().all(small);
    if !fits {
        return Err(FrameError::Body);
    }
    let header = Header {
        flags: [
            (submit.want_outcome, flag::WANT_OUTCOME),
            (submit.expires, flag::EXPIRES),
            (submit.keyed, flag::KEYED),
            (submit.blob, flag::BLOB),
        ]
        .into_iter()
        .fold(0, |flags, (is, flag)| if is { flags | flag } else { flags }),
        call: submit.call,
        function: submit.function,
        stamp: submit.start_at.0,
        deadline: submit.deadline.0,
        level: submit.criticality,
        label: submit.label,
        key: submit.key,
        ..Header::new(Kind::Submit)
    };
    append_archive(out, &header, arguments)
}

/// Appends a verdicts frame.
///
/// # Errors
/// [`FrameError::Body`] if there are more than [`VERDICTS_MAX`]; nothing is appended.
pub fn append_verdicts(out: &mut FrameBuf, verdicts: &[Verdict]) -> Result<(), FrameError> {
    if verdicts.len() > VERDICTS_MAX {
        return Err(FrameError::Body);
    }
    append_archive(out, &Header::new(Kind::Verdicts), &Verdicts { verdicts })
}

/// Appends an outcome frame about the lease `(call, epoch, attempt)` in `lease`.
///
/// # Errors
/// [`FrameError::Body`] if output or stderr is larger than the limits; nothing is appended.
pub fn append_outcome(
    out: &mut FrameBuf,
    lease: &Header,
    status: Status,
    reply: &Reply<'_>,
) -> Result<(), FrameError> {
    append_reply(out, &Header { kind: Kind::Outcome, flags: 0, level: status as u8, ..*lease }, reply)
}

/// As [`append_outcome`], of a call whose result is a blob: the reply's output names it
/// ([`crate::blob::Reference::to_bytes`]).
///
/// # Errors
/// As [`append_outcome`].
pub fn append_stored_outcome(
    out: &mut FrameBuf,
    lease: &Header,
    status: Status,
    reply: &Reply<'_>,
) -> Result<(), FrameError> {
    append_reply(
        out,
        &Header { kind: Kind::Outcome, flags: flag::BLOB, level: status as u8, ..*lease },
        reply,
    )
}

fn append_reply(out: &mut FrameBuf, header: &Header, reply: &Reply<'_>) -> Result<(), FrameError> {
    if reply.output.len() > OUTPUT_BYTES_MAX || reply.stderr.len() > STDERR_BYTES_MAX {
        return Err(FrameError::Body);
    }
    append_archive(out, &Header { deadline: 0, ..*header }, reply)
}

type Archiver<'out, 'scratch> = Strategy<Serializer<&'out mut FrameBuf, SubAllocator<'scratch>, ()>, Failure>;

/// Serialises behind a header, with scratch memory on the stack: no heap, whatever the value.
fn append_archive<T>(out: &mut FrameBuf, header: &Header, value: &T) -> Result<(), FrameError>
where
    T: for<'out, 'scratch> Serialize<Archiver<'out, 'scratch>>,
{
    // Resolvers of the largest list (attributes: two positions each) with room to spare.
    let mut scratch = [MaybeUninit::<u8>::uninit(); 8192];
    frame::append_with(out, header, |out| {
        let mut serializer = Serializer::new(out, SubAllocator::new(&mut scratch), ());
        serialize_using::<_, Failure>(value, &mut serializer).map(|_| ()).map_err(|_| FrameError::Body)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    fn submit<'a>(payload: &'a [u8], attributes: &'a [Attribute<'a>]) -> Submit<'a> {
        Submit {
            call: CallId::new(1, 2),
            function: FunctionId::of("default", "echo"),
            start_at: WallTime(5),
            deadline: WallTime(9),
            criticality: 3,
            want_outcome: true,
            arguments: Arguments { payload, attributes },
            ..Submit::default()
        }
    }

    #[test]
    fn a_submit_is_read_in_place() {
        let attributes =
            [Attribute { key: "traceparent", value: "00-ab-cd-01" }, Attribute { key: "k", value: "" }];
        let mut out = FrameBuf::new();
        append_submit(&mut out, &submit(b"hello, world", &attributes)).unwrap();
        let (frame, used) = Frame::parse(&out).unwrap();
        assert_eq!(used, out.len());
        let read = arguments(frame.body()).unwrap();
        assert_eq!(&*read.payload, b"hello, world");
        assert_eq!(&*read.attributes[0].value, "00-ab-cd-01");
        let (at, all) = (read.payload.as_ptr() as usize, out.as_ptr() as usize);
        assert!(at > all && at < all + out.len(), "the payload was copied");
    }

    #[test]
    fn the_largest_lists_fit_the_scratch() {
        let attributes = [Attribute { key: "k", value: "v" }; ATTRIBUTES_MAX];
        let mut out = FrameBuf::new();
        append_submit(&mut out, &submit(&[7; ARGUMENTS_BYTES_MAX], &attributes)).unwrap();
        let (frame, _) = Frame::parse(&out).unwrap();
        assert_eq!(arguments(frame.body()).unwrap().attributes.len(), ATTRIBUTES_MAX);
        let many = vec![Verdict::new(CallId(1 << 100 | 7), VerdictCode::Full, 20); 100_000];
        out.clear();
        append_verdicts(&mut out, &many).unwrap();
        let (frame, _) = Frame::parse(&out).unwrap();
        let read = verdicts(frame.body()).unwrap();
        assert_eq!(read.len(), 100_000);
        assert_eq!((read[9].call(), read[9].code()), (CallId(1 << 100 | 7), Ok(VerdictCode::Full)));
    }

    #[test]
    fn too_large_arguments_are_refused_and_leave_nothing() {
        let mut out = FrameBuf::new();
        let error = append_submit(&mut out, &submit(&vec![0; ARGUMENTS_BYTES_MAX + 1], &[])).unwrap_err();
        assert_eq!((error, out.len()), (FrameError::Body, 0));
    }

    #[test]
    fn too_many_verdicts_and_too_large_replies_are_refused_and_leave_nothing() {
        let mut out = FrameBuf::new();
        let most = vec![Verdict::new(CallId(1), VerdictCode::Accepted, 0); VERDICTS_MAX + 1];
        append_verdicts(&mut out, &most[1..]).unwrap();
        out.clear();
        assert_eq!(append_verdicts(&mut out, &most), Err(FrameError::Body));
        let (output, stderr) = (vec![0; OUTPUT_BYTES_MAX + 1], vec![0; STDERR_BYTES_MAX + 1]);
        let lease = Header::new(Kind::Lease);
        for (output, stderr) in [(&output[..], &b""[..]), (b"", &stderr)] {
            let reply = Reply::new(&Usage::default(), output, stderr);
            assert_eq!(append_outcome(&mut out, &lease, Status::Ok, &reply), Err(FrameError::Body));
        }
        assert_eq!(out.len(), 0);
        let reply = Reply::new(&Usage::default(), &output[1..], &stderr[1..]);
        append_outcome(&mut out, &lease, Status::Ok, &reply).unwrap();
    }

    #[test]
    fn an_outcome_keeps_usage_and_lease() {
        let lease = Header { stamp: 77, attempt: 2, call: CallId(5), ..Header::new(Kind::Lease) };
        let usage = Usage {
            wait_ns: 9,
            run_ns: 5,
            cpu_ns: 4,
            memory_bytes: 8,
            exit_code: -1,
            init_ns: 1,
            bytes_in: 2,
            bytes_out: 3,
            denied: 6,
            cold: true,
            truncated: false,
        };
        let mut out = FrameBuf::new();
        append_outcome(&mut out, &lease, Status::Trap, &Reply::new(&usage, b"out", b"err")).unwrap();
        let (frame, _) = Frame::parse(&out).unwrap();
        assert_eq!((frame.epoch().0, frame.attempt(), frame.status()), (77, 2, Ok(Status::Trap)));
        let read = reply(frame.body()).unwrap();
        assert_eq!((read.usage(), read.output, read.stderr), (usage, &b"out"[..], &b"err"[..]));
        let most = Reply::new(&Usage { denied: u32::MAX, ..usage }, b"", b"");
        out.clear();
        append_outcome(&mut out, &lease, Status::Ok, &most).unwrap();
        let read = reply(Frame::parse(&out).unwrap().0.body()).unwrap().usage();
        assert_eq!(
            read,
            Usage { denied: (1 << 24) - 1, ..usage },
            "as many as fit, and nothing else changes"
        );
    }

    #[test]
    fn outcomes_of_earlier_builds_are_read_and_ours_by_them() {
        for (output, stderr) in [(&b""[..], &b""[..]), (b"out", b""), (&[7; 100], b"a longer text on stderr")]
        {
            let early = EarlyReply {
                wait_ns: 1,
                run_ns: 2,
                cpu_ns: 3,
                memory_bytes: 4,
                exit_code: 5,
                bits: 3,
                output,
                stderr,
            };
            let mut out = FrameBuf::new();
            append_archive(&mut out, &Header::new(Kind::Outcome), &early).unwrap();
            let read = reply(Frame::parse(&out).unwrap().0.body()).unwrap();
            assert_eq!((read.output, read.stderr), (output, stderr));
            let usage = read.usage();
            assert_eq!((usage.run_ns, usage.exit_code, usage.cold, usage.truncated), (2, 5, true, true));
            assert_eq!((usage.init_ns, usage.bytes_in, usage.bytes_out), (0, 0, 0));

            out.clear();
            let ours = Reply::new(&Usage { bytes_in: 9, denied: 7, ..usage }, output, stderr);
            append_outcome(&mut out, &Header::new(Kind::Lease), Status::Ok, &ours).unwrap();
            let body = Frame::parse(&out).unwrap().0.body();
            let early = rkyv::access::<ArchivedEarlyReply<'static>, Failure>(body).unwrap().read();
            assert_eq!((early.output, early.stderr, early.usage()), (output, stderr, usage));
        }
    }
}
