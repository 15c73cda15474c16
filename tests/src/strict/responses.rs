//! The rules of OpenAI's Responses API, used without state at the server.
//!
//! Reasoning comes back encrypted. Here the encrypted form is a hash over the model, the instructions, the tools, and every item before
//! it, which is stricter than the service: that refuses what another model or account made, and silently drops the rest.

use super::{canonical, is_image_url, is_name, messages};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

const NAME_LEN_MAX: usize = 64;
/// The service takes no smaller limit.
const OUTPUT_TOKENS_MIN: u64 = 16;

type Check = Result<(), String>;

/// Whether OpenAI would take this body.
///
/// # Errors
/// The message of the 400 that it would answer.
pub fn check_responses(body: &Value) -> Check {
    check_parameters(body)?;
    check_tools(body)?;
    let items = messages(body);
    if items.is_empty() {
        return Err("Missing required parameter: 'input'.".into());
    }
    let mut ids = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        check_item(index, item, &mut ids)?;
    }
    check_results(items)?;
    check_reasoning(body, items)?;
    match items.last() {
        Some(last) if last["role"] == "assistant" || last["type"] == "function_call" => {
            Err("fault server: the request ends with the model's own words".into())
        }
        _ => Ok(()),
    }
}

fn check_parameters(body: &Value) -> Check {
    if body["model"].as_str().is_none_or(str::is_empty) {
        return Err("Missing required parameter: 'model'.".into());
    }
    if body["stream"] != true {
        return Err("fault server: only streamed answers (`\"stream\": true`) are spoken here".into());
    }
    if body.get("messages").is_some() {
        return Err("Unsupported parameter: 'messages'. In the Responses API, this parameter has moved to 'input'.".into());
    }
    if body.get("response_format").is_some() {
        return Err(
            "Unsupported parameter: 'response_format'. In the Responses API, this parameter has moved to 'text.format'.".into()
        );
    }
    if body["text"]["format"]["type"] == "json_schema" {
        super::check_json_schema("text.format", &body["text"]["format"])?;
    }
    match body["max_output_tokens"].as_u64() {
        Some(few) if few < OUTPUT_TOKENS_MIN => Err(format!(
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= {OUTPUT_TOKENS_MIN}, but got {few} instead."
        )),
        _ => Ok(()),
    }
}

fn check_tools(body: &Value) -> Check {
    let mut names = HashSet::new();
    for (index, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        if tool["type"] != "function" {
            return Err(format!("Missing required parameter: 'tools[{index}].type'."));
        }
        let name = tool["name"].as_str().unwrap_or_default();
        check_name(&format!("tools[{index}].name"), name)?;
        if !names.insert(name) {
            return Err(format!("Invalid 'tools[{index}].name': '{name}' is there twice."));
        }
        if tool["parameters"]["type"] != "object" {
            return Err(format!("Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'."));
        }
        // Without the word, the service takes strict mode for wanted, and refuses the schemas of most tools.
        if tool["strict"] != false {
            return Err(format!("Invalid schema for function '{name}': 'additionalProperties' is required to be false."));
        }
    }
    Ok(())
}

fn check_name(at: &str, name: &str) -> Check {
    if is_name(name, NAME_LEN_MAX) {
        return Ok(());
    }
    Err(format!("Invalid '{at}': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."))
}

fn check_item<'a>(index: usize, item: &'a Value, ids: &mut HashSet<&'a str>) -> Check {
    let call_id = item["call_id"].as_str().unwrap_or_default();
    let has_call_id = || match call_id.len() {
        1..=NAME_LEN_MAX => Ok(()),
        0 => Err(format!("Missing required parameter: 'input[{index}].call_id'.")),
        length => Err(format!(
            "Invalid 'input[{index}].call_id': string too long. Expected a string with maximum length {NAME_LEN_MAX}, but got a string with length {length} instead."
        )),
    };
    match item["type"].as_str().unwrap_or_default() {
        "message" => check_message(index, item),
        "function_call" => {
            has_call_id()?;
            if !ids.insert(call_id) {
                return Err(format!("Duplicate function call with call_id {call_id}."));
            }
            check_name(&format!("input[{index}].name"), item["name"].as_str().unwrap_or_default())?;
            match item["arguments"].as_str().map(serde_json::from_str::<Value>) {
                Some(Ok(Value::Object(_))) => Ok(()),
                _ => Err(format!("Invalid 'input[{index}].arguments': expected the JSON text of an object.")),
            }
        }
        "function_call_output" => {
            has_call_id()?;
            match &item["output"] {
                Value::String(_) => Ok(()),
                Value::Array(parts) if !parts.is_empty() => check_parts(index, "output", parts, "input_text", true),
                _ => Err(format!("Missing required parameter: 'input[{index}].output'.")),
            }
        }
        "reasoning" => match (item["id"].as_str(), item["summary"].is_array()) {
            (_, false) => Err(format!("Missing required parameter: 'input[{index}].summary'.")),
            (Some(id), _) if !id.starts_with("rs_") => {
                Err(format!("Invalid 'input[{index}].id': '{id}'. Expected an ID that begins with 'rs'."))
            }
            _ => Ok(()),
        },
        other => Err(format!("Invalid value: '{other}'. (input[{index}].type)")),
    }
}

