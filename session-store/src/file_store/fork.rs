//! Forks: a session that begins with the lines of another one, and needs it for nothing.
//!
//! The lines are copied byte for byte, by the kernel where it can, which on some file systems only shares their blocks. The copy gets its
//! name when all of it is durable, so no crash leaves a session that is a part of another; what a crash leaves is a `.part`,
//! which no reader takes for a session.
//!
//! All of this blocks and runs on the runtime's blocking threads.

use super::buffer::Buffer;
use super::engine::Core;
use super::open::{Prelude, Taken, disk_of, remove_folder};
use super::part::Part;
use super::read::{self, LogReader, is_hash, open_log};
use super::repair::Advance;
use super::session::Session;
use super::stale::{self, StaleLines};
use super::stop::Stop;
use super::summary::Tally;
use super::text::{Files, Text};
use super::{owner, syncer, writer};
use crate::error::StoreError;
use crate::event::{FORMAT_VERSION, Opened, SessionForked};
use crate::fs::{OpenMode, append_all, copy_all_at};
use crate::id::{Seq, SessionId};
use crate::scan::Position;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// How much is copied before anybody is told, or asked whether to go on. Some file systems share only whole steps of some size: this is a multiple of
/// all of them.
const STEP_BYTES: u64 = 64 << 20;

/// How a fork is watched, and given up.
pub(super) struct Watch<'a> {
    pub(super) stop: &'a Stop,
    /// Is told of the bytes of the log that were copied.
    pub(super) advance: &'a Advance,
}

/// Copies the lines of `parent` up to `at` into the new session `id`, and opens that.
pub(super) fn fork(
    core: &Arc<Core>,
    parent: SessionId,
    at: Option<Seq>,
    id: SessionId,
    watch: &Watch<'_>,
) -> Result<Taken, StoreError> {
    let copy_end = end_of_copy(core, parent, at, watch.stop)?;
    copy(core, parent, copy_end, &[], id, watch)
}

/// The same with lines that a stale writer of `parent` wrote, behind those that it had in common with the session.
pub(super) fn fork_stale(
    core: &Arc<Core>,
    parent: SessionId,
    lines: StaleLines,
    id: SessionId,
    watch: &Watch<'_>,
) -> Result<Taken, StoreError> {
    let found = stale::find(core, parent)?.into_iter().find(|stale| stale.lines == lines);
    let stale = found.ok_or(StoreError::NothingStale(parent))?;
    copy(core, parent, stale.common, &stale.bytes, id, watch)
}

/// Copies the first `copy_end` bytes of the log of `parent`, and `lines` behind them.
fn copy(
    core: &Arc<Core>,
    parent: SessionId,
    copy_end: u64,
    lines: &[u8],
    id: SessionId,
    watch: &Watch<'_>,
) -> Result<Taken, StoreError> {
    let (writer, owner) = owner::begin(core)?;
    let day = core.layout.day(id);
    core.create_dirs(&day)?;
    let path = core.layout.log(id);
    let part = Part::create(core, core.layout.part(id))?;
    let writing = |action| StoreError::io(action, &part.path);
    let copied = (|| {
        copy_log(core, parent, copy_end, &part.path, watch)?;
        append_all(&*part.file, &mut [IoSlice::new(lines)], |_| {}).map_err(writing("write"))?;
        copy_sides(core, parent, id, watch.stop)?;
        let copied = end_of_part(core, id, &part.path)?;
        let at_seq = copied.next_seq.saturating_sub(1);
        let mut prelude = Prelude::new(copied);
        prelude.push(core, Opened { epoch: copied.epoch + 1, writer, format: FORMAT_VERSION, owner }.into());
        prelude.push(core, SessionForked { session: id, parent, at_seq }.into());
        append_all(&*part.file, &mut [IoSlice::new(&prelude.bytes)], |_| {}).map_err(writing("write"))?;
        part.file.sync_data().map_err(writing("sync"))?;
        go_on(core, parent, watch.stop)?;
        core.fs().rename(&part.path, &path).map_err(writing("rename"))?;
        Ok(copy_end + (lines.len() + prelude.bytes.len()) as u64)
    })();
    let end = copied.inspect_err(|_| {
        let _ = remove_folder(core, &core.layout.sides(id));
        part.discard(core);
    })?;
    syncer::sync_day(core, &day)?;
    let folded = read::fold(core, id)?;
    let disk = disk_of(&path, &part.file, 0, end)?;
    let buffer = Buffer::new(Position { offset: end, ..folded.position }, 0, Tally::new(folded.state.summary()));
    let session = Arc::new(Session::new(core, id, folded.state.epoch, buffer, disk));
    Ok(Taken { session, state: folded.state, problems: folded.problems, read: folded.read })
}

