//! Taking a session for writing: create, open, remove; forks are in [`super::fork`].
//!
//! **The log is its own lock.** To own a session is to have appended `opened` with the next epoch, to have made it
//! durable, and to have read it back: the first `opened` of an epoch owns it. That the owner before is gone is told by the lock of
//! its process ([`super::owner`]). A lock on the log itself is held meanwhile, as a courtesy: where locks work, two who open at the same
//! time take turns; where they do not, the log decides.
//!
//! **A tail is never cut.** What a crash left after the last newline gets its newline, is kept ([`super::fragment`]), and
//! only then blanked.
//!
//! All of this blocks and runs on the runtime's blocking threads.

use super::buffer::Buffer;
use super::engine::{Core, Holding};
use super::owner;
use super::read::{self, Folded, open_log};
use super::rescue::Leftovers;
use super::session::{Disk, Session};
use super::sides::NamedSides;
use super::stop::Stop;
use super::summary::Tally;
use super::text::{Files, Meeting, Text};
use super::{archive, cold, fragment, lock, log, syncer};
use crate::error::StoreError;
use crate::event::{Entry, Event, FORMAT_VERSION, Opened, Owner};
use crate::fs::{File, OpenMode, append_all, for_each_chunk, read_full_at, write_all_at};
use crate::id::{Place, SessionId};
use crate::line::{self, Problem};
use crate::scan::Position;
use crate::state::State;
use crate::store::Holder;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long to wait for another who is opening the same session.
const TURN_MAX: Duration = Duration::from_secs(2);
/// How often a log that grows while it is read is read again, before the first `opened` in it decides.
const TRIES_MAX: u32 = 3;
/// How often a session is tried again that others pack, move or open at the same time.
const CONTENDED_MAX: u32 = 10;

/// What opening gave.
pub(super) struct Taken {
    pub(super) session: Arc<Session>,
    pub(super) state: State,
    pub(super) problems: Vec<Problem>,
    /// How much of the log was read for it, bodies aside.
    pub(super) read: u64,
}

/// The lines that an owner writes before anybody may append.
pub(super) struct Prelude {
    pub(super) bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Where its last line ends.
    end: Position,
}

impl Prelude {
    /// For a file that ends at `end`.
    pub(super) fn new(end: Position) -> Self {
        Self { bytes: Vec::new(), entries: Vec::new(), end }
    }

    /// Ends the line that is there without a newline.
    fn end_line(&mut self) {
        self.bytes.push(b'\n');
        self.end.offset += 1;
        self.end.lines += 1;
    }

    pub(super) fn push(&mut self, core: &Core, event: Event) {
        let (at, before) = (core.options.clock.now(), self.bytes.len());
        let seq = self.end.next_seq;
        self.end.crc = line::encode(&mut self.bytes, self.end.crc, seq, at, &event);
        let length = (self.bytes.len() - before) as u64;
        self.end.lines += 1;
        self.end.next_seq += 1;
        let len = u32::try_from(length - 1).unwrap_or(0);
        let place = Place { line: self.end.lines, offset: self.end.offset, len, crc: self.end.crc };
        self.end.offset += length;
        self.entries.push(Entry { place, ..Entry::new(seq, at, event) });
    }
}

/// Makes the file of a new session. Its first events are appended like all others.
pub(super) fn create(core: &Core, id: SessionId) -> Result<(Arc<Session>, Opened), StoreError> {
    let (writer, owner) = owner::begin(core)?;
    let day = core.layout.day(id);
    core.create_dirs(&day)?;
    let path = core.layout.log(id);
    if !matches!(Files::find(core, id), Err(StoreError::NotFound(_))) {
        return Err(StoreError::Exists(id));
    }
    let file = core.open(&path, OpenMode::CreateNew).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::Exists(id),
        _ => StoreError::io("create", &path)(error),
    })?;
    let mut disk = disk_of(&path, &file, 0, 0)?;
    disk.entry = Some(core.folders.entry_made(&day));
    let opened = Opened { epoch: 1, writer, format: FORMAT_VERSION, owner };
    Ok((Arc::new(Session::new(core, id, 1, Buffer::new(Position::default(), 0, Tally::default()), disk)), opened))
}

/// What is known of the file at `path`, which is open as `file`: a text that ends at `end`, of which the file holds what is behind `base`.
pub(super) fn disk_of(path: &Path, file: &Arc<dyn File>, base: u64, end: u64) -> Result<Disk, StoreError> {
    let stat = file.stat().map_err(StoreError::io("look at", path))?;
    Ok(Disk::new((stat.device, stat.inode), end - base))
}

