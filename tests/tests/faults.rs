//! The fault matrix: each way in which a provider fails, in each state of a call, for each of the three protocols. Every cell ends in its time
//! with the right word for what went wrong and the right reason, all that came is in the log, and the session opens again and takes a further turn.
//!
//! `agent-runtime/FAULTS.md` is made of the same table, and has to say what the test found; `LONGHAND_WRITE_FAULTS=1` writes it.
//!
//! A cell is a server of its own, a session of its own, and a turn; what the turn came to is read from the session's log.

use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, OpenAi, OpenAiResponses, Secret};
use agent_runtime::session_store::{Entry, Event, FileStore, FileStoreOptions, SessionStore, ToolSpec};
use agent_runtime::{
    BreakerPolicy, Clocks, Cure, DeltaKind, EndReason, FailureKind, Model, PermissionMode, RetryPolicy, Runtime, Session, Setup,
    Tool, ToolContext, ToolError, ToolOutput, Turn, TurnEvent,
};
use async_trait::async_trait;
use fault_server::{Answer, BlackHole, FaultServer, Flaw, Provider, Reply, Request, Script, Status};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A limit that a cell is there to run into.
const SHORT: Duration = Duration::from_secs(1);
/// A limit that nothing runs into, and within which every cell has to end.
const LONG: Duration = Duration::from_secs(60);
/// How many cells are at work at the same time.
const AT_ONCE: usize = 6;
/// What a pause is multiplied by, so that the table can have them as they are.
const SCALE: f64 = 0.01;
const PROVIDERS: [Provider; 3] = [Provider::Anthropic, Provider::OpenAi, Provider::Responses];
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-runtime/FAULTS.md");

/// A row of the table, for all three protocols.
struct Row {
    fault: String,
    state: &'static str,
    /// What the server answers, from the first request on.
    script: Box<dyn Fn(Provider) -> Script + Send + Sync>,
    /// What the log has to say.
    expected: String,
    /// The start of the reasoning that has to be kept.
    reasoned: &'static str,
    clocks: Clocks,
    retry: RetryPolicy,
    act: Act,
    has_fallback: bool,
    /// Where the network keeps what was sent, it cannot be asked for.
    may_lose: bool,
    at: At,
}

/// What else happens in a cell.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Nothing,
    /// The turn is interrupted when it has come to this.
    Interrupt(Reached),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reached {
    Asked,
    Reasoning,
    Text,
    Arguments,
    Failed,
    Waiting,
    Tool,
}

/// Who is asked.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Server,
    /// A port at which nobody listens.
    Nobody,
    /// An address that completes no connection.
    Hole,
}

fn clocks() -> Clocks {
    Clocks { connect: LONG, first_byte: LONG, idle: LONG, progress: LONG, cap: LONG }
}

impl Row {
    fn new(fault: impl Into<String>, state: &'static str, answers: Vec<Answer>, expected: impl Into<String>) -> Self {
        Self {
            fault: fault.into(),
            state,
            script: Box::new(move |_| Script::in_order(answers.clone())),
            expected: expected.into(),
            reasoned: "",
            clocks: clocks(),
            retry: RetryPolicy { scale: SCALE, random: || 0.5, ..RetryPolicy::default() },
            act: Act::Nothing,
            has_fallback: false,
            may_lose: false,
            at: At::Server,
        }
    }
}

/// Where in an answer a stream breaks: its name, the answer, after how many deltas, the reasoning that came.
fn places() -> [(&'static str, Reply, usize, &'static str); 4] {
    let arguments = json!({"path": "a".repeat(60)}).to_string();
    [
        ("after the headers", Reply::text("one two three four"), 0, ""),
        ("in the reasoning", Reply::reasoning("hm hm hm hm").then_text("one"), 2, "hm hm "),
        ("in the text", Reply::text("one two three four"), 2, ""),
        ("in a tool's arguments", Reply::text("I look. ").then_tool_call("look", arguments), 4, ""),
    ]
}

