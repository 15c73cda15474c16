//! Forks and imports that were not finished: nothing of them is a session, and what they left goes.

use crate::cold::{closed, conversation};
use crate::sim::SimFs;
use crate::writing::{log_path, options, say, soon, store, texts, until};
use session_store::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A session with a side file, and the store that it is in.
async fn parent(fs: &SimFs) -> (Arc<FileStore>, SessionId) {
    let mut options = options(fs);
    options.line_bytes_max = 4096;
    let store = Arc::new(FileStore::open(options).unwrap());
    let id = closed(&store, |log| {
        log.append(say(&"long ".repeat(2000))).unwrap();
        conversation(log);
    })
    .await;
    (store, id)
}

/// What is there of other sessions than `id`.
fn others(fs: &SimFs, id: SessionId) -> Vec<PathBuf> {
    let is_its = |path: &PathBuf| path.to_string_lossy().contains(&id.to_string());
    fs.files().into_iter().filter(|path| path.starts_with("/home/sessions") && !is_its(path)).collect()
}

/// Starts a fork that hangs when it syncs.
async fn hanging_fork(
    fs: &SimFs,
    store: &Arc<FileStore>,
    id: SessionId,
) -> tokio::task::JoinHandle<Result<OpenSession, StoreError>> {
    fs.hang_syncs();
    let store = Arc::clone(store);
    let forking = tokio::spawn(async move { store.fork(id, None).await });
    until(|| fs.hung_syncs() > 0).await;
    forking
}

#[tokio::test]
async fn a_fork_that_nobody_waits_for_is_called_off_and_leaves_nothing() {
    let fs = SimFs::new();
    let (store, id) = parent(&fs).await;
    let forking = hanging_fork(&fs, &store, id).await;
    assert!(!others(&fs, id).is_empty(), "it was under way");
    forking.abort();
    assert!(soon(forking).await.is_err());
    fs.let_syncs_go();
    until(|| others(&fs, id).is_empty()).await;
    assert_eq!(store.list().await.unwrap().len(), 1);
    let fork = soon(store.fork(id, None)).await.unwrap();
    soon(fork.log.close()).await.unwrap();
    assert_eq!(texts(&store, fork.log.id()).await, texts(&store, id).await);
}

#[tokio::test]
async fn a_shutdown_calls_a_fork_off() {
    let fs = SimFs::new();
    let (store, id) = parent(&fs).await;
    let forking = hanging_fork(&fs, &store, id).await;
    let ending = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.shutdown(Duration::from_secs(10)).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs.let_syncs_go();
    soon(ending).await.unwrap().unwrap();
    assert!(soon(forking).await.unwrap().is_err());
    assert_eq!(others(&fs, id), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn who_waits_for_a_fork_is_told_of_each_byte_of_it() {
    let fs = SimFs::new();
    let (store, id) = parent(&fs).await;
    let told = Arc::new(AtomicU64::new(0));
    let advance: Advance = {
        let told = Arc::clone(&told);
        Arc::new(move |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
        })
    };
    let fork = soon(store.fork_with(id, None, advance)).await.unwrap();
    soon(fork.log.close()).await.unwrap();
    assert_eq!(told.load(Ordering::Relaxed), fs.contents(&log_path(id)).unwrap().len() as u64);
}

#[tokio::test]
async fn what_a_crash_left_unfinished_goes_when_nobody_writes_it() {
    let fs = SimFs::new();
    let store = store(&fs);
    let id = closed(&store, conversation).await;
    // Of the same day, as its folder is.
    let name = |number: u32| format!("{}00000000000{number}", &id.to_string()[..24]);
    let part = |number| log_path(id).with_file_name(name(number) + ".part");
    let side = |number| log_path(id).with_file_name(name(number)).join("5e".repeat(32));
    fs.put(&part(1), b"half a fork");
    fs.put(&side(1), b"what was too large for it");
    fs.put(&part(2), b"half a fork that is being written");
    fs.put(&side(2), b"what was too large for it");
    let writer = fs.open(&part(2), OpenMode::Read).unwrap();
    assert!(writer.try_lock().unwrap());
    let fork = soon(store.fork(id, None)).await.unwrap();
    soon(fork.log.close()).await.unwrap();
    assert!(fs.contents(&part(1)).is_none() && fs.contents(&side(1)).is_none());
    assert!(fs.contents(&part(2)).is_some() && fs.contents(&side(2)).is_some());
    drop(writer);
    soon(store.compress(id)).await.unwrap();
    assert!(fs.contents(&part(2)).is_none() && fs.contents(&side(2)).is_none());
}

#[tokio::test]
async fn the_side_files_of_a_session_stay_when_its_unfinished_repair_goes() {
    let fs = SimFs::new();
    let (store, id) = parent(&fs).await;
    let before = texts(&store, id).await;
    fs.put(&log_path(id).with_extension("part"), b"half a repair");
    let fork = soon(store.fork(id, None)).await.unwrap();
    soon(fork.log.close()).await.unwrap();
    assert!(fs.contents(&log_path(id).with_extension("part")).is_none());
    assert_eq!(texts(&store, id).await, before);
    assert!(store.verify(id).await.unwrap().ok);
}

#[tokio::test]
async fn an_import_takes_away_what_one_before_it_left() {
    let fs = SimFs::new();
    let store = store(&fs);
    let created_at = Timestamp::from_ms(1_700_000_000_000);
    let import = || {
        let imported = SessionImported { format: "pi".to_owned(), ..SessionImported::default() };
        let fill = |log: &mut dyn ImportLog| log.append(Timestamp::from_ms(1_700_000_000_000), say("theirs")).map(drop);
        store.import(NewImport { created_at, cwd: None, imported }, Box::new(fill))
    };
    let id = soon(import()).await.unwrap();
    let left = log_path(id).with_file_name("018bcfe5-6800-7000-8000-000000000001.part");
    fs.put(&left, b"half an import");
    soon(import()).await.unwrap();
    assert!(fs.contents(&left).is_none());
}
