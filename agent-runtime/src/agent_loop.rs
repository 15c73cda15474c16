//! The loop of a turn.
//!
//! ```text
//! user message -> durable -> fit context -> project -> call model (stream) -> append as it comes
//!              -> tool calls? -> approved, started (durable) -> run (parallel where read-only) -> results -> again
//!              -> done | interrupted | limit | error: always a closing event, and exactly one result per tool call
//! ```
//!
//! Each wait in here is a [`TurnTask::guard`]: it ends at once when the turn is interrupted or its store fails. What was received until
//! then is in the log. `answer.rs` asks the model, `tool_calls.rs` runs tools, `context.rs` fits the window.

use crate::context::{TokenCounter, plan_trim, trim_event};
use crate::interrupt::Interrupt;
use crate::model::ModelFailure;
use crate::output_schema;
use crate::projection::with_output;
use crate::session::{SendError, Shared, lock};
use crate::summary;
use crate::turn::{Denial, EndReason, TurnError, TurnOutcome};
use futures_util::FutureExt;
use serde_json::Value;
use session_store::{
    AppendError, AssistantMessage, Entry, Error, Event, Interrupted, Message, Note, Seq, SessionLog, SessionStore, State,
    StopReason, StoreError, Timestamp, ToolFinished, ToolOutcome, TurnEnded, Usage, UserKind,
};
use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// So long after the interrupt the end of a turn is reported, also where the disk does not have it yet.
const INTERRUPT_GRACE: Duration = Duration::from_millis(5);
/// How often an answer whose tool calls were cut at the length limit is followed by another.
const CUT_CALLS_MAX: u32 = 2;

/// A turn while it runs.
pub(crate) struct TurnTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) interrupt: Interrupt,
    by: Arc<Mutex<Option<String>>>,
    /// The event that opened the turn.
    first: Seq,
    /// No model is asked before this time.
    not_before: Option<Timestamp>,
    /// When the model that failed last wants to be asked again.
    pub(crate) retry_at: Option<Timestamp>,
    started: Instant,
    pub(crate) model_calls: u64,
    pub(crate) usage: Usage,
    pub(crate) denials: Vec<Denial>,
    /// How often the same call (name and arguments) was denied.
    pub(crate) denied: HashMap<(String, String), u32>,
    /// Text of this answer that came before its stream broke; what is asked for next continues it.
    pub(crate) before_seam: String,
    text: String,
    /// The last answer that called no tools.
    answered: Option<Seq>,
}

/// Why a turn cannot go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It ends for a reason that is no failure.
    End(EndReason),
    /// It ends because something failed.
    Failed(TurnError),
}

impl From<AppendError> for Stop {
    fn from(error: AppendError) -> Self {
        Self::Failed(TurnError::Store(error.to_string()))
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(TurnError::Store(error.to_string()))
    }
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        Self::Failed(TurnError::Store(error.to_string()))
    }
}

impl From<ModelFailure> for Stop {
    fn from(failure: ModelFailure) -> Self {
        Self::Failed(TurnError::Model(failure))
    }
}

