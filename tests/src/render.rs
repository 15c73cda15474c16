//! A reply as the events of a provider's stream.

use crate::answer::{Part, Reply, Stop};
use crate::strict::{encrypt, sign};
use serde_json::{Value, json};

/// Whose protocol a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Anthropic Messages.
    Anthropic,
    /// OpenAI Chat Completions.
    OpenAi,
    /// OpenAI Responses.
    Responses,
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    /// The event as bytes, its blank line included.
    pub(crate) bytes: Vec<u8>,
    /// Whether it carries content: pauses stand before these, and `after` counts these.
    pub(crate) is_delta: bool,
    /// The words of an answer's text in it.
    pub(crate) text: String,
}

impl Frame {
    fn new(bytes: String) -> Self {
        Self { bytes: bytes.into_bytes(), is_delta: false, text: String::new() }
    }

    fn delta(mut self, text: &str) -> Self {
        self.is_delta = true;
        self.text = text.to_owned();
        self
    }
}

/// The events of `reply` to the request `body`. `number` is a number that no other reply of this server has.
pub(crate) fn frames(provider: Provider, reply: &Reply, body: &Value, number: u64) -> Vec<Frame> {
    match provider {
        Provider::Anthropic => anthropic(reply, body, number),
        Provider::OpenAi => openai(reply, body, number),
        Provider::Responses => responses(reply, body, number),
    }
}

/// What a provider sends to keep a silent stream alive.
pub(crate) fn ping(provider: Provider) -> Vec<u8> {
    match provider {
        Provider::Anthropic => event(&json!({"type": "ping"})).bytes,
        Provider::OpenAi | Provider::Responses => b": keep-alive\n\n".to_vec(),
    }
}

/// An error said inside a stream.
pub(crate) fn stream_error(provider: Provider, kind: &str, message: &str) -> Vec<u8> {
    match provider {
        Provider::Anthropic => event(&json!({"type": "error", "error": {"type": kind, "message": message}})).bytes,
        Provider::OpenAi => data(&json!({"error": {"type": kind, "message": message, "param": null, "code": null}})).bytes,
        Provider::Responses => event(&json!({"type": "error", "code": kind, "message": message, "param": null})).bytes,
    }
}

/// An event whose JSON breaks off.
pub(crate) fn malformed(provider: Provider) -> &'static [u8] {
    match provider {
        Provider::Anthropic => {
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_de\n\n"
        }
        Provider::Responses => b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"del\n\n",
        Provider::OpenAi => {
            b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"del\n\n"
        }
    }
}

/// An event of one long line that says nothing.
pub(crate) fn long_line(provider: Provider, bytes: usize) -> Vec<u8> {
    let padding = "x".repeat(bytes);
    // Written by hand: to escape ten megabytes takes an unoptimised build longer than a test wants to wait.
    let event = match provider {
        Provider::Responses => format!("data: {{\"type\":\"response.in_progress\",\"padding\":\"{padding}\"}}\n\n"),
        Provider::Anthropic => format!("event: ping\ndata: {{\"type\":\"ping\",\"padding\":\"{padding}\"}}\n\n"),
        Provider::OpenAi => {
            format!("data: {{\"object\":\"chat.completion.chunk\",\"choices\":[],\"padding\":\"{padding}\"}}\n\n")
        }
    };
    event.into_bytes()
}

/// The body of an error response, in the provider's words for `status` where `message` is empty.
pub(crate) fn error_body(provider: Provider, status: u16, message: &str) -> String {
    let (kind, usual) = match status {
        400 => ("invalid_request_error", "Bad request"),
        401 => ("authentication_error", "invalid x-api-key"),
        403 => ("permission_error", "Your API key does not have permission to use the specified resource"),
        404 => ("not_found_error", "model: no such model"),
        413 => ("request_too_large", "Request exceeds the maximum size"),
        429 => ("rate_limit_error", "This request would exceed your account's rate limit. Please try again later."),
        529 => ("overloaded_error", "Overloaded"),
        _ => ("api_error", "Internal server error"),
    };
    let message = if message.is_empty() { usual } else { message };
    match provider {
        Provider::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}}),
        Provider::OpenAi | Provider::Responses => {
            json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
        }
    }
    .to_string()
}

fn event(data: &Value) -> Frame {
    Frame::new(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or("message")))
}

fn data(data: &Value) -> Frame {
    Frame::new(format!("data: {data}\n\n"))
}

