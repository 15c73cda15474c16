//! A model that answers at once, and sessions with long histories of it.

use agent_runtime::session_store::{
    AssistantMessage, Block, Event, ModelRequest, NewSession, Origin, Profile, Seq, StopReason, TurnEnded, Usage, UserMessage,
};
use agent_runtime::{
    BODY_END, Body, Clocks, Conversation, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Runtime, Sent, Session,
    Setup, tools, whole_body,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

/// What it answers.
pub(crate) const ANSWER: &str = "The tide turns twice a day, and nobody has asked it why.";
/// How long a message of an earlier turn is, in bytes.
pub(crate) const MESSAGE_BYTES: usize = 200;

/// Its requests cost what those of a provider do: one pass over the conversation, and they are written as theirs are.
#[derive(Debug)]
pub(crate) struct AtOnce {
    origin: Origin,
    limits: ModelLimits,
}

impl AtOnce {
    /// With a context that has room for `context_window` tokens.
    pub(crate) fn new(context_window: u64) -> Self {
        Self { origin: origin(), limits: ModelLimits { context_window, ..ModelLimits::default() } }
    }
}

/// A body before its messages are in it.
#[derive(Serialize)]
struct Head<'a> {
    profile: &'a Profile,
    max_output_tokens: u64,
    messages: [(); 0],
}

#[async_trait]
impl Model for AtOnce {
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
        let head = Head { profile: &conversation.profile, max_output_tokens: conversation.max_output_tokens, messages: [] };
        let head = serde_json::to_vec(&head).expect("a profile has a JSON form");
        Some(head.strip_suffix(BODY_END).expect("the messages come last").to_vec())
    }

    fn messages(&self, sent: &[Sent]) -> Body {
        let messages = serde_json::to_vec(sent).expect("messages have a JSON form");
        messages[1..messages.len() - 1].to_vec().into()
    }

    async fn call(&self, body: Body, _: &Clocks) -> Result<ModelStream, ModelFailure> {
        black_box(body);
        let text = ANSWER.to_owned();
        let events = [
            ModelEvent::Text(text.clone()),
            ModelEvent::Block(Block::Text { text }),
            ModelEvent::Done { stop: StopReason::EndTurn, opaque: None },
        ];
        Ok(Box::pin(tokio_stream::iter(events.map(Ok))))
    }
}

/// Who [`AtOnce`] is.
pub(crate) fn origin() -> Origin {
    Origin { provider: "bench".to_owned(), model: "at-once".to_owned(), ..Origin::default() }
}

/// With the built-in tools and a system prompt of some length.
pub(crate) fn setup(model: Arc<dyn Model>, cwd: &Path) -> Setup {
    let mut setup = Setup::new(model, cwd);
    setup.tools = tools::builtin();
    setup.system = Some(ANSWER.repeat(100));
    setup
}

/// A session with `messages` messages of earlier turns in its context.
pub(crate) async fn session(runtime: &Runtime, setup: Setup, messages: usize) -> Result<Session, Box<dyn std::error::Error>> {
    let opened = runtime.store().create(NewSession::default()).await?;
    for event in earlier_turns(messages, opened.state.next_seq) {
        while opened.log.append(event.clone()).is_err() {
            opened.log.reserve(1 << 20).await?;
        }
    }
    opened.log.close().await?;
    let session = runtime.resume(opened.log.id(), setup).await?;
    assert_eq!(session.state(|state| state.context.len()), messages, "the history is in the context");
    Ok(session)
}

/// The words of a message, different for each `number`.
pub(crate) fn words(number: usize) -> String {
    let start = format!("{number}: ");
    let rest = ANSWER.chars().cycle().take(MESSAGE_BYTES - start.len());
    start.chars().chain(rest).collect()
}

/// The events of turns that make up `messages` messages, half of them a person's and half of them a model's, the first with the `seq` `first`.
pub(crate) fn earlier_turns(messages: usize, first: Seq) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for turn in 0..messages / 2 {
        let message = first + events.len() as u64 + 1;
        let text = words(turn);
        let request = ModelRequest { origin: origin(), ..ModelRequest::default() };
        let answer = AssistantMessage {
            message,
            origin: origin(),
            blocks: vec![Block::Text { text: text.clone() }],
            stop: StopReason::EndTurn,
            partial: false,
            usage: None,
            opaque: None,
        };
        let ended = TurnEnded { reason: "done".to_owned(), error: None, model_calls: 1, usage: Usage::default(), duration_ms: 1 };
        events.extend([UserMessage { text, ..UserMessage::default() }.into(), request.into(), answer.into(), ended.into()]);
    }
    events
}
