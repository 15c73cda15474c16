//! From a log to the form of another program.
//!
//! What was imported from the same form is written as it was, record by record; what happened since is written behind it, and a session
//! that was never anything else is written as that program would have. Only the conversation as it stands goes out: what was rewound stays
//! in the log. What was trimmed from the context goes out: another program has its own window.
//!
//! An exporter sees the log twice: [`Exporter::survey`] with each entry, then [`Exporter::write`] with each. Before that it is given the images of the
//! entry ([`Exporter::images`]), which lie beside the log; one that it is not given is named by its kind and size.

use super::ImportFormat;
use super::originals::Unfold;
use crate::event::{AssistantMessage, Block, Entry, Event, ImageRef, SessionImported, ToolOutcome, with_images};
use crate::id::{Seq, SessionId};
use crate::state::{Message, State};
use crate::time::Timestamp;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportFormat {
    /// A session of Claude Code, JSONL.
    ClaudeCode,
    /// A rollout of Codex, JSONL.
    Codex,
    /// A session of pi, JSONL.
    Pi,
    /// An object with OpenAI Chat Completions messages; an array where an array was imported.
    OpenAi,
    /// An object with Anthropic messages; an array where an array was imported.
    Anthropic,
}

impl ExportFormat {
    fn imported(self) -> ImportFormat {
        match self {
            Self::ClaudeCode => ImportFormat::ClaudeCode,
            Self::Codex => ImportFormat::Codex,
            Self::Pi => ImportFormat::Pi,
            Self::OpenAi => ImportFormat::OpenAi,
            Self::Anthropic => ImportFormat::Anthropic,
        }
    }

    fn is_array(self) -> bool {
        matches!(self, Self::OpenAi | Self::Anthropic)
    }
}

/// Writes a session in the form of another program.
pub struct Exporter {
    format: ExportFormat,
    session: SessionId,
    /// The fold, without trims and without the bodies of messages.
    state: State,
    /// The messages of the conversation, once all was seen.
    main: HashSet<Seq>,
    /// Answers that a crash cut: their pieces are their text.
    cut: HashMap<Seq, AssistantMessage>,
    unfold: Unfold,
    imported: Option<SessionImported>,
    /// The epoch of the entry that is written.
    epoch: u64,
    /// The images of the entry that is written, as far as they are there.
    images: HashMap<String, Vec<u8>>,
    step: Option<Step>,
    names: Names,
    /// The id of the last record, which the next one names as its parent.
    parent: Option<String>,
    /// How many messages of an array were written.
    messages: u64,
    /// The object around an array, as it was imported.
    around: Option<Map<String, Value>>,
    cwd: String,
    model: String,
    system: String,
}

/// An answer, and what came until the next.
struct Step {
    seq: Seq,
    at: Timestamp,
    answer: AssistantMessage,
    results: HashMap<String, (Timestamp, ToolOutcome, Said)>,
    texts: Vec<(Seq, Timestamp, Said)>,
}

/// What is said in a message: words, and images before them.
#[derive(Default)]
struct Said {
    text: String,
    images: Vec<Picture>,
}

struct Picture {
    media_type: String,
    base64: String,
}

impl Picture {
    fn url(&self) -> String {
        format!("data:{};base64,{}", self.media_type, self.base64)
    }
}

impl Said {
    /// The parts of a content: those of the images, and the one of the words.
    fn parts(&self, image: impl FnMut(&Picture) -> Value, text: &str) -> Value {
        let words = (!self.text.trim().is_empty()).then(|| json!({"type": text, "text": self.text}));
        self.images.iter().map(image).chain(words).collect()
    }

