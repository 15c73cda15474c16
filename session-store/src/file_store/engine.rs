//! What the sessions of a store share, and its threads: three for each device.
//!
//! ```text
//!   append -> buffer --(once a window)--> writer -> file --> background syncer -> durable
//!                    \-(a waiter)--> commit syncer: writes what is there, then syncs -> durable
//! ```
//!
//! The writer writes whatever the syncers do, so that a slow disk does not lengthen what a `kill -9` can cost. Both
//! syncers sync many files at a time, with helpers that come and go. The threads of a device begin with the first session
//! there that is opened for writing and end when the store and all its logs are gone; [`Engine::join`] waits for them.

use super::ask::{self, Asks};
use super::ballast::{self, Ballast};
use super::buffer::Pool;
use super::device::{DEVICES_MAX, Device};
use super::files::OpenFiles;
use super::folders::Folders;
use super::lane::{Due, Lane, LaneName};
use super::layout::Layout;
use super::owner::Ownership;
use super::session::{Attempt, Session};
use super::stall::Stalls;
use super::stop::Stop;
use super::{FileStoreOptions, lock, rescue, stall, syncer, writer};
use crate::error::StoreError;
use crate::fs::{File, FileSystem, OpenMode};
use crate::id::SessionId;
use crate::stats::{Histogram, StoreStats};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What failed is tried again each window, but no sooner than this.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(20);
/// More threads than this do not write faster.
const CORES_MAX: usize = 4;

/// For so many windows after a store was dropped its threads try again what a failing disk does not take.
const LAST_TRIES_WINDOWS: u32 = 20;

/// Shared by the threads, the store and its logs.
pub(super) struct Core {
    pub(super) options: FileStoreOptions,
    pub(super) layout: Layout,
    pub(super) pool: Pool,
    pub(super) counters: Counters,
    /// Where sessions are.
    devices: Mutex<Vec<Arc<Device>>>,
    pub(super) files: OpenFiles,
    pub(super) folders: Folders,
    /// How many threads do at once what takes no wait for the disk.
    pub(super) cores: usize,
    /// Bytes in the buffers of all sessions.
    pub(super) in_memory: AtomicU64,
    /// Told when buffers shrink or a session ends.
    pub(super) room: Notify,
    /// Told when a session is no longer reserved.
    pub(super) let_go: Notify,
    /// The sessions that this process holds, until all of a released one is durable.
    pub(super) sessions: Mutex<HashMap<SessionId, Holding>>,
    pub(super) ownership: Ownership,
    pub(super) asks: Asks,
    pub(super) ballast: Ballast,
    pub(super) stalls: Stalls,
    /// Sessions whose own disk does not take what they have.
    pub(super) rescues: Lane,
    /// Threads of devices that have not ended.
    at_work: AtomicUsize,
    /// No more sessions are compressed or forked, ...
    pub(super) long_work_ended: AtomicBool,
    /// ... or opened.
    pub(super) closed: AtomicBool,
    /// Until when what fails is tried again, once the store is closed.
    pub(super) last_tries: Mutex<Option<Instant>>,
}

/// What this process does with a session.
pub(super) enum Holding {
    /// It is being opened or removed.
    Reserved,
    /// It is being made cold, moved into the archive, or forked into; raising the flag ends that soon.
    LongWork(Arc<Stop>),
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
    pub(super) volume_syncs: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) largest_batch_events: AtomicU64,
    pub(super) largest_batch_bytes: AtomicU64,
    pub(super) time_to_durable: Mutex<Histogram>,
    pub(super) time_of_writes: Mutex<Histogram>,
    pub(super) time_of_file_syncs: Mutex<Histogram>,
    pub(super) time_of_volume_syncs: Mutex<Histogram>,
    pub(super) time_of_commits: Mutex<Histogram>,
}

