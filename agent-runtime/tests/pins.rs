//! Pins: what a person pinned stays in the context, in its place and word for word, whatever leaves it.

mod common;
#[path = "common/look.rs"]
mod look;

use agent_runtime::rerun::{Present, rerun};
use agent_runtime::session_store::{Event, Message, Origin, Seq, Slot};
use agent_runtime::{
    EndReason, Model, ModelLimits, PermissionMode, PinError, Runtime, ScriptedAnswer, ScriptedModel, Session, Setup,
};
use look::Look;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const LIMITS: ModelLimits = ModelLimits { context_window: 4_000, max_output_tokens: 500, token_factor: 1.0 };
/// Half of what such a window has for a request.
const MOST: u64 = (4_000 - 500 - 250) / 2;

struct World {
    runtime: Runtime,
    model: Arc<ScriptedModel>,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let model = Arc::new(ScriptedModel::new([]).with_limits(LIMITS));
        Self { runtime: common::runtime(folder.path()), model, folder }
    }

    fn setup(&self) -> Setup {
        let mut setup = Setup::new(Arc::clone(&self.model) as Arc<dyn Model>, self.folder.path());
        setup.tools = vec![Arc::new(Look)];
        setup.permissions.mode = PermissionMode::Allow;
        setup
    }

    async fn create(&self) -> Session {
        self.runtime.create(self.setup()).await.expect("created")
    }

    /// A turn; gives the message's own `seq`.
    async fn say(&self, session: &Session, text: &str, answers: impl IntoIterator<Item = ScriptedAnswer>) -> Seq {
        answers.into_iter().for_each(|answer| self.model.push(answer));
        let outcome = session.send(text).await.expect("a turn").outcome().await;
        assert_eq!(outcome.reason, EndReason::Done, "{:?}", outcome.error);
        let is_it = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::User { text: said, .. }) if said == text);
        session.state(|state| state.context.iter().rfind(|slot| is_it(slot)).expect("it was said").seq)
    }

    /// Turns of some 200 tokens each: many are more than there is room for.
    async fn go_on(&self, session: &Session, turns: usize) {
        let words = "some words that take room in the window ".repeat(20);
        for turn in 0..turns {
            self.say(session, &format!("message {turn}"), [ScriptedAnswer::new().text(format!("answer {turn}: {words}"))]).await;
        }
    }

    /// The messages of the last request.
    fn sent(&self) -> String {
        let requests = self.model.requests();
        serde_json::to_string_pretty(&requests.last().expect("a request").messages).expect("JSON")
    }

    /// Each request is built again from the log, and the loop sends the same ones again.
    async fn end(self, session: Session) {
        session.close().await.expect("closed");
        let models = |origin: &Origin, _: &[String]| {
            Some(Arc::new(ScriptedModel::new([]).with_origin(origin.clone()).with_limits(LIMITS)) as Arc<dyn Model>)
        };
        let present = Present { tools: vec![Arc::new(Look)], ..Present::new(Arc::new(models)) };
        let again = rerun(Arc::clone(self.runtime.store()), session.id(), present).await.expect("it can be read");
        assert!(again.is_same(), "{}\n{again:#?}", again.difference.as_ref().map_or("", |difference| &difference.diff));
        assert_eq!((again.rebuilt, again.resent, again.left_out.len()), (again.requests, again.requests, 0));
        self.runtime.shutdown(LONG).await.expect("everything durable");
    }
}

/// How many trims there were.
fn trims(session: &Session) -> usize {
    session.state(|state| state.undoable().count())
}

