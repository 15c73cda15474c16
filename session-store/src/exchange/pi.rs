//! pi: `agent/sessions/<folder>/<time>_<session>.jsonl`, a header and a tree of entries that name their parents by `id`. The conversation is the way
//! to the last entry. Files of the first version have no ids: all of it is the conversation.

use super::builder::{Answer, Builder};
use super::record::{Said, arguments, content_text, cwd, items, some_text, text, time, title};
use super::tree::Tree;
use super::{Facts, Reader};
use crate::error::StoreError;
use crate::event::{StopReason, ToolOutcome, Usage};
use crate::id::Seq;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

pub(super) fn is_record(record: &Value) -> bool {
    text(record, "type") == "session"
        && record["id"].is_string()
        && record["timestamp"].is_string()
        && record.get("payload").is_none()
}

#[derive(Default)]
pub(super) struct Pi {
    tree: Tree,
    has_header: bool,
    has_ids: bool,
    main: HashSet<u64>,
    /// The first event of each entry on the way, for compactions.
    first: HashMap<u64, Seq>,
}

impl Reader for Pi {
    fn look(&mut self, line: u64, record: &Value, facts: &mut Facts) {
        facts.time(time(&record["timestamp"]));
        match text(record, "type") {
            "session" if !std::mem::replace(&mut self.has_header, true) => {
                facts.id = some_text(record, "id").unwrap_or_default();
                facts.cwd = cwd(record);
                facts.program = "pi".to_owned();
                return;
            }
            "session_info" => {
                if let Some(name) = title(text(record, "name")) {
                    facts.title = Some(name);
                }
            }
            "message" if facts.title.is_none() && text(&record["message"], "role") == "user" => {
                facts.title = title(&content_text(&record["message"]["content"]));
            }
            _ => {}
        }
        let id = text(record, "id");
        if !id.is_empty() {
            self.has_ids = true;
            self.tree.add(line, id, record["parentId"].as_str(), true);
        }
    }

    fn ready(&mut self, facts: &mut Facts) {
        let path = self.tree.path();
        facts.tell_path(&path);
        self.main = path.lines;
    }

    fn read(&mut self, line: u64, record: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        out.at(time(&record["timestamp"]));
        if !self.has_ids || self.main.contains(&line) {
            let id = text(&record, "id");
            if !id.is_empty() {
                self.first.insert(self.tree.key(id), out.next_seq());
            }
            self.entry(&record, out)?;
        }
        let kind = text(&record, "type").to_owned();
        out.original(&kind, record)
    }

    fn finish(&mut self, _: &mut Builder<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Pi {
    fn entry(&self, record: &Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        match text(record, "type") {
            "message" => message(&record["message"], out),
            "custom_message" => out.note(&content_text(&record["content"])),
            "branch_summary" => out.note(text(record, "summary")),
            "compaction" => {
                let kept = record["firstKeptEntryId"].as_str().and_then(|id| self.first.get(&self.tree.key(id)).copied());
                out.summary(text(record, "summary"), kept)
            }
            _ => Ok(()),
        }
    }
}

fn message(message: &Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
    match text(message, "role") {
        "user" => out.user(Said::of(&message["content"])),
        "assistant" => out.answer(answer(message)),
        "toolResult" => {
            let outcome = if message["isError"] == Value::Bool(true) { ToolOutcome::Error } else { ToolOutcome::Ok };
            out.result(text(message, "toolCallId"), Said::of(&message["content"]), outcome)
        }
        "bashExecution" if message["excludeFromContext"] != Value::Bool(true) => {
            out.note(&format!("The user ran `{}`:\n{}", text(message, "command"), text(message, "output")))
        }
        "custom" | "hookMessage" => out.note(&content_text(&message["content"])),
        "branchSummary" | "compactionSummary" => out.note(text(message, "summary")),
        _ => Ok(()),
    }
}

fn answer(message: &Value) -> Answer {
    let mut answer = Answer {
        provider: text(message, "provider").to_owned(),
        model: text(message, "model").to_owned(),
        usage: usage(&message["usage"]),
        ..Answer::default()
    };
    for part in items(message, "content") {
        match text(part, "type") {
            "text" => answer.text(text(part, "text")),
            "thinking" => answer.reasoning(text(part, "thinking").to_owned(), Some(part.clone())),
            "toolCall" => answer.call(text(part, "id"), text(part, "name"), arguments(&part["arguments"])),
            _ => answer.blocks.push(crate::event::Block::Opaque { opaque: part.clone() }),
        }
    }
    answer.stop = match text(message, "stopReason") {
        "stop" => Some(StopReason::EndTurn),
        "toolUse" => Some(StopReason::ToolUse),
        "length" => Some(StopReason::MaxTokens),
        "error" | "aborted" => {
            answer.partial = true;
            Some(StopReason::Cut)
        }
        _ => None,
    };
    answer
}

fn usage(usage: &Value) -> Option<Usage> {
    let number = |key: &str| usage[key].as_u64();
    let (read, write) = (number("cacheRead"), number("cacheWrite"));
    Some(Usage {
        input_tokens: Some(number("input")?.saturating_add(read.unwrap_or(0)).saturating_add(write.unwrap_or(0))),
        output_tokens: number("output"),
        cache_read_tokens: read,
        cache_write_tokens: write,
        reasoning_tokens: None,
    })
}
