//! What is looked for: [`SearchQuery`], read from what a person typed, and matched here.

use super::documents::Document;
use super::words::{Words, words};
use crate::time::Timestamp;
use serde::Serialize;
use std::ops::Range;
use std::path::Path;

/// The most terms, and the most words of a phrase, that the index is asked for. A longer query is asked in part; what comes back is matched whole.
const ASKED_MAX: usize = 64;

/// How many letters of a word have to be typed before it may be the start of one.
const TYPED_MIN: usize = 3;

/// Whose words a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SearchRole {
    /// A person's.
    User,
    /// A model's answer.
    Assistant,
    /// A model's reasoning, as far as its provider shows it.
    Reasoning,
    /// A tool call's arguments, or its output.
    Tool,
}

impl SearchRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::User, Self::Assistant, Self::Reasoning, Self::Tool];

    /// As it is typed and printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Reasoning => "reasoning",
            Self::Tool => "tool",
        }
    }
}

/// In which order findings come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SearchOrder {
    /// The newest first.
    #[default]
    Newest,
    /// Those with the rarest words, most of them, in the shortest text first: of the newest 5,000 that have the words, then of the 5,000 before those, and so on.
    Best,
}

/// What is looked for: messages that have all the words and phrases, none of those that are ruled out, and pass all filters.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SearchQuery {
    terms: Vec<Term>,
    /// Only these; empty: all.
    pub roles: Vec<SearchRole>,
    /// Only calls of this tool and their output.
    pub tool: Option<String>,
    /// Only what was said to or by this model: `provider/name`, or either of them.
    pub model: Option<String>,
    /// Only sessions that were started in this folder or below it; absolute. Several: in any of them.
    pub folders: Vec<String>,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Not after this.
    pub until: Option<Timestamp>,
    /// What comes first.
    pub order: SearchOrder,
}

/// A word or a phrase.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    words: Vec<String>,
    /// The last word is only a word's start.
    is_start: bool,
    /// No message that has it is wanted.
    is_ruled_out: bool,
}

