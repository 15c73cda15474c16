//! Sizes and ages as people write them: `5GB`, `90d`.

use session_store::{Clock, SystemClock, Timestamp};
use std::time::Duration;

const DAY: u64 = 24 * 60 * 60;
const SIZES: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];

/// Reads a size: `500MB`, `5 GB`, `2GiB`, or a bare number of bytes. A kB is 1,000 bytes, a KiB 1,024.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err("not a size like `500MB` or `5GB`".to_owned()),
    };
    let bytes = number.parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| number * factor as f64);
    match bytes {
        Some(bytes) if bytes < u64::MAX as f64 => Ok(bytes as u64),
        _ => Err("not a size like `500MB` or `5GB`".to_owned()),
    }
}

/// Reads an age: `12h`, `90d`, `6w`, `2y` (of 365 days).
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "h" => 60 * 60,
        "d" => DAY,
        "w" => 7 * DAY,
        "y" => 365 * DAY,
        _ => return Err("not an age like `12h`, `90d`, `6w` or `1y`".to_owned()),
    };
    let age = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    age.map(Duration::from_secs).ok_or_else(|| "not an age like `12h`, `90d`, `6w` or `1y`".to_owned())
}

/// A time as typed: from its first to its last millisecond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct When {
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

pub(crate) fn parse_when(text: &str) -> Result<When, String> {
    when(text, SystemClock.now())
}

fn when(text: &str, now: Timestamp) -> Result<When, String> {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    if let Ok(first) = format!("{text}T00:00:00.000Z").parse::<Timestamp>() {
        return Ok(When { first, last: Timestamp::from_ms(first.as_ms() + DAY_MS - 1) });
    }
    let at = text.parse::<Timestamp>().ok().or_else(|| {
        let age = i64::try_from(parse_age(text).ok()?.as_millis()).ok()?;
        Some(Timestamp::from_ms(now.as_ms().saturating_sub(age)))
    });
    at.map(|at| When { first: at, last: at }).ok_or_else(|| "not a date like `2026-01-31` or an age like `7d`".to_owned())
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

/// A size in the unit that fits.
pub(crate) fn size_words(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < SIZES.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", SIZES[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        assert_eq!(size_words(999), "999 bytes");
        assert_eq!(size_words(1_000), "1.0 kB");
        assert_eq!(size_words(2_500_000_000), "2.5 GB");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("1.5 mb", 1_500_000), ("2GiB", 2 << 30), ("17", 17), ("0", 0)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1GB", "5 parsecs", "1e999999GB", "99999999999TB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_are_read_as_people_write_them() {
        for (text, hours) in [("12h", 12), ("90d", 90 * 24), ("6w", 42 * 24), ("1y", 365 * 24), ("0d", 0)] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(hours * 3600)), "{text}");
        }
        for text in ["", "d", "90", "90m", "-1d", "1.5d", "99999999999999999999d", "99999999999999999y"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_date_is_a_whole_day_and_an_age_a_moment() {
        let now: Timestamp = "2026-02-01T12:00:00.000Z".parse().expect("a time");
        let texts = |when: When| (when.first.to_string(), when.last.to_string());
        let day = when("2026-01-31", now).map(texts);
        assert_eq!(day, Ok(("2026-01-31T00:00:00.000Z".to_owned(), "2026-01-31T23:59:59.999Z".to_owned())));
        assert_eq!(when("12h", now).map(|when| when.first.to_string()), Ok("2026-02-01T00:00:00.000Z".to_owned()));
        assert_eq!(when("2026-01-31T10:00:00Z", now).map(|when| when.first == when.last), Ok(true));
        for text in ["", "yesterday", "2026-13-01", "-1d", "99999999999999999y"] {
            assert!(when(text, now).is_err(), "{text}");
        }
    }
}
