//! Simulated processes: the production state machines, each with its driver, and what drives them.

use crate::bug::Bug;
use crate::peer::{News, Peer};
use crate::tap::Tap;
use crate::watched::Watched;
use crate::witness::Shared;
use call::frame::{FrameBuf, Header, Kind, append};
use call::{FunctionSpec, Instant};
use control::{Booting, Node, Phase, Stage};
use driver::sim::{ProcessId, World};
use driver::{Arrivals, Driver, Endpoint};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use worker::Core;

/// One simulated process.
pub trait Process {
    /// Which.
    fn id(&self) -> ProcessId;
    /// Reaps and takes one turn. An error is a violation.
    fn turn(&mut self) -> Result<(), String>;
    /// CPU time of the last turn, if it says so.
    fn spent(&self) -> Duration {
        Duration::ZERO
    }
    /// Asks for an orderly end.
    fn drain(&mut self) {}
    /// Whether it has ended by itself, and is to be started again.
    fn is_over(&self) -> bool {
        false
    }
}

/// How long a node that has drained waits for its peers to hear the end.
const FAREWELL: Duration = Duration::from_millis(200);
/// How many turns of a process pass between two checks of all its invariants: the check walks over everything.
const CHECK_TURNS: u64 = 32;

/// The control node, from the reading of its log on.
pub struct NodeProcess {
    /// `None` inside a turn, and if the node has refused its log.
    stage: Option<Stage<Tap>>,
    endpoints: Vec<Endpoint>,
    arrivals: Arrivals,
    until: Instant,
    turns: u64,
    /// It has drained; gone at this time even if some peer does not hear.
    leaving: Option<Instant>,
    now: Instant,
    id: ProcessId,
    witness: Shared,
    world: World,
    machine: &'static str,
}

impl NodeProcess {
    /// Around this node, which listens at these endpoints when it has recovered.
    pub fn new(
        booting: Booting<Tap>,
        id: ProcessId,
        endpoints: Vec<Endpoint>,
        witness: &Shared,
        (world, machine): (&World, &'static str),
    ) -> NodeProcess {
        let stage = Some(Stage::Booting(booting));
        NodeProcess {
            stage,
            endpoints,
            arrivals: Arrivals::new(),
            until: Instant(0),
            turns: 0,
            leaving: None,
            now: Instant(0),
            id,
            witness: witness.clone(),
            world: world.clone(),
            machine,
        }
    }

    /// `None` if the node refuses its log, and is right to do so.
    fn boot(&mut self, mut booting: Booting<Tap>) -> Result<Option<Stage<Tap>>, String> {
        booting.driver().reap(self.until, &mut self.arrivals);
        self.until = Instant::NEVER;
        let mut stage = match booting.turn(&self.arrivals) {
            Ok(stage) => stage,
            Err(error) => {
                let mut witness = self.witness.borrow_mut();
                witness.tell(|| format!("Node refuses: {error}"));
                return witness.rot.refused(&error, &self.world, self.machine).map(|()| None);
            }
        };
        if let Stage::Serving(node) = &mut stage {
            self.salvaged(node);
            for at in &self.endpoints {
                node.listen(at).map_err(|error| format!("listening at {at}: {error}"))?;
            }
            self.until = Instant(0);
        }
        Ok(Some(stage))
    }

    /// What a start says of a log that it has salvaged.
    fn salvaged(&mut self, node: &Node<Tap>) {
        let witness = &mut *self.witness.borrow_mut();
        let losses = if witness.bug == Bug::HidesLosses { &[] } else { node.salvaged() };
        losses.iter().for_each(|loss| witness.tell(|| loss.to_string()));
        let calls = witness.rot.salvaged(losses);
        witness.told_lost(calls);
    }

    /// What the node says of itself.
    fn listen(&mut self, node: &mut Node<Tap>) {
        let witness = &mut *self.witness.borrow_mut();
        for line in node.notes() {
            witness.tell(|| line.clone());
            if witness.bug != Bug::HidesDamage {
                let call = witness.rot.said(&line);
                witness.told_lost(call);
            }
        }
    }

    fn serve(&mut self, node: &mut Node<Tap>) {
        node.driver().reap(self.until, &mut self.arrivals);
        self.until = node.turn(&self.arrivals);
        self.now = node.driver().now();
        self.turns += 1;
        self.listen(node);
        // A node whose log failed has refused what it could not write, and ends.
        if self.turns.is_multiple_of(CHECK_TURNS) && !matches!(node.phase(), Phase::Failed { .. }) {
            node.check();
        }
        if node.phase() == Phase::Ended && self.leaving.is_none() {
            node.leave();
            self.leaving = Some(self.now + FAREWELL);
        }
        self.until = self.until.min(self.leaving.unwrap_or(Instant::NEVER));
    }
}

impl Process for NodeProcess {
    fn id(&self) -> ProcessId {
        self.id
    }

