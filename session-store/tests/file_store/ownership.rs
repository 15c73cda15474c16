//! One writer, any reader: two stores with owner files of their own are as good as two processes.

use crate::sim::SimFs;
use crate::writing::{LIMIT, create, log_path, options, say, soon, store, texts, until};
use session_store::*;

/// The store of a process on another machine or after a restart of this one.
fn store_of(fs: &SimFs, host: &str, boot: &str) -> FileStore {
    let mut options = options(fs);
    options.machine = Machine { host: host.to_owned(), boot: boot.to_owned(), pid: 2 };
    FileStore::open(options).unwrap()
}

#[tokio::test]
async fn a_session_that_is_open_elsewhere_is_refused_by_name_and_can_be_read_and_forked() {
    let fs = SimFs::new();
    let (ours, theirs) = (store(&fs), store(&fs));
    let log = create(&ours).await;
    log.append(say("hello")).unwrap();
    soon(log.flush()).await.unwrap();
    let Err(StoreError::Held { owner, alive: true, .. }) = theirs.open(log.id()).await else { panic!("it is held") };
    assert_eq!((owner.pid, owner.host.as_str(), owner.program.as_str()), (1, "here", "test 1"));
    assert!(matches!(theirs.remove(log.id()).await, Err(StoreError::Held { .. })));
    assert_eq!(theirs.load(log.id()).await.unwrap().holder, Holder::Alive(owner));
    assert_eq!(theirs.list().await.unwrap()[0].state, SessionListState::Open);
    let fork = theirs.fork(log.id(), None).await.unwrap();
    assert_eq!(fork.state.messages, 1);
    soon(log.close()).await.unwrap();
    assert_eq!(theirs.load(log.id()).await.unwrap().holder, Holder::Nobody);
    assert_eq!(theirs.open(log.id()).await.unwrap().log.epoch(), 2);
}

#[tokio::test]
async fn a_session_opens_once_in_a_process() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    assert!(matches!(store.open(log.id()).await, Err(StoreError::Held { alive: true, .. })));
    assert!(matches!(store.remove(log.id()).await, Err(StoreError::Held { .. })));
    let again = NewSession { id: Some(log.id()), cwd: None };
    assert!(matches!(store.create(again).await, Err(StoreError::Held { .. })));
}

#[tokio::test]
async fn an_id_that_is_taken_is_refused() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    soon(log.close()).await.unwrap();
    let again = NewSession { id: Some(log.id()), cwd: None };
    assert!(matches!(store.create(again).await, Err(StoreError::Exists(_))));
}

#[tokio::test]
async fn a_dead_owner_is_succeeded_whatever_machine_it_names() {
    let fs = SimFs::new();
    let ours = store(&fs);
    let log = create(&ours).await;
    soon(log.flush()).await.unwrap();
    let without_file = || {
        let fs = fs.after_kill();
        for path in fs.files().iter().filter(|path| path.starts_with("/home/owners")) {
            fs.remove_file(path).unwrap();
        }
        fs
    };
    // The same machine; started again; under another name, or another machine that has a copy of the home. On the file
    // system of one kernel nobody else can have the lock.
    for (host, boot) in [("here", "boot 1"), ("here", "boot 2"), ("there", "boot 3")] {
        for fs in [fs.after_kill(), without_file()] {
            let store = store_of(&fs, host, boot);
            assert_eq!(store.load(log.id()).await.unwrap().holder, Holder::Nobody, "{host}, {boot}");
            assert_eq!(store.open(log.id()).await.unwrap().log.epoch(), 2, "{host}, {boot}");
        }
    }
    assert!(matches!(store_of(&fs, "there", "boot 3").open(log.id()).await, Err(StoreError::Held { alive: true, .. })));
}

#[tokio::test]
async fn where_locks_prove_nothing_an_owner_is_unknown_and_not_succeeded() {
    let fs = SimFs::new();
    let ours = store(&fs);
    let log = create(&ours).await;
    soon(log.flush()).await.unwrap();
    let fs = fs.after_kill();
    fs.set_shared();
    for boot in ["boot 2", "boot 3"] {
        let elsewhere = store_of(&fs, "there", boot);
        assert!(matches!(elsewhere.open(log.id()).await, Err(StoreError::Held { alive: false, .. })));
        assert!(matches!(elsewhere.load(log.id()).await.unwrap().holder, Holder::Unknown(_)));
        assert!(elsewhere.fork(log.id(), None).await.is_ok());
    }
}

#[tokio::test]
async fn the_files_of_dead_owners_go_and_those_of_living_ones_stay() {
    let fs = SimFs::new();
    let dead = store(&fs);
    let log = create(&dead).await;
    soon(log.flush()).await.unwrap();
    let fs = fs.after_kill();
    let alive = store(&fs);
    let _held = create(&alive).await;
    let third = store(&fs);
    let _also = create(&third).await;
    let owners = fs.files().iter().filter(|path| path.starts_with("/home/owners")).count();
    assert_eq!(owners, 2);
    assert!(third.open(log.id()).await.is_ok());
}

