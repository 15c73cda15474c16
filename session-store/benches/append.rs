//! What an event costs: to be accepted, and to become durable, each beside what the bare system does in the same run.
//!
//! `cargo bench -p longhand-session-store --bench append`; an argument names the folder to work in (default: a temporary
//! one), because a disk is what is measured. Each figure has a check of its result beside it.

#![expect(clippy::disallowed_methods, reason = "what is measured and checked is the real disk")]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use session_store::{Event, FileStore, FileStoreOptions, NewSession, SessionLog, SessionStore, UserMessage};
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of the throughput run, and the words in each.
const EVENTS: u64 = 1_000_000;
const WORDS: usize = 60;
/// Single events that are made durable one after the other.
const SINGLES: usize = 300;
/// Batches of the durable run, of this many events of about 600 bytes.
const BATCHES: usize = 100;
const BATCH_EVENTS: usize = 200;
const EVENT_BYTES: usize = 600;

fn say(bytes: usize) -> Event {
    UserMessage { text: "x".repeat(bytes), ..UserMessage::default() }.into()
}

fn quantile(samples: &mut [Duration], q: f64) -> Duration {
    samples.sort_unstable();
    samples[((samples.len() - 1) as f64 * q) as usize]
}

fn store(folder: &Path, name: &str) -> Result<FileStore, Box<dyn Error>> {
    Ok(FileStore::open(FileStoreOptions::new(folder.join(name)))?)
}

async fn create(store: &FileStore) -> Result<Arc<dyn SessionLog>, Box<dyn Error>> {
    let log = store.create(NewSession::default()).await?.log;
    log.flush().await?;
    Ok(log)
}

/// Accepts events as fast as it goes, while another task keeps the disk syncing. Where the buffer is full it waits, and
/// the wait is not counted as the cost of an append, but as time of the run.
async fn accept(folder: &Path) -> Result<(), Box<dyn Error>> {
    let store = store(folder, "accept")?;
    let log = create(&store).await?;
    let syncing = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { while log.flush().await.is_ok() && log.progress().borrow().accepted < EVENTS + 2 {} })
    };
    let event = say(WORDS);
    let mut samples = Vec::with_capacity(usize::try_from(EVENTS)?);
    let (started, mut waited) = (Instant::now(), Duration::ZERO);
    for _ in 0..EVENTS {
        loop {
            let event = event.clone();
            let before = Instant::now();
            let outcome = log.append(event);
            samples.push(before.elapsed());
            match outcome {
                Ok(_) => break,
                Err(_) => {
                    samples.pop();
                    log.reserve(1 << 20).await?;
                    waited += before.elapsed();
                }
            }
        }
    }
    let elapsed = started.elapsed();
    syncing.await?;
    log.flush().await?;
    let (p50, p99) = (quantile(&mut samples, 0.5), quantile(&mut samples, 0.99));
    let rate = EVENTS as f64 / elapsed.as_secs_f64();
    println!("append, disk syncing    median {p50:?}  p99 {p99:?} (bound 5 us)");
    println!("                        {rate:.0} events/s in all, {waited:?} of it waiting for room (bound 500,000)");
    let stats = store.stats();
    println!("                        {} syncs meanwhile; read back: {} events", stats.syncs, count(&store, &*log).await?);
    store.shutdown(Duration::from_secs(60)).await?;
    Ok(())
}

async fn count(store: &FileStore, log: &dyn SessionLog) -> Result<u64, Box<dyn Error>> {
    let verified = store.verify(log.id()).await?;
    assert!(verified.ok, "what was written is sound: {:?}", verified.problems);
    Ok(verified.events)
}

/// One event at a time, each durable before the next, beside a bare write and fdatasync of the same bytes. The two take turns, so
/// that both see the same disk.
async fn singles(folder: &Path) -> Result<(), Box<dyn Error>> {
    let store = store(folder, "singles")?;
    let log = create(&store).await?;
    let mut bare = std::fs::File::create(folder.join("bare-singles"))?;
    let line = vec![b'x'; 160];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..SINGLES {
        // Idle: whatever the last one left to do is done.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let before = Instant::now();
        let entry = log.append(say(WORDS))?;
        log.durable(entry.seq).await?;
        ours.push(before.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
        let before = Instant::now();
        bare.write_all(&line)?;
        bare.sync_data()?;
        theirs.push(before.elapsed());
    }
    for (name, q) in [("median", 0.5), ("p99", 0.99)] {
        let (ours, theirs) = (quantile(&mut ours, q), quantile(&mut theirs, q));
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!("durable, one, idle      {name} {ours:?}  bare {theirs:?}  ratio {ratio:.2} (bound 1.5)");
    }
    println!("                        read back: {} events", count(&store, &*log).await?);
    store.shutdown(Duration::from_secs(60)).await?;
    Ok(())
}

/// Batches of events, each durable before the next, beside a bare loop with the same bytes for each batch.
async fn batches(folder: &Path) -> Result<(), Box<dyn Error>> {
    let store = store(folder, "batches")?;
    let log = create(&store).await?;
    let mut bare = std::fs::File::create(folder.join("bare-batches"))?;
    let event = say(EVENT_BYTES - 100);
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BATCHES {
        let bytes_before = store.stats().bytes;
        let before = Instant::now();
        let mut last = 0;
        for _ in 0..BATCH_EVENTS {
            last = log.append(event.clone())?.seq;
        }
        log.durable(last).await?;
        ours += before.elapsed();
        let line = vec![b'x'; usize::try_from(store.stats().bytes - bytes_before)?];
        let before = Instant::now();
        bare.write_all(&line)?;
        bare.sync_data()?;
        theirs += before.elapsed();
    }
    let rate = |time: Duration| (BATCHES * BATCH_EVENTS) as f64 / time.as_secs_f64();
    let ratio = rate(ours) / rate(theirs);
    println!(
        "durable, {BATCH_EVENTS} at a time  {:.0} events/s  bare {:.0}  ratio {ratio:.2} (bound 0.5)",
        rate(ours),
        rate(theirs)
    );
    println!("                        read back: {} events", count(&store, &*log).await?);
    store.shutdown(Duration::from_secs(60)).await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = named.map_or_else(|| temporary.path().to_path_buf(), Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    runtime.block_on(async {
        accept(&folder).await?;
        singles(&folder).await?;
        batches(&folder).await
    })
}
