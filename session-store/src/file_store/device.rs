//! A device (a mounted file system) with the threads that serve it: a mount that hangs holds up the sessions on it, and
//! no others.
//!
//! A store has a few devices at most; more share the last one, which then has no descriptor for a whole file system.

use super::cost::Costs;
use super::engine::Core;
use super::lane::{Lane, LaneName};
use super::lock;
use crate::fs::Volume;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
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
    /// Held while the whole file system is synced: a failure is told to one call of the descriptor only.
    volume: Mutex<VolumeState>,
    /// Goes up when the descriptor of the volume is opened and each time a sync of it failed. A session's bytes may be synced with
    /// the volume only if this is what it was before they were written: only then would their failure be told to the next sync.
    generation: AtomicU64,
}

#[derive(Default)]
enum VolumeState {
    #[default]
    NotOpened,
    /// Once opened it stays so: a later descriptor would not be told of what failed before.
    Open(Arc<dyn Volume>, Option<Instant>),
    /// There is none that tells of every failure.
    Absent,
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
            volume: Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// See [`Device::generation`]; taken before something is written.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether all of it can be synced at once, now. Opens the descriptor that this takes the first time: a process with a
    /// session or two never needs it, and does not keep the file system from being unmounted.
    pub(super) fn has_volume(&self, core: &Core, now: Instant) -> bool {
        if self.is_shared {
            return false;
        }
        // Somebody syncs it just now.
        let Ok(mut volume) = self.volume.try_lock() else { return true };
        if matches!(*volume, VolumeState::NotOpened) {
            *volume = match core.fs().volume(&self.folder) {
                // The folder may be on another device by now: to sync that one says nothing of this.
                Ok(Some(opened)) if core.fs().stat(&self.folder).is_ok_and(|stat| stat.device == self.number) => {
                    VolumeState::Open(opened, None)
                }
                Ok(Some(_)) => VolumeState::NotOpened,
                Ok(None) => VolumeState::Absent,
                // Perhaps the descriptors have run out.
                Err(_) => VolumeState::NotOpened,
            };
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        matches!(&*volume, VolumeState::Open(_, distrusted) if distrusted.is_none_or(|until| until <= now))
    }

    /// Syncs all of it, once `prepare` was called; the two are not divided by another sync.
    pub(super) fn sync_volume<T>(&self, prepare: impl FnOnce() -> T) -> (T, VolumeSync) {
        let mut volume = lock(&self.volume);
        let prepared = prepare();
        let VolumeState::Open(opened, distrusted) = &mut *volume else {
            return (prepared, VolumeSync::Failed(std::io::ErrorKind::Unsupported.into()));
        };
        let started = Instant::now();
        match opened.sync() {
            Ok(()) => (prepared, VolumeSync::Done(started.elapsed())),
            Err(error) => {
                self.generation.fetch_add(1, Ordering::AcqRel);
                *distrusted = Some(Instant::now() + DISTRUST);
                (prepared, VolumeSync::Failed(error))
            }
        }
    }
}
