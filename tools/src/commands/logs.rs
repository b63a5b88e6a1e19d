//! `millrace logs`

use crate::admin::{Admin, function_name, query};
use crate::exit::{Done, Exit, Failure};
use crate::output::{Format, line};
use crate::settings::{Connection, Environment};
use crate::shards::{Each, Of};
use ::call::{CallId, ShardId};
use ::control::logs::{LogPage, LogRecord};
use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace logs thumbnail
  millrace logs thumbnail -f
  millrace logs media/resize --since 10m --tail 20
  millrace logs thumbnail --call 019a9f3c2b7e5d0a4c1f8e6b3d2a1908
  millrace logs thumbnail -f -o json | jq -r .text

With -o json each record is one line of JSON. A record is what one execution wrote to stdout and stderr, 16 KiB at most.
Records of all shards of a node are shown in the order of time; with -f, as they come.";

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

/// The log of one shard, or of the one node, read page by page.
struct Source {
    shard: Option<ShardId>,
    /// None while it does not answer.
    admin: Option<Admin>,
    /// Records that were read and are not shown yet.
    records: VecDeque<LogRecord>,
    /// Where to read on; empty before the first page.
    next: String,
    more: bool,
    /// Said already.
    dropped: u64,
}

/// A record of a shard: fields of the API's, and whose it is.
type Record = Of<LogRecord>;

impl Logs {
    pub fn run(self, environment: &Environment) -> Done {
        let base = self.base()?;
        let tail = self.tail.map(|tail| tail as usize).or(self.follow.then_some(FOLLOW_TAIL));
        let first = tail.map_or(String::new(), |tail| format!("&tail={tail}"));
        let first = format!("{base}{first}");
        // A shard that has run none of its calls, and missed its deployment, does not know it.
        let ask = |admin: &Admin| match admin.get::<LogPage>(&first) {
            Err(failure) if failure.exit != Exit::NotFound => Err(failure),
            page => Ok((Admin::new(admin.base())?, page)),
        };
        let mut each = Each::ask(&self.node, environment, ask)?;
        let (mut sources, mut unknown) = (Vec::new(), None);
        for Of { shard, said: (admin, page) } in each.take() {
            match page {
                Ok(page) => {
                    let mut source = Source::new(shard, Some(admin));
                    source.take(page);
                    sources.push(source);
                }
                Err(failure) => unknown = Some(failure),
            }
        }
        if let (true, Some(failure)) = (sources.is_empty(), unknown) {
            return Err(failure);
        }
        self.merge(&base, &mut sources, tail)?;
        if !self.follow {
            return each.end();
        }
        // That some are away is said now; what they have is shown when they are back.
        each.end()?;
        sources.extend(each.away().map(|shard| Source::new(Some(shard), None)));
        self.follow(environment, &base, sources)
    }

    /// Shows what there is of all shards in the order of time, or the last so many.
    fn merge(&self, base: &str, sources: &mut [Source], tail: Option<usize>) -> Result<(), Failure> {
        let mut skip = match tail {
            Some(tail) => {
                let read: usize = sources.iter().map(|source| source.records.len()).sum();
                read.saturating_sub(tail)
            }
            None => 0,
        };
        loop {
            for source in sources.iter_mut() {
                while source.records.is_empty() && source.more {
                    source.read_on(base, Duration::ZERO)?;
                }
            }
            let time = |source: &&mut Source| source.records.front().map(|record| record.time);
            let with_records = sources.iter_mut().filter(|source| !source.records.is_empty());
            let Some(source) = with_records.min_by_key(time) else { return Ok(()) };
            let said = source.records.pop_front().expect("it has some");
            match skip {
                0 => self.print(&Of { shard: source.shard, said }),
                _ => skip -= 1,
            }
        }
    }

    /// Shows what comes, of whichever shard it comes first.
    fn follow(&self, environment: &Environment, base: &str, sources: Vec<Source>) -> Done {
        let (sender, coming) = mpsc::channel();
        std::thread::scope(|scope| {
            for mut source in sources {
                let sender = sender.clone();
                scope.spawn(move || {
                    loop {
                        let read = self.wait_for_more(environment, base, &mut source);
                        let is_over = read.is_err();
                        let shard = source.shard;
                        let named = |said: LogRecord| Of { shard, said };
                        let records =
                            read.map(|()| source.records.drain(..).map(named).collect::<Vec<Record>>());
                        if sender.send(records).is_err() || is_over {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for records in coming {
                match records {
                    Ok(records) => records.iter().for_each(|record| self.print(record)),
                    // The others may wait for long: this is the end of the program.
                    Err(failure) => {
                        eprintln!("{failure}");
                        std::process::exit(failure.exit as i32);
                    }
                }
            }
            Ok(Exit::Ok)
        })
    }

    /// Reads the next page of a log that is followed, through restarts of its node.
    fn wait_for_more(
        &self,
        environment: &Environment,
        base: &str,
        source: &mut Source,
    ) -> Result<(), Failure> {
        match source.read_on(base, WAIT) {
            Err(failure) if failure.exit == Exit::Connect => {
                source.admin = Some(self.reconnect(environment, source.shard, &failure));
                // What there is after a restart comes with the next answer.
                Ok(())
            }
            read => read,
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
    fn reconnect(&self, environment: &Environment, shard: Option<ShardId>, failure: &Failure) -> Admin {
        let who = shard.map_or("the node".into(), |shard| format!("shard {shard}"));
        eprintln!("{failure}\nmillrace: waiting for {who}");
        loop {
            std::thread::sleep(RETRY);
            if let Ok(admin) = self.node.admin_of(environment, shard)
                && admin.get::<serde_json::Value>("/v1/status").is_ok()
            {
                return admin;
            }
        }
    }

    fn print(&self, record: &Record) {
        match self.format {
            Format::Json => line(&serde_json::to_string(record).expect("plain data")),
            Format::Table => show(&record.said).iter().for_each(|text| line(text)),
        }
    }
}

impl Source {
    fn new(shard: Option<ShardId>, admin: Option<Admin>) -> Source {
        Source { shard, admin, records: VecDeque::new(), next: String::new(), more: false, dropped: 0 }
    }

    fn read_on(&mut self, base: &str, wait: Duration) -> Result<(), Failure> {
        let Some(admin) = &self.admin else {
            let what = "it does not answer yet";
            return Err(Failure::new(Exit::Connect, what, base, "`millrace up` starts it again"));
        };
        let from = match self.next.as_str() {
            "" => format!("tail={FOLLOW_TAIL}"),
            next => format!("after={next}&wait_ms={}", wait.as_millis()),
        };
        let page = admin.get(&format!("{base}&{from}"))?;
        self.take(page);
        Ok(())
    }

    /// Takes a page, and says what is missing.
    fn take(&mut self, page: LogPage) {
        let of = self.shard.map_or(String::new(), |shard| format!(" of shard {shard}"));
        if page.damaged > 0 {
            eprintln!("millrace: {} damaged lines{of} were skipped", page.damaged);
        }
        if page.dropped != self.dropped {
            let since = if self.shard.is_some() { "its" } else { "the node's" };
            eprintln!("millrace: {} records{of} were dropped since {since} start", page.dropped);
            self.dropped = page.dropped;
        }
        self.records.extend(page.records);
        (self.next, self.more) = (page.next, page.more);
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
