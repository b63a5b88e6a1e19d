//! The AWS Lambda Runtime API, version 2018-06-01, as one sandbox sees it: the server's side of HTTP/1.1 as a state
//! machine over bytes. No I/O, no clock; all that comes from a function is bounded, and can at worst get an error.
//!
//! | request | answer |
//! |---|---|
//! | `GET .../invocation/next` | held until a call may run; 403 `InvalidStateTransition` while the only one runs |
//! | `POST .../invocation/{id}/response` | 202; 400 `InvalidRequestID` if this call is not out; 413 if it is too long |
//! | `POST .../invocation/{id}/error` | the same |
//! | `POST .../init/error` | 202; 403 once the function has asked for a call |
//! | anything else | 404, 405; what is no HTTP: 400, 413, 431, 501, and the connection ends |
//!
//! Where AWS leaves a choice: a function that may run one call and asks for the next without having answered is told
//! 403, as by AWS, and its call ends at once instead of at its time-out ([`Event::Skipped`]); half a result, then the
//! connection's end, ends the call at once too ([`Event::Truncated`]). A function that may run several may ask for more
//! than that: AWS's own client for Node.js asks on eight threads and more, and leaves the counting to the platform.
//!
//! [`reader`] makes requests of bytes (with [`head`] and [`chunks`]), [`answer`] writes, [`Session`] holds the rules.

mod head;
mod chunks;
mod reader;
mod answer;

pub use answer::{Invocation, invocation};
pub use head::HEAD_BYTES_MAX;

use crate::results::Room;
use answer::Denial;
use call::CallId;
use head::Route;
use reader::{Reader, Request, Step};

/// Bytes that a client may send behind a `next` that is not answered yet.
const BACKLOG_BYTES_MAX: usize = 64 << 10;
/// Connections beside two for each call at once: clients that open one per kind of request, and those being closed.
const CONNECTIONS_SPARE: usize = 8;
/// And those that ask for calls beyond what may run at once: the client for Node.js has eight threads for each CPU.
const CONNECTIONS_ASKING: usize = 32;
/// Refused requests of one sandbox: a client that is merely mistaken gives up long before. They cost the core more than
/// the function, which may send thousands in one write.
const DENIALS_MAX: u32 = 1000;
/// An idle connection keeps no more memory than this for what it is to send.
const KEPT_BYTES: usize = 64 << 10;

/// What a function did.
#[derive(PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// It asks for a call: one more may be given to it.
    Waits,
    /// It asks no longer: the connection on which it did is gone.
    Left,
    /// It answered a call.
    Answered {
        /// Which.
        call: CallId,
        /// With what.
        output: &'a [u8],
    },
    /// It reported that a call failed.
    Failed {
        /// Which.
        call: CallId,
        /// The error's name; may be empty.
        kind: &'a str,
        /// What it says about it: JSON, by custom.
        output: &'a [u8],
    },
    /// Its result is longer than one may be.
    TooLarge {
        /// Of which call.
        call: CallId,
    },
    /// The connection broke in the middle of a result.
    Truncated {
        /// Of which call.
        call: CallId,
    },
    /// It asked for another call without having answered this one.
    Skipped {
        /// Which.
        call: CallId,
    },
    /// It made more requests that were refused than any client would. It is not heard any more.
    Misbehaved,
    /// It reported that it cannot begin.
    InitFailed {
        /// The error's name; may be empty.
        kind: &'a str,
        /// What it says about it.
        output: &'a [u8],
    },
}

/// One connection of the function.
struct Connection {
    reader: Reader,
    line: Line,
}

/// What a connection has beside its reader.
#[derive(Default)]
struct Line {
    /// It is not one that is gone.
    open: bool,
    /// What is to be sent.
    out: Vec<u8>,
    /// A `next` waits to be answered.
    holds: bool,
    /// The client wants the connection to end after the answer to it.
    last: bool,
    /// To be closed once all is sent.
    closing: bool,
    /// What came behind a held `next`.
    backlog: Vec<u8>,
}

impl Connection {
    fn new(room: &Room) -> Connection {
        Connection { reader: Reader::new(room), line: Line { open: true, ..Line::default() } }
    }
}

impl Line {
    fn deny(&mut self, denial: Denial, keep: bool) {
        answer::deny(&mut self.out, denial, !keep);
        self.closing |= !keep;
    }

    fn accept(&mut self, keep: bool) {
        self.out.extend_from_slice(answer::ACCEPTED);
        self.closing |= !keep;
    }
}

/// All connections of one sandbox, and its calls.
pub struct Session {
    connections: Vec<Connection>,
    /// Of which large results are.
    room: Room,
    rules: Rules,
}

