//! The input line: a text of one or more lines with a cursor that stands between grapheme clusters.
//!
//! A large paste stands in the text as one character, a noncharacter of Unicode, shown as a summary and sent whole; so
//! the cursor steps over it, and one Backspace takes it away.

use super::styled::{DIM, Line, OWN, PLAIN, grapheme_width, width};
use crate::safe_text::safe_line;
use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};

/// The characters that stand for pastes: noncharacters, never used for text.
const FIRST_PASTE: char = '\u{fdd0}';
const PASTES_MAX: usize = 32;
/// A paste longer than this is shown as a summary.
const PASTE_SHOWN_LINES: usize = 8;
const PASTE_SHOWN_BYTES: usize = 800;
const TAB: &str = "    ";

/// A change of the text or of the place of its cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Insert(char),
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    LineStart,
    LineEnd,
    DeleteWordBefore,
    DeleteWordAfter,
    DeleteToLineStart,
    DeleteToLineEnd,
    /// Puts back what was last deleted by word or by line.
    Yank,
    Undo,
}

/// A text that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Editor {
    text: String,
    /// In bytes; always at the boundary of a grapheme cluster.
    cursor: usize,
    /// The pastes that characters of `text` stand for.
    pastes: Vec<String>,
    deleted: String,
    /// The column that Up and Down keep to.
    column: Option<usize>,
    /// Earlier texts with their cursors, at most [`UNDO_MAX`].
    undo: Vec<(String, usize)>,
}

const UNDO_MAX: usize = 100;

/// The editor as rows on the screen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EditorView {
    pub(super) rows: Vec<Line>,
    /// Row and column of the cursor.
    pub(super) cursor: (usize, usize),
}

impl Editor {
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text with all pastes in their places.
    pub(super) fn content(&self) -> String {
        let mut content = String::with_capacity(self.text.len());
        for character in self.text.chars() {
            match paste_index(character).and_then(|index| self.pastes.get(index)) {
                Some(paste) => content.push_str(paste),
                None => content.push(character),
            }
        }
        content
    }

    /// Replaces all by `text`, the cursor at its end.
    pub(super) fn set(&mut self, text: &str) {
        self.remember();
        self.pastes.clear();
        self.text = clean(text);
        self.cursor = self.text.len();
        self.column = None;
    }

    /// Empties the editor and gives what was in it.
    pub(super) fn take(&mut self) -> String {
        let content = self.content();
        self.text.clear();
        self.cursor = 0;
        self.pastes.clear();
        self.column = None;
        self.undo.clear();
        content
    }

    /// The text before the cursor.
    pub(super) fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Inserts typed text.
    pub(super) fn insert(&mut self, text: &str) {
        let text = clean(text);
        self.text.insert_str(self.cursor, &text);
        self.cursor += text.len();
        // What was inserted may have joined with what follows.
        self.cursor = self.boundary_at_or_after(self.cursor);
        self.column = None;
    }

    /// Inserts a paste: shown as it is where it is short, as a summary where it is long.
    pub(super) fn paste(&mut self, pasted: &str) {
        self.remember();
        let pasted = pasted.replace("\r\n", "\n").replace('\r', "\n");
        let is_long = pasted.len() > PASTE_SHOWN_BYTES || pasted.lines().count() > PASTE_SHOWN_LINES;
        if is_long && self.pastes.len() < PASTES_MAX {
            // `PASTES_MAX` noncharacters follow the first, so the sum is a character.
            let mark = char::from_u32(FIRST_PASTE as u32 + self.pastes.len() as u32).unwrap_or(FIRST_PASTE);
            self.pastes.push(pasted);
            self.text.insert(self.cursor, mark);
            self.cursor += mark.len_utf8();
            self.column = None;
        } else {
            self.insert(&pasted);
        }
    }

    /// Replaces the `bytes` before the cursor by `text`.
    pub(super) fn replace_before(&mut self, bytes: usize, text: &str) {
        self.remember();
        let start = self.cursor.saturating_sub(bytes);
        self.text.replace_range(start..self.cursor, "");
        self.cursor = start;
        self.insert(text);
    }

