//! Keeping house: `sessions stats`, `repair`, `prune`, the quota; and that all of the home is its owner's alone.

use crate::common::{World, code, snapshot, stderr, stdout};
use crate::sessions::{converse, files, json, log, run_ok};
use regex::Regex;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A report without the sizes and dates of this run.
fn steady(shown: &str) -> String {
    let sizes = Regex::new(r" *\b\d+(\.\d+)? (bytes|kB)").expect("a pattern");
    let dates = Regex::new(r"\d{4}-\d\d-\d\d").expect("a pattern");
    let times = Regex::new(r"\d{8}T\d{6}\.\d{3}Z").expect("a pattern");
    let offsets = Regex::new(r"\(byte \d+\)").expect("a pattern");
    let shown = offsets.replace_all(shown, "(byte [N])");
    let shown = times.replace_all(&shown, "[TIME]");
    let shown = dates.replace_all(&shown, "[DATE]");
    sizes.replace_all(&shown, " [SIZE]").into_owned()
}

/// What became of two lines: the third was edited, the fifth is there twice.
fn damage(path: &Path) {
    let text = fs::read_to_string(path).expect("a log");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[3] = lines[3].replace("offline", "OFFLINE");
    lines.insert(5, lines[4].clone());
    fs::write(path, lines.join("\n") + "\n").expect("written");
}

#[test]
fn what_sessions_take_is_told_for_people_and_for_programs() {
    let world = World::new();
    assert_eq!(json(&run_ok(&world, &["sessions", "stats", "--json"]))["sessions"], 0);
    let id = converse(&world, "offline: repeat one", &[]);
    converse(&world, "offline: repeat two", &[]);
    snapshot("sessions_stats", &steady(&world.show_run(&["sessions", "stats", "-n", "1"])));
    let stats = json(&run_ok(&world, &["sessions", "stats", "--json"]));
    assert_eq!((&stats["sessions"], &stats["archived"]), (&2.into(), &0.into()));
    let size = fs::metadata(log(&world, &id)).expect("there").len();
    let of_it = stats["largest"].as_array().expect("an array").iter().find(|session| session["id"] == id.as_str());
    assert_eq!(of_it.expect("listed")["bytes"], size);
    assert!(stats["by_model"][0]["input_tokens"].as_u64() > Some(0), "{stats}");
    assert!(stats["quota"].is_null());
    let stats = json(&run_ok(&world, &["--quota", "1MB", "sessions", "stats", "--json"]));
    assert_eq!(stats["quota"], serde_json::json!({"used_bytes": stats["bytes"]["total"], "limit_bytes": 1_000_000}));
    let text = world.show_run(&["--quota", "1MB", "sessions", "stats"]);
    assert!(text.contains("% of the quota of 1.0 MB\n"), "{text}");
}

#[test]
fn a_damaged_session_is_mended_and_kept_as_it_was() {
    let world = World::new();
    let id = converse(&world, "offline: repeat hello", &[]);
    let path = log(&world, &id);
    damage(&path);
    let damaged = fs::read(&path).expect("a log");
    assert_eq!(code(&world.run(&["sessions", "verify"])), 1);

    snapshot("sessions_repair_dry_run", &steady(&world.show_run(&["sessions", "repair", &id, "--dry-run"])));
    assert_eq!(fs::read(&path).expect("a log"), damaged, "a dry run changes nothing");
    snapshot("sessions_repair", &steady(&world.show_run(&["sessions", "repair", &id])));
    run_ok(&world, &["sessions", "verify"]);
    assert!(files(&world.home().join("repaired")).into_values().any(|bytes| bytes == damaged));
    let again = json(&run_ok(&world, &["sessions", "repair", &id, "--json"]));
    assert_eq!((&again[0]["mended"], &again[0]["original"]), (&json("[]"), &json("null")));
    let answer = run_ok(&world, &["-p", "-r", &id, "offline: repeat again"]);
    assert_eq!(answer, "again\n");
}

#[test]
fn pruning_archives_first_and_removes_only_what_is_archived() {
    let world = World::new();
    let ids: Vec<String> = ["one", "two", "three"].map(|word| converse(&world, &format!("offline: repeat {word}"), &[])).into();
    let named = converse(&world, "offline: repeat kept", &["-n", "kept"]);
    let newest = converse(&world, "offline: repeat newest", &[]);
    let listed = |more: &[&str]| -> Vec<String> {
        let list = json(&run_ok(&world, &[&["sessions", "list", "--json"], more].concat()));
        list.as_array().expect("an array").iter().map(|session| session["id"].as_str().expect("an id").to_owned()).collect()
    };

    let all = ["sessions", "prune", "--keep-last", "0"];
    snapshot("sessions_prune_dry_run", &steady(&world.show_run(&[&all[..], &["--dry-run"]].concat())));
    assert_eq!(listed(&[]).len(), 5, "a dry run changes nothing");
    snapshot("sessions_prune_unasked", &world.show_run(&all));
    assert_eq!(listed(&[]).len(), 5, "nobody was asked");
    let delete = [&all[..], &["--delete", "--yes"]].concat();
    assert_eq!(json(&run_ok(&world, &[&delete[..], &["--json"]].concat()))["sessions"], json("[]"), "nothing is archived yet");

    run_ok(&world, &[&all[..], &["--yes"]].concat());
    assert_eq!(listed(&[]), [&newest[..], &named], "the newest of the directory and the named one stay");
    let shown = run_ok(&world, &["sessions", "show", &ids[0]]);
    assert!(shown.contains("one"), "what is archived can be read: {shown}");

    let report = json(&run_ok(&world, &[&delete[..], &["--json"]].concat()));
    assert_eq!((&report["action"], &report["done"]), (&"delete".into(), &true.into()));
    assert_eq!(report["sessions"].as_array().map(Vec::len), Some(3), "{report}");
    assert_eq!(code(&world.run(&["sessions", "show", &ids[0]])), 2, "it is gone for good");
    assert_eq!(listed(&[]).len(), 2);
}

