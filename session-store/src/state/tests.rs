//! The fold, by what it promises to a resume: who is in the context, in which order, and what is known of each tool call.

use super::*;
use crate::event::{
    AssistantReasoning, AssistantText, Closed, Compacted, ContextPinned, Interrupted, Lost, MessageQueued, ModelError,
    ModelRequest, SessionForked, SessionRenamed, SessionStarted, TodoStatus, TodosChanged, ToolApproved, ToolCall, ToolDenied,
    ToolFinished, ToolStarted, UserMessage,
};
use crate::samples::{any_event, every_event, note, opened};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A log in the making.
#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
}

impl Log {
    fn add(&mut self, event: impl Into<Event>) -> Seq {
        let seq = self.entries.len() as Seq;
        self.entries.push(Entry::new(seq, Timestamp::from_ms(seq as i64 * 1000), event));
        seq
    }

    fn user(&mut self, text: &str, kind: UserKind) -> Seq {
        self.add(UserMessage { text: text.to_owned(), kind, ..UserMessage::default() })
    }

    fn request(&mut self) -> Seq {
        let origin = Origin { provider: "offline".to_owned(), ..Origin::default() };
        self.add(ModelRequest { origin, ..ModelRequest::default() })
    }

    fn piece(&mut self, message: Seq, offset: u64, text: &str) -> Seq {
        self.add(AssistantText { message, offset, text: text.to_owned() })
    }

    fn answer(&mut self, message: Seq, text: &str, calls: &[&str]) -> Seq {
        let call =
            |id: &&str| Block::ToolCall(ToolCall { id: (*id).to_owned(), name: "shell".to_owned(), ..ToolCall::default() });
        let blocks = std::iter::once(Block::Text { text: text.to_owned() }).chain(calls.iter().map(call)).collect();
        let usage = Some(Usage { input_tokens: Some(100), output_tokens: Some(10), ..Usage::default() });
        let (stop, origin) = (StopReason::EndTurn, Origin::default());
        self.add(AssistantMessage { message, origin, blocks, stop, partial: false, usage, opaque: None })
    }

    fn started(&mut self, call: &str) -> Seq {
        self.add(ToolStarted { call: call.to_owned(), name: "shell".to_owned(), side_effects: true })
    }

    fn finished(&mut self, call: &str) -> Seq {
        self.add(ToolFinished {
            call: call.to_owned(),
            name: "shell".to_owned(),
            outcome: ToolOutcome::Ok,
            output: format!("output of {call}"),
            full: None,
            images: Vec::new(),
            duration_ms: 1,
        })
    }

    fn trim(&mut self, from: Seq, to: Seq) -> Seq {
        let (note, reason) = ("left out".to_owned(), "user".to_owned());
        self.add(ContextTrimmed {
            removed: vec![SeqRange(from, to)],
            note,
            reason,
            tokens_before: 0,
            tokens_after: 0,
            summary: None,
        })
    }

    fn rewind(&mut self, to: Seq) -> Seq {
        self.add(ContextRewound { to })
    }

    fn undo(&mut self, undo: Seq) -> Seq {
        self.add(ContextRestored { undo })
    }

    fn state(&self) -> State {
        State::fold(&self.entries)
    }

    fn context(&self) -> Vec<Seq> {
        self.state().context.iter().map(|slot| slot.seq).collect()
    }
}

fn texts(state: &State) -> Vec<String> {
    let text = |slot: &Slot| match slot.message.as_deref() {
        Some(Message::User { text, .. } | Message::Note { text }) => text.clone(),
        Some(Message::Assistant(message)) => message.text(),
        Some(Message::ToolResult { output, .. }) => output.clone(),
        None => "?".to_owned(),
    };
    state.context.iter().map(text).collect()
}

#[test]
fn events_that_are_left_out_are_no_gap() {
    let mut log = Log::default();
    log.user("go", UserKind::Prompt);
    let request = log.request();
    log.answer(request, "running", &["call_1_0"]);
    let mut state = State::fold(&log.entries);
    let left_out = Compacted { from: 3, to: 7, count: 5 };
    let entry = |sound| Entry { sound, ..Entry::new(3, Timestamp::from_ms(0), left_out.clone()) };
    let mut unchecked = state.clone();
    state.apply(&entry(true));
    assert_eq!((state.next_seq, state.unresolved["call_1_0"].gap), (8, false));
    unchecked.apply(&entry(false));
    assert_eq!((unchecked.next_seq, unchecked.unresolved["call_1_0"].gap), (4, true));
}

