//! The person's own editor, on a file with what is in the input line.
//!
//! It runs in the process group of the chat, in the foreground, and has the terminal to itself: the chat must have given it away, and must read no keys. What the
//! terminal sends to the group (Ctrl-C, Ctrl-Z) reaches both; what it means for the chat is the chat's affair.

use std::io;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};

/// How long an editor that is asked to end may take to give the terminal its own mode back.
const END_WITHIN: Duration = Duration::from_secs(1);

/// An editor that runs. Dropping it kills it, which may leave the terminal in a mode of the editor's: see [`ExternalEditor::end`].
pub(super) struct ExternalEditor {
    child: Child,
    file: NamedTempFile,
}

impl ExternalEditor {
    /// Starts `command`, which may hold options as in `code --wait`, on a file with `text`.
    ///
    /// # Errors
    /// The file cannot be written, or the shell not be started.
    pub(super) fn open(command: &str, text: &str) -> io::Result<Self> {
        // The file is made by `mkstemp`: nobody else may read it.
        let file = tempfile::Builder::new().prefix("longhand-").suffix(".md").tempfile()?;
        std::fs::write(file.path(), text)?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{command} \"$1\"")).arg("sh").arg(file.path()).kill_on_drop(true);
        Ok(Self { child: shell.spawn()?, file })
    }

    /// What was written, when the editor has ended. Cancel-safe.
    ///
    /// # Errors
    /// The editor failed, or the file cannot be read.
    pub(super) async fn text(&mut self) -> io::Result<String> {
        let status = self.child.wait().await?;
        if !status.success() {
            return Err(io::Error::other(status.to_string()));
        }
        std::fs::read_to_string(self.file.path())
    }

    /// Ends it: asks first, so that it gives the terminal its own mode back, and kills it where it does not listen.
    pub(super) async fn end(mut self) {
        let id = self.child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let _ = tokio::time::timeout(END_WITHIN, self.child.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_editor_wrote_comes_back() {
        let mut editor = ExternalEditor::open(r#"sh -c 'printf " and more" >> "$1"' sh"#, "a text").expect("started");
        assert_eq!(editor.text().await.expect("edited"), "a text and more");
    }

    #[tokio::test]
    async fn an_editor_that_fails_changes_nothing() {
        let mut editor = ExternalEditor::open("exit 3 #", "a text").expect("started");
        assert!(editor.text().await.expect_err("failed").to_string().contains('3'));
    }

    #[tokio::test]
    async fn an_editor_that_is_ended_is_asked_first_and_takes_its_file_along() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ready, asked) = (folder.path().join("ready"), folder.path().join("asked"));
        let command =
            format!("trap 'touch {}; exit' TERM; touch {}; while :; do sleep 0.05; done #", asked.display(), ready.display());
        let editor = ExternalEditor::open(&command, "a text").expect("started");
        let file = editor.file.path().to_owned();
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        editor.end().await;
        assert!(asked.exists() && !file.exists());
    }
}
