//! Which entries of folders are durable: each folder is synced once for all that were made in it, whoever asks.
//!
//! The syncs of a folder are counted, and an entry needs the one that starts after it was made, or a later one. Who
//! needs a sync that runs just now waits for it.

use super::layout::Layout;
use super::lock;
use crate::error::StoreError;
use crate::fs::FileSystem;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// The number of a sync of a folder, from 1 on.
pub(super) type SyncNumber = u64;

#[derive(Default)]
pub(super) struct Folders {
    known: Mutex<HashMap<PathBuf, Folder>>,
    synced: Condvar,
    /// The days' folders whose way up was seen to.
    days: Mutex<HashSet<PathBuf>>,
}

#[derive(Default)]
struct Folder {
    started: SyncNumber,
    is_running: bool,
    /// The last one that worked.
    durable: SyncNumber,
    /// The one that all entries which this process made need.
    needed: SyncNumber,
}

impl Folders {
    /// An entry was made in `folder`, or is about to be; says which sync it needs.
    pub(super) fn entry_made(&self, folder: &Path) -> SyncNumber {
        let mut known = lock(&self.known);
        if !known.contains_key(folder) {
            known.insert(folder.to_path_buf(), Folder::default());
        }
        let Some(found) = known.get_mut(folder) else { return 1 };
        found.needed = found.started + 1;
        found.needed
    }

    /// The file system with a day's folder was away: what led to it is no longer known to be durable. Says which sync of the day's
    /// folder is needed.
    pub(super) fn came_back(&self, day: &Path) -> SyncNumber {
        lock(&self.days).remove(day);
        self.entry_made(day)
    }

    /// Makes the entries of a day's folder durable that need its sync `number`, and those that lead to it: whoever made these may not
    /// have come to that, so they are synced for each day, once.
    pub(super) fn sync_day(
        &self,
        layout: &Layout,
        day: &Path,
        number: SyncNumber,
        sync: &dyn Fn(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let chain = layout.chain(day);
        if lock(&self.days).insert(day.to_path_buf()) {
            chain.iter().skip(1).for_each(|folder| {
                self.entry_made(folder);
            });
        }
        self.sync(day, number, sync)?;
        for folder in chain.iter().skip(1) {
            self.sync(folder, self.needed(folder), sync)?;
        }
        // The home may be as new, and what it lies in.
        for folder in layout.home().ancestors().skip(2) {
            self.sync(folder, self.needed(folder), sync)?;
        }
        Ok(())
    }

    fn needed(&self, folder: &Path) -> SyncNumber {
        lock(&self.known).get(folder).map_or(0, |folder| folder.needed)
    }

    fn sync(&self, path: &Path, number: SyncNumber, sync: &dyn Fn(&Path) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut known = lock(&self.known);
        let number = loop {
            if number == 0 {
                return Ok(());
            }
            let folder = known.entry(path.to_path_buf()).or_default();
            if folder.durable >= number {
                return Ok(());
            }
            if !folder.is_running {
                folder.is_running = true;
                folder.started += 1;
                break folder.started;
            }
            known = self.synced.wait(known).unwrap_or_else(PoisonError::into_inner);
        };
        drop(known);
        let outcome = sync(path);
        if let Some(folder) = lock(&self.known).get_mut(path) {
            folder.is_running = false;
            if outcome.is_ok() {
                folder.durable = folder.durable.max(number);
            }
        }
        self.synced.notify_all();
        outcome
    }

    /// Makes a folder and those above it that are missing.
    pub(super) fn create(&self, fs: &dyn FileSystem, path: &Path) -> std::io::Result<()> {
        let mut made = Vec::new();
        // Before it is there: who finds it made must not take it for durable.
        let outcome = crate::fs::create_dirs(fs, path, &mut |folder| made.extend(self.made_in_parent(folder)));
        // And again now that it is: a sync that began in between may have missed it.
        made.iter().for_each(|parent| {
            self.entry_made(parent);
        });
        outcome
    }

    fn made_in_parent(&self, folder: &Path) -> Option<PathBuf> {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty())?;
        self.entry_made(parent);
        Some(parent.to_path_buf())
    }
}
