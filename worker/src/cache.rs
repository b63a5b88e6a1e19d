//! The host's cache of compiled modules and unpacked bundles: what is still of use there, and removing what is not.
//!
//! An artefact is of use while a function that is published has it, and after that for as long as a call that began
//! with it may run. The version before is of use until the new one is ready here. What a node has not published again
//! some time after a connection was made is no longer published; until then nothing is removed. Of what is of no use the
//! newest is kept as far as there is room for it, so that going back to the version before costs nothing.
//!
//! [`Uses`] decides; [`remove_unused`] lists and removes files. A core that has mapped a file keeps what it mapped; a
//! bundle that is mounted anywhere stays.

use call::{FunctionId, FunctionSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How the cache is kept small.
#[derive(Clone, Debug)]
pub struct Tidiness {
    /// Bytes of artefacts of no use that are kept.
    pub unused_bytes: u64,
    /// After a connection was made: how long the node may take to publish all functions.
    pub settle: Duration,
    /// What an artefact's time is prolonged by, beyond the longest call: a core may hear later than this host that there
    /// is a new version.
    pub slack: Duration,
    /// Between two looks.
    pub look: Duration,
}

impl Tidiness {
    /// Room for `unused_bytes`, looks once a minute.
    pub fn new(unused_bytes: u64) -> Tidiness {
        let minute = Duration::from_secs(60);
        Tidiness { unused_bytes, settle: minute, slack: minute, look: minute }
    }
}

/// An artefact that a function had, and until when it is of use; without an end until the version after it is ready.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Former {
    function: FunctionId,
    artefact: String,
    lasts: Duration,
    until: Option<Instant>,
}

/// A published function.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Use {
    artefact: String,
    /// The longest that a call which began with it may last.
    lasts: Duration,
    /// Said by the node since the last connection was made.
    confirmed: bool,
}

/// Which artefacts are of use.
#[derive(Debug)]
pub struct Uses {
    published: BTreeMap<FunctionId, Use>,
    former: Vec<Former>,
    /// From when on what is not confirmed is not published; none while there is no connection.
    settled: Option<Instant>,
    settle: Duration,
    slack: Duration,
}

impl Uses {
    /// Nothing is published yet, and nothing known.
    pub fn new(tidiness: &Tidiness) -> Uses {
        let Tidiness { settle, slack, .. } = *tidiness;
        Uses { published: BTreeMap::new(), former: Vec::new(), settled: None, settle, slack }
    }

    /// A connection was made; the node publishes everything again.
    pub fn connected(&mut self, now: Instant) {
        self.published.values_mut().for_each(|known| known.confirmed = false);
        self.settled = Some(now + self.settle);
    }

    /// The connection ended: what is in force cannot be known.
    pub fn disconnected(&mut self) {
        self.settled = None;
    }

    /// The node publishes a function.
    pub fn published(&mut self, spec: &FunctionSpec) {
        let lasts = Duration::from_millis(spec.timeout_ms.saturating_add(spec.limits.grace_ms)) + self.slack;
        let fresh = Use { artefact: spec.artefact.clone(), lasts, confirmed: true };
        let function = spec.id();
        let Some(before) = self.published.insert(function, fresh) else { return };
        if before.artefact != spec.artefact {
            let Use { artefact, lasts, .. } = before;
            self.former.push(Former { function, artefact, lasts, until: None });
        }
    }

    /// A version of a function is ready here. One that is not the newest any more changes nothing.
    pub fn ready(&mut self, now: Instant, spec: &FunctionSpec) {
        if self.published.get(&spec.id()).is_some_and(|known| known.artefact == spec.artefact) {
            self.end_former(now, spec.id());
        }
    }

    fn end_former(&mut self, now: Instant, function: FunctionId) {
        for former in self.former.iter_mut().filter(|former| former.function == function) {
            former.until.get_or_insert(now + former.lasts);
        }
    }

    /// The function is no longer published.
    pub fn retired(&mut self, now: Instant, function: FunctionId) {
        if let Some(Use { artefact, lasts, .. }) = self.published.remove(&function) {
            self.former.push(Former { function, artefact, lasts, until: None });
        }
        self.end_former(now, function);
    }

