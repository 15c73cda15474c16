//! Markdown: a heading that names a speaker opens what was said. The exports of this program are read too; what they say of
//! tools stays as text, because nothing tells it from an answer's own words.

use super::builder::{Answer, Builder};
use super::record::title;
use super::{Facts, Reader};
use crate::error::StoreError;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq)]
enum Speaker {
    User,
    Assistant,
    System,
    Note,
}

pub(super) fn is_conversation(text: &str) -> bool {
    sections(text).any(|(speaker, _)| matches!(speaker, Some(Speaker::User | Speaker::Assistant)))
}

pub(super) struct Markdown;

impl Reader for Markdown {
    fn look(&mut self, _: u64, document: &Value, facts: &mut Facts) {
        let text = document.as_str().unwrap_or_default();
        let named = text.lines().find_map(|line| line.strip_prefix("# ")).filter(|heading| speaker(heading).is_none());
        let said = || sections(text).find(|(who, _)| *who == Some(Speaker::User)).and_then(|(_, said)| title(&words(&said)));
        facts.title = named.and_then(title).or_else(said);
    }

    fn read(&mut self, _: u64, document: Value, out: &mut Builder<'_>) -> Result<(), StoreError> {
        for (speaker, said) in sections(document.as_str().unwrap_or_default()) {
            let words = words(&said);
            match speaker {
                Some(Speaker::User) => out.user(words)?,
                Some(Speaker::Note) => out.note(&words)?,
                Some(Speaker::Assistant) => {
                    let mut answer = Answer { provider: "markdown".to_owned(), ..Answer::default() };
                    answer.text(&words);
                    out.answer(answer)?;
                }
                // A system prompt in a document is as good as its author; it is kept, and not followed.
                Some(Speaker::System) | None => {}
            }
            out.original("section", json!({"text": said}))?;
        }
        Ok(())
    }
}

/// The parts of a document, each with its heading; what is before the first speaker has none.
fn sections(text: &str) -> impl Iterator<Item = (Option<Speaker>, String)> {
    let mut sections = vec![(None, String::new())];
    let mut fence: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let content = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| content.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            _ => {}
        }
        let heading = content.strip_prefix('#').filter(|_| fence.is_none()).and_then(speaker);
        match (heading, sections.last_mut()) {
            (None, Some((_, said))) => said.push_str(line),
            (heading, _) => sections.push((heading, line.to_owned())),
        }
    }
    sections.into_iter().filter(|(_, said)| !said.is_empty())
}

/// Who a heading names, where its first word names a speaker.
fn speaker(heading: &str) -> Option<Speaker> {
    let heading = heading.trim_start_matches('#').trim_start_matches(|char: char| !char.is_alphanumeric());
    let word: String = heading.chars().take_while(|char| char.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    Some(match word.as_str() {
        "user" | "human" | "you" | "me" => Speaker::User,
        "assistant" | "ai" | "model" | "claude" | "chatgpt" | "gpt" | "codex" => Speaker::Assistant,
        "system" => Speaker::System,
        "note" if heading.to_lowercase().starts_with("note to the model") => Speaker::Note,
        _ => return None,
    })
}

/// What was said below a heading: without the line that says where it is in a session, and without the marks of a quote that is all of it.
fn words(section: &str) -> String {
    let body = section.split_once('\n').map_or("", |(_, body)| body).trim();
    let body = match body.split_once('\n') {
        Some((place, rest)) if place.starts_with("*event ") && place.ends_with('*') => rest.trim(),
        _ => body,
    };
    let is_quote = !body.is_empty() && body.lines().all(|line| line.starts_with('>'));
    if !is_quote {
        return body.to_owned();
    }
    let unquoted =
        body.lines().map(|line| line.trim_start_matches('>').strip_prefix(' ').unwrap_or(line.trim_start_matches('>')));
    unquoted.collect::<Vec<_>>().join("\n")
}
