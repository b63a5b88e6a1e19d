//! The one place for limits: what bounds a frame, a queue, a core. Relations between them are proved at compile time.
//!
//! A limit that an operator may change is a field of [`Limits`]; a limit of the formats is a constant.

use std::time::Duration;

/// Bytes of the fixed frame header: one cache line, so that routing a frame touches one line only.
pub const HEADER_BYTES: usize = 64;
/// Every frame starts at a multiple of this: rkyv's `u128` needs 16, and a 16-aligned receive buffer then keeps
/// every frame readable in place.
pub const FRAME_ALIGN: usize = 16;
/// Bytes of the largest frame body. 4 MiB holds the largest arguments with room for attributes and an envelope.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Bytes of the largest arguments of a call. Larger ones belong in a store, with a reference in the call.
pub const ARGUMENTS_BYTES_MAX: usize = 1 << 20;
/// Arguments above this are stored as a blob by whoever submits them over HTTP or with the command line, results by the
/// core that has them: a group of the log. Smaller ones cost less in the log than a file of their own.
pub const BLOB_ABOVE_BYTES: usize = 256 << 10;
/// Bytes of the largest output that an outcome frame has room for. Larger results are blobs.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Bytes of captured stderr per call; the rest is dropped and the outcome says so.
pub const STDERR_BYTES_MAX: usize = 16 << 10;
/// Attributes of a call, and bytes of one key or value. The sum must fit beside the arguments.
pub const ATTRIBUTES_MAX: usize = 64;
/// Bytes of one attribute key or value.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;
/// Bytes of the largest deployable wasm file or bundle: componentised Python is 18 MB.
pub const ARTEFACT_BYTES_MAX: usize = 64 << 20;
/// Bytes of the largest bundle, unpacked: twice what Lambda allows.
pub const BUNDLE_BYTES_MAX: u64 = 512 << 20;
/// Files, directories and links of a bundle.
pub const BUNDLE_ENTRIES_MAX: usize = 1 << 16;
/// Bytes of the longest path in a bundle.
pub const BUNDLE_PATH_BYTES_MAX: usize = 1024;
/// Bytes of the longest message of a message connection: between a core and the jailer, who share this bound. It holds
/// command and environment at their longest (32 KiB each) with half as much again for quoting and the rest, and goes in
/// one piece through a Unix socket's default send buffer (208 KiB) with the kernel's bookkeeping.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// How far ahead a start time may lie. The paper speaks of hours; a week bounds the pinned log.
pub const START_AHEAD_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest name of a function, namespace or tenant, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

// A frame is described by a 32-bit length.
const _: () = assert!(BODY_BYTES_MAX <= u32::MAX as usize / 2);
// Arguments and all attributes, with rkyv's bookkeeping (16 bytes each), and the envelope of a lease fit into a body.
const _: () = assert!(
    ARGUMENTS_BYTES_MAX + ATTRIBUTES_MAX * (2 * ATTRIBUTE_BYTES_MAX + 32) + 2 * HEADER_BYTES + 1024
        <= BODY_BYTES_MAX
);
// Output and stderr travel in one outcome frame.
const _: () = assert!(OUTPUT_BYTES_MAX + STDERR_BYTES_MAX + 2 * HEADER_BYTES + 1024 <= BODY_BYTES_MAX);
const _: () = assert!(HEADER_BYTES.is_multiple_of(FRAME_ALIGN));

