//! Turns as an embedder sees them, against a model that plays a script and a store in a folder of its own. After each test the log is
//! checked: every turn has its closing event, and every tool call exactly one result.

mod common;

use agent_runtime::rerun::{Present, rerun};
use agent_runtime::session_store::{
    AssistantMessage, Block, Entry, Event, NewSession, Origin, Parameters, Profile, SessionId, StopReason, ToolCall, ToolOutcome,
    ToolSpec, ToolStarted, Usage, UserKind, UserMessage,
};
use agent_runtime::{
    Approval, ApprovalRequest, Approver, Body, Clocks, Conversation, DeltaKind, EndReason, FailureKind, Image, Model,
    ModelFailure, ModelLimits, ModelStream, PermissionMode, Permissions, RetryPolicy, Runtime, ScriptedAnswer, ScriptedModel,
    Secrets, SendError, Sent, Session, Setup, Tool, ToolContext, ToolError, ToolOutput, Turn, TurnError, TurnEvent, UserInput,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_stream::StreamExt;

/// Longer than anything here takes; a test that reaches it hangs.
const LONG: Duration = Duration::from_secs(30);

struct World {
    runtime: Runtime,
    /// Lets a tool go on that has put something out.
    gate: Arc<Notify>,
    /// Ends a flood of output.
    is_enough: Arc<AtomicBool>,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { runtime: common::runtime(folder.path()), gate: Arc::default(), is_enough: Arc::default(), folder }
    }

    fn setup(&self, model: &Arc<ScriptedModel>) -> Setup {
        let mut setup = Setup::new(Arc::clone(model) as Arc<dyn agent_runtime::Model>, self.folder.path());
        setup.retry = RetryPolicy { scale: 0.01, ..RetryPolicy::default() };
        setup.tools = vec![Arc::new(Echo::reader("look")), Arc::new(Echo::writer("change")), Arc::new(Panics), Arc::new(Hangs)];
        setup.tools.push(Arc::new(Reports { gate: Arc::clone(&self.gate) }));
        setup.tools.push(Arc::new(Floods { is_enough: Arc::clone(&self.is_enough) }));
        setup.permissions.mode = PermissionMode::Allow;
        setup
    }

    async fn session(&self, answers: impl IntoIterator<Item = ScriptedAnswer>) -> (Session, Arc<ScriptedModel>) {
        let model = Arc::new(ScriptedModel::new(answers));
        let session = self.runtime.create(self.setup(&model)).await.expect("a session");
        (session, model)
    }

    async fn entries(&self, session: &Session) -> Vec<Arc<Entry>> {
        common::entries(&self.runtime, session.id()).await
    }

    /// Ends the test: the log is well formed, and the store shuts down with everything durable.
    async fn end(self, session: Session) -> Vec<Arc<Entry>> {
        let entries = self.entries(&session).await;
        check_well_formed(&entries);
        let verified = self.runtime.store().verify(session.id()).await.expect("verify");
        assert!(verified.ok, "{verified:?}");
        self.rerun(&session, &entries).await;
        self.runtime.shutdown(LONG).await.expect("everything durable");
        entries
    }

    /// Run again, the session is the same.
    async fn rerun(&self, session: &Session, entries: &[Arc<Entry>]) {
        let limits = entries.iter().find_map(|entry| match &entry.event {
            Event::ModelRequest(request) => request.limits.filter(|limits| !limits.window_asked),
            _ => None,
        });
        let limits = limits.map_or_else(ModelLimits::default, |limits| ModelLimits {
            context_window: limits.context_window,
            max_output_tokens: limits.max_output_tokens,
            ..ModelLimits::default()
        });
        let models = move |origin: &Origin, _: &[String]| {
            let model = ScriptedModel::new([]).with_origin(origin.clone()).with_limits(limits);
            Some(Arc::new(model) as Arc<dyn agent_runtime::Model>)
        };
        let mut present = Present::new(Arc::new(models));
        present.tools = self.setup(&Arc::new(ScriptedModel::new([]))).tools;
        let again = rerun(Arc::clone(self.runtime.store()), session.id(), present).await.expect("it can be read");
        assert!(again.is_same(), "{}\n{again:#?}", again.difference.as_ref().map_or("", |difference| &difference.diff));
        assert_eq!((again.rebuilt, again.not_recorded, again.unknown_models), (again.requests, 0, 0));
    }
}

fn check_well_formed(entries: &[Arc<Entry>]) {
    let mut open_turn = false;
    let mut calls: HashMap<String, usize> = HashMap::new();
    for (place, entry) in entries.iter().enumerate() {
        assert_eq!(entry.seq, place as u64, "seq is consecutive");
        match &entry.event {
            Event::UserMessage(user) if user.kind != UserKind::Steer => {
                assert!(!open_turn, "a turn begins after the one before has ended");
                open_turn = true;
            }
            Event::TurnEnded(_) => open_turn = false,
            Event::AssistantMessage(message) => calls.extend(message.tool_calls().map(|call| (call.id.clone(), 0))),
            Event::ToolFinished(finished) => *calls.get_mut(&finished.call).expect("a result has its call") += 1,
            _ => {}
        }
    }
    assert!(!open_turn, "every turn has its closing event");
    for (call, results) in calls {
        assert_eq!(results, 1, "call {call} has {results} results");
    }
}

const KEY: &str = "sk-123456789012";

/// A tool that says how far it is, with a key in two pieces, and goes on when it is let.
struct Reports {
    gate: Arc<Notify>,
}

#[async_trait]
impl Tool for Reports {
    fn spec(&self) -> ToolSpec {
        spec("report")
    }

    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, _: &Value) -> String {
        "report".to_owned()
    }

    async fn run(&self, _: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        context.output.write(format!("half way with {}", &KEY[..9]));
        tokio::task::yield_now().await;
        context.output.write(format!("{}\n", &KEY[9..]));
        self.gate.notified().await;
        Ok(ToolOutput::text("all the way"))
    }
}

/// A tool that puts out 64 MB, and more until it is enough.
struct Floods {
    is_enough: Arc<AtomicBool>,
}