impl Core {
    pub(super) fn new(options: FileStoreOptions) -> Self {
        Self {
            layout: Layout::new(options.home.clone()),
            ownership: Ownership::default(),
            asks: Asks::default(),
            ballast: Ballast::default(),
            stalls: Stalls::default(),
            rescues: Lane::new(LaneName::Rescue),
            at_work: AtomicUsize::new(0),
            options,
            pool: Pool::default(),
            counters: Counters::default(),
            devices: Mutex::default(),
            files: OpenFiles::new(),
            folders: Folders::default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from).min(CORES_MAX),
            in_memory: AtomicU64::new(0),
            room: Notify::new(),
            let_go: Notify::new(),
            sessions: Mutex::default(),
            long_work_ended: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            last_tries: Mutex::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn fs(&self) -> &dyn FileSystem {
        &*self.options.fs
    }

    /// The device with this number; `id` is a session on it.
    pub(super) fn device(&self, number: u64, id: SessionId) -> Arc<Device> {
        let mut devices = lock(&self.devices);
        if let Some(found) = devices.iter().find(|device| device.number == number) {
            return Arc::clone(found);
        }
        if devices.len() == DEVICES_MAX
            && let Some(last) = devices.last()
        {
            return Arc::clone(last);
        }
        let is_shared = devices.len() + 1 == DEVICES_MAX;
        devices.push(Arc::new(Device::new(number, self.layout.day(id), is_shared)));
        Arc::clone(&devices[devices.len() - 1])
    }

    pub(super) fn devices(&self) -> Vec<Arc<Device>> {
        lock(&self.devices).clone()
    }

    /// Opens a file; logs that are open give way where the descriptors have run out.
    pub(super) fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.files.open(|| self.fs().open(path, mode))
    }

    /// Makes a folder and those above it that are missing.
    pub(super) fn create_dirs(&self, path: &Path) -> Result<(), StoreError> {
        self.folders.create(self.fs(), path).map_err(StoreError::io("create", path))
    }

    /// Has all events of `session` before `seq` made durable at once.
    pub(super) fn commit(&self, session: &Arc<Session>, seq: u64) {
        {
            let buffer = lock(&session.buffer);
            if buffer.durable >= seq.min(buffer.accepted) && buffer.sides.is_empty() {
                return;
            }
        }
        let device = &session.device;
        if !device.commit.push(session, Due::Now) {
            // Others are synced for now, but nothing stands in the way of the write.
            device.writer.push(session, Due::Now);
        }
    }

    /// Has all events of `sessions` made durable at once, in as few syncs as that takes.
    pub(super) fn commit_all(&self, sessions: &[Arc<Session>]) {
        for device in self.devices() {
            let is_here = |session: &&Arc<Session>| Arc::ptr_eq(&session.device, &device) && !session.is_clean();
            device.commit.push_all(sessions.iter().filter(is_here));
        }
    }

    /// A write or a sync failed: tells the owner of `session`, where it is to be rescued once that was tried.
    pub(super) fn failed(&self, session: &Arc<Session>, attempt: Attempt, error: StoreError) {
        tracing::warn!(session = %session.id, %error, "events are kept in memory");
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        ballast::failed(self, &error);
        if let Err(error) = rescue::take_over(self, session, attempt, error) {
            self.tell(session, attempt, error);
        }
    }

    /// Tells the owner of `session` of a failure, and has it tried again where that can
    /// help. A lost session is nobody's any more: it can be asked for again, and its memory is not held against the others.
    pub(super) fn tell(&self, session: &Arc<Session>, attempt: Attempt, error: StoreError) {
        let is_lost = matches!(error, StoreError::Lost { .. });
        let given_up = session.fail(attempt, error);
        if is_lost {
            self.freed(given_up);
            self.forget_if_released(session);
        } else if self.has_given_up() {
            tracing::error!(session = %session.id, "the store is closed, and its disk did not take everything");
        } else if !(self.is_closed() && lock(&session.buffer).is_safe()) {
            let again = match attempt {
                Attempt::Write => &session.device.writer,
                Attempt::Sync => &session.device.background,
            };
            again.retry(session, self.retry_at());
        }
    }

    /// A thread of a device has ended. After the last of a closed store there is nothing more to rescue.
    fn thread_ended(&self) {
        if self.at_work.fetch_sub(1, Ordering::AcqRel) == 1 && self.is_closed() {
            self.end_rescue();
        }
    }

    fn end_rescue(&self) {
        self.stalls.stop();
        self.rescues.stop();
    }

    /// Whether the store was closed so long ago that a disk that still fails is given up. Else its threads would never end.
    fn has_given_up(&self) -> bool {
        self.is_closed() && lock(&self.last_tries).is_some_and(|until| until <= Instant::now())
    }

