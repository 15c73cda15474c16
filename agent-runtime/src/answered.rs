//! What became of a message that was sent with a key: its answer, read again from the log.
//!
//! A message with a key is answered once. Whoever sends it again gets the answer of the first time: the same text, the same end, the same
//! usage, from the events of the turn that answered it.

use crate::runtime::origin_name;
use crate::turn::{Denial, EndReason, TurnOutcome};
use session_store::{Entry, Event, KeyedMessage, Seq, SessionId, SessionStore, StoreError, TurnEnded, UserMessage};
use std::collections::HashMap;
use std::time::Duration;

/// A message with its answer.
pub(crate) struct Answered {
    /// The message, as it is in the log.
    pub(crate) message: UserMessage,
    /// The first event of the turn that answered it: the message itself, unless a turn before that one was cut.
    pub(crate) first: Seq,
    /// Who answered last, as `provider/name`.
    pub(crate) model: Option<String>,
    pub(crate) outcome: TurnOutcome,
}

/// The answer to `message`; nothing where it has none, or where its events cannot be read.
pub(crate) async fn read(
    store: &dyn SessionStore,
    id: SessionId,
    message: &KeyedMessage,
) -> Result<Option<Answered>, StoreError> {
    let Some(end) = message.answered else { return Ok(None) };
    let mut reader = store.read(id, message.message).await?;
    let mut turn = Reading::default();
    while let Some(entry) = reader.next().await? {
        if entry.seq == message.message
            && let Event::UserMessage(user) = &entry.event
        {
            turn.message = Some(user.clone());
        }
        if entry.seq == end {
            return Ok(turn.ended(&entry, message.message));
        }
        turn.take(&entry);
    }
    Ok(None)
}

/// A turn while its events are read.
#[derive(Default)]
struct Reading {
    message: Option<UserMessage>,
    /// Where the turn before it ended.
    cut_at: Option<Seq>,
    /// Text before a stream broke, which the next answer goes on with.
    before_seam: String,
    text: String,
    /// Tool and arguments of each call.
    calls: HashMap<String, (String, String)>,
    denials: Vec<Denial>,
    model: Option<String>,
}

impl Reading {
    fn take(&mut self, entry: &Entry) {
        match &entry.event {
            Event::AssistantMessage(answer) if answer.partial => self.before_seam.push_str(&answer.text()),
            Event::AssistantMessage(answer) => {
                let text = std::mem::take(&mut self.before_seam) + &answer.text();
                self.model = Some(origin_name(&answer.origin));
                let mut calls = answer.tool_calls().peekable();
                if calls.peek().is_none() || !text.is_empty() {
                    self.text = text;
                }
                self.calls.extend(calls.map(|call| (call.id.clone(), (call.name.clone(), call.arguments.clone()))));
            }
            Event::ToolDenied(denied) => {
                let (tool, arguments) = self.calls.get(&denied.call).cloned().unwrap_or_default();
                self.denials.push(Denial { tool, arguments, reason: denied.reason.clone(), by: denied.by.clone() });
            }
            // What came before belongs to a turn that was cut.
            Event::TurnEnded(_) | Event::Opened(_) => {
                let message = self.message.take();
                *self = Self { message, cut_at: Some(entry.seq), ..Self::default() };
            }
            _ => {}
        }
    }

    fn ended(self, entry: &Entry, message: Seq) -> Option<Answered> {
        let Event::TurnEnded(TurnEnded { reason, model_calls, usage, duration_ms, .. }) = &entry.event else { return None };
        let outcome = TurnOutcome {
            text: self.text,
            model_calls: *model_calls,
            usage: *usage,
            denials: self.denials,
            duration: Duration::from_millis(*duration_ms),
            ..TurnOutcome::new(EndReason::of(reason)?)
        };
        let first = self.cut_at.map_or(message, |cut| cut + 1);
        Some(Answered { message: self.message?, model: self.model, first, outcome })
    }
}
