//! The rules of OpenAI Chat Completions, and of the servers that speak it.

use super::{is_image_url, is_name, messages};
use serde_json::Value;
use std::collections::HashSet;

const TOOL_NAME_LEN_MAX: usize = 64;
const TOOL_ID_LEN_MAX: usize = 40;

type Check = Result<(), String>;

/// Whether OpenAI, and the servers that speak its protocol, would take this body.
///
/// # Errors
/// The message of the 400 that it would answer.
pub fn check_openai(body: &Value) -> Check {
    check_parameters(body)?;
    check_tools(body)?;
    let messages = messages(body);
    if messages.is_empty() {
        return Err(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.".into()
        );
    }
    let mut ids = HashSet::new();
    for (index, message) in messages.iter().enumerate() {
        check_message(index, message, &mut ids)?;
    }
    check_results(messages)?;
    check_order(messages)
}

fn check_parameters(body: &Value) -> Check {
    if !body.is_object() {
        return Err("We could not parse the JSON body of your request.".into());
    }
    if body["model"].as_str().is_none_or(str::is_empty) {
        return Err("you must provide a model parameter".into());
    }
    if body["stream"] != Value::Bool(true) {
        return Err("fault server: only streamed answers (`\"stream\": true`) are spoken here".into());
    }
    if body.get("max_tokens").is_some() && body.get("max_completion_tokens").is_some() {
        return Err("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.".into());
    }
    check_response_format(&body["response_format"])?;
    if body["tools"].as_array().is_some_and(Vec::is_empty) {
        return Err(
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.".into()
        );
    }
    Ok(())
}

fn check_response_format(format: &Value) -> Check {
    match format["type"].as_str() {
        None if format.is_null() => Ok(()),
        Some("text" | "json_object") => Ok(()),
        Some("json_schema") => super::check_json_schema("response_format", &format["json_schema"]),
        _ => {
            Err("Invalid value for 'response_format.type'. Supported values are: 'text', 'json_object', and 'json_schema'."
                .into())
        }
    }
}

fn check_tools(body: &Value) -> Check {
    let mut names = HashSet::new();
    for (index, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        if tool["type"] != "function" {
            return Err(format!("Missing required parameter: 'tools[{index}].type'."));
        }
        let name = tool["function"]["name"].as_str().unwrap_or_default();
        check_name(&format!("tools[{index}].function.name"), name)?;
        if !names.insert(name) {
            return Err(format!(
                "Invalid 'tools[{index}].function.name': function names must be unique, but '{name}' is there twice."
            ));
        }
        let parameters = &tool["function"]["parameters"];
        if !parameters.is_null() && parameters["type"] != "object" {
            return Err(format!("Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'."));
        }
    }
    Ok(())
}

fn check_name(at: &str, name: &str) -> Check {
    if name.len() > TOOL_NAME_LEN_MAX {
        return Err(too_long(at, TOOL_NAME_LEN_MAX, name));
    }
    if !is_name(name, TOOL_NAME_LEN_MAX) {
        return Err(format!(
            "Invalid '{at}': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        ));
    }
    Ok(())
}

fn too_long(at: &str, len_max: usize, text: &str) -> String {
    format!(
        "Invalid '{at}': string too long. Expected a string with maximum length {len_max}, but got a string with length {} instead.",
        text.len()
    )
}

fn check_message<'a>(index: usize, message: &'a Value, ids: &mut HashSet<&'a str>) -> Check {
    let role = message["role"].as_str().unwrap_or_default();
    match role {
        "system" | "developer" | "user" => check_text(index, &message["content"], false),
        "tool" => {
            if message["tool_call_id"].as_str().is_none_or(str::is_empty) {
                return Err(format!("Missing required parameter: 'messages[{index}].tool_call_id'."));
            }
            check_text(index, &message["content"], true)
        }
        "assistant" => match &message["tool_calls"] {
            Value::Null => check_text(index, &message["content"], false),
            Value::Array(calls) if !calls.is_empty() => {
                if !message["content"].is_null() {
                    check_text(index, &message["content"], false)?;
                }
                calls.iter().enumerate().try_for_each(|(place, call)| check_call(index, place, call, ids))
            }
            _ => Err(format!(
                "Invalid 'messages[{index}].tool_calls': empty array. Expected an array with minimum length 1, but got an empty array instead."
            )),
        },
        _ => Err(format!(
            "Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'."
        )),
    }
}

fn check_text(index: usize, content: &Value, blank_is_fine: bool) -> Check {
    let blank = || Err(format!("Invalid 'messages[{index}].content': content must contain non-whitespace text"));
    match content {
        Value::String(text) if !blank_is_fine && text.trim().is_empty() => blank(),
        Value::String(_) => Ok(()),
        Value::Array(parts) if parts.is_empty() => blank(),
        Value::Array(parts) => {
            parts.iter().enumerate().try_for_each(|(place, part)| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) if !text.trim().is_empty() => Ok(()),
                (Some("text"), _) => blank(),
                (Some("image_url"), _) if blank_is_fine => {
                    Err(format!("Invalid 'messages[{index}]'. Image URLs are only allowed for messages with role 'user', but this message with role 'tool' contains an image URL."))
                }
                (Some("image_url"), _) if is_image_url(&part["image_url"]["url"]) => Ok(()),
                (Some("image_url"), _) => Err("You uploaded an unsupported image. Please make sure your image is valid.".into()),
                _ => Err(format!("Invalid value for 'messages[{index}].content[{place}].type'")),
            })
        }
        Value::Null => Err(format!("Invalid value for 'messages[{index}].content': expected a string, got null.")),
        _ => Err(format!("Invalid type for 'messages[{index}].content': expected one of a string or array of objects.")),
    }
}

