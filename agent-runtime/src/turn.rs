//! [`Turn`]: a cursor on a running turn.

use crate::model::ModelFailure;
use crate::session::{Session, lock};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use session_store::{AssistantMessage, Entry, Event, Seq, StoreError, Timestamp, Usage};
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

/// A cursor on a turn that runs in a task of its own: a stream of [`TurnEvent`]s, at the reader's own pace. A slow reader slows
/// neither the provider nor the log: it gets larger pieces, and events that left memory are read from the store. The stream ends after
/// `turn.ended`. Dropping the cursor detaches from the turn, which goes on; see [`Turn::interrupt_on_drop`].
pub struct Turn {
    session: Session,
    outcome: watch::Receiver<Option<Arc<TurnOutcome>>>,
    activity: WatchStream<u64>,
    /// The next event to show.
    next: Seq,
    /// Events that were taken and not yet shown.
    queue: VecDeque<TurnEvent>,
    backfill: Option<BoxFuture<'static, Result<Vec<Arc<Entry>>, StoreError>>>,
    /// The message that is being shown, and how much of its text and reasoning was.
    shown: (Option<Seq>, [u64; 2]),
    /// How much of the output of each running call was.
    shown_outputs: HashMap<String, u64>,
    ended: bool,
    interrupt_on_drop: bool,
}

/// What a turn shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TurnEvent {
    /// An event that was accepted into the log.
    Entry(Arc<Entry>),
    /// Text or reasoning as it comes, before it is in the log.
    Delta(Delta),
    /// What a running tool puts out, before it is in the log.
    ToolDelta(ToolDelta),
}

/// A piece of an answer. The pieces of a message add up to the same bytes as its pieces in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The `seq` of the request that is answered.
    pub message: Seq,
    /// Text or reasoning.
    pub kind: DeltaKind,
    /// Where the piece starts, in bytes of the message's whole text (or reasoning).
    pub offset: u64,
    /// The piece.
    pub text: String,
}

/// A piece of the output of a tool that runs. A reader who does not follow a flood misses some of it: the next piece then starts later than the
/// last one ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolDelta {
    /// The id of the call.
    pub call: String,
    /// Where the piece starts, in bytes of the call's whole output.
    pub offset: u64,
    /// The piece.
    pub text: String,
}

/// What a [`Delta`] is a piece of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaKind {
    /// The answer.
    Text,
    /// The reasoning before it.
    Reasoning,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The model had said what it wanted to say.
    Done,
    /// It was stopped.
    Interrupted,
    /// A clock of a model call ran out.
    Timeout,
    /// The most model calls of a turn.
    MaxTurns,
    /// The output limit cut the answer.
    MaxTokens,
    /// The session has used up what it may: [`Setup::spending`](crate::Setup::spending).
    Budget,
    /// The model refused.
    Refusal,
    /// The same call was refused three times.
    Denied,
    /// Something failed: [`TurnOutcome::error`].
    Error,
}

impl EndReason {
    /// The word in `turn.ended`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Interrupted => "interrupted",
            Self::Timeout => "timeout",
            Self::MaxTurns => "max_turns",
            Self::MaxTokens => "max_tokens",
            Self::Budget => "budget",
            Self::Refusal => "refusal",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }

    /// The reason that has this word; nothing for a word of a newer build.
    pub(crate) fn of(word: &str) -> Option<Self> {
        const ALL: [EndReason; 9] = [
            EndReason::Done,
            EndReason::Interrupted,
            EndReason::Timeout,
            EndReason::MaxTurns,
            EndReason::MaxTokens,
            EndReason::Budget,
            EndReason::Refusal,
            EndReason::Denied,
            EndReason::Error,
        ];
        ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// What ended a turn against its will.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// The model call failed for good.
    #[error(transparent)]
    Model(ModelFailure),
    /// The session could not be stored.
    #[error("the session could not be stored: {0}")]
    Store(String),
    /// What has to be sent does not fit the context window.
    #[error("{0}")]
    TooLong(String),
    /// The answer does not fit the schema that was asked for, also when it was asked for again.
    #[error("the answer does not fit the schema that was asked for: {0}")]
    Misfit(String),
    /// A defect in a tool or in the runtime.
    #[error("{0}")]
    Panic(String),
}

