//! The requests of one session, built one after the other.
//!
//! [`project`] and [`Model::body`] say what a request is. What they make of messages that were sent before stays the same until an event says
//! otherwise, so [`RequestBuilder`] keeps its bytes, and the hash up to their end, and builds a request in the time that its new messages take.
//! A test holds it to the two functions after every event of every log; so does every small request of a debug build.
//!
//! ```text
//! head | what was sent before and cannot change | the last answer and what came after it | ]}
//!      | kept, in pieces that requests share     | made again for each request            |
//! ```
//!
//! An image is read from beside the log once, and stands in all requests as the same bytes: [`RequestBuilder::unknown_images`] says which have to be read.

use crate::images::{Base64, Images, image_tokens, slot_images};
use crate::model::{BODY_END, Body, Conversation, Model, Sent, sent_images};
use crate::projection::{Projection, closed_step, project};
use crate::session::{Shared, lock};
use bytes::Bytes;
use session_store::{ContextRanges, ImageRef, Message, Origin, Profile, Seq, SeqRange, Slot, State, hexadecimal, sha256_hex};
use sha2::{Digest, Sha256};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// What sessions may keep that have no turn.
const RESTING_BYTES_MAX: usize = 64 << 20;
/// A piece of the kept bytes is closed at this size; until then each request copies it.
const PIECE_BYTES: usize = 64 * 1024;
/// Smaller contexts are projected from scratch as well by debug builds, to compare.
const COMPARED_MAX: usize = 256;

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its body.
    pub body: Body,
    /// SHA-256 of the body, hexadecimal.
    pub sha256: String,
    /// The messages in it: [`State::context_ranges`].
    pub context: Vec<SeqRange>,
    /// More tokens than it can take: a token is at least a byte, but for images, which are counted by their pixels.
    pub tokens_max: u64,
}

/// Builds the requests of one session. All it holds can be thrown away at any time.
#[derive(Debug, Default)]
pub struct RequestBuilder {
    made_for: MadeFor,
    /// How many slots of the context are in here, and the last of them.
    slots: usize,
    last: Option<(Seq, u64)>,
    /// The ids of tool calls that were sent, and our own names of those that had no result.
    ids: HashSet<String>,
    unanswered: HashSet<String>,
    /// The messages of these slots from the last answer on: the next one may still grow their last message.
    open: Vec<Sent>,
    /// The messages before those, as they stand in a body.
    kept: Kept,
    /// The images of the context, as far as they were asked for.
    images: Images,
    ranges: ContextRanges,
    /// How many turns ended with it.
    rests: u64,
}

/// What the sessions of a runtime keep between their turns. It is bounded for all of them together: those that have been at rest for longest
/// give theirs up, and build their next request from scratch.
#[derive(Default)]
pub(crate) struct Resting {
    queue: Mutex<VecDeque<Rest>>,
    /// The sum of what they keep, behind the lock of the queue.
    bytes: AtomicUsize,
}

/// The end of a turn of a session.
struct Rest {
    session: Weak<Shared>,
    kept: usize,
    /// How many of its turns had ended by then.
    rests: u64,
}

