//! [`Session`]: a conversation that this process owns.

use crate::model::Model;
use crate::turn::Turn;
use session_store::{Progress, Seq, SessionId, State, StoreError, Todo};
use std::sync::Arc;
use tokio::sync::watch;

/// An open session. Cheap to clone; all clones are the same session.
#[derive(Clone)]
pub struct Session {}

/// A message was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A turn runs. Steer it, queue a follow-up, or wait for it.
    #[error("a turn is running in this session")]
    Busy,
    /// No turn runs that could be steered.
    #[error("no turn is running in this session")]
    Idle,
    /// The message has no words.
    #[error("the message is empty")]
    Empty,
    /// The message does not fit the context window, even alone.
    #[error("the message takes about {tokens} tokens, and the context window leaves room for {room}")]
    TooLong {
        /// Its size, in tokens.
        tokens: u64,
        /// What there is room for, in tokens.
        room: u64,
    },
    /// The store did not take it, or could not make it durable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Session {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        unimplemented!()
    }

    /// Looks at the session's state. `look` must be short: the turn waits for it.
    pub fn state<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        let _ = look;
        unimplemented!()
    }

    /// Sends a message and starts a turn, which goes on whether or not the [`Turn`] is read or kept.
    ///
    /// # Errors
    /// [`SendError`]; the message is not in the log then, except after a store error.
    pub async fn send(&self, text: &str) -> Result<Turn, SendError> {
        let _ = text;
        unimplemented!()
    }

    /// Gives a message to the turn that runs: it is in the log at once, and the model sees it after the current tools.
    ///
    /// # Errors
    /// [`SendError::Idle`] where no turn runs.
    pub fn steer(&self, text: &str) -> Result<Seq, SendError> {
        let _ = text;
        unimplemented!()
    }

    /// Asks the model again without a new message, after a turn that failed or was stopped.
    ///
    /// # Errors
    /// [`SendError::Busy`].
    pub async fn retry(&self) -> Result<Turn, SendError> {
        unimplemented!()
    }

    /// Stops the turn that runs, if one does, and keeps what came. `by` says who: `user`, `SIGINT`, ...
    pub fn interrupt(&self, by: &str) {
        let _ = by;
    }

    /// Whether a turn runs.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        unimplemented!()
    }

    /// The todo list: a cached read.
    #[must_use]
    pub fn todos(&self) -> Arc<Vec<Todo>> {
        unimplemented!()
    }

    /// Tells the model something, without a turn: it is sent with the next message.
    ///
    /// # Errors
    /// [`SendError::Busy`], or the store's.
    pub fn note(&self, text: &str) -> Result<Seq, SendError> {
        let _ = text;
        unimplemented!()
    }

    /// Names the session; empty takes the name away.
    ///
    /// # Errors
    /// The store's.
    pub fn rename(&self, name: &str) -> Result<Seq, SendError> {
        let _ = name;
        unimplemented!()
    }

    /// Another model answers from the next turn on.
    ///
    /// # Errors
    /// [`SendError::Busy`], or the store's.
    pub fn set_model(&self, model: Arc<dyn Model>) -> Result<(), SendError> {
        let _ = model;
        unimplemented!()
    }

    /// The model may reason this much from the next turn on: `off`, `low`, `medium`, `high`.
    ///
    /// # Errors
    /// [`SendError::Busy`], or the store's.
    pub fn set_effort(&self, effort: &str) -> Result<(), SendError> {
        let _ = effort;
        unimplemented!()
    }

    /// Trims the context now, as far as it goes; the number of messages that left.
    ///
    /// # Errors
    /// [`SendError::Busy`], or the store's.
    pub fn trim(&self) -> Result<usize, SendError> {
        unimplemented!()
    }

    /// About how many tokens the next request takes, and how many there is room for.
    #[must_use]
    pub fn context_size(&self) -> (u64, u64) {
        unimplemented!()
    }

    /// How far the log is, and what is wrong with its store right now.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        unimplemented!()
    }

    /// Returns when all that happened is durable.
    ///
    /// # Errors
    /// The store's.
    pub async fn flush(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Interrupts the turn, waits for it, and lets go of the session.
    ///
    /// # Errors
    /// The store's.
    pub async fn close(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
}
