//! The platform of one run: its processes, the faults that strike them, and the loop that steps them.

use crate::bug::Bug;
use crate::client::Client;
use crate::peer::Peer;
use crate::process::{CoreProcess, Host, NodeProcess, Process};
use crate::scenario::{Fault, Scenario};
use crate::tap::{Tap, Whose};
use crate::watched::Watched;
use crate::witness::Shared;
use call::Instant;
use call::admin::Hello;
use control::{Booting, NodeOptions, Recover};
use driver::Endpoint;
use driver::sim::{Random, Sizes, World};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use worker::{Core, CorePlan};

/// The node's machine.
const NODE: &str = "node";
/// What the admin side says to be let in.
pub const SECRET: &str = "simulated";
/// A turn costs at least this much time.
const TURN: Duration = Duration::from_micros(2);

/// When a process that ended by itself is started again.
const RESTART: Duration = Duration::from_millis(20);

/// Who a process is, for faults and restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    /// The control node.
    Node,
    /// The core of a host.
    Core(usize),
    /// The supervisor of a host.
    Host(usize),
    /// A client.
    Client(usize),
    /// The admin side.
    Operator,
}

/// A place for a process; the process may be dead.
struct Place {
    name: Name,
    process: Option<Box<dyn Process>>,
    /// Gets no CPU before: it is busy, or frozen.
    not_before: Instant,
    /// Runs although nothing arrived: it was asked to drain.
    woken: bool,
}

/// What is to be done next.
enum Next {
    Turn(usize),
    World,
    Fault,
    Start(Name),
}

/// See the module.
pub struct Fleet {
    /// Where everything is.
    pub world: World,
    /// What the simulator itself decides by chance.
    pub random: Random,
    scenario: Scenario,
    witness: Shared,
    places: Vec<Place>,
    /// Faults to come, the next one last.
    faults: Vec<(Instant, Fault)>,
    starts: BTreeMap<Name, Instant>,
    /// When the node ends next, its log rots.
    rots_at_rest: bool,
    /// Processes that died.
    pub crashes: u64,
    /// Turns of all processes.
    pub turns: u64,
}

impl Fleet {
    /// All processes of a scenario, started.
    pub fn new(world: World, random: Random, scenario: Scenario, witness: &Shared) -> Fleet {
        let mut faults = scenario.faults.clone();
        faults.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let conditions = scenario.conditions.clone();
        world.conditions(|now| *now = conditions);
        let mut fleet = Fleet {
            world,
            random,
            scenario,
            witness: witness.clone(),
            places: Vec::new(),
            faults,
            starts: BTreeMap::new(),
            rots_at_rest: false,
            crashes: 0,
            turns: 0,
        };
        let now = fleet.world.now();
        fleet.starts.insert(Name::Node, now);
        for host in 0..fleet.scenario.hosts {
            fleet.starts.insert(Name::Core(host), now);
            fleet.starts.insert(Name::Host(host), now);
        }
        for client in 0..fleet.scenario.wishes.len() {
            let wishes = fleet.scenario.wishes[client].clone();
            fleet.add_client(&wishes);
        }
        fleet
    }

    /// A client with these wishes.
    pub fn add_client(&mut self, wishes: &[crate::client::Wish]) {
        let number = self.places.iter().filter(|p| matches!(p.name, Name::Client(_))).count();
        let name = Name::Client(number);
        let hello = Hello::Client { name: format!("client {number}") };
        let peer = self.peer(&format!("desk{number}"), &tcp(), hello);
        let client = Client::new(peer, &self.witness, wishes, &mut self.random);
        self.put(name, Box::new(client));
    }

    /// A peer of the node on this machine.
    pub fn peer(&self, machine: &str, to: &Endpoint, hello: Hello) -> Peer {
        Peer::new(self.world.boot(machine, Sizes { blocks: 0, ..Sizes::default() }), to, hello)
    }

    /// A peer of the node on its own machine.
    pub fn local_peer(&self, hello: Hello) -> Peer {
        self.peer(NODE, &unix(), hello)
    }

    /// Puts a process in its place.
    pub fn put(&mut self, name: Name, process: Box<dyn Process>) {
        let not_before = self.world.now();
        match self.places.iter_mut().find(|place| place.name == name) {
            Some(place) => place.process = Some(process),
            None => self.places.push(Place { name, process: Some(process), not_before, woken: false }),
        }
    }

    fn machine(&self, host: usize) -> String {
        if host == 0 && self.scenario.shared_host { NODE.into() } else { format!("host{host}") }
    }

