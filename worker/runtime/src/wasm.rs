//! Functions as WebAssembly modules on wasmtime.
//!
//! One call, in the order of the modules: [`artefact`] maps a function's machine code, [`fast`] or
//! [`command`] run an instance of it as a future on a fiber, [`host`] is what the guest sees and where
//! payload and output are exchanged, [`ticker`] ends its slices, [`warm`] keeps the instance for the next
//! call. [`inspect`] tells all that `deploy` wants to know of a file beforehand.
//!
//! A slice ends at a loop or a function entry. What cannot be interrupted is one bulk instruction (`memory.fill`,
//! `memory.copy`): some 10 ms for 64 MiB, so keep `memory` small where latency matters.
//!
//! Allocates: loading a function, making an instance, a trap, growth of a buffer. A call on a warm instance
//! does not.

pub mod inspect;
mod engine;
pub mod artefact;
pub mod files;
mod host;
mod fast;
mod command;
mod wasi;
mod pressure;
mod ticker;
mod warm;
mod functions;

pub use engine::{Options, STACK_BYTES};

use crate::results::Output;
use crate::seam::{Begin, Ended, Progress, Runtime, SlotId};
use call::{FunctionId, FunctionSpec, Status, Usage};
use functions::Functions;
use host::Desk;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use ticker::Ticker;
use warm::{Place, Warm};

/// Why a core cannot have a runtime.
#[derive(Debug)]
pub enum StartError {
    /// wasmtime's engine.
    Engine(wasmtime::Error),
    /// The timer of slices.
    Timer(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Engine(error) => write!(
                f,
                "no wasm engine: {error:?}; it reserves 4 GiB of address space per slot: \
                 try fewer slots, or raise `ulimit -v`"
            ),
            StartError::Timer(error) => write!(f, "no timer for time slices: {error} (see `ulimit -i`)"),
        }
    }
}

impl std::error::Error for StartError {}

/// A guest: the future that runs it, and the desk where it is met.
struct Seat {
    run: Pin<Box<dyn Future<Output = wasmtime::Result<()>>>>,
    desk: Rc<Desk>,
}

/// What a slot holds.
enum State {
    Free,
    Running(Seat),
    /// The call is done and its instance is fit for another one.
    Served(Seat),
    /// The call is done and its instance gone.
    Ended,
}

struct Slot {
    state: State,
    function: FunctionId,
    /// Which publication of the function the instance is of.
    generation: u64,
    status: Status,
    usage: Usage,
    output: Output,
    stderr: Vec<u8>,
}

/// Runs wasm functions on the thread that made it.
pub struct WasmRuntime {
    slots: Vec<Slot>,
    warm: Warm,
    functions: Functions,
    ticker: Ticker,
    pagemap_scan: bool,
    options: Options,
    /// Bytes of linear memory of the warm instances.
    warm_bytes: u64,
    /// Sweeps of `idle` so far: the clock by which warm instances age.
    sweeps: u32,
    last_sweep: Instant,
}

/// How often `idle` looks for unused instances, as a part of how long they are kept.
const SWEEPS_PER_LIFE: u32 = 4;

impl WasmRuntime {
    /// A runtime without functions.
    ///
    /// # Errors
    /// The kernel refuses what it needs; see [`StartError`].
    pub fn new(options: Options) -> Result<WasmRuntime, StartError> {
        let (engine, pagemap_scan) =
            engine::engine(options.slots + options.warm).map_err(StartError::Engine)?;
        let ticker = Ticker::new(&engine, options.slice).map_err(StartError::Timer)?;
        let functions = Functions::new(&engine, &options).map_err(StartError::Engine)?;
        let free = || Slot {
            state: State::Free,
            function: FunctionId(0),
            generation: 0,
            status: Status::Ok,
            usage: Usage::default(),
            output: Output::new(&options.room),
            stderr: Vec::new(),
        };
        Ok(WasmRuntime {
            slots: (0..options.slots).map(|_| free()).collect(),
            warm: Warm::new(options.warm),
            functions,
            ticker,
            pagemap_scan,
            options,
            warm_bytes: 0,
            sweeps: 0,
            last_sweep: Instant::now(),
        })
    }

