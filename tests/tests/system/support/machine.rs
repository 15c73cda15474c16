//! A machine of a test's own: a person's home, a project's folder, longhand's home, and a provider.

use super::run::Run;
use super::{HUNG, Log};
use fault_server::{FaultServer, Script};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Whose protocol the program is to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Anthropic,
    OpenAi,
    Responses,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Anthropic, Self::OpenAi, Self::Responses];
}

/// The credential of the tests: long enough to count as a secret.
pub(crate) const KEY: &str = "key-of-the-whole-system-tests";

pub(crate) struct Machine {
    root: Option<TempDir>,
    path: PathBuf,
    home: PathBuf,
    protocol: Protocol,
    pub(crate) server: FaultServer,
}

impl Machine {
    /// A machine whose provider answers by `script`, in Anthropic's protocol.
    pub(crate) fn new(script: impl Into<Script>) -> Self {
        Self::speaking(Protocol::Anthropic, script)
    }

    pub(crate) fn speaking(protocol: Protocol, script: impl Into<Script>) -> Self {
        let root = TempDir::with_prefix("longhand-test-").expect("a temporary folder");
        // Resolved, so that a working directory reads the same from inside the program.
        let path = root.path().canonicalize().expect("it exists");
        for folder in ["person", "project", "tmp"] {
            fs::create_dir(path.join(folder)).expect("a folder");
        }
        let server = FaultServer::start(script).expect("the server starts");
        Self { home: path.join("home"), root: Some(root), path, protocol, server }
    }

