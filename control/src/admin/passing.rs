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
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Another shard of the same host that takes no bytes, or says nothing, for so long is not waited for: ten times what a
/// disk under load needs to sync a large blob.
const STEP: Duration = Duration::from_secs(30);
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
        .map_err(|error| ApiError::from_answer("internal".into(), error.to_string()))?
        .map_err(|unsound| ApiError::from_answer("damaged".into(), unsound.to_string()))?;
    let there = Endpoints::read(Path::new(&state.map.shards[usize::from(owner)].data_dir));
    let there = there.map_err(|error| away(owner, &error))?;
    let host = there.admin.trim_start_matches("http://");
    let (status, body) = put(host, Arc::new(sound)).await.map_err(|error| away(owner, &error))?;
    if status == StatusCode::CREATED.as_u16() {
        return Ok(());
    }
    Err(match serde_json::from_slice::<Refused>(&body) {
        Ok(Refused { code, message }) => {
            ApiError::from_answer(code, format!("shard {owner}, which owns the call: {message}"))
        }
        Err(_) => away(owner, &io::Error::other(format!("it answered with status {status}"))),
    })
}

fn away(owner: ShardId, error: &io::Error) -> ApiError {
    let message = format!("shard {owner}, which owns the call, does not take its blob: {error}");
    ApiError::from_answer("unavailable".into(), message)
}

/// `PUT /v1/blobs` over a connection of its own, a piece at a time; status and body of the answer.
async fn put(host: &str, sound: Arc<Sound>) -> io::Result<(u16, Vec<u8>)> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let mut stream = timeout(STEP, TcpStream::connect(host)).await.map_err(late)??;
    let bytes = sound.blob.bytes;
    let head = format!(
        "PUT /v1/blobs HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut offset = 0;
    while offset < bytes {
        let (sound, mut piece) = (sound.clone(), Vec::new());
        let read = spawn_blocking(move || sound.piece(offset, &mut piece).map(|()| piece)).await;
        let piece =
            read.map_err(io::Error::other)?.map_err(|unsound| io::Error::other(unsound.to_string()))?;
        timeout(STEP, stream.write_all(&piece)).await.map_err(late)??;
        offset += piece.len() as u64;
    }
    let mut answer = Vec::new();
    timeout(STEP, (&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut answer)).await.map_err(late)??;
    parse(&answer).ok_or_else(|| io::Error::other("its answer is none of HTTP"))
}

/// Status and body of an answer that ends with its connection.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let line = std::str::from_utf8(&answer[..split]).ok()?.lines().next()?;
    let status = line.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    Some((status, answer[split..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let answer = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((429, b"{}".to_vec())));
        for end in 0..answer.len() - 2 {
            assert_eq!(parse(&answer[..end]), None);
        }
        for wrong in [&b"HTTP/1.1 abc\r\n\r\n"[..], b"\xff\xfe\r\n\r\n", b"SSH-2.0-x\r\n\r\n"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
