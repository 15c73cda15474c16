//! The projection: what a model is sent, as a pure function of the session's state and of who is asked.
//!
//! The log is never repaired; this function makes a legal conversation of whatever it holds. `ARCHITECTURE.md` has its
//! rules as a table. Their common aim: what was sent once keeps its bytes, until an event says otherwise.
//!
//! A version of the rules is part of the profile ([`PROJECTION_VERSION`]): a session is always projected by the rules it was
//! started with, because providers bind reasoning to the exact prefix before it.

use crate::images::Images;
use crate::model::{Conversation, Sent, SentImage, SentPart, SentResult};
use serde::de::IgnoredAny;
use session_store::{
    AssistantMessage, Block, ImageRef, Message, Origin, Profile, Slot, State, StopReason, ToolCall, ToolOutcome, Unresolved,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The version of the rules below.
pub const PROJECTION_VERSION: u32 = 1;

const CUT: &str = "[Your answer above was cut off before it was complete.]";
const MISSING: &str = "[Earlier messages of this conversation are missing.]";
const CONTINUE: &str = "Continue.";
const NO_OUTPUT: &str = "(no output)";
const NOT_RUN: &str = "Not run: the session stopped before this call was started.";
const UNKNOWN: &str = "Outcome unknown: the session was cut off while this call ran. It may have run, wholly or in part. Check before you do it again.";
const LOST: &str =
    "Result lost: the session was cut off while this call ran. It only reads; call it again if you need the result.";

/// Between what is said of a call that was stopped, and its output.
pub(crate) const OUTPUT_UNTIL_THEN: &str = "\nThe last of its output until then:\n";

/// What `target` is sent for `state`, whose images are in `images`. Legal for every provider: see [`Conversation`].
#[must_use]
pub fn project(state: &State, profile: &Arc<Profile>, images: &Images, target: &Origin, max_output_tokens: u64) -> Conversation {
    let before = HashSet::new();
    let mut projection = Projection::new(state, images, target, &before, Vec::new());
    projection.steps(&state.context);
    projection.finish();
    Conversation { profile: Arc::clone(profile), max_output_tokens, messages: projection.sent }
}

/// What [`project`] gives, with a last text behind it that asks for something.
pub(crate) fn project_asking(
    state: &State,
    profile: &Arc<Profile>,
    images: &Images,
    target: &Origin,
    max_output_tokens: u64,
    ask: &str,
) -> Conversation {
    let before = HashSet::new();
    let mut projection = Projection::new(state, images, target, &before, Vec::new());
    projection.steps(&state.context);
    projection.text(ask);
    Conversation { profile: Arc::clone(profile), max_output_tokens, messages: projection.sent }
}

fn is_answer(slot: &Slot) -> bool {
    matches!(slot.message.as_deref(), Some(Message::Assistant(_)))
}

/// How many of `slots` belong together: an answer, its results and what was said meanwhile, or what was said before the first answer.
/// Nothing where no answer follows them, so that more may come.
pub(crate) fn closed_step(slots: &[Slot]) -> Option<usize> {
    Some(slots.get(1..)?.iter().position(is_answer)? + 1)
}

/// A conversation while it is made, step by step: each step only adds to it, or to its last message.
pub(crate) struct Projection<'a> {
    state: &'a State,
    images: &'a Images,
    target: &'a Origin,
    pub(crate) sent: Vec<Sent>,
    /// The ids of tool calls sent by earlier steps, and by these: no provider takes one twice.
    ids_before: &'a HashSet<String>,
    pub(crate) ids: HashSet<String>,
    /// The calls, by our own name, that no result was recorded for: what is sent for them is what the state knows of them.
    pub(crate) unanswered: Vec<String>,
}

impl<'a> Projection<'a> {
    /// Goes on behind `sent`, which is empty only where nothing was sent at all.
    pub(crate) fn new(
        state: &'a State,
        images: &'a Images,
        target: &'a Origin,
        ids_before: &'a HashSet<String>,
        sent: Vec<Sent>,
    ) -> Self {
        Self { state, images, target, sent, ids_before, ids: HashSet::new(), unanswered: Vec::new() }
    }

