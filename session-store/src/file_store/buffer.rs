//! What a session has accepted and the disk does not hold for certain: lines, side files, and the newest events.
//!
//! Lines are chunks of bytes that know their place in the file. They stay until they are durable, because a failed sync
//! takes back what was written before it. Chunks come from a pool that all sessions share, and an idle session has none.

use crate::error::StoreError;
use crate::event::{Entry, SideRef, Summary};
use crate::file_store::lock;
use crate::file_store::session::Attempt;
use crate::file_store::summary::Tally;
use crate::fs::File;
use crate::id::{Place, Seq};
use crate::line;
use crate::scan::{Position, seed_of};
use crate::store::Rescued;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A chunk takes no more lines once it is this long.
const CHUNK_BYTES: usize = 64 << 10;
/// A fresh chunk's room; it grows as lines come, so a session that says little costs little.
const CHUNK_START_BYTES: usize = 1 << 10;
/// How much free memory the pool keeps: enough for what a busy session has in memory at a time.
const POOL_BYTES: usize = 4 << 20;
/// The newest events that are kept for readers in the process although they are written: this many at most, ...
const RECENT_EVENTS: usize = 256;
/// ... and no more than this many bytes of lines and side files.
const RECENT_BYTES: u64 = 256 << 10;

/// Lines that were accepted one after the other.
pub(super) struct Chunk {
    /// Where they are, or will be, in the file.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// The event after the last one.
    end_seq: Seq,
    /// When the first was accepted.
    accepted_at: Instant,
}

impl Chunk {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// What of it lies at `offset` and after.
    pub(super) fn from(&self, offset: u64) -> &[u8] {
        let skip = usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        self.bytes.get(skip..).unwrap_or_default()
    }
}

/// A side file that is not durable yet.
pub(super) struct Side {
    pub(super) side: SideRef,
    pub(super) bytes: Vec<u8>,
    /// It is durable in the rescue folder.
    pub(super) is_rescued: AtomicBool,
    pub(super) state: Mutex<SideState>,
}

/// How far a side file is that is not durable.
#[derive(Default)]
pub(super) enum SideState {
    #[default]
    Accepted,
    /// It is written, and open until it is durable: a failed write-back is told to the descriptor that wrote.
    Open(Arc<dyn File>),
    /// It is written, but there was no descriptor to spare: it is written again before it is synced.
    Closed,
}

/// Free chunks.
#[derive(Default)]
pub(super) struct Pool {
    free: Mutex<(usize, Vec<Vec<u8>>)>,
    pub(super) reused: AtomicU64,
    pub(super) allocated: AtomicU64,
}

impl Pool {
    fn take(&self) -> Vec<u8> {
        let mut free = lock(&self.free);
        if let Some(chunk) = free.1.pop() {
            free.0 -= chunk.capacity();
            self.reused.fetch_add(1, Ordering::Relaxed);
            return chunk;
        }
        drop(free);
        self.allocated.fetch_add(1, Ordering::Relaxed);
        Vec::with_capacity(CHUNK_START_BYTES)
    }

    /// Gives up what is free.
    pub(super) fn rest(&self) {
        let free = std::mem::take(&mut *lock(&self.free));
        drop(free);
    }

    pub(super) fn give_back(&self, chunks: Vec<Arc<Chunk>>) {
        for chunk in chunks {
            // Whoever else still looks at a chunk keeps it.
            let Ok(Chunk { mut bytes, .. }) = Arc::try_unwrap(chunk) else { continue };
            bytes.clear();
            let mut free = lock(&self.free);
            if bytes.capacity() <= 2 * CHUNK_BYTES && free.0 + bytes.capacity() <= POOL_BYTES {
                free.0 += bytes.capacity();
                free.1.push(bytes);
            }
        }
    }
}

/// Why a session takes no more events.
#[derive(Debug)]
pub(super) enum Ended {
    /// `closed` was accepted.
    Closed,
    /// Another owner or the file's fate ended it.
    Lost(String),
    /// The store stopped before all was durable.
    Stopped,
}

