//! Events for tests: one realistic event of every type, and arbitrary ones.

use crate::event::*;
use crate::id::{SeqRange, SessionId};
use crate::line::encode;
use crate::side::sha256_hex;
use crate::time::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

const SESSION: &str = "019c1a2b-3c4d-7e5f-8a6b-0123456789ab";
const PARENT: &str = "019c1a20-0000-7abc-9def-fedcba987654";
const CHILD: &str = "019c1a2b-4000-7bcd-8ef0-00c0ffee0001";
const WRITER: &str = "019c1a2b-3c00-7000-8000-00000000a001";

fn uuid(text: &str) -> Uuid {
    text.parse().expect("a UUID")
}

pub(crate) fn opened(epoch: u64) -> Event {
    let owner = Owner {
        pid: 4242,
        host: "bench".to_owned(),
        boot: "6f1f0f5e-5a0e-4a55-9a43-5b6d1f0b7f11".to_owned(),
        since: Timestamp::from_ms(1_769_904_000_000),
        program: "longhand 0.1.0".to_owned(),
    };
    let writer = Uuid::from_u128(uuid(WRITER).as_u128() + u128::from(epoch) - 1);
    Opened { epoch, writer, format: FORMAT_VERSION, owner }.into()
}

pub(crate) fn note(text: &str) -> Event {
    Note { text: text.to_owned() }.into()
}

fn origin() -> Origin {
    Origin {
        provider: "anthropic".to_owned(),
        endpoint: "https://api.anthropic.com".to_owned(),
        model: "claude-sonnet-5".to_owned(),
        credential: "5e884898".to_owned(),
    }
}

