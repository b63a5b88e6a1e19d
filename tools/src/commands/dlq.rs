//! `millrace dlq`

use super::calls;
use crate::admin::{Admin, function_name, query};
use crate::asked::{Asked, Look};
use crate::bulk::{self, Act, Bulk, Consent, Where};
use crate::exit::{Done, Exit, Failure};
use crate::settings::Environment;
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
        look: Look,
    },
    /// Show one dead letter: why it was given up, what it wrote
    #[command(after_help = "Examples:\n  millrace dlq show 019a9f3c2b7e5d0a4c1f8e6b3d2a1908")]
    Show {
        /// 32 hexadecimal digits
        id: CallId,
        #[command(flatten)]
        asked: Asked,
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
    bulk: Bulk,
}

const REDRIVE: Act = Act { path: "/v1/dead-letters/redrive", verb: "redrive", done: "pending again" };
const PURGE: Act = Act { path: "/v1/dead-letters/purge", verb: "purge", done: "forgotten" };

impl Dlq {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Dlq::List { function, which, limit, look } => {
                let only = only(function.as_deref())?;
                let filter = filter_of(function.as_deref(), &which)?;
                let letters = |admin: &Admin| match which.filter {
                    Some(_) => Ok(bulk::find(admin, &filter, limit)?.calls),
                    None => first(admin, only.as_deref(), limit),
                };
                look.each(
                    environment,
                    letters,
                    |each| Ok(bulk::list(each, limit)),
                    |letters| calls::list(letters),
                )
            }
            Dlq::Show { id, asked } => {
                let letter = |admin: &Admin| {
                    let call: CallState = admin.get(&format!("/v1/calls/{id}"))?;
                    if call.state == "dead" {
                        return Ok(call);
                    }
                    let what = format!("the call is no dead letter: it is {}", call.state);
                    let remedy = "`millrace calls show ID` shows it";
                    Err(Failure::new(Exit::NotFound, what, format!("call {id}"), remedy))
                };
                asked.print(environment, letter, calls::show)
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
        let Bulk { which, consent, asked } = &self.bulk;
        let filter = which.checked()?;
        let only = only(self.function.as_deref())?;
        if let Some(call) = self.call {
            let admin = asked.admin(environment)?;
            let one: Ordered = admin.post(&format!("{}?call={call}", act.path))?;
            asked.output.print(&one, |one| format!("{} calls are {}", one.count, act.done));
            return Ok(Exit::Ok);
        }
        let filter = filter.map(|filter| format!("where={}", query(filter)));
        let all = self.all.then(|| "all=true".to_owned());
        let which: Vec<String> = [only, filter.clone(), all].into_iter().flatten().collect();
        let harmless = act.path == REDRIVE.path && filter.is_none();
        let consent = Consent { yes: consent.yes || harmless, ..*consent };
        bulk::order(asked, environment, act, &which.join("&"), consent)
    }
}

/// The first dead letters, of one function or of all.
fn first(admin: &Admin, only: Option<&str>, limit: u32) -> Result<Vec<CallState>, Failure> {
    let only = only.map_or(String::new(), |only| format!("&{only}"));
    let letters: Vec<CallState> = admin.get(&format!("/v1/dead-letters?limit={limit}{only}"))?;
    if letters.len() as u32 == limit {
        eprintln!("millrace: the first {limit} are shown, there may be more; --limit shows more");
    }
    Ok(letters)
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
