//! The vocabulary of a session: one enum, [`Event`], and a struct for each of its types.
//!
//! A line of the log is one [`Entry`]: `seq`, `at`, `type`, then the fields of the event's struct. `FORMAT.md` shows
//! each as a line. Rules of evolution: a field is added with a default and never changes its meaning; a type that this
//! build does not know is kept as [`Event::Unknown`]; what a build does not know is never dropped from the file,
//! because no line is ever rewritten and forks and exports copy bytes.

use crate::id::{Place, Seq, SeqRange, SessionId};
use crate::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use uuid::Uuid;

/// The version of the record format that this build writes, in each [`Opened`].
pub const FORMAT_VERSION: u32 = 1;

/// One event in its place: what a line of the log holds. Two are equal where they say the same, wherever their lines stand.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The event's place: consecutive from 0.
    pub seq: Seq,
    /// When it was accepted, UTC. Order is told by `seq`; a clock may step back.
    pub at: Timestamp,
    /// Whether the line's checksum continued the chain. An entry that is not sound is shown, and is never a reason to
    /// run or to skip a side effect.
    pub sound: bool,
    /// What happened.
    pub event: Event,
    /// Where its line stands in the log, where that is known.
    pub place: Place,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.seq, self.at, self.sound) == (other.seq, other.at, other.sound) && self.event == other.event
    }
}

impl Entry {
    /// A sound entry whose line stands nowhere yet.
    #[must_use]
    pub fn new(seq: Seq, at: Timestamp, event: impl Into<Event>) -> Self {
        Self { seq, at, sound: true, event: event.into(), place: Place::default() }
    }

    /// The `seq` of the event behind it: one more than its own, but for a sound `compacted` or `lost`, which stands for several events.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        match &self.event {
            event if self.sound => event.next_seq(self.seq),
            _ => self.seq.saturating_add(1),
        }
    }

    /// Appends the entry as one JSON object, as a line of the log has it, without checksum and newline.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        crate::line::write_json(out, self.seq, self.at, &self.event);
    }

    /// Appends the entry as a line of a log, newline included, that follows a line with the checksum `previous_crc` (0:
    /// it is the first), and returns the line's own checksum.
    pub fn write_line(&self, out: &mut Vec<u8>, previous_crc: u32) -> u32 {
        crate::line::encode(out, previous_crc, self.seq, self.at, &self.event)
    }

    /// Reads a line of a log without its newline, or what [`Entry::write_json`] wrote; nothing where it is neither, or
    /// where the event's fields are in a side file. The checksum is not looked at: `sound` is false.
    #[must_use]
    pub fn read_line(line: &[u8]) -> Option<Self> {
        match crate::line::decode(line)? {
            crate::line::Decoded::Entry(entry) => Some(entry),
            crate::line::Decoded::Side(_) => None,
        }
    }
}

impl Event {
    /// Whether it says nothing of the conversation, only who has the log and what is kept in it: a session is not newer for it.
    pub(crate) fn is_upkeep(&self) -> bool {
        matches!(
            self,
            Self::Opened(_)
                | Self::Closed(_)
                | Self::Checkpoint(_)
                | Self::Recovered(_)
                | Self::Compacted(_)
                | Self::Lost(_)
                | Self::Repaired(_)
        )
    }

