//! The context window, held to its rules with random conversations: long texts, many steps in one prompt, calls side by side, huge results, a
//! todo list, messages that steer, pins, trims and rewinds and their undoing, and resumes, in small windows.
//!
//! The model here has the bodies of the real clients and a tokenizer of its own: o200k over all that the body says, times what its family
//! makes of that, a token a byte at most. It refuses what is more than its window, as the real ones do, and reports what it counted, always or now and then.
//! What was sent is held against the log: each request, in its order, with the state that it was made for.
//!
//! **What is promised of the budget.** No request is above it by what is known when it is sent: by the estimate, or because even a token for each byte would fit. And no
//! request is more than the model takes where the table of models is right about its family. Where a tokenizer makes more tokens than the table says, the program
//! cannot know before the first report, and the model refuses: then what is sent next is at least a fifth less, and the turn fails only where nothing more can leave.

use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, OpenAi, OpenAiResponses};
use agent_runtime::session_store::{
    Block, ContextTrimmed, Entry, Event, FileStore, FileStoreOptions, Message, Origin, Seq, SessionStore, SideRef, Slot, State,
    StopReason, Todo, ToolCall, ToolSpec, Usage, UserKind, sha256_hex,
};
use agent_runtime::{
    Body, Clocks, Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, PermissionMode, Runtime,
    Sent, Session, Setup, Tool, ToolContext, ToolError, ToolOutput, tools,
};
use async_trait::async_trait;
use bytes::Bytes;
use fault_server::strict;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const SYSTEM: &str = "You help with a long piece of work. [system]";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---------------------------------------------------------------------------------------------------------------- texts

/// Kinds of text that tokenizers treat differently.
const KINDS: usize = 7;

/// About `bytes` bytes of text of a kind, another one for each `mark`, which it begins with.
fn text(kind: usize, bytes: usize, mark: &str) -> String {
    let mut random =
        fastrand::Rng::with_seed(mark.bytes().fold(kind as u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte)));
    let mut text = format!("[{mark}] ");
    while text.len() < bytes {
        let number = random.u32(..);
        match kind {
            0 => text.push_str(["The disk was ", "a little too ", "slow for it, ", "so they waited. "][number as usize % 4]),
            1 => text.push_str(&format!("    let value_{} = compute(&input[{}..], None)?;\n", number % 97, number % 13)),
            2 => text.push_str(&format!("{{\"id\":{number},\"name\":\"item {}\",\"ok\":true}},\n", number % 1000)),
            3 => text.push_str(&format!("{number} ")),
            4 => text.extend((0..60).map(|_| random.alphanumeric())),
            5 => {
                text.push_str(
                    ["磁盘太慢了，", "他们等了很久。", "ディスクが遅い。", "Диск был медленным. "][number as usize % 4],
                );
            }
            _ => text.push_str(
                ["\u{1F600}\u{1F680} ", "        \n", "naïve façade ", "\u{1F468}\u{200D}\u{1F4BB}"][number as usize % 4],
            ),
        }
    }
    text
}

// -------------------------------------------------------------------------------------------------------------- the model

/// A tokenizer of a model that somebody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tokenizer {
    /// OpenAI's since GPT-4o.
    O200k,
    /// OpenAI's before that: to the program, one that it does not know.
    Cl100k,
}

impl Tokenizer {
    /// Counts each text once: the tests count whole requests again and again.
    fn count(self, text: &str) -> u64 {
        static KNOWN: Mutex<Option<HashMap<(Tokenizer, String), u64>>> = Mutex::new(None);
        let key = (self, if text.len() < 64 { text.to_owned() } else { sha256_hex(text.as_bytes()) });
        if let Some(known) = lock(&KNOWN).get_or_insert_default().get(&key) {
            return *known;
        }
        let encoder = match self {
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
        };
        let tokens = encoder.encode_ordinary(text).len() as u64;
        lock(&KNOWN).get_or_insert_default().insert(key, tokens);
        tokens
    }
}

/// What a model makes of texts.
#[derive(Clone, Copy)]
struct Tokens {
    of: Tokenizer,
    /// Its tokens for one of that; never more than a token for each byte.
    ratio: f64,
}

impl Tokens {
    fn count(self, text: &str) -> u64 {
        ((self.of.count(text) as f64 * self.ratio).ceil() as u64).min(text.len() as u64)
    }

    /// What a provider counts of a whole body: the words in it, and what OpenAI's cookbook ("How to count tokens with tiktoken") found around them: 3
    /// and the role for each message, 3 before the answer, and for each tool 7, 12 at its end, and 3 for its parameters and each of them. It says
    /// nothing of calls: they count here like messages.
    fn count_body(self, body: &Value) -> u64 {
        let messages = body["messages"].as_array().or_else(|| body["input"].as_array()).into_iter().flatten();
        let apart = ["system", "instructions"].iter().map(|name| &body[*name]).filter(|system| !system.is_null());
        let tools = body["tools"].as_array().into_iter().flatten();
        3 + messages.map(|message| 4 + self.words(message)).sum::<u64>()
            + apart.map(|system| 4 + self.words(system)).sum::<u64>()
            + tools.map(|tool| self.tool(tool)).sum::<u64>()
    }

    /// The words of a message, a block, or a list of them.
    fn words(self, value: &Value) -> u64 {
        match value {
            Value::String(text) => self.count(text),
            Value::Array(parts) => parts.iter().map(|part| self.words(part)).sum(),
            Value::Object(fields) => {
                let is_call = fields.contains_key("arguments") || fields.contains_key("input");
                let of = |(name, value): (&String, &Value)| match name.as_str() {
                    "content" | "text" | "output" | "tool_calls" | "function" | "name" | "arguments" => self.words(value),
                    "input" => self.count(&value.to_string()),
                    _ => 0,
                };
                fields.iter().map(of).sum::<u64>() + if is_call { 3 } else { 0 }
            }
            _ => 0,
        }
    }

