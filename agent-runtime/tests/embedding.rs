//! What an embedder may rely on: what can be moved where, which calls run side by side, what is sent once, and what a slow reader misses.

mod common;

use agent_runtime::session_store::{Event, SessionId, ToolFinished, ToolSpec};
use agent_runtime::{
    Answer, EndReason, PermissionMode, Runtime, ScriptedAnswer, ScriptedModel, SendError, Session, Setup, Tool, ToolContext,
    ToolError, ToolOutput, Turn, TurnEvent, TurnOutcome, UserInput,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Barrier;
use tokio_stream::StreamExt;

/// Longer than anything here takes; a test that reaches it hangs.
const LONG: Duration = Duration::from_secs(30);

// What is handed out can be kept and moved between tasks and threads.
const _: () = {
    const fn is_shared<T: Send + Sync + 'static>() {}
    const fn is_moved<T: Send + Unpin + 'static>() {}
    is_shared::<Runtime>();
    is_shared::<Session>();
    is_shared::<Setup>();
    is_shared::<SendError>();
    is_shared::<TurnEvent>();
    is_shared::<TurnOutcome>();
    is_shared::<Answer>();
    is_shared::<ToolContext>();
    is_shared::<Arc<dyn Tool>>();
    is_moved::<Turn>();
};

/// The futures of all that is awaited can be spawned.
#[expect(dead_code, reason = "it has only to compile")]
fn futures_can_be_spawned(runtime: &'static Runtime, session: &'static Session, turn: &Turn, setup: Setup, id: SessionId) {
    fn is_spawned<F: Future + Send + 'static>(_: F) {}
    is_spawned(runtime.create(setup.clone()));
    is_spawned(runtime.create_as(id, setup.clone()));
    is_spawned(runtime.resume(id, setup.clone()));
    is_spawned(runtime.fork(id, None, setup));
    is_spawned(runtime.answer_to(id, "key"));
    is_spawned(runtime.shutdown(LONG));
    is_spawned(session.send("words"));
    is_spawned(session.send_follow_up("words"));
    is_spawned(session.trim());
    is_spawned(session.flush());
    is_spawned(session.close());
    is_spawned(turn.outcome());
}

struct World {
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { runtime: common::runtime(folder.path()), folder }
    }

    fn setup(&self, answers: impl IntoIterator<Item = ScriptedAnswer>, tools: Vec<Arc<dyn Tool>>) -> (Setup, Arc<ScriptedModel>) {
        let model = Arc::new(ScriptedModel::new(answers));
        let mut setup = Setup::new(Arc::clone(&model) as Arc<dyn agent_runtime::Model>, self.folder.path());
        setup.permissions.mode = PermissionMode::Allow;
        setup.tools = tools;
        (setup, model)
    }

    async fn session(
        &self,
        answers: impl IntoIterator<Item = ScriptedAnswer>,
        tools: Vec<Arc<dyn Tool>>,
    ) -> (Session, Arc<ScriptedModel>) {
        let (setup, model) = self.setup(answers, tools);
        (self.runtime.create(setup).await.expect("a session"), model)
    }
}

async fn outcome(turn: &Turn) -> Arc<TurnOutcome> {
    tokio::time::timeout(LONG, turn.outcome()).await.expect("the turn ends")
}

fn answer(text: &str) -> ScriptedAnswer {
    ScriptedAnswer::new().text(text)
}

/// What the tools of a test did, in order.
#[derive(Default)]
struct Diary {
    lines: Mutex<Vec<String>>,
    at_work: AtomicUsize,
    keys: Mutex<Vec<String>>,
}

impl Diary {
    fn note(&self, line: String) {
        self.lines.lock().expect("no panic").push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }
}

/// A reader ends only when `together` of them run at the same time; a writer has to be alone.
struct Noted {
    name: &'static str,
    side_effects: bool,
    diary: Arc<Diary>,
    together: Option<Barrier>,
}

