//! Going back: what is in the context can leave it by a person's wish, and what left it can come back. Each is an event; the log keeps everything.

use crate::agent_loop::{Stop, hydrate};
use crate::session::Session;
use crate::turn::TurnError;
use session_store::{AppendError, ContextRestored, ContextRewound, Event, Seq, State};

/// The context was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewindError {
    /// A turn runs. Stop it, or wait for it.
    #[error("a turn is running in this session")]
    Busy,
    /// The session has no such event.
    #[error("the session has no event {0}")]
    Unknown(Seq),
    /// No message in the context is later than that event.
    #[error("no message came after event {0}")]
    Nothing(Seq),
    /// That event is no trim or rewind that can be undone: only the newest can.
    #[error("event {0} took nothing out of the context that can come back")]
    NotUndoable(Seq),
    /// The log did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It is undone, but what came back could not be read: the next request goes without it.
    #[error("what came back into the context could not be read: {0}")]
    Read(String),
}

impl Session {
    /// Takes the conversation back to the event `to`: every message after it leaves the context. To take back a message as well, name the
    /// event before it. Todos, files and other effects of tools stay as they are. Gives the `seq` that [`Session::restore`] takes to
    /// undo it; it is accepted, not yet durable.
    ///
    /// # Errors
    /// [`RewindError`]; nothing has changed then.
    pub fn rewind(&self, to: Seq) -> Result<Seq, RewindError> {
        self.change_context(|state| {
            if to >= state.next_seq {
                return Err(RewindError::Unknown(to));
            }
            if state.messages_after(to) == 0 {
                return Err(RewindError::Nothing(to));
            }
            Ok(ContextRewound { to }.into())
        })
    }

    /// Undoes the trim or rewind at `undo`, one of [`State::undo_list`]: its messages come back into the context. For a rewind, what was said
    /// since leaves it, which can be undone in turn: by the `seq` that this gives. Dropping the future leaves the reading of the messages to
    /// the next request.
    ///
    /// # Errors
    /// [`RewindError`]; nothing has changed then, but for [`RewindError::Read`].
    pub async fn restore(&self, undo: Seq) -> Result<Seq, RewindError> {
        let seq = self.change_context(|state| {
            let is_known = state.undoable().any(|known| known == undo);
            if is_known { Ok(ContextRestored { undo }.into()) } else { Err(RewindError::NotUndoable(undo)) }
        })?;
        match hydrate(&self.shared.store, &self.shared).await {
            Err(Stop::Failed(TurnError::Store(why))) => Err(RewindError::Read(why)),
            _ => Ok(seq),
        }
    }

    fn change_context(&self, change: impl FnOnce(&State) -> Result<Event, RewindError>) -> Result<Seq, RewindError> {
        let idle = self.shared.idle().ok_or(RewindError::Busy)?;
        let mut refused = None;
        let appended = self.shared.append_if(|state| change(state).map_err(|why| refused = Some(why)).ok())?;
        drop(idle);
        match (appended, refused) {
            (Some(entry), _) => {
                self.shared.log.start_commit(entry.seq);
                Ok(entry.seq)
            }
            (None, Some(why)) => Err(why),
            (None, None) => Err(RewindError::Busy),
        }
    }
}
