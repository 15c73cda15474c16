//! Writing a whole session at once: one that another program kept.
//!
//! The lines go to a file that no reader takes for a session. It gets its name when all of it, and what is beside it, is durable, so
//! no crash leaves a part of a session. The events have the times of the original, the first and the last line too: a list
//! sorts an imported session by when it happened. It ends with `closed`: nobody holds it.

use super::engine::Core;
use super::part::Part;
use super::{owner, syncer};
use crate::error::StoreError;
use crate::event::{Closed, Entry, Event, FORMAT_VERSION, Opened, SessionStarted, SideRef, Summary};
use crate::fs::{OpenMode, append_all};
use crate::id::{Place, Seq, SessionId};
use crate::line;
use crate::side::sha256_hex;
use crate::state::State;
use crate::store::{FillImport, ImportLog, NewImport};
use crate::time::Timestamp;
use std::collections::HashSet;
use std::io::IoSlice;
use std::sync::Arc;

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;
/// The only epoch of an import.
const EPOCH: u64 = 1;

pub(super) fn import(core: &Arc<Core>, id: SessionId, new: NewImport, fill: FillImport) -> Result<(), StoreError> {
    let (writer, owner) = owner::begin(core)?;
    let day = core.layout.day(id);
    core.create_dirs(&day)?;
    let mut log = PartLog {
        core,
        id,
        part: Part::create(core, core.layout.part(id))?,
        gathered: Vec::new(),
        end: Place::default(),
        state: State::outline(),
        last_at: new.created_at,
        sides: HashSet::new(),
    };
    let written = (|| {
        let program = core.options.program.clone();
        let imported_at = core.options.clock.now();
        log.append(new.created_at, Opened { epoch: EPOCH, writer, format: FORMAT_VERSION, owner }.into())?;
        log.append(new.created_at, SessionStarted { session: id, cwd: new.cwd, program }.into())?;
        let mut imported = new.imported;
        imported.imported_at = imported_at;
        log.append(new.created_at, imported.into())?;
        fill(&mut log)?;
        log.close()?;
        log.finish()
    })();
    written.inspect_err(|_| log.discard())?;
    syncer::sync_day(core, &day)
}

struct PartLog<'a> {
    core: &'a Core,
    id: SessionId,
    part: Part,
    gathered: Vec<u8>,
    /// The line of the last event.
    end: Place,
    /// The fold, without what messages say.
    state: State,
    last_at: Timestamp,
    /// The side files that were written.
    sides: HashSet<String>,
}

impl ImportLog for PartLog<'_> {
    fn next_seq(&self) -> Seq {
        self.state.next_seq
    }

    fn append(&mut self, at: Timestamp, event: Event) -> Result<Seq, StoreError> {
        let (seq, start) = (self.next_seq(), self.gathered.len());
        let mut crc = line::encode(&mut self.gathered, self.end.crc, seq, at, &event);
        if self.gathered.len() - start > self.core.options.line_bytes_max {
            self.gathered.truncate(start);
            let mut fields = Vec::new();
            // Writing to memory does not fail, and every field has a JSON form.
            let _ = event.write_fields(&mut fields);
            let side = self.write_side(&fields)?;
            crc = line::encode_side(&mut self.gathered, self.end.crc, seq, at, event.type_name(), &side);
        }
        let len = u32::try_from(self.gathered.len() - start - 1).unwrap_or(u32::MAX);
        self.end = Place { line: self.end.line + 1, offset: self.offset(), len, crc };
        self.state.apply(&Entry { place: self.end, ..Entry::new(seq, at, event) });
        self.last_at = at;
        if self.gathered.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(seq)
    }

    fn put_side(&mut self, bytes: &[u8]) -> Result<SideRef, StoreError> {
        self.write_side(bytes)
    }
}

impl PartLog<'_> {
    /// Where the next line starts.
    fn offset(&self) -> u64 {
        if self.end.is_known() { self.end.end() } else { 0 }
    }

    /// Ends the log as an owner does: with a checkpoint where that spares some reading, and with what a list shows.
    fn close(&mut self) -> Result<(), StoreError> {
        if self.state.closing_checkpoint_due()
            && let Some(checkpoint) = self.state.checkpoint()
        {
            self.append(self.last_at, checkpoint.into())?;
        }
        let summary = Summary { offset: self.offset(), ..self.state.summary() };
        self.append(self.last_at, Closed { epoch: EPOCH, summary: Some(Box::new(summary)) }.into()).map(drop)
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let Part { file, path, .. } = &self.part;
        append_all(&**file, &mut [IoSlice::new(&self.gathered)], |_| {}).map_err(StoreError::io("write", path))?;
        self.gathered.clear();
        Ok(())
    }

    /// Writes a file beside the log, durable but for its entry in the folder.
    fn write_side(&mut self, bytes: &[u8]) -> Result<SideRef, StoreError> {
        let side = SideRef { sha256: sha256_hex(bytes), bytes: bytes.len() as u64 };
        if self.sides.insert(side.sha256.clone()) {
            let folder = self.core.layout.sides(self.id);
            self.core.create_dirs(&folder)?;
            let path = folder.join(&side.sha256);
            let file = self.core.fs().open(&path, OpenMode::CreateNew).map_err(StoreError::io("create", &path))?;
            append_all(&*file, &mut [IoSlice::new(bytes)], |_| {}).map_err(StoreError::io("write", &path))?;
            file.sync_data().map_err(StoreError::io("sync", &path))?;
        }
        Ok(side)
    }

    /// Makes all durable, then gives the log its name.
    fn finish(&mut self) -> Result<(), StoreError> {
        self.write()?;
        let Part { file, path, .. } = &self.part;
        file.sync_data().map_err(StoreError::io("sync", path))?;
        if !self.sides.is_empty() {
            syncer::sync_folder(self.core, &self.core.layout.sides(self.id))?;
        }
        let log = self.core.layout.log(self.id);
        self.core.fs().rename(path, &log).map_err(StoreError::io("rename", path))
    }

    /// Removes what was written, as far as the disk lets it; no reader takes any of it for a session.
    fn discard(&self) {
        let fs = self.core.fs();
        self.part.discard(self.core);
        let folder = self.core.layout.sides(self.id);
        self.sides.iter().for_each(|side| drop(fs.remove_file(&folder.join(side))));
        if !self.sides.is_empty() {
            let _ = fs.remove_dir(&folder);
        }
    }
}
