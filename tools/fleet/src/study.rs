//! A scenario with all its variants, run and judged.

use crate::figures::{self, Row, Summary};
use crate::fleet::{self, Run};
use crate::plan::Plan;
use crate::scenario::{BUILT_IN, Error, Scenario};

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
/// run, and the part of its hours that are over.
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
    let scenario = Scenario::read(text, set)?;
    let own = [(String::new(), Vec::new())];
    let variants = scenario.variants.iter().map(|variant| (variant.name.clone(), variant.set.clone()));
    let (mut outcomes, mut summaries) = (Vec::new(), Vec::new());
    for (name, changes) in own.into_iter().chain(variants) {
        let all: Vec<String> = set.iter().cloned().chain(changes).collect();
        let scenario = Scenario::read(text, &all)?;
        let run = fleet::run(&Plan::new(&scenario, seed)?, threads, &mut |part| progress(&name, part));
        let figures = figures::figures(&scenario, &run);
        summaries.push(Summary { variant: name, trace_hash: format!("{:016x}", run.hash), figures });
        outcomes.push(Outcome { scenario, run });
    }
    let rows = figures::rows(&scenario, &summaries);
    Ok(Study { scenario, seed, outcomes, summaries, rows })
}
