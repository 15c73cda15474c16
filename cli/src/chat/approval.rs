//! Asking a person whether a tool may run.
//!
//! The runtime asks through [`ChatApprover`], over a bounded channel; the chat shows the whole call and answers through the [`Ask`]. A prompt takes no key that was
//! typed before it appeared: it listens only after [`GRACE`] without a key, and what is typed until then goes to the input line, where it was meant to go.
//! A letter that is no answer begins a message, so that the letters behind it are none either.
//! When the turn is stopped, the runtime drops its side, and the prompt goes away.

use super::editor::{Edit, Editor};
use super::feed::{Above, Part};
use super::keys::Key;
use super::markdown::Look;
use super::styled::{BOLD, DIM, ERROR, GOOD, Line, PLAIN, Paragraph, WARN};
use crate::safe_text::safe;
use agent_runtime::{Approval, ApprovalRequest, Approver};
use async_trait::async_trait;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long no key may have been pressed before a prompt listens.
pub(super) const GRACE: Duration = Duration::from_millis(300);
/// How many questions may wait; the runtime asks one after the other.
const ASKS_MAX: usize = 8;

/// A question with the way back for its answer.
pub(super) struct Ask {
    pub(super) request: ApprovalRequest,
    pub(super) answer: oneshot::Sender<Approval>,
}

/// The runtime's side.
pub(super) struct ChatApprover {
    asks: mpsc::Sender<Ask>,
}

impl ChatApprover {
    /// An approver, and the questions that are put to it.
    pub(super) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, questions) = mpsc::channel(ASKS_MAX);
        (Self { asks }, questions)
    }
}

#[async_trait]
impl Approver for ChatApprover {
    async fn ask(&self, request: ApprovalRequest) -> Approval {
        let gone = || Approval::Deny("there is nobody left to ask".to_owned());
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask { request, answer }).await.is_err() {
            return gone();
        }
        answered.await.unwrap_or_else(|_| gone())
    }
}

/// A question on the screen.
pub(super) struct Prompt {
    ask: Ask,
    /// When the last key came that it did not take.
    quiet_since: Instant,
    /// The reason for a no, while it is being typed.
    reason: Option<Editor>,
}

/// What a key did to a prompt.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// The prompt does not listen yet: the key is for the input line, if it is a character.
    NotYet,
    /// Taken.
    Yes,
    /// The question is answered.
    Answered,
    /// Stop the turn.
    Stop,
}

