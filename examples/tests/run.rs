//! Each example runs, and does what its first lines say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn run(program: &str, arguments: &[&str], cwd: &Path) -> String {
    let Output { status, stdout, stderr } = Command::new(program).args(arguments).current_dir(cwd).output().expect("it starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}: {stderr}");
    stdout
}

#[test]
fn an_embedded_session_answers_about_real_files_and_can_be_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("some-notes.txt"), "hello").expect("a file");
    let home = folder.path().join("home");
    let home = home.to_str().expect("a UTF-8 path");
    let answer = run(env!("CARGO_BIN_EXE_embed"), &[home], folder.path());
    assert!(answer.contains("some-notes.txt") && answer.contains("[done in session"), "{answer}");
    let read = run(env!("CARGO_BIN_EXE_replay"), &[home], folder.path());
    assert!(read.contains("> What is in this folder?") && read.contains("some-notes.txt"), "{read}");
}

#[test]
fn a_custom_tool_is_called() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("home");
    let out = run(env!("CARGO_BIN_EXE_custom_tool"), &[home.to_str().expect("a UTF-8 path")], folder.path());
    assert!(out.contains("I roll.") && out.contains("[dice gave ") && out.contains("There you are."), "{out}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own thread may wait")]
fn a_tool_in_another_process_is_asked_watched_and_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("home");
    let out = run(env!("CARGO_BIN_EXE_remote_tool"), &[home.to_str().expect("a UTF-8 path")], folder.path());
    assert!(out.contains("[Ok: 3 steps were taken]") && out.contains("It was too long."), "{out}");
    let (_, stopped) = out.split_once("[Timeout: Stopped at its time limit of 2 s").expect("the second call is stopped");
    assert!(stopped.contains("step 1 of 1000\n"), "what it had put out is in the result: {out}");
    // Both processes are gone. One that was killed is a zombie until somebody has asked for it.
    for process in out.lines().filter_map(|line| line.strip_prefix("process ")) {
        let status = || std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let is_over = || status().is_empty() || status().contains(") Z ");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is_over() {
            assert!(std::time::Instant::now() < end, "{}", status());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn a_recorded_session_is_a_regression_test() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked = run(env!("CARGO_BIN_EXE_regression"), &["check", "recorded"], here);
    assert!(checked.contains(": 5 requests, all the same"), "{checked}");
    let folder = tempfile::tempdir().expect("a folder");
    run(env!("CARGO_BIN_EXE_regression"), &["record", "home"], folder.path());
    let checked = run(env!("CARGO_BIN_EXE_regression"), &["check", "home"], folder.path());
    assert!(checked.contains(": 5 requests, all the same"), "{checked}");
}

struct Gateway {
    process: Child,
    address: String,
}

impl Gateway {
    fn start(home: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .arg("127.0.0.1:0")
            .arg(home.join("home"))
            .current_dir(home)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("its address").to_owned();
        Self { process, address }
    }

    /// The whole answer to a message: it ends when the turn does.
    fn post(&self, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let length = body.len();
        write!(
            stream,
            "POST /messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers in UTF-8");
        answer
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The text of the deltas in an event stream, joined.
fn said(answer: &str) -> String {
    let data = answer.lines().filter_map(|line| line.strip_prefix("data: {\"text\":\"")?.strip_suffix("\"}"));
    data.collect()
}

#[test]
fn the_gateway_streams_a_turn_and_goes_on_with_its_session_after_kill_9() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("some-notes.txt"), "hello").expect("a file");
    let gateway = Gateway::start(folder.path());
    let first = gateway.post(r#"{"text": "What is in this folder?"}"#);
    assert!(
        first.contains("text/event-stream") && first.contains("event: delta") && first.contains(r#""reason":"done""#),
        "{first}"
    );
    let session = first.lines().skip_while(|line| !line.starts_with("event: session")).nth(1).expect("its id");
    let session = session.strip_prefix("data: ").expect("data").to_owned();
    drop(gateway);

    let gateway = Gateway::start(folder.path());
    let second = gateway.post(&format!(r#"{{"text": "what did I say first?", "session": "{session}"}}"#));
    assert!(said(&second).contains("What is in this folder?") && second.contains(&session), "{second}");
    assert!(gateway.post(r#"{"text": " "}"#).starts_with("HTTP/1.1 422"));
}
