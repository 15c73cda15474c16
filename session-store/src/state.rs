//! The fold: a session's state as a pure function of its events.
//!
//! The live path, resume, replay and the exports all call [`State::apply`], so they cannot drift apart. The fold
//! accepts anything (a log may be torn, foreign or damaged) and never reads anything but its argument.
//!
//! What is *in the context* is a list of [`Slot`]s: places of messages, with their bodies as a cache. A trim or a rewind
//! moves slots aside without their bodies; undoing one brings back slots whose bodies have to be read again
//! ([`State::missing`], [`State::hydrate`]).
//!
//! **The size of a state follows the context, not the history.** The newest [`UNDO_MAX`] trims and rewinds can be undone, and of
//! these as many of the newest as hold [`UNDO_MESSAGES_MAX`] messages together (the newest always). Older ones are forgotten,
//! by every reader at the same event.

use crate::event::{
    AssistantMessage, Block, ContextPinned, ContextRestored, ContextRewound, ContextSummarized, ContextTrimmed, Entry, Event,
    ImageRef, ImagesRefused, MessageQueued, Opened, Origin, Profile, StopReason, Todo, ToolOutcome, ToolOutputPiece, TurnEnded,
    Usage, UserKind, UserMessage,
};
use crate::id::{Place, Seq, SeqRange, SessionId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use snapshot::Trail;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod ranges;
mod snapshot;

pub use ranges::ContextRanges;
pub(crate) use snapshot::FOLD_VERSION;

/// How many trims and rewinds can be undone.
pub const UNDO_MAX: usize = 32;
/// How many messages they may hold together; more only where the newest alone does.
pub const UNDO_MESSAGES_MAX: usize = 4_096;
/// How many messages with a key are remembered: the newest.
pub const KEYED_MAX: usize = 256;
/// The longest key that is remembered, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// How much is kept of the output of a tool call that has no result, in bytes: the end of it.
pub const TOOL_OUTPUT_KEPT: usize = 8 * 1024;
/// How many images are remembered that a model refused: the newest.
pub const REFUSED_IMAGES_MAX: usize = 256;
/// How a turn ends that answered its message, whatever the answer is; any other end leaves it to be asked again.
const ANSWERED: [&str; 5] = ["done", "max_turns", "max_tokens", "refusal", "denied"];

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
        /// The images that go with them.
        images: Vec<ImageRef>,
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
        /// The images that it sees with that.
        images: Vec<ImageRef>,
    },
}

impl Message {
    /// The message that `event` is, where it is one.
    #[must_use]
    pub fn from_event(event: &Event) -> Option<Self> {
        Some(match event {
            Event::UserMessage(user) => Self::User { text: user.text.clone(), kind: user.kind, images: user.images.clone() },
            Event::Note(note) => Self::Note { text: note.text.clone() },
            Event::ContextTrimmed(trim) => Self::Note { text: trim.note.clone() },
            Event::AssistantMessage(message) => Self::Assistant(message.clone()),
            Event::ToolFinished(finished) => Self::ToolResult {
                call: finished.call.clone(),
                name: finished.name.clone(),
                outcome: finished.outcome,
                output: finished.output.clone(),
                images: finished.images.clone(),
            },
            _ => return None,
        })
    }

    /// The images of the message, in order.
    #[must_use]
    pub fn images(&self) -> &[ImageRef] {
        match self {
            Self::User { images, .. } | Self::ToolResult { images, .. } => images,
            Self::Note { .. } | Self::Assistant(_) => &[],
        }
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
    /// Where its line stands in the log; for an answer cut by a crash, from its request through its last piece. Unknown where it came back into
    /// the context, until its body is read again.
    pub place: Place,
    /// For the note of a trim: the first event that it stands for.
    stands_for: Option<Seq>,
}

impl Slot {
    /// Without an order yet.
    fn new(seq: Seq, place: Place, message: Option<Arc<Message>>) -> Self {
        Self { seq, order: 0, message, place, stands_for: None }
    }

    /// Whether it is the note of a trim.
    #[must_use]
    pub fn is_trim(&self) -> bool {
        self.stands_for.is_some()
    }

    /// Fills in the body from an entry that is it, or a part of it, and the place where that is not known.
    fn hydrate(&mut self, entry: &Entry) {
        match (&entry.event, self.message.as_deref()) {
            // Only an answer that was cut has the `seq` of its request; its text follows in pieces.
            (Event::AssistantText(piece), Some(Message::Assistant(answer))) if answer.stop == StopReason::Cut => {
                let mut text = answer.text();
                add_piece(&mut text, piece.offset, &piece.text);
                self.message = Some(Arc::new(cut_answer(self.seq, answer.origin.clone(), text)));
                if entry.place.end() > self.place.end() {
                    self.place = self.place.through(entry.place);
                }
            }
            (event, None) => {
                self.message = match event {
                    Event::ModelRequest(request) => Some(cut_answer(self.seq, request.origin.clone(), String::new())),
                    event => Message::from_event(event),
                }
                .map(Arc::new);
                if self.message.is_some() && !self.place.is_known() {
                    self.place = entry.place;
                }
            }
            _ => {}
        }
    }

