//! What the store takes on the disk.

use crate::sim::SimFs;
use crate::writing::{create, log_path, options, say, soon, store};
use session_store::*;
use std::path::{Path, PathBuf};

#[tokio::test]
async fn every_byte_of_the_store_is_counted_once() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    assert_eq!(store1.space().await.unwrap(), Space::default(), "a home that is not there takes nothing");
    let log = create(&store1).await;
    log.append(say(&"x".repeat(3 << 20))).unwrap();
    soon(log.close()).await.unwrap();
    let (id, path) = (log.id(), log_path(log.id()));
    let day = path.parent().unwrap();
    fs.put(&day.join("019c0000-0000-7000-8000-000000000000.part"), &[0; 7]);
    fs.put(&day.join(format!("019c0000-0000-7000-8000-000000000001/{}", "0".repeat(64))), &[0; 70]);
    fs.put(Path::new("/home/index/search.sqlite"), &[0; 700]);
    fs.put(Path::new("/home/repaired/x.jsonl"), &[0; 7000]);
    let archived = "019c0000-0000-7000-8000-000000000002";
    fs.put(&Path::new("/home/archive/2026/01/27").join(format!("{archived}.jsonl.zst")), &[0; 70_000]);
    let size = |path: &PathBuf| fs.contents(path).unwrap().len() as u64;

    let space = store1.space().await.unwrap();
    let session = space.sessions[&id];
    assert_eq!((session.log_bytes, session.cold_bytes), (size(&path), 0));
    assert!(session.side_bytes > 3 << 20, "{session:?}");
    assert_eq!(space.sessions.len(), 1, "an orphan folder is no session");
    assert_eq!(space.archived[&archived.parse().unwrap()].cold_bytes, 70_000);
    assert_eq!((space.index_bytes, space.repaired_bytes, space.leftover_bytes), (700, 7000, 77));
    assert_eq!(space.leftovers.len(), 2);
    let owners = |path: &PathBuf| path.starts_with("/home/owners") || path.ends_with("ballast");
    let all: u64 = fs.files().iter().filter(|path| !owners(path)).map(size).sum();
    assert_eq!(space.total(), all);
}

#[tokio::test]
async fn what_is_none_of_the_stores_is_named_and_not_counted() {
    let fs = SimFs::new();
    let day = Path::new("/home/sessions/2026/01/27");
    let id = "019c0000-0000-7000-8000-000000000000";
    let foreign = [
        day.join("notes.txt"),
        day.join("x.jsonl"),
        PathBuf::from("/home/sessions/2026/README"),
        day.join(id).join("x"),
        // A session of another day.
        day.join("019d0000-0000-7000-8000-000000000000.jsonl"),
    ];
    for path in &foreign {
        fs.put(path, b"x");
    }
    fs.put(&day.join(format!("{id}.jsonl")), b"");
    let space = store(&fs).space().await.unwrap();
    let mut expected = foreign.to_vec();
    expected.sort();
    assert_eq!((space.foreign, space.sessions.len(), space.leftovers.len()), (expected, 1, 0));
}

#[tokio::test]
async fn the_quota_counts_what_the_store_takes() {
    let fs = SimFs::new();
    assert_eq!(store(&fs).quota().await.unwrap(), None);
    fs.put(Path::new("/home/index/x"), &[0; 900]);
    let mut options = options(&fs);
    options.quota_bytes = Some(1000);
    let store = FileStore::open(options).unwrap();
    assert_eq!(store.quota().await.unwrap(), Some(Quota::new(900, 1000)));
}
