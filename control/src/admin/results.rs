//! Results as they are: `GET /v1/calls/{id}/result`, and those that are blobs wherever one is the body of an answer.

use crate::admin::blobs;
use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use crate::admin::link::{Link, Piece};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use call::CallId;
use call::admin::{Answer, Ask, CallResult};
use call::blob::{BlobId, Reference};
use http_body::{Frame, SizeHint};
use sha2::{Digest, Sha256};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// How the call ended: the word of [`call::Status::name`].
const STATUS: HeaderName = HeaderName::from_static("x-millrace-status");

/// `GET /v1/calls/{id}/result`: byte for byte, whatever its length.
pub async fn show(State(admin): State<Shared>, Path(id): Path<String>) -> Reply<Response> {
    let correct = "correct the named parameter";
    let call: CallId = id.parse().map_err(|e| ApiError::unprocessable(format!("id: {e}"), correct))?;
    let result = match admin.link.ask(Ask::Result { call: call.to_string() }).await? {
        Answer::Result(result) => result,
        other => return Err(ApiError::unexpected(other)),
    };
    let internal = || ApiError::from_answer("internal".into(), format!("the result of {call} is none"));
    let CallResult { status, stored, output } = result;
    let body = match stored {
        Some(stored) => body(&admin, call, stored.reference().ok_or_else(internal)?).await?,
        None => STANDARD.decode(output).map_err(|_| internal())?.into(),
    };
    let kind = "application/octet-stream";
    Ok(([(header::CONTENT_TYPE, kind), (STATUS, status.name())], body).into_response())
}

/// A result that is a blob as the body of an answer: of this node, or of the shard that has it. What it takes of memory
/// does not depend on its length. It is checked before its first byte leaves.
pub(super) async fn body(admin: &Admin, call: CallId, blob: Reference) -> Reply<Body> {
    let is_here = admin.blobs.bytes(blob.id).is_some();
    if is_here || admin.shards.is_none() {
        return blobs::stream(admin, blob).await;
    }
    // The shard that has it checks all of it before its first piece.
    let first = admin.link.fetch(call, blob, 0).await?.map_err(lost)?;
    let coming: Coming = Box::pin(async { Ok(first) });
    let link = admin.link.clone();
    Ok(Body::new(Pieces { link, call, blob, offset: 0, hash: Sha256::new(), coming: Some(coming) }))
}

/// What is told of a result that is not there as it was.
pub(super) fn lost(why: String) -> ApiError {
    ApiError::from_answer("damaged".into(), why)
}

type Coming = Pin<Box<dyn Future<Output = Piece> + Send>>;

/// A blob of another shard.
struct Pieces {
    link: Link,
    call: CallId,
    blob: Reference,
    offset: u64,
    hash: Sha256,
    coming: Option<Coming>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.offset >= self.blob.bytes {
            return Poll::Ready(None);
        }
        let (link, call, blob, offset) = (self.link.clone(), self.call, self.blob, self.offset);
        let coming = self.coming.get_or_insert_with(|| {
            Box::pin(async move {
                link.fetch(call, blob, offset).await.unwrap_or_else(|_| Err("the node is ending".into()))
            })
        });
        let Poll::Ready(piece) = coming.as_mut().poll(cx) else { return Poll::Pending };
        self.coming = None;
        let piece = piece.map_err(io::Error::other)?;
        self.hash.update(&piece);
        self.offset += piece.len() as u64;
        let is_whole = self.offset >= self.blob.bytes;
        // Of another blob than was asked for, where a call was run again meanwhile. The answer breaks off.
        if is_whole && BlobId(self.hash.clone().finalize().into()) != self.blob.id || piece.is_empty() {
            return Poll::Ready(Some(Err(io::Error::other("the result is another one now"))));
        }
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.blob.bytes - self.offset.min(self.blob.bytes))
    }
}
