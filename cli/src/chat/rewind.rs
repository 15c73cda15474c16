//! A list of the person's messages, to go back to before one of them (or to what was before the last rewind), or to pin one.

use super::keys::Key;
use super::styled::{BOLD, DIM, Line, OWN, PLAIN};
use crate::safe_text::safe_line;
use agent_runtime::session_store::{Message, Seq, State};

/// How many places are shown at once.
const SHOWN_MAX: usize = 10;

/// Where the conversation may go, or what may be pinned in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// To before this message, whose text goes back into the input line.
    Before { message: Seq, text: String },
    /// To where it was before this rewind.
    Undo { rewind: Seq, messages: usize },
    /// Nowhere: this message is to be pinned, or no longer.
    Pin { message: Seq, text: String, is_pinned: bool },
}

/// A list on the screen.
pub(super) struct RewindList {
    title: &'static str,
    hint: &'static str,
    places: Vec<Place>,
    selected: usize,
}

/// What a key did to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing is chosen yet.
    Open,
    /// This one.
    Picked(Place),
    /// None of them.
    Cancelled,
}

impl RewindList {
    /// The places of `state`, in the order of the conversation, the last message selected; nothing where there are none.
    pub(super) fn new(state: &State) -> Option<Self> {
        let mut places: Vec<Place> = own_messages(state).map(|(message, text)| Place::Before { message, text }).collect();
        let selected = places.len().saturating_sub(1);
        places.extend(last_rewind(state));
        let title = "Go back to before:";
        let hint = "Up and Down choose, Enter goes back there, Esc leaves the list; files stay as they are";
        (!places.is_empty()).then_some(Self { title, hint, places, selected })
    }

    /// The messages of `state` that can be pinned, the last one selected; nothing where there are none.
    pub(super) fn pins(state: &State) -> Option<Self> {
        let is_pinned = |message: &Seq| state.pins.contains(message);
        let places = own_messages(state).map(|(message, text)| Place::Pin { message, text, is_pinned: is_pinned(&message) });
        let places: Vec<Place> = places.collect();
        let selected = places.len().saturating_sub(1);
        let title = "Keep in the context, whatever leaves it:";
        let hint = "Up and Down choose, Enter pins a message or takes its pin (*) off, Esc leaves the list";
        (!places.is_empty()).then_some(Self { title, hint, places, selected })
    }

    pub(super) fn key(&mut self, key: Key) -> Choice {
        match key {
            Key::Up => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Tab => self.selected = (self.selected + 1).min(self.places.len() - 1),
            Key::Enter => return self.places.get(self.selected).cloned().map_or(Choice::Open, Choice::Picked),
            Key::Escape | Key::CtrlC | Key::CtrlD => return Choice::Cancelled,
            _ => {}
        }
        Choice::Open
    }

    /// The rows of the list, at most `rows`, and where the cursor is in them.
    pub(super) fn view(&self, limit: usize, rows: usize) -> (Vec<Line>, (usize, usize)) {
        let shown = SHOWN_MAX.min(rows.saturating_sub(3)).max(1);
        let first = self.selected.saturating_sub(shown - 1);
        let mut lines = vec![Line::default(), Line::new(self.title, BOLD).truncated(limit)];
        for (at, place) in self.places.iter().enumerate().skip(first).take(shown) {
            let (mark, style) = if at == self.selected { ("> ", OWN) } else { ("  ", PLAIN) };
            let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let words = match place {
                Place::Before { text, .. } => line(text),
                Place::Pin { text, is_pinned, .. } => format!("{} {}", if *is_pinned { '*' } else { ' ' }, line(text)),
                Place::Undo { messages, .. } => format!("(the last rewind: {messages} messages come back)"),
            };
            lines.push(Line::new(mark, style).with(safe_line(&words), style).truncated(limit));
        }
        let cursor = (2 + self.selected - first, 0);
        lines.push(Line::new(self.hint, DIM).truncated(limit));
        (lines, cursor)
    }
}

/// The person's messages in the context.
fn own_messages(state: &State) -> impl Iterator<Item = (Seq, String)> + '_ {
    state.context.iter().filter_map(|slot| match slot.message.as_deref() {
        Some(Message::User { text, .. }) => Some((slot.seq, text.clone())),
        _ => None,
    })
}

/// The newest rewind that can be undone, where no trim came after it.
pub(super) fn last_rewind(state: &State) -> Option<Place> {
    let last = state.undo_list().next_back().filter(|last| last.rewound_to.is_some())?;
    Some(Place::Undo { rewind: last.by, messages: last.messages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_runtime::session_store::{ContextPinned, ContextRewound, Entry, Event, Timestamp, UserMessage};

    fn state(events: impl IntoIterator<Item = Event>) -> State {
        let mut state = State::default();
        for event in events {
            state.apply(&Entry::new(state.next_seq, Timestamp::default(), event));
        }
        state
    }

    fn said(text: &str) -> Event {
        UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
    }

    #[test]
    fn the_last_message_is_selected_and_a_rewind_is_the_last_place() {
        assert!(RewindList::new(&State::default()).is_none());
        let mut list = RewindList::new(&state([said("one"), said("two\nlines")])).expect("places");
        assert_eq!(list.key(Key::Enter), Choice::Picked(Place::Before { message: 1, text: "two\nlines".to_owned() }));
        list.key(Key::Up);
        list.key(Key::Up);
        assert_eq!(list.key(Key::Enter), Choice::Picked(Place::Before { message: 0, text: "one".to_owned() }));
        assert_eq!(list.key(Key::Escape), Choice::Cancelled);

        let mut list = RewindList::new(&state([said("one"), said("two"), ContextRewound { to: 0 }.into()])).expect("places");
        assert_eq!(list.key(Key::Enter), Choice::Picked(Place::Before { message: 0, text: "one".to_owned() }));
        list.key(Key::Down);
        assert_eq!(list.key(Key::Enter), Choice::Picked(Place::Undo { rewind: 2, messages: 1 }));
    }

    #[test]
    fn what_is_pinned_is_marked() {
        assert!(RewindList::pins(&State::default()).is_none());
        let events = [said("one"), said("two"), ContextPinned { message: 0, pinned: true }.into()];
        let mut list = RewindList::pins(&state(events)).expect("messages");
        let (lines, _) = list.view(60, 20);
        let lines: Vec<String> = lines.iter().map(Line::text).collect();
        assert_eq!(lines[2..4], ["  * one", ">   two"]);
        list.key(Key::Up);
        assert_eq!(list.key(Key::Enter), Choice::Picked(Place::Pin { message: 0, text: "one".to_owned(), is_pinned: true }));
    }
}
