//! A list of sessions to pick from, with a search: by what is known of them at once, and by what was said in them as soon as that is found.

use super::editor::Editor;
use super::keys::Key;
use super::styled::{BOLD, DIM, Line, OWN, PLAIN};
use crate::safe_text::safe_line;
use agent_runtime::session_store::{SessionId, SessionListState, SessionSummary, Snippet, Timestamp};
use std::collections::HashMap;

/// How many sessions are shown at once.
const SHOWN_MAX: usize = 10;

/// How many characters are shown before what was found.
const SNIPPET_BEFORE: usize = 12;

/// A list on the screen.
pub(super) struct Picker {
    sessions: Vec<SessionSummary>,
    /// For ages.
    now: Timestamp,
    query: Editor,
    selected: usize,
    /// The sessions in which what was typed was said, and where.
    said: HashMap<SessionId, Snippet>,
    /// Whether it is still looked for.
    is_looking: bool,
}

/// What a key did to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing is chosen yet.
    Open,
    /// Nothing is chosen yet, and something else is looked for: [`Picker::query`].
    Changed,
    /// This one.
    Picked(SessionId),
    /// None of them.
    Cancelled,
}

impl Picker {
    /// A list of `sessions`, newest first; those without a message are left out.
    pub(super) fn new(sessions: Vec<SessionSummary>, now: Timestamp) -> Self {
        let mut sessions: Vec<_> =
            sessions.into_iter().filter(|session| session.messages > 0 && session.state != SessionListState::Damaged).collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(session.updated_at));
        Self { sessions, now, query: Editor::default(), selected: 0, said: HashMap::new(), is_looking: false }
    }

    pub(super) fn key(&mut self, key: Key) -> Choice {
        match key {
            Key::Up => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Tab => self.selected = (self.selected + 1).min(self.found().len().saturating_sub(1)),
            Key::Enter => {
                return self.found().get(self.selected).map_or(Choice::Open, |session| Choice::Picked(session.id));
            }
            Key::Escape | Key::CtrlC | Key::CtrlD => return Choice::Cancelled,
            Key::Edit(edit) => {
                let before = self.query.content();
                self.query.edit(edit);
                return self.changed(&before);
            }
            _ => {}
        }
        Choice::Open
    }

    pub(super) fn paste(&mut self, text: &str) -> Choice {
        let before = self.query.content();
        self.query.paste(text.trim());
        self.changed(&before)
    }

    fn changed(&mut self, before: &str) -> Choice {
        if self.query.content() == before {
            return Choice::Open;
        }
        self.selected = 0;
        self.said.clear();
        self.is_looking = !self.query.content().trim().is_empty();
        Choice::Changed
    }

    /// What was typed.
    pub(super) fn query(&self) -> String {
        self.query.content()
    }

    /// Takes the sessions in which `query` was said; nothing happens where something else was typed since. What is selected stays.
    pub(super) fn was_said(&mut self, query: &str, said: HashMap<SessionId, Snippet>) {
        if query != self.query.content() {
            return;
        }
        let selected = self.found().get(self.selected).map(|session| session.id);
        (self.said, self.is_looking) = (said, false);
        let place = selected.and_then(|id| self.found().iter().position(|session| session.id == id));
        self.selected = place.unwrap_or(0);
    }

    /// The rows of the list, at most `rows`, and where the cursor is in them.
    pub(super) fn view(&self, limit: usize, rows: usize) -> (Vec<Line>, (usize, usize)) {
        let found = self.found();
        let shown = SHOWN_MAX.min(rows.saturating_sub(3)).max(1);
        let first = self.selected.saturating_sub(shown - 1);
        let query = self.query.view("Search: ", limit);
        let mut lines = vec![Line::default(), query.rows.first().cloned().unwrap_or_default().truncated(limit)];
        for (at, session) in found.iter().enumerate().skip(first).take(shown) {
            lines.push(self.row(session, at == self.selected).truncated(limit));
        }
        let hint = match found.len() {
            0 if self.is_looking => "looking into the sessions; Esc leaves the list".to_owned(),
            0 => "no session has these words; Esc leaves the list".to_owned(),
            count => format!("{} of {count}; Up and Down choose, Enter goes on with it, Esc leaves the list", self.selected + 1),
        };
        lines.push(Line::new(hint, DIM).truncated(limit));
        let column = query.cursor.1.min(limit);
        (lines, (1, column))
    }

    /// First those that have the words in their name, title, folder, model or id, then those in which they were said; the newest first of each.
    fn found(&self) -> Vec<&SessionSummary> {
        let query = self.query.content().to_lowercase();
        let words: Vec<&str> = query.split_whitespace().collect();
        let has_words = |session: &&SessionSummary| {
            let about = [&session.name, &session.title, &session.cwd, &session.model];
            let mut text = session.id.to_string();
            about.into_iter().flatten().for_each(|part| text.extend([" ", &part.to_lowercase()]));
            words.iter().all(|word| text.contains(word))
        };
        let (mut found, others): (Vec<&SessionSummary>, _) = self.sessions.iter().partition(has_words);
        found.extend(others.into_iter().filter(|session| self.said.contains_key(&session.id)));
        found
    }

    fn row(&self, session: &SessionSummary, is_selected: bool) -> Line {
        let (mark, style) = if is_selected { ("> ", OWN) } else { ("  ", PLAIN) };
        let title = session.name.as_deref().or(session.title.as_deref()).unwrap_or("(no words)");
        let title = Line::new(safe_line(title), if is_selected { BOLD } else { style }).truncated(60);
        let mut row = Line::new(mark, style);
        row.extend(&title);
        let open = if session.state == SessionListState::Open { ", open elsewhere" } else { "" };
        let folder = session.cwd.as_deref().unwrap_or_default();
        let age = age(session.updated_at, self.now);
        row = row.with(format!("  {age}, {} messages{open}  {}", session.messages, safe_line(folder)), DIM);
        match self.said.get(&session.id) {
            Some(snippet) => with_snippet(row, snippet),
            None => row,
        }
    }
}

