//! Codex: `sessions/YYYY/MM/DD/rollout-*.jsonl`, a list of records with a `payload`. What a model was sent and answered is in
//! `response_item`s; `event_msg`s repeat it for the screen. Older files hold the items themselves, without a record around them.

use super::builder::{Answer, Builder};
use super::record::{Said, arguments, content_text, cwd, items, some_text, text, time, title};
use super::{Facts, Reader};
use crate::error::StoreError;
use crate::event::{ToolOutcome, Usage};
use serde_json::{Value, json};

/// How the texts begin that the program puts into a user's mouth.
const INJECTED: [&str; 7] = [
    "<environment_context>",
    "<user_instructions>",
    "<INSTRUCTIONS>",
    "# AGENTS.md instructions",
    "<permissions instructions>",
    "<skills_instructions>",
    "<skill>",
];

pub(super) fn is_record(record: &Value) -> bool {
    let is_new = record["payload"].is_object()
        && matches!(text(record, "type"), "session_meta" | "response_item" | "event_msg" | "turn_context" | "compacted");
    is_new || (record["id"].is_string() && record["timestamp"].is_string() && record.get("instructions").is_some())
}

#[derive(Default)]
pub(super) struct Codex {
    has_meta: bool,
    provider: String,
    model: String,
    answer: Option<Answer>,
    /// Records since that answer began.
    waiting: Vec<Value>,
}

impl Reader for Codex {
    fn look(&mut self, _: u64, record: &Value, facts: &mut Facts) {
        facts.time(time(&record["timestamp"]));
        let payload = payload(record);
        if !self.has_meta && (text(record, "type") == "session_meta" || record.get("instructions").is_some()) {
            self.has_meta = true;
            facts.id = some_text(payload, "id").unwrap_or_default();
            facts.cwd = cwd(payload);
            if let Some(version) = some_text(payload, "cli_version") {
                facts.program = format!("codex {version}");
            }
            self.provider = some_text(payload, "model_provider").unwrap_or_default();
        }
        if text(record, "type") == "turn_context" {
            facts.cwd = facts.cwd.take().or_else(|| cwd(payload));
        }
        if text(payload, "type") == "message" && text(payload, "role") == "user" && facts.title.is_none() && !is_injected(payload)
        {
            facts.title = title(&content_text(&payload["content"]));
        }
    }

    fn ready(&mut self, _: &mut Facts) {
        if self.provider.is_empty() {
            self.provider = "openai".to_owned();
        }
    }

    fn read(&mut self, _: u64, record: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        let payload = payload(&record);
        let (kind, what) = (text(&record, "type"), text(payload, "type"));
        let is_item = matches!(kind, "response_item" | "message" | "reasoning" | "function_call" | "function_call_output");
        if is_item && self.item(what, payload, time(&record["timestamp"]), out)? {
            self.waiting.push(record);
            return Ok(());
        }
        match (kind, what) {
            ("turn_context", _) => {
                self.flush(out)?;
                self.model = some_text(payload, "model").unwrap_or_default();
            }
            ("token_usage_record", _) => self.used(&payload["usage"]),
            ("event_msg", "token_count") => self.used(&payload["info"]["last_token_usage"]),
            ("compacted", _) => {
                self.flush(out)?;
                out.at(time(&record["timestamp"]));
                compacted(payload, out)?;
            }
            ("event_msg", "thread_rolled_back") => {
                self.flush(out)?;
                out.rewind(payload["num_turns"].as_u64().unwrap_or(0))?;
            }
            ("event_msg", "task_complete" | "turn_aborted" | "task_started") => self.flush(out)?,
            _ => {}
        }
        if self.answer.is_some() {
            self.waiting.push(record);
            return Ok(());
        }
        original(record, out)
    }

    fn finish(&mut self, out: &mut Builder<'_>) -> Result<(), StoreError> {
        self.flush(out)
    }
}

