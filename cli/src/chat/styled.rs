//! Styled lines, and how they are cut into rows of a terminal.
//!
//! Everything that the chat prints is a [`Line`]; the painter turns it into bytes, with or without colour. Widths are those of grapheme clusters, as
//! terminals count them.

use anstyle::{AnsiColor, Color, Style};
use std::fmt::Write as _;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

pub(super) const PLAIN: Style = Style::new();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const BOLD: Style = Style::new().bold();
pub(super) const CODE: Style = colour(AnsiColor::Cyan);
pub(super) const ERROR: Style = colour(AnsiColor::Red);
pub(super) const GOOD: Style = colour(AnsiColor::Green);
pub(super) const WARN: Style = colour(AnsiColor::Yellow);
/// The person's own words, and what waits for them.
pub(super) const OWN: Style = colour(AnsiColor::Blue).bold();

const fn colour(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(colour)))
}

/// A piece of a line in one style. Its text is safe to print: no control characters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) text: String,
    pub(super) style: Style,
}

/// A line without its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) spans: Vec<Span>,
}

impl Line {
    pub(super) fn new(text: impl Into<String>, style: Style) -> Self {
        Self::default().with(text, style)
    }

    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self::new(text, PLAIN)
    }

    /// The line with `text` at its end.
    #[must_use]
    pub(super) fn with(mut self, text: impl Into<String>, style: Style) -> Self {
        self.push(text, style);
        self
    }

    pub(super) fn push(&mut self, text: impl Into<String>, style: Style) {
        let text = text.into();
        match self.spans.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.style == style => last.text.push_str(&text),
            _ => self.spans.push(Span { text, style }),
        }
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for span in &other.spans {
            self.push(span.text.as_str(), span.style);
        }
    }

    /// The text without its style.
    pub(super) fn text(&self) -> String {
        self.spans.iter().map(|span| span.text.as_str()).collect()
    }

    pub(super) fn width(&self) -> usize {
        self.spans.iter().map(|span| width(&span.text)).sum()
    }

    /// Appends the line as a terminal takes it.
    pub(super) fn write_to(&self, out: &mut String, colour: bool) {
        for span in &self.spans {
            if colour && span.style != PLAIN {
                // Writing to a `String` does not fail.
                let _ = write!(out, "{}{}{}", span.style.render(), span.text, span.style.render_reset());
            } else {
                out.push_str(&span.text);
            }
        }
    }

    /// The line cut to `limit` columns, with `...` where something is missing.
    pub(super) fn truncated(&self, limit: usize) -> Self {
        if self.width() <= limit {
            return self.clone();
        }
        let room = limit.saturating_sub(3);
        let mut cut = Self::default();
        let mut used = 0;
        'spans: for span in &self.spans {
            for grapheme in span.text.graphemes(true) {
                used += width(grapheme);
                if used > room {
                    break 'spans;
                }
                cut.push(grapheme, span.style);
            }
        }
        cut.with(".".repeat(limit.min(3)), DIM)
    }
}

/// The columns that `text` takes.
pub(super) fn width(text: &str) -> usize {
    text.graphemes(true).map(grapheme_width).sum()
}

/// The columns of one grapheme cluster. No cluster is wider than two columns on a terminal.
pub(super) fn grapheme_width(grapheme: &str) -> usize {
    grapheme.width().min(2)
}

/// A paragraph to be wrapped: its first row begins with `first`, each other with `rest`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Paragraph {
    pub(super) first: Line,
    pub(super) rest: Line,
    pub(super) body: Line,
}

/// A row of a paragraph.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) line: Line,
    /// How many graphemes of the body this row and all before it hold, the spaces between them included.
    pub(super) end: usize,
    /// The row depends on no grapheme of the body from here on.
    pub(super) decided_by: usize,
}

struct Cell<'a> {
    text: &'a str,
    style: Style,
    width: usize,
}

impl Cell<'_> {
    fn is_space(&self) -> bool {
        self.text == " "
    }
}

impl Paragraph {
    /// A paragraph without any prefix.
    pub(super) fn bare(body: Line) -> Self {
        Self { body, ..Self::default() }
    }

    /// The paragraph's rows from the grapheme `from` of its body on, none wider than `limit` columns where that is possible. At least one row. The rows
    /// of a longer body begin with the rows of this one, but for the last row.
    pub(super) fn rows(&self, from: usize, limit: usize) -> Vec<Row> {
        let cells: Vec<Cell<'_>> = self
            .body
            .spans
            .iter()
            .flat_map(|span| span.text.graphemes(true).map(|text| Cell { text, style: span.style, width: grapheme_width(text) }))
            .collect();
        let mut rows = Vec::new();
        let mut start = from.min(cells.len());
        loop {
            let prefix = if start == 0 { &self.first } else { &self.rest };
            // A prefix that leaves no room for words is left out.
            let prefix = if prefix.width() + 8 <= limit { prefix.clone() } else { Line::default() };
            let Break { text_end, next, decided_by } = break_row(&cells, start, limit.saturating_sub(prefix.width()).max(2));
            let mut line = prefix;
            for cell in &cells[start..text_end] {
                line.push(cell.text, cell.style);
            }
            rows.push(Row { line, end: next, decided_by });
            if next >= cells.len() {
                return rows;
            }
            start = next;
        }
    }

