//! First stage: the connection to the node, and what each frame on it asks for.
//!
//! A core has one connection at a time. When it is lost, so are its leases (the node offers them again at once), and
//! the core connects anew, ever less often. A frame that a node would not send closes the connection: better a
//! fresh start with both sides' counters at zero than a guess.

use crate::core::{Core, Phase};
use crate::dispatch::Round;
use crate::slots::Refusal;
use call::admin::Hello;
use call::body::{self, ArchivedArguments};
use call::frame::{self, FrameError, Header, Kind};
use call::{Frame, FunctionSpec, Instant};
use driver::{Arrivals, ConnectionId, Driver, Event};
use runtime::Runtime;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Wait after the first loss of a connection; doubles with each failure that follows, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(10);
/// Longest wait: a node that restarts is found within a second.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The connection to the node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    /// There is none; the next attempt is at `retry_at`, and waits `wait` if it fails too.
    Down { retry_at: Instant, wait: Duration },
    /// Asked for and our hello queued; the node's has not come. Given up at `give_up_at`.
    Greeting { connection: ConnectionId, give_up_at: Instant, wait: Duration },
    /// Both have said hello.
    Up { connection: ConnectionId },
}

impl Link {
    pub fn new(now: Instant) -> Link {
        Link::Down { retry_at: now, wait: RETRY_MIN }
    }

    /// The connection, made or being made.
    pub fn connection(&self) -> Option<ConnectionId> {
        match self {
            Link::Down { .. } => None,
            Link::Greeting { connection, .. } | Link::Up { connection } => Some(*connection),
        }
    }
}

impl<D: Driver, R: Runtime> Core<D, R> {
    /// Serves everything that arrived, then the connection's own timers.
    pub(crate) fn ingress(&mut self, arrivals: &Arrivals, round: &mut Round) {
        for event in arrivals.iter() {
            match event {
                Event::Frame { connection, frame } if self.is_ours(connection) => self.frame(&frame, round),
                Event::Room { connection } if self.is_ours(connection) => self.send_unsent(),
                Event::Closed { connection, reason } if self.is_ours(connection) => {
                    self.disconnected(&format!("{reason}"));
                }
                // Of a connection that was given up. The core listens nowhere and opens no files.
                _ => {}
            }
        }
        self.connect(round.clock);
    }

    fn is_ours(&self, connection: ConnectionId) -> bool {
        self.link.connection() == Some(connection)
    }

    fn frame(&mut self, frame: &Frame<'_>, round: &mut Round) {
        let up = self.connected();
        match frame.kind() {
            Kind::Lease if up => self.lease(frame, round),
            Kind::Publish if up => self.publish(frame),
            Kind::Retire if up => {
                self.functions.retire(frame.function());
                self.runtime.retire(frame.function());
            }
            Kind::Piece if up => self.piece(frame, round),
            Kind::Kept if up => self.kept(frame, round.clock),
            Kind::Cancel if up => self.cancel(frame.call(), frame.epoch()),
            Kind::Foresee if up => self.foresee(frame),
            Kind::Drain if up => self.drain(),
            Kind::Hello if !up => self.greeted(frame),
            kind => self.misunderstood(&format!("a frame of kind {kind:?} where a node sends none")),
        }
    }

    /// A call to run. One that was under way when a drain began is served, too: its slot was granted. Behind the
    /// core's last word it is left, and leased elsewhere when the connection ends.
    fn lease(&mut self, lease: &Frame<'_>, round: &mut Round) {
        if !matches!(self.phase, Phase::Serving | Phase::Draining { .. }) {
            return;
        }
        let Some(slot) = self.slots.take(lease, self.driver.now()) else {
            return self.misunderstood("a lease beyond the credits that this core granted");
        };
        self.stats.leased += 1;
        self.credits.spend();
        match sealed_submit(lease) {
            Ok((submit, arguments)) => self.dispatch(slot, &submit, arguments, round),
            Err(error) => self.refuse(slot, Refusal::Malformed(error)),
        }
    }

    fn publish(&mut self, frame: &Frame<'_>) {
        let spec: FunctionSpec = match serde_json::from_slice(frame.body()) {
            Ok(spec) => spec,
            Err(error) => return self.misunderstood(&format!("a function that is none: {error}")),
        };
        let mut digest = DefaultHasher::new();
        frame.body().hash(&mut digest);
        if self.functions.publish(frame.function(), &spec, digest.finish()) {
            self.runtime.publish(frame.function(), &spec);
        }
    }

