//! Readers, followers, forks, side files, the list.

use crate::sim::SimFs;
use crate::writing::{LIMIT, create, entries, log_path, options, say, soon, store, texts};
use session_store::*;
use std::time::Duration;

#[tokio::test]
async fn what_is_loaded_is_the_fold_of_what_was_appended() {
    let fs = SimFs::new();
    let store = store(&fs);
    let opened = store.create(NewSession { id: None, cwd: Some("/work".to_owned()) }).await.unwrap();
    let mut state = opened.state;
    for number in 0..3000 {
        state.apply(&opened.log.append(say(&format!("message {number}"))).unwrap());
    }
    soon(opened.log.flush()).await.unwrap();
    let loaded = store.load(opened.log.id()).await.unwrap();
    assert_eq!(loaded.state, state);
    assert_eq!(loaded.state.cwd.as_deref(), Some("/work"));
    assert!(matches!(loaded.holder, Holder::Alive(_)));
}

#[tokio::test]
async fn bodies_that_a_restored_context_needs_are_read_again() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    let first = log.append(say("one")).unwrap();
    log.append(say("two")).unwrap();
    let rewound = log.append(ContextRewound { to: first.seq }.into()).unwrap();
    log.append(ContextRestored { undo: rewound.seq }.into()).unwrap();
    soon(log.flush()).await.unwrap();
    let state = store.load(log.id()).await.unwrap().state;
    assert_eq!(state.context.len(), 2);
    assert!(state.missing().is_empty());
}

#[tokio::test]
async fn reading_starts_where_it_is_asked_to() {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    for number in 0..20_000 {
        log.append(say(&format!("message {number}"))).unwrap();
    }
    soon(log.flush()).await.unwrap();
    let mut reader = store.read(log.id(), 15_000).await.unwrap();
    let mut expected = 15_000;
    while let Some(entry) = reader.next().await.unwrap() {
        assert_eq!((entry.seq, entry.sound), (expected, true));
        expected += 1;
    }
    assert_eq!(expected, 20_002);
}

#[tokio::test]
async fn a_follower_in_another_process_sees_each_event_once() {
    let fs = SimFs::new();
    let (writing, reading) = (store(&fs), store(&fs));
    let log = create(&writing).await;
    log.append(say("one")).unwrap();
    soon(log.flush()).await.unwrap();
    let mut follower = reading.follow(log.id(), 2).await.unwrap();
    assert_eq!(soon(follower.next()).await.unwrap().unwrap().event, say("one"));
    // Giving up a wait loses nothing.
    assert!(tokio::time::timeout(Duration::from_millis(5), follower.next()).await.is_err());
    for text in ["two", "three"] {
        log.append(say(text)).unwrap();
        assert_eq!(soon(follower.next()).await.unwrap().unwrap().event, say(text));
    }
}

#[tokio::test]
async fn a_follower_goes_on_when_its_file_is_replaced_and_ends_when_it_is_removed() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    log.append(say("one")).unwrap();
    soon(log.close()).await.unwrap();
    let path = log_path(log.id());
    let mut follower = store1.follow(log.id(), 2).await.unwrap();
    for _ in 0..2 {
        soon(follower.next()).await.unwrap();
    }
    fs.put(&path.with_extension("new"), &fs.contents(&path).unwrap());
    fs.rename(&path.with_extension("new"), &path).unwrap();
    let again = store(&fs).open(log.id()).await.unwrap();
    let entry = again.log.append(say("two")).unwrap();
    soon(again.log.written(entry.seq)).await.unwrap();
    assert!(matches!(soon(follower.next()).await.unwrap().unwrap().event, Event::Opened(_)));
    assert_eq!(soon(follower.next()).await.unwrap().unwrap(), entry);
    fs.remove_file(&path).unwrap();
    assert!(matches!(soon(follower.next()).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn an_event_too_large_for_a_line_is_read_from_beside_it() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let large = "x".repeat(3 << 20);
    let entry = log.append(say(&large)).unwrap();
    log.append(say("small")).unwrap();
    soon(log.flush()).await.unwrap();
    let file = fs.contents(&log_path(log.id())).unwrap();
    assert!(file.len() < 4096, "the line only names the file");
    let after = fs.after_power_cut();
    assert_eq!(entries(&store(&after), log.id()).await[2], entry);
    assert!(store(&after).verify(log.id()).await.unwrap().ok);

    let side = after.files().into_iter().find(|path| path.parent().unwrap().ends_with(log.id().to_string())).unwrap();
    after.remove_file(&side).unwrap();
    let store2 = store(&after);
    let loaded = store2.load(log.id()).await.unwrap();
    assert_eq!(loaded.problems.iter().map(|problem| problem.kind).collect::<Vec<_>>(), [ProblemKind::SideFile]);
    assert_eq!(loaded.state.messages, 1);
    assert!(matches!(&entries(&store2, log.id()).await[2].event, Event::Unknown(unknown) if unknown.type_name == "user.message"));
}

fn finished(full: SideRef) -> Event {
    let (call, name, output) = ("call_1_0".to_owned(), "read".to_owned(), "short".to_owned());
    ToolFinished { call, name, outcome: ToolOutcome::Ok, output, full: Some(full), images: Vec::new(), duration_ms: 1 }.into()
}

#[tokio::test]
async fn side_files_are_found_before_and_after_they_are_durable_and_checked() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let side = log.put_side(b"whole output".to_vec()).unwrap();
    assert_eq!(store1.read_side(log.id(), &side).await.unwrap(), b"whole output");
    log.append(finished(side.clone())).unwrap();
    soon(log.flush()).await.unwrap();
    let after = fs.after_power_cut();
    let store2 = store(&after);
    assert_eq!(store2.read_side(log.id(), &side).await.unwrap(), b"whole output");
    let path = log_path(log.id()).with_extension("").join(&side.sha256);
    after.edit(&path, |bytes| bytes[0] ^= 1);
    assert!(matches!(store2.read_side(log.id(), &side).await, Err(StoreError::SideFile { .. })));
    let verified = store2.verify(log.id()).await.unwrap();
    assert_eq!(verified.problems[0].kind, ProblemKind::SideFile);
    let outside = SideRef { sha256: "../../../../../owners".to_owned(), bytes: 1 };
    assert!(matches!(store2.read_side(log.id(), &outside).await, Err(StoreError::SideFile { .. })));
}

