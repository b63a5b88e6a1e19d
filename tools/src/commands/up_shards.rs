//! `millrace up --shards N`: a node of several shards, each a whole platform with a core, a log and a data directory of its
//! own. Shard 0 is the data directory itself, so that a node that was alone becomes the first of several.

use super::control::failure;
use super::up::Up;
use crate::admin::Admin;
use crate::children::{Child, ending};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::pairs;
use crate::shards::{self, ShardFile, Sharing, admin_of, file_of, place};
use ::call::admin::{FunctionState, Shaping, ShardState};
use ::call::shards::SHARDS_MAX;
use ::call::shares::ShareTable;
use ::call::{ShardId, ShardMap};
use control::datadir::{DataDir, VERSION};
use driver::notes::say;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long all shards together may take until they serve: the recovery of their logs is the longest part.
const START_TIME: Duration = Duration::from_secs(180);
/// Between two looks at the children.
const LOOK: Duration = Duration::from_millis(50);
/// What a shard gets beyond its own drain before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(15);
/// Between two questions to shards what they hold of slots that others have now.
const RELEASE_LOOK: Duration = Duration::from_secs(1);
/// A shard that says nothing for so long is asked again later: the others are looked after meanwhile.
const ANSWER: Duration = Duration::from_secs(2);
/// How many shards there are to be: written by `millrace shard add`, taken away when it is so.
pub const WANTED: &str = "shards-wanted";
/// Which shard is to leave: written by `millrace shard remove`, taken away when its slots are others'.
pub const LEAVING: &str = "shards-leaving";

/// Shards of one node.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Shards")]
pub struct ShardsArguments {
    /// Divide the node into so many shards, each with a core and a log of its own; later starts may say more, not fewer
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64),
        conflicts_with_all = ["regions", "region", "peer"])]
    pub shards: Option<u16>,
    /// CPU of the node, if there is one for it; said to each shard
    #[arg(long, hide = true, requires = "core_cpus")]
    pub node_cpu: Option<usize>,
    /// CPUs of the cores; said to each shard
    #[arg(long, hide = true, value_delimiter = ',')]
    pub core_cpus: Vec<usize>,
}

/// What runs.
struct World<'a> {
    up: &'a Up,
    data_dir: PathBuf,
    executable: PathBuf,
    file: ShardFile,
    /// By shard.
    children: BTreeMap<ShardId, Child>,
    /// Shards that may not go by the newest map yet.
    behind: Vec<ShardId>,
    /// When shards are asked again what they hold.
    release_at: Instant,
}

/// Starts all shards and keeps them running until Ctrl-C.
///
/// # Errors
/// A shard that does not start; fewer shards than there are.
pub fn run(up: &Up, data_dir: &Path) -> Done {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Machine, "cannot find this program", error.to_string(), ""))?;
    std::fs::create_dir_all(data_dir)
        .map_err(|error| Failure::file("make the directory", data_dir, &error))?;
    let data_dir =
        data_dir.canonicalize().map_err(|error| Failure::file("find the directory", data_dir, &error))?;
    interrupt::flag();
    for order in [WANTED, LEAVING] {
        let _ = std::fs::remove_file(data_dir.join(order));
    }
    let file = file_at_start(&data_dir, up.shards.shards.map(usize::from))?;
    let (children, behind) = (BTreeMap::new(), Vec::new());
    World { up, data_dir, executable, file, children, behind, release_at: Instant::now() }.run()
}

