//! Summaries: what messages said that leave the context window, in the words of a model.
//!
//! A summary is asked for before it is needed: once the next request takes three quarters of its room, a task of the session asks for
//! what all but the newest quarter said, while the turn goes on. The answer waits in the state until a trim takes these messages out, and then
//! stands in the trim's note. So nobody waits for it, and what was sent stays as it was sent until the trim changes it anyway. A
//! trim that comes first, or an answer that fails, leaves the plain note.
//!
//! ```text
//! context.summarizing   the request: the conversation as it stands, and a last message that asks for the summary
//! context.summarized    its answer, or why there is none
//! context.trimmed       its note has the summary
//! ```
//!
//! The request begins with the bytes of the request before it, so that a provider's cache has most of it. It is built from the log alone, like
//! every request.

use crate::agent_loop::{count, estimate, hydrate};
use crate::answer::LEARNED_MAX;
use crate::context::{TokenCounter, plan_trim, tokens_at_most};
use crate::images::Images;
use crate::interrupt::Interrupt;
use crate::model::{Body, Conversation, FailureKind, Model, ModelEvent, ModelFailure};
use crate::projection::project_asking;
use crate::retry::{Retry, RetryDecision};
use crate::session::{Session, Shared, lock};
use futures_util::StreamExt;
use session_store::{
    AppendError, ContextSummarized, ContextSummarizing, ModelRequest, Origin, Profile, Seq, State, StopReason, Usage, sha256_hex,
};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How the message begins that asks for a summary.
pub(crate) const ASK_START: &str = "[This is a request of the program";
const ASK: &str = "[This is a request of the program that runs this conversation, not of the user. The conversation gets too long: most of what is above will \
be left out of it, and your answer to this message stands in its place. Write down what somebody needs who goes on with the work and sees nothing of it but your answer: what \
the user wants and has decided, in their own words where they matter; what was done and found, with the names of files, functions and commands; what failed and why; what is \
open, and what was to be done next. Leave out what is finished and of no further use. Call no tool, address nobody, and answer with that text alone, in 800 words at most.";

/// The message that asks for a summary; `keep` is what somebody wants to be in it.
fn ask(keep: Option<&str>) -> String {
    match keep {
        Some(keep) => format!("{ASK} The user wants this to be kept above all: {keep}]"),
        None => format!("{ASK}]"),
    }
}

/// What a model is sent that is asked for a summary of `state`.
pub(crate) fn asking(
    state: &State,
    profile: &Profile,
    target: &Origin,
    max_output_tokens: u64,
    keep: Option<&str>,
) -> Conversation {
    // A summary is no answer: it is free of the schema that answers have to fit.
    let mut profile = profile.clone();
    profile.parameters.output_schema = None;
    project_asking(state, &Arc::new(profile), &Images::default(), target, max_output_tokens, &ask(keep))
}

/// The summary that a session is making in the background, or made last.
#[derive(Default)]
pub(crate) struct Summarizer {
    /// The value of [`State::rewrites`] for which one was asked for: once is enough, until a trim.
    asked_for: Option<u64>,
    /// Why there is none of the one that was asked for last, until somebody was told.
    failed: Option<String>,
    running: Option<Running>,
}

struct Running {
    interrupt: Interrupt,
    task: JoinHandle<()>,
}

/// Asks for a summary in the background, where that is wanted and the request that was just built, of so many tokens at most, takes three quarters of its room.
pub(crate) fn consider(shared: &Arc<Shared>, tokens_max: u64) {
    let mark = shared.budget().input / 4 * 3;
    let is_small = move |tokens: u64| tokens <= mark;
    if !lock(&shared.setup).summarize || is_small(tokens_max) {
        return;
    }
    let rewrites = {
        let state = shared.state();
        if state.summary.is_some() || tokens_at_most(&state).is_some_and(is_small) {
            return;
        }
        state.rewrites()
    };
    let mut summarizer = lock(&shared.summarizer);
    let runs = summarizer.running.as_ref().is_some_and(|running| !running.task.is_finished());
    if runs || summarizer.asked_for == Some(rewrites) {
        return;
    }
    let interrupt = Interrupt::new();
    let (of, stop) = (Arc::clone(shared), interrupt.clone());
    let task = tokio::spawn(async move {
        if is_small(estimate(&of).await) {
            return;
        }
        lock(&of.summarizer).asked_for = Some(rewrites);
        let leave = of.budget().input / 4;
        if let Err(why) = make(&of, &stop, None, leave).await {
            tracing::warn!(session = %of.log.id(), "no summary: {why}");
            if !stop.is_raised() {
                lock(&of.summarizer).failed = Some(why);
                of.bump();
            }
        }
    });
    summarizer.running = Some(Running { interrupt, task });
}

