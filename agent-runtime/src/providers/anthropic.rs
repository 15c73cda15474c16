//! Claude, and what else speaks Anthropic's Messages API.
//!
//! The body keeps its bytes from one call of a conversation to the next but for what is added at the end: parameters first,
//! messages last, and the cache's moving mark is the one at the top of the body (the server puts it on the last block), never one inside of a message.
//! Reasoning goes back as it came, signature and all; the projection gives it only to the origin that made it.

use super::client::{Client, Protocol};
use super::endpoint::{Endpoint, EndpointError, header_value, secret_header};
use super::failure::{Learnable, ServerError, limit_of};
use super::http::{DecodeError, Decoder, Events, HttpClient};
use super::images::{IMAGE_LEFT_OUT, IMAGES, NO_IMAGES, output_without_images};
use crate::clocks::Clocks;
use crate::model::{
    Body, Conversation, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentImage, SentPart, SentResult,
    head_of, join_json, whole_body,
};
use crate::output_schema::{is_enforceable, system_text};
use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use session_store::{Block, Origin, StopReason, ToolCall, ToolSpec, Usage};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Goes with `thinking.block_binding`; without it the field is refused.
const BINDING_BETA: &str = "thinking-binding-controls-2026-08-01";

/// A model behind the Messages API.
#[derive(Debug)]
pub struct Anthropic {
    client: Client,
}

impl Anthropic {
    /// The model at `endpoint`; `/v1/messages` is added to its base URL. Connects to nothing yet.
    ///
    /// # Errors
    /// A base URL, key or version that cannot be sent.
    pub fn new(endpoint: Endpoint, http: HttpClient) -> Result<Self, EndpointError> {
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", header_value("anthropic-version", &endpoint.anthropic_version)?);
        if let Some(key) = &endpoint.api_key {
            secret_header(&mut headers, "x-api-key", key.expose())?;
        }
        Ok(Self { client: Client::new(endpoint, http, &["v1", "messages"], headers)? })
    }
}

#[async_trait]
impl Model for Anthropic {
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
        Some(head_of(&head(&self.client.endpoint.model, conversation, &self.client.learned.names())))
    }

    fn messages(&self, sent: &[Sent]) -> Body {
        let learned = self.client.learned.names();
        join_json(sent, messages(sent, !learned.contains("thinking_blocks"), !learned.contains(IMAGES)))
    }

    fn learned(&self) -> Vec<String> {
        self.client.learned.names().into_iter().collect()
    }

    async fn warm(&self) {
        self.client.warm().await;
    }

    async fn call(&self, body: Body, clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        let mut headers = HeaderMap::new();
        let head = body.pieces().first().map_or(&[][..], |head| head);
        if head.windows(BINDING_KEY.len()).take(HEAD_BYTES).any(|part| part == BINDING_KEY) {
            headers.insert("anthropic-beta", HeaderValue::from_static(BINDING_BETA));
        }
        let protocol = Protocol { headers, decoder: Answer::default(), learnable: LEARNABLE };
        self.client.call(body, protocol, clocks).await
    }
}

/// A body holds its parameters in its first bytes, before any text that is not ours.
const HEAD_BYTES: usize = 512;
const BINDING_KEY: &[u8] = br#""block_binding":"#;

