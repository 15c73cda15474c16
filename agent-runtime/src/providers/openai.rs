//! OpenAI's Chat Completions, and the many servers that speak it: Ollama, llama.cpp, vLLM, LiteLLM, gateways.
//!
//! They agree on the body and differ in the stream: who numbers tool calls and who repeats their ids, who sends a call
//! in pieces and who at once, who calls reasoning `reasoning` and who `reasoning_content`, who ends with `[DONE]` and who just ends. All of it is
//! taken here; what is asked of them is the least that all of them know, and what one refuses is learned.

use super::client::{Client, Protocol};
use super::endpoint::{Endpoint, EndpointError, secret_header};
use super::failure::{Learnable, ServerError};
use super::http::{DecodeError, Decoder, Events, HttpClient};
use super::images::{DataUrl, IMAGE_LEFT_OUT, IMAGES, NO_IMAGES, output_without_images};
use crate::clocks::Clocks;
use crate::model::{
    Body, Conversation, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentImage, SentPart, SentResult,
    head_of, join_json, whole_body,
};
use crate::output_schema::{is_strict, system_text};
use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::{Map, Value, json};
use session_store::{Block, Origin, StopReason, ToolCall, ToolSpec, Usage};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// A model behind Chat Completions.
#[derive(Debug)]
pub struct OpenAi {
    client: Client,
}

impl OpenAi {
    /// The model at `endpoint`, whose base URL ends in `/v1` or what the server has in its place; `/chat/completions` is
    /// added. Connects to nothing yet.
    ///
    /// # Errors
    /// A base URL or key that cannot be sent.
    pub fn new(endpoint: Endpoint, http: HttpClient) -> Result<Self, EndpointError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &endpoint.api_key {
            secret_header(&mut headers, "authorization", &format!("Bearer {}", key.expose()))?;
        }
        Ok(Self { client: Client::new(endpoint, http, &["chat", "completions"], headers)? })
    }
}

#[async_trait]
impl Model for OpenAi {
    fn origin(&self) -> &Origin {
        &self.client.origin
    }

    fn limits(&self) -> ModelLimits {
        self.client.endpoint.limits
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        whole_body(self, conversation)
    }

    fn head(&self, conversation: &Conversation) -> Option<Vec<u8>> {
        Some(head_of(&head(&self.client.endpoint, conversation, &self.client.learned.names())))
    }

    fn messages(&self, sent: &[Sent]) -> Body {
        join_json(sent, messages(sent, &self.client.learned.names()))
    }

    fn learned(&self) -> Vec<String> {
        self.client.learned.names().into_iter().collect()
    }

    async fn warm(&self) {
        self.client.warm().await;
    }

    async fn call(&self, body: Body, clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        let protocol = Protocol { headers: HeaderMap::new(), decoder: Answer::default(), learnable: LEARNABLE };
        self.client.call(body, protocol, clocks).await
    }
}

