//! `millrace shard`

use super::up_shards::{LEAVING, WANTED};
use crate::admin::Admin;
use crate::asked::Look;
use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, table};
use crate::settings::Environment;
use crate::shards::{self, Each, Of, ShardFile, Whole};
use crate::times::duration;
use ::call::ShardId;
use ::call::admin::ShardState;
use ::call::shards::{SHARDS_MAX, ShardPlace};
use ::call::shares::{ShareUse, SharesState};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two looks at shards that join.
const LOOK: Duration = Duration::from_millis(100);

/// Looks at the shards of a node, adds some, or takes one away.
#[derive(clap::Subcommand, Debug)]
pub enum Shard {
    /// List the shards: where they are, which part of all calls is theirs, whether they answer
    #[command(after_help = "Examples:\n  millrace shard list\n  millrace shard list -o json")]
    List {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        site: Site,
    },
    /// Show which part of the limits in use each shard has: of concurrency, quotas and backlogs
    #[command(after_help = "Examples:\n  millrace shard limits\n  millrace shard limits -o json\n\n\
        A limit holds over all shards. What nobody misses is divided evenly, and shown once it is used; parts move to\n\
        where calls wait. A quota is divided into a million parts.")]
    Limits {
        #[command(flatten)]
        look: Look,
    },
    /// Let more shards join a node that runs; no other is started again
    #[command(after_help = "Examples:\n  millrace shard add\n  millrace shard add --count 2\n\n\
        They take their part of new calls; older calls stay where they are, and end there.")]
    Add {
        /// How many
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..SHARDS_MAX as i64))]
        count: u16,
        /// How long to wait until all shards know of them
        #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
        timeout: Duration,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        site: Site,
    },
    /// Take a shard away from a node that runs: others get its slots, and it ends when it holds no call any more
    #[command(
        after_help = "Examples:\n  millrace shard remove 2\n  millrace shard remove 2 --timeout 1d\n\n\
        Its calls end where they are: what is scheduled for tomorrow ends tomorrow, and dead letters wait for `millrace dlq`.\n\
        Ends of calls are remembered for an hour more (`millrace up --shard-remember`), keys and kept outcomes as long as\n\
        they say, so that what is submitted again is known. All goes on by itself if the time-out is over. Shard 0 stays."
    )]
    Remove {
        /// Its number
        shard: ShardId,
        /// How long to wait until it is gone
        #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
        timeout: Duration,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        site: Site,
    },
}

/// Where the shards are.
#[derive(clap::Args, Clone, Debug)]
pub struct Site {
    /// Data directory of `millrace up --shards` [default: $MILLRACE_DATA, ./millrace-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Site {
    fn data_dir(&self, environment: &Environment) -> PathBuf {
        environment.data_dir(self.data_dir.as_deref())
    }

    fn file(&self, environment: &Environment) -> Result<ShardFile, Failure> {
        let data_dir = self.data_dir(environment);
        shards::find(&data_dir)?.ok_or_else(|| {
            let remedy = "divide it with `millrace up --shards 2`, or name its directory with --data-dir";
            Failure::new(Exit::NotFound, "the node has no shards", data_dir.display().to_string(), remedy)
        })
    }
}

/// A row of the list.
#[derive(Serialize)]
struct Row {
    shard: usize,
    #[serde(flatten)]
    place: ShardPlace,
    /// Slots that are its own.
    slots: usize,
    /// Slots that others have now, of which it may still hold calls.
    left: usize,
    /// `live`, `leaving`, `gone` or `unreachable`.
    state: &'static str,
    /// As the shard says, if it can be asked; without the map, which is the same for all.
    said: Option<ShardState>,
    /// Version of the map it goes by.
    map: Option<u64>,
}

impl Shard {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Shard::Remove { shard, timeout, output, site } => {
                remove(shard, timeout, output, &site, environment)
            }
            Shard::Limits { look } => limits(&look, environment),
            Shard::List { output, site } => {
                output.print(&rows(&site.file(environment)?)[..], show);
                Ok(Exit::Ok)
            }
            Shard::Add { count, timeout, output, site } => {
                let before = site.file(environment)?;
                let wanted = before.map.shards.len() + usize::from(count);
                if wanted > SHARDS_MAX {
                    let what = format!("{wanted} shards would be more than {SHARDS_MAX}");
                    return Err(Failure::new(Exit::Usage, what, "--count", "ask for fewer"));
                }
                let path = site.data_dir(environment).join(WANTED);
                std::fs::write(&path, format!("{wanted}\n"))
                    .map_err(|error| Failure::file("ask for shards", &path, &error))?;
                let until = Instant::now() + timeout;
                loop {
                    let file = site.file(environment)?;
                    let rows = rows(&file);
                    let knows = |row: &Row| row.place.gone || row.map == Some(file.map.version);
                    if file.map.shards.len() >= wanted && rows.iter().all(knows) {
                        output.print(&rows[..], show);
                        return Ok(Exit::Ok);
                    }
                    if Instant::now() >= until {
                        let _ = std::fs::remove_file(&path);
                        let remedy =
                            "is `millrace up` running there, and what does it say? `millrace shard list`";
                        let place = path.display().to_string();
                        return Err(Failure::new(
                            Exit::TimedOut,
                            "not all shards know of them",
                            place,
                            remedy,
                        ));
                    }
                    std::thread::sleep(LOOK);
                }
            }
        }
    }
}