#[test]
fn events_that_a_repair_found_missing_are_a_gap() {
    let mut log = Log::default();
    log.user("go", UserKind::Prompt);
    let request = log.request();
    log.answer(request, "running", &["call_1_0"]);
    let mut state = State::fold(&log.entries);
    state.apply(&Entry::new(3, Timestamp::from_ms(0), Lost { from: 3, to: 7 }));
    assert_eq!((state.next_seq, state.unresolved["call_1_0"].gap), (8, true));
}

#[test]
fn a_turn_with_a_tool_reads_in_its_order() {
    let mut log = Log::default();
    log.add(opened(1));
    log.user("  \n list the files\nplease", UserKind::Prompt);
    let first = log.request();
    log.piece(first, 0, "I will ");
    log.piece(first, 7, "look.");
    let answer = log.answer(first, "I will look.", &["call_2_0"]);
    log.add(ToolApproved { call: "call_2_0".to_owned(), by: "user".to_owned() });
    log.started("call_2_0");
    let known = Unresolved { approved: true, started: Some(true), ..Unresolved::default() };
    assert_eq!(log.state().unresolved, BTreeMap::from([("call_2_0".to_owned(), known)]));
    let result = log.finished("call_2_0");
    let second = log.request();
    let last = log.answer(second, "Two files.", &[]);

    let state = log.state();
    assert_eq!(texts(&state), ["  \n list the files\nplease", "I will look.", "output of call_2_0", "Two files."]);
    assert_eq!(log.context(), [1, answer, result, last]);
    assert_eq!(state.context_ranges(), [SeqRange(1, last)], "what lies between messages is no reason for another range");
    assert_eq!((state.title.as_deref(), state.messages, state.next_seq), (Some("list the files"), 4, last + 1));
    assert_eq!(state.turn, Some(OpenTurn { user: 1, model_calls: 2 }));
    assert_eq!((state.usage.input_tokens, state.last_usage.map(|(seq, _)| seq)), (Some(200), Some(last)));
    assert_eq!((state.unresolved, state.in_flight), (BTreeMap::new(), None));
}

#[test]
fn ranges_of_the_context_hold_its_messages_and_no_others() {
    let mut log = Log::default();
    let all: Vec<Seq> = (0..6).map(|number| log.add(note(&format!("message {number}")))).collect();
    let [first, .., last] = all[..] else { unreachable!() };
    assert_eq!(log.state().context_ranges(), [SeqRange(first, last)]);
    let removed = vec![SeqRange(all[1], all[2])];
    let trim = log.add(ContextTrimmed {
        removed,
        note: "left out".to_owned(),
        reason: "budget".to_owned(),
        tokens_before: 0,
        tokens_after: 0,
        summary: None,
    });
    assert_eq!(log.state().context_ranges(), [SeqRange(first, first), SeqRange(trim, trim), SeqRange(all[3], last)]);
    let after = log.add(note("after"));
    assert_eq!(
        log.state().context_ranges(),
        [SeqRange(first, first), SeqRange(trim, trim), SeqRange(all[3], after)],
        "the trim's own event lies in the range and is no message of it"
    );
    log.add(ContextRestored { undo: trim });
    assert_eq!(log.state().context_ranges(), [SeqRange(first, after)]);
}

#[test]
fn an_answer_cut_by_a_crash_keeps_its_text_and_what_waited_stands_behind_it() {
    let mut log = Log::default();
    log.user("tell me", UserKind::Prompt);
    let request = log.request();
    log.piece(request, 0, "Once upon");
    log.user("shorter", UserKind::Steer);
    log.piece(request, 4, " upon a time");
    log.add(AssistantReasoning { message: request, offset: 0, text: "hm".to_owned() });
    let in_flight = log.state().in_flight.expect("an answer is coming in");
    assert_eq!((in_flight.text.as_str(), in_flight.reasoning.as_str()), ("Once upon a time", "hm"));
    assert_eq!(texts(&log.state()), ["tell me"]);

    log.add(opened(2));
    let state = log.state();
    assert_eq!(texts(&state), ["tell me", "Once upon a time", "shorter"]);
    assert!(
        matches!(state.context[1].message.as_deref(), Some(Message::Assistant(cut)) if cut.partial && cut.stop == StopReason::Cut)
    );
    assert_eq!((state.turn, state.in_flight), (None, None));
}

