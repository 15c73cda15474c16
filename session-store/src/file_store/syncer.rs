//! The syncers: make durable what the writer wrote.
//!
//! Each device has two, alike but for whom they serve: the background one takes every file that was written; the commit one
//! takes the sessions that somebody waits for, writes what they have, and syncs them. Nobody who waits waits for the
//! background: whatever it does, the two have threads of their own.
//!
//! **Threads.** A syncer is one thread, and helpers that come when it is busy and go when they are idle: before a thread goes into a
//! sync it sees to it that another one waits for what comes meanwhile. What many files need is shared out one by one, so one that is slow, or
//! hangs, holds up no other.
//!
//! **Ways.** Files are synced by themselves, or with the whole file system at once where that is cheaper ([`super::cost`]) and
//! tells of every failure ([`super::device`]). A session with side files, with much to sync, or with something that another descriptor has to
//! answer for goes by itself.
//!
//! An entry of a folder is synced once, before the first event of its file counts as durable. After a failed sync the
//! page cache shows bytes that the disk does not have, and a second sync says that all is well. So everything since the last clean
//! sync is written again in the same place, through a new descriptor, and synced before any of it counts.

use super::buffer::{Buffer, Side, SideState};
use super::cost::{Load, Way};
use super::device::{Device, VolumeSync};
use super::engine::Core;
use super::folders::SyncNumber;
use super::lane::{Due, Lane, Patience, Work};
use super::session::{Attempt, Disk, Session};
use super::writer::{self, in_parallel};
use super::{ballast, fate, lock};
use crate::error::StoreError;
use crate::fs::{File, OpenMode, write_all_at};
use crate::id::SessionId;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Threads of a syncer beside the first.
const HELPERS_MAX: usize = 15;
/// A helper that has nothing to do for this long ends.
const HELPER_IDLE: Duration = Duration::from_secs(2);
/// From so many files on the background may sync the whole file system, ...
const BACKGROUND_VOLUME_MIN: usize = 8;
/// ... and from so many on the commit syncer may: who waits for a few is not to wait for what everybody else wrote.
const COMMIT_VOLUME_MIN: usize = 256;
/// Of a larger round no more than this tries the way that looks dearer.
const TRIAL_FILES: usize = 128;

/// The background syncer's thread.
pub(super) fn run_background(core: &Core, device: &Device) {
    Syncer { core, device, lane: &device.background, is_commit: false }.run();
}

/// The waiters' thread.
pub(super) fn run_commit(core: &Core, device: &Device) {
    Syncer { core, device, lane: &device.commit, is_commit: true }.run();
    // What failed in it is tried again by the writer and the background syncer.
    device.writer.stop();
}

struct Syncer<'a> {
    core: &'a Core,
    device: &'a Device,
    lane: &'a Lane,
    is_commit: bool,
}

/// One of the sessions that a round syncs by themselves.
pub(super) struct Piece {
    session: Arc<Session>,
    round: Arc<Round>,
}

/// How the sessions of a batch are synced.
struct Plan {
    alone: Vec<Arc<Session>>,
    /// What `alone` is a part of, where it tries how long all would take.
    stands_for: Option<Load>,
    together: Vec<Arc<Session>>,
}

/// Sessions that are synced by themselves: how much there is, and what it takes, for the estimate.
struct Round {
    part: Load,
    /// What it stands for: more than itself where a part tries a way.
    load: Load,
    started: Instant,
    left: AtomicUsize,
}