#[tokio::test]
async fn a_writer_that_was_overtaken_is_told_and_writes_nothing() {
    let fs = SimFs::new();
    let stopped = store(&fs);
    let log = create(&stopped).await;
    log.append(say("before")).unwrap();
    soon(log.flush()).await.unwrap();
    fs.forget_locks();
    let overtaking = store_of(&fs, "here", "boot 2");
    let new = overtaking.open(log.id()).await.unwrap().log;
    let entry = new.append(say("new")).unwrap();
    soon(new.durable(entry.seq)).await.unwrap();
    let stale = log.append(say("stale")).unwrap();
    assert!(matches!(soon(log.durable(stale.seq)).await, Err(StoreError::Lost { .. })));
    assert!(matches!(soon(log.close()).await, Err(StoreError::Lost { .. })));
    new.append(say("newer")).unwrap();
    soon(new.flush()).await.unwrap();
    assert_eq!(texts(&overtaking, log.id()).await, ["before", "new", "newer"]);
    assert!(overtaking.verify(log.id()).await.unwrap().ok);
    let again = stopped.open(log.id()).await;
    assert!(matches!(again, Err(StoreError::Held { .. })), "it can be asked for again, and is held");
}

#[tokio::test]
async fn what_an_overtaken_writer_wrote_all_the_same_is_set_aside() {
    let fs = SimFs::new();
    let stopped = store(&fs);
    let log = create(&stopped).await;
    log.append(say("before")).unwrap();
    soon(log.flush()).await.unwrap();
    let path = log_path(log.id());
    let before = fs.contents(&path).unwrap().len();
    // The same disk as another process sees it, which takes the stopped one for dead.
    let other = fs.after_kill();
    let overtaking = store(&other);
    let new = overtaking.open(log.id()).await.unwrap().log;
    new.append(say("new")).unwrap();
    soon(new.flush()).await.unwrap();
    log.append(say("stale")).unwrap();
    soon(log.flush()).await.unwrap();
    let stale = fs.contents(&path).unwrap().split_off(before);
    other.edit(&path, |bytes| bytes.extend_from_slice(&stale));
    new.append(say("kept in memory")).unwrap();
    assert!(matches!(soon(new.flush()).await, Err(StoreError::Lost { .. })), "the new one sees that it is not alone");
    drop(new);
    let third = store_of(&other, "here", "boot 2");
    other.forget_locks();
    let opened = third.open(log.id()).await.unwrap();
    assert!(opened.problems.iter().any(|problem| problem.kind == ProblemKind::StaleWriter), "{:?}", opened.problems);
    let entry = opened.log.append(say("on")).unwrap();
    soon(opened.log.durable(entry.seq)).await.unwrap();
    assert_eq!(texts(&third, log.id()).await, ["before", "new", "on"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_comes_late_does_not_end_the_one_that_came_first() {
    let fs = SimFs::new();
    let (first, late) = (store(&fs), std::sync::Arc::new(store(&fs)));
    let log = create(&first).await;
    let id = log.id();
    soon(log.close()).await.unwrap();
    // It has read the log, once in a chunk and once to see its end, and is then overtaken.
    fs.hang_at_end_of_file(2);
    let opening = tokio::spawn({
        let late = std::sync::Arc::clone(&late);
        async move { late.open(id).await }
    });
    until(|| fs.has_hung_read()).await;
    // As where the first could not wait for its turn any longer.
    fs.forget_locks();
    let winner = store_of(&fs, "here", "boot 1");
    let log = winner.open(id).await.unwrap().log;
    fs.let_read_go();
    assert!(matches!(soon(opening).await.unwrap(), Err(StoreError::Held { alive: true, .. })));
    log.append(say("it goes on")).unwrap();
    soon(log.flush()).await.unwrap();
    assert_eq!(texts(&winner, id).await, ["it goes on"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_open_at_once_one_gets_it() {
    let fs = SimFs::new();
    let first = store(&fs);
    let log = create(&first).await;
    soon(first.shutdown(LIMIT)).await.unwrap();
    let stores: Vec<_> = (0..6).map(|_| std::sync::Arc::new(store(&fs))).collect();
    let id = log.id();
    let mut tries = tokio::task::JoinSet::new();
    for store in stores {
        tries.spawn(async move { (store.open(id).await, store) });
    }
    let outcomes = soon(tries.join_all()).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.iter().partition(|(outcome, _)| outcome.is_ok());
    assert_eq!((won.len(), lost.len()), (1, 5));
    assert!(lost.iter().all(|(outcome, _)| matches!(outcome, Err(StoreError::Held { .. }))));
}
