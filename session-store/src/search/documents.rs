//! What of a session can be found: its entries in, [`Document`]s out.
//!
//! A person's message, an answer, its reasoning, a tool call's arguments and a tool's output are a document each. An answer that nothing ended is
//! the pieces that came of it, under the `seq` of its request, as the fold has it. What is only beside the log (the whole of a long output, an image) is not
//! looked into, nor are the system prompt, notes and todo lists.

use super::query::SearchRole;
use crate::event::{Block, Entry, Event, ToolCall, UserKind, with_images};
use crate::id::{Place, Seq};
use crate::time::Timestamp;
use serde_json::Value;

/// A text that can be found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// The event that has it.
    pub(super) seq: Seq,
    /// Where that event stands, as a hint.
    pub(super) place: Place,
    /// Which of that event's documents it is.
    pub(super) part: u32,
    pub(super) at: Timestamp,
    pub(super) role: SearchRole,
    pub(super) tool: Option<String>,
    /// The model of the session by then, as `provider/name`.
    pub(super) model: Option<String>,
    pub(super) text: String,
}

/// The documents of a session, from its entries in the order in which a reader gives them.
#[derive(Clone, Debug, Default)]
pub(super) struct Documents {
    /// Where the reading goes on.
    pub(super) next: Seq,
    /// The checksum of the entry before that one: whether it is still the same log.
    pub(super) crc: u32,
    pub(super) cwd: Option<String>,
    pub(super) model: Option<String>,
    /// The answer that is coming in, and `next` and `crc` as they were before it.
    coming: Option<(Coming, Seq, u32)>,
}

#[derive(Clone, Debug, Default)]
struct Coming {
    message: Seq,
    place: Place,
    at: Timestamp,
    text: String,
    reasoning: String,
}

impl Documents {
    /// Goes on where an earlier reading ended. The entry before `next` comes first, through [`Documents::continues`].
    pub(super) fn resume(next: Seq, crc: u32, cwd: Option<String>, model: Option<String>) -> Self {
        Self { next, crc, cwd, model, coming: None }
    }

    /// Whether `entry` is the one before `next`, unchanged.
    pub(super) fn continues(&self, entry: &Entry) -> bool {
        entry.seq + 1 == self.next && crc_of(entry) == self.crc
    }

    /// From where to read on later, and the checksum of the entry before: an answer that is still coming in is read again then.
    pub(super) fn place(&self) -> (Seq, u32) {
        self.coming.as_ref().map_or((self.next, self.crc), |(_, next, crc)| (*next, *crc))
    }

    /// Takes an entry and appends its documents to `out`.
    pub(super) fn push(&mut self, entry: &Entry, out: &mut Vec<Document>) {
        // The place of an entry that cannot be checked may be wrong, unless it is the very next.
        if !entry.sound && entry.seq != self.next {
            return;
        }
        let before = (self.next, self.crc);
        if entry.seq >= self.next {
            self.next = entry.seq + 1;
            self.crc = crc_of(entry);
        }
        match &entry.event {
            Event::SessionStarted(started) => self.cwd.clone_from(&started.cwd),
            Event::Profile(profile) => self.model = Some(profile.model.clone()),
            Event::UserMessage(user) => {
                if user.kind != UserKind::Steer {
                    self.end_coming(out);
                }
                let text = with_images(&user.text, &user.images).into_owned();
                out.push(self.document(entry, SearchRole::User, None, text));
            }
            Event::ModelRequest(_) => {
                self.end_coming(out);
                self.coming = Some((
                    Coming { message: entry.seq, place: entry.place, at: entry.at, ..Coming::default() },
                    before.0,
                    before.1,
                ));
            }
            Event::AssistantText(piece) => self.add(piece.message, |coming| coming.text.push_str(&piece.text)),
            Event::AssistantReasoning(piece) => self.add(piece.message, |coming| coming.reasoning.push_str(&piece.text)),
            Event::AssistantMessage(message) => {
                if self.coming.take_if(|(coming, ..)| coming.message == message.message).is_none() {
                    self.end_coming(out);
                }
                self.push_blocks(entry, &message.blocks, out);
            }
            Event::ToolFinished(finished) => {
                let text = with_images(&finished.output, &finished.images).into_owned();
                out.push(self.document(entry, SearchRole::Tool, Some(finished.name.clone()), text));
            }
            Event::ModelError(error) if self.coming.as_ref().is_some_and(|(coming, ..)| coming.message == error.message) => {
                self.end_coming(out);
            }
            Event::TurnEnded(_) | Event::Opened(_) => self.end_coming(out),
            _ => {}
        }
    }

