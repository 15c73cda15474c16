//! Power cuts for real: ext4, xfs and btrfs on a loop device whose backing file is copied while a process writes sessions.
//!
//! **How.** The backing file lies on an xfs of its own, which can clone a file (`FICLONE`). A clone waits for the writes that are under way and holds
//! off those that come, so it is the device at one instant; a copy that takes its time would hold blocks of several instants, and what it shows no power
//! cut could have left. The writer says on a pipe what is durable, and a clone that begins after a word was read must hold what it said.
//! When all clones are made, the writer is killed, and each clone is mounted (its journal is replayed then) and opened by a store.
//!
//! **What a clone is.** All that the file system had sent to the device, and nothing of what was only in its page cache: a disk that keeps what it
//! acknowledged, flushed or not, cut off at that instant. A disk that loses acknowledged writes until they are flushed is not modelled here, but by the
//! store's own crash tests, where any unsynced write may be missing.
//!
//! A file system that is frozen, with a process in it, is tried here as well.
//!
//! It needs root, loop devices and the `mkfs` of each file system; without them a test says so and passes. `LONGHAND_POWER_COPIES` is how many clones
//! are made of each file system (5).

#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "what is tried is the real disk")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what it did, and fails where it unwraps, in its helpers too"
)]

use rustix::mount::{UnmountFlags, unmount};
use session_store::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// In the environment of the writer: the home of its store.
const HOME: &str = "LONGHAND_POWER_HOME";
/// There too: its file system says that it syncs, and does not.
const LIES: &str = "LONGHAND_POWER_LIES";
/// How long anything may take that has to happen.
const LIMIT: Duration = Duration::from_secs(60);

/// One test at a time: mounting is the whole machine's.
static MOUNTS: Mutex<()> = Mutex::new(());

#[test]
fn what_was_durable_on_ext4_is_there_after_a_power_cut() {
    assert_holds("ext4");
}

#[test]
fn what_was_durable_on_xfs_is_there_after_a_power_cut() {
    assert_holds("xfs");
}

#[test]
fn what_was_durable_on_btrfs_is_there_after_a_power_cut() {
    assert_holds("btrfs");
}

/// These tests can fail.
#[test]
fn a_store_that_does_not_sync_is_caught() {
    if let Some(broken) = try_on("ext4", true) {
        assert!(!broken.is_empty(), "nothing was synced, and nothing is missing");
    }
}

/// No call to a frozen file system returns: that is what a disk does that does not answer.
#[test]
fn a_file_system_that_does_not_answer_is_told_and_rescued_from_and_gone_on_with() {
    let _one_at_a_time = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::TempDir::with_prefix("longhand-frozen-").unwrap();
    let disk = match made_and_mounted(&folder.path().join("disk.img"), 64 << 20, "ext4", &folder.path().join("disk")) {
        Ok(disk) => disk,
        Err(why) => return drop(skipped("ext4", &why)),
    };
    runtime().block_on(async {
        let mut options = FileStoreOptions::new(disk.path.join("home"));
        let alone = FileStore::open(options.clone()).unwrap();
        options.rescue_dir = Some(folder.path().join("rescue"));
        let rescued = FileStore::open(options).unwrap();
        let mut logs = Vec::new();
        for store in [&alone, &rescued] {
            let log = store.create(NewSession::default()).await.unwrap().log;
            log.flush().await.unwrap();
            logs.push(log);
        }
        let frozen = match Frozen::new(&disk.path) {
            Ok(frozen) => frozen,
            Err(why) => return drop(skipped("ext4", &why)),
        };
        let last: Vec<Seq> = logs.iter().map(|log| log.append(say(log.id(), 2)).unwrap().seq).collect();
        soon(logs[0].progress().wait_for(|progress| progress.stalled)).await.unwrap();
        soon(logs[1].durable(last[1])).await.unwrap();
        let progress = logs[1].progress().borrow().clone();
        assert!(progress.rescued.is_some() && progress.trouble.is_none() && !progress.stalled, "{progress:?}");
        assert_eq!(logs[0].progress().borrow().durable, last[0], "nobody says that it is there");
        drop(frozen);
        for (store, log) in [&alone, &rescued].into_iter().zip(&logs) {
            let is_well = |progress: &Progress| !progress.stalled && progress.rescued.is_none() && progress.durable > 2;
            soon(log.progress().wait_for(is_well)).await.unwrap();
            soon(store.shutdown(LIMIT)).await.unwrap();
            assert!(store.verify(log.id()).await.unwrap().ok);
            assert_eq!(has_all(store, log.id(), 2).await.unwrap(), None);
        }
        assert_eq!(fs::read_dir(folder.path().join("rescue")).unwrap().count(), 0);
    });
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it hangs")
}

