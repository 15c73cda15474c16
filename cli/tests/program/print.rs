//! `-p`: the three formats, exit codes, approvals, resume.

use crate::common::{World, code, snapshot, stderr, stdout};
use serde_json::Value;
use session_store::{FileStore, FileStoreOptions, MessageQueued, SessionId, SessionStore};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

fn result(world: &World, args: &[&str]) -> (i32, Value) {
    let output = world.run(args);
    let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (code(&output), result)
}

#[test]
fn text_is_the_answer_and_one_newline() {
    snapshot("print_text", &World::new().show_run(&["-p", "-m", "offline", "offline: repeat Hello."]));
}

#[test]
fn json_is_one_object_with_all_fields() {
    snapshot("print_json", &World::new().show_run(&["-p", "--output-format", "json", "-m", "offline", "offline: repeat Hello."]));
}

#[test]
fn stream_json_is_the_log_with_deltas_and_the_result_last() {
    let output = World::new().run(&["-p", "--json", "-m", "offline", "offline: repeat Hello there."]);
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let result = lines.last().expect("lines");
    assert_eq!((result["type"].as_str(), result["result"].as_str()), (Some("result"), Some("Hello there.")));
    let seqs: Vec<u64> = lines.iter().filter_map(|line| line["seq"].as_u64()).collect();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "every event once, in order");
    let deltas: String =
        lines.iter().filter(|line| line["type"] == "assistant.delta").filter_map(|line| line["text"].as_str()).collect();
    assert_eq!(deltas, "Hello there.");
    for expected in ["opened", "session.started", "profile", "user.message", "model.request", "assistant.message", "turn.ended"] {
        assert!(lines.iter().any(|line| line["type"] == expected), "{expected}");
    }
    let started = lines.iter().find(|line| line["type"] == "session.started").expect("there");
    assert_eq!(started["session"], result["session_id"]);
}

#[test]
fn a_session_goes_on_by_directory_id_and_name_and_in_a_copy() {
    let world = World::new();
    let (_, first) = result(&world, &["-p", "--output-format", "json", "-m", "offline", "-n", "mine", "offline: repeat one"]);
    let id = first["session_id"].as_str().expect("an id");
    for args in [&["-c"][..], &["-r", id], &["-r", "mine"], &["-r", &id[..13]]] {
        let (exit, next) = result(&world, &[&["-p", "--output-format", "json", "offline: repeat two"], args].concat());
        assert_eq!((exit, next["session_id"].as_str()), (0, Some(id)), "{args:?} {next}");
        assert_eq!(next["model"], "offline", "a resumed session keeps its model, without a key");
    }
    let (exit, copy) = result(&world, &["-p", "--output-format", "json", "-r", id, "--fork-session", "offline: repeat three"]);
    assert_eq!(exit, 0);
    assert_ne!(copy["session_id"].as_str(), Some(id));
}

#[test]
fn messages_that_wait_in_the_session_are_told_and_not_sent() {
    let world = World::new();
    let (_, first) = result(&world, &["-p", "--output-format", "json", "-m", "offline", "offline: repeat one"]);
    assert_eq!(first["waiting_messages"], Value::Null, "{first}");
    let id: SessionId = first["session_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = FileStore::open(FileStoreOptions::new(world.home())).expect("the store");
        let log = store.open(id).await.expect("it opens").log;
        let waits = MessageQueued { text: "offline: repeat later".to_owned(), missed: None, images: Vec::new() };
        log.append(waits.into()).expect("it is taken");
        log.close().await.expect("it closes");
    });
    let output = world.run(&["-p", "--output-format", "json", "-c", "offline: repeat two"]);
    let next: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((code(&output), next["result"].as_str(), next["waiting_messages"].as_u64()), (0, Some("two"), Some(1)), "{next}");
    let told = format!("a message waits in this session and is not sent: `longhand -r {}`", &id.to_string()[..13]);
    assert!(stderr(&output).contains(&told), "{}", stderr(&output));
}

#[test]
fn a_tool_that_nobody_could_approve_is_told_and_is_exit_7() {
    let world = World::new();
    let prompt = "offline: shell touch made";
    let (exit, refused) = result(&world, &["-p", "--output-format", "json", "-m", "offline", prompt]);
    assert_eq!(exit, 7, "{refused}");
    assert_eq!(refused["permission_denials"][0]["tool"], "shell", "{refused}");
    assert!(!world.work().join("made").exists());

    let (exit, chosen) =
        result(&world, &["-p", "--output-format", "json", "-m", "offline", "--permission-mode", "read-only", prompt]);
    assert_eq!(exit, 0, "an explicit read-only is a choice: {chosen}");
    assert!(!world.work().join("made").exists());

    let (exit, _) = result(&world, &["-p", "--output-format", "json", "-m", "offline", "--allowed-tools", "shell", prompt]);
    assert_eq!(exit, 0);
    assert!(world.work().join("made").exists());
}

