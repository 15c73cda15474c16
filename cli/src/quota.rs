//! The quota: what is said where the store takes nearly all that it should, or more. Nothing is refused for it, and nothing is removed:
//! what takes the room is for a person to choose.

use crate::units::size_words;
use session_store::{FileStore, Quota};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Counts beside other work; nothing where there is no quota. Whoever holds it waits for it or drops it: it changes nothing.
pub(crate) fn count(store: &Arc<FileStore>) -> Option<JoinHandle<Option<String>>> {
    let store = Arc::clone(store);
    // What cannot be counted is told by whatever else fails there.
    store.has_quota().then(|| tokio::spawn(async move { warning(store.quota().await.ok()??) }))
}

/// What a person is told, once at each start; nothing while there is enough room.
fn warning(quota: Quota) -> Option<String> {
    let Quota { used_bytes, limit_bytes, .. } = quota;
    let (used, limit) = (size_words(used_bytes), size_words(limit_bytes));
    let what = if quota.is_full() {
        format!("the quota of {limit} is used up: the sessions take {used}, and new ones are kept all the same")
    } else if quota.is_near() {
        format!("the sessions take {used}, {}% of the quota of {limit}", quota.percent())
    } else {
        return None;
    };
    Some(format!(
        "{what}; `longhand sessions prune --max-size {}` makes room, and shows first what it would do",
        half(limit_bytes)
    ))
}

/// Half of the quota, as it can be typed.
fn half(bytes: u64) -> String {
    size_words(bytes / 2).replace(" bytes", "").replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_warning_comes_at_80_percent_and_says_what_to_do() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(home.path().join("index")).expect("a folder");
        std::fs::write(home.path().join("index/x"), vec![0; 850]).expect("a file");
        let warned = async |quota| {
            let mut options = session_store::FileStoreOptions::new(home.path());
            options.quota_bytes = quota;
            let store = Arc::new(FileStore::open(options).expect("a store"));
            match count(&store) {
                Some(counting) => counting.await.expect("no panic"),
                None => None,
            }
        };
        assert_eq!(warned(None).await, None);
        assert_eq!(warned(Some(2000)).await, None);
        let near = warned(Some(1000)).await.expect("a warning");
        assert!(near.contains("850 bytes, 85% of the quota of 1.0 kB") && near.contains("prune --max-size 500`"), "{near}");
        let full = warned(Some(800)).await.expect("a warning");
        assert!(full.contains("used up"), "{full}");
    }
}
