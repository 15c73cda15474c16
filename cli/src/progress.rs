//! A progress bar for long work: on standard error, only on a terminal, and only once the work has taken a second.
//!
//! What is not seen costs nothing but a look at the clock, so every long command has one. It draws when the work
//! reports, never by itself: no thread, and nothing is drawn after it was dropped.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Work that takes less than this shows no bar.
const APPEARS_AFTER: Duration = Duration::from_secs(1);
/// How often it is drawn at most, in a second.
const DRAWS_PER_SECOND: u8 = 10;

const COUNT: &str = "{msg} {wide_bar} {human_pos}/{human_len}  {eta}";
const BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";

/// How far some work is. Shared by the threads that do it; dropping it removes the bar.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    since: Instant,
    is_drawn: AtomicBool,
}

impl Progress {
    /// A bar for `total` things. `doing` says what is done in a word or two: `verifying`.
    pub(crate) fn count(doing: &'static str, total: u64) -> Self {
        Self::new(doing, total, COUNT)
    }

    /// A bar for `total` bytes, with their speed.
    pub(crate) fn bytes(doing: &'static str, total: u64) -> Self {
        Self::new(doing, total, BYTES)
    }

    fn new(doing: &'static str, total: u64, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()).with_message(doing);
        // The templates are the two above; one that could not be read would leave indicatif's own.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, since: Instant::now(), is_drawn: AtomicBool::new(false) }
    }

    /// `more` of it is done.
    pub(crate) fn add(&self, more: u64) {
        self.bar.inc(more);
        if self.since.elapsed() >= APPEARS_AFTER && !self.is_drawn.swap(true, Ordering::Relaxed) {
            // Where standard error is no terminal, this target stays hidden.
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
            self.bar.tick();
        }
    }

    /// There is `more` to do than was said.
    pub(crate) fn add_total(&self, more: u64) {
        self.bar.inc_length(more);
    }

    /// Removes the bar while `print` writes to the terminal.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_work_shows_no_bar() {
        let progress = Progress::count("testing", 2);
        progress.add(1);
        progress.add(1);
        assert!(progress.bar.is_hidden());
    }

    #[test]
    fn both_bars_can_be_drawn() {
        for template in [COUNT, BYTES] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
