//! What a finding looks like: a line of its text, with what was found marked in it.

use serde::Serialize;
use std::ops::Range;

/// How many bytes are shown before and behind the first place that was found.
const BEFORE_BYTES: usize = 60;
const AFTER_BYTES: usize = 140;

/// A part of a message on one line, its runs of white space made one space, with `...` where it was cut. As raw as the log: make it safe before a terminal sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snippet {
    /// The line.
    pub text: String,
    /// What was found in it, in its order, as ranges of bytes.
    pub marks: Vec<Range<usize>>,
}

impl Snippet {
    /// The part of `text` around the first of `places`.
    pub(super) fn cut(text: &str, places: &[Range<usize>]) -> Self {
        let first = places.first().map_or(0, |place| place.start);
        let start = first.saturating_sub(BEFORE_BYTES);
        let start = boundary(text, if start == 0 { 0 } else { start });
        let end = boundary(text, first.saturating_add(AFTER_BYTES));
        let mut snippet = Self { text: if start > 0 { "...".to_owned() } else { String::new() }, marks: Vec::new() };
        let mut at = start;
        for place in places.iter().filter(|place| place.start < end) {
            snippet.push(&text[at..place.start]);
            // White space before a mark is no part of it.
            let mark = snippet.text.len();
            at = place.end.min(end);
            snippet.push(&text[place.start..at]);
            snippet.marks.push(mark..snippet.text.len());
        }
        snippet.push(&text[at..end]);
        snippet.text.truncate(snippet.text.trim_end().len());
        if end < text.len() {
            snippet.text.push_str("...");
        }
        snippet
    }

    fn push(&mut self, part: &str) {
        for char in part.chars() {
            match char.is_whitespace() {
                false => self.text.push(char),
                true if self.text.is_empty() || self.text.ends_with(' ') || self.text == "..." => {}
                true => self.text.push(' '),
            }
        }
    }
}

/// The last place up to `at` that is not inside a character.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_is_one_line_with_its_marks_and_never_cuts_a_character() {
        let text = "日本語\n".repeat(100) + "Needle" + &"\téé".repeat(100);
        let at = text.find("Needle").expect("there");
        let place = at..at + 6;
        let snippet = Snippet::cut(&text, std::slice::from_ref(&place));
        assert!(snippet.text.starts_with("...") && snippet.text.ends_with("..."), "{snippet:?}");
        assert!(snippet.text.contains("日本語 Needle éé éé") && !snippet.text.contains(['\n', '\t']));
        assert_eq!(snippet.marks.iter().map(|mark| &snippet.text[mark.clone()]).collect::<Vec<_>>(), ["Needle"]);
    }

    #[test]
    fn every_place_on_the_line_is_marked() {
        let snippet = Snippet::cut("  a fox \n\n and a\n fox ", &[4..7, 18..21]);
        assert_eq!((snippet.text.as_str(), snippet.marks), ("a fox and a fox", vec![2..5, 12..15]));
        assert_eq!(Snippet::cut("short", &[]).text, "short");
    }
}
