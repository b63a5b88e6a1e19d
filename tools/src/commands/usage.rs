//! `millrace usage`

use crate::admin::{function_name, query};
use crate::exit::{Done, Failure};
use crate::output::{Output, pairs, table};
use crate::settings::{Connection, Environment};
use crate::shards::Each;
use crate::times::short;
use ::control::accounts::{Grouping, UsageReport, UsageRow};

const EXAMPLES: &str = "\
Examples:
  millrace usage                                   # each function, since the beginning
  millrace usage --by tenant --since 30days -o json
  millrace usage thumbnail media/resize --since 2026-11-01T00:00:00Z

Usage by the hour is kept for 32 days; --since counts from the beginning of its hour.";

/// What rows are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum By {
    /// A row for each function and tenant
    Function,
    /// A row for each tenant
    Tenant,
}

/// Shows what functions used.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Usage {
    /// Only of these: NAME or NAMESPACE/NAME [default: all]
    #[arg(value_name = "FUNCTION")]
    functions: Vec<String>,
    /// Only of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// What rows are made of
    #[arg(long, value_enum, default_value_t = By::Function)]
    by: By,
    /// From the hour of this time on: 24h, 30days, 2026-11-01T00:00:00Z [default: the beginning]
    #[arg(long, value_name = "DURATION|TIME")]
    since: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Usage {
    pub fn run(self, environment: &Environment) -> Done {
        let path = self.path()?;
        let mut each = Each::ask(&self.node, environment, |admin| admin.get::<UsageReport>(&path))?;
        let report = each.said.drain(..).reduce(UsageReport::and).expect("one answered");
        if !report.complete {
            eprintln!(
                "millrace: usage is not known from the asked time on, but from {}",
                super::calls::time(report.from)
            );
        }
        self.output.print(&report, show);
        each.end()
    }

    fn path(&self) -> Result<String, Failure> {
        let names = self
            .functions
            .iter()
            .map(|text| function_name(text).map(|(namespace, name)| query(&format!("{namespace}/{name}"))));
        let names = names.collect::<Result<Vec<_>, _>>()?.join(",");
        let by = if self.by == By::Tenant { "tenant" } else { "function" };
        let mut path = format!("/v1/usage?by={by}");
        let terms = [
            ("function", Some(names).filter(|names| !names.is_empty())),
            ("tenant", self.tenant.as_deref().map(query)),
            ("since", self.since.as_deref().map(query)),
        ];
        for (key, value) in terms {
            path.extend(value.map(|value| format!("&{key}={value}")));
        }
        Ok(path)
    }
}

fn show(report: &UsageReport) -> String {
    let row = |row: &UsageRow| {
        let name = if report.by == Grouping::Function { &row.function } else { &row.tenant };
        let failed = row.executions - row.executions_by_status.get("ok").copied().unwrap_or(0);
        [
            name.clone(),
            row.tenant.clone(),
            row.calls.to_string(),
            row.executions.to_string(),
            failed.to_string(),
            row.cold_starts.to_string(),
            format!("{:.3}", row.cpu_ms),
            format!("{:.3}", row.memory_mb_s),
            format!("{:.6}", row.gb_out),
        ]
    };
    let mut total = report.total.clone();
    (total.function, total.tenant) =
        ("total".into(), if report.by == Grouping::Function { "-" } else { "total" }.into());
    let rows = report.rows.iter().map(row).chain((report.rows.len() > 1).then(|| row(&total)));
    let text = if report.by == Grouping::Function {
        let headings =
            ["function", "tenant", "calls", "executions", "failed", "cold", "cpu ms", "mb s", "gb out"];
        table(headings, rows)
    } else {
        let headings = ["tenant", "calls", "executions", "failed", "cold", "cpu ms", "mb s", "gb out"];
        table(headings, rows.map(|[_, rest @ ..]| rest))
    };
    let from = format!("{} ({} of CPU)", super::calls::time(report.from), short(report.total.cpu_ns));
    format!("{}\n{text}", pairs([("since", from)]))
}
