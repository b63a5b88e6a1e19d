//! Answers in the shape of the Lambda API: payload and headers of an invocation, errors as SDKs know them.

use super::name::Named;
use crate::admin::error::ApiError;
use crate::admin::link::Outcome;
use axum::Json;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use call::{CallId, Status};
use serde_json::json;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Bytes of the log that `X-Amz-Log-Type: Tail` gives, as Lambda does.
const LOG_TAIL_BYTES: usize = 4 << 10;

/// An error as botocore and its sisters read it: the type in a header, the message in JSON.
#[derive(Debug)]
pub struct AwsError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    retry_after_s: Option<u32>,
}

impl AwsError {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> AwsError {
        AwsError { status, kind, message: message.into(), retry_after_s: None }
    }

    pub fn not_found(named: &Named) -> AwsError {
        let message =
            format!("Function not found: {}; `millrace function list` shows what is deployed", named.text);
        AwsError::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
    }

    pub fn gone() -> AwsError {
        AwsError::new(
            StatusCode::NOT_FOUND,
            "ResourceNotFoundException",
            "Function not found: it was deleted",
        )
    }

    pub fn parameter(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::BAD_REQUEST, "InvalidParameterValueException", message)
    }

    pub fn content(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::BAD_REQUEST, "InvalidRequestContentException", message)
    }

    pub fn too_large(most: usize) -> AwsError {
        let message = format!("Request must be smaller than {most} bytes for the Invoke operation");
        AwsError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", message)
    }

    pub fn throttled(retry_after_ms: u32) -> AwsError {
        let error =
            AwsError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", "Rate Exceeded.");
        AwsError { retry_after_s: Some(retry_after_ms.div_ceil(1000).max(1)), ..error }
    }

    pub fn service(message: impl Into<String>) -> AwsError {
        AwsError::new(StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", message)
    }

    pub fn down() -> AwsError {
        AwsError::service("the node's ring is not answering; whether the call was accepted is not known")
    }

    pub fn lost(call: CallId) -> AwsError {
        AwsError::service(format!("the node is ending; call {call} is on disk and runs after its start"))
    }

    pub fn late(call: CallId) -> AwsError {
        AwsError::service(format!(
            "call {call} has not ended in 15 minutes; it goes on: GET /v1/calls/{call}"
        ))
    }
}

impl From<ApiError> for AwsError {
    fn from(error: ApiError) -> AwsError {
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => AwsError::too_large(super::PAYLOAD_BYTES_MAX),
            StatusCode::TOO_MANY_REQUESTS => AwsError::throttled(1000),
            _ => AwsError::service(error.message()),
        }
    }
}

