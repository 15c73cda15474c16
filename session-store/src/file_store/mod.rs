//! Sessions in files: one log for each, below `sessions/`, and a file in `owners/` for each process that writes.
//!
//! ```text
//!   sessions/YYYY/MM/DD/<id>.jsonl        the log
//!   sessions/YYYY/MM/DD/<id>.jsonl.zst    the log of a cold session, or the cold part of one
//!   sessions/YYYY/MM/DD/<id>/             what is too large for a line, by its SHA-256
//!   archive/YYYY/MM/DD/                   cold sessions that the list does not show
//!   owners/<writer>                       locked as long as its process lives
//!   owners/<writer>.asks/<id>             somebody asks it to let go of a session
//!   ballast                               given up when the disk is full
//! ```
//!
//! **Promises.** An accepted event is written within one window and durable soon after, at once where somebody waits; a
//! `kill -9` costs at most the last window, a power cut at most that and two syncs, and nothing that was reported durable. A
//! log never shrinks and no byte of a record ever changes. Whatever a log holds, it lists, reads and opens. Two
//! processes never write one log. A write or a sync that fails is told at once through [`Progress::trouble`](crate::Progress::trouble), tried again each window,
//! and nothing is thrown away.
//!
//! **Parties.** Appends put lines into a session's buffer ([`buffer`]); three threads take them to the disk ([`engine`], [`writer`],
//! [`syncer`]); one notices when it does not answer ([`stall`]), and one takes them to another disk ([`rescue`]); everything that reads or opens runs on the runtime's blocking threads ([`open`], [`read`], [`follow`], [`list`]).
//!
//! **What reading costs.** Opening reads the end of a log, from its newest checkpoint on, and the bodies of the context ([`tail`]); the list reads
//! the last line of each log ([`list`]). Neither has an index that could be wrong.
//!
//! **What it does not do.** It does not keep what was accepted through a
//! `kill -9` within the window, nor defend against a process that ignores the ownership.

mod archive;
mod ask;
mod ballast;
mod buffer;
mod cold;
mod cost;
mod device;
mod engine;
mod fate;
mod files;
mod folders;
mod follow;
mod fork;
mod fragment;
mod frames;
mod house;
mod import;
mod lane;
mod layout;
mod list;
mod list_index;
mod log;
mod open;
mod owner;
mod part;
mod raw;
mod read;
mod repair;
mod rescue;
mod session;
mod sides;
mod stale;
mod stall;
mod stop;
mod summary;
mod syncer;
mod tail;
mod text;
mod verify;
mod writer;

pub use cold::{Compressed, KeepCold, Kept};
pub use house::{Quota, SessionSpace, Space};
pub use owner::Machine;
pub use raw::RawLog;
pub use repair::{Advance, Mended, Repair, RepairAction};
pub use stale::StaleLines;

use crate::error::{ShutdownError, StoreError};
use crate::event::{Entry, Event, SessionStarted, SideRef};
use crate::fs::{FileSystem, RealFs};
use crate::id::{Place, Seq, SessionId};
use crate::state::State;
use crate::stats::StoreStats;
use crate::store::{
    EntryReader, FillImport, Loaded, NewImport, NewSession, OpenSession, SessionLog, SessionStore, SessionSummary, Verified,
};
use crate::time::{Clock, SystemClock};
use async_trait::async_trait;
use buffer::Buffer;
use engine::{Core, Engine, Holding};
use follow::Entries;
use log::{Accepted, FileLog};
use open::{Reservation, Taken};
use read::LogReader;
use session::Session;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stop::{Stop, StopOnDrop};
use text::Files;

/// A session that took more than this to be folded gets a checkpoint when it is opened.
const LONG_BYTES: u64 = 4 << 20;

/// How long a shutdown waits, beyond its limit, for what comes last and may be left undone.
const LAST_WORK_LIMIT: Duration = Duration::from_millis(500);

