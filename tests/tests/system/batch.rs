//! `longhand batch`: each prompt is answered once, whatever happens to the process.

use crate::support::{Log, Machine, Run};
use fault_server::{Answer, Flaw, Reply, Request, Script, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// A machine with a file of `count` prompts, `prompt 0` and so on.
fn machine(count: usize, script: impl Into<Script>) -> Machine {
    let machine = Machine::new(script);
    let lines: Vec<String> =
        (0..count).map(|n| json!({"id": format!("p{n}"), "prompt": format!("prompt {n}.")}).to_string()).collect();
    fs::write(machine.project().join("prompts.jsonl"), lines.join("\n")).expect("a file");
    machine
}

fn batch(machine: &Machine, arguments: &[&str]) -> Run {
    let first = ["batch", "prompts.jsonl", "-m", machine.model(), "-o", "results.jsonl"];
    machine.longhand(&[&first, arguments].concat())
}

fn results(machine: &Machine) -> Vec<Value> {
    let text = fs::read_to_string(machine.project().join("results.jsonl")).expect("results");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

fn ids(results: &[Value]) -> Vec<&str> {
    results.iter().map(|result| result["id"].as_str().expect("an id")).collect()
}

/// The number of the prompt that a request is about.
fn number(request: &Request) -> usize {
    let body = request.body["messages"].to_string();
    let (_, rest) = body.split_once("prompt ").expect("a prompt");
    rest.split_once('.').expect("its end").0.parse().expect("a number")
}

#[test]
fn results_come_in_the_order_of_the_prompts_or_as_they_are_done() {
    let slow_first = || {
        Script::by(|request| {
            let pause = if number(request) == 0 { 2_000 } else { 0 };
            Answer::Reply(Reply::text(format!("answer {}", number(request))).paced(Duration::from_millis(pause)))
        })
    };
    let in_order = machine(6, slow_first());
    let run = batch(&in_order, &["--jobs", "3"]).finish();
    run.assert_code(0);
    let results_in_order = results(&in_order);
    assert_eq!(ids(&results_in_order), ["p0", "p1", "p2", "p3", "p4", "p5"]);
    for (n, result) in results_in_order.iter().enumerate() {
        assert_eq!((result["result"].as_str(), result["stop_reason"].as_str()), (Some(&*format!("answer {n}")), Some("done")));
    }
    in_order.assert_sessions_are_well();
    let shown = in_order.json(&["sessions", "show", "prompts/p3", "--json"]);
    assert_eq!(shown["id"], results_in_order[3]["session_id"], "a session is found by the names of the batch and of the line");

    let as_done = machine(6, slow_first());
    batch(&as_done, &["--jobs", "3", "--order", "done"]).finish().assert_code(0);
    let results = results(&as_done);
    assert_ne!(ids(&results)[0], "p0", "nobody waits for the slow one");
    assert_eq!(ids(&results).into_iter().collect::<BTreeSet<_>>().len(), 6);
}

#[test]
fn a_batch_that_is_killed_again_and_again_answers_each_prompt_once() {
    const PROMPTS: usize = 10;
    // Each prompt first changes something, then speaks slowly.
    let machine = machine(
        PROMPTS,
        Script::by(|request| {
            let n = number(request);
            if request.body["messages"].to_string().contains("tool_result") {
                return Answer::Reply(Reply::text(format!("the whole answer to {n}")).paced(Duration::from_millis(60)));
            }
            let command = format!("echo effect-{n} >> effects.txt");
            Answer::Reply(Reply::tool_call("shell", json!({"command": command}).to_string()))
        }),
    );
    let mut random = fastrand::Rng::with_seed(7);
    let arguments = ["--jobs", "2", "--permission-mode", "allow"];
    let mut kills = 0;
    for round in 0..60 {
        let mut running = batch(&machine, &arguments).start();
        if wait_until(Duration::from_millis(random.u64(100..800)), || running.has_ended()) && round > 0 {
            break;
        }
        running.signal(Signal::KILL);
        kills += 1;
        drop(running);
        // Whatever a kill leaves of the results: a torn line of them.
        if let Ok(results) = fs::read(machine.project().join("results.jsonl")) {
            let torn = results.len() - results.len().min(random.usize(0..40));
            fs::write(machine.project().join("results.jsonl"), &results[..torn]).expect("a torn file");
        }
    }
    let run = batch(&machine, &arguments).finish();
    run.assert_code(0);
    assert!(kills >= 3, "{kills} kills show little");
    let asked = machine.server.requests().len();
    let results = results(&machine);
    assert_eq!(ids(&results), (0..PROMPTS).map(|n| format!("p{n}")).collect::<Vec<_>>());
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["result"], format!("the whole answer to {n}"), "{result}");
    }
    assert_eq!(machine.session_files().len(), PROMPTS, "a session each");
    for file in machine.session_files() {
        let log = Log::read(&file);
        assert_eq!(log.of_type("user.message").count(), 1, "a message was doubled in {}", file.display());
        let done = log.of_type("turn.ended").filter(|ended| ended["reason"] == "done").count();
        assert_eq!(done, 1, "answered once");
    }
    let effects = fs::read_to_string(machine.project().join("effects.txt")).expect("they ran");
    let distinct: BTreeSet<&str> = effects.lines().collect();
    assert_eq!(effects.lines().count(), distinct.len(), "a side effect ran twice: {effects}");
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
    machine.assert_sessions_are_well();

    let again = batch(&machine, &arguments).finish();
    again.assert_code(0);
    assert!(again.stderr.contains("10 prompts: 10 answered (10 of them before)"), "{again:?}");
    assert_eq!(machine.server.requests().len(), asked, "what was answered is not asked again");
}