#[tokio::test]
async fn what_is_pinned_stays_in_its_place_word_for_word_through_trims_a_restart_and_a_fork() {
    let world = World::new();
    let session = world.create().await;
    world.go_on(&session, 1).await;
    let rule = world.say(&session, "THE RULE", [ScriptedAnswer::new().text("Understood.")]).await;
    world.go_on(&session, 1).await;
    let step = [ScriptedAnswer::new().text("I look.").tool_call("look", "{}"), ScriptedAnswer::new().text("I saw it.")];
    world.say(&session, "look there", step).await;
    let result = session.state(|state| state.context[state.context.len() - 2].seq);
    world.go_on(&session, 1).await;
    const PINNED: [&str; 3] = ["THE RULE", "I look.", "what was seen"];
    session.pin(rule).await.expect("pinned");
    session.pin(result).await.expect("pinned with its answer");
    assert_eq!(session.pinned_size().await.0, 3);
    let is_there = |world: &World, session: &Session| {
        assert!(trims(session) > 0);
        let sent = world.sent();
        let places: Vec<_> = PINNED.iter().map(|words| sent.find(&format!("\"{words}\"")).expect(words)).collect();
        assert!(places.is_sorted(), "{sent}");
        assert!(!sent.contains("Understood.") && !sent.contains("look there"), "all else left: {sent}");
    };
    world.go_on(&session, 40).await;
    is_there(&world, &session);
    assert!(session.trim().await.expect("nothing runs") > 0);
    world.go_on(&session, 1).await;
    is_there(&world, &session);

    session.close().await.expect("closed");
    let session = world.runtime.resume(session.id(), world.setup()).await.expect("resumed");
    world.go_on(&session, 20).await;
    is_there(&world, &session);
    session.flush().await.expect("durable");
    let fork = world.runtime.fork(session.id(), None, world.setup()).await.expect("forked");
    world.go_on(&fork, 20).await;
    is_there(&world, &fork);

    // Pins may change while a turn runs, and what is not pinned any more leaves with the next trim.
    world.model.push(ScriptedAnswer::new().text("Well."));
    let turn = session.send("one more").await.expect("a turn");
    session.unpin(rule).expect("unpinned");
    session.unpin(result).expect("unpinned");
    turn.outcome().await;
    world.go_on(&session, 40).await;
    let sent = world.sent();
    assert!(!PINNED.iter().any(|words| sent.contains(words)), "{sent}");
    world.end(session).await;
}

#[tokio::test]
async fn a_pin_goes_with_its_message_when_a_rewind_takes_it_and_comes_back_with_it() {
    let world = World::new();
    let session = world.create().await;
    world.go_on(&session, 1).await;
    let rule = world.say(&session, "THE RULE", [ScriptedAnswer::new().text("Understood.")]).await;
    session.pin(rule).await.expect("pinned");
    let rewind = session.rewind(rule - 1).expect("it goes back");
    assert_eq!(session.pinned_size().await.0, 0);
    assert!(matches!(session.pin(rule).await, Err(PinError::NotThere(seq)) if seq == rule));
    session.restore(rewind).await.expect("it comes back");
    world.go_on(&session, 40).await;
    assert!(trims(&session) > 1 && world.sent().contains("THE RULE"));
    world.end(session).await;
}

#[tokio::test]
async fn pins_take_half_of_the_context_at_most_and_what_cannot_be_pinned_says_why() {
    let world = World::new();
    let session = world.create().await;
    // A token a word.
    let long = |name: &str| format!("{name}{}", " word".repeat(1_000));
    let one = world.say(&session, &long("one"), [ScriptedAnswer::new().text("1")]).await;
    let two = world.say(&session, &long("two"), [ScriptedAnswer::new().text("2")]).await;
    session.pin(one).await.expect("there is room");
    let next = session.state(|state| state.next_seq);
    let Err(PinError::TooMuch { tokens, most }) = session.pin(two).await else { panic!("it is too much") };
    assert!(most == MOST && (2_000..2_100).contains(&tokens), "{tokens} of {most}");
    session.pin(one).await.expect("it is pinned already");
    session.unpin(two).expect("it is not pinned");
    let request = session.state(|state| state.last_request).expect("a request");
    for nothing in [request, 0, next + 9] {
        assert!(matches!(session.pin(nothing).await, Err(PinError::NotThere(seq)) if seq == nothing));
        assert!(matches!(session.unpin(nothing), Err(PinError::NotThere(_))));
    }
    assert_eq!(session.state(|state| state.next_seq), next, "none of that is an event");
    session.unpin(one).expect("unpinned");
    session.pin(two).await.expect("now there is room");
    assert_eq!(session.state(|state| state.pins.iter().copied().collect::<Vec<_>>()), [two]);

    let trimmed = session.trim().await.expect("nothing runs");
    assert!(trimmed > 0);
    let entries = common::entries(&world.runtime, session.id()).await;
    let trim = entries.iter().find(|entry| matches!(entry.event, Event::ContextTrimmed(_))).expect("a trim").seq;
    assert!(matches!(session.pin(trim).await, Err(PinError::NotThere(_))), "its note leaves with the next one");
    assert!(matches!(session.pin(one).await, Err(PinError::NotThere(_))), "it has left");
    world.end(session).await;
}
