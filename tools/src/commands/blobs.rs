//! `millrace blobs`

use super::arguments::Input;
use crate::admin::{Admin, StoredBlob};
use crate::exit::Done;
use crate::output::{Output, pairs};
use crate::settings::{Connection, Environment};
use crate::shards::Each;
use ::call::admin::Collected;

const COLLECT: &str = "\
Examples:
  millrace blobs collect --dry-run
  millrace blobs collect -o json

Arguments above 256 KiB are stored by content, beside the log. A blob goes when no pending call and no dead letter names
it, and nobody has stored or named it for an hour. The node looks every ten minutes by itself.";

const PUT: &str = "\
Examples:
  millrace blobs put --file video.mp4
  producer | millrace blobs put -

`millrace submit` and `millrace call` store large arguments by themselves: this is for clients that name a blob in their
frames, and to mend a damaged one. It prints the name, the SHA-256 of the bytes.";

/// Looks after large arguments, which are stored by content.
#[derive(clap::Subcommand, Debug)]
pub enum Blobs {
    /// Remove blobs that no call names
    #[command(after_help = COLLECT)]
    Collect {
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Store a blob, or store a damaged one again
    #[command(after_help = PUT)]
    Put {
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Blobs {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Blobs::Collect { dry_run, output, node } => {
                let path = format!("/v1/blobs/collect?dry_run={dry_run}");
                let each = Each::ask(&node, environment, |admin: &Admin| admin.post::<Collected>(&path))?;
                let all = each.said.iter().fold(Collected::default(), add);
                output.print(&all, |all| show(all, dry_run));
                each.end()
            }
            Blobs::Put { input, output, node } => {
                let bytes = input.read()?;
                let each = Each::ask(&node, environment, |admin: &Admin| admin.put_blob(&bytes))?;
                let stored: &StoredBlob = each.said.first().expect("somebody answered");
                output.print(stored, |stored| stored.blob.clone());
                each.end()
            }
        }
    }
}

/// Each shard has a store of its own.
fn add(mut sum: Collected, part: &Collected) -> Collected {
    sum.blobs.extend(part.blobs.iter().cloned());
    sum.count += part.count;
    sum.bytes += part.bytes;
    sum.named += part.named;
    sum.unreadable += part.unreadable;
    sum.held |= part.held;
    sum.left += part.left;
    sum.left_bytes += part.left_bytes;
    sum
}

fn show(all: &Collected, dry_run: bool) -> String {
    let volume = |count: u64, bytes: u64| format!("{count}, {} MiB", bytes >> 20);
    let mut rows = vec![
        (if dry_run { "would be removed" } else { "removed" }.to_owned(), volume(all.count, all.bytes)),
        ("blobs".to_owned(), volume(all.left, all.left_bytes)),
        ("calls that name one".to_owned(), all.named.to_string()),
    ];
    if all.unreadable > 0 {
        let told = format!("{}; nothing is removed: purge these dead letters", all.unreadable);
        rows.push(("of these, damaged".to_owned(), told));
    }
    if all.held {
        rows.push(("held".to_owned(), "a backup is being made: nothing is removed meanwhile".to_owned()));
    }
    pairs(rows)
}
