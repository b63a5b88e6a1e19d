//! `catalog.json`: which functions there are. On disk before anybody hears of a change.

use crate::datadir::write_durably;
use crate::start::StartError;
use call::{FunctionId, FunctionSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// What the file holds.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    /// By `namespace/name`.
    functions: BTreeMap<String, FunctionSpec>,
    /// Last version of each deleted name: a version is never given twice, so no host mistakes old code for new.
    deleted: BTreeMap<String, u32>,
    /// Of these, those whose calls go to the dead letters: also calls that were running, and come back after a restart.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    buried: BTreeSet<String>,
}

/// The catalog, in memory as on disk.
pub struct CatalogFile {
    directory: PathBuf,
    functions_max: usize,
    contents: Contents,
}

/// Why a deployment was not written.
#[derive(Debug)]
pub enum CatalogError {
    /// Another name has the same id.
    Collision(String),
    /// The catalog holds as many functions as it may.
    Full(usize),
    /// The file could not be written.
    Io(io::Error),
}

const NAME: &str = "catalog.json";

impl CatalogFile {
    /// Reads the catalog of a data directory; an absent file is an empty catalog.
    pub fn open(directory: PathBuf, functions_max: usize) -> Result<CatalogFile, StartError> {
        let path = directory.join(NAME);
        let contents = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StartError::Catalog {
                path,
                message: format!("is not a catalog of this version: {error}"),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(source) => return Err(StartError::Io { path, source }),
        };
        Ok(CatalogFile { directory, functions_max, contents })
    }

    /// All functions.
    pub fn functions(&self) -> impl Iterator<Item = &FunctionSpec> {
        self.contents.functions.values()
    }

    /// Functions that were deleted together with their calls.
    pub fn buried(&self) -> impl Iterator<Item = FunctionId> + '_ {
        let named = self.contents.buried.iter().filter_map(|key| key.split_once('/'));
        named.map(|(namespace, name)| FunctionId::of(namespace, name))
    }

    /// One function.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&FunctionSpec> {
        self.contents.functions.get(&format!("{namespace}/{name}"))
    }

    /// Assigns the next version and writes the catalog with `spec` in it. True if the name is new.
    pub fn deploy(&mut self, mut spec: FunctionSpec) -> Result<(FunctionSpec, bool), CatalogError> {
        let key = format!("{}/{}", spec.namespace, spec.name);
        if let Some(other) = self.collision(&key, spec.id()) {
            return Err(CatalogError::Collision(other));
        }
        let old = self.contents.functions.get(&key).map(|f| f.version);
        if old.is_none() && self.contents.functions.len() >= self.functions_max {
            return Err(CatalogError::Full(self.functions_max));
        }
        let last = old.or_else(|| self.contents.deleted.get(&key).copied()).unwrap_or(0);
        spec.version = last + 1;
        let mut next = self.contents.clone();
        next.deleted.remove(&key);
        next.buried.remove(&key);
        next.functions.insert(key, spec.clone());
        self.write(next)?;
        Ok((spec, old.is_none()))
    }

    /// Writes the catalog without this function; with it go its calls, if they are `buried`. False if there was none.
    pub fn delete(&mut self, namespace: &str, name: &str, buried: bool) -> Result<bool, CatalogError> {
        let key = format!("{namespace}/{name}");
        let mut next = self.contents.clone();
        let Some(spec) = next.functions.remove(&key) else { return Ok(false) };
        if buried {
            next.buried.insert(key.clone());
        }
        next.deleted.insert(key, spec.version);
        self.write(next)?;
        Ok(true)
    }

    fn collision(&self, key: &str, id: FunctionId) -> Option<String> {
        self.contents.functions.iter().find(|(k, f)| f.id() == id && *k != key).map(|(k, _)| k.clone())
    }

    fn write(&mut self, next: Contents) -> Result<(), CatalogError> {
        let bytes = serde_json::to_vec_pretty(&next).expect("a catalog is plain data");
        write_durably(&self.directory, NAME, &bytes).map_err(CatalogError::Io)?;
        self.contents = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> FunctionSpec {
        FunctionSpec { name: name.into(), ..FunctionSpec::default() }
    }

    #[test]
    fn versions_count_on_through_restart_and_deletion() {
        let temp = tempfile::tempdir().unwrap();
        let open = || CatalogFile::open(temp.path().to_owned(), 8).unwrap();
        let mut catalog = open();
        assert_eq!(catalog.deploy(spec("a")).map(|(s, new)| (s.version, new)).unwrap(), (1, true));
        assert_eq!(catalog.deploy(spec("a")).map(|(s, new)| (s.version, new)).unwrap(), (2, false));
        let mut catalog = open();
        assert!(catalog.delete("default", "a", true).unwrap());
        assert!(!catalog.delete("default", "a", false).unwrap());
        let mut catalog = open();
        assert_eq!(catalog.functions().count(), 0);
        assert_eq!(catalog.buried().collect::<Vec<_>>(), [FunctionId::of("default", "a")]);
        assert_eq!(catalog.deploy(spec("a")).map(|(s, new)| (s.version, new)).unwrap(), (3, true));
        assert_eq!(open().buried().count(), 0, "what comes now is its own");
    }

    #[test]
    fn a_full_catalog_still_takes_new_versions() {
        let temp = tempfile::tempdir().unwrap();
        let mut catalog = CatalogFile::open(temp.path().to_owned(), 1).unwrap();
        catalog.deploy(spec("a")).unwrap();
        assert!(matches!(catalog.deploy(spec("b")), Err(CatalogError::Full(1))));
        assert_eq!(catalog.deploy(spec("a")).unwrap().0.version, 2);
    }

    #[test]
    fn two_names_of_one_id_cannot_both_be_deployed() {
        let temp = tempfile::tempdir().unwrap();
        let mut catalog = CatalogFile::open(temp.path().to_owned(), 8).unwrap();
        catalog.deploy(spec("a")).unwrap();
        // Nobody finds a real 64-bit collision in a test: pretend that another key hashes to `a`'s id.
        assert_eq!(catalog.collision("default/b", spec("a").id()), Some("default/a".into()));
        assert_eq!(catalog.collision("default/a", spec("a").id()), None);
    }

    #[test]
    fn a_broken_file_is_told_with_its_path() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(NAME), "{\"functions\": [").unwrap();
        let error = CatalogFile::open(temp.path().to_owned(), 8).err().unwrap().to_string();
        assert!(error.contains("catalog.json") && error.contains("deploy the functions again"), "{error}");
    }
}