    fn start(&mut self, name: Name) -> Result<(), String> {
        self.witness.borrow().tell(|| format!("{} start {name:?}", self.world.now().0));
        self.starts.remove(&name);
        let process: Box<dyn Process> = match name {
            Name::Node => Box::new(self.node()?),
            Name::Core(host) => Box::new(self.core(host)),
            Name::Host(host) => {
                let hello = Hello::Host { host: self.machine(host), pid: 1 };
                Box::new(Host::new(self.peer(&self.machine(host), &tcp(), hello)))
            }
            Name::Client(_) | Name::Operator => unreachable!("they do not die"),
        };
        self.put(name, process);
        Ok(())
    }

    fn node(&self) -> Result<NodeProcess, String> {
        let limits = self.scenario.limits.clone();
        let sizes = Sizes {
            blocks: durableq::block_count(&limits),
            block_bytes: limits.group_bytes,
            queue_bytes: 64 << 10,
        };
        let driver = self.world.boot(NODE, sizes);
        let id = driver.process();
        let tap = Tap::new(driver, Whose::Node, &self.witness, &Rc::default());
        let refused = self.witness.borrow().rot.refused;
        let recover = if refused { Recover::Salvage } else { Recover::Strict };
        let options = NodeOptions { secret: SECRET.into(), recover, ..NodeOptions::default() };
        let mut functions = self.scenario.functions.clone();
        if self.witness.borrow().bug == Bug::ExceedsConcurrency {
            functions.iter_mut().for_each(|function| function.concurrency = 1000);
        }
        let booting = Booting::new(limits, options, tap, functions).map_err(|error| error.to_string())?;
        let at = vec![tcp(), unix(), shm()];
        Ok(NodeProcess::new(booting, id, at, &self.witness, (&self.world, NODE)))
    }

    fn core(&self, host: usize) -> CoreProcess {
        let machine = self.machine(host);
        let plan = CorePlan {
            host: machine.clone(),
            cpu: 0,
            pid: 1,
            node: if machine == NODE { shm() } else { tcp() },
            slots: self.scenario.slots,
            round: Duration::from_micros(200),
            drain: Duration::from_secs(1),
        };
        let driver =
            self.world.boot(&machine, Sizes { blocks: 0, queue_bytes: 64 << 10, ..Sizes::default() });
        let id = driver.process();
        let spent = Rc::<Cell<Duration>>::default();
        let tap = Tap::new(driver, Whose::Core, &self.witness, &spent);
        let tap = if self.scenario.echoes { tap.echoing() } else { tap };
        let runtime = Watched::new(self.scenario.slots, &self.witness, &spent);
        let core = Core::new(plan, self.scenario.limits.clone(), tap, runtime);
        CoreProcess::new(core, id, spent)
    }

