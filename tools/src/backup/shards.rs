//! A copy of a node of several shards: a directory with a copy of each (`shard-0`, `shard-1`, ...) and a manifest that
//! has the shard map.
//!
//! Why an id that was accepted once is not accepted again by what is restored. Each shard's copy is what a crash at its
//! own *point* would have left, and no two shards ever accept one id: so no two copies hold one id, whatever their points.
//! What is left to show is that the map knows who may hold an id. Every shard's point lies between two looks at the map
//! on disk that saw the same version; otherwise all points are taken again ([`settled`]). A map is on disk before
//! anybody goes by it, so whatever a copy holds was accepted under this map or an older one: its shard is owner of the
//! slot, or a former one. And whom this map names no more as a former owner held nothing of the slot before this map was
//! on disk, so nothing at its point, which is later.

use super::{MANIFEST, Manifest, bytes_of, make_empty, restore_files};
use crate::exit::{Exit, Failure};
use crate::shards::{Of, ShardFile, file_of, place};
use call::shards::{ShardMap, ShardPlace};
use call::{ShardId, admin::Hold};
use control::datadir::write_durably;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What [`SetManifest::format`] says.
const FORMAT: &str = "millrace backup of shards 1";
/// Points are taken so often; shards join in seconds, and seldom.
const TRIES: usize = 10;

/// What the copies of all shards are: the manifest of the whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetManifest {
    /// What it is.
    format: String,
    /// The software that made it.
    version: String,
    /// When it was begun, Unix ns.
    made_at: u64,
    /// Who has which slots. Places are those of the node that was copied.
    map: ShardMap,
    /// Each shard, and the checksum of its manifest.
    shards: Vec<(ShardId, String)>,
    /// SHA-256 of this manifest as JSON with an empty `check`.
    check: String,
}

/// What a copy of all shards holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Copied {
    /// When it was begun, Unix ns.
    pub made_at: u64,
    /// The software that made it.
    pub version: String,
    /// Version of the shard map.
    pub map: u64,
    /// Calls waiting or leased, of all shards.
    pub pending: u64,
    /// Dead letters of all shards.
    pub dead_letters: u64,
    /// Each shard's copy.
    pub shards: Vec<Of<Manifest>>,
}

/// Takes the points of all shards under one map.
///
/// # Errors
/// Those of `look` and `hold`; a map that changes all the time.
pub fn settled<T>(
    mut look: impl FnMut() -> Result<ShardMap, Failure>,
    mut hold: impl FnMut(&ShardMap) -> Result<T, Failure>,
) -> Result<(ShardMap, T), Failure> {
    let mut map = look()?;
    for _ in 0..TRIES {
        let points = hold(&map)?;
        let again = look()?;
        if again == map {
            return Ok((map, points));
        }
        map = again;
    }
    let what = "the shard map changes all the time";
    Err(Failure::new(Exit::Refused, what, "shards.json", "take the backup when no shard joins or leaves"))
}

/// Where a shard's copy is.
pub fn directory_of(copy: &Path, shard: ShardId) -> PathBuf {
    copy.join(format!("shard-{shard}"))
}

