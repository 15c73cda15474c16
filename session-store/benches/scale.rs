//! Many sessions at once: one event to each, durable; one event a second to each; what an idle one costs; and a neighbour that
//! streams to the same disk. Beside it, in the same run, raw appends to as many files, and SQLite.
//!
//! `cargo bench -p longhand-session-store --bench scale -- FOLDER [--sessions 30000] [--seconds 60]`; the folder decides which disk is
//! measured. What was written is read back at the end.

#![expect(clippy::disallowed_methods, reason = "what is measured and checked is the real disk")]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use session_store::{Event, FileStore, FileStoreOptions, NewSession, SessionLog, SessionStore, UserMessage};
use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The allocator of the system, and how much of it is in use: what an idle session keeps is told apart from what is free again.
struct Counting;

static IN_USE: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature; each call is passed on as it came")]
// SAFETY: it is the system's allocator, with a counter beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Characters in each event; its line is about 150 bytes longer.
const TEXT: usize = 480;
/// Turns of the run with one event for each session.
const TURNS: usize = 5;
/// Every so manyth session is timed in the sustained runs.
const TIMED: usize = 30;
/// How often events come in the sustained runs.
const TICK: Duration = Duration::from_millis(10);
const WINDOW: Duration = Duration::from_millis(500);
/// Transactions of one event each.
const SINGLES: u64 = 2000;

struct Args {
    folder: PathBuf,
    sessions: usize,
    seconds: u64,
}

impl Args {
    fn parse() -> Outcome<Self> {
        let mut args = std::env::args().skip(1).filter(|argument| argument != "--bench");
        let mut parsed = Self { folder: std::env::temp_dir(), sessions: 30_000, seconds: 60 };
        while let Some(argument) = args.next() {
            match argument.as_str() {
                "--sessions" => parsed.sessions = args.next().ok_or("how many?")?.parse()?,
                "--seconds" => parsed.seconds = args.next().ok_or("how many?")?.parse()?,
                folder => parsed.folder = folder.into(),
            }
        }
        Ok(parsed)
    }
}

fn say() -> Event {
    UserMessage { text: "x".repeat(TEXT), ..UserMessage::default() }.into()
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn median(samples: &mut [Duration]) -> Duration {
    quantile(samples, 0.5)
}

fn quantile(samples: &mut [Duration], q: f64) -> Duration {
    samples.sort_unstable();
    samples.get(((samples.len().saturating_sub(1)) as f64 * q) as usize).copied().unwrap_or_default()
}

/// The memory that this process has in RAM.
fn resident_bytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? * 1024)
}

/// The processor time that this process has used.
fn cpu() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().ok_or("no fields")?.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Creates sessions, some at a time.
async fn create(store: &Arc<FileStore>, count: usize) -> Outcome<Vec<Arc<dyn SessionLog>>> {
    let mut tasks = Vec::new();
    for part in 0..16 {
        let store = Arc::clone(store);
        let here = count / 16 + usize::from(part < count % 16);
        tasks.push(tokio::spawn(async move {
            let mut logs = Vec::new();
            for _ in 0..here {
                logs.push(store.create(NewSession::default()).await?.log);
            }
            Ok::<_, session_store::StoreError>(logs)
        }));
    }
    let mut logs = Vec::new();
    for task in tasks {
        logs.extend(task.await??);
    }
    store.flush().await?;
    Ok(logs)
}

/// Files that raw appends go to.
struct Raw {
    paths: Vec<PathBuf>,
    /// All of them, where the limit of descriptors allows it.
    open: Vec<File>,
    volume: File,
    line: Vec<u8>,
}

