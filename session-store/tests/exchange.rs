//! Sessions of other programs, in and out: each form is read as what it says, comes out as it went in, and nothing in a
//! file takes more than its own line.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use session_store::exchange::{self, ExportFormat, Exporter, Foreign, ImportError, ImportFormat};
use session_store::*;
use std::fmt::Write;
use std::io::{self, Cursor, Read};
use std::time::Duration;

const CLAUDE_CODE: &[u8] = include_bytes!("fixtures/foreign/claude_code.jsonl");
const CODEX: &[u8] = include_bytes!("fixtures/foreign/codex.jsonl");
const PI: &[u8] = include_bytes!("fixtures/foreign/pi.jsonl");
const HERMES: &[u8] = include_bytes!("fixtures/foreign/hermes.jsonl");
const OPENAI: &[u8] = include_bytes!("fixtures/foreign/openai.json");
const ANTHROPIC: &[u8] = include_bytes!("fixtures/foreign/anthropic.json");
const MARKDOWN: &[u8] = include_bytes!("fixtures/foreign/talk.md");
const ALL: [&[u8]; 7] = [CLAUDE_CODE, CODEX, PI, HERMES, OPENAI, ANTHROPIC, MARKDOWN];
/// The time of what has none.
const OTHERWISE: i64 = 1_767_600_000_000;

/// A log in memory.
#[derive(Default)]
struct Memory(Vec<Entry>);

impl ImportLog for Memory {
    fn next_seq(&self) -> Seq {
        self.0.len() as u64
    }

    fn append(&mut self, at: Timestamp, event: Event) -> Result<Seq, StoreError> {
        let seq = self.next_seq();
        self.0.push(Entry::new(seq, at, event));
        Ok(seq)
    }

    fn put_side(&mut self, bytes: &[u8]) -> Result<SideRef, StoreError> {
        Ok(SideRef { sha256: sha256_hex(bytes), bytes: bytes.len() as u64 })
    }
}

fn survey(bytes: &[u8], format: Option<ImportFormat>) -> Result<Vec<Foreign>, ImportError> {
    let open = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(Cursor::new(bytes))) };
    exchange::survey(&open, format, &|text| text)
}

/// Imports a session as the store does it, without a disk.
fn import(bytes: &[u8], foreign: Foreign) -> Result<Vec<Entry>, StoreError> {
    let open = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(Cursor::new(bytes))) };
    let mut log = Memory::default();
    let otherwise = Timestamp::from_ms(OTHERWISE);
    let new = foreign.new_import(None, otherwise);
    let session = SessionId::new(new.created_at);
    let opened = Opened { epoch: 1, writer: session.uuid(), format: 1, owner: Owner::default() };
    log.append(new.created_at, opened.into())?;
    log.append(new.created_at, SessionStarted { session, cwd: new.cwd, program: String::new() }.into())?;
    log.append(new.created_at, new.imported.into())?;
    exchange::import(foreign, &open, &|text| text, otherwise, &mut log, &mut |_| {})?;
    log.append(otherwise, Closed { epoch: 1, summary: None }.into())?;
    Ok(log.0)
}

fn import_only(bytes: &[u8]) -> Vec<Entry> {
    let mut found = survey(bytes, None).expect("a known format");
    assert_eq!(found.len(), 1);
    import(bytes, found.remove(0)).expect("imported")
}

fn export(format: ExportFormat, entries: &[Entry]) -> Vec<u8> {
    let session = State::fold(entries).session.expect("a session");
    let mut exporter = Exporter::new(format, session);
    entries.iter().for_each(|entry| exporter.survey(entry));
    let mut out = exporter.begin();
    for entry in entries {
        for image in exporter.images(entry) {
            let bytes = [png(1), png(2)].into_iter().find(|bytes| sha256_hex(bytes) == image.sha256);
            bytes.into_iter().for_each(|bytes| exporter.add_image(image, bytes));
        }
        out.extend(exporter.write(entry));
    }
    out.extend(exporter.finish());
    out
}

/// The start of a png, and `noise` to tell it from others.
fn png(noise: u8) -> Vec<u8> {
    let header = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &640_u32.to_be_bytes()[..], &480_u32.to_be_bytes()].concat();
    [&header[..], &[noise; 100]].concat()
}

/// The images of each message that has some, with the words of it.
fn pictures(entries: &[Entry]) -> Vec<(String, Vec<ImageRef>)> {
    let of = |entry: &Entry| match &entry.event {
        Event::UserMessage(user) => Some((user.text.clone(), user.images.clone())),
        Event::ToolFinished(finished) => Some((finished.output.clone(), finished.images.clone())),
        _ => None,
    };
    entries.iter().filter_map(of).filter(|(_, images)| !images.is_empty()).collect()
}

