//! Submits the calls of a trace at their times and hears what becomes of them.

use super::ledger::{Entry, Ledger};
use crate::trace::{Arrival, Trace};
use call::body::{Arguments, Submit};
use call::time::WallTime;
use call::{CallId, FunctionId};
use millrace_client::blocking::Client;
use millrace_client::{Endpoint, Error, Event, IdSeries, Options as ClientOptions};
use std::time::{Duration, Instant};

/// How a replay runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node.
    pub endpoint: Endpoint,
    /// Which deployed function stands for each function of the trace.
    pub targets: Vec<FunctionId>,
    /// Calls on their way to the node's disk at most.
    pub window: usize,
    /// How long a node that went away is waited for.
    pub patience: Duration,
    /// After the last submit, the replay ends when no outcome has come for so long.
    pub quiet: Duration,
}

/// Where a replay stands, told ten times a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Since it began.
    pub elapsed: Duration,
    /// Calls submitted.
    pub submitted: u64,
    /// Calls with a verdict.
    pub judged: u64,
    /// Calls with an outcome.
    pub ended: u64,
    /// Whether the node answers.
    pub is_connected: bool,
}

const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Replays `trace` in its own time (see [`Trace::scaled`]). `payload` writes a call's arguments; `progress` hears how it
/// goes and says whether to go on. Survives restarts of the node: what is not settled is submitted again under the same
/// ids. The ledger is whole whatever happens; the error says why it ended early.
pub fn run(
    options: &Options,
    trace: &Trace,
    mut payload: impl FnMut(&Arrival, &mut Vec<u8>),
    mut progress: impl FnMut(&Progress) -> bool,
) -> (Ledger, Option<Error>) {
    assert_eq!(options.targets.len(), trace.functions.len(), "each function of the trace has a target");
    let entry = |arrival: &Arrival| Entry {
        intended_ns: arrival.at_us * 1000,
        function: arrival.function,
        ..Entry::default()
    };
    let entries = trace.arrivals.iter().map(entry).collect();
    let mut ledger = Ledger { series: IdSeries::new(), entries, took_ns: 0 };
    let client =
        ClientOptions { name: "millrace-replay".into(), window: options.window, patience: options.patience };
    let mut client = match Client::connect(&options.endpoint, client) {
        Ok(client) => client,
        Err(error) => return (ledger, Some(error)),
    };
    let mut replayer = Replayer {
        options,
        trace,
        ledger: &mut ledger,
        begin: Instant::now(),
        progress: Progress { is_connected: true, ..Progress::default() },
        told: Duration::ZERO,
        heard: Duration::ZERO,
    };
    let result = replayer.run(&mut client, &mut payload, &mut progress);
    let took = replayer.begin.elapsed();
    ledger.took_ns = call::time::nanos(took);
    (ledger, result.err())
}

struct Replayer<'a> {
    options: &'a Options,
    trace: &'a Trace,
    ledger: &'a mut Ledger,
    begin: Instant,
    progress: Progress,
    /// When progress was told last.
    told: Duration,
    /// When the node said something last.
    heard: Duration,
}

impl Replayer<'_> {
    fn run(
        &mut self,
        client: &mut Client,
        payload: &mut dyn FnMut(&Arrival, &mut Vec<u8>),
        progress: &mut dyn FnMut(&Progress) -> bool,
    ) -> Result<(), Error> {
        let mut arguments = Vec::new();
        let (mut next, mut total) = (0, self.trace.arrivals.len());
        loop {
            next = self.submit_due(client, next, total, payload, &mut arguments)?;
            let wait = self.wait(next, total);
            let mut event = client.next(wait)?;
            while let Some(what) = event {
                self.hear(what);
                // Outcomes must not keep due submits waiting.
                event = if self.is_due(next, total) { None } else { client.next(Duration::ZERO)? };
            }
            self.progress.elapsed = self.begin.elapsed();
            if self.progress.elapsed - self.told >= PROGRESS_EVERY {
                self.told = self.progress.elapsed;
                self.progress.is_connected = client.node().is_some();
                if !progress(&self.progress) {
                    total = next; // Asked to stop: nothing new, but what is on its way is heard out.
                }
            }
            let is_quiet = self.progress.elapsed.saturating_sub(self.heard) > self.options.quiet;
            if next >= total && (client.outstanding() == 0 || is_quiet) {
                progress(&self.progress);
                return Ok(());
            }
        }
    }

    fn now_ns(&self) -> u64 {
        // From 1: zero means that something has not happened.
        call::time::nanos(self.begin.elapsed()).max(1)
    }

    fn is_due(&self, next: usize, total: usize) -> bool {
        next < total && self.ledger.entries[next].intended_ns <= self.now_ns()
    }

    /// How long to listen before the next submit or the next look at the progress.
    fn wait(&self, next: usize, total: usize) -> Duration {
        if next >= total {
            return PROGRESS_EVERY;
        }
        let due = Duration::from_nanos(self.ledger.entries[next].intended_ns);
        due.saturating_sub(self.begin.elapsed()).min(PROGRESS_EVERY)
    }

    /// Submits what is due; the number of the next call after it.
    fn submit_due(
        &mut self,
        client: &mut Client,
        mut next: usize,
        total: usize,
        payload: &mut dyn FnMut(&Arrival, &mut Vec<u8>),
        arguments: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        // No further than the window: verdicts are heard in between.
        while self.is_due(next, total) && client.unacknowledged() < self.options.window {
            let arrival = &self.trace.arrivals[next];
            arguments.clear();
            payload(arrival, arguments);
            let submit = Submit {
                call: self.ledger.series.id(next as u64),
                function: self.options.targets[arrival.function as usize],
                start_at: WallTime(0),
                deadline: WallTime(0),
                criticality: 0,
                want_outcome: true,
                arguments: Arguments { payload: arguments, attributes: &[] },
                ..Submit::default()
            };
            client.enqueue(&submit)?;
            self.ledger.entries[next].submitted_ns = self.now_ns();
            self.progress.submitted += 1;
            next += 1;
            self.heard = self.heard.max(self.begin.elapsed());
        }
        Ok(next)
    }

    fn hear(&mut self, event: Event) {
        let now = self.now_ns();
        self.heard = Duration::from_nanos(now);
        match event {
            Event::Verdict(receipt) => {
                if let Some(entry) = self.entry(receipt.call) {
                    entry.verdict = Some(receipt.code);
                    entry.verdict_ns = now;
                    self.progress.judged += 1;
                }
            }
            Event::Outcome(outcome) => {
                if let Some(entry) = self.entry(outcome.call) {
                    entry.status = Some(outcome.status);
                    entry.outcome_ns = now;
                    entry.deliveries = outcome.attempt;
                    entry.cold = outcome.usage.cold;
                    entry.run_ns = outcome.usage.run_ns;
                    entry.cpu_ns = outcome.usage.cpu_ns;
                    self.progress.ended += 1;
                }
            }
        }
    }

    fn entry(&mut self, call: CallId) -> Option<&mut Entry> {
        let number = self.ledger.series.number(call)?;
        self.ledger.entries.get_mut(usize::try_from(number).ok()?)
    }
}