fn rest() -> Answer {
    Answer::text("The rest.")
}

fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Answer::Status(Status { status, headers, body: body.to_owned() })
}

/// Streams that break, in each place of an answer.
fn broken_streams() -> Vec<Row> {
    let mut rows = Vec::new();
    let error = |kind: &str| Flaw::Error { kind: kind.to_owned(), message: "said inside the stream".to_owned() };
    let flaws = [
        ("silence", Flaw::Stall, "idle_timeout; timeout"),
        ("pings for ever", Flaw::Pings { every_ms: 20 }, "progress_timeout; timeout"),
        ("closed in the middle of an event", Flaw::CutMidEvent, "reset, again; done"),
        ("ended without its terminal event", Flaw::EndEarly, "reset, again; done"),
        ("reset", Flaw::Reset, "reset, again; done"),
        ("`overloaded_error`", error("overloaded_error"), "overloaded, again; done"),
        ("`rate_limit_error`", error("rate_limit_error"), "rate_limit, again; done"),
        ("`api_error`", error("api_error"), "server, again; done"),
        ("`insufficient_quota`", error("insufficient_quota"), "quota; error"),
        ("`invalid_request_error`", error("invalid_request_error"), "bad_request; error"),
        ("JSON that breaks off", Flaw::MalformedJson, "protocol, again; done"),
    ];
    for (fault, flaw, expected) in flaws {
        for (state, reply, after, reasoned) in places() {
            let broken = Answer::Broken { reply, after, flaw: flaw.clone() };
            let mut row = Row::new(fault, state, vec![broken, rest()], expected);
            match flaw {
                Flaw::Stall => row.clocks.idle = SHORT,
                Flaw::Pings { .. } => row.clocks.progress = SHORT,
                // A reset may take with it what was sent just before.
                Flaw::Reset => row.may_lose = true,
                _ => {}
            }
            row.reasoned = if row.may_lose { "" } else { reasoned };
            rows.push(row);
        }
    }
    rows
}

