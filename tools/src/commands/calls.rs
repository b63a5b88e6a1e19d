//! `millrace calls`

use crate::admin::{Admin, query};
use crate::asked::{Asked, Look};
use crate::bulk::{self, Act, Bulk, Where};
use crate::exit::{Done, Exit, Failure};
use crate::output::{pairs, table};
use crate::settings::Environment;
use crate::times::{duration, short};
use ::call::CallId;
use ::call::admin::{CallHistory, CallState, Ordered};
use serde::Serialize;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Looks at calls, cancels them, or runs them again.
#[derive(clap::Subcommand, Debug)]
pub enum Calls {
    /// List calls by a filter, in order of start time: what waits, runs, is dead, or ended lately
    #[command(after_help = "Examples:\n  millrace calls list\n  \
        millrace calls list --where 'function=thumb* and age>1h and error~timeout'\n  \
        millrace calls list --where 'state=done and status!=ok' --limit 20 -o json\n  \
        millrace calls list --where 'state=running' --watch\n\n\
        Without --where, calls that have ended are left out; the last of them are found by state=done.")]
    List {
        #[command(flatten)]
        which: Where,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        #[command(flatten)]
        look: Look,
    },
    /// Show what is known of a call: where it is, how it ended, what it took
    #[command(after_help = "Examples:\n  millrace calls show 019a9f3c2b7e5d0a4c1f8e6b3d2a1908\n  \
        millrace calls show 019a9f3c2b7e5d0a4c1f8e6b3d2a1908 --wait 1m -o json")]
    Show {
        /// 32 hexadecimal digits, as `submit` prints them
        id: CallId,
        /// Answer when it has ended, or after this long
        #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
        wait: Duration,
        #[command(flatten)]
        asked: Asked,
    },
    /// Write what a call returned, byte for byte: to stdout, or to a file
    #[command(
        after_help = "Examples:\n  millrace calls result 019a9f3c2b7e5d0a4c1f8e6b3d2a1908 > photo.jpg\n  \
        millrace calls result 019a9f3c2b7e5d0a4c1f8e6b3d2a1908 --file photo.jpg --wait 1m\n\n\
        Results above 256 KiB are stored apart, as blobs, and checked before they are sent; `calls show` names them. A file\n\
        is written aside and gets its name when all of it is there. The exit code is 0 however the call ended; 3 if its\n\
        result is not kept, 5 if it has not ended, and 9 if the result is damaged on the node's disk."
    )]
    Result {
        /// 32 hexadecimal digits, as `submit` prints them
        id: CallId,
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Wait until the call has ended, for this long
        #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
        wait: Duration,
        #[command(flatten)]
        asked: Asked,
    },
    /// Cancel calls: those that wait end at once, those that run are stopped by their core
    #[command(after_help = "Examples:\n  millrace calls cancel 019a9f3c2b7e5d0a4c1f8e6b3d2a1908\n  \
        millrace calls cancel --where 'function=report and start>+1h' --dry-run\n  \
        millrace calls cancel --where 'function=report and start>+1h' --yes")]
    Cancel(Several),
    /// Run calls again at once: dead letters, and those that wait to be tried again
    #[command(after_help = "Examples:\n  millrace calls retry 019a9f3c2b7e5d0a4c1f8e6b3d2a1908\n  \
        millrace calls retry --where 'state=retrying and error~\"connection refused\"' --yes")]
    Retry(Several),
}

/// Calls by name or by filter.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["ids", "filter"])))]
pub struct Several {
    /// Ids: 32 hexadecimal digits each
    #[arg(value_name = "ID")]
    ids: Vec<CallId>,
    #[command(flatten)]
    bulk: Bulk,
}

const CANCEL: Act = Act { path: "/v1/calls/cancel", verb: "cancel", done: "cancelled" };
const RETRY: Act = Act { path: "/v1/calls/retry", verb: "retry", done: "due again" };

