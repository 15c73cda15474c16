//! Accepted, written, durable.

use crate::sim::SimFs;
use session_store::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn options(fs: &SimFs) -> FileStoreOptions {
    let mut options = FileStoreOptions::new("/home");
    options.program = "test 1".to_owned();
    options.fs = Arc::new(fs.clone());
    options.window = Duration::from_millis(10);
    options.machine = Machine { host: "here".to_owned(), boot: "boot 1".to_owned(), pid: 1 };
    options
}

pub(crate) fn store(fs: &SimFs) -> FileStore {
    FileStore::open(options(fs)).unwrap()
}

pub(crate) async fn create(store: &FileStore) -> Arc<dyn SessionLog> {
    store.create(NewSession::default()).await.unwrap().log
}

pub(crate) fn say(text: &str) -> Event {
    UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
}

pub(crate) fn log_path(id: SessionId) -> PathBuf {
    PathBuf::from("/home/sessions").join(id.relative_path()).with_extension("jsonl")
}

pub(crate) async fn entries(store: &FileStore, id: SessionId) -> Vec<Arc<Entry>> {
    let mut reader = store.read(id, 0).await.unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().await.unwrap() {
        entries.push(entry);
    }
    entries
}

pub(crate) async fn texts(store: &FileStore, id: SessionId) -> Vec<String> {
    let text = |entry: Arc<Entry>| match &entry.event {
        Event::UserMessage(message) => Some(message.text.clone()),
        _ => None,
    };
    entries(store, id).await.into_iter().filter_map(text).collect()
}

/// Waits for what must come to pass; fails where it hangs.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it hangs")
}

pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_durable_is_there_after_a_power_cut() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let entry = log.append(say("hello")).unwrap();
    soon(log.durable(entry.seq)).await.unwrap();
    assert_eq!(texts(&store(&fs.after_power_cut()), log.id()).await, ["hello"]);
}

#[tokio::test]
async fn the_folders_that_lead_to_a_new_home_are_durable_too() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.home = "/ada/.local/share/store".into();
    let log = create(&FileStore::open(options.clone()).unwrap()).await;
    let entry = log.append(say("hello")).unwrap();
    soon(log.durable(entry.seq)).await.unwrap();
    options.fs = Arc::new(fs.after_power_cut());
    assert_eq!(texts(&FileStore::open(options).unwrap(), log.id()).await, ["hello"]);
}

#[tokio::test]
async fn a_home_that_is_a_file_is_refused() {
    let fs = SimFs::new();
    fs.put("/home".as_ref(), b"not a folder");
    assert!(matches!(FileStore::open(options(&fs)), Err(StoreError::Io { action: "use", .. })));
}

#[tokio::test]
async fn an_event_is_written_and_synced_without_being_asked_for() {
    let fs = SimFs::new();
    let log = create(&store(&fs)).await;
    log.append(say("hello")).unwrap();
    soon(log.progress().wait_for(|progress| progress.durable == 3)).await.unwrap();
    assert_eq!(texts(&store(&fs.after_power_cut()), log.id()).await, ["hello"]);
}

#[tokio::test]
async fn ten_appends_in_a_burst_make_one_or_two_writes() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.window = Duration::from_millis(400);
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(450)).await;
    let before = fs.writes();
    for number in 0..10 {
        log.append(say(&number.to_string())).unwrap();
    }
    soon(log.flush()).await.unwrap();
    let writes = fs.writes() - before;
    assert!((1..=2).contains(&writes), "{writes} writes");
    assert_eq!(texts(&store, log.id()).await.len(), 10);
}