#[test]
fn an_answer_of_which_nothing_came_leaves_nothing() {
    let mut log = Log::default();
    log.user("hello?", UserKind::Prompt);
    let request = log.request();
    log.piece(request, 0, " \n");
    log.add(ModelError {
        message: request,
        kind: "reset".to_owned(),
        detail: String::new(),
        status: None,
        retry_in_ms: None,
        retry_at: None,
    });
    log.add(Interrupted { by: "user".to_owned() });
    log.add(TurnEnded { reason: "interrupted".to_owned(), error: None, model_calls: 1, usage: Usage::default(), duration_ms: 1 });
    let state = log.state();
    assert_eq!(texts(&state), ["hello?"]);
    assert_eq!((state.turn, state.last_turn.map(|turn| turn.reason.clone())), (None, Some("interrupted".to_owned())));
}

#[test]
fn a_message_whose_request_was_lost_does_not_swallow_the_answer_before_it() {
    let mut log = Log::default();
    log.user("one", UserKind::Prompt);
    let request = log.request();
    log.piece(request, 0, "half an answer");
    log.answer(99, "another answer", &[]);
    assert_eq!(texts(&log.state()), ["one", "half an answer", "another answer"]);
}

#[test]
fn a_message_that_steered_too_late_can_wait_and_is_not_in_the_context_then() {
    let mut log = Log::default();
    log.user("begin", UserKind::Prompt);
    let request = log.request();
    log.user("in time", UserKind::Steer);
    log.answer(request, "", &["a"]);
    log.finished("a");
    let request = log.request();
    let first = log.user("too late", UserKind::Steer);
    log.user("later still", UserKind::Steer);
    assert_eq!(log.state().missed(), None, "the turn may still take them");
    log.piece(request, 0, "half an answer");
    log.add(TurnEnded { reason: "interrupted".to_owned(), error: None, model_calls: 2, usage: Usage::default(), duration_ms: 1 });
    let missed = |log: &Log| log.state().missed().map(|missed| (missed.missed, missed.text));
    assert_eq!(missed(&log), Some((Some(first), "too late".to_owned())));
    let rewrites = log.state().rewrites();
    log.add(MessageQueued { text: "too late".to_owned(), missed: Some(first), images: Vec::new() });
    let second = first + 1;
    assert_eq!(missed(&log), Some((Some(second), "later still".to_owned())));
    assert_ne!(log.state().rewrites(), rewrites);
    let event = log.state().missed().expect("it is too late as well");
    log.add(event);
    let next = log.user("another", UserKind::Prompt);
    let state = log.state();
    assert_eq!(state.missed(), None);
    assert_eq!(state.queued.iter().map(|queued| queued.text.as_str()).collect::<Vec<_>>(), ["too late", "later still"]);
    assert!(!log.context().contains(&first) && !log.context().contains(&second));
    // A range of messages does not stand for what was taken out from between them.
    assert!(!state.context_ranges().iter().any(|range| range.0 < first && first < range.1), "{:?}", state.context_ranges());
    assert_eq!(log.context().last(), Some(&next));
    let checkpoint = state.checkpoint().expect("no answer is in flight");
    let again = State::from_checkpoint(&checkpoint).expect("it is read");
    assert_eq!((again.queued, again.last_request, again.forgotten), (state.queued, state.last_request, state.forgotten));
}

