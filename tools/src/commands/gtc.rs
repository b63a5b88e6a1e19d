//! `millrace gtc`: the Global Traffic Conductor.

use super::region::Site;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::{Output, line};
use crate::regions::Regions;
use crate::settings::Environment;
use ::call::admin::{RegionState, TrafficMatrix};
use ::call::time::nanos;
use comfy_table::{Table, presets};
use controllers::gtc::{Gtc, Input, Matrix, RegionState as State, Settings};
use controllers::{Effects, GroupRef, RegionRef, Snapshot};
use driver::notes::say;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  millrace gtc matrix                  # who pulls how much from whom
  millrace gtc matrix -o json
  millrace gtc pull b a=400 c=100      # by hand: of its pulls b takes 400 of 1000 from a, 100 from c, the rest from itself

The conductor publishes a new matrix when demand or supply changes, or a region fails. Regions keep the newest and go on
with it for as long as there is no conductor. What is published by hand lasts where none runs: `up --no-conductor`.";

/// How often the conductor looks. It plans in its own period, and at once when a region fails.
const LOOK: Duration = Duration::from_millis(500);
/// All functions are one group: the regions of one machine have the same workers for all.
const ALL: GroupRef = GroupRef(0);
/// A slot of a core, in the unit of demand and supply.
const SLOT: u64 = 1000;

/// Shows or sets who pulls how much from whom.
#[derive(clap::Subcommand, Debug)]
#[command(after_help = EXAMPLES)]
pub enum GtcCommand {
    /// The matrix in force
    Matrix {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        site: Site,
    },
    /// Set by hand what one region pulls from others
    Pull {
        /// The region that pulls
        region: String,
        /// From whom, and how much of 1000 of its pulls
        #[arg(value_name = "REGION=SHARE", required = true, value_parser = share)]
        from: Vec<(String, u32)>,
        #[command(flatten)]
        site: Site,
    },
    /// Run the conductor; started by `up --regions`
    #[command(hide = true)]
    Conduct {
        #[command(flatten)]
        site: Site,
    },
}

fn share(text: &str) -> Result<(String, u32), String> {
    let read = || {
        let (region, share) = text.split_once('=')?;
        Some((region.to_owned(), share.parse().ok().filter(|share| *share <= 1000)?))
    };
    read().ok_or_else(|| "write REGION=SHARE, with a share of 0 to 1000".into())
}

impl GtcCommand {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            GtcCommand::Matrix { output, site } => {
                let states = ask(&site.regions(environment)?);
                let newest = newest(&states).ok_or_else(|| {
                    let remedy = "see `millrace region list`";
                    Failure::new(Exit::Connect, "no region can be asked", "millrace gtc", remedy)
                })?;
                output.print(newest, |matrix| show(matrix, &states));
                Ok(Exit::Ok)
            }
            GtcCommand::Pull { region, from, site } => pull(&site.regions(environment)?, &region, &from),
            GtcCommand::Conduct { site } => {
                interrupt::flag();
                Conductor::new(site.regions(environment)?).run()
            }
        }
    }
}

/// What each region says of itself, in the order of the list; none of one that cannot be asked.
fn ask(regions: &Regions) -> Vec<Option<RegionState>> {
    // One that is failed on purpose is not asked: a dead process in a live namespace refuses at once, a dead link does not.
    let asked = |region: &crate::regions::Region| match region.is_failed() {
        true => None,
        false => region.admin().and_then(|admin| admin.get("/v1/region")).ok(),
    };
    regions.regions.iter().map(asked).collect()
}

fn newest(states: &[Option<RegionState>]) -> Option<&TrafficMatrix> {
    states.iter().flatten().map(|state| &state.matrix).max_by_key(|matrix| matrix.version)
}

