//! The projection, held against a server as strict as the real ones: every prefix of every log, for each provider, is a request that is
//! accepted, and what was sent once keeps its bytes until an event says otherwise.
//!
//! The logs are histories that a runtime could have written, with everything that can go wrong in them: answers cut by an interrupt or a
//! crash, results that are missing, late, doubled or out of order, messages that come in at any moment, trims, rewinds and their
//! undoing, other models in between, lines that are lost.

use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, OpenAi, OpenAiResponses, Secret};
use agent_runtime::{Base64, Images, Model, PROJECTION_VERSION, RequestBuilder, project};
use fault_server::strict;
use proptest::prelude::*;
use serde_json::{Value, json};
use session_store::{
    AssistantMessage, AssistantReasoning, AssistantText, Block, ContextPinned, ContextRestored, ContextRewound, ContextTrimmed,
    Entry, Event, ImageRef, Interrupted, ModelError, ModelRequest, Note, Opened, Owner, Parameters, Profile, SeqRange, State,
    StopReason, Timestamp, ToolApproved, ToolCall, ToolDenied, ToolFinished, ToolOutcome, ToolOutputPiece, ToolSpec, ToolStarted,
    TurnEnded, Usage, UserKind, UserMessage, sha256_hex,
};
use std::sync::{Arc, LazyLock};

const TEXTS: [&str; 6] = ["hello", " ", "", "zwei\nZeilen", "\u{1F600} \"quoted\"", "{\"a\": 1}"];

/// What lies beside the log: something small, something that a body has in a piece of its own, and what is gone.
const FILES: [Option<&[u8]>; 3] = [Some(b"the bytes of an image"), Some(&[7; 50_000]), None];

fn image(place: usize) -> ImageRef {
    let sha256 = sha256_hex(FILES[place].unwrap_or(b"what is gone"));
    ImageRef { media_type: "image/png".to_owned(), width: 640, height: 480, sha256, bytes: 21 }
}

static IMAGES: LazyLock<Images> = LazyLock::new(|| {
    let mut images = Images::default();
    FILES.iter().enumerate().for_each(|(place, bytes)| images.insert(&image(place), *bytes));
    images
});

/// Some images, as a number: a bit for each, none mostly.
fn some_images() -> impl Strategy<Value = usize> {
    prop_oneof![7 => Just(0), 1 => 0..1_usize << FILES.len()]
}

fn chosen(images: usize) -> Vec<ImageRef> {
    (0..FILES.len()).filter(|place| images >> place & 1 == 1).map(image).collect()
}

#[derive(Clone, Debug)]
enum Step {
    User(usize, usize),
    Steer(usize, usize),
    Note(usize),
    Answer { reasoning: bool, text: usize, calls: Vec<Call>, end: End },
    Trim { from: usize, count: usize },
    Rewind(usize),
    Restore(usize),
    Pin(usize, bool),
    Crash,
    Lose(u64),
    SwitchModel,
    Orphan,
    EndTurn,
}

#[derive(Clone, Debug)]
enum End {
    Complete,
    MaxTokens,
    Refusal,
    Cut,
    OnlyPieces,
    Failed,
}

#[derive(Clone, Debug)]
struct Call {
    name: usize,
    provider_id: usize,
    /// Whether it has the name of an earlier call, as only a damaged log has it.
    repeats: bool,
    arguments: usize,
    fate: Fate,
    steered: bool,
    images: usize,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Finished,
    Blank,
    Twice,
    Denied,
    Started,
    StartedReader,
    Approved,
    Untouched,
}