impl Syncer<'_> {
    fn run(&self) {
        std::thread::scope(|scope| self.work(scope, None));
    }

    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, patience: Option<Duration>) {
        loop {
            let patience = patience.map_or(Patience::Endless, |time| Patience::Helper(Instant::now() + time));
            let work = self.lane.take(patience);
            let _under_way = matches!(work, Work::Batch(_) | Work::Piece(_)).then(|| self.core.stalls.begin(self.device));
            match work {
                Work::Batch(sessions) => self.serve(scope, sessions),
                Work::Piece(piece) => {
                    self.want_helper(scope);
                    let mut sessions = vec![Arc::clone(&piece.session)];
                    if self.is_commit && writer::is_large(&piece.session) {
                        self.write(&mut sessions);
                    }
                    if !sessions.is_empty() {
                        self.sync_piece(&piece);
                    }
                }
                Work::Nothing => {}
                Work::End => return,
            }
        }
    }

    /// Sees to it that somebody waits for work while this thread is in a sync.
    fn want_helper<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        if self.lane.wants_helper(HELPERS_MAX) {
            let helper = std::thread::Builder::new().name("session-helper".to_owned());
            if helper.spawn_scoped(scope, || self.work(scope, Some(HELPER_IDLE))).is_err() {
                self.lane.helper_ended();
            }
        }
    }

    fn serve<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, sessions: Vec<Arc<Session>>) {
        // Nobody waits for a large one to be written.
        let (large, mut sessions) = sessions.into_iter().partition::<Vec<_>, _>(|session| writer::is_large(session));
        self.share(large);
        if self.is_commit {
            writer::sort(&mut sessions);
            self.write(&mut sessions);
        }
        self.take_out_durable(&mut sessions);
        if sessions.is_empty() {
            return;
        }
        self.want_helper(scope);
        self.sync_days(&mut sessions);
        let Plan { alone, stands_for, together } = self.plan(sessions);
        let round = Arc::new(Round::new(&alone, stands_for));
        if let ([session], []) = (&alone[..], &together[..]) {
            self.sync_piece(&Piece { session: Arc::clone(session), round });
            return;
        }
        self.share_round(alone, &round);
        if !together.is_empty() {
            self.sync_together(together);
        }
    }

    /// Writes what was accepted. What fails is taken out; what has more to write is served again.
    fn write(&self, sessions: &mut Vec<Arc<Session>>) {
        let round = writer::write_all(self.core, sessions);
        self.lane.done(&round.failed);
        take_out(sessions, &round.failed);
        self.lane.push_all(&round.more);
    }

    /// What another lane made durable meanwhile is done.
    fn take_out_durable(&self, sessions: &mut Vec<Arc<Session>>) {
        let durable: Vec<_> = sessions.extract_if(.., |session| !session.has_unsynced()).collect();
        for session in &durable {
            session.nothing_to_sync();
            self.core.forget_if_released(session);
        }
        self.lane.done(&durable);
    }

    /// Divides `sessions` into those that are synced by themselves and those that are synced together.
    fn plan(&self, sessions: Vec<Arc<Session>>) -> Plan {
        let min = if self.is_commit { COMMIT_VOLUME_MIN } else { BACKGROUND_VOLUME_MIN };
        let now = Instant::now();
        if sessions.len() < min || !self.device.has_volume(self.core, now) {
            return Plan { alone: sessions, stands_for: None, together: Vec::new() };
        }
        let (mut alone, mut others) = (Vec::new(), sessions);
        let load = load_of(&others);
        let choice = lock(&self.device.costs).choose(load, self.with_all_others(load), now);
        match choice.way {
            Way::Files if choice.is_trial => alone.extend(others.drain(..others.len().min(TRIAL_FILES))),
            Way::Files => alone.append(&mut others),
            Way::Volume => {}
        }
        Plan { alone, stands_for: choice.is_trial.then_some(load), together: others }
    }

    /// What a sync of the whole file system takes with it, as far as this store knows, where `load` is to be synced.
    fn with_all_others(&self, load: Load) -> Load {
        let bytes = self.core.in_memory.load(Ordering::Relaxed);
        Load { files: self.device.unsynced().max(load.files), bytes: bytes.max(load.bytes) }
    }

    fn share(&self, sessions: Vec<Arc<Session>>) {
        let round = Arc::new(Round::new(&sessions, None));
        self.share_round(sessions, &round);
    }

    fn share_round(&self, sessions: Vec<Arc<Session>>, round: &Arc<Round>) {
        if !sessions.is_empty() {
            self.lane.share(sessions.into_iter().map(|session| Piece { session, round: Arc::clone(round) }).collect());
        }
    }

    fn sync_piece(&self, piece: &Piece) {
        let started = Instant::now();
        let outcome = sync(self.core, &piece.session);
        let counters = &self.core.counters;
        let time = if self.is_commit { &counters.time_of_commits } else { &counters.time_of_file_syncs };
        lock(time).record_duration(started.elapsed());
        self.told(&piece.session, outcome);
        self.lane.done([&piece.session]);
        let round = &piece.round;
        if round.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            lock(&self.device.costs).record(Way::Files, round.load, round.part, round.started.elapsed());
        }
    }

    fn told(&self, session: &Arc<Session>, outcome: Result<(), StoreError>) {
        match outcome {
            Ok(()) => self.core.forget_if_released(session),
            Err(error) => self.core.failed(session, Attempt::Sync, error),
        }
    }

    /// Syncs the whole file system for `sessions`; by themselves those for which that is not enough, and after a failure all.
    fn sync_together(&self, sessions: Vec<Arc<Session>>) {
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        let load = load_of(&sessions);
        let (load, outcome) = self.device.sync_volume(self.lane.name(), || {
            let load = self.with_all_others(load);
            for session in sessions {
                match end_for_volume(&session) {
                    Some(end) => together.push((session, end)),
                    None => alone.push(session),
                }
            }
            load
        });
        self.core.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.core.counters.volume_syncs.fetch_add(1, Ordering::Relaxed);
        match outcome {
            VolumeSync::Done(took) => {
                lock(&self.core.counters.time_of_volume_syncs).record_duration(took);
                lock(&self.device.costs).record(Way::Volume, load, load, took);
                in_parallel(self.core, &together, |(session, end)| {
                    let job = Job { file: None, end: *end, sides: Vec::new(), entry: None, was_suspect: false };
                    finish(self.core, session, &job);
                    self.core.forget_if_released(session);
                });
                self.lane.done(together.iter().map(|(session, _)| session));
            }
            VolumeSync::Failed(error) => {
                tracing::warn!(%error, "the file system did not sync; its sessions are written again and synced by themselves");
                self.core.counters.failures.fetch_add(1, Ordering::Relaxed);
                for (session, _) in together {
                    suspect(self.core, &mut lock(&session.disk));
                    alone.push(session);
                }
            }
        }
        self.share(alone);
    }

    /// Makes the entries of new files durable, each folder once for all of them. Where that fails it is told, and the session
    /// is taken out.
    fn sync_days(&self, sessions: &mut Vec<Arc<Session>>) {
        let mut days: HashMap<PathBuf, (SyncNumber, Vec<Arc<Session>>)> = HashMap::new();
        for session in &*sessions {
            // Where it is just written, its own sync sees to that: nobody else waits for the write.
            let entry = session.disk.try_lock().ok().and_then(|disk| disk.entry);
            if let Some(entry) = entry {
                let (needed, waiting) = days.entry(self.core.layout.day(session.id)).or_default();
                *needed = entry.max(*needed);
                waiting.push(Arc::clone(session));
            }
        }
        for (day, (needed, waiting)) in days {
            match sync_entries(self.core, &day, needed) {
                Ok(()) => waiting.iter().for_each(|session| entry_is_durable(session, needed)),
                Err(error) => {
                    waiting.iter().for_each(|session| self.told(session, Err(error.again())));
                    self.lane.done(&waiting);
                    take_out(sessions, &waiting);
                }
            }
        }
    }
}