impl Codex {
    /// Takes an item of the conversation; says whether it is part of an answer that goes on.
    fn item(
        &mut self,
        kind: &str,
        item: &Value,
        at: Option<crate::time::Timestamp>,
        out: &mut Builder<'_>,
    ) -> Result<bool, StoreError> {
        match kind {
            "message" if text(item, "role") == "assistant" => self.part(at).text(&content_text(&item["content"])),
            "reasoning" => {
                let words = items(item, "summary").iter().map(|part| text(part, "text")).collect::<Vec<_>>().join("\n\n");
                self.part(at).reasoning(words, Some(item.clone()));
            }
            "function_call" => self.part(at).call(text(item, "call_id"), text(item, "name"), arguments(&item["arguments"])),
            "custom_tool_call" => {
                let input = json!({"input": item["input"]}).to_string();
                self.part(at).call(text(item, "call_id"), text(item, "name"), input);
            }
            "local_shell_call" => {
                let id = item["call_id"].as_str().or_else(|| item["id"].as_str()).unwrap_or_default();
                self.part(at).call(id, "local_shell", arguments(&item["action"]));
            }
            "function_call_output" | "custom_tool_call_output" | "local_shell_call_output" => {
                self.flush(out)?;
                out.at(at);
                let (output, outcome) = output(&item["output"]);
                out.result(text(item, "call_id"), output, outcome)?;
                return Ok(false);
            }
            "message" => {
                self.flush(out)?;
                out.at(at);
                if text(item, "role") == "user" && !is_injected(item) {
                    let said = Said::of(&item["content"]);
                    if said.text.starts_with("<turn_aborted>") { out.note(&said.text)? } else { out.user(said)? }
                }
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn part(&mut self, at: Option<crate::time::Timestamp>) -> &mut Answer {
        self.answer.get_or_insert_with(|| Answer {
            at,
            provider: self.provider.clone(),
            model: self.model.clone(),
            ..Answer::default()
        })
    }

    fn used(&mut self, usage: &Value) {
        let number = |key: &str| usage[key].as_u64();
        if let (Some(answer), Some(input)) = (&mut self.answer, number("input_tokens")) {
            answer.usage = Some(Usage {
                input_tokens: Some(input),
                output_tokens: number("output_tokens"),
                cache_read_tokens: number("cached_input_tokens"),
                cache_write_tokens: None,
                reasoning_tokens: number("reasoning_output_tokens"),
            });
        }
    }

    fn flush(&mut self, out: &mut Builder<'_>) -> Result<(), StoreError> {
        if let Some(answer) = self.answer.take() {
            out.answer(answer)?;
        }
        self.waiting.drain(..).try_for_each(|record| original(record, out))
    }
}

fn payload(record: &Value) -> &Value {
    if record["payload"].is_object() { &record["payload"] } else { record }
}

fn is_injected(item: &Value) -> bool {
    let kinds = items(&item["internal_chat_message_metadata_passthrough"], "content_item_kinds");
    if !kinds.is_empty() {
        return kinds.iter().all(|kind| kind.as_str().is_some_and(|kind| !kind.starts_with("user.") && kind != "unknown"));
    }
    let words = content_text(&item["content"]);
    INJECTED.iter().any(|start| words.trim_start().starts_with(start))
}

/// A result: a text, parts of one, or an object that also says whether it went well.
fn output(output: &Value) -> (Said, ToolOutcome) {
    let outcome = if output["success"] == Value::Bool(false) { ToolOutcome::Error } else { ToolOutcome::Ok };
    (Said::of(output.get("content").unwrap_or(output)), outcome)
}

/// The summary, or what stands in the place of the history, as one text.
fn compacted(payload: &Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
    let kept = items(payload, "replacement_history").iter().filter(|item| text(item, "role") == "user" && !is_injected(item));
    let kept: Vec<String> = kept.map(|item| content_text(&item["content"])).collect();
    let summary = some_text(payload, "message").unwrap_or_default();
    let words: Vec<&str> = kept.iter().map(String::as_str).chain([summary.as_str()]).filter(|words| !words.is_empty()).collect();
    out.summary(&words.join("\n\n"), None)
}

fn original(record: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
    out.at(time(&record["timestamp"]));
    let kind = some_text(&record, "type").unwrap_or_else(|| "session_meta".to_owned());
    out.original(&kind, record)
}
