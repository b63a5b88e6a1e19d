//! `millrace log`: the durable queue's log, offline.

use crate::exit::{Done, Exit, Failure};
use crate::output::{Format, Output, line};
use crate::settings::Environment;
use crate::shards;
use ::call::frame::FrameBuf;
use ::call::frame::flag;
use ::call::limits::{FRAME_ALIGN, HEADER_BYTES};
use ::call::{Attempt, CallId, Frame, History, Kind, Status};
use durableq::log::dump::{Entry, dump};
use durableq::log::page::{self, ENTRY_BYTES};
use durableq::log::{GROUP_HEADER_BYTES, GroupHeader, segment_name, segment_number};
use serde::Serialize;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A larger segment is read up to here.
const SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// Looks into the log of a data directory.
#[derive(clap::Subcommand, Debug)]
pub enum Log {
    /// Show groups and records, and what is damaged
    #[command(
        after_help = "Examples:\n  millrace log dump\n  millrace log dump --data-dir ./millrace-data --segment 3\n  \
        millrace log dump --damaged\n  millrace log dump -o json | jq -r 'select(.kind == \"submit\") | .call'\n\n\
        Reads files only; a node may be using them, and its last groups may then look torn. With -o json each line is one\n\
        entry. Ends with 6 if something is damaged. Recovery is strict: a node does not start on a log that lost what was\n\
        acknowledged. What stands behind the end of the log is left over from earlier and shown with --stale only. Of a node\n\
        of several shards it is the log of shard 0; the others' stand in DIR/shard-1 and so on."
    )]
    Dump {
        /// Data directory [default: $MILLRACE_DATA, ./millrace-data]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Only this segment
        #[arg(long, value_name = "NUMBER")]
        segment: Option<u64>,
        /// Only what is damaged
        #[arg(long)]
        damaged: bool,
        /// Groups of earlier lives of a segment, too
        #[arg(long)]
        stale: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// What is shown of one group, record or damage.
#[derive(Serialize, Debug, Default, PartialEq)]
struct Shown {
    /// The segment's file.
    file: String,
    /// Where in it.
    offset: u64,
    /// `group`, a record's kind, `entry` of an index record, `part` of a cut record, or `damaged`.
    kind: String,
    /// Of a group: its place in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<u64>,
    /// Of a group: which start of the queue wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u32>,
    /// Of a record: the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<String>,
    /// Of a record: the function's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    /// Of a record of what became of a call: how its last execution ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    /// Of such a record: the attempts that failed, as far as it lists them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Tried>,
    /// Of an `entry` of the index: where the call's record stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    stands: Option<Stands>,
    /// How long it is; of an entry: the call's frame.
    bytes: u64,
    /// Of an earlier life of the segment.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    /// What is wrong, and what was lost by it.
    #[serde(skip_serializing_if = "String::is_empty")]
    damage: String,
}

/// One attempt of a call.
#[derive(Serialize, Debug, PartialEq)]
struct Tried {
    number: u16,
    status: Status,
    worker: String,
    error: String,
}

/// Where a record stands.
#[derive(Serialize, Debug, PartialEq)]
struct Stands {
    file: String,
    offset: u64,
}

impl Log {
    pub fn run(self, environment: &Environment) -> Done {
        let Log::Dump { data_dir, segment, damaged, stale, output } = self;
        let data_dir = environment.data_dir(data_dir.as_deref());
        if let Some(file) = shards::find(&data_dir)?.filter(|file| file.map.is_divided()) {
            let count = file.map.shards.len();
            eprintln!("millrace: this is the log of shard 0 of {count}; --data-dir names another one's");
        }
        let log = data_dir.join("log");
        let numbers: Vec<u64> =
            segments(&log)?.into_iter().filter(|n| segment.is_none_or(|only| only == *n)).collect();
        if numbers.is_empty() {
            let what = segment.map_or("there is no segment".into(), |n| format!("there is no segment {n}"));
            let remedy = "name the data directory with --data-dir";
            return Err(Failure::new(Exit::NotFound, what, log.display().to_string(), remedy));
        }
        let mut broken = 0;
        for number in numbers {
            let bytes = read(&log.join(segment_name(number)))?;
            each(number, &bytes, |shown| {
                broken += u64::from(shown.kind == "damaged");
                if (shown.kind == "damaged" || !damaged) && (!shown.stale || stale) {
                    print(&shown, &output);
                }
            });
        }
        if broken == 0 {
            return Ok(Exit::Ok);
        }
        let what = format!("{broken} places are damaged");
        let remedy =
            "if a node does not start on it: `millrace restore` a backup, or repair the disk's bytes";
        Err(Failure::input(what, log.display().to_string(), remedy))
    }
}

fn segments(log: &Path) -> Result<Vec<u64>, Failure> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(log).map_err(|error| Failure::file("list it", log, &error))? {
        let entry = entry.map_err(|error| Failure::file("list it", log, &error))?;
        numbers.extend(entry.file_name().to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn read(path: &Path) -> Result<FrameBuf, Failure> {
    let failed = |error| Failure::file("read it", path, &error);
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(SEGMENT_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(failed)?;
    // Frames are read in place.
    let mut aligned = FrameBuf::with_capacity(bytes.len());
    aligned.extend_from_slice(&bytes);
    Ok(aligned)
}

/// What stands in a segment, in order. Behind the last group that belongs to the segment nothing is damaged: there
/// stands what an earlier life has left, half overwritten.
fn each(number: u64, bytes: &[u8], mut show: impl FnMut(Shown)) {
    let file = segment_name(number);
    let is_of_here =
        |entry: &Entry<'_>| matches!(entry, Entry::Group { header, .. } if header.segment == number);
    let last = dump(bytes).filter(is_of_here).last();
    let end = last.map_or(0, |entry| if let Entry::Group { offset, .. } = entry { offset } else { 0 });
    let (mut stale, mut covered) = (false, 0);
    for entry in dump(bytes) {
        let mut shown = Shown { file: file.clone(), ..Shown::default() };
        match entry {
            Entry::Group { offset, header } => {
                stale = header.segment != number;
                (shown.offset, shown.kind, shown.bytes) = (offset, "group".into(), header.bytes.into());
                (shown.group, shown.incarnation) = (Some(header.sequence), Some(header.incarnation));
            }
            Entry::Record { offset, frame } => {
                record(&mut shown, offset, &frame);
                if frame.kind() == Kind::Index {
                    shown.stale = stale;
                    show(shown);
                    index(&file, offset, &frame, stale, &mut show);
                    continue;
                }
            }
            Entry::Part { offset, bytes } => {
                (shown.offset, shown.kind, shown.bytes) = (offset, "part".into(), bytes as u64);
            }
            Entry::Broken { offset, error } => {
                if offset < covered {
                    // The rest of a group that was named.
                    continue;
                }
                let claimed = GroupHeader::claimed(&bytes[offset as usize..]);
                let ours = claimed.filter(|header| header.segment == number);
                stale = offset > end && ours.is_none();
                covered = ours.map_or(0, |header| offset + header.bytes_on_disk() as u64);
                let is_tail = offset > end;
                (shown.offset, shown.kind) = (offset, if stale { "left".into() } else { "damaged".into() });
                shown.group = ours.map(|header| header.sequence);
                shown.bytes = ours.map_or(0, |header| header.bytes.into());
                let lost = lost(&bytes[offset as usize..], ours.as_ref());
                let when = if is_tail {
                    "; it is the last one: a crash while it was written leaves this"
                } else {
                    ""
                };
                shown.damage = format!("{error}{when}; {lost}");
            }
            Entry::NotARecord { offset, error } => {
                (shown.offset, shown.kind) = (offset, "damaged".into());
                shown.damage = format!("{error}; the rest of its group cannot be read");
            }
        }
        shown.stale = stale;
        show(shown);
    }
}

fn record(shown: &mut Shown, offset: u64, frame: &Frame<'_>) {
    (shown.offset, shown.bytes) = (offset, frame.bytes().len() as u64);
    shown.kind = format!("{:?}", frame.kind()).to_ascii_lowercase();
    if frame.call() != CallId(0) {
        shown.call = Some(frame.call().to_string());
        shown.function = Some(frame.function().to_string());
    }
    if matches!(frame.kind(), Kind::Done | Kind::Retry | Kind::Dead) {
        shown.status = frame.status().ok();
    }
    shown.attempts = attempts(frame);
}

/// The entries of a page of the index.
fn index(file: &str, offset: u64, page: &Frame<'_>, stale: bool, show: &mut impl FnMut(Shown)) {
    let Some(entries) = page::entries(page.body()) else { return };
    for (n, entry) in entries.enumerate() {
        show(Shown {
            file: file.to_owned(),
            offset: offset + (HEADER_BYTES + n * ENTRY_BYTES) as u64,
            kind: "entry".into(),
            call: Some(entry.call.to_string()),
            function: Some(entry.function.to_string()),
            stands: Some(Stands {
                file: segment_name(entry.segment),
                offset: u64::from(entry.offset) * FRAME_ALIGN as u64,
            }),
            bytes: entry.length.into(),
            stale,
            ..Shown::default()
        });
    }
}

/// The attempts that a record lists.
fn attempts(frame: &Frame<'_>) -> Vec<Tried> {
    let carries = matches!(frame.kind(), Kind::Retry | Kind::Dead | Kind::Redrive);
    let is_bare = frame.body().is_empty() || frame.flags() & flag::SEALED_BODY != 0;
    let history = History::parse(frame.body()).ok().filter(|_| carries && !is_bare);
    let tried = |of: Attempt<'_>| Tried {
        number: of.number,
        status: of.status,
        worker: of.worker.to_owned(),
        error: of.error(),
    };
    history.map_or(Vec::new(), |(history, _)| history.attempts().map(tried).collect())
}

/// Which records of a broken group can still be read: all others are lost.
fn lost(bytes: &[u8], header: Option<&GroupHeader>) -> String {
    let Some(header) = header else { return "what was here cannot be told".into() };
    let end = (header.bytes as usize).min(bytes.len());
    let mut at = GROUP_HEADER_BYTES + header.continues as usize;
    let (mut sound, mut calls) = (0, Vec::new());
    while at < end {
        match Frame::parse(&bytes[at..end]) {
            Ok((_, used)) => (sound, at) = (sound + 1, at + used),
            Err(_) => {
                // The header's call may be damaged itself; it is what can be said.
                if let Some(id) = bytes.get(at + 16..at + 32).filter(|id| id.iter().any(|byte| *byte != 0)) {
                    calls.push(CallId(u128::from_le_bytes(id.try_into().expect("16 bytes"))).to_string());
                }
                // Frames begin at multiples of 16: the next one that is sound.
                at += FRAME_ALIGN;
                while at < end && Frame::parse(&bytes[at..end]).is_err() {
                    at += FRAME_ALIGN;
                }
            }
        }
    }
    let named = if calls.is_empty() { String::new() } else { format!(" (of call {})", calls.join(", ")) };
    format!("lost: {} records{named}; sound in it: {sound}", calls.len())
}

fn print(shown: &Shown, output: &Output) {
    if output.format == Format::Json {
        return line(&serde_json::to_string(shown).expect("plain data"));
    }
    let place = format!("{} {:>12}", shown.file, shown.offset);
    let indent = match shown.kind.as_str() {
        "group" | "damaged" | "left" => "",
        "entry" => "    ",
        _ => "  ",
    };
    let mut text = format!("{place}  {indent}{}", shown.kind);
    if let Some(group) = shown.group {
        text += &format!(" {group}");
    }
    if let Some(incarnation) = shown.incarnation {
        text += &format!(" of incarnation {incarnation}");
    }
    if let (Some(call), Some(function)) = (&shown.call, &shown.function) {
        text += &format!(" {call} of {function}");
    }
    if let Some(stands) = &shown.stands {
        text += &format!(" at {} {}", stands.file, stands.offset);
    }
    if let Some(status) = shown.status {
        text += &format!(", {}", status.name());
    }
    text += &format!(", {} bytes", shown.bytes);
    if shown.stale {
        text += ", stale";
    }
    if !shown.damage.is_empty() {
        text += &format!(": {}", shown.damage);
    }
    line(&text);
    for of in &shown.attempts {
        line(&format!(
            "{:34}attempt {} on {}: {}: {}",
            "",
            of.number,
            of.worker,
            of.status.name(),
            of.error.trim_end()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::call::FunctionId;
    use ::call::frame::{Header, append};

    #[test]
    fn a_page_of_the_index_is_shown_entry_by_entry() {
        let entry = |call: u128| page::Entry {
            call: CallId(call),
            function: FunctionId(7),
            start_at: 3,
            begin_by: 0,
            turn: 4,
            flags: 0,
            segment: 5,
            offset: 6,
            length: 90,
        };
        let mut bytes = FrameBuf::new();
        append(&mut bytes, &Header::new(Kind::Index), &[entry(1).encode(), entry(2).encode()].concat());
        let (frame, _) = Frame::parse(&bytes).expect("a frame");
        let mut shown = Vec::new();
        index("a.seg", 4096, &frame, false, &mut |row| shown.push(row));
        let calls: Vec<_> = shown.iter().map(|row| row.call.clone().expect("a call")).collect();
        assert_eq!(calls, [CallId(1).to_string(), CallId(2).to_string()]);
        let second = &shown[1];
        assert_eq!((second.offset, second.bytes), (4096 + (HEADER_BYTES + ENTRY_BYTES) as u64, 90));
        assert_eq!(second.stands, Some(Stands { file: segment_name(5), offset: 96 }));
        // Bytes that are no page are not taken for one.
        let mut bytes = FrameBuf::new();
        append(&mut bytes, &Header::new(Kind::Index), &[0; 50]);
        let (frame, _) = Frame::parse(&bytes).expect("a frame");
        index("a.seg", 0, &frame, false, &mut |row| panic!("{row:?}"));
    }
}
