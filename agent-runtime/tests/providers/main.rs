//! The model clients against servers that do what real ones do, and what they should not.

mod bodies;
mod clocks;
mod refusals;
mod responses;
mod server;
mod streams;

use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, OpenAi, OpenAiResponses, Secret};
use agent_runtime::session_store::{Block, Parameters, Profile, StopReason, ToolCall, ToolSpec, Usage};
use agent_runtime::{Clocks, Conversation, Model, ModelEvent, ModelFailure, Sent};
use futures_util::StreamExt;
use server::Server;
use std::sync::Arc;

const KEY: &str = "sk-test-0123456789";

fn endpoint(provider: &str, base_url: String, model: &str) -> Endpoint {
    Endpoint { api_key: Some(Secret::new(KEY)), ..Endpoint::new(provider, base_url, model) }
}

fn anthropic(server: &Server) -> Anthropic {
    Anthropic::new(endpoint("anthropic", server.url(""), "claude-opus-4-6"), HttpClient::new()).expect("a good endpoint")
}

fn openai(server: &Server) -> OpenAi {
    OpenAi::new(endpoint("openai", server.url("/v1"), "gpt-5"), HttpClient::new()).expect("a good endpoint")
}

fn profile() -> Profile {
    Profile {
        hash: String::new(),
        model: "anthropic/claude-opus-4-6".to_owned(),
        system: "Be brief.".to_owned(),
        tools: vec![ToolSpec {
            name: "read".to_owned(),
            description: "Reads a file.".to_owned(),
            parameters: serde_json::json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
        }],
        parameters: Parameters::default(),
        projection: 1,
    }
    .sealed()
}

fn conversation(messages: Vec<Sent>) -> Conversation {
    Conversation { profile: Arc::new(profile()), max_output_tokens: 8192, messages }
}

fn hello() -> Conversation {
    conversation(vec![Sent::User(vec!["Hello".into()])])
}

fn text(text: &str) -> Block {
    Block::Text { text: text.to_owned() }
}

fn call(provider_id: &str, name: &str, arguments: &str) -> Block {
    Block::ToolCall(ToolCall {
        id: String::new(),
        provider_id: provider_id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    })
}

/// All that came of a call.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: String,
    reasoning: String,
    argument_pieces: usize,
    blocks: Vec<Block>,
    usage: Option<Usage>,
    stop: Option<StopReason>,
    opaque: Option<serde_json::Value>,
    failure: Option<ModelFailure>,
}

impl Heard {
    fn kind(&self) -> &'static str {
        self.failure.as_ref().map_or("", |failure| failure.kind.as_str())
    }

    fn detail(&self) -> &str {
        self.failure.as_ref().map_or("", |failure| &failure.detail)
    }
}

async fn hear(model: &dyn Model) -> Heard {
    hear_within(model, &Clocks::default()).await
}

/// Calls `model` with a greeting and reads to the end; checks that nothing comes after the end.
async fn hear_within(model: &dyn Model, clocks: &Clocks) -> Heard {
    let mut heard = Heard::default();
    let mut stream = match model.call(model.body(&hello()).into(), clocks).await {
        Ok(stream) => stream,
        Err(failure) => return Heard { failure: Some(failure), ..heard },
    };
    while let Some(event) = stream.next().await {
        assert!(heard.stop.is_none() && heard.failure.is_none(), "{event:?} came after the end");
        match event {
            Ok(ModelEvent::Text(piece)) => heard.text.push_str(&piece),
            Ok(ModelEvent::Reasoning(piece)) => heard.reasoning.push_str(&piece),
            Ok(ModelEvent::ToolArguments) => heard.argument_pieces += 1,
            Ok(ModelEvent::Block(block)) => heard.blocks.push(block),
            Ok(ModelEvent::Usage(usage)) => heard.usage = Some(usage),
            Ok(ModelEvent::Done { stop, opaque }) => (heard.stop, heard.opaque) = (Some(stop), opaque),
            Ok(other) => panic!("unexpected {other:?}"),
            Err(failure) => heard.failure = Some(failure),
        }
    }
    assert!(stream.next().await.is_none(), "the stream goes on after its end");
    heard
}
