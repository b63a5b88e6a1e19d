//! The head of a request: where it goes, and how long its body is.

use call::CallId;

/// Bytes of the longest head. Large, since the official clients put the cause of an error (`X-Ray`) into a header of
/// up to 1 MiB.
pub const HEAD_BYTES_MAX: usize = (1 << 20) + (32 << 10);
/// Headers of one request.
const HEADERS_MAX: usize = 64;
/// Bytes kept of the name of an error.
const KIND_BYTES_MAX: usize = 256;
/// What each path begins with.
const ROOT: &[u8] = b"/2018-06-01/runtime/";

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// The next call.
    Next,
    /// Here is the result of this call; none if what stands for its id is no id.
    Response(Option<CallId>),
    /// This call failed.
    Error(Option<CallId>),
    /// The function could not begin.
    InitError,
    /// There is no such path.
    Unknown,
    /// There is, but not with this method.
    Method,
}

/// How the body's end is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// After so many bytes.
    Bytes(u64),
    /// By an empty chunk.
    Chunked,
}

/// What a head says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What is asked for.
    pub route: Route,
    /// The client may send another request on this connection.
    pub keep: bool,
    /// How long the body is.
    pub length: Length,
    /// The client waits for a word before it sends the body.
    pub expects: bool,
}

/// Why the bytes are not answered as a request; the connection ends after the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not HTTP/1.
    Malformed,
    /// The head is too long or has too many headers.
    Head,
    /// The body's length is not told, or told twice, or is no number.
    Length,
    /// A transfer coding other than `chunked`.
    Coding,
    /// A body that is far beyond what may be sent.
    Body,
}

/// Where the head at the begin of `bytes` ends, if its end is there: behind an empty line. The first `from` bytes are
/// known to hold no line's end that is followed by an empty line.
pub fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        at += found + 1;
        match bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// Reads a whole head. The name of the error that the client reports goes into `kind`.
pub fn parse(head: &[u8], kind: &mut String) -> Result<Head, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(bytes)) if bytes == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::Head),
        Ok(_) | Err(_) => return Err(Refusal::Malformed),
    }
    let method = request.method.unwrap_or_default();
    let route = route(method, request.path.unwrap_or_default().as_bytes());
    let mut read = Head { route, keep: request.version == Some(1), length: Length::Bytes(0), expects: false };
    let (mut length, mut coding) = (None, false);
    for header in request.headers.iter() {
        let (name, value) = (header.name, header.value.trim_ascii());
        // By length first: most headers are of no interest.
        match name.len() {
            6 if name.eq_ignore_ascii_case("expect") => {
                read.expects = value.eq_ignore_ascii_case(b"100-continue");
            }
            10 if name.eq_ignore_ascii_case("connection") => read.keep = keeps(value, read.keep),
            14 if name.eq_ignore_ascii_case("content-length") => {
                let bytes = number(value).ok_or(Refusal::Length)?;
                if length.replace(bytes).is_some_and(|before| before != bytes) {
                    return Err(Refusal::Length);
                }
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if coding || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Coding);
                }
                coding = true;
            }
            34 if name.eq_ignore_ascii_case(ERROR_TYPE) => keep_kind(kind, value),
            _ => {}
        }
    }
    read.length = match (length, coding) {
        (Some(_), true) => return Err(Refusal::Length),
        (None, true) => Length::Chunked,
        (bytes, false) => Length::Bytes(bytes.unwrap_or(0)),
    };
    Ok(read)
}

/// The header, or trailer, that names an error.
pub const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const _: () = assert!(ERROR_TYPE.len() == 34);

/// Keeps the name of an error: printable ASCII, bounded.
pub fn keep_kind(kind: &mut String, value: &[u8]) {
    kind.clear();
    let plain = value.iter().take(KIND_BYTES_MAX);
    kind.extend(
        plain.map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' }),
    );
}

fn route(method: &str, path: &[u8]) -> Route {
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let Some(path) = path.strip_prefix(ROOT) else { return Route::Unknown };
    let (wanted, route) = match path {
        b"invocation/next" => ("GET", Route::Next),
        b"init/error" => ("POST", Route::InitError),
        _ => {
            let Some(path) = path.strip_prefix(b"invocation/") else { return Route::Unknown };
            if let Some(id) = path.strip_suffix(b"/response") {
                ("POST", Route::Response(call(id)))
            } else if let Some(id) = path.strip_suffix(b"/error") {
                ("POST", Route::Error(call(id)))
            } else {
                return Route::Unknown;
            }
        }
    };
    if method == wanted { route } else { Route::Method }
}

