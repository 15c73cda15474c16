//! A rescue folder on another disk: what the home's disk does not take is durable there, and comes back to the log.

use crate::sim::SimFs;
use crate::writing::{create, log_path, options, say, soon, texts, until};
use session_store::*;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const FOLDER: &str = "/rescue/longhand";

/// One disk for the home, and one for what is rescued.
#[derive(Clone)]
pub(crate) struct TwoDisks {
    pub(crate) home: SimFs,
    pub(crate) rescue: SimFs,
}

impl TwoDisks {
    pub(crate) fn new() -> Self {
        let disks = Self { home: SimFs::new(), rescue: SimFs::new() };
        disks.rescue.create_dir("/rescue".as_ref()).unwrap();
        disks.rescue.make_durable();
        disks
    }

    fn of(&self, path: &Path) -> &SimFs {
        if path.starts_with("/rescue") { &self.rescue } else { &self.home }
    }

    pub(crate) fn options(&self) -> FileStoreOptions {
        let mut options = options(&self.home);
        options.fs = Arc::new(self.clone());
        options.rescue_dir = Some(FOLDER.into());
        options
    }

    pub(crate) fn store(&self) -> FileStore {
        FileStore::open(self.options()).unwrap()
    }

    /// The store of somebody who knows nothing of the rescue folder.
    fn store_without(&self) -> FileStore {
        let mut options = self.options();
        options.rescue_dir = None;
        FileStore::open(options).unwrap()
    }

    pub(crate) fn after_power_cut(&self) -> Self {
        Self { home: self.home.after_power_cut(), rescue: self.rescue.after_power_cut() }
    }

    fn after_kill(&self) -> Self {
        Self { home: self.home.after_kill(), rescue: self.rescue.after_kill() }
    }
}

impl FileSystem for TwoDisks {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.of(path).open(path, mode)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.of(path).stat(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.of(path).read_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.of(path).create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.of(path).sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.of(from).rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.of(path).remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.of(path).remove_dir(path)
    }

    fn volume(&self, path: &Path) -> io::Result<Option<Arc<dyn Volume>>> {
        self.of(path).volume(path)
    }

    fn locks_are_trusted(&self, path: &Path) -> bool {
        self.of(path).locks_are_trusted(path)
    }
}

pub(crate) fn rescued(log: &dyn SessionLog) -> Option<Arc<Rescued>> {
    log.progress().borrow().rescued.clone()
}

/// A session with `before` in its log and `after` in its rescue file, because its disk became read-only between them.
async fn rescued_session(disks: &TwoDisks) -> (FileStore, Arc<dyn SessionLog>) {
    let store = disks.store();
    let log = create(&store).await;
    log.append(say("before")).unwrap();
    soon(log.flush()).await.unwrap();
    disks.home.set_read_only();
    let entry = log.append(say("after")).unwrap();
    soon(log.durable(entry.seq)).await.unwrap();
    (store, log)
}

#[tokio::test]
async fn what_a_read_only_disk_does_not_take_is_durable_elsewhere_and_no_trouble() {
    let disks = TwoDisks::new();
    let (_store, log) = rescued_session(&disks).await;
    let progress = log.progress().borrow().clone();
    assert!(progress.trouble.is_none(), "{progress:?}");
    assert_eq!((progress.durable, progress.written), (progress.accepted, progress.accepted));
    let rescued = rescued(&*log).unwrap();
    assert_eq!(rescued.path, Path::new(FOLDER).join(format!("{}.1.jsonl", log.id())));
    assert!(rescued.why.contains("ead-only"), "{}", rescued.why);
    soon(log.close()).await.unwrap();

    let after = disks.after_power_cut();
    let store = after.store();
    let opened = soon(store.open(log.id())).await.unwrap();
    assert_eq!(opened.problems, []);
    assert_eq!(texts(&store, log.id()).await, ["before", "after"]);
    assert!(store.verify(log.id()).await.unwrap().ok);
    assert_eq!(after.rescue.files(), Vec::<PathBuf>::new());
    let entry = opened.log.append(say("on")).unwrap();
    soon(opened.log.durable(entry.seq)).await.unwrap();
    assert_eq!(texts(&after.after_power_cut().store(), log.id()).await, ["before", "after", "on"]);
}

