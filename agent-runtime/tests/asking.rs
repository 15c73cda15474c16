//! What a turn does where its model does not answer: other models, the breaker, long waits. Against models that play scripts.

mod common;

use agent_runtime::session_store::{Clock, Entry, Event, Message, ModelWaiting, Origin, Timestamp, UserMessage};
use agent_runtime::{
    BreakerPolicy, BreakerState, EndReason, FailureKind, Model, ModelFailure, RetryPolicy, Runtime, ScriptedAnswer,
    ScriptedModel, Session, Setup, TurnError, TurnOutcome,
};
use common::{entries, runtime};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Longer than anything here takes; a test that reaches it hangs.
const LONG: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(50);

/// A breaker that never opens, for tests that are about something else.
fn never() -> BreakerPolicy {
    BreakerPolicy { failures: 0, ..BreakerPolicy::default() }
}

fn model(name: &str, answers: impl IntoIterator<Item = ScriptedAnswer>) -> Arc<ScriptedModel> {
    let origin = Origin { provider: "scripted".to_owned(), model: name.to_owned(), ..Origin::default() };
    Arc::new(ScriptedModel::new(answers).with_origin(origin))
}

fn setup(models: &[&Arc<ScriptedModel>], folder: &Path) -> Setup {
    let models: Vec<Arc<dyn Model>> = models.iter().map(|model| Arc::clone(*model) as Arc<dyn Model>).collect();
    let mut setup = Setup::new(Arc::clone(&models[0]), folder);
    setup.fallbacks = models[1..].to_vec();
    setup.retry = RetryPolicy { scale: 0.001, retries: 1, ..RetryPolicy::default() };
    setup
}

fn says(text: &str) -> ScriptedAnswer {
    ScriptedAnswer::new().text(text)
}

fn fails(kind: FailureKind) -> ScriptedAnswer {
    ScriptedAnswer::failure(failure(kind))
}

fn failure(kind: FailureKind) -> ModelFailure {
    let status = match kind {
        FailureKind::Server => Some(500),
        FailureKind::RateLimit => Some(429),
        _ => None,
    };
    ModelFailure { status, ..ModelFailure::new(kind, format!("it failed: {}", kind.as_str())) }
}

async fn say(session: &Session, text: &str) -> Arc<TurnOutcome> {
    let turn = session.send(text).await.expect("a turn");
    tokio::time::timeout(LONG, turn.outcome()).await.expect("the turn ends")
}

fn of_type(entries: &[Arc<Entry>], type_name: &str) -> usize {
    entries.iter().filter(|entry| entry.event.type_name() == type_name).count()
}

#[tokio::test]
async fn what_retries_do_not_cure_another_model_answers_and_the_next_turn_begins_with_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path()).with_breaker(never());
    let overloaded = FailureKind::Overloaded;
    let first = model("first", [fails(overloaded), fails(overloaded), says("I am back.")]);
    let second = model("second", [fails(FailureKind::NotFound)]);
    let third = model("third", [says("Hello.")]);
    let session = runtime.create(setup(&[&first, &second, &third], folder.path())).await.expect("a session");

    let outcome = say(&session, "Hi").await;
    assert_eq!((outcome.reason, outcome.text.as_str(), outcome.model_calls), (EndReason::Done, "Hello.", 4));
    let log = entries(&runtime, session.id()).await;
    let fallbacks: Vec<_> = log
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::ModelFallback(fallback) => {
                Some((fallback.from.model.as_str(), fallback.to.model.as_str(), fallback.reason.as_str()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(fallbacks, [("first", "second", "overloaded"), ("second", "third", "not_found")]);

    assert_eq!(say(&session, "And now?").await.text, "I am back.");
    assert_eq!((first.left(), second.left(), third.left()), (0, 0, 0));
}

#[tokio::test]
async fn another_model_goes_on_in_the_same_turn_once_it_was_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path()).with_breaker(never());
    let first = model("first", [fails(FailureKind::NotFound)]);
    let second = model("second", [ScriptedAnswer::new().tool_call("nothing", "{}"), says("There is no such tool.")]);
    let session = runtime.create(setup(&[&first, &second], folder.path())).await.expect("a session");
    assert_eq!(say(&session, "Hi").await.text, "There is no such tool.");
    assert_eq!(of_type(&entries(&runtime, session.id()).await, "model.fallback"), 1);
}

