//! A recorded session as the log of a session that is run again: what the loop appends is held against what was recorded and gets its
//! place, and what came from outside (a message that steered, a note) is put in where it came.
//!
//! The loop's own back-pressure is the seam: an append that has to wait for the world is refused as full, and the world goes on in
//! [`SessionLog::reserve`], with no lock held.

use crate::interrupt::Interrupt;
use crate::projection::OUTPUT_UNTIL_THEN;
use crate::session::Shared;
use async_trait::async_trait;
use session_store::{
    AppendError, Entry, EntryReader, Event, FillImport, Loaded, ModelRequest, NewImport, NewSession, OpenSession, Place,
    Progress, Seq, SessionId, SessionLog, SessionStore, SessionSummary, ShutdownError, SideRef, State, StoreError, StoreStats,
    ToolFinished, ToolOutcome, UserKind, Verified, sha256_hex,
};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// A recorded log, and how far it was run again.
pub(super) struct Recording {
    id: SessionId,
    entries: Vec<Arc<Entry>>,
    /// For each request, by its place in `entries`: the other hash that is right for it.
    also_right: HashMap<usize, String>,
    /// Where side files are.
    files: Arc<dyn SessionStore>,
    turn: Mutex<Turn>,
    stopped: Notify,
    progress: watch::Sender<Progress>,
    session: OnceLock<Weak<Shared>>,
}

/// The turn that is run again.
#[derive(Default)]
struct Turn {
    /// Its recorded events.
    range: Range<usize>,
    /// Those from the last request that happened again to the one before the next.
    step: Range<usize>,
    /// Events of the step that happened again.
    seen: HashSet<usize>,
    /// The event that happened last.
    last: Seq,
    /// The request that is being answered.
    request: Option<usize>,
    interrupt: Interrupt,
    stop: Option<Stop>,
    /// The recorded event before which all that came from outside has to be put in; nothing: before the next request.
    put_in_before: Option<usize>,
    requests: u64,
}

impl Turn {
    /// The place of the next recorded request.
    fn next_request(&self) -> Option<usize> {
        (self.step.end < self.range.end).then_some(self.step.end)
    }
}

/// What is said where a process died.
pub(super) const CUT_OFF: &str = "the session was cut off there";

/// Why a turn is not run to its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stop {
    /// What would be sent now differs from what was sent by the request at this place.
    OtherRequest(usize),
    /// A model would be asked once more, where the recorded turn was over; the last event that happened again.
    OneMore(Seq),
    /// The turn would be over, where a model was asked by the request at this place.
    OneLess(usize),
    /// It cannot be told what happened.
    Unknown(String),
}

/// How a request was answered.
pub(super) enum Answered {
    /// With a message, whole or cut, and then perhaps an error: their places.
    By(Option<usize>, Option<usize>),
    /// The turn was stopped while this message came in.
    Interrupted(usize),
}

impl Recording {
    pub(super) fn new(
        id: SessionId,
        entries: Vec<Arc<Entry>>,
        also_right: HashMap<usize, String>,
        files: Arc<dyn SessionStore>,
    ) -> Self {
        Self {
            id,
            entries,
            also_right,
            files,
            turn: Mutex::default(),
            stopped: Notify::new(),
            progress: watch::Sender::new(Progress::default()),
            session: OnceLock::new(),
        }
    }

    /// Names the session that is run again.
    pub(super) fn attach(&self, session: &Arc<Shared>) {
        let _ = self.session.set(Arc::downgrade(session));
    }

    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    pub(super) fn request(&self, at: usize) -> Option<&ModelRequest> {
        match &self.entries.get(at)?.event {
            Event::ModelRequest(request) => Some(request),
            _ => None,
        }
    }

    /// Begins a turn whose events are in `range`.
    pub(super) fn begin(&self, range: Range<usize>, interrupt: Interrupt) {
        let last = range.start.checked_sub(1).and_then(|before| self.entries.get(before)).map_or(0, |entry| entry.seq);
        let step = self.step(range.start, range.end);
        let turn = Turn { range, step, last, interrupt, ..Turn::default() };
        self.interrupt_where_due(&turn);
        *self.turn() = turn;
    }