    fn turn(&mut self) -> Result<(), String> {
        self.stage = match self.stage.take().expect("one that has refused is over") {
            Stage::Booting(booting) => self.boot(booting)?,
            Stage::Serving(mut node) => {
                self.serve(&mut node);
                Some(Stage::Serving(node))
            }
        };
        Ok(())
    }

    fn drain(&mut self) {
        if let Some(Stage::Serving(node)) = &mut self.stage {
            node.drain();
            self.until = Instant(0);
        }
    }

    fn is_over(&self) -> bool {
        let node = match &self.stage {
            None => return true,
            Some(Stage::Booting(_)) => return false,
            Some(Stage::Serving(node)) => node,
        };
        let left = self.leaving.is_some_and(|by| node.is_alone() || self.now >= by);
        left || matches!(node.phase(), Phase::Failed { .. })
    }
}

/// A worker core.
pub struct CoreProcess {
    core: Core<Tap, Watched>,
    arrivals: Arrivals,
    until: Instant,
    spent: Rc<Cell<Duration>>,
    id: ProcessId,
}

impl CoreProcess {
    /// Around this core; `spent` is what its runtime says of CPU time.
    pub fn new(core: Core<Tap, Watched>, id: ProcessId, spent: Rc<Cell<Duration>>) -> CoreProcess {
        CoreProcess { core, arrivals: Arrivals::new(), until: Instant(0), spent, id }
    }
}

impl Process for CoreProcess {
    fn id(&self) -> ProcessId {
        self.id
    }

    fn turn(&mut self) -> Result<(), String> {
        self.core.driver().reap(self.until, &mut self.arrivals);
        self.until = self.core.turn(&self.arrivals);
        self.core.check();
        Ok(())
    }

    fn drain(&mut self) {
        self.core.drain();
        self.until = Instant(0);
    }

    fn is_over(&self) -> bool {
        self.core.finished()
    }

    fn spent(&self) -> Duration {
        self.spent.get()
    }
}

/// The supervisor of a host: says of each function that it is ready, after a while.
pub struct Host {
    peer: Peer,
    arrivals: Arrivals,
    until: Instant,
    /// Functions to be told ready, and when.
    compiling: Vec<(Instant, FunctionSpec)>,
}

impl Host {
    /// With this connection.
    pub fn new(peer: Peer) -> Host {
        Host { peer, arrivals: Arrivals::new(), until: Instant(0), compiling: Vec::new() }
    }

    fn tell_ready(&mut self) {
        let now = self.peer.driver.now();
        for (at, spec) in &mut self.compiling {
            if *at > now {
                continue;
            }
            let header =
                Header { function: spec.id(), stamp: u64::from(spec.version), ..Header::new(Kind::Ready) };
            let mut frame = FrameBuf::new();
            append(&mut frame, &header, b"");
            *at =
                if self.peer.send(&frame).is_ok() { Instant::NEVER } else { now + Duration::from_millis(5) };
        }
        self.compiling.retain(|(at, _)| *at != Instant::NEVER);
        self.until = self.compiling.iter().map(|(at, _)| *at).min().unwrap_or(Instant::NEVER);
    }
}

impl Process for Host {
    fn id(&self) -> ProcessId {
        self.peer.id()
    }

    fn turn(&mut self) -> Result<(), String> {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for news in self.peer.round(self.until, &mut arrivals) {
            match news {
                News::Up => {}
                News::Down => self.compiling.clear(),
                News::Frame(frame) if frame.kind() == Kind::Publish => {
                    let spec = serde_json::from_slice(frame.body()).map_err(|error| error.to_string())?;
                    let wait = Duration::from_micros(self.peer.driver.random() % 20_000);
                    self.compiling.push((self.peer.driver.now() + wait, spec));
                }
                News::Frame(frame) if frame.kind() == Kind::Retire => {
                    self.compiling.retain(|(_, spec)| spec.id() != frame.function());
                }
                News::Frame(frame) => return Err(format!("a host was sent a {:?}", frame.kind())),
            }
        }
        self.arrivals = arrivals;
        self.tell_ready();
        Ok(())
    }
}
