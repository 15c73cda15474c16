//! The writer: takes what sessions have accepted to their files, all sessions in one batch, one `write` for each.
//!
//! Before and after each write it looks whether the file is what it left. What cannot be written stays in the buffer; the
//! owner is told at once, and it is tried again each window, by path, at the right place.

use super::buffer::{Chunk, Side};
use super::engine::Core;
use super::lane::Due;
use super::session::{Attempt, Disk, Session};
use super::{fate, lock};
use crate::error::StoreError;
use crate::fs::{File, OpenMode, append_all, write_all_at};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What one session may write in one batch, so that a busy one does not hold up the others.
const BATCH_BYTES: u64 = 4 << 20;
/// A session that accepted nothing for this long gives up its memory and its descriptor.
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// What a write did.
#[derive(Default)]
pub(super) struct Wrote {
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// There were side files.
    sides: bool,
    /// There is more than one batch takes.
    pub(super) more: bool,
}

/// The writer's thread.
pub(super) fn run(core: &Core) {
    let mut idling = VecDeque::new();
    while let Some(sessions) = core.writer.take(idling.front().map(|(at, _)| *at)) {
        write_round(core, &sessions);
        let now = Instant::now();
        for session in sessions {
            if session.enter_resting() {
                idling.push_back((now + IDLE_AFTER, session));
            }
        }
        while idling.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, session)) = idling.pop_front() else { break };
            if rest(core, &session) {
                session.leave_resting();
            } else {
                idling.push_back((now + IDLE_AFTER, session));
            }
        }
    }
    // Only now is there nothing more for it to sync.
    core.background.stop();
}

fn write_round(core: &Core, sessions: &[Arc<Session>]) {
    let mut round = Wrote::default();
    for session in sessions {
        match write(core, session) {
            Ok(wrote) => {
                round.events += wrote.events;
                round.bytes += wrote.bytes;
                if wrote.bytes > 0 || wrote.sides {
                    core.background.push(session, Due::Now);
                }
                if wrote.more {
                    core.writer.push(session, Due::Now);
                }
            }
            Err(error) => core.failed(session, Attempt::Write, error, &core.writer),
        }
    }
    count_batch(core, &round);
}

pub(super) fn count_batch(core: &Core, wrote: &Wrote) {
    if wrote.bytes > 0 {
        core.counters.batches.fetch_add(1, Ordering::Relaxed);
        core.counters.largest_batch_events.fetch_max(wrote.events, Ordering::Relaxed);
        core.counters.largest_batch_bytes.fetch_max(wrote.bytes, Ordering::Relaxed);
    }
}

/// Writes what a session has accepted, one batch at most.
pub(super) fn write(core: &Core, session: &Session) -> Result<Wrote, StoreError> {
    let mut disk = lock(&session.disk);
    let (chunks, sides, end) = {
        let mut buffer = lock(&session.buffer);
        if buffer.is_lost() {
            return Ok(Wrote::default());
        }
        (buffer.chunks_from(disk.end, BATCH_BYTES), buffer.sides.clone(), buffer.end())
    };
    for side in &sides {
        write_side(core, session, &mut disk, side)?;
    }
    let from = disk.end;
    // A file that was away is looked for also where nothing is left to write.
    if !chunks.is_empty() || disk.is_missing {
        write_chunks(core, session, &mut disk, &chunks)?;
    }
    let mut buffer = lock(&session.buffer);
    let events = buffer.mark_written(disk.end);
    let is_cured = buffer.write_trouble.take().is_some();
    if events > 0 || is_cured {
        session.publish(&buffer);
    }
    Ok(Wrote { events, bytes: disk.end - from, sides: !sides.is_empty(), more: disk.end < end })
}

fn write_chunks(core: &Core, session: &Session, disk: &mut Disk, chunks: &[Arc<Chunk>]) -> Result<(), StoreError> {
    fate::check(core, session, disk)?;
    let file = core.file(session.id, disk)?;
    let outcome = append_chunks(core, &*file, chunks, disk);
    // A file that is not as long as what went into it has another writer.
    fate::check(core, session, disk)?;
    if outcome.is_err() {
        // The next try opens it again by path, and nothing that this descriptor wrote is relied on.
        disk.suspect = true;
        core.close_file(disk);
        let mut buffer = lock(&session.buffer);
        buffer.mark_written(disk.end);
    }
    outcome.map_err(StoreError::io("write", core.layout.log(session.id)))
}

/// Appends `chunks` from the file's end on; one call, unless the system takes less than all.
fn append_chunks(core: &Core, file: &dyn File, chunks: &[Arc<Chunk>], disk: &mut Disk) -> io::Result<()> {
    let mut parts: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk.from(disk.end))).collect();
    append_all(file, &mut parts, |count| {
        disk.end += count;
        core.counters.writes.fetch_add(1, Ordering::Relaxed);
        core.counters.bytes.fetch_add(count, Ordering::Relaxed);
    })
}

/// Writes a side file, unless it is written. It is durable before a line that names it counts as durable, because the
/// syncers take side files first.
fn write_side(core: &Core, session: &Session, disk: &mut Disk, side: &Side) -> Result<(), StoreError> {
    let mut written = lock(&side.file);
    if written.is_some() {
        return Ok(());
    }
    let folder = core.layout.sides(session.id);
    if !disk.has_side_folder {
        match core.fs().create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(StoreError::io("create", &folder)(error)),
            _ => {
                disk.has_side_folder = true;
                disk.entries += 1;
            }
        }
    }
    let path = folder.join(&side.side.sha256);
    let file = open_or_create(core, &path).map_err(StoreError::io("create", &path))?;
    write_all_at(&*file, &side.bytes, 0).map_err(StoreError::io("write", &path))?;
    core.counters.writes.fetch_add(1, Ordering::Relaxed);
    *written = Some(file);
    Ok(())
}

/// A side file is written in place, because an earlier try may have left a part of it.
pub(super) fn open_or_create(core: &Core, path: &std::path::Path) -> io::Result<Arc<dyn File>> {
    match core.fs().open(path, OpenMode::CreateNew) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    core.fs().open(path, OpenMode::InPlace)
}

/// Gives up what an idle session does not need; false where it is not idle.
fn rest(core: &Core, session: &Arc<Session>) -> bool {
    let memory = {
        let mut disk = lock(&session.disk);
        let mut buffer = lock(&session.buffer);
        let is_idle = buffer.last_append.is_none_or(|last| last.elapsed() >= IDLE_AFTER);
        let is_clean = buffer.durable == buffer.accepted && buffer.sides.is_empty();
        if buffer.is_lost() {
            return true;
        }
        if !is_idle || !is_clean {
            return false;
        }
        core.close_file(&mut disk);
        buffer.rest()
    };
    drop(memory);
    core.forget_if_released(session);
    true
}
