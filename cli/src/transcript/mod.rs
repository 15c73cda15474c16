//! A session as a person reads it: entries in, [`Item`]s out.
//!
//! [`Transcript::push`] takes the entries of a log one by one and gives back what they make ready to be shown; so a
//! session of any length is shown while it is read, and `show`, the exports and `replay` show the same. It folds with
//! [`State`], the very fold that a resume uses.
//!
//! Messages come in the order of `seq`. An answer is one item, when it is whole or when something ended it; a person's words
//! that came in meanwhile wait for it. A tool call is one item, with its result; calls that never got one are told as
//! such when the session goes on without them. Missing events are told where they are missing.

#[cfg(test)]
pub(crate) mod fixture;
mod json;
mod live;
mod text;

pub(crate) use json::JsonMessage;
pub(crate) use live::LivePrinter;
pub(crate) use text::{
    PARTIAL, Painter, answer_words, call_words, capital, clock, count_words, duration_words, end_words, is_image, is_trouble,
    outcome_words, profile_words, todo_mark, user_words,
};

use session_store::{
    AssistantMessage, Block, Entry, Event, ImageRef, InFlight, MessageQueued, Profile, Seq, State, StopReason, Timestamp, Todo,
    ToolCall, ToolFinished, Unresolved, Usage, UserKind,
};
use std::sync::Arc;

/// Something to show, in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// The event that it is; for an answer without an end, its `model.request`.
    pub(crate) seq: Seq,
    /// When it happened.
    pub(crate) at: Timestamp,
    /// Whether the checksums of its event held.
    pub(crate) sound: bool,
    /// What it is.
    pub(crate) kind: ItemKind,
}

/// What there is to show.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ItemKind {
    /// The system prompt, the model or the tools, at the start or after a change.
    Profile(Arc<Profile>),
    /// A person's words.
    User { text: String, kind: UserKind, images: Vec<ImageRef> },
    /// The runtime's words to the model.
    Note { text: String },
    /// A model's answer, its tool calls included.
    Answer(Answer),
    /// A tool call and what became of it.
    Tool { call: ToolCall, end: ToolEnd },
    /// The todo list after a change.
    Todos(Arc<Vec<Todo>>),
    /// Anything else that a reader should know, in words.
    Remark { text: String, trouble: bool },
}

/// A model's answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The `seq` of its request, which its pieces name.
    pub(crate) message: Seq,
    /// Who gave it, as `provider/name`.
    pub(crate) model: String,
    /// Its parts, in order.
    pub(crate) blocks: Vec<Block>,
    /// True where it was cut, or is still coming.
    pub(crate) partial: bool,
    /// True where it is still coming.
    pub(crate) coming: bool,
    /// Why it ended.
    pub(crate) stop: StopReason,
    /// What it used.
    pub(crate) usage: Option<Usage>,
}

impl Answer {
    /// Its words, joined.
    pub(crate) fn text(&self) -> String {
        let words = self.blocks.iter().filter_map(|block| match block {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        });
        words.collect()
    }

    /// Its tool calls, in order.
    pub(crate) fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.blocks.iter().filter_map(|block| if let Block::ToolCall(call) = block { Some(call) } else { None })
    }
}

/// What became of a tool call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ToolEnd {
    /// It has its result.
    Finished(ToolFinished),
    /// It runs now; the end of what it put out until now.
    Running(String),
    /// It started, and nothing tells how it ended; the end of its output, as far as the log has it.
    Unknown(String),
    /// It was denied, for this reason, and no result was written.
    Denied(String),
    /// It never started.
    NotRun,
}

impl ToolEnd {
    /// The output of a call without a result, where there is any: a part of what it put out.
    pub(crate) fn partial_output(&self) -> Option<&str> {
        match self {
            Self::Running(output) | Self::Unknown(output) if !output.trim().is_empty() => Some(output),
            _ => None,
        }
    }
}