/// Which calls are out, and who waits for one.
struct Rules {
    /// Calls that it may have at once.
    concurrent: usize,
    /// Calls that are out.
    calls: Vec<CallId>,
    /// Connections with a `next` that waits, the one that waits longest first.
    waiting: Vec<u16>,
    /// Of those, so many may have a call, which was said ([`Event::Waits`]); the others wait for a call to end first.
    offered: usize,
    /// The function has asked for a call.
    serves: bool,
    /// It has said that it cannot begin.
    failed: bool,
    /// Requests that were refused.
    denials: u32,
}

impl Session {
    /// Of a sandbox that may run so many calls at once, with large results of this room.
    pub fn new(concurrent: u32, room: &Room) -> Session {
        let concurrent = concurrent as usize;
        let (calls, waiting) = (Vec::with_capacity(concurrent), Vec::with_capacity(concurrent));
        let rules =
            Rules { concurrent, calls, waiting, offered: 0, serves: false, failed: false, denials: 0 };
        Session { connections: Vec::new(), room: room.clone(), rules }
    }

    /// Connections that it may have at once.
    pub fn connections_max(&self) -> usize {
        let concurrent = self.rules.concurrent;
        2 * concurrent + CONNECTIONS_SPARE + if concurrent > 1 { CONNECTIONS_ASKING } else { 0 }
    }

    /// A connection was made. Its number, or `None` if there are too many: it is to be closed.
    pub fn open(&mut self) -> Option<u16> {
        if self.rules.denials > DENIALS_MAX {
            return None;
        }
        if let Some(free) = self.connections.iter().position(|connection| !connection.line.open) {
            self.connections[free] = Connection::new(&self.room);
            return Some(free as u16);
        }
        if self.connections.len() >= self.connections_max() {
            return None;
        }
        self.connections.push(Connection::new(&self.room));
        Some(self.connections.len() as u16 - 1)
    }

    /// Bytes arrived on a connection.
    pub fn receive(&mut self, at: u16, bytes: &[u8], on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        if self.line(at).backlog.is_empty() {
            return self.serve(at, bytes, on);
        }
        self.stash(at, bytes, on);
        self.advance(at, on);
    }

    /// Serves what came behind a `next` that has been answered by [`Session::give`].
    pub fn advance(&mut self, at: u16, on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        if self.has_backlog(at) {
            let backlog = std::mem::take(&mut self.line(at).backlog);
            self.serve(at, &backlog, on);
        }
    }

    /// Whether [`Session::advance`] has something to do.
    pub fn has_backlog(&self, at: u16) -> bool {
        let line = &self.connections[usize::from(at)].line;
        line.open && !line.holds && !line.backlog.is_empty()
    }

    /// A connection is gone.
    pub fn closed(&mut self, at: u16, on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let connection = &mut self.connections[usize::from(at)];
        let half = connection.reader.in_response();
        connection.line.open = false;
        self.leave(at, on);
        self.connections[usize::from(at)] =
            Connection { reader: Reader::new(&self.room), line: Line::default() };
        if let Some(call) = half.filter(|call| self.forget(*call)) {
            on(Event::Truncated { call });
            self.rules.offer(on);
        }
    }

    /// Gives a call to a `next` that waits: its answer is to be appended to the bytes (see [`invocation`]), which are
    /// those of the connection that is named.
    ///
    /// # Panics
    /// If none waits.
    pub fn give(&mut self, call: CallId) -> (u16, &mut Vec<u8>) {
        // The one that came last: its memory is warm.
        let at = self.rules.waiting.pop().expect("a `next` waits");
        self.rules.offered -= 1;
        self.rules.calls.push(call);
        let line = self.line(at);
        line.holds = false;
        line.closing |= line.last;
        (at, &mut line.out)
    }

    /// A call has ended otherwise: its answer will be refused. False if it was not out.
    pub fn forget(&mut self, call: CallId) -> bool {
        self.rules.forget(call)
    }

    /// Lends what is to be sent on a connection, and forgets it. Whether the connection is to be closed then.
    pub fn flush(&mut self, at: u16, send: impl FnOnce(&[u8])) -> bool {
        let line = self.line(at);
        if !line.out.is_empty() {
            send(&line.out);
            line.out.clear();
            line.out.shrink_to(KEPT_BYTES);
        }
        line.closing
    }

    /// Bytes of memory that the function made the session hold.
    pub fn held_bytes(&self) -> usize {
        let of = |c: &Connection| c.reader.held_bytes() + c.line.backlog.capacity();
        self.connections.iter().map(of).sum()
    }

