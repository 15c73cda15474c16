//! `FORMAT.md` is true: its lines are what this build writes, and its script finds what it should.

#![expect(clippy::disallowed_methods, reason = "what is measured and checked is the real disk")]

use serde_json::Value;
use session_store::{Entry, Event};
use std::path::Path;
use std::process::{Command, Output};

const FORMAT: &str = include_str!("../FORMAT.md");

/// The text of the code blocks of `language`, joined.
fn blocks(language: &str) -> String {
    let mut text = String::new();
    for block in FORMAT.split(&format!("```{language}\n")).skip(1) {
        text.push_str(block.split("```").next().unwrap_or_default());
    }
    text
}

#[test]
fn the_example_lines_are_one_chain_as_this_build_writes_it() {
    let mut crc = 0;
    for (line, seq) in blocks("jsonl").lines().zip(0..) {
        let entry = Entry::read_line(line.as_bytes()).unwrap_or_else(|| panic!("no record: {line}"));
        assert_eq!(entry.seq, seq);
        assert!(!matches!(entry.event, Event::Unknown(_)), "{line}");
        let mut written = Vec::new();
        crc = entry.write_line(&mut written, crc);
        assert_eq!(String::from_utf8(written).expect("UTF-8"), format!("{line}\n"));
    }
}

#[test]
fn there_is_an_example_of_every_type() {
    let source = include_str!("../src/event.rs");
    let declared: Vec<&str> = source.lines().filter_map(|line| line.trim().strip_prefix('"')?.split("\" => ").next()).collect();
    let lines = blocks("jsonl");
    assert!(declared.len() > 20, "{declared:?}");
    for name in declared {
        assert!(lines.contains(&format!("\"type\":\"{name}\"")), "no example of `{name}`");
    }
}

#[test]
fn an_entry_without_its_checksum_is_its_line_without_the_end() {
    for line in blocks("jsonl").lines() {
        let mut json = Vec::new();
        Entry::read_line(line.as_bytes()).expect("a record").write_json(&mut json);
        let (body, _) = line.split_once(",\"crc\"").expect("a checksum");
        assert_eq!(String::from_utf8(json).expect("UTF-8"), format!("{body}}}"));
    }
}

/// Runs the script of `FORMAT.md`; nothing on a machine without Python.
#[expect(clippy::print_stderr, reason = "a test that checks less than its name says so")]
fn check(script: &Path, log: &Path) -> Option<Output> {
    match Command::new("python3").arg(script).arg(log).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("python3 is not here: the script of FORMAT.md was not run");
            None
        }
        Err(error) => panic!("python3: {error}"),
    }
}

#[test]
fn the_script_checks_a_log_and_finds_a_changed_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("check.py");
    std::fs::write(&script, blocks("python")).expect("written");

    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    for (name, sound) in [("every-event", true), ("recovered", true), ("newer", true), ("damaged", false), ("rewritten", false)] {
        let Some(output) = check(&script, &fixtures.join(name).with_extension("jsonl")) else { return };
        assert_eq!(output.status.success(), sound, "{name}: {output:?}");
    }

    let mut bytes = std::fs::read(fixtures.join("every-event.jsonl")).expect("a fixture");
    let third_line = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).expect("lines").0 + 1;
    bytes[third_line + 60] ^= 1;
    let damaged = folder.path().join("damaged.jsonl");
    std::fs::write(&damaged, bytes).expect("written");
    let Some(output) = check(&script, &damaged) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "line 3 does not continue the line before it");
}

#[test]
fn every_line_of_the_page_is_json_to_any_other_reader() {
    for line in blocks("jsonl").lines() {
        let json: Value = serde_json::from_str(line).expect("JSON");
        assert!(json.get("seq").is_some_and(Value::is_u64), "{line}");
    }
}
