//! Cold sessions and the archive: smaller, and else as they were.

use crate::sim::SimFs;
use crate::writing::{create, entries, log_path, options, say, soon, store, texts};
use proptest::prelude::*;
use session_store::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

pub(crate) fn cold_path(id: SessionId) -> PathBuf {
    log_path(id).with_extension("jsonl.zst")
}

fn archived_path(id: SessionId) -> PathBuf {
    PathBuf::from("/home/archive").join(id.relative_path()).with_extension("jsonl.zst")
}

fn origin() -> Origin {
    Origin { provider: "offline".to_owned(), ..Origin::default() }
}

fn request() -> Event {
    ModelRequest { origin: origin(), ..ModelRequest::default() }.into()
}

fn answer(message: Seq, text: &str, partial: bool) -> Event {
    let blocks = vec![Block::Text { text: text.to_owned() }];
    AssistantMessage { message, origin: origin(), blocks, stop: StopReason::EndTurn, partial, usage: None, opaque: None }.into()
}

/// Says something and streams an answer in pieces, which come whole where `whole` says so.
pub(crate) fn turn(log: &dyn SessionLog, question: &str, pieces: &[&str], whole: Option<&str>) {
    log.append(say(question)).unwrap();
    let message = log.append(request()).unwrap().seq;
    let mut offset = 0;
    for piece in pieces {
        log.append(AssistantText { message, offset, text: (*piece).to_owned() }.into()).unwrap();
        offset += piece.len() as u64;
    }
    if let Some(text) = whole {
        log.append(answer(message, text, false)).unwrap();
    }
}

/// A session that was closed.
pub(crate) async fn closed(store: &FileStore, fill: impl FnOnce(&dyn SessionLog)) -> SessionId {
    let log = create(store).await;
    fill(&*log);
    soon(log.close()).await.unwrap();
    log.id()
}

pub(crate) fn conversation(log: &dyn SessionLog) {
    for number in 0..20 {
        let (question, end) = (format!("question {number}"), format!(" {number}"));
        let text = format!("answer{end}");
        turn(log, &question, &["ans", "wer", &end], Some(&text));
    }
}

/// The fold of what a reader is given.
async fn folded(store: &FileStore, id: SessionId) -> State {
    State::fold(entries(store, id).await.iter().map(Arc::as_ref))
}

fn left_out(entries: &[Arc<Entry>]) -> Vec<(Seq, Seq)> {
    let of = |entry: &Arc<Entry>| match &entry.event {
        Event::Compacted(left_out) => Some((left_out.from, left_out.to)),
        _ => None,
    };
    entries.iter().filter_map(of).collect()
}

/// All that a conversation says, besides who had the session.
fn said(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let messages: Vec<_> = state.context.iter().map(|slot| (slot.seq, slot.message.clone())).collect();
    (messages, state.messages, state.name.clone(), state.title.clone(), state.created_at, state.usage)
}

#[tokio::test]
async fn a_cold_session_is_small_and_says_the_same() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    let before = soon(store.load(id)).await.unwrap().state;
    let compressed = soon(store.compress(id)).await.unwrap();
    assert!(compressed.after * 4 < compressed.before, "{compressed:?}");
    assert!(fs.contents(&log_path(id)).is_none());
    assert_eq!(fs.contents(&cold_path(id)).unwrap().len() as u64, compressed.after);

    let verified = store.verify(id).await.unwrap();
    assert!(verified.ok, "{:?}", verified.problems);
    let loaded = store.load(id).await.unwrap();
    assert_eq!((said(&loaded.state), loaded.holder), (said(&before), Holder::Nobody));
    assert_eq!(said(&folded(&store, id).await), said(&before));
    let entries = entries(&store, id).await;
    assert_eq!(left_out(&entries).len(), 20, "a run of pieces for each answer");
    assert!(!entries.iter().any(|entry| matches!(entry.event, Event::AssistantText(_))));
    let listed = store.list().await.unwrap();
    assert_eq!((listed.len(), listed[0].id, listed[0].state, listed[0].messages), (1, id, SessionListState::Idle, 40));
    // Once more changes nothing.
    let again = soon(store.compress(id)).await.unwrap();
    assert_eq!((again.before, again.after), (compressed.after, compressed.after));
}

#[tokio::test]
async fn every_zstd_tool_unpacks_a_cold_session_to_json_lines() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    soon(store.compress(id)).await.unwrap();
    let text = zstd::decode_all(&fs.contents(&cold_path(id)).unwrap()[..]).unwrap();
    let mut crc = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let entry = Entry::read_line(line.strip_suffix(b"\n").unwrap()).unwrap();
        let mut again = Vec::new();
        crc = entry.write_line(&mut again, crc);
        assert_eq!(again, line);
    }
}

