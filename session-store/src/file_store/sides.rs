//! Side files that an owner who died may have left undurable.
//!
//! A side file is durable before the line that names it. A new owner makes the lines of the owner before durable, so it sees to their side files first.

use super::engine::Core;
use super::read::is_hash;
use super::syncer;
use crate::error::StoreError;
use crate::fs::{OpenMode, for_each_chunk, write_all_at};
use crate::id::SessionId;
use std::collections::{BTreeSet, HashSet};

/// The side files that a part of a log names.
pub(super) struct NamedSides {
    /// All that are there.
    files: HashSet<String>,
    named: BTreeSet<String>,
    /// The end of what was looked at, where a name may have begun.
    rest: Vec<u8>,
}

impl NamedSides {
    const KEY: &[u8] = b"\"sha256\":\"";
    const NAME_BYTES: usize = 64;

    pub(super) fn new(core: &Core, id: SessionId) -> Self {
        let entries = core.fs().read_dir(&core.layout.sides(id)).unwrap_or_default();
        let files = entries.into_iter().filter_map(|entry| entry.name.into_string().ok()).filter(|name| is_hash(name)).collect();
        Self { files, named: BTreeSet::new(), rest: Vec::new() }
    }

    /// Looks for names in the next part.
    pub(super) fn look_in(&mut self, chunk: &[u8]) {
        if self.files.is_empty() {
            return;
        }
        let whole = Self::KEY.len() + Self::NAME_BYTES;
        let bytes = [&self.rest, chunk].concat();
        for window in bytes.windows(whole).filter(|window| window.starts_with(Self::KEY)) {
            let name = std::str::from_utf8(&window[Self::KEY.len()..]).ok().filter(|name| self.files.contains(*name));
            self.named.extend(name.map(str::to_owned));
        }
        self.rest = bytes[bytes.len().saturating_sub(whole - 1)..].to_vec();
    }

    /// Writes them again, in the same place, and makes them durable.
    pub(super) fn write_again(&self, core: &Core, id: SessionId) -> Result<(), StoreError> {
        if self.named.is_empty() {
            return Ok(());
        }
        let folder = core.layout.sides(id);
        for path in self.named.iter().map(|name| folder.join(name)) {
            let file = core.fs().open(&path, OpenMode::InPlace).map_err(StoreError::io("open", &path))?;
            let length = file.stat().map_err(StoreError::io("look at", &path))?.size;
            for_each_chunk(&*file, 0..length, |chunk, offset| write_all_at(&*file, chunk, offset))
                .map_err(StoreError::io("write", &path))?;
            syncer::sync_file(core, &*file, &path)?;
        }
        syncer::sync_folder(core, &folder)
    }
}
