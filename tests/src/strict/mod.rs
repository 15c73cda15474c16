//! What the real services refuse, in their words.
//!
//! [`check_anthropic`], [`check_openai`] and [`check_responses`] are functions of a request's body alone: shape, order of roles, tool calls and their results,
//! blank content, names and ids. [`check_signatures`] and [`check_reasoning_kept`] are about reasoning that this server itself
//! made (see [`sign`]). [`check_append_only`] compares a request with the one before it, as the providers' caches do.
//!
//! Where services differ, the strictest counts: two user messages in a row, which Anthropic and OpenAI merge and some compatible servers
//! refuse, are refused; so are an assistant's message at the end and blank text, which OpenAI itself would take. A client
//! that keeps to these rules is at home everywhere. Two things are stricter than any service: a mismatch is refused also
//! where the request asks to have the block dropped (`drop_block`), because the request itself broke the rule; and an unknown role
//! includes those that only the newest models take.

mod anthropic;
mod openai;
mod reasoning;
mod responses;

pub use anthropic::check_anthropic;
pub use openai::check_openai;
pub use reasoning::{Reasoned, check_reasoning_kept, check_signatures, sign};
pub use responses::{check_responses, encrypt};

use serde_json::Value;

/// Whether `after`, a later request of the same conversation, only adds messages to `before`: system text, tools and every earlier message
/// are the same, apart from marks for the cache.
///
/// # Errors
/// What changed first.
pub fn check_append_only(before: &Value, after: &Value) -> Result<(), String> {
    for field in ["model", "system", "instructions", "tools"] {
        if canonical(&before[field]) != canonical(&after[field]) {
            return Err(format!("`{field}` changed"));
        }
    }
    let (earlier, later) = (messages(before), messages(after));
    if later.len() < earlier.len() {
        return Err(format!("{} messages became {}", earlier.len(), later.len()));
    }
    match earlier.iter().zip(later).position(|(a, b)| canonical(a) != canonical(b)) {
        Some(index) => Err(format!("messages.{index} changed from {} to {}", earlier[index], later[index])),
        None => Ok(()),
    }
}

/// The messages of a body, whatever its protocol calls them.
fn messages(body: &Value) -> &[Value] {
    body["messages"].as_array().or_else(|| body["input"].as_array()).map(Vec::as_slice).unwrap_or_default()
}

/// `value` with sorted keys, without marks for the cache, and with a content that is one text written as blocks: what two requests
/// have in common when they mean the same.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().filter(|(key, _)| *key != "cache_control").collect();
            sorted.sort_by_key(|(key, _)| *key);
            let as_blocks = |key: &str, value: &Value| match value {
                Value::String(text) if key == "content" || key == "system" => serde_json::json!([{"text": text, "type": "text"}]),
                other => canonical(other),
            };
            sorted.into_iter().map(|(key, value)| (key.clone(), as_blocks(key, value))).collect()
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

/// Letters, digits, `_` and `-`, from 1 to `len_max`.
fn is_name(text: &str, len_max: usize) -> bool {
    (1..=len_max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether `data` is the base64 form of something, of a type that services take.
fn is_image(media_type: &str, data: &str) -> bool {
    let digits = data.trim_end_matches('=');
    let is_base64 = digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    let is_whole = data.len().is_multiple_of(4) && data.len() - digits.len() <= 2;
    let is_known = matches!(media_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp");
    is_known && !digits.is_empty() && is_base64 && is_whole
}

/// The same of a data URL.
fn is_image_url(url: &Value) -> bool {
    let parts = url.as_str().and_then(|url| url.strip_prefix("data:")?.split_once(";base64,"));
    parts.is_some_and(|(media_type, data)| is_image(media_type, data))
}

/// OpenAI's rules for a schema of answers: `part` has its `name`, `strict` and `schema`.
fn check_json_schema(at: &str, part: &Value) -> Result<(), String> {
    if !is_name(part["name"].as_str().unwrap_or_default(), 64) {
        return Err(format!("Missing required parameter: '{at}.name'."));
    }
    if !part["schema"].is_object() {
        return Err(format!("Missing required parameter: '{at}.schema'."));
    }
    if part["strict"] != true {
        return Ok(());
    }
    every_object(&part["schema"], &|object| {
        if object["additionalProperties"] != false {
            return Err(format!("Invalid schema for {at}: 'additionalProperties' is required to be supplied and to be false."));
        }
        let is_required =
            |name: &String| object["required"].as_array().is_some_and(|required| required.iter().any(|word| word == name));
        match object["properties"].as_object().and_then(|known| known.keys().find(|name| !is_required(name))) {
            Some(missing) => Err(format!(
                "Invalid schema for {at}: 'required' is required to be supplied and to be an array including every key in properties. Missing '{missing}'."
            )),
            None => Ok(()),
        }
    })
}

/// Whether each schema of an object in `schema` passes `check`.
fn every_object(schema: &Value, check: &impl Fn(&Value) -> Result<(), String>) -> Result<(), String> {
    match schema {
        Value::Object(fields) => {
            if fields.get("type").is_some_and(|kind| kind == "object") {
                check(schema)?;
            }
            fields.values().try_for_each(|below| every_object(below, check))
        }
        Value::Array(all) => all.iter().try_for_each(|below| every_object(below, check)),
        _ => Ok(()),
    }
}
