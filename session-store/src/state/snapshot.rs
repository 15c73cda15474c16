//! A state as JSON: what a `checkpoint` holds.
//!
//! It has all of a state but the bodies of messages and of the profile; for each of these it has the place of the line. So its
//! size follows the number of messages in the context, some 25 bytes each. Of those that can come back into it, which are many more, it has no
//! more than the numbers, some 3 bytes each: whoever brings them back looks for them. Messages are rows of numbers, each row the difference to the
//! row before:
//!
//! ```text
//! seq, order, line, offset, len, crc      in the context
//! seq                                     set aside
//! ```
//!
//! A state with an answer in flight has no snapshot: that passes.

use super::{
    Away, ContextSummary, Hint, KeyedMessage, OpenTurn, ProfileSlot, QueuedMessage, RefusedImage, SetAside, Slot, State,
    Unresolved,
};
use crate::event::{Checkpoint, Entry, Event, Opened, RawJson, Summary, Todo, TurnEnded, Usage};
use crate::id::{Place, Seq, SeqRange, SessionId};
use crate::side::sha256_hex;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The version of the fold: goes up with every change of what a state is made of, or of what an event does to it.
pub(crate) const FOLD_VERSION: u32 = 11;

/// How much a log grows until the next checkpoint is due, in bytes at least (unless the context was changed), and in sizes of the last
/// checkpoint, ...
const DUE_BYTES: u64 = 256 << 10;
const DUE_SIZES: u64 = 8;
/// ... or in events, where nobody knows how long their lines are.
const DUE_EVENTS: u64 = 2_000;
/// The least growth for which a session that is closed gets one: reading this much again takes no time.
const CLOSING_BYTES: u64 = 64 << 10;

/// Where the log is that was folded, and its last checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trail {
    /// The line of the last event.
    last: Place,
    /// Where the last checkpoint of this version ends, how long it is, and the `seq` behind it.
    checkpoint_end: u64,
    checkpoint_bytes: u64,
    checkpoint_seq: Seq,
    /// Whether a trim, a rewind or the undoing of one came after it.
    context_changed: bool,
}

impl Trail {
    /// Takes in the next entry.
    pub(super) fn pass(&mut self, entry: &Entry) {
        self.last = entry.place;
        match &entry.event {
            Event::Checkpoint(checkpoint) if checkpoint.fold == FOLD_VERSION => {
                *self = Self {
                    last: entry.place,
                    checkpoint_end: if entry.place.is_known() { entry.place.end() } else { 0 },
                    checkpoint_bytes: checkpoint.state.get().len() as u64,
                    checkpoint_seq: entry.seq + 1,
                    context_changed: false,
                };
            }
            Event::ContextTrimmed(_) | Event::ContextRewound(_) | Event::ContextRestored(_) => self.context_changed = true,
            _ => {}
        }
    }

    /// Whether the log grew by `least` bytes, and by some sizes of the last checkpoint, since that.
    fn has_grown(&self, least: u64, next_seq: Seq) -> bool {
        if self.last.is_known() {
            self.last.end().saturating_sub(self.checkpoint_end) >= least.max(DUE_SIZES * self.checkpoint_bytes)
        } else {
            next_seq.saturating_sub(self.checkpoint_seq) >= DUE_EVENTS
        }
    }
}

/// The members of a snapshot, in their order in the JSON: what a list needs comes first.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    next_seq: Seq,
    /// The line of the event before the checkpoint, which stands directly behind it: line, offset, length, checksum.
    last: (u64, u64, u32, u32),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<(SessionId, Seq)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated_at: Option<Timestamp>,
    messages: u64,
    usage: Usage,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Opened>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    profile: Option<ProfileRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turn: Option<(Seq, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_turn: Option<TurnEnded>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_request: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_usage: Option<(Seq, Usage)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<(Seq, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary: Option<ContextSummary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix_changed: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    todos_seq: Option<Seq>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    todos: Vec<Todo>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unresolved: BTreeMap<String, Unresolved>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keyed: Vec<KeyedMessage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    queued: Vec<QueuedMessage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused_images: Vec<RefusedImage>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pins: BTreeSet<Seq>,
    next_order: u64,
    context: Rows<6>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    set_aside: Vec<SetAsideRows>,
    /// For each note of a trim, among all rows, the first event that it stands for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    notes: BTreeMap<Seq, Seq>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forgotten: Vec<SeqRange>,
}

#[derive(Serialize, Deserialize)]
struct ProfileRow {
    seq: Seq,
    hash: String,
    model: String,
    place: (u64, u64, u32, u32),
}

#[derive(Serialize, Deserialize)]
struct SetAsideRows {
    by: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rewound_to: Option<Seq>,
    rows: Rows<1>,
    /// The rows that do not follow the one before in the order of the context, and their places in that.
    orders: Vec<(usize, u64)>,
    /// The rows that were taken from a trim, and that trim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    trims: Vec<(usize, Seq)>,
}

/// Rows of `N` numbers, one behind the other.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Rows<const N: usize>(Vec<i64>);

impl<const N: usize> Rows<N> {
    fn of(rows: impl Iterator<Item = [u64; N]>) -> Self {
        let mut numbers = Vec::with_capacity(rows.size_hint().0 * N);
        let mut before = [0; N];
        for row in rows {
            numbers.extend(row.iter().zip(before).map(|(now, before)| now.wrapping_sub(before) as i64));
            before = row;
        }
        Self(numbers)
    }

    /// Nothing where these are no rows.
    fn rows(&self) -> Option<impl Iterator<Item = [u64; N]> + '_> {
        let (rows, []) = self.0.as_chunks::<N>() else { return None };
        let mut row = [0_u64; N];
        Some(rows.iter().map(move |changes| {
            row.iter_mut().zip(changes).for_each(|(value, change)| *value = value.wrapping_add(*change as u64));
            row
        }))
    }
}