impl IntoResponse for AwsError {
    fn into_response(self) -> Response {
        let side = if self.status.is_server_error() { "Service" } else { "User" };
        let body = json!({ "Type": side, "message": self.message, "Message": self.message });
        let mut response = (self.status, [(ERROR_TYPE, self.kind)], Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// An `Event` was accepted: on disk.
pub fn accepted(call: CallId) -> Response {
    (StatusCode::ACCEPTED, [(REQUEST_ID, call.to_string())]).into_response()
}

/// An invocation that was waited for.
pub struct Invoked {
    pub call: CallId,
    pub version: String,
    /// What the function may have.
    pub memory_bytes: u64,
    pub outcome: Outcome,
    /// Its output, if that is a blob.
    pub stored: Option<Body>,
    pub wants_log: bool,
}

impl Invoked {
    /// The function's payload, or its error's, with 200: it ran.
    ///
    /// # Errors
    /// If it did not run.
    pub fn respond(mut self) -> Result<Response, AwsError> {
        if matches!(self.outcome.status, Status::Unavailable | Status::WorkerLost) {
            let why = text(&self.outcome.stderr);
            let why = why.lines().next().unwrap_or_default();
            return Err(AwsError::service(format!("{}: {why}", self.outcome.status.name())));
        }
        let mut headers = vec![(REQUEST_ID, self.call.to_string()), (EXECUTED_VERSION, self.version.clone())];
        if self.wants_log {
            headers.push((LOG_RESULT, STANDARD.encode(self.log_tail())));
        }
        let payload = if self.outcome.status.is_ok() {
            self.take_output()
        } else {
            // As Lambda's own runtimes have it, for what a function reports and for what ends it.
            headers.push((FUNCTION_ERROR, "Unhandled".into()));
            self.error_payload()
        };
        let mut response = ([(header::CONTENT_TYPE, "application/json")], payload).into_response();
        for (name, value) in headers {
            let value = HeaderValue::try_from(value).expect("ids, numbers and base64");
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }

    /// What the function posted to `/error`; else what there is to say, in the same form.
    fn error_payload(&mut self) -> Body {
        let has_output = self.stored.is_some() || !self.outcome.output.is_empty();
        if matches!(self.outcome.status, Status::Error | Status::Init) && has_output {
            return self.take_output();
        }
        Body::from(self.error_made())
    }

    /// What the function returned, wherever it is.
    fn take_output(&mut self) -> Body {
        self.stored.take().unwrap_or_else(|| std::mem::take(&mut self.outcome.output).into())
    }

    fn error_made(&self) -> Vec<u8> {
        let outcome = &self.outcome;
        let wrote = text(&outcome.stderr);
        let mut lines = wrote.lines().filter(|line| !line.trim().is_empty());
        // A fault begins with its name; of a process, what led to its end is what it wrote last.
        let wrote = match outcome.status {
            Status::Exit | Status::Killed | Status::Syscall | Status::BadReply => lines.next_back(),
            _ => lines.next(),
        };
        let wrote = wrote.unwrap_or_default();
        let (usage, call) = (&outcome.usage, self.call);
        let because = |said: String| if wrote.is_empty() { said } else { format!("{said}: {wrote}") };
        let (kind, message) = match outcome.status {
            Status::Timeout => {
                ("Sandbox.Timedout", format!("Task timed out after {:.2} seconds", usage.run_ns as f64 / 1e9))
            }
            Status::Exit => ("Runtime.ExitError", because(format!("exit status {}", usage.exit_code))),
            Status::Killed if usage.exit_code == 0 => ("Runtime.ExitError", because("ended".into())),
            Status::Killed => ("Runtime.ExitError", because(format!("ended by signal {}", usage.exit_code))),
            Status::Memory => {
                ("Runtime.OutOfMemory", because("the function needs more memory than it may have".into()))
            }
            Status::BadReply => {
                ("Function.ResponseSizeTooLarge", because("the reply is too large or malformed".into()))
            }
            Status::Init => ("Runtime.InitError", because("the function could not be initialised".into())),
            Status::Error => ("Runtime.Unknown", because("the function reported an error".into())),
            other => ("Runtime.Fault", because(other.name().into())),
        };
        let message = format!("RequestId: {call} Error: {message}");
        json!({ "errorType": kind, "errorMessage": message }).to_string().into_bytes()
    }

    /// What the function wrote between the lines that Lambda puts around it, from the end.
    fn log_tail(&self) -> Vec<u8> {
        let (call, usage) = (self.call, &self.outcome.usage);
        let mut log = format!("START RequestId: {call} Version: {}\n", self.version).into_bytes();
        log.extend_from_slice(&self.outcome.stderr);
        if !log.ends_with(b"\n") {
            log.push(b'\n');
        }
        let ms = usage.run_ns as f64 / 1e6;
        let mb = |bytes: u64| bytes.div_ceil(1 << 20);
        let mut report = format!(
            "END RequestId: {call}\nREPORT RequestId: {call}\tDuration: {ms:.2} ms\tBilled Duration: {:.0} ms\t\
             Memory Size: {} MB\tMax Memory Used: {} MB",
            ms.ceil(),
            mb(self.memory_bytes),
            mb(usage.memory_bytes)
        );
        if usage.cold {
            report += &format!("\tInit Duration: {:.2} ms", usage.init_ns as f64 / 1e6);
        }
        log.extend_from_slice(report.as_bytes());
        log.push(b'\n');
        let from = log.len().saturating_sub(LOG_TAIL_BYTES);
        log.split_off(from)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::Usage;

    fn invoked(status: Status, output: &[u8], stderr: &[u8]) -> Invoked {
        let usage = Usage { run_ns: 3_000_000_000, exit_code: 9, memory_bytes: 1, ..Usage::default() };
        let (output, stderr) = (output.to_vec(), stderr.to_vec());
        let outcome = Outcome { status, usage, output, stored: None, stderr };
        Invoked {
            call: CallId(7),
            version: "$LATEST".into(),
            memory_bytes: 64 << 20,
            outcome,
            stored: None,
            wants_log: true,
        }
    }

    #[test]
    fn errors_have_the_form_that_sdks_expect() {
        let payload = |status, output: &[u8], stderr: &[u8]| -> serde_json::Value {
            let body = axum::body::to_bytes(invoked(status, output, stderr).error_payload(), 1 << 20);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            serde_json::from_slice(&runtime.block_on(body).unwrap()).unwrap()
        };
        let posted = br#"{"errorMessage":"no","errorType":"ValueError","stackTrace":[]}"#;
        assert_eq!(payload(Status::Error, posted, b"")["errorType"], "ValueError");
        let timed_out = payload(Status::Timeout, b"half an answer", b"");
        assert_eq!(timed_out["errorType"], "Sandbox.Timedout");
        assert!(timed_out["errorMessage"].as_str().unwrap().ends_with("Task timed out after 3.00 seconds"));
        assert!(
            payload(Status::Exit, b"", b"hi\n\noh no\n")["errorMessage"]
                .as_str()
                .unwrap()
                .contains("9: oh no")
        );
        for status in Status::ALL {
            let payload = payload(status, b"", b"\xff");
            assert!(payload["errorType"].is_string() && payload["errorMessage"].is_string(), "{status:?}");
        }
    }

    #[test]
    fn the_log_is_cut_at_its_beginning() {
        let log = invoked(Status::Ok, b"", &[b'x'; 10_000]).log_tail();
        assert_eq!(log.len(), LOG_TAIL_BYTES);
        assert!(text(&log).ends_with("Max Memory Used: 1 MB\n") && text(&log).starts_with("xxx"));
        let log = text(&invoked(Status::Ok, b"", b"hello").log_tail());
        assert!(log.starts_with("START RequestId: ") && log.contains("\nhello\nEND "), "{log}");
    }
}
