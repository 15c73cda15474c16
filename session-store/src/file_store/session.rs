//! A session that this process owns: its buffer, which appends touch, and its file, which only the writer and the
//! syncers touch. An append never waits for the disk, because it never takes a lock that is held across a call to it.
//!
//! Locks are taken in the order `syncing`, `disk`, `rescue`, `buffer`.

use super::buffer::{Buffer, Ended};
use super::device::Device;
use super::engine::Core;
use super::files::OpenFile;
use super::folders::SyncNumber;
use super::lane::LaneName;
use super::lock;
use super::rescue::RescueFile;
use crate::error::StoreError;
use crate::event::Owner;
use crate::id::{Seq, SessionId};
use crate::store::{Progress, Rescued};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use tokio::sync::{Notify, watch};

pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) epoch: u64,
    /// Of the file when it was opened.
    pub(super) inode: u64,
    /// Whose threads serve it.
    pub(super) device: Arc<Device>,
    /// Held for some hundred nanoseconds at a time.
    pub(super) buffer: Mutex<Buffer>,
    /// Held while the file is written, never while it is synced: a slow sync delays no write.
    pub(super) disk: Mutex<Disk>,
    /// Held while the file is synced by itself: the kernel tells a failed write-back to one sync of a descriptor only, and two at a time could
    /// not tell which of them was told.
    pub(super) syncing: Mutex<()>,
    /// Where its events go while the file cannot be written.
    pub(super) rescue: Mutex<Option<Box<RescueFile>>>,
    /// Told of every change of the buffer's numbers, each append too. Made when somebody first asks for it, because it would be a third of
    /// what an idle session costs.
    progress: OnceLock<watch::Sender<Progress>>,
    /// Told when something was written, became durable, or failed: who waits for the disk is not woken by each append.
    moved: Notify,
    /// Four [`Mark`]s for each lane, and [`RESTING`]. Those of a lane change under its lock only.
    marks: AtomicU32,
}

// An idle session is little more than this.
const _: () = assert!(size_of::<Session>() < 768);

/// The file of a session as its writer knows it.
pub(super) struct Disk {
    /// Open while it is in use ([`super::files`]).
    pub(super) file: Option<OpenFile>,
    /// Device and inode.
    pub(super) identity: (u64, u64),
    /// The file's length: all of it is ours.
    pub(super) end: u64,
    /// A sync failed: nothing after the durable end can be relied on, and all of it is written again before the next sync.
    pub(super) suspect: bool,
    /// Since when its path leads nowhere, as far as was looked.
    pub(super) missing_since: Option<Instant>,
    /// What lies before it was written through a descriptor that is closed: if it is not durable, no other descriptor of the
    /// file is told for certain when the kernel fails to write it back.
    pub(super) closed_end: u64,
    /// The device's [`generation`](Device::generation) when the first byte after the durable end was written.
    pub(super) generation: u64,
    /// The sync of the day's folder that makes what was made there for this session durable; nothing once it is.
    pub(super) entry: Option<SyncNumber>,
    /// The session's own folder is there.
    pub(super) has_side_folder: bool,
}

impl Disk {
    /// A file of `end` bytes, all durable, with its device and inode.
    pub(super) fn new(identity: (u64, u64), end: u64) -> Self {
        Self {
            file: None,
            identity,
            end,
            suspect: false,
            missing_since: None,
            closed_end: 0,
            generation: 0,
            entry: None,
            has_side_folder: false,
        }
    }
}

/// What a lane knows of a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// It waits to be served, or will once it was served.
    Ready = 0,
    /// It waits for the end of the window.
    Later = 1,
    /// A thread serves it.
    Served = 2,
    /// It is tried again later.
    Retry = 3,
}

/// What failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attempt {
    Write,
    Sync,
}

/// The mark of a session that the writer looks at again once it may be idle; the lanes have the bits below.
const RESTING: u32 = 1 << 16;

impl Session {
    pub(super) fn new(core: &Core, id: SessionId, epoch: u64, buffer: Buffer, disk: Disk) -> Self {
        let device = core.device(disk.identity.0, id);
        Self {
            id,
            epoch,
            inode: disk.identity.1,
            device,
            buffer: Mutex::new(buffer),
            disk: Mutex::new(disk),
            syncing: Mutex::default(),
            rescue: Mutex::default(),
            progress: OnceLock::new(),
            moved: Notify::new(),
            marks: AtomicU32::new(0),
        }
    }

    /// Sets a mark; false where it was set.
    pub(super) fn mark(&self, lane: LaneName, mark: Mark) -> bool {
        self.set(bit(lane, mark))
    }

    pub(super) fn unmark(&self, lane: LaneName, mark: Mark) {
        self.marks.fetch_and(!bit(lane, mark), Ordering::AcqRel);
    }

    pub(super) fn has(&self, lane: LaneName, mark: Mark) -> bool {
        self.marks.load(Ordering::Acquire) & bit(lane, mark) != 0
    }

    /// Marks that the writer will see whether it is idle; false where it will already.
    pub(super) fn enter_resting(&self) -> bool {
        self.set(RESTING)
    }

    pub(super) fn leave_resting(&self) {
        self.marks.fetch_and(!RESTING, Ordering::AcqRel);
    }