fn check_message(index: usize, item: &Value) -> Check {
    let (role, expected) = match item["role"].as_str().unwrap_or_default() {
        role @ ("user" | "system" | "developer") => (role, "input_text"),
        "assistant" => ("assistant", "output_text"),
        other => return Err(format!("Invalid value: '{other}'. (input[{index}].role)")),
    };
    let parts = item["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    if parts.is_empty() {
        return Err(format!("Invalid 'input[{index}].content': empty array."));
    }
    check_parts(index, "content", parts, expected, role == "user")
}

fn check_parts(index: usize, field: &str, parts: &[Value], expected: &str, images: bool) -> Check {
    for (place, part) in parts.iter().enumerate() {
        let kind = part["type"].as_str().unwrap_or_default();
        if kind == "input_image" && images {
            if !is_image_url(&part["image_url"]) {
                return Err(format!("Invalid 'input[{index}].{field}[{place}].image_url'. Expected a valid URL."));
            }
            continue;
        }
        if kind != expected {
            return Err(format!(
                "Invalid value: '{kind}'. Supported values are: '{expected}'. (input[{index}].{field}[{place}].type)"
            ));
        }
        if part["text"].as_str().is_none_or(|text| text.trim().is_empty()) {
            return Err(format!("Invalid 'input[{index}].{field}[{place}].text': content must contain non-whitespace text"));
        }
    }
    Ok(())
}

/// After the calls of an answer come their results, all of them, before anything else.
fn check_results(items: &[Value]) -> Check {
    let mut open: Vec<&str> = Vec::new();
    let mut in_answer = true;
    let missing = |open: &[&str]| Err(format!("No tool output found for function call {}.", open.join(", ")));
    for item in items {
        let call_id = item["call_id"].as_str().unwrap_or_default();
        match item["type"].as_str().unwrap_or_default() {
            "function_call" => {
                if !in_answer && !open.is_empty() {
                    return missing(&open);
                }
                in_answer = true;
                open.push(call_id);
            }
            "function_call_output" => {
                in_answer = false;
                match open.iter().position(|known| *known == call_id) {
                    Some(place) => _ = open.remove(place),
                    None => return Err(format!("No tool call found for function call output with call_id {call_id}.")),
                }
            }
            "reasoning" => {}
            _ if item["role"] == "assistant" => {}
            _ if open.is_empty() => in_answer = false,
            _ => return missing(&open),
        }
    }
    if open.is_empty() { Ok(()) } else { missing(&open) }
}

fn check_reasoning(body: &Value, items: &[Value]) -> Check {
    for (index, item) in items.iter().enumerate().filter(|(_, item)| item["type"] == "reasoning") {
        let id = item["id"].as_str().unwrap_or_default();
        let Some(encrypted) = item["encrypted_content"].as_str() else {
            return Err(format!(
                "Item with id '{id}' not found. Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item from your input."
            ));
        };
        let led_to = items[index + 1..].iter().find(|next| next["type"] != "reasoning");
        if !led_to.is_some_and(is_of_answer) {
            return Err(format!("Item '{id}' of type 'reasoning' was provided without its required following item."));
        }
        let start = items[..index].iter().rposition(|before| !is_of_answer(before)).map_or(0, |last| last + 1);
        let mut asked = body.clone();
        asked["input"] = json!(&items[..start]);
        if encrypted != encrypt(&asked, &items[start..index]) {
            return Err(format!("The encrypted content for item {id} could not be verified."));
        }
    }
    Ok(())
}