/// In the order of how particular they are: a refusal of a part of `thinking` names `thinking` too. A refused block of
/// reasoning stops all of them from going back, in every conversation with this client: that costs quality, never an answer.
const LEARNABLE: &[Learnable] = &[
    Learnable {
        name: "max_tokens",
        sent_as: r#""max_tokens":"#,
        called: &["maximum allowed number of output tokens"],
        limit: Some(output_limit),
    },
    Learnable::new("thinking_blocks", r#""type":"thinking""#, &["`thinking` block", "`thinking` blocks", "signature"]),
    Learnable::new("thinking_blocks", r#""type":"redacted_thinking""#, &["redacted_thinking"]),
    Learnable::new("thinking.block_binding", r#""block_binding":"#, &["block_binding", BINDING_BETA]),
    Learnable::new("thinking.display", r#""display":"#, &["display"]),
    Learnable::new("thinking.disabled", r#"{"type":"disabled""#, &["disabled"]),
    Learnable::new("thinking.enabled", r#"{"type":"enabled""#, &["enabled", "budget_tokens"]),
    Learnable::new("thinking.adaptive", r#"{"type":"adaptive""#, &["adaptive"]),
    Learnable::new(
        "output_config.format",
        r#""format":{"type":"json_schema""#,
        &["output_config.format", "output_format", "structured output", "structured outputs", "json_schema"],
    ),
    Learnable::new("output_config", r#""output_config":"#, &["output_config", "effort"]),
    Learnable::new("thinking", r#""thinking":{"#, &["thinking"]),
    Learnable::new("temperature", r#""temperature":"#, &["temperature"]),
    Learnable::new("cache_control", r#""cache_control":"#, &["cache_control"]),
    Learnable::new(IMAGES, r#"{"type":"image","source":"#, NO_IMAGES),
];

/// From `max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens for ...`.
fn output_limit(message: &str) -> Option<u64> {
    let (_, limit) = message.split_once('>')?;
    limit.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok().filter(|most| *most > 0)
}

/// A body before its messages are in it.
#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    max_tokens: u64,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<[Part<'a>; 1]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolPart<'a>>,
    messages: [(); 0],
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
}

#[derive(Serialize)]
struct Format<'a> {
    r#type: &'static str,
    schema: &'a Value,
}

#[derive(Serialize)]
struct CacheControl {
    r#type: &'static str,
}

#[derive(Serialize)]
struct ToolPart<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Vec<Part<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Text {
        r#type: &'static str,
        text: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ToolUse {
        r#type: &'static str,
        id: &'a str,
        name: &'a str,
        input: Input<'a>,
    },
    ToolResult {
        r#type: &'static str,
        tool_use_id: &'a str,
        content: ResultContent<'a>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    Image {
        r#type: &'static str,
        source: ImageSource<'a>,
    },
    Verbatim(&'a Value),
}

#[derive(Serialize)]
#[serde(untagged)]
enum ResultContent<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
struct ImageSource<'a> {
    r#type: &'static str,
    media_type: &'a str,
    data: &'a str,
}

/// A call's arguments, which have to be an object here.
#[derive(Serialize)]
#[serde(untagged)]
enum Input<'a> {
    /// The model's own text, byte for byte.
    Raw(&'a RawValue),
    None {},
    /// What is no JSON object goes back as a legal one that still shows the model what it wrote.
    Broken {
        _raw: &'a str,
    },
}

impl<'a> Input<'a> {
    fn new(arguments: &'a str) -> Self {
        let text = arguments.trim();
        match serde_json::from_str(text) {
            _ if text.is_empty() => Self::None {},
            Ok(raw) if text.starts_with('{') => Self::Raw(raw),
            _ => Self::Broken { _raw: arguments },
        }
    }
}

fn head<'a>(model: &'a str, conversation: &'a Conversation, learned: &BTreeSet<String>) -> Head<'a> {
    let profile = &*conversation.profile;
    let refused = |name: &str| learned.contains(name);
    let mark = || (!refused("cache_control")).then_some(CacheControl { r#type: "ephemeral" });
    let max_tokens = conversation.max_output_tokens.min(limit_of(learned, "max_tokens").unwrap_or(u64::MAX));
    let (thinking, effort) = thinking(Claude::parse(model), profile.parameters.effort.as_deref(), max_tokens, learned);
    let with_reasoning = !refused("thinking_blocks");
    // With a fixed budget, an answer whose calls are being answered has to begin with its reasoning: where a trim took that away, this
    // request does without.
    let lacks_reasoning = !with_reasoning || answers_calls_without_reasoning(&conversation.messages);
    let thinking = thinking.filter(|thinking| !(lacks_reasoning && thinking["type"] == "enabled"));
    // A fixed budget and a temperature exclude each other.
    let budget = thinking.as_ref().is_some_and(|thinking| thinking["type"] == "enabled");
    let effort = effort.filter(|_| !refused("output_config"));
    let schema = profile.parameters.output_schema.as_ref();
    let schema = schema.filter(|schema| is_enforceable(schema) && !refused("output_config") && !refused("output_config.format"));
    let system = system_text(profile, schema.is_some());
    let format = schema.map(|schema| Format { r#type: "json_schema", schema });
    Head {
        model,
        max_tokens,
        stream: true,
        thinking,
        output_config: (effort.is_some() || format.is_some()).then_some(OutputConfig { effort, format }),
        temperature: profile.parameters.temperature.filter(|_| !budget && !refused("temperature")),
        cache_control: mark(),
        // This mark never moves: sessions with the same tools and system text share what is before it.
        system: (!system.trim().is_empty()).then(|| [Part::Text { r#type: "text", text: system, cache_control: mark() }]),
        tools: profile.tools.iter().map(tool_part).collect(),
        messages: [],
    }
}

/// Whether the last thing that was sent are results of calls in an answer without reasoning.
fn answers_calls_without_reasoning(sent: &[Sent]) -> bool {
    let last = sent.iter().rposition(|sent| matches!(sent, Sent::Assistant { .. }));
    let Some(Sent::Assistant { blocks, .. }) = last.and_then(|place| sent.get(place)) else { return false };
    let reasons = |block: &Block| matches!(block, Block::Reasoning { opaque: Some(_), .. } | Block::Opaque { .. });
    blocks.iter().any(|block| matches!(block, Block::ToolCall(_))) && !blocks.iter().any(reasons)
}

fn tool_part(tool: &ToolSpec) -> ToolPart<'_> {
    ToolPart { name: &tool.name, description: &tool.description, input_schema: &tool.parameters }
}

/// Neighbours of one role become one message, so that results come first and the texts after them follow in the same one.
fn messages(sent: &[Sent], with_reasoning: bool, with_images: bool) -> Vec<Message<'_>> {
    let mut messages: Vec<Message<'_>> = Vec::with_capacity(sent.len());
    for sent in sent {
        let (role, parts): (_, Vec<_>) = match sent {
            Sent::User(parts) => ("user", parts.iter().map(|part| user_part(part, with_images)).collect()),
            Sent::ToolResults(results) => ("user", results.iter().map(|result| result_part(result, with_images)).collect()),
            Sent::Assistant { blocks, .. } => {
                ("assistant", blocks.iter().filter_map(|block| block_part(block, with_reasoning)).collect())
            }
        };
        match messages.last_mut() {
            Some(last) if last.role == role => last.content.extend(parts),
            _ if parts.is_empty() => {}
            _ => messages.push(Message { role, content: parts }),
        }
    }
    messages
}

fn text_part(text: &str) -> Part<'_> {
    Part::Text { r#type: "text", text: text.into(), cache_control: None }
}

fn user_part(part: &SentPart, with_images: bool) -> Part<'_> {
    match part {
        SentPart::Text(text) => text_part(text),
        SentPart::Image(image) if with_images => image_part(image),
        SentPart::Image(_) => text_part(IMAGE_LEFT_OUT),
    }
}

fn image_part(SentImage { image, base64 }: &SentImage) -> Part<'_> {
    let source = ImageSource { r#type: "base64", media_type: &image.media_type, data: base64.as_str() };
    Part::Image { r#type: "image", source }
}

fn result_part(result: &SentResult, with_images: bool) -> Part<'_> {
    let content = match &result.images[..] {
        images if images.is_empty() || !with_images => ResultContent::Text(output_without_images(result)),
        images => ResultContent::Parts(images.iter().map(image_part).chain([text_part(&result.output)]).collect()),
    };
    Part::ToolResult { r#type: "tool_result", tool_use_id: &result.id, content, is_error: result.is_error }
}

fn block_part(block: &Block, with_reasoning: bool) -> Option<Part<'_>> {
    match block {
        Block::Text { text } => Some(text_part(text)),
        Block::ToolCall(call) => {
            Some(Part::ToolUse { r#type: "tool_use", id: &call.id, name: &call.name, input: Input::new(&call.arguments) })
        }
        // Reasoning without the provider's own block was never signed, and would be refused.
        Block::Reasoning { opaque: Some(opaque), .. } | Block::Opaque { opaque } if with_reasoning => {
            Some(Part::Verbatim(opaque))
        }
        _ => None,
    }
}

/// Which Claude a model's name means, as far as reasoning goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claude {
    /// Does not reason (before 3.7).
    Plain,
    /// Reasons within `budget_tokens` (3.7 to 4.5), as do most other models behind this protocol.
    Budget,
    /// Reasons adaptively when asked to (4.6 to 4.8).
    Adaptive,
    /// Reasons adaptively unless told not to (5).
    AlwaysAdaptive,
    /// The same, and binds its reasoning to what came before it (5.1 and later).
    Binding,
}

impl Claude {
    /// From names like `claude-3-7-sonnet-20250219`, `claude-opus-4-20250514`, `anthropic/claude-sonnet-4.6`, `claude-opus-5`.
    fn parse(model: &str) -> Self {
        let Some((_, name)) = model.split_once("claude-") else { return Self::Budget };
        // The date at the end is a number too, and far too large for a version.
        let mut numbers = name.split(['-', '.', '@', ':', '_']).filter_map(|part| part.parse::<u8>().ok());
        match (numbers.next(), numbers.next().unwrap_or(0)) {
            (None, _) => Self::Budget,
            (Some(0..=2), _) | (Some(3), 0..=6) => Self::Plain,
            (Some(3), _) | (Some(4), 0..=5) => Self::Budget,
            (Some(4), _) => Self::Adaptive,
            (Some(5), 0) => Self::AlwaysAdaptive,
            (Some(_), _) => Self::Binding,
        }
    }
}

/// The fields `thinking` and `output_config.effort`.
fn thinking<'a>(
    claude: Claude,
    effort: Option<&'a str>,
    max_tokens: u64,
    learned: &BTreeSet<String>,
) -> (Option<Value>, Option<&'a str>) {
    let refused = |name: &str| learned.contains(name);
    let adaptive = if refused("thinking.adaptive") { false } else { claude >= Claude::Adaptive || refused("thinking.enabled") };
    let by_default = claude >= Claude::AlwaysAdaptive;
    match effort {
        _ if refused("thinking") || claude == Claude::Plain => (None, None),
        None if !by_default => (None, None),
        Some("off") if !by_default => (None, None),
        Some("off") if !refused("thinking.disabled") => (Some(json!({"type": "disabled"})), None),
        // Some models cannot be told not to reason: as little as they can, then.
        Some("off") if adaptive => (Some(adaptive_thinking(claude, learned)), Some("low")),
        None | Some(_) if adaptive => (Some(adaptive_thinking(claude, learned)), effort),
        Some(effort) if !refused("thinking.enabled") => (budget_thinking(effort, max_tokens), None),
        _ => (None, None),
    }
}

/// The default of these models, with their reasoning shown. As a net, and only as one, a model that finds a prefix changed is told to
/// drop the reasoning behind it rather than to refuse the request.
fn adaptive_thinking(claude: Claude, learned: &BTreeSet<String>) -> Value {
    let mut thinking = json!({"type": "adaptive"});
    if !learned.contains("thinking.display") {
        thinking["display"] = json!("summarized");
    }
    if claude == Claude::Binding && !learned.contains("thinking.block_binding") {
        thinking["block_binding"] = json!({"prefix_mismatch_behavior": "drop_block"});
    }
    thinking
}

/// At least 1,024 tokens, which is the smallest budget, and at most half of the answer.
fn budget_thinking(effort: &str, max_tokens: u64) -> Option<Value> {
    let wanted = match effort {
        "low" => 2048,
        "medium" => 8192,
        _ => 24_576,
    };
    let budget = wanted.min(max_tokens / 2);
    (budget >= 1024).then(|| json!({"type": "enabled", "budget_tokens": budget}))
}

/// The stream of one answer.
#[derive(Debug, Default)]
struct Answer {
    usage: RawUsage,
    open: BTreeMap<u64, OpenBlock>,
    /// The last complete block: only the stop reason tells whether it was cut.
    held: Option<OpenBlock>,
    stop: Option<String>,
}

/// A block that is being received: the provider's own form at its start, and the pieces since.
#[derive(Debug, Default)]
struct OpenBlock {
    block: Value,
    text: String,
    signature: String,
    arguments: String,
}

impl Decoder for Answer {
    fn event(&mut self, data: &str, out: &mut Events) -> Result<(), DecodeError> {
        let event: Value = serde_json::from_str(data).map_err(|error| DecodeError::malformed(error, data))?;
        let index = event["index"].as_u64().unwrap_or(0);
        match event["type"].as_str() {
            Some("message_start") => self.message(&event["message"], out),
            Some("content_block_start") => self.start(index, &event["content_block"], out),
            Some("content_block_delta") => self.delta(index, &event["delta"], out),
            Some("content_block_stop") => self.stop_block(index, out),
            Some("message_delta") => {
                self.message(&event["delta"], out);
                self.message(&event, out);
            }
            Some("message_stop") => self.finish(out),
            Some("ping") => {}
            _ => match ServerError::from_json(&event) {
                Some(error) => return Err(DecodeError::Server(error)),
                // A kind of event that came after this was written.
                None if event["type"].is_string() => {}
                None => return Err(DecodeError::malformed("no `type`", data)),
            },
        }
        Ok(())
    }

    fn whole(&mut self, answer: &Value, out: &mut Events) -> Result<(), DecodeError> {
        let Some(blocks) = answer["content"].as_array() else {
            return Err(DecodeError::malformed("no `content`", &answer.to_string()));
        };
        self.message(answer, out);
        for (index, block) in (0..).zip(blocks) {
            self.start(index, block, out);
            self.stop_block(index, out);
        }
        self.finish(out);
        Ok(())
    }

    /// Only `message_stop` ends an answer.
    fn end(&mut self, _: &mut Events) {}
}

impl Answer {
    /// Facts of the message as a whole, wherever they come.
    fn message(&mut self, message: &Value, out: &mut Events) {
        if let Some(stop) = message["stop_reason"].as_str() {
            self.stop = Some(stop.to_owned());
        }
        if self.usage.read(&message["usage"]) {
            out.push(ModelEvent::Usage(self.usage.usage()));
        }
        if let Some(dropped) = message["input_transformations"].as_array().filter(|all| !all.is_empty()) {
            let dropped = serde_json::Value::from(dropped.clone());
            out.push(ModelEvent::Warning(format!(
                "the provider left out reasoning, because what came before it had changed: {dropped}"
            )));
        }
    }

    fn start(&mut self, index: u64, block: &Value, out: &mut Events) {
        self.release(out);
        let text = |key: &str| block[key].as_str().unwrap_or_default().to_owned();
        let open = OpenBlock { block: block.clone(), signature: text("signature"), ..OpenBlock::default() };
        self.open.insert(index, open);
        match block["type"].as_str() {
            Some("text") => self.text(index, &text("text"), out),
            Some("thinking") => self.reasoning(index, &text("thinking"), out),
            Some("tool_use") => out.push(ModelEvent::ToolArguments),
            _ => {}
        }
    }

    fn delta(&mut self, index: u64, delta: &Value, out: &mut Events) {
        let text = |key: &str| delta[key].as_str().unwrap_or_default();
        match delta["type"].as_str() {
            Some("text_delta") => self.text(index, text("text"), out),
            Some("thinking_delta") => self.reasoning(index, text("thinking"), out),
            Some("signature_delta") => {
                self.block(index, "thinking").signature.push_str(text("signature"));
                out.progressed();
            }
            Some("input_json_delta") => {
                let piece = text("partial_json");
                self.block(index, "tool_use").arguments.push_str(piece);
                if !piece.is_empty() {
                    out.push(ModelEvent::ToolArguments);
                }
            }
            _ => {}
        }
    }

    /// The block of that index; one that was never begun is begun by its first piece.
    fn block(&mut self, index: u64, kind: &str) -> &mut OpenBlock {
        self.open.entry(index).or_insert_with(|| OpenBlock { block: json!({"type": kind}), ..OpenBlock::default() })
    }

    fn text(&mut self, index: u64, text: &str, out: &mut Events) {
        if !text.is_empty() {
            self.block(index, "text").text.push_str(text);
            out.push(ModelEvent::Text(text.to_owned()));
        }
    }

    fn reasoning(&mut self, index: u64, text: &str, out: &mut Events) {
        if !text.is_empty() {
            self.block(index, "thinking").text.push_str(text);
            out.push(ModelEvent::Reasoning(text.to_owned()));
        }
    }

    fn stop_block(&mut self, index: u64, out: &mut Events) {
        self.release(out);
        self.held = self.open.remove(&index);
    }

    /// What is held was not the last: it is whole.
    fn release(&mut self, out: &mut Events) {
        if let Some(block) = self.held.take().and_then(|held| held.finish(false)) {
            out.push(ModelEvent::Block(block));
        }
    }

    fn finish(&mut self, out: &mut Events) {
        let stop = stop_reason(self.stop.take().unwrap_or_default());
        let cut = stop == StopReason::MaxTokens;
        // A server that never says that a block ends: they end here, in their order.
        let rest: Vec<_> = self.held.take().into_iter().chain(std::mem::take(&mut self.open).into_values()).collect();
        let last = rest.len().saturating_sub(1);
        for (place, block) in rest.into_iter().enumerate() {
            if let Some(block) = block.finish(cut && place == last) {
                out.push(ModelEvent::Block(block));
            }
        }
        out.push(ModelEvent::Done { stop, opaque: None });
    }
}

impl OpenBlock {
    /// The block, unless there is nothing of it that may be kept.
    fn finish(mut self, cut: bool) -> Option<Block> {
        match self.block["type"].as_str() {
            Some("text") => (!self.text.is_empty()).then_some(Block::Text { text: self.text }),
            Some("thinking") if self.signature.is_empty() => {
                (!self.text.is_empty()).then_some(Block::Reasoning { text: self.text, opaque: None })
            }
            Some("thinking") => {
                self.block["thinking"] = json!(self.text);
                self.block["signature"] = json!(self.signature);
                Some(Block::Reasoning { text: self.text, opaque: Some(self.block) })
            }
            Some("tool_use") => {
                let text = |key: &str| self.block[key].as_str().unwrap_or_default().to_owned();
                let (provider_id, name) = (text("id"), text("name"));
                let no_pieces = self.arguments.is_empty();
                let arguments = match &self.block["input"] {
                    // Without pieces, the block's start has all of it; for a call without arguments that is `{}`.
                    input @ Value::Object(_) if no_pieces => input.to_string(),
                    _ => self.arguments,
                };
                // An object that closes was not cut.
                let cut = cut && (no_pieces || serde_json::from_str::<Map<String, Value>>(&arguments).is_err());
                (!cut).then(|| Block::ToolCall(ToolCall { id: String::new(), provider_id, name, arguments }))
            }
            _ => Some(Block::Opaque { opaque: self.block }),
        }
    }
}

fn stop_reason(reason: String) -> StopReason {
    match reason.as_str() {
        "end_turn" | "stop_sequence" | "" => StopReason::EndTurn,
        "tool_use" => StopReason::ToolUse,
        // The window is full: the answer was cut just as by its own limit.
        "max_tokens" | "model_context_window_exceeded" => StopReason::MaxTokens,
        "refusal" => StopReason::Refusal,
        _ => StopReason::Other(reason),
    }
}

/// The provider's counts; each may come early, late or twice, and a later one replaces it.
#[derive(Debug, Default)]
struct RawUsage {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
    reasoning: Option<u64>,
}

impl RawUsage {
    /// Whether `usage` told anything.
    fn read(&mut self, usage: &Value) -> bool {
        let mut told = false;
        let mut set = |count: &mut Option<u64>, value: &Value| {
            told |= value.is_u64();
            *count = value.as_u64().or(*count);
        };
        set(&mut self.input, &usage["input_tokens"]);
        set(&mut self.cache_read, &usage["cache_read_input_tokens"]);
        set(&mut self.cache_write, &usage["cache_creation_input_tokens"]);
        set(&mut self.output, &usage["output_tokens"]);
        set(&mut self.reasoning, &usage["output_tokens_details"]["thinking_tokens"]);
        told
    }

    /// Anthropic's `input_tokens` leave out the cached ones; ours include them.
    fn usage(&self) -> Usage {
        let cached = self.cache_read.unwrap_or(0).saturating_add(self.cache_write.unwrap_or(0));
        Usage {
            input_tokens: self.input.map(|input| input.saturating_add(cached)),
            output_tokens: self.output,
            cache_read_tokens: self.cache_read,
            cache_write_tokens: self.cache_write,
            reasoning_tokens: self.reasoning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_how_a_claude_reasons() {
        for (name, expected) in [
            ("claude-3-5-sonnet-20241022", Claude::Plain),
            ("claude-3-haiku-20240307", Claude::Plain),
            ("claude-3-7-sonnet-20250219", Claude::Budget),
            ("claude-opus-4-20250514", Claude::Budget),
            ("claude-haiku-4-5-20251001", Claude::Budget),
            ("claude-sonnet-4-6", Claude::Adaptive),
            ("anthropic/claude-opus-4.8", Claude::Adaptive),
            ("claude-opus-5", Claude::AlwaysAdaptive),
            ("claude-sonnet-5@20260301", Claude::AlwaysAdaptive),
            ("claude-fable-5-1", Claude::Binding),
            ("claude-opus-5-5", Claude::Binding),
            ("claude-opus-6", Claude::Binding),
            ("glm-5", Claude::Budget),
        ] {
            assert_eq!(Claude::parse(name), expected, "{name}");
        }
    }

    fn reasoning(model: &str, effort: Option<&str>, learned: &[&str]) -> Value {
        let learned = learned.iter().map(|name| (*name).to_owned()).collect();
        let (thinking, effort) = thinking(Claude::parse(model), effort, 8192, &learned);
        json!([thinking, effort])
    }

    #[test]
    fn effort_becomes_what_the_model_takes() {
        assert_eq!(reasoning("claude-opus-4-7", None, &[]), json!([null, null]));
        assert_eq!(
            reasoning("claude-opus-4-7", Some("high"), &[]),
            json!([{"type": "adaptive", "display": "summarized"}, "high"])
        );
        assert_eq!(reasoning("claude-opus-4-7", Some("off"), &[]), json!([null, null]));
        assert_eq!(reasoning("claude-sonnet-4-5", Some("low"), &[]), json!([{"type": "enabled", "budget_tokens": 2048}, null]));
        assert_eq!(reasoning("claude-sonnet-4-5", Some("high"), &[]), json!([{"type": "enabled", "budget_tokens": 4096}, null]));
        assert_eq!(reasoning("claude-3-5-haiku-latest", Some("high"), &[]), json!([null, null]));
        assert_eq!(reasoning("claude-opus-5", Some("off"), &[]), json!([{"type": "disabled"}, null]));
        let bound =
            json!({"type": "adaptive", "display": "summarized", "block_binding": {"prefix_mismatch_behavior": "drop_block"}});
        assert_eq!(reasoning("claude-opus-5-5", None, &[]), json!([bound, null]));
        assert_eq!(reasoning("claude-opus-5-5", Some("off"), &["thinking.disabled"]), json!([bound, "low"]));
    }

    #[test]
    fn what_was_refused_is_replaced_and_in_the_end_left_out() {
        let adaptive = json!([{"type": "adaptive", "display": "summarized"}, "high"]);
        assert_eq!(reasoning("glm-5", Some("high"), &["thinking.enabled"]), adaptive);
        let budget = json!([{"type": "enabled", "budget_tokens": 4096}, null]);
        assert_eq!(reasoning("claude-opus-4-6", Some("high"), &["thinking.adaptive"]), budget);
        assert_eq!(reasoning("glm-5", Some("high"), &["thinking.adaptive", "thinking.enabled"]), json!([null, null]));
        assert_eq!(reasoning("claude-opus-5", Some("high"), &["thinking"]), json!([null, null]));
    }

    #[test]
    fn arguments_go_back_byte_for_byte_and_always_as_an_object() {
        let input = |arguments| serde_json::to_string(&Input::new(arguments)).expect("a JSON form");
        assert_eq!(input(r#"{"b": 1.50,  "a":[]}"#), r#"{"b": 1.50,  "a":[]}"#);
        assert_eq!(input(" "), "{}");
        assert_eq!(input(r#"{"a": "cu"#), r#"{"_raw":"{\"a\": \"cu"}"#);
        assert_eq!(input("[1]"), r#"{"_raw":"[1]"}"#);
    }
}
