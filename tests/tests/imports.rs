//! What was imported from other programs goes on with any provider: every prefix of it, and of what is left when lines are lost, is a request
//! that a server as strict as the real ones accepts.

use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, OpenAi, Secret};
use agent_runtime::{Images, Model, project};
use fault_server::strict;
use proptest::prelude::*;
use serde_json::Value;
use session_store::exchange;
use session_store::{
    Entry, Event, ImportLog, Parameters, Profile, Seq, SideRef, State, StoreError, Timestamp, ToolSpec, sha256_hex,
};
use std::io::{self, Cursor, Read};
use std::sync::Arc;

const FILES: [(&str, &[u8]); 7] = [
    ("claude_code", include_bytes!("../../session-store/tests/fixtures/foreign/claude_code.jsonl")),
    ("codex", include_bytes!("../../session-store/tests/fixtures/foreign/codex.jsonl")),
    ("pi", include_bytes!("../../session-store/tests/fixtures/foreign/pi.jsonl")),
    ("hermes", include_bytes!("../../session-store/tests/fixtures/foreign/hermes.jsonl")),
    ("openai", include_bytes!("../../session-store/tests/fixtures/foreign/openai.json")),
    ("anthropic", include_bytes!("../../session-store/tests/fixtures/foreign/anthropic.json")),
    ("markdown", include_bytes!("../../session-store/tests/fixtures/foreign/talk.md")),
];

#[derive(Default)]
struct Log(Vec<Entry>);

impl ImportLog for Log {
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

/// The events of every session in a file.
fn imported(bytes: &[u8]) -> Vec<Vec<Entry>> {
    let open = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(Cursor::new(bytes))) };
    let found = exchange::survey(&open, None, &|text| text).unwrap_or_default();
    let entries = found.into_iter().filter_map(|found| {
        let mut log = Log::default();
        let imported = exchange::import(found, &open, &|text| text, Timestamp::from_ms(0), &mut log, &mut |_| {});
        imported.is_ok().then_some(log.0)
    });
    entries.collect()
}

fn models() -> [Arc<dyn Model>; 2] {
    let http = HttpClient::new();
    let endpoint = |provider: &str, url: &str| Endpoint {
        api_key: Some(Secret::new("a key for tests")),
        ..Endpoint::new(provider, url, "a-model")
    };
    let anthropic = Anthropic::new(endpoint("anthropic", "http://127.0.0.1:1"), http.clone()).expect("a good endpoint");
    let openai = OpenAi::new(endpoint("openai", "http://127.0.0.1:1/v1"), http).expect("a good endpoint");
    [Arc::new(anthropic), Arc::new(openai)]
}

/// The profile of whoever goes on: none of the tools in the conversation is among its own.
fn profile() -> Arc<Profile> {
    let parameters = serde_json::json!({"type": "object"});
    let tool = ToolSpec { name: "other".to_owned(), description: "A tool.".to_owned(), parameters };
    let (hash, model, system) = (String::new(), "a-model".to_owned(), "You help.".to_owned());
    Arc::new(Profile { hash, model, system, tools: vec![tool], parameters: Parameters::default(), projection: 1 }.sealed())
}

fn check(entries: &[Entry], models: &[Arc<dyn Model>], profile: &Arc<Profile>) -> Result<(), String> {
    let mut state = State::default();
    for entry in entries {
        state.apply(entry);
        for model in models {
            let conversation = project(&state, profile, &Images::default(), model.origin(), 1024);
            let body: Value = serde_json::from_slice(&model.body(&conversation)).map_err(|error| error.to_string())?;
            let accepted = match model.origin().provider.as_str() {
                "anthropic" => strict::check_anthropic(&body).and_then(|()| strict::check_signatures(&body)),
                _ => strict::check_openai(&body),
            };
            accepted.map_err(|refused| format!("after {entry:?}: {refused}\n{body:#}"))?;
        }
    }
    Ok(())
}

#[test]
fn every_prefix_of_an_imported_session_is_accepted_by_every_provider() {
    let (models, profile) = (models(), profile());
    for (name, bytes) in FILES {
        let sessions = imported(bytes);
        assert!(!sessions.is_empty(), "{name}");
        for entries in sessions {
            check(&entries, &models, &profile).unwrap_or_else(|why| panic!("{name} {why}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_left_when_lines_are_lost_is_accepted_too(which in 0..FILES.len(), lost in prop::collection::vec(any::<prop::sample::Index>(), 1..8)) {
        let (models, profile) = (models(), profile());
        let text = std::str::from_utf8(FILES[which].1).expect("UTF-8");
        let mut lines: Vec<&str> = text.lines().collect();
        for line in lost {
            if lines.len() > 1 {
                lines.remove(line.index(lines.len()));
            }
        }
        for entries in imported(lines.join("\n").as_bytes()) {
            check(&entries, &models, &profile).map_err(TestCaseError::fail)?;
        }
    }
}
