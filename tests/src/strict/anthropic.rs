//! The rules of Anthropic Messages.

use super::{is_image, is_name, messages};
use serde_json::Value;
use std::collections::HashSet;

const TOOL_NAME_LEN_MAX: usize = 128;
const TOOL_ID_LEN_MAX: usize = 64;
/// In base64.
const IMAGE_LEN_MAX: usize = 5 << 20;

type Check = Result<(), String>;

/// Whether Anthropic would take this body.
///
/// # Errors
/// The message of the 400 that it would answer.
pub fn check_anthropic(body: &Value) -> Check {
    check_parameters(body)?;
    check_tools(body)?;
    let messages = messages(body);
    if messages.is_empty() {
        return Err("messages: at least one message is required".into());
    }
    check_roles(messages)?;
    let mut ids = HashSet::new();
    for (index, message) in messages.iter().enumerate() {
        check_content(index, message, &mut ids)?;
    }
    for index in 0..messages.len() {
        check_results(index, messages)?;
    }
    Ok(())
}

fn check_parameters(body: &Value) -> Check {
    if !body.is_object() {
        return Err("The request body is not valid JSON: expected an object".into());
    }
    if body["model"].as_str().is_none_or(str::is_empty) {
        return Err("model: Field required".into());
    }
    match body["max_tokens"].as_u64() {
        None => return Err("max_tokens: Field required".into()),
        Some(0) => return Err("max_tokens: Input should be greater than or equal to 1".into()),
        Some(_) => {}
    }
    if body["stream"] != Value::Bool(true) {
        return Err("fault server: only streamed answers (`\"stream\": true`) are spoken here".into());
    }
    check_output_config(&body["output_config"])?;
    match &body["system"] {
        Value::Null => Ok(()),
        Value::String(text) => not_blank("system", text),
        Value::Array(blocks) => blocks.iter().try_for_each(|block| match block["text"].as_str() {
            Some(text) => not_blank("system", text),
            None => Err("system.0: Input should be a valid text block".into()),
        }),
        _ => Err("system: Input should be a valid string or a list of text blocks".into()),
    }
}

fn check_output_config(config: &Value) -> Check {
    if let Some(unknown) =
        config.as_object().and_then(|config| config.keys().find(|key| !["effort", "format"].contains(&key.as_str())))
    {
        return Err(format!("output_config.{unknown}: Extra inputs are not permitted"));
    }
    let format = &config["format"];
    if format.is_null() {
        return Ok(());
    }
    if format["type"] != "json_schema" {
        return Err("output_config.format.type: Input should be 'json_schema'".into());
    }
    if !format["schema"].is_object() {
        return Err("output_config.format.schema: Field required".into());
    }
    super::every_object(&format["schema"], &|object| {
        if object["additionalProperties"] != false {
            return Err(
                "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false".into()
            );
        }
        Ok(())
    })
}

fn check_tools(body: &Value) -> Check {
    let mut names = HashSet::new();
    for (index, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        let name = tool["name"].as_str().unwrap_or_default();
        if !is_name(name, TOOL_NAME_LEN_MAX) {
            return Err(format!("tools.{index}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"));
        }
        if !names.insert(name) {
            return Err("tools: Tool names must be unique.".into());
        }
        if tool["input_schema"]["type"] != "object" {
            return Err(format!("tools.{index}.custom.input_schema.type: Field required"));
        }
    }
    Ok(())
}

fn check_roles(messages: &[Value]) -> Check {
    let mut before = None;
    for (index, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role != "user" && role != "assistant" {
            return Err(format!("messages.{index}.role: Input should be 'user' or 'assistant'"));
        }
        if index == 0 && role != "user" {
            return Err("messages: first message must use the \"user\" role".into());
        }
        if before == Some(role) {
            return Err(format!(
                "messages: roles must alternate between \"user\" and \"assistant\", but found multiple \"{role}\" roles in a row"
            ));
        }
        before = Some(role);
    }
    if before == Some("assistant") {
        return Err(
            "This model does not support assistant message prefill. The conversation must end with a user message.".into()
        );
    }
    Ok(())
}

