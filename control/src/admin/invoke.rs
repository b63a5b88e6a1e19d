//! The Invoke path of the AWS Lambda API, so that `boto3` and `aws lambda invoke --endpoint-url` work as they are.
//!
//! An invocation is a call like any other: on disk before it runs. Whoever waits for it is no ask of the node: the
//! outcome frame comes as to any client, byte for byte. An execution that failed is not tried again
//! ([`call::frame::flag::ONCE`]), as the caller hears of it at once; `Event` invocations follow the function's own
//! rules. Signatures are not checked: see the README.

mod answer;
mod name;

use crate::accounts::book::wall;
use crate::admin::blobs;
use crate::admin::calls::{IDS_MAX, entropy};
use crate::admin::http::{Admin, Shared};
use crate::admin::link::Waiting;
use crate::admin::results;
use answer::{AwsError, Invoked};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use call::body::{Submit, append_submit, attribute};
use call::frame::{Frame, FrameBuf, Header, append, flag};
use call::limits::{ARGUMENTS_BYTES_MAX, ATTRIBUTE_BYTES_MAX};
use call::{Arguments, Attribute, CallId, FunctionId, VerdictCode, WallTime};
use name::{Named, Qualifier};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::time::Duration;

/// Where SDKs post to.
pub const PATH: &str = "/2015-03-31/functions/{function}/invocations";
/// Where SDKs post to for a streamed response.
pub const STREAMING_PATH: &str = "/2021-11-15/functions/{function}/response-streaming-invocations";

/// Bytes of the largest payload: Lambda's own bound. Above the threshold it becomes a blob.
pub const PAYLOAD_BYTES_MAX: usize = 6 << 20;

/// The longest that a function of Lambda runs; nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The query.
#[derive(Deserialize)]
pub struct Which {
    #[serde(rename = "Qualifier")]
    qualifier: Option<String>,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    RequestResponse,
    Event,
    DryRun,
}

/// `POST /2015-03-31/functions/{function}/invocations?Qualifier=`
pub async fn invoke(
    State(admin): State<Shared>,
    Path(function): Path<String>,
    Query(which): Query<Which>,
    headers: HeaderMap,
    payload: Result<Bytes, BytesRejection>,
) -> Response {
    let answered = invoked(&admin, &function, which.qualifier.as_deref(), &headers, payload).await;
    answered.unwrap_or_else(IntoResponse::into_response)
}

/// `POST /2021-11-15/functions/{function}/response-streaming-invocations`: not there yet.
pub async fn streaming() -> AwsError {
    AwsError::new(
        StatusCode::NOT_IMPLEMENTED,
        "UnsupportedOperationException",
        "responses are not streamed here; use Invoke (boto3: client.invoke)",
    )
}

