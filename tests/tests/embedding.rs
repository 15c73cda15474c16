//! Many sessions in one process of an embedder: each has its own credential, and none of them knows more than it was given.

use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, Secret};
use agent_runtime::session_store::{FileStore, FileStoreOptions};
use agent_runtime::{Runtime, Setup};
use fault_server::{Answer, FaultServer, Reply, Script};
use futures_util::future::join_all;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn runtime(folder: &Path) -> Runtime {
    Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(folder)).expect("a store")))
}

fn setup(server: &FaultServer, http: &HttpClient, key: &str, folder: &Path) -> Setup {
    let mut endpoint = Endpoint::new("anthropic", server.url(), "test-model");
    endpoint.api_key = Some(Secret::new(key));
    let model = Anthropic::new(endpoint, http.clone()).expect("a model");
    let mut setup = Setup::new(Arc::new(model), folder);
    setup.system = Some("Be brief.".to_owned());
    setup.tools = agent_runtime::tools::builtin();
    setup
}

#[tokio::test]
async fn sessions_of_one_runtime_never_mix_their_credentials() {
    let reply = Reply::text("an answer of some words").paced(Duration::from_millis(2));
    let server = FaultServer::start(Script::repeating(Answer::Reply(reply))).expect("a server");
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path());
    // One HTTP client for all: its connections are shared, and what is sent on them is not.
    let http = HttpClient::default();
    let turns = (0..20).map(|n| {
        let (runtime, setup) = (&runtime, setup(&server, &http, &format!("the-key-of-session-{n}."), folder.path()));
        async move {
            let session = runtime.create(setup).await.expect("a session");
            for _ in 0..2 {
                let turn = session.send(format!("I am session-{n}.")).await.expect("a turn");
                tokio::time::timeout(LONG, turn.outcome()).await.expect("it ends");
            }
        }
    });
    join_all(turns).await;
    let requests = server.requests();
    assert_eq!(requests.len(), 40);
    for request in &requests {
        let key = request.header("x-api-key").expect("a key");
        let session = key.strip_prefix("the-key-of-").expect("one of the keys");
        assert!(request.body.to_string().contains(&format!("I am {session}")), "{key} went with another session's words");
        assert_eq!(request.body.to_string().matches("I am session-").count(), request.body.to_string().matches(session).count());
    }
    runtime.shutdown(LONG).await.expect("all durable");
}

/// What the other test runs twice, in surroundings that differ: it prints what was sent.
#[tokio::test]
#[ignore = "it is run by another test"]
async fn one_turn_says_what_it_sent() {
    let server = FaultServer::start([Answer::text("An answer.")]).expect("a server");
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = runtime(folder.path());
    let session =
        runtime.create(setup(&server, &HttpClient::default(), "a-key-of-its-own", Path::new("/"))).await.expect("a session");
    let turn = session.send("a question").await.expect("a turn");
    assert_eq!(tokio::time::timeout(LONG, turn.outcome()).await.expect("it ends").text, "An answer.");
    let request = server.requests().pop().expect("a request");
    let key = request.header("x-api-key").unwrap_or_default().to_owned();
    runtime.shutdown(LONG).await.expect("all durable");
    println!("\nsent: {key} {}", String::from_utf8_lossy(&request.raw));
}

#[test]
fn the_environment_the_home_and_the_working_directory_change_nothing() {
    let poison = tempfile::tempdir().expect("a folder");
    std::fs::write(poison.path().join("AGENTS.md"), "Poisoned.").expect("a file");
    std::fs::write(poison.path().join("CLAUDE.md"), "Poisoned.").expect("a file");
    let sent = |is_poisoned: bool| {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "one_turn_says_what_it_sent", "--ignored", "--nocapture"]).env_clear();
        if is_poisoned {
            command.current_dir(poison.path()).env("HOME", poison.path()).env("XDG_DATA_HOME", poison.path());
            for name in
                ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "LONGHAND_HOME", "LONGHAND_QUOTA", "LONGHAND_RESCUE_DIR", "NO_COLOR"]
            {
                command.env(name, "/poisoned");
            }
            for name in
                ["ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"]
            {
                command.env(name, "http://127.0.0.1:1");
            }
        } else {
            command.current_dir("/").env("HOME", "/nowhere");
        }
        let output = command.output().expect("it runs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
        shown.lines().find(|line| line.starts_with("sent: ")).expect("what was sent").to_owned()
    };
    let clean = sent(false);
    assert!(clean.contains("sent: a-key-of-its-own") && clean.contains("a question"), "{clean}");
    assert_eq!(clean, sent(true));
    assert_eq!(std::fs::read_dir(poison.path()).expect("the folder").count(), 2, "nothing was left there");
}
