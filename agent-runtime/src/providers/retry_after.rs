//! How long a server asks to wait before it is asked again, in all spellings of it.
//!
//! - `retry-after-ms`: milliseconds (OpenAI, Azure);
//! - `retry-after`: seconds, a fraction of them, or a date (all);
//! - to a 429 that has neither: the reset of a limit that is used up, `anthropic-ratelimit-<limit>-reset` or `x-ratelimit-reset-<limit>`: a time,
//!   a duration like `6m0s`, seconds, or seconds or milliseconds since 1970.
//!
//! A time is taken relative to the server's own `date`, so that clocks that disagree do no harm.

use reqwest::header::HeaderMap;
use session_store::{Clock, SystemClock, Timestamp};
use std::time::Duration;

/// The wait that the head of a response with this status asks for.
pub(super) fn retry_after(status: u16, headers: &HeaderMap) -> Option<Duration> {
    let now = text(headers, "date").and_then(http_date).unwrap_or_else(|| SystemClock.now());
    let ms = || text(headers, "retry-after-ms")?.parse().ok().and_then(|ms: f64| seconds(ms / 1000.0));
    let after = || wait(text(headers, "retry-after")?, now);
    ms().or_else(after).or_else(|| if status == 429 { longest_reset(headers, now) } else { None })
}

/// The longest wait for a limit that is used up. One that has something left is not why the request was refused.
fn longest_reset(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let resets = headers.keys().filter_map(|name| {
        let remaining = remaining_name(name.as_str())?;
        let is_used_up = text(headers, &remaining).and_then(|left| left.parse().ok()).is_none_or(|left: f64| left <= 0.0);
        if is_used_up { wait(text(headers, name.as_str())?, now) } else { None }
    });
    resets.max()
}

/// For the header that says when a limit is reset, the one that says what is left of it.
fn remaining_name(reset: &str) -> Option<String> {
    if let Some(limit) = reset.strip_prefix("anthropic-ratelimit-").and_then(|rest| rest.strip_suffix("-reset")) {
        // The limits of a subscription overlap, and do not say what is left; `retry-after` comes with them.
        return (!limit.starts_with("unified")).then(|| format!("anthropic-ratelimit-{limit}-remaining"));
    }
    reset.strip_prefix("x-ratelimit-reset").map(|limit| format!("x-ratelimit-remaining{limit}"))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number.max(0.0)).ok()
}

/// A number of seconds, a moment as a number, a duration or a moment.
fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    /// No wait is so long: a larger number is a moment, in seconds or milliseconds since 1970.
    const MOMENT_S: f64 = 1e9;
    const MOMENT_MS: f64 = 1e12;
    let until = |ms: f64| seconds((ms - now.as_ms() as f64) / 1000.0);
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= MOMENT_MS => return until(number),
        Ok(number) if number.is_finite() && number >= MOMENT_S => return until(number * 1000.0),
        Ok(number) => return seconds(number),
        Err(_) => {}
    }
    let moment = || text.parse::<Timestamp>().ok().or_else(|| http_date(text)).and_then(|moment| until(moment.as_ms() as f64));
    duration(text).or_else(moment)
}

/// `6m0s`, `1h2m3.5s`, `20ms`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, behind) = rest.split_at(number);
        let unit = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let unit_s = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        sum = sum.checked_add(seconds(number.parse::<f64>().ok()? * unit_s)?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

fn http_date(text: &str) -> Option<Timestamp> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).ok().map(Timestamp::from_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(status: u16, pairs: &[(&'static str, &str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a header"));
        }
        retry_after(status, &headers)
    }

    const DATE: (&str, &str) = ("date", "Sat, 21 Nov 2026 13:00:00 GMT");

    #[test]
    fn retry_after_is_read_in_all_its_spellings() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(asked(429, &[]), None);
        assert_eq!(asked(503, &[("retry-after", "7")]), seconds(7));
        assert_eq!(asked(429, &[("retry-after", " 0.25 ")]), Some(Duration::from_millis(250)));
        assert_eq!(asked(429, &[("retry-after", "1"), ("retry-after-ms", "1500")]), Some(Duration::from_millis(1500)));
        let at = ("retry-after", "Sat, 21 Nov 2026 13:00:30 GMT");
        assert_eq!(asked(429, &[at, DATE]), seconds(30));
        assert_eq!(asked(429, &[at, ("date", "Sat, 21 Nov 2026 14:00:00 GMT")]), seconds(0));
        assert_eq!(asked(429, &[("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT")]), seconds(0));
        for nonsense in ["soon", "-", "NaN", "1e400", "-inf", "", "5 apples", "1.2.3s", "s", "18446744073709551615h"] {
            let read = asked(429, &[("retry-after", nonsense)]);
            assert!(read.is_none() || read == seconds(0), "{nonsense}: {read:?}");
        }
    }

    #[test]
    fn the_reset_of_a_limit_that_is_used_up_is_a_wait_too() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(asked(429, &[("anthropic-ratelimit-requests-reset", "2026-11-21T13:00:20Z"), DATE]), seconds(20));
        assert_eq!(asked(429, &[("x-ratelimit-reset-requests", "6m0s")]), seconds(360));
        assert_eq!(asked(429, &[("x-ratelimit-reset-tokens", "20ms")]), Some(Duration::from_millis(20)));
        assert_eq!(asked(429, &[("x-ratelimit-reset-tokens", "1h2m3.5s")]), Some(Duration::from_millis(3_723_500)));
        assert_eq!(asked(429, &[("x-ratelimit-reset", "1795266030"), DATE]), seconds(30));
        assert_eq!(asked(429, &[("x-ratelimit-reset", "1795266030000"), DATE]), seconds(30));
        // What is not used up is no reason; of those that are, all have to be over.
        let both =
            [("x-ratelimit-reset-requests", "50s"), ("x-ratelimit-reset-tokens", "3s"), ("x-ratelimit-remaining-requests", "9")];
        assert_eq!(asked(429, &both), seconds(3));
        assert_eq!(asked(429, &both[..2]), seconds(50));
        let tokens = [
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-21T13:00:09Z"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-21T13:59:00Z"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            DATE,
        ];
        assert_eq!(asked(429, &tokens), seconds(9));
        // Its own word goes first, and a server error is no limit.
        assert_eq!(asked(429, &[("retry-after", "2"), ("x-ratelimit-reset-requests", "6m0s")]), seconds(2));
        assert_eq!(asked(500, &[("x-ratelimit-reset-requests", "6m0s")]), None);
        assert_eq!(asked(429, &[("anthropic-ratelimit-unified-7d-reset", "1795266030"), DATE]), None);
    }
}