#[tokio::test]
async fn a_sync_that_hangs_delays_no_write() {
    let fs = SimFs::new();
    let store = store(&fs);
    let (one, two) = (create(&store).await, create(&store).await);
    soon(store.flush()).await.unwrap();
    fs.hang_syncs();
    one.append(say("one")).unwrap();
    one.start_commit(2);
    soon(one.progress().wait_for(|progress| progress.written == 3)).await.unwrap();
    for log in [&one, &two] {
        let entry = log.append(say("later")).unwrap();
        soon(log.written(entry.seq)).await.unwrap();
        assert!(log.progress().borrow().durable <= entry.seq);
    }
    assert_eq!(texts(&store, one.id()).await, ["one", "later"]);
    fs.let_syncs_go();
    soon(store.flush()).await.unwrap();
}

#[tokio::test]
async fn a_sync_of_a_side_file_that_hangs_delays_no_write() {
    let fs = SimFs::new();
    let store = store(&fs);
    let (one, two) = (create(&store).await, create(&store).await);
    soon(store.flush()).await.unwrap();
    fs.hang_syncs();
    one.put_side(b"output".to_vec()).unwrap();
    let entry = one.append(say("one")).unwrap();
    one.start_commit(entry.seq);
    // A session's side files are synced before its log: what hangs is the side file.
    until(|| fs.hung_syncs() > 0).await;
    for log in [&one, &two] {
        let entry = log.append(say("later")).unwrap();
        soon(log.written(entry.seq)).await.unwrap();
    }
    fs.let_syncs_go();
    soon(store.flush()).await.unwrap();
}

#[tokio::test]
async fn who_asks_while_a_sync_runs_shares_the_next() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let first = create(&store1).await;
    soon(first.flush()).await.unwrap();
    fs.hang_syncs();
    first.append(say("hangs")).unwrap();
    for _ in 0..40 {
        create(&store1).await.start_commit(1);
    }
    let before = fs.folder_syncs();
    let let_go = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        fs.let_syncs_go();
    };
    let (flushed, ()) = soon(async { tokio::join!(store1.flush(), let_go) }).await;
    flushed.unwrap();
    let syncs = fs.folder_syncs() - before;
    assert!(syncs <= 8, "the folder of 40 new files was synced {syncs} times");
    assert_eq!(store(&fs.after_power_cut()).list().await.unwrap().len(), 41);
}

#[tokio::test]
async fn append_within_is_written_before_the_window_ends() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.window = Duration::from_secs(3600);
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    log.append(say("in an hour")).unwrap();
    log.append_within(say("soon"), Duration::from_millis(20)).unwrap();
    soon(log.progress().wait_for(|progress| progress.written == 4)).await.unwrap();
}

#[tokio::test]
async fn accepted_events_are_seen_at_once_and_long_after() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    let seen: Vec<_> = (0..3).map(|_| log.append(say("x")).unwrap()).collect();
    assert_eq!(log.recent(2).unwrap(), seen);
    assert_eq!(log.recent(4).unwrap(), seen[2..]);
    assert!(log.recent(5).unwrap().is_empty());
    for _ in 0..2000 {
        log.append(say("x")).unwrap();
    }
    soon(log.flush()).await.unwrap();
    for _ in 0..2000 {
        log.append(say("x")).unwrap();
    }
    assert!(log.recent(2).is_none(), "written events do not pile up");
    assert_eq!(log.recent(4000).unwrap().len(), 5);
}

#[tokio::test]
async fn a_full_buffer_refuses_keeps_room_for_the_end_and_reserve_waits() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.session_bytes_max = 4096;
    options.closing_bytes = 1024;
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    fs.hang_syncs();
    let mut accepted = 0;
    let full = loop {
        match log.append(say("some words")) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full { bytes, .. } if bytes <= 4096), "{full}");
    let bound = store.stats().bytes_in_memory;
    let closing = TurnEnded { reason: "done".to_owned(), error: None, model_calls: 0, usage: Usage::default(), duration_ms: 0 };
    log.append(closing.into()).unwrap();
    assert!(store.stats().bytes_in_memory > bound);
    let waiting = tokio::time::timeout(Duration::from_millis(30), log.reserve(100)).await;
    assert!(waiting.is_err(), "there is no room");
    fs.let_syncs_go();
    soon(log.reserve(100)).await.unwrap();
    log.append(say("and on")).unwrap();
    soon(log.flush()).await.unwrap();
    assert_eq!(texts(&store, log.id()).await.len(), accepted + 1);
    assert_eq!(store.stats().bytes_in_memory, 0);
}