#[test]
fn a_session_in_use_is_not_pruned() {
    let world = World::new();
    let old = converse(&world, "offline: repeat old", &[]);
    let writer = crate::sessions::Writer::start(&world);
    let report = json(&run_ok(&world, &["sessions", "prune", "--keep-last", "0", "--yes", "--json"]));
    assert_eq!(report["kept"]["open"], 1, "{report}");
    let chosen: Vec<_> = report["sessions"].as_array().expect("an array").iter().map(|session| &session["id"]).collect();
    assert_eq!(chosen, [old.as_str()]);
    drop(writer);
}

#[test]
fn a_quota_warns_and_refuses_nothing() {
    let world = World::new();
    converse(&world, "offline: repeat one", &[]);
    let turn = |quota: &str| world.run(&["-p", "-m", "offline", "--quota", quota, "offline: repeat two"]);
    let (enough, used_up) = (turn("1GB"), turn("100"));
    assert_eq!((code(&enough), stderr(&enough)), (0, String::new()));
    assert_eq!((code(&used_up), stdout(&used_up).as_str()), (0, "two\n"));
    assert!(stderr(&used_up).contains("the quota of 100 bytes is used up"), "{used_up:?}");
    assert_eq!(code(&world.command(&["doctor"]).env("LONGHAND_QUOTA", "100").output().expect("runs")), 1);
    assert_eq!(code(&world.run(&["--quota", "much", "sessions", "list"])), 2);
}

/// The modes of all files and folders below `root` that somebody else could read, write or enter.
fn not_private(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()).chain([folder.clone()])
        {
            let metadata = fs::symlink_metadata(&path).expect("there");
            let (mode, expected) = (metadata.permissions().mode() & 0o777, if metadata.is_dir() { 0o700 } else { 0o600 });
            if mode != expected {
                found.push(format!("{} is {mode:o}", path.display()));
            }
            if metadata.is_dir() && path != folder {
                folders.push(path);
            }
        }
    }
    found
}

#[test]
fn all_of_the_home_is_its_owners_alone_whatever_the_umask() {
    let world = World::new();
    let run = |args: &[&str]| {
        let mut command = world.command(&[]);
        // The program's own command line, in a shell that takes no permission away.
        let program: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        command = std::process::Command::new("sh");
        command.args(["-c", "umask 000; exec env \"$@\"", "sh"]).args(&program).args(args);
        command.current_dir(world.work()).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", world.home().parent().expect("a folder")).env("LONGHAND_HOME", world.home());
        let output = command.stdin(std::process::Stdio::null()).output().expect("runs");
        assert!(output.status.success(), "{args:?}: {output:?}");
        stdout(&output)
    };
    let turn = ["-p", "--output-format", "json", "-m", "offline", "--permission-mode", "allow"];
    let id_of = |printed: String| json(&printed)["session_id"].as_str().expect("an id").to_owned();
    // More than the model is shown, so that the whole is kept in a side file.
    let id = id_of(run(&[&turn[..], &["offline: shell seq -s, 1 40000"]].concat()));
    let other = id_of(run(&[&turn[..], &["offline: repeat hello"]].concat()));
    run(&["sessions", "fork", &id]);
    damage(&log(&world, &other));
    fs::OpenOptions::new()
        .append(true)
        .open(log(&world, &other))
        .map(|mut file| std::io::Write::write_all(&mut file, b"{\"torn"))
        .expect("torn")
        .expect("torn");
    run(&["sessions", "repair", &other]);
    run(&["sessions", "search", "hello"]);
    run(&["sessions", "prune", "--keep-last", "1", "--yes"]);
    run(&["sessions", "rename", &other, "hello"]);

    let folders: Vec<_> = ["sessions", "archive", "repaired", "index", "owners"]
        .into_iter()
        .filter(|name| world.home().join(name).is_dir())
        .collect();
    assert_eq!(folders, ["sessions", "archive", "repaired", "index", "owners"]);
    assert!(
        files(&world.home()).keys().any(|path| path.file_name().is_some_and(|name| name.len() == 64)),
        "there is a side file"
    );
    assert_eq!(not_private(&world.home()), Vec::<String>::new());
}
