//! Routes of logs.

use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use crate::admin::usage::past;
use crate::logs::{Cursor, LogCounts, LogPage, LogQuery, Writer, read};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use call::CallId;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// Where logs are, and how one hears of more.
pub struct Logs {
    root: PathBuf,
    grown: watch::Receiver<u64>,
    /// What was written and dropped.
    pub counts: Arc<LogCounts>,
}

impl Logs {
    /// Of this writer.
    pub fn new(root: PathBuf, writer: &Writer) -> Logs {
        Logs { root, grown: writer.grown(), counts: writer.counts() }
    }
}

/// Who follows a log asks again after so long at the latest.
const WAIT_MS_MAX: u64 = 60_000;
/// Between two looks at a log that does not grow while others do.
const PAUSE: Duration = Duration::from_millis(50);
/// Readers at once: each may hold a segment and a page in memory.
pub const READERS_MAX: usize = 4;

/// Query of a look at logs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Only of this call.
    call: Option<String>,
    /// Only not older.
    since: Option<String>,
    /// Only the last so many.
    tail: Option<usize>,
    /// `next` of the page before.
    after: Option<String>,
    /// If there is nothing, answer when there is, or after so many ms.
    #[serde(default)]
    wait_ms: u64,
}

impl Which {
    fn query(&self, function: String) -> Reply<LogQuery> {
        let bad = |place: &str, why: String| {
            ApiError::unprocessable(format!("{place}: {why}"), "correct the named parameter")
        };
        let call: Option<CallId> = self
            .call
            .as_ref()
            .map(|text| text.parse())
            .transpose()
            .map_err(|e| bad("call", format!("{e}")))?;
        let after: Option<Cursor> =
            self.after.as_ref().map(|text| text.parse()).transpose().map_err(|e| bad("after", e))?;
        let since = past("since", self.since.as_deref())?.unwrap_or(0);
        Ok(LogQuery { function, call, since, tail: self.tail, after })
    }
}

/// `GET /v1/functions/{namespace}/{name}/logs?call=&since=&tail=&after=&wait_ms=`
pub async fn show(
    State(admin): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<LogPage>> {
    let Query(which) = which?;
    let function = format!("{namespace}/{name}");
    let mut query = which.query(function.clone())?;
    let until = Instant::now() + Duration::from_millis(which.wait_ms.min(WAIT_MS_MAX));
    let mut grown = admin.logs.grown.clone();
    loop {
        grown.mark_unchanged();
        let mut page = look(&admin, query.clone()).await?;
        if page.records.is_empty() && query.after.is_none() {
            known(&admin, &namespace, &name).await?;
        }
        if !page.records.is_empty() || page.more || Instant::now() >= until {
            page.dropped = dropped(&admin, &function);
            return Ok(Json(page));
        }
        // Not from the beginning again.
        query.after = page.next.parse().ok();
        // The writer has ended with the node, or time is up: the next look is the last.
        let _ = timeout_at(until, grown.changed()).await;
        sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

async fn look(admin: &Shared, query: LogQuery) -> Reply<LogPage> {
    let permit = admin.readers.clone().acquire_owned().await;
    let root = admin.logs.root.clone();
    let read = tokio::task::spawn_blocking(move || {
        let page = read(&root, &query);
        drop(permit);
        page
    });
    let page = read.await.map_err(|error| ApiError::from_answer("internal".into(), error.to_string()))?;
    page.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => {
            ApiError::not_found("no function can be called so", "check the name")
        }
        _ => error.into(),
    })
}

/// A function without logs is one thing, one that is not there another.
async fn known(admin: &Admin, namespace: &str, name: &str) -> Reply<()> {
    if admin.catalog.lock().await.get(namespace, name).is_some() {
        return Ok(());
    }
    let message = format!("no function {namespace}/{name} is deployed, and it left no logs");
    Err(ApiError::not_found(message, "GET /v1/functions lists what there is"))
}

fn dropped(admin: &Admin, function: &str) -> u64 {
    let rows = admin.book.ledger().rows();
    rows.iter().filter(|row| row.function == function).map(|row| row.logs_dropped()).sum()
}
