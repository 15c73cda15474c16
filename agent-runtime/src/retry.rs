//! When a failed call is tried again. The only file that names `backoff`.
//!
//! A call is tried again at most four times, after pauses that double from half a second up to 30 s, each shortened or
//! lengthened by up to a quarter so that many clients do not come back at once. A server that asks for a longer pause gets it,
//! up to a minute; one that asks for more is waited for only where [`RetryPolicy::longest_wait`] allows it. Which kinds are tried again is
//! told by [`FailureKind::cure`](crate::FailureKind::cure). What was learned from a refusal
//! ([`FailureKind::Learned`](crate::FailureKind::Learned)) is no matter for a pause: the next body differs, and the caller sends it at once.

use crate::model::{Cure, ModelFailure};
use backoff::SystemClock;
use backoff::backoff::Backoff;
use backoff::exponential::ExponentialBackoff;
use std::time::Duration;

/// How retries are spaced.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// How often a call is tried again, at most. 4.
    pub retries: u32,
    /// The first pause, before jitter. 0.5 s.
    pub first_pause: Duration,
    /// The longest pause of our own. 30 s.
    pub longest_pause: Duration,
    /// The longest pause that a server may ask for. 60 s.
    pub longest_asked: Duration,
    /// The longest wait that a server may ask for beyond [`RetryPolicy::longest_asked`]. Such a wait is an event of the log, ends at a time of the
    /// wall clock, and does not count as a try. None.
    pub longest_wait: Duration,
    /// What every pause is multiplied by: 1, and less in tests that do not want to wait.
    pub scale: f64,
    /// A number from 0 to 1 for each pause: where it lies between three and five quarters of its length.
    pub random: fn() -> f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 4,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            longest_asked: Duration::from_secs(60),
            longest_wait: Duration::ZERO,
            scale: 1.0,
            random: fastrand::f64,
        }
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryDecision {
    /// Try again after this pause.
    After(Duration),
    /// Do not try again: it would not help, or it was tried often enough.
    No,
    /// Try again after this long wait, and then as if for the first time.
    Wait(Duration),
    /// Do not try again: the server asks for a pause that is longer than we wait.
    WaitTooLong(Duration),
}

/// The retries of one call.
#[derive(Debug)]
pub struct Retry {
    policy: RetryPolicy,
    backoff: ExponentialBackoff<SystemClock>,
    left: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self::new(RetryPolicy::default())
    }
}

impl Retry {
    /// The retries of a call that was not tried yet.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        let mut backoff = ExponentialBackoff {
            initial_interval: policy.first_pause,
            // The crate's own jitter cannot be injected; ours is added in `next`.
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: policy.longest_pause,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        backoff.reset();
        Self { left: policy.retries, policy, backoff }
    }

    /// What to do after `failure`.
    pub fn next(&mut self, failure: &ModelFailure) -> RetryDecision {
        if !matches!(failure.kind.cure(), Cure::AnotherTry | Cure::AnotherModelOrTry) {
            return RetryDecision::No;
        }
        let asked = failure.retry_after.unwrap_or_default();
        if asked > self.policy.longest_asked {
            let may_wait = asked <= self.policy.longest_wait;
            return if may_wait { RetryDecision::Wait(asked) } else { RetryDecision::WaitTooLong(asked) };
        }
        if self.left == 0 {
            return RetryDecision::No;
        }
        self.left -= 1;
        let step = self.backoff.next_backoff().unwrap_or(self.policy.longest_pause);
        let jitter = 0.75 + 0.5 * (self.policy.random)().clamp(0.0, 1.0);
        let own = step.mul_f64(jitter).min(self.policy.longest_pause);
        RetryDecision::After(own.max(asked).mul_f64(self.policy.scale.max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FailureKind;

    fn failure(kind: FailureKind) -> ModelFailure {
        ModelFailure::new(kind, "it failed")
    }

    fn pauses(policy: RetryPolicy) -> Vec<RetryDecision> {
        let mut retry = Retry::new(policy);
        (0..=policy.retries).map(|_| retry.next(&failure(FailureKind::Server))).collect()
    }

    fn after(ms: u64) -> RetryDecision {
        RetryDecision::After(Duration::from_millis(ms))
    }

    #[test]
    fn four_retries_with_pauses_that_double() {
        let policy = RetryPolicy { random: || 0.5, ..RetryPolicy::default() };
        assert_eq!(pauses(policy), [after(500), after(1000), after(2000), after(4000), RetryDecision::No]);
    }

    #[test]
    fn a_pause_is_jittered_by_a_quarter_and_never_over_its_bound() {
        let early = RetryPolicy { random: || 0.0, ..RetryPolicy::default() };
        assert_eq!(pauses(early)[..2], [after(375), after(750)]);
        let late = RetryPolicy { random: || 1.0, retries: 9, ..RetryPolicy::default() };
        assert_eq!(pauses(late)[..2], [after(625), after(1250)]);
        assert_eq!(pauses(late)[6..], [after(30_000), after(30_000), after(30_000), RetryDecision::No]);
    }

    #[test]
    fn a_server_that_asks_for_a_pause_gets_it_up_to_a_minute() {
        let asks = |seconds| ModelFailure { retry_after: Some(Duration::from_secs(seconds)), ..failure(FailureKind::RateLimit) };
        let mut retry = Retry::default();
        assert_eq!(retry.next(&asks(60)), after(60_000));
        assert_eq!(retry.next(&asks(61)), RetryDecision::WaitTooLong(Duration::from_secs(61)));
        let mut scaled = Retry::new(RetryPolicy { scale: 0.01, ..RetryPolicy::default() });
        assert_eq!(scaled.next(&asks(60)), after(600));
    }

    #[test]
    fn a_longer_wait_is_waited_for_only_where_it_was_allowed() {
        let asks = |seconds| ModelFailure { retry_after: Some(Duration::from_secs(seconds)), ..failure(FailureKind::RateLimit) };
        let policy = RetryPolicy { longest_wait: Duration::from_secs(3600), retries: 0, ..RetryPolicy::default() };
        let mut retry = Retry::new(policy);
        assert_eq!(retry.next(&asks(3600)), RetryDecision::Wait(Duration::from_secs(3600)));
        assert_eq!(retry.next(&asks(3601)), RetryDecision::WaitTooLong(Duration::from_secs(3601)));
    }

    #[test]
    fn only_what_another_try_may_cure_is_tried_again() {
        use FailureKind as Kind;
        let again =
            [Kind::Connect, Kind::Reset, Kind::RateLimit, Kind::Overloaded, Kind::Server, Kind::Protocol, Kind::BreakerOpen];
        for kind in Kind::ALL {
            let is_tried = matches!(Retry::default().next(&failure(kind)), RetryDecision::After(_));
            assert_eq!(is_tried, again.contains(&kind), "{kind:?}");
        }
    }
}
