//! `millrace quota`

use crate::admin::{Admin, Touched, function_name, query};
use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, table};
use crate::regions::everywhere::Everywhere;
use crate::settings::{Connection, Environment};
use crate::shards::Each;
use ::call::admin::{QuotaChange, QuotaState, TenantSpec};
use ::call::function::QuotaKind;

const SHOW: &str = "\
Examples:
  millrace quota show
  millrace quota show media/thumbnail -o json

RATE is what may start, times S if the quota is opportunistic; LIMIT what back-pressure left of it; HELD BY the rule
that holds the function's next call now.";

const SET: &str = "\
Examples:
  millrace quota set thumbnail --cpu 2.5                     # CPU time per time, in cores, over all workers
  millrace quota set thumbnail --kind opportunistic --rate 100
  millrace quota set thumbnail --reset                       # as its function.toml says
  millrace quota set --tenant photos --weight 3

In force when it returns, without a restart and across restarts; a quota of CPU becomes a rate within two seconds. With
`up --regions` each region is told, and each has the whole quota: a region that was not reached is named.";

/// Looks at quotas, or sets them.
#[derive(clap::Subcommand, Debug)]
pub enum Quota {
    /// Show quotas, what is made of them, and what holds calls back
    #[command(after_help = SHOW)]
    Show {
        /// Only of this: NAME or NAMESPACE/NAME [default: all]
        function: Option<String>,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Set a function's quota over its function.toml, or a tenant's weight
    #[command(after_help = SET)]
    Set(Set),
}

/// What kinds there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Kind {
    /// Calls start within seconds while the function is inside its quota
    Reserved,
    /// Calls are done by their deadline, when there is capacity
    Opportunistic,
}

/// `millrace quota set`
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("whose").args(["function", "tenant"]).required(true)))]
#[command(group(clap::ArgGroup::new("what").multiple(true)
    .args(["kind", "cpu", "rate", "burst", "slow_start", "backlog", "backlog_bytes", "reset", "weight"]).required(true)))]
pub struct Set {
    /// NAME or NAMESPACE/NAME
    function: Option<String>,
    /// What is promised
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// CPU time per time over all workers, in cores, like 2.5; 0 for no limit
    #[arg(long, value_name = "CORES", value_parser = millis)]
    cpu: Option<u64>,
    /// Calls per second that may start; 0 for no limit
    #[arg(long, value_name = "CALLS")]
    rate: Option<u64>,
    /// Calls that may start at once above the rate; 0 for a second's
    #[arg(long, value_name = "CALLS")]
    burst: Option<u64>,
    /// Whether beyond 100 calls a minute they grow by 20% a minute at most
    #[arg(long, value_name = "BOOL")]
    slow_start: Option<bool>,
    /// Calls that may be pending at once, of the function or the tenant; 0 for as many as there is room for
    #[arg(long, value_name = "CALLS")]
    backlog: Option<u64>,
    /// Bytes of the calls that may be pending at once; 0 for as many as there is room for
    #[arg(long, value_name = "BYTES")]
    backlog_bytes: Option<u64>,
    /// Forget what was set: function.toml alone is in force
    #[arg(long, conflicts_with_all = ["kind", "cpu", "rate", "burst", "slow_start", "backlog", "backlog_bytes"])]
    reset: bool,
    /// A tenant instead of a function
    #[arg(long, requires = "weight", conflicts_with_all = ["kind", "cpu", "rate", "burst", "slow_start", "reset"])]
    tenant: Option<String>,
    /// Its share beside other tenants' calls of the same criticality
    #[arg(long, requires = "tenant", value_parser = clap::value_parser!(u32).range(1..))]
    weight: Option<u32>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Quota {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Quota::Show { function, output, node } => {
                let path = match function.as_deref().map(function_name).transpose()? {
                    None => "/v1/quotas".to_owned(),
                    Some((namespace, name)) => {
                        format!("/v1/quotas?function={}", query(&format!("{namespace}/{name}")))
                    }
                };
                let ask = |admin: &Admin| admin.get::<Vec<QuotaState>>(&path);
                let mut each = Each::ask(&node, environment, ask)?;
                let quotas = each.by_name(|state| state.function.clone(), add);
                output.print(&quotas, |quotas| show(quotas.iter().map(|whole| &whole.sum)));
                each.end()
            }
            Quota::Set(set) => set.run(environment),
        }
    }
}