fn records(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    match serde_json::from_str(text) {
        Ok(document @ (Value::Array(_) | Value::Object(_))) => vec![document],
        _ => text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
    }
}

/// What happened, as a person would tell it.
fn told(entries: &[Entry]) -> String {
    let mut out = String::new();
    for entry in entries {
        let _ = match &entry.event {
            Event::SessionImported(new) => writeln!(out, "{} | {} | {} | {:?}", new.format, new.program, new.id, new.title),
            Event::Profile(profile) => writeln!(out, "model {} {:?}", profile.model, profile.system),
            Event::UserMessage(user) => writeln!(out, "user {:?}: {}", user.kind, user.text),
            Event::Note(note) => writeln!(out, "note: {}", note.text),
            Event::AssistantMessage(answer) => {
                let blocks = answer.blocks.iter().map(|block| match block {
                    Block::Text { text } => format!("{text:?}"),
                    Block::Reasoning { text, .. } => format!("reasons {text:?}"),
                    Block::ToolCall(call) => format!("calls {} {} {}", call.provider_id, call.name, call.arguments),
                    other => format!("{other:?}"),
                });
                let blocks: Vec<String> = blocks.collect();
                let cut = if answer.partial { " (cut)" } else { "" };
                writeln!(out, "{}{cut}: {}", answer.origin.model, blocks.join("; "))
            }
            Event::ToolFinished(finished) => writeln!(out, "{} {:?}: {}", finished.name, finished.outcome, finished.output),
            Event::ContextTrimmed(trim) => writeln!(out, "summary: {}", trim.note),
            Event::ContextRewound(_) => writeln!(out, "rewound"),
            Event::TurnEnded(ended) => writeln!(out, "turn {} {}", ended.reason, ended.model_calls),
            _ => Ok(()),
        };
    }
    // The long text of the fixtures.
    out.replace(
        "The table has four columns: the day, the first high water, the second high water, and the height in metres.",
        "<table>",
    )
}

/// The conversation that a model would be sent, without regard to ids.
fn conversation(entries: &[Entry]) -> Vec<String> {
    let state = State::fold(entries);
    let tell = |slot: &Slot| match slot.message.as_deref() {
        Some(Message::User { text, .. } | Message::Note { text }) => vec![format!("user: {text}")],
        Some(Message::Assistant(answer)) => {
            let calls = answer.tool_calls().map(|call| format!("calls {} {}", call.name, call.arguments));
            std::iter::once(format!("assistant: {}", answer.text())).chain(calls).collect()
        }
        Some(Message::ToolResult { name, output, .. }) => vec![format!("{name}: {output}")],
        _ => Vec::new(),
    };
    state.context.iter().flat_map(tell).collect()
}

#[test]
fn a_claude_code_session_is_the_way_to_its_last_message_with_all_results_of_parallel_calls() {
    let entries = import_only(CLAUDE_CODE);
    assert_eq!(
        told(&entries),
        r#"claude_code | claude-code 2.1.0 | 5d1c2b3a-0000-4000-8000-000000000001 | Some("Tide times")
user Prompt: When is high water?
model anthropic/claude-opus-4-8 ""
claude-opus-4-8: reasons "Two files may know."; "I look into both."; calls toolu_1 Read {"file_path":"/home/ada/tide/one.md","note":"<table>"}; calls toolu_2 Read {"file_path":"/home/ada/tide/two.md"}
Read Error: no such file
Read Ok: <table>
claude-opus-4-8: "At four."
turn done 2
user Prompt: And tomorrow?
[image]
note: A word of the program.
claude-opus-4-8: "At five."
summary: So far: high water is at four, tomorrow at five.
turn done 1
user Prompt: Thanks.
claude-opus-4-8: "You are welcome."
turn done 1
"#
    );
    let summed_up = ["user: So far: high water is at four, tomorrow at five.", "user: Thanks.", "assistant: You are welcome."];
    assert_eq!(conversation(&entries), summed_up);
}

