//! What the sessions of a store share, and its three threads.
//!
//! ```text
//!   append -> buffer --(once a window)--> writer -> file --> background syncer -> durable
//!                    \-(a waiter)--> commit syncer: writes what is there, then syncs -> durable
//! ```
//!
//! The writer writes whatever the syncers do, so that a slow disk does not lengthen what a `kill -9` can cost. Both
//! syncers sync many files at a time. The threads begin with the first session that is opened for writing and end when
//! the store and all its logs are gone; [`Engine::join`] waits for them.

use super::buffer::Pool;
use super::lane::{Due, Lane, LaneName};
use super::layout::Layout;
use super::owner::Ownership;
use super::session::{Attempt, Disk, Session};
use super::{FileStoreOptions, lock, rescue, syncer, writer};
use crate::error::StoreError;
use crate::fs::{File, FileSystem, OpenMode, create_dirs};
use crate::id::SessionId;
use crate::stats::{Histogram, StoreStats};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Shared by the threads, the store and its logs.
pub(super) struct Core {
    pub(super) options: FileStoreOptions,
    pub(super) layout: Layout,
    pub(super) pool: Pool,
    pub(super) counters: Counters,
    pub(super) writer: Lane,
    pub(super) background: Lane,
    pub(super) commit: Lane,
    /// Bytes in the buffers of all sessions.
    pub(super) in_memory: AtomicU64,
    /// Told when buffers shrink or a session ends.
    pub(super) room: Notify,
    /// The sessions that this process holds, until all of a released one is durable.
    pub(super) sessions: Mutex<HashMap<SessionId, Holding>>,
    pub(super) ownership: Ownership,
    /// The day folders whose way up is durable.
    pub(super) durable_days: Mutex<HashSet<PathBuf>>,
    /// Folders above the home with an entry that this process made and that is not durable yet.
    pub(super) above_home: Mutex<BTreeSet<PathBuf>>,
    open_files: AtomicU64,
    open_files_max: u64,
    /// No more sessions are opened.
    pub(super) closed: AtomicBool,
}

/// What this process does with a session.
pub(super) enum Holding {
    /// It is being opened, forked into or removed.
    Reserved,
    /// Somebody has its log.
    Open(Arc<Session>),
    /// Its log was dropped or closed; `closed` is on its way to the disk.
    Released(Arc<Session>),
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) events: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) largest_batch_events: AtomicU64,
    pub(super) largest_batch_bytes: AtomicU64,
    pub(super) time_to_durable: Mutex<Histogram>,
}

