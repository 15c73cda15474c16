//! Sessions of other programs: read into events ([`survey`], [`import`]) and written from them ([`Exporter`]).
//!
//! ```text
//!   a foreign file --survey--> what is in it (id, title, times, the lines of the conversation)
//!                  --import--> events: messages, calls, results, turns; and each record, as `imported.<format>.<type>`
//!   a log         --Exporter--> the records again, and behind them what happened since, in the same form
//! ```
//!
//! Foreign files are hostile. A file is read twice from its start, never held as a whole (but for those that are one piece of JSON or
//! Markdown, up to [`RECORD_BYTES_MAX`]); lines, depth, values and lines' count are bounded; every type is looked at before it is
//! used. A line that cannot be read is reported with its number and its reason, kept as it is, and costs no other line. `IMPORT.md` says
//! what becomes of what.

mod builder;
mod claude_code;
mod codex;
mod export;
mod lines;
mod markdown;
mod messages;
mod originals;
mod pi;
mod record;
mod tree;

pub use export::{ExportFormat, Exporter};
pub use lines::RECORD_BYTES_MAX;

use crate::error::StoreError;
use crate::event::SessionImported;
use crate::store::{ImportLog, NewImport};
use crate::time::Timestamp;
use builder::Builder;
use lines::{Line, Lines};
use serde_json::Value;
use std::borrow::Cow;
use std::io::{self, Read};

/// A file has so many lines at most: some tens of bytes are remembered of each.
const LINES_MAX: u64 = 5_000_000;
/// How many lines are read to see what a file is.
const LINES_TO_KNOW: usize = 32;
/// How much of a line that is no record is kept.
const UNREADABLE_BYTES_MAX: usize = 1 << 20;
/// How many notices are told one by one.
const NOTICES_MAX: usize = 100;

/// Opens the file at its start; it is called twice.
pub type Open<'a> = dyn Fn() -> io::Result<Box<dyn Read + 'a>> + 'a;

/// Hides secrets in a text, before anything is made of it.
pub type Hide<'a> = dyn Fn(String) -> String + 'a;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImportFormat {
    /// A session of Claude Code, JSONL.
    ClaudeCode,
    /// A rollout of Codex, JSONL.
    Codex,
    /// A session of pi, JSONL.
    Pi,
    /// An export of hermes, JSONL: a session a line.
    Hermes,
    /// An array of OpenAI Chat Completions messages, or an object with one.
    OpenAi,
    /// An array of Anthropic messages, or an object with one.
    Anthropic,
    /// Markdown whose headings name the speakers.
    Markdown,
}

impl ImportFormat {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::ClaudeCode, Self::Codex, Self::Pi, Self::Hermes, Self::OpenAi, Self::Anthropic, Self::Markdown];

    /// Its name in a log: `claude_code`, `codex`, ...
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude_code",
            Self::Codex => "codex",
            Self::Pi => "pi",
            Self::Hermes => "hermes",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Markdown => "markdown",
        }
    }

    fn reader(self) -> Box<dyn Reader + Send> {
        match self {
            Self::ClaudeCode => Box::new(claude_code::ClaudeCode::default()),
            Self::Codex => Box::new(codex::Codex::default()),
            Self::Pi => Box::new(pi::Pi::default()),
            Self::Hermes => Box::new(messages::Hermes),
            Self::OpenAi => Box::new(messages::OpenAi),
            Self::Anthropic => Box::new(messages::Anthropic),
            Self::Markdown => Box::new(markdown::Markdown),
        }
    }

    /// Whether the file is one piece, not a list of lines.
    fn is_one_piece(self) -> bool {
        matches!(self, Self::OpenAi | Self::Anthropic | Self::Markdown)
    }
}