const LEARNABLE: &[Learnable] = &[
    Learnable::new("max_completion_tokens", r#""max_completion_tokens":"#, &["max_completion_tokens"]),
    Learnable::new("max_tokens", r#""max_tokens":"#, &["max_tokens"]),
    Learnable::new("stream_options", r#""stream_options":"#, &["stream_options", "include_usage"]),
    Learnable::new("reasoning_effort", r#""reasoning_effort":"#, &["reasoning_effort"]),
    Learnable::new("response_format", r#""response_format":"#, &["response_format", "json_schema"]),
    Learnable::new("temperature", r#""temperature":"#, &["temperature"]),
    Learnable::new("reasoning_content", r#""reasoning_content":"#, &["reasoning_content"]),
    Learnable::new("reasoning", r#""reasoning":"#, &["reasoning"]),
    Learnable::new("reasoning_details", r#""reasoning_details":"#, &["reasoning_details"]),
    Learnable::new("thinking_blocks", r#""thinking_blocks":"#, &["thinking_blocks"]),
    Learnable::new(IMAGES, r#"{"type":"image_url","image_url":"#, NO_IMAGES),
];

/// Where servers put reasoning; it goes back under the same name.
const REASONING_FIELDS: [&str; 2] = ["reasoning_content", "reasoning"];
/// Fields of a message that have to go back to the server that sent them. Others do not: strict servers refuse what they do not know.
const CARRIED_FIELDS: [&str; 2] = ["reasoning_details", "thinking_blocks"];

/// A body before its messages are in it.
#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolPart<'a>>,
    messages: Vec<Message<'a>>,
}

#[derive(Serialize)]
struct ResponseFormat<'a> {
    r#type: &'static str,
    json_schema: SchemaPart<'a>,
}

#[derive(Serialize)]
struct SchemaPart<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a Value,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct ToolPart<'a> {
    r#type: &'static str,
    function: FunctionPart<'a>,
}

#[derive(Serialize)]
struct FunctionPart<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
enum Message<'a> {
    System {
        content: Cow<'a, str>,
    },
    User {
        content: UserContent<'a>,
    },
    Assistant {
        /// Null beside calls; some servers insist on the field.
        content: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<CallPart<'a>>,
        /// Reasoning and other fields of the server's own.
        #[serde(flatten)]
        own: Map<String, Value>,
    },
    Tool {
        tool_call_id: &'a str,
        content: Cow<'a, str>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum UserContent<'a> {
    /// Not every server takes parts.
    Text(String),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: DataUrl<'a>,
}

#[derive(Serialize)]
struct CallPart<'a> {
    id: &'a str,
    r#type: &'static str,
    function: CalledPart<'a>,
    /// Fields of the server's own, such as Google's thought signatures.
    #[serde(flatten)]
    own: Option<&'a Map<String, Value>>,
}

#[derive(Serialize)]
struct CalledPart<'a> {
    name: &'a str,
    /// The model's own text; many servers parse it and refuse an empty one.
    arguments: &'a str,
}

fn head<'a>(endpoint: &'a Endpoint, conversation: &'a Conversation, learned: &BTreeSet<String>) -> Head<'a> {
    let profile = &*conversation.profile;
    let refused = |name: &str| learned.contains(name);
    // OpenAI's newer models refuse the old name, and many other servers do not know the new one.
    let newer = if endpoint.provider == "openai" { !refused("max_completion_tokens") } else { refused("max_tokens") };
    let most = Some(conversation.max_output_tokens);
    let effort = profile.parameters.effort.as_deref().map(|effort| if effort == "off" { "none" } else { effort });
    let schema = profile.parameters.output_schema.as_ref().filter(|_| !refused("response_format"));
    let response_format = schema.map(|schema| ResponseFormat {
        r#type: "json_schema",
        json_schema: SchemaPart { name: "answer", strict: is_strict(schema), schema },
    });
    let system = system_text(profile, schema.is_some());
    let system = (!system.trim().is_empty()).then_some(Message::System { content: system });
    Head {
        model: &endpoint.model,
        stream: true,
        stream_options: (!refused("stream_options")).then_some(StreamOptions { include_usage: true }),
        max_completion_tokens: most.filter(|_| newer && !refused("max_completion_tokens")),
        max_tokens: most.filter(|_| !newer && !refused("max_tokens")),
        reasoning_effort: effort.filter(|_| !refused("reasoning_effort")),
        temperature: profile.parameters.temperature.filter(|_| !refused("temperature")),
        response_format,
        tools: profile.tools.iter().map(tool_part).collect(),
        messages: system.into_iter().collect(),
    }
}

fn tool_part(tool: &ToolSpec) -> ToolPart<'_> {
    let function = FunctionPart { name: &tool.name, description: &tool.description, parameters: &tool.parameters };
    ToolPart { r#type: "function", function }
}

/// A tool's message takes no images: they follow behind the results, in the user's message that stands there or in one of their own.
fn messages<'a>(sent: &'a [Sent], learned: &BTreeSet<String>) -> Vec<Message<'a>> {
    let with_images = !learned.contains(IMAGES);
    let mut messages = Vec::with_capacity(sent.len());
    let mut of_tools = Vec::new();
    for sent in sent {
        let user = if let Sent::User(parts) = sent { &parts[..] } else { &[] };
        if !user.is_empty() || !of_tools.is_empty() {
            messages.push(Message::User { content: user_content(std::mem::take(&mut of_tools), user, with_images) });
        }
        match sent {
            Sent::User(_) => {}
            Sent::ToolResults(results) => {
                messages.extend(results.iter().map(|result| {
                    let content = if with_images { Cow::Borrowed(&*result.output) } else { output_without_images(result) };
                    Message::Tool { tool_call_id: &result.id, content }
                }));
                of_tools = if with_images { images_of(results) } else { Vec::new() };
            }
            Sent::Assistant { blocks, opaque } => messages.push(assistant(blocks, opaque.as_ref(), learned)),
        }
    }
    if !of_tools.is_empty() {
        messages.push(Message::User { content: UserContent::Parts(of_tools) });
    }
    messages
}

/// The images of results, each under the name of its tool.
fn images_of(results: &[SentResult]) -> Vec<Part<'_>> {
    let of_result = |result: &'_ SentResult| -> Option<String> {
        (!result.images.is_empty()).then(|| format!("[What the tool `{}` ({}) returned:]", result.name, result.id))
    };
    let mut parts = Vec::new();
    for result in results {
        parts.extend(of_result(result).map(|text| Part::Text { text: text.into() }));
        parts.extend(result.images.iter().map(image_part));
    }
    parts
}

fn image_part(image: &SentImage) -> Part<'_> {
    Part::ImageUrl { image_url: ImageUrl { url: DataUrl(image) } }
}

/// One string where there is no image.
fn user_content<'a>(before: Vec<Part<'a>>, parts: &'a [SentPart], with_images: bool) -> UserContent<'a> {
    let has_images = with_images && parts.iter().any(|part| matches!(part, SentPart::Image(_)));
    if before.is_empty() && !has_images {
        let texts: Vec<&str> = parts.iter().map(|part| part.text().unwrap_or(IMAGE_LEFT_OUT)).collect();
        return UserContent::Text(texts.join("\n\n"));
    }
    let part = |part: &'a SentPart| match part {
        SentPart::Text(text) => Part::Text { text: text.into() },
        SentPart::Image(image) => image_part(image),
    };
    UserContent::Parts(before.into_iter().chain(parts.iter().map(part)).collect())
}

fn assistant<'a>(blocks: &'a [Block], opaque: Option<&'a Value>, learned: &BTreeSet<String>) -> Message<'a> {
    let mut content = String::new();
    let mut tool_calls = Vec::new();
    let mut own = Map::new();
    for block in blocks {
        match block {
            Block::Text { text } => content.push_str(text),
            Block::Reasoning { opaque: Some(Value::Object(fields)), .. } => own.extend(fields.clone()),
            Block::ToolCall(call) => tool_calls.push(CallPart {
                id: &call.id,
                r#type: "function",
                function: CalledPart {
                    name: &call.name,
                    arguments: if call.arguments.trim().is_empty() { "{}" } else { &call.arguments },
                },
                own: opaque.and_then(|opaque| opaque["tool_calls"][tool_calls.len()].as_object()),
            }),
            _ => {}
        }
    }
    let carried = opaque.and_then(Value::as_object).into_iter().flatten().filter(|(name, _)| *name != "tool_calls");
    own.extend(carried.map(|(name, value)| (name.clone(), value.clone())));
    own.retain(|name, _| !learned.contains(name));
    // Null is legal beside calls only.
    let content = (!content.is_empty() || tool_calls.is_empty()).then_some(content);
    Message::Assistant { content, tool_calls, own }
}

/// The stream of one answer.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    reasoning: String,
    reasoning_field: Option<&'static str>,
    calls: Vec<Call>,
    /// Whether the text says that the model will not answer.
    refused: bool,
    own: Map<String, Value>,
    usage: Usage,
    finish: Option<String>,
}