#[test]
fn of_a_call_without_a_result_the_end_of_its_output_is_known() {
    fn piece(log: &mut Log, offset: u64, text: &str) {
        log.add(ToolOutputPiece { call: "a".to_owned(), offset, text: text.to_owned() });
    }
    let mut log = Log::default();
    let request = log.request();
    log.answer(request, "", &["a"]);
    log.started("a");
    piece(&mut log, 0, "one ");
    piece(&mut log, 0, "one ");
    piece(&mut log, 2, "e two ");
    piece(&mut log, 100, "three");
    let output = |log: &Log| log.state().unresolved["a"].output.clone();
    assert_eq!(output(&log), "one two \n[... 92 bytes left out ...]\nthree");
    let checkpoint = log.state().checkpoint().expect("no answer is in flight");
    assert_eq!(State::from_checkpoint(&checkpoint).expect("it is read").unresolved, log.state().unresolved);
    piece(&mut log, 105, &"\u{20ac}".repeat(TOOL_OUTPUT_KEPT));
    assert_eq!(output(&log), "\u{20ac}".repeat(TOOL_OUTPUT_KEPT / 3));
    // What a model was told of it stays.
    log.request();
    let told = log.state().unresolved;
    piece(&mut log, 1_000_000, "late");
    assert_eq!(log.state().unresolved, told);
}

#[test]
fn missing_lines_leave_the_outcome_of_open_calls_unknown() {
    let mut log = Log::default();
    let request = log.request();
    log.answer(request, "", &["a", "b"]);
    log.finished("a");
    log.add(note("lost"));
    log.add(note("after"));
    log.entries.remove(3);
    let unresolved = log.state().unresolved;
    assert_eq!(unresolved, BTreeMap::from([("b".to_owned(), Unresolved { gap: true, ..Unresolved::default() })]));
}

#[test]
fn a_denied_call_keeps_its_words_and_an_unchecked_approval_counts_for_nothing() {
    let mut log = Log::default();
    let request = log.request();
    log.answer(request, "", &["a", "b"]);
    log.add(ToolDenied { call: "a".to_owned(), by: "user".to_owned(), reason: "not here".to_owned() });
    log.add(ToolApproved { call: "b".to_owned(), by: "user".to_owned() });
    log.entries[3].sound = false;
    let unresolved = log.state().unresolved;
    assert_eq!(unresolved["a"].denied.as_deref(), Some("not here"));
    assert!(!unresolved["b"].approved);
}

#[test]
fn what_a_session_is_called_and_whose_it_is() {
    let (id, parent) = (SessionId::from_uuid(uuid::Uuid::from_u128(1)), SessionId::from_uuid(uuid::Uuid::from_u128(2)));
    let mut log = Log::default();
    log.add(opened(1));
    log.add(SessionStarted { session: parent, cwd: Some("/tmp".to_owned()), program: String::new() });
    log.add(SessionRenamed { name: "tides".to_owned() });
    log.add(TodosChanged { todos: Arc::new(vec![Todo { content: "sum".to_owned(), status: TodoStatus::Pending }]) });
    let before = log.state();
    assert_eq!((before.session, before.cwd.as_deref(), before.name.as_deref()), (Some(parent), Some("/tmp"), Some("tides")));
    assert_eq!((before.epoch, before.owner.is_some(), before.todos.len(), before.todos_seq), (1, true, 1, Some(3)));

    log.add(Closed { epoch: 1, summary: None });
    log.add(opened(2));
    log.add(SessionForked { session: id, parent, at_seq: 3 });
    log.add(SessionRenamed { name: String::new() });
    log.add(Closed { epoch: 2, summary: None });
    let after = log.state();
    assert_eq!((after.session, after.parent, after.name, after.owner), (Some(id), Some((parent, 3)), None, None));
    assert_eq!((after.epoch, after.created_at), (2, Some(Timestamp::from_ms(6000))));
}

/// Ten messages, 0 to 9.
fn ten() -> Log {
    let mut log = Log::default();
    for number in 0..10 {
        log.add(note(&format!("message {number}")));
    }
    log
}

#[test]
fn a_note_stands_where_the_trimmed_messages_stood_and_undoing_brings_them_back() {
    let mut log = ten();
    let trim = log.trim(2, 5);
    assert_eq!(log.context(), [0, 1, trim, 6, 7, 8, 9]);
    let later = log.add(note("later"));
    log.undo(trim);
    assert_eq!(log.context(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, later]);
    assert_eq!(log.state().missing(), [2, 3, 4, 5]);
    assert_eq!(log.state().undoable().count(), 0);
}

