//! The messages in a context as ranges of events, kept up while the context grows.

use super::{Slot, State};
use crate::id::{Seq, SeqRange};

/// What [`State::context_ranges`] gives, for who asks for it again and again while one session goes on: it costs what was added since, or
/// what all costs after [`State::rewrites`] has changed.
#[derive(Clone, Debug, Default)]
pub struct ContextRanges {
    /// The value of [`State::rewrites`] that all of this was made for.
    rewrites: u64,
    /// How many slots of the context are in `ranges`, and the last of them.
    slots: usize,
    last: Option<Seq>,
    /// The messages that may lie between two others, in the order of `seq`: those of the context and those that an undo would bring back,
    /// without the notes of trims.
    known: Vec<Seq>,
    ranges: Vec<SeqRange>,
}

impl ContextRanges {
    /// The ranges of the context of `state`.
    pub fn of(&mut self, state: &State) -> &[SeqRange] {
        let last = self.slots.checked_sub(1).and_then(|last| state.context.get(last)).map(|slot| slot.seq);
        if self.slots == 0 || self.rewrites != state.rewrites() || last != self.last {
            let (rewrites, known) = (state.rewrites(), state.known_messages());
            *self = Self { rewrites, known, ..Self::default() };
        } else {
            let added = state.context.get(self.slots..).unwrap_or_default();
            added.iter().filter(|slot| slot.stands_for.is_none()).for_each(|slot| self.know(slot.seq));
        }
        for slot in state.context.get(self.slots..).unwrap_or_default() {
            self.add(state, slot);
        }
        self.slots = state.context.len();
        self.last = state.context.last().map(|slot| slot.seq);
        &self.ranges
    }

    /// Later messages have larger numbers, but for those that came in while an answer did.
    fn know(&mut self, seq: Seq) {
        let place = self.known.iter().rposition(|known| *known <= seq).map_or(0, |place| place + 1);
        self.known.insert(place, seq);
    }

    fn add(&mut self, state: &State, slot: &Slot) {
        let known = &self.known;
        let is_note = |seq: Seq| known.binary_search(&seq).is_err();
        let follows = |before: Seq, seq: Seq| {
            let next = known.partition_point(|message| *message <= before);
            let between = state.forgotten.partition_point(|range| range.1 <= before);
            known.get(next) == Some(&seq) && !is_note(before) && state.forgotten.get(between).is_none_or(|range| range.0 >= seq)
        };
        match self.ranges.last_mut() {
            Some(last) if follows(last.1, slot.seq) => last.1 = slot.seq,
            _ => self.ranges.push(SeqRange(slot.seq, slot.seq)),
        }
    }
}