#[test]
fn a_codex_rollout_is_its_items_and_what_was_rolled_back_or_compacted_leaves_the_context() {
    let entries = import_only(CODEX);
    assert_eq!(
        told(&entries),
        r#"codex | codex 0.169.0 | 5d1c2b3a-0000-7000-8000-000000000002 | Some("When is high water?")
user Prompt: When is high water?
model openai/gpt-5.5 ""
gpt-5.5: reasons "A file may know."; "I look."; calls call_1 exec_command {"cmd":"cat one.md"}; calls call_2 apply_patch {"input":"*** Begin Patch\n*** End Patch"}
exec_command Ok: <table>
apply_patch Ok: {"output":"done"}
gpt-5.5: "At four."
turn done 2
user Prompt: A question that was taken back.
gpt-5.5: "An answer to it."
turn done 1
rewound
summary: So far: high water is at four.
user Prompt: Thanks.
gpt-5.5: "You are welcome."
turn done 1
"#
    );
    assert_eq!(conversation(&entries), ["user: So far: high water is at four.", "user: Thanks.", "assistant: You are welcome."]);
}

#[test]
fn a_pi_session_is_the_way_to_its_last_entry_and_keeps_what_its_compaction_kept() {
    let entries = import_only(PI);
    assert_eq!(
        told(&entries),
        r#"pi | pi | 5d1c2b3a-0000-7000-8000-000000000003 | Some("Tide times")
user Prompt: When is high water?
model anthropic/claude-sonnet-5 ""
claude-sonnet-5: reasons "Two files."; "I look into both."; calls toolu_1 read {"path":"one.md"}; calls toolu_2 read {"path":"two.md"}
read Ok: <table>
read Error: no such file
claude-sonnet-5: "At four."
note: Another way was tried.
note: The user ran `date`:
Monday
turn done 2
user Prompt: And tomorrow?
claude-sonnet-5 (cut): "At fi"
summary: So far: high water is at four.
turn interrupted 1
user Prompt: Go on.
claude-sonnet-5: "At five."
turn done 1
"#
    );
    let kept = [
        "user: So far: high water is at four.",
        "user: And tomorrow?",
        "assistant: At fi",
        "user: Go on.",
        "assistant: At five.",
    ];
    assert_eq!(conversation(&entries), kept);
}

#[test]
fn a_hermes_export_holds_a_session_a_line_without_what_was_taken_back() {
    let found = survey(HERMES, None).expect("a known format");
    let told: Vec<String> = found.into_iter().map(|found| told(&import(HERMES, found).expect("imported"))).collect();
    assert_eq!(
        told,
        [
            r#"hermes | hermes | 20260105_110000_ab12cd | Some("When is high water?")
user Prompt: When is high water?
model openai/gpt-5.5 ""
gpt-5.5: reasons "A file may know."; "I look."; calls call_1 terminal {"command":"cat one.md"}
terminal Ok: <table>
gpt-5.5: "At four."
turn done 2
"#,
            r#"hermes | hermes | 20260105_120000_ef34ab | Some("Another")
user Prompt: Hello?
model gpt-5.5 ""
gpt-5.5: "Hello."
turn done 1
"#
        ]
    );
}

#[test]
fn arrays_of_messages_and_markdown_are_conversations() {
    let [openai, anthropic, markdown] = [OPENAI, ANTHROPIC, MARKDOWN].map(|bytes| told(&import_only(bytes)));
    assert_eq!(
        openai,
        r#"openai |  |  | Some("When is high water?")
user Prompt: When is high water?
[image]
model openai/gpt-5.5 "You know the tides."
gpt-5.5: calls call_1 read {"path":"one.md"}; calls call_2 read {"path":"two.md"}
read Ok: no such file
read Ok: <table>
gpt-5.5: "At four."
turn done 2
"#
    );
    assert_eq!(
        anthropic,
        r#"anthropic |  |  | Some("When is high water?")
user Prompt: When is high water?
: reasons "Two files."; "I look into both."; calls toolu_1 read {"path":"one.md"}; calls toolu_2 read {"path":"two.md"}
read Ok: <table>
read Error: no such file
user Steer: Quickly, please.
: "At four."
turn done 2
"#
    );
    assert_eq!(
        markdown,
        r##"markdown |  |  | Some("Tide times")
user Prompt: When is high water?
: "At four:\n\n```sh\n# User of the table\ncat one.md\n```\n\n### Why\n\nBecause of the moon."
turn done 1
user Prompt: Thanks.
turn done 0
"##
    );
}

#[test]
fn an_imported_session_has_the_times_of_the_original() {
    let state = State::fold(&import_only(PI));
    assert_eq!(state.created_at.map(|at| at.to_string()).as_deref(), Some("2026-01-05T10:00:00.000Z"));
    assert_eq!(state.cwd.as_deref(), Some("/home/ada/tide"));
    let turns: Vec<u64> = import_only(CODEX)
        .iter()
        .filter_map(|entry| if let Event::TurnEnded(ended) = &entry.event { Some(ended.duration_ms) } else { None })
        .collect();
    assert_eq!(turns, [5_000, 1_000, 1_000]);
}

