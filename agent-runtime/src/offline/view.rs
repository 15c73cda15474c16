//! The conversation as the offline model looks at it.

use crate::model::{Conversation, Sent};
use session_store::Block;

/// What it sees.
pub(super) struct View<'a> {
    /// The newest words of the person.
    pub(super) prompt: &'a str,
    /// All words before it.
    pub(super) earlier: Vec<&'a str>,
    /// What was called since the prompt, one list for each message of the model's.
    pub(super) rounds: Vec<Vec<Done<'a>>>,
    /// Whether the model has answered before the prompt.
    pub(super) has_answered: bool,
    /// How often a tool was called in the whole conversation.
    pub(super) calls_so_far: usize,
    tools: Vec<&'a str>,
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
            has_answered: false,
            calls_so_far: 0,
            tools: conversation.profile.tools.iter().map(|tool| tool.name.as_str()).collect(),
        };
        let newest = conversation.messages.iter().rposition(|message| matches!(message, Sent::User(_))).unwrap_or(0);
        for (place, message) in conversation.messages.iter().enumerate() {
            match message {
                Sent::User(texts) => view.user(texts, place == newest),
                Sent::Assistant { blocks, .. } => {
                    view.has_answered |= place < newest;
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

    /// The last text of the newest message is the prompt: notes of the runtime come before it.
    fn user(&mut self, texts: &'a [String], is_newest: bool) {
        let texts = texts.iter().map(String::as_str);
        self.earlier.extend(texts);
        if is_newest {
            self.prompt = self.earlier.pop().unwrap_or_default().trim();
        }
    }

    pub(super) fn has_tool(&self, name: &str) -> bool {
        self.tools.contains(&name)
    }

    /// The first result of the round `index`.
    pub(super) fn result(&self, index: usize) -> Option<&Done<'a>> {
        self.rounds.get(index)?.first()
    }
}