impl Raw {
    fn new(folder: &Path, count: usize, line: Vec<u8>) -> Outcome<Self> {
        std::fs::create_dir_all(folder)?;
        let paths: Vec<PathBuf> = (0..count).map(|number| folder.join(number.to_string())).collect();
        // For the reference alone: the store took its share of the limit when it was opened.
        let wanted = Some(count as u64 + 4096);
        let limit = getrlimit(Resource::Nofile);
        let maximum = limit.maximum.max(wanted);
        if setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }).is_err() {
            setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
        }
        let is_enough = getrlimit(Resource::Nofile).current.is_none_or(|current| Some(current) >= wanted);
        let mut open = Vec::new();
        for path in &paths {
            let file = File::options().create(true).append(true).open(path)?;
            if is_enough {
                open.push(file);
            }
        }
        let volume = File::open(folder)?;
        rustix::fs::syncfs(&volume)?;
        Ok(Self { paths, open, volume, line })
    }

    fn append_to_each(&self) -> Outcome<Duration> {
        let started = Instant::now();
        if self.open.is_empty() {
            for path in &self.paths {
                File::options().append(true).open(path)?.write_all(&self.line)?;
            }
        } else {
            for mut file in &self.open {
                file.write_all(&self.line)?;
            }
        }
        rustix::fs::syncfs(&self.volume)?;
        Ok(started.elapsed())
    }
}

/// The same events in one database.
struct Sqlite {
    connection: rusqlite::Connection,
    line: Vec<u8>,
    rows: u64,
}

impl Sqlite {
    fn new(path: &Path, line: Vec<u8>) -> Outcome<Self> {
        let connection = rusqlite::Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE events (session INTEGER, seq INTEGER, line BLOB, PRIMARY KEY (session, seq)) WITHOUT ROWID",
        )?;
        Ok(Self { connection, line, rows: 0 })
    }

    /// One transaction with an event for each of `sessions`.
    fn transaction(&mut self, sessions: impl Iterator<Item = usize>) -> Outcome<Duration> {
        let started = Instant::now();
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3)")?;
            for session in sessions {
                insert.execute((session as i64, self.rows as i64, &self.line))?;
                self.rows += 1;
            }
        }
        transaction.commit()?;
        Ok(started.elapsed())
    }

    fn check(&self) -> Outcome<()> {
        let rows: i64 = self.connection.query_row("SELECT count(*) FROM events", (), |row| row.get(0))?;
        assert_eq!(rows as u64, self.rows);
        Ok(())
    }
}

