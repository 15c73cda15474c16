//! An import is there whole or not at all, whatever sync the power goes with, and whatever call the disk refuses.

use crate::sim::SimFs;
use crate::writing::{entries, options, say};
use session_store::*;

const MESSAGES: u64 = 40;

fn store(fs: &SimFs) -> FileStore {
    let mut options = options(fs);
    // The large ones go into side files.
    options.line_bytes_max = 4096;
    FileStore::open(options).unwrap()
}

async fn import(store: &FileStore) -> Result<SessionId, StoreError> {
    let created_at = Timestamp::from_ms(1_700_000_000_000);
    let imported = SessionImported { format: "pi".to_owned(), id: "theirs".to_owned(), ..SessionImported::default() };
    let fill = |log: &mut dyn ImportLog| {
        for number in 0..MESSAGES {
            let text = format!("{number} {}", "x".repeat(if number % 10 == 0 { 300_000 } else { 100 }));
            log.append(Timestamp::from_ms(1_700_000_000_000 + number as i64), say(&text))?;
        }
        Ok(())
    };
    store.import(NewImport { created_at, cwd: None, imported }, Box::new(fill)).await
}

/// All of it, or nothing; gives how many there are.
async fn whole_sessions(fs: &SimFs, when: &str) -> usize {
    let store = store(fs);
    let list = store.list().await.expect(when);
    for session in &list {
        assert_eq!((session.state, session.messages), (SessionListState::Idle, MESSAGES), "{when}");
        let verified = store.verify(session.id).await.expect(when);
        assert!(verified.ok, "{when}: {:?}", verified.problems);
        let found = entries(&store, session.id).await;
        let messages = found.iter().filter(|entry| matches!(entry.event, Event::UserMessage(_))).count();
        assert_eq!(messages as u64, MESSAGES, "{when}");
    }
    list.len()
}

#[tokio::test]
async fn an_import_is_there_whole_or_not_at_all_after_a_power_cut_at_any_sync() {
    for sync in 1.. {
        let fs = SimFs::new();
        fs.power_off_at_sync(sync);
        let outcome = import(&store(&fs)).await;
        let after_cut = whole_sessions(&fs.after_power_cut(), &format!("power cut at sync {sync}")).await;
        whole_sessions(&fs.after_kill(), &format!("killed at sync {sync}")).await;
        if outcome.is_ok() {
            assert_eq!(after_cut, 1, "what was imported is durable");
            assert!(sync > 5, "it syncs side files, the log and the folders: {sync}");
            return;
        }
    }
}

#[tokio::test]
async fn an_import_that_the_disk_refuses_leaves_nothing_and_can_be_done_again() {
    for room in [0, 1000, 400_000, 900_000] {
        let fs = SimFs::new();
        fs.set_room(Some(room));
        let refused = store(&fs);
        assert!(import(&refused).await.is_err(), "room for {room} bytes");
        let left: Vec<_> = fs.files().into_iter().filter(|path| path.starts_with("/home/sessions")).collect();
        assert!(left.is_empty(), "room for {room} bytes: {left:?}");
        fs.set_room(None);
        import(&refused).await.expect("there is room now");
        assert_eq!(whole_sessions(&fs, "again").await, 1);
    }
}