#[async_trait]
impl Tool for Floods {
    fn spec(&self) -> ToolSpec {
        spec("flood")
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _: &Value) -> String {
        "flood".to_owned()
    }

    async fn run(&self, _: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let block = "the tide turns\n".repeat(4_096);
        let mut blocks = 0;
        while blocks < 1_000 || !self.is_enough.load(Ordering::Relaxed) {
            context.output.write(&block);
            blocks += 1;
            tokio::task::yield_now().await;
        }
        Ok(ToolOutput::text("done"))
    }
}

fn pieces(entries: &[Arc<Entry>]) -> Vec<(u64, String)> {
    let piece = |entry: &Arc<Entry>| match &entry.event {
        Event::ToolOutputPiece(piece) => Some((piece.offset, piece.text.clone())),
        _ => None,
    };
    entries.iter().filter_map(piece).collect()
}

fn result_of(entries: &[Arc<Entry>]) -> (ToolOutcome, String) {
    let result = |entry: &Arc<Entry>| match &entry.event {
        Event::ToolFinished(finished) => Some((finished.outcome, finished.output.clone())),
        _ => None,
    };
    entries.iter().find_map(result).expect("a result")
}

async fn reporting(world: &World) -> (Session, Turn, String) {
    let model = Arc::new(ScriptedModel::new([
        ScriptedAnswer::new().tool_call("report", "{}"),
        ScriptedAnswer::new().text("Done."),
        ScriptedAnswer::new().text("More."),
    ]));
    let mut setup = world.setup(&model);
    setup.secrets = Secrets::from_env(&[("MY_API_KEY".to_owned(), KEY.to_owned())]);
    let marker = setup.secrets.hide(KEY.to_owned());
    let session = world.runtime.create(setup).await.expect("a session");
    let turn = session.send("report").await.expect("a turn");
    (session, turn, format!("half way with {marker}\n"))
}

#[tokio::test]
async fn what_a_running_tool_puts_out_is_seen_at_once_and_logged_before_its_result() {
    let world = World::new();
    let (session, mut turn, said) = reporting(&world).await;
    let (mut live, mut is_logged) = (String::new(), false);
    while let Some(event) = tokio::time::timeout(LONG, turn.next()).await.expect("no hang") {
        match &event {
            TurnEvent::ToolDelta(delta) => {
                assert_eq!(delta.offset, live.len() as u64);
                live.push_str(&delta.text);
            }
            TurnEvent::Entry(entry) if matches!(entry.event, Event::ToolOutputPiece(_)) => {
                is_logged = true;
                world.gate.notify_one();
            }
            TurnEvent::Entry(entry) if matches!(entry.event, Event::ToolFinished(_)) => assert!(is_logged),
            _ => {}
        }
    }
    assert_eq!(live, said);
    let entries = world.end(session).await;
    assert_eq!(pieces(&entries), [(0, said)]);
    assert_eq!(result_of(&entries), (ToolOutcome::Ok, "all the way".to_owned()));
}

#[tokio::test]
async fn a_tool_that_is_stopped_does_not_lose_what_it_put_out() {
    let world = World::new();
    let (session, mut turn, said) = reporting(&world).await;
    let is_there = |event: &TurnEvent| matches!(event, TurnEvent::ToolDelta(delta) if delta.text.ends_with('\n'));
    while !is_there(&tokio::time::timeout(LONG, turn.next()).await.expect("no hang").expect("an event")) {}
    turn.interrupt();
    assert_eq!(turn.outcome().await.reason, EndReason::Interrupted);
    let outcome = session.send("go on").await.expect("a turn").outcome().await;
    assert_eq!(outcome.reason, EndReason::Done, "{:?}", outcome.error);
    let (outcome, output) = result_of(&world.end(session).await);
    assert_eq!(outcome, ToolOutcome::Interrupted);
    assert!(output.ends_with(&format!("it may have had some effect.\nThe last of its output until then:\n{said}")), "{output}");
}

#[tokio::test]
async fn a_flood_of_output_fills_neither_the_log_nor_a_reader() {
    let world = World::new();
    let answers = [ScriptedAnswer::new().tool_call("flood", "{}"), ScriptedAnswer::new().text("Done.")];
    let (session, _model) = world.session(answers).await;
    let mut turn = session.send("flood").await.expect("a turn");
    let (mut end, mut largest, mut logged) = (0, 0, 0);
    while let Some(event) = turn.next().await {
        match event {
            TurnEvent::ToolDelta(delta) => {
                assert!(delta.offset >= end);
                end = delta.offset + delta.text.len() as u64;
                largest = largest.max(delta.text.len());
            }
            TurnEvent::Entry(entry) => logged += usize::from(is(&entry, "tool.output")),
            _ => {}
        }
        world.is_enough.store(logged >= 3, Ordering::Relaxed);
    }
    assert!(end > 0 && largest <= 64 << 10, "{end} {largest}");
    let pieces = pieces(&world.end(session).await);
    let logged: usize = pieces.iter().map(|(_, text)| text.len()).sum();
    assert!(logged <= (1 << 20) + pieces.len() * 1024, "{logged} bytes in {} pieces", pieces.len());
    assert!(pieces.iter().all(|(_, text)| text.len() <= 64 << 10), "a piece is larger than a sixteenth of 1 MiB");
    assert!(pieces.windows(2).all(|two| two[1].0 >= two[0].0 + two[0].1.len() as u64));
}

/// A tool that says what it was given.
struct Echo {
    name: &'static str,
    side_effects: bool,
    runs: AtomicUsize,
}

impl Echo {
    fn reader(name: &'static str) -> Self {
        Self { name, side_effects: false, runs: AtomicUsize::new(0) }
    }

    fn writer(name: &'static str) -> Self {
        Self { side_effects: true, ..Self::reader(name) }
    }
}

fn spec(name: &str) -> ToolSpec {
    let parameters = json!({"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": false});
    ToolSpec { name: name.to_owned(), description: "Says what it was given.".to_owned(), parameters }
}

