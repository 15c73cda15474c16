//! The full text search from outside: real logs, a real index, and what becomes of it when it is damaged, killed or old.

#![expect(clippy::disallowed_methods, reason = "what is checked is the real disk")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps, in its helpers too")]

use proptest::prelude::*;
use session_store::{
    AssistantMessage, AssistantText, Block, Event, FileStore, FileStoreOptions, ModelRequest, NewSession, Origin, Profile,
    Refreshed, SearchHit, SearchIndex, SearchOrder, SearchQuery, SearchRole, SessionId, SessionStore, StopReason, ToolCall,
    ToolFinished, ToolOutcome, UserMessage, scan,
};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

fn store(home: &Path) -> FileStore {
    FileStore::open(FileStoreOptions::new(home)).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn user(text: &str) -> Event {
    UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
}

fn profile(model: &str) -> Event {
    Profile {
        hash: String::new(),
        model: model.to_owned(),
        system: "unseen".to_owned(),
        tools: Vec::new(),
        parameters: session_store::Parameters::default(),
        projection: 1,
    }
    .sealed()
    .into()
}

fn request() -> Event {
    ModelRequest {
        origin: Origin::default(),
        profile: String::new(),
        context: Vec::new(),
        body_sha256: String::new(),
        body_bytes: 0,
        learned: Vec::new(),
    }
    .into()
}

fn piece(message: u64, text: &str) -> Event {
    AssistantText { message, offset: 0, text: text.to_owned() }.into()
}

fn answer(message: u64, blocks: Vec<Block>) -> Event {
    AssistantMessage {
        message,
        origin: Origin::default(),
        blocks,
        stop: StopReason::EndTurn,
        partial: false,
        usage: None,
        opaque: None,
    }
    .into()
}

fn result(name: &str, output: &str) -> Event {
    ToolFinished {
        call: "call".to_owned(),
        name: name.to_owned(),
        outcome: ToolOutcome::Ok,
        output: output.to_owned(),
        full: None,
        duration_ms: 1,
    }
    .into()
}

/// Writes a session.
async fn write(store: &FileStore, cwd: &str, events: Vec<Event>) -> SessionId {
    let session = store.create(NewSession { id: None, cwd: Some(cwd.to_owned()) }).await.unwrap();
    for event in events {
        session.log.append(event).unwrap();
    }
    session.log.close().await.unwrap();
    session.log.id()
}

async fn go_on(store: &FileStore, id: SessionId, events: Vec<Event>) {
    let session = store.open(id).await.unwrap();
    for event in events {
        session.log.append(event).unwrap();
    }
    session.log.close().await.unwrap();
}

async fn refresh(store: &FileStore, index: &SearchIndex) -> Refreshed {
    index.refresh(store, &store.list().await.unwrap(), &mut |_| {}).await.unwrap()
}

async fn search(store: &FileStore, index: &SearchIndex, query: &SearchQuery) -> Vec<SearchHit> {
    let mut hits = Vec::new();
    let mut found = |hit| {
        hits.push(hit);
        ControlFlow::Continue(())
    };
    index.search(store, query, &mut found).await.unwrap();
    hits
}

async fn scanned(store: &FileStore, query: &SearchQuery) -> Vec<SearchHit> {
    let mut hits = Vec::new();
    let mut found = |hit| {
        hits.push(hit);
        ControlFlow::Continue(())
    };
    let unread = scan(store, &store.list().await.unwrap(), query, &mut found).await;
    assert!(unread.is_empty(), "{unread:?}");
    hits
}

async fn count(store: &FileStore, index: &SearchIndex, query: &str) -> usize {
    search(store, index, &SearchQuery::parse(query)).await.len()
}

fn as_set(hits: &[SearchHit]) -> BTreeSet<String> {
    let set: BTreeSet<String> = hits.iter().map(|hit| serde_json::to_string(hit).unwrap()).collect();
    assert_eq!(set.len(), hits.len(), "nothing is found twice");
    set
}

const WORDS: [&str; 12] =
    ["alpha", "Beta", "gamma", "gam", "日本語", "本", "béta", "main.rs", "\"quoted\"", "it's", "\n", "🌊 wave"];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&WORDS[..]), 0..6).prop_map(|words| words.join(" "))
}

