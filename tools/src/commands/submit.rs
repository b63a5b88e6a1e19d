//! `millrace submit`

use super::arguments::{CallTerms, Input, OutcomeView, ended_badly, spinner};
use crate::admin::function_name;
use crate::batch::{Batch, Stopped, Tally};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::{Output, line, pairs};
use crate::rows::{self, Rows};
use crate::settings::{Connection, Environment};
use crate::times::duration;
use ::call::FunctionId;
use millrace_client::blocking::Client;
use millrace_client::{IdSeries, Options};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace submit hello --data world
  millrace submit thumbnail --file photo.jpg --in 1h --criticality 50
  producer | millrace submit hello -
  millrace submit charge --data 42 --idempotency-key order-7
  millrace submit hello --data soon --deadline 10s --expires
  millrace submit hello --ndjson calls.ndjson --wait
  millrace submit hello --csv people.csv --column name

A call is on the node's disk when this returns. A batch that stops says how many calls were accepted and the
command that goes on where it stopped; nothing is submitted twice by it.";

/// Submits calls.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("batch_file").args(["ndjson", "csv"])))]
pub struct Submit {
    /// NAME or NAMESPACE/NAME
    function: String,
    #[command(flatten)]
    input: Input,
    /// One call for each line of FILE (`-`: stdin): a JSON value, passed as it stands
    #[arg(long, value_name = "FILE", conflicts_with_all = ["stdin", "data", "file", "csv"])]
    ndjson: Option<PathBuf>,
    /// One call for each record of FILE (`-`: stdin): an object with the header's names as keys
    #[arg(long, value_name = "FILE", conflicts_with_all = ["stdin", "data", "file"])]
    csv: Option<PathBuf>,
    /// With --csv: pass this column's text alone
    #[arg(long, value_name = "NAME", requires = "csv")]
    column: Option<String>,
    /// Go on with a batch that stopped: its id, as it was printed
    #[arg(long, value_name = "ID", requires = "batch_file")]
    batch: Option<String>,
    /// Skip the lines before this one
    #[arg(long, value_name = "LINE", default_value_t = 1, requires = "batch_file")]
    from_line: u64,
    #[command(flatten)]
    terms: CallTerms,
    /// A second submit with this key is the first one again, and says so, while the function's window lasts
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["ndjson", "csv"])]
    idempotency_key: Option<String>,
    /// The call must begin by its deadline, or ends as `expired`
    #[arg(long, requires = "deadline", conflicts_with_all = ["ndjson", "csv"])]
    expires: bool,
    /// Wait until the calls have ended
    #[arg(short, long)]
    wait: bool,
    /// How long to try again if the node is lost or full
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    patience: Duration,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

/// One submitted call, as `-o json` shows it.
#[derive(Serialize)]
struct Accepted {
    call: String,
    verdict: &'static str,
}

/// A batch, as `-o json` shows it.
#[derive(Serialize)]
struct BatchView<'a> {
    batch: String,
    #[serde(flatten)]
    tally: &'a Tally,
}

impl Submit {
    pub fn run(self, environment: &Environment) -> Done {
        let (namespace, name) = function_name(&self.function)?;
        let function = FunctionId::of(&namespace, &name);
        match self.rows()? {
            Some((rows, file)) => self.many(environment, function, rows, &file),
            None => self.one(environment, function),
        }
    }

    fn client(&self, environment: &Environment) -> Result<Client, Failure> {
        let options =
            Options { name: "millrace submit".into(), patience: self.patience, ..Options::default() };
        Ok(Client::connect(&self.node.endpoint(environment)?, options)?)
    }

    fn one(&self, environment: &Environment, function: FunctionId) -> Done {
        let terms = self.terms.terms()?;
        let payload = self.input.payload(&self.node, environment)?;
        let mut client = self.client(environment)?;
        let call = ::call::body::Submit {
            start_at: terms.start_at,
            deadline: terms.deadline,
            criticality: self.terms.criticality(),
            key: self.terms.key(),
            label: self.terms.label(),
            want_outcome: self.wait,
            expires: self.expires,
            blob: payload.is_blob,
            ..client.call(function, &payload.bytes)
        };
        let call = match &self.idempotency_key {
            Some(key) => call.keyed_by(key, crate::times::wall()),
            None => call,
        };
        let receipt = client.submit(&call).map_err(|error| name_function(error.into(), &self.function))?;
        if !self.wait {
            let accepted = Accepted {
                call: receipt.call.to_string(),
                verdict: crate::replay::verdict_name(receipt.code),
            };
            self.output.print(&accepted, |accepted| match accepted.verdict {
                "duplicate" => format!("{} (submitted before)", accepted.call),
                _ => accepted.call.clone(),
            });
            return Ok(Exit::Ok);
        }
        let outcome = client.wait(call.call, Duration::MAX)?;
        self.output
            .print(&OutcomeView::from(&outcome), |_| format!("{} {}", outcome.call, outcome.status.name()));
        if outcome.status.is_ok() { Ok(Exit::Ok) } else { Err(ended_badly(&outcome)) }
    }

