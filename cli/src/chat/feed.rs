//! The events of a turn as lines of the chat, and what the turn waits for.
//!
//! A pure fold: the same events give the same lines, whatever their pace. Lines that are final go to [`Above`]; what is still coming in is asked for with
//! [`Feed::unfinished`].

use super::markdown::{Look, Markdown};
use super::shell;
use super::styled::{BOLD, DIM, ERROR, GOOD, Line, OWN, PLAIN, Paragraph, WARN};
use crate::local_time::local_time;
use crate::safe_text::{safe, safe_line};
use crate::transcript::{images_words, model_name};
use agent_runtime::session_store::{
    AssistantMessage, Event, ModelError, Todo, TodoStatus, ToolCall, ToolFinished, ToolOutcome, ToolStarted, TurnEnded,
};
use agent_runtime::{DeltaKind, Tool, ToolDelta, TurnEvent};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The tool whose result is the list that [`Event::TodosChanged`] shows.
const TODO_TOOL: &str = "todo";
/// How many lines of a tool's result are shown.
const RESULT_LINES: usize = 4;
/// How many lines of a running tool's output are shown, and how much of it is kept for that, in bytes.
const OUTPUT_LINES: usize = 4;
const OUTPUT_BYTES: usize = 4 * 1024;
/// How many columns a tool's call or a line of its result may take before it is cut, on any terminal.
const CALL_COLUMNS: usize = 400;

/// What a line belongs to: between different things there is a blank line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Own,
    Answer,
    Tools,
    Notice,
}

/// Lines that are final, on their way to the terminal's scrollback.
#[derive(Debug, Default)]
pub(super) struct Above {
    lines: Vec<Line>,
    part: Option<Part>,
}

impl Above {
    /// Begins a part, after a blank line where the one before was another.
    pub(super) fn begin(&mut self, part: Part) -> &mut Vec<Line> {
        let is_new = self.part != Some(part) || part == Part::Own;
        if self.part.replace(part).is_some() && is_new {
            self.lines.push(Line::default());
        }
        &mut self.lines
    }

    /// A part of its own for what comes next, also where it is of the same kind.
    pub(super) fn end_part(&mut self) {
        if self.part == Some(Part::Answer) {
            self.part = Some(Part::Own);
        }
    }

    pub(super) fn take(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }
}

/// What a turn waits for.
#[derive(Clone, Debug, Default, PartialEq)]
enum Phase {
    #[default]
    Starting,
    Asked,
    Thinking,
    Answering,
    Retrying {
        why: String,
    },
    Deciding,
}

struct Running {
    call: String,
    description: String,
    output: OutputEnd,
}

/// The end of what a running call puts out.
#[derive(Default)]
struct OutputEnd {
    text: String,
    /// How much came altogether, in bytes.
    end: u64,
}

impl OutputEnd {
    fn push(&mut self, delta: &ToolDelta) {
        if delta.offset != self.end {
            self.text.clear();
        }
        self.text.push_str(&delta.text);
        self.end = delta.offset + delta.text.len() as u64;
        let mut excess = self.text.len().saturating_sub(OUTPUT_BYTES);
        while !self.text.is_char_boundary(excess) {
            excess += 1;
        }
        self.text.drain(..excess);
    }

    /// Its last lines, oldest first, safe to print. Of a line that was written over, as progress is shown, only what stands there now.
    fn last_lines(&self, most: usize) -> Vec<String> {
        let written_last =
            |line: &str| line.rsplit('\r').find(|part| !part.trim().is_empty()).map(|part| part.trim_end().to_owned());
        let mut lines: Vec<String> = self.text.lines().rev().filter_map(written_last).take(most).collect();
        lines.reverse();
        lines.into_iter().map(|line| safe(&line).replace('\t', "    ")).collect()
    }
}

/// Folds the events of one turn after the other.
pub(super) struct Feed {
    look: Look,
    tools: HashMap<String, Arc<dyn Tool>>,
    markdown: Markdown,
    /// The calls of the answer that is being worked on, described.
    described: HashMap<String, String>,
    running: Vec<Running>,
    /// The call that the last line above is about.
    last_shown: Option<String>,
    phase: Phase,
    model: String,
}

impl Feed {
    pub(super) fn new(look: Look, tools: &[Arc<dyn Tool>]) -> Self {
        Self {
            look,
            tools: tools.iter().map(|tool| (tool.spec().name, Arc::clone(tool))).collect(),
            markdown: Markdown::new(look),
            described: HashMap::new(),
            running: Vec::new(),
            last_shown: None,
            phase: Phase::Starting,
            model: String::new(),
        }
    }

