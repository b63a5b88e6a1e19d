//! `millrace queue`

use super::calls;
use crate::admin::{Admin, Touched, function_name, query};
use crate::asked::{Asked, Look};
use crate::bulk::{self, Progress, Where};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::{pairs, table};
use crate::settings::Environment;
use crate::shards::Each;
use crate::times::duration;
use ::call::admin::{CallState, QueueState};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Between two looks at a queue that drains.
const LOOK: Duration = Duration::from_millis(100);

/// Looks at queues, holds them, empties them.
#[derive(clap::Subcommand, Debug)]
pub enum Queue {
    /// List the queues of all functions: how much waits, and for how long
    #[command(
        after_help = "Examples:\n  millrace queue list\n  millrace queue list -o json\n  millrace queue list --watch"
    )]
    List {
        #[command(flatten)]
        look: Look,
    },
    /// Show the queue of one function
    #[command(
        after_help = "Examples:\n  millrace queue show hello\n  millrace queue show media/thumbnail --watch=1s"
    )]
    Show {
        /// NAME or NAMESPACE/NAME
        function: String,
        #[command(flatten)]
        look: Look,
    },
    /// Show the next calls of a function, in order of start time, without taking them
    #[command(
        after_help = "Examples:\n  millrace queue peek hello\n  millrace queue peek media/thumbnail --limit 5\n  \
        millrace queue peek hello --where 'criticality>100 and attempts>0'"
    )]
    Peek {
        /// NAME or NAMESPACE/NAME
        function: String,
        #[command(flatten)]
        which: Where,
        /// How many at most
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        asked: Asked,
    },
    /// Hold the calls of a function, or of all functions of a tenant: accepted, but none begins
    #[command(
        after_help = "Examples:\n  millrace queue pause hello\n  millrace queue pause --tenant shop\n\n\
        It is on disk when this returns, and holds until `resume`; what runs already goes on."
    )]
    Pause(Whose),
    /// Let the calls of a function, or of a tenant's functions, begin again; a function takes new ones again
    #[command(after_help = "Examples:\n  millrace queue resume hello\n  millrace queue resume --tenant shop")]
    Resume(Whose),
    /// Take no new calls of a function, and wait until those that it has have ended
    #[command(
        after_help = "Examples:\n  millrace queue drain hello\n  millrace queue drain hello --due --timeout 10m\n  \
        millrace queue drain hello --open\n\n\
        New calls are refused as `closed` until `millrace queue resume`, also after a restart. Ends with 0 when\n\
        the queue is empty, with 7 if that takes longer than the time-out, with 130 after Ctrl-C; the queue\n\
        stays closed in each case."
    )]
    Drain {
        /// NAME or NAMESPACE/NAME
        function: String,
        /// Do not wait for what is scheduled for later
        #[arg(long)]
        due: bool,
        /// Only wait: go on taking new calls
        #[arg(long)]
        open: bool,
        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
        timeout: Duration,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Whose calls.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["function", "tenant"])))]
pub struct Whose {
    /// NAME or NAMESPACE/NAME
    function: Option<String>,
    /// Those of all functions of this tenant
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

impl Whose {
    fn order(&self, verb: &str, done: &str, environment: &Environment) -> Done {
        let path = match (&self.function, &self.tenant) {
            (Some(function), _) => {
                let (namespace, name) = function_name(function)?;
                format!("/v1/queues/{namespace}/{name}/{verb}")
            }
            (None, tenant) => format!("/v1/tenants/{}/{verb}", query(tenant.as_deref().unwrap_or_default())),
        };
        let say = |touched: &Touched| match touched.count {
            0 => "nothing changed".into(),
            count => format!("{count} functions {done}"),
        };
        let everywhere = self.asked.everywhere(environment, |admin| admin.post::<Touched>(&path))?;
        // The same functions are everywhere.
        let count = everywhere.done.iter().map(|touched| touched.count).max().unwrap_or(0);
        self.asked.output.print(&Touched { count }, say);
        everywhere.end()?;
        Ok(Exit::Ok)
    }
}

impl Queue {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Queue::List { look } => look.each(environment, queues, |each| Ok(sums(each)), |sums| list(sums)),
            Queue::Show { function, look } => {
                look.each(environment, queues, |each| one(each, &function), show)
            }
            Queue::Peek { function, which, limit, asked } => {
                let peeked = |admin: &Admin| peek(admin, &function, &which, limit);
                asked.print_each(
                    environment,
                    peeked,
                    |each| Ok(bulk::list(each, limit)),
                    |peeked| calls::list(peeked),
                )
            }
            Queue::Pause(whose) => whose.order("pause", "are held", environment),
            Queue::Resume(whose) => whose.order("resume", "run again", environment),
            Queue::Drain { function, due, open, timeout, asked } => {
                if !open {
                    let (namespace, name) = function_name(&function)?;
                    let path = format!("/v1/queues/{namespace}/{name}/drain");
                    asked.everywhere(environment, |admin| admin.post::<Touched>(&path))?.end()?;
                }
                let whole = drain(&asked, environment, &function, due, timeout)?;
                asked.output.print(&whole, show);
                Ok(Exit::Ok)
            }
        }
    }
}

/// A function's queue, of all shards together, and each shard's part of it.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    sum: QueueState,
    /// Empty if the node is not divided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shards: Vec<QueueState>,
}

