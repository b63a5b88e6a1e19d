//! Leases: out to a core as far as it grants credits, and back when it is lost.

use crate::node::Node;
use crate::schedule::defaults;
use crate::session::SessionRef;
use call::frame::{Header, Kind};
use call::{CallId, Status, Usage};
use driver::Driver;
use durableq::{Cancel, Fate, HolderRef, NotLeased};
use scheduler::{CallRef, CoreRef, FunctionRef, Input};

impl<D: Driver> Node<D> {
    /// Leases a call to a core: the envelope, and the client's frame as it is.
    pub(crate) fn lease(&mut self, call: CallRef, function: FunctionRef, core: CoreRef) {
        if self.regions.is_pulled(call) {
            return self.lease_pulled(call, core);
        }
        let spec = &self.catalog.get(function).expect("dispatched calls are of deployed functions").spec;
        let (at, holder) = (durableq::CallRef(call.0), HolderRef(core.0));
        let lease = match self.queue.lease(at, holder, &defaults(spec)) {
            Ok(lease) => lease,
            Err(why) => {
                self.scheduler.step(Input::NotSent { call }, &mut self.effects);
                self.stalled = why == NotLeased::Stopped;
                return;
            }
        };
        let entry = self.workers.core_mut(core).expect("dispatched to a core that is up");
        entry.leased += 1;
        self.stats.queued(self.driver.wall().since(lease.due_at));
        let header = lease.header.encode(lease.body);
        self.sessions.send_parts(&mut self.driver, entry.session, &header, lease.body);
    }

    /// A core granted slots; also its heartbeat.
    pub(crate) fn credit(&mut self, core: CoreRef, granted: u64) {
        let entry = self.workers.core_mut(core).expect("its session is there");
        entry.granted = granted;
        if entry.is_up {
            self.scheduler.step(Input::Credit { core, granted }, &mut self.effects);
        }
    }

    /// A core finishes what it holds and takes nothing new.
    pub(crate) fn core_drains(&mut self, core: CoreRef) {
        let entry = self.workers.core_mut(core).expect("its session is there");
        entry.draining = true;
        if entry.is_up {
            self.scheduler.step(Input::CoreDrain { core }, &mut self.effects);
        }
    }

    /// A core is gone, or silent for so long that it counts as gone: its calls are offered again.
    pub(crate) fn core_lost(&mut self, core: CoreRef, why: &str) {
        let lost = self.workers.core_down(core);
        if lost.is_up {
            self.scheduler.step(Input::CoreDown { core }, &mut self.effects);
            self.grouping.core_gone(core);
            self.regroup();
        }
        if lost.far {
            self.host_down(lost.host);
        }
        let mut calls = 0u64;
        while let Some(settled) =
            self.queue.lose_next(&mut self.disk.lend(&mut self.driver), HolderRef(core.0))
        {
            calls += 1;
            let function = FunctionRef(settled.function.0);
            self.count_failure(function, 0);
            self.accounts.executed(function, Status::WorkerLost, &Usage::default());
            self.count_lost_end(function, settled.fate);
        }
        if calls > 0 {
            let who = if lost.far {
                "a region that pulled".into()
            } else {
                format!("core {} (pid {})", lost.cpu, lost.pid)
            };
            self.note(&format!("{who} is gone ({why}): {calls} calls run again"));
        }
    }

    /// The lease of a call was lost, and that was its end.
    pub(crate) fn count_lost_end(&mut self, function: FunctionRef, fate: Fate) {
        match fate {
            Fate::Dead => self.accounts.ended(function, Status::WorkerLost),
            Fate::Cancelled => self.accounts.ended(function, Status::Cancelled),
            Fate::Done | Fate::Retry { .. } | Fate::Failed | Fate::Again => {}
        }
    }

    /// Cancels a call: one that waits has ended, one that runs is stopped by its core. `false` if it is not pending.
    pub(crate) fn cancel(&mut self, call: CallId) -> bool {
        let mut blocks = self.disk.lend(&mut self.driver);
        match self.queue.cancel(&mut blocks, call) {
            None => return false,
            Some(Cancel::Ended { function }) => {
                self.accounts.ended(FunctionRef(function.0), Status::Cancelled);
            }
            Some(Cancel::Running { function, holder, epoch }) => {
                let function = self.queue.function_id(function);
                let session =
                    self.workers.core(CoreRef(holder.0)).expect("who holds a lease is connected").session;
                let cancel = Header { call, function, stamp: epoch.0, ..Header::new(Kind::Cancel) };
                self.sessions.send_parts(&mut self.driver, session, &cancel.encode(&[]), &[]);
            }
        }
        true
    }

    /// Cores that were not heard of for a lease's time.
    pub(crate) fn lose_silent_cores(&mut self) {
        while let Some(holder) = self.queue.next_silent() {
            let core = CoreRef(holder.0);
            let session = self.workers.core(core).expect("holders are cores").session;
            let why = format!("it was silent for {:?}", self.limits.lease);
            self.close(session, &why);
            self.forget_core_of(session, &why);
        }
    }

    /// The connection may linger for as long as a frozen peer reads nothing; its core does not.
    pub(crate) fn forget_core_of(&mut self, session: SessionRef, why: &str) {
        if let Some(core) = self.sessions.retire(session) {
            self.core_lost(core, why);
        }
    }
}
