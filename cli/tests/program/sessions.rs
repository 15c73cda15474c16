//! `sessions ...` and `replay`: what is stored, as people and programs read it.

use crate::common::{World, code, snapshot, stderr, stdout};
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A hang is a failure; nothing here should take a tenth of it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs one turn in a new session; its id.
pub(crate) fn converse(world: &World, prompt: &str, more: &[&str]) -> String {
    let args = ["-p", "--output-format", "json", "-m", "offline", "--permission-mode", "allow", prompt];
    let output = world.run(&[&args[..], more].concat());
    assert_eq!(code(&output), 0, "{output:?}");
    json(&stdout(&output))["session_id"].as_str().expect("an id").to_owned()
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) fn run_ok(world: &World, args: &[&str]) -> String {
    let output = world.run(args);
    assert_eq!(code(&output), 0, "{args:?}: {output:?}");
    stdout(&output)
}

/// The file of a session's log.
pub(crate) fn log(world: &World, id: &str) -> PathBuf {
    log_named(world, &format!("{id}.jsonl"))
}

/// What a packed log holds.
fn zstd_lines(path: &Path) -> Vec<u8> {
    zstd::decode_all(fs::File::open(path).expect("there")).expect("unpacked")
}

fn log_named(world: &World, name: &str) -> PathBuf {
    let found = files(&world.home()).into_keys().find(|path| path.ends_with(name));
    found.unwrap_or_else(|| panic!("no {name}"))
}

/// All files below `root` with what is in them.
pub(crate) fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    found
}

/// A process that writes a session for as long as a test looks at it.
pub(crate) struct Writer {
    child: Child,
    id: String,
}

impl Writer {
    pub(crate) fn start(world: &World) -> Self {
        let prompt = "offline: slow 2000 words 10 ms";
        let args = ["-p", "--json", "-m", "offline", prompt];
        let mut child = world.command(&args).stdout(Stdio::piped()).spawn().expect("runs");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut id = String::new();
        while id.is_empty() {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).expect("readable") > 0, "the writer ended");
            id = json(&line)["session"].as_str().unwrap_or_default().to_owned();
        }
        // Its standard output is read on, or it would stop when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, id }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_session_shows_for_people_and_for_programs() {
    let world = World::new();
    let id = converse(&world, "offline: shell echo hello", &["-n", "greeting"]);
    snapshot("sessions_show", &settled(&world, &run_ok(&world, &["sessions", "show", "greeting"])));
    let shown = json(&run_ok(&world, &["sessions", "show", &id, "--json"]));
    assert_eq!(shown["id"], id.as_str());
    assert_eq!(shown["meta"]["name"], "greeting");
    let messages = shown["messages"].as_array().expect("an array");
    let roles: Vec<&str> = messages.iter().filter_map(|message| message["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
    assert!(messages.is_sorted_by_key(|message| message["seq"].as_u64()));
    assert_eq!(messages[2]["tool_calls"][0]["name"], "shell");
    assert_eq!(messages[2]["tool_calls"][0]["id"], messages[3]["tool_call_id"]);
    assert!(messages[3]["text"].as_str().expect("text").contains("hello"));
    assert!(messages.iter().all(|message| message["partial"] == false));
}

#[test]
fn the_list_has_the_fields_that_programs_rely_on() {
    let world = World::new();
    assert_eq!(json(&run_ok(&world, &["sessions", "list", "--json"])), json("[]"));
    let first = converse(&world, "offline: repeat one", &[]);
    let second = converse(&world, "offline: repeat two", &["-n", "second"]);
    let list = json(&run_ok(&world, &["sessions", "list", "--json"]));
    let ids: Vec<&str> = list.as_array().expect("an array").iter().filter_map(|session| session["id"].as_str()).collect();
    assert_eq!(ids, [&second, &first], "newest first");
    let fields: Vec<&str> = list[0].as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = ["id", "name", "title", "cwd", "model", "created_at", "updated_at", "messages", "bytes", "state"];
    assert_eq!(fields, expected);
    assert_eq!((&list[0]["name"], &list[0]["state"]), (&Value::from("second"), &Value::from("idle")));
    assert_eq!(list[0]["bytes"], fs::metadata(log(&world, &second)).expect("there").len());

    let elsewhere = world.home();
    let here = ["sessions", "list", "--json", "--cwd", "."];
    let there = ["sessions", "list", "--json", "--cwd", &elsewhere.to_string_lossy()];
    assert_eq!(json(&run_ok(&world, &here)).as_array().map(Vec::len), Some(2));
    assert_eq!(json(&run_ok(&world, &there)).as_array().map(Vec::len), Some(0));
    assert_eq!(json(&run_ok(&world, &["sessions", "list", "--json", "-n", "1"])).as_array().map(Vec::len), Some(1));
}

#[test]
fn reading_changes_nothing_in_the_home() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    let before = files(&world.home());
    for args in [
        &["sessions", "list"][..],
        &["sessions", "show", &id],
        &["sessions", "verify"],
        &["sessions", "export", &id],
        &["sessions", "export", &id, "--format", "html"],
        &["replay", &id, "--instant"],
    ] {
        run_ok(&world, args);
    }
    assert!(files(&world.home()) == before);
}

