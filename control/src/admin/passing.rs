//! A blob for another shard: a call with an id of its client's own, or one that a key makes, may belong to a shard that has
//! not taken the upload. Its owner gets the blob as from any client, with all bounds and checks of its own; the copy here
//! is named by no call, and garbage after the time of grace.

use crate::admin::error::{ApiError, Reply};
use crate::admin::http::Admin;
use crate::blobs::store::Sound;
use crate::serve::Endpoints;
use axum::http::StatusCode;
use call::admin::{Answer, Ask};
use call::blob::Reference;
use call::{CallId, ShardId, Slot};
use serde::Deserialize;
use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;
use tokio::task::{JoinError, spawn_blocking};
use ureq::SendBody;

/// Another shard of the same host that takes no connection for so long is not waited for.
const CONNECT: Duration = Duration::from_secs(5);
/// Nor one that has not taken all of a blob and answered by then: ten times what a disk under load needs for a large one.
const ALL: Duration = Duration::from_secs(60);
/// Bytes of the longest answer: a name, or an error.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// An error, as every route gives it.
#[derive(Deserialize)]
struct Refused {
    code: String,
    message: String,
}

/// Gives the shard that owns a call by the map in force the blob that the call names. Nothing is done if it is this one.
///
/// # Errors
/// The owner does not answer, or does not take it; the blob here is damaged.
pub(super) async fn to_owner(admin: &Admin, call: CallId, blob: Reference) -> Reply<()> {
    let state = match admin.link.ask(Ask::Shards).await? {
        Answer::Shards(state) => state,
        other => return Err(ApiError::unexpected(other)),
    };
    if state.shard.is_none() || state.map.version == 0 {
        return Ok(());
    }
    let owner = state.map.home(Slot::of(call)).owner;
    if Some(owner) == state.shard {
        return Ok(());
    }
    let store = admin.blobs.clone();
    let sound = spawn_blocking(move || store.sound(blob))
        .await
        .map_err(internal)?
        .map_err(|unsound| ApiError::from_answer("damaged".into(), unsound.to_string()))?;
    let there = Endpoints::read(Path::new(&state.map.shards[usize::from(owner)].data_dir));
    let there = there.map_err(|error| away(owner, error))?;
    let url = format!("{}/v1/blobs", there.admin);
    let sent = spawn_blocking(move || put(&url, sound)).await.map_err(internal)?;
    let (status, body) = sent.map_err(|error| away(owner, error))?;
    if status == StatusCode::CREATED.as_u16() {
        return Ok(());
    }
    Err(match serde_json::from_slice::<Refused>(&body) {
        Ok(Refused { code, message }) => {
            ApiError::from_answer(code, format!("shard {owner}, which owns the call: {message}"))
        }
        Err(_) => away(owner, format!("it answered with status {status}")),
    })
}

fn away(owner: ShardId, error: impl Display) -> ApiError {
    let message = format!("shard {owner}, which owns the call, does not take its blob: {error}");
    ApiError::from_answer("unavailable".into(), message)
}

fn internal(error: JoinError) -> ApiError {
    ApiError::from_answer("internal".into(), error.to_string())
}

/// `PUT /v1/blobs`, a piece at a time; status and body of the answer. Blocks.
fn put(url: &str, sound: Sound) -> Result<(u16, Vec<u8>), ureq::Error> {
    let bytes = sound.blob.bytes;
    let body = SendBody::from_owned_reader(Pieces { sound, offset: 0, piece: Vec::new(), at: 0 });
    let request = ureq::put(url).config().proxy(None).http_status_as_error(false);
    let request = request.timeout_connect(Some(CONNECT)).timeout_global(Some(ALL)).build();
    let mut answer = request.header("content-length", bytes.to_string()).send(body)?;
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
    Ok((answer.status().as_u16(), body))
}

/// A blob as one stream of checked pieces.
struct Pieces {
    sound: Sound,
    /// Of the piece after this one.
    offset: u64,
    piece: Vec<u8>,
    /// Bytes of the piece that are read.
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let read = self.sound.piece(self.offset, &mut self.piece);
            read.map_err(|unsound| io::Error::other(unsound.to_string()))?;
            (self.offset, self.at) = (self.offset + self.piece.len() as u64, 0);
        }
        let read = (&self.piece[self.at..]).read(into)?;
        self.at += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::store::BlobStore;
    use call::blob::PIECE_BYTES;
    use call::limits::Limits;
    use std::sync::Arc;

    #[test]
    fn pieces_are_the_blob() {
        let temp = tempfile::tempdir().unwrap();
        let store = Arc::new(BlobStore::open(temp.path().into(), &Limits::default()).unwrap().0);
        for bytes in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 7] {
            let all: Vec<u8> = (0..bytes).map(|n| (n * 7 + n / 256) as u8).collect();
            let mut upload = BlobStore::begin(&store).unwrap();
            upload.write(&all).unwrap();
            let blob = upload.sync().unwrap().finish().unwrap();
            let mut read = Vec::new();
            let sound = store.sound(blob).unwrap();
            Pieces { sound, offset: 0, piece: Vec::new(), at: 0 }.read_to_end(&mut read).unwrap();
            assert!(read == all, "{bytes} bytes");
        }
    }
}
