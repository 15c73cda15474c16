//! `--message-id`: a message that is sent twice with one key is answered once.

use crate::support::Machine;
use fault_server::{Answer, Flaw, Reply, Script, wait_until};
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;

#[test]
fn a_message_sent_twice_with_one_key_is_answered_once() {
    let machine = Machine::new([Answer::text("The answer."), Answer::text("Another answer.")]);
    let first = machine.print(&["--message-id", "a-1", "the question", "--output-format", "json"]).finish();
    let second = machine.print(&["--message-id", "a-1", "the question", "--output-format", "json"]).finish();
    first.assert_code(0);
    second.assert_code(0);
    let (mut first, mut second) = (first.result(), second.result());
    for result in [&mut first, &mut second] {
        result.as_object_mut().expect("an object").remove("duration_ms");
    }
    assert_eq!(first, second);
    assert_eq!(machine.server.requests().len(), 1, "it was asked once");
    let streamed = machine.print(&["--message-id", "a-1", "the question", "--json"]).finish();
    let types: Vec<String> = streamed.events().iter().filter_map(|event| event["type"].as_str().map(str::to_owned)).collect();
    assert_eq!(types.first().map(String::as_str), Some("user.message"));
    assert_eq!(types[types.len() - 2..], ["turn.ended", "result"], "the events of the turn that answered it, and no later ones");

    // In the same session, another key is another message.
    let id = machine.session();
    let other = machine.print(&["-r", &id, "--message-id", "a-2", "the question"]).finish();
    assert_eq!(other.stdout, "Another answer.\n");
    let again = machine.print(&["-r", &id, "--message-id", "a-1", "the question"]).finish();
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "The answer.\n"), "an older answer is found as well");
    assert_eq!(machine.server.requests().len(), 2);
    machine.assert_sessions_are_well();
}

#[test]
fn a_key_means_one_message() {
    let machine = Machine::new([Answer::text("The answer.")]);
    machine.print(&["--message-id", "k", "the question"]).finish().assert_code(0);
    let other = machine.print(&["--message-id", "k", "another question"]).finish();
    other.assert_code(2);
    assert!(other.stderr.contains("another message of this session has the key `k`"), "{other:?}");
    machine.print(&["--message-id", "", "the question"]).finish().assert_code(2);
    machine.print(&["--message-id", &"k".repeat(257), "the question"]).finish().assert_code(2);
    assert_eq!(machine.server.requests().len(), 1);
}

#[test]
fn a_turn_that_was_killed_is_done_to_its_end_and_its_tools_do_not_run_again() {
    let script = Script::by(|request| {
        let said = request.body.to_string();
        if said.contains("did not come to its end") {
            return Answer::text("The whole answer.");
        }
        if request.ends_with_tool_result() {
            return Answer::Broken { reply: Reply::text("half of an answer that stalls"), after: 3, flaw: Flaw::Stall };
        }
        Answer::Reply(Reply::tool_call("shell", json!({"command": "echo effect >> effects.txt"}).to_string()))
    });
    let machine = Machine::new(script);
    let arguments = ["--message-id", "job", "--permission-mode", "allow", "--output-format", "json", "work"];
    let running = machine.print(&arguments).start();
    assert!(wait_until(Duration::from_secs(20), || machine.server.requests().len() == 2
        && !machine.server.requests()[1].sent.is_empty()));
    running.signal(Signal::KILL);
    drop(running);
    let finished = machine.print(&arguments).finish();
    finished.assert_code(0);
    assert_eq!(finished.result()["result"], "The whole answer.");
    let third = machine.print(&arguments).finish();
    assert_eq!(third.result()["result"], "The whole answer.");
    assert_eq!(machine.server.requests().len(), 3);
    assert_eq!(std::fs::read_to_string(machine.project().join("effects.txt")).expect("it ran"), "effect\n");
    let log = machine.log();
    assert_eq!(log.of_type("user.message").count(), 1);
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
    log.assert_sound();
    machine.assert_sessions_are_well();
}

#[test]
fn a_turn_that_failed_is_tried_again_and_one_that_was_killed_before_it_asked_begins() {
    let machine = Machine::new([Answer::error(400, "no"), Answer::text("The answer.")]);
    let arguments = ["--message-id", "job", "work"];
    machine.print(&arguments).finish().assert_code(3);
    let second = machine.print(&arguments).finish();
    assert_eq!((second.code, second.stdout.as_str()), (Some(0), "The answer.\n"), "{second:?}");
    assert_eq!(machine.log().of_type("user.message").count(), 1);
    assert_eq!(machine.log().of_type("note").count(), 0, "nothing came of it before, so nothing has to be said");
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
}

#[test]
fn two_processes_that_send_the_same_message_at_once_ask_once() {
    let stalls = Answer::Broken { reply: Reply::text("half of an answer"), after: 1, flaw: Flaw::Stall };
    let machine = Machine::new([stalls, Answer::text("The answer.")]);
    let arguments = ["--message-id", "job", "work"];
    let first = machine.print(&arguments).start();
    assert!(wait_until(Duration::from_secs(20), || !machine.server.requests().is_empty()));
    let second = machine.print(&arguments).finish();
    second.assert_code(6);
    assert_eq!(machine.server.requests().len(), 1);
    first.signal(Signal::INT);
    assert_eq!(first.finish().signal, Some(2));
    let third = machine.print(&arguments).finish();
    assert_eq!(
        (third.code, third.stdout.as_str()),
        (Some(0), "The answer.\n"),
        "what was stopped is answered after all: {third:?}"
    );
    assert_eq!(machine.log().of_type("user.message").count(), 1);
}
