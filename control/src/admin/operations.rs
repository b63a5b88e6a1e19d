//! Routes of the operator: queues, dead letters, workers, the node.

use crate::admin::error::{ApiError, Reply};
use crate::admin::functions::Touched;
use crate::admin::http::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use call::admin::{Answer, Ask, CallPage, CallState, CoreState, Hold, NodeStatus, Ordered, QueueState, Verb};
use serde::Deserialize;

/// Calls in one answer, if the query does not say.
const LIMIT: u32 = 100;
/// Calls in one answer at most: the ring thread makes it in one round.
const LIMIT_MAX: u32 = 10_000;

/// `GET /v1/status`
pub async fn status(State(admin): State<Shared>) -> Reply<Json<NodeStatus>> {
    match admin.link.ask(Ask::Status).await? {
        Answer::Status(status) => Ok(Json(status)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `GET /v1/queues`
pub async fn queues(State(admin): State<Shared>) -> Reply<Json<Vec<QueueState>>> {
    match admin.link.ask(Ask::Queues).await? {
        Answer::Queues(queues) => Ok(Json(queues)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `GET /v1/workers`
pub async fn workers(State(admin): State<Shared>) -> Reply<Json<Vec<CoreState>>> {
    match admin.link.ask(Ask::Workers).await? {
        Answer::Workers(workers) => Ok(Json(workers)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// Query of a list of calls.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Only of this function.
    function: Option<String>,
    /// How many at most.
    limit: Option<u32>,
}

impl Listing {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(LIMIT).min(LIMIT_MAX)
    }
}

/// Query of a peek.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Depth {
    /// How many at most.
    limit: Option<u32>,
}

/// `GET /v1/queues/{namespace}/{name}/peek?limit=`
pub async fn peek(
    State(admin): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    depth: Result<Query<Depth>, QueryRejection>,
) -> Reply<Json<Vec<CallState>>> {
    let limit = depth?.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    calls(&admin, Ask::Peek { function: format!("{namespace}/{name}"), limit }).await
}

/// `GET /v1/dead-letters?function=&limit=`
pub async fn dead_letters(
    State(admin): State<Shared>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Reply<Json<Vec<CallState>>> {
    let Query(listing) = listing?;
    calls(&admin, Ask::DeadLetters { limit: listing.limit(), function: listing.function }).await
}

async fn calls(admin: &Shared, ask: Ask) -> Reply<Json<Vec<CallState>>> {
    match admin.link.ask(ask).await? {
        Answer::Calls(calls) => Ok(Json(calls)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// Query of a list of calls by filter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Which; see [`call::filter`]. All if absent.
    r#where: Option<String>,
    /// How many at most.
    limit: Option<u32>,
    /// The `next` of an earlier page.
    after: Option<String>,
}

/// `GET /v1/calls?where=&limit=&after=`
pub async fn find(
    State(admin): State<Shared>,
    search: Result<Query<Search>, QueryRejection>,
) -> Reply<Json<CallPage>> {
    let Query(Search { r#where, limit, after }) = search?;
    let filter = r#where.unwrap_or_else(|| EVERY.into());
    match admin.link.ask(Ask::Find { filter, limit: limit.unwrap_or(LIMIT), after }).await? {
        Answer::Found(page) => Ok(Json(page)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// A filter that every call passes.
const EVERY: &str = "attempts>=0";
/// Calls looked at between two asks, where the client wants to hear of the end only.
const EXAMINE: u64 = 1 << 20;

/// Query of an order about calls: those of one function, one call, those of a filter, or all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Only of this function.
    function: Option<String>,
    /// Only this call.
    call: Option<String>,
    /// Only these; see [`call::filter`].
    r#where: Option<String>,
    /// All that it can be done to.
    #[serde(default)]
    all: bool,
    /// Only count them.
    #[serde(default)]
    dry_run: bool,
    /// Where to begin: the `next` of an earlier answer.
    #[serde(default)]
    from: u64,
    /// Answer when so many calls have been looked at; when all have been, if absent.
    examine: Option<u64>,
}

impl Which {
    /// What cannot be taken back is done only to what was named.
    fn said(self) -> Reply<Which> {
        if self.all || self.function.is_some() || self.call.is_some() || self.r#where.is_some() {
            return Ok(self);
        }
        let remedy = "give `where`, `function`, `call`, or all=true";
        Err(ApiError::unprocessable("the query does not say which calls are meant", remedy))
    }

    /// What `function` and `where` say together.
    fn filter(&self) -> Option<String> {
        let function = self.function.as_ref().map(|name| {
            let whole = if name.contains('/') { name.clone() } else { format!("default/{name}") };
            format!("function='{}'", whole.replace(['\\', '\''], ""))
        });
        match (function, &self.r#where) {
            (Some(function), Some(filter)) => Some(format!("{function} and ({filter})")),
            (function, filter) => function.or_else(|| filter.clone()),
        }
    }
}

/// `POST /v1/dead-letters/redrive?function=&call=&where=&dry_run=&from=&examine=`
pub async fn redrive(
    State(admin): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<Ordered>> {
    let Query(which) = which?;
    match &which.call {
        Some(call) => one(&admin, Ask::Redrive { call: call.clone() }).await,
        None => many(&admin, Verb::Redrive, &which).await,
    }
}

/// `POST /v1/dead-letters/purge?function=&call=&where=&all=&dry_run=&from=&examine=`
pub async fn purge(
    State(admin): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<Ordered>> {
    let which = which?.0.said()?;
    match &which.call {
        Some(call) => one(&admin, Ask::Purge { call: call.clone() }).await,
        None => many(&admin, Verb::Purge, &which).await,
    }
}

/// `POST /v1/calls/retry?function=&call=&where=&all=&dry_run=&from=&examine=`
pub async fn retry(
    State(admin): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<Ordered>> {
    let which = which?.0.said()?;
    match &which.call {
        Some(call) => one(&admin, Ask::Retry { call: call.clone() }).await,
        None => many(&admin, Verb::Retry, &which).await,
    }
}

/// `POST /v1/calls/cancel?function=&call=&where=&all=&dry_run=&from=&examine=`
pub async fn cancel(
    State(admin): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<Ordered>> {
    let which = which?.0.said()?;
    match &which.call {
        Some(call) => one(&admin, Ask::Cancel { call: call.clone(), wait_ms: 0 }).await,
        None => many(&admin, Verb::Cancel, &which).await,
    }
}

/// An order about one call.
async fn one(admin: &Shared, ask: Ask) -> Reply<Json<Ordered>> {
    match admin.link.ask(ask).await? {
        Answer::Done { count } => Ok(Json(Ordered { count, matched: count, ..Ordered::default() })),
        Answer::Call(_) => Ok(Json(Ordered { count: 1, matched: 1, ..Ordered::default() })),
        other => Err(ApiError::unexpected(other)),
    }
}

/// An order about many: up to as many as the query says, or to the end.
async fn many(admin: &Shared, verb: Verb, which: &Which) -> Reply<Json<Ordered>> {
    if let Some(function) = &which.function {
        // One that never had calls is told, not passed over.
        drop(calls(admin, Ask::DeadLetters { function: Some(function.clone()), limit: 0 }).await?);
    }
    let mut sum = Ordered { next: Some(which.from), ..Ordered::default() };
    while let Some(from) = sum.next {
        let examine = which.examine.unwrap_or(EXAMINE);
        let ask = Ask::Order { verb, filter: which.filter(), dry_run: which.dry_run, from, examine };
        match admin.link.ask(ask).await? {
            Answer::Ordered(part) => {
                sum = Ordered {
                    count: sum.count + part.count,
                    matched: sum.matched + part.matched,
                    examined: sum.examined + part.examined,
                    unknown: sum.unknown + part.unknown,
                    ..part
                }
            }
            other => return Err(ApiError::unexpected(other)),
        }
        if which.examine.is_some() {
            break;
        }
    }
    Ok(Json(sum))
}

/// Query of a hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// How long.
    ms: u64,
}

/// `POST /v1/hold?ms=`
pub async fn hold(
    State(admin): State<Shared>,
    time: Result<Query<Time>, QueryRejection>,
) -> Reply<Json<Hold>> {
    let Query(Time { ms }) = time?;
    match admin.link.ask(Ask::Hold { ms }).await? {
        Answer::Held(held) => Ok(Json(Hold { directory: admin.root.display().to_string(), ..held })),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `POST /v1/drain`: answered when nothing is leased any more; then the node ends.
pub async fn drain(State(admin): State<Shared>) -> Reply<Json<Touched>> {
    count(&admin, Ask::Drain).await
}

async fn count(admin: &Shared, ask: Ask) -> Reply<Json<Touched>> {
    match admin.link.ask(ask).await? {
        Answer::Done { count } => Ok(Json(Touched { count })),
        other => Err(ApiError::unexpected(other)),
    }
}