impl Calls {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Calls::List { which, limit, look } => {
                let filter = which.checked()?.unwrap_or("not state=done");
                let find = |admin: &Admin| bulk::find(admin, filter, limit);
                look.each(environment, find, |each| Ok(bulk::page(each, limit)), |page| list(&page.calls))
            }
            Calls::Show { id, wait, asked } => {
                let path = format!("/v1/calls/{id}?wait_ms={}", wait.as_millis());
                asked.print(environment, |admin| admin.get::<CallState>(&path), show)
            }
            Calls::Result { id, file, wait, asked } => result(id, file.as_deref(), wait, &asked, environment),
            Calls::Cancel(several) => several.order(CANCEL, environment),
            Calls::Retry(several) => several.order(RETRY, environment),
        }
    }
}

/// What was written of a result.
#[derive(Serialize)]
struct Written {
    call: String,
    status: String,
    bytes: u64,
    file: String,
}

/// Writes a result as it comes, so that it takes no memory.
fn result(id: CallId, file: Option<&Path>, wait: Duration, asked: &Asked, environment: &Environment) -> Done {
    if file.is_none() && asked.output.is_json() {
        let remedy = "add --file, or leave -o json out";
        return Err(Failure::new(Exit::Usage, "a result is no JSON", "-o json", remedy));
    }
    let admin = asked.admin(environment)?;
    if wait > Duration::ZERO {
        admin.get::<CallState>(&format!("/v1/calls/{id}?wait_ms={}", wait.as_millis()))?;
    }
    let path = format!("/v1/calls/{id}/result");
    let Some(file) = file else {
        admin.download(&path, &mut io::stdout().lock())?;
        return Ok(Exit::Ok);
    };
    let failed = |error: io::Error| Failure::file("write the result", file, &error);
    let aside = file.with_added_extension("part");
    let mut part = File::create(&aside).map_err(failed)?;
    let fetched = admin.download(&path, &mut part);
    let named = match &fetched {
        Ok(_) => std::fs::rename(&aside, file).map_err(failed),
        Err(_) => std::fs::remove_file(&aside).map_err(failed),
    };
    let fetched = fetched?;
    named?;
    let written = Written {
        call: id.to_string(),
        status: fetched.status,
        bytes: fetched.bytes,
        file: file.display().to_string(),
    };
    asked.output.print(&written, |written| format!("{} bytes in {}", written.bytes, written.file));
    Ok(Exit::Ok)
}

impl Several {
    /// Calls by name one by one, each at once; the first that fails ends it.
    fn order(&self, act: Act, environment: &Environment) -> Done {
        let Bulk { which, consent, asked } = &self.bulk;
        if let Some(filter) = which.checked()? {
            let which = format!("where={}", query(filter));
            return bulk::order(asked, environment, act, &which, *consent);
        }
        if consent.dry_run {
            let remedy = "leave it out, or give --where";
            return Err(Failure::new(Exit::Usage, "a named call is not counted first", "--dry-run", remedy));
        }
        let admin = asked.admin(environment)?;
        let mut sum = Ordered::default();
        for id in &self.ids {
            let one: Ordered = admin.post(&format!("{}?call={id}", act.path))?;
            (sum.count, sum.matched) = (sum.count + one.count, sum.matched + one.matched);
        }
        asked.output.print(&sum, |sum| format!("{} calls {}", sum.count, act.done));
        Ok(Exit::Ok)
    }
}