/// About as many tokens as a tokenizer would count.
fn tokens(bytes: usize) -> usize {
    bytes / 4 + 1
}

fn output_tokens(reply: &Reply) -> usize {
    let bytes = reply.parts.iter().map(|part| match part {
        Part::Text(words) | Part::Reasoning(words) => words.len(),
        Part::RedactedReasoning => 64,
        Part::ToolCall { name, arguments } => name.len() + arguments.len(),
    });
    tokens(bytes.sum())
}

/// Pieces of one word each, with the blanks behind it, that add up to `text`.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive(char::is_whitespace).collect()
}

/// Pieces of 16 characters that add up to `text`.
fn pieces(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(16).map(|piece| piece.iter().collect()).collect()
}

fn anthropic(reply: &Reply, body: &Value, number: u64) -> Vec<Frame> {
    let mut usage = json!({"input_tokens": tokens(body.to_string().len()), "output_tokens": 1,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0});
    if reply.without_usage {
        usage = json!({});
    }
    let mut frames = vec![event(&json!({"type": "message_start", "message": {"id": format!("msg_{number}"), "type": "message",
        "role": "assistant", "model": body["model"], "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}}))];
    let mut before: Vec<Value> = Vec::new();
    for (index, part) in reply.parts.iter().enumerate() {
        let start = |block: Value| event(&json!({"type": "content_block_start", "index": index, "content_block": block}));
        let delta = |delta: Value| event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        match part {
            Part::Text(text) => {
                frames.push(start(json!({"type": "text", "text": ""})));
                frames.extend(words(text).iter().map(|word| delta(json!({"type": "text_delta", "text": word})).delta(word)));
                before.push(json!({"type": "text", "text": text}));
            }
            Part::Reasoning(text) => {
                let signature = sign(body, &before, text);
                frames.push(start(json!({"type": "thinking", "thinking": "", "signature": ""})));
                frames
                    .extend(words(text).iter().map(|word| delta(json!({"type": "thinking_delta", "thinking": word})).delta("")));
                frames.push(delta(json!({"type": "signature_delta", "signature": signature})).delta(""));
                before.push(json!({"type": "thinking", "thinking": text, "signature": signature}));
            }
            Part::RedactedReasoning => {
                let block = json!({"type": "redacted_thinking", "data": sign(body, &before, "")});
                frames.push(start(block.clone()).delta(""));
                before.push(block);
            }
            Part::ToolCall { name, arguments } => {
                let id = format!("toolu_{number}_{index}");
                frames.push(start(json!({"type": "tool_use", "id": id, "name": name, "input": {}})));
                let json_delta = |piece: &str| delta(json!({"type": "input_json_delta", "partial_json": piece})).delta("");
                frames.extend(pieces(arguments).iter().map(|piece| json_delta(piece)));
                before.push(json!({"type": "tool_use", "id": id, "name": name,
                    "input": serde_json::from_str::<Value>(arguments).unwrap_or_default()}));
            }
        }
        frames.push(event(&json!({"type": "content_block_stop", "index": index})));
    }
    let calls_tools = reply.parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
    let stop = match reply.stop {
        Stop::Natural if calls_tools => "tool_use",
        Stop::Natural => "end_turn",
        Stop::MaxTokens => "max_tokens",
        Stop::Refusal => "refusal",
    };
    let usage = if reply.without_usage { json!({}) } else { json!({"output_tokens": output_tokens(reply)}) };
    frames.push(event(&json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null}, "usage": usage})));
    frames.push(event(&json!({"type": "message_stop"})));
    frames
}

fn openai(reply: &Reply, body: &Value, number: u64) -> Vec<Frame> {
    let chunk = |choices: Value, usage: Value| {
        data(&json!({"id": format!("chatcmpl-{number}"), "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": body["model"], "choices": choices, "usage": usage}))
    };
    let delta = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), Value::Null);
    let mut frames = vec![delta(json!({"role": "assistant", "content": ""}))];
    let mut calls = 0;
    for part in &reply.parts {
        match part {
            Part::Text(text) => frames.extend(words(text).iter().map(|word| delta(json!({"content": word})).delta(word))),
            Part::Reasoning(text) => {
                frames.extend(words(text).iter().map(|word| delta(json!({"reasoning_content": word})).delta("")));
            }
            Part::RedactedReasoning => {}
            Part::ToolCall { name, arguments } => {
                let call = |fields: Value| delta(json!({"tool_calls": [fields]}));
                frames.push(call(json!({"index": calls, "id": format!("call_{number}_{calls}"), "type": "function",
                    "function": {"name": name, "arguments": ""}})));
                let piece_of = |piece: &str| call(json!({"index": calls, "function": {"arguments": piece}})).delta("");
                frames.extend(pieces(arguments).iter().map(|piece| piece_of(piece)));
                calls += 1;
            }
        }
    }
    let finish = match reply.stop {
        Stop::Natural if calls > 0 => "tool_calls",
        Stop::Natural => "stop",
        Stop::MaxTokens => "length",
        Stop::Refusal => "content_filter",
    };
    frames.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": finish}]), Value::Null));
    if body["stream_options"]["include_usage"] == true && !reply.without_usage {
        let (input, output) = (tokens(body.to_string().len()), output_tokens(reply));
        frames
            .push(chunk(json!([]), json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})));
    }
    frames.push(Frame::new("data: [DONE]\n\n".into()));
    frames
}