    /// Takes in an event; rows are at most `limit` columns wide.
    pub(super) fn event(&mut self, event: &TurnEvent, limit: usize, above: &mut Above) {
        match event {
            TurnEvent::Delta(delta) => match delta.kind {
                DeltaKind::Reasoning => self.phase = Phase::Thinking,
                DeltaKind::Text => {
                    self.phase = Phase::Answering;
                    self.text(&delta.text, limit, above);
                }
            },
            TurnEvent::ToolDelta(delta) => {
                if let Some(running) = self.running.iter_mut().find(|running| running.call == delta.call) {
                    running.output.push(delta);
                }
            }
            TurnEvent::Entry(entry) => self.entry(&entry.event, limit, above),
            // Kinds of a later version show nothing.
            _ => {}
        }
    }

    /// A command of the person's runs; its output comes as that of the call [`shell::CALL`].
    pub(super) fn shell_started(&mut self, command: &str) {
        let (call, description) = (shell::CALL.to_owned(), one_line(command));
        self.running.push(Running { call, description, output: OutputEnd::default() });
    }

    /// It is over: what came of it is shown by others.
    pub(super) fn shell_ended(&mut self) {
        self.running.retain(|running| running.call != shell::CALL);
    }

    /// What came and may still change.
    pub(super) fn unfinished(&self, limit: usize) -> Vec<Line> {
        let mut rows = self.markdown.unfinished(limit);
        for running in &self.running {
            let (most, about) = match self.running.as_slice() {
                [_] => (OUTPUT_LINES, String::new()),
                _ => (1, format!("{}: ", running.description)),
            };
            let lines = running.output.last_lines(most).into_iter();
            rows.extend(lines.map(|line| indented(&Line::new(format!("{about}{line}"), DIM), limit)));
        }
        rows
    }

    /// What the turn waits for, in a few words.
    pub(super) fn waits_for(&self) -> String {
        match (&self.phase, self.running.as_slice()) {
            (_, [one]) => one.description.clone(),
            (_, [_, _, ..]) => format!("{} tools", self.running.len()),
            (Phase::Starting, _) => "writing it down".to_owned(),
            (Phase::Asked, _) => format!("waiting for {}", self.model),
            (Phase::Thinking, _) => format!("{} thinks", self.model),
            (Phase::Answering, _) => format!("{} answers", self.model),
            (Phase::Retrying { why }, _) => why.clone(),
            (Phase::Deciding, _) => "tool calls".to_owned(),
        }
    }

    fn text(&mut self, text: &str, limit: usize, above: &mut Above) {
        let mut rows = Vec::new();
        self.markdown.push(text, limit, &mut rows);
        if !rows.is_empty() {
            above.begin(Part::Answer).append(&mut rows);
        }
    }

    fn end_text(&mut self, limit: usize, above: &mut Above) {
        let mut rows = Vec::new();
        self.markdown.finish(limit, &mut rows);
        if !rows.is_empty() {
            above.begin(Part::Answer).append(&mut rows);
        }
        above.end_part();
    }

    fn entry(&mut self, event: &Event, limit: usize, above: &mut Above) {
        match event {
            Event::ModelRequest(request) => {
                self.model = match request.origin.provider.as_str() {
                    "offline" => "offline".to_owned(),
                    provider => safe_line(&format!("{provider}/{}", request.origin.model)).into_owned(),
                };
                self.phase = Phase::Asked;
            }
            Event::ModelError(error) => self.model_error(error, limit, above),
            Event::ModelWaiting(waiting) => {
                let until = local_time(waiting.until);
                let why = if waiting.reason == "breaker_open" {
                    "it failed too often: its breaker is open"
                } else {
                    "it asks for that"
                };
                notice(&format!("{} is asked at {until} ({why}). Esc stops the wait.", waiting.model), WARN, limit, above);
                self.phase = Phase::Retrying { why: format!("waiting until {until}") };
            }
            Event::ModelFallback(fallback) => {
                let (detail, to) = (sentence(&fallback.detail), model_name(&fallback.to));
                let words = format!("{detail} {to} is asked instead, until the end of this turn.");
                notice(&words, WARN, limit, above);
            }
            Event::ImagesRefused(refused) => {
                notice(&sentence(&format!("{} left out from here on", images_words(&refused.images))), WARN, limit, above);
            }
            Event::AssistantMessage(message) => self.answered(message, limit, above),
            Event::ToolStarted(started) => self.started(started, above),
            Event::ToolFinished(finished) => self.finished(finished, limit, above),
            Event::TodosChanged(changed) => {
                let rows = above.begin(Part::Tools);
                rows.extend(todo_lines(&changed.todos, self.look).into_iter().map(|line| indented(&line, limit)));
                self.last_shown = None;
            }
            Event::ContextTrimmed(trim) => {
                let (before, after) = (trim.tokens_before, trim.tokens_after);
                let summed_up = if trim.summary.is_some() { ", with a summary of them" } else { "" };
                let words = format!(
                    "Older steps left the context{summed_up}: about {before} tokens became {after}. The log has them all."
                );
                notice(&words, DIM, limit, above);
            }
            Event::Error(error) => notice(&format!("{}: {}", error.scope, error.message), ERROR, limit, above),
            Event::TurnEnded(ended) => self.ended(ended, limit, above),
            _ => {}
        }
    }