    /// Whether an answer ends here at the latest that a crash cut: no piece of it comes behind.
    #[must_use]
    pub fn ends_answer(&self) -> bool {
        matches!(self, Self::Opened(_) | Self::ModelRequest(_) | Self::AssistantMessage(_))
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:literal => $variant:ident),+ $(,)?) => {
        /// Everything that can happen in a session.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Event {
            $($(#[$doc])* $variant($variant),)+
            /// An event of a type that this build does not know, written by a newer one; carried through as it is.
            Unknown(Unknown),
        }

        impl Event {
            /// The types that this build knows.
            #[cfg(test)]
            pub(crate) const TYPES: &[&str] = &[$($name),+];

            /// The event's `type`, as written in the log.
            #[must_use]
            pub fn type_name(&self) -> &str {
                match self {
                    $(Self::$variant(_) => $name,)+
                    Self::Unknown(unknown) => &unknown.type_name,
                }
            }

            /// Appends the fields as a JSON object to `out`.
            ///
            /// # Errors
            /// None in practice: writing to memory does not fail and every field has a JSON form.
            pub(crate) fn write_fields(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
                match self {
                    $(Self::$variant(fields) => serde_json::to_writer(out, fields),)+
                    Self::Unknown(unknown) => unknown.write_fields(out),
                }
            }

            /// Reads the fields of an event of type `type_name` from `json`, an object that may hold more than them.
            pub(crate) fn read_fields(type_name: &str, json: &[u8]) -> serde_json::Result<Self> {
                Ok(match type_name {
                    $($name => Self::$variant(serde_json::from_slice(json)?),)+
                    _ => return Self::read_unknown(type_name, json),
                })
            }
        }

        $(impl From<$variant> for Event {
            fn from(fields: $variant) -> Self {
                Self::$variant(fields)
            }
        })+
    };
}

events! {
    /// A process took the session for writing.
    "opened" => Opened,
    /// The owner let go of it.
    "closed" => Closed,
    /// The session's first facts.
    "session.started" => SessionStarted,
    /// The lines up to here were copied from another session.
    "session.forked" => SessionForked,
    /// Another session was opened that works for this one.
    "child.opened" => ChildOpened,
    /// A person named the session.
    "session.renamed" => SessionRenamed,
    /// The session was made from what another program kept.
    "session.imported" => SessionImported,
    /// What every request is built with, from here on.
    "profile" => Profile,
    /// A person's words.
    "user.message" => UserMessage,
    /// A person's words that wait for the turn to end.
    "message.queued" => MessageQueued,
    /// A message that waited was taken back.
    "message.withdrawn" => MessageWithdrawn,
    /// Words of the runtime to the model (a changed `AGENTS.md`, a seam after a cut), sent as a user's.
    "note" => Note,
    /// A request to a model is about to be sent.
    "model.request" => ModelRequest,
    /// A request failed; perhaps it is tried again.
    "model.error" => ModelError,
    /// No model is asked before some time.
    "model.waiting" => ModelWaiting,
    /// Another model is asked in the place of one that could not answer.
    "model.fallback" => ModelFallback,
    /// A model refused images, and is not sent them from here on.
    "images.refused" => ImagesRefused,
    /// A piece of an assistant's text as it came.
    "assistant.text" => AssistantText,
    /// A piece of an assistant's reasoning as it came.
    "assistant.reasoning" => AssistantReasoning,
    /// An assistant's whole message (or all that came of it).
    "assistant.message" => AssistantMessage,
    /// A tool call may run.
    "tool.approved" => ToolApproved,
    /// A tool call may not run.
    "tool.denied" => ToolDenied,
    /// A tool is about to run; durable before a side effect.
    "tool.started" => ToolStarted,
    /// A piece of a running tool's output as it came.
    "tool.output" => ToolOutputPiece,
    /// The one result of a tool call.
    "tool.finished" => ToolFinished,
    /// The whole todo list, after a change.
    "todos.changed" => TodosChanged,
    /// Messages left the context window.
    "context.trimmed" => ContextTrimmed,
    /// The conversation went back to an earlier message.
    "context.rewound" => ContextRewound,
    /// A trim or a rewind was undone.
    "context.restored" => ContextRestored,
    /// A message stays in the context, whatever is trimmed; or that is over.
    "context.pinned" => ContextPinned,
    /// A model is asked what the messages said that are to leave the context window.
    "context.summarizing" => ContextSummarizing,
    /// What it answered, or why there is no answer.
    "context.summarized" => ContextSummarized,
    /// A copy of the fold's state, so that opening need not read the whole log; only a cache.
    "checkpoint" => Checkpoint,
    /// Somebody stopped the turn.
    "interrupted" => Interrupted,
    /// The turn is over; the last event of every turn.
    "turn.ended" => TurnEnded,
    /// Something went wrong that the session's owner should know.
    "error" => Error,
    /// An owner found a torn tail and put it aside.
    "recovered" => Recovered,
    /// Superseded pieces were left out when a cold session was rewritten.
    "compacted" => Compacted,
    /// Events are missing here, as a repair found.
    "lost" => Lost,
    /// The log was written again without its damage.
    "repaired" => Repaired,
}