fn call(id: &[u8]) -> Option<CallId> {
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// Whether the connection goes on, by its header: a list of words.
fn keeps(value: &[u8], default: bool) -> bool {
    let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if words.clone().any(|word| word.eq_ignore_ascii_case(b"close")) {
        return false;
    }
    default || words.any(|word| word.eq_ignore_ascii_case(b"keep-alive"))
}

/// Digits only, at most eighteen.
fn number(digits: &[u8]) -> Option<u64> {
    let plain = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Head, Refusal> {
        parse(head.as_bytes(), &mut String::new())
    }

    const ID: &str = "018bcfe568000000000000000000000a";

    #[test]
    fn routes_are_known_by_method_and_path() {
        let route = |line: &str| read(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap().route;
        let id = Some(ID.parse().unwrap());
        let path = |rest: &str| format!("POST /2018-06-01/runtime/invocation/{rest}");
        assert_eq!(route("GET /2018-06-01/runtime/invocation/next"), Route::Next);
        assert_eq!(route("GET /2018-06-01/runtime/invocation/next?x=1"), Route::Next);
        assert_eq!(route("POST /2018-06-01/runtime/init/error"), Route::InitError);
        assert_eq!(route(&path(&format!("{ID}/response"))), Route::Response(id));
        assert_eq!(route(&path(&format!("{ID}/error"))), Route::Error(id));
        assert_eq!(route(&path("../../x/response")), Route::Response(None));
        assert_eq!(route(&path("next")), Route::Method);
        assert_eq!(route("GET /2018-06-01/runtime/init/error"), Route::Method);
        assert_eq!(route("GET /2015-03-31/functions"), Route::Unknown);
        assert_eq!(route("GET /2018-06-01/runtime/restore/next"), Route::Unknown);
    }

    #[test]
    fn lengths_are_told_once_and_plainly() {
        let length =
            |headers: &str| read(&format!("POST / HTTP/1.1\r\n{headers}\r\n")).map(|head| head.length);
        assert_eq!(length(""), Ok(Length::Bytes(0)));
        assert_eq!(length("Content-Length: 12\r\ncontent-length: 12\r\n"), Ok(Length::Bytes(12)));
        assert_eq!(length("Transfer-Encoding: Chunked\r\n"), Ok(Length::Chunked));
        for wrong in ["+1", "-1", "0x1", "", "1 2", "1234567890123456789"] {
            assert_eq!(length(&format!("Content-Length: {wrong}\r\n")), Err(Refusal::Length), "{wrong}");
        }
        assert_eq!(length("Content-Length: 1\r\nContent-Length: 2\r\n"), Err(Refusal::Length));
        assert_eq!(length("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Err(Refusal::Length));
        assert_eq!(length("Transfer-Encoding: gzip, chunked\r\n"), Err(Refusal::Coding));
    }

    #[test]
    fn a_connection_is_kept_by_version_and_word() {
        let keep =
            |version: &str, word: &str| read(&format!("GET / HTTP/1.{version}\r\n{word}\r\n")).unwrap().keep;
        assert!(keep("1", "") && !keep("0", ""));
        assert!(!keep("1", "Connection: Close\r\n") && keep("0", "connection: te, Keep-Alive\r\n"));
    }

    #[test]
    fn the_end_of_a_head_is_an_empty_line() {
        let head = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest";
        assert_eq!(end_of_head(head, 0), Some(head.len() - 4));
        for cut in 0..head.len() - 4 {
            assert_eq!(end_of_head(&head[..cut], 0), None);
        }
        assert_eq!(end_of_head(b"GET / HTTP/1.1\n\nrest", 0), Some(16));
    }

    #[test]
    fn the_name_of_an_error_is_bounded_text() {
        let mut kind = String::new();
        let long = "x".repeat(1000);
        let head = format!("POST / HTTP/1.1\r\nLambda-Runtime-Function-Error-Type: a\tb{long}\r\n\r\n");
        parse(head.as_bytes(), &mut kind).unwrap();
        assert!(kind.starts_with("a?bxx") && kind.len() == KIND_BYTES_MAX);
    }
}