async fn invoked(
    admin: &Admin,
    function: &str,
    qualifier: Option<&str>,
    headers: &HeaderMap,
    payload: Result<Bytes, BytesRejection>,
) -> Result<Response, AwsError> {
    let named = Named::parse(function, qualifier)?;
    let kind = kind(headers)?;
    let found = find(admin, &named).await?;
    let payload = checked(payload)?;
    if kind == Kind::DryRun {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let context = client_context(headers)?;
    let trace = headers.get("x-amzn-trace-id").and_then(|value| value.to_str().ok());
    let trace = trace.filter(|text| text.len() <= ATTRIBUTE_BYTES_MAX);
    let known = [(attribute::CLIENT_CONTEXT, context.as_deref()), (attribute::TRACE_ID, trace)];
    let attributes: Vec<Attribute<'_>> =
        known.iter().filter_map(|(key, value)| Some(Attribute { key, value: (*value)? })).collect();
    let payload = blobs::take_bytes(admin, payload).await.map_err(AwsError::from)?;
    let (payload, blob) = payload.bytes();
    let arguments = Arguments { payload, attributes: &attributes };
    let (call, waiting) = say(admin, found.id, kind, blob, arguments).await?;
    let Some(mut waiting) = waiting else { return Ok(answer::accepted(call)) };
    let outcome = match tokio::time::timeout(PATIENCE, waiting.outcome()).await {
        Ok(outcome) => outcome.map_err(|_| AwsError::lost(call))?,
        Err(_) => return Err(AwsError::late(call)),
    };
    let wants_log = headers.get("x-amz-log-type").is_some_and(|kind| kind == "Tail");
    let stored = match outcome.stored {
        None => None,
        Some(blob) => Some(results::body(admin, call, blob).await.map_err(AwsError::from)?),
    };
    let (version, memory_bytes) = (named.executed(), found.memory_bytes);
    Invoked { call, version, memory_bytes, outcome, stored, wants_log }.respond()
}

/// Submits the call, and gives what waits for its outcome, unless it is an event. Its id is one of this shard's, if the
/// shard has a blob for it.
async fn say(
    admin: &Admin,
    function: FunctionId,
    kind: Kind,
    blob: bool,
    arguments: Arguments<'_>,
) -> Result<(CallId, Option<Waiting>), AwsError> {
    let mut tries = 0;
    loop {
        let random = entropy().map_err(|error| AwsError::service(error.to_string()))?;
        let call = CallId::new(wall().0 / 1_000_000, random);
        let frame = encode(call, function, kind, blob, arguments)?;
        let ((verdict, retry_after_ms), waiting) = if kind == Kind::Event {
            (admin.link.submit(call, frame).await.map_err(|_| AwsError::down())?, None)
        } else {
            let (judged, waiting) = admin.link.invoke(call, frame).await.map_err(|_| AwsError::down())?;
            (judged, Some(waiting))
        };
        tries += 1;
        if verdict != VerdictCode::NoBlob || tries == IDS_MAX {
            return taken(verdict, retry_after_ms).map(|()| (call, waiting));
        }
    }
}

fn kind(headers: &HeaderMap) -> Result<Kind, AwsError> {
    match headers.get("x-amz-invocation-type").map(|value| value.as_bytes()) {
        None | Some(b"RequestResponse") => Ok(Kind::RequestResponse),
        Some(b"Event") => Ok(Kind::Event),
        Some(b"DryRun") => Ok(Kind::DryRun),
        Some(_) => {
            Err(AwsError::parameter("X-Amz-Invocation-Type: must be RequestResponse, Event or DryRun"))
        }
    }
}

/// A function that is deployed.
struct Found {
    id: FunctionId,
    memory_bytes: u64,
}

async fn find(admin: &Admin, named: &Named) -> Result<Found, AwsError> {
    let catalog = admin.catalog.lock().await;
    let spec = named.places().find_map(|(namespace, name)| catalog.get(namespace, name));
    let spec = spec.filter(|spec| match named.qualifier {
        Qualifier::Latest => true,
        Qualifier::Version(version) => spec.version == version,
        Qualifier::Other => false,
    });
    let spec = spec.ok_or_else(|| AwsError::not_found(named))?;
    Ok(Found { id: spec.id(), memory_bytes: spec.memory_bytes })
}

/// The payload: JSON, as Lambda has it; an empty one is an empty object.
fn checked(payload: Result<Bytes, BytesRejection>) -> Result<Bytes, AwsError> {
    let payload = payload.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => AwsError::too_large(PAYLOAD_BYTES_MAX),
        _ => AwsError::content(error.body_text()),
    })?;
    if payload.trim_ascii().is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    match serde_json::from_slice::<IgnoredAny>(&payload) {
        Ok(_) => Ok(payload),
        Err(error) => Err(AwsError::content(format!("Could not parse request body into json: {error}"))),
    }
}

/// The client context as JSON: base64 in the header.
fn client_context(headers: &HeaderMap) -> Result<Option<String>, AwsError> {
    let Some(header) = headers.get("x-amz-client-context") else { return Ok(None) };
    let wrong = |why: String| AwsError::parameter(format!("X-Amz-Client-Context: {why}"));
    let json =
        STANDARD.decode(header.as_bytes()).map_err(|error| wrong(format!("is not base64: {error}")))?;
    let json = String::from_utf8(json).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(&json).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    if json.len() > ATTRIBUTE_BYTES_MAX {
        return Err(wrong(format!("has {} bytes, at most {ATTRIBUTE_BYTES_MAX} allowed", json.len())));
    }
    Ok(Some(json))
}

fn encode(
    call: CallId,
    function: FunctionId,
    kind: Kind,
    blob: bool,
    arguments: Arguments<'_>,
) -> Result<FrameBuf, AwsError> {
    let want_outcome = kind == Kind::RequestResponse;
    let (start_at, deadline) = (WallTime(0), WallTime(0));
    let submit = Submit {
        call,
        function,
        start_at,
        deadline,
        criticality: 0,
        want_outcome,
        blob,
        arguments,
        ..Submit::default()
    };
    let mut frame = FrameBuf::new();
    append_submit(&mut frame, &submit).map_err(|_| AwsError::too_large(ARGUMENTS_BYTES_MAX))?;
    if !want_outcome {
        return Ok(frame);
    }
    let (plain, _) = Frame::parse(&frame).expect("just encoded");
    let header = Header { flags: plain.flags() | flag::ONCE, ..plain.header() };
    let mut once = FrameBuf::new();
    append(&mut once, &header, plain.body());
    Ok(once)
}

/// What a refusal is in Lambda's words.
fn taken(verdict: VerdictCode, retry_after_ms: u32) -> Result<(), AwsError> {
    match verdict {
        VerdictCode::Accepted | VerdictCode::Duplicate => Ok(()),
        VerdictCode::Full | VerdictCode::Backlog => Err(AwsError::throttled(retry_after_ms)),
        // Deleted between the look into the catalog and the submit.
        VerdictCode::UnknownFunction => Err(AwsError::gone()),
        VerdictCode::Malformed => Err(AwsError::too_large(ARGUMENTS_BYTES_MAX)),
        VerdictCode::BadTime
        | VerdictCode::Draining
        | VerdictCode::Closed
        | VerdictCode::NoBlob
        | VerdictCode::DiskFailed => Err(AwsError::service(verdict.message())),
    }
}