#[tokio::test]
async fn what_no_later_event_says_is_kept() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, |log| {
        turn(log, "cut", &["a crash", " cut it"], None);
        turn(log, "other words", &["first this"], Some("then that"));
        turn(log, "two pieces", &["so", " it"], Some("so it is"));
        log.append(say("partial")).unwrap();
        let message = log.append(request()).unwrap().seq;
        log.append(AssistantText { message, offset: 0, text: "half".to_owned() }.into()).unwrap();
        log.append(answer(message, "half", true)).unwrap();
        // Of an answer that nobody asked for.
        log.append(AssistantText { message: 1, offset: 0, text: "whose?".to_owned() }.into()).unwrap();
    })
    .await;
    let before = entries(&store, id).await;
    soon(store.compress(id)).await.unwrap();
    let after = entries(&store, id).await;
    let pieces = |entries: &[Arc<Entry>]| -> Vec<String> {
        let of =
            |entry: &Arc<Entry>| if let Event::AssistantText(piece) = &entry.event { Some(piece.text.clone()) } else { None };
        entries.iter().filter_map(of).collect()
    };
    assert_eq!(pieces(&after), ["a crash", " cut it", "first this", "half", "whose?"]);
    for entry in before.iter().filter(|entry| !matches!(entry.event, Event::AssistantText(_))) {
        assert!(after.contains(entry), "{entry:?}");
    }
}

#[tokio::test]
async fn the_output_of_a_tool_that_has_its_result_is_left_out_and_that_of_another_is_kept() {
    let fs = SimFs::new();
    let store = store(&fs);
    let call = |id: &str| Block::ToolCall(ToolCall { id: id.to_owned(), name: "shell".to_owned(), ..ToolCall::default() });
    let piece = |call: &str, offset, text: &str| -> Event {
        ToolOutputPiece { call: call.to_owned(), offset, text: text.to_owned() }.into()
    };
    let id = closed(&store, |log| {
        log.append(say("run")).unwrap();
        let message = log.append(request()).unwrap().seq;
        let Event::AssistantMessage(answer) = answer(message, "", false) else { unreachable!() };
        let answer = AssistantMessage { blocks: vec![call("a"), call("b")], ..answer };
        log.append(answer.into()).unwrap();
        for (id, offset) in [("a", 0), ("b", 0), ("a", 3), ("b", 3), ("nobody's", 0)] {
            log.append(piece(id, offset, id)).unwrap();
        }
        let (name, output) = ("shell".to_owned(), "all".to_owned());
        let (outcome, full, duration_ms) = (ToolOutcome::Ok, None, 1);
        log.append(ToolFinished { call: "a".to_owned(), name, outcome, output, full, images: Vec::new(), duration_ms }.into())
            .unwrap();
    })
    .await;
    let before = folded(&store, id).await;
    soon(store.compress(id)).await.unwrap();
    let pieces = |entry: &Arc<Entry>| match &entry.event {
        Event::ToolOutputPiece(piece) => Some((piece.call.clone(), piece.offset)),
        _ => None,
    };
    let kept: Vec<_> = entries(&store, id).await.iter().filter_map(pieces).collect();
    assert_eq!(kept, [("b".to_owned(), 0), ("b".to_owned(), 3), ("nobody's".to_owned(), 0)]);
    assert_eq!(folded(&store, id).await.unresolved, before.unresolved);
}

#[tokio::test]
async fn a_cold_session_goes_on_in_a_file_of_its_own() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    soon(store.compress(id)).await.unwrap();
    let packed = fs.contents(&cold_path(id)).unwrap();
    let cold_entries = entries(&store, id).await;

    let opened = soon(store.open(id)).await.unwrap();
    assert_eq!(opened.problems, []);
    let first = opened.log.append(say("still here?")).unwrap();
    assert_eq!(first.seq, cold_entries.last().unwrap().seq + 2);
    soon(opened.log.durable(first.seq)).await.unwrap();
    assert_eq!(texts(&store, id).await.last().unwrap(), "still here?");
    assert!(matches!(store.compress(id).await, Err(StoreError::Held { .. })));
    soon(opened.log.close()).await.unwrap();

    assert_eq!(fs.contents(&cold_path(id)).unwrap(), packed, "the cold part stays as it is");
    let hot = fs.contents(&log_path(id)).unwrap();
    assert!(hot.starts_with(format!("{{\"seq\":{},", first.seq - 1).as_bytes()));
    let verified = store.verify(id).await.unwrap();
    assert!(verified.ok, "{:?}", verified.problems);
    let all = entries(&store, id).await;
    assert_eq!(all[..cold_entries.len()], cold_entries[..]);
    assert_eq!(said(&store.load(id).await.unwrap().state), said(&folded(&store, id).await));
    assert_eq!(store.list().await.unwrap().len(), 1);

    // And cold again, as one.
    soon(store.compress(id)).await.unwrap();
    assert!(fs.contents(&log_path(id)).is_none());
    assert_eq!(texts(&store, id).await.last().unwrap(), "still here?");
    assert!(store.verify(id).await.unwrap().ok);
    assert_eq!(texts(&store, id).await.len(), 21);
}