#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    own: Map<String, Value>,
}

impl Call {
    /// Whether the arguments are all there: an object that closes.
    fn is_whole(&self) -> bool {
        serde_json::from_str::<Map<String, Value>>(&self.arguments).is_ok()
    }
}

impl Decoder for Answer {
    fn event(&mut self, data: &str, out: &mut Events) -> Result<(), DecodeError> {
        if data.trim() == "[DONE]" {
            self.finish(out);
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(data).map_err(|error| DecodeError::malformed(error, data))?;
        if let Some(error) = ServerError::from_json(&chunk) {
            return Err(DecodeError::Server(error));
        }
        if !chunk.is_object() {
            return Err(DecodeError::malformed("no object", data));
        }
        self.chunk(&chunk, out);
        Ok(())
    }

    fn whole(&mut self, answer: &Value, out: &mut Events) -> Result<(), DecodeError> {
        if !answer["choices"][0]["message"].is_object() {
            return Err(DecodeError::malformed("no message", &answer.to_string()));
        }
        self.chunk(answer, out);
        self.finish(out);
        Ok(())
    }

    /// Some servers end without `[DONE]`; a reason to finish is an end as well.
    fn end(&mut self, out: &mut Events) {
        if self.finish.is_some() {
            self.finish(out);
        }
    }
}

impl Answer {
    fn chunk(&mut self, chunk: &Value, out: &mut Events) {
        let choice = &chunk["choices"][0];
        let delta = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
        for field in REASONING_FIELDS {
            // Some servers send the same words under both names: the first name wins.
            if self.reasoning_field.is_none_or(|known| known == field)
                && let Some(piece) = piece(&delta[field])
            {
                self.reasoning_field = Some(field);
                self.reasoning.push_str(piece);
                out.push(ModelEvent::Reasoning(piece.to_owned()));
            }
        }
        if let Some(piece) = piece(&delta["refusal"]) {
            self.refused = true;
            self.text(piece, out);
        }
        if let Some(piece) = piece(&delta["content"]) {
            self.text(piece, out);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(call, out);
        }
        if delta["function_call"].is_object() {
            self.call(&json!({"index": 0, "function": delta["function_call"]}), out);
        }
        for field in CARRIED_FIELDS {
            if !delta[field].is_null() {
                merge(self.own.entry(field).or_insert(Value::Null), &delta[field]);
            }
        }
        if let Some(finish) = piece(&choice["finish_reason"]) {
            self.finish = Some(finish.to_owned());
        }
        self.usage(&chunk["usage"], out);
    }

