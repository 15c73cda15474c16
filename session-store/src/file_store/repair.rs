//! Writing a damaged log again, without its damage.
//!
//! **Promises.** What a reader makes of the log stays what it was: the fold of the new file is that of the old one, or the old one stays.
//! No event changes its `seq`, and a sound record keeps its bytes, up to its checksum, which is chained anew. What could not be checked
//! is kept and marked, so that it proves as little as before; for what is missing stands `lost`. The old file is kept, whole and
//! durable, before anything is changed. `FORMAT.md` says how the new one looks.
//!
//! **Order.** Copy the log into `repaired/` and sync that; take the session, as any owner does; write the new log as `<id>.part`, sync, read it back
//! and compare the folds; rename it over the log, sync the folder. A crash leaves the old log or the new one, and perhaps a copy or a `.part`
//! too many, which the next repair replaces. The session is owned throughout, so nobody appends to a file that is about to go.
//!
//! All of this blocks and runs on the runtime's blocking threads. Memory follows the damage, not the log.

use super::engine::Core;
use super::open::{self, Taken, remove_if_there};
use super::part::Part;
use super::read::{self, open_log};
use super::session::Session;
use super::text::Files;
use super::{lock, syncer};
use crate::error::StoreError;
use crate::event::{Closed, Compacted, Entry, Event, Lost, Repaired, RepairedLine, Unknown};
use crate::fs::{File, OpenMode, append_all, copy_all_at, for_each_chunk, read_full_at};
use crate::id::{Seq, SessionId};
use crate::line::{self, Decoded, Problem, ProblemKind, SideLine, UNCHECKED};
use crate::scan::{Scanned, Scanner};
use crate::state::State;
use crate::time::Timestamp;
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CHUNK_BYTES: usize = 1 << 20;
/// How many problems `repaired` names; the old file has them all.
const LINES_MAX: usize = 1_000;
/// How many names are tried for the copy, which has the time in its name.
const NAMES_MAX: u32 = 100;

/// Is told how many more bytes were read, for somebody who waits.
pub type Advance = Arc<dyn Fn(u64) + Send + Sync>;

/// What a repair found, and what it did or would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Repair {
    /// The session.
    pub id: SessionId,
    /// What was wrong, in the order of the log as it was.
    pub mended: Vec<Mended>,
    /// Whether the log was written again, or would be. What is wrong only at its end is mended by opening it, and a side file by nothing but
    /// its return.
    pub rewrites: bool,
    /// The log as it was, where it was written again.
    pub original: Option<PathBuf>,
}

impl Repair {
    /// How many problems stay.
    #[must_use]
    pub fn left(&self) -> usize {
        self.mended.iter().filter(|mended| mended.action == RepairAction::Stays).count()
    }
}

/// A problem, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mended {
    /// What was wrong.
    #[serde(flatten)]
    pub problem: Problem,
    /// What becomes of it.
    pub action: RepairAction,
}

/// What a repair does about a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RepairAction {
    /// The record is kept, and marked as unchecked.
    Marked,
    /// The line is not in the new log.
    LeftOut,
    /// The record stands in its place now.
    Moved,
    /// The records in the line are kept, each on a line of its own.
    Split,
    /// A `lost` stands for the events that are missing.
    Noted,
    /// What is around the record is gone.
    Cleaned,
    /// The end is kept in `recovered`, as by any owner.
    PutAside,
    /// Nothing: only what is missing could mend it.
    Stays,
}

impl RepairAction {
    /// Its name, as in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Marked => "marked",
            Self::LeftOut => "left_out",
            Self::Moved => "moved",
            Self::Split => "split",
            Self::Noted => "noted",
            Self::Cleaned => "cleaned",
            Self::PutAside => "put_aside",
            Self::Stays => "stays",
        }
    }
}