/// A tool call that was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// The tool.
    pub tool: String,
    /// The arguments as the model wrote them.
    pub arguments: String,
    /// Why.
    pub reason: String,
    /// Who or what refused: `user`, `mode`, `disallowed_tools`, `nobody_to_ask`.
    pub by: String,
}

/// How a turn ended.
#[derive(Clone, Debug)]
pub struct TurnOutcome {
    /// Why.
    pub reason: EndReason,
    /// What went wrong.
    pub error: Option<TurnError>,
    /// When the server wants to be asked again, where the model call failed for good and the server said so.
    pub retry_at: Option<Timestamp>,
    /// The text of the last assistant message, also where it was cut.
    pub text: String,
    /// How many times a model was asked.
    pub model_calls: u64,
    /// The sum over those calls.
    pub usage: Usage,
    /// The calls that were refused.
    pub denials: Vec<Denial>,
    /// How long it took.
    pub duration: Duration,
}

impl TurnOutcome {
    /// The end of a turn of which nothing else is known.
    pub(crate) fn new(reason: EndReason) -> Self {
        Self {
            reason,
            error: None,
            retry_at: None,
            text: String::new(),
            model_calls: 0,
            usage: Usage::default(),
            denials: Vec::new(),
            duration: Duration::ZERO,
        }
    }
}

impl Turn {
    pub(crate) fn new(session: Session, first: Seq, outcome: watch::Receiver<Option<Arc<TurnOutcome>>>) -> Self {
        let activity = WatchStream::new(session.shared.activity.subscribe());
        Self {
            session,
            outcome,
            activity,
            next: first,
            queue: VecDeque::new(),
            backfill: None,
            shown: (None, [0; 2]),
            shown_outputs: HashMap::new(),
            ended: false,
            interrupt_on_drop: false,
        }
    }

    /// Waits for the end; needs no reading, and the future does not need this cursor. Cancel-safe.
    pub fn outcome(&self) -> impl Future<Output = Arc<TurnOutcome>> + Send + use<> {
        let mut outcome = self.outcome.clone();
        async move {
            match outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
                Ok(Some(outcome)) => outcome,
                // The task is gone without a word: only the end of the async runtime does that.
                _ => Arc::new(TurnOutcome::new(EndReason::Interrupted)),
            }
        }
    }

    /// Stops the turn; what came is kept.
    pub fn interrupt(&self) {
        self.session.interrupt("user");
    }

    /// Shows the events from `seq` on before those of the turn, such as the ones that opened the session.
    #[must_use]
    pub fn starting_at(mut self, seq: Seq) -> Self {
        self.next = self.next.min(seq);
        self
    }

    /// Dropping this cursor stops the turn from now on.
    #[must_use]
    pub fn interrupt_on_drop(mut self) -> Self {
        self.interrupt_on_drop = true;
        self
    }

    /// Takes in what is new; false where there is nothing (or where it has to be read from the store first).
    fn take_in(&mut self) -> bool {
        let shared = &self.session.shared;
        // The live text is looked at first: an event that ends a message is accepted only after all of its text is live.
        let live = {
            let live = lock(&shared.live);
            live.message().map(|message| {
                let [text, reasoning] = if self.shown.0 == Some(message) { self.shown.1 } else { [0; 2] };
                let since = |kind, offset| live.since(kind, offset).to_owned();
                (message, since(DeltaKind::Reasoning, reasoning), since(DeltaKind::Text, text))
            })
        };
        let outputs = self.new_outputs();
        let Some(entries) = shared.log.recent(self.next) else {
            self.backfill = Some(Box::pin(read_range(self.session.clone(), self.next)));
            return false;
        };
        let was_finished = |message: Seq| {
            entries.iter().any(|entry| matches!(&entry.event, Event::AssistantMessage(finished) if finished.message == message))
        };
        // A message that was finished between the two looks: its own text says the rest.
        let live = live.filter(|(message, ..)| !was_finished(*message));
        self.take_entries(&entries);
        if let Some((message, reasoning, text)) = live {
            self.take_delta(message, DeltaKind::Reasoning, reasoning);
            self.take_delta(message, DeltaKind::Text, text);
        }
        let is_over = |call: &str| {
            entries.iter().any(|entry| matches!(&entry.event, Event::ToolFinished(finished) if finished.call == call))
        };
        for delta in outputs.into_iter().filter(|delta| !is_over(&delta.call)) {
            self.shown_outputs.insert(delta.call.clone(), delta.offset + delta.text.len() as u64);
            self.queue.push_back(TurnEvent::ToolDelta(delta));
        }
        !self.queue.is_empty()
    }

    /// What running tools put out since it was last looked at, the newest of it.
    fn new_outputs(&self) -> Vec<ToolDelta> {
        /// The most that is taken in of one call at once.
        const DELTA_BYTES: usize = 16 * 1024;
        let outputs = lock(&self.session.shared.outputs).clone();
        let new = outputs.into_iter().map(|(call, output)| {
            let shown = self.shown_outputs.get(&call).copied().unwrap_or(0);
            let (offset, text) = output.since(shown, DELTA_BYTES);
            ToolDelta { call, offset, text }
        });
        new.filter(|delta| !delta.text.is_empty()).collect()
    }

    fn take_entries(&mut self, entries: &[Arc<Entry>]) {
        for entry in entries {
            if let Event::AssistantMessage(message) = &entry.event {
                self.take_rest(message);
            }
            if let Event::ToolFinished(finished) = &entry.event {
                self.shown_outputs.remove(&finished.call);
            }
            self.next = entry.seq + 1;
            self.queue.push_back(TurnEvent::Entry(Arc::clone(entry)));
        }
    }

    /// The text of a finished message that was not shown as it came.
    fn take_rest(&mut self, message: &AssistantMessage) {
        let shown = if self.shown.0 == Some(message.message) { self.shown.1[0] } else { 0 };
        let text = message.text();
        let rest = usize::try_from(shown).ok().and_then(|shown| text.get(shown..)).unwrap_or_default();
        self.take_delta(message.message, DeltaKind::Text, rest.to_owned());
    }

    fn take_delta(&mut self, message: Seq, kind: DeltaKind, text: String) {
        if self.shown.0 != Some(message) {
            self.shown = (Some(message), [0; 2]);
        }
        if text.is_empty() {
            return;
        }
        let place = &mut self.shown.1[usize::from(kind == DeltaKind::Reasoning)];
        let offset = *place;
        *place += text.len() as u64;
        self.queue.push_back(TurnEvent::Delta(Delta { message, kind, offset, text }));
    }
}

