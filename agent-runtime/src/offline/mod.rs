//! [`OfflineModel`]: a model without a model, so that everything else can be tried and tested on a machine with no key.

mod commands;
mod facts;
mod instance;
mod request;
mod steps;
mod view;

use crate::clocks::Clocks;
use crate::model::{
    Body, Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, head_of, join_json,
    whole_body,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use session_store::{Block, Origin, StopReason, ToolCall, Usage};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::sleep;
use view::View;

/// Between two words, where nobody says otherwise: fast, and still seen to stream.
const WORD_DELAY: Duration = Duration::from_millis(8);
/// What it counts as a token.
const BYTES_PER_TOKEN: u64 = 4;

/// A built-in, deterministic model that needs no key and no network. Its answer is a pure function of the conversation: it
/// understands a few requests by fixed rules, answers them with the session's own tools, and says in its first
/// answer that no language model was asked. It streams word by word.
///
/// It understands (in English, upper or lower case):
///
/// | words | what it does |
/// |---|---|
/// | a first message that is none of the below, `what is in this folder?` | `list`, then `read` of a README, and says what it found |
/// | `list DIR`, `read FILE`, `search TEXT [in DIR]` | that tool, and facts from its result |
/// | `write FILE: TEXT`, `replace OLD with NEW in FILE`, `run COMMAND` | `write`, `edit`, `shell` |
/// | several of these, joined by `then`, `;` or new lines | all in turn, on a todo list |
/// | `plan A; B; C` | puts them on the todo list |
/// | `what did I say first?`, `what did I say last?` | what it sees of the conversation |
///
/// For tests and demonstrations, after `offline:`:
///
/// | command | what it does |
/// |---|---|
/// | `slow N words [M ms]` | N words, one each M milliseconds (50) |
/// | `sleep S s before answering` | answers after S seconds; fractions are allowed |
/// | `repeat TEXT` | answers TEXT |
/// | `think TEXT` | reasons TEXT, then answers |
/// | `shell COMMAND` | calls `shell`, answers with its result |
/// | `call NAME JSON` | calls any tool with these raw arguments |
/// | `parallel reads A B C` | calls `read` for each, in one message |
/// | `steps N` | calls `list` N times, one after another |
/// | `bad-arguments` | calls `read` with arguments that are not JSON |
/// | `fail` | fails for good; `fail server` with an error that may be tried again |
/// | `cut` | the stream ends in the middle |
/// | `hang` | never answers: a clock of the call ends it |
/// | `max-tokens` | stops at its output limit, in the middle |
///
/// Where answers have to fit a JSON Schema, its last answer is made from that, as far as it can; `offline: repeat` says what it is told to.
///
/// It calls only tools that the profile has. The usage that it reports is a quarter of the bytes sent and answered.
#[derive(Clone, Debug)]
pub struct OfflineModel {
    origin: Origin,
    word_delay: Duration,
}

impl Default for OfflineModel {
    fn default() -> Self {
        Self::new()
    }
}

impl OfflineModel {
    /// The offline model, with 8 ms between two words.
    #[must_use]
    pub fn new() -> Self {
        Self::with_word_delay(WORD_DELAY)
    }

    /// With another pause between two words; zero for tests.
    #[must_use]
    pub fn with_word_delay(word_delay: Duration) -> Self {
        let origin = Origin { provider: "offline".into(), model: "offline".into(), ..Origin::default() };
        Self { origin, word_delay }
    }
}

#[async_trait]
impl Model for OfflineModel {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn limits(&self) -> ModelLimits {
        ModelLimits::default()
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
        let conversation: Conversation = serde_json::from_slice(&body.to_bytes()).map_err(|error| {
            ModelFailure::new(FailureKind::BadRequest, format!("the offline model cannot read the request: {error}"))
        })?;
        let view = View::of(&conversation);
        let reply = request::reply(&view);
        if let Ending::Fail(failure) = reply.ending {
            return Err(failure);
        }
        let usage =
            Usage { input_tokens: Some(tokens(body.len())), output_tokens: Some(tokens(reply.bytes())), ..Usage::default() };
        Ok(play(reply.events(self.word_delay, usage, view.calls_so_far), clocks))
    }
}

fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

/// What the model answers.
#[derive(Debug, Default)]
struct Reply {
    /// Before the first word.
    wait: Duration,
    /// Between two words; nothing: as the model was made.
    word_delay: Option<Duration>,
    reasoning: String,
    text: String,
    calls: Vec<Call>,
    /// It stays as it is, whatever answers have to fit.
    is_verbatim: bool,
    ending: Ending,
}

/// A call of a tool, with its arguments as they are sent.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
}

