//! Reading a log from its bytes: which lines continue the chain, and what becomes of those that do not.
//!
//! **Promises.** Whatever the bytes are, and however they are cut into chunks: nothing panics, memory is bounded, a sound
//! record that was not itself touched is delivered, and everything that is not as a writer would have left it is reported
//! by line and offset. Damage of one line costs no other line.
//!
//! **How a line finds its place.** A CRC can be run backwards: from a line's body and the checksum that it claims follows
//! the one *seed* it can have been written after ([`seed_of`]). So the question "what does this line continue?" is a
//! look-up among the known ends:
//!
//! ```text
//! head    the last sound line of the main chain                        -> the next line of the session
//! aside   the last line of a chain that was set aside                  -> set aside too
//! taken   the line before an `opened` (its old owner stopped there)    -> a stale writer's, set aside
//! guess   what a damaged line's checksum may have been                 -> the main chain goes on behind the damage
//! gap     the line before missing ones                                 -> a line that was moved; it fills the gap
//! ```
//!
//! A record that continues none of them is *unchecked*: delivered with `sound: false` where its `seq` is new, set aside
//! where it is not. A sound line outranks it: it may be followed by a sound one of the same `seq`. Where only its `seq` was
//! damaged, its checksum says which it was.
//!
//! **What it does not do.** It reads no side files, does not sort (a moved line is delivered where it stands), and does
//! not defend against somebody who computes checksums.

use crate::event::{Entry, Event, Recovered};
use crate::id::{Place, Seq};
use crate::line::{
    CRC_BYTES, CRC_DIGITS, CRC_END, CRC_KEY, Decoded, Problem, ProblemKind, SideLine, UNCHECKED, claim, decode, hexadecimal,
};
use serde::de::IgnoredAny;
use std::collections::VecDeque;
use std::fmt;
use std::io::BufRead;

/// The longest line that is read whole. Writers keep to 1 MiB; of a longer line than this, each piece of this length is
/// searched for records by itself.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 20;

/// How far an unchecked record's `seq` may jump and still be believed.
const JUMP_MAX: u64 = 1_000_000;

/// How many ends of each kind, and how many holes, are remembered; the oldest go first.
const REMEMBERED: usize = 64;

/// How every record begins.
const RECORD_START: &[u8] = b"{\"seq\":";

/// What was found.
#[expect(clippy::large_enum_variant, reason = "nearly everything that is found is an entry")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scanned {
    /// An event of the session.
    Entry(Entry),
    /// An event of the session whose fields are in a side file.
    Side {
        /// What its line says.
        side: SideLine,
        /// Where the line stands.
        place: Place,
    },
    /// A record that is none of the session's events: a stale writer's, or one that was seen before.
    SetAside {
        /// Where it stands.
        place: Place,
    },
    /// Something is wrong. Problems come nearly, not strictly, in the order of the file: whether a torn line was put
    /// aside properly is known only a few lines later.
    Problem(Problem),
    /// What stands after the last newline; only from [`Scanner::finish`].
    Fragment {
        /// Where it starts.
        offset: u64,
        /// The fragment, or the last [`LINE_BYTES_MAX`] of it.
        bytes: Vec<u8>,
        /// Whether records were found in it; they were delivered before this. Only its newline is missing then, and it
        /// must not be blanked.
        holds_records: bool,
    },
}

/// A known place in a log from which reading can go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The end of the last whole line.
    pub(crate) offset: u64,
    /// How many lines there are before it.
    pub(crate) lines: u64,
    /// The checksum that the next line starts from.
    pub(crate) crc: u32,
    /// The `seq` that the next line has.
    pub(crate) next_seq: Seq,
    /// The last epoch that was taken before it.
    pub(crate) epoch: u64,
}

/// The main chain's end: what the next line is expected to continue.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    crc: u32,
    next: Seq,
}

