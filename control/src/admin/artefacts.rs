//! Routes of `/v1/artefacts`.

use crate::admin::error::{ApiError, Reply};
use crate::admin::http::Shared;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use call::limits::ARTEFACT_BYTES_MAX;
use serde::Serialize;
use std::future::poll_fn;
use std::pin::Pin;

/// A stored artefact.
#[derive(Serialize)]
pub struct Stored {
    /// Its SHA-256.
    artefact: String,
    /// Its size.
    bytes: u64,
}

/// `PUT /v1/artefacts/{sha256}`: streamed to disk, verified, durable when answered. Putting it twice is fine.
///
/// What is not wanted is read all the same: most clients send all before they read, and would see only a broken
/// connection instead of the answer.
pub async fn put(
    State(admin): State<Shared>,
    Path(sha256): Path<String>,
    mut body: Body,
) -> Reply<(StatusCode, Json<Stored>)> {
    let stored = match admin.store.bytes(&sha256) {
        Some(bytes) => Ok((StatusCode::OK, Json(Stored { artefact: sha256, bytes }))),
        None => receive(&admin, sha256, &mut body).await,
    };
    drain(&mut body, ARTEFACT_BYTES_MAX as u64).await;
    stored
}

/// Reads what is left of a body, up to so many bytes.
pub(super) async fn drain(body: &mut Body, mut left: u64) {
    while let Some(Ok(chunk)) = next(body).await
        && chunk.len() as u64 <= left
    {
        left -= chunk.len() as u64;
    }
}

async fn receive(admin: &Shared, sha256: String, body: &mut Body) -> Reply<(StatusCode, Json<Stored>)> {
    let mut upload = admin.store.begin(&sha256)?;
    while let Some(chunk) = next(body).await {
        let broken =
            |error| ApiError::unprocessable(format!("the upload broke off: {error}"), "send it again");
        upload.write(&chunk.map_err(broken)?)?;
    }
    // An fsync of up to 64 MiB: not on the thread that answers everybody.
    let bytes = tokio::task::spawn_blocking(|| upload.finish())
        .await
        .map_err(|error| ApiError::from_answer("internal".into(), error.to_string()))??;
    Ok((StatusCode::CREATED, Json(Stored { artefact: sha256, bytes })))
}

/// More of the body; nothing at its end. A frame without data (a trailer) is empty.
pub(super) async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|cx| axum::body::HttpBody::poll_frame(Pin::new(&mut *body), cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// `GET /v1/artefacts/{sha256}`: where hosts fetch what they compile or unpack.
pub async fn get(State(admin): State<Shared>, Path(sha256): Path<String>) -> Reply<impl IntoResponse> {
    let absent = || {
        let message = format!("there is no artefact {sha256}");
        ApiError::not_found(message, "upload it with PUT /v1/artefacts/{sha256}")
    };
    let path = admin.store.path(&sha256).ok_or_else(absent)?;
    let is_wasm = path.extension().is_some_and(|ending| ending == "wasm");
    let kind = if is_wasm { "application/wasm" } else { "application/octet-stream" };
    let bytes = tokio::fs::read(path).await.map_err(|_| absent())?;
    Ok(([(header::CONTENT_TYPE, kind)], bytes))
}
