//! [`ScriptedModel`]: a model that answers from a script, for the tests of those who embed the runtime.
//!
//! ```
//! use agent_runtime::{ScriptedAnswer, ScriptedModel};
//!
//! let model = ScriptedModel::new([
//!     ScriptedAnswer::new().text("I look.").tool_call("list", "{}"),
//!     ScriptedAnswer::new().text("It is empty."),
//! ]);
//! assert_eq!(model.requests().len(), 0);
//! ```

use crate::clocks::Clocks;
use crate::model::{
    Body, Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, head_of, join_json,
    whole_body,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;
use session_store::{Block, Origin, StopReason, ToolCall, Usage};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// A model that gives one scripted answer for each call, in order, and keeps what it was sent. A call past the end of the
/// script fails with [`FailureKind::BadRequest`]; it never panics.
#[derive(Debug)]
pub struct ScriptedModel {
    origin: Origin,
    limits: ModelLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<ScriptedAnswer>,
    requests: Vec<Conversation>,
    calls: usize,
}

impl ScriptedModel {
    /// A model that gives these answers; its origin is `scripted/scripted`.
    pub fn new(answers: impl IntoIterator<Item = ScriptedAnswer>) -> Self {
        let origin = Origin { provider: "scripted".into(), model: "scripted".into(), ..Origin::default() };
        let state = State { answers: answers.into_iter().collect(), ..State::default() };
        Self { origin, limits: ModelLimits::default(), state: Mutex::new(state) }
    }

    /// With another origin.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: ModelLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds an answer to the end of the script.
    pub fn push(&self, answer: ScriptedAnswer) {
        self.state().answers.push_back(answer);
    }

    /// The conversations it was called with, in order, failed calls included.
    #[must_use]
    pub fn requests(&self) -> Vec<Conversation> {
        self.state().requests.clone()
    }

    /// How many answers of the script are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.state().answers.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one push or pop: the state is whole wherever a panic struck.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Model for ScriptedModel {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn limits(&self) -> ModelLimits {
        self.limits
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        whole_body(self, conversation)
    }

    fn head(&self, conversation: &Conversation) -> Option<Vec<u8>> {
        Some(head_of(&conversation.without_messages()))
    }

    fn messages(&self, sent: &[Sent]) -> Body {
        join_json(sent, sent)
    }

    async fn call(&self, body: Body, clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        let conversation = serde_json::from_slice(&body.to_bytes()).map_err(|error| {
            ModelFailure::new(FailureKind::BadRequest, format!("the scripted model cannot read the request: {error}"))
        })?;
        let (answer, call) = {
            let mut state = self.state();
            state.requests.push(conversation);
            state.calls += 1;
            (state.answers.pop_front(), state.calls)
        };
        let answer = answer.ok_or_else(|| ModelFailure::new(FailureKind::BadRequest, "the script has no more answers"))?;
        match answer.head {
            Head::Prompt => {}
            Head::After(wait) => pause(wait, clocks.first_byte, FailureKind::FirstByteTimeout).await?,
            Head::Fail(failure) => return Err(failure),
        }
        Ok(play(answer.body.finish(call), clocks.progress))
    }
}

/// One answer: what is streamed, in order. Unless it is said otherwise it ends as it should: with `tool_use` where a
/// tool was called, else with `end_turn`.
#[derive(Clone, Debug, Default)]
pub struct ScriptedAnswer {
    head: Head,
    body: Beats,
}

#[derive(Clone, Debug, Default)]
enum Head {
    #[default]
    Prompt,
    After(Duration),
    Fail(ModelFailure),
}

#[derive(Clone, Debug, Default)]
struct Beats {
    beats: VecDeque<Beat>,
    /// The text of the block that is being streamed.
    text: String,
    calls: usize,
    /// Whether how it ends was said.
    is_ended: bool,
}

#[derive(Clone, Debug)]
enum Beat {
    Wait(Duration),
    Event(ModelEvent),
    Fail(ModelFailure),
}

impl ScriptedAnswer {
    /// An answer of nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A call that fails before anything is streamed.
    #[must_use]
    pub fn failure(failure: ModelFailure) -> Self {
        Self { head: Head::Fail(failure), ..Self::default() }
    }

    /// Lets the response's head wait; longer than [`Clocks::first_byte`], that clock ends the call. `Duration::MAX` never answers.
    #[must_use]
    pub fn head_after(mut self, wait: Duration) -> Self {
        self.head = Head::After(wait);
        self
    }

