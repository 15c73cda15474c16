//! `!command`: a command of the person's, run by the shell in the working directory. Its output is shown as it comes, like a tool's, and given to the model with the next
//! message.

use agent_runtime::{OutputSink, ToolDelta};
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// What stands for the id of a call where its output is shown.
pub(super) const CALL: &str = "!";
/// How much of the output is shown at once.
const SHOWN_BYTES_MAX: usize = 16 * 1024;
/// How much of the output the model is told: this much of its start and of its end.
const TOLD_BYTES_MAX: usize = 8 * 1024;

/// A command that runs.
pub(super) struct Running {
    command: String,
    pub(super) output: OutputSink,
    /// How much of it was shown.
    shown: u64,
}

impl Running {
    pub(super) fn new(command: String) -> Self {
        Self { command, output: OutputSink::default(), shown: 0 }
    }

    /// What it put out since this was asked last.
    pub(super) fn news(&mut self) -> ToolDelta {
        let (offset, text) = self.output.since(self.shown, SHOWN_BYTES_MAX);
        self.shown = offset + text.len() as u64;
        ToolDelta { call: CALL.to_owned(), offset, text }
    }

    /// It is over: how it ended, in words; nothing where it went well.
    pub(super) fn ended(self, trouble: Option<String>) -> Ran {
        Ran { command: self.command, output: self.output.text(), trouble }
    }
}

/// What came of a command.
#[derive(Debug)]
pub(super) struct Ran {
    command: String,
    /// Standard output and standard error, as they came; of more than 1 MiB the start and the end.
    pub(super) output: String,
    /// How it ended, in words; nothing where it went well.
    pub(super) trouble: Option<String>,
}

impl Ran {
    /// What the model is told.
    pub(super) fn note(&self) -> String {
        let ended = self.trouble.as_deref().unwrap_or("it went well");
        format!("The user ran `{}` in the working directory; {ended}. Its output:\n{}", self.command, shortened(&self.output))
    }
}

/// A process group that does not outlive this value.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The child is its group's leader, so that the group is there as long as the child was not waited for.
        let id = self.0.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = id {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Runs `command` to its end, its output into `output`: how it ended, for [`Running::ended`]. Dropping the future kills it and what it started.
pub(super) async fn run(command: &str, cwd: &Path, output: &OutputSink) -> Option<String> {
    match run_in_group(command, cwd, output).await {
        Ok(status) if status.success() => None,
        Ok(status) => Some(status.to_string()),
        Err(error) => Some(format!("it could not be run: {error}")),
    }
}

async fn run_in_group(command: &str, cwd: &Path, output: &OutputSink) -> io::Result<std::process::ExitStatus> {
    // One pipe for both streams keeps their order.
    let (reader, writer) = io::pipe()?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(cwd).process_group(0).kill_on_drop(true);
    shell.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut group = Group(shell.spawn()?);
    // The command holds the writing ends; while it is there, the pipe does not end.
    drop(shell);
    let mut reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into())?;
    let mut buffer = vec![0; 8192];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        output.write(&buffer[..count]);
    }
    group.0.wait().await
}

fn shortened(output: &str) -> String {
    if output.len() <= 2 * TOLD_BYTES_MAX {
        return output.to_owned();
    }
    let boundary = |at: &usize| output.is_char_boundary(*at);
    let start = (0..=TOLD_BYTES_MAX).rev().find(boundary).unwrap_or(0);
    let end = (output.len() - TOLD_BYTES_MAX..output.len()).find(boundary).unwrap_or(output.len());
    format!("{}\n... {} bytes left out ...\n{}", &output[..start], end - start, &output[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn output_of_both_streams_comes_in_order_with_how_it_ended() {
        let mut running = Running::new("echo one; echo two >&2; echo three; exit 3".to_owned());
        let trouble = run(&running.command, Path::new("/"), &running.output).await;
        assert_eq!((running.news().text.as_str(), running.news().text.as_str()), ("one\ntwo\nthree\n", ""));
        let ran = running.ended(trouble);
        assert_eq!(ran.output, "one\ntwo\nthree\n");
        assert!(ran.trouble.as_deref().is_some_and(|words| words.contains('3')), "{:?}", ran.trouble);
        assert!(ran.note().contains("one\ntwo"));
    }

    #[tokio::test]
    async fn a_dropped_command_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = OutputSink::default();
        let running = run("(sleep 1; touch late) & wait", folder.path(), &output);
        assert!(tokio::time::timeout(Duration::from_millis(300), running).await.is_err());
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(!folder.path().join("late").exists());
    }

    #[test]
    fn a_long_output_is_told_by_its_start_and_its_end() {
        let output = format!("first{}last", "\u{e9}".repeat(20_000));
        let told = shortened(&output);
        assert!(told.len() < 17_000 && told.starts_with("first") && told.ends_with("last") && told.contains("left out"));
    }
}