/// Opens a session that nobody holds, recovers what a crash left, and folds it.
pub(super) fn open(core: &Arc<Core>, id: SessionId) -> Result<Taken, StoreError> {
    for _ in 0..CONTENDED_MAX {
        // Before anything is made: a session that is not there needs no owner.
        let text = open_to_append(core, id)?;
        let (writer, owner) = owner::begin(core)?;
        let _turn = Turn::take(&text.file);
        // Who had the turn before may have packed, moved or removed it.
        if Files::find(core, id)?.are(&text.files) {
            return open_in_turn(core, id, &text, writer, &owner);
        }
    }
    Err(StoreError::io("open", core.layout.log(id))(io::ErrorKind::ResourceBusy.into()))
}

/// Opens the log of a session so that it can be appended to: a cold one goes on in a new file.
fn open_to_append(core: &Arc<Core>, id: SessionId) -> Result<Text, StoreError> {
    for _ in 0..CONTENDED_MAX {
        let text = match Text::open(core, id, OpenMode::Append) {
            Err(StoreError::NotFound(_)) if Leftovers::find(core, id)?.hold_the_start() => {
                core.create_dirs(&core.layout.day(id))?;
                create_file(core, id)?;
                continue;
            }
            text => text?,
        };
        let Meeting::Cold { has_leftover } = text.meeting else { return Ok(text) };
        let made_ready = if text.files.is_archived {
            archive::restore(core, id)
        } else if has_leftover {
            cold::remove_leftover(core, id)
        } else {
            go_on_in_new_file(core, id, &text)
        };
        match made_ready {
            Err(error) if is_contended(&error) => {}
            made_ready => made_ready?,
        }
    }
    Err(StoreError::io("open", core.layout.log(id))(io::ErrorKind::ResourceBusy.into()))
}

/// Whether another had the session at that moment, or had just changed where it lies.
fn is_contended(error: &StoreError) -> bool {
    let is_busy = |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy);
    matches!(error, StoreError::Io { source, .. } if is_busy(source))
}

/// Makes the file that a cold session goes on in.
fn go_on_in_new_file(core: &Core, id: SessionId, text: &Text) -> Result<(), StoreError> {
    let turn = Turn::take(&text.file);
    if !turn.is_ours() && core.fs().locks_are_trusted(core.layout.home()) {
        return Err(StoreError::io("lock", core.layout.cold(id))(io::ErrorKind::WouldBlock.into()));
    }
    if !Files::find(core, id)?.are(&text.files) {
        return Ok(());
    }
    create_file(core, id)
}

fn create_file(core: &Core, id: SessionId) -> Result<(), StoreError> {
    let path = core.layout.log(id);
    match core.open(&path, OpenMode::CreateNew) {
        // Another opens it as well.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io("create", path)(error)),
        _ => Ok(()),
    }
}

fn open_in_turn(core: &Arc<Core>, id: SessionId, text: &Text, writer: Uuid, owner: &Owner) -> Result<Taken, StoreError> {
    let path = core.layout.log(id);
    let file = &text.file;
    let mut tries = 0;
    let mut rescued = Leftovers::find(core, id)?;
    let (mut folded, epoch, prelude) = loop {
        let folded = read::fold(core, id)?;
        refuse_if_held(core, id, &folded.state)?;
        if rescued.take_in(core, id, &**file, &folded)? {
            continue;
        }
        let epoch = folded.position.epoch.max(folded.state.epoch) + 1;
        let opened = Opened { epoch, writer, format: FORMAT_VERSION, owner: owner.clone() };
        let prelude = open_prelude(core, id, &**file, &folded, opened)?;
        write_tail_again(core, id, text, &folded)?;
        tries += 1;
        // All this takes as long as the log is. Who became its owner meanwhile is lost if anything is appended now.
        if tries == TRIES_MAX || file.stat().map_err(StoreError::io("look at", &path))?.size == folded.length {
            break (folded, epoch, prelude);
        }
    };
    append_all(&**file, &mut [IoSlice::new(&prelude.bytes)], |_| {}).map_err(StoreError::io("write", &path))?;
    file.sync_data().map_err(StoreError::io("sync", &path))?;
    syncer::sync_day(core, &core.layout.day(id))?;

    let end = folded.length + prelude.bytes.len() as u64;
    if !is_as_written(&**file, &prelude.bytes, folded.length).map_err(StoreError::io("read", &path))? {
        return settle_race(core, id, text, writer, epoch);
    }
    rescued.remove_taken_in(core);
    folded.problems.extend(rescued.problems());
    fragment::blank(core, id, &folded)?;
    prelude.entries.iter().for_each(|entry| folded.state.apply(entry));
    let disk = disk_of(&path, file, text.base, end)?;
    let buffer = Buffer::new(prelude.end, text.base, Tally::new(folded.state.summary()));
    let session = Arc::new(Session::new(core, id, epoch, buffer, disk));
    Ok(Taken { session, state: folded.state, problems: folded.problems, read: folded.read })
}

