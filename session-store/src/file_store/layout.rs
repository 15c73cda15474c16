//! Where things are below the store's home.

use crate::id::SessionId;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The paths of a store.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    home: PathBuf,
}

impl Layout {
    pub(super) fn new(home: PathBuf) -> Self {
        Self { home }
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn sessions(&self) -> PathBuf {
        self.home.join("sessions")
    }

    pub(super) fn owners(&self) -> PathBuf {
        self.home.join("owners")
    }

    pub(super) fn owner(&self, writer: Uuid) -> PathBuf {
        self.owners().join(writer.to_string())
    }

    /// The folder of requests to an owner.
    pub(super) fn asks(&self, writer: Uuid) -> PathBuf {
        self.owners().join(format!("{writer}.asks"))
    }

    /// What is given up when the disk is full.
    pub(super) fn ballast(&self) -> PathBuf {
        self.home.join("ballast")
    }

    /// The log. Its date is the id's own, so no search is needed.
    pub(super) fn log(&self, id: SessionId) -> PathBuf {
        self.with_ending(id, ".jsonl")
    }

    /// A fork while it is being copied, an import while it is being written; no reader takes it for a session.
    pub(super) fn part(&self, id: SessionId) -> PathBuf {
        self.with_ending(id, ".part")
    }

    /// The log of a session that is cold, or the part of it that is.
    pub(super) fn cold(&self, id: SessionId) -> PathBuf {
        self.with_ending(id, ".jsonl.zst")
    }

    /// The same while it is written; no reader takes it for a session.
    pub(super) fn cold_part(&self, id: SessionId) -> PathBuf {
        self.with_ending(id, ".jsonl.zst.part")
    }

    /// Logs as they were before a repair, and what is left of sessions that were lost.
    pub(super) fn repaired(&self) -> PathBuf {
        self.home.join("repaired")
    }

    pub(super) fn archive(&self) -> PathBuf {
        self.home.join("archive")
    }

    /// The log of a session that is in the archive.
    pub(super) fn archived(&self, id: SessionId) -> PathBuf {
        self.in_archive(id, ".jsonl.zst")
    }

    /// The folder of what is too large for it.
    pub(super) fn archived_sides(&self, id: SessionId) -> PathBuf {
        self.in_archive(id, "")
    }

    /// The folder of what is too large for the log.
    pub(super) fn sides(&self, id: SessionId) -> PathBuf {
        self.with_ending(id, "")
    }

    /// The folder of a session's log.
    pub(super) fn day(&self, id: SessionId) -> PathBuf {
        let mut path = self.sides(id);
        path.pop();
        path
    }

    /// The folders whose entries lead to a log in `day`, from the day's own up to the one that holds the home.
    pub(super) fn chain(&self, day: &Path) -> Vec<PathBuf> {
        let above_home = self.home.parent().filter(|parent| !parent.as_os_str().is_empty());
        let below = day.ancestors().take_while(|path| *path != self.home);
        below.chain([self.home.as_path()]).chain(above_home).map(Path::to_path_buf).collect()
    }

    fn with_ending(&self, id: SessionId, ending: &str) -> PathBuf {
        dated(&self.sessions(), id, ending)
    }

    fn in_archive(&self, id: SessionId, ending: &str) -> PathBuf {
        dated(&self.archive(), id, ending)
    }
}

fn dated(root: &Path, id: SessionId, ending: &str) -> PathBuf {
    let mut path = root.join(id.relative_path()).into_os_string();
    path.push(ending);
    path.into()
}
