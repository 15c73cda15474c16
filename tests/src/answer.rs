//! What the server can answer: healthy replies, and every way in which an answer goes wrong.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A part of a healthy reply, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Words for the reader, sent one word a delta.
    Text(String),
    /// Reasoning, sent one word a delta. For Anthropic it carries a signature over all that came before it.
    Reasoning(String),
    /// A reasoning block of which only an encrypted form is shown (Anthropic only; left out for OpenAI).
    RedactedReasoning,
    /// A tool call. Neighbours are parallel calls.
    ToolCall {
        /// The tool.
        name: String,
        /// The arguments, byte for byte: need not be JSON. Sent in pieces of 16 characters.
        arguments: String,
    },
}

/// Why a reply says that it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// For tools where it calls one, else because all is said.
    #[default]
    Natural,
    /// Its output limit cut it.
    MaxTokens,
    /// It will not answer.
    Refusal,
}

/// A reply that is complete and well formed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// Its parts.
    pub parts: Vec<Part>,
    /// Why it ends.
    pub stop: Stop,
    /// Milliseconds before each delta.
    pub pace_ms: u64,
    /// Whether no usage is told.
    pub without_usage: bool,
}

impl Reply {
    /// A reply of these words alone.
    pub fn text(words: impl Into<String>) -> Self {
        Self::default().then_text(words)
    }

    /// A reply that calls this tool.
    pub fn tool_call(name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self::default().then_tool_call(name, arguments)
    }

    /// A reply that reasons.
    pub fn reasoning(words: impl Into<String>) -> Self {
        Self { parts: vec![Part::Reasoning(words.into())], ..Self::default() }
    }

    /// And then says these words.
    #[must_use]
    pub fn then_text(mut self, words: impl Into<String>) -> Self {
        self.parts.push(Part::Text(words.into()));
        self
    }

    /// And then calls this tool.
    #[must_use]
    pub fn then_tool_call(mut self, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        self.parts.push(Part::ToolCall { name: name.into(), arguments: arguments.into() });
        self
    }

    /// With this pause before each delta.
    #[must_use]
    pub fn paced(mut self, pause: Duration) -> Self {
        self.pace_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Ending for this reason.
    #[must_use]
    pub fn stopping(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }
}

/// How a reply breaks, after some of its deltas were sent whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// Nothing more comes; the connection stays open.
    Stall,
    /// Only pings come from here on, for ever, this many milliseconds apart.
    Pings {
        /// Milliseconds between pings.
        every_ms: u64,
    },
    /// Half of the next event is sent, then the connection closes.
    CutMidEvent,
    /// The response ends as if it were complete, without the provider's terminal event.
    EndEarly,
    /// The connection is reset.
    Reset,
    /// An error is said inside the stream (`overloaded_error`, say), and the stream ends.
    Error {
        /// The provider's word for the kind.
        kind: String,
        /// What it says.
        message: String,
    },
    /// An event whose data is JSON cut in the middle; then the rest of the reply.
    MalformedJson,
    /// An event with one line of ten megabytes, well formed and without meaning; then the rest of the reply.
    TenMegabyteLine,
}

/// An answer with a status, and no stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The status.
    pub status: u16,
    /// Headers beside length and type.
    pub headers: Vec<(String, String)>,
    /// The body; empty: an error object as the provider writes it for that status.
    pub body: String,
}

/// What the server does with one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A healthy reply.
    Reply(Reply),
    /// A reply that breaks after `after` deltas; 0: after the response's headers.
    Broken {
        /// The reply as it would have been.
        reply: Reply,
        /// How many deltas are sent before.
        after: usize,
        /// How it breaks.
        flaw: Flaw,
    },
    /// A healthy reply, sent byte by byte.
    Trickle {
        /// The reply.
        reply: Reply,
        /// Microseconds before each byte.
        byte_us: u64,
    },
    /// Pings, and then a healthy reply: a model that thinks for long.
    PingsThen {
        /// How many pings.
        pings: u32,
        /// Milliseconds between them.
        every_ms: u64,
        /// The reply.
        reply: Reply,
    },
    /// The request is read, and nothing is ever sent.
    NeverAnswer,
    /// The connection is reset, without a byte.
    Refuse,
    /// A status.
    Status(Status),
    /// 200 with a page of HTML, as a login page or a proxy would send.
    WrongContentType,
}

impl Answer {
    /// A healthy reply of these words.
    pub fn text(words: impl Into<String>) -> Self {
        Self::Reply(Reply::text(words))
    }

    /// A healthy reply that calls this tool.
    pub fn tool_call(name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self::Reply(Reply::tool_call(name, arguments))
    }

    /// The response's headers, and then nothing.
    #[must_use]
    pub fn headers_then_nothing() -> Self {
        Self::Broken { reply: Reply::default(), after: 0, flaw: Flaw::Stall }
    }

    /// Pings and nothing else.
    #[must_use]
    pub fn pings_forever(every: Duration) -> Self {
        Self::Broken { reply: Reply::default(), after: 0, flaw: Flaw::Pings { every_ms: ms(every) } }
    }

    /// Pings, and then these words.
    pub fn pings_then(pings: u32, every: Duration, words: impl Into<String>) -> Self {
        Self::PingsThen { pings, every_ms: ms(every), reply: Reply::text(words) }
    }

    /// A tool call whose arguments come slowly, without a fault.
    pub fn slow_arguments(name: impl Into<String>, arguments: impl Into<String>, pause: Duration) -> Self {
        Self::Reply(Reply::tool_call(name, arguments).paced(pause))
    }

    /// Words that come byte by byte.
    pub fn trickle(words: impl Into<String>, pause: Duration) -> Self {
        Self::Trickle { reply: Reply::text(words), byte_us: u64::try_from(pause.as_micros()).unwrap_or(u64::MAX) }
    }

    /// Words that break after `after` of them.
    pub fn broken(words: impl Into<String>, after: usize, flaw: Flaw) -> Self {
        Self::Broken { reply: Reply::text(words), after, flaw }
    }

    /// `words`, and then a tool call that the output limit cut in the middle of its arguments.
    pub fn max_tokens_inside_tool_call(words: impl Into<String>, name: impl Into<String>, arguments: &str) -> Self {
        let half: String = arguments.chars().take(arguments.chars().count() / 2).collect();
        Self::Reply(Reply::text(words).then_tool_call(name, half).stopping(Stop::MaxTokens))
    }

    /// A status with the provider's usual words.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status(Status { status, ..Status::default() })
    }

    /// A status with this error message, in the provider's error object.
    pub fn error(status: u16, message: impl Into<String>) -> Self {
        Self::Status(Status { status, headers: Vec::new(), body: message.into() })
    }

    /// 429 that asks to wait.
    #[must_use]
    pub fn rate_limited(retry_after: Duration) -> Self {
        let seconds = retry_after.as_secs_f64().to_string();
        Self::Status(Status { status: 429, headers: vec![("retry-after".into(), seconds)], body: String::new() })
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
