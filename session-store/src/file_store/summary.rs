//! What the list shows of a session, kept up while it is written, so that `closed` can say it.
//!
//! A fold of its own with the same numbers as [`State`](crate::State): a store does not keep the states of its sessions.

use crate::event::{Entry, Event, Summary, Usage, UserKind};
use crate::id::Seq;
use crate::state::title_of;

/// The summary so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    summary: Summary,
    in_flight: Option<Answer>,
    has_begun: bool,
}

/// An answer that is coming in. Where nothing follows it, what came of it is a message if it has words.
#[derive(Clone, Copy, Debug)]
struct Answer {
    message: Seq,
    /// The length of its text so far, in bytes.
    text: u64,
    has_words: bool,
}

impl Tally {
    /// Goes on from the summary of a state without an answer in flight.
    pub(super) fn new(summary: Summary) -> Self {
        Self { summary, in_flight: None, has_begun: true }
    }

    /// The summary, for the line at `offset`.
    pub(super) fn summary(&self, offset: u64) -> Summary {
        Summary { offset, ..self.summary.clone() }
    }

    /// Takes in the next entry.
    pub(super) fn pass(&mut self, entry: &Entry) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.summary.created_at = entry.at;
        }
        if !entry.event.is_upkeep() {
            self.summary.updated_at = Some(entry.at);
        }
        match &entry.event {
            Event::SessionStarted(started) => self.summary.cwd.clone_from(&started.cwd),
            Event::SessionForked(_) => {
                self.summary.name = None;
                self.summary.created_at = entry.at;
                self.summary.usage = Usage::default();
            }
            Event::SessionRenamed(renamed) => {
                self.summary.name = Some(renamed.name.clone()).filter(|name| !name.is_empty());
            }
            Event::SessionImported(imported) => self.summary.title.clone_from(&imported.title),
            Event::Profile(profile) => self.summary.model = Some(profile.model.clone()),
            Event::UserMessage(user) => {
                if self.summary.title.is_none() {
                    self.summary.title = title_of(&user.text);
                }
                self.summary.messages += 1;
                if user.kind != UserKind::Steer {
                    self.end_answer();
                }
            }
            Event::ModelRequest(_) => {
                self.end_answer();
                self.in_flight = Some(Answer { message: entry.seq, text: 0, has_words: false });
            }
            Event::AssistantText(piece) => {
                if let Some(answer) = self.in_flight.as_mut().filter(|answer| answer.message == piece.message) {
                    let known = usize::try_from(answer.text.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
                    let more = piece.text.get(known..).unwrap_or_default();
                    answer.text += more.len() as u64;
                    answer.has_words |= !more.trim().is_empty();
                }
            }
            Event::AssistantMessage(message) => {
                if self.in_flight.take_if(|answer| answer.message == message.message).is_none() {
                    self.end_answer();
                }
                self.summary.messages += 1;
                if let Some(usage) = &message.usage {
                    self.summary.usage.add(usage);
                }
            }
            Event::ContextSummarized(summarized) => {
                if let Some(usage) = &summarized.usage {
                    self.summary.usage.add(usage);
                }
            }
            Event::ModelError(error) if self.in_flight.is_none_or(|answer| answer.message != error.message) => {}
            Event::ToolFinished(_) => self.summary.messages += 1,
            Event::Opened(_)
            | Event::TurnEnded(_)
            | Event::ModelError(_)
            | Event::ContextRewound(_)
            | Event::ContextRestored(_) => self.end_answer(),
            _ => {}
        }
    }

    fn end_answer(&mut self) {
        self.summary.messages += u64::from(self.in_flight.take().is_some_and(|answer| answer.has_words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::AssistantText;
    use crate::samples::{any_event, opened};
    use crate::state::State;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_summary_says_what_the_state_says(
            events in prop::collection::vec(any_event(), 0..40),
            pieces in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..4, " ?[a\u{1f30a}]{0,3}"), 0..20),
            from in any::<prop::sample::Index>(),
        ) {
            // Pieces of the answers that are in flight, and not only of those that never were.
            let mut events = events;
            for (at, offset, text) in pieces {
                let at = at.index(events.len() + 1);
                let request = events[..at].iter().rposition(|event| matches!(event, Event::ModelRequest(_)));
                let message = request.map_or(0, |request| request as Seq);
                events.insert(at, AssistantText { message, offset, text }.into());
            }
            let from = from.index(events.len() + 1);
            events.insert(from, opened(9));
            let entries = events.into_iter().zip(0..).map(|(event, seq)| Entry::new(seq, Timestamp::from_ms(seq as i64), event));
            let (mut state, mut whole, mut resumed) = (State::default(), Tally::default(), None);
            for entry in entries {
                state.apply(&entry);
                whole.pass(&entry);
                resumed.iter_mut().for_each(|tally: &mut Tally| tally.pass(&entry));
                if entry.seq == from as Seq {
                    resumed = Some(Tally::new(state.summary()));
                }
                prop_assert_eq!(whole.summary(0), state.summary());
            }
            prop_assert_eq!(resumed.map(|tally| tally.summary(0)), Some(state.summary()));
        }
    }
}