/// What would be done about `problems`, which `verify` found.
pub(super) fn plan(core: &Core, id: SessionId, problems: Vec<Problem>, advance: &Advance) -> Result<Repair, StoreError> {
    if !needs_rewrite(&problems) {
        return Ok(Repair { id, mended: without_rewrite(problems), rewrites: false, original: None });
    }
    let file = open_log(core, id, OpenMode::Read)?;
    let survey = Survey::of(&*file, &core.layout.log(id), advance)?;
    Ok(Repair { id, mended: survey.mended(problems), rewrites: true, original: None })
}

/// How a repair went, and the session where it is still owned: whoever gets this lets go of it.
pub(super) struct Attempt {
    pub(super) outcome: Result<Repair, StoreError>,
    pub(super) owned: Option<Arc<Session>>,
}

/// Mends `problems`, which `verify` found.
pub(super) fn repair(core: &Arc<Core>, id: SessionId, problems: Vec<Problem>, advance: &Advance) -> Attempt {
    let rewrites = needs_rewrite(&problems);
    let done = |mended, original| Ok(Repair { id, mended, rewrites, original });
    if !rewrites && problems.iter().all(|problem| problem.kind != ProblemKind::TornTail) {
        return Attempt { outcome: done(without_rewrite(problems), None), owned: None };
    }
    let kept = match rewrites.then(|| keep_original(core, id)).transpose() {
        Ok(kept) => kept,
        Err(error) => return Attempt { outcome: Err(error), owned: None },
    };
    // Whatever is at the log's end, an owner puts aside.
    let session = match open::open(core, id) {
        Ok(Taken { session, .. }) => session,
        Err(error) => {
            discard(core, kept.as_deref().unwrap_or_default());
            return Attempt { outcome: Err(error), owned: None };
        }
    };
    let Some(kept) = &kept else { return Attempt { outcome: done(without_rewrite(problems), None), owned: Some(session) } };
    match write_again(core, id, &session, problems, kept, advance) {
        Ok(mended) => {
            // `closed` is in the new log.
            core.files.close(&mut lock(&session.disk));
            let outcome = sync_entry(core, id).and_then(|()| done(mended, kept.first().cloned()));
            Attempt { outcome, owned: None }
        }
        Err(error) => {
            let _ = core.fs().remove_file(&core.layout.part(id));
            discard(core, kept);
            Attempt { outcome: Err(error), owned: Some(session) }
        }
    }
}

/// Makes the entry of the new log durable. Until then a power cut may bring the old one back, whose owner is dead then.
fn sync_entry(core: &Core, id: SessionId) -> Result<(), StoreError> {
    let day = core.layout.day(id);
    syncer::sync_day(core, &day)?;
    syncer::sync_folder(core, &day)?;
    // The new log is the whole session, so that a packed part of the old one is of no more use.
    remove_if_there(core, &core.layout.cold(id))?;
    syncer::sync_folder(core, &day)
}

/// Whether the lines are wrong, and not only what is after them or beside them.
fn needs_rewrite(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| !matches!(problem.kind, ProblemKind::TornTail | ProblemKind::SideFile | ProblemKind::Rescued))
}

fn without_rewrite(problems: Vec<Problem>) -> Vec<Mended> {
    problems.into_iter().map(|problem| Mended { action: usual_action(problem.kind), problem }).collect()
}

/// What becomes of a problem of this kind, where its line does not say otherwise.
fn usual_action(kind: ProblemKind) -> RepairAction {
    match kind {
        ProblemKind::Unchecked => RepairAction::Marked,
        ProblemKind::Gap | ProblemKind::Empty => RepairAction::Noted,
        ProblemKind::Formatting => RepairAction::Cleaned,
        ProblemKind::TornTail => RepairAction::PutAside,
        ProblemKind::SideFile | ProblemKind::Rescued => RepairAction::Stays,
        // Checkpoints go too: each names places in the old file.
        _ => RepairAction::LeftOut,
    }
}

