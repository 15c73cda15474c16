//! Models behind HTTP: clients for the two protocols that nearly every server speaks.
//!
//! [`Anthropic`] speaks the Messages API, [`OpenAi`] Chat Completions (OpenAI, Ollama, llama.cpp, vLLM, LiteLLM and many
//! more). Each is three pure parts, a body from a conversation, events from a stream, and a failure from a refusal, around one call
//! (`http.rs`) that has the clocks.

mod anthropic;
mod client;
mod endpoint;
mod failure;
mod http;
mod openai;
mod sse;

pub use anthropic::Anthropic;
pub use endpoint::{Endpoint, EndpointError, Secret};
pub use http::HttpClient;
pub use openai::OpenAi;
