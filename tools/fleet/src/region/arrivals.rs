//! Calls that come into a region, and its durable queues.

use super::{FUNC_BUFFER, Message, Pending, Region, group};
use crate::scenario::Order;
use scheduler::{FunctionRef, Input};
use std::time::Duration;

/// How long a client looks for another region when its own does not answer: the time after which a silent worker is
/// given up, too.
const REROUTE: Duration = Duration::from_secs(5);

impl Region<'_> {
    /// Calls that come: from clients, from other regions, and again after a failure.
    pub(super) fn arrive(&mut self, now: u32) {
        let mut streams = std::mem::take(&mut self.due_streams);
        self.streams.take(now, &mut streams);
        for &stream in &streams {
            let mut next = Some(now);
            while next == Some(now) {
                self.submit(now, stream);
                next = self.next_arrival(stream);
            }
            if let Some(tick) = next {
                self.streams.put(tick, stream);
            }
        }
        self.due_streams = streams;
        let mut calls = std::mem::take(&mut self.due_calls);
        self.arriving.take(now, &mut calls);
        for &(function, call) in &calls {
            self.enqueue(function, call);
        }
        self.due_calls = calls;
    }

    /// A client submits a call.
    fn submit(&mut self, now: u32, stream: u32) {
        let of = &self.plan.streams[usize::from(self.index)][stream as usize];
        let function = of.function;
        // What is drawn varies by half around its mean.
        let cost = match of.cost(self.seconds[stream as usize]) {
            Some(cost) => cost,
            None => 500 + self.random.below(1001) as u16,
        };
        let call = Pending { arrived: now, cost, home: self.submits_to as u8, attempts: 0, pulled: false };
        self.received(now, function, call);
        if self.submits_to == self.index {
            self.enqueue(function, call);
        } else {
            // It had to find the other region first.
            let at = now + self.plan.ticks(REROUTE.as_millis() as u64);
            self.outbox.push(Message { to: self.submits_to, at, function, call });
        }
    }

    fn received(&mut self, now: u32, function: u32, call: Pending) {
        let (calls, cpu) = (self.stands_for(function), self.cpu(function, call));
        self.point.received += calls;
        self.point.received_cpu += cpu;
        self.record.ledger.simulated += 1;
        if self.plan.is_measured(now) {
            self.record.ledger.received += calls;
        }
        self.said.arrived_cpu[group(self.plan.functions[function as usize].reserved)] += cpu;
        self.record.trace(now, 1, function);
    }

    /// A message from another region.
    pub fn deliver(&mut self, message: Message) {
        self.arriving.put(message.at, (message.function, message.call));
    }

    /// A call is in this region's durable queue, and due.
    fn enqueue(&mut self, function: u32, call: Pending) {
        let of = &self.plan.functions[function as usize];
        let (level, in_group) = (of.criticality, group(of.reserved));
        self.backlog[in_group] += self.cpu(function, call);
        self.queues[function as usize].push_back(call);
        if !self.is_backlogged[function as usize] {
            self.is_backlogged[function as usize] = true;
            self.backlogged[in_group].push_back(function);
        }
        match self.plan.scenario.control.order {
            Order::Millrace => self.tell(Input::Due { function: FunctionRef(function) }),
            Order::Fifo | Order::Priority => self.plain.push(function, level),
        }
    }

    /// Takes the oldest call out of a durable queue.
    pub(super) fn dequeue(&mut self, function: u32) -> Option<Pending> {
        let call = self.queues[function as usize].pop_front()?;
        let in_group = group(self.plan.functions[function as usize].reserved);
        self.backlog[in_group] -= self.cpu(function, call);
        Some(call)
    }

    /// Hands calls of a group to another region, until they need so much CPU: function by function in turns, and of
    /// each no more than `to` has room for. Says how much they need.
    pub fn give(
        &mut self,
        in_group: usize,
        to: &mut Region<'_>,
        at: u32,
        cpu: u64,
        into: &mut Vec<Message>,
    ) -> u64 {
        let (mut given, mut refused) = (0, 0);
        while given < cpu && refused < self.backlogged[in_group].len() {
            let Some(function) = self.backlogged[in_group].pop_front() else { break };
            if !to.has_room(function) {
                refused += 1;
                self.backlogged[in_group].push_back(function);
                continue;
            }
            refused = 0;
            // As a poll of a function does: as many as there is room for.
            while given < cpu && to.has_room(function) {
                let Some(call) = self.dequeue(function) else {
                    self.is_backlogged[function as usize] = false;
                    break;
                };
                given += self.cpu(function, call);
                self.note_gone(function, call);
                to.pulled[function as usize] += 1;
                into.push(Message { to: to.index, at, function, call: Pending { pulled: true, ..call } });
            }
            if self.is_backlogged[function as usize] {
                self.backlogged[in_group].push_back(function);
            }
        }
        given
    }

    /// Whether its scheduler would poll another region for a function: as much as the function's FuncBuffer holds may
    /// wait here, as everywhere. More would wait for a quota that is small here, far from its own.
    fn has_room(&self, function: u32) -> bool {
        self.pulled[function as usize] < FUNC_BUFFER as u32
    }

    /// A call is no longer one that waits here: it begins, or another region has it.
    pub(super) fn note_gone(&mut self, function: u32, call: Pending) {
        if call.pulled {
            let pulled = &mut self.pulled[function as usize];
            // Of what was under way when the region was lost, nothing is counted.
            *pulled = pulled.saturating_sub(1);
        }
    }
}
