//! Routes of the region: its state, the matrix it pulls by, and whether it drains. What is ordered is on disk before it is
//! answered: the node goes on with it after a restart, with or without the conductor.

use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use crate::datadir::write_durably;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use call::admin::{Answer, Ask, RegionState, TrafficMatrix};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// `region.json` of a data directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegionFile {
    /// The newest matrix that was published here.
    pub matrix: TrafficMatrix,
    /// Whether the region drains.
    pub drained: bool,
}

const NAME: &str = "region.json";

impl RegionFile {
    /// Reads it; the default if there is none, or none of this version: then the region pulls nothing until the next
    /// matrix is published, which is safe.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(directory: &Path) -> io::Result<RegionFile> {
        match std::fs::read(directory.join(NAME)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(RegionFile::default()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        write_durably(directory, NAME, &serde_json::to_vec_pretty(self).expect("plain data"))
    }
}

/// `GET /v1/region`
pub async fn show(State(admin): State<Shared>) -> Reply<Json<RegionState>> {
    ask(&admin, Ask::Region).await.map(Json)
}

/// `PUT /v1/region/matrix`
pub async fn matrix(
    State(admin): State<Shared>,
    matrix: Result<Json<TrafficMatrix>, JsonRejection>,
) -> Reply<Json<RegionState>> {
    let Json(matrix) = matrix?;
    order(&admin, Ask::Matrix { matrix }).await
}

/// `POST /v1/region/drain`
pub async fn drain(State(admin): State<Shared>) -> Reply<Json<RegionState>> {
    order(&admin, Ask::RegionDrain { drained: true }).await
}

/// `POST /v1/region/resume`
pub async fn resume(State(admin): State<Shared>) -> Reply<Json<RegionState>> {
    order(&admin, Ask::RegionDrain { drained: false }).await
}

/// Puts an order in force and writes it down, one after the other.
async fn order(admin: &Admin, order: Ask) -> Reply<Json<RegionState>> {
    let mut file = admin.region.lock().await;
    let state = ask(admin, order).await?;
    let newest = RegionFile { matrix: state.matrix.clone(), drained: state.drained };
    if *file != newest {
        newest.write(&admin.root)?;
        *file = newest;
    }
    Ok(Json(state))
}

async fn ask(admin: &Admin, ask: Ask) -> Reply<RegionState> {
    match admin.link.ask(ask).await? {
        Answer::Region(state) => Ok(state),
        other => Err(ApiError::unexpected(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ordered_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(RegionFile::read(directory.path()).unwrap(), RegionFile::default());
        let matrix = TrafficMatrix { version: 3, ..TrafficMatrix::identity(vec!["a".into(), "b".into()]) };
        let file = RegionFile { matrix, drained: true };
        file.write(directory.path()).unwrap();
        assert_eq!(RegionFile::read(directory.path()).unwrap(), file);
        std::fs::write(directory.path().join(NAME), "{").unwrap();
        assert_eq!(RegionFile::read(directory.path()).unwrap(), RegionFile::default());
    }
}
