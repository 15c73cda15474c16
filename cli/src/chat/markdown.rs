//! Streamed Markdown as terminal lines.
//!
//! Text is pushed as it arrives. Rows that no later text can change are given out at once and never again; what may still
//! change (the last row, and everything behind markup that is not closed yet) is shown by [`Markdown::unfinished`] until it settles. Each
//! line of the source is laid out by itself: paragraphs and lists wrap by words, code and tables keep their lines. With a plain look the source
//! stays as it is and is only wrapped.

use super::styled::{BOLD, CODE, DIM, Line, PLAIN, Paragraph, width};
use crate::safe_text::safe;
use anstyle::{Effects, Style};

/// A line of the source that is longer is laid out in pieces, so that the work for a delta is bounded.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// Lays out one message.
#[derive(Clone, Debug)]
pub(super) struct Markdown {
    look: Look,
    /// The source's last line, as far as it came, and how many graphemes of its layout were given out.
    partial: String,
    given_out: usize,
    /// The line began in an earlier piece: it is text, whatever it begins with.
    goes_on: bool,
    fence: Option<Fence>,
    /// A blank line is due before the next row. Blank lines at the ends are left out.
    gap: bool,
    begun: bool,
}

/// Whether markup becomes style or stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Styled,
    Plain,
}

#[derive(Clone, Copy, Debug)]
struct Fence {
    mark: char,
    length: usize,
}

/// A line of the source, laid out.
struct Laid {
    paragraph: Paragraph,
    /// Printed as it is; the terminal wraps it, so that it is copied as one line.
    verbatim: bool,
    /// The graphemes of the body before the first markup that is not closed.
    settled: usize,
}

impl Markdown {
    pub(super) fn new(look: Look) -> Self {
        Self { look, partial: String::new(), given_out: 0, goes_on: false, fence: None, gap: false, begun: false }
    }

    /// Takes more of the source, and appends the rows that are settled to `out`.
    pub(super) fn push(&mut self, text: &str, limit: usize, out: &mut Vec<Line>) {
        for piece in text.split_inclusive('\n') {
            self.partial.push_str(piece);
            if self.partial.ends_with('\n') {
                self.end_line(limit, out);
            } else {
                self.settle(limit, out);
                if self.partial.len() > LINE_BYTES_MAX {
                    self.end_line(limit, out);
                    self.goes_on = true;
                }
            }
        }
    }

    /// Ends the message.
    pub(super) fn finish(&mut self, limit: usize, out: &mut Vec<Line>) {
        if !self.partial.is_empty() {
            self.end_line(limit, out);
        }
        *self = Self::new(self.look);
    }

    /// What came and was not given out yet.
    pub(super) fn unfinished(&self, limit: usize) -> Vec<Line> {
        if self.partial.trim().is_empty() {
            return Vec::new();
        }
        let mut lines = Vec::new();
        if self.gap {
            lines.push(Line::default());
        }
        lines.extend(self.lay_out(&self.partial).paragraph.rows(self.given_out, limit).into_iter().map(|row| row.line));
        lines
    }

    /// Gives out rows of the unfinished line that cannot change any more.
    fn settle(&mut self, limit: usize, out: &mut Vec<Line>) {
        if self.partial.len() < limit {
            return;
        }
        let laid = self.lay_out(&self.partial);
        if laid.verbatim {
            return;
        }
        let mut rows = laid.paragraph.rows(self.given_out, limit);
        rows.pop();
        for row in rows.into_iter().take_while(|row| row.decided_by <= laid.settled) {
            self.given_out = row.end;
            self.give_out(row.line, out);
        }
    }

