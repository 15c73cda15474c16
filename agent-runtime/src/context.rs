//! Fitting the context window: how much the next request takes, and which messages leave when it is too much.
//!
//! While the bytes of the whole request fit, nothing is counted: a token is at least a byte; an image is counted by its pixels. Nor while what the provider reported
//! last ([`State::counted`]) fits together with the bytes of what came after ([`tokens_at_most`]). Past that the count is that report plus an
//! estimate of what came after, by what the report was for one token of o200k; before there is any, it is an estimate of
//! everything, by the factor of the model's family. Messages are counted once, away
//! from the runtime's threads ([`Uncounted`]), and their running sum is kept, so that fitting one more message costs the same
//! however long the history is.
//!
//! A trim is rare and deep: it goes down to half of the budget by whole *steps* (an answer with all its results), because every
//! trim costs the provider's cache and all reasoning behind it. What stays: the system prompt, pinned messages, the message that
//! opened the turn, what was said since by the user, the last step, and the todo list, which goes into the trim's note.

use crate::images::image_tokens;
use crate::projection::closed_step;
use crate::tokens::count_tokens;
use session_store::{
    Block, ContextSummary, ContextTrimmed, Message, Profile, Seq, SeqRange, Slot, State, Todo, TodoStatus, ToolSpec,
};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

/// What is left free below the window, in tokens: headers, separators, an estimate's error.
const MARGIN: u64 = 1_024;
/// How many tokens of a request weigh as much as the factor of the model's family.
const FACTOR_TRUST: u64 = 4_000;
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
    /// The value of [`State::rewrites`] that `sums` was made for.
    made_for: u64,
    profile: Option<(String, u64)>,
}

impl TokenCounter {
    /// A counter that has counted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// About how many tokens a request for `state` takes, with `factor` tokens of the model for one of o200k as far as no report tells that.
    /// Counts what was not counted before: call it off the runtime's threads when there is much of it.
    pub fn estimate(&mut self, state: &State, profile: &Profile, factor: f64) -> u64 {
        self.catch_up(state);
        let (all, profile) = (self.all(), self.profile_size(profile));
        let Some((reported, since)) = counted(state) else { return scale(all + profile, factor) };
        let before = self.sums[state.context.len() - since.len()];
        reported + scale(all - before, ratio(reported, before + profile, factor))
    }

    /// What [`TokenCounter::estimate`] and [`plan_trim`] would have to count for `state`; nothing where they only look it up.
    pub(crate) fn uncounted(&mut self, state: &State) -> Option<Uncounted> {
        let profile = state.profile.clone().filter(|profile| self.profile.as_ref().is_none_or(|(hash, _)| *hash != profile.hash));
        self.align(state);
        let new = state.context[self.sums.len() - 1..].iter();
        let messages: Vec<Slot> = new.filter(|slot| !self.counted.contains_key(&slot.seq)).cloned().collect();
        (profile.is_some() || !messages.is_empty()).then_some(Uncounted { messages, profile })
    }

    /// About how many tokens of the model the messages at `places` take; as [`TokenCounter::estimate`].
    pub(crate) fn estimate_of(&mut self, state: &State, places: &BTreeSet<usize>, factor: f64) -> u64 {
        let profile = state.profile.clone();
        let now = profile.as_deref().map_or(0, |profile| self.estimate(state, profile, factor));
        let known = self.all() + profile.map_or(0, |profile| self.profile_size(&profile));
        let size = |place: &usize| Some(self.sums.get(place + 1)? - self.sums[*place]);
        scale(places.iter().filter_map(size).sum(), ratio(now, known, factor))
    }

    /// Takes in what was counted.
    pub(crate) fn learn(&mut self, counted: Counted) {
        self.counted.extend(counted.messages);
        self.profile = counted.profile.or(self.profile.take());
    }

