//! A list of sessions to pick from, with a search.

use super::editor::Editor;
use super::keys::Key;
use super::styled::{BOLD, DIM, Line, OWN, PLAIN};
use crate::safe_text::safe_line;
use agent_runtime::session_store::{SessionId, SessionListState, SessionSummary, Timestamp};

/// How many sessions are shown at once.
const SHOWN_MAX: usize = 10;

/// A list on the screen.
pub(super) struct Picker {
    sessions: Vec<SessionSummary>,
    /// For ages.
    now: Timestamp,
    query: Editor,
    selected: usize,
}

/// What a key did to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing is chosen yet.
    Open,
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
        Self { sessions, now, query: Editor::default(), selected: 0 }
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
                self.query.edit(edit);
                self.selected = 0;
            }
            _ => {}
        }
        Choice::Open
    }

    pub(super) fn paste(&mut self, text: &str) {
        self.query.paste(text.trim());
        self.selected = 0;
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
            0 => "no session has these words; Esc leaves the list".to_owned(),
            count => format!("{} of {count}; Up and Down choose, Enter goes on with it, Esc leaves the list", self.selected + 1),
        };
        lines.push(Line::new(hint, DIM).truncated(limit));
        let column = query.cursor.1.min(limit);
        (lines, (1, column))
    }

    fn found(&self) -> Vec<&SessionSummary> {
        let query = self.query.content().to_lowercase();
        let words: Vec<&str> = query.split_whitespace().collect();
        let has_words = |session: &&SessionSummary| {
            let about = [&session.name, &session.title, &session.cwd, &session.model];
            let mut text = session.id.to_string();
            about.into_iter().flatten().for_each(|part| text.extend([" ", &part.to_lowercase()]));
            words.iter().all(|word| text.contains(word))
        };
        self.sessions.iter().filter(has_words).collect()
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
        row.with(format!("  {age}, {} messages{open}  {}", session.messages, safe_line(folder)), DIM)
    }
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
        "parser fix".chars().for_each(|letter| assert_eq!(picker.key(Key::Edit(Edit::Insert(letter))), Choice::Open));
        insta::assert_snapshot!(format!("{all}\n{}", shown(&picker)));
    }

    #[test]
    fn enter_picks_what_is_selected_and_escape_nothing() {
        let mut picker = picker();
        assert_eq!(picker.key(Key::Down), Choice::Open);
        let second = picker.found()[1].id;
        assert_eq!(picker.key(Key::Enter), Choice::Picked(second));
        assert_eq!(picker.key(Key::Escape), Choice::Cancelled);
        picker.paste("no such words");
        assert_eq!(picker.key(Key::Enter), Choice::Open);
    }
}
