//! Two processes and one session: one writes, any number reads, and a writer that was overtaken is fenced.

use crate::support::{HUNG, Input, Log, Machine, Running};
use fault_server::{Answer, Reply, Script, wait_until};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A machine on which a run streams for as long as a test needs, and answers everybody else at once.
fn with_a_writer() -> (Machine, Running) {
    let long = Answer::Reply(Reply::text("word ".repeat(4_000)).paced(Duration::from_millis(20)));
    let answers = std::iter::once(long).chain(std::iter::repeat_with(|| Answer::text("Short.")).take(8));
    let machine = Machine::new(Script::in_order(answers));
    let mut writer = machine.print(&["--output-format", "stream-json", "talk for long"]).start();
    writer.wait_for_output("the answer", |out| out.matches("assistant.delta").count() >= 5);
    (machine, writer)
}

#[test]
fn a_second_writer_is_6_and_is_told_who_holds_the_session() {
    let (machine, writer) = with_a_writer();
    let id = machine.session();
    let asked = machine.server.requests().len();
    for arguments in [&["-r", &id, "me too"][..], &["-c", "me too"]] {
        let run = machine.print(arguments).finish();
        run.assert_code(6);
        assert!(run.stdout.is_empty(), "{run:?}");
        assert!(run.stderr.contains(&writer.pid().to_string()), "the holder is named: {run:?}");
        assert!(run.stderr.contains("hint:") && run.stderr.contains("fork"), "and what can be done: {run:?}");
    }
    assert_eq!(machine.server.requests().len(), asked, "nothing was asked");
    drop(writer);
    machine.assert_goes_on();
}

#[test]
fn a_held_session_can_be_read_and_forked() {
    let (machine, writer) = with_a_writer();
    let id = machine.session();
    let written = wait_until(HUNG, || Log::read(&machine.session_file()).answers().contains("word"));
    assert!(written, "the answer reaches the file while it streams");
    let listed = machine.json(&["sessions", "list", "--json"]);
    assert_eq!(listed[0]["state"], "open", "{listed}");
    let shown = machine.json(&["sessions", "show", &id, "--json"]);
    assert!(shown["messages"].as_array().is_some_and(|messages| messages.len() >= 2), "{shown}");
    let verified = machine.json(&["sessions", "verify", &id, "--json"]);
    assert_eq!(verified[0]["ok"], true, "a session that is being written is sound: {verified}");
    let run = machine.print(&["-r", &id, "--fork-session", "and you?"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Short.\n"), "{run:?}");
    assert_eq!(machine.session_files().len(), 2);
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
    drop(writer);
    machine.assert_sessions_are_well();
}

#[test]
fn many_processes_start_sessions_at_once() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    let runs: Vec<Running> = (0..8).map(|n| machine.print(&[format!("hello {n}")]).start()).collect();
    for run in runs {
        run.finish().assert_code(0);
    }
    assert_eq!(machine.session_files().len(), 8);
    machine.assert_sessions_are_well();
}

#[test]
fn of_many_processes_that_resume_one_session_at_once_one_wins_at_a_time() {
    let machine = Machine::new([Answer::text("Hello.")]);
    machine.print(&["hello"]).finish().assert_code(0);
    machine.server.follow(Script::repeating(Answer::text("Again.")));
    let runs: Vec<Running> = (0..6).map(|n| machine.print(&["-c", &format!("again {n}")]).start()).collect();
    let codes: Vec<Option<i32>> = runs.into_iter().map(|run| run.finish().code).collect();
    let won = codes.iter().filter(|code| **code == Some(0)).count();
    assert!(won >= 1 && codes.iter().all(|code| matches!(code, Some(0 | 6))), "{codes:?}");
    assert_eq!(machine.log().of_type("turn.ended").count(), 1 + won, "each that won wrote its turn");
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
    machine.assert_goes_on();
}

/// The file that says that the session's writer lives.
fn owner_file(machine: &Machine) -> PathBuf {
    let log = machine.log();
    let writer = log.of_type("opened").last().and_then(|opened| opened["writer"].as_str()).expect("an owner").to_owned();
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| *name == *writer);
    let mut files = fs::read_dir(machine.home().join("owners")).expect("a folder").flatten().map(|entry| entry.path());
    files.find(named).expect("the owner's file")
}