/// What happens in a session; the `seq` of the request that an answer names is filled in when it is written.
#[derive(Clone, Debug)]
enum Step {
    User(String),
    Answer { pieces: String, whole: Option<(String, String)> },
    Call(&'static str, String),
    Result(&'static str, String),
    Model(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let tool = || prop::sample::select(vec!["shell", "read"]);
    prop_oneof![
        text().prop_map(Step::User),
        (text(), prop::option::of((text(), text()))).prop_map(|(pieces, whole)| Step::Answer { pieces, whole }),
        (tool(), text()).prop_map(|(tool, text)| Step::Call(tool, text)),
        (tool(), text()).prop_map(|(tool, text)| Step::Result(tool, text)),
        prop::sample::select(vec!["offline", "anthropic/claude"]).prop_map(Step::Model),
    ]
}

async fn take_steps(store: &FileStore, id: SessionId, steps: &[Step]) {
    let session = store.open(id).await.unwrap();
    let append = |event: Event| session.log.append(event).unwrap().seq;
    for step in steps {
        match step {
            Step::User(text) => drop(append(user(text))),
            Step::Answer { pieces, whole } => {
                let message = append(request());
                append(piece(message, pieces));
                if let Some((text, reasoning)) = whole {
                    let reasoning = Block::Reasoning { text: reasoning.clone(), opaque: None };
                    append(answer(message, vec![reasoning, Block::Text { text: text.clone() }]));
                }
            }
            Step::Call(tool, text) => {
                let arguments = serde_json::json!({"command": text, "count": 3}).to_string();
                let call = ToolCall { id: "call".into(), provider_id: String::new(), name: (*tool).to_owned(), arguments };
                let message = append(request());
                append(answer(message, vec![Block::ToolCall(call)]));
            }
            Step::Result(tool, text) => drop(append(result(tool, text))),
            Step::Model(model) => drop(append(profile(model))),
        }
    }
    session.log.close().await.unwrap();
}

fn query() -> impl Strategy<Value = SearchQuery> {
    let term = prop::sample::select(vec![
        "alpha",
        "beta",
        "gam",
        "gam*",
        "\"alpha beta\"",
        "-gamma",
        "本",
        "日本",
        "main.rs",
        "-\"beta alpha\"",
        "wave",
        "\"main r\"*",
        "command",
    ]);
    let roles = prop::sample::subsequence(SearchRole::ALL.to_vec(), 0..2);
    let tool = prop::option::weighted(0.2, prop::sample::select(vec!["shell", "READ", "none"]));
    let model = prop::option::weighted(0.2, prop::sample::select(vec!["claude", "anthropic", "offline", "anthropic/claude"]));
    let folder = prop::option::weighted(0.2, prop::sample::select(vec!["/src", "/src/a/", "/", "/other"]));
    (prop::collection::vec(term, 0..4), roles, tool, model, folder).prop_map(|(terms, roles, tool, model, folder)| {
        let mut query = SearchQuery::parse(&terms.join(" "));
        query.roles = roles;
        query.tool = tool.map(str::to_owned);
        query.model = model.map(str::to_owned);
        query.folders = folder.map(str::to_owned).into_iter().collect();
        query
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Whatever was said, and in however many refreshes it came into the index.
    #[test]
    fn the_index_finds_what_a_plain_scan_finds(
        sessions in prop::collection::vec(prop::collection::vec(prop::collection::vec(step(), 0..6), 1..4), 1..4),
        queries in prop::collection::vec(query(), 12),
    ) {
        let home = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let store = store(home.path());
            let index = SearchIndex::new(home.path());
            let mut ids = Vec::new();
            for folder in ["/src/a", "/src/ab", "/other"].iter().take(sessions.len()) {
                ids.push(write(&store, folder, Vec::new()).await);
            }
            for round in 0..3 {
                for (id, rounds) in ids.iter().zip(&sessions) {
                    if let Some(steps) = rounds.get(round) {
                        take_steps(&store, *id, steps).await;
                    }
                }
                refresh(&store, &index).await;
            }
            for query in queries {
                let (found, scanned) = (search(&store, &index, &query).await, scanned(&store, &query).await);
                assert_eq!(as_set(&found), as_set(&scanned), "{query:?}");
                let mut by_rank = query.clone();
                by_rank.order = SearchOrder::Best;
                let best = search(&store, &index, &by_rank).await;
                assert_eq!(as_set(&best), as_set(&scanned), "{query:?}");
            }
        });
    }
}