    /// The same machine, with longhand's home elsewhere.
    pub(crate) fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = home.into();
        self
    }

    /// Longhand's home.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The folder in which the program runs.
    pub(crate) fn project(&self) -> PathBuf {
        self.path.join("project")
    }

    /// The model as `--model` takes it.
    pub(crate) fn model(&self) -> &'static str {
        match self.protocol {
            Protocol::Anthropic => "anthropic/test-model",
            Protocol::OpenAi => "openai/test-model",
            Protocol::Responses => "openai-responses/test-model",
        }
    }

    /// The program with these arguments, with the provider's key and address in an otherwise empty environment.
    pub(crate) fn longhand<S: AsRef<str>>(&self, arguments: &[S]) -> Run {
        self.with_key(self.longhand_without_key(arguments))
    }

    /// The program on a machine that knows no provider.
    pub(crate) fn longhand_without_key<S: AsRef<str>>(&self, arguments: &[S]) -> Run {
        // A test that runs in the background inherits signals that are ignored, which the program would respect.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,TERM").arg(program()).args(arguments.iter().map(AsRef::as_ref));
        self.run(command)
    }

    /// A line for a shell, to which the program is known as `longhand`.
    pub(crate) fn shell(&self, line: &str) -> Run {
        self.with_key(self.shell_without_key(line))
    }

    /// The same on a machine that knows no provider.
    pub(crate) fn shell_without_key(&self, line: &str) -> Run {
        let mut command = Command::new("env");
        command
            .args(["--default-signal=HUP,INT,TERM", "sh", "-c", &format!("longhand() {{ \"$0\" \"$@\"; }}; {line}")])
            .arg(program());
        self.run(command)
    }

    fn run(&self, mut command: Command) -> Run {
        command.current_dir(self.project()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8").env("NO_PROXY", "*");
        command.env("HOME", self.path.join("person")).env("TMPDIR", self.path.join("tmp")).env("LONGHAND_HOME", &self.home);
        Run::new(command, HUNG)
    }

    fn with_key(&self, mut run: Run) -> Run {
        let command = run.command();
        command.env("ANTHROPIC_API_KEY", KEY).env("ANTHROPIC_BASE_URL", self.server.url());
        command.env("OPENAI_API_KEY", KEY).env("OPENAI_BASE_URL", self.server.openai_url()).env("OLLAMA_HOST", self.server.url());
        run
    }

    /// `-p` with the test's model and these further arguments.
    pub(crate) fn print<S: AsRef<str>>(&self, arguments: &[S]) -> Run {
        self.longhand(&self.print_arguments(arguments))
    }

    fn print_arguments<S: AsRef<str>>(&self, arguments: &[S]) -> Vec<String> {
        let first = ["-p", "-m", self.model()].map(str::to_owned);
        first.into_iter().chain(arguments.iter().map(|argument| argument.as_ref().to_owned())).collect()
    }

    /// What a `--json` command prints.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let run = self.longhand(arguments).finish();
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error} in the output of {arguments:?}: {run:?}"))
    }

    /// The session files, oldest first.
    pub(crate) fn session_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.home.join("sessions")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "jsonl") {
                    files.push(path);
                }
            }
        }
        // Names begin with the time of creation.
        files.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
        files
    }

    /// The only session's file.
    #[track_caller]
    pub(crate) fn session_file(&self) -> PathBuf {
        let files = self.session_files();
        assert_eq!(files.len(), 1, "one session is expected: {files:?}");
        files[0].clone()
    }

    /// The only session's id.
    #[track_caller]
    pub(crate) fn session(&self) -> String {
        self.session_file().file_stem().expect("a name").to_string_lossy().into_owned()
    }

    /// The only session's log.
    #[track_caller]
    pub(crate) fn log(&self) -> Log {
        Log::read(&self.session_file())
    }

    /// After whatever happened: every session is listed, shown and sound, goes on with one more turn, and nothing that was sent was
    /// refused by the strict server.
    #[track_caller]
    pub(crate) fn assert_goes_on(&self) {
        let before = self.server.requests().len();
        self.server.follow([fault_server::Answer::text("Going on.")]);
        let run = self.print(&["-c", "go on"]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Going on.\n"), "{run:?}");
        assert_eq!(self.server.requests().len(), before + 1, "one more request");
        assert_eq!(self.server.refusals(), Vec::<String>::new());
        self.assert_sessions_are_well();
    }

    /// Every session is listed, shown and sound.
    #[track_caller]
    pub(crate) fn assert_sessions_are_well(&self) {
        let list = self.json(&["sessions", "list", "--json"]);
        let list = list.as_array().expect("an array");
        assert_eq!(list.len(), self.session_files().len(), "{list:?}");
        for session in list {
            assert_eq!(session["state"], "idle", "{session}");
            let id = session["id"].as_str().expect("an id");
            let shown = self.json(&["sessions", "show", id, "--json"]);
            assert!(shown["messages"].as_array().is_some_and(|messages| !messages.is_empty()), "{shown}");
            // Whatever happened in it, the same program does the same again.
            let again = self.json(&["replay", id, "--verify", "--json"]);
            assert_eq!((&again["changed"], &again["difference"]), (&Value::Array(Vec::new()), &Value::Null), "{again:#}");
            assert_eq!(again["rebuilt"], again["requests"], "{again:#}");
        }
        let verified = self.json(&["sessions", "verify", "--json"]);
        for session in verified.as_array().expect("an array") {
            assert_eq!(session["ok"], true, "{session}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(root) = self.root.take()
        {
            // Left behind for whoever looks into the failure.
            let kept = root.keep();
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("the machine of this test is kept in {}\n", kept.display()).as_bytes(),
            );
        }
    }
}

/// The program under test: `LONGHAND_BIN`, or the one that is built beside these tests.
pub(crate) fn program() -> &'static Path {
    // That it does not build is found out once, not once a test.
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| std::env::var_os("LONGHAND_BIN").map_or_else(build, |path| Ok(path.into())));
    program.as_deref().unwrap_or_else(|why| panic!("{why}"))
}

/// Builds the program as these tests were built; takes a moment where it is up to date already.
fn build() -> Result<PathBuf, String> {
    let tests = std::env::current_exe().map_err(|error| error.to_string())?;
    // target/<profile>/deps/<test>
    let profile = tests.ancestors().nth(2).ok_or("the tests are not where cargo puts them")?;
    let target = profile.parent().ok_or("the tests are not where cargo puts them")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "longhand", "--bin", "longhand", "--target-dir"]).arg(target);
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    match cargo.output() {
        Ok(built) if built.status.success() => Ok(profile.join("longhand")),
        Ok(built) => Err(format!("the program does not build:\n{}", String::from_utf8_lossy(&built.stderr))),
        Err(error) => Err(format!("cargo does not run: {error}")),
    }
}
