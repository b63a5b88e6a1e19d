//! Routes about what holds calls back: quotas, tenants, services, locality, one call's reason, and the controllers'.

use crate::admin::error::{ApiError, Reply};
use crate::admin::functions::{Name, Touched};
use crate::admin::http::{Admin, Shared};
use crate::admin::shaping_file::ShapingError;
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use call::admin::{
    Answer, Ask, Conclusions, DownstreamSpec, DownstreamState, LocalityState, Observation, QuotaChange,
    QuotaState, ScalingState, TenantSpec, Whose, Why,
};
use call::function::shaping::{QUOTA_CPU_MILLIS_MAX, RATE_MAX};
use call::limits::NAME_BYTES_MAX;
use serde::Deserialize;

/// Query of a list of quotas.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Only of this function.
    function: Option<String>,
}

/// `GET /v1/quotas?function=`
pub async fn quotas(
    State(admin): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Reply<Json<Vec<QuotaState>>> {
    let function = which?.0.function;
    quota_states(admin.link.ask(Ask::Quotas { function }).await?)
}

/// `PUT /v1/quotas/{namespace}/{name}`: on disk and in force when answered. What is absent stays as it was set.
pub async fn set_quota(
    State(admin): State<Shared>,
    Path((namespace, name)): Name,
    change: Result<Json<QuotaChange>, JsonRejection>,
) -> Reply<Json<Vec<QuotaState>>> {
    let Json(change) = change?;
    check("cpu_millis", change.cpu_millis, QUOTA_CPU_MILLIS_MAX)?;
    check("calls_per_s", change.calls_per_s, RATE_MAX)?;
    check("burst", change.burst, RATE_MAX)?;
    change_quota(&admin, format!("{namespace}/{name}"), Some(&change)).await
}

/// `DELETE /v1/quotas/{namespace}/{name}`: the manifest's quota is in force again.
pub async fn reset_quota(
    State(admin): State<Shared>,
    Path((namespace, name)): Name,
) -> Reply<Json<Vec<QuotaState>>> {
    change_quota(&admin, format!("{namespace}/{name}"), None).await
}

async fn change_quota(
    admin: &Admin,
    function: String,
    change: Option<&QuotaChange>,
) -> Reply<Json<Vec<QuotaState>>> {
    let mut file = admin.shaping.lock().await;
    // Nothing is kept about a function that is not there.
    drop(quota_states(admin.link.ask(Ask::Quotas { function: Some(function.clone()) }).await?)?);
    let change = file.quota(&function, change)?;
    quota_states(admin.link.ask(Ask::QuotaSet { function, change }).await?)
}

fn quota_states(answer: Answer) -> Reply<Json<Vec<QuotaState>>> {
    match answer {
        Answer::Quotas(quotas) => Ok(Json(quotas)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `PUT /v1/tenants/{tenant}`
pub async fn set_tenant(
    State(admin): State<Shared>,
    Path(tenant): Path<String>,
    spec: Result<Json<TenantSpec>, JsonRejection>,
) -> Reply<Json<Touched>> {
    let Json(spec) = spec?;
    check_name("tenant", &tenant)?;
    if !(1..=scheduler::WEIGHT_MAX).contains(&spec.weight) {
        let message = format!("weight: is {}, must be between 1 and {}", spec.weight, scheduler::WEIGHT_MAX);
        return Err(ApiError::unprocessable(message, "correct the named field"));
    }
    let mut file = admin.shaping.lock().await;
    file.tenant(&tenant, spec)?;
    match admin.link.ask(Ask::TenantSet { tenant, spec }).await? {
        Answer::Done { count } => Ok(Json(Touched { count })),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `POST /v1/queues/{namespace}/{name}/pause`: on disk and in force when answered.
pub async fn pause_function(State(admin): State<Shared>, Path(name): Name) -> Reply<Json<Touched>> {
    pause(&admin, Whose::Function(format!("{}/{}", name.0, name.1)), true).await
}

/// `POST /v1/queues/{namespace}/{name}/drain`: on disk and in force when answered.
pub async fn drain_function(State(admin): State<Shared>, Path(name): Name) -> Reply<Json<Touched>> {
    close(&admin, format!("{}/{}", name.0, name.1), true).await
}

/// `POST /v1/queues/{namespace}/{name}/resume`: it is neither held nor drained any more.
pub async fn resume_function(State(admin): State<Shared>, Path(name): Name) -> Reply<Json<Touched>> {
    let function = format!("{}/{}", name.0, name.1);
    let opened = close(&admin, function.clone(), false).await?;
    let resumed = pause(&admin, Whose::Function(function), false).await?;
    Ok(Json(Touched { count: opened.count.max(resumed.count) }))
}

/// `POST /v1/tenants/{tenant}/pause`: on disk and in force when answered.
pub async fn pause_tenant(State(admin): State<Shared>, Path(tenant): Path<String>) -> Reply<Json<Touched>> {
    check_name("tenant", &tenant)?;
    pause(&admin, Whose::Tenant(tenant), true).await
}

/// `POST /v1/tenants/{tenant}/resume`
pub async fn resume_tenant(State(admin): State<Shared>, Path(tenant): Path<String>) -> Reply<Json<Touched>> {
    check_name("tenant", &tenant)?;
    pause(&admin, Whose::Tenant(tenant), false).await
}

/// Counted are the functions that this changes.
async fn pause(admin: &Admin, whose: Whose, paused: bool) -> Reply<Json<Touched>> {
    let mut file = admin.shaping.lock().await;
    if let Whose::Function(function) = &whose {
        check_deployed(admin, function).await?;
    }
    file.pause(&whose, paused)?;
    touched(admin.link.ask(Ask::Pause { whose, paused }).await?)
}

/// Counted is the function, if this changes it.
async fn close(admin: &Admin, function: String, closed: bool) -> Reply<Json<Touched>> {
    let mut file = admin.shaping.lock().await;
    check_deployed(admin, &function).await?;
    file.close(&function, closed)?;
    touched(admin.link.ask(Ask::Close { function, closed }).await?)
}

/// Nothing is kept about a function that is not there.
async fn check_deployed(admin: &Admin, function: &str) -> Reply<()> {
    match admin.link.ask(Ask::Function { function: function.into() }).await? {
        Answer::Function(_) => Ok(()),
        other => Err(ApiError::unexpected(other)),
    }
}

fn touched(answer: Answer) -> Reply<Json<Touched>> {
    match answer {
        Answer::Done { count } => Ok(Json(Touched { count })),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `GET /v1/downstreams`
pub async fn downstreams(State(admin): State<Shared>) -> Reply<Json<Vec<DownstreamState>>> {
    downstream_states(admin.link.ask(Ask::Downstreams).await?)
}

/// `PUT /v1/downstreams/{downstream}`: on disk and in force when answered.
pub async fn set_downstream(
    State(admin): State<Shared>,
    Path(downstream): Path<String>,
    spec: Result<Json<DownstreamSpec>, JsonRejection>,
) -> Reply<Json<Vec<DownstreamState>>> {
    let Json(spec) = spec?;
    check_name("downstream", &downstream)?;
    let mut file = admin.shaping.lock().await;
    file.downstream(&downstream, spec)?;
    downstream_states(admin.link.ask(Ask::DownstreamSet { downstream, spec }).await?)
}

fn downstream_states(answer: Answer) -> Reply<Json<Vec<DownstreamState>>> {
    match answer {
        Answer::Downstreams(downstreams) => Ok(Json(downstreams)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `GET /v1/calls/{id}/why`
pub async fn why(State(admin): State<Shared>, Path(call): Path<String>) -> Reply<Json<Why>> {
    match admin.link.ask(Ask::Explain { call }).await? {
        Answer::Why(why) => Ok(Json(why)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `GET /v1/locality`
pub async fn locality(State(admin): State<Shared>) -> Reply<Json<LocalityState>> {
    match admin.link.ask(Ask::Locality).await? {
        Answer::Locality(locality) => Ok(Json(locality)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `GET /v1/scaling`
pub async fn scaling(State(admin): State<Shared>) -> Reply<Json<ScalingState>> {
    match admin.link.ask(Ask::Scaling).await? {
        Answer::Scaling(scaling) => Ok(Json(scaling)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// Query of an observation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// Functions that changed after this `at_ns` of an earlier one.
    #[serde(default)]
    after_ns: u64,
}

/// `GET /v1/observation?after_ns=`: for controllers.
pub async fn observation(
    State(admin): State<Shared>,
    since: Result<Query<Since>, QueryRejection>,
) -> Reply<Json<Observation>> {
    let Since { after_ns } = since?.0;
    match admin.link.ask(Ask::Observe { after_ns }).await? {
        Answer::Observation(observation) => Ok(Json(observation)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `PUT /v1/conclusions`: of controllers.
pub async fn conclusions(
    State(admin): State<Shared>,
    conclusions: Result<Json<Conclusions>, JsonRejection>,
) -> Reply<Json<Touched>> {
    let Json(conclusions) = conclusions?;
    match admin.link.ask(Ask::Conclude { conclusions }).await? {
        Answer::Done { count } => Ok(Json(Touched { count })),
        other => Err(ApiError::unexpected(other)),
    }
}

fn check(place: &str, number: Option<u64>, most: u64) -> Reply<()> {
    match number.filter(|number| *number > most) {
        None => Ok(()),
        Some(number) => {
            let message = format!("{place}: is {number}, must be at most {most}");
            Err(ApiError::unprocessable(message, "correct the named field"))
        }
    }
}

fn check_name(place: &str, name: &str) -> Reply<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(is_plain) {
        return Ok(());
    }
    let message = format!("{place}: `{}` is no name", name.chars().take(64).collect::<String>());
    Err(ApiError::unprocessable(message, "use letters, digits, `-`, `_`, `.`"))
}

impl From<ShapingError> for ApiError {
    fn from(error: ShapingError) -> ApiError {
        match error {
            ShapingError::Full(most) => ApiError::from_answer(
                "full".into(),
                format!("there are {most} entries, as many as may be; remove some"),
            ),
            ShapingError::Io(error) => ApiError::from(error),
        }
    }
}
