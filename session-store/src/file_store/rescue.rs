//! Rescue: where a session's events go while its own disk takes none.
//!
//! ```text
//!   <rescue_dir>/<id>.<epoch>.jsonl    the lines that are not durable in the log, byte for byte
//!   <rescue_dir>/<id>.<epoch>/         the side files that they name
//! ```
//!
//! **Promise.** What was rescued and synced counts as durable: it survives this machine, on another disk. It stays in memory
//! too, goes to the log as soon as that can be written, and leaves the rescue folder only when the log has it durable. If
//! this process dies first, the next owner who knows the folder takes it in: lines that continue the log exactly are appended to it, before
//! anything else. Where the log went on without them they are kept, reported, and can be made a session of their own.
//!
//! **When.** At once where the disk says that it will not do (read-only, gone, the file removed), where the session is lost (a copy is
//! kept, though it is nobody's turn to write it), and while the store shuts down; otherwise after two windows without
//! any success, because a moment's failure or a full disk mends itself more often than not. A disk that does not answer fails nothing: [`super::stall`] notices.
//!
//! **Who.** One thread of the store, which touches no disk but that of the rescue folder. All sessions that wait for it are one batch: their files are written, and
//! then synced, with one sync of the whole file system where there are many and it tells of failures. Whoever failed goes on at once; the failure is told
//! to the session's owner when it is known whether its events are safe. A lost session without a rescue folder leaves its copy in `repaired/` of the home.
//!
//! **What it does not do.** A session that was not yet opened when the disk failed cannot be. Who opens a session without its rescue folder goes on
//! without what is in there.

use super::buffer::Side;
use super::engine::Core;
use super::lane::{Due, Patience, Work};
use super::read::{self, Folded};
use super::session::{Attempt, Session};
use super::text::Text;
use super::writer::{in_parallel, open_or_create};
use super::{fate, lock};
use crate::error::StoreError;
use crate::fs::{self, File, OpenMode, append_all, create_dirs, read_full_at, write_all_at};
use crate::id::{Seq, SessionId};
use crate::line::{self, Problem, ProblemKind};
use crate::scan::seed_of;
use crate::store::Rescued;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// How many windows without any success are borne before a failure that may pass is taken for one that stays.
pub(super) const PATIENCE_WINDOWS: u32 = 2;
/// How many files one owner may begin for one session: another each time that writing to the one before failed.
const FILES_MAX: u32 = 16;
/// From so many sessions on, the whole file system of the folder is synced.
const VOLUME_MIN: usize = 16;

/// The rescue file of a session while its owner lives. No descriptor is kept: there may be as many as sessions.
pub(super) struct RescueFile {
    path: PathBuf,
    /// How long it is.
    bytes: u64,
    /// Up to where of the log its lines go.
    end: u64,
}

/// Takes a failure over where it is time to rescue what `session` has accepted; else its owner has to be told now, and gets it back.
pub(super) fn take_over(core: &Core, session: &Arc<Session>, attempt: Attempt, error: StoreError) -> Result<(), StoreError> {
    if !is_time(core, session, &error) {
        return Err(error);
    }
    if core.options.rescue_dir.is_none() {
        // Another disk is not to be had; what is lost is copied on its own.
        if matches!(error, StoreError::Lost { .. }) {
            let folder = core.layout.repaired();
            save_all(core, &folder, &[Job::new(session, vec![(attempt, error.again())])]);
        }
        return Err(error);
    }
    lock(&session.buffer).untold.push((attempt, error));
    core.rescues.push(session, Due::Now);
    Ok(())
}

fn is_time(core: &Core, session: &Session, error: &StoreError) -> bool {
    let since = *lock(&session.buffer).failing_since.get_or_insert_with(Instant::now);
    let will_not_do = match error {
        StoreError::Io { source, .. } => {
            fate::is_missing(source)
                || source.kind() == io::ErrorKind::ReadOnlyFilesystem
                || rustix::io::Errno::from_io_error(source).is_some_and(is_gone)
        }
        _ => true,
    };
    will_not_do || core.is_closed() || since.elapsed() >= core.options.window * PATIENCE_WINDOWS
}