fn step() -> impl Strategy<Value = Step> {
    let text = 0..TEXTS.len();
    prop_oneof![
        4 => (text.clone(), some_images()).prop_map(|(text, images)| Step::User(text, images)),
        1 => (text.clone(), some_images()).prop_map(|(text, images)| Step::Steer(text, images)),
        1 => text.clone().prop_map(Step::Note),
        8 => (any::<bool>(), text, prop::collection::vec(call(), 0..4), end())
            .prop_map(|(reasoning, text, calls, end)| Step::Answer { reasoning, text, calls, end }),
        1 => (0..6usize, 1..6usize).prop_map(|(from, count)| Step::Trim { from, count }),
        1 => (0..20usize).prop_map(Step::Rewind),
        1 => (0..3usize).prop_map(Step::Restore),
        1 => (0..20usize, any::<bool>()).prop_map(|(which, pinned)| Step::Pin(which, pinned)),
        1 => Just(Step::Crash),
        1 => (1..3u64).prop_map(Step::Lose),
        1 => Just(Step::SwitchModel),
        1 => Just(Step::Orphan),
        1 => Just(Step::EndTurn),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let fate = prop_oneof![
        6 => Just(Fate::Finished),
        1 => Just(Fate::Blank),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Denied),
        1 => Just(Fate::Started),
        1 => Just(Fate::StartedReader),
        1 => Just(Fate::Approved),
        1 => Just(Fate::Untouched),
    ];
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.05));
    (0..4usize, 0..4usize, 0..4usize, fate, flags, some_images()).prop_map(
        |(name, provider_id, arguments, fate, (steered, repeats), images)| Call {
            name,
            provider_id,
            repeats,
            arguments,
            fate,
            steered,
            images,
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        8 => Just(End::Complete),
        1 => Just(End::MaxTokens),
        1 => Just(End::Refusal),
        1 => Just(End::Cut),
        1 => Just(End::OnlyPieces),
        1 => Just(End::Failed),
    ]
}

fn models() -> [Arc<dyn Model>; 3] {
    let http = HttpClient::new();
    let endpoint = |provider: &str, url: &str| Endpoint {
        api_key: Some(Secret::new("a key for tests")),
        ..Endpoint::new(provider, url, "a-model")
    };
    let anthropic = Anthropic::new(endpoint("anthropic", "http://127.0.0.1:1"), http.clone()).expect("a good endpoint");
    let openai = OpenAi::new(endpoint("openai", "http://127.0.0.1:1/v1"), http.clone()).expect("a good endpoint");
    let responses = OpenAiResponses::new(endpoint("openai-responses", "http://127.0.0.1:1/v1"), http).expect("a good endpoint");
    [Arc::new(anthropic), Arc::new(openai), Arc::new(responses)]
}

/// Writes a log as a runtime would.
struct Writer {
    models: [Arc<dyn Model>; 3],
    asked: usize,
    entries: Vec<Entry>,
    /// After each entry: the body that was sent with it, if it is a request.
    sent: Vec<Option<Value>>,
    state: State,
    /// How many lines are missing before the next one.
    lost: u64,
    /// The names of all calls, and whether one of them was given twice.
    calls: Vec<String>,
    repeated: bool,
}

impl Writer {
    fn new() -> Self {
        let mut writer = Self {
            models: models(),
            asked: 0,
            entries: Vec::new(),
            sent: Vec::new(),
            state: State::default(),
            lost: 0,
            calls: Vec::new(),
            repeated: false,
        };
        writer.open();
        writer.profile();
        writer
    }

    fn push(&mut self, event: impl Into<Event>) -> u64 {
        let seq = self.state.next_seq + std::mem::take(&mut self.lost);
        let entry = Entry::new(seq, Timestamp::from_ms(0), event);
        self.state.apply(&entry);
        self.entries.push(entry);
        self.sent.push(None);
        self.rehydrate();
        seq
    }

    fn rehydrate(&mut self) {
        hydrate(&mut self.state, &self.entries);
    }

    fn open(&mut self) {
        let (epoch, writer) = (self.state.epoch + 1, uuid_of(self.state.epoch));
        self.push(Opened { epoch, writer, format: 1, owner: Owner::default() });
    }

    fn profile(&mut self) {
        let tool = |name: &str| ToolSpec {
            name: name.to_owned(),
            description: "A tool.".to_owned(),
            parameters: json!({"type": "object"}),
        };
        let profile = Profile {
            hash: String::new(),
            model: format!("model-{}", self.asked),
            system: "You help.".to_owned(),
            tools: vec![tool("read"), tool("write")],
            parameters: Parameters::default(),
            projection: PROJECTION_VERSION,
        };
        self.push(profile.sealed());
    }

