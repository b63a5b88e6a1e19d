//! Routes of `/v1/blobs`, and arguments that become blobs on their way in.

use crate::admin::artefacts::{drain, next};
use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use crate::admin::results;
use crate::blobs::BlobStore;
use crate::blobs::store::{Sound, StoreError, Unsound, Upload};
use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use call::VerdictCode;
use call::admin::{Answer, Ask, Collected};
use call::blob::{BlobId, Reference};
use driver::notes::say;
use http_body::{Frame, SizeHint};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};

/// When whoever finds the store full should come back, ms: what makes room is the end of calls, then the sweep.
const FULL_MS: u32 = 30_000;

/// Between two collections: a sixth of the usual time of grace.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

/// A stored blob.
#[derive(Serialize)]
pub struct Stored {
    /// Its SHA-256.
    blob: String,
    /// Its size.
    bytes: u64,
}

/// The arguments of a call that is submitted over HTTP.
pub(super) enum Payload {
    /// As they came.
    Here(Bytes),
    /// Stored: what the frame says instead.
    Stored([u8; call::blob::REFERENCE_BYTES]),
}

impl Payload {
    /// What stands in the frame, and whether it names a blob.
    pub fn bytes(&self) -> (&[u8], bool) {
        match self {
            Payload::Here(bytes) => (bytes, false),
            Payload::Stored(reference) => (reference, true),
        }
    }
}

/// `PUT /v1/blobs`: streamed to disk, durable when answered with its name. Putting it twice is fine.
///
/// As for artefacts, what is not wanted is read all the same.
pub async fn put(State(admin): State<Shared>, mut body: Body) -> Reply<(StatusCode, Json<Stored>)> {
    let stored = match begin(&admin) {
        Ok(upload) => receive(&admin, upload, &mut body).await,
        Err(error) => Err(error),
    };
    if stored.is_err() {
        drain(&mut body, admin.blobs.one_bytes()).await;
    }
    let Reference { id, bytes } = stored?;
    Ok((StatusCode::CREATED, Json(Stored { blob: id.to_string(), bytes })))
}

/// `GET /v1/blobs/{sha256}`: all of it is checked before the first byte leaves.
pub async fn get(State(admin): State<Shared>, Path(sha256): Path<String>) -> Reply<Response> {
    let id: BlobId =
        sha256.parse().map_err(|error| ApiError::unprocessable(format!("{error}"), "correct the name"))?;
    let sound = sound(&admin, id).await?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((headers, pieces(sound)).into_response())
}

/// A result that is a blob of this node, as the body of an answer.
pub(super) async fn stream(admin: &Admin, blob: Reference) -> Reply<Body> {
    let store = admin.blobs.clone();
    let read = spawn_blocking(move || store.sound(blob)).await.map_err(internal)?;
    Ok(pieces(read.map_err(|unsound| results::lost(unsound.to_string()))?))
}

fn pieces(sound: Sound) -> Body {
    Body::new(Pieces { sound: Arc::new(sound), offset: 0, coming: None })
}

async fn sound(admin: &Admin, id: BlobId) -> Reply<Sound> {
    let store = admin.blobs.clone();
    let read = move || {
        let bytes = store.bytes(id).ok_or(None)?;
        store.sound(Reference { id, bytes }).map_err(Some)
    };
    match spawn_blocking(read).await.map_err(internal)? {
        Ok(sound) => Ok(sound),
        Err(None | Some(Unsound::Absent(_))) => {
            Err(ApiError::not_found(format!("there is no blob {id}"), "store it with PUT /v1/blobs"))
        }
        Err(Some(unsound)) => Err(ApiError::from_answer("damaged".into(), unsound.to_string())),
    }
}

/// Query of a collection.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Only find them.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/blobs/collect?dry_run=`
pub async fn collect(
    State(admin): State<Shared>,
    trial: Result<Query<Trial>, QueryRejection>,
) -> Reply<Json<Collected>> {
    Ok(Json(collect_now(&admin, trial?.dry_run).await?))
}

/// Collects at the start and from time to time, as long as the admin side serves.
pub(super) async fn collect_for_ever(admin: Shared) {
    loop {
        // A ring that does not answer is asked again the next time; so is one that collects already.
        let _ = collect_now(&admin, false).await;
        tokio::time::sleep(COLLECT_EVERY).await;
    }
}

async fn collect_now(admin: &Admin, dry_run: bool) -> Reply<Collected> {
    let _one = admin.blobs.turn().lock().await;
    let collected = match admin.link.ask(Ask::BlobsCollect { dry_run }).await? {
        Answer::Collected(collected) => collected,
        other => return Err(ApiError::unexpected(other)),
    };
    if collected.unreadable > 0 {
        say(format_args!(
            "no blob is removed: {} calls that name one have damaged records; purge those dead letters",
            collected.unreadable
        ));
    }
    if !dry_run && collected.count > 0 {
        let (store, names) = (admin.blobs.clone(), collected.blobs.clone());
        spawn_blocking(move || remove(&store, &names)).await.map_err(internal)?;
    }
    Ok(collected)
}