#[test]
fn a_writer_that_was_stopped_overtaken_and_woken_is_fenced() {
    let (machine, writer) = with_a_writer();
    let id = machine.session();
    writer.signal(Signal::STOP);
    // A stopped process keeps its lock, and is rightly taken for alive.
    machine.print(&["-r", &id, "me too"]).finish().assert_code(6);
    let run = machine.longhand(&["sessions", "release", &id, "--wait", "1"]).finish();
    run.assert_code(6);
    let is_seen = cfg!(not(target_os = "linux")) || run.stderr.contains("is stopped");
    assert!(is_seen, "nobody waits for it: {run:?}");
    // Somebody who clears the folder away takes the lock with it; the next writer may take over.
    fs::remove_file(owner_file(&machine)).expect("it is there");
    let run = machine.print(&["-r", &id, "I take over"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Short.\n"), "{run:?}");
    writer.signal(Signal::CONT);
    let run = writer.finish();
    run.assert_code(5);
    assert!(run.stderr.contains("lost"), "it is told at once: {run:?}");
    assert!(run.stderr.contains("/repaired/") && run.stderr.contains("--stale"), "and where its words are: {run:?}");
    what_it_wrote_becomes_a_session_of_its_own(&machine, &id);
    // The line of the new owner stands: everything that it wrote is sound, and what the old one still wrote is set aside.
    let log = machine.log();
    assert!(log.of_type("user.message").any(|message| message["text"] == "I take over"));
    assert!(log.answers().ends_with("Short."), "{}", log.answers());
    for session in machine.json(&["sessions", "verify", "--json"]).as_array().expect("an array") {
        for problem in session["problems"].as_array().into_iter().flatten() {
            assert_eq!(problem["kind"], json!("stale_writer"), "{session}");
        }
    }
    let run = machine.print(&["-r", &id, "go on"]).finish();
    run.assert_code(0);
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
    let last = machine.server.requests().pop().expect("a request");
    assert!(last.body.to_string().contains("I take over"), "the new owner's line goes on");
}

/// What the stale writer wrote after it was overtaken is offered, whether it came to the log or is kept elsewhere.
fn what_it_wrote_becomes_a_session_of_its_own(machine: &Machine, id: &str) {
    let run = machine.longhand(&["sessions", "verify", id]).finish();
    assert!(run.code == Some(0) || run.stderr.contains("--stale"), "{run:?}");
    let run = machine.longhand(&["sessions", "fork", id, "--stale"]).finish();
    run.assert_code(0);
    let fork = run.stdout.trim().to_owned();
    let text = machine.json(&["sessions", "show", &fork, "--json"]).to_string();
    assert!(text.contains("talk for long") && !text.contains("I take over"), "{text}");
    machine.longhand(&["sessions", "rm", &fork, "--yes"]).finish().assert_code(0);
}

#[test]
fn a_chat_that_is_asked_lets_go_and_says_so_and_a_turn_goes_first() {
    let slow = Answer::Reply(Reply::text("word ".repeat(300)).paced(Duration::from_millis(10)));
    let machine = Machine::new(Script::in_order([slow, Answer::text("Mine now.")]));
    let line = format!("exec script -qfc \"$0 -m {} hello\" /dev/null", machine.model());
    let mut chat = machine.shell(&line).input(Input::OpenPipe).start();
    chat.wait_for_output("the answer", |out| out.contains("word word"));
    let id = machine.session();
    let run = machine.longhand(&["sessions", "release", &id, "--wait", "0"]).finish();
    run.assert_code(6);
    assert!(run.stderr.contains("a turn runs in it"), "{run:?}");
    let run = machine.print(&["-r", &id, "--take-over", "and now?"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Mine now.\n"), "{run:?}");
    chat.wait_for_output("the news", |out| out.contains("asked for this session"));
    let log = machine.log();
    assert!(log.answers().starts_with(&"word ".repeat(300)), "the turn came to its end");
    assert_eq!(log.of_type("closed").count(), 2);
    machine.longhand(&["sessions", "release", &id]).finish().assert_code(0);
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
}

#[test]
fn a_session_file_that_is_removed_under_its_writer_is_told_and_not_invented_anew() {
    let (machine, writer) = with_a_writer();
    fs::remove_file(machine.session_file()).expect("it is there");
    let run = writer.finish();
    run.assert_code(5);
    assert!(run.stderr.contains("lost") || run.stderr.contains("removed"), "{run:?}");
}
