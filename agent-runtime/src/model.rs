//! What a model is to the loop: a pure function from a conversation to the bytes of a request, and a call that turns
//! these bytes into a stream of events.

use crate::clocks::Clocks;
use crate::images::Base64;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use session_store::{Block, ImageRef, Origin, Profile, StopReason, Usage};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A model at an endpoint, with a credential.
#[async_trait]
pub trait Model: Send + Sync + 'static {
    /// Who it is: opaque blocks go back only to an equal origin.
    fn origin(&self) -> &Origin;

    /// What it can take.
    fn limits(&self) -> ModelLimits;

    /// The body of a request for `conversation`: a pure function of it and of [`Model::learned`], free of keys and ids.
    fn body(&self, conversation: &Conversation) -> Bytes;

    /// The start of [`Model::body`], up to its first message, for a model whose bodies end with their messages, so that those that were sent
    /// before need not be written again ([`RequestBuilder`](crate::RequestBuilder)). Absent: each body is made whole.
    ///
    /// The body has to be this start, [`Model::messages`] and [`BODY_END`]. Of the messages, the start may depend on those from the last answer
    /// on, and on no others.
    fn head(&self, _conversation: &Conversation) -> Option<Vec<u8>> {
        None
    }

    /// `messages` as they stand in a body, with commas between them; those of a conversation that is cut before an answer are those of its
    /// parts, with a comma between. Used only where there is a [`Model::head`]. Images are best pieces of their own, not copied: they are shared by
    /// all requests of a session.
    fn messages(&self, _messages: &[Sent]) -> Body {
        Body::default()
    }

    /// Parameters that this endpoint refused before and that are therefore left out or renamed.
    fn learned(&self) -> Vec<String> {
        Vec::new()
    }

    /// Prepares what the first call would otherwise wait for (an HTTP client with the system's certificates). May be called at
    /// any time, also never; dropping the future leaves the work to the first call.
    async fn warm(&self) {}

    /// Sends `body` and gives the answer as it comes, once the response's head is there. Each wait, here and in the
    /// stream, is limited by `clocks`. Dropping the future or the stream drops the connection.
    ///
    /// # Errors
    /// What the call failed with; the stream ends after its first error.
    async fn call(&self, body: Body, clocks: &Clocks) -> Result<ModelStream, ModelFailure>;
}

/// What ends a body after its messages; see [`Model::head`].
pub const BODY_END: &[u8] = b"]}";

/// The body of a model that has a [`Model::head`]: what its [`Model::body`] gives.
pub fn whole_body(model: &impl Model, conversation: &Conversation) -> Bytes {
    let mut body = model.head(conversation).unwrap_or_default();
    let messages = model.messages(&conversation.messages);
    if messages.is_empty() {
        // The comma that the first message would have stood behind.
        body.pop_if(|last| *last == b',');
    }
    messages.pieces().iter().for_each(|piece| body.extend_from_slice(piece));
    body.extend_from_slice(BODY_END);
    body.into()
}

/// The head of a body that is `empty` before its messages are in it.
pub(crate) fn head_of(empty: &impl Serialize) -> Vec<u8> {
    // Maps with text as keys and numbers that are finite always have a JSON form, so that this is never empty.
    let mut empty = serde_json::to_vec(empty).unwrap_or_default();
    empty.truncate(empty.len().saturating_sub(BODY_END.len()));
    if !empty.ends_with(b"[") {
        empty.push(b',');
    }
    empty
}

/// The JSON of each of `items`, with commas between them; the images of `sent` in it are pieces of their own.
pub(crate) fn join_json<T: Serialize>(sent: &[Sent], items: impl IntoIterator<Item = T>) -> Body {
    let mut out = Pieces { shared: sent_images(sent).map(|image| image.base64.bytes().clone()).collect(), ..Pieces::default() };
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.text.push(b',');
        }
        // Writing to memory does not fail, and maps with text as keys and numbers that are finite always have a JSON form.
        let _ = serde_json::to_writer(&mut out, &item);
    }
    out.into_body()
}

/// A body while it is written: what is a part of `shared` is not copied.
#[derive(Default)]
struct Pieces {
    shared: Vec<Bytes>,
    done: Vec<Bytes>,
    text: Vec<u8>,
}

impl Pieces {
    /// Less than this is copied: a piece costs some bytes itself.
    const SHARED_MIN: usize = 1_024;

