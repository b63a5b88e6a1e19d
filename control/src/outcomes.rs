//! Outcomes: from a core to the queue, where they are fenced, and, when the end is on disk, to whoever wants to know.

use crate::logs::Entry;
use crate::node::Node;
use crate::session::SessionRef;
use call::blob::Reference;
use call::body::{ReadReply, Reply, append_outcome, reply};
use call::frame::{Frame, Header, Kind};
use call::function::RetrySpec;
use call::{CallId, FunctionId, Status, Usage};
use driver::Driver;
use durableq::{Fate, Origin};
use scheduler::{CallRef, CoreRef, FunctionRef, How, Input};

/// For calls of a function that was deleted while they ran.
static NO_RETRY: RetrySpec =
    RetrySpec { attempts: 1, backoff_ms: 0, backoff_max_ms: 0, budget_percent: 0, finals: Vec::new() };

impl<D: Driver> Node<D> {
    /// A core reports how a lease ended. Validated here, once, like a submit.
    pub(crate) fn outcome(&mut self, core: CoreRef, frame: &Frame<'_>) {
        if self.outcome_for_home(core, frame) {
            return;
        }
        let (Ok(reply), Ok(status)) = (reply(frame.body()), frame.status()) else {
            let session = self.workers.core(core).expect("its session is there").session;
            return self.close(session, "its outcome is malformed");
        };
        let is_there = match Reference::of_result(frame, reply.output) {
            Ok(None) => true,
            Ok(Some(blob)) => self.blobs.touch(blob, self.driver.wall()),
            Err(_) => false,
        };
        if !is_there {
            let session = self.workers.core(core).expect("its session is there").session;
            return self.close(session, "its outcome names a blob that is not stored here");
        }
        let usage = reply.usage();
        let deployed = self.catalog.find(frame.function()).and_then(|function| self.catalog.get(function));
        let retry = deployed.map_or(&NO_RETRY, |deployed| &deployed.spec.retry);
        let random = self.driver.random();
        let mut blocks = self.disk.lend(&mut self.driver);
        let Ok(settled) = self.queue.settle(&mut blocks, *frame, retry, random) else { return };
        let (call, how) = (CallRef(settled.call.0), how(status));
        self.scheduler.step(Input::Ended { call, how }, &mut self.effects);
        let entry = self.workers.core_mut(CoreRef(settled.holder.0)).expect("who holds a lease is connected");
        entry.leased -= 1;
        entry.finished += 1;
        self.stats.executed(&usage);
        self.load.ran(CoreRef(settled.holder.0), &usage);
        let function = FunctionRef(settled.function.0);
        self.accounts.executed(function, status, &usage);
        match settled.fate {
            Fate::Done | Fate::Failed | Fate::Dead => self.accounts.ended(function, status),
            Fate::Cancelled => self.accounts.ended(function, Status::Cancelled),
            Fate::Retry { .. } | Fate::Again => {}
        }
        if status == Status::BackPressure {
            self.shapes.pressed(function, reply.stderr, self.driver.now());
        }
        if !reply.stderr.is_empty() {
            self.log(function, CoreRef(settled.holder.0), frame, &reply);
        }
        if let Some(deployed) = self.catalog.get_mut(function) {
            deployed.memory_bytes = deployed.memory_bytes.max(usage.memory_bytes);
        }
        if settled.fate == Fate::Done {
            self.stats.ended(self.driver.wall().since(settled.start_at));
            if let Some(deployed) = self.catalog.get_mut(function) {
                deployed.completed += 1;
                deployed.cpu_ns += usage.cpu_ns;
            }
        } else if !matches!(status, Status::Cancelled | Status::Again) {
            self.count_failure(function, usage.cpu_ns);
        }
    }

    /// Passes on what an execution wrote.
    fn log(&self, function: FunctionRef, core: CoreRef, outcome: &Frame<'_>, reply: &ReadReply<'_>) {
        let (Some(sink), Some(account)) = (&self.options.logs, self.accounts.get(function)) else { return };
        let entry = self.workers.core(core).expect("who holds a lease is connected");
        sink.put(Entry {
            at: self.driver.wall(),
            account: account.clone(),
            call: outcome.call(),
            attempt: outcome.attempt(),
            status: outcome.status().expect("validated"),
            host: self.workers.host_name(entry.host).to_owned(),
            cpu: entry.cpu,
            truncated: reply.usage().truncated,
            text: reply.stderr.to_vec(),
        });
    }

    /// An execution of a function failed.
    pub(crate) fn count_failure(&mut self, function: FunctionRef, cpu_ns: u64) {
        if let Some(deployed) = self.catalog.get_mut(function) {
            deployed.failed += 1;
            deployed.cpu_ns += cpu_ns;
        }
    }

    /// A call has ended for good, on disk.
    pub(crate) fn ended(&mut self, origin: Origin, call: CallId, function: FunctionId, status: Status) {
        self.waiters.ended(call);
        if origin == Origin::NOBODY {
            return;
        }
        let to = SessionRef::of_origin(origin);
        self.sessions.send_verdict_first(to, call, &mut self.driver);
        match self.queue.outcome(call).filter(|outcome| outcome.status() == Ok(status)) {
            // The core's frame as it is: its body is the reply, its header names call and status.
            Some(outcome) => {
                let (header, body) = outcome.bytes().split_first_chunk().expect("a frame has a header");
                self.sessions.send_parts(&mut self.driver, to, header, body);
            }
            None => {
                self.scratch.clear();
                let header = Header { call, function, ..Header::new(Kind::Outcome) };
                let reply = Reply::new(&Usage::default(), b"", explanation(status).as_bytes());
                append_outcome(&mut self.scratch, &header, status, &reply).expect("a short frame");
                self.sessions.send(&mut self.driver, to, &self.scratch);
            }
        }
    }
}

/// What gates make of a status.
pub(crate) fn how(status: Status) -> How {
    match status {
        // The last two say nothing against the function.
        Status::Ok | Status::Cancelled | Status::Again => How::Ok,
        Status::BackPressure => How::BackPressure,
        _ => How::Failed,
    }
}

/// Why a call ended without an outcome of a core.
pub(crate) fn explanation(status: Status) -> &'static str {
    match status {
        Status::Ok => "the outcome is not kept any more",
        Status::WorkerLost => "every worker that ran the call was lost",
        Status::Forbidden => "the data of the call may not flow to the function: see its labels",
        Status::Cancelled => "the call was cancelled",
        Status::Expired => "the call had not begun when its time to live was over",
        Status::Damaged => "its record on disk is damaged: what the client submitted is lost",
        Status::Unavailable => "the function was deleted while the call was pending",
        _ => "the call failed; its last outcome is not kept any more",
    }
}
