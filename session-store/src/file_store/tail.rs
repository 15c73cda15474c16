//! Reading a log from a checkpoint on, instead of from its start.
//!
//! **Promise.** What is read from a checkpoint is what would have been read from the start. A checkpoint counts only where it
//! stands directly behind the line that it says it follows, at that very place of the file: one of a writer that had lost the
//! session stands further back than that writer knew, and one in a file that was rewritten, elsewhere. Behind it every line has to
//! continue the chain ([`LogReader`](super::read::LogReader) goes back to the start otherwise), and a body is taken only from a line that continues the one before it.
//!
//! **Finding one.** From an end backwards, in chunks. Where a certain event is wanted, the end is found by halves first: a log is sorted by
//! `seq`, so it is its own index.

use super::engine::Core;
use super::read::read_side;
use crate::error::StoreError;
use crate::event::{Checkpoint, Entry, Event};
use crate::fs::{File, read_full_at};
use crate::id::{Place, Seq, SessionId};
use crate::line::{CRC_BYTES, CRC_END, CRC_KEY, Decoded, claim, decode, hexadecimal};
use crate::scan::{LINE_BYTES_MAX, Position};
use crate::state::State;
use std::io;

/// How far back a checkpoint is looked for: some times the distance at which they are written.
const BACK_BYTES_MAX: u64 = 16 << 20;
/// How much is read at a time: this much first, then more.
const FIRST_BYTES: u64 = 64 << 10;
const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// More than the start of a line through its type takes.
const HEAD_BYTES: u64 = 128;
/// How near the search by halves comes.
const NEAR_BYTES: u64 = 128 << 10;
/// Bodies with no more than this between them are read at once, ...
const GAP_BYTES: u64 = 32 << 10;
/// ... and no more than this, unless one body is longer.
const READ_BYTES: u64 = 1 << 20;
/// No body is longer.
const BODY_BYTES_MAX: u32 = 64 << 20;

/// A checkpoint that counts.
pub(super) struct Anchor {
    /// The state before it, without bodies.
    pub(super) state: State,
    /// Where it starts.
    pub(super) position: Position,
}

/// A log as a file, to be read at any place.
pub(super) struct Log<'a> {
    pub(super) core: &'a Core,
    pub(super) id: SessionId,
    pub(super) file: &'a dyn File,
}

