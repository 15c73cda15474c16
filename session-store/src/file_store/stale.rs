//! What a stale writer wrote: lines that continue the session up to where another owner took over, and are no part of it.
//!
//! A writer that was suspended and overtaken may write some lines before it notices; so may one whose disk failed, into the rescue
//! folder, and what it did not write is in `repaired/`. Readers set such lines aside. They are whole, and their chain continues a line of the session, so that line and all
//! before it, with the stale lines behind, are a session of their own: [`find`] says which bytes these are.

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

/// A session as a stale writer saw it.
pub(super) struct Stale {
    /// How many bytes of the log are common.
    pub(super) common: u64,
    /// Its own lines, each with its newline.
    pub(super) lines: Vec<u8>,
}

/// A line that was set aside.
struct Aside {
    seed: u32,
    seq: Seq,
    crc: u32,
    /// It says no more than who held the session, or what was known.
    is_owner: bool,
}

/// Lines of which each continues the one before.
struct Chain {
    /// The checksum that the first continues, and its `seq`.
    start: (u32, Seq),
    bytes: Vec<u8>,
    /// Each line's `seq` and checksum.
    lines: Vec<(Seq, u32)>,
    says_something: bool,
}

/// The newest lines of a stale writer, in the log or kept elsewhere, that say more than who held the session; nothing
/// where there are none.
pub(super) fn find(core: &Arc<Core>, id: SessionId) -> Result<Option<Stale>, StoreError> {
    let path = core.layout.log(id);
    let log = open_log(core, id, OpenMode::Read)?;
    let mut chains = chains(&*log).map_err(StoreError::io("read", &path))?;
    for leftovers in [Leftovers::find_in(core, &core.layout.repaired(), id)?, Leftovers::find(core, id)?] {
        chains.extend(leftovers.into_lines().map(|bytes| Chain::of_lines(&bytes)));
    }
    chains.retain(|chain| chain.says_something);
    let starts: HashSet<(u32, Seq)> = chains.iter().map(|chain| chain.start).collect();
    let ends: HashSet<(Seq, u32)> = chains.iter().filter_map(|chain| chain.lines.last().copied()).collect();
    let (mut common, mut known) = (HashMap::new(), HashSet::new());
    // A chain may begin with the session itself.
    common.insert((0, 0), 0);
    read::scan(core, id, |entry, _| {
        let place = entry.place;
        if !entry.sound {
            return;
        }
        if starts.contains(&(place.crc, entry.seq + 1)) {
            common.insert((place.crc, entry.seq + 1), place.end());
        }
        if ends.contains(&(entry.seq, place.crc)) {
            known.insert((entry.seq, place.crc));
        }
    })?;
    // What the session has was only written twice.
    let is_new = |chain: &Chain| chain.lines.last().is_some_and(|last| !known.contains(last));
    let newest = chains.into_iter().rev().filter(is_new).find_map(|chain| Some((*common.get(&chain.start)?, chain.bytes)));
    Ok(newest.map(|(common, lines)| Stale { common, lines }))
}

/// The chains of the lines that are set aside in a log, in its order.
fn chains(log: &dyn File) -> std::io::Result<Vec<Chain>> {
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
    let mut chains: Vec<Chain> = Vec::new();
    for (offset, len) in places.split_off(places.len().saturating_sub(LINES_MAX)) {
        let mut text = vec![0; len as usize];
        if read_full_at(log, &mut text, offset)? < text.len() {
            break;
        }
        let Some(aside) = Aside::of(&text) else { continue };
        let continues =
            |chain: &&mut Chain| chain.lines.last().is_some_and(|last| (last.1, last.0 + 1) == (aside.seed, aside.seq));
        text.push(b'\n');
        match chains.iter_mut().rev().find(continues) {
            Some(chain) => chain.push(&aside, &text),
            None => {
                let mut chain =
                    Chain { start: (aside.seed, aside.seq), bytes: Vec::new(), lines: Vec::new(), says_something: false };
                chain.push(&aside, &text);
                chains.push(chain);
            }
        }
    }
    Ok(chains)
}

impl Aside {
    /// What `text`, a line without its newline, continues; nothing where it claims no checksum.
    fn of(text: &[u8]) -> Option<Self> {
        let (body, crc) = line::claim(text)?;
        let decoded = line::decode(text)?;
        let is_owner =
            matches!(&decoded, Decoded::Entry(Entry { event: Event::Opened(_) | Event::Closed(_) | Event::Checkpoint(_), .. }));
        Some(Self { seed: seed_of(body, crc), seq: decoded.seq(), crc, is_owner })
    }
}

impl Chain {
    fn push(&mut self, line: &Aside, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.lines.push((line.seq, line.crc));
        self.says_something |= !line.is_owner;
    }

    /// Of whole lines that continue one another.
    fn of_lines(bytes: &[u8]) -> Self {
        let mut chain = Self { start: (0, 0), bytes: Vec::new(), lines: Vec::new(), says_something: false };
        for text in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = Aside::of(text.strip_suffix(b"\n").unwrap_or(text)) else { break };
            if chain.lines.is_empty() {
                chain.start = (line.seed, line.seq);
            }
            chain.push(&line, text);
        }
        chain
    }
}
