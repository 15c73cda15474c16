//! A holder that is asked lets go; a writer that was overtaken leaves something to go on with; a full disk has room for last words.

use crate::sim::SimFs;
use crate::writing::{LIMIT, create, entries, log_path, options, say, soon, store, texts, until};
use session_store::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A store on the real disk: there the kernel tells of requests.
fn real(home: &Path) -> FileStore {
    let mut options = FileStoreOptions::new(home);
    options.program = "test 1".to_owned();
    FileStore::open(options).unwrap()
}

async fn asked(log: &dyn SessionLog) -> Owner {
    let mut progress = log.progress();
    let progress = soon(progress.wait_for(|progress| progress.asked.is_some())).await.unwrap();
    progress.asked.as_deref().cloned().unwrap()
}

#[tokio::test]
async fn a_holder_that_is_asked_is_told_by_whom_and_lets_go() {
    let home = tempfile::tempdir().unwrap();
    let (holder, asker) = (real(home.path()), real(home.path()));
    let (log, other) = (create(&holder).await, create(&holder).await);
    let id = log.id();
    log.append(say("hello")).unwrap();
    soon(holder.flush()).await.unwrap();
    let answer = async {
        let by = asked(&*log).await;
        assert_eq!((by.pid, by.program.as_str()), (std::process::id(), "test 1"));
        assert!(other.progress().borrow().asked.is_none(), "nobody wants the other one");
        // A turn ends first.
        log.append(say("last words")).unwrap();
        log.close().await.unwrap();
    };
    let (released, ()) = soon(async { tokio::join!(asker.release(id, LIMIT), answer) }).await;
    released.unwrap();
    let opened = soon(asker.open(id)).await.unwrap();
    assert_eq!(opened.state.messages, 2);
    soon(opened.log.close()).await.unwrap();
    soon(asker.release(id, Duration::ZERO)).await.expect("nobody holds it");
    soon(holder.shutdown(LIMIT)).await.unwrap();
    soon(asker.shutdown(LIMIT)).await.unwrap();
    assert_eq!(std::fs::read_dir(home.path().join("owners")).unwrap().count(), 0, "nothing is left of owners and requests");
}

#[tokio::test]
async fn a_holder_that_does_not_let_go_keeps_the_session_and_the_request_is_withdrawn() {
    let home = tempfile::tempdir().unwrap();
    let (holder, asker) = (real(home.path()), real(home.path()));
    let log = create(&holder).await;
    soon(log.flush()).await.unwrap();
    let id = log.id();
    let refused = soon(asker.release(id, Duration::from_millis(300))).await;
    assert!(matches!(refused, Err(StoreError::Held { alive: true, .. })), "{refused:?}");
    soon(log.progress().wait_for(|progress| progress.asked.is_none())).await.unwrap();
    // Who gives up asking withdraws too.
    {
        let asking = asker.release(id, LIMIT);
        tokio::pin!(asking);
        tokio::select! {
            released = &mut asking => panic!("{released:?}"),
            _ = asked(&*log) => {}
        }
    }
    soon(log.progress().wait_for(|progress| progress.asked.is_none())).await.unwrap();
    log.append(say("still mine")).unwrap();
    soon(log.flush()).await.unwrap();
}

#[tokio::test]
async fn requests_are_seen_where_the_kernel_does_not_tell_of_them() {
    let fs = SimFs::new();
    let (holder, asker) = (store(&fs), store(&fs));
    let log = create(&holder).await;
    soon(log.flush()).await.unwrap();
    until(|| fs.stat(&owners_folder(&fs)).is_ok()).await;
    let (released, ()) = soon(async {
        tokio::join!(asker.release(log.id(), LIMIT), async {
            asked(&*log).await;
            log.close().await.unwrap();
        })
    })
    .await;
    released.unwrap();
}

/// The folder of requests to the one owner there is.
fn owners_folder(fs: &SimFs) -> std::path::PathBuf {
    let owner = fs.files().into_iter().find(|path| path.starts_with("/home/owners")).unwrap();
    owner.with_extension("asks")
}

