//! The log that an owner appends to.

use super::buffer::{Buffer, Ended, Side};
use super::engine::{Core, Engine, Holding};
use super::lane::Due;
use super::lock;
use super::session::Session;
use crate::error::{AppendError, StoreError};
use crate::event::{Closed, Entry, Event, SideRef};
use crate::id::{Seq, SessionId};
use crate::line;
use crate::side::sha256_hex;
use crate::store::{Progress, SessionLog};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A session's log in a file. Dropping it closes the session without waiting.
pub(super) struct FileLog {
    /// Keeps the threads.
    pub(super) engine: Arc<Engine>,
    pub(super) session: Arc<Session>,
}

impl FileLog {
    fn core(&self) -> &Core {
        &self.engine.core
    }

    fn accept(&self, event: Event, within: Option<Duration>) -> Result<Arc<Entry>, AppendError> {
        let mut buffer = lock(&self.session.buffer);
        let entry = accept(self.core(), &mut buffer, event)?;
        let due = due_for(self.core(), &mut buffer, within);
        drop(buffer);
        self.session.publish_accepted(entry.seq + 1);
        if let Some(due) = due {
            self.session.device.writer.push(&self.session, due);
        }
        Ok(entry)
    }
}

/// Adds an event to a buffer.
fn accept(core: &Core, buffer: &mut Buffer, mut event: Event) -> Result<Arc<Entry>, AppendError> {
    refuse_if_ended(buffer)?;
    if let Event::Checkpoint(checkpoint) = &mut event {
        checkpoint.durable = buffer.durable_bytes();
    }
    let room = Room::of(core, event.is_closing());
    room.check(core, buffer, 0)?;
    let at = core.options.clock.now();
    let mut side_bytes = 0;
    let (mut length, mut crc) = buffer.encode_line(&core.pool, |out, crc, seq| line::encode(out, crc, seq, at, &event));
    if length > core.options.line_bytes_max {
        buffer.take_back_line(length);
        let side = add_fields_as_side(core, buffer, room, &event)?;
        side_bytes = side.bytes;
        (length, crc) =
            buffer.encode_line(&core.pool, |out, crc, seq| line::encode_side(out, crc, seq, at, event.type_name(), &side));
    }
    if let Err(full) = room.check(core, buffer, length) {
        buffer.take_back_line(length);
        return Err(full);
    }
    let entry = Arc::new(Entry { place: buffer.next_place(length, crc), ..Entry::new(buffer.accepted, at, event) });
    buffer.commit_line(length, side_bytes, &entry);
    core.in_memory.fetch_add(length as u64, Ordering::Relaxed);
    core.counters.events.fetch_add(1, Ordering::Relaxed);
    Ok(entry)
}

fn add_fields_as_side(core: &Core, buffer: &mut Buffer, room: Room, event: &Event) -> Result<SideRef, AppendError> {
    let mut fields = Vec::new();
    // Writing to memory does not fail, and every field has a JSON form.
    let _ = event.write_fields(&mut fields);
    add_side(core, buffer, room, fields)
}

fn add_side(core: &Core, buffer: &mut Buffer, room: Room, bytes: Vec<u8>) -> Result<SideRef, AppendError> {
    room.check(core, buffer, bytes.len())?;
    let side = SideRef { sha256: sha256_hex(&bytes), bytes: bytes.len() as u64 };
    core.in_memory.fetch_add(side.bytes, Ordering::Relaxed);
    buffer.add_side(side.clone(), bytes);
    Ok(side)
}

fn refuse_if_ended(buffer: &Buffer) -> Result<(), AppendError> {
    match &buffer.ended {
        None => Ok(()),
        Some(Ended::Closed) => Err(AppendError::NotOpen { why: "it was closed".to_owned() }),
        Some(Ended::Lost(why)) => Err(AppendError::NotOpen { why: why.clone() }),
        Some(Ended::Stopped) => Err(AppendError::NotOpen { why: "the store was shut down".to_owned() }),
    }
}

/// When the writer has to be told of an append; mostly it knows already.
fn due_for(core: &Core, buffer: &mut Buffer, within: Option<Duration>) -> Option<Due> {
    let window = core.options.window;
    let within = within.filter(|within| *within < window);
    if buffer.write_due.is_some() && within.is_none() {
        return None;
    }
    let latest = Instant::now() + within.unwrap_or(window);
    if buffer.write_due.is_some_and(|due| due <= latest) {
        return None;
    }
    buffer.write_due = Some(latest);
    Some(within.map_or(Due::Window(window), Due::Within))
}

/// How much may be in memory.
#[derive(Clone, Copy)]
struct Room {
    session_bytes: u64,
    store_bytes: u64,
}

impl Room {
    fn of(core: &Core, is_closing: bool) -> Self {
        let options = &core.options;
        let reserve = if is_closing { options.closing_bytes } else { 0 };
        Self { session_bytes: options.session_bytes_max + reserve, store_bytes: options.store_bytes_max + reserve }
    }

    /// Whether `needed` more bytes fit. An empty buffer takes anything, so that no event is too large for good.
    fn check(self, core: &Core, buffer: &Buffer, needed: usize) -> Result<(), AppendError> {
        let more = needed as u64;
        let (here, all) = (buffer.bytes(), core.in_memory.load(Ordering::Relaxed));
        if here > 0 && here + more > self.session_bytes {
            return Err(AppendError::Full { bytes: here, needed });
        }
        if all > 0 && all + more > self.store_bytes {
            return Err(AppendError::Full { bytes: all, needed });
        }
        Ok(())
    }
}

