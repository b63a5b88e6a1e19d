//! Process functions on one core: this process is the node and the load, pinned to one CPU; core and jailer are
//! processes as in production.
//!
//! `process_alone [--json PATH] [--smoke] [--only PART] [--ms TIME] [--with NAMES]`: the parts are call, rate, python, making, bpf, idle
//! and neighbours, each measurement lasts 2000 ms; `--smoke` measures for an instant only;
//! `--with process,cpu` measures neighbours with these victims and hogs only. Needs root.

use benches::process::{Bench, Outcome};
use benches::{floors, sandboxed};
use driver::topology;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["core", cpu, node, directory] => {
            number(cpu).and_then(|cpu| Ok(sandboxed::serve(cpu, node, directory)?)).map(|()| Vec::new())
        }
        ["jailer", directory, blanks] => {
            number(blanks).and_then(|blanks| Ok(sandboxed::jail(directory, blanks)?)).map(|()| Vec::new())
        }
        ["peer", cpu] => peer(cpu).map(|()| Vec::new()),
        _ => bench(&arguments),
    };
    match ended {
        Ok(missing) if missing.is_empty() => ExitCode::SUCCESS,
        Ok(missing) => {
            missing.iter().for_each(|why| eprintln!("NOT MEASURED: {why}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("process_alone: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Outcome<u32> {
    Ok(text.parse()?)
}

/// The other side of a bare round trip.
fn peer(cpu: &str) -> Outcome<()> {
    topology::pin(number(cpu)? as usize)?;
    Ok(floors::echo_stdin()?)
}

/// Measures; what could not be, with the reason.
fn bench(arguments: &[String]) -> Outcome<Vec<String>> {
    let option = |name| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let smoke = arguments.iter().any(|a| a == "--smoke");
    if !nix::unistd::geteuid().is_root() {
        println!("   SKIPPED: process functions: their limits need root");
        return Ok(if smoke { vec![] } else { vec!["process functions: not root".into()] });
    }
    let time = option("--ms").map_or(Ok(if smoke { 100 } else { 2000 }), |ms| ms.parse())?;
    let wanted = option("--with").map_or(Vec::new(), |names| names.split(',').map(str::to_owned).collect());
    let bench = Bench::new(Duration::from_millis(time), smoke, wanted)?;
    let (report, missing) = bench.run(option("--only").map(String::as_str))?;
    if let Some(path) = option("--json") {
        report.write(Path::new(path))?;
    }
    Ok(if smoke { Vec::new() } else { missing })
}