pub fn show(call: &CallState) -> String {
    let mut rows = vec![
        ("call", call.call.clone()),
        ("function", call.function.clone()),
        ("state", call.state.clone()),
        ("start", time(call.start_at)),
        ("deadline", time(call.deadline)),
        ("criticality", call.criticality.to_string()),
        ("deliveries", call.attempts.to_string()),
    ];
    rows.extend(call.shard.map(|shard| ("shard", shard.to_string())));
    rows.extend(call.status.map(|status| ("status", status.name().to_owned())));
    if !call.reason.is_empty() {
        rows.push(("reason", call.reason.clone()));
    }
    if let Some(usage) = &call.usage {
        rows.push(("waited", format!("{} on the core", short(usage.wait_ns))));
        rows.push(("ran", format!("{} ({} of CPU)", short(usage.run_ns), short(usage.cpu_ns))));
        rows.push(("memory", format!("{} KiB", usage.memory_bytes >> 10)));
        if usage.bytes_in + usage.bytes_out > 0 {
            rows.push(("network", format!("{} bytes in, {} out", usage.bytes_in, usage.bytes_out)));
        }
        if usage.denied > 0 {
            rows.push(("denied", format!("{} attempts (network.allow)", usage.denied)));
        }
        let init = if usage.init_ns == 0 { String::new() } else { format!(" ({})", short(usage.init_ns)) };
        rows.push(("cold start", format!("{}{init}", if usage.cold { "yes" } else { "no" })));
    }
    if let Some(result) = &call.result {
        rows.push(("result", format!("{} bytes: `millrace calls result {}`", result.bytes, call.call)));
        rows.push(("blob", result.blob.clone()));
    }
    let mut text = pairs(rows);
    text += &call.history.as_ref().map_or(String::new(), history);
    for (name, bytes) in [("output", &call.output), ("stderr", &call.stderr)] {
        if let Some(bytes) = bytes.as_ref().filter(|bytes| !bytes.is_empty()) {
            text += &format!("--- {name}\n{}\n", bytes.trim_end());
        }
    }
    text
}

/// The attempts of a call as a table.
fn history(history: &CallHistory) -> String {
    let rows = history.attempts.iter().map(|attempt| {
        let redriven = if attempt.redriven { ", before the redrive" } else { "" };
        let dash = |text: String, none: bool| if none { "-".into() } else { text };
        [
            format!("{}{redriven}", attempt.number),
            time(attempt.began),
            short(attempt.ended.saturating_sub(attempt.began)),
            dash(short(attempt.ran_ns), attempt.ran_ns == 0),
            dash(attempt.worker.clone(), attempt.worker.is_empty()),
            attempt.status.name().to_owned(),
            attempt.error.split_whitespace().collect::<Vec<_>>().join(" "),
        ]
    });
    let rows = table(["attempt", "began", "took", "ran", "worker", "status", "error"], rows);
    let mut text = format!("--- attempts that failed\n{}\n", rows.trim_end());
    if history.earlier > 0 || history.partial {
        let memory = if history.partial { ", for want of memory" } else { "" };
        text += &format!("at least {} earlier attempts are not listed{memory}\n", history.earlier);
    }
    text
}

/// Unix nanoseconds as a date; a dash for none.
pub fn time(unix_ns: u64) -> String {
    match unix_ns {
        0 => "-".into(),
        ns => humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(ns)).to_string(),
    }
}

/// Many calls as a table.
pub fn list(calls: &[CallState]) -> String {
    let row = |call: &CallState| {
        [
            call.call.clone(),
            call.function.clone(),
            call.state.clone(),
            time(call.start_at),
            call.criticality.to_string(),
            call.attempts.to_string(),
            call.reason.clone(),
        ]
    };
    let headings = ["call", "function", "state", "start", "criticality", "deliveries", "reason"];
    if calls.iter().all(|call| call.shard.is_none()) {
        return table(headings, calls.iter().map(row));
    }
    let placed = |call: &CallState| {
        let [id, function, state, start, criticality, deliveries, reason] = row(call);
        let shard = call.shard.map_or("-".into(), |shard| shard.to_string());
        [id, function, shard, state, start, criticality, deliveries, reason]
    };
    let headings = ["call", "function", "shard", "state", "start", "criticality", "deliveries", "reason"];
    table(headings, calls.iter().map(placed))
}