#[tokio::test]
async fn a_range_across_the_cold_part_and_the_other_is_read() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    soon(store.compress(id)).await.unwrap();
    let opened = soon(store.open(id)).await.unwrap();
    for number in 0..5 {
        opened.log.append(say(&format!("more {number}"))).unwrap();
    }
    soon(opened.log.close()).await.unwrap();
    let all = entries(&store, id).await;
    for from in 0..all.last().unwrap().seq + 2 {
        let mut reader = store.read(id, from).await.unwrap();
        let mut found = Vec::new();
        while let Some(entry) = reader.next().await.unwrap() {
            found.push(entry);
        }
        let expected: Vec<_> = all.iter().filter(|entry| entry.seq >= from).cloned().collect();
        assert_eq!(found, expected, "from {from}");
    }
}

#[tokio::test]
async fn a_follower_goes_on_when_a_session_turns_cold_and_warm() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    let mut follower = store.follow(id, 0).await.unwrap();
    let mut last = soon(follower.next()).await.unwrap().unwrap();
    while !matches!(last.event, Event::Closed(_)) {
        last = soon(follower.next()).await.unwrap().unwrap();
    }
    soon(store.compress(id)).await.unwrap();
    let opened = soon(store.open(id)).await.unwrap();
    let entry = opened.log.append(say("and on")).unwrap();
    while last.seq < entry.seq {
        let next = soon(follower.next()).await.unwrap().unwrap();
        assert!(next.seq > last.seq);
        last = next;
    }
    assert_eq!(last, entry);
}

#[tokio::test]
async fn a_log_with_something_wrong_keeps_every_byte() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    fs.edit(&log_path(id), |log| {
        let middle = log.len() / 2;
        log[middle] ^= 1;
        log.extend_from_slice(b"not a record\n");
    });
    let before = fs.contents(&log_path(id)).unwrap();
    let problems = store.verify(id).await.unwrap().problems;
    assert!(!problems.is_empty());
    soon(store.compress(id)).await.unwrap();
    let text = zstd::decode_all(&fs.contents(&cold_path(id)).unwrap()[..]).unwrap();
    assert!(text.starts_with(&before));
    assert_eq!(store.verify(id).await.unwrap().problems, problems);
    let opened = soon(store.open(id)).await.unwrap();
    opened.log.append(say("it goes on")).unwrap();
    soon(opened.log.close()).await.unwrap();
    assert_eq!(store.verify(id).await.unwrap().problems, problems);
}

#[tokio::test]
async fn a_torn_line_that_was_recovered_is_no_hindrance() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    fs.edit(&log_path(id), |log| log.extend_from_slice(b"{\"seq\":104,\"at\":\"20"));
    soon(store.compress(id)).await.unwrap();
    let entries = entries(&store, id).await;
    let recovered =
        |entry: &Arc<Entry>| matches!(&entry.event, Event::Recovered(recovered) if recovered.fragment.contains("104"));
    assert!(entries.iter().any(recovered), "the torn line is kept there");
    assert!(!left_out(&entries).is_empty());
    assert!(store.verify(id).await.unwrap().ok);
}

#[tokio::test]
async fn a_damaged_frame_costs_its_lines_and_the_session_goes_on() {
    let fs = SimFs::new();
    let store = store(&fs);
    let noise = |seed: u64| -> String { (0..200_u64).map(|at| char::from(b'a' + (seed * at * at % 7919 % 26) as u8)).collect() };
    let id = closed(&store, |log| {
        for number in 0..12_000 {
            log.append(say(&format!("{number} {}", noise(number)))).unwrap();
        }
    })
    .await;
    soon(store.compress(id)).await.unwrap();
    fs.edit(&cold_path(id), |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0xAA);
    });
    let verified = store.verify(id).await.unwrap();
    assert!(!verified.ok && verified.events > 4_000, "{} events", verified.events);
    let texts = texts(&store, id).await;
    assert!(texts[0].starts_with("0 ") && texts.last().unwrap().starts_with("11999 "));

    let opened = soon(store.open(id)).await.unwrap();
    let entry = opened.log.append(say("on")).unwrap();
    soon(opened.log.close()).await.unwrap();
    assert_eq!(entries(&store, id).await.last().unwrap().seq, entry.seq + 1);
    // What may be mended yet is not written anew.
    let packed = fs.contents(&cold_path(id));
    assert!(soon(store.compress(id)).await.is_err());
    assert_eq!(fs.contents(&cold_path(id)), packed);
    assert!(fs.contents(&log_path(id)).is_some());
}

