//! Reading a log: in chunks, so that memory follows the chunk and the longest line and not the file.

use super::engine::Core;
use super::tail::Log;
use super::text::{Files, Text};
use crate::error::StoreError;
use crate::event::{Entry, Event, SideRef, Unknown};
use crate::fs::{self, File, OpenMode, read_full_at};
use crate::id::{Place, Seq, SessionId};
use crate::line::{Problem, ProblemKind, SideLine};
use crate::scan::{Position, Scanned, Scanner};
use crate::side::sha256_hex;
use crate::state::State;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const CHUNK_BYTES: usize = 256 << 10;

/// Something in a log, with side files read.
#[expect(clippy::large_enum_variant, reason = "nearly all items are entries")]
pub(super) enum Item {
    Entry(Entry),
    Problem(Problem),
    /// What is after the last newline.
    Fragment {
        offset: u64,
        /// Only its newline is missing.
        holds_records: bool,
    },
}

/// Reads one log from its start, or from a checkpoint on ([`LogReader::seek`]).
pub(super) struct LogReader {
    core: Arc<Core>,
    id: SessionId,
    text: Text,
    pub(super) scanner: Scanner,
    /// How much was read.
    pub(super) offset: u64,
    chunk: Vec<u8>,
    found: Vec<Scanned>,
    /// It began at a checkpoint, and nothing since then asked for what is before that.
    is_anchored: bool,
    /// Records that are none of the session's events.
    set_aside: u64,
}

impl LogReader {
    pub(super) fn open(core: &Arc<Core>, id: SessionId) -> Result<Self, StoreError> {
        Ok(Self::of(core, id, Text::open(core, id, OpenMode::Read)?))
    }

    /// Reads a text of `id` that is open.
    pub(super) fn of(core: &Arc<Core>, id: SessionId, text: Text) -> Self {
        Self {
            core: Arc::clone(core),
            id,
            text,
            scanner: Scanner::new(),
            offset: 0,
            chunk: Vec::new(),
            found: Vec::new(),
            is_anchored: false,
            set_aside: 0,
        }
    }

    /// Goes to the newest checkpoint of events before `from`, and gives the state there, without bodies; stays at the start
    /// where there is none.
    pub(super) fn seek(&mut self, from: Seq) -> Result<Option<State>, StoreError> {
        let log = self.log();
        let length = log.file.stat().map_err(StoreError::io("look at", self.core.layout.log(self.id)))?.size;
        let end = if from == Seq::MAX { length } else { log.end_for(from, length)? };
        let Some(anchor) = log.anchor(end, from)? else { return Ok(None) };
        self.scanner = Scanner::resume(anchor.position);
        self.offset = anchor.position.offset;
        self.is_anchored = true;
        Ok(Some(anchor.state))
    }

    /// Whether it still reads from the checkpoint that it was sent to. Where a line there does not continue the chain, only what is before can
    /// tell what it is: the reader goes back to the start by itself, and gives all again.
    pub(super) fn is_anchored(&self) -> bool {
        self.is_anchored
    }