/// What was said, behind the rest, from shortly before the first word that was found.
fn with_snippet(row: Line, snippet: &Snippet) -> Line {
    let first = snippet.marks.first().cloned().unwrap_or(0..0);
    let start = snippet.text[..first.start].char_indices().rev().nth(SNIPPET_BEFORE).map_or(0, |(at, _)| at);
    let before = if start > 0 { "..." } else { "" };
    row.with(format!("  {before}{}", safe_line(&snippet.text[start..first.start])), PLAIN)
        .with(safe_line(&snippet.text[first.clone()]).into_owned(), BOLD)
        .with(safe_line(&snippet.text[first.end..]).into_owned(), PLAIN)
}

/// How long ago something was, for people.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    let minutes = now.as_ms().saturating_sub(then.as_ms()) / 60_000;
    let (count, unit) = match minutes {
        ..=0 => return "just now".to_owned(),
        1..60 => (minutes, "minute"),
        60..1440 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::editor::Edit;
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn session(hours: i64, title: &str) -> SessionSummary {
        let at = Timestamp::from_ms(hours * HOUR_MS);
        SessionSummary {
            id: SessionId::new(at),
            name: None,
            title: Some(title.to_owned()),
            cwd: Some("/src/longhand".to_owned()),
            model: Some("offline".to_owned()),
            created_at: at,
            updated_at: at,
            messages: 4,
            bytes: 1000,
            state: SessionListState::Idle,
        }
    }

    fn picker() -> Picker {
        let sessions = vec![session(1, "Fix the \u{1b}[2J parser"), session(70, "Write the docs"), session(49, "Parser again")];
        Picker::new(sessions, Timestamp::from_ms(71 * HOUR_MS))
    }

    #[test]
    fn the_newest_is_first_and_words_narrow_the_list() {
        let mut picker = picker();
        let shown = |picker: &Picker| picker.view(100, 20).0.iter().map(|row| row.text() + "\n").collect::<String>();
        let all = shown(&picker);
        "parser fix".chars().for_each(|letter| assert_eq!(picker.key(Key::Edit(Edit::Insert(letter))), Choice::Changed));
        insta::assert_snapshot!(format!("{all}\n{}", shown(&picker)));
    }

    #[test]
    fn enter_picks_what_is_selected_and_escape_nothing() {
        let mut picker = picker();
        assert_eq!(picker.key(Key::Down), Choice::Open);
        let second = picker.found()[1].id;
        assert_eq!(picker.key(Key::Enter), Choice::Picked(second));
        assert_eq!(picker.key(Key::Escape), Choice::Cancelled);
        assert_eq!(picker.paste("no such words"), Choice::Changed);
        assert_eq!(picker.key(Key::Enter), Choice::Open);
    }

    #[test]
    fn sessions_in_which_it_was_said_come_behind_and_what_is_selected_stays() {
        let mut picker = picker();
        assert_eq!(picker.paste("parser"), Choice::Changed);
        let by_title: Vec<SessionId> = picker.found().iter().map(|session| session.id).collect();
        assert_eq!(by_title.len(), 2);
        picker.key(Key::Down);
        let docs = picker.sessions[0].id;
        let parser = 21..27;
        let snippet = Snippet { text: "we spoke of the \u{1b}[2J parser there".to_owned(), marks: vec![parser] };
        let said = HashMap::from([(docs, snippet.clone()), (by_title[0], snippet)]);
        picker.was_said("something typed before", said.clone());
        assert_eq!(picker.found().len(), 2);
        picker.was_said("parser", said);
        let found: Vec<SessionId> = picker.found().iter().map(|session| session.id).collect();
        assert_eq!(found, [by_title[0], by_title[1], docs]);
        assert_eq!(picker.key(Key::Enter), Choice::Picked(by_title[1]));
        insta::assert_snapshot!(picker.view(120, 20).0.iter().map(|row| row.text() + "\n").collect::<String>());
        picker.paste("s");
        assert!(picker.found().is_empty(), "what was said belongs to what was typed");
    }
}
