//! Divides limits among the shards of a node: feeds one decider, [`controllers::shares::Shares`], with how they stand, and
//! tells them what it concludes. A thread of its own, since a shard that is slow to answer keeps nobody else waiting.
//! Without it the shards keep what they have.

use super::{ShardFile, admin_of, file_of};
use crate::exit::Failure;
use call::shares::SharesState;
use call::{Instant, ShardId, ShardMap};
use controllers::shares::{Input, Shares};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two rounds: a part moves in two of them, which whoever waits for it does not notice beside a poll of its own.
const ROUND: Duration = Duration::from_millis(250);
/// A shard that says nothing for so long is away until the next round.
const ANSWER: Duration = Duration::from_secs(2);
/// The shares of a shard, in its admin API.
const PATH: &str = "/v1/shards/shares";

/// The running thread.
pub struct Sharing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sharing {
    /// Starts it for the shards of this data directory.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(data_dir: &Path) -> Result<Sharing, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, file) = (stop.clone(), file_of(data_dir));
        let work = move || {
            let (begun, mut decider) = (std::time::Instant::now(), Shares::new());
            while !ended.load(Ordering::Relaxed) {
                let now = Instant(call::time::nanos(begun.elapsed()));
                round(now, &file, &mut decider);
                std::thread::park_timeout(ROUND);
            }
        };
        let thread = std::thread::Builder::new().name("shares".into()).spawn(work);
        let thread = thread.map_err(|error| Failure::file("start a thread", data_dir, &error))?;
        Ok(Sharing { stop, thread })
    }

    /// Ends it.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}

/// Asks all, concludes, and tells. Whoever does not answer keeps what it has, and is asked again.
fn round(now: Instant, file: &Path, decider: &mut Shares) {
    let Ok(ShardFile { map, .. }) = ShardFile::read(file) else { return };
    let mut none = Vec::new();
    decider.step(now, Input::Members(map.present().collect()), &mut none);
    for shard in map.present() {
        if let Ok(state) = ask(&map, shard) {
            decider.step(now, Input::Said { shard, state }, &mut none);
        }
    }
    let mut told = Vec::new();
    decider.step(now, Input::Turn, &mut told);
    for (shard, table) in told {
        let admin = admin_of(&map.shards[usize::from(shard)]);
        if let Ok(state) = admin.and_then(|admin| admin.within(ANSWER).put(PATH, &table)) {
            decider.step(now, Input::Said { shard, state }, &mut none);
        }
    }
}

fn ask(map: &ShardMap, shard: ShardId) -> Result<SharesState, Failure> {
    admin_of(&map.shards[usize::from(shard)])?.within(ANSWER).get(PATH)
}