/// Turns entries into items; see the module.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    state: State,
    profile: Option<Arc<Profile>>,
    /// Calls without a result yet, with the `seq` and time of their start; of those that did not start, of their message.
    calls: Vec<(Seq, Timestamp, ToolCall)>,
    /// When the request of the answer in flight was made.
    asked_at: Timestamp,
    /// What waits for the answer in flight.
    waiting: Vec<Item>,
}

impl Transcript {
    /// The fold so far.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Takes the next entry; gives what is ready to be shown.
    pub(crate) fn push(&mut self, entry: &Entry) -> Vec<Item> {
        let expected = self.state.next_seq;
        let answer = self.answer_that_may_end(&entry.event);
        let calls = if ends_step(&entry.event) { self.take_calls(false) } else { Vec::new() };
        self.state.apply(entry);

        let mut items: Vec<Item> = calls;
        if let Some(answer) = answer.filter(|answer| self.was_cut(answer, &entry.event)) {
            items.extend(cut_answer(answer, self.asked_at, false));
        }
        if entry.seq > expected {
            items.push(gap(expected, entry));
        }
        items.extend(self.items_of(entry));
        self.release(items)
    }

    /// Ends the transcript; gives what was not finished. `live`: a process still writes the session.
    pub(crate) fn finish(&mut self, live: bool) -> Vec<Item> {
        let mut items = self.take_calls(live);
        if let Some(answer) = self.state.in_flight.take() {
            items.extend(cut_answer(answer, self.asked_at, live));
        }
        self.release(items)
    }

    /// The place of the request of the answer in flight.
    fn request_item(&self) -> Item {
        let seq = self.state.in_flight.as_ref().map_or(self.state.next_seq, |answer| answer.message);
        let kind = ItemKind::Remark { text: String::new(), trouble: false };
        Item { seq, at: self.asked_at, sound: true, kind }
    }

    /// The answer in flight, where `event` may end it. Pieces do not, so the copy is made once an answer, not once a piece.
    fn answer_that_may_end(&self, event: &Event) -> Option<InFlight> {
        match event {
            Event::AssistantText(_) | Event::AssistantReasoning(_) | Event::AssistantMessage(_) => None,
            _ => self.state.in_flight.clone(),
        }
    }

    fn was_cut(&self, answer: &InFlight, event: &Event) -> bool {
        !matches!(event, Event::AssistantMessage(_))
            && self.state.in_flight.as_ref().is_none_or(|now| now.message != answer.message)
    }

    /// Calls that have no result when the session goes on without them.
    fn take_calls(&mut self, live: bool) -> Vec<Item> {
        let items = self.open_calls(live).collect();
        self.calls.clear();
        items
    }

    fn open_calls(&self, live: bool) -> impl Iterator<Item = Item> {
        self.calls.iter().map(move |(seq, at, call)| {
            let (call, end) = (call.clone(), without_result(self.state.unresolved.get(&call.id), live));
            Item { seq: *seq, at: *at, sound: true, kind: ItemKind::Tool { call, end } }
        })
    }

    /// The calls that run now, or ran when the log broke off.
    fn running(&self, live: bool) -> impl Iterator<Item = Item> {
        self.open_calls(live)
            .filter(|item| matches!(item.kind, ItemKind::Tool { end: ToolEnd::Running(_) | ToolEnd::Unknown(_), .. }))
    }

    /// Holds items back while an answer is coming: an answer that is cut has the `seq` of its request.
    fn release(&mut self, items: Vec<Item>) -> Vec<Item> {
        self.waiting.extend(items);
        if self.state.in_flight.is_some() {
            return Vec::new();
        }
        let mut ready = std::mem::take(&mut self.waiting);
        ready.sort_by_key(|item| item.seq);
        ready
    }

