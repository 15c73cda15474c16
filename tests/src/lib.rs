//! A server that speaks the protocols of model providers, and misbehaves on demand.
//!
//! [`FaultServer`] listens on a port of its own and answers by a [`Script`] of [`Answer`]s: healthy ones, and the faults that real
//! services and the networks before them have (silence, trickles, cuts in the middle of an event, pings for ever, lies about the
//! content). It speaks Anthropic Messages (`POST /v1/messages`) and OpenAI Chat Completions (`POST /v1/chat/completions`), both
//! as server-sent events over hand-written HTTP/1.1, because what a fault is made of is bytes. Every request is kept for assertions.
//!
//! In *strict* mode, the default, it first refuses what the real services refuse, in their words: see [`strict`], whose checks
//! are plain functions of a request's body and need no server.
//!
//! What it does not do: TLS, HTTP/2, answers that are not streamed, and models. Nothing in here is used by the program itself.

mod answer;
mod http;
mod render;
mod script;
mod server;
pub mod strict;
mod terminal;
mod wait;

pub use answer::{Answer, Flaw, Part, Reply, Status, Stop};
pub use render::Provider;
pub use script::Script;
pub use server::{BlackHole, FaultServer, Request};
pub use terminal::Terminal;
pub use wait::wait_until;
