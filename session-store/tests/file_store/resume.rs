//! Opening from a checkpoint gives what reading everything gives, and reads little.

use crate::sim::SimFs;
use crate::writing::{create, entries, log_path, options, say, soon, store};
use proptest::prelude::*;
use proptest::sample::Index;
use session_store::*;
use std::sync::Arc;

/// A log in the making, with its fold.
#[derive(Clone, Default)]
struct Log {
    bytes: Vec<u8>,
    crc: u32,
    state: State,
    entries: Vec<Entry>,
    /// Where the checkpoints start.
    checkpoints: Vec<usize>,
}

impl Log {
    fn new() -> Self {
        let mut log = Self::default();
        log.opened(1);
        log.add(SessionStarted { session: id(), cwd: Some("/work".to_owned()), program: String::new() });
        log.profile("You help.");
        log
    }

    fn add(&mut self, event: impl Into<Event>) -> Seq {
        let seq = self.state.next_seq;
        let mut entry = Entry::new(seq, Timestamp::from_ms(1_769_904_000_000 + seq as i64), event);
        let offset = self.bytes.len() as u64;
        self.crc = entry.write_line(&mut self.bytes, self.crc);
        let len = u32::try_from(self.bytes.len() as u64 - offset - 1).unwrap();
        entry.place = Place { line: self.entries.len() as u64 + 1, offset, len, crc: self.crc };
        self.state.apply(&entry);
        self.entries.push(entry);
        seq
    }

    fn checkpoint(&mut self) {
        if let Some(mut checkpoint) = self.state.checkpoint() {
            checkpoint.durable = self.bytes.len() as u64;
            self.checkpoints.push(self.bytes.len());
            self.add(checkpoint);
        }
    }

    fn opened(&mut self, epoch: u64) {
        self.add(Opened { epoch, writer: uuid::Uuid::from_u128(u128::from(epoch)), format: 1, owner: Owner::default() });
    }

    fn profile(&mut self, system: &str) {
        let (model, parameters) = ("offline".to_owned(), Parameters::default());
        let profile =
            Profile { hash: String::new(), model, system: system.to_owned(), tools: Vec::new(), parameters, projection: 1 };
        self.add(profile.sealed());
    }

    fn request(&mut self) -> Seq {
        let (profile, body_sha256) = (String::new(), String::new());
        let origin = Origin { provider: "offline".to_owned(), ..Origin::default() };
        self.add(ModelRequest { origin, profile, body_sha256, ..ModelRequest::default() })
    }

    fn piece(&mut self, message: Seq, offset: u64, text: &str) {
        self.add(AssistantText { message, offset, text: text.to_owned() });
    }

    fn answer(&mut self, message: Seq, text: &str, calls: u64) -> Seq {
        let call = |number| {
            let id = format!("call_{message}_{number}");
            Block::ToolCall(ToolCall { id, name: "shell".to_owned(), ..ToolCall::default() })
        };
        let blocks = std::iter::once(Block::Text { text: text.to_owned() }).chain((0..calls).map(call)).collect();
        let usage = Some(Usage { input_tokens: Some(100), output_tokens: Some(10), ..Usage::default() });
        let (stop, origin) = (StopReason::EndTurn, Origin::default());
        self.add(AssistantMessage { message, origin, blocks, stop, partial: false, usage, opaque: None })
    }

    fn result(&mut self, call: &str, output: &str) {
        let (call, name, output) = (call.to_owned(), "shell".to_owned(), output.to_owned());
        self.add(ToolFinished { call, name, outcome: ToolOutcome::Ok, output, full: None, images: Vec::new(), duration_ms: 1 });
    }

    fn trim(&mut self, removed: Vec<SeqRange>) -> Seq {
        let (note, reason) = ("left out".to_owned(), "budget".to_owned());
        self.add(ContextTrimmed { removed, note, reason, tokens_before: 0, tokens_after: 0, summary: None })
    }

    fn put(&self) -> SimFs {
        put(&self.bytes)
    }
}