impl Prompt {
    /// Shows the question from `now` on.
    pub(super) fn new(ask: Ask, now: Instant) -> Self {
        Self { ask, quiet_since: now, reason: None }
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_moot(&self) -> bool {
        self.ask.answer.is_closed()
    }

    /// Whether keys are answers by now.
    pub(super) fn listens(&self, now: Instant) -> bool {
        now.duration_since(self.quiet_since) >= GRACE
    }

    /// Takes a key. An answer is sent by [`Prompt::answer`], which wants the prompt itself.
    pub(super) fn key(&mut self, key: Key, now: Instant) -> (Taken, Option<Approval>) {
        if !self.listens(now) {
            self.quiet_since = now;
            return (Taken::NotYet, None);
        }
        if let Some(reason) = &mut self.reason {
            match key {
                Key::Edit(edit) => reason.edit(edit),
                Key::Enter => return (Taken::Answered, Some(Approval::Deny(reason.take().trim().to_owned()))),
                Key::Escape | Key::CtrlC => return (Taken::Stop, None),
                _ => {}
            }
            return (Taken::Yes, None);
        }
        match key {
            Key::Edit(Edit::Insert('y' | 'Y')) => (Taken::Answered, Some(Approval::Approve)),
            Key::Edit(Edit::Insert('a' | 'A')) => (Taken::Answered, Some(Approval::ApproveAlways)),
            Key::Edit(Edit::Insert('n' | 'N')) => {
                self.reason = Some(Editor::default());
                (Taken::Yes, None)
            }
            Key::Escape | Key::CtrlC => (Taken::Stop, None),
            // Somebody writes a message: the rest of the word is no answer either.
            Key::Edit(_) => {
                self.quiet_since = now;
                (Taken::NotYet, None)
            }
            _ => (Taken::Yes, None),
        }
    }

    /// A paste is no answer; it may be part of a reason.
    pub(super) fn paste(&mut self, text: &str, now: Instant) -> Taken {
        match &mut self.reason {
            Some(reason) => {
                reason.paste(text);
                Taken::Yes
            }
            None => {
                self.quiet_since = now;
                Taken::NotYet
            }
        }
    }

    /// Gives the answer; where the turn was stopped meanwhile, nobody wants it.
    pub(super) fn answer(self, approval: Approval) {
        let _ = self.ask.answer.send(approval);
    }

    /// The rows of the prompt, and where the cursor is in them.
    pub(super) fn view(&self, limit: usize, now: Instant) -> (Vec<Line>, (usize, usize)) {
        if let Some(reason) = &self.reason {
            let view = reason.view("Why not? (Enter: no reason) ", limit);
            return (view.rows, view.cursor);
        }
        let keys = if self.listens(now) { BOLD } else { DIM };
        let mut line = Line::new(format!("Run {}? ", safe(&self.ask.request.tool).replace('\n', " ")), WARN);
        for (key, means) in [("y", " once  "), ("a", " for this session  "), ("n", " no  "), ("Esc", " stop ")] {
            line.push(key, keys);
            line.push(means, DIM);
        }
        let row = line.truncated(limit);
        let column = row.width();
        (vec![row], (0, column))
    }

    /// Prints the whole call, so that nothing of it is out of sight: the prompt itself is short.
    pub(super) fn print(&self, look: Look, limit: usize, above: &mut Above) {
        let rows = above.begin(Part::Tools);
        rows.extend(details(&self.ask.request, look, limit));
    }
}

/// A call, whole: its words in one line, then each argument; texts of many lines as they are, an edit as what goes and what comes.
fn details(request: &ApprovalRequest, look: Look, limit: usize) -> Vec<Line> {
    let mut rows = Paragraph {
        first: Line::new("? ", WARN),
        rest: Line::plain("  "),
        body: Line::new(one_line(&request.description), BOLD),
    }
    .lines(limit);
    let arguments: Result<Value, _> = serde_json::from_str(&request.arguments);
    let Ok(Value::Object(arguments)) = arguments else {
        rows.extend(block(&request.arguments, "    ", PLAIN, limit));
        return rows;
    };
    let (minus, plus) = if look == Look::Styled { (ERROR, GOOD) } else { (PLAIN, PLAIN) };
    for (name, value) in &arguments {
        // What the first line says in full is not said again.
        if value.as_str().is_some_and(|text| !text.is_empty() && request.description.ends_with(text)) {
            continue;
        }
        let (mark, style) = match name.as_str() {
            "old" => ("  - ", minus),
            "new" | "content" => ("  + ", plus),
            _ => ("    ", PLAIN),
        };
        match value {
            Value::String(text) if mark != "    " || text.contains('\n') => {
                if mark == "    " {
                    rows.push(Line::new(format!("  {}:", one_line(name)), DIM));
                }
                rows.extend(block(text, mark, style, limit));
            }
            Value::String(text) => rows.extend(argument(name, text, limit)),
            other => rows.extend(argument(name, &other.to_string(), limit)),
        }
    }
    rows
}

fn argument(name: &str, text: &str, limit: usize) -> Vec<Line> {
    let first = Line::new(format!("  {}: ", one_line(name)), DIM);
    Paragraph { first, rest: Line::plain("    "), body: Line::plain(one_line(text)) }.lines(limit)
}

fn block(text: &str, mark: &str, style: anstyle::Style, limit: usize) -> Vec<Line> {
    let prefix = Line::new(mark, style);
    let text = safe(text).replace('\t', "    ");
    let lines =
        text.lines().map(|line| Paragraph { first: prefix.clone(), rest: Line::plain("    "), body: Line::new(line, style) });
    lines.flat_map(|paragraph| paragraph.lines(limit)).collect()
}

fn one_line(text: &str) -> String {
    crate::safe_text::safe_line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(tool: &str, description: &str, arguments: &str) -> (Ask, oneshot::Receiver<Approval>) {
        let (answer, answered) = oneshot::channel();
        let request = ApprovalRequest {
            call: "call_1_0".to_owned(),
            tool: tool.to_owned(),
            arguments: arguments.to_owned(),
            description: description.to_owned(),
        };
        (Ask { request, answer }, answered)
    }

    const YES: Key = Key::Edit(Edit::Insert('y'));

    #[test]
    fn keys_typed_before_the_prompt_appeared_are_no_answer() {
        let (ask, _answered) = ask("shell", "shell: rm x", r#"{"command":"rm x"}"#);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut prompt = Prompt::new(ask, start);
        assert_eq!(prompt.key(YES, at(10)).0, Taken::NotYet);
        // Somebody who keeps typing is not asked in the middle of a word.
        assert_eq!(prompt.key(YES, at(290)).0, Taken::NotYet);
        assert_eq!(prompt.key(YES, at(580)).0, Taken::NotYet);
        assert_eq!(prompt.key(YES, at(900)), (Taken::Answered, Some(Approval::Approve)));
    }

    #[test]
    fn a_message_that_is_typed_into_a_prompt_is_no_answer() {
        let (ask, _answered) = ask("shell", "shell: rm x", r#"{"command":"rm x"}"#);
        let start = Instant::now();
        let mut prompt = Prompt::new(ask, start);
        for (at, key) in "try any other way".chars().enumerate() {
            let now = start + GRACE + Duration::from_millis(at as u64 * 100);
            assert_eq!(prompt.key(Key::Edit(Edit::Insert(key)), now).0, Taken::NotYet);
        }
    }

    #[test]
    fn a_no_may_have_a_reason() {
        let (ask, _answered) = ask("shell", "shell: rm x", r#"{"command":"rm x"}"#);
        let start = Instant::now();
        let now = start + GRACE;
        let mut prompt = Prompt::new(ask, start);
        for key in "nnot y".chars() {
            assert_eq!(prompt.key(Key::Edit(Edit::Insert(key)), now).0, Taken::Yes);
        }
        assert_eq!(prompt.key(Key::Enter, now), (Taken::Answered, Some(Approval::Deny("not y".to_owned()))));
    }

    #[test]
    fn enter_and_pastes_answer_nothing_and_escape_stops() {
        let (ask, _answered) = ask("shell", "shell: rm x", r#"{"command":"rm x"}"#);
        let start = Instant::now();
        let now = start + GRACE;
        let mut prompt = Prompt::new(ask, start);
        assert_eq!(prompt.key(Key::Enter, now), (Taken::Yes, None));
        assert_eq!(prompt.key(Key::Escape, now), (Taken::Stop, None));
        assert_eq!(prompt.paste("y", now), Taken::NotYet);
        assert_eq!(prompt.key(YES, now).0, Taken::NotYet);
    }

    #[tokio::test]
    async fn the_answer_reaches_the_runtime_and_a_stopped_turn_takes_the_question_back() {
        let (approver, mut asks) = ChatApprover::new();
        let request = ask("shell", "", "{}").0.request;
        let asked = tokio::spawn({
            let request = request.clone();
            async move { (approver.ask(request).await, approver) }
        });
        let question = asks.recv().await.expect("asked");
        Prompt::new(question, Instant::now()).answer(Approval::ApproveAlways);
        let (approval, approver) = asked.await.expect("no panic");
        assert_eq!(approval, Approval::ApproveAlways);
        let stopped = tokio::spawn(async move { approver.ask(request).await });
        let question = asks.recv().await.expect("asked");
        stopped.abort();
        assert!(stopped.await.is_err());
        assert!(Prompt::new(question, Instant::now()).is_moot());
    }

    #[test]
    fn the_whole_call_is_shown_and_cannot_command_the_terminal() {
        let show = |request: &ApprovalRequest| {
            let rows = details(request, Look::Plain, 50);
            rows.iter().map(|row| row.text() + "\n").collect::<String>()
        };
        let shell =
            ask("shell", "shell: echo a\\nrm -rf b", r#"{"command":"echo a\nrm -rf \u001b[2Jb","time_limit":20}"#).0.request;
        let edit = ask(
            "edit",
            "edit a.rs (3 bytes by 9)",
            r#"{"path":"a.rs","old":"one\ntwo","new":"a line that is longer than the screen is wide, wrapped"}"#,
        )
        .0
        .request;
        let broken = ask("edit", "edit", "{\"path\": ").0.request;
        let shown = [shell, edit, broken].iter().map(show).collect::<Vec<_>>().join("---\n");
        assert!(!shown.contains('\u{1b}'));
        insta::assert_snapshot!(shown);
    }
}