/// How a [`FileStore`] works. [`FileStoreOptions::new`] has the defaults.
#[derive(Clone)]
#[non_exhaustive]
pub struct FileStoreOptions {
    /// The folder that holds `sessions/` and `owners/`; made when the first session is.
    pub home: PathBuf,
    /// The program and its version, as `longhand 0.1.0`, to name the holder of a session.
    pub program: String,
    /// The longest time from accepted to written. 500 ms.
    pub window: Duration,
    /// The most bytes of one session that may be accepted and not yet durable. 64 MiB.
    pub session_bytes_max: u64,
    /// The same for all sessions together. 1 GiB.
    pub store_bytes_max: u64,
    /// What closing events may take beyond both bounds, so that a session can always say how it ended. 1 MiB.
    pub closing_bytes: u64,
    /// The longest line; the fields of an event that would make a longer one go into a side file. 1 MiB, which no reader should
    /// have to exceed; less is for tests.
    pub line_bytes_max: usize,
    /// What all files of the store together should take at most, in bytes; nothing: as much as there is. No session is refused for
    /// it: [`FileStore::quota`] says how much is used, for whoever talks with a person.
    pub quota_bytes: Option<u64>,
    /// Where the time of events comes from.
    pub clock: Arc<dyn Clock>,
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// Who this process is.
    pub machine: Machine,
    /// Another folder, on another disk, that takes what the home's disk does not: `<id>.<epoch>.jsonl` for each session in need, taken
    /// in again when the disk works, or when the session is opened next with the same folder. None unless it is set.
    pub rescue_dir: Option<PathBuf>,
    /// How long the file of a session may be gone, though the disk that it was on is there, until the session is given up. 1 minute.
    pub gone_after: Duration,
    /// The length of a file in the home that is given up when the disk is full, so that sessions can say how they ended; 0: none.
    /// Made where there is plenty of room. 1 MiB.
    pub ballast_bytes: u64,
}

impl FileStoreOptions {
    /// The defaults, for the store in `home`.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            program: concat!("session-store ", env!("CARGO_PKG_VERSION")).to_owned(),
            window: Duration::from_millis(500),
            session_bytes_max: 64 << 20,
            store_bytes_max: 1 << 30,
            closing_bytes: 1 << 20,
            line_bytes_max: 1 << 20,
            quota_bytes: None,
            clock: Arc::new(SystemClock),
            fs: Arc::new(RealFs),
            machine: Machine::here(),
            rescue_dir: None,
            gone_after: Duration::from_secs(60),
            ballast_bytes: 1 << 20,
        }
    }
}

impl std::fmt::Debug for FileStoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileStoreOptions").field("home", &self.home).field("window", &self.window).finish_non_exhaustive()
    }
}

/// Sessions in files. Dropping the store and all its logs lets its threads write and sync what they have, without
/// waiting for them, and for some more windows where the disk fails; [`SessionStore::shutdown`] waits.
pub struct FileStore {
    engine: Arc<Engine>,
}

impl FileStore {
    /// A store. Makes nothing: what is not there is made with the first session, and a home that cannot be written can be
    /// read.
    ///
    /// # Errors
    /// Where the home is a file.
    pub fn open(options: FileStoreOptions) -> Result<Self, StoreError> {
        if options.fs.stat(&options.home).is_ok_and(|found| found.is_file) {
            return Err(StoreError::io("use", &options.home)(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self { engine: Arc::new(Engine::new(options)) })
    }

    /// What the store's files take. Looks at the name and the length of each file and reads none: some microseconds for each.
    ///
    /// # Errors
    /// Where a folder of the store cannot be read.
    pub async fn space(&self) -> Result<Space, StoreError> {
        self.blocking(|core| house::space(core)).await
    }

    /// The folder in which it keeps everything.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.engine.core.options.home
    }

    /// Whether there is a quota.
    #[must_use]
    pub fn has_quota(&self) -> bool {
        self.engine.core.options.quota_bytes.is_some()
    }

    /// How much of the quota is used; nothing where there is none. As costly as [`FileStore::space`]: ask beside other work.
    ///
    /// # Errors
    /// Where a folder of the store cannot be read.
    pub async fn quota(&self) -> Result<Option<Quota>, StoreError> {
        let Some(limit_bytes) = self.engine.core.options.quota_bytes else { return Ok(None) };
        Ok(Some(Quota { used_bytes: self.space().await?.total(), limit_bytes }))
    }

    /// [`SessionStore::verify`], which tells `advance` of the bytes of the log that were read.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn verify_with(&self, id: SessionId, advance: Advance) -> Result<Verified, StoreError> {
        self.blocking(move |core| verify::verify(core, id, &advance)).await
    }

