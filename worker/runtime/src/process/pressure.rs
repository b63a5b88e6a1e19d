//! Back-pressure by the Runtime API: an error of the type [`ERROR_TYPE`], named in the request's head or, as clients
//! for Python have it, in its body only.

use call::Status;
use call::limits::NAME_BYTES_MAX;
use call::outcome::again;
use call::outcome::back_pressure::{ERROR_TYPE, LINE};
use serde::Deserialize;

/// A longer report is not looked into: this one has a name and a message.
const REPORT_BYTES_MAX: usize = 64 << 10;

/// What AWS's clients report of an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    #[serde(default, borrow)]
    error_type: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    error_message: std::borrow::Cow<'a, str>,
}

/// Whether the error of this kind, reported with this body, is a temporary failure: back-pressure, with the line that
/// names the service, empty if it names none; or a call that is given back, with the line that says for how long.
pub(super) fn of(kind: &str, body: &[u8]) -> Option<(Status, String)> {
    let report: Option<Report<'_>> =
        (body.len() <= REPORT_BYTES_MAX).then(|| serde_json::from_slice(body).ok()).flatten();
    let is =
        |wanted: &str| kind == wanted || report.as_ref().is_some_and(|report| report.error_type == wanted);
    let (is_again, is_pressure) = (is(again::ERROR_TYPE), is(ERROR_TYPE));
    if !is_again && !is_pressure {
        return None;
    }
    let message = report.map_or(String::new(), |report| report.error_message.trim().to_owned());
    let is_name = !message.is_empty() && message.len() <= NAME_BYTES_MAX && !message.contains(['\n', ' ']);
    if is_again {
        // One that says no time waits as its function's retry rules have it.
        return Some((Status::Again, format!("{}{}", again::LINE, message.lines().next().unwrap_or(""))));
    }
    Some((Status::BackPressure, if is_name { format!("{LINE}{message}") } else { String::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_or_body_say_that_it_is_back_pressure() {
        let body = |kind, message| format!(r#"{{"errorType":"{kind}","errorMessage":"{message}","x":[1]}}"#);
        let pressed = |line: &str| Some((Status::BackPressure, line.to_owned()));
        assert_eq!(of(ERROR_TYPE, b""), pressed(""));
        assert_eq!(of(ERROR_TYPE, body("Unhandled", "tao").as_bytes()), pressed("back-pressure: tao"));
        assert_eq!(of("", body(ERROR_TYPE, "tao").as_bytes()), pressed("back-pressure: tao"));
        assert_eq!(of("", body(ERROR_TYPE, "it is slow").as_bytes()), pressed(""), "no name");
        let again = of("", body(again::ERROR_TYPE, "1m 30s").as_bytes()).unwrap();
        assert_eq!(again, (Status::Again, "again-in: 1m 30s".to_owned()));
        assert_eq!(again::delay(again.1.as_bytes()).unwrap().as_secs(), 90);
        assert_eq!(of(again::ERROR_TYPE, b"").unwrap().0, Status::Again);
        assert_eq!(of("Other", body("Other", ERROR_TYPE).as_bytes()), None);
        let long = body(ERROR_TYPE, &"x".repeat(REPORT_BYTES_MAX));
        assert_eq!((of("", long.as_bytes()), of("", b"\xff{")), (None, None));
    }
}