#[tokio::test]
async fn what_no_other_model_should_hide_ends_the_turn() {
    use FailureKind as Kind;
    for kind in [Kind::Auth, Kind::Quota, Kind::BadRequest, Kind::FirstByteTimeout, Kind::IdleTimeout] {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = runtime(folder.path());
        let (first, second) = (model("first", [fails(kind)]), model("second", [says("never said")]));
        let session = runtime.create(setup(&[&first, &second], folder.path())).await.expect("a session");
        let outcome = say(&session, "Hi").await;
        assert!(matches!(&outcome.error, Some(TurnError::Model(failure)) if failure.kind == kind), "{outcome:?}");
        assert_eq!(second.left(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_cut_answer_is_gone_on_with_by_another_model_and_nothing_is_said_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path()).with_breaker(never());
    let first = model("first", [says("One, ").cut(), fails(FailureKind::Connect)]);
    let second = model("second", [says("two, three.")]);
    let session = runtime.create(setup(&[&first, &second], folder.path())).await.expect("a session");
    assert_eq!(say(&session, "Count.").await.text, "One, two, three.");
    let log = entries(&runtime, session.id()).await;
    // The model is told of the seam once, not once for each failure behind it.
    assert_eq!((of_type(&log, "note"), of_type(&log, "model.error")), (1, 2));
    let sent = second.requests()[0].messages.iter().map(|sent| format!("{sent:?}")).collect::<String>();
    assert!(sent.contains("One, ") && sent.contains("Go on exactly"), "{sent}");
}

#[tokio::test]
async fn sessions_of_one_runtime_share_a_breaker_and_wait_behind_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = BreakerPolicy { failures: 2, first_pause: Duration::from_millis(200), ..BreakerPolicy::default() };
    let runtime = runtime(folder.path()).with_breaker(policy);
    let server = FailureKind::Server;
    let failing = model("m", [fails(server), fails(server)]);
    let one = runtime.create(setup(&[&failing], folder.path())).await.expect("a session");
    assert_eq!(say(&one, "Hi").await.reason, EndReason::Error);
    let status = &runtime.breakers()[0];
    assert_eq!((status.state, status.failures, status.origin.model.as_str()), (BreakerState::Open, 2, "m"));

    // The same endpoint in another session: nothing is sent until the pause is over.
    let healthy = model("m", [says("Well again.")]);
    let mut other = setup(&[&healthy], folder.path());
    other.retry = RetryPolicy { first_pause: MOMENT, ..RetryPolicy::default() };
    let other = runtime.create(other).await.expect("a session");
    assert_eq!(say(&other, "Hi").await.text, "Well again.");
    let log = entries(&runtime, other.id()).await;
    assert_eq!((of_type(&log, "model.waiting"), of_type(&log, "model.request"), of_type(&log, "model.error")), (1, 1, 0));
    assert_eq!(runtime.breakers(), [], "an answer closes it");
}

#[tokio::test]
async fn behind_an_open_breaker_another_model_is_asked_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path()).with_breaker(BreakerPolicy { failures: 1, ..BreakerPolicy::default() });
    let first = model("first", [fails(FailureKind::Connect), says("never said")]);
    let second = model("second", [says("Hello."), says("Hello again.")]);
    let session = runtime.create(setup(&[&first, &second], folder.path())).await.expect("a session");
    assert_eq!(say(&session, "Hi").await.text, "Hello.");
    assert_eq!(say(&session, "Hi").await.text, "Hello again.");
    assert_eq!(first.requests().len(), 1);
}

