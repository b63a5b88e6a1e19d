//! What a function says about its calls while they wait, and after they have ended.

use serde::{Deserialize, Serialize};

/// What becomes of a call whose time to live was over before it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expired {
    /// It ends, and who wants its outcome hears it.
    #[default]
    Outcome,
    /// It is a dead letter, which an operator may redrive.
    DeadLetter,
}

/// A function's queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSpec {
    /// Calls that may be pending at once; 0 for as many as there is room for. More are refused, and told when to come
    /// back.
    pub backlog: u64,
    /// Bytes of the calls that may be pending at once; 0 for as many as there is room for.
    pub backlog_bytes: u64,
    /// A call that has not begun so long after its start time ends, ms; 0 for never.
    pub expires_ms: u64,
    /// What becomes of it.
    pub expired: Expired,
    /// How long a call that ended is remembered at least, with its outcome if its client wanted it, ms; 0 for as long as
    /// there is room.
    pub retain_ms: u64,
    /// Bytes of the largest outcome that is kept for so long.
    pub retain_bytes: u64,
    /// How long an idempotency key is remembered at least after its call has ended, ms.
    pub idempotency_ms: u64,
}

/// What is kept of ends, at most: a week, as far ahead as a call may start.
pub const RETAIN_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

impl Default for QueueSpec {
    fn default() -> QueueSpec {
        QueueSpec {
            backlog: 0,
            backlog_bytes: 0,
            expires_ms: 0,
            expired: Expired::Outcome,
            retain_ms: 0,
            retain_bytes: crate::limits::OUTPUT_BYTES_MAX as u64,
            idempotency_ms: 3_600_000,
        }
    }
}