fn show(matrix: &TrafficMatrix, states: &[Option<RegionState>]) -> String {
    if matrix.version == 0 {
        return "no matrix was published: each region pulls from itself only".into();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let columns = matrix.regions.iter().map(|region| format!("FROM {}", region.to_uppercase()));
    table.set_header(std::iter::once("REGION".to_owned()).chain(columns).chain(["IN FORCE".to_owned()]));
    for (at, (region, row)) in matrix.regions.iter().zip(&matrix.shares).enumerate() {
        let force = match states.get(at).and_then(Option::as_ref) {
            Some(state) if state.matrix.version == matrix.version => "yes".to_owned(),
            Some(state) => format!("version {}", state.matrix.version),
            None => "unreachable".into(),
        };
        let shares = row.iter().map(|share| format!("{}.{}%", share / 10, share % 10));
        table.add_row(std::iter::once(region.clone()).chain(shares).chain([force]));
    }
    format!("version {}\n{table}", matrix.version)
}

fn pull(regions: &Regions, region: &str, from: &[(String, u32)]) -> Done {
    let states = ask(regions);
    let names: Vec<String> = regions.regions.iter().map(|region| region.name.clone()).collect();
    let position = |name: &str| {
        regions.named(name)?;
        Ok::<usize, Failure>(names.iter().position(|other| other == name).expect("just found"))
    };
    let by = position(region)?;
    let mut matrix = newest(&states).filter(|newest| newest.regions == names).cloned();
    let matrix = matrix.get_or_insert_with(|| TrafficMatrix::identity(names.clone()));
    matrix.shares[by].fill(0);
    for (name, share) in from {
        matrix.shares[by][position(name)?] = *share;
    }
    let taken: u32 = matrix.shares[by].iter().sum();
    let rest = 1000u32.checked_sub(taken).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("{taken} of 1000 are given out"), "REGION=SHARE", "give out less")
    })?;
    matrix.shares[by][by] += rest;
    matrix.version = newest(&states).map_or(0, |newest| newest.version) + 1;
    let told = publish(regions, &states, matrix);
    line(&format!("version {} is in force in {told} of {} regions", matrix.version, names.len()));
    Ok(if told > 0 { Exit::Ok } else { Exit::Connect })
}

/// Tells all regions that can be asked and have an older one. How many have it now.
fn publish(regions: &Regions, states: &[Option<RegionState>], matrix: &TrafficMatrix) -> usize {
    let mut told = 0;
    for (region, state) in regions.regions.iter().zip(states) {
        let Some(state) = state else { continue };
        let has = state.matrix.version >= matrix.version;
        let put = || region.admin()?.put::<RegionState>("/v1/region/matrix", matrix);
        told += usize::from(has || put().is_ok());
    }
    told
}

/// The conductor as a process: asks all regions, lets the controller decide, and publishes.
struct Conductor {
    regions: Regions,
    gtc: Option<Gtc>,
    effects: Effects<controllers::gtc::Effect>,
    begun: Instant,
}

impl Conductor {
    fn new(regions: Regions) -> Conductor {
        Conductor { regions, gtc: None, effects: Effects::new(1), begun: Instant::now() }
    }

    fn run(mut self) -> Done {
        while !interrupt::is_asked() {
            let states = ask(&self.regions);
            let held = newest(&states);
            let version = held.map_or(0, |held| held.version);
            let count = self.regions.regions.len();
            let now = ::call::Instant(nanos(self.begun.elapsed()));
            let gtc = self.gtc.get_or_insert_with(|| begin(count, version));
            // It has just begun, or somebody published by hand: it goes on from there.
            if let Some(held) =
                held.filter(|held| held.version + 1 >= gtc.newest().version).and_then(snapshot)
            {
                gtc.step(now, Input::Held(&held), &mut self.effects);
            }
            tell(gtc, now, &states, &mut self.effects);
            gtc.step(now, Input::Turn, &mut self.effects);
            for _ in self.effects.drain() {
                say(format_args!("conductor: matrix {} is published", gtc.newest().version));
            }
            let matrix = matrix_of(&self.regions, gtc);
            publish(&self.regions, &states, &matrix);
            std::thread::sleep(LOOK);
        }
        Ok(Exit::Ok)
    }
}