    /// The artefacts that are of use; none if that cannot be known now.
    pub fn needed(&mut self, now: Instant) -> Option<BTreeSet<String>> {
        if self.settled.is_none_or(|settled| now < settled) {
            return None;
        }
        let unsaid = |(function, known): (&FunctionId, &Use)| (!known.confirmed).then_some(*function);
        let gone: Vec<FunctionId> = self.published.iter().filter_map(unsaid).collect();
        gone.into_iter().for_each(|function| self.retired(now, function));
        self.former.retain(|former| former.until.is_none_or(|until| now < until));
        let former = self.former.iter().map(|former| &former.artefact);
        Some(self.published.values().map(|known| &known.artefact).chain(former).cloned().collect())
    }

    /// Its invariants.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check(&self) {
        for former in &self.former {
            let is_published = self.published.contains_key(&former.function);
            assert!(is_published || former.until.is_some(), "{former:?} has no end");
        }
    }
}

/// What of one artefact is in the cache.
#[derive(Default)]
struct Cached {
    paths: Vec<PathBuf>,
    bytes: u64,
    newest: Option<SystemTime>,
}

/// Removes the artefacts that are not `needed`, but for the newest of them, as far as they fit into `room` bytes; what
/// was removed.
pub fn remove_unused(cache: &Path, needed: &BTreeSet<String>, room: u64) -> Vec<String> {
    let mut unused: Vec<(String, Cached)> =
        cached(cache).into_iter().filter(|(sha256, _)| !needed.contains(sha256)).collect();
    unused.sort_by(|a, b| b.1.newest.cmp(&a.1.newest).then(a.0.cmp(&b.0)));
    let mut kept = 0_u64;
    let mut removed = Vec::new();
    for (sha256, found) in unused {
        kept = kept.saturating_add(found.bytes);
        if kept <= room || is_mounted(&sha256) {
            continue;
        }
        kept -= found.bytes;
        found.paths.iter().for_each(|path| remove(path));
        removed.push(sha256);
    }
    removed
}

/// All artefacts that are there, by their hash.
fn cached(cache: &Path) -> BTreeMap<String, Cached> {
    let mut all: BTreeMap<String, Cached> = BTreeMap::new();
    for folder in [cache.to_owned(), cache.join("bundles")] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (Some(sha256), Ok(found)) = (hash_of(&name), entry.metadata()) else { continue };
            let cached = all.entry(sha256.to_owned()).or_default();
            cached.bytes += bytes(&entry.path());
            // Listings go first: without one a directory is no bundle.
            let at = if name.ends_with(".json") { 0 } else { cached.paths.len() };
            cached.paths.insert(at, entry.path());
            // The directories of bundles have no time of their own.
            cached.newest = cached.newest.max(found.modified().ok());
        }
    }
    all
}

/// The hash with which a name in the cache begins.
fn hash_of(name: &str) -> Option<&str> {
    let hash = name.get(..64)?;
    let is_rest = |rest: &str| matches!(rest, "" | ".wasm" | ".json") || rest.ends_with(".cwasm");
    (hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && is_rest(&name[64..])).then_some(hash)
}

/// Bytes on the disk of a path and of all below it.
fn bytes(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    let below = || fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes(&entry.path())).sum();
    found.len() + if found.is_dir() { below() } else { 0 }
}

/// Whether a bundle is in a sandbox of any process that may be looked at. Its hash stands in the table of mounts.
fn is_mounted(sha256: &str) -> bool {
    let tables =
        fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path().join("mountinfo"));
    tables
        .filter_map(|table| fs::read(table).ok())
        .any(|table| table.windows(sha256.len()).any(|window| window == sha256.as_bytes()))
}

