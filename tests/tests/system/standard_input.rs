//! `-p` and what it finds on standard input.

use crate::support::{Input, Machine};
use fault_server::{Answer, Script};
use std::fs::{self, File};
use std::time::Duration;

fn machine() -> Machine {
    Machine::new(Script::repeating(Answer::text("Understood.")))
}

/// What the model was sent as the person's words, in the last request.
#[track_caller]
fn sent(machine: &Machine) -> String {
    let request = machine.server.requests().pop().expect("a request");
    let content = &request.messages().last().expect("a message")["content"];
    match content.as_array() {
        Some(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
        None => content.as_str().expect("text").to_owned(),
    }
}

#[test]
fn a_file_is_read_and_stands_after_the_prompt() {
    let machine = machine();
    let path = machine.project().join("input.txt");
    fs::write(&path, "the file's words\n").expect("a file");
    machine.print(&["summarise"]).input(Input::File(File::open(path).expect("it is there"))).finish().assert_code(0);
    let sent = sent(&machine);
    assert!(sent.starts_with("summarise") && sent.contains("the file's words"), "{sent}");
}

#[test]
fn a_pipe_is_read_with_and_without_a_prompt() {
    let machine = machine();
    machine.print(&["summarise"]).input(Input::Pipe(b"piped words".to_vec())).finish().assert_code(0);
    assert!(sent(&machine).starts_with("summarise") && sent(&machine).contains("piped words"));
    machine.print::<&str>(&[]).input(Input::Pipe(b"only piped words".to_vec())).finish().assert_code(0);
    assert_eq!(sent(&machine).trim(), "only piped words");
    machine.print(&["-"]).input(Input::Pipe(b"words for a dash".to_vec())).finish().assert_code(0);
    assert_eq!(sent(&machine).trim(), "words for a dash");
}

#[test]
fn without_a_terminal_a_chat_is_one_turn() {
    let machine = machine();
    let run = machine.longhand(&["-m", machine.model()]).input(Input::Pipe(b"hello".to_vec())).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Understood.\n"), "{run:?}");
}

#[test]
fn nothing_to_say_is_2() {
    let machine = machine();
    for input in [Input::Nothing, Input::Pipe(Vec::new()), Input::Pipe(b" \n".to_vec())] {
        machine.print::<&str>(&[]).input(input).finish().assert_code(2);
    }
    assert!(machine.server.requests().is_empty());
}

#[test]
fn nothing_on_standard_input_beside_a_prompt_is_fine() {
    let machine = machine();
    for input in [Input::Nothing, Input::Pipe(Vec::new())] {
        machine.print(&["hello"]).input(input).finish().assert_code(0);
        assert_eq!(sent(&machine).trim(), "hello");
    }
}

#[test]
fn a_pipe_that_says_nothing_is_left_alone_after_a_while_and_said_so() {
    let machine = machine();
    let run = machine.print(&["hello"]).input(Input::OpenPipe).finish();
    run.assert_code(0);
    assert_eq!(sent(&machine).trim(), "hello");
    assert!(run.took >= Duration::from_secs(3), "{run:?}");
    assert!(run.stderr.contains("standard input"), "{run:?}");
}

#[test]
fn more_than_ten_megabytes_is_2_with_the_size() {
    let machine = machine();
    let run = machine.print(&["summarise"]).input(Input::Pipe(vec![b'x'; (10 << 20) + 1])).finish();
    run.assert_code(2);
    assert!(run.stderr.contains("10"), "{}", run.stderr);
    assert!(machine.server.requests().is_empty());
}

#[test]
fn what_is_no_text_does_not_break_the_turn() {
    let machine = machine();
    let run = machine.print(&["what is this?"]).input(Input::Pipe(vec![0xff, 0xfe, 0, b'a', 0x80])).finish();
    assert!(matches!(run.code, Some(0 | 2)), "taken with marks for what is no text, or refused: {run:?}");
    if run.code == Some(0) {
        machine.assert_goes_on();
    }
}
