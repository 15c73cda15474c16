//! A disk that fails: told at once, nothing thrown away, tried again.

use crate::sim::SimFs;
use crate::writing::{create, entries, log_path, options, say, soon, store, texts, until};
use session_store::*;
use std::time::Duration;

fn trouble(log: &dyn SessionLog) -> Option<String> {
    log.progress().borrow().trouble.as_ref().map(ToString::to_string)
}

#[tokio::test]
async fn what_a_failed_sync_lost_is_written_again_in_the_same_place() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.window = Duration::from_millis(100);
    let store1 = FileStore::open(options).unwrap();
    let log = create(&store1).await;
    soon(log.flush()).await.unwrap();
    let first = log.append(say("first")).unwrap();
    fs.fail_syncs(1);
    // Who waits is told of the failure, unless the background had it and cured it before.
    if let Err(error) = soon(log.durable(first.seq)).await {
        assert!(matches!(error, StoreError::Io { action: "sync", .. }), "{error}");
    }
    let second = log.append(say("second")).unwrap();
    soon(async { while log.durable(second.seq).await.is_err() {} }).await;
    until(|| trouble(&*log).is_none()).await;
    let after = store(&fs.after_power_cut());
    assert_eq!(texts(&after, log.id()).await, ["first", "second"]);
    assert!(after.verify(log.id()).await.unwrap().ok);
    assert!(store1.stats().failures >= 1);
}

#[tokio::test]
async fn a_failed_sync_is_cured_without_anybody_waiting() {
    let fs = SimFs::new();
    let log = create(&store(&fs)).await;
    soon(log.flush()).await.unwrap();
    fs.fail_syncs(3);
    log.append(say("hello")).unwrap();
    soon(log.progress().wait_for(|progress| progress.trouble.is_some())).await.unwrap();
    soon(log.progress().wait_for(|progress| progress.durable == 3 && progress.trouble.is_none())).await.unwrap();
    assert_eq!(texts(&store(&fs.after_power_cut()), log.id()).await, ["hello"]);
}

#[tokio::test]
async fn what_a_failed_sync_of_an_owner_before_lost_is_written_again() {
    let fs = SimFs::new();
    let log = create(&store(&fs)).await;
    let id = log.id();
    soon(log.flush()).await.unwrap();
    fs.fail_syncs(u64::MAX);
    log.append(say("hello")).unwrap();
    soon(log.progress().wait_for(|progress| progress.trouble.is_some())).await.unwrap();
    // Its owner dies, and the next one fails once in opening it.
    let fs = fs.after_kill();
    let store1 = store(&fs);
    fs.fail_syncs(1);
    assert!(matches!(store1.open(id).await, Err(StoreError::Io { action: "sync", .. })));
    let opened = store1.open(id).await.unwrap();
    let entry = opened.log.append(say("again")).unwrap();
    soon(opened.log.durable(entry.seq)).await.unwrap();
    let after = store(&fs.after_power_cut());
    assert_eq!(texts(&after, id).await, ["hello", "again"]);
    assert!(after.verify(id).await.unwrap().ok);
}

#[tokio::test]
async fn a_side_file_that_an_owner_who_died_did_not_sync_is_durable_before_its_line() {
    let fs = SimFs::new();
    let log = create(&store(&fs)).await;
    let id = log.id();
    soon(log.flush()).await.unwrap();
    fs.fail_syncs(u64::MAX);
    let side = log.put_side(vec![7; 10_000]).unwrap();
    let (call, name, output) = ("call_1_0".to_owned(), "read".to_owned(), "7".to_owned());
    let full = Some(side.clone());
    log.append(ToolFinished { call, name, outcome: ToolOutcome::Ok, output, full, images: Vec::new(), duration_ms: 0 }.into())
        .unwrap();
    soon(log.progress().wait_for(|progress| progress.trouble.is_some() && progress.written == 3)).await.unwrap();
    // Its owner dies, and the next one makes the line durable.
    let fs = fs.after_kill();
    let opened = store(&fs).open(id).await.unwrap();
    let entry = opened.log.append(say("again")).unwrap();
    soon(opened.log.durable(entry.seq)).await.unwrap();
    let after = store(&fs.after_power_cut());
    assert_eq!(after.read_side(id, &side).await.unwrap(), vec![7; 10_000]);
    assert!(after.verify(id).await.unwrap().ok);
}

#[tokio::test]
async fn a_side_file_that_a_failed_sync_lost_is_written_again() {
    let fs = SimFs::new();
    let log = create(&store(&fs)).await;
    soon(log.flush()).await.unwrap();
    fs.fail_syncs(2);
    let side = log.put_side(vec![7; 10_000]).unwrap();
    log.append(say("hello")).unwrap();
    soon(async { while log.flush().await.is_err() {} }).await;
    let after = store(&fs.after_power_cut());
    assert_eq!(after.read_side(log.id(), &side).await.unwrap(), vec![7; 10_000]);
}

