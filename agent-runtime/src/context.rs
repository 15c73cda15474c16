//! Fitting the context window: how much the next request takes, and which messages leave when it is too much.
//!
//! While the bytes of the whole request fit, nothing is counted: a token is at least a byte. Past that the count is the
//! last usage that the provider reported plus an estimate of what came after, and before there is any, an estimate of
//! everything. Estimates are made once a message, and their running sum is kept, so that fitting one more message costs the
//! same however long the history is.
//!
//! A trim is rare and deep: it goes down to half of the budget by whole *steps* (an answer with all its results), because every
//! trim costs the provider's cache and all reasoning behind it. What stays: the system prompt, the message that
//! opened the turn, what was said since by the user, the last step, and the todo list, which goes into the trim's note.

use crate::tokens::count_tokens;
use session_store::{Block, ContextTrimmed, Message, Profile, Seq, SeqRange, Slot, State, Todo, TodoStatus};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

/// What is left free below the window, in tokens: headers, separators, an estimate's error.
const MARGIN: u64 = 1_024;
/// What a message costs besides its text.
const MESSAGE_OVERHEAD: u64 = 8;

/// The room that a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Tokens for everything that is sent.
    pub(crate) input: u64,
    /// Tokens for the answer.
    pub(crate) output: u64,
}

impl Budget {
    /// Splits `window` tokens: the answer gets what it asks for, half of the window at most.
    pub(crate) fn new(window: u64, output: u64) -> Self {
        let output = output.min(window / 2).max(1);
        let margin = MARGIN.min(window / 16);
        Self { input: window.saturating_sub(output + margin).max(1), output }
    }
}

/// Estimated sizes of the messages in the context, in tokens of o200k.
#[derive(Debug, Default)]
pub struct TokenCounter {
    /// By the message's `seq`; what is counted once is not counted again.
    counted: HashMap<Seq, u64>,
    /// `sums[i]` is the size of the first `i` slots of the context that `sums` was made for.
    sums: Vec<u64>,
    /// The first slot and the last trim that `sums` was made for.
    made_for: (Option<Seq>, Option<Seq>),
    profile: Option<(String, u64)>,
}

impl TokenCounter {
    /// A counter that has counted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// About how many tokens a request for `state` takes, with `factor` tokens of the model for one of o200k.
    /// Counts what was not counted before: call it off the runtime's threads when there is much of it.
    pub fn estimate(&mut self, state: &State, profile: &Profile, factor: f64) -> u64 {
        self.catch_up(state);
        let all = self.sums.last().copied().unwrap_or(0);
        if let Some((seq, usage)) = state.last_usage
            && let Some(place) = state.context.iter().rposition(|slot| slot.seq == seq)
        {
            let since = all - self.sums[place + 1];
            let reported = usage.input_tokens.unwrap_or(0) + usage.output_tokens.unwrap_or(0);
            return reported + scale(since, factor);
        }
        scale(all + self.profile_size(profile), factor)
    }

    /// Brings the sums up to the context's end; after a trim or a rewind, from the start, with no message counted twice.
    fn catch_up(&mut self, state: &State) {
        let made_for = (state.context.first().map(|slot| slot.seq), state.undoable().next_back());
        if made_for != self.made_for || self.sums.len() > state.context.len() + 1 {
            self.sums.clear();
            self.made_for = made_for;
        }
        if self.sums.is_empty() {
            self.sums.push(0);
        }
        for slot in &state.context[self.sums.len() - 1..] {
            let before = self.sums.last().copied().unwrap_or(0);
            self.sums.push(before + *self.counted.entry(slot.seq).or_insert_with(|| message_tokens(slot)));
        }
    }

    fn profile_size(&mut self, profile: &Profile) -> u64 {
        match &self.profile {
            Some((hash, tokens)) if *hash == profile.hash => *tokens,
            _ => {
                let tools: u64 = profile
                    .tools
                    .iter()
                    .map(|tool| count_tokens(&tool.description) + count_tokens(&tool.parameters.to_string()) + MESSAGE_OVERHEAD)
                    .sum();
                let tokens = count_tokens(&profile.system) + tools;
                self.profile = Some((profile.hash.clone(), tokens));
                tokens
            }
        }
    }
}

fn scale(tokens: u64, factor: f64) -> u64 {
    (tokens as f64 * factor).ceil() as u64
}

fn message_tokens(slot: &Slot) -> u64 {
    let text = match slot.message.as_deref() {
        Some(Message::User { text, .. } | Message::Note { text }) => count_tokens(text),
        Some(Message::Assistant(answer)) => answer.blocks.iter().map(block_tokens).sum(),
        Some(Message::ToolResult { output, .. }) => count_tokens(output),
        _ => 0,
    };
    text + MESSAGE_OVERHEAD
}