fn slot_row(Slot { seq, order, place, .. }: &Slot) -> [u64; 6] {
    [*seq, *order, place.line, place.offset, place.len.into(), place.crc.into()]
}

fn slot_of([seq, order, line, offset, len, crc]: [u64; 6], notes: &BTreeMap<Seq, Seq>) -> Option<Slot> {
    let place = Place { line, offset, len: u32::try_from(len).ok()?, crc: u32::try_from(crc).ok()? };
    Some(Slot { order, stands_for: notes.get(&seq).copied(), ..Slot::new(seq, place, None) })
}

fn row(place: Place) -> (u64, u64, u32, u32) {
    (place.line, place.offset, place.len, place.crc)
}

fn place((line, offset, len, crc): (u64, u64, u32, u32)) -> Place {
    Place { line, offset, len, crc }
}

impl State {
    /// Whether a checkpoint is worth its bytes now: the log grew by eight times the last one since that, and by 1 MiB unless the context
    /// was trimmed, rewound or restored; and no answer is coming in. Append what [`State::checkpoint`] gives, and apply that.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        let Hint(trail) = &self.trail;
        let least = if trail.context_changed && trail.last.is_known() { 0 } else { DUE_BYTES };
        self.in_flight.is_none() && trail.has_grown(least, self.next_seq)
    }

    /// Whether a session that is about to be closed should get a checkpoint: enough came since the last one that reading it
    /// again takes longer than reading the checkpoint.
    #[must_use]
    pub fn closing_checkpoint_due(&self) -> bool {
        self.in_flight.is_none() && self.trail.0.last.is_known() && self.trail.0.has_grown(CLOSING_BYTES, self.next_seq)
    }

    /// A checkpoint of this state, to be appended as its next event; nothing while an answer is coming in.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let state = self.snapshot()?;
        Some(Checkpoint { fold: FOLD_VERSION, hash: sha256_hex(state.get().as_bytes()), durable: 0, state })
    }

    /// What a list shows of this state; `offset` is for the caller to set.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            offset: 0,
            name: self.name.clone(),
            title: self.title.clone(),
            cwd: self.cwd.clone(),
            model: self.model().map(str::to_owned),
            created_at: self.created_at.unwrap_or_default(),
            updated_at: self.updated_at,
            messages: self.messages,
            usage: self.usage,
        }
    }

    /// The line of the last event that was applied.
    pub(crate) fn last_place(&self) -> Place {
        self.trail.0.last
    }

    /// Whether this is what a checkpoint of `state` would hold. It may know places that a fold alone does not: of messages that came back into the
    /// context, and were read again.
    pub(crate) fn is_snapshot_of(&self, state: &Self) -> bool {
        let mut held = self.clone();
        for (slot, own) in held.context.iter_mut().zip(&state.context).filter(|(_, own)| !own.place.is_known()) {
            slot.place = own.place;
        }
        let json = |state: &Self| state.snapshot().map(|snapshot| snapshot.get().to_owned());
        json(&held) == json(state)
    }

    fn snapshot(&self) -> Option<RawJson> {
        if self.in_flight.is_some() {
            return None;
        }
        let context = self.context.iter().map(|slot| (slot.seq, slot.stands_for));
        let away = self.set_aside.iter().flat_map(|aside| &aside.messages).map(|away| (away.seq, away.stands_for));
        let notes = context.chain(away).filter_map(|(seq, stands_for)| Some((seq, stands_for?))).collect();
        let snapshot = Snapshot {
            next_seq: self.next_seq,
            last: row(self.trail.0.last),
            session: self.session,
            parent: self.parent,
            name: self.name.clone(),
            title: self.title.clone(),
            cwd: self.cwd.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            messages: self.messages,
            usage: self.usage,
            epoch: self.epoch,
            owner: self.owner.clone(),
            profile: self.profile_slot.as_ref().map(|profile| ProfileRow {
                seq: profile.seq,
                hash: profile.hash.clone(),
                model: profile.model.clone(),
                place: row(profile.place.0),
            }),
            turn: self.turn.as_ref().map(|turn| (turn.user, turn.model_calls)),
            last_turn: self.last_turn.as_deref().cloned(),
            last_request: self.last_request,
            last_usage: self.last_usage,
            counted: self.counted,
            summary: self.summary.as_deref().cloned(),
            prefix_changed: self.prefix_changed,
            todos_seq: self.todos_seq,
            todos: self.todos.to_vec(),
            unresolved: self.unresolved.clone(),
            keyed: self.keyed.clone(),
            queued: self.queued.clone(),
            refused_images: self.refused_images.clone(),
            pins: self.pins.clone(),
            next_order: self.next_order,
            context: Rows::of(self.context.iter().map(slot_row)),
            set_aside: self.set_aside.iter().map(rows_of).collect(),
            notes,
            forgotten: self.forgotten.clone(),
        };
        RawJson::new(&snapshot).ok()
    }

    /// The state that `checkpoint` holds, without its bodies; nothing where it is of another version, or not what its hash says.
    pub(crate) fn from_checkpoint(checkpoint: &Checkpoint) -> Option<Self> {
        if checkpoint.fold != FOLD_VERSION || sha256_hex(checkpoint.state.get().as_bytes()) != checkpoint.hash {
            return None;
        }
        let snapshot: Snapshot = serde_json::from_str(checkpoint.state.get()).ok()?;
        let notes = &snapshot.notes;
        let set_aside = snapshot.set_aside.iter().map(|aside| set_aside_of(aside, notes)).collect::<Option<_>>()?;
        Some(Self {
            next_seq: snapshot.next_seq,
            session: snapshot.session,
            cwd: snapshot.cwd,
            parent: snapshot.parent,
            name: snapshot.name,
            title: snapshot.title,
            created_at: snapshot.created_at,
            updated_at: snapshot.updated_at,
            epoch: snapshot.epoch,
            owner: snapshot.owner,
            profile: None,
            context: snapshot.context.rows()?.map(|row| slot_of(row, notes)).collect::<Option<_>>()?,
            in_flight: None,
            turn: snapshot.turn.map(|(user, model_calls)| OpenTurn { user, model_calls }),
            last_turn: snapshot.last_turn.map(Arc::new),
            unresolved: snapshot.unresolved,
            keyed: snapshot.keyed,
            queued: snapshot.queued,
            refused_images: snapshot.refused_images,
            pins: snapshot.pins,
            todos: Arc::new(snapshot.todos),
            todos_seq: snapshot.todos_seq,
            usage: snapshot.usage,
            last_request: snapshot.last_request,
            last_usage: snapshot.last_usage,
            counted: snapshot.counted,
            summary: snapshot.summary.map(Arc::new),
            prefix_changed: snapshot.prefix_changed,
            messages: snapshot.messages,
            set_aside,
            forgotten: snapshot.forgotten,
            next_order: snapshot.next_order,
            profile_slot: snapshot.profile.map(|profile| ProfileSlot {
                seq: profile.seq,
                hash: profile.hash,
                model: profile.model,
                place: Hint(place(profile.place)),
            }),
            trail: Hint(Trail { last: place(snapshot.last), ..Trail::default() }),
            is_outline: Hint(false),
            rewrites: Hint(0),
        })
    }
}