/// Another place that a line may continue.
#[derive(Clone, Copy, Debug)]
struct End<T> {
    crc: u32,
    /// The `seq` of the line that continues it; for a guess, the smallest that it can have.
    next: Seq,
    more: T,
}

/// The newest ends of one kind.
#[derive(Clone, Debug)]
struct Ends<T>(VecDeque<End<T>>);

/// What a damaged line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damaged {
    /// A record that continues nothing.
    Unchecked,
    /// No record; perhaps the rest of a line that a stale writer began before it was overtaken.
    Unreadable,
}

/// Missing events: a half-open range.
#[derive(Clone, Copy, Debug)]
struct Hole {
    from: Seq,
    to: Seq,
    /// Whether unreadable lines stand in their place. If not, their lines may stand elsewhere.
    is_damage: bool,
}

/// What a line continues.
enum Link {
    Main,
    /// A chain that was set aside for this reason.
    Aside(ProblemKind),
    /// A place that an `opened` took; whether this is that very `opened` again.
    Taken {
        again: bool,
    },
    /// A damaged line, with the `seq` of a line of the main chain, or with one that only another chain can have.
    Guess {
        is_main: bool,
    },
    Gap,
    Nothing,
}

/// Reads a log from its bytes, in order, in chunks of any size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scanner {
    /// The end of the last whole line.
    offset: u64,
    lines: u64,
    /// What came after it, from `piece_offset` on: less than [`LINE_BYTES_MAX`].
    partial: Vec<u8>,
    piece_offset: u64,

    head: Head,
    /// What a writer continues: the head, or behind it the last record that was delivered unchecked.
    tail: Head,
    epoch: u64,
    sound: u64,
    aside: Ends<ProblemKind>,
    /// With the checksum of the `opened` that took the place.
    taken: Ends<u32>,
    guesses: Ends<Damaged>,
    /// With the `seq` at which the main chain goes on.
    gaps: Ends<Seq>,

    /// One more than the largest `seq` delivered.
    high: Seq,
    /// What is missing below `high`.
    holes: VecDeque<Hole>,
    /// Records lost to unreadable lines since the last one that was delivered.
    lost: u64,
    /// Unreadable and blank lines that a `recovered` may explain yet, with their lengths.
    pending: Vec<(Problem, u64)>,
}

impl Scanner {
    /// A scanner at the start of a file.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A scanner at a place that is known, for the tail of a file that was read before. Stale writers that were
    /// overtaken before it are still set aside, without being told from repeated lines.
    pub(crate) fn resume(at: Position) -> Self {
        let head = Head { crc: at.crc, next: at.next_seq };
        Self {
            offset: at.offset,
            piece_offset: at.offset,
            lines: at.lines,
            head,
            tail: head,
            epoch: at.epoch,
            high: at.next_seq,
            sound: at.lines.min(1),
            ..Self::default()
        }
    }

    /// Where a writer would go on.
    pub(crate) fn position(&self) -> Position {
        Position { offset: self.offset, lines: self.lines, crc: self.last_crc(), next_seq: self.next_seq(), epoch: self.epoch }
    }

    /// The checksum that the next line starts from.
    pub(crate) fn last_crc(&self) -> u32 {
        self.tail.crc
    }

    /// The `seq` of the next line: none that was delivered, because a new event would take the place of an unchecked one. Unreadable
    /// lines at the end leave their places free, so that the fold sees a gap.
    pub(crate) fn next_seq(&self) -> Seq {
        self.tail.next.max(self.high) + self.lost
    }

