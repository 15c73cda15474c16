//! A session that this process owns: its buffer, which appends touch, and its file, which only the writer and the
//! syncers touch. An append never waits for the disk, because it never takes a lock that is held across a call to it.
//!
//! Locks are taken in the order `syncing`, `disk`, `buffer`.

use super::buffer::{Buffer, Ended};
use super::lane::LaneName;
use super::lock;
use super::rescue::RescueFile;
use crate::error::StoreError;
use crate::fs::File;
use crate::id::SessionId;
use crate::store::{Progress, Rescued};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};

pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) epoch: u64,
    /// Held for some hundred nanoseconds at a time.
    pub(super) buffer: Mutex<Buffer>,
    /// Held while the file is written, never while it is synced: a slow sync delays no write.
    pub(super) disk: Mutex<Disk>,
    /// Held while the file is synced: the kernel tells a failed write-back to one sync of a descriptor only, and two at a time could
    /// not tell which of them was told.
    pub(super) syncing: Mutex<()>,
    /// Told of every change of the buffer's numbers, each append too.
    pub(super) progress: watch::Sender<Progress>,
    /// Told when something was written, became durable, or failed: who waits for the disk is not woken by each append.
    moved: Notify,
    /// A bit for each lane that it is in, and one for each lane's retries.
    lanes: AtomicU8,
}

// An idle session is little more than this.
const _: () = assert!(size_of::<Session>() < 768);

/// The file of a session as its writer knows it.
pub(super) struct Disk {
    /// Open while it is in use; a clean idle one is closed.
    pub(super) file: Option<Arc<dyn File>>,
    /// Device and inode.
    pub(super) identity: (u64, u64),
    /// The file's length: all of it is ours.
    pub(super) end: u64,
    /// A sync failed: nothing after the durable end can be relied on, and all of it is written again before the next sync.
    pub(super) suspect: bool,
    /// Its path led nowhere when it was last looked at.
    pub(super) is_missing: bool,
    /// Where its events go while the file cannot be written.
    pub(super) rescue: Option<Box<RescueFile>>,
    /// How many entries were made for this session in the day's folder, ...
    pub(super) entries: u64,
    /// ... and how many of them are durable.
    pub(super) durable_entries: u64,
    /// The session's own folder is there.
    pub(super) has_side_folder: bool,
}

/// What failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attempt {
    Write,
    Sync,
}

/// The mark of a session that the writer looks at again once it may be idle; the lanes have the bits below.
const RESTING: u8 = 1 << 6;

impl Session {
    pub(super) fn new(id: SessionId, epoch: u64, buffer: Buffer, disk: Disk) -> Self {
        let progress =
            Progress { accepted: buffer.accepted, written: buffer.written, durable: buffer.durable, ..Progress::default() };
        Self {
            id,
            epoch,
            buffer: Mutex::new(buffer),
            disk: Mutex::new(disk),
            syncing: Mutex::default(),
            progress: watch::Sender::new(progress),
            moved: Notify::new(),
            lanes: AtomicU8::new(0),
        }
    }

    /// Marks that it is in the lane; false where it was.
    pub(super) fn enter(&self, lane: LaneName) -> bool {
        self.mark(1 << lane as u8)
    }

    pub(super) fn leave(&self, lane: LaneName) {
        self.lanes.fetch_and(!(1 << lane as u8), Ordering::AcqRel);
    }

    /// Marks that the lane tries it again later; false where it does already.
    pub(super) fn enter_retry(&self, lane: LaneName) -> bool {
        self.mark(8 << lane as u8)
    }

    pub(super) fn leave_retry(&self, lane: LaneName) {
        self.lanes.fetch_and(!(8 << lane as u8), Ordering::AcqRel);
    }

    /// Marks that the writer will see whether it is idle; false where it will already.
    pub(super) fn enter_resting(&self) -> bool {
        self.mark(RESTING)
    }

    pub(super) fn leave_resting(&self) {
        self.lanes.fetch_and(!RESTING, Ordering::AcqRel);
    }

    fn mark(&self, bit: u8) -> bool {
        self.lanes.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Tells all who watch what the buffer says now.
    pub(super) fn publish(&self, buffer: &Buffer) {
        self.progress.send_modify(|progress| {
            progress.accepted = buffer.accepted;
            progress.written = buffer.written.max(buffer.rescued);
            progress.durable = buffer.safe();
            progress.rescued.clone_from(&buffer.rescue);
            progress.trouble = buffer.trouble().cloned();
            progress.closed = match buffer.ended {
                Some(Ended::Closed) => buffer.safe() == buffer.accepted,
                Some(Ended::Lost(_) | Ended::Stopped) => true,
                None => false,
            };
        });
        self.moved.notify_waiters();
    }

    /// Tells the owner that a write or a sync failed; what it concerns is kept. Says how many bytes count no longer, because
    /// the session is lost with this.
    pub(super) fn fail(&self, attempt: Attempt, error: StoreError) -> u64 {
        let mut buffer = lock(&self.buffer);
        buffer.failures += 1;
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
        self.publish(&buffer);
        given_up
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
