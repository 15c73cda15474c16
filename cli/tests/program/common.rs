//! A program in a home and a working directory of its own, and what came of a run.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A home, a working directory and nothing else.
pub(crate) struct World {
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("work")).expect("a working directory");
        // The top of where instructions are looked for.
        fs::create_dir(dir.path().join("work/.git")).expect("a repository");
        Self { dir }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// The program with these arguments, no standard input, and an environment without anything of this machine's.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        // A test that runs in the background inherits signals that are ignored, which the program would respect.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_longhand")]);
        command.args(args).current_dir(self.work()).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path()).env("LONGHAND_HOME", self.home());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program runs")
    }

    /// A run with `input` on a pipe that is then closed.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A program that refuses its input closes the pipe early.
        let _ = stdin.write_all(input);
        drop(stdin);
        child.wait_with_output().expect("it ends")
    }

    /// Exit code, standard output and standard error, as a snapshot shows them.
    pub(crate) fn show(&self, output: &Output) -> String {
        let shown = format!(
            "exit: {}\n--- stdout\n{}--- stderr\n{}",
            output.status.code().map_or("none".to_owned(), |code| code.to_string()),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let real = self.dir.path().canonicalize().expect("there");
        shown.replace(&*real.to_string_lossy(), "[DIR]").replace(&*self.dir.path().to_string_lossy(), "[DIR]")
    }

    /// Runs, and shows what came of it.
    pub(crate) fn show_run(&self, args: &[&str]) -> String {
        self.show(&self.run(args))
    }
}

/// Snapshots without what differs from run to run.
pub(crate) fn snapshot(name: &str, shown: &str) {
    insta::with_settings!({
        snapshot_path => "snapshots",
        prepend_module_to_snapshot => false,
        filters => [
            (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "[ID]"),
            (r#""duration_ms": ?\d+"#, r#""duration_ms":[MS]"#),
            (r#""at": ?"[^"]+""#, r#""at":"[TIME]""#),
            (r#""(input|output)_tokens": ?\d+"#, r#""$1_tokens":[N]"#),
        ],
    }, { insta::assert_snapshot!(name, shown) });
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
