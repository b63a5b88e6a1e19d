//! Calls that run: what the scheduler decides, on which pool they start, and how they end.

use super::{Held, Pending, Region, SLOTS, group};
use crate::pool::Share;
use call::{Instant, WallTime};
use scheduler::{CallRef, CoreRef, Effect, Effects, FunctionRef, How, Input, Marks};

impl Region<'_> {
    /// Calls that end in this tick.
    pub(super) fn finish(&mut self, now: u32) {
        let mut ends = std::mem::take(&mut self.due_ends);
        self.ends.take(now, &mut ends);
        for &call in &ends {
            let Held { pending, function, runs } = self.calls[call as usize];
            let (pool, share) = runs.expect("what ends has run");
            self.pools[usize::from(pool)].end(share);
            self.release(call);
            let refused = self.is_refused(function);
            if self.scheduler.is_some() {
                let how = if refused { How::BackPressure } else { How::Ok };
                self.tell(Input::Ended { call: CallRef(call), how });
            }
            if refused {
                self.refuse(now, function, pending);
            } else {
                self.complete(now, function, pending);
            }
        }
        self.due_ends = ends;
    }

    fn complete(&mut self, now: u32, function: u32, call: Pending) {
        let calls = self.stands_for(function);
        self.point.finished += calls;
        self.record.ledger.ended += 1;
        self.record.trace(now, 3, function);
        if self.plan.is_measured(call.arrived) {
            let late = self.plan.ms(now - call.arrived)
                > 1000 * u64::from(self.plan.functions[function as usize].deadline_s);
            self.record.ledger.finished += calls;
            let late = if late { calls } else { 0 };
            self.record.ledger.late += late;
            if !self.plan.functions[function as usize].reserved {
                self.record.ledger.late_opportunistic += late;
            }
        }
    }

    fn is_refused(&mut self, function: u32) -> bool {
        let Some(service) = self.plan.functions[function as usize].downstream else { return false };
        let permille = self.refusing[usize::from(service)];
        permille > 0 && self.random.below(1000) < u64::from(permille)
    }

    /// A downstream service threw its back-pressure exception: the call runs again later.
    fn refuse(&mut self, now: u32, function: u32, call: Pending) {
        let calls = self.stands_for(function);
        self.point.exceptions += calls;
        self.record.ledger.refused += calls;
        self.said.refused.push((function, calls));
        self.record.trace(now, 4, function);
        // Back-off doubles from a second to a minute.
        let wait_ms = 1000u64 << call.attempts.min(6);
        let again = Pending { attempts: call.attempts.saturating_add(1), pulled: false, ..call };
        self.arriving.put(now + self.plan.ticks(wait_ms.min(60_000)), (function, again));
    }

    /// Pools with room give the scheduler credits.
    pub(super) fn grant(&mut self) {
        let admit = self.plan.scenario.control.admit;
        for at in 0..self.pools.len() {
            if !self.pools[at].changed {
                continue;
            }
            if let Some(granted) = self.pools[at].grant(self.typical, admit, u64::from(SLOTS)) {
                self.tell(Input::Credit { core: CoreRef(at as u16), granted });
            }
        }
    }

    /// Lets the scheduler decide until it has nothing more to say.
    pub(super) fn decide(&mut self, now: u32) {
        loop {
            let random = self.random.bits();
            let now_ns = self.plan.ms(now) * 1_000_000;
            self.tell(Input::Turn { now: Instant(now_ns), wall: WallTime(now_ns), random });
            let mut effects = self.effects.take().expect("put back below");
            let count = effects.as_slice().len();
            for at in 0..count {
                // The list stays as it is while inputs other than a turn are told.
                match effects.as_slice()[at] {
                    Effect::Poll { function, max } => self.answer(function, max, &mut effects),
                    Effect::Dispatch { call, core, .. } => self.start(now, call.0, core.0),
                    Effect::Return { .. } => unreachable!("no core goes alone, and no function"),
                    Effect::Refuse { .. } => unreachable!("all data is in the lowest zone"),
                }
            }
            effects.clear();
            self.effects = Some(effects);
            if count == 0 {
                return;
            }
        }
    }

    fn answer(&mut self, function: FunctionRef, max: u32, effects: &mut Effects) {
        let mut scheduler = self.scheduler.take().expect("it asked");
        for _ in 0..max {
            let Some(pending) = self.dequeue(function.0) else { break };
            let of = &self.plan.functions[function.0 as usize];
            if pending.home == self.index as u8 {
                self.said.polled_cpu[group(of.reserved)] += self.cpu(function.0, pending);
            }
            let call = CallRef(self.hold(function.0, pending));
            let due_ms = self.plan.ms(pending.arrived) + 1000 * u64::from(of.deadline_s);
            let (criticality, deadline) = (of.criticality, WallTime(due_ms * 1_000_000));
            let marks = Marks { retry: pending.attempts > 0, ..Marks::default() };
            scheduler.step(Input::Offered { call, function, criticality, deadline, marks }, effects);
        }
        let more = !self.queues[function.0 as usize].is_empty();
        scheduler.step(Input::Polled { function, more }, effects);
        self.scheduler = Some(scheduler);
    }

    fn hold(&mut self, function: u32, pending: Pending) -> u32 {
        let held = Held { pending, function, runs: None };
        match self.free.pop() {
            Some(call) => {
                self.calls[call as usize] = held;
                call
            }
            None => {
                self.calls.push(held);
                self.calls.len() as u32 - 1
            }
        }
    }

    fn release(&mut self, call: u32) {
        self.calls[call as usize].runs = None;
        self.free.push(call);
    }

    /// A call starts on a pool.
    fn start(&mut self, now: u32, call: u32, pool: u16) {
        let Held { pending, function, .. } = self.calls[call as usize];
        let of = &self.plan.functions[function as usize];
        let mut asked = self.asks(function, pending);
        let of_typical = asked.rate;
        if let Some(code) = &mut self.code {
            asked.rate *= code.called(now, usize::from(pool), function, of.cpu * f64::from(of.gathered));
        }
        let share = self.pools[usize::from(pool)].start(asked);
        self.calls[call as usize].runs = Some((pool, share));
        self.ends.put(now + self.plan.ticks(u64::from(share.run_ms)), call);
        // Averages over about a hundred calls.
        self.typical.rate = (self.typical.rate * 99 + of_typical) / 100 + 1;
        self.typical.memory_mb =
            ((u64::from(self.typical.memory_mb) * 99 + u64::from(asked.memory_mb)) / 100) as u32 + 1;
        if let Some(service) = of.downstream {
            self.said.asked[usize::from(service)] += u64::from(of.gathered);
            self.said.began.push(function);
        }
        self.note_gone(function, pending);
        if pending.home != self.index as u8 {
            self.point.remote_cpu += self.cpu(function, pending);
        }
        self.record.trace(now, 2, function);
        self.waited(now, function, pending);
    }

    /// Notes how long a call waited until its first start.
    fn waited(&mut self, now: u32, function: u32, call: Pending) {
        if call.attempts > 0 {
            return;
        }
        // Known to one tick, and counted up.
        let (ms, calls) = (self.plan.ms(now - call.arrived + 1), self.stands_for(function));
        let reserved = self.plan.functions[function as usize].reserved;
        if reserved {
            self.point.reserved_delay_ms = self.point.reserved_delay_ms.max(ms);
        }
        if self.plan.is_measured(call.arrived) {
            let delays = if reserved { &mut self.record.reserved } else { &mut self.record.opportunistic };
            delays.add(ms, calls);
            // Not a moment before the watched function's calls, nor long after: the same calls in each run.
            if reserved && self.plan.watched != Some(function) && self.plan.is_watched(call.arrived) {
                self.record.others.add(ms, calls);
            }
        }
    }

    /// What a call takes on workers that have room.
    fn asks(&self, function: u32, call: Pending) -> Share {
        let of = &self.plan.functions[function as usize];
        let scale = f64::from(call.cost) / 1000.0;
        let run_s = (of.run_s * scale).max(self.plan.scenario.workload.spread_s).max(0.001);
        let work = of.cpu * f64::from(of.gathered) * scale * 1000.0;
        // A call's own heap, of which the published peaks are, is there while the call runs.
        let at_once = f64::from(of.gathered) * of.run_s * scale / run_s;
        Share {
            rate: (work / run_s) as u64 + 1,
            memory_mb: (at_once * of.memory_mb).ceil().min(1e9) as u32,
            run_ms: (run_s * 1000.0) as u32,
        }
    }

    /// One queue, and the better of two random pools by their room.
    pub(super) fn run_plain(&mut self, now: u32) {
        let admit = self.plan.scenario.control.admit;
        loop {
            let two = [0, 1].map(|_| self.random.below(self.pools.len() as u64) as usize);
            let room = |at: usize| {
                let pool = &self.pools[at];
                (pool.capacity / 1000 * u64::from(admit)).saturating_sub(pool.used)
            };
            let mut best = if room(two[1]) > room(two[0]) { two[1] } else { two[0] };
            if room(best) == 0 {
                // Nothing waits while a pool is idle.
                best = (0..self.pools.len()).max_by_key(|&at| room(at)).expect("a region has pools");
                if room(best) == 0 {
                    return;
                }
            }
            let Some(function) = self.plain.pop() else { return };
            if let Some(pending) = self.dequeue(function) {
                let call = self.hold(function, pending);
                self.start(now, call, best as u16);
            }
        }
    }
}
