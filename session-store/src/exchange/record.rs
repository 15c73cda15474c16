//! Foreign JSON: bounded before it is parsed, and read without trust in any of its types.

use crate::time::Timestamp;
use serde_json::Value;

/// A record is nested so deep at most: what holds it in a log adds some levels of its own.
pub(super) const DEPTH_MAX: usize = 96;
/// The most values in a record: each takes some tens of bytes in memory, however few it has in the file.
const VALUES_MAX: usize = 2_000_000;
const TITLE_CHARS_MAX: usize = 80;

/// Reads JSON that is neither too deep nor too many.
///
/// # Errors
/// Why not, in words.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    check(text.as_bytes())?;
    // Most are one line of a file, which has its own number.
    serde_json::from_str(text).map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))
}

fn check(text: &[u8]) -> Result<(), String> {
    let (mut depth, mut values, mut in_string, mut is_escaped) = (0_usize, 0_usize, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                values += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("nested more than {DEPTH_MAX} deep"));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
    }
    if values > VALUES_MAX { Err(format!("more than {VALUES_MAX} values")) } else { Ok(()) }
}

/// The text at `key`; empty where it is none.
pub(super) fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or_default()
}

/// The text at `key`, where there is one that is not blank.
pub(super) fn some_text(record: &Value, key: &str) -> Option<String> {
    record[key].as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The items at `key`.
pub(super) fn items<'a>(record: &'a Value, key: &str) -> &'a [Value] {
    record[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A moment: RFC 3339, or a number of seconds or milliseconds since 1970.
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| *number > 0.0)?;
            // Seconds reach this number in the year 5138, milliseconds reached it in 1973.
            let ms = if number < 1e11 { number * 1000.0 } else { number };
            Some(Timestamp::from_ms(ms as i64))
        }
        _ => None,
    }
}

/// Text for a list: one line, not long.
pub(super) fn title(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|char| !char.is_control()).take(TITLE_CHARS_MAX).collect())
}

/// A path that can be a working directory.
pub(super) fn cwd(record: &Value) -> Option<String> {
    some_text(record, "cwd").filter(|path| path.starts_with('/') && !path.contains('\0'))
}

/// The words of a message's `content`: a text, or parts of which those with a text count, and others are named.
pub(super) fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(part_text).collect::<Vec<_>>().join("\n"),
        Value::Object(_) => part_text(content).unwrap_or_default(),
        _ => String::new(),
    }
}

/// The words of a part; for one that is no text, that it was there.
pub(super) fn part_text(part: &Value) -> Option<String> {
    if let Value::String(text) = part {
        return Some(text.clone());
    }
    match (&part["text"], text(part, "type")) {
        (Value::String(text), _) => Some(text.clone()),
        (_, "") => None,
        (_, kind) => Some(format!("[{}]", kind.trim_start_matches("input_").trim_end_matches("_url").replace('_', " "))),
    }
}

/// JSON of an object of arguments, as a model would have written it.
pub(super) fn arguments(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    }
}
