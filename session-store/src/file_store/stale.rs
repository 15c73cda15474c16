//! What stale writers wrote: lines that continue the session up to where another owner took over, and are no part of it.
//!
//! A writer that was suspended and overtaken may write some lines before it notices; so may one whose disk failed, into the rescue
//! folder, and what it did not write is in `repaired/`. Readers set such lines aside. They are whole, and each continues a line of the session or another of them, so the
//! lines from the session's start to the last of them are a session of their own: [`find`] says which bytes these are. Where lines of one writer lie in several places, they are put
//! together; where several writers were overtaken, there is a session for each.

use super::engine::Core;
use super::read::{self, open_log};
use super::rescue::Leftovers;
use crate::error::StoreError;
use crate::event::{Entry, Event};
use crate::fs::{File, OpenMode, for_each_chunk, read_full_at};
use crate::id::{Seq, SessionId};
use crate::line::{self, Decoded};
use crate::scan::{Scanned, Scanner, seed_of};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// No more lines than this are looked at; the oldest go first.
const LINES_MAX: usize = 1_000_000;

/// Where a line joins another: the checksum up to there, and the `seq` of the line behind it.
type Joint = (u32, Seq);

/// Lines that stale writers left behind in a session, as far as they belong together: [`FileStore::fork_stale`](crate::FileStore::fork_stale) makes a session of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleLines {
    /// The first event that only they have.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
    end: Joint,
}

/// A session as a stale writer saw it.
pub(super) struct Stale {
    pub(super) lines: StaleLines,
    /// How many bytes of the log are common.
    pub(super) common: u64,
    /// Its own lines, each with its newline.
    pub(super) bytes: Vec<u8>,
}

/// A line that was set aside.
struct Aside {
    start: Joint,
    end: Joint,
    /// It says no more than who held the session, or what was known.
    is_owner: bool,
    /// With its newline.
    bytes: Vec<u8>,
}

/// The lines of stale writers, in the log or kept elsewhere, that say more than who held the session, in the order of their last lines.
pub(super) fn find(core: &Arc<Core>, id: SessionId) -> Result<Vec<Stale>, StoreError> {
    let path = core.layout.log(id);
    let log = open_log(core, id, OpenMode::Read)?;
    let mut lines = set_aside(&*log).map_err(StoreError::io("read", &path))?;
    for leftovers in [Leftovers::find_in(core, &core.layout.repaired(), id)?, Leftovers::find(core, id)?] {
        let texts = leftovers.into_lines();
        lines.extend(
            texts.flat_map(|bytes| bytes.split_inclusive(|byte| *byte == b'\n').filter_map(Aside::of).collect::<Vec<_>>()),
        );
    }
    // The same line may be in two places.
    let mut ends = HashSet::new();
    lines.retain(|line| ends.insert(line.end));
    let starts: HashSet<Joint> = lines.iter().map(|line| line.start).collect();
    // A chain may begin with the session itself.
    let (mut common, mut known) = (HashMap::from([((0, 0), 0)]), HashSet::new());
    read::scan(core, id, |entry, _| {
        let end = (entry.place.crc, entry.seq + 1);
        if entry.sound && starts.contains(&end) {
            common.insert(end, entry.place.end());
        }
        if entry.sound && ends.contains(&end) {
            known.insert(end);
        }
    })?;
    // What the session has was only written twice.
    lines.retain(|line| !known.contains(&line.end));
    let starts: HashSet<Joint> = lines.iter().map(|line| line.start).collect();
    let by_end: HashMap<Joint, &Aside> = lines.iter().map(|line| (line.end, line)).collect();
    let last_ones = lines.iter().filter(|line| !starts.contains(&line.end));
    Ok(last_ones.filter_map(|last| chain(last, &by_end, &common)).collect())
}

/// The lines up to `last`, as far back as the session has them not; nothing where they continue no line of it, or say nothing.
fn chain(last: &Aside, by_end: &HashMap<Joint, &Aside>, common: &HashMap<Joint, u64>) -> Option<Stale> {
    let mut lines = vec![last];
    let mut first = last;
    let common = loop {
        if let Some(common) = common.get(&first.start) {
            break *common;
        }
        // Each is one event before the other, so this ends.
        first = by_end.get(&first.start)?;
        lines.push(first);
    };
    if lines.iter().all(|line| line.is_owner) {
        return None;
    }
    let bytes = lines.iter().rev().flat_map(|line| &line.bytes).copied().collect();
    Some(Stale { lines: StaleLines { first: first.start.1, last: last.start.1, end: last.end }, common, bytes })
}

/// The lines that are set aside in a log, in its order.
fn set_aside(log: &dyn File) -> std::io::Result<Vec<Aside>> {
    let size = log.stat()?.size;
    let (mut scanner, mut found, mut places) = (Scanner::new(), Vec::new(), Vec::new());
    for_each_chunk(log, 0..size, |chunk, _| {
        scanner.feed(chunk, &mut found);
        places.extend(found.drain(..).filter_map(|scanned| match scanned {
            Scanned::SetAside { place } => Some((place.offset, place.len)),
            _ => None,
        }));
        Ok(())
    })?;
    let mut lines = Vec::new();
    for (offset, len) in places.split_off(places.len().saturating_sub(LINES_MAX)) {
        let mut text = vec![0; len as usize];
        if read_full_at(log, &mut text, offset)? < text.len() {
            break;
        }
        text.push(b'\n');
        lines.extend(Aside::of(&text));
    }
    Ok(lines)
}

impl Aside {
    /// What `bytes`, a line with its newline, continue; nothing where they claim no checksum.
    fn of(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_suffix(b"\n")?;
        let (body, crc) = line::claim(text)?;
        let decoded = line::decode(text)?;
        let is_owner =
            matches!(&decoded, Decoded::Entry(Entry { event: Event::Opened(_) | Event::Closed(_) | Event::Checkpoint(_), .. }));
        let seq = decoded.seq();
        Some(Self { start: (seed_of(body, crc), seq), end: (crc, seq.checked_add(1)?), is_owner, bytes: bytes.to_vec() })
    }
}