    /// Whether it stands, as a whole or in part, for what was said up to the event `to`.
    fn is_up_to(&self, to: Seq) -> bool {
        is_up_to(self.seq, self.stands_for, to)
    }
}

impl PartialEq for Slot {
    /// Bodies and places are a cache and do not count.
    fn eq(&self, other: &Self) -> bool {
        (self.seq, self.order, self.stands_for) == (other.seq, other.order, other.stands_for)
    }
}

/// What is known of a tool call that has no result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unresolved {
    /// Somebody approved it.
    pub approved: bool,
    /// Somebody denied it, with these words.
    pub denied: Option<String>,
    /// It started; whether it has side effects.
    pub started: Option<bool>,
    /// The end of its output up to the last piece in the log, [`TOOL_OUTPUT_KEPT`] bytes at most.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Where that piece ends, in bytes of the whole output.
    #[serde(skip_serializing_if = "is_zero")]
    pub output_end: u64,
    /// Lines are missing or damaged after the call: whether it started cannot be known.
    pub gap: bool,
    /// A model was asked since: what it was told of this call stays so.
    pub settled: bool,
}

impl Unresolved {
    /// Adds a piece of its output; one that is there already changes nothing.
    fn add_output(&mut self, piece: &ToolOutputPiece) {
        let known = usize::try_from(self.output_end.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
        let Some(text) = piece.text.get(known..).filter(|text| !text.is_empty()) else { return };
        if piece.offset > self.output_end {
            self.output.push_str(&format!("\n[... {} bytes left out ...]\n", piece.offset - self.output_end));
        }
        self.output.push_str(text);
        self.output_end = piece.offset.saturating_add(piece.text.len() as u64);
        let excess = self.output.len().saturating_sub(TOOL_OUTPUT_KEPT);
        let first = (excess..=self.output.len()).find(|at| self.output.is_char_boundary(*at)).unwrap_or(0);
        self.output.drain(..first);
    }
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
    /// From the request through the last piece.
    place: Hint<Place>,
    /// Users' messages that came in meanwhile; they stand behind the answer.
    waiting: Vec<Slot>,
}

/// A message that waits for the turn to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedMessage {
    /// Its `message.queued`.
    pub seq: Seq,
    /// Its words.
    pub text: String,
    /// The message that it was, where it steered a turn and came too late for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Seq>,
    /// Its images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageRef>,
}

/// A summary of messages in the context, for the note of the trim that takes them out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextSummary {
    /// Its `context.summarizing`, and once it is there its `context.summarized`.
    pub seq: Seq,
    /// The messages that it stands for.
    pub covers: Vec<SeqRange>,
    /// Its text; nothing while it is being made.
    pub text: Option<String>,
}

/// A trim or a rewind that can be undone, or the undoing of a rewind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undoable {
    /// Its event, which `context.restored` names.
    pub by: Seq,
    /// For a rewind, or the undoing of one, the last event that stayed; nothing for a trim.
    pub rewound_to: Option<Seq>,
    /// How many messages it took out of the context.
    pub messages: usize,
}

/// Messages that left the context by one event.
#[derive(Clone, Debug, PartialEq)]
struct SetAside {
    by: Seq,
    /// For a rewind, or the undoing of one, the last event that stayed; nothing for a trim, whose note stays instead.
    rewound_to: Option<Seq>,
    messages: Vec<Away>,
}

/// A message that is not in the context: all of its [`Slot`] but what can be found again.
#[derive(Clone, Debug, PartialEq)]
struct Away {
    seq: Seq,
    order: u64,
    stands_for: Option<Seq>,
    /// For one that a rewind took from among the messages of an earlier trim, that trim: there it goes back to.
    trim: Option<Seq>,
}

impl Away {
    /// Its slot in the context, to which it comes back.
    fn slot(&self) -> Slot {
        Slot { order: self.order, stands_for: self.stands_for, ..Slot::new(self.seq, Place::default(), None) }
    }

    fn is_up_to(&self, to: Seq) -> bool {
        is_up_to(self.seq, self.stands_for, to)
    }
}

/// A turn that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenTurn {
    /// The message that opened it; for one that began without a message, its first request.
    pub user: Seq,
    /// How many times a model was asked.
    pub model_calls: u64,
}

