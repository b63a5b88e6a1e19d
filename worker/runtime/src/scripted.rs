//! A deterministic runtime that plays outcomes instead of running code: for tests of the core loop and for
//! the simulator, where the *platform* is under test and not the functions.
//!
//! The payload of a call is its script: `key=value` words separated by `;`.
//!
//! | word | meaning | default |
//! |---|---|---|
//! | `slices=3` | slices the call takes; `forever` for a call that only `stop` ends | 1 |
//! | `status=trap` | how it ends: a [`Status`] by its name | `ok` |
//! | `output=text` | what it returns | empty |
//! | `stderr=text` | what it writes to stderr | empty |
//! | `exit=2` | exit code | 0 |
//! | `memory=65536` | largest size of its memory, bytes | 0 |
//! | `waits=5000000` | before its first slice it waits so long outside of the core, ns; `forever` for until `stop` | no |
//! | `cpu=70000` | CPU time that it had outside of the core, ns | 0 |
//! | `wake=5000000` | between its slices it sleeps until this instant, ns | never sleeps |
//!
//! A payload without any `=`, or that is not text, is echoed. A word that is none of these ends the call with
//! [`Status::BadReply`] and stderr names it: a test with a typing error must not pass.
//!
//! Nothing allocates after `new` while outputs stay within [`OUTPUT_BYTES_WARM`], so that an allocation test
//! of the core loop measures the core loop.

use crate::seam::{Begin, Ended, Progress, Runtime, SlotId};
use call::limits::{OUTPUT_BYTES_MAX, STDERR_BYTES_MAX};
use call::{FunctionId, FunctionSpec, Instant, Status, Usage};
use driver::{Arrivals, Driver};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of output and of stderr that each slot has room for from the start.
pub const OUTPUT_BYTES_WARM: usize = 4096;

/// Slices of a call that never ends by itself.
const FOREVER: u64 = u64::MAX;

/// What a slot is playing.
struct Play {
    state: State,
    /// Slices that are still to be run before the end.
    slices_left: u64,
    wake_at: Option<Instant>,
    /// How long it waits, ns; [`FOREVER`].
    waits_ns: u64,
    status: Status,
    usage: Usage,
    output: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Running,
    Waiting,
    /// It waited and may go on, as `serve` has said.
    Ready,
    Ended,
}

/// Plays scripts. See the module.
pub struct Scripted {
    slots: Vec<Play>,
    /// Published functions, and whether each has run: the first call of a function is cold.
    functions: BTreeMap<FunctionId, bool>,
    /// Calls that wait, and until when: from the first `serve` after their begin, which is when time is known.
    waiting: Vec<(SlotId, Option<Instant>)>,
}

impl Scripted {
    /// A runtime with this many slots.
    pub fn new(slots: u32) -> Scripted {
        let free = || Play {
            state: State::Free,
            slices_left: 0,
            wake_at: None,
            waits_ns: 0,
            status: Status::Ok,
            usage: Usage::default(),
            output: Vec::with_capacity(OUTPUT_BYTES_WARM),
            stderr: Vec::with_capacity(OUTPUT_BYTES_WARM),
        };
        Scripted {
            slots: (0..slots).map(|_| free()).collect(),
            functions: BTreeMap::new(),
            waiting: Vec::with_capacity(slots as usize),
        }
    }

    fn slot(&mut self, slot: SlotId, state: State) -> &mut Play {
        let play = &mut self.slots[slot.0 as usize];
        assert_eq!(play.state, state, "slot {} is in another state", slot.0);
        play
    }
}

impl Play {
    /// One slice.
    fn run(&mut self) -> Progress {
        if self.slices_left != FOREVER {
            self.slices_left -= 1;
        }
        if self.slices_left > 0 {
            return Progress::Yielded;
        }
        self.state = State::Ended;
        Progress::Ended
    }

