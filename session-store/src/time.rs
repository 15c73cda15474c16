//! Wall-clock time as sessions record it: milliseconds since the Unix epoch, UTC, written as RFC 3339.
//!
//! Order in a log is told by `seq`, never by time: a wall clock may step back, and then the log says so.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const MS_PER_DAY: i64 = 86_400_000;
/// The years that fit the fixed 24-character form: 0000-01-01 to 9999-12-31.
const MIN_MS: i64 = -62_167_219_200_000;
const MAX_MS: i64 = 253_402_300_799_999;

/// A moment in UTC with millisecond precision; always written in 24 characters, `2026-01-31T23:59:59.999Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A moment from milliseconds since 1970-01-01 UTC, clamped to the years 0 to 9999.
    #[must_use]
    pub fn from_ms(ms: i64) -> Self {
        Self(ms.clamp(MIN_MS, MAX_MS))
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn as_ms(self) -> i64 {
        self.0
    }

    /// The 24 bytes of the written form.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let (year, month, day) = civil_from_days(self.0.div_euclid(MS_PER_DAY));
        let ms = self.0.rem_euclid(MS_PER_DAY);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], ms / 3_600_000);
        digits(&mut text[14..16], ms / 60_000 % 60);
        digits(&mut text[17..19], ms / 1000 % 60);
        digits(&mut text[20..23], ms % 1000);
        text
    }

    /// Reads the written form, and no other; nothing for a text or a date that it cannot be.
    pub(crate) fn from_bytes(text: &[u8; 24]) -> Option<Self> {
        let number = |from: usize, to: usize| {
            text[from..to].iter().try_fold(0_i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second, ms) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
        let moment = Self(days_from_civil(year, month, day) * MS_PER_DAY + ((hour * 60 + minute) * 60 + second) * 1000 + ms);
        // Written again it is the same text, or else it was no moment (a month 13, say).
        (moment.to_bytes() == *text).then_some(moment)
    }

    /// The date part as (year, month, day), as the folders of a session file are named.
    #[must_use]
    pub fn date(self) -> (i64, i64, i64) {
        civil_from_days(self.0.div_euclid(MS_PER_DAY))
    }
}

fn digits(out: &mut [u8], mut value: i64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since 1970-01-01 to a proleptic Gregorian date; the algorithm is Howard Hinnant's `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The other way round: Howard Hinnant's `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_bytes()).unwrap_or("?"))
    }
}

/// A text that is no RFC 3339 moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time")]
pub struct NotATime;

impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        // jiff ends a day before the year 9999 does; what was written here is always read.
        if let Some(moment) = text.as_bytes().try_into().ok().and_then(Self::from_bytes) {
            return Ok(moment);
        }
        let moment: jiff::Timestamp = text.parse().map_err(|_| NotATime)?;
        Ok(Self::from_ms(moment.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the wall-clock time of events comes from; injected, so that tests can step it back.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's own wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::from_ms(match since {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_moment_is_not_read_as_one() {
        for text in
            ["2026-13-01T00:00:00.000Z", "2026-02-29T00:00:00.000Z", "2026-01-01T24:00:00.000Z", "2026-01-01 00:00:00.000Z"]
        {
            let bytes: &[u8; 24] = text.as_bytes().try_into().expect("24 bytes");
            assert_eq!(Timestamp::from_bytes(bytes), None, "{text}");
        }
    }

    #[test]
    fn written_form_agrees_with_jiff_over_four_millennia() {
        for step in -20_000..40_000_i64 {
            let ms = step * 86_399_987 / 7 * 5;
            let ours = Timestamp::from_ms(ms);
            let theirs = jiff::Timestamp::from_millisecond(ours.as_ms()).expect("in range");
            assert_eq!(ours.to_string(), format!("{theirs:.3}"));
            assert_eq!(ours.to_string().parse(), Ok(ours));
            assert_eq!(Timestamp::from_bytes(&ours.to_bytes()), Some(ours));
        }
    }
}
