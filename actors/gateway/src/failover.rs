//! Decides when a request goes on to its route's next target, in which order targets are asked, and for how
//! long a target that failed is avoided.
//!
//! A request goes on only if no provider can have served it: nothing was sent, or the provider itself
//! answered that it didn't serve (429, 5xx) before a byte of an answer went to the agent. A provider that
//! fell silent, or broke off without an answer, may have served the request and will charge for it, so the
//! request is never sent to another. Nothing is sent from here.

use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

use crate::{
    rest::{MAX_REST, REST},
    routes::Target,
};

/// How long the text of an error answer may take if another target is asked. The text is kept in case no
/// target has a better answer.
pub const TEXT_WITHIN: Duration = Duration::from_secs(2);

/// The targets in the order in which they are asked: resting targets after the others, otherwise in the order
/// of the file.
pub(crate) fn order<'a>(targets: &[&'a Target], now: Instant) -> Vec<&'a Target> {
    let (resting, ready): (Vec<&Target>, Vec<&Target>) = targets.iter().copied().partition(|t| t.rests(now));
    ready.into_iter().chain(resting).collect()
}

/// Whether an answer says that the request wasn't served, so that another target may be asked. With
/// `x-should-retry: false` the provider says that retrying is of no use; `true` on another status means a
/// retry at the same provider, and is ignored.
pub(crate) fn is_passed_over(status: StatusCode, headers: &HeaderMap) -> bool {
    let hopeless = headers.get("x-should-retry").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"false"));
    (status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()) && !hopeless
}

/// For how long such a target is avoided: as long as it asks for, at most [`MAX_REST`]. A plain 500 mostly
/// has to do with one request; an agent that can provoke one must not keep the target from all others.
pub(crate) fn rest(status: StatusCode, headers: &HeaderMap) -> Duration {
    asked_for(headers).map(|asked| asked.min(MAX_REST)).unwrap_or(match status.as_u16() {
        429 | 502 | 503 | 504 | 529 => REST,
        _ => Duration::ZERO,
    })
}

/// The time that a provider asks for: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110
/// section 10.2.3).
fn asked_for(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| *n >= 0.0);
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Some(bounded(ms / 1000.0));
    }
    let said = text(RETRY_AFTER.as_str())?;
    number(said).map(bounded).or_else(|| {
        let then = jiff::fmt::rfc2822::parse(said).ok()?.timestamp();
        Some(SystemTime::from(then).duration_since(SystemTime::now()).unwrap_or(Duration::ZERO))
    })
}

fn bounded(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(MAX_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(code: u16) -> StatusCode {
        StatusCode::from_u16(code).unwrap()
    }

    #[test]
    fn what_was_not_served_is_asked_of_another() {
        for code in [429, 500, 501, 502, 503, 504, 529, 599] {
            assert!(is_passed_over(status(code), &headers(&[])), "{code}");
            assert!(is_passed_over(status(code), &headers(&[("x-should-retry", "true")])), "{code}");
            assert!(!is_passed_over(status(code), &headers(&[("x-should-retry", "False")])), "{code}");
        }
        for code in [200, 204, 301, 400, 401, 403, 404, 408, 409, 413, 422, 600] {
            assert!(!is_passed_over(status(code), &headers(&[("x-should-retry", "true")])), "{code}");
        }
    }

    #[test]
    fn a_provider_says_how_long_it_rests() {
        let of = |code, pairs: &[(&'static str, &str)]| rest(status(code), &headers(pairs));
        assert_eq!(of(429, &[]), REST);
        assert_eq!(of(529, &[]), REST);
        assert_eq!(of(500, &[]), Duration::ZERO);
        assert_eq!(of(500, &[("retry-after", "3")]), Duration::from_secs(3));
        assert_eq!(of(429, &[("retry-after", "0")]), Duration::ZERO);
        assert_eq!(of(429, &[("retry-after", " 7 ")]), Duration::from_secs(7));
        assert_eq!(of(429, &[("retry-after", "0.5")]), Duration::from_millis(500));
        assert_eq!(of(429, &[("retry-after", "9"), ("retry-after-ms", "20")]), Duration::from_millis(20));
        for long in ["86400", "1e300", "inf", "Tue, 31 Dec 2999 23:59:59 GMT"] {
            assert_eq!(of(503, &[("retry-after", long)]), MAX_REST, "{long}");
        }
        assert_eq!(of(503, &[("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT")]), Duration::ZERO);
        for odd in ["soon", "-1", "NaN", "", "Thu, 99 Jan"] {
            assert_eq!(of(503, &[("retry-after", odd)]), REST, "{odd}");
        }
    }
}
