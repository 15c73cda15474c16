//! Making a session cold: its log is written anew, packed, and without what later events say again.
//!
//! **What is left out.** The pieces of an answer whose whole message came later and has all of their text, the pieces of a tool's output
//! where the call has its result, and old checkpoints: caches. A `compacted` line stands for each run of them. All other lines keep their
//! bodies, byte for byte; the chain runs over what is kept. A log with anything wrong in it keeps every byte, and is only packed. At the end of a long one come a fresh checkpoint and `closed`, in the last frame, so
//! that to list and to resume a session costs one frame and those that its context is in; a short one is one frame.
//!
//! **The order**, of which each step is durable before the next: the session is taken (`opened`, so that nobody else writes), the
//! packed text is written beside the log and synced, read back past the page cache, and held against the log: the same lines, the same fold. Only then does
//! it get its name, and only when that is durable is the log removed. A crash leaves one whole session at every point; what it may leave
//! beside that is told apart by [`text`](super::text) and goes with the next try.
//!
//! **Locks.** Who changes the files that a log is in has the lock of the cold one, so that two do not meet between two steps. Where locks
//! prove nothing no session is made cold.
//!
//! All of this blocks and runs on the runtime's blocking threads.

use super::engine::Core;
use super::frames::{FrameWriter, Frames};
use super::open::{self, Taken, Turn, remove_if_there};
use super::part::Part;
use super::read::{Item, LogReader};
use super::stop::Stop;
use super::text::{Files, Meeting, Text};
use super::{list, syncer};
use crate::error::StoreError;
use crate::event::{
    AssistantMessage, AssistantReasoning, AssistantText, Block, Checkpoint, Closed, Compacted, Entry, Event, Summary,
};
use crate::fs::{File, OpenMode, for_each_chunk, read_full_at};
use crate::id::{Place, Seq, SeqRange, SessionId};
use crate::line;
use crate::scan::Position;
use crate::state::{InFlight, State};
use crate::store::SessionListState;
use crate::time::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A log of no more than this is one frame, without a checkpoint: it is packed best so, and read in a millisecond.
const ONE_FRAME_BYTES: u64 = 256 << 10;
/// The last frame of others has at least this much of the end: what a reader that begins there asks for first.
const LAST_FRAME_BYTES: u64 = 96 << 10;
/// A smaller log takes a block of the disk whatever is done with it.
const WORTH_BYTES: u64 = 4 << 10;
/// How much of a log is in memory while its lines are copied.
const WINDOW_BYTES: usize = 1 << 20;

/// What became of the size of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Compressed {
    /// The bytes of its log before.
    pub before: u64,
    /// The bytes of its log now; the same where it was cold already.
    pub after: u64,
}

/// Which sessions [`FileStore::keep_cold`](super::FileStore::keep_cold) makes cold.
#[derive(Clone, Copy, Debug)]
pub struct KeepCold {
    /// Those to which nothing was added for so long.
    pub idle_for: Duration,
    /// So many at most.
    pub sessions_max: usize,
    /// No more once so many bytes of logs were read.
    pub bytes_max: u64,
}

/// What [`FileStore::keep_cold`](super::FileStore::keep_cold) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// How many sessions were made cold.
    pub sessions: usize,
    /// The bytes of their logs before, ...
    pub before: u64,
    /// ... and now.
    pub after: u64,
}

impl Kept {
    pub(super) fn count(&mut self, compressed: Compressed) {
        self.sessions += 1;
        self.before += compressed.before;
        self.after += compressed.after;
    }
}

/// The sessions that could be made cold, longest idle first.
pub(super) fn due(core: &Arc<Core>, what: KeepCold, now: Timestamp) -> Result<Vec<SessionId>, StoreError> {
    let idle_ms = i64::try_from(what.idle_for.as_millis()).unwrap_or(i64::MAX);
    let mut summaries = list::list(core)?;
    summaries.retain(|summary| {
        let is_idle =
            summary.state == SessionListState::Idle && now.as_ms().saturating_sub(summary.updated_at.as_ms()) >= idle_ms;
        let is_hot = |files: Files| files.hot.is_some() && files.bytes() >= WORTH_BYTES;
        is_idle && Files::find(core, summary.id).is_ok_and(is_hot)
    });
    summaries.sort_by_key(|summary| summary.updated_at);
    Ok(summaries.iter().map(|summary| summary.id).collect())
}