/// One event of every type, in an order that a session could have had.
pub(crate) fn every_event() -> Vec<Event> {
    let profile = Profile {
        hash: String::new(),
        model: "anthropic/claude-sonnet-5".to_owned(),
        system: "You are a careful assistant.".to_owned(),
        tools: vec![ToolSpec {
            name: "read".to_owned(),
            description: "Reads a file.".to_owned(),
            parameters: json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
        }],
        parameters: Parameters { max_output_tokens: Some(8192), effort: None, temperature: Some(0.7), output_schema: None },
        projection: 1,
    }
    .sealed();
    let hash = profile.hash.clone();
    let usage = Usage { input_tokens: Some(812), output_tokens: Some(41), cache_read_tokens: Some(768), ..Usage::default() };
    let todo = |content: &str, status| Todo { content: content.to_owned(), status };
    let call = ToolCall {
        id: "call_7_0".to_owned(),
        provider_id: "toolu_01A".to_owned(),
        name: "read".to_owned(),
        arguments: "{\"path\": \"README.md\"}".to_owned(),
    };
    let answer = AssistantMessage {
        message: 7,
        origin: origin(),
        blocks: vec![
            Block::Reasoning {
                text: "They want the file.".to_owned(),
                opaque: Some(json!({"type": "thinking", "signature": "EqQBCkYI"})),
            },
            Block::Text { text: "I will read it.".to_owned() },
            Block::ToolCall(call),
        ],
        stop: StopReason::ToolUse,
        partial: false,
        usage: Some(usage),
        opaque: None,
    };
    let state = RawJson::new(&json!({"next_seq": 19})).expect("JSON");
    vec![
        opened(1),
        SessionStarted {
            session: SessionId::from_uuid(uuid(SESSION)),
            cwd: Some("/home/ada/tide".to_owned()),
            program: "longhand 0.1.0".to_owned(),
        }
        .into(),
        SessionForked { session: SessionId::from_uuid(uuid(SESSION)), parent: SessionId::from_uuid(uuid(PARENT)), at_seq: 1 }
            .into(),
        SessionRenamed { name: "tides".to_owned() }.into(),
        profile.into(),
        UserMessage { text: "What does README.md say? \u{1f30a}".to_owned(), kind: UserKind::Prompt, ..UserMessage::default() }
            .into(),
        note("AGENTS.md changed since the session started."),
        ModelRequest {
            origin: origin(),
            profile: hash,
            context: vec![SeqRange(5, 6)],
            body_sha256: sha256_hex(b"the body"),
            body_bytes: 1893,
            limits: None,
            learned: Vec::new(),
        }
        .into(),
        ModelError {
            message: 7,
            kind: "overloaded".to_owned(),
            detail: "the server is overloaded".to_owned(),
            status: Some(529),
            retry_in_ms: Some(512),
            retry_at: None,
        }
        .into(),
        AssistantReasoning { message: 7, offset: 0, text: "They want the file.".to_owned() }.into(),
        AssistantText { message: 7, offset: 0, text: "I will read it.".to_owned() }.into(),
        answer.into(),
        ToolApproved { call: "call_7_0".to_owned(), by: "mode".to_owned() }.into(),
        ToolDenied { call: "call_7_1".to_owned(), by: "user".to_owned(), reason: "not on this machine".to_owned() }.into(),
        ToolStarted { call: "call_7_0".to_owned(), name: "read".to_owned(), side_effects: false }.into(),
        ToolFinished {
            call: "call_7_0".to_owned(),
            name: "read".to_owned(),
            outcome: ToolOutcome::Ok,
            output: "# Tide\n\nTables of high water.".to_owned(),
            full: Some(SideRef { sha256: sha256_hex(b"the whole output"), bytes: 73_112 }),
            images: Vec::new(),
            duration_ms: 3,
        }
        .into(),
        TodosChanged { todos: Arc::new(vec![todo("read", TodoStatus::Completed), todo("sum up", TodoStatus::InProgress)]) }
            .into(),
        ContextTrimmed {
            removed: vec![SeqRange(5, 6), SeqRange(11, 11)],
            note: "Earlier messages were left out.".to_owned(),
            reason: "budget".to_owned(),
            tokens_before: 120_400,
            tokens_after: 60_100,
            summary: None,
        }
        .into(),
        ContextRestored { undo: 17 }.into(),
        Checkpoint { fold: 1, hash: sha256_hex(state.get().as_bytes()), durable: 0, state }.into(),
        ContextRewound { to: 11 }.into(),
        Interrupted { by: "SIGINT".to_owned() }.into(),
        Error { scope: "store".to_owned(), message: "cannot write: the disk is full".to_owned() }.into(),
        TurnEnded { reason: "interrupted".to_owned(), error: None, model_calls: 2, usage, duration_ms: 5120 }.into(),
        Closed { epoch: 1, summary: None }.into(),
        Recovered { offset: 5120, bytes: 31, fragment: "{\"seq\":25,\"at\":\"2026-02-01T00:00".to_owned(), full: None }.into(),
        Compacted { from: 9, to: 10, count: 2 }.into(),
        Lost { from: 27, to: 27 }.into(),
        Repaired {
            original: "019c1a2b-3c4d-7e5f-8a6b-0123456789ab.20260201T000028Z.jsonl".to_owned(),
            problems: 2,
            lines: vec![
                RepairedLine { line: 28, problem: "unreadable".to_owned(), action: "left_out".to_owned() },
                RepairedLine { line: 31, problem: "unchecked".to_owned(), action: "marked".to_owned() },
            ],
        }
        .into(),
        SessionImported {
            format: "claude_code".to_owned(),
            id: "0b9f2c64-6a51-4b0e-9d53-3a7f0c1d2e4f".to_owned(),
            program: "claude-code 2.1.0".to_owned(),
            path: Some("/home/ada/.claude/projects/-home-ada-tide/0b9f2c64-6a51-4b0e-9d53-3a7f0c1d2e4f.jsonl".to_owned()),
            sha256: sha256_hex(b"the original"),
            title: Some("Tables of high water".to_owned()),
            imported_at: Timestamp::from_ms(1_769_904_029_000),
        }
        .into(),
        ModelWaiting {
            model: "anthropic/claude-sonnet-5".to_owned(),
            reason: "rate_limit".to_owned(),
            until: Timestamp::from_ms(1_769_914_800_000),
        }
        .into(),
        ModelFallback {
            from: origin(),
            to: Origin {
                provider: "openai".to_owned(),
                endpoint: "https://api.openai.com/v1".to_owned(),
                model: "gpt-5.5".to_owned(),
                credential: "2bb80d53".to_owned(),
            },
            reason: "overloaded".to_owned(),
            detail: "anthropic at api.anthropic.com answered 529: Overloaded".to_owned(),
        }
        .into(),
        MessageQueued { text: "And then write it down.".to_owned(), missed: None, images: Vec::new() }.into(),
        MessageWithdrawn { queued: 32 }.into(),
        ToolOutputPiece { call: "call_7_0".to_owned(), offset: 0, text: "running 12 tests\n".to_owned() }.into(),
        ContextSummarizing {
            request: ModelRequest {
                origin: origin(),
                profile: sha256_hex(b"the profile"),
                context: vec![SeqRange(5, 6), SeqRange(11, 15)],
                body_sha256: sha256_hex(b"the body"),
                body_bytes: 391_804,
                limits: None,
                learned: Vec::new(),
            },
            covers: vec![SeqRange(5, 6)],
            keep: None,
        }
        .into(),
        ContextSummarized {
            request: 34,
            origin: origin(),
            text: "Ada asked for a table of high water.".to_owned(),
            usage: Some(usage),
            error: None,
        }
        .into(),
        ImagesRefused {
            message: 7,
            origin: origin(),
            images: vec![ImageRef {
                media_type: "image/png".to_owned(),
                width: 640,
                height: 480,
                sha256: sha256_hex(b"the image"),
                bytes: 100_029,
            }],
            reason: "anthropic at api.anthropic.com answered 400: invalid_request_error: Could not process image".to_owned(),
            answered: false,
        }
        .into(),
        ChildOpened { session: SessionId::from_uuid(uuid(CHILD)) }.into(),
        ContextPinned { message: 5, pinned: true }.into(),
    ]
}