    fn text(&self, text: usize) -> String {
        TEXTS[text].to_owned()
    }

    fn body(&self, model: usize) -> Value {
        body(&self.state, &*self.models[model])
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::User(text, images) => {
                self.push(UserMessage { text: self.text(*text), images: chosen(*images), ..UserMessage::default() });
            }
            Step::Steer(text, images) => {
                let (kind, key) = (UserKind::Steer, None);
                self.push(UserMessage { text: self.text(*text), kind, key, images: chosen(*images) });
            }
            Step::Note(text) => {
                self.push(Note { text: self.text(*text) });
            }
            Step::Answer { reasoning, text, calls, end } => self.answer(*reasoning, *text, calls, end),
            Step::Trim { from, count } => {
                let removed: Vec<SeqRange> =
                    self.state.context.iter().skip(*from).take(*count).map(|slot| SeqRange(slot.seq, slot.seq)).collect();
                if !removed.is_empty() {
                    self.push(ContextTrimmed {
                        removed,
                        note: "left out".to_owned(),
                        reason: "budget".to_owned(),
                        tokens_before: 2,
                        tokens_after: 1,
                        summary: None,
                    });
                }
            }
            Step::Rewind(back) => {
                self.push(ContextRewound { to: self.state.next_seq.saturating_sub(1 + *back as u64) });
            }
            Step::Restore(which) => {
                let undo = self.state.undoable().nth(*which);
                if let Some(undo) = undo {
                    self.push(ContextRestored { undo });
                }
            }
            Step::Pin(which, pinned) => {
                let message = self.state.context.get(*which).map_or(0, |slot| slot.seq);
                self.push(ContextPinned { message, pinned: *pinned });
            }
            Step::Crash => self.open(),
            // Lines are lost at a crash, and the next owner is the first to see it.
            Step::Lose(count) => {
                self.lost += count;
                self.open();
            }
            Step::SwitchModel => {
                self.asked = (self.asked + 1) % self.models.len();
                self.profile();
            }
            Step::Orphan => {
                self.push(finished("call_of_nobody", "read", "orphan", 1));
            }
            Step::EndTurn => {
                self.push(Interrupted { by: "user".to_owned() });
                let usage = Usage::default();
                self.push(TurnEnded { reason: "interrupted".to_owned(), error: None, model_calls: 1, usage, duration_ms: 0 });
            }
        }
    }

    fn answer(&mut self, reasoning: bool, text: usize, calls: &[Call], end: &End) {
        let body = self.body(self.asked);
        let origin = self.models[self.asked].origin().clone();
        let message =
            self.push(ModelRequest { origin: origin.clone(), context: self.state.context_ranges(), ..ModelRequest::default() });
        *self.sent.last_mut().expect("just pushed") = Some(body.clone());
        let text = self.text(text);
        if reasoning {
            self.push(AssistantReasoning { message, offset: 0, text: "thinking".to_owned() });
        }
        self.push(AssistantText { message, offset: 0, text: text.clone() });
        let mut blocks = Vec::new();
        if reasoning && origin.provider == "anthropic" {
            let signature = strict::sign(&body, &[], "thinking");
            let opaque = Some(json!({"type": "thinking", "thinking": "thinking", "signature": signature}));
            blocks.push(Block::Reasoning { text: "thinking".to_owned(), opaque });
        }
        if reasoning && origin.provider == "openai-responses" {
            let encrypted = strict::encrypt(&body, &[]);
            let opaque =
                json!({"type": "reasoning", "id": format!("rs_{message}"), "summary": [], "encrypted_content": encrypted});
            blocks.push(Block::Reasoning { text: "thinking".to_owned(), opaque: Some(opaque) });
        }
        if !text.is_empty() {
            blocks.push(Block::Text { text });
        }
        for (index, call) in calls.iter().enumerate() {
            let again = self.calls.first().filter(|_| call.repeats).cloned();
            self.repeated |= again.is_some();
            let id = again.unwrap_or_else(|| format!("call_{message}_{index}"));
            self.calls.push(id.clone());
            blocks.push(Block::ToolCall(ToolCall {
                id,
                provider_id: ["", "toolu_1", "an id that is not legal!", "call_abc"][call.provider_id].to_owned(),
                name: ["read", "write", "made up (name)", ""][call.name].to_owned(),
                arguments: ["{}", "{\"path\": \"x\"}", "", "{\"cut\": "][call.arguments].to_owned(),
            }));
        }
        let (stop, partial) = match end {
            // The writer dies, or the call fails.
            End::OnlyPieces => return self.open(),
            End::Failed => {
                let (kind, detail) = ("server".to_owned(), "oops".to_owned());
                self.push(ModelError { message, kind, detail, status: None, retry_in_ms: None, retry_at: None });
                return;
            }
            End::Complete if calls.is_empty() => (StopReason::EndTurn, false),
            End::Complete => (StopReason::ToolUse, false),
            End::MaxTokens => (StopReason::MaxTokens, false),
            End::Refusal => (StopReason::Refusal, false),
            End::Cut => (StopReason::Cut, true),
        };
        let answer = AssistantMessage { message, origin, blocks, stop, partial, usage: None, opaque: None };
        let calls: Vec<(ToolCall, Call)> = answer.tool_calls().cloned().zip(calls.iter().cloned()).collect();
        self.push(answer);
        // Results come in whatever order the tools end.
        for (call, how) in calls.iter().rev() {
            self.fate(call, how);
        }
    }

    fn fate(&mut self, call: &ToolCall, how: &Call) {
        let id = call.id.clone();
        if how.steered {
            self.push(UserMessage { text: "meanwhile".to_owned(), kind: UserKind::Steer, ..UserMessage::default() });
        }
        let started = |side_effects| ToolStarted { call: id.clone(), name: call.name.clone(), side_effects };
        let piece = ToolOutputPiece { call: id.clone(), offset: how.provider_id as u64, text: self.text(how.arguments) };
        match how.fate {
            Fate::Finished => {
                self.push(started(true));
                self.push(piece);
                self.push(finished(&id, &call.name, "a result", how.images));
            }
            Fate::Blank => {
                self.push(finished(&id, &call.name, " \n", how.images));
            }
            Fate::Twice => {
                self.push(finished(&id, &call.name, "first", how.images));
                self.push(ToolFinished { outcome: ToolOutcome::Error, ..finished(&id, &call.name, "second", how.images) });
            }
            Fate::Denied => {
                self.push(ToolDenied { call: id, by: "user".to_owned(), reason: "no".to_owned() });
            }
            Fate::Started => {
                self.push(started(true));
                self.push(piece);
            }
            Fate::StartedReader => {
                self.push(started(false));
                self.push(piece);
            }
            Fate::Approved => {
                self.push(ToolApproved { call: id, by: "mode".to_owned() });
            }
            Fate::Untouched => {}
        }
    }
}

