//! Routes of `/v1/functions`.

use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use call::FunctionSpec;
use call::admin::{Answer, Ask, FunctionState};
use serde::{Deserialize, Serialize};

pub(super) type Name = Path<(String, String)>;

/// `GET /v1/functions`
pub async fn list(State(admin): State<Shared>) -> Reply<Json<Vec<FunctionState>>> {
    match admin.link.ask(Ask::Functions).await? {
        Answer::Functions(functions) => Ok(Json(functions)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `GET /v1/functions/{namespace}/{name}`
pub async fn show(State(admin): State<Shared>, Path((namespace, name)): Name) -> Reply<Json<FunctionState>> {
    match admin.link.ask(Ask::Function { function: format!("{namespace}/{name}") }).await? {
        Answer::Function(function) => Ok(Json(function)),
        other => Err(ApiError::unexpected(other)),
    }
}

/// `PUT /v1/functions/{namespace}/{name}`: on disk, then in force. The version is assigned here.
pub async fn deploy(
    State(admin): State<Shared>,
    Path((namespace, name)): Name,
    spec: Result<Json<FunctionSpec>, JsonRejection>,
) -> Reply<(StatusCode, Json<FunctionState>)> {
    let spec = complete(&admin, spec?.0, &namespace, &name)?;
    // Held until the node has it: the node sees versions in the order of the file.
    let mut catalog = admin.catalog.lock().await;
    let (spec, is_new) = catalog.deploy(spec)?;
    match admin.link.ask(Ask::Deploy { spec }).await? {
        Answer::Function(function) => {
            Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(function)))
        }
        refused => {
            // The node knows what the file cannot: a deleted namesake whose calls still run.
            if is_new {
                catalog.delete(&namespace, &name, false)?;
            }
            Err(ApiError::unexpected(refused))
        }
    }
}

/// Fills in what the path and the artefact say, and checks the rest.
fn complete(admin: &Admin, mut spec: FunctionSpec, namespace: &str, name: &str) -> Reply<FunctionSpec> {
    if !spec.name.is_empty() && spec.name != name {
        let message = format!("name: the manifest says `{}`, the path `{name}`", spec.name);
        return Err(ApiError::unprocessable(message, "make them equal, or leave the manifest's out"));
    }
    (spec.name, spec.namespace) = (name.into(), namespace.into());
    let Some(bytes) = admin.store.bytes(&spec.artefact) else {
        let message = format!("artefact: there is no artefact `{}`", spec.artefact);
        return Err(ApiError::unprocessable(message, "upload it first with PUT /v1/artefacts/{sha256}"));
    };
    spec.artefact_bytes = bytes;
    spec.validate()?;
    Ok(spec)
}

/// Query of a deletion.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Send pending calls to the dead letters.
    #[serde(default)]
    force: bool,
}

/// What a deletion or redrive touched.
#[derive(Serialize)]
pub struct Touched {
    /// How many things.
    pub count: u64,
}

/// `DELETE /v1/functions/{namespace}/{name}?force=`
pub async fn remove(
    State(admin): State<Shared>,
    Path((namespace, name)): Name,
    removal: Result<Query<Removal>, QueryRejection>,
) -> Reply<Json<Touched>> {
    let force = removal?.force;
    let mut catalog = admin.catalog.lock().await;
    // By force: on disk first, so that a node that dies while it buries calls goes on after its restart. Else the node
    // first: it alone knows of pending calls. If we die in between, the function is back after the restart and the
    // operator, who has had no answer, deletes it again.
    if force {
        catalog.delete(&namespace, &name, true)?;
    }
    match admin.link.ask(Ask::FunctionDelete { function: format!("{namespace}/{name}"), force }).await? {
        Answer::Done { count } => {
            catalog.delete(&namespace, &name, force)?;
            Ok(Json(Touched { count }))
        }
        other => Err(ApiError::unexpected(other)),
    }
}