fn check_content<'a>(index: usize, message: &'a Value, ids: &mut HashSet<&'a str>) -> Check {
    let empty =
        || format!("messages.{index}: all messages must have non-empty content except for the optional final assistant message");
    match &message["content"] {
        Value::String(text) if text.is_empty() => Err(empty()),
        Value::String(text) => not_blank("messages", text),
        Value::Array(blocks) if blocks.is_empty() => Err(empty()),
        Value::Array(blocks) => {
            let is_user = message["role"] == "user";
            for (place, block) in blocks.iter().enumerate() {
                check_block(&format!("messages.{index}.content.{place}"), block, is_user, ids)?;
            }
            match blocks.last().map(|block| &block["type"]) {
                Some(kind) if is_thinking(kind) => {
                    Err(format!("messages.{index}: The final block in an assistant message cannot be `thinking`."))
                }
                _ => Ok(()),
            }
        }
        Value::Null => Err(format!("messages.{index}.content: Field required")),
        _ => Err(format!("messages.{index}.content: Input should be a valid string or a list of blocks")),
    }
}

fn check_block<'a>(at: &str, block: &'a Value, is_user: bool, ids: &mut HashSet<&'a str>) -> Check {
    let kind = block["type"].as_str().unwrap_or_default();
    match (kind, is_user) {
        ("text", _) => match block["text"].as_str() {
            Some(text) => not_blank("messages", text),
            None => Err(format!("{at}.text.text: Field required")),
        },
        ("tool_use", false) => check_tool_use(at, block, ids),
        ("tool_result", true) => check_tool_result(at, block),
        ("thinking", false) => match (block["thinking"].as_str(), block["signature"].as_str()) {
            (None, _) => Err(format!("{at}.thinking.thinking: Field required")),
            (_, None) => Err(format!("{at}.thinking.signature: Field required")),
            _ => Ok(()),
        },
        ("redacted_thinking", false) if block["data"].is_string() => Ok(()),
        ("redacted_thinking", false) => Err(format!("{at}.redacted_thinking.data: Field required")),
        ("image", true) => check_image(at, block),
        ("tool_use" | "thinking" | "redacted_thinking", true) => {
            Err(format!("{at}: `{kind}` blocks can only be in `assistant` messages"))
        }
        ("tool_result", false) => Err(format!("{at}: `tool_result` blocks can only be in `user` messages")),
        _ => Err(format!("{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags")),
    }
}

fn check_image(at: &str, block: &Value) -> Check {
    let source = &block["source"];
    let (media_type, data) = (source["media_type"].as_str().unwrap_or_default(), source["data"].as_str().unwrap_or_default());
    if source["type"] != "base64" {
        return Err(format!("{at}.image.source: Input tag does not match any of the expected tags: 'base64', 'url'"));
    }
    if data.len() > IMAGE_LEN_MAX {
        return Err(format!(
            "{at}.image.source.base64: image exceeds 5 MB maximum: {} bytes > {IMAGE_LEN_MAX} bytes",
            data.len()
        ));
    }
    if is_image(media_type, data) { Ok(()) } else { Err(format!("{at}.image.source.base64: Could not process image")) }
}

fn check_tool_use<'a>(at: &str, block: &'a Value, ids: &mut HashSet<&'a str>) -> Check {
    let id = block["id"].as_str().unwrap_or_default();
    if !is_name(id, TOOL_ID_LEN_MAX) {
        return Err(format!("{at}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"));
    }
    if !is_name(block["name"].as_str().unwrap_or_default(), TOOL_NAME_LEN_MAX) {
        return Err(format!("{at}.tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"));
    }
    if !block["input"].is_object() {
        return Err(format!("{at}.tool_use.input: Input should be a valid dictionary"));
    }
    if !ids.insert(id) {
        return Err(format!("{at}: `tool_use` ids must be unique"));
    }
    Ok(())
}

fn check_tool_result(at: &str, block: &Value) -> Check {
    if block["tool_use_id"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{at}.tool_result.tool_use_id: Field required"));
    }
    match &block["content"] {
        Value::Null | Value::String(_) => Ok(()),
        Value::Array(blocks) => blocks.iter().try_for_each(|inner| match inner["text"].as_str() {
            Some(text) if inner["type"] == "text" => not_blank("messages", text),
            _ if inner["type"] == "image" && block["is_error"] == true => {
                Err(format!("{at}.tool_result: all content must be type \"text\" if \"is_error\" is true"))
            }
            _ if inner["type"] == "image" => check_image(at, inner),
            _ => Err(format!("{at}.tool_result.content.0: Input should be a text or image block")),
        }),
        _ => Err(format!("{at}.tool_result.content: Input should be a valid string or a list of blocks")),
    }
}