    /// Takes the payload as script.
    fn read(&mut self, payload: &[u8]) {
        let Some(script) = str::from_utf8(payload).ok().filter(|text| text.contains('=')) else {
            fill(&mut self.output, payload, OUTPUT_BYTES_MAX, &mut self.usage.truncated);
            return;
        };
        for word in script.split(';').filter(|word| !word.is_empty()) {
            if self.word(word).is_none() {
                self.slices_left = 1;
                self.status = Status::BadReply;
                fill(
                    &mut self.stderr,
                    b"no such word in a script: ",
                    STDERR_BYTES_MAX,
                    &mut self.usage.truncated,
                );
                fill(&mut self.stderr, word.as_bytes(), STDERR_BYTES_MAX, &mut self.usage.truncated);
                return;
            }
        }
    }

    /// One word of the script; nothing if it is not one.
    fn word(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "slices" if value == "forever" => self.slices_left = FOREVER,
            "slices" => self.slices_left = value.parse().ok().filter(|slices| *slices > 0)?,
            "status" => self.status = Status::ALL.into_iter().find(|status| status.name() == value)?,
            "output" => fill(&mut self.output, value.as_bytes(), OUTPUT_BYTES_MAX, &mut self.usage.truncated),
            "stderr" => fill(&mut self.stderr, value.as_bytes(), STDERR_BYTES_MAX, &mut self.usage.truncated),
            "exit" => self.usage.exit_code = value.parse().ok()?,
            "wake" => self.wake_at = Some(Instant(value.parse().ok()?)),
            "waits" if value == "forever" => self.waits_ns = FOREVER,
            "waits" => self.waits_ns = value.parse().ok().filter(|ns| *ns > 0)?,
            "cpu" => self.usage.cpu_ns = value.parse().ok()?,
            "memory" => self.usage.memory_bytes = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// Appends as much of `bytes` as `most` allows, and says if some was cut off.
fn fill(into: &mut Vec<u8>, bytes: &[u8], most: usize, truncated: &mut bool) {
    let fits = bytes.len().min(most - into.len());
    into.extend_from_slice(&bytes[..fits]);
    *truncated |= fits < bytes.len();
}

impl Runtime for Scripted {
    fn publish(&mut self, function: FunctionId, _: &FunctionSpec) {
        self.functions.insert(function, false);
    }

    fn retire(&mut self, function: FunctionId) {
        self.functions.remove(&function);
    }

    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress {
        let ran = self.functions.get_mut(&begin.function).map(|ran| std::mem::replace(ran, true));
        let play = self.slot(slot, State::Free);
        play.state = State::Running;
        play.slices_left = 1;
        play.wake_at = None;
        play.waits_ns = 0;
        play.status = Status::Ok;
        play.usage = Usage { cold: ran == Some(false), ..Usage::default() };
        play.output.clear();
        play.stderr.clear();
        if ran.is_some() {
            play.read(begin.payload);
        } else {
            play.status = Status::Unavailable;
            play.stderr.extend_from_slice(b"the function is not published on this core");
        }
        if play.waits_ns > 0 && play.status != Status::BadReply {
            play.state = State::Waiting;
            self.waiting.push((slot, None));
            return Progress::Waiting;
        }
        play.run()
    }

    fn serve(&mut self, _: &mut dyn Driver, _: &Arrivals, now: Instant, ready: &mut Vec<(SlotId, Progress)>) {
        let slots = &mut self.slots;
        self.waiting.retain_mut(|(slot, until)| {
            let play = &mut slots[slot.0 as usize];
            let until = *until.get_or_insert_with(|| match play.waits_ns {
                FOREVER => Instant::NEVER,
                waits_ns => now + Duration::from_nanos(waits_ns),
            });
            if now < until {
                return true;
            }
            play.state = State::Ready;
            let last = play.slices_left == 1;
            ready.push((*slot, if last { play.run() } else { Progress::Yielded }));
            false
        });
    }

    fn alarm(&self) -> Instant {
        let until = self.waiting.iter().map(|(_, until)| until.unwrap_or(Instant(0)));
        until.min().unwrap_or(Instant::NEVER)
    }

    fn sleeps_until(&self, slot: SlotId) -> Option<Instant> {
        self.slots[slot.0 as usize].wake_at
    }

    fn resume(&mut self, slot: SlotId) -> Progress {
        let play = &mut self.slots[slot.0 as usize];
        assert!(matches!(play.state, State::Running | State::Ready), "slot {} is in another state", slot.0);
        play.state = State::Running;
        play.run()
    }

    fn stop(&mut self, slot: SlotId, status: Status) {
        let play = &mut self.slots[slot.0 as usize];
        let lost = matches!(play.state, State::Ready | State::Ended) && play.waits_ns > 0;
        assert!(
            !lost || status != Status::Timeout,
            "slot {} was ready and not looked at: its wake-up was lost",
            slot.0
        );
        let stops = matches!(play.state, State::Running | State::Waiting | State::Ready);
        assert!(stops, "slot {} is in another state", slot.0);
        self.waiting.retain(|(waits, _)| *waits != slot);
        play.state = State::Ended;
        play.status = status;
        play.output.clear();
    }

    fn ended(&self, slot: SlotId) -> Ended<'_> {
        let play = &self.slots[slot.0 as usize];
        assert_eq!(play.state, State::Ended, "the call in slot {} has not ended", slot.0);
        Ended { status: play.status, usage: play.usage, output: &play.output, stderr: &play.stderr }
    }

    fn release(&mut self, slot: SlotId) {
        self.slot(slot, State::Ended).state = State::Free;
    }

    fn backends(&self) -> Vec<(String, String)> {
        vec![("runtime".into(), "scripted (plays outcomes, runs no code)".into())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::submit;
    use call::frame::Frame;

    const SLOT: SlotId = SlotId(1);

    fn runtime() -> Scripted {
        let mut runtime = Scripted::new(2);
        runtime.publish(FunctionId(7), &FunctionSpec::default());
        runtime
    }

    /// Begins a call of function 7 with this payload.
    fn begin(runtime: &mut Scripted, payload: &[u8]) -> Progress {
        let frame = submit(payload, &[]);
        let (frame, _) = Frame::parse(&frame).unwrap();
        let arguments = call::body::arguments(frame.body()).unwrap();
        let begin = Begin::of(call::CallId(1), FunctionId(7), arguments, 1);
        runtime.begin(SLOT, &begin)
    }

    #[test]
    fn a_script_is_played() {
        let mut runtime = runtime();
        let script = b"slices=3;status=trap;output=hello;stderr=oops;exit=2;memory=65536";
        assert_eq!(begin(&mut runtime, script), Progress::Yielded);
        assert_eq!(runtime.resume(SLOT), Progress::Yielded);
        assert_eq!(runtime.resume(SLOT), Progress::Ended);
        let ended = runtime.ended(SLOT);
        assert_eq!((ended.status, ended.output, ended.stderr), (Status::Trap, &b"hello"[..], &b"oops"[..]));
        assert_eq!((ended.usage.exit_code, ended.usage.memory_bytes, ended.usage.cold), (2, 65536, true));
    }

    #[test]
    fn what_is_no_script_is_echoed_and_the_second_call_is_warm() {
        let mut runtime = runtime();
        for (payload, cold) in [(&b"hello"[..], true), (&[0xff, b'='][..], false), (b"", false)] {
            assert_eq!(begin(&mut runtime, payload), Progress::Ended);
            let ended = runtime.ended(SLOT);
            assert_eq!((ended.status, ended.output, ended.usage.cold), (Status::Ok, payload, cold));
            runtime.release(SLOT);
        }
    }

    #[test]
    fn a_call_that_runs_forever_is_stopped() {
        let mut runtime = runtime();
        assert_eq!(begin(&mut runtime, b"slices=forever;output=never"), Progress::Yielded);
        for _ in 0..1000 {
            assert_eq!(runtime.resume(SLOT), Progress::Yielded);
        }
        runtime.stop(SLOT, Status::Timeout);
        assert_eq!((runtime.ended(SLOT).status, runtime.ended(SLOT).output), (Status::Timeout, &b""[..]));
    }

    /// What `serve` says at this time.
    fn serve(runtime: &mut Scripted, now: u64) -> Vec<(SlotId, Progress)> {
        let world = driver::sim::World::new(1, driver::sim::Conditions::default());
        let mut driver = world.boot("here", driver::sim::Sizes::default());
        let mut ready = Vec::new();
        runtime.serve(&mut driver, &Arrivals::new(), Instant(now), &mut ready);
        ready
    }

    #[test]
    fn a_call_that_waits_is_ready_after_its_time_or_never() {
        let mut runtime = runtime();
        assert_eq!(begin(&mut runtime, b"waits=500;output=late;cpu=70"), Progress::Waiting);
        assert_eq!(runtime.alarm(), Instant(0), "it is to be looked at once");
        assert_eq!(serve(&mut runtime, 1000), []);
        assert_eq!(runtime.alarm(), Instant(1500));
        assert_eq!(serve(&mut runtime, 1499), []);
        assert_eq!(serve(&mut runtime, 1500), [(SLOT, Progress::Ended)]);
        assert_eq!((runtime.ended(SLOT).output, runtime.ended(SLOT).usage.cpu_ns), (&b"late"[..], 70));
        assert_eq!((serve(&mut runtime, 2000), runtime.alarm()), (vec![], Instant::NEVER));
        runtime.release(SLOT);

        assert_eq!(begin(&mut runtime, b"waits=10;slices=2"), Progress::Waiting);
        serve(&mut runtime, 3000);
        assert_eq!(serve(&mut runtime, 3010), [(SLOT, Progress::Yielded)]);
        assert_eq!(runtime.resume(SLOT), Progress::Yielded);
        assert_eq!(runtime.resume(SLOT), Progress::Ended);
        runtime.release(SLOT);

        assert_eq!(begin(&mut runtime, b"waits=forever"), Progress::Waiting);
        assert_eq!((serve(&mut runtime, 4000), runtime.alarm()), (vec![], Instant::NEVER));
        runtime.stop(SLOT, Status::Timeout);
        assert_eq!(runtime.ended(SLOT).status, Status::Timeout);
        runtime.release(SLOT);
        assert_eq!(begin(&mut runtime, b"hello"), Progress::Ended);
        assert_eq!(serve(&mut runtime, 5000), [], "nothing is left of the call before it");
    }

    #[test]
    #[should_panic(expected = "its wake-up was lost")]
    fn a_call_that_was_ready_cannot_time_out() {
        let mut runtime = runtime();
        begin(&mut runtime, b"waits=10");
        serve(&mut runtime, 0);
        serve(&mut runtime, 10);
        runtime.stop(SLOT, Status::Timeout);
    }

    #[test]
    fn a_typing_error_is_named() {
        let mut runtime = runtime();
        for wrong in ["slice=3", "waits=0", "status=okay", "slices=0", "slices=2;words=1"] {
            assert_eq!(begin(&mut runtime, wrong.as_bytes()), Progress::Ended);
            let stderr = String::from_utf8_lossy(runtime.ended(SLOT).stderr).into_owned();
            assert_eq!(runtime.ended(SLOT).status, Status::BadReply);
            assert!(stderr.ends_with(wrong.rsplit(';').next().unwrap()), "{stderr}");
            runtime.release(SLOT);
        }
    }

    #[test]
    fn a_function_that_is_not_there_is_unavailable() {
        let mut runtime = runtime();
        runtime.retire(FunctionId(7));
        assert_eq!(begin(&mut runtime, b"hello"), Progress::Ended);
        assert_eq!(runtime.ended(SLOT).status, Status::Unavailable);
    }

    #[test]
    #[should_panic(expected = "has not ended")]
    fn the_end_of_a_running_call_cannot_be_read() {
        let mut runtime = runtime();
        begin(&mut runtime, b"slices=2");
        runtime.ended(SLOT);
    }
}
