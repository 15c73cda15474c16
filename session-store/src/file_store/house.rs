//! What the store takes on the disk, and what in it is nobody's.
//!
//! Sizes are those of the files, by name and `stat`; no log is read, so it is quick, and right beside processes that write. Nothing
//! here changes or removes anything.

use super::engine::Core;
use super::read::is_hash;
use crate::error::StoreError;
use crate::id::SessionId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// A warning is due at this part of the quota, in percent.
const WARN_PERCENT: u64 = 80;

/// What the files of a store take, in bytes of their length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Space {
    /// The sessions.
    #[serde(skip)]
    pub sessions: BTreeMap<SessionId, SessionSpace>,
    /// The sessions in the archive.
    #[serde(skip)]
    pub archived: BTreeMap<SessionId, SessionSpace>,
    /// Indexes: they can be deleted at any time.
    pub index_bytes: u64,
    /// Logs as they were before a repair.
    pub repaired_bytes: u64,
    /// What a process left that ended in the middle of something (or is in the middle of it), and the side files of sessions that
    /// are gone.
    pub leftovers: Vec<PathBuf>,
    /// The size of all leftovers.
    pub leftover_bytes: u64,
    /// What lies among the sessions and is none of the store's.
    pub foreign: Vec<PathBuf>,
}

/// What the files of one session take, in bytes of their length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SessionSpace {
    /// The log, as far as it is plain text.
    pub log_bytes: u64,
    /// The compressed log.
    pub cold_bytes: u64,
    /// What is too large for the log.
    pub side_bytes: u64,
}

impl SessionSpace {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.log_bytes + self.cold_bytes + self.side_bytes
    }
}

impl Space {
    /// The sessions that are not in the archive.
    #[must_use]
    pub fn session_bytes(&self) -> u64 {
        self.sessions.values().map(SessionSpace::total).sum()
    }

    /// The sessions in the archive.
    #[must_use]
    pub fn archive_bytes(&self) -> u64 {
        self.archived.values().map(SessionSpace::total).sum()
    }

    /// All that the store takes; what is not its own does not count.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.session_bytes() + self.archive_bytes() + self.index_bytes + self.repaired_bytes + self.leftover_bytes
    }
}

/// How much of the quota is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Quota {
    /// What the store takes, in bytes.
    pub used_bytes: u64,
    /// What it should take at most, in bytes.
    pub limit_bytes: u64,
}

impl Quota {
    /// Of a limit of `limit_bytes`, `used_bytes` are used.
    #[must_use]
    pub fn new(used_bytes: u64, limit_bytes: u64) -> Self {
        Self { used_bytes, limit_bytes }
    }

    /// Whether a warning is due: 80% are used.
    #[must_use]
    pub fn is_near(&self) -> bool {
        self.percent() >= WARN_PERCENT
    }

    /// Whether all of it is used.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used_bytes >= self.limit_bytes
    }

    /// How much is used, in percent; more than 100 where there is more than the limit.
    #[must_use]
    pub fn percent(&self) -> u64 {
        // A limit of nothing is used up by nothing.
        let percent = u128::from(self.used_bytes) * 100 / u128::from(self.limit_bytes.max(1));
        if self.limit_bytes == 0 { 100 } else { u64::try_from(percent).unwrap_or(u64::MAX) }
    }
}

/// Walks the store's folders.
pub(super) fn space(core: &Core) -> Result<Space, StoreError> {
    let mut space = Space::default();
    let home = core.layout.home();
    space.sessions = sessions_in(core, &core.layout.sessions(), &mut space)?;
    space.archived = sessions_in(core, &core.layout.archive(), &mut space)?;
    space.index_bytes = bytes_in(core, &home.join("index"), 1);
    space.repaired_bytes = bytes_in(core, &core.layout.repaired(), 1);
    space.leftovers.sort_unstable();
    space.foreign.sort_unstable();
    Ok(space)
}

/// The sessions below `root`: year, month and day are folders with numbers for names.
fn sessions_in(core: &Core, root: &Path, space: &mut Space) -> Result<BTreeMap<SessionId, SessionSpace>, StoreError> {
    let mut sessions = BTreeMap::new();
    match core.fs().read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sessions),
        entries => drop(entries.map_err(StoreError::io("read", root))?),
    }
    let mut days = vec![root.to_path_buf()];
    for _ in ["year", "month", "day"] {
        days = days.iter().flat_map(|folder| dated_folders(core, folder, space)).collect();
    }
    for day in days {
        sessions.extend(sessions_of_day(core, &day, space));
    }
    Ok(sessions)
}