#[test]
fn a_jsonl_export_is_the_log_byte_for_byte() {
    let world = World::new();
    let id = converse(&world, "offline: repeat \u{fc}\u{1f680}", &[]);
    let exported = world.run(&["sessions", "export", &id]);
    assert!(exported.stdout == fs::read(log(&world, &id)).expect("readable"));
    let mut torn = fs::read(log(&world, &id)).expect("readable");
    torn.extend_from_slice(b"{\"seq\":99,\"at\"");
    fs::write(log(&world, &id), &torn).expect("written");
    let again = world.run(&["sessions", "export", &id]);
    assert!(again.stdout == exported.stdout, "what is after the last newline is no line");
    assert!(stderr(&again).contains("14 bytes after the last whole line are left out"), "{}", stderr(&again));
}

#[test]
fn an_export_to_a_file_is_whole_or_not_there() {
    let world = World::new();
    let id = converse(&world, "offline: repeat **hello**", &[]);
    let target = world.work().join("out.html");
    fs::write(&target, "old").expect("written");
    let args = ["sessions", "export", &id, "--format", "html", "-o", "out.html"];
    assert_eq!(run_ok(&world, &args), "");
    let page = fs::read_to_string(&target).expect("there");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n") && page.contains("<strong>hello</strong>"));
    let failed = world.run(&["sessions", "export", &id, "-o", "no/such/folder"]);
    assert_eq!(code(&failed), 1, "{failed:?}");
    let told = "error: cannot write `no/such/folder`: there is no folder `no/such`\n\nhint: make it, or choose another file with `-o FILE`\n";
    assert_eq!(stderr(&failed), told);
    let left: Vec<_> = fs::read_dir(world.work()).expect("there").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_export_can_go_to_a_device() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    run_ok(&world, &["sessions", "export", &id, "-o", "/dev/null"]);
    assert!(!fs::metadata("/dev/null").expect("there").is_file());
}

#[test]
fn a_conversation_goes_back_and_comes_back() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    run_ok(&world, &["-p", "-r", &id, "offline: repeat goodbye"]);
    let shown = json(&run_ok(&world, &["sessions", "show", &id, "--json"]));
    let goodbye =
        shown["messages"].as_array().and_then(|all| all.iter().find(|message| message["text"] == "offline: repeat goodbye"));
    let to = goodbye.and_then(|message| message["seq"].as_u64()).expect("it is there") - 1;
    for (args, told) in [
        (&["sessions", "rewind", &id, "--to", &to.to_string()][..], "2 messages left it"),
        (&["sessions", "rewind", &id, "--undo"], "2 messages are back"),
    ] {
        let output = world.run(args);
        assert!(code(&output) == 0 && stderr(&output).contains(told), "{output:?}");
        assert_eq!(run_ok(&world, &["-p", "-r", &id, "offline: repeat again"]), "again\n");
    }
    let log = fs::read_to_string(log(&world, &id)).expect("a log");
    assert!(
        log.contains(&format!(r#""type":"context.rewound","to":{to}"#)) && log.contains(r#""type":"context.restored""#),
        "{log}"
    );
    for (args, expected) in [
        (&["sessions", "rewind", &id][..], 2),
        (&["sessions", "rewind", &id, "--to", "1", "--undo"], 2),
        (&["sessions", "rewind", &id, "--to", "99999"], 2),
    ] {
        assert_eq!(code(&world.run(args)), expected, "{args:?}");
    }
}

#[test]
fn a_name_can_be_given_and_taken_away() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    run_ok(&world, &["sessions", "rename", &id, "my session"]);
    assert_eq!(json(&run_ok(&world, &["sessions", "show", "my session", "--json"]))["id"], id.as_str());
    run_ok(&world, &["sessions", "rename", "my session", ""]);
    assert_eq!(code(&world.run(&["sessions", "show", "my session"])), 2);
    assert_eq!(code(&world.run(&["sessions", "rename", &id, "two\nlines"])), 2);
    assert_eq!(code(&world.run(&["sessions", "verify", &id])), 0);
}

