//! What is nobody's yet: files whose names end in `.part`, which become sessions when they are whole.
//!
//! Whoever writes one holds its lock. A crash leaves it, and it goes when somebody writes another one in the same folder.

use super::engine::Core;
use crate::fs::OpenMode;
use std::path::Path;

/// A younger one may just have been made, and not be locked yet.
const AGE_MIN_NS: i64 = 60 * 60 * 1_000_000_000;

/// Removes what crashes left in a folder, where it is certain that nobody writes it. What cannot be removed stays.
pub(super) fn clean(core: &Core, day: &Path) {
    if !core.fs().locks_are_trusted(day) {
        return;
    }
    let now_ns = core.options.clock.now().as_ms().saturating_mul(1_000_000);
    for entry in core.fs().read_dir(day).unwrap_or_default() {
        if entry.is_dir || !entry.name.to_str().is_some_and(|name| name.ends_with(".part")) {
            continue;
        }
        let path = day.join(&entry.name);
        let is_old = core.fs().stat(&path).is_ok_and(|found| now_ns.saturating_sub(found.modified_ns) >= AGE_MIN_NS);
        let Some(file) = is_old.then(|| core.open(&path, OpenMode::Read).ok()).flatten() else { continue };
        if file.try_lock().unwrap_or(false) {
            let _ = core.fs().remove_file(&path);
            let _ = file.unlock();
        }
    }
}
