//! `longhand sessions search`: a plain scan of all sessions, newest first; what it finds is printed while it goes on.

use super::{JsonArray, show::each_item};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::safe_text::safe_line;
use crate::transcript::{Item, ItemKind, Painter, ToolEnd};
use regex::{Regex, RegexBuilder};
use serde::Serialize;
use session_store::{Block, Seq, SessionId, SessionSummary, Timestamp};
use std::borrow::Cow;

/// How many bytes of a message are shown before and after the first word that was found.
const BEFORE_BYTES: usize = 60;
const AFTER_BYTES: usize = 120;

#[derive(Debug, clap::Args)]
pub(crate) struct SearchArgs {
    /// What to look for: messages that have all of these words, in any case; quote a phrase
    #[arg(required = true)]
    words: Vec<String>,
    /// Stop after N findings
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// A message that has all the words.
#[derive(Debug, Serialize)]
struct Finding<'a> {
    session: SessionId,
    name: Option<&'a str>,
    title: Option<&'a str>,
    seq: Seq,
    at: Timestamp,
    role: &'static str,
    snippet: String,
}

pub(super) async fn run(app: &App, args: SearchArgs) -> Result<Exit, CliError> {
    let words = args.words.iter().map(|word| word_pattern(word)).collect::<Result<Vec<_>, _>>()?;
    let store = app.store()?;
    let mut report = match args.json {
        true => Report::Json(JsonArray::begin(Stdout::new())?),
        false => Report::Text { out: Stdout::new(), painter: Painter::new(app.colors_stdout()), session: None },
    };
    let limit = args.n.unwrap_or(usize::MAX);
    let mut found = 0;
    for session in store.list().await? {
        if found >= limit {
            break;
        }
        let searched = each_item(store.as_ref(), session.id, false, |item| match find(&words, &session, item) {
            Some(finding) if found < limit => {
                found += 1;
                report.add(&finding)
            }
            _ => Ok(()),
        });
        match searched.await {
            Ok(()) => report.show()?,
            Err(CliError::StdoutClosed) => return Err(CliError::StdoutClosed),
            Err(error) => output::stderr(&format!("warning: {}: {error}\n", session.id)),
        }
    }
    report.end()?;
    if found == 0 {
        output::stderr("nothing was found\n");
    }
    Ok(Exit::Done)
}

/// What is printed, as it is found.
enum Report {
    Json(JsonArray),
    /// Under a line for each session that has findings; `session` is the last that got one.
    Text {
        out: Stdout,
        painter: Painter,
        session: Option<SessionId>,
    },
}

impl Report {
    fn add(&mut self, finding: &Finding<'_>) -> Result<(), CliError> {
        match self {
            Self::Json(array) => array.push(finding),
            Self::Text { out, painter, session } => {
                if session.replace(finding.session) != Some(finding.session) {
                    let title = finding.name.or(finding.title).unwrap_or("(untitled)");
                    let head = painter.bold(&safe_line(&format!("{}  {title}", finding.session)));
                    out.raw(format!("{head}\n").as_bytes())?;
                }
                let line = format!("  [{}] {}: {}\n", finding.seq, finding.role, safe_line(&finding.snippet));
                out.raw(line.as_bytes())
            }
        }
    }

    fn show(&mut self) -> Result<(), CliError> {
        if let Self::Text { out, .. } = self { out.flush() } else { Ok(()) }
    }

    fn end(self) -> Result<(), CliError> {
        match self {
            Self::Json(array) => array.end("\n"),
            Self::Text { mut out, .. } => out.flush(),
        }
    }
}

fn word_pattern(word: &str) -> Result<Regex, CliError> {
    if word.trim().is_empty() {
        return Err(CliError::usage("a word to search for is empty"));
    }
    RegexBuilder::new(&regex::escape(word))
        .case_insensitive(true)
        .build()
        .map_err(|_| CliError::usage("a word to search for is too long"))
}

fn find<'a>(words: &[Regex], session: &'a SessionSummary, item: &Item) -> Option<Finding<'a>> {
    let (role, text) = searchable(item)?;
    let first = words.first()?.find(&text)?;
    if !words.iter().all(|word| word.is_match(&text)) {
        return None;
    }
    Some(Finding {
        session: session.id,
        name: session.name.as_deref(),
        title: session.title.as_deref(),
        seq: item.seq,
        at: item.at,
        role,
        snippet: snippet(&text, first.start()),
    })
}

/// What of an item is searched: words of people, models and tools.
fn searchable(item: &Item) -> Option<(&'static str, Cow<'_, str>)> {
    Some(match &item.kind {
        ItemKind::User { text, .. } => ("user", Cow::Borrowed(text.as_str())),
        ItemKind::Answer(answer) => {
            let words = answer.blocks.iter().filter_map(|block| match block {
                Block::Text { text } | Block::Reasoning { text, .. } => Some(text.as_str()),
                _ => None,
            });
            ("assistant", Cow::Owned(words.collect::<Vec<_>>().join("\n")))
        }
        ItemKind::Tool { call, end } => {
            let output = if let ToolEnd::Finished(finished) = end { finished.output.as_str() } else { "" };
            ("tool", Cow::Owned(format!("{} {}\n{output}", call.name, call.arguments)))
        }
        ItemKind::Profile(_) | ItemKind::Note { .. } | ItemKind::Todos(_) | ItemKind::Remark { .. } => return None,
    })
}

/// The text around `at` on one line, its runs of white space made one space.
fn snippet(text: &str, at: usize) -> String {
    let start = char_boundary(text, at.saturating_sub(BEFORE_BYTES));
    let end = char_boundary(text, at + AFTER_BYTES);
    let words: Vec<&str> = text[start..end].split_whitespace().collect();
    let before = if start > 0 { "..." } else { "" };
    let after = if end < text.len() { "..." } else { "" };
    format!("{before}{}{after}", words.join(" "))
}

/// The last place up to `at` that is not inside a character.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_never_cuts_a_character_and_stays_one_line() {
        let text = "日本語\n".repeat(100) + "Needle" + &"\téé".repeat(100);
        let at = text.find("Needle").expect("there");
        let shown = snippet(&text, at);
        assert!(shown.starts_with("...") && shown.ends_with("...") && shown.contains("日本語 Needle é"), "{shown}");
        assert!(!shown.contains(['\n', '\t']));
    }

    #[test]
    fn words_are_found_in_any_case_and_are_no_patterns() {
        assert!(word_pattern("größe.").expect("a word").is_match("Die GRÖSSE. Die GRÖßE."));
        assert!(!word_pattern("a.c").expect("a word").is_match("abc"));
        assert!(word_pattern(" ").is_err());
    }
}
