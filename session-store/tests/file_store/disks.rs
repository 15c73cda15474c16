//! Every way in which a disk fails, one after the other: the session's owner is told, memory stays inside its bound, the end of the
//! session is still accepted, nothing is lost, other sessions do not notice, and it goes on by itself when the disk does.

use crate::sim::SimFs;
use crate::writing::{create, log_path, options, say, soon, store, texts, until};
use session_store::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

const EMFILE: i32 = 24;
const EACCES: i32 = 13;
const EDQUOT: i32 = 122;

/// A session's memory in these tests.
const BYTES_MAX: u64 = 4_000;

fn away(path: &Path) -> PathBuf {
    path.with_extension("away")
}

/// A way to fail, and to be well again.
struct Fault {
    name: &'static str,
    begin: fn(&SimFs, &Path),
    end: fn(&SimFs, &Path),
    /// Only one session has it.
    is_of_one: bool,
}

const FAULTS: [Fault; 9] = [
    Fault { name: "no room", begin: |fs, _| fs.set_room(Some(7)), end: |fs, _| fs.set_room(None), is_of_one: false },
    Fault {
        name: "over quota, told by the sync",
        begin: |fs, _| {
            fs.fail_with(EDQUOT);
            fs.fail_syncs(u64::MAX);
        },
        end: |fs, _| fs.fail_syncs(0),
        is_of_one: false,
    },
    Fault { name: "writes fail", begin: |fs, _| fs.fail_writes(u64::MAX), end: |fs, _| fs.fail_writes(0), is_of_one: false },
    Fault { name: "syncs fail", begin: |fs, _| fs.fail_syncs(u64::MAX), end: |fs, _| fs.fail_syncs(0), is_of_one: false },
    Fault { name: "read-only", begin: |fs, _| fs.set_read_only(), end: |fs, _| fs.set_writable(), is_of_one: false },
    Fault {
        name: "no descriptors",
        begin: |fs, _| {
            // The descriptors that it had went with a failed sync.
            fs.fail_syncs(1);
            fs.fail_with(EMFILE);
            fs.fail_opens(u64::MAX);
        },
        end: |fs, _| fs.fail_opens(0),
        is_of_one: false,
    },
    Fault {
        name: "the file may not be written any more",
        begin: |fs, _| {
            fs.fail_writes(1);
            fs.fail_with(EACCES);
            fs.fail_opens(u64::MAX);
        },
        end: |fs, _| fs.fail_opens(0),
        is_of_one: false,
    },
    Fault { name: "unmounted", begin: |fs, _| fs.unmount(), end: |fs, _| fs.mount(), is_of_one: false },
    Fault {
        name: "moved away",
        begin: |fs, path| fs.rename(path, &away(path)).unwrap(),
        end: |fs, path| fs.rename(&away(path), path).unwrap(),
        is_of_one: true,
    },
];