#[derive(Debug, Default)]
enum Ending {
    /// It says that it is done, or that it waits for tools.
    #[default]
    Complete,
    Fail(ModelFailure),
    Cut,
    Hang,
    MaxTokens,
}

impl Reply {
    fn say(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    fn call(text: impl Into<String>, calls: Vec<Call>) -> Self {
        Self { text: text.into(), calls, ..Self::default() }
    }

    fn bytes(&self) -> usize {
        let calls: usize = self.calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
        self.reasoning.len() + self.text.len() + calls
    }

    /// The answer as events, each with the pause before it.
    fn events(self, word_delay: Duration, usage: Usage, calls_so_far: usize) -> VecDeque<Played> {
        let delay = self.word_delay.unwrap_or(word_delay);
        let mut events = VecDeque::from([Played { wait: self.wait, event: None }]);
        let mut push = |wait, event| events.push_back(Played { wait, event: Some(event) });
        if !self.reasoning.is_empty() {
            words(&self.reasoning).for_each(|word| push(delay, ModelEvent::Reasoning(word)));
            push(Duration::ZERO, ModelEvent::Block(Block::Reasoning { text: self.reasoning, opaque: None }));
        }
        words(&self.text).for_each(|word| push(delay, ModelEvent::Text(word)));
        match self.ending {
            Ending::Cut | Ending::Fail(_) => return events,
            Ending::Hang => {
                events.push_back(Played { wait: Duration::MAX, event: None });
                return events;
            }
            Ending::Complete | Ending::MaxTokens => {}
        }
        if !self.text.is_empty() {
            push(Duration::ZERO, ModelEvent::Block(Block::Text { text: self.text }));
        }
        let stop = match self.ending {
            Ending::MaxTokens => StopReason::MaxTokens,
            _ if self.calls.is_empty() => StopReason::EndTurn,
            _ => StopReason::ToolUse,
        };
        for (index, call) in self.calls.into_iter().enumerate() {
            let provider_id = format!("offline_{}", calls_so_far + index);
            push(delay, ModelEvent::ToolArguments);
            let call = ToolCall { id: String::new(), provider_id, name: call.name, arguments: call.arguments };
            push(Duration::ZERO, ModelEvent::Block(Block::ToolCall(call)));
        }
        push(Duration::ZERO, ModelEvent::Usage(usage));
        push(Duration::ZERO, ModelEvent::Done { stop, opaque: None });
        events
    }
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split_inclusive(char::is_whitespace).map(str::to_owned)
}

/// An event and the pause before it; without an event, a pause alone.
struct Played {
    wait: Duration,
    event: Option<ModelEvent>,
}

/// Plays the events in their time. A pause longer than the clock for progress ends as that clock ends a call.
fn play(events: VecDeque<Played>, clocks: &Clocks) -> ModelStream {
    let progress = clocks.progress;
    Box::pin(stream::unfold(events, move |mut events| async move {
        loop {
            let Played { wait, event } = events.pop_front()?;
            if wait > progress {
                sleep(progress).await;
                let detail = format!("the offline model made no progress for {} s", progress.as_secs_f64());
                return Some((Err(ModelFailure::new(FailureKind::ProgressTimeout, detail)), VecDeque::new()));
            }
            if !wait.is_zero() {
                sleep(wait).await;
            }
            if let Some(event) = event {
                return Some((Ok(event), events));
            }
        }
    }))
}
