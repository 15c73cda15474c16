//! The list with its index: the same as without it, whatever became of either.

#![expect(clippy::disallowed_methods, reason = "what is checked is the real disk")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps, in its helpers too")]

use session_store::{
    DirEntry, File, FileStore, FileStoreOptions, FileSystem, NewSession, OpenMode, RealFs, SessionId, SessionRenamed,
    SessionStore, SessionSummary, Stat, UserMessage,
};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More than it takes for the index to be written.
const SESSIONS: usize = 70;

/// The real file system; counts the logs that are opened.
#[derive(Default)]
struct Counting {
    logs_opened: AtomicUsize,
}

impl FileSystem for Counting {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let is_log = path.extension().is_some_and(|ending| ending == "jsonl");
        self.logs_opened.fetch_add(usize::from(is_log), Ordering::Relaxed);
        RealFs.open(path, mode)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealFs.stat(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealFs.read_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }

    fn locks_are_trusted(&self, path: &Path) -> bool {
        RealFs.locks_are_trusted(path)
    }
}

struct Home {
    folder: tempfile::TempDir,
    fs: Arc<Counting>,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), fs: Arc::default() }
    }

    fn index(&self) -> PathBuf {
        self.folder.path().join("index/list")
    }

    fn store(&self) -> FileStore {
        let mut options = FileStoreOptions::new(self.folder.path());
        options.fs = Arc::clone(&self.fs) as Arc<dyn FileSystem>;
        FileStore::open(options).unwrap()
    }

    /// The list, and how many logs were opened for it.
    async fn list(&self) -> (Vec<SessionSummary>, usize) {
        let before = self.fs.logs_opened.load(Ordering::Relaxed);
        let list = self.store().list().await.unwrap();
        (list, self.fs.logs_opened.load(Ordering::Relaxed) - before)
    }

    /// The list without an index; there is none afterwards but for the one that this listing makes.
    async fn list_from_logs(&self) -> Vec<SessionSummary> {
        let _ = fs::remove_file(self.index());
        self.list().await.0
    }

    async fn fill(&self) -> Vec<SessionId> {
        let store = self.store();
        let mut ids = Vec::new();
        for number in 0..SESSIONS {
            let session = store.create(NewSession { id: None, cwd: Some(format!("/src/{number}")) }).await.unwrap();
            session.log.append(UserMessage { text: format!("say {number}"), ..UserMessage::default() }.into()).unwrap();
            ids.push(session.log.id());
        }
        store.shutdown(std::time::Duration::from_secs(60)).await.unwrap();
        ids
    }

    fn log(&self, id: SessionId) -> PathBuf {
        self.folder.path().join("sessions").join(id.relative_path()).with_extension("jsonl")
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn logs_that_did_not_change_are_not_read_again() {
    run(async {
        let home = Home::new();
        home.fill().await;
        let (first, opened) = home.list().await;
        assert!(first.len() == SESSIONS && opened >= SESSIONS);
        assert_eq!(fs::metadata(home.index()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(home.folder.path().join("index")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(home.list().await, (first, 0));
    });
}

#[test]
fn what_happened_to_a_log_is_listed_whatever_the_index_says() {
    run(async {
        let home = Home::new();
        let ids = home.fill().await;
        home.list().await;
        let store = home.store();
        let renamed = store.open(ids[0]).await.unwrap();
        renamed.log.append(SessionRenamed { name: "named".to_owned() }.into()).unwrap();
        renamed.log.close().await.unwrap();
        store.remove(ids[1]).await.unwrap();
        let new = store.create(NewSession::default()).await.unwrap();
        new.log.close().await.unwrap();
        let open = store.open(ids[2]).await.unwrap();
        fs::write(home.log(ids[3]), "no log at all\n").unwrap();
        // Another file with the same length.
        let bytes = fs::read(home.log(ids[4])).unwrap();
        fs::write(home.log(ids[4]).with_extension("new"), vec![b'x'; bytes.len()]).unwrap();
        fs::rename(home.log(ids[4]).with_extension("new"), home.log(ids[4])).unwrap();

        let (listed, opened) = home.list().await;
        assert!(opened < SESSIONS, "the others have their rows");
        assert_eq!(listed, home.list_from_logs().await);
        assert_eq!(listed.len(), SESSIONS);
        assert!(listed.iter().any(|session| session.name.as_deref() == Some("named")));
        open.log.close().await.unwrap();
    });
}

#[test]
fn an_index_that_is_damaged_or_in_the_way_only_costs_time() {
    run(async {
        let home = Home::new();
        home.fill().await;
        let (listed, _) = home.list().await;
        let sound = fs::read(home.index()).unwrap();
        let mut flipped = sound.clone();
        flipped[200] ^= 1;
        for damaged in [&flipped[..], &sound[..sound.len() / 2], b"", b"{}"] {
            fs::write(home.index(), damaged).unwrap();
            let (again, opened) = home.list().await;
            assert!(again == listed && opened >= SESSIONS);
            assert_eq!(home.list().await, (again, 0), "it was written anew");
        }
        fs::remove_dir_all(home.folder.path().join("index")).unwrap();
        fs::write(home.folder.path().join("index"), "in the way").unwrap();
        assert_eq!(home.list().await.0, listed);
        fs::remove_file(home.folder.path().join("index")).unwrap();
        fs::create_dir_all(home.index()).unwrap();
        assert_eq!(home.list().await.0, listed);
    });
}
