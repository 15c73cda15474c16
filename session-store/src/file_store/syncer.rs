//! The syncers: make durable what the writer wrote.
//!
//! There are two, alike but for whom they serve: the background one takes every file that was written; the commit one
//! takes the sessions that somebody waits for, writes what they have, and syncs them first. Whoever asks while a round runs
//! joins the next.
//!
//! An entry of a folder is synced once, before the first event of its file counts as durable. After a failed sync the
//! page cache shows bytes that the disk does not have, and a second sync says that all is well. So everything since the last clean
//! sync is written again in the same place, through a new descriptor, and synced before any of it counts.

use super::buffer::{Buffer, Side};
use super::engine::Core;
use super::lane::{Due, Lane};
use super::session::{Attempt, Disk, Session};
use super::writer::{self, Wrote};
use super::{fate, lock, rescue};
use crate::error::StoreError;
use crate::fs::{File, OpenMode, write_all_at};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that are synced at the same time.
const THREADS_MAX: usize = 16;
/// So many files for each thread at least: to start one costs about a fifth of a quick sync.
const FILES_PER_THREAD: usize = 2;

/// The background syncer's thread.
pub(super) fn run_background(core: &Core) {
    while let Some(sessions) = core.background.take(None) {
        sync_round(core, &core.background, &sessions);
    }
}

/// The waiters' thread.
pub(super) fn run_commit(core: &Core) {
    while let Some(sessions) = core.commit.take(None) {
        let mut round = Wrote::default();
        let (mut written, mut more) = (Vec::new(), Vec::new());
        for session in sessions {
            match writer::write(core, &session) {
                Ok(wrote) => {
                    round.events += wrote.events;
                    round.bytes += wrote.bytes;
                    if wrote.more {
                        more.push(Arc::clone(&session));
                    }
                    written.push(session);
                }
                Err(error) => core.failed(&session, Attempt::Write, error, &core.writer),
            }
        }
        writer::count_batch(core, &round);
        sync_round(core, &core.background, &written);
        for session in more {
            core.commit.push(&session, Due::Now);
        }
    }
    // What failed above is tried again by the writer and the background syncer.
    core.writer.stop();
}

/// Syncs `sessions`, their folders first; what fails is tried again in the lane `again`.
fn sync_round(core: &Core, again: &Lane, sessions: &[Arc<Session>]) {
    let failed_days = sync_days(core, sessions);
    each_of(sessions, |session| {
        let outcome = match failed_days.get(&core.layout.day(session.id)) {
            Some(error) => Err(error.again()),
            None => sync(core, session),
        };
        match outcome {
            Ok(()) => core.forget_if_released(session),
            Err(error) => core.failed(session, Attempt::Sync, error, again),
        }
    });
}

/// Calls `work` for each of `sessions`, on some threads where there are many.
fn each_of(sessions: &[Arc<Session>], work: impl Fn(&Arc<Session>) + Sync) {
    let threads = (sessions.len() / FILES_PER_THREAD).min(THREADS_MAX);
    if threads < 2 {
        return sessions.iter().for_each(work);
    }
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(session) = sessions.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(session);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be started leaves its share to the others.
            let _ = std::thread::Builder::new().name("session-sync".to_owned()).spawn_scoped(scope, worker);
        }
        worker();
    });
}

/// Makes the entries of new files durable, each folder once for all of them; says which folders failed.
fn sync_days(core: &Core, sessions: &[Arc<Session>]) -> HashMap<PathBuf, StoreError> {
    let mut days: HashMap<PathBuf, Vec<(&Session, u64)>> = HashMap::new();
    for session in sessions {
        let disk = lock(&session.disk);
        if disk.durable_entries < disk.entries {
            days.entry(core.layout.day(session.id)).or_default().push((session, disk.entries));
        }
    }
    let mut failed = HashMap::new();
    for (day, sessions) in days {
        match sync_day(core, &day) {
            Ok(()) => sessions.iter().for_each(|(session, entries)| entries_are_durable(session, *entries)),
            Err(error) => {
                failed.insert(day, error);
            }
        }
    }
    failed
}

