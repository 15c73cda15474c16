//! What can be told of a stored session from its log alone: whether this program would send the same, what was used, and what it cost.

use crate::support::{Machine, Protocol};
use fault_server::Answer;
use serde_json::{Value, json};
use std::fs;

/// A session of two turns, the first with a tool.
fn session(protocol: Protocol) -> Machine {
    let machine = Machine::speaking(
        protocol,
        [Answer::tool_call("list", r#"{"path":"."}"#), Answer::text("There is one file."), Answer::text("You are welcome.")],
    );
    fs::write(machine.project().join("some-notes.txt"), "hello").expect("a file");
    machine.print(&["what is here?"]).finish().assert_code(0);
    machine.print(&["-c", "thank you"]).finish().assert_code(0);
    machine
}

#[test]
fn a_stored_session_is_run_again_without_a_model_and_is_the_same() {
    for protocol in Protocol::ALL {
        let machine = session(protocol);
        let asked = machine.server.requests().len();
        let run = machine.longhand_without_key(&["replay", &machine.session(), "--verify"]).finish();
        assert_eq!(run.code, Some(0), "{protocol:?} {run:?}");
        for line in
            ["3 of 3 requests built again", "3 requests sent again by this program, the same, in 2 turns", "nothing differs"]
        {
            assert!(run.stdout.contains(line), "{run:?}");
        }
        assert_eq!(machine.server.requests().len(), asked, "no model was asked");
        assert_eq!(machine.server.refusals(), Vec::<String>::new());
        let again = machine.json(&["replay", &machine.session(), "--verify", "--json"]);
        assert_eq!((&again["requests"], &again["rebuilt"], &again["resent"]), (&json!(3), &json!(3), &json!(3)), "{again}");
        assert_eq!((&again["difference"], &again["left_out"]), (&Value::Null, &json!([])), "{again}");
    }
}

#[test]
fn another_prompt_and_another_table_are_told_as_a_diff_with_their_cause() {
    let machine = session(Protocol::Anthropic);
    let id = machine.session();
    let run = machine.longhand(&["replay", &id, "--verify", "--system-prompt", "Answer in verse."]).finish();
    run.assert_code(1);
    assert!(
        run.stdout.contains("profile: the system text") && run.stdout.contains("\n+") && run.stdout.contains("Answer in verse."),
        "{run:?}"
    );

    let models = r#"{"anthropic/test-model": {"max_output_tokens": 1234}}"#;
    fs::write(machine.home().join("models.json"), models).expect("a file");
    let run = machine.longhand(&["replay", &id, "--verify"]).finish();
    run.assert_code(1);
    let cause = "models: the longest answer of `anthropic/test-model`: 8192 tokens, and now 1234";
    assert!(run.stdout.contains(cause) && run.stdout.contains(r#"+  "max_tokens": 1234,"#), "{run:?}");
    assert!(run.stdout.contains("3 of 3 requests built again"), "the log has what they were built with: {run:?}");
}

#[test]
fn a_users_file_of_models_is_listed_used_and_refused_where_it_is_wrong() {
    let machine = Machine::new([Answer::text("Hello.")]);
    fs::create_dir_all(machine.home()).expect("a folder");
    let file = machine.home().join("models.json");
    fs::write(
        &file,
        r#"{"anthropic/test-*": {"max_output_tokens": 777, "context_window": 50000, "price": {"input": 3, "output": 15}}}"#,
    )
    .expect("a file");
    let known = machine.json(&["models", "--json"]);
    let own: Vec<&Value> = known.as_array().expect("an array").iter().filter(|model| model["own"] == true).collect();
    assert_eq!(own.len(), 1, "{known}");
    assert_eq!((&own[0]["name"], &own[0]["max_output_tokens"]), (&json!("anthropic/test-*"), &json!(777)));
    let listed = machine.longhand(&["models"]).finish();
    listed.assert_code(0);
    assert!(listed.stdout.contains("anthropic/claude-opus-5") && listed.stdout.contains("models.json"), "{listed:?}");

    machine.print(&["hello"]).finish().assert_code(0);
    assert_eq!(machine.server.requests()[0].body["max_tokens"], 777);
    fs::write(&file, r#"{"anthropic/test-model": {"window": 1}}"#).expect("a file");
    for run in [machine.print(&["hello"]).finish(), machine.longhand(&["models"]).finish()] {
        run.assert_code(2);
        assert!(run.stderr.contains("models.json") && run.stderr.contains("window"), "{run:?}");
    }
}

#[test]
fn usage_and_cost_are_added_up_from_the_logs_and_a_fork_counts_once() {
    let machine = session(Protocol::Anthropic);
    let id = machine.session();
    let unknown = machine.json(&["usage", "--json"]);
    assert_eq!((&unknown["total"]["calls"], &unknown["total"]["unpriced_calls"]), (&json!(3), &json!(3)), "{unknown}");
    let models =
        r#"{"anthropic/test-model": {"price": {"input": 1000000, "output": 2000000, "cached_input": 0, "cache_write": 0}}}"#;
    fs::write(machine.home().join("models.json"), models).expect("a file");

    let usage = machine.json(&["usage", "--json"]);
    let total = &usage["total"];
    let count = |of: &Value, what: &str| of[what].as_u64().unwrap_or(0);
    let fresh = count(total, "input_tokens") - count(total, "cache_read_tokens") - count(total, "cache_write_tokens");
    let cost = fresh as f64 + 2.0 * count(total, "output_tokens") as f64;
    assert_eq!((total["cost_usd"].as_f64(), &total["unpriced_calls"]), (Some(cost), &json!(0)), "{usage}");
    assert_eq!((usage["rows"].as_array().map(Vec::len), &usage["rows"][0]["key"]), (Some(1), &json!(id)), "{usage}");
    assert_eq!(machine.json(&["usage", &id, "--by", "turn", "--json"])["rows"].as_array().map(Vec::len), Some(2));
    assert_eq!(machine.json(&["usage", "--by", "model", "--json"])["rows"][0]["key"], "anthropic/test-model");
    let day = machine.json(&["usage", "--by", "day", "--json"])["rows"][0]["key"].as_str().map(str::len);
    assert_eq!(day, Some("2026-01-31".len()));

    machine.longhand(&["sessions", "fork", &id]).finish().assert_code(0);
    assert_eq!(machine.json(&["usage", "--json"])["total"]["calls"], 3, "what a fork copied is its parent's");
    assert_eq!(machine.json(&["usage", "--since", "2100-01-01", "--json"])["total"]["calls"], 0);
}

#[test]
fn a_budget_ends_the_turn_with_exit_8_and_the_session_goes_on() {
    let machine = Machine::new([Answer::tool_call("list", r#"{"path":"."}"#), Answer::text("Never asked.")]);
    let run = machine.print(&["--max-tokens-total", "1", "--output-format", "json", "look"]).finish();
    run.assert_code(8);
    assert_eq!((&run.result()["stop_reason"], &run.result()["is_error"]), (&json!("budget"), &json!(false)), "{run:?}");
    assert_eq!(machine.server.requests().len(), 1, "it ends after the step that reaches it");
    machine.assert_goes_on();

    let run = machine.print(&["--budget", "5", "hello"]).finish();
    run.assert_code(2);
    assert!(run.stderr.contains("the price of `anthropic/test-model` is not known"), "{run:?}");
}
