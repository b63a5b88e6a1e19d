//! The shards of a node, as commands see them: one by one, or all together.

mod sharing;

pub use sharing::Sharing;

use crate::admin::Admin;
use crate::exit::{Done, Exit, Failure};
use crate::settings::{Connection, Endpoints, Environment};
use call::ShardId;
use call::admin::ShardState;
use call::shards::ShardPlace;
pub use control::admin::ShardFile;
use serde::Serialize;
use std::collections::HashMap;
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

/// Where a shard of the node in `data_dir` is; shard 0 is the directory itself.
pub fn place(data_dir: &Path, shard: ShardId) -> ShardPlace {
    let at = if shard == 0 { data_dir.to_owned() } else { data_dir.join(format!("shard-{shard}")) };
    let endpoint = format!("unix:{}", at.join("run/submit.sock").display());
    ShardPlace { endpoint, data_dir: at.display().to_string(), gone: false }
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
    shard: ShardId,
    failure: Failure,
}

/// What one shard says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Of<T> {
    /// Its number; absent if the node is alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
    /// What it says.
    #[serde(flatten)]
    pub said: T,
}

/// What all shards come to, and each shard's part of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Whole<T> {
    /// All together.
    #[serde(flatten)]
    pub sum: T,
    /// Empty if the node is not divided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<Of<T>>,
}

/// What all shards say, or the one node.
pub struct Each<T> {
    /// Those that answered, in the order of their numbers.
    pub said: Vec<T>,
    /// Who said it: as many, or none if the node is not divided.
    shards: Vec<ShardId>,
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
            return Ok(Each { said, shards: Vec::new(), is_divided: false, away: Vec::new() });
        };
        let (mut said, mut numbers, mut away) = (Vec::new(), Vec::new(), Vec::new());
        for (shard, admin) in shards {
            match admin.and_then(|admin| ask(&admin)) {
                Ok(answer) => {
                    said.push(answer);
                    numbers.push(shard);
                }
                Err(failure) if failure.exit == Exit::Connect => away.push(Away { shard, failure }),
                Err(failure) => return Err(failure),
            }
        }
        match (said.is_empty(), away.pop()) {
            (true, Some(last)) => Err(last.failure),
            (_, last) => {
                away.extend(last);
                Ok(Each { said, shards: numbers, is_divided: true, away })
            }
        }
    }

    /// What these shards have said.
    #[cfg(test)]
    pub fn of(said: Vec<(ShardId, T)>) -> Each<T> {
        let (shards, said) = said.into_iter().unzip();
        Each { said, shards, is_divided: true, away: Vec::new() }
    }

    /// The shards that answered; none if the node is not divided.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// What they said, each with its shard.
    pub fn take(&mut self) -> Vec<Of<T>> {
        let mut shards = self.shards.iter();
        self.said.drain(..).map(|said| Of { shard: shards.next().copied(), said }).collect()
    }

    /// Those that do not answer.
    pub fn away(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.away.iter().map(|away| away.shard)
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
        let names: Vec<String> = self.away.iter().map(|away| away.shard.to_string()).collect();
        let why = &self.away[0].failure.what;
        let what = format!("shard {} does not answer, and is not counted", names.join(", "));
        let remedy =
            "`millrace up` starts it again, and nothing of it is lost; `millrace shard list` shows all";
        eprintln!("{}", Failure::new(Exit::Connect, what, why.as_str(), remedy));
        Ok(Exit::Connect)
    }
}

impl<T: Clone> Each<Vec<T>> {
    /// Lists of all shards as one: what has the same name is added up, in the order in which it first comes.
    pub fn by_name(&mut self, name: impl Fn(&T) -> String, add: impl Fn(&mut T, &T)) -> Vec<Whole<T>> {
        let mut sums: Vec<Whole<T>> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for Of { shard, said } in self.take() {
            for said in said {
                let at = *places.entry(name(&said)).or_insert(sums.len());
                match sums.get_mut(at) {
                    Some(whole) => add(&mut whole.sum, &said),
                    None => sums.push(Whole { sum: said.clone(), shards: Vec::new() }),
                }
                sums[at].shards.extend(shard.map(|shard| Of { shard: Some(shard), said }));
            }
        }
        sums
    }
}

/// How a shard says that it is.
///
/// # Errors
/// It does not answer.
pub fn state(place: &ShardPlace) -> Result<ShardState, Failure> {
    admin_of(place)?.get("/v1/shards")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_same_name_is_added_up() {
        let lists = vec![vec![("a", 1), ("b", 2)], vec![("c", 4), ("b", 8)]];
        let add = |sum: &mut (&str, u32), part: &(&str, u32)| sum.1 += part.1;
        let mut each = Each::of([0, 3].into_iter().zip(lists.clone()).collect());
        let sums = each.by_name(|one| one.0.to_owned(), add);
        assert_eq!(sums.iter().map(|whole| whole.sum).collect::<Vec<_>>(), [("a", 1), ("b", 10), ("c", 4)]);
        assert_eq!(
            sums[1].shards,
            [Of { shard: Some(0), said: ("b", 2) }, Of { shard: Some(3), said: ("b", 8) }]
        );
        let mut alone =
            Each { said: lists[..1].to_vec(), shards: Vec::new(), is_divided: false, away: Vec::new() };
        assert!(alone.by_name(|one| one.0.to_owned(), add).iter().all(|whole| whole.shards.is_empty()));
    }
}