    /// The size of all messages.
    fn all(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    fn size(&mut self, slot: &Slot) -> u64 {
        *self.counted.entry(slot.seq).or_insert_with(|| message_tokens(slot))
    }

    /// Brings the sums up to the context's end; after a trim or a rewind, from the start, with no message counted twice.
    fn catch_up(&mut self, state: &State) {
        self.align(state);
        for slot in &state.context[self.sums.len() - 1..] {
            let before = self.sums.last().copied().unwrap_or(0);
            let size = self.size(slot);
            self.sums.push(before + size);
        }
    }

    /// Forgets the sums where they were made for another context; leaves at least the sum of nothing.
    fn align(&mut self, state: &State) {
        if state.rewrites() != self.made_for || self.sums.len() > state.context.len() + 1 {
            self.sums.clear();
            self.made_for = state.rewrites();
        }
        if self.sums.is_empty() {
            self.sums.push(0);
        }
    }

    fn profile_size(&mut self, profile: &Profile) -> u64 {
        match &self.profile {
            Some((hash, tokens)) if *hash == profile.hash => *tokens,
            _ => {
                let tokens = profile_tokens(profile);
                self.profile = Some((profile.hash.clone(), tokens));
                tokens
            }
        }
    }
}

/// What has to be counted before an estimate is a look-up. Counting may load the tokenizer's table and takes about 100 ns a byte, so it is
/// done on a thread that may block and with no lock held.
pub(crate) struct Uncounted {
    messages: Vec<Slot>,
    profile: Option<Arc<Profile>>,
}

/// For [`TokenCounter::learn`].
pub(crate) struct Counted {
    messages: Vec<(Seq, u64)>,
    profile: Option<(String, u64)>,
}

impl Uncounted {
    pub(crate) fn count(self) -> Counted {
        Counted {
            messages: self.messages.iter().map(|slot| (slot.seq, message_tokens(slot))).collect(),
            profile: self.profile.map(|profile| (profile.hash.clone(), profile_tokens(&profile))),
        }
    }
}

/// What a request for `state` takes at most, in tokens of its model, where the provider has reported what it took until lately; no
/// message is counted for it.
pub(crate) fn tokens_at_most(state: &State) -> Option<u64> {
    let (reported, since) = counted(state)?;
    Some(reported + since.iter().map(message_tokens_at_most).sum::<u64>())
}

/// What a message takes at most, in tokens of any model.
pub(crate) fn message_tokens_at_most(slot: &Slot) -> u64 {
    message_size(slot, |text| text.len() as u64)
}

/// What was last known of this context, and the messages since.
fn counted(state: &State) -> Option<(u64, &[Slot])> {
    let (at, tokens) = state.counted?;
    let last = state.context.iter().rposition(|slot| slot.seq <= at)?;
    Some((tokens, &state.context[last + 1..]))
}

/// How many tokens of the model one of o200k is, as far as a request tells that took `known` and was `estimated` to take so many: the more it tells,
/// the less the family's factor counts. In small requests what is not seen of them (the provider's own words about tools) is a large part.
fn ratio(known: u64, estimated: u64, factor: f64) -> f64 {
    let trust = FACTOR_TRUST as f64;
    (known as f64 + factor * trust) / (estimated as f64 + trust)
}

fn scale(tokens: u64, factor: f64) -> u64 {
    (tokens as f64 * factor).ceil() as u64
}

fn profile_tokens(profile: &Profile) -> u64 {
    let tool = |tool: &ToolSpec| count_tokens(&tool.description) + count_tokens(&tool.parameters.to_string()) + MESSAGE_OVERHEAD;
    count_tokens(&profile.system) + profile.tools.iter().map(tool).sum::<u64>()
}

fn message_tokens(slot: &Slot) -> u64 {
    message_size(slot, count_tokens)
}

/// The size of a message, its texts measured by `size`.
fn message_size(slot: &Slot, size: impl Fn(&str) -> u64) -> u64 {
    let text = match slot.message.as_deref() {
        Some(Message::User { text, .. } | Message::Note { text }) => size(text),
        Some(Message::Assistant(answer)) => answer.blocks.iter().map(|block| block_size(block, &size)).sum(),
        Some(Message::ToolResult { output, .. }) => size(output),
        _ => 0,
    };
    let images = slot.message.as_deref().map_or(&[][..], Message::images);
    text + images.iter().map(image_tokens).sum::<u64>() + MESSAGE_OVERHEAD
}

fn block_size(block: &Block, size: impl Fn(&str) -> u64) -> u64 {
    match block {
        Block::Text { text } => size(text),
        Block::Reasoning { text, opaque } => {
            size(text).max(opaque.as_ref().map_or(0, |opaque| opaque.to_string().len() as u64 / 4))
        }
        Block::ToolCall(call) => size(&call.name) + size(&call.arguments) + MESSAGE_OVERHEAD,
        Block::Opaque { opaque } => opaque.to_string().len() as u64 / 4,
        _ => 0,
    }
}

/// A trim that was worked out: what leaves, and what is left.
#[derive(Debug, PartialEq)]
pub(crate) struct Trim {
    pub(crate) removed: Vec<SeqRange>,
    pub(crate) messages: usize,
    /// How many of them no summary stands for.
    not_covered: usize,
    /// Without its note.
    pub(crate) tokens_after: u64,
    /// Tokens of the model for one of o200k.
    ratio: f64,
}

/// Works out a trim to at most `target` tokens (of the model; `tokens_now` is the estimate before, `factor` as for that). Nothing where nothing can leave.
/// What a summary covers leaves as well.
pub(crate) fn plan_trim(
    state: &State,
    counter: &mut TokenCounter,
    factor: f64,
    tokens_now: u64,
    target: u64,
    covered: &[SeqRange],
) -> Option<Trim> {
    counter.catch_up(state);
    let profile = state.profile.as_deref().map_or(0, |profile| counter.profile_size(profile));
    let ratio = ratio(tokens_now, counter.all() + profile, factor);
    let opening = state.turn.as_ref().map(|turn| turn.user).or_else(|| last_user(&state.context));
    // The last step stays while its turn runs; where the turn is over, it may leave like any other.
    let keep_from = Some(last_step(&state.context))
        .filter(|place| state.context.get(*place).is_some_and(|slot| opening.is_none_or(|opening| slot.seq > opening)))
        .unwrap_or(state.context.len());
    let pinned = pinned_places(&state.context, state.pins.iter().copied());
    let mut removed: Vec<Seq> = Vec::new();
    let mut kept: BTreeSet<Seq> = state.context[keep_from..].iter().map(|slot| slot.seq).collect();
    let mut tokens = tokens_now;
    let (mut enough, mut not_covered) = (false, 0);
    // Where the step ends that began last: at the last of its results, whatever was said between them.
    let mut step_end = 0;
    for (place, slot) in state.context[..keep_from].iter().enumerate() {
        let is_answer = matches!(slot.message.as_deref(), Some(Message::Assistant(_)));
        if is_answer {
            step_end = end_of_step(&state.context, place);
        }
        let is_inside = !is_answer && place < step_end;
        let is_user = matches!(slot.message.as_deref(), Some(Message::User { .. }));
        let said_in_turn = opening.is_some_and(|opening| slot.seq == opening || (slot.seq > opening && is_user));
        let is_covered = covered.iter().any(|range| range.contains(slot.seq));
        // As deep as it goes is to the end, whatever the estimates of what leaves add up to.
        enough |= !is_inside && !is_covered && tokens <= target && target > 0;
        if enough || said_in_turn || pinned.contains(&place) {
            kept.insert(slot.seq);
            continue;
        }
        removed.push(slot.seq);
        not_covered += usize::from(!is_covered);
        tokens = tokens.saturating_sub(scale(counter.sums[place + 1] - counter.sums[place], ratio));
    }
    let is_note = |slot: &Slot| slot.seq == removed[0] && matches!(slot.message.as_deref(), Some(Message::Note { .. }));
    let only_a_note = removed.len() == 1 && state.context.iter().any(is_note);
    let trim = Trim { messages: removed.len(), removed: ranges(&removed, &kept), not_covered, tokens_after: tokens, ratio };
    (trim.messages > 0 && !only_a_note).then_some(trim)
}

/// The places of the messages in `context` that stay for these pins: of an answer all its results.
pub(crate) fn pinned_places(context: &[Slot], pins: impl Iterator<Item = Seq>) -> BTreeSet<usize> {
    let mut places = BTreeSet::new();
    for pin in pins {
        if let Some(place) = context.iter().position(|slot| slot.seq == pin) {
            let is_answer = matches!(context[place].message.as_deref(), Some(Message::Assistant(_)));
            places.extend(place..if is_answer { end_of_step(context, place) } else { place + 1 });
        }
    }
    places
}

/// What is pinned where the message `seq` is to be: the answer that it is a result of, or itself; nothing where it is no message in the context.
pub(crate) fn pin_of(context: &[Slot], seq: Seq) -> Option<Seq> {
    let place = context.iter().position(|slot| slot.seq == seq && !slot.is_trim())?;
    let is_answer = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::Assistant(_)));
    let is_result = matches!(context[place].message.as_deref(), Some(Message::ToolResult { .. }));
    let answer = context[..place].iter().rposition(is_answer).filter(|answer| is_result && end_of_step(context, *answer) > place);
    Some(context[answer.unwrap_or(place)].seq)
}