#[tokio::test]
async fn whatever_fails_is_told_bounded_and_goes_on_by_itself() {
    for fault in FAULTS {
        let name = fault.name;
        let fs = SimFs::new();
        let mut options = options(&fs);
        options.session_bytes_max = BYTES_MAX;
        options.closing_bytes = 500;
        let store1 = FileStore::open(options).unwrap();
        let (log, other) = (create(&store1).await, create(&store1).await);
        let path = log_path(log.id());
        log.append(say("durable")).unwrap();
        soon(store1.flush()).await.unwrap();

        (fault.begin)(&fs, &path);
        let mut expected = vec!["durable".to_owned()];
        let text = |number: usize| format!("message {number}");
        log.append(say(&text(0))).unwrap();
        expected.push(text(0));
        soon(log.progress().wait_for(|progress| progress.trouble.is_some())).await.unwrap();
        // Until the bound is reached.
        while log.append(say(&text(expected.len() - 1))).is_ok() {
            expected.push(text(expected.len() - 1));
        }
        assert!(store1.stats().bytes_in_memory <= BYTES_MAX, "{name}");
        let closing = Interrupted { by: "test".to_owned() };
        log.append(closing.into()).unwrap_or_else(|error| panic!("{name}: the reserve is for this: {error}"));
        if fault.is_of_one {
            other.append(say("other")).unwrap();
            soon(other.flush()).await.unwrap_or_else(|error| panic!("{name}: another session noticed: {error}"));
        }
        assert!(soon(log.flush()).await.is_err(), "{name}");
        let on_disk = fs.after_power_cut();
        if !fault.is_of_one && name != "unmounted" {
            assert_eq!(texts(&store(&on_disk), log.id()).await.first().map(String::as_str), Some("durable"), "{name}");
        }

        (fault.end)(&fs, &path);
        let accepted = log.progress().borrow().accepted;
        soon(log.progress().wait_for(|progress| progress.durable == accepted && progress.trouble.is_none())).await.unwrap();
        let after = store(&fs.after_power_cut());
        assert_eq!(texts(&after, log.id()).await, expected, "{name}");
        let verified = after.verify(log.id()).await.unwrap();
        assert!(verified.ok, "{name}: {:?}", verified.problems);
        log.append(say("on")).unwrap();
        soon(log.close()).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_whose_disk_is_gone_can_be_let_go_of_and_is_written_when_it_is_back() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let id = log.id();
    soon(log.flush()).await.unwrap();
    fs.unmount();
    log.append(say("hello")).unwrap();
    assert!(soon(log.close()).await.is_err());
    drop(log);
    assert!(store1.open(id).await.is_err(), "it still has something to write");
    fs.mount();
    until(|| store1.stats().bytes_in_memory == 0).await;
    let opened = soon(store1.open(id)).await.unwrap();
    assert_eq!(opened.state.messages, 1);
}

/// A session that wrote `hello` twice, the second time without being able to sync it; then its disk goes and comes back
/// changed. What it is told in the end.
async fn comes_back_as(change: impl FnOnce(&mut Vec<u8>, usize)) -> (SimFs, SessionId, Result<(), StoreError>) {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    log.append(say("hello")).unwrap();
    soon(log.flush()).await.unwrap();
    let path = log_path(log.id());
    let durable = fs.contents(&path).unwrap().len();
    fs.fail_syncs(u64::MAX);
    let entry = log.append(say("hello again")).unwrap();
    soon(log.written(entry.seq)).await.unwrap();
    soon(log.progress().wait_for(|progress| progress.trouble.is_some())).await.unwrap();
    fs.unmount();
    let is_gone = |progress: &Progress| progress.trouble.as_ref().is_some_and(|trouble| trouble.to_string().contains("gone"));
    soon(log.progress().wait_for(is_gone)).await.unwrap();
    fs.mount();
    fs.unmount();
    fs.edit_unmounted(&path, |bytes| change(bytes, durable));
    fs.fail_syncs(0);
    fs.mount();
    let outcome = soon(async {
        loop {
            match log.flush().await {
                Err(StoreError::Io { .. }) => {}
                outcome => return outcome,
            }
        }
    })
    .await;
    (fs, log.id(), outcome)
}

#[tokio::test]
async fn a_disk_that_came_back_without_what_was_not_synced_gets_it_again() {
    for lost in [0, 1, 20] {
        let (fs, id, outcome) = comes_back_as(|bytes, _| bytes.truncate(bytes.len() - lost)).await;
        outcome.unwrap();
        let after = store(&fs.after_power_cut());
        assert_eq!(texts(&after, id).await, ["hello", "hello again"]);
        assert!(after.verify(id).await.unwrap().ok);
    }
    let (fs, id, outcome) = comes_back_as(Vec::truncate).await;
    outcome.unwrap();
    assert_eq!(texts(&store(&fs.after_power_cut()), id).await, ["hello", "hello again"]);
}

#[tokio::test]
async fn a_disk_that_came_back_with_another_file_is_not_written() {
    let changes: [fn(&mut Vec<u8>, usize); 4] = [
        |bytes, _| bytes.extend_from_slice(b"{}\n"),
        |bytes, durable| bytes.truncate(durable - 1),
        |bytes, durable| bytes[durable - 5] ^= 1,
        |bytes, _| {
            let last = bytes.len() - 40;
            bytes[last] ^= 1;
        },
    ];
    for change in changes {
        let (_, _, outcome) = comes_back_as(change).await;
        assert!(matches!(outcome, Err(StoreError::Lost { .. })), "{outcome:?}");
    }
}

/// A wall clock that is set by hand.
struct JumpingClock(AtomicI64);

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn a_clock_that_jumps_breaks_no_order_no_window_and_no_retry() {
    const HOUR: i64 = 3_600_000;
    let now = 1_770_000_000_000;
    let fs = SimFs::new();
    let clock = std::sync::Arc::new(JumpingClock(AtomicI64::new(now)));
    let mut options = options(&fs);
    options.clock = std::sync::Arc::clone(&clock) as std::sync::Arc<dyn Clock>;
    let store1 = FileStore::open(options).unwrap();
    let log = create(&store1).await;
    let mut ids = vec![log.id()];
    for (number, jump) in [-HOUR, 1_000 * HOUR, -20_000 * HOUR, i64::MIN / 2, now].into_iter().enumerate() {
        clock.0.store(now.saturating_add(jump), Ordering::SeqCst);
        // Written within its window without being asked for, and tried again after a failure.
        fs.fail_syncs(1);
        let entry = log.append(say(&number.to_string())).unwrap();
        soon(log.progress().wait_for(|progress| progress.durable > entry.seq && progress.trouble.is_none())).await.unwrap();
        let another = create(&store1).await;
        ids.push(another.id());
        soon(another.close()).await.unwrap();
    }
    assert_eq!(texts(&store1, log.id()).await, ["0", "1", "2", "3", "4"]);
    assert!(store1.verify(log.id()).await.unwrap().ok);
    soon(log.close()).await.unwrap();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    assert_eq!(store1.list().await.unwrap().len(), 6);
    assert_eq!(store1.open(log.id()).await.unwrap().log.epoch(), 2);
}