    /// Makes the edit.
    pub(super) fn edit(&mut self, edit: Edit) {
        let cursor = self.cursor;
        match edit {
            Edit::Insert(character) => {
                if !character.is_alphanumeric() {
                    self.remember();
                }
                self.insert(character.encode_utf8(&mut [0; 4]));
            }
            Edit::Backspace => self.delete(self.boundary_before(cursor), cursor),
            Edit::Delete => self.delete(cursor, self.boundary_after(cursor)),
            Edit::Left => self.cursor = self.boundary_before(cursor),
            Edit::Right => self.cursor = self.boundary_after(cursor),
            Edit::WordLeft => self.cursor = self.word_start_before(cursor),
            Edit::WordRight => self.cursor = self.word_end_after(cursor),
            Edit::LineStart => self.cursor = self.line_start(cursor),
            Edit::LineEnd => self.cursor = self.line_end(cursor),
            Edit::DeleteWordBefore => self.cut(self.word_start_before(cursor), cursor),
            Edit::DeleteWordAfter => self.cut(cursor, self.word_end_after(cursor)),
            Edit::DeleteToLineStart => self.cut(self.line_start(cursor), cursor),
            Edit::DeleteToLineEnd => self.cut(cursor, self.line_end(cursor).max(self.boundary_after_newline(cursor))),
            Edit::Yank => {
                self.remember();
                let deleted = self.deleted.clone();
                self.text.insert_str(cursor, &deleted);
                self.cursor = self.boundary_at_or_after(cursor + deleted.len());
            }
            Edit::Undo => {
                if let Some((text, cursor)) = self.undo.pop() {
                    self.text = text;
                    self.cursor = cursor;
                }
            }
        }
        self.column = None;
    }

    /// Moves one line up; false where there is none.
    pub(super) fn up(&mut self) -> bool {
        let start = self.line_start(self.cursor);
        if start == 0 {
            return false;
        }
        self.move_to_line(self.line_start(start - 1), start);
        true
    }

    /// Moves one line down; false where there is none.
    pub(super) fn down(&mut self) -> bool {
        let end = self.line_end(self.cursor);
        if end == self.text.len() {
            return false;
        }
        self.move_to_line(end + 1, self.line_start(self.cursor));
        true
    }

    /// Whether Enter makes a new line because of a `\` before the cursor; the `\` is gone then.
    pub(super) fn take_continuation(&mut self) -> bool {
        let continues = self.before_cursor().ends_with('\\');
        if continues {
            self.delete(self.cursor - 1, self.cursor);
        }
        continues
    }

    /// The rows of at most `limit` columns, the first after `prompt`, the others indented as far; and where the cursor is in them.
    pub(super) fn view(&self, prompt: &str, limit: usize) -> EditorView {
        let indent = width(prompt);
        let limit = limit.max(indent + 2);
        let mut rows = vec![Line::new(prompt, OWN)];
        let mut column = indent;
        let mut cursor = (0, indent);
        let new_row = |rows: &mut Vec<Line>| rows.push(Line::plain(" ".repeat(indent)));
        for (at, grapheme) in self.text.grapheme_indices(true) {
            if at == self.cursor {
                cursor = (rows.len() - 1, column);
            }
            if grapheme == "\n" {
                new_row(&mut rows);
                column = indent;
                continue;
            }
            let (shown, style) = self.shown(grapheme);
            for piece in shown.graphemes(true) {
                let piece_width = grapheme_width(piece);
                if column + piece_width > limit {
                    new_row(&mut rows);
                    column = indent;
                    if at == self.cursor {
                        cursor = (rows.len() - 1, column);
                    }
                }
                if let Some(row) = rows.last_mut() {
                    row.push(piece, style);
                }
                column += piece_width;
            }
        }
        if self.cursor == self.text.len() {
            if column >= limit {
                new_row(&mut rows);
                column = indent;
            }
            cursor = (rows.len() - 1, column);
        }
        EditorView { rows, cursor }
    }

    fn shown(&self, grapheme: &str) -> (String, anstyle::Style) {
        let paste = grapheme.chars().next().and_then(paste_index).and_then(|index| Some((index, self.pastes.get(index)?)));
        match paste {
            Some((index, paste)) => (summary(index, paste), DIM),
            None if grapheme == "\t" => (TAB.to_owned(), PLAIN),
            None => (safe_line(grapheme).into_owned(), PLAIN),
        }
    }

    fn remember(&mut self) {
        if self.undo.last().is_none_or(|(text, _)| *text != self.text) {
            if self.undo.len() == UNDO_MAX {
                self.undo.remove(0);
            }
            self.undo.push((self.text.clone(), self.cursor));
        }
    }

    fn delete(&mut self, from: usize, to: usize) {
        if from < to {
            self.remember();
            self.text.replace_range(from..to, "");
            self.cursor = self.boundary_at_or_after(from);
        }
    }

    fn cut(&mut self, from: usize, to: usize) {
        if from < to {
            self.deleted = self.text[from..to].to_owned();
            self.delete(from, to);
        }
    }