    /// Functions whose code is mapped now.
    pub fn loaded(&self) -> usize {
        self.functions.loaded()
    }

    /// One slice of a guest, and what it came to for its slot.
    fn run(&mut self, slot: SlotId, mut seat: Seat) -> Progress {
        self.ticker.begin();
        let polled = seat.run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.ticker.end();
        let slot = &mut self.slots[slot.0 as usize];
        match polled {
            Poll::Pending if seat.desk.served.get() => {
                slot.collect(&seat.desk, seat.desk.status(), 0, None);
                slot.state = State::Served(seat);
                Progress::Ended
            }
            Poll::Pending => {
                slot.state = State::Running(seat);
                Progress::Yielded
            }
            Poll::Ready(end) => {
                let (status, exit_code, told) = host::verdict(&end, &seat.desk);
                slot.collect(&seat.desk, status, exit_code, told.as_deref());
                slot.state = State::Ended;
                let Seat { run, desk } = seat;
                drop(run);
                self.functions.take_back(desk);
                Progress::Ended
            }
        }
    }

    /// Drops warm instances of a function.
    fn cool(&mut self, function: FunctionId) {
        while let Some(place) = self.functions.get_mut(function).and_then(|function| function.warm.pop()) {
            self.take(place);
        }
    }

    /// Takes out a warm instance.
    fn take(&mut self, place: Place) -> Seat {
        let seat = self.warm.take(place);
        self.warm_bytes -= seat.desk.memory_bytes.get();
        seat
    }

    /// Drops the least recently used warm instance, if it is older than `sweeps`.
    fn drop_oldest(&mut self, sweeps: u32) -> bool {
        let Some((function, place, since)) = self.warm.oldest() else { return false };
        if self.sweeps.wrapping_sub(since) < sweeps {
            return false;
        }
        self.take(place);
        if let Some(function) = self.functions.get_mut(function) {
            function.warm.retain(|other| *other != place);
        }
        true
    }

    /// Keeps a served instance for the next call.
    fn keep(&mut self, function: FunctionId, seat: Seat) {
        let bytes = seat.desk.memory_bytes.get();
        while self.warm.is_full() || self.warm_bytes + bytes > self.options.warm_bytes {
            if !self.drop_oldest(0) {
                return;
            }
        }
        self.warm_bytes += bytes;
        let place = self.warm.put(function, seat, self.sweeps);
        if let Some(function) = self.functions.get_mut(function) {
            function.warm.push(place);
        }
    }
}

impl Slot {
    /// Takes over what the guest left on its desk. Buffers are exchanged, not copied.
    fn collect(&mut self, desk: &Desk, status: Status, exit_code: i32, told: Option<&str>) {
        if let Some(told) = told {
            desk.tell(told);
        }
        std::mem::swap(&mut self.output, &mut desk.output.borrow_mut());
        std::mem::swap(&mut self.stderr, &mut desk.stderr.borrow_mut());
        self.status = status;
        self.usage.exit_code = exit_code;
        self.usage.memory_bytes = desk.memory_bytes.get();
        self.usage.truncated = desk.truncated.get();
    }

    /// The call ends before a guest was there.
    fn fail(&mut self, status: Status, why: &str) -> Progress {
        self.status = status;
        self.stderr.extend_from_slice(why.as_bytes());
        self.state = State::Ended;
        Progress::Ended
    }
}

impl Runtime for WasmRuntime {
    fn publish(&mut self, function: FunctionId, spec: &FunctionSpec) {
        if self.functions.get_mut(function).is_some_and(|known| known.is(spec)) {
            return;
        }
        self.cool(function);
        self.functions.insert(function, spec);
    }

    fn retire(&mut self, function: FunctionId) {
        self.cool(function);
        self.functions.remove(function);
    }

    fn foresee(&mut self, function: FunctionId, likely: bool) {
        if likely {
            self.functions.map(function);
        } else {
            self.cool(function);
            self.functions.unmap(function);
        }
    }