    /// What [`FileStore::repair`] would do; changes nothing, and works on a session that is held. `advance` is told of the bytes that are read
    /// besides those that [`SessionStore::verify`] reads: the log's length, once.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn plan_repair(&self, id: SessionId, advance: Advance) -> Result<Repair, StoreError> {
        let problems = self.verify(id).await?.problems;
        self.blocking(move |core| repair::plan(core, id, problems, &advance)).await
    }

    /// Writes the log of a session again without what [`SessionStore::verify`] finds wrong with it, after it has kept the log as it was in the folder
    /// `repaired` of the home. What readers make of the session stays the same. A log without problems is not touched. Dropping
    /// the future does not stop it. `advance` is told of the bytes that are read besides those that `verify` reads: about three times
    /// the log's length.
    ///
    /// # Errors
    /// [`StoreError::Held`] while it is open for writing anywhere; why it could not be read or written: then the log is as it was.
    pub async fn repair(&self, id: SessionId, advance: Advance) -> Result<Repair, StoreError> {
        self.settle(id).await?;
        let problems = self.verify(id).await?.problems;
        let engine = Arc::clone(&self.engine);
        let (outcome, owned) = self
            .blocking(move |core| {
                let reservation = Reservation::new(core, id)?;
                let repair::Attempt { outcome, owned } = repair::repair(core, id, problems, &advance);
                drop(reservation);
                let Some(session) = owned else { return Ok((outcome, None)) };
                engine.serve(&session.device)?;
                // Where nobody waits any more, the drop of this lets go of the session.
                Ok((outcome, Some(FileLog { engine, session })))
            })
            .await?;
        if let Some(log) = owned {
            log.close().await?;
        }
        outcome
    }

    /// What stale writers of a session left behind (writers that were suspended and overtaken, or whose events were rescued and do not continue the log), oldest
    /// first. Reads the whole log.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn stale_lines(&self, id: SessionId) -> Result<Vec<StaleLines>, StoreError> {
        self.blocking(move |core| Ok(stale::find(core, id)?.into_iter().map(|stale| stale.lines).collect())).await
    }

    /// Creates a session of what a stale writer of `parent` left behind: the lines that both have, and the stale writer's own, copied byte for byte. Works on a session
    /// that is held.
    ///
    /// # Errors
    /// [`StoreError::NothingStale`] where these lines are not there any more.
    pub async fn fork_stale(&self, parent: SessionId, lines: StaleLines) -> Result<OpenSession, StoreError> {
        self.take_fork(Arc::new(|_| {}), move |core, id, watch| fork::fork_stale(core, parent, lines, id, watch)).await
    }

    /// [`SessionStore::fork`], which tells `advance` of the bytes of the log that were copied.
    ///
    /// # Errors
    /// As of that.
    pub async fn fork_with(&self, parent: SessionId, at: Option<Seq>, advance: Advance) -> Result<OpenSession, StoreError> {
        let of_parent = self.all_sessions().into_iter().find(|session| session.id == parent);
        if let Some(session) = of_parent {
            // What cannot be written now is not in the fork; the parent's owner is told why.
            let accepted = lock(&session.buffer).accepted;
            self.engine.core.commit(&session, accepted);
            let _ = session.until(|buffer| buffer.written.max(buffer.rescued) >= accepted).await;
        }
        self.take_fork(advance, move |core, id, watch| fork::fork(core, parent, at, id, watch)).await
    }

    /// Runs `work` on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Core>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let core = Arc::clone(&self.engine.core);
        let home = core.options.home.clone();
        let outcome = tokio::task::spawn_blocking(move || work(&core)).await;
        outcome.map_err(|error| StoreError::io("use", home)(io::Error::other(error.to_string())))?
    }

    /// Takes a session with `work`, while nobody else in this process does anything with it. What was taken is let go
    /// again where the caller is no longer there to get it.
    async fn take(
        &self,
        id: SessionId,
        work: impl FnOnce(&Arc<Core>) -> Result<Taken, StoreError> + Send + 'static,
    ) -> Result<OpenSession, StoreError> {
        self.settle(id).await?;
        let engine = Arc::clone(&self.engine);
        self.blocking(move |core| {
            let reservation = Reservation::new(core, id)?;
            hand_over(engine, reservation, work(core)?)
        })
        .await
    }

    /// Makes a new session with `work`, and takes it. Dropping the future, or shutting the store down, calls it off.
    async fn take_fork(
        &self,
        advance: Advance,
        work: impl FnOnce(&Arc<Core>, SessionId, &fork::Watch<'_>) -> Result<Taken, StoreError> + Send + 'static,
    ) -> Result<OpenSession, StoreError> {
        let id = SessionId::new(self.engine.core.options.clock.now());
        let engine = Arc::clone(&self.engine);
        let stop = StopOnDrop::default();
        let raised = stop.flag();
        self.blocking(move |core| {
            let reservation = Reservation::for_long_work(core, id, &raised)?;
            let taken = work(core, id, &fork::Watch { stop: &raised, advance: &advance })?;
            hand_over(engine, reservation, taken)
        })
        .await
    }

    /// Waits for what a log that was dropped in this process still has to write, and calls off its compression.
    async fn settle(&self, id: SessionId) -> Result<(), StoreError> {
        let core = &self.engine.core;
        let released = loop {
            let let_go = core.let_go.notified();
            tokio::pin!(let_go);
            // From here on no wake-up is missed.
            let_go.as_mut().enable();
            match lock(&core.sessions).get(&id) {
                Some(Holding::Released(session)) => break Arc::clone(session),
                Some(Holding::LongWork(stop)) => stop.raise(),
                _ => return Ok(()),
            }
            let_go.await;
        };
        let flushed = log::flush(core, &released).await;
        core.forget_if_released(&released);
        match (flushed, released.rescued()) {
            // Nothing of it will be written any more: what is there now is opened.
            (Err(StoreError::Lost { .. }), _) => Ok(()),
            (Ok(()), Some(rescued)) if !released.is_clean() => {
                // It is safe, but not in the log.
                Err(StoreError::io("write", core.layout.log(id))(io::Error::other(rescued.why.clone())))
            }
            (flushed, _) => flushed,
        }
    }

    /// Makes a session cold: its log is packed (`<id>.jsonl.zst`), without what later events say again. It lists, reads, forks and opens like
    /// any other; opened for writing it goes on in a file of its own. Nothing is done to one that is cold.
    ///
    /// Takes some seconds for each gigabyte. Dropping the future, or opening the session in this process, calls it off.
    ///
    /// # Errors
    /// [`StoreError::Held`] while it is open for writing anywhere, [`StoreError::NotFound`], or why it failed; the session is as
    /// it was then.
    pub async fn compress(&self, id: SessionId) -> Result<Compressed, StoreError> {
        self.pack(id, cold::compress).await
    }

    /// Makes sessions cold to which nothing was added for `idle_for`, those first that were idle longest. One that cannot be made cold
    /// now is passed over. For a program that has nothing else to do: dropping the future calls it off.
    ///
    /// # Errors
    /// Where the sessions cannot be listed.
    pub async fn keep_cold(&self, what: KeepCold) -> Result<Kept, StoreError> {
        let mut kept = Kept::default();
        let now = self.engine.core.options.clock.now();
        let due = self.blocking(move |core| cold::due(core, what, now)).await?;
        // A disk that takes nothing is not asked for each of them.
        for id in due.into_iter().take(what.sessions_max.saturating_mul(2)) {
            match self.compress(id).await {
                Ok(compressed) => kept.count(compressed),
                Err(error) => tracing::debug!(session = %id, %error, "not compressed"),
            }
            if kept.sessions >= what.sessions_max || kept.before >= what.bytes_max {
                break;
            }
        }
        Ok(kept)
    }

    /// Moves a session into the archive, compressed. The list does not show it there; it is read by its id, and comes back when it is opened
    /// for writing. Nothing is done to one that is there.
    ///
    /// # Errors
    /// As of [`FileStore::compress`].
    pub async fn archive(&self, id: SessionId) -> Result<Compressed, StoreError> {
        self.pack(id, |core, id, stop| {
            let packed = cold::compress(core, id, stop)?;
            if matches!(packed, cold::Outcome::Done(_)) {
                archive::archive(core, id)?;
            }
            Ok(packed)
        })
        .await
    }

    /// Moves a session out of the archive; it stays compressed. Nothing is done to one that is not there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or why it failed; the session can be read all the same.
    pub async fn unarchive(&self, id: SessionId) -> Result<(), StoreError> {
        self.settle(id).await?;
        self.blocking(move |core| {
            let _reservation = Reservation::new(core, id)?;
            archive::restore(core, id)
        })
        .await
    }

    /// Removes a session for good, if it is in the archive.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or why it stays, which may be that it is back from the archive.
    pub async fn remove_archived(&self, id: SessionId) -> Result<(), StoreError> {
        self.settle(id).await?;
        self.blocking(move |core| {
            let _reservation = Reservation::new(core, id)?;
            archive::remove_archived(core, id)
        })
        .await
    }

    /// Whether a session is in the archive.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or why it cannot be told.
    pub async fn is_archived(&self, id: SessionId) -> Result<bool, StoreError> {
        self.blocking(move |core| Files::find(core, id).map(|files| files.is_archived)).await
    }

    /// The sessions in the archive, newest first.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    pub async fn list_archived(&self) -> Result<Vec<SessionSummary>, StoreError> {
        self.blocking(list::list_archived).await
    }

    /// How many sessions are in the archive. No log is read.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    pub async fn archived_count(&self) -> Result<usize, StoreError> {
        self.blocking(list::archived_count).await
    }

    /// Calls off every compression and fork, and returns when none is left.
    async fn call_off_long_work(&self) {
        let core = &self.engine.core;
        loop {
            let let_go = core.let_go.notified();
            tokio::pin!(let_go);
            // From here on no wake-up is missed.
            let_go.as_mut().enable();
            let mut is_at_work = false;
            for holding in lock(&core.sessions).values() {
                if let Holding::LongWork(stop) = holding {
                    stop.raise();
                    is_at_work = true;
                }
            }
            if !is_at_work {
                return;
            }
            let_go.await;
        }
    }

    /// The bytes of a session's log, to be copied.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or why it cannot be opened.
    pub async fn raw_log(&self, id: SessionId) -> Result<RawLog, StoreError> {
        self.blocking(move |core| RawLog::open(core, id)).await
    }

    /// Packs a session with `work`, while nobody else in this process does anything with it; closes it again where that did not
    /// come to its end.
    async fn pack(
        &self,
        id: SessionId,
        work: impl FnOnce(&Arc<Core>, SessionId, &Stop) -> Result<cold::Outcome, StoreError> + Send + 'static,
    ) -> Result<Compressed, StoreError> {
        self.settle(id).await?;
        let engine = Arc::clone(&self.engine);
        let stop = StopOnDrop::default();
        let raised = stop.flag();
        let packed = self.blocking(move |core| {
            let reservation = Reservation::for_long_work(core, id, &raised)?;
            match work(core, id, &raised)? {
                cold::Outcome::Done(compressed) => Ok(Ok(compressed)),
                cold::Outcome::Abandoned(taken, error) => {
                    engine.serve(&taken.session.device)?;
                    reservation.release(&taken.session)?;
                    // Whoever asked may be gone; `closed` has to reach the disk all the same.
                    taken.session.device.writer.push(&taken.session, lane::Due::Now);
                    Ok(Err((taken.session, error)))
                }
            }
        });
        match packed.await? {
            Ok(compressed) => Ok(compressed),
            Err((session, error)) => {
                log::flush(&self.engine.core, &session).await?;
                self.engine.core.forget_if_released(&session);
                Err(error)
            }
        }
    }

    fn all_sessions(&self) -> Vec<Arc<Session>> {
        let sessions = lock(&self.engine.core.sessions);
        let held = sessions.values().filter_map(|holding| match holding {
            Holding::Reserved | Holding::LongWork(_) => None,
            Holding::Open(session) | Holding::Released(session) => Some(Arc::clone(session)),
        });
        held.collect()
    }

    async fn entries(&self, id: SessionId, from: Seq, follows: bool) -> Result<Box<dyn EntryReader>, StoreError> {
        let open = move |core: &Arc<Core>| {
            let mut reader = LogReader::open(core, id)?;
            if from > 0 {
                reader.seek(from)?;
            }
            Ok(reader)
        };
        let reader = self.blocking(open).await?;
        Ok(Box::new(Entries::new(reader, &self.engine.core, id, from, follows)))
    }
}

