//! A session for tests that has a bit of everything, most of it hostile.

use serde_json::Value;
use session_store::*;
use std::sync::Arc;

/// Gives events their places and times, 1.5 s apart.
pub(crate) fn entries(events: Vec<Event>) -> Vec<Entry> {
    let start: Timestamp = "2026-01-31T23:59:50.000Z".parse().expect("a time");
    let place = |(seq, event)| Entry::new(seq, Timestamp::from_ms(start.as_ms() + seq as i64 * 1_500), event);
    (0..).zip(events).map(place).collect()
}

pub(crate) fn user(text: &str) -> Event {
    UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
}

pub(crate) fn steer(text: &str) -> Event {
    UserMessage { text: text.to_owned(), kind: UserKind::Steer, ..UserMessage::default() }.into()
}

pub(crate) fn request() -> Event {
    ModelRequest { origin: origin(), ..ModelRequest::default() }.into()
}

pub(crate) fn piece(message: Seq, offset: u64, text: &str) -> Event {
    AssistantText { message, offset, text: text.to_owned() }.into()
}

pub(crate) fn answer(message: Seq, blocks: Vec<Block>) -> Event {
    let stop =
        if blocks.iter().any(|block| matches!(block, Block::ToolCall(_))) { StopReason::ToolUse } else { StopReason::EndTurn };
    AssistantMessage { message, origin: origin(), blocks, stop, partial: false, usage: None, opaque: None }.into()
}

pub(crate) fn says(text: &str) -> Block {
    Block::Text { text: text.to_owned() }
}

pub(crate) fn call(id: &str, name: &str, arguments: &str) -> Block {
    Block::ToolCall(ToolCall {
        id: id.to_owned(),
        provider_id: String::new(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    })
}

pub(crate) fn started(call: &str, name: &str) -> Event {
    ToolStarted { call: call.to_owned(), name: name.to_owned(), side_effects: true }.into()
}

pub(crate) fn output(call: &str, offset: u64, text: &str) -> Event {
    ToolOutputPiece { call: call.to_owned(), offset, text: text.to_owned() }.into()
}

pub(crate) fn finished(call: &str, name: &str, outcome: ToolOutcome, output: &str) -> Event {
    ToolFinished {
        call: call.to_owned(),
        name: name.to_owned(),
        outcome,
        output: output.to_owned(),
        full: None,
        images: Vec::new(),
        duration_ms: 1_240,
    }
    .into()
}

pub(crate) fn ended(reason: &str) -> Event {
    TurnEnded { reason: reason.to_owned(), error: None, model_calls: 1, usage: Usage::default(), duration_ms: 1 }.into()
}

pub(crate) fn opened(epoch: u64) -> Event {
    Opened { epoch, writer: uuid::Uuid::nil(), format: FORMAT_VERSION, owner: Owner::default() }.into()
}

fn origin() -> Origin {
    Origin { provider: "anthropic".to_owned(), model: "claude-sonnet".to_owned(), ..Origin::default() }
}

/// A session that has a bit of everything; its second answer was cut by a crash.
pub(crate) fn session() -> Vec<Entry> {
    let hostile = "</script><script>alert(1)</script> & \"quotes\" \x1b[31mred\x1b[0m \u{202e}gnp.exe\u{2066}";
    let todo = |content: &str, status| Todo { content: content.to_owned(), status };
    let token = format!("ghp_{}", "a1B2".repeat(9));
    entries(vec![
        opened(1),
        SessionStarted {
            session: "019a0000-0000-7000-8000-000000000001".parse().expect("an id"),
            cwd: Some("/home/me/<project>".to_owned()),
            program: "longhand 0.1.0".to_owned(),
        }
        .into(),
        Profile {
            hash: String::new(),
            model: "anthropic/claude-sonnet".to_owned(),
            system: format!("You are careful.\n{hostile}"),
            tools: vec![ToolSpec { name: "read".to_owned(), description: String::new(), parameters: Value::Null }],
            parameters: Parameters::default(),
            projection: 1,
        }
        .into(),
        user(&format!("Fix *this*, please:\n# not a heading\n{hostile}\n```\nan open fence")),
        request(),
        answer(
            4,
            vec![
                Block::Reasoning { text: "Let me look.".to_owned(), opaque: None },
                says(&format!(
                    "# Plan\n\nI will read **the file**. {hostile}\n\n\
                     <img src=x onerror=alert(1)> [a link](javascript:alert(1)) [fine](https://example.com/?a=1&b=\"2\") ![p](https://evil.example/p.png)\n\n\
                     | a | b |\n|---|---|\n| 1 | `x<y` |\n\n<!-- a comment that never ends"
                )),
                call("call_4_0", "read", r#"{"path":"src/<main>.rs"}"#),
                call("call_4_1", "write", r#"{"path":"a.txt","content":"one\ntwo ```\n"}"#),
                call("call_4_2", "shell", "{broken"),
            ],
        ),
        finished("call_4_0", "read", ToolOutcome::Ok, &format!("fn main() {{}}\n{hostile}\ntoken = {token}\n")),
        started("call_4_1", "write"),
        finished("call_4_1", "write", ToolOutcome::Denied, "denied: not now"),
        finished("call_4_2", "shell", ToolOutcome::InvalidArguments, "the arguments are not valid JSON: ````"),
        TodosChanged {
            todos: Arc::new(vec![
                todo("Read <it>", TodoStatus::Completed),
                todo("Fix it", TodoStatus::InProgress),
                todo("Test it", TodoStatus::Pending),
            ]),
        }
        .into(),
        request(),
        piece(11, 0, "Half of an answer:\n\n```rust\nfn "),
        steer("Hurry up"),
        opened(2),
        Recovered { offset: 5_000, bytes: 12, fragment: "x".to_owned(), full: None }.into(),
        user("Go on"),
        request(),
        ModelError {
            message: 17,
            kind: "rate_limit".to_owned(),
            detail: "slow down".to_owned(),
            status: Some(429),
            retry_in_ms: Some(1_500),
            retry_at: None,
        }
        .into(),
        request(),
        answer(19, vec![says("Done."), call("call_19_0", "shell", r#"{"command":"make"}"#)]),
        started("call_19_0", "shell"),
        Interrupted { by: "SIGINT".to_owned() }.into(),
        ended("interrupted"),
        Event::Unknown(Unknown { type_name: "future.event".to_owned(), fields: serde_json::Map::new() }),
    ])
}