/// Has a shard taken away, and waits until it is.
fn remove(shard: ShardId, timeout: Duration, output: Output, site: &Site, environment: &Environment) -> Done {
    let before = site.file(environment)?.map;
    if !before.present().any(|present| present == shard) {
        let what = format!("there is no shard {shard}");
        return Err(Failure::new(Exit::NotFound, what, "SHARD", "`millrace shard list` shows all"));
    }
    if shard == 0 {
        let what = "shard 0 stays: its directory is the node's own, with the map of all shards and what clients connect to";
        let remedy = "take another one away; to give up this disk or host, `millrace backup` the node and restore it elsewhere";
        return Err(Failure::new(Exit::Usage, what, "SHARD", remedy));
    }
    let path = site.data_dir(environment).join(LEAVING);
    std::fs::write(&path, format!("{shard}\n"))
        .map_err(|error| Failure::file("ask the shard to leave", &path, &error))?;
    let until = Instant::now() + timeout;
    loop {
        let file = site.file(environment)?;
        if file.map.shards[usize::from(shard)].gone {
            output.print(&rows(&file)[..], show);
            return Ok(Exit::Ok);
        }
        if Instant::now() >= until {
            let left = file.map.left_by(shard).count();
            if file.map.counts()[usize::from(shard)] > 0 {
                let _ = std::fs::remove_file(&path);
                let remedy = "is `millrace up` running there, and what does it say? `millrace shard list`";
                let what = "its slots are not others' yet";
                return Err(Failure::new(Exit::TimedOut, what, path.display().to_string(), remedy));
            }
            let what = format!("it takes no new calls, but may hold calls of {left} slots");
            let remedy = "it leaves by itself when they have ended and are forgotten; `millrace shard list`";
            return Err(Failure::new(Exit::TimedOut, what, format!("shard {shard}"), remedy));
        }
        std::thread::sleep(LOOK);
    }
}

/// What each limit in use comes to, and each shard's part of it.
fn limits(look: &Look, environment: &Environment) -> Done {
    let sum = |each: &mut Each<Vec<ShareUse>>| {
        let name = |said: &ShareUse| format!("{:?} {}", said.name.kind, said.name.of);
        let mut all = each.by_name(name, |sum, part| {
            sum.limit = sum.limit.max(part.limit);
            (sum.share, sum.used) = (sum.share + part.share, sum.used + part.used);
            sum.wanted = sum.wanted.saturating_add(part.wanted);
        });
        all.sort_by(|a, b| a.sum.name.cmp(&b.sum.name));
        Ok(all)
    };
    let ask = |admin: &Admin| admin.get("/v1/shards/shares").map(|said: SharesState| said.uses);
    look.each(environment, ask, sum, |all: &Vec<Whole<ShareUse>>| show_limits(all))
}

fn show_limits(all: &[Whole<ShareUse>]) -> String {
    let row = |whole: &Whole<ShareUse>| {
        let part = |of: &Of<ShareUse>| {
            let shard = of.shard.map_or("-".into(), |shard| shard.to_string());
            format!("{shard}: {}/{}", of.said.used, of.said.share)
        };
        let parts: Vec<String> = whole.shards.iter().map(part).collect();
        let kind = serde_json::to_value(whole.sum.name.kind).expect("plain data");
        [
            whole.sum.name.of.clone(),
            kind.as_str().unwrap_or_default().to_owned(),
            whole.sum.limit.to_string(),
            whole.sum.used.to_string(),
            parts.join(", "),
        ]
    };
    table(["of", "limit", "all", "used", "by shard: used/part"], all.iter().map(row))
}

fn rows(file: &ShardFile) -> Vec<Row> {
    let counts = file.map.counts();
    let row = |(shard, place): (usize, &ShardPlace)| {
        let said = if place.gone { None } else { shards::state(place).ok() };
        let map = said.as_ref().map(|said| said.map.version);
        let said = said.map(|said| ShardState { map: Default::default(), ..said });
        let (slots, left) = (counts[shard], file.map.left_by(shard as ShardId).count());
        let state = match &said {
            _ if place.gone => "gone",
            None => "unreachable",
            Some(_) if slots == 0 => "leaving",
            Some(_) => "live",
        };
        Row { shard, place: place.clone(), slots, left, state, said, map }
    };
    file.map.shards.iter().enumerate().map(row).collect()
}

fn show(rows: &[Row]) -> String {
    let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
    let row = |row: &Row| {
        let said = row.said.as_ref();
        [
            row.shard.to_string(),
            row.state.to_owned(),
            row.slots.to_string(),
            row.left.to_string(),
            number(row.map),
            number(said.map(|said| said.passed)),
            number(said.map(|said| said.asked)),
            row.place.data_dir.clone(),
        ]
    };
    let headings = ["shard", "state", "slots", "had before", "map", "passed on", "asked", "data directory"];
    table(headings, rows.iter().map(row))
}
