//! Options that several commands share.

use crate::exit::{Exit, Failure};
use crate::settings::{Connection, Environment};
use crate::shards::Each;
use crate::times::{Terms, duration, wall};
use call::blob::Reference;
use call::limits::{ARGUMENTS_BYTES_MAX, BLOB_ABOVE_BYTES};
use call::{CallKey, Label};
use millrace_client::Outcome;
use serde::Serialize;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of arguments that are read at all: what a core has for blobs. What a node takes is its own bound (`--blob-max`).
const READ_BYTES_MAX: u64 = 256 << 20;

/// When a call may start, when it must be done, how important it is.
#[derive(clap::Args, Clone, Debug)]
pub struct CallTerms {
    /// Start not before this time, at most 7 days ahead: 2026-11-21T08:30:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", conflicts_with = "in_")]
    at: Option<String>,
    /// Start not before this long from now: 90s, 1h30m
    #[arg(long = "in", value_name = "DURATION", value_parser = duration)]
    in_: Option<Duration>,
    /// To be done by this time, or this long after the start [default: as the function says]
    #[arg(long, value_name = "TIME|DURATION")]
    deadline: Option<String>,
    /// 1 to 255, larger is more important [default: as the function says]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..))]
    criticality: Option<u8>,
    /// Whom it is about: at most `concurrency_per_key` calls of one key run at once
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Zone of the arguments, 0 to 7: they flow to functions of the same or a higher zone only
    #[arg(long, value_name = "ZONE", value_parser = clap::value_parser!(u8).range(..=7), default_value_t = 0)]
    zone: u8,
    /// A compartment of the arguments, 1 to 5; may be repeated
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=5))]
    compartment: Vec<u8>,
}

impl CallTerms {
    /// Its key, if it has one.
    pub fn key(&self) -> CallKey {
        self.key.as_deref().map_or(CallKey::NONE, CallKey::of)
    }

    /// How its arguments may flow.
    pub fn label(&self) -> Label {
        Label::new(self.zone, &self.compartment).expect("ranges are checked when they are typed")
    }

    /// Start and deadline.
    ///
    /// # Errors
    /// A time that cannot be meant.
    pub fn terms(&self) -> Result<Terms, Failure> {
        Terms::of(self.at.as_deref(), self.in_, self.deadline.as_deref(), wall())
    }

    /// 0 for the function's own.
    pub fn criticality(&self) -> u8 {
        self.criticality.unwrap_or(0)
    }
}