/// Reads the events from `from` that are no longer in memory.
async fn read_range(session: Session, from: Seq) -> Result<Vec<Arc<Entry>>, StoreError> {
    /// How many events are taken in at once.
    const CHUNK: usize = 1_024;
    let shared = &session.shared;
    // Events leave memory only once they are written.
    if shared.log.progress().borrow().written <= from {
        shared.log.written(from).await?;
    }
    let mut reader = shared.store.read(shared.log.id(), from).await?;
    let mut entries = Vec::new();
    while entries.len() < CHUNK {
        match reader.next().await? {
            Some(entry) => entries.push(entry),
            None => break,
        }
    }
    Ok(entries)
}

impl Stream for Turn {
    type Item = TurnEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TurnEvent>> {
        let turn = self.get_mut();
        loop {
            // Of a turn that ended a while ago, the log goes on behind its end.
            if turn.ended {
                return Poll::Ready(None);
            }
            if let Some(event) = turn.queue.pop_front() {
                turn.ended |= matches!(&event, TurnEvent::Entry(entry) if matches!(entry.event, Event::TurnEnded(_)));
                return Poll::Ready(Some(event));
            }
            if let Some(backfill) = &mut turn.backfill {
                match backfill.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(entries)) if !entries.is_empty() => {
                        turn.backfill = None;
                        turn.take_entries(&entries);
                        continue;
                    }
                    // What cannot be read is not shown; the outcome still tells how the turn ended.
                    Poll::Ready(_) => return Poll::Ready(None),
                }
            }
            if turn.take_in() || turn.backfill.is_some() {
                continue;
            }
            let is_over = turn.outcome.borrow().is_some();
            match Pin::new(&mut turn.activity).poll_next(context) {
                Poll::Ready(Some(_)) => {}
                // The turn ended before its closing event could be accepted (the store is gone).
                Poll::Pending if is_over => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.interrupt_on_drop && self.outcome.borrow().is_none() {
            self.session.interrupt("dropped");
        }
    }
}
