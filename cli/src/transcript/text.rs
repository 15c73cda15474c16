//! Items as plain text for a terminal or a file: what `sessions show`, `sessions tail` and `replay` print.

use super::{Answer, Item, ItemKind, ToolEnd};
use crate::safe_text::{safe, safe_line};
use anstyle::{AnsiColor, Style};
use serde_json::Value;
use session_store::{Block, Profile, Timestamp, Todo, TodoStatus, ToolCall, ToolFinished, ToolOutcome, UserKind, with_images};
use std::fmt::Write;

/// How many characters of a call's arguments, and of the first line of its result, stand in its line.
const CALL_CHARS_MAX: usize = 80;
const RESULT_CHARS_MAX: usize = 60;

/// What is said before the output of a call that has no result.
pub(crate) const PARTIAL: &str = "the end of its output, as far as it is known";

const HEAD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const TROUBLE: Style = AnsiColor::Yellow.on_default();

/// Writes items as text that is safe to print, with colours where `colour` says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Painter {
    colour: bool,
    /// Whether the last thing was a line of its own: a message after it is set off by a blank line.
    is_after_line: bool,
}

impl Painter {
    /// A painter. Everything can be read without colour.
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour, is_after_line: false }
    }

    /// An item, ending in a newline; a message ends in a blank line too.
    pub(crate) fn item(&mut self, item: &Item) -> String {
        match &item.kind {
            ItemKind::Profile(profile) => self.line(item, DIM, &profile_words(profile)),
            ItemKind::User { text, kind, images } => self.message(item, user_words(*kind), &with_images(text, images)),
            ItemKind::Note { text } => self.message(item, "note to the model", text),
            ItemKind::Answer(answer) => self.answer(item, answer),
            ItemKind::Tool { call, end } => {
                let style = if is_trouble(end) { TROUBLE } else { DIM };
                let words = format!("{}: {}", call_words(call), end_words(end));
                match end.partial_output() {
                    None => self.line(item, style, &words),
                    Some(output) => {
                        let output = format!("{}\n", indented(&quoted(&safe(output.trim_end()))));
                        self.line(item, style, &format!("{words}; {PARTIAL}:")) + &self.styled(DIM, &output)
                    }
                }
            }
            ItemKind::Todos(todos) => self.todos(item, todos),
            ItemKind::Remark { text, trouble } => self.line(item, if *trouble { TROUBLE } else { DIM }, text),
        }
    }

    /// The line above a message, for one that is printed piece by piece.
    pub(crate) fn head(&mut self, item: &Item, who: &str) -> String {
        let unchecked = if item.sound { "" } else { " (damaged: its checksum does not hold)" };
        let apart = if std::mem::take(&mut self.is_after_line) { "\n" } else { "" };
        let who = self.styled(HEAD, &format!("[{}] {}", item.seq, safe_line(who)));
        format!("{apart}{who} {}{unchecked}\n", self.styled(DIM, &clock(item.at)))
    }

    /// What stands below an answer that is not whole; empty for a whole one.
    pub(crate) fn answer_foot(self, answer: &Answer) -> String {
        match (answer.partial, answer.coming) {
            (true, true) => self.styled(TROUBLE, "[still being written]") + "\n",
            (true, false) => self.styled(TROUBLE, "[cut off here]") + "\n",
            (false, _) => String::new(),
        }
    }

    /// Safe text, dimmed.
    pub(crate) fn dim(self, text: &str) -> String {
        self.styled(DIM, text)
    }

    /// Safe text that stands out.
    pub(crate) fn bold(self, text: &str) -> String {
        self.styled(HEAD, text)
    }

    fn message(&mut self, item: &Item, who: &str, text: &str) -> String {
        format!("{}{}\n\n", self.head(item, who), safe(text.trim_end()))
    }

    fn answer(&mut self, item: &Item, answer: &Answer) -> String {
        let mut out = self.head(item, &answer_words(&answer.model));
        for block in &answer.blocks {
            match block {
                Block::Reasoning { text, .. } if !text.trim().is_empty() => {
                    let _ = writeln!(out, "{}", self.styled(DIM, &quoted(&safe(text.trim_end()))));
                }
                Block::Text { text } if !text.trim().is_empty() => {
                    let _ = writeln!(out, "{}", safe(text.trim_end()));
                }
                block if is_image(block) => {
                    let _ = writeln!(out, "[image]");
                }
                _ => {}
            }
        }
        let foot = self.answer_foot(answer);
        // An answer that only calls tools has nothing but their lines below it.
        let has_body = answer.blocks.iter().any(|block| !matches!(block, Block::ToolCall(_)));
        out + &foot + if has_body { "\n" } else { "" }
    }

    fn todos(&mut self, item: &Item, todos: &[Todo]) -> String {
        let mut out = self.line(item, DIM, if todos.is_empty() { "the todo list is empty" } else { "todo list:" });
        for todo in todos {
            let _ = writeln!(out, "    {} {}", todo_mark(todo.status), safe_line(&todo.content));
        }
        out
    }

    fn line(&mut self, item: &Item, style: Style, text: &str) -> String {
        self.is_after_line = true;
        let unchecked = if item.sound { "" } else { " (damaged)" };
        self.styled(style, &format!("[{}] {}{unchecked}", item.seq, safe_line(text))) + "\n"
    }

    /// `text` must be safe already: styles are the only control sequences that leave here.
    fn styled(self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Whether a block of an answer is an image, in the form of whatever provider sent it.
pub(crate) fn is_image(block: &Block) -> bool {
    let (Block::Opaque { opaque: value } | Block::Unknown(value)) = block else { return false };
    value["type"].as_str().is_some_and(|kind| kind.contains("image"))
}

/// Who speaks, for a person's message.
pub(crate) fn user_words(kind: UserKind) -> &'static str {
    match kind {
        UserKind::Steer => "you, while it worked",
        _ => "you",
    }
}