/// A message to which its sender gave a key of its own ([`UserMessage::key`](crate::UserMessage::key)), so that it can be sent again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyedMessage {
    /// The key.
    pub key: String,
    /// The event of the message.
    pub message: Seq,
    /// The `turn.ended` of the turn that answered it; absent while it has no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Seq>,
}

/// An image that a model refused, and is not sent any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusedImage {
    /// Who refused it.
    pub origin: Origin,
    /// The image: SHA-256 of its bytes.
    pub sha256: String,
    /// Why, in the server's words.
    pub reason: String,
}

/// What helps to find something in a log and is no part of what a state is: all values are equal.
#[derive(Clone, Copy, Debug, Default)]
struct Hint<T>(T);

impl<T> PartialEq for Hint<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Which profile holds, and where it stands.
#[derive(Clone, Debug, PartialEq)]
struct ProfileSlot {
    seq: Seq,
    hash: String,
    model: String,
    place: Hint<Place>,
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
    /// When its last event was written, those aside that only say who had it, or what is kept in its log.
    pub updated_at: Option<Timestamp>,
    /// The last epoch.
    pub epoch: u64,
    /// The owner of that epoch, until it closed.
    pub owner: Option<Opened>,
    /// What requests are built with; nothing also where it has to be read again ([`State::missing`]).
    pub profile: Option<Arc<Profile>>,
    /// The messages in the context, in order.
    pub context: Vec<Slot>,
    /// The answer that is coming in.
    pub in_flight: Option<InFlight>,
    /// The turn that has not ended.
    pub turn: Option<OpenTurn>,
    /// How the last turn ended.
    pub last_turn: Option<Arc<TurnEnded>>,
    /// The last request.
    pub last_request: Option<Seq>,
    /// Tool calls in the context that have no result.
    pub unresolved: BTreeMap<String, Unresolved>,
    /// The todo list.
    pub todos: Arc<Vec<Todo>>,
    /// The event that last changed it.
    pub todos_seq: Option<Seq>,
    /// The sum over all calls of this session; those before a fork are its parent's.
    pub usage: Usage,
    /// What the last complete call reported, and the `seq` of its message.
    pub last_usage: Option<(Seq, Usage)>,
    /// How many tokens of its model the context took as of an event: what a complete call reported of all that is sent again, up to its
    /// message; or what a trim left of that. Nothing where nobody knows.
    pub counted: Option<(Seq, u64)>,
    /// The summary that the next trim puts into its note.
    pub summary: Option<Arc<ContextSummary>>,
    /// The last event that changed what stands before messages already sent (a trim, its undo, another profile): reasoning made
    /// before it is bound to a prefix that is no longer sent.
    pub prefix_changed: Option<Seq>,
    /// How many messages (user, assistant, tool) there ever were.
    pub messages: u64,
    /// The newest messages with a key, oldest first. Only the last may be without an answer: another message that opens a turn takes the place
    /// of one that has none.
    pub keyed: Vec<KeyedMessage>,
    /// The messages that wait to be sent, oldest first.
    pub queued: Vec<QueuedMessage>,
    /// The newest images that a model refused, oldest first.
    pub refused_images: Vec<RefusedImage>,
    /// The messages that no trim takes out of the context, an answer with all of its results. Those are among them that a rewind took out: they come back pinned.
    pub pins: BTreeSet<Seq>,
    /// The trims and rewinds that can be undone, oldest first, by the `seq` of their events.
    set_aside: Vec<SetAside>,
    /// The messages that were forgotten with older trims and rewinds, as ranges of events in which no other message is. What lies
    /// before everything else is left out.
    forgotten: Vec<SeqRange>,
    next_order: u64,
    profile_slot: Option<ProfileSlot>,
    /// Where the log is that was folded.
    trail: Hint<Trail>,
    /// Whether bodies are left out from the start.
    is_outline: Hint<bool>,
    rewrites: Hint<u64>,
}

impl State {
    /// A state that keeps no bodies: for who wants to know what is where, and not what it says.
    pub(crate) fn outline() -> Self {
        Self { is_outline: Hint(true), ..Self::default() }
    }

