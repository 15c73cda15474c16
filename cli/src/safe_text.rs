//! Text of models, tools and files, made safe for a terminal.
//!
//! Promise: no byte of the result but newline and tab is a control character, and none changes the order in which text is
//! shown. So no escape sequence (CSI, OSC, DCS, in their 7-bit or 8-bit form), no carriage return that overwrites a line
//! and no bidirectional override can get through; they are shown as escapes instead (`\x1b`, `\u{202e}`). A carriage
//! return directly before a newline is dropped.

use std::borrow::Cow;
use std::fmt::Write;

/// `text` with its control characters made visible; newlines and tabs stay.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' => safe.push_str("\\r"),
            char if is_unsafe(char) => push_visible(&mut safe, char),
            char => safe.push(char),
        }
    }
    Cow::Owned(safe)
}

/// `text` on one line: as [`safe`], and newlines and tabs are made visible too.
pub(crate) fn safe_line(text: &str) -> Cow<'_, str> {
    match safe(text) {
        Cow::Borrowed(text) if !text.contains(['\n', '\t']) => Cow::Borrowed(text),
        text => Cow::Owned(text.replace('\n', "\\n").replace('\t', "\\t")),
    }
}

fn is_unsafe(char: char) -> bool {
    (char.is_control() && !matches!(char, '\n' | '\t')) || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_visible(out: &mut String, char: char) {
    // Writing to a string does not fail.
    let _ = match u32::from(char) {
        code @ ..=0xff => write!(out, "\\x{code:02x}"),
        code => write!(out, "\\u{{{code:x}}}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_sequence_gets_through() {
        let hostile = "\x1b]0;title\x07\x1b[31mred\u{9b}2J\u{9d}8;;x\u{9c}a\rb\u{202e}evil\0";
        let shown = safe(hostile);
        assert!(!shown.chars().any(is_unsafe), "{shown:?}");
        assert_eq!(shown, r"\x1b]0;title\x07\x1b[31mred\x9b2J\x9d8;;x\x9ca\rb\u{202e}evil\x00");
    }

    #[test]
    fn ordinary_text_is_not_copied() {
        assert!(matches!(safe("Grüße,\n\t\u{1f469}\u{200d}\u{1f680} 日本語"), Cow::Borrowed(_)));
    }

    #[test]
    fn windows_line_ends_become_newlines() {
        assert_eq!(safe("a\r\nb\r\n"), "a\nb\n");
    }

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(safe_line("a\n\tb\r\n"), r"a\n\tb\n");
        assert!(matches!(safe_line("plain"), Cow::Borrowed(_)));
    }
}
