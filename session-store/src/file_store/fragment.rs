//! What a crash left after the last newline of a log: a line that was never whole, or whatever else stands there.
//!
//! **Promise.** No byte of it is lost. Its start is kept in `recovered`; where that is not all of it, the whole is a side file,
//! durable before the line that names it. Only when that line is durable is the fragment blanked, so that other tools
//! can read the file as JSON lines.

use super::engine::Core;
use super::read::{Folded, open_log};
use super::{syncer, writer};
use crate::error::StoreError;
use crate::event::{Recovered, SideRef};
use crate::fs::{File, OpenMode, for_each_chunk, read_full_at, write_all_at};
use crate::id::SessionId;
use crate::side::hexadecimal;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// How much of a fragment is kept in `recovered` itself.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// Where the fragment stands that has to be put aside. One that lacks only its newline is no fragment but a record.
pub(super) fn range(folded: &Folded) -> Option<Range<u64>> {
    match folded.fragment {
        Some((offset, false)) => Some(offset..folded.length),
        _ => None,
    }
}

/// What `recovered` says of the fragment, where there is one; what does not fit into it is durable on return.
pub(super) fn keep(core: &Core, id: SessionId, log: &dyn File, folded: &Folded) -> Result<Option<Recovered>, StoreError> {
    let Some(range) = range(folded) else { return Ok(None) };
    let bytes = range.end - range.start;
    let mut start = vec![0; usize::try_from(bytes.min(INLINE_BYTES_MAX)).unwrap_or(0)];
    let length = read_full_at(log, &mut start, range.start).map_err(StoreError::io("read", core.layout.log(id)))?;
    start.truncate(length);
    let full = if bytes > INLINE_BYTES_MAX { Some(keep_whole(core, id, log, range.clone())?) } else { None };
    Ok(Some(Recovered { offset: range.start, bytes, fragment: as_text(start, full.is_some()), full }))
}

/// Copies the fragment into a side file, a chunk at a time: it may be of any length.
fn keep_whole(core: &Core, id: SessionId, log: &dyn File, range: Range<u64>) -> Result<SideRef, StoreError> {
    let (path, folder) = (core.layout.log(id), core.layout.sides(id));
    let mut hash = Sha256::new();
    let mut bytes = 0;
    for_each_chunk(log, range.clone(), |chunk, _| {
        hash.update(chunk);
        bytes += chunk.len() as u64;
        Ok(())
    })
    .map_err(StoreError::io("read", &path))?;
    let side = SideRef { sha256: hexadecimal(&hash.finalize()), bytes };

    core.create_dirs(&folder)?;
    let side_path = folder.join(&side.sha256);
    let file = writer::open_or_create(core, &side_path).map_err(StoreError::io("create", &side_path))?;
    for_each_chunk(log, range.clone(), |chunk, offset| write_all_at(&*file, chunk, offset - range.start))
        .map_err(StoreError::io("write", &side_path))?;
    syncer::sync_file(core, &*file, &side_path)?;
    syncer::sync_folder(core, &folder)?;
    syncer::sync_day(core, &core.layout.day(id))?;
    Ok(side)
}

/// The fragment as text; of one that goes on, a character that was cut at the end is left out.
fn as_text(bytes: Vec<u8>, goes_on: bool) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let (valid, bytes) = (error.utf8_error(), error.as_bytes());
        match bytes.get(..valid.valid_up_to()) {
            Some(text) if goes_on && valid.error_len().is_none() => String::from_utf8_lossy(text).into_owned(),
            _ => format!("hex:{}", hexadecimal(bytes)),
        }
    })
}

/// Overwrites the fragment with spaces.
pub(super) fn blank(core: &Core, id: SessionId, folded: &Folded) -> Result<(), StoreError> {
    let Some(Range { start: mut offset, end }) = range(folded) else { return Ok(()) };
    let path = core.layout.log(id);
    let file = open_log(core, id, OpenMode::InPlace)?;
    let blanks = vec![b' '; 64 << 10];
    while offset < end {
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(blanks.len());
        write_all_at(&*file, &blanks[..length], offset).map_err(StoreError::io("write", &path))?;
        offset += length as u64;
    }
    Ok(())
}
