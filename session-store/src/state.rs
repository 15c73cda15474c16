//! The fold: a session's state as a pure function of its events.
//!
//! The live path, resume, replay and the exports all call [`State::apply`], so they cannot drift apart. The fold
//! accepts anything (a log may be torn, foreign or damaged) and never reads anything but its argument.
//!
//! What is *in the context* is a list of [`Slot`]s: places of messages, with their bodies as a cache. A trim or a rewind
//! moves slots aside without their bodies, so the state's size follows the context and not the history; undoing one
//! brings back slots whose bodies have to be read again ([`State::missing`], [`State::hydrate`]).

use crate::event::{
    AssistantMessage, Block, ContextRestored, ContextRewound, ContextTrimmed, Entry, Event, Opened, Origin, Profile, StopReason,
    Todo, ToolFinished, ToolOutcome, TurnEnded, Usage, UserKind,
};
use crate::id::{Seq, SeqRange, SessionId};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A message as a reader or a model sees it: one event, or the pieces of an answer that a crash cut.
#[expect(clippy::large_enum_variant, reason = "messages are kept behind an `Arc`, one by one")]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// A person's words.
    User {
        /// The words.
        text: String,
        /// How they came in.
        kind: UserKind,
    },
    /// The runtime's words to the model.
    Note {
        /// The words.
        text: String,
    },
    /// A model's answer.
    Assistant(AssistantMessage),
    /// The result of a tool call.
    ToolResult {
        /// The call's id.
        call: String,
        /// The tool's name.
        name: String,
        /// How it ended.
        outcome: ToolOutcome,
        /// What the model sees.
        output: String,
    },
}

impl Message {
    /// The message that `event` is, where it is one.
    #[must_use]
    pub fn from_event(event: &Event) -> Option<Self> {
        Some(match event {
            Event::UserMessage(user) => Self::User { text: user.text.clone(), kind: user.kind },
            Event::Note(note) => Self::Note { text: note.text.clone() },
            Event::ContextTrimmed(trim) => Self::Note { text: trim.note.clone() },
            Event::AssistantMessage(message) => Self::Assistant(message.clone()),
            Event::ToolFinished(ToolFinished { call, name, outcome, output, .. }) => {
                Self::ToolResult { call: call.clone(), name: name.clone(), outcome: *outcome, output: output.clone() }
            }
            _ => return None,
        })
    }
}

/// The place of a message in the context.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The event that the message is; for an answer cut by a crash, its `model.request`.
    pub seq: Seq,
    /// Where it stands among the others: larger is later. Only the fold sets it.
    pub order: u64,
    /// The message, or nothing where it has to be read again.
    pub message: Option<Arc<Message>>,
}

impl PartialEq for Slot {
    /// Bodies are a cache and do not count.
    fn eq(&self, other: &Self) -> bool {
        (self.seq, self.order) == (other.seq, other.order)
    }
}

/// What is known of a tool call that has no result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unresolved {
    /// Somebody approved it.
    pub approved: bool,
    /// Somebody denied it, with these words.
    pub denied: Option<String>,
    /// It started; whether it has side effects.
    pub started: Option<bool>,
    /// Lines are missing or damaged after the call: whether it started cannot be known.
    pub gap: bool,
    /// A model was asked since: what it was told of this call stays so.
    pub settled: bool,
}

/// An answer that is coming in, or that was when its writer died.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InFlight {
    /// The `seq` of the request.
    pub message: Seq,
    /// Who was asked.
    pub origin: Origin,
    /// The text so far.
    pub text: String,
    /// The reasoning so far.
    pub reasoning: String,
    /// Users' messages that came in meanwhile; they stand behind the answer.
    waiting: Vec<Slot>,
}

/// Messages that left the context by one event.
#[derive(Clone, Debug, PartialEq)]
struct SetAside {
    by: Seq,
    /// For a rewind, or the undoing of one, the last event that stayed; nothing for a trim, whose note stays instead.
    rewound_to: Option<Seq>,
    slots: Vec<Away>,
}

/// A message that is not in the context.
#[derive(Clone, Debug, PartialEq)]
struct Away {
    slot: Slot,
    /// For one that a rewind took from among the messages of an earlier trim, that trim: there it goes back to.
    trim: Option<Seq>,
}

/// A turn that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTurn {
    /// The message that opened it; for one that began without a message, its first request.
    pub user: Seq,
    /// How many times a model was asked.
    pub model_calls: u64,
}