/// The place behind the last result of the answer at `place`.
fn end_of_step(context: &[Slot], place: usize) -> usize {
    let step = closed_step(&context[place..]).map_or(context.len(), |step| place + step);
    let is_result = |slot: &Slot| matches!(slot.message.as_deref(), Some(Message::ToolResult { .. }));
    context[place..step].iter().rposition(is_result).map_or(place + 1, |last| place + last + 1)
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

/// The event of a trim, with a summary of what leaves in its note, where there is one.
pub(crate) fn trim_event(
    trim: &Trim,
    summary: Option<&ContextSummary>,
    todos: &Arc<Vec<Todo>>,
    reason: &str,
    tokens_before: u64,
) -> ContextTrimmed {
    let mut note = format!("[{} earlier messages were left out of this conversation to fit the context window.", trim.messages);
    if let Some(text) = summary.and_then(|summary| summary.text.as_deref()) {
        let _ = write!(note, " What they said, in short:\n\n{text}\n\n");
        if trim.not_covered > 0 {
            let _ = write!(note, "The last {} of them came after that was written.", trim.not_covered);
        }
    }
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
    // Four bytes of English are a token, and three of most other scripts.
    let tokens_after = trim.tokens_after + scale(note.len() as u64 / 3 + MESSAGE_OVERHEAD, trim.ratio);
    let summary = summary.filter(|summary| summary.text.is_some()).map(|summary| summary.seq);
    ContextTrimmed { removed: trim.removed.clone(), note, reason: reason.to_owned(), tokens_before, tokens_after, summary }
}

#[cfg(test)]
mod tests {
    use super::*;
    use session_store::{AssistantMessage, Entry, Event, Note, Origin, StopReason, Timestamp, Usage};

    fn state(events: impl IntoIterator<Item = Event>) -> State {
        let mut state = State::default();
        for (seq, event) in events.into_iter().enumerate() {
            state.apply(&Entry::new(seq as u64, Timestamp::from_ms(0), event));
        }
        state
    }

    fn note(text: &str) -> Event {
        Note { text: text.to_owned() }.into()
    }

    fn answer(usage: Option<Usage>) -> Event {
        let blocks = vec![Block::Text { text: "an answer".to_owned() }];
        let (origin, stop) = (Origin::default(), StopReason::EndTurn);
        AssistantMessage { message: 1, origin, blocks, stop, partial: false, usage, opaque: None }.into()
    }

    fn profile() -> Profile {
        let (hash, model, system) = (String::new(), String::new(), "Be brief.".to_owned());
        Profile { hash, model, system, tools: Vec::new(), parameters: session_store::Parameters::default(), projection: 1 }
    }

    fn seqs(uncounted: Option<Uncounted>) -> Vec<Seq> {
        uncounted.map(|uncounted| uncounted.messages.iter().map(|slot| slot.seq).collect()).unwrap_or_default()
    }

    #[test]
    fn what_came_after_a_report_is_estimated_by_what_the_report_was_for_a_token_of_ours() {
        let text = "one two three four five six seven eight nine ten ".repeat(2_000);
        let mut counter = TokenCounter::new();
        let ours = counter.estimate(&state([note(&text), answer(None)]), &profile(), 1.0);
        let usage = Usage { input_tokens: Some(ours * 3 / 2 - 10), output_tokens: Some(10), ..Usage::default() };
        let state = state([note(&text), answer(Some(usage)), note(&text)]);
        let one = count_tokens(&text) + MESSAGE_OVERHEAD;
        assert_eq!(seqs(counter.uncounted(&state)), [2], "what is counted once is not counted again");
        let ratio = (counter.estimate(&state, &profile(), 1.0) - ours * 3 / 2) as f64 / one as f64;
        assert!((1.35..1.5).contains(&ratio), "{ratio}");
        assert_eq!(tokens_at_most(&state), Some(ours * 3 / 2 + text.len() as u64 + MESSAGE_OVERHEAD));
    }

    #[test]
    fn a_trim_goes_on_with_what_was_reported() {
        let text = "one two three four five six seven eight nine ten ".repeat(20);
        let mut counter = TokenCounter::new();
        let events = || (0..6).flat_map(|_| [note(&text), answer(None)]);
        let ours = counter.estimate(&state(events()), &profile(), 1.0);
        let usage = Usage { input_tokens: Some(ours / 2), output_tokens: Some(0), ..Usage::default() };
        let mut state = state(events().chain([note(&text), answer(Some(usage)), note("more")]));
        let now = counter.estimate(&state, &profile(), 9.0);
        let trim = plan_trim(&state, &mut counter, 0.5, now, now / 2, &[]).expect("much can leave");
        let event = trim_event(&trim, None, &Arc::default(), "budget", now);
        let after = event.tokens_after;
        assert!((now / 3..now / 2 + 30).contains(&after), "{now} became {after}");
        state.apply(&Entry::new(state.next_seq, Timestamp::from_ms(0), event));
        assert_eq!(counter.estimate(&state, &profile(), 9.0), after, "what is known is not estimated again");
    }

    #[test]
    fn a_step_leaves_whole_also_where_somebody_spoke_between_its_results() {
        let call = |index: usize| session_store::ToolCall { id: format!("call_1_{index}"), ..session_store::ToolCall::default() };
        let blocks = vec![Block::ToolCall(call(0)), Block::ToolCall(call(1))];
        let (origin, stop) = (Origin::default(), StopReason::ToolUse);
        let calls = AssistantMessage { message: 1, origin, blocks, stop, partial: false, usage: None, opaque: None };
        let result = |index: usize| session_store::ToolFinished {
            call: format!("call_1_{index}"),
            name: "look".to_owned(),
            outcome: session_store::ToolOutcome::Ok,
            output: "word ".repeat(100),
            full: None,
            images: Vec::new(),
            duration_ms: 0,
        };
        let between = || note("by the way");
        let state = state([note("one"), calls.into(), result(0).into(), between(), result(1).into(), note("two"), answer(None)]);
        let mut counter = TokenCounter::new();
        let now = counter.estimate(&state, &profile(), 1.0);
        // Enough has left after the first result.
        let trim = plan_trim(&state, &mut counter, 1.0, now, now - 80, &[]).expect("a step can leave");
        assert_eq!(trim.removed, [SeqRange(0, 4)]);
    }

    #[test]
    fn a_message_is_counted_once_also_where_nothing_was_reported() {
        let mut state = state([note("one"), answer(None)]);
        state.profile = Some(Arc::new(profile()));
        let mut counter = TokenCounter::new();
        let uncounted = counter.uncounted(&state).expect("nothing was counted yet");
        assert!(uncounted.profile.is_some() && uncounted.messages.len() == 2 && tokens_at_most(&state).is_none());
        counter.learn(uncounted.count());
        assert!(counter.uncounted(&state).is_none());
        let before = counter.estimate(&state, &profile(), 1.0);
        state.apply(&Entry::new(2, Timestamp::from_ms(0), note("hello world")));
        assert_eq!(seqs(counter.uncounted(&state)), [2]);
        assert_eq!(counter.estimate(&state, &profile(), 1.0), before + 2 + MESSAGE_OVERHEAD);
    }
}
