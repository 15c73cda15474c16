//! What was typed before, over all sessions: one JSON string a line in the file `history` of the home, mode 0600.
//!
//! It is a convenience and not a record: a message that could not be added is still sent, a line that cannot be read is left out, and where two
//! chats shorten the file at once, lines of one of them may go. The file is read when somebody first asks for it, so that the first prompt waits for nothing. A
//! thread of its own reads and writes it: nobody who types waits for a disk that does not answer.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

const ENTRIES_MAX: usize = 1000;
/// The file is shortened to [`ENTRIES_MAX`] when it holds more than this.
const LINES_MAX: usize = 2 * ENTRIES_MAX;
/// Longer messages are not kept: nobody recalls a pasted file.
const ENTRY_BYTES_MAX: usize = 16 * 1024;
/// More than a file that this program wrote can hold is not read.
const FILE_BYTES_MAX: u64 = (LINES_MAX * ENTRY_BYTES_MAX) as u64;

/// How many messages may wait to be written; more are not kept.
const QUEUE_MAX: usize = 1024;
/// How long somebody who looks waits for the file, and how long the end of a chat waits for it.
const READ_LIMIT: Duration = Duration::from_millis(40);
const END_LIMIT: Duration = Duration::from_secs(1);

/// The history, and where somebody who looks through it stands.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Where it is kept; nowhere, where nothing is to be kept.
    path: Option<PathBuf>,
    /// Who reads and writes the file, once there was something to do.
    keeper: Option<Keeper>,
    /// What is known: before the file was read, what was added here.
    entries: Vec<String>,
    is_loaded: bool,
    /// How long somebody who looks waits for the file.
    patience: Duration,
    /// The entry that is shown, and what was in the editor before.
    shown: Option<(usize, String)>,
}

impl History {
    /// The history in `path`; without one it lasts as long as this value.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, patience: READ_LIMIT, ..Self::default() }
    }

    /// Adds a message, here and in a while to the file.
    ///
    /// # Errors
    /// The message before could not be written; it is in memory all the same.
    pub(super) fn add(&mut self, text: &str) -> io::Result<()> {
        self.shown = None;
        if text.trim().is_empty() || text.len() > ENTRY_BYTES_MAX || self.entries.last().is_some_and(|last| last == text) {
            return Ok(());
        }
        self.entries.push(text.to_owned());
        let Some(keeper) = self.keeper()? else { return Ok(()) };
        keeper.ask(Request::Add(text.to_owned()));
        keeper.failures.try_recv().map_or(Ok(()), Err)
    }

    /// Who keeps the file; nobody where nothing is to be kept.
    fn keeper(&mut self) -> io::Result<Option<&Keeper>> {
        if let (None, Some(path)) = (&self.keeper, &self.path) {
            self.keeper = Some(Keeper::start(path.clone())?);
        }
        Ok(self.keeper.as_ref())
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

    /// Reads the file the first time; where that takes long, it will be there at a later look.
    fn load(&mut self) {
        if self.is_loaded {
            return;
        }
        let patience = self.patience;
        let Ok(Some(keeper)) = self.keeper() else { return };
        keeper.ask(Request::Load);
        let Ok(mut entries) = keeper.loaded.recv_timeout(patience) else { return };
        // It may have what was added here already.
        entries.retain(|entry| !self.entries.contains(entry));
        entries.append(&mut self.entries);
        self.entries = entries;
        self.is_loaded = true;
    }
}

/// The thread that has the file, by its channels. It ends when nobody can ask it for anything more.
#[derive(Debug)]
struct Keeper {
    /// Nothing once it is to end.
    requests: Option<SyncSender<Request>>,
    loaded: Receiver<Vec<String>>,
    failures: Receiver<io::Error>,
}

#[derive(Debug)]
enum Request {
    Add(String),
    Load,
}

