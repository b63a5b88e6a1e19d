//! Deploys every function of the trace: five artefacts, two hundred and fifty functions.

use super::plan::{self, Work};
use super::platform::Platform;
use crate::deployment::Package;
use crate::exit::{Exit, Failure};
use crate::trace::Trace;
use call::admin::FunctionState;
use call::{FunctionId, FunctionSpec};
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::time::{Duration, Instant};

/// Compiling five programs takes seconds, on a busy machine a few more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Deploys all and waits until they can run; their ids in the trace's order.
pub fn all(
    platform: &Platform,
    trace: &Trace,
    works: &[Work],
    guests: &Path,
) -> Result<Vec<FunctionId>, Failure> {
    let mut programs = BTreeMap::new();
    let mut ids = Vec::with_capacity(works.len());
    for (traced, work) in trace.functions.iter().zip(works) {
        let spec = plan::spec(traced);
        ids.push(spec.id());
        match programs.entry(*work) {
            Entry::Vacant(vacant) => {
                let package = Package::read_wasm(spec, &guests.join(work.artefact()))?;
                package.deploy(&platform.admin)?;
                vacant.insert((package.spec.artefact, package.spec.artefact_bytes));
            }
            // The node has the program's code already: only the function is new.
            Entry::Occupied(program) => {
                let (artefact, artefact_bytes) = program.get().clone();
                let spec = FunctionSpec { artefact, artefact_bytes, ..spec };
                let path = format!("/v1/functions/{}/{}", spec.namespace, spec.name);
                platform.admin.put::<Value>(&path, &spec)?;
            }
        }
    }
    wait_ready(platform, ids.len())?;
    println!("deployed   {} functions of {} programs, compiled and ready", ids.len(), programs.len());
    Ok(ids)
}

fn wait_ready(platform: &Platform, functions: usize) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let states: Vec<FunctionState> = platform.admin.get("/v1/functions")?;
        if let Some(failed) = states.iter().find(|state| state.state == "failed") {
            let remedy = "build the demo's functions again: `tools/demo/run`";
            return Err(Failure::new(Exit::Internal, &failed.reason, &failed.spec.name, remedy));
        }
        let ready = states.iter().filter(|state| state.state == "ready").count();
        if ready >= functions {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let what = format!("{ready} of {functions} functions are ready after {} s", PATIENCE.as_secs());
            return Err(Failure::new(
                Exit::TimedOut,
                what,
                "the demo",
                "see up.log in the demo's output folder",
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