#[test]
fn a_name_holds_no_known_secret() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    let name = "with tide-secret-0123456789";
    for args in [["sessions", "rename", &id, name].as_slice(), &["sessions", "fork", &id, "-n", name]] {
        let output = world.command(args).env("MY_TOKEN", "tide-secret-0123456789").output().expect("runs");
        assert_eq!(code(&output), 0, "{output:?}");
    }
    let listed = run_ok(&world, &["sessions", "list", "--json"]);
    assert_eq!(listed.matches("with «secret:MY_TOKEN#").count(), 2, "{listed}");
    assert!(files(&world.home()).values().all(|bytes| !String::from_utf8_lossy(bytes).contains("0123456789")));
}

#[test]
fn a_fork_has_whole_steps_and_leaves_its_parent_alone() {
    let world = World::new();
    let parent = converse(&world, "offline: shell echo hello", &[]);
    let before = fs::read(log(&world, &parent)).expect("readable");
    let messages = |id: &str| json(&run_ok(&world, &["sessions", "show", id, "--json"]))["messages"].clone();
    let call = messages(&parent)[2]["seq"].as_u64().expect("a place").to_string();
    let fork = run_ok(&world, &["sessions", "fork", &parent, "--at", &call, "-n", "copy"]).trim().to_owned();
    assert!(fs::read(log(&world, &parent)).expect("readable") == before);
    let roles: Vec<Value> = messages(&fork).as_array().expect("an array").iter().map(|message| message["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool"], "the call has its result");
    assert_eq!(json(&run_ok(&world, &["sessions", "show", "copy", "--json"]))["meta"]["parent"]["id"], parent.as_str());
    let too_far = world.run(&["sessions", "fork", &parent, "--at", "100000"]);
    assert_eq!(code(&too_far), 2, "{too_far:?}");
    run_ok(&world, &["sessions", "verify"]);
}

#[test]
fn what_a_killed_fork_left_is_no_session_and_goes_with_the_next_fork() {
    let world = World::new();
    let parent = converse(&world, "offline: repeat hello", &[]);
    let log = log(&world, &parent);
    let left = |name: &str, hours: u64| {
        let path = log.with_file_name(format!("{name}.part"));
        fs::copy(&log, &path).expect("copied");
        let now = fs::metadata(&path).and_then(|made| made.modified()).expect("a time");
        let then = now - Duration::from_secs(hours * 3600);
        fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(then)).expect("it is older");
        path
    };
    let old = left("019c1a2b-3c4d-7e5f-8a6b-0123456789ab", 2);
    let young = left("019c1a2b-3c4d-7e5f-8a6b-0123456789ac", 0);
    assert_eq!(json(&run_ok(&world, &["sessions", "list", "--json"])).as_array().map(Vec::len), Some(1));
    let fork = run_ok(&world, &["sessions", "fork", &parent]).trim().to_owned();
    assert_eq!(json(&run_ok(&world, &["sessions", "show", &fork, "--json"]))["meta"]["parent"]["id"], parent.as_str());
    assert!(!old.exists() && young.exists(), "one that may just be in the making stays");
    run_ok(&world, &["sessions", "verify"]);
}

#[test]
fn removing_asks_and_is_for_good() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    snapshot("sessions_rm_unasked", &world.show_run(&["sessions", "rm", &id]));
    run_ok(&world, &["sessions", "rm", &id, "--yes"]);
    assert_eq!(json(&run_ok(&world, &["sessions", "list", "--json"])), json("[]"));
    assert_eq!(code(&world.run(&["sessions", "show", &id])), 2);
}