    /// Counts memory that a session gave up, and tells those who wait for it.
    pub(super) fn freed(&self, bytes: u64) {
        self.in_memory.fetch_sub(bytes, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// Forgets a released session once all of it is durable, or never will be, so that it can be opened again.
    pub(super) fn forget_if_released(&self, session: &Arc<Session>) {
        // Nobody released one that has not ended; this is asked after each sync of each session.
        if session.has_not_ended() {
            return;
        }
        let mut sessions = lock(&self.sessions);
        let is_it = matches!(sessions.get(&session.id), Some(Holding::Released(held)) if Arc::ptr_eq(held, session));
        if is_it && (session.is_clean() || session.is_lost()) {
            sessions.remove(&session.id);
            drop(sessions);
            self.files.close(&mut lock(&session.disk));
        }
    }

    pub(super) fn retry_at(&self) -> Instant {
        Instant::now() + self.options.window.max(RETRY_AFTER_MIN)
    }

    pub(super) fn stats(&self) -> StoreStats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let devices = self.devices();
        let queued = |lane: fn(&Device) -> &Lane| devices.iter().map(|device| lane(device).len() as u64).sum();
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
            volume_syncs: read(&counters.volume_syncs),
            open_files: self.files.count() as u64,
            queued_writes: queued(|device| &device.writer),
            queued_syncs: queued(|device| &device.background),
            queued_commits: queued(|device| &device.commit),
            time_to_durable: lock(&counters.time_to_durable).clone(),
            time_of_writes: lock(&counters.time_of_writes).clone(),
            time_of_file_syncs: lock(&counters.time_of_file_syncs).clone(),
            time_of_volume_syncs: lock(&counters.time_of_volume_syncs).clone(),
            time_of_commits: lock(&counters.time_of_commits).clone(),
        }
    }
}

/// In the place of a device: the thread that serves none.
const NO_DEVICE: u64 = u64::MAX;

/// The core with its threads. The last of the store and its logs stops them.
pub(super) struct Engine {
    pub(super) core: Arc<Core>,
    /// Each with the number of its device.
    threads: Mutex<Vec<(u64, JoinHandle<()>)>>,
}

impl Engine {
    pub(super) fn new(options: FileStoreOptions) -> Self {
        Self { core: Arc::new(Core::new(options)), threads: Mutex::default() }
    }

    /// Starts the threads of a device, the first time.
    pub(super) fn serve(&self, device: &Arc<Device>) -> Result<(), StoreError> {
        let mut threads = lock(&self.threads);
        if self.core.is_closed() {
            return Err(StoreError::Closed);
        }
        type RunAll = fn(&Core);
        let of_all: [(&str, RunAll); 3] =
            [("session-asks", ask::run), ("session-stalls", stall::run), ("session-rescue", rescue::run)];
        // Without a folder nobody rescues.
        let wanted = of_all.len() - usize::from(self.core.options.rescue_dir.is_none());
        let started = threads.iter().filter(|(number, _)| *number == NO_DEVICE).count();
        for (name, run) in of_all.into_iter().take(wanted).skip(started) {
            let core = Arc::clone(&self.core);
            threads.push((NO_DEVICE, self.start(name, move || run(&core))?));
        }
        type Run = fn(&Core, &Device);
        // In the order in which they stop each other, so that one that cannot be started leaves none that does not end.
        let parts: [(&str, Run); 3] =
            [("session-commit", syncer::run_commit), ("session-writer", writer::run), ("session-syncer", syncer::run_background)];
        let started = threads.iter().filter(|(number, _)| *number == device.number).count();
        for (name, run) in parts.into_iter().skip(started) {
            let (core, device) = (Arc::clone(&self.core), Arc::clone(device));
            let number = device.number;
            self.core.at_work.fetch_add(1, Ordering::AcqRel);
            let thread = self.start(name, move || {
                run(&core, &device);
                core.thread_ended();
            });
            threads.push((number, thread.inspect_err(|_| self.core.thread_ended())?));
        }
        Ok(())
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        thread.map_err(StoreError::io("start a thread for", self.core.layout.home()))
    }

    /// Lets the threads finish what they have, and end.
    pub(super) fn stop(&self) {
        self.core.closed.store(true, Ordering::Release);
        let last_tries = Instant::now() + self.core.options.window * LAST_TRIES_WINDOWS;
        lock(&self.core.last_tries).get_or_insert(last_tries);
        self.core.asks.stop();
        // Each stops the next when it ends, because what fails in it is tried again by the next: commit, writer, background.
        self.core.devices().iter().for_each(|device| device.commit.stop());
        if self.core.at_work.load(Ordering::Acquire) == 0 {
            self.core.end_rescue();
        }
    }

    /// Waits until the threads have ended, or until `deadline`: a thread that hangs in the kernel cannot be ended. Says whether all have.
    pub(super) fn join(&self, deadline: Instant) -> bool {
        let mut threads = lock(&self.threads);
        while !threads.is_empty() && Instant::now() < deadline {
            for (_, thread) in threads.extract_if(.., |(_, thread)| thread.is_finished()) {
                // A panic of a thread was reported when it happened.
                let _ = thread.join();
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        threads.is_empty()
    }
}

impl Drop for Engine {
    /// Does not wait: the threads write and sync what they have, and end by themselves.
    fn drop(&mut self) {
        self.stop();
    }
}
