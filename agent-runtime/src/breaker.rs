//! The breaker: an endpoint that failed several times in a row is left alone for a while, by all sessions of a runtime.
//!
//! ```text
//!           `failures` in a row                      the pause is over: one call is let through
//!   closed ---------------------> open (first_pause) ------------------------------------------> half-open
//!      ^                            ^                                                               |   |
//!      |                            +------------ it fails: twice the pause, up to longest_pause ---+   |
//!      +---------------------------------------------- an answer begins --------------------------------+
//! ```
//!
//! Its key is endpoint, model and credential: an [`Origin`]. Only what says that the endpoint is unwell counts ([`counts`]); a refusal, a
//! wrong key and a rate limit are answers of an endpoint that is well, and close it. A call that was dropped says nothing.
//!
//! It keeps no time and waits for nobody: `now` comes in, and whoever is not let through is told how long to wait.

use crate::model::{FailureKind, ModelFailure};
use crate::session::lock;
use session_store::Origin;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long others wait before they look again whether the one call that was let through was answered.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When an endpoint is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// How many calls in a row have to fail. 5; 0: it never opens.
    pub failures: u32,
    /// The first pause. 5 s; it doubles each time the call after it fails.
    pub first_pause: Duration,
    /// The longest pause. 60 s.
    pub longest_pause: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 5, first_pause: Duration::from_secs(5), longest_pause: Duration::from_secs(60) }
    }
}

/// Whether an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// It is.
    Closed,
    /// It is not, for now.
    Open,
    /// One call finds out whether it answers again; the others wait.
    HalfOpen,
}

/// What is known of an endpoint that failed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// Endpoint, model and credential.
    pub origin: Origin,
    /// Whether it is asked.
    pub state: BreakerState,
    /// How many calls failed in a row.
    pub failures: u32,
    /// How long until it is asked again; nothing where it is.
    pub pause_left: Option<Duration>,
}

/// The breakers of a runtime; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breakers {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    policy: BreakerPolicy,
    /// Only endpoints whose last call failed.
    circuits: Mutex<HashMap<Origin, Circuit>>,
}

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    /// A call was let through and has not ended.
    is_tried: bool,
}

impl Circuit {
    fn state(&self, now: Instant) -> BreakerState {
        match &self.open {
            None => BreakerState::Closed,
            Some(open) if now < open.until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }
}

impl Breakers {
    pub(crate) fn new(policy: BreakerPolicy) -> Self {
        Self { shared: Arc::new(Shared { policy, circuits: Mutex::default() }) }
    }

    /// Lets a call through.
    ///
    /// # Errors
    /// Why not, with the time to wait before it is worth another look.
    pub(crate) fn admit(&self, origin: &Origin, now: Instant) -> Result<Admitted, ModelFailure> {
        let mut circuits = lock(&self.shared.circuits);
        let circuit = circuits.get_mut(origin);
        let failures = circuit.as_ref().map_or(0, |circuit| circuit.failures);
        let is_trial = match circuit.and_then(|circuit| circuit.open.as_mut()) {
            None => false,
            Some(open) if now >= open.until && !open.is_tried => {
                open.is_tried = true;
                true
            }
            Some(open) => {
                return Err(refusal(origin, failures, open.until.saturating_duration_since(now).max(LOOK_AGAIN.min(open.pause))));
            }
        };
        drop(circuits);
        Ok(Admitted { breakers: self.clone(), origin: origin.clone(), is_trial })
    }

    /// All endpoints whose last call failed, in no order.
    pub(crate) fn statuses(&self, now: Instant) -> Vec<BreakerStatus> {
        let status = |(origin, circuit): (&Origin, &Circuit)| BreakerStatus {
            origin: origin.clone(),
            state: circuit.state(now),
            failures: circuit.failures,
            pause_left: circuit
                .open
                .as_ref()
                .and_then(|open| open.until.checked_duration_since(now))
                .filter(|left| !left.is_zero()),
        };
        lock(&self.shared.circuits).iter().map(status).collect()
    }
}

fn refusal(origin: &Origin, failures: u32, wait: Duration) -> ModelFailure {
    let at = if origin.endpoint.is_empty() { String::new() } else { format!(" at {}", origin.endpoint) };
    let detail = format!(
        "{}/{}{at} failed {failures} times in a row and is left alone for now (its breaker is open)",
        origin.provider, origin.model
    );
    ModelFailure { retry_after: Some(wait), ..ModelFailure::new(FailureKind::BreakerOpen, detail) }
}

/// Whether `failure` says that the endpoint is unwell.
fn counts(failure: &ModelFailure) -> bool {
    use FailureKind as Kind;
    match failure.kind {
        // 408, 409 and 425 are said of one request.
        Kind::Server => failure.status.is_none_or(|status| status >= 500),
        Kind::Connect | Kind::Reset | Kind::Overloaded => true,
        Kind::ConnectTimeout | Kind::FirstByteTimeout | Kind::IdleTimeout | Kind::ProgressTimeout => true,
        _ => false,
    }
}

/// A call that was let through. Dropping it without a word says nothing of the endpoint.
#[derive(Debug)]
pub(crate) struct Admitted {
    breakers: Breakers,
    origin: Origin,
    /// Whether it is the one call that finds out whether the endpoint answers again.
    is_trial: bool,
}

impl Admitted {
    /// An answer began.
    pub(crate) fn answered(&mut self) {
        self.is_trial = false;
        lock(&self.breakers.shared.circuits).remove(&self.origin);
    }

