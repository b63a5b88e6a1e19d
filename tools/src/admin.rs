//! The admin API, as a client sees it: routes of `control/openapi.json`, JSON in and out, errors as [`Failure`]s.

use crate::exit::{Exit, Failure};
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// Connecting on a LAN; the loopback refuses at once.
const CONNECT_TIME: Duration = Duration::from_secs(4);
/// Bytes of the largest answer: 10,000 calls with their outputs.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Bytes read of a download at once.
const PIECE_BYTES: usize = 64 << 10;

/// A client of the admin API. Blocks.
#[derive(Debug)]
pub struct Admin {
    base: String,
    agent: Agent,
}

/// An error as every route gives it.
#[derive(Deserialize)]
struct ApiError {
    code: String,
    message: String,
    remedy: String,
}

/// How many things an order touched.
#[derive(Deserialize, Serialize)]
pub struct Touched {
    /// How many.
    pub count: u64,
}

/// A blob that the node has.
#[derive(Deserialize, Serialize)]
pub struct StoredBlob {
    /// Its SHA-256.
    pub blob: String,
    /// Its length.
    pub bytes: u64,
}

/// Bytes that were downloaded.
#[derive(Debug)]
pub struct Fetched {
    /// How the call ended of which they are.
    pub status: String,
    /// How many.
    pub bytes: u64,
}

impl Admin {
    /// A client of the API at this base: `http://HOST:PORT`.
    ///
    /// # Errors
    /// If it is not a URL of that form.
    pub fn new(base: &str) -> Result<Admin, Failure> {
        let base = base.trim_end_matches('/').to_owned();
        let is_plain =
            base.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
        if !is_plain {
            let what = format!("`{base}` is not the base of an admin API");
            return Err(Failure::new(Exit::Usage, what, "--admin", "write it like http://127.0.0.1:7411"));
        }
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_connect(Some(CONNECT_TIME)).build();
        Ok(Admin { base, agent: config.into() })
    }

