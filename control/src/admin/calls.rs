//! Routes that submit a call and ask for one.

use crate::accounts::book::wall;
use crate::admin::blobs;
use crate::admin::error::{ApiError, Reply};
use crate::admin::http::{Admin, Shared};
use crate::admin::link::Judged;
use crate::admin::passing;
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use call::admin::{Answer, Ask, CallState};
use call::blob::Reference;
use call::body::{Submit, append_submit};
use call::frame::FrameBuf;
use call::{Arguments, CallId, CallKey, FunctionId, Label, VerdictCode, WallTime};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::time::UNIX_EPOCH;

/// A client may wait this long for an outcome in one request: longer than most proxies would let it.
const WAIT_MS_MAX: u64 = 10 * 60 * 1000;

/// Query of a submit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The call's id, so that the same request may be sent twice; made here if absent.
    call: Option<String>,
    /// Not before.
    at: Option<String>,
    /// To be done by.
    deadline: Option<String>,
    /// 1 to 255.
    criticality: Option<u8>,
    /// It must begin by its deadline, or ends as `expired`.
    expires: Option<bool>,
    /// Whom it is about: at most `concurrency_per_key` calls of one key run at once.
    key: Option<String>,
    /// Zone of the arguments, 0 to 7: they flow to functions of the same or a higher zone only.
    #[serde(default)]
    zone: u8,
    /// Compartments of the arguments, 1 to 5, with commas between them.
    #[serde(default)]
    compartments: String,
    /// Answer with the outcome if it comes within so many ms.
    wait: Option<u64>,
}

impl Terms {
    fn key(&self) -> Reply<CallKey> {
        match self.key.as_deref() {
            None => Ok(CallKey::NONE),
            Some("") => Err(bad("key", "is empty; leave it out for a call without one".into())),
            Some(key) => Ok(CallKey::of(key)),
        }
    }

    fn label(&self) -> Reply<Label> {
        let written = self.compartments.split(',').filter(|_| !self.compartments.is_empty());
        let compartments: Option<Vec<u8>> = written.map(|number| number.parse().ok()).collect();
        let label = compartments.and_then(|compartments| Label::new(self.zone, &compartments));
        label.ok_or_else(|| {
            let message = format!("zone {}, compartments `{}`", self.zone, self.compartments);
            bad("label", format!("{message}: zones are 0 to 7, compartments 1 to 5, like 1,3"))
        })
    }
}

/// An accepted call.
#[derive(Serialize)]
struct Accepted {
    /// Its id.
    call: String,
    /// `accepted`, or `duplicate` if the queue had it already.
    verdict: &'static str,
}

/// `POST /v1/functions/{namespace}/{name}/calls`: on disk when answered.
pub async fn submit(
    State(admin): State<Shared>,
    Path((namespace, name)): Path<(String, String)>,
    terms: Result<Query<Terms>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Reply<Response> {
    let terms = terms?.0;
    let now = wall();
    let call = match &terms.call {
        Some(text) => text.parse().map_err(|e| bad("call", format!("{e}")))?,
        None => CallId::new(now.0 / 1_000_000, entropy()?),
    };
    let submit = Submit {
        call,
        function: FunctionId::of(&namespace, &name),
        start_at: time("at", terms.at.as_deref(), now)?,
        deadline: time("deadline", terms.deadline.as_deref(), now)?,
        criticality: terms.criticality.unwrap_or(0),
        key: terms.key()?,
        label: terms.label()?,
        // Whoever comes over HTTP may ask for the result later.
        want_outcome: true,
        expires: terms.expires.unwrap_or(false),
        ..Submit::default()
    };
    let submit = match idempotency_key(&headers)? {
        Some(_) if terms.call.is_some() => {
            return Err(bad("call", "an Idempotency-Key makes the id: give one of both".into()));
        }
        Some(key) => submit.keyed_by(key, now),
        None => submit,
    };
    if submit.expires && submit.deadline == WallTime(0) {
        return Err(bad("expires", "it must begin by its deadline: give `deadline`, too".into()));
    }
    // Last of all: what is wrong is said before anything is stored.
    let payload = blobs::take(&admin, body).await?;
    let (payload, blob) = payload.bytes();
    let submit = Submit { arguments: Arguments { payload, attributes: &[] }, blob, ..submit };
    let may_be_another = terms.call.is_none() && !submit.keyed;
    let (call, (verdict, retry_after_ms)) = say(&admin, submit, may_be_another).await?;
    if !verdict.is_held() {
        return Err(ApiError::refused(verdict, retry_after_ms));
    }
    if let Some(wait) = terms.wait {
        let state = ask(&admin, call, wait).await?;
        return Ok((status_of(&state), Json(state)).into_response());
    }
    let verdict = if verdict == VerdictCode::Accepted { "accepted" } else { "duplicate" };
    Ok((StatusCode::ACCEPTED, Json(Accepted { call: call.to_string(), verdict })).into_response())
}

/// Ids that are tried for a call whose arguments are a blob, where there are several shards: with 64 of them one in three
/// thousand calls finds none.
pub(super) const IDS_MAX: u32 = 512;

/// How often a blob is given to the owner of its call: maps may change meanwhile.
const PASSES_MAX: u32 = 3;

/// Submits a call. Of several shards the one that owns the call must have its blob: if the id may be another one, it is,
/// until this shard is the owner; else the owner gets the blob.
async fn say(admin: &Admin, mut submit: Submit<'_>, may_be_another: bool) -> Reply<(CallId, Judged)> {
    let (mut ids, mut passes) = (1, 0);
    loop {
        let mut frame = FrameBuf::new();
        append_submit(&mut frame, &submit).map_err(|_| ApiError::refused(VerdictCode::Malformed, 0))?;
        let judged = admin.link.submit(submit.call, frame).await?;
        if judged.0 == VerdictCode::NoBlob && may_be_another && ids < IDS_MAX {
            ids += 1;
            submit.call = CallId::new(wall().0 / 1_000_000, entropy()?);
            continue;
        }
        let blob = Reference::from_bytes(submit.arguments.payload).ok().filter(|_| submit.blob);
        match blob.filter(|_| judged.0 == VerdictCode::NoBlob && passes < PASSES_MAX) {
            None => return Ok((submit.call, judged)),
            Some(blob) => passing::to_owner(admin, submit.call, blob).await?,
        }
        passes += 1;
    }
}

/// Bytes of the longest idempotency key: what its draft of the IETF and most services take.
const KEY_BYTES_MAX: usize = 255;

/// The header `Idempotency-Key`, with or without the quotes of its draft.
fn idempotency_key(headers: &HeaderMap) -> Reply<Option<&str>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().map(|text| text.trim().trim_matches('"'));
    match text.filter(|text| !text.is_empty() && text.len() <= KEY_BYTES_MAX) {
        Some(text) => Ok(Some(text)),
        None => Err(bad("Idempotency-Key", format!("it must be plain text of 1 to {KEY_BYTES_MAX} bytes"))),
    }
}

