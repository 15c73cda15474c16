//! Many sessions at once: one that is slow, a device that hangs, or a lack of descriptors holds up nobody else, and however they are
//! synced, what is durable is durable.

use crate::sim::SimFs;
use crate::writing::{create, log_path, options, say, soon, store, texts, until};
use session_store::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

async fn create_many(store: &FileStore, count: usize) -> Vec<Arc<dyn SessionLog>> {
    let mut logs = Vec::new();
    for _ in 0..count {
        logs.push(create(store).await);
    }
    soon(store.flush()).await.unwrap();
    logs
}

/// A session of another day than today.
async fn create_on(store: &FileStore, day: i64) -> Arc<dyn SessionLog> {
    let id = SessionId::new(Timestamp::from_ms(day * 86_400_000));
    store.create(NewSession { id: Some(id), ..NewSession::default() }).await.unwrap().log
}

async fn durable(log: &Arc<dyn SessionLog>, seq: Seq) {
    soon(log.progress().wait_for(|progress| progress.durable > seq)).await.unwrap();
}

async fn all_durable(logs: &[Arc<dyn SessionLog>]) {
    for log in logs {
        let accepted = log.progress().borrow().accepted;
        durable(log, accepted - 1).await;
    }
}

/// Each session has these texts, after a power cut too.
async fn check_all(fs: &SimFs, logs: &[Arc<dyn SessionLog>], expected: &[String]) {
    let after = store(&fs.after_power_cut());
    for log in logs {
        assert_eq!(texts(&after, log.id()).await, expected, "{}", log.id());
        assert!(after.verify(log.id()).await.unwrap().ok);
    }
}

#[tokio::test]
async fn a_device_that_hangs_stops_no_other() {
    let fs = SimFs::new();
    fs.set_device("/home/sessions/1971".as_ref(), 1);
    let store1 = store(&fs);
    let (good, bad) = (create_on(&store1, 10).await, create_on(&store1, 400).await);
    soon(store1.flush()).await.unwrap();
    fs.hang_device(1);
    let hung = bad.append(say("hangs")).unwrap();
    bad.start_commit(hung.seq);
    until(|| fs.hung_on_device() > 0).await;
    // The background, a commit, a new session, and one that goes.
    let entry = good.append(say("by itself")).unwrap();
    durable(&good, entry.seq).await;
    let entry = good.append(say("asked for")).unwrap();
    soon(good.durable(entry.seq)).await.unwrap();
    let new = create_on(&store1, 11).await;
    soon(new.close()).await.unwrap();
    assert!(store1.stats().queued_commits <= 1);
    assert_eq!(texts(&store(&fs.after_power_cut()), good.id()).await, ["by itself", "asked for"]);
    fs.let_device_go();
    soon(store1.flush()).await.unwrap();
    assert_eq!(texts(&store(&fs.after_power_cut()), bad.id()).await, ["hangs"]);
    soon(store1.shutdown(Duration::from_secs(10))).await.unwrap();
}

#[tokio::test]
async fn files_are_written_in_the_order_of_their_inodes_whoever_came_first() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    // Nothing is written before somebody waits for it.
    options.window = Duration::from_secs(3600);
    let store = FileStore::open(options).unwrap();
    let mut logs = create_many(&store, 200).await;
    fastrand::Rng::with_seed(1).shuffle(&mut logs);
    fs.take_written();
    logs.iter().for_each(|log| drop(log.append(say("hello")).unwrap()));
    soon(store.flush()).await.unwrap();
    let written = fs.take_written();
    assert_eq!(written.len(), 200);
    // What the flush before is not quite done with comes as soon as it is. In no order there would be a hundred falls.
    let falls = written.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(falls < 10, "{falls} falls: {written:?}");
}

#[tokio::test]
async fn more_devices_than_have_threads_share_the_last() {
    let fs = SimFs::new();
    fs.set_volume();
    let store1 = store(&fs);
    let mut logs = Vec::new();
    for year in 0..12 {
        fs.set_device(format!("/home/sessions/{}", 1970 + year).as_ref(), year);
        logs.push(create_on(&store1, i64::try_from(year).unwrap() * 365 + 100).await);
    }
    for log in &logs {
        log.append(say("hello")).unwrap();
    }
    soon(store1.flush()).await.unwrap();
    check_all(&fs, &logs, &["hello".to_owned()]).await;
    soon(store1.shutdown(Duration::from_secs(10))).await.unwrap();
}