    fn move_to_line(&mut self, start: usize, current_start: usize) {
        let here = if current_start <= self.cursor { current_start } else { self.line_start(self.cursor) };
        let column = *self.column.get_or_insert_with(|| width(&self.text[here..self.cursor]));
        let end = self.line_end(start);
        let mut used = 0;
        self.cursor = end;
        for (at, grapheme) in self.text[start..end].grapheme_indices(true) {
            if used >= column {
                self.cursor = start + at;
                break;
            }
            used += grapheme_width(grapheme);
        }
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn line_end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline)
    }

    /// The place behind a newline at `at`, else `at`: deleting to the end of an empty rest joins the lines.
    fn boundary_after_newline(&self, at: usize) -> usize {
        at + usize::from(self.text[at..].starts_with('\n'))
    }

    fn boundary_before(&self, at: usize) -> usize {
        GraphemeCursor::new(at, self.text.len(), true).prev_boundary(&self.text, 0).ok().flatten().unwrap_or(0)
    }

    fn boundary_after(&self, at: usize) -> usize {
        GraphemeCursor::new(at, self.text.len(), true).next_boundary(&self.text, 0).ok().flatten().unwrap_or(self.text.len())
    }

    fn boundary_at_or_after(&self, at: usize) -> usize {
        let mut cursor = GraphemeCursor::new(at, self.text.len(), true);
        if cursor.is_boundary(&self.text, 0).unwrap_or(true) { at } else { self.boundary_after(at) }
    }

    fn word_start_before(&self, at: usize) -> usize {
        let words = self.text[..at].split_word_bound_indices();
        words.rev().find(|(_, word)| is_word(word)).map_or(0, |(start, _)| start)
    }

    fn word_end_after(&self, at: usize) -> usize {
        let mut words = self.text[at..].split_word_bound_indices();
        words.find(|(_, word)| is_word(word)).map_or(self.text.len(), |(start, word)| at + start + word.len())
    }
}

fn is_word(word: &str) -> bool {
    word.chars().any(|character| character.is_alphanumeric() || paste_index(character).is_some())
}

/// The characters that stand for pastes can come from nowhere else.
fn clean(text: &str) -> String {
    text.chars().map(|character| if paste_index(character).is_some() { char::REPLACEMENT_CHARACTER } else { character }).collect()
}

fn paste_index(character: char) -> Option<usize> {
    let index = (character as usize).checked_sub(FIRST_PASTE as usize)?;
    (index < PASTES_MAX).then_some(index)
}