    fn text(&mut self, piece: &str, out: &mut Events) {
        self.text.push_str(piece);
        out.push(ModelEvent::Text(piece.to_owned()));
    }

    fn call(&mut self, piece: &Value, out: &mut Events) {
        let place = self.place(piece);
        let call = &mut self.calls[place];
        let (id, name) = (text(&piece["id"]), text(&piece["function"]["name"]));
        if call.id.is_empty() {
            call.id.push_str(id);
        }
        // Some servers repeat the name with each piece, and none has been seen to send it in pieces.
        if call.name.is_empty() {
            call.name.push_str(name);
        }
        let arguments = match &piece["function"]["arguments"] {
            Value::String(arguments) => arguments.clone(),
            whole @ Value::Object(_) => whole.to_string(),
            _ => String::new(),
        };
        call.arguments.push_str(&arguments);
        for (field, value) in piece.as_object().into_iter().flatten() {
            if !matches!(field.as_str(), "index" | "id" | "type" | "function") && !value.is_null() {
                merge(call.own.entry(field).or_insert(Value::Null), value);
            }
        }
        if !(name.is_empty() && arguments.is_empty()) {
            out.push(ModelEvent::ToolArguments);
        }
    }

    /// The call that a piece belongs to. By its index; but a new id under an old index is a new call (servers that number
    /// all of them 0), and so is a name under a call that is whole. Without an index by its id; without either, a name begins a call and
    /// anything else goes on with the last one.
    fn place(&mut self, piece: &Value) -> usize {
        let index = piece["index"].as_u64();
        let (id, name) = (text(&piece["id"]), text(&piece["function"]["name"]));
        let known = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None if !id.is_empty() => self.calls.iter().rposition(|call| call.id == id),
            None if !name.is_empty() => None,
            None => self.calls.len().checked_sub(1),
        };
        let same = known.filter(|place| {
            let call = &self.calls[*place];
            let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
            let begun_anew = id.is_empty() && !name.is_empty() && !call.name.is_empty() && call.is_whole();
            !other_id && !begun_anew
        });
        same.unwrap_or_else(|| {
            self.calls.push(Call { index, ..Call::default() });
            self.calls.len() - 1
        })
    }

    fn usage(&mut self, told: &Value, out: &mut Events) {
        let input_details = &told["prompt_tokens_details"];
        let cached = input_details["cached_tokens"].as_u64().or_else(|| told["prompt_cache_hit_tokens"].as_u64());
        let usage = Usage {
            input_tokens: told["prompt_tokens"].as_u64().or(self.usage.input_tokens),
            output_tokens: told["completion_tokens"].as_u64().or(self.usage.output_tokens),
            cache_read_tokens: cached.or(self.usage.cache_read_tokens),
            cache_write_tokens: input_details["cache_write_tokens"].as_u64().or(self.usage.cache_write_tokens),
            reasoning_tokens: told["completion_tokens_details"]["reasoning_tokens"].as_u64().or(self.usage.reasoning_tokens),
        };
        if usage != self.usage {
            self.usage = usage;
            out.push(ModelEvent::Usage(usage));
        }
    }

