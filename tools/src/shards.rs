//! The shards of a node, as commands see them: one by one, or all together.

use crate::admin::Admin;
use crate::exit::{Done, Exit, Failure};
use crate::settings::{Connection, Endpoints, Environment};
use call::admin::ShardState;
use call::shards::ShardPlace;
pub use control::admin::ShardFile;
use std::io;
use std::path::{Path, PathBuf};

/// The file of the shards of a data directory.
pub fn file_of(data_dir: &Path) -> PathBuf {
    data_dir.join(ShardFile::NAME)
}

/// What it says; `None` if the node is not divided.
///
/// # Errors
/// A file that cannot be read.
pub fn find(data_dir: &Path) -> Result<Option<ShardFile>, Failure> {
    let path = file_of(data_dir);
    match ShardFile::read(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Failure::file("read the shard map", &path, &error)),
    }
}

/// The admin API of a shard.
///
/// # Errors
/// It does not run.
pub fn admin_of(place: &ShardPlace) -> Result<Admin, Failure> {
    let data_dir = Path::new(&place.data_dir);
    match Endpoints::read(data_dir) {
        Ok(endpoints) => Admin::new(&endpoints.admin),
        Err(error) => {
            let what = format!("the shard does not run ({error})");
            let remedy = "`millrace up` starts it again; `millrace shard list` shows all";
            Err(Failure::new(Exit::Connect, what, place.data_dir.clone(), remedy))
        }
    }
}

/// A shard that does not answer.
#[derive(Debug)]
struct Away {
    shard: String,
    failure: Failure,
}

/// What all shards say, or the one node.
pub struct Each<T> {
    /// Those that answered, in the order of their numbers.
    pub said: Vec<T>,
    /// Whether there are several shards.
    pub is_divided: bool,
    away: Vec<Away>,
}

impl<T> Each<T> {
    /// Asks all.
    ///
    /// # Errors
    /// Nobody answers; one answers with another error than that it is not there.
    pub fn ask(
        node: &Connection,
        environment: &Environment,
        ask: impl Fn(&Admin) -> Result<T, Failure>,
    ) -> Result<Each<T>, Failure> {
        let shards = node.shards(environment)?;
        let Some(shards) = shards else {
            let said = vec![ask(&node.admin(environment)?)?];
            return Ok(Each { said, is_divided: false, away: Vec::new() });
        };
        let (mut said, mut away) = (Vec::new(), Vec::new());
        for (shard, admin) in shards {
            match admin.and_then(|admin| ask(&admin)) {
                Ok(answer) => said.push(answer),
                Err(failure) if failure.exit == Exit::Connect => away.push(Away { shard, failure }),
                Err(failure) => return Err(failure),
            }
        }
        match (said.is_empty(), away.pop()) {
            (true, Some(last)) => Err(last.failure),
            (_, last) => {
                away.extend(last);
                Ok(Each { said, is_divided: true, away })
            }
        }
    }

    /// Whether nobody is away.
    pub fn is_whole(&self) -> bool {
        self.away.is_empty()
    }

    /// Says which shards do not answer, and ends with it.
    ///
    /// # Errors
    /// None.
    pub fn end(&self) -> Done {
        if self.away.is_empty() {
            return Ok(Exit::Ok);
        }
        let names: Vec<&str> = self.away.iter().map(|away| away.shard.as_str()).collect();
        let why = &self.away[0].failure.what;
        let what = format!("shard {} does not answer, and is not counted", names.join(", "));
        let remedy =
            "`millrace up` starts it again, and nothing of it is lost; `millrace shard list` shows all";
        eprintln!("{}", Failure::new(Exit::Connect, what, why.as_str(), remedy));
        Ok(Exit::Connect)
    }
}

/// How a shard says that it is.
///
/// # Errors
/// It does not answer.
pub fn state(place: &ShardPlace) -> Result<ShardState, Failure> {
    admin_of(place)?.get("/v1/shards")
}
