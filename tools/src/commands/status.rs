//! `millrace status`

use crate::exit::{Done, Exit};
use crate::output::{Output, pairs};
use crate::settings::{Connection, Environment};
use crate::times::short;
use ::call::admin::{NodeStatus, Quantiles};
use std::time::Duration;

/// Shows the node's counters.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  millrace status\n  millrace status -o json")]
pub struct Status {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Status {
    pub fn run(self, environment: &Environment) -> Done {
        let status: NodeStatus = self.node.admin(environment)?.get("/v1/status")?;
        self.output.print(&status, show);
        Ok(Exit::Ok)
    }
}

fn show(s: &NodeStatus) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(s.uptime_s));
    let draining = if s.draining { ", draining" } else { "" };
    let mut rows = vec![
        (
            "node".to_owned(),
            format!("{} pid {}, up {uptime}, incarnation {}{draining}", s.version, s.pid, s.incarnation),
        ),
        (
            "pending".into(),
            format!("{} ({} leased), {} dead letters", s.pending, s.leased_now, s.dead_letters),
        ),
        ("accepted".into(), format!("{} ({} duplicates, {} refused)", s.accepted, s.duplicates, s.refused)),
        ("completed".into(), format!("{} ({} retried, {} dead)", s.completed, s.retried, s.dead)),
        (
            "leases".into(),
            format!(
                "{} given, {} lost with a worker, {} late outcomes fenced",
                s.leased, s.leases_lost, s.fenced
            ),
        ),
        ("cold starts".into(), s.cold_starts.to_string()),
        (
            "utilization".into(),
            format!(
                "{:.1}% of the cores' time in functions, room for {:.1} of opportunistic quota",
                f64::from(s.utilization) / 10.0,
                f64::from(s.opportunistic) / 1000.0
            ),
        ),
        (
            "log".into(),
            format!(
                "{} groups, {} MiB, {} segments, {} calls recovered",
                s.groups,
                s.log_bytes >> 20,
                s.segments,
                s.recovered
            ),
        ),
        ("queueing".into(), quantiles(&s.queueing)),
        ("execution".into(), quantiles(&s.execution)),
        ("end to end".into(), quantiles(&s.end_to_end)),
    ];
    rows.extend(s.backends.iter().map(|(thing, backend)| (format!("backend: {thing}"), backend.clone())));
    pairs(rows)
}

fn quantiles(q: &Quantiles) -> String {
    if q.count == 0 {
        return "-".into();
    }
    let [p50, p99, p999, max] = [q.p50_ns, q.p99_ns, q.p999_ns, q.max_ns].map(short);
    format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max} of {}", q.count)
}