/// What [`compress`] did.
pub(super) enum Outcome {
    Done(Compressed),
    /// The session is as it was, and taken: it has to be closed.
    Abandoned(Box<Taken>, StoreError),
}

/// Makes a session cold that nobody holds.
pub(super) fn compress(core: &Arc<Core>, id: SessionId, stop: &Stop) -> Result<Outcome, StoreError> {
    let path = core.layout.log(id);
    if !core.fs().locks_are_trusted(core.layout.home()) {
        let words = "no session is compressed where the locks of files prove nothing";
        return Err(StoreError::io("compress", path)(io::Error::new(io::ErrorKind::Unsupported, words)));
    }
    let text = Text::open(core, id, OpenMode::Read)?;
    let before = text.files.bytes();
    if let Meeting::Cold { has_leftover } = text.meeting {
        if has_leftover {
            remove_leftover(core, id)?;
        }
        let after = text.files.cold.map_or(0, |cold| cold.size);
        return Ok(Outcome::Done(Compressed { before, after }));
    }
    if text.is_damaged() {
        return Err(damaged(&path));
    }
    if text.hides_another(core, id)? {
        return Err(damaged(&path));
    }
    drop(text);
    let taken = open::open(core, id)?;
    match convert(core, id, &taken, stop) {
        Ok(after) => Ok(Outcome::Done(Compressed { before, after })),
        Err(error) => {
            let _ = core.fs().remove_file(&core.layout.cold_part(id));
            Ok(Outcome::Abandoned(Box::new(taken), error))
        }
    }
}

fn damaged(path: &Path) -> StoreError {
    let words = "a part of it that is packed already is damaged; it stays as it is";
    StoreError::io("compress", path)(io::Error::new(io::ErrorKind::InvalidData, words))
}

/// Says how long the packed file is. The log is gone on success, and untouched otherwise.
fn convert(core: &Arc<Core>, id: SessionId, taken: &Taken, stop: &Stop) -> Result<u64, StoreError> {
    let (part, cold, log) = (core.layout.cold_part(id), core.layout.cold(id), core.layout.log(id));
    let plan = Plan::make(core, id, stop)?;
    // Its lock becomes that of the cold file.
    let Part { file, .. } = &Part::create(core, part.clone())?;
    let written = plan.write(core, taken, &**file, &part, stop)?;
    syncer::sync_file(core, &**file, &part)?;
    file.forget_cached();
    written.check(core, id, &plan, &part, stop)?;

    let hot = core.open(&log, OpenMode::Read).map_err(StoreError::io("open", &log))?;
    let turn = Turn::take(&hot);
    if !turn.is_ours() {
        return Err(StoreError::io("lock", log)(io::ErrorKind::WouldBlock.into()));
    }
    core.fs().rename(&part, &cold).map_err(StoreError::io("rename", &part))?;
    let day = core.layout.day(id);
    syncer::sync_day(core, &day)?;
    is_at(core, &**file, &cold)?;
    core.fs().remove_file(&log).map_err(StoreError::io("remove", &log))?;
    // The session is cold whether or not this works: without it a power cut may bring the log back, which is whole.
    let _ = syncer::sync_folder(core, &day);
    Ok(written.bytes)
}

/// Whether `path` leads to `file`.
fn is_at(core: &Core, file: &dyn File, path: &Path) -> Result<(), StoreError> {
    let error = || StoreError::io("look at", path);
    let (there, ours) = (core.fs().stat(path).map_err(error())?, file.stat().map_err(error())?);
    if (there.device, there.inode, there.size) == (ours.device, ours.inode, ours.size) {
        Ok(())
    } else {
        Err(error()(io::Error::other("another file has its name")))
    }
}