#[tokio::test]
async fn without_its_cold_part_the_rest_of_a_session_opens() {
    for is_there in [false, true] {
        let fs = SimFs::new();
        let store = store(&fs);
        let id = closed(&store, conversation).await;
        soon(store.compress(id)).await.unwrap();
        let opened = soon(store.open(id)).await.unwrap();
        opened.log.append(say("the rest")).unwrap();
        soon(opened.log.close()).await.unwrap();
        match is_there {
            true => fs.edit(&cold_path(id), |bytes| *bytes = b"anything else".to_vec()),
            false => fs.remove_file(&cold_path(id)).unwrap(),
        }
        assert_eq!(texts(&store, id).await, ["the rest"]);
        let verified = store.verify(id).await.unwrap();
        assert!(verified.problems.iter().any(|problem| problem.kind == ProblemKind::Gap), "{verified:?}");
        let opened = soon(store.open(id)).await.unwrap();
        opened.log.append(say("and more")).unwrap();
        soon(opened.log.close()).await.unwrap();
        assert_eq!(texts(&store, id).await, ["the rest", "and more"]);
        if is_there {
            assert!(soon(store.compress(id)).await.is_err(), "it would replace what may be mended");
            assert_eq!(fs.contents(&cold_path(id)).unwrap(), b"anything else");
        }
    }
}

#[tokio::test]
async fn a_fork_of_a_cold_session_needs_nothing_of_it() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    soon(store.compress(id)).await.unwrap();
    let opened = soon(store.open(id)).await.unwrap();
    opened.log.append(say("more")).unwrap();
    soon(opened.log.close()).await.unwrap();
    let whole = soon(store.fork(id, None)).await.unwrap();
    let half = soon(store.fork(id, Some(51))).await.unwrap();
    soon(store.remove(id)).await.unwrap();
    assert!(fs.contents(&cold_path(id)).is_none() && fs.contents(&log_path(id)).is_none());
    assert_eq!(texts(&store, whole.log.id()).await.len(), 21);
    assert_eq!(texts(&store, half.log.id()).await.len(), 9);
    for fork in [whole, half] {
        fork.log.append(say("forked")).unwrap();
        soon(fork.log.close()).await.unwrap();
        assert!(store.verify(fork.log.id()).await.unwrap().ok);
    }
}

/// A compression whose packed file is being synced, until the syncs are let go.
async fn hung_compression(fs: &SimFs, store: &Arc<FileStore>, id: SessionId) -> JoinHandle<Result<Compressed, StoreError>> {
    fs.hang_syncs();
    let store = Arc::clone(store);
    let compressing = tokio::spawn(async move { store.compress(id).await });
    crate::writing::until(|| fs.hung_syncs() > 0).await;
    compressing
}

#[tokio::test]
async fn opening_a_session_calls_its_compression_off() {
    let fs = SimFs::new();
    let store = Arc::new(store(&fs));
    let id = closed(&store, conversation).await;
    // Somebody wants the session meanwhile.
    let compressing = hung_compression(&fs, &store, id).await;
    let opening = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.open(id).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs.let_syncs_go();
    let opened = soon(opening).await.unwrap().unwrap();
    assert!(soon(compressing).await.unwrap().is_err());
    opened.log.append(say("mine")).unwrap();
    soon(opened.log.close()).await.unwrap();
    assert_eq!(texts(&store, id).await.last().unwrap(), "mine");
    assert!(store.verify(id).await.unwrap().ok);
    assert!(!fs.files().iter().any(|path| path.to_string_lossy().ends_with(".part")));
}

