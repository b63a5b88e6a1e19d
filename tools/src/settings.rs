//! Where the node is: what was typed, what a running node has written down, or the defaults.

use crate::admin::Admin;
use crate::exit::{Exit, Failure};
use crate::regions::Regions;
use crate::shards::{self, ShardFile};
use call::ShardId;
use call::shards::ShardPlace;
pub use control::Endpoints;
use millrace_client::Endpoint;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The variable that names the data directory. Read by `main` only.
pub const DATA_VARIABLE: &str = "MILLRACE_DATA";
/// The data directory, if nothing else is said.
pub const DATA_DIR: &str = "./millrace-data";
/// Port of the native protocol on the loopback, if nothing else is said.
pub const TCP_PORT: u16 = 7410;
/// Port of the admin API on the loopback, if nothing else is said.
pub const ADMIN_PORT: u16 = 7411;

/// What the environment says; made by `main`.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `MILLRACE_DATA`.
    pub data_dir: Option<PathBuf>,
}

impl Environment {
    /// The data directory: as typed, else of the environment, else the default.
    pub fn data_dir(&self, typed: Option<&Path>) -> PathBuf {
        typed.map(Path::to_owned).or_else(|| self.data_dir.clone()).unwrap_or_else(|| DATA_DIR.into())
    }
}

/// The admin API of a shard, or why there is none.
pub type Reached = Result<Admin, Failure>;

