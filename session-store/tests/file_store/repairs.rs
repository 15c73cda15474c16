//! Repairs: whatever is wrong with a log, it is written again so that it verifies, is read as it was, and is kept as it was.

use crate::sim::SimFs;
use crate::writing::{create, entries, log_path, options, say, soon, store};
use session_store::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn quiet() -> Advance {
    Arc::new(|_| {})
}

async fn repair(fs: &SimFs, id: SessionId) -> Repair {
    soon(store(fs).repair(id, quiet())).await.unwrap()
}

/// The logs that repairs kept.
fn originals(fs: &SimFs) -> Vec<PathBuf> {
    fs.files().into_iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("repaired"))).collect()
}

/// A closed session with what a fold has to get right: calls that ran and calls that nobody knows of, a trim, two owners.
async fn session(fs: &SimFs) -> SessionId {
    let store1 = store(fs);
    let log = create(&store1).await;
    log.append(SessionRenamed { name: "tides".to_owned() }.into()).unwrap();
    add_turn(&*log, true);
    add_turn(&*log, true);
    let trim = ContextTrimmed {
        removed: vec![SeqRange(3, 9)],
        note: "left out".to_owned(),
        reason: "budget".to_owned(),
        tokens_before: 2,
        tokens_after: 1,
        summary: None,
    };
    log.append(trim.into()).unwrap();
    soon(log.close()).await.unwrap();

    let log = store1.open(log.id()).await.unwrap().log;
    log.append(say(&"large ".repeat(1000))).unwrap();
    add_turn(&*log, false);
    soon(log.close()).await.unwrap();
    log.id()
}

/// A turn with two calls of a tool; the second of them perhaps without a result.
fn add_turn(log: &dyn SessionLog, is_whole: bool) {
    log.append(say("a question")).unwrap();
    let origin = Origin { provider: "offline".to_owned(), ..Origin::default() };
    let request = ModelRequest { origin: origin.clone(), ..ModelRequest::default() };
    let message = log.append(request.into()).unwrap().seq;
    log.append(AssistantText { message, offset: 0, text: "I ".to_owned() }.into()).unwrap();
    let call = |index| ToolCall { id: format!("call_{message}_{index}"), name: "shell".to_owned(), ..ToolCall::default() };
    let blocks = vec![Block::Text { text: "I look".to_owned() }, Block::ToolCall(call(0)), Block::ToolCall(call(1))];
    let stop = StopReason::ToolUse;
    let answer = AssistantMessage { message, origin, blocks, stop, partial: false, usage: None, opaque: None };
    log.append(answer.into()).unwrap();
    for index in 0..2 {
        let (call, name) = (call(index).id, "shell".to_owned());
        log.append(ToolApproved { call: call.clone(), by: "user".to_owned() }.into()).unwrap();
        log.append(ToolStarted { call: call.clone(), name: name.clone(), side_effects: true }.into()).unwrap();
        if index == 0 || is_whole {
            let (outcome, output) = (ToolOutcome::Ok, format!("output {index}"));
            log.append(ToolFinished { call, name, outcome, output, full: None, images: Vec::new(), duration_ms: 1 }.into())
                .unwrap();
        }
    }
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// One thing that happens to files.
fn damage(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = dice.below(lines.len());
    match dice.below(13) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[dice.below(at + 1)].clone()),
        2 => {
            let other = dice.below(lines.len());
            lines.swap(at, other);
        }
        3 => {
            let byte = dice.below(lines[at].len());
            lines[at][byte] ^= 1 << dice.below(7);
        }
        4 => lines.iter_mut().for_each(|line| {
            line.pop();
            line.extend_from_slice(b"\r\n");
        }),
        5 => lines[at].splice(0..0, "\u{feff}".bytes()).for_each(drop),
        6 => lines.insert(at, b"\n".to_vec()),
        7 => lines[at] = b"not a record at all\n".to_vec(),
        8 => drop(lines[at].pop()),
        9 => lines[at] = [vec![0; 100], lines[at].clone()].concat(),
        10 => {
            // As `jq -c` writes it after a change.
            let text = String::from_utf8_lossy(&lines[at]).replacen("\"type\"", "\"edited\":1,\"type\"", 1);
            lines[at] = text.into_bytes();
        }
        11 => {
            let mut json: serde_json::Value = serde_json::from_slice(&lines[at]).unwrap_or_default();
            json.as_object_mut().map(|members| members.remove("crc"));
            lines[at] = format!("{json}\n").into_bytes();
        }
        _ => {
            let torn = dice.below(lines[at].len());
            lines.truncate(at + 1);
            lines[at].truncate(torn);
        }
    }
    lines.concat()
}