#[async_trait]
impl Tool for Noted {
    fn spec(&self) -> ToolSpec {
        let parameters =
            json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false});
        ToolSpec { name: self.name.to_owned(), description: "Notes what it is asked.".to_owned(), parameters }
    }

    fn side_effects(&self) -> bool {
        self.side_effects
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("{} {arguments}", self.name)
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        self.diary.keys.lock().expect("no panic").push(context.idempotency_key());
        let beside = self.diary.at_work.fetch_add(1, Ordering::SeqCst);
        if self.side_effects && beside > 0 {
            self.diary.note(format!("{} runs beside another", arguments["n"]));
        }
        if let Some(together) = &self.together {
            together.wait().await;
        }
        tokio::task::yield_now().await;
        self.diary.note(format!("{} {}", self.name, arguments["n"]));
        self.diary.at_work.fetch_sub(1, Ordering::SeqCst);
        Ok(ToolOutput::text(arguments["n"].to_string()))
    }
}

fn tools(diary: &Arc<Diary>, together: usize) -> Vec<Arc<dyn Tool>> {
    let reader = Noted { name: "look", side_effects: false, diary: Arc::clone(diary), together: Some(Barrier::new(together)) };
    vec![Arc::new(reader), Arc::new(Noted { name: "change", side_effects: true, diary: Arc::clone(diary), together: None })]
}

fn calls(calls: &[(&str, &str)]) -> ScriptedAnswer {
    calls.iter().fold(ScriptedAnswer::new(), |answer, (name, arguments)| answer.tool_call(*name, *arguments))
}

async fn finished(world: &World, session: &Session) -> Vec<ToolFinished> {
    let entries = common::entries(&world.runtime, session.id()).await;
    let finished = entries.iter().filter_map(|entry| match &entry.event {
        Event::ToolFinished(result) => Some(result.clone()),
        _ => None,
    });
    finished.collect()
}