    /// Streams a piece of text; pieces that follow each other are one block.
    #[must_use]
    pub fn text(mut self, piece: impl Into<String>) -> Self {
        let piece = piece.into();
        self.body.text.push_str(&piece);
        self.event(ModelEvent::Text(piece))
    }

    /// Waits before what follows; longer than [`Clocks::progress`], that clock ends the call.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.body.beats.push_back(Beat::Wait(wait));
        self
    }

    /// A block of reasoning, with the provider's own block where there is one.
    #[must_use]
    pub fn reasoning(mut self, text: impl Into<String>, opaque: Option<Value>) -> Self {
        let text = text.into();
        self.body.end_text();
        self.event(ModelEvent::Reasoning(text.clone())).event(ModelEvent::Block(Block::Reasoning { text, opaque }))
    }

    /// A call of a tool with raw `arguments`; its provider's id is `scripted_<call of the model>_<index>`.
    #[must_use]
    pub fn tool_call(mut self, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        self.body.end_text();
        self.body.calls += 1;
        let call = ToolCall { name: name.into(), arguments: arguments.into(), ..ToolCall::default() };
        self.event(ModelEvent::ToolArguments).event(ModelEvent::Block(Block::ToolCall(call)))
    }

    /// Tokens used.
    #[must_use]
    pub fn usage(self, usage: Usage) -> Self {
        self.event(ModelEvent::Usage(usage))
    }

    /// Any event, as it is.
    #[must_use]
    pub fn event(mut self, event: ModelEvent) -> Self {
        self.body.beats.push_back(Beat::Event(event));
        self
    }

    /// Ends with this reason and these opaque fields.
    #[must_use]
    pub fn done(mut self, stop: StopReason, opaque: Option<Value>) -> Self {
        self.body.end_text();
        self.body.is_ended = true;
        self.event(ModelEvent::Done { stop, opaque })
    }

    /// Ends without its terminal event, as a broken stream does.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.body.is_ended = true;
        self
    }

    /// Ends with a failure in the middle of the stream.
    #[must_use]
    pub fn fail(mut self, failure: ModelFailure) -> Self {
        self.body.is_ended = true;
        self.body.beats.push_back(Beat::Fail(failure));
        self
    }

    /// Streams nothing more and does not end, until [`Clocks::progress`] ends the call.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.body.is_ended = true;
        self.wait(Duration::MAX)
    }
}

impl Beats {
    /// Closes the block of text, where one is open.
    fn end_text(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.beats.push_back(Beat::Event(ModelEvent::Block(Block::Text { text })));
        }
    }

    /// The beats with a proper end, and with ids for the tool calls.
    fn finish(mut self, model_call: usize) -> VecDeque<Beat> {
        if !self.is_ended {
            self.end_text();
            let stop = if self.calls > 0 { StopReason::ToolUse } else { StopReason::EndTurn };
            self.beats.push_back(Beat::Event(ModelEvent::Done { stop, opaque: None }));
        }
        let calls = self.beats.iter_mut().filter_map(|beat| match beat {
            Beat::Event(ModelEvent::Block(Block::ToolCall(call))) => Some(call),
            _ => None,
        });
        for (index, call) in calls.enumerate().filter(|(_, call)| call.provider_id.is_empty()) {
            call.provider_id = format!("scripted_{model_call}_{index}");
        }
        self.beats
    }
}

/// Plays the beats in their time.
fn play(beats: VecDeque<Beat>, progress: Duration) -> ModelStream {
    Box::pin(stream::unfold(beats, move |mut beats| async move {
        loop {
            let failure = match beats.pop_front()? {
                Beat::Event(event) => return Some((Ok(event), beats)),
                Beat::Fail(failure) => failure,
                Beat::Wait(wait) => match pause(wait, progress, FailureKind::ProgressTimeout).await {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
            };
            return Some((Err(failure), VecDeque::new()));
        }
    }))
}

/// Waits; where that would be longer than the limit, until the limit, and fails with its kind.
async fn pause(wait: Duration, limit: Duration, kind: FailureKind) -> Result<(), ModelFailure> {
    sleep(wait.min(limit)).await;
    if wait > limit {
        return Err(ModelFailure::new(kind, format!("the scripted model was silent for {} s", limit.as_secs_f64())));
    }
    Ok(())
}
