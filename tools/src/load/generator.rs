//! The generator: one thread, all connections, no allocation per call.

use crate::replay::verdict_name;
use crate::spread::{Spread, new_histogram};
use call::body::{self, Arguments, Submit};
use call::time::{WallTime, nanos};
use call::{CallId, Frame, FunctionId, Kind, Status, VerdictCode};
use hdrhistogram::Histogram;
use millrace_client::sender::{Sender, Template, wait_any};
use millrace_client::{Endpoint, Error, IdSeries};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// What to send.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node.
    pub endpoint: Endpoint,
    /// Connections, used in turn.
    pub connections: usize,
    /// Calls per second, over all connections.
    pub rate: f64,
    /// How long.
    pub duration: Duration,
    /// Which function.
    pub function: FunctionId,
    /// Arguments of each call.
    pub payload: Vec<u8>,
    /// Whether outcomes are asked for and measured too.
    pub want_outcome: bool,
    /// How long answers are waited for after the last send.
    pub patience: Duration,
}

/// One second of measurements.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Since the begin.
    pub start: Duration,
    /// How long it is.
    pub length: Duration,
    /// From the intended time of a call to when the kernel was given it, ns.
    pub late: Histogram<u64>,
    /// From the intended time to the verdict, ns.
    pub ack: Histogram<u64>,
    /// From the intended time to the outcome, ns.
    pub outcome: Histogram<u64>,
}

impl Interval {
    fn new() -> Interval {
        let (late, ack, outcome) = (new_histogram(), new_histogram(), new_histogram());
        Interval { start: Duration::ZERO, length: Duration::ZERO, late, ack, outcome }
    }

    fn reset(&mut self, start: Duration) {
        self.start = start;
        for histogram in [&mut self.late, &mut self.ack, &mut self.outcome] {
            histogram.reset();
        }
    }
}

/// What was measured.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Report {
    /// Calls per second, asked for.
    pub rate: f64,
    /// Calls per second that really left.
    pub rate_sent: f64,
    /// Calls per second that the node accepted.
    pub rate_accepted: f64,
    /// Calls sent.
    pub sent: u64,
    /// Calls whose time came within the duration and that had not left when it was over.
    pub not_sent: u64,
    /// Verdicts by their word.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Outcomes by status, if they were asked for.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Calls without a verdict, or without the outcome that was asked for.
    pub unanswered: u64,
    /// How late calls left, ns.
    pub late: Spread,
    /// From the intended time to the verdict, ns.
    pub ack: Spread,
    /// From the intended time to the outcome, ns.
    pub outcome: Spread,
    /// Why these figures tell more of the generator than of the node, if they do.
    pub saturated: Option<String>,
}

/// Calls put into one write at most: a burst after a stall must not keep answers waiting.
const BURST: u64 = 256;
/// Unsent bytes on a connection beyond which it gets no more: the node is not reading.
const UNSENT_MAX: usize = 1 << 20;
/// Shorter gaps are spun through: a sleep's wake-up may take as long.
const SPIN: Duration = Duration::from_micros(100);
/// A call that leaves later than this was not sent in time...
const LATE_NS: u64 = 1_000_000;
/// ... and more than this share of such calls means a saturated generator.
const LATE_SHARE: f64 = 0.01;
const INTERVAL: Duration = Duration::from_secs(1);

/// Sends and measures; `interval` gets each second, `go_on` is asked between.
///
/// # Errors
/// If no connection can be made, or one breaks.
pub fn run(
    options: &Options,
    mut interval: impl FnMut(&Interval),
    mut go_on: impl FnMut() -> bool,
) -> Result<Report, Error> {
    let mut generator = Generator::new(options)?;
    let failed = |source: io::Error| Error::Lost {
        endpoint: options.endpoint.clone(),
        reason: source.to_string(),
        unacknowledged: 0,
    };
    generator.send_all(&mut interval, &mut go_on).map_err(failed)?;
    let until = Instant::now() + options.patience;
    while !generator.is_answered() && Instant::now() < until && go_on() {
        generator.pause(Duration::from_millis(100)).map_err(failed)?;
        generator.listen().map_err(failed)?;
        generator.turn_interval(&mut interval, false);
    }
    generator.turn_interval(&mut interval, true);
    Ok(generator.report())
}