    fn end_line(&mut self, limit: usize, out: &mut Vec<Line>) {
        let line = std::mem::take(&mut self.partial);
        let line = line.strip_suffix('\n').map_or(line.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if line.trim().is_empty() && self.fence.is_none() {
            self.gap = self.begun;
        } else {
            let laid = self.lay_out(if self.fence.is_some() { line } else { line.trim_end() });
            if laid.verbatim {
                let mut whole = laid.paragraph.first;
                whole.extend(&laid.paragraph.body);
                self.give_out(whole, out);
            } else {
                for row in laid.paragraph.rows(self.given_out, limit) {
                    self.give_out(row.line, out);
                }
            }
            self.fence = next_fence(self.fence, line);
        }
        self.given_out = 0;
        self.goes_on = false;
    }

    fn give_out(&mut self, line: Line, out: &mut Vec<Line>) {
        if std::mem::take(&mut self.gap) {
            out.push(Line::default());
        }
        self.begun = true;
        out.push(line);
    }

    fn lay_out(&self, line: &str) -> Laid {
        let line = safe(line).replace('\t', "    ");
        let is_fence = fence_mark(&line).is_some();
        if self.fence.is_some() || is_fence || line.trim_start().starts_with('|') {
            let style = match (self.look, is_fence) {
                (Look::Styled, true) => DIM,
                (Look::Styled, false) if self.fence.is_some() => CODE,
                _ => PLAIN,
            };
            return Laid { paragraph: Paragraph::bare(Line::new(line, style)), verbatim: true, settled: 0 };
        }
        let (prefix, rest, body_style, body) =
            if self.goes_on { (Line::default(), Line::default(), PLAIN, line.as_str()) } else { self.block(&line) };
        let mut inline = Inline { look: self.look, out: Line::default(), open: None };
        inline.parse(body, body_style, Ends::MayGoOn);
        let settled = inline.open.unwrap_or(usize::MAX);
        Laid { paragraph: Paragraph { first: prefix, rest, body: inline.out }, verbatim: false, settled }
    }

    /// The prefixes of the first and of the other rows, the style of the words, and the words.
    fn block<'a>(&self, line: &'a str) -> (Line, Line, Style, &'a str) {
        let text = line.trim_start_matches(' ');
        let indent = &line[..line.len() - text.len()];
        let dim = if self.look == Look::Styled { DIM } else { PLAIN };
        let same = |prefix: Line, style, body| (prefix.clone(), prefix, style, body);
        if let Some(body) = heading(text) {
            let marks = &text[..text.len() - body.len()];
            let bold = if self.look == Look::Styled { BOLD } else { PLAIN };
            return (Line::new(marks, dim), Line::plain(" ".repeat(marks.len())), bold, body);
        }
        if let Some(body) = text.strip_prefix('>') {
            let body = body.strip_prefix(' ').unwrap_or(body);
            let style = if self.look == Look::Styled { PLAIN.italic() } else { PLAIN };
            // Not `> `, which is how the person's own words begin.
            return same(Line::plain(indent).with("| ", dim), style, body);
        }
        if let Some(body) = list_item(text) {
            let mark = &text[..text.len() - body.len()];
            let rest = Line::plain(" ".repeat(indent.len() + width(mark)));
            return (Line::plain(indent).with(mark, if self.look == Look::Styled { BOLD } else { PLAIN }), rest, PLAIN, body);
        }
        same(Line::plain(indent), PLAIN, text)
    }
}

fn heading(text: &str) -> Option<&str> {
    let level = text.bytes().take_while(|&byte| byte == b'#').count();
    let body = text[level..].strip_prefix(' ')?;
    (1..=6).contains(&level).then(|| body.trim_start())
}

fn list_item(text: &str) -> Option<&str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let mark = if (1..=9).contains(&digits) { &text[digits..] } else { text };
    let is_mark = if digits > 0 { mark.starts_with(['.', ')']) } else { mark.starts_with(['-', '*', '+']) };
    let body = mark.get(1..).filter(|_| is_mark)?;
    body.starts_with(' ').then(|| body.trim_start())
}

fn fence_mark(line: &str) -> Option<Fence> {
    let text = line.trim_start();
    let mark = text.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let length = text.chars().take_while(|&character| character == mark).count();
    // A line such as ```x``` is inline code.
    let is_inline = mark == '`' && text[length..].contains('`');
    (length >= 3 && !is_inline).then_some(Fence { mark, length })
}

