//! The log on disk: what it looks like, and what can be relied on.
//!
//! The log is a chain of *groups*. A group is what one write carries: a header, then records one behind the other, then
//! zeros up to the next multiple of 4096. Groups stand in *segments*, files of fixed size that are pre-written, with
//! zeros or with what they held before, so that a group's write changes no metadata and one synced write (RWF_DSYNC)
//! puts it on disk.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | `MLRG` |
//! | 4 | 1 | version | 2 |
//! | 5 | 3 | | zero |
//! | 8 | 4 | CRC-32C | of bytes 0..8 and 12..bytes |
//! | 12 | 4 | bytes | header and records, a multiple of 16 |
//! | 16 | 8 | sequence | the group's place in the chain, from 1 |
//! | 24 | 4 | incarnation | which start of the queue wrote it, from 1 |
//! | 28 | 4 | continues | so many bytes behind the header end a record that began in an earlier group |
//! | 32 | 8 | durable | all groups up to this one were on disk when this one was written |
//! | 40 | 8 | segment | the number that the segment had when this group was written |
//! | 48 | 8 | key | of the log: random, the same in all its groups |
//! | 56 | 8 | from | number of a segment from which on the log says everything, by a checkpoint on disk; 0 for the oldest |
//! | 64 | | records | frames ([`call::frame`]), each at a multiple of 16 |
//!
//! # Records
//! A record is a frame. What a client wrote is in the log byte for byte.
//!
//! | kind | meaning |
//! |---|---|
//! | `Submit` | a call was accepted; or, if it is pending already, this is a copy that replaces the older record |
//! | `Retry` | the call is pending: `stamp` executions failed (lower 32 bits) or met back-pressure (higher), `attempt` deliveries, not before `deadline`; with the status `cancelled` in `level` it has ended, or ends with its lease; with its history in the body, if an attempt failed |
//! | `Dead` | the call is a dead letter, with `level` for the reason; in its body its history, and the last outcome, if it is kept |
//! | `Redrive` | the call is pending again, as if it had never been delivered; with its history in the body |
//! | `Done` | the call has ended, with the outcome in its body if the client wanted it; to be remembered until `deadline`, if that is not zero; may be a copy |
//! | `Incarnation` | a start of the queue, which had nothing else to write yet; or the next incarnation of this start |
//! | `Index` | some calls as they were then, without their frames ([`page`]): part of a checkpoint |
//!
//! The last of these records about a call says all that happened to it: its attempts ([`call::history`]) too.
//!
//! Leases are not in the log: after a crash, every call that was leased is pending, and its old outcome is fenced by the
//! incarnation in the epoch. A lease that was lost with its worker is a failed attempt, which is. A record that fits into no
//! group is cut; it begins a group and fills those that follow.
//!
//! # What can be relied on
//! * Several groups are written at once and may reach the disk in any order, but a group counts as on disk, and what it
//!   holds is acknowledged, only when all groups before it are on disk as well. The first group of an incarnation is
//!   written alone.
//! * So everything acknowledged stands before the first gap. A reader follows the chain (each sequence one more, no
//!   incarnation less than the one before) and ends at the first group that is missing, torn (its checksum tells) or
//!   stale. What stands behind was never acknowledged.
//! * Unless a disk lost what it had confirmed. A group behind the gap whose `durable` reaches the gap tells that, and the
//!   reader refuses to go on instead of forgetting calls.
//! * The oldest segment begins with the first group of the log: a segment without any is removed before those that are
//!   older. So what is no group there, and no zeros, is damage, unless the group behind it is the first of all (sequence 1).
//! * A group is proved to have been on disk by a later header only, which says so in `durable`. The last groups, up to one
//!   for each write that was in flight, have none behind them: if such a group rots before the next start, it looks torn,
//!   and what it holds is forgotten and not told. From that start on its first group proves what was read. A clean stop
//!   leaves no mark, so the same is true after it.
//! * A new incarnation continues in a new segment, with the sequence behind the last group it has read. A write of the
//!   old process may still reach the old segment later; hence a segment may begin with the first group of a later
//!   start and a sequence that steps back. What the late group holds was not acknowledged, and does no harm: its
//!   submits are calls whose clients do not know yet, and its ends are true.
//! * A group counts only in the segment whose number it carries, and only with the key of the log.
//! * Segments are retired from the oldest on, when the end (or a copy) of each call in them is on disk. A call that lives
//!   long is copied to the tail, so that the log stays within four segments and twice the bytes of what is pending.
//!
//! # Checkpoints
//! When the log is long, the queue writes its index into it: `Index` records with all calls that it holds, each followed by
//! the records of what has happened to these calls, and then the ends that it remembers. It does so bit by bit while calls
//! come and go. So no record of it says how things stood at one instant, and none needs to: each says how its calls stood
//! at its own place in the log, and what happens to them later stands behind it.
//!
//! Let S be the segment that took groups when the walk over the calls began. A reader that begins at S finds each call that
//! is pending at the end:
//! * one that came in later, by its `Submit` record;
//! * one that was there: it has kept its number in the table all the while, so the walk came by it, and it was pending
//!   then. Its frame stands where the entry says, or where a later copy is.
//!
//! A call that is not pending at the end has its `Done` behind anything else that is said about it. And records say what a
//! call is, not how it changes: to read one that has happened before an `Index` record as well changes nothing. What is
//! true at S is also true from any earlier segment on; so a reader may begin at the oldest, too, and has to if S is gone.
//!
//! When all of it is on disk, the headers of groups name S. A start looks at the first group of the latest segment for it,
//! and does not read what stands before S: that it is damaged is told when a frame is read back. An entry whose segment is
//! gone is of a call that was copied, or has ended, which the log says later; otherwise the segment was lost, and that is
//! damage.
//!
//! # What is read back
//! The frame of a call that waits is nowhere but here. The queue knows segment, offset and length of its `Submit` record
//! and reads it, with neighbours, when the call is among the first due of its function, or when the record is to be
//! copied. The record's own checksums and the call's id are checked again. One that does not hold is read once more, alone;
//! then the call is a dead letter (`damaged`), and its place is told. A segment is not retired while it is read. A record
//! that is cut into several groups is not read back: its frame stays in memory.
//!
//! # Segments that are used again
//! A retired segment gets the next number (its file is renamed) and takes groups again, since writing zeros and freeing
//! blocks would hold up the writes of groups beside it. At most three wait; more are removed. Behind the groups that are
//! written to it stand stale ones of its earlier life. They do no harm:
//! * A number is given once, and a stale group carries an older one. (Its sequence is also less than that of any group
//!   in a later segment: the segment was retired when all of it was on disk, and the first group behind it.)
//! * No group is written to it before the directory is on disk with the new name. A crash before that brings back the old
//!   name, with the old groups in it: the oldest segment of the log once more, in which every call has ended.
//! * A new group may overwrite half a stale one. The rest of that is bytes of records, which a client has chosen, at a
//!   place where a reader looks for a group. A client that wanted to write a group there would have to know the key. A
//!   reader takes it from the first group of the oldest segment: what stands at the start of a segment is never a record.
//! * A torn write leaves sectors of old and new groups beside each other; the checksum tells, as it does with zeros.
//! * Only segments that this start of the queue has made are used again. A write of the process before may still be on
//!   its way to those that it has made, and must not meet groups of ours; they are removed.

pub mod group;
pub mod page;
pub mod segments;
pub mod writer;
pub mod reader;
pub mod dump;

pub use group::{GROUP_ALIGN, GROUP_HEADER_BYTES, GroupError, GroupHeader};

/// The file name of a segment: ten digits and `.seg`, so that names sort as numbers do.
pub fn segment_name(segment: u64) -> String {
    format!("{segment:010}.seg")
}

/// The number of a segment file, `None` if the name is not one of a segment.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}