fn finished(call: &str, name: &str, output: &str, images: usize) -> ToolFinished {
    let (call, name, output) = (call.to_owned(), name.to_owned(), output.to_owned());
    ToolFinished { call, name, outcome: ToolOutcome::Ok, output, full: None, images: chosen(images), duration_ms: 0 }
}

/// Reads again what is missing; to the end of the log, because an answer that was cut lies in several lines.
fn hydrate(state: &mut State, entries: &[Entry]) {
    if !state.missing().is_empty() {
        entries.iter().for_each(|entry| state.hydrate(entry));
    }
}

fn uuid_of(number: u64) -> uuid::Uuid {
    uuid::Uuid::from_u128(u128::from(number) + 1)
}

fn body(state: &State, model: &dyn Model) -> Value {
    let profile = state.profile.clone().expect("every session has a profile before its first message");
    let conversation = project(state, &profile, &IMAGES, model.origin(), 1024);
    serde_json::from_slice(&model.body(&conversation)).expect("a body is JSON")
}

/// What is known of a call is known by its name, so that reasoning behind one whose name is given again may be bound to words that changed.
fn accepted(body: &Value, provider: &str, reasoning: bool) -> Result<(), String> {
    match provider {
        "anthropic" => {
            strict::check_anthropic(body).and_then(|()| if reasoning { strict::check_signatures(body) } else { Ok(()) })
        }
        "openai-responses" if !reasoning => Ok(()),
        "openai-responses" => strict::check_responses(body),
        _ => strict::check_openai(body),
    }
}

