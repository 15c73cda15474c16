//! Exit codes and what is said with them.

use crate::support::Machine;
use fault_server::{Answer, Script};
use serde_json::json;
use std::fs;

#[test]
fn nothing_to_continue_is_1_and_says_so() {
    let machine = Machine::new([]);
    let run = machine.print(&["-c", "hello"]).finish();
    run.assert_code(1);
    assert!(run.stdout.is_empty() && run.stderr.contains("hint:"), "{run:?}");
}

#[test]
fn wrong_usage_is_2_and_asks_nobody() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    let wrong: &[&[&str]] = &[
        &["--no-such-option"],
        &["--output-format", "yaml", "hello"],
        &["--tools", "no_such_tool", "hello"],
        &["--tools", "read", "--no-tools", "hello"],
        &["-c", "-r", "x", "hello"],
        &["--timeout", "soon", "hello"],
        &["--fork-session", "hello"],
        &["-r", "no-such-session", "hello"],
        &[],
    ];
    for arguments in wrong {
        let run = machine.print(arguments).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{arguments:?} {run:?}");
        assert!(!run.stderr.is_empty() && !run.stderr.contains("panicked"), "{run:?}");
    }
    assert!(machine.server.requests().is_empty());
}

#[test]
fn to_ask_with_nobody_there_is_2() {
    if fs::File::open("/dev/tty").is_ok() {
        // Run by a person at a terminal, who would be asked.
        return;
    }
    let machine = Machine::new([]);
    let run = machine.print(&["--permission-mode", "ask", "hello"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
}

#[test]
fn no_key_and_no_model_is_2_with_a_hint() {
    let machine = Machine::new([]);
    for arguments in [&["-p", "hello"][..], &["-p", "-m", "anthropic/test-model", "hello"]] {
        let run = machine.longhand_without_key(arguments).finish();
        run.assert_code(2);
        assert!(run.stdout.is_empty() && run.stderr.contains("hint:"), "{run:?}");
    }
    assert!(machine.session_files().is_empty(), "nobody's job gets an invented answer, nor a session");
}

#[test]
fn a_call_that_fails_for_good_is_3_and_is_not_tried_again() {
    for status in [400, 401, 403, 404] {
        let machine = Machine::new([Answer::error(status, "this will never do")]);
        let run = machine.print(&["--output-format", "json", "hello"]).finish();
        run.assert_code(3);
        let result = run.result();
        assert_eq!((&result["stop_reason"], &result["is_error"]), (&json!("error"), &json!(true)));
        assert!(result["error"].as_str().is_some_and(|error| error.contains("this will never do")), "{result}");
        assert_eq!(machine.server.requests().len(), 1, "{status} is not tried again");
        machine.assert_goes_on();
    }
}

#[test]
fn an_unknown_session_names_the_candidates() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    machine.print(&["hello"]).finish().assert_code(0);
    machine.print(&["hello again"]).finish().assert_code(0);
    // All ids of one day begin alike.
    let files = machine.session_files();
    let ids: Vec<String> = files.iter().map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    let run = machine.print(&["-r", &ids[0][..4], "hello"]).finish();
    run.assert_code(2);
    assert!(ids.iter().all(|id| run.stderr.contains(&id[..8])), "{run:?}");
}

#[test]
fn a_tool_that_nobody_could_allow_is_7_and_in_the_result() {
    let write = Answer::tool_call("write", r#"{"path": "new.txt", "content": "x"}"#);
    let machine = Machine::new([write.clone(), Answer::text("I may not.")]);
    let run = machine.print(&["--output-format", "json", "write"]).finish();
    run.assert_code(7);
    let result = run.result();
    assert_eq!(result["result"], "I may not.");
    assert_eq!(result["permission_denials"][0]["tool"], "write", "{result}");
    assert!(!machine.project().join("new.txt").exists());
    machine.assert_goes_on();
    // A choice is no accident.
    for choice in [&["--permission-mode", "read-only"][..], &["--disallowed-tools", "write"]] {
        let machine = Machine::new([write.clone(), Answer::text("I may not.")]);
        machine.print(&[choice, &["write"]].concat()).finish().assert_code(0);
        assert!(!machine.project().join("new.txt").exists());
    }
}

#[test]
fn the_same_call_refused_three_times_ends_the_turn() {
    let machine = Machine::new(Script::repeating(Answer::tool_call("write", r#"{"path": "new.txt", "content": "x"}"#)));
    let run = machine.print(&["--output-format", "json", "write"]).finish();
    run.assert_code(7);
    assert_eq!(run.result()["stop_reason"], "denied");
    assert_eq!(machine.server.requests().len(), 3);
    machine.assert_goes_on();
}

#[test]
fn allowed_tools_run_and_modes_decide_for_the_rest() {
    let calls = || {
        [
            Answer::tool_call("write", r#"{"path": "new.txt", "content": "written"}"#),
            Answer::tool_call("shell", r#"{"command": "echo ran > ran.txt"}"#),
            Answer::text("Done."),
        ]
    };
    let machine = Machine::new(calls());
    machine.print(&["--allowed-tools", "write", "do it"]).finish().assert_code(7);
    assert_eq!(fs::read_to_string(machine.project().join("new.txt")).expect("it was written").trim(), "written");
    assert!(!machine.project().join("ran.txt").exists());
    let machine = Machine::new(calls());
    machine.print(&["--permission-mode", "allow", "--disallowed-tools", "write", "do it"]).finish().assert_code(0);
    assert!(!machine.project().join("new.txt").exists() && machine.project().join("ran.txt").exists());
}

#[test]
fn a_limit_is_8_and_names_itself() {
    let machine = Machine::new(Script::repeating(Answer::tool_call("list", "{}")));
    let run = machine.print(&["--max-turns", "2", "--output-format", "json", "look around"]).finish();
    run.assert_code(8);
    assert_eq!((&run.result()["stop_reason"], &run.result()["num_turns"]), (&json!("max_turns"), &json!(2)));
    assert_eq!(machine.server.requests().len(), 2);
    machine.assert_goes_on();
    let cut = fault_server::Reply::text("This goes on and").stopping(fault_server::Stop::MaxTokens);
    let machine = Machine::new([Answer::Reply(cut)]);
    let run = machine.print(&["--output-format", "json", "tell me all"]).finish();
    run.assert_code(8);
    assert_eq!((&run.result()["stop_reason"], &run.result()["result"]), (&json!("max_tokens"), &json!("This goes on and")));
    machine.assert_goes_on();
}

#[test]
fn a_refusal_of_the_model_is_0_and_named() {
    let refusal = fault_server::Reply::text("I will not.").stopping(fault_server::Stop::Refusal);
    let machine = Machine::new([Answer::Reply(refusal)]);
    let run = machine.print(&["--output-format", "json", "do something bad"]).finish();
    run.assert_code(0);
    assert_eq!(run.result()["stop_reason"], "refusal");
    machine.assert_goes_on();
}

#[test]
fn a_message_that_cannot_fit_is_refused_with_both_sizes() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    let long = "many different words that fill the window ".repeat(2_000);
    let run = machine.print(&["--context-window", "4000", "--max-output-tokens", "500", &long]).finish();
    run.assert_code(1);
    assert!(run.stderr.contains("4000") || run.stderr.contains("4,000"), "{}", run.stderr);
    assert!(machine.server.requests().is_empty());
}

#[test]
fn help_and_version_are_0_and_need_nothing() {
    let machine = Machine::new([]);
    for arguments in [&["--help"][..], &["--version"], &["sessions", "--help"], &["completions", "bash"]] {
        let run = machine.longhand_without_key(arguments).finish();
        run.assert_code(0);
        assert!(!run.stdout.is_empty(), "{run:?}");
    }
    assert!(!machine.home().exists(), "a question about the program leaves nothing behind");
}
