//! What `-p` does with standard input.

use crate::common::{World, code, stderr, stdout};
use std::io::Write;
use std::process::Stdio;

/// The offline model says back what it was told.
fn says_back(world: &World, args: &[&str], input: &[u8]) -> String {
    let output = world.run_with_input(&[&["-p", "-m", "offline"], args].concat(), input);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    stdout(&output)
}

#[test]
fn a_pipe_is_the_prompt_where_none_was_typed() {
    assert_eq!(says_back(&World::new(), &[], b"offline: repeat from the pipe"), "from the pipe\n");
    assert_eq!(says_back(&World::new(), &["-"], b"offline: repeat from the pipe"), "from the pipe\n");
}

#[test]
fn a_pipe_stands_after_the_prompt() {
    let said = says_back(&World::new(), &["offline: repeat first"], b"then this\n");
    assert!(said.starts_with("first") && said.contains("then this"), "{said}");
}

#[test]
fn a_file_is_read() {
    let world = World::new();
    let file = world.work().join("prompt");
    std::fs::write(&file, "offline: repeat from a file").expect("a file");
    let file = std::fs::File::open(file).expect("there");
    let output = world.command(&["-p", "-m", "offline"]).stdin(file).output().expect("runs");
    assert_eq!(stdout(&output), "from a file\n");
}

#[test]
fn an_empty_prompt_is_wrong_usage() {
    let world = World::new();
    for (args, input) in [(&[][..], &b""[..]), (&["-"], b" \n"), (&[""], b"")] {
        let output = world.run_with_input(&[&["-p", "-m", "offline"], args].concat(), input);
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
    }
    assert_eq!(code(&world.run(&["-p", "-m", "offline"])), 2, "nothing is read from /dev/null");
}

#[test]
fn a_pipe_that_says_nothing_is_left_alone() {
    let world = World::new();
    let mut child = world
        .command(&["-p", "-m", "offline", "offline: repeat alone"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let open = child.stdin.take();
    let output = child.wait_with_output().expect("it ends");
    drop(open);
    assert_eq!(stdout(&output), "alone\n");
    assert!(stderr(&output).contains("going on without it"), "{}", stderr(&output));
}

#[test]
fn more_than_ten_megabytes_are_refused_with_the_size() {
    let world = World::new();
    let path = world.work().join("large");
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(&vec![b'x'; 10_000_001]).expect("written");
    let output = world.command(&["-p", "-m", "offline"]).stdin(std::fs::File::open(path).expect("there")).output().expect("runs");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("10000001 bytes"), "{}", stderr(&output));
}