/// Whether there is no device any more.
fn is_gone(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::NODEV | Errno::NXIO | Errno::NOTCONN)
}

/// The thread that rescues.
pub(super) fn run(core: &Core) {
    let Some(folder) = &core.options.rescue_dir else { return };
    loop {
        match core.rescues.take(Patience::Endless) {
            Work::Batch(sessions) => {
                serve(core, folder, &sessions);
                core.rescues.done(&sessions);
            }
            Work::Nothing | Work::Piece(_) => {}
            Work::End => return,
        }
    }
}

fn serve(core: &Core, folder: &Path, sessions: &[Arc<Session>]) {
    let wanted = sessions.iter().filter_map(|session| {
        let mut buffer = lock(&session.buffer);
        let untold = std::mem::take(&mut buffer.untold);
        let is_wanted = std::mem::take(&mut buffer.wants_rescue) && !buffer.is_safe();
        drop(buffer);
        (is_wanted || !untold.is_empty()).then(|| Job::new(session, untold))
    });
    let jobs: Vec<Job> = wanted.collect();
    save_all(core, folder, &jobs);
    // What the log has by now leaves the folder.
    sessions.iter().for_each(|session| settle(core, session));
    for Job { session, untold, .. } in jobs {
        untold.into_iter().for_each(|(attempt, error)| core.tell(&session, attempt, error));
    }
}

/// A session of a batch.
struct Job {
    session: Arc<Session>,
    /// What its owner was not told yet.
    untold: Vec<(Attempt, StoreError)>,
    saved: Mutex<Option<Result<Saved, StoreError>>>,
}

impl Job {
    fn new(session: &Arc<Session>, untold: Vec<(Attempt, StoreError)>) -> Self {
        Self { session: Arc::clone(session), untold, saved: Mutex::default() }
    }
}

/// What a rescue file has with this batch.
struct Saved {
    file: RescueFile,
    /// The event after the last that it holds.
    seq: Seq,
    sides: Vec<Arc<Side>>,
    /// Lines were written.
    has_lines: bool,
    /// The folder has a new entry.
    is_new: bool,
}

/// Writes and syncs all that is accepted and not yet in the rescue files; notes for each session whether that worked.
fn save_all(core: &Core, folder: &Path, jobs: &[Job]) {
    // Opened before anything is written, so that it is told of each failure.
    let open = || core.files.open(|| core.fs().volume(folder));
    let has_folder = jobs.len() >= VOLUME_MIN && make_folder(core, folder).is_ok();
    let volume = if has_folder { open().ok().flatten() } else { None };
    in_parallel(core, jobs, |job| *lock(&job.saved) = Some(save(core, &job.session, folder, volume.is_none())));
    let has = |what: fn(&Saved) -> bool| jobs.iter().any(|job| matches!(&*lock(&job.saved), Some(Ok(saved)) if what(saved)));
    let sync = || {
        if let Some(volume) = volume.filter(|_| has(|saved| saved.has_lines)) {
            volume.sync()?;
        }
        if has(|saved| saved.is_new) { core.fs().sync_dir(folder) } else { Ok(()) }
    };
    let synced = sync().map_err(StoreError::io("sync", folder));
    for job in jobs {
        let saved = lock(&job.saved).take().unwrap_or(Err(StoreError::Closed));
        note(job, saved.and_then(|saved| synced.as_ref().map(|()| saved).map_err(StoreError::again)));
    }
}