    fn begin(&mut self, id: SlotId, begin: &Begin<'_>) -> Progress {
        let slot = &mut self.slots[id.0 as usize];
        assert!(matches!(slot.state, State::Free), "slot {} is taken", id.0);
        slot.function = begin.function;
        slot.usage = Usage::default();
        slot.output.clear(host::BUFFER_BYTES_KEPT);
        slot.stderr.clear();
        let Some(function) = self.functions.get_mut(begin.function) else {
            return slot.fail(Status::Unavailable, "the function is not published on this core");
        };
        slot.generation = function.generation;
        let seat = match function.warm.pop() {
            Some(place) => self.take(place),
            None => {
                slot.usage.cold = true;
                match self.functions.seat(begin) {
                    Ok((seat, generation)) => {
                        slot.generation = generation;
                        seat
                    }
                    Err(why) => return slot.fail(Status::Unavailable, &why),
                }
            }
        };
        seat.desk.payload.borrow_mut().extend_from_slice(begin.payload);
        self.run(id, seat)
    }

    fn sleeps_until(&self, id: SlotId) -> Option<call::Instant> {
        match &self.slots[id.0 as usize].state {
            State::Running(seat) => {
                Some(call::Instant(seat.desk.sleeps_until.get())).filter(|until| until.0 > 0)
            }
            _ => None,
        }
    }

    fn resume(&mut self, id: SlotId) -> Progress {
        match std::mem::replace(&mut self.slots[id.0 as usize].state, State::Free) {
            State::Running(seat) => self.run(id, seat),
            _ => panic!("slot {} holds no running call", id.0),
        }
    }

    fn stop(&mut self, id: SlotId, status: Status) {
        let slot = &mut self.slots[id.0 as usize];
        match std::mem::replace(&mut slot.state, State::Ended) {
            State::Running(seat) => slot.collect(&seat.desk, status, 0, None),
            _ => panic!("slot {} holds no running call", id.0),
        }
        // What it wrote so far is no result.
        slot.output.clear(host::BUFFER_BYTES_KEPT);
    }

    fn ended(&self, id: SlotId) -> Ended<'_> {
        let slot = &self.slots[id.0 as usize];
        let over = matches!(slot.state, State::Served(_) | State::Ended);
        assert!(over, "the call in slot {} has not ended", id.0);
        Ended { status: slot.status, usage: slot.usage, output: &slot.output, stderr: &slot.stderr }
    }

    fn release(&mut self, id: SlotId) {
        let slot = &mut self.slots[id.0 as usize];
        slot.output.clear(host::BUFFER_BYTES_KEPT);
        let (function, generation) = (slot.function, slot.generation);
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Served(seat) => {
                seat.desk.clear();
                if self.functions.get_mut(function).is_some_and(|known| known.generation == generation) {
                    self.keep(function, seat);
                }
            }
            State::Ended => {}
            State::Free | State::Running(_) => panic!("the call in slot {} has not ended", id.0),
        }
    }

    fn idle(&mut self) {
        if self.last_sweep.elapsed() < self.options.warm_for / SWEEPS_PER_LIFE {
            return;
        }
        self.last_sweep = Instant::now();
        self.sweeps = self.sweeps.wrapping_add(1);
        while self.drop_oldest(SWEEPS_PER_LIFE) {}
        self.functions.unload_unused();
    }

    fn backends(&self) -> Vec<(String, String)> {
        let reset = match self.pagemap_scan {
            true => "PAGEMAP_SCAN, dirty pages overwritten in place",
            false => "madvise (slower: this kernel has no PAGEMAP_SCAN, it came with Linux 6.7)",
        };
        vec![
            ("runtime".into(), "wasmtime 48, pooling allocator, copy-on-write images".into()),
            ("memory reset".into(), reset.into()),
            (
                "time slices".into(),
                format!("epochs, POSIX timer each {:?} while calls run", self.options.slice),
            ),
        ]
    }
}
