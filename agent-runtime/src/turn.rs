//! [`Turn`]: a cursor on a running turn.

use crate::model::ModelFailure;
use futures_util::Stream;
use session_store::{Entry, Seq, Usage};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A cursor on a turn that runs in a task of its own: a stream of [`TurnEvent`]s, at the reader's own pace. A slow reader slows
/// neither the provider nor the log. Dropping it detaches; see [`Turn::interrupt_on_drop`].
pub struct Turn {}

/// What a turn shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TurnEvent {
    /// An event that was accepted into the log.
    Entry(Arc<Entry>),
    /// Text or reasoning as it comes, before it is in the log.
    Delta(Delta),
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
            Self::Refusal => "refusal",
            Self::Denied => "denied",
            Self::Error => "error",
        }
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

impl Turn {
    /// Waits for the end; needs no reading. Cancel-safe.
    pub async fn outcome(&self) -> Arc<TurnOutcome> {
        unimplemented!()
    }

    /// Stops the turn; what came is kept.
    pub fn interrupt(&self) {}

    /// Dropping this cursor stops the turn from now on.
    #[must_use]
    pub fn interrupt_on_drop(self) -> Self {
        self
    }
}

impl Stream for Turn {
    type Item = TurnEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TurnEvent>> {
        let _ = context;
        unimplemented!()
    }
}