    /// All rows.
    pub(super) fn lines(&self, limit: usize) -> Vec<Line> {
        self.rows(0, limit).into_iter().map(|row| row.line).collect()
    }
}

struct Break {
    /// Where the text of the row ends.
    text_end: usize,
    /// Where the next row begins.
    next: usize,
    /// The first cell that was not looked at.
    decided_by: usize,
}

/// Where the row that begins at `start` is broken.
fn break_row(cells: &[Cell<'_>], start: usize, limit: usize) -> Break {
    let mut used = 0;
    // The last place where a word ended: (end of its text, start of what follows).
    let mut word_end = None;
    let mut in_word = false;
    for (at, cell) in cells.iter().enumerate().skip(start) {
        if used + cell.width > limit && at > start {
            let (text_end, next) = match word_end {
                _ if cell.is_space() && in_word => (at, skip_spaces(cells, at)),
                Some((text_end, _)) if cell.is_space() => (text_end, skip_spaces(cells, at)),
                Some(place) => place,
                None => (at, at),
            };
            return Break { text_end, next, decided_by: next.max(at + 1) };
        }
        used += cell.width;
        if cell.is_space() {
            match &mut word_end {
                _ if in_word => word_end = Some((at, at + 1)),
                Some((_, next)) => *next = at + 1,
                // Spaces at a row's start are part of it.
                None => {}
            }
            in_word = false;
        } else if cell.width == 2 {
            // Scripts without spaces break between any two characters.
            word_end = Some((at + 1, at + 1));
            in_word = true;
        } else {
            in_word = true;
        }
    }
    Break { text_end: cells.len(), next: cells.len(), decided_by: usize::MAX }
}

fn skip_spaces(cells: &[Cell<'_>], from: usize) -> usize {
    cells[from..].iter().position(|cell| !cell.is_space()).map_or(cells.len(), |spaces| from + spaces)
}

/// How many rows a terminal of `columns` needs for a line of `width` columns that it wraps itself.
pub(super) fn terminal_rows(width: usize, columns: usize) -> usize {
    width.div_ceil(columns.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, limit: usize) -> Vec<String> {
        Paragraph::bare(Line::plain(text)).lines(limit).iter().map(Line::text).collect()
    }

    #[test]
    fn words_are_kept_whole_and_no_row_is_too_wide() {
        assert_eq!(wrapped("the quick brown fox", 10), ["the quick", "brown fox"]);
        assert_eq!(wrapped("the quick brown", 9), ["the quick", "brown"]);
        assert_eq!(wrapped("", 9), [""]);
        assert_eq!(wrapped("incomprehensibilities", 8), ["incompre", "hensibil", "ities"]);
        assert_eq!(wrapped("a incomprehensibilities", 8), ["a", "incompre", "hensibil", "ities"]);
    }

    #[test]
    fn wide_and_joined_characters_count_as_the_terminal_counts_them() {
        assert_eq!(width("e\u{301}"), 1);
        assert_eq!(width("\u{4f60}\u{597d}"), 4);
        assert_eq!(width("\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}"), 2);
        assert_eq!(wrapped("\u{4f60}\u{597d}\u{4f60}", 5), ["\u{4f60}\u{597d}", "\u{4f60}"]);
    }

    #[test]
    fn rows_of_a_growing_text_are_stable_but_for_the_last() {
        let text =
            "one two  three four \u{4f60}\u{597d}\u{4f60}\u{597d} five-and-a-very-long-word-without-an-end six   seven eight";
        let whole = Paragraph::bare(Line::plain(text)).rows(0, 12);
        for (end, _) in text.char_indices() {
            let part = Paragraph::bare(Line::plain(&text[..end])).rows(0, 12);
            assert_eq!(part[..part.len() - 1], whole[..part.len() - 1], "{:?}", &text[..end]);
        }
    }

    #[test]
    fn wrapping_goes_on_from_the_end_of_any_row() {
        let paragraph = Paragraph {
            first: Line::plain("- "),
            rest: Line::plain("  "),
            body: Line::plain("a list item that takes more than one row, and then some"),
        };
        let rows = paragraph.rows(0, 20);
        assert!(rows.iter().all(|row| row.line.width() <= 20));
        assert!(rows[1].line.text().starts_with("  "));
        for (at, row) in rows.iter().enumerate().take(rows.len() - 1) {
            assert_eq!(paragraph.rows(row.end, 20), rows[at + 1..]);
        }
    }

    #[test]
    fn a_truncated_line_says_that_something_is_missing() {
        assert_eq!(Line::plain("hello world").truncated(8).text(), "hello...");
        assert_eq!(Line::plain("hello").truncated(8).text(), "hello");
        assert_eq!(Line::plain("hello world").truncated(2).text(), "..");
    }
}