fn next_fence(open: Option<Fence>, line: &str) -> Option<Fence> {
    match (open, fence_mark(line)) {
        (Some(open), Some(mark)) if mark.mark == open.mark && mark.length >= open.length => {
            let is_bare = line.trim().chars().all(|character| character == mark.mark);
            if is_bare { None } else { Some(open) }
        }
        (Some(open), _) => Some(open),
        (None, mark) => mark,
    }
}

/// Turns the markup inside a line into spans.
struct Inline {
    look: Look,
    out: Line,
    /// How many graphemes stood before the first markup that was opened and not closed.
    open: Option<usize>,
}

impl Inline {
    fn parse(&mut self, text: &str, style: Style, ends: Ends) {
        if self.look == Look::Plain {
            self.out.push(text, style);
            return;
        }
        let mut at = 0;
        // The start of what is not in `out` yet.
        let mut pending = 0;
        while let Some(found) = text[at..].find(['\\', '`', '*', '_', '~', '[', '!']) {
            at += found;
            self.out.push(&text[pending..at], style);
            pending = at;
            let found = markup(text, at);
            // Markup that reaches the end may mean something else when more text comes.
            let next = match &found {
                Markup::None(length) => at + length,
                Markup::Open => at + run_length(text, at),
                Markup::Found { end, .. } => *end,
            };
            if ends == Ends::MayGoOn && (next >= text.len() || matches!(found, Markup::Open)) && self.open.is_none() {
                self.open = Some(graphemes(&self.out));
            }
            if let Markup::Found { content, kind, .. } = found {
                self.found(content, kind, style);
                pending = next;
            }
            at = next;
        }
        self.out.push(&text[pending..], style);
    }

    fn found(&mut self, content: &str, kind: Kind<'_>, style: Style) {
        match kind {
            Kind::Literal => self.out.push(content, style),
            Kind::Code => self.out.push(content, over(style, CODE)),
            Kind::Effect(effects) => self.parse(content, style.effects(style.get_effects() | effects), Ends::Closed),
            Kind::Link(url) => {
                self.parse(content, style.underline(), Ends::Closed);
                if url != content {
                    self.out.push(format!(" ({url})"), over(style, DIM));
                }
            }
        }
    }
}

/// Whether more text may come behind a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    MayGoOn,
    Closed,
}

fn graphemes(line: &Line) -> usize {
    use unicode_segmentation::UnicodeSegmentation;
    line.spans.iter().map(|span| span.text.graphemes(true).count()).sum()
}

/// `top` with the effects of `style`.
fn over(style: Style, top: Style) -> Style {
    top.effects(top.get_effects() | style.get_effects())
}

enum Markup<'a> {
    /// Nothing: the next so many bytes are text.
    None(usize),
    /// It may become markup when more text comes.
    Open,
    Found {
        end: usize,
        content: &'a str,
        kind: Kind<'a>,
    },
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Literal,
    Code,
    Effect(Effects),
    Link(&'a str),
}

fn markup(text: &str, at: usize) -> Markup<'_> {
    match text.as_bytes()[at] {
        b'\\' => match text.as_bytes().get(at + 1) {
            Some(next) if next.is_ascii_punctuation() => {
                Markup::Found { end: at + 2, content: &text[at + 1..at + 2], kind: Kind::Literal }
            }
            _ => Markup::None(1),
        },
        b'`' => code(text, at),
        b'[' => link(text, at),
        b'!' => match text.as_bytes().get(at + 1) {
            Some(b'[') => link(text, at + 1),
            _ => Markup::None(1),
        },
        _ => emphasis(text, at),
    }
}

fn run_length(text: &str, at: usize) -> usize {
    let mark = text.as_bytes()[at];
    text.as_bytes()[at..].iter().take_while(|&&byte| byte == mark).count()
}

fn code(text: &str, at: usize) -> Markup<'_> {
    let length = run_length(text, at);
    let start = at + length;
    let mut from = start;
    while let Some(found) = text[from..].find('`') {
        let close = from + found;
        let closing = run_length(text, close);
        if closing == length {
            return Markup::Found { end: close + closing, content: &text[start..close], kind: Kind::Code };
        }
        from = close + closing;
    }
    Markup::Open
}