/// Removes a log that was packed, where a crash left it.
pub(super) fn remove_leftover(core: &Arc<Core>, id: SessionId) -> Result<(), StoreError> {
    let text = Text::open(core, id, OpenMode::Read)?;
    let path = core.layout.log(id);
    let turn = Turn::take(&text.file);
    if !turn.is_ours() {
        return Err(StoreError::io("lock", path)(io::ErrorKind::WouldBlock.into()));
    }
    // Whoever had the lock before may have done it, and another may have gone on.
    if Text::open(core, id, OpenMode::Read)?.meeting == (Meeting::Cold { has_leftover: true }) {
        remove_if_there(core, &path)?;
        syncer::sync_folder(core, &core.layout.day(id))?;
    }
    Ok(())
}

/// What becomes of a log.
struct Plan {
    /// Nothing is wrong with it, so lines can be left out.
    is_clean: bool,
    /// The events that are left out, in order; no two ranges touch.
    left_out: Vec<SeqRange>,
    /// How many bytes are kept.
    kept_bytes: u64,
    /// The state, and where its writer would go on.
    state: State,
    end: Position,
    length: u64,
}

impl Plan {
    fn make(core: &Arc<Core>, id: SessionId, stop: &Stop) -> Result<Self, StoreError> {
        let mut reader = LogReader::open(core, id)?;
        let mut pieces = Pieces::default();
        let (mut state, mut left_out, mut left_out_bytes) = (State::outline(), Vec::new(), 0);
        let mut in_order = true;
        let mut problems = 0_u64;
        for_each(&mut reader, stop, core, id, |item| {
            match item {
                Item::Entry(entry) => {
                    in_order &= entry.seq >= state.next_seq && entry.sound;
                    left_out_bytes += pieces.take(&state, &entry, &mut left_out);
                    state.apply(&entry);
                    pieces.forget_unless_in(&state);
                }
                Item::Problem(_) => problems += 1,
                Item::Fragment { .. } => {}
            }
            Ok(())
        })?;
        let is_clean = in_order && problems == 0 && reader.set_aside() == 0;
        if reader.is_damaged() {
            return Err(damaged(&core.layout.cold(id)));
        }
        let (end, length) = (reader.scanner.position(), reader.offset);
        let kept_bytes = if is_clean { length - left_out_bytes } else { length };
        Ok(Self { is_clean, left_out: joined(left_out), kept_bytes, state, end, length })
    }

    /// Writes what is kept, and its end.
    fn write(&self, core: &Arc<Core>, taken: &Taken, file: &dyn File, part: &Path, stop: &Stop) -> Result<Written, StoreError> {
        let writing = || StoreError::io("write", part);
        let id = taken.session.id;
        let mut out = Lines::new(FrameWriter::new(file, self.kept_bytes, stop).map_err(writing())?);
        if self.is_clean {
            self.write_kept(core, id, &mut out, stop, part)?;
        } else {
            self.write_all(core, id, &mut out, stop, part)?;
        }
        let kept_seq = out.next_seq;
        let has_checkpoint = self.is_clean && self.kept_bytes > ONE_FRAME_BYTES;
        let checkpoint = if has_checkpoint { out.state.checkpoint() } else { None };
        let summary = if self.is_clean { out.state.summary() } else { taken.state.summary() };
        let at = core.options.clock.now();
        let mut end = Vec::new();
        if let Some(checkpoint) = checkpoint {
            let checkpoint = Checkpoint { durable: out.offset, ..checkpoint };
            end.push(out.push_event(at, checkpoint.into()).map_err(writing())?);
        }
        let summary = Some(Box::new(Summary { offset: out.offset, ..summary }));
        end.push(out.push_event(at, Closed { epoch: taken.session.epoch, summary }.into()).map_err(writing())?);
        let mut state = self.state.clone();
        end.iter().for_each(|entry| state.apply(entry));
        let digest = out.digest.finalize().into();
        let bytes = out.frames.finish().map_err(writing())?;
        Ok(Written { bytes, state, digest, kept_seq, text_bytes: out.offset })
    }

