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
mod openai;
mod responses;
mod retry_after;
mod sse;

pub use anthropic::Anthropic;
pub use endpoint::{Endpoint, EndpointError, Secret};
pub use http::HttpClient;
pub use openai::OpenAi;
pub use responses::OpenAiResponses;