/// Copies the files of the log into the folder of originals; durable on return. The first is the one that is told.
///
/// Who opens the session after that, and before it is ours, only appends: what they wrote is in the new log.
fn keep_original(core: &Core, id: SessionId) -> Result<Vec<PathBuf>, StoreError> {
    let files = Files::find(core, id)?;
    let folder = core.layout.repaired();
    core.create_dirs(&folder)?;
    let cold = if files.is_archived { core.layout.archived(id) } else { core.layout.cold(id) };
    let hot = files.hot.map(|_| (core.layout.log(id), "jsonl"));
    let cold = files.cold.map(|_| (cold, "jsonl.zst"));
    let mut kept = Vec::new();
    for (from, ending) in hot.into_iter().chain(cold) {
        let path = create_named(core, &folder, id, ending)?;
        kept.push(path.clone());
        if let Err(error) = copy(core, &from, &path) {
            discard(core, &kept);
            return Err(error);
        }
    }
    syncer::sync_folder(core, &folder)?;
    syncer::sync_folder(core, core.layout.home())?;
    Ok(kept)
}

fn copy(core: &Core, from: &Path, to: &Path) -> Result<(), StoreError> {
    let source = core.open(from, OpenMode::Read).map_err(StoreError::io("open", from))?;
    let length = source.stat().map_err(StoreError::io("look at", from))?.size;
    let into = core.open(to, OpenMode::InPlace).map_err(StoreError::io("open", to))?;
    copy_all_at(&*into, 0, &*source, 0..length).map_err(StoreError::io("copy", from))?;
    into.sync_data().map_err(StoreError::io("sync", to))
}

/// Removes copies that turned out to be of no use.
fn discard(core: &Core, copies: &[PathBuf]) {
    for copy in copies {
        let _ = core.fs().remove_file(copy);
    }
}

/// Makes a file `<id>.<time>.<ending>`, or the next of that name.
fn create_named(core: &Core, folder: &Path, id: SessionId, ending: &str) -> Result<PathBuf, StoreError> {
    let time: String = core.options.clock.now().to_string().chars().filter(|char| !matches!(char, '-' | ':')).collect();
    let mut number = 1;
    loop {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        let path = folder.join(format!("{id}.{time}{more}.{ending}"));
        match core.open(&path, OpenMode::CreateNew) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NAMES_MAX => number += 1,
            Err(error) => return Err(StoreError::io("create", path)(error)),
        }
    }
}

/// Writes the log of an owned session again, and puts it in the place of the old one. Nothing is changed where it fails.
fn write_again(
    core: &Arc<Core>,
    id: SessionId,
    session: &Session,
    problems: Vec<Problem>,
    kept: &[PathBuf],
    advance: &Advance,
) -> Result<Vec<Mended>, StoreError> {
    let (log, part) = (core.layout.log(id), core.layout.part(id));
    let file = open_log(core, id, OpenMode::Read)?;
    let survey = Survey::of(&*file, &log, advance)?;
    let mended = survey.mended(problems);
    let mut expected = read::fold_whole(core, id)?.state;
    let more = [repaired(&mended, kept).into(), Closed { epoch: session.epoch, summary: None }.into()];

    let Part { file: into, .. } = &Part::create(core, part.clone())?;
    let mut writer = LogWriter { file: &**into, out: Vec::new(), crc: 0, next: 0 };
    let written = survey.write(&*file, &mut writer, advance).and_then(|()| {
        for event in more {
            let entry = writer.push(core.options.clock.now(), event)?;
            expected.apply(&entry);
        }
        writer.flush()
    });
    written.map_err(StoreError::io("write", &part))?;
    into.sync_data().map_err(StoreError::io("sync", &part))?;
    into.forget_cached();
    check(core, id, &**into, &part, &expected, advance)?;
    core.fs().rename(&part, &log).map_err(StoreError::io("rename", &part))?;
    Ok(mended)
}

fn repaired(mended: &[Mended], kept: &[PathBuf]) -> Repaired {
    let lines = mended.iter().take(LINES_MAX).map(|Mended { problem, action }| RepairedLine {
        line: problem.line,
        problem: name_of(problem.kind),
        action: action.as_str().to_owned(),
    });
    let name = kept.first().and_then(|path| path.file_name()).unwrap_or_default();
    let original = name.to_string_lossy().into_owned();
    Repaired { original, problems: mended.len() as u64, lines: lines.collect() }
}

