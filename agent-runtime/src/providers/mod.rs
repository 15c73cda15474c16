//! Models behind HTTP: clients for the three protocols that nearly every server speaks one of.
//!
//! [`Anthropic`] speaks the Messages API, [`OpenAi`] Chat Completions (OpenAI, Ollama, llama.cpp, vLLM, LiteLLM and many
//! more), [`OpenAiResponses`] the Responses API. Each is three pure parts, a body from a conversation, events from a stream, and a failure from a refusal, around one call
//! (`http.rs`) that has the clocks.

mod anthropic;
mod client;
mod endpoint;
mod failure;
mod http;
mod images;
mod openai;
mod responses;
mod retry_after;
mod sse;

pub use anthropic::Anthropic;
pub use endpoint::{Endpoint, EndpointError, Secret};
pub use http::HttpClient;
pub use images::IMAGES;
pub use openai::OpenAi;
pub use responses::OpenAiResponses;

use crate::model::{Model, ModelLimits};
use crate::offline::OfflineModel;
use session_store::Origin;
use std::sync::Arc;

/// The model of an origin that a log names, to build bodies with: it has no key, and what was learned of its endpoint is `learned`. Nothing where the
/// provider is none that this crate knows: `anthropic`, `openai`, `openai-responses`, `ollama`, `offline`.
#[must_use]
pub fn of_origin(origin: &Origin, learned: &[String], limits: ModelLimits) -> Option<Arc<dyn Model>> {
    if origin.provider == "offline" {
        return Some(Arc::new(OfflineModel::new()));
    }
    let mut endpoint = Endpoint::new(origin.provider.as_str(), origin.endpoint.as_str(), origin.model.as_str());
    endpoint.learned = learned.to_vec();
    endpoint.limits = limits;
    let http = HttpClient::new();
    Some(match origin.provider.as_str() {
        "anthropic" => Arc::new(Anthropic::new(endpoint, http).ok()?),
        "openai" | "ollama" => Arc::new(OpenAi::new(endpoint, http).ok()?),
        "openai-responses" => Arc::new(OpenAiResponses::new(endpoint, http).ok()?),
        _ => return None,
    })
}