/// A file system of which no call returns that changes it, while this lives.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: &Path) -> Result<Self, String> {
        run(Command::new("fsfreeze").arg("--freeze").arg(path))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0)).expect("or it never ends");
    }
}

#[track_caller]
fn assert_holds(kind: &str) {
    if let Some(broken) = try_on(kind, false) {
        assert!(broken.is_empty(), "{kind}: {broken:#?}");
    }
}

/// Clones a disk at random instants while sessions are written to it, and says what is wrong with the clones; nothing where it cannot be tried here.
fn try_on(kind: &str, lies: bool) -> Option<Vec<String>> {
    let _one_at_a_time = MOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let copies = std::env::var("LONGHAND_POWER_COPIES").map_or(5, |number| number.parse().expect("a number"));
    let folder = tempfile::TempDir::with_prefix("longhand-power-").unwrap();
    let outer = match made_and_mounted(&folder.path().join("outer.img"), 4 << 30, "xfs", &folder.path().join("outer")) {
        Ok(outer) => outer,
        Err(why) => return skipped(kind, &why),
    };
    let (image, inner) = (outer.path.join("disk.img"), folder.path().join("disk"));
    let disk = match made_and_mounted(&image, 512 << 20, kind, &inner) {
        Ok(disk) => disk,
        Err(why) => return skipped(kind, &why),
    };
    let mut writer = Writer::start(&disk.path.join("home"), lies);
    let mut clones = Vec::new();
    let mut rng = fastrand::Rng::new();
    for number in 0..copies {
        writer.wait_for_more();
        std::thread::sleep(Duration::from_millis(rng.u64(..150)));
        let clone = outer.path.join(format!("clone-{number}.img"));
        // What was said by now is in it.
        let said = writer.said();
        let made = fs::File::create(&clone).and_then(|new| Ok(rustix::fs::ioctl_ficlone(new, fs::File::open(&image)?)?));
        if let Err(error) = made {
            return skipped(kind, &format!("a file cannot be cloned: {error}"));
        }
        clones.push((clone, said));
    }
    let removals = writer.end().removing;
    // A clone has the identity of its original, and two of one identity cannot be mounted at the same time.
    drop(disk);
    let mut broken = Vec::new();
    let (mut events, mut sessions) = (0, 0);
    for (clone, mut said) in clones {
        // Its removal may have begun before the clone was made, and the word been read after.
        said.sessions.retain(|id, _| !removals.contains(id));
        let disk = Mounted::new(&clone, &inner).expect("a journal is replayed");
        let wrong = runtime().block_on(check(&disk.path.join("home"), &said));
        events += said.sessions.values().map(|last| last + 1).sum::<u64>();
        sessions += said.sessions.len();
        broken.extend(wrong.into_iter().map(|what| format!("{}: {what}", clone.display())));
        drop(disk);
        fs::remove_file(clone).unwrap();
    }
    println!("{kind}: {copies} clones with {sessions} sessions and {events} durable events, {} things wrong", broken.len());
    Some(broken)
}

