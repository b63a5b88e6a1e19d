//! `GET /metrics`: what there is to count, in the text format of OpenMetrics, which Prometheus reads.
//!
//! Made on request, from the same sums as usage and from the node's answers to an operator. Labels are bounded: at most
//! [`crate::accounts::rows_max`] functions and tenants have series of their own, the others share one.

use crate::accounts::{Row, Sums};
use crate::admin::error::{ApiError, Reply};
use crate::admin::http::Shared;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use call::Status;
use call::admin::{Answer, Ask, CoreState, NodeStatus, Quantiles, QueueState, ScalingState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`
pub async fn show(State(admin): State<Shared>) -> Reply<impl IntoResponse> {
    let Answer::Status(status) = admin.link.ask(Ask::Status).await? else { return Err(unexpected()) };
    let Answer::Queues(queues) = admin.link.ask(Ask::Queues).await? else { return Err(unexpected()) };
    let Answer::Workers(cores) = admin.link.ask(Ask::Workers).await? else { return Err(unexpected()) };
    let Answer::Scaling(scaling) = admin.link.ask(Ask::Scaling).await? else { return Err(unexpected()) };
    let functions = admin.book.ledger().rows().into_iter().map(|row| (row.sums(), row)).collect();
    let logs = (admin.logs.counts.written(), admin.logs.counts.dropped());
    let waiting = admin.link.waiting() as u64;
    let seen = Seen { status, queues, cores, scaling, functions, logs, waiting };
    // A large catalog is a text of megabytes.
    let text = tokio::task::spawn_blocking(move || seen.text())
        .await
        .map_err(|error| ApiError::from_answer("internal".into(), error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

fn unexpected() -> ApiError {
    ApiError::from_answer("internal".into(), "the node gave another answer than was asked for".into())
}

/// All that is told.
#[derive(Debug)]
struct Seen {
    status: NodeStatus,
    queues: Vec<QueueState>,
    cores: Vec<CoreState>,
    scaling: ScalingState,
    functions: Vec<(Sums, Arc<Row>)>,
    /// Records written and dropped.
    logs: (u64, u64),
    /// HTTP clients that wait for an outcome.
    waiting: u64,
}

impl Seen {
    fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("memory takes any text");
        text
    }
}

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Families { encoder: &mut encoder };
        self.node(&mut to)?;
        self.times(&mut to)?;
        self.functions(&mut to)?;
        self.queues(&mut to)?;
        self.cores(&mut to)
    }
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Writes one family of series after the other.
struct Families<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Families<'_, '_> {
    fn counter<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s, N>, f64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            match N {
                0 => counted(&mut family, value)?,
                _ => counted(&mut family.encode_family(&escaped(labels))?, value)?,
            }
        }
        Ok(())
    }

    fn gauge<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'s, N>, f64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            match N {
                0 => family.encode_gauge(&value)?,
                _ => family.encode_family(&escaped(labels))?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }
}

/// Counts stay whole: 1e15 is not what a reader expects.
fn counted(to: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    if value.fract() == 0.0 && value < 9e15 {
        to.encode_counter::<NoLabelSet, _, u64>(&(value as u64), None)
    } else {
        to.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }
}

/// The library writes values as they are; a host may call itself anything.
fn escaped<'s, const N: usize>(labels: Labels<'s, N>) -> [(&'static str, Cow<'s, str>); N] {
    labels.map(|(name, value)| {
        let is_plain = !value.contains(['\\', '"', '\n']);
        let value = match is_plain {
            true => Cow::Borrowed(value),
            false => value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into(),
        };
        (name, value)
    })
}

const ALONE: Labels<'static, 0> = [];

impl Seen {
    fn node(&self, to: &mut Families<'_, '_>) -> fmt::Result {
        let s = &self.status;
        if let Some(shard) = s.shard.map(|shard| shard.to_string()) {
            let which = "1, with the number of the shard whose counters these are";
            to.gauge("millrace_shard", which, [([("shard", shard.as_str())], 1.0)])?;
        }
        let counters = [
            ("millrace_calls_accepted", "Calls accepted, on disk", s.accepted),
            ("millrace_calls_refused", "Submits refused, of whatever reason", s.refused),
            ("millrace_calls_duplicate", "Submits recognised as already held", s.duplicates),
            ("millrace_leases", "Leases given", s.leased),
            ("millrace_leases_lost", "Leases that ended with their worker", s.leases_lost),
            ("millrace_outcomes_fenced", "Outcomes of an old epoch, ignored", s.fenced),
            ("millrace_executions_retried", "Executions that failed and were scheduled again", s.retried),
            ("millrace_log_groups", "Log groups on disk", s.groups),
            ("millrace_log_bytes", "Bytes of log groups on disk", s.log_bytes),
            ("millrace_log_checkpoints", "Checkpoints of the queue's index", s.checkpoints),
            ("millrace_foreseen", "Times that a function was made warm before its call", s.foreseen),
            ("millrace_slow_clients", "Clients cut off since they did not read", s.slow_clients),
            ("millrace_records_written", "Records of functions' logs on disk", self.logs.0),
            ("millrace_records_dropped", "Records of functions' logs dropped", self.logs.1),
        ];
        for (name, help, value) in counters {
            to.counter(name, help, [(ALONE, value as f64)])?;
        }
        let gauges = [
            ("millrace_up_seconds", "Since the node's start", s.uptime_s as f64),
            ("millrace_calls_pending", "Calls waiting or leased", s.pending as f64),
            ("millrace_calls_leased", "Calls leased to a core", s.leased_now as f64),
            ("millrace_dead_letters", "Calls that were given up", s.dead_letters as f64),
            ("millrace_log_segments", "Log segments on disk", s.segments as f64),
            ("millrace_log_start_bytes", "Bytes of log that a start would read", s.start_bytes as f64),
            ("millrace_blobs", "Blobs in the store", s.blobs as f64),
            ("millrace_blob_bytes", "Bytes of all blobs", s.blob_bytes as f64),
            ("millrace_invocations_waiting", "HTTP clients that wait for an outcome", self.waiting as f64),
            ("millrace_cores", "Worker cores connected", self.cores.len() as f64),
            (
                "millrace_cores_wanted",
                "Worker cores that there should be; 0 if no controller says",
                f64::from(self.scaling.wanted.cores),
            ),
            (
                "millrace_cores_wanted_load_ratio",
                "Load of calls that may not wait on so many cores",
                f64::from(self.scaling.wanted.load) / 1e3,
            ),
            ("millrace_utilization_ratio", "Cores' time spent in functions", f64::from(s.utilization) / 1e3),
            ("millrace_draining", "1 while the node drains", f64::from(u8::from(s.draining))),
        ];
        for (name, help, value) in gauges {
            to.gauge(name, help, [(ALONE, value)])?;
        }
        Ok(())
    }

    /// Quantiles since the start, as the node keeps them.
    fn times(&self, to: &mut Families<'_, '_>) -> fmt::Result {
        let all = [
            ("queueing", &self.status.queueing),
            ("execution", &self.status.execution),
            ("end_to_end", &self.status.end_to_end),
        ];
        let each =
            |q: &Quantiles| [("0.5", q.p50_ns), ("0.99", q.p99_ns), ("0.999", q.p999_ns), ("1", q.max_ns)];
        let samples = all.iter().flat_map(|(of, q)| {
            each(q).map(|(quantile, ns)| ([("of", *of), ("quantile", quantile)], ns as f64 / 1e9))
        });
        to.gauge("millrace_latency_seconds", "Times since the node's start, by quantile", samples)
    }

    fn functions(&self, to: &mut Families<'_, '_>) -> fmt::Result {
        let by_status = |pick: fn(&Sums, usize) -> u64| {
            self.functions.iter().flat_map(move |(sums, row)| {
                let counted =
                    Status::ALL.into_iter().map(move |status| (status, pick(sums, status as usize)));
                let labels = |status: Status| {
                    [
                        ("function", row.function.as_str()),
                        ("tenant", row.tenant.as_str()),
                        ("status", status.name()),
                    ]
                };
                counted.filter(|(_, n)| *n > 0).map(move |(status, n)| (labels(status), n as f64))
            })
        };
        to.counter(
            "millrace_executions",
            "Executions, by how they ended",
            by_status(|s, n| s.executions[n]),
        )?;
        to.counter("millrace_calls", "Calls that ended for good, by how", by_status(|s, n| s.calls[n]))?;
        let each = |pick: fn(&Sums) -> f64| {
            self.functions.iter().map(move |(sums, row)| {
                ([("function", row.function.as_str()), ("tenant", row.tenant.as_str())], pick(sums))
            })
        };
        to.counter("millrace_cpu_seconds", "CPU time of functions", each(|s| s.cpu_ns as f64 / 1e9))?;
        to.counter("millrace_run_seconds", "Run time of functions", each(|s| s.run_ns as f64 / 1e9))?;
        to.counter(
            "millrace_memory_byte_seconds",
            "Peak memory times run time of functions",
            each(|s| s.memory_byte_s as f64 + s.memory_rest_byte_ns as f64 / 1e9),
        )?;
        to.counter(
            "millrace_received_bytes",
            "Bytes received from the network",
            each(|s| s.bytes_in as f64),
        )?;
        to.counter("millrace_sent_bytes", "Bytes sent to the network", each(|s| s.bytes_out as f64))?;
        to.counter(
            "millrace_denied_attempts",
            "Attempts to reach or to serve over the network what no grant covers",
            each(|s| s.denied as f64),
        )?;
        to.counter(
            "millrace_cold_starts",
            "Executions for which an instance or sandbox was made",
            each(|s| s.cold_starts as f64),
        )?;
        to.counter("millrace_init_seconds", "Time of initialisation", each(|s| s.init_ns as f64 / 1e9))
    }

    fn queues(&self, to: &mut Families<'_, '_>) -> fmt::Result {
        let depths = self.queues.iter().flat_map(|queue| {
            let states = [
                ("scheduled", queue.scheduled),
                ("due", queue.due),
                ("leased", queue.leased),
                ("dead", queue.dead),
            ];
            states.map(|(state, n)| ([("function", queue.function.as_str()), ("state", state)], n as f64))
        });
        to.gauge("millrace_queue_calls", "Calls of a function, by state", depths)?;
        let overdue =
            self.queues.iter().map(|q| ([("function", q.function.as_str())], q.oldest_due_ms as f64 / 1e3));
        to.gauge("millrace_queue_overdue_seconds", "How long the oldest due call waits", overdue)
    }

    fn cores(&self, to: &mut Families<'_, '_>) -> fmt::Result {
        let cpus: Vec<String> = self.cores.iter().map(|core| core.cpu.to_string()).collect();
        let each = |pick: fn(&CoreState) -> u64| {
            self.cores.iter().zip(&cpus).map(move |(core, cpu)| {
                ([("host", core.host.as_str()), ("cpu", cpu.as_str())], pick(core) as f64)
            })
        };
        to.gauge("millrace_core_live", "1 if the core is heard of", each(|c| (c.state == "live").into()))?;
        to.gauge("millrace_core_slots", "Calls the core serves at once", each(|c| c.slots.into()))?;
        to.gauge("millrace_core_leased", "Calls leased to the core", each(|c| c.leased))?;
        to.gauge("millrace_core_credits", "Credits left", each(|c| c.credits))?;
        to.counter("millrace_core_finished", "Calls finished since it connected", each(|c| c.finished))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Ledger;

    #[test]
    fn the_text_is_openmetrics_with_escaped_labels() {
        let row = Ledger::new(8).open("n/a", "a \"tenant\"");
        let mut sums = Sums { cpu_ns: 1_500_000_000, denied: 12, ..Sums::default() };
        sums.executions[Status::Trap as usize] = 3;
        let seen = Seen {
            status: NodeStatus { accepted: 7, shard: Some(2), ..NodeStatus::default() },
            queues: Vec::new(),
            cores: Vec::new(),
            scaling: ScalingState::default(),
            functions: vec![(sums, row)],
            logs: (1, 2),
            waiting: 0,
        };
        let text = seen.text();
        for line in [
            "# TYPE millrace_executions counter",
            "millrace_executions_total{function=\"n/a\",tenant=\"a \\\"tenant\\\"\",status=\"trap\"} 3",
            "millrace_cpu_seconds_total{function=\"n/a\",tenant=\"a \\\"tenant\\\"\"} 1.5",
            "millrace_denied_attempts_total{function=\"n/a\",tenant=\"a \\\"tenant\\\"\"} 12",
            "millrace_calls_accepted_total 7",
            "millrace_shard{shard=\"2\"} 1.0",
            "millrace_records_dropped_total 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