    /// Ends it: how many requests were the same, and why it was stopped, where it was.
    pub(super) fn end(&self) -> (u64, Option<Stop>) {
        let turn = std::mem::take(&mut *self.turn());
        (turn.requests, turn.stop)
    }

    /// Puts in what came from outside and was not put in yet.
    pub(super) fn put_in_rest(&self) {
        self.put_in(|_| true);
    }

    /// Returns once the turn cannot go on.
    pub(super) async fn stopped(&self) {
        loop {
            let stopped = self.stopped.notified();
            if self.turn().stop.is_some() {
                return;
            }
            stopped.await;
        }
    }

    /// Stops the turn; the first reason counts.
    pub(super) fn stop(&self, why: Stop) {
        self.turn().stop.get_or_insert(why);
        self.stopped.notify_waiters();
    }

    pub(super) fn interrupt(&self) {
        self.turn().interrupt.raise();
    }

    /// The next recorded request of the turn.
    pub(super) fn next_request(&self) -> Option<&ModelRequest> {
        let at = self.turn().next_request()?;
        self.request(at)
    }

    /// How the request was answered that was sent last.
    pub(super) fn answered(&self) -> Option<Answered> {
        let turn = self.turn();
        let request = self.entries.get(turn.request?)?.seq;
        let find = |is: &dyn Fn(&Event) -> bool| turn.step.clone().find(|at| is(&self.entries[*at].event));
        let message = find(&|event| matches!(event, Event::AssistantMessage(message) if message.message == request));
        let error = find(&|event| matches!(event, Event::ModelError(error) if error.message == request));
        let is_partial = |at: usize| matches!(&self.entries[at].event, Event::AssistantMessage(message) if message.partial);
        match (message, error) {
            (None, None) => None,
            (Some(message), None) if is_partial(message) => {
                find(&|event| matches!(event, Event::Interrupted(_))).map(|_| Answered::Interrupted(message))
            }
            (message, error) => Some(Answered::By(message, error)),
        }
    }

    /// The place of the one result of a call in this turn.
    pub(super) fn result(&self, call: &str) -> Option<usize> {
        let turn = self.turn();
        let is_it = |at: &usize| matches!(&self.entries[*at].event, Event::ToolFinished(finished) if finished.call == call);
        turn.step.clone().find(is_it)
    }

    /// The todo list that came with the result at `at`.
    pub(super) fn todos_of(&self, at: usize) -> Option<Vec<session_store::Todo>> {
        let start = self.turn().step.start;
        let before = self.entries.get(start..at)?.iter().rev();
        before.take_while(|entry| !matches!(entry.event, Event::ToolFinished(_))).find_map(|entry| match &entry.event {
            Event::TodosChanged(changed) => Some(changed.todos.to_vec()),
            _ => None,
        })
    }

    /// Who denied a call, and why, where it was denied.
    pub(super) fn denied(&self, call: &str) -> Option<(String, String)> {
        let turn = self.turn();
        self.entries.get(turn.step.clone())?.iter().find_map(|entry| match &entry.event {
            Event::ToolDenied(denied) if denied.call == call => Some((denied.by.clone(), denied.reason.clone())),
            _ => None,
        })
    }

    /// Whether somebody stopped the turn.
    pub(super) fn is_interrupted(&self) -> bool {
        let turn = self.turn();
        turn.step.clone().any(|at| matches!(self.entries[at].event, Event::Interrupted(_)))
    }

    /// The whole of a result that was shortened.
    ///
    /// # Errors
    /// Where the file beside the log is missing or damaged.
    pub(super) async fn whole(&self, side: &SideRef) -> Result<Vec<u8>, StoreError> {
        self.files.read_side(self.id, side).await
    }