/// What comes instead of an answer.
fn refusals() -> Vec<Row> {
    const BEFORE: &str = "before the headers";
    let again = |kind: &str| format!("{kind}, again; done");
    let ends = |kind: &str| format!("{kind}; error");
    let mut rows: Vec<Row> = [
        (400, ends("bad_request")),
        (401, ends("auth")),
        (402, ends("quota")),
        (403, ends("auth")),
        (404, ends("not_found")),
        (408, again("server")),
        (409, again("server")),
        (422, ends("bad_request")),
        (425, again("server")),
        (429, again("rate_limit")),
        (500, again("server")),
        (502, again("server")),
        (503, again("server")),
        (504, again("server")),
        (529, again("overloaded")),
    ]
    .into_iter()
    .map(|(code, expected)| Row::new(code.to_string(), BEFORE, vec![status(code, &[], ""), rest()], expected))
    .collect();

    let after = |seconds: &str| format!("rate_limit, again after {seconds} s; done");
    type Headers = &'static [(&'static str, &'static str)];
    let spellings: [(&str, Headers, String); 8] = [
        ("`retry-after: 20`", &[("retry-after", "20")], after("20")),
        ("`retry-after: 12.5`", &[("retry-after", "12.5")], after("12.5")),
        (
            "`retry-after` as a date",
            &[("retry-after", "Sat, 21 Nov 2026 13:00:30 GMT"), ("date", "Sat, 21 Nov 2026 13:00:00 GMT")],
            after("30"),
        ),
        ("`retry-after-ms: 15000`", &[("retry-after-ms", "15000")], after("15")),
        (
            "`anthropic-ratelimit-requests-reset`",
            &[("anthropic-ratelimit-requests-reset", "2026-11-21T13:00:25Z"), ("date", "Sat, 21 Nov 2026 13:00:00 GMT")],
            after("25"),
        ),
        ("`x-ratelimit-reset-tokens: 0m40s`", &[("x-ratelimit-reset-tokens", "0m40s")], after("40")),
        (
            "`x-ratelimit-reset-requests: 6m0s`",
            &[("x-ratelimit-reset-requests", "6m0s")],
            ends("rate_limit, at a time that was told"),
        ),
        ("`retry-after: 7200`", &[("retry-after", "7200")], ends("rate_limit, at a time that was told")),
    ];
    for (fault, headers, expected) in spellings {
        rows.push(Row::new(format!("429, {fault}"), BEFORE, vec![status(429, headers, ""), rest()], expected));
    }
    let quota =
        r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    rows.push(Row::new("429, quota exhausted", BEFORE, vec![status(429, &[("retry-after", "1")], quota), rest()], ends("quota")));
    let fails_always = Script::repeating;
    for (code, kind) in [(500, "server"), (429, "rate_limit"), (529, "overloaded")] {
        let mut row =
            Row::new(format!("{code}, each time"), BEFORE, Vec::new(), format!("{kind}, again (4 times); {kind}; error"));
        row.script = Box::new(move |_| fails_always(status(code, &[], "")));
        rows.push(row);
    }

    let mut reset = Row::new("reset", BEFORE, Vec::new(), again("reset"));
    reset.script = Box::new(|_| {
        // By a function, so that the request is read before the connection is reset.
        let mut answers = vec![rest(), Answer::Refuse];
        Script::by(move |_| answers.pop().unwrap_or_else(rest))
    });
    rows.push(reset);
    rows.push(Row::new("a page of HTML", BEFORE, vec![Answer::WrongContentType, rest()], again("protocol")));
    for (fault, body) in [("200, and JSON that breaks off", "{\"oops"), ("200, and JSON that says nothing", "{\"a\": 1}")] {
        rows.push(Row::new(fault, BEFORE, vec![status(200, &[], body), rest()], again("protocol")));
    }
    let mut always = Row::new("a page of HTML, each time", BEFORE, Vec::new(), "protocol, again (2 times); protocol; error");
    always.script = Box::new(move |_| fails_always(Answer::WrongContentType));
    rows.push(always);
    let mut silent = Row::new("silence", BEFORE, vec![Answer::NeverAnswer, rest()], "first_byte_timeout; timeout");
    silent.clocks.first_byte = SHORT;
    rows.push(silent);
    let mut nobody =
        Row::new("nobody listens", "before the connection", vec![rest()], "connect, again (4 times); connect; error");
    nobody.at = At::Nobody;
    rows.push(nobody);
    let mut hole =
        Row::new("the connection does not come about", "before the connection", vec![rest()], "connect_timeout; timeout");
    (hole.at, hole.clocks.connect) = (At::Hole, SHORT);
    rows.push(hole);
    rows
}

