//! What a scenario may say, and single keys set to other values.

use super::{CodeSpec, Error, EventSpec, Scenario, What, error};

impl Scenario {
    /// Refuses what cannot be simulated.
    pub(super) fn validate(&self) -> Result<(), Error> {
        let (time, fleet, load) = (&self.time, &self.fleet, &self.workload);
        within("time.hours", time.hours, 0.05, 168.0)?;
        within("time.from_h", time.from_h, 0.0, 24.0)?;
        within("time.warm_up_h", time.warm_up_h, 0.0, 48.0)?;
        within("time.tail_h", time.tail_h, 0.0, 96.0)?;
        within("time.tick_ms", time.tick_ms.into(), 10.0, 10_000.0)?;
        within("time.window_ticks", time.window_ticks.into(), 1.0, 1000.0)?;
        within("time.point_min", time.point_min.into(), 1.0, 120.0)?;
        within("fleet.regions", fleet.regions.into(), 1.0, 64.0)?;
        within("fleet.workers", fleet.workers.into(), fleet.regions.into(), 10_000_000.0)?;
        within("fleet.pools", fleet.pools.into(), 1.0, 255.0)?;
        within("fleet.worker_mips", fleet.worker_mips.into(), 100.0, 10_000_000.0)?;
        within("fleet.worker_memory_mb", fleet.worker_memory_mb.into(), 128.0, 16_777_216.0)?;
        within("fleet.uneven", fleet.uneven.into(), 0.0, 900.0)?;
        within("fleet.base_memory_mb", fleet.base_memory_mb, 0.0, f64::from(fleet.worker_memory_mb))?;
        within("workload.functions", load.functions.into(), 20.0, 200_000.0)?;
        within("workload.demand_workers", load.demand_workers, 0.01, 10_000_000.0)?;
        within("workload.opportunistic", load.opportunistic, 0.0, 1.0)?;
        within("workload.batch_worker_s", load.batch_worker_s, 0.0001, 100_000.0)?;
        within("workload.gather_s", load.gather_s, 0.001, 86_400.0)?;
        within("workload.reserved_quota", load.reserved_quota, 0.01, 1000.0)?;
        within("workload.opportunistic_quota", load.opportunistic_quota, 0.01, 1000.0)?;
        within("workload.near", load.near, 0.0, 1.0)?;
        within("workload.spread_s", load.spread_s, 0.0, 3600.0)?;
        within("workload.opportunistic_deadline_h", load.opportunistic_deadline_h, 0.1, 96.0)?;
        within("curve.hours", self.curve.hours.len() as f64, 1.0, 1440.0)?;
        for &rate in &self.curve.hours {
            within("curve.hours", rate, 0.001, 1000.0)?;
        }
        within("curve.spike_width_h", self.curve.spike_width_h, 0.1, 24.0)?;
        within("curve.spike_height", self.curve.spike_height, 0.0, 100.0)?;
        within("control.period_s", self.control.period_s.into(), 1.0, 3600.0)?;
        within("control.admit", self.control.admit.into(), 1.0, 2000.0)?;
        within(
            "control.overload",
            self.control.overload.into(),
            f64::from(self.control.target) + 1.0,
            2000.0,
        )?;
        within("control.step", self.control.step.into(), 1.0, 100_000.0)?;
        self.validate_code(&self.code)?;
        if let Some(spike) = &self.spike {
            within("spike.at_h", spike.at_h, 0.0, 168.0)?;
            within("spike.for_min", spike.for_min, 0.1, 1440.0)?;
            within("spike.calls", spike.calls, 1.0, 1e12)?;
            within("spike.cpu", spike.cpu, 0.001, 1e9)?;
            within("spike.run_s", spike.run_s, 0.0, 86_400.0)?;
            within("spike.memory_mb", spike.memory_mb, 0.0, 1e6)?;
        }
        if let Some(replay) = &self.replay {
            within("replay.times", replay.times.into(), 1.0, 1e9)?;
            if self.spike.is_some() || !self.downstreams.is_empty() {
                return Err(error("replay", "a trace is replayed without a spike and without services"));
            }
        }
        for event in &self.events {
            self.validate_event(event)?;
        }
        Ok(())
    }

    fn validate_code(&self, code: &CodeSpec) -> Result<(), Error> {
        within("code.groups", code.groups.into(), 0.0, 255.0)?;
        within("code.code_mb", code.code_mb, 0.01, 65_536.0)?;
        within("code.idle_min", code.idle_min, 0.1, 10_000.0)?;
        within("code.interpreted", code.interpreted.into(), 1.0, 1000.0)?;
        within("code.hot_cpu", code.hot_cpu, 0.0, 1e9)?;
        within("code.compile_s", code.compile_s, 0.001, 10_000.0)?;
        within("code.compilers", code.compilers, 0.1, code.threads)?;
        within("code.threads", code.threads, 1.0, 10_000.0)?;
        within("code.install_s", code.install_s, 0.0, 100.0)?;
        within("code.profile_s", code.profile_s, 0.0, 3600.0)?;
        let workers = self.workers();
        if code.held && workers.iter().any(|&workers| workers > self.fleet.pools) {
            return Err(error(
                "code.held",
                "each worker must be a pool of its own: fleet.pools is too small",
            ));
        }
        if !code.held && (code.groups > 1 || code.push_at_h.is_some()) {
            return Err(error("code.held", "groups and pushes need workers that hold code"));
        }
        Ok(())
    }

    fn validate_event(&self, event: &EventSpec) -> Result<(), Error> {
        if !(0.0..=168.0).contains(&event.at_h) || !(0.0..=168.0).contains(&event.for_h) {
            return Err(error("event", "at_h and for_h are hours from 0 to 168"));
        }
        match &event.what {
            What::RegionLost { region, .. } if *region >= self.fleet.regions => {
                Err(error("event.region", format!("there is no region {region}: they are numbered from 0")))
            }
            What::Downstream { name, .. } if self.downstreams.iter().all(|of| of.name != *name) => {
                Err(error("event.name", format!("there is no downstream `{name}`")))
            }
            _ => Ok(()),
        }
    }
}

/// Sets `a.b=value` in a table; the value is TOML, or else a text.
pub(super) fn change(table: &mut toml::Table, pair: &str) -> Result<(), Error> {
    let Some((path, value)) = pair.split_once('=') else {
        return Err(error(pair, "write key=value, such as fleet.workers=90000"));
    };
    let typed = format!("value = {value}").parse::<toml::Table>();
    let value = typed.ok().and_then(|mut of| of.remove("value")).unwrap_or_else(|| value.into());
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().unwrap_or_default();
    let mut at = table;
    for key in keys {
        let inner = at.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = inner.as_table_mut().ok_or_else(|| error(path, format!("`{key}` is not a table")))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

fn within(place: &str, value: f64, low: f64, high: f64) -> Result<(), Error> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(error(place, format!("{value} is not from {low} to {high}")))
    }
}