#[tokio::test]
async fn what_was_rescued_goes_to_the_log_as_soon_as_its_disk_works_again() {
    let disks = TwoDisks::new();
    let (store, log) = rescued_session(&disks).await;
    disks.home.set_writable();
    soon(log.progress().wait_for(|progress| progress.rescued.is_none())).await.unwrap();
    let without_rescue = TwoDisks { home: disks.home.after_power_cut(), rescue: SimFs::new() };
    assert_eq!(texts(&without_rescue.store_without(), log.id()).await, ["before", "after"]);
    until(|| disks.rescue.files().is_empty()).await;
    until(|| store.stats().bytes_in_memory == 0).await;
    // And again, in a file of its own.
    disks.home.set_read_only();
    let entry = log.append(say("once more")).unwrap();
    soon(log.durable(entry.seq)).await.unwrap();
    assert_eq!(texts_after_reopening(&disks.after_power_cut(), log.id()).await, ["before", "after", "once more"]);
}

pub(crate) async fn texts_after_reopening(disks: &TwoDisks, id: SessionId) -> Vec<String> {
    disks.home.set_writable();
    let store = disks.store();
    soon(store.open(id)).await.unwrap();
    assert!(store.verify(id).await.unwrap().ok);
    let texts = texts(&store, id).await;
    // Whoever comes next finds nobody who still lets go.
    soon(store.shutdown(Duration::from_secs(10))).await.unwrap();
    texts
}

#[tokio::test]
async fn a_failure_that_stays_is_rescued_and_told_until_then() {
    type Begin = fn(&SimFs);
    let failures: [Begin; 3] = [|fs| fs.fail_writes(u64::MAX), |fs| fs.fail_syncs(u64::MAX), |fs| fs.set_room(Some(5))];
    for begin in failures {
        let disks = TwoDisks::new();
        let log = create(&disks.store()).await;
        soon(log.flush()).await.unwrap();
        begin(&disks.home);
        let entry = log.append(say("hello")).unwrap();
        let first = soon(log.durable(entry.seq)).await;
        assert!(first.is_err(), "a failure that may pass is trouble");
        soon(log.progress().wait_for(|progress| progress.durable > entry.seq && progress.trouble.is_none())).await.unwrap();
        assert!(rescued(&*log).is_some());
        assert_eq!(texts_after_reopening(&disks.after_power_cut(), log.id()).await, ["hello"]);
    }
}

#[tokio::test]
async fn whatever_part_of_the_rescued_lines_the_log_has_the_rest_is_appended() {
    let disks = TwoDisks::new();
    let log = create(&disks.store()).await;
    log.append(say("before")).unwrap();
    soon(log.flush()).await.unwrap();
    let path = log_path(log.id());
    let durable = disks.home.contents(&path).unwrap().len();
    // All of it is written, and none of it synced.
    disks.home.fail_syncs(u64::MAX);
    log.append(say("one")).unwrap();
    log.append(say("two")).unwrap();
    soon(log.progress().wait_for(|progress| progress.rescued.is_some())).await.unwrap();
    let whole = disks.home.contents(&path).unwrap();
    for length in durable..=whole.len() {
        let after = disks.after_kill();
        after.home.edit(&path, |bytes| bytes.truncate(length));
        assert_eq!(texts_after_reopening(&after.after_power_cut(), log.id()).await, ["before", "one", "two"], "{length}");
        assert_eq!(after.after_power_cut().rescue.files().len(), 1);
    }
    // What only looks like one of its lines: the newline is given to it, and nothing is lost.
    let after = disks.after_kill();
    after.home.edit(&path, |bytes| {
        bytes.truncate(durable);
        bytes.extend_from_slice(&[0; 20]);
    });
    let store = after.store();
    soon(store.open(log.id())).await.unwrap();
    assert_eq!(texts(&store, log.id()).await, ["before", "one", "two"]);
}

#[tokio::test]
async fn what_the_next_owner_takes_in_is_durable_although_a_sync_had_failed() {
    let disks = TwoDisks::new();
    let log = create(&disks.store()).await;
    soon(log.flush()).await.unwrap();
    disks.home.fail_syncs(u64::MAX);
    log.append(say("written")).unwrap();
    soon(log.progress().wait_for(|progress| progress.rescued.is_some())).await.unwrap();
    soon(log.close()).await.unwrap();
    // The page cache shows what the disk does not have.
    let after = disks.after_kill();
    let opened = soon(after.store().open(log.id())).await.unwrap();
    assert_eq!(after.rescue.files(), Vec::<PathBuf>::new());
    drop(opened);
    assert_eq!(texts(&after.after_power_cut().store_without(), log.id()).await, ["written"]);
}