impl Set {
    fn run(self, environment: &Environment) -> Done {
        if let (Some(tenant), Some(weight)) = (&self.tenant, self.weight) {
            let path = format!("/v1/tenants/{}", query(tenant));
            let (backlog, backlog_bytes) = (self.backlog.unwrap_or(0), self.backlog_bytes.unwrap_or(0));
            let spec = TenantSpec { weight, backlog, backlog_bytes };
            let put = |admin: &Admin| admin.put::<Touched>(&path, &spec);
            let everywhere = Everywhere::order(&self.node, environment, put)?;
            if let Some(touched) = everywhere.done.first() {
                self.output.print(touched, |_| format!("{tenant}: weight {weight}"));
            }
            return everywhere.end().map(|()| Exit::Ok);
        }
        let path = self.path()?;
        let set = |admin: &Admin| -> Result<Vec<QuotaState>, Failure> {
            match self.reset {
                true => admin.delete(&path),
                false => admin.put(&path, &self.change()),
            }
        };
        let everywhere = Everywhere::order(&self.node, environment, set)?;
        if let Some(quotas) = everywhere.done.first() {
            self.output.print(quotas, |quotas| show(quotas));
        }
        everywhere.end().map(|()| Exit::Ok)
    }

    fn path(&self) -> Result<String, Failure> {
        let (namespace, name) = function_name(self.function.as_deref().unwrap_or_default())?;
        Ok(format!("/v1/quotas/{namespace}/{name}"))
    }

    fn change(&self) -> QuotaChange {
        QuotaChange {
            kind: self.kind.map(|kind| match kind {
                Kind::Reserved => QuotaKind::Reserved,
                Kind::Opportunistic => QuotaKind::Opportunistic,
            }),
            cpu_millis: self.cpu,
            calls_per_s: self.rate,
            burst: self.burst,
            slow_start: self.slow_start,
            backlog: self.backlog,
            backlog_bytes: self.backlog_bytes,
        }
    }
}

/// Cores with up to three digits behind the point, as thousandths.
fn millis(text: &str) -> Result<u64, String> {
    let wrong = || "write cores, like 2.5 or 0.25".to_owned();
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(rest) || rest.len() > 3 {
        return Err(wrong());
    }
    let thousandths: u64 = format!("{rest:0<3}").parse().map_err(|_| wrong())?;
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).and_then(|whole| whole.checked_add(thousandths)).ok_or_else(wrong)
}

/// Thousandths as a number; a dash for none.
pub fn thousandths(of: Option<u64>) -> String {
    of.map_or("-".into(), |of| {
        format!("{}.{:03}", of / 1000, of % 1000).trim_end_matches('0').trim_end_matches('.').to_owned()
    })
}

/// One shard's part is added: each lets its own calls start at its rate.
fn add(sum: &mut QuotaState, part: &QuotaState) {
    let both = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
    sum.cpu_rate = both(sum.cpu_rate, part.cpu_rate);
    sum.rate = both(sum.rate, part.rate);
    sum.limit = both(sum.limit, part.limit);
    if sum.waiting == 0 && part.waiting > 0 {
        sum.rule.clone_from(&part.rule);
    }
    sum.waiting += part.waiting;
    sum.running += part.running;
}

fn show<'a>(quotas: impl IntoIterator<Item = &'a QuotaState>) -> String {
    let row = |state: &QuotaState| {
        let quota = &state.quota;
        let kind = match quota.kind {
            QuotaKind::Reserved => "reserved",
            QuotaKind::Opportunistic => "opportunistic",
        };
        [
            state.function.clone(),
            kind.into(),
            thousandths(Some(quota.cpu_millis).filter(|cpu| *cpu > 0)),
            thousandths(state.rate),
            thousandths(state.limit),
            if state.set == QuotaChange::default() { "function.toml" } else { "set" }.into(),
            state.waiting.to_string(),
            state.running.to_string(),
            state.rule.clone(),
        ]
    };
    let headings = ["function", "kind", "cpu", "rate", "limit", "source", "waiting", "running", "held by"];
    table(headings, quotas.into_iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_shards_are_added_unless_one_has_none() {
        let state = |rate, limit, waiting, rule: &str| QuotaState {
            function: "n/f".into(),
            tenant: "t".into(),
            weight: 1,
            quota: ::call::function::QuotaSpec::default(),
            set: QuotaChange::default(),
            cpu_rate: None,
            rate,
            limit,
            waiting,
            running: 1,
            rule: rule.into(),
        };
        let mut sum = state(Some(500), Some(7), 0, "none");
        add(&mut sum, &state(Some(300), None, 4, "rate"));
        assert_eq!(sum, QuotaState { running: 2, ..state(Some(800), None, 4, "rate") });
    }

    #[test]
    fn cores_are_thousandths_both_ways() {
        assert_eq!((millis("2.5"), millis("0"), millis("0.025")), (Ok(2500), Ok(0), Ok(25)));
        for wrong in ["", ".", "1.", "-1", "1.2345", "x", "99999999999999999999"] {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
        assert_eq!([Some(2500), Some(40_000), Some(7), None].map(thousandths), ["2.5", "40", "0.007", "-"]);
    }
}
