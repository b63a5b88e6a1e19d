//! Requests out of a stream of bytes, however it is cut.
//!
//! A request that lies whole in what has arrived is read in place. One that comes in pieces is collected, within
//! bounds: the head up to [`HEAD_BYTES_MAX`], a result up to what the [`Room`] has, an error up to [`OUTPUT_BYTES_MAX`]; what is beyond that is read and
//! dropped, up to [`DROPPED_BYTES_MAX`], so that the client hears why it was refused.

use super::chunks::{Chunks, Piece};
use super::head::{self, HEAD_BYTES_MAX, Head, Length, Refusal, Route};
use crate::results::{Loan, Room};
use call::CallId;
use call::limits::OUTPUT_BYTES_MAX;

/// Bytes of a body that is too long which are read before the connection is given up. A client writes all of a result
/// before it reads the answer; Lambda's own limit is 6 MiB.
pub const DROPPED_BYTES_MAX: u64 = 8 << 20;
/// An idle reader keeps no more than this.
const KEPT_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// In a head.
    Head,
    /// Behind it: what it says is to be judged.
    Judge,
    /// In a body, with so many bytes before its end, if that is known.
    Body(Option<u64>),
    /// Behind a request that was given.
    Over,
    /// The stream is over, whatever else comes.
    Shut,
}

/// See the module.
pub struct Reader {
    at: At,
    /// A head or body that comes in pieces.
    buffer: Vec<u8>,
    /// For a body in `buffer` that is large.
    loan: Loan,
    /// So many bytes of a head in `buffer` hold no end of it.
    searched: usize,
    head: Head,
    kind: String,
    chunks: Chunks,
    /// Bytes of the body so far.
    taken: u64,
    /// It is too long, and that was said.
    over: bool,
}

/// What came of some bytes.
#[derive(PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// More bytes are needed.
    Hungry,
    /// The client waits for `100 Continue`.
    Continue,
    /// The body of this request is longer than it may be. The request itself, or a refusal, follows.
    TooLarge(Route),
    /// A whole request.
    Request(Request<'a>),
    /// The stream is no HTTP, or too much; it ends here.
    Refused(Refusal),
}

/// A whole request.
#[derive(PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// What is asked for.
    pub route: Route,
    /// The body; empty if it is of no interest or too long.
    pub body: &'a [u8],
    /// The name of the error that the client reports, in a header or a trailer.
    pub kind: &'a str,
    /// The body was too long.
    pub too_large: bool,
    /// Another request may follow.
    pub keep: bool,
    /// Bytes that the body may have.
    pub body_bytes_max: u64,
}

const NO_HEAD: Head = Head { route: Route::Unknown, keep: false, length: Length::Bytes(0), expects: false };

