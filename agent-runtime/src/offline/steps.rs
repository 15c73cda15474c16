//! What the offline model can be asked to do: one step, one call of a tool.

use super::facts;
use super::view::Done;
use super::{Call, Reply};
use serde_json::json;

/// A step.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    List { path: String },
    Read { path: String },
    Search { pattern: String, path: String },
    Write { path: String, content: String },
    Replace { path: String, old: String, new: String },
    Run { command: String },
}

impl Step {
    /// Understands one request in words, or does not.
    pub(super) fn parse(words: &str) -> Option<Self> {
        let words = strip_fillers(words);
        let (verb, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        let rest = rest.trim();
        match verb.to_lowercase().trim_end_matches(':') {
            "list" | "ls" => Some(Self::List { path: file_name(rest).unwrap_or_else(|| ".".into()) }),
            "read" | "show" | "open" | "cat" | "summarize" | "summarise" => file_name(rest).map(|path| Self::Read { path }),
            "search" | "find" | "grep" => Self::search(rest),
            "write" | "create" => {
                let (path, content) = rest.split_once(':')?;
                Some(Self::Write { path: bare(path).to_owned(), content: format!("{}\n", content.trim()) })
            }
            "replace" => {
                let (old, rest) = rest.split_once(" with ")?;
                let (new, path) = rest.rsplit_once(" in ")?;
                Some(Self::Replace { path: bare(path).into(), old: quoted(old).into(), new: quoted(new).into() })
            }
            "run" | "$" if !rest.is_empty() => Some(Self::Run { command: quoted(rest).to_owned() }),
            _ => None,
        }
    }

    fn search(rest: &str) -> Option<Self> {
        let rest = rest.strip_prefix("for ").unwrap_or(rest);
        let (pattern, path) = match rest.rsplit_once(" in ") {
            Some((pattern, path)) => (pattern, file_name(path).unwrap_or_else(|| ".".into())),
            None => (rest, ".".into()),
        };
        let pattern = bare(pattern);
        // A person who types words means these words, and no regular expression.
        (!pattern.is_empty()).then(|| Self::Search { pattern: regex::escape(pattern), path })
    }

    pub(super) fn tool(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Read { .. } => "read",
            Self::Search { .. } => "search",
            Self::Write { .. } => "write",
            Self::Replace { .. } => "edit",
            Self::Run { .. } => "shell",
        }
    }

    pub(super) fn call(&self) -> Call {
        let arguments = match self {
            Self::List { path } | Self::Read { path } => json!({"path": path}),
            Self::Search { pattern, path } => json!({"pattern": pattern, "path": path}),
            Self::Write { path, content } => json!({"path": path, "content": content}),
            Self::Replace { path, old, new } => json!({"path": path, "old": old, "new": new}),
            Self::Run { command } => json!({"command": command}),
        };
        Call { name: self.tool().into(), arguments: arguments.to_string() }
    }

    /// The step as an item of a todo list.
    pub(super) fn title(&self) -> String {
        match self {
            Self::List { path } => format!("List `{path}`"),
            Self::Read { path } => format!("Read `{path}`"),
            Self::Search { pattern, path } => format!("Search `{pattern}` in `{path}`"),
            Self::Write { path, .. } => format!("Write `{path}`"),
            Self::Replace { path, .. } => format!("Edit `{path}`"),
            Self::Run { command } => format!("Run `{command}`"),
        }
    }

    /// What came of it, in Markdown.
    pub(super) fn report(&self, done: &Done<'_>) -> String {
        if done.is_error && !matches!(self, Self::Run { .. }) {
            return format!("`{}` did not do it: {}", done.name, done.output.trim());
        }
        match self {
            Self::List { path } => facts::of_listing(path, done.output),
            Self::Read { path } => facts::of_file(path, done.output),
            Self::Search { .. } => facts::of_search(done.output),
            Self::Write { .. } | Self::Replace { .. } => done.output.trim().to_owned(),
            Self::Run { command } => format!("`{command}` gave:\n\n{}", facts::fenced(done.output)),
        }
    }

    pub(super) fn begin(&self) -> Reply {
        Reply::call(format!("{}: I call `{}`.", self.title(), self.tool()), vec![self.call()])
    }
}

/// Takes off what people put in front of a request: `first`, `and`, `please`, `can you`, a number, a list mark.
fn strip_fillers(words: &str) -> &str {
    let mut words = words.trim();
    loop {
        let before = words;
        words = words.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(['.', ')', '-', '*', ',', ' ']);
        for filler in ["first", "then", "and", "please", "finally", "next", "can you", "could you", "now"] {
            if let (Some(head), Some(rest)) = (words.get(..filler.len()), words.get(filler.len()..))
                && head.eq_ignore_ascii_case(filler)
                && rest.starts_with([' ', ','])
            {
                words = rest.trim_start_matches([',', ' ']);
            }
        }
        if words == before {
            return words;
        }
    }
}

/// A name without quotes and without the marks that end a sentence.
fn bare(name: &str) -> &str {
    quoted(name.trim().trim_end_matches(['?', '!', ',']).trim_end_matches('.'))
}

fn quoted(text: &str) -> &str {
    let text = text.trim();
    for quote in ['`', '"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

/// The first word that can be a file or a directory: not one of the words around it.
fn file_name(words: &str) -> Option<String> {
    if words.starts_with(['`', '"', '\'']) {
        return Some(bare(words).to_owned()).filter(|name| !name.is_empty());
    }
    let around =
        ["the", "a", "this", "that", "file", "files", "me", "of", "in", "folder", "directory", "all", "my", "here", "contents"];
    let name =
        words.split_whitespace().map(bare).find(|word| !word.is_empty() && !around.contains(&word.to_lowercase().as_str()));
    name.map(str::to_owned)
}