#[async_trait]
impl Tool for Echo {
    fn spec(&self) -> ToolSpec {
        spec(self.name)
    }

    fn side_effects(&self) -> bool {
        self.side_effects
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("{} {arguments}", self.name)
    }

    async fn run(&self, arguments: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        match arguments["text"].as_str() {
            Some("fail") => Err(ToolError("it failed".to_owned())),
            text => Ok(ToolOutput::text(format!("{} ({run})", text.unwrap_or("nothing")))),
        }
    }
}

struct Panics;

#[async_trait]
impl Tool for Panics {
    fn spec(&self) -> ToolSpec {
        spec("panics")
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _: &Value) -> String {
        "panics".to_owned()
    }

    async fn run(&self, _: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        panic!("a defect of the tool")
    }
}

struct Hangs;

#[async_trait]
impl Tool for Hangs {
    fn spec(&self) -> ToolSpec {
        spec("hangs")
    }

    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, _: &Value) -> String {
        "hangs".to_owned()
    }

    fn time_limit(&self) -> Duration {
        Duration::from_millis(300)
    }

    async fn run(&self, arguments: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        if arguments["text"] == "listen" {
            return Ok(ToolOutput::text("done"));
        }
        std::future::pending().await
    }
}

/// Reads a turn to its end: the text of its deltas by message, and its entries.
async fn read(turn: &mut Turn) -> (HashMap<u64, String>, Vec<Arc<Entry>>) {
    let (mut texts, mut entries) = (HashMap::<u64, String>::new(), Vec::new());
    let all = async {
        while let Some(event) = turn.next().await {
            match event {
                TurnEvent::Delta(delta) if delta.kind == DeltaKind::Text => {
                    let text = texts.entry(delta.message).or_default();
                    assert_eq!(text.len() as u64, delta.offset, "pieces come in order, none twice");
                    text.push_str(&delta.text);
                }
                TurnEvent::Entry(entry) => entries.push(entry),
                _ => {}
            }
        }
    };
    tokio::time::timeout(LONG, all).await.expect("the turn ends");
    (texts, entries)
}

fn outcomes(entries: &[Arc<Entry>]) -> Vec<ToolOutcome> {
    let outcome =
        |entry: &Arc<Entry>| if let Event::ToolFinished(finished) = &entry.event { Some(finished.outcome) } else { None };
    entries.iter().filter_map(outcome).collect()
}

fn is(entry: &Entry, type_name: &str) -> bool {
    entry.event.type_name() == type_name
}

fn answer(text: &str) -> ScriptedAnswer {
    ScriptedAnswer::new().text(text)
}

#[tokio::test]
async fn a_turn_runs_its_tools_and_ends_with_a_closing_event() {
    let world = World::new();
    let usage = Usage { input_tokens: Some(10), output_tokens: Some(5), ..Usage::default() };
    let (session, model) = world
        .session([
            answer("I look. ").tool_call("look", r#"{"text":"a"}"#).tool_call("change", r#"{"text":"b"}"#).usage(usage),
            answer("It is done.").usage(usage),
        ])
        .await;
    let mut turn = session.send("do it").await.expect("a turn");
    let (texts, entries) = read(&mut turn).await;
    let outcome = turn.outcome().await;
    assert_eq!((outcome.reason, outcome.text.as_str(), outcome.model_calls), (EndReason::Done, "It is done.", 2));
    assert_eq!(outcome.usage.input_tokens, Some(20));
    let mut shown: Vec<&str> = texts.values().map(String::as_str).collect();
    shown.sort_unstable();
    assert_eq!(shown, ["I look. ", "It is done."]);
    assert_eq!(outcomes(&entries), [ToolOutcome::Ok, ToolOutcome::Ok]);
    assert!(is(&entries[0], "user.message") && is(entries.last().expect("entries"), "turn.ended"));
    let requests = model.requests();
    let Some(Sent::ToolResults(results)) = requests[1].messages.last() else { panic!("{:?}", requests[1]) };
    assert_eq!(results.iter().map(|result| result.output.as_str()).collect::<Vec<_>>(), ["a (0)", "b (0)"]);
    world.end(session).await;
}

#[tokio::test]
async fn what_a_model_gets_wrong_goes_back_to_it_and_the_turn_goes_on() {
    let world = World::new();
    let (session, _) = world
        .session([
            answer("").tool_call("look", "{not json").tool_call("look", r#"{"text":5}"#).tool_call("nothing", "{}"),
            answer("").tool_call("look", r#"{"text":"fail"}"#),
            answer("").tool_call("look", ""),
            answer("So be it."),
        ])
        .await;
    let outcome = session.send("try").await.expect("a turn").outcome().await;
    assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, "So be it."));
    let entries = world.end(session).await;
    use ToolOutcome::{Error, InvalidArguments, Ok};
    assert_eq!(outcomes(&entries), [InvalidArguments, InvalidArguments, InvalidArguments, Error, Ok]);
}

#[tokio::test]
async fn an_interrupt_keeps_what_came_and_the_session_goes_on() {
    let world = World::new();
    let (session, model) = world
        .session([
            answer("The first half").wait(LONG).text(" and the second"),
            answer("Again."),
            answer("").tool_call("change", "{}"),
        ])
        .await;
    let mut turn = session.send("write").await.expect("a turn");
    while let Some(event) = turn.next().await {
        if matches!(event, TurnEvent::Delta(_)) {
            turn.interrupt();
            break;
        }
    }
    let outcome = tokio::time::timeout(LONG / 2, turn.outcome()).await.expect("it stops");
    assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Interrupted, "The first half"));
    let next = session.send("go on").await.expect("another turn").outcome().await;
    assert_eq!(next.text, "Again.");
    let sent = format!("{:?}", model.requests()[1].messages);
    assert!(sent.contains("The first half") && sent.contains("cut off") && sent.contains("go on"), "{sent}");
    let entries = world.end(session).await;
    assert!(entries.iter().any(|entry| is(entry, "interrupted")));
}