#[test]
fn what_failed_is_told_and_only_that_is_asked_again() {
    let machine = machine(
        4,
        Script::by(|request| match number(request) {
            2 => Answer::error(400, "not this one"),
            n => Answer::text(format!("answer {n}")),
        }),
    );
    let run = batch(&machine, &[]).finish();
    run.assert_code(1);
    assert!(run.stderr.contains("`p2`: ") && run.stderr.contains("3 answered, 1 failed"), "{run:?}");
    let first = results(&machine);
    assert_eq!(ids(&first), ["p0", "p1", "p2", "p3"]);
    assert!(first[2]["is_error"] == true && first[2]["error"].as_str().is_some_and(|error| error.contains("not this one")));
    machine.server.follow(Script::by(|request| Answer::text(format!("answer {} at last", number(request)))));
    let asked = machine.server.requests().len();
    batch(&machine, &[]).finish().assert_code(0);
    assert_eq!(machine.server.requests().len(), asked + 1);
    let words: Vec<String> =
        results(&machine).iter().map(|result| result["result"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(words, ["answer 0", "answer 1", "answer 2 at last", "answer 3"]);
}

#[test]
fn a_signal_stops_the_batch_which_says_how_to_go_on() {
    let machine = machine(
        5,
        Script::by(|request| {
            let reply = Reply::text(format!("answer {} in five words", number(request)));
            if number(request) < 2 { Answer::Reply(reply) } else { Answer::Broken { reply, after: 2, flaw: Flaw::Stall } }
        }),
    );
    let running = batch(&machine, &["--jobs", "2"]).start();
    assert!(wait_until(Duration::from_secs(20), || machine.server.requests().len() >= 4));
    running.signal(Signal::INT);
    let stopped = running.finish();
    assert_eq!(stopped.signal, Some(2), "{stopped:?}");
    assert!(stopped.stderr.contains("3 not done") && stopped.stderr.contains("the same command goes on"), "{stopped:?}");
    assert_eq!(ids(&results(&machine)), ["p0", "p1"], "what was answered is written");
    machine.assert_sessions_are_well();
    machine.server.follow(Script::by(|request| Answer::text(format!("answer {}", number(request)))));
    batch(&machine, &[]).finish().assert_code(0);
    assert_eq!(results(&machine).len(), 5);
    assert_eq!(machine.session_files().len(), 5);
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
}

#[test]
fn bad_lines_are_named_before_anything_is_asked() {
    let machine = machine(1, [Answer::text("never")]);
    let project = machine.project();
    for (content, line, why) in [
        ("{\"prompt\":\"a\"}\n\n{\"prompt\"", 3, "it is no JSON"),
        ("[1]", 1, "it is no JSON object"),
        ("{\"prompt\":\"a\"}\n{\"text\":\"a\"}", 2, "it has no `prompt`"),
        ("{\"prompt\":\" \"}", 1, "its `prompt` is empty"),
        ("{\"prompt\":7}", 1, "`prompt` is no text"),
        ("{\"prompt\":\"a\",\"promt\":\"b\"}", 1, "there is no key `promt`"),
        ("{\"prompt\":\"a\",\"id\":\"x\"}\n{\"prompt\":\"b\",\"id\":\"x\"}", 2, "another line has the id `x`"),
        ("{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"model\":\"nobody/x\"}", 2, "`nobody/x` is no model"),
        ("{\"prompt\":\"b\",\"cwd\":\"not/there\"}", 1, "cannot work in `not/there`"),
    ] {
        fs::write(project.join("prompts.jsonl"), content).expect("a file");
        let run = batch(&machine, &[]).finish();
        run.assert_code(2);
        let told = format!("line {line} of `prompts.jsonl` cannot be used: {why}");
        assert!(run.stderr.contains(&told), "{told}: {run:?}");
        assert!(!project.join("results.jsonl").exists());
    }
    assert!(machine.server.requests().is_empty() && machine.session_files().is_empty());
}

#[test]
fn a_file_that_holds_no_results_is_never_written_over() {
    let machine = machine(1, Script::repeating(Answer::text("an answer")));
    fs::write(machine.project().join("results.jsonl"), "a diary").expect("a file");
    batch(&machine, &[]).finish().assert_code(2);
    assert_eq!(fs::read_to_string(machine.project().join("results.jsonl")).expect("it stays"), "a diary");
    let onto_itself = machine.longhand(&["batch", "prompts.jsonl", "-m", machine.model(), "-o", "./prompts.jsonl"]).finish();
    onto_itself.assert_code(2);
    assert!(machine.server.requests().is_empty());
}

#[test]
fn lines_may_name_their_model_prompt_and_directory_and_equal_lines_are_answered_each() {
    let machine = machine(0, Script::repeating(Answer::text("an answer")));
    fs::create_dir(machine.project().join("below")).expect("a folder");
    let lines = [
        json!({"prompt": "same."}),
        json!({"prompt": "same."}),
        json!({"prompt": "same.", "system": "Be a pirate.", "cwd": "below", "id": 7}),
        json!({"prompt": "same.", "model": "anthropic/another-model"}),
    ];
    fs::write(machine.project().join("prompts.jsonl"), lines.map(|line| line.to_string()).join("\n")).expect("a file");
    batch(&machine, &[]).finish().assert_code(0);
    assert_eq!(ids(&results(&machine)), ["1", "2", "7", "4"]);
    let requests = machine.server.requests();
    assert_eq!(requests.len(), 4);
    let count = |holds: &dyn Fn(&Value) -> bool| requests.iter().filter(|request| holds(&request.body)).count();
    assert_eq!(count(&|body| body["model"] == "another-model"), 1);
    assert_eq!(count(&|body| body["system"].to_string().contains("Be a pirate.")), 1);
    let below = machine.project().join("below");
    let list = machine.json(&["sessions", "list", "--cwd", &below.to_string_lossy(), "--json"]);
    assert_eq!(list[0]["name"], "prompts/7", "{list}");
}