    /// Only the lines that are kept, chained anew.
    fn write_kept(
        &self,
        core: &Arc<Core>,
        id: SessionId,
        out: &mut Lines<'_>,
        stop: &Stop,
        part: &Path,
    ) -> Result<(), StoreError> {
        let source = Text::open(core, id, OpenMode::Read)?;
        let mut window = Window::new(source.file);
        let mut reader = LogReader::open(core, id)?;
        let mut left_out = self.left_out.iter().copied().peekable();
        for_each(&mut reader, stop, core, id, |item| {
            let Item::Entry(entry) = item else { return Ok(()) };
            while left_out.next_if(|range| range.1 < entry.seq).is_some() {}
            if let Some(range) = left_out.peek().filter(|range| range.contains(entry.seq)) {
                if range.0 < entry.seq {
                    return Ok(());
                }
                let event = Compacted { from: range.0, to: range.1, count: range.1 - range.0 + 1 }.into();
                return out.push_event(entry.at, event).map(drop).map_err(StoreError::io("write", part));
            }
            let line = window.read(entry.place).map_err(StoreError::io("read", core.layout.log(id)))?;
            let Some((body, _)) = line::claim(line) else { return Err(changed(core, id)) };
            out.end_frame_near(self.kept_bytes).map_err(StoreError::io("write", part))?;
            out.push_body(body, entry).map_err(StoreError::io("write", part))
        })
    }

    /// Every byte.
    fn write_all(
        &self,
        core: &Arc<Core>,
        id: SessionId,
        out: &mut Lines<'_>,
        stop: &Stop,
        part: &Path,
    ) -> Result<(), StoreError> {
        let source = Text::open(core, id, OpenMode::Read)?;
        for_each_chunk(&*source.file, 0..self.length, |chunk, _| {
            stop.check()?;
            chunk.split_inclusive(|byte| *byte == b'\n').try_for_each(|piece| {
                out.end_frame_near(self.kept_bytes)?;
                out.push_raw(piece)
            })
        })
        .map_err(StoreError::io("write", part))?;
        (out.crc, out.next_seq, out.lines) = (self.end.crc, self.end.next_seq, self.end.lines);
        Ok(())
    }
}

/// What was written, to be held against what is read back.
struct Written {
    /// The length of the file.
    bytes: u64,
    /// The fold of the log, and of the new end.
    state: State,
    /// Of the bodies that were kept; of all bytes where all were.
    digest: [u8; 32],
    /// Where the end begins that was not in the log.
    kept_seq: Seq,
    text_bytes: u64,
}

impl Written {
    /// Reads the file and holds it against the log.
    fn check(&self, core: &Arc<Core>, id: SessionId, plan: &Plan, part: &Path, stop: &Stop) -> Result<(), StoreError> {
        let reading = || StoreError::io("read", part);
        let open = || -> Result<Text, StoreError> {
            let file = core.open(part, OpenMode::Read).map_err(reading())?;
            Ok(Text::of_frames(Frames::open(file).map_err(reading())?))
        };
        let mut window = Window::new(open()?.file);
        let mut reader = LogReader::of(core, id, open()?);
        let (mut state, mut digest, mut problems) = (State::outline(), Sha256::new(), 0_u64);
        for_each(&mut reader, stop, core, id, |item| {
            match item {
                Item::Entry(entry) => {
                    if plan.is_clean && entry.seq < self.kept_seq && !plan.leaves_out(&entry) {
                        let line = window.read(entry.place).map_err(reading())?;
                        let (body, _) = line::claim(line).ok_or_else(|| changed(core, id))?;
                        digest.update(body);
                    }
                    if let Event::Checkpoint(checkpoint) = &entry.event {
                        problems += u64::from(state.checkpoint().is_none_or(|own| own.hash != checkpoint.hash));
                    }
                    state.apply(&entry);
                }
                Item::Problem(_) => problems += 1,
                Item::Fragment { .. } => {}
            }
            Ok(())
        })?;
        if !plan.is_clean {
            let text = open()?.file;
            for_each_chunk(&*text, 0..plan.length, |chunk, _| {
                digest.update(chunk);
                Ok(())
            })
            .map_err(reading())?;
        }
        let is_same = reader.offset == self.text_bytes
            && !reader.is_damaged()
            && digest.finalize().as_slice() == self.digest
            && (!plan.is_clean || (problems == 0 && state == self.state));
        if is_same { Ok(()) } else { Err(reading()(io::Error::new(io::ErrorKind::InvalidData, "it is not what was written"))) }
    }
}