impl SetManifest {
    /// Of these copies, which are whole; writes it into `directory`, which makes them one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(
        directory: &Path,
        map: ShardMap,
        made_at: u64,
        shards: Vec<(ShardId, Manifest)>,
    ) -> Result<Copied, Failure> {
        let checks = shards.iter().map(|(shard, manifest)| (*shard, manifest.check.clone())).collect();
        let version = env!("CARGO_PKG_VERSION").into();
        let (format, check) = (FORMAT.into(), String::new());
        let mut manifest = SetManifest { format, version, made_at, map, shards: checks, check };
        manifest.check = manifest.sum();
        let bytes = serde_json::to_vec_pretty(&manifest).expect("plain data");
        let written = write_durably(directory, MANIFEST, &bytes);
        written.map_err(|error| Failure::file("write it", &directory.join(MANIFEST), &error))?;
        Ok(manifest.copied(shards))
    }

    fn sum(&self) -> String {
        let bare = SetManifest { check: String::new(), ..self.clone() };
        control::artefacts::sha256(&serde_json::to_vec(&bare).expect("plain data"))
    }

    /// Of the copy in `directory`; `None` if it is of one node.
    ///
    /// # Errors
    /// There is none; it is damaged.
    pub fn find(directory: &Path) -> Result<Option<SetManifest>, Failure> {
        #[derive(Deserialize)]
        struct Format {
            format: String,
        }
        let bytes = bytes_of(directory)?;
        let is_of_shards =
            serde_json::from_slice::<Format>(&bytes).is_ok_and(|manifest| manifest.format == FORMAT);
        if !is_of_shards {
            return Ok(None);
        }
        let wrong = |what: String| {
            let place = directory.join(MANIFEST).display().to_string();
            Failure::input(what, place, "take another backup: this one is damaged")
        };
        let manifest: SetManifest =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("not a manifest: {error}")))?;
        if manifest.sum() != manifest.check {
            return Err(wrong("the manifest's checksum does not match".into()));
        }
        if let Some(fault) = manifest.map.fault() {
            return Err(wrong(format!("its shard map is none: {fault}")));
        }
        let here: Vec<ShardId> = manifest.shards.iter().map(|(shard, _)| *shard).collect();
        if here != manifest.map.present().collect::<Vec<_>>() {
            return Err(wrong("it has not one copy of each shard".into()));
        }
        Ok(Some(manifest))
    }

    fn copied(&self, shards: Vec<(ShardId, Manifest)>) -> Copied {
        Copied {
            made_at: self.made_at,
            version: self.version.clone(),
            map: self.map.version,
            pending: shards.iter().map(|(_, manifest)| manifest.pending).sum(),
            dead_letters: shards.iter().map(|(_, manifest)| manifest.dead_letters).sum(),
            shards: shards.into_iter().map(|(shard, said)| Of { shard: Some(shard), said }).collect(),
        }
    }

    /// Puts all shards into `data`, which must not be there or be empty; with nothing, only checks them. The map and
    /// shard 0's `VERSION` are written last, so that what is not whole is no data directory.
    ///
    /// # Errors
    /// Those of [`super::restore`]; a shard's copy is not the one that the manifest is about.
    pub fn restore(
        &self,
        from: &Path,
        data: Option<&Path>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Copied, Failure> {
        let data = data.map(|data| {
            make_empty(data)?;
            data.canonicalize().map_err(|error| Failure::file("find it", data, &error))
        });
        let data = data.transpose()?;
        let mut shards = Vec::new();
        let mut done = 0;
        // Shard 0 is the directory itself: its `VERSION` makes it one.
        for (shard, check) in self.shards.iter().rev() {
            let copy = directory_of(from, *shard);
            let manifest = Manifest::read(&copy)?;
            if manifest.check != *check {
                let what = format!("the copy of shard {shard} is of another backup");
                let remedy = "copy the backup again as a whole, or take another one";
                return Err(Failure::input(what, copy.join(MANIFEST).display().to_string(), remedy));
            }
            let into = data.as_deref().map(|data| PathBuf::from(place(data, *shard).data_dir));
            let before = || match (&data, shard) {
                (Some(data), 0) => self.write_map(data),
                _ => Ok(()),
            };
            let mut say = |bytes: u64| progress(done + bytes);
            restore_files(&copy, &manifest, into.as_deref(), &mut say, &before)?;
            done += manifest.bytes();
            shards.push((*shard, manifest));
        }
        shards.reverse();
        Ok(self.copied(shards))
    }

    /// The same slots, other places, and a secret that no other node's shards know.
    fn write_map(&self, data: &Path) -> Result<(), Failure> {
        let path = file_of(data);
        let place =
            |(shard, old): (ShardId, &ShardPlace)| ShardPlace { gone: old.gone, ..place(data, shard) };
        let places = (0..).zip(&self.map.shards).map(place).collect();
        let secret = control::admin::entropy()
            .map_err(|error| Failure::file("read", Path::new("/dev/urandom"), &error))?;
        let map = ShardMap { shards: places, ..self.map.clone() };
        let written = ShardFile { secret: format!("{secret:032x}"), map }.write(&path);
        written.map_err(|error| Failure::file("write the shard map", &path, &error))
    }
}

/// Whether what holds a log still is what held it before: one that was started again may have removed segments.
///
/// # Errors
/// It is not.
pub fn is_the_same(before: &Hold, now: &Hold) -> Result<(), Failure> {
    if before.incarnation == now.incarnation {
        return Ok(());
    }
    let what = "the node was started again while it was copied";
    Err(Failure::new(Exit::Connect, what, &before.directory, "empty the directory and take the backup again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_taken_under_one_map() {
        let places = |count| vec![ShardPlace::default(); count];
        let first = ShardMap::fresh(places(2));
        let second = first.grown(places(1));
        let mut looks = vec![first.clone(), second.clone(), second.clone()].into_iter();
        let mut held = Vec::new();
        let points = settled(
            || Ok(looks.next().unwrap()),
            |map| {
                held.push(map.version);
                Ok(map.shards.len())
            },
        );
        assert_eq!(points.unwrap(), (second.clone(), 3));
        assert_eq!(held, [1, 2], "a shard that joined meanwhile has a point, too");
        let mut version = 0;
        let restless = settled(
            || {
                version += 1;
                Ok(ShardMap { version, ..first.clone() })
            },
            |_| Ok(()),
        );
        assert_eq!(restless.unwrap_err().exit, Exit::Refused);
    }
}