fn block_tokens(block: &Block) -> u64 {
    match block {
        Block::Text { text } => count_tokens(text),
        Block::Reasoning { text, opaque } => {
            count_tokens(text).max(opaque.as_ref().map_or(0, |opaque| opaque.to_string().len() as u64 / 4))
        }
        Block::ToolCall(call) => count_tokens(&call.name) + count_tokens(&call.arguments) + MESSAGE_OVERHEAD,
        Block::Opaque { opaque } => opaque.to_string().len() as u64 / 4,
        _ => 0,
    }
}

/// A trim that was worked out: what leaves, and what is left.
#[derive(Debug, PartialEq)]
pub(crate) struct Trim {
    pub(crate) removed: Vec<SeqRange>,
    pub(crate) messages: usize,
    pub(crate) tokens_after: u64,
}

/// Works out a trim to at most `target` tokens (of the model; `tokens_now` is the estimate before). Nothing where nothing can leave.
pub(crate) fn plan_trim(state: &State, counter: &mut TokenCounter, factor: f64, tokens_now: u64, target: u64) -> Option<Trim> {
    counter.catch_up(state);
    let keep_from = last_step(&state.context);
    let opening = state.turn.as_ref().map(|turn| turn.user).or_else(|| last_user(&state.context));
    let mut removed: Vec<Seq> = Vec::new();
    let mut kept: BTreeSet<Seq> = state.context[keep_from..].iter().map(|slot| slot.seq).collect();
    let mut tokens = tokens_now;
    let mut enough = false;
    for (place, slot) in state.context[..keep_from].iter().enumerate() {
        let starts_step = !matches!(slot.message.as_deref(), Some(Message::ToolResult { .. }));
        let is_user = matches!(slot.message.as_deref(), Some(Message::User { .. }));
        let said_in_turn = opening.is_some_and(|opening| slot.seq == opening || (slot.seq > opening && is_user));
        enough |= starts_step && tokens <= target;
        if enough || said_in_turn {
            kept.insert(slot.seq);
            continue;
        }
        removed.push(slot.seq);
        tokens = tokens.saturating_sub(scale(counter.sums[place + 1] - counter.sums[place], factor));
    }
    let only_a_note = removed.len() == 1 && matches!(state.context[0].message.as_deref(), Some(Message::Note { .. }));
    let trim = Trim { messages: removed.len(), removed: ranges(&removed, &kept), tokens_after: tokens };
    (trim.messages > 0 && !only_a_note).then_some(trim)
}

/// `removed`, in the order of the context, as ranges that hold nothing of `kept`.
fn ranges(removed: &[Seq], kept: &BTreeSet<Seq>) -> Vec<SeqRange> {
    let mut ranges: Vec<SeqRange> = Vec::new();
    for &seq in removed {
        match ranges.last_mut() {
            Some(last) if last.1 < seq && kept.range(last.1..seq).next().is_none() => last.1 = seq,
            _ => ranges.push(SeqRange(seq, seq)),
        }
    }
    ranges
}

/// The place where the last answer begins: it and what follows always stay.
fn last_step(context: &[Slot]) -> usize {
    let is_answer = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::Assistant(_)));
    context.iter().rposition(is_answer).unwrap_or(context.len().saturating_sub(1))
}

fn last_user(context: &[Slot]) -> Option<Seq> {
    context.iter().rfind(|slot| matches!(slot.message.as_deref(), Some(Message::User { .. }))).map(|slot| slot.seq)
}

/// The event of a trim.
pub(crate) fn trim_event(trim: &Trim, todos: &Arc<Vec<Todo>>, reason: &str, tokens_before: u64) -> ContextTrimmed {
    let mut note = format!("[{} earlier messages were left out of this conversation to fit the context window.", trim.messages);
    if !todos.is_empty() {
        note.push_str(" The todo list stands at:");
        for todo in todos.iter() {
            let mark = match todo.status {
                TodoStatus::Pending => ' ',
                TodoStatus::InProgress => '~',
                TodoStatus::Completed => 'x',
            };
            let _ = write!(note, "\n- [{mark}] {}", todo.content);
        }
        note.push('\n');
    }
    note.push(']');
    ContextTrimmed {
        removed: trim.removed.clone(),
        note,
        reason: reason.to_owned(),
        tokens_before,
        tokens_after: trim.tokens_after,
    }
}