    /// The same, which waits no longer than this for an answer.
    #[must_use]
    pub fn within(&self, time: Duration) -> Admin {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(time)).build();
        Admin { base: self.base.clone(), agent: config.into() }
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET`.
    ///
    /// # Errors
    /// No answer; an error of the API.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.answer(path, self.agent.get(self.url(path)).call())
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`Admin::get`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.answer(path, self.agent.delete(self.url(path)).call())
    }

    /// `POST` without a body.
    ///
    /// # Errors
    /// As [`Admin::get`].
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.answer(path, self.agent.post(self.url(path)).send_empty())
    }

    /// `PUT` of JSON.
    ///
    /// # Errors
    /// As [`Admin::get`].
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let json = serde_json::to_vec(body).expect("plain data");
        self.answer(path, self.agent.put(self.url(path)).content_type("application/json").send(&json[..]))
    }

    /// `PUT` of a wasm file or a bundle.
    ///
    /// # Errors
    /// As [`Admin::get`].
    pub fn put_artefact<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: &str,
        bytes: &[u8],
    ) -> Result<T, Failure> {
        self.answer(path, self.agent.put(self.url(path)).content_type(kind).send(bytes))
    }

    /// `PUT /v1/blobs`.
    ///
    /// # Errors
    /// As [`Admin::get`].
    pub fn put_blob(&self, bytes: &[u8]) -> Result<StoredBlob, Failure> {
        let path = "/v1/blobs";
        self.answer(path, self.agent.put(self.url(path)).content_type("application/octet-stream").send(bytes))
    }

    /// `GET` of bytes, which are written as they come.
    ///
    /// # Errors
    /// As [`Admin::get`]; the answer broke off, or could not be written.
    pub fn download(&self, path: &str, into: &mut impl Write) -> Result<Fetched, Failure> {
        let mut response = self.agent.get(self.url(path)).call().map_err(|error| self.no_answer(&error))?;
        if !response.status().is_success() {
            let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
            let body = body.map_err(|error| self.no_answer(&error))?;
            return Err(self.refusal(path, response.status(), &body));
        }
        let word = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = word("x-millrace-status").unwrap_or_default().to_owned();
        let said: Option<u64> = word("content-length").and_then(|text| text.parse().ok());
        let mut body = response.body_mut().as_reader();
        let broke = |what: String| {
            Failure::new(Exit::Internal, what, self.url(path), "see the node's output; try again")
        };
        let mut piece = vec![0; PIECE_BYTES];
        let mut bytes = 0;
        loop {
            let read =
                body.read(&mut piece).map_err(|error| broke(format!("the answer broke off: {error}")))?;
            if read == 0 {
                break;
            }
            let written = into.write_all(&piece[..read]);
            written.map_err(|error| broke(format!("the bytes could not be written: {error}")))?;
            bytes += read as u64;
        }
        into.flush().map_err(|error| broke(format!("the bytes could not be written: {error}")))?;
        match said.filter(|said| *said != bytes) {
            Some(said) => Err(broke(format!("the answer broke off after {bytes} of {said} bytes"))),
            None => Ok(Fetched { status, bytes }),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn answer<T: DeserializeOwned>(
        &self,
        path: &str,
        result: Result<Response<Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let mut response = result.map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| self.no_answer(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                let what = format!("the answer is not what this build expects ({error})");
                Failure::new(Exit::Internal, what, self.url(path), "use one version of client and node")
            });
        }
        Err(self.refusal(path, status, &body))
    }

    /// An answer that is an error.
    fn refusal(&self, path: &str, status: StatusCode, body: &[u8]) -> Failure {
        match serde_json::from_slice::<ApiError>(body) {
            Ok(error) => {
                let remedy = remedy_here(path, &error.code).map_or(error.remedy, str::to_owned);
                Failure::new(exit_of(&error.code), error.message, self.url(path), remedy)
            }
            Err(_) => {
                let remedy = "this is not the admin API; it is the http address that `millrace up` prints";
                Failure::new(Exit::Connect, format!("HTTP status {status}"), self.url(path), remedy)
            }
        }
    }

    fn no_answer(&self, error: &ureq::Error) -> Failure {
        let remedy = match error {
            ureq::Error::Protocol(_) => {
                "this is not the admin API; it is the http address that `millrace up` prints"
            }
            _ => "start a node with `millrace up`, or name a running one with --admin or --data-dir",
        };
        Failure::new(Exit::Connect, format!("no answer from the admin API: {error}"), &self.base, remedy)
    }
}

/// What to do in words of the command line, where the API names routes.
fn remedy_here(path: &str, code: &str) -> Option<&'static str> {
    match (code, path.split('/').nth(2)?) {
        ("not-found", "functions" | "queues") => Some("`millrace function list` shows what is deployed"),
        ("not-found", "calls") => {
            Some("check the id; `millrace queue peek` and `millrace dlq list` show calls")
        }
        ("not-found", _) => Some("`millrace dlq list` shows the dead letters"),
        _ => None,
    }
}

/// The exit code for the API's word.
fn exit_of(code: &str) -> Exit {
    match code {
        "not-found" => Exit::NotFound,
        "bad-request" | "too-large" => Exit::BadInput,
        "conflict" | "full" | "closed" | "draining" | "disk-failed" => Exit::Refused,
        "unavailable" => Exit::Connect,
        _ => Exit::Internal,
    }
}

/// Namespace and name of `NAMESPACE/NAME`, or of a name in `default`.
///
/// # Errors
/// If it cannot be the name of a function.
pub fn function_name(text: &str) -> Result<(String, String), Failure> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let is_plain = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if is_plain(namespace) && is_plain(name) {
        return Ok((namespace.to_owned(), name.to_owned()));
    }
    let what = format!("`{text}` is not the name of a function");
    Err(Failure::new(
        Exit::Usage,
        what,
        "FUNCTION",
        "write NAME or NAMESPACE/NAME: letters, digits, `-`, `_`, `.`",
    ))
}

/// A value inside a query.
pub fn query(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// An API that gives one answer.
    fn once(answer: &'static str) -> Admin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = Admin::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        });
        admin
    }

    #[test]
    fn errors_of_the_api_keep_message_and_remedy() {
        let body = r#"{"code":"conflict","message":"function x has calls","remedy":"force it"}"#;
        let answer = format!("HTTP/1.1 409 Conflict\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let failure = once(answer.leak()).get::<Touched>("/v1/functions/default/x").err().unwrap();
        assert_eq!((failure.exit, failure.what.as_str()), (Exit::Refused, "function x has calls"));
        assert!(failure.place.ends_with("/v1/functions/default/x") && failure.remedy == "force it");
    }

    #[test]
    fn what_is_not_there_is_told_in_words_of_the_command_line() {
        let body = r#"{"code":"not-found","message":"no function x","remedy":"see GET /v1/functions"}"#;
        let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let failure = once(answer.leak()).get::<Touched>("/v1/functions/default/x").err().unwrap();
        assert!(
            failure.exit == Exit::NotFound && failure.remedy.contains("millrace function list"),
            "{failure}"
        );
    }

    #[test]
    fn something_else_than_the_api_is_told() {
        let other = "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nnope!";
        let failure = once(other).get::<Touched>("/v1/status").err().unwrap();
        assert!(failure.exit == Exit::Connect && failure.remedy.contains("not the admin API"), "{failure}");
        let failure = once("MLRC\x01\x01").get::<Touched>("/v1/status").err().unwrap();
        assert_eq!(failure.exit, Exit::Connect, "{failure}");
    }

    #[test]
    fn nobody_there_is_told_with_the_remedy() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let admin = Admin::new(&format!("http://127.0.0.1:{port}")).unwrap();
        let failure = admin.get::<Touched>("/v1/status").err().unwrap();
        assert!(failure.exit == Exit::Connect && failure.remedy.contains("millrace up"), "{failure}");
    }

    #[test]
    fn names_and_bases_are_checked() {
        assert_eq!(function_name("a").unwrap(), ("default".into(), "a".into()));
        assert_eq!(function_name("n/a.b-c_d").unwrap(), ("n".into(), "a.b-c_d".into()));
        for wrong in ["", "/a", "a/", "a/b/c", "a b", ".a", "ä"] {
            assert_eq!(function_name(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
        for wrong in ["", "127.0.0.1:7411", "https://x", "http://", "http://x/v1"] {
            assert!(Admin::new(wrong).is_err(), "{wrong}");
        }
        assert_eq!(query("default/a b"), "default%2Fa%20b");
    }
}