#[tokio::test]
async fn a_fork_has_the_parents_lines_and_a_life_of_its_own() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let side = log.put_side(b"whole output".to_vec()).unwrap();
    let two = log.append(finished(side.clone())).unwrap();
    log.append(say("not in the fork")).unwrap();
    let fork = store1.fork(log.id(), Some(two.seq)).await.unwrap();
    assert_eq!(fork.state.parent, Some((log.id(), two.seq)));
    assert_eq!((fork.state.session, fork.log.epoch()), (Some(fork.log.id()), 2));
    let entry = fork.log.append(say("only in the fork")).unwrap();
    soon(fork.log.durable(entry.seq)).await.unwrap();
    let after = fs.after_power_cut();
    let store2 = store(&after);
    assert_eq!(texts(&store2, fork.log.id()).await, ["only in the fork"]);
    assert_eq!(store2.read_side(fork.log.id(), &side).await.unwrap(), b"whole output");
    assert!(store2.verify(fork.log.id()).await.unwrap().ok);
    let (parent, child) = (fs.contents(&log_path(log.id())).unwrap(), fs.contents(&log_path(fork.log.id())).unwrap());
    let copied = parent.split_inclusive(|byte| *byte == b'\n').take(3).map(<[u8]>::len).sum::<usize>();
    assert_eq!(parent[..copied], child[..copied]);
    let whole = store1.fork(log.id(), None).await.unwrap();
    assert_eq!(texts(&store1, whole.log.id()).await, ["not in the fork"]);
    assert!(matches!(store1.fork(SessionId::new(Timestamp::default()), None).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn the_list_tells_what_each_session_is() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let old = create(&store1).await;
    old.append(say("\n  first words  \nmore")).unwrap();
    old.append(SessionRenamed { name: "a name".to_owned() }.into()).unwrap();
    soon(old.close()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let new = store1.create(NewSession { id: None, cwd: Some("/work".to_owned()) }).await.unwrap().log;
    soon(new.flush()).await.unwrap();
    let list = store1.list().await.unwrap();
    assert_eq!(list.iter().map(|summary| summary.id).collect::<Vec<_>>(), [new.id(), old.id()]);
    assert_eq!((list[0].state, list[1].state), (SessionListState::Open, SessionListState::Idle));
    assert_eq!(list[0].cwd.as_deref(), Some("/work"));
    assert_eq!((list[1].name.as_deref(), list[1].title.as_deref()), (Some("a name"), Some("first words")));
    assert_eq!((list[1].messages, list[1].bytes), (1, fs.contents(&log_path(old.id())).unwrap().len() as u64));
}

#[tokio::test]
async fn a_removed_session_is_gone_with_what_was_beside_it() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let side = log.put_side(b"beside".to_vec()).unwrap();
    log.append(finished(side)).unwrap();
    assert!(matches!(store1.remove(log.id()).await, Err(StoreError::Held { .. })));
    soon(log.close()).await.unwrap();
    store1.remove(log.id()).await.unwrap();
    soon(store1.shutdown(LIMIT)).await.unwrap();
    assert!(fs.files().is_empty());
    assert!(fs.after_power_cut().files().is_empty());
    assert!(matches!(store1.load(log.id()).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn the_statistics_are_those_of_the_work() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.window = Duration::from_millis(1);
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    for round in 0..5 {
        for number in 0..100 {
            log.append(say(&format!("{round} {number}"))).unwrap();
        }
        soon(log.flush()).await.unwrap();
    }
    let stats = store.stats();
    let path = log_path(log.id());
    assert_eq!(stats.events, 502);
    assert_eq!(stats.bytes, fs.contents(&path).unwrap().len() as u64);
    assert_eq!((stats.writes, stats.failures, stats.bytes_in_memory), (fs.writes(), 0, 0));
    assert!(stats.batches >= 5 && stats.batches <= stats.writes);
    assert!(stats.largest_batch_events > 0 && stats.largest_batch_bytes > 0);
    assert!(stats.time_to_durable.count() >= 5);
    assert!(stats.buffers_reused > 0 && stats.buffers_allocated > 0);
    assert_eq!(stats.syncs, fs.syncs());
}