/// Who speaks, for an answer.
pub(crate) fn answer_words(model: &str) -> String {
    if model.is_empty() { "assistant".to_owned() } else { format!("assistant ({model})") }
}

/// `words` with a capital letter, for a heading.
pub(crate) fn capital(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect()
}

/// A call in a few words: `read(src/main.rs)`.
pub(crate) fn call_words(call: &ToolCall) -> String {
    let arguments = match serde_json::from_str::<Value>(&call.arguments) {
        Ok(Value::Object(fields)) if fields.len() == 1 => fields.values().map(value_words).collect(),
        Ok(Value::Object(fields)) => {
            let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{key}: {}", value_words(value))).collect();
            pairs.join(", ")
        }
        _ => call.arguments.clone(),
    };
    format!("{}({})", call.name, cut_to(&arguments, CALL_CHARS_MAX))
}

/// How a call ended, in a few words.
pub(crate) fn end_words(end: &ToolEnd) -> String {
    match end {
        ToolEnd::Finished(finished) => finished_words(finished),
        ToolEnd::Running(_) => "running".to_owned(),
        ToolEnd::Unknown(_) => "outcome unknown, it may have run".to_owned(),
        ToolEnd::Denied(reason) if reason.is_empty() => "denied".to_owned(),
        ToolEnd::Denied(reason) => format!("denied: {reason}"),
        ToolEnd::NotRun => "not run".to_owned(),
    }
}

/// The outcome as a person reads it, and how long it took where it ran: `ok, 1.2 s`.
pub(crate) fn outcome_words(finished: &ToolFinished) -> String {
    let took = duration_words(finished.duration_ms);
    match finished.outcome {
        ToolOutcome::Ok => format!("ok, {took}"),
        ToolOutcome::Error => format!("failed, {took}"),
        ToolOutcome::InvalidArguments => "invalid arguments".to_owned(),
        ToolOutcome::Denied => "denied".to_owned(),
        ToolOutcome::NotRun => "not run".to_owned(),
        ToolOutcome::Interrupted => format!("stopped after {took}"),
        ToolOutcome::Timeout => format!("stopped at its time limit, {took}"),
        _ => format!("ended in a way that this version does not know, {took}"),
    }
}

/// Whether a reader should look at how a call ended.
pub(crate) fn is_trouble(end: &ToolEnd) -> bool {
    !matches!(end, ToolEnd::Running(_) | ToolEnd::Finished(ToolFinished { outcome: ToolOutcome::Ok, .. }))
}

/// What a profile sets, in a line.
pub(crate) fn profile_words(profile: &Profile) -> String {
    let tools: Vec<&str> = profile.tools.iter().map(|tool| tool.name.as_str()).collect();
    let tools = if tools.is_empty() { "no tools".to_owned() } else { format!("tools {}", tools.join(", ")) };
    let effort = profile.parameters.effort.as_ref().map(|effort| format!("; effort {effort}")).unwrap_or_default();
    format!("model {}; {tools}{effort}; system prompt of {} characters", profile.model, profile.system.chars().count())
}

/// `[ ]`, `[>]` or `[x]`.
pub(crate) fn todo_mark(status: TodoStatus) -> &'static str {
    match status {
        TodoStatus::Pending => "[ ]",
        TodoStatus::InProgress => "[>]",
        TodoStatus::Completed => "[x]",
    }
}

/// `2026-01-31 23:59:59`, UTC.
pub(crate) fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {}", &text[..10], &text[11..19])
}

/// A duration in its two largest units: `340 ms`, `1.2 s`, `3 min 5 s`, `2 h 10 min`.
pub(crate) fn duration_words(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// `1 event`, `2 events`.
pub(crate) fn count_words(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn finished_words(finished: &ToolFinished) -> String {
    let outcome = outcome_words(finished);
    let output = with_images(&finished.output, &finished.images);
    let first = output.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let lines = match output.lines().count() {
        0 | 1 => String::new(),
        lines => format!(" ({lines} lines)"),
    };
    // A result that begins with its outcome does not say it twice.
    let said = first.get(..outcome.len()).filter(|start| start.eq_ignore_ascii_case(&outcome));
    let first = said.and_then(|_| first[outcome.len()..].strip_prefix(':')).map_or(first, str::trim_start);
    let first = cut_to(first, RESULT_CHARS_MAX);
    if first.is_empty() { outcome } else { format!("{outcome}: {first}{lines}") }
}

fn value_words(value: &Value) -> String {
    match value {
        Value::String(text) => match text.trim_end().split_once('\n') {
            Some((first, _)) => format!("{first}..."),
            None => text.trim_end().to_owned(),
        },
        Value::Array(items) if items.len() > 1 => format!("{} items", items.len()),
        other => other.to_string(),
    }
}

/// The first `chars_max` characters, with `...` where more is left out.
fn cut_to(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn quoted(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("| {line}")).collect();
    lines.join("\n")
}