/// The members of a line that are not fields of its event.
const RESERVED: [&str; 6] = ["seq", "at", "type", "side", "unchecked", "crc"];

impl Event {
    /// Reads any JSON object as an event of a type that this build does not know.
    pub(crate) fn read_unknown(type_name: &str, json: &[u8]) -> serde_json::Result<Self> {
        let mut fields: serde_json::Map<String, Value> = serde_json::from_slice(json)?;
        RESERVED.iter().for_each(|own| drop(fields.shift_remove(*own)));
        Ok(Self::Unknown(Unknown { type_name: type_name.to_owned(), fields }))
    }

    /// The `seq` of the event behind this one, where this one is sound and at `seq`.
    pub(crate) fn next_seq(&self, seq: Seq) -> Seq {
        let last = match self {
            Self::Compacted(Compacted { from, to, .. }) | Self::Lost(Lost { from, to }) if *from == seq => {
                (*to).min(crate::line::SEQ_MAX).max(seq)
            }
            _ => seq,
        };
        last.saturating_add(1)
    }

    /// Whether this event closes something (a turn, a tool call, the session). Closing events may use the reserve that
    /// a full buffer keeps for them, so that a session can always say how it ended.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(
            self,
            Self::Closed(_) | Self::ToolFinished(_) | Self::TurnEnded(_) | Self::AssistantMessage(_) | Self::Interrupted(_)
        )
    }
}

/// The fields of an event whose type this build does not know.
#[derive(Clone, Debug, PartialEq)]
pub struct Unknown {
    /// The `type` as read.
    pub type_name: String,
    /// All other fields, in their order.
    pub fields: serde_json::Map<String, Value>,
}

impl Unknown {
    /// Appends the fields to `out`, without those whose names a line uses itself.
    fn write_fields(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        use serde::ser::{SerializeMap, Serializer};
        let mut json = serde_json::Serializer::new(out);
        let mut map = json.serialize_map(None)?;
        for (name, value) in self.fields.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str())) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// `opened`: the first line of an epoch. The first `opened` of an epoch in the file owns the session; a later one has lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// One more than the last epoch in the file; the first is 1.
    pub epoch: u64,
    /// The writer: the name of its file in `owners/`.
    pub writer: Uuid,
    /// The version of the record format: [`FORMAT_VERSION`].
    pub format: u32,
    /// The owner's process, host, boot and program, to name the holder when `owners/` cannot.
    pub owner: Owner,
}

/// A process that writes sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Process id on its host.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// The kernel's boot id, where there is one.
    pub boot: String,
    /// When the process began to write sessions.
    pub since: Timestamp,
    /// The program and its version, as `longhand 0.1.0`.
    pub program: String,
}

/// `closed`: the owner of `epoch` let go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// The epoch that ends.
    pub epoch: u64,
    /// What a list of sessions shows, so that it needs no other line; absent where the writer does not make one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Box<Summary>>,
}

/// What a list of sessions shows of one, as of the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Where this line starts in the file. On a line that stands elsewhere the summary is not believed: a writer wrote it that had lost
    /// the session.
    pub offset: u64,
    /// The name that a person gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The first line of the first message, 80 characters at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The working directory that it was started in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The model of its last profile, as `provider/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its last event was written, those aside that only say who had it; absent: when this line was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// How many messages (user, assistant, tool) there ever were.
    pub messages: u64,
    /// The sum over all calls.
    pub usage: Usage,
}

/// `session.started`: what is known at birth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStarted {
    /// The session's id, as in the file's name.
    pub session: SessionId,
    /// The working directory, absolute; absent where an embedder gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The program that started it, as `longhand 0.1.0`.
    #[serde(default)]
    pub program: String,
}

/// `session.forked`: every line before this one was copied from `parent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionForked {
    /// This session's own id.
    pub session: SessionId,
    /// The session that the lines came from.
    pub parent: SessionId,
    /// The last event that was copied.
    pub at_seq: Seq,
}