impl Plan {
    /// Whether `entry` stands for events that this plan leaves out.
    fn leaves_out(&self, entry: &Entry) -> bool {
        let place = self.left_out.binary_search_by_key(&entry.seq, |range| range.0);
        place.is_ok() && matches!(entry.event, Event::Compacted(_))
    }
}

/// Pieces that are superseded where what they are pieces of comes whole: of the answer that is coming in, and of the output of each call that runs.
#[derive(Default)]
struct Pieces {
    answer: Vec<(Seq, u64)>,
    outputs: HashMap<String, Vec<(Seq, u64)>>,
}

impl Pieces {
    /// Notes the events that `entry`, which comes after `state`, makes superfluous; says how many bytes they take.
    fn take(&mut self, state: &State, entry: &Entry, left_out: &mut Vec<Seq>) -> u64 {
        let bytes = u64::from(entry.place.len) + 1;
        let in_flight = |message| state.in_flight.as_ref().filter(|answer| answer.message == message);
        let is_open = |call: &String| state.unresolved.get(call).is_some_and(|call| !call.settled);
        let superseded = match &entry.event {
            Event::Checkpoint(_) => vec![(entry.seq, bytes)],
            Event::AssistantMessage(message) if in_flight(message.message).is_some_and(|answer| says_all(message, answer)) => {
                std::mem::take(&mut self.answer)
            }
            Event::ToolFinished(finished) if is_open(&finished.call) => self.outputs.remove(&finished.call).unwrap_or_default(),
            Event::AssistantText(AssistantText { message, .. })
            | Event::AssistantReasoning(AssistantReasoning { message, .. }) => {
                if in_flight(*message).is_some() {
                    self.answer.push((entry.seq, bytes));
                }
                Vec::new()
            }
            Event::ToolOutputPiece(piece) => {
                if is_open(&piece.call) {
                    self.outputs.entry(piece.call.clone()).or_default().push((entry.seq, bytes));
                }
                Vec::new()
            }
            _ => Vec::new(),
        };
        left_out.extend(superseded.iter().map(|(seq, _)| *seq));
        superseded.iter().map(|(_, bytes)| *bytes).sum()
    }

    /// Forgets those of what `state` does not wait for.
    fn forget_unless_in(&mut self, state: &State) {
        let began = state.in_flight.as_ref().map(|answer| answer.message);
        if began.is_none() || self.answer.first().is_some_and(|(seq, _)| Some(*seq) < began) {
            self.answer.clear();
        }
        self.outputs.retain(|call, _| state.unresolved.get(call).is_some_and(|call| !call.settled));
    }
}

/// Whether `message` is whole and has all that came of it in pieces.
fn says_all(message: &AssistantMessage, pieces: &InFlight) -> bool {
    let reasoning = || -> String {
        let of = |block: &Block| if let Block::Reasoning { text, .. } = block { Some(text.clone()) } else { None };
        message.blocks.iter().filter_map(of).collect()
    };
    !message.partial
        && message.text().starts_with(&pieces.text)
        && (pieces.reasoning.is_empty() || reasoning().starts_with(&pieces.reasoning))
}

/// The ranges that `events` are, in order.
fn joined(mut events: Vec<Seq>) -> Vec<SeqRange> {
    events.sort_unstable();
    let mut ranges: Vec<SeqRange> = Vec::new();
    for seq in events {
        match ranges.last_mut() {
            Some(last) if last.1 + 1 == seq => last.1 = seq,
            _ => ranges.push(SeqRange(seq, seq)),
        }
    }
    ranges
}