pub(super) struct Buffer {
    /// The `seq` of the next event.
    pub(super) accepted: Seq,
    pub(super) written: Seq,
    pub(super) durable: Seq,
    /// The checksum that the next line continues.
    crc: u32,
    /// Where the file ends once all is written, and how many lines the log has then.
    end: u64,
    lines: u64,
    /// How much of the log is cold, and not in the file.
    base: u64,
    /// What the list shows of the session.
    tally: Box<Tally>,
    /// Up to where the file is known to be durable.
    pub(super) durable_end: u64,
    /// The chunk that lines are added to; empty: none yet.
    tail: Vec<u8>,
    tail_since: Option<Instant>,
    /// Whole chunks, in order, from the first byte that is not durable.
    chunks: VecDeque<Arc<Chunk>>,
    pub(super) sides: VecDeque<Arc<Side>>,
    side_bytes: u64,
    /// The newest events with the lengths of their lines and of what is beside them.
    recent: VecDeque<(u64, Arc<Entry>)>,
    recent_bytes: u64,
    /// When the writer comes at the latest; nothing: it does not know of anything to write.
    pub(super) write_due: Option<Instant>,
    /// Why the last write failed; gone with the next that works.
    pub(super) write_trouble: Option<Arc<StoreError>>,
    /// Why the last sync failed; gone with the next that works.
    pub(super) sync_trouble: Option<Arc<StoreError>>,
    /// Events before this one are in the rescue folder, or were when they became durable.
    pub(super) rescued: Seq,
    /// Where they are, while that works and the log does not.
    pub(super) rescue: Option<Arc<Rescued>>,
    /// When the first of the failures came since which nothing became durable.
    pub(super) failing_since: Option<Instant>,
    /// What failed, while it is being rescued: nobody was told yet.
    pub(super) untold: Vec<(Attempt, StoreError)>,
    /// It is to be rescued, though nothing failed.
    pub(super) wants_rescue: bool,
    /// The disk does not answer.
    pub(super) is_stalled: bool,
    /// How many writes and syncs of this session have failed.
    pub(super) failures: u64,
    pub(super) ended: Option<Ended>,
    pub(super) last_append: Option<Instant>,
    /// Whether the device counts it among those that have something to sync.
    pub(super) is_counted: bool,
}

impl Buffer {
    /// A buffer for a log that ends at `at`, all of it durable; the first `base` bytes are not in the file.
    pub(super) fn new(at: Position, base: u64, tally: Tally) -> Self {
        let end = at.offset - base;
        Self {
            accepted: at.next_seq,
            written: at.next_seq,
            durable: at.next_seq,
            crc: at.crc,
            end,
            lines: at.lines,
            base,
            tally: Box::new(tally),
            durable_end: end,
            tail: Vec::new(),
            tail_since: None,
            chunks: VecDeque::new(),
            sides: VecDeque::new(),
            side_bytes: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            write_due: None,
            write_trouble: None,
            sync_trouble: None,
            rescued: at.next_seq,
            rescue: None,
            failing_since: None,
            untold: Vec::new(),
            wants_rescue: false,
            is_stalled: false,
            failures: 0,
            ended: None,
            last_append: None,
            is_counted: false,
        }
    }

    /// What it holds in lines and side files.
    pub(super) fn bytes(&self) -> u64 {
        self.end - self.durable_end + self.side_bytes
    }

    /// What of it counts for the store's bound: nothing of a lost session.
    pub(super) fn counted_bytes(&self) -> u64 {
        if self.is_lost() { 0 } else { self.bytes() }
    }

    /// Where the file ends once all is written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Where a line of `length` bytes that is added next will stand.
    pub(super) fn next_place(&self, length: usize, crc: u32) -> Place {
        let len = u32::try_from(length.saturating_sub(1)).unwrap_or(0);
        Place { line: self.lines + 1, offset: self.base + self.end, len, crc }
    }

    /// How much of the log is durable.
    pub(super) fn durable_bytes(&self) -> u64 {
        self.base + self.durable_end
    }

    /// What `closed` says of the session, where that is the next line.
    pub(super) fn summary(&self) -> Summary {
        self.tally.summary(self.base + self.end)
    }

    /// Adds the line that `encode` makes from the chain's checksum and the next `seq`; says how long it is, and its checksum.
    /// Nothing else changes until [`Buffer::commit_line`].
    pub(super) fn encode_line(&mut self, pool: &Pool, encode: impl FnOnce(&mut Vec<u8>, u32, Seq) -> u32) -> (usize, u32) {
        if self.tail.capacity() == 0 {
            self.tail = pool.take();
        }
        let before = self.tail.len();
        let crc = encode(&mut self.tail, self.crc, self.accepted);
        (self.tail.len() - before, crc)
    }

    /// Takes back the line that [`Buffer::encode_line`] just added.
    pub(super) fn take_back_line(&mut self, length: usize) {
        self.tail.truncate(self.tail.len() - length);
    }

    /// Makes the line that was just added count; `side_bytes` of its event are beside it.
    pub(super) fn commit_line(&mut self, length: usize, side_bytes: u64, entry: &Arc<Entry>) {
        if self.tail_since.is_none() {
            let now = Instant::now();
            self.tail_since = Some(now);
            self.last_append = Some(now);
        }
        self.crc = entry.place.crc;
        self.accepted += 1;
        self.end += length as u64;
        self.lines += 1;
        self.tally.pass(entry);
        if self.tail.len() >= CHUNK_BYTES {
            self.seal();
        }
        let cost = length as u64 + side_bytes;
        self.recent.push_back((cost, Arc::clone(entry)));
        self.recent_bytes += cost;
        // Two for one, so that what piled up while the disk was slow goes away without a pause.
        self.forget_one_recent();
        self.forget_one_recent();
    }