#[test]
fn reasoning_of_another_program_goes_back_to_nobody() {
    for entry in import_only(CLAUDE_CODE) {
        if let Event::AssistantMessage(answer) = entry.event {
            assert_eq!((answer.origin.credential.as_str(), answer.origin.endpoint.as_str()), (Origin::IMPORTED, ""));
        }
    }
}

#[test]
fn what_was_imported_comes_out_as_it_went_in() {
    let formats = [
        (CLAUDE_CODE, ExportFormat::ClaudeCode),
        (CODEX, ExportFormat::Codex),
        (PI, ExportFormat::Pi),
        (OPENAI, ExportFormat::OpenAi),
        (ANTHROPIC, ExportFormat::Anthropic),
    ];
    for (bytes, format) in formats {
        let entries = import_only(bytes);
        let mut written = records(&export(format, &entries));
        let mut original = records(bytes);
        // The messages of an object come last.
        for document in written.iter_mut().chain(&mut original) {
            document.sort_all_objects();
        }
        assert_eq!(written, original, "{format:?}");
    }
}

/// A conversation with an image in a message, and one in the result of a call.
fn with_images() -> Vec<u8> {
    let image = |noise| json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64_STANDARD.encode(png(noise))}});
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "What is on this?"}, image(1)]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "two.png"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [image(2), {"type": "text", "text": "an image"}]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Two cats."}]},
    ]);
    messages.to_string().into_bytes()
}

#[test]
fn images_come_in_and_go_out_in_every_form() {
    let [one, two] = [png(1), png(2)].map(|bytes| ImageRef::of(&bytes).expect("an image"));
    assert_eq!((one.label().as_str(), one.bytes), ("png 640x480", 124));
    let entries = import_only(&with_images());
    let expected = [("What is on this?".to_owned(), vec![one]), ("an image".to_owned(), vec![two])];
    assert_eq!(pictures(&entries), expected);
    assert_eq!(records(&export(ExportFormat::Anthropic, &entries)), records(&with_images()), "as they came in");
    for format in [ExportFormat::ClaudeCode, ExportFormat::Codex, ExportFormat::Pi, ExportFormat::OpenAi] {
        let written = export(format, &entries);
        let again = import_only(&written);
        let mut expected = expected.clone();
        if format == ExportFormat::OpenAi {
            // Its results take no images: they follow in a message.
            expected[1].0.clear();
        }
        assert_eq!(pictures(&again), expected, "{format:?}: {}", String::from_utf8_lossy(&written));
        // And from there back: what is written was not imported in this form.
        assert_eq!(pictures(&import_only(&export(ExportFormat::Anthropic, &again))), expected, "{format:?}");
    }
}