#[tokio::test]
async fn a_file_whose_sync_hangs_holds_up_no_other_of_its_device() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let logs = create_many(&store1, 50).await;
    fs.hang_syncs_of(&log_path(logs[0].id()));
    for round in ["one", "two"] {
        for log in &logs {
            log.append(say(round)).unwrap();
        }
        all_durable(&logs[1..]).await;
    }
    // The background hangs in it. So does who waits for it, and nobody else does.
    logs[0].start_commit(Seq::MAX);
    for log in &logs[1..] {
        let entry = log.append(say("three")).unwrap();
        soon(log.durable(entry.seq)).await.unwrap();
    }
    assert!(fs.hung_syncs_of_file() > 0);
    assert_eq!(logs[0].progress().borrow().durable, 2);
    fs.let_file_go();
    logs[0].append(say("three")).unwrap();
    soon(store1.flush()).await.unwrap();
    check_all(&fs, &logs, &["one".to_owned(), "two".to_owned(), "three".to_owned()]).await;
}

#[tokio::test]
async fn a_session_that_writes_much_lets_the_others_go_between() {
    const MIB: u64 = 1 << 20;
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.session_bytes_max = 256 * MIB;
    let store = FileStore::open(options).unwrap();
    let logs = create_many(&store, 100).await;
    let (large, small) = logs.split_first().unwrap();
    fs.slow_down(&log_path(large.id()));
    for _ in 0..48 {
        large.append(say(&"x".repeat(MIB as usize / 2))).unwrap();
    }
    until(|| fs.waited_for_credit() > 0).await;
    // Its first batch is on its way.
    for log in small {
        log.append(say("small")).unwrap();
    }
    // Their window has passed.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut batches = 0;
    until(|| {
        let are_written = small.iter().all(|log| log.progress().borrow().written == 3);
        if !are_written && fs.waited_for_credit() > batches {
            fs.credit(4 * MIB);
            batches += 1;
        }
        are_written
    })
    .await;
    assert!(batches <= 3, "they waited for {batches} batches of 4 MiB, of six");
    all_durable(small).await;
    assert!(large.progress().borrow().written < 2 + 4 * 8);
    fs.credit(100 * MIB);
    soon(store.flush()).await.unwrap();
}

/// Appends an event to each session, again and again, until `enough`; says what was appended.
async fn rounds(store: &FileStore, logs: &[Arc<dyn SessionLog>], mut enough: impl FnMut() -> bool) -> Vec<String> {
    let mut said = Vec::new();
    while !enough() {
        let text = said.len().to_string();
        logs.iter().for_each(|log| drop(log.append(say(&text)).unwrap()));
        said.push(text);
        all_durable(logs).await;
    }
    soon(store.flush()).await.unwrap();
    said
}

#[tokio::test]
async fn many_files_on_a_slow_disk_are_synced_as_one_and_are_durable() {
    for delay_ms in [5, 50] {
        let fs = SimFs::new();
        fs.set_volume();
        let store = store(&fs);
        let logs = create_many(&store, 150).await;
        fs.delay_syncs(Duration::from_millis(delay_ms));
        let said = rounds(&store, &logs, || fs.volume_syncs() >= 3).await;
        check_all(&fs, &logs, &said).await;
        assert_eq!(store.stats().volume_syncs, fs.volume_syncs());
        assert_eq!(store.stats().failures, 0);
    }
}

#[tokio::test]
async fn what_a_failed_sync_of_the_file_system_lost_is_written_again() {
    let fs = SimFs::new();
    fs.set_volume();
    let store = store(&fs);
    let logs = create_many(&store, 150).await;
    fs.delay_syncs(Duration::from_millis(5));
    let mut said = rounds(&store, &logs, || fs.volume_syncs() >= 2).await;
    fs.fail_volume_syncs(1);
    for round in 0.. {
        if fs.failing_volume_syncs() == 0 {
            break;
        }
        let text = format!("again {round}");
        logs.iter().for_each(|log| drop(log.append(say(&text)).unwrap()));
        said.push(text);
        all_durable(&logs).await;
    }
    check_all(&fs, &logs, &said).await;
    assert!(store.stats().failures >= 1);
    assert!(logs.iter().all(|log| log.progress().borrow().trouble.is_none()), "it was cured at once");
    // It is not relied on for a while.
    let before = fs.volume_syncs();
    logs.iter().for_each(|log| drop(log.append(say("later")).unwrap()));
    said.push("later".to_owned());
    all_durable(&logs).await;
    assert_eq!(fs.volume_syncs(), before);
    check_all(&fs, &logs, &said).await;
}

#[tokio::test]
async fn more_sessions_than_descriptors_are_written_all_the_same() {
    for with_volume in [false, true] {
        let fs = SimFs::new();
        if with_volume {
            fs.set_volume();
        }
        let store = store(&fs);
        fs.limit_descriptors(Some(60));
        let logs = create_many(&store, 200).await;
        for text in ["one", "two"] {
            logs.iter().for_each(|log| drop(log.append(say(text)).unwrap()));
            all_durable(&logs).await;
        }
        check_all(&fs, &logs, &["one".to_owned(), "two".to_owned()]).await;
        assert_eq!(store.stats().failures, 0);
        assert!(fs.descriptors_peak() <= 60);
        // Others of the process find some.
        let id = logs[0].id();
        soon(logs[0].close()).await.unwrap();
        soon(store.open(id)).await.unwrap();
    }
}