/// `child.opened`: a session that works for this one was started, or gone on with. What it spends counts as this one's, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildOpened {
    /// The child.
    pub session: SessionId,
}

/// `session.renamed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRenamed {
    /// The name; empty takes it away.
    pub name: String,
}

/// `session.imported`: the events of this epoch were made from what another program kept. Their `at` is the time of the original.
/// Who wrote their answers is told without a credential that could be anybody's ([`Origin::IMPORTED`]), so reasoning in them goes back to
/// nobody. Each record of the original follows the events that were made of it, as an event of the type `imported.<format>.<type>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionImported {
    /// What was read: `claude_code`, `codex`, `pi`, `hermes`, `openai`, `anthropic`, `markdown`; an open set.
    pub format: String,
    /// The id that the other program gave it; empty where it has none.
    pub id: String,
    /// The program that wrote the original, with its version, as far as the original says.
    pub program: String,
    /// The file that was read, absolute; absent where it was no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// SHA-256 of the bytes that were read.
    pub sha256: String,
    /// The title that the other program showed for it, 80 characters at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// When it was imported.
    pub imported_at: Timestamp,
}

/// `profile`: system text, tools, model and parameters of every request from here on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// SHA-256 over the other fields in their JSON form; see [`Profile::sealed`].
    pub hash: String,
    /// `provider/name`, as typed for `--model`.
    pub model: String,
    /// The system prompt, whole.
    pub system: String,
    /// The tools that the model sees, sorted by name.
    pub tools: Vec<ToolSpec>,
    /// What else shapes a request.
    #[serde(default)]
    pub parameters: Parameters,
    /// The version of the rules that turn the log into requests; 0 where another program made them, so that whoever goes on with the session
    /// chooses its own system prompt and tools.
    pub projection: u32,
}

impl Profile {
    /// The same profile with its tools sorted by name and its `hash` computed.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.tools.sort_by(|a, b| a.name.cmp(&b.name));
        self.hash.clear();
        let json = serde_json::to_vec(&self).unwrap_or_default();
        self.hash = crate::side::sha256_hex(&json);
        self
    }
}

/// A tool as a model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Letters, digits, `_` and `-`, 64 at most.
    pub name: String,
    /// What it does and when to use it, for the model.
    pub description: String,
    /// A JSON Schema of an object.
    pub parameters: Value,
}

/// Parameters of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// The longest answer in tokens; absent: the model's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// How much a model may reason: `off`, `low`, `medium`, `high`; absent: the model's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    /// Sampling temperature; absent: the model's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The JSON Schema that the last answer of each turn has to fit; absent: it is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
}

/// How a user's message came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UserKind {
    /// It opened a turn.
    #[default]
    Prompt,
    /// It was taken in while a turn ran.
    Steer,
    /// It waited for the turn to end, and opened the next.
    FollowUp,
}

/// `user.message`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserMessage {
    /// The words, with known secrets replaced by markers.
    pub text: String,
    /// How it came in.
    #[serde(default)]
    pub kind: UserKind,
    /// The sender's own key for this message, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The images that go with the words, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageRef>,
}

/// `message.queued`: words that wait to be sent. They are no message yet: the first `user.message` of the kind `follow_up` with the same words is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageQueued {
    /// The words, with known secrets replaced by markers.
    pub text: String,
    /// The message that steered with these words, and came too late for its turn: it is in no request, and leaves the context. Absent where the words were
    /// written to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Seq>,
    /// Its images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageRef>,
}

/// `message.withdrawn`: a message that waited will not be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageWithdrawn {
    /// Its `message.queued`.
    pub queued: Seq,
}

/// `note`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The words.
    pub text: String,
}

/// Where a message was made: opaque blocks go back only to an exact match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The provider's name: `anthropic`, `openai`, `ollama`, `offline`, ...
    pub provider: String,
    /// The base URL, without user and password; empty for built-in models.
    pub endpoint: String,
    /// The model's name at that provider.
    pub model: String,
    /// A fingerprint of the credential (8 hexadecimal digits of its SHA-256), empty without one; [`Origin::IMPORTED`] where another program asked.
    pub credential: String,
}

