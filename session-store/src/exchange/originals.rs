//! The records of another program inside a log: whole, but for texts that the events before them have already.
//!
//! A record is kept to be written again as it was. Most of its bytes are the words of the very message that was made of it, so a text
//! of it that is also in one of the last [`WINDOW`] messages is replaced by its place: `{"$text": [seq, n]}` is the `n`th text of the event
//! `seq`, `{"$json": [seq, n]}` the JSON that this text is. A record that has such keys of its own is kept as it is (`plain`).

use crate::event::{Block, Event};
use crate::id::Seq;
use serde_json::{Value, json};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

/// How many messages back a text is looked for.
const WINDOW: usize = 64;
/// Shorter texts are kept: the place of one takes some bytes itself.
const TEXT_BYTES_MIN: usize = 48;
const TEXT: &str = "$text";
const JSON: &str = "$json";

/// The texts of an event, in an order that never changes.
fn texts(event: &Event) -> Vec<&str> {
    match event {
        Event::UserMessage(user) => vec![&user.text],
        Event::Note(note) => vec![&note.text],
        Event::ContextTrimmed(trim) => vec![&trim.note],
        Event::ToolFinished(finished) => vec![&finished.output],
        Event::AssistantMessage(message) => message.blocks.iter().flat_map(block_texts).collect(),
        _ => Vec::new(),
    }
}

fn block_texts(block: &Block) -> Vec<&str> {
    match block {
        Block::Text { text } => vec![text],
        Block::ToolCall(call) => vec![&call.arguments],
        Block::Reasoning { text, opaque } => {
            let fields = opaque.iter().filter_map(Value::as_object).flat_map(serde_json::Map::values);
            std::iter::once(text.as_str()).chain(fields.filter_map(Value::as_str)).collect()
        }
        _ => Vec::new(),
    }
}

/// Knows the texts of the last messages, to leave them out of records.
#[derive(Default)]
pub(super) struct Originals {
    hasher: RandomState,
    /// By hash and length.
    places: HashMap<(u64, usize), (Seq, usize)>,
    messages: VecDeque<Vec<(u64, usize)>>,
}

impl Originals {
    pub(super) fn learn(&mut self, seq: Seq, event: &Event) {
        let texts = texts(event);
        if texts.is_empty() {
            return;
        }
        let keys: Vec<_> = texts.iter().map(|text| self.key(text)).collect();
        for (n, key) in keys.iter().enumerate().filter(|(_, (_, length))| *length >= TEXT_BYTES_MIN) {
            self.places.insert(*key, (seq, n));
        }
        self.messages.push_back(keys);
        if self.messages.len() > WINDOW
            && let Some(old) = self.messages.pop_front()
        {
            // One that came again since is known by its last place.
            for key in old.into_iter().filter(|key| !self.messages.iter().any(|keys| keys.contains(key))) {
                self.places.remove(&key);
            }
        }
    }

    /// The record without the texts that are known, and whether it must be taken as it is.
    pub(super) fn fold(&self, mut record: Value) -> (Value, bool) {
        if has_own_keys(&record) {
            return (record, true);
        }
        self.fold_value(&mut record, false);
        (record, false)
    }

    fn fold_value(&self, value: &mut Value, is_arguments: bool) {
        match value {
            Value::String(text) => {
                if let Some((seq, n)) = self.place(text) {
                    *value = json!({TEXT: [seq, n]});
                }
            }
            Value::Object(_) if is_arguments => {
                if let Some((seq, n)) = self.place(&value.to_string()) {
                    *value = json!({JSON: [seq, n]});
                } else {
                    self.fold_fields(value);
                }
            }
            Value::Object(_) => self.fold_fields(value),
            Value::Array(items) => items.iter_mut().for_each(|item| self.fold_value(item, false)),
            _ => {}
        }
    }

    fn fold_fields(&self, value: &mut Value) {
        for (name, field) in value.as_object_mut().into_iter().flatten() {
            self.fold_value(field, matches!(name.as_str(), "input" | "arguments"));
        }
    }

    fn place(&self, text: &str) -> Option<(Seq, usize)> {
        if text.len() < TEXT_BYTES_MIN { None } else { self.places.get(&self.key(text)).copied() }
    }

    fn key(&self, text: &str) -> (u64, usize) {
        (self.hasher.hash_one(text), text.len())
    }
}

fn has_own_keys(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, field)| name == TEXT || name == JSON || has_own_keys(field)),
        Value::Array(items) => items.iter().any(has_own_keys),
        _ => false,
    }
}

/// Knows the last messages, to put their texts back into records.
#[derive(Default)]
pub(super) struct Unfold {
    messages: VecDeque<(Seq, Vec<String>)>,
}

impl Unfold {
    pub(super) fn learn(&mut self, seq: Seq, event: &Event) {
        let texts = texts(event);
        if !texts.is_empty() {
            self.messages.push_back((seq, texts.into_iter().map(str::to_owned).collect()));
            if self.messages.len() > WINDOW {
                self.messages.pop_front();
            }
        }
    }

    /// The record in the fields of an `imported` event, as it was.
    pub(super) fn record(&self, fields: &serde_json::Map<String, Value>) -> Option<Value> {
        let mut record = fields.get("record")?.clone();
        if fields.get("plain") != Some(&Value::Bool(true)) {
            self.unfold(&mut record);
        }
        Some(record)
    }

    fn unfold(&self, value: &mut Value) {
        match value {
            Value::Object(fields) if fields.len() == 1 => {
                let found = [TEXT, JSON].into_iter().find_map(|key| Some((key, self.text(fields.get(key)?)?)));
                match found {
                    Some((TEXT, text)) => *value = text.into(),
                    Some((_, text)) => *value = serde_json::from_str(text).unwrap_or(Value::Null),
                    None => fields.values_mut().for_each(|field| self.unfold(field)),
                }
            }
            Value::Object(fields) => fields.values_mut().for_each(|field| self.unfold(field)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.unfold(item)),
            _ => {}
        }
    }

    fn text(&self, place: &Value) -> Option<&str> {
        let (seq, n) = (place.get(0)?.as_u64()?, usize::try_from(place.get(1)?.as_u64()?).ok()?);
        let (_, texts) = self.messages.iter().find(|(own, _)| *own == seq)?;
        texts.get(n).map(String::as_str)
    }
}