/// What a region holds, in the conductor's form; none if it is not of this form.
fn snapshot(held: &TrafficMatrix) -> Option<Snapshot<Matrix>> {
    let shares: Vec<u32> = held.shares.iter().flatten().copied().collect();
    let matrix = serde_json::json!({ "regions": held.regions.len(), "groups": 1, "shares": shares });
    serde_json::from_value(matrix).ok().map(|value| Snapshot { version: held.version, value })
}

fn begin(count: usize, version: u64) -> Gtc {
    Gtc::new(Settings::default(), count, 1, version)
}

/// Demand is what waits or runs of a region's own, wherever it runs; supply is the slots of its cores.
fn tell(
    gtc: &mut Gtc,
    now: ::call::Instant,
    states: &[Option<RegionState>],
    effects: &mut Effects<controllers::gtc::Effect>,
) {
    for (at, state) in states.iter().enumerate() {
        let region = RegionRef(at as u16);
        let how = how(state.as_ref());
        if gtc.state(region) != how {
            gtc.step(now, Input::Region { region, state: how }, effects);
        }
        let Some(said) = state else { continue };
        let busy = said.slots.saturating_sub(said.free).saturating_sub(said.pulled);
        let work = (said.waiting + busy + said.lent) * SLOT;
        gtc.step(now, Input::Demand { region, group: ALL, work }, effects);
        gtc.step(now, Input::Supply { region, group: ALL, capacity: said.slots * SLOT }, effects);
    }
}

/// A region that nobody reaches, or that reaches nobody, has failed as far as the others are concerned.
fn how(state: Option<&RegionState>) -> State {
    match state {
        None => State::Failed,
        Some(state) if state.links.iter().all(|link| link.state != "up") => State::Failed,
        Some(state) if state.drained => State::Draining,
        Some(_) => State::Up,
    }
}

fn matrix_of(regions: &Regions, gtc: &Gtc) -> TrafficMatrix {
    let count = regions.regions.len();
    let newest = gtc.newest();
    let row =
        |by: usize| newest.value.row(ALL, RegionRef(by as u16)).iter().map(|share| (*share).into()).collect();
    TrafficMatrix {
        version: newest.version,
        regions: regions.regions.iter().map(|region| region.name.clone()).collect(),
        shares: (0..count).map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::call::admin::LinkState;

    fn said(waiting: u64, free: u64) -> Option<RegionState> {
        let links = vec![LinkState { state: "up".into(), ..LinkState::default() }];
        Some(RegionState { waiting, free, slots: 100, links, ..RegionState::default() })
    }

    #[test]
    fn an_overloaded_region_is_helped_and_a_failed_one_is_left() {
        let (mut gtc, mut effects) = (begin(2, 7), Effects::new(1));
        for second in 0..60 {
            let now = ::call::Instant(second * 1_000_000_000);
            tell(&mut gtc, now, &[said(150, 0), said(0, 100)], &mut effects);
            gtc.step(now, Input::Turn, &mut effects);
            effects.drain().for_each(drop);
            gtc.check();
        }
        let share = |gtc: &Gtc| gtc.newest().value.share(ALL, RegionRef(1), RegionRef(0));
        assert!(share(&gtc) > 300, "{:?}", gtc.newest());
        let now = ::call::Instant(61_000_000_000);
        tell(&mut gtc, now, &[None, said(0, 100)], &mut effects);
        gtc.step(now, Input::Turn, &mut effects);
        assert_eq!(share(&gtc), 0);
        assert!(gtc.newest().version > 7);
    }

    #[test]
    fn a_region_that_reaches_nobody_has_failed() {
        let cut = said(0, 0).map(|said| RegionState { links: vec![LinkState::default()], ..said });
        assert_eq!(how(cut.as_ref()), State::Failed);
        let drained = said(0, 0).map(|said| RegionState { drained: true, ..said });
        assert_eq!((how(drained.as_ref()), how(said(0, 0).as_ref())), (State::Draining, State::Up));
    }

    #[test]
    fn shares_are_read() {
        assert_eq!(share("a=400"), Ok(("a".into(), 400)));
        for wrong in ["a", "a=", "a=1001", "=x", "a=-1"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
