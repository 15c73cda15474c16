//! Claude Code: `projects/<folder>/<session>.jsonl`, a tree of records that name their parents by `uuid`.
//!
//! The conversation is the way from the root to the last message that is no sidechain. An answer is several records with one `message.id`, one for
//! each block; calls that were made at once, and their results, are side by side in the tree, and belong to the conversation too. At a
//! compaction the tree begins anew; what was before is found by `logicalParentUuid`.

use super::builder::{Answer, Builder};
use super::record::{Said, arguments, content_text, cwd, items, some_text, text, time, title};
use super::tree::Tree;
use super::{Facts, Reader};
use crate::error::StoreError;
use crate::event::{StopReason, ToolOutcome, Usage};
use serde_json::Value;
use std::collections::HashSet;

/// How many records of others may lie between those of one answer.
const BETWEEN_MAX: usize = 256;

pub(super) fn is_record(record: &Value) -> bool {
    let is_message =
        matches!(text(record, "type"), "user" | "assistant" | "system" | "attachment") && record.get("uuid").is_some();
    is_message || record["sessionId"].is_string() || (text(record, "type") == "summary" && record.get("leafUuid").is_some())
}

#[derive(Default)]
pub(super) struct ClaudeCode {
    tree: Tree,
    /// Answers by line, with their own id.
    answers: Vec<(u64, u64, u64)>,
    /// Results by line, with the record of the call.
    results: Vec<(u64, u64)>,
    main: HashSet<u64>,
    /// How good the title is: of the person, of a model, a summary.
    title_rank: u8,
    answer: Option<(String, Answer)>,
    /// Records that came since that answer began.
    waiting: Vec<Value>,
}

impl Reader for ClaudeCode {
    fn look(&mut self, line: u64, record: &Value, facts: &mut Facts) {
        facts.time(time(&record["timestamp"]));
        if let Some(id) = some_text(record, "sessionId") {
            facts.id = id;
        }
        facts.cwd = facts.cwd.take().or_else(|| cwd(record));
        if let Some(version) = some_text(record, "version") {
            facts.program = format!("claude-code {version}");
        }
        for (kind, key, rank) in [("custom-title", "customTitle", 3), ("ai-title", "aiTitle", 2), ("summary", "summary", 1)] {
            if text(record, "type") == kind
                && rank >= self.title_rank
                && let Some(found) = title(text(record, key))
            {
                (facts.title, self.title_rank) = (Some(found), rank);
            }
        }
        let (kind, uuid) = (text(record, "type"), text(record, "uuid"));
        if uuid.is_empty() || record["isSidechain"] == Value::Bool(true) {
            return;
        }
        let parent = record["parentUuid"].as_str().or_else(|| record["logicalParentUuid"].as_str());
        self.tree.add(line, uuid, parent, matches!(kind, "user" | "assistant"));
        if kind == "assistant" {
            let message = self.tree.key(text(&record["message"], "id"));
            self.answers.push((line, self.tree.key(uuid), message));
        }
        let is_said = kind == "user" && record["isMeta"] != Value::Bool(true) && record["isCompactSummary"] != Value::Bool(true);
        if is_said && facts.title.is_none() {
            facts.title = title(&content_text(&record["message"]["content"]));
        }
        if kind == "user" && items(&record["message"], "content").iter().any(|part| text(part, "type") == "tool_result") {
            let call = record["sourceToolAssistantUUID"].as_str().or(parent).unwrap_or_default();
            self.results.push((line, self.tree.key(call)));
        }
    }

    fn ready(&mut self, facts: &mut Facts) {
        let path = self.tree.path();
        facts.tell_path(&path);
        self.main = path.lines;
        let messages: HashSet<u64> =
            self.answers.iter().filter(|(line, ..)| self.main.contains(line)).map(|(_, _, message)| *message).collect();
        let mut calls = HashSet::new();
        for (line, own, message) in self.answers.drain(..) {
            if messages.contains(&message) {
                self.main.insert(line);
                calls.insert(own);
            }
        }
        self.main.extend(self.results.drain(..).filter(|(_, call)| calls.contains(call)).map(|(line, _)| line));
    }

    fn read(&mut self, line: u64, record: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        let is_main = self.main.contains(&line);
        match text(&record, "type") {
            "assistant" if is_main => return self.answer(record, out),
            "user" if is_main => {
                self.flush(out)?;
                out.at(time(&record["timestamp"]));
                user(&record, out)?;
            }
            "system" if is_main && text(&record, "subtype") == "compact_boundary" => {
                self.flush(out)?;
                out.at(time(&record["timestamp"]));
                out.summary_follows();
            }
            _ if self.answer.is_some() && self.waiting.len() < BETWEEN_MAX => {
                self.waiting.push(record);
                return Ok(());
            }
            _ => self.flush(out)?,
        }
        original(record, out)
    }

