//! `shaping.json`: what operators said about quotas, tenants and services. On disk before it is in force.

use crate::datadir::write_durably;
use crate::start::StartError;
use call::admin::{DownstreamSpec, QuotaChange, Shaping, TenantSpec, Whose};
use std::io;
use std::path::PathBuf;

/// Entries of each kind: twice the functions that may be deployed.
const ENTRIES_MAX: usize = 40_000;
const NAME: &str = "shaping.json";

/// The file, in memory as on disk.
pub struct ShapingFile {
    directory: PathBuf,
    contents: Shaping,
}

/// Why something was not written.
#[derive(Debug)]
pub enum ShapingError {
    /// There are as many entries as there may be.
    Full(usize),
    /// The file could not be written.
    Io(io::Error),
}

impl ShapingFile {
    /// Reads the file of a data directory; an absent one is empty.
    pub fn open(directory: PathBuf) -> Result<ShapingFile, StartError> {
        let path = directory.join(NAME);
        let contents = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StartError::Catalog {
                path,
                message: format!("is not of this version: {error}"),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Shaping::default(),
            Err(source) => return Err(StartError::Io { path, source }),
        };
        Ok(ShapingFile { directory, contents })
    }

    /// All of it.
    pub fn contents(&self) -> &Shaping {
        &self.contents
    }

    /// Adds to what was said about a function's quota, or forgets it. Gives what is said now.
    pub fn quota(
        &mut self,
        function: &str,
        change: Option<&QuotaChange>,
    ) -> Result<QuotaChange, ShapingError> {
        let mut next = self.contents.clone();
        let before = next.quotas.remove(function).unwrap_or_default();
        let now = change.map_or_else(QuotaChange::default, |change| before.then(change));
        if now != QuotaChange::default() {
            next.quotas.insert(function.into(), now.clone());
        }
        self.write(next)?;
        Ok(now)
    }

    /// What is said about a tenant.
    pub fn tenant(&mut self, name: &str, spec: TenantSpec) -> Result<(), ShapingError> {
        let mut next = self.contents.clone();
        next.tenants.insert(name.into(), spec);
        self.write(next)
    }

    /// What the owner of a service says.
    pub fn downstream(&mut self, name: &str, spec: DownstreamSpec) -> Result<(), ShapingError> {
        let mut next = self.contents.clone();
        next.downstreams.insert(name.into(), spec);
        self.write(next)
    }

    /// Whose calls are held.
    pub fn pause(&mut self, whose: &Whose, paused: bool) -> Result<(), ShapingError> {
        let mut next = self.contents.clone();
        match paused {
            true => next.paused.insert(whose.clone()),
            false => next.paused.remove(whose),
        };
        self.write(next)
    }

    /// Which functions take no new calls.
    pub fn close(&mut self, function: &str, closed: bool) -> Result<(), ShapingError> {
        let mut next = self.contents.clone();
        match closed {
            true => next.closed.insert(function.into()),
            false => next.closed.remove(function),
        };
        self.write(next)
    }

    fn write(&mut self, next: Shaping) -> Result<(), ShapingError> {
        let operators = next.paused.len().max(next.closed.len());
        let most = next.quotas.len().max(next.tenants.len()).max(next.downstreams.len()).max(operators);
        if most > ENTRIES_MAX {
            return Err(ShapingError::Full(ENTRIES_MAX));
        }
        let bytes = serde_json::to_vec_pretty(&next).expect("plain data");
        write_durably(&self.directory, NAME, &bytes).map_err(ShapingError::Io)?;
        self.contents = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_there_after_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let open = || ShapingFile::open(temp.path().to_owned()).unwrap();
        let mut file = open();
        let cpu = QuotaChange { cpu_millis: Some(500), ..QuotaChange::default() };
        let rate = QuotaChange { calls_per_s: Some(9), ..QuotaChange::default() };
        file.quota("default/f", Some(&cpu)).unwrap();
        assert_eq!(file.quota("default/f", Some(&rate)).unwrap(), cpu.then(&rate));
        file.tenant("photos", TenantSpec { weight: 3, backlog: 0, backlog_bytes: 0 }).unwrap();
        file.downstream("tao", DownstreamSpec { threshold_per_minute: 5000 }).unwrap();
        let mut file = open();
        assert_eq!(file.contents().quotas["default/f"], cpu.then(&rate));
        assert_eq!(file.contents().downstreams["tao"].threshold_per_minute, 5000);
        file.quota("default/f", None).unwrap();
        assert!(open().contents().quotas.is_empty() && open().contents().tenants["photos"].weight == 3);
        std::fs::write(temp.path().join(NAME), b"{\"quotes\":{}}").unwrap();
        assert!(ShapingFile::open(temp.path().to_owned()).is_err(), "nothing is silently ignored");
    }
}