#[test]
fn an_image_that_is_none_or_too_much_is_named_and_costs_nothing_else() {
    let encoded = |bytes: Vec<u8>| BASE64_STANDARD.encode(bytes);
    let anthropic =
        |data: String| json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    let mut large = png(1);
    large.resize(4_000_000, 0);
    for part in [
        anthropic("no base64!".to_owned()),
        anthropic(encoded(png(1)).trim_end_matches('=').to_owned() + "*"),
        anthropic(encoded(b"%PDF-1.7".to_vec())),
        anthropic(encoded(png(1)[..18].to_vec())),
        anthropic(encoded(large)),
        anthropic(String::new()),
        json!({"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}}),
        json!({"type": "image", "source": [1, 2]}),
        json!({"type": "image", "data": 7}),
        json!({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}),
        json!({"type": "image_url", "image_url": {"url": ["data:"]}}),
        json!({"type": "input_image", "image_url": "data:image/png,plain"}),
    ] {
        let messages = json!([{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}, {"role": "assistant", "content": "A cat."}]);
        let entries = import_only(messages.to_string().as_bytes());
        assert_eq!(pictures(&entries), [], "{part}");
        assert_eq!(conversation(&entries), ["user: What is this?\n[image]", "assistant: A cat."]);
    }
    let many = vec![anthropic(encoded(png(1))); MESSAGE_IMAGES_MAX + 1];
    let messages = json!([{"role": "user", "content": many}, {"role": "assistant", "content": "Cats."}]);
    let entries = import_only(messages.to_string().as_bytes());
    assert_eq!(pictures(&entries)[0].1.len(), MESSAGE_IMAGES_MAX);
    assert_eq!(conversation(&entries)[0], "user: [image]");
}

#[test]
fn a_text_is_not_kept_twice() {
    let text = "x".repeat(100_000);
    let record =
        json!({"type": "user", "uuid": "u1", "parentUuid": null, "sessionId": "s", "message": {"role": "user", "content": text}});
    let entries = import_only(record.to_string().as_bytes());
    let mut bytes = Vec::new();
    entries.iter().for_each(|entry| entry.write_json(&mut bytes));
    assert!(bytes.len() < 110_000, "{}", bytes.len());
    assert_eq!(records(&export(ExportFormat::ClaudeCode, &entries)), [record]);
}

#[test]
fn a_record_that_looks_like_a_place_of_a_text_is_kept_as_it_is() {
    let text = "y".repeat(100);
    let content = json!([{"type": "text", "text": text, "$text": [4, 0]}]);
    let record = json!({"type": "user", "uuid": "u1", "sessionId": "s", "x": {"$json": 1}, "message": {"role": "user", "content": content}});
    let entries = import_only(record.to_string().as_bytes());
    assert_eq!(records(&export(ExportFormat::ClaudeCode, &entries)), [record]);
}

/// Goes on with a session, as its next owner would.
fn go_on(mut entries: Vec<Entry>) -> Vec<Entry> {
    let origin = Origin { provider: "openai".to_owned(), model: "gpt-5.5".to_owned(), ..Origin::default() };
    let mut push = |event: Event| {
        let seq = entries.len() as u64;
        entries.push(Entry::new(seq, Timestamp::from_ms(OTHERWISE + 86_400_000 + seq as i64), event));
        seq
    };
    push(Opened { epoch: 2, writer: uuid::Uuid::from_u128(2), format: 1, owner: Owner::default() }.into());
    push(UserMessage { text: "And the day after?".to_owned(), ..UserMessage::default() }.into());
    let mut answer = |blocks, stop| {
        let request = ModelRequest { origin: origin.clone(), ..ModelRequest::default() };
        let message = push(request.into());
        let (origin, usage) = (origin.clone(), None);
        push(AssistantMessage { message, origin, blocks, stop, partial: false, usage, opaque: None }.into());
    };
    let call = |index: u64, path: &str| {
        let (id, provider_id) = (format!("call_9_{index}"), format!("call_new{index}"));
        Block::ToolCall(ToolCall { id, provider_id, name: "read".to_owned(), arguments: json!({"path": path}).to_string() })
    };
    let text = |text: &str| Block::Text { text: text.to_owned() };
    answer(vec![text("I look again."), call(0, "one.md"), call(1, "two.md"), call(2, "three.md")], StopReason::ToolUse);
    let finished = |index: u64, output: &str, outcome| {
        let (call, name, output) = (format!("call_9_{index}"), "read".to_owned(), output.to_owned());
        ToolFinished { call, name, outcome, output, full: None, images: Vec::new(), duration_ms: 1 }
    };
    push(finished(1, "no such file", ToolOutcome::Error).into());
    push(finished(0, "the table", ToolOutcome::Ok).into());
    push(UserMessage { text: "Quickly.".to_owned(), kind: UserKind::Steer, ..UserMessage::default() }.into());
    let mut answer = |blocks, stop| {
        let origin = origin.clone();
        push(AssistantMessage { message: 0, origin, blocks, stop, partial: false, usage: None, opaque: None }.into());
    };
    answer(vec![text("At six.")], StopReason::EndTurn);
    entries
}

const WENT_ON: [&str; 9] = [
    "user: And the day after?",
    "assistant: I look again.",
    "calls read {\"path\":\"one.md\"}",
    "calls read {\"path\":\"two.md\"}",
    "calls read {\"path\":\"three.md\"}",
    "read: the table",
    "read: no such file",
    "read: No result was recorded.",
    "user: Quickly.",
];

#[test]
fn a_session_that_went_on_here_goes_out_whole_in_every_form() {
    for format in [ExportFormat::ClaudeCode, ExportFormat::Codex, ExportFormat::Pi, ExportFormat::OpenAi, ExportFormat::Anthropic]
    {
        for (bytes, before) in [(CLAUDE_CODE, 3), (CODEX, 3), (PI, 5), (OPENAI, 7), (ANTHROPIC, 8)] {
            let entries = go_on(import_only(bytes));
            let written = export(format, &entries);
            let mut found = survey(&written, None).expect("a known format");
            let again = conversation(&import(&written, found.remove(0)).expect("imported"));
            let went_on: Vec<&str> = again.iter().rev().take(WENT_ON.len() + 1).rev().map(String::as_str).collect();
            assert_eq!(went_on[..WENT_ON.len()], WENT_ON, "{format:?}: {}", String::from_utf8_lossy(&written));
            assert_eq!(went_on.last(), Some(&"assistant: At six."));
            // What another program summed up has gone out of its context, and comes out whole in other forms.
            assert!(again.len() >= before, "{format:?}: {again:#?}");
        }
    }
}

fn notices(bytes: &[u8]) -> Vec<String> {
    let found = survey(bytes, None).expect("a known format");
    found[0].notices().0.iter().map(ToString::to_string).collect()
}

const ONE: &str = r#"{"type":"user","uuid":"u1","parentUuid":null,"sessionId":"s","message":{"role":"user","content":"one"}}"#;
const TWO: &str =
    r#"{"type":"user","uuid":"u2","parentUuid":"u1","sessionId":"s","message":{"role":"user","content":"zwölf 🌊"}}"#;

#[test]
fn a_bad_line_costs_itself_and_is_named_and_kept() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let many = format!("[{}0]", "0,".repeat(2_000_001));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(exchange::RECORD_BYTES_MAX));
    let cut = &TWO[..40];
    for (bad, reason) in [
        (deep.as_str(), "not JSON: nested more than 96 deep"),
        (many.as_str(), "not JSON: more than 2000000 values"),
        (long.as_str(), "longer than 32 MiB: it is left out"),
        (cut, "not JSON: EOF while parsing a value at column 40"),
        ("{\"a\":\"\u{0}\"}", "not JSON: control character (\\u0000-\\u001F) found while parsing a string at column 7"),
        ("17", "not a JSON object"),
    ] {
        let file = format!("{ONE}\n{bad}\n\n{TWO}");
        assert_eq!(notices(file.as_bytes()), [format!("line 2: {reason}")]);
        let entries = import_only(file.as_bytes());
        assert_eq!(conversation(&entries), ["user: one", "user: zwölf 🌊"], "{reason}");
        let kept = |entry: &&Entry| entry.event.type_name() == "imported.claude_code.unreadable";
        assert_eq!(entries.iter().filter(kept).count(), usize::from(!reason.starts_with("longer")), "{reason}");
    }
}