#[tokio::test]
async fn side_files_are_rescued_too() {
    let disks = TwoDisks::new();
    let log = create(&disks.store()).await;
    soon(log.flush()).await.unwrap();
    disks.home.set_read_only();
    let side = log.put_side(vec![7; 10_000]).unwrap();
    log.append(say("hello")).unwrap();
    soon(log.flush()).await.unwrap();
    let after = disks.after_power_cut();
    let store = after.store();
    soon(store.open(log.id())).await.unwrap();
    let after = after.after_power_cut().store();
    assert_eq!(after.read_side(log.id(), &side).await.unwrap(), vec![7; 10_000]);
}

#[tokio::test]
async fn a_session_that_was_never_written_at_all_is_made_from_its_rescue_file() {
    let disks = TwoDisks::new();
    let store = disks.store();
    // It makes the folders and the owner's file.
    soon(create(&store).await.flush()).await.unwrap();
    disks.home.fail_writes(u64::MAX);
    let log = create(&store).await;
    disks.home.set_read_only();
    disks.home.fail_writes(0);
    log.append(say("hello")).unwrap();
    soon(log.flush()).await.unwrap();
    let after = disks.after_power_cut();
    assert_eq!(after.home.contents(&log_path(log.id())), None, "not even its name was durable");
    assert_eq!(texts_after_reopening(&after, log.id()).await, ["hello"]);
}

#[tokio::test]
async fn a_rescue_file_that_the_log_has_already_is_removed() {
    let disks = TwoDisks::new();
    let (_store, log) = rescued_session(&disks).await;
    let path = rescued(&*log).unwrap().path.clone();
    let bytes = disks.rescue.contents(&path).unwrap();
    disks.home.set_writable();
    soon(log.progress().wait_for(|progress| progress.rescued.is_none())).await.unwrap();
    log.append(say("later")).unwrap();
    soon(log.flush()).await.unwrap();
    let after = disks.after_kill();
    // As where the process died before it could remove it.
    after.rescue.put(&path, &bytes);
    assert_eq!(texts_after_reopening(&after, log.id()).await, ["before", "after", "later"]);
    assert_eq!(after.rescue.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_rescue_file_that_does_not_continue_the_log_is_kept_and_told() {
    let disks = TwoDisks::new();
    let (_store, log) = rescued_session(&disks).await;
    let after = disks.after_kill();
    let without = after.store_without();
    let opened = soon(without.open(log.id())).await.unwrap();
    opened.log.append(say("another way")).unwrap();
    soon(without.shutdown(Duration::from_secs(10))).await.unwrap();
    let store = after.store();
    let opened = soon(store.open(log.id())).await.unwrap();
    let kinds: Vec<ProblemKind> = opened.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [ProblemKind::Rescued]);
    assert_eq!(texts(&store, log.id()).await, ["before", "another way"]);
    assert_eq!(after.rescue.files().len(), 1);
}

#[tokio::test]
async fn a_rescue_file_with_a_damaged_line_is_taken_in_up_to_there_and_kept() {
    let disks = TwoDisks::new();
    let (_store, log) = rescued_session(&disks).await;
    for text in ["second", "third"] {
        let entry = log.append(say(text)).unwrap();
        soon(log.durable(entry.seq)).await.unwrap();
    }
    let after = disks.after_kill();
    let path = after.rescue.files().remove(0);
    after.rescue.edit(&path, |bytes| {
        let second = bytes.windows(6).position(|word| word == b"second").unwrap();
        bytes[second] ^= 1;
    });
    let store = after.store();
    let opened = soon(store.open(log.id())).await.unwrap();
    let kinds: Vec<ProblemKind> = opened.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [ProblemKind::Rescued]);
    assert_eq!(texts(&store, log.id()).await, ["before", "after"]);
    assert_eq!(after.rescue.files(), [path]);
}

#[tokio::test]
async fn where_the_rescue_fails_too_it_is_trouble_and_goes_on_with_either_disk() {
    for home_first in [true, false] {
        let disks = TwoDisks::new();
        let (_store, log) = rescued_session(&disks).await;
        disks.rescue.set_room(Some(3));
        let entry = log.append(say("more")).unwrap();
        assert!(soon(log.durable(entry.seq)).await.is_err());
        assert!(log.progress().borrow().trouble.is_some());
        if home_first {
            disks.home.set_writable();
        } else {
            disks.rescue.set_room(None);
        }
        soon(log.progress().wait_for(|progress| progress.durable > entry.seq && progress.trouble.is_none())).await.unwrap();
        assert_eq!(texts_after_reopening(&disks.after_power_cut(), log.id()).await, ["before", "after", "more"]);
    }
}