    fn set(&self, bit: u32) -> bool {
        self.marks.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Where changes of its numbers are told.
    pub(super) fn progress(&self) -> &watch::Sender<Progress> {
        // While the buffer is locked nobody publishes, so nothing is missed.
        let buffer = lock(&self.buffer);
        self.progress.get_or_init(|| {
            let mut progress = Progress::default();
            describe(&buffer, &mut progress);
            watch::Sender::new(progress)
        })
    }

    /// Tells all who watch that the events before `accepted` were accepted.
    pub(super) fn publish_accepted(&self, accepted: Seq) {
        if let Some(progress) = self.progress.get() {
            progress.send_modify(|progress| progress.accepted = progress.accepted.max(accepted));
        }
    }

    /// Tells all who watch what the buffer, which the caller has locked, says now.
    pub(super) fn publish(&self, buffer: &Buffer) {
        if let Some(progress) = self.progress.get() {
            progress.send_modify(|progress| describe(buffer, progress));
        }
        self.moved.notify_waiters();
    }

    /// Tells the owner who asks for the session, or that nobody does any more.
    pub(super) fn publish_asked(&self, asker: Option<&Arc<Owner>>) {
        if asker.is_none() && self.progress.get().is_none() {
            return;
        }
        self.progress().send_if_modified(|progress| {
            let is_new = progress.asked.as_ref() != asker;
            progress.asked = asker.cloned();
            is_new
        });
    }

    /// Tells the owner that a write or a sync failed; what it concerns is kept. Says how many bytes count no longer, because
    /// the session is lost with this.
    pub(super) fn fail(&self, attempt: Attempt, error: StoreError) -> u64 {
        let mut buffer = lock(&self.buffer);
        buffer.failures += 1;
        // It answers, if only that.
        buffer.is_stalled = false;
        let mut given_up = 0;
        if let StoreError::Lost { why, .. } = &error {
            given_up = buffer.counted_bytes();
            buffer.ended = Some(Ended::Lost(why.clone()));
        }
        let error = Some(Arc::new(error));
        match attempt {
            Attempt::Write => buffer.write_trouble = error,
            Attempt::Sync => buffer.sync_trouble = error,
        }
        self.count(&mut buffer);
        self.publish(&buffer);
        given_up
    }

    /// Whether something is written that is not durable.
    pub(super) fn has_unsynced(&self) -> bool {
        lock(&self.buffer).has_unsynced()
    }

    /// Keeps the device's count of sessions that have something to sync; called after each change of that.
    pub(super) fn count(&self, buffer: &mut Buffer) {
        let counts = buffer.has_unsynced();
        if counts != std::mem::replace(&mut buffer.is_counted, counts) {
            self.device.count(counts);
        }
    }

    /// All that is written is durable. Another lane may have synced it before the failure of this one was told; nobody
    /// else would take that back.
    pub(super) fn nothing_to_sync(&self) {
        let mut buffer = lock(&self.buffer);
        if !buffer.is_lost() && buffer.sync_trouble.take().is_some() {
            self.publish(&buffer);
        }
    }

    /// Returns once `done` holds.
    ///
    /// # Errors
    /// Where a write or a sync failed meanwhile, or the session is lost.
    pub(super) async fn until(&self, done: impl Fn(&Buffer) -> bool) -> Result<(), StoreError> {
        let failures = lock(&self.buffer).failures;
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // From here on no change is missed.
            moved.as_mut().enable();
            if let Some(outcome) = self.outcome(&done, failures) {
                return outcome;
            }
            moved.await;
        }
    }

    fn outcome(&self, done: impl Fn(&Buffer) -> bool, failures: u64) -> Option<Result<(), StoreError>> {
        let buffer = lock(&self.buffer);
        if done(&buffer) {
            return Some(Ok(()));
        }
        match &buffer.ended {
            Some(Ended::Lost(why)) => return Some(Err(StoreError::Lost { id: self.id, why: why.clone() })),
            Some(Ended::Stopped) => return Some(Err(StoreError::Closed)),
            Some(Ended::Closed) | None => {}
        }
        let trouble = buffer.trouble().filter(|_| buffer.failures > failures)?;
        Some(Err(trouble.again()))
    }

    /// Nobody will write or sync it any more; whoever waits for that is told.
    pub(super) fn stop(&self) {
        let mut buffer = lock(&self.buffer);
        if !buffer.is_lost() {
            buffer.ended = Some(Ended::Stopped);
        }
        self.publish(&buffer);
    }

    /// Whether it takes events.
    pub(super) fn has_not_ended(&self) -> bool {
        lock(&self.buffer).ended.is_none()
    }

    /// Where its events are, where they are not in its log.
    pub(super) fn rescued(&self) -> Option<Arc<Rescued>> {
        lock(&self.buffer).rescue.clone()
    }

    pub(super) fn is_lost(&self) -> bool {
        lock(&self.buffer).is_lost()
    }

    /// Whether everything that it accepted is durable.
    pub(super) fn is_clean(&self) -> bool {
        let buffer = lock(&self.buffer);
        buffer.durable == buffer.accepted && buffer.sides.is_empty()
    }
}

fn bit(lane: LaneName, mark: Mark) -> u32 {
    1 << (4 * lane as u32 + mark as u32)
}

fn describe(buffer: &Buffer, progress: &mut Progress) {
    progress.accepted = buffer.accepted;
    progress.written = buffer.written.max(buffer.rescued);
    progress.durable = buffer.safe();
    progress.stalled = buffer.is_stalled && buffer.rescue.is_none();
    progress.rescued.clone_from(&buffer.rescue);
    progress.trouble = buffer.trouble().cloned();
    progress.closed = match buffer.ended {
        Some(Ended::Closed) => buffer.safe() == buffer.accepted,
        Some(Ended::Lost(_) | Ended::Stopped) => true,
        None => false,
    };
}