    fn tool(self, tool: &Value) -> u64 {
        let tool = if tool["function"].is_object() { &tool["function"] } else { tool };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let schema = if tool["parameters"].is_object() { &tool["parameters"] } else { &tool["input_schema"] };
        let parameters = schema["properties"].as_object().into_iter().flatten();
        let parameter =
            |(name, of): (&String, &Value)| 3 + self.count(&format!("{name}:{}:{}", text(&of["type"]), text(&of["description"])));
        7 + self.count(&format!("{}:{}", text(&tool["name"]), text(&tool["description"])))
            + 3
            + parameters.map(parameter).sum::<u64>()
            + 12
    }
}

/// What the model says when it is asked.
#[derive(Clone, Debug, Default)]
struct Says {
    text: String,
    calls: Vec<(&'static str, Value)>,
}

/// The bodies of a real client, and answers from a list.
struct Played {
    client: Arc<dyn Model>,
    limits: ModelLimits,
    tokenizer: Tokenizer,
    /// What it counts for each token of that.
    ratio: f64,
    /// Every how many answers it says what it counted; 0: never.
    reports_each: usize,
    /// Tokens of each answer that nobody sees again.
    reasons: u64,
    state: Mutex<PlayedState>,
}

#[derive(Default)]
struct PlayedState {
    says: VecDeque<Says>,
    bodies: Vec<Bytes>,
    /// Of each body: what it counted.
    counted: Vec<u64>,
    /// Of each body: what the session thought that it takes.
    thought: Vec<u64>,
    session: Option<Session>,
    summed_up: usize,
}

impl Played {
    fn count(&self, body: &[u8]) -> u64 {
        let body = serde_json::from_slice(body).expect("a body is JSON");
        Tokens { of: self.tokenizer, ratio: self.ratio }.count_body(&body)
    }

    fn state(&self) -> MutexGuard<'_, PlayedState> {
        lock(&self.state)
    }

    /// Each fourth summary fails, and each fourth is too long.
    fn sum_up(&self, input: u64) -> Result<ModelStream, ModelFailure> {
        let number = {
            let mut state = self.state();
            state.summed_up += 1;
            state.summed_up
        };
        if input > self.limits.context_window - self.limits.max_output_tokens {
            // It is the whole context and a message more.
            return Err(ModelFailure::new(FailureKind::ContextTooLong, format!("{input} tokens are too many")));
        }
        let text = text(number % KINDS, if number % 4 == 1 { 20_000 } else { 600 }, &format!("summary {number}"));
        let usage = Usage { input_tokens: Some(input), output_tokens: Some(300), ..Usage::default() };
        let stop = if number % 4 == 0 { StopReason::MaxTokens } else { StopReason::EndTurn };
        let events = [ModelEvent::Text(text), ModelEvent::Usage(usage), ModelEvent::Done { stop, opaque: None }];
        Ok(Box::pin(futures_util::stream::iter(events.map(Ok))))
    }
}

#[async_trait]
impl Model for Played {
    fn origin(&self) -> &Origin {
        self.client.origin()
    }

    fn limits(&self) -> ModelLimits {
        self.limits
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        self.client.body(conversation)
    }

    fn head(&self, conversation: &Conversation) -> Option<Vec<u8>> {
        self.client.head(conversation)
    }

    fn messages(&self, messages: &[Sent]) -> Body {
        self.client.messages(messages)
    }

    async fn call(&self, body: Body, _clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        let body = body.to_bytes();
        let input = self.count(&body);
        if String::from_utf8_lossy(&body).contains("This is a request of the program") {
            return self.sum_up(input);
        }
        let session = self.state().session.clone();
        let thought = match session {
            Some(session) => session.context_size().await.0,
            None => 0,
        };
        let (says, number) = {
            let mut state = self.state();
            state.bodies.push(body);
            state.counted.push(input);
            state.thought.push(thought);
            (state.says.pop_front().unwrap_or_default(), state.bodies.len())
        };
        if input > self.limits.context_window - self.limits.max_output_tokens {
            return Err(ModelFailure::new(FailureKind::ContextTooLong, format!("{input} tokens are too many")));
        }
        let mut events = Vec::new();
        let (mut output, tokens) = (0, Tokens { of: self.tokenizer, ratio: self.ratio });
        if !says.text.is_empty() {
            output += tokens.count(&says.text);
            events.push(ModelEvent::Text(says.text.clone()));
            events.push(ModelEvent::Block(Block::Text { text: says.text }));
        }
        let calls = says.calls.len();
        for (index, (name, arguments)) in says.calls.into_iter().enumerate() {
            let (provider_id, name, arguments) = (format!("toolu_{number}_{index}"), name.to_owned(), arguments.to_string());
            output += tokens.count(&name) + tokens.count(&arguments) + 3;
            events.push(ModelEvent::Block(Block::ToolCall(ToolCall { id: String::new(), provider_id, name, arguments })));
        }
        if self.reports_each > 0 && number.is_multiple_of(self.reports_each) {
            let output = output + self.reasons;
            let usage = Usage {
                input_tokens: Some(input),
                output_tokens: Some(output),
                reasoning_tokens: Some(self.reasons),
                ..Usage::default()
            };
            events.push(ModelEvent::Usage(usage));
        }
        let stop = if calls > 0 { StopReason::ToolUse } else { StopReason::EndTurn };
        events.push(ModelEvent::Done { stop, opaque: None });
        Ok(Box::pin(futures_util::stream::iter(events.into_iter().map(Ok))))
    }
}