impl SearchQuery {
    /// Reads what a person typed: `words`, `"a phrase"`, `start*`, `-not`. Every text is a query; punctuation only separates, and what is
    /// joined by it, as in `main.rs`, is a phrase.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (is_ruled_out, after) = match rest.strip_prefix('-') {
                Some(after) => (true, after),
                None => (false, rest),
            };
            let (body, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => after.split_at(after.find(|char: char| char.is_whitespace() || char == '"').unwrap_or(after.len())),
            };
            let (is_start, after) = match after.strip_prefix('*') {
                Some(after) => (true, after),
                None => (body.ends_with('*'), after),
            };
            query.push(body, is_start, is_ruled_out);
            rest = after.trim_start();
        }
        query
    }

    /// Looks for `text` as a phrase, too, whatever is in it.
    #[must_use]
    pub fn and_phrase(mut self, text: &str) -> Self {
        self.push(text, false, false);
        self
    }

    /// Adds the terms of `other` to these. The filters stay.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        self
    }

    /// Rules out messages that have a term of `other`.
    #[must_use]
    pub fn and_not(mut self, other: Self) -> Self {
        self.terms.extend(other.terms.into_iter().map(|term| Term { is_ruled_out: true, ..term }));
        self
    }

    /// Takes the last word as the start of one, where it has three letters or more: for a query that is still being typed. Too many words begin with fewer.
    #[must_use]
    pub fn as_typed(mut self) -> Self {
        let is_long = |term: &&mut Term| term.words.last().is_some_and(|word| word.chars().count() >= TYPED_MIN);
        if let Some(last) = self.terms.last_mut().filter(|term| !term.is_ruled_out).filter(is_long) {
            last.is_start = true;
        }
        self
    }

    /// Whether there is any word to look for; one that is ruled out is none.
    #[must_use]
    pub fn has_words(&self) -> bool {
        self.terms.iter().any(|term| !term.is_ruled_out)
    }

    fn push(&mut self, text: &str, is_start: bool, is_ruled_out: bool) {
        let words = words(text);
        if !words.is_empty() {
            self.terms.push(Term { words, is_start, is_ruled_out });
        }
    }

    /// The places in `document` that are looked for, in their order; nothing where it is not what is looked for.
    pub(super) fn find(&self, document: &Document) -> Option<Vec<Range<usize>>> {
        let role = self.roles.is_empty() || self.roles.contains(&document.role);
        let same = |wanted: &String| document.tool.as_ref().is_some_and(|tool| tool.eq_ignore_ascii_case(wanted));
        if !(self.is_in_time(document.at) && role && self.tool.as_ref().is_none_or(same)) {
            return None;
        }
        let text = FoldedText::of(&document.text);
        let mut found = Vec::new();
        for term in &self.terms {
            let places = text.places(term);
            if places.is_empty() != term.is_ruled_out {
                return None;
            }
            found.extend(places);
        }
        found.sort_by_key(|place| (place.start, std::cmp::Reverse(place.end)));
        found.dedup_by(|next, before| next.start < before.end);
        Some(found)
    }

    pub(super) fn is_in_time(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= at) && self.until.is_none_or(|until| at <= until)
    }

    /// Whether the model and the folder of a message are among those that are looked for.
    pub(super) fn passes(&self, model: Option<&str>, cwd: Option<&str>) -> bool {
        let model_passes = |wanted: &String| {
            let wanted = wanted.to_lowercase();
            model.is_some_and(|model| model_names(&model.to_lowercase()).any(|name| name == wanted))
        };
        let is_below = |folder: &String| cwd.is_some_and(|cwd| Path::new(cwd).starts_with(folder));
        self.model.as_ref().is_none_or(model_passes) && (self.folders.is_empty() || self.folders.iter().any(is_below))
    }

    /// The same without the starts of words, which finds more; nothing where there are none.
    pub(super) fn without_starts(&self) -> Option<Self> {
        if !self.terms.iter().any(|term| term.is_start) {
            return None;
        }
        let whole = |term: &Term| match term.words.split_last() {
            Some(_) if term.is_start && term.is_ruled_out => None,
            Some((_, before)) if term.is_start => Some(Term { words: before.to_vec(), is_start: false, is_ruled_out: false }),
            _ => Some(term.clone()),
        };
        let terms = self.terms.iter().filter_map(whole).filter(|term| !term.words.is_empty()).collect();
        Some(Self { terms, ..self.clone() })
    }

    /// The query in the words of FTS5. It holds words of letters and digits between quotes and nothing else that a person typed. What it finds is at least
    /// what is looked for, but for the dates.
    pub(super) fn to_fts(&self) -> String {
        let mut all: Vec<String> = Vec::new();
        let either = |facets: Vec<String>| {
            let quoted: Vec<String> = facets.iter().map(|facet| format!("\"{facet}\"")).collect();
            format!("({})", quoted.join(" OR "))
        };
        all.extend(self.terms.iter().filter(|term| !term.is_ruled_out).take(ASKED_MAX).map(Term::to_fts));
        if !self.roles.is_empty() || all.is_empty() {
            let roles = if self.roles.is_empty() { &SearchRole::ALL[..] } else { &self.roles };
            all.push(either(roles.iter().map(|role| facet('r', role.name())).collect()));
        }
        all.extend(self.tool.as_ref().map(|tool| either(vec![facet('t', &tool.to_lowercase())])));
        all.extend(self.model.as_ref().map(|model| either(vec![facet('m', &model.to_lowercase())])));
        if !self.folders.is_empty() {
            all.push(either(self.folders.iter().map(|folder| facet('d', &without_end(folder))).collect()));
        }
        let mut query = format!("({})", all.join(" AND "));
        // A phrase that was cut short would rule out more than was said.
        let ruled_out = self.terms.iter().filter(|term| term.is_ruled_out && term.words.len() <= ASKED_MAX).take(ASKED_MAX);
        ruled_out.for_each(|term| query += &format!(" NOT {}", term.to_fts()));
        query
    }
}

impl Term {
    fn to_fts(&self) -> String {
        let words = &self.words[..self.words.len().min(ASKED_MAX)];
        let start = if self.is_start && words.len() == self.words.len() { " *" } else { "" };
        format!("\"{}\"{start}", words.join(" "))
    }

    fn matches(&self, words: &[&str]) -> bool {
        let Some((last, others)) = self.words.split_last() else { return false };
        let Some((word, before)) = words.split_last() else { return false };
        others.iter().zip(before).all(|(wanted, word)| wanted == word)
            && if self.is_start { word.starts_with(last.as_str()) } else { word == last }
    }
}

/// A text as its words.
struct FoldedText {
    folded: String,
    /// For each word, where it is in `folded` and in the text.
    words: Vec<(Range<usize>, Range<usize>)>,
}