impl Origin {
    /// The `credential` of an origin that another program told of. It is no fingerprint, so no model of this program has this origin.
    pub const IMPORTED: &str = "imported";
}

/// `model.request`: what was asked of a model, so that it can be built again byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRequest {
    /// Who is asked.
    pub origin: Origin,
    /// The [`Profile::hash`] that it was built with.
    pub profile: String,
    /// The messages in it, as ranges of events in the order of the context: a range stands for the messages in it, and the note of a trim stands
    /// in a range of its own.
    pub context: Vec<SeqRange>,
    /// SHA-256 of the request's body.
    pub body_sha256: String,
    /// The body's length.
    pub body_bytes: u64,
    /// The limits that it kept to; absent in logs of builds that did not write them, and where another program asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RequestLimits>,
    /// Parameters that this endpoint and model refused before and that are therefore left out or renamed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<String>,
}

/// The limits of a request, in tokens. What is not in the log elsewhere comes from a table of models, which changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestLimits {
    /// The longest answer that was asked for.
    pub max_output_tokens: u64,
    /// What the context could take, the answer included.
    pub context_window: u64,
    /// Whether `context_window` was chosen for the session; else it is the model's own.
    #[serde(skip_serializing_if = "is_false")]
    pub window_asked: bool,
}

/// `model.error`: a request failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelError {
    /// The `seq` of its [`ModelRequest`].
    pub message: Seq,
    /// The kind: `connect`, `first_byte`, `idle`, `progress`, `cap`, `reset`, `overloaded`, `rate_limit`, `server`, `context`, `auth`,
    /// `quota`, `refused`, `bad_request`, `protocol`; an open set.
    pub kind: String,
    /// What happened, in a sentence; at most 4 kB of the server's words.
    pub detail: String,
    /// The HTTP status, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Milliseconds until the next try; absent: it is not tried again, or after a longer wait, which is an event of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// When the server wants to be asked again, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// `model.waiting`: the turn waits, and asks no model before `until`. A session that is resumed before its turn was answered can go on waiting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelWaiting {
    /// The model that is waited for, as `provider/name`.
    pub model: String,
    /// Why: the kind of a [`ModelError`], or `breaker_open`.
    pub reason: String,
    /// When it is asked.
    pub until: Timestamp,
}

/// `model.fallback`: from here to the end of the turn `to` is asked in the place of `from`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFallback {
    /// Who could not answer.
    pub from: Origin,
    /// Who is asked now.
    pub to: Origin,
    /// Why: the kind of a [`ModelError`], or `breaker_open`.
    pub reason: String,
    /// What happened, in a sentence.
    pub detail: String,
}

/// `images.refused`: from here on `origin` is sent a note in the place of these images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagesRefused {
    /// The `seq` of the [`ModelRequest`] that had them.
    pub message: Seq,
    /// Who refused them.
    pub origin: Origin,
    /// The images, each once.
    pub images: Vec<ImageRef>,
    /// Why, in the server's words: a part of the note.
    pub reason: String,
    /// Whether an answer was given to one of them before: what a model said since is bound to a prefix that is no longer sent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub answered: bool,
}

/// `assistant.text`: the bytes `offset..offset + text.len()` of the message's text so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssistantText {
    /// The `seq` of the [`ModelRequest`] that it answers: the message's name.
    pub message: Seq,
    /// Where the piece starts, in bytes of the message's whole text.
    pub offset: u64,
    /// The piece.
    pub text: String,
}

/// `assistant.reasoning`: like [`AssistantText`], for reasoning that the provider shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssistantReasoning {
    /// The `seq` of the [`ModelRequest`] that it answers.
    pub message: Seq,
    /// Where the piece starts, in bytes of the message's whole reasoning.
    pub offset: u64,
    /// The piece.
    pub text: String,
}

