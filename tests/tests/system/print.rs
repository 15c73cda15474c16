//! `-p`: one turn in the three output formats, with both providers, with tools.

use crate::support::{HUNG, Machine, Protocol};
use fault_server::{Answer, Reply, Script, strict, wait_until};
use serde_json::{Value, json};
use std::fs;

#[test]
fn text_mode_prints_the_answer_with_one_newline_and_keeps_the_session() {
    for protocol in Protocol::ALL {
        let machine = Machine::speaking(protocol, [Answer::text("Hello there, how are you?")]);
        let run = machine.print(&["hello"]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Hello there, how are you?\n"), "{protocol:?} {run:?}");
        let log = machine.log();
        log.assert_sound();
        assert_eq!(log.answers(), "Hello there, how are you?");
        assert_eq!(log.of_type("user.message").next().map(|event| &event["text"]), Some(&json!("hello")));
        assert_eq!(log.events().last().map(|event| &event["type"]), Some(&json!("closed")));
        machine.assert_goes_on();
    }
}

#[test]
fn json_mode_prints_one_object_with_all_its_fields() {
    let machine = Machine::new([Answer::text("Hello there.")]);
    let run = machine.print(&["--output-format", "json", "hello"]).finish();
    run.assert_code(0);
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
    let result = run.result();
    assert_eq!(result["session_id"], machine.session());
    assert_eq!(result["result"], "Hello there.");
    assert_eq!(result["stop_reason"], "done");
    assert_eq!(result["is_error"], false);
    assert_eq!(result["error"], Value::Null);
    assert_eq!((&result["num_turns"], &result["model_calls"]), (&json!(1), &json!(1)));
    assert!(result["usage"]["input_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{result}");
    assert!(result["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{result}");
    assert_eq!(result["permission_denials"], json!([]));
    assert!(result["duration_ms"].is_u64(), "{result}");
    assert_eq!(result["model"], machine.model());
}

#[test]
fn usage_that_nobody_told_is_null_and_not_zero() {
    for protocol in Protocol::ALL {
        let reply = Reply { without_usage: true, ..Reply::text("Hello.") };
        let machine = Machine::speaking(protocol, [Answer::Reply(reply)]);
        let result = machine.print(&["--output-format", "json", "hello"]).finish().result();
        assert_eq!(result["usage"]["output_tokens"], Value::Null, "{protocol:?} {result}");
    }
}

#[test]
fn the_output_of_a_running_tool_is_on_standard_error_where_more_is_asked_for() {
    let command = r"printf 'half \033[2Jway\n'; while [ ! -e go ]; do sleep 0.05; done";
    let call = Answer::tool_call("shell", json!({"command": command}).to_string());
    let machine = Machine::new([call, Answer::text("Done.")]);
    let running = machine.print(&["-v", "--permission-mode", "allow", "work"]).start();
    assert!(wait_until(HUNG, || running.stderr().contains(r"half \x1b[2Jway")), "{}", running.stderr());
    fs::write(machine.project().join("go"), "").expect("a file");
    let run = running.finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Done.\n"), "{run:?}");
}

#[test]
fn stream_json_prints_the_log_as_it_happens_and_the_result_last() {
    let machine = Machine::new([Answer::text("one two three four")]);
    let run = machine.print(&["--output-format", "stream-json", "count"]).finish();
    run.assert_code(0);
    let printed = run.events();
    let (result, events) = printed.split_last().expect("something is printed");
    assert_eq!((&result["type"], &result["result"]), (&json!("result"), &json!("one two three four")));
    // What is printed with a `seq` is in the log with that `seq`, and no event is left out between the first and the last.
    let log = machine.log();
    let logged: Vec<&Value> = log.events().collect();
    let mut last = None;
    for event in events.iter().filter(|event| event["type"] != "assistant.delta") {
        let seq = event["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {event}"));
        let in_log = logged[usize::try_from(seq).expect("small")];
        assert_eq!((&event["type"], &event["at"]), (&in_log["type"], &in_log["at"]));
        assert!(last.is_none_or(|last| seq == last + 1), "{seq} after {last:?}");
        last = Some(seq);
    }
    // The deltas add up to the text, each at its offset.
    let mut text = String::new();
    for delta in events.iter().filter(|event| event["type"] == "assistant.delta") {
        assert_eq!(delta["offset"], json!(text.len()), "{delta}");
        assert!(delta.get("seq").is_none() && delta["message"].is_u64(), "{delta}");
        text.push_str(delta["text"].as_str().expect("text"));
    }
    assert_eq!(text, "one two three four");
    let json = machine.print(&["--json", "-c", "again"]);
    machine.server.then([Answer::text("Again.")]);
    assert_eq!(json.finish().result()["type"], "result");
}

#[test]
fn a_tool_runs_and_its_result_goes_back() {
    for protocol in Protocol::ALL {
        let machine = Machine::speaking(
            protocol,
            [
                Answer::Reply(Reply::text("I look.").then_tool_call("read", r#"{"path": "notes.txt"}"#)),
                Answer::text("It says: remember the milk."),
            ],
        );
        fs::write(machine.project().join("notes.txt"), "remember the milk\n").expect("a file");
        let run = machine.print(&["what do my notes say?"]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "It says: remember the milk.\n"), "{protocol:?} {run:?}");
        assert!(run.stderr.contains("I look."), "the text of earlier steps goes to stderr: {run:?}");
        let requests = machine.server.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests[1].ends_with_tool_result());
        assert!(String::from_utf8_lossy(&requests[1].raw).contains("remember the milk"));
        assert_eq!(strict::check_append_only(&requests[0].body, &requests[1].body), Ok(()));
        let log = machine.log();
        assert_eq!(log.of_type("tool.finished").map(|event| &event["outcome"]).collect::<Vec<_>>(), ["ok"]);
        machine.assert_goes_on();
    }
}

#[test]
fn parallel_calls_get_one_result_each_in_order() {
    for protocol in Protocol::ALL {
        let calls = Reply::tool_call("read", r#"{"path": "a.txt"}"#)
            .then_tool_call("read", r#"{"path": "missing.txt"}"#)
            .then_tool_call("no_such_tool", "{}")
            .then_tool_call("read", r#"{"path": 7}"#)
            .then_tool_call("read", r#"{"path": "b"#)
            .then_tool_call("read", r#"{"path": "b.txt"}"#);
        let machine = Machine::speaking(protocol, [Answer::Reply(calls), Answer::text("Done.")]);
        fs::write(machine.project().join("a.txt"), "alpha").expect("a file");
        fs::write(machine.project().join("b.txt"), "beta").expect("a file");
        let run = machine.print(&["read them"]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Done.\n"), "{protocol:?} {run:?}");
        let log = machine.log();
        let called: Vec<&Value> = log
            .of_type("assistant.message")
            .flat_map(|message| message["blocks"].as_array().into_iter().flatten())
            .filter(|block| block["type"] == "tool_call")
            .map(|block| &block["id"])
            .collect();
        let mut finished: Vec<&Value> = log.of_type("tool.finished").map(|event| &event["call"]).collect();
        finished.sort_by_key(|call| called.iter().position(|id| id == call));
        assert_eq!(finished, called, "one result for each call");
        let body = String::from_utf8_lossy(&machine.server.requests()[1].raw).into_owned();
        let (alpha, beta) = (body.find("alpha"), body.find("beta"));
        assert!(alpha.is_some() && alpha < beta, "in call order: {body}");
        machine.assert_goes_on();
    }
}

#[test]
fn a_session_that_reasons_goes_on_with_its_reasoning_unchanged() {
    // The server refuses a block that comes back changed, moved, or not at all.
    let think = |text: &str| Reply::reasoning(text);
    let machine = Machine::new([
        Answer::Reply(think("I should look.").then_text("I look.").then_tool_call("read", r#"{"path": "a.txt"}"#)),
        Answer::Reply(Reply { parts: vec![fault_server::Part::RedactedReasoning], ..Reply::default() }.then_text("It is short.")),
        Answer::Reply(think("Another question.").then_tool_call("list", "{}")),
        Answer::Reply(think("Now I know.").then_text("One file.")),
    ]);
    fs::write(machine.project().join("a.txt"), "alpha").expect("a file");
    machine.print(&["read"]).finish().assert_code(0);
    machine.print(&["-c", "list"]).finish().assert_code(0);
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
    let requests = machine.server.requests();
    assert_eq!(requests.len(), 4);
    for pair in requests.windows(2) {
        assert_eq!(strict::check_append_only(&pair[0].body, &pair[1].body), Ok(()));
    }
    let sent = String::from_utf8_lossy(&requests[3].raw).into_owned();
    assert!(sent.contains("I should look.") && sent.contains("redacted_thinking"), "the reasoning goes back: {sent}");
    machine.assert_goes_on();
}

#[test]
fn a_prompt_goes_out_as_it_was_typed() {
    let prompt = "  naïve \"quotes\" \\ tabs\tand 日本語 \u{1f600}\nsecond line";
    let machine = Machine::new([Answer::text("Understood.")]);
    machine.print(&[prompt]).finish().assert_code(0);
    let body = &machine.server.requests()[0].body;
    let content = &body["messages"][0]["content"];
    let sent = content.as_str().or_else(|| content[0]["text"].as_str()).expect("a text");
    assert_eq!(sent.trim(), prompt.trim());
    let raw = fs::read_to_string(machine.session_file()).expect("UTF-8");
    assert!(raw.contains("naïve") && raw.contains("日本語"), "text stays readable in the log");
}

#[test]
fn the_key_is_neither_in_the_log_nor_in_what_is_printed() {
    let machine = Machine::new([Answer::tool_call("shell", r#"{"command": "env"}"#), Answer::text("Done.")]);
    let run = machine.print(&["--permission-mode", "allow", "--json", "run env"]).finish();
    run.assert_code(0);
    let key = crate::support::KEY;
    assert!(!run.stdout.contains(key) && !run.stderr.contains(key), "{run:?}");
    let log = fs::read_to_string(machine.session_file()).expect("UTF-8");
    assert!(log.contains("PATH="), "the command ran: {log}");
    assert!(!log.contains(key), "{log}");
    let requests = machine.server.requests();
    assert_eq!(requests[0].header("x-api-key"), Some(key));
    assert!(!String::from_utf8_lossy(&requests[1].raw).contains(key));
}

#[test]
fn a_todo_list_outlives_the_process() {
    let todos = r#"{"todos": [{"content": "buy milk", "status": "in_progress"}, {"content": "drink it", "status": "pending"}]}"#;
    let machine = Machine::new([Answer::tool_call("todo", todos), Answer::text("Noted.")]);
    machine.print(&["plan"]).finish().assert_code(0);
    let log = machine.log();
    let changed = log.of_type("todos.changed").last().expect("the list changed");
    assert_eq!(changed["todos"][0], json!({"content": "buy milk", "status": "in_progress"}));
    machine.assert_goes_on();
}

#[test]
fn sessions_of_another_directory_are_not_continued() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    machine.print(&["hello"]).finish().assert_code(0);
    let other = machine.project().join("other");
    fs::create_dir(&other).expect("a folder");
    let run = machine.print(&["-c", "-C", other.to_str().expect("UTF-8"), "hello again"]).finish();
    run.assert_code(1);
    assert_eq!(machine.server.requests().len(), 1, "nothing was asked");
}

#[test]
fn a_session_is_found_by_id_prefix_and_name() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    machine.print(&["-n", "shopping", "hello"]).finish().assert_code(0);
    let id = machine.session();
    for name in [id.as_str(), &id[..13], "shopping"] {
        machine.print(&["-r", name, "again"]).finish().assert_code(0);
    }
    let asked = machine.server.requests().last().expect("requests").messages().len();
    assert_eq!(asked, 7, "four questions and three answers");
}

#[test]
fn no_session_keeps_nothing() {
    let machine = Machine::new([Answer::text("Hello.")]);
    let run = machine.print(&["--no-session", "hello"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Hello.\n"), "{run:?}");
    assert_eq!(machine.session_files().len(), 0);
}

#[test]
fn the_offline_model_answers_only_when_it_is_asked_for() {
    let machine = Machine::new([]);
    let run = machine.longhand_without_key(&["-p", "-m", "offline", "hello"]).finish();
    run.assert_code(0);
    assert!(!run.stdout.trim().is_empty(), "{run:?}");
    // A session's own model counts as given.
    machine.longhand_without_key(&["-p", "-c", "and now?"]).finish().assert_code(0);
    machine.assert_sessions_are_well();
}