/// What the function reads.
#[derive(clap::Args, Clone, Debug)]
pub struct Input {
    /// Read the arguments from stdin
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = ["data", "file"])]
    stdin: Option<String>,
    /// The arguments as they stand here
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    data: Option<String>,
    /// The arguments are the contents of this file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Input {
    /// The bytes, none if nothing is given; large ones are stored as a blob first, at each shard of a divided node.
    ///
    /// # Errors
    /// A file that cannot be read, or is larger than any arguments may be; a node that does not take the blob.
    pub fn payload(&self, node: &Connection, environment: &Environment) -> Result<Payload, Failure> {
        let bytes = self.read()?;
        if bytes.len() <= BLOB_ABOVE_BYTES {
            return Ok(Payload { bytes, is_blob: false });
        }
        let stored = Each::ask(node, environment, |admin| admin.put_blob(&bytes))?;
        if !stored.is_whole() {
            stored.end()?;
        }
        let stored = stored.said.into_iter().next().expect("somebody answered");
        let id = stored.blob.parse().map_err(|error| {
            Failure::new(
                Exit::Internal,
                format!("{error}"),
                "/v1/blobs",
                "use one version of client and node",
            )
        })?;
        Ok(Payload { bytes: Reference { id, bytes: stored.bytes }.to_bytes().to_vec(), is_blob: true })
    }

    /// The bytes, as they stand in a frame; none if nothing is given.
    ///
    /// # Errors
    /// As [`Input::payload`], and for more than a frame has room for.
    pub fn small(&self) -> Result<Vec<u8>, Failure> {
        let bytes = self.read()?;
        if bytes.len() <= ARGUMENTS_BYTES_MAX {
            return Ok(bytes);
        }
        let what = format!(
            "the arguments have {} bytes, at most {ARGUMENTS_BYTES_MAX} are allowed here",
            bytes.len()
        );
        Err(Failure::input(what, "arguments", "give smaller ones"))
    }

    /// All bytes; none if nothing is given.
    ///
    /// # Errors
    /// A file that cannot be read, or is larger than any arguments may be; it is not read further.
    pub fn read(&self) -> Result<Vec<u8>, Failure> {
        let is_stdin = self.stdin.is_some() || self.file.as_deref() == Some(Path::new("-"));
        match (&self.data, &self.file) {
            (Some(text), _) => bounded(text.as_bytes(), "--data", None),
            _ if is_stdin => bounded(io::stdin().lock(), "stdin", None),
            (None, Some(path)) => {
                let file =
                    File::open(path).map_err(|error| Failure::file("read the arguments", path, &error))?;
                let bytes = file.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len());
                bounded(file, &path.display().to_string(), bytes)
            }
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// What stands in the frame of a call.
pub struct Payload {
    /// The arguments, or what names the blob that has them.
    pub bytes: Vec<u8>,
    /// Which of the two.
    pub is_blob: bool,
}

/// All of `source`, unless it is more than a call may have.
fn bounded(source: impl Read, name: &str, known_bytes: Option<u64>) -> Result<Vec<u8>, Failure> {
    let most = READ_BYTES_MAX;
    let too_large = |bytes: String| {
        let what = format!("the arguments have {bytes} bytes, at most {most} are allowed");
        Failure::input(what, name, "store large arguments elsewhere and pass a reference")
    };
    if let Some(bytes) = known_bytes.filter(|bytes| *bytes > most) {
        return Err(too_large(bytes.to_string()));
    }
    let mut read = Vec::new();
    let failed = |error: io::Error| Failure::file("read the arguments", Path::new(name), &error);
    source.take(most + 1).read_to_end(&mut read).map_err(failed)?;
    if read.len() as u64 > most { Err(too_large(format!("more than {most}"))) } else { Ok(read) }
}

/// An outcome as `-o json` shows it.
#[derive(Serialize)]
pub struct OutcomeView {
    call: String,
    status: &'static str,
    deliveries: u16,
    usage: call::Usage,
    output: String,
    stderr: String,
}

impl From<&Outcome> for OutcomeView {
    fn from(outcome: &Outcome) -> OutcomeView {
        OutcomeView {
            call: outcome.call.to_string(),
            status: outcome.status.name(),
            deliveries: outcome.attempt,
            usage: outcome.usage,
            output: String::from_utf8_lossy(&outcome.output).into_owned(),
            stderr: String::from_utf8_lossy(&outcome.stderr).into_owned(),
        }
    }
}

/// A call that ended badly, in words; the code is always [`Exit::Failed`].
pub fn ended_badly(outcome: &Outcome) -> Failure {
    let how = match outcome.status {
        call::Status::Exit => format!("exit status {}", outcome.usage.exit_code),
        other => other.name().to_owned(),
    };
    let what = format!("the call failed after {} deliveries: {how}", outcome.attempt);
    let remedy = "the function's stderr is above; `millrace dlq list` shows calls that were given up";
    Failure::new(Exit::Failed, what, format!("call {}", outcome.call), remedy)
}

/// A spinner on stderr, if a person looks at it.
pub fn spinner() -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let spinner = indicatif::ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_gigabytes_are_refused_without_being_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big.bin");
        File::create(&path).unwrap().set_len(2 << 30).unwrap();
        let input = Input { stdin: None, data: None, file: Some(path) };
        let text = input.read().unwrap_err().to_string();
        assert!(text.contains("2147483648 bytes, at most 268435456") && text.contains("big.bin"), "{text}");
        let endless = bounded(io::repeat(0), "stdin", None).unwrap_err();
        assert!(endless.what.contains("more than 268435456"), "{endless}");
    }
}