/// The results in message `index` answer the calls of the message before it, all of them, once each, and stand first; and calls
/// in message `index` have a message after them.
fn check_results(index: usize, messages: &[Value]) -> Check {
    let calls_before = index.checked_sub(1).map(|before| call_ids(&messages[before])).unwrap_or_default();
    let mut results = Vec::new();
    let mut all_first = true;
    let mut seen_other = false;
    for (place, block) in blocks(&messages[index]).iter().enumerate() {
        if block["type"] != "tool_result" {
            seen_other = true;
            continue;
        }
        let id = block["tool_use_id"].as_str().unwrap_or_default();
        if !calls_before.contains(&id) {
            return Err(format!(
                "messages.{index}.content.{place}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            ));
        }
        if results.contains(&id) {
            return Err(format!(
                "messages.{index}.content.{place}: each tool_use must have a single result. Found multiple `tool_result` blocks with id: {id}"
            ));
        }
        all_first &= !seen_other;
        results.push(id);
    }
    let missing: Vec<&str> = calls_before.into_iter().filter(|id| !all_first || !results.contains(id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "messages.{}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        index - 1,
        missing.join(", ")
    ))
}

pub(super) fn blocks(message: &Value) -> &[Value] {
    message["content"].as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn is_thinking(kind: &Value) -> bool {
    kind == "thinking" || kind == "redacted_thinking"
}

fn call_ids(message: &Value) -> Vec<&str> {
    blocks(message).iter().filter(|block| block["type"] == "tool_use").filter_map(|block| block["id"].as_str()).collect()
}

fn not_blank(at: &str, text: &str) -> Check {
    if text.is_empty() {
        return Err(format!("{at}: text content blocks must be non-empty"));
    }
    if text.trim().is_empty() {
        return Err(format!("{at}: text content blocks must contain non-whitespace text"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A conversation with everything legal in it: text, reasoning, two parallel calls, their results, steering text after them.
    fn legal() -> Value {
        json!({"model": "m", "max_tokens": 100, "stream": true, "system": "Be brief.",
            "tools": [{"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}],
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "", "signature": "s"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "read", "input": {}},
                    {"type": "tool_use", "id": "call_2", "name": "read", "input": {"path": "a"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "one"},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "two"}], "is_error": true},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
                    {"type": "text", "text": "and be quick"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Done."}]},
                {"role": "user", "content": [{"type": "text", "text": "thanks"}]}]})
    }

    /// The legal conversation with the value at `pointer` replaced is refused in words that contain `words`.
    #[track_caller]
    fn refused_with(pointer: &str, value: Value, words: &str) {
        let mut body = legal();
        *body.pointer_mut(pointer).expect("the place exists") = value;
        let refusal = check_anthropic(&body).expect_err("a strict service refuses this");
        assert!(refusal.contains(words), "{refusal}");
    }

    #[test]
    fn a_legal_conversation_is_accepted() {
        assert_eq!(check_anthropic(&legal()), Ok(()));
    }

    #[test]
    fn parameters_that_are_missing_or_wrong_are_refused() {
        refused_with("/model", Value::Null, "model: Field required");
        refused_with("/max_tokens", Value::Null, "max_tokens: Field required");
        refused_with("/max_tokens", json!(0), "greater than or equal to 1");
        refused_with("/stream", json!(false), "only streamed answers");
        refused_with("/system", json!("  "), "non-whitespace");
        refused_with("/system", json!(5), "system: Input should be");
        refused_with("/messages", json!([]), "at least one message");
        assert!(check_anthropic(&json!("text")).is_err());
    }

    #[test]
    fn bad_tools_are_refused() {
        refused_with("/tools/0/name", json!("read file"), "tools.0.custom.name: String should match pattern");
        refused_with("/tools/0/name", json!("x".repeat(129)), "tools.0.custom.name");
        refused_with("/tools/0/input_schema", json!({}), "input_schema.type");
        let mut body = legal();
        let tool = body["tools"][0].clone();
        body["tools"].as_array_mut().expect("tools").push(tool);
        assert!(check_anthropic(&body).expect_err("twice the same name").contains("unique"));
    }

    #[test]
    fn roles_out_of_order_are_refused() {
        refused_with("/messages/0/role", json!("assistant"), "first message must use the \"user\" role");
        refused_with("/messages/0/role", json!("system"), "Input should be 'user' or 'assistant'");
        refused_with("/messages/3/role", json!("user"), "multiple \"user\" roles in a row");
        refused_with("/messages/4/role", json!("assistant"), "multiple \"assistant\" roles in a row");
    }

    #[test]
    fn an_assistant_message_at_the_end_is_refused() {
        let mut body = legal();
        body["messages"].as_array_mut().expect("messages").pop();
        assert!(check_anthropic(&body).expect_err("a prefill").contains("does not support assistant message prefill"));
    }

    #[test]
    fn blank_and_empty_content_is_refused() {
        refused_with("/messages/0/content", json!(""), "messages.0: all messages must have non-empty content");
        refused_with("/messages/0/content", json!([]), "messages.0: all messages must have non-empty content");
        refused_with("/messages/0/content", json!(" \n"), "must contain non-whitespace text");
        refused_with("/messages/1/content/1/text", json!(""), "must be non-empty");
        refused_with("/messages/1/content/1/text", json!("\n"), "must contain non-whitespace text");
        refused_with("/messages/2/content/1/content/0/text", json!(""), "must be non-empty");
        refused_with("/messages/0/content", Value::Null, "messages.0.content: Field required");
        refused_with("/messages/0/content", json!(7), "messages.0.content: Input should be");
    }

    #[test]
    fn bad_tool_calls_are_refused() {
        refused_with("/messages/1/content/2/id", json!("call:1"), "tool_use.id: String should match pattern");
        refused_with("/messages/1/content/2/id", json!("call_2"), "`tool_use` ids must be unique");
        refused_with("/messages/1/content/2/name", json!(""), "tool_use.name: String should match pattern");
        refused_with("/messages/1/content/2/input", json!("{}"), "tool_use.input: Input should be a valid dictionary");
        refused_with("/messages/1/content/2/input", json!([1]), "tool_use.input: Input should be a valid dictionary");
    }

    #[test]
    fn orphaned_missing_doubled_and_misplaced_results_are_refused() {
        refused_with(
            "/messages/2/content/0/tool_use_id",
            json!("call_9"),
            "unexpected `tool_use_id` found in `tool_result` blocks: call_9",
        );
        refused_with("/messages/2/content/0/tool_use_id", json!("call_2"), "Found multiple `tool_result` blocks with id: call_2");
        refused_with(
            "/messages/2/content",
            json!([{"type": "tool_result", "tool_use_id": "call_2"}]),
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: call_1. Each",
        );
        refused_with("/messages/2/content", json!("no results"), "call_1, call_2");
        refused_with(
            "/messages/4/content/0",
            json!({"type": "tool_result", "tool_use_id": "call_1"}),
            "unexpected `tool_use_id`",
        );
        refused_with("/messages/2/content/0/tool_use_id", Value::Null, "tool_result.tool_use_id: Field required");
    }

    #[test]
    fn results_after_other_content_count_as_missing() {
        let mut body = legal();
        body["messages"][2]["content"].as_array_mut().expect("blocks").rotate_right(1);
        assert!(
            check_anthropic(&body).expect_err("text before results").contains("without `tool_result` blocks immediately after")
        );
    }

    #[test]
    fn blocks_in_the_wrong_role_or_of_an_unknown_type_are_refused() {
        refused_with(
            "/messages/0/content",
            json!([{"type": "tool_use", "id": "a", "name": "read", "input": {}}]),
            "`assistant` messages",
        );
        refused_with("/messages/3/content/0", json!({"type": "tool_result", "tool_use_id": "call_1"}), "`user` messages");
        refused_with("/messages/0/content", json!([{"type": "reasoning"}]), "does not match any of the expected tags");
    }

    #[test]
    fn bad_images_are_refused() {
        refused_with("/messages/2/content/2/source/type", json!("file"), "image.source");
        refused_with("/messages/2/content/2/source/media_type", json!("image/tiff"), "Could not process image");
        refused_with("/messages/2/content/2/source/data", json!(""), "Could not process image");
        refused_with("/messages/2/content/2/source/data", json!("iVBORw="), "Could not process image");
        refused_with("/messages/2/content/2/source/data", json!("A".repeat((5 << 20) + 4)), "exceeds 5 MB");
        let image = json!([legal()["messages"][2]["content"][2]]);
        refused_with("/messages/2/content/1/content", image, "all content must be type \"text\"");
    }

    #[test]
    fn malformed_or_final_reasoning_is_refused() {
        refused_with("/messages/1/content/0", json!({"type": "thinking", "thinking": "x"}), "thinking.signature: Field required");
        refused_with("/messages/1/content/0", json!({"type": "thinking", "signature": "x"}), "thinking.thinking: Field required");
        refused_with("/messages/1/content/0", json!({"type": "redacted_thinking"}), "redacted_thinking.data: Field required");
        refused_with("/messages/3/content/0", json!({"type": "thinking", "thinking": "x", "signature": "s"}), "final block");
    }
}
