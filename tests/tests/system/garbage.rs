//! Whatever lies in the sessions folder, and whatever happened to a session's bytes: it lists, shows, is reported by line, and goes on.

use crate::support::Machine;
use fault_server::{Answer, Reply, Script};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A machine with one session: two turns, the first with a tool call and reasoning.
fn with_a_session() -> Machine {
    let machine = Machine::new([
        Answer::Reply(Reply::reasoning("hm").then_text("I look.").then_tool_call("list", "{}")),
        Answer::text("Nothing here."),
        Answer::text("Still nothing."),
    ]);
    machine.print(&["look"]).finish().assert_code(0);
    machine.print(&["-c", "look again"]).finish().assert_code(0);
    machine
}

#[test]
fn foreign_files_in_the_sessions_folder_harm_nobody() {
    let machine = with_a_session();
    let folder = machine.session_file().parent().expect("a folder").to_path_buf();
    let foreign = ["notes.txt", "README.jsonl", ".hidden", "x.jsonl.swp"];
    for name in foreign {
        fs::write(folder.join(name), "not a session\n").expect("a file");
    }
    fs::write(folder.join(OsStr::from_bytes(b"\xff\xfe.jsonl")), "no UTF-8").expect("a file");
    fs::create_dir(folder.join("a-folder.jsonl")).expect("a folder");
    symlink("loop", folder.join("loop")).expect("a link");
    symlink("/nowhere", folder.join("nowhere.jsonl")).expect("a link");
    fs::write(machine.home().join("sessions/stray.jsonl"), "{}\n").expect("a file");
    let listed = machine.json(&["sessions", "list", "--json"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed[0]["state"], "idle");
    machine.longhand(&["doctor"]).finish();
    machine.server.follow([Answer::text("Going on.")]);
    machine.print(&["-c", "go on"]).finish().assert_code(0);
    for name in foreign {
        assert_eq!(fs::read_to_string(folder.join(name)).expect("untouched"), "not a session\n");
    }
}

#[test]
fn files_with_a_sessions_name_and_no_record_are_listed_as_damaged_and_can_be_resumed() {
    let machine = with_a_session();
    let folder = machine.session_file().parent().expect("a folder").to_path_buf();
    let sound = machine.session();
    // Names of the same day, so that they stand in the right folder.
    let name = |n: u32| format!("{}{n:04}", &sound[..32]);
    let contents: [&[u8]; 5] = [b"", b"\n\n\n", b"{}\n[1,2]\nnull\n", &[0; 4096], b"\xef\xbb\xbf{\"type\":\"summary\"}\r\n"];
    for (n, content) in (1..).zip(contents) {
        fs::write(folder.join(name(n)).with_extension("jsonl"), content).expect("a file");
    }
    let listed = machine.json(&["sessions", "list", "--json"]);
    let state =
        |id: &str| listed.as_array().into_iter().flatten().find(|session| session["id"] == id).map(|session| &session["state"]);
    assert_eq!(state(&sound), Some(&json!("idle")), "{listed}");
    for (n, content) in (1..).zip(contents) {
        let id = name(n);
        assert_eq!(state(&id), Some(&json!("damaged")), "{listed}");
        let shown = machine.longhand(&["sessions", "show", &id, "--json"]).finish();
        assert!(matches!(shown.code, Some(0 | 1)) && !shown.stderr.contains("panicked"), "{shown:?}");
        let verified = machine.longhand(&["sessions", "verify", &id, "--json"]).finish();
        verified.assert_code(1);
        machine.server.follow([Answer::text("A new beginning.")]);
        let run = machine.print(&["-r", &id, "hello"]).finish();
        run.assert_code(0);
        let file = fs::read(folder.join(&id).with_extension("jsonl")).expect("it is there");
        assert!(file.len() > content.len(), "nothing is cut: {} bytes became {}", content.len(), file.len());
    }
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
}

#[test]
fn a_pipe_with_a_sessions_name_hangs_nobody() {
    let machine = with_a_session();
    let pipe = machine.session_file().with_file_name(format!("{}0001.jsonl", &machine.session()[..32]));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let listed = machine.longhand(&["sessions", "list", "--json"]).finish();
    listed.assert_code(0);
    machine.longhand(&["sessions", "verify", "--json"]).finish();
    machine.server.follow([Answer::text("Going on.")]);
    machine.print(&["-c", "go on"]).finish().assert_code(0);
}

/// Changes a session's file, and what is to be found then.
struct Damage {
    name: &'static str,
    change: fn(&mut Vec<Vec<u8>>),
}

const fn damage(name: &'static str, change: fn(&mut Vec<Vec<u8>>)) -> Damage {
    Damage { name, change }
}

/// Each takes the lines of the file, newlines included.
const DAMAGES: &[Damage] = &[
    damage("a byte flipped in the middle", |lines| {
        let middle = lines.len() / 2;
        let at = lines[middle].len() / 2;
        lines[middle][at] ^= 0x20;
    }),
    damage("a line left out", |lines| {
        lines.remove(lines.len() / 2);
    }),
    damage("a line twice", |lines| {
        let middle = lines.len() / 2;
        lines.insert(middle, lines[middle].clone());
    }),
    damage("two lines swapped", |lines| {
        let middle = lines.len() / 2;
        lines.swap(middle, middle + 1);
    }),
    damage("the first line gone", |lines| {
        lines.remove(0);
    }),
    damage("a line of something else", |lines| lines.insert(lines.len() / 2, b"what is this?\n".to_vec())),
    damage("a blank line", |lines| lines.insert(lines.len() / 2, b"\n".to_vec())),
    damage("zeros in the middle", |lines| {
        let middle = lines.len() / 2;
        let len = lines[middle].len() - 1;
        lines[middle][..len].fill(0);
    }),
    damage("a byte-order mark", |lines| lines[0].splice(0..0, *b"\xef\xbb\xbf").for_each(drop)),
    damage("Windows' ends of lines", |lines| {
        for line in lines {
            line.insert(line.len() - 1, b'\r');
        }
    }),
    damage("two lines joined", |lines| {
        let middle = lines.len() / 2;
        lines[middle].pop();
    }),
    damage("the second half gone, in the middle of a line", |lines| {
        lines.truncate(lines.len() / 2);
        let last = lines.len() - 1;
        let half = lines[last].len() / 2;
        lines[last].truncate(half);
    }),
];

#[test]
fn damaged_sessions_are_reported_and_go_on() {
    for damage in DAMAGES {
        let machine = with_a_session();
        let file = machine.session_file();
        let before = fs::read(&file).expect("it is there");
        let mut lines: Vec<Vec<u8>> = before.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        (damage.change)(&mut lines);
        let damaged = lines.concat();
        fs::write(&file, &damaged).expect("it can be written");
        check_damaged(&machine, &file, &damaged, damage.name);
    }
}

/// The session lists, shows, is reported, goes on, is accepted by a strict server, and keeps its bytes.
#[track_caller]
fn check_damaged(machine: &Machine, file: &Path, damaged: &[u8], name: &str) {
    let id = machine.session();
    let listed = machine.json(&["sessions", "list", "--json"]);
    assert_eq!(listed[0]["id"], json!(id), "{name}: {listed}");
    let shown = machine.json(&["sessions", "show", &id, "--json"]);
    assert!(shown["messages"].as_array().is_some_and(|messages| !messages.is_empty()), "{name}: {shown}");
    let verified = machine.longhand(&["sessions", "verify", &id, "--json"]).finish();
    verified.assert_code(1);
    let verified: Value = serde_json::from_str(&verified.stdout).expect("JSON");
    let problems = verified[0]["problems"].as_array().unwrap_or_else(|| panic!("{name}: {verified}"));
    assert!(!problems.is_empty() && verified[0]["ok"] == false, "{name}: {verified}");
    assert!(
        problems.iter().all(|problem| problem["line"].as_u64() >= Some(1) && problem["offset"].is_u64()),
        "{name}: {verified}"
    );
    assert_eq!(fs::read(file).expect("it is there"), damaged, "{name}: to look changes nothing");
    machine.server.follow(Script::repeating(Answer::text("Going on.")));
    for prompt in ["go on", "and on"] {
        let run = machine.print(&["-r", &id, prompt]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Going on.\n"), "{name}: {run:?}");
    }
    assert_eq!(machine.server.refusals(), Vec::<String>::new(), "{name}");
    let after = fs::read(file).expect("it is there");
    let sound = damaged.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    assert_eq!(after[..sound], damaged[..sound], "{name}: whole lines keep their bytes");
    assert!(after.len() >= damaged.len(), "{name}: nothing is cut");
}
