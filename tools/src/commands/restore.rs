//! `millrace restore`

use super::backup::{show, show_shards};
use crate::backup::restore;
use crate::backup::shards::SetManifest;
use crate::bulk::Progress;
use crate::exit::{Done, Exit};
use crate::output::Output;
use std::path::PathBuf;

/// Makes a data directory of a backup.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  millrace restore /mnt/backup/now --check\n  \
    millrace restore /mnt/backup/now --data-dir ./millrace-data && millrace up --data-dir ./millrace-data\n\n\
    Every file is verified by its checksum. Never let the old node and a restored one serve the same clients: both would\n\
    run the calls that were waiting.")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["data_dir", "check"])))]
pub struct Restore {
    /// What `millrace backup` made
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The data directory to make: not there, or empty
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Only verify the backup and say what it holds
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: Output,
}

impl Restore {
    pub fn run(self) -> Done {
        let mut progress = Progress::new();
        let mut say = |bytes: u64| progress.say(|| format!("{} MiB verified", bytes >> 20));
        if let Some(shards) = SetManifest::find(&self.directory)? {
            let copied = shards.restore(&self.directory, self.data_dir.as_deref(), &mut say)?;
            drop(progress);
            self.output.print(&copied, show_shards);
            return Ok(Exit::Ok);
        }
        let manifest = restore(&self.directory, self.data_dir.as_deref(), &mut say)?;
        drop(progress);
        self.output.print(&manifest, show);
        Ok(Exit::Ok)
    }
}