impl TurnTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        interrupt: Interrupt,
        by: Arc<Mutex<Option<String>>>,
        first: Seq,
        not_before: Option<Timestamp>,
    ) -> Self {
        shared.begin_with_first_model();
        Self {
            shared,
            interrupt,
            by,
            first,
            not_before,
            retry_at: None,
            started: Instant::now(),
            model_calls: 0,
            usage: Usage::default(),
            denials: Vec::new(),
            denied: HashMap::new(),
            before_seam: String::new(),
            text: String::new(),
            answered: None,
        }
    }

    /// Runs the turn to its end, whatever happens, and reports how it ended.
    pub(crate) async fn run(self, report: watch::Sender<Option<Arc<TurnOutcome>>>) {
        let shared = Arc::clone(&self.shared);
        let mut task = self;
        let first = task.first;
        // A panic anywhere in the turn becomes the turn's outcome; each lock and the log are whole after it.
        let outcome = match AssertUnwindSafe(task.run_to_end()).catch_unwind().await {
            Ok(outcome) => outcome,
            Err(panic) => end_after_panic(&shared, first, &*panic),
        };
        drop(task);
        // Where the log does not take it, it is tried again before the next turn.
        let _ = shared.put_missed_back();
        shared.resting.rest(&shared);
        report.send_replace(Some(Arc::new(outcome)));
        shared.bump();
    }

    /// Runs the turn to its end, in the task of the caller.
    pub(crate) async fn run_to_end(&mut self) -> TurnOutcome {
        loop {
            let stop = self.stop().await;
            // A message that came in at the last moment wants an answer too.
            if let Some(outcome) = self.end(stop).await {
                return outcome;
            }
        }
    }

    async fn stop(&mut self) -> Stop {
        match self.steps().await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    /// The loop itself; it is left by a [`Stop`] only.
    async fn steps(&mut self) -> Result<std::convert::Infallible, Stop> {
        let shared = Arc::clone(&self.shared);
        let model = Arc::clone(&lock(&self.shared.setup).model);
        // Whatever the client needs before its first call is built while the message becomes durable.
        let (durable, ()) = self.guard(async { tokio::join!(shared.log.durable(self.first), model.warm()) }).await?;
        durable?;
        if let Some(until) = self.not_before {
            self.wait_until(until).await?;
        }
        let limit = lock(&self.shared.setup).max_model_calls;
        let mut cut_calls = 0;
        let mut was_misfit = false;
        loop {
            if limit.is_some_and(|limit| self.model_calls >= limit) {
                return Err(Stop::End(EndReason::MaxTurns));
            }
            if self.guard(shared.is_spent()).await?? {
                return Err(Stop::End(EndReason::Budget));
            }
            let (answered, message) = self.ask().await?;
            let calls: Vec<_> = message.tool_calls().cloned().collect();
            self.remember_text(&message, calls.is_empty());
            match &message.stop {
                StopReason::Refusal => return Err(Stop::End(EndReason::Refusal)),
                StopReason::MaxTokens => {
                    self.not_run(&calls, "Not run: the answer was cut at its length limit.")?;
                    cut_calls += 1;
                    if calls.is_empty() || cut_calls > CUT_CALLS_MAX {
                        return Err(Stop::End(EndReason::MaxTokens));
                    }
                }
                _ if calls.is_empty() => {
                    if let Some((schema, why)) = self.misfit() {
                        if std::mem::replace(&mut was_misfit, true) {
                            return Err(Stop::Failed(TurnError::Misfit(why)));
                        }
                        self.append(Note { text: output_schema::ask_again(&schema, &why) }).await?;
                        continue;
                    }
                    self.answered = Some(answered);
                    return Err(Stop::End(EndReason::Done));
                }
                _ => self.run_tools(&calls).await?,
            }
        }
    }

    /// The output of `wait`; ends at once where the turn is interrupted or the store is in trouble.
    pub(crate) async fn guard<T>(&self, wait: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.interrupt.raised() => Err(Stop::End(EndReason::Interrupted)),
            why = self.trouble() => Err(Stop::Failed(TurnError::Store(why))),
            output = wait => Ok(output),
        }
    }

    /// The schema that the answer has to fit, and what is wrong with it.
    fn misfit(&self) -> Option<(Value, String)> {
        let schema = self.shared.state().profile.as_ref()?.parameters.output_schema.clone()?;
        let why = output_schema::misfit(&schema, &self.text)?;
        Some((schema, why))
    }

    /// Waits until a time of the wall clock.
    pub(crate) async fn wait_until(&self, until: Timestamp) -> Result<(), Stop> {
        /// A machine that sleeps, or a clock that is set, does not show in a timer that was set before.
        const LOOK: Duration = Duration::from_secs(1);
        let clock = Arc::clone(&lock(&self.shared.setup).clock);
        loop {
            let left = u64::try_from(until.as_ms() - clock.now().as_ms()).unwrap_or(0);
            if left == 0 {
                return Ok(());
            }
            self.guard(tokio::time::sleep(Duration::from_millis(left).min(LOOK))).await?;
        }
    }

    /// Returns once the store is in trouble: why.
    pub(crate) async fn trouble(&self) -> String {
        match self.shared.log.progress().wait_for(|progress| progress.trouble.is_some()).await {
            Ok(progress) => progress.trouble.as_ref().map(ToString::to_string).unwrap_or_default(),
            Err(_) => "the session store is gone".to_owned(),
        }
    }

    /// Accepts an event, waiting for room where the log is at its bound.
    pub(crate) async fn append(&self, event: impl Into<Event>) -> Result<Arc<Entry>, Stop> {
        let event = event.into();
        self.append_with(|log| log.append(event.clone())).await
    }

    /// Accepts what `append` appends, waiting for room where the log is at its bound.
    pub(crate) async fn append_with(
        &self,
        append: impl Fn(&dyn SessionLog) -> Result<Arc<Entry>, AppendError>,
    ) -> Result<Arc<Entry>, Stop> {
        loop {
            match self.shared.append_with(&append) {
                Err(AppendError::Full { needed, .. }) => self.guard(self.shared.log.reserve(needed)).await??,
                accepted => return Ok(accepted?),
            }
        }
    }

    /// Gives each of `calls` its one result without running it.
    pub(crate) fn not_run(&self, calls: &[session_store::ToolCall], why: &str) -> Result<(), Stop> {
        for call in calls {
            self.finish_call(call, ToolOutcome::NotRun, why)?;
        }
        Ok(())
    }

    pub(crate) fn finish_call(&self, call: &session_store::ToolCall, outcome: ToolOutcome, output: &str) -> Result<(), Stop> {
        self.shared.append(without_run(call, outcome, output))?;
        Ok(())
    }

    fn remember_text(&mut self, message: &AssistantMessage, is_last: bool) {
        let before = std::mem::take(&mut self.before_seam);
        let text = before + &message.text();
        if is_last || !text.is_empty() {
            self.text = text;
        }
    }

    /// The closing events, durable before the end is reported. Nothing where the turn has to go on.
    async fn end(&mut self, stop: Stop) -> Option<TurnOutcome> {
        let (reason, error) = match stop {
            Stop::End(reason) => (reason, None),
            Stop::Failed(TurnError::Model(failure)) if failure.kind.is_timeout() => {
                (EndReason::Timeout, Some(TurnError::Model(failure)))
            }
            Stop::Failed(error) => (EndReason::Error, Some(error)),
        };
        lock(&self.shared.live).end();
        if reason == EndReason::Interrupted {
            let by = lock(&self.by).clone().unwrap_or_else(|| "user".to_owned());
            let _ = self.shared.append(Interrupted { by });
        }
        answer_open_calls(&self.shared, self.first);
        let cut = std::mem::take(&mut self.before_seam);
        if !cut.is_empty() {
            self.text = cut;
        }
        let mut outcome = TurnOutcome {
            reason,
            retry_at: self.retry_at.filter(|_| matches!(error, Some(TurnError::Model(_)))),
            error,
            text: self.text.clone(),
            model_calls: self.model_calls,
            usage: self.usage,
            denials: self.denials.clone(),
            duration: self.started.elapsed(),
        };
        let answered = self.answered.filter(|_| reason == EndReason::Done);
        let ended = self.shared.append_if(|state| {
            let is_over = answered.is_none_or(|answered| !was_steered_since(state, answered));
            is_over.then(|| turn_ended(&outcome).into())
        });
        let stored = match ended {
            Ok(Some(entry)) => self.commit_end(entry.seq, reason).await,
            Ok(None) => return None,
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = stored
            && !matches!(outcome.error, Some(TurnError::Store(_)))
        {
            outcome.reason = EndReason::Error;
            outcome.error = Some(TurnError::Store(why));
        }
        Some(outcome)
    }

    async fn commit_end(&self, seq: Seq, reason: EndReason) -> Result<(), String> {
        let mut progress = self.shared.log.progress();
        if reason == EndReason::Interrupted || self.interrupt.is_raised() {
            // Whoever stopped the turn gets control back now; the commit goes on without them.
            self.shared.log.start_commit(seq);
            let until = self.interrupt.raised_at().unwrap_or_else(Instant::now) + INTERRUPT_GRACE;
            let _ = tokio::time::timeout_at(until, self.shared.log.durable(seq)).await;
            return Ok(());
        }
        tokio::select! {
            biased;
            stored = self.shared.log.durable(seq) => stored.map_err(|error| error.to_string()),
            trouble = progress.wait_for(|progress| progress.trouble.is_some()) => {
                Err(trouble.ok().and_then(|progress| progress.trouble.as_ref().map(ToString::to_string)).unwrap_or_default())
            }
            () = self.interrupt.raised() => Ok(()),
        }
    }
}

