//! Accepted, written, durable.

use crate::sim::SimFs;
use session_store::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn options(fs: &SimFs) -> FileStoreOptions {
    let mut options = FileStoreOptions::new("/home", "test 1");
    options.fs = Arc::new(fs.clone());
    options.window = Duration::from_millis(20);
    options
}

pub(crate) fn store(fs: &SimFs) -> FileStore {
    FileStore::open(options(fs))
}

pub(crate) fn say(text: &str) -> Event {
    UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
}

pub(crate) fn log_path(id: SessionId) -> PathBuf {
    PathBuf::from("/home/sessions").join(id.relative_path()).with_extension("jsonl")
}

pub(crate) async fn texts(store: &FileStore, id: SessionId) -> Vec<String> {
    let mut reader = store.read(id, 0).await.unwrap();
    let mut texts = Vec::new();
    while let Some(entry) = reader.next().await.unwrap() {
        if let Event::UserMessage(message) = &entry.event {
            texts.push(message.text.clone());
        }
    }
    texts
}

#[tokio::test]
async fn what_is_durable_is_there_after_a_power_cut() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let open = store1.create(NewSession::default()).await.unwrap();
    let entry = open.log.append(say("hello")).unwrap();
    open.log.durable(entry.seq).await.unwrap();
    let after = fs.after_power_cut();
    assert_eq!(texts(&store(&after), open.log.id()).await, ["hello"]);
}