    /// Whether an answer is coming in.
    pub(super) fn is_coming(&self) -> bool {
        self.coming.is_some()
    }

    /// What came of an answer that nothing ended, where nobody writes the session any more.
    pub(super) fn finish(&mut self, out: &mut Vec<Document>) {
        self.end_coming(out);
    }

    fn push_blocks(&self, entry: &Entry, blocks: &[Block], out: &mut Vec<Document>) {
        let from = out.len();
        let (mut text, mut reasoning) = (String::new(), String::new());
        for block in blocks {
            let (all, more) = match block {
                Block::Text { text: more } => (&mut text, more),
                Block::Reasoning { text: more, .. } => (&mut reasoning, more),
                _ => continue,
            };
            if !all.is_empty() {
                all.push('\n');
            }
            all.push_str(more);
        }
        for (role, text) in [(SearchRole::Assistant, text), (SearchRole::Reasoning, reasoning)] {
            if !text.is_empty() {
                out.push(self.document(entry, role, None, text));
            }
        }
        for block in blocks {
            if let Block::ToolCall(call) = block {
                out.push(self.document(entry, SearchRole::Tool, Some(call.name.clone()), call_text(call)));
            }
        }
        number(&mut out[from..]);
    }

    fn add(&mut self, message: Seq, add: impl FnOnce(&mut Coming)) {
        if let Some((coming, ..)) = self.coming.as_mut().filter(|(coming, ..)| coming.message == message) {
            add(coming);
        }
    }

    fn end_coming(&mut self, out: &mut Vec<Document>) {
        let Some((coming, ..)) = self.coming.take() else { return };
        let from = out.len();
        for (role, text) in [(SearchRole::Assistant, coming.text), (SearchRole::Reasoning, coming.reasoning)] {
            if !text.is_empty() {
                let model = self.model.clone();
                out.push(Document {
                    seq: coming.message,
                    place: coming.place,
                    part: 0,
                    at: coming.at,
                    role,
                    tool: None,
                    model,
                    text,
                });
            }
        }
        number(&mut out[from..]);
    }

    fn document(&self, entry: &Entry, role: SearchRole, tool: Option<String>, text: String) -> Document {
        Document { seq: entry.seq, place: entry.place, part: 0, at: entry.at, role, tool, model: self.model.clone(), text }
    }
}

/// Tells the documents of one event apart.
fn number(documents: &mut [Document]) {
    documents.iter_mut().zip(0..).for_each(|(document, part)| document.part = part);
}

fn crc_of(entry: &Entry) -> u32 {
    let mut json = Vec::new();
    entry.write_json(&mut json);
    crc32c::crc32c(&json)
}

/// The tool's name and the values of its arguments: nobody looks for JSON's quotes and escapes.
fn call_text(call: &ToolCall) -> String {
    let mut text = call.name.clone();
    match serde_json::from_str::<Value>(&call.arguments) {
        Ok(arguments) => push_values(&arguments, &mut text),
        Err(_) => text.extend(["\n", &call.arguments]),
    }
    text
}

fn push_values(value: &Value, text: &mut String) {
    match value {
        Value::String(words) => text.extend(["\n", words]),
        Value::Array(values) => values.iter().for_each(|value| push_values(value, text)),
        Value::Object(members) => members.values().for_each(|value| push_values(value, text)),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => text.extend(["\n", &value.to_string()]),
    }
}
