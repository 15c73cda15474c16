//! A stored session run again: the same program says that nothing differs, and a changed one what does, and by what.

mod common;

use agent_runtime::rerun::{BuildModel, Cause, Present, Rerun, rerun};
use agent_runtime::session_store::{Entry, Event, ModelRequest, NewSession, Origin, SessionId, ToolSpec, Usage};
use agent_runtime::{
    Body, Clocks, Conversation, EndReason, FailureKind, Model, ModelFailure, ModelLimits, ModelStream, PermissionMode,
    RetryPolicy, Runtime, ScriptedAnswer, ScriptedModel, Setup, SpendingLimit, Tool, ToolContext, ToolError, ToolOutput,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

struct World {
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { runtime: common::runtime(folder.path()), folder }
    }

    fn setup(&self, answers: impl IntoIterator<Item = ScriptedAnswer>, limits: ModelLimits) -> Setup {
        let mut setup = Setup::new(Arc::new(ScriptedModel::new(answers).with_limits(limits)), self.folder.path());
        setup.system = Some("Be brief.".to_owned());
        setup.tools = vec![Arc::new(Look { description: "Looks." })];
        setup.permissions.mode = PermissionMode::Allow;
        setup.retry = RetryPolicy { scale: 0.0, ..RetryPolicy::default() };
        setup
    }

    /// A session of a turn for each of `answers`.
    async fn session(&self, answers: impl IntoIterator<Item = Vec<ScriptedAnswer>>) -> SessionId {
        let answers: Vec<_> = answers.into_iter().collect();
        let turns = answers.len();
        let session =
            self.runtime.create(self.setup(answers.into_iter().flatten(), ModelLimits::default())).await.expect("created");
        for turn in 0..turns {
            session.send(&format!("question {turn}")).await.expect("accepted").outcome().await;
        }
        session.close().await.expect("closed");
        session.id()
    }

    /// The same program.
    fn present(&self) -> Present {
        present_with(ModelLimits::default())
    }

    async fn rerun(&self, id: SessionId, present: Present) -> Rerun {
        rerun(Arc::clone(self.runtime.store()), id, present).await.expect("it can be read")
    }

    async fn entries(&self, id: SessionId) -> Vec<Arc<Entry>> {
        common::entries(&self.runtime, id).await
    }

    /// A copy of a session whose events `change` changed.
    async fn changed(&self, id: SessionId, mut change: impl FnMut(&mut Event)) -> SessionId {
        let entries = self.entries(id).await;
        let copy = self.runtime.store().create(NewSession::default()).await.expect("created");
        let first = entries.iter().position(|entry| matches!(entry.event, Event::Profile(_))).expect("a profile");
        for entry in &entries[first..] {
            let mut event = entry.event.clone();
            if !matches!(event, Event::Closed(_)) {
                change(&mut event);
                copy.log.append(event).expect("accepted");
            }
        }
        copy.log.close().await.expect("closed");
        copy.log.id()
    }
}

fn scripted(limits: ModelLimits) -> BuildModel {
    Arc::new(move |origin: &Origin, _: &[String]| {
        Some(Arc::new(ScriptedModel::new([]).with_origin(origin.clone()).with_limits(limits)) as Arc<dyn Model>)
    })
}

fn present_with(limits: ModelLimits) -> Present {
    let mut present = Present::new(scripted(limits));
    present.tools = vec![Arc::new(Look { description: "Looks." })];
    present
}

struct Look {
    description: &'static str,
}

#[async_trait]
impl Tool for Look {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: "look".into(), description: self.description.into(), parameters: json!({"type": "object"}) }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _arguments: &Value) -> String {
        "look".to_owned()
    }

    async fn run(&self, _arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        // What no second run would give.
        Ok(ToolOutput::text(format!("seen by {} at {:?}", context.call, std::time::Instant::now())))
    }
}

fn look() -> ScriptedAnswer {
    ScriptedAnswer::new().text("I look.").tool_call("look", "{}")
}

fn say(text: &str) -> ScriptedAnswer {
    ScriptedAnswer::new().text(text)
}

#[tokio::test]
async fn the_same_program_sends_the_same() {
    let world = World::new();
    let broken = ModelFailure::new(FailureKind::Server, "a 503");
    let id = world
        .session([
            vec![look(), look().tool_call("look", "no json"), say("Done.")],
            vec![ScriptedAnswer::failure(broken), say("Half an").cut(), say(" answer.")],
            vec![ScriptedAnswer::failure(ModelFailure::new(FailureKind::Auth, "no key"))],
            vec![say("Back.")],
        ])
        .await;
    let again = world.rerun(id, world.present()).await;
    assert!(again.is_same(), "{again:#?}");
    assert_eq!((again.requests, again.rebuilt, again.resent, again.turns), (8, 8, 8, 4));
    assert_eq!(again.left_out, []);
}