    fn model_error(&mut self, error: &ModelError, limit: usize, above: &mut Above) {
        self.end_text(limit, above);
        // Without another try, the turn's end tells it.
        if let Some(ms) = error.retry_in_ms {
            let why = format!("{} Trying again in {}.", sentence(&error.detail), seconds(Duration::from_millis(ms)));
            notice(&why, WARN, limit, above);
            self.phase = Phase::Retrying { why: "waiting to try again".to_owned() };
        } else if let Some(at) = error.retry_at {
            notice(&format!("It wants to be asked again at {}.", local_time(at)), WARN, limit, above);
        }
    }

    fn answered(&mut self, message: &AssistantMessage, limit: usize, above: &mut Above) {
        self.end_text(limit, above);
        for call in message.tool_calls() {
            self.described.insert(call.id.clone(), self.describe(call));
        }
        self.phase = Phase::Deciding;
    }

    fn describe(&self, call: &ToolCall) -> String {
        let arguments = serde_json::from_str(&call.arguments).ok();
        let described = match (self.tools.get(&call.name), arguments) {
            (Some(tool), Some(arguments)) => tool.describe(&arguments),
            _ => format!("{} {}", call.name, call.arguments),
        };
        one_line(&described)
    }

    fn started(&mut self, started: &ToolStarted, above: &mut Above) {
        let description = self.described.get(&started.call).cloned().unwrap_or_else(|| one_line(&started.name));
        above.begin(Part::Tools).push(call_line(&description));
        self.last_shown = Some(started.call.clone());
        self.running.push(Running { call: started.call.clone(), description, output: OutputEnd::default() });
    }

    fn finished(&mut self, finished: &ToolFinished, limit: usize, above: &mut Above) {
        let was_running = self.running.iter().any(|running| running.call == finished.call);
        self.running.retain(|running| running.call != finished.call);
        let description = self.described.remove(&finished.call).unwrap_or_else(|| one_line(&finished.name));
        if finished.name == TODO_TOOL && finished.outcome == ToolOutcome::Ok {
            return;
        }
        let lines = above.begin(Part::Tools);
        if !was_running {
            lines.push(call_line(&description));
        }
        let is_next_to_call = !was_running || self.last_shown.as_ref() == Some(&finished.call);
        let about = if is_next_to_call { None } else { Some(description.as_str()) };
        lines.extend(result_lines(finished, about).into_iter().map(|line| indented(&line, limit)));
        self.last_shown = None;
    }

    fn ended(&mut self, ended: &TurnEnded, limit: usize, above: &mut Above) {
        self.end_text(limit, above);
        self.running.clear();
        self.described.clear();
        self.phase = Phase::Starting;
        let took = seconds(Duration::from_millis(ended.duration_ms));
        let why = ended.error.as_deref().map(sentence);
        let (words, style) = match (ended.reason.as_str(), why) {
            ("done", _) => return,
            ("interrupted", _) => (format!("Stopped after {took}. What came is kept."), WARN),
            ("timeout", why) => (format!("{} /retry asks again.", why.unwrap_or_default()), ERROR),
            ("max_turns", _) => {
                (format!("Ended after {} model calls, the most that is allowed. /retry goes on.", ended.model_calls), WARN)
            }
            ("budget", _) => ("The session has used up its budget. /retry goes on with as much again.".to_owned(), WARN),
            ("max_tokens", _) => ("The answer was cut at its length limit. /retry goes on.".to_owned(), WARN),
            ("refusal", _) => ("The model refused to answer.".to_owned(), WARN),
            ("denied", _) => ("Ended: the same call was refused three times.".to_owned(), WARN),
            (reason, why) => (format!("{} /retry asks again.", why.unwrap_or_else(|| sentence(reason))), ERROR),
        };
        notice(words.trim_start(), style, limit, above);
    }
}

