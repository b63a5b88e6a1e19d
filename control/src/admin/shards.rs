//! Routes of the shards: how this node stands as one of them, and the map it passes calls on by. A map is on disk, in the
//! file that all shards of the node read at their start, before this one goes by it.

use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use crate::datadir::sync_directory;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use call::ShardMap;
use call::admin::{Answer, Ask, ShardState};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `shards.json`: one for all shards of a node, in the directory of the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardFile {
    /// Who knows it is a shard.
    pub secret: String,
    /// The newest map.
    pub map: ShardMap,
}

impl ShardFile {
    /// The file's name.
    pub const NAME: &str = "shards.json";

    /// Reads it.
    ///
    /// # Errors
    /// The file cannot be read, or is none: who owns which calls is not to be guessed.
    pub fn read(path: &Path) -> io::Result<ShardFile> {
        let file: ShardFile = serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)?;
        match file.map.fault() {
            Some(fault) => Err(io::Error::other(format!("its map is none: {fault}"))),
            None => Ok(file),
        }
    }

    /// Writes it, for its owner's eyes alone; a crash leaves the old file or the new one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().ok_or_else(|| io::Error::other("a file is in a directory"))?;
        let fresh = directory.join(format!(".{}.{}", ShardFile::NAME, std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self).expect("plain data"))?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        sync_directory(directory)
    }
}

/// `GET /v1/shards`
pub async fn show(State(admin): State<Shared>) -> Reply<Json<ShardState>> {
    ask(&admin, Ask::Shards).await.map(Json)
}

/// `PUT /v1/shards`
pub async fn publish(
    State(admin): State<Shared>,
    map: Result<Json<ShardMap>, JsonRejection>,
) -> Reply<Json<ShardState>> {
    let Json(map) = map?;
    let Some(path) = &admin.shards else {
        return Err(ApiError::from_answer("conflict".into(), "this node is alone, and no shard".into()));
    };
    let file = admin.shard_file.lock().await;
    let known = ShardFile::read(path)?;
    if known.map != map {
        let fault = map.fault().or_else(|| map.breach(&known.map));
        if let Some(fault) = fault {
            let message = format!("the map cannot follow the one in {}: {fault}", path.display());
            return Err(ApiError::from_answer("conflict".into(), message));
        }
        ShardFile { map: map.clone(), ..known }.write(path)?;
    }
    drop(file);
    ask(&admin, Ask::ShardMap { map }).await.map(Json)
}

async fn ask(admin: &Admin, ask: Ask) -> Reply<ShardState> {
    match admin.link.ask(ask).await? {
        Answer::Shards(state) => Ok(state),
        other => Err(ApiError::unexpected(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::shards::ShardPlace;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_without_a_sound_map_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(ShardFile::NAME);
        assert_eq!(ShardFile::read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = ShardFile { secret: "s".into(), map: ShardMap::of_one(ShardPlace::default()) };
        file.write(&path).unwrap();
        assert_eq!(ShardFile::read(&path).unwrap(), file);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        ShardFile { map: ShardMap::default(), ..file }.write(&path).unwrap();
        assert!(ShardFile::read(&path).unwrap_err().to_string().contains("its version is 0"));
    }
}