/// A part of an assistant's message, in the order in which the provider sent it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Block {
    /// Words for the reader.
    Text {
        /// The words.
        text: String,
    },
    /// The model's reasoning, as far as the provider shows it.
    Reasoning {
        /// What is shown; may be empty.
        text: String,
        /// The provider's own block, verbatim; goes back only to its [`Origin`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opaque: Option<Value>,
    },
    /// A call of a tool.
    ToolCall(ToolCall),
    /// A block of the provider's that means nothing to us (redacted reasoning, say), verbatim.
    Opaque {
        /// The provider's block.
        opaque: Value,
    },
    /// A block written by a newer build.
    #[serde(untagged)]
    Unknown(Value),
}

/// A call of a tool, as the model made it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Our name for it, by position: `call_<seq of the request>_<index>`; unique in the session.
    pub id: String,
    /// The provider's own name for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    /// The tool.
    pub name: String,
    /// The arguments as the model wrote them: JSON if the model kept to it; never re-serialised.
    pub arguments: String,
}

/// Tokens of a call or of many; absent where the provider did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// All tokens sent, cached ones included.
    pub input_tokens: Option<u64>,
    /// All tokens answered, reasoning included.
    pub output_tokens: Option<u64>,
    /// Of the input: read from the provider's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    /// Of the input: written to the provider's cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Of the output: reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Adds `other` to this sum; what neither told stays absent.
    pub fn add(&mut self, other: &Self) {
        fn sum(a: &mut Option<u64>, b: Option<u64>) {
            if let Some(b) = b {
                *a = Some(a.unwrap_or(0).saturating_add(b));
            }
        }
        sum(&mut self.input_tokens, other.input_tokens);
        sum(&mut self.output_tokens, other.output_tokens);
        sum(&mut self.cache_read_tokens, other.cache_read_tokens);
        sum(&mut self.cache_write_tokens, other.cache_write_tokens);
        sum(&mut self.reasoning_tokens, other.reasoning_tokens);
    }
}

/// Why a model stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// It had said what it wanted to say.
    EndTurn,
    /// It wants tools to run.
    ToolUse,
    /// Its output limit cut it: the last block may be incomplete.
    MaxTokens,
    /// It will not answer.
    Refusal,
    /// It did not stop: we stopped listening (an interrupt, a broken stream).
    Cut,
    /// The provider's own word, where it is none of the above.
    #[serde(untagged)]
    Other(String),
}

/// `assistant.message`: supersedes all pieces of the same `message`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssistantMessage {
    /// The `seq` of the [`ModelRequest`] that it answers.
    pub message: Seq,
    /// Who made it.
    pub origin: Origin,
    /// Its parts, in order.
    pub blocks: Vec<Block>,
    /// Why it ended.
    pub stop: StopReason,
    /// True where the message was cut by an interrupt, a crash or a broken stream.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partial: bool,
    /// What the call used, where the provider said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Other fields of the provider's message that go back to it, verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<Value>,
}

impl AssistantMessage {
    /// The text blocks, joined.
    #[must_use]
    pub fn text(&self) -> String {
        self.blocks.iter().filter_map(|block| if let Block::Text { text } = block { Some(text.as_str()) } else { None }).collect()
    }

    /// The tool calls, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.blocks.iter().filter_map(|block| if let Block::ToolCall(call) = block { Some(call) } else { None })
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// `tool.approved`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolApproved {
    /// The [`ToolCall::id`].
    pub call: String,
    /// Who or what said so: `user`, `mode`, `allowed_tools`, `session` (approved for the rest of the session).
    pub by: String,
}

/// `tool.denied`; the result that the model sees follows as [`ToolFinished`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolDenied {
    /// The [`ToolCall::id`].
    pub call: String,
    /// Who or what said so: `user`, `mode`, `disallowed_tools`, `nobody_to_ask`.
    pub by: String,
    /// Why, in words.
    pub reason: String,
}

/// `tool.started`: from here on the tool may have had its effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolStarted {
    /// The [`ToolCall::id`].
    pub call: String,
    /// The tool's name.
    pub name: String,
    /// Whether it can change anything outside the session.
    pub side_effects: bool,
}