/// Whether `after` only adds to `before`. The last message of `before` may have grown: nothing was made in answer to it yet, or it
/// stands unchanged as well.
fn only_adds(before: &Value, after: &Value) -> Result<(), String> {
    let mut before = before.clone();
    for field in ["messages", "input"] {
        if let Some(messages) = before[field].as_array_mut() {
            messages.pop();
        }
    }
    strict::check_append_only(&before, after)
}

/// What a builder keeps of earlier requests is what they are made of.
fn same_as_from_scratch(builder: &mut RequestBuilder, state: &State, model: &dyn Model) -> Result<(), TestCaseError> {
    let profile = state.profile.clone().expect("the state has a profile");
    let body = model.body(&project(state, &profile, &IMAGES, model.origin(), 1024));
    for unknown in builder.unknown_images(state) {
        let place = (0..FILES.len()).find(|place| image(*place) == unknown).expect("it is one of these");
        builder.add_image(&unknown, FILES[place].map(Base64::of));
    }
    let request = builder.build(state, model, 1024).expect("the state has a profile");
    prop_assert_eq!(request.body.to_bytes(), &body);
    prop_assert_eq!(request.sha256, sha256_hex(&body));
    prop_assert_eq!(request.context, state.context_ranges());
    Ok(())
}

fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut writer = Writer::new();
    for step in steps {
        writer.step(step);
    }
    let mut state = State::default();
    let mut last: Option<(Value, usize)> = None;
    let mut builders: [RequestBuilder; 3] = std::array::from_fn(|_| RequestBuilder::new());
    let mut shared_builder = RequestBuilder::new();
    let mut bodies: [Option<Value>; 3] = [const { None }; 3];
    for (place, entry) in writer.entries.iter().enumerate() {
        state.apply(entry);
        hydrate(&mut state, &writer.entries[..=place]);
        if state.profile.is_none() {
            continue;
        }
        for (model, before) in writer.models.iter().zip(&mut bodies) {
            let body = body(&state, &**model);
            if matches!(entry.event, Event::ContextPinned(_)) {
                prop_assert_eq!(before.as_ref(), Some(&body), "a pin changes nothing that is sent");
            }
            let provider = &model.origin().provider;
            if let Err(refused) = accepted(&body, provider, !writer.repeated) {
                return Err(TestCaseError::fail(format!("{provider} after {entry:?}: {refused}\n{body:#}")));
            }
            *before = Some(body);
        }
        for (model, builder) in writer.models.iter().zip(&mut builders) {
            same_as_from_scratch(builder, &state, &**model)?;
        }
        // One that is asked now and then only, for one model after the other.
        if entry.seq % 5 == 0 {
            let model = entry.seq as usize / 10 % writer.models.len();
            same_as_from_scratch(&mut shared_builder, &state, &*writer.models[model])?;
        }
        match &entry.event {
            Event::ContextTrimmed(_) | Event::ContextRewound(_) | Event::ContextRestored(_) | Event::Profile(_) => last = None,
            Event::ModelRequest(request) => {
                let is_asked = |model: &Arc<dyn Model>| model.origin().provider == request.origin.provider;
                let Some(model) = writer.models.iter().position(is_asked) else { continue };
                let Some(body) = &writer.sent[place] else { continue };
                // What is known of a call is known by its name.
                let before = last.take().filter(|(_, asked)| *asked == model && !writer.repeated);
                if let Some(Err(changed)) = before.map(|(before, _)| only_adds(&before, body)) {
                    return Err(TestCaseError::fail(format!("what was sent has changed at {}: {changed}", entry.seq)));
                }
                last = Some((body.clone(), model));
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_of_every_log_is_accepted_by_every_provider(steps in prop::collection::vec(step(), 1..24)) {
        check(&steps)?;
    }
}
