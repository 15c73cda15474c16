//! Summaries of what leaves the context window: made beside the turn, in the note of the trim once that comes, and never in the way.

mod common;

use agent_runtime::rerun::{Present, rerun};
use agent_runtime::session_store::{ContextSummarized, ContextTrimmed, Entry, Event, Origin, Usage};
use agent_runtime::{
    Body, Clocks, Conversation, EndReason, FailureKind, Model, ModelFailure, ModelLimits, ModelStream, RetryPolicy, Runtime,
    ScriptedAnswer, ScriptedModel, Secrets, SendError, Sent, Session, Setup, SpendingLimit, Spent,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const LIMITS: ModelLimits = ModelLimits { context_window: 4_000, max_output_tokens: 500, token_factor: 1.0 };

/// A model that answers the turns from one script and what asks for a summary from another: both may come at once.
struct Both {
    turns: ScriptedModel,
    summaries: ScriptedModel,
}

#[async_trait]
impl Model for Both {
    fn origin(&self) -> &Origin {
        self.turns.origin()
    }

    fn limits(&self) -> ModelLimits {
        LIMITS
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        self.turns.body(conversation)
    }

    fn head(&self, conversation: &Conversation) -> Option<Vec<u8>> {
        self.turns.head(conversation)
    }

    fn messages(&self, messages: &[Sent]) -> Body {
        self.turns.messages(messages)
    }

    async fn call(&self, body: Body, clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        let is_for_summary = String::from_utf8_lossy(&body.to_bytes()).contains("request of the program");
        if is_for_summary { self.summaries.call(body, clocks).await } else { self.turns.call(body, clocks).await }
    }
}

struct World {
    runtime: Runtime,
    model: Arc<Both>,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model = Arc::new(Both { turns: ScriptedModel::new([]), summaries: ScriptedModel::new([]) });
        Self { runtime: common::runtime(folder.path()), model, folder }
    }

    fn setup(&self) -> Setup {
        let mut setup = Setup::new(Arc::clone(&self.model) as Arc<dyn Model>, self.folder.path());
        setup.retry = RetryPolicy { scale: 0.0, ..RetryPolicy::default() };
        setup.summarize = true;
        setup
    }

    async fn session(&self, setup: Setup) -> Session {
        self.runtime.create(setup).await.expect("created")
    }

    /// A turn with an answer of some 200 tokens.
    async fn turn(&self, session: &Session, number: usize) {
        let words = "some words that take room in the window ".repeat(20);
        self.model.turns.push(ScriptedAnswer::new().text(format!("answer {number}: {words}")));
        let outcome = session.send(&format!("message {number}")).await.expect("a turn").outcome().await;
        assert_eq!(outcome.reason, EndReason::Done, "{:?}", outcome.error);
    }

    /// A turn, and then, where a summary was asked for in it or before, what `is_ready` waits for: the next turns may be too fast for it.
    async fn turn_until(&self, session: &Session, number: usize, is_ready: impl Fn() -> bool) {
        let trims = || session.state(|state| state.undoable().count());
        let ((tokens, room), before) = (session.context_size().await, trims());
        self.turn(session, number).await;
        while tokens > room / 4 * 3 && trims() == before && !is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends the test: each request, those for summaries among them, is built again from the log, and the loop sends the same ones again.
    async fn end(self, session: Session) -> Vec<Arc<Entry>> {
        session.close().await.expect("closed");
        let models = |origin: &Origin, _: &[String]| {
            Some(Arc::new(ScriptedModel::new([]).with_origin(origin.clone()).with_limits(LIMITS)) as Arc<dyn Model>)
        };
        let again = rerun(Arc::clone(self.runtime.store()), session.id(), Present::new(Arc::new(models))).await;
        let again = again.expect("it can be read");
        assert!(again.is_same(), "{}\n{again:#?}", again.difference.as_ref().map_or("", |difference| &difference.diff));
        assert_eq!((again.rebuilt, again.left_out.len()), (again.requests, 0));
        let entries = common::entries(&self.runtime, session.id()).await;
        self.runtime.shutdown(LONG).await.expect("everything durable");
        entries
    }
}

fn trims(entries: &[Arc<Entry>]) -> Vec<&ContextTrimmed> {
    entries.iter().filter_map(|entry| if let Event::ContextTrimmed(trim) = &entry.event { Some(trim) } else { None }).collect()
}

fn summaries(entries: &[Arc<Entry>]) -> Vec<&ContextSummarized> {
    entries.iter().filter_map(|entry| if let Event::ContextSummarized(made) = &entry.event { Some(made) } else { None }).collect()
}

fn used(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
}

#[tokio::test]
async fn a_summary_is_made_beside_the_turns_and_is_in_the_note_when_the_trim_comes() {
    let world = World::new();
    for number in 0..9 {
        world.model.summaries.push(ScriptedAnswer::new().text(format!("SUMMARY {number}")).usage(used(1_000, 7)));
    }
    let session = world.session(world.setup()).await;
    let is_ready = || session.state(|state| state.summary.as_ref().is_some_and(|summary| summary.text.is_some()));
    for number in 0..40 {
        world.turn_until(&session, number, is_ready).await;
    }
    let (used, model) = (session.state(|state| state.usage), Arc::clone(&world.model));
    let entries = world.end(session).await;
    let (trims, made) = (trims(&entries), summaries(&entries));
    assert!(trims.len() > 1 && made.len() >= trims.len(), "{} trims, {} summaries", trims.len(), made.len());
    for trim in &trims {
        let of = trim.summary.expect("each was ready in time");
        let Event::ContextSummarized(summary) = &entries[of as usize].event else { panic!("{of} is no summary") };
        assert!(trim.note.contains(&summary.text), "{}", trim.note);
    }
    assert_eq!(used.input_tokens, Some(1_000 * made.len() as u64), "what they used is counted");
    let mut spent = Spent::default();
    entries.iter().for_each(|entry| spent.take_in(&entry.event, &agent_runtime::ModelTable::built_in()));
    assert_eq!((spent.calls, spent.usage.output_tokens), (40 + made.len() as u64, Some(7 * made.len() as u64)));

    let requests = model.turns.requests();
    let changes = requests.windows(2).filter(|pair| !pair[1].messages.starts_with(&pair[0].messages)).count();
    assert_eq!(changes, trims.len(), "a summary changes nothing that was sent, before its trim");
    let asked = &model.summaries.requests()[0].messages;
    let before = requests.iter().rfind(|request| asked.starts_with(&request.messages[..request.messages.len() - 1]));
    assert!(before.is_some(), "it is asked for behind the conversation as it was sent");
}

#[tokio::test]
async fn a_summary_that_fails_leaves_the_plain_note_and_is_asked_for_once() {
    let world = World::new();
    let failed = || ScriptedAnswer::failure(ModelFailure::new(FailureKind::Server, "a 503"));
    // A call is tried five times.
    (0..5).for_each(|_| world.model.summaries.push(failed()));
    let session = world.session(world.setup()).await;
    let has_failed = || world.model.summaries.requests().len() == 5 && session.state(|state| state.summary.is_none());
    let mut number = 0;
    while session.state(|state| state.undoable().count()) == 0 {
        world.turn_until(&session, number, has_failed).await;
        number += 1;
    }
    assert_eq!(world.model.summaries.requests().len(), 5);
    assert_eq!(session.summary_failed().await, "a 503", "whoever waits is told, also between turns");
    assert!(session.summary_failed().now_or_never().is_none(), "once");
    let entries = world.end(session).await;
    let [made] = summaries(&entries)[..] else { panic!("one summary was asked for") };
    assert_eq!((made.text.as_str(), made.error.as_deref()), ("", Some("a 503")));
    assert!(trims(&entries).iter().all(|trim| trim.summary.is_none() && !trim.note.contains("in short")));
}

#[tokio::test]
async fn a_trim_does_not_wait_for_a_summary_and_calls_it_off() {
    let world = World::new();
    world.model.summaries.push(ScriptedAnswer::new().text("SUMM").wait(LONG).text("ARY"));
    let session = world.session(world.setup()).await;
    let mut number = 0;
    while session.state(|state| state.undoable().count()) == 0 {
        world.turn_until(&session, number, || !world.model.summaries.requests().is_empty()).await;
        number += 1;
    }
    let entries = world.end(session).await;
    assert!(trims(&entries)[0].summary.is_none());
    let made = summaries(&entries);
    assert_eq!(made[0].error.as_deref(), Some("it was called off"));
}

#[tokio::test]
async fn a_session_is_compacted_on_demand_and_that_can_be_undone() {
    let world = World::new();
    let mut setup = world.setup();
    setup.summarize = false;
    setup.secrets = Secrets::from_env(&[("THEIR_API_KEY".to_owned(), "sk-very-secret-123456".to_owned())]);
    let session = world.session(setup).await;
    for number in 0..4 {
        world.turn(&session, number).await;
    }
    assert_eq!(world.model.summaries.requests().len(), 0, "nobody wanted one");
    world.model.summaries.push(ScriptedAnswer::new().text("They talked."));
    let compacted = session.compact(Some("the colours, and sk-very-secret-123456")).await.expect("nothing runs");
    assert!(compacted.messages > 0 && compacted.without_summary.is_none(), "{compacted:?}");
    let asked = format!("{:?}", world.model.summaries.requests()[0].messages.last());
    assert!(asked.contains("the colours, and «secret:") && !asked.contains("very-secret"), "{asked}");
    world.turn(&session, 4).await;
    let sent = format!("{:?}", world.model.turns.requests().last().expect("a request").messages);
    assert!(sent.contains("They talked.") && !sent.contains("answer 1"), "{sent}");

    let trim = session.state(|state| state.undoable().next_back()).expect("it can be undone");
    session.restore(trim).await.expect("it comes back");
    world.turn(&session, 5).await;
    let sent = format!("{:?}", world.model.turns.requests().last().expect("a request").messages);
    assert!(!sent.contains("They talked.") && sent.contains("answer 1") && sent.contains("answer 4"), "{sent}");
    world.end(session).await;
}

#[tokio::test]
async fn compacting_is_stopped_at_once_and_then_nothing_has_changed() {
    let world = World::new();
    let session = world.session(world.setup()).await;
    world.turn(&session, 0).await;
    world.turn(&session, 1).await;
    world.model.summaries.push(ScriptedAnswer::new().text("SUMM").wait(LONG));
    let before = session.state(|state| state.context.len());
    let compacting = tokio::spawn({
        let session = session.clone();
        async move { session.compact(None).await }
    });
    while world.model.summaries.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(session.send("now").await, Err(SendError::Busy)));
    session.interrupt("user");
    let compacted = compacting.await.expect("no panic").expect("accepted");
    assert_eq!((compacted.messages, session.state(|state| state.context.len())), (0, before));
    world.turn(&session, 2).await;
    world.end(session).await;
}

#[tokio::test]
async fn a_session_without_budget_is_compacted_without_a_summary() {
    let world = World::new();
    let mut setup = world.setup();
    setup.spending = Some(SpendingLimit { tokens: Some(100), ..SpendingLimit::default() });
    let session = world.session(setup).await;
    world.turn(&session, 0).await;
    world.model.turns.push(ScriptedAnswer::new().text("one").usage(used(90, 20)));
    session.send("one").await.expect("a turn").outcome().await;
    let compacted = session.compact(None).await.expect("nothing runs");
    assert!(compacted.without_summary.is_some_and(|why| why.contains("budget")));
    assert!(compacted.messages > 0 && world.model.summaries.requests().is_empty());
    world.end(session).await;
}
