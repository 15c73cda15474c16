//! Conversations as arrays of messages: those that OpenAI's Chat Completions and Anthropic's Messages take, and those in a line of a
//! hermes export, which are OpenAI's with some fields of its own.

use super::builder::{Answer, Builder};
use super::claude_code::{add_part, stop, usage, user_parts};
use super::record::{Said, arguments, content_text, cwd, items, some_text, text, time, title};
use super::{Facts, Reader};
use crate::error::StoreError;
use crate::event::{StopReason, ToolOutcome};
use serde_json::Value;

/// Whether a file that is one piece of JSON is a conversation.
pub(super) fn is_conversation(document: &Value) -> bool {
    let messages = messages(document);
    !messages.is_empty() && messages.iter().all(|message| message["role"].is_string())
}

/// Whether it is Anthropic's: by what only one of both has.
pub(super) fn is_anthropic(document: &Value) -> bool {
    let is_theirs = |part: &Value| matches!(text(part, "type"), "tool_use" | "tool_result" | "thinking" | "redacted_thinking");
    document.get("system").is_some() || messages(document).iter().any(|message| items(message, "content").iter().any(is_theirs))
}

pub(super) fn is_hermes(record: &Value) -> bool {
    record["messages"].is_array() && record.get("source").is_some() && record.get("started_at").is_some()
}

fn messages(document: &Value) -> &[Value] {
    document.as_array().map_or_else(|| items(document, "messages"), Vec::as_slice)
}

/// The document without its messages, where there is more in it.
fn rest(document: &Value) -> Option<Value> {
    let mut rest = document.as_object()?.clone();
    rest.shift_remove("messages");
    Some(Value::Object(rest))
}

pub(super) struct OpenAi;

impl Reader for OpenAi {
    fn look(&mut self, _: u64, document: &Value, facts: &mut Facts) {
        facts.title = first_words(document);
    }

    fn read(&mut self, _: u64, document: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        if let Some(rest) = rest(&document) {
            out.original("conversation", rest)?;
        }
        let model = text(&document, "model").to_owned();
        let mut has_begun = false;
        for message in messages(&document) {
            let is_system = matches!(text(message, "role"), "system" | "developer");
            if is_system && !has_begun {
                out.system(&content_text(&message["content"]));
            } else {
                has_begun = true;
                openai_message(message, "openai", &model, out)?;
            }
            out.original("message", message.clone())?;
        }
        Ok(())
    }
}

pub(super) struct Anthropic;

impl Reader for Anthropic {
    fn look(&mut self, _: u64, document: &Value, facts: &mut Facts) {
        facts.title = first_words(document);
    }

    fn read(&mut self, _: u64, document: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        if let Some(rest) = rest(&document) {
            out.system(&content_text(&document["system"]));
            out.original("conversation", rest)?;
        }
        for message in messages(&document) {
            match text(message, "role") {
                "assistant" => {
                    let model = some_text(message, "model").or_else(|| some_text(&document, "model")).unwrap_or_default();
                    let mut answer = Answer { provider: "anthropic".to_owned(), model, ..Answer::default() };
                    match &message["content"] {
                        Value::Array(parts) => parts.iter().for_each(|part| add_part(&mut answer, part)),
                        content => answer.text(&content_text(content)),
                    }
                    answer.stop = stop(&message["stop_reason"]);
                    answer.usage = usage(&message["usage"]);
                    out.answer(answer)?;
                }
                "system" => out.note(&content_text(&message["content"]))?,
                _ => user_parts(&message["content"], out)?.say(out)?,
            }
            out.original("message", message.clone())?;
        }
        Ok(())
    }
}

/// A session of a hermes export: one line with all its messages.
pub(super) struct Hermes;

impl Reader for Hermes {
    fn look(&mut self, _: u64, session: &Value, facts: &mut Facts) {
        facts.id = some_text(session, "id").unwrap_or_default();
        facts.cwd = cwd(session);
        facts.program = "hermes".to_owned();
        facts.title = title(text(session, "title")).or_else(|| first_words(session));
        facts.time(time(&session["started_at"]));
        items(session, "messages").iter().for_each(|message| facts.time(time(&message["timestamp"])));
    }

    fn read(&mut self, _: u64, session: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        out.at(time(&session["started_at"]));
        if let Some(rest) = rest(&session) {
            out.original("session", rest)?;
        }
        let provider = some_text(&session, "billing_provider").unwrap_or_default();
        let model = text(&session, "model").to_owned();
        for message in items(&session, "messages") {
            out.at(time(&message["timestamp"]));
            // What was rewound or summarised is kept there, and no longer part of the conversation.
            let is_away = message["active"].as_i64() == Some(0) || message["compacted"].as_i64() == Some(1);
            if !is_away && !matches!(text(message, "role"), "system" | "session_meta") {
                openai_message(message, &provider, &model, out)?;
            }
            out.original("message", message.clone())?;
        }
        Ok(())
    }
}

fn first_words(document: &Value) -> Option<String> {
    let first = messages(document).iter().find(|message| text(message, "role") == "user")?;
    title(&content_text(&first["content"]))
}

fn openai_message(message: &Value, provider: &str, model: &str, out: &mut Builder<'_>) -> Result<(), StoreError> {
    match text(message, "role") {
        "assistant" => out.answer(openai_answer(message, provider, model)),
        "tool" => out.result(text(message, "tool_call_id"), Said::of(&message["content"]), ToolOutcome::Ok),
        // The calls of old had no ids.
        "function" => out.result(text(message, "name"), Said::of(&message["content"]), ToolOutcome::Ok),
        "user" => out.user(Said::of(&message["content"])),
        _ => out.note(&content_text(&message["content"])),
    }
}

fn openai_answer(message: &Value, provider: &str, model: &str) -> Answer {
    let mut answer = Answer { provider: provider.to_owned(), model: model.to_owned(), ..Answer::default() };
    let reasoning = some_text(message, "reasoning_content").or_else(|| some_text(message, "reasoning"));
    if let Some(words) = reasoning {
        answer.reasoning(words, None);
    }
    answer.text(&content_text(&message["content"]));
    answer.text(text(message, "refusal"));
    for call in items(message, "tool_calls") {
        let function = if call["function"].is_object() { &call["function"] } else { &call["custom"] };
        let given = if function.get("arguments").is_some() { &function["arguments"] } else { &function["input"] };
        answer.call(text(call, "id"), text(function, "name"), arguments(given));
    }
    if message["function_call"].is_object() {
        let function = &message["function_call"];
        answer.call(text(function, "name"), text(function, "name"), arguments(&function["arguments"]));
    }
    answer.stop = match text(message, "finish_reason") {
        "length" => Some(StopReason::MaxTokens),
        "content_filter" => Some(StopReason::Refusal),
        _ => None,
    };
    answer
}