    fn finish(&mut self, out: &mut Events) {
        let all = std::mem::take(self);
        let stop = all.stop_reason();
        if let Some(field) = all.reasoning_field {
            let opaque = Some(json!({field: all.reasoning}));
            out.push(ModelEvent::Block(Block::Reasoning { text: all.reasoning, opaque }));
        }
        if !all.text.is_empty() {
            out.push(ModelEvent::Block(Block::Text { text: all.text }));
        }
        let mut calls = all.calls;
        if stop == StopReason::MaxTokens && calls.last().is_some_and(|last| !last.is_whole()) {
            calls.pop();
        }
        let mut own = all.own;
        if calls.iter().any(|call| !call.own.is_empty()) {
            let fields = calls.iter_mut().map(|call| Value::Object(std::mem::take(&mut call.own))).collect();
            own.insert("tool_calls".to_owned(), fields);
        }
        for Call { id, name, arguments, .. } in calls {
            let call = ToolCall { id: String::new(), provider_id: id, name, arguments };
            out.push(ModelEvent::Block(Block::ToolCall(call)));
        }
        out.push(ModelEvent::Done { stop, opaque: (!own.is_empty()).then_some(Value::Object(own)) });
    }

    fn stop_reason(&self) -> StopReason {
        match self.finish.as_deref().unwrap_or_default() {
            "length" | "max_tokens" | "model_context_window_exceeded" => StopReason::MaxTokens,
            "content_filter" | "refusal" => StopReason::Refusal,
            // Some servers say `stop` after calls, and some say `tool_calls` after none.
            "stop" | "tool_calls" | "function_call" | "end_turn" | "eos" | "" => match self.calls.is_empty() {
                false => StopReason::ToolUse,
                true if self.refused => StopReason::Refusal,
                true => StopReason::EndTurn,
            },
            other => StopReason::Other(other.to_owned()),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A text that says something.
fn piece(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// Adds a streamed `piece` to `whole`: texts are joined, objects field by field, and an object in an array goes on with the one
/// of its `index`, or, without one, with the last of its `type` that is not signed yet.
fn merge(whole: &mut Value, piece: &Value) {
    match (whole, piece) {
        (Value::String(whole), Value::String(piece)) => whole.push_str(piece),
        (Value::Object(whole), Value::Object(piece)) => {
            for (field, value) in piece {
                match field.as_str() {
                    _ if value.is_null() => {}
                    "type" | "id" | "format" | "index" => _ = whole.insert(field.clone(), value.clone()),
                    _ => merge(whole.entry(field).or_insert(Value::Null), value),
                }
            }
        }
        (Value::Array(whole), Value::Array(piece)) => {
            for item in piece {
                let same = whole.iter_mut().rfind(|known| match &item["index"] {
                    Value::Null => known["index"].is_null(),
                    index => known["index"] == *index,
                });
                match same {
                    Some(known) if known["type"] == item["type"] && text(&known["signature"]).is_empty() => merge(known, item),
                    _ => whole.push(item.clone()),
                }
            }
        }
        (whole, piece) => *whole = piece.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_servers_own_fields_join_to_what_it_would_have_sent_whole() {
        let mut whole = Value::Null;
        for piece in [
            json!([{"type": "thinking", "thinking": "a", "signature": ""}]),
            json!([{"type": "thinking", "thinking": "b", "signature": null}]),
            json!([{"type": "thinking", "thinking": "", "signature": "S"}]),
            json!([{"type": "thinking", "thinking": "c", "signature": ""}]),
            json!([{"type": "redacted_thinking", "data": "R"}]),
        ] {
            merge(&mut whole, &piece);
        }
        let expected = json!([
            {"type": "thinking", "thinking": "ab", "signature": "S"},
            {"type": "thinking", "thinking": "c", "signature": ""},
            {"type": "redacted_thinking", "data": "R"},
        ]);
        assert_eq!(whole, expected);

        let mut details = Value::Null;
        for piece in [
            json!([{"type": "reasoning.text", "text": "x", "index": 0, "format": "f"}]),
            json!([{"type": "reasoning.text", "text": "y", "index": 1, "format": "f"}]),
            json!([{"type": "reasoning.text", "text": "z", "index": 0, "format": "f", "signature": "S"}]),
        ] {
            merge(&mut details, &piece);
        }
        let expected = json!([
            {"type": "reasoning.text", "text": "xz", "index": 0, "format": "f", "signature": "S"},
            {"type": "reasoning.text", "text": "y", "index": 1, "format": "f"},
        ]);
        assert_eq!(details, expected);
    }
}
