//! `millrace backup`

use crate::admin::Admin;
use crate::backup::shards::{Copied, SetManifest, directory_of, is_the_same, settled};
use crate::backup::{Copier, Manifest, make_empty};
use crate::bulk::Progress;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::{Output, pairs, table};
use crate::settings::{Connection, Environment, Reached};
use crate::shards::{self, Of, admin_of};
use crate::times::wall;
use ::call::admin::Hold;
use ::call::{ShardId, ShardMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The log is held for so long at a time, ms; a copier that dies holds it no longer.
const HOLD_MS: u64 = 15_000;
/// And asked for again after this.
const HOLD_AGAIN: Duration = Duration::from_secs(5);

/// Copies the data directory of a node that serves.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  millrace backup /mnt/backup/2026-11-21\n  \
    millrace backup /mnt/backup/now --rate 20 -o json\n  millrace restore /mnt/backup/now --data-dir ./other\n\n\
    The copy is what a power failure at its beginning would have left: every call acknowledged before, none submitted\n\
    later. A call that ends while it is taken runs again after a restore. Made on the node's host; checked by\n\
    `millrace restore DIR --check`. Of a node of several shards all are copied, each up to a point of its own, and all must\n\
    answer.")]
pub struct Backup {
    /// Where it goes: a directory that is not there, or empty
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// MiB a second at most; the node keeps the rest of the disk
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Backup {
    pub fn run(self, environment: &Environment) -> Done {
        interrupt::flag();
        let made_at = wall().0;
        if self.node.shards(environment)?.is_none() {
            let mut holds = Holds::take([(None, self.node.admin(environment))])?;
            let manifest = self.copy(&mut holds, 0, &self.directory, made_at)?;
            self.output.print(&manifest, show);
            return Ok(Exit::Ok);
        }
        let data_dir = environment.data_dir(self.node.data_dir.as_deref());
        let look = || {
            let gone =
                || Failure::new(Exit::NotFound, "the shard map is gone", data_dir.display().to_string(), "");
            shards::find(&data_dir)?.map(|file| file.map).ok_or_else(gone)
        };
        make_empty(&self.directory)?;
        let hold = |map: &ShardMap| {
            let reach = |shard| (Some(shard), admin_of(&map.shards[usize::from(shard)]));
            Holds::take(map.present().map(reach))
        };
        let (map, mut holds) = settled(look, hold)?;
        let mut copies = Vec::new();
        for (at, shard) in map.present().enumerate() {
            let into = directory_of(&self.directory, shard);
            copies.push((shard, self.copy(&mut holds, at, &into, made_at)?));
        }
        let copied = SetManifest::write(&self.directory, map, made_at, copies)?;
        self.output.print(&copied, show_shards);
        Ok(Exit::Ok)
    }

    /// Copies one of those that are held, and holds them all meanwhile.
    fn copy(&self, holds: &mut Holds, at: usize, into: &Path, made_at: u64) -> Result<Manifest, Failure> {
        let (shard, _, point) = &holds.held[at];
        let (of, point) = (shard.map_or(String::new(), |shard| format!(" of shard {shard}")), point.clone());
        let data = Path::new(&point.directory);
        if !data.join("VERSION").is_file() {
            let what = "the node's data directory is not on this host";
            return Err(Failure::new(Exit::Usage, what, &point.directory, "run it on the node's host"));
        }
        let mut hold = || {
            if interrupt::is_asked() {
                return Err(interrupt::failure("backup"));
            }
            holds.hold_on(at)
        };
        let mut progress = Progress::new();
        let mut say = |bytes: u64| progress.say(|| format!("{} MiB{of} copied", bytes >> 20));
        let rate = self.rate << 20;
        Copier { data, into, rate, hold: &mut hold, progress: &mut say }.run(&point, made_at)
    }
}

/// Nodes whose logs are held still, each with the point up to which it is copied.
struct Holds {
    held: Vec<(Option<ShardId>, Admin, Hold)>,
    at: Instant,
}

impl Holds {
    fn take(nodes: impl IntoIterator<Item = (Option<ShardId>, Reached)>) -> Result<Holds, Failure> {
        let at = Instant::now();
        let hold = |(shard, admin): (Option<ShardId>, Reached)| {
            let held = admin.and_then(|admin| Ok((shard, admin.post(&path())?, admin)));
            let (shard, point, admin) = held.map_err(|failure| match shard {
                Some(shard) => {
                    Failure { what: format!("shard {shard} is not copied: {}", failure.what), ..failure }
                }
                None => failure,
            })?;
            Ok((shard, admin, point))
        };
        Ok(Holds { held: nodes.into_iter().map(hold).collect::<Result<_, Failure>>()?, at })
    }

    /// Holds the one that is copied, and those after it.
    fn hold_on(&mut self, from: usize) -> Result<(), Failure> {
        if self.at.elapsed() < HOLD_AGAIN {
            return Ok(());
        }
        for (_, admin, point) in &self.held[from..] {
            is_the_same(point, &admin.post(&path())?)?;
        }
        self.at = Instant::now();
        Ok(())
    }
}

fn path() -> String {
    format!("/v1/hold?ms={HOLD_MS}")
}

/// What a copy holds, for people.
pub fn show(manifest: &Manifest) -> String {
    pairs([
        ("taken", super::calls::time(manifest.made_at)),
        ("by", format!("millrace {}", manifest.version)),
        ("log", format!("up to group {}, incarnation {}", manifest.group, manifest.incarnation)),
        ("calls", format!("{} pending, {} dead letters", manifest.pending, manifest.dead_letters)),
        ("files", format!("{}, {} KiB", manifest.files.len(), manifest.bytes().div_ceil(1024))),
    ])
}

/// What a copy of all shards holds, for people.
pub fn show_shards(copied: &Copied) -> String {
    let text = pairs([
        ("taken", super::calls::time(copied.made_at)),
        ("by", format!("millrace {}", copied.version)),
        ("calls", format!("{} pending, {} dead letters", copied.pending, copied.dead_letters)),
        ("shards", format!("{}, by map {}", copied.shards.len(), copied.map)),
    ]);
    let row = |of: &Of<Manifest>| {
        let manifest = &of.said;
        [
            of.shard.map_or("-".into(), |shard| shard.to_string()),
            format!("{}, incarnation {}", manifest.group, manifest.incarnation),
            manifest.pending.to_string(),
            manifest.dead_letters.to_string(),
            manifest.files.len().to_string(),
            format!("{} KiB", manifest.bytes().div_ceil(1024)),
        ]
    };
    let headings = ["shard", "log up to group", "pending", "dead letters", "files", "size"];
    format!("{text}\n{}", table(headings, copied.shards.iter().map(row)))
}