impl std::fmt::Debug for FileStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileStore").field("options", &self.engine.core.options).finish_non_exhaustive()
    }
}

#[async_trait]
impl SessionStore for FileStore {
    async fn create(&self, new: NewSession) -> Result<OpenSession, StoreError> {
        let id = new.id.unwrap_or_else(|| SessionId::new(self.engine.core.options.clock.now()));
        self.settle(id).await?;
        let engine = Arc::clone(&self.engine);
        let (log, opened) = self
            .blocking(move |core| {
                let reservation = Reservation::new(core, id)?;
                let (session, opened) = open::create(core, id)?;
                let served = engine.serve(&session.device);
                served.and_then(|()| reservation.fulfil(&session)).inspect_err(|_| {
                    // An empty file is nobody's session.
                    let _ = core.fs().remove_file(&core.layout.log(id));
                })?;
                Ok((FileLog { engine, session }, opened))
            })
            .await?;
        let started = SessionStarted { session: id, cwd: new.cwd, program: self.engine.core.options.program.clone() };
        let mut state = State::default();
        for event in [Event::from(opened), Event::from(started)] {
            let entry = log
                .append(event)
                .map_err(|error| StoreError::io("append to", self.engine.core.layout.log(id))(io::Error::other(error)))?;
            state.apply(&entry);
        }
        Ok(OpenSession { log: Arc::new(log), state, problems: Vec::new() })
    }

