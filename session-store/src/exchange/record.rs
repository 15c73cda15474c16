//! Foreign JSON: bounded before it is parsed, and read without trust in any of its types.

use super::Hide;
use crate::event::{ImageRef, with_images};
use crate::image::{MESSAGE_IMAGE_BYTES_MAX, MESSAGE_IMAGES_MAX};
use crate::time::Timestamp;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::borrow::Cow;
use std::ops::RangeInclusive;

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
    serde_json::from_str(&whole_characters(text)).map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))
}

/// The same, with secrets hidden in each text in it: what the file has may be written with escapes.
pub(super) fn parse_hiding(text: &str, hide: &Hide<'_>) -> Result<Value, String> {
    parse(text).map(|record| hidden(record, hide))
}

fn hidden(value: Value, hide: &Hide<'_>) -> Value {
    match value {
        Value::String(text) => Value::String(hide(text)),
        Value::Array(items) => items.into_iter().map(|item| hidden(item, hide)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (hide(name), hidden(value, hide))).collect(),
        other => other,
    }
}

/// The same JSON with a replacement character for each half of a surrogate pair that stands alone in its texts: programs that cut a
/// text by UTF-16 units write those.
pub(super) fn whole_characters(text: &str) -> Cow<'_, str> {
    let (mut whole, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        let half = |at: usize, halves: RangeInclusive<u16>| {
            let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(digits, 16).ok().filter(|unit| halves.contains(unit))
        };
        if half(at, 0xD800..=0xDFFF).is_none() {
            // What is escaped is no start of an escape.
            at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8);
        } else if half(at, 0xD800..=0xDBFF).is_some() && half(at + 6, 0xDC00..=0xDFFF).is_some() {
            at += 12;
        } else {
            whole.push_str(&text[copied..at]);
            whole.push_str("\\ufffd");
            at += 6;
            copied = at;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    whole.push_str(&text[copied..]);
    Cow::Owned(whole)
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

/// What a message says: its words, and the images in it that a message here may have.
#[derive(Default)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) images: Vec<(ImageRef, Vec<u8>)>,
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self { text, images: Vec::new() }
    }
}

impl Said {
    /// What a `content` says. An image that cannot be read, or is too much for a message, is named among the words.
    pub(super) fn of(content: &Value) -> Self {
        match content {
            Value::Array(parts) => Self::of_parts(parts),
            content => Self::of_parts([content]),
        }
    }

    pub(super) fn of_parts<'a>(parts: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut images: Vec<(ImageRef, Vec<u8>)> = Vec::new();
        let mut room = MESSAGE_IMAGE_BYTES_MAX;
        let mut words = Vec::new();
        for part in parts {
            match image(part).filter(|(image, _)| image.bytes <= room && images.len() < MESSAGE_IMAGES_MAX) {
                Some(image) => {
                    room -= image.0.bytes;
                    images.push(image);
                }
                None => words.extend(part_text(part)),
            }
        }
        Self { text: words.join("\n"), images }
    }

    /// The words, with the images named.
    pub(super) fn named(&self) -> String {
        let images: Vec<ImageRef> = self.images.iter().map(|(image, _)| image.clone()).collect();
        with_images(&self.text, &images).into_owned()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.images.is_empty()
    }
}

/// The image that a part holds, in each of the forms that programs give it; nothing where it is none that is kept here.
fn image(part: &Value) -> Option<(ImageRef, Vec<u8>)> {
    let (url, source) = (&part["image_url"], &part["source"]);
    let data = match text(part, "type") {
        // Anthropic and Claude Code; pi.
        "image" if text(source, "type") == "base64" => text(source, "data"),
        "image" => text(part, "data"),
        // Chat Completions; Responses and Codex.
        "image_url" | "input_image" => {
            let url = url["url"].as_str().or_else(|| url.as_str())?;
            url.strip_prefix("data:")?.split_once(";base64,")?.1
        }
        _ => return None,
    };
    let bytes = BASE64_STANDARD.decode(data).ok()?;
    Some((ImageRef::of(&bytes).ok()?, bytes))
}

/// JSON of an object of arguments, as a model would have written it.
pub(super) fn arguments(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_surrogate_pair_is_replaced_and_nothing_else() {
        for text in [r#""\ud83c\udf0a \u00e9 \\ud83c \\\\udf0a ends""#, r#""\ud83c\uDF0A""#, "é\\", r"\u", r"\ud83"] {
            assert_eq!(whole_characters(text), text);
        }
        let cut = r#""\ud83c|\udf0a|\ud83c\ud83c\udf0a|\\\ud83c""#;
        assert_eq!(whole_characters(cut), r#""\ufffd|\ufffd|\ufffd\ud83c\udf0a|\\\ufffd""#);
        assert_eq!(parse(cut).expect("JSON"), "\u{fffd}|\u{fffd}|\u{fffd}\u{1f30a}|\\\u{fffd}");
    }
}