/// Every call of the turn that began at `first` gets its one result, also where the turn ended before it. What a model was told of an earlier
/// call stays as it is.
fn answer_open_calls(shared: &Shared, first: Seq) {
    let open: Vec<(session_store::ToolCall, Option<String>)> = {
        let state = shared.state();
        let is_answer = |slot: &&session_store::Slot| matches!(slot.message.as_deref(), Some(Message::Assistant(_)));
        let last = state.context.iter().rev().find(is_answer).filter(|slot| slot.seq > first);
        let Some(Message::Assistant(answer)) = last.and_then(|slot| slot.message.as_deref()) else { return };
        let is_open = |call: &session_store::ToolCall| {
            let known = state.unresolved.get(&call.id).filter(|known| !known.settled)?;
            Some((call.clone(), known.started.map(|_| known.output.clone())))
        };
        answer.tool_calls().filter_map(is_open).collect()
    };
    for (call, output) in open {
        let (outcome, output) = match output {
            Some(output) => {
                (ToolOutcome::Interrupted, with_output("Stopped while it ran; it may have had some effect.", &output))
            }
            None => (ToolOutcome::NotRun, "Not run: the turn ended before this call was started.".to_owned()),
        };
        let _ = shared.append(without_run(&call, outcome, &output));
    }
}