    fn place(&mut self, name: Name) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.name == name)
    }

    fn crash(&mut self, name: Name, pause: Duration) {
        let alive = self.place(name).is_some_and(|place| place.process.take().is_some());
        self.crashes += u64::from(alive);
        if name == Name::Node && alive {
            self.witness.borrow_mut().leases.node_died();
            if std::mem::take(&mut self.rots_at_rest) {
                self.rot();
            }
        }
        let now = self.world.now();
        self.starts.entry(name).or_insert(now + pause);
    }

    /// Bits of the node's log turn over.
    fn rot(&mut self) {
        let witness = &mut *self.witness.borrow_mut();
        let bug = witness.bug;
        witness.rot.strike(&self.world, NODE, &mut self.random, bug);
        witness.tell(|| format!("{:?}", witness.rot));
    }

    fn drain(&mut self, name: Name) {
        let now = self.world.now();
        if let Some(place) = self.place(name)
            && let Some(process) = &mut place.process
        {
            process.drain();
            // Asleep as it is, it is to notice.
            place.not_before = now;
            place.woken = true;
        }
    }

    fn freeze(&mut self, name: Name, pause: Duration) {
        let until = self.world.now() + pause;
        if let Some(place) = self.place(name) {
            place.not_before = until;
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.witness.borrow().tell(|| format!("{} {fault:?}", self.world.now().0));
        match fault {
            Fault::NodeCrash(pause) => self.crash(Name::Node, pause),
            Fault::CoreCrash(host, pause) => self.crash(Name::Core(host), pause),
            Fault::HostCrash(host, pause) => self.crash(Name::Host(host), pause),
            Fault::CoreFreeze(host, pause) => self.freeze(Name::Core(host), pause),
            Fault::ClientFreeze(client, pause) => self.freeze(Name::Client(client), pause),
            Fault::NodeFreeze(pause) => self.freeze(Name::Node, pause),
            Fault::Part(host) => self.world.part(NODE, &self.machine(host), true),
            Fault::Join(host) => self.world.part(NODE, &self.machine(host), false),
            Fault::Cut => self.world.cut_any(),
            Fault::SlowDisk(most) => self.world.conditions(|now| now.disk_delay.1 = most),
            Fault::DiskRoom(bytes) => self.world.conditions(|now| now.disk_bytes_max = bytes),
            Fault::DiskErrors(ppm) => self.world.conditions(|now| now.write_error_ppm = ppm),
            Fault::ClockStep(by_ns) => self.world.step_wall(by_ns),
            Fault::Rot => self.rot(),
            Fault::RotAtRest(pause) => {
                self.rots_at_rest = true;
                self.crash(Name::Node, pause);
            }
            Fault::RotAfterDrain => {
                self.rots_at_rest = true;
                self.drain(Name::Node);
            }
            Fault::NodeDrain => self.drain(Name::Node),
            Fault::CoreDrain(host) => self.drain(Name::Core(host)),
        }
    }

    /// The storm is over: everybody is there, and everything works.
    pub fn heal(&mut self) {
        self.faults.clear();
        self.rots_at_rest = false;
        self.world.join_all();
        let lying_disk = self.scenario.conditions.lying_disk;
        self.world.conditions(|now| *now = driver::sim::Conditions { lying_disk, ..Default::default() });
        let now = self.world.now();
        self.places.iter_mut().for_each(|place| place.not_before = now);
    }

    /// Steps everything until `until`, or until `done` or a violation.
    pub fn run(&mut self, until: Instant, mut done: impl FnMut() -> bool) -> Result<(), String> {
        while self.world.now() < until && !done() {
            self.step(until)?;
            if let Some(violation) = self.witness.borrow().violation() {
                return Err(violation);
            }
        }
        Ok(())
    }

    fn step(&mut self, until: Instant) -> Result<(), String> {
        let (at, next) = self.next();
        if at > until {
            self.world.advance(until);
            return Ok(());
        }
        self.world.advance(at);
        match next {
            Next::World => {}
            Next::Start(name) => self.start(name)?,
            Next::Fault => {
                let (_, fault) = self.faults.pop().expect("looked at");
                self.strike(fault);
            }
            Next::Turn(index) => self.turn(index)?,
        }
        Ok(())
    }

    fn turn(&mut self, index: usize) -> Result<(), String> {
        let cost = self.random.duration(TURN, 10 * TURN);
        self.witness.borrow_mut().leases.clock(self.world.wall());
        let place = &mut self.places[index];
        let process = place.process.as_mut().expect("looked at");
        place.woken = false;
        process.turn()?;
        place.not_before = self.world.now() + cost + process.spent();
        let (name, over) = (place.name, process.is_over());
        self.turns += 1;
        if over {
            self.crash(name, RESTART);
        }
        Ok(())
    }

    /// What comes next, and when. Among processes that could run at once chance decides.
    fn next(&mut self) -> (Instant, Next) {
        let now = self.world.now();
        let mut best = (self.world.next_at().unwrap_or(Instant::NEVER), Next::World);
        if let Some((at, _)) = self.faults.last().filter(|(at, _)| *at < best.0) {
            best = (*at, Next::Fault);
        }
        if let Some((name, at)) = self.starts.iter().min_by_key(|(name, at)| (**at, **name))
            && *at < best.0
        {
            best = (*at, Next::Start(*name));
        }
        let first = self.random.index(self.places.len().max(1));
        for step in 0..self.places.len() {
            let index = (first + step) % self.places.len();
            let place = &self.places[index];
            let Some(process) = &place.process else { continue };
            let ready = place.woken || self.world.is_ready(process.id());
            let wakes = if ready { now } else { self.world.wakes_at(process.id()) };
            let at = wakes.max(place.not_before).max(now);
            if at < best.0 {
                best = (at, Next::Turn(index));
            }
        }
        best
    }
}

fn tcp() -> Endpoint {
    "tcp:10.0.0.1:7410".parse().expect("an endpoint")
}

fn unix() -> Endpoint {
    "unix:/run/submit.sock".parse().expect("an endpoint")
}

fn shm() -> Endpoint {
    "shm:/run/core.shm".parse().expect("an endpoint")
}