/// What the nodes are (`region` or `shard`), and each by name.
pub type Everyone = (&'static str, Vec<(String, Reached)>);

/// Which node to speak to.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Node")]
pub struct Connection {
    /// Data directory of a node on this host, whose endpoints are used [default: $MILLRACE_DATA, ./millrace-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Native endpoint: tcp:HOST:PORT or unix:PATH [default: as the data directory says, else tcp:127.0.0.1:7410]
    #[arg(long, value_name = "ENDPOINT")]
    pub endpoint: Option<Endpoint>,
    /// Admin API [default: as the data directory says, else http://127.0.0.1:7411]
    #[arg(long = "admin", value_name = "URL")]
    pub admin: Option<String>,
}

/// The endpoints of the node that uses this data directory; `None` if there is none.
fn found(data_dir: &Path) -> Result<Option<Endpoints>, Failure> {
    if let Some(endpoints) = found_in_shards(data_dir)? {
        return Ok(Some(endpoints));
    }
    match Endpoints::read(data_dir) {
        Ok(endpoints) => Ok(Some(endpoints)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            found_in_regions(data_dir)
        }
        Err(error) => {
            let what = format!("the node's endpoints cannot be read: {error}");
            let remedy = "remove the file, or name the node with --endpoint and --admin";
            Err(Failure::input(what, data_dir.join("run/control.json").display().to_string(), remedy))
        }
    }
}

/// Those of the first shard that takes connections, if the directory is of several: any of them will do.
fn found_in_shards(data_dir: &Path) -> Result<Option<Endpoints>, Failure> {
    let Some(file) = shards::find(data_dir)? else { return Ok(None) };
    let serves = |endpoints: &Endpoints| {
        endpoints.unix.strip_prefix("unix:").is_some_and(|path| UnixStream::connect(path).is_ok())
    };
    let endpoints = |place: &ShardPlace| Endpoints::read(Path::new(&place.data_dir)).ok();
    Ok(file.map.shards.iter().filter_map(endpoints).find(serves))
}

/// Those of the first region that runs, if the directory is of several.
fn found_in_regions(data_dir: &Path) -> Result<Option<Endpoints>, Failure> {
    let regions = Regions::find(data_dir)?.map_or(Vec::new(), |regions| regions.regions);
    Ok(regions.iter().find_map(|region| Endpoints::read(&region.data_dir).ok()))
}

impl Connection {
    /// All nodes that are told what holds for all: of regions or shards by name, if the data directory is of several and no
    /// other node is named; none if there is one.
    ///
    /// # Errors
    /// A list of regions or a shard map that cannot be read.
    pub fn everyone(&self, environment: &Environment) -> Result<Everyone, Failure> {
        if let Some(shards) = self.shards(environment)? {
            let named = shards.into_iter().map(|(shard, admin)| (shard.to_string(), admin));
            return Ok(("shard", named.collect()));
        }
        if self.admin.is_some() || self.endpoint.is_some() {
            return Ok(("region", Vec::new()));
        }
        let regions = Regions::find(&environment.data_dir(self.data_dir.as_deref()))?;
        let regions = regions.map_or(Vec::new(), |regions| regions.regions);
        Ok(("region", regions.iter().map(|region| (region.name.clone(), region.admin())).collect()))
    }

    /// The admin APIs of all shards by number, if the data directory is of several and no other node is named.
    ///
    /// # Errors
    /// A shard map that cannot be read.
    pub fn shards(&self, environment: &Environment) -> Result<Option<Vec<(ShardId, Reached)>>, Failure> {
        if self.admin.is_some() || self.endpoint.is_some() {
            return Ok(None);
        }
        let file = shards::find(&environment.data_dir(self.data_dir.as_deref()))?;
        Ok(file.map(|ShardFile { map, .. }| {
            let reach = |shard| (shard, shards::admin_of(&map.shards[usize::from(shard)]));
            map.present().map(reach).collect()
        }))
    }

    /// The admin API of one shard, or of the one node.
    ///
    /// # Errors
    /// It does not run; a shard map that cannot be read.
    pub fn admin_of(&self, environment: &Environment, shard: Option<ShardId>) -> Reached {
        let Some(shard) = shard else { return self.admin(environment) };
        let of = self.shards(environment)?.into_iter().flatten().find(|(number, _)| *number == shard);
        of.map_or_else(|| self.admin(environment), |(_, admin)| admin)
    }

    fn found(&self, environment: &Environment) -> Result<Option<Endpoints>, Failure> {
        found(&environment.data_dir(self.data_dir.as_deref()))
    }

    /// The native endpoint. On the same host the Unix socket: it costs half of what TCP does.
    ///
    /// # Errors
    /// Endpoints written down that cannot be read.
    pub fn endpoint(&self, environment: &Environment) -> Result<Endpoint, Failure> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        match self.found(environment)? {
            None => Ok(Endpoint::Tcp(format!("127.0.0.1:{TCP_PORT}"))),
            Some(found) => found.unix.parse().map_err(|error: String| {
                Failure::new(Exit::Internal, error, "run/control.json", "give --endpoint")
            }),
        }
    }

    /// The admin API.
    ///
    /// # Errors
    /// A URL that is none; endpoints written down that cannot be read.
    pub fn admin(&self, environment: &Environment) -> Result<Admin, Failure> {
        if let Some(base) = &self.admin {
            return Admin::new(base);
        }
        match self.found(environment)? {
            None => Admin::new(&format!("http://127.0.0.1:{ADMIN_PORT}")),
            Some(found) => Admin::new(&found.admin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(directory: &Path) -> Environment {
        Environment { data_dir: Some(directory.to_owned()) }
    }

    #[test]
    fn what_is_typed_wins_then_what_is_found_then_the_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let environment = environment(directory.path());
        let mut connection = Connection::default();
        assert_eq!(connection.endpoint(&environment).unwrap().to_string(), "tcp:127.0.0.1:7410");
        assert_eq!(connection.admin(&environment).unwrap().base(), "http://127.0.0.1:7411");
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let control =
            r#"{"pid":7,"admin":"http://127.0.0.1:9","tcp":null,"unix":"unix:/x.sock","shm":"shm:/y"}"#;
        std::fs::write(directory.path().join("run/control.json"), control).unwrap();
        assert_eq!(connection.endpoint(&environment).unwrap().to_string(), "unix:/x.sock");
        assert_eq!(connection.admin(&environment).unwrap().base(), "http://127.0.0.1:9");
        connection.endpoint = Some("tcp:a:1".parse().unwrap());
        connection.admin = Some("http://b:2/".into());
        assert_eq!(connection.endpoint(&environment).unwrap().to_string(), "tcp:a:1");
        assert_eq!(connection.admin(&environment).unwrap().base(), "http://b:2");
    }

    #[test]
    fn a_broken_list_of_endpoints_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        std::fs::write(directory.path().join("run/control.json"), "{").unwrap();
        let error = Connection::default().endpoint(&environment(directory.path())).unwrap_err().to_string();
        assert!(error.contains("run/control.json") && error.contains("--endpoint"), "{error}");
    }

    #[test]
    fn the_data_directory_has_an_order_too() {
        let environment = Environment { data_dir: Some("/env".into()) };
        assert_eq!(environment.data_dir(Some(Path::new("/typed"))), Path::new("/typed"));
        assert_eq!(environment.data_dir(None), Path::new("/env"));
        assert_eq!(Environment::default().data_dir(None), Path::new(DATA_DIR));
    }
}
