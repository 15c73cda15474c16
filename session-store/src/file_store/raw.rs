//! The bytes of a log, for those who copy them.

use super::engine::Core;
use super::text::{Files, Meeting, Text};
use crate::error::StoreError;
use crate::fs::OpenMode;
use crate::id::SessionId;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

/// The bytes of a session's log as they are, whatever files they are in: a cold one is unpacked. At the end of what there is it reads
/// nothing, and goes on once there is more. Reading blocks.
///
/// A session whose files are replaced while this is open (compressed, archived, repaired) is read to the end that it had;
/// [`RawLog::is_replaced`] says so.
pub struct RawLog {
    core: Arc<Core>,
    id: SessionId,
    text: Text,
    offset: u64,
}

impl RawLog {
    pub(super) fn open(core: &Arc<Core>, id: SessionId) -> Result<Self, StoreError> {
        let text = Text::open(core, id, OpenMode::Read)?;
        Ok(Self { core: Arc::clone(core), id, text, offset: 0 })
    }

    /// The folder with what was too large for the log, where there is one.
    #[must_use]
    pub fn sides(&self) -> Option<PathBuf> {
        let layout = &self.core.layout;
        let folder = if self.text.files.is_archived { layout.archived_sides(self.id) } else { layout.sides(self.id) };
        self.core.fs().stat(&folder).is_ok_and(|found| !found.is_file).then_some(folder)
    }

    /// Whether the session is in other files by now. What comes there has other offsets and checksums; `seq` tells what is new.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where it was removed, or why its files cannot be looked at.
    pub fn is_replaced(&self) -> Result<bool, StoreError> {
        Ok(!Files::find(&self.core, self.id)?.are(&self.text.files))
    }

    /// Takes note of the file that a cold session goes on in; false where nothing changed.
    fn goes_on(&mut self) -> bool {
        if self.text.meeting != (Meeting::Cold { has_leftover: false }) {
            return false;
        }
        match Text::open(&self.core, self.id, OpenMode::Read) {
            Ok(text) if text.meeting == Meeting::Both && text.base == self.text.base => {
                self.text = text;
                true
            }
            _ => false,
        }
    }
}

impl std::fmt::Debug for RawLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawLog").field("id", &self.id).field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Read for RawLog {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = self.text.file.read_at(buffer, self.offset)?;
        if length == 0 && !buffer.is_empty() && self.goes_on() {
            length = self.text.file.read_at(buffer, self.offset)?;
        }
        self.offset += length as u64;
        Ok(length)
    }
}

impl Seek for RawLog {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => self.text.file.stat()?.size.checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}