fn check_call<'a>(index: usize, place: usize, call: &'a Value, ids: &mut HashSet<&'a str>) -> Check {
    let at = format!("messages[{index}].tool_calls[{place}]");
    let id = call["id"].as_str().unwrap_or_default();
    if id.is_empty() {
        return Err(format!("Missing required parameter: '{at}.id'."));
    }
    if id.len() > TOOL_ID_LEN_MAX {
        return Err(too_long(&format!("{at}.id"), TOOL_ID_LEN_MAX, id));
    }
    if !ids.insert(id) {
        return Err(format!("Invalid '{at}.id': duplicate tool call id '{id}'."));
    }
    if call["type"] != "function" {
        return Err(format!("Missing required parameter: '{at}.type'."));
    }
    check_name(&format!("{at}.function.name"), call["function"]["name"].as_str().unwrap_or_default())?;
    let Some(arguments) = call["function"]["arguments"].as_str() else {
        return Err(format!("Invalid type for '{at}.function.arguments': expected a string."));
    };
    // OpenAI takes any string; Ollama, vLLM and llama.cpp parse it and refuse what is no object.
    match serde_json::from_str::<Value>(arguments) {
        Ok(Value::Object(_)) => Ok(()),
        _ => Err(format!("Invalid '{at}.function.arguments': failed to parse tool call arguments as a JSON object: {arguments}")),
    }
}

/// After each assistant message with calls come its results, all of them, once each, before anything else; and nowhere else.
fn check_results(messages: &[Value]) -> Check {
    let mut open: Vec<&str> = Vec::new();
    let mut in_results = false;
    for (index, message) in messages.iter().enumerate() {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            if !in_results {
                return Err(format!(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'. (messages.[{index}].role)"
                ));
            }
            let Some(place) = open.iter().position(|call| *call == id) else {
                return Err(format!(
                    "Invalid parameter: 'tool_call_id' of '{id}' not found in 'tool_calls' of previous message."
                ));
            };
            open.remove(place);
            continue;
        }
        all_answered(&open)?;
        open = message["tool_calls"].as_array().into_iter().flatten().filter_map(|call| call["id"].as_str()).collect();
        in_results = !open.is_empty();
    }
    all_answered(&open)
}

fn all_answered(open: &[&str]) -> Check {
    if open.is_empty() {
        return Ok(());
    }
    Err(format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {}",
        open.join(", ")
    ))
}