    /// The file, to be read at any place.
    pub(super) fn log(&self) -> Log<'_> {
        Log { core: &self.core, id: self.id, file: &*self.text.file }
    }

    /// Reads on; false at the end of what there is.
    pub(super) fn read(&mut self, out: &mut Vec<Item>) -> Result<bool, StoreError> {
        if self.chunk.is_empty() {
            // Fresh zeros of the system's: only what is read into is touched.
            self.chunk = vec![0; CHUNK_BYTES];
        }
        let path = self.core.layout.log(self.id);
        let length = read_full_at(&*self.text.file, &mut self.chunk, self.offset).map_err(StoreError::io("read", path))?;
        self.offset += length as u64;
        self.scanner.feed(&self.chunk[..length], &mut self.found);
        if self.goes_back() {
            return Ok(true);
        }
        self.resolve(out);
        if length == 0 {
            self.chunk = Vec::new();
        }
        Ok(length > 0)
    }

    /// Ends the reading: tells what is after the last newline. False where there is more to read, from the start.
    pub(super) fn finish(&mut self, out: &mut Vec<Item>) -> bool {
        self.scanner.finish(&mut self.found);
        if self.goes_back() {
            return false;
        }
        self.resolve(out);
        true
    }

    /// Goes back to the start where something was found that cannot be judged from a checkpoint on.
    fn goes_back(&mut self) -> bool {
        let is_sound = |found: &Scanned| match found {
            Scanned::Entry(entry) => entry.sound,
            Scanned::Side { side, .. } => side.sound,
            Scanned::Problem(_) => false,
            // Without a problem it is an `opened` that came too late for its epoch.
            Scanned::SetAside { .. } | Scanned::Fragment { .. } => true,
        };
        if !self.is_anchored || self.found.iter().all(is_sound) {
            return false;
        }
        self.found.clear();
        self.scanner = Scanner::new();
        self.offset = 0;
        self.is_anchored = false;
        true
    }

    /// How many records were found that are none of the session's events.
    pub(super) fn set_aside(&self) -> u64 {
        self.set_aside
    }

    /// Whether a part of the text is missing, by what was read so far.
    pub(super) fn is_damaged(&self) -> bool {
        self.text.is_damaged()
    }

    /// Whether its path leads to other files by now, or to a shorter one.
    pub(super) fn is_replaced(&self) -> Result<bool, StoreError> {
        let files = Files::find(&self.core, self.id)?;
        let is_shorter = files.hot.is_some_and(|hot| self.text.base + hot.size < self.offset);
        Ok(!files.are(&self.text.files) || is_shorter)
    }

    fn resolve(&mut self, out: &mut Vec<Item>) {
        for scanned in self.found.drain(..) {
            match scanned {
                Scanned::Entry(entry) => out.push(Item::Entry(entry)),
                Scanned::Side { side, place } => read_fields(&self.core, self.id, side, place, out),
                Scanned::SetAside { .. } => self.set_aside += 1,
                Scanned::Problem(problem) => out.push(Item::Problem(problem)),
                Scanned::Fragment { offset, holds_records, .. } => {
                    out.push(Item::Problem(torn_tail(&self.scanner, offset, self.offset)));
                    out.push(Item::Fragment { offset, holds_records });
                }
            }
        }
    }
}

fn torn_tail(scanner: &Scanner, offset: u64, end: u64) -> Problem {
    let detail = format!("{} bytes follow the last newline", end.saturating_sub(offset));
    Problem { line: scanner.position().lines + 1, offset, kind: ProblemKind::TornTail, detail }
}

/// Opens a log, whatever files it is in.
pub(super) fn open_log(core: &Core, id: SessionId, mode: OpenMode) -> Result<Arc<dyn File>, StoreError> {
    Text::open(core, id, mode).map(|text| text.file)
}

/// The event whose fields are in a side file. Where that is missing or damaged the event is there, its fields are not.
fn read_fields(core: &Core, id: SessionId, line: SideLine, place: Place, out: &mut Vec<Item>) {
    let event = read_side(core, id, &line.side).ok().and_then(|json| Event::read_fields(&line.type_name, &json).ok());
    let event = event.unwrap_or_else(|| {
        out.push(Item::Problem(missing_side(&line.side, place)));
        let fields = serde_json::Map::from_iter([("side".to_owned(), serde_json::json!(line.side))]);
        Event::Unknown(Unknown { type_name: line.type_name, fields })
    });
    out.push(Item::Entry(Entry { seq: line.seq, at: line.at, sound: line.sound, event, place }));
}

pub(super) fn missing_side(side: &SideRef, place: Place) -> Problem {
    let detail = format!("the side file `{}` of {} bytes is missing or damaged", side.sha256, side.bytes);
    Problem { line: place.line, offset: place.offset, kind: ProblemKind::SideFile, detail }
}