    fn items_of(&mut self, entry: &Entry) -> Option<Item> {
        let kind = match &entry.event {
            Event::Profile(profile) => {
                let profile = Arc::new(profile.clone());
                self.profile = Some(Arc::clone(&profile));
                ItemKind::Profile(profile)
            }
            Event::UserMessage(user) => ItemKind::User { text: user.text.clone(), kind: user.kind, images: user.images.clone() },
            Event::Note(note) => ItemKind::Note { text: note.text.clone() },
            Event::ModelRequest(_) => {
                self.asked_at = entry.at;
                return None;
            }
            Event::AssistantMessage(message) => {
                self.calls.extend(message.tool_calls().map(|call| (entry.seq, entry.at, call.clone())));
                ItemKind::Answer(whole_answer(message))
            }
            Event::ToolStarted(started) => {
                if let Some(call) = self.calls.iter_mut().find(|(_, _, call)| call.id == started.call) {
                    (call.0, call.1) = (entry.seq, entry.at);
                }
                return None;
            }
            Event::ToolFinished(finished) => {
                ItemKind::Tool { call: self.take_call(finished), end: ToolEnd::Finished(finished.clone()) }
            }
            Event::TodosChanged(changed) => ItemKind::Todos(Arc::clone(&changed.todos)),
            event => {
                let (text, trouble) = remark(event)?;
                ItemKind::Remark { text, trouble }
            }
        };
        Some(Item { seq: entry.seq, at: entry.at, sound: entry.sound, kind })
    }

    /// The call that `finished` answers; one without arguments where the log does not have it.
    fn take_call(&mut self, finished: &ToolFinished) -> ToolCall {
        match self.calls.iter().position(|(_, _, call)| call.id == finished.call) {
            Some(place) => self.calls.remove(place).2,
            None => ToolCall { id: finished.call.clone(), name: finished.name.clone(), ..ToolCall::default() },
        }
    }
}

/// Whether calls that have no result by `event` will not get one.
fn ends_step(event: &Event) -> bool {
    match event {
        Event::ModelRequest(_) | Event::AssistantMessage(_) | Event::TurnEnded(_) | Event::Opened(_) | Event::Closed(_) => true,
        Event::UserMessage(user) => user.kind != UserKind::Steer,
        _ => false,
    }
}

fn without_result(known: Option<&Unresolved>, live: bool) -> ToolEnd {
    let Some(known) = known else { return ToolEnd::NotRun };
    match (&known.denied, known.started) {
        (Some(reason), _) => ToolEnd::Denied(reason.clone()),
        (None, Some(_)) if live => ToolEnd::Running(known.output.clone()),
        (None, Some(_)) => ToolEnd::Unknown(known.output.clone()),
        (None, None) if known.gap => ToolEnd::Unknown(known.output.clone()),
        (None, None) => ToolEnd::NotRun,
    }
}

fn whole_answer(message: &AssistantMessage) -> Answer {
    Answer {
        message: message.message,
        model: model_name(&message.origin),
        blocks: message.blocks.clone(),
        partial: message.partial,
        coming: false,
        stop: message.stop.clone(),
        usage: message.usage,
    }
}

fn cut_answer(answer: InFlight, at: Timestamp, coming: bool) -> Option<Item> {
    let mut blocks = Vec::new();
    if !answer.reasoning.trim().is_empty() {
        blocks.push(Block::Reasoning { text: answer.reasoning, opaque: None });
    }
    if !answer.text.trim().is_empty() {
        blocks.push(Block::Text { text: answer.text });
    }
    let answer = Answer {
        message: answer.message,
        model: model_name(&answer.origin),
        blocks,
        partial: true,
        coming,
        stop: StopReason::Cut,
        usage: None,
    };
    let shown = coming || !answer.blocks.is_empty();
    shown.then(|| Item { seq: answer.message, at, sound: true, kind: ItemKind::Answer(answer) })
}

/// The images as the start of a sentence.
pub(crate) fn images_words(images: &[ImageRef]) -> String {
    match images {
        [one] => format!("an image ({}) is", one.label()),
        many => format!("{} images are", many.len()),
    }
}

