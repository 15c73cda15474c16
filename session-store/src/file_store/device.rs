//! A device (a mounted file system) with the threads that serve it: a mount that hangs holds up the sessions on it, and
//! no others.
//!
//! A store has a few devices at most; more share the last one, which then has no descriptor for a whole file system.

use super::cost::Costs;
use super::engine::Core;
use super::lane::{Lane, LaneName};
use super::lock;
use super::stall::UnderWay;
use crate::fs::Volume;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// So many devices have threads of their own.
pub(super) const DEVICES_MAX: usize = 8;
/// After a failed sync of the whole file system the files are synced one by one for this long.
const DISTRUST: Duration = Duration::from_secs(30);

pub(super) struct Device {
    /// As `stat` names it.
    pub(super) number: u64,
    /// Others are served here too.
    is_shared: bool,
    /// A folder on it.
    folder: PathBuf,
    pub(super) writer: Lane,
    pub(super) background: Lane,
    pub(super) commit: Lane,
    pub(super) costs: Mutex<Costs>,
    /// What its threads are at.
    pub(super) under_way: UnderWay,
    /// How many sessions have something to sync: a sync of the whole file system is one of all of them.
    unsynced: AtomicUsize,
    /// The descriptors of the whole file system, one for each syncer: who waits does not take turns with the background. Once
    /// open they stay so, because a later one would not be told of what failed before. Nothing where a failure might not be told.
    volumes: OnceLock<Option<[Arc<dyn Volume>; 2]>>,
    /// Held while a descriptor is synced: a failure is told to one call of each.
    turns: [Mutex<()>; 2],
    /// Goes up when the descriptors were opened, and each time a sync of one failed. A session's bytes may be synced with the
    /// volume only if this is what it was before they were written: only then would their failure be told to the next sync.
    generation: AtomicU64,
    /// Files are synced one by one until then.
    distrusted_until: Mutex<Option<Instant>>,
}

/// What became of a sync of the whole file system.
pub(super) enum VolumeSync {
    Done(Duration),
    Failed(std::io::Error),
}

impl Device {
    pub(super) fn new(number: u64, folder: PathBuf, is_shared: bool) -> Self {
        Self {
            number,
            is_shared,
            folder,
            writer: Lane::new(LaneName::Writer),
            background: Lane::new(LaneName::Background),
            commit: Lane::new(LaneName::Commit),
            costs: Mutex::default(),
            under_way: UnderWay::default(),
            unsynced: AtomicUsize::new(0),
            volumes: OnceLock::new(),
            turns: Default::default(),
            generation: AtomicU64::new(0),
            distrusted_until: Mutex::default(),
        }
    }

    /// A session has something to sync, or no longer.
    pub(super) fn count(&self, has_unsynced: bool) {
        if has_unsynced {
            self.unsynced.fetch_add(1, Ordering::Relaxed);
        } else {
            self.unsynced.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many sessions have something to sync.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.load(Ordering::Relaxed)
    }

    /// See [`Device::generation`]; taken before something is written.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether all of it can be synced at once, now. Opens the descriptors that this takes the first time: a process with a
    /// session or two never needs them, and does not keep the file system from being unmounted.
    pub(super) fn has_volume(&self, core: &Core, now: Instant) -> bool {
        if self.is_shared {
            return false;
        }
        if self.volumes.get().is_none() {
            let open = || core.files.open(|| core.fs().volume(&self.folder));
            // Where the descriptors have run out it is tried again.
            let (Ok(one), Ok(two)) = (open(), open()) else { return false };
            // The folder may be on another device by now: to sync that one says nothing of this.
            if !core.fs().stat(&self.folder).is_ok_and(|stat| stat.device == self.number) {
                return false;
            }
            let _ = self.volumes.set(one.zip(two).map(<[Arc<dyn Volume>; 2]>::from));
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        let is_trusted = lock(&self.distrusted_until).is_none_or(|until| until <= now);
        is_trusted && matches!(self.volumes.get(), Some(Some(_)))
    }

    /// Syncs all of it for a syncer, once `prepare` was called; no other sync of the same descriptor comes between.
    pub(super) fn sync_volume<T>(&self, lane: LaneName, prepare: impl FnOnce() -> T) -> (T, VolumeSync) {
        let which = usize::from(matches!(lane, LaneName::Commit));
        let _turn = lock(&self.turns[which]);
        let prepared = prepare();
        let Some(Some(volumes)) = self.volumes.get() else {
            return (prepared, VolumeSync::Failed(std::io::ErrorKind::Unsupported.into()));
        };
        let started = Instant::now();
        let outcome = match volumes[which].sync() {
            Ok(()) => VolumeSync::Done(started.elapsed()),
            Err(error) => {
                self.generation.fetch_add(1, Ordering::AcqRel);
                *lock(&self.distrusted_until) = Some(Instant::now() + DISTRUST);
                VolumeSync::Failed(error)
            }
        };
        (prepared, outcome)
    }
}