/// The queues as one shard has them.
fn queues(admin: &Admin) -> Result<Vec<QueueState>, Failure> {
    admin.get("/v1/queues")
}

/// The queues by function.
fn sums(each: &Each<Vec<QueueState>>) -> Vec<Whole> {
    let mut sums: Vec<Whole> = Vec::new();
    for queue in each.said.iter().flatten() {
        let known = sums.iter_mut().find(|whole| whole.sum.function == queue.function);
        match known {
            Some(Whole { sum, shards }) => {
                sum.scheduled += queue.scheduled;
                sum.due += queue.due;
                sum.leased += queue.leased;
                sum.dead += queue.dead;
                sum.oldest_due_ms = sum.oldest_due_ms.max(queue.oldest_due_ms);
                sum.bytes += queue.bytes;
                sum.closed |= queue.closed;
                if sum.paused.is_empty() {
                    sum.paused = queue.paused.clone();
                }
                shards.push(queue.clone());
            }
            None => {
                let shards = if each.is_divided { vec![queue.clone()] } else { Vec::new() };
                sums.push(Whole { sum: QueueState { shard: None, ..queue.clone() }, shards });
            }
        }
    }
    sums
}

/// The queue of one function.
fn one(each: &Each<Vec<QueueState>>, function: &str) -> Result<Whole, Failure> {
    let (namespace, name) = function_name(function)?;
    let whole = format!("{namespace}/{name}");
    sums(each).into_iter().find(|queue| queue.sum.function == whole).ok_or_else(|| {
        let what = format!("no function {whole} has a queue");
        Failure::new(Exit::NotFound, what, function, "`millrace queue list` shows those that have")
    })
}

/// What waits first, of all or of what the filter means.
fn peek(admin: &Admin, function: &str, which: &Where, limit: u32) -> Result<Vec<CallState>, Failure> {
    let (namespace, name) = function_name(function)?;
    if which.checked()?.is_none() {
        return admin.get(&format!("/v1/queues/{namespace}/{name}/peek?limit={limit}"));
    }
    let waits = "(state=scheduled or state=queued or state=buffered or state=retrying)";
    Ok(bulk::find(admin, &which.and(&format!("function={namespace}/{name} and {waits}"))?, limit)?.calls)
}

fn drain(
    asked: &Asked,
    environment: &Environment,
    function: &str,
    due: bool,
    timeout: Duration,
) -> Result<Whole, Failure> {
    interrupt::flag();
    let until = Instant::now() + timeout;
    let mut progress = Progress::new();
    loop {
        let each = asked.each(environment, queues)?;
        let whole = one(&each, function)?;
        let state = &whole.sum;
        let left = state.due + state.leased + if due { 0 } else { state.scheduled };
        // What a shard holds that does not answer is not known: it is waited for.
        if left == 0 && each.is_whole() {
            return Ok(whole);
        }
        let held = if state.paused.is_empty() { "" } else { "; a pause holds them: `millrace queue resume`" };
        progress.say(|| format!("{left} calls are left, {} of them run{held}", state.leased));
        if interrupt::is_asked() {
            drop(progress);
            return Err(interrupt::failure(function));
        }
        if Instant::now() >= until {
            let what = format!("{left} calls are left after {}", humantime::format_duration(timeout));
            let remedy = match state.paused.as_str() {
                "" => "`millrace queue show` and `millrace explain CALL` say what holds them",
                _ => "they are paused: `millrace queue resume` lets them run, and takes new calls again",
            };
            return Err(Failure::new(Exit::TimedOut, what, function, remedy));
        }
        std::thread::sleep(LOOK);
    }
}

fn show(whole: &Whole) -> String {
    let queue = &whole.sum;
    let text = pairs([
        ("function", queue.function.clone()),
        ("scheduled", queue.scheduled.to_string()),
        ("due", queue.due.to_string()),
        ("leased", queue.leased.to_string()),
        ("dead", queue.dead.to_string()),
        ("oldest due", format!("{} ms", queue.oldest_due_ms)),
        ("paused", if queue.paused.is_empty() { "no".into() } else { format!("by {}", queue.paused) }),
        ("new calls", if queue.closed { "refused: it drains" } else { "taken" }.into()),
    ]);
    match whole.shards.is_empty() {
        true => text,
        false => format!("{text}\n{}", list(std::slice::from_ref(whole))),
    }
}

fn list(queues: &[Whole]) -> String {
    let row = |queue: &QueueState| {
        [
            queue.function.clone(),
            queue.scheduled.to_string(),
            queue.due.to_string(),
            queue.leased.to_string(),
            queue.dead.to_string(),
            format!("{} ms", queue.oldest_due_ms),
            queue.paused.clone(),
        ]
    };
    if queues.iter().all(|whole| whole.shards.is_empty()) {
        let headings = ["function", "scheduled", "due", "leased", "dead", "oldest due", "paused by"];
        return table(headings, queues.iter().map(|whole| row(&whole.sum)));
    }
    let placed = |queue: &QueueState| {
        let [function, scheduled, due, leased, dead, oldest, paused] = row(queue);
        let shard = queue.shard.map_or("all".into(), |shard| shard.to_string());
        [function, shard, scheduled, due, leased, dead, oldest, paused]
    };
    let headings = ["function", "shard", "scheduled", "due", "leased", "dead", "oldest due", "paused by"];
    let all = queues.iter().flat_map(|whole| std::iter::once(&whole.sum).chain(&whole.shards));
    table(headings, all.map(placed))
}