/// Appends `closed`, where the session has not ended, and lets it be opened again once all is durable.
pub(super) fn release(core: &Core, session: &Arc<Session>) -> Result<(), AppendError> {
    let mut buffer = lock(&session.buffer);
    if buffer.ended.is_none() {
        let summary = Some(Box::new(buffer.summary()));
        accept(core, &mut buffer, Closed { epoch: session.epoch, summary }.into())?;
        buffer.ended = Some(Ended::Closed);
        session.publish(&buffer);
    }
    drop(buffer);
    let mut sessions = lock(&core.sessions);
    if matches!(sessions.get(&session.id), Some(Holding::Open(held)) if Arc::ptr_eq(held, session)) {
        sessions.insert(session.id, Holding::Released(Arc::clone(session)));
    }
    drop(sessions);
    core.room.notify_waiters();
    core.forget_if_released(session);
    Ok(())
}

/// What a flush waits for.
pub(super) struct Accepted {
    seq: Seq,
    last_side: Option<Arc<Side>>,
}

impl Accepted {
    /// What `session` has accepted.
    pub(super) fn of(session: &Session) -> Self {
        let buffer = lock(&session.buffer);
        Self { seq: buffer.accepted, last_side: buffer.sides.back().cloned() }
    }

    /// Returns when all of it is durable; somebody else has to start that.
    pub(super) async fn durable(&self, session: &Session) -> Result<(), StoreError> {
        let is_durable = |buffer: &Buffer| {
            let waits =
                |side| buffer.sides.iter().any(|other| Arc::ptr_eq(other, side) && !other.is_rescued.load(Ordering::Relaxed));
            buffer.safe() >= self.seq && !self.last_side.as_ref().is_some_and(waits)
        };
        session.until(is_durable).await
    }
}

/// Makes all durable that `session` accepted before the call.
pub(super) async fn flush(core: &Core, session: &Arc<Session>) -> Result<(), StoreError> {
    let accepted = Accepted::of(session);
    core.commit(session, accepted.seq);
    accepted.durable(session).await
}

#[async_trait]
impl SessionLog for FileLog {
    fn id(&self) -> SessionId {
        self.session.id
    }

    fn epoch(&self) -> u64 {
        self.session.epoch
    }

    fn append(&self, event: Event) -> Result<Arc<Entry>, AppendError> {
        self.accept(event, None)
    }

    fn append_within(&self, event: Event, within: Duration) -> Result<Arc<Entry>, AppendError> {
        self.accept(event, Some(within))
    }

    async fn reserve(&self, bytes: usize) -> Result<(), StoreError> {
        let room = Room::of(self.core(), false);
        loop {
            let freed = self.core().room.notified();
            tokio::pin!(freed);
            // From here on no wake-up is missed.
            freed.as_mut().enable();
            {
                let buffer = lock(&self.session.buffer);
                match &buffer.ended {
                    Some(Ended::Closed | Ended::Stopped) => return Err(StoreError::Closed),
                    Some(Ended::Lost(why)) => return Err(StoreError::Lost { id: self.session.id, why: why.clone() }),
                    None if room.check(self.core(), &buffer, bytes).is_ok() => return Ok(()),
                    None => {}
                }
            }
            self.core().commit(&self.session, Seq::MAX);
            freed.await;
        }
    }

    async fn written(&self, seq: Seq) -> Result<(), StoreError> {
        self.session.device.writer.push(&self.session, Due::Now);
        self.session.until(|buffer| buffer.written.max(buffer.rescued) > seq.min(buffer.accepted.saturating_sub(1))).await
    }

    async fn durable(&self, seq: Seq) -> Result<(), StoreError> {
        self.core().commit(&self.session, seq.saturating_add(1));
        self.session.until(|buffer| buffer.safe() > seq.min(buffer.accepted.saturating_sub(1))).await
    }

    fn start_commit(&self, seq: Seq) {
        self.core().commit(&self.session, seq.saturating_add(1));
    }

    async fn flush(&self) -> Result<(), StoreError> {
        flush(self.core(), &self.session).await
    }

    fn put_side(&self, bytes: Vec<u8>) -> Result<SideRef, AppendError> {
        let mut buffer = lock(&self.session.buffer);
        refuse_if_ended(&buffer)?;
        let side = add_side(self.core(), &mut buffer, Room::of(self.core(), false), bytes)?;
        let due = due_for(self.core(), &mut buffer, None);
        drop(buffer);
        if let Some(due) = due {
            self.session.device.writer.push(&self.session, due);
        }
        Ok(side)
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.session.progress().subscribe()
    }

    fn recent(&self, from: Seq) -> Option<Vec<Arc<Entry>>> {
        lock(&self.session.buffer).recent(from)
    }

    async fn close(&self) -> Result<(), StoreError> {
        while let Err(error) = release(self.core(), &self.session) {
            match error {
                AppendError::Full { needed, .. } => self.reserve(needed).await?,
                AppendError::NotOpen { .. } => return Err(StoreError::Closed),
            }
        }
        flush(self.core(), &self.session).await?;
        self.core().forget_if_released(&self.session);
        Ok(())
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        if release(self.core(), &self.session).is_ok() {
            self.session.device.writer.push(&self.session, Due::Now);
        }
    }
}