#[test]
fn a_disallowed_tool_beats_an_allowed_one() {
    let world = World::new();
    let args = ["-p", "-m", "offline", "--permission-mode", "allow", "--allowed-tools", "shell", "--disallowed-tools", "shell"];
    assert_eq!(code(&world.run(&[&args[..], &["offline: shell touch made"]].concat())), 0);
    assert!(!world.work().join("made").exists());
}

#[test]
fn a_mode_that_asks_needs_somebody_to_ask() {
    let world = World::new();
    // `setsid` takes the terminal away that the tests may run on.
    let mut command = Command::new("setsid");
    command.args(["--wait", env!("CARGO_BIN_EXE_longhand"), "-p", "-m", "offline", "--permission-mode", "ask", "hello"]);
    let output = command.env("LONGHAND_HOME", world.home()).stdin(Stdio::null()).output().expect("runs");
    assert_eq!(code(&output), 2, "{}", stderr(&output));
}

#[test]
fn the_limit_of_model_calls_is_exit_8() {
    let world = World::new();
    let (exit, limited) = result(
        &world,
        &[
            "-p",
            "--output-format",
            "json",
            "-m",
            "offline",
            "--permission-mode",
            "allow",
            "--max-turns",
            "1",
            "offline: shell true",
        ],
    );
    assert_eq!((exit, limited["stop_reason"].as_str()), (8, Some("max_turns")), "{limited}");
}

#[test]
fn a_signal_in_a_retry_pause_prints_the_result_and_kills_the_process() {
    let world = World::new();
    let args = ["-p", "--output-format", "json", "-m", "openai/x", "--base-url", "http://127.0.0.1:1/v1", "hello"];
    let mut child = world.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let told = BufReader::new(child.stderr.take().expect("a pipe"))
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("trying again"));
    assert!(told.is_some(), "a refused connection is told and tried again");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.signal(), Some(2));
    let result: Value = serde_json::from_slice(&output.stdout).expect("the result is printed");
    assert_eq!(result["stop_reason"], "interrupted");
}

#[test]
fn a_reader_that_hangs_does_not_hold_up_a_signal() {
    let world = World::new();
    let args = ["-p", "--json", "-m", "offline", "offline: slow 100000 words 0"];
    let mut child = world.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    // A little is read, so that the turn is known to run; then the pipe fills up.
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("assistant.delta") {
        line.clear();
        reader.read_line(&mut line).expect("readable");
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert_eq!(child.wait().expect("it ends").signal(), Some(15));
    let list = stdout(&world.run(&["sessions", "list", "--json"]));
    let sessions: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!((sessions[0]["state"].as_str(), sessions[0]["messages"].as_u64()), (Some("idle"), Some(2)), "{list}");
}

#[test]
fn a_refused_call_is_exit_3_and_the_session_is_kept() {
    let world = World::new();
    let (exit, failed) = result(&world, &["-p", "--output-format", "json", "-m", "offline", "offline: fail"]);
    assert_eq!((exit, &failed["is_error"], failed["stop_reason"].as_str()), (3, &Value::Bool(true), Some("error")));
    let (exit, next) = result(&world, &["-p", "--output-format", "json", "-c", "offline: repeat x"]);
    assert_eq!((exit, &next["session_id"]), (0, &failed["session_id"]));
}

#[test]
fn a_limit_of_a_model_call_is_exit_4() {
    let (exit, stuck) =
        result(&World::new(), &["-p", "--output-format", "json", "-m", "offline", "--timeout", "0.2", "offline: hang"]);
    assert_eq!((exit, stuck["stop_reason"].as_str()), (4, Some("timeout")), "{stuck}");
}

#[test]
fn nothing_is_kept_with_no_session() {
    let world = World::new();
    let (exit, result) = result(&world, &["-p", "--output-format", "json", "--no-session", "-m", "offline", "offline: repeat x"]);
    assert_eq!((exit, &result["session_id"]), (0, &Value::Null));
    assert!(!world.home().exists());
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let world = World::new();
    let mut child = world
        .command(&["-p", "--json", "-m", "offline", "offline: slow 2000 words"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}