#[test]
fn a_text_that_was_cut_inside_a_character_is_read() {
    let cut = ONE.replacen("one", "one \\ud83c", 1);
    let file = format!("{cut}\n{TWO}");
    assert_eq!(notices(file.as_bytes()), ["line 1: a character is cut in half: that half was replaced"]);
    assert_eq!(conversation(&import_only(file.as_bytes())), ["user: one \u{fffd}", "user: zwölf 🌊"]);
}

#[test]
fn a_file_is_read_in_whatever_encoding_it_has() {
    let utf8 = format!("{ONE}\n{TWO}\n");
    let utf16 = |unit: fn(u16) -> [u8; 2]| utf8.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
    let (little, big) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
    let files: [Vec<u8>; 8] = [
        utf8.clone().into_bytes(),
        utf8.replace('\n', "\r\n").into_bytes(),
        [b"\xEF\xBB\xBF", utf8.as_bytes()].concat(),
        [b"\xFF\xFE", &little[..]].concat(),
        [b"\xFE\xFF", &big[..]].concat(),
        little,
        big,
        [utf8.as_bytes(), &[0; 4096]].concat(),
    ];
    for file in files {
        assert_eq!(conversation(&import_only(&file)), ["user: one", "user: zwölf 🌊"]);
        assert_eq!(notices(&file), [""; 0]);
    }
    let latin = [ONE.as_bytes(), b"\n", &TWO.replace("zwölf 🌊", "zw\u{1}").into_bytes()].concat();
    let latin: Vec<u8> = latin.into_iter().map(|byte| if byte == 1 { 0xF6 } else { byte }).collect();
    assert_eq!(conversation(&import_only(&latin)), ["user: one", "user: zw\u{FFFD}"]);
    assert_eq!(notices(&latin), ["line 2: not UTF-8: some bytes were replaced"]);
}