/// All that a session is, besides its text outside the context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The `seq` that the next event will have.
    pub next_seq: Seq,
    /// The session's id, from its own records.
    pub session: Option<SessionId>,
    /// The working directory that it was started in.
    pub cwd: Option<String>,
    /// Where its first lines were copied from: the session, and its last copied event.
    pub parent: Option<(SessionId, Seq)>,
    /// The name that a person gave it.
    pub name: Option<String>,
    /// The first line of the first message, 80 characters at most.
    pub title: Option<String>,
    /// When its first event was written.
    pub created_at: Option<Timestamp>,
    /// When its last event was written.
    pub updated_at: Option<Timestamp>,
    /// The last epoch.
    pub epoch: u64,
    /// The owner of that epoch, until it closed.
    pub owner: Option<Opened>,
    /// What requests are built with.
    pub profile: Option<Arc<Profile>>,
    /// The messages in the context, in order.
    pub context: Vec<Slot>,
    /// The answer that is coming in.
    pub in_flight: Option<InFlight>,
    /// The turn that has not ended.
    pub turn: Option<OpenTurn>,
    /// How the last turn ended.
    pub last_turn: Option<Arc<TurnEnded>>,
    /// Tool calls in the context that have no result.
    pub unresolved: BTreeMap<String, Unresolved>,
    /// The todo list.
    pub todos: Arc<Vec<Todo>>,
    /// The event that last changed it.
    pub todos_seq: Option<Seq>,
    /// The sum over all calls.
    pub usage: Usage,
    /// What the last complete call reported, and the `seq` of its message.
    pub last_usage: Option<(Seq, Usage)>,
    /// The last event that changed what stands before messages already sent (a trim, its undo, another profile): reasoning made
    /// before it is bound to a prefix that is no longer sent.
    pub prefix_changed: Option<Seq>,
    /// How many messages (user, assistant, tool) there ever were.
    pub messages: u64,
    /// The trims and rewinds that can be undone, oldest first, by the `seq` of their events.
    set_aside: Vec<SetAside>,
    next_order: u64,
}

impl State {
    /// The state after `entry`. Entries are expected in the order of `seq`; a gap is noticed and marked.
    pub fn apply(&mut self, entry: &Entry) {
        // A line that cannot be checked may have been another one.
        if entry.seq > self.next_seq || !entry.sound || matches!(entry.event, Event::Lost(_)) {
            self.unresolved.values_mut().filter(|call| !call.settled).for_each(|call| call.gap = true);
        }
        self.next_seq = self.next_seq.max(entry.next_seq());
        self.created_at.get_or_insert(entry.at);
        self.updated_at = Some(entry.at);
        match &entry.event {
            Event::Opened(opened) => self.opened(opened),
            Event::Closed(_) => self.owner = None,
            Event::SessionStarted(started) => {
                self.session = Some(started.session);
                self.cwd.clone_from(&started.cwd);
            }
            Event::SessionForked(forked) => {
                self.session = Some(forked.session);
                self.parent = Some((forked.parent, forked.at_seq));
                // A name means one session.
                self.name = None;
                self.created_at = Some(entry.at);
            }
            Event::SessionRenamed(renamed) => self.name = Some(renamed.name.clone()).filter(|name| !name.is_empty()),
            Event::Profile(profile) => {
                if self.profile.as_ref().is_some_and(|before| before.hash != profile.hash) {
                    self.change_prefix(entry.seq);
                }
                self.profile = Some(Arc::new(profile.clone()));
            }
            Event::UserMessage(user) => self.user_message(entry, user.kind, &user.text),
            Event::Note(_) => self.push_or_wait(entry),
            Event::ModelRequest(request) => {
                self.end_in_flight();
                self.unresolved.values_mut().for_each(|call| call.settled = true);
                self.in_flight = Some(InFlight { message: entry.seq, origin: request.origin.clone(), ..InFlight::default() });
                let turn = self.turn.get_or_insert(OpenTurn { user: entry.seq, model_calls: 0 });
                turn.model_calls += 1;
            }
            Event::AssistantText(piece) => {
                if let Some(answer) = self.answer(piece.message) {
                    add_piece(&mut answer.text, piece.offset, &piece.text);
                }
            }
            Event::AssistantReasoning(piece) => {
                if let Some(answer) = self.answer(piece.message) {
                    add_piece(&mut answer.reasoning, piece.offset, &piece.text);
                }
            }
            Event::AssistantMessage(message) => self.assistant_message(entry, message),
            // What cannot be checked is no reason to take a call for approved.
            Event::ToolApproved(approved) if entry.sound => self.call(&approved.call, |call| call.approved = true),
            Event::ToolDenied(denied) => self.call(&denied.call, |call| call.denied = Some(denied.reason.clone())),
            Event::ToolStarted(started) => self.call(&started.call, |call| call.started = Some(started.side_effects)),
            Event::ToolFinished(finished) => {
                if self.unresolved.get(&finished.call).is_some_and(|call| !call.settled) {
                    self.unresolved.remove(&finished.call);
                }
                self.messages += 1;
                self.push_or_wait(entry);
            }
            Event::TodosChanged(changed) => {
                self.todos = Arc::clone(&changed.todos);
                self.todos_seq = Some(entry.seq);
            }
            Event::ContextTrimmed(trim) => self.trimmed(entry, trim),
            Event::ContextRewound(rewind) => self.rewound(entry.seq, rewind),
            Event::ContextRestored(restored) => self.restored(entry.seq, restored),
            Event::TurnEnded(ended) => {
                self.end_in_flight();
                self.turn = None;
                self.last_turn = Some(Arc::new(ended.clone()));
            }
            Event::ModelError(error) => {
                if self.answer(error.message).is_some() {
                    self.end_in_flight();
                }
            }
            Event::ToolApproved(_)
            | Event::Checkpoint(_)
            | Event::Interrupted(_)
            | Event::Error(_)
            | Event::Recovered(_)
            | Event::Compacted(_)
            | Event::Lost(_)
            | Event::Repaired(_)
            | Event::Unknown(_) => {}
        }
    }