/// One event to each session, durable, in turns with the references.
async fn one_to_each(store: &FileStore, logs: &[Arc<dyn SessionLog>], raw: &Raw, sqlite: &mut Sqlite) -> Outcome<()> {
    let (mut ours, mut theirs, mut database, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (event, before) = (say(), store.stats());
        let started = Instant::now();
        for log in logs {
            log.append(event.clone())?;
        }
        let accepted = started.elapsed();
        store.flush().await?;
        let took = started.elapsed();
        let bare = raw.append_to_each()?;
        let (volumes, syncs) = (store.stats().volume_syncs - before.volume_syncs, store.stats().syncs - before.syncs);
        println!(
            "    turn: {} (accepted in {}; {syncs} syncs, {volumes} of the file system), raw {}",
            ms(took),
            ms(accepted),
            ms(bare)
        );
        ours.push(took);
        theirs.push(bare);
        ratios.push(took.as_secs_f64() / bare.as_secs_f64());
        database.push(sqlite.transaction(0..logs.len())?);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let how = if raw.open.is_empty() { "each opened and closed" } else { "all open" };
    println!("one event to each of {} sessions, durable (median of {TURNS})", logs.len());
    println!("    store                                       {}  (bound: a window, 500 ms)", ms(median(&mut ours)));
    println!("    raw appends ({how}) and one syncfs      {}", ms(median(&mut theirs)));
    println!("    ratio                                       {:.2}  (bound 2)", ratios[TURNS / 2]);
    println!("    SQLite, WAL, FULL, one transaction          {}", ms(median(&mut database)));
    Ok(())
}

/// What a run of one event per second and session took.
struct Sustained {
    samples: Vec<Duration>,
    cpu: Duration,
    elapsed: Duration,
}

impl Sustained {
    fn print(&mut self, what: &str) {
        let (p50, p99) = (quantile(&mut self.samples, 0.5), quantile(&mut self.samples, 0.99));
        let max = self.samples.last().copied().unwrap_or_default();
        let cpu = self.cpu.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0;
        println!("    {what:<42}  p50 {}  p99 {}  max {}  CPU {cpu:.0}%", ms(p50), ms(p99), ms(max));
    }
}

/// Appends one event a second to each session, and times when those of every [`TIMED`]th are durable.
async fn sustained(logs: &[Arc<dyn SessionLog>], seconds: u64) -> Outcome<(Sustained, u64)> {
    let (before, started) = (cpu()?, Instant::now());
    let ticks = seconds * 1000 / TICK.as_millis() as u64;
    let (mut next, mut total) = (0, 0);
    let mut timed = Vec::new();
    for tick in 1..=ticks {
        let until = (logs.len() as u64 * tick * TICK.as_millis() as u64 / 1000) as usize;
        while next < until {
            let log = &logs[next % logs.len()];
            let accepted = Instant::now();
            let entry = log.append(say())?;
            total += 1;
            if next.is_multiple_of(TIMED) {
                let mut progress = log.progress();
                timed.push(tokio::spawn(async move {
                    let seen = progress.wait_for(|progress| progress.durable > entry.seq).await.is_ok();
                    seen.then(|| accepted.elapsed())
                }));
            }
            next += 1;
        }
        let due = started + TICK * tick as u32;
        tokio::time::sleep_until(due.into()).await;
    }
    let mut samples = Vec::new();
    for task in timed {
        samples.push(task.await?.ok_or("a log ended")?);
    }
    Ok((Sustained { samples, cpu: cpu()?.saturating_sub(before), elapsed: started.elapsed() }, total))
}

/// The same in a database: one transaction for what came in a window.
fn sustained_sqlite(sqlite: &mut Sqlite, sessions: usize, seconds: u64) -> Outcome<Sustained> {
    let (before, started) = (cpu()?, Instant::now());
    let interval = Duration::from_secs(1).as_secs_f64() / sessions as f64;
    let total = sessions * seconds as usize;
    let (mut next, mut samples, mut window) = (0, Vec::new(), 1);
    while next < total {
        if let Some(wait) = (started + WINDOW * window).checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        window += 1;
        let until = ((started.elapsed().as_secs_f64() / interval) as usize).min(total);
        let from = next;
        sqlite.transaction((from..until).map(|number| number % sessions))?;
        next = until;
        let durable = started.elapsed();
        let timed = (from..until).filter(|number| number.is_multiple_of(TIMED));
        samples.extend(timed.map(|number| durable.saturating_sub(Duration::from_secs_f64(number as f64 * interval))));
    }
    Ok(Sustained { samples, cpu: cpu()?.saturating_sub(before), elapsed: started.elapsed() })
}

/// A thread that writes one large file, again and again, as fast as the disk takes it.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<u64>>,
}

impl Neighbour {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let (chunk, mut bytes) = (vec![7; 1 << 20], 0);
                let mut file = File::create(path)?;
                while !stop.load(Ordering::Relaxed) {
                    file.write_all(&chunk)?;
                    bytes += chunk.len() as u64;
                    if bytes % (1 << 30) == 0 {
                        file.rewind()?;
                    }
                }
                Ok(bytes)
            }
        });
        Self { stop, thread }
    }

    fn end(self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the neighbour panicked")??)
    }
}

async fn read_back(store: &Arc<FileStore>, logs: &[Arc<dyn SessionLog>]) -> Outcome<u64> {
    let mut tasks = Vec::new();
    for part in logs.chunks(logs.len().div_ceil(4)) {
        let (store, part) = (Arc::clone(store), part.to_vec());
        tasks.push(tokio::spawn(async move {
            let mut events = 0;
            for log in part {
                let verified = store.verify(log.id()).await?;
                assert!(verified.ok, "{:?}", verified.problems);
                assert_eq!(verified.events, log.progress().borrow().durable);
                events += verified.events;
            }
            Ok::<_, session_store::StoreError>(events)
        }));
    }
    let mut events = 0;
    for task in tasks {
        events += task.await??;
    }
    Ok(events)
}

