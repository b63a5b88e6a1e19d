//! How long the Global Traffic Conductor takes for a whole matrix: planned from scratch for all groups, with demand that
//! has changed in every region since the last period.

use crate::report::{Figure, Report};
use call::Instant;
use controllers::gtc::{Effect, Gtc, Input, RegionState, Settings};
use controllers::{Effects, GroupRef, RegionRef};

const REGIONS: u16 = 30;
const GROUPS: u16 = 1000;
/// Periods that are measured; the median counts.
const PERIODS: usize = 15;

/// Adds the figure to the report.
pub fn measure(report: &mut Report) {
    let mut out = Effects::new(1);
    let (mut gtc, mut random, mut now) = (ready(&mut out), 1u64, Instant(0));
    let mut took: Vec<f64> = (0..PERIODS)
        .map(|_| {
            spread_demand(&mut gtc, &mut random, &mut out);
            now = now + Settings::default().period;
            let begun = std::time::Instant::now();
            gtc.step(now, Input::Turn, &mut out);
            let took = begun.elapsed().as_secs_f64();
            assert!(out.drain().any(|Effect::Matrix { .. }| true), "no matrix for new demand");
            took * 1000.0
        })
        .collect();
    gtc.check();
    took.sort_by(f64::total_cmp);
    report.add(Figure::new("gtc-matrix-30-regions-1000-groups", took[PERIODS / 2], "ms").bar(1000.0, 100.0));
}

/// Regions on a line, with room for 1,000 of each group.
fn ready(out: &mut Effects<Effect>) -> Gtc {
    let mut gtc = Gtc::new(Settings::default(), usize::from(REGIONS), usize::from(GROUPS), 0);
    let mut tell = |input| gtc.step(Instant(0), input, out);
    for region in (0..REGIONS).map(RegionRef) {
        tell(Input::Region { region, state: RegionState::Up });
        for other in (0..region.0).map(RegionRef) {
            tell(Input::Distance { a: region, b: other, distance: u32::from(region.0 - other.0) });
        }
        for group in (0..GROUPS).map(GroupRef) {
            tell(Input::Supply { region, group, capacity: 1000 });
        }
    }
    gtc
}

/// Demand of 0 to 1,700: in many groups some regions are over what they have, in some all are.
fn spread_demand(gtc: &mut Gtc, random: &mut u64, out: &mut Effects<Effect>) {
    for region in (0..REGIONS).map(RegionRef) {
        for group in (0..GROUPS).map(GroupRef) {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            gtc.step(Instant(0), Input::Demand { region, group, work: (*random >> 33) % 1700 }, out);
        }
    }
}