#[test]
fn circles_missing_parents_and_ids_given_twice_end_no_session() {
    let record = |uuid: &str, parent: &str, text: &str| {
        let message = json!({"role": "user", "content": text});
        json!({"type": "user", "uuid": uuid, "parentUuid": parent, "sessionId": "s", "message": message}).to_string()
    };
    let circle = [record("a", "b", "one"), record("b", "a", "two")].join("\n");
    assert_eq!(conversation(&import_only(circle.as_bytes())), ["user: one", "user: two"]);
    assert!(notices(circle.as_bytes())[0].contains("in a circle"));
    let orphan = [record("a", "", "one"), record("b", "gone", "two")].join("\n");
    assert_eq!(conversation(&import_only(orphan.as_bytes())), ["user: one", "user: two"]);
    assert!(notices(orphan.as_bytes())[0].contains("name a parent that is not there"), "{:?}", notices(orphan.as_bytes()));
    let twice = [record("a", "", "one"), record("a", "", "again"), record("b", "a", "two")].join("\n");
    assert_eq!(conversation(&import_only(twice.as_bytes())), ["user: again", "user: two"]);
    let own = record("a", "a", "one");
    assert_eq!(conversation(&import_only(own.as_bytes())), ["user: one"]);
}

#[test]
fn what_is_no_session_is_refused_with_the_reason() {
    let refused = |bytes: &[u8]| survey(bytes, None).map(drop).expect_err("refused").to_string();
    assert_eq!(refused(b""), "it is in no format that is known here");
    assert_eq!(refused(b"just words"), "it is in no format that is known here (line 1: not JSON: expected value at column 1)");
    assert_eq!(refused(b"[1, 2]"), "it is in no format that is known here (line 1: not a JSON object)");
    let deep = vec![b'['; 1 << 20];
    assert_eq!(refused(&deep), "it is in no format that is known here (line 1: not JSON: nested more than 96 deep)");
    let empty = br#"{"type":"mode","sessionId":"s"}"#;
    let found = survey(empty, None).expect("known").remove(0);
    assert_eq!(import(empty, found).expect_err("refused").to_string(), "cannot import: there are no messages in it");
}

#[test]
fn a_file_that_is_written_meanwhile_is_imported_as_it_was_or_not_at_all() {
    let whole = format!("{ONE}\n{TWO}\n");
    let found = survey(ONE.as_bytes(), None).expect("known").remove(0);
    assert_eq!(conversation(&import(whole.as_bytes(), found).expect("imported")), ["user: one"]);
    let found = survey(whole.as_bytes(), None).expect("known").remove(0);
    let other = whole.replace("one", "ten");
    assert_eq!(import(other.as_bytes(), found).expect_err("refused").to_string(), "cannot import: it changed while it was read");
}

fn store(home: &std::path::Path) -> FileStore {
    FileStore::open(FileStoreOptions::new(home)).expect("a store")
}

#[tokio::test]
async fn an_imported_session_is_listed_by_the_times_of_the_original_resumes_and_is_sound() {
    let home = tempfile::tempdir().expect("a folder");
    let store = store(home.path());
    let mut options = Vec::new();
    for bytes in ALL {
        for found in survey(bytes, None).expect("known") {
            let new = found.new_import(Some("/somewhere".to_owned()), Timestamp::from_ms(OTHERWISE));
            let fill = move |log: &mut dyn ImportLog| {
                let open = || -> io::Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(bytes))) };
                exchange::import(found, &open, &|text| text, Timestamp::from_ms(OTHERWISE), log, &mut |_| {}).map(drop)
            };
            options.push(store.import(new, Box::new(fill)).await.expect("imported"));
        }
    }
    let list = store.list().await.expect("a list");
    assert_eq!(list.len(), options.len());
    let pi = list.iter().find(|session| session.title.as_deref() == Some("Tide times") && session.bytes > 6_000).expect("listed");
    assert_eq!(pi.state, SessionListState::Idle);
    assert!(pi.updated_at.to_string().starts_with("2026-01-05T"), "{pi:?}");
    for id in options {
        assert!(store.verify(id).await.expect("verified").ok);
        let opened = store.open(id).await.expect("opened");
        assert!(opened.problems.is_empty() && opened.state.epoch == 2);
        opened.log.append(Note { text: "on".to_owned() }.into()).expect("accepted");
        opened.log.close().await.expect("closed");
        assert!(store.verify(id).await.expect("verified").ok);
    }
    store.shutdown(Duration::from_secs(5)).await.expect("durable");
}