fn link(text: &str, at: usize) -> Markup<'_> {
    let Some(close) = matching(text, at, b'[', b']') else { return Markup::Open };
    match text.as_bytes().get(close + 1) {
        Some(b'(') => {}
        Some(_) => return Markup::None(1),
        None => return Markup::Open,
    }
    let Some(end) = matching(text, close + 1, b'(', b')') else { return Markup::Open };
    let url = text[close + 2..end].split_whitespace().next().unwrap_or_default();
    Markup::Found { end: end + 1, content: &text[at + 1..close], kind: Kind::Link(url) }
}

/// The place of the bracket that closes the one at `at`.
fn matching(text: &str, at: usize, open: u8, close: u8) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, &byte) in text.as_bytes().iter().enumerate().skip(at) {
        if byte == open {
            depth += 1;
        } else if byte == close {
            depth -= 1;
            if depth == 0 {
                return Some(place);
            }
        }
    }
    None
}

fn emphasis(text: &str, at: usize) -> Markup<'_> {
    let mark = text.as_bytes()[at];
    let length = run_length(text, at);
    let start = at + length;
    let effects = match (mark, length) {
        (b'*' | b'_', 1) => Effects::ITALIC,
        (b'*' | b'_', 2) => Effects::BOLD,
        (b'*' | b'_', 3) => Effects::BOLD.insert(Effects::ITALIC),
        (b'~', 2) => Effects::STRIKETHROUGH,
        _ => return Markup::None(length),
    };
    let inside_word = mark == b'_' && text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
    match text[start..].chars().next() {
        None => return Markup::Open,
        Some(next) if next.is_whitespace() || inside_word => return Markup::None(length),
        Some(_) => {}
    }
    match closing(text, start, mark, length) {
        Some(close) => Markup::Found { end: close + length, content: &text[start..close], kind: Kind::Effect(effects) },
        None => Markup::Open,
    }
}