    /// The state after `entry`. Entries are expected in the order of `seq`; a gap is noticed and marked.
    pub fn apply(&mut self, entry: &Entry) {
        // A line that cannot be checked may have been another one.
        if entry.seq > self.next_seq || !entry.sound || matches!(entry.event, Event::Lost(_)) {
            self.unresolved.values_mut().filter(|call| !call.settled).for_each(|call| call.gap = true);
        }
        self.next_seq = self.next_seq.max(entry.next_seq());
        self.created_at.get_or_insert(entry.at);
        if !entry.event.is_upkeep() {
            self.updated_at = Some(entry.at);
        }
        self.trail.0.pass(entry);
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
                // What was used before was used by the parent.
                self.usage = Usage::default();
            }
            Event::SessionRenamed(renamed) => self.name = Some(renamed.name.clone()).filter(|name| !name.is_empty()),
            Event::SessionImported(imported) => self.title.clone_from(&imported.title),
            Event::Profile(profile) => {
                if self.profile_slot.as_ref().is_some_and(|before| before.hash != profile.hash) {
                    self.change_prefix(entry.seq);
                }
                self.profile_slot = Some(ProfileSlot {
                    seq: entry.seq,
                    hash: profile.hash.clone(),
                    model: profile.model.clone(),
                    place: Hint(entry.place),
                });
                self.profile = (!self.is_outline.0).then(|| Arc::new(profile.clone()));
            }
            Event::MessageQueued(queued) => {
                if let Some(missed) = queued.missed {
                    self.take_out(missed);
                }
                let MessageQueued { text, missed, images } = queued.clone();
                self.queued.push(QueuedMessage { seq: entry.seq, text, missed, images });
            }
            Event::MessageWithdrawn(withdrawn) => self.queued.retain(|queued| queued.seq != withdrawn.queued),
            Event::UserMessage(user) => self.user_message(entry, user),
            Event::Note(_) => self.push_or_wait(entry),
            Event::ModelRequest(request) => {
                self.last_request = Some(entry.seq);
                self.end_in_flight();
                self.unresolved.values_mut().for_each(|call| call.settled = true);
                self.in_flight = Some(InFlight {
                    message: entry.seq,
                    origin: request.origin.clone(),
                    place: Hint(entry.place),
                    ..InFlight::default()
                });
                let turn = self.turn.get_or_insert(OpenTurn { user: entry.seq, model_calls: 0 });
                turn.model_calls += 1;
            }
            Event::AssistantText(piece) => {
                if let Some(answer) = self.answer(piece.message) {
                    add_piece(&mut answer.text, piece.offset, &piece.text);
                    answer.place.0 = answer.place.0.through(entry.place);
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
            Event::ToolOutputPiece(piece) => self.call(&piece.call, |call| call.add_output(piece)),
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
            Event::ContextSummarizing(asked) => {
                let covers = asked.covers.clone();
                self.summary = Some(Arc::new(ContextSummary { seq: entry.seq, covers, text: None }));
            }
            Event::ContextSummarized(summarized) => self.summarized(entry.seq, summarized),
            Event::ContextTrimmed(trim) => self.trimmed(entry, trim),
            Event::ContextRewound(rewind) => self.rewound(entry.seq, rewind),
            Event::ContextRestored(restored) => self.restored(entry.seq, restored),
            Event::ContextPinned(pin) => self.pin(pin),
            Event::TurnEnded(ended) => {
                self.end_in_flight();
                self.turn = None;
                if let Some(last) = self.keyed.last_mut().filter(|_| entry.sound && ANSWERED.contains(&ended.reason.as_str())) {
                    last.answered.get_or_insert(entry.seq);
                }
                self.last_turn = Some(Arc::new(ended.clone()));
            }
            Event::ModelError(error) => {
                if self.answer(error.message).is_some() {
                    self.end_in_flight();
                }
            }
            Event::ImagesRefused(refused) => self.images_refused(entry.seq, refused),
            Event::ToolApproved(_)
            | Event::ChildOpened(_)
            | Event::ModelWaiting(_)
            | Event::ModelFallback(_)
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

    /// The messages in the context, and the profile, whose bodies have to be read again, in the order of `seq`.
    #[must_use]
    pub fn missing(&self) -> Vec<Seq> {
        let mut missing: Vec<Seq> = self.context.iter().filter(|slot| slot.message.is_none()).map(|slot| slot.seq).collect();
        missing.extend(self.missing_profile().map(|profile| profile.seq));
        missing.sort_unstable();
        missing
    }

    fn missing_profile(&self) -> Option<&ProfileSlot> {
        self.profile_slot.as_ref().filter(|_| self.profile.is_none())
    }

    /// The places of what [`State::missing`] names, as far as they are known, in the order of the file.
    pub(crate) fn missing_places(&self) -> Vec<(Seq, Place)> {
        let slots = self.context.iter().filter(|slot| slot.message.is_none()).map(|slot| (slot.seq, slot.place));
        let places = slots.chain(self.missing_profile().map(|profile| (profile.seq, profile.place.0)));
        let mut places: Vec<(Seq, Place)> = places.filter(|(_, place)| place.is_known()).collect();
        places.sort_unstable_by_key(|(_, place)| place.offset);
        places
    }

    /// The model of the last profile, as `provider/name`.
    pub(crate) fn model(&self) -> Option<&str> {
        self.profile_slot.as_ref().map(|profile| profile.model.as_str())
    }

    /// Fills in bodies of the context from `entry`, where they are missing. Feed it the log from the smallest
    /// [`State::missing`] on, and past the largest until an event that [ends an answer](Event::ends_answer): one that a crash cut lies in the
    /// pieces that follow its request.
    pub fn hydrate(&mut self, entry: &Entry) {
        if let Event::Profile(profile) = &entry.event
            && self.missing_profile().is_some_and(|missing| missing.seq == entry.seq)
        {
            self.profile = Some(Arc::new(profile.clone()));
            return;
        }
        let seq = if let Event::AssistantText(piece) = &entry.event { piece.message } else { entry.seq };
        if let Some(slot) = self.context.iter_mut().find(|slot| slot.seq == seq) {
            slot.hydrate(entry);
            self.rewrites.0 += 1;
        }
    }

    /// The same for many entries, in the order of the log.
    pub(crate) fn hydrate_all<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        self.rewrites.0 += 1;
        let places: BTreeMap<Seq, usize> = self.context.iter().enumerate().map(|(place, slot)| (slot.seq, place)).collect();
        for entry in entries {
            let seq = if let Event::AssistantText(piece) = &entry.event { piece.message } else { entry.seq };
            match places.get(&seq).and_then(|place| self.context.get_mut(*place)) {
                Some(slot) => slot.hydrate(entry),
                None => self.hydrate(entry),
            }
        }
    }

    /// The messages in the context, as ranges of events in its order. A range stands for the messages in it and for nothing else that lies
    /// between them; the note of a trim stands alone, in a range of its own. So their number follows the trims and rewinds, and not the
    /// messages.
    #[must_use]
    pub fn context_ranges(&self) -> Vec<SeqRange> {
        ContextRanges::default().of(self).to_vec()
    }

    /// The messages in the context and those that an undo would bring back into it, without the notes of trims, in the order of `seq`.
    fn known_messages(&self) -> Vec<Seq> {
        let context = self.context.iter().map(|slot| (slot.seq, slot.stands_for));
        let away = self.set_aside.iter().flat_map(|aside| &aside.messages).map(|away| (away.seq, away.stands_for));
        let mut known: Vec<Seq> =
            context.chain(away).filter(|(_, stands_for)| stands_for.is_none()).map(|(seq, _)| seq).collect();
        known.sort_unstable();
        known
    }

    /// Changes whenever something changes that is in the context already (a trim, a rewind, the undoing of one, a body that was read
    /// again, another profile). While it stays the same, the context only grows at its end, and what was made of its messages stays right.
    /// It tells two moments of one state in memory apart, and is no part of what a state is.
    #[must_use]
    pub fn rewrites(&self) -> u64 {
        self.rewrites.0
    }

    /// Why `origin` refused the image, where it did.
    #[must_use]
    pub fn refused_image(&self, origin: &Origin, image: &ImageRef) -> Option<&str> {
        let is_it = |refused: &&RefusedImage| refused.sha256 == image.sha256 && refused.origin == *origin;
        self.refused_images.iter().find(is_it).map(|refused| refused.reason.as_str())
    }

    /// The trims and rewinds that can be undone, oldest first.
    pub fn undoable(&self) -> impl DoubleEndedIterator<Item = Seq> + '_ {
        self.set_aside.iter().map(|aside| aside.by)
    }