#[test]
fn a_session_that_is_written_is_open_sound_and_cannot_be_removed_or_renamed() {
    let world = World::new();
    let writer = Writer::start(&world);
    let list = json(&run_ok(&world, &["sessions", "list", "--json"]));
    assert_eq!(list[0]["state"], "open");
    run_ok(&world, &["sessions", "verify"]);
    for args in [&["sessions", "rm", &writer.id, "--yes"][..], &["sessions", "rename", &writer.id, "x"]] {
        let refused = world.run(args);
        assert_eq!(code(&refused), 6, "{refused:?}");
        assert!(stderr(&refused).contains(&format!("pid {}", writer.child.id())), "{}", stderr(&refused));
    }
    let fork = run_ok(&world, &["sessions", "fork", &writer.id]).trim().to_owned();
    assert_eq!(json(&run_ok(&world, &["sessions", "show", &fork, "--json"]))["meta"]["state"], "idle");
    let replayed = world.run(&["replay", &writer.id, "--instant"]);
    assert!(stderr(&replayed).contains("still being written"), "{replayed:?}");
}

#[test]
fn an_answer_that_a_kill_cut_is_partial() {
    let world = World::new();
    let mut writer = Writer::start(&world);
    let deadline = Instant::now() + PATIENCE;
    let answer = |id: &str| {
        let shown = json(&run_ok(&world, &["sessions", "show", id, "--json"]));
        shown["messages"].as_array().expect("an array").iter().find(|message| message["role"] == "assistant").cloned()
    };
    while answer(&writer.id).is_none_or(|answer| answer["text"] == "") {
        assert!(Instant::now() < deadline, "nothing is written");
    }
    writer.child.kill().expect("killed");
    writer.child.wait().expect("ended");
    let answer = answer(&writer.id).expect("it is there");
    assert_eq!(answer["partial"], true);
    assert!(stdout(&world.run(&["sessions", "show", &writer.id])).contains("[cut off here]"));
    run_ok(&world, &["sessions", "verify"]);
}

#[test]
fn damage_is_told_by_line_and_the_rest_is_shown() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    run_ok(&world, &["-p", "-r", &id, "offline: repeat goodbye"]);
    let path = log(&world, &id);
    let mut lines: Vec<Vec<u8>> =
        fs::read(&path).expect("readable").split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    lines[3] = b"not a record\n".to_vec();
    let damaged = lines.concat();
    fs::write(&path, &damaged).expect("written");

    let verified = world.run(&["sessions", "verify", &id, "--json"]);
    assert_eq!(code(&verified), 1);
    let report = &json(&stdout(&verified))[0];
    assert_eq!((&report["ok"], &report["problems"][0]["line"]), (&Value::from(false), &Value::from(4)));
    assert_eq!(report["problems"][0]["offset"], lines[..3].concat().len());
    let shown = world.run(&["sessions", "show", &id]);
    assert_eq!(code(&shown), 0);
    assert!(stdout(&shown).contains("goodbye") && stdout(&shown).contains("event 3 is missing"), "{}", stdout(&shown));
    assert!(stderr(&shown).contains("line 4"), "{}", stderr(&shown));
    for args in [&["replay", &id, "--instant"][..], &["sessions", "export", &id, "--format", "markdown"]] {
        assert!(run_ok(&world, args).contains("goodbye"));
    }
    assert!(fs::read(&path).expect("readable") == damaged, "reading changes nothing");
}

#[test]
fn nothing_that_a_model_says_reaches_the_terminal_as_a_control_sequence() {
    let world = World::new();
    let id = converse(&world, "offline: repeat \x1b]0;owned\x07\x1b[31m\u{202e}", &[]);
    for args in
        [&["sessions", "show", &id][..], &["sessions", "list"], &["sessions", "search", "owned"], &["replay", &id, "--instant"]]
    {
        let shown = run_ok(&world, args);
        assert!(shown.contains("\\x1b]0;owned\\x07"), "{args:?}: {shown}");
        assert!(!shown.chars().any(|char| char.is_control() && char != '\n' || char == '\u{202e}'), "{args:?}: {shown:?}");
    }
}

