//! A runtime with a cache directory of its own, and a few words to play calls on it.

use call::body::{Submit, append_submit, arguments};
use call::frame::{Frame, FrameBuf};
use call::{Arguments, Attribute, CallId, FunctionId, FunctionSpec, Status, Usage, WallTime};
use runtime::wasm::artefact;
use runtime::{Begin, Options, Progress, Runtime, SlotId, WasmRuntime};
use std::time::Duration;

/// Slices after which a test gives up: a minute of 1 ms each.
const SLICES_MAX: u32 = 60_000;

pub struct Stage {
    pub cache: tempfile::TempDir,
    pub runtime: WasmRuntime,
    published: u64,
}

/// How a call ended.
#[derive(Debug)]
pub struct Told {
    pub status: Status,
    pub usage: Usage,
    pub output: Vec<u8>,
    pub stderr: String,
    /// How often it yielded before.
    pub yields: u32,
}

impl Stage {
    pub fn new() -> Stage {
        let cache = tempfile::tempdir().unwrap();
        Stage::with(|_| (), cache)
    }

    pub fn with(change: impl FnOnce(&mut Options), cache: tempfile::TempDir) -> Stage {
        let mut options = Options { slots: 4, warm: 2, ..Options::new(cache.path()) };
        change(&mut options);
        Stage { runtime: WasmRuntime::new(options).unwrap(), cache, published: 0 }
    }

    /// Publishes a module, text or binary, with default settings.
    pub fn deploy(&mut self, wasm: impl AsRef<[u8]>) -> FunctionId {
        self.deploy_as(wasm, FunctionSpec::default())
    }

    pub fn deploy_as(&mut self, wasm: impl AsRef<[u8]>, spec: FunctionSpec) -> FunctionId {
        let wasm = wat::parse_bytes(wasm.as_ref()).unwrap();
        let compiled = artefact::compile(self.cache.path(), &wasm).unwrap();
        self.published += 1;
        let function = FunctionId(self.published);
        self.runtime.publish(function, &FunctionSpec { name: "f".into(), artefact: compiled.sha256, ..spec });
        function
    }

    pub fn begin(&mut self, slot: u32, function: FunctionId, payload: &[u8]) -> Progress {
        self.begin_with(slot, function, payload, &[])
    }

    pub fn begin_with(
        &mut self,
        slot: u32,
        function: FunctionId,
        payload: &[u8],
        attributes: &[Attribute<'_>],
    ) -> Progress {
        let frame = frame(function, payload, attributes);
        let (frame, _) = Frame::parse(&frame).unwrap();
        let arguments = arguments(frame.body()).unwrap();
        self.runtime.begin(SlotId(slot), &Begin::of(CallId(7), function, arguments, 2))
    }

    /// Runs a call that was begun to its end, and frees the slot.
    pub fn finish(&mut self, slot: u32, mut progress: Progress) -> Told {
        let mut yields = 0;
        while progress == Progress::Yielded {
            assert!(yields < SLICES_MAX, "the call does not end");
            yields += 1;
            progress = self.runtime.resume(SlotId(slot));
        }
        self.end(slot, yields)
    }

    /// How the call in a slot ended; frees the slot.
    pub fn end(&mut self, slot: u32, yields: u32) -> Told {
        let ended = self.runtime.ended(SlotId(slot));
        let told = Told {
            status: ended.status,
            usage: ended.usage,
            output: ended.output.to_vec(),
            stderr: String::from_utf8_lossy(ended.stderr).into_owned(),
            yields,
        };
        self.runtime.release(SlotId(slot));
        told
    }

    /// A call from begin to end in slot 0.
    pub fn call(&mut self, function: FunctionId, payload: &[u8]) -> Told {
        let progress = self.begin(0, function, payload);
        self.finish(0, progress)
    }
}

/// A submit frame.
pub fn frame(function: FunctionId, payload: &[u8], attributes: &[Attribute<'_>]) -> FrameBuf {
    let mut out = FrameBuf::new();
    let submit = Submit {
        call: CallId(7),
        function,
        start_at: WallTime(0),
        deadline: WallTime(0),
        criticality: 0,
        want_outcome: true,
        arguments: Arguments { payload, attributes },
        ..Submit::default()
    };
    append_submit(&mut out, &submit).unwrap();
    out
}

/// A module of the fast ABI: `alloc` and `call` are the bodies, `extra` are further fields.
pub fn fast(alloc: &str, call: &str, extra: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 2) {extra}
        (func (export "millrace_alloc") (param $bytes i32) (result i32) {alloc})
        (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64) {call}))"#
    )
}

/// Arguments at 1024.
pub const ALLOC: &str = "(i32.const 1024)";
/// Replies with the arguments.
pub const REPLY: &str = "(i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $bytes)))";

/// Replies with its arguments.
pub fn echo() -> String {
    fast(ALLOC, REPLY, "")
}

/// Works for tens of milliseconds, then replies with its arguments.
pub fn slow_echo() -> String {
    let work = "(local $n i32) (local.set $n (i32.const 60000000))
        (loop $again (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))";
    fast(ALLOC, &format!("{work} {REPLY}"), "")
}

/// Never returns.
pub fn endless() -> String {
    fast(ALLOC, "(loop $again (br $again)) (unreachable)", "")
}

/// A pause for guests that sleep.
pub const SHORT: Duration = Duration::from_millis(20);