/// Writes again, in the same place, what the owner before may have failed to make durable: a failed sync may have left what is only
/// shown, `closed` included, and the next sync would say that all is well. So for the side files that it names.
/// No owner has more than its bound in that state, nor anything that its checkpoints say was durable.
fn write_tail_again(core: &Core, id: SessionId, text: &Text, folded: &Folded) -> Result<(), StoreError> {
    // A fragment is kept elsewhere and about to go.
    let end = fragment::range(folded).map_or(folded.length, |fragment| fragment.start);
    // What is cold was read back from the disk.
    let durable = folded.durable.max(text.base);
    let tail = end.saturating_sub(core.options.session_bytes_max + core.options.closing_bytes).max(durable).min(end)..end;
    let path = core.layout.log(id);
    let in_place = Text::open(core, id, OpenMode::InPlace)?.file;
    let mut named = NamedSides::new(core, id);
    for_each_chunk(&*text.file, tail, |chunk, offset| {
        named.look_in(chunk);
        write_all_at(&*in_place, chunk, offset)
    })
    .map_err(StoreError::io("write", &path))?;
    named.write_again(core, id)
}

/// What a new owner appends: the newline that a fragment lacks, `opened`, and what became of the fragment.
fn open_prelude(core: &Core, id: SessionId, file: &dyn File, folded: &Folded, opened: Opened) -> Result<Prelude, StoreError> {
    let mut prelude = Prelude::new(Position { offset: folded.length, ..folded.position });
    if folded.fragment.is_some() {
        prelude.end_line();
    }
    prelude.push(core, opened.into());
    if let Some(recovered) = fragment::keep(core, id, file, folded)? {
        prelude.push(core, recovered.into());
    }
    Ok(prelude)
}

/// Whether the file ends with `bytes`, at `offset`, and with nothing else.
fn is_as_written(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<bool> {
    let mut found = vec![0; bytes.len() + 1];
    let length = read_full_at(file, &mut found, offset)?;
    Ok(found.get(..length) == Some(bytes))
}

/// Somebody else wrote at the same time: the first `opened` of the epoch owns it.
fn settle_race(core: &Arc<Core>, id: SessionId, text: &Text, writer: Uuid, epoch: u64) -> Result<Taken, StoreError> {
    let folded = read::fold(core, id)?;
    match &folded.state.owner {
        Some(opened) if (opened.writer, opened.epoch) != (writer, epoch) => {
            Err(StoreError::Held { id, owner: opened.owner.clone(), alive: true })
        }
        None => Err(StoreError::Lost { id, why: "another process opened and closed it at the same time".to_owned() }),
        Some(_) => {
            let disk = disk_of(&core.layout.log(id), &text.file, text.base, folded.length)?;
            let at = Position { offset: folded.length, ..folded.position };
            let buffer = Buffer::new(at, text.base, Tally::new(folded.state.summary()));
            let session = Arc::new(Session::new(core, id, epoch, buffer, disk));
            Ok(Taken { session, state: folded.state, problems: folded.problems, read: folded.read })
        }
    }
}

fn refuse_if_held(core: &Core, id: SessionId, state: &State) -> Result<(), StoreError> {
    match owner::holder(core, state.owner.as_ref()) {
        Holder::Nobody => Ok(()),
        Holder::Alive(owner) => Err(StoreError::Held { id, owner, alive: true }),
        Holder::Unknown(owner) => Err(StoreError::Held { id, owner, alive: false }),
    }
}

/// The lock on a log while somebody opens or removes it.
pub(super) struct Turn(Option<Arc<dyn File>>);

impl Turn {
    /// Waits a little where another has it, and goes on without it where that does not help.
    #[expect(
        clippy::disallowed_methods,
        reason = "on a blocking thread; a lock of another process has no wake-up, and it ends at `TURN_MAX`"
    )]
    pub(super) fn take(file: &Arc<dyn File>) -> Self {
        let until = Instant::now() + TURN_MAX;
        loop {
            match file.try_lock() {
                Ok(true) => return Self(Some(Arc::clone(file))),
                Ok(false) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => return Self(None),
            }
        }
    }
}

