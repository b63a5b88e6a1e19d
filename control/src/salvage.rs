//! What a salvage of the log left out, for whoever has to look after it: a file beside the log, and lines.

use call::WallTime;
use durableq::{Loss, LostRecord};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};

use crate::datadir::write_durably;

/// Writes all losses of one start into the data directory, as JSON; which file it is. None if nothing was lost.
///
/// # Errors
/// If the file cannot be written.
pub fn write_report(data: &Path, losses: &[Loss], now: WallTime) -> io::Result<Option<PathBuf>> {
    if losses.is_empty() {
        return Ok(None);
    }
    let name = format!("salvage-{}.json", now.0 / 1_000_000);
    let report =
        json!({ "at_unix_ms": now.0 / 1_000_000, "breaks": losses.iter().map(told).collect::<Vec<_>>() });
    write_durably(data, &name, &serde_json::to_vec_pretty(&report).expect("plain data"))?;
    Ok(Some(data.join(name)))
}

fn told(loss: &Loss) -> Value {
    json!({
        "from": place(loss.from),
        "to": place(loss.to),
        "first_group": loss.group,
        "groups": loss.groups,
        "groups_partly_readable": loss.damaged,
        "records_saved": loss.saved,
        "records_lost": loss.lost.len() as u64 + loss.lost_more,
        "records": loss.lost.iter().map(record).collect::<Vec<_>>(),
        "bytes_not_told_apart": loss.untold_bytes,
    })
}

fn place((segment, offset): (u64, u64)) -> Value {
    json!({ "segment": durableq::log::segment_name(segment), "offset": offset })
}

fn record(lost: &LostRecord) -> Value {
    json!({
        "segment": durableq::log::segment_name(lost.segment),
        "offset": lost.offset,
        "bytes": lost.bytes,
        "kind": format!("{:?}", lost.kind).to_lowercase(),
        "call": lost.call.to_string(),
    })
}