/// A notice of the program itself, wrapped.
pub(super) fn notice(text: &str, style: anstyle::Style, limit: usize, above: &mut Above) {
    let rows = above.begin(Part::Notice);
    for line in safe(text).replace('\t', "    ").lines() {
        rows.extend(Paragraph::bare(Line::new(line, style)).lines(limit));
    }
}

/// What the person said.
pub(super) fn own_words(text: &str, limit: usize, above: &mut Above) {
    let rows = above.begin(Part::Own);
    for (at, line) in safe(text).replace('\t', "    ").lines().enumerate() {
        let first = Line::new(if at == 0 { "> " } else { "  " }, OWN);
        let paragraph = Paragraph { first, rest: Line::plain("  "), body: Line::new(line, OWN) };
        rows.extend(paragraph.lines(limit));
    }
}

/// The todo list, a line for each item.
pub(super) fn todo_lines(todos: &[Todo], look: Look) -> Vec<Line> {
    if todos.is_empty() {
        return vec![Line::new("(the todo list is empty)", DIM)];
    }
    let line = |todo: &Todo| {
        let (mark, style) = match todo.status {
            TodoStatus::Pending => ("[ ] ", PLAIN),
            TodoStatus::InProgress => ("[>] ", BOLD),
            TodoStatus::Completed => ("[x] ", DIM),
        };
        let done = todo.status == TodoStatus::Completed && look == Look::Styled;
        let words = if done { style.strikethrough() } else { style };
        Line::new(mark, style).with(safe_line(&todo.content), words)
    };
    todos.iter().map(line).collect()
}

/// A duration for people: `0.4 s`, `12 s`, `3 min 5 s`.
pub(super) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..=9 => format!("{:.1} s", duration.as_secs_f64()),
        whole @ 10..=59 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

fn call_line(description: &str) -> Line {
    Line::new("* ", GOOD).with(description, PLAIN).truncated(CALL_COLUMNS)
}

fn result_lines(finished: &ToolFinished, about: Option<&str>) -> Vec<Line> {
    let (word, style) = match finished.outcome {
        ToolOutcome::Ok => ("ok", DIM),
        ToolOutcome::Error => ("failed", ERROR),
        ToolOutcome::InvalidArguments => ("the model's arguments are invalid", ERROR),
        ToolOutcome::Denied => ("denied", WARN),
        ToolOutcome::NotRun => ("not run", WARN),
        ToolOutcome::Interrupted => ("stopped", WARN),
        ToolOutcome::Timeout => ("stopped at its time limit", ERROR),
        _ => ("ended", WARN),
    };
    let output = safe(finished.output.trim_end()).replace('\t', "    ");
    let lines: Vec<&str> = match finished.outcome {
        // The word says all of it.
        ToolOutcome::NotRun => Vec::new(),
        _ => output.lines().collect(),
    };
    let mut summary = about.map_or_else(Line::default, |about| Line::new(format!("{about}: "), DIM)).with(word, style);
    if finished.duration_ms >= 100 {
        summary.push(format!(", {}", seconds(Duration::from_millis(finished.duration_ms))), DIM);
    }
    if lines.len() > RESULT_LINES {
        summary.push(format!(", {} lines", lines.len()), DIM);
    }
    let shown = if lines.len() > RESULT_LINES + 1 { RESULT_LINES } else { lines.len() };
    let mut shown: Vec<Line> = lines[..shown].iter().map(|line| Line::new(*line, DIM)).collect();
    if shown.len() < lines.len() {
        shown.push(Line::new("...", DIM));
    }
    shown.insert(0, summary);
    shown
}

fn indented(line: &Line, limit: usize) -> Line {
    let mut indented = Line::plain("  ");
    indented.extend(line);
    indented.truncated(limit.min(CALL_COLUMNS))
}

fn one_line(text: &str) -> String {
    let line = safe_line(text);
    if line.len() <= CALL_COLUMNS { line.into_owned() } else { Line::plain(line).truncated(CALL_COLUMNS).text() }
}

/// With a capital first and a full stop last.
pub(super) fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let end = if text.ends_with(['.', '!', '?', ':']) { "" } else { "." };
    format!("{}{}{end}", first.to_uppercase(), chars.as_str())
}
