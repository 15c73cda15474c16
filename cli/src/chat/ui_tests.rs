//! The chat without a terminal: keys and events in, what a person sees out.

use super::super::approval::GRACE;
use super::super::keys;
use super::*;
use agent_runtime::session_store::{
    AssistantMessage, Block, Entry, Event, ModelError, ModelFallback, ModelRequest, ModelWaiting, Origin, StopReason, Timestamp,
    Todo, TodoStatus, TodosChanged, ToolCall, ToolFinished, ToolOutcome, ToolStarted, TurnEnded, Usage,
};
use agent_runtime::{Approval, ApprovalRequest, Delta, DeltaKind, ToolDelta};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tokio::sync::oneshot;

/// A chat with all that it printed.
struct Chat {
    ui: Ui,
    start: Instant,
    now: Instant,
    printed: String,
    seq: u64,
}

impl Chat {
    fn new() -> Self {
        let start = Start {
            look: Look::Plain,
            size: Size { columns: 60, rows: 24 },
            cwd: "/nowhere".into(),
            history: History::new(None),
            tools: agent_runtime::tools::builtin(),
        };
        let now = Instant::now();
        Self { ui: Ui::new(start), start: now, now, printed: String::new(), seq: 0 }
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn press(&mut self, code: KeyCode, modifiers: KeyModifiers) -> Option<Effect> {
        let key = keys::key(KeyEvent::new(code, modifiers))?;
        self.ui.key(key, self.now)
    }

    fn code(&mut self, code: KeyCode) -> Option<Effect> {
        self.press(code, KeyModifiers::NONE)
    }

    fn control(&mut self, letter: char) -> Option<Effect> {
        self.press(KeyCode::Char(letter), KeyModifiers::CONTROL)
    }

    fn write(&mut self, text: &str) {
        for character in text.chars() {
            assert_eq!(self.code(KeyCode::Char(character)), None);
        }
    }

    fn enter(&mut self, text: &str) -> Option<Effect> {
        self.write(text);
        self.code(KeyCode::Enter)
    }

    fn begin_turn(&mut self) {
        let since = self.now;
        self.ui.begin(Work::Turn { since });
    }

    fn event(&mut self, event: impl Into<Event>) {
        let entry = Entry::new(self.seq, Timestamp::default(), event);
        self.seq += 1;
        self.ui.turn_event(&TurnEvent::Entry(Arc::new(entry)));
    }

    fn delta(&mut self, kind: DeltaKind, text: &str) {
        self.ui.turn_event(&TurnEvent::Delta(Delta { message: 0, kind, offset: 0, text: text.to_owned() }));
    }

    fn output(&mut self, call: &str, offset: u64, text: &str) {
        let (call, text) = (call.to_owned(), text.to_owned());
        self.ui.turn_event(&TurnEvent::ToolDelta(ToolDelta { call, offset, text }));
    }

    fn ask(&mut self) -> oneshot::Receiver<Approval> {
        let (answer, answered) = oneshot::channel();
        let request = ApprovalRequest {
            call: "call_1_0".to_owned(),
            tool: "shell".to_owned(),
            arguments: r#"{"command":"rm -rf build\ncargo build"}"#.to_owned(),
            description: r"shell: rm -rf build\ncargo build".to_owned(),
        };
        self.ui.ask(Ask { request, answer }, self.now);
        answered
    }

    /// All that was printed, and the live area below it, its cursor shown as `|`.
    fn screen(&mut self) -> String {
        for line in self.ui.above.take() {
            self.printed.push_str(line.text().trim_end());
            self.printed.push('\n');
        }
        let frame = self.ui.frame(self.now);
        let mut screen = self.printed.clone();
        screen.push_str("--------\n");
        for (at, row) in frame.rows.iter().enumerate() {
            assert!(row.width() < self.ui.size.columns, "{:?}", row.text());
            let mut text = row.text();
            if let Some((_, column)) = frame.cursor.filter(|(row, _)| *row == at) {
                let place = text.char_indices().nth(column).map_or(text.len(), |(place, _)| place);
                text.insert(place, '|');
            }
            screen.push_str(text.trim_end());
            screen.push('\n');
        }
        screen
    }
}

fn origin() -> Origin {
    Origin { provider: "anthropic".to_owned(), model: "claude".to_owned(), ..Origin::default() }
}

fn request() -> ModelRequest {
    ModelRequest { origin: origin(), ..ModelRequest::default() }
}

fn answer(blocks: Vec<Block>) -> AssistantMessage {
    AssistantMessage {
        message: 0,
        origin: origin(),
        blocks,
        stop: StopReason::EndTurn,
        partial: false,
        usage: None,
        opaque: None,
    }
}

fn call(id: &str, name: &str, arguments: &str) -> Block {
    let (id, name, arguments) = (id.to_owned(), name.to_owned(), arguments.to_owned());
    Block::ToolCall(ToolCall { id, name, arguments, provider_id: String::new() })
}

fn started(call: &str, name: &str) -> ToolStarted {
    ToolStarted { call: call.to_owned(), name: name.to_owned(), side_effects: false }
}

fn finished(call: &str, name: &str, outcome: ToolOutcome, output: &str) -> ToolFinished {
    let (call, name, output) = (call.to_owned(), name.to_owned(), output.to_owned());
    ToolFinished { call, name, outcome, output, full: None, images: Vec::new(), duration_ms: 1200 }
}

fn ended(reason: &str, error: Option<&str>) -> TurnEnded {
    TurnEnded {
        reason: reason.to_owned(),
        error: error.map(str::to_owned),
        model_calls: 1,
        usage: Usage::default(),
        duration_ms: 3400,
    }
}

#[test]
fn the_last_lines_of_a_running_tool_are_seen_until_it_has_its_result() {
    let mut chat = Chat::new();
    chat.begin_turn();
    chat.event(request());
    chat.event(answer(vec![call("a", "shell", r#"{"command":"make"}"#), call("b", "read", r#"{"path":"x"}"#)]));
    chat.event(started("a", "shell"));
    let output: String = (1..=9).map(|line| format!("line {line}\n")).collect();
    chat.output("a", 0, &output);
    let screen = chat.screen();
    assert!(!screen.contains("line 5") && screen.contains("\n  line 6\n  line 7\n  line 8\n  line 9\n"), "{screen}");
    // Progress that is written over itself, an escape sequence, a line that is too long, and a gap.
    let hostile = format!("10%\r20%\r\n\x1b[2Jwiped\r\n\n{}", "wïde ".repeat(40));
    chat.output("a", 1_000, &hostile);
    let screen = chat.screen();
    assert!(screen.contains("\n  20%\n  \\x1b[2Jwiped\n  wïde"), "{screen}");
    assert!(!screen.contains("line 9") && !screen.contains("10%"), "{screen}");
    // Of several, a line of each.
    chat.event(started("b", "read"));
    chat.output("b", 0, "one\ntwo\n");
    let screen = chat.screen();
    assert!(screen.contains("read x: two\n") && !screen.contains("20%"), "{screen}");
    chat.event(finished("b", "read", ToolOutcome::Ok, "one"));
    chat.event(finished("a", "shell", ToolOutcome::Ok, "all of it"));
    let screen = chat.screen();
    assert!(!screen.contains("wiped") && screen.contains("all of it"), "{screen}");
}

#[test]
fn a_turn_with_tools_reads_like_a_conversation() {
    let mut chat = Chat::new();
    assert_eq!(chat.enter("what is\\"), None);
    assert_eq!(chat.enter("here?"), Some(Effect::Send("what is\nhere?".to_owned())));
    chat.ui.said("what is\nhere?");
    chat.begin_turn();
    chat.event(request());
    chat.wait(2300);
    let waiting = chat.screen();
    chat.delta(DeltaKind::Reasoning, "hm");
    let thinking = chat.screen();
    chat.delta(DeltaKind::Text, "I look at the **files** of this folder, and at what they say, line by ");
    let streaming = chat.screen();
    chat.delta(DeltaKind::Text, "line.");
    chat.event(answer(vec![call("a", "list", r#"{"path":"."}"#), call("b", "read", r#"{"path":"x.rs"}"#)]));
    chat.event(started("a", "list"));
    chat.event(started("b", "read"));
    let working = chat.screen();
    chat.event(finished("b", "read", ToolOutcome::Error, "there is no file `x.rs`"));
    chat.event(finished("a", "list", ToolOutcome::Ok, "1\n2\n3\n4\n5\n6\n7\u{1b}[2J\n"));
    let todo = |content: &str, status| Todo { content: content.to_owned(), status };
    let todos =
        vec![todo("look", TodoStatus::Completed), todo("write", TodoStatus::InProgress), todo("test", TodoStatus::Pending)];
    chat.event(TodosChanged { todos: Arc::new(todos) });
    chat.event(request());
    chat.delta(DeltaKind::Text, "# Done\n\n- seven files\n");
    chat.event(answer(Vec::new()));
    chat.event(ended("done", None));
    assert_eq!(chat.ui.end(true), None);
    insta::assert_snapshot!([waiting, thinking, streaming, working, chat.screen()].join("========\n"));
}

#[test]
fn the_keys_do_what_the_table_says_when_idle() {
    let mut chat = Chat::new();
    assert_eq!(chat.code(KeyCode::Enter), None);
    chat.write("one");
    assert_eq!(chat.control('j'), None);
    chat.write("two");
    assert_eq!(chat.press(KeyCode::Enter, KeyModifiers::ALT), None);
    assert_eq!(chat.ui.input(), "one\ntwo\n");
    assert_eq!(chat.control('c'), None);
    assert_eq!(chat.ui.input(), "");
    assert_eq!(chat.enter("sent"), Some(Effect::Send("sent".to_owned())));
    assert_eq!(chat.code(KeyCode::Up), None);
    assert_eq!(chat.ui.input(), "sent");
    chat.control('u');
    chat.control('r');
    chat.write("SE");
    assert_eq!(chat.ui.input(), "sent");
    // What a search found is sent by a second Enter only.
    assert_eq!(chat.code(KeyCode::Enter), None);
    assert_eq!(chat.code(KeyCode::Enter), Some(Effect::Send("sent".to_owned())));
    assert_eq!(chat.enter("!git status"), Some(Effect::Shell("git status".to_owned())));
    assert_eq!(chat.enter("/todos"), Some(Effect::Command("/todos".to_owned(), Slash::Todos)));
    assert_eq!(chat.enter(" /todos"), Some(Effect::Send("/todos".to_owned())));
    assert_eq!(chat.control('g'), Some(Effect::OpenEditor));
    assert_eq!(chat.control('d'), Some(Effect::Leave));
}

#[test]
fn ctrl_c_leaves_only_when_it_is_pressed_twice_within_two_seconds() {
    let mut chat = Chat::new();
    assert_eq!(chat.control('c'), None);
    chat.wait(2500);
    assert_eq!(chat.control('c'), None);
    chat.wait(500);
    assert_eq!(chat.control('c'), Some(Effect::Leave));
}

#[test]
fn the_keys_do_what_the_table_says_during_a_turn() {
    let mut chat = Chat::new();
    chat.begin_turn();
    assert_eq!(chat.enter("left, not right"), Some(Effect::Steer("left, not right".to_owned())));
    chat.ui.steered(7, "left, not right".to_owned());
    chat.write("then test");
    assert_eq!(chat.press(KeyCode::Enter, KeyModifiers::ALT), None);
    chat.write("then commit");
    assert_eq!(chat.press(KeyCode::Enter, KeyModifiers::ALT), None);
    assert_eq!(chat.control('d'), None);
    assert_eq!(chat.enter("/new"), None);
    chat.control('u');
    let waiting = chat.screen();
    assert_eq!(chat.code(KeyCode::Esc), Some(Effect::Stop));
    assert_eq!(chat.control('c'), Some(Effect::Stop));
    chat.event(ended("done", None));
    assert_eq!(chat.ui.end(true).map(|waiting| waiting.text).as_deref(), Some("then test"));
    insta::assert_snapshot!(format!("{waiting}========\n{}", chat.screen()));
}

#[test]
fn files_are_looked_up_elsewhere_and_what_comes_too_late_is_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["src.rs", "second.rs"] {
        std::fs::write(folder.path().join(file), "").expect("written");
    }
    let mut chat = Chat::new();
    chat.ui.cwd = folder.path().to_owned();
    let lookup = |effect| match effect {
        Some(Effect::LookUp(lookup)) => lookup,
        other => panic!("{other:?}"),
    };
    chat.write("see ");
    let typed = lookup(chat.code(KeyCode::Char('@')));
    chat.ui.completed(&typed, typed.find());
    assert!(chat.screen().contains("@second.rs  @src.rs"));
    let late = lookup(chat.code(KeyCode::Char('s')));
    let letter = lookup(chat.code(KeyCode::Char('r')));
    chat.ui.completed(&letter, letter.find());
    chat.ui.completed(&late, late.find());
    assert!(!chat.screen().contains("second"), "a late answer took the place of a newer one");
    assert_eq!(chat.ui.input(), "see @sr");
    let tab = lookup(chat.code(KeyCode::Tab));
    chat.ui.completed(&tab, tab.find());
    assert_eq!(chat.ui.input(), "see @src.rs ");
    // A command needs no folder.
    chat.control('u');
    assert_eq!(chat.code(KeyCode::Char('/')), None);
    assert_eq!(chat.code(KeyCode::Char('m')), None);
    assert_eq!(chat.code(KeyCode::Tab), None);
    assert_eq!(chat.ui.input(), "/model ");
}

#[test]
fn a_command_that_takes_a_while_waits_for_its_own_time() {
    for work in [Work::Turn { since: Instant::now() }, Work::Other { what: "writing it down".to_owned(), since: Instant::now() }]
    {
        for command in ["/context", "/compact", "/export", "/resume", "/retry"] {
            let mut chat = Chat::new();
            chat.ui.begin(work.clone());
            assert_eq!(chat.enter(command), None, "{command}");
            assert_eq!(chat.ui.input(), command);
            assert!(chat.screen().contains("not while something runs"), "{command}");
        }
        let mut chat = Chat::new();
        chat.ui.begin(work);
        assert_eq!(chat.enter("/usage"), Some(Effect::Command("/usage".to_owned(), Slash::Usage)));
    }
}

#[test]
fn escape_twice_goes_back_but_not_right_after_a_stop() {
    let mut chat = Chat::new();
    assert_eq!(chat.code(KeyCode::Esc), None);
    assert!(chat.screen().contains("Esc again"), "{}", chat.screen());
    assert_eq!(chat.code(KeyCode::Esc), Some(Effect::Rewind));
    assert_eq!(chat.code(KeyCode::Esc), None, "the next one is a first one");
    chat.wait(1_500);
    assert_eq!(chat.code(KeyCode::Esc), None, "so long after the last it is a first one");

    let mut chat = Chat::new();
    chat.begin_turn();
    assert_eq!(chat.code(KeyCode::Esc), Some(Effect::Stop));
    chat.event(ended("interrupted", None));
    chat.ui.end(false);
    for _ in 0..3 {
        chat.wait(100);
        assert_eq!(chat.code(KeyCode::Esc), None, "somebody was in a hurry to stop it");
    }
    chat.wait(1_000);
    assert_eq!(chat.code(KeyCode::Esc), None);
    assert_eq!(chat.code(KeyCode::Esc), Some(Effect::Rewind));
}

#[test]
fn messages_that_wait_go_on_waiting_when_the_turn_did_not_end_well() {
    let mut chat = Chat::new();
    chat.begin_turn();
    for text in ["first", "second"] {
        chat.write(text);
        chat.press(KeyCode::Enter, KeyModifiers::ALT);
    }
    chat.write("draft");
    chat.event(ended("interrupted", None));
    assert_eq!(chat.ui.end(false), None);
    assert_eq!(chat.ui.input(), "draft");
    assert!(chat.screen().contains("waiting: first\nwaiting: second\n"), "{}", chat.screen());
    chat.begin_turn();
    assert_eq!(chat.ui.end(true), None, "only the person sends them now");
    chat.control('u');
    let Some(Effect::SendWaiting(first)) = chat.code(KeyCode::Enter) else { panic!("nothing is sent") };
    assert_eq!(first.text, "first");
    chat.ui.wait_on(first);
    assert!(chat.screen().contains("waiting: first\nwaiting: second\n"), "{}", chat.screen());
    chat.ui.waiting()[1].queued = Some(7);
    assert_eq!(chat.code(KeyCode::Up), Some(Effect::Withdraw(7)));
    assert_eq!(chat.ui.input(), "second");
}

#[test]
fn a_message_that_waits_can_be_taken_back() {
    let mut chat = Chat::new();
    chat.begin_turn();
    chat.write("wrong");
    chat.press(KeyCode::Enter, KeyModifiers::ALT);
    chat.code(KeyCode::Up);
    assert_eq!(chat.ui.input(), "wrong");
    assert_eq!(chat.ui.end(true), None);
}

#[tokio::test]
async fn a_question_shows_the_whole_call_and_takes_no_key_from_before() {
    let mut chat = Chat::new();
    chat.begin_turn();
    chat.write("by the wa");
    let answered = chat.ask();
    // The rest of the word was on its way.
    chat.wait(100);
    chat.write("y");
    chat.wait(100);
    assert_eq!(chat.code(KeyCode::Enter), None);
    let asked = chat.screen();
    chat.wait(GRACE.as_millis() as u64);
    chat.write("y");
    assert_eq!(answered.await, Ok(Approval::Approve));
    assert_eq!(chat.ui.input(), "by the way");
    insta::assert_snapshot!(format!("{asked}========\n{}", chat.screen()));
}

#[tokio::test]
async fn a_question_is_gone_when_the_turn_is() {
    let mut chat = Chat::new();
    chat.begin_turn();
    let mut answered = chat.ask();
    answered.close();
    assert!(!chat.screen().contains("Run shell?"));
    chat.wait(1000);
    chat.write("yes");
    assert_eq!(chat.ui.input(), "yes");
}

#[test]
fn failures_say_what_happened_and_what_to_do() {
    let mut chat = Chat::new();
    chat.begin_turn();
    chat.event(request());
    chat.delta(DeltaKind::Text, "half an ans");
    let error = |retry_in_ms| ModelError {
        message: 0,
        kind: "reset".to_owned(),
        detail: "the connection broke".to_owned(),
        status: None,
        retry_in_ms,
        retry_at: None,
    };
    chat.event(error(Some(1500)));
    chat.event(error(None));
    chat.event(ended("error", Some("the connection broke")));
    chat.begin_turn();
    chat.event(ended("max_tokens", None));
    chat.begin_turn();
    chat.event(ended("interrupted", None));
    chat.ui.end(false);
    insta::assert_snapshot!(chat.screen());
}

#[test]
fn a_wait_is_told_with_its_end_and_a_switch_with_who_is_asked_now() {
    let mut chat = Chat::new();
    chat.begin_turn();
    let until = Timestamp::from_ms(4_000_000_000_000);
    chat.event(ModelWaiting { model: "anthropic/x".to_owned(), reason: "breaker_open".to_owned(), until });
    let to = Origin { provider: "openai".to_owned(), model: "y".to_owned(), ..Origin::default() };
    chat.event(ModelFallback {
        from: Origin::default(),
        to,
        reason: "overloaded".to_owned(),
        detail: "x is overloaded".to_owned(),
    });
    // The time is that of the machine's own zone.
    let screen = chat.screen();
    for words in [
        "anthropic/x is asked at 2096-10-0",
        "its breaker is open",
        "waiting until 2096-10-0",
        "X is overloaded. openai/y is asked instead",
    ] {
        assert!(screen.contains(words), "{words}: {screen}");
    }
}

#[test]
fn a_paste_sends_nothing_and_nothing_is_too_tall_for_the_screen() {
    let mut chat = Chat::new();
    chat.ui.paste("one\ntwo\n", chat.now);
    assert_eq!(chat.ui.input(), "one\ntwo\n");
    for rows in [3, 5, 10, 24] {
        chat.ui.size = Size { columns: 20, rows };
        chat.ui.set_input(&"a long line of words ".repeat(40));
        let frame = chat.ui.frame(chat.now);
        let (row, column) = frame.cursor.expect("a cursor");
        assert!(frame.rows.len() < rows.max(4) && row < frame.rows.len() && column < 20, "{rows}: {frame:?}");
    }
}

#[test]
fn nothing_changes_by_itself_while_nothing_runs() {
    let mut chat = Chat::new();
    chat.write("draft");
    let before = chat.ui.frame(chat.start);
    assert!(!chat.ui.is_working());
    assert_eq!(chat.ui.frame(chat.start + Duration::from_secs(3600)), before);
}

#[test]
fn an_image_waits_above_the_input_line_until_it_is_sent_or_taken_off() {
    let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &640_u32.to_be_bytes()[..], &480_u32.to_be_bytes()].concat();
    let image =
        || Attached::new(std::path::Path::new("/tmp/photo.png"), agent_runtime::Image::new(png.clone()).expect("an image"));
    let mut chat = Chat::new();
    assert_eq!(chat.ui.paste("'/tmp/my photo.png'", chat.now), None);
    let command = Slash::Image(Some("/tmp/my photo.png".to_owned()));
    assert_eq!(chat.code(KeyCode::Enter), Some(Effect::Command("/image /tmp/my photo.png".to_owned(), command)));
    chat.ui.attach(image());
    chat.ui.attach(image());
    let screen = chat.screen();
    assert!(screen.contains("image: photo.png (png 640x480)"), "{screen}");
    assert_eq!(chat.code(KeyCode::Backspace), None);
    assert_eq!(chat.ui.attached().len(), 1);
    assert_eq!(chat.code(KeyCode::Enter), Some(Effect::Send(String::new())), "an image needs no words");
    assert_eq!(chat.ui.take_images(), [image()]);
    assert_eq!(chat.code(KeyCode::Enter), None);
    chat.begin_turn();
    let command = Slash::Image(Some("/tmp/photo.png".to_owned()));
    assert_eq!(chat.enter("/image /tmp/photo.png"), Some(Effect::Command("/image /tmp/photo.png".to_owned(), command)));
    chat.ui.attach(image());
    chat.write("and this");
    assert_eq!(chat.press(KeyCode::Enter, KeyModifiers::ALT), None);
    assert!(chat.ui.attached().is_empty() && chat.screen().contains("queued: [image png 640x480] and this"));
    chat.ui.attach(image());
    assert_eq!(chat.code(KeyCode::Enter), Some(Effect::Steer(String::new())));
    chat.ui.take_images();
    chat.event(ended("interrupted", None));
    assert_eq!(chat.ui.end(false), None);
    chat.code(KeyCode::Up);
    assert_eq!((chat.ui.input().as_str(), chat.ui.attached()), ("and this", &[image()][..]), "taken back");
    chat.control('u');
    chat.ui.take_images();
    assert_eq!(chat.enter("see /tmp/photo.png"), Some(Effect::Send("see /tmp/photo.png".to_owned())));
}