#[tokio::test]
async fn whoever_was_refused_waits_until_the_event_fits() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.session_bytes_max = 4096;
    let log = create(&FileStore::open(options).unwrap()).await;
    soon(log.flush()).await.unwrap();
    fs.hang_syncs();
    log.append(say(&"x".repeat(2000))).unwrap();
    // There is room, but not for this one.
    let large = say(&"y".repeat(3000));
    let Err(AppendError::Full { needed, .. }) = log.append(large.clone()) else { panic!("it fits") };
    soon(log.reserve(0)).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(30), log.reserve(needed)).await;
    assert!(waiting.is_err(), "there is no room for {needed} bytes");
    fs.let_syncs_go();
    soon(log.reserve(needed)).await.unwrap();
    log.append(large).unwrap();
}

#[tokio::test]
async fn the_bound_of_the_store_counts_all_sessions() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.store_bytes_max = 4096;
    let store = FileStore::open(options).unwrap();
    let (one, two) = (create(&store).await, create(&store).await);
    soon(store.flush()).await.unwrap();
    fs.hang_syncs();
    while one.append(say("some words")).is_ok() {}
    assert!(matches!(two.append(say("some words")), Err(AppendError::Full { .. })));
    fs.let_syncs_go();
    soon(two.reserve(200)).await.unwrap();
    two.append(say("some words")).unwrap();
}

#[tokio::test]
async fn large_events_are_not_kept_once_they_are_written() {
    let fs = SimFs::new();
    let log = create(&store(&fs)).await;
    for _ in 0..4 {
        log.append(say(&"x".repeat(2 << 20))).unwrap();
        soon(log.flush()).await.unwrap();
    }
    let last = log.append(say("small")).unwrap();
    assert_eq!(log.recent(last.seq).unwrap().len(), 1);
    assert!(log.recent(2).is_none(), "the first of them is read from the disk");
}

#[tokio::test]
async fn close_says_so_in_the_log_and_ends_it() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    soon(log.close()).await.unwrap();
    soon(log.close()).await.unwrap();
    assert!(log.progress().borrow().closed);
    assert!(matches!(log.append(say("x")), Err(AppendError::NotOpen { .. })));
    let entries = entries(&store, log.id()).await;
    assert!(matches!(&entries.last().unwrap().event, Event::Closed(closed) if closed.epoch == 1));
    let again = soon(store.open(log.id())).await.unwrap();
    assert_eq!(again.log.epoch(), 2);
}

#[tokio::test]
async fn a_log_that_is_dropped_is_closed_and_can_be_opened_again() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    let id = log.id();
    log.append(say("last words")).unwrap();
    drop(log);
    let again = soon(store.open(id)).await.unwrap();
    assert_eq!(texts(&store, id).await, ["last words"]);
    assert_eq!(again.state.epoch, 2);
}

#[tokio::test]
async fn shutdown_closes_all_makes_all_durable_and_leaves_no_owner() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let (one, two) = (create(&store1).await, create(&store1).await);
    one.append(say("one")).unwrap();
    two.append(say("two")).unwrap();
    soon(store1.shutdown(LIMIT)).await.unwrap();
    assert!(one.append(say("late")).is_err());
    assert!(matches!(store1.create(NewSession::default()).await, Err(StoreError::Closed)));
    let after = fs.after_power_cut();
    assert!(fs.files().iter().all(|path| path.extension().is_some_and(|ending| ending == "jsonl")), "{:?}", fs.files());
    for (log, text) in [(&one, "one"), (&two, "two")] {
        let entries = entries(&store(&after), log.id()).await;
        assert_eq!(entries[2].event, say(text));
        assert!(matches!(&entries[3].event, Event::Closed(closed) if closed.epoch == 1));
    }
}

