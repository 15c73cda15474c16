//! Pins: messages that no trim takes out of the context, because a person said so. A pin is an event, and changes nothing that is sent.

use crate::agent_loop::count;
use crate::context::{message_tokens_at_most, pin_of, pinned_places};
use crate::session::{Session, Shared};
use session_store::{AppendError, ContextPinned, Seq, State};
use std::collections::BTreeSet;

/// A message was not pinned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// That event is no message in the context; the note of a trim is none.
    #[error("event {0} is no message in the context")]
    NotThere(Seq),
    /// Pinned messages may take half of the context, so that there is room for what goes on.
    #[error("pinned messages would take about {tokens} tokens, and may take {most}, half of the context")]
    TooMuch {
        /// What all pinned messages would take, in tokens.
        tokens: u64,
        /// What they may take, in tokens.
        most: u64,
    },
    /// The log did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl Session {
    /// Keeps the message at `seq` in the context, in its place and as it is, whatever is trimmed: one that a person wrote, a note, or an answer with all its results
    /// (any of them names it). [`State::pins`] has the pinned ones. A rewind takes them out like any others. Also while a turn runs. Dropping the
    /// future leaves it pinned or not.
    ///
    /// # Errors
    /// [`PinError`]; nothing has changed then.
    pub async fn pin(&self, seq: Seq) -> Result<(), PinError> {
        let most = self.shared.budget().input / 2;
        let wanted = |state: &State| -> Result<BTreeSet<usize>, PinError> {
            let pin = pin_of(&state.context, seq).ok_or(PinError::NotThere(seq))?;
            Ok(pinned_places(&state.context, state.pins.iter().copied().chain([pin])))
        };
        let fits = |state: &State, places: &BTreeSet<usize>| {
            places.iter().map(|place| message_tokens_at_most(&state.context[*place])).sum::<u64>() <= most
        };
        if !self.state(|state| wanted(state).map(|places| fits(state, &places)))? {
            let factor = self.shared.model().limits().token_factor;
            let tokens =
                count(&self.shared, |state, counter| Ok::<_, PinError>(counter.estimate_of(state, &wanted(state)?, factor)));
            let tokens = tokens.await?;
            if tokens > most {
                return Err(PinError::TooMuch { tokens, most });
            }
        }
        self.append_pin(seq, true)
    }

    /// Lets trims take the message at `seq` again.
    ///
    /// # Errors
    /// [`PinError`]; nothing has changed then.
    pub fn unpin(&self, seq: Seq) -> Result<(), PinError> {
        self.append_pin(seq, false)
    }

    /// How many messages of the context are pinned, results among them, and about how many tokens they take.
    pub async fn pinned_size(&self) -> (usize, u64) {
        pinned_size(&self.shared).await
    }

    fn append_pin(&self, seq: Seq, pinned: bool) -> Result<(), PinError> {
        let mut is_there = false;
        let appended = self.shared.append_if(|state| {
            let message = pin_of(&state.context, seq)?;
            is_there = true;
            (state.pins.contains(&message) != pinned).then(|| ContextPinned { message, pinned }.into())
        })?;
        if let Some(entry) = appended {
            self.shared.log.start_commit(entry.seq);
        }
        if is_there { Ok(()) } else { Err(PinError::NotThere(seq)) }
    }
}

pub(crate) async fn pinned_size(shared: &Shared) -> (usize, u64) {
    let factor = shared.model().limits().token_factor;
    count(shared, |state, counter| {
        let places = pinned_places(&state.context, state.pins.iter().copied());
        (places.len(), counter.estimate_of(state, &places, factor))
    })
    .await
}