/// `tool.output`: a piece of what a tool puts out while it runs. Not all of it is in pieces: where `offset` is past the end of the piece before,
/// what lies between was left out. The call's [`ToolFinished`] supersedes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolOutputPiece {
    /// The [`ToolCall::id`].
    pub call: String,
    /// Where the piece starts, in bytes of the call's whole output.
    pub offset: u64,
    /// The piece, with known secrets replaced by markers.
    pub text: String,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToolOutcome {
    /// It did what it was asked.
    Ok,
    /// It failed; the output says how.
    Error,
    /// Its arguments were no JSON or did not fit its schema; it did not run.
    InvalidArguments,
    /// It was not allowed to run.
    Denied,
    /// It did not run for another reason (the answer was cut, the turn was stopped before it).
    NotRun,
    /// It was stopped by an interrupt while it ran.
    Interrupted,
    /// It was stopped at its time limit.
    Timeout,
}

/// `tool.finished`: the one result of a call, as the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolFinished {
    /// The [`ToolCall::id`].
    pub call: String,
    /// The tool's name.
    pub name: String,
    /// How it ended.
    pub outcome: ToolOutcome,
    /// What the model sees; shortened where `full` is there.
    pub output: String,
    /// The whole output, beside the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<SideRef>,
    /// Images that the model sees with it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageRef>,
    /// How long it ran.
    #[serde(default)]
    pub duration_ms: u64,
}

/// A file beside the log, named by what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideRef {
    /// SHA-256 of its bytes, hexadecimal: the file's name.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// An image of a message: a file beside the log, and what is known of it without reading that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`; told by its bytes. An open set.
    pub media_type: String,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// SHA-256 of its bytes, hexadecimal: the file's name.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

impl ImageRef {
    /// The file that it is in.
    #[must_use]
    pub fn side(&self) -> SideRef {
        SideRef { sha256: self.sha256.clone(), bytes: self.bytes }
    }

    /// What it is, as `png 640x480`.
    #[must_use]
    pub fn label(&self) -> String {
        let kind = self.media_type.strip_prefix("image/").unwrap_or(&self.media_type);
        format!("{kind} {}x{}", self.width, self.height)
    }
}

/// `text` with a line before it for each image, `[image png 640x480]`: what people read of a message with images.
#[must_use]
pub fn with_images<'a>(text: &'a str, images: &[ImageRef]) -> Cow<'a, str> {
    if images.is_empty() {
        return Cow::Borrowed(text);
    }
    let lines = images.iter().map(|image| format!("[image {}]\n", image.label())).chain([text.to_owned()]);
    Cow::Owned(lines.collect())
}

/// Where an item of the todo list stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TodoStatus {
    /// Not begun.
    #[default]
    Pending,
    /// Being done.
    InProgress,
    /// Done.
    Completed,
}

/// An item of the todo list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Todo {
    /// What is to be done.
    pub content: String,
    /// Where it stands.
    pub status: TodoStatus,
}

/// `todos.changed`: the whole list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TodosChanged {
    /// All items, in order.
    pub todos: Arc<Vec<Todo>>,
}

/// `context.trimmed`: these messages are not sent from here on; `note` stands in their place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextTrimmed {
    /// The messages that left, as ranges of their `seq`.
    pub removed: Vec<SeqRange>,
    /// What the model sees in their place (the todo list is in it, and a summary where there is one).
    pub note: String,
    /// Why: `budget`, `context_too_long`, `user`.
    pub reason: String,
    /// The estimate before, in tokens.
    #[serde(default)]
    pub tokens_before: u64,
    /// The estimate after, in tokens, the note included.
    #[serde(default)]
    pub tokens_after: u64,
    /// The [`ContextSummarized`] whose text is in the note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Seq>,
}

/// `context.rewound`: every message after `to` is not sent from here on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextRewound {
    /// The last event that stays.
    pub to: Seq,
}

/// `context.restored`: the trim or rewind at `undo` is undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextRestored {
    /// The `seq` of the event that is undone.
    pub undo: Seq,
}

/// `context.pinned`: from here on no trim takes this message out of the context, or one may again. It changes nothing that is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextPinned {
    /// The `seq` of the message; an answer stays with all of its results.
    pub message: Seq,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// `context.summarizing`: a request for a summary, as a [`ModelRequest`]: the conversation as it stands here without its images, and a last message that
