//! The conversation as the offline model looks at it.

use crate::model::{Conversation, Sent, SentPart};
use crate::summary::ASK_START;
use serde_json::Value;
use session_store::Block;

/// What it sees.
pub(super) struct View<'a> {
    /// The newest words of the person.
    pub(super) prompt: &'a str,
    /// All words before it.
    pub(super) earlier: Vec<&'a str>,
    /// What was called since the prompt, one list for each message of the model's. A trim may have taken the first ones away.
    rounds: Vec<Vec<Done<'a>>>,
    /// The number of the step that the model itself named last since the prompt: it stays when earlier rounds are trimmed.
    last_step: usize,
    /// Whether the model has answered before the prompt.
    pub(super) has_answered: bool,
    /// How often a tool was called in the whole conversation.
    pub(super) calls_so_far: usize,
    tools: Vec<&'a str>,
    /// What its last answer has to fit.
    pub(super) output_schema: Option<&'a Value>,
    /// Whether the program wants a summary of all that.
    pub(super) is_to_sum_up: bool,
}

/// A call and its result.
pub(super) struct Done<'a> {
    pub(super) name: &'a str,
    pub(super) output: &'a str,
    pub(super) is_error: bool,
}

impl<'a> View<'a> {
    pub(super) fn of(conversation: &'a Conversation) -> Self {
        let mut view = Self {
            prompt: "",
            earlier: Vec::new(),
            rounds: Vec::new(),
            last_step: 0,
            has_answered: false,
            calls_so_far: 0,
            tools: conversation.profile.tools.iter().map(|tool| tool.name.as_str()).collect(),
            output_schema: conversation.profile.parameters.output_schema.as_ref(),
            is_to_sum_up: false,
        };
        let newest = conversation.messages.iter().rposition(|message| matches!(message, Sent::User(_))).unwrap_or(0);
        for (place, message) in conversation.messages.iter().enumerate() {
            match message {
                Sent::User(parts) => view.user(parts, place == newest),
                Sent::Assistant { blocks, .. } => {
                    view.has_answered |= place < newest;
                    view.last_step = if place < newest { 0 } else { step_named(blocks).unwrap_or(view.last_step) };
                    view.calls_so_far += blocks.iter().filter(|block| matches!(block, Block::ToolCall(_))).count();
                }
                Sent::ToolResults(results) if place > newest => {
                    let done = |result: &'a crate::model::SentResult| Done {
                        name: &result.name,
                        output: &result.output,
                        is_error: result.is_error,
                    };
                    view.rounds.push(results.iter().map(done).collect());
                }
                Sent::ToolResults(_) => {}
            }
        }
        view
    }

    /// The prompt is the last text of the newest message that is no note of the runtime.
    fn user(&mut self, parts: &'a [SentPart], is_newest: bool) {
        let last = parts.last().and_then(SentPart::text).unwrap_or_default();
        self.is_to_sum_up = is_newest && last.starts_with(ASK_START);
        self.earlier.extend(parts.iter().filter_map(SentPart::text).filter(|text| !is_trim_note(text)));
        if is_newest && !self.is_to_sum_up {
            self.prompt = self.earlier.pop().unwrap_or_default().trim();
        }
    }

    pub(super) fn has_tool(&self, name: &str) -> bool {
        self.tools.contains(&name)
    }

    /// How many rounds there were since the prompt, trimmed ones included.
    pub(super) fn rounds_done(&self) -> usize {
        self.last_step.max(self.rounds.len())
    }

    /// The results of the round `index`, counted from the prompt.
    pub(super) fn round(&self, index: usize) -> Option<&[Done<'a>]> {
        let trimmed = self.rounds_done() - self.rounds.len();
        self.rounds.get(index.checked_sub(trimmed)?).map(Vec::as_slice)
    }

    /// The first result of the round `index`.
    pub(super) fn result(&self, index: usize) -> Option<&Done<'a>> {
        self.round(index)?.first()
    }
}

/// `[12 earlier messages were left out ...]`, which stands beside what a person said.
fn is_trim_note(text: &str) -> bool {
    text.starts_with('[') && text.trim_end().ends_with(']') && text.contains("left out")
}

/// The number in `Step 3 of 5: ...`.
fn step_named(blocks: &[Block]) -> Option<usize> {
    let text = blocks.iter().find_map(|block| if let Block::Text { text } = block { Some(text) } else { None })?;
    let number = text.strip_prefix("Step ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