fn client(protocol: usize) -> Arc<dyn Model> {
    let http = HttpClient::new();
    let at = |provider: &str| Endpoint::new(provider, "http://127.0.0.1:1/v1", "a-model");
    match protocol {
        0 => Arc::new(Anthropic::new(at("anthropic"), http).expect("a good endpoint")),
        1 => Arc::new(OpenAi::new(at("openai"), http).expect("a good endpoint")),
        _ => Arc::new(OpenAiResponses::new(at("openai-responses"), http).expect("a good endpoint")),
    }
}

// -------------------------------------------------------------------------------------------------------------- the tool

/// Gives the text that its arguments describe; while it runs, somebody may speak.
#[derive(Default)]
struct Look {
    session: OnceLock<Mutex<Option<Session>>>,
}

#[async_trait]
impl Tool for Look {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "look".to_owned(),
            description: "Looks at something.".to_owned(),
            parameters: json!({"type": "object", "properties": {"mark": {"type": "string"}, "kind": {"type": "integer"},
                "bytes": {"type": "integer"}, "steer": {"type": "string"}}}),
        }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _arguments: &Value) -> String {
        "look".to_owned()
    }

    async fn run(&self, arguments: Value, _context: ToolContext) -> Result<ToolOutput, ToolError> {
        if let Some(words) = arguments["steer"].as_str() {
            let session = self.session.get().and_then(|session| lock(session).clone());
            session.expect("the session is known").steer(words).await.expect("a turn runs");
        }
        Ok(ToolOutput::text(looked_at(&arguments)))
    }
}

fn looked_at(arguments: &Value) -> String {
    let number = |name: &str| usize::try_from(arguments[name].as_u64().unwrap_or(0)).unwrap_or(0);
    text(number("kind"), number("bytes"), arguments["mark"].as_str().unwrap_or_default())
}

// ----------------------------------------------------------------------------------------------------- random conversations

#[derive(Clone, Debug)]
struct Case {
    protocol: usize,
    window: u64,
    /// The model's tokens for one of o200k, and what the table of models says of that.
    ratio: f64,
    factor: f64,
    reports_each: usize,
    summarize: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Turn { kind: usize, bytes: usize, answers: Vec<Answer> },
    Note { kind: usize, bytes: usize },
    Trim,
    Undo(usize),
    Rewind(usize),
    Pin(usize),
    Unpin(usize),
    Resume,
}

#[derive(Clone, Debug)]
struct Answer {
    kind: usize,
    bytes: usize,
    calls: Vec<Looked>,
    todos: Option<usize>,
}

#[derive(Clone, Debug)]
struct Looked {
    kind: usize,
    bytes: usize,
    steers: bool,
}

fn kind() -> impl Strategy<Value = usize> {
    0..KINDS
}

fn answer() -> impl Strategy<Value = Answer> {
    let look =
        (kind(), prop_oneof![4 => 20..600_usize, 3 => 600..6_000_usize, 1 => 6_000..120_000_usize], prop::bool::weighted(0.1))
            .prop_map(|(kind, bytes, steers)| Looked { kind, bytes, steers });
    (kind(), 1..1_500_usize, prop::collection::vec(look, 1..4), prop::option::weighted(0.15, 1..8_usize))
        .prop_map(|(kind, bytes, calls, todos)| Answer { kind, bytes, calls, todos })
}