#[tokio::test]
async fn a_failed_write_is_told_and_tried_again() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    soon(log.flush()).await.unwrap();
    fs.fail_writes(u64::MAX);
    let entry = log.append(say("hello")).unwrap();
    let error = soon(log.written(entry.seq)).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot write `/home/sessions/"), "{error}");
    fs.fail_writes(0);
    soon(log.progress().wait_for(|progress| progress.durable == 3 && progress.trouble.is_none())).await.unwrap();
    assert!(store1.verify(log.id()).await.unwrap().ok);
}

#[tokio::test]
async fn a_full_disk_is_told_and_all_is_written_once_there_is_room() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    soon(log.flush()).await.unwrap();
    fs.set_room(Some(100));
    let texts_of: Vec<String> = (0..20).map(|number| format!("message {number}")).collect();
    for text in &texts_of {
        log.append(say(text)).unwrap();
    }
    assert!(soon(log.flush()).await.is_err());
    assert!(trouble(&*log).is_some());
    assert!(log.append(say("still accepted")).is_ok());
    fs.set_room(None);
    soon(async { while log.flush().await.is_err() {} }).await;
    assert!(trouble(&*log).is_none());
    let after = store(&fs.after_power_cut());
    assert_eq!(texts(&after, log.id()).await.len(), 21);
    assert!(after.verify(log.id()).await.unwrap().ok, "a line that was half written went on where it stopped");
}

#[tokio::test]
async fn a_line_that_its_living_owner_could_write_in_part_is_no_damage() {
    let fs = SimFs::new();
    let (ours, theirs) = (store(&fs), store(&fs));
    let log = create(&ours).await;
    soon(log.flush()).await.unwrap();
    fs.set_room(Some(10));
    log.append(say("hello")).unwrap();
    assert!(soon(log.flush()).await.is_err());
    for store in [&ours, &theirs] {
        let verified = store.verify(log.id()).await.unwrap();
        assert!(verified.ok, "{:?}", verified.problems);
    }
    let verified = store(&fs.after_kill()).verify(log.id()).await.unwrap();
    assert_eq!(verified.problems.iter().map(|problem| problem.kind).collect::<Vec<_>>(), [ProblemKind::TornTail]);
}

#[tokio::test]
async fn a_drop_while_a_sync_hangs_that_then_fails_still_makes_all_durable() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    // A store that was dropped gives a failing disk up after some windows.
    options.window = Duration::from_millis(500);
    let store1 = FileStore::open(options).unwrap();
    let log = create(&store1).await;
    let id = log.id();
    soon(log.flush()).await.unwrap();
    fs.hang_syncs();
    let entry = log.append(say("hello")).unwrap();
    log.start_commit(entry.seq);
    until(|| fs.hung_syncs() > 0).await;
    let mut progress = log.progress();
    drop(log);
    drop(store1);
    // The other threads have the time to end.
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs.fail_syncs(2);
    fs.let_syncs_go();
    soon(progress.wait_for(|progress| progress.durable == 4)).await.unwrap();
    assert_eq!(texts(&store(&fs.after_power_cut()), id).await, ["hello"]);
}

#[tokio::test]
async fn short_writes_go_on_where_they_stopped() {
    let fs = SimFs::new();
    fs.limit_writes(7);
    let store1 = store(&fs);
    let log = create(&store1).await;
    for number in 0..20 {
        log.append(say(&number.to_string())).unwrap();
    }
    soon(log.flush()).await.unwrap();
    assert_eq!(texts(&store1, log.id()).await.len(), 20);
    assert!(store1.verify(log.id()).await.unwrap().ok);
}

#[tokio::test]
async fn a_failing_session_does_not_hold_up_another() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let (bad, good) = (create(&store1).await, create(&store1).await);
    soon(store1.flush()).await.unwrap();
    fs.edit(&log_path(bad.id()), |bytes| bytes.extend_from_slice(b"{}\n"));
    bad.append(say("bad")).unwrap();
    good.append(say("good")).unwrap();
    soon(good.flush()).await.unwrap();
    assert!(matches!(soon(bad.flush()).await, Err(StoreError::Lost { .. })));
    assert!(matches!(soon(store1.flush()).await, Err(StoreError::Lost { .. })));
}

async fn is_lost_after(change: impl FnOnce(&SimFs, &std::path::Path)) -> String {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    soon(log.flush()).await.unwrap();
    change(&fs, &log_path(log.id()));
    let before = fs.contents(&log_path(log.id()));
    let entry = log.append(say("kept")).unwrap();
    let error = soon(log.durable(entry.seq)).await.unwrap_err();
    assert_eq!(fs.contents(&log_path(log.id())), before, "nothing is written to a file that is not ours");
    assert_eq!(log.recent(entry.seq).unwrap(), [entry], "what was accepted is kept");
    assert!(log.append(say("more")).is_err());
    assert!(log.progress().borrow().trouble.is_some());
    error.to_string()
}

#[tokio::test]
async fn a_session_that_is_lost_after_its_release_can_be_opened_again() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    for with_close in [false, true] {
        let log = create(&store1).await;
        let id = log.id();
        log.append(say("before")).unwrap();
        soon(log.flush()).await.unwrap();
        fs.edit(&log_path(id), |bytes| bytes.extend_from_slice(b"{}\n"));
        if with_close {
            assert!(soon(log.close()).await.is_err());
        }
        drop(log);
        let opened = soon(store1.open(id)).await.unwrap();
        assert_eq!(opened.state.messages, 1);
        soon(opened.log.close()).await.unwrap();
        soon(store1.remove(id)).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_session_is_not_held_against_the_others() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let (log, other) = (create(&store1).await, create(&store1).await);
    soon(store1.flush()).await.unwrap();
    fs.edit(&log_path(log.id()), |bytes| bytes.extend_from_slice(b"{}\n"));
    // The log is looked at only when a line is written, so that neither is refused.
    log.put_side(vec![0; 100_000]).unwrap();
    log.append(say(&"x".repeat(100_000))).unwrap();
    assert!(matches!(soon(log.flush()).await, Err(StoreError::Lost { .. })));
    until(|| store1.stats().bytes_in_memory == 0).await;
    other.append(say("hello")).unwrap();
    soon(other.flush()).await.unwrap();
    drop(log);
    until(|| store1.stats().bytes_in_memory == 0).await;
}

#[tokio::test]
async fn a_file_that_is_replaced_underneath_is_told() {
    let replace = |fs: &SimFs, path: &std::path::Path| {
        let bytes = fs.contents(path).unwrap();
        fs.put(&path.with_extension("new"), &bytes);
        fs.rename(&path.with_extension("new"), path).unwrap();
    };
    let why = is_lost_after(replace).await;
    assert!(why.contains("replaced"), "{why}");
}

#[tokio::test]
async fn a_file_that_another_wrote_or_cut_is_told() {
    let why = is_lost_after(|fs, path| fs.edit(path, |bytes| bytes.extend_from_slice(b"{}\n"))).await;
    assert!(why.contains("3 bytes"), "{why}");
    let why = is_lost_after(|fs, path| fs.edit(path, |bytes| bytes.truncate(10))).await;
    assert!(why.contains("cut"), "{why}");
}

#[tokio::test]
async fn a_home_that_cannot_be_written_can_be_read() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    log.append(say("hello")).unwrap();
    soon(store1.shutdown(Duration::from_secs(10))).await.unwrap();
    fs.set_read_only();
    let store2 = store(&fs);
    let id = log.id();
    assert_eq!(store2.list().await.unwrap()[0].id, id);
    assert_eq!(store2.load(id).await.unwrap().state.messages, 1);
    assert!(store2.verify(id).await.unwrap().ok);
    assert_eq!(entries(&store2, id).await.len(), 4);
    let mut follower = store2.follow(id, 2).await.unwrap();
    assert_eq!(soon(follower.next()).await.unwrap().unwrap().event, say("hello"));
    assert!(matches!(store2.open(id).await, Err(StoreError::Io { .. })));
    assert!(matches!(store2.create(NewSession::default()).await, Err(StoreError::Io { .. })));
}

#[tokio::test]
async fn nothing_is_made_by_looking() {
    let fs = SimFs::new();
    let store = store(&fs);
    assert!(store.list().await.unwrap().is_empty());
    let id = SessionId::new(Timestamp::from_ms(0));
    assert!(matches!(store.open(id).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.load(id).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.remove(id).await, Err(StoreError::NotFound(_))));
    assert_eq!(fs.files(), Vec::<std::path::PathBuf>::new());
    assert!(fs.stat("/home".as_ref()).is_err());
}

#[tokio::test]
async fn a_store_that_was_dropped_gives_up_a_disk_that_never_takes_it() {
    let fs = SimFs::new();
    let options = options(&fs);
    // Only the store and its threads have this one.
    let held = std::sync::Arc::clone(&options.fs);
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    soon(log.flush()).await.unwrap();
    fs.fail_syncs(u64::MAX);
    log.append(say("hello")).unwrap();
    soon(log.progress().wait_for(|progress| progress.trouble.is_some())).await.unwrap();
    drop((log, store));
    until(|| std::sync::Arc::strong_count(&held) == 1).await;
}
