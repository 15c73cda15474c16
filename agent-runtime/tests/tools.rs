//! What the built-in tools promise, each tried on real files and real processes in a directory of its own.

#![expect(clippy::disallowed_methods, reason = "a test hands over its own environment")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in helpers too")]

use agent_runtime::session_store::{Clock, SessionId, SystemClock, Todo, TodoStatus};
use agent_runtime::tools::{builtin, check_arguments, reaper, visible};
use agent_runtime::{Interrupt, OutputSink, Tool, ToolContext, ToolError, ToolOutput};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Generous: a test that reaches it hangs.
const HANG: Duration = Duration::from_secs(30);

struct Workspace {
    dir: TempDir,
    context: ToolContext,
}

impl Workspace {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = vec![("PATH".to_owned(), std::env::var("PATH").unwrap())];
        let context = ToolContext {
            // One for each test: the reaper counts by session.
            session: SessionId::new(SystemClock.now()),
            call: "call_1_0".into(),
            cwd: dir.path().to_owned(),
            add_dirs: Vec::new(),
            env: Arc::new(env),
            interrupt: Interrupt::new(),
            todos: Arc::default(),
            output: OutputSink::default(),
        };
        Self { dir, context }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let workspace = Self::new();
        for (name, content) in files {
            workspace.put(name, content);
        }
        workspace
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn get(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// Runs a tool as the loop does: arguments checked first.
    async fn run(&self, name: &str, arguments: Value) -> Result<ToolOutput, ToolError> {
        let tool = tool(name);
        let arguments = check_arguments(&tool.spec(), &arguments.to_string()).expect("the arguments fit");
        tool.run(arguments, ToolContext { output: OutputSink::default(), ..self.context.clone() }).await
    }

    async fn text(&self, name: &str, arguments: Value) -> String {
        self.run(name, arguments).await.expect("the tool succeeds").text
    }

    async fn error(&self, name: &str, arguments: Value) -> String {
        self.run(name, arguments).await.expect_err("the tool fails").0
    }

    async fn idle(&self) {
        tokio::time::timeout(HANG, reaper().idle(self.context.session)).await.expect("the reaper ends");
    }
}

fn tool(name: &str) -> Arc<dyn Tool> {
    builtin().into_iter().find(|tool| tool.spec().name == name).expect("a built-in tool")
}

// All of them.

#[test]
fn built_in_tools_are_sorted_and_their_schemas_are_closed_objects() {
    let names: Vec<String> = builtin().iter().map(|tool| tool.spec().name).collect();
    assert_eq!(names, ["edit", "list", "read", "search", "shell", "todo", "write"]);
    for tool in builtin() {
        let spec = tool.spec();
        assert_eq!(spec.parameters["type"], "object", "{}", spec.name);
        assert_eq!(spec.parameters["additionalProperties"], false, "{}", spec.name);
        assert!(check_arguments(&spec, r#"{"no such argument": 1}"#).is_err(), "{}", spec.name);
        assert_eq!(spec, tool.spec(), "the bytes that a model sees are stable");
    }
}

#[test]
fn only_what_changes_something_outside_the_session_has_side_effects() {
    let with: Vec<String> = builtin().iter().filter(|tool| tool.side_effects()).map(|tool| tool.spec().name).collect();
    assert_eq!(with, ["edit", "shell", "write"]);
}

#[test]
fn wrong_arguments_are_explained_in_words_that_a_model_can_act_on() {
    let spec = tool("read").spec();
    let error = |raw: &str| check_arguments(&spec, raw).unwrap_err();
    assert!(error("{\"path\": \"a\"").contains("not valid JSON"));
    assert!(error("[1]").contains("not a JSON object"));
    assert!(error("").contains("\"path\" is a required property"), "{}", error(""));
    let unknown = error(r#"{"file": "a"}"#);
    assert!(unknown.contains("'file' was unexpected") && unknown.contains("`path` (required)"), "{unknown}");
    let offset = error(r#"{"path": "a", "offset": 0}"#);
    assert!(offset.contains("at `/offset`"), "{offset}");
    let deep = format!(r#"{{"path": {}}}"#, "[".repeat(100_000));
    assert!(error(&deep).contains("not valid JSON"));
    let long = error(&format!(r#"{{"path": ["{}"]}}"#, "x".repeat(100_000)));
    assert!(long.len() < 2000, "a long value is not quoted whole: {} bytes", long.len());
    assert_eq!(check_arguments(&tool("list").spec(), " ").unwrap(), json!({}));
}

#[test]
fn descriptions_are_one_line_and_show_hidden_characters() {
    let shown = tool("shell").describe(&json!({"command": "echo hi\n\u{1b}[2Jrm -rf \u{202e}x"}));
    assert_eq!(shown, "shell: echo hi\\n\\u{1b}[2Jrm -rf \\u{202e}x");
    let long = "x".repeat(5000);
    assert!(tool("shell").describe(&json!({"command": long})).contains(&long), "a command is shown whole");
    assert_eq!(tool("write").describe(&json!({"path": "a\tb", "content": "12345"})), "write a\\tb (5 bytes)");
    assert_eq!(visible("plain \u{e4}\u{1f600}"), "plain \u{e4}\u{1f600}");
}

#[test]
fn reads_outside_of_the_working_directory_need_approval() {
    let outside = tempfile::tempdir().unwrap();
    let mut workspace = Workspace::with(&[("inner/file", "")]);
    symlink(outside.path(), workspace.dir.path().join("link")).unwrap();
    symlink("nowhere/at/all", workspace.dir.path().join("dangling")).unwrap();
    symlink("../..", workspace.dir.path().join("inner/up")).unwrap();
    symlink("loop", workspace.dir.path().join("loop")).unwrap();
    let asks = |context: &ToolContext, path: &str| {
        let asks: Vec<bool> = ["read", "list", "search"]
            .map(|name| tool(name).needs_approval(&json!({"path": path, "pattern": "x"}), context))
            .into();
        assert!(asks.iter().all(|ask| *ask == asks[0]), "the tools agree on {path}");
        asks[0]
    };
    let absolute = workspace.dir.path().join("inner/file");
    for path in [".", "inner/file", "inner/../inner", "not/there", "dangling", absolute.to_str().unwrap()] {
        assert!(!asks(&workspace.context, path), "{path}");
    }
    for path in ["..", "inner/../..", "/etc/passwd", "link/x", "link", "inner/up/x", "not/there/../../../x", "loop"] {
        assert!(asks(&workspace.context, path), "{path}");
    }
    workspace.context.add_dirs.push(outside.path().to_owned());
    assert!(!asks(&workspace.context, "link/x"), "an added directory is inside");
    assert!(
        tool("write").needs_approval(&json!({"path": "inner/file"}), &workspace.context),
        "side effects are asked for anywhere"
    );
}

// read

#[tokio::test]
async fn read_numbers_lines_and_says_where_to_go_on() {
    let lines: String = (1..=10).map(|line| format!("line {line}\r\n")).collect();
    let workspace = Workspace::with(&[("file", &lines), ("empty", ""), ("last", "no newline")]);
    let text = workspace.text("read", json!({"path": "file", "offset": 3, "limit": 2})).await;
    assert_eq!(text, "     3\tline 3\n     4\tline 4\n[more lines follow: read on with offset 5]\n");
    assert_eq!(workspace.text("read", json!({"path": "file", "offset": 9})).await, "     9\tline 9\n    10\tline 10\n");
    assert_eq!(workspace.text("read", json!({"path": "last"})).await, "     1\tno newline\n");
    assert_eq!(workspace.text("read", json!({"path": "empty"})).await, "[`empty` is empty]\n");
    assert_eq!(workspace.error("read", json!({"path": "file", "offset": 11})).await, "`file` has only 10 lines");
}

#[tokio::test]
async fn read_refuses_what_is_no_text_file_with_a_clear_error() {
    let workspace = Workspace::new();
    workspace.put("binary", [b'a', 0, b'b']);
    workspace.put("latin1", b"caf\xe9\n");
    fs::create_dir(workspace.dir.path().join("dir")).unwrap();
    let pipe = workspace.dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(workspace.error("read", json!({"path": "binary"})).await, "`binary` is a binary file of 3 bytes");
    assert_eq!(workspace.error("read", json!({"path": "dir"})).await, "`dir` is a directory: use `list`");
    assert_eq!(workspace.error("read", json!({"path": "pipe"})).await, "`pipe` is not a regular file");
    assert!(workspace.error("read", json!({"path": "absent"})).await.starts_with("cannot read `absent`: "));
    assert_eq!(workspace.text("read", json!({"path": "latin1"})).await, "     1\tcaf\u{fffd}\n");
}

#[tokio::test]
async fn read_shows_an_image_whatever_its_name() {
    let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &640_u32.to_be_bytes()[..], &480_u32.to_be_bytes()].concat();
    let workspace = Workspace::new();
    workspace.put("photo.txt", &png);
    workspace.put("cut.png", &png[..20]);
    workspace.put("huge.png", [&png[..], &[0; 4_000_000]].concat());
    let output = workspace.run("read", json!({"path": "photo.txt"})).await.unwrap();
    assert_eq!(output.text, "[`photo.txt`: png 640x480, 24 bytes]");
    assert_eq!(output.images.iter().map(|image| &image.bytes()[..]).collect::<Vec<_>>(), [&png[..]]);
    let error = workspace.error("read", json!({"path": "cut.png"})).await;
    assert_eq!(error, "`cut.png` cannot be shown: the png is cut or damaged: its size cannot be read");
    assert!(workspace.error("read", json!({"path": "huge.png"})).await.contains("the image has 4000024 bytes"));
}

#[tokio::test]
async fn read_of_a_huge_file_is_bounded() {
    let workspace = Workspace::new();
    workspace.put("one-line", "x".repeat(20_000_000));
    workspace.put("many", "0123456789abcdef\n".repeat(400_000));
    let one = workspace.text("read", json!({"path": "one-line"})).await;
    assert!(one.len() < 3000 && one.ends_with("[... a line of 20000000 bytes]\n"), "{} bytes", one.len());
    let many = workspace.text("read", json!({"path": "many", "limit": 10000})).await;
    assert_eq!(many.lines().count(), 10001);
    let wide = "w".repeat(1999) + "\n";
    workspace.put("wide", wide.repeat(5000));
    let wide = workspace.text("read", json!({"path": "wide", "limit": 10000})).await;
    assert!(wide.len() < 300_000 && wide.ends_with("]\n"), "{} bytes", wide.len());
    let deep = workspace.text("read", json!({"path": "many", "offset": 399_999})).await;
    assert!(deep.starts_with("399999\t") && deep.lines().count() == 2);
}

// list

#[tokio::test]
async fn list_is_sorted_heeds_gitignore_and_is_bounded() {
    let workspace = Workspace::with(&[
        (".gitignore", "target\n*.log\n"),
        (".git/config", ""),
        ("b.txt", "12345"),
        ("a/inner", ""),
        ("a/noise.log", ""),
        ("target/out", ""),
    ]);
    symlink("b.txt", workspace.dir.path().join("link")).unwrap();
    assert_eq!(workspace.text("list", json!({})).await, ".gitignore  13\na/\nb.txt  5\nlink -> b.txt\n");
    assert_eq!(
        workspace.text("list", json!({"depth": 2, "limit": 3})).await,
        ".gitignore  13\na/\na/inner  0\n[2 more entries: list a directory in it, or raise `limit`]\n"
    );
    fs::create_dir(workspace.dir.path().join("void")).unwrap();
    assert_eq!(workspace.text("list", json!({"path": "void"})).await, "[`void` is empty]\n");
    assert_eq!(workspace.error("list", json!({"path": "b.txt"})).await, "`b.txt` is a file: use `read`");
    assert!(workspace.error("list", json!({"path": "absent"})).await.starts_with("cannot list `absent`: "));
}

// search

#[tokio::test]
async fn search_gives_matching_lines_by_file() {
    let workspace = Workspace::with(&[
        (".gitignore", "ignored\n"),
        ("src/a.rs", "fn main() {}\n// nothing\nfn other() {}\r\n"),
        ("src/b.txt", "fn text\n"),
        ("ignored", "fn x\n"),
        ("c.rs", "FN loud\n"),
    ]);
    workspace.put("binary", b"fn \0");
    let found = workspace.text("search", json!({"pattern": r"^fn \w+"})).await;
    assert_eq!(
        found,
        "src/a.rs\n     1\tfn main() {}\n     3\tfn other() {}\nsrc/b.txt\n     1\tfn text\n[3 lines in 2 files]\n"
    );
    let rust = workspace.text("search", json!({"pattern": "fn", "glob": "*.rs", "ignore_case": true, "limit": 2})).await;
    assert!(rust.starts_with("c.rs\n     1\tFN loud\nsrc/a.rs\n     1\t"), "{rust}");
    assert!(rust.ends_with("[more lines match than these 2: narrow the pattern, the path or the glob]\n"), "{rust}");
    let below = workspace.text("search", json!({"pattern": "text", "path": "src"})).await;
    assert_eq!(below, "src/b.txt\n     1\tfn text\n[1 line in 1 file]\n");
    assert_eq!(workspace.text("search", json!({"pattern": "text", "path": "src/b.txt"})).await, below);
    assert_eq!(workspace.text("search", json!({"pattern": "absent"})).await, "[nothing in `.` matches]\n");
    assert!(workspace.error("search", json!({"pattern": "("})).await.contains("is no regular expression"));
    assert!(workspace.error("search", json!({"pattern": "x", "path": "absent"})).await.starts_with("cannot search `absent`"));
}

#[tokio::test]
async fn search_shows_a_match_far_into_a_long_line() {
    let workspace = Workspace::new();
    workspace.put("long", format!("{}needle{}\n", "\u{e4}".repeat(100_000), "z".repeat(100_000)));
    let found = workspace.text("search", json!({"pattern": "needle"})).await;
    assert!(found.contains("needle") && found.contains("a line of 300006 bytes") && found.len() < 2000, "{found}");
}

#[tokio::test]
async fn long_file_work_ends_at_an_interrupt() {
    let workspace = Workspace::new();
    workspace.put("many", "x\n".repeat(1_000_000));
    workspace.context.interrupt.raise();
    assert_eq!(workspace.error("search", json!({"pattern": "y"})).await, "stopped before it was done");
    assert_eq!(workspace.error("write", json!({"path": "new", "content": "x"})).await, "stopped before it was done");
    assert!(!workspace.dir.path().join("new").exists(), "nothing is written after an interrupt");
}

// write

#[tokio::test]
async fn write_creates_directories_and_replaces_whole_files_keeping_their_mode() {
    let workspace = Workspace::with(&[("script", "old and long")]);
    let script = workspace.dir.path().join("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(workspace.text("write", json!({"path": "a/b/c", "content": "new\n"})).await, "Created `a/b/c` (4 bytes).");
    assert_eq!(workspace.get("a/b/c"), "new\n");
    assert_eq!(workspace.text("write", json!({"path": "script", "content": ""})).await, "Replaced `script` (0 bytes).");
    assert_eq!(workspace.get("script"), "");
    assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(names(workspace.dir.path()), ["a", "script"], "no temporary file is left");
}

#[tokio::test]
async fn write_goes_through_links_and_refuses_what_is_no_file() {
    let outside = tempfile::tempdir().unwrap();
    let workspace = Workspace::with(&[("target", "old"), ("locked", "kept")]);
    let path = |name: &str| workspace.dir.path().join(name);
    symlink("target", path("link")).unwrap();
    symlink(outside.path().join("born"), path("dangling")).unwrap();
    fs::create_dir(path("dir")).unwrap();
    fs::set_permissions(path("locked"), fs::Permissions::from_mode(0o444)).unwrap();
    workspace.text("write", json!({"path": "link", "content": "new"})).await;
    assert_eq!(workspace.get("target"), "new");
    assert!(path("link").is_symlink(), "the link stays a link");
    let told = workspace.text("write", json!({"path": "dangling", "content": "x"})).await;
    assert!(told.contains(outside.path().canonicalize().unwrap().to_str().unwrap()), "the true place is told: {told}");
    assert_eq!(workspace.error("write", json!({"path": "dir", "content": ""})).await, "`dir` is a directory");
    assert_eq!(workspace.error("write", json!({"path": "new/", "content": ""})).await, "`path` ends in `/`: name a file");
    assert!(workspace.error("write", json!({"path": "locked", "content": ""})).await.contains("read-only"));
    assert!(workspace.error("write", json!({"path": "target/x", "content": ""})).await.starts_with("cannot "));
    assert_eq!(workspace.get("locked"), "kept");
}

// edit

#[tokio::test]
async fn edit_replaces_a_unique_text_and_refuses_an_absent_or_ambiguous_one() {
    let workspace = Workspace::with(&[("file", "one\n  two\none\nthree\n")]);
    let edit = |old: &str, new: &str| json!({"path": "file", "old": old, "new": new});
    assert_eq!(
        workspace.error("edit", edit("one", "1")).await,
        "`old` occurs 2 times in `file`, at lines 1, 3: give more of the lines around it, or set `replace_all`"
    );
    assert_eq!(
        workspace.error("edit", edit("two\nfour", "2")).await,
        "`old` does not occur in `file`: line 2 differs from it in white space, or what follows it does. Read it again"
    );
    assert_eq!(
        workspace.error("edit", edit("none", "x")).await,
        "`old` does not occur in `file`. Read it again: it may have changed"
    );
    assert_eq!(workspace.error("edit", edit("two", "two")).await, "`old` and `new` are the same: nothing to do");
    assert_eq!(workspace.text("edit", edit("one\nthree", "3")).await, "Replaced 1 occurrence in `file`, at line 3.");
    assert_eq!(workspace.get("file"), "one\n  two\n3\n");
    workspace.put("file", "aXbXc");
    let all = json!({"path": "file", "old": "X", "new": "", "replace_all": true});
    assert_eq!(workspace.text("edit", all).await, "Replaced 2 occurrences in `file`, the first at line 1.");
    assert_eq!(workspace.get("file"), "abc");
}

#[tokio::test]
async fn edit_takes_overlapping_occurrences_as_ambiguous() {
    let workspace = Workspace::with(&[("file", "aaa")]);
    let error = workspace.error("edit", json!({"path": "file", "old": "aa", "new": "b"})).await;
    assert!(error.contains("occurs 2 times"), "{error}");
}

#[tokio::test]
async fn edit_keeps_line_endings_and_mode_and_refuses_what_it_would_harm() {
    let workspace = Workspace::with(&[("dos", "a\r\nb\r\nc\r\n"), ("mixed", "a\r\nb\nc\n")]);
    let dos = workspace.dir.path().join("dos");
    fs::set_permissions(&dos, fs::Permissions::from_mode(0o600)).unwrap();
    workspace.text("edit", json!({"path": "dos", "old": "a\nb", "new": "x\ny\nz"})).await;
    assert_eq!(workspace.get("dos"), "x\r\ny\r\nz\r\nc\r\n");
    assert_eq!(fs::metadata(dos).unwrap().permissions().mode() & 0o777, 0o600);
    workspace.text("edit", json!({"path": "mixed", "old": "b\nc", "new": "d"})).await;
    assert_eq!(workspace.get("mixed"), "a\r\nd\n");
    workspace.put("latin1", b"caf\xe9");
    let error = workspace.error("edit", json!({"path": "latin1", "old": "caf", "new": "x"})).await;
    assert_eq!(error, "`latin1` is not UTF-8 text, and an edit would harm it");
    assert!(workspace.error("edit", json!({"path": "absent", "old": "a", "new": "b"})).await.starts_with("cannot edit `absent`"));
}

// todo

#[tokio::test]
async fn todo_replaces_the_whole_list() {
    let workspace = Workspace::new();
    let items = json!({"todos": [
        {"content": "look", "status": "completed"}, {"content": "act", "status": "in_progress"}, {"content": "tell", "status": "pending"}
    ]});
    let output = workspace.run("todo", items).await.unwrap();
    let todo = |content: &str, status| Todo { content: content.into(), status };
    assert_eq!(
        output.todos,
        Some(vec![todo("look", TodoStatus::Completed), todo("act", TodoStatus::InProgress), todo("tell", TodoStatus::Pending)])
    );
    assert_eq!(output.text, "1 of 3 done\n[x] look\n[>] act\n[ ] tell\n");
    let empty = workspace.run("todo", json!({"todos": []})).await.unwrap();
    assert_eq!(empty.todos, Some(Vec::new()));
    let wrong = check_arguments(&tool("todo").spec(), r#"{"todos": [{"content": "", "status": "done"}]}"#).unwrap_err();
    assert!(wrong.contains("/todos/0/content") && wrong.contains("/todos/0/status"), "{wrong}");
}

// shell

#[tokio::test]
async fn shell_gives_output_in_order_and_the_exit_status() {
    let workspace = Workspace::with(&[("file", "")]);
    let text = workspace.text("shell", json!({"command": "echo one; echo two >&2; echo three; ls"})).await;
    assert_eq!(text, "one\ntwo\nthree\nfile\n");
    assert_eq!(workspace.text("shell", json!({"command": "true"})).await, "[no output]\n");
    assert_eq!(workspace.error("shell", json!({"command": "printf half; exit 3"})).await, "half\n[exit status 3]\n");
    assert_eq!(workspace.error("shell", json!({"command": "kill -9 $$"})).await, "[ended by signal 9]\n");
    workspace.idle().await;
}

#[tokio::test]
async fn shell_has_no_terminal_no_input_and_only_the_environment_it_was_given() {
    let workspace = Workspace::new();
    assert_eq!(workspace.text("shell", json!({"command": "cat; echo end"})).await, "end\n");
    let error = workspace.error("shell", json!({"command": "exec 3</dev/tty"})).await;
    assert!(error.contains("/dev/tty"), "{error}");
    let env = workspace.text("shell", json!({"command": "env | cut -d= -f1 | sort"})).await;
    for name in env.lines() {
        assert!(["LONGHAND_TOOL_CALL", "PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name), "{name} leaked in");
    }
}

#[tokio::test]
async fn shell_output_of_any_length_is_bounded_and_keeps_both_ends() {
    let workspace = Workspace::new();
    let flood = json!({"command": "echo first; yes | head -c 50000000; echo last"});
    let text = workspace.text("shell", flood).await;
    assert!(text.starts_with("first\n") && text.ends_with("last\n"));
    assert!(text.contains("bytes left out") && text.len() < 1_100_000, "{} bytes", text.len());
}

#[tokio::test]
async fn shell_returns_at_once_at_an_interrupt_and_keeps_what_came() {
    let workspace = Workspace::new();
    let interrupt = workspace.context.interrupt.clone();
    let ready = workspace.dir.path().join("ready");
    let command = json!({"command": "trap '' TERM; echo before; touch ready; sleep 60 & sleep 60"});
    let stop = async {
        wait_for(|| ready.exists()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        interrupt.raise();
        Instant::now()
    };
    let (error, raised) = tokio::join!(workspace.error("shell", command), stop);
    let took = raised.elapsed();
    assert_eq!(error, "before\n[interrupted: the command was stopped]\n");
    // SIGTERM is ignored: had it waited for the end, it would have taken two seconds.
    assert!(took < Duration::from_secs(1), "{took:?}");
    workspace.idle().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn shell_is_stopped_at_its_time_limit() {
    let workspace = Workspace::new();
    let error = workspace.error("shell", json!({"command": "echo before; sleep 60", "time_limit": 1})).await;
    assert_eq!(error, "before\n[time limit of 1 s: the command was stopped]\n");
    workspace.idle().await;
    assert_eq!(living_in(workspace.dir.path()), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_is_left_of_an_interrupted_command() {
    for command in [
        "sh -c 'sleep 60 & sleep 60'",
        "trap '' TERM HUP INT; (trap '' TERM; sleep 60; sleep 60) & sleep 60; sleep 60",
        "setsid sleep 60 & setsid sh -c 'sleep 60 & sleep 60' & sleep 60",
        "setsid sh -c \"trap '' TERM; sleep 60; sleep 60\" >/dev/null 2>&1 & sleep 60",
    ] {
        let workspace = Workspace::new();
        let interrupt = workspace.context.interrupt.clone();
        let stop = async {
            wait_for(|| living_in(workspace.dir.path()).len() >= 2).await;
            interrupt.raise();
        };
        let arguments = json!({ "command": command });
        let (error, ()) = tokio::join!(workspace.error("shell", arguments), stop);
        assert!(error.ends_with("[interrupted: the command was stopped]\n"), "{command}: {error}");
        workspace.idle().await;
        assert_eq!(living_in(workspace.dir.path()), Vec::<String>::new(), "{command}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_finished_command_left_in_the_background_neither_holds_it_up_nor_stays() {
    let workspace = Workspace::new();
    // The first keeps the pipe open, the second is in a session of its own.
    let command = json!({"command": "sleep 60 & setsid sleep 60 >/dev/null 2>&1 & echo started"});
    let text = tokio::time::timeout(HANG, workspace.text("shell", command)).await.expect("it does not wait for the pipe");
    assert_eq!(text, "started\n");
    workspace.idle().await;
    assert_eq!(living_in(workspace.dir.path()), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dropped_call_is_ended_too() {
    let workspace = Workspace::new();
    let run = workspace.run("shell", json!({"command": "sleep 60"}));
    let abandoned = async {
        wait_for(|| !living_in(workspace.dir.path()).is_empty()).await;
    };
    tokio::select! {
        _ = run => panic!("it cannot have ended"),
        () = abandoned => {}
    }
    workspace.idle().await;
    assert_eq!(living_in(workspace.dir.path()), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_runtime_that_is_torn_down_leaves_no_process() {
    let workspace = Workspace::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let run = workspace.run("shell", json!({"command": "trap '' TERM; sleep 60 & sleep 60"}));
        tokio::select! {
            _ = run => panic!("it cannot have ended"),
            () = wait_for(|| !living_in(workspace.dir.path()).is_empty()) => {}
        }
    });
    drop(runtime);
    let end = Instant::now() + HANG;
    while !living_in(workspace.dir.path()).is_empty() {
        assert!(Instant::now() < end, "still there: {:?}", living_in(workspace.dir.path()));
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stopped_command_that_ignores_sigterm_can_be_killed_at_once() {
    let workspace = Workspace::new();
    let interrupt = workspace.context.interrupt.clone();
    let run = workspace.error("shell", json!({"command": "trap '' TERM; while :; do sleep 60; done"}));
    let stop = async {
        wait_for(|| living_in(workspace.dir.path()).len() >= 2).await;
        interrupt.raise();
    };
    tokio::join!(run, stop);
    let stopped = Instant::now();
    reaper().kill(workspace.context.session);
    workspace.idle().await;
    // Left to itself it gets two seconds.
    assert!(stopped.elapsed() < Duration::from_millis(1900), "{:?}", stopped.elapsed());
    assert_eq!(living_in(workspace.dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn shell_in_a_directory_that_is_gone_fails_with_a_reason() {
    let mut workspace = Workspace::new();
    workspace.context.cwd = workspace.dir.path().join("gone");
    let error = workspace.error("shell", json!({"command": "true"})).await;
    assert!(error.starts_with("the command could not be started: "), "{error}");
    workspace.idle().await;
}

async fn wait_for(mut is_true: impl FnMut() -> bool) {
    let wait = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(HANG, wait).await.expect("it happens");
}

/// The processes (zombies left out) that work in `dir`: the commands of one test, whoever their parent is now.
#[cfg(target_os = "linux")]
fn living_in(dir: &Path) -> Vec<String> {
    let dir = dir.canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let here = processes.filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == dir));
    here.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok()).filter(|line| !line.is_empty()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
