//! What process functions cost: each part measures one row of the README's table.

mod calls;
mod python;
mod making;
mod programs;
mod idle;
mod neighbours;

use crate::core_process::Core;
use crate::leases::{Leased, Leases};
use crate::sandboxed::{self, BLANKS, Stage};
use crate::{Report, floors};
use driver::topology;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Bytes of arguments.
const PAYLOAD: usize = 128;

/// What measurements end with.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// What all measurements share.
pub struct Bench {
    report: Report,
    /// The core's CPU; the node, which is this process, has the other.
    core_cpu: u32,
    node_cpu: u32,
    /// How long each measurement lasts.
    time: Duration,
    smoke: bool,
    /// Which victims and hogs: of each kind all if none is named.
    wanted: Vec<String>,
    limited_only: bool,
    /// The compiled `programs/function.c`.
    function: PathBuf,
}

/// The parts, in the order in which they run.
pub const PARTS: [&str; 7] = ["call", "rate", "python", "making", "bpf", "idle", "neighbours"];

impl Bench {
    /// Pins this process to its CPU and compiles what is needed.
    ///
    /// # Errors
    /// If there are not two CPUs, or no C compiler.
    pub fn new(time: Duration, smoke: bool, wanted: Vec<String>) -> Outcome<Bench> {
        let cpus = topology::choose_cpus(2)?;
        topology::pin(cpus[1])?;
        let (core_cpu, node_cpu) = (cpus[0] as u32, cpus[1] as u32);
        let function = sandboxed::compiled("function")?;
        Ok(Bench {
            report: Report::default(),
            core_cpu,
            node_cpu,
            time,
            smoke,
            limited_only: wanted.iter().any(|name| name == "limited"),
            wanted,
            function,
        })
    }

    fn is_wanted(&self, name: &str) -> bool {
        let of_kind = if neighbours::VICTIMS.contains(&name) {
            neighbours::VICTIMS.as_slice()
        } else {
            &neighbours::HOG_NAMES
        };
        let named = |name: &str| self.wanted.iter().any(|wanted| wanted == name);
        named(name) || !of_kind.iter().any(|name| named(name))
    }

    /// Measures one part, or all. What was measured, and what could not be.
    ///
    /// # Errors
    /// If a part fails.
    pub fn run(mut self, only: Option<&str>) -> Outcome<(Report, Vec<String>)> {
        let mut missing = Vec::new();
        for part in PARTS.into_iter().filter(|part| only.is_none_or(|only| only == *part)) {
            let load = std::fs::read_to_string("/proc/loadavg")?;
            println!("-- {part}; load of the host: {}", load.split(' ').next().unwrap_or("?"));
            match part {
                "call" => self.one_call()?,
                "rate" => self.rate()?,
                "python" => missing.extend(self.python()?),
                "making" => self.making()?,
                "bpf" => self.programs()?,
                "idle" => self.idle()?,
                _ => self.neighbours()?,
            }
        }
        Ok((self.report, missing))
    }

    /// A jailer with the bundle of the C function, under the names given.
    fn stage(&self, blanks: u32, names: &[&str]) -> Outcome<Stage> {
        let stage = Stage::start(blanks)?;
        for name in names {
            std::fs::copy(&self.function, stage.bundle(name)?.join("function"))?;
        }
        Ok(stage)
    }

    /// The function that answers with its payload, in so many sandboxes.
    fn echo(sandboxes: u32) -> Leased {
        Leased::new(sandboxed::spec("echo", &["./function", "serve"], sandboxes), PAYLOAD)
    }

    /// A jailer, a core with the echo in so many sandboxes, and its node; one call has ended well.
    fn echoing(&self, sandboxes: u32) -> Outcome<(Stage, Core, Leases)> {
        let stage = self.stage(BLANKS, &["echo"])?;
        let (core, mut leases) = stage.core(self.core_cpu, vec![Bench::echo(sandboxes)])?;
        sandboxed::warm(&mut leases, 0, 1)?;
        Ok((stage, core, leases))
    }

    /// The round trip over a Unix socket to a process on the core's CPU, both blocking, us.
    fn round_trip_us(&self) -> io::Result<f64> {
        floors::unix_us(self.time / 4, |socket| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["peer", &self.core_cpu.to_string()]).stdin(socket).stderr(Stdio::null()).spawn()
        })
    }
}

/// The middle one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