    fn into_body(mut self) -> Body {
        self.done.push(self.text.into());
        Body::new(self.done)
    }
}

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let is_in = |whole: &&Bytes| {
            whole.as_ptr_range().contains(&bytes.as_ptr()) && bytes.as_ptr_range().end <= whole.as_ptr_range().end
        };
        match self.shared.iter().find(is_in).filter(|_| bytes.len() >= Self::SHARED_MIN) {
            Some(whole) => {
                self.done.push(std::mem::take(&mut self.text).into());
                self.done.push(whole.slice_ref(bytes));
            }
            None => self.text.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The images in `sent`.
pub(crate) fn sent_images(sent: &[Sent]) -> impl Iterator<Item = &SentImage> {
    sent.iter().flat_map(|sent| {
        let (parts, results): (&[SentPart], &[SentResult]) = match sent {
            Sent::User(parts) => (parts, &[]),
            Sent::ToolResults(results) => (&[], results),
            Sent::Assistant { .. } => (&[], &[]),
        };
        let said = parts.iter().filter_map(|part| if let SentPart::Image(image) = part { Some(image) } else { None });
        said.chain(results.iter().flat_map(|result| &result.images))
    })
}

/// The bytes of a request, in pieces, so that requests of one session share those of their common start. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl Body {
    /// The body that these pieces make up.
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let pieces: Arc<[Bytes]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { len: pieces.iter().map(Bytes::len).sum(), pieces }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its pieces, none of them empty. The first one has all that stands before the messages, where the body was made of parts.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// All bytes in one piece: a copy, where there is more than one.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &*self.pieces {
            [whole] => whole.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(whole: Bytes) -> Self {
        Self::new([whole])
    }
}

impl From<Vec<u8>> for Body {
    fn from(whole: Vec<u8>) -> Self {
        Self::new([whole.into()])
    }
}

/// The events of one answer. Ends after [`ModelEvent::Done`] or an error; an end without either is a cut stream.
pub type ModelStream = Pin<Box<dyn Stream<Item = Result<ModelEvent, ModelFailure>> + Send>>;

/// What a model can take, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelLimits {
    /// Input and output together.
    pub context_window: u64,
    /// The longest answer.
    pub max_output_tokens: u64,
    /// What its own count is, at most, for one token of o200k; for estimates before the first reported usage.
    pub token_factor: f64,
}

impl Default for ModelLimits {
    /// The limits of a model that is not known: a window of 128,000 and an output of 8,192.
    fn default() -> Self {
        Self { context_window: 128_000, max_output_tokens: 8_192, token_factor: 1.0 }
    }
}

/// All that a model is sent: the result of the projection, the same for every provider, and legal for all of them.
///
/// Promises: the first message is [`Sent::User`]; [`Sent::User`] and [`Sent::Assistant`] alternate, with a
/// [`Sent::ToolResults`] directly after each assistant message that calls tools (a user message may follow it); no text is blank; every call
/// has exactly one result, in call order; the last message is not an assistant's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// System text, tools and parameters.
    pub profile: Arc<Profile>,
    /// The longest answer to ask for, in tokens.
    pub max_output_tokens: u64,
    /// The messages.
    pub messages: Vec<Sent>,
}

impl Conversation {
    /// The same without messages.
    pub(crate) fn without_messages(&self) -> Self {
        Self { profile: Arc::clone(&self.profile), max_output_tokens: self.max_output_tokens, messages: Vec::new() }
    }
}

/// A message as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Sent {
    /// Words of the person, with images before them, and notes of the runtime, each a text of its own.
    User(Vec<SentPart>),
    /// A model's answer. Opaque parts are there only where its origin is the one that is asked.
    Assistant {
        /// Its parts; a [`ToolCall::id`](session_store::ToolCall::id) here is the id to send.
        blocks: Vec<Block>,
        /// Other fields of the provider's message, verbatim, for its own origin only.
        opaque: Option<serde_json::Value>,
    },
    /// One result for each call of the message before, in order.
    ToolResults(Vec<SentResult>),
}

/// A part of a user's message as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SentPart {
    /// A text; never blank.
    Text(String),
    /// An image.
    Image(SentImage),
}

impl SentPart {
    /// The text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl<T: Into<String>> From<T> for SentPart {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// An image as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentImage {
    /// What it is.
    pub image: ImageRef,
    /// The image itself. It is no part of the JSON form.
    #[serde(skip)]
    pub base64: Base64,
}

/// A tool's result as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentResult {
    /// The id of the call, as sent in the message before.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// What the model reads; never blank.
    pub output: String,
    /// Whether the call failed.
    pub is_error: bool,
    /// The images that belong to it; none where the call failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<SentImage>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModelEvent {
    /// More text.
    Text(String),
    /// More reasoning.
    Reasoning(String),
    /// More of a tool call's arguments (or its name); their text comes whole with the block.
    ToolArguments,
    /// A block is complete. Tool calls have `provider_id`, `name` and `arguments`; the loop gives them their `id`.
    Block(Block),
    /// The provider did something with the request that its sender should know of; logged as `error`.
    Warning(String),
    /// Tokens used, as far as known now; a later one replaces it.
    Usage(Usage),
    /// The provider's terminal event: the answer is complete. Tools run only after it.
    Done {
        /// Why it stopped.
        stop: StopReason,
        /// Other fields of the message that have to go back verbatim.
        opaque: Option<serde_json::Value>,
    },
}

