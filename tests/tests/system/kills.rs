//! `kill -9` at random instants of streaming turns and running tools; 210 times in all.
//!
//! After each kill the session lists, shows and verifies, goes on with `-r`, and the strict server accepts what it is sent. Nothing is lost
//! that was older than the window when the process died, nor anything that was reported as kept, and no side effect runs twice.
//! The seed is printed; `LONGHAND_KILL_SEED` sets it.

use crate::support::{HUNG, Log, Machine, Protocol, Running};
use fault_server::{Answer, Part, Reply, Request, Script, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

/// What a kill may cost.
const WINDOW: Duration = Duration::from_millis(500);

/// How much later than it happened this test may see a line on standard output, and how much later than due the writer may be run, on a
/// machine whose few cores run several of these tests: a line counts as older than the window only beyond both.
const MARGIN: Duration = Duration::from_millis(700);

/// How many kills a session lives through before a new one is begun.
const KILLS_PER_SESSION: usize = 10;

/// A streaming answer takes longer than any run is let live.
const WORDS: usize = 500;
const WORD_PAUSE: Duration = Duration::from_millis(4);

#[expect(clippy::print_stdout, reason = "a failure has to tell how to get it again")]
fn seed() -> u64 {
    let seed = std::env::var("LONGHAND_KILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("LONGHAND_KILL_SEED={seed}");
    seed
}

/// Every how many kills one comes late enough for the window to matter.
const LATE_EVERY: usize = 5;

/// Lets the run go on until its instant of death: mostly early, where most happens.
fn let_live(running: &mut Running, is_late: bool, random: &mut fastrand::Rng) {
    if is_late {
        running.wait_for_output("a first line", |out| !out.is_empty());
        let longer = Duration::from_millis(random.u64(50..600));
        let _ = wait_until(WINDOW + MARGIN + longer, || running.has_ended());
    } else {
        let _ = wait_until(Duration::from_millis(random.u64(0..450)), || running.has_ended());
    }
}

/// Whether the person's last words are `words`.
fn asks(request: &Request, words: &str) -> bool {
    request.messages().last().is_some_and(|message| message.to_string().contains(words))
}

#[test]
fn streaming_turns_of_anthropic_are_killed() {
    storm(60, Protocol::Anthropic, |_| {
        Answer::Reply(Reply::reasoning("let me think about this").then_text("word ".repeat(WORDS)).paced(WORD_PAUSE))
    });
}

#[test]
fn streaming_turns_of_openai_are_killed() {
    storm(40, Protocol::OpenAi, |_| Answer::Reply(Reply::text("word ".repeat(WORDS)).paced(WORD_PAUSE)));
}

#[test]
fn running_tools_are_killed() {
    storm(60, Protocol::Anthropic, |step| Answer::Reply(Reply { parts: vec![side_effect(step)], ..Reply::default() }));
}

#[test]
fn steps_that_reason_speak_read_and_write_in_parallel_are_killed() {
    storm(50, Protocol::Anthropic, |step| {
        let reply = Reply::reasoning("what next").then_text("I work on it. ").then_tool_call("list", "{}");
        let mut parts = reply.parts;
        parts.extend([side_effect(2 * step), side_effect(2 * step + 1)]);
        Answer::Reply(Reply { parts, ..Reply::default() }.paced(WORD_PAUSE))
    });
}

#[test]
fn what_a_tool_had_put_out_when_it_died_with_the_process_reaches_the_model() {
    let script = Script::by(|request| {
        if asks(request, "go on") {
            return Answer::text("Going on.");
        }
        Answer::tool_call("shell", r#"{"command": "echo step $((6 * 7)) of 90; sleep 30"}"#)
    });
    let machine = Machine::speaking(Protocol::Anthropic, script);
    let mut running = machine.print(&["--output-format", "stream-json", "--permission-mode", "allow", "work"]).start();
    running.wait_for_output("the output", |out| out.contains(r#""type":"tool.delta""#) && out.contains("step 42 of 90"));
    assert!(wait_until(HUNG, || machine.log().of_type("tool.output").next().is_some()), "it is never written down");
    running.signal(Signal::KILL);
    running.finish_lines();
    let run = machine.print(&["-r", &machine.session(), "go on"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Going on.\n"), "{run:?}");
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
    let sent = machine.server.requests().pop().expect("it was asked").body.to_string();
    assert!(sent.contains("It may have run") && sent.contains(r"until then:\nstep 42 of 90\n"), "{sent}");
    machine.log().assert_sound();
}

/// A tool call that leaves a line of its own behind.
fn side_effect(number: u64) -> Part {
    let command = format!("echo effect-{number} >> effects.txt; sleep 0.05");
    Part::ToolCall { name: "shell".into(), arguments: json!({"command": command}).to_string() }
}

/// Kills turns whose steps `step` answers, by the number of the step.
fn storm(kills: usize, protocol: Protocol, step: fn(u64) -> Answer) {
    let mut random = fastrand::Rng::with_seed(seed());
    let (mut done, mut old) = (0, 0);
    while done < kills {
        let mut steps = 0;
        let script = Script::by(move |request| {
            if asks(request, "go on") {
                return Answer::text("Going on.");
            }
            steps += 1;
            step(steps)
        });
        let machine = Machine::speaking(protocol, script);
        for _ in 0..KILLS_PER_SESSION.min(kills - done) {
            done += 1;
            old += kill_and_check(&machine, done % LATE_EVERY == 0, &mut random);
        }
        each_effect_ran_once(&machine);
    }
    assert!(old > 0, "nothing was ever older than the window, so that nothing was shown");
}

/// Kills one turn; says how many lines had come before the window.
fn kill_and_check(machine: &Machine, is_late: bool, random: &mut fastrand::Rng) -> usize {
    let session = machine.session_files().first().map(|_| machine.session());
    let mut arguments = vec!["--output-format", "stream-json", "--permission-mode", "allow", "work"];
    if let Some(id) = &session {
        arguments.extend(["-r", id]);
    }
    let asked = machine.server.requests().len();
    let started = Instant::now();
    let mut running = machine.print(&arguments).start();
    let_live(&mut running, is_late, random);
    let killed = Instant::now();
    running.signal(Signal::KILL);
    let lines = running.finish_lines();
    let context = format!("killed {:?} after its start", killed - started);
    if machine.session_files().is_empty() {
        assert_eq!(machine.server.requests().len(), asked, "{context}: asked before the question was written down");
        return 0;
    }
    let log = machine.log();
    let old = nothing_old_is_lost(&log, &lines, killed, &context);
    what_was_reported_is_kept(machine, &log, asked, &lines, &context);
    it_goes_on(machine, &log, &context);
    old
}

/// Every event, and every word, that was on standard output longer ago than the window is in the log; says how many lines these were.
fn nothing_old_is_lost(log: &Log, lines: &[(Instant, Value)], killed: Instant, context: &str) -> usize {
    let old = || lines.iter().filter(|(at, _)| *at + WINDOW + MARGIN < killed);
    for (at, line) in old() {
        let age = killed - *at;
        if let Some(seq) = line["seq"].as_u64() {
            let kept = log.events().any(|event| event["seq"] == seq && event["type"] == line["type"]);
            assert!(kept, "{context}: an event of {age:?} before is lost: {line}");
        }
        if line["type"] == "assistant.delta" {
            let end = line["offset"].as_u64().unwrap_or(0) + line["text"].as_str().map_or(0, |text| text.len() as u64);
            let kept = log.text_of(line["message"].as_u64().unwrap_or(u64::MAX)).len() as u64;
            assert!(kept >= end, "{context}: of an answer that had come to byte {end} {age:?} before, {kept} bytes are left");
        }
    }
    old().count()
}

/// What somebody outside has seen happen, and that the log promises to have before it happens.
fn what_was_reported_is_kept(machine: &Machine, log: &Log, asked: usize, lines: &[(Instant, Value)], context: &str) {
    let requests = machine.server.requests();
    let questions = log.of_type("user.message").filter(|message| message["text"] == "work").count();
    if requests.len() > asked {
        assert!(questions > 0, "{context}: a model was asked before the question was kept");
    }
    if lines.iter().any(|(_, line)| line["type"] == "result") {
        let last = log.of_type("turn.ended").last().map(|event| &event["reason"]);
        assert!(last.is_some(), "{context}: a result was printed before the turn's end was kept");
    }
    let started = log.of_type("tool.started").filter(|event| event["name"] == "shell").count();
    assert!(effects(machine).len() <= started, "{context}: a side effect happened before its start was kept");
}

/// The session lists, shows, verifies and goes on; a tool whose outcome nobody knows is said to be one.
fn it_goes_on(machine: &Machine, log: &Log, context: &str) {
    let id = machine.session();
    let has_question = log.of_type("user.message").next().is_some();
    let listed = machine.json(&["sessions", "list", "--json"]);
    assert_eq!(listed[0]["id"], json!(id), "{context}: {listed}");
    if has_question {
        assert_eq!(listed[0]["state"], "idle", "{context}: {listed}");
        let shown = machine.json(&["sessions", "show", &id, "--json"]);
        assert!(shown["messages"].as_array().is_some_and(|messages| !messages.is_empty()), "{context}: {shown}");
        let verified = machine.json(&["sessions", "verify", &id, "--json"]);
        assert_eq!(verified[0]["ok"], true, "{context}: {verified}");
    }
    let unknown = unknown_outcomes(log);
    let run = machine.print(&["-r", &id, "go on"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Going on.\n"), "{context}: {run:?}");
    assert_eq!(machine.server.refusals(), Vec::<String>::new(), "{context}");
    let sent = machine.server.requests().pop().expect("it was asked").body.to_string();
    for call in unknown {
        assert!(sent.contains("may have run"), "{context}: nobody knows how {call} ended, and nobody says so: {sent}");
    }
    machine.log().assert_sound();
}

/// The calls that started, may have had their effect, and have no result.
fn unknown_outcomes(log: &Log) -> Vec<String> {
    let finished: BTreeSet<&str> = log.of_type("tool.finished").filter_map(|event| event["call"].as_str()).collect();
    let started = log.of_type("tool.started").filter(|event| event["side_effects"] == true);
    started.filter_map(|event| event["call"].as_str()).filter(|call| !finished.contains(call)).map(str::to_owned).collect()
}

fn effects(machine: &Machine) -> Vec<String> {
    let text = fs::read_to_string(machine.project().join("effects.txt")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn each_effect_ran_once(machine: &Machine) {
    let all = effects(machine);
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "a side effect ran twice: {all:?}");
}

/// Sessions of one process.
const MANY: usize = 1_000;

#[test]
fn a_process_with_a_thousand_busy_sessions_is_killed() {
    let machine = Machine::new(Script::repeating(Answer::text("Hello.")));
    let program = env!("CARGO_BIN_EXE_many-sessions");
    let home = machine.home().display().to_string();
    let mut running = machine.shell_without_key(&format!("exec {program} '{home}' {MANY}")).start();
    // All are created, and the last of them has been at work for a while.
    assert!(wait_until(HUNG, || running.stderr().contains("all are at work")), "{}", running.stderr());
    let _ = wait_until(2 * (WINDOW + MARGIN), || running.has_ended());
    let killed = Instant::now();
    running.signal(Signal::KILL);
    let lines = running.finish_lines();

    // What each session has to have: the last event that was reported durable, or accepted before the window.
    let mut needed: BTreeMap<String, u64> = BTreeMap::new();
    let mut old = 0;
    for (at, line) in &lines {
        let is_old = *at + WINDOW + MARGIN < killed;
        if line[0] == "durable" || is_old {
            old += usize::from(line[0] == "accepted");
            let (id, seq) = (line[1].as_str().expect("an id"), line[2].as_u64().expect("a number"));
            let last = needed.entry(id.to_owned()).or_insert(seq);
            *last = seq.max(*last);
        }
    }
    assert_eq!(needed.len(), MANY);
    assert!(old > 0, "nothing was ever older than the window");
    let mut checked = 0;
    for path in machine.session_files() {
        let id = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let log = Log::read(&path);
        let last = log.events().filter_map(|event| event["seq"].as_u64()).last();
        assert!(last >= needed.get(&id).copied(), "{id} ends at {last:?}, and should have {:?}", needed.get(&id));
        assert!(log.lines.iter().all(|line| line.sound), "{id}: a kill damages no line");
        checked += 1;
    }
    assert_eq!(checked, MANY);
    let run = machine.shell_without_key(&format!("exec {program} '{home}'")).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), format!("{MANY}\n").as_str()), "{run:?}");
}