fn step() -> impl Strategy<Value = Step> {
    let turn = (kind(), prop_oneof![4 => 10..400_usize, 1 => 400..4_000_usize], prop::collection::vec(answer(), 0..12));
    prop_oneof![
        12 => turn.prop_map(|(kind, bytes, answers)| Step::Turn { kind, bytes, answers }),
        1 => (kind(), 10..3_000_usize).prop_map(|(kind, bytes)| Step::Note { kind, bytes }),
        1 => Just(Step::Trim),
        1 => (0..3_usize).prop_map(Step::Undo),
        1 => (1..30_usize).prop_map(Step::Rewind),
        2 => (0..30_usize).prop_map(Step::Pin),
        1 => (0..2_usize).prop_map(Step::Unpin),
        2 => Just(Step::Resume),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    // The last two make more tokens than the table of models says.
    let models = prop::sample::select(vec![(1.0, 1.0), (0.6, 1.0), (1.9, 2.0), (1.1, 2.0), (1.4, 1.0), (1.9, 1.0)]);
    let windows = prop::sample::select(vec![6_000_u64, 10_000, 20_000]);
    (0..3_usize, windows, models, 0..4_usize, any::<bool>(), prop::collection::vec(step(), 3..14)).prop_map(
        |(protocol, window, (ratio, factor), reports_each, summarize, steps)| Case {
            protocol,
            window,
            ratio,
            factor,
            reports_each,
            summarize,
            steps,
        },
    )
}

// ----------------------------------------------------------------------------------------------------------------- a case

struct World {
    folder: tempfile::TempDir,
    runtime: Runtime,
    model: Arc<Played>,
    look: Arc<Look>,
    session: Session,
    /// A number for each text.
    marks: usize,
    summarize: bool,
    /// The largest part of the budget that was pinned, as it was thought.
    pinned: f64,
}

impl World {
    async fn new(case: &Case) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let limits = ModelLimits { context_window: case.window, max_output_tokens: 1_500, token_factor: case.factor };
        let state = Mutex::default();
        let (client, ratio, reports_each) = (client(case.protocol), case.ratio, case.reports_each);
        let tokenizer = Tokenizer::O200k;
        let model = Arc::new(Played { client, limits, tokenizer, ratio, reports_each, reasons: 0, state });
        let look = Arc::new(Look::default());
        let runtime = runtime(folder.path());
        let summarize = case.summarize;
        let setup = Setup { summarize, ..setup(folder.path(), &model, &look) };
        let session = runtime.create(setup).await.expect("a session");
        let world = Self { folder, runtime, model, look, session, marks: 0, summarize, pinned: 0.0 };
        world.acquaint();
        world
    }

    /// The model and the tool have to know the session.
    fn acquaint(&self) {
        self.model.state().session = Some(self.session.clone());
        *lock(self.look.session.get_or_init(Mutex::default)) = Some(self.session.clone());
    }

    fn mark(&mut self, what: &str) -> String {
        self.marks += 1;
        format!("{what} {}", self.marks)
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Turn { kind, bytes, answers } => self.turn(*kind, *bytes, answers).await,
            Step::Note { kind, bytes } => {
                let mark = self.mark("note");
                self.session.note(&text(*kind, *bytes, &mark)).expect("accepted");
            }
            Step::Trim if self.summarize => {
                self.session.compact(Some("all of it")).await.expect("nothing runs");
            }
            Step::Trim => {
                self.session.trim().await.expect("nothing runs");
            }
            Step::Undo(which) => {
                let undo = self.session.state(|state| state.undoable().rev().nth(*which));
                if let Some(undo) = undo {
                    self.session.restore(undo).await.expect("it can be undone");
                }
            }
            Step::Rewind(back) => {
                let to = self.session.state(|state| state.next_seq.saturating_sub(1 + *back as u64));
                // Where nothing came after that, nothing happens.
                let _ = self.session.rewind(to);
            }
            Step::Pin(which) => {
                let message = self.session.state(|state| state.context.iter().rev().nth(*which).map(|slot| slot.seq));
                // The note of a trim is no message, and what is too much is refused.
                let _ = self.session.pin(message.unwrap_or(0)).await;
                let (tokens, budget) = (self.session.pinned_size().await.1, self.session.context_size().await.1);
                self.pinned = self.pinned.max(tokens as f64 / budget as f64);
            }
            Step::Unpin(which) => {
                let pinned = self.session.state(|state| state.pins.iter().nth(*which).copied());
                // A rewind may have taken it.
                let _ = self.session.unpin(pinned.unwrap_or(0));
            }
            Step::Resume => {
                self.model.state().session = None;
                lock(self.look.session.get_or_init(Mutex::default)).take();
                self.session.close().await.expect("it closes");
                self.runtime.shutdown(LONG).await.expect("everything durable");
                self.runtime = runtime(self.folder.path());
                let setup = Setup { summarize: self.summarize, ..setup(self.folder.path(), &self.model, &self.look) };
                self.session = self.runtime.resume(self.session.id(), setup).await.expect("it opens");
                self.acquaint();
            }
        }
    }

    async fn turn(&mut self, kind: usize, bytes: usize, answers: &[Answer]) {
        let mut says = VecDeque::new();
        for answer in answers {
            let mut calls: Vec<(&'static str, Value)> = Vec::new();
            for look in &answer.calls {
                let mut arguments = json!({"mark": self.mark("result"), "kind": look.kind, "bytes": look.bytes});
                if look.steers {
                    arguments["steer"] = self.mark("steer").into();
                }
                calls.push(("look", arguments));
            }
            if let Some(count) = answer.todos {
                let todos: Vec<Value> = (0..count).map(|_| json!({"content": self.mark("todo"), "status": "pending"})).collect();
                calls.push(("todo", json!({"todos": todos})));
            }
            let mark = self.mark("answer");
            says.push_back(Says { text: text(answer.kind, answer.bytes, &mark), calls });
        }
        let mark = self.mark("answer");
        says.push_back(Says { text: text(kind, 40, &mark), calls: Vec::new() });
        self.model.state().says = says;
        let mark = self.mark("prompt");
        // A message that does not fit even alone is refused.
        if let Ok(turn) = self.session.send(text(kind, bytes, &mark)).await {
            turn.outcome().await;
        }
    }

    async fn entries(&self) -> Vec<Arc<Entry>> {
        self.session.flush().await.expect("a flush");
        let mut reader = self.runtime.store().read(self.session.id(), 0).await.expect("a reader");
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().await.expect("an entry") {
            entries.push(entry);
        }
        entries
    }

    async fn side(&self, side: &SideRef) -> Vec<u8> {
        self.runtime.store().read_side(self.session.id(), side).await.expect("the whole is there")
    }
}

fn runtime(folder: &Path) -> Runtime {
    Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(folder)).expect("a store")) as Arc<dyn SessionStore>)
}

fn setup(folder: &Path, model: &Arc<Played>, look: &Arc<Look>) -> Setup {
    let mut setup = Setup::new(Arc::clone(model) as Arc<dyn Model>, folder);
    setup.system = Some(SYSTEM.to_owned());
    setup.tools = vec![Arc::clone(look) as Arc<dyn Tool>, Arc::new(tools::TodoTool)];
    setup.permissions.mode = PermissionMode::Allow;
    setup
}

// -------------------------------------------------------------------------------------------------------------- the rules