/// Writes what of a session is accepted and not yet in its rescue file, and syncs it where `syncs`.
fn save(core: &Core, session: &Session, folder: &Path, syncs: bool) -> Result<Saved, StoreError> {
    let durable_end = lock(&session.buffer).durable_end;
    let mut known = lock(&session.rescue).take();
    if let Some(before) = known.take_if(|file| file.end < durable_end) {
        // The log had come further than the rescue: a file with a hole would continue nothing.
        remove(core, &before.path);
    }
    let is_new = known.is_none();
    let mut file = known.map_or_else(|| begin(core, session, folder), |known| Ok(*known))?;
    let (chunks, sides, seq, end) = {
        let mut buffer = lock(&session.buffer);
        (buffer.chunks_from(file.end, u64::MAX), buffer.sides.clone(), buffer.accepted, buffer.end())
    };
    // Side files first, and durable: a line that names one counts only where that is safe.
    let beside = file.path.with_extension("");
    let mut has_sides = false;
    for side in sides.iter().filter(|side| !side.is_rescued.load(Ordering::Relaxed)) {
        make_folder(core, &beside)?;
        write_side(core, &beside.join(&side.side.sha256), &side.bytes)?;
        has_sides = true;
    }
    if has_sides {
        core.fs().sync_dir(&beside).map_err(StoreError::io("sync", &beside))?;
    }
    let has_lines = end > file.end;
    if has_lines {
        let into = open_end(core, &file)?;
        let mut parts: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk.from(file.end))).collect();
        append_all(&*into, &mut parts, |count| file.bytes += count).map_err(StoreError::io("write", &file.path))?;
        if syncs {
            into.sync_data().map_err(StoreError::io("sync", &file.path))?;
        }
        file.end = end;
    }
    Ok(Saved { file, seq, sides: sides.into(), has_lines, is_new: is_new || has_sides })
}

/// Makes the file, for what comes after the log's durable end.
fn begin(core: &Core, session: &Session, folder: &Path) -> Result<RescueFile, StoreError> {
    make_folder(core, folder)?;
    let end = lock(&session.buffer).durable_end;
    for number in 1..=FILES_MAX {
        let number = if number == 1 { String::new() } else { format!(".{number}") };
        let path = folder.join(format!("{}.{}{number}.jsonl", session.id, session.epoch));
        match core.open(&path, OpenMode::CreateNew) {
            Ok(_) => return Ok(RescueFile { path, bytes: 0, end }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io("create", path)(error)),
        }
    }
    Err(StoreError::io("create a file in", folder)(io::ErrorKind::AlreadyExists.into()))
}

/// Opens a rescue file to append to it, if it is as it was left.
fn open_end(core: &Core, known: &RescueFile) -> Result<Arc<dyn File>, StoreError> {
    let file = core.open(&known.path, OpenMode::Append).map_err(StoreError::io("open", &known.path))?;
    let bytes = file.stat().map_err(StoreError::io("look at", &known.path))?.size;
    if bytes == known.bytes {
        return Ok(file);
    }
    Err(StoreError::io("go on with", &known.path)(io::Error::other("somebody else wrote to it")))
}

/// Notes what became of a session's part of a batch, and tells its owner.
fn note(job: &Job, saved: Result<Saved, StoreError>) {
    let Job { session, untold, .. } = job;
    let mut rescue = lock(&session.rescue);
    let mut buffer = lock(&session.buffer);
    match saved {
        Ok(Saved { file, seq, sides, .. }) => {
            sides.iter().for_each(|side| side.is_rescued.store(true, Ordering::Relaxed));
            let is_lost = buffer.is_lost() || untold.iter().any(|(_, error)| matches!(error, StoreError::Lost { .. }));
            if !is_lost {
                buffer.rescued = buffer.rescued.max(seq);
            }
            if buffer.rescue.as_ref().is_none_or(|rescue| rescue.path != file.path) {
                let why = untold.first().map_or_else(|| "it does not answer".to_owned(), |(_, error)| error.to_string());
                buffer.rescue = Some(Arc::new(Rescued { path: file.path.clone(), why }));
            }
            *rescue = Some(Box::new(file));
        }
        Err(error) => {
            tracing::warn!(session = %session.id, %error, "events cannot be rescued either");
            // The next try begins a new file: how this one ends is not known.
            buffer.rescue = None;
        }
    }
    drop(rescue);
    // What is untold is told, and all of this with it, in a moment.
    if untold.is_empty() {
        session.publish(&buffer);
    }
}

