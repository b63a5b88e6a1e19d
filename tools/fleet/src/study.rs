//! A scenario with all its variants, run and judged.

use crate::figures::{self, Row, Summary};
use crate::fleet::{self, Run};
use crate::plan::Plan;
use crate::replay::Traced;
use crate::scenario::{BUILT_IN, Error, ReplaySpec, Scenario};

/// One variant, run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The scenario as this variant has it.
    pub scenario: Scenario,
    /// Series and ledgers.
    pub run: Run,
}

/// All that a scenario showed.
#[derive(Clone, Debug)]
pub struct Study {
    /// The scenario itself.
    pub scenario: Scenario,
    /// What chance was drawn from.
    pub seed: u64,
    /// The scenario, then its variants in their order.
    pub outcomes: Vec<Outcome>,
    /// The same as figures.
    pub summaries: Vec<Summary>,
    /// What is judged.
    pub rows: Vec<Row>,
}

/// The text of a scenario that comes with the program.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Runs a scenario and its variants, all with the same seed. `set` holds for all of them. `progress` hears which is
/// run, and the part of its hours that are over. A scenario that replays a trace wants [`study_of`].
///
/// # Errors
/// Names the key that is wrong.
pub fn study(
    text: &str,
    set: &[String],
    seed: u64,
    threads: usize,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<Study, Error> {
    let mut none =
        |_: &ReplaySpec| Err(Error { what: "no traces are read here".into(), place: "replay.trace".into() });
    study_of(text, set, seed, threads, &mut none, progress)
}

/// The same, with somebody who reads the trace that a scenario replays.
///
/// # Errors
/// Names the key that is wrong, or says what the reader of the trace says.
pub fn study_of<E: From<Error>>(
    text: &str,
    set: &[String],
    seed: u64,
    threads: usize,
    read: &mut dyn FnMut(&ReplaySpec) -> Result<Traced, E>,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<Study, E> {
    let scenario = Scenario::read(text, set)?;
    let traced = scenario.replay.as_ref().map(read).transpose()?;
    let own = [(String::new(), Vec::new())];
    let variants = scenario.variants.iter().map(|variant| (variant.name.clone(), variant.set.clone()));
    let (mut outcomes, mut summaries) = (Vec::new(), Vec::new());
    for (name, changes) in own.into_iter().chain(variants) {
        let all: Vec<String> = set.iter().cloned().chain(changes).collect();
        let scenario = Scenario::read(text, &all)?;
        let run = fleet::run(&Plan::new(&scenario, seed, traced.as_ref())?, threads, &mut |part| {
            progress(&name, part)
        });
        let figures = figures::figures(&scenario, &run);
        summaries.push(Summary { variant: name, trace_hash: format!("{:016x}", run.hash), figures });
        outcomes.push(Outcome { scenario, run });
    }
    let rows = figures::rows(&scenario, &summaries);
    Ok(Study { scenario, seed, outcomes, summaries, rows })
}
