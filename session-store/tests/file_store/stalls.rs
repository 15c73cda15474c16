//! A disk that does not answer: told, bounded, rescued where there is a place for that, and written by nobody else meanwhile.

use crate::handoff::fork_stale;
use crate::rescue::{TwoDisks, rescued, texts_after_reopening};
use crate::sim::SimFs;
use crate::writing::{create, log_path, options, say, soon, store, texts, until};
use session_store::*;
use std::time::Duration;

/// A way not to answer, and to answer again.
struct Hang {
    name: &'static str,
    begin: fn(&SimFs),
    end: fn(&SimFs),
}

const HANGS: [Hang; 2] = [
    Hang { name: "no write returns", begin: |fs| fs.hang_device(0), end: SimFs::let_device_go },
    Hang { name: "no sync returns", begin: SimFs::hang_syncs, end: SimFs::let_syncs_go },
];

#[tokio::test]
async fn a_disk_that_does_not_answer_is_told_and_bounded_and_stops_nothing() {
    for hang in HANGS {
        let fs = SimFs::new();
        let mut options = options(&fs);
        options.session_bytes_max = 4_000;
        let store1 = FileStore::open(options).unwrap();
        let logs = [create(&store1).await, create(&store1).await];
        soon(store1.flush()).await.unwrap();
        (hang.begin)(&fs);
        logs.iter().for_each(|log| drop(log.append(say("0")).unwrap()));
        for log in &logs {
            soon(log.progress().wait_for(|progress| progress.stalled)).await.unwrap();
            assert!(log.progress().borrow().trouble.is_none(), "{}: slow is not broken", hang.name);
        }
        let mut said = vec!["0".to_owned()];
        while logs[0].append(say(&said.len().to_string())).is_ok() {
            said.push(said.len().to_string());
        }
        assert!(store1.stats().bytes_in_memory <= 2 * 4_000, "{}", hang.name);
        (hang.end)(&fs);
        for log in &logs {
            let is_well = |progress: &Progress| !progress.stalled && progress.durable == progress.accepted;
            soon(log.progress().wait_for(is_well)).await.unwrap();
        }
        let after = store(&fs.after_power_cut());
        assert_eq!(texts(&after, logs[0].id()).await, said, "{}", hang.name);
        assert_eq!(texts(&after, logs[1].id()).await, ["0"], "{}", hang.name);
        soon(store1.shutdown(Duration::from_secs(10))).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_disk_that_does_not_answer_does_not_take_is_durable_elsewhere_until_it_does() {
    for hang in HANGS {
        let disks = TwoDisks::new();
        let mut options = disks.options();
        options.session_bytes_max = 4_000;
        let store1 = FileStore::open(options).unwrap();
        let logs = [create(&store1).await, create(&store1).await];
        logs.iter().for_each(|log| drop(log.append(say("before")).unwrap()));
        soon(store1.flush()).await.unwrap();
        (hang.begin)(&disks.home);
        // The second waits behind the first.
        for text in ["after", "more"] {
            for log in &logs {
                let entry = log.append(say(text)).unwrap();
                soon(log.durable(entry.seq)).await.unwrap();
                let progress = log.progress().borrow().clone();
                assert!(progress.trouble.is_none() && !progress.stalled, "{}: {progress:?}", hang.name);
                assert!(progress.rescued.unwrap().why.contains("does not answer"));
            }
        }
        for log in &logs {
            let after = disks.after_power_cut();
            assert_eq!(texts_after_reopening(&after, log.id()).await, ["before", "after", "more"], "{}", hang.name);
        }
        while logs[0].append(say("x")).is_ok() {}
        assert!(store1.stats().bytes_in_memory <= 2 * 4_000, "{}", hang.name);
        (hang.end)(&disks.home);
        for log in &logs {
            let accepted = log.progress().borrow().accepted;
            let is_well = |progress: &Progress| progress.rescued.is_none() && progress.durable == accepted;
            soon(log.progress().wait_for(is_well)).await.unwrap();
            let alone = store(&disks.home.after_power_cut());
            assert_eq!(texts(&alone, log.id()).await[..3], ["before", "after", "more"], "{}", hang.name);
            assert!(alone.verify(log.id()).await.unwrap().ok, "{}", hang.name);
        }
        until(|| disks.rescue.files().is_empty()).await;
        until(|| store1.stats().bytes_in_memory == 0).await;
        soon(store1.shutdown(Duration::from_secs(10))).await.unwrap();
    }
}

#[tokio::test]
async fn who_is_on_another_device_than_the_one_that_hangs_does_not_notice() {
    let disks = TwoDisks::new();
    disks.home.set_device("/home/sessions/1971".as_ref(), 1);
    let store = disks.store();
    let on_day = async |day: i64| {
        let id = Some(SessionId::new(Timestamp::from_ms(day * 86_400_000)));
        store.create(NewSession { id, ..NewSession::default() }).await.unwrap().log
    };
    let (good, bad) = (on_day(10).await, on_day(400).await);
    soon(store.flush()).await.unwrap();
    disks.home.hang_device(1);
    let hung = bad.append(say("hangs")).unwrap();
    soon(bad.durable(hung.seq)).await.unwrap();
    assert!(rescued(&*bad).is_some());
    let progress = good.progress();
    for number in 0..20 {
        let entry = good.append(say(&number.to_string())).unwrap();
        soon(good.durable(entry.seq)).await.unwrap();
        let progress = progress.borrow();
        assert!(progress.rescued.is_none() && progress.trouble.is_none() && !progress.stalled, "{progress:?}");
    }
    disks.home.let_device_go();
    soon(store.shutdown(Duration::from_secs(10))).await.unwrap();
}

#[tokio::test]
async fn nobody_gets_a_session_while_the_process_that_writes_it_hangs() {
    let disks = TwoDisks::new();
    let store1 = disks.store();
    let log = create(&store1).await;
    let id = log.id();
    soon(log.flush()).await.unwrap();
    disks.home.hang_device(0);
    let entry = log.append(say("hangs")).unwrap();
    soon(log.durable(entry.seq)).await.unwrap();
    soon(store1.shutdown(Duration::from_millis(100))).await.expect("all of it is safe");
    drop((log, store1));

    let mut options = disks.options();
    options.machine.pid = 2;
    let other = FileStore::open(options).unwrap();
    assert!(matches!(other.open(id).await, Err(StoreError::Held { alive: true, .. })), "a thread of it may still write");
    disks.home.let_device_go();
    let opened = soon(async {
        loop {
            match other.open(id).await {
                Err(StoreError::Held { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                opened => return opened.unwrap(),
            }
        }
    })
    .await;
    let entry = opened.log.append(say("on")).unwrap();
    soon(opened.log.durable(entry.seq)).await.unwrap();
    assert_eq!(texts(&other, id).await, ["hangs", "on"]);
    assert!(other.verify(id).await.unwrap().ok);
    until(|| disks.rescue.files().is_empty()).await;
}

/// Sessions whose rescue is one batch: it begins when all have failed.
async fn rescued_together(disks: &TwoDisks) -> (FileStore, Vec<std::sync::Arc<dyn SessionLog>>) {
    let store = disks.store();
    let mut logs = Vec::new();
    for _ in 0..200 {
        logs.push(create(&store).await);
    }
    soon(store.flush()).await.unwrap();
    disks.home.set_read_only();
    disks.rescue.hang_syncs();
    logs[0].append(say("hello")).unwrap();
    until(|| disks.rescue.hung_syncs() > 0).await;
    let failures = store.stats().failures;
    logs[1..].iter().for_each(|log| drop(log.append(say("hello")).unwrap()));
    until(|| store.stats().failures >= failures + 199).await;
    (store, logs)
}

#[tokio::test]
async fn many_sessions_are_rescued_with_few_syncs() {
    for fails_once in [false, true] {
        let disks = TwoDisks::new();
        disks.rescue.set_volume();
        let (store, logs) = rescued_together(&disks).await;
        disks.rescue.fail_volume_syncs(u64::from(fails_once));
        let before = disks.rescue.syncs();
        disks.rescue.let_syncs_go();
        for log in &logs {
            soon(log.progress().wait_for(|progress| progress.rescued.is_some())).await.unwrap();
        }
        assert!(disks.rescue.syncs() - before < 50, "{} syncs", disks.rescue.syncs() - before);
        assert!(disks.rescue.volume_syncs() > 0);
        let after = disks.after_power_cut();
        after.home.set_writable();
        let again = after.store();
        for log in &logs {
            soon(again.open(log.id())).await.unwrap();
            assert_eq!(texts(&again, log.id()).await, ["hello"]);
        }
        disks.home.set_writable();
        soon(store.shutdown(Duration::from_secs(60))).await.unwrap();
        // A file whose sync failed is left to the next owner.
        assert!(fails_once || disks.rescue.files().is_empty(), "{}", disks.rescue.files().len());
    }
}

#[tokio::test]
async fn a_session_whose_file_was_removed_is_told_then_given_up_and_its_events_are_kept() {
    for with_folder in [true, false] {
        let disks = TwoDisks::new();
        let mut options = disks.options();
        options.gone_after = Duration::from_millis(100);
        if !with_folder {
            options.rescue_dir = None;
        }
        let store = FileStore::open(options).unwrap();
        let (log, other) = (create(&store).await, create(&store).await);
        log.append(say("gone")).unwrap();
        soon(store.flush()).await.unwrap();
        disks.home.remove_file(&log_path(log.id())).unwrap();
        log.append(say("kept")).unwrap();
        let is_told = |progress: &Progress| progress.trouble.is_some() || progress.rescued.is_some();
        soon(log.progress().wait_for(is_told)).await.unwrap();
        soon(log.progress().wait_for(|progress| progress.closed)).await.unwrap();
        let progress = log.progress().borrow().clone();
        let why = progress.trouble.unwrap().to_string();
        assert!(why.contains("was lost") && why.contains("removed"), "{why}");
        let path = progress.rescued.unwrap().path.clone();
        assert!(path.starts_with(if with_folder { "/rescue/longhand" } else { "/home/repaired" }), "{}", path.display());
        let after = disks.after_power_cut();
        let kept = if with_folder { &after.rescue } else { &after.home }.contents(&path).unwrap();
        let kept = String::from_utf8(kept).unwrap();
        assert!(kept.contains("\"kept\"") && !kept.contains("\"gone\""), "{kept}");
        assert!(matches!(log.append(say("no")), Err(AppendError::NotOpen { .. })));
        other.append(say("other")).unwrap();
        soon(other.flush()).await.unwrap();
        until(|| store.stats().bytes_in_memory == 0).await;
        drop(log);
        soon(store.shutdown(Duration::from_secs(10))).await.unwrap();
    }
}

#[tokio::test]
async fn what_an_overtaken_writer_had_not_written_is_kept_and_offered() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let id = log.id();
    log.append(say("common")).unwrap();
    soon(log.flush()).await.unwrap();
    fs.forget_locks();
    let mut other = options(&fs);
    other.machine.pid = 2;
    let other = FileStore::open(other).unwrap();
    let taken = soon(other.open(id)).await.unwrap();
    taken.log.append(say("theirs")).unwrap();
    soon(taken.log.close()).await.unwrap();

    log.append(say("mine")).unwrap();
    assert!(matches!(soon(log.flush()).await, Err(StoreError::Lost { .. })));
    assert!(rescued(&*log).unwrap().path.starts_with("/home/repaired"));
    assert_eq!(texts(&other, id).await, ["common", "theirs"]);
    assert!(other.verify(id).await.unwrap().ok, "nothing was written to it");
    let fork = fork_stale(&other, id).await.log;
    soon(fork.close()).await.unwrap();
    assert_eq!(texts(&other, fork.id()).await, ["common", "mine"]);
}

#[tokio::test]
async fn a_disk_that_is_away_is_waited_for() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.gone_after = Duration::ZERO;
    let store1 = FileStore::open(options).unwrap();
    let log = create(&store1).await;
    soon(log.flush()).await.unwrap();
    fs.unmount();
    let failures = store1.stats().failures;
    log.append(say("hello")).unwrap();
    until(|| store1.stats().failures > failures + 5).await;
    fs.mount();
    soon(log.progress().wait_for(|progress| progress.trouble.is_none() && progress.durable == 3)).await.unwrap();
    assert_eq!(texts(&store(&fs.after_power_cut()), log.id()).await, ["hello"]);
}

#[tokio::test]
async fn whoever_opens_or_creates_a_session_on_a_disk_that_does_not_answer_is_free_to_leave() {
    for hang in HANGS {
        let fs = SimFs::new();
        let store1 = store(&fs);
        let log = create(&store1).await;
        let id = log.id();
        log.append(say("before")).unwrap();
        soon(log.close()).await.unwrap();
        soon(store1.shutdown(Duration::from_secs(10))).await.unwrap();

        let store1 = store(&fs);
        (hang.begin)(&fs);
        let brief = Duration::from_millis(100);
        let opened = tokio::time::timeout(brief, store1.open(id)).await;
        let created = tokio::time::timeout(brief, store1.create(NewSession::default())).await;
        assert!(opened.is_err() || created.is_err(), "{}: nothing hangs", hang.name);
        drop((opened, created));
        let _ = soon(store1.shutdown(brief)).await;

        (hang.end)(&fs);
        let after = store(&fs.after_kill());
        let opened = soon(after.open(id)).await.unwrap();
        soon(opened.log.close()).await.unwrap();
        assert_eq!(texts(&after, id).await, ["before"], "{}", hang.name);
    }
}