fn skipped(kind: &str, why: &str) -> Option<Vec<String>> {
    println!("skipped: no {kind} of a test's own can be made and cloned here ({why})");
    None
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A file system on a loop device, there while this lives.
struct Mounted {
    path: PathBuf,
}

fn made_and_mounted(image: &Path, bytes: u64, kind: &str, at: &Path) -> Result<Mounted, String> {
    let quiet_and_forced = match kind {
        "ext4" => ["-q", "-F"],
        _ => ["-q", "-f"],
    };
    let file = fs::File::create(image).map_err(|error| error.to_string())?;
    // An image begins with a hole.
    rustix::fs::ftruncate(file, bytes).map_err(|error| error.to_string())?;
    run(Command::new(format!("mkfs.{kind}")).args(quiet_and_forced).arg(image))?;
    Mounted::new(image, at)
}

impl Mounted {
    fn new(image: &Path, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        // Its loop device goes with the mount.
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        Ok(Self { path: at.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that was just killed may still be about to close its files.
        let until = Instant::now() + Duration::from_secs(5);
        while unmount(&self.path, UnmountFlags::empty()) == Err(rustix::io::Errno::BUSY) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ")),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    }
}

/// What the writer said.
#[derive(Clone, Debug, Default)]
struct Said {
    /// The last durable event of each session.
    sessions: BTreeMap<SessionId, Seq>,
    /// About to be removed.
    removing: Vec<SessionId>,
    removed: Vec<SessionId>,
    /// Lines in all.
    count: u64,
}

/// The process that writes.
struct Writer {
    process: Child,
    said: Arc<Mutex<Said>>,
    listener: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(home: &Path, lies: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_writer_that_the_other_tests_start", "--ignored", "--nocapture"]);
        command.env(HOME, home).stdin(Stdio::null()).stdout(Stdio::piped());
        if lies {
            command.env(LIES, "1");
        }
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = Arc::<Mutex<Said>>::default();
        let hears = Arc::clone(&said);
        let listener = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test harness has words of its own before the first.
                let Some(words) = line.split_once('#').map(|(_, words)| words.split(' ').collect::<Vec<_>>()) else { continue };
                let mut said = hears.lock().unwrap();
                let id: SessionId = words[1].parse().unwrap();
                match words[0] {
                    "durable" => {
                        said.sessions.insert(id, words[2].parse().unwrap());
                    }
                    "removing" => said.removing.push(id),
                    "removed" => said.removed.push(id),
                    other => panic!("the writer said {other}"),
                }
                said.count += 1;
            }
        });
        Self { process, said, listener: Some(listener) }
    }

    fn said(&self) -> Said {
        self.said.lock().unwrap().clone()
    }

    fn wait_for_more(&mut self) {
        let (before, until) = (self.said().count, Instant::now() + LIMIT);
        while self.said().count < before + 3 {
            assert!(Instant::now() < until && self.process.try_wait().unwrap().is_none(), "the writer stopped");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Writer {
    /// Kills it, and gives all that it ever said.
    fn end(mut self) -> Said {
        self.kill();
        self.said()
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the event `seq` says, so that who reads it knows whether it is the one that was written.
fn words(id: SessionId, seq: Seq) -> String {
    let length = if seq.is_multiple_of(7) { 400 } else { 3 };
    format!("{id} {seq} {}", "more ".repeat(length))
}

fn say(id: SessionId, seq: Seq) -> Event {
    UserMessage { text: words(id, seq), ..UserMessage::default() }.into()
}

/// Not a test: what the others start as a process of its own. It writes until it is killed.
#[test]
#[ignore = "the other tests start it"]
fn the_writer_that_the_other_tests_start() {
    let Some(home) = std::env::var_os(HOME) else { return };
    let mut options = FileStoreOptions::new(home);
    options.line_bytes_max = 1024;
    options.window = Duration::from_millis(20);
    if std::env::var_os(LIES).is_some() {
        options.fs = Arc::new(LyingFs);
    }
    let store = Arc::new(FileStore::open(options).unwrap());
    runtime().block_on(async {
        let mut sessions = tokio::task::JoinSet::new();
        for seed in 0..6 {
            let store = Arc::clone(&store);
            sessions.spawn(async move { write(&store, fastrand::Rng::with_seed(seed)).await });
        }
        while let Some(ended) = sessions.join_next().await {
            ended.unwrap();
        }
    });
}

fn tell(line: &str) {
    // Nobody listens any more: the test is over.
    let mut out = io::stdout().lock();
    if writeln!(out, "#{line}").and_then(|()| out.flush()).is_err() {
        panic!("nobody listens");
    }
}

async fn write(store: &FileStore, mut rng: fastrand::Rng) {
    let mut log = store.create(NewSession::default()).await.unwrap().log;
    loop {
        let id = log.id();
        let mut last = 0;
        for _ in 0..rng.u32(1..6) {
            let next = log.progress().borrow().accepted;
            last = log.append(say(id, next)).unwrap().seq;
        }
        if rng.u8(..3) > 0 {
            log.durable(last).await.unwrap();
            tell(&format!("durable {id} {last}"));
        }
        match rng.u8(..24) {
            0 => log = store.fork(id, None).await.unwrap().log,
            1 => {
                log.close().await.unwrap();
                tell(&format!("durable {id} {}", last + 1));
                log = store.open(id).await.unwrap().log;
            }
            2 => {
                log.close().await.unwrap();
                tell(&format!("removing {id}"));
                store.remove(id).await.unwrap();
                tell(&format!("removed {id}"));
                log = store.create(NewSession::default()).await.unwrap().log;
            }
            3 => {
                log.close().await.unwrap();
                tell(&format!("durable {id} {}", last + 1));
                log = store.create(NewSession::default()).await.unwrap().log;
            }
            _ => {}
        }
    }
}

/// Holds a disk against what was said.
async fn check(home: &Path, said: &Said) -> Vec<String> {
    let mut wrong = Vec::new();
    let store = FileStore::open(FileStoreOptions::new(home)).unwrap();
    let listed: Vec<SessionId> = match store.list().await {
        Ok(list) => list.iter().map(|summary| summary.id).collect(),
        Err(error) => return vec![format!("nothing can be listed: {error}")],
    };
    wrong.extend(said.removed.iter().filter(|id| listed.contains(id)).map(|id| format!("{id} was removed, and is there")));
    for (id, last) in &said.sessions {
        match has_all(&store, *id, *last).await {
            Ok(Some(seq)) => wrong.push(format!("{id}: event {seq} of {last} was durable, and is not there")),
            Ok(None) => {}
            Err(error) => wrong.push(format!("{id} cannot be read: {error}")),
        }
    }
    for id in listed {
        if let Err(what) = goes_on(&store, id).await {
            wrong.push(format!("{id} does not go on: {what}"));
        }
    }
    if let Err(error) = store.shutdown(LIMIT).await {
        wrong.push(error.to_string());
    }
    wrong
}

/// The first event that is missing up to `last`.
async fn has_all(store: &FileStore, id: SessionId, last: Seq) -> Result<Option<Seq>, StoreError> {
    let mut found = BTreeMap::new();
    let mut reader = store.read(id, 0).await?;
    while let Some(entry) = reader.next().await? {
        found.insert(entry.seq, entry);
    }
    let is_whole = |entry: &Entry| match &entry.event {
        // Of a fork, the first messages are its parent's.
        Event::UserMessage(message) => entry.sound && message.text.contains(&format!(" {} more", entry.seq)),
        Event::Unknown(_) => false,
        _ => entry.sound,
    };
    Ok((0..=last).find(|seq| !found.get(seq).is_some_and(|entry| is_whole(entry))))
}

async fn goes_on(store: &FileStore, id: SessionId) -> Result<(), String> {
    let opened = store.open(id).await.map_err(|error| error.to_string())?;
    let next = opened.log.progress().borrow().accepted;
    opened.log.append(say(id, next)).map_err(|error| error.to_string())?;
    opened.log.close().await.map_err(|error| error.to_string())?;
    let verified = store.verify(id).await.map_err(|error| error.to_string())?;
    match verified.problems.iter().find(|problem| problem.kind == ProblemKind::TornTail) {
        Some(problem) => Err(format!("{problem:?}")),
        None => Ok(()),
    }
}

/// The file system of the machine, whose syncs do nothing.
struct LyingFs;

struct LyingFile(Arc<dyn File>);

impl FileSystem for LyingFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(LyingFile(RealFs.open(path, mode)?)))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealFs.stat(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealFs.read_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }

    fn locks_are_trusted(&self, path: &Path) -> bool {
        RealFs.locks_are_trusted(path)
    }
}

impl File for LyingFile {
    fn stat(&self) -> io::Result<Stat> {
        self.0.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.append(parts)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.0.is_locked()
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }
}