impl Round {
    fn new(sessions: &[Arc<Session>], stands_for: Option<Load>) -> Self {
        let part = load_of(sessions);
        Self { part, load: stands_for.unwrap_or(part), started: Instant::now(), left: AtomicUsize::new(sessions.len()) }
    }
}

fn load_of(sessions: &[Arc<Session>]) -> Load {
    Load { files: sessions.len(), bytes: sessions.iter().map(|session| lock(&session.buffer).bytes()).sum() }
}

fn take_out(sessions: &mut Vec<Arc<Session>>, gone: &[Arc<Session>]) {
    if !gone.is_empty() {
        let gone: HashSet<SessionId> = gone.iter().map(|session| session.id).collect();
        sessions.retain(|session| !gone.contains(&session.id));
    }
}

/// Notes that the sync `number` of its folder was made; where it is just written, its own sync sees that for itself.
fn entry_is_durable(session: &Session, number: SyncNumber) {
    if let Ok(mut disk) = session.disk.try_lock() {
        disk.entry = disk.entry.filter(|entry| *entry > number);
    }
}

/// Makes durable what was made in a day's folder until now.
pub(super) fn sync_day(core: &Core, day: &Path) -> Result<(), StoreError> {
    sync_entries(core, day, core.folders.entry_made(day))
}