impl Session {
    /// Waits until a summary that was asked for in the background ([`Setup::summarize`](crate::Setup::summarize)) could not be made, during a turn or between two: why. Of several,
    /// the last; each is told to one who waits. One that was called off is no failure. Cancel-safe; of a session that is closed it never returns.
    pub async fn summary_failed(&self) -> String {
        let mut activity = self.shared.activity.subscribe();
        loop {
            if let Some(why) = lock(&self.shared.summarizer).failed.take() {
                return why;
            }
            // Never an error: this session has the other end.
            let _ = activity.changed().await;
        }
    }
}

/// Calls off the summary that is being made in the background, if one is; its task ends at once.
pub(crate) fn call_off(shared: &Shared) -> Option<JoinHandle<()>> {
    let running = lock(&shared.summarizer).running.take()?;
    running.interrupt.raise();
    Some(running.task)
}

/// Makes a summary of all that a trim to `leave` tokens takes out of the context; false where nothing would leave. It is in the state then.
pub(crate) async fn make(shared: &Arc<Shared>, interrupt: &Interrupt, keep: Option<String>, leave: u64) -> Result<bool, String> {
    let prepare = async {
        if shared.is_spent().await.map_err(|error| error.to_string())? {
            return Err("the session has used up its budget".to_owned());
        }
        hydrate(&shared.store, shared).await.map_err(|_| "what it is about cannot be read".to_owned())
    };
    unless_called_off(interrupt, prepare).await??;
    let model = shared.model();
    for _ in 0..=LEARNED_MAX {
        let built = unless_called_off(interrupt, request(shared, &model, keep.as_deref(), leave)).await??;
        let Some((request, body)) = built else { return Ok(false) };
        let answer = unless_called_off(interrupt, answer(shared, &*model, body, request)).await;
        let called_off = |why| Err(Failed { why, ..Failed::default() });
        let answer = answer.unwrap_or_else(called_off).and_then(|answer| check(shared, answer));
        let (text, usage, failed) = match answer {
            Ok((text, usage)) => (text, usage, None),
            Err(Failed { is_learned: true, .. }) => continue,
            Err(failed) => (String::new(), failed.usage, Some(failed.why)),
        };
        let origin = model.origin().clone();
        let event = ContextSummarized { request, origin, text, usage, error: failed.clone() };
        shared.append(event).map_err(|error| error.to_string())?;
        return failed.map_or(Ok(true), Err);
    }
    Err("the endpoint refuses one parameter after the other".to_owned())
}

/// Waits until the summary is called off.
async fn unless_called_off<T>(interrupt: &Interrupt, wait: impl Future<Output = T>) -> Result<T, String> {
    tokio::select! {
        biased;
        () = interrupt.raised() => Err("it was called off".to_owned()),
        done = wait => Ok(done),
    }
}

/// Why there is no summary.
#[derive(Default)]
struct Failed {
    why: String,
    usage: Option<Usage>,
    is_learned: bool,
}