struct Generator<'a> {
    options: &'a Options,
    senders: Vec<Sender>,
    template: Template,
    series: IdSeries,
    begin: Instant,
    total: u64,
    sent: u64,
    /// When the last call left, ns.
    last_ns: u64,
    verdicts: [u64; VerdictCode::ALL.len()],
    outcomes: [u64; Status::ALL.len()],
    current: Interval,
    whole: Interval,
}

impl<'a> Generator<'a> {
    fn new(options: &'a Options) -> Result<Generator<'a>, Error> {
        // The default slack of 50 us would be the lateness of every call that is slept for.
        let _only_less_precise = nix::sys::prctl::set_timerslack(1);
        let series = IdSeries::new();
        let like = Submit {
            call: series.id(0),
            function: options.function,
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: options.want_outcome,
            arguments: Arguments { payload: &options.payload, attributes: &[] },
            ..Submit::default()
        };
        let connect = |_| Sender::connect(&options.endpoint, "millrace-load");
        Ok(Generator {
            options,
            template: Template::new(&like)?,
            senders: (0..options.connections.max(1)).map(connect).collect::<Result<_, _>>()?,
            series,
            begin: Instant::now(),
            total: (options.rate * options.duration.as_secs_f64()) as u64,
            sent: 0,
            last_ns: 0,
            verdicts: [0; VerdictCode::ALL.len()],
            outcomes: [0; Status::ALL.len()],
            current: Interval::new(),
            whole: Interval::new(),
        })
    }

    fn now_ns(&self) -> u64 {
        nanos(self.begin.elapsed())
    }

    /// When a call should leave, ns since the begin.
    fn intended_ns(&self, number: u64) -> u64 {
        (number as f64 * 1e9 / self.options.rate) as u64
    }

    fn send_all(
        &mut self,
        interval: &mut dyn FnMut(&Interval),
        go_on: &mut dyn FnMut() -> bool,
    ) -> io::Result<()> {
        let mut turn = 0;
        while self.sent < self.total {
            turn = (turn + 1) % self.senders.len();
            self.send_due(turn)?;
            self.listen()?;
            if self.turn_interval(interval, false) && !go_on() {
                self.total = self.sent;
            }
            if self.begin.elapsed() > self.options.duration {
                break; // The rest would only measure how long a queue of its own the generator has.
            }
            let gap = Duration::from_nanos(self.intended_ns(self.sent).saturating_sub(self.now_ns()));
            if gap > SPIN {
                self.pause((gap - SPIN / 2).min(INTERVAL))?;
            }
        }
        Ok(())
    }

    /// Sends what is due on one connection.
    fn send_due(&mut self, turn: usize) -> io::Result<()> {
        let (now, first) = (self.now_ns(), self.sent);
        while self.sent < self.total
            && self.intended_ns(self.sent) <= now
            && self.sent - first < BURST
            && self.senders[turn].unsent() < UNSENT_MAX
        {
            let call = self.series.id(self.sent);
            self.template.append(self.senders[turn].frames(), call, WallTime(0));
            self.sent += 1;
        }
        if self.senders[turn].unsent() > 0 {
            self.senders[turn].flush()?;
        }
        let left = if self.sent > first { self.now_ns() } else { now };
        for number in first..self.sent {
            self.current.late.saturating_record(left.saturating_sub(self.intended_ns(number)));
            self.last_ns = left;
        }
        Ok(())
    }

    /// Reads what the node has said on every connection.
    fn listen(&mut self) -> io::Result<()> {
        let mut senders = std::mem::take(&mut self.senders);
        let result = senders.iter_mut().try_for_each(|sender| {
            let now = self.now_ns();
            let mut wrong = None;
            sender.receive(|frame| wrong = self.hear(frame, now).err().or(wrong))?;
            sender.flush()?;
            wrong.map_or(Ok(()), |error| Err(io::Error::new(io::ErrorKind::InvalidData, error)))
        });
        self.senders = senders;
        result
    }

    fn hear(&mut self, frame: Frame<'_>, now: u64) -> Result<(), call::FrameError> {
        match frame.kind() {
            Kind::Verdicts => {
                for verdict in body::verdicts(frame.body())? {
                    self.verdicts[verdict.code()? as usize] += 1;
                    if let Some(since) = self.since_intended(verdict.call(), now) {
                        self.current.ack.saturating_record(since);
                    }
                }
            }
            Kind::Outcome => {
                self.outcomes[frame.status()? as usize] += 1;
                if let Some(since) = self.since_intended(frame.call(), now) {
                    self.current.outcome.saturating_record(since);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn since_intended(&self, call: CallId, now: u64) -> Option<u64> {
        Some(now.saturating_sub(self.intended_ns(self.series.number(call)?)))
    }

    fn pause(&self, time: Duration) -> io::Result<()> {
        wait_any(&self.senders, time)
    }

    /// Ends the current interval if it is over (or `now`); whether it was.
    fn turn_interval(&mut self, tell: &mut dyn FnMut(&Interval), now: bool) -> bool {
        let elapsed = self.begin.elapsed();
        if elapsed - self.current.start < INTERVAL && !now {
            return false;
        }
        self.current.length = elapsed - self.current.start;
        tell(&self.current);
        let whole = &mut self.whole;
        let pairs = [
            (&mut whole.late, &self.current.late),
            (&mut whole.ack, &self.current.ack),
            (&mut whole.outcome, &self.current.outcome),
        ];
        for (sum, part) in pairs {
            sum.add(part).expect("the same bounds");
        }
        self.current.reset(elapsed);
        true
    }

    fn judged(&self) -> u64 {
        self.verdicts.iter().sum()
    }

    fn accepted(&self) -> u64 {
        VerdictCode::ALL.into_iter().filter(|c| c.is_held()).map(|c| self.verdicts[c as usize]).sum()
    }

    /// Calls whose verdict, or wanted outcome, is missing.
    fn unanswered(&self) -> u64 {
        let without_verdict = self.sent.saturating_sub(self.judged());
        let ended: u64 = self.outcomes.iter().sum();
        let without_outcome =
            if self.options.want_outcome { self.accepted().saturating_sub(ended) } else { 0 };
        without_verdict + without_outcome
    }

    fn not_sent(&self) -> u64 {
        self.total - self.sent
    }

    fn is_answered(&self) -> bool {
        self.unanswered() == 0
    }

    fn report(&self) -> Report {
        let seconds = (self.last_ns as f64 / 1e9).max(1e-9);
        let mut report = Report {
            rate: self.options.rate,
            rate_sent: self.sent as f64 / seconds,
            rate_accepted: self.accepted() as f64 / seconds,
            sent: self.sent,
            not_sent: self.not_sent(),
            verdicts: VerdictCode::ALL
                .into_iter()
                .map(|code| (verdict_name(code), self.verdicts[code as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            outcomes: Status::ALL
                .into_iter()
                .map(|status| (status.name(), self.outcomes[status as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            unanswered: self.unanswered(),
            late: Spread::of(&self.whole.late),
            ack: Spread::of(&self.whole.ack),
            outcome: Spread::of(&self.whole.outcome),
            saturated: None,
        };
        report.saturated = self.saturation();
        report
    }

    /// Whether calls left so late that the latencies are the generator's own.
    fn saturation(&self) -> Option<String> {
        let late = &self.whole.late;
        let in_time = late.count_between(0, LATE_NS);
        let share = 1.0 - in_time as f64 / (late.len() + self.not_sent()).max(1) as f64;
        (share > LATE_SHARE).then(|| {
            format!(
                "{:.1} % of the calls left more than {} ms after their time, or never (p99 {} us): the generator, its CPU or \
                 its connections could not keep the rate; lower --rate, raise --connections, or give it a CPU",
                share * 100.0,
                LATE_NS / 1_000_000,
                late.value_at_quantile(0.99) / 1000,
            )
        })
    }
}
