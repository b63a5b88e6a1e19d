//! The runtime on a real ring, beside the fake jailer, and a few words to play calls on it.

use crate::jailer::FakeJailer;
use call::body::{Submit, append_submit, arguments};
use call::frame::{Frame, FrameBuf};
use call::function::{Abi, ProcessSpec, RuntimeKind};
use call::{Arguments, Attribute, CallId, FunctionId, FunctionSpec, Status, Usage, WallTime};
use driver::uring::{self, Uring};
use driver::{Arrivals, Driver};
use runtime::process::{Options, ProcessRuntime};
use runtime::{Begin, Progress, Runtime, SlotId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Stage {
    pub jailer: FakeJailer,
    pub runtime: ProcessRuntime,
    driver: Uring,
    arrivals: Arrivals,
    ready: Vec<(SlotId, Progress)>,
    ended: BTreeMap<u32, Told>,
    calls: u128,
    /// Times that the runtime and its driver asked for memory, in calls and turns.
    pub allocations: u64,
    pub notes: Vec<String>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Told {
    pub status: Status,
    pub usage: Usage,
    pub output: String,
    pub log: String,
}

/// The example `function`, built once.
pub fn function() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--message-format=json", "-p", "runtime", "--example", "function"]);
        let output = cargo.output().expect("cargo is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let line = lines.lines().find(|line| line.contains("\"executable\":\"")).expect("an executable");
        line.split("\"executable\":\"").nth(1).unwrap().split('"').next().unwrap().into()
    };
    PATH.get_or_init(build).clone()
}

/// A function that runs the example.
pub fn spec(abi: Abi) -> FunctionSpec {
    let mut command = vec![function().to_str().unwrap().to_owned()];
    if abi == Abi::Stdio {
        command.push("stdio".into());
    }
    FunctionSpec {
        name: "f".into(),
        runtime: RuntimeKind::Process,
        abi,
        artefact: "0".repeat(64),
        process: ProcessSpec { command, ..ProcessSpec::default() },
        version: 1,
        ..FunctionSpec::default()
    }
}

/// With this variable in its environment.
pub fn with(mut spec: FunctionSpec, name: &str, value: &str) -> FunctionSpec {
    spec.process.environment.insert(name.into(), value.into());
    spec
}

impl Stage {
    pub fn new() -> Stage {
        Stage::of(16)
    }

    /// With so many places for sandboxes.
    pub fn of(sandboxes: u32) -> Stage {
        // Before the clocks run.
        function();
        let jailer = FakeJailer::start();
        let options = Options {
            slots: 32,
            sandboxes,
            cpu: 0,
            jailer: Some(jailer.path.clone()),
            bundles: "/nonexistent".into(),
            room: runtime::Room::default(),
        };
        let mut stage = Stage {
            jailer,
            runtime: ProcessRuntime::new(options),
            driver: Uring::new(uring::Options::default()).expect("io_uring is there"),
            arrivals: Arrivals::new(),
            ready: Vec::new(),
            ended: BTreeMap::new(),
            calls: 0,
            allocations: 0,
            notes: Vec::new(),
        };
        stage.turn();
        stage
    }

    pub fn publish(&mut self, spec: &FunctionSpec) -> FunctionId {
        self.runtime.publish(spec.id(), spec);
        spec.id()
    }

    /// A call, and what it is called.
    pub fn begin(&mut self, slot: u32, function: FunctionId, payload: &str) -> CallId {
        self.begin_with(slot, function, payload, &[])
    }

    pub fn begin_with(
        &mut self,
        slot: u32,
        function: FunctionId,
        payload: &str,
        attributes: &[Attribute<'_>],
    ) -> CallId {
        self.calls += 1;
        let call = CallId(self.calls);
        let mut frame = FrameBuf::new();
        let submit = Submit {
            call,
            function,
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: true,
            arguments: Arguments { payload: payload.as_bytes(), attributes },
            ..Submit::default()
        };
        append_submit(&mut frame, &submit).unwrap();
        let (frame, _) = Frame::parse(&frame).unwrap();
        let arguments = arguments(frame.body()).unwrap();
        let begin = Begin::of(call, function, arguments, 2);
        let before = counting::allocations();
        let progress = self.runtime.begin(SlotId(slot), &begin);
        self.allocations += counting::allocations() - before;
        if progress == Progress::Ended {
            self.take(slot);
        }
        call
    }

    fn take(&mut self, slot: u32) {
        let ended = self.runtime.ended(SlotId(slot));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (output, log) = (text(ended.output), text(ended.stderr));
        let told = Told { status: ended.status, usage: ended.usage, output, log };
        self.runtime.release(SlotId(slot));
        assert!(self.ended.insert(slot, told).is_none(), "a call ends once");
    }

    /// One round, as the core makes it.
    pub fn turn(&mut self) {
        let now = self.driver.now();
        let before = counting::allocations();
        self.runtime.serve(&mut self.driver, &self.arrivals, now, &mut self.ready);
        self.allocations += counting::allocations() - before;
        while let Some((slot, progress)) = self.ready.pop() {
            assert_eq!(progress, Progress::Ended);
            self.take(slot.0);
        }
        let before = counting::allocations();
        self.runtime.flush(&mut self.driver);
        self.runtime.notes(&mut self.notes);
        let until = self.runtime.alarm().min(self.driver.precise() + Duration::from_millis(5));
        self.driver.reap(until, &mut self.arrivals);
        self.allocations += counting::allocations() - before;
    }

    /// Turns until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Stage) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}; notes: {:?}", self.notes);
            self.turn();
        }
    }

    /// Turns for some time.
    pub fn pass(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.turn();
        }
    }

    /// Waits until a sandbox waits for a call.
    pub fn rest(&mut self) {
        self.pass(Duration::from_millis(20));
    }

    /// Waits for the call in this slot.
    pub fn end(&mut self, slot: u32) -> Told {
        self.until("the call ends", |stage| stage.ended.contains_key(&slot));
        self.ended.remove(&slot).unwrap()
    }

    /// A call from begin to end.
    pub fn call(&mut self, function: FunctionId, payload: &str) -> Told {
        self.begin(0, function, payload);
        self.end(0)
    }

    /// Ends a call as the core does when its time is over.
    pub fn time_out(&mut self, slot: u32) -> Told {
        self.runtime.stop(SlotId(slot), Status::Timeout);
        self.take(slot);
        self.ended.remove(&slot).unwrap()
    }

    pub fn has_ended(&self, slot: u32) -> bool {
        self.ended.contains_key(&slot)
    }
}
