//! Entries one after the other, for those who read a session without owning it; a follower then waits for more.
//!
//! The file is read on the runtime's blocking threads, a chunk at a time. A follower looks each 100 ms, and at once where
//! this process writes the session itself. It looks at the path each time: a replaced file is read from its start, and goes
//! on at the next `seq`.

use super::engine::{Core, Holding};
use super::lock;
use super::read::{LogReader, entries_from};
use crate::error::StoreError;
use crate::event::Entry;
use crate::id::{Seq, SessionId};
use crate::store::{EntryReader, Progress};
use async_trait::async_trait;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(100);

/// A reader or a follower.
pub(super) struct Entries {
    core: Arc<Core>,
    id: SessionId,
    /// The next `seq` that is wanted.
    from: Seq,
    ready: VecDeque<Arc<Entry>>,
    reading: Reading,
    follows: bool,
    /// When to look again. Kept here, so that a caller who gives up and comes back does not start the wait anew.
    look_at: Option<Instant>,
    /// How much the writer in this process had written when it was last asked.
    seen_written: Seq,
}

/// The reader, or the task that has it: a dropped `next` must not lose it.
enum Reading {
    Here(Option<Box<LogReader>>),
    Busy(JoinHandle<(Box<LogReader>, Result<Read, StoreError>)>),
}

/// What one look at the file gave.
struct Read {
    entries: Vec<Arc<Entry>>,
    is_end: bool,
}

impl Entries {
    pub(super) fn new(reader: LogReader, core: &Arc<Core>, id: SessionId, from: Seq, follows: bool) -> Self {
        Self {
            core: Arc::clone(core),
            id,
            from,
            ready: VecDeque::new(),
            reading: Reading::Here(Some(Box::new(reader))),
            follows,
            look_at: None,
            seen_written: 0,
        }
    }

    /// Reads the next chunk. Cancel-safe: the task that reads is kept.
    async fn read(&mut self) -> Result<Read, StoreError> {
        loop {
            match &mut self.reading {
                Reading::Here(reader) => {
                    let Some(mut reader) = reader.take() else { return Err(StoreError::Closed) };
                    let (core, id, from, follows) = (Arc::clone(&self.core), self.id, self.from, self.follows);
                    self.reading = Reading::Busy(tokio::task::spawn_blocking(move || {
                        let read = read_chunk(&core, id, &mut reader, from, follows);
                        (reader, read)
                    }));
                }
                Reading::Busy(task) => {
                    let outcome = task.await;
                    self.reading = Reading::Here(None);
                    let (reader, read) = outcome.map_err(|error| {
                        StoreError::io("read", self.core.layout.log(self.id))(io::Error::other(error.to_string()))
                    })?;
                    self.reading = Reading::Here(Some(reader));
                    return read;
                }
            }
        }
    }

    /// Returns when it is time to look again. Cancel-safe.
    async fn wait(&mut self) {
        let look_at = *self.look_at.get_or_insert_with(|| Instant::now() + POLL);
        match self.writer() {
            Some(mut progress) => {
                let seen = self.seen_written;
                tokio::select! {
                    () = tokio::time::sleep_until(look_at) => {}
                    Ok(progress) = progress.wait_for(|progress| progress.written > seen) => self.seen_written = progress.written,
                }
            }
            None => tokio::time::sleep_until(look_at).await,
        }
        self.look_at = None;
    }

    /// The progress of the session's writer, where it is in this process.
    fn writer(&self) -> Option<watch::Receiver<Progress>> {
        match lock(&self.core.sessions).get(&self.id) {
            Some(Holding::Open(session)) => Some(session.progress().subscribe()),
            _ => None,
        }
    }
}

fn read_chunk(core: &Arc<Core>, id: SessionId, reader: &mut LogReader, from: Seq, follows: bool) -> Result<Read, StoreError> {
    let mut items = Vec::new();
    let mut is_end = !reader.read(&mut items)?;
    if is_end && follows && reader.is_replaced()? {
        *reader = LogReader::open(core, id)?;
        return Ok(Read { entries: Vec::new(), is_end: false });
    }
    if is_end && !follows {
        // A follower waits for the rest of the last line; a reader takes what is there of it.
        is_end = reader.finish(&mut items);
    }
    Ok(Read { entries: entries_from(items, from), is_end })
}

#[async_trait]
impl EntryReader for Entries {
    async fn next(&mut self) -> Result<Option<Arc<Entry>>, StoreError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            if self.look_at.is_some() {
                self.wait().await;
            }
            let read = self.read().await?;
            for entry in &read.entries {
                // A damaged `seq` may say anything: only a sound one, or the very next, moves the reader on.
                if entry.sound || entry.seq == self.from {
                    self.from = entry.seq + 1;
                }
            }
            self.ready = read.entries.into();
            if read.is_end && self.ready.is_empty() {
                if !self.follows {
                    return Ok(None);
                }
                self.look_at = Some(Instant::now() + POLL);
            }
        }
    }
}