/// The name of a problem, as in JSON.
fn name_of(kind: ProblemKind) -> String {
    let name = serde_json::to_value(kind).ok().and_then(|name| Some(name.as_str()?.to_owned()));
    name.unwrap_or_default()
}

/// Whether the new log is whole, and folds to what the old one folds to.
fn check(
    core: &Arc<Core>,
    id: SessionId,
    file: &dyn File,
    path: &Path,
    expected: &State,
    advance: &Advance,
) -> Result<(), StoreError> {
    let wrong = |what: String| StoreError::io("repair", core.layout.log(id))(io::Error::other(what));
    let mut state = State::default();
    let mut problem = None;
    scan_file(file, path, advance, |item| match item {
        Scanned::Entry(entry) => state.apply(&entry),
        Scanned::Side { side, .. } => state.apply(&entry_of(core, id, side)),
        Scanned::SetAside { place } => problem = Some(format!("line {} was set aside", place.line)),
        Scanned::Fragment { .. } => problem = Some("it does not end in a newline".to_owned()),
        Scanned::Problem(found) => problem = Some(format!("line {}: {}", found.line, found.detail)),
    })?;
    if let Some(problem) = problem {
        return Err(wrong(format!("what was written is not sound: {problem}")));
    }
    if state == *expected { Ok(()) } else { Err(wrong("what was written would not be read as the log is".to_owned())) }
}

/// The event whose fields are in a side file; one that is gone says nothing to a fold.
fn entry_of(core: &Core, id: SessionId, line: SideLine) -> Entry {
    let fields = read::read_side(core, id, &line.side).ok();
    let event = fields.and_then(|json| Event::read_fields(&line.type_name, &json).ok());
    let unknown = || Event::Unknown(Unknown { type_name: line.type_name, fields: serde_json::Map::new() });
    Entry { sound: line.sound, ..Entry::new(line.seq, line.at, event.unwrap_or_else(unknown)) }
}

/// Scans a whole file.
fn scan_file(file: &dyn File, path: &Path, advance: &Advance, mut sink: impl FnMut(Scanned)) -> Result<u64, StoreError> {
    let mut scanner = Scanner::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut offset, mut found) = (0, Vec::new());
    loop {
        let length = read_full_at(file, &mut chunk, offset).map_err(StoreError::io("read", path))?;
        if length == 0 {
            break;
        }
        offset += length as u64;
        scanner.feed(&chunk[..length], &mut found);
        found.drain(..).for_each(&mut sink);
        advance(length as u64);
    }
    scanner.finish(&mut found);
    found.drain(..).for_each(&mut sink);
    Ok(scanner.next_seq())
}

/// What of a log goes into the new one.
struct Survey {
    /// In the order of the file; sorted at the end.
    runs: Vec<Run>,
    /// What happened to lines that a problem is told of, in the order of the file.
    actions: Vec<(u64, ProblemKind, RepairAction)>,
    /// The line of the last record, and the problem about a record that is next.
    last_line: u64,
    moving: Option<usize>,
    marking: Option<usize>,
}

/// Records that go into the new log as they are, one after the other; or one that does not.
#[derive(Clone, Debug)]
struct Run {
    first: Seq,
    /// The `seq` behind the last one.
    next: Seq,
    /// When the first was accepted.
    at: Timestamp,
    /// From the first record's start to the last one's end.
    bytes: Range<u64>,
    kind: Kind,
    /// The problem that is told of it.
    problem: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sound,
    /// One record.
    Unchecked,
    /// One that names places in the old file.
    Checkpoint,
}

impl Survey {
    fn of(file: &dyn File, path: &Path, advance: &Advance) -> Result<Self, StoreError> {
        let mut survey = Self { runs: Vec::new(), actions: Vec::new(), last_line: 0, moving: None, marking: None };
        let next_seq = scan_file(file, path, advance, |item| survey.take(item))?;
        survey.sort(next_seq);
        Ok(survey)
    }