#[tokio::test]
async fn words_of_the_loop_are_made_again_and_words_from_outside_are_taken_as_they_came() {
    let world = World::new();
    let mut setup = world.setup([look(), say("no JSON"), say("{}"), say("{}")], ModelLimits::default());
    setup.output_schema = Some(json!({"type": "object"}));
    let session = world.runtime.create(setup).await.expect("created");
    session.send("in JSON").await.expect("accepted").outcome().await;
    session.note("It is late.").expect("accepted");
    session.send("again").await.expect("accepted").outcome().await;
    session.close().await.expect("closed");
    let again = world.rerun(session.id(), world.present()).await;
    assert!(again.is_same(), "{again:#?}");
    assert_eq!((again.requests, again.resent, again.left_out.len()), (4, 4, 0));
}

#[tokio::test]
async fn a_budget_ends_a_turn_after_a_whole_step_and_more_can_be_allowed() {
    let world = World::new();
    let usage = Usage { input_tokens: Some(900), output_tokens: Some(100), ..Usage::default() };
    let mut setup = world.setup((0..9).map(|_| look().usage(usage)), ModelLimits::default());
    setup.spending = Some(SpendingLimit { tokens: Some(2_500), ..SpendingLimit::default() });
    let session = world.runtime.create(setup).await.expect("created");
    let ended = session.send("look").await.expect("accepted").outcome().await;
    assert_eq!((ended.reason, ended.model_calls), (EndReason::Budget, 3), "the third call reaches it");
    assert!(session.state(|state| state.unresolved.is_empty()), "every call has its result");
    let ended = session.send("go on").await.expect("accepted").outcome().await;
    assert_eq!((ended.reason, ended.model_calls), (EndReason::Budget, 0), "nothing is left");
    session.allow_more();
    let ended = session.retry().expect("a turn").outcome().await;
    assert_eq!((ended.reason, ended.model_calls), (EndReason::Budget, 2), "as much again: 5,000");
    session.close().await.expect("closed");

    // Whoever resumes it counts what was spent before.
    let mut setup = world.setup([look().usage(usage), say("Done.")], ModelLimits::default());
    setup.spending = Some(SpendingLimit { tokens: Some(5_500), ..SpendingLimit::default() });
    let resumed = world.runtime.resume(session.id(), setup).await.expect("resumed");
    let ended = resumed.send("go on").await.expect("accepted").outcome().await;
    assert_eq!((ended.reason, ended.model_calls), (EndReason::Budget, 1));
    resumed.close().await.expect("closed");
    let again = world.rerun(session.id(), world.present()).await;
    assert!(again.is_same() && again.resent == 6 && again.left_out.is_empty(), "{again:#?}");
}

#[tokio::test]
async fn a_call_that_was_denied_is_denied_again_although_its_tool_asks_nobody() {
    let world = World::new();
    let mut setup = world.setup([look(), say("Then not.")], ModelLimits::default());
    setup.permissions.disallowed = ["look".to_owned()].into();
    let session = world.runtime.create(setup).await.expect("created");
    let outcome = session.send("Look.").await.expect("accepted").outcome().await;
    assert_eq!((outcome.reason, outcome.denials.len()), (EndReason::Done, 1));
    session.close().await.expect("closed");
    let report = world.rerun(session.id(), world.present()).await;
    assert!(report.is_same(), "{report:#?}");
    assert_eq!((report.resent, report.left_out.len()), (2, 0));
}

#[tokio::test]
async fn messages_that_an_undo_brought_back_are_sent_again() {
    let world = World::new();
    let answers = ["one", "two", "three"].map(say);
    let session = world.runtime.create(world.setup(answers, ModelLimits::default())).await.expect("created");
    session.send("first").await.expect("accepted").outcome().await;
    let to = session.state(|state| state.next_seq - 1);
    session.send("second").await.expect("accepted").outcome().await;
    let undo = session.rewind(to).expect("no turn runs");
    session.restore(undo).await.expect("it can be undone");
    session.send("third").await.expect("accepted").outcome().await;
    session.close().await.expect("closed");
    let report = world.rerun(session.id(), world.present()).await;
    assert!(report.is_same(), "{report:#?}");
    assert_eq!((report.rebuilt, report.resent), (3, 3));
}