#[tokio::test]
async fn an_interrupt_ends_every_kind_of_wait() {
    let world = World::new();
    let failure = ModelFailure { retry_after: Some(LONG), ..ModelFailure::new(FailureKind::RateLimit, "slow down") };
    let waits = [
        ScriptedAnswer::new().head_after(LONG),
        answer("").wait(LONG),
        answer("").tool_call("change", "{}").wait(LONG),
        ScriptedAnswer::failure(failure),
    ];
    for wait in waits {
        let (session, _) = world.session([wait]).await;
        let turn = session.send("wait").await.expect("a turn");
        tokio::time::sleep(Duration::from_millis(50)).await;
        session.interrupt("SIGINT");
        let outcome = tokio::time::timeout(LONG / 2, turn.outcome()).await.expect("it stops");
        assert_eq!(outcome.reason, EndReason::Interrupted);
        check_well_formed(&world.entries(&session).await);
    }
    let (session, _) = world.session([answer("").tool_call("hangs", "{}").tool_call("change", "{}")]).await;
    let mut turn = session.send("hang").await.expect("a turn");
    while let Some(event) = turn.next().await {
        if matches!(&event, TurnEvent::Entry(entry) if is(entry, "tool.started")) {
            break;
        }
    }
    // A signal handler that can only set the flag is seen by the poll.
    session.interrupt_handle().expect("a turn runs").flag().store(true, Ordering::SeqCst);
    let outcome = tokio::time::timeout(LONG / 2, turn.outcome()).await.expect("it stops");
    assert_eq!(outcome.reason, EndReason::Interrupted);
    let entries = world.end(session).await;
    assert_eq!(outcomes(&entries), [ToolOutcome::Interrupted, ToolOutcome::NotRun]);
}

#[tokio::test]
async fn a_tool_is_stopped_at_its_time_limit() {
    let world = World::new();
    let (session, _) = world.session([answer("").tool_call("hangs", "{}"), answer("Too slow.")]).await;
    let outcome = session.send("hang").await.expect("a turn").outcome().await;
    assert_eq!(outcome.text, "Too slow.");
    assert_eq!(outcomes(&world.end(session).await), [ToolOutcome::Timeout]);
}

#[tokio::test]
async fn a_panic_in_a_tool_ends_its_turn_and_no_other() {
    let world = World::new();
    let (session, _) = world.session([answer("").tool_call("panics", "{}").tool_call("look", "{}"), answer("Alive.")]).await;
    let outcome = session.send("panic").await.expect("a turn").outcome().await;
    assert_eq!(outcome.reason, EndReason::Error);
    assert!(matches!(outcome.error, Some(TurnError::Panic(_))), "{outcome:?}");
    let next = session.send("still there?").await.expect("another turn").outcome().await;
    assert_eq!(next.text, "Alive.");
    let entries = world.end(session).await;
    assert!(entries.iter().any(|entry| is(entry, "error")));
}

/// A model whose client has a defect.
struct PanicsOnce {
    model: ScriptedModel,
    has_panicked: AtomicBool,
}

#[async_trait]
impl Model for PanicsOnce {
    fn origin(&self) -> &Origin {
        self.model.origin()
    }

    fn limits(&self) -> ModelLimits {
        self.model.limits()
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        self.model.body(conversation)
    }

    async fn call(&self, body: Body, clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        assert!(self.has_panicked.swap(true, Ordering::SeqCst), "a defect of the client");
        self.model.call(body, clocks).await
    }
}

#[tokio::test]
async fn a_panic_in_the_runtime_ends_its_turn_and_no_other() {
    let world = World::new();
    let mut setup = world.setup(&Arc::new(ScriptedModel::new([])));
    setup.model = Arc::new(PanicsOnce { model: ScriptedModel::new([answer("Alive.")]), has_panicked: AtomicBool::new(false) });
    let session = world.runtime.create(setup).await.expect("a session");
    let outcome = session.send("panic").await.expect("a turn").outcome().await;
    assert!(matches!(&outcome.error, Some(TurnError::Panic(why)) if why.contains("a defect of the client")), "{outcome:?}");
    let next = session.send("still there?").await.expect("another turn").outcome().await;
    assert_eq!(next.text, "Alive.");
    let entries = world.end(session).await;
    assert_eq!(entries.iter().filter(|entry| is(entry, "turn.ended")).count(), 2);
}

#[tokio::test]
async fn dropping_the_turn_detaches_and_a_second_send_is_busy() {
    let world = World::new();
    let (session, _) = world.session([answer("slow").wait(Duration::from_millis(200)).text(" but whole"), answer("next")]).await;
    drop(session.send("one").await.expect("a turn"));
    assert!(matches!(session.send("two").await, Err(SendError::Busy)));
    let waited = async {
        while session.is_busy() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, waited).await.expect("the detached turn ends");
    assert!(matches!(session.send(" \n").await, Err(SendError::Empty)));
    assert!(matches!(session.steer("late").await, Err(SendError::Idle)));
    let entries = world.end(session).await;
    let message = entries
        .iter()
        .find_map(|entry| if let Event::AssistantMessage(message) = &entry.event { Some(message.text()) } else { None });
    assert_eq!(message.as_deref(), Some("slow but whole"));
}

#[tokio::test]
async fn interrupt_on_drop_stops_the_turn() {
    let world = World::new();
    let (session, _) = world.session([answer("a").wait(LONG)]).await;
    drop(session.send("one").await.expect("a turn").interrupt_on_drop());
    session.close().await.expect("it closes");
    assert!(!session.is_busy());
}

#[tokio::test]
async fn a_steering_message_is_in_the_log_at_once_and_answered_in_the_same_turn() {
    let world = World::new();
    let (session, model) = world.session([answer("One").wait(Duration::from_millis(300)).text("."), answer("Two.")]).await;
    let mut turn = session.send("count").await.expect("a turn");
    while let Some(event) = turn.next().await {
        if matches!(event, TurnEvent::Delta(_)) {
            session.steer("go on").await.expect("a turn runs");
            break;
        }
    }
    let outcome = turn.outcome().await;
    assert_eq!((outcome.text.as_str(), outcome.model_calls), ("Two.", 2));
    let requests = model.requests();
    assert_eq!(requests[1].messages.last(), Some(&Sent::User(vec!["go on".into()])));
    world.end(session).await;
}

