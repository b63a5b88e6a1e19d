//! Submits the rows of a file, and says exactly how far it came when it cannot go on.
//!
//! The calls of a batch form an [`IdSeries`]: the call of line N has the id numbered N. A batch that broke off is resumed
//! under the same series, and a call that was accepted the first time is recognised by the node.

use crate::exit::{Exit, Failure};
use crate::interrupt;
use crate::rows::{Row, Rows};
use crate::times::Terms;
use call::body::{Arguments, Submit};
use call::{CallKey, FunctionId, Label, Status, VerdictCode};
use millrace_client::blocking::Client;
use millrace_client::{Event, IdSeries, Outcome, Receipt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What every call of a batch has in common.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The function.
    pub function: FunctionId,
    /// Start and deadline.
    pub terms: Terms,
    /// 0 for the function's own.
    pub criticality: u8,
    /// Of each call.
    pub key: CallKey,
    /// Of each call.
    pub label: Label,
    /// Ids by line.
    pub series: IdSeries,
    /// Lines before it are skipped.
    pub from_line: u64,
    /// Whether the outcomes are waited for.
    pub wait: bool,
}

/// How far a batch came.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Calls on the node's disk, those it had already included.
    pub accepted: u64,
    /// Of these, calls that the node had already.
    pub duplicates: u64,
    /// Calls that ended, by status, if the outcomes are waited for.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Ids of the first calls that did not end well.
    pub failed_calls: Vec<String>,
}

/// Ids of failed calls that are kept for the report.
const FAILED_CALLS_MAX: usize = 10;
/// Rows between two looks at what the node said.
const LISTEN_EVERY: u64 = 64;
/// A Ctrl-C waits so long for verdicts of what has been sent.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Tally {
    fn outcome(&mut self, outcome: &Outcome) {
        *self.outcomes.entry(outcome.status.name()).or_insert(0) += 1;
        if !outcome.status.is_ok() && self.failed_calls.len() < FAILED_CALLS_MAX {
            self.failed_calls.push(outcome.call.to_string());
        }
    }

    /// Calls that ended badly.
    pub fn failed(&self) -> u64 {
        let ok = Status::Ok.name();
        self.outcomes.iter().filter(|(status, _)| **status != ok).map(|(_, count)| count).sum()
    }
}

/// What stopped a batch, and the first line that is not known to be accepted.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Why.
    pub why: Failure,
    /// Where to go on; lines before it are accepted.
    pub resume_at: u64,
}

/// The lines on their way.
struct Running<'a> {
    batch: &'a Batch,
    tally: Tally,
    /// Lines without a verdict.
    open: BTreeSet<u64>,
    refused: Option<(u64, VerdictCode)>,
}

impl Batch {
    /// Submits the rows in order, at most a window ahead of the node's disk; `progress` hears about it. Stops at the
    /// first row that is wrong or refused, and then still waits for the verdicts of the rows before it.
    pub fn run(
        &self,
        client: &mut Client,
        rows: Rows,
        mut progress: impl FnMut(&Tally),
    ) -> (Tally, Option<Stopped>) {
        let mut running =
            Running { batch: self, tally: Tally::default(), open: BTreeSet::new(), refused: None };
        let (mut stopped, next) = match running.submit(client, rows, &mut progress) {
            Ok(next) => (None, next),
            Err((why, line)) => (Some(why), line),
        };
        if stopped.as_ref().is_none_or(|why| why.exit != Exit::Connect) {
            let heard = running.settle(client, stopped.is_some(), &mut progress);
            stopped = heard.err().or(stopped);
        }
        if let Some((line, code)) = running.refused {
            stopped = Some(Failure::refused(code, format!("line {line}")));
        }
        let resume_at = running.open.first().copied().unwrap_or(next);
        let resume_at = running.refused.map_or(resume_at, |(line, _)| line.min(resume_at));
        (running.tally, stopped.map(|why| Stopped { why, resume_at }))
    }
}

impl Running<'_> {
    /// Submits all rows; the line after the last one, or why and at which line it stopped.
    fn submit(
        &mut self,
        client: &mut Client,
        rows: Rows,
        progress: &mut dyn FnMut(&Tally),
    ) -> Result<u64, (Failure, u64)> {
        let mut next = self.batch.from_line.max(1);
        for row in rows {
            let row = row.map_err(|failure| (failure, next))?;
            if row.line < self.batch.from_line {
                continue;
            }
            if interrupt::is_asked() {
                return Err((interrupt::failure(format!("line {}", row.line)), row.line));
            }
            self.enqueue(client, &row).map_err(|failure| (failure, row.line))?;
            next = row.line + 1;
            if row.line.is_multiple_of(LISTEN_EVERY) {
                self.listen(client, Duration::ZERO).map_err(|failure| (failure, next))?;
                progress(&self.tally);
            }
            if self.refused.is_some() {
                break;
            }
        }
        Ok(next)
    }

    fn enqueue(&mut self, client: &mut Client, row: &Row) -> Result<(), Failure> {
        let batch = self.batch;
        let submit = Submit {
            call: batch.series.id(row.line),
            function: batch.function,
            start_at: batch.terms.start_at,
            deadline: batch.terms.deadline,
            criticality: batch.criticality,
            key: batch.key,
            label: batch.label,
            want_outcome: batch.wait,
            arguments: Arguments { payload: &row.payload, attributes: &[] },
            ..Submit::default()
        };
        self.open.insert(row.line);
        client.enqueue(&submit)?;
        Ok(())
    }

    /// Hears what the node has said, waiting for the first word at most `time`; whether it said anything.
    fn listen(&mut self, client: &mut Client, time: Duration) -> Result<bool, Failure> {
        let mut wait = time;
        let mut heard = false;
        while let Some(event) = client.next(wait)? {
            wait = Duration::ZERO;
            heard = true;
            match event {
                Event::Verdict(receipt) => self.verdict(receipt),
                Event::Outcome(outcome) => self.tally.outcome(&outcome),
            }
        }
        Ok(heard)
    }

    fn verdict(&mut self, receipt: Receipt) {
        let Some(line) = self.batch.series.number(receipt.call) else { return };
        self.open.remove(&line);
        if receipt.code.is_held() {
            self.tally.accepted += 1;
            self.tally.duplicates += u64::from(receipt.code == VerdictCode::Duplicate);
        } else if self.refused.is_none_or(|(first, _)| line < first) {
            self.refused = Some((line, receipt.code));
        }
    }

    /// Waits for what is still open: all verdicts, and all outcomes if they are wanted and nothing went wrong.
    fn settle(
        &mut self,
        client: &mut Client,
        is_stopped: bool,
        progress: &mut dyn FnMut(&Tally),
    ) -> Result<(), Failure> {
        let tick = Duration::from_millis(100);
        let mut left = LAST_WORDS;
        while client.unacknowledged() > 0
            || (client.outstanding() > 0 && !is_stopped && self.refused.is_none())
        {
            self.listen(client, tick)?;
            progress(&self.tally);
            if interrupt::is_asked() {
                left = left.saturating_sub(tick);
                if left.is_zero() || client.unacknowledged() == 0 {
                    return Err(interrupt::failure("waiting for the node"));
                }
            }
        }
        Ok(())
    }
}
