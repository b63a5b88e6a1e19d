//! A node on the real driver and a real directory, on a thread of its own, that can be killed.

use super::Peer;
use call::FunctionSpec;
use call::admin::{Answer, Ask, Hello};
use call::frame::{Frame, Header, Kind};
use call::limits::Limits;
use control::regions::RegionOptions;
use control::{Booting, Node, NodeOptions, Phase};
use driver::uring::{Options, Uring};
use driver::{Arrivals, Driver, Endpoint};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Running {
    pub socket: PathBuf,
    killed: Arc<AtomicBool>,
    thread: Option<JoinHandle<Phase>>,
}

pub const SECRET: &str = "test";

/// A directory on a file system that takes direct I/O.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub fn function(name: &str) -> FunctionSpec {
    let retry = call::function::RetrySpec {
        attempts: 2,
        backoff_ms: 1,
        backoff_max_ms: 1,
        budget_percent: 0,
        finals: Vec::new(),
    };
    FunctionSpec { name: name.into(), version: 1, retry, ..FunctionSpec::default() }
}

impl Running {
    pub fn start(directory: &Path, limits: Limits, functions: Vec<FunctionSpec>) -> Running {
        Running::start_region(directory, limits, functions, RegionOptions::default())
    }

    pub fn start_region(
        directory: &Path,
        limits: Limits,
        functions: Vec<FunctionSpec>,
        regions: RegionOptions,
    ) -> Running {
        Running::start_with(directory, limits, functions, NodeOptions { regions, ..NodeOptions::default() })
    }

    /// With what a node is told at its start; secret and drain are the tests' own.
    pub fn start_with(
        directory: &Path,
        limits: Limits,
        functions: Vec<FunctionSpec>,
        options: NodeOptions,
    ) -> Running {
        let socket = directory.join("node.sock");
        let _ = std::fs::remove_file(&socket);
        let log = directory.join("log");
        std::fs::create_dir_all(&log).unwrap();
        let killed = Arc::new(AtomicBool::new(false));
        let (listening, listens) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (killed, at) = (killed.clone(), Endpoint::Unix(socket.clone()));
            move || {
                let mut arrivals = Arrivals::new();
                let mut node = open(&log, limits, functions, options, &mut arrivals);
                node.listen(&at).unwrap();
                listening.send(()).unwrap();
                turn(node, arrivals, &killed)
            }
        });
        listens.recv().expect("the node starts");
        Running { socket, killed, thread: Some(thread) }
    }

    /// Ends it without a word to anybody, as a kill would.
    pub fn kill(mut self) {
        self.killed.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn ended(mut self) -> Phase {
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn client(&self) -> Peer {
        Peer::client(&self.socket)
    }

    /// A core with credits for `slots` calls, whose host has compiled `functions` functions.
    pub fn ready_core(&self, slots: u32, functions: usize) -> (Peer, Peer) {
        let mut host = Peer::host(&self.socket);
        for _ in 0..functions {
            let publish = host.expect(Kind::Publish);
            host.ready(&publish, call::Status::Ok, "");
        }
        let mut core = Peer::core(&self.socket, slots);
        for _ in 0..functions {
            core.expect(Kind::Publish);
        }
        core.grant(slots.into());
        (host, core)
    }

    pub fn admin(&self) -> Peer {
        Peer::connect(&self.socket, &Hello::Admin { secret: SECRET.into() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.killed.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Peer {
    pub fn ask(&mut self, ask: &Ask) -> Answer {
        self.send(&Header { stamp: 7, ..Header::new(Kind::Ask) }, &serde_json::to_vec(ask).unwrap());
        let mut body = Vec::new();
        loop {
            let frame = self.expect(Kind::Answer);
            let (frame, _) = Frame::parse(&frame).unwrap();
            assert_eq!(frame.stamp(), 7);
            body.extend_from_slice(frame.body());
            if frame.attempt() == 0 {
                return serde_json::from_slice(&body).unwrap();
            }
        }
    }
}

fn open(
    log: &Path,
    limits: Limits,
    functions: Vec<FunctionSpec>,
    options: NodeOptions,
    arrivals: &mut Arrivals,
) -> Node<Uring> {
    let driver = Uring::new(Options {
        data_dir: Some(log.to_owned()),
        blocks: durableq::block_count(&limits),
        block_bytes: limits.group_bytes,
        spin: Duration::ZERO,
        ..Options::default()
    });
    let options = NodeOptions { secret: SECRET.into(), drain: Duration::from_secs(5), ..options };
    Booting::new(limits, options, driver.unwrap(), functions).unwrap().run(arrivals).unwrap()
}

fn turn(mut node: Node<Uring>, mut arrivals: Arrivals, killed: &AtomicBool) -> Phase {
    while !killed.load(Ordering::SeqCst) && matches!(node.phase(), Phase::Serving | Phase::Draining { .. }) {
        let until = node.turn(&arrivals);
        node.check();
        node.notes().for_each(|line| println!("node: {line}"));
        let soon = node.driver().now() + Duration::from_millis(10);
        node.driver().reap(until.min(soon), &mut arrivals);
    }
    if node.phase() == Phase::Ended {
        node.leave();
        node.turn(&arrivals);
        while !node.is_alone() {
            node.driver().reap(call::Instant::NEVER, &mut arrivals);
            node.turn(&arrivals);
        }
    }
    node.phase()
}