fn responses(reply: &Reply, body: &Value, number: u64) -> Vec<Frame> {
    let id = format!("resp_{number}");
    let head = |status: &str, usage: Value, details: Value| {
        json!({"id": id, "object": "response", "status": status, "model": body["model"], "incomplete_details": details, "error": null,
            "output": [], "usage": usage})
    };
    let mut frames = vec![event(&json!({"type": "response.created", "response": head("in_progress", Value::Null, Value::Null)}))];
    let mut done: Vec<Value> = Vec::new();
    for (index, part) in reply.parts.iter().enumerate() {
        let added = |item: Value| event(&json!({"type": "response.output_item.added", "output_index": index, "item": item}));
        let delta = |kind: &str, piece: &str| event(&json!({"type": kind, "output_index": index, "delta": piece}));
        let item = match part {
            Part::Text(text) => {
                let id = format!("msg_{number}_{index}");
                frames.push(added(
                    json!({"type": "message", "id": id, "role": "assistant", "status": "in_progress", "content": []}),
                ));
                frames.extend(words(text).iter().map(|word| delta("response.output_text.delta", word).delta(word)));
                json!({"type": "message", "id": id, "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": text, "annotations": []}]})
            }
            Part::Reasoning(_) | Part::RedactedReasoning => {
                let id = format!("rs_{number}_{index}");
                let shown = if let Part::Reasoning(text) = part { text.as_str() } else { "" };
                frames.push(added(json!({"type": "reasoning", "id": id, "summary": []})));
                frames.extend(words(shown).iter().map(|word| delta("response.reasoning_summary_text.delta", word).delta("")));
                let summary = if shown.is_empty() { json!([]) } else { json!([{"type": "summary_text", "text": shown}]) };
                json!({"type": "reasoning", "id": id, "summary": summary, "encrypted_content": encrypt(body, &as_input(&done))})
            }
            Part::ToolCall { name, arguments } => {
                let (id, call) = (format!("fc_{number}_{index}"), format!("call_{number}_{index}"));
                let item = |status: &str, arguments: &str| json!({"type": "function_call", "id": id, "call_id": call, "name": name, "arguments": arguments, "status": status});
                frames.push(added(item("in_progress", "")));
                let piece_of = |piece: &String| delta("response.function_call_arguments.delta", piece).delta("");
                frames.extend(pieces(arguments).iter().map(piece_of));
                item("completed", arguments)
            }
        };
        frames.push(event(&json!({"type": "response.output_item.done", "output_index": index, "item": item})));
        done.push(item);
    }
    let (input, output) = (tokens(body.to_string().len()), output_tokens(reply));
    let usage = match reply.without_usage {
        true => Value::Null,
        false => json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + output}),
    };
    let (status, details) = match reply.stop {
        Stop::Natural => ("completed", Value::Null),
        Stop::MaxTokens => ("incomplete", json!({"reason": "max_output_tokens"})),
        Stop::Refusal => ("incomplete", json!({"reason": "content_filter"})),
    };
    frames.push(event(&json!({"type": format!("response.{status}"), "response": head(status, usage, details)})));
    frames
}

/// Items of an answer as a client sends them back.
fn as_input(items: &[Value]) -> Vec<Value> {
    let bare = |item: &Value| {
        let mut item = item.clone();
        if item["type"] == "message" {
            item["content"] = json!([{"type": "output_text", "text": item["content"][0]["text"]}]);
        }
        item
    };
    items.iter().map(bare).collect()
}