    /// The fold of `entries` from nothing.
    pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut state = Self::default();
        for entry in entries {
            state.apply(entry);
        }
        state
    }

    /// The messages in the context whose bodies have to be read again, in the order of `seq`.
    #[must_use]
    pub fn missing(&self) -> Vec<Seq> {
        let mut missing: Vec<Seq> = self.context.iter().filter(|slot| slot.message.is_none()).map(|slot| slot.seq).collect();
        missing.sort_unstable();
        missing
    }

    /// Fills in bodies of the context from `entry`, where they are missing. Feed it the log from the smallest
    /// [`State::missing`] on.
    pub fn hydrate(&mut self, entry: &Entry) {
        let seq = if let Event::AssistantText(piece) = &entry.event { piece.message } else { entry.seq };
        let Some(slot) = self.context.iter_mut().find(|slot| slot.seq == seq) else { return };
        match (&entry.event, slot.message.as_ref().map(Arc::as_ref)) {
            // Only an answer that was cut has the `seq` of its request; its text follows in pieces.
            (Event::ModelRequest(request), None) => {
                slot.message = Some(Arc::new(cut_answer(seq, request.origin.clone(), String::new())));
            }
            (Event::AssistantText(piece), Some(Message::Assistant(answer))) if answer.stop == StopReason::Cut => {
                let mut text = answer.text();
                add_piece(&mut text, piece.offset, &piece.text);
                slot.message = Some(Arc::new(cut_answer(seq, answer.origin.clone(), text)));
            }
            (event, None) => slot.message = Message::from_event(event).map(Arc::new),
            _ => {}
        }
    }

    /// The messages in the context, as ranges of events in its order. A range stands for the messages in it and for nothing else that lies
    /// between them; the note of a trim stands alone, in a range of its own. So their number follows the trims and rewinds, and not the
    /// messages.
    #[must_use]
    pub fn context_ranges(&self) -> Vec<SeqRange> {
        let first = self.context.iter().map(|slot| slot.seq).min().unwrap_or(0);
        let away = self.set_aside.iter().flat_map(|aside| &aside.slots).map(|away| away.slot.seq).filter(|seq| *seq > first);
        let notes: BTreeSet<Seq> = self.set_aside.iter().map(|aside| aside.by).collect();
        let all = self.context.iter().map(|slot| slot.seq).chain(away);
        let mut messages: Vec<Seq> = all.filter(|seq| !notes.contains(seq)).collect();
        messages.sort_unstable();
        let follows = |before: Seq, seq: Seq| {
            let next = messages.partition_point(|message| *message <= before);
            messages.get(next) == Some(&seq) && !notes.contains(&before)
        };
        let mut ranges: Vec<SeqRange> = Vec::new();
        for slot in &self.context {
            match ranges.last_mut() {
                Some(last) if follows(last.1, slot.seq) => last.1 = slot.seq,
                _ => ranges.push(SeqRange(slot.seq, slot.seq)),
            }
        }
        ranges
    }

    /// The trims and rewinds that can be undone, oldest first.
    pub fn undoable(&self) -> impl DoubleEndedIterator<Item = Seq> + '_ {
        self.set_aside.iter().map(|aside| aside.by)
    }

    fn opened(&mut self, opened: &Opened) {
        self.end_in_flight();
        self.turn = None;
        self.epoch = opened.epoch;
        self.owner = Some(opened.clone());
    }

    fn user_message(&mut self, entry: &Entry, kind: UserKind, text: &str) {
        if self.title.is_none() {
            self.title = text.lines().map(str::trim).find(|line| !line.is_empty()).map(|line| line.chars().take(80).collect());
        }
        self.messages += 1;
        if kind != UserKind::Steer {
            self.end_in_flight();
            self.turn = Some(OpenTurn { user: entry.seq, model_calls: 0 });
        }
        self.push_or_wait(entry);
    }

    fn assistant_message(&mut self, entry: &Entry, message: &AssistantMessage) {
        if self.answer(message.message).is_none() {
            // The request of this message was lost; what came of another one stays.
            self.end_in_flight();
        }
        let waiting = self.in_flight.take().map(|answer| answer.waiting).unwrap_or_default();
        self.messages += 1;
        for call in message.tool_calls() {
            self.unresolved.insert(call.id.clone(), Unresolved::default());
        }
        if let Some(usage) = &message.usage {
            self.usage.add(usage);
            if !message.partial && usage.input_tokens.is_some() {
                self.last_usage = Some((entry.seq, *usage));
            }
        }
        self.push(entry.seq, Message::from_event(&entry.event).map(Arc::new));
        self.push_waiting(waiting);
    }

    /// Ends an answer that nothing ended: what came of its text stays, as a cut message.
    fn end_in_flight(&mut self) {
        let Some(answer) = self.in_flight.take() else { return };
        if !answer.text.trim().is_empty() {
            self.messages += 1;
            self.push(answer.message, Some(Arc::new(cut_answer(answer.message, answer.origin, answer.text))));
        }
        self.push_waiting(answer.waiting);
    }

    fn answer(&mut self, message: Seq) -> Option<&mut InFlight> {
        self.in_flight.as_mut().filter(|answer| answer.message == message)
    }

    /// Notes something of a call that a model was not yet told about.
    fn call(&mut self, id: &str, note: impl FnOnce(&mut Unresolved)) {
        if let Some(call) = self.unresolved.get_mut(id).filter(|call| !call.settled) {
            note(call);
        }
    }

    fn push_or_wait(&mut self, entry: &Entry) {
        let message = Message::from_event(&entry.event).map(Arc::new);
        match &mut self.in_flight {
            Some(answer) => answer.waiting.push(Slot { seq: entry.seq, order: 0, message }),
            None => self.push(entry.seq, message),
        }
    }

    fn push_waiting(&mut self, waiting: Vec<Slot>) {
        for slot in waiting {
            self.push(slot.seq, slot.message);
        }
    }

    fn push(&mut self, seq: Seq, message: Option<Arc<Message>>) {
        let order = self.next_order;
        self.next_order += 1;
        self.context.push(Slot { seq, order, message });
    }

    fn trimmed(&mut self, entry: &Entry, trim: &ContextTrimmed) {
        let leaves = |slot: &Slot| trim.removed.iter().any(|range| range.contains(slot.seq));
        let (removed, kept): (Vec<Slot>, Vec<Slot>) = std::mem::take(&mut self.context).into_iter().partition(leaves);
        self.context = kept;
        let order = removed.first().map_or(0, |slot| slot.order);
        let note = Message::from_event(&entry.event).map(Arc::new);
        let place = self.context.partition_point(|slot| slot.order < order);
        self.context.insert(place, Slot { seq: entry.seq, order, message: note });
        self.put_aside(entry.seq, None, away(removed, None));
        self.change_prefix(entry.seq);
    }

    fn rewound(&mut self, by: Seq, rewind: &ContextRewound) {
        self.end_in_flight();
        let mut removed = away(self.take_after(rewind.to), None);
        // A note that stays stands for messages before `to` and, perhaps, for some after it: those go as well, so that
        // undoing its trim does not bring them back.
        let live = self.set_aside.iter().filter(|aside| self.is_live_trim(aside));
        let late: Vec<Seq> = live
            .flat_map(|trim| &trim.slots)
            .filter(|away| !self.is_up_to(&away.slot, rewind.to))
            .map(|away| away.slot.seq)
            .collect();
        for trim in self.set_aside.iter_mut().filter(|aside| aside.rewound_to.is_none()) {
            let taken = trim.slots.extract_if(.., |away| late.contains(&away.slot.seq));
            removed.extend(taken.map(|away| Away { trim: Some(trim.by), ..away }));
        }
        self.put_aside(by, Some(rewind.to), removed);
        self.last_usage = None;
    }

    fn restored(&mut self, by: Seq, restored: &ContextRestored) {
        let Some(place) = self.set_aside.iter().position(|aside| aside.by == restored.undo) else { return };
        let aside = self.set_aside.remove(place);
        if let Some(to) = aside.rewound_to {
            self.end_in_flight();
            let since = away(self.take_after(to), None);
            self.put_aside(by, Some(to), since);
            self.bring_back(aside.slots);
        } else {
            self.replace_note(&aside);
        }
        self.context.sort_by_key(|slot| slot.order);
        self.change_prefix(by);
    }

    /// Ends a rewind: its messages go back to the trims that they were taken from, and else into the context.
    fn bring_back(&mut self, messages: Vec<Away>) {
        for Away { slot, trim } in messages {
            match self.set_aside.iter_mut().find(|aside| Some(aside.by) == trim) {
                Some(trim) => trim.slots.push(Away { slot, trim: None }),
                None => self.context.push(slot),
            }
        }
    }

    /// Ends a trim: its messages come back where its note stands, which may have been put aside since.
    fn replace_note(&mut self, trim: &SetAside) {
        let messages = trim.slots.iter().map(|away| away.slot.clone());
        for other in &mut self.set_aside {
            if let Some(note) = other.slots.iter().position(|away| away.slot.seq == trim.by) {
                let note = other.slots.swap_remove(note);
                return other.slots.extend(away(messages, note.trim));
            }
        }
        self.context.retain(|slot| slot.seq != trim.by);
        self.context.extend(messages);
    }

    /// Takes what stands after the event `to` out of the context; the note of a trim stands where its messages stood.
    fn take_after(&mut self, to: Seq) -> Vec<Slot> {
        let (kept, taken): (Vec<Slot>, Vec<Slot>) =
            std::mem::take(&mut self.context).into_iter().partition(|slot| self.is_up_to(slot, to));
        self.context = kept;
        taken
    }

    fn is_up_to(&self, slot: &Slot, to: Seq) -> bool {
        let is_note_up_to = |aside: &SetAside| {
            aside.by == slot.seq && aside.rewound_to.is_none() && aside.slots.iter().any(|away| self.is_up_to(&away.slot, to))
        };
        slot.seq <= to || self.set_aside.iter().any(is_note_up_to)
    }

    /// Whether the note of a trim is in the context, or would be but for a later trim.
    fn is_live_trim(&self, trim: &SetAside) -> bool {
        let is_in = |aside: &SetAside| aside.slots.iter().any(|away| away.slot.seq == trim.by) && self.is_live_trim(aside);
        let is_in_context = || self.context.iter().any(|slot| slot.seq == trim.by);
        trim.rewound_to.is_none() && (is_in_context() || self.set_aside.iter().any(is_in))
    }

    fn change_prefix(&mut self, by: Seq) {
        self.prefix_changed = Some(by);
        // What was reported before counted another prefix.
        self.last_usage = None;
    }

    fn put_aside(&mut self, by: Seq, rewound_to: Option<Seq>, mut slots: Vec<Away>) {
        slots.iter_mut().for_each(|away| away.slot.message = None);
        self.set_aside.push(SetAside { by, rewound_to, slots });
    }
}

fn away(slots: impl IntoIterator<Item = Slot>, trim: Option<Seq>) -> Vec<Away> {
    slots.into_iter().map(|slot| Away { slot, trim }).collect()
}

fn cut_answer(message: Seq, origin: Origin, text: String) -> Message {
    Message::Assistant(AssistantMessage {
        message,
        origin,
        blocks: vec![Block::Text { text }],
        stop: StopReason::Cut,
        partial: true,
        usage: None,
        opaque: None,
    })
}

/// Adds a piece at its offset: a piece that is there already changes nothing, and one that overlaps adds its rest.
fn add_piece(whole: &mut String, offset: u64, piece: &str) {
    let have = whole.len() as u64;
    let known = usize::try_from(have.saturating_sub(offset)).unwrap_or(usize::MAX);
    whole.push_str(piece.get(known..).unwrap_or_default());
}

#[cfg(test)]
mod tests;
