//! A process that holds many sessions under load, for tests that kill it.
//!
//! `many-sessions HOME COUNT` creates so many and appends to each until it is killed; it says what was accepted and what was reported
//! durable, as `["accepted","<id>",<seq>]` and `["durable","<id>",<seq>]`, a line each, and on standard error when all are at work. `many-sessions HOME` opens all there are, appends
//! to each, and says how many these were.

use session_store::{FileStore, FileStoreOptions, NewSession, Note, SessionLog, SessionStore};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two events of a session.
const PAUSE: Duration = Duration::from_millis(150);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let home = arguments.next().ok_or("which home?")?;
    let count = arguments.next().map(|count| count.parse::<u64>()).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    runtime.block_on(async {
        let store = Arc::new(FileStore::open(FileStoreOptions::new(home))?);
        match count {
            Some(count) => hold(&store, count).await,
            None => open_all(&store).await,
        }
    })
}

async fn hold(store: &Arc<FileStore>, count: u64) -> Result<(), Box<dyn Error>> {
    let mut sessions = Vec::new();
    let idle = Arc::new(AtomicU64::new(count));
    for number in 0..count {
        let log = store.create(NewSession::default()).await?.log;
        sessions.push(tokio::spawn(work(log, number, Arc::clone(&idle))));
    }
    for session in sessions {
        session.await?;
    }
    Ok(())
}

/// Every other event is waited for, as before a side effect; the rest is left to the background. The last of those that are
/// idle says so when it is not.
async fn work(log: Arc<dyn SessionLog>, number: u64, idle: Arc<AtomicU64>) {
    let mut round = number;
    let mut is_idle = true;
    while let Ok(entry) = log.append(Note { text: format!("event {round} of a busy session") }.into()) {
        say("accepted", &*log, entry.seq);
        if round.is_multiple_of(2) && log.durable(entry.seq).await.is_ok() {
            say("durable", &*log, entry.seq);
            if std::mem::take(&mut is_idle) && idle.fetch_sub(1, Ordering::Relaxed) == 1 {
                let _ = writeln!(std::io::stderr().lock(), "all are at work");
            }
        }
        round += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn say(what: &str, log: &dyn SessionLog, seq: u64) {
    // Whoever reads it may be gone; then there is nobody to tell.
    let _ = writeln!(std::io::stdout().lock(), "[\"{what}\",\"{}\",{seq}]", log.id());
}

async fn open_all(store: &Arc<FileStore>) -> Result<(), Box<dyn Error>> {
    let sessions = store.list().await?;
    for session in &sessions {
        let log = store.open(session.id).await?.log;
        log.append(Note { text: "opened again".to_owned() }.into())?;
    }
    store.shutdown(Duration::from_secs(30)).await?;
    writeln!(std::io::stdout().lock(), "{}", sessions.len())?;
    Ok(())
}