fn rows_of(aside: &SetAside) -> SetAsideRows {
    let before = std::iter::once(None).chain(aside.messages.iter().map(Some));
    let follows = |away: &Away, before: Option<&Away>| before.is_some_and(|before| before.order.wrapping_add(1) == away.order);
    let orders = aside.messages.iter().zip(before).enumerate().filter(|(_, (away, before))| !follows(away, *before));
    let trims = aside.messages.iter().enumerate().filter_map(|(at, away)| Some((at, away.trim?)));
    SetAsideRows {
        by: aside.by,
        rewound_to: aside.rewound_to,
        rows: Rows::of(aside.messages.iter().map(|away| [away.seq])),
        orders: orders.map(|(at, (away, _))| (at, away.order)).collect(),
        trims: trims.collect(),
    }
}

fn set_aside_of(aside: &SetAsideRows, notes: &BTreeMap<Seq, Seq>) -> Option<SetAside> {
    let (mut orders, mut order) = (aside.orders.iter().peekable(), 0_u64);
    let away = |(at, [seq]): (usize, [u64; 1])| {
        order = orders.next_if(|(place, _)| *place == at).map_or(order.wrapping_add(1), |(_, other)| *other);
        Away { seq, order, stands_for: notes.get(&seq).copied(), trim: None }
    };
    let mut messages: Vec<Away> = aside.rows.rows()?.enumerate().map(away).collect();
    for (at, trim) in &aside.trims {
        messages.get_mut(*at)?.trim = Some(*trim);
    }
    Some(SetAside { by: aside.by, rewound_to: aside.rewound_to, messages })
}