impl Turn {
    /// Whether nobody else has it.
    pub(super) fn is_ours(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            let _ = file.unlock();
        }
    }
}

/// Removes a session, wherever it is, and its folder.
pub(super) fn remove(core: &Arc<Core>, id: SessionId) -> Result<(), StoreError> {
    let file = open_log(core, id, OpenMode::Read)?;
    let _turn = Turn::take(&file);
    refuse_if_held(core, id, &read::fold(core, id)?.state)?;
    // The logs first: without one nobody looks for the rest. Of them the one last that wins over the others, which a crash between
    // must not bring back.
    let (day, archive) = (core.layout.day(id), parent(&core.layout.archived(id)));
    for path in [core.layout.archived(id), core.layout.cold(id), core.layout.log(id)] {
        remove_if_there(core, &path)?;
    }
    for (folder, day) in [(core.layout.sides(id), day), (core.layout.archived_sides(id), archive)] {
        remove_folder(core, &folder)?;
        if core.fs().stat(&day).is_ok() {
            syncer::sync_folder(core, &day)?;
        }
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_path_buf()
}

pub(super) fn remove_if_there(core: &Core, path: &Path) -> Result<(), StoreError> {
    match core.fs().remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder of side files, where it is there.
pub(super) fn remove_folder(core: &Core, folder: &Path) -> Result<(), StoreError> {
    let Ok(entries) = core.fs().read_dir(folder) else { return Ok(()) };
    for entry in entries {
        remove_if_there(core, &folder.join(entry.name))?;
    }
    core.fs().remove_dir(folder).map_err(StoreError::io("remove", folder))
}

/// Keeps `id` for whoever opens, forks, packs or removes it, so that two calls of one process do not meet.
pub(super) struct Reservation<'a> {
    core: &'a Core,
    id: SessionId,
}

impl<'a> Reservation<'a> {
    /// # Errors
    /// [`StoreError::Held`] where this process has it in use.
    pub(super) fn new(core: &'a Core, id: SessionId) -> Result<Self, StoreError> {
        Self::with(core, id, Holding::Reserved)
    }

    /// Keeps it until somebody else in this process wants it, or the store is shut down: who raises `stop` and waits.
    pub(super) fn for_long_work(core: &'a Core, id: SessionId, stop: &Arc<Stop>) -> Result<Self, StoreError> {
        Self::with(core, id, Holding::LongWork(Arc::clone(stop)))
    }

    fn with(core: &'a Core, id: SessionId, holding: Holding) -> Result<Self, StoreError> {
        let mut sessions = lock(&core.sessions);
        let is_ended = matches!(holding, Holding::LongWork(_)) && core.long_work_ended.load(Ordering::Acquire);
        if core.is_closed() || is_ended {
            return Err(StoreError::Closed);
        }
        if sessions.contains_key(&id) {
            drop(sessions);
            let (_, owner) = owner::begin(core)?;
            return Err(StoreError::Held { id, owner, alive: true });
        }
        sessions.insert(id, holding);
        Ok(Self { core, id })
    }

    /// The session is this process's from here on.
    ///
    /// # Errors
    /// [`StoreError::Closed`] where the store was shut down meanwhile: whoever did that does not know of the session.
    pub(super) fn fulfil(self, session: &Arc<Session>) -> Result<(), StoreError> {
        let mut sessions = lock(&self.core.sessions);
        if self.core.is_closed() {
            drop(sessions);
            return Err(StoreError::Closed);
        }
        sessions.insert(self.id, Holding::Open(Arc::clone(session)));
        Ok(())
    }

    /// The session was taken and is given back: what it lacks of that is on its way to the disk.
    ///
    /// # Errors
    /// As of [`Reservation::fulfil`].
    pub(super) fn release(self, session: &Arc<Session>) -> Result<(), StoreError> {
        // Where there is no room for `closed`, it ends without, as after a crash.
        if log::release(self.core, session).is_err() {
            session.stop();
        }
        let mut sessions = lock(&self.core.sessions);
        if self.core.is_closed() {
            drop(sessions);
            return Err(StoreError::Closed);
        }
        sessions.insert(self.id, Holding::Released(Arc::clone(session)));
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut sessions = lock(&self.core.sessions);
        if matches!(sessions.get(&self.id), Some(Holding::Reserved | Holding::LongWork(_))) {
            sessions.remove(&self.id);
        }
        drop(sessions);
        self.core.let_go.notify_waiters();
    }
}