#[tokio::test]
async fn a_steering_message_that_misses_its_turn_waits_until_somebody_sends_it() {
    let world = World::new();
    let (session, model) =
        world.session([answer("").tool_call("hangs", "{}"), answer("Something else."), answer("To the left.")]).await;
    let mut turn = session.send("go").await.expect("a turn");
    while let Some(event) = turn.next().await {
        if matches!(&event, TurnEvent::Entry(entry) if is(entry, "tool.started")) {
            break;
        }
    }
    let map = Image::new(b"GIF89a\x80\x02\xE0\x01".to_vec()).expect("an image");
    let steered = session.steer(UserInput::text("left, not right").with_image(map)).await.expect("a turn runs");
    assert_eq!(session.queued(), []);
    turn.interrupt();
    assert_eq!(turn.outcome().await.reason, EndReason::Interrupted);
    let waiting = session.queued();
    assert_eq!(
        waiting.iter().map(|waiting| (waiting.text.as_str(), waiting.missed)).collect::<Vec<_>>(),
        [("left, not right", Some(steered))]
    );
    // It waits in the log too.
    session.close().await.expect("it closes");
    let session = world.runtime.resume(session.id(), world.setup(&model)).await.expect("it opens again");
    assert_eq!(session.queued(), waiting);

    let outcome = session.send("something else").await.expect("a turn").outcome().await;
    assert_eq!(outcome.text, "Something else.");
    assert!(!format!("{:?}", model.requests()).contains("left, not right"), "nobody sent it");
    let outcome = session.send_queued(waiting[0].seq).await.expect("a turn").outcome().await;
    assert_eq!(outcome.text, "To the left.");
    let requests = model.requests();
    let sent = format!("{:?}", requests[2].messages.last());
    assert!(sent.contains("left, not right") && sent.contains("image/gif"), "with its image: {sent}");
    assert_eq!(session.queued(), []);
    world.end(session).await;
}

#[tokio::test]
async fn a_steering_message_whose_process_died_waits_in_the_next_one() {
    let world = World::new();
    let (session, model) = world.session([answer("").tool_call("hangs", "{}"), answer("Something else.")]).await;
    let mut turn = session.send("go").await.expect("a turn");
    while let Some(event) = turn.next().await {
        if matches!(&event, TurnEvent::Entry(entry) if is(entry, "tool.started")) {
            break;
        }
    }
    let steered = session.steer("left, not right").await.expect("a turn runs");
    session.flush().await.expect("a flush");
    // As a process finds it that comes after a crash.
    let copy = world.runtime.fork(session.id(), Some(steered), world.setup(&model)).await.expect("a copy");
    assert_eq!(copy.queued().first().map(|waiting| waiting.text.clone()).as_deref(), Some("left, not right"));
    copy.send("something else").await.expect("a turn").outcome().await;
    assert!(!format!("{:?}", model.requests()).contains("left, not right"), "nobody sent it");
    turn.interrupt();
    turn.outcome().await;
    world.end(session).await;
}

#[tokio::test]
async fn a_message_that_no_request_has_room_for_is_refused_by_every_way_in() {
    let world = World::new();
    let model = Arc::new(ScriptedModel::new([answer("").tool_call("hangs", "{}")]));
    let mut setup = world.setup(&model);
    setup.context_window = Some(4_000);
    let session = world.runtime.create(setup).await.expect("a session");
    let too_long = "word ".repeat(5_000);
    let is_refused = |refused: Result<_, SendError>| match refused {
        Err(SendError::TooLong { tokens, room }) => tokens > room && room > 0,
        _ => false,
    };
    assert!(is_refused(session.send(too_long.as_str()).await.map(drop)));
    let mut turn = session.send("go").await.expect("a turn");
    while let Some(event) = turn.next().await {
        if matches!(&event, TurnEvent::Entry(entry) if is(entry, "tool.started")) {
            break;
        }
    }
    let before = session.state(|state| state.next_seq);
    assert!(is_refused(session.steer(too_long.as_str()).await.map(drop)));
    assert!(is_refused(session.queue(too_long.as_str()).await.map(drop)));
    assert_eq!(session.state(|state| state.next_seq), before, "nothing of it is in the log");
    turn.interrupt();
    assert_eq!(turn.outcome().await.reason, EndReason::Interrupted, "the turn does not notice");
    world.end(session).await;
}

#[tokio::test]
async fn live_pieces_and_logged_pieces_add_up_to_the_same_bytes_also_for_a_slow_reader() {
    let world = World::new();
    let script = (0..400).fold(ScriptedAnswer::new(), |script, word| {
        let script = script.text(format!("w\u{f6}rd{word} "));
        if word % 50 == 0 { script.wait(Duration::from_millis(60)) } else { script }
    });
    let (session, _) = world.session([script]).await;
    let mut slow = session.send("write").await.expect("a turn");
    slow.outcome().await;
    let (texts, entries) = read(&mut slow).await;
    let logged: String = entries
        .iter()
        .filter_map(|entry| if let Event::AssistantText(piece) = &entry.event { Some(piece.text.as_str()) } else { None })
        .collect();
    let whole = entries
        .iter()
        .find_map(|entry| if let Event::AssistantMessage(message) = &entry.event { Some(message.text()) } else { None });
    let shown = texts.values().next().expect("one message").clone();
    assert_eq!(Some(&shown), whole.as_ref());
    assert!(!logged.is_empty() && shown.starts_with(&logged));
    assert!(entries.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq), "no event is missing");
    world.end(session).await;
}

#[tokio::test]
async fn a_stream_that_breaks_after_text_is_continued_without_repeating_it() {
    let world = World::new();
    let (session, model) = world.session([answer("One, two").cut(), answer(", three.")]).await;
    let outcome = session.send("count").await.expect("a turn").outcome().await;
    assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, "One, two, three."));
    let sent = format!("{:?}", model.requests()[1].messages);
    assert!(sent.contains("One, two") && sent.contains("Go on exactly where your text stopped"), "{sent}");
    world.end(session).await;
}

