//! What is nobody's yet: files whose names end in `.part`, which become sessions when they are whole.
//!
//! Whoever writes one holds its lock. A crash leaves it, with the side files that were to go with it, and both go when somebody writes
//! another one in the same folder.

use super::engine::Core;
use super::open::{Turn, remove_folder, remove_if_there};
use super::text::Files;
use crate::error::StoreError;
use crate::fs::{File, OpenMode};
use crate::id::SessionId;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A younger one may just have been made, and not be locked yet.
const AGE_MIN_NS: i64 = 60 * 60 * 1_000_000_000;

/// A file that is being written, locked until this is dropped.
pub(super) struct Part {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    _turn: Turn,
}

impl Part {
    /// Makes it, and removes what crashes left in its folder. The caller has the session that it is for: what is at `path` is a leftover.
    pub(super) fn create(core: &Core, path: PathBuf) -> Result<Self, StoreError> {
        remove_if_there(core, &path)?;
        clean(core, path.parent().unwrap_or(&path));
        let file = core.open(&path, OpenMode::CreateNew).map_err(StoreError::io("create", &path))?;
        let turn = Turn::take(&file);
        Ok(Self { file, path, _turn: turn })
    }

    /// Removes it, as far as the disk lets it; no reader takes it for a session.
    pub(super) fn discard(&self, core: &Core) {
        let _ = core.fs().remove_file(&self.path);
    }
}

/// Removes what crashes left in a folder, where it is certain that nobody writes it. What cannot be removed stays.
fn clean(core: &Core, day: &Path) {
    if !core.fs().locks_are_trusted(day) {
        return;
    }
    let now_ns = core.options.clock.now().as_ms().saturating_mul(1_000_000);
    for entry in core.fs().read_dir(day).unwrap_or_default() {
        let Some(name) = entry.name.to_str().and_then(|name| name.strip_suffix(".part")).filter(|_| !entry.is_dir) else {
            continue;
        };
        let path = day.join(&entry.name);
        let is_old = core.fs().stat(&path).is_ok_and(|found| now_ns.saturating_sub(found.modified_ns) >= AGE_MIN_NS);
        let Some(file) = is_old.then(|| core.open(&path, OpenMode::Read).ok()).flatten() else { continue };
        if file.try_lock().unwrap_or(false) {
            if let Err(error) = remove(core, &path, name.parse().ok()) {
                tracing::debug!(%error, "an unfinished file stays");
            } else {
                tracing::info!(path = %path.display(), "removed what a crash left unfinished");
            }
            let _ = file.unlock();
        }
    }
}

/// Removes the file, and before it the side files where there is no session that has them.
fn remove(core: &Core, path: &Path, id: Option<SessionId>) -> Result<(), StoreError> {
    if let Some(id) = id
        && matches!(Files::find(core, id), Err(StoreError::NotFound(_)))
    {
        remove_folder(core, &core.layout.sides(id))?;
    }
    remove_if_there(core, path)
}