/// Faults of the request that has a tool's result, and of the one that goes on behind a seam.
fn later_requests() -> Vec<Row> {
    let call = || Answer::tool_call("look", r#"{"path":"x"}"#);
    let cut = |flaw: Flaw| Answer::broken("one two three four", 2, flaw);
    let overloaded = || Flaw::Error { kind: "overloaded_error".to_owned(), message: "Overloaded".to_owned() };
    let mut rows = vec![
        Row::new("529", "after a tool", vec![call(), Answer::status(529), rest()], "overloaded, again; done"),
        Row::new(
            "429, `retry-after: 20`",
            "after a tool",
            vec![call(), status(429, &[("retry-after", "20")], ""), rest()],
            "rate_limit, again after 20 s; done",
        ),
        Row::new("401", "after a tool", vec![call(), Answer::status(401)], "auth; error"),
        Row::new(
            "closed in the middle of an event",
            "after a tool",
            vec![call(), cut(Flaw::CutMidEvent), rest()],
            "reset, again; done",
        ),
        Row::new("`overloaded_error`", "after a tool", vec![call(), cut(overloaded()), rest()], "overloaded, again; done"),
        Row::new(
            "closed in the middle of an event",
            "behind a seam",
            vec![cut(Flaw::CutMidEvent), cut(Flaw::EndEarly), rest()],
            "reset, again (2 times); done",
        ),
        Row::new(
            "529",
            "behind a seam",
            vec![cut(overloaded()), Answer::status(529), rest()],
            "overloaded, again (2 times); done",
        ),
        Row::new("400", "behind a seam", vec![cut(Flaw::CutMidEvent), Answer::status(400)], "reset, again; bad_request; error"),
    ];
    let mut silent = Row::new(
        "silence",
        "behind a seam",
        vec![cut(Flaw::CutMidEvent), cut(Flaw::Stall)],
        "reset, again; idle_timeout; timeout",
    );
    silent.clocks.idle = SHORT;
    rows.push(silent);
    rows
}

/// What looks like a fault and is none: it is not cut.
fn healthy() -> Vec<Row> {
    let arguments = json!({"path": "a".repeat(160)}).to_string();
    let pause = Duration::from_millis(250);
    let mut pings =
        Row::new("pings, and then an answer", "after the headers", vec![Answer::pings_then(8, pause, "At last.")], "done");
    pings.clocks.idle = SHORT * 2;
    let slow = Answer::slow_arguments("look", arguments, pause);
    let mut slow = Row::new("a pause before each piece", "in a tool's arguments", vec![slow, rest()], "done");
    (slow.clocks.idle, slow.clocks.progress) = (SHORT * 2, SHORT * 2);
    let trickle =
        Row::new("byte by byte", "in the text", vec![Answer::trickle("naïve 日本語 text", Duration::from_micros(50))], "done");
    let long = Row::new("an event of 10 MB", "in the text", vec![Answer::broken("one two", 1, Flaw::TenMegabyteLine)], "done");
    vec![pings, slow, trickle, long]
}

/// The same faults where another model can be asked.
fn with_another_model() -> Vec<Row> {
    let first_fails = |answer: Answer| {
        move |provider: Provider| {
            let answer = answer.clone();
            Script::by(
                move |request: &Request| {
                    if request.provider == Some(provider) { answer.clone() } else { Answer::text("The rest.") }
                },
            )
        }
    };
    let always = |kind: &str| format!("{kind}, again (4 times); {kind}; another model; done");
    let cut = Answer::broken("one two three four", 2, Flaw::EndEarly);
    let rows = [
        ("404", Answer::status(404), "not_found; another model; done".to_owned()),
        ("500, each time", Answer::status(500), always("server")),
        ("529, each time", Answer::status(529), always("overloaded")),
        ("429, each time", Answer::status(429), always("rate_limit")),
        (
            "429, `retry-after: 7200`",
            Answer::rate_limited(Duration::from_secs(7200)),
            "rate_limit, at a time that was told; another model; done".to_owned(),
        ),
        ("ended without its terminal event, each time", cut, always("reset")),
        (
            "a page of HTML, each time",
            Answer::WrongContentType,
            "protocol, again (2 times); protocol; another model; done".to_owned(),
        ),
        ("400", Answer::status(400), "bad_request; error".to_owned()),
        ("401", Answer::status(401), "auth; error".to_owned()),
        ("402", Answer::status(402), "quota; error".to_owned()),
    ];
    let row = |(fault, answer, expected): (&str, Answer, String)| Row {
        script: Box::new(first_fails(answer)),
        has_fallback: true,
        ..Row::new(fault, "with another model to ask", Vec::new(), expected)
    };
    rows.into_iter().map(row).collect()
}

/// Somebody stops the turn, wherever it waits.
fn interrupts() -> Vec<Row> {
    let arguments = json!({"path": "a".repeat(60)}).to_string();
    let broken = |reply: Reply, after| Answer::Broken { reply, after, flaw: Flaw::Stall };
    let mut rows: Vec<Row> = [
        ("before the headers", Answer::NeverAnswer, Reached::Asked, "interrupted", ""),
        ("after the headers", Answer::headers_then_nothing(), Reached::Asked, "interrupted", ""),
        ("in the reasoning", broken(Reply::reasoning("hm hm hm hm"), 2), Reached::Reasoning, "interrupted", "hm "),
        ("in the text", broken(Reply::text("one two three"), 2), Reached::Text, "interrupted", ""),
        ("in a tool's arguments", broken(Reply::tool_call("look", arguments), 2), Reached::Arguments, "interrupted", ""),
        ("while a tool runs", Answer::tool_call("hang", "{}"), Reached::Tool, "interrupted", ""),
        (
            "in the pause before another try",
            status(503, &[("retry-after-ms", "59000")], ""),
            Reached::Failed,
            "server, again after 59 s; interrupted",
            "",
        ),
    ]
    .into_iter()
    .map(|(state, answer, reached, expected, reasoned)| {
        let mut row = Row::new("an interrupt", state, vec![answer], expected);
        (row.act, row.reasoned) = (Act::Interrupt(reached), reasoned);
        row.retry.scale = 1.0;
        row
    })
    .collect();
    let asks = || Answer::rate_limited(Duration::from_secs(7200));
    let mut long = Row::new(
        "an interrupt",
        "in a long wait",
        vec![asks()],
        "rate_limit, at a time that was told; waits (rate_limit); interrupted",
    );
    long.act = Act::Interrupt(Reached::Waiting);
    long.retry.longest_wait = Duration::from_secs(86_400);
    rows.push(long);
    let mut breaker = behind_the_breaker("an interrupt", 5, "server, again (5 times); waits (breaker_open); interrupted");
    breaker.act = Act::Interrupt(Reached::Waiting);
    rows.push(breaker);
    rows
}

/// A server that fails until its breaker opens.
fn behind_the_breaker(fault: &str, failures: usize, expected: &str) -> Row {
    let mut answers = vec![Answer::status(500); failures];
    answers.push(rest());
    let mut row = Row::new(fault, "behind the breaker", answers, expected);
    // The pauses of the breaker are those of its runtime.
    row.retry = RetryPolicy { retries: 8, first_pause: Duration::from_millis(1), ..RetryPolicy::default() };
    row
}

fn breakers() -> Vec<Row> {
    let again = "server, again (5 times); waits (breaker_open); server, again; waits (breaker_open); done";
    vec![
        behind_the_breaker("500, five times", 5, "server, again (5 times); waits (breaker_open); done"),
        behind_the_breaker("500, six times", 6, again),
    ]
}

fn rows() -> Vec<Row> {
    [refusals(), breakers(), broken_streams(), later_requests(), with_another_model(), interrupts(), healthy()]
        .into_iter()
        .flatten()
        .collect()
}

fn model(provider: Provider, server: &str) -> Arc<dyn Model> {
    let endpoint = |name: &str, url: String, model: &str| Endpoint {
        api_key: Some(Secret::new("key-of-the-matrix")),
        ..Endpoint::new(name, url, model)
    };
    let http = HttpClient::new();
    match provider {
        Provider::Anthropic => {
            Arc::new(Anthropic::new(endpoint("anthropic", server.to_owned(), "claude-opus-4-6"), http).expect("an endpoint"))
        }
        Provider::OpenAi => {
            Arc::new(OpenAi::new(endpoint("openai", format!("{server}/v1"), "gpt-5"), http).expect("an endpoint"))
        }
        Provider::Responses => Arc::new(
            OpenAiResponses::new(endpoint("openai-responses", format!("{server}/v1"), "gpt-5.5"), http).expect("an endpoint"),
        ),
    }
}

fn setup(provider: Provider, server: &str, row: &Row, folder: &Path) -> Setup {
    let mut setup = Setup::new(model(provider, server), folder);
    if row.has_fallback {
        let next = PROVIDERS.iter().position(|known| *known == provider).map_or(0, |place| (place + 1) % 3);
        setup.fallbacks = vec![model(PROVIDERS[next], server)];
    }
    setup.clocks = row.clocks;
    setup.retry = row.retry;
    setup.permissions.mode = PermissionMode::Allow;
    setup.tools = vec![Arc::new(Look), Arc::new(Hang)];
    setup
}

struct Look;
struct Hang;

fn spec(name: &str) -> ToolSpec {
    let parameters = json!({"type": "object", "properties": {"path": {"type": "string"}}});
    ToolSpec { name: name.to_owned(), description: "Looks.".to_owned(), parameters }
}

#[async_trait]
impl Tool for Look {
    fn spec(&self) -> ToolSpec {
        spec("look")
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _: &Value) -> String {
        "look".to_owned()
    }

    async fn run(&self, _: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        Ok(ToolOutput::text("nothing there"))
    }
}

#[async_trait]
impl Tool for Hang {
    fn spec(&self) -> ToolSpec {
        spec("hang")
    }

    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, _: &Value) -> String {
        "hang".to_owned()
    }

    async fn run(&self, _: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        std::future::pending().await
    }
}