/// A file cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is none of the formats.
    #[error("it is in no format that is known here{}", first.as_ref().map(|notice| format!(" ({notice})")).unwrap_or_default())]
    UnknownFormat {
        /// What is wrong with its first line, where something is.
        first: Option<Notice>,
    },
    /// It is one piece, and cannot be read as such.
    #[error("{0}")]
    Unreadable(Notice),
    /// There are no messages in it.
    #[error("there are no messages in it{}", first.as_ref().map(|notice| format!(" ({notice})")).unwrap_or_default())]
    Empty {
        /// The first line that could not be read, where there is one.
        first: Option<Notice>,
    },
    /// Another has written to it meanwhile.
    #[error("it changed while it was read")]
    Changed,
}

/// Something that a person should know of a foreign file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Notice {
    /// The line, from 1; 0 where it concerns the whole file.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 { f.write_str(&self.reason) } else { write!(f, "line {}: {}", self.line, self.reason) }
    }
}

/// What is known of a session before it is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The id that its program gave it; empty where it has none.
    pub id: String,
    /// What its program showed for it.
    pub title: Option<String>,
    /// The program and its version, as far as it says.
    pub program: String,
    /// Its working directory, absolute.
    pub cwd: Option<String>,
    /// The time of its first record that has one.
    pub created_at: Option<Timestamp>,
    /// The time of its last one.
    pub updated_at: Option<Timestamp>,
    notices: Vec<Notice>,
    more_notices: u64,
}

impl Facts {
    fn time(&mut self, at: Option<Timestamp>) {
        self.created_at = self.created_at.or(at);
        self.updated_at = at.or(self.updated_at);
    }

    fn tell(&mut self, line: u64, reason: impl Into<String>) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(Notice { line, reason: reason.into() });
        } else {
            self.more_notices += 1;
        }
    }

    fn tell_path(&mut self, path: &tree::Path) {
        if path.gaps > 0 {
            self.tell(0, format!("{} records name a parent that is not there; the record before it was taken", path.gaps));
        }
        if path.is_circular {
            self.tell(0, "its records name each other as parents in a circle; it was cut there");
        }
    }
}

/// A session in a foreign file.
pub struct Foreign {
    /// What the file is.
    pub format: ImportFormat,
    /// What is known of it.
    pub facts: Facts,
    /// SHA-256 of the file.
    pub sha256: String,
    /// How many bytes of it were read.
    pub bytes: u64,
    /// The line that it is, where a file holds a session a line.
    line: Option<u64>,
    reader: Box<dyn Reader + Send>,
}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Foreign").field("format", &self.format).field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Foreign {
    /// What could not be read, at most a hundred places, and how many more there are.
    #[must_use]
    pub fn notices(&self) -> (&[Notice], u64) {
        (&self.facts.notices, self.facts.more_notices)
    }

    /// What the store needs to begin the import: `path` is where the file was, `otherwise` its time where its records have none.
    #[must_use]
    pub fn new_import(&self, path: Option<String>, otherwise: Timestamp) -> NewImport {
        let imported = SessionImported {
            format: self.format.name().to_owned(),
            id: self.facts.id.clone(),
            program: self.facts.program.clone(),
            path,
            sha256: self.sha256.clone(),
            title: self.facts.title.clone(),
            imported_at: Timestamp::default(),
        };
        NewImport { created_at: self.facts.created_at.unwrap_or(otherwise), cwd: self.facts.cwd.clone(), imported }
    }
}

/// Reads one format: looks at all records first, then makes events of them.
trait Reader {
    fn look(&mut self, line: u64, record: &Value, facts: &mut Facts);

    /// All records were seen.
    fn ready(&mut self, _facts: &mut Facts) {}

