//! What became of a session's file while nobody looked: is it what its writer left?
//!
//! A file that was replaced, cut, or written by another is not ours any more: the session is lost, and nothing is written
//! to it. A path that leads nowhere is only trouble for a while: the file was moved away, or its file system is not mounted. If that is mounted and the file
//! does not come back, the session is lost too. When the path leads
//! somewhere again, the file there goes on if it holds what we know: nothing but our own bytes behind the last durable line, whose
//! checksum covers all lines before it. An owner that took over meanwhile has made it longer.

use super::engine::Core;
use super::lock;
use super::session::{Disk, Session};
use crate::error::StoreError;
use crate::fs::{File, OpenMode, Stat, read_full_at, write_all_at};
use crate::line::CRC_BYTES;
use std::io;
use std::path::Path;
use std::time::Instant;

/// Whether the session's file is what its writer left. It costs one `stat`, unless the file was away.
///
/// # Errors
/// [`StoreError::Lost`] where it is not; [`StoreError::Io`] where it is not there, and may come back.
pub(super) fn check(core: &Core, session: &Session, disk: &mut Disk) -> Result<(), StoreError> {
    let path = core.layout.log(session.id);
    let stat = match core.fs().stat(&path) {
        Err(error) if is_missing(&error) => {
            let since = *disk.missing_since.get_or_insert_with(Instant::now);
            // What went into a file without a name is not to be relied on.
            disk.suspect = true;
            core.files.close(disk);
            if since.elapsed() >= core.options.gone_after && has_its_disk(core, &path, disk) {
                return Err(StoreError::Lost { id: session.id, why: "its file was removed".to_owned() });
            }
            return Err(StoreError::io("find", &path)(io::Error::new(error.kind(), "it was removed, or its disk is gone")));
        }
        stat => stat.map_err(StoreError::io("look at", &path))?,
    };
    let is_same = (stat.device, stat.inode) == disk.identity && stat.links > 0;
    if is_same && stat.size == disk.end {
        disk.missing_since = None;
        return Ok(());
    }
    // A file system that is mounted anew may be another device, with the same files.
    if disk.missing_since.is_some() || stat.device != disk.identity.0 {
        return recognise(core, session, disk, &path, stat);
    }
    let why = if !is_same {
        "its file was replaced by another".to_owned()
    } else if stat.size > disk.end {
        format!("another process wrote {} bytes to its file", stat.size - disk.end)
    } else {
        format!("its file was cut from {} to {} bytes", disk.end, stat.size)
    };
    Err(StoreError::Lost { id: session.id, why })
}

/// The same for a descriptor that was opened by path just now or has just written, where one `fstat` tells it.
pub(super) fn check_open(core: &Core, session: &Session, disk: &mut Disk, file: &dyn File) -> Result<(), StoreError> {
    if is_as_left(disk, file) { Ok(()) } else { check(core, session, disk) }
}

/// Whether `file` is what the session's writer left.
pub(super) fn is_as_left(disk: &Disk, file: &dyn File) -> bool {
    let is_it = |stat: Stat| (stat.device, stat.inode) == disk.identity && stat.links > 0 && stat.size == disk.end;
    disk.missing_since.is_none() && file.stat().is_ok_and(is_it)
}

/// Whether the disk that the file at `path` was on is there.
fn has_its_disk(core: &Core, path: &Path, disk: &Disk) -> bool {
    let above = path.ancestors().skip(1).find_map(|folder| core.fs().stat(folder).ok());
    above.is_some_and(|folder| folder.device == disk.identity.0)
}

/// Whether `error` says that the path leads nowhere, rather than why it cannot be followed.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::StaleNetworkFileHandle)
}

/// Goes on with a file that came back, where it holds what we know; what it lost of our last bytes it gets again. Everything behind the durable end is written again before any
/// of it counts, and so is the entry of its folder.
fn recognise(core: &Core, session: &Session, disk: &mut Disk, path: &Path, stat: Stat) -> Result<(), StoreError> {
    core.files.close(disk);
    let file = core.open(path, OpenMode::Read).map_err(StoreError::io("open", path))?;
    if !is_ours(session, disk, &*file, stat.size).map_err(StoreError::io("read", path))? {
        let why = "the file that is there by now is not the one that it wrote".to_owned();
        return Err(StoreError::Lost { id: session.id, why });
    }
    write_rest(core, session, disk, path, stat.size)?;
    disk.identity = (stat.device, stat.inode);
    disk.missing_since = None;
    disk.suspect = true;
    disk.entry = Some(core.folders.came_back(&core.layout.day(session.id)));
    Ok(())
}

/// Whether a file of `size` bytes has our last durable line in its place, and behind it nothing but our own bytes.
fn is_ours(session: &Session, disk: &Disk, file: &dyn File, size: u64) -> io::Result<bool> {
    let (durable_end, crc, chunks) = {
        let buffer = lock(&session.buffer);
        (buffer.durable_end, buffer.durable_crc(), buffer.chunks_before(disk.end))
    };
    if size < durable_end || size > disk.end {
        return Ok(false);
    }
    if durable_end > 0 {
        let end = format!(",\"crc\":\"{crc:08x}\"}}\n");
        if !holds(file, end.as_bytes(), durable_end.saturating_sub(CRC_BYTES as u64 + 1))? {
            return Ok(false);
        }
    }
    for chunk in chunks {
        let from = durable_end.max(chunk.offset);
        let bytes = chunk.from(from);
        let there = usize::try_from(size.saturating_sub(from)).unwrap_or(usize::MAX).min(bytes.len());
        if !holds(file, &bytes[..there], from)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a file of `size` bytes as long as its writer left it.
fn write_rest(core: &Core, session: &Session, disk: &Disk, path: &Path, size: u64) -> Result<(), StoreError> {
    if size == disk.end {
        return Ok(());
    }
    let file = core.open(path, OpenMode::InPlace).map_err(StoreError::io("open", path))?;
    let chunks = lock(&session.buffer).chunks_before(disk.end);
    for chunk in chunks {
        let from = size.max(chunk.offset);
        let there = usize::try_from(disk.end.saturating_sub(from)).unwrap_or(usize::MAX);
        let bytes = chunk.from(from);
        write_all_at(&*file, &bytes[..there.min(bytes.len())], from).map_err(StoreError::io("write", path))?;
    }
    Ok(())
}

fn holds(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<bool> {
    let mut found = vec![0; bytes.len()];
    let length = read_full_at(file, &mut found, offset)?;
    Ok(found.get(..length) == Some(bytes))
}
