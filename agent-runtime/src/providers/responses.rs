//! OpenAI's Responses API, used without state at the server: each request has the whole conversation, nothing is stored
//! there, and reasoning comes back encrypted, to be sent again as it came.
//!
//! A conversation is a flat list of items. A server checks that reasoning is followed by the very item that it led to, so reasoning
//! that nothing of its answer follows any more is left out. Without its encrypted form it could only be looked up at the server, which
//! kept nothing: then it is left out too.

use super::client::{Client, Protocol};
use super::endpoint::{Endpoint, EndpointError, secret_header};
use super::failure::{Learnable, ServerError};
use super::http::{DecodeError, Decoder, Events, HttpClient};
use super::images::{DataUrl, IMAGE_LEFT_OUT, IMAGES, NO_IMAGES, output_without_images};
use crate::clocks::Clocks;
use crate::model::{
    Body, Conversation, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentPart, SentResult, head_of,
    join_json, whole_body,
};
use crate::output_schema::{is_strict, system_text};
use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde::Serialize;
use serde_json::{Value, json};
use session_store::{Block, Origin, StopReason, ToolCall, ToolSpec, Usage};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// A model behind the Responses API.
#[derive(Debug)]
pub struct OpenAiResponses {
    client: Client,
}

impl OpenAiResponses {
    /// The model at `endpoint`, whose base URL ends in `/v1` or what the server has in its place; `/responses` is added.
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// A base URL or key that cannot be sent.
    pub fn new(endpoint: Endpoint, http: HttpClient) -> Result<Self, EndpointError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &endpoint.api_key {
            secret_header(&mut headers, "authorization", &format!("Bearer {}", key.expose()))?;
        }
        Ok(Self { client: Client::new(endpoint, http, &["responses"], headers)? })
    }
}