/// What was sent, held against the log.
struct Rules<'a> {
    case: &'a Case,
    /// Tokens for everything that is sent.
    budget: u64,
    model: &'a Played,
    bodies: Vec<Bytes>,
    state: State,
    entries: &'a [Arc<Entry>],
    /// The last body, while nothing before its end has changed.
    last: Option<Bytes>,
    requests: usize,
    /// What was said by the user in the turn that runs.
    said: Vec<String>,
    /// The todo list, while it has to be in what is sent.
    todos: Option<Arc<Vec<Todo>>>,
    /// What was too much in this turn: the size that was thought of the last request that was refused.
    refused: Option<u64>,
    trims: usize,
}

impl<'a> Rules<'a> {
    fn new(case: &'a Case, model: &'a Played, entries: &'a [Arc<Entry>]) -> Self {
        let Limits { input, .. } = Limits::of(case);
        let bodies = model.state().bodies.clone();
        Self {
            case,
            budget: input,
            model,
            bodies,
            state: State::default(),
            entries,
            last: None,
            requests: 0,
            said: Vec::new(),
            todos: None,
            refused: None,
            trims: 0,
        }
    }

    fn check(mut self) -> Result<usize, TestCaseError> {
        for (place, entry) in self.entries.iter().enumerate() {
            match &entry.event {
                Event::UserMessage(user) if user.kind == UserKind::Steer => self.said.push(user.text.clone()),
                Event::UserMessage(user) => self.said = vec![user.text.clone()],
                Event::TodosChanged(changed) => self.todos = Some(Arc::clone(&changed.todos)),
                Event::ContextTrimmed(trim) => {
                    self.is_deep(trim)?;
                    self.trims += 1;
                    self.last = None;
                }
                // The list stays as it is, and what the model was told of it goes.
                Event::ContextRewound(_) | Event::ContextRestored(_) => (self.last, self.todos) = (None, None),
                Event::Profile(_) => self.last = None,
                Event::ModelRequest(request) => {
                    let body = self.bodies.get(self.requests).cloned();
                    let body = body.ok_or_else(|| TestCaseError::fail("a request that was not sent"))?;
                    prop_assert_eq!(&sha256_hex(&body), &request.body_sha256, "the request at {} is another one", entry.seq);
                    self.request(entry.seq, &body)?;
                    self.is_shorter(entry.seq)?;
                    self.requests += 1;
                    self.last = Some(body);
                }
                Event::TurnEnded(ended) => self.ended(entry.seq, ended.error.as_deref())?,
                _ => {}
            }
            self.state.apply(entry);
            if !self.state.missing().is_empty() {
                self.entries[..=place].iter().for_each(|entry| self.state.hydrate(entry));
            }
        }
        prop_assert_eq!(self.requests, self.bodies.len(), "what was sent is in the log");
        Ok(self.trims)
    }

    fn request(&self, seq: Seq, body: &Bytes) -> Result<(), TestCaseError> {
        let json: Value = serde_json::from_slice(body).expect("a body is JSON");
        let checked = match self.case.protocol {
            0 => strict::check_anthropic(&json),
            1 => strict::check_openai(&json),
            _ => strict::check_responses(&json),
        };
        // No orphan among them.
        prop_assert!(checked.is_ok(), "the request at {seq}: {checked:?}\n{json:#}");
        let state = self.model.state();
        let (counted, thought) = (state.counted[self.requests], state.thought[self.requests]);
        let known = thought.min(self.at_most(body));
        prop_assert!(known <= self.budget, "the request at {seq} takes {known} tokens, as it was known, of {}", self.budget);
        let most = Limits::of(self.case).most;
        let is_known = self.case.ratio <= self.case.factor;
        prop_assert!(
            counted <= most || !is_known,
            "the request at {seq} takes {counted} tokens of {most}; {thought} were thought"
        );

        let sent = String::from_utf8(body.to_vec()).expect("text");
        let has = |words: &str| sent.contains(json!(words).to_string().trim_matches('"'));
        prop_assert!(has(SYSTEM), "the request at {seq} has no system prompt");
        for said in &self.said {
            prop_assert!(has(said), "the request at {seq} lacks what the user said: {said:.40}");
        }
        for todo in self.todos.iter().flat_map(|todos| todos.iter()) {
            prop_assert!(has(&todo.content), "the request at {seq} lacks {}", todo.content);
        }
        let mut rest = sent.as_str();
        for slot in self.pinned() {
            let words = json!(words_of(slot)).to_string();
            let place = rest.find(words.trim_matches('"'));
            prop_assert!(
                place.is_some(),
                "the request at {seq} lacks what is pinned at {}, or has it in another place",
                slot.seq
            );
            rest = &rest[place.unwrap_or(0)..];
        }
        if let Some(before) = &self.last {
            let same = before.iter().zip(body).take_while(|(before, now)| before == now).count();
            prop_assert!(same >= fixed(before), "the request at {seq} changed what was sent at byte {same} of {}", fixed(before));
        }
        Ok(())
    }

    /// What the request takes at most: a token for each byte, of all of it or of what came since the last report.
    fn at_most(&self, body: &Bytes) -> u64 {
        let since = |(at, reported): (Seq, u64)| {
            let last = self.state.context.iter().rposition(|slot| slot.seq <= at);
            let since = last.map_or(&[][..], |last| &self.state.context[last + 1..]).iter();
            reported + since.map(|slot| words_of(slot).len() as u64 + names_of(slot)).sum::<u64>()
        };
        (body.len() as u64).min(self.state.counted.map_or(u64::MAX, since))
    }