/// Lines on their way into frames.
struct Lines<'a> {
    frames: FrameWriter<'a>,
    state: State,
    crc: u32,
    next_seq: Seq,
    lines: u64,
    offset: u64,
    digest: Sha256,
    line: Vec<u8>,
    has_last_frame: bool,
}

impl<'a> Lines<'a> {
    fn new(frames: FrameWriter<'a>) -> Self {
        Self {
            frames,
            state: State::outline(),
            crc: 0,
            next_seq: 0,
            lines: 0,
            offset: 0,
            digest: Sha256::new(),
            line: Vec::new(),
            has_last_frame: false,
        }
    }

    /// A line that was in the log; `entry` is what it says.
    fn push_body(&mut self, body: &[u8], entry: Entry) -> io::Result<()> {
        self.digest.update(body);
        self.line.clear();
        self.line.extend_from_slice(body);
        self.crc = line::finish(&mut self.line, 0, self.crc);
        self.end_line(entry).map(drop)
    }

    /// A line that was not.
    fn push_event(&mut self, at: Timestamp, event: Event) -> io::Result<Entry> {
        self.line.clear();
        let entry = Entry::new(self.next_seq, at, event);
        self.crc = line::encode(&mut self.line, self.crc, entry.seq, entry.at, &entry.event);
        self.end_line(entry)
    }

    fn end_line(&mut self, entry: Entry) -> io::Result<Entry> {
        self.lines += 1;
        // No line is longer than 4 GiB.
        let len = (self.line.len() - 1) as u32;
        let entry = Entry { place: Place { line: self.lines, offset: self.offset, len, crc: self.crc }, ..entry };
        self.state.apply(&entry);
        self.next_seq = entry.next_seq();
        self.offset += self.line.len() as u64;
        self.frames.push(&self.line)?;
        Ok(entry)
    }

    fn push_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.offset += bytes.len() as u64;
        self.frames.push(bytes)
    }

    /// Ends the frame where the rest of `total` bytes makes the last one.
    fn end_frame_near(&mut self, total: u64) -> io::Result<()> {
        if !self.has_last_frame && total > ONE_FRAME_BYTES && self.offset + LAST_FRAME_BYTES >= total {
            self.has_last_frame = true;
            return self.frames.end_frame();
        }
        Ok(())
    }
}

/// Reads lines of a file one after the other, many at a time.
struct Window {
    file: Arc<dyn File>,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn new(file: Arc<dyn File>) -> Self {
        Self { file, start: 0, bytes: Vec::new() }
    }

    /// The line at `place`, without its newline.
    fn read(&mut self, place: Place) -> io::Result<&[u8]> {
        let (from, len) = (place.offset, place.len as usize);
        let is_in = from >= self.start && from + len as u64 <= self.start + self.bytes.len() as u64;
        if !is_in {
            self.start = from;
            self.bytes.resize(len.max(WINDOW_BYTES), 0);
            let length = read_full_at(&*self.file, &mut self.bytes, from)?;
            self.bytes.truncate(length);
        }
        let at = (from - self.start) as usize; // Within the window.
        self.bytes.get(at..at + len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Gives all that `reader` finds to `sink`.
fn for_each(
    reader: &mut LogReader,
    stop: &Stop,
    core: &Core,
    id: SessionId,
    mut sink: impl FnMut(Item) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut items = Vec::new();
    let mut more = true;
    while more {
        stop.check().map_err(StoreError::io("compress", core.layout.log(id)))?;
        more = reader.read(&mut items)?;
        if !more {
            reader.finish(&mut items);
        }
        items.drain(..).try_for_each(&mut sink)?;
    }
    Ok(())
}

fn changed(core: &Core, id: SessionId) -> StoreError {
    StoreError::io("read", core.layout.log(id))(io::Error::other("it changed while it was read"))
}