fn dated_folders(core: &Core, folder: &Path, space: &mut Space) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for entry in core.fs().read_dir(folder).unwrap_or_default() {
        let path = folder.join(&entry.name);
        let is_number = entry.name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if entry.is_dir && is_number { folders.push(path) } else { space.foreign.push(path) }
    }
    folders
}

fn sessions_of_day(core: &Core, day: &Path, space: &mut Space) -> BTreeMap<SessionId, SessionSpace> {
    let mut sessions: BTreeMap<SessionId, SessionSpace> = BTreeMap::new();
    let mut with_log = BTreeSet::new();
    for entry in core.fs().read_dir(day).unwrap_or_default() {
        let path = day.join(&entry.name);
        let Some((id, ending)) = entry.name.to_str().and_then(id_and_ending) else {
            space.foreign.push(path);
            continue;
        };
        if let (".jsonl" | ".jsonl.zst", false, true) = (ending, entry.is_dir, is_day_of(day, id)) {
            with_log.insert(id);
        }
        match (ending, entry.is_dir) {
            // Nobody finds it there by its id.
            (".jsonl" | ".jsonl.zst", false) if !is_day_of(day, id) => space.foreign.push(path),
            ("", true) => sessions.entry(id).or_default().side_bytes = side_bytes(core, &path, space),
            (".jsonl", false) => sessions.entry(id).or_default().log_bytes = size_of(core, &path),
            (".jsonl.zst", false) => sessions.entry(id).or_default().cold_bytes = size_of(core, &path),
            (ending, false) if ending.ends_with(".part") => {
                space.leftover_bytes += size_of(core, &path);
                space.leftovers.push(path);
            }
            _ => space.foreign.push(path),
        }
    }
    sessions.retain(|id, session| {
        if !with_log.contains(id) {
            space.leftover_bytes += session.side_bytes;
            space.leftovers.push(day.join(id.to_string()));
        }
        with_log.contains(id)
    });
    sessions
}

/// Whether the log of `id` belongs in the folder `day`.
fn is_day_of(day: &Path, id: SessionId) -> bool {
    Path::new(&id.relative_path()).parent().is_some_and(|own| day.ends_with(own))
}

/// A name that begins with a session's id, and what follows it.
fn id_and_ending(name: &str) -> Option<(SessionId, &str)> {
    let (id, ending) = name.split_at_checked(36)?;
    Some((id.parse().ok()?, ending))
}

/// What is in the folder beside a log.
fn side_bytes(core: &Core, folder: &Path, space: &mut Space) -> u64 {
    let mut bytes = 0;
    for entry in core.fs().read_dir(folder).unwrap_or_default() {
        let path = folder.join(&entry.name);
        if entry.name.to_str().is_some_and(is_hash) && !entry.is_dir {
            bytes += size_of(core, &path);
        } else {
            space.foreign.push(path);
        }
    }
    bytes
}

/// The size of the files in a folder and those below it, `depth` deep.
fn bytes_in(core: &Core, folder: &Path, depth: u32) -> u64 {
    let entries = core.fs().read_dir(folder).unwrap_or_default().into_iter();
    entries
        .map(|entry| match (folder.join(&entry.name), entry.is_dir) {
            (path, false) => size_of(core, &path),
            (path, true) if depth > 0 => bytes_in(core, &path, depth - 1),
            _ => 0,
        })
        .sum()
}

/// 0 where it is gone by now.
fn size_of(core: &Core, path: &Path) -> u64 {
    core.fs().stat(path).map_or(0, |found| found.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_warns_at_80_percent_and_is_full_at_all_of_it() {
        let used = |used_bytes| Quota { used_bytes, limit_bytes: 1000 };
        assert!(!used(799).is_near());
        assert!(used(800).is_near() && !used(800).is_full());
        assert!(used(1000).is_full() && used(u64::MAX).is_near());
        let nothing = Quota { used_bytes: 0, limit_bytes: 0 };
        assert!(nothing.is_near() && nothing.is_full());
    }
}
