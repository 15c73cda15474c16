//! Where a resumed session goes on: what it is, and its last messages in brief.

use super::markdown::Look;
use super::picker::age;
use super::styled::{BOLD, DIM, Line, OWN, PLAIN, Paragraph, WARN};
use crate::safe_text::{safe, safe_line};
use agent_runtime::session_store::{Message, State, Timestamp, with_images};

/// How many of the last messages are shown, and how many lines of each.
const MESSAGES_SHOWN: usize = 4;
const LINES_SHOWN: usize = 6;

/// The lines that a resumed session begins with.
pub(super) fn lines(state: &State, look: Look, limit: usize, now: Timestamp) -> Vec<Line> {
    let title = state.name.as_deref().or(state.title.as_deref()).unwrap_or("(no words yet)");
    let mut about = format!("{} messages", state.messages);
    if let Some(updated) = state.updated_at {
        about = format!("{about}, {}", age(updated, now));
    }
    if let Some(profile) = &state.profile {
        about = format!("{about}, answered by {}", profile.model);
    }
    let head = Line::new(safe_line(title), BOLD).with(format!("  {}", safe_line(&about)), DIM);
    let mut lines = Paragraph::bare(head).lines(limit);
    let messages: Vec<&Message> =
        state.context.iter().filter_map(|slot| slot.message.as_deref()).filter(|message| has_words(message)).collect();
    let hidden = messages.len().saturating_sub(MESSAGES_SHOWN);
    if hidden > 0 {
        lines.push(Line::new("...", DIM));
    }
    for message in &messages[hidden..] {
        lines.extend(brief(message, look, limit));
    }
    if !is_whole(state) {
        lines.push(Line::new("The last turn did not come to its end; /retry goes on with it.", WARN));
    }
    lines
}

/// Whether the last turn had its answer.
fn is_whole(state: &State) -> bool {
    let last = state
        .context
        .iter()
        .rev()
        .filter_map(|slot| slot.message.as_deref())
        .find(|message| !matches!(message, Message::Note { .. }));
    let is_answered = match last {
        Some(Message::Assistant(answer)) => !answer.partial,
        Some(_) => false,
        None => true,
    };
    is_answered && state.unresolved.is_empty()
}

fn has_words(message: &Message) -> bool {
    match message {
        Message::User { text, images, .. } => !text.trim().is_empty() || !images.is_empty(),
        Message::Assistant(answer) => !answer.text().trim().is_empty(),
        _ => false,
    }
}

fn brief(message: &Message, look: Look, limit: usize) -> Vec<Line> {
    let (mark, text) = match message {
        Message::User { text, images, .. } => ("> ", with_images(text, images).into_owned()),
        Message::Assistant(answer) => ("  ", answer.text()),
        _ => return Vec::new(),
    };
    let style = if look == Look::Styled { DIM } else { PLAIN };
    let text = safe(text.trim()).replace('\t', "    ");
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let first = Line::new(if at == 0 { mark } else { "  " }, OWN);
        lines.extend(Paragraph { first, rest: Line::plain("  "), body: Line::new(line, style) }.lines(limit));
        if lines.len() > LINES_SHOWN {
            lines.truncate(LINES_SHOWN);
            lines.push(Line::new("  ...", DIM));
            break;
        }
    }
    lines
}