/// The place of the run of `length` marks that closes an emphasis which began before `start`.
fn closing(text: &str, start: usize, mark: u8, length: usize) -> Option<usize> {
    let mut at = start;
    while let Some(found) = text[at..].find([char::from(mark), '`', '\\']) {
        at += found;
        let byte = text.as_bytes()[at];
        if byte == b'\\' {
            at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8);
            continue;
        }
        if byte == b'`' {
            at = if let Markup::Found { end, .. } = code(text, at) { end } else { at + run_length(text, at) };
            continue;
        }
        let run = run_length(text, at);
        let before_is_word = text[..at].chars().next_back().is_some_and(|before| !before.is_whitespace());
        let inside_word = mark == b'_' && text[at + run..].chars().next().is_some_and(char::is_alphanumeric);
        // A run that reaches the end may still grow.
        if run == length && before_is_word && !inside_word && at > start {
            return Some(at);
        }
        at += run;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines as text, styles shown as `{b:...}`.
    fn marked(lines: &[Line]) -> String {
        let mut shown = String::new();
        for line in lines {
            for span in &line.spans {
                let mut tags = String::new();
                let effects = span.style.get_effects();
                for (effect, tag) in [
                    (Effects::BOLD, 'b'),
                    (Effects::ITALIC, 'i'),
                    (Effects::UNDERLINE, 'u'),
                    (Effects::DIMMED, 'd'),
                    (Effects::STRIKETHROUGH, 's'),
                ] {
                    if effects.contains(effect) {
                        tags.push(tag);
                    }
                }
                if span.style.get_fg_color().is_some() {
                    tags.push('c');
                }
                if tags.is_empty() {
                    shown.push_str(&span.text);
                } else {
                    shown.push_str(&format!("{{{tags}:{}}}", span.text));
                }
            }
            shown.push('\n');
        }
        shown
    }

    fn render(look: Look, source: &str, limit: usize) -> Vec<Line> {
        let mut markdown = Markdown::new(look);
        let mut out = Vec::new();
        markdown.push(source, limit, &mut out);
        markdown.finish(limit, &mut out);
        out
    }

    const SAMPLE: &str = "\n\n# A heading\n\nSome **bold words**, *leaning* ones, `code *here*`, ~~gone~~ and [a link](https://example.org/x \"t\").\n\
        \n\n\n- an item that is long enough to be wrapped at this width\n  - nested `x`\n12. twelfth\n\n> quoted words that go on for a while\n\n\
        ```rust\nfn main() { /* **not bold** */ }\n\n    println!(\"a line that is wider than the width\");\n```\n\n| a | b |\n|---|---|\n| **1** | 2 |\n\
        \nsnake_case_name, 2 * 3 * 4, \\*escaped\\*, ***both***, <b>, an open **start\n\n";

    #[test]
    fn markdown_becomes_style() {
        insta::assert_snapshot!(marked(&render(Look::Styled, SAMPLE, 40)));
    }

    #[test]
    fn without_colour_the_source_stays_readable() {
        insta::assert_snapshot!(marked(&render(Look::Plain, SAMPLE, 40)));
    }

    #[test]
    fn however_text_arrives_the_lines_are_the_same() {
        for limit in [12, 23, 40, 200] {
            let whole = render(Look::Styled, SAMPLE, limit);
            for size in [1, 2, 3, 7, 50] {
                let mut markdown = Markdown::new(Look::Styled);
                let mut out = Vec::new();
                for piece in SAMPLE.as_bytes().chunks(size) {
                    markdown.push(std::str::from_utf8(piece).expect("ASCII"), limit, &mut out);
                    // What was given out and what is unfinished is a prefix of the whole, but for markup that is not closed yet.
                    assert_eq!(out[..], whole[..out.len()], "limit {limit}, size {size}");
                }
                markdown.finish(limit, &mut out);
                assert_eq!(marked(&out), marked(&whole), "limit {limit}, size {size}");
            }
        }
    }

    #[test]
    fn a_long_paragraph_appears_row_by_row_before_it_ends() {
        let mut markdown = Markdown::new(Look::Styled);
        let mut out = Vec::new();
        markdown.push("one two three four five six seven eight", 10, &mut out);
        assert_eq!(marked(&out), "one two\nthree four\nfive six\nseven\n");
        assert_eq!(marked(&markdown.unfinished(10)), "eight\n");
    }

    #[test]
    fn text_behind_open_markup_waits() {
        let mut markdown = Markdown::new(Look::Styled);
        let mut out = Vec::new();
        markdown.push("one two three **four five six seven eight nine ten", 10, &mut out);
        assert_eq!(marked(&out), "one two\n");
        markdown.push("** eleven\n", 10, &mut out);
        assert!(marked(&out).contains("{b:five six}"), "{}", marked(&out));
    }

    #[test]
    fn a_resize_in_the_middle_of_a_paragraph_loses_nothing() {
        let mut markdown = Markdown::new(Look::Styled);
        let mut out = Vec::new();
        let words: Vec<String> = (0..60).map(|number| format!("word{number}")).collect();
        for (at, word) in words.iter().enumerate() {
            markdown.push(&format!("{word} "), 15 + at, &mut out);
        }
        markdown.finish(30, &mut out);
        let shown: Vec<String> =
            out.iter().flat_map(|line| line.text().split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        assert_eq!(shown, words);
    }

    #[test]
    fn an_endless_line_costs_bounded_work_and_stays_whole() {
        let word = "lorem-ipsum ";
        let mut markdown = Markdown::new(Look::Styled);
        let mut out = Vec::new();
        for _ in 0..1000 {
            markdown.push(word, 80, &mut out);
            assert!(markdown.partial.len() <= LINE_BYTES_MAX + word.len());
        }
        markdown.finish(80, &mut out);
        let shown: usize = out.iter().map(|line| line.text().matches("lorem-ipsum").count()).sum();
        assert_eq!(shown, 1000);
    }

    #[test]
    fn a_model_cannot_send_the_terminal_commands() {
        let lines = render(Look::Styled, "a\u{1b}]0;title\u{7}b `\u{1b}[2J`\n```\n\u{1b}[31m\n```\n", 80);
        assert!(lines.iter().all(|line| !line.text().chars().any(char::is_control)));
    }
}