/// What a reader gets, without what owners and repairs add.
async fn read(fs: &SimFs, id: SessionId) -> Vec<(Seq, bool, Event)> {
    let mut found = Vec::new();
    for entry in entries(&store(fs), id).await {
        let is_ours = matches!(&entry.event, Event::Opened(_) | Event::Closed(_) | Event::Recovered(_))
            || matches!(&entry.event, Event::Lost(_) | Event::Repaired(_) | Event::Compacted(_));
        if !is_ours {
            found.push((entry.seq, entry.sound, entry.event.clone()));
        }
    }
    found.sort_by_key(|(seq, ..)| *seq);
    found
}

/// The fold, without what every owner changes.
async fn fold(fs: &SimFs, id: SessionId) -> State {
    let mut state = store(fs).load(id).await.unwrap().state;
    (state.next_seq, state.epoch, state.owner, state.updated_at) = (0, 0, None, None);
    if read(fs, id).await.is_empty() {
        // Nothing is left: it begins with that owner.
        state.created_at = None;
    }
    state
}

#[tokio::test]
async fn whatever_happened_to_a_log_a_repair_makes_it_sound_and_changes_nothing_that_is_read() {
    let fs = SimFs::new();
    let id = session(&fs).await;
    let whole = fs.contents(&log_path(id)).unwrap();
    let mut rewritten = 0;
    for seed in 0..150 {
        let mut dice = Dice(seed);
        let bytes =
            (0..=dice.below(3)).fold(whole.clone(), |bytes, _| if bytes.is_empty() { bytes } else { damage(&bytes, &mut dice) });
        let (mended, opened) = (SimFs::new(), SimFs::new());
        for fs in [&mended, &opened] {
            fs.put(&log_path(id), &bytes);
        }
        // What any owner makes of it.
        let other = store(&opened).open(id).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        soon(other.log.close()).await.unwrap();

        let planned = soon(store(&mended).plan_repair(id, quiet())).await.unwrap();
        assert_eq!(mended.contents(&log_path(id)).unwrap(), bytes, "seed {seed}: a plan changes nothing");
        let done = soon(store(&mended).repair(id, quiet())).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!((done.rewrites, done.left()), (planned.rewrites, 0), "seed {seed}");
        assert_eq!(done.mended, planned.mended, "seed {seed}");

        if done.mended.is_empty() {
            // Its end is gone without a trace.
            assert_eq!(mended.contents(&log_path(id)).unwrap(), bytes, "seed {seed}: a sound log is not touched");
            continue;
        }
        let verified = store(&mended).verify(id).await.unwrap();
        assert!(verified.ok, "seed {seed}: {verified:?}");
        assert_eq!(fold(&mended, id).await, fold(&opened, id).await, "seed {seed}");
        let (found, expected) = (read(&mended, id).await, read(&opened, id).await);
        // A reader gives lines that were moved where they stand, or not at all behind what was damaged.
        for item in &found {
            assert!(expected.contains(item), "seed {seed}: {item:?} was not there");
        }
        if done.rewrites {
            rewritten += 1;
            assert_eq!(mended.contents(done.original.as_deref().unwrap()).unwrap(), bytes, "seed {seed}: kept as it was");
            assert!(done.mended.iter().all(|mended| mended.problem.line > 0));
        }
        let again = repair(&mended, id).await;
        assert_eq!((again.mended, again.original), (Vec::new(), None), "seed {seed}");

        let log = store(&mended).open(id).await.unwrap().log;
        let entry = log.append(say("after the repair")).unwrap();
        soon(log.durable(entry.seq)).await.unwrap();
        soon(log.close()).await.unwrap();
        assert!(store(&mended).verify(id).await.unwrap().ok, "seed {seed}");
    }
    assert!(rewritten > 90, "{rewritten}");
}

