//! A thousand turns against a mock of the providers that fails at random. Every turn ends, none hangs, each session opens again and takes a
//! further turn, and the process has as much memory and as many descriptors as before.
//!
//! The mock is not part of this project, so this is run by hand:
//!
//! ```text
//! npm install @copilotkit/aimock
//! npx llmock --port 4010 --fixtures ANSWERS.json --journal-max 10 --log-level silent
//! LONGHAND_CHAOS=127.0.0.1:4010 cargo test -p longhand-tests --test chaos -- --ignored --nocapture
//! ```
//!
//! `ANSWERS.json` is `{"fixtures": [{"match": {}, "response": {"content": "..."}}]}`. The test sets what goes wrong: one request in five gets a 500, of the others one in
//! five is answered with broken JSON, and so on with connections that are destroyed and with 429.

use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, OpenAi, OpenAiResponses, Secret};
use agent_runtime::session_store::{FileStore, FileStoreOptions, SessionStore};
use agent_runtime::{BreakerPolicy, EndReason, Model, RetryPolicy, Runtime, Setup, TurnError};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TURNS: usize = 1_000;
const SESSIONS: usize = 50;
const AT_ONCE: usize = 20;
/// A turn that takes longer hangs: four retries of a mock that answers at once take a small part of it.
const LONG: Duration = Duration::from_secs(60);
const CHAOS: &str = r#"{"dropRate":0.2,"malformedRate":0.2,"disconnectRate":0.2,"rateLimitRate":0.2}"#;

#[test]
#[ignore = "needs a mock beside it: see the top of this file"]
fn a_thousand_turns_against_chaos_all_end() {
    let mock = std::env::var("LONGHAND_CHAOS").expect("the address of the mock");
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    control(&mock, "DELETE", "");
    // A first round, so that what is built once is there.
    threads.block_on(round(&mock, SESSIONS));
    let before = Taken::now();
    for part in 0..2 {
        control(&mock, "POST", CHAOS);
        let began = Instant::now();
        let ends = threads.block_on(round(&mock, TURNS / 2));
        println!("{} turns in {:.1} s: {ends:?}; {:?}", TURNS / 2, began.elapsed().as_secs_f64(), Taken::now());
        assert_eq!(ends.values().sum::<usize>(), TURNS / 2);
        assert!(ends.get("done").is_some_and(|done| *done > 0), "part {part}: nothing was ever answered: {ends:?}");
        assert!(ends.len() > 1, "part {part}: nothing ever went wrong: {ends:?}");
    }
    let after = Taken::now();
    println!("before: {before:?}; after: {after:?}");
    assert!(after.descriptors <= before.descriptors + 2, "{before:?} {after:?}");
    assert!(after.memory_kb < before.memory_kb + 16 * 1024, "{before:?} {after:?}");
}

/// Takes so many turns in as many sessions as there are, some at a time; gives how they ended. Each session then opens again and takes one more.
async fn round(mock: &str, turns: usize) -> BTreeMap<String, usize> {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(FileStore::open(FileStoreOptions::new(folder.path())).expect("a store"));
    let breaker = BreakerPolicy { first_pause: Duration::from_millis(50), ..BreakerPolicy::default() };
    let runtime = Runtime::new(Arc::clone(&store) as Arc<dyn SessionStore>).with_breaker(breaker);
    let http = HttpClient::new();
    let session = |number: usize| {
        let (runtime, http, folder) = (&runtime, &http, folder.path());
        async move {
            let session = runtime.create(setup(mock, number, http, folder)).await.expect("a session");
            let mut ends = Vec::new();
            for turn in 0..turns / SESSIONS {
                let turn = session.send(&format!("hello {turn}")).await.expect("a turn");
                let outcome = tokio::time::timeout(LONG, turn.outcome()).await.expect("no turn hangs");
                assert!(!matches!(outcome.error, Some(TurnError::Store(_) | TurnError::Panic(_))), "{outcome:?}");
                ends.push(match &outcome.error {
                    Some(TurnError::Model(failure)) => format!("{}: {}", outcome.reason.as_str(), failure.kind.as_str()),
                    _ => outcome.reason.as_str().to_owned(),
                });
            }
            session.close().await.expect("everything durable");
            (number, session.id(), ends)
        }
    };
    let done: Vec<_> = futures_util::stream::iter(0..SESSIONS).map(session).buffer_unordered(AT_ONCE).collect().await;

    control(mock, "DELETE", "");
    let mut counted = BTreeMap::new();
    // Another runtime: its breakers know nothing of the chaos.
    let calm = Runtime::new(Arc::clone(&store) as Arc<dyn SessionStore>);
    for (number, id, ends) in done {
        ends.into_iter().for_each(|end| *counted.entry(end).or_insert(0) += 1);
        let session = calm.resume(id, setup(mock, number, &http, folder.path())).await.expect("it opens again");
        let outcome = tokio::time::timeout(LONG, session.send("hello again").await.expect("a turn").outcome()).await;
        let outcome = outcome.expect("no turn hangs");
        assert_eq!(outcome.reason, EndReason::Done, "{:?}", outcome.error);
        session.close().await.expect("everything durable");
        assert!(store.verify(id).await.expect("it is read").ok, "{id}");
    }
    runtime.shutdown(LONG).await.expect("everything durable");
    counted
}

fn setup(mock: &str, number: usize, http: &HttpClient, folder: &Path) -> Setup {
    let endpoint = |name: &str, path: &str, model: &str| Endpoint {
        api_key: Some(Secret::new("key-of-the-chaos")),
        ..Endpoint::new(name, format!("http://{mock}{path}"), model)
    };
    let http = http.clone();
    let model: Arc<dyn Model> = match number % 3 {
        0 => Arc::new(Anthropic::new(endpoint("anthropic", "", "claude-opus-4-6"), http).expect("an endpoint")),
        1 => Arc::new(OpenAi::new(endpoint("openai", "/v1", "gpt-5"), http).expect("an endpoint")),
        _ => Arc::new(OpenAiResponses::new(endpoint("openai-responses", "/v1", "gpt-5.5"), http).expect("an endpoint")),
    };
    let mut setup = Setup::new(model, folder);
    setup.retry = RetryPolicy { scale: 0.05, ..RetryPolicy::default() };
    setup
}

/// Sets or takes away what goes wrong.
fn control(mock: &str, method: &str, body: &str) {
    let mut stream = TcpStream::connect(mock).expect("the mock runs");
    let request = format!(
        "{method} /__aimock/chaos HTTP/1.1\r\nhost: {mock}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
}

/// What the process has.
#[derive(Debug)]
struct Taken {
    descriptors: usize,
    memory_kb: u64,
}

impl Taken {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Self {
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            memory_kb: memory.and_then(|memory| memory.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0),
        }
    }
}