    /// The end of the last whole line.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads on.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Scanned>) {
        while !bytes.is_empty() {
            let line_end = find_byte(bytes, b'\n');
            let (now, rest) = bytes.split_at(line_end.map_or(bytes.len(), |end| end + 1));
            bytes = rest;
            let line = line_end.map_or(now, |end| &now[..end]);
            self.pieces(line, line_end.is_some(), out);
            if line_end.is_some() {
                self.lines += 1;
                self.piece_offset += 1;
                self.offset = self.piece_offset;
            }
        }
    }

    /// Ends the file: reports what is after its last newline, and all that waited for an explanation.
    pub(crate) fn finish(&mut self, out: &mut Vec<Scanned>) {
        let bytes = std::mem::take(&mut self.partial);
        if self.piece_offset + bytes.len() as u64 > self.offset {
            let holds_records = self.read_fragment(&bytes, out);
            self.report_pending(out);
            out.push(Scanned::Fragment { offset: self.offset, bytes, holds_records });
        }
        self.report_pending(out);
        if self.sound == 0 {
            let detail = "no line of the file is a sound record".to_owned();
            out.push(Scanned::Problem(Problem { line: 1, offset: 0, kind: ProblemKind::Empty, detail }));
        }
    }

    /// Delivers the records of a fragment, where it holds any: then only its newline was cut off.
    fn read_fragment(&mut self, bytes: &[u8], out: &mut Vec<Scanned>) -> bool {
        let mut after = self.clone();
        let mut found = Vec::new();
        after.piece(bytes, &mut found);
        let holds_records = found.iter().any(|item| !matches!(item, Scanned::Problem(_)));
        if holds_records {
            *self = after;
            out.append(&mut found);
        }
        holds_records
    }

    /// Reads `line`, whole or as far as it came, together with what came of it before; in pieces where it is too long.
    fn pieces(&mut self, mut line: &[u8], is_whole: bool, out: &mut Vec<Scanned>) {
        while self.partial.len() + line.len() >= LINE_BYTES_MAX {
            let (now, rest) = line.split_at(LINE_BYTES_MAX - self.partial.len());
            self.partial.extend_from_slice(now);
            line = rest;
            self.piece_from_partial(out);
        }
        if is_whole && self.partial.is_empty() {
            self.piece(line, out);
            self.piece_offset += line.len() as u64;
        } else {
            self.partial.extend_from_slice(line);
            if is_whole {
                self.piece_from_partial(out);
            }
        }
    }

    fn piece_from_partial(&mut self, out: &mut Vec<Scanned>) {
        let mut piece = std::mem::take(&mut self.partial);
        self.piece(&piece, out);
        self.piece_offset += piece.len() as u64;
        piece.clear();
        // What one long line needed is not kept for all the short ones that follow.
        piece.shrink_to(1 << 20);
        self.partial = piece;
    }

    /// Reads a line without its newline, or a piece of one that is too long.
    fn piece(&mut self, bytes: &[u8], out: &mut Vec<Scanned>) {
        let text = trim(bytes);
        let before = text.as_ptr() as usize - bytes.as_ptr() as usize;
        if text.is_empty() {
            if !(bytes.is_empty() && self.piece_offset > self.offset) {
                self.wait_for_recovered(ProblemKind::Formatting, "a blank line", bytes.len(), out);
            }
        } else if !self.record(text, before, out) {
            self.unreadable(text, before, bytes.len(), out);
        } else if text.len() < bytes.len() {
            let detail = "a byte-order mark, carriage return or space around a record".to_owned();
            self.problem(ProblemKind::Formatting, self.piece_offset, detail, out);
        }
    }

    /// Reads `text`, which starts `before` bytes into the piece, as one record; false where it is none.
    fn record(&mut self, text: &[u8], before: usize, out: &mut Vec<Scanned>) -> bool {
        let Some(record) = decode(text) else { return false };
        let claim = claim(text);
        let place = Place {
            line: self.lines + 1,
            offset: self.piece_offset + before as u64,
            len: text.len() as u32, // At most LINE_BYTES_MAX.
            crc: claim.map_or(0, |(_, crc)| crc),
        };
        match claim.map_or(Link::Nothing, |(body, crc)| self.link(&record, body, crc)) {
            Link::Main if self.lost_the_race(&record, claim) => self.set_aside(&record, ProblemKind::StaleWriter, place, out),
            Link::Main | Link::Guess { is_main: true } => self.continue_main(record, place, claim, out),
            Link::Aside(why) => self.set_aside(&record, why, place, out),
            Link::Taken { again: false } | Link::Guess { is_main: false } => {
                self.set_aside(&record, ProblemKind::StaleWriter, place, out);
            }
            Link::Gap => {
                self.problem(
                    ProblemKind::OutOfPlace,
                    place.offset,
                    format!("event {} stands here, out of its order", record.seq()),
                    out,
                );
                self.deliver(record, !is_marked(claim), place, out);
            }
            Link::Taken { again: true } | Link::Nothing => self.unchecked(record, text, place, claim, out),
        }
        true
    }

    /// Finds what a record continues, and moves that end (but not the head) to it.
    fn link(&mut self, record: &Decoded, body: &[u8], crc: u32) -> Link {
        let seq = record.seq();
        let is_next = crc32c::crc32c_append(self.head.crc, body) == crc;
        if is_next && seq >= self.head.next {
            return Link::Main;
        }
        let seed = if is_next { self.head.crc } else { seed_of(body, crc) };
        // What continues a repeated line may be the session's own next line; what continues a stale writer's never is.
        let is_new = self.is_new(seq);
        if let Some(end) = self.aside.find(seed, |end| end.next == seq && (end.more == ProblemKind::StaleWriter || !is_new)) {
            let why = end.more;
            self.aside.forget(seed, seq);
            return Link::Aside(why);
        }
        if let Some(end) = self.taken.find(seed, |end| end.next == seq) {
            return Link::Taken { again: end.more == crc };
        }
        let head_next = self.head.next;
        if self.guesses.find(seed, |end| seq >= head_next.max(end.next)).is_some() {
            return Link::Guess { is_main: true };
        }
        // The session has moved on past it, or it has the very place of the line that was damaged.
        let is_past = |end: &End<Damaged>| !is_new || (seq < end.next && seq >= self.high);
        if self.guesses.find(seed, |end| end.more == Damaged::Unreadable && is_past(end)).is_some() {
            return Link::Guess { is_main: false };
        }
        if let Some(end) = self.gaps.find(seed, |end| end.next == seq && seq < end.more) {
            (end.crc, end.next) = (crc, seq + 1);
            return Link::Gap;
        }
        Link::Nothing
    }

    /// Whether `record` opens an epoch that has its owner already.
    fn lost_the_race(&self, record: &Decoded, claim: Option<(&[u8], u32)>) -> bool {
        !is_marked(claim) && matches!(opened_epoch(record), Some(epoch) if epoch <= self.epoch)
    }

    fn continue_main(&mut self, record: Decoded, place: Place, claim: Option<(&[u8], u32)>, out: &mut Vec<Scanned>) {
        let seq = record.seq();
        // What a repair could not check is part of the chain now, and proves no more than before.
        let sound = !is_marked(claim);
        if let Some(epoch) = opened_epoch(&record).filter(|_| sound) {
            self.epoch = self.epoch.max(epoch);
            let seed = claim.map_or(self.head.crc, |(body, crc)| seed_of(body, crc));
            self.taken.push(End { crc: seed, next: seq, more: place.crc });
        }
        let before = self.head;
        self.head = Head { crc: place.crc, next: seq_after(&record, sound) };
        self.tail = self.head;
        self.sound += u64::from(sound);
        self.deliver(record, sound, place, out);
        if self.hole(before.next).is_some_and(|hole| !self.holes[hole].is_damage) {
            self.gaps.push(End { crc: before.crc, next: before.next, more: seq });
        }
    }

    /// A record that continues nothing that is known.
    fn unchecked(&mut self, mut record: Decoded, text: &[u8], place: Place, claim: Option<(&[u8], u32)>, out: &mut Vec<Scanned>) {
        self.guess(text, Damaged::Unchecked);
        let mut detail =
            "the checksum does not continue the line before: the line, or one before it, was changed or lost".to_owned();
        if let Some(seq) = claim.and_then(|(body, crc)| self.seq_by_checksum(body, crc)) {
            detail = format!("the line says event {}; by its checksum it is event {seq}", record.seq());
            record.set_seq(seq);
        }
        let seq = record.seq();
        if !self.is_new(seq) || seq - seq.min(self.high) > JUMP_MAX {
            // A damaged `seq` looks like this too, so the record may be missed further on: `lost` says that it is here.
            self.lost += 1;
            return self.set_aside(&record, ProblemKind::OutOfPlace, place, out);
        }
        self.problem(ProblemKind::Unchecked, place.offset, detail, out);
        if seq >= self.tail.next {
            let crc = if place.crc == 0 { self.tail.crc } else { place.crc };
            self.tail = Head { crc, next: seq + 1 };
        }
        self.deliver(record, false, place, out);
    }

    /// The next `seq`, where a record continues the chain with that in the place of its own: then only its `seq` was
    /// damaged. Believed as it stands, one changed digit would put the event behind hundreds of others.
    fn seq_by_checksum(&self, body: &[u8], crc: u32) -> Option<Seq> {
        let digits = body.strip_prefix(RECORD_START)?;
        let rest = digits.get(digits.iter().take_while(|byte| byte.is_ascii_digit()).count()..)?;
        let continues = |end: &Head| {
            let start = [RECORD_START, end.next.to_string().as_bytes()].concat();
            crc32c::crc32c_append(crc32c::crc32c_append(end.crc, &start), rest) == crc
        };
        [self.head, self.tail].into_iter().find(|end| self.is_new(end.next) && continues(end)).map(|end| end.next)
    }

    fn set_aside(&mut self, record: &Decoded, why: ProblemKind, place: Place, out: &mut Vec<Scanned>) {
        let seq = record.seq();
        self.aside.push(End { crc: place.crc, next: seq + 1, more: why });
        // To have lost the race for an epoch is no fault of the log: a loser that wrote nothing else did what it should.
        if why == ProblemKind::StaleWriter && opened_epoch(record).is_none() {
            let detail = format!("event {seq} of a writer that had lost the session; it is set aside");
            self.problem(why, place.offset, detail, out);
        } else if why != ProblemKind::StaleWriter {
            self.problem(why, place.offset, format!("event {seq} again, or out of its place; it is set aside"), out);
        }
        out.push(Scanned::SetAside { place });
    }

    fn deliver(&mut self, record: Decoded, sound: bool, place: Place, out: &mut Vec<Scanned>) {
        let seq = record.seq();
        if seq > self.high {
            let hole = Hole { from: self.high, to: seq, is_damage: seq - self.high <= self.lost };
            remember(&mut self.holes, hole);
            if !hole.is_damage {
                self.problem(ProblemKind::Gap, place.offset, hole.to_string(), out);
            }
        }
        if seq >= self.high {
            self.high = seq_after(&record, sound);
        } else {
            self.fill_hole(seq);
        }
        self.lost = 0;
        match record {
            Decoded::Entry(mut entry) => {
                self.explain_pending(&entry.event, out);
                entry.sound = sound;
                entry.place = place;
                out.push(Scanned::Entry(entry));
            }
            Decoded::Side(mut side) => {
                self.report_pending(out);
                side.sound = sound;
                out.push(Scanned::Side { side, place });
            }
        }
    }

    /// A line that is no record: looks for records inside it, and notes what its checksum may have been.
    fn unreadable(&mut self, text: &[u8], before: usize, len: usize, out: &mut Vec<Scanned>) {
        let found = self.salvage(text, before, out);
        if found == 0 {
            self.lost += 1;
            self.guess(text, Damaged::Unreadable);
            self.wait_for_recovered(ProblemKind::Unreadable, "the line is no record", len, out);
        } else {
            let detail = format!("the line is more than a record; {found} in it were read");
            self.problem(ProblemKind::Unreadable, self.piece_offset, detail, out);
        }
    }

    /// Reads every whole record inside a line that is none: two lines whose newline was lost, a record behind a hole.
    /// Takes linear time: a value that does not end is left at its first error, and nesting is bounded.
    fn salvage(&mut self, text: &[u8], before: usize, out: &mut Vec<Scanned>) -> usize {
        let (mut found, mut from) = (0, 0);
        while let Some(start) = find_record(text, from) {
            from = start + 1;
            let mut values = serde_json::Deserializer::from_slice(&text[start..]).into_iter::<IgnoredAny>();
            if !matches!(values.next(), Some(Ok(IgnoredAny))) {
                continue;
            }
            let end = start + values.byte_offset();
            if claim(&text[start..end]).is_some() && self.record(&text[start..end], before + start, out) {
                found += 1;
                from = end;
            }
        }
        found
    }

    /// Notes what the checksum of a damaged line may have been: what it says (its body was damaged), and what it should
    /// say (its checksum was).
    fn guess(&mut self, text: &[u8], damaged: Damaged) {
        let next = self.head.next + 1;
        // Found by its key, and by its distance from the end: the damage may be in either.
        let by_key = find_crc_key(text);
        let by_length = text.len().checked_sub(CRC_BYTES);
        let digits_by_key = by_key.map(|key| key + CRC_KEY.len());
        let digits_by_length = text.len().checked_sub(CRC_DIGITS + CRC_END.len());
        for digits in digits_by_key.into_iter().chain(digits_by_length) {
            if let Some(crc) = text.get(digits..digits + CRC_DIGITS).and_then(hexadecimal) {
                self.guesses.push(End { crc, next, more: damaged });
            }
        }
        for body_end in by_key.into_iter().chain(by_length) {
            for seed in [self.head.crc, self.tail.crc] {
                self.guesses.push(End { crc: crc32c::crc32c_append(seed, &text[..body_end]), next, more: damaged });
            }
        }
    }

    /// Whether no event with this `seq` was delivered.
    fn is_new(&self, seq: Seq) -> bool {
        seq >= self.high || self.hole(seq).is_some()
    }

    /// The hole that `seq` is missing in.
    fn hole(&self, seq: Seq) -> Option<usize> {
        self.holes.iter().position(|hole| (hole.from..hole.to).contains(&seq))
    }

    fn fill_hole(&mut self, seq: Seq) {
        let Some(hole) = self.hole(seq).and_then(|at| self.holes.remove(at)) else { return };
        for part in [Hole { to: seq, ..hole }, Hole { from: seq + 1, ..hole }] {
            if part.from < part.to {
                remember(&mut self.holes, part);
            }
        }
    }

    /// Holds a problem back until it is clear that no `recovered` names the line.
    fn wait_for_recovered(&mut self, kind: ProblemKind, detail: &str, len: usize, out: &mut Vec<Scanned>) {
        let problem = Problem { line: self.lines + 1, offset: self.piece_offset, kind, detail: detail.to_owned() };
        self.pending.push((problem, len as u64));
        if self.pending.len() > REMEMBERED {
            out.push(Scanned::Problem(self.pending.remove(0).0));
        }
    }

    /// A `recovered` explains the line that it names; `opened` may still be followed by one; everything else shows that
    /// there is no explanation.
    fn explain_pending(&mut self, event: &Event, out: &mut Vec<Scanned>) {
        match event {
            Event::Recovered(Recovered { offset, bytes, .. }) => {
                self.pending.retain(|(problem, len)| (problem.offset, *len) != (*offset, *bytes));
            }
            Event::Opened(_) => {}
            _ => self.report_pending(out),
        }
    }

    fn report_pending(&mut self, out: &mut Vec<Scanned>) {
        out.extend(self.pending.drain(..).map(|(problem, _)| Scanned::Problem(problem)));
    }

    fn problem(&self, kind: ProblemKind, offset: u64, detail: String, out: &mut Vec<Scanned>) {
        out.push(Scanned::Problem(Problem { line: self.lines + 1, offset, kind, detail }));
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.to - 1;
        if self.from == last {
            write!(f, "event {last} is missing")
        } else {
            write!(f, "events {} to {last} are missing", self.from)
        }
    }
}