#[tokio::test]
async fn waiting_behind_a_breaker_ends_with_an_interrupt_and_its_failure_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path()).with_breaker(BreakerPolicy { failures: 1, ..BreakerPolicy::default() });
    let first = model("first", [fails(FailureKind::Connect)]);
    let mut waits = setup(&[&first], folder.path());
    waits.retry = RetryPolicy { retries: 1, first_pause: Duration::from_millis(1), ..RetryPolicy::default() };
    let session = runtime.create(waits).await.expect("a session");
    let turn = session.send("Hi").await.expect("a turn");
    while session.state(|state| state.in_flight.is_some() || state.turn.as_ref().is_none_or(|turn| turn.model_calls == 0)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The first try failed and opened it; the second waits for five seconds.
    turn.interrupt();
    let outcome = tokio::time::timeout(LONG, turn.outcome()).await.expect("the turn ends");
    assert_eq!(outcome.reason, EndReason::Interrupted);

    let mut impatient = setup(&[&first], folder.path());
    impatient.retry.retries = 0;
    let session = runtime.create(impatient).await.expect("a session");
    let outcome = say(&session, "Hi").await;
    let Some(TurnError::Model(failure)) = &outcome.error else { panic!("{outcome:?}") };
    assert_eq!((failure.kind, outcome.model_calls), (FailureKind::BreakerOpen, 0));
    assert!(failure.detail.contains("breaker is open") && outcome.retry_at.is_some(), "{outcome:?}");
}

/// A wall clock that stands still until it is set.
#[derive(Default)]
struct SetClock(AtomicI64);

impl SetClock {
    fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst))
    }
}

const NOON: i64 = 1_795_000_000_000;
const HOUR: i64 = 3_600_000;

fn asks_for_an_hour() -> ScriptedAnswer {
    let retry_after = Some(Duration::from_secs(3600));
    ScriptedAnswer::failure(ModelFailure { retry_after, ..failure(FailureKind::RateLimit) })
}

fn patient(model: &Arc<ScriptedModel>, folder: &Path, clock: &Arc<SetClock>) -> Setup {
    let mut setup = setup(&[model], folder);
    setup.retry.longest_wait = Duration::from_secs(86_400);
    setup.clock = Arc::clone(clock) as Arc<dyn Clock>;
    setup
}

fn waits(entries: &[Arc<Entry>]) -> Vec<ModelWaiting> {
    let wait = |entry: &Arc<Entry>| if let Event::ModelWaiting(waiting) = &entry.event { Some(waiting.clone()) } else { None };
    entries.iter().filter_map(wait).collect()
}

async fn until_it_waits(session: &Session, count: usize, runtime: &Runtime) -> ModelWaiting {
    loop {
        let waits = waits(&entries(runtime, session.id()).await);
        if waits.len() == count {
            return waits[count - 1].clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_wait_of_an_hour_is_told_with_its_end_and_not_waited_for_unless_it_was_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path());
    let clock = Arc::new(SetClock::default());
    clock.set(NOON);
    let model = model("m", [asks_for_an_hour()]);
    let mut setup = patient(&model, folder.path(), &clock);
    setup.retry.longest_wait = Duration::ZERO;
    let session = runtime.create(setup).await.expect("a session");
    let outcome = say(&session, "Hi").await;
    assert_eq!((outcome.reason, outcome.retry_at), (EndReason::Error, Some(Timestamp::from_ms(NOON + HOUR))));
    // Whoever comes back later can still wait for the same time.
    let left = session.wait_left().await.expect("the log is read").expect("a wait");
    assert_eq!(
        (left.model.as_str(), left.reason.as_str(), left.until),
        ("scripted/m", "rate_limit", Timestamp::from_ms(NOON + HOUR))
    );
}

#[tokio::test]
async fn a_long_wait_ends_at_its_time_by_the_wall_clock() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path());
    let clock = Arc::new(SetClock::default());
    clock.set(NOON);
    let model = model("m", [asks_for_an_hour(), says("Good afternoon.")]);
    let session = runtime.create(patient(&model, folder.path(), &clock)).await.expect("a session");
    let turn = session.send("Hi").await.expect("a turn");
    assert_eq!(until_it_waits(&session, 1, &runtime).await.until, Timestamp::from_ms(NOON + HOUR));
    clock.set(NOON + HOUR);
    let outcome = tokio::time::timeout(LONG, turn.outcome()).await.expect("the turn ends");
    assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, "Good afternoon."));
}