#[tokio::test]
async fn a_dead_holder_and_one_that_takes_no_requests_are_told_at_once() {
    let fs = SimFs::new();
    let holder = store(&fs);
    let log = create(&holder).await;
    soon(log.flush()).await.unwrap();
    until(|| fs.stat(&owners_folder(&fs)).is_ok()).await;
    soon(store(&fs.after_kill()).release(log.id(), LIMIT)).await.expect("it is dead");
    fs.remove_dir(&owners_folder(&fs)).unwrap();
    let refused = soon(store(&fs).release(log.id(), Duration::from_secs(3600))).await;
    assert!(matches!(refused, Err(StoreError::Held { .. })), "{refused:?}");
}

#[tokio::test]
async fn requests_are_nobody_elses_business_and_go_with_a_dead_owner() {
    let home = tempfile::tempdir().unwrap();
    let owners = home.path().join("owners");
    std::fs::create_dir_all(owners.join("019c1a2b-3c00-7000-8000-00000000a001.asks")).unwrap();
    std::fs::write(owners.join("019c1a2b-3c00-7000-8000-00000000a001.asks/x"), "left").unwrap();
    let holder = real(home.path());
    let log = create(&holder).await;
    soon(log.flush()).await.unwrap();
    let folders = || {
        let all = std::fs::read_dir(&owners).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|extension| extension == "asks")).collect::<Vec<_>>()
    };
    until(|| folders().len() == 1).await;
    assert_eq!(std::fs::metadata(&folders()[0]).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!folders()[0].to_string_lossy().contains("a001"));
}

#[tokio::test]
async fn what_a_stale_writer_wrote_becomes_a_session_of_its_own() {
    let fs = SimFs::new();
    let stopped = store(&fs);
    let log = create(&stopped).await;
    let id = log.id();
    log.append(say("before")).unwrap();
    soon(log.flush()).await.unwrap();
    let path = log_path(id);
    let before = fs.contents(&path).unwrap().len();
    // The same disk as another process sees it, which takes the stopped one for dead.
    let other = fs.after_kill();
    let overtaking = store(&other);
    let new = overtaking.open(id).await.unwrap().log;
    new.append(say("new")).unwrap();
    soon(new.close()).await.unwrap();
    assert_eq!(overtaking.stale_lines(id).await.unwrap(), []);
    log.append(say("stale")).unwrap();
    log.append(say("and more")).unwrap();
    soon(log.close()).await.unwrap();
    let stale = fs.contents(&path).unwrap().split_off(before);
    other.edit(&path, |bytes| bytes.extend_from_slice(&stale));
    // The session's own line goes on meanwhile.
    let third = store(&other);
    let opened = third.open(id).await.unwrap();
    opened.log.append(say("newer")).unwrap();
    soon(opened.log.flush()).await.unwrap();

    let fork = fork_stale(&overtaking, id).await;
    assert_eq!(fork.state.parent.map(|(parent, _)| parent), Some(id));
    fork.log.append(say("on")).unwrap();
    soon(fork.log.flush()).await.unwrap();
    assert_eq!(texts(&overtaking, fork.log.id()).await, ["before", "stale", "and more", "on"]);
    assert!(overtaking.verify(fork.log.id()).await.unwrap().ok);
    let copied = other.contents(&log_path(fork.log.id())).unwrap();
    assert!(copied.windows(stale.len()).any(|window| window == stale), "byte for byte");
    assert_eq!(texts(&overtaking, id).await, ["before", "new", "newer"]);
}

/// The one session of stale lines that there is.
pub(crate) async fn fork_stale(store: &FileStore, id: SessionId) -> OpenSession {
    let lines = soon(store.stale_lines(id)).await.unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    soon(store.fork_stale(id, lines[0])).await.unwrap()
}