    /// What is sent after a request that was too long is at least a fifth less.
    fn is_shorter(&mut self, seq: Seq) -> Result<(), TestCaseError> {
        let (counted, thought) = {
            let state = self.model.state();
            (state.counted[self.requests], state.thought[self.requests])
        };
        if let Some(refused) = self.refused.take() {
            prop_assert!(thought <= refused / 5 * 4, "the request at {seq} has {thought} tokens after {refused} were too many");
        }
        self.refused = (counted > Limits::of(self.case).most).then_some(thought);
        Ok(())
    }

    /// The pinned messages in the context: of an answer all its results.
    fn pinned(&self) -> Vec<&Slot> {
        let calls: Vec<&str> =
            self.state.context.iter().filter(|slot| self.state.pins.contains(&slot.seq)).flat_map(calls_of).collect();
        let is_result = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::ToolResult { call, .. }) if calls.contains(&call.as_str()));
        self.state.context.iter().filter(|slot| self.state.pins.contains(&slot.seq) || is_result(slot)).collect()
    }

    /// A trim goes down to half of the budget, or leaves nothing that may leave.
    fn is_deep(&self, trim: &ContextTrimmed) -> Result<(), TestCaseError> {
        let leaves = |slot: &&Slot| trim.removed.iter().any(|range| range.contains(slot.seq));
        prop_assert!(self.state.context.iter().any(|slot| leaves(&slot)), "a trim that takes nothing");
        let is_user = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::User { .. }));
        let last_user = || self.state.context.iter().rfind(|slot| is_user(slot)).map(|slot| slot.seq);
        let opening = self.state.turn.as_ref().map(|turn| turn.user).or_else(last_user);
        let is_answer = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::Assistant(_)));
        // The note of a trim is newer than what it stands before.
        let last_step = self.state.context.iter().rfind(|slot| is_answer(slot)).map(|slot| slot.order);
        let pinned: Vec<Seq> = self.pinned().iter().map(|slot| slot.seq).collect();
        let may_leave = |slot: &&Slot| {
            let in_turn = opening.is_some_and(|opening| slot.seq >= opening);
            !pinned.contains(&slot.seq) && !(in_turn && (is_user(slot) || last_step.is_some_and(|last| slot.order >= last)))
        };
        let taken = self.state.context.iter().filter(leaves).find(|slot| !may_leave(slot));
        prop_assert!(taken.is_none(), "a trim takes what has to stay: {taken:?}");
        // What was said between the results of a pinned answer stays with them.
        let is_between = |slot: &&Slot| {
            let mut steps = self.state.context.iter().filter(|answer| self.state.pins.contains(&answer.seq)).map(|answer| {
                let calls = calls_of(answer);
                let is_result = |slot: &&Slot| {
                    matches!(slot.message.as_deref(), Some(Message::ToolResult { call, .. }) if calls.contains(&call.as_str()))
                };
                let last = self.state.context.iter().rfind(is_result).map_or(answer.order, |last| last.order);
                answer.order..=last
            });
            steps.any(|step| step.contains(&slot.order))
        };
        let stays = |slot: &&Slot| !leaves(slot) && !is_between(slot);
        let left = self.state.context.iter().filter(stays).filter(may_leave).count();
        let target = match trim.reason.as_str() {
            "user" => 0,
            "context_too_long" => trim.tokens_before / 5 * 4,
            _ => self.budget / 2,
        };
        // The note that is made of it comes on top.
        let most = target + trim.note.len() as u64;
        prop_assert!(trim.tokens_after <= most || left == 0, "a trim from {} to {}", trim.tokens_before, trim.tokens_after);
        // No result without its answer, and no answer without its results.
        for slot in &self.state.context {
            for call in calls_of(slot) {
                let is_it =
                    |other: &&Slot| matches!(other.message.as_deref(), Some(Message::ToolResult { call: of, .. }) if of == call);
                let result = self.state.context.iter().find(is_it);
                prop_assert!(
                    result.is_none_or(|result| leaves(&result) == leaves(&slot)),
                    "a trim cuts the step at {}",
                    slot.seq
                );
            }
        }
        Ok(())
    }

    /// A turn fails only where what has to be sent does not fit.
    fn ended(&mut self, seq: Seq, error: Option<&str>) -> Result<(), TestCaseError> {
        self.refused = None;
        let Some(error) = error else { return Ok(()) };
        let is_refused = self.case.ratio > self.case.factor && error.contains("nothing more of the conversation can be left out");
        prop_assert!(is_refused || error.contains("has to be sent"), "the turn that ended at {seq}: {error}");
        let size: u64 = self.state.context.iter().map(|slot| tokens_of(slot) + 8).sum();
        let all = (size as f64 * self.case.factor.max(self.case.ratio)) as u64 + 400;
        prop_assert!(all > self.budget * 3 / 4, "the turn that ended at {seq} gave up with {all} tokens of {}", self.budget);
        Ok(())
    }
}

/// What a case leaves room for.
struct Limits {
    /// Tokens for everything that is sent, as the window is divided.
    input: u64,
    /// The most that the model takes.
    most: u64,
}

impl Limits {
    fn of(case: &Case) -> Self {
        let most = case.window - 1_500;
        Self { input: most - (case.window / 16).min(1_024), most }
    }
}

/// How many bytes of a body cannot change any more: all before its last message.
fn fixed(body: &[u8]) -> usize {
    let body_json: Value = serde_json::from_slice(body).expect("a body is JSON");
    let messages = body_json["messages"].as_array().or_else(|| body_json["input"].as_array());
    let last = messages.and_then(|messages| messages.last()).map_or(0, |last| last.to_string().len());
    body.len() - last - "]}".len()
}

/// The names of the calls of an answer.
fn calls_of(slot: &Slot) -> Vec<&str> {
    match slot.message.as_deref() {
        Some(Message::Assistant(answer)) => answer.tool_calls().map(|call| call.id.as_str()).collect(),
        _ => Vec::new(),
    }
}