fn sync_entries(core: &Core, day: &Path, number: SyncNumber) -> Result<(), StoreError> {
    core.folders.sync_day(&core.layout, day, number, &|folder| sync_folder(core, folder))
}

pub(super) fn sync_folder(core: &Core, folder: &Path) -> Result<(), StoreError> {
    core.counters.syncs.fetch_add(1, Ordering::Relaxed);
    core.fs().sync_dir(folder).map_err(StoreError::io("sync", folder))
}

/// Up to where a sync of the whole file system, from now on, makes the session durable; nothing where it has to be synced by
/// itself.
fn end_for_volume(session: &Session) -> Option<u64> {
    // Nobody waits for one that is just written.
    let disk = session.disk.try_lock().ok()?;
    let buffer = lock(&session.buffer);
    let device = &session.device;
    let is_whole =
        !disk.suspect && disk.missing_since.is_none() && disk.entry.is_none() && buffer.sides.is_empty() && !buffer.is_lost();
    // A failure of what it wrote since the last clean sync was not told to another sync of the volume.
    let is_watched = disk.generation == device.generation() && disk.identity.0 == device.number;
    (is_whole && is_watched).then_some(disk.end)
}

/// Makes durable what is written of a session.
fn sync(core: &Core, session: &Arc<Session>) -> Result<(), StoreError> {
    let _one_at_a_time = lock(&session.syncing);
    let Some(job) = prepare(core, session)? else {
        session.nothing_to_sync();
        return Ok(());
    };
    let outcome = job.run(core, session);
    if outcome.is_err() {
        suspect(core, &mut lock(&session.disk));
        return outcome;
    }
    finish(core, session, &job);
    Ok(())
}

/// Nothing that is not durable can be relied on any more.
fn suspect(core: &Core, disk: &mut Disk) {
    disk.suspect = true;
    core.files.close(disk);
}

/// What one sync makes durable.
struct Job {
    /// Nothing where only side files wait, or the whole file system was synced.
    file: Option<Arc<dyn File>>,
    end: u64,
    sides: Vec<Arc<Side>>,
    /// The sync of the day's folder that it needs.
    entry: Option<SyncNumber>,
    was_suspect: bool,
}

fn prepare(core: &Core, session: &Session) -> Result<Option<Job>, StoreError> {
    let mut disk = lock(&session.disk);
    let (durable_end, sides) = {
        let buffer = lock(&session.buffer);
        if buffer.is_lost() {
            return Ok(None);
        }
        let is_written = |side: &&Arc<Side>| !matches!(*lock(&side.state), SideState::Accepted);
        let sides: Vec<Arc<Side>> = buffer.sides.iter().filter(is_written).cloned().collect();
        (buffer.durable_end, sides)
    };
    if disk.end == durable_end && sides.is_empty() {
        return Ok(None);
    }
    let was_suspect = disk.suspect;
    let open = disk.file.as_ref().map(|open| Arc::clone(&open.file));
    let file = match open {
        _ if disk.end == durable_end => None,
        Some(file) if !was_suspect && disk.closed_end <= durable_end => Some(file),
        _ => Some(write_again(core, session, &mut disk, durable_end)?),
    };
    write_sides_again(core, session, &sides, was_suspect)?;
    Ok(Some(Job { file, end: disk.end, sides, entry: disk.entry, was_suspect }))
}