    /// As Anthropic has it: a text, or parts where there are images.
    fn anthropic(&self) -> Value {
        let image = |image: &Picture| json!({"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.base64}});
        if self.images.is_empty() { self.text.clone().into() } else { self.parts(image, "text") }
    }

    /// As Chat Completions has it.
    fn openai(&self) -> Value {
        if self.images.is_empty() { self.text.clone().into() } else { self.parts(openai_image, "text") }
    }

    fn codex(&self) -> Value {
        self.parts(|image| json!({"type": "input_image", "image_url": image.url()}), "input_text")
    }

    fn pi(&self) -> Value {
        self.parts(|image| json!({"type": "image", "data": image.base64, "mimeType": image.media_type}), "text")
    }
}

/// Ids of calls: the provider's own, and never one twice.
#[derive(Default)]
struct Names {
    used: HashSet<String>,
}

impl Names {
    fn name(&mut self, provider_id: &str, id: &str) -> String {
        let is_legal = (1..=40).contains(&provider_id.len())
            && provider_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let name = if is_legal && !self.used.contains(provider_id) { provider_id } else { id };
        self.used.insert(name.to_owned());
        name.to_owned()
    }
}

impl Exporter {
    /// For the session `session`.
    #[must_use]
    pub fn new(format: ExportFormat, session: SessionId) -> Self {
        Self {
            format,
            session,
            state: State::default(),
            main: HashSet::new(),
            cut: HashMap::new(),
            unfold: Unfold::default(),
            imported: None,
            epoch: 0,
            images: HashMap::new(),
            step: None,
            names: Names::default(),
            parent: None,
            messages: 0,
            around: None,
            cwd: String::new(),
            model: String::new(),
            system: String::new(),
        }
    }

    /// Looks at an entry, before any is written.
    pub fn survey(&mut self, entry: &Entry) {
        if let Event::SessionImported(imported) = &entry.event {
            self.imported = Some(imported.clone()).filter(|imported| imported.format == self.format.imported().name());
        }
        if matches!(entry.event, Event::ContextTrimmed(_)) {
            return;
        }
        self.state.apply(entry);
        for slot in self.state.context.iter_mut().rev().take_while(|slot| slot.message.is_some()) {
            if let Some(Message::Assistant(answer)) = slot.message.take().as_deref()
                && answer.partial
                && answer.message == slot.seq
            {
                self.cut.insert(slot.seq, answer.clone());
            }
        }
    }

    /// All entries were seen; gives the beginning.
    #[must_use]
    pub fn begin(&mut self) -> Vec<u8> {
        self.main = self.state.context.iter().map(|slot| slot.seq).collect();
        self.cwd = self.state.cwd.clone().unwrap_or_default();
        if let Some(profile) = self.state.profile.clone() {
            profile.model.split_once('/').map_or(&*profile.model, |(_, model)| model).clone_into(&mut self.model);
            self.system.clone_from(&profile.system);
        }
        if self.imported.is_some() {
            return Vec::new();
        }
        let at = self.state.created_at.unwrap_or_default();
        match self.format {
            ExportFormat::OpenAi if !self.system.is_empty() => {
                let system = self.system.clone();
                self.record(&json!({"role": "system", "content": system}))
            }
            ExportFormat::ClaudeCode | ExportFormat::OpenAi | ExportFormat::Anthropic => Vec::new(),
            ExportFormat::Codex => self.record(&self.codex_meta(at)),
            ExportFormat::Pi => {
                let cwd = self.cwd.clone();
                self.record(&json!({"type": "session", "version": 3, "id": self.session, "timestamp": at, "cwd": cwd}))
            }
        }
    }

    /// The images that [`Exporter::write`] of `entry` asks for.
    #[must_use]
    pub fn images<'a>(&self, entry: &'a Entry) -> &'a [ImageRef] {
        let is_record = self.imported.is_some() && self.epoch <= 1;
        match &entry.event {
            _ if is_record || !self.main.contains(&entry.seq) => &[],
            Event::UserMessage(user) => &user.images,
            Event::ToolFinished(finished) => &finished.images,
            _ => &[],
        }
    }

    /// Gives an image of the entry that is written next.
    pub fn add_image(&mut self, image: &ImageRef, bytes: Vec<u8>) {
        self.images.insert(image.sha256.clone(), bytes);
    }

    /// Writes what `entry` makes ready.
    #[must_use]
    pub fn write(&mut self, entry: &Entry) -> Vec<u8> {
        let out = self.write_entry(entry);
        self.images.clear();
        out
    }