#[tokio::test]
async fn shutdown_ends_at_its_limit_and_says_what_is_not_durable() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    fs.hang_syncs();
    log.append(say("one")).unwrap();
    let error = soon(store.shutdown(Duration::from_millis(50))).await.unwrap_err();
    assert_eq!((error.not_durable[0].0, error.not_durable[0].1), (log.id(), 2));
    assert!(matches!(soon(log.durable(3)).await, Err(StoreError::Closed)), "nobody waits for a store that stopped");
    assert!(soon(log.close()).await.is_err());
    fs.let_syncs_go();
    until(|| log.progress().borrow().durable == 4).await;
}

#[tokio::test]
async fn a_session_that_is_being_opened_at_the_shutdown_is_not_opened() {
    let fs = SimFs::new();
    let first = store(&fs);
    let log = create(&first).await;
    soon(first.shutdown(LIMIT)).await.unwrap();
    let store1 = Arc::new(store(&fs));
    fs.hang_syncs();
    let opening = tokio::spawn({
        let (store1, id) = (Arc::clone(&store1), log.id());
        async move { store1.open(id).await }
    });
    until(|| fs.hung_syncs() > 0).await;
    soon(store1.shutdown(LIMIT)).await.unwrap();
    fs.let_syncs_go();
    assert!(matches!(soon(opening).await.unwrap(), Err(StoreError::Closed)));
    assert_eq!(store(&fs).open(log.id()).await.unwrap().log.epoch(), 3, "nobody holds it");
}

#[tokio::test]
async fn a_session_with_no_room_for_its_end_takes_nothing_after_the_shutdown() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.session_bytes_max = 4096;
    options.closing_bytes = 0;
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    fs.hang_syncs();
    while log.append(say("some words")).is_ok() {}
    // Shorter than the line of `closed`.
    while log.append(Note { text: String::new() }.into()).is_ok() {}
    let (reserved, stopped) = tokio::join!(soon(log.reserve(4096)), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        soon(store.shutdown(Duration::from_millis(50))).await
    });
    assert!(matches!(reserved, Err(StoreError::Closed)), "nobody waits for room in a store that stopped");
    assert!(stopped.is_err());
    fs.let_syncs_go();
    let accepted = log.progress().borrow().accepted;
    until(|| log.progress().borrow().durable == accepted).await;
    assert!(!entries(&store, log.id()).await.iter().any(|entry| matches!(entry.event, Event::Closed(_))));
    assert!(matches!(log.append(say("late")), Err(AppendError::NotOpen { .. })));
}

#[tokio::test]
async fn the_real_disk_holds_it_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let store = FileStore::open(FileStoreOptions::new(home.path().join("store"))).unwrap();
    let log = create(&store).await;
    let side = log.put_side(b"beside".to_vec()).unwrap();
    log.append(say("hello")).unwrap();
    soon(log.flush()).await.unwrap();
    assert_eq!(texts(&store, log.id()).await, ["hello"]);
    assert_eq!(store.read_side(log.id(), &side).await.unwrap(), b"beside");
    let path = home.path().join("store/sessions").join(log.id().relative_path());
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.with_extension("jsonl")), 0o600);
    assert_eq!(mode(path.join(&side.sha256)), 0o600);
    assert_eq!((mode(path), mode(home.path().join("store"))), (0o700, 0o700));
    let other = FileStore::open(FileStoreOptions::new(home.path().join("store"))).unwrap();
    assert!(matches!(other.open(log.id()).await, Err(StoreError::Held { alive: true, .. })));
    soon(store.shutdown(LIMIT)).await.unwrap();
    let again = other.open(log.id()).await.unwrap();
    assert_eq!(again.state.messages, 1);
    assert!(other.verify(log.id()).await.unwrap().ok);
    soon(other.shutdown(LIMIT)).await.unwrap();
    assert_eq!(std::fs::read_dir(home.path().join("store/owners")).unwrap().count(), 0);
}