/// One store for all cells.
struct World {
    folder: tempfile::TempDir,
    runtime: Runtime,
    /// The same, but for a breaker that stays open for longer than any test takes.
    patient: Runtime,
    hole: BlackHole,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(FileStore::open(FileStoreOptions::new(folder.path())).expect("a store"));
        let runtime = |first_pause| {
            let breaker = BreakerPolicy { first_pause, longest_pause: LONG, ..BreakerPolicy::default() };
            Runtime::new(Arc::clone(&store) as Arc<dyn SessionStore>).with_breaker(breaker)
        };
        Self {
            runtime: runtime(Duration::from_millis(100)),
            patient: runtime(LONG),
            folder,
            hole: BlackHole::open().expect("a hole"),
        }
    }
}

/// Runs a cell; gives what its log says. Everything else that a cell has to be is checked here.
async fn cell(world: &World, row: &Row, provider: Provider) -> String {
    let folder = world.folder.path();
    let runtime = if row.act == Act::Nothing { &world.runtime } else { &world.patient };
    let name = format!("{} {}, {provider:?}", row.fault, row.state);
    let server = FaultServer::start((row.script)(provider)).expect("a server");
    let url = match row.at {
        At::Hole => world.hole.url(),
        At::Nobody => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            format!("http://{}", listener.local_addr().expect("bound"))
        }
        At::Server => server.url(),
    };
    let session = runtime.create(setup(provider, &url, row, folder)).await.expect("a session");
    let mut turn = session.send("hello").await.expect("a turn");
    if let Act::Interrupt(reached) = row.act {
        wait_for(&mut turn, reached, &server).await;
        turn.interrupt();
    }
    let outcome = tokio::time::timeout(LONG, turn.outcome()).await.unwrap_or_else(|_| panic!("{name} hangs"));
    let log = entries(runtime, &session).await;
    let said = words(&log);
    assert!(said.ends_with(outcome.reason.as_str()), "{name}: {said}; {outcome:?}");
    assert!(outcome.duration < LONG, "{name} took {:?}", outcome.duration);
    kept(&name, row, &server, &log);

    // Whatever happened, the session opens again and takes a further turn, which the strict server finds legal.
    server.follow([Answer::text("Going on.")]);
    session.close().await.expect("everything durable");
    let mut healthy = Row::new("", "", Vec::new(), "");
    healthy.retry.scale = 1.0;
    let session =
        world.runtime.resume(session.id(), setup(provider, &server.url(), &healthy, folder)).await.expect("the session");
    let outcome =
        tokio::time::timeout(LONG, session.send("go on").await.expect("a turn").outcome()).await.expect("the turn ends");
    assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, "Going on."), "{name}: {:?}", outcome.error);
    assert_eq!(server.refusals(), Vec::<String>::new(), "{name}");
    session.close().await.expect("everything durable");
    said
}

