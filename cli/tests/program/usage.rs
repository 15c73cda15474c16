//! What is said to somebody who typed something wrong: one sentence, a hint, exit 2; and that nothing is made on disk for it.

use crate::common::{World, code, snapshot, stdout};

#[test]
fn the_short_help_fits_on_a_screen() {
    snapshot("help", &World::new().show_run(&["-h"]));
}

#[test]
fn the_version_is_one_line() {
    let output = World::new().run(&["--version"]);
    assert_eq!(stdout(&output), format!("longhand {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_told_with_a_hint_and_leaves_nothing_behind() {
    let world = World::new();
    let mut shown = String::new();
    for args in [
        &["-c", "-r", "x"][..],
        &["--fork-session", "-p", "x"],
        &["-p", "x", "--at", "3"],
        &["-p", "x", "--no-session", "-n", "name"],
        &["-p", "x", "--json", "--output-format", "text"],
        &["-p", "x", "--no-tools", "--allowed-tools", "read"],
        &["-p", "x", "--tools", "read", "--no-tools"],
        &["-p", "x", "--tools", "read", "--allowed-tools", "shell"],
        &["-p", "x", "--tools", "read,nothing"],
        &["-p", "x", "--allowed-tools", "read shell"],
        &["-p", "x", "--timeout", "0"],
        &["-p", "x", "--timeout", "soon"],
        &["-p", "x", "--max-turns", "0"],
        &["-p", "x", "--max-output-tokens", "100", "--context-window", "100"],
        &["-p", "x", "--effort", "huge"],
        &["-p", "x", "--timeot", "3"],
        &["-p", "x", "-C", "nowhere"],
        &["-p", "x", "-m", "gpt"],
        &["-p", "x", "-m", "anthropic/claude-sonnet-5"],
        &["-p", "x", "-m", "openai/gpt", "--base-url", "ftp://x"],
        &["-p", "x", "--base-url", "http://127.0.0.1:1/v1"],
        &["-p", "x"],
        &["-p", "x", "-r"],
        &["-m", "offline", "sessions", "list"],
        &["sessions"],
        &["completions", "tcsh"],
        &["completions"],
        &["replay"],
        &["sessions", "list", "--nonsense"],
        &["sessions", "search", "x", "-n", "many"],
    ] {
        let output = world.run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        shown += &format!("$ longhand {}\n{}\n", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    snapshot("wrong_usage", &shown);
    assert!(!world.home().exists(), "wrong usage makes no home");
}

#[test]
fn an_unknown_session_is_wrong_usage() {
    snapshot("unknown_session", &World::new().show_run(&["-p", "x", "-m", "offline", "-r", "nothing"]));
}

#[test]
fn no_session_of_this_directory_is_a_failure_and_not_another_directorys() {
    let world = World::new();
    assert_eq!(code(&world.run(&["-p", "hello", "-m", "offline", "-C", "/"])), 0);
    snapshot("nothing_to_continue", &world.show_run(&["-p", "x", "-m", "offline", "-c"]));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&World::new().run(&["completions", shell]));
        assert!(script.contains("sessions") && script.contains("doctor"), "{shell}");
    }
}

#[test]
fn the_help_names_every_field_of_the_json() {
    fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            serde_json::Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                found.push(key.clone());
                keys(value, found);
            }),
            _ => {}
        }
    }
    let world = World::new();
    std::fs::write(world.work().join("talk.json"), r#"[{"role":"user","content":"hello"},{"role":"assistant","content":"hi"}]"#)
        .expect("written");
    let made = world.run(&["-p", "offline: shell echo hello", "-m", "offline", "-n", "talk", "--permission-mode", "allow"]);
    assert_eq!(code(&made), 0, "{made:?}");
    for (command, args) in [
        (&["sessions", "import"][..], &["talk.json", "--json"][..]),
        (&["sessions", "list"], &["--json"]),
        (&["sessions", "show"], &["talk", "--json"]),
        (&["sessions", "verify"], &["--json"]),
        (&["sessions", "search"], &["hello", "--json"]),
        (&["doctor"], &["--json"]),
    ] {
        let json = world.run(&[command, args].concat());
        let help = stdout(&world.run(&[command, &["--help"]].concat())).split_whitespace().collect::<Vec<_>>().join(" ");
        let mut fields = Vec::new();
        keys(&serde_json::from_slice(&json.stdout).expect("JSON"), &mut fields);
        assert!(!fields.is_empty(), "{json:?}");
        // What providers count has its own names.
        let is_missing = |field: &&String| !field.ends_with("_tokens") && !help.contains(&format!("`{field}`"));
        assert_eq!(fields.iter().find(is_missing), None, "{command:?}: {help}");
    }
}

#[test]
fn doctor_finds_nothing_wrong_in_a_new_home_and_names_foreign_files() {
    let world = World::new();
    let healthy: serde_json::Value = serde_json::from_slice(&world.run(&["doctor", "--json"]).stdout).expect("JSON");
    assert_eq!(healthy["problems"], serde_json::json!([]), "{healthy}");
    assert!(healthy["home"]["sync_ms"].is_number());
    assert_eq!(healthy["keys"][0], serde_json::json!({"variable": "ANTHROPIC_API_KEY", "is_set": false}));

    let day = world.home().join("sessions/2026/01/31");
    std::fs::create_dir_all(&day).expect("folders");
    std::fs::write(day.join("notes.txt"), "x").expect("a file");
    let output = world.command(&["doctor"]).env("ANTHROPIC_API_KEY", "sk-never-shown").output().expect("runs");
    let shown = stdout(&output);
    assert_eq!(code(&output), 1);
    assert!(shown.contains("notes.txt") && shown.contains("ANTHROPIC_API_KEY is set"), "{shown}");
    assert!(!shown.contains("sk-never-shown"), "{shown}");
}
