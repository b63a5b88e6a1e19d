//! `millrace jailer`

use crate::exit::{Done, Exit, Failure};
use crate::settings::Environment;
use sandbox::jailer::Settings;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What an operator says about sandboxes; the same for `up`, `worker` and the jailer.
#[derive(clap::Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "Process functions")]
pub struct SandboxArguments {
    /// Path of this host that process functions with base "host" see read-only, with all below it; may be repeated
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    pub expose: Vec<PathBuf>,
    /// Device that process functions may ask for; may be repeated
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    pub device: Vec<PathBuf>,
    /// Sandboxes that are made ahead of need, of each kind
    #[arg(long, value_name = "COUNT", default_value_t = Settings::BLANKS)]
    pub blanks: u32,
    /// Sandboxes at once; each takes two user ids of this host
    #[arg(long, value_name = "COUNT", default_value_t = Settings::SANDBOXES_MAX,
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub sandboxes: u32,
    /// First user and group id of the range for sandboxes [default: one above 1,900,000,000, by the data directory]
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(65_536..=4_000_000_000))]
    pub ids_first: Option<u32>,
    /// Run process functions also where nothing enforces their limits of memory, CPU and processes
    #[arg(long)]
    pub without_limits: bool,
}

/// A path that means the same whatever the working directory.
pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.is_absolute() && path != Path::new("/") {
        true => Ok(path),
        false => Err("give an absolute path, and not the root".into()),
    }
}

impl SandboxArguments {
    /// The options that say the same to another process.
    pub fn command_line(&self) -> Vec<OsString> {
        let mut line: Vec<OsString> = Vec::new();
        for (option, paths) in [("--expose", &self.expose), ("--device", &self.device)] {
            paths.iter().for_each(|path| line.extend([option.into(), path.into()]));
        }
        line.extend(["--blanks".into(), self.blanks.to_string().into()]);
        line.extend(["--sandboxes".into(), self.sandboxes.to_string().into()]);
        if let Some(first) = self.ids_first {
            line.extend(["--ids-first".into(), first.to_string().into()]);
        }
        if self.without_limits {
            line.push("--without-limits".into());
        }
        line
    }
}

/// Makes the sandboxes of this host's process functions.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  millrace jailer --data-dir millrace-data   # what `millrace worker` runs"
)]
pub struct Jailer {
    /// Data directory of the worker [default: $MILLRACE_DATA, ./millrace-data]
    #[arg(long, visible_alias = "data", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    sandboxes: SandboxArguments,
}

/// Where the jailer of the worker with this data directory listens.
pub fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("run/jailer.sock")
}

impl Jailer {
    pub fn run(self, environment: &Environment) -> Done {
        let data_dir = environment.data_dir(self.data_dir.as_deref());
        let SandboxArguments { expose, device, blanks, sandboxes, ids_first, without_limits } =
            self.sandboxes;
        // The jailer changes its working directory.
        let data_dir = std::path::absolute(&data_dir)
            .map_err(|error| Failure::file("find the data directory", &data_dir, &error))?;
        let settings = Settings {
            expose,
            devices: device,
            blanks,
            sandboxes_max: sandboxes,
            ids_first,
            without_limits,
            ..Settings::new(socket(&data_dir), data_dir)
        };
        sandbox::jailer::run(settings).map_err(|error| {
            let (what, remedy) = error.reason.split_once("; ").unwrap_or((
                error.reason.as_str(),
                "`millrace doctor` says what is missing; --no-process-functions runs the worker without it",
            ));
            Failure::new(Exit::Machine, what, "jailer", remedy)
        })?;
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sandboxes: SandboxArguments,
    }

    #[test]
    fn what_an_operator_says_reaches_the_jailer() {
        let read = |line: Vec<OsString>| {
            Line::try_parse_from(std::iter::once("jailer".into()).chain(line)).map(|line| line.sandboxes)
        };
        let typed =
            ["--expose", "/opt/python", "--expose", "/srv", "--device", "/dev/kvm", "--ids-first", "100000"];
        let line: Vec<OsString> = typed.iter().chain(&["--without-limits"]).map(Into::into).collect();
        let said = read(line).unwrap();
        assert_eq!((said.expose.len(), said.device.len(), said.ids_first), (2, 1, Some(100_000)));
        assert_eq!(read(said.command_line()).unwrap(), said);
        assert!(read(vec!["--expose".into(), "relative".into()]).is_err());
        assert!(read(vec!["--expose".into(), "/".into()]).is_err());
    }
}