#[test]
fn words_are_found_in_all_sessions_in_any_case() {
    let world = World::new();
    let first = converse(&world, "offline: repeat The Quick brown fox", &[]);
    converse(&world, "offline: repeat something else", &[]);
    let found = json(&run_ok(&world, &["sessions", "search", "FOX", "quick", "--json"]));
    let found = found.as_array().expect("an array");
    assert_eq!(found.len(), 2, "the question and its answer: {found:?}");
    assert!(found.iter().all(|finding| finding["session"] == first.as_str() && finding["seq"].is_u64()));
    assert!(found[1]["snippet"].as_str().expect("text").contains("The Quick brown fox"));
    assert_eq!(json(&run_ok(&world, &["sessions", "search", "fox", "else", "--json"])), json("[]"));
}

#[test]
fn findings_are_shown_under_their_session_with_the_way_to_them() {
    let world = World::new();
    let id = converse(&world, "offline: shell echo The quick brown\u{1b}[31m fox", &["-n", "foxes"]);
    converse(&world, "offline: repeat hens", &[]);
    let output = world.run(&["sessions", "search", "quick", "brown*"]);
    let shown = format!("{}--\n{}", stdout(&output), stderr(&output)).replace(&id, "[ID]");
    snapshot("sessions_search", &replace(&shown, r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "[TIME]"));
    let seq = replace(stderr(&output).trim(), r"(?s).*--at (\d+)`.*", "$1");
    assert!(run_ok(&world, &["replay", &id, "--instant", "--at", &seq]).contains("quick"));
}

#[test]
fn an_index_that_lost_something_unnoticed_is_made_anew_when_asked() {
    let world = World::new();
    converse(&world, "offline: repeat foxes", &[]);
    let count = |args: &[&str]| json(&run_ok(&world, args)).as_array().map(Vec::len);
    assert_eq!(count(&["sessions", "search", "foxes", "--json"]), Some(2));
    // Another letter in the middle of a page: SQLite has no checksum of it.
    let path = world.home().join("index/search.sqlite");
    let mut bytes = fs::read(&path).expect("readable");
    let at = bytes.windows(5).position(|word| word == b"foxes").expect("the word is there");
    bytes[at + 4] = b't';
    fs::write(&path, bytes).expect("written");
    assert_eq!(count(&["sessions", "search", "foxes", "--json"]), Some(0));
    assert_eq!(count(&["sessions", "search", "foxes", "--rebuild", "--json"]), Some(2));
    let made = world.run(&["sessions", "search", "--rebuild"]);
    assert_eq!((code(&made), stderr(&made).as_str()), (0, "the search index was made anew: 2 messages\n"), "{made:?}");
}

#[test]
fn a_search_is_narrowed_by_who_what_where_and_when() {
    let world = World::new();
    converse(&world, "offline: shell echo fox", &[]);
    converse(&world, "offline: repeat a red fox", &[]);
    let count = |args: &[&str]| {
        let found = json(&run_ok(&world, &[&["sessions", "search", "--json"], args].concat()));
        found.as_array().expect("an array").len()
    };
    let all = count(&["fox"]);
    assert!(all >= 6, "two questions, a call, its output, two answers: {all}");
    assert_eq!(count(&["fox", "--role", "user"]), 2);
    assert_eq!(count(&["fox", "--role", "user,tool", "--not", "red"]), 3);
    assert_eq!(count(&["fox", "--tool", "shell"]), count(&["--tool", "shell"]));
    assert_eq!(count(&["fox", "--model", "offline"]), all);
    assert_eq!(count(&["fox", "--model", "another"]), 0);
    assert_eq!((count(&["fox", "--cwd", "."]), count(&["fox", "--cwd", "/nowhere"])), (all, 0));
    assert_eq!((count(&["fox", "--since", "1d"]), count(&["fox", "--until", "1d"])), (all, 0));
    assert_eq!((count(&["a red fox"]), count(&["red a fox"]), count(&["fox", "-n", "1"])), (2, 0, 1));
    assert_eq!(count(&["fox", "--best"]), all);
    assert_eq!(code(&world.run(&["sessions", "search", "..."])), 2);
    assert_eq!(code(&world.run(&["sessions", "search", "fox", "--since", "yesterday"])), 2);
}

