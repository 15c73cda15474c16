//! A time of the wall clock as the person's own clock shows it.

use jiff::tz::TimeZone;
use session_store::{Clock, SystemClock, Timestamp};

/// `21:30:05 CET`, with the date where it is not today's.
pub(crate) fn local_time(at: Timestamp) -> String {
    // Without a time zone that can be read, the machine's time is UTC.
    let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    words(at, SystemClock.now(), &zone)
}

fn words(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let zoned = |at: Timestamp| jiff::Timestamp::from_millisecond(at.as_ms()).map(|at| at.to_zoned(zone.clone()));
    match (zoned(at), zoned(now)) {
        (Ok(at), Ok(now)) if at.date() == now.date() => at.strftime("%H:%M:%S %Z").to_string(),
        (Ok(at), _) => at.strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
        // Only the very last day of the year 9999.
        (Err(_), _) => at.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_today_has_no_date() {
        let at = |text: &str| text.parse().expect("a time");
        let now = at("2026-11-21T20:00:00Z");
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(words(at("2026-11-21T20:30:05Z"), now, &TimeZone::UTC), "20:30:05 UTC");
        assert_eq!(words(at("2026-11-22T03:00:00Z"), now, &TimeZone::UTC), "2026-11-22 03:00:00 UTC");
        assert_eq!(words(at("2026-11-21T23:30:00Z"), now, &zone), "2026-11-22 00:30:00 +01");
    }
}