#[tokio::test]
async fn a_compression_that_was_dropped_lets_go_of_its_session() {
    let fs = SimFs::new();
    let store1 = Arc::new(store(&fs));
    let id = closed(&store1, conversation).await;
    let compressing = hung_compression(&fs, &store1, id).await;
    compressing.abort();
    assert!(soon(compressing).await.is_err());
    fs.let_syncs_go();
    // Another process can have it, though this one neither asks for it again nor ends.
    let mut options = options(&fs);
    options.machine.pid = 2;
    let other = FileStore::open(options).unwrap();
    let opened = soon(async {
        loop {
            match other.open(id).await {
                Err(StoreError::Held { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                opened => return opened,
            }
        }
    });
    assert_eq!(opened.await.unwrap().state.messages, store1.load(id).await.unwrap().state.messages);
}

#[tokio::test]
async fn a_shutdown_calls_compression_off_and_leaves_nothing_behind() {
    let fs = SimFs::new();
    let store1 = Arc::new(store(&fs));
    let id = closed(&store1, conversation).await;
    let compressing = hung_compression(&fs, &store1, id).await;
    let ending = tokio::spawn(async move { store1.shutdown(Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs.let_syncs_go();
    soon(ending).await.unwrap().unwrap();
    assert!(soon(compressing).await.unwrap().is_err());
    assert!(!fs.files().iter().any(|path| path.to_string_lossy().ends_with(".part")));
    let again = store(&fs);
    assert!(matches!(entries(&again, id).await.last().unwrap().event, Event::Closed(_)));
    assert_eq!(texts(&again, id).await.len(), 20);
}

#[tokio::test]
async fn a_disk_that_is_full_leaves_the_session_as_it_was() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    fs.set_room(Some(700));
    assert!(soon(store.compress(id)).await.is_err());
    fs.set_room(None);
    assert!(store.verify(id).await.unwrap().ok);
    assert_eq!(texts(&store, id).await.len(), 20);
    assert!(!fs.files().iter().any(|path| path.to_string_lossy().ends_with(".part")));
    soon(store.compress(id)).await.unwrap();
}

#[tokio::test]
async fn idle_sessions_are_kept_cold() {
    let fs = SimFs::new();
    let store = store(&fs);
    let old = closed(&store, conversation).await;
    let small = closed(&store, |log| turn(log, "hi", &[], Some("hello"))).await;
    let open = create(&store).await;
    conversation(&*open);
    soon(open.flush()).await.unwrap();
    let what = |idle_for| KeepCold { idle_for, sessions_max: 10, bytes_max: u64::MAX };
    assert_eq!(soon(store.keep_cold(what(Duration::from_secs(3600)))).await.unwrap().sessions, 0);
    let kept = soon(store.keep_cold(what(Duration::ZERO))).await.unwrap();
    assert!(kept.sessions == 1 && kept.after < kept.before, "{kept:?}");
    assert!(fs.contents(&cold_path(old)).is_some());
    assert!(fs.contents(&log_path(small)).is_some(), "it would take as many blocks");
    assert!(fs.contents(&log_path(open.id())).is_some());
}

#[tokio::test]
async fn an_archived_session_is_not_listed_and_comes_back() {
    let fs = SimFs::new();
    let store = store(&fs);
    let side = vec![b's'; 3000];
    let log = create(&store).await;
    conversation(&*log);
    let full = log.put_side(side.clone()).unwrap();
    let finished = |full| ToolFinished {
        call: "c".to_owned(),
        name: "read".to_owned(),
        outcome: ToolOutcome::Ok,
        output: "s".to_owned(),
        full,
        images: Vec::new(),
        duration_ms: 0,
    };
    log.append(finished(Some(full.clone())).into()).unwrap();
    soon(log.close()).await.unwrap();
    let id = log.id();

    for _ in 0..2 {
        soon(store.archive(id)).await.unwrap();
        assert!(store.list().await.unwrap().is_empty() && store.is_archived(id).await.unwrap());
        assert_eq!(store.list_archived().await.unwrap().len(), 1);
        assert!(fs.contents(&archived_path(id)).is_some());
        assert!(!fs.files().iter().any(|path| path.starts_with("/home/sessions")));
        assert_eq!(texts(&store, id).await.len(), 20);
        assert_eq!(store.read_side(id, &full).await.unwrap(), side);
        assert!(store.verify(id).await.unwrap().ok);
    }
    assert!(matches!(store.create(NewSession { id: Some(id), cwd: None }).await, Err(StoreError::Exists(_))));
    let fork = soon(store.fork(id, None)).await.unwrap();
    assert_eq!(store.read_side(fork.log.id(), &full).await.unwrap(), side);
    soon(fork.log.close()).await.unwrap();
    soon(store.remove(fork.log.id())).await.unwrap();

    for _ in 0..2 {
        soon(store.unarchive(id)).await.unwrap();
        assert!(soon(store.remove_archived(id)).await.is_err(), "it is not in the archive");
        assert!(!store.is_archived(id).await.unwrap() && fs.contents(&archived_path(id)).is_none());
        assert_eq!(store.list().await.unwrap().len(), 1);
        assert_eq!(store.read_side(id, &full).await.unwrap(), side);
    }
    // Opened for writing it comes back by itself.
    soon(store.archive(id)).await.unwrap();
    let opened = soon(store.open(id)).await.unwrap();
    opened.log.append(say("back")).unwrap();
    soon(opened.log.close()).await.unwrap();
    assert_eq!((store.list().await.unwrap().len(), store.list_archived().await.unwrap().len()), (1, 0));
    assert_eq!(texts(&store, id).await.last().unwrap(), "back");
    assert!(store.verify(id).await.unwrap().ok);

    soon(store.archive(id)).await.unwrap();
    soon(store.remove_archived(id)).await.unwrap();
    assert!(fs.files().iter().all(|path| path.starts_with("/home/owners")), "{:?}", fs.files());
}

#[tokio::test]
async fn who_moves_a_session_while_another_moves_it_back_does_not_lose_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = || {
        let mut options = options(&SimFs::new());
        (options.home, options.fs) = (folder.path().to_path_buf(), Arc::new(RealFs));
        FileStore::open(options).unwrap()
    };
    let (one, other) = (store(), store());
    let id = closed(&one, conversation).await;
    soon(one.archive(id)).await.unwrap();
    let go_on = async || other.open(id).await.unwrap().log.close().await.unwrap();
    for turn in 0..100 {
        // Of those who move it one may be refused; who goes on with it is not.
        match turn % 3 {
            0 => drop(soon(async { tokio::join!(one.archive(id), other.unarchive(id)) }).await),
            1 => drop(soon(async { tokio::join!(one.unarchive(id), other.archive(id)) }).await),
            _ => drop(soon(async { tokio::join!(one.archive(id), go_on()) }).await),
        }
        assert_eq!(texts(&one, id).await.len(), 20, "turn {turn}");
    }
}

#[tokio::test]
async fn an_archive_on_a_real_disk_moves_names_and_not_bytes() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&SimFs::new());
    (options.home, options.fs) = (folder.path().to_path_buf(), Arc::new(RealFs));
    let store = FileStore::open(options).unwrap();
    let id = closed(&store, conversation).await;
    soon(store.compress(id)).await.unwrap();
    let of = |root: &str| std::fs::metadata(folder.path().join(root).join(id.relative_path()).with_extension("jsonl.zst"));
    let inode = of("sessions").unwrap().ino();
    soon(store.archive(id)).await.unwrap();
    assert_eq!((of("archive").unwrap().ino(), of("archive").unwrap().mode() & 0o777), (inode, 0o600));
    assert!(of("sessions").is_err());
    soon(store.unarchive(id)).await.unwrap();
    assert_eq!((of("sessions").unwrap().ino(), of("sessions").unwrap().nlink()), (inode, 1));
    soon(store.shutdown(Duration::from_secs(5))).await.unwrap();
}

/// What is done to a session that is cut by a power cut or a kill.
#[derive(Clone, Copy, Debug)]
enum Step {
    Compress,
    CompressAgain,
    /// Again, and what came since then ends in a torn line.
    CompressTorn,
    Archive,
    Unarchive,
    Open,
    OpenArchived,
}

impl Step {
    /// Brings a session to where the step begins.
    async fn prepare(self, fs: &SimFs, store: &FileStore, id: SessionId) {
        if matches!(self, Self::CompressAgain | Self::CompressTorn | Self::Open | Self::OpenArchived | Self::Unarchive) {
            soon(store.compress(id)).await.unwrap();
        }
        if let Self::CompressAgain | Self::CompressTorn = self {
            let opened = soon(store.open(id)).await.unwrap();
            turn(&*opened.log, "later", &["la", "ter"], Some("later on"));
            soon(opened.log.close()).await.unwrap();
        }
        if let Self::CompressTorn = self {
            // Long, so that the line that keeps it is, too.
            fs.edit(&log_path(id), |log| log.extend(std::iter::repeat_n(b'"', 70_000)));
        }
        if matches!(self, Self::Unarchive | Self::OpenArchived) {
            soon(store.archive(id)).await.unwrap();
        }
    }

    async fn run(self, store: &FileStore, id: SessionId) -> Result<(), StoreError> {
        match self {
            Self::Compress | Self::CompressAgain | Self::CompressTorn => soon(store.compress(id)).await.map(drop),
            Self::Archive => soon(store.archive(id)).await.map(drop),
            Self::Unarchive => soon(store.unarchive(id)).await,
            Self::Open | Self::OpenArchived => {
                let opened = soon(store.open(id)).await?;
                let entry = opened.log.append(say("after it was cold")).unwrap();
                soon(opened.log.durable(entry.seq)).await
            }
        }
    }
}

async fn check_whole(fs: &SimFs, id: SessionId, side: &SideRef, expected: &[Arc<Entry>], when: &str) {
    fs.forget_locks();
    let store = store(fs);
    let places = (store.list().await.expect(when), store.list_archived().await.expect(when));
    let ids: Vec<SessionId> = places.0.iter().chain(&places.1).map(|summary| summary.id).collect();
    assert_eq!(ids, [id], "{when}: it is in one place");
    for round in 0..2 {
        let found = entries(&store, id).await;
        for entry in expected.iter().filter(|entry| !matches!(entry.event, Event::AssistantText(_) | Event::Checkpoint(_))) {
            assert!(found.contains(entry), "{when}: {entry:?} is gone");
        }
        let is_wrong = |problem: &&Problem| problem.kind != ProblemKind::TornTail;
        let problems = store.verify(id).await.expect(when).problems;
        assert_eq!(problems.iter().find(is_wrong), None, "{when}");
        assert!(store.read_side(id, side).await.is_ok(), "{when}");
        if round == 0 {
            let opened = soon(store.open(id)).await.expect(when);
            assert_eq!(opened.problems.iter().find(is_wrong), None, "{when}");
            opened.log.append(say("after the crash")).expect(when);
            soon(opened.log.close()).await.expect(when);
            soon(store.archive(id)).await.expect(when);
        }
    }
    assert_eq!(texts(&store, id).await.last().unwrap(), "after the crash", "{when}");
    let left = fs.files().into_iter().filter(|path| !path.starts_with("/home/owners") && !path.starts_with("/home/archive"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "{when}: nothing is left behind");
}

#[tokio::test]
async fn a_crash_at_any_sync_leaves_one_whole_session() {
    use Step::*;
    for step in [Compress, CompressAgain, CompressTorn, Archive, Unarchive, Open, OpenArchived] {
        for sync in 1.. {
            let fs = SimFs::new();
            let store = store(&fs);
            let log = create(&store).await;
            for number in 0..3 {
                turn(&*log, &format!("question {number}"), &["ans", "wer"], Some("answer"));
            }
            let side = log.put_side(b"beside".to_vec()).unwrap();
            soon(log.close()).await.unwrap();
            let id = log.id();
            step.prepare(&fs, &store, id).await;
            soon(store.flush()).await.unwrap();
            let expected = entries(&store, id).await;
            fs.power_off_at_sync(fs.syncs() + sync);
            let outcome = step.run(&store, id).await;
            let when = format!("{step:?}, at sync {sync}");
            check_whole(&fs.after_power_cut(), id, &side, &expected, &format!("{when}, power cut")).await;
            check_whole(&fs.after_kill(), id, &side, &expected, &format!("{when}, killed")).await;
            if outcome.is_ok() {
                assert!(sync > 3, "{step:?} syncs");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_log_that_was_packed_is_known_however_large_the_checkpoint_behind_it_is() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    soon(store.compress(id)).await.unwrap();
    let log = soon(store.open(id)).await.unwrap().log;
    for number in 0..60_000 {
        log.append(say(&number.to_string())).unwrap();
    }
    soon(log.close()).await.unwrap();
    let mut packed = fs.contents(&log_path(id)).unwrap();
    soon(store.compress(id)).await.unwrap();
    let found = entries(&store, id).await;
    let checkpoint = found.iter().rfind(|entry| matches!(entry.event, Event::Checkpoint(_))).unwrap();
    assert!(checkpoint.place.len > 1 << 20, "{} bytes", checkpoint.place.len);

    // A crash came before it was removed.
    let opened = found.iter().rfind(|entry| matches!(entry.event, Event::Opened(_))).unwrap();
    let digits = String::from_utf8(packed[packed.len() - 11..packed.len() - 3].to_vec()).unwrap();
    opened.write_line(&mut packed, u32::from_str_radix(&digits, 16).unwrap());
    fs.put(&log_path(id), &packed);
    assert!(store.verify(id).await.unwrap().ok);
    assert_eq!(entries(&store, id).await.len(), found.len());
    let opened = soon(store.open(id)).await.unwrap();
    opened.log.append(say("it goes on")).unwrap();
    soon(opened.log.close()).await.unwrap();
    assert!(store.verify(id).await.unwrap().ok);
    assert!(fs.contents(&log_path(id)).unwrap().len() < 10_000, "what was packed is gone");
}

/// An event that some session could have, from three numbers; `entries` is what there is so far.
fn event_of(entries: &[Arc<Entry>], kind: u8, pick: u16, text: &str) -> Event {
    let requests: Vec<Seq> =
        entries.iter().filter(|entry| matches!(entry.event, Event::ModelRequest(_))).map(|entry| entry.seq).collect();
    let last = requests.last().copied().unwrap_or(0);
    let any = requests.get(usize::from(pick) % requests.len().max(1)).copied().unwrap_or(9);
    let seq = u64::from(pick) % (entries.len() as u64 + 1);
    let pieces = |message| -> (String, String) {
        let mut of = (String::new(), String::new());
        for entry in entries {
            match &entry.event {
                Event::AssistantText(piece) if piece.message == message => of.0 += &piece.text,
                Event::AssistantReasoning(piece) if piece.message == message => of.1 += &piece.text,
                _ => {}
            }
        }
        of
    };
    let (said, thought) = pieces(last);
    let call = format!("call_{}_0", pick % 4);
    match kind {
        0 => say(text),
        1 => UserMessage { text: text.to_owned(), kind: UserKind::Steer, ..UserMessage::default() }.into(),
        2..=4 => request(),
        5..=10 => AssistantText { message: last, offset: said.len() as u64, text: text.to_owned() }.into(),
        11 => AssistantReasoning { message: last, offset: thought.len() as u64, text: text.to_owned() }.into(),
        12 => AssistantText { message: any, offset: u64::from(pick % 5), text: text.to_owned() }.into(),
        13..=16 => {
            let blocks = vec![
                Block::Reasoning { text: thought, opaque: None },
                Block::Text { text: said + if pick.is_multiple_of(2) { text } else { "" } },
                Block::ToolCall(ToolCall { id: call, name: "read".to_owned(), ..ToolCall::default() }),
            ];
            AssistantMessage {
                message: last,
                origin: origin(),
                blocks,
                stop: StopReason::ToolUse,
                partial: pick.is_multiple_of(7),
                usage: None,
                opaque: None,
            }
            .into()
        }
        17 => answer(any, text, false),
        18 => ModelError {
            message: last,
            kind: "cut".to_owned(),
            detail: text.to_owned(),
            status: None,
            retry_in_ms: None,
            retry_at: None,
        }
        .into(),
        19 => ToolStarted { call, name: "read".to_owned(), side_effects: true }.into(),
        20 => ToolFinished {
            call,
            name: "read".to_owned(),
            outcome: ToolOutcome::Ok,
            output: text.to_owned(),
            full: None,
            images: Vec::new(),
            duration_ms: 1,
        }
        .into(),
        21 => {
            let removed = vec![SeqRange(seq / 2, seq)];
            ContextTrimmed {
                removed,
                note: text.to_owned(),
                reason: "user".to_owned(),
                tokens_before: 2,
                tokens_after: 1,
                summary: None,
            }
            .into()
        }
        22 => ContextRewound { to: seq }.into(),
        23 => ContextRestored { undo: seq }.into(),
        24 => {
            TurnEnded { reason: "done".to_owned(), error: None, model_calls: 1, usage: Usage::default(), duration_ms: 1 }.into()
        }
        25 => Note { text: text.to_owned() }.into(),
        _ => {
            let state = State::fold(entries.iter().map(Arc::as_ref));
            state.checkpoint().map_or_else(|| say(text), Event::from)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn packing_any_session_changes_nothing_that_it_means(
        steps in prop::collection::vec((0..28_u8, any::<u16>(), "[a-z ]{0,12}"), 1..120),
        again in 0..100_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let fs = SimFs::new();
            let store = store(&fs);
            let opened = store.create(NewSession::default()).await.unwrap();
            let (id, mut log) = (opened.log.id(), opened.log);
            soon(log.flush()).await.unwrap();
            let mut all = entries(&store, id).await;
            for (number, (kind, pick, text)) in steps.iter().enumerate() {
                if number == again {
                    // Half of it is cold before the rest comes.
                    soon(log.close()).await.unwrap();
                    soon(store.compress(id)).await.unwrap();
                    log = soon(store.open(id)).await.unwrap().log;
                    all = entries(&store, id).await;
                }
                all.push(log.append(event_of(&all, *kind, *pick, text)).unwrap());
            }
            soon(log.close()).await.unwrap();
            // An answer that is coming in ends with the next owner.
            soon(store.open(id).await.unwrap().log.close()).await.unwrap();
            let before = entries(&store, id).await;
            let mut expected = store.load(id).await.unwrap().state;
            soon(store.compress(id)).await.unwrap();

            let verified = store.verify(id).await.unwrap();
            assert!(verified.ok, "{:?}", verified.problems);
            let after = entries(&store, id).await;
            for entry in before {
                let may_go = matches!(entry.event, Event::AssistantText(_) | Event::AssistantReasoning(_) | Event::Checkpoint(_));
                assert!(may_go || after.contains(&entry), "{entry:?} is gone");
            }
            let cold = folded(&store, id).await;
            (expected.epoch, expected.next_seq) = (cold.epoch, cold.next_seq);
            assert!(cold == expected, "the fold of all its lines");
            let loaded = store.load(id).await.unwrap().state;
            assert!(loaded == expected, "the fold by its checkpoint");
            assert_eq!(said(&loaded), said(&expected));
            let opened = soon(store.open(id)).await.unwrap().state;
            assert_eq!(said(&opened), said(&expected));
        });
    }
}
