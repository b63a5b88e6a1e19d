//! What the server says. Head and body of an answer are one run of bytes: the official clients wait for a delayed
//! acknowledgement between the two otherwise, 40 ms.

use super::head::Refusal;
use call::CallId;
use std::io::Write;

/// What a call is handed out with.
pub struct Invocation<'a> {
    /// Its id, in `Lambda-Runtime-Aws-Request-Id`.
    pub call: CallId,
    /// When it times out, ms since the Unix epoch.
    pub deadline_unix_ms: u64,
    /// `Lambda-Runtime-Invoked-Function-Arn`.
    pub arn: &'a str,
    /// The client's trace header; one is made of the call's id if there is none.
    pub trace: Option<&'a str>,
    /// The client's context: JSON.
    pub client_context: Option<&'a str>,
    /// What the arguments are; `application/json` if nobody says.
    pub content_type: Option<&'a str>,
    /// The arguments.
    pub body: &'a [u8],
}

/// `100 Continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The answer to a result, taken.
pub const ACCEPTED: &[u8] =
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";

/// An answer that refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// The call was not given to this sandbox, or was answered already.
    RequestId,
    /// `next` while a call is unanswered and no more may be handed out.
    Next,
    /// `init/error` after the function began to serve.
    Init,
    /// A result or an error that is longer than so many bytes, or than there is room for now.
    TooLarge(u64),
    /// There is no such path.
    Unknown,
    /// Not with this method.
    Method,
    /// The stream is broken; the connection ends.
    Refused(Refusal),
}

impl Denial {
    /// Status line's end, `errorType`, `errorMessage`: those of AWS where it has them.
    fn words(self) -> (&'static str, &'static str, String) {
        let text = str::to_owned;
        match self {
            Denial::RequestId => ("400 Bad Request", "InvalidRequestID", text("Invalid request ID")),
            Denial::Next => (
                "403 Forbidden",
                "InvalidStateTransition",
                text("State transition from Running to Ready failed for runtime: the call is not answered"),
            ),
            Denial::Init => (
                "403 Forbidden",
                "InvalidStateTransition",
                text("State transition to InitError failed for runtime: it has asked for calls already"),
            ),
            Denial::TooLarge(most) => (
                "413 Request Entity Too Large",
                "RequestEntityTooLarge",
                format!("Exceeded maximum allowed payload size ({most} bytes)."),
            ),
            Denial::Refused(Refusal::Body) => (
                "413 Request Entity Too Large",
                "RequestEntityTooLarge",
                text("Exceeded maximum allowed payload size by far."),
            ),
            Denial::Unknown => {
                ("404 Not Found", "NotFound", text("No such path in the Runtime API 2018-06-01"))
            }
            Denial::Method => ("405 Method Not Allowed", "MethodNotAllowed", text("Not with this method")),
            Denial::Refused(Refusal::Malformed) => {
                ("400 Bad Request", "BadRequest", text("The bytes are no request of HTTP 1"))
            }
            Denial::Refused(Refusal::Length) => {
                ("400 Bad Request", "BadRequest", text("The length of the body is not told plainly"))
            }
            Denial::Refused(Refusal::Head) => {
                ("431 Request Header Fields Too Large", "BadRequest", text("Too many headers, or too long"))
            }
            Denial::Refused(Refusal::Coding) => (
                "501 Not Implemented",
                "BadRequest",
                text("Transfer codings other than chunked are not read"),
            ),
        }
    }
}

