//! A transcript that is printed while it happens: an answer appears piece by piece, everything else as `sessions show` has it.

use super::{Answer, Item, ItemKind, Painter, Transcript, answer_words, model_name};
use crate::safe_text::safe;
use session_store::{Entry, Event, Seq};

/// Entries in, text to print out.
#[derive(Debug)]
pub(crate) struct LivePrinter {
    painter: Painter,
    transcript: Transcript,
    /// The answer whose beginning is printed.
    answer: Option<Begun>,
}

/// How much of an answer is printed.
#[derive(Debug, Default)]
struct Begun {
    message: Seq,
    text_bytes: usize,
    reasoning_bytes: usize,
    at_line_start: bool,
}

impl LivePrinter {
    /// A printer that goes on after `transcript`, of which only what comes is printed.
    pub(crate) fn new(painter: Painter, transcript: Transcript) -> Self {
        Self { painter, transcript, answer: None }
    }

    /// Takes the next entry; gives what to print now.
    pub(crate) fn push(&mut self, entry: &Entry) -> String {
        let items = self.transcript.push(entry);
        let mut out = self.print(items);
        if matches!(entry.event, Event::AssistantText(_) | Event::AssistantReasoning(_)) {
            out += &self.catch_up();
        }
        out
    }

    /// Prints what is known of the answer in flight and not yet printed.
    pub(crate) fn catch_up(&mut self) -> String {
        let Some(answer) = &self.transcript.state().in_flight else { return String::new() };
        let mut out = String::new();
        let begun = match &mut self.answer {
            Some(begun) if begun.message == answer.message => begun,
            other => {
                out += &self.painter.head(&self.transcript.request_item(), &answer_words(&model_name(&answer.origin)));
                other.insert(Begun { message: answer.message, at_line_start: true, ..Begun::default() })
            }
        };
        let reasoning = rest(&answer.reasoning, begun.reasoning_bytes);
        let text = rest(&answer.text, begun.text_bytes);
        begun.reasoning_bytes += reasoning.len();
        if !reasoning.is_empty() {
            begun.at_line_start = reasoning.ends_with('\n');
            out += &self.painter.dim(&safe(reasoning));
        }
        if !text.is_empty() {
            if begun.text_bytes == 0 && !begun.at_line_start {
                out.push('\n');
            }
            begun.text_bytes += text.len();
            begun.at_line_start = text.ends_with('\n');
            out += &safe(text);
        }
        out
    }

    /// Prints the calls that run, as a part of what was there before; `live`: a process writes the session.
    pub(crate) fn running(&mut self, live: bool) -> String {
        let running: Vec<Item> = self.transcript.running(live).collect();
        running.iter().map(|item| self.painter.item(item)).collect()
    }

    /// Ends the transcript; gives what was not printed.
    pub(crate) fn finish(&mut self, live: bool) -> String {
        let items = self.transcript.finish(live);
        self.print(items)
    }

    /// The answer whose beginning stands on the screen comes first, though what came in meanwhile has a smaller `seq`.
    fn print(&mut self, items: Vec<Item>) -> String {
        let mut out = String::new();
        let mut others = Vec::new();
        for item in items {
            match (&item.kind, self.answer.take()) {
                (ItemKind::Answer(answer), Some(begun)) if begun.message == answer.message => {
                    out += &self.end_of(answer, &begun);
                }
                (_, begun) => {
                    self.answer = begun;
                    others.push(item);
                }
            }
        }
        others.iter().for_each(|item| out += &self.painter.item(item));
        out
    }

    fn end_of(&self, answer: &Answer, begun: &Begun) -> String {
        let text = answer.text();
        let rest = rest(&text, begun.text_bytes).trim_end();
        let at_line_start = if rest.is_empty() { begun.at_line_start } else { false };
        let newline = if at_line_start { "" } else { "\n" };
        format!("{}{newline}{}\n", safe(rest), self.painter.answer_foot(answer))
    }
}

/// What `whole` has after its first `printed` bytes.
fn rest(whole: &str, printed: usize) -> &str {
    whole.get(printed..).unwrap_or_default()
}
