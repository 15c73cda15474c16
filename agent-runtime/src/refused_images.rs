//! Images that a model refuses: which of them leave its requests, so that one bad image is no end of a session.
//!
//! Servers seldom say which image they mean. Where the words name a place of the body, it is the image there; else all that no answer was
//! given to yet; and only where that does not help, all of them.

use crate::images::{Images, slot_images};
use crate::model::Body;
use serde_json::Value;
use session_store::{ImageRef, Message, Origin, Slot, State};
use std::collections::HashSet;

/// How often an answer is asked for again with fewer images.
pub(crate) const IMAGES_REFUSED_MAX: u32 = 4;
/// How much of the server's words is kept, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 300;

/// The images that leave, and whether a model gave an answer to one of them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Refused {
    pub(crate) images: Vec<ImageRef>,
    pub(crate) answered: bool,
}

/// What leaves after the `times`th refusal (from 1) of an answer's requests; `body` is the last of them, and `words` is what the server said. Nothing where no image
/// was sent. Reads all of the body: for a thread that may block.
pub(crate) fn refused(state: &State, sent: &Images, origin: &Origin, body: &Body, words: &str, times: u32) -> Refused {
    let is_sent = |image: &&ImageRef| sent.get(image).is_some() && state.refused_image(origin, image).is_none();
    let images = |slots| unique(slot_images(slots).filter(is_sent));
    let answers = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::Assistant(answer)) if answer.origin == *origin);
    let last_answer = state.context.iter().rposition(answers).unwrap_or(0);
    let answered = images(&state.context[..last_answer]);
    let is_answered = |image: &ImageRef| answered.iter().any(|other| other.sha256 == image.sha256);
    let all = images(&state.context);
    let new = || all.iter().filter(|image| !is_answered(image)).cloned().collect::<Vec<_>>();
    let named = || named(&all, sent, body, words);
    let chosen = match times {
        IMAGES_REFUSED_MAX.. => Vec::new(),
        // Where each refusal names another image, all that are new go before the tries are used up.
        3 => new(),
        _ => Some(named()).filter(|named| !named.is_empty()).unwrap_or_else(new),
    };
    let images = if chosen.is_empty() { all.clone() } else { chosen };
    Refused { answered: images.iter().any(is_answered), images }
}

fn unique<'a>(images: impl Iterator<Item = &'a ImageRef>) -> Vec<ImageRef> {
    let mut known = HashSet::new();
    images.filter(|image| known.insert(&image.sha256)).cloned().collect()
}

/// Those of `images` that lie at the place of the body that the server's words name.
fn named(images: &[ImageRef], sent: &Images, body: &Body, words: &str) -> Vec<ImageRef> {
    let Some(path) = path_in(words) else { return Vec::new() };
    let Ok(body) = serde_json::from_slice::<Value>(&body.to_bytes()) else { return Vec::new() };
    let texts = element_at(&body, &path).map(texts_in).unwrap_or_default();
    let is_there = |image: &&ImageRef| {
        sent.get(image).is_some_and(|base64| texts.iter().any(|text| text.strip_suffix(base64.as_str()).is_some()))
    };
    images.iter().filter(is_there).cloned().collect()
}

/// A place in a body, in the words of a server: `messages.3.content.0.image.source.base64`, `input[108].content[14].image_url`.
fn path_in(words: &str) -> Option<Vec<&str>> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '[' | ']');
    let paths = words.split(|c| !is_of_path(c)).map(|path| path.split(['.', '[', ']']).filter(|step| !step.is_empty()));
    let mut paths = paths.map(Iterator::collect::<Vec<_>>);
    paths.find(|path| matches!(path[..], ["messages" | "input", place, ..] if place.parse::<usize>().is_ok()))
}

/// The last element of an array on the way along `path`. Servers put names of types between those of fields, which are passed over.
fn element_at<'a>(body: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let (mut value, mut element) = (body, None);
    for step in path {
        match (value, step.parse::<usize>()) {
            (Value::Array(items), Ok(place)) => {
                value = items.get(place)?;
                element = Some(value);
            }
            _ => value = value.get(*step).unwrap_or(value),
        }
    }
    element
}

fn texts_in(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts_in).collect(),
        Value::Object(fields) => fields.values().flat_map(texts_in).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_place_that_a_server_names_is_found_in_the_body() {
        let image = |data: &str| json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
        let result = json!({"type": "tool_result", "content": [{"type": "text", "text": "two"}, image("CCCC")]});
        let anthropic = json!({"messages": [
            {"role": "user", "content": [image("AAAA"), image("BBBB"), {"type": "text", "text": "words"}]},
            {"role": "user", "content": [result]},
        ]});
        let url = |data: &str| json!({"type": "input_image", "image_url": format!("data:image/png;base64,{data}")});
        let responses = json!({"input": [{"role": "user", "content": [url("AAAA"), url("BBBB")]}]});
        let found = |body: &Value, words: &str| {
            let texts = path_in(words).and_then(|path| element_at(body, &path)).map(texts_in).unwrap_or_default();
            texts
                .iter()
                .filter_map(|text| text.get(text.len() - 4..))
                .filter(|text| text.to_uppercase() == *text)
                .collect::<String>()
        };
        for (body, words, expected) in [
            (&anthropic, "messages.0.content.1.image.source.base64.data: At least one of the image dimensions exceed", "BBBB"),
            (&anthropic, "answered 400: messages.0.content.0.image.source.base64: image exceeds 5 MB maximum", "AAAA"),
            (&anthropic, "messages.1.content.0.tool_result.content.1.image.source.base64: invalid base64 data", "CCCC"),
            (&anthropic, "messages.0: too many images", "AAAABBBB"),
            (&anthropic, "messages.0.content.9.image.source.base64: image cannot be empty", ""),
            (&anthropic, "messages: too many images, input 3", ""),
            (&responses, "Invalid 'input[0].content[1].image_url'. Expected a base64-encoded data URL", "BBBB"),
            (&responses, "Invalid image.", ""),
        ] {
            assert_eq!(found(body, words), expected, "{words}");
        }
    }
}