/// Appends a refusal; `close` says so to the client.
pub fn deny(out: &mut Vec<u8>, denial: Denial, close: bool) {
    let (status, kind, message) = denial.words();
    // No character of these texts needs to be escaped.
    let body = format!("{{\"errorMessage\":\"{message}\",\"errorType\":\"{kind}\"}}\n");
    let connection = if close { "Connection: close\r\n" } else { "" };
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{connection}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Appends a call: the answer to `next`.
pub fn invocation(out: &mut Vec<u8>, call: &Invocation<'_>) {
    let id = hex(call.call);
    out.reserve(512 + call.body.len());
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: ");
    value(out, call.content_type.unwrap_or("application/json"));
    out.extend_from_slice(b"\r\nLambda-Runtime-Aws-Request-Id: ");
    out.extend_from_slice(&id);
    out.extend_from_slice(b"\r\nLambda-Runtime-Deadline-Ms: ");
    decimal(out, call.deadline_unix_ms);
    out.extend_from_slice(b"\r\nLambda-Runtime-Invoked-Function-Arn: ");
    value(out, call.arn);
    out.extend_from_slice(b"\r\nLambda-Runtime-Trace-Id: ");
    match call.trace {
        Some(trace) => value(out, trace),
        None => trace_of(out, &id),
    }
    if let Some(context) = call.client_context {
        out.extend_from_slice(b"\r\nLambda-Runtime-Client-Context: ");
        value(out, context);
    }
    out.extend_from_slice(b"\r\nContent-Length: ");
    decimal(out, call.body.len() as u64);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(call.body);
}

/// The id as text.
fn hex(call: CallId) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|place| DIGITS[(call.0 >> (124 - 4 * place)) as usize & 15])
}

/// A trace header in the form of X-Ray. A call's id has the form of a trace's: its birth, then random bits.
fn trace_of(out: &mut Vec<u8>, id: &[u8; 32]) {
    out.extend_from_slice(b"Root=1-");
    out.extend_from_slice(&id[..8]);
    out.push(b'-');
    out.extend_from_slice(&id[8..]);
    out.extend_from_slice(b";Parent=");
    out.extend_from_slice(&id[16..]);
    out.extend_from_slice(b";Sampled=0");
}

/// A header's value as a client chose it: what could end the line becomes a space.
fn value(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|byte| if byte < b' ' || byte == 0x7f { b' ' } else { byte }));
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(call: &Invocation<'_>) -> String {
        let mut out = Vec::new();
        invocation(&mut out, call);
        String::from_utf8(out).unwrap()
    }

    const CALL: Invocation<'static> = Invocation {
        call: CallId(0x018b_cfe5_6800_0000_0000_0000_0000_000a),
        deadline_unix_ms: 1_700_000_030_000,
        arn: "arn:aws:lambda:default:000000000000:function:f",
        trace: None,
        client_context: None,
        content_type: None,
        body: b"{}",
    };

    #[test]
    fn a_call_is_told_as_lambda_tells_it() {
        assert_eq!(
            told(&CALL),
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
             Lambda-Runtime-Aws-Request-Id: 018bcfe568000000000000000000000a\r\n\
             Lambda-Runtime-Deadline-Ms: 1700000030000\r\n\
             Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:default:000000000000:function:f\r\n\
             Lambda-Runtime-Trace-Id: Root=1-018bcfe5-68000000000000000000000a;Parent=000000000000000a;Sampled=0\r\n\
             Content-Length: 2\r\n\r\n{}"
        );
        assert_eq!(CALL.call.to_string().as_bytes(), hex(CALL.call));
    }

    #[test]
    fn no_word_of_a_client_becomes_a_header() {
        let text =
            told(&Invocation { trace: Some("a\r\nX: y"), client_context: Some("b\n\nc\u{7f}"), ..CALL });
        assert!(
            text.contains("Trace-Id: a  X: y\r\n") && text.contains("Client-Context: b  c \r\n"),
            "{text}"
        );
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn the_body_of_a_refusal_is_json_of_the_length_told() {
        for denial in [Denial::RequestId, Denial::Next, Denial::TooLarge(7), Denial::Refused(Refusal::Coding)]
        {
            let mut out = Vec::new();
            deny(&mut out, denial, true);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("Content-Length: {}", body.len()))
                    && head.contains("Connection: close")
            );
            assert!(body.starts_with("{\"errorMessage\":\"") && body.ends_with("\"}\n"), "{body}");
        }
        assert!(ACCEPTED.ends_with(b"Content-Length: 16\r\n\r\n{\"status\":\"OK\"}\n"));
    }
}