impl Resting {
    /// A turn of `session` ended.
    pub(crate) fn rest(&self, session: &Arc<Shared>) {
        let (kept, rests) = {
            let mut requests = lock(&session.requests);
            requests.rests += 1;
            (requests.kept_bytes(), requests.rests)
        };
        let mut queue = lock(&self.queue);
        queue.push_back(Rest { session: Arc::downgrade(session), kept, rests });
        let mut bytes = self.bytes.load(Ordering::Relaxed) + kept;
        while bytes > RESTING_BYTES_MAX
            && let Some(Rest { session, kept, rests }) = queue.pop_front()
        {
            bytes -= kept;
            let Some(session) = session.upgrade() else { continue };
            let mut requests = lock(&session.requests);
            // One that had another turn since stands in the queue again.
            if requests.rests == rests {
                *requests = RequestBuilder { rests, ..RequestBuilder::default() };
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// What the kept bytes depend on, besides the messages themselves.
#[derive(Debug, Default, PartialEq)]
struct MadeFor {
    rewrites: u64,
    origin: Origin,
    learned: Vec<String>,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Bytes>,
    last_piece: Vec<u8>,
    len: usize,
    images: ImageSum,
    /// The head of the last request, and the hash of it and of all that is kept.
    head: Bytes,
    hash: Sha256,
}

/// What images add up to.
#[derive(Clone, Copy, Debug, Default)]
struct ImageSum {
    /// In a body.
    bytes: u64,
    tokens: u64,
}

impl ImageSum {
    fn add(mut self, sent: &[Sent]) -> Self {
        for image in sent_images(sent) {
            self.bytes += image.base64.bytes().len() as u64;
            self.tokens += image_tokens(&image.image);
        }
        self
    }
}

impl RequestBuilder {
    /// A builder that keeps nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The images of the next request that nothing is known of yet: read them, and tell them to [`RequestBuilder::add_image`]. One that is not told is
    /// sent as missing.
    #[must_use]
    pub fn unknown_images(&self, state: &State) -> Vec<ImageRef> {
        self.images.unknown(&state.context[self.taken_in(state)..])
    }

    /// Takes in an image, or that it is gone.
    pub fn add_image(&mut self, image: &ImageRef, base64: Option<Base64>) {
        self.images.learn(image, base64);
    }

    /// The images that it knows.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The request to `model` for `state` as it is: the one that [`project`] and [`Model::body`] say. Nothing where the state has no profile.
    ///
    /// All calls are for states of one session, each later than the one before. A call costs what was added since the last one; where that was
    /// for another model, or where [`State::rewrites`] has changed, it costs what the whole conversation does.
    pub fn build(&mut self, state: &State, model: &dyn Model, max_output_tokens: u64) -> Option<Request> {
        let profile = state.profile.as_ref()?;
        let built = self.body(state, model, profile, max_output_tokens);
        let conversation = || project(state, profile, &self.images, model.origin(), max_output_tokens);
        let (body, sha256, sum) = built.unwrap_or_else(|| {
            let conversation = conversation();
            let body = model.body(&conversation);
            let sha256 = sha256_hex(&body);
            (body.into(), sha256, ImageSum::default().add(&conversation.messages))
        });
        debug_assert!(
            state.context.len() > COMPARED_MAX || body.to_bytes() == model.body(&conversation()),
            "what was kept of the requests before is not what they are made of"
        );
        let tokens_max = (body.len() as u64).saturating_sub(sum.bytes) + sum.tokens;
        Some(Request { body, sha256, context: self.ranges.of(state).to_vec(), tokens_max })
    }

    /// How many messages the next [`RequestBuilder::build`] has to take in, about.
    #[must_use]
    pub fn behind(&self, state: &State) -> usize {
        state.context.len() - self.taken_in(state)
    }

    /// How many slots of the context are in here and stay.
    fn taken_in(&self, state: &State) -> usize {
        if self.made_for.rewrites == state.rewrites() { self.slots.min(state.context.len()) } else { 0 }
    }

    /// Whether the next [`RequestBuilder::build`] goes through the bytes of an image, which takes milliseconds.
    #[must_use]
    pub fn has_images_ahead(&self, state: &State) -> bool {
        sent_images(&self.open).next().is_some() || slot_images(&state.context[self.taken_in(state)..]).next().is_some()
    }

    /// How many bytes of messages it keeps.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept.len + usize::try_from(ImageSum::default().add(&self.open).bytes).unwrap_or(usize::MAX)
    }

    /// Takes in what cannot change any more.
    fn catch_up(&mut self, state: &State, model: &dyn Model) {
        let made_for = MadeFor { rewrites: state.rewrites(), origin: model.origin().clone(), learned: model.learned() };
        if self.made_for != made_for || self.is_for_another_past(state) {
            let (ranges, rests, mut images) = (std::mem::take(&mut self.ranges), self.rests, std::mem::take(&mut self.images));
            images.retain(&state.context);
            *self = Self { made_for, ranges, rests, images, ..Self::default() };
        }
        let mut projection = Projection::new(state, &self.images, model.origin(), &self.ids, std::mem::take(&mut self.open));
        let mut rest = &state.context[self.slots..];
        while let Some(step) = closed_step(rest).filter(|_| is_settled(state, &rest[0])) {
            projection.steps(&rest[..step]);
            rest = &rest[step..];
        }
        let Projection { mut sent, ids, unanswered, .. } = projection;
        self.ids.extend(ids);
        self.unanswered.extend(unanswered);
        let open = sent.iter().rposition(|sent| matches!(sent, Sent::Assistant { .. })).unwrap_or(0);
        self.open = sent.split_off(open);
        if !sent.is_empty() {
            self.kept.push(&model.messages(&sent));
            self.kept.images = self.kept.images.add(&sent);
        }
        self.slots = state.context.len() - rest.len();
        self.last = self.last_of(state);
    }

    /// The last slot that is in here.
    fn last_of(&self, state: &State) -> Option<(Seq, u64)> {
        self.slots.checked_sub(1).and_then(|last| state.context.get(last)).map(|slot| (slot.seq, slot.order))
    }

    /// Whether this was made for a context that is not the start of this one, or what was sent for a call would be another thing today.
    fn is_for_another_past(&self, state: &State) -> bool {
        let is_known = |slot: &Slot| match slot.message.as_deref() {
            Some(Message::Assistant(answer)) => answer.tool_calls().any(|call| self.unanswered.contains(&call.id)),
            _ => false,
        };
        // Only a damaged log has two calls of one name.
        self.last != self.last_of(state) || (!self.unanswered.is_empty() && state.context[self.slots..].iter().any(is_known))
    }

    fn body(
        &mut self,
        state: &State,
        model: &dyn Model,
        profile: &Arc<Profile>,
        max_output_tokens: u64,
    ) -> Option<(Body, String, ImageSum)> {
        self.catch_up(state, model);
        let mut projection = Projection::new(state, &self.images, model.origin(), &self.ids, self.open.clone());
        projection.steps(&state.context[self.slots..]);
        projection.finish();
        let rest = Conversation { profile: Arc::clone(profile), max_output_tokens, messages: projection.sent };
        let head = model.head(&rest)?;
        let (body, sha256) = self.kept.body(head, &model.messages(&rest.messages));
        Some((body, sha256, self.kept.images.add(&rest.messages)))
    }
}

/// Whether what is sent for the calls of this answer, where they have no result, stays as it is: a model was told of it.
fn is_settled(state: &State, answer: &Slot) -> bool {
    let Some(Message::Assistant(answer)) = answer.message.as_deref() else { return true };
    answer.tool_calls().all(|call| state.unresolved.get(&call.id).is_none_or(|known| known.settled))
}

impl Kept {
    /// Adds messages to the end.
    fn push(&mut self, messages: &Body) {
        for part in self.comma().into_iter().chain(messages.pieces().iter().cloned()) {
            self.hash.update(&part);
            self.len += part.len();
            add_part(&mut self.pieces, &mut self.last_piece, part);
        }
        if self.last_piece.len() >= PIECE_BYTES {
            self.pieces.push(std::mem::take(&mut self.last_piece).into());
        }
    }

    /// What stands between what is kept and what follows.
    fn comma(&self) -> Option<Bytes> {
        (self.len > 0).then_some(Bytes::from_static(b","))
    }

    /// The body with this `head` and these last `messages`, and its hash.
    fn body(&mut self, head: Vec<u8>, messages: &Body) -> (Body, String) {
        if self.head != head {
            self.hash = Sha256::new_with_prefix(&head);
            self.pieces.iter().for_each(|piece| self.hash.update(piece));
            self.hash.update(&self.last_piece);
            self.head = head.into();
        }
        let mut hash = self.hash.clone();
        let mut pieces: Vec<Bytes> = std::iter::once(&self.head).chain(&self.pieces).cloned().collect();
        let mut last = self.last_piece.clone();
        let end = messages.pieces().iter().cloned().chain([Bytes::from_static(BODY_END)]);
        for part in self.comma().into_iter().chain(end) {
            hash.update(&part);
            add_part(&mut pieces, &mut last, part);
        }
        pieces.push(last.into());
        (Body::new(pieces), hexadecimal(&hash.finalize()))
    }
}

/// Adds a part behind `pieces` and the `last` one. What is large, as images are, is shared and not copied.
fn add_part(pieces: &mut Vec<Bytes>, last: &mut Vec<u8>, part: Bytes) {
    if part.len() >= PIECE_BYTES {
        pieces.extend([std::mem::take(last).into(), part]);
    } else {
        last.extend_from_slice(&part);
    }
}
