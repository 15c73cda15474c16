//! The writer: takes what sessions have accepted to their files, all sessions in one batch, one `write` for each.
//!
//! Before and after each write it looks whether the file is what it left. What cannot be written stays in the buffer; the
//! owner is told at once, and it is tried again each window, by path, at the right place.

use super::buffer::{Chunk, Side, SideState};
use super::device::Device;
use super::engine::Core;
use super::lane::{LaneName, Patience, Work};
use super::session::{Attempt, Disk, Mark, Session};
use super::{fate, lock};
use crate::error::StoreError;
use crate::fs::{File, OpenMode, append_all, write_all_at};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What one session may write in one batch, so that a busy one does not hold up the others.
const BATCH_BYTES: u64 = 4 << 20;
/// A session that accepted nothing for this long gives up its memory and its descriptor.
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// What has more than this to write goes last in its round, and nobody waits for it to be synced.
const LARGE_BYTES: u64 = 1 << 20;
/// So many sessions are handed to the syncer at a time: it syncs them while the next are written.
const HANDED_ON: usize = 8192;
/// So many at least make more threads worth their start.
const MANY: usize = 256;

/// What a write did.
#[derive(Default)]
pub(super) struct Wrote {
    events: u64,
    bytes: u64,
    /// There is something to sync, and nobody else is at it.
    unsynced: bool,
    /// There is more than one batch takes.
    more: bool,
}

/// What a round wrote.
#[derive(Default)]
pub(super) struct Round {
    events: u64,
    bytes: u64,
    /// What has something to sync.
    pub(super) written: Vec<Arc<Session>>,
    pub(super) failed: Vec<Arc<Session>>,
    /// What has more to write.
    pub(super) more: Vec<Arc<Session>>,
}

/// The writer's thread.
pub(super) fn run(core: &Core, device: &Device) {
    let mut idling: VecDeque<(Instant, Arc<Session>)> = VecDeque::new();
    loop {
        let until = idling.front().map_or(Patience::Endless, |(at, _)| Patience::Until(*at));
        match device.writer.take(until) {
            Work::Batch(sessions) => {
                let _under_way = core.stalls.begin(device);
                write_round(core, device, &sessions);
                let now = Instant::now();
                for session in sessions {
                    if session.enter_resting() {
                        idling.push_back((now + IDLE_AFTER, session));
                    }
                }
            }
            Work::Nothing | Work::Piece(_) => {}
            Work::End => break,
        }
        let now = Instant::now();
        while idling.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, session)) = idling.pop_front() else { break };
            if rest(core, &session) {
                session.leave_resting();
            } else {
                idling.push_back((now + IDLE_AFTER, session));
            }
        }
        if idling.is_empty() && idling.capacity() > 0 {
            idling = VecDeque::new();
            core.pool.rest();
        }
    }
    // Only now is there nothing more for it to sync.
    device.background.stop();
}

fn write_round(core: &Core, device: &Device, sessions: &[Arc<Session>]) {
    let (large, mut small): (Vec<_>, Vec<_>) = sessions.iter().cloned().partition(|session| is_large(session));
    sort(&mut small);
    for part in small.chunks(HANDED_ON).chain(large.chunks(1)) {
        let round = write_all(core, part);
        device.background.push_all(&round.written);
        device.writer.push_all(&round.more);
    }
    device.writer.done(sessions);
}

/// Puts `sessions` in the order in which their files lie on the disk, more or less. The kernel writes back what was written in the
/// order in which it was written: for tens of thousands of files, a sync in no order takes five times as long.
pub(super) fn sort(sessions: &mut [Arc<Session>]) {
    sessions.sort_by_cached_key(|session| session.inode);
}

/// Whether a session has so much that is not durable that others do not wait for it.
pub(super) fn is_large(session: &Session) -> bool {
    lock(&session.buffer).bytes() > LARGE_BYTES
}

/// Writes what `sessions` have accepted, one batch of each at most, with some threads where there are many. What fails is told and
/// tried again by the writer.
pub(super) fn write_all(core: &Core, sessions: &[Arc<Session>]) -> Round {
    let round = Mutex::new(Round::default());
    in_parallel(core, sessions, |session| match write(core, session) {
        Ok(wrote) => {
            let mut round = lock(&round);
            round.events += wrote.events;
            round.bytes += wrote.bytes;
            if wrote.unsynced {
                round.written.push(Arc::clone(session));
            }
            if wrote.more {
                round.more.push(Arc::clone(session));
            }
        }
        Err(error) => {
            core.failed(session, Attempt::Write, error);
            lock(&round).failed.push(Arc::clone(session));
        }
    });
    let round = round.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if round.bytes > 0 {
        core.counters.batches.fetch_add(1, Ordering::Relaxed);
        core.counters.largest_batch_events.fetch_max(round.events, Ordering::Relaxed);
        core.counters.largest_batch_bytes.fetch_max(round.bytes, Ordering::Relaxed);
    }
    round
}