#[test]
fn a_rewind_undone_and_undone_again_swaps_the_two_branches() {
    let mut log = ten();
    let rewind = log.rewind(3);
    let branch = log.add(note("another way"));
    assert_eq!(log.context(), [0, 1, 2, 3, branch]);
    let back = log.undo(rewind);
    assert_eq!(log.context(), (0..10).collect::<Vec<_>>());
    let again = log.undo(back);
    assert_eq!(log.context(), [0, 1, 2, 3, branch]);
    assert_eq!(log.state().undoable().collect::<Vec<_>>(), [again]);
}

#[test]
fn a_rewind_keeps_the_note_of_older_messages_and_its_undoing_too() {
    let mut log = ten();
    let trim = log.trim(2, 5);
    let rewind = log.rewind(7);
    assert_eq!(log.context(), [0, 1, trim, 6, 7]);
    let branch = log.add(note("another way"));
    let second = log.trim(6, 7);
    log.undo(rewind);
    assert_eq!(log.context(), [0, 1, trim, second, 8, 9], "nothing that was trimmed is gone without its note");
    assert!(!log.context().contains(&branch));
}

#[test]
fn undoing_a_trim_after_a_rewind_into_it_brings_back_only_what_is_before() {
    let mut log = ten();
    let trim = log.trim(2, 8);
    let rewind = log.rewind(4);
    assert_eq!(log.context(), [0, 1, trim]);
    let mut other = Log { entries: log.entries.clone() };
    log.undo(trim);
    assert_eq!(log.context(), [0, 1, 2, 3, 4]);
    log.undo(rewind);
    assert_eq!(log.context(), (0..10).collect::<Vec<_>>());
    other.undo(rewind);
    other.undo(trim);
    assert_eq!(other.context(), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_trim_undone_beneath_a_later_trim_stays_beneath_it() {
    let mut log = ten();
    let first = log.trim(1, 3);
    let second = log.trim(4, 5);
    let third = log.add(ContextTrimmed {
        removed: vec![SeqRange(0, 0), SeqRange(first, first), SeqRange(second, second)],
        note: String::new(),
        reason: String::new(),
        tokens_before: 0,
        tokens_after: 0,
        summary: None,
    });
    assert_eq!(log.context(), [third, 6, 7, 8, 9]);
    log.undo(first);
    assert_eq!(log.context(), [third, 6, 7, 8, 9]);
    log.undo(third);
    assert_eq!(log.context(), [0, 1, 2, 3, second, 6, 7, 8, 9]);
}

/// What happens to a context, with places as fractions of what there is.
#[derive(Clone, Debug)]
enum Step {
    Say,
    Trim(prop::sample::Index, prop::sample::Index),
    Rewind(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    prop::collection::vec(
        prop_oneof![
            2 => Just(Step::Say),
            2 => (index(), index()).prop_map(|(from, to)| Step::Trim(from, to)),
            1 => index().prop_map(Step::Rewind),
        ],
        0..14,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn undoing_everything_in_reverse_gives_the_context_back(steps in steps()) {
        let mut log = ten();
        let mut done = Vec::new();
        for step in steps {
            let context = log.context();
            let pick = |index: &prop::sample::Index| context.get(index.index(context.len().max(1))).copied().unwrap_or(0);
            let before = context.clone();
            match step {
                // A message said after a rewind belongs to its branch: undoing the rewind would put it aside.
                Step::Say if done.is_empty() => drop(log.add(note("more"))),
                Step::Say => {}
                Step::Trim(from, to) => {
                    let (from, to) = (pick(&from).min(pick(&to)), pick(&from).max(pick(&to)));
                    done.push((log.trim(from, to), before));
                }
                Step::Rewind(to) => done.push((log.rewind(pick(&to)), before)),
            }
        }
        for (event, before) in done.into_iter().rev() {
            log.undo(event);
            prop_assert_eq!(&log.context(), &before, "undo of {}", event);
        }
    }

    #[test]
    fn nothing_is_ever_twice_in_the_context(steps in steps(), undone in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut log = ten();
        for step in steps {
            let context = log.context();
            let pick = |index: prop::sample::Index| context.get(index.index(context.len().max(1))).copied().unwrap_or(0);
            match step {
                Step::Say => log.add(note("more")),
                Step::Trim(from, to) => log.trim(pick(from).min(pick(to)), pick(from).max(pick(to))),
                Step::Rewind(to) => log.rewind(pick(to)),
            };
        }
        for index in undone {
            let undoable: Vec<Seq> = log.state().undoable().collect();
            if !undoable.is_empty() {
                log.undo(undoable[index.index(undoable.len())]);
            }
        }
        let state = log.state();
        let mut seen: Vec<Seq> = state.context.iter().map(|slot| slot.seq).collect();
        let orders: Vec<u64> = state.context.iter().map(|slot| slot.order).collect();
        prop_assert!(orders.is_sorted());
        seen.sort_unstable();
        prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", log.context());
    }

    #[test]
    fn ranges_of_the_context_hold_its_messages_whatever_was_forgotten(
        steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 100..160),
    ) {
        let mut log = ten();
        let mut state = log.state();
        let mut kept_up = ContextRanges::default();
        // The messages that there ever were, without the notes of trims.
        let mut messages: BTreeSet<Seq> = (0..10).collect();
        for (step, index) in steps {
            let pick = |least: usize| state.context[least..].get(index.index(state.context.len() - least)).map_or(0, |slot| slot.seq);
            match step {
                // A step back over one message, and another one in its place: nothing but the forgetting of it joins its neighbours.
                0 => drop(log.rewind(pick(state.context.len() - 2))),
                1 => drop(log.trim(pick(0), pick(0))),
                _ => drop(messages.insert(log.add(note("more")))),
            }
            state.apply(&log.entries[log.entries.len() - 1]);
            for _ in state.context.len()..4 {
                messages.insert(log.add(note("more")));
                state.apply(&log.entries[log.entries.len() - 1]);
            }
            prop_assert_eq!(kept_up.of(&state), state.context_ranges());
        }
        prop_assert!(state.undoable().count() <= UNDO_MAX);
        let of_range = |SeqRange(from, to)| -> Vec<Seq> {
            if from == to { vec![from] } else { messages.range(from..=to).copied().collect() }
        };
        let in_ranges: Vec<Seq> = state.context_ranges().into_iter().flat_map(of_range).collect();
        prop_assert_eq!(in_ranges, state.context.iter().map(|slot| slot.seq).collect::<Vec<_>>());
    }

    #[test]
    fn any_events_in_any_order_can_be_folded_and_the_bodies_read_again(
        events in prop::collection::vec(any_event(), 0..20),
        gaps in prop::collection::vec(0_u64..3, 20),
    ) {
        let mut seq = 0;
        let entry = |(event, gap): (Event, u64)| {
            seq += 1 + gap;
            Entry { sound: gap != 1, ..Entry::new(seq, Timestamp::from_ms(0), event) }
        };
        let entries: Vec<Entry> = events.into_iter().zip(gaps).map(entry).collect();
        let state = State::fold(&entries);
        let mut emptied = state.clone();
        emptied.context.iter_mut().for_each(|slot| slot.message = None);
        entries.iter().for_each(|entry| emptied.hydrate(entry));
        for (original, read) in state.context.iter().zip(&emptied.context) {
            prop_assert_eq!(&read.message, if original.message.is_some() { &original.message } else { &read.message });
        }
        prop_assert!(emptied.missing().is_empty());
    }
}

/// A log of many trims, each of the two oldest messages.
fn many_trims(trims: usize) -> Log {
    let mut log = ten();
    let mut state = log.state();
    for _ in 0..trims {
        for _ in 0..2 {
            log.add(note("more"));
            state.apply(&log.entries[log.entries.len() - 1]);
        }
        let removed = state.context[..3].iter().map(|slot| SeqRange(slot.seq, slot.seq)).collect();
        let (note, reason) = ("left out".to_owned(), "budget".to_owned());
        log.add(ContextTrimmed { removed, note, reason, tokens_before: 0, tokens_after: 0, summary: None });
        state.apply(&log.entries[log.entries.len() - 1]);
    }
    log
}

#[test]
fn the_size_of_a_state_follows_its_context_and_not_its_history() {
    let size = |trims| many_trims(trims).state().checkpoint().expect("no answer is in flight").state.get().len();
    let (some, many) = (size(UNDO_MAX + 10), size(1_000));
    assert!(many < some + some / 5, "{some} bytes after {} trims, {many} after 1,000", UNDO_MAX + 10);
}

#[test]
fn of_old_trims_the_note_stays_where_it_is_and_undoing_them_changes_nothing() {
    let mut log = many_trims(UNDO_MAX);
    let first = log.state().undoable().next().expect("a trim");
    log.add(note("more"));
    let kept = log.trim(0, 0);
    let before = log.context();
    assert!(log.state().undoable().all(|undo| undo != first));
    log.undo(first);
    assert_eq!(log.context(), before);
    log.undo(kept);
    // The note of everything that was trimmed stands before the first message that stayed.
    let oldest = log.state().context[0].seq;
    let to = log.state().context[1].seq;
    log.rewind(to);
    assert_eq!(log.context(), [oldest, to]);
}

#[test]
fn of_too_many_messages_only_the_newest_trim_is_kept_to_be_undone() {
    let mut log = Log::default();
    for _ in 0..UNDO_MESSAGES_MAX {
        log.add(note("one of many"));
    }
    log.rewind(2);
    let all = UNDO_MESSAGES_MAX as Seq;
    assert_eq!(log.state().undoable().collect::<Vec<_>>(), [all]);
    for _ in 0..10 {
        log.add(note("more"));
    }
    let second = log.rewind(all + 3);
    assert_eq!(log.state().undoable().collect::<Vec<_>>(), [second]);
    log.undo(all);
    assert_eq!(log.context(), [0, 1, 2, all + 1, all + 2, all + 3]);
    assert_eq!(log.state().context_ranges(), [SeqRange(0, 2), SeqRange(all + 1, all + 3)]);
}

#[test]
fn a_pin_holds_until_it_is_taken_back_and_goes_where_its_message_goes() {
    fn pin(log: &mut Log, message: Seq, pinned: bool) {
        log.add(ContextPinned { message, pinned });
    }
    let pins = |log: &Log| log.state().pins.into_iter().collect::<Vec<_>>();
    let mut log = Log::default();
    let (first, second) = (log.user("one", UserKind::Prompt), log.user("two", UserKind::Prompt));
    let before = (log.context(), log.state().rewrites());
    pin(&mut log, first, true);
    pin(&mut log, second, true);
    pin(&mut log, second, true);
    pin(&mut log, 99, true);
    assert_eq!(pins(&log), [first, second], "once each, and nothing that is not in the context");
    assert_eq!((log.context(), log.state().rewrites()), before, "nothing else changes");
    pin(&mut log, second, false);
    assert_eq!(pins(&log), [first]);

    pin(&mut log, second, true);
    let rewind = log.rewind(first);
    assert_eq!((log.context(), pins(&log)), (vec![first], vec![first, second]), "it may come back");
    let state = log.state();
    let checkpoint = state.checkpoint().expect("no answer is in flight");
    assert_eq!(State::from_checkpoint(&checkpoint).expect("it is read").pins, state.pins);
    log.undo(rewind);
    assert_eq!((log.context(), pins(&log)), (vec![first, second], vec![first, second]));

    // The note of a trim is no message of its own.
    let trim = log.trim(second, second);
    pin(&mut log, trim, true);
    assert_eq!(pins(&log), [first, second]);
    // What cannot come back any more is forgotten, and its pin with it.
    for _ in 0..UNDO_MAX {
        let last = log.add(note("more"));
        log.trim(last, last);
    }
    assert_eq!(pins(&log), [first]);
}

#[test]
fn bodies_are_read_again_as_they_were_also_of_an_answer_that_was_cut() {
    let mut log = Log::default();
    log.add(opened(1));
    log.user("tell me", UserKind::Prompt);
    let request = log.request();
    log.piece(request, 0, "Once upon");
    log.piece(request, 4, " upon a time");
    log.user("go on", UserKind::Prompt);
    let request = log.request();
    log.answer(request, "there was", &[]);
    let whole = log.state();
    let trim = log.trim(0, 3);
    log.undo(trim);
    let mut state = log.state();
    let first = state.missing()[0];
    log.entries.iter().filter(|entry| entry.seq >= first).for_each(|entry| state.hydrate(entry));
    let bodies = |state: &State| state.context.iter().map(|slot| slot.message.clone()).collect::<Vec<_>>();
    assert_eq!((state.missing(), bodies(&state)), (vec![], bodies(&whole)));
}

#[test]
fn one_event_of_every_type_folds_to_what_it_says() {
    let entries = every_event().into_iter().zip(0..).map(|(event, seq)| Entry::new(seq, Timestamp::from_ms(0), event));
    let entries: Vec<Entry> = entries.collect();
    let state = State::fold(&entries);
    assert_eq!((state.name.as_deref(), state.epoch, state.owner), (Some("tides"), 1, None));
    assert_eq!(state.last_turn.map(|turn| turn.model_calls), Some(2));
    assert_eq!(state.todos.len(), 2);
}

#[test]
fn a_message_with_a_key_is_known_until_256_others_came() {
    fn keyed(log: &mut Log, key: &str) -> Seq {
        log.add(UserMessage { text: key.to_owned(), key: Some(key.to_owned()), ..UserMessage::default() })
    }
    fn end(log: &mut Log, reason: &str) -> Seq {
        let (reason, error, usage) = (reason.to_owned(), None, Usage::default());
        log.add(TurnEnded { reason, error, model_calls: 1, usage, duration_ms: 1 })
    }
    let known = |log: &Log| -> Vec<(String, Option<Seq>)> {
        log.state().keyed.into_iter().map(|message| (message.key, message.answered)).collect()
    };
    let mut log = Log::default();
    keyed(&mut log, "a");
    end(&mut log, "interrupted");
    assert_eq!(known(&log), [("a".to_owned(), None)], "a turn that was stopped has no answer");
    let answered = end(&mut log, "done");
    assert_eq!(known(&log), [("a".to_owned(), Some(answered))], "it was asked again");
    end(&mut log, "done");
    keyed(&mut log, "b");
    end(&mut log, "error");
    assert_eq!(known(&log)[0], ("a".to_owned(), Some(answered)), "the first answer counts");
    log.user("another", UserKind::Prompt);
    end(&mut log, "done");
    assert_eq!(known(&log).len(), 1, "the answer to another message is not the answer to `b`");
    for number in 0..KEYED_MAX {
        keyed(&mut log, &number.to_string());
        end(&mut log, "done");
    }
    let keys: Vec<String> = known(&log).into_iter().map(|(key, _)| key).collect();
    assert_eq!((keys.len(), keys[0].as_str()), (KEYED_MAX, "0"));
    let mut state = log.state();
    state.apply(&Entry::new(log.entries.len() as Seq, Timestamp::from_ms(0), state.checkpoint().expect("a checkpoint")));
    assert_eq!(State::from_checkpoint(&log.state().checkpoint().expect("a checkpoint")).expect("it is read").keyed, state.keyed);
}

#[test]
fn an_image_that_was_refused_stays_so_for_its_model_after_a_rewind_and_in_a_checkpoint() {
    let mut log = Log::default();
    let first = log.user("look", UserKind::Prompt);
    let message = log.request();
    let (origin, image) = (Origin { model: "m".to_owned(), ..Origin::default() }, |sha256: &str| ImageRef {
        sha256: sha256.to_owned(),
        ..ImageRef::default()
    });
    let refused = |images: Vec<ImageRef>, answered| ImagesRefused {
        message,
        origin: origin.clone(),
        images,
        reason: "why".to_owned(),
        answered,
    };
    log.add(refused(vec![image("a")], false));
    assert_eq!(log.state().prefix_changed, None);
    log.answer(message, "I see.", &[]);
    log.rewind(first);
    let state = log.state();
    assert_eq!(state.refused_image(&origin, &image("a")), Some("why"));
    assert_eq!(state.refused_image(&origin, &image("b")), None);
    assert_eq!(state.refused_image(&Origin::default(), &image("a")), None, "another model may take it");
    let checkpoint = state.checkpoint().expect("no answer comes in");
    assert_eq!(State::from_checkpoint(&checkpoint).expect("of this version").refused_images, state.refused_images);
    let seq = log.add(refused((0..REFUSED_IMAGES_MAX).map(|number| image(&number.to_string())).collect(), true));
    let state = log.state();
    assert_eq!((state.refused_images.len(), state.prefix_changed), (REFUSED_IMAGES_MAX, Some(seq)));
    assert_eq!(state.refused_image(&origin, &image("a")), None, "the oldest is forgotten");
}