/// Builds the request and logs it; nothing where nothing would leave the context.
async fn request(
    shared: &Arc<Shared>,
    model: &Arc<dyn Model>,
    keep: Option<&str>,
    leave: u64,
) -> Result<Option<(Seq, Body)>, String> {
    loop {
        let (now, factor) = (estimate(shared).await, model.limits().token_factor);
        let plan = |state: &State, counter: &mut TokenCounter| {
            Some((plan_trim(state, counter, factor, now, leave, &[])?.removed, state.clone()))
        };
        let planned = count(shared, plan).await;
        let Some((covers, state)) = planned else { return Ok(None) };
        let (limits, built_for) = (shared.request_limits(), context_of(&state));
        let Some(profile) = state.profile.clone() else { return Ok(None) };
        let (builder, words) = (Arc::clone(model), keep.map(str::to_owned));
        let build = move || {
            let origin = builder.origin();
            let body = builder.body(&asking(&state, &profile, origin, limits.max_output_tokens, words.as_deref()));
            let sha256 = sha256_hex(&body);
            (body, sha256, state.context_ranges(), profile.hash.clone())
        };
        let built = tokio::task::spawn_blocking(build).await.map_err(|panic| panic.to_string())?;
        let (body, body_sha256, context, profile) = built;
        let request = ModelRequest {
            origin: model.origin().clone(),
            profile,
            context,
            body_sha256,
            body_bytes: body.len() as u64,
            limits: Some(limits),
            learned: model.learned(),
        };
        let event = ContextSummarizing { request, covers, keep: keep.map(str::to_owned) };
        match shared.append_if(|state| (context_of(state) == built_for).then(|| event.into())) {
            Ok(Some(entry)) => return Ok(Some((entry.seq, body.into()))),
            Ok(None) => {}
            Err(AppendError::Full { needed, .. }) => shared.log.reserve(needed).await.map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// What a request is built from: while it stays the same, so does the request.
fn context_of(state: &State) -> (u64, usize, Option<String>) {
    (state.rewrites(), state.context.len(), state.profile.as_ref().map(|profile| profile.hash.clone()))
}

/// Sends the request, again where that may help, and takes the answer in.
async fn answer(
    shared: &Shared,
    model: &dyn Model,
    body: Body,
    request: Seq,
) -> Result<(String, StopReason, Option<Usage>), Failed> {
    let (policy, clocks) = {
        let setup = lock(&shared.setup);
        (setup.retry, setup.clocks)
    };
    shared.log.start_commit(request);
    let mut retry = Retry::new(policy);
    loop {
        let mut usage = None;
        let failure = match shared.breakers.admit(model.origin(), Instant::now()) {
            Err(refusal) => refusal,
            Ok(mut admitted) => match stream(model, body.clone(), &clocks, &mut usage, || admitted.answered()).await {
                Ok((text, stop)) => return Ok((text, stop, usage)),
                // Nobody waits for a summary, so that its failures are no reason to leave the endpoint alone.
                Err(failure) => failure,
            },
        };
        let is_learned = failure.kind == FailureKind::Learned;
        match retry.next(&failure) {
            RetryDecision::After(pause) => tokio::time::sleep(pause).await,
            _ => return Err(Failed { why: failure.detail, usage, is_learned }),
        }
    }
}

async fn stream(
    model: &dyn Model,
    body: Body,
    clocks: &crate::clocks::Clocks,
    usage: &mut Option<Usage>,
    mut answered: impl FnMut(),
) -> Result<(String, StopReason), ModelFailure> {
    let mut stream = model.call(body, clocks).await?;
    let mut text = String::new();
    while let Some(event) = stream.next().await {
        let event = event?;
        answered();
        match event {
            ModelEvent::Text(piece) => text.push_str(&piece),
            ModelEvent::Usage(used) => *usage = Some(used),
            ModelEvent::Done { stop, .. } => return Ok((text, stop)),
            _ => {}
        }
    }
    Err(ModelFailure::new(FailureKind::Reset, "the answer broke off before its end"))
}

/// The summary, where the answer is one.
fn check(shared: &Shared, (text, stop, usage): (String, StopReason, Option<Usage>)) -> Result<(String, Option<Usage>), Failed> {
    let text = text.trim().to_owned();
    // An eighth of the room, at four bytes a token; it is to make room.
    let most = shared.budget().input / 2;
    let why = match stop {
        StopReason::MaxTokens => "it was cut at its length limit",
        StopReason::Refusal => "the model refused",
        _ if text.is_empty() => "the model gave none",
        _ if text.len() as u64 > most => "it is too long",
        _ => return Ok((text, usage)),
    };
    Err(Failed { why: why.to_owned(), usage, is_learned: false })
}