fn entries_are_durable(session: &Session, entries: u64) {
    let mut disk = lock(&session.disk);
    disk.durable_entries = disk.durable_entries.max(entries);
}

/// Makes the entries of a day's folder durable, and once also those that lead to it.
pub(super) fn sync_day(core: &Core, day: &Path) -> Result<(), StoreError> {
    let is_known = lock(&core.durable_days).contains(day);
    let chain = core.layout.chain(day);
    for folder in chain.iter().take(if is_known { 1 } else { chain.len() }) {
        sync_folder(core, folder)?;
    }
    // Each is taken out only when it is durable: another round may ask at the same time.
    let above_home = lock(&core.above_home).clone();
    for folder in above_home {
        sync_folder(core, &folder)?;
        lock(&core.above_home).remove(&folder);
    }
    if !is_known {
        lock(&core.durable_days).insert(day.to_path_buf());
    }
    Ok(())
}

pub(super) fn sync_folder(core: &Core, folder: &Path) -> Result<(), StoreError> {
    core.counters.syncs.fetch_add(1, Ordering::Relaxed);
    core.fs().sync_dir(folder).map_err(StoreError::io("sync", folder))
}

/// Makes durable what is written of a session.
pub(super) fn sync(core: &Core, session: &Session) -> Result<(), StoreError> {
    let _one_at_a_time = lock(&session.syncing);
    let Some(job) = prepare(core, session)? else {
        session.nothing_to_sync();
        return Ok(());
    };
    let outcome = job.run(core, session);
    if outcome.is_err() {
        let mut disk = lock(&session.disk);
        disk.suspect = true;
        core.close_file(&mut disk);
        return outcome;
    }
    finish(core, session, &job);
    Ok(())
}

/// What one sync makes durable.
struct Job {
    /// Nothing where only side files wait.
    file: Option<Arc<dyn File>>,
    end: u64,
    sides: Vec<Arc<Side>>,
    /// How many entries of the day's folder have to be durable, where they are not.
    entries: Option<u64>,
    was_suspect: bool,
}

fn prepare(core: &Core, session: &Session) -> Result<Option<Job>, StoreError> {
    let mut disk = lock(&session.disk);
    let (durable_end, sides) = {
        let buffer = lock(&session.buffer);
        if buffer.is_lost() {
            return Ok(None);
        }
        let sides: Vec<Arc<Side>> = buffer.sides.iter().filter(|side| lock(&side.file).is_some()).cloned().collect();
        (buffer.durable_end, sides)
    };
    if disk.end == durable_end && sides.is_empty() {
        return Ok(None);
    }
    let was_suspect = disk.suspect;
    let file = if disk.end == durable_end {
        None
    } else if was_suspect {
        Some(write_again(core, session, &mut disk, durable_end)?)
    } else {
        Some(core.file(session.id, &mut disk)?)
    };
    if was_suspect {
        write_sides_again(core, session, &sides)?;
    }
    // The round synced the day's folder; a folder for side files may have been made since.
    let entries = Some(disk.entries).filter(|entries| *entries > disk.durable_entries);
    Ok(Some(Job { file, end: disk.end, sides, entries, was_suspect }))
}

impl Job {
    fn run(&self, core: &Core, session: &Session) -> Result<(), StoreError> {
        if let Some(entries) = self.entries {
            sync_day(core, &core.layout.day(session.id))?;
            entries_are_durable(session, entries);
        }
        let folder = core.layout.sides(session.id);
        for side in &self.sides {
            // Not held across the sync: the writer looks at it with every batch.
            let file = lock(&side.file).clone();
            if let Some(file) = file {
                sync_file(core, &*file, &folder.join(&side.side.sha256))?;
            }
        }
        if !self.sides.is_empty() {
            sync_folder(core, &folder)?;
        }
        match &self.file {
            Some(file) => sync_file(core, &**file, &core.layout.log(session.id)),
            None => Ok(()),
        }
    }
}

