//! What several tests begin with, and look at in the end.

use agent_runtime::Runtime;
use agent_runtime::session_store::{Entry, FileStore, FileStoreOptions, SessionId};
use std::path::Path;
use std::sync::Arc;

/// A runtime whose sessions are in `folder`.
pub(crate) fn runtime(folder: &Path) -> Runtime {
    let store = FileStore::open(FileStoreOptions::new(folder)).expect("a store");
    Runtime::new(Arc::new(store))
}

/// All events of a session, those too that were accepted just now.
pub(crate) async fn entries(runtime: &Runtime, id: SessionId) -> Vec<Arc<Entry>> {
    runtime.store().flush().await.expect("a flush");
    let mut reader = runtime.store().read(id, 0).await.expect("a reader");
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().await.expect("an entry") {
        entries.push(entry);
    }
    entries
}