fn id() -> SessionId {
    SessionId::from_uuid(uuid::Uuid::from_u128(0x019c_1a2b_3c4d_7e5f_8a6b_0123_4567_89ab))
}

fn put(bytes: &[u8]) -> SimFs {
    let fs = SimFs::new();
    fs.put(&log_path(id()), bytes);
    fs
}

async fn loaded(fs: &SimFs) -> Loaded {
    store(fs).load(id()).await.unwrap()
}

/// That two states are the same in all that they hold, bodies and places included.
#[track_caller]
fn assert_same(one: &State, other: &State) {
    assert_eq!(one, other);
    let bodies = |state: &State| state.context.iter().map(|slot| slot.message.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(one), bodies(other));
    let snapshot = |state: &State| state.checkpoint().map(|checkpoint| checkpoint.state.get().to_owned());
    assert_eq!(snapshot(one), snapshot(other));
}

/// What happens in a session, with places as fractions of what there is.
#[derive(Clone, Debug)]
enum Step {
    Say(UserKind),
    Answer {
        calls: u64,
        results: u64,
        streams: bool,
    },
    Cut,
    Note,
    Profile,
    Trim(Index, Index),
    TrimMany(Vec<Index>),
    Rewind(Index),
    Undo(Index),
    /// What came back into the context is read again.
    Read,
    Todos,
    Rename,
    Ended,
    Opened,
    Checkpoint,
}

fn any_steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let step = prop_oneof![
        4 => prop_oneof![Just(UserKind::Prompt), Just(UserKind::Steer), Just(UserKind::FollowUp)].prop_map(Step::Say),
        6 => (0_u64..3, 0_u64..3, any::<bool>()).prop_map(|(calls, results, streams)| Step::Answer { calls, results, streams }),
        2 => Just(Step::Cut),
        1 => Just(Step::Note),
        1 => Just(Step::Profile),
        2 => (index(), index()).prop_map(|(from, to)| Step::Trim(from, to)),
        1 => prop::collection::vec(index(), 1..5).prop_map(Step::TrimMany),
        2 => index().prop_map(Step::Rewind),
        2 => index().prop_map(Step::Undo),
        1 => Just(Step::Read),
        1 => Just(Step::Todos),
        1 => Just(Step::Rename),
        1 => Just(Step::Ended),
        1 => Just(Step::Opened),
        4 => Just(Step::Checkpoint),
    ];
    prop::collection::vec(step, 0..most)
}

fn log_of(steps: &[Step]) -> Log {
    let mut log = Log::new();
    for (number, step) in steps.iter().enumerate() {
        take(&mut log, number, step);
    }
    log
}