fn words_of(slot: &Slot) -> String {
    match slot.message.as_deref() {
        Some(Message::User { text, .. } | Message::Note { text }) => text.clone(),
        Some(Message::ToolResult { output, .. }) => output.clone(),
        Some(Message::Assistant(answer)) => answer.text(),
        _ => String::new(),
    }
}

/// What a message has besides its words, in bytes, and some tokens for what is around it.
fn names_of(slot: &Slot) -> u64 {
    let calls: usize = match slot.message.as_deref() {
        Some(Message::Assistant(answer)) => answer.tool_calls().map(|call| call.name.len() + call.arguments.len() + 8).sum(),
        _ => 0,
    };
    calls as u64 + 8
}

fn tokens_of(slot: &Slot) -> u64 {
    match slot.message.as_deref() {
        Some(Message::User { text, .. } | Message::Note { text }) => Tokenizer::O200k.count(text),
        Some(Message::ToolResult { output, .. }) => Tokenizer::O200k.count(output),
        Some(Message::Assistant(answer)) => {
            let calls = answer.tool_calls().map(|call| Tokenizer::O200k.count(&call.arguments));
            Tokenizer::O200k.count(&answer.text()) + calls.sum::<u64>()
        }
        _ => 0,
    }
}

/// A result of more than half of the window is shortened, and the whole of it is beside the log.
async fn results_are_shortened(world: &World, case: &Case, entries: &[Arc<Entry>]) -> Result<(), TestCaseError> {
    let mut calls: HashMap<String, Value> = HashMap::new();
    for entry in entries {
        match &entry.event {
            Event::AssistantMessage(answer) => calls.extend(
                answer.tool_calls().map(|call| (call.id.clone(), serde_json::from_str(&call.arguments).unwrap_or_default())),
            ),
            Event::ToolFinished(finished) if finished.name == "look" => {
                let whole = looked_at(&calls[&finished.call]);
                let tokens = (Tokenizer::O200k.count(&finished.output) as f64 * case.factor) as u64;
                // A token is at least a byte.
                let tokens = tokens.min(finished.output.len() as u64);
                let half = Limits::of(case).input / 2;
                prop_assert!(tokens <= half, "the result at {} takes {tokens} tokens of {half}", entry.seq);
                match &finished.full {
                    Some(side) => prop_assert_eq!(world.side(side).await, whole.into_bytes(), "the whole is beside the log"),
                    None => prop_assert_eq!(&finished.output, &whole, "what is not shortened is whole"),
                }
            }
            _ => {}
        }
    }
    Ok(())
}

async fn hold(case: &Case) -> Result<usize, TestCaseError> {
    let mut world = World::new(case).await;
    for step in &case.steps {
        world.step(step).await;
    }
    let entries = world.entries().await;
    let trims = Rules::new(case, &world.model, &entries).check()?;
    results_are_shortened(&world, case, &entries).await?;
    prop_assert!(world.pinned <= 0.51, "{} of the budget is pinned", world.pinned);
    world.model.state().session = None;
    lock(world.look.session.get_or_init(Mutex::default)).take();
    world.runtime.shutdown(LONG).await.expect("everything durable");
    Ok(trims)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_and_done_the_window_is_kept_to_its_rules(case in case()) {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        threads.block_on(hold(&case))?;
    }
}

/// How often two turns are trimmed that take some 15,000 tokens, and how many they take.
async fn two_turns(window: u64) -> (usize, u64) {
    let case = Case { protocol: 0, window, ratio: 1.0, factor: 1.0, reports_each: 0, summarize: false, steps: Vec::new() };
    let mut world = World::new(&case).await;
    world.turn(0, 70_000, &[]).await;
    world.turn(0, 100, &[]).await;
    let trims = world.session.state(|state| state.undoable().count());
    let thought = {
        let mut state = world.model.state();
        state.session = None;
        state.thought[1]
    };
    lock(world.look.session.get_or_init(Mutex::default)).take();
    world.runtime.shutdown(LONG).await.expect("everything durable");
    (trims, thought)
}

#[tokio::test]
async fn a_request_that_takes_all_of_the_budget_is_sent_as_it_is_and_one_of_a_token_more_is_trimmed() {
    let (trims, tokens) = two_turns(1_000_000).await;
    assert!(trims == 0 && tokens > 14_000, "{trims} trims, {tokens} tokens");
    // The answer, and the margin.
    let window = tokens + 1_500 + 1_024;
    assert_eq!(two_turns(window).await, (0, tokens));
    assert_eq!(two_turns(window - 1).await.0, 1);
}

// ------------------------------------------------------------------------------------------------------------- the counts

/// What is said and looked at in real sessions: prose, code, JSON and other scripts.
const PROSE: &str = include_str!("../../ARCHITECTURE.md");
const CODE: &str = include_str!("../../agent-runtime/src/agent_loop.rs");
const LINES: &str = include_str!("../../session-store/FORMAT.md");
const OTHER_SCRIPTS: &str = "会话的每一个事件都会先写入日志，然后才会执行任何有副作用的工具。\n\
    セッションは決して失われません。ディスクが一杯になっても、待っている間は何も捨てられません。\n\
    Каждое событие сеанса записывается в журнал, и только потом запускается инструмент.\n\
    كل حدث في الجلسة يُكتب في السجل قبل أن يبدأ أي شيء آخر.\n\
    सत्र की हर घटना पहले लॉग में लिखी जाती है, उसके बाद ही कोई औज़ार चलता है।\n\
    세션의 모든 사건은 먼저 기록되고, 그 다음에야 도구가 실행됩니다.\n";