fn go_on(core: &Core, parent: SessionId, stop: &Stop) -> Result<(), StoreError> {
    stop.check().map_err(StoreError::io("fork", core.layout.log(parent)))
}

/// Where the line of the last event that is copied ends.
fn end_of_copy(core: &Arc<Core>, parent: SessionId, at: Option<Seq>, stop: &Stop) -> Result<u64, StoreError> {
    let mut reader = LogReader::open(core, parent)?;
    reader.seek(at.map_or(Seq::MAX, |at| at.saturating_add(1)))?;
    let mut items = Vec::new();
    let mut end = 0;
    while reader.read(&mut items)? {
        go_on(core, parent, stop)?;
        for item in items.drain(..) {
            let read::Item::Entry(entry) = item else { continue };
            if at.is_none_or(|at| entry.seq <= at) {
                end = entry.place.end();
            } else if entry.sound {
                // An unchecked one may be in its place, with a damaged `seq`.
                return Ok(end);
            }
        }
    }
    Ok(if at.is_some() { end.min(reader.scanner.offset()) } else { reader.scanner.offset() })
}

/// Copies the first `end` bytes of the log of `parent`, by the kernel where it can.
fn copy_log(core: &Core, parent: SessionId, end: u64, part: &Path, watch: &Watch<'_>) -> Result<(), StoreError> {
    let path = core.layout.log(parent);
    let from = open_log(core, parent, OpenMode::Read)?;
    // A descriptor that appends cannot be copied to by the kernel.
    let into = core.open(part, OpenMode::InPlace).map_err(StoreError::io("open", part))?;
    let mut copied = 0;
    while copied < end {
        go_on(core, parent, watch.stop)?;
        let next = end.min(copied + STEP_BYTES);
        copy_all_at(&*into, copied, &*from, copied..next).map_err(StoreError::io("copy", &path))?;
        (watch.advance)(next - copied);
        copied = next;
    }
    Ok(())
}

/// Copies the side files of `parent`, from wherever they are: it may go into the archive meanwhile, or come back.
fn copy_sides(core: &Core, parent: SessionId, id: SessionId, stop: &Stop) -> Result<(), StoreError> {
    loop {
        let is_archived = Files::find(core, parent)?.is_archived;
        let from = if is_archived { core.layout.archived_sides(parent) } else { core.layout.sides(parent) };
        let copied = copy_sides_from(core, &from, parent, id, stop);
        if Files::find(core, parent)?.is_archived == is_archived {
            return copied;
        }
        go_on(core, parent, stop)?;
    }
}

fn copy_sides_from(core: &Core, from: &Path, parent: SessionId, id: SessionId, stop: &Stop) -> Result<(), StoreError> {
    let to = core.layout.sides(id);
    let entries = match core.fs().read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(StoreError::io("read", from))?,
    };
    core.create_dirs(&to)?;
    for name in entries.iter().filter_map(|entry| entry.name.to_str()).filter(|name| is_hash(name)) {
        go_on(core, parent, stop)?;
        copy_side(core, &from.join(name), &to.join(name))?;
    }
    syncer::sync_folder(core, &to)
}

fn copy_side(core: &Core, from: &Path, to: &Path) -> Result<(), StoreError> {
    let source = core.open(from, OpenMode::Read).map_err(StoreError::io("open", from))?;
    let bytes = source.stat().map_err(StoreError::io("look at", from))?.size;
    let file = writer::open_or_create(core, to).map_err(StoreError::io("create", to))?;
    copy_all_at(&*file, 0, &*source, 0..bytes).map_err(StoreError::io("copy", from))?;
    syncer::sync_file(core, &*file, to)
}

/// Where a copy ends, by its newest checkpoint where it has one.
fn end_of_part(core: &Arc<Core>, id: SessionId, part: &Path) -> Result<Position, StoreError> {
    let file = core.open(part, OpenMode::Read).map_err(StoreError::io("open", part))?;
    let mut reader = LogReader::of(core, id, Text::of_file(file));
    reader.seek(Seq::MAX)?;
    let mut items = Vec::new();
    while reader.read(&mut items)? {
        items.clear();
    }
    Ok(reader.scanner.position())
}