#[async_trait]
impl Model for OpenAiResponses {
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
        let (phases, images) = (!learned.contains("phase"), !learned.contains(IMAGES));
        join_json(sent, sent.iter().flat_map(|sent| items(sent, phases, images)))
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
    Learnable::new("max_output_tokens", r#""max_output_tokens":"#, &["max_output_tokens"]),
    Learnable::new("text.format", r#""text":{"format":"#, &["text.format", "json_schema"]),
    Learnable::new("temperature", r#""temperature":"#, &["temperature"]),
    Learnable::new("reasoning.summary", r#""summary":"auto""#, &["reasoning.summary", "summary"]),
    Learnable::new("reasoning", r#""reasoning":"#, &["reasoning.effort", "reasoning"]),
    Learnable::new("include", r#""include":"#, &["include", "encrypted_content"]),
    Learnable::new("store", r#""store":"#, &["store"]),
    Learnable::new("strict", r#""strict":"#, &["strict"]),
    Learnable::new("phase", r#""phase":"#, &["phase"]),
    Learnable::new(IMAGES, r#"{"type":"input_image","image_url":"#, NO_IMAGES),
];

/// The service takes no smaller limit.
const OUTPUT_TOKENS_MIN: u64 = 16;

/// A body before its messages are in it.
#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<ReasoningPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<TextPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolPart<'a>>,
    input: [(); 0],
}

#[derive(Serialize)]
struct TextPart<'a> {
    format: Format<'a>,
}

#[derive(Serialize)]
struct Format<'a> {
    r#type: &'static str,
    name: &'static str,
    strict: bool,
    schema: &'a Value,
}

#[derive(Serialize)]
struct ReasoningPart<'a> {
    effort: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'static str>,
}

#[derive(Serialize)]
struct ToolPart<'a> {
    r#type: &'static str,
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
    /// The schemas are people's own, not the subset that strict mode takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item<'a> {
    Message {
        role: &'static str,
        content: Vec<Content<'a>>,
        /// What the server said of the message's part in its answer; newer models want it back.
        #[serde(skip_serializing_if = "Option::is_none")]
        phase: Option<&'a str>,
    },
    FunctionCall {
        call_id: &'a str,
        name: &'a str,
        arguments: &'a str,
    },
    FunctionCallOutput {
        call_id: &'a str,
        output: Output<'a>,
    },
    #[serde(untagged)]
    Reasoning(&'a Value),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content<'a> {
    InputText { text: &'a str },
    InputImage { image_url: DataUrl<'a> },
    OutputText { text: &'a str },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Content<'a>>),
}

fn head<'a>(model: &'a str, conversation: &'a Conversation, learned: &BTreeSet<String>) -> Head<'a> {
    let profile = &*conversation.profile;
    let takes = |name: &str| !learned.contains(name);
    let effort = profile.parameters.effort.as_deref().map(|effort| if effort == "off" { "none" } else { effort });
    let schema = profile.parameters.output_schema.as_ref().filter(|_| takes("text.format"));
    let summary = takes("reasoning.summary").then_some("auto");
    Head {
        model,
        stream: true,
        store: takes("store").then_some(false),
        include: takes("include").then_some(["reasoning.encrypted_content"]),
        max_output_tokens: Some(conversation.max_output_tokens.max(OUTPUT_TOKENS_MIN)).filter(|_| takes("max_output_tokens")),
        reasoning: effort
            .filter(|_| takes("reasoning"))
            .map(|effort| ReasoningPart { effort, summary: summary.filter(|_| effort != "none") }),
        temperature: profile.parameters.temperature.filter(|_| takes("temperature")),
        text: schema.map(|schema| TextPart {
            format: Format { r#type: "json_schema", name: "answer", strict: is_strict(schema), schema },
        }),
        instructions: Some(system_text(profile, schema.is_some())).filter(|system| !system.trim().is_empty()),
        tools: profile.tools.iter().map(|tool| tool_part(tool, takes("strict"))).collect(),
        input: [],
    }
}

fn tool_part(tool: &ToolSpec, strict: bool) -> ToolPart<'_> {
    ToolPart {
        r#type: "function",
        name: &tool.name,
        description: &tool.description,
        parameters: &tool.parameters,
        strict: strict.then_some(false),
    }
}

fn items(sent: &Sent, phases: bool, images: bool) -> Vec<Item<'_>> {
    match sent {
        Sent::User(parts) => {
            let content = parts.iter().map(|part| user_part(part, images)).collect();
            vec![Item::Message { role: "user", content, phase: None }]
        }
        Sent::ToolResults(results) => results
            .iter()
            .map(|result| Item::FunctionCallOutput { call_id: &result.id, output: output(result, images) })
            .collect(),
        Sent::Assistant { blocks, opaque } => answer(blocks, opaque.as_ref().filter(|_| phases)),
    }
}

fn user_part(part: &SentPart, images: bool) -> Content<'_> {
    match part {
        SentPart::Text(text) => Content::InputText { text },
        SentPart::Image(image) if images => Content::InputImage { image_url: DataUrl(image) },
        SentPart::Image(_) => Content::InputText { text: IMAGE_LEFT_OUT },
    }
}

fn output(result: &SentResult, images: bool) -> Output<'_> {
    if result.images.is_empty() || !images {
        return Output::Text(output_without_images(result));
    }
    let image = |image| Content::InputImage { image_url: DataUrl(image) };
    Output::Parts(result.images.iter().map(image).chain([Content::InputText { text: &result.output }]).collect())
}

/// The items of an answer, in their order.
fn answer<'a>(blocks: &'a [Block], opaque: Option<&'a Value>) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    let mut texts = 0;
    for block in blocks {
        match block {
            Block::Text { text } => {
                let phase = opaque.and_then(|opaque| opaque["phases"][texts].as_str());
                texts += 1;
                items.push(Item::Message { role: "assistant", content: vec![Content::OutputText { text }], phase });
            }
            Block::ToolCall(call) => items.push(Item::FunctionCall {
                call_id: &call.id,
                name: &call.name,
                arguments: if call.arguments.trim().is_empty() { "{}" } else { &call.arguments },
            }),
            Block::Reasoning { opaque: Some(item), .. } if item["encrypted_content"].is_string() => {
                items.push(Item::Reasoning(item));
            }
            _ => {}
        }
    }
    while matches!(items.last(), Some(Item::Reasoning(_))) {
        items.pop();
    }
    items
}

/// The stream of one answer.
#[derive(Debug, Default)]
struct Answer {
    /// The text of the message that is coming in, for an answer that is cut before the message is whole.
    text: String,
    /// Whether reasoning came since the last whole item: a further part of it starts a new paragraph.
    reasoned: bool,
    /// For each message, in order, what the server says of its part in the answer.
    phases: Vec<Value>,
    /// How many items were whole so far.
    items: usize,
    called: bool,
    refused: bool,
}

impl Decoder for Answer {
    fn event(&mut self, data: &str, out: &mut Events) -> Result<(), DecodeError> {
        // The protocol ends with an event of its own; some gateways add the end of the other protocol.
        if data.trim() == "[DONE]" {
            return Ok(());
        }
        let event: Value = serde_json::from_str(data).map_err(|error| DecodeError::malformed(error, data))?;
        let delta = event["delta"].as_str().filter(|delta| !delta.is_empty());
        match event["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" | "response.refusal.delta" => {
                if let Some(delta) = delta {
                    self.text.push_str(delta);
                    out.push(ModelEvent::Text(delta.to_owned()));
                }
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                if let Some(delta) = delta {
                    self.reasoned = true;
                    out.push(ModelEvent::Reasoning(delta.to_owned()));
                }
            }
            "response.reasoning_summary_part.added" if self.reasoned => out.push(ModelEvent::Reasoning("\n\n".to_owned())),
            "response.function_call_arguments.delta" => out.push(ModelEvent::ToolArguments),
            "response.output_item.added" => out.progressed(),
            "response.output_item.done" => self.item(&event["item"], out),
            "response.incomplete" if self.is_empty() && is_too_long(&event["response"]) => return Err(too_long()),
            "response.completed" | "response.incomplete" => self.finish(&event["response"], out),
            "response.failed" => return Err(failed(&event["response"])),
            "error" => return Err(failed(&event)),
            _ if event["type"].is_null() => match ServerError::from_json(&event) {
                Some(error) => return Err(DecodeError::Server(error)),
                None => return Err(DecodeError::malformed("no event of an answer", data)),
            },
            // There are many more, of tools that run at the server; what they end in comes as an item.
            _ => {}
        }
        Ok(())
    }

    fn whole(&mut self, answer: &Value, out: &mut Events) -> Result<(), DecodeError> {
        if answer["status"] == "failed" {
            return Err(failed(answer));
        }
        if answer["output"].as_array().is_some_and(Vec::is_empty) && is_too_long(answer) {
            return Err(too_long());
        }
        if !answer["output"].is_array() {
            return Err(DecodeError::malformed("no output", &answer.to_string()));
        }
        for item in answer["output"].as_array().into_iter().flatten() {
            for part in item["summary"].as_array().into_iter().chain(item["content"].as_array()).flatten() {
                let Some(text) = part["text"].as_str().or_else(|| part["refusal"].as_str()) else { continue };
                let text = text.to_owned();
                out.push(if item["type"] == "message" { ModelEvent::Text(text) } else { ModelEvent::Reasoning(text) });
            }
        }
        self.finish(answer, out);
        Ok(())
    }

    /// An answer ends with an event that says so.
    fn end(&mut self, _: &mut Events) {}
}

impl Answer {
    /// Whether nothing was said so far.
    fn is_empty(&self) -> bool {
        self.items == 0 && self.text.is_empty()
    }

    /// Takes an item that is whole.
    fn item(&mut self, item: &Value, out: &mut Events) {
        self.items += 1;
        self.reasoned = false;
        match item["type"].as_str().unwrap_or_default() {
            "message" => {
                self.text.clear();
                let parts = || item["content"].as_array().into_iter().flatten();
                self.refused |= parts().any(|part| part["type"] == "refusal");
                let text: String =
                    parts().filter_map(|part| part["text"].as_str().or_else(|| part["refusal"].as_str())).collect();
                if !text.is_empty() {
                    self.phases.push(item["phase"].clone());
                    out.push(ModelEvent::Block(Block::Text { text }));
                }
            }
            "reasoning" => {
                let parts = item["summary"].as_array().into_iter().flatten();
                let shown: Vec<&str> = parts.filter_map(|part| part["text"].as_str()).collect();
                let mut opaque = item.clone();
                if let Some(fields) = opaque.as_object_mut() {
                    // Servers send these, and refuse to take them back.
                    fields.retain(|name, value| name != "status" && name != "content" && !value.is_null());
                }
                out.push(ModelEvent::Block(Block::Reasoning { text: shown.join("\n\n"), opaque: Some(opaque) }));
            }
            // One that was cut is none.
            "function_call" if item["status"] != "incomplete" => {
                self.called = true;
                let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
                let call = ToolCall {
                    id: String::new(),
                    provider_id: text("call_id"),
                    name: text("name"),
                    arguments: text("arguments"),
                };
                out.push(ModelEvent::Block(Block::ToolCall(call)));
            }
            _ => {}
        }
    }

    fn finish(&mut self, response: &Value, out: &mut Events) {
        // Where the items were not told one by one, all of them are here.
        if self.items == 0 {
            response["output"].as_array().into_iter().flatten().for_each(|item| self.item(item, out));
        }
        if !self.text.is_empty() {
            self.phases.push(Value::Null);
            out.push(ModelEvent::Block(Block::Text { text: std::mem::take(&mut self.text) }));
        }
        let told = &response["usage"];
        if told.is_object() {
            out.push(ModelEvent::Usage(Usage {
                input_tokens: told["input_tokens"].as_u64(),
                output_tokens: told["output_tokens"].as_u64(),
                cache_read_tokens: told["input_tokens_details"]["cached_tokens"].as_u64(),
                cache_write_tokens: None,
                reasoning_tokens: told["output_tokens_details"]["reasoning_tokens"].as_u64(),
            }));
        }
        let stop = match response["incomplete_details"]["reason"].as_str() {
            Some("max_output_tokens") => StopReason::MaxTokens,
            Some(_) if is_too_long(response) => StopReason::MaxTokens,
            Some("content_filter") => StopReason::Refusal,
            Some(other) => StopReason::Other(other.to_owned()),
            None if self.called => StopReason::ToolUse,
            None if self.refused => StopReason::Refusal,
            None => StopReason::EndTurn,
        };
        let phases = std::mem::take(&mut self.phases);
        let opaque = phases.iter().any(Value::is_string).then(|| json!({"phases": phases}));
        out.push(ModelEvent::Done { stop, opaque });
    }
}

/// Whether the answer ended because the window was full: where nothing was said, what was sent alone filled it.
fn is_too_long(response: &Value) -> bool {
    response["incomplete_details"]["reason"].as_str().is_some_and(|reason| reason.contains("context"))
}

fn too_long() -> DecodeError {
    let error = json!({"error": {"code": "context_length_exceeded", "message": "the context window is full before the answer"}});
    DecodeError::Server(ServerError::from_json(&error).unwrap_or_default())
}

/// The error in an event or a response that says it failed; its fields may be the event's own.
fn failed(event: &Value) -> DecodeError {
    let fields = if event["error"].is_object() { &event["error"] } else { event };
    let error = json!({"error": {"code": fields["code"], "message": fields["message"], "param": fields["param"]}});
    DecodeError::Server(ServerError::from_json(&error).unwrap_or_default())
}