#[tokio::test]
async fn a_long_import_is_opened_from_its_checkpoint() {
    let home = tempfile::tempdir().expect("a folder");
    let store = store(home.path());
    let record = |line: u64| {
        let (role, text) = (["user", "assistant"][line as usize % 2], format!("{line} {}", "words ".repeat(100)));
        let message = json!({"role": role, "model": "m", "content": [{"type": "text", "text": text}], "id": line.to_string()});
        let parent = line.checked_sub(1).map(|parent| parent.to_string());
        json!({"type": role, "uuid": line.to_string(), "parentUuid": parent, "sessionId": "s", "message": message})
    };
    let file: String = (0..4000).map(|line| format!("{}\n", record(line))).collect();
    let found = survey(file.as_bytes(), None).expect("known").remove(0);
    let new = found.new_import(None, Timestamp::from_ms(OTHERWISE));
    let fill = move |log: &mut dyn ImportLog| {
        let open = || -> io::Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(file.clone()))) };
        exchange::import(found, &open, &|text| text, Timestamp::from_ms(OTHERWISE), log, &mut |_| {}).map(drop)
    };
    let id = store.import(new, Box::new(fill)).await.expect("imported");
    let verified = store.verify(id).await.expect("verified");
    assert!(verified.ok, "{:?}", verified.problems);
    let mut entries = store.read(id, 0).await.expect("readable");
    let mut checkpoints = 0;
    while let Some(entry) = entries.next().await.expect("readable") {
        checkpoints += u32::from(matches!(entry.event, Event::Checkpoint(_)));
    }
    assert_eq!(checkpoints, 1);
    let opened = store.open(id).await.expect("opened");
    assert_eq!((opened.state.messages, opened.state.context.len()), (4000, 4000));
    opened.log.close().await.expect("closed");
    let list = store.list().await.expect("a list");
    assert_eq!((list[0].messages, list[0].model.as_deref()), (4000, Some("anthropic/m")));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "what is checked is the real disk")]
async fn an_import_that_fails_leaves_nothing() {
    let home = tempfile::tempdir().expect("a folder");
    let store = store(home.path());
    let found = survey(CODEX, None).expect("known").remove(0);
    let new = found.new_import(None, Timestamp::from_ms(OTHERWISE));
    let fill = |log: &mut dyn ImportLog| {
        log.append(Timestamp::from_ms(0), Note { text: "n".repeat(3 << 20) }.into())?;
        Err(StoreError::Import { why: "for a reason".to_owned() })
    };
    let failed = store.import(new, Box::new(fill)).await.expect_err("failed");
    assert_eq!(failed.to_string(), "cannot import: for a reason");
    assert_eq!(store.list().await.expect("a list"), []);
    let mut folders = vec![home.path().join("sessions")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            assert!(entry.path().is_dir() && !entry.path().to_string_lossy().ends_with('b'), "{:?} is left", entry.path());
            folders.push(entry.path());
        }
    }
}

/// A fixture with some of its bytes changed, lines moved, or pieces cut out.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let cut = (any::<prop::sample::Index>(), 0..200_usize);
    (0..ALL.len(), prop::collection::vec(change, 0..6), prop::collection::vec(cut, 0..3)).prop_map(|(which, changes, cuts)| {
        let mut bytes = ALL[which].to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, length) in cuts {
            let from = at.index(bytes.len());
            let to = (from + length).min(bytes.len() - 1);
            bytes.drain(from.min(to)..to);
        }
        bytes
    })
}

/// A record in which any field of a fixture's may be anything.
fn twisted() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(-1)),
        Just(json!("")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{}, "a", 1]))
    ];
    let fixtures = [CLAUDE_CODE, CODEX, PI, HERMES];
    (0..fixtures.len(), prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), leaf), 1..6)).prop_map(
        move |(which, twists)| {
            let mut all = records(fixtures[which]);
            for (line, field, value) in twists {
                let line = line.index(all.len());
                let mut fields = Vec::new();
                pointers(&all[line], String::new(), &mut fields);
                let field = &fields[field.index(fields.len())];
                if let Some(found) = all[line].pointer_mut(field) {
                    *found = value;
                }
            }
            all.iter().map(|record| format!("{record}\n")).collect::<String>().into_bytes()
        },
    )
}

fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| pointers(field, format!("{at}/{name}"), out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| pointers(item, format!("{at}/{index}"), out)),
        _ => {}
    }
    out.push(at);
}

/// Whatever is imported is a log that folds, and goes out in every form.
fn check(bytes: &[u8]) {
    for format in ImportFormat::ALL.into_iter().map(Some).chain([None]) {
        for found in survey(bytes, format).unwrap_or_default() {
            let Ok(entries) = import(bytes, found) else { continue };
            for format in
                [ExportFormat::ClaudeCode, ExportFormat::Codex, ExportFormat::Pi, ExportFormat::OpenAi, ExportFormat::Anthropic]
            {
                export(format, &entries);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_file_ends_the_program(bytes in damaged()) {
        check(&bytes);
    }

    #[test]
    fn no_type_in_a_record_is_trusted(bytes in twisted()) {
        check(&bytes);
    }

    #[test]
    fn no_bytes_end_the_program(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }
}