impl<T> Default for Ends<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Ends<T> {
    fn push(&mut self, end: End<T>) {
        self.forget(end.crc, end.next);
        remember(&mut self.0, end);
    }

    /// The newest end at `crc` that fits.
    fn find(&mut self, crc: u32, fits: impl Fn(&End<T>) -> bool) -> Option<&mut End<T>> {
        self.0.iter_mut().rev().find(|end| end.crc == crc && fits(end))
    }

    fn forget(&mut self, crc: u32, next: Seq) {
        self.0.retain(|end| (end.crc, end.next) != (crc, next));
    }
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == REMEMBERED {
        list.pop_front();
    }
    list.push_back(item);
}

fn opened_epoch(record: &Decoded) -> Option<u64> {
    match record {
        Decoded::Entry(Entry { event: Event::Opened(opened), .. }) => Some(opened.epoch),
        _ => None,
    }
}

/// Whether a repair marked the line as one that could not be checked.
fn is_marked(claim: Option<(&[u8], u32)>) -> bool {
    claim.is_some_and(|(body, _)| body.ends_with(UNCHECKED))
}

/// The `seq` of the line behind `record`: a sound `compacted` or `lost` stands for the events that it names.
fn seq_after(record: &Decoded, sound: bool) -> Seq {
    match record {
        Decoded::Entry(Entry { seq, event, .. }) if sound => event.next_seq(*seq),
        other => other.seq() + 1,
    }
}

