//! Figures as a table: ours beside a reference of the same run.

use std::time::Duration;

/// The names of the columns that [`row`] fills.
pub(crate) fn head() -> String {
    format!("{:<44} {:>9} {:>9} {:>9}   reference", "", "p50", "p99", "max")
}

/// Sorts both; a line for the table.
pub(crate) fn row(name: &str, ours: &mut [Duration], reference: &str, theirs: &mut [Duration]) -> String {
    let (p50, p99, max) = (quantile(ours, 0.5), quantile(ours, 0.99), quantile(ours, 1.0));
    let (their_p50, their_p99) = (quantile(theirs, 0.5), quantile(theirs, 0.99));
    let ratio = p50.as_secs_f64() / their_p50.as_secs_f64();
    let [p50, p99, max, their_p50, their_p99] = [p50, p99, max, their_p50, their_p99].map(short);
    format!("{name:<44} {p50:>9} {p99:>9} {max:>9}   {reference} {their_p50}, p99 {their_p99}; ratio {ratio:.2}")
}

fn quantile(samples: &mut [Duration], q: f64) -> Duration {
    samples.sort_unstable();
    samples[((samples.len() - 1) as f64 * q) as usize]
}

/// Three digits and a unit.
pub(crate) fn short(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    match nanos {
        _ if nanos < 1e3 => format!("{nanos:.0} ns"),
        _ if nanos < 1e6 => format!("{:.1} us", nanos / 1e3),
        _ if nanos < 1e9 => format!("{:.2} ms", nanos / 1e6),
        _ => format!("{:.2} s", nanos / 1e9),
    }
}