    async fn open(&self, id: SessionId) -> Result<OpenSession, StoreError> {
        self.take(id, move |core| open::open(core, id)).await
    }

    async fn fork(&self, parent: SessionId, at: Option<Seq>) -> Result<OpenSession, StoreError> {
        self.fork_with(parent, at, Arc::new(|_| {})).await
    }

    async fn load(&self, id: SessionId) -> Result<Loaded, StoreError> {
        self.blocking(move |core| {
            let folded = read::fold(core, id)?;
            let holder = owner::holder_of(core, id, &folded.state);
            Ok(Loaded { state: folded.state, problems: folded.problems, holder })
        })
        .await
    }

    async fn load_at(&self, id: SessionId, at: Seq) -> Result<State, StoreError> {
        self.blocking(move |core| read::fold_until(core, id, at)).await
    }

    async fn read(&self, id: SessionId, from: Seq) -> Result<Box<dyn EntryReader>, StoreError> {
        self.entries(id, from, false).await
    }

    async fn read_one(&self, id: SessionId, seq: Seq, place: Place) -> Result<Option<Arc<Entry>>, StoreError> {
        let there = self.blocking(move |core| LogReader::open(core, id)?.log().entry_at(seq, place)).await?;
        if let Some(entry) = there {
            return Ok(Some(Arc::new(entry)));
        }
        let mut entries = self.read(id, seq).await?;
        Ok(entries.next().await?.filter(|entry| entry.seq == seq))
    }