/// Makes a folder and those above it, and makes the entries of what was made durable.
fn make_folder(core: &Core, folder: &Path) -> Result<(), StoreError> {
    let mut made = Vec::new();
    create_dirs(core.fs(), folder, &mut |path| made.push(path.to_path_buf())).map_err(StoreError::io("create", folder))?;
    for above in made.iter().filter_map(|path| path.parent()).filter(|path| !path.as_os_str().is_empty()) {
        core.fs().sync_dir(above).map_err(StoreError::io("sync", above))?;
    }
    Ok(())
}

fn write_side(core: &Core, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let file = open_or_create(core, path).map_err(StoreError::io("create", path))?;
    write_all_at(&*file, bytes, 0).map_err(StoreError::io("write", path))?;
    file.sync_data().map_err(StoreError::io("sync", path))
}

/// Where the log has become durable, what of it was rescued is no longer needed. Nothing is told if it cannot be removed; the next
/// owner sees that the log has it.
fn settle(core: &Core, session: &Session) {
    let file = {
        let mut rescue = lock(&session.rescue);
        let mut buffer = lock(&session.buffer);
        let is_settled = |file: &RescueFile| {
            buffer.durable_end >= file.end && !buffer.sides.iter().any(|side| side.is_rescued.load(Ordering::Relaxed))
        };
        if !rescue.as_deref().is_some_and(is_settled) {
            return;
        }
        buffer.rescue = None;
        session.publish(&buffer);
        rescue.take()
    };
    if let Some(file) = file {
        remove(core, &file.path);
    }
}

/// Removes a rescue file and what is beside it.
fn remove(core: &Core, path: &Path) {
    let beside = path.with_extension("");
    // The lines first: without them nobody asks for the rest.
    let _ = core.fs().remove_file(path);
    for entry in core.fs().read_dir(&beside).unwrap_or_default() {
        let _ = core.fs().remove_file(&beside.join(entry.name));
    }
    let _ = core.fs().remove_dir(&beside);
    if let Some(folder) = path.parent() {
        let _ = core.fs().sync_dir(folder);
    }
}

/// What an owner that died left in the rescue folder of one session.
pub(super) struct Leftovers(Vec<Leftover>);

struct Leftover {
    path: PathBuf,
    bytes: Vec<u8>,
    lines: Vec<Line>,
    fate: Fate,
}

/// A line of a rescue file.
struct Line {
    place: Range<usize>,
    seed: u32,
    seq: Seq,
    crc: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    /// The log has all of it.
    TakenIn,
    /// The log went on without it.
    Kept,
}

impl Leftovers {
    /// Those of `id`; none where no rescue folder is known.
    pub(super) fn find(core: &Core, id: SessionId) -> Result<Self, StoreError> {
        match &core.options.rescue_dir {
            Some(folder) => Self::find_in(core, folder, id),
            None => Ok(Self(Vec::new())),
        }
    }

    /// Those of `id` in `folder`.
    pub(super) fn find_in(core: &Core, folder: &Path, id: SessionId) -> Result<Self, StoreError> {
        let entries = match core.fs().read_dir(folder) {
            Err(error) if fate::is_missing(&error) => return Ok(Self(Vec::new())),
            entries => entries.map_err(StoreError::io("read", folder))?,
        };
        let mut names: Vec<(u64, String)> = entries.iter().filter_map(|entry| name_of(entry.name.to_str()?, id)).collect();
        names.sort_unstable();
        let leftovers = names.into_iter().filter_map(|(_, name)| {
            let path = folder.join(name);
            match fs::read_all(core.fs(), &path) {
                // The log has all of it by now.
                Err(error) if fate::is_missing(&error) => None,
                Err(error) => Some(Err(StoreError::io("read", path)(error))),
                Ok(bytes) => Some(Ok(Leftover { path, lines: lines_of(&bytes), bytes, fate: Fate::Unknown })),
            }
        });
        leftovers.collect::<Result<_, StoreError>>().map(Self)
    }

    /// Whether one of them has the session from its start on, so that its log can be made anew.
    pub(super) fn hold_the_start(&self) -> bool {
        self.0.iter().any(|leftover| leftover.lines.first().is_some_and(|line| (line.seed, line.seq) == (0, 0)))
    }

