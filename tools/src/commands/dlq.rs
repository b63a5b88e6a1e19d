//! `millrace dlq`

use super::calls;
use crate::admin::{function_name, query};
use crate::bulk::{self, Act, Consent, Where};
use crate::exit::{Done, Exit, Failure};
use crate::output::Output;
use crate::settings::{Connection, Environment};
use crate::watch::Watch;
use ::call::CallId;
use ::call::admin::{CallState, Ordered};

/// Looks at dead letters, runs them again, or forgets them.
#[derive(clap::Subcommand, Debug)]
pub enum Dlq {
    /// List calls that were given up, and why
    #[command(
        after_help = "Examples:\n  millrace dlq list\n  millrace dlq list --function hello --limit 5 -o json\n  \
        millrace dlq list --where 'age>1h and error~timeout' --watch=5s"
    )]
    List {
        /// Only of this function: NAME or NAMESPACE/NAME
        #[arg(long)]
        function: Option<String>,
        #[command(flatten)]
        which: Where,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        watch: Watch,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Show one dead letter: why it was given up, what it wrote
    #[command(after_help = "Examples:\n  millrace dlq show 019a9f3c2b7e5d0a4c1f8e6b3d2a1908")]
    Show {
        /// 32 hexadecimal digits
        id: CallId,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Make dead letters pending again, with all their attempts
    #[command(after_help = "Examples:\n  millrace dlq redrive --function hello\n  \
        millrace dlq redrive --call 019a9f3c2b7e5d0a4c1f8e6b3d2a1908\n  millrace dlq redrive --all\n  \
        millrace dlq redrive --where 'function=thumb* and error~timeout' --dry-run\n\n\
        With --where, the calls are counted and you are asked, unless you say --yes.")]
    Redrive(Letters),
    /// Forget dead letters for good
    #[command(after_help = "Examples:\n  millrace dlq purge --where 'age>7d' --dry-run\n  \
        millrace dlq purge --where 'age>7d' --yes\n  \
        millrace dlq purge --call 019a9f3c2b7e5d0a4c1f8e6b3d2a1908\n\n\
        Unless it is one call, they are counted and you are asked, unless you say --yes.")]
    Purge(Letters),
}

/// Which dead letters.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["function", "call", "all", "filter"])))]
pub struct Letters {
    /// Those of this function: NAME or NAMESPACE/NAME
    #[arg(long, conflicts_with_all = ["call", "all"])]
    function: Option<String>,
    /// This call
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "filter"])]
    call: Option<CallId>,
    /// All of them
    #[arg(long, conflicts_with = "filter")]
    all: bool,
    #[command(flatten)]
    which: Where,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

const REDRIVE: Act = Act { path: "/v1/dead-letters/redrive", verb: "redrive", done: "pending again" };
const PURGE: Act = Act { path: "/v1/dead-letters/purge", verb: "purge", done: "forgotten" };

impl Dlq {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Dlq::List { function, which, limit, watch, output, node } => {
                let filter = which.checked()?;
                let only = only(function.as_deref())?;
                let admin = node.admin(environment)?;
                watch.run(|| {
                    let letters = match filter {
                        Some(_) => bulk::find(&admin, &filter_of(function.as_deref(), &which)?, limit)?.calls,
                        None => {
                            let only = only.as_ref().map_or(String::new(), |only| format!("&{only}"));
                            admin.get::<Vec<CallState>>(&format!("/v1/dead-letters?limit={limit}{only}"))?
                        }
                    };
                    if filter.is_none() && letters.len() as u32 == limit {
                        eprintln!(
                            "millrace: the first {limit} are shown, there may be more; --limit shows more"
                        );
                    }
                    output.print(&letters, |letters| calls::list(letters));
                    Ok(Exit::Ok)
                })
            }
            Dlq::Show { id, output, node } => {
                let call: CallState = node.admin(environment)?.get(&format!("/v1/calls/{id}"))?;
                if call.state != "dead" {
                    let what = format!("the call is no dead letter: it is {}", call.state);
                    let remedy = "`millrace calls show ID` shows it";
                    return Err(Failure::new(Exit::NotFound, what, format!("call {id}"), remedy));
                }
                output.print(&call, calls::show);
                Ok(Exit::Ok)
            }
            Dlq::Redrive(letters) => letters.order(REDRIVE, environment),
            Dlq::Purge(letters) => letters.order(PURGE, environment),
        }
    }
}

impl Letters {
    /// One call is done at once. What a function's name or `--all` means can be redriven without a question: nothing is
    /// lost by it.
    fn order(&self, act: Act, environment: &Environment) -> Done {
        let filter = self.which.checked()?;
        let only = only(self.function.as_deref())?;
        let admin = self.node.admin(environment)?;
        if let Some(call) = self.call {
            let one: Ordered = admin.post(&format!("{}?call={call}", act.path))?;
            self.output.print(&one, |one| format!("{} calls are {}", one.count, act.done));
            return Ok(Exit::Ok);
        }
        let filter = filter.map(|filter| format!("where={}", query(filter)));
        let all = self.all.then(|| "all=true".to_owned());
        let which: Vec<String> = [only, filter.clone(), all].into_iter().flatten().collect();
        let harmless = act.path == REDRIVE.path && filter.is_none();
        let consent = Consent { yes: self.consent.yes || harmless, ..self.consent };
        bulk::order(&admin, act, &which.join("&"), consent, &self.output)
    }
}

/// What is meant by a function's name and a filter together.
fn filter_of(function: Option<&str>, which: &Where) -> Result<String, Failure> {
    let Some(text) = function else { return which.and("state=dead") };
    let (namespace, name) = function_name(text)?;
    which.and(&format!("state=dead and function={namespace}/{name}"))
}

/// The query for one function.
fn only(function: Option<&str>) -> Result<Option<String>, Failure> {
    let Some(text) = function else { return Ok(None) };
    let (namespace, name) = function_name(text)?;
    Ok(Some(format!("function={}", query(&format!("{namespace}/{name}")))))
}