/// Where `byte` first is.
fn find_byte(mut bytes: &[u8], byte: u8) -> Option<usize> {
    let whole = bytes;
    // The standard library's fastest search for a byte; reading from memory cannot fail.
    let passed = bytes.skip_until(byte).unwrap_or(0);
    whole[..passed].ends_with(&[byte]).then(|| passed - 1)
}

/// Where a record may start, from `from` on.
fn find_record(text: &[u8], mut from: usize) -> Option<usize> {
    loop {
        let at = from + find_byte(&text[from..], RECORD_START[0])?;
        if text[at..].starts_with(RECORD_START) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Where the checksum of a damaged line starts: its key is near the end, if anywhere.
fn find_crc_key(text: &[u8]) -> Option<usize> {
    let near_end = text.len().saturating_sub(1024);
    text[near_end..].windows(CRC_KEY.len()).rposition(|window| window == CRC_KEY).map(|at| near_end + at)
}

/// Without white space around it, and without a byte-order mark before it.
fn trim(bytes: &[u8]) -> &[u8] {
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let text = text.trim_ascii();
    if text.is_empty() { &bytes[..0] } else { text }
}

/// The seed from which the CRC-32C of `body` is `crc`: the checksum run backwards, byte by byte.
pub(crate) fn seed_of(body: &[u8], crc: u32) -> u32 {
    !body.iter().rev().fold(!crc, |state, byte| {
        let index = BACKWARDS[(state >> 24) as usize];
        (state ^ FORWARDS[index as usize]) << 8 | u32::from(index ^ byte)
    })
}

/// The table of CRC-32C: what each low byte of the state turns into.
const FORWARDS: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut state = index as u32;
        let mut bit = 0;
        while bit < 8 {
            state = if state & 1 == 1 { state >> 1 ^ 0x82f6_3b78 } else { state >> 1 };
            bit += 1;
        }
        table[index] = state;
        index += 1;
    }
    table
};

/// For each high byte of an entry of [`FORWARDS`], the index of that entry; there is exactly one.
const BACKWARDS: [u8; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        table[(FORWARDS[index] >> 24) as usize] = index as u8;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests;