impl Core {
    pub(super) fn new(options: FileStoreOptions) -> Self {
        Self {
            layout: Layout::new(options.home.clone()),
            ownership: Ownership::default(),
            options,
            pool: Pool::default(),
            counters: Counters::default(),
            writer: Lane::new(LaneName::Writer),
            background: Lane::new(LaneName::Background),
            commit: Lane::new(LaneName::Commit),
            in_memory: AtomicU64::new(0),
            room: Notify::new(),
            sessions: Mutex::default(),
            durable_days: Mutex::default(),
            above_home: Mutex::default(),
            open_files: AtomicU64::new(0),
            open_files_max: descriptor_budget(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn fs(&self) -> &dyn FileSystem {
        &*self.options.fs
    }

    /// The session's file, opened again if it was closed.
    pub(super) fn file(&self, id: SessionId, disk: &mut Disk) -> Result<Arc<dyn File>, StoreError> {
        if let Some(file) = &disk.file {
            return Ok(Arc::clone(file));
        }
        let path = self.layout.log(id);
        let file = self.fs().open(&path, OpenMode::Append).map_err(StoreError::io("open", &path))?;
        self.adopt(disk, &file);
        Ok(file)
    }

    /// Makes `file` the descriptor of a session.
    pub(super) fn adopt(&self, disk: &mut Disk, file: &Arc<dyn File>) {
        self.open_files.fetch_add(1, Ordering::Relaxed);
        disk.file = Some(Arc::clone(file));
    }

    pub(super) fn close_file(&self, disk: &mut Disk) {
        if disk.file.take().is_some() {
            self.open_files.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether clean files should be closed at once.
    pub(super) fn is_short_of_files(&self) -> bool {
        self.open_files.load(Ordering::Relaxed) > self.open_files_max
    }

    /// Makes a folder and those above it that are missing.
    pub(super) fn create_dirs(&self, path: &Path) -> Result<(), StoreError> {
        // Before it is there: who finds it made must not take it for durable.
        let mut about_to_make = |folder: &Path| {
            let is_above_home = folder != self.layout.home() && self.layout.home().starts_with(folder);
            let parent = folder.parent().filter(|parent| is_above_home && !parent.as_os_str().is_empty());
            if let Some(parent) = parent {
                lock(&self.above_home).insert(parent.to_path_buf());
            }
        };
        create_dirs(self.fs(), path, &mut about_to_make).map_err(StoreError::io("create", path))
    }

    /// Has all events of `session` before `seq` made durable at once.
    pub(super) fn commit(&self, session: &Arc<Session>, seq: u64) {
        {
            let buffer = lock(&session.buffer);
            if buffer.durable >= seq.min(buffer.accepted) && buffer.sides.is_empty() {
                return;
            }
        }
        if self.commit.push(session, Due::Now) {
            // It syncs others for now, but nothing stands in the way of the write.
            self.writer.push(session, Due::Now);
        }
    }

    /// Tells the owner of `session` that a write or a sync failed, and has it tried again in the lane `again` where that can
    /// help. A lost session is nobody's any more: it can be asked for again, and its memory is not held against the others.
    pub(super) fn failed(&self, session: &Arc<Session>, attempt: Attempt, error: StoreError, again: &Lane) {
        tracing::warn!(session = %session.id, %error, "events are kept in memory");
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        rescue::failed(self, session, &error);
        let is_lost = matches!(error, StoreError::Lost { .. });
        let given_up = session.fail(attempt, error);
        if is_lost {
            self.freed(given_up);
            self.forget_if_released(session);
        } else if !(self.is_closed() && lock(&session.buffer).is_safe()) {
            again.retry(session, self.retry_at());
        }
    }

    /// Counts memory that a session gave up, and tells those who wait for it.
    pub(super) fn freed(&self, bytes: u64) {
        self.in_memory.fetch_sub(bytes, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// Forgets a released session once all of it is durable, or never will be, so that it can be opened again.
    pub(super) fn forget_if_released(&self, session: &Arc<Session>) {
        let mut sessions = lock(&self.sessions);
        let is_it = matches!(sessions.get(&session.id), Some(Holding::Released(held)) if Arc::ptr_eq(held, session));
        if is_it && (session.is_clean() || session.is_lost()) {
            sessions.remove(&session.id);
            drop(sessions);
            self.close_file(&mut lock(&session.disk));
        }
    }

    pub(super) fn retry_at(&self) -> Instant {
        Instant::now() + self.options.window.max(Duration::from_millis(1))
    }

    pub(super) fn stats(&self) -> StoreStats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            events: read(&counters.events),
            batches: read(&counters.batches),
            writes: read(&counters.writes),
            bytes: read(&counters.bytes),
            syncs: read(&counters.syncs),
            failures: read(&counters.failures),
            largest_batch_events: read(&counters.largest_batch_events),
            largest_batch_bytes: read(&counters.largest_batch_bytes),
            buffers_reused: read(&self.pool.reused),
            buffers_allocated: read(&self.pool.allocated),
            bytes_in_memory: read(&self.in_memory),
            time_to_durable: lock(&counters.time_to_durable).clone(),
        }
    }
}

/// How many files of sessions may stay open: 1,024 or a quarter of what the process may have.
fn descriptor_budget() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 4).clamp(16, 1024)
}

/// The core with its threads. The last of the store and its logs stops them.
pub(super) struct Engine {
    pub(super) core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    pub(super) fn new(options: FileStoreOptions) -> Self {
        Self { core: Arc::new(Core::new(options)), threads: Mutex::default() }
    }

    /// Starts the threads, the first time.
    pub(super) fn start(&self) -> Result<(), StoreError> {
        let mut threads = lock(&self.threads);
        if self.core.is_closed() {
            return Err(StoreError::Closed);
        }
        type Run = fn(&Core);
        // In the order in which they stop each other, so that one that cannot be started leaves none that does not end.
        let parts: [(&str, Run); 3] =
            [("session-commit", syncer::run_commit), ("session-writer", writer::run), ("session-syncer", syncer::run_background)];
        for (name, run) in parts.into_iter().skip(threads.len()) {
            let core = Arc::clone(&self.core);
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&core));
            threads.push(thread.map_err(StoreError::io("start a thread for", self.core.layout.home()))?);
        }
        Ok(())
    }

    /// Lets the threads finish what they have, and end.
    pub(super) fn stop(&self) {
        self.core.closed.store(true, Ordering::Release);
        // Each stops the next when it ends, because what fails in it is tried again by the next: commit, writer, background.
        self.core.commit.stop();
    }

    /// Waits until the threads have ended, or until `deadline`: a thread that hangs in the kernel cannot be ended.
    pub(super) fn join(&self, deadline: Instant) {
        let mut threads = lock(&self.threads);
        while !threads.is_empty() && Instant::now() < deadline {
            for thread in threads.extract_if(.., |thread| thread.is_finished()) {
                // A panic of a thread was reported when it happened.
                let _ = thread.join();
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

impl Drop for Engine {
    /// Does not wait: the threads write and sync what they have, and end by themselves.
    fn drop(&mut self) {
        self.stop();
    }
}