#[test]
fn a_search_works_without_its_index_and_with_a_damaged_one() {
    let world = World::new();
    converse(&world, "offline: repeat fox", &[]);
    let found = run_ok(&world, &["sessions", "search", "fox", "--json"]);
    let index = world.home().join("index");
    fs::write(index.join("search.sqlite"), "x".repeat(10_000)).expect("written");
    assert_eq!(run_ok(&world, &["sessions", "search", "fox", "--json"]), found);
    let told = world.run(&["-v", "sessions", "search", "fox", "--json"]);
    assert_eq!((code(&told), stderr(&told).as_str()), (0, ""), "it was made anew");
    fs::remove_dir_all(&index).expect("removed");
    assert_eq!(run_ok(&world, &["sessions", "search", "fox", "--json"]), found);
    fs::remove_dir_all(&index).expect("removed");
    fs::write(&index, "in the way").expect("written");
    assert_eq!(run_ok(&world, &["sessions", "search", "fox", "--json"]), found);
    let told = world.run(&["-v", "sessions", "search", "fox", "--json"]);
    assert!(stderr(&told).contains("every log is read, because"), "{}", stderr(&told));
}

#[test]
fn a_replay_shows_what_show_shows_and_stops_where_it_is_told() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    let shown = run_ok(&world, &["sessions", "show", &id]);
    let replayed = run_ok(&world, &["replay", &id, "--instant"]);
    let body = |text: &str| text[text.find("[2]").expect("the profile")..].to_owned();
    assert_eq!(without_places(&body(&replayed)), without_places(&body(&shown)));
    let start = run_ok(&world, &["replay", &id, "--instant", "--at", "3"]);
    assert!(start.contains("[3] you") && !start.contains("assistant"), "{start}");
    assert_eq!(code(&world.run(&["replay", &id, "--instant", "--at", "1000"])), 2);
}

#[test]
fn a_replay_takes_about_as_long_as_it_is_told() {
    let world = World::new();
    let id = converse(&world, "offline: sleep 0.4 s before answering", &[]);
    let took = |args: &[&str]| {
        let start = Instant::now();
        run_ok(&world, &[&["replay", &id], args].concat());
        start.elapsed()
    };
    // Only lower bounds: a busy machine may take any time longer.
    assert!(took(&[]) >= Duration::from_millis(300));
    assert!(took(&["--speed", "2"]) >= Duration::from_millis(150));
}

#[test]
fn tail_follows_a_session_and_prints_its_lines_as_they_are() {
    let world = World::new();
    let writer = Writer::start(&world);
    let mut tail = world.command(&["sessions", "tail", &writer.id, "--json"]).stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("a pipe"));
    let there = fs::read(log(&world, &writer.id)).expect("readable").iter().filter(|byte| **byte == b'\n').count();
    let mut followed = Vec::new();
    for _ in 0..there + 2 {
        assert!(lines.by_ref().read_until(b'\n', &mut followed).expect("readable") > 0);
    }
    drop(lines);
    assert_eq!(wait(&mut tail), Some(0), "a closed standard output is no failure");
    assert!(fs::read(log(&world, &writer.id)).expect("readable").starts_with(&followed));
}

#[test]
fn tail_prints_each_line_once_though_the_files_are_replaced() {
    let world = World::new();
    let id = converse(&world, "offline: repeat one", &[]);
    let mut tail = world.command(&["sessions", "tail", &id, "--json"]).stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("a pipe")).lines().map(|line| json(&line.expect("a line")));
    let mut last = None;
    // Compressed, it goes on in a second file; archived, it is compressed once more.
    for command in [None, Some("compress"), Some("archive")] {
        if let Some(command) = command {
            run_ok(&world, &["sessions", command, &id]);
            run_ok(&world, &["-p", "-m", "offline", "-r", &id, "offline: repeat more"]);
        }
        let end = json(run_ok(&world, &["sessions", "export", &id]).lines().last().expect("a line"))["seq"].as_u64();
        while last < end {
            let line = lines.next().expect("it goes on");
            assert!(last < line["seq"].as_u64(), "{line}");
            last = line["seq"].as_u64();
        }
    }
    run_ok(&world, &["sessions", "rm", "-y", &id]);
    assert_eq!((lines.next(), wait(&mut tail)), (None, Some(2)), "it was removed");
}

