//! Whatever a log holds, it lists, reads and opens.

use crate::sim::SimFs;
use crate::writing::{create, entries, log_path, options, say, soon, store, texts};
use session_store::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A closed session of three messages: its id and its file.
async fn sample() -> (SessionId, Vec<u8>) {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    for text in ["one", "two", "three"] {
        log.append(say(text)).unwrap();
    }
    soon(log.close()).await.unwrap();
    (log.id(), fs.contents(&log_path(log.id())).unwrap())
}

fn with_file(id: SessionId, bytes: &[u8]) -> SimFs {
    let fs = SimFs::new();
    fs.put(&log_path(id), bytes);
    fs
}

#[tokio::test]
async fn a_torn_tail_is_kept_told_and_blanked() {
    let (id, mut bytes) = sample().await;
    let torn = br#"{"seq":6,"at":"2026-"#;
    let offset = bytes.len() as u64;
    bytes.extend_from_slice(torn);
    let fs = with_file(id, &bytes);
    let store1 = store(&fs);
    let opened = store1.open(id).await.unwrap();
    assert!(opened.problems.iter().any(|problem| problem.kind == ProblemKind::TornTail), "{:?}", opened.problems);
    opened.log.append(say("four")).unwrap();
    soon(opened.log.flush()).await.unwrap();
    let fragment = String::from_utf8(torn.to_vec()).unwrap();
    let recovered = Recovered { offset, bytes: torn.len() as u64, fragment, full: None };
    assert!(entries(&store1, id).await.iter().any(|entry| entry.event == recovered.clone().into()));
    assert_eq!(texts(&store1, id).await, ["one", "two", "three", "four"]);
    let now = fs.contents(&log_path(id)).unwrap();
    assert_eq!(now[..bytes.len() - torn.len()], bytes[..bytes.len() - torn.len()], "no record changes");
    for line in String::from_utf8(now).unwrap().lines().filter(|line| !line.trim().is_empty()) {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    let after = fs.after_power_cut();
    assert_eq!(texts(&store(&after), id).await, ["one", "two", "three", "four"]);
}

#[tokio::test]
async fn a_tail_too_long_for_a_line_is_kept_whole_beside_it() {
    let (id, bytes) = sample().await;
    let torn = format!(r#"{{"seq":6,"at":"2026-01-01T00:00:00.000Z","type":"note","text":"{}"#, "\u{1f30a}".repeat(100_000));
    let path = log_path(id);
    let try_with = async |power_off_at| {
        let fs = with_file(id, &[&bytes, torn.as_bytes()].concat());
        fs.make_durable();
        fs.power_off_at_sync(power_off_at);
        let outcome = store(&fs).open(id).await.map(|_| ());
        (outcome, fs.after_power_cut())
    };
    for power_off_at in 1.. {
        let (outcome, fs) = try_with(power_off_at).await;
        let store1 = store(&fs);
        let opened = store1.open(id).await.unwrap();
        soon(opened.log.close()).await.unwrap();
        let recovered = entries(&store1, id).await.into_iter().find_map(|entry| match &entry.event {
            Event::Recovered(recovered) => Some(recovered.clone()),
            _ => None,
        });
        let recovered = recovered.expect("the fragment is put aside");
        assert_eq!((recovered.offset, recovered.bytes), (bytes.len() as u64, torn.len() as u64));
        assert!(torn.starts_with(&recovered.fragment) && recovered.fragment.len() > 65_000);
        let side = recovered.full.expect("its start is not all of it");
        assert_eq!(store1.read_side(id, &side).await.unwrap(), torn.as_bytes(), "power off at sync {power_off_at}");
        assert!(store1.verify(id).await.unwrap().ok);
        let now = &fs.contents(&path).unwrap()[bytes.len()..][..torn.len()];
        let is_blank = now.iter().all(|byte| *byte == b' ');
        assert!(is_blank || now == torn.as_bytes(), "it is blanked, or a power cut came between");
        fs.remove_file(&path.with_extension("").join(&side.sha256)).unwrap();
        assert!(!store1.verify(id).await.unwrap().ok, "without it something is missing");
        if outcome.is_ok() {
            assert!(power_off_at > 4, "the open syncs the side file, its folder, the way there and the log");
            return;
        }
    }
}

#[tokio::test]
async fn a_tail_of_any_bytes_is_kept() {
    let (id, mut bytes) = sample().await;
    bytes.extend_from_slice(b"\xff\xfe\x00");
    let store1 = store(&with_file(id, &bytes));
    let opened = store1.open(id).await.unwrap();
    soon(opened.log.close()).await.unwrap();
    let kept = entries(&store1, id).await.iter().any(
        |entry| matches!(&entry.event, Event::Recovered(recovered) if recovered.fragment == "hex:fffe00" && recovered.bytes == 3),
    );
    assert!(kept);
}

#[tokio::test]
async fn a_log_cut_anywhere_opens_with_all_its_whole_lines() {
    let (id, bytes) = sample().await;
    let last_two_lines = bytes.len() - 400;
    for cut in (0..last_two_lines).step_by(11).chain(last_two_lines..=bytes.len()) {
        let fs = with_file(id, &bytes[..cut]);
        let store1 = store(&fs);
        let opened = store1.open(id).await.unwrap();
        let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
        let messages = whole.saturating_sub(2).min(3);
        // A last line that lacks only its newline is whole.
        assert!((messages..=messages + 1).contains(&usize::try_from(opened.state.messages).unwrap()), "cut at {cut}");
        let entry = opened.log.append(say("on")).unwrap();
        soon(opened.log.durable(entry.seq)).await.unwrap();
        assert_eq!(texts(&store1, id).await.last().unwrap(), "on", "cut at {cut}");
        drop(opened);
        drop(store1);
        assert_eq!(texts(&store(&fs.after_power_cut()), id).await.last().unwrap(), "on", "cut at {cut}");
    }
}

#[tokio::test]
async fn sound_lines_after_a_hole_stay() {
    let (id, mut bytes) = sample().await;
    let two = bytes.split(|byte| *byte == b'\n').take(3).map(|line| line.len() + 1).sum::<usize>();
    bytes[two..two + 20].fill(0);
    let fs = with_file(id, &bytes);
    let store = store(&fs);
    assert_eq!(texts(&store, id).await, ["one", "three"]);
    let opened = store.open(id).await.unwrap();
    assert_eq!(opened.state.messages, 2);
    let entry = opened.log.append(say("four")).unwrap();
    soon(opened.log.durable(entry.seq)).await.unwrap();
    assert_eq!(texts(&store, id).await, ["one", "three", "four"]);
    let verified = store.verify(id).await.unwrap();
    assert!(!verified.ok && verified.problems.iter().any(|problem| problem.line == 4), "{:?}", verified.problems);
}

/// A closed session of 400 messages, "0" to "399", the 114th event of which was changed by `change`.
async fn with_a_changed_line(change: impl Fn(&str) -> String) -> (SimFs, SessionId) {
    let fs = SimFs::new();
    let store = store(&fs);
    let log = create(&store).await;
    for number in 0..400 {
        log.append(say(&format!("{number}{}", " ".repeat(2000)))).unwrap();
    }
    soon(log.close()).await.unwrap();
    fs.edit(&log_path(log.id()), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let lines = text.lines().enumerate().map(|(number, line)| if number == 114 { change(line) } else { line.to_owned() });
        *bytes = lines.map(|line| line + "\n").collect::<String>().into_bytes();
    });
    (fs, log.id())
}

async fn numbers(store: &FileStore, id: SessionId) -> Vec<u64> {
    texts(store, id).await.iter().filter_map(|text| text.trim().parse().ok()).collect()
}

#[tokio::test]
async fn a_damaged_seq_costs_no_other_event() {
    // Too large and too small; alone, and with other damage, so that the checksum cannot tell what it was.
    let more_damage = |line: String| line.replace(r#","crc""#, r#","more":0,"crc""#);
    for (seq, alone) in [("914", true), ("14", true), ("914", false), ("14", false)] {
        let case = format!("seq {seq}, alone: {alone}");
        let damage = |line: &str| line.replacen("114", seq, 1);
        let (fs, id) = with_a_changed_line(|line| if alone { damage(line) } else { more_damage(damage(line)) }).await;
        let store = store(&fs);
        assert!(!store.verify(id).await.unwrap().ok, "{case}");
        let found = numbers(&store, id).await;
        let others = |numbers: &[u64]| numbers.iter().copied().filter(|number| *number != 112).collect::<Vec<_>>();
        assert!(others(&found).into_iter().eq((0..400).filter(|number| *number != 112)), "{case}: {found:?}");
        assert!(!alone || found.is_sorted() && found.len() == 400, "{case}: it is in its place");

        let fork = store.fork(id, Some(300)).await.unwrap().log.id();
        assert_eq!(others(&numbers(&store, fork).await).len(), 298, "{case}: 299 messages have a `seq` from 2 to 300");

        let OpenSession { log, mut state, .. } = store.open(id).await.unwrap();
        state.apply(&log.append(say("400")).unwrap());
        soon(log.flush()).await.unwrap();
        assert_eq!(others(&numbers(&store, id).await).last(), Some(&400), "{case}: what is added is shown");
        assert_eq!(store.load(id).await.unwrap().state, state, "{case}: it is loaded as it was live");
    }
}

#[tokio::test]
async fn a_line_that_came_too_early_is_not_hidden_by_what_comes_later() {
    let (id, bytes) = sample().await;
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    // Without `closed`, `three` is the last line, and now comes before `two`.
    lines.pop();
    let last = lines.len() - 1;
    lines.swap(last - 1, last);
    let store = store(&with_file(id, &lines.concat()));
    assert_eq!(texts(&store, id).await, ["one", "two", "three"]);
    let OpenSession { log, mut state, .. } = store.open(id).await.unwrap();
    state.apply(&log.append(say("four")).unwrap());
    soon(log.flush()).await.unwrap();
    assert_eq!(texts(&store, id).await, ["one", "two", "three", "four"]);
    assert_eq!(store.load(id).await.unwrap().state, state, "it is loaded as it was live");
}

#[tokio::test]
async fn files_that_are_no_sessions_harm_no_list() {
    let (id, bytes) = sample().await;
    let fs = with_file(id, &bytes);
    let day = log_path(id).parent().unwrap().to_path_buf();
    let (empty, noise) = (SessionId::new(id.created_at()), SessionId::new(id.created_at()));
    fs.put(&log_path(empty), b"");
    fs.put(&log_path(noise), &[0xff; 70_000]);
    fs.put(&day.join("notes.txt"), b"hello");
    fs.put(&day.join("not-a-uuid.jsonl"), b"{}\n");
    fs.put(&day.join(format!("{}.jsonl/inside", SessionId::new(id.created_at()))), b"a folder");
    fs.put("/home/sessions/readme".as_ref(), b"hello");
    fs.put("/home/sessions/20xx/01/01/x".as_ref(), b"hello");
    let store = store(&fs);
    let list = store.list().await.unwrap();
    let state = |id| list.iter().find(|summary| summary.id == id).map(|summary| summary.state);
    assert_eq!(list.len(), 3, "{list:?}");
    assert_eq!(state(id), Some(SessionListState::Idle));
    assert_eq!(state(empty), Some(SessionListState::Damaged));
    assert_eq!(state(noise), Some(SessionListState::Damaged));
    for damaged in [empty, noise] {
        let opened = store.open(damaged).await.unwrap();
        let entry = opened.log.append(say("from here on")).unwrap();
        soon(opened.log.durable(entry.seq)).await.unwrap();
        assert_eq!(texts(&store, damaged).await, ["from here on"]);
    }
}

struct BackwardClock(AtomicI64);

impl Clock for BackwardClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.fetch_sub(60_000, Ordering::SeqCst))
    }
}

#[tokio::test]
async fn a_clock_that_steps_back_changes_no_order() {
    let fs = SimFs::new();
    let mut options = options(&fs);
    options.clock = Arc::new(BackwardClock(AtomicI64::new(1_800_000_000_000)));
    let store = FileStore::open(options).unwrap();
    let log = create(&store).await;
    let id = log.id();
    for text in ["one", "two"] {
        log.append(say(text)).unwrap();
    }
    soon(log.close()).await.unwrap();
    let opened = store.open(id).await.unwrap();
    opened.log.append(say("three")).unwrap();
    soon(opened.log.flush()).await.unwrap();
    assert_eq!(texts(&store, id).await, ["one", "two", "three"]);
    assert!(store.verify(id).await.unwrap().ok);
    let entries = entries(&store, id).await;
    assert!(entries.windows(2).all(|pair| pair[0].at > pair[1].at && pair[0].seq + 1 == pair[1].seq));
}