/// Query of a look at a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// Answer when it has ended, or after so many ms.
    wait_ms: Option<u64>,
}

/// `GET /v1/calls/{id}?wait_ms=`
pub async fn show(
    State(admin): State<Shared>,
    Path(id): Path<String>,
    patience: Result<Query<Patience>, QueryRejection>,
) -> Reply<Json<CallState>> {
    let call: CallId = id.parse().map_err(|e| bad("id", format!("{e}")))?;
    Ok(Json(ask(&admin, call, patience?.wait_ms.unwrap_or(0)).await?))
}

async fn ask(admin: &Admin, call: CallId, wait_ms: u64) -> Reply<CallState> {
    let ask = Ask::Call { call: call.to_string(), wait_ms: wait_ms.min(WAIT_MS_MAX) };
    match admin.link.ask(ask).await? {
        Answer::Call(state) => Ok(state),
        other => Err(ApiError::unexpected(other)),
    }
}

/// 200 for a call that has ended, 202 for one that has not.
fn status_of(state: &CallState) -> StatusCode {
    let ended = matches!(state.state.as_str(), "done" | "dead");
    if ended { StatusCode::OK } else { StatusCode::ACCEPTED }
}

fn bad(place: &str, message: String) -> ApiError {
    ApiError::unprocessable(format!("{place}: {message}"), "correct the named parameter")
}

/// Unix nanoseconds, a time as RFC 3339 has it, or a duration from now; zero if not given.
pub fn time(place: &str, text: Option<&str>, now: WallTime) -> Reply<WallTime> {
    let Some(text) = text else { return Ok(WallTime(0)) };
    if let Ok(nanos) = text.parse() {
        return Ok(WallTime(nanos));
    }
    if let Ok(from_now) = humantime::parse_duration(text) {
        return Ok(now + from_now);
    }
    let at = humantime::parse_rfc3339_weak(text).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    at.map(|at| WallTime(call::time::nanos(at))).ok_or_else(|| {
        bad(
            place,
            format!("`{text}` is no time: give 2026-11-21T08:30:00Z, 90s from now, or Unix nanoseconds"),
        )
    })
}

/// 128 random bits of the kernel.
pub fn entropy() -> std::io::Result<u128> {
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> ApiError {
        ApiError::from_answer("internal".into(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_idempotency_key_is_text_of_some_length() {
        let key = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", text.parse().unwrap());
            idempotency_key(&headers).map(|key| key.map(str::to_owned)).map_err(drop)
        };
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        assert_eq!(
            (key("order-7"), key(" \"order-7\" ")),
            (Ok(Some("order-7".into())), Ok(Some("order-7".into())))
        );
        assert_eq!((key(""), key("\"\""), key(&"x".repeat(256))), (Err(()), Err(()), Err(())));
    }

    #[test]
    fn keys_and_labels_are_read() {
        let terms = |json: &str| serde_json::from_str::<Terms>(json).unwrap();
        let said = terms(r#"{"key": "user-7", "zone": 2, "compartments": "1,3"}"#);
        assert_eq!(said.key().unwrap(), CallKey::of("user-7"));
        assert_eq!(said.label().unwrap(), Label::new(2, &[1, 3]).unwrap());
        let none = terms("{}");
        assert_eq!((none.key().unwrap(), none.label().unwrap()), (CallKey::NONE, Label::LOWEST));
        assert!(terms(r#"{"key": ""}"#).key().is_err());
        for wrong in [r#"{"zone": 8}"#, r#"{"compartments": "6"}"#, r#"{"compartments": "1,"}"#] {
            let error = serde_json::to_value(terms(wrong).label().unwrap_err()).unwrap();
            assert!(error["message"].as_str().unwrap().starts_with("label: zone"), "{error}");
        }
    }

    #[test]
    fn times_are_read_in_three_ways() {
        let now = WallTime(1_000);
        assert_eq!(time("at", None, now).unwrap(), WallTime(0));
        assert_eq!(
            time("at", Some("1700000000000000000"), now).unwrap(),
            WallTime(1_700_000_000_000_000_000)
        );
        assert_eq!(time("at", Some("90s"), now).unwrap(), now + Duration::from_secs(90));
        assert_eq!(time("at", Some("1970-01-01T00:00:05Z"), now).unwrap(), WallTime(5_000_000_000));
        let error = serde_json::to_value(time("deadline", Some("soon"), now).unwrap_err()).unwrap();
        assert!(error["message"].as_str().unwrap().starts_with("deadline: `soon` is no time"), "{error}");
    }
}
