//! The messages of a session as `sessions show --json` prints them.

use super::{Item, ItemKind, ToolEnd};
use serde::Serialize;
use session_store::{ImageRef, Seq, Timestamp};

/// A message, for programs.
#[derive(Debug, Serialize, PartialEq)]
pub(crate) struct JsonMessage {
    /// The event's place: what `--at` takes.
    seq: Seq,
    at: Timestamp,
    /// `system`, `user`, `assistant` or `tool`.
    role: &'static str,
    text: String,
    /// Empty for all but an assistant's messages.
    tool_calls: Vec<JsonCall>,
    /// Of a tool's message: the call that it answers.
    tool_call_id: Option<String>,
    /// True where the text was cut by an interrupt or a crash, or is still coming; of a tool's message: where the call has no result, and this is the end of its
    /// output, as far as it is known.
    partial: bool,
    /// The images of a user's or a tool's message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<ImageRef>,
}

/// A tool call of a message, for programs.
#[derive(Debug, Serialize, PartialEq)]
struct JsonCall {
    id: String,
    name: String,
    /// As the model wrote them.
    arguments: String,
}

impl JsonMessage {
    /// The message that `item` is, where it is one. A note's role is `system`: a model is sent it as a user's words, but no
    /// person said it.
    pub(crate) fn from_item(item: &Item) -> Option<Self> {
        let message = |role, text: &str| Self {
            seq: item.seq,
            at: item.at,
            role,
            text: text.to_owned(),
            tool_calls: Vec::new(),
            tool_call_id: None,
            partial: false,
            images: Vec::new(),
        };
        Some(match &item.kind {
            ItemKind::Profile(profile) => message("system", &profile.system),
            ItemKind::Note { text } => message("system", text),
            ItemKind::User { text, images, .. } => Self { images: images.clone(), ..message("user", text) },
            ItemKind::Answer(answer) => {
                let tool_calls = answer
                    .tool_calls()
                    .map(|call| JsonCall { id: call.id.clone(), name: call.name.clone(), arguments: call.arguments.clone() })
                    .collect();
                Self { tool_calls, partial: answer.partial, ..message("assistant", &answer.text()) }
            }
            ItemKind::Tool { end: ToolEnd::Finished(finished), .. } => {
                let (tool_call_id, images) = (Some(finished.call.clone()), finished.images.clone());
                Self { tool_call_id, images, ..message("tool", &finished.output) }
            }
            ItemKind::Tool { call, end } => {
                let output = end.partial_output()?;
                Self { tool_call_id: Some(call.id.clone()), partial: true, ..message("tool", output) }
            }
            ItemKind::Todos(_) | ItemKind::Remark { .. } => return None,
        })
    }
}
