//! Several regions on one machine: which there are, and how to reach each. Written down by `millrace up --regions`.

pub mod everywhere;
pub mod netns;

use crate::admin::Admin;
use crate::exit::{Exit, Failure};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// `regions.json` of a data directory: there while `millrace up --regions` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions {
    /// The process of `up`.
    pub pid: u32,
    /// What is between the regions: the backend in force.
    pub wan: String,
    /// The process of the Global Traffic Conductor, if it runs.
    pub conductor: Option<u32>,
    /// All regions.
    pub regions: Vec<Region>,
}

/// One region of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// What it calls itself.
    pub name: String,
    /// Its data directory: all commands that speak to one node take it with `--data-dir`.
    pub data_dir: PathBuf,
    /// Its network namespace.
    pub namespace: String,
    /// Base of its admin API, reachable also when it is cut off from the other regions.
    pub admin: String,
    /// Where the other regions reach its node.
    pub endpoint: String,
}

/// The file's name.
const NAME: &str = "regions.json";
/// A region that is to stay dead until it is healed has this file in its data directory.
const FAILED: &str = "region-failed";

impl Regions {
    /// Those of a data directory; `None` if no `up --regions` runs there.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn find(data_dir: &Path) -> Result<Option<Regions>, Failure> {
        let path = data_dir.join(NAME);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let what = format!("the list of regions cannot be read: {error}");
                Failure::input(
                    what,
                    path.display().to_string(),
                    "remove the file, and start the regions again",
                )
            }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(Failure::file("read the list of regions", &path, &error)),
        }
    }

    /// As [`Regions::find`], where there must be some.
    ///
    /// # Errors
    /// There are none.
    pub fn read(data_dir: &Path) -> Result<Regions, Failure> {
        Regions::find(data_dir)?.ok_or_else(|| {
            let remedy = "start some with `millrace up --regions 3`, or name their directory with --data-dir";
            Failure::new(Exit::NotFound, "no regions run here", data_dir.display().to_string(), remedy)
        })
    }

    /// Writes them down; who reads gets the old list or the new one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, data_dir: &Path) -> Result<(), Failure> {
        let (path, fresh) = (data_dir.join(NAME), data_dir.join(".regions.json.new"));
        std::fs::write(&fresh, serde_json::to_vec_pretty(self).expect("plain data"))
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(|error| Failure::file("write the list of regions", &path, &error))
    }

    /// They run no more.
    pub fn remove(data_dir: &Path) {
        let _ = std::fs::remove_file(data_dir.join(NAME));
    }

    /// One by its name.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn named(&self, name: &str) -> Result<&Region, Failure> {
        self.regions.iter().find(|region| region.name == name).ok_or_else(|| {
            let all: Vec<&str> = self.regions.iter().map(|region| region.name.as_str()).collect();
            let remedy = format!("there are {}", all.join(", "));
            Failure::new(Exit::NotFound, format!("no region is called `{name}`"), "REGION", remedy)
        })
    }
}

impl Region {
    /// Its admin API.
    ///
    /// # Errors
    /// What was written down is no URL.
    pub fn admin(&self) -> Result<Admin, Failure> {
        Admin::new(&self.admin)
    }

    /// Whether it was failed on purpose: then nobody starts it again.
    pub fn is_failed(&self) -> bool {
        self.data_dir.join(FAILED).exists()
    }

    /// Says whether it is to stay dead.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn set_failed(&self, failed: bool) -> Result<(), Failure> {
        let path = self.data_dir.join(FAILED);
        let done = if failed { std::fs::write(&path, b"") } else { std::fs::remove_file(&path) };
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::file("mark the region", &path, &error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_found_by_name_and_marked() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Regions::find(directory.path()).unwrap(), None);
        assert_eq!(Regions::read(directory.path()).unwrap_err().exit, Exit::NotFound);
        let region = Region {
            name: "a".into(),
            data_dir: directory.path().into(),
            namespace: "n".into(),
            admin: "http://127.0.0.1:1".into(),
            endpoint: "tcp:10.78.0.1:7410".into(),
        };
        let all = Regions { pid: 1, wan: "veth".into(), conductor: None, regions: vec![region.clone()] };
        all.write(directory.path()).unwrap();
        assert_eq!(Regions::read(directory.path()).unwrap(), all);
        assert_eq!(all.named("a").unwrap(), &region);
        assert!(all.named("b").unwrap_err().remedy.contains("there are a"));
        assert!(!region.is_failed());
        region.set_failed(true).unwrap();
        assert!(region.is_failed());
        region.set_failed(false).unwrap();
        region.set_failed(false).unwrap();
        assert!(!region.is_failed());
        std::fs::write(directory.path().join(NAME), "{").unwrap();
        assert!(Regions::find(directory.path()).unwrap_err().to_string().contains("regions.json"));
    }
}