    fn write_entry(&mut self, entry: &Entry) -> Vec<u8> {
        self.unfold.learn(entry.seq, &entry.event);
        if let Event::Opened(opened) = &entry.event {
            self.epoch = opened.epoch;
        }
        match &entry.event {
            Event::Unknown(unknown) if self.imported.is_some() => self.original(&unknown.type_name, &unknown.fields),
            // What was made of the records is written as those.
            _ if self.imported.is_some() && self.epoch <= 1 => Vec::new(),
            _ => self.event(entry),
        }
    }

    /// The end.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = self.end_step();
        if !self.format.is_array() {
            return out;
        }
        let is_object = self.imported.is_none() || self.around.is_some();
        if self.messages == 0 {
            out.extend(self.open_array());
        }
        out.extend_from_slice(if is_object { b"\n]}\n" } else { b"\n]\n" });
        out
    }

    fn original(&mut self, type_name: &str, fields: &Map<String, Value>) -> Vec<u8> {
        let prefix = format!("imported.{}.", self.format.imported().name());
        let Some(kind) = type_name.strip_prefix(&prefix) else { return Vec::new() };
        if kind == "unreadable" {
            let text = fields.get("text").and_then(Value::as_str).unwrap_or_default();
            return format!("{text}\n").into_bytes();
        }
        let Some(record) = self.unfold.record(fields) else { return Vec::new() };
        if self.format.is_array() && kind == "conversation" {
            self.around = record.as_object().cloned();
            return Vec::new();
        }
        for key in ["uuid", "id"] {
            let is_away = record["isSidechain"] == Value::Bool(true) || record["type"] == "session";
            if let Some(id) = record[key].as_str().filter(|_| !is_away) {
                self.parent = Some(id.to_owned());
                break;
            }
        }
        self.record(&record)
    }

    fn event(&mut self, entry: &Entry) -> Vec<u8> {
        let is_main = self.main.contains(&entry.seq);
        match &entry.event {
            Event::UserMessage(user) if is_main => self.words(entry, self.said(&user.text, &user.images)),
            Event::Note(note) if is_main => self.words(entry, self.said(&note.text, &[])),
            Event::AssistantMessage(answer) if is_main => self.answer(entry, answer.clone()),
            Event::ModelRequest(_) => match self.cut.remove(&entry.seq) {
                Some(answer) if is_main => self.answer(entry, answer),
                _ => Vec::new(),
            },
            Event::ToolFinished(finished) if is_main => {
                let said = self.said(&finished.output, &finished.images);
                if let Some(step) = &mut self.step {
                    step.results.entry(finished.call.clone()).or_insert((entry.at, finished.outcome, said));
                }
                Vec::new()
            }
            Event::TurnEnded(_) | Event::Opened(_) => self.end_step(),
            _ => Vec::new(),
        }
    }

    /// The words, and the images that were given; others are named among the words.
    fn said(&self, text: &str, images: &[ImageRef]) -> Said {
        let (mut pictures, mut missing) = (Vec::new(), Vec::new());
        for image in images {
            match self.images.get(&image.sha256) {
                Some(bytes) => {
                    pictures.push(Picture { media_type: image.media_type.clone(), base64: BASE64_STANDARD.encode(bytes) });
                }
                None => missing.push(image.clone()),
            }
        }
        Said { text: with_images(text, &missing).into_owned(), images: pictures }
    }

    fn words(&mut self, entry: &Entry, said: Said) -> Vec<u8> {
        if said.text.trim().is_empty() && said.images.is_empty() {
            return Vec::new();
        }
        match &mut self.step {
            // Behind the results.
            Some(step) => {
                step.texts.push((entry.seq, entry.at, said));
                Vec::new()
            }
            None => self.user(entry.seq, entry.at, &said),
        }
    }

    fn answer(&mut self, entry: &Entry, answer: AssistantMessage) -> Vec<u8> {
        let out = self.end_step();
        self.step = Some(Step { seq: entry.seq, at: entry.at, answer, results: HashMap::new(), texts: Vec::new() });
        out
    }

    /// Writes an answer, its results in the order of its calls, and what was said meanwhile.
    fn end_step(&mut self) -> Vec<u8> {
        let Some(Step { seq, at, mut answer, mut results, texts }) = self.step.take() else { return Vec::new() };
        if answer.partial {
            // A call in an answer that was cut may itself be cut; it was never run.
            answer.blocks.retain(|block| !matches!(block, Block::ToolCall(_)));
        }
        let mut named = Vec::new();
        for block in &mut answer.blocks {
            let Block::ToolCall(call) = block else { continue };
            let name = self.names.name(&call.provider_id, &call.id);
            named.push((name.clone(), call.name.clone(), results.remove(&call.id)));
            call.provider_id = name;
        }
        let mut out = self.assistant(seq, at, &answer);
        let results = named.into_iter().map(|(id, name, result)| match result {
            Some((at, outcome, said)) => ToolResult { id, name, at, is_error: outcome != ToolOutcome::Ok, said },
            None => {
                let said = Said { text: "No result was recorded.".to_owned(), images: Vec::new() };
                ToolResult { id, name, at, is_error: true, said }
            }
        });
        let results: Vec<ToolResult> = results.collect();
        if !results.is_empty() {
            out.extend(self.results(seq, &results));
        }
        for (seq, at, said) in texts {
            out.extend(self.user(seq, at, &said));
        }
        out
    }

    fn user(&mut self, seq: Seq, at: Timestamp, said: &Said) -> Vec<u8> {
        match self.format {
            ExportFormat::ClaudeCode => self.claude("user", seq, 0, at, &json!({"role": "user", "content": said.anthropic()})),
            ExportFormat::Codex => {
                let mut out = self.codex_item(at, &json!({"type": "message", "role": "user", "content": said.codex()}));
                out.extend(self.codex("event_msg", at, &json!({"type": "user_message", "message": said.text, "kind": "plain"})));
                out
            }
            ExportFormat::Pi => self.pi(seq, 0, at, &json!({"role": "user", "content": said.pi(), "timestamp": at.as_ms()})),
            ExportFormat::OpenAi => self.record(&json!({"role": "user", "content": said.openai()})),
            ExportFormat::Anthropic => self.record(&json!({"role": "user", "content": said.anthropic()})),
        }
    }

    fn assistant(&mut self, seq: Seq, at: Timestamp, answer: &AssistantMessage) -> Vec<u8> {
        if !answer.blocks.iter().any(|block| matches!(block, Block::ToolCall(_)) || is_said(block)) {
            return Vec::new();
        }
        match self.format {
            ExportFormat::ClaudeCode => {
                let content: Vec<Value> = answer.blocks.iter().filter_map(anthropic_block).collect();
                let stop = if answer.tool_calls().next().is_some() { "tool_use" } else { "end_turn" };
                let usage = answer.usage.unwrap_or_default();
                let cached = usage.cache_read_tokens.unwrap_or(0) + usage.cache_write_tokens.unwrap_or(0);
                let message = json!({
                    "id": format!("msg_{}", &self.uuid(seq, 9).simple().to_string()[..24]), "type": "message", "role": "assistant",
                    "model": answer.origin.model, "content": content, "stop_reason": stop, "stop_sequence": null,
                    "usage": {"input_tokens": usage.input_tokens.unwrap_or(0).saturating_sub(cached),
                        "cache_creation_input_tokens": usage.cache_write_tokens.unwrap_or(0),
                        "cache_read_input_tokens": usage.cache_read_tokens.unwrap_or(0), "output_tokens": usage.output_tokens.unwrap_or(0)},
                });
                self.claude("assistant", seq, 0, at, &message)
            }
            ExportFormat::Codex => {
                let mut out = Vec::new();
                for block in &answer.blocks {
                    out.extend(match block {
                        Block::Text { text } if !text.trim().is_empty() => {
                            let content = json!([{"type": "output_text", "text": text}]);
                            let mut item = self.codex_item(at, &json!({"type": "message", "role": "assistant", "content": content}));
                            item.extend(self.codex("event_msg", at, &json!({"type": "agent_message", "message": text})));
                            item
                        }
                        Block::ToolCall(call) => self.codex_item(
                            at,
                            &json!({"type": "function_call", "name": call.name, "arguments": call.arguments, "call_id": call.provider_id}),
                        ),
                        _ => Vec::new(),
                    });
                }
                out
            }
            ExportFormat::Pi => {
                let content: Vec<Value> = answer.blocks.iter().filter_map(pi_block).collect();
                let usage = answer.usage.unwrap_or_default();
                let (read, write) = (usage.cache_read_tokens.unwrap_or(0), usage.cache_write_tokens.unwrap_or(0));
                let (input, output) = (usage.input_tokens.unwrap_or(0), usage.output_tokens.unwrap_or(0));
                let cost = json!({"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": 0});
                let api = if answer.origin.provider == "anthropic" { "anthropic-messages" } else { "openai-completions" };
                let stop = if answer.partial {
                    "aborted"
                } else if answer.tool_calls().next().is_some() {
                    "toolUse"
                } else {
                    "stop"
                };
                let message = json!({
                    "role": "assistant", "content": content, "api": api, "provider": answer.origin.provider,
                    "model": answer.origin.model, "usage": {"input": input.saturating_sub(read + write), "output": output,
                        "cacheRead": read, "cacheWrite": write, "totalTokens": input.saturating_add(output), "cost": cost},
                    "stopReason": stop, "timestamp": at.as_ms(),
                });
                self.pi(seq, 0, at, &message)
            }
            ExportFormat::OpenAi => {
                let calls = answer.tool_calls().map(|call| {
                    json!({"id": call.provider_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
                });
                let calls: Vec<Value> = calls.collect();
                let text = answer.text();
                let mut message =
                    json!({"role": "assistant", "content": if text.trim().is_empty() { Value::Null } else { text.into() }});
                if !calls.is_empty() {
                    message["tool_calls"] = calls.into();
                }
                self.record(&message)
            }
            ExportFormat::Anthropic => {
                let content: Vec<Value> = answer.blocks.iter().filter_map(anthropic_block).collect();
                self.record(&json!({"role": "assistant", "content": content}))
            }
        }
    }

    fn results(&mut self, seq: Seq, results: &[ToolResult]) -> Vec<u8> {
        let mut out = Vec::new();
        let at = results.last().map(|result| result.at).unwrap_or_default();
        match self.format {
            ExportFormat::ClaudeCode => {
                let content: Vec<Value> = results.iter().map(ToolResult::anthropic).collect();
                out = self.claude("user", seq, 1, at, &json!({"role": "user", "content": content}));
            }
            ExportFormat::Anthropic => {
                let content: Vec<Value> = results.iter().map(ToolResult::anthropic).collect();
                out = self.record(&json!({"role": "user", "content": content}));
            }
            ExportFormat::Codex => {
                for result in results {
                    let output =
                        if result.said.images.is_empty() { result.said.text.clone().into() } else { result.said.codex() };
                    let item = json!({"type": "function_call_output", "call_id": result.id, "output": output});
                    out.extend(self.codex_item(result.at, &item));
                }
            }
            ExportFormat::Pi => {
                for (index, result) in results.iter().enumerate() {
                    let content = result.said.pi();
                    let message = json!({
                        "role": "toolResult", "toolCallId": result.id, "toolName": result.name, "content": content,
                        "isError": result.is_error, "timestamp": result.at.as_ms(),
                    });
                    out.extend(self.pi(seq, index + 1, result.at, &message));
                }
            }
            ExportFormat::OpenAi => {
                for result in results {
                    out.extend(self.record(&json!({"role": "tool", "tool_call_id": result.id, "content": result.said.text})));
                }
                // A tool's message takes no images.
                let images: Vec<Value> = results.iter().flat_map(|result| &result.said.images).map(openai_image).collect();
                if !images.is_empty() {
                    out.extend(self.record(&json!({"role": "user", "content": images})));
                }
            }
        }
        out
    }

    fn claude(&mut self, kind: &str, seq: Seq, part: usize, at: Timestamp, message: &Value) -> Vec<u8> {
        let uuid = self.uuid(seq, part).to_string();
        let parent = self.parent.replace(uuid.clone());
        let id = self.imported.as_ref().map_or_else(|| self.session.to_string(), |imported| imported.id.clone());
        let cwd = self.cwd.clone();
        self.record(&json!({
            "parentUuid": parent, "isSidechain": false, "userType": "external", "cwd": cwd, "sessionId": id,
            "version": "2.0.0", "gitBranch": "", "type": kind, "message": message, "uuid": uuid, "timestamp": at,
        }))
    }

    /// Who answers is not said: Codex refuses a session of a provider that it does not know, and else asks its own.
    fn codex_meta(&self, at: Timestamp) -> Value {
        json!({"timestamp": at, "type": "session_meta", "payload": {
            "id": self.session, "timestamp": at, "cwd": self.cwd, "originator": "longhand", "cli_version": "0.0.0",
            "source": "cli", "instructions": null,
        }})
    }

    fn codex_item(&mut self, at: Timestamp, payload: &Value) -> Vec<u8> {
        self.codex("response_item", at, payload)
    }

    fn codex(&mut self, kind: &str, at: Timestamp, payload: &Value) -> Vec<u8> {
        self.record(&json!({"timestamp": at, "type": kind, "payload": payload}))
    }

    fn pi(&mut self, seq: Seq, part: usize, at: Timestamp, message: &Value) -> Vec<u8> {
        let id = self.uuid(seq, part).simple().to_string()[..8].to_owned();
        let parent = self.parent.replace(id.clone());
        self.record(&json!({"type": "message", "id": id, "parentId": parent, "timestamp": at, "message": message}))
    }

    /// An id that is the same in every export.
    fn uuid(&self, seq: Seq, part: usize) -> Uuid {
        let hash = Sha256::digest(format!("{} {seq} {part}", self.session));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    fn record(&mut self, record: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        if self.format.is_array() {
            out = if self.messages == 0 { self.open_array() } else { b",".to_vec() };
            out.push(b'\n');
            self.messages += 1;
        }
        out.extend_from_slice(record.to_string().as_bytes());
        if !self.format.is_array() {
            out.push(b'\n');
        }
        out
    }

    /// What stands before the first message of an array.
    fn open_array(&self) -> Vec<u8> {
        let around = match (&self.imported, &self.around) {
            (Some(_), None) => return b"[".to_vec(),
            (_, Some(around)) => around.clone(),
            (None, None) => self.new_around(),
        };
        let mut json = Value::Object(around).to_string();
        json.pop();
        let comma = if json.len() > 1 { "," } else { "" };
        format!("{json}{comma}\"messages\":[").into_bytes()
    }

    fn new_around(&self) -> Map<String, Value> {
        let mut around = Map::new();
        if !self.model.is_empty() {
            around.insert("model".to_owned(), self.model.clone().into());
        }
        if self.format == ExportFormat::Anthropic && !self.system.is_empty() {
            around.insert("system".to_owned(), self.system.clone().into());
        }
        around
    }
}

struct ToolResult {
    id: String,
    name: String,
    at: Timestamp,
    is_error: bool,
    said: Said,
}

impl ToolResult {
    fn anthropic(&self) -> Value {
        json!({"type": "tool_result", "tool_use_id": self.id, "content": self.said.anthropic(), "is_error": self.is_error})
    }
}

fn openai_image(image: &Picture) -> Value {
    json!({"type": "image_url", "image_url": {"url": image.url()}})
}

fn is_said(block: &Block) -> bool {
    matches!(block, Block::Text { text } if !text.trim().is_empty())
}

/// A block as Anthropic has it. Reasoning without its own block has no signature, and would be refused.
fn anthropic_block(block: &Block) -> Option<Value> {
    match block {
        Block::Text { text } if is_said(block) => Some(json!({"type": "text", "text": text})),
        Block::ToolCall(call) => {
            Some(json!({"type": "tool_use", "id": call.provider_id, "name": call.name, "input": input(&call.arguments)}))
        }
        _ => None,
    }
}

fn pi_block(block: &Block) -> Option<Value> {
    match block {
        Block::Text { text } if is_said(block) => Some(json!({"type": "text", "text": text})),
        Block::Reasoning { text, .. } if !text.trim().is_empty() => Some(json!({"type": "thinking", "thinking": text})),
        Block::ToolCall(call) => {
            Some(json!({"type": "toolCall", "id": call.provider_id, "name": call.name, "arguments": input(&call.arguments)}))
        }
        _ => None,
    }
}

/// The arguments as an object, as they must be there.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(fields)) => Value::Object(fields),
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({"_raw": arguments}),
    }
}
