//! The archive: cold sessions that the list does not show. They are read by their ids like all others, and come back when they
//! are opened for writing.
//!
//! A session moves by getting a second name, and losing the first when that is durable. So a crash leaves it in its old place, in both, or in the new one,
//! never in neither; in both it counts as not archived, and moving it again finishes the move. Side files go before the log, and are
//! removed behind it: no log is anywhere without them.
//!
//! All of this blocks and runs on the runtime's blocking threads.

use super::engine::Core;
use super::open::{Turn, remove_folder, remove_if_there};
use super::read::is_hash;
use super::syncer;
use super::text::{Files, Meeting, Text};
use super::writer;
use crate::error::StoreError;
use crate::fs::{OpenMode, copy_all_at};
use crate::id::SessionId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a session's files are.
struct Place {
    log: PathBuf,
    sides: PathBuf,
    day: PathBuf,
}

impl Place {
    fn new(log: PathBuf, sides: PathBuf) -> Self {
        let day = log.parent().unwrap_or(&log).to_path_buf();
        Self { log, sides, day }
    }

    fn of_session(core: &Core, id: SessionId) -> Self {
        Self::new(core.layout.cold(id), core.layout.sides(id))
    }

    fn of_archived(core: &Core, id: SessionId) -> Self {
        Self::new(core.layout.archived(id), core.layout.archived_sides(id))
    }
}

/// Moves a cold session into the archive; one that is there stays.
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] where it is no longer cold.
pub(super) fn archive(core: &Arc<Core>, id: SessionId) -> Result<(), StoreError> {
    let (session, archived) = (Place::of_session(core, id), Place::of_archived(core, id));
    let text = Text::open(core, id, OpenMode::Read)?;
    let _turn = turn(core, id, &text)?;
    if text.files.is_archived {
        return remove(core, &session);
    }
    if text.meeting != (Meeting::Cold { has_leftover: false }) {
        return Err(StoreError::io("archive", session.log)(io::ErrorKind::ResourceBusy.into()));
    }
    copy(core, &session, &archived)?;
    remove(core, &session)
}

/// Moves a session from the archive back to where it was; one that is not there stays.
pub(super) fn restore(core: &Arc<Core>, id: SessionId) -> Result<(), StoreError> {
    let (session, archived) = (Place::of_session(core, id), Place::of_archived(core, id));
    let text = Text::open(core, id, OpenMode::Read)?;
    if !text.files.is_archived && !is_copy(core, &session, &archived) {
        return Ok(());
    }
    let _turn = turn(core, id, &text)?;
    if text.files.is_archived {
        copy(core, &archived, &session)?;
    } else if !is_copy(core, &session, &archived) {
        return Ok(());
    }
    remove(core, &archived)
}

/// Removes a session that is in the archive.
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] where it is back from there.
pub(super) fn remove_archived(core: &Arc<Core>, id: SessionId) -> Result<(), StoreError> {
    let archived = Place::of_archived(core, id);
    let text = Text::open(core, id, OpenMode::Read)?;
    let _turn = turn(core, id, &text)?;
    if text.files.is_archived {
        return remove(core, &archived);
    }
    Err(StoreError::io("remove", archived.log)(io::ErrorKind::ResourceBusy.into()))
}

/// Whether both places have the same log, so that one can go.
fn is_copy(core: &Core, one: &Place, other: &Place) -> bool {
    match (core.fs().stat(&one.log), core.fs().stat(&other.log)) {
        (Ok(one), Ok(other)) => (one.device, one.inode) == (other.device, other.inode) || one.size == other.size,
        _ => false,
    }
}

/// The lock of the cold file, with everything still as it was in `text`. Nothing is removed anywhere without it: two who move a session in
/// opposite directions would each remove the name that the other one leaves.
fn turn(core: &Core, id: SessionId, text: &Text) -> Result<Turn, StoreError> {
    let turn = Turn::take(&text.file);
    if turn.is_ours() && Files::find(core, id)?.are(&text.files) {
        return Ok(turn);
    }
    Err(StoreError::io("lock", core.layout.cold(id))(io::ErrorKind::WouldBlock.into()))
}

/// Makes all of a session durable in a second place.
fn copy(core: &Arc<Core>, from: &Place, to: &Place) -> Result<(), StoreError> {
    core.create_dirs(&to.day)?;
    if let Ok(entries) = core.fs().read_dir(&from.sides) {
        core.create_dirs(&to.sides)?;
        for name in entries.iter().filter_map(|entry| entry.name.to_str()).filter(|name| is_hash(name)) {
            copy_file(core, &from.sides.join(name), &to.sides.join(name))?;
        }
        syncer::sync_folder(core, &to.sides)?;
        // Before the log has a name there.
        syncer::sync_day(core, &to.day)?;
    }
    copy_file(core, &from.log, &to.log)?;
    syncer::sync_day(core, &to.day)
}

/// Gives a file a second name, or a second file its bytes where that cannot be; what has the name is replaced at once.
fn copy_file(core: &Core, from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    remove_if_there(core, &part)?;
    match core.fs().hard_link(from, &part) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::io("link", from)(error)),
        Err(_) => copy_bytes(core, from, &part)?,
    }
    core.fs().rename(&part, to).map_err(StoreError::io("rename", &part))?;
    // Where both were names of one file already, nothing was renamed.
    remove_if_there(core, &part)
}

fn copy_bytes(core: &Core, from: &Path, to: &Path) -> Result<(), StoreError> {
    let source = core.open(from, OpenMode::Read).map_err(StoreError::io("open", from))?;
    let bytes = source.stat().map_err(StoreError::io("look at", from))?.size;
    let file = writer::open_or_create(core, to).map_err(StoreError::io("create", to))?;
    copy_all_at(&*file, 0, &*source, 0..bytes).map_err(StoreError::io("copy", from))?;
    syncer::sync_file(core, &*file, to)
}

/// Removes a session from a place that it has left.
fn remove(core: &Core, place: &Place) -> Result<(), StoreError> {
    if core.fs().stat(&place.day).is_err() {
        return Ok(());
    }
    remove_if_there(core, &place.log)?;
    syncer::sync_folder(core, &place.day)?;
    remove_folder(core, &place.sides)?;
    syncer::sync_folder(core, &place.day)
}
