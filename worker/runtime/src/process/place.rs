//! A place of the pool: the sandbox in it and its connections.

use super::api::Session;
use super::ledger::Desk;
use super::pool::SandboxId;
use crate::seam::SlotId;
use call::{FunctionId, Instant};
use driver::{ConnectionId, ListenerId};
use sandbox::protocol::{Ending, RunId};

/// How a sandbox is spoken with.
pub(super) enum Talk {
    /// The Runtime API.
    Api(Session),
    /// A process per call.
    Stdio(Vec<Run>),
}

/// A process of a stdio sandbox.
pub(super) struct Run {
    pub id: RunId,
    /// Its call, unless that has ended otherwise.
    pub slot: Option<SlotId>,
    /// Its pipes that are open: stdin, stdout, stderr.
    pub pipes: [Option<ConnectionId>; 3],
    /// How it ended, and what it used: memory in bytes, CPU time in ns.
    pub ended: Option<(Ending, u64, u64)>,
    /// Its output counts as whole then, even if another process still holds the pipes.
    pub finish_by: Instant,
}

/// Whose a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A connection to the Runtime API, by the session's number.
    Api(SandboxId, u16),
    /// Stdout (0) or stderr (1) of a sandbox.
    Log(SandboxId, usize),
    /// A pipe of a run: stdin (0), stdout (1), stderr (2).
    Pipe(SandboxId, RunId, usize),
}

impl Owner {
    pub fn sandbox(self) -> SandboxId {
        match self {
            Owner::Api(id, _) | Owner::Log(id, _) | Owner::Pipe(id, _, _) => id,
        }
    }
}

/// See the module.
pub(super) struct Place {
    /// A sandbox is here: asked for, or made, or told to end.
    pub is_taken: bool,
    /// Its function has asked for a call.
    pub has_begun: bool,
    pub desk: Desk,
    pub talk: Talk,
    pub listener: Option<ListenerId>,
    /// Connections to the Runtime API, by the session's number.
    pub wires: Vec<Option<ConnectionId>>,
    pub logs: [Option<ConnectionId>; 2],
    pub next_run: RunId,
    /// Bytes that its pipes brought lately.
    pub flow_bytes: u64,
}

impl Place {
    /// With nothing in it.
    pub fn empty() -> Place {
        let nobody = SandboxId { place: 0, generation: 0 };
        Place::with(nobody, FunctionId(0), Talk::Stdio(Vec::new()), Instant(0), false)
    }

    /// With a sandbox that is asked for now.
    pub fn asked(id: SandboxId, function: FunctionId, talk: Talk, now: Instant) -> Place {
        Place::with(id, function, talk, now, true)
    }

    fn with(id: SandboxId, function: FunctionId, talk: Talk, now: Instant, is_taken: bool) -> Place {
        Place {
            is_taken,
            has_begun: false,
            desk: Desk::new(id, function, now),
            talk,
            listener: None,
            wires: Vec::new(),
            logs: [None; 2],
            next_run: 0,
            flow_bytes: 0,
        }
    }

    /// Whether this sandbox is here.
    pub fn is(&self, id: SandboxId) -> bool {
        self.is_taken && self.desk.id == id
    }

    /// All its open connections.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        let runs = match &self.talk {
            Talk::Api(_) => &[][..],
            Talk::Stdio(runs) => runs,
        };
        let pipes = runs.iter().flat_map(|run| run.pipes);
        self.wires.iter().copied().chain(self.logs).chain(pipes).flatten()
    }
}