    /// Puts in what came from outside while an answer came in: up to its end, and where it calls no tool, up to the next request or the end of
    /// the turn. Behind the answer it stands in either case.
    pub(super) fn put_in_during_answer(&self, message: Option<usize>, error: Option<usize>) {
        let calls_tools = |at: usize| matches!(&self.entries[at].event, Event::AssistantMessage(message) if message.tool_calls().next().is_some());
        let end = match (message, error) {
            (Some(message), None) if !calls_tools(message) => usize::MAX,
            (message, error) => message.or(error).unwrap_or(0),
        };
        // A note may be the loop's own, which it then makes again.
        self.put_in(|at| at < end && !matches!(self.entries[at].event, Event::Note(_)));
    }

    /// Puts in what came from outside and is `wanted` now.
    fn put_in(&self, wanted: impl Fn(usize) -> bool) {
        let due: Vec<usize> = {
            let mut turn = self.turn();
            let due: Vec<usize> = turn.step.clone().filter(|at| wanted(*at) && self.is_due(&turn, *at)).collect();
            turn.seen.extend(&due);
            due
        };
        let Some(session) = self.session.get().and_then(Weak::upgrade) else { return };
        for at in due {
            session.state().apply(&without_place(&self.entries[at]));
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        // Each critical section leaves it whole.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event of the step that `is` and did not happen again yet.
    fn next(&self, turn: &Turn, is: impl Fn(&Event) -> bool) -> Option<usize> {
        turn.step.clone().find(|at| is(&self.entries[*at].event) && !turn.seen.contains(at))
    }

    /// The events from `start` to the next request, or to `end`.
    fn step(&self, start: usize, end: usize) -> Range<usize> {
        let is_request = |at: &usize| matches!(self.entries[*at].event, Event::ModelRequest(_));
        start..(start..end).find(is_request).unwrap_or(end)
    }

    fn is_due(&self, turn: &Turn, at: usize) -> bool {
        self.is_input(at) && !turn.seen.contains(&at)
    }

    /// Whether the event came from outside of the loop.
    fn is_input(&self, at: usize) -> bool {
        match &self.entries[at].event {
            Event::UserMessage(user) => user.kind == UserKind::Steer,
            Event::ContextTrimmed(trim) => trim.reason == "user" || !self.has_limits_behind(at),
            event => !is_output(event) && !is_passed_over(event),
        }
    }

    /// Whether the request behind `at` says which limits it kept to: only then can its trims be made again.
    fn has_limits_behind(&self, at: usize) -> bool {
        let mut behind = self.entries[at..].iter();
        behind
            .find_map(|entry| if let Event::ModelRequest(request) = &entry.event { Some(request.limits.is_some()) } else { None })
            == Some(true)
    }

    /// Raises the interrupt where that is what happened next.
    fn interrupt_where_due(&self, turn: &Turn) {
        let next = self.next(turn, |event| is_output(event) && !matches!(event, Event::TodosChanged(_)));
        if next.is_some_and(|at| matches!(self.entries[at].event, Event::Interrupted(_))) {
            turn.interrupt.raise();
        }
    }

    /// The place of the recorded event that `event` repeats.
    fn counterpart(&self, turn: &Turn, event: &Event) -> Option<usize> {
        self.next(turn, |recorded| match (recorded, event) {
            (Event::ToolApproved(a), Event::ToolApproved(b)) => a.call == b.call,
            (Event::ToolDenied(a), Event::ToolDenied(b)) => a.call == b.call,
            (Event::ToolStarted(a), Event::ToolStarted(b)) => a.call == b.call,
            (Event::ToolFinished(a), Event::ToolFinished(b)) => a.call == b.call,
            (Event::ModelError(a), Event::ModelError(b)) => a.message == b.message,
            (Event::AssistantMessage(a), Event::AssistantMessage(b)) => a.message == b.message,
            (recorded, event) => recorded.type_name() == event.type_name(),
        })
    }

    /// Holds a request against the recorded one; where it is the same, its place.
    fn check_request(&self, turn: &mut Turn, now: &ModelRequest) -> Result<usize, AppendError> {
        let wait = AppendError::Full { bytes: 0, needed: 0 };
        if turn.step.clone().any(|input| self.is_due(turn, input)) {
            return Err(wait);
        }
        let Some(at) = turn.next_request() else {
            let is_over = self.next(turn, |event| matches!(event, Event::TurnEnded(_))).is_some();
            let stop = if is_over { Stop::OneMore(turn.last) } else { Stop::Unknown(CUT_OFF.to_owned()) };
            turn.stop.get_or_insert(stop);
            return Err(wait);
        };
        let is_same = self.request(at).is_some_and(|then| then.body_sha256 == now.body_sha256)
            || self.also_right.get(&at).is_some_and(|also| *also == now.body_sha256);
        if !is_same {
            turn.stop.get_or_insert(Stop::OtherRequest(at));
            return Err(wait);
        }
        // What was recorded before it and did not happen again made no difference.
        turn.step = self.step(at + 1, turn.range.end);
        turn.seen.clear();
        turn.request = Some(at);
        turn.requests += 1;
        Ok(at)
    }
}

/// What the loop itself writes, and what a turn goes on by.
pub(super) fn is_output(event: &Event) -> bool {
    matches!(
        event,
        Event::ModelRequest(_)
            | Event::ModelError(_)
            | Event::ModelFallback(_)
            | Event::ImagesRefused(_)
            | Event::AssistantMessage(_)
            | Event::ToolApproved(_)
            | Event::ToolDenied(_)
            | Event::ToolStarted(_)
            | Event::ToolFinished(_)
            | Event::TodosChanged(_)
            | Event::ContextTrimmed(_)
            | Event::Interrupted(_)
            | Event::TurnEnded(_)
    )
}

/// What says nothing that a model is sent, and comes when it comes.
pub(super) fn is_passed_over(event: &Event) -> bool {
    matches!(
        event,
        Event::AssistantText(_)
            | Event::AssistantReasoning(_)
            | Event::ToolOutputPiece(_)
            | Event::Checkpoint(_)
            | Event::Error(_)
            | Event::ModelWaiting(_)
            | Event::ChildOpened(_)
            | Event::Compacted(_)
            | Event::Unknown(_)
    )
}

/// The entry, as a state takes it that was not read from a file.
pub(super) fn without_place(entry: &Entry) -> Entry {
    Entry { place: Place::default(), ..entry.clone() }
}

/// The result that the loop itself gives a call that was stopped and had put out nothing.
pub(super) fn is_stopped_without_words(finished: &ToolFinished) -> bool {
    finished.outcome == ToolOutcome::Interrupted
        && finished.output.starts_with("Stopped ")
        && !finished.output.contains(OUTPUT_UNTIL_THEN)
}

#[async_trait]
impl SessionLog for Recording {
    fn id(&self) -> SessionId {
        self.id
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn append(&self, event: Event) -> Result<Arc<Entry>, AppendError> {
        let mut turn = self.turn();
        let at = match &event {
            event if is_passed_over(event) => None,
            Event::ModelRequest(request) => match self.check_request(&mut turn, request) {
                Ok(at) => Some(at),
                Err(wait) => return Err(wait),
            },
            Event::TurnEnded(_) => {
                if let Some(at) = turn.next_request() {
                    turn.stop.get_or_insert(Stop::OneLess(at));
                }
                self.counterpart(&turn, &event)
            }
            // What leaves, and what its note says, depends on what was there by then.
            Event::ContextTrimmed(_) => {
                let at = self.counterpart(&turn, &event);
                let is_early = |input: usize| at.is_some_and(|at| input < at) && self.is_due(&turn, input);
                if turn.step.clone().any(is_early) {
                    turn.put_in_before = at;
                    return Err(AppendError::Full { bytes: 0, needed: 0 });
                }
                at
            }
            event => self.counterpart(&turn, event),
        };
        if let Some(at) = at {
            if turn.step.contains(&at) {
                turn.seen.insert(at);
            }
            turn.last = self.entries[at].seq;
        }
        let entry = Entry::new(turn.last, at.map_or_else(Default::default, |at| self.entries[at].at), event);
        self.interrupt_where_due(&turn);
        Ok(Arc::new(entry))
    }

    fn append_within(&self, event: Event, _within: Duration) -> Result<Arc<Entry>, AppendError> {
        self.append(event)
    }

    /// The world goes on: what came from outside before the next request is put in. Does not return where the turn cannot go on.
    async fn reserve(&self, _bytes: usize) -> Result<(), StoreError> {
        if self.turn().stop.is_some() {
            self.stopped.notify_waiters();
            std::future::pending::<()>().await;
        }
        let before = self.turn().put_in_before.take().unwrap_or(usize::MAX);
        self.put_in(|at| at < before);
        Ok(())
    }

    async fn written(&self, _seq: Seq) -> Result<(), StoreError> {
        Ok(())
    }

    async fn durable(&self, _seq: Seq) -> Result<(), StoreError> {
        Ok(())
    }

    fn start_commit(&self, _seq: Seq) {}

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn put_side(&self, bytes: Vec<u8>) -> Result<SideRef, AppendError> {
        Ok(SideRef { sha256: sha256_hex(&bytes), bytes: bytes.len() as u64 })
    }

    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn recent(&self, _from: Seq) -> Option<Vec<Arc<Entry>>> {
        Some(Vec::new())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Reads the recorded events.
struct Reader {
    recording: Arc<Recording>,
    next: usize,
}

#[async_trait]
impl EntryReader for Reader {
    async fn next(&mut self) -> Result<Option<Arc<Entry>>, StoreError> {
        let entry = self.recording.entries.get(self.next).cloned();
        self.next += 1;
        Ok(entry)
    }
}

/// The store of a session that is run again: it can be read, and all else is refused.
pub(super) struct RecordedStore(pub(super) Arc<Recording>);

impl RecordedStore {
    fn refuse<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::NotFound(self.0.id))
    }
}

#[async_trait]
impl SessionStore for RecordedStore {
    async fn read(&self, _id: SessionId, from: Seq) -> Result<Box<dyn EntryReader>, StoreError> {
        let next = self.0.entries.partition_point(|entry| entry.seq < from);
        Ok(Box::new(Reader { recording: Arc::clone(&self.0), next }))
    }

    async fn read_side(&self, id: SessionId, side: &SideRef) -> Result<Vec<u8>, StoreError> {
        self.0.files.read_side(id, side).await
    }

    async fn create(&self, _new: NewSession) -> Result<OpenSession, StoreError> {
        self.refuse()
    }

    async fn open(&self, _id: SessionId) -> Result<OpenSession, StoreError> {
        self.refuse()
    }

    async fn fork(&self, _parent: SessionId, _at: Option<Seq>) -> Result<OpenSession, StoreError> {
        self.refuse()
    }

    async fn load(&self, _id: SessionId) -> Result<Loaded, StoreError> {
        self.refuse()
    }

    async fn load_at(&self, _id: SessionId, _at: Seq) -> Result<State, StoreError> {
        self.refuse()
    }

    async fn follow(&self, _id: SessionId, _from: Seq) -> Result<Box<dyn EntryReader>, StoreError> {
        self.refuse()
    }

    async fn verify(&self, _id: SessionId) -> Result<Verified, StoreError> {
        self.refuse()
    }

    async fn list(&self) -> Result<Vec<SessionSummary>, StoreError> {
        self.refuse()
    }

    async fn import(&self, _new: NewImport, _fill: FillImport) -> Result<SessionId, StoreError> {
        self.refuse()
    }

    async fn remove(&self, _id: SessionId) -> Result<(), StoreError> {
        self.refuse()
    }

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn shutdown(&self, _limit: Duration) -> Result<(), ShutdownError> {
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}