    fn take(&mut self, item: Scanned) {
        match item {
            Scanned::Entry(entry) => {
                let place = entry.place;
                let kind = match entry.event {
                    _ if !entry.sound => Kind::Unchecked,
                    Event::Checkpoint(_) => Kind::Checkpoint,
                    _ => Kind::Sound,
                };
                let bytes = place.offset..place.offset + u64::from(place.len);
                self.add(Run { first: entry.seq, next: entry.next_seq(), at: entry.at, bytes, kind, problem: None }, place.line);
            }
            Scanned::Side { side, place } => {
                let kind = if side.sound { Kind::Sound } else { Kind::Unchecked };
                let bytes = place.offset..place.offset + u64::from(place.len);
                self.add(Run { first: side.seq, next: side.seq + 1, at: side.at, bytes, kind, problem: None }, place.line);
            }
            Scanned::SetAside { .. } => self.moving = None,
            Scanned::Problem(problem) => self.note(&problem),
            Scanned::Fragment { .. } => {}
        }
    }

    fn note(&mut self, problem: &Problem) {
        let action = match problem.kind {
            // It is told behind the records that were found in the line.
            ProblemKind::Unreadable if problem.line == self.last_line => RepairAction::Split,
            kind => usual_action(kind),
        };
        // These two are told before their record.
        match problem.kind {
            ProblemKind::OutOfPlace => self.moving = Some(self.actions.len()),
            ProblemKind::Unchecked => self.marking = Some(self.actions.len()),
            _ => {}
        }
        self.actions.push((problem.line, problem.kind, action));
    }

    fn add(&mut self, mut run: Run, line: u64) {
        if let Some(moved) = self.moving.take() {
            self.actions[moved].2 = RepairAction::Moved;
        }
        run.problem = self.marking.take();
        let is_next_line = std::mem::replace(&mut self.last_line, line) + 1 == line;
        match self.runs.last_mut() {
            // Nothing but a newline stands between the two.
            Some(last)
                if is_next_line
                    && (last.kind, run.kind) == (Kind::Sound, Kind::Sound)
                    && last.next == run.first
                    && last.bytes.end + 1 == run.bytes.start =>
            {
                last.next = run.next;
                last.bytes.end = run.bytes.end;
            }
            _ => self.runs.push(run),
        }
    }

    /// Brings the runs into the order of `seq`, as a reader does: of two records with one `seq` the sound one counts, else the first, and what claims
    /// a place behind the end is damaged in that.
    fn sort(&mut self, next_seq: Seq) {
        self.runs.sort_by_key(|run| (run.first, run.kind == Kind::Unchecked));
        let mut next = 0;
        let actions = &mut self.actions;
        self.runs.retain(|run| {
            let is_kept = run.first >= next && run.first < next_seq;
            if is_kept {
                next = run.next;
            } else if let Some(problem) = run.problem {
                actions[problem].2 = RepairAction::LeftOut;
            }
            is_kept
        });
    }

    /// What becomes of the `problems` that `verify` told.
    fn mended(&self, problems: Vec<Problem>) -> Vec<Mended> {
        // Of many problems of a kind in one line, the last is told; there is hardly ever more than one.
        let known: HashMap<_, _> = self.actions.iter().map(|(line, kind, action)| ((*line, *kind), *action)).collect();
        let action = |problem: &Problem| known.get(&(problem.line, problem.kind)).copied();
        let mended =
            |problem: Problem| Mended { action: action(&problem).unwrap_or_else(|| usual_action(problem.kind)), problem };
        problems.into_iter().map(mended).collect()
    }