    fn finish(&mut self, out: &mut Builder<'_>) -> Result<(), StoreError> {
        self.flush(out)
    }
}

impl ClaudeCode {
    fn answer(&mut self, record: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        let message = &record["message"];
        let (id, model) = (text(message, "id"), text(message, "model"));
        // What the program said in a model's place was never part of the conversation.
        if model == "<synthetic>" || record["isApiErrorMessage"] == Value::Bool(true) {
            self.flush(out)?;
            return original(record, out);
        }
        if self.answer.as_ref().is_none_or(|(own, _)| own != id || id.is_empty()) {
            self.flush(out)?;
            let answer = Answer {
                at: time(&record["timestamp"]),
                provider: "anthropic".to_owned(),
                model: model.to_owned(),
                ..Answer::default()
            };
            self.answer = Some((id.to_owned(), answer));
        }
        if let Some((_, answer)) = &mut self.answer {
            match &message["content"] {
                Value::Array(parts) => parts.iter().for_each(|part| add_part(answer, part)),
                content => answer.text(&content_text(content)),
            }
            answer.stop = stop(&message["stop_reason"]);
            answer.usage = usage(&message["usage"]);
        }
        self.waiting.push(record);
        Ok(())
    }

    fn flush(&mut self, out: &mut Builder<'_>) -> Result<(), StoreError> {
        let Some((_, answer)) = self.answer.take() else { return Ok(()) };
        out.answer(answer)?;
        self.waiting.drain(..).try_for_each(|record| original(record, out))
    }
}

/// A block of an answer, as Anthropic's API has it.
pub(super) fn add_part(answer: &mut Answer, part: &Value) {
    match text(part, "type") {
        "text" => answer.text(text(part, "text")),
        "thinking" => answer.reasoning(text(part, "thinking").to_owned(), Some(part.clone())),
        "redacted_thinking" => answer.reasoning(String::new(), Some(part.clone())),
        "tool_use" => answer.call(text(part, "id"), text(part, "name"), arguments(&part["input"])),
        _ => answer.blocks.push(crate::event::Block::Opaque { opaque: part.clone() }),
    }
}

/// The results in a user's message, as Anthropic's API has them, and its words, which come behind them.
pub(super) fn user_parts(content: &Value, out: &mut Builder<'_>) -> Result<UserWords, StoreError> {
    let Value::Array(parts) = content else { return Ok(UserWords { said: Said::of(content), has_results: false }) };
    let is_result = |part: &&Value| text(part, "type") == "tool_result";
    let (results, others): (Vec<&Value>, Vec<&Value>) = parts.iter().partition(is_result);
    for part in &results {
        let outcome = if part["is_error"] == Value::Bool(true) { ToolOutcome::Error } else { ToolOutcome::Ok };
        out.result(text(part, "tool_use_id"), Said::of(&part["content"]), outcome)?;
    }
    Ok(UserWords { said: Said::of_parts(others), has_results: !results.is_empty() })
}

/// What a person says in a message, perhaps beside the results of tools.
pub(super) struct UserWords {
    pub(super) said: Said,
    has_results: bool,
}

impl UserWords {
    pub(super) fn say(self, out: &mut Builder<'_>) -> Result<(), StoreError> {
        if self.has_results { out.steer(self.said) } else { out.user(self.said) }
    }
}

fn user(record: &Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
    let content = &record["message"]["content"];
    if record["isCompactSummary"] == Value::Bool(true) {
        return out.summary(&content_text(content), None);
    }
    let words = user_parts(content, out)?;
    if record["isMeta"] == Value::Bool(true) { out.note(&words.said.named()) } else { words.say(out) }
}

pub(super) fn stop(reason: &Value) -> Option<StopReason> {
    Some(match reason.as_str()? {
        "end_turn" | "stop_sequence" => StopReason::EndTurn,
        "tool_use" => StopReason::ToolUse,
        "max_tokens" => StopReason::MaxTokens,
        "refusal" => StopReason::Refusal,
        other => StopReason::Other(other.to_owned()),
    })
}

/// Anthropic counts what it read from its cache apart.
pub(super) fn usage(usage: &Value) -> Option<Usage> {
    let number = |key: &str| usage[key].as_u64();
    let (read, write) = (number("cache_read_input_tokens"), number("cache_creation_input_tokens"));
    let input = number("input_tokens")?.saturating_add(read.unwrap_or(0)).saturating_add(write.unwrap_or(0));
    Some(Usage {
        input_tokens: Some(input),
        output_tokens: number("output_tokens"),
        cache_read_tokens: read,
        cache_write_tokens: write,
        reasoning_tokens: None,
    })
}

fn original(record: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
    out.at(time(&record["timestamp"]));
    let kind = text(&record, "type").to_owned();
    out.original(&kind, record)
}
