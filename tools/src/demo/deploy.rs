//! Deploys every function of the trace: five artefacts, two hundred and fifty functions.

use super::plan::{self, Work};
use super::platform::Platform;
use crate::exit::{Exit, Failure};
use crate::trace::Trace;
use call::FunctionId;
use call::admin::FunctionState;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
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
    let mut artefacts = BTreeMap::new();
    for work in Work::ALL {
        let path = guests.join(work.artefact());
        let wasm = std::fs::read(&path).map_err(|error| Failure::file("read the function", &path, &error))?;
        let hash: String = Sha256::digest(&wasm).iter().map(|byte| format!("{byte:02x}")).collect();
        platform.admin.put_wasm::<Value>(&format!("/v1/artefacts/{hash}"), &wasm)?;
        artefacts.insert(work, (hash, wasm.len() as u64));
    }
    let mut ids = Vec::with_capacity(works.len());
    for (traced, work) in trace.functions.iter().zip(works) {
        let mut spec = plan::spec(traced);
        (spec.artefact, spec.artefact_bytes) = artefacts[work].clone();
        platform.admin.put::<Value>(&format!("/v1/functions/{}/{}", spec.namespace, spec.name), &spec)?;
        ids.push(spec.id());
    }
    wait_ready(platform, ids.len())?;
    println!("deployed   {} functions of {} programs, compiled and ready", ids.len(), artefacts.len());
    Ok(ids)
}

fn wait_ready(platform: &Platform, functions: usize) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let states: Vec<FunctionState> = platform.admin.get("/v1/functions")?;
        if let Some(failed) = states.iter().find(|state| state.state == "failed") {
            let remedy = "build the demo's functions again: `make demo-guests`";
            return Err(Failure::new(Exit::Internal, &failed.reason, &failed.spec.name, remedy));
        }
        let ready = states.iter().filter(|state| state.state == "ready").count();
        if ready >= functions {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let what = format!("{ready} of {functions} functions are ready after {} s", PATIENCE.as_secs());
            return Err(Failure::new(Exit::TimedOut, what, "the demo", "see up.log in the demo's output folder"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
