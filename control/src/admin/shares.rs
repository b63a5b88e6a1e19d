//! Routes of a shard's parts of limits. They are on disk before they are in force: a shard that starts again goes on with
//! them, and never with more than it was given.

use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use crate::datadir::write_durably;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use call::admin::{Answer, Ask};
use call::shares::{ShareTable, SharesState};
use std::io;
use std::path::Path;

/// The file in the data directory of a shard.
pub const NAME: &str = "shares.json";

/// Bytes of the largest table: a name, and two numbers, of as many rows as there may be.
pub const BYTES_MAX: usize = 256 * call::shares::ROWS_MAX;

/// Reads it; none if the shard was never told.
///
/// # Errors
/// The file cannot be read, or is none: more than a shard was given is not to be guessed.
pub fn read(directory: &Path) -> io::Result<Option<ShareTable>> {
    let table: ShareTable = match std::fs::read(directory.join(NAME)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match table.fault() {
        Some(fault) => Err(io::Error::other(fault)),
        None => Ok(Some(table)),
    }
}

/// `GET /v1/shards/shares`
pub async fn show(State(admin): State<Shared>) -> Reply<Json<SharesState>> {
    ask(&admin, Ask::Shares).await.map(Json)
}

/// `PUT /v1/shards/shares`
pub async fn tell(
    State(admin): State<Shared>,
    table: Result<Json<ShareTable>, JsonRejection>,
) -> Reply<Json<SharesState>> {
    let Json(table) = table?;
    let conflict = |message: String| Err(ApiError::from_answer("conflict".into(), message));
    if admin.shards.is_none() {
        return conflict("this node is alone, and no shard".into());
    }
    if let Some(fault) = table.fault() {
        return Err(ApiError::unprocessable(format!("the table is none: {fault}"), "correct it"));
    }
    let _one = admin.shard_file.lock().await;
    let known = read(&admin.root)?;
    if known.as_ref().is_some_and(|known| known.version > table.version) {
        return conflict(format!("version {} is above it", known.expect("just looked at").version));
    }
    if known.as_ref() != Some(&table) {
        write_durably(&admin.root, NAME, &serde_json::to_vec(&table).expect("plain data"))?;
    }
    ask(&admin, Ask::SharesTold { table }).await.map(Json)
}

async fn ask(admin: &Admin, ask: Ask) -> Reply<SharesState> {
    match admin.link.ask(ask).await? {
        Answer::Shares(state) => Ok(state),
        other => Err(ApiError::unexpected(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_disk_is_a_table_or_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap(), None);
        let table = ShareTable { version: 7, rosters: vec![vec![0, 1]], rows: Vec::new() };
        write_durably(directory.path(), NAME, &serde_json::to_vec(&table).unwrap()).unwrap();
        assert_eq!(read(directory.path()).unwrap(), Some(table));
        for wrong in [&b"{"[..], br#"{"version": 7, "rosters": [], "rows": []}"#] {
            std::fs::write(directory.path().join(NAME), wrong).unwrap();
            assert!(read(directory.path()).is_err());
        }
    }
}