#[tokio::test]
async fn only_what_another_try_may_cure_is_tried_again() {
    let world = World::new();
    let server = || ScriptedAnswer::failure(ModelFailure { status: Some(500), ..ModelFailure::new(FailureKind::Server, "oops") });
    let (session, model) = world.session([server(), server(), answer("There.")]).await;
    assert_eq!(session.send("a").await.expect("a turn").outcome().await.text, "There.");
    assert_eq!(model.requests().len(), 3);
    model.push(ScriptedAnswer::failure(ModelFailure::new(FailureKind::Auth, "who are you")));
    let outcome = session.send("b").await.expect("a turn").outcome().await;
    assert!(matches!(&outcome.error, Some(TurnError::Model(failure)) if failure.kind == FailureKind::Auth), "{outcome:?}");
    model.push(ScriptedAnswer::failure(ModelFailure::new(FailureKind::IdleTimeout, "silence")));
    assert_eq!(session.send("c").await.expect("a turn").outcome().await.reason, EndReason::Timeout);
    assert_eq!(model.requests().len(), 5);
    let entries = world.end(session).await;
    assert_eq!(entries.iter().filter(|entry| is(entry, "model.error")).count(), 4);
}

#[tokio::test]
async fn limits_end_the_turn_and_say_so() {
    let world = World::new();
    let looks = || answer("").tool_call("look", "{}");
    let model = Arc::new(ScriptedModel::new([looks(), looks(), looks()]));
    let setup = Setup { max_model_calls: Some(2), ..world.setup(&model) };
    let session = world.runtime.create(setup).await.expect("a session");
    let outcome = session.send("loop").await.expect("a turn").outcome().await;
    assert_eq!((outcome.reason, outcome.model_calls), (EndReason::MaxTurns, 2));
    world.end(session).await;

    let world = World::new();
    let cut = || answer("half").tool_call("change", "{}").done(StopReason::MaxTokens, None);
    let (session, _) = world.session([cut(), cut(), cut()]).await;
    let outcome = session.send("much").await.expect("a turn").outcome().await;
    assert_eq!(outcome.reason, EndReason::MaxTokens);
    assert_eq!(outcomes(&world.end(session).await), [ToolOutcome::NotRun; 3]);
}

struct Answers(Approval);

#[async_trait]
impl Approver for Answers {
    async fn ask(&self, _: ApprovalRequest) -> Approval {
        self.0.clone()
    }
}

#[tokio::test]
async fn permissions_decide_what_runs() {
    let world = World::new();
    let call = || answer("").tool_call("change", "{}").tool_call("look", "{}");
    let cases: [(Permissions, ToolOutcome, &str); 5] = [
        (Permissions::default(), ToolOutcome::Denied, "nobody_to_ask"),
        (Permissions { mode: PermissionMode::ReadOnly, ..Permissions::default() }, ToolOutcome::Denied, "mode"),
        (
            Permissions { allowed: ["change".to_owned()].into(), mode: PermissionMode::ReadOnly, ..Permissions::default() },
            ToolOutcome::Ok,
            "",
        ),
        (Permissions { approver: Some(Arc::new(Answers(Approval::Approve))), ..Permissions::default() }, ToolOutcome::Ok, ""),
        (
            Permissions { approver: Some(Arc::new(Answers(Approval::Deny("not now".to_owned())))), ..Permissions::default() },
            ToolOutcome::Denied,
            "user",
        ),
    ];
    for (permissions, expected, by) in cases {
        let model = Arc::new(ScriptedModel::new([call(), answer("ok")]));
        let session = world.runtime.create(Setup { permissions, ..world.setup(&model) }).await.expect("a session");
        let outcome = session.send("go").await.expect("a turn").outcome().await;
        assert_eq!(outcome.reason, EndReason::Done);
        assert_eq!(outcome.denials.first().map_or("", |denial| denial.by.as_str()), by);
        let entries = world.entries(&session).await;
        check_well_formed(&entries);
        let mut results = outcomes(&entries);
        results.sort_by_key(|outcome| *outcome != expected);
        assert_eq!(results, [expected, ToolOutcome::Ok]);
    }
    let model = Arc::new(ScriptedModel::new([call(), call(), call(), call()]));
    let session =
        world.runtime.create(Setup { permissions: Permissions::default(), ..world.setup(&model) }).await.expect("a session");
    let outcome = session.send("insist").await.expect("a turn").outcome().await;
    assert_eq!((outcome.reason, outcome.model_calls), (EndReason::Denied, 3));
    world.end(session).await;
}

#[tokio::test]
async fn a_profile_is_written_where_the_setup_changed_and_nowhere_else() {
    let world = World::new();
    let (session, _) = world.session([answer("one"), answer("two"), answer("three"), answer("four")]).await;
    for text in ["first", "second", "third", "fourth"] {
        if text == "third" {
            session.set_effort("high").expect("no turn runs");
        }
        session.send(text).await.expect("a turn").outcome().await;
    }
    let (mut profiles, mut asked) = (Vec::new(), Vec::new());
    for entry in world.end(session).await {
        match &entry.event {
            Event::Profile(profile) => profiles.push((profile.hash.clone(), profile.parameters.effort.clone())),
            Event::ModelRequest(request) => asked.push(request.profile.clone()),
            _ => {}
        }
    }
    let [(before, None), (after, Some(effort))] = &profiles[..] else { panic!("{profiles:?}") };
    assert_eq!(effort, "high");
    assert_eq!(asked.iter().collect::<Vec<_>>(), [before, before, after, after]);
}

