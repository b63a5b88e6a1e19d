//! `millrace load`

use super::arguments::{Input, spinner};
use crate::admin::function_name;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::load::{Interval, Log, Options, Report, run};
use crate::output::{Output, pairs};
use crate::settings::{Connection, Environment};
use crate::spread::Spread;
use crate::times::{duration, short};
use ::call::FunctionId;
use ::call::limits::ARGUMENTS_BYTES_MAX;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace load hello --rate 50000 --duration 30s --hlog load.hlog
  millrace load hello --rate 1000 --size 4096 --connections 8 --outcomes -o json

Open loop: calls leave at their intended times whatever the node does, and latencies count from the intended time. The
report says when the generator itself could not keep the rate. The .hlog file is a standard HdrHistogram interval log in
nanoseconds, one line per second for each of the tags late, ack and outcome.";

/// Sends calls at a rate.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Load {
    /// NAME or NAMESPACE/NAME
    function: String,
    #[command(flatten)]
    input: Input,
    /// Arguments of so many bytes, if none are given
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    size: usize,
    /// Calls per second
    #[arg(short, long, value_parser = rate)]
    rate: f64,
    /// How long
    #[arg(short = 't', long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Connections, used in turn
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Ask for outcomes too, and measure them
    #[arg(long)]
    outcomes: bool,
    /// How long to wait for answers after the last call has left
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    patience: Duration,
    /// Write an HdrHistogram interval log
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

/// Calls per second: above zero, and within what a clock of nanoseconds can tell apart.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=100e6).contains(&rate) => Ok(rate),
        _ => Err("write a number from 0.001 to 100000000".into()),
    }
}

impl Load {
    pub fn run(self, environment: &Environment) -> Done {
        let (namespace, name) = function_name(&self.function)?;
        let mut payload = self.input.small()?;
        if payload.is_empty() {
            if self.size > ARGUMENTS_BYTES_MAX {
                let what =
                    format!("{} bytes of arguments, at most {ARGUMENTS_BYTES_MAX} are allowed", self.size);
                return Err(Failure::input(what, "--size", "choose a smaller size"));
            }
            payload = (0..self.size).map(|index| b'a' + (index % 26) as u8).collect();
        }
        let options = Options {
            endpoint: self.node.endpoint(environment)?,
            connections: usize::from(self.connections),
            rate: self.rate,
            duration: self.duration,
            function: FunctionId::of(&namespace, &name),
            payload,
            want_outcome: self.outcomes,
            patience: self.patience,
        };
        let log = self.hlog.as_deref().map(Log::create).transpose()?;
        let spinner = spinner();
        interrupt::flag();
        let each = |interval: &Interval| {
            let (ack, late) = (Spread::of(&interval.ack), Spread::of(&interval.late));
            let seconds = interval.length.as_secs_f64().max(1e-9);
            spinner.set_message(format!(
                "{:.0} calls/s, ack p50 {} p99 {}, late p99 {}",
                interval.late.len() as f64 / seconds,
                short(ack.p50),
                short(ack.p99),
                short(late.p99)
            ));
            if let Some(log) = &log {
                log.add(interval.clone());
            }
        };
        let report = run(&options, each, || !interrupt::is_asked());
        spinner.finish_and_clear();
        log.map_or(Ok(()), Log::finish)?;
        let report = report?;
        self.output.print(&report, show);
        self.end(&report)
    }

    /// The figures are out; what is wrong with them goes to stderr.
    fn end(&self, report: &Report) -> Done {
        if let Some(why) = &report.saturated {
            eprintln!("millrace: the generator was saturated, the latencies are its own: {why}");
        }
        if interrupt::is_asked() {
            return Ok(Exit::Interrupted);
        }
        match report.verdicts.iter().find(|(word, _)| **word != "accepted" && **word != "duplicate") {
            None if report.unanswered > 0 => Err(Failure::new(
                Exit::TimedOut,
                format!("{} calls have no answer", report.unanswered),
                format!("after {:?}", self.patience),
                "raise --patience, or lower --rate",
            )),
            None => Ok(Exit::Ok),
            Some((word, count)) => Err(Failure::new(
                if *word == "unknown-function" { Exit::NotFound } else { Exit::Refused },
                format!("{count} of {} calls were refused: {word}", report.sent),
                &self.function,
                "lower --rate if the node is full; deploy the function if it is unknown",
            )),
        }
    }
}

fn show(report: &Report) -> String {
    let mut rows = vec![
        ("rate asked".to_owned(), format!("{:.0} calls/s", report.rate)),
        ("rate sent".into(), format!("{:.0} calls/s", report.rate_sent)),
        ("rate accepted".into(), format!("{:.0} calls/s", report.rate_accepted)),
        ("sent".into(), format!("{} ({} could not be sent in time)", report.sent, report.not_sent)),
    ];
    rows.extend(report.verdicts.iter().map(|(word, count)| (format!("verdict {word}"), count.to_string())));
    rows.extend(report.outcomes.iter().map(|(word, count)| (format!("outcome {word}"), count.to_string())));
    rows.push(("unanswered".into(), report.unanswered.to_string()));
    rows.push(("late".into(), spread(&report.late)));
    rows.push(("ack".into(), spread(&report.ack)));
    if !report.outcomes.is_empty() {
        rows.push(("outcome".into(), spread(&report.outcome)));
    }
    pairs(rows)
}

/// A distribution on one line.
pub fn spread(spread: &Spread) -> String {
    let [p50, p99, p999, max] = [spread.p50, spread.p99, spread.p999, spread.max].map(short);
    format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
}