    /// What can be undone, oldest first.
    pub fn undo_list(&self) -> impl DoubleEndedIterator<Item = Undoable> + '_ {
        self.set_aside.iter().map(|aside| Undoable { by: aside.by, rewound_to: aside.rewound_to, messages: aside.messages.len() })
    }

    /// How many messages of the context a rewind to the event `to` would take out of it.
    #[must_use]
    pub fn messages_after(&self, to: Seq) -> usize {
        self.context.iter().filter(|slot| !slot.is_up_to(to)).count()
    }

    fn opened(&mut self, opened: &Opened) {
        self.end_in_flight();
        self.turn = None;
        // Who was making one is gone.
        self.summary.take_if(|summary| summary.text.is_none());
        self.epoch = opened.epoch;
        self.owner = Some(opened.clone());
    }

    fn user_message(&mut self, entry: &Entry, user: &UserMessage) {
        if self.title.is_none() {
            self.title = title_of(&user.text);
        }
        self.messages += 1;
        if user.kind != UserKind::Steer {
            self.end_in_flight();
            self.turn = Some(OpenTurn { user: entry.seq, model_calls: 0 });
            // What cannot be checked is no reason to take a message for sent, nor for answered.
            self.remember_key(entry.seq, user.key.as_deref().filter(|_| entry.sound));
        }
        if user.kind == UserKind::FollowUp
            && let Some(sent) = self.queued.iter().position(|queued| queued.text == user.text && queued.images == user.images)
        {
            self.queued.remove(sent);
        }
        self.push_or_wait(entry);
    }

    /// The event by which the oldest message waits that steered a turn, came too late for any request of it, and does not wait yet. Nothing while a turn
    /// runs, which may still take it.
    #[must_use]
    pub fn missed(&self) -> Option<MessageQueued> {
        let is_after = |slot: &&Slot| self.last_request.is_none_or(|request| slot.seq > request);
        let behind = self.context.iter().rev().take_while(is_after).filter_map(|slot| match slot.message.as_deref()? {
            Message::User { text, kind: UserKind::Steer, images } => {
                Some(MessageQueued { text: text.clone(), missed: Some(slot.seq), images: images.clone() })
            }
            _ => None,
        });
        behind.last().filter(|_| self.turn.is_none())
    }

    /// Takes a message out of the context for good.
    fn take_out(&mut self, message: Seq) {
        let Some(place) = self.context.iter().rposition(|slot| slot.seq == message && slot.stands_for.is_none()) else { return };
        self.context.remove(place);
        self.pins.remove(&message);
        self.forgotten.push(SeqRange(message, message));
        self.forgotten.sort_unstable();
        self.rewrites.0 += 1;
    }

    /// Notes the key of a message that opens a turn, if it has one.
    fn remember_key(&mut self, message: Seq, key: Option<&str>) {
        self.keyed.pop_if(|last| last.answered.is_none());
        let Some(key) = key.filter(|key| key.len() <= KEY_BYTES_MAX) else { return };
        self.keyed.retain(|known| known.key != key);
        if self.keyed.len() == KEYED_MAX {
            self.keyed.remove(0);
        }
        self.keyed.push(KeyedMessage { key: key.to_owned(), message, answered: None });
    }

    fn assistant_message(&mut self, entry: &Entry, message: &AssistantMessage) {
        if self.answer(message.message).is_none() {
            // The request of this message was lost; what came of another one stays.
            self.end_in_flight();
        }
        let waiting = self.in_flight.take().map(|answer| answer.waiting).unwrap_or_default();
        self.messages += 1;
        for call in message.tool_calls() {
            let before = self.unresolved.insert(call.id.clone(), Unresolved::default());
            // Only a damaged log has two calls of one name: what is known of the first one changes.
            self.rewrites.0 += u64::from(before.is_some());
        }
        if let Some(usage) = &message.usage {
            self.usage.add(usage);
            if !message.partial && usage.input_tokens.is_some() {
                self.last_usage = Some((entry.seq, *usage));
                self.counted = Some((entry.seq, sent_again(message, usage)));
            }
        }
        self.push(Slot::new(entry.seq, entry.place, self.body(&entry.event)));
        self.push_waiting(waiting);
    }

    /// Ends an answer that nothing ended: what came of its text stays, as a cut message.
    fn end_in_flight(&mut self) {
        let Some(answer) = self.in_flight.take() else { return };
        if !answer.text.trim().is_empty() {
            self.messages += 1;
            let body = (!self.is_outline.0).then(|| Arc::new(cut_answer(answer.message, answer.origin, answer.text)));
            self.push(Slot::new(answer.message, answer.place.0, body));
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

    fn body(&self, event: &Event) -> Option<Arc<Message>> {
        if self.is_outline.0 { None } else { Message::from_event(event).map(Arc::new) }
    }

    fn push_or_wait(&mut self, entry: &Entry) {
        let slot = Slot::new(entry.seq, entry.place, self.body(&entry.event));
        match &mut self.in_flight {
            Some(answer) => answer.waiting.push(slot),
            None => self.push(slot),
        }
    }

    fn push_waiting(&mut self, waiting: Vec<Slot>) {
        for slot in waiting {
            self.push(slot);
        }
    }

    fn push(&mut self, slot: Slot) {
        let order = self.next_order;
        self.next_order += 1;
        self.context.push(Slot { order, ..slot });
    }

    fn summarized(&mut self, seq: Seq, summarized: &ContextSummarized) {
        if let Some(usage) = &summarized.usage {
            self.usage.add(usage);
        }
        // One that came too late, behind a trim, stands for nothing that is still there.
        if let Some(asked) = self.summary.take_if(|summary| summary.text.is_none() && summary.seq == summarized.request)
            && !summarized.text.is_empty()
        {
            let text = Some(summarized.text.clone());
            self.summary = Some(Arc::new(ContextSummary { seq, covers: asked.covers.clone(), text }));
        }
    }

    fn trimmed(&mut self, entry: &Entry, trim: &ContextTrimmed) {
        let leaves = |slot: &Slot| trim.removed.iter().any(|range| range.contains(slot.seq));
        let (removed, kept): (Vec<Slot>, Vec<Slot>) = std::mem::take(&mut self.context).into_iter().partition(leaves);
        self.context = kept;
        let order = removed.first().map_or(0, |slot| slot.order);
        let first = removed.iter().map(|slot| slot.stands_for.map_or(slot.seq, |first| first.min(slot.seq))).min();
        let note =
            Slot { order, stands_for: first.or(Some(entry.seq)), ..Slot::new(entry.seq, entry.place, self.body(&entry.event)) };
        let place = self.context.partition_point(|slot| slot.order < order);
        self.context.insert(place, note);
        self.put_aside(entry.seq, None, away(&removed));
        self.summary = None;
        let was_counted = self.counted.is_some() && trim.tokens_after > 0;
        self.change_prefix(entry.seq);
        self.counted = was_counted.then_some((entry.seq, trim.tokens_after));
    }

    fn rewound(&mut self, by: Seq, rewind: &ContextRewound) {
        self.end_in_flight();
        let mut removed = away(&self.take_after(rewind.to));
        // A note that stays stands for messages before `to` and, perhaps, for some after it: those go as well, so that
        // undoing its trim does not bring them back.
        let live = self.set_aside.iter().filter(|aside| self.is_live_trim(aside));
        let late: Vec<Seq> =
            live.flat_map(|trim| &trim.messages).filter(|away| !away.is_up_to(rewind.to)).map(|away| away.seq).collect();
        for trim in self.set_aside.iter_mut().filter(|aside| aside.rewound_to.is_none()) {
            let taken = trim.messages.extract_if(.., |away| late.contains(&away.seq));
            removed.extend(taken.map(|away| Away { trim: Some(trim.by), ..away }));
        }
        self.put_aside(by, Some(rewind.to), removed);
        self.last_usage = None;
        self.counted = None;
        self.summary = None;
        self.rewrites.0 += 1;
    }

    fn restored(&mut self, by: Seq, restored: &ContextRestored) {
        self.end_in_flight();
        self.summary = None;
        let Some(place) = self.set_aside.iter().position(|aside| aside.by == restored.undo) else { return };
        let aside = self.set_aside.remove(place);
        if let Some(to) = aside.rewound_to {
            let since = away(&self.take_after(to));
            self.put_aside(by, Some(to), since);
            self.bring_back(aside.messages);
        } else {
            self.replace_note(&aside);
        }
        self.context.sort_by_key(|slot| slot.order);
        self.change_prefix(by);
    }

    fn pin(&mut self, pin: &ContextPinned) {
        if !pin.pinned {
            self.pins.remove(&pin.message);
        } else if self.context.iter().any(|slot| slot.seq == pin.message && !slot.is_trim()) {
            self.pins.insert(pin.message);
        }
    }

    /// Ends a rewind: its messages go back to the trims that they were taken from, and else into the context.
    fn bring_back(&mut self, messages: Vec<Away>) {
        for away in messages {
            match self.set_aside.iter_mut().find(|aside| Some(aside.by) == away.trim) {
                Some(trim) => trim.messages.push(Away { trim: None, ..away }),
                None => self.context.push(away.slot()),
            }
        }
    }

    /// Ends a trim: its messages come back where its note stands, which may have been put aside since.
    fn replace_note(&mut self, trim: &SetAside) {
        for other in &mut self.set_aside {
            if let Some(note) = other.messages.iter().position(|away| away.seq == trim.by) {
                let note = other.messages.swap_remove(note);
                return other.messages.extend(trim.messages.iter().map(|away| Away { trim: note.trim, ..*away }));
            }
        }
        self.context.retain(|slot| slot.seq != trim.by);
        self.context.extend(trim.messages.iter().map(Away::slot));
    }

    /// Takes what stands after the event `to` out of the context; the note of a trim stands where its messages stood.
    fn take_after(&mut self, to: Seq) -> Vec<Slot> {
        let (kept, taken): (Vec<Slot>, Vec<Slot>) =
            std::mem::take(&mut self.context).into_iter().partition(|slot| slot.is_up_to(to));
        self.context = kept;
        taken
    }

    /// Whether the note of a trim is in the context, or would be but for a later trim.
    fn is_live_trim(&self, trim: &SetAside) -> bool {
        let is_in = |aside: &SetAside| aside.messages.iter().any(|away| away.seq == trim.by) && self.is_live_trim(aside);
        let is_in_context = || self.context.iter().any(|slot| slot.seq == trim.by);
        trim.rewound_to.is_none() && (is_in_context() || self.set_aside.iter().any(is_in))
    }

    fn images_refused(&mut self, by: Seq, refused: &ImagesRefused) {
        for image in &refused.images {
            let (origin, sha256, reason) = (refused.origin.clone(), image.sha256.clone(), refused.reason.clone());
            self.refused_images.push(RefusedImage { origin, sha256, reason });
        }
        let old = self.refused_images.len().saturating_sub(REFUSED_IMAGES_MAX);
        self.refused_images.drain(..old);
        if refused.answered {
            self.change_prefix(by);
        } else {
            self.rewrites.0 += 1;
        }
    }

    fn change_prefix(&mut self, by: Seq) {
        self.prefix_changed = Some(by);
        self.rewrites.0 += 1;
        // What was reported before counted another prefix.
        self.last_usage = None;
        self.counted = None;
    }

    fn put_aside(&mut self, by: Seq, rewound_to: Option<Seq>, messages: Vec<Away>) {
        self.set_aside.push(SetAside { by, rewound_to, messages });
        let mut messages: usize = self.set_aside.iter().map(|aside| aside.messages.len()).sum();
        let mut old = 0;
        while self.set_aside.len() - old > 1 && (self.set_aside.len() - old > UNDO_MAX || messages > UNDO_MESSAGES_MAX) {
            messages -= self.set_aside[old].messages.len();
            old += 1;
        }
        if old > 0 {
            self.forget(old);
        }
    }

    /// Forgets the oldest `count` trims and rewinds: they can no longer be undone.
    fn forget(&mut self, count: usize) {
        let old: Vec<SetAside> = self.set_aside.drain(..count).collect();
        let mut gone: Vec<Away> = Vec::new();
        for SetAside { by, messages, .. } in old {
            gone.extend(messages);
            // What a rewind took from among the messages of a trim would go back there.
            for aside in &mut self.set_aside {
                gone.extend(aside.messages.extract_if(.., |away| away.trim == Some(by)));
            }
        }
        let gone = gone.iter().filter(|away| away.stands_for.is_none()).map(|away| SeqRange(away.seq, away.seq));
        self.forgotten.extend(gone);
        self.forgotten.sort_unstable();
        let known = self.known_messages();
        self.pins.retain(|pin| known.binary_search(pin).is_ok());
        let mut merged: Vec<SeqRange> = Vec::new();
        for range in self.forgotten.drain(..).filter(|range| known.first().is_some_and(|first| range.1 > *first)) {
            match merged.last_mut() {
                Some(last) if known.partition_point(|seq| *seq <= last.1) == known.partition_point(|seq| *seq <= range.0) => {
                    last.1 = last.1.max(range.1);
                }
                _ => merged.push(range),
            }
        }
        self.forgotten = merged;
    }
}

/// The first line of `text` that is not blank, 80 characters at most.
pub(crate) fn title_of(text: &str) -> Option<String> {
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(|line| line.chars().take(80).collect())
}

fn away(slots: &[Slot]) -> Vec<Away> {
    slots.iter().map(|slot| Away { seq: slot.seq, order: slot.order, stands_for: slot.stands_for, trim: None }).collect()
}

/// Whether the message `seq`, or the first event that it stands for, comes no later than `to`.
fn is_up_to(seq: Seq, stands_for: Option<Seq>, to: Seq) -> bool {
    seq <= to || stands_for.is_some_and(|first| first <= to)
}

/// Of what a call used, what the next one is sent again: all of it, but for reasoning that does not go back.
fn sent_again(message: &AssistantMessage, usage: &Usage) -> u64 {
    let goes_back = |block: &Block| matches!(block, Block::Reasoning { opaque: Some(_), .. } | Block::Opaque { .. });
    let lost = if message.blocks.iter().any(goes_back) { 0 } else { usage.reasoning_tokens.unwrap_or(0) };
    let answered = usage.output_tokens.unwrap_or(0).saturating_sub(lost);
    usage.input_tokens.unwrap_or(0).saturating_add(answered)
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

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Adds a piece at its offset: a piece that is there already changes nothing, and one that overlaps adds its rest.
fn add_piece(whole: &mut String, offset: u64, piece: &str) {
    let have = whole.len() as u64;
    let known = usize::try_from(have.saturating_sub(offset)).unwrap_or(usize::MAX);
    whole.push_str(piece.get(known..).unwrap_or_default());
}

#[cfg(test)]
mod tests;