/// System text first and nowhere else; then user and assistant in turn; a user or a tool at the end.
fn check_order(messages: &[Value]) -> Check {
    let role = |message: &Value| message["role"].as_str().unwrap_or_default().to_owned();
    let is_system = |role: &str| role == "system" || role == "developer";
    let rest = messages.iter().map(role).skip_while(|role| is_system(role));
    let mut before = String::new();
    for role in rest {
        if is_system(&role) {
            return Err("System message must be at the beginning.".into());
        }
        if before.is_empty() && role != "user" || before == role && role != "tool" {
            return Err(
                "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...".into()
            );
        }
        before = role;
    }
    match before.as_str() {
        "user" | "tool" => Ok(()),
        "assistant" => {
            Err("This model does not support assistant message prefill. The conversation must end with a user message.".into())
        }
        _ => Err("No user query found in messages.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn legal() -> Value {
        let call =
            |id: &str| json!({"id": id, "type": "function", "function": {"name": "read", "arguments": "{\"path\": \"a\"}"}});
        json!({"model": "m", "stream": true, "max_completion_tokens": 100,
            "tools": [{"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": {"type": "object"}}}],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "I look.", "tool_calls": [call("call_1"), call("call_2")]},
                {"role": "tool", "tool_call_id": "call_2", "content": "two"},
                {"role": "tool", "tool_call_id": "call_1", "content": ""},
                {"role": "assistant", "content": null, "tool_calls": [call("call_3")]},
                {"role": "tool", "tool_call_id": "call_3", "content": [{"type": "text", "text": "three"}]},
                {"role": "user", "content": [
                    {"type": "text", "text": "be quick"},
                    {"type": "text", "text": "please"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}]},
                {"role": "assistant", "content": "Done."},
                {"role": "user", "content": "thanks"}]})
    }

    #[track_caller]
    fn refused_with(pointer: &str, value: Value, words: &str) {
        let mut body = legal();
        *body.pointer_mut(pointer).expect("the place exists") = value;
        let refusal = check_openai(&body).expect_err("a strict service refuses this");
        assert!(refusal.contains(words), "{refusal}");
    }

    #[track_caller]
    fn refused_without(message: usize, words: &str) {
        let mut body = legal();
        body["messages"].as_array_mut().expect("messages").remove(message);
        let refusal = check_openai(&body).expect_err("a strict service refuses this");
        assert!(refusal.contains(words), "{refusal}");
    }

    #[test]
    fn a_legal_conversation_is_accepted() {
        assert_eq!(check_openai(&legal()), Ok(()));
    }

    #[test]
    fn parameters_that_are_missing_or_wrong_are_refused() {
        refused_with("/model", json!(""), "you must provide a model");
        refused_with("/stream", json!(false), "only streamed answers");
        refused_with("/tools", json!([]), "Invalid 'tools': empty array");
        refused_with("/messages", json!([]), "Invalid 'messages': empty array");
        let mut body = legal();
        body["max_tokens"] = json!(5);
        assert!(check_openai(&body).expect_err("both limits").contains("at the same time"));
    }

    #[test]
    fn bad_tools_are_refused() {
        refused_with("/tools/0/type", Value::Null, "tools[0].type");
        refused_with("/tools/0/function/name", json!("read.file"), "does not match pattern");
        refused_with("/tools/0/function/name", json!("x".repeat(65)), "maximum length 64, but got a string with length 65");
        refused_with("/tools/0/function/parameters", json!({"type": "string"}), "Invalid schema for function 'read'");
    }

    #[test]
    fn roles_out_of_order_are_refused() {
        refused_with("/messages/1/role", json!("human"), "Invalid value: 'human'");
        refused_with("/messages/8/role", json!("user"), "roles must alternate");
        refused_with("/messages/8/role", json!("system"), "System message must be at the beginning");
        refused_without(1, "roles must alternate");
    }

    #[test]
    fn an_assistant_message_at_the_end_is_refused() {
        refused_without(9, "does not support assistant message prefill");
    }

    #[test]
    fn blank_and_empty_content_is_refused() {
        refused_with("/messages/1/content", json!(" "), "messages[1].content");
        refused_with("/messages/8/content", Value::Null, "expected a string, got null");
        refused_with("/messages/2/content", json!(""), "messages[2].content");
        refused_with("/messages/7/content/0/text", json!("\n"), "non-whitespace");
        refused_with("/messages/7/content", json!([]), "non-whitespace");
        refused_with("/messages/7/content/0/type", json!("words"), "messages[7].content[0].type");
        refused_with("/messages/7/content", json!(7), "Invalid type for 'messages[7].content'");
    }

    #[test]
    fn bad_and_misplaced_images_are_refused() {
        refused_with("/messages/7/content/2/image_url/url", json!("data:image/png;base64,"), "unsupported image");
        refused_with("/messages/7/content/2/image_url", json!("data:image/png;base64,iVBORw=="), "unsupported image");
        let image = json!([legal()["messages"][7]["content"][2]]);
        refused_with("/messages/6/content", image, "Image URLs are only allowed for messages with role 'user'");
    }

    #[test]
    fn bad_tool_calls_are_refused() {
        refused_with("/messages/2/tool_calls/0/id", json!("x".repeat(41)), "maximum length 40");
        refused_with("/messages/2/tool_calls/0/id", json!(""), "messages[2].tool_calls[0].id");
        refused_with("/messages/2/tool_calls/0/id", json!("call_2"), "duplicate tool call id");
        refused_with("/messages/2/tool_calls/0/type", Value::Null, "tool_calls[0].type");
        refused_with("/messages/2/tool_calls/0/function/name", json!(""), "does not match pattern");
        refused_with("/messages/2/tool_calls/0/function/arguments", json!({}), "expected a string");
        refused_with("/messages/2/tool_calls/0/function/arguments", json!("{\"path\": \"a"), "as a JSON object");
        refused_with("/messages/2/tool_calls/0/function/arguments", json!("[]"), "as a JSON object");
        refused_with("/messages/5/tool_calls", json!([]), "tool_calls': empty array");
    }

    #[test]
    fn orphaned_missing_doubled_and_misplaced_results_are_refused() {
        refused_without(4, "did not have response messages: call_1");
        refused_without(2, "must be a response to a preceeding message with 'tool_calls'");
        refused_without(5, "'tool_call_id' of 'call_3' not found");
        refused_with("/messages/4/tool_call_id", json!("call_2"), "'tool_call_id' of 'call_2' not found");
        refused_with("/messages/4/tool_call_id", json!(""), "messages[4].tool_call_id");
        let mut body = legal();
        body["messages"].as_array_mut().expect("messages").swap(6, 7);
        assert!(
            check_openai(&body).expect_err("a user's words before the result").contains("did not have response messages: call_3")
        );
        body = legal();
        body["messages"].as_array_mut().expect("messages").swap(8, 6);
        assert!(check_openai(&body).is_err());
    }
}