pub(super) fn sync_file(core: &Core, file: &dyn File, path: &Path) -> Result<(), StoreError> {
    core.counters.syncs.fetch_add(1, Ordering::Relaxed);
    file.sync_data().map_err(StoreError::io("sync", path))
}

/// Writes everything after the durable end once more, in the same place.
fn write_again(core: &Core, session: &Session, disk: &mut Disk, durable_end: u64) -> Result<Arc<dyn File>, StoreError> {
    fate::check(core, session, disk)?;
    let path = core.layout.log(session.id);
    // The writer's descriptor is new as well: what a sync of it says is about what it wrote itself.
    core.close_file(disk);
    core.file(session.id, disk)?;
    let file = core.fs().open(&path, OpenMode::InPlace).map_err(StoreError::io("open", &path))?;
    let chunks = lock(&session.buffer).chunks_before(disk.end);
    let mut offset = durable_end;
    for chunk in chunks {
        let end = chunk.end().min(disk.end);
        let bytes = chunk.from(offset);
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(bytes.len());
        write_all_at(&*file, &bytes[..length], offset).map_err(StoreError::io("write", &path))?;
        core.counters.writes.fetch_add(1, Ordering::Relaxed);
        offset = end;
    }
    Ok(file)
}

fn write_sides_again(core: &Core, session: &Session, sides: &[Arc<Side>]) -> Result<(), StoreError> {
    for side in sides {
        let path = core.layout.sides(session.id).join(&side.side.sha256);
        let file = writer::open_or_create(core, &path).map_err(StoreError::io("open", &path))?;
        write_all_at(&*file, &side.bytes, 0).map_err(StoreError::io("write", &path))?;
        *lock(&side.file) = Some(file);
    }
    Ok(())
}

fn finish(core: &Core, session: &Session, job: &Job) {
    let mut disk = lock(&session.disk);
    if job.was_suspect {
        // What was appended meanwhile went through a descriptor of its own, opened after the failure.
        disk.suspect = false;
    }
    let mut buffer = lock(&session.buffer);
    let before = buffer.counted_bytes();
    let freed_chunks = buffer.mark_durable(job.end, &job.sides);
    let freed = before - buffer.counted_bytes();
    buffer.sync_trouble = None;
    if core.is_short_of_files() && disk.end == buffer.durable_end {
        core.close_file(&mut disk);
    }
    drop(buffer);
    drop(disk);
    {
        let mut histogram = lock(&core.counters.time_to_durable);
        for chunk in &freed_chunks {
            histogram.record(Buffer::age_micros(chunk));
        }
    }
    rescue::settle(core, session);
    core.pool.give_back(freed_chunks);
    core.freed(freed);
    // Last, so that whoever waited finds all counters right.
    session.publish(&lock(&session.buffer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_store::FileStoreOptions;
    use crate::id::SessionId;
    use crate::time::Timestamp;

    #[test]
    fn a_failure_that_is_told_after_another_lane_cured_it_goes_with_the_next_try() {
        let core = Core::new(FileStoreOptions::new("/nowhere"));
        let disk = Disk {
            file: None,
            identity: (0, 0),
            end: 0,
            suspect: false,
            is_missing: false,
            rescue: None,
            entries: 1,
            durable_entries: 1,
            has_side_folder: false,
        };
        let session = Session::new(SessionId::new(Timestamp::from_ms(0)), 1, Buffer::new(0, 0, 0), disk);
        let progress = session.progress.subscribe();
        session.fail(Attempt::Sync, StoreError::Closed);
        assert!(progress.borrow().trouble.is_some());
        assert!(sync(&core, &session).is_ok());
        assert!(progress.borrow().trouble.is_none());
    }
}