/// The result of a call that no tool gave.
fn without_run(call: &session_store::ToolCall, outcome: ToolOutcome, output: &str) -> ToolFinished {
    let (call, name, output) = (call.id.clone(), call.name.clone(), output.to_owned());
    ToolFinished { call, name, outcome, output, full: None, images: Vec::new(), duration_ms: 0 }
}

/// Whether a message came in after the answer at `answered` was asked for.
fn was_steered_since(state: &State, answered: Seq) -> bool {
    let Some(place) = state.context.iter().rposition(|slot| slot.seq == answered) else { return false };
    let is_steer = |message: &Message| matches!(message, Message::User { kind: UserKind::Steer, .. });
    state.context[place..].iter().any(|slot| slot.message.as_deref().is_some_and(is_steer))
}

fn turn_ended(outcome: &TurnOutcome) -> TurnEnded {
    TurnEnded {
        reason: outcome.reason.as_str().to_owned(),
        error: outcome.error.as_ref().map(ToString::to_string),
        model_calls: outcome.model_calls,
        usage: outcome.usage,
        duration_ms: u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
    }
}

fn end_after_panic(shared: &Shared, first: Seq, panic: &(dyn Any + Send)) -> TurnOutcome {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = format!("the turn ended by a defect in the runtime: {}", words.unwrap_or("it panicked without a word"));
    tracing::error!(session = %shared.log.id(), "{message}");
    lock(&shared.live).end();
    let _ = shared.append(Error { scope: "runtime".to_owned(), message: message.clone() });
    answer_open_calls(shared, first);
    let outcome = TurnOutcome { error: Some(TurnError::Panic(message)), ..TurnOutcome::new(EndReason::Error) };
    let _ = shared.append(turn_ended(&outcome));
    outcome
}

