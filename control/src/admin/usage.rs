//! Routes of `/v1/usage`.

use crate::accounts::book::wall;
use crate::accounts::{Grouping, UsageQuery, UsageReport};
use crate::admin::calls::time;
use crate::admin::error::{ApiError, Reply};
use crate::admin::http::Shared;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use call::WallTime;
use serde::Deserialize;

/// Query of a look at usage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Only of these functions, separated by commas.
    function: Option<String>,
    /// Only of this tenant.
    tenant: Option<String>,
    /// What rows are made of.
    #[serde(default)]
    by: Grouping,
    /// From the hour of this time on.
    since: Option<String>,
}

/// `GET /v1/usage?function=&tenant=&by=&since=`
pub async fn show(
    State(admin): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<UsageReport>> {
    let Query(which) = which?;
    let since = past("since", which.since.as_deref())?;
    let named = which.function.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty());
    let whole = |name: &str| if name.contains('/') { name.to_owned() } else { format!("default/{name}") };
    let query =
        UsageQuery { functions: named.map(whole).collect(), tenant: which.tenant, by: which.by, since };
    // It may read a month of files.
    let report = tokio::task::spawn_blocking(move || admin.book.report(&query, wall()))
        .await
        .map_err(|error| ApiError::from_answer("internal".into(), error.to_string()))??;
    Ok(Json(report))
}

/// Unix nanoseconds of a time, or of so long ago; `None` if not given.
pub fn past(place: &str, text: Option<&str>) -> Reply<Option<u64>> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Some(wall().0.saturating_sub(call::time::nanos(ago))));
    }
    time(place, Some(text), WallTime(0)).map(|at| Some(at.0))
}