#[tokio::test]
async fn a_changed_profile_is_found_and_named() {
    let world = World::new();
    let id = world.session([vec![look(), say("Done.")]]).await;

    let mut present = world.present();
    present.system = Some("Be thorough.".to_owned());
    let difference = world.rerun(id, present).await.difference.expect("another system text");
    assert_eq!(difference.causes, [Cause::Profile("the system text".to_owned())]);
    assert_eq!(difference.request, 1);
    let (then, now) = ("-    \"system\": \"Be brief.\"", "+    \"system\": \"Be thorough.\"");
    assert!(difference.diff.contains(then) && difference.diff.contains(now), "{}", difference.diff);

    let mut present = world.present();
    present.tools = vec![Arc::new(Look { description: "Looks closely." })];
    let difference = world.rerun(id, present).await.difference.expect("another tool");
    assert_eq!(difference.causes, [Cause::Profile("the description of the tool `look`".to_owned())]);

    let mut present = world.present();
    present.tools.clear();
    let difference = world.rerun(id, present).await.difference.expect("no tool");
    assert_eq!(difference.causes, [Cause::Profile("the tool `look` is gone".to_owned())]);
}

/// A model whose body has another form than the recorded one.
struct OtherForm(ScriptedModel);

#[async_trait]
impl Model for OtherForm {
    fn origin(&self) -> &Origin {
        self.0.origin()
    }

    fn limits(&self) -> ModelLimits {
        self.0.limits()
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        // Another rule for answers that were cut, say: only later requests differ.
        let body = String::from_utf8(self.0.body(conversation).to_vec()).expect("text");
        body.replace("I look.", "I looked.").into()
    }

    async fn call(&self, body: Body, clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        self.0.call(body, clocks).await
    }
}

#[tokio::test]
async fn a_changed_rule_is_found_at_the_first_request_that_it_changes() {
    let world = World::new();
    let id = world.session([vec![look(), say("Done.")]]).await;
    let mut present = world.present();
    present.models = Arc::new(|origin: &Origin, _: &[String]| {
        Some(Arc::new(OtherForm(ScriptedModel::new([]).with_origin(origin.clone()))) as Arc<dyn Model>)
    });
    let again = world.rerun(id, present).await;
    assert_eq!((again.requests, again.rebuilt, again.changed.len()), (2, 1, 1));
    let difference = again.difference.expect("another form");
    assert_eq!((difference.request, difference.seq), (2, again.changed[0]));
    assert!(matches!(&difference.causes[..], [Cause::Code(what)] if what.contains("projection")), "{difference:?}");
}

#[tokio::test]
async fn a_changed_table_of_models_is_found_and_named() {
    let world = World::new();
    let small = ModelLimits { context_window: 4_000, max_output_tokens: 1_000, token_factor: 1.0 };
    let answers = (0..30).map(|turn| say(&format!("Answer {turn}: {}", "word ".repeat(200))));
    let session = world.runtime.create(world.setup(answers, small)).await.expect("created");
    for turn in 0..30 {
        session.send(&format!("question {turn}")).await.expect("accepted").outcome().await;
    }
    session.close().await.expect("closed");
    let again = world.rerun(session.id(), present_with(small)).await;
    assert!(again.is_same() && again.resent == 30, "{again:#?}");
    let trims = world.entries(session.id()).await.iter().filter(|entry| matches!(entry.event, Event::ContextTrimmed(_))).count();
    assert!(trims > 1, "the test is about trims");

    let longer = ModelLimits { max_output_tokens: 1_200, ..small };
    let difference = world.rerun(session.id(), present_with(longer)).await.difference.expect("a longer answer");
    assert!(
        matches!(&difference.causes[..], [Cause::Models(what)] if what.contains("1000 tokens, and now 1200")),
        "{difference:?}"
    );
    assert!(difference.diff.contains("+  \"max_output_tokens\": 1200"), "{}", difference.diff);

    let larger = ModelLimits { context_window: 9_000, ..small };
    let difference = world.rerun(session.id(), present_with(larger)).await.difference.expect("fewer trims");
    assert!(
        matches!(&difference.causes[..], [Cause::Models(what)] if what.contains("4000 tokens, and now 9000")),
        "{difference:?}"
    );
    assert!(difference.request > 1, "the first requests fit both windows");
}