    async fn follow(&self, id: SessionId, from: Seq) -> Result<Box<dyn EntryReader>, StoreError> {
        self.entries(id, from, true).await
    }

    async fn read_side(&self, id: SessionId, side: &SideRef) -> Result<Vec<u8>, StoreError> {
        if let Some(bytes) = self.side_in_memory(id, side) {
            return Ok(bytes);
        }
        let side = side.clone();
        self.blocking(move |core| read::read_side(core, id, &side)).await
    }

    async fn verify(&self, id: SessionId) -> Result<Verified, StoreError> {
        self.verify_with(id, Arc::new(|_| {})).await
    }

    async fn list(&self) -> Result<Vec<SessionSummary>, StoreError> {
        self.blocking(list::list).await
    }

    async fn import(&self, new: NewImport, fill: FillImport) -> Result<SessionId, StoreError> {
        let id = SessionId::new(new.created_at);
        self.blocking(move |core| {
            let _reservation = Reservation::new(core, id)?;
            import::import(core, id, new, fill)?;
            Ok(id)
        })
        .await
    }

    async fn remove(&self, id: SessionId) -> Result<(), StoreError> {
        self.settle(id).await?;
        self.blocking(move |core| {
            let _reservation = Reservation::new(core, id)?;
            open::remove(core, id)
        })
        .await
    }

    async fn release(&self, id: SessionId, within: Duration) -> Result<(), StoreError> {
        ask::release(&self.engine.core, id, within).await
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let sessions = self.all_sessions();
        let accepted: Vec<Accepted> = sessions.iter().map(|session| Accepted::of(session)).collect();
        // All at once, so that they share their syncs.
        self.engine.core.commit_all(&sessions);
        let mut outcome = Ok(());
        for (session, accepted) in sessions.iter().zip(accepted) {
            let durable = accepted.durable(session).await;
            outcome = outcome.and(durable);
        }
        outcome
    }