    fn forget_one_recent(&mut self) {
        let too_many = self.recent.len() > RECENT_EVENTS || self.recent_bytes > RECENT_BYTES;
        if too_many && self.recent.front().is_some_and(|(_, entry)| entry.seq < self.written) {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |(cost, _)| cost);
        }
    }

    pub(super) fn add_side(&mut self, side: SideRef, bytes: Vec<u8>) {
        self.side_bytes += bytes.len() as u64;
        self.sides.push_back(Arc::new(Side { side, bytes, state: Mutex::default(), is_rescued: AtomicBool::new(false) }));
    }

    fn seal(&mut self) {
        let Some(accepted_at) = self.tail_since.take() else { return };
        let bytes = std::mem::take(&mut self.tail);
        let offset = self.end - bytes.len() as u64;
        self.chunks.push_back(Arc::new(Chunk { offset, bytes, end_seq: self.accepted, accepted_at }));
    }

    /// The chunks with something at `from` or after it, as many as make `limit` bytes, but one at least.
    pub(super) fn chunks_from(&mut self, from: u64, limit: u64) -> Vec<Arc<Chunk>> {
        self.seal();
        self.write_due = None;
        let first = self.chunks.partition_point(|chunk| chunk.end() <= from);
        let mut chunks = Vec::new();
        for chunk in self.chunks.range(first..) {
            if !chunks.is_empty() && chunk.end() - from > limit {
                break;
            }
            chunks.push(Arc::clone(chunk));
        }
        chunks
    }

    /// The chunks with something before `end`, from the durable end on.
    pub(super) fn chunks_before(&self, end: u64) -> Vec<Arc<Chunk>> {
        self.chunks.iter().take_while(|chunk| chunk.offset < end).cloned().collect()
    }

    /// The checksum of the chain at the durable end.
    pub(super) fn durable_crc(&self) -> u32 {
        let first = self.chunks.front().map_or(&self.tail, |chunk| &chunk.bytes);
        let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
        line::claim(line).map_or(self.crc, |(body, crc)| seed_of(body, crc))
    }

    /// Since when something waits to be durable in the log.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.chunks.front().map(|chunk| chunk.accepted_at).or(self.tail_since)
    }

    /// Events before this one survive the machine, in the log or in the rescue folder.
    pub(super) fn safe(&self) -> Seq {
        self.durable.max(self.rescued)
    }

    /// Whether all that was accepted survives the machine.
    pub(super) fn is_safe(&self) -> bool {
        self.safe() == self.accepted && self.sides.iter().all(|side| side.is_rescued.load(Ordering::Relaxed))
    }

    /// What is wrong now, if something is: a failure whose events are rescued is none.
    pub(super) fn trouble(&self) -> Option<&Arc<StoreError>> {
        if self.rescue.is_some() && !self.is_lost() {
            return None;
        }
        self.write_trouble.as_ref().or(self.sync_trouble.as_ref())
    }

    /// Whether something is written that is not durable.
    pub(super) fn has_unsynced(&self) -> bool {
        !self.is_lost() && (self.durable < self.written || !self.sides.is_empty())
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.ended, Some(Ended::Lost(_)))
    }

    /// The file holds everything before `end`; says how many more events that are.
    pub(super) fn mark_written(&mut self, end: u64) -> u64 {
        let whole = self.chunks.partition_point(|chunk| chunk.end() <= end);
        let written = whole.checked_sub(1).and_then(|last| self.chunks.get(last)).map_or(self.written, |chunk| chunk.end_seq);
        let more = written.saturating_sub(self.written);
        self.written = self.written.max(written);
        more
    }

    /// Everything before `end` and all of `sides` is durable. Gives back what is no longer needed.
    pub(super) fn mark_durable(&mut self, end: u64, sides: &[Arc<Side>]) -> Vec<Arc<Chunk>> {
        let whole = self.chunks.partition_point(|chunk| chunk.end() <= end);
        let freed: Vec<Arc<Chunk>> = self.chunks.drain(..whole).collect();
        self.failing_since = None;
        self.is_stalled = false;
        if let Some(last) = freed.last() {
            self.durable = self.durable.max(last.end_seq);
            self.durable_end = self.durable_end.max(last.end());
        }
        self.sides.retain(|side| !sides.iter().any(|done| Arc::ptr_eq(side, done)));
        self.side_bytes = self.sides.iter().map(|side| side.bytes.len() as u64).sum();
        freed
    }

    /// The kept events from `from` on, or nothing where some of them are no longer kept.
    pub(super) fn recent(&self, from: Seq) -> Option<Vec<Arc<Entry>>> {
        if from >= self.accepted {
            return Some(Vec::new());
        }
        let first = self.recent.front()?.1.seq;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        Some(self.recent.range(skip..).map(|(_, entry)| Arc::clone(entry)).collect())
    }

    /// Gives up all memory that an idle session does not need, to be dropped by the caller.
    pub(super) fn rest(&mut self) -> impl Sized + use<> {
        self.recent_bytes = 0;
        self.chunks.shrink_to_fit();
        self.sides.shrink_to_fit();
        (std::mem::take(&mut self.recent), std::mem::take(&mut self.tail))
    }

    /// How long ago the first event of `chunk` was accepted, in microseconds.
    pub(super) fn age_micros(chunk: &Chunk) -> u64 {
        u64::try_from(chunk.accepted_at.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