    fn line(&mut self, at: u16) -> &mut Line {
        &mut self.connections[usize::from(at)].line
    }

    /// Keeps what came behind a held `next`; too much of it ends the connection.
    fn stash(&mut self, at: u16, bytes: &[u8], on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let line = self.line(at);
        if line.backlog.len() + bytes.len() <= BACKLOG_BYTES_MAX {
            return line.backlog.extend_from_slice(bytes);
        }
        line.backlog = Vec::new();
        line.closing = true;
        self.leave(at, on);
    }

    /// The `next` of this connection waits no longer.
    fn leave(&mut self, at: u16, on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        if std::mem::replace(&mut self.line(at).holds, false) {
            self.rules.waiting.retain(|other| *other != at);
            if self.rules.offered > self.rules.waiting.len() {
                self.rules.offered -= 1;
                on(Event::Left);
            }
        }
    }

    fn serve(&mut self, at: u16, bytes: &[u8], on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        let mut input = bytes;
        let Session { connections, rules, .. } = self;
        let Connection { reader, line } = &mut connections[usize::from(at)];
        while !line.closing && !line.holds {
            match reader.step(&mut input) {
                Step::Hungry => return,
                Step::Continue => line.out.extend_from_slice(answer::CONTINUE),
                Step::TooLarge(route) => rules.too_large(route, on),
                Step::Refused(refusal) => rules.deny(line, Denial::Refused(refusal), false, on),
                Step::Request(request) => rules.request(at, line, &request, on),
            }
        }
        if line.holds && !input.is_empty() {
            self.stash(at, input, on);
        }
    }
}

impl Rules {
    fn forget(&mut self, call: CallId) -> bool {
        let place = self.calls.iter().position(|other| *other == call);
        place.map(|place| self.calls.swap_remove(place)).is_some()
    }

    /// Says of each `next` that waits and may have a call now that it does.
    fn offer(&mut self, on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        while self.offered < self.waiting.len() && self.calls.len() + self.offered < self.concurrent {
            self.offered += 1;
            on(Event::Waits);
        }
    }

    fn too_large(&mut self, route: Route, on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        if let Route::Response(Some(call)) | Route::Error(Some(call)) = route
            && self.forget(call)
        {
            on(Event::TooLarge { call });
            self.offer(on);
        }
    }

    fn request(
        &mut self,
        at: u16,
        line: &mut Line,
        request: &Request<'_>,
        on: &mut (impl FnMut(Event<'_>) + ?Sized),
    ) {
        let Request { body: output, kind, keep, .. } = *request;
        let denial = match request.route {
            Route::Next => return self.next(at, line, keep, on),
            _ if request.too_large => Denial::TooLarge(request.body_bytes_max),
            Route::Response(Some(call)) if self.forget(call) => {
                // A stream of results that broke off says so in a trailer.
                on(match kind {
                    "" => Event::Answered { call, output },
                    kind => Event::Failed { call, kind, output },
                });
                self.offer(on);
                return line.accept(keep);
            }
            Route::Error(Some(call)) if self.forget(call) => {
                on(Event::Failed { call, kind, output });
                self.offer(on);
                return line.accept(keep);
            }
            Route::Response(_) | Route::Error(_) => Denial::RequestId,
            Route::InitError if self.serves || self.failed => Denial::Init,
            Route::InitError => {
                self.failed = true;
                on(Event::InitFailed { kind, output });
                return line.accept(keep);
            }
            Route::Unknown => Denial::Unknown,
            Route::Method => Denial::Method,
        };
        self.deny(line, denial, keep, on);
    }

    fn deny(
        &mut self,
        line: &mut Line,
        denial: Denial,
        keep: bool,
        on: &mut (impl FnMut(Event<'_>) + ?Sized),
    ) {
        self.denials = self.denials.saturating_add(1);
        if self.denials > DENIALS_MAX {
            line.closing = true;
            if self.denials == DENIALS_MAX + 1 {
                self.calls.clear();
                on(Event::Misbehaved);
            }
            return;
        }
        line.deny(denial, keep);
    }

    fn next(&mut self, at: u16, line: &mut Line, keep: bool, on: &mut (impl FnMut(Event<'_>) + ?Sized)) {
        self.serves = true;
        if self.concurrent > 1 || self.calls.len() + self.waiting.len() == 0 {
            (line.holds, line.last) = (true, !keep);
            self.waiting.push(at);
            return self.offer(on);
        }
        self.deny(line, Denial::Next, keep, on);
        if let Some(call) = self.calls.pop() {
            on(Event::Skipped { call });
        }
    }
}

#[cfg(test)]
mod tests;