#[tokio::test]
async fn a_long_conversation_is_trimmed_rarely_and_stays_append_only_in_between() {
    let world = World::new();
    let limits = ModelLimits { context_window: 3_000, max_output_tokens: 500, token_factor: 1.0 };
    let words = "some words that take room in the window ".repeat(20);
    let answers: Vec<_> = (0..40).map(|turn| answer(&format!("{turn}: {words}"))).collect();
    let model = Arc::new(ScriptedModel::new(answers).with_limits(limits));
    let session = world.runtime.create(world.setup(&model)).await.expect("a session");
    for turn in 0..40 {
        let outcome = session.send(&format!("message {turn}")).await.expect("a turn").outcome().await;
        assert_eq!(outcome.reason, EndReason::Done, "{outcome:?}");
    }
    let requests = model.requests();
    let changes = requests.windows(2).filter(|pair| {
        let before = &pair[0].messages;
        !pair[1].messages.starts_with(before)
    });
    let trims = world.entries(&session).await.iter().filter(|entry| is(entry, "context.trimmed")).count();
    assert_eq!(changes.count(), trims, "only a trim changes what was sent");
    assert!((1..=20).contains(&trims), "{trims} trims in 40 turns");
    world.end(session).await;
}

#[tokio::test]
async fn a_message_that_cannot_fit_is_refused_and_a_result_that_is_too_long_is_shortened() {
    let world = World::new();
    let limits = ModelLimits { context_window: 2_000, max_output_tokens: 200, token_factor: 1.0 };
    let long = "x y ".repeat(10_000);
    let call = answer("").tool_call("look", json!({"text": long}).to_string());
    let model = Arc::new(ScriptedModel::new([call, answer("ok")]).with_limits(ModelLimits { context_window: 200_000, ..limits }));
    let session = world.runtime.create(world.setup(&model)).await.expect("a session");
    assert_eq!(session.send("look").await.expect("a turn").outcome().await.reason, EndReason::Done);
    let entries = world.entries(&session).await;
    let finished = entries
        .iter()
        .find_map(|entry| if let Event::ToolFinished(finished) = &entry.event { Some(finished.clone()) } else { None });
    let finished = finished.expect("a result");
    assert!(finished.output.len() < 40_000 && finished.output.contains("left out"));
    let whole =
        world.runtime.store().read_side(session.id(), &finished.full.expect("the whole is kept")).await.expect("it is there");
    assert_eq!(whole.len(), long.len() + " (0)".len());
    world.end(session).await;

    let world = World::new();
    let model = Arc::new(ScriptedModel::new([]).with_limits(limits));
    let session = world.runtime.create(world.setup(&model)).await.expect("a session");
    assert!(matches!(session.send(&long).await, Err(SendError::TooLong { .. })));
    world.end(session).await;
}

#[tokio::test]
async fn a_session_resumes_where_it_was() {
    let world = World::new();
    let (session, _) = world.session([answer("I am one.")]).await;
    session.send("who are you?").await.expect("a turn").outcome().await;
    session.rename("numbers").expect("a name");
    let id: SessionId = session.id();
    session.close().await.expect("it closes");
    let model = Arc::new(ScriptedModel::new([answer("I am two.")]));
    let again = world.runtime.resume(id, world.setup(&model)).await.expect("it opens");
    assert_eq!(again.state(|state| state.name.clone()).as_deref(), Some("numbers"));
    assert_eq!(again.send("and now?").await.expect("a turn").outcome().await.text, "I am two.");
    assert_eq!(model.requests()[0].messages.len(), 3);
    let profiles = world.entries(&again).await.iter().filter(|entry| is(entry, "profile")).count();
    assert_eq!(profiles, 1, "an unchanged profile is written once");
    let model = Arc::new(ScriptedModel::new([answer("A fork.")]));
    let fork = world.runtime.fork(id, None, world.setup(&model)).await.expect("a held session can be forked");
    assert_eq!(fork.send("branch").await.expect("a turn").outcome().await.text, "A fork.");
    assert_eq!(model.requests()[0].messages.len(), 5);
    assert_eq!(fork.state(|state| state.parent.map(|parent| parent.0)), Some(id));
    world.end(again).await;
}