impl Log<'_> {
    /// The newest checkpoint before `end` of events before `from`.
    pub(super) fn anchor(&self, end: u64, from: Seq) -> Result<Option<Anchor>, StoreError> {
        let floor = end.saturating_sub(BACK_BYTES_MAX);
        let (mut upper, mut size) = (end, FIRST_BYTES);
        while upper > floor {
            let start = upper.saturating_sub(size).max(floor);
            let chunk = self.read(start, upper - start + HEAD_BYTES)?;
            let mut before = usize::try_from(upper - start).unwrap_or(usize::MAX).min(chunk.len());
            while let Some(newline) = chunk[..before].iter().rposition(|byte| *byte == b'\n') {
                before = newline;
                let line = start + newline as u64 + 1;
                if seq_of_checkpoint(&chunk[newline + 1..]).is_some_and(|seq| seq < from)
                    && let Some(anchor) = self.anchor_at(line)?
                {
                    return Ok(Some(anchor));
                }
            }
            (upper, size) = (start, (4 * size).min(CHUNK_BYTES_MAX));
        }
        Ok(None)
    }

    /// Where to look backwards from for what comes before the event `from`: a place at which later events stand, or the end.
    pub(super) fn end_for(&self, from: Seq, length: u64) -> Result<u64, StoreError> {
        let (mut low, mut high) = (0, length);
        while high - low > NEAR_BYTES {
            let middle = low + (high - low) / 2;
            match self.line_after(middle, high)? {
                Some((start, seq)) if seq < from => low = start,
                _ => high = middle,
            }
        }
        // The checkpoint may be the last line before.
        Ok(high.saturating_add(NEAR_BYTES).min(length))
    }

    /// Fills in what `state` misses, as far as it knows the places; false where something is not what its place says.
    pub(super) fn hydrate(&self, state: &mut State) -> Result<bool, StoreError> {
        let places = state.missing_places();
        let mut rest = &places[..];
        let mut entries = Vec::new();
        while let Some((_, first)) = rest.first() {
            let start = first.offset.saturating_sub(SEED_BYTES);
            let mut end = start;
            let together = rest.iter().take_while(|(_, place)| {
                let fits = end == start || (place.offset <= end + GAP_BYTES && place.end() - start <= READ_BYTES);
                if fits {
                    end = end.max(place.end());
                }
                fits
            });
            let (now, later) = rest.split_at(together.count());
            if now.iter().any(|(_, place)| place.len > BODY_BYTES_MAX) {
                return Ok(false);
            }
            let bytes = self.read(start, end - start)?;
            for (seq, place) in now {
                let Some(lines) = lines_at(&bytes, start, *place) else { return Ok(false) };
                for (number, line) in lines.into_iter().enumerate() {
                    let Some(entry) = self.entry(line)? else { return Ok(false) };
                    let is_piece = matches!(&entry.event, Event::AssistantText(piece) if piece.message == *seq);
                    if entry.seq == *seq || is_piece {
                        entries.push(entry);
                    } else if number == 0 {
                        return Ok(false);
                    }
                    // Else it came in between the pieces of an answer.
                }
            }
            state.hydrate_all(entries.iter());
            entries.clear();
            rest = later;
        }
        Ok(state.missing_places().is_empty())
    }

    /// The event `seq` at `place`; nothing where it is not there, or not whole.
    pub(super) fn entry_at(&self, seq: Seq, place: Place) -> Result<Option<Entry>, StoreError> {
        if !place.is_known() || place.len > BODY_BYTES_MAX {
            return Ok(None);
        }
        let start = place.offset.saturating_sub(SEED_BYTES);
        let bytes = self.read(start, place.end().saturating_sub(start))?;
        match lines_at(&bytes, start, place).as_deref() {
            Some([line]) => Ok(self.entry(line)?.filter(|entry| entry.seq == seq).map(|entry| Entry { place, ..entry })),
            _ => Ok(None),
        }
    }

    /// The checkpoint whose line starts at `offset`, where there is one that counts.
    fn anchor_at(&self, offset: u64) -> Result<Option<Anchor>, StoreError> {
        let Some(line) = self.line_at(offset)? else { return Ok(None) };
        let Some((body, crc)) = claim(&line) else { return Ok(None) };
        let Some(Entry { seq, event: Event::Checkpoint(checkpoint), .. }) = self.entry(&line)? else { return Ok(None) };
        let Some(state) = state_of(&checkpoint, seq, offset) else { return Ok(None) };
        let last = state.last_place();
        if crc32c::crc32c_append(last.crc, body) != crc {
            return Ok(None);
        }
        let position = Position { offset, lines: last.line, crc: last.crc, next_seq: state.next_seq, epoch: state.epoch };
        Ok(Some(Anchor { state, position }))
    }

    /// The whole line at `offset`, without its newline.
    fn line_at(&self, offset: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let mut size = FIRST_BYTES;
        loop {
            let mut line = self.read(offset, size)?;
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                line.truncate(end);
                return Ok(Some(line));
            }
            if (line.len() as u64) < size || size > LINE_BYTES_MAX as u64 {
                return Ok(None);
            }
            size *= 4;
        }
    }

    /// The first line that starts behind `offset` and before `end`, and its `seq`.
    fn line_after(&self, offset: u64, end: u64) -> Result<Option<(u64, Seq)>, StoreError> {
        for size in [4 << 10, 64 << 10, 2 << 20] {
            let chunk = self.read(offset, size)?;
            let starts = chunk.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
            for start in starts {
                let line = offset + start as u64;
                if line >= end {
                    return Ok(None);
                }
                if let Some(seq) = seq_of(&chunk[start..]) {
                    return Ok(Some((line, seq)));
                }
            }
        }
        Ok(None)
    }

    /// The event in a line whose checksum was checked.
    fn entry(&self, line: &[u8]) -> Result<Option<Entry>, StoreError> {
        match decode(line) {
            Some(Decoded::Entry(entry)) => Ok(Some(Entry { sound: true, ..entry })),
            Some(Decoded::Side(side)) => {
                let event = match read_side(self.core, self.id, &side.side) {
                    Ok(fields) => Event::read_fields(&side.type_name, &fields).ok(),
                    Err(StoreError::SideFile { .. }) => None,
                    Err(error) => return Err(error),
                };
                Ok(event.map(|event| Entry::new(side.seq, side.at, event)))
            }
            None => Ok(None),
        }
    }

    pub(super) fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let error = StoreError::io("read", self.core.layout.log(self.id));
        let Ok(size) = usize::try_from(bytes) else { return Err(error(io::ErrorKind::OutOfMemory.into())) };
        let mut chunk = vec![0; size];
        let length = read_full_at(self.file, &mut chunk, offset).map_err(error)?;
        chunk.truncate(length);
        Ok(chunk)
    }
}