impl Job {
    fn run(&self, core: &Core, session: &Session) -> Result<(), StoreError> {
        if let Some(entry) = self.entry {
            sync_entries(core, &core.layout.day(session.id), entry)?;
            entry_is_durable(session, entry);
        }
        let folder = core.layout.sides(session.id);
        for side in &self.sides {
            // Not held across the sync: the writer looks at it with every batch.
            let file = match &*lock(&side.state) {
                SideState::Open(file) => Some(Arc::clone(file)),
                SideState::Accepted | SideState::Closed => None,
            };
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
    // The writer's descriptor will be new as well: what a sync of it says is about what it wrote itself.
    core.files.close(disk);
    let file = core.open(&path, OpenMode::InPlace).map_err(StoreError::io("open", &path))?;
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

/// Writes those of `sides` once more that a sync would say nothing of: all after a failure, and those that no descriptor is open on.
fn write_sides_again(core: &Core, session: &Session, sides: &[Arc<Side>], was_suspect: bool) -> Result<(), StoreError> {
    for side in sides {
        let mut state = lock(&side.state);
        if was_suspect || matches!(*state, SideState::Closed) {
            let path = core.layout.sides(session.id).join(&side.side.sha256);
            let file = writer::open_or_create(core, &path).map_err(StoreError::io("open", &path))?;
            write_all_at(&*file, &side.bytes, 0).map_err(StoreError::io("write", &path))?;
            *state = SideState::Open(file);
        }
    }
    Ok(())
}

fn finish(core: &Core, session: &Arc<Session>, job: &Job) {
    // Else it may be just written, and nobody waits for that.
    let mut disk = job.was_suspect.then(|| lock(&session.disk));
    if let Some(disk) = &mut disk {
        // What was appended meanwhile went through a descriptor of its own, opened after the failure.
        disk.suspect = false;
    }
    let mut buffer = lock(&session.buffer);
    let before = buffer.counted_bytes();
    let freed_chunks = buffer.mark_durable(job.end, &job.sides);
    let freed = before - buffer.counted_bytes();
    session.count(&mut buffer);
    buffer.sync_trouble = None;
    let is_rescued = buffer.rescue.is_some();
    drop(buffer);
    drop(disk);
    {
        let mut histogram = lock(&core.counters.time_to_durable);
        for chunk in &freed_chunks {
            histogram.record(Buffer::age_micros(chunk));
        }
    }
    if is_rescued {
        core.rescues.push(session, Due::Now);
    }
    ballast::restore(core);
    core.pool.give_back(freed_chunks);
    core.freed(freed);
    // Last, so that whoever waited finds all counters right.
    session.publish(&lock(&session.buffer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_store::FileStoreOptions;
    use crate::file_store::summary::Tally;
    use crate::scan::Position;
    use crate::time::Timestamp;

    #[test]
    fn a_failure_that_is_told_after_another_lane_cured_it_goes_with_the_next_try() {
        let core = Core::new(FileStoreOptions::new("/nowhere"));
        let id = SessionId::new(Timestamp::from_ms(0));
        let buffer = Buffer::new(Position::default(), 0, Tally::default());
        let session = Arc::new(Session::new(&core, id, 1, buffer, Disk::new((0, 0), 0)));
        let progress = session.progress().subscribe();
        session.fail(Attempt::Sync, StoreError::Closed);
        assert!(progress.borrow().trouble.is_some());
        assert!(sync(&core, &session).is_ok());
        assert!(progress.borrow().trouble.is_none());
    }
}
