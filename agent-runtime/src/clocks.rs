//! The five clocks of a model call.
//!
//! A call is in one stage at a time: it connects, waits for the response's headers, or reads. Each stage has a limit of its
//! own, and beside it run two that outlast the stages: no progress for too long, and too long altogether. [`Meter`] holds what
//! is left of each. Only time spent waiting for the other side is charged to it, so that a reader who is slow himself
//! never runs into a limit of the provider's.

use crate::model::FailureKind;
use std::time::Duration;

/// The limits of each wait of a call. They stop while we ourselves do not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Until there is a connection. 10 s.
    pub connect: Duration,
    /// From the request sent to the response's headers. 120 s.
    pub first_byte: Duration,
    /// Since the last byte of any kind, pings too. 60 s.
    pub idle: Duration,
    /// Since the call's start or the last delta of text, reasoning, signature or arguments. 300 s.
    pub progress: Duration,
    /// The whole call. 3,600 s.
    pub cap: Duration,
}

impl Default for Clocks {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            progress: Duration::from_secs(300),
            cap: Duration::from_secs(3600),
        }
    }
}

/// One of the five.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Connect,
    FirstByte,
    Idle,
    Progress,
    Cap,
}

/// What is left of each limit of one call.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    clocks: Clocks,
    stage: Limit,
    stage_left: Duration,
    progress_left: Duration,
    cap_left: Duration,
}

impl Meter {
    /// A call that begins to connect.
    pub(crate) fn new(clocks: &Clocks) -> Self {
        Self {
            clocks: *clocks,
            stage: Limit::Connect,
            stage_left: clocks.connect,
            progress_left: clocks.progress,
            cap_left: clocks.cap,
        }
    }

    /// A new stage begins, or the same one anew: a byte came or went.
    pub(crate) fn enter(&mut self, stage: Limit) {
        self.stage = stage;
        self.stage_left = self.of(stage);
    }

    /// The answer got longer.
    pub(crate) fn progressed(&mut self) {
        self.progress_left = self.clocks.progress;
    }

    /// We waited for the other side.
    pub(crate) fn charge(&mut self, waited: Duration) {
        for left in [&mut self.stage_left, &mut self.progress_left, &mut self.cap_left] {
            *left = left.saturating_sub(waited);
        }
    }

    /// How long to wait at most, from now.
    pub(crate) fn left(&self) -> Duration {
        self.stage_left.min(self.progress_left).min(self.cap_left)
    }

    /// The limit that is used up, if one is, as a kind of failure and as words that follow the name of who was asked; the
    /// most particular first.
    pub(crate) fn expired(&self) -> Option<(FailureKind, String)> {
        let all = [(self.stage, self.stage_left), (Limit::Progress, self.progress_left), (Limit::Cap, self.cap_left)];
        all.into_iter().find(|(_, left)| left.is_zero()).map(|(limit, _)| self.failure(limit))
    }

    fn of(&self, limit: Limit) -> Duration {
        match limit {
            Limit::Connect => self.clocks.connect,
            Limit::FirstByte => self.clocks.first_byte,
            Limit::Idle => self.clocks.idle,
            Limit::Progress => self.clocks.progress,
            Limit::Cap => self.clocks.cap,
        }
    }

    fn failure(&self, limit: Limit) -> (FailureKind, String) {
        let (kind, what, raise) = match limit {
            Limit::Connect => (FailureKind::ConnectTimeout, "did not take a connection", "the connect timeout"),
            Limit::FirstByte => (FailureKind::FirstByteTimeout, "sent no response headers", "the first-byte timeout"),
            Limit::Idle => (FailureKind::IdleTimeout, "went silent: not a byte came", "the idle timeout"),
            Limit::Progress => {
                (FailureKind::ProgressTimeout, "is connected but its answer got no further", "the progress timeout")
            }
            Limit::Cap => (FailureKind::CapTimeout, "did not complete its answer", "the cap on a whole call"),
        };
        (kind, format!("{what} within {} s (raise {raise} to wait longer)", self.of(limit).as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn kind(meter: &Meter) -> Option<FailureKind> {
        meter.expired().map(|(kind, _)| kind)
    }

    #[test]
    fn each_limit_ends_a_call_with_a_kind_of_its_own() {
        let mut meter = Meter::new(&Clocks::default());
        assert_eq!(meter.left(), SECOND * 10);
        meter.charge(SECOND * 10);
        assert_eq!(kind(&meter), Some(FailureKind::ConnectTimeout));
        meter.enter(Limit::FirstByte);
        meter.charge(SECOND * 120);
        assert_eq!(kind(&meter), Some(FailureKind::FirstByteTimeout));
        meter.enter(Limit::Idle);
        assert_eq!(kind(&meter), None);
        meter.charge(SECOND * 60);
        assert_eq!(kind(&meter), Some(FailureKind::IdleTimeout));
    }

    #[test]
    fn pings_keep_a_call_alive_but_are_no_progress() {
        let mut meter = Meter::new(&Clocks::default());
        for _ in 0..10 {
            meter.charge(SECOND * 30);
            meter.enter(Limit::Idle);
        }
        assert_eq!(kind(&meter), Some(FailureKind::ProgressTimeout));
    }

    #[test]
    fn progress_carries_a_call_to_its_cap_and_no_further() {
        let mut meter = Meter::new(&Clocks::default());
        for _ in 0..120 {
            assert_eq!(kind(&meter), None);
            meter.charge(SECOND * 30);
            meter.enter(Limit::Idle);
            meter.progressed();
        }
        assert_eq!(kind(&meter), Some(FailureKind::CapTimeout));
    }

    #[test]
    fn the_message_names_the_limit_its_length_and_what_raises_it() {
        let mut meter = Meter::new(&Clocks { connect: Duration::from_millis(1500), ..Clocks::default() });
        meter.charge(SECOND * 2);
        let words = meter.expired().map(|(_, words)| words);
        assert_eq!(words.as_deref(), Some("did not take a connection within 1.5 s (raise the connect timeout to wait longer)"));
    }
}
