//! `millrace backup`

use crate::backup::{Copier, Manifest};
use crate::bulk::Progress;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::{Output, pairs};
use crate::settings::{Connection, Environment};
use crate::times::wall;
use ::call::admin::Hold;
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
    `millrace restore DIR --check`.")]
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
        if let Some(shards) = self.node.shards(environment)?.filter(|shards| shards.len() > 1) {
            let what = format!("the node has {} shards, and a copy is of one of them", shards.len());
            let place = environment.data_dir(self.node.data_dir.as_deref()).display().to_string();
            let remedy = "back up each one by itself: --admin URL, which stands in its run/control.json";
            return Err(Failure::new(Exit::Usage, what, place, remedy));
        }
        let admin = self.node.admin(environment)?;
        interrupt::flag();
        let made_at = wall().0;
        let path = format!("/v1/hold?ms={HOLD_MS}");
        let point: Hold = admin.post(&path)?;
        let data = Path::new(&point.directory);
        if !data.join("VERSION").is_file() {
            let what = "the node's data directory is not on this host";
            return Err(Failure::new(Exit::Usage, what, &point.directory, "run it on the node's host"));
        }
        let mut held_at = Instant::now();
        let mut hold = || {
            if interrupt::is_asked() {
                return Err(interrupt::failure("backup"));
            }
            if held_at.elapsed() >= HOLD_AGAIN {
                let _: Hold = admin.post(&path)?;
                held_at = Instant::now();
            }
            Ok(())
        };
        let mut progress = Progress::new();
        let mut say = |bytes: u64| progress.say(|| format!("{} MiB copied", bytes >> 20));
        let mut copier = Copier {
            data,
            into: &self.directory,
            rate: self.rate << 20,
            hold: &mut hold,
            progress: &mut say,
        };
        let manifest = copier.run(&point, made_at)?;
        drop(progress);
        self.output.print(&manifest, show);
        Ok(Exit::Ok)
    }
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