/// What an operator may set. Every decider takes all its memory in `new(&Limits)` and none later.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Deployed functions. The paper's month has 18,377 distinct ones; ours starts with room for a large namespace.
    pub functions_max: usize,
    /// Calls accepted and not yet finished, whether waiting, leased or delayed.
    pub calls_max: usize,
    /// Bytes of memory for frames: of calls that are not on disk yet, are due soon, or run. Those of other calls are on
    /// disk only. A submit that finds no room is refused as "full".
    pub pending_bytes_max: usize,
    /// Outcomes kept for `calls show` and late waiters.
    pub outcomes_max: usize,
    /// Ends that are remembered for a set time: idempotency keys, and outcomes that are retained. Beyond it the oldest is
    /// forgotten early, and counted.
    pub retained_max: usize,
    /// Dead letters kept; beyond it the oldest is dropped, and counted.
    pub dead_letters_max: usize,
    /// Bytes of memory for the histories of calls that failed: of as many as there may be dead letters, 1 KiB each. When
    /// it is full fewer attempts are kept, and a history says so. At most 160 MiB.
    pub history_bytes_max: usize,
    /// Calls in the RunQ: the flow control of the scheduler (the paper does not give its length). Two rounds of
    /// every slot of two 512-slot cores keep them busy without committing to an order too early.
    pub runq_max: usize,
    /// Calls of one function moved from the durable queue into its FuncBuffer ahead of need.
    pub func_buffer_max: usize,
    /// Tenants that the scheduler tells apart: 4 KiB of rings each.
    pub tenants_max: usize,
    /// Worker cores connected at once.
    pub cores_max: usize,
    /// Client connections at once.
    pub clients_max: usize,
    /// A lease whose worker has not been heard of for this long is offered again.
    pub lease: Duration,
    /// How often a worker core says that it lives. A tenth of the lease: nine may be lost.
    pub heartbeat: Duration,
    /// Bytes of a log segment, pre-written.
    pub segment_bytes: u64,
    /// Bytes of a log group: what one write carries at most.
    pub group_bytes: usize,
    /// Segments that a start may have to read, beside twice what the index of all calls takes: beyond it the queue writes
    /// its index to the log once more. Four of 64 MiB are read in a quarter of a second.
    pub checkpoint_segments: usize,
    /// Log writes in flight. Four reach the disk's best rate on the reference machine (1.25 GB/s at 64 KiB).
    pub groups_in_flight: usize,
    /// Reads of the log in flight, each of at most a group's bytes: frames of calls that waited on disk. Four reads of
    /// 4 KiB keep up with what one core leases, and of 256 KiB with the disk.
    pub reads_in_flight: usize,
    /// Deliveries of one call after which a call that keeps killing its worker goes to the dead letters.
    pub deliveries_max: u32,
    /// Executions of one call that may meet back-pressure before they count as failures. With the longest usual wait
    /// of a minute between two it is most of a day: the paper's incidents took about two hours.
    pub pressures_max: u16,
    /// Bytes of the largest blob.
    pub blob_bytes_max: u64,
    /// Bytes of all blobs in the store; beyond it a further one is refused as "full".
    pub blobs_bytes_max: u64,
    /// Blobs in the store: 64 bytes of memory each.
    pub blobs_max: usize,
    /// A blob that no call names stays for so long: its submit may be on the way.
    pub blob_grace: Duration,
    /// Bytes of memory of a core for arguments that are blobs: of calls that run, and of the one that is coming. And as
    /// many for results, as far as they are larger than a frame has room for.
    pub blob_memory_bytes: u64,
    /// Bytes of the largest result of a call; more is cut off, and the outcome says so.
    pub result_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            functions_max: 20_000,
            calls_max: 1 << 20,
            pending_bytes_max: 1 << 30,
            outcomes_max: 1 << 16,
            retained_max: 1 << 16,
            dead_letters_max: 1 << 16,
            history_bytes_max: 64 << 20,
            runq_max: 4096,
            func_buffer_max: 4096,
            tenants_max: 1024,
            cores_max: 256,
            clients_max: 1024,
            lease: Duration::from_secs(5),
            heartbeat: Duration::from_millis(500),
            segment_bytes: 64 << 20,
            group_bytes: 256 << 10,
            checkpoint_segments: 4,
            groups_in_flight: 4,
            reads_in_flight: 4,
            deliveries_max: 10,
            pressures_max: 1000,
            blob_bytes_max: 64 << 20,
            blobs_bytes_max: 16 << 30,
            blobs_max: 1 << 16,
            blob_grace: Duration::from_secs(3600),
            blob_memory_bytes: 256 << 20,
            result_bytes_max: 64 << 20,
        }
    }
}

impl Limits {
    /// Small limits, for tests that want to reach them.
    pub fn small() -> Limits {
        Limits {
            functions_max: 16,
            calls_max: 1024,
            pending_bytes_max: 1 << 20,
            outcomes_max: 1024,
            retained_max: 1024,
            dead_letters_max: 256,
            history_bytes_max: 256 << 10,
            runq_max: 64,
            func_buffer_max: 64,
            tenants_max: 8,
            cores_max: 8,
            clients_max: 16,
            segment_bytes: 256 << 10,
            group_bytes: 16 << 10,
            checkpoint_segments: 1,
            ..Limits::default()
        }
    }
}