/// Calls `work` for each of `sessions`, on all cores where there are many.
pub(super) fn in_parallel<T: Sync>(core: &Core, items: &[T], work: impl Fn(&T) + Sync) {
    let threads = if items.len() < MANY { 1 } else { core.cores };
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item);
        }
    };
    if threads == 1 {
        return worker();
    }
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be started leaves its share to the others.
            let _ = std::thread::Builder::new().name("session-helper".to_owned()).spawn_scoped(scope, worker);
        }
        worker();
    });
}

/// Writes what a session has accepted, one batch at most.
pub(super) fn write(core: &Core, session: &Arc<Session>) -> Result<Wrote, StoreError> {
    let mut disk = lock(&session.disk);
    let (chunks, sides, end) = {
        let mut buffer = lock(&session.buffer);
        if buffer.is_lost() {
            return Ok(Wrote::default());
        }
        if disk.end == buffer.durable_end {
            disk.generation = session.device.generation();
        }
        (buffer.chunks_from(disk.end, BATCH_BYTES), buffer.sides.clone(), buffer.end())
    };
    for side in &sides {
        write_side(core, session, &mut disk, side)?;
    }
    let from = disk.end;
    // A file that was away is looked for also where nothing is left to write.
    if !chunks.is_empty() || disk.missing_since.is_some() {
        write_chunks(core, session, &mut disk, &chunks)?;
    }
    let mut buffer = lock(&session.buffer);
    let events = buffer.mark_written(disk.end);
    session.count(&mut buffer);
    let is_cured = buffer.write_trouble.take().is_some();
    if events > 0 || is_cured {
        session.publish(&buffer);
    }
    let bytes = disk.end - from;
    // What was written before is synced by who serves those who wait, unless a failure came between.
    let is_served = session.has(LaneName::Commit, Mark::Served);
    let unsynced = disk.end > buffer.durable_end && (bytes > 0 || is_cured || !is_served);
    Ok(Wrote { events, bytes, unsynced: unsynced || !sides.is_empty(), more: disk.end < end })
}

fn write_chunks(core: &Core, session: &Arc<Session>, disk: &mut Disk, chunks: &[Arc<Chunk>]) -> Result<(), StoreError> {
    let file = log_file(core, session, disk)?;
    let started = Instant::now();
    let outcome = append_chunks(core, &*file, chunks, disk);
    lock(&core.counters.time_of_writes).record_duration(started.elapsed());
    // A file that is not as long as what went into it has another writer.
    let checked = fate::check_open(core, session, disk, &*file);
    if outcome.is_err() || checked.is_err() {
        // The next try opens it again by path, and nothing that this descriptor wrote is relied on.
        disk.suspect = true;
        core.files.close(disk);
        let mut buffer = lock(&session.buffer);
        buffer.mark_written(disk.end);
        session.count(&mut buffer);
    }
    checked?;
    outcome.map_err(StoreError::io("write", core.layout.log(session.id)))
}

/// The descriptor of the session's log, which is what its writer left.
fn log_file(core: &Core, session: &Arc<Session>, disk: &mut Disk) -> Result<Arc<dyn File>, StoreError> {
    let path = core.layout.log(session.id);
    match core.files.of(disk) {
        // What is at the path now may be another file.
        Some(file) => {
            fate::check(core, session, disk)?;
            if disk.file.is_some() {
                return Ok(file);
            }
        }
        // What was just opened by path is what is there.
        None if disk.missing_since.is_none() => {
            if let Ok(file) = core.open(&path, OpenMode::Append)
                && fate::is_as_left(disk, &*file)
            {
                core.files.keep(session, disk, Arc::clone(&file));
                return Ok(file);
            }
            fate::check(core, session, disk)?;
        }
        None => fate::check(core, session, disk)?,
    }
    let file = core.open(&path, OpenMode::Append).map_err(StoreError::io("open", &path))?;
    core.files.keep(session, disk, Arc::clone(&file));
    Ok(file)
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
    let mut state = lock(&side.state);
    if !matches!(*state, SideState::Accepted) {
        return Ok(());
    }
    let folder = core.layout.sides(session.id);
    if !disk.has_side_folder {
        match core.fs().create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(StoreError::io("create", &folder)(error)),
            _ => {
                disk.has_side_folder = true;
                disk.entry = Some(core.folders.entry_made(&core.layout.day(session.id)));
            }
        }
    }
    let path = folder.join(&side.side.sha256);
    let file = open_or_create(core, &path).map_err(StoreError::io("create", &path))?;
    write_all_at(&*file, &side.bytes, 0).map_err(StoreError::io("write", &path))?;
    core.counters.writes.fetch_add(1, Ordering::Relaxed);
    *state = if core.files.is_full() { SideState::Closed } else { SideState::Open(file) };
    Ok(())
}

/// A side file is written in place, because an earlier try may have left a part of it.
pub(super) fn open_or_create(core: &Core, path: &std::path::Path) -> io::Result<Arc<dyn File>> {
    match core.open(path, OpenMode::CreateNew) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    core.open(path, OpenMode::InPlace)
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
        core.files.close(&mut disk);
        buffer.rest()
    };
    drop(memory);
    core.forget_if_released(session);
    true
}