fn is_of_answer(item: &Value) -> bool {
    item["role"] == "assistant" || item["type"] == "function_call" || item["type"] == "reasoning"
}

/// The encrypted form of reasoning made in answer to `body`, after the items `before` of the same answer.
#[must_use]
pub fn encrypt(body: &Value, before: &[Value]) -> String {
    // Ids are the client's to choose, and a server's fields need not come back.
    let bare = |item: &Value| {
        let mut item = item.clone();
        if let Some(fields) = item.as_object_mut() {
            fields.retain(|name, _| !["id", "call_id", "status", "phase"].contains(&name.as_str()));
        }
        canonical(&item)
    };
    let before: Vec<Value> = before.iter().map(bare).collect();
    let covered = json!([body["model"], body["instructions"], canonical(&body["tools"]), canonical(&body["input"]), before]);
    let hash = Sha256::digest(covered.to_string().as_bytes());
    hash.iter().fold(String::from("gAAAA"), |hex, byte| hex + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legal() -> Value {
        let mut body = json!({"model": "m", "stream": true, "store": false, "instructions": "s", "max_output_tokens": 100,
            "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": false}],
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]}]});
        let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": encrypt(&body, &[])});
        let rest = json!([reasoning,
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "look"}]},
            {"type": "function_call", "call_id": "a", "name": "read", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "read", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "b", "output": ""},
            {"type": "function_call_output", "call_id": "a", "output": "x"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "two"}]}]);
        body["input"].as_array_mut().expect("input").extend(rest.as_array().expect("items").clone());
        body
    }

    #[track_caller]
    fn refused_with(pointer: &str, value: Value, words: &str) {
        let mut body = legal();
        *body.pointer_mut(pointer).expect("the place exists") = value;
        let refusal = check_responses(&body).expect_err("a strict service refuses this");
        assert!(refusal.contains(words), "{refusal}");
    }

    #[track_caller]
    fn refused_without(item: usize, words: &str) {
        let mut body = legal();
        body["input"].as_array_mut().expect("input").remove(item);
        let refusal = check_responses(&body).expect_err("a strict service refuses this");
        assert!(refusal.contains(words), "{refusal}");
    }

    #[test]
    fn a_legal_conversation_is_accepted() {
        assert_eq!(check_responses(&legal()), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        refused_with("/stream", json!(false), "only streamed answers");
        refused_with("/max_output_tokens", json!(5), ">= 16");
        refused_with("/input", json!([]), "Missing required parameter: 'input'");
        refused_with("/tools/0/name", json!("read.file"), "does not match pattern");
        refused_with("/tools/0/strict", Value::Null, "additionalProperties");
        refused_with("/input/0/content/0/text", json!(" "), "non-whitespace");
        refused_with("/input/2/content/0/type", json!("input_text"), "Supported values are: 'output_text'");
        refused_with("/input/3/arguments", json!("{\"cut"), "JSON text of an object");
        refused_with("/input/3/call_id", json!("b"), "Duplicate function call");
        refused_with("/input/3/call_id", json!("x".repeat(65)), "maximum length 64");
        refused_with("/input/1/id", json!("1"), "begins with 'rs'");
    }

    #[test]
    fn calls_and_results_belong_together() {
        refused_without(6, "No tool output found for function call a");
        refused_without(3, "No tool call found for function call output with call_id a");
        let mut body = legal();
        body["input"].as_array_mut().expect("input").pop();
        body["input"].as_array_mut().expect("input").swap(4, 6);
        assert!(check_responses(&body).is_err(), "a call behind a result of the same answer");
    }

    #[test]
    fn reasoning_stays_where_it_was_made_and_before_what_it_led_to() {
        refused_with("/input/1/encrypted_content", Value::Null, "Items are not persisted");
        refused_with("/input/0/content/0/text", json!("changed"), "could not be verified");
        refused_with("/model", json!("another"), "could not be verified");
        let mut body = legal();
        let items = body["input"].as_array_mut().expect("input");
        items.drain(2..7);
        assert!(check_responses(&body).expect_err("nothing follows").contains("without its required following item"));
    }
}
