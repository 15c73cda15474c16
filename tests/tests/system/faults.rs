//! Every way in which a provider fails: the run ends within its limit, says so, keeps what it received, and the session goes on.

use crate::support::{Finished, Machine, Protocol};
use fault_server::{Answer, BlackHole, Flaw, Reply, Script, Stop, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// Far more than any limit that these tests set, far less than the defaults: a run that takes longer waited for the wrong clock.
const PROMPTLY: Duration = Duration::from_secs(30);

/// What came of a run against `answers`, whose session has gone on since.
struct Outcome {
    run: Finished,
    result: Value,
    machine: Machine,
}

/// Runs one turn, checks that it ends in time and that every word that the provider sent is in the log, and goes on.
#[track_caller]
fn turn(protocol: Protocol, answers: impl Into<Script>, arguments: &[&str]) -> Outcome {
    let machine = Machine::speaking(protocol, answers);
    let run = machine.print(&[&["--output-format", "json", "hello"], arguments].concat()).finish();
    assert!(run.took < PROMPTLY, "{run:?}");
    let sent: String = machine.server.requests().iter().map(fault_server::Request::sent_text).collect();
    let log = machine.log();
    log.assert_sound();
    assert!(log.answers().contains(&sent), "sent: {sent:?}; kept: {:?}; {run:?}", log.answers());
    assert_eq!(log.of_type("turn.ended").count(), 1, "every turn is closed");
    let result = run.result();
    machine.assert_goes_on();
    Outcome { run, result, machine }
}

#[track_caller]
fn ends_by_a_clock(protocol: Protocol, answer: Answer, limit: &[&str], kept: &str) {
    let Outcome { run, result, machine } = turn(protocol, [answer], limit);
    run.assert_code(4);
    assert_eq!((&result["stop_reason"], &result["is_error"]), (&json!("timeout"), &json!(true)));
    assert_eq!(result["result"].as_str().unwrap_or_default().trim(), kept.trim());
    let requests = machine.server.requests();
    assert_eq!(requests.len(), 2, "a limit is not tried again; the second is the turn after");
    // The connection is dropped, or the provider would go on and be paid for it.
    assert!(wait_until(Duration::from_secs(10), || machine.server.requests()[0].hung_up), "the connection is kept");
    let shown = machine.json(&["sessions", "show", &machine.session(), "--json"]);
    let partial = shown["messages"].as_array().into_iter().flatten().find(|message| message["partial"] == true);
    assert_eq!(partial.map(|message| message["text"].as_str().unwrap_or_default().trim()).unwrap_or_default(), kept.trim());
}

#[test]
fn a_server_that_never_answers_ends_by_the_first_byte_limit() {
    Protocol::ALL.iter().for_each(|p| ends_by_a_clock(*p, Answer::NeverAnswer, &["--first-byte-timeout", "0.4"], ""));
}

#[test]
fn headers_and_then_nothing_end_by_the_idle_limit() {
    Protocol::ALL.iter().for_each(|p| ends_by_a_clock(*p, Answer::headers_then_nothing(), &["--idle-timeout", "0.4"], ""));
}

#[test]
fn a_stream_that_stops_in_the_middle_ends_by_the_idle_limit_and_is_kept() {
    let answer = || Answer::broken("one two three four", 3, Flaw::Stall);
    Protocol::ALL.iter().for_each(|p| ends_by_a_clock(*p, answer(), &["--idle-timeout", "0.4"], "one two three"));
}

#[test]
fn pings_for_ever_end_by_the_progress_limit() {
    let answer = || Answer::pings_forever(Duration::from_millis(50));
    Protocol::ALL.iter().for_each(|p| ends_by_a_clock(*p, answer(), &["--timeout", "0.6"], ""));
}

#[test]
fn words_and_then_pings_for_ever_end_by_the_progress_limit_and_are_kept() {
    let answer = || Answer::broken("one two three four", 2, Flaw::Pings { every_ms: 50 });
    Protocol::ALL.iter().for_each(|p| ends_by_a_clock(*p, answer(), &["--timeout", "0.6"], "one two"));
}

#[test]
fn an_address_that_completes_no_connection_ends_by_the_connect_limit() {
    let hole = BlackHole::open().expect("the hole opens");
    let machine = Machine::new([]);
    let run = machine.print(&["--base-url", &hole.url(), "--connect-timeout", "0.4", "hello"]).finish();
    run.assert_code(4);
    assert!(run.took < PROMPTLY, "{run:?}");
    // The question is kept, and goes to whoever listens.
    machine.assert_goes_on();
}

#[test]
fn a_model_that_thinks_for_long_with_pings_alone_is_waited_for() {
    for protocol in Protocol::ALL {
        let answer = Answer::pings_then(12, Duration::from_millis(100), "At last.");
        let Outcome { run, result, .. } = turn(protocol, [answer], &["--idle-timeout", "0.8"]);
        run.assert_code(0);
        assert_eq!(result["result"], "At last.");
    }
}

#[test]
fn slow_arguments_are_healthy_for_as_long_as_they_come() {
    for protocol in Protocol::ALL {
        let arguments = json!({"path": "x".repeat(160)}).to_string();
        let slow = Answer::slow_arguments("read", arguments, Duration::from_millis(150));
        // The whole takes longer than the limit; no pause does.
        let Outcome { run, result, .. } = turn(protocol, [slow, Answer::text("No such file.")], &["--timeout", "1.2"]);
        run.assert_code(0);
        assert!(run.took > Duration::from_millis(1200), "{run:?}");
        assert_eq!(result["result"], "No such file.");
    }
}

#[test]
fn a_trickle_adds_up_to_the_answer() {
    for protocol in Protocol::ALL {
        let Outcome { run, result, .. } = turn(protocol, [Answer::trickle("naïve 日本語 text", Duration::from_micros(100))], &[]);
        run.assert_code(0);
        assert_eq!(result["result"], "naïve 日本語 text");
    }
}

#[test]
fn a_stream_that_breaks_after_words_is_gone_on_with_and_the_seam_is_marked() {
    let overloaded = Flaw::Error { kind: "overloaded_error".into(), message: "Overloaded".into() };
    for protocol in Protocol::ALL {
        for flaw in [Flaw::CutMidEvent, Flaw::EndEarly, overloaded.clone()] {
            let broken = Answer::broken("one two three four", 2, flaw.clone());
            let Outcome { run, result, machine } = turn(protocol, [broken, Answer::text("three four")], &[]);
            run.assert_code(0);
            assert!(result["result"].as_str().is_some_and(|text| text.contains("three four")), "{flaw:?} {result}");
            let log = machine.log();
            let messages: Vec<&Value> = log.of_type("assistant.message").collect();
            assert_eq!(messages[0]["partial"], true, "{flaw:?} {messages:?}");
            // The model is told where it was cut; it is not asked to go on from a prefilled answer.
            let second = &machine.server.requests()[1];
            let texts = second.messages().iter().map(Value::to_string).collect::<Vec<_>>();
            assert!(texts.iter().any(|text| text.contains("one two")), "{texts:?}");
            assert_eq!(second.messages().last().map(|message| &message["role"]), Some(&json!("user")));
        }
    }
}

#[test]
fn a_connection_that_is_reset_in_the_middle_is_gone_on_with() {
    for protocol in Protocol::ALL {
        // A reset may take with it what was sent just before: nothing can be asserted about the words.
        let machine = Machine::speaking(protocol, [Answer::broken("one two three", 2, Flaw::Reset), Answer::text("all of it")]);
        let run = machine.print(&["hello"]).finish();
        run.assert_code(0);
        assert!(run.stdout.contains("all of it"), "{run:?}");
        machine.log().assert_sound();
        machine.assert_goes_on();
    }
}

#[test]
fn a_connection_that_is_refused_or_reset_before_a_word_is_tried_again() {
    for protocol in Protocol::ALL {
        let Outcome { run, result, machine } = turn(protocol, [Answer::Refuse, Answer::text("Hello.")], &[]);
        run.assert_code(0);
        assert_eq!(result["result"], "Hello.");
        assert_eq!(machine.log().of_type("model.error").count(), 1, "a failure that was cured is in the log");
    }
}

#[test]
fn a_cut_inside_a_tool_call_runs_nothing() {
    for protocol in Protocol::ALL {
        let call = Reply::text("I write.").then_tool_call("write", r#"{"path": "new.txt", "content": "half of it and no more"}"#);
        let cut = Answer::Broken { reply: call, after: 4, flaw: Flaw::CutMidEvent };
        let arguments = ["--permission-mode", "allow"];
        let Outcome { run, machine, .. } = turn(protocol, [cut, Answer::text("I did not.")], &arguments);
        run.assert_code(0);
        nothing_ran(&machine);
    }
}

#[test]
fn tool_calls_of_an_answer_that_the_output_limit_cut_are_not_run() {
    for protocol in Protocol::ALL {
        // The first call is whole; that the answer was cut is reason enough not to run it.
        let first = r#"{"path": "first.txt", "content": "x"}"#;
        let calls =
            Reply::text("I write.").then_tool_call("write", first).then_tool_call("write", r#"{"path": "second.txt", "con"#);
        let cut = || Answer::Reply(calls.clone().stopping(Stop::MaxTokens));
        let Outcome { run, machine, .. } = turn(protocol, [cut(), Answer::text("I did not.")], &["--permission-mode", "allow"]);
        run.assert_code(0);
        nothing_ran(&machine);
        let told = machine.server.requests()[1].body.to_string();
        assert!(told.contains("Not run") || told.contains("not run"), "the model is told: {told}");
        // A model that is cut every time is not asked for ever.
        let Outcome { run, result, machine } = turn(protocol, Script::repeating(cut()), &["--permission-mode", "allow"]);
        run.assert_code(8);
        assert_eq!(result["stop_reason"], "max_tokens");
        assert!(machine.server.requests().len() <= 4, "asked again twice at most, and once for the turn after");
        nothing_ran(&machine);
    }
}

#[test]
fn a_tool_call_that_was_itself_cut_is_not_run() {
    for protocol in Protocol::ALL {
        let cut =
            Answer::max_tokens_inside_tool_call("I write.", "write", r#"{"path": "new.txt", "content": "xxxxxxxxxxxxxxx"}"#);
        let Outcome { run, machine, .. } = turn(protocol, [cut, Answer::text("I did not.")], &["--permission-mode", "allow"]);
        assert!(matches!(run.code, Some(0 | 8)), "it goes on, or ends at the limit: {run:?}");
        nothing_ran(&machine);
    }
}

#[track_caller]
fn nothing_ran(machine: &Machine) {
    assert_eq!(machine.log().of_type("tool.started").count(), 0);
    assert_eq!(fs::read_dir(machine.project()).expect("a folder").count(), 0);
}

#[test]
fn what_a_busy_server_refuses_is_tried_again_when_it_said() {
    for protocol in Protocol::ALL {
        let busy = [Answer::rate_limited(Duration::from_secs(1)), Answer::status(529), Answer::text("Hello.")];
        let Outcome { run, result, machine } = turn(protocol, busy, &[]);
        run.assert_code(0);
        assert_eq!(result["result"], "Hello.");
        let requests = machine.server.requests();
        assert!(requests[1].at - requests[0].at >= Duration::from_secs(1), "`retry-after` is honoured");
        assert_eq!(requests[0].raw, requests[2].raw, "what is tried again is the same, byte for byte");
    }
}

#[test]
fn a_pause_that_is_too_long_is_told_and_not_waited_for() {
    let Outcome { run, result, machine } = turn(Protocol::Anthropic, [Answer::rate_limited(Duration::from_secs(3600))], &[]);
    run.assert_code(3);
    assert!(result["error"].is_string(), "{result}");
    assert_eq!(machine.server.requests().len(), 2);
}

#[test]
fn a_wait_of_hours_is_told_with_its_end_and_survives_a_kill() {
    let machine = Machine::new([Answer::rate_limited(Duration::from_secs(7200))]);
    let told = machine.print(&["--output-format", "json", "hello"]).finish();
    told.assert_code(3);
    let until = told.result()["retry_at"].as_str().expect("a time").to_owned();
    assert!(
        until.len() == 24 && told.stderr.contains("wants to be asked again at") && told.stderr.contains("--wait"),
        "{told:?}"
    );

    // Without a message, it waits for the same time, also after a kill.
    let mut waits = Vec::new();
    for signal in [Signal::KILL, Signal::INT] {
        let run = machine.print(&["-c", "--wait"]).start();
        let count = waits.len() + 1;
        let is_told = || run.stderr().contains("is asked at");
        assert!(
            wait_until(PROMPTLY, || machine.log().of_type("model.waiting").count() == count && is_told()),
            "{}",
            run.stderr()
        );
        waits =
            machine.log().of_type("model.waiting").map(|event| event["until"].as_str().unwrap_or_default().to_owned()).collect();
        run.signal(signal);
        let run = run.finish();
        assert!(run.took < PROMPTLY, "{run:?}");
    }
    assert_eq!(waits, [until.as_str(), until.as_str()]);
    assert_eq!(machine.log().of_type("user.message").count(), 1, "the message is not sent again");
    assert_eq!(machine.server.requests().len(), 1, "nobody asks before the time");
    // Whoever does not want to wait asks at once.
    machine.assert_goes_on();
    machine.print(&["-c", "--wait"]).finish().assert_code(2);
}

#[test]
fn what_one_provider_cannot_answer_another_one_answers_and_the_next_turn_asks_the_first() {
    let down = |request: &fault_server::Request| match request.provider {
        Some(fault_server::Provider::Anthropic) => Answer::status(404),
        _ => Answer::text("Hello from elsewhere."),
    };
    let machine = Machine::new(Script::by(down));
    let run = machine.print(&["--fallback-model", "openai-responses/gpt-5.5", "--output-format", "json", "hello"]).finish();
    run.assert_code(0);
    let result = run.result();
    assert_eq!((&result["result"], &result["model"]), (&json!("Hello from elsewhere."), &json!("openai-responses/gpt-5.5")));
    assert!(run.stderr.contains("openai-responses/gpt-5.5 is asked instead"), "{run:?}");
    let log = machine.log();
    let fallback = log.of_type("model.fallback").next().expect("the switch is in the log");
    assert_eq!((&fallback["from"]["provider"], &fallback["reason"]), (&json!("anthropic"), &json!("not_found")));
    // Its own key goes to each, and the next turn begins with the first.
    machine.assert_goes_on();
    assert_eq!(machine.server.requests().last().and_then(|request| request.provider), Some(fault_server::Provider::Anthropic));
    let twice = machine.print(&["--fallback-model", machine.model(), "hello"]).finish();
    twice.assert_code(2);
}

#[test]
fn a_server_that_always_fails_is_tried_five_times_in_all() {
    let machine = Machine::new(Script::repeating(Answer::error(500, "the cat sleeps on the server")));
    let run = machine.print(&["--output-format", "json", "hello"]).finish();
    run.assert_code(3);
    assert!(run.result()["error"].as_str().is_some_and(|error| error.contains("the cat sleeps")), "{run:?}");
    assert_eq!(machine.server.requests().len(), 5);
    assert_eq!(machine.log().of_type("model.error").count(), 5);
    machine.assert_goes_on();
}

#[test]
fn an_answer_that_is_none_of_this_protocol_is_asked_for_again_and_then_fails() {
    for protocol in Protocol::ALL {
        let spoilt = Answer::broken("one two", 1, Flaw::MalformedJson);
        let machine = Machine::speaking(protocol, [spoilt.clone(), spoilt.clone(), spoilt]);
        let run = machine.print(&["hello"]).finish();
        run.assert_code(3);
        let log = machine.log();
        log.assert_sound();
        assert!(log.answers().starts_with("one"), "what came before the lie is kept: {}", log.answers());
        machine.assert_goes_on();
        let pages = turn(protocol, [Answer::WrongContentType, Answer::WrongContentType, Answer::WrongContentType], &[]);
        pages.run.assert_code(3);
        assert!(pages.result["error"].as_str().is_some_and(|error| error.contains("text/html")), "{}", pages.result);
        turn(protocol, [Answer::WrongContentType, Answer::text("well")], &[]).run.assert_code(0);
    }
}

#[test]
fn a_line_of_ten_megabytes_is_survived() {
    for protocol in Protocol::ALL {
        let machine = Machine::speaking(protocol, [Answer::broken("one two", 1, Flaw::TenMegabyteLine)]);
        let run = machine.print(&["hello"]).finish();
        assert!(run.took < PROMPTLY && matches!(run.code, Some(0 | 3)), "read over or refused: {run:?}");
        let log = machine.log();
        log.assert_sound();
        assert!(log.answers().starts_with("one"), "{}", log.answers());
        machine.assert_goes_on();
    }
}

#[test]
fn an_answer_of_a_megabyte_is_kept_whole() {
    let words = "word ".repeat(200_000);
    let machine = Machine::new([Answer::text(words.as_str())]);
    let run = machine.print(&["say much"]).finish();
    run.assert_code(0);
    assert_eq!(run.stdout.trim_end(), words.trim_end());
    machine.assert_sessions_are_well();
}

#[test]
fn a_context_that_the_provider_finds_too_long_ends_in_the_end() {
    let too_long = Answer::error(400, "prompt is too long: 250000 tokens > 200000 maximum");
    let machine = Machine::new(Script::repeating(too_long));
    let run = machine.print(&["--output-format", "json", "hello"]).finish();
    assert!(matches!(run.code, Some(1 | 3)), "{run:?}");
    assert!(machine.server.requests().len() <= 4, "three trims at most");
    machine.assert_goes_on();
}