fn take(log: &mut Log, number: usize, step: &Step) {
    let context: Vec<Seq> = log.state.context.iter().map(|slot| slot.seq).collect();
    let pick = |index: &Index| context.get(index.index(context.len().max(1))).copied().unwrap_or(0);
    match step {
        Step::Say(kind) => {
            log.add(UserMessage { text: format!("message {number} \u{1f30a}"), kind: *kind, ..UserMessage::default() });
        }
        Step::Answer { calls, results, streams } => {
            let request = log.request();
            if *streams {
                log.piece(request, 0, "answer");
                log.add(UserMessage { text: "meanwhile".to_owned(), kind: UserKind::Steer, ..UserMessage::default() });
                log.piece(request, 6, &format!(" {number}"));
            }
            log.answer(request, &format!("answer {number}"), *calls);
            for call in 0..*calls.min(results) {
                log.result(&format!("call_{request}_{call}"), &format!("output of {number}"));
            }
        }
        Step::Cut => {
            let request = log.request();
            log.piece(request, 0, "half ");
            log.add(Note { text: "in between".to_owned() });
            log.piece(request, 5, "of an answer");
        }
        Step::Note => drop(log.add(Note { text: format!("note {number}") })),
        Step::Profile => log.profile(&format!("You help {number} times.")),
        Step::Trim(from, to) => {
            let (from, to) = (pick(from).min(pick(to)), pick(from).max(pick(to)));
            log.trim(vec![SeqRange(from, to)]);
        }
        Step::TrimMany(which) => drop(log.trim(which.iter().map(|index| SeqRange(pick(index), pick(index))).collect())),
        Step::Rewind(to) => drop(log.add(ContextRewound { to: pick(to) })),
        Step::Undo(which) => {
            let undoable: Vec<Seq> = log.state.undoable().collect();
            let undo = undoable.get(which.index(undoable.len().max(1))).copied().unwrap_or(0);
            log.add(ContextRestored { undo });
        }
        Step::Read => log.entries.iter().for_each(|entry| log.state.hydrate(entry)),
        Step::Todos => {
            let todo = Todo { content: format!("todo {number}"), status: TodoStatus::Pending };
            log.add(TodosChanged { todos: Arc::new(vec![todo]) });
        }
        Step::Rename => drop(log.add(SessionRenamed { name: format!("name {number}") })),
        Step::Ended => {
            let (reason, error) = ("done".to_owned(), Some("why".to_owned()));
            log.add(TurnEnded { reason, error, model_calls: 1, usage: Usage::default(), duration_ms: 7 });
        }
        Step::Opened => log.opened(log.state.epoch + 1),
        Step::Checkpoint => log.checkpoint(),
    }
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
}

/// The fold of the log's first `bytes`, with the bodies that an undo brought back.
fn whole(log: &Log, bytes: usize) -> State {
    let entries = log.entries.iter().filter(|entry| entry.place.end() <= bytes as u64);
    let mut state = State::fold(entries.clone());
    entries.for_each(|entry| state.hydrate(entry));
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn opening_from_any_checkpoint_is_the_fold_of_everything(steps in any_steps(40)) {
        let log = log_of(&steps);
        block_on(async {
            let line_ends: Vec<usize> = log.entries.iter().map(|entry| usize::try_from(entry.place.end()).unwrap()).collect();
            for end in line_ends.into_iter().rev().take(25) {
                let fs = put(&log.bytes[..end]);
                let loaded = loaded(&fs).await;
                assert_same(&loaded.state, &whole(&log, end));
                assert_eq!(loaded.problems, []);
            }
        });
    }

    #[test]
    fn the_fold_up_to_an_event_is_the_fold_of_what_is_before_it(steps in any_steps(40), at in any::<Index>()) {
        let log = log_of(&steps);
        let at = at.index(log.entries.len());
        let mut state = block_on(async { store(&log.put()).load_at(id(), at as Seq).await.unwrap() });
        log.entries.iter().for_each(|entry| state.hydrate(entry));
        assert_same(&state, &whole(&log, usize::try_from(log.entries[at].place.end()).unwrap()));
    }

    #[test]
    fn a_checkpoint_is_the_fold_of_what_is_before_it_to_every_reader(steps in any_steps(40)) {
        let log = log_of(&steps);
        let verified = block_on(async { store(&log.put()).verify(id()).await.unwrap() });
        prop_assert_eq!(verified.problems, []);
    }

    #[test]
    fn whatever_is_damaged_opening_gives_what_reading_everything_gives(
        steps in any_steps(40),
        at in any::<Index>(),
        change in 1_u8..=255,
    ) {
        let mut log = log_of(&steps);
        log.checkpoint();
        log.add(Note { text: "the end".to_owned() });
        let at = at.index(log.bytes.len());
        let mut damaged = log.bytes.clone();
        damaged[at] ^= change;
        block_on(async {
            let fs = put(&damaged);
            let state = loaded(&fs).await.state;
            // What is before the newest sound checkpoint and not in the context does not matter to it.
            let is_whole = state == whole(&log, log.bytes.len());
            // As where no checkpoint counts: in a file that has one blank line more.
            let mut without = b"\n".to_vec();
            without.extend_from_slice(&damaged);
            assert!(is_whole || state == loaded(&put(&without)).await.state, "byte {at} changed by {change}");
        });
    }

    #[test]
    fn reading_from_an_event_on_gives_what_reading_everything_gives(
        steps in any_steps(40),
        from in any::<Index>(),
        damage in prop::option::of((any::<Index>(), 1_u8..=255)),
    ) {
        let log = log_of(&steps);
        let mut bytes = log.bytes.clone();
        if let Some((at, change)) = damage {
            bytes[at.index(log.bytes.len())] ^= change;
        }
        let from = from.index(log.entries.len()) as Seq;
        block_on(async {
            let store = store(&put(&bytes));
            let all = entries(&store, id()).await;
            let expected: Vec<_> = all.into_iter().filter(|entry| entry.seq >= from && entry.sound).collect();
            let mut reader = store.read(id(), from).await.unwrap();
            let mut found = Vec::new();
            while let Some(entry) = reader.next().await.unwrap() {
                found.extend(entry.sound.then_some(entry));
            }
            assert_eq!(found, expected);
            // A newline that came or went before the checkpoint counts for nobody who starts there.
            let place = |entry: &Arc<Entry>| (entry.place.offset, entry.place.crc);
            assert!(found.iter().map(place).eq(expected.iter().map(place)));
        });
    }
}

