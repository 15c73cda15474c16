//! `sessions import`, and `sessions export` in the forms of other programs.

use crate::common::{World, code, snapshot, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const CLAUDE_CODE: &str = include_str!("../../../session-store/tests/fixtures/foreign/claude_code.jsonl");
const CODEX: &str = include_str!("../../../session-store/tests/fixtures/foreign/codex.jsonl");
const PI: &str = include_str!("../../../session-store/tests/fixtures/foreign/pi.jsonl");
const HERMES: &str = include_str!("../../../session-store/tests/fixtures/foreign/hermes.jsonl");

fn file(world: &World, path: &str, text: &str) -> PathBuf {
    let path = world.work().join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(&path, text).expect("written");
    path
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Imports a file; the session's id.
fn import(world: &World, name: &str, text: &str) -> String {
    file(world, name, text);
    let output = world.run(&["sessions", "import", name, "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    json(&stdout(&output))[0]["session"].as_str().expect("an id").to_owned()
}

#[test]
fn what_was_imported_is_told_and_not_imported_twice() {
    let world = World::new();
    file(&world, "a.jsonl", CLAUDE_CODE);
    file(&world, "b.jsonl", HERMES);
    file(&world, "c.jsonl", &format!("{PI}{{\"type\":\"message\",\"id\":\"cut"));
    file(&world, "d.txt", "no session");
    let args = ["sessions", "import", "a.jsonl", "b.jsonl", "c.jsonl", "d.txt", "gone"];
    snapshot("sessions_import", &world.show_run(&args));
    snapshot("sessions_import_again", &world.show_run(&["sessions", "import", "a.jsonl", "b.jsonl"]));
    let list = json(&stdout(&world.run(&["sessions", "list", "--json"])));
    assert_eq!(list.as_array().map(Vec::len), Some(4));
    assert_eq!((&list[0]["title"], &list[0]["updated_at"]), (&"Another".into(), &"2026-01-05T12:00:02.000Z".into()));
    let again = json(&stdout(&world.run(&["sessions", "import", "a.jsonl", "--again", "--json"])));
    assert_eq!((&again[0]["state"], &again[0]["format"]), (&"imported".into(), &"claude_code".into()));
    assert_eq!(code(&world.run(&["sessions", "verify"])), 0);
}

#[test]
fn an_imported_session_shows_replays_and_goes_on() {
    let world = World::new();
    let id = import(&world, "codex.jsonl", CODEX);
    snapshot("sessions_show_imported", &stdout(&world.run(&["sessions", "show", &id])));
    assert!(stdout(&world.run(&["replay", &id, "--instant"])).contains("At four."));
    let went_on = world.run(&["-p", "-r", &id, "-m", "offline", "offline: repeat on"]);
    assert_eq!((code(&went_on), stdout(&went_on).as_str()), (0, "on\n"), "{went_on:?}");
    // Its tools and its system prompt are those of this program.
    let lines = stdout(&world.run(&["sessions", "export", &id]));
    let profiles: Vec<Value> = lines.lines().map(json).filter(|line| line["type"] == "profile").collect();
    assert_eq!(profiles.len(), 2);
    assert_eq!((&profiles[0]["model"], &profiles[0]["projection"]), (&"openai/gpt-5.5".into(), &0.into()));
    assert!(profiles[1]["projection"] == 1 && profiles[1]["tools"].as_array().is_some_and(|tools| !tools.is_empty()));
    assert!(!profiles[1]["system"].as_str().unwrap_or_default().is_empty());

    let exported = stdout(&world.run(&["sessions", "export", &id, "--format", "codex"]));
    let written: Vec<Value> = exported.lines().map(json).collect();
    let original: Vec<Value> = CODEX.lines().map(json).collect();
    assert_eq!(written[..original.len()], original);
    assert!(written[original.len()..].iter().any(|record| record["payload"]["content"][0]["text"] == "on"), "{exported}");
}

#[test]
fn standard_input_is_imported_under_a_name() {
    let world = World::new();
    let talk = "## User\n\nWhen is high water?\n\n## Assistant\n\nAt four.\n";
    let output = world.run_with_input(&["sessions", "import", "-", "-n", "tides"], talk.as_bytes());
    assert_eq!(code(&output), 0, "{output:?}");
    let shown = json(&stdout(&world.run(&["sessions", "show", "tides", "--json"])));
    let texts: Vec<&str> =
        shown["messages"].as_array().expect("messages").iter().filter_map(|one| one["text"].as_str()).collect();
    assert_eq!(texts, ["When is high water?", "At four."]);
    let two = world.run_with_input(&["sessions", "import", "-", "-n", "tides"], HERMES.as_bytes());
    assert_eq!(code(&two), 2, "{two:?}");
}

#[test]
fn known_secrets_are_hidden_on_the_way_in() {
    let world = World::new();
    // JSON writes some of its characters with escapes.
    let secret = "tide\"secret\\0123456789\nmore";
    let escaped = Value::from(secret).to_string();
    file(&world, "a.jsonl", &CLAUDE_CODE.replace("no such file", escaped.trim_matches('"')));
    let name = "name of tide-secret-0123456789";
    let mut command = world.command(&["sessions", "import", "a.jsonl", "--json", "-n", name]);
    let output = command.env("MY_API_KEY", secret).env("A_TOKEN", "tide-secret-0123456789").output().expect("runs");
    assert_eq!(code(&output), 0, "{output:?}");
    let id = json(&stdout(&output))[0]["session"].as_str().expect("an id").to_owned();
    let log = stdout(&world.run(&["sessions", "export", &id]));
    assert!(!log.contains("0123456789") && log.contains("«secret:MY_API_KEY#") && log.contains("«secret:A_TOKEN#"), "{log}");
}

#[test]
fn a_scan_that_finds_nothing_says_so() {
    let none = World::new().run(&["sessions", "import", "--scan"]);
    assert_eq!((code(&none), stderr(&none).as_str()), (0, "no sessions of other programs in their usual places\n"));
}

#[test]
fn a_scan_finds_what_others_keep_in_their_usual_places() {
    let world = World::new();
    let home = world.work().parent().expect("a folder").to_owned();
    file(&world, "../.claude/projects/-home-ada-tide/s.jsonl", CLAUDE_CODE);
    file(&world, "../.claude/projects/-home-ada-tide/agent-1.jsonl", CLAUDE_CODE);
    file(&world, "../.codex/sessions/2026/01/05/rollout-x.jsonl", CODEX);
    file(&world, "../elsewhere/sessions/--home--/x.jsonl", PI);
    let run = |args: &[&str]| {
        let mut command = world.command(&[&["sessions", "import", "--scan"], args].concat());
        command.env("PI_CODING_AGENT_DIR", home.join("elsewhere")).output().expect("runs")
    };
    let times = |shown: String| {
        regex::Regex::new(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d").expect("good").replace_all(&shown, "[TIME]").into_owned()
    };
    snapshot("sessions_import_scan", &times(world.show(&run(&[]))));
    let imported = run(&["--all"]);
    assert_eq!((code(&imported), stdout(&imported).lines().count()), (0, 3), "{imported:?}");
    let again = run(&["--all"]);
    assert_eq!((code(&again), stdout(&again).as_str()), (0, ""), "{}", stderr(&again));
    let states = json(&stdout(&run(&["--json"])));
    assert!(states.as_array().expect("an array").iter().all(|one| one["state"] == "known"), "{states}");
}

#[test]
fn a_session_of_this_program_goes_out_in_the_forms_of_others() {
    let world = World::new();
    let args = ["-p", "--output-format", "json", "-m", "offline", "--permission-mode", "allow", "offline: shell echo hello"];
    let id = json(&stdout(&world.run(&args)))["session_id"].as_str().expect("an id").to_owned();
    for format in ["claude-code", "codex", "pi", "openai", "anthropic"] {
        let name = format!("{format}.out");
        let exported = world.run(&["sessions", "export", &id, "--format", format, "-o", &name]);
        assert_eq!(code(&exported), 0, "{exported:?}");
        let again = json(&stdout(&world.run(&["sessions", "import", &name, "--json"])));
        assert_eq!(again[0]["format"], format.replace('-', "_"), "{again}");
        let again = again[0]["session"].as_str().expect("an id").to_owned();
        let shown = |id: &str| {
            let shown = json(&stdout(&world.run(&["sessions", "show", id, "--json"])));
            let messages = shown["messages"].as_array().expect("messages").clone();
            let kept = messages.into_iter().filter(|one| one["role"] != "system");
            kept.map(|one| (one["role"].clone(), one["text"].clone(), one["tool_calls"][0]["arguments"].clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(&again), shown(&id), "{format}");
    }
}