    /// Adds `slots`, which begin where a step begins.
    pub(crate) fn steps(&mut self, mut slots: &[Slot]) {
        while !slots.is_empty() {
            let (step, rest) = slots.split_at(closed_step(slots).unwrap_or(slots.len()));
            self.step(step);
            slots = rest;
        }
    }

    fn step(&mut self, step: &[Slot]) {
        let Some((slot, following)) = step.split_first() else { return };
        match slot.message.as_deref() {
            Some(Message::Assistant(answer)) => self.answer(slot, answer, following),
            _ => self.texts(step),
        }
    }

    /// An answer, the results of its calls, and the texts that came in meanwhile.
    fn answer(&mut self, slot: &Slot, answer: &AssistantMessage, following: &[Slot]) {
        let own = answer.origin == *self.target;
        let reasons = own && !answer.partial && self.state.prefix_changed.is_none_or(|changed| slot.seq > changed);
        let mut calls = Vec::new();
        let mut blocks = Vec::new();
        for block in &answer.blocks {
            match block {
                Block::Text { text } if !text.trim().is_empty() => blocks.push(block.clone()),
                Block::Reasoning { opaque: Some(_), .. } | Block::Opaque { .. } if reasons => blocks.push(block.clone()),
                Block::ToolCall(call) if !answer.partial => {
                    let (id, name, arguments) = (self.id(call, own), legal_name(&call.name), legal_arguments(&call.arguments));
                    let sent = ToolCall { id, name, arguments, provider_id: call.provider_id.clone() };
                    blocks.push(Block::ToolCall(sent.clone()));
                    calls.push((call.id.as_str(), sent));
                }
                _ => {}
            }
        }
        if blocks.iter().any(|block| matches!(block, Block::Text { .. } | Block::ToolCall(_))) {
            if matches!(self.sent.last(), None | Some(Sent::Assistant { .. })) {
                let text = if self.sent.is_empty() { MISSING } else { CONTINUE };
                self.text(text);
            }
            self.sent.push(Sent::Assistant { blocks, opaque: answer.opaque.clone().filter(|_| reasons) });
            if !calls.is_empty() {
                self.results(&calls, answer, following);
            }
            if answer.partial {
                self.text(CUT);
            }
        }
        self.texts(following);
    }

    /// One result for each call, in call order: the recorded one, or words for what is known instead.
    fn results(&mut self, calls: &[(&str, ToolCall)], answer: &AssistantMessage, following: &[Slot]) {
        let mut recorded: HashMap<&str, (ToolOutcome, &str, &[ImageRef])> = HashMap::new();
        for slot in following {
            if let Some(Message::ToolResult { call, outcome, output, images, .. }) = slot.message.as_deref() {
                recorded.entry(call.as_str()).or_insert((*outcome, output, images));
            }
        }
        let mut results = Vec::with_capacity(calls.len());
        for (own_id, sent) in calls {
            let (output, is_error, images) = match recorded.get(own_id) {
                Some((ToolOutcome::Ok, output, images)) => ((*output).to_owned(), false, *images),
                Some((_, output, _)) => ((*output).to_owned(), true, &[][..]),
                None => {
                    self.unanswered.push((*own_id).to_owned());
                    (without_result(&self.state.unresolved, own_id, answer), true, &[][..])
                }
            };
            let mut output = if output.trim().is_empty() { NO_OUTPUT.to_owned() } else { output };
            let mut sent_images = Vec::with_capacity(images.len());
            for image in images {
                match self.image(image) {
                    SentPart::Text(note) => output.extend(["\n", &note]),
                    SentPart::Image(image) => sent_images.push(image),
                }
            }
            results.push(SentResult { id: sent.id.clone(), name: sent.name.clone(), output, is_error, images: sent_images });
        }
        self.sent.push(Sent::ToolResults(results));
    }