#[tokio::test]
async fn a_large_log_opens_with_a_little_of_it_read_and_written() {
    let mut log = Log::new();
    while log.bytes.len() < 24 << 20 {
        log.add(UserMessage { text: "x".repeat(1000), ..UserMessage::default() });
        if log.state.context.len() > 200 {
            let oldest = log.state.context[..190].iter();
            log.trim(oldest.map(|slot| SeqRange(slot.seq, slot.seq)).collect());
        }
        if log.state.checkpoint_due() {
            log.checkpoint();
        }
    }
    let lines = log.entries.len();
    let fs = log.put();
    let before = fs.read_bytes();
    assert_same(&loaded(&fs).await.state, &log.state);
    assert!(fs.read_bytes() - before < 3 << 20, "{} bytes were read", fs.read_bytes() - before);

    let mut undone = log.clone();
    let undo = undone.state.undoable().next_back().expect("a trim");
    undone.add(ContextRestored { undo });
    undone.entries.iter().for_each(|entry| undone.state.hydrate(entry));
    let fs1 = undone.put();
    let before = fs1.read_bytes();
    assert_same(&loaded(&fs1).await.state, &undone.state);
    assert!(fs1.read_bytes() - before < 6 << 20, "{} bytes were read", fs1.read_bytes() - before);

    let before = fs.read_bytes();
    let store1 = store(&fs);
    let opened = store1.open(id()).await.unwrap();
    assert_eq!(opened.state.next_seq, lines as u64 + 1);
    // And what may not have been durable is written again.
    assert!(fs.read_bytes() - before < 5 << 20, "{} bytes were read", fs.read_bytes() - before);

    let before = fs.read_bytes();
    let mut reader = store1.read(id(), lines as u64 / 2).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().seq, lines as u64 / 2);
    assert!(fs.read_bytes() - before < 6 << 20, "{} bytes were read", fs.read_bytes() - before);

    let before = fs.read_bytes();
    assert_eq!(store1.list().await.unwrap()[0].messages, log.state.messages);
    assert!(fs.read_bytes() - before < 3 << 20, "{} bytes were read", fs.read_bytes() - before);
}

/// A session of 40 messages, a checkpoint, and three more messages.
fn with_checkpoint() -> Log {
    let mut log = Log::new();
    for number in 0..40 {
        log.add(say(&format!("message {number}")));
    }
    log.checkpoint();
    for number in 40..43 {
        log.add(say(&format!("message {number}")));
    }
    log
}

type Spoil<'a> = &'a dyn Fn(&mut Checkpoint);