#[tokio::test]
async fn a_wait_survives_its_process_and_the_message_is_sent_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(SetClock::default());
    clock.set(NOON);
    let first = runtime(folder.path());
    let asked = model("m", [asks_for_an_hour()]);
    let session = first.create(patient(&asked, folder.path(), &clock)).await.expect("a session");
    let _turn = session.send("Hi").await.expect("a turn");
    let wait = until_it_waits(&session, 1, &first).await;
    // The process ends, however it ends: what is on the disk is what there is.
    let id = session.id();
    first.shutdown(LONG).await.expect("everything durable");

    clock.set(NOON + HOUR / 2);
    let second = runtime(folder.path());
    let answers = model("m", [says("Good afternoon.")]);
    let session = second.resume(id, patient(&answers, folder.path(), &clock)).await.expect("the session");
    let left = session.wait_left().await.expect("the log is read").expect("a wait");
    assert_eq!(left, wait, "until the same time");
    let turn = session.go_on_waiting(left).expect("a turn");
    assert_eq!(until_it_waits(&session, 2, &second).await, wait);
    // It can be stopped, and gone on with again.
    turn.interrupt();
    assert_eq!(turn.outcome().await.reason, EndReason::Interrupted);
    let left = session.wait_left().await.expect("the log is read").expect("a wait");
    let turn = session.go_on_waiting(left).expect("a turn");
    assert_eq!(answers.requests().len(), 0, "nothing is asked before the time");
    clock.set(NOON + HOUR);
    let outcome = tokio::time::timeout(LONG, turn.outcome()).await.expect("the turn ends");
    assert_eq!(outcome.text, "Good afternoon.");
    let log = entries(&second, session.id()).await;
    let said: Vec<_> =
        log.iter().filter(|entry| matches!(&entry.event, Event::UserMessage(UserMessage { text, .. }) if text == "Hi")).collect();
    assert_eq!((said.len(), of_type(&log, "note")), (1, 0));
    assert_eq!(answers.requests()[0].messages.len(), 1);
    assert_eq!(session.wait_left().await.expect("the log is read"), None, "it was answered");
    let is_answer = |message: &Message| matches!(message, Message::Assistant(_));
    assert!(
        session.state(|state| state
            .context
            .last()
            .and_then(|slot| slot.message.clone())
            .is_some_and(|message| is_answer(&message)))
    );
}

#[tokio::test]
async fn another_model_does_not_wait_for_what_the_first_was_asked_to_wait_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(SetClock::default());
    clock.set(NOON);
    let runtime = runtime(folder.path());
    let first = model("m", [asks_for_an_hour()]);
    let session = runtime.create(patient(&first, folder.path(), &clock)).await.expect("a session");
    let turn = session.send("Hi").await.expect("a turn");
    until_it_waits(&session, 1, &runtime).await;
    turn.interrupt();
    turn.outcome().await;
    session.set_model(model("other", [says("I am free.")])).expect("no turn runs");
    let left = session.wait_left().await.expect("the log is read").expect("a wait");
    let outcome = session.go_on_waiting(left).expect("a turn").outcome().await;
    assert_eq!(outcome.text, "I am free.");
    // With a model to fall back on, nothing is waited for either.
    let (first, second) = (model("m", [asks_for_an_hour()]), model("other", [says("So am I.")]));
    let mut both = patient(&first, folder.path(), &clock);
    both.fallbacks = vec![second];
    let session = runtime.create(both).await.expect("a session");
    assert_eq!(say(&session, "Hi").await.text, "So am I.");
}
