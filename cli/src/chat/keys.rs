//! What a key means, before it is known what the chat is doing. The names are those of readline and of the well-known agent programs.

use super::editor::Edit;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// A key by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Edit(Edit),
    Enter,
    AltEnter,
    NewLine,
    Escape,
    CtrlC,
    CtrlD,
    Up,
    Down,
    Search,
    Tab,
    OpenEditor,
    Suspend,
    Redraw,
}

/// The meaning of a key press; nothing for keys without one, and for releases.
pub(super) fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let alt = event.modifiers.contains(KeyModifiers::ALT);
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    let shift = event.modifiers.contains(KeyModifiers::SHIFT);
    Some(match event.code {
        KeyCode::Enter if alt => Key::AltEnter,
        KeyCode::Enter if shift => Key::NewLine,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left if alt || control => Key::Edit(Edit::WordLeft),
        KeyCode::Right if alt || control => Key::Edit(Edit::WordRight),
        KeyCode::Left => Key::Edit(Edit::Left),
        KeyCode::Right => Key::Edit(Edit::Right),
        KeyCode::Home => Key::Edit(Edit::LineStart),
        KeyCode::End => Key::Edit(Edit::LineEnd),
        KeyCode::Backspace if alt || control => Key::Edit(Edit::DeleteWordBefore),
        KeyCode::Backspace => Key::Edit(Edit::Backspace),
        KeyCode::Delete if alt || control => Key::Edit(Edit::DeleteWordAfter),
        KeyCode::Delete => Key::Edit(Edit::Delete),
        KeyCode::Char(character) if control && !alt => return with_control(character),
        KeyCode::Char(character) if alt && !control => return with_alt(character),
        // Both together are AltGr on some keyboards: a character like any other.
        KeyCode::Char(character) if !character.is_control() => Key::Edit(Edit::Insert(character)),
        _ => return None,
    })
}

fn with_control(character: char) -> Option<Key> {
    Some(match character.to_ascii_lowercase() {
        'a' => Key::Edit(Edit::LineStart),
        'b' => Key::Edit(Edit::Left),
        'c' => Key::CtrlC,
        'd' => Key::CtrlD,
        'e' => Key::Edit(Edit::LineEnd),
        'f' => Key::Edit(Edit::Right),
        'g' => Key::OpenEditor,
        'h' => Key::Edit(Edit::Backspace),
        'j' => Key::NewLine,
        'k' => Key::Edit(Edit::DeleteToLineEnd),
        'l' => Key::Redraw,
        'n' => Key::Down,
        'p' => Key::Up,
        'r' => Key::Search,
        'u' => Key::Edit(Edit::DeleteToLineStart),
        'w' => Key::Edit(Edit::DeleteWordBefore),
        'y' => Key::Edit(Edit::Yank),
        'z' => Key::Suspend,
        // Terminals without a richer protocol send Ctrl-_ as Ctrl-7.
        '_' | '7' | '/' => Key::Edit(Edit::Undo),
        _ => return None,
    })
}

fn with_alt(character: char) -> Option<Key> {
    Some(match character.to_ascii_lowercase() {
        'b' => Key::Edit(Edit::WordLeft),
        'd' => Key::Edit(Edit::DeleteWordAfter),
        'f' => Key::Edit(Edit::WordRight),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: KeyCode, modifiers: KeyModifiers, meaning: Option<Key>) {
        assert_eq!(key(KeyEvent::new(code, modifiers)), meaning);
    }

    #[test]
    fn keys_mean_what_readline_taught() {
        check(KeyCode::Enter, KeyModifiers::NONE, Some(Key::Enter));
        check(KeyCode::Enter, KeyModifiers::ALT, Some(Key::AltEnter));
        check(KeyCode::Char('j'), KeyModifiers::CONTROL, Some(Key::NewLine));
        check(KeyCode::Char('w'), KeyModifiers::CONTROL, Some(Key::Edit(Edit::DeleteWordBefore)));
        check(KeyCode::Char('b'), KeyModifiers::ALT, Some(Key::Edit(Edit::WordLeft)));
        check(KeyCode::Char('\u{e9}'), KeyModifiers::NONE, Some(Key::Edit(Edit::Insert('\u{e9}'))));
        check(KeyCode::Char('A'), KeyModifiers::SHIFT, Some(Key::Edit(Edit::Insert('A'))));
        check(KeyCode::Char('@'), KeyModifiers::CONTROL | KeyModifiers::ALT, Some(Key::Edit(Edit::Insert('@'))));
        check(KeyCode::Char('x'), KeyModifiers::CONTROL, None);
        check(KeyCode::F(1), KeyModifiers::NONE, None);
    }

    #[test]
    fn a_release_means_nothing() {
        assert_eq!(key(KeyEvent::new_with_kind(KeyCode::Enter, KeyModifiers::NONE, KeyEventKind::Release)), None);
    }
}
