//! Checking a whole log: every line, every side file, and each checkpoint against the fold of what is before it.

use super::engine::Core;
use super::repair::Advance;
use super::{owner, read, tail};
use crate::error::StoreError;
use crate::event::{Checkpoint, Entry, Event, ImageRef, SideRef};
use crate::id::SessionId;
use crate::line::{Problem, ProblemKind};
use crate::state::{FOLD_VERSION, State};
use crate::store::{Holder, Verified};
use std::sync::Arc;

/// How many bytes are read between two reports of how far it is.
const ADVANCE_BYTES: u64 = 1 << 20;

pub(super) fn verify(core: &Arc<Core>, id: SessionId, advance: &Advance) -> Result<Verified, StoreError> {
    let mut told = 0;
    let mut state = State::outline();
    // Behind damage the state is what its readers made of it, which takes more than one pass.
    let mut is_whole = true;
    let mut scanned = read::scan(core, id, |entry, problems| {
        if entry.place.offset >= told + ADVANCE_BYTES {
            advance(entry.place.offset - told);
            told = entry.place.offset;
        }
        for side in sides_of(&entry.event) {
            if read::read_side(core, id, &side).is_err() {
                problems.push(read::missing_side(&side, entry.place));
            }
        }
        is_whole &= problems.is_empty() && entry.sound && entry.seq == state.next_seq;
        if let Event::Checkpoint(checkpoint) = &entry.event
            && is_whole
            && !is_fold(checkpoint, &entry, &state)
        {
            let detail = format!("the checkpoint at event {} is not the fold of what is before it", entry.seq);
            problems.push(Problem { line: entry.place.line, offset: entry.place.offset, kind: ProblemKind::Checkpoint, detail });
        }
        state.apply(&entry);
    })?;
    advance(scanned.length.saturating_sub(told));
    // A line that its owner is writing is not torn.
    let is_torn = |problem: &Problem| problem.kind == ProblemKind::TornTail;
    if scanned.problems.iter().any(is_torn) && matches!(owner::holder_of(core, id, &state), Holder::Alive(_)) {
        scanned.problems.retain(|problem| !is_torn(problem));
    }
    Ok(Verified { id, ok: scanned.problems.is_empty(), events: scanned.events, problems: scanned.problems })
}

/// Whether a checkpoint that readers would use holds `state`.
fn is_fold(checkpoint: &Checkpoint, entry: &Entry, state: &State) -> bool {
    if checkpoint.fold != FOLD_VERSION {
        return true;
    }
    match tail::state_of(checkpoint, entry.seq, entry.place.offset) {
        Some(held) => held.is_snapshot_of(state),
        // Nobody uses one that was copied from another place of a file; one that does not hold what its hash says is damaged.
        None => State::from_checkpoint(checkpoint).is_some(),
    }
}

/// The side files that an event names.
fn sides_of(event: &Event) -> Vec<SideRef> {
    let (full, images) = match event {
        Event::ToolFinished(finished) => (finished.full.as_ref(), &finished.images[..]),
        Event::Recovered(recovered) => (recovered.full.as_ref(), &[][..]),
        Event::UserMessage(user) => (None, &user.images[..]),
        Event::MessageQueued(queued) => (None, &queued.images[..]),
        _ => return Vec::new(),
    };
    full.cloned().into_iter().chain(images.iter().map(ImageRef::side)).collect()
}