#[tokio::test]
async fn calls_that_only_read_run_side_by_side_and_those_that_change_something_alone_and_in_order() {
    let world = World::new();
    let diary = Arc::new(Diary::default());
    // Each pair of readers ends only together: side by side, or never.
    let asked = calls(&[
        ("look", r#"{"n":1}"#),
        ("look", r#"{"n":2}"#),
        ("change", r#"{"n":3}"#),
        ("change", r#"{"n":4}"#),
        ("look", r#"{"n":5}"#),
        ("look", r#"{"n":6}"#),
    ]);
    let (session, _) = world.session([asked, answer("Done.")], tools(&diary, 2)).await;
    let turn = session.send("go").await.expect("a turn");
    assert_eq!(outcome(&turn).await.reason, EndReason::Done);
    let mut lines = diary.lines();
    lines[..2].sort();
    lines[4..].sort();
    assert_eq!(lines, ["look 1", "look 2", "change 3", "change 4", "look 5", "look 6"]);
    let results: Vec<String> = finished(&world, &session).await.into_iter().map(|result| result.output).collect();
    assert_eq!(results, ["1", "2", "3", "4", "5", "6"], "results come in the order of the calls");
}

#[tokio::test]
async fn arguments_of_an_embedders_tool_are_checked_and_the_model_is_told_what_it_takes() {
    let world = World::new();
    let diary = Arc::new(Diary::default());
    let asked = calls(&[("change", r#"{"n":"one"}"#), ("change", "{}"), ("change", r#"{"n":1,"m":2}"#), ("change", "{\"n\":")]);
    let (session, _) = world.session([asked, answer("I see.")], tools(&diary, 1)).await;
    let turn = session.send("go").await.expect("a turn");
    assert_eq!(outcome(&turn).await.reason, EndReason::Done);
    assert!(diary.lines().is_empty(), "nothing ran");
    let results = finished(&world, &session).await;
    for (result, why) in results.iter().zip(["at `/n`", "\"n\" is a required", "'m' was unexpected", "not valid JSON"]) {
        assert!(result.output.contains(why), "{why}: {}", result.output);
    }
    assert!(results[0].output.contains("It takes `n` (required)"), "{}", results[0].output);
}

#[tokio::test]
async fn each_call_has_a_key_of_its_own_which_is_told_by_the_log() {
    let world = World::new();
    let diary = Arc::new(Diary::default());
    let asked = || calls(&[("change", r#"{"n":1}"#), ("change", r#"{"n":1}"#)]);
    let mut known = Vec::new();
    for _ in 0..2 {
        let (session, _) = world.session([asked(), answer("Done.")], tools(&diary, 1)).await;
        let turn = session.send("go").await.expect("a turn");
        outcome(&turn).await;
        let id = session.id();
        session.close().await.expect("a close");
        // Opened again, the calls have the same names.
        let (setup, _) = world.setup([asked(), answer("Done.")], tools(&diary, 1));
        let session = world.runtime.resume(id, setup).await.expect("it resumes");
        let turn = session.send("again").await.expect("a turn");
        outcome(&turn).await;
        known.extend(finished(&world, &session).await.into_iter().map(|result| format!("{id}/{}", result.call)));
    }
    let mut keys = diary.keys.lock().expect("no panic").clone();
    assert_eq!(keys, known);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 8, "no two calls have one key, though all of them ask for the same");
}

#[tokio::test]
async fn a_reader_who_comes_late_misses_nothing_that_left_memory_long_ago() {
    const CALLS: usize = 300;
    let world = World::new();
    let diary = Arc::new(Diary::default());
    let asked = (0..CALLS).fold(ScriptedAnswer::new(), |answer, n| answer.tool_call("change", format!("{{\"n\":{n}}}")));
    let (session, _) = world.session([asked, answer("Done.")], tools(&diary, 1)).await;
    let mut turn = session.send("go").await.expect("a turn");
    outcome(&turn).await;
    let mut seqs = Vec::new();
    while let Some(event) = tokio::time::timeout(LONG, turn.next()).await.expect("it goes on") {
        if let TurnEvent::Entry(entry) = event {
            seqs.push(entry.seq);
        }
    }
    assert!(seqs.len() > 3 * CALLS && seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{} events", seqs.len());
}

#[tokio::test]
async fn a_message_with_a_key_is_sent_once_whoever_sends_it_and_whenever() {
    let world = World::new();
    let (session, model) =
        world.session([answer("The answer").wait(Duration::from_secs(2)), answer("Another.")], Vec::new()).await;
    let message = || UserInput::text("the question").with_key("k");
    // Two at once: one turn, and two cursors on it.
    let (one, two) = tokio::join!(session.send(message()), session.send(message()));
    let (one, two) = (one.expect("a turn"), two.expect("the same turn"));
    assert!(matches!(session.send("something else").await, Err(SendError::Busy)));
    assert_eq!((outcome(&one).await.text.as_str(), outcome(&two).await.text.as_str()), ("The answer", "The answer"));
    let again = session.send(message()).await.expect("its answer");
    assert_eq!(outcome(&again).await.text, "The answer");
    assert!(
        matches!(session.send(UserInput::text("another question").with_key("k")).await, Err(SendError::KeyTaken(key)) if key == "k")
    );
    assert!(matches!(session.send(UserInput::text("a question").with_key("")).await, Err(SendError::BadKey)));
    assert_eq!(model.requests().len(), 1);

    // In another process, as it were, with another turn in between.
    let between = session.send("between").await.expect("a turn");
    outcome(&between).await;
    let id = session.id();
    session.close().await.expect("a close");
    let answered = world.runtime.answer_to(id, "k").await.expect("it is read").expect("it was answered");
    assert_eq!(answered.outcome.text, "The answer");
    assert!(world.runtime.answer_to(id, "another").await.expect("it is read").is_none());
    let (setup, model) = world.setup([], Vec::new());
    let session = world.runtime.resume(id, setup).await.expect("it resumes");
    let again = session.send(message()).await.expect("its answer");
    assert_eq!((outcome(&again).await.text.as_str(), model.requests().len()), ("The answer", 0));
}

#[tokio::test]
async fn all_turns_can_be_stopped_at_once() {
    let world = World::new();
    let mut turns = Vec::new();
    for _ in 0..5 {
        let (session, _) = world.session([answer("never").wait(LONG)], Vec::new()).await;
        turns.push(session.send("go").await.expect("a turn"));
    }
    world.runtime.interrupt_all("SIGTERM");
    for turn in &turns {
        assert_eq!(outcome(turn).await.reason, EndReason::Interrupted);
    }
}