#[test]
fn tail_ends_when_nobody_reads_it_though_nothing_happens() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    for args in [&["sessions", "tail", &id][..], &["sessions", "tail", &id, "--json", "-n", "0"]] {
        let mut tail = world.command(args).stdout(Stdio::piped()).spawn().expect("runs");
        drop(tail.stdout.take());
        assert_eq!(wait(&mut tail), Some(0));
    }
}

#[test]
fn the_start_of_an_id_that_many_have_names_them() {
    let world = World::new();
    let ids = [converse(&world, "offline: repeat one", &[]), converse(&world, "offline: repeat two", &[])];
    let refused = world.run(&["sessions", "show", "0"]);
    assert_eq!(code(&refused), 2);
    assert!(ids.iter().all(|id| stderr(&refused).contains(id)), "{}", stderr(&refused));
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().expect("killed");
            panic!("it did not end");
        }
        #[expect(clippy::disallowed_methods, reason = "a test's wait for another process, with a limit")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn replace(text: &str, pattern: &str, by: &str) -> String {
    Regex::new(pattern).expect("a pattern").replace_all(text, by).into_owned()
}

/// Without what differs from run to run.
fn settled(world: &World, text: &str) -> String {
    let real = world.work().canonicalize().expect("there");
    let text = text.replace(&*real.to_string_lossy(), "[WORK]");
    let text = replace(&text, r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "[TIME]");
    let text = replace(&text, r"prompt of \d+", "prompt of [N]");
    replace(&text, r"\d+(\.\d)? m?s:", "[TOOK]:")
}

