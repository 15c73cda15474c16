//! Signals and closed ends: what came is kept, the result is told, the process goes.

use crate::support::{Input, Log, Machine, Running};
use fault_server::{Answer, Reply, wait_until};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(25);

/// An answer that takes half a minute if nobody stops it.
fn long_answer() -> Answer {
    Answer::Reply(Reply::text("word ".repeat(600)).paced(Duration::from_millis(50)))
}

/// A run that is streaming: five words have come.
#[track_caller]
fn streaming(machine: &Machine) -> Running {
    let mut running = machine.print(&["--output-format", "stream-json", "talk"]).start();
    running.wait_for_output("the fifth word", |out| out.matches("assistant.delta").count() >= 5);
    running
}

#[test]
fn a_signal_keeps_the_partial_answer_prints_the_result_and_ends_by_the_signal() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let machine = Machine::new([long_answer()]);
        let running = streaming(&machine);
        let at = Instant::now();
        running.signal(signal);
        let run = running.finish();
        assert!(at.elapsed() < SOON, "{run:?}");
        assert_eq!(run.signal, Some(signal.as_raw()), "a shell's loop has to end too: {run:?}");
        let result = run.result();
        assert_eq!((&result["type"], &result["stop_reason"]), (&json!("result"), &json!("interrupted")));
        let printed: String =
            run.events().iter().filter(|e| e["type"] == "assistant.delta").filter_map(|e| e["text"].as_str()).collect();
        let log = machine.log();
        log.assert_sound();
        assert!(log.answers().starts_with(printed.trim_end()), "what was shown is kept");
        assert_eq!(log.of_type("turn.ended").map(|event| &event["reason"]).collect::<Vec<_>>(), ["interrupted"]);
        assert_eq!(log.events().last().map(|event| &event["type"]), Some(&json!("closed")));
        assert!(wait_until(SOON, || machine.server.requests()[0].hung_up), "the provider is told by a closed connection");
        machine.assert_goes_on();
    }
}

#[test]
fn a_signal_before_the_first_word_ends_at_once() {
    let machine = Machine::new([Answer::NeverAnswer]);
    let running = machine.print(&["--output-format", "json", "talk"]).start();
    assert!(wait_until(SOON, || !machine.server.requests().is_empty()), "the request comes");
    running.signal(Signal::INT);
    let run = running.finish();
    assert_eq!((run.signal, &run.result()["stop_reason"]), (Some(Signal::INT.as_raw()), &json!("interrupted")));
    machine.assert_goes_on();
}

#[test]
fn a_signal_during_the_pause_before_a_retry_ends_at_once() {
    let machine = Machine::new([Answer::rate_limited(Duration::from_secs(50))]);
    let running = machine.print(&["talk"]).start();
    assert!(wait_until(SOON, || machine.server.requests().first().is_some_and(|request| request.ended.is_some())));
    running.signal(Signal::TERM);
    let run = running.finish();
    assert!(run.took < Duration::from_secs(40), "{run:?}");
    assert_eq!(run.signal, Some(Signal::TERM.as_raw()), "{run:?}");
    machine.assert_goes_on();
}

#[test]
fn a_signal_stops_a_running_tool_and_leaves_none_behind() {
    let command = json!({"command": "echo $$ > pid.txt; sleep 300"}).to_string();
    let machine = Machine::new([Answer::tool_call("shell", command)]);
    let running = machine.print(&["--permission-mode", "allow", "work"]).start();
    let pid_file = machine.project().join("pid.txt");
    let pid = || fs::read_to_string(&pid_file).unwrap_or_default().trim().to_owned();
    assert!(wait_until(SOON, || !pid().is_empty()), "the tool starts");
    running.signal(Signal::INT);
    let run = running.finish();
    assert_eq!(run.signal, Some(Signal::INT.as_raw()), "{run:?}");
    assert!(wait_until(SOON, || !std::path::Path::new("/proc").join(pid()).exists()), "the tool's process still runs");
    let log = machine.log();
    assert_eq!(log.of_type("tool.finished").map(|event| &event["outcome"]).collect::<Vec<_>>(), ["interrupted"]);
    machine.assert_goes_on();
}

#[test]
fn a_closed_standard_output_keeps_the_session_and_is_no_failure() {
    let machine = Machine::new([long_answer()]);
    let mut running = machine.print(&["--output-format", "stream-json", "talk"]).start();
    running.wait_for_output("the first word", |out| out.contains("assistant.delta"));
    running.close_stdout();
    let run = running.finish();
    assert_eq!((run.code, run.signal), (Some(0), None), "{run:?}");
    assert!(run.took < Duration::from_secs(25), "it did not stop: {run:?}");
    let log = machine.log();
    log.assert_sound();
    assert_eq!(log.of_type("turn.ended").count(), 1);
    assert!(log.answers().starts_with("word"));
    machine.assert_goes_on();
}

#[test]
fn an_open_pipe_on_standard_input_does_not_hold_up_a_signal() {
    let machine = Machine::new([long_answer()]);
    let running = machine.print(&["talk"]).input(Input::OpenPipe).start();
    running.signal(Signal::INT);
    let run = running.finish();
    assert!(run.signal == Some(Signal::INT.as_raw()) && run.took < SOON, "{run:?}");
}

#[test]
fn two_signals_in_a_row_do_no_harm() {
    let machine = Machine::new([long_answer()]);
    let running = streaming(&machine);
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    running.signal(Signal::INT);
    let run = running.finish();
    assert!(run.signal.is_some(), "{run:?}");
    machine.log().assert_sound();
    machine.assert_goes_on();
}

#[test]
fn a_session_is_written_while_it_streams() {
    let machine = Machine::new([long_answer()]);
    let running = streaming(&machine);
    let written = wait_until(SOON, || {
        machine.session_files().first().is_some_and(|file| Log::read(file).answers().starts_with("word word"))
    });
    assert!(written, "the answer is not in the file while it streams");
    let listed = machine.json(&["sessions", "list", "--json"]);
    assert_eq!(listed[0]["state"], "open", "{listed}");
    drop(running);
    machine.assert_goes_on();
}