#[tokio::test]
async fn known_secrets_reach_neither_the_log_nor_the_model() {
    let world = World::new();
    let secret = "sk-very-secret-123456";
    let env = vec![("THEIR_API_KEY".to_owned(), secret.to_owned())];
    let call = answer("").tool_call("change", r#"{"text":"say «secret:THEIR_API_KEY#HASH»"}"#);
    let model = Arc::new(ScriptedModel::new([answer("ok"), call, answer("ok")]));
    let setup = Setup { secrets: Secrets::from_env(&env), env, ..world.setup(&model) };
    let session = world.runtime.create(setup).await.expect("a session");
    session.send(&format!("my key is {secret}")).await.expect("a turn").outcome().await;
    session.send("use it").await.expect("a turn").outcome().await;
    let sent = format!("{:?}", model.requests());
    assert!(!sent.contains(secret) && sent.contains("«secret:THEIR_API_KEY#"), "{sent}");
    let entries = world.end(session).await;
    assert!(!format!("{entries:?}").contains(secret));
    assert_eq!(outcomes(&entries), [ToolOutcome::InvalidArguments], "a marker with another hash is not that secret");
}

#[tokio::test]
async fn what_a_model_was_told_of_a_crashed_call_stays_so() {
    let world = World::new();
    let opened = world.runtime.store().create(NewSession::default()).await.expect("a session");
    let log = opened.log;
    let origin = Origin::default();
    let profile = Profile {
        hash: String::new(),
        model: "scripted/scripted".to_owned(),
        system: String::new(),
        tools: Vec::new(),
        parameters: Parameters::default(),
        projection: 1,
    };
    log.append(profile.sealed().into()).expect("room");
    let user = log.append(UserMessage { text: "change it".to_owned(), ..UserMessage::default() }.into()).expect("room");
    let call =
        ToolCall { id: "call_9_0".to_owned(), name: "change".to_owned(), arguments: "{}".to_owned(), ..ToolCall::default() };
    let blocks = vec![Block::ToolCall(call.clone())];
    let answer_event = AssistantMessage {
        message: user.seq + 1,
        origin,
        blocks,
        stop: StopReason::ToolUse,
        partial: false,
        usage: None,
        opaque: None,
    };
    log.append(answer_event.into()).expect("room");
    log.append(ToolStarted { call: call.id, name: call.name, side_effects: true }.into()).expect("room");
    // The next owner finds it as after a crash: the call has no result.
    log.close().await.expect("it closes");

    let refused = ScriptedAnswer::failure(ModelFailure::new(FailureKind::Auth, "who are you"));
    let model = Arc::new(ScriptedModel::new([refused, answer("I look first.")]));
    let session = world.runtime.resume(log.id(), world.setup(&model)).await.expect("it opens");
    assert_eq!(session.send("second").await.expect("a turn").outcome().await.reason, EndReason::Error);
    assert_eq!(session.send("third").await.expect("a turn").outcome().await.reason, EndReason::Done);
    let requests = model.requests();
    let told = |request: usize| requests[request].messages[2].clone();
    assert!(format!("{:?}", told(0)).contains("Outcome unknown"), "{:?}", told(0));
    assert_eq!(told(0), told(1));
    let runs = world.entries(&session).await.iter().filter(|entry| is(entry, "tool.started")).count();
    assert_eq!(runs, 1, "a side effect is never run again by itself");
}

#[tokio::test]
async fn many_long_results_at_once_do_not_make_a_session_unusable() {
    let world = World::new();
    let limits = ModelLimits { context_window: 8_192, max_output_tokens: 2_000, token_factor: 1.0 };
    let long = "many different words and 1 2 3 numbers ".repeat(300);
    let script = (0..6).fold(answer(""), |script, _| script.tool_call("look", json!({"text": long}).to_string()));
    // The arguments alone are too much for this window: that turn cannot go on, and the next one can.
    let model = Arc::new(ScriptedModel::new([script, answer("Here I am.")]).with_limits(limits));
    let session = world.runtime.create(world.setup(&model)).await.expect("a session");
    let first = session.send("look at all of it").await.expect("a turn").outcome().await;
    assert!(matches!(first.error, Some(TurnError::TooLong(_))), "{first:?}");
    let next = session.send("and now?").await.expect("a turn").outcome().await;
    assert_eq!((next.reason, next.text.as_str()), (EndReason::Done, "Here I am."));
    world.end(session).await;
}

#[tokio::test]
async fn an_interrupted_turn_gives_the_text_of_the_answer_that_was_cut_and_logs_its_reasoning() {
    let world = World::new();
    let first = answer("Step one. ").tool_call("look", "{}");
    let second = ScriptedAnswer::new().reasoning("last words", None).text("Step two").wait(LONG);
    let (session, _) = world.session([first, second]).await;
    let mut turn = session.send("go").await.expect("a turn");
    while let Some(event) = turn.next().await {
        if matches!(&event, TurnEvent::Delta(delta) if delta.text.contains("two")) {
            turn.interrupt();
            break;
        }
    }
    let outcome = turn.outcome().await;
    assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Interrupted, "Step two"));
    let entries = world.end(session).await;
    assert!(entries.iter().any(|entry| matches!(&entry.event, Event::AssistantReasoning(piece) if piece.text == "last words")));
}

const fn is_send_and_static<T: Send + 'static>() {}
const fn is_unpin<T: Unpin>() {}
const _: () = {
    is_send_and_static::<Turn>();
    is_unpin::<Turn>();
    is_send_and_static::<Session>();
    is_send_and_static::<Runtime>();
};

#[tokio::test]
async fn a_session_that_grows_gets_checkpoints_and_one_before_it_is_closed() {
    let world = World::new();
    let (session, model) = world.session([]).await;
    for _ in 0..26 {
        session.note(&"x".repeat(50_000)).expect("taken");
    }
    let is_checkpoint = |entry: &Arc<Entry>| matches!(entry.event, Event::Checkpoint(_));
    let grown = world.entries(&session).await;
    assert_eq!(grown.iter().filter(|entry| is_checkpoint(entry)).count(), 4, "one for each 256 KiB");
    assert!(!grown.last().is_some_and(is_checkpoint), "and not at the end of it");
    let context = session.state(|state| state.context.len());
    session.close().await.expect("closed");

    let resumed = world.runtime.resume(session.id(), world.setup(&model)).await.expect("resumed");
    assert_eq!(resumed.state(|state| (state.context.len(), state.missing().len())), (context, 0));
    let entries = world.end(resumed).await;
    let closed = entries.iter().position(|entry| matches!(entry.event, Event::Closed(_))).expect("it was closed");
    assert!(is_checkpoint(&entries[closed - 1]));
}

#[tokio::test]
async fn each_refusal_of_a_context_that_is_too_long_takes_a_fifth_out_of_it_three_times_at_most() {
    let world = World::new();
    let words = "The tide turns twice a day. ".repeat(80);
    let (session, model) = world.session((0..16).map(|_| ScriptedAnswer::new().text(words.clone()))).await;
    for number in 0..16 {
        let outcome = session.send(&format!("{number}: {words}")).await.expect("a turn").outcome().await;
        assert_eq!(outcome.reason, EndReason::Done);
    }
    for _ in 0..4 {
        model.push(ScriptedAnswer::failure(ModelFailure::new(FailureKind::ContextTooLong, "prompt is too long")));
    }
    let outcome = session.send("and now?").await.expect("a turn").outcome().await;
    assert!(
        matches!(&outcome.error, Some(TurnError::Model(failure)) if failure.kind == FailureKind::ContextTooLong),
        "{outcome:?}"
    );
    assert_eq!(outcome.model_calls, 4);
    model.push(ScriptedAnswer::new().text("Now it fits."));
    assert_eq!(session.send("again").await.expect("a turn").outcome().await.reason, EndReason::Done);

    let trims: Vec<(u64, u64)> = world
        .end(session)
        .await
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::ContextTrimmed(trim) => Some((trim.tokens_before, trim.tokens_after)),
            _ => None,
        })
        .collect();
    assert_eq!(trims.len(), 3);
    assert!(trims.iter().all(|(before, after)| after * 5 <= before * 4 && after * 2 > *before), "{trims:?}");
}