/// Removes files that the index does not have any more. One that stays is found again at the next start.
fn remove(store: &BlobStore, names: &[String]) {
    for id in names.iter().filter_map(|name| name.parse().ok()) {
        if let Err(error) = store.remove(id) {
            say(format_args!("blob {id} could not be removed: {error}"));
        }
    }
}

/// Takes the arguments of a call: those above the threshold are on disk when this returns.
pub(super) async fn take(admin: &Admin, mut body: Body) -> Reply<Payload> {
    let mut small = Vec::new();
    while small.len() <= admin.blob_above {
        match next(&mut body).await {
            None => return Ok(Payload::Here(small.into())),
            Some(chunk) => small.extend_from_slice(&chunk.map_err(broken)?),
        }
    }
    let stored = match begin(admin) {
        Ok(mut upload) => match upload.write(&small) {
            Ok(()) => receive(admin, upload, &mut body).await,
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error),
    };
    if stored.is_err() {
        drain(&mut body, admin.blobs.one_bytes()).await;
    }
    Ok(Payload::Stored(stored?.to_bytes()))
}

/// As [`take`], of arguments that are in memory.
pub(super) async fn take_bytes(admin: &Admin, payload: Bytes) -> Reply<Payload> {
    if payload.len() <= admin.blob_above {
        return Ok(Payload::Here(payload));
    }
    let mut upload = begin(admin)?;
    upload.write(&payload)?;
    Ok(Payload::Stored(finish(admin, upload).await?.to_bytes()))
}

fn begin(admin: &Admin) -> Reply<Upload> {
    Ok(BlobStore::begin(&admin.blobs)?)
}

async fn receive(admin: &Admin, mut upload: Upload, body: &mut Body) -> Reply<Reference> {
    while let Some(chunk) = next(body).await {
        upload.write(&chunk.map_err(broken)?)?;
    }
    finish(admin, upload).await
}

/// On disk first, then known on the ring. One after the other, and none while a sweep removes files: a blob that comes
/// again is not taken for the one that goes.
async fn finish(admin: &Admin, upload: Upload) -> Reply<Reference> {
    // An fsync of many MiB: not on the thread that answers everybody.
    let upload = spawn_blocking(|| upload.sync()).await.map_err(internal)??;
    let _one = admin.blobs.turn().lock().await;
    let blob = spawn_blocking(|| upload.finish()).await.map_err(internal)??;
    let ask = Ask::BlobStored { blob: blob.id.to_string(), bytes: blob.bytes };
    match admin.link.ask(ask).await? {
        Answer::Done { .. } => Ok(blob),
        refused => {
            // Nobody may name it.
            let _ = admin.blobs.remove(blob.id);
            Err(ApiError::unexpected(refused))
        }
    }
}

fn broken(error: axum::Error) -> ApiError {
    ApiError::unprocessable(format!("the upload broke off: {error}"), "send it again")
}

fn internal(error: tokio::task::JoinError) -> ApiError {
    ApiError::from_answer("internal".into(), error.to_string())
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        let message = error.to_string();
        match error {
            StoreError::TooLarge(_) => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                message,
                "raise --blob-max of the node, or pass a reference to where it is",
            ),
            StoreError::Full(_) => {
                let remedy = "retry after the time given, or raise --blobs-total of the node";
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, "full", message, remedy).retry_after(FULL_MS)
            }
            StoreError::Io(_) => ApiError::refused(VerdictCode::DiskFailed, 0).saying(message),
        }
    }
}

/// A blob as the body of an answer, a piece at a time: what it takes of memory does not depend on its length.
struct Pieces {
    sound: Arc<Sound>,
    offset: u64,
    coming: Option<JoinHandle<Result<Vec<u8>, Unsound>>>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.offset >= self.sound.blob.bytes {
            return Poll::Ready(None);
        }
        let (sound, offset) = (self.sound.clone(), self.offset);
        let coming = self.coming.get_or_insert_with(|| {
            spawn_blocking(move || {
                let mut piece = Vec::new();
                sound.piece(offset, &mut piece).map(|()| piece)
            })
        });
        let Poll::Ready(read) = Pin::new(coming).poll(cx) else { return Poll::Pending };
        self.coming = None;
        let piece =
            read.map_err(io::Error::other)?.map_err(|unsound| io::Error::other(unsound.to_string()))?;
        self.offset += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.sound.blob.bytes - self.offset)
    }
}
