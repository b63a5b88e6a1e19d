//! `millrace logs`

use crate::admin::{Admin, function_name, query};
use crate::exit::{Done, Exit, Failure};
use crate::output::{Format, line};
use crate::settings::{Connection, Environment};
use ::call::CallId;
use ::control::logs::{LogPage, LogRecord};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace logs thumbnail
  millrace logs thumbnail -f
  millrace logs media/resize --since 10m --tail 20
  millrace logs thumbnail --call 019a9f3c2b7e5d0a4c1f8e6b3d2a1908
  millrace logs thumbnail -f -o json | jq -r .text

With -o json each record is one line of JSON. A record is what one execution wrote to stdout and stderr, 16 KiB at most.";

/// With `-f`, the node answers when there is something, or after so long.
const WAIT: Duration = Duration::from_secs(20);
/// Between two tries to reach a node that is gone.
const RETRY: Duration = Duration::from_secs(1);
/// Records shown first with `-f`.
const FOLLOW_TAIL: usize = 10;

/// Shows what calls wrote.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Logs {
    /// NAME or NAMESPACE/NAME
    function: String,
    /// Go on with what comes, until Ctrl-C; through restarts of the node
    #[arg(short, long)]
    follow: bool,
    /// Only of this call
    #[arg(long, value_name = "ID")]
    call: Option<CallId>,
    /// Only not older: 10m, 2026-11-21T08:30:00Z
    #[arg(long, value_name = "DURATION|TIME")]
    since: Option<String>,
    /// Only the last so many records [default: all; 10 with -f]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    tail: Option<u32>,
    /// How results are printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    node: Connection,
}

impl Logs {
    pub fn run(self, environment: &Environment) -> Done {
        let base = self.base()?;
        let tail = self.tail.map(|tail| tail as usize).or(self.follow.then_some(FOLLOW_TAIL));
        let mut admin = self.node.admin(environment)?;
        let first = tail.map_or(String::new(), |tail| format!("&tail={tail}"));
        let mut page: LogPage = admin.get(&format!("{base}{first}"))?;
        let mut dropped = 0;
        loop {
            self.print(&page);
            if page.damaged > 0 {
                eprintln!("millrace: {} damaged lines were skipped", page.damaged);
            }
            if page.dropped != dropped {
                eprintln!("millrace: {} records were dropped since the node's start", page.dropped);
                dropped = page.dropped;
            }
            if !page.more && !self.follow {
                return Ok(Exit::Ok);
            }
            let wait = if self.follow { WAIT } else { Duration::ZERO };
            let path = format!("{base}&after={}&wait_ms={}", page.next, wait.as_millis());
            page = match admin.get(&path) {
                Err(failure) if self.follow && failure.exit == Exit::Connect => {
                    admin = self.reconnect(environment, &failure);
                    // What there is after a restart comes with the next answer.
                    LogPage { records: Vec::new(), ..page }
                }
                page => page?,
            };
        }
    }

    fn base(&self) -> Result<String, Failure> {
        let (namespace, name) = function_name(&self.function)?;
        let since = self.since.as_deref().map_or(String::new(), |since| format!("&since={}", query(since)));
        let call = self.call.map_or(String::new(), |call| format!("&call={call}"));
        // A query that begins with `&` is one all the same, and so is an empty one.
        Ok(format!(
            "/v1/functions/{namespace}/{name}/logs?{}",
            format!("{since}{call}").trim_start_matches('&')
        ))
    }

    /// Waits for a node, which may have other ports after its restart.
    fn reconnect(&self, environment: &Environment, failure: &Failure) -> Admin {
        eprintln!("{failure}\nmillrace: waiting for the node");
        loop {
            std::thread::sleep(RETRY);
            if let Ok(admin) = self.node.admin(environment)
                && admin.get::<serde_json::Value>("/v1/status").is_ok()
            {
                return admin;
            }
        }
    }

    fn print(&self, page: &LogPage) {
        for record in &page.records {
            match self.format {
                Format::Json => line(&serde_json::to_string(record).expect("plain data")),
                Format::Table => show(record).iter().for_each(|text| line(text)),
            }
        }
    }
}

/// Each line with what it belongs to, so that `grep` keeps its meaning.
fn show(record: &LogRecord) -> Vec<String> {
    let LogRecord { call, attempt, status, .. } = record;
    let head = format!("{} {call} {attempt} {}", super::calls::time(record.time), status.name());
    let mut lines: Vec<String> = record.text.lines().map(|text| format!("{head} | {text}")).collect();
    if record.truncated {
        lines.push(format!("{head} | [cut at its limit]"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_it_belongs_to() {
        let record = LogRecord {
            time: 1_700_000_000_000_000_000,
            function: "n/a".into(),
            call: "0a".into(),
            attempt: 2,
            status: ::call::Status::Trap,
            host: "h".into(),
            cpu: 0,
            truncated: true,
            text: "one\ntwo\n".into(),
        };
        let lines = show(&record);
        assert_eq!(lines[0], "2023-11-14T22:13:20.000Z 0a 2 trap | one");
        assert_eq!((lines.len(), lines[2].ends_with("[cut at its limit]")), (3, true));
    }
}