    /// The call failed.
    pub(crate) fn failed(mut self, failure: &ModelFailure, now: Instant) {
        if !counts(failure) {
            // Any status is a word of an endpoint that is there.
            if failure.status.is_some() {
                self.answered();
            }
            return;
        }
        let policy = &self.breakers.shared.policy;
        let mut circuits = lock(&self.breakers.shared.circuits);
        let circuit = circuits.entry(self.origin.clone()).or_default();
        circuit.failures = circuit.failures.saturating_add(1);
        let pause = match &circuit.open {
            Some(open) if self.is_trial => (open.pause * 2).min(policy.longest_pause),
            // A call that had begun before it opened.
            Some(_) => return,
            None if policy.failures > 0 && circuit.failures >= policy.failures => policy.first_pause,
            None => return,
        };
        circuit.open = Some(Open { until: now + pause, pause, is_tried: false });
        drop(circuits);
        self.is_trial = false;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.is_trial
            && let Some(open) =
                lock(&self.breakers.shared.circuits).get_mut(&self.origin).and_then(|circuit| circuit.open.as_mut())
        {
            open.is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn origin(model: &str) -> Origin {
        Origin { provider: "x".to_owned(), model: model.to_owned(), ..Origin::default() }
    }

    fn server_error() -> ModelFailure {
        ModelFailure { status: Some(500), ..ModelFailure::new(FailureKind::Server, "") }
    }

    fn fail(breakers: &Breakers, failure: &ModelFailure, now: Instant) {
        breakers.admit(&origin("m"), now).expect("it is let through").failed(failure, now);
    }

    fn opened(now: Instant) -> Breakers {
        let breakers = Breakers::default();
        (0..5).for_each(|_| fail(&breakers, &server_error(), now));
        breakers
    }

    fn state(breakers: &Breakers, now: Instant) -> BreakerState {
        breakers.statuses(now).first().map_or(BreakerState::Closed, |status| status.state)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_for_that_origin_alone() {
        let now = Instant::now();
        let breakers = opened(now);
        let refused = breakers.admit(&origin("m"), now + SECOND).expect_err("it is open");
        assert_eq!((refused.kind, refused.retry_after), (FailureKind::BreakerOpen, Some(SECOND * 4)));
        assert!(refused.detail.contains("5 times in a row"), "{refused}");
        assert_eq!((state(&breakers, now), state(&breakers, now + SECOND * 5)), (BreakerState::Open, BreakerState::HalfOpen));
        assert_eq!(breakers.statuses(now)[0].pause_left, Some(SECOND * 5));
        assert!(breakers.admit(&origin("another"), now).is_ok());
    }

    #[test]
    fn an_answer_between_failures_starts_the_count_anew() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for _ in 0..3 {
            (0..4).for_each(|_| fail(&breakers, &server_error(), now));
            breakers.admit(&origin("m"), now).expect("closed").answered();
        }
        assert_eq!(breakers.statuses(now), []);
    }

    #[test]
    fn one_call_finds_out_and_the_others_wait_for_it() {
        let now = Instant::now();
        let breakers = opened(now);
        let later = now + SECOND * 5;
        let mut trial = breakers.admit(&origin("m"), later).expect("one call is let through");
        assert!(breakers.admit(&origin("m"), later).is_err());
        trial.answered();
        assert!(breakers.admit(&origin("m"), later).is_ok());
        assert_eq!(state(&breakers, later), BreakerState::Closed);
    }

    #[test]
    fn a_trial_that_fails_doubles_the_pause_up_to_its_bound() {
        let mut now = Instant::now();
        let breakers = opened(now);
        for seconds in [5, 10, 20, 40, 60, 60] {
            let left = breakers.admit(&origin("m"), now).expect_err("it is open").retry_after;
            assert_eq!(left, Some(SECOND * seconds));
            now += SECOND * seconds;
            fail(&breakers, &server_error(), now);
        }
    }

    #[test]
    fn a_trial_that_is_dropped_lets_another_one_through() {
        let now = Instant::now();
        let breakers = opened(now);
        let later = now + SECOND * 5;
        drop(breakers.admit(&origin("m"), later).expect("one call is let through"));
        assert!(breakers.admit(&origin("m"), later).is_ok());
    }

    #[test]
    fn what_an_endpoint_answers_never_opens_it() {
        use FailureKind as Kind;
        let now = Instant::now();
        let answers = [
            (Kind::BadRequest, 400),
            (Kind::Auth, 401),
            (Kind::Auth, 403),
            (Kind::NotFound, 404),
            (Kind::Server, 408),
            (Kind::Server, 409),
            (Kind::Server, 425),
            (Kind::RateLimit, 429),
            (Kind::Quota, 429),
            (Kind::ContextTooLong, 413),
        ];
        for (kind, status) in answers {
            let breakers = Breakers::default();
            let failure = ModelFailure { status: Some(status), ..ModelFailure::new(kind, "") };
            (0..20).for_each(|_| fail(&breakers, &failure, now));
            assert_eq!(breakers.statuses(now), [], "{kind:?}");
        }
        for kind in [Kind::Connect, Kind::Reset, Kind::Overloaded, Kind::FirstByteTimeout, Kind::IdleTimeout] {
            let breakers = Breakers::default();
            (0..5).for_each(|_| fail(&breakers, &ModelFailure::new(kind, ""), now));
            assert_eq!(state(&breakers, now), BreakerState::Open, "{kind:?}");
        }
    }

    #[test]
    fn a_call_that_had_begun_before_it_opened_makes_the_pause_no_longer() {
        let now = Instant::now();
        let breakers = Breakers::default();
        let late = breakers.admit(&origin("m"), now).expect("closed");
        (0..5).for_each(|_| fail(&breakers, &server_error(), now));
        late.failed(&server_error(), now + SECOND);
        assert_eq!(breakers.admit(&origin("m"), now).expect_err("open").retry_after, Some(SECOND * 5));
    }
}
