//! Routes of the operator: queues, dead letters, workers, the node.

use crate::admin::error::{ApiError, Reply};
use crate::admin::functions::Touched;
use crate::admin::http::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use call::admin::{Answer, Ask, CallState, CoreState, NodeStatus, QueueState};
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

/// Query of a redrive: of one function, of one call, or, with neither, of all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Only of this function.
    function: Option<String>,
    /// Only this call.
    call: Option<String>,
}

/// `POST /v1/dead-letters/redrive?function=&call=`
pub async fn redrive(
    State(admin): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<Touched>> {
    let Query(Which { function, call }) = which?;
    count(&admin, Ask::Redrive { function, call }).await
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