#[tokio::test]
async fn a_checkpoint_that_cannot_be_trusted_is_passed_over() {
    let log = with_checkpoint();
    // Behind a changed byte that only a whole reading meets.
    let damaged_start = |log: &Log| {
        let mut bytes = log.bytes.clone();
        bytes[60] ^= 1;
        bytes
    };
    assert_eq!(loaded(&put(&damaged_start(&log))).await.problems, [], "it is used");

    let spoilt = |spoil: Spoil<'_>| {
        let mut other = Log::new();
        for entry in &log.entries[other.entries.len()..] {
            match entry.event.clone() {
                Event::Checkpoint(mut checkpoint) => {
                    spoil(&mut checkpoint);
                    other.add(checkpoint);
                }
                event => drop(other.add(event)),
            }
        }
        other
    };
    let cases: [(&str, bool, Spoil<'_>); 4] = [
        ("of another version", true, &|checkpoint| checkpoint.fold += 1),
        ("with another hash", false, &|checkpoint| checkpoint.hash = sha256_hex(b"something else")),
        ("of no state", false, &|checkpoint| {
            checkpoint.state = RawJson::new(&"no state").unwrap();
            checkpoint.hash = sha256_hex(checkpoint.state.get().as_bytes());
        }),
        ("with another message", false, &|checkpoint| {
            let state = checkpoint.state.get().replace("\"messages\":40", "\"messages\":41");
            checkpoint.state = serde_json::from_str(&state).unwrap();
            checkpoint.hash = sha256_hex(state.as_bytes());
        }),
    ];
    for (case, ok, spoil) in cases {
        let other = spoilt(spoil);
        assert_eq!(store(&other.put()).verify(id()).await.unwrap().ok, ok, "{case}");
        if case != "with another message" {
            let loaded = loaded(&put(&damaged_start(&other))).await;
            assert_ne!(loaded.problems, [], "{case}: the whole log is read");
            assert_eq!(loaded.state.context.len(), 43, "{case}");
        }
    }
}

#[tokio::test]
async fn a_checkpoint_of_a_build_that_knew_of_no_waiting_messages_hides_none() {
    let mut log = Log::new();
    log.add(MessageQueued { text: "And then write it down.".to_owned(), missed: None, images: Vec::new() });
    let mut checkpoint = log.state.checkpoint().unwrap();
    let state = checkpoint.state.get();
    let (before, rest) = state.split_once("\"queued\":").unwrap();
    let (_, after) = rest.split_once("],").unwrap();
    let state = format!("{before}{after}");
    checkpoint.fold = 4;
    checkpoint.state = serde_json::from_str(&state).unwrap();
    checkpoint.hash = sha256_hex(state.as_bytes());
    log.add(checkpoint);
    log.add(say("later"));
    let loaded = loaded(&log.put()).await;
    assert_eq!(loaded.state.queued.iter().map(|queued| queued.text.as_str()).collect::<Vec<_>>(), ["And then write it down."]);
    assert!(store(&log.put()).verify(id()).await.unwrap().ok, "it is a cache of another build");
}

#[tokio::test]
async fn a_checkpoint_of_a_writer_that_lost_the_session_is_not_believed() {
    let mut log = with_checkpoint();
    let mut stale = log.clone();
    log.opened(2);
    log.add(say("by the new owner"));
    let taken = log.bytes.len();
    let start = stale.bytes.len();
    // No message, so that every body that it names is where it says.
    stale.add(SessionRenamed { name: "the old owner's".to_owned() });
    stale.checkpoint();
    let bytes = [&log.bytes[..taken], &stale.bytes[start..]].concat();
    let state = loaded(&put(&bytes)).await.state;
    assert_same(&state, &log.state);
}

