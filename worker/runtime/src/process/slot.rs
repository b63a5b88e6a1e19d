//! What is known of the call in a slot. Buffers stay for the next call.

use crate::results::{Output, Room};
use crate::seam::Ended;
use call::limits::STDERR_BYTES_MAX;
use call::{CallId, FunctionId, Status, Usage};

/// A free slot keeps no more than this of each buffer.
const KEPT_BYTES: usize = 64 << 10;

/// How far the call has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// There is none.
    Free,
    /// In the pool: in a queue, or in a sandbox.
    Waiting,
    /// Over.
    Ended,
}

/// One slot.
pub(super) struct Slot {
    pub state: State,
    pub call: CallId,
    pub function: FunctionId,
    /// What will be given to the sandbox: the answer to its `next`, or its stdin.
    pub pending: Vec<u8>,
    /// Of a call by stdio: what its process finds beside the function's own environment.
    pub environment: Vec<(String, String)>,
    pub output: Output,
    pub log: Vec<u8>,
    pub status: Status,
    pub usage: Usage,
}

impl Slot {
    pub fn new(room: &Room) -> Slot {
        Slot {
            state: State::Free,
            call: CallId(0),
            function: FunctionId(0),
            pending: Vec::new(),
            environment: Vec::new(),
            output: Output::new(room),
            log: Vec::new(),
            status: Status::Ok,
            usage: Usage::default(),
        }
    }

    /// A call takes it.
    pub fn begin(&mut self, call: CallId, function: FunctionId) {
        assert_eq!(self.state, State::Free, "a slot holds one call");
        (self.state, self.call, self.function) = (State::Waiting, call, function);
        self.usage = Usage::default();
        self.output.clear(KEPT_BYTES);
        for buffer in [&mut self.pending, &mut self.log] {
            buffer.clear();
        }
        self.environment.clear();
    }

    pub fn end(&mut self, status: Status) {
        (self.state, self.status) = (State::Ended, status);
        self.pending.clear();
    }

    pub fn free(&mut self) {
        self.state = State::Free;
        self.output.clear(KEPT_BYTES);
        for buffer in [&mut self.pending, &mut self.log] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        self.environment.clear();
    }

    /// Appends to the result; what is beyond its bound is dropped, and that is said.
    pub fn put(&mut self, bytes: &[u8]) {
        self.usage.truncated |= self.output.fill(bytes);
    }

    /// What it returned so far is no result.
    pub fn drop_output(&mut self) {
        self.output.clear(KEPT_BYTES);
    }

    /// Appends to the log, in the same way.
    pub fn write(&mut self, bytes: &[u8]) {
        self.usage.truncated |= fill(&mut self.log, bytes, STDERR_BYTES_MAX);
    }

    /// Appends a sentence of the platform to the log, on a line of its own; the log makes room for it.
    pub fn tell(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let text = &text.as_bytes()[..text.len().min(STDERR_BYTES_MAX / 2)];
        let room = STDERR_BYTES_MAX - text.len() - 2;
        if self.log.len() > room {
            self.log.truncate(room);
            self.usage.truncated = true;
        }
        if self.log.last().is_some_and(|last| *last != b'\n') {
            self.log.push(b'\n');
        }
        self.log.extend_from_slice(text);
        self.log.push(b'\n');
    }

    pub fn ended(&self) -> Ended<'_> {
        assert_eq!(self.state, State::Ended, "the call has ended");
        Ended { status: self.status, usage: self.usage, output: &self.output, stderr: &self.log }
    }
}

/// Appends as much as there is room for; true if that was not all.
pub(super) fn fill(into: &mut Vec<u8>, bytes: &[u8], most: usize) -> bool {
    let here = bytes.len().min(most.saturating_sub(into.len()));
    into.extend_from_slice(&bytes[..here]);
    here < bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::limits::OUTPUT_BYTES_MAX;

    #[test]
    fn a_log_is_bounded_and_makes_room_for_the_platforms_words() {
        let mut slot = Slot::new(&Room::default());
        slot.begin(CallId(1), FunctionId(1));
        slot.write(&[b'x'; STDERR_BYTES_MAX]);
        assert!(!slot.usage.truncated);
        slot.tell("ended by signal 9");
        assert!(slot.usage.truncated && slot.log.len() <= STDERR_BYTES_MAX);
        assert!(slot.log.ends_with(b"x\nended by signal 9\n"));
        slot.write(&[b'x'; 100]);
        assert!(slot.log.len() <= STDERR_BYTES_MAX);
    }

    #[test]
    fn what_is_beyond_the_bound_of_a_result_is_cut_and_said() {
        let mut slot = Slot::new(&Room::default());
        slot.begin(CallId(1), FunctionId(1));
        slot.put(&vec![b'x'; OUTPUT_BYTES_MAX]);
        assert!(!slot.usage.truncated);
        slot.put(b"y");
        assert!(slot.usage.truncated && slot.output.len() == OUTPUT_BYTES_MAX);
    }
}
