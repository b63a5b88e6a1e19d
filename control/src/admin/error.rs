//! Errors as every route gives them: `{code, message, remedy}` with the proper status.

use crate::admin::catalog_file::CatalogError;
use crate::admin::link::LinkDown;
use crate::artefacts::UploadError;
use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use call::admin::Answer;
use call::{SpecError, VerdictCode};
use serde::Serialize;

/// What a client gets instead of an answer.
#[derive(Debug, Serialize)]
pub struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    #[serde(skip)]
    retry_after_s: Option<u32>,
    /// One word, for programs.
    code: String,
    /// What is wrong and where.
    message: String,
    /// What to do.
    remedy: String,
}

/// The result of a route.
pub type Reply<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>, remedy: &str) -> ApiError {
        ApiError {
            status,
            retry_after_s: None,
            code: code.into(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    pub fn not_found(message: impl Into<String>, remedy: &str) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not-found", message, remedy)
    }

    pub fn unprocessable(message: impl Into<String>, remedy: &str) -> ApiError {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", message, remedy)
    }

    /// As HTTP has it.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong and where.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same, in other words.
    pub fn saying(mut self, message: String) -> ApiError {
        self.message = message;
        self
    }

    pub fn retry_after(mut self, ms: u32) -> ApiError {
        self.retry_after_s = Some(ms.div_ceil(1000).max(1));
        self
    }

    /// A submit that was not taken.
    pub fn refused(code: VerdictCode, retry_after_ms: u32) -> ApiError {
        let error = |status, word| ApiError::new(status, word, code.message(), "");
        match code {
            VerdictCode::Full => ApiError {
                remedy: "retry after the time given".into(),
                ..error(StatusCode::TOO_MANY_REQUESTS, "full")
            }
            .retry_after(retry_after_ms),
            VerdictCode::Backlog => ApiError {
                remedy: "retry after the time given, or raise the bound of the function or tenant".into(),
                ..error(StatusCode::TOO_MANY_REQUESTS, "backlog")
            }
            .retry_after(retry_after_ms),
            VerdictCode::Closed => ApiError {
                remedy: "wait until an operator resumes the queue".into(),
                ..error(StatusCode::CONFLICT, "closed")
            },
            VerdictCode::NoBlob => ApiError {
                remedy: "store it with PUT /v1/blobs, then submit again".into(),
                ..error(StatusCode::CONFLICT, "no-blob")
            },
            VerdictCode::UnknownFunction => {
                ApiError { remedy: "deploy it first".into(), ..error(StatusCode::NOT_FOUND, "not-found") }
            }
            VerdictCode::BadTime => ApiError {
                remedy: "change `at` or `deadline`".into(),
                ..error(StatusCode::UNPROCESSABLE_ENTITY, "bad-request")
            },
            VerdictCode::Malformed => ApiError {
                remedy: "store larger arguments with PUT /v1/blobs and name the blob".into(),
                ..error(StatusCode::PAYLOAD_TOO_LARGE, "too-large")
            },
            VerdictCode::Draining | VerdictCode::DiskFailed => ApiError {
                remedy: "retry after the time given, under the same call id".into(),
                ..error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    if code == VerdictCode::Draining { "draining" } else { "disk-failed" },
                )
            }
            .retry_after(retry_after_ms.max(1000)),
            VerdictCode::Accepted | VerdictCode::Duplicate => unreachable!("not a refusal"),
        }
    }

    /// What an [`Answer::Error`] is in HTTP.
    pub fn from_answer(code: String, message: String) -> ApiError {
        let (status, remedy) = match code.as_str() {
            "not-found" => (
                StatusCode::NOT_FOUND,
                "check the name or id; GET /v1/functions, /v1/queues and /v1/dead-letters list what there is",
            ),
            "conflict" => (StatusCode::CONFLICT, "resolve the conflict, or force where the route allows it"),
            "bad-request" => (StatusCode::UNPROCESSABLE_ENTITY, "correct the named field"),
            "full" => (StatusCode::TOO_MANY_REQUESTS, "retry after the time given"),
            "draining" | "unavailable" => (StatusCode::SERVICE_UNAVAILABLE, "retry after the time given"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "see the node's output"),
        };
        let error = ApiError::new(status, &code, message, remedy);
        let later = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if later { error.retry_after(1000) } else { error }
    }

    /// An answer of a kind the ask does not have.
    pub fn unexpected(answer: Answer) -> ApiError {
        match answer {
            Answer::Error { code, message } => ApiError::from_answer(code, message),
            other => ApiError::from_answer("internal".into(), format!("unexpected answer {other:?}")),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after_s;
        let mut response = (self.status, Json(self)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<LinkDown> for ApiError {
    fn from(_: LinkDown) -> ApiError {
        let (code, message) = ("unavailable", "the node's ring is not answering");
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            code,
            message,
            "retry; a submit under the same call id",
        )
        .retry_after(1000)
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> ApiError {
        let message = error.to_string();
        match error {
            UploadError::Name => ApiError::unprocessable(message, "name it by `sha256sum FILE`"),
            UploadError::TooLarge => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                message,
                "strip debug sections (`wasm-strip`, `-C strip=symbols`); leave tests and caches out of a bundle",
            ),
            UploadError::Hash(_) => {
                ApiError::unprocessable(message, "send it again: it was damaged or misnamed")
            }
            UploadError::Io(_) => ApiError::from_answer("internal".into(), message),
        }
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> ApiError {
        match error {
            CatalogError::Collision(other) => ApiError::new(
                StatusCode::CONFLICT,
                "conflict",
                format!("the name has the same 64-bit id as the deployed function {other}"),
                "choose another name",
            ),
            CatalogError::Full(max) => ApiError::from_answer(
                "full".into(),
                format!("the catalog holds {max} functions, as many as it may"),
            ),
            CatalogError::Io(error) => ApiError::from_answer(
                "internal".into(),
                format!("catalog.json could not be written: {error}"),
            ),
        }
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> ApiError {
        ApiError::unprocessable(error.to_string(), "correct the named key")
    }
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> ApiError {
        rejected(error.status(), error.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> ApiError {
        rejected(error.status(), error.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(error: BytesRejection) -> ApiError {
        rejected(error.status(), error.body_text())
    }
}

fn rejected(status: StatusCode, text: String) -> ApiError {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(status, "too-large", text, "send less; see maxLength in GET /openapi.json")
        }
        _ => ApiError::new(status, "bad-request", text, "see GET /openapi.json for what this route takes"),
    }
}
