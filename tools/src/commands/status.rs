//! `millrace status`

use crate::exit::Done;
use crate::output::{Output, pairs, table};
use crate::settings::{Connection, Environment};
use crate::shards::Each;
use crate::times::short;
use ::call::admin::{NodeStatus, Quantiles};
use serde::Serialize;
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
        let each = Each::ask(&self.node, environment, |admin| admin.get::<NodeStatus>("/v1/status"))?;
        match &each.said[..] {
            [status] if !each.is_divided => self.output.print(status, show),
            shards => self.output.print(&Whole { sum: sum(shards), shards }, list),
        }
        each.end()
    }
}

/// The counters of all shards together, and each shard's own.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    sum: NodeStatus,
    shards: &'a [NodeStatus],
}

/// What can be added up. Quantiles, backends and the like are each shard's own.
fn sum(shards: &[NodeStatus]) -> NodeStatus {
    shards.iter().fold(NodeStatus::default(), |sum, s| NodeStatus {
        version: s.version.clone(),
        accepted: sum.accepted + s.accepted,
        refused: sum.refused + s.refused,
        duplicates: sum.duplicates + s.duplicates,
        leased: sum.leased + s.leased,
        completed: sum.completed + s.completed,
        retried: sum.retried + s.retried,
        dead: sum.dead + s.dead,
        leases_lost: sum.leases_lost + s.leases_lost,
        fenced: sum.fenced + s.fenced,
        pending: sum.pending + s.pending,
        leased_now: sum.leased_now + s.leased_now,
        dead_letters: sum.dead_letters + s.dead_letters,
        recovered: sum.recovered + s.recovered,
        groups: sum.groups + s.groups,
        log_bytes: sum.log_bytes + s.log_bytes,
        segments: sum.segments + s.segments,
        checkpoints: sum.checkpoints + s.checkpoints,
        start_bytes: sum.start_bytes + s.start_bytes,
        blobs: sum.blobs + s.blobs,
        blob_bytes: sum.blob_bytes + s.blob_bytes,
        cold_starts: sum.cold_starts + s.cold_starts,
        foreseen: sum.foreseen + s.foreseen,
        slow_clients: sum.slow_clients + s.slow_clients,
        draining: sum.draining || s.draining,
        ..NodeStatus::default()
    })
}

fn list(whole: &Whole<'_>) -> String {
    let row = |s: &NodeStatus| {
        let name = s.shard.map_or("all".into(), |shard| shard.to_string());
        let counts =
            [s.pending, s.leased_now, s.dead_letters, s.accepted, s.duplicates, s.refused, s.completed];
        let [pending, leased, dead, accepted, duplicates, refused, completed] =
            counts.map(|count| count.to_string());
        let log = format!("{} MiB", s.log_bytes >> 20);
        [name, pending, leased, dead, accepted, duplicates, refused, completed, log]
    };
    let headings = [
        "shard",
        "pending",
        "leased",
        "dead letters",
        "accepted",
        "duplicates",
        "refused",
        "completed",
        "log",
    ];
    table(headings, std::iter::once(&whole.sum).chain(whole.shards).map(row))
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
                "{} groups, {} MiB, {} segments, {} calls recovered; {} checkpoints, a start would read {} MiB",
                s.groups,
                s.log_bytes >> 20,
                s.segments,
                s.recovered,
                s.checkpoints,
                s.start_bytes >> 20
            ),
        ),
        ("blobs".into(), format!("{}, {} MiB", s.blobs, s.blob_bytes >> 20)),
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
