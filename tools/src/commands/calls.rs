//! `millrace calls`

use crate::exit::{Done, Exit};
use crate::output::{Output, pairs, table};
use crate::settings::{Connection, Environment};
use crate::times::{duration, short};
use ::call::CallId;
use ::call::admin::CallState;
use std::time::{Duration, UNIX_EPOCH};

/// Looks at calls.
#[derive(clap::Subcommand, Debug)]
pub enum Calls {
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
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Calls {
    pub fn run(self, environment: &Environment) -> Done {
        let Calls::Show { id, wait, output, node } = self;
        let path = format!("/v1/calls/{id}?wait_ms={}", wait.as_millis());
        let call: CallState = node.admin(environment)?.get(&path)?;
        output.print(&call, show);
        Ok(Exit::Ok)
    }
}

fn show(call: &CallState) -> String {
    let mut rows = vec![
        ("call", call.call.clone()),
        ("function", call.function.clone()),
        ("state", call.state.clone()),
        ("start", time(call.start_at)),
        ("deadline", time(call.deadline)),
        ("criticality", call.criticality.to_string()),
        ("deliveries", call.attempts.to_string()),
    ];
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
    let mut text = pairs(rows);
    for (name, bytes) in [("output", &call.output), ("stderr", &call.stderr)] {
        if let Some(bytes) = bytes.as_ref().filter(|bytes| !bytes.is_empty()) {
            text += &format!("--- {name}\n{}\n", bytes.trim_end());
        }
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

/// Many calls as a table, for `queue peek` and `dlq list`.
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
    table(
        ["call", "function", "state", "start", "criticality", "deliveries", "reason"],
        calls.iter().map(row),
    )
}