impl Keeper {
    fn start(path: PathBuf) -> io::Result<Self> {
        let (requests, asked) = sync_channel(QUEUE_MAX);
        let (give, loaded) = channel();
        let (fail, failures) = channel();
        std::thread::Builder::new().name("history".to_owned()).spawn(move || keep(&path, &asked, &give, &fail))?;
        Ok(Self { requests: Some(requests), loaded, failures })
    }

    /// Where too many wait, the file goes without this.
    fn ask(&self, request: Request) {
        let _ = self.requests.as_ref().map(|requests| requests.try_send(request));
    }
}

impl Drop for Keeper {
    /// What waits is written, unless the disk does not answer.
    fn drop(&mut self) {
        drop(self.requests.take());
        // The end of the thread ends the channel.
        while self.loaded.recv_timeout(END_LIMIT).is_ok() {}
    }
}

fn keep(path: &Path, asked: &Receiver<Request>, give: &Sender<Vec<String>>, fail: &Sender<io::Error>) {
    while let Ok(request) = asked.recv() {
        // Who asked may be gone.
        let _ = match request {
            Request::Add(text) => append(path, &text).map_err(|error| fail.send(error)).is_ok(),
            Request::Load => give.send(read(path)).is_ok(),
        };
    }
}

/// The entries of the file, which is made shorter where it is too long.
fn read(path: &Path) -> Vec<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    let lines = text.lines().count();
    let mut entries: Vec<String> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    entries.dedup();
    entries.drain(..entries.len().saturating_sub(ENTRIES_MAX));
    if lines > LINES_MAX {
        // It is only longer than it should be.
        let _ = replace(path, &entries);
    }
    entries
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

    /// A history of a test, which waits for its file.
    fn kept_in(path: PathBuf) -> History {
        History { patience: Duration::from_secs(60), ..History::new(Some(path)) }
    }

    /// Waits until all that was added is in the file.
    fn settle(history: &mut History) {
        let keeper = history.keeper().expect("a thread").expect("it has a file");
        keeper.ask(Request::Load);
        keeper.loaded.recv().expect("it answers");
    }

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
            let mut history = kept_in(path.clone());
            for number in 0..LINES_MAX / 2 {
                history.add(&format!("message {chat}.{number}\nwith two lines")).expect("written");
            }
            settle(&mut history);
        }
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let mut history = kept_in(path.clone());
        assert_eq!(history.previous(""), Some("message 2.999\nwith two lines"));
        assert_eq!(history.entries.len(), ENTRIES_MAX);
        assert_eq!(std::fs::read_to_string(&path).expect("text").lines().count(), ENTRIES_MAX);
        assert_eq!(std::fs::read_dir(path.parent().expect("home")).expect("home").count(), 1);
    }

    #[test]
    fn nobody_who_types_waits_for_a_file_that_does_not_answer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history");
        // Opening it to write waits for somebody who reads, and the other way round.
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        let mut history = History { patience: Duration::ZERO, ..History::new(Some(path)) };
        for text in ["one", "two"] {
            history.add(text).expect("in memory");
        }
        assert_eq!(history.previous(""), Some("two"));
        assert_eq!(history.search("one", 0), Some("one"));
    }

    #[test]
    fn what_was_added_before_the_first_look_is_there_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history");
        let mut first = kept_in(path.clone());
        first.add("one").expect("kept");
        settle(&mut first);
        let mut history = kept_in(path);
        history.add("two").expect("kept");
        assert_eq!(history.previous(""), Some("two"));
        assert_eq!(history.previous(""), Some("one"));
        assert_eq!(history.previous(""), None);
    }

    #[test]
    fn a_damaged_file_costs_its_damaged_lines_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history");
        std::fs::write(&path, "\"one\"\n{torn\n\"two\"\n\"cut").expect("written");
        let mut history = kept_in(path);
        assert_eq!(history.previous(""), Some("two"));
        assert_eq!(history.previous(""), Some("one"));
    }
}