    /// Appends to the log, whose fold is `folded`, what continues it exactly; true where there was something, and the log has to be
    /// folded again. It is durable only after the next sync of `log`.
    pub(super) fn take_in(
        &mut self,
        core: &Arc<Core>,
        id: SessionId,
        log: &dyn File,
        folded: &Folded,
    ) -> Result<bool, StoreError> {
        for leftover in &mut self.0 {
            if leftover.fate != Fate::Unknown {
                continue;
            }
            let known = leftover.known_lines(core, id, folded)?;
            let is_at_end = match known.checked_sub(1) {
                Some(last) => {
                    (leftover.lines[last].crc, leftover.lines[last].seq + 1) == (folded.position.crc, folded.position.next_seq)
                }
                None => leftover
                    .lines
                    .first()
                    .is_some_and(|line| (line.seed, line.seq) == (folded.position.crc, folded.position.next_seq)),
            };
            let is_known = is_at_end || known == leftover.lines.len();
            leftover.fate = if is_known && leftover.is_whole() { Fate::TakenIn } else { Fate::Kept };
            if !is_at_end {
                continue;
            }
            leftover.copy_sides(core, id)?;
            leftover.write_known_again(core, id, known, folded)?;
            if known < leftover.lines.len() {
                leftover.append(core, id, log, known, folded)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the log has durable by now is removed.
    pub(super) fn remove_taken_in(&self, core: &Core) {
        self.0.iter().filter(|leftover| leftover.fate == Fate::TakenIn).for_each(|leftover| remove(core, &leftover.path));
    }

    /// The lines of each, as far as they continue one another.
    pub(super) fn into_lines(self) -> impl Iterator<Item = Vec<u8>> {
        self.0.into_iter().map(|mut leftover| {
            leftover.bytes.truncate(leftover.lines.last().map_or(0, |line| line.place.end));
            leftover.bytes
        })
    }

    /// What could not be taken in.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> + '_ {
        self.0.iter().filter(|leftover| leftover.fate == Fate::Kept).map(|leftover| {
            let detail = format!(
                "the {} events that were rescued in `{}` do not continue the log, or more is there that is damaged; they are kept there",
                leftover.lines.len(),
                leftover.path.display()
            );
            Problem { line: 1, offset: 0, kind: ProblemKind::Rescued, detail }
        })
    }
}

impl Leftover {
    /// Whether its lines are all that it holds, but for one that was torn at its end. Behind a damaged line there may be others.
    fn is_whole(&self) -> bool {
        let end = self.lines.last().map_or(0, |line| line.place.end);
        !self.bytes.get(end..).unwrap_or_default().contains(&b'\n')
    }

    /// How many of its lines the log has.
    fn known_lines(&self, core: &Arc<Core>, id: SessionId, folded: &Folded) -> Result<usize, StoreError> {
        // Mostly the log ends within them, or right before them.
        let ends =
            self.lines.iter().rposition(|line| (line.crc, line.seq + 1) == (folded.position.crc, folded.position.next_seq));
        if let Some(last) = ends {
            return Ok(last + 1);
        }
        if self.lines.first().is_none_or(|line| (line.seed, line.seq) == (folded.position.crc, folded.position.next_seq)) {
            return Ok(0);
        }
        let ends: HashMap<(Seq, u32), usize> =
            self.lines.iter().enumerate().map(|(index, line)| ((line.seq, line.crc), index + 1)).collect();
        let mut known = 0;
        read::scan(core, id, |entry, _| {
            if entry.sound {
                known = known.max(ends.get(&(entry.seq, entry.place.crc)).copied().unwrap_or(0));
            }
        })?;
        Ok(known)
    }

    /// The bytes of the lines from `first` on.
    fn bytes_from(&self, first: usize) -> &[u8] {
        let start = self.lines.get(first).map_or(self.bytes.len(), |line| line.place.start);
        let end = self.lines.last().map_or(start, |line| line.place.end);
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// Writes the lines that the log ends with once more, in the same place: its owner may have failed to sync them, and the next
    /// sync would say that all is well.
    fn write_known_again(&self, core: &Core, id: SessionId, known: usize, folded: &Folded) -> Result<(), StoreError> {
        let Some(last) = known.checked_sub(1).and_then(|last| self.lines.get(last)) else { return Ok(()) };
        let bytes = self.bytes.get(..last.place.end).unwrap_or_default();
        let end =
            folded.fragment.map_or(folded.length, |(offset, holds_records)| if holds_records { folded.length } else { offset });
        let path = core.layout.log(id);
        let Some(start) = end.checked_sub(bytes.len() as u64) else { return Ok(()) };
        let text = Text::open(core, id, OpenMode::InPlace)?;
        if start < text.base {
            // What is cold was read back from the disk.
            return Ok(());
        }
        let file = text.file;
        let mut there = vec![0; bytes.len()];
        let length = read_full_at(&*file, &mut there, start).map_err(StoreError::io("read", &path))?;
        // Lines that were set aside may stand between them; then the next owner's own care has to do.
        if there.get(..length) == Some(bytes) {
            write_all_at(&*file, bytes, start).map_err(StoreError::io("write", &path))?;
        }
        Ok(())
    }

    /// Appends the lines from `known` on. A line that the log has in part is completed, byte for byte.
    fn append(&self, core: &Core, id: SessionId, log: &dyn File, known: usize, folded: &Folded) -> Result<(), StoreError> {
        let path = core.layout.log(id);
        let mut bytes = self.bytes_from(known);
        let mut newline: &[u8] = b"";
        if let Some((offset, holds_records)) = folded.fragment {
            let length = usize::try_from(folded.length - offset).unwrap_or(usize::MAX);
            let mut fragment = vec![0; length.min(bytes.len() + 1)];
            read_full_at(log, &mut fragment, offset).map_err(StoreError::io("read", &path))?;
            match bytes.strip_prefix(&*fragment) {
                Some(rest) if !holds_records => bytes = rest,
                _ => newline = b"\n",
            }
        }
        append_all(log, &mut [IoSlice::new(newline), IoSlice::new(bytes)], |_| {}).map_err(StoreError::io("write", path))
    }

    /// Copies what is beside it to the session's own folder, durably: before the lines that name it.
    fn copy_sides(&self, core: &Core, id: SessionId) -> Result<(), StoreError> {
        let from = self.path.with_extension("");
        let entries = core.fs().read_dir(&from).unwrap_or_default();
        let names: Vec<&str> =
            entries.iter().filter_map(|entry| entry.name.to_str()).filter(|name| read::is_hash(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let to = core.layout.sides(id);
        core.create_dirs(&to)?;
        for name in names {
            let bytes = fs::read_all(core.fs(), &from.join(name)).map_err(StoreError::io("read", from.join(name)))?;
            write_side(core, &to.join(name), &bytes)?;
        }
        core.fs().sync_dir(&to).map_err(StoreError::io("sync", &to))
    }
}

/// The epoch of a rescue file of `id`, and its name; nothing where it is none.
fn name_of(name: &str, id: SessionId) -> Option<(u64, String)> {
    let rest = name.strip_suffix(".jsonl")?.strip_prefix(&id.to_string())?.strip_prefix('.')?;
    let epoch = rest.split('.').next()?.parse().ok()?;
    Some((epoch, name.to_owned()))
}

/// The lines of a rescue file, as far as each continues the one before it; a last one that was cut is none.
fn lines_of(bytes: &[u8]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut start = 0;
    for text in bytes.split_inclusive(|byte| *byte == b'\n') {
        let place = start..start + text.len();
        start = place.end;
        let Some((body, crc)) = text.strip_suffix(b"\n").and_then(line::claim) else { break };
        let Some(decoded) = line::decode(&text[..text.len() - 1]) else { break };
        let (seed, seq) = (seed_of(body, crc), decoded.seq());
        if lines.last().is_some_and(|last| (last.crc, last.seq + 1) != (seed, seq)) {
            break;
        }
        lines.push(Line { place, seed, seq, crc });
    }
    lines
}