    /// Whether a call of a function is likely soon. Words of a newer node are not understood, and harm nobody.
    fn foresee(&mut self, frame: &Frame<'_>) {
        match frame.criticality() {
            1 => self.runtime.foresee(frame.function(), true),
            0 => self.runtime.foresee(frame.function(), false),
            _ => {}
        }
    }

    /// The node's hello: grants it a call per slot.
    fn greeted(&mut self, frame: &Frame<'_>) {
        let Some(connection) = self.link.connection() else { return };
        match serde_json::from_slice(frame.body()) {
            Ok(Hello::Node { version, incarnation, .. }) => {
                self.link = Link::Up { connection };
                self.credits.restart(self.slots.count());
                self.stats.connections += 1;
                self.note(format!(
                    "event=connected node={} version={version} incarnation={incarnation}",
                    self.plan.node
                ));
            }
            Ok(other) => self.misunderstood(&format!("{other:?} where a node was expected")),
            Err(error) => self.misunderstood(&format!("a hello that is none: {error}")),
        }
    }

    /// Connects when it is time to; gives up a connection whose node does not answer.
    fn connect(&mut self, now: Instant) {
        match self.link {
            Link::Up { .. } => {}
            Link::Greeting { give_up_at, .. } if now < give_up_at => {}
            Link::Greeting { .. } => self.misunderstood("no hello in time"),
            Link::Down { retry_at, .. } if now < retry_at || self.phase != Phase::Serving => {}
            Link::Down { wait, .. } => {
                let connection = self.driver.connect(&self.plan.node);
                self.stats.attempts += 1;
                let give_up_at = now + self.limits.lease;
                self.link = Link::Greeting { connection, give_up_at, wait };
                self.say_hello(connection);
            }
        }
    }

    /// Says to the node what is in force now, if it was told otherwise.
    pub(crate) fn tell_backends(&mut self) {
        if let Link::Up { connection } = self.link
            && self.told != self.runtime.edition()
        {
            self.say_hello(connection);
        }
    }

    fn say_hello(&mut self, connection: ConnectionId) {
        let hello = Hello::Core {
            host: self.plan.host.clone(),
            cpu: self.plan.cpu,
            pid: self.plan.pid,
            slots: self.plan.slots,
            backends: self.backends(),
        };
        let body = serde_json::to_vec(&hello).expect("a hello is plain words and numbers");
        self.out.clear();
        frame::append(&mut self.out, &Header::new(Kind::Hello), &body);
        // If it is not taken the connection is gone already, which its `Closed` says, or the node will miss the
        // hello, which `give_up_at` bounds.
        if self.driver.send(connection, &self.out).is_ok() {
            self.told = self.runtime.edition();
        }
    }

    /// Ends a connection on which the node said something that it should not.
    pub(crate) fn misunderstood(&mut self, what: &str) {
        if let Some(connection) = self.link.connection() {
            self.driver.close(connection);
            self.disconnected(what);
        }
    }

    /// Drops what came over the lost connection and plans the next one.
    fn disconnected(&mut self, why: &str) {
        let (wait, first) = match self.link {
            Link::Down { .. } => return,
            Link::Greeting { wait, .. } => (wait, wait == RETRY_MIN),
            Link::Up { .. } => (RETRY_MIN, true),
        };
        // A node that stays away is told once.
        if first {
            self.note(format!(
                "event=disconnected node={} calls={} reason={why:?}",
                self.plan.node,
                self.slots.held()
            ));
        }
        self.drop_held();
        // Half of the wait is random, so that the cores of a host do not all come at once.
        let half = wait / 2;
        let jitter = Duration::from_nanos(self.driver.random() % (half.as_nanos() as u64 + 1));
        let retry_at = self.driver.now() + half + jitter;
        self.link = Link::Down { retry_at, wait: (wait * 2).min(RETRY_MAX) };
        if self.phase != Phase::Serving {
            self.phase = Phase::Left;
        }
    }
}

/// The submit frame inside a lease, as its client wrote it, and the arguments in it: the trust boundary of the core.
fn sealed_submit<'a>(lease: &Frame<'a>) -> Result<(Frame<'a>, &'a ArchivedArguments<'static>), FrameError> {
    let submit = lease.sealed()?;
    let same = submit.kind() == Kind::Submit
        && submit.call() == lease.call()
        && submit.function() == lease.function();
    if !same {
        return Err(FrameError::Body);
    }
    Ok((submit, body::arguments(submit.body())?))
}