#[tokio::test]
async fn what_an_older_build_did_not_record_is_not_called_wrong() {
    let world = World::new();
    let id = world.session([vec![look(), say("Done.")]]).await;
    let forget = |event: &mut Event| {
        if let Event::ModelRequest(request) = event {
            request.limits = None;
        }
    };
    let old = world.changed(id, forget).await;
    let again = world.rerun(old, world.present()).await;
    assert!(again.is_same() && again.rebuilt == 2, "the present limits are the same: {again:#?}");
    let other = ModelLimits { max_output_tokens: 5, ..ModelLimits::default() };
    let again = world.rerun(old, present_with(other)).await;
    assert!(again.is_same() && (again.rebuilt, again.not_recorded, again.resent) == (0, 2, 2), "{again:#?}");
    let mut present = present_with(other);
    present.system = Some("Be thorough.".to_owned());
    let again = world.rerun(old, present).await;
    assert_eq!(again.difference.expect("another system text").causes, [Cause::Profile("the system text".to_owned())]);
}

#[tokio::test]
async fn a_log_that_was_changed_is_not_the_recorded_session() {
    let world = World::new();
    let id = world.session([vec![look(), say("Done.")], vec![say("Fine.")]]).await;
    let other = world
        .changed(id, |event| {
            if let Event::ToolFinished(finished) = event {
                finished.output = "seen by somebody else".to_owned();
            }
        })
        .await;
    let again = world.rerun(other, world.present()).await;
    assert_eq!((again.requests, again.rebuilt, again.changed.len()), (3, 1, 2));
    assert!(!again.is_same());
}

#[tokio::test]
async fn a_turn_that_a_crash_cut_is_run_as_far_as_it_came_and_the_next_one_whole() {
    let world = World::new();
    let id = world.session([vec![look(), say("Done.")]]).await;
    let entries = world.entries(id).await;
    let finished = entries.iter().find(|entry| matches!(entry.event, Event::ToolStarted(_))).expect("a tool ran").seq;
    // A fork up to the middle of a step is what a crash leaves.
    let cut = world.runtime.store().fork(id, Some(finished)).await.expect("forked");
    let cut_id = cut.log.id();
    cut.log.close().await.expect("closed");
    let session = world.runtime.resume(cut_id, world.setup([say("It may have run.")], ModelLimits::default())).await;
    let session = session.expect("resumed");
    session.send("go on").await.expect("accepted").outcome().await;
    session.close().await.expect("closed");
    let again = world.rerun(cut_id, world.present()).await;
    assert!(again.is_same(), "{again:#?}");
    assert_eq!((again.requests, again.resent, again.left_out.len()), (2, 2, 1));
}

#[tokio::test]
async fn imported_answers_and_unknown_models_are_told_apart_from_differences() {
    let world = World::new();
    let id = world.session([vec![say("Hello.")]]).await;
    let mut present = world.present();
    present.models = Arc::new(|_: &Origin, _: &[String]| None);
    let again = world.rerun(id, present).await;
    assert!(again.is_same() && (again.requests, again.unknown_models, again.left_out.len()) == (1, 1, 1), "{again:#?}");
    let imported = world
        .changed(id, |event| {
            if let Event::ModelRequest(request) = event {
                *request = ModelRequest { body_sha256: String::new(), body_bytes: 0, limits: None, ..request.clone() };
            }
        })
        .await;
    let again = world.rerun(imported, world.present()).await;
    assert!(again.is_same() && again.requests == 0 && again.left_out.is_empty(), "{again:#?}");
}

#[tokio::test]
async fn an_interrupt_while_a_tool_speaks_its_last_words_is_played_as_it_was() {
    /// Says what it did when it is stopped.
    struct Slow;

    #[async_trait]
    impl Tool for Slow {
        fn spec(&self) -> ToolSpec {
            ToolSpec { name: "look".into(), description: "Looks.".into(), parameters: json!({"type": "object"}) }
        }

        fn side_effects(&self) -> bool {
            true
        }

        fn describe(&self, _arguments: &Value) -> String {
            "look".to_owned()
        }

        async fn run(&self, _arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
            context.interrupt.raised().await;
            Ok(ToolOutput::text("half of it is done"))
        }
    }

    let world = World::new();
    let usage = Usage { input_tokens: Some(10), output_tokens: Some(5), ..Usage::default() };
    let mut setup = world.setup([look().usage(usage), say("I see.")], ModelLimits::default());
    setup.tools = vec![Arc::new(Slow)];
    let session = world.runtime.create(setup).await.expect("created");
    let turn = session.send("look").await.expect("accepted");
    while !session.state(|state| state.unresolved.values().any(|call| call.started.is_some())) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    session.interrupt("user");
    turn.outcome().await;
    session.send("what did you see?").await.expect("accepted").outcome().await;
    session.close().await.expect("closed");
    let mut present = world.present();
    present.tools = vec![Arc::new(Slow)];
    let again = world.rerun(session.id(), present).await;
    assert!(again.is_same(), "{again:#?}");
    assert_eq!((again.resent, again.left_out.len()), (2, 0));
}