/// The map with which all start: as it is, with more shards if more are said.
fn file_at_start(data_dir: &Path, said: Option<usize>) -> Result<ShardFile, Failure> {
    let known = shards::find(data_dir)?;
    let count = known.as_ref().map_or(1, |file| file.map.shards.len());
    let present = known.as_ref().map_or(1, |file| file.map.present().count());
    let said = said.unwrap_or(present);
    if said < present {
        let what = format!("the node has {present} shards, which hold calls");
        let remedy =
            format!("say --shards {present}, or leave it out; `millrace shard remove` takes one away");
        return Err(Failure::new(Exit::Usage, what, "--shards", remedy));
    }
    // Numbers of shards that are gone are not given again.
    let wanted = count + (said - present);
    let is_used = data_dir.join("VERSION").exists();
    // Nothing is written into what is somebody else's, or in use.
    drop(DataDir::open(data_dir).map_err(|error| failure(&error))?);
    let places =
        |from: usize| (from..wanted).map(|shard| place(data_dir, shard as ShardId)).collect::<Vec<_>>();
    let known_before = known.as_ref().map(|file| file.map.present().collect());
    let file = match known {
        Some(file) if wanted == count => return Ok(file),
        Some(file) => ShardFile { map: file.map.grown(places(count)), ..file },
        None => {
            let secret = control::admin::entropy()
                .map_err(|error| Failure::file("read", Path::new("/dev/urandom"), &error))?;
            // What a node alone has held, its first shard holds.
            let map = match is_used {
                true => ShardMap::of_one(place(data_dir, 0)).grown(places(1)),
                false => ShardMap::fresh(places(0)),
            };
            ShardFile { secret: format!("{secret:032x}"), map }
        }
    };
    let roster = known_before.or(is_used.then(|| vec![0]));
    for shard in 1..wanted {
        prepare(data_dir, shard, roster.as_deref())?;
    }
    write(data_dir, &file)?;
    Ok(file)
}

fn write(data_dir: &Path, file: &ShardFile) -> Result<(), Failure> {
    let path = file_of(data_dir);
    file.write(&path).map_err(|error| Failure::file("write the shard map", &path, &error))
}

/// Gives a new shard the functions of shard 0 and what operators said about them. The directory is there whole or not.
/// Until it is told otherwise all limits are the shards' of before.
fn prepare(data_dir: &Path, shard: usize, before: Option<&[ShardId]>) -> Result<(), Failure> {
    let at = PathBuf::from(place(data_dir, shard as ShardId).data_dir);
    if at.exists() {
        return Ok(());
    }
    let fresh = at.with_extension("new");
    let copy = || -> io::Result<()> {
        let _ = std::fs::remove_dir_all(&fresh);
        std::fs::create_dir_all(fresh.join("artefacts"))?;
        // The catalog first: an artefact is there before the catalog names it.
        for name in ["catalog.json", "shaping.json"].into_iter().filter(|name| data_dir.join(name).exists()) {
            std::fs::copy(data_dir.join(name), fresh.join(name))?;
        }
        for entry in std::fs::read_dir(data_dir.join("artefacts"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), fresh.join("artefacts").join(entry.file_name()))?;
            }
        }
        if let Some(roster) = before {
            let table = ShareTable { version: 1, rosters: vec![roster.to_vec()], rows: Vec::new() };
            let bytes = serde_json::to_vec(&table).expect("plain data");
            std::fs::write(fresh.join(control::admin::SHARES), bytes)?;
        }
        std::fs::write(fresh.join("VERSION"), format!("{VERSION}\n"))?;
        std::fs::rename(&fresh, &at)
    };
    copy().map_err(|error| Failure::file("make the directory of a shard", &at, &error))
}