fn summary(index: usize, paste: &str) -> String {
    let lines = paste.lines().count();
    let plural = if lines == 1 { "" } else { "s" };
    format!("[paste {}: {lines} line{plural}, {} bytes]", index + 1, paste.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An editor with `text`, its cursor where `|` is.
    fn editor(text: &str) -> Editor {
        let mut editor = Editor::default();
        editor.insert(&text.replace('|', ""));
        editor.cursor = text.find('|').unwrap_or(editor.text.len());
        editor
    }

    fn shown(editor: &Editor) -> String {
        let mut text = editor.text.clone();
        text.insert(editor.cursor, '|');
        text
    }

    #[track_caller]
    fn check(before: &str, edit: Edit, after: &str) {
        let mut editor = editor(before);
        editor.edit(edit);
        assert_eq!(shown(&editor), after);
    }

    #[test]
    fn the_cursor_steps_over_whole_characters_as_people_see_them() {
        check("ae\u{301}|", Edit::Left, "a|e\u{301}");
        check("ae\u{301}|", Edit::Backspace, "a|");
        check("|\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}!", Edit::Right, "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}|!");
        check("|\u{1f1e9}\u{1f1ea}x", Edit::Delete, "|x");
        check("|", Edit::Left, "|");
        check("|", Edit::Right, "|");
    }

    #[test]
    fn words_and_lines_are_moved_over_and_deleted() {
        check("git commit --amend|", Edit::WordLeft, "git commit --|amend");
        check("git| commit", Edit::WordRight, "git commit|");
        check("one two three|", Edit::DeleteWordBefore, "one two |");
        check("one| two three", Edit::DeleteWordAfter, "one| three");
        check("one\ntw|o\nthree", Edit::LineStart, "one\n|two\nthree");
        check("one\ntw|o\nthree", Edit::LineEnd, "one\ntwo|\nthree");
        check("one\ntw|o\nthree", Edit::DeleteToLineStart, "one\n|o\nthree");
        check("one\ntw|o\nthree", Edit::DeleteToLineEnd, "one\ntw|\nthree");
        check("one\ntwo|\nthree", Edit::DeleteToLineEnd, "one\ntwo|three");
    }

    #[test]
    fn what_was_deleted_comes_back() {
        let mut editor = editor("one two|");
        editor.edit(Edit::DeleteWordBefore);
        editor.edit(Edit::Yank);
        assert_eq!(shown(&editor), "one two|");
        editor.edit(Edit::DeleteToLineStart);
        editor.edit(Edit::Undo);
        assert_eq!(shown(&editor), "one two|");
    }

    #[test]
    fn up_and_down_keep_the_column_and_say_when_there_is_no_line() {
        let mut editor = editor("long line\na\nanother l|ine");
        assert!(editor.up());
        assert_eq!(shown(&editor), "long line\na|\nanother line");
        assert!(editor.up());
        assert_eq!(shown(&editor), "long line|\na\nanother line");
        assert!(!editor.up());
        assert!(editor.down() && editor.down());
        assert_eq!(shown(&editor), "long line\na\nanother l|ine");
        assert!(!editor.down());
    }

    #[test]
    fn a_large_paste_is_shown_in_short_and_sent_whole() {
        let paste = "line\r\n".repeat(40);
        let mut editor = editor("look: |");
        editor.paste(&paste);
        editor.insert(" ok");
        assert_eq!(editor.content(), format!("look: {} ok", "line\n".repeat(40)));
        assert_eq!(editor.view("> ", 60).rows[0].text(), "> look: [paste 1: 40 lines, 200 bytes] ok");
        editor.edit(Edit::WordLeft);
        editor.edit(Edit::Left);
        editor.edit(Edit::Backspace);
        assert_eq!(editor.content(), "look:  ok");
    }

    #[test]
    fn a_small_paste_is_shown_whole_and_does_not_submit() {
        let mut editor = Editor::default();
        editor.paste("a\r\nb\r\u{fdd0}");
        assert_eq!(editor.content(), "a\nb\n\u{fffd}");
    }

    #[test]
    fn a_backslash_before_enter_goes_on_with_the_next_line() {
        let mut editor = editor("one\\|");
        assert!(editor.take_continuation());
        assert_eq!(shown(&editor), "one|");
        assert!(!editor.take_continuation());
    }

    #[test]
    fn the_view_wraps_and_places_the_cursor() {
        let view = editor("abcdefgh|ij\nx").view("> ", 8);
        let rows: Vec<String> = view.rows.iter().map(Line::text).collect();
        assert_eq!(rows, ["> abcdef", "  ghij", "  x"]);
        assert_eq!(view.cursor, (1, 4));
        let full = editor("abcdef|").view("> ", 8);
        assert_eq!((full.rows.len(), full.cursor), (2, (1, 2)));
        let wide = editor("\u{4f60}\u{597d}|").view("> ", 20);
        assert_eq!(wide.cursor, (0, 6));
    }

    #[test]
    fn control_characters_are_shown_and_never_reach_the_terminal() {
        let view = editor("a\u{1b}[31mb\tc|").view("> ", 40);
        assert!(!view.rows[0].text().chars().any(char::is_control), "{:?}", view.rows[0].text());
    }

    #[test]
    fn any_order_of_edits_leaves_the_cursor_between_characters() {
        let edits = [
            Edit::Insert('a'),
            Edit::Insert('\u{301}'),
            Edit::Left,
            Edit::Insert('\u{200d}'),
            Edit::Insert('\u{1f468}'),
            Edit::Backspace,
            Edit::WordLeft,
            Edit::Delete,
            Edit::Insert('\n'),
            Edit::WordRight,
            Edit::DeleteWordBefore,
            Edit::Yank,
            Edit::DeleteToLineEnd,
            Edit::Undo,
            Edit::LineStart,
            Edit::LineEnd,
            Edit::DeleteWordAfter,
            Edit::DeleteToLineStart,
            Edit::Right,
        ];
        let mut random = 7_u64;
        let mut editor = Editor::default();
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (random >> 33) as usize % (edits.len() + 3) {
                0 => drop(editor.up()),
                1 => drop(editor.down()),
                2 => editor.paste("\u{1f1e9}\u{1f1ea}\u{1f1e9}"),
                edit => editor.edit(edits[edit - 3]),
            }
            assert!(editor.text.is_char_boundary(editor.cursor));
            assert_eq!(editor.boundary_at_or_after(editor.cursor), editor.cursor);
            if editor.text.len() > 200 {
                editor.take();
            }
        }
    }
}