fn remove(path: &Path) {
    // What cannot be removed is tried again at the next look.
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(name: &str, artefact: &str) -> FunctionSpec {
        let mut spec =
            FunctionSpec { name: name.into(), artefact: artefact.into(), ..FunctionSpec::default() };
        (spec.timeout_ms, spec.limits.grace_ms) = (4000, 1000);
        spec
    }

    fn tidiness() -> Tidiness {
        Tidiness { settle: Duration::from_secs(10), slack: Duration::from_secs(5), ..Tidiness::new(0) }
    }

    fn names(needed: Option<BTreeSet<String>>) -> String {
        needed.expect("it is settled").into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_version_before_is_of_use_until_calls_of_it_have_ended() {
        let begun = Instant::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        let mut uses = Uses::new(&tidiness());
        assert_eq!(uses.needed(at(100)), None, "nothing is known");
        uses.connected(at(100));
        uses.published(&spec("a", "1"));
        uses.published(&spec("b", "9"));
        assert_eq!(uses.needed(at(109)), None, "the node may publish more");
        assert_eq!(names(uses.needed(at(110))), "1 9");
        uses.published(&spec("a", "2"));
        assert_eq!(names(uses.needed(at(1000))), "1 2 9", "the new one is not ready");
        uses.ready(at(1000), &spec("a", "1"));
        assert_eq!(names(uses.needed(at(1011))), "1 2 9", "it is still not ready");
        uses.ready(at(1000), &spec("a", "2"));
        assert_eq!(names(uses.needed(at(1009))), "1 2 9", "a call may still run");
        assert_eq!(names(uses.needed(at(1010))), "2 9");
        uses.retired(at(1020), spec("b", "").id());
        assert_eq!((names(uses.needed(at(1029))), names(uses.needed(at(1030)))), ("2 9".into(), "2".into()));
        // Another node does not know `a`.
        uses.disconnected();
        assert_eq!(uses.needed(at(2000)), None);
        uses.connected(at(2000));
        uses.published(&spec("c", "3"));
        assert_eq!(names(uses.needed(at(2010))), "2 3", "it ends as if it were retired now");
        assert_eq!(names(uses.needed(at(2020))), "3");
    }

    proptest! {
        /// Whatever happens, what is published and confirmed is of use, and in the end nothing else.
        #[test]
        fn what_is_published_is_of_use(steps in prop::collection::vec((0..6_u8, 0..4_u8, 0..5_u8, 0..20_u64), 1..60)) {
            let mut uses = Uses::new(&tidiness());
            let mut published: BTreeMap<u8, String> = BTreeMap::new();
            let mut now = Instant::now();
            for (what, function, artefact, seconds) in steps {
                now += Duration::from_secs(seconds);
                let (name, artefact) = (function.to_string(), artefact.to_string());
                let id = spec(&name, "").id();
                match what {
                    0 | 1 => {
                        uses.published(&spec(&name, &artefact));
                        published.insert(function, artefact);
                    }
                    2 => uses.ready(now, &spec(&name, &artefact)),
                    3 => {
                        uses.retired(now, id);
                        published.remove(&function);
                    }
                    4 => uses.disconnected(),
                    _ => {
                        uses.connected(now);
                        published.iter().for_each(|(function, artefact)| uses.published(&spec(&function.to_string(), artefact)));
                    }
                }
                uses.check();
                if let Some(needed) = uses.needed(now) {
                    prop_assert!(published.values().all(|artefact| needed.contains(artefact)));
                }
            }
            uses.connected(now);
            for (function, artefact) in &published {
                uses.published(&spec(&function.to_string(), artefact));
                uses.ready(now, &spec(&function.to_string(), artefact));
            }
            now += Duration::from_secs(10);
            uses.needed(now);
            let last = uses.needed(now + Duration::from_secs(10)).expect("it is settled");
            prop_assert_eq!(last, published.values().cloned().collect());
        }
    }

    /// Three artefacts, the first is the oldest: one compiled, two unpacked.
    fn fill(cache: &Path) -> [String; 3] {
        let hashes = ["a", "b", "c"].map(|letter| letter.repeat(64));
        let write = |name: String, age: u64| {
            let path = cache.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, [0; 1000]).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        };
        write(format!("{}.wasm", hashes[0]), 300);
        write(format!("{}-0123456789abcdef.cwasm", hashes[0]), 300);
        for (hash, age) in [(&hashes[1], 200), (&hashes[2], 100)] {
            write(format!("bundles/{hash}.json"), age);
            write(format!("bundles/{hash}/inner/file"), age);
        }
        write("bundles/.new-1-x".into(), 1);
        write("other".into(), 1);
        hashes
    }

    #[test]
    fn of_what_is_of_no_use_the_newest_stays_as_far_as_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path();
        let [first, second, third] = fill(cache);
        let needed = BTreeSet::from([third.clone()]);
        assert_eq!(remove_unused(cache, &needed, 1 << 20), [""; 0], "there is room for all");
        let of_second = cached(cache)[&second].bytes;
        assert_eq!(remove_unused(cache, &needed, of_second), std::slice::from_ref(&first));
        let left = |cache: &Path| cached(cache).into_keys().collect::<Vec<_>>();
        assert_eq!(left(cache), [second.clone(), third.clone()]);
        assert_eq!(remove_unused(cache, &needed, 0), [second]);
        assert_eq!(left(cache), std::slice::from_ref(&third));
        assert!(cache.join("bundles").join(&third).join("inner/file").exists());
        assert!(cache.join("bundles/.new-1-x").exists() && cache.join("other").exists(), "not ours to judge");
    }
}