#[tokio::test]
async fn a_lost_session_leaves_a_copy_and_is_still_lost() {
    let disks = TwoDisks::new();
    let log = create(&disks.store()).await;
    soon(log.flush()).await.unwrap();
    disks.home.edit(&log_path(log.id()), |bytes| bytes.extend_from_slice(b"{}\n"));
    let entry = log.append(say("mine")).unwrap();
    assert!(matches!(soon(log.durable(entry.seq)).await, Err(StoreError::Lost { .. })));
    let path = rescued(&*log).unwrap().path.clone();
    let kept = String::from_utf8(disks.rescue.contents(&path).unwrap()).unwrap();
    assert!(kept.contains("\"mine\""), "{kept}");
}

#[tokio::test]
async fn a_shutdown_beside_a_dead_disk_ends_well_once_all_is_rescued() {
    let disks = TwoDisks::new();
    let mut options = disks.options();
    // Only the shutdown makes it time.
    options.window = Duration::from_secs(3600);
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    disks.home.set_room(Some(0));
    log.append(say("hello")).unwrap();
    soon(store.shutdown(Duration::from_secs(10))).await.unwrap();
    disks.home.set_room(None);
    assert_eq!(texts_after_reopening(&disks.after_power_cut(), log.id()).await, ["hello"]);
}

#[tokio::test]
async fn memory_stays_inside_its_bound_while_all_is_rescued() {
    let disks = TwoDisks::new();
    let mut options = disks.options();
    options.session_bytes_max = 10_000;
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    disks.home.set_read_only();
    let mut accepted = Vec::new();
    while log.append(say(&accepted.len().to_string())).is_ok() {
        accepted.push(accepted.len().to_string());
    }
    assert!(store.stats().bytes_in_memory <= 10_000);
    soon(log.close()).await.unwrap();
    assert_eq!(texts_after_reopening(&disks.after_power_cut(), log.id()).await, accepted);
}

#[tokio::test]
async fn what_was_rescued_of_a_cold_session_that_went_on_is_taken_in() {
    let disks = TwoDisks::new();
    let (store, id) = cold_session(&disks).await;
    let log = soon(store.open(id)).await.unwrap().log;
    log.append(say("warm")).unwrap();
    soon(log.flush()).await.unwrap();
    disks.home.set_read_only();
    let entry = log.append(say("rescued")).unwrap();
    soon(log.durable(entry.seq)).await.unwrap();

    let after = disks.after_kill();
    assert_eq!(texts_after_reopening(&after, id).await, ["cold", "warm", "rescued"]);
    let store = after.store();
    soon(store.compress(id)).await.unwrap();
    assert_eq!(texts(&store, id).await, ["cold", "warm", "rescued"]);
    assert!(store.verify(id).await.unwrap().ok);
    assert!(after.rescue.files().is_empty(), "{:?}", after.rescue.files());
}

#[tokio::test]
async fn a_rescue_file_that_does_not_continue_a_cold_log_is_kept_told_and_offered() {
    let disks = TwoDisks::new();
    let (_store, log) = rescued_session(&disks).await;
    let (id, after) = (log.id(), disks.after_kill());
    let store = after.store_without();
    let opened = soon(store.open(id)).await.unwrap();
    opened.log.append(say("instead")).unwrap();
    soon(opened.log.close()).await.unwrap();
    soon(store.compress(id)).await.unwrap();

    let store = after.store();
    let opened = soon(store.open(id)).await.unwrap();
    assert!(opened.problems.iter().any(|problem| problem.kind == ProblemKind::Rescued), "{:?}", opened.problems);
    soon(opened.log.close()).await.unwrap();
    assert_eq!(texts(&store, id).await, ["before", "instead"]);
    let stale = crate::handoff::fork_stale(&store, id).await.log;
    soon(stale.close()).await.unwrap();
    assert_eq!(texts(&store, stale.id()).await, ["before", "after"]);
}

#[tokio::test]
async fn a_fork_has_what_is_in_the_log_and_leaves_its_parent_the_rescue_file() {
    let disks = TwoDisks::new();
    let (_store, log) = rescued_session(&disks).await;
    let after = disks.after_kill();
    let store = after.store();
    let fork = soon(store.fork(log.id(), None)).await.unwrap().log;
    soon(fork.close()).await.unwrap();
    assert_eq!(texts(&store, fork.id()).await, ["before"]);
    assert!(store.verify(fork.id()).await.unwrap().ok);
    assert_eq!(texts_after_reopening(&after, log.id()).await, ["before", "after"]);
}

/// A cold session with one message.
async fn cold_session(disks: &TwoDisks) -> (FileStore, SessionId) {
    let store = disks.store();
    let log = create(&store).await;
    log.append(say("cold")).unwrap();
    soon(log.close()).await.unwrap();
    soon(store.compress(log.id())).await.unwrap();
    (store, log.id())
}