impl World<'_> {
    fn run(mut self) -> Done {
        for shard in self.file.map.present() {
            let command = self.shard(shard)?;
            self.children.insert(shard, Child::start("shard", command)?);
        }
        let served = self.until_serving(0).and_then(|()| {
            let sharing = Sharing::start(&self.data_dir)?;
            self.announce();
            let watched = self.watch();
            sharing.stop();
            watched
        });
        // All at once: each waits for its own calls, and none for another's.
        self.children.values().for_each(|child| child.signal(nix::sys::signal::Signal::SIGTERM));
        let drain = self.up.drain() + KILL_AFTER;
        for child in self.children.values_mut() {
            child.end(drain);
        }
        served.map(|()| Exit::Ok)
    }

    fn directory(&self, shard: ShardId) -> &Path {
        Path::new(&self.file.map.shards[usize::from(shard)].data_dir)
    }

    /// The command of a shard: an `up` of its own, on CPUs that it shares with no other as far as there are enough.
    fn shard(&self, number: ShardId) -> Result<Command, Failure> {
        let shard = usize::from(number);
        let count = self.file.map.shards.len().max(shard + 1);
        let (free, taken) = self.up.cpus(count)?;
        let mut own: Vec<usize> = taken.iter().copied().skip(shard).step_by(count).collect();
        if own.is_empty() {
            own.push(taken[shard % taken.len()]);
        }
        let own: Vec<String> = own.iter().map(usize::to_string).collect();
        let directory = place(&self.data_dir, number).data_dir;
        let _ = std::fs::remove_file(Path::new(&directory).join("run/up.json"));
        let mut command = Command::new(&self.executable);
        command.args(["up", "--data-dir", &directory, "--shard", &shard.to_string(), "--shard-file"]);
        command.arg(file_of(&self.data_dir)).args(["--core-cpus", &own.join(",")]);
        if !free.is_empty() {
            command.args(["--node-cpu", &free[shard % free.len()].to_string()]);
        }
        let (listen, admin) = self.up.addresses();
        command.args(["--listen", &behind(listen, shard).to_string()]);
        command.args(["--admin", &behind(admin, shard).to_string()]);
        command.args(self.up.passed_on());
        Ok(command)
    }

    /// Waits until the shards from this one on serve.
    fn until_serving(&mut self, from: ShardId) -> Result<(), Failure> {
        let until = Instant::now() + START_TIME;
        for (shard, child) in self.children.range_mut(from..) {
            let place = place(&self.data_dir, *shard);
            let file = Path::new(&place.data_dir).join("run/up.json");
            while !file.exists() || shards::state(&place).is_err() {
                if let Some(status) = child.ended() {
                    let what = format!("shard {shard} ended at its start ({})", ending(status));
                    return Err(Failure::new(
                        Exit::Machine,
                        what,
                        place.data_dir,
                        "look at its output above",
                    ));
                }
                if interrupt::is_asked() {
                    return Err(interrupt::failure("millrace up"));
                }
                if Instant::now() >= until {
                    let what = format!("shard {shard} does not serve yet");
                    return Err(Failure::new(
                        Exit::TimedOut,
                        what,
                        place.data_dir,
                        "look at its output above",
                    ));
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Keeps all running until Ctrl-C, and lets shards join and leave.
    fn watch(&mut self) -> Result<(), Failure> {
        while !interrupt::is_asked() {
            std::thread::sleep(LOOK);
            for (shard, child) in &mut self.children {
                if let Some(status) = child.ended() {
                    let how = ending(status);
                    say(format_args!("millrace up: shard {shard} ended ({how}); it is started again"));
                }
                if child.restart()? && !self.behind.contains(shard) {
                    // It has missed what was ordered meanwhile.
                    self.behind.push(*shard);
                }
            }
            for (order, obeyed) in [(WANTED, self.grow_if_asked()), (LEAVING, self.empty_if_asked())] {
                if let Err(failure) = obeyed {
                    say(failure);
                    let _ = std::fs::remove_file(self.data_dir.join(order));
                }
            }
            self.publish();
            if Instant::now() >= self.release_at {
                self.release_at = Instant::now() + RELEASE_LOOK;
                self.release().unwrap_or_else(say);
                self.let_go().unwrap_or_else(say);
            }
        }
        Ok(())
    }

    /// Starts the shards that somebody asked for. They serve before they own anything; then the map is on disk, then all
    /// shards hear of it.
    fn grow_if_asked(&mut self) -> Result<(), Failure> {
        let Ok(text) = std::fs::read_to_string(self.data_dir.join(WANTED)) else { return Ok(()) };
        let count = self.file.map.shards.len();
        let wanted = text.trim().parse::<usize>().unwrap_or(0).min(SHARDS_MAX);
        for shard in count..wanted {
            prepare(&self.data_dir, shard, Some(&self.file.map.present().collect::<Vec<_>>()))?;
            let shard = shard as ShardId;
            if !self.children.contains_key(&shard) {
                let command = self.shard(shard)?;
                self.children.insert(shard, Child::start("shard", command)?);
            }
        }
        self.until_serving(count as ShardId)?;
        if wanted > count {
            let places = (count..wanted).map(|shard| place(&self.data_dir, shard as ShardId)).collect();
            self.go_by(self.file.map.grown(places))?;
            say(format_args!("millrace up: {} shards join", wanted - count));
        }
        let _ = std::fs::remove_file(self.data_dir.join(WANTED));
        Ok(())
    }

    /// Gives the slots of a shard that is to leave to the others. It stays until it holds nothing.
    fn empty_if_asked(&mut self) -> Result<(), Failure> {
        let Ok(text) = std::fs::read_to_string(self.data_dir.join(LEAVING)) else { return Ok(()) };
        let map = &self.file.map;
        let leaving = text.trim().parse().ok().filter(|leaving| *leaving != 0);
        let leaving = leaving.filter(|leaving| map.present().any(|shard| shard == *leaving));
        if let Some(shard) = leaving.filter(|shard| map.counts()[usize::from(*shard)] > 0) {
            self.go_by(map.emptied(shard))?;
            say(format_args!(
                "millrace up: shard {shard} takes no new calls; it leaves when it holds nothing"
            ));
        }
        let _ = std::fs::remove_file(self.data_dir.join(LEAVING));
        Ok(())
    }

    /// Releases shards from slots that others have now and of which they hold nothing. What a shard says of this under
    /// the newest map holds for ever, so the map that follows may rely on it.
    fn release(&mut self) -> Result<(), Failure> {
        let map = &self.file.map;
        let mut next = map.clone();
        for shard in map.present().filter(|shard| map.left_by(*shard).next().is_some()) {
            let place = &map.shards[usize::from(shard)];
            let said = admin_of(place).and_then(|admin| admin.within(ANSWER).get::<ShardState>("/v1/shards"));
            let Ok(said) = said else { continue };
            if said.map == *map && !said.clear.is_empty() {
                next = next.released(shard, &said.clear);
            }
        }
        if next == *map { Ok(()) } else { self.go_by(next) }
    }

    /// Ends the shards that have no slot and hold nothing. Their directories stay.
    fn let_go(&mut self) -> Result<(), Failure> {
        let is_free = |shard: &ShardId| !self.file.map.may_hold(*shard);
        let free: Vec<ShardId> = self.file.map.present().filter(is_free).collect();
        for shard in free {
            self.go_by(self.file.map.without(shard))?;
            if let Some(mut child) = self.children.remove(&shard) {
                child.end(self.up.drain() + KILL_AFTER);
            }
            let directory = self.directory(shard).display();
            say(format_args!("millrace up: shard {shard} has left; its logs and usage stay in {directory}"));
        }
        Ok(())
    }

    /// A newer map: it is on disk before anybody hears of it.
    fn go_by(&mut self, map: ShardMap) -> Result<(), Failure> {
        let file = ShardFile { map, ..self.file.clone() };
        write(&self.data_dir, &file)?;
        self.file = file;
        self.behind = self.file.map.present().collect();
        Ok(())
    }

    /// Tells the newest map to those who may not know it. One that is away reads it when it starts.
    fn publish(&mut self) {
        if self.behind.is_empty() {
            return;
        }
        let map = &self.file.map;
        self.behind.retain(|shard| {
            let place = &map.shards[usize::from(*shard)];
            let told = |admin: Admin| admin.within(ANSWER).put::<ShardState>("/v1/shards", map);
            admin_of(place).and_then(told).is_err()
        });
        if self.behind.is_empty() {
            self.compare();
        }
    }

    /// What was deployed or ordered while a shard joined or was away may be missing there: says so.
    fn compare(&self) {
        let functions = |shard: ShardId| -> Option<Vec<(String, String)>> {
            let place = &self.file.map.shards[usize::from(shard)];
            let all: Vec<FunctionState> = admin_of(place).ok()?.get("/v1/functions").ok()?;
            let named = |f: FunctionState| (format!("{}/{}", f.spec.namespace, f.spec.name), f.spec.artefact);
            Some(all.into_iter().map(named).collect())
        };
        let orders = |shard: ShardId| -> Shaping {
            let bytes = std::fs::read(self.directory(shard).join("shaping.json"));
            bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
        };
        let (first, ordered) = (functions(0), orders(0));
        for shard in self.file.map.present().skip(1) {
            if functions(shard) != first {
                say(format_args!(
                    "millrace up: shard {shard} has other functions than shard 0; deploy again"
                ));
            }
            if orders(shard) != ordered {
                say(format_args!(
                    "millrace up: shard {shard} has other quotas or holds other queues than shard 0; say them again"
                ));
            }
        }
    }

    fn announce(&self) {
        let counts = self.file.map.counts();
        let row = |shard: ShardId| {
            let (slots, directory) = (counts[usize::from(shard)], self.directory(shard).display());
            (format!("shard {shard}"), format!("{slots} of 256 slots, {directory}"))
        };
        let rows: Vec<(String, String)> = self.file.map.present().map(row).collect();
        let text = format!("millrace is ready: {} shards\n{}\n", rows.len(), pairs(rows));
        // Nobody may be reading; the shards serve all the same.
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

/// The address of a shard: ports of the first one, then two further for each; any free one where that was asked.
fn behind(first: SocketAddr, shard: usize) -> SocketAddr {
    let port = match first.port() {
        0 => 0,
        port => port.saturating_add(2 * shard as u16),
    };
    SocketAddr::new(first.ip(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_alone_becomes_the_first_shard_and_a_new_one_has_no_past() {
        let temp = tempfile::tempdir().unwrap();
        let fresh = file_at_start(temp.path(), Some(3)).unwrap();
        assert!(fresh.map.slots.iter().all(|slot| slot.former.is_empty()));
        assert_eq!(file_at_start(temp.path(), None).unwrap(), fresh, "as it is on disk");
        let failure = file_at_start(temp.path(), Some(2)).unwrap_err();
        assert!(failure.what.contains("3 shards") && failure.exit == Exit::Usage, "{failure}");
        let more = file_at_start(temp.path(), Some(4)).unwrap();
        assert_eq!((more.map.breach(&fresh.map), &more.secret), (None, &fresh.secret));

        let used = tempfile::tempdir().unwrap();
        std::fs::create_dir(used.path().join("artefacts")).unwrap();
        std::fs::write(used.path().join("artefacts/a.wasm"), b"code").unwrap();
        std::fs::write(used.path().join("catalog.json"), b"{}").unwrap();
        std::fs::write(used.path().join("VERSION"), VERSION).unwrap();
        let grown = file_at_start(used.path(), Some(2)).unwrap();
        let moved: Vec<_> = grown.map.slots.iter().filter(|slot| slot.owner == 1).collect();
        assert!(moved.len() == 128 && moved.iter().all(|slot| slot.former == [0]));
        let second = used.path().join("shard-1");
        assert_eq!(std::fs::read(second.join("artefacts/a.wasm")).unwrap(), b"code");
        assert!(second.join("VERSION").exists() && second.join("catalog.json").exists());
    }

    #[test]
    fn ports_follow_the_first_one() {
        let at = |text: &str, shard| behind(text.parse().unwrap(), shard).to_string();
        assert_eq!(at("127.0.0.1:7410", 2), "127.0.0.1:7414");
        assert_eq!(at("127.0.0.1:0", 2), "127.0.0.1:0");
    }
}
