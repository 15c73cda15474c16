//! Session files of every version of the format, as they were written, are opened by this build and all later ones.
//!
//! A folder `v...` of the fixtures is a version of the format, or something that was added to one. No file in it is ever edited; `SHA256SUMS` says so. Each
//! is copied into a home of its own, and everything that can be done with a session is done with it. What each file means, line by line, is
//! told by the tests of the scanner.

#![expect(clippy::disallowed_methods, reason = "the fixtures are files of the real disk")]

use session_store::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Every file of a version, by its path below the fixtures.
fn files() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let versions = std::fs::read_dir(fixtures()).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut folders: Vec<PathBuf> =
        versions.filter(|entry| entry.file_name().to_string_lossy().starts_with('v')).map(|entry| entry.path()).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(fixtures()).expect("below").display().to_string(), path);
            }
        }
    }
    found
}

#[test]
fn no_fixture_was_edited_and_none_is_unknown() {
    let sums = std::fs::read_to_string(fixtures().join("SHA256SUMS")).expect("the sums");
    let known: BTreeMap<&str, &str> =
        sums.lines().filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name, sum)).collect();
    let names: Vec<String> = files().into_keys().collect();
    assert_eq!(names, known.keys().copied().collect::<Vec<_>>(), "a new fixture is added with its sum");
    for (name, sum) in known {
        let bytes = std::fs::read(fixtures().join(name)).expect("a fixture");
        assert_eq!(sha256_hex(&bytes), sum, "{name} was edited: add a new file instead");
    }
}

/// A store in a home of its own with this fixture, and the session. Side files lie in a folder beside the log.
fn home_with(name: &str, path: &Path) -> (tempfile::TempDir, SessionId) {
    let home = tempfile::tempdir().expect("a folder");
    let id: SessionId = "019c1a2b-3c4d-7e5f-8a6b-0123456789ab".parse().expect("an id");
    let place = home.path().join("sessions").join(id.relative_path());
    std::fs::create_dir_all(place.parent().expect("a day")).expect("folders");
    let ending = name.split_once(".jsonl").expect("a log").1;
    std::fs::copy(path, place.with_extension(format!("jsonl{ending}"))).expect("copied");
    let sides = path.with_file_name(path.file_name().and_then(|name| name.to_str()?.split('.').next()).expect("a name"));
    if sides.is_dir() {
        std::fs::create_dir(&place).expect("a folder");
        for side in std::fs::read_dir(sides).expect("a folder").flatten() {
            std::fs::copy(side.path(), place.join(side.file_name())).expect("copied");
        }
    }
    (home, id)
}

fn open(home: &tempfile::TempDir) -> FileStore {
    FileStore::open(FileStoreOptions::new(home.path())).expect("a store")
}

async fn entries(store: &FileStore, id: SessionId) -> Vec<Arc<Entry>> {
    let mut reader = store.read(id, 0).await.expect("read");
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().await.expect("read") {
        entries.push(entry);
    }
    entries
}

/// The events that say something, in their order.
async fn events(store: &FileStore, id: SessionId) -> Vec<(Seq, Event)> {
    let mut events: Vec<_> = entries(store, id).await.iter().map(|entry| (entry.seq, entry.event.clone())).collect();
    events.retain(|(_, event)| {
        !matches!(event, Event::Opened(_) | Event::Closed(_) | Event::Recovered(_) | Event::SessionForked(_))
    });
    events
        .retain(|(_, event)| !matches!(event, Event::Lost(_) | Event::Repaired(_) | Event::Compacted(_) | Event::Checkpoint(_)));
    events.sort_by_key(|(seq, _)| *seq);
    events
}

fn say(text: &str) -> Event {
    UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
}

/// Opens, appends, closes; what was there stays.
async fn goes_on(store: &FileStore, id: SessionId, name: &str) {
    let before = events(store, id).await;
    let opened = store.open(id).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let entry = opened.log.append(say("later")).expect("appended");
    opened.log.close().await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let after = events(store, id).await;
    assert_eq!(after.split_last().expect("events").1, before, "{name}");
    assert_eq!(after.last().expect("events"), &(entry.seq, say("later")), "{name}");
    let state = store.load(id).await.expect("loaded").state;
    assert!(state.missing().is_empty() && state.messages > 0, "{name}");
}

#[tokio::test]
async fn every_session_ever_written_lists_opens_goes_on_forks_and_is_mended() {
    let logs: Vec<_> = files().into_iter().filter(|(name, _)| name.contains(".jsonl")).collect();
    assert!(logs.len() >= 8, "{logs:?}");
    for (name, path) in &logs {
        let (home, id) = home_with(name, path);
        let store = open(&home);
        assert_eq!(store.list().await.expect("listed").len(), 1, "{name}");
        let before = events(&store, id).await;
        let problems = store.verify(id).await.expect("verified").problems;

        let fork = store.fork(id, None).await.unwrap_or_else(|error| panic!("{name}: {error}")).log;
        fork.close().await.expect("closed");
        assert_eq!(events(&store, fork.id()).await, before, "{name}: a fork has all of it");
        goes_on(&store, fork.id(), name).await;

        let repaired = store.repair(id, Arc::new(|_| {})).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(repaired.mended.len(), problems.len(), "{name}");
        let verified = store.verify(id).await.expect("verified");
        assert!(verified.problems.iter().all(|problem| problem.kind == ProblemKind::SideFile), "{name}: {verified:?}");
        let mended = events(&store, id).await;
        assert!(mended.iter().all(|event| before.contains(event)), "{name}: a repair makes up nothing");
        goes_on(&store, id, name).await;
    }
}

#[tokio::test]
async fn every_session_ever_written_goes_on_as_it_is() {
    for (name, path) in files().iter().filter(|(name, _)| name.contains(".jsonl")) {
        let (home, id) = home_with(name, path);
        goes_on(&open(&home), id, name).await;
        goes_on(&open(&home), id, name).await;
    }
}

#[tokio::test]
async fn every_session_ever_written_is_packed_put_away_and_goes_on() {
    for (name, path) in files().iter().filter(|(name, _)| name.contains(".jsonl")) {
        let (home, id) = home_with(name, path);
        let store = open(&home);
        let mut before = events(&store, id).await;
        let problems = store.verify(id).await.expect("verified").problems;
        store.archive(id).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(store.list().await.expect("listed").is_empty(), "{name}");
        let after = events(&store, id).await;
        if !problems.is_empty() {
            assert_eq!(after, before, "{name}: of a damaged one nothing is left out");
        }
        // What is left out is in the messages that are not.
        before.retain(|(_, event)| !matches!(event, Event::AssistantText(_) | Event::AssistantReasoning(_)));
        assert!(before.iter().all(|event| after.contains(event)), "{name}");
        goes_on(&store, id, name).await;
        assert!(!store.is_archived(id).await.expect("found"), "{name}");
        store.compress(id).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        goes_on(&store, id, name).await;
    }
}
