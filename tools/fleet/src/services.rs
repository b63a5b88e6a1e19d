//! Downstream services: what functions ask of them, and what they refuse.

use crate::plan::Plan;
use crate::region::Region;
use std::sync::MutexGuard;

/// What a service saw, by point.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Calls that asked it.
    pub asked: Vec<u64>,
    /// Calls that it refused, as it reckons.
    pub refused: Vec<u64>,
}

#[derive(Debug)]
struct Service {
    series: Series,
    /// Calls a second that it usually serves.
    capacity: f64,
    /// Of that, what it serves now, per mille.
    permille: u32,
    /// Calls of late, a second.
    load: f64,
}

/// All services.
#[derive(Debug)]
pub struct Services {
    all: Vec<Service>,
    window_s: f64,
    point: u32,
}

impl Services {
    /// Each serves a multiple of what its functions ask for on average.
    pub fn new(plan: &Plan) -> Services {
        let mean = |service: usize| {
            let of = plan.functions.iter().filter(|f| f.downstream == Some(service as u16));
            of.map(|f| f.calls_per_s).sum::<f64>()
        };
        let one = |(at, spec): (usize, &crate::scenario::DownstreamSpec)| Service {
            series: Series { name: spec.name.clone(), asked: vec![0], refused: vec![0] },
            capacity: mean(at) * spec.capacity,
            permille: 1000,
            load: 0.0,
        };
        Services {
            all: plan.scenario.downstreams.iter().enumerate().map(one).collect(),
            window_s: plan.ms(plan.scenario.time.window_ticks) as f64 / 1000.0,
            point: plan.point,
        }
    }

    /// From now on a service serves this part of what it usually does.
    pub fn set(&mut self, name: &str, permille: u32) {
        self.all.iter_mut().filter(|of| of.series.name == name).for_each(|of| of.permille = permille);
    }

    /// A window is over: what was asked in it decides what is refused in the next.
    pub fn window(&mut self, now: u32, regions: &mut [MutexGuard<'_, Region<'_>>]) {
        for (at, service) in self.all.iter_mut().enumerate() {
            let mut asked = 0;
            for region in regions.iter_mut() {
                asked += std::mem::take(&mut region.said.asked[at]);
            }
            // Over ten windows or so: calls of one simulated call start at once, and real ones do not.
            service.load += (asked as f64 / self.window_s - service.load) / 10.0;
            let serves = service.capacity * f64::from(service.permille) / 1000.0;
            let refusing = if service.load > serves { 1.0 - serves / service.load } else { 0.0 };
            let permille = (refusing * 1000.0) as u32;
            regions.iter_mut().for_each(|region| region.refusing[at] = permille);
            let (asks, refuses) = (asked, asked * u64::from(permille) / 1000);
            *service.series.asked.last_mut().expect("never empty") += asks;
            *service.series.refused.last_mut().expect("never empty") += refuses;
            if now.is_multiple_of(self.point) {
                service.series.asked.push(0);
                service.series.refused.push(0);
            }
        }
    }

    /// What each saw.
    pub fn series(self) -> Vec<Series> {
        self.all.into_iter().map(|service| service.series).collect()
    }
}