    async fn shutdown(&self, limit: Duration) -> Result<(), ShutdownError> {
        let deadline = Instant::now() + limit;
        let core = &self.engine.core;
        core.long_work_ended.store(true, Ordering::Release);
        // What is called off lets go as after a close, so before nothing is accepted any more.
        let _ = tokio::time::timeout(limit, self.call_off_long_work()).await;
        *lock(&core.last_tries) = Some(deadline);
        core.closed.store(true, Ordering::Release);
        let sessions = self.all_sessions();
        for session in &sessions {
            // Where even the reserve is used up, the session ends without `closed`, as after a crash.
            let _ = log::release(core, session);
        }
        core.commit_all(&sessions);
        let all_durable = async {
            for session in &sessions {
                // After a failure it is tried again each window, until the limit.
                while !matches!(session.until(Buffer::is_safe).await, Ok(()) | Err(StoreError::Lost { .. } | StoreError::Closed))
                {
                }
            }
        };
        let _ = tokio::time::timeout(limit, all_durable).await;
        self.engine.stop();
        // Where there was no room for `closed`, nothing more is accepted that nobody would write.
        sessions.iter().filter(|session| session.has_not_ended()).for_each(|session| session.stop());
        core.room.notify_waiters();
        let engine = Arc::clone(&self.engine);
        let not_durable: Vec<_> = sessions.iter().filter_map(|session| missing(session)).collect();
        let is_done = not_durable.is_empty();
        let deadline = deadline.max(Instant::now() + Duration::from_millis(100));
        let end = tokio::task::spawn_blocking(move || {
            let have_ended = engine.join(deadline);
            // A thread that hangs may still write: nobody else may, until it comes back.
            if is_done && have_ended {
                owner::end(&engine.core);
            }
        });
        // Whoever opens a session on a disk that does not answer may hold what this needs.
        let _ = tokio::time::timeout_at((deadline + LAST_WORK_LIMIT).into(), end).await;
        sessions.iter().filter(|session| !session.is_clean()).for_each(|session| session.stop());
        core.room.notify_waiters();
        if is_done { Ok(()) } else { Err(ShutdownError { not_durable }) }
    }

    fn stats(&self) -> StoreStats {
        self.engine.core.stats()
    }
}

impl FileStore {
    /// A side file that this process has not made durable yet.
    fn side_in_memory(&self, id: SessionId, side: &SideRef) -> Option<Vec<u8>> {
        let session = self.all_sessions().into_iter().find(|session| session.id == id)?;
        let buffer = lock(&session.buffer);
        buffer.sides.iter().find(|kept| kept.side == *side).map(|kept| kept.bytes.clone())
    }
}

/// Gives a session that was taken to whoever asked for it.
fn hand_over(engine: Arc<Engine>, reservation: Reservation<'_>, taken: Taken) -> Result<OpenSession, StoreError> {
    let Taken { session, mut state, problems, read } = taken;
    engine.serve(&session.device)?;
    reservation.fulfil(&session)?;
    let log = FileLog { engine, session };
    if read > LONG_BYTES
        && let Some(checkpoint) = state.checkpoint()
        && let Ok(entry) = log.append(checkpoint.into())
    {
        state.apply(&entry);
    }
    Ok(OpenSession { log: Arc::new(log), state, problems })
}

/// What of a session is not durable.
fn missing(session: &Session) -> Option<(SessionId, u64, String)> {
    let buffer = lock(&session.buffer);
    if buffer.is_safe() {
        return None;
    }
    let why = match (&buffer.ended, buffer.trouble()) {
        (Some(buffer::Ended::Lost(why)), _) => why.clone(),
        (Some(buffer::Ended::Stopped), None) => "the store was shut down before all was durable".to_owned(),
        (_, Some(trouble)) => trouble.to_string(),
        _ => "the time was up".to_owned(),
    };
    Some((session.id, buffer.accepted - buffer.safe(), why))
}

/// Locks `mutex`. A panic elsewhere does not make what it guards useless: every change under these locks is whole or harmless.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
