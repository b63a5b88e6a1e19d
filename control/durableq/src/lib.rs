//! The durable queue: it takes calls, keeps them until they have ended, and says who may run them. A pure decider: no
//! clock, no I/O, no threads, no hashing order, and no allocation on the path of a call after the start.
//!
//! # The life of a call here
//! ```text
//!  submit --> Appended --(its group is on disk)--> Scheduled --(its time has come)--> Due <-----------+
//!                            |                         ^                              | poll          | give_back,
//!                            v verdict: accepted       |                              v               | lose_next
//!                                                 (retry, settle)                  Offered --lease--> Leased
//!                                                      +--------------------------------------------- | settle
//!  forgotten <-- remembered <--(its group is on disk: outcome)-- Ending, Dead <-----------------------+
//! ```
//!
//! # What can be relied on
//! * A verdict `Accepted` or `Duplicate` is given when the call is on disk, with everything before it; an outcome is told
//!   when the end is on disk. After a kill at any instant [`Recovery`] finds each accepted call that has no end on disk.
//! * A call is leased to one holder at a time. Each lease has an epoch that is never given again, not in later
//!   incarnations either; an outcome of another epoch changes nothing ([`Fenced`]).
//! * Calls of one function are offered in the order in which they became due; what comes back goes to its old place.
//! * A call that ends is remembered for a while (`limits.outcomes_max` ends), so that a duplicate of it does not run again;
//!   its outcome is kept as long as there is room, if its client wanted it.
//! * What is cancelled does not run again; what is paused is not offered; what has not begun when its time to live is over
//!   does not begin; an end is remembered as long as its function says ([`Rules`]).
//! * "Full" is told at the door: the table, the memory for frames, and the log's blocks are bounded. What was accepted can
//!   always go on: a change that finds the log full waits in the backlog.
//!
//! # How the node uses it
//! The queue asks for what it needs by return values. Each round of the node, in this order:
//!
//! 1. [`DurableQ::advance`] with the time; [`DurableQ::next_silent`] for cores that are lost.
//! 2. For each frame that came in: [`DurableQ::submit`], [`DurableQ::settle`], [`DurableQ::heartbeat`]; for each completion
//!    of the disk: [`DurableQ::created`], [`DurableQ::written`], [`DurableQ::read`]. Records are copied straight into blocks of the driver's
//!    memory, which the node lends by [`Blocks`].
//! 3. [`DurableQ::next_event`] until `None`: verdicts and outcomes to be sent.
//! 4. [`DurableQ::next_due`] for the scheduler; what it asks for comes from [`DurableQ::poll`], what it dispatches from
//!    [`DurableQ::lease`].
//! 5. [`DurableQ::next_op`] until `None`: what the disk must do. A group is written as soon as a slot for it is free, so
//!    that groups are small when there is little to do and large when there is much.
//!
//! # Memory
//! All tables are taken in [`Recovery::new`] and touched as far as they are used: for each call 64 bytes of its own and 12
//! of what finds its id; 64 more while its frame is in memory, after it has run, or if it has a deadline to begin by or
//! somebody waits for it. Frames are in memory while their calls are not on disk, are due soon, or run; the
//! frame of a call that waits is on disk only, and comes back before the call is offered (`queue/park.rs`). What may allocate later: a new segment beyond sixty-four, and the questions of operators.
//!
//! The format of the log and its guarantees are described in [`log`].

pub mod words;
pub mod queue;
mod table;
pub mod log;
pub mod recovery;
pub mod salvage;

pub use queue::DurableQ;
pub use recovery::{Recovery, RecoveryError};
pub use salvage::{Loss, LostRecord, Recover};
pub use words::{
    Backlog, Blocks, CallRef, CallView, Cancel, Counters, Damage, Defaults, Depth, Event, Expired, Fate,
    Fenced, FunctionRef, HolderRef, Lease, LogOp, NotLeased, Offer, Origin, Rules, Settled, State,
    block_count, record_bytes_max,
};