async fn wait_for(turn: &mut Turn, reached: Reached, server: &FaultServer) {
    let is_there = |event: &TurnEvent| match (event, reached) {
        (TurnEvent::Delta(delta), Reached::Text) => delta.kind == DeltaKind::Text,
        (TurnEvent::Delta(delta), Reached::Reasoning) => delta.kind == DeltaKind::Reasoning,
        (TurnEvent::Entry(entry), _) => match &entry.event {
            Event::ModelRequest(_) => matches!(reached, Reached::Asked | Reached::Arguments),
            Event::ModelError(_) => reached == Reached::Failed,
            Event::ModelWaiting(_) => reached == Reached::Waiting,
            Event::ToolStarted(_) => reached == Reached::Tool,
            _ => false,
        },
        _ => false,
    };
    let read = async { while turn.next().await.is_some_and(|event| !is_there(&event)) {} };
    tokio::time::timeout(LONG, read).await.unwrap_or_else(|_| panic!("the turn never comes to {reached:?}"));
    if matches!(reached, Reached::Asked | Reached::Arguments) {
        // What the server sends by then shows in no event.
        while server.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn entries(runtime: &Runtime, session: &Session) -> Vec<Arc<Entry>> {
    session.flush().await.expect("a flush");
    let mut reader = runtime.store().read(session.id(), 0).await.expect("a reader");
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().await.expect("an entry") {
        entries.push(entry);
    }
    entries
}

/// Every word that the server sent is in the log, in order, and what came of a cut answer runs no tool.
fn kept(name: &str, row: &Row, server: &FaultServer, log: &[Arc<Entry>]) {
    let (mut text, mut reasoning) = (String::new(), String::new());
    for entry in log {
        match &entry.event {
            Event::AssistantMessage(message) => {
                text.push_str(&message.text());
                let cut_calls = if message.partial { message.tool_calls().count() } else { 0 };
                assert_eq!(cut_calls, 0, "{name}: a call of an answer that was cut is none");
            }
            Event::AssistantReasoning(piece) => reasoning.push_str(&piece.text),
            _ => {}
        }
    }
    let sent: Vec<String> = server.requests().iter().map(Request::sent_text).collect();
    // What is sent after the answer was given up is nobody's loss.
    let goes_on_sending = row.expected.starts_with("protocol") || matches!(row.act, Act::Interrupt(_));
    let is_kept = if goes_on_sending { is_made_of_starts(&text, &sent) } else { text == sent.concat() };
    assert!(is_kept || row.may_lose, "{name}: sent {sent:?}, kept {text:?}");
    assert!(reasoning.contains(row.reasoned), "{name}: kept {reasoning:?}");
    for entry in log {
        if let (Event::ToolStarted(_), Act::Nothing) = (&entry.event, row.act) {
            assert!(log.iter().any(|other| matches!(other.event, Event::ToolFinished(_))), "{name}: a tool without its result");
        }
    }
}

/// Whether `text` is the start of each of `sent`, one after the other.
fn is_made_of_starts(text: &str, sent: &[String]) -> bool {
    let same = |left: &str, sent: &String| left.bytes().zip(sent.bytes()).take_while(|(a, b)| a == b).count();
    sent.iter().try_fold(text, |left, sent| left.get(same(left, sent)..)) == Some("")
}

/// What the events of a turn say, in words.
fn words(log: &[Arc<Entry>]) -> String {
    let mut steps: Vec<(String, usize)> = Vec::new();
    for entry in log {
        let step = match &entry.event {
            Event::ModelError(error) => match (error.retry_in_ms, error.retry_at) {
                (Some(ms), Some(_)) => {
                    let asked = if ms >= 1000 { ms as f64 / 1000.0 } else { ms as f64 / 1000.0 / SCALE };
                    format!("{}, again after {} s", error.kind, asked)
                }
                (Some(_), None) => format!("{}, again", error.kind),
                (None, Some(_)) if matches!(error.kind.as_str(), "rate_limit" | "server" | "overloaded") => {
                    format!("{}, at a time that was told", error.kind)
                }
                (None, _) => error.kind.clone(),
            },
            Event::ModelWaiting(waiting) => format!("waits ({})", waiting.reason),
            Event::ModelFallback(_) => "another model".to_owned(),
            Event::TurnEnded(ended) => ended.reason.clone(),
            _ => continue,
        };
        match steps.last_mut() {
            Some((last, count)) if *last == step => *count += 1,
            _ => steps.push((step, 1)),
        }
    }
    let step = |(step, count): (String, usize)| if count > 1 { format!("{step} ({count} times)") } else { step };
    steps.into_iter().map(step).collect::<Vec<_>>().join("; ")
}

#[test]
fn every_fault_in_every_state_ends_well_for_each_provider_and_the_page_says_how() {
    let world = World::new();
    let rows = rows();
    let cells = rows.iter().flat_map(|row| PROVIDERS.map(|provider| (row, provider)));
    let run = |(row, provider)| {
        let world = &world;
        async move { (row, provider, cell(world, row, provider).await) }
    };
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let found: Vec<_> = threads.block_on(async {
        let found = futures_util::stream::iter(cells).map(run).buffered(AT_ONCE).collect().await;
        world.runtime.shutdown(LONG).await.expect("everything durable");
        found
    });
    assert!(found.len() >= 150, "{} cells", found.len());
    let wrong: Vec<String> = found
        .iter()
        .filter(|(row, _, said)| *said != row.expected)
        .map(|(row, provider, said)| format!("{} {}, {provider:?}: {said:?} and not {:?}", row.fault, row.state, row.expected))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let page = page(&rows, found.len());
    if std::env::var_os("LONGHAND_WRITE_FAULTS").is_some() {
        std::fs::write(PAGE, page).expect("the page is written");
    } else {
        let written = std::fs::read_to_string(PAGE).unwrap_or_default();
        assert!(
            written == page,
            "agent-runtime/FAULTS.md does not say what was found: LONGHAND_WRITE_FAULTS=1 cargo test -p longhand-tests --test faults writes it"
        );
    }
}

/// The page as it has to be.
fn page(rows: &[Row], cells: usize) -> String {
    let mut page = String::from(
        "# What becomes of each failure\n\n\
        This page is written by `tests/tests/faults.rs`, which finds all of it out each time it runs.\n\n\
        ## What may cure a failure\n\n\
        A failure has one of these kinds, in `model.error` of the log and in what an embedder gets. A try is repeated four times at most, after pauses of 0.5 s, 1 s, 2 s and 4 s, each\n\
        shortened or lengthened by up to a quarter, or after the longer one that the server asks for, up to a minute. Another model is asked only where there is one.\n\n\
        | kind | cure |\n|---|---|\n",
    );
    for kind in FailureKind::ALL {
        let cure = match kind.cure() {
            Cure::AnotherTry if kind == FailureKind::Protocol => "another try, twice at most, then another model",
            Cure::AnotherTry => "another try, then another model",
            Cure::AnotherModelOrTry => "another model at once; without one, another try when the endpoint may be asked",
            Cure::AnotherModel => "another model at once",
            Cure::Nothing if kind.is_timeout() => "none: a limit that ends a call ends the turn",
            Cure::Nothing => match kind {
                FailureKind::ContextTooLong => "a trim, three times at most",
                FailureKind::Learned => "the same without the parameter that was refused, at once",
                FailureKind::ImageRefused => "the same without the image, at once; four times at most",
                _ => "none",
            },
        };
        let _ = writeln!(page, "| `{}` | {cure} |", kind.as_str());
    }
    let _ = write!(
        page,
        "\n## What was found\n\n\
        {} faults and states, each for Anthropic Messages, Chat Completions and Responses: {cells} cells. What the log says is told in its order: the kind of a failed request, what\n\
        followed (`again`: another try), and how the turn ended. In each cell every word that came is in the log, no word comes twice, no tool of a cut answer ran, and the session\n\
        opens again and takes a further turn.\n\n\
        | fault | where | what the log says |\n|---|---|---|\n",
        rows.len()
    );
    for row in rows {
        let _ = writeln!(page, "| {} | {} | {} |", row.fault, row.state, row.expected);
    }
    page
}