/// About how many tokens the next request takes.
pub(crate) async fn estimate(shared: &Arc<Shared>) -> u64 {
    let factor = shared.model().limits().token_factor;
    count(shared, |state, counter| {
        let profile = state.profile.clone().unwrap_or_else(|| Arc::new(empty_profile()));
        counter.estimate(state, &profile, factor)
    })
    .await
}

/// Trims the context down to `target` tokens, or as far as it goes; how many messages left, or nothing where none could.
pub(crate) async fn trim(shared: &Arc<Shared>, target: u64, reason: &str) -> Result<Option<usize>, SendError> {
    loop {
        let before = estimate(shared).await;
        let factor = shared.model().limits().token_factor;
        let planned = count(shared, |state, counter| {
            let summary = state.summary.as_deref().filter(|summary| summary.text.is_some());
            let covered = summary.map_or(&[][..], |summary| &summary.covers);
            let trim = plan_trim(state, counter, factor, before, target, covered)?;
            Some((trim_event(&trim, summary, &state.todos, reason, before), trim.messages))
        });
        let Some((event, messages)) = planned.await else { return Ok(None) };
        match shared.append(event) {
            Ok(_) => {
                // One that is still being made would come too late.
                summary::call_off(shared);
                return Ok(Some(messages));
            }
            // What came in while there was no room may change what leaves.
            Err(AppendError::Full { needed, .. }) => shared.log.reserve(needed).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// What `look` makes of the state and its counter, once all of what it reads was counted. What is new since the last look is
/// counted first, on a thread that may block; for all else no message is touched, copied or counted.
pub(crate) async fn count<T>(shared: &Shared, look: impl FnOnce(&State, &mut TokenCounter) -> T) -> T {
    loop {
        let uncounted = {
            let state = shared.state();
            let mut counter = lock(&shared.counter);
            match counter.uncounted(&state) {
                Some(uncounted) => uncounted,
                None => return look(&state, &mut counter),
            }
        };
        // An error would be a panic in counting, which catches its own; then the look counts for itself.
        match tokio::task::spawn_blocking(move || uncounted.count()).await {
            Ok(counted) => lock(&shared.counter).learn(counted),
            Err(_) => return look(&shared.state(), &mut lock(&shared.counter)),
        }
    }
}

fn empty_profile() -> session_store::Profile {
    session_store::Profile {
        hash: String::new(),
        model: String::new(),
        system: String::new(),
        tools: Vec::new(),
        parameters: session_store::Parameters::default(),
        projection: crate::projection::PROJECTION_VERSION,
    }
}

/// Reads the bodies of context messages that a restore brought back, where they are missing.
pub(crate) async fn hydrate(store: &Arc<dyn SessionStore>, shared: &Shared) -> Result<(), Stop> {
    let missing = {
        let state = shared.state();
        // What could not be read once is not looked for again with each request: the projection does without it.
        if lock(&shared.hydrated_for).replace(state.rewrites()) == Some(state.rewrites()) {
            return Ok(());
        }
        state.missing()
    };
    let (Some(&first), Some(&last)) = (missing.first(), missing.last()) else { return Ok(()) };
    let mut reader = store.read(shared.log.id(), first).await?;
    while let Some(entry) = reader.next().await? {
        // An answer that a crash cut is missing by its request, and goes on until the next event that ends it.
        if entry.seq > last && entry.event.ends_answer() {
            break;
        }
        shared.state().hydrate(&entry);
    }
    *lock(&shared.hydrated_for) = Some(shared.state().rewrites());
    Ok(())
}