    fn texts(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(Message::User { text, images, .. }) = slot.message.as_deref() {
                for image in images {
                    let image = self.image(image);
                    self.part(image);
                }
                self.text(text);
            }
            if let Some(Message::Note { text }) = slot.message.as_deref() {
                self.text(text);
            }
        }
    }

    /// Adds words of the person or of the runtime; neighbours merge, blank ones go.
    fn text(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.part(text.into());
        }
    }

    fn part(&mut self, part: SentPart) {
        match self.sent.last_mut() {
            Some(Sent::User(parts)) => parts.push(part),
            _ => self.sent.push(Sent::User(vec![part])),
        }
    }

    /// The image, or words in its place where it was refused or is gone.
    fn image(&self, image: &ImageRef) -> SentPart {
        if let Some(reason) = self.state.refused_image(self.target, image) {
            return SentPart::Text(format!("[an image was left out ({}): it was refused: {reason}]", image.label()));
        }
        match self.images.get(image) {
            Some(base64) => SentPart::Image(SentImage { image: image.clone(), base64: base64.clone() }),
            None => SentPart::Text(format!("[An image was here ({}). It is missing now.]", image.label())),
        }
    }

    /// The provider's own id for its own calls, ours for all others, and never one twice.
    fn id(&mut self, call: &ToolCall, own: bool) -> String {
        let theirs = own && is_legal_id(&call.provider_id) && !self.is_taken(&call.provider_id);
        let mut id = if theirs { call.provider_id.clone() } else { call.id.clone() };
        let mut number = self.ids_before.len() + self.ids.len();
        if !is_legal_id(&id) {
            id = format!("call_{number}");
        }
        while self.is_taken(&id) {
            id = format!("call_x{number}");
            number += 1;
        }
        self.ids.insert(id.clone());
        id
    }

    fn is_taken(&self, id: &str) -> bool {
        self.ids.contains(id) || self.ids_before.contains(id)
    }

    /// Makes an end of it that a model may be asked with.
    pub(crate) fn finish(&mut self) {
        match self.sent.last() {
            None => self.text(MISSING),
            Some(Sent::Assistant { .. }) => self.text(CONTINUE),
            Some(_) => {}
        }
    }
}

fn without_result(unresolved: &BTreeMap<String, Unresolved>, call: &str, answer: &AssistantMessage) -> String {
    let Some(known) = unresolved.get(call) else { return UNKNOWN.to_owned() };
    match (&known.denied, known.started) {
        (Some(reason), _) => format!("Denied: {reason}"),
        (None, Some(false)) => with_output(LOST, &known.output),
        (None, Some(true)) => with_output(UNKNOWN, &known.output),
        (None, None) if known.gap => UNKNOWN.to_owned(),
        (None, None) if answer.stop == StopReason::MaxTokens => "Not run: the answer was cut at its length limit.".to_owned(),
        (None, None) => NOT_RUN.to_owned(),
    }
}

/// What a call that was stopped is told to have put out by then, behind `words`.
pub(crate) fn with_output(words: &str, output: &str) -> String {
    if output.trim().is_empty() { words.to_owned() } else { format!("{words}{OUTPUT_UNTIL_THEN}{output}") }
}

/// What both Anthropic (`^[a-zA-Z0-9_-]+$`, 64 at most) and OpenAI (40 characters at most) take.
fn is_legal_id(id: &str) -> bool {
    (1..=40).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// A tool's name that providers take back, also where a model made one up.
fn legal_name(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    let name: String = name.chars().take(64).map(legal).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Arguments verbatim where they are a JSON object. What a model wrote that is none is refused by most servers when it comes back, so it is
/// sent as the text that it is, in an object; the result of the call says what was wrong with it.
fn legal_arguments(arguments: &str) -> String {
    if arguments.trim().is_empty() {
        return "{}".to_owned();
    }
    match serde_json::from_str::<HashMap<String, IgnoredAny>>(arguments) {
        Ok(_) => arguments.to_owned(),
        Err(_) => serde_json::json!({"_raw": arguments}).to_string(),
    }
}
