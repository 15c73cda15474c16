//! Going back and coming back, and messages that wait, as an embedder sees them, against a model that plays a script.

use agent_runtime::session_store::{FileStore, FileStoreOptions};
use agent_runtime::{
    EndReason, Model, QUEUED_MAX, RewindError, Runtime, ScriptedAnswer, ScriptedModel, SendError, Sent, Session, Setup,
};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

struct World {
    runtime: Runtime,
    model: Arc<ScriptedModel>,
    session: Session,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = FileStore::open(FileStoreOptions::new(folder.path())).expect("a store");
        let runtime = Runtime::new(Arc::new(store));
        let model = Arc::new(ScriptedModel::new([]));
        let setup = Setup::new(Arc::clone(&model) as Arc<dyn Model>, folder.path());
        let session = runtime.create(setup).await.expect("a session");
        Self { runtime, model, session, _folder: folder }
    }

    /// A turn; gives the message's own `seq`.
    async fn say(&self, text: &str) -> u64 {
        self.model.push(ScriptedAnswer::new().text(format!("You said {text}.")));
        let at = self.session.state(|state| state.next_seq);
        let outcome = self.session.send(text).await.expect("a turn").outcome().await;
        assert_eq!(outcome.reason, EndReason::Done, "{:?}", outcome.error);
        at
    }

    /// The texts of the last request.
    fn sent(&self) -> String {
        let requests = self.model.requests();
        let texts = requests.last().expect("a request").messages.iter().map(|sent| match sent {
            Sent::User(parts) => parts.iter().filter_map(|part| part.text()).collect::<Vec<_>>().join(" "),
            _ => String::new(),
        });
        texts.collect::<Vec<_>>().join(" ")
    }
}

#[tokio::test]
async fn a_rewind_takes_messages_out_of_what_is_sent_and_undoing_it_brings_them_back() {
    let world = World::new().await;
    world.say("red").await;
    let green = world.say("green").await;
    let rewind = world.session.rewind(green - 1).expect("it goes back");
    world.say("blue").await;
    assert_eq!(world.sent().split_whitespace().collect::<Vec<_>>(), ["red", "blue"]);
    let undo = world.session.restore(rewind).await.expect("it comes back");
    world.say("more").await;
    assert_eq!(world.sent().split_whitespace().collect::<Vec<_>>(), ["red", "green", "more"]);
    world.session.restore(undo).await.expect("the undoing is undone");
    world.say("end").await;
    assert_eq!(world.sent().split_whitespace().collect::<Vec<_>>(), ["red", "blue", "end"]);
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn a_trim_can_be_undone_also_after_a_restart() {
    let world = World::new().await;
    for text in ["red", "green", "blue"] {
        world.say(text).await;
    }
    let left = world.session.trim().await.expect("a trim");
    assert!(left > 0);
    let id = world.session.id();
    world.session.close().await.expect("it closes");
    let setup = Setup::new(Arc::clone(&world.model) as Arc<dyn Model>, "/");
    let session = world.runtime.resume(id, setup).await.expect("it opens");
    let trim = session.state(|state| state.undo_list().next_back()).expect("the trim");
    assert_eq!((trim.rewound_to, trim.messages), (None, left));
    session.restore(trim.by).await.expect("it comes back");
    let whole = session.state(|state| state.context.iter().all(|slot| slot.message.is_some()) && state.context.len() == 6);
    assert!(whole, "all messages are there, with their words");
    let world = World { session, ..world };
    world.say("more").await;
    assert_eq!(world.sent().split_whitespace().collect::<Vec<_>>(), ["red", "green", "blue", "more"]);
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn what_cannot_be_done_says_why_and_changes_nothing() {
    let world = World::new().await;
    world.say("red").await;
    let next = world.session.state(|state| state.next_seq);
    assert!(matches!(world.session.rewind(next), Err(RewindError::Unknown(seq)) if seq == next));
    assert!(matches!(world.session.rewind(next - 1), Err(RewindError::Nothing(_))));
    assert!(matches!(world.session.restore(1).await, Err(RewindError::NotUndoable(1))));
    world.model.push(ScriptedAnswer::new().text("I think").wait(LONG));
    let turn = world.session.send("wait").await.expect("a turn");
    assert!(matches!(world.session.rewind(0), Err(RewindError::Busy)));
    assert!(matches!(world.session.restore(1).await, Err(RewindError::Busy)));
    turn.interrupt();
    turn.outcome().await;
    world.session.rewind(0).expect("now it goes back");
    assert!(world.session.state(|state| state.context.is_empty()));
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn a_message_that_waits_is_in_the_log_at_once_and_nobody_sends_it_after_a_restart() {
    let world = World::new().await;
    world.model.push(ScriptedAnswer::new().text("I think").wait(LONG));
    let turn = world.session.send("wait").await.expect("a turn");
    let first = world.session.queue("first").await.expect("it waits");
    let second = world.session.queue("second").await.expect("it waits");
    let third = world.session.queue("second").await.expect("it waits");
    assert_eq!(world.session.withdraw(second).expect("it is taken back"), "second");
    assert!(matches!(world.session.withdraw(second), Err(SendError::NotQueued(seq)) if seq == second));
    assert!(matches!(world.session.send_queued(first).await, Err(SendError::Busy)));
    while world.model.left() > 0 {
        tokio::task::yield_now().await;
    }
    turn.interrupt();
    turn.outcome().await;
    let id = world.session.id();
    world.session.close().await.expect("it closes");

    let setup = Setup::new(Arc::clone(&world.model) as Arc<dyn Model>, "/");
    let session = world.runtime.resume(id, setup).await.expect("it opens");
    assert_eq!(session.queued().iter().map(|queued| queued.seq).collect::<Vec<_>>(), [first, third]);
    assert_eq!(world.model.requests().len(), 1, "nothing is sent by itself");
    world.model.push(ScriptedAnswer::new().text("Done."));
    let outcome = session.send_queued(first).await.expect("a turn").outcome().await;
    assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, "Done."));
    let world = World { session, ..world };
    assert!(world.sent().ends_with("first"), "{}", world.sent());
    assert_eq!(world.session.queued().iter().map(|queued| queued.seq).collect::<Vec<_>>(), [third]);
    for number in 1..QUEUED_MAX {
        world.session.queue(format!("number {number}")).await.expect("there is room");
    }
    assert!(matches!(world.session.queue("one too many").await, Err(SendError::QueueFull)));
    world.runtime.shutdown(LONG).await.expect("everything durable");
}