/// Without the place and time of a message: those of a live answer are its request's.
fn without_places(text: &str) -> String {
    replace(text, r"(?m)^\[\d+\]|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "")
}

#[test]
fn a_file_that_cannot_be_read_stops_no_check_of_the_others() {
    let world = World::new();
    let good = converse(&world, "offline: repeat hello", &[]);
    let bad = converse(&world, "offline: repeat hello", &[]);
    let path = log(&world, &bad);
    fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink("/dev/null", &path).expect("a link to what is no file");
    let verified = world.run(&["sessions", "verify", "--json"]);
    assert_eq!(code(&verified), 1, "{verified:?}");
    let verified = json(&stdout(&verified));
    let ok = |id: &str| {
        verified.as_array().expect("an array").iter().find(|session| session["id"] == id).expect("it is there")["ok"].clone()
    };
    assert_eq!((ok(&good), ok(&bad)), (Value::from(true), Value::from(false)));
    assert_eq!(json(&run_ok(&world, &["sessions", "list", "--json"])).as_array().map(Vec::len), Some(2));
    run_ok(&world, &["sessions", "search", "hello"]);
}

#[test]
fn tail_shows_an_answer_while_it_is_written() {
    let world = World::new();
    let writer = Writer::start(&world);
    let mut tail = world.command(&["sessions", "tail", &writer.id]).stdout(Stdio::piped()).spawn().expect("runs");
    let mut out = tail.stdout.take().expect("a pipe");
    let mut shown = Vec::new();
    let mut chunk = [0; 4096];
    // An answer of some kilobytes is on its way: what is here in the middle of it cannot be all of it.
    let after_head = |shown: &[u8]| {
        let text = String::from_utf8_lossy(shown).into_owned();
        text.split_once("assistant (offline)").and_then(|(_, rest)| Some(rest.split_once('\n')?.1.len())).unwrap_or(0)
    };
    while after_head(&shown) < 500 {
        let length = out.read(&mut chunk).expect("readable");
        assert!(length > 0, "it ended");
        shown.extend_from_slice(&chunk[..length]);
    }
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert_eq!(shown.matches("assistant (offline)").count(), 1, "{shown}");
    drop(out);
    assert_eq!(wait(&mut tail), Some(0));
}

#[test]
fn a_compressed_session_reads_as_before_and_goes_on() {
    let world = World::new();
    let id = converse(&world, "hello there", &["-n", "tides"]);
    let shown = run_ok(&world, &["sessions", "show", &id]);
    let mut rows = json(&run_ok(&world, &["sessions", "compress", "tides", "--json"]));
    let row = rows[0].take();
    assert_eq!((&row["id"], &row["error"]), (&Value::from(id.as_str()), &Value::Null));
    assert!(row["after"].as_u64() < row["before"].as_u64(), "{row}");
    let packed = log_named(&world, &format!("{id}.jsonl.zst"));
    assert_eq!(fs::metadata(&packed).expect("there").len(), row["after"]);
    let again = world.run(&["sessions", "compress", "tides"]);
    assert!(stderr(&again).starts_with(&format!("{id} is compressed already, ")), "{again:?}");

    assert_eq!(run_ok(&world, &["sessions", "show", &id]), shown);
    let exported = run_ok(&world, &["sessions", "export", &id]);
    assert_eq!(exported.as_bytes(), zstd_lines(&packed));
    assert_eq!(json(&run_ok(&world, &["sessions", "verify", "--json"]))[0]["ok"], true);
    let output = world.run(&["-p", "-r", &id, "-m", "offline", "go on"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(run_ok(&world, &["sessions", "export", &id]).starts_with(&exported));
    assert!(run_ok(&world, &["sessions", "show", &id]).contains("go on"));
}

#[test]
fn an_archived_session_leaves_the_list_and_comes_back() {
    let world = World::new();
    let (id, other) = (converse(&world, "put me away", &["-n", "away"]), converse(&world, "and me", &[]));
    let ids = |args: &[&str]| -> Vec<String> {
        let list = json(&run_ok(&world, args));
        list.as_array().expect("an array").iter().map(|session| session["id"].as_str().expect("an id").to_owned()).collect()
    };
    let none = world.run(&["sessions", "archive", "--undo", "away"]);
    assert_eq!(code(&none), 2);
    assert_eq!(stderr(&none), "error: there is no session `away` in the archive\n\nhint: the archive is empty\n");
    run_ok(&world, &["sessions", "archive", "away"]);
    let named = world.run(&["sessions", "show", "away"]);
    assert_eq!(code(&named), 2);
    assert!(
        stderr(&named).starts_with("error: session `away` is in the archive\n\nhint: `longhand sessions archive --undo "),
        "{named:?}"
    );
    let none = world.run(&["sessions", "archive", "--undo", &other]);
    assert!(stderr(&none).contains("in the archive\n\nhint: `longhand sessions list --archived` lists it\n"), "{none:?}");
    let again = world.run(&["sessions", "archive", &id]);
    assert!(stderr(&again).starts_with(&format!("archived {id}, ")), "{again:?}");
    let found = world.run(&["sessions", "search", "put"]);
    let hint = "nothing was found\nthe session in the archive is not searched; `--archived` searches it, too\n";
    assert!(stderr(&found).ends_with(hint), "{found:?}");
    let found = json(&run_ok(&world, &["sessions", "search", "me", "--role", "user", "--archived", "--json"]));
    let found: Vec<_> = found.as_array().expect("an array").iter().map(|found| &found["session"]).collect();
    assert_eq!(found, [other.as_str(), id.as_str()], "the newest first");
    let cut = world.run(&["sessions", "search", "me", "--role", "user", "--archived", "-n", "1"]);
    assert!(stdout(&cut).contains(&other) && !stdout(&cut).contains(&id) && stderr(&cut).contains("there is more"), "{cut:?}");
    assert_eq!(ids(&["sessions", "list", "--json"]), [other.as_str()]);
    assert_eq!(ids(&["sessions", "list", "--archived", "--json"]), [id.as_str()]);
    assert!(run_ok(&world, &["sessions", "show", &id]).contains("put me away"));
    assert!(run_ok(&world, &["replay", &id, "--instant"]).contains("put me away"));
    run_ok(&world, &["sessions", "archive", "--undo", "away"]);
    assert_eq!(ids(&["sessions", "list", "--json"]).len(), 2);

    // Resumed, it comes back by itself, and that is said.
    for meant in [id.as_str(), &id[..18], "away"] {
        run_ok(&world, &["sessions", "archive", &id]);
        let output = world.run(&["-p", "-r", meant, "-m", "offline", "go on"]);
        assert_eq!(code(&output), 0, "{output:?}");
        assert!(stderr(&output).contains("back from the archive"), "{output:?}");
        assert_eq!(ids(&["sessions", "list", "--json"]).len(), 2);
    }

    let none = world.run(&["sessions", "archive", "--older-than", "1d"]);
    assert_eq!((code(&none), stderr(&none).as_str()), (0, "no session is old enough\n"));
    assert_eq!(code(&world.run(&["sessions", "archive"])), 2, "which ones?");
}
