//! What the README tells a person to type works as it stands there.

use crate::support::{Input, Machine};
use fault_server::{Answer, Script};
use std::fs;

/// The commands in the README's indented blocks that begin with `first`, without it.
#[track_caller]
fn commands(first: &str) -> Vec<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("there is a README");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    ")?.strip_prefix(first));
    let commands: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    assert!(!commands.is_empty(), "the README has no command `{first}`");
    commands
}

#[test]
fn the_first_commands_run_a_turn_on_the_folder_and_go_on_with_it() {
    let machine = Machine::new([]);
    fs::write(machine.project().join("shopping-list.txt"), "milk\n").expect("a file");
    for (nth, command) in commands("cargo run --release -p longhand -- ").iter().enumerate() {
        let input = if nth == 0 { Input::Nothing } else { Input::Pipe(b"And what else?".to_vec()) };
        let run = machine.shell_without_key(&format!("longhand {command}")).input(input).finish();
        run.assert_code(0);
        assert!(nth > 0 || run.stdout.contains("offline model"), "`{command}` says that no model was asked: {run:?}");
    }
    assert!(machine.log().answers().contains("shopping-list.txt"), "the answer is about the real files of the folder");
    assert_eq!(machine.log().of_type("turn.ended").count(), 2, "the second command goes on with the session of the first");
    machine.assert_sessions_are_well();
}

#[test]
fn the_commands_for_people_with_a_key_or_a_server_run() {
    let machine = Machine::new(Script::repeating(Answer::text("Understood.")));
    fs::write(machine.project().join("prompts.jsonl"), "{\"prompt\": \"Hello.\"}\n").unwrap();
    for command in commands("longhand ").iter().filter(|command| !command.starts_with("sessions ")) {
        let command = command.replace("http://localhost:8000/v1", &machine.server.openai_url());
        let run = machine.shell(&format!("longhand {command}")).input(Input::Pipe(b"Hello.".to_vec())).finish();
        assert_eq!(run.code, Some(0), "`{command}`: {run:?}");
        let results = || fs::read_to_string(machine.project().join("results.jsonl")).unwrap_or_default();
        let answer = if command.starts_with("batch ") { results() } else { run.stdout.clone() };
        assert!(answer.contains("Understood."), "`{command}`: {run:?}");
    }
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
}

#[test]
fn the_commands_that_keep_house_run() {
    let machine = Machine::new([Answer::text("Understood.")]);
    machine.print(&["Is the high water early?"]).finish().assert_code(0);
    let id = machine.session();
    for command in commands("longhand sessions ") {
        let command = command.replace(" ID ", &format!(" {id} "));
        machine.shell(&format!("longhand sessions {command}")).finish().assert_code(0);
    }
}

#[test]
fn the_first_turn_needs_neither_a_home_nor_an_environment() {
    let machine = Machine::new([]);
    let mut run = machine.longhand_without_key(&["-p", "-m", "offline", "What is in this folder?"]);
    run.command().env_clear().env("HOME", machine.project());
    run.finish().assert_code(0);
}