    /// Writes the new log.
    fn write(&self, file: &dyn File, writer: &mut LogWriter<'_>, advance: &Advance) -> io::Result<()> {
        for run in &self.runs {
            if run.first > writer.next {
                let lost = Lost { from: writer.next, to: run.first - 1 };
                writer.push(run.at, lost.into())?;
            }
            match run.kind {
                Kind::Checkpoint => {
                    let left_out = Compacted { from: run.first, to: run.first, count: 1 };
                    writer.push(run.at, left_out.into())?;
                }
                Kind::Unchecked => {
                    let mut text = vec![0; usize::try_from(run.bytes.end - run.bytes.start).map_err(io::Error::other)?];
                    let length = read_full_at(file, &mut text, run.bytes.start)?;
                    writer.push_unchecked(&text[..length], run.first)?;
                }
                Kind::Sound => {
                    for_each_line(file, run.bytes.clone(), |text| match line::claim(text) {
                        Some((body, _)) => writer.push_body(body),
                        None => Err(io::Error::other("the log changed while it was read")),
                    })?;
                    advance(run.bytes.end - run.bytes.start);
                }
            }
            writer.next = run.next;
        }
        Ok(())
    }
}

/// The new log.
struct LogWriter<'a> {
    file: &'a dyn File,
    /// What is not written yet.
    out: Vec<u8>,
    crc: u32,
    next: Seq,
}

impl LogWriter<'_> {
    /// Writes an event in the next place.
    fn push(&mut self, at: Timestamp, event: Event) -> io::Result<Entry> {
        let entry = Entry::new(self.next, at, event);
        self.crc = entry.write_line(&mut self.out, self.crc);
        self.next = entry.next_seq();
        self.flush_if_long()?;
        Ok(entry)
    }

    /// Writes a line with this body.
    fn push_body(&mut self, body: &[u8]) -> io::Result<()> {
        let start = self.out.len();
        self.out.extend_from_slice(body);
        self.crc = line::finish(&mut self.out, start, self.crc);
        self.flush_if_long()
    }

    /// Writes the record `text`, which could not be checked, as event `seq`.
    fn push_unchecked(&mut self, text: &[u8], seq: Seq) -> io::Result<()> {
        let mut body = unchecked_body(text, seq).ok_or_else(|| io::Error::other("the log changed while it was read"))?;
        if !body.ends_with(UNCHECKED) {
            body.extend_from_slice(UNCHECKED);
        }
        self.push_body(&body)
    }

    fn flush_if_long(&mut self) -> io::Result<()> {
        if self.out.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        append_all(self.file, &mut [IoSlice::new(&self.out)], |_| {})?;
        self.out.clear();
        Ok(())
    }
}

/// The body of a line that could not be checked: its own bytes where they have the form of a line, else its members once more.
fn unchecked_body(text: &[u8], seq: Seq) -> Option<Vec<u8>> {
    if let Some((body, _)) = line::claim(text)
        && let Some(rest) = line::after_seq(body)
    {
        return Some([format!("{{\"seq\":{seq}").as_bytes(), rest].concat());
    }
    let mut written = Vec::new();
    match line::decode(text)? {
        Decoded::Entry(Entry { at, event, .. }) => {
            let event = Event::read_unknown(event.type_name(), text).ok()?;
            line::encode(&mut written, 0, seq, at, &event);
        }
        Decoded::Side(side) => {
            line::encode_side(&mut written, 0, seq, side.at, &side.type_name, &side.side);
        }
    }
    line::claim(written.trim_ascii_end()).map(|(body, _)| body.to_vec())
}

/// Gives each line in `range`, which ends where the last one does, to `sink`.
fn for_each_line(file: &dyn File, range: Range<u64>, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut rest = Vec::new();
    for_each_chunk(file, range, |chunk, _| {
        let mut lines = chunk.split(|byte| *byte == b'\n');
        let last = lines.next_back().unwrap_or_default();
        for line in lines {
            if rest.is_empty() {
                sink(line)?;
            } else {
                rest.extend_from_slice(line);
                sink(&rest)?;
                rest.clear();
            }
        }
        rest.extend_from_slice(last);
        Ok(())
    })?;
    sink(&rest)
}