/// A kind of failed call, by what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection within the limit: a clock.
    ConnectTimeout,
    /// No response headers within the limit: a clock.
    FirstByteTimeout,
    /// Not a byte for too long: a clock.
    IdleTimeout,
    /// Bytes, but no progress for too long: a clock.
    ProgressTimeout,
    /// Too long altogether: a clock.
    CapTimeout,
    /// Refused or unreachable.
    Connect,
    /// The connection broke, or the stream ended without its terminal event.
    Reset,
    /// 429, with or without `retry-after`.
    RateLimit,
    /// 529 or the same said inside a stream.
    Overloaded,
    /// 408, 409, 425, 5xx.
    Server,
    /// The context is too long for the model.
    ContextTooLong,
    /// 401 or 403.
    Auth,
    /// The account has no quota or credit left.
    Quota,
    /// 404: no such model or path.
    NotFound,
    /// Another 4xx.
    BadRequest,
    /// A 400 that named a parameter; it is learned, and the next body leaves it out. Try again at once.
    Learned,
    /// An image of the request was refused. The loop leaves it out of the next one.
    ImageRefused,
    /// What came is no answer of this protocol (wrong content type, malformed JSON).
    Protocol,
    /// Nobody was asked: the endpoint failed several times in a row, and is left alone for now.
    BreakerOpen,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ConnectTimeout,
        Self::FirstByteTimeout,
        Self::IdleTimeout,
        Self::ProgressTimeout,
        Self::CapTimeout,
        Self::Connect,
        Self::Reset,
        Self::RateLimit,
        Self::Overloaded,
        Self::Server,
        Self::ContextTooLong,
        Self::Auth,
        Self::Quota,
        Self::NotFound,
        Self::BadRequest,
        Self::Learned,
        Self::ImageRefused,
        Self::Protocol,
        Self::BreakerOpen,
    ];

    /// The word in `model.error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectTimeout => "connect_timeout",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::ProgressTimeout => "progress_timeout",
            Self::CapTimeout => "cap_timeout",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::RateLimit => "rate_limit",
            Self::Overloaded => "overloaded",
            Self::Server => "server",
            Self::ContextTooLong => "context_too_long",
            Self::Auth => "auth",
            Self::Quota => "quota",
            Self::NotFound => "not_found",
            Self::BadRequest => "bad_request",
            Self::Learned => "learned",
            Self::ImageRefused => "image_refused",
            Self::Protocol => "protocol",
            Self::BreakerOpen => "breaker_open",
        }
    }

    /// Whether one of the five clocks ended the call: the turn ends with `timeout`, and it is not tried again.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::IdleTimeout | Self::ProgressTimeout | Self::CapTimeout
        )
    }

    /// What may cure it: the one table of what is tried again, and what another model is asked for.
    #[must_use]
    pub fn cure(self) -> Cure {
        match self {
            // A proxy that spoils an answer, or has a page of its own in its place, may not do so the next time.
            Self::Connect | Self::Reset | Self::RateLimit | Self::Overloaded | Self::Server | Self::Protocol => Cure::AnotherTry,
            Self::BreakerOpen => Cure::AnotherModelOrTry,
            Self::NotFound => Cure::AnotherModel,
            // A limit that ends a call ends the turn.
            Self::ConnectTimeout
            | Self::FirstByteTimeout
            | Self::IdleTimeout
            | Self::ProgressTimeout
            | Self::CapTimeout
            // Another model would hide what its owner has to put right, or be sent the same mistake.
            | Self::Auth
            | Self::Quota
            | Self::BadRequest
            // The loop sends another body at once, so many times and no more.
            | Self::ContextTooLong
            | Self::Learned
            | Self::ImageRefused => Cure::Nothing,
        }
    }
}

/// What may cure a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// Another try; if that does not, another model.
    AnotherTry,
    /// Another model; where there is none, another try.
    AnotherModelOrTry,
    /// Another model.
    AnotherModel,
    /// Neither.
    Nothing,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct ModelFailure {
    /// What to do about it.
    pub kind: FailureKind,
    /// What happened, to what, in a sentence; at most 4 kB of the server's words.
    pub detail: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
}

impl ModelFailure {
    /// A failure without a status.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), status: None, retry_after: None }
    }
}