#[tokio::test]
async fn a_sound_session_is_not_touched() {
    let fs = SimFs::new();
    let id = session(&fs).await;
    let before = fs.contents(&log_path(id)).unwrap();
    let done = repair(&fs, id).await;
    assert_eq!((done.mended, done.rewrites, done.original), (Vec::new(), false, None));
    assert_eq!(fs.contents(&log_path(id)).unwrap(), before);
    assert_eq!(originals(&fs), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_torn_end_is_put_aside_without_writing_the_log_again() {
    let fs = SimFs::new();
    let id = session(&fs).await;
    fs.edit(&log_path(id), |bytes| bytes.extend_from_slice(b"{\"seq\":99,\"at"));
    let done = repair(&fs, id).await;
    assert_eq!((done.mended[0].action, done.original), (RepairAction::PutAside, None));
    assert!(store(&fs).verify(id).await.unwrap().ok);
}

#[tokio::test]
async fn a_session_that_is_held_is_not_repaired_but_its_repair_is_planned() {
    let fs = SimFs::new();
    let id = session(&fs).await;
    fs.edit(&log_path(id), |bytes| bytes.splice(0..0, *b"\n").for_each(drop));
    let holder = store(&fs);
    let log = holder.open(id).await.unwrap().log;
    let other = store(&fs);
    assert!(matches!(soon(other.repair(id, quiet())).await, Err(StoreError::Held { .. })));
    assert!(matches!(soon(holder.repair(id, quiet())).await, Err(StoreError::Held { .. })));
    assert_eq!(soon(other.plan_repair(id, quiet())).await.unwrap().mended[0].action, RepairAction::Cleaned);
    assert_eq!(originals(&fs), Vec::<PathBuf>::new(), "nothing is left of the tries");
    let entry = log.append(say("it goes on")).unwrap();
    soon(log.durable(entry.seq)).await.unwrap();
}

#[tokio::test]
async fn a_missing_side_file_stays_reported() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    log.append(say(&"x".repeat(3 << 20))).unwrap();
    soon(log.close()).await.unwrap();
    let id = log.id();
    let side = fs.files().into_iter().find(|path| path.parent().unwrap().ends_with(id.to_string())).unwrap();
    fs.remove_file(&side).unwrap();
    let before = fs.contents(&log_path(id)).unwrap();
    let done = repair(&fs, id).await;
    assert_eq!((done.left(), done.rewrites), (1, false));
    assert_eq!(fs.contents(&log_path(id)).unwrap(), before);
}

#[tokio::test]
async fn the_log_says_what_was_repaired_and_where_the_original_is() {
    let fs = SimFs::new();
    let id = session(&fs).await;
    fs.edit(&log_path(id), |bytes| {
        let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        // Of one whose checksum is still there, only that line is lost.
        lines[3] = [&b"garbage"[..], &lines[3][30..]].concat();
        *bytes = lines.concat();
    });
    let done = repair(&fs, id).await;
    let found = entries(&store(&fs), id).await;
    let repaired =
        found.iter().rev().find_map(|entry| if let Event::Repaired(repaired) = &entry.event { Some(repaired) } else { None });
    let repaired = repaired.unwrap();
    assert_eq!(Path::new(&repaired.original).file_name(), done.original.as_deref().and_then(Path::file_name));
    assert_eq!(repaired.lines, [RepairedLine { line: 4, problem: "unreadable".to_owned(), action: "left_out".to_owned() }]);
    assert!(found.iter().any(|entry| matches!(&entry.event, Event::Lost(Lost { from: 3, to: 3 }))));
}

/// Runs a repair in which the power goes at each sync, and looks at what is left.
#[tokio::test]
async fn a_power_cut_at_any_sync_of_a_repair_leaves_the_old_log_or_the_new_one() {
    let whole = SimFs::new();
    let id = session(&whole).await;
    let mut bytes = whole.contents(&log_path(id)).unwrap();
    bytes.splice(0..0, *b"\n").for_each(drop);
    let opened = SimFs::new();
    opened.put(&log_path(id), &bytes);
    soon(store(&opened).open(id).await.unwrap().log.close()).await.unwrap();
    let expected = fold(&opened, id).await;
    for sync in 1.. {
        let fs = SimFs::new();
        fs.put(&log_path(id), &bytes);
        fs.make_durable();
        fs.power_off_at_sync(sync);
        let outcome = soon(store(&fs).repair(id, quiet())).await;
        for (after, how) in [(fs.after_power_cut(), "power cut"), (fs.after_kill(), "kill")] {
            let mut options = options(&after);
            options.window = Duration::from_millis(1);
            options.machine.boot = "boot 2".to_owned();
            let store1 = FileStore::open(options).unwrap();
            let is_kept = originals(&after).iter().any(|path| after.contents(path).unwrap() == bytes);
            let found = after.contents(&log_path(id)).unwrap_or_else(|| panic!("{how} at sync {sync}: no log"));
            assert!(found.starts_with(&bytes) || is_kept, "{how} at sync {sync}: the original is gone");
            soon(store1.repair(id, quiet())).await.unwrap_or_else(|error| panic!("{how} at sync {sync}: {error}"));
            assert!(store1.verify(id).await.unwrap().ok, "{how} at sync {sync}");
            assert_eq!(fold(&after, id).await, expected, "{how} at sync {sync}");
        }
        if outcome.is_ok() {
            assert!(sync > 5, "a repair syncs: {sync}");
            return;
        }
    }
}

#[tokio::test]
async fn whoever_waits_is_told_how_far_it_is() {
    let fs = SimFs::new();
    let id = session(&fs).await;
    fs.edit(&log_path(id), |bytes| bytes.splice(0..0, *b"\n").for_each(drop));
    let length = fs.contents(&log_path(id)).unwrap().len() as u64;
    let read = Arc::new(AtomicU64::new(0));
    let advance = {
        let read = Arc::clone(&read);
        Arc::new(move |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        })
    };
    soon(store(&fs).repair(id, advance)).await.unwrap();
    let read = read.load(Ordering::Relaxed);
    assert!((2 * length..4 * length).contains(&read), "{read} of {length}");
}