async fn run(args: &Args) -> Outcome<()> {
    let work = tempfile::tempdir_in(&args.folder)?;
    let store = Arc::new(FileStore::open(FileStoreOptions::new(work.path().join("store")))?);
    let warm = create(&store, 16).await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (before, in_use_before) = (resident_bytes()?, IN_USE.load(Ordering::Relaxed));
    let started = Instant::now();
    let logs = create(&store, args.sessions).await?;
    println!("{} sessions created in {:.1} s", logs.len(), started.elapsed().as_secs_f64());
    // The writer takes what an idle session does not need after 5 s.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let count = logs.len() as u64;
    let resident = resident_bytes()?.saturating_sub(before) / count;
    let in_use = IN_USE.load(Ordering::Relaxed).saturating_sub(in_use_before) / count;
    println!("memory of an open idle session                  {in_use} bytes in use (bound 1000), {resident} resident");

    let bytes_before = store.stats().bytes;
    warm[0].append(say())?;
    warm[0].flush().await?;
    let line = vec![b'x'; usize::try_from(store.stats().bytes - bytes_before)?];
    let raw = Raw::new(&work.path().join("raw"), args.sessions, line.clone())?;
    let mut sqlite = Sqlite::new(&work.path().join("events.sqlite"), line)?;
    one_to_each(&store, &logs, &raw, &mut sqlite).await?;
    drop(raw);

    let mut singles = Vec::new();
    for number in 0..SINGLES {
        singles.push(sqlite.transaction(std::iter::once(number as usize))?);
    }
    let all = median(&mut singles) * args.sessions as u32;
    let one = median(&mut singles);
    println!("    SQLite, one transaction for each event      {} each: {:.1} s for all", ms(one), all.as_secs_f64());

    println!("sustained, one event per second to each of {} sessions, {} s, accepted to durable", logs.len(), args.seconds);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut quiet, mut total) = sustained(&logs, args.seconds).await?;
    quiet.print("store (bound: p99 two windows, 1 s)");
    tokio::task::block_in_place(|| sustained_sqlite(&mut sqlite, args.sessions, args.seconds))?
        .print("SQLite, one transaction for each window");

    let seconds = (args.seconds / 3).clamp(5, 20);
    println!("the same beside a thread that streams a file on the same disk, {seconds} s");
    let neighbour = Neighbour::start(work.path().join("neighbour"));
    let (mut noisy, more) = sustained(&logs, seconds).await?;
    total += more;
    noisy.print("store");
    tokio::task::block_in_place(|| sustained_sqlite(&mut sqlite, args.sessions, seconds))?
        .print("SQLite, one transaction for each window");
    let streamed = neighbour.end()?;
    println!("    the neighbour wrote {} MB/s", streamed / (1 << 20) / (2 * seconds));

    sqlite.check()?;
    store.flush().await?;
    let found = read_back(&store, &logs).await?;
    assert_eq!(found, logs.len() as u64 * (2 + TURNS as u64) + total);
    let stats = store.stats();
    println!(
        "read back: {found} events; {} writes, {} syncs, {} of them of the file system; {} logs open",
        stats.writes, stats.syncs, stats.volume_syncs, stats.open_files
    );
    println!(
        "    p99 of a write {} us, of a file's sync {} us, of the file system's {} us, of a commit's {} us",
        stats.time_of_writes.quantile_micros(0.99),
        stats.time_of_file_syncs.quantile_micros(0.99),
        stats.time_of_volume_syncs.quantile_micros(0.99),
        stats.time_of_commits.quantile_micros(0.99)
    );
    drop((logs, warm));
    store.shutdown(Duration::from_secs(120)).await?;
    Ok(())
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    runtime.block_on(run(&args))
}
