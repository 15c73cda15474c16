//! What was typed before, over all sessions: one JSON string a line in the file `history` of the home, mode 0600.
//!
//! It is a convenience and not a record: a message that could not be added is still sent, a line that cannot be read is left out, and where two
//! chats shorten the file at once, lines of one of them may go. The file is read when somebody first asks for it, so that the first prompt waits for nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const ENTRIES_MAX: usize = 1000;
/// The file is shortened to [`ENTRIES_MAX`] when it holds more than this.
const LINES_MAX: usize = 2 * ENTRIES_MAX;
/// Longer messages are not kept: nobody recalls a pasted file.
const ENTRY_BYTES_MAX: usize = 16 * 1024;
/// More than a file that this program wrote can hold is not read.
const FILE_BYTES_MAX: u64 = (LINES_MAX * ENTRY_BYTES_MAX) as u64;

/// The history, and where somebody who looks through it stands.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Where it is kept; nowhere, where nothing is to be kept.
    path: Option<PathBuf>,
    entries: Vec<String>,
    is_loaded: bool,
    /// The entry that is shown, and what was in the editor before.
    shown: Option<(usize, String)>,
}

impl History {
    /// The history in `path`; without one it lasts as long as this value.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, ..Self::default() }
    }

    /// Adds a message, here and to the file.
    ///
    /// # Errors
    /// The file could not be written; the entry is in memory all the same.
    pub(super) fn add(&mut self, text: &str) -> io::Result<()> {
        self.shown = None;
        if text.trim().is_empty() || text.len() > ENTRY_BYTES_MAX || self.entries.last().is_some_and(|last| last == text) {
            return Ok(());
        }
        // Before the first look, the file alone has the entry, and the look will find it there.
        if self.is_loaded || self.path.is_none() {
            self.entries.push(text.to_owned());
        }
        self.path.as_deref().map_or(Ok(()), |path| append(path, text))
    }

    /// The entry before the one that is shown; `draft` is what is in the editor now.
    pub(super) fn previous(&mut self, draft: &str) -> Option<&str> {
        self.load();
        let at = self.shown.as_ref().map_or(self.entries.len(), |(at, _)| *at).checked_sub(1)?;
        let draft = self.shown.take().map_or_else(|| draft.to_owned(), |(_, draft)| draft);
        self.shown = Some((at, draft));
        self.entries.get(at).map(String::as_str)
    }

    /// The entry after the one that is shown, at last what was in the editor before; nothing where none is shown.
    pub(super) fn next(&mut self) -> Option<String> {
        let (at, draft) = self.shown.take()?;
        match self.entries.get(at + 1) {
            Some(entry) => {
                self.shown = Some((at + 1, draft));
                Some(entry.clone())
            }
            None => Some(draft),
        }
    }

    /// What is shown from here on is a text of its own.
    pub(super) fn leave(&mut self) {
        self.shown = None;
    }

    /// The newest entries that contain `query` (letters of both cases are equal), the `skip` newest of them left out.
    pub(super) fn search(&mut self, query: &str, skip: usize) -> Option<&str> {
        self.load();
        let query = query.to_lowercase();
        let mut hits = self.entries.iter().rev().filter(|entry| entry.to_lowercase().contains(&query));
        hits.nth(skip).map(String::as_str)
    }

    fn load(&mut self) {
        if std::mem::replace(&mut self.is_loaded, true) {
            return;
        }
        let Some(path) = &self.path else { return };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        if read.is_err() {
            return;
        }
        let lines = text.lines().count();
        self.entries = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        self.entries.dedup();
        self.entries.drain(..self.entries.len().saturating_sub(ENTRIES_MAX));
        if lines > LINES_MAX {
            // It is only longer than it should be.
            let _ = replace(path, &self.entries);
        }
    }
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&line(text)?)
}

fn replace(path: &Path, entries: &[String]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    for entry in entries {
        file.write_all(&line(entry)?)?;
    }
    std::fs::rename(temporary, path)
}

fn line(text: &str) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(text)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn up_and_down_walk_through_it_and_come_back_to_the_draft() {
        let mut history = History::new(None);
        for text in ["one", "two\nlines", "two\nlines", " "] {
            history.add(text).expect("in memory");
        }
        assert_eq!(history.previous("draft"), Some("two\nlines"));
        assert_eq!(history.previous("two\nlines"), Some("one"));
        assert_eq!(history.previous("one"), None);
        assert_eq!(history.next().as_deref(), Some("two\nlines"));
        assert_eq!(history.next().as_deref(), Some("draft"));
        assert_eq!(history.next(), None);
    }

    #[test]
    fn the_search_finds_the_newest_first() {
        let mut history = History::new(None);
        for text in ["Cargo test", "git log", "cargo check"] {
            history.add(text).expect("in memory");
        }
        assert_eq!(history.search("cargo", 0), Some("cargo check"));
        assert_eq!(history.search("cargo", 1), Some("Cargo test"));
        assert_eq!(history.search("cargo", 2), None);
    }

    #[test]
    fn it_is_kept_private_and_bounded_over_many_chats() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("home/history");
        for chat in 0..3 {
            let mut history = History::new(Some(path.clone()));
            for number in 0..LINES_MAX / 2 {
                history.add(&format!("message {chat}.{number}\nwith two lines")).expect("written");
            }
        }
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let mut history = History::new(Some(path.clone()));
        assert_eq!(history.previous(""), Some("message 2.999\nwith two lines"));
        assert_eq!(history.entries.len(), ENTRIES_MAX);
        assert_eq!(std::fs::read_to_string(&path).expect("text").lines().count(), ENTRIES_MAX);
        assert_eq!(std::fs::read_dir(path.parent().expect("home")).expect("home").count(), 1);
    }

    #[test]
    fn a_damaged_file_costs_its_damaged_lines_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history");
        std::fs::write(&path, "\"one\"\n{torn\n\"two\"\n\"cut").expect("written");
        let mut history = History::new(Some(path));
        assert_eq!(history.previous(""), Some("two"));
        assert_eq!(history.previous(""), Some("one"));
    }
}