/// asks for the summary. It is no part of a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextSummarizing {
    /// What was asked of whom.
    #[serde(flatten)]
    pub request: ModelRequest,
    /// The messages that the summary is to stand for, as ranges of their `seq`.
    pub covers: Vec<SeqRange>,
    /// What a person wants to be in it, where one said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
}

/// `context.summarized`: the end of a request for a summary. The next trim puts the text into its note, if it takes these messages out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextSummarized {
    /// Its [`ContextSummarizing`].
    pub request: Seq,
    /// Who answered.
    pub origin: Origin,
    /// The summary; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What the call used, where the provider said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Why there is no summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `checkpoint`: a cache of the fold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The version of the fold that made it; another version does not read it.
    pub fold: u32,
    /// SHA-256 of `state` as it stands in the line.
    pub hash: String,
    /// How many bytes of the file were durable when this was accepted, as its writer knew; the store fills it in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub durable: u64,
    /// The state.
    pub state: RawJson,
}

/// A JSON value as the text that it is in the log, on one line.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// The JSON form of `value`.
    ///
    /// # Errors
    /// Where it has none.
    pub fn new(value: &impl Serialize) -> serde_json::Result<Self> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if !raw.get().contains(['\n', '\r']) {
            return Ok(Self(raw));
        }
        // Another tool spread it over many lines; a line of the log is one.
        let value: Value = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        Self::new(&value).map_err(serde::de::Error::custom)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `interrupted`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interrupted {
    /// Who: `user`, `SIGINT`, `SIGTERM`, `SIGHUP`, `stdout_closed`, `shutdown`, `dropped`.
    pub by: String,
}

/// `turn.ended`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnEnded {
    /// `done`, `interrupted`, `timeout`, `max_turns`, `max_tokens`, `budget`, `refusal`, `denied`, `error`; an open set.
    pub reason: String,
    /// What went wrong, where something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many times a model was asked.
    pub model_calls: u64,
    /// The sum over those calls.
    #[serde(default)]
    pub usage: Usage,
    /// How long the turn took.
    #[serde(default)]
    pub duration_ms: u64,
}

/// `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Error {
    /// The part it concerns: `store`, `context`, `tool`, `config`, ...
    pub scope: String,
    /// What happened, to what, what to do.
    pub message: String,
}

/// `recovered`: what the owner of a new epoch found after the last newline and put aside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// Where the fragment began in the file.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// The fragment itself: as text where it is UTF-8, else hexadecimal with the prefix `hex:`. Where it is longer than 64 KiB, its start.
    pub fragment: String,
    /// The whole fragment, where `fragment` is only its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<SideRef>,
}

/// `compacted`: the events `from..=to` are left out of this file, because later ones say the same: pieces of a message that came whole,
/// and old checkpoints. Its own `seq` is `from`; the next line's is one more than `to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compacted {
    /// The first event that was left out.
    pub from: Seq,
    /// The last one.
    pub to: Seq,
    /// How many.
    pub count: u64,
}

/// `lost`: the events `from..=to` are missing, and a repair found no trace of them. Its own `seq` is `from`; the next line's is one more
/// than `to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// The first event that is missing.
    pub from: Seq,
    /// The last one.
    pub to: Seq,
}

/// `repaired`: the log was written again without its damage. No event changed its `seq`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repaired {
    /// The file that has the log as it was: its name in the folder `repaired` of the home.
    pub original: String,
    /// How many things were wrong with it.
    pub problems: u64,
    /// What was wrong, line by line of that file, as far as it is not too much for a line of this one.
    pub lines: Vec<RepairedLine>,
}

/// A line that a repair found wrong, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairedLine {
    /// The line of the original, counted from 1.
    pub line: u64,
    /// What was wrong: the name of a problem, as `sessions verify` has it.
    pub problem: String,
    /// `marked` (kept, and known as unchecked), `left_out`, `moved` (to its place), `split` (the records in it were kept), `noted` (as `lost`),
    /// `cleaned`, `put_aside` (as `recovered`) or `stays`; an open set.
    pub action: String,
}