/// Who is asked, as `--model` takes it.
pub(crate) fn model_name(origin: &session_store::Origin) -> String {
    match (origin.provider.as_str(), origin.model.as_str()) {
        ("", model) => model.to_owned(),
        (provider, "") => provider.to_owned(),
        (provider, model) if provider == model => model.to_owned(),
        (provider, model) => format!("{provider}/{model}"),
    }
}

fn gap(expected: Seq, entry: &Entry) -> Item {
    let text = match entry.seq - expected {
        1 => format!("event {expected} is missing"),
        _ => format!("events {expected} to {} are missing", entry.seq - 1),
    };
    Item { seq: expected, at: entry.at, sound: false, kind: ItemKind::Remark { text, trouble: true } }
}

/// What `event` says to a reader in words, where it says something; and whether it is trouble.
fn remark(event: &Event) -> Option<(String, bool)> {
    Some(match event {
        Event::SessionForked(fork) => (format!("forked from {} at event {}", fork.parent, fork.at_seq), false),
        Event::SessionRenamed(renamed) if renamed.name.is_empty() => ("the session's name was taken away".to_owned(), false),
        Event::SessionRenamed(renamed) => (format!("the session was named \"{}\"", renamed.name), false),
        Event::ModelError(error) => {
            let next = match error.retry_in_ms {
                Some(ms) => format!("; tried again after {}", duration_words(ms)),
                None => error.retry_at.map(|at| format!("; it wants to be asked again at {}", clock(at))).unwrap_or_default(),
            };
            (format!("the model call failed ({}): {}{next}", error.kind, error.detail), true)
        }
        Event::ModelWaiting(waiting) => {
            (format!("waiting until {} to ask {} ({})", clock(waiting.until), waiting.model, waiting.reason), false)
        }
        Event::ModelFallback(fallback) => {
            let (from, to) = (model_name(&fallback.from), model_name(&fallback.to));
            (format!("{from} could not answer ({}): {to} is asked instead", fallback.reason), true)
        }
        Event::ImagesRefused(refused) => {
            (format!("{} left out from here on, because {}", images_words(&refused.images), refused.reason), true)
        }
        Event::ContextTrimmed(trim) => {
            let reason = if trim.reason.is_empty() { String::new() } else { format!(" ({})", trim.reason) };
            let summed_up = if trim.summary.is_some() { ", and the summary is sent in their place" } else { "" };
            (format!("older messages left the context window{reason}{summed_up}; they stay in the log"), false)
        }
        Event::MessageQueued(MessageQueued { text, missed: Some(_), .. }) => {
            (format!("came too late for the turn, and waits: \"{text}\""), false)
        }
        Event::ContextSummarized(summarized) => match &summarized.error {
            Some(why) => (format!("there is no summary of older messages: {why}"), true),
            None => {
                let words: Vec<&str> = summarized.text.split_whitespace().collect();
                (format!("a summary of older messages, for the next trim: {}", words.join(" ")), false)
            }
        },
        Event::MessageQueued(queued) => (format!("waits for the turn to end: \"{}\"", queued.text), false),
        Event::MessageWithdrawn(_) => ("a message that waited was taken back".to_owned(), false),
        Event::ContextRewound(rewound) => (format!("the conversation went back to event {}", rewound.to), false),
        Event::ContextRestored(restored) => (format!("what event {} took out of the context is back", restored.undo), false),
        Event::ContextPinned(pin) if pin.pinned => {
            (format!("the message at event {} is pinned: no trim takes it", pin.message), false)
        }
        Event::ContextPinned(pin) => (format!("the message at event {} is not pinned any more", pin.message), false),
        Event::Interrupted(interrupted) => (format!("stopped by {}", interrupted.by), false),
        Event::TurnEnded(ended) => match (ended.reason.as_str(), &ended.error) {
            ("done" | "interrupted", None) => return None,
            (reason, None) => (format!("the turn ended: {reason}"), true),
            (reason, Some(error)) => (format!("the turn ended: {reason}: {error}"), true),
        },
        Event::Error(error) => (format!("{}: {}", error.scope, error.message), true),
        Event::Recovered(recovered) => {
            (format!("a crash left {} bytes of an unfinished record; they were put aside", recovered.bytes), true)
        }
        Event::SessionImported(imported) => {
            let program = if imported.program.is_empty() { &imported.format } else { &imported.program };
            (format!("imported from {program}"), false)
        }
        // What an imported message was made of is told by the message.
        Event::Unknown(unknown) if unknown.type_name.starts_with("imported.") => return None,
        Event::Unknown(unknown) => {
            (format!("an event of a type that this version does not know: `{}`", unknown.type_name), false)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::fixture::{
        answer, call, ended, entries, finished, opened, output, piece, request, says, session, started, steer, user,
    };
    use super::*;
    use serde_json::{Value, json};
    use session_store::ToolOutcome;

    fn items(entries: &[Entry], live: bool) -> Vec<Item> {
        let mut transcript = Transcript::default();
        let mut items: Vec<Item> = entries.iter().flat_map(|entry| transcript.push(entry)).collect();
        items.extend(transcript.finish(live));
        items
    }

    fn shown(items: &[Item]) -> String {
        let mut painter = Painter::new(false);
        items.iter().map(|item| painter.item(item)).collect()
    }

    #[test]
    fn a_session_reads_as_a_transcript() {
        insta::assert_snapshot!(shown(&items(&session(), false)));
    }

    #[test]
    fn colours_change_nothing_but_colour() {
        let items = items(&session(), false);
        let mut painter = Painter::new(true);
        let coloured: String = items.iter().map(|item| painter.item(item)).collect();
        let codes = regex::Regex::new("\x1b\\[[0-9;]*m").expect("a pattern");
        assert_ne!(coloured, shown(&items));
        assert_eq!(codes.replace_all(&coloured, ""), shown(&items));
    }

    #[test]
    fn messages_come_in_the_order_of_seq_for_every_prefix_of_a_log() {
        let entries = session();
        for end in 0..=entries.len() {
            let items = items(&entries[..end], false);
            let messages = items.iter().filter(|item| JsonMessage::from_item(item).is_some());
            assert!(messages.is_sorted_by_key(|item| item.seq), "{end}: {items:#?}");
        }
    }

    #[test]
    fn every_call_is_shown_exactly_once_for_every_prefix_of_a_log() {
        let entries = session();
        for end in 0..=entries.len() {
            let items = items(&entries[..end], false);
            let called: usize = items
                .iter()
                .map(|item| if let ItemKind::Answer(answer) = &item.kind { answer.tool_calls().count() } else { 0 })
                .sum();
            assert_eq!(items.iter().filter(|item| matches!(item.kind, ItemKind::Tool { .. })).count(), called, "{end}");
        }
    }

    #[test]
    fn an_answer_without_an_end_is_cut_or_still_coming() {
        let entries = entries(vec![user("Hi"), request(), piece(1, 0, "Hel"), piece(1, 3, "lo"), piece(1, 3, "lo th")]);
        let partial = |live| match &items(&entries, live).last().expect("an item").kind {
            ItemKind::Answer(answer) => (answer.text(), answer.partial, answer.coming),
            other => panic!("{other:?}"),
        };
        assert_eq!(partial(false), ("Hello th".to_owned(), true, false));
        assert_eq!(partial(true), ("Hello th".to_owned(), true, true));
    }

    #[test]
    fn a_call_without_a_result_says_what_is_known_of_it() {
        let before = vec![
            user("Hi"),
            request(),
            answer(1, vec![call("a", "shell", "{}"), call("b", "shell", "{}")]),
            started("a", "shell"),
            output("a", 0, "built 1\nbui"),
            output("a", 11, "lt 2\n"),
        ];
        let ends = |events: Vec<Event>, live| -> Vec<ToolEnd> {
            items(&entries(events), live)
                .into_iter()
                .filter_map(|item| if let ItemKind::Tool { end, .. } = item.kind { Some(end) } else { None })
                .collect()
        };
        let put_out = || "built 1\nbuilt 2\n".to_owned();
        assert_eq!(ends(before.clone(), true), [ToolEnd::NotRun, ToolEnd::Running(put_out())]);
        assert_eq!(ends(before.clone(), false), [ToolEnd::NotRun, ToolEnd::Unknown(put_out())]);
        let after = [before, vec![opened(2), user("Again")]].concat();
        assert_eq!(ends(after.clone(), true), [ToolEnd::NotRun, ToolEnd::Unknown(put_out())]);

        let items = items(&entries(after), false);
        let text = shown(&items);
        let expected = "[3] shell(): outcome unknown, it may have run; the end of its output, as far as it is known:\n    | built 1\n    | built 2\n";
        assert!(text.contains(expected), "{text}");
        let messages: Vec<Value> = items.iter().filter_map(JsonMessage::from_item).map(|message| json!(message)).collect();
        let told = messages.iter().find(|message| message["role"] == "tool").expect("it is there for programs, too");
        assert_eq!((&told["seq"], &told["text"], &told["partial"]), (&json!(3), &json!(put_out()), &json!(true)), "{told}");
        assert_eq!(messages.iter().filter(|message| message["role"] == "tool").count(), 1, "of what never ran nothing is told");
    }

    #[test]
    fn missing_events_are_told_where_they_are_missing() {
        let mut entries = entries(vec![user("one"), request(), answer(1, vec![says("two")]), ended("done"), user("three")]);
        entries.drain(1..3);
        let shown = shown(&items(&entries, false));
        assert!(shown.contains("[1] events 1 to 2 are missing"), "{shown}");
    }

    #[test]
    fn unsound_entries_are_marked() {
        let mut entries = entries(vec![user("one"), finished("x", "shell", ToolOutcome::Ok, "")]);
        entries.iter_mut().for_each(|entry| entry.sound = false);
        assert_eq!(shown(&items(&entries, false)).matches("damaged").count(), 2);
    }

    #[test]
    fn json_messages_have_the_fields_that_programs_rely_on() {
        let messages: Vec<JsonMessage> = items(&session(), false).iter().filter_map(JsonMessage::from_item).collect();
        insta::assert_snapshot!(serde_json::to_string_pretty(&messages).expect("JSON"));
    }

    #[test]
    fn live_text_adds_up_to_the_transcript() {
        let whole = [user("Hi"), request(), piece(1, 0, "Hel"), piece(1, 3, "lo")];
        let rest = [answer(1, vec![says("Hello there")]), ended("done"), user("Bye")];
        let mut printer = LivePrinter::new(Painter::new(false), Transcript::default());
        let mut printed: Vec<String> =
            entries([&whole[..], &rest[..]].concat()).iter().map(|entry| printer.push(entry)).collect();
        printed.push(printer.finish(false));
        assert_eq!(printed[2].lines().last(), Some("Hel"));
        assert_eq!(printed[3], "lo");
        assert_eq!(
            printed.concat(),
            "[0] you 2026-01-31 23:59:50\nHi\n\n[1] assistant (anthropic/claude-sonnet) 2026-01-31 23:59:51\nHello there\n\n[6] you 2026-01-31 23:59:59\nBye\n\n"
        );
    }

    #[test]
    fn live_an_answer_is_never_torn_by_what_comes_in_meanwhile() {
        let events = vec![
            user("Hi"),
            request(),
            piece(1, 0, "one "),
            steer("Hurry"),
            piece(1, 4, "two"),
            answer(1, vec![says("one two")]),
        ];
        let mut printer = LivePrinter::new(Painter::new(false), Transcript::default());
        let printed: String = entries(events).iter().map(|entry| printer.push(entry)).collect();
        assert!(printed.contains("one two\n\n[3] you, while it worked"), "{printed}");
    }
}