#[tokio::test]
async fn a_cold_session_that_went_on_and_was_damaged_is_whole_again_in_one_file() {
    let fs = SimFs::new();
    let id = session(&fs).await;
    let store1 = store(&fs);
    soon(store1.compress(id)).await.unwrap();
    let cold = log_path(id).with_extension("jsonl.zst");
    assert!(fs.contents(&cold).is_some() && fs.contents(&log_path(id)).is_none());
    let log = store1.open(id).await.unwrap().log;
    log.append(say("warm again")).unwrap();
    log.append(say("and more")).unwrap();
    soon(log.close()).await.unwrap();
    let mut before = read(&fs, id).await;
    // A checkpoint names places in the old file.
    before.retain(|(_, _, event)| !matches!(event, Event::Checkpoint(_)));

    fs.edit(&log_path(id), |bytes| bytes.splice(0..0, *b"\n\n").for_each(drop));
    let damaged = fs.contents(&log_path(id)).unwrap();
    let done = repair(&fs, id).await;
    assert!(done.rewrites && done.left() == 0, "{done:?}");
    assert!(store(&fs).verify(id).await.unwrap().ok);
    assert_eq!(read(&fs, id).await, before);
    assert!(fs.contents(&cold).is_none(), "the new file is all of it");
    let kept: Vec<_> = originals(&fs).iter().map(|path| fs.contents(path).unwrap()).collect();
    assert!(kept.len() == 2 && kept.contains(&damaged), "both files are kept");
}