/// The bytes of a side file, checked.
pub(super) fn read_side(core: &Core, id: SessionId, side: &SideRef) -> Result<Vec<u8>, StoreError> {
    let path = side_path(core, id, side)?;
    match fs::read_all(core.fs(), &path) {
        Ok(bytes) if bytes.len() as u64 == side.bytes && sha256_hex(&bytes) == side.sha256 => Ok(bytes),
        Ok(_) => Err(StoreError::SideFile { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::SideFile { path }),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// Where a side file is. A log may say anything: what is no hash is no file's name.
fn side_path(core: &Core, id: SessionId, side: &SideRef) -> Result<PathBuf, StoreError> {
    let is_it = |path: &PathBuf| core.fs().stat(path).is_ok_and(|found| found.is_file && found.size == side.bytes);
    let path = core.layout.sides(id).join(&side.sha256);
    let folders = [core.layout.sides(id), core.layout.archived_sides(id)];
    let found = folders.iter().filter(|_| is_hash(&side.sha256)).map(|folder| folder.join(&side.sha256)).find(is_it);
    found.ok_or(StoreError::SideFile { path })
}

pub(super) fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The fold of a log, and where its writer would go on.
pub(super) struct Folded {
    pub(super) state: State,
    /// What is wrong in what was read.
    pub(super) problems: Vec<Problem>,
    /// Sound events in what was read.
    pub(super) events: u64,
    /// The end of the last whole line, the lines before it, the checksum that the next line continues, its `seq`, and the last epoch.
    pub(super) position: Position,
    /// The file's length.
    pub(super) length: u64,
    /// How much of it was read for the fold, bodies aside.
    pub(super) read: u64,
    /// What is after the last newline: its place, and whether only its newline is missing.
    pub(super) fragment: Option<(u64, bool)>,
    /// Up to where the log itself says that it is durable.
    pub(super) durable: u64,
}

/// Folds a log, from its newest checkpoint on where that gives the same.
pub(super) fn fold(core: &Arc<Core>, id: SessionId) -> Result<Folded, StoreError> {
    let mut reader = LogReader::open(core, id)?;
    if let Some(state) = reader.seek(Seq::MAX)?
        && let Some(mut folded) = fold_tail(&mut reader, state)?
        && hydrate(&reader.log(), core, &mut folded.state)?
    {
        return Ok(folded);
    }
    fold_whole(core, id)
}

/// Like [`fold`], but without the bodies of what a checkpoint is for.
pub(super) fn fold_for_list(core: &Arc<Core>, id: SessionId) -> Result<Folded, StoreError> {
    let mut reader = LogReader::open(core, id)?;
    if let Some(state) = reader.seek(Seq::MAX)?
        && let Some(folded) = fold_tail(&mut reader, state)?
    {
        return Ok(folded);
    }
    fold_whole(core, id)
}

/// The fold of the events up to and with `at`, without the bodies of what a checkpoint is for.
pub(super) fn fold_until(core: &Arc<Core>, id: SessionId, at: Seq) -> Result<State, StoreError> {
    let mut reader = LogReader::open(core, id)?;
    let mut state = reader.seek(at.saturating_add(1))?.unwrap_or_default();
    let (mut items, mut more) = (Vec::new(), true);
    while more {
        let was_anchored = reader.is_anchored();
        more = reader.read(&mut items)? || !reader.finish(&mut items);
        if was_anchored && !reader.is_anchored() {
            state = State::default();
        }
        for entry in entries_from(std::mem::take(&mut items), 0) {
            if entry.seq > at && entry.sound {
                return Ok(state);
            }
            if entry.seq <= at {
                state.apply(&entry);
            }
        }
    }
    Ok(state)
}

/// Folds on from a checkpoint; nothing where the reader had to go back.
fn fold_tail(reader: &mut LogReader, mut state: State) -> Result<Option<Folded>, StoreError> {
    let mut folded = scan_with(reader, true, |entry, _| state.apply(&entry))?;
    Ok(reader.is_anchored().then(|| {
        folded.state = state;
        folded
    }))
}

/// Folds a log from its start, whatever checkpoints it has.
pub(super) fn fold_whole(core: &Arc<Core>, id: SessionId) -> Result<Folded, StoreError> {
    let mut state = State::default();
    let mut in_order = true;
    let mut folded = scan(core, id, |entry, _| {
        in_order &= entry.seq >= state.next_seq;
        if in_order {
            state.apply(&entry);
        }
    })?;
    folded.state = if in_order { state } else { fold_sorted(core, id, folded.position.next_seq)? };
    hydrate(&LogReader::open(core, id)?.log(), core, &mut folded.state)?;
    Ok(folded)
}

/// Reads a log to its end and gives each entry to `sink`, which may add problems. The state is left empty.
pub(super) fn scan(core: &Arc<Core>, id: SessionId, sink: impl FnMut(Entry, &mut Vec<Problem>)) -> Result<Folded, StoreError> {
    scan_with(&mut LogReader::open(core, id)?, false, sink)
}

/// The same from where `reader` is; stops where it goes back to the start and `stops` says so.
fn scan_with(reader: &mut LogReader, stops: bool, mut sink: impl FnMut(Entry, &mut Vec<Problem>)) -> Result<Folded, StoreError> {
    let from = reader.offset;
    let (mut problems, mut events, mut fragment, mut durable) = (Vec::new(), 0, None, Durable::default());
    let mut items = Vec::new();
    let mut more = true;
    while more {
        more = reader.read(&mut items)? || !reader.finish(&mut items);
        if stops && !reader.is_anchored() {
            break;
        }
        for item in items.drain(..) {
            match item {
                Item::Entry(entry) => {
                    events += u64::from(entry.sound);
                    durable.pass(&entry);
                    sink(entry, &mut problems);
                }
                Item::Problem(problem) => problems.push(problem),
                Item::Fragment { offset, holds_records } => fragment = Some((offset, holds_records)),
            }
        }
    }
    problems.sort_by_key(|problem| problem.offset);
    Ok(Folded {
        state: State::default(),
        problems,
        events,
        position: reader.scanner.position(),
        length: reader.offset,
        read: reader.offset.saturating_sub(from),
        fragment,
        durable: durable.end,
    })
}

/// Up to where a log is durable by what it says itself.
#[derive(Default)]
struct Durable {
    end: u64,
    /// Where the last `opened` stands that nothing was appended behind. Its owner appends once all before it is durable: only a
    /// line of its own says that this went well.
    opened: u64,
}

impl Durable {
    fn pass(&mut self, entry: &Entry) {
        match &entry.event {
            _ if !entry.sound => {}
            Event::Opened(_) => self.opened = entry.place.offset,
            Event::Recovered(_) => {}
            Event::Checkpoint(checkpoint) => self.end = self.end.max(checkpoint.durable.min(entry.place.offset)),
            _ => self.end = self.end.max(self.opened),
        }
    }
}

/// The fold of a log with lines out of their order: they are few, and the whole is taken into memory for it. An
/// event at `next_seq`, where the log goes on, or behind it has a damaged `seq`; it must not come before what is appended.
fn fold_sorted(core: &Arc<Core>, id: SessionId, next_seq: Seq) -> Result<State, StoreError> {
    let mut entries: BTreeMap<Seq, Entry> = BTreeMap::new();
    scan(core, id, |entry, _| {
        if entry.seq < next_seq {
            keep_better(&mut entries, entry);
        }
    })?;
    Ok(State::fold(entries.values()))
}

/// Of two entries with one `seq` the sound one counts, else the first.
fn keep_better(entries: &mut BTreeMap<Seq, Entry>, entry: Entry) {
    if entries.get(&entry.seq).is_none_or(|other| entry.sound && !other.sound) {
        entries.insert(entry.seq, entry);
    }
}

/// Reads the bodies again that the context misses: where their places say, and for those that came back into it, whose places nobody keeps, by
/// looking for them. False where something is not there, or not what its place says.
fn hydrate(log: &Log<'_>, core: &Arc<Core>, state: &mut State) -> Result<bool, StoreError> {
    if !log.hydrate(state)? {
        return Ok(false);
    }
    let missing = state.missing();
    let (Some(&first), Some(&last)) = (missing.first(), missing.last()) else { return Ok(true) };
    let mut reader = LogReader::open(core, log.id)?;
    reader.seek(first)?;
    let (mut items, mut more) = (Vec::new(), true);
    while more {
        more = reader.read(&mut items)? || !reader.finish(&mut items);
        let entries = entries_from(std::mem::take(&mut items), first);
        state.hydrate_all(entries.iter().map(Arc::as_ref));
        let is_past = entries.iter().any(|entry| entry.seq > last && entry.event.ends_answer());
        more &= !(is_past && state.missing().is_empty());
    }
    Ok(state.missing().is_empty())
}

/// The entries of a chunk from `from` on, in the order of `seq` as far as the chunk goes.
pub(super) fn entries_from(items: Vec<Item>, from: Seq) -> Vec<Arc<Entry>> {
    let entries = items.into_iter().filter_map(|item| match item {
        Item::Entry(entry) if entry.seq >= from => Some(entry),
        _ => None,
    });
    let mut sorted = BTreeMap::new();
    entries.for_each(|entry| keep_better(&mut sorted, entry));
    sorted.into_values().map(Arc::new).collect()
}