    /// The rows of a batch and what its file is called.
    fn rows(&self) -> Result<Option<(Rows, String)>, Failure> {
        if self.ndjson.is_some() || self.csv.is_some() {
            interrupt::flag();
        }
        match (&self.ndjson, &self.csv) {
            (Some(path), _) => Ok(Some((rows::ndjson(open(path)?, &name(path)), name(path)))),
            (None, Some(path)) => {
                Ok(Some((rows::csv(open(path)?, &name(path), self.column.as_deref())?, name(path))))
            }
            (None, None) => Ok(None),
        }
    }

    fn many(&self, environment: &Environment, function: FunctionId, rows: Rows, file: &str) -> Done {
        let series = match &self.batch {
            None => IdSeries::new(),
            Some(text) => text.parse().map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("{error}"),
                    "--batch",
                    "give the id that the stopped batch printed",
                )
            })?,
        };
        let batch = Batch {
            function,
            terms: self.terms.terms()?,
            criticality: self.terms.criticality(),
            key: self.terms.key(),
            label: self.terms.label(),
            series,
            from_line: self.from_line,
            wait: self.wait,
        };
        let mut client = self.client(environment)?;
        let spinner = spinner();
        let (tally, stopped) = batch.run(&mut client, rows, |tally| {
            spinner.set_message(format!("{} accepted, {:?}", tally.accepted, tally.outcomes));
        });
        spinner.finish_and_clear();
        let view = BatchView { batch: series.to_string(), tally: &tally };
        self.output.print(&view, |_| describe(&tally));
        match stopped {
            Some(stopped) => Err(self.explain(stopped, &tally, series, file)),
            None if tally.failed() > 0 => Err(Failure::new(
                Exit::Failed,
                format!("{} calls failed", tally.failed()),
                file,
                format!("look at one: millrace calls show {}", tally.failed_calls[0]),
            )),
            None => Ok(Exit::Ok),
        }
    }

    /// Why a batch stopped, how far it came, and the command that goes on.
    fn explain(&self, stopped: Stopped, tally: &Tally, series: IdSeries, file: &str) -> Failure {
        let Stopped { mut why, resume_at } = stopped;
        let kind = if self.ndjson.is_some() { "--ndjson" } else { "--csv" };
        let first = if why.remedy.is_empty() { String::new() } else { format!("{}; ", why.remedy) };
        if !why.place.contains(file) {
            why.place = format!("{file}: {}", why.place);
        }
        why.remedy = format!(
            "{first}{} calls were accepted and are safe; go on with: millrace submit {} {kind} {file} --batch {series} \
             --from-line {resume_at}",
            tally.accepted, self.function,
        );
        name_function(why, &self.function)
    }
}

fn describe(tally: &Tally) -> String {
    let mut rows = vec![("accepted".to_owned(), tally.accepted.to_string())];
    if tally.duplicates > 0 {
        rows.push(("of these, known before".to_owned(), tally.duplicates.to_string()));
    }
    rows.extend(tally.outcomes.iter().map(|(status, count)| (format!("ended {status}"), count.to_string())));
    pairs(rows)
}

/// A refusal speaks of a call; a person thinks of the function.
pub fn name_function(mut failure: Failure, function: &str) -> Failure {
    if failure.exit == Exit::NotFound {
        failure.place = format!("{function}, {}", failure.place);
    }
    failure
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(interrupt::UntilAsked(io::stdin())));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(Failure::file("read the batch", path, &error)),
    }
}

/// For `call`: bytes of an output, as they are.
pub fn raw(bytes: &[u8]) {
    use io::Write;
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        line("");
    }
}