/// The state in `checkpoint`, the event `seq` at `offset`, where it stands directly behind the line that it says it follows.
pub(super) fn state_of(checkpoint: &Checkpoint, seq: Seq, offset: u64) -> Option<State> {
    let state = State::from_checkpoint(checkpoint)?;
    let last = state.last_place();
    (last.is_known() && last.end() == offset && state.next_seq == seq).then_some(state)
}

/// The end of the line before, from which a line takes its seed.
const SEED_BYTES: u64 = CRC_BYTES as u64 + 1;

/// The checksum that the line claims which ends, with its newline, where `bytes` do.
pub(super) fn seed_before(bytes: &[u8]) -> Option<u32> {
    let line = bytes.strip_suffix(b"\n")?.strip_suffix(CRC_END)?;
    let (before, digits) = line.split_at_checked(line.len().checked_sub(8)?)?;
    before.ends_with(CRC_KEY).then(|| hexadecimal(digits)).flatten()
}

/// The lines at `place`, of which `bytes` has some from `start` on; nothing where one does not continue the line before it.
fn lines_at(bytes: &[u8], start: u64, place: Place) -> Option<Vec<&[u8]>> {
    let from = usize::try_from(place.offset.checked_sub(start)?).ok()?;
    let text = bytes.get(from..from.checked_add(usize::try_from(place.len).ok()?)?)?;
    let mut crc = if place.offset == 0 { 0 } else { seed_before(&bytes[..from])? };
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let (body, claimed) = claim(line)?;
        crc = crc32c::crc32c_append(crc, body);
        if crc != claimed {
            return None;
        }
        lines.push(line);
    }
    (place.crc == 0 || place.crc == crc).then_some(lines)
}

/// The `seq` of a line, as this format writes it, from its start.
fn seq_of(line: &[u8]) -> Option<Seq> {
    number(line.strip_prefix(b"{\"seq\":")?).map(|(seq, _)| seq)
}

/// The same where the line is a checkpoint.
fn seq_of_checkpoint(line: &[u8]) -> Option<Seq> {
    let (seq, rest) = number(line.strip_prefix(b"{\"seq\":")?)?;
    let rest = rest.strip_prefix(b",\"at\":\"")?.get(24..)?;
    rest.starts_with(b"\",\"type\":\"checkpoint\"").then_some(seq)
}

fn number(text: &[u8]) -> Option<(Seq, &[u8])> {
    let (digits, rest) = text.split_at_checked(text.iter().take_while(|byte| byte.is_ascii_digit()).count())?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}