    fn read(&mut self, line: u64, record: Value, out: &mut Builder<'_>) -> Result<(), StoreError>;

    fn finish(&mut self, _out: &mut Builder<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Looks at a foreign file: what it is (unless `format` says it), and which sessions are in it.
///
/// # Errors
/// Where it cannot be read, or is nothing that is known. What is wrong with single lines is told in [`Foreign::notices`].
pub fn survey(open: &Open<'_>, format: Option<ImportFormat>, hide: &Hide<'_>) -> Result<Vec<Foreign>, ImportError> {
    let format = match format {
        Some(format) => format,
        None => detect(open)?,
    };
    if format.is_one_piece() {
        return survey_piece(open, format, hide).map(|found| vec![found]);
    }
    let mut lines = Lines::new(open()?);
    let mut sessions: Vec<Foreign> = Vec::new();
    let mut facts = Facts::default();
    let mut reader = format.reader();
    let mut number = 0;
    while let Some(line) = lines.next_line()? {
        number += 1;
        if number > LINES_MAX {
            return Err(ImportError::Unreadable(Notice {
                line: number,
                reason: format!("there are more than {LINES_MAX} lines"),
            }));
        }
        let Some(record) = record_of(line, hide, |reason| facts.tell(number, reason)) else { continue };
        if format == ImportFormat::Hermes {
            let mut found = Foreign::new(format, Some(number));
            found.reader.look(number, &record, &mut found.facts);
            sessions.push(found);
        } else {
            reader.look(number, &record, &mut facts);
        }
    }
    if format != ImportFormat::Hermes {
        reader.ready(&mut facts);
        sessions.push(Foreign { facts, reader, ..Foreign::new(format, None) });
    } else if let Some(first) = sessions.first_mut() {
        first.facts.notices.append(&mut facts.notices);
    } else {
        return Err(ImportError::Empty { first: facts.notices.into_iter().next() });
    }
    for session in &mut sessions {
        (session.sha256, session.bytes) = (lines.sha256(), lines.bytes());
    }
    Ok(sessions)
}

impl Foreign {
    fn new(format: ImportFormat, line: Option<u64>) -> Self {
        Self { format, facts: Facts::default(), sha256: String::new(), bytes: 0, line, reader: format.reader() }
    }
}

/// Makes events of a session that [`survey`] found in the same file. Says how many messages it has.
///
/// # Errors
/// Where the file cannot be read, has changed, or holds no message; [`StoreError`]s of the log.
pub fn import(
    mut foreign: Foreign,
    open: &Open<'_>,
    hide: &Hide<'_>,
    otherwise: Timestamp,
    log: &mut dyn ImportLog,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, StoreError> {
    let failed = |error: &dyn std::fmt::Display| StoreError::Import { why: error.to_string() };
    let from = open().map_err(|error| failed(&error))?;
    // What was appended since the survey belongs to the next import.
    let mut lines = Lines::new(Box::new(from.take(foreign.bytes)));
    let mut out = Builder::new(log, foreign.format.name(), foreign.facts.created_at.unwrap_or(otherwise));
    if foreign.format.is_one_piece() {
        let (text, read) = lines.rest().map_err(|error| failed(&error))?;
        lines = read;
        let document = text.and_then(|text| document_of(text, foreign.format, hide).ok());
        foreign.reader.read(1, document.ok_or_else(|| failed(&ImportError::Changed))?, &mut out)?;
    } else {
        let mut number = 0;
        while let Some(line) = lines.next_line().map_err(|error| failed(&error))? {
            number += 1;
            progress(lines.bytes());
            if foreign.line.is_some_and(|own| own != number) {
                continue;
            }
            match line {
                Line::TooLong => {}
                Line::Text { text, .. } if text.trim().is_empty() => {}
                Line::Text { text, .. } => match record::parse_hiding(&text, hide).ok().filter(Value::is_object) {
                    Some(record) => foreign.reader.read(number, record, &mut out)?,
                    None => out.unreadable(number, start_of(hide(text)))?,
                },
            }
        }
    }
    foreign.reader.finish(&mut out)?;
    let messages = out.finish()?;
    if lines.sha256() != foreign.sha256 {
        return Err(failed(&ImportError::Changed));
    }
    if messages == 0 {
        return Err(failed(&ImportError::Empty { first: foreign.facts.notices.first().cloned() }));
    }
    Ok(messages)
}

fn start_of(mut text: String) -> String {
    let end = (0..=UNREADABLE_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

/// The record of a line; nothing, and a word why, where it is none. A blank line is nothing to tell of.
fn record_of(line: Line, hide: &Hide<'_>, mut tell: impl FnMut(String)) -> Option<Value> {
    let text = match line {
        Line::TooLong => {
            tell(format!("longer than {} MiB: it is left out", RECORD_BYTES_MAX >> 20));
            return None;
        }
        Line::Text { text, .. } if text.trim().is_empty() => return None,
        Line::Text { text, exact } => {
            if !exact {
                tell("not UTF-8: some bytes were replaced".to_owned());
            }
            if let Cow::Owned(_) = record::whole_characters(&text) {
                tell("a character is cut in half: that half was replaced".to_owned());
            }
            text
        }
    };
    match record::parse_hiding(&text, hide) {
        Ok(record) if record.is_object() => Some(record),
        Ok(_) => {
            tell("not a JSON object".to_owned());
            None
        }
        Err(reason) => {
            tell(format!("not JSON: {reason}"));
            None
        }
    }
}

fn survey_piece(open: &Open<'_>, format: ImportFormat, hide: &Hide<'_>) -> Result<Foreign, ImportError> {
    let (text, lines) = Lines::new(open()?).rest()?;
    let unreadable = |line, reason| ImportError::Unreadable(Notice { line, reason });
    let text = text.ok_or_else(|| unreadable(0, format!("larger than {} MiB", RECORD_BYTES_MAX >> 20)))?;
    let document = document_of(text, format, hide).map_err(|reason| unreadable(0, reason))?;
    let mut found = Foreign::new(format, None);
    found.reader.look(1, &document, &mut found.facts);
    (found.sha256, found.bytes) = (lines.sha256(), lines.bytes());
    Ok(found)
}

fn document_of(text: String, format: ImportFormat, hide: &Hide<'_>) -> Result<Value, String> {
    if format == ImportFormat::Markdown {
        return Ok(Value::String(hide(text)));
    }
    let document = record::parse_hiding(&text, hide).map_err(|reason| format!("not JSON: {reason}"))?;
    if messages::is_conversation(&document) { Ok(document) } else { Err("not an array of messages with roles".to_owned()) }
}

/// What a file is, by its first records.
fn detect(open: &Open<'_>) -> Result<ImportFormat, ImportError> {
    let mut lines = Lines::new(open()?);
    let mut first_notice = None;
    for number in 1..=LINES_TO_KNOW as u64 {
        let Some(line) = lines.next_line()? else { break };
        let tell = |reason| {
            first_notice.get_or_insert(Notice { line: number, reason });
        };
        let Some(record) = record_of(line, &|text| text, tell) else { continue };
        let known = [
            (codex::is_record(&record), ImportFormat::Codex),
            (pi::is_record(&record), ImportFormat::Pi),
            (messages::is_hermes(&record), ImportFormat::Hermes),
            (claude_code::is_record(&record), ImportFormat::ClaudeCode),
        ];
        if let Some((_, format)) = known.into_iter().find(|(is_one, _)| *is_one) {
            return Ok(format);
        }
    }
    let (text, _) = Lines::new(open()?).rest()?;
    let text = text.unwrap_or_default();
    match record::parse(&text) {
        Ok(document) if messages::is_conversation(&document) && messages::is_anthropic(&document) => Ok(ImportFormat::Anthropic),
        Ok(document) if messages::is_conversation(&document) => Ok(ImportFormat::OpenAi),
        Err(_) if !text.trim_start().starts_with(['{', '[']) && markdown::is_conversation(&text) => Ok(ImportFormat::Markdown),
        _ => Err(ImportError::UnknownFormat { first: first_notice }),
    }
}