impl Reader {
    /// At the begin of a stream.
    pub fn new(room: &Room) -> Reader {
        Reader {
            at: At::Head,
            buffer: Vec::new(),
            loan: Loan::new(room),
            searched: 0,
            head: NO_HEAD,
            kind: String::new(),
            chunks: Chunks::new(),
            taken: 0,
            over: false,
        }
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The call of whose result the stream has brought a part.
    pub fn in_response(&self) -> Option<CallId> {
        match (self.at, self.head.route) {
            (At::Judge | At::Body(_), Route::Response(call)) if !self.over => call,
            _ => None,
        }
    }

    /// Takes bytes off `input` until there is something to say.
    pub fn step<'a, 'x: 'a>(&'a mut self, input: &mut &'x [u8]) -> Step<'a> {
        if self.at == At::Over {
            self.begin();
        }
        if self.at == At::Head {
            match self.take_head(input) {
                Some(Ok(head)) => (self.head, self.at) = (head, At::Judge),
                Some(Err(refusal)) => return self.refuse(refusal),
                None => return Step::Hungry,
            }
        }
        if self.at == At::Judge
            && let Some(said) = self.judge()
        {
            return said;
        }
        match self.at {
            At::Body(left) => self.take_body(left, input),
            _ => {
                *input = &[];
                Step::Hungry
            }
        }
    }

    fn begin(&mut self) {
        self.at = At::Head;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        self.loan.give_back();
        self.kind.clear();
        (self.searched, self.taken, self.over) = (0, 0, false);
    }

    fn refuse(&mut self, refusal: Refusal) -> Step<'static> {
        self.at = At::Shut;
        self.buffer = Vec::new();
        self.loan.give_back();
        Step::Refused(refusal)
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Option<Result<Head, Refusal>> {
        if self.buffer.is_empty() {
            // Empty lines before a request are nothing.
            let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            *input = &input[blank..];
            if let Some(end) = head::end_of_head(&input[..input.len().min(HEAD_BYTES_MAX)], 0) {
                let (head, rest) = input.split_at(end);
                *input = rest;
                return Some(head::parse(head, &mut self.kind));
            }
        }
        let before = self.buffer.len();
        let part = &input[..input.len().min(HEAD_BYTES_MAX - before)];
        self.buffer.extend_from_slice(part);
        let Some(end) = head::end_of_head(&self.buffer, self.searched) else {
            *input = &input[part.len()..];
            // The last two bytes may be the begin of the end.
            self.searched = self.buffer.len().saturating_sub(2);
            return (self.buffer.len() == HEAD_BYTES_MAX).then_some(Err(Refusal::Head));
        };
        *input = &input[end - before..];
        let parsed = head::parse(&self.buffer[..end], &mut self.kind);
        self.buffer.clear();
        Some(parsed)
    }

    /// Bytes of the body that are kept.
    fn body_bytes_max(&self) -> u64 {
        match self.head.route {
            Route::Response(Some(_)) => self.loan.result_bytes() as u64,
            Route::Error(Some(_)) | Route::InitError => OUTPUT_BYTES_MAX as u64,
            _ => 0,
        }
    }

    /// What is to be said once the head is known.
    fn judge(&mut self) -> Option<Step<'static>> {
        let most = self.body_bytes_max();
        if let Length::Bytes(bytes) = self.head.length
            && bytes > most
        {
            if !std::mem::replace(&mut self.over, true) && most > 0 {
                return Some(Step::TooLarge(self.head.route));
            }
            if bytes > most + DROPPED_BYTES_MAX || self.head.expects && most > 0 {
                return Some(self.refuse(Refusal::Body));
            }
        }
        self.at = match self.head.length {
            Length::Bytes(bytes) => At::Body(Some(bytes)),
            Length::Chunked => {
                self.chunks.begin();
                At::Body(None)
            }
        };
        self.head.expects.then_some(Step::Continue)
    }

    fn take_body<'a, 'x: 'a>(&'a mut self, left: Option<u64>, input: &mut &'x [u8]) -> Step<'a> {
        let mut left = left;
        loop {
            if self.taken > self.body_bytes_max() + DROPPED_BYTES_MAX {
                return self.refuse(Refusal::Body);
            }
            let data = match left {
                Some(0) => return self.request(None),
                Some(bytes) => {
                    let here = usize::try_from(bytes).unwrap_or(usize::MAX).min(input.len());
                    let (data, rest) = input.split_at(here);
                    *input = rest;
                    if here as u64 == bytes && self.taken == 0 && !self.over {
                        return self.request(Some(data));
                    }
                    left = Some(bytes - here as u64);
                    self.at = At::Body(left);
                    if here == 0 {
                        return Step::Hungry;
                    }
                    data
                }
                None => match self.chunks.piece(input, &mut self.kind) {
                    Ok(Piece::Data(data)) => data,
                    Ok(Piece::End) => return self.request(None),
                    Ok(Piece::Hungry) => return Step::Hungry,
                    Err(refusal) => return self.refuse(refusal),
                },
            };
            if let Some(said) = self.keep(data) {
                return said;
            }
        }
    }

    /// Collects a piece of the body, or drops it.
    fn keep(&mut self, data: &[u8]) -> Option<Step<'static>> {
        let most = self.body_bytes_max();
        self.taken += data.len() as u64;
        if self.taken <= most && !self.over && self.loan.grow(self.taken as usize) as u64 == self.taken {
            self.buffer.extend_from_slice(data);
            return None;
        }
        self.buffer = Vec::new();
        self.loan.give_back();
        let first = !std::mem::replace(&mut self.over, true);
        (first && most > 0).then_some(Step::TooLarge(self.head.route))
    }

    /// The request is whole; its body lies in place or was collected.
    fn request<'a>(&'a mut self, body: Option<&'a [u8]>) -> Step<'a> {
        self.at = if self.head.keep { At::Over } else { At::Shut };
        let too_large = self.over && self.body_bytes_max() > 0;
        Step::Request(Request {
            route: self.head.route,
            body: body.unwrap_or(&self.buffer),
            kind: &self.kind,
            too_large,
            keep: self.head.keep,
            body_bytes_max: self.body_bytes_max(),
        })
    }
}