/// The lines of `events`, numbered and chained from the start of a file, one second apart.
pub(crate) fn lines(events: &[Event]) -> Vec<Vec<u8>> {
    continued(0, 0, events).0
}

/// The lines of `events` behind a line with checksum `crc`, from `seq` on; and the last one's checksum.
pub(crate) fn continued(mut crc: u32, seq: u64, events: &[Event]) -> (Vec<Vec<u8>>, u32) {
    let lines = events.iter().zip(seq..).map(|(event, seq)| {
        let mut line = Vec::new();
        crc = encode(&mut line, crc, seq, Timestamp::from_ms(1_769_904_000_000 + seq as i64 * 1000), event);
        line
    });
    let lines = lines.collect();
    (lines, crc)
}

/// JSON of any kind, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no NaN", |number| number.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An event of any type, with anything in its fields.
pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    let words = prop::collection::vec(prop_oneof![any::<String>(), "[\\x00-\\x7f]{0,40}"], 4);
    (0..Event::TYPES.len() + 1, words, any::<[u64; 4]>(), any_json().prop_filter("null reads as absent", |json| !json.is_null()))
        .prop_map(|(kind, words, numbers, json)| build(kind, &words, numbers, json))
}

fn build(kind: usize, words: &[String], n: [u64; 4], json: Value) -> Event {
    let word = |at: usize| words[at].clone();
    let some = |at: usize| n[at].is_multiple_of(2).then(|| words[at].clone());
    let number = |at: usize| (!n[at].is_multiple_of(3)).then_some(n[at]);
    let id = |at: usize| SessionId::from_uuid(Uuid::from_u128(u128::from(n[at]) << 64 | u128::from(n[3 - at])));
    let origin = Origin { provider: word(0), endpoint: word(1), model: word(2), credential: word(3) };
    let usage = Usage {
        input_tokens: number(0),
        output_tokens: number(1),
        cache_read_tokens: number(2),
        cache_write_tokens: number(3),
        reasoning_tokens: number(0),
    };
    let side = SideRef { sha256: word(3), bytes: n[3] };
    let image = ImageRef { media_type: word(1), width: n[0] as u32, height: n[1] as u32, sha256: word(2), bytes: n[2] };
    let images = vec![image; (n[3] % 3) as usize];
    match Event::TYPES.get(kind).copied().unwrap_or_default() {
        "opened" => Opened {
            epoch: n[0],
            writer: id(1).uuid(),
            format: n[2] as u32,
            owner: Owner {
                pid: n[3] as u32,
                host: word(0),
                boot: word(1),
                since: Timestamp::from_ms(n[1] as i64),
                program: word(2),
            },
        }
        .into(),
        "closed" => {
            let summary = Summary {
                offset: n[1],
                name: some(0),
                title: some(1),
                cwd: some(2),
                model: some(3),
                created_at: Timestamp::from_ms(n[2] as i64),
                updated_at: number(0).map(|ms| Timestamp::from_ms(ms as i64)),
                messages: n[3],
                usage,
            };
            Closed { epoch: n[0], summary: n[1].is_multiple_of(2).then(|| Box::new(summary)) }.into()
        }
        "session.started" => SessionStarted { session: id(0), cwd: some(1), program: word(2) }.into(),
        "session.forked" => SessionForked { session: id(0), parent: id(1), at_seq: n[2] }.into(),
        "child.opened" => ChildOpened { session: id(0) }.into(),
        "session.renamed" => SessionRenamed { name: word(0) }.into(),
        "session.imported" => SessionImported {
            format: word(0),
            id: word(1),
            program: word(2),
            path: some(3),
            sha256: word(3),
            title: some(0),
            imported_at: Timestamp::from_ms(n[1] as i64),
        }
        .into(),
        "profile" => Profile {
            hash: word(0),
            model: word(1),
            system: word(2),
            tools: vec![ToolSpec { name: word(3), description: word(0), parameters: json.clone() }],
            parameters: Parameters {
                max_output_tokens: number(0),
                effort: some(1),
                temperature: number(2).map(|t| t as f64 / 7.0),
                output_schema: Some(json).filter(|json| !json.is_null()),
            },
            projection: n[3] as u32,
        }
        .into(),
        "user.message" => {
            let kind = [UserKind::Prompt, UserKind::Steer, UserKind::FollowUp][(n[0] % 3) as usize];
            UserMessage { text: word(0), kind, key: some(1), images }.into()
        }
        "note" => Note { text: word(0) }.into(),
        "model.request" => ModelRequest {
            origin,
            profile: word(0),
            context: vec![SeqRange(n[0], n[1]), SeqRange(n[2], n[3])],
            body_sha256: word(1),
            body_bytes: n[0],
            limits: (n[2].is_multiple_of(2)).then(|| RequestLimits {
                context_window: n[0],
                max_output_tokens: n[1],
                window_asked: n[3].is_multiple_of(2),
            }),
            learned: words[..(n[1] % 4) as usize].to_vec(),
        }
        .into(),
        "model.error" => ModelError {
            message: n[0],
            kind: word(0),
            detail: word(1),
            status: number(1).map(|status| status as u16),
            retry_in_ms: number(2),
            retry_at: number(3).map(|ms| Timestamp::from_ms(ms as i64)),
        }
        .into(),
        "model.waiting" => ModelWaiting { model: word(0), reason: word(1), until: Timestamp::from_ms(n[2] as i64) }.into(),
        "model.fallback" => {
            ModelFallback { from: origin.clone(), to: Origin { model: word(3), ..origin }, reason: word(1), detail: word(2) }
                .into()
        }
        "images.refused" => {
            ImagesRefused { message: n[0], origin, images, reason: word(0), answered: n[1].is_multiple_of(2) }.into()
        }
        "message.queued" => MessageQueued { text: word(0), missed: number(0), images: Vec::new() }.into(),
        "message.withdrawn" => MessageWithdrawn { queued: n[0] }.into(),
        "assistant.text" => AssistantText { message: n[0], offset: n[1], text: word(0) }.into(),
        "assistant.reasoning" => AssistantReasoning { message: n[0], offset: n[1], text: word(0) }.into(),
        "assistant.message" => AssistantMessage {
            message: n[0],
            origin,
            blocks: vec![
                Block::Text { text: word(0) },
                Block::Reasoning { text: word(1), opaque: n[1].is_multiple_of(2).then(|| json.clone()) },
                Block::ToolCall(ToolCall { id: word(0), provider_id: word(1), name: word(2), arguments: word(3) }),
                Block::Opaque { opaque: json.clone() },
                Block::Unknown(json!({"type": "from the future", "value": json})),
            ],
            stop: [StopReason::EndTurn, StopReason::MaxTokens, StopReason::Cut, StopReason::Other("paused".to_owned())]
                [(n[0] % 4) as usize]
                .clone(),
            partial: n[2].is_multiple_of(2),
            usage: n[3].is_multiple_of(2).then_some(usage),
            opaque: n[0].is_multiple_of(2).then_some(json),
        }
        .into(),
        "tool.approved" => ToolApproved { call: word(0), by: word(1) }.into(),
        "tool.denied" => ToolDenied { call: word(0), by: word(1), reason: word(2) }.into(),
        "tool.started" => ToolStarted { call: word(0), name: word(1), side_effects: n[0].is_multiple_of(2) }.into(),
        "tool.output" => ToolOutputPiece { call: word(0), offset: n[0], text: word(1) }.into(),
        "tool.finished" => ToolFinished {
            call: word(0),
            name: word(1),
            outcome: [ToolOutcome::Ok, ToolOutcome::NotRun, ToolOutcome::InvalidArguments, ToolOutcome::Timeout]
                [(n[0] % 4) as usize],
            output: word(2),
            full: n[1].is_multiple_of(2).then_some(side),
            images,
            duration_ms: n[2],
        }
        .into(),
        "todos.changed" => {
            let todo = |at: usize| Todo { content: word(at), status: TodoStatus::InProgress };
            TodosChanged { todos: Arc::new((0..(n[0] % 4) as usize).map(todo).collect()) }.into()
        }
        "context.trimmed" => ContextTrimmed {
            removed: vec![SeqRange(n[0], n[1])],
            note: word(0),
            reason: word(1),
            tokens_before: n[2],
            tokens_after: n[3],
            summary: n[0].is_multiple_of(2).then_some(n[1]),
        }
        .into(),
        "context.summarizing" => {
            let ranges = vec![SeqRange(n[0], n[1]); (n[2] % 3) as usize];
            let (profile, body_sha256, body_bytes) = (word(0), word(1), n[3]);
            let context = ranges.clone();
            let request =
                ModelRequest { origin, profile, context, body_sha256, body_bytes, limits: None, learned: words[..2].to_vec() };
            ContextSummarizing { request, covers: ranges, keep: some(3) }.into()
        }
        "context.summarized" => {
            ContextSummarized { request: n[0], origin, text: word(0), usage: number(1).map(|_| usage), error: some(2) }.into()
        }
        "context.rewound" => ContextRewound { to: n[0] }.into(),
        "context.restored" => ContextRestored { undo: n[0] }.into(),
        "context.pinned" => ContextPinned { message: n[0], pinned: n[1].is_multiple_of(2) }.into(),
        "checkpoint" => {
            Checkpoint { fold: n[0] as u32, hash: word(0), durable: n[1], state: RawJson::new(&json).expect("JSON") }.into()
        }
        "interrupted" => Interrupted { by: word(0) }.into(),
        "turn.ended" => TurnEnded { reason: word(0), error: some(1), model_calls: n[0], usage, duration_ms: n[1] }.into(),
        "error" => Error { scope: word(0), message: word(1) }.into(),
        "recovered" => Recovered { offset: n[0], bytes: n[1], fragment: word(0), full: None }.into(),
        "compacted" => Compacted { from: n[0], to: n[1], count: n[2] }.into(),
        "lost" => Lost { from: n[0], to: n[1] }.into(),
        "repaired" => {
            let lines = vec![RepairedLine { line: n[1], problem: word(1), action: word(2) }; (n[2] % 3) as usize];
            Repaired { original: word(0), problems: n[0], lines }.into()
        }
        _ => {
            let fields = words.iter().map(|word| (format!("field {word}"), json.clone())).collect();
            Event::Unknown(Unknown { type_name: format!("future.{}", words[0]), fields })
        }
    }
}