impl FoldedText {
    fn of(text: &str) -> Self {
        let (mut folded, mut all) = (String::new(), Vec::new());
        let mut found = Words::of(text);
        let mut start = 0;
        while let Some(place) = found.next_into(&mut folded) {
            all.push((start..folded.len(), place));
            start = folded.len();
        }
        Self { folded, words: all }
    }

    fn places(&self, term: &Term) -> Vec<Range<usize>> {
        let words: Vec<&str> = self.words.iter().map(|(folded, _)| &self.folded[folded.clone()]).collect();
        let windows = words.windows(term.words.len().max(1)).enumerate();
        let found = windows.filter(|(_, window)| term.matches(window));
        found.map(|(at, window)| self.words[at].1.start..self.words[at + window.len() - 1].1.end).collect()
    }
}

/// A filter's value as a word that no text has: they begin with a character that separates words.
pub(super) fn facet(kind: char, value: &str) -> String {
    let hash = crate::side::sha256_hex(value.as_bytes());
    format!("\u{e000}{kind}{}", &hash[..12])
}

/// Under which names a model is found: `provider/name`, `provider`, `name`.
pub(super) fn model_names(model: &str) -> impl Iterator<Item = &str> {
    let parts = model.split_once('/');
    std::iter::once(model).chain(parts.map(|(provider, _)| provider)).chain(parts.map(|(_, name)| name))
}

/// A folder as it is written in its facet.
pub(super) fn without_end(folder: &str) -> String {
    // Its components, so that `/a/` and `/a` are one.
    Path::new(folder).components().collect::<std::path::PathBuf>().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(text: &str) -> Document {
        Document {
            seq: 0,
            place: crate::id::Place::default(),
            part: 0,
            at: Timestamp::from_ms(0),
            role: SearchRole::User,
            tool: None,
            model: None,
            text: text.to_owned(),
        }
    }

    fn finds<'a>(query: &str, text: &'a str) -> Option<Vec<&'a str>> {
        let found = SearchQuery::parse(query).find(&document(text))?;
        Some(found.into_iter().map(|place| &text[place]).collect())
    }

    #[test]
    fn words_phrases_starts_and_what_is_ruled_out() {
        let text = "The quick brown Fox jumps; see src/main.rs";
        assert_eq!(finds("fox quick", text), Some(vec!["quick", "Fox"]));
        assert_eq!(finds("\"brown fox\" jum*", text), Some(vec!["brown Fox", "jumps"]));
        assert_eq!(finds("\"brown jumps\"", text), None);
        assert_eq!(finds("main.rs", text), Some(vec!["main.rs"]));
        assert_eq!(finds("\"src/main.r\"*", text), Some(vec!["src/main.rs"]));
        assert_eq!(finds("fox -dog", text), Some(vec!["Fox"]));
        assert_eq!(finds("fox -\"quick brown\"", text), None);
        assert_eq!(finds("ju", text), None);
        assert_eq!(finds("日本", "今日本語"), Some(vec!["日本"]));
    }

    #[test]
    fn a_query_without_words_says_so() {
        for text in ["", "  ", "\"", "-", "*", "--- \"\" ***", "(OR)\u{0}"] {
            assert_eq!(SearchQuery::parse(text).has_words(), text.contains("OR"), "{text}");
        }
        assert!(!SearchQuery::parse("-fox").has_words());
    }

    #[test]
    fn a_model_is_found_by_its_names_and_a_folder_with_what_is_below_it() {
        let query = SearchQuery { model: Some("Claude".into()), folders: vec!["/src/a/".into()], ..SearchQuery::default() };
        assert!(query.passes(Some("anthropic/claude"), Some("/src/a/b")));
        assert!(!query.passes(Some("anthropic/claude"), Some("/src/ab")));
        assert!(!query.passes(Some("anthropic/claude-2"), Some("/src/a")));
    }

    proptest! {
        #[test]
        fn no_query_has_the_syntax_of_a_person(text in "\\PC*|[-\"*()^:+{}\\\\ a-z]*") {
            let fts = SearchQuery::parse(&text).to_fts();
            // Outside of quotes there is only what is written here.
            let outside: String = fts.split('"').step_by(2).collect();
            prop_assert!(fts.matches('"').count().is_multiple_of(2));
            prop_assert!(outside.split([' ', '(', ')']).all(|word| ["", "AND", "OR", "NOT", "*"].contains(&word)), "{}", fts);
        }
    }
}