#[tokio::test]
async fn a_log_that_was_closed_before_its_sync_is_not_durable_by_the_sync_of_another_descriptor() {
    let fs = SimFs::new();
    let store = store(&fs);
    let mut logs = Vec::new();
    for _ in 0..17 {
        logs.push(create(&store).await);
    }
    // By the background alone: nobody who waits is served by other threads than those that are to hang.
    all_durable(&logs).await;
    let (closed, busy) = logs.split_first().unwrap();
    fs.hang_syncs();
    busy.iter().for_each(|log| drop(log.append(say("busy")).unwrap()));
    until(|| fs.hung_syncs() == 16).await;
    // No thread is left for its sync.
    let entry = closed.append(say("closed")).unwrap();
    soon(closed.written(entry.seq)).await.unwrap();
    // What hangs keeps its descriptor, and the store a few.
    fs.limit_descriptors(Some(16 + 30));
    let mut others = Vec::new();
    for _ in 0..60 {
        let other = create(&store).await;
        soon(other.written(1)).await.unwrap();
        others.push(other);
    }
    // Nobody has it open, so nobody of the store is told, not even who opens it next.
    assert_eq!(fs.descriptors_of(&log_path(closed.id())), 0);
    fs.lose(&log_path(closed.id()));
    fs.let_syncs_go();
    soon(store.flush()).await.unwrap();
    assert_eq!(texts(&crate::writing::store(&fs.after_power_cut()), closed.id()).await, ["closed"]);
}

#[tokio::test]
async fn the_folders_of_a_new_session_are_synced_once() {
    let fs = SimFs::new();
    let store = store(&fs);
    let first = create_on(&store, 0).await;
    soon(first.flush()).await.unwrap();
    // Whatever the background does with it.
    let entry = first.append(say("more")).unwrap();
    durable(&first, entry.seq).await;
    let folders = Path::new("/home/sessions/1970/01/01").ancestors().count() as u64;
    assert_eq!(fs.folder_syncs(), folders);
    for more in 1..=5 {
        let next = create_on(&store, 0).await;
        soon(next.flush()).await.unwrap();
        let entry = next.append(say("more")).unwrap();
        durable(&next, entry.seq).await;
        assert_eq!(fs.folder_syncs(), folders + more, "the folder of its own day, once");
    }
}

#[tokio::test]
async fn the_statistics_tell_what_waits_and_what_it_took() {
    let fs = SimFs::new();
    let store = store(&fs);
    let mut logs = Vec::new();
    for _ in 0..20 {
        logs.push(create(&store).await);
    }
    all_durable(&logs).await;
    fs.hang_syncs();
    logs.iter().for_each(|log| drop(log.append(say("x")).unwrap()));
    until(|| fs.hung_syncs() > 0 && store.stats().queued_syncs + fs.hung_syncs() == 20).await;
    assert_eq!(store.stats().open_files, 20);
    fs.let_syncs_go();
    all_durable(&logs).await;
    // The background may be there before who waits for it.
    while store.stats().time_of_commits.count() == 0 {
        let entry = logs[0].append(say("y")).unwrap();
        soon(logs[0].durable(entry.seq)).await.unwrap();
    }
    until(|| {
        let stats = store.stats();
        stats.queued_writes + stats.queued_syncs + stats.queued_commits == 0
    })
    .await;
    let stats = store.stats();
    assert!(stats.time_of_writes.count() >= 21 && stats.time_of_file_syncs.count() >= 20);
    assert!(stats.time_to_durable.count() >= 40);
}

#[tokio::test]
async fn the_real_disk_is_synced_as_a_whole_where_it_tells_of_failures() {
    let home = tempfile::tempdir().unwrap();
    let store = FileStore::open(FileStoreOptions::new(home.path().join("store"))).unwrap();
    let mut logs = Vec::new();
    for _ in 0..300 {
        logs.push(create(&store).await);
    }
    soon(store.flush()).await.unwrap();
    for text in ["one", "two", "three"] {
        logs.iter().for_each(|log| drop(log.append(say(text)).unwrap()));
        soon(store.flush()).await.unwrap();
    }
    for log in &logs {
        assert_eq!(texts(&store, log.id()).await, ["one", "two", "three"]);
    }
    if let Some(volume) = RealFs.volume(home.path()).unwrap() {
        volume.sync().unwrap();
    }
    soon(store.shutdown(Duration::from_secs(20))).await.unwrap();
}