#[tokio::test]
async fn of_what_several_stale_writers_wrote_each_becomes_a_session() {
    let fs = SimFs::new();
    let first = store(&fs);
    let log = create(&first).await;
    let (id, path) = (log.id(), log_path(log.id()));
    log.append(say("before")).unwrap();
    soon(log.flush()).await.unwrap();
    let common = fs.contents(&path).unwrap().len();
    // Each writer is taken for dead by the next.
    let fs2 = fs.after_kill();
    let second = store(&fs2).open(id).await.unwrap().log;
    second.append(say("new")).unwrap();
    soon(second.flush()).await.unwrap();
    let common2 = fs2.contents(&path).unwrap().len();
    let fs3 = fs2.after_kill();
    let store3 = store(&fs3);
    let third = store3.open(id).await.unwrap().log;
    third.append(say("newer")).unwrap();
    soon(third.close()).await.unwrap();
    for (log, texts) in [(&log, ["stale", "more"]), (&second, ["stale too", "more too"])] {
        texts.iter().for_each(|text| drop(log.append(say(text)).unwrap()));
        soon(log.close()).await.unwrap();
    }
    // The lines of both lie among one another.
    let lines = |fs: &SimFs, common: usize| -> Vec<Vec<u8>> {
        fs.contents(&path).unwrap()[common..].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    for (one, other) in lines(&fs, common).into_iter().zip(lines(&fs2, common2)) {
        fs3.edit(&path, |bytes| bytes.extend([one, other].concat()));
    }
    let stale = soon(store3.stale_lines(id)).await.unwrap();
    assert_eq!(stale.len(), 2, "{stale:?}");
    for (lines, expected) in
        stale.into_iter().zip([&["before", "stale", "more"][..], &["before", "new", "stale too", "more too"]])
    {
        let fork = soon(store3.fork_stale(id, lines)).await.unwrap().log;
        soon(fork.close()).await.unwrap();
        assert_eq!(texts(&store3, fork.id()).await, expected);
        assert!(store3.verify(fork.id()).await.unwrap().ok);
    }
    assert_eq!(texts(&store3, id).await, ["before", "new", "newer"]);
}

#[tokio::test]
async fn a_line_that_stands_twice_is_no_stale_writers() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    for text in ["one", "two", "three"] {
        log.append(say(text)).unwrap();
    }
    soon(log.close()).await.unwrap();
    fs.edit(&log_path(log.id()), |bytes| {
        let again: Vec<u8> = bytes.split_inclusive(|byte| *byte == b'\n').skip(2).take(2).flatten().copied().collect();
        bytes.extend_from_slice(&again);
    });
    assert_eq!(entries(&store1, log.id()).await.len(), 6);
    assert_eq!(store1.stale_lines(log.id()).await.unwrap(), []);
}

#[tokio::test]
async fn the_ballast_goes_when_the_disk_is_full_so_that_last_words_have_room() {
    let fs = SimFs::new();
    fs.set_room(Some(1_000_000));
    let mut options = options(&fs);
    options.ballast_bytes = 10_000;
    let store1 = FileStore::open(options).unwrap();
    let log = create(&store1).await;
    soon(log.flush()).await.unwrap();
    let ballast = Path::new("/home/ballast");
    assert_eq!(fs.contents(ballast).map(|bytes| bytes.len()), Some(10_000));
    assert!(fs.contents(ballast).unwrap().iter().any(|byte| *byte != 0));
    fs.set_room(Some(20));
    log.append(say("the last words")).unwrap();
    soon(log.progress().wait_for(|progress| progress.trouble.is_some())).await.unwrap();
    soon(async { while log.flush().await.is_err() {} }).await;
    soon(log.close()).await.unwrap();
    assert_eq!(fs.contents(ballast), None);
    assert_eq!(texts(&store(&fs.after_power_cut()), log.id()).await, ["the last words"]);
}

#[tokio::test]
async fn no_ballast_is_made_where_there_is_little_room() {
    let fs = SimFs::new();
    fs.set_room(Some(100_000));
    let mut options = options(&fs);
    options.ballast_bytes = 10_000;
    let log = create(&FileStore::open(options).unwrap()).await;
    soon(log.flush()).await.unwrap();
    assert_eq!(fs.contents("/home/ballast".as_ref()), None);
}