/// About `bytes` bytes of one of them, from another place each time.
fn passage(number: usize, bytes: usize) -> String {
    let json = || {
        let rows: Vec<Value> = (0..bytes / 90)
            .map(|row| json!({"id": number * 1000 + row, "path": format!("src/part_{row}/mod.rs"), "size": row * 7919 % 65_536, "ok": row % 3 > 0}))
            .collect();
        json!({"rows": rows, "next": null}).to_string()
    };
    let whole = match number % 5 {
        0 => PROSE.to_owned(),
        1 => CODE.to_owned(),
        2 => return json(),
        3 => OTHER_SCRIPTS.repeat(bytes / OTHER_SCRIPTS.len() + 2),
        _ => LINES.to_owned(),
    };
    let from = number * 997 % (whole.chars().count() / 2);
    let mut passage = String::new();
    for character in whole.chars().skip(from) {
        passage.push(character);
        if passage.len() >= bytes {
            break;
        }
    }
    passage
}

/// Reads out a passage.
struct Passages;

#[async_trait]
impl Tool for Passages {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: "passage".to_owned(), ..Look::default().spec() }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _arguments: &Value) -> String {
        "passage".to_owned()
    }

    async fn run(&self, arguments: Value, _context: ToolContext) -> Result<ToolOutput, ToolError> {
        let number = |name: &str| usize::try_from(arguments[name].as_u64().unwrap_or(0)).unwrap_or(0);
        Ok(ToolOutput::text(passage(number("kind"), number("bytes"))))
    }
}

/// A session of some thirty requests, and of each the size that was thought and the one that the provider counted.
async fn counts(protocol: usize, tokenizer: Tokenizer, window: u64, reasons: u64) -> (Vec<(u64, u64)>, usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let limits = ModelLimits { context_window: window, max_output_tokens: 4_000, token_factor: 1.0 };
    let state = Mutex::default();
    let model = Arc::new(Played { client: client(protocol), limits, tokenizer, ratio: 1.0, reports_each: 1, reasons, state });
    let mut setup = setup(folder.path(), &model, &Arc::default());
    setup.system = Some(passage(0, 2_000));
    setup.tools = vec![Arc::new(Passages), Arc::new(tools::TodoTool)];
    let runtime = runtime(folder.path());
    let session = runtime.create(setup).await.expect("a session");
    model.state().session = Some(session.clone());
    for turn in 0..8_usize {
        let call = |number: usize| {
            ("passage", json!({"mark": "", "kind": turn + number, "bytes": 300 + (turn * 37 + number * 101) % 29 * 250}))
        };
        model.state().says = VecDeque::from([
            Says { text: "I look at that first.".to_owned(), calls: vec![call(1)] },
            Says { text: String::new(), calls: vec![call(2), call(3), call(4)] },
            Says {
                text: passage(turn + 4, 400),
                calls: vec![("todo", json!({"todos": [{"content": passage(3, 60), "status": "pending"}]}))],
            },
            Says { text: passage(turn, 1_500), calls: Vec::new() },
        ]);
        let outcome = session.send(passage(turn + 2, 80 + turn * 211)).await.expect("accepted").outcome().await;
        assert!(outcome.error.is_none(), "{outcome:?}");
    }
    session.flush().await.expect("a flush");
    let trims = session.state(|state| state.undoable().count());
    let sizes = {
        let mut state = model.state();
        state.session = None;
        state.thought.iter().copied().zip(state.counted.iter().copied()).collect()
    };
    runtime.shutdown(LONG).await.expect("everything durable");
    (sizes, trims)
}

/// The provider here is a tokenizer that models are run with, over the whole body of each request, with the overheads that are published. There
/// is no real provider behind it: what one adds unseen is in its first report, and what it does to a part of a request alone is not tried.
#[tokio::test]
async fn after_the_first_report_a_request_is_known_within_three_percent_before_it_is_sent() {
    for protocol in 0..3 {
        for (reasons, window) in [(0, 200_000), (900, 200_000), (0, 24_000)] {
            let (sizes, trims) = counts(protocol, Tokenizer::O200k, window, reasons).await;
            assert_eq!((sizes.len(), trims > 0), (32, window < 100_000), "the second window is too small for all of it");
            for (request, off) in off(&sizes).enumerate() {
                assert!(off <= 0.03, "request {request} by protocol {protocol}: {:?}", sizes[request + 1]);
            }
        }
    }
}

/// Each provider's tokenizer is its own, and most are not public. What one makes of a kind of text is seen when such a text was in a
/// report; until then it is a guess, and a long result of another kind than all before it is off by what that guess is.
#[tokio::test]
async fn requests_to_a_model_whose_tokenizer_is_not_known_are_mostly_known_as_well() {
    for protocol in 0..3 {
        for window in [200_000, 24_000] {
            let (sizes, _) = counts(protocol, Tokenizer::Cl100k, window, 0).await;
            let within = off(&sizes).filter(|off| *off <= 0.03).count();
            let worst = off(&sizes).fold(0.0, f64::max);
            assert!(within >= 24, "{within} of 31 requests are known within 3%: {sizes:?}");
            assert!(worst <= 0.12, "{worst}: {sizes:?}");
        }
    }
}

/// How far off the thoughts were, from the first report on.
fn off(sizes: &[(u64, u64)]) -> impl Iterator<Item = f64> {
    sizes.iter().skip(1).map(|(thought, counted)| (*thought as f64 / *counted as f64 - 1.0).abs())
}