#[tokio::test]
async fn what_a_stale_writer_adds_behind_a_checkpoint_is_set_aside_as_by_who_reads_everything() {
    let mut log = with_checkpoint();
    let mut stale = log.clone();
    log.opened(2);
    log.add(say("by the new owner"));
    log.checkpoint();
    let start = stale.bytes.len();
    for number in 0..9 {
        stale.add(say(&format!("by the old owner {number}")));
    }
    let fs = put(&[&log.bytes[..], &stale.bytes[start..]].concat());
    assert_same(&loaded(&fs).await.state, &log.state);
    let store = store(&fs);
    let last = log.state.next_seq - 1;
    let mut reader = store.read(id(), last).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().seq, last);
    assert_eq!(reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_body_that_is_not_what_its_place_says_is_looked_for_in_the_whole_log() {
    let log = with_checkpoint();
    let mut bytes = log.bytes.clone();
    let place = log.entries[10].place;
    let text = usize::try_from(place.offset).unwrap()
        + bytes[usize::try_from(place.offset).unwrap()..].windows(7).position(|text| text == b"message").unwrap();
    let text = text + bytes[text + 7..].windows(7).position(|text| text == b"message").unwrap() + 7;
    bytes[text] = b'M';
    let loaded = loaded(&put(&bytes)).await;
    assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);
    assert!(loaded.state.missing().is_empty());
}

#[tokio::test]
async fn the_list_says_of_a_closed_session_what_its_fold_says() {
    let fs = SimFs::new();
    let store1 = store(&fs);
    let log = create(&store1).await;
    let mut state = State::fold(entries(&store1, log.id()).await.iter().map(Arc::as_ref));
    for step in 0..30 {
        for event in [
            say(&format!("  message {step}")),
            SessionRenamed { name: format!("name {step}") }.into(),
            Note { text: "a note".to_owned() }.into(),
        ] {
            state.apply(&log.append(event).unwrap());
        }
    }
    soon(log.close()).await.unwrap();
    let summary = |list: Vec<SessionSummary>| list.into_iter().next().unwrap();
    let (before, quick) = (fs.read_bytes(), summary(store1.list().await.unwrap()));
    assert!(fs.read_bytes() - before < 4096);
    assert_eq!((quick.messages, quick.name.as_deref(), quick.title.as_deref()), (30, Some("name 29"), Some("message 0")));
    // A line more, and the summary is no longer the end of the file.
    fs.edit(&log_path(log.id()), |bytes| bytes.push(b'\n'));
    let slow = summary(store(&fs).list().await.unwrap());
    assert_eq!(SessionSummary { bytes: quick.bytes, ..slow }, quick);
}

#[tokio::test]
async fn a_session_that_takes_long_to_read_gets_a_checkpoint_when_it_is_opened() {
    let mut log = Log::new();
    while log.bytes.len() < 5 << 20 {
        log.add(say(&"x".repeat(60_000)));
    }
    let fs = log.put();
    let store1 = store(&fs);
    let opened = store1.open(id()).await.unwrap();
    soon(opened.log.flush()).await.unwrap();
    let written = entries(&store1, id()).await;
    assert!(matches!(&written.last().unwrap().event, Event::Checkpoint(_)));
    assert!(store1.verify(id()).await.unwrap().ok);
    soon(opened.log.close()).await.unwrap();
    let state = loaded(&fs).await.state;
    assert_eq!(
        state.checkpoint().unwrap().state,
        State::fold(entries(&store1, id()).await.iter().map(Arc::as_ref)).checkpoint().unwrap().state
    );
}

#[tokio::test]
async fn a_checkpoint_says_up_to_where_the_log_was_durable() {
    let fs = SimFs::new();
    let store1 = FileStore::open(options(&fs)).unwrap();
    let opened = store1.create(NewSession::default()).await.unwrap();
    let mut state = opened.state;
    for number in 0..100 {
        state.apply(&opened.log.append(say(&format!("message {number}"))).unwrap());
    }
    soon(opened.log.flush()).await.unwrap();
    let length = fs.contents(&log_path(opened.log.id())).unwrap().len() as u64;
    fs.hang_syncs();
    state.apply(&opened.log.append(say("not durable yet")).unwrap());
    let entry = opened.log.append(state.checkpoint().unwrap().into()).unwrap();
    assert!(matches!(&entry.event, Event::Checkpoint(checkpoint) if checkpoint.durable == length), "{entry:?}");
    fs.let_syncs_go();
}
