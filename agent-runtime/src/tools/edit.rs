//! `edit`: a text replaced by another in a file.

use super::{changing, failed, flag, path::Place, text, visible, write::replace};
use crate::tool::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use serde_json::{Value, json};
use session_store::ToolSpec;
use std::borrow::Cow;
use std::fs;

/// A larger file is for a command, not for an edit.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How many places of an ambiguous text are named.
const PLACES_MAX: usize = 10;

/// Replaces an exact text, once or everywhere, and keeps the file's line endings and mode.
#[derive(Clone, Copy, Debug, Default)]
pub struct EditTool;

#[async_trait]
impl Tool for EditTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "edit".into(),
            description: "Replace an exact text in a file. `old` must occur exactly once, white space included and without line \
                          numbers: give enough lines around it, or set `replace_all`. Line endings of the file are kept."
                .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1, "description": "The file, relative to the working directory or absolute."},
                    "old": {"type": "string", "minLength": 1, "description": "The text to replace, exactly as it is in the file."},
                    "new": {"type": "string", "description": "The text to put in its place; empty to delete."},
                    "replace_all": {"type": "boolean", "description": "Whether to replace every occurrence; false by default."}
                },
                "required": ["path", "old", "new"],
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, arguments: &Value) -> String {
        let every = if flag(arguments, "replace_all") { ", every occurrence" } else { "" };
        let (old, new) = (text(arguments, "old").len(), text(arguments, "new").len());
        format!("edit {} ({old} bytes by {new}{every})", visible(text(arguments, "path")))
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let at = context.clone();
        changing(&context, move |_| {
            let place = Place::of(text(&arguments, "path"), &at)?;
            let content = read_whole(&place)?;
            let edit = Edit {
                shown: &place.shown,
                old: with_endings_of(&content, text(&arguments, "old")),
                new: with_endings_of(&content, text(&arguments, "new")),
                replace_all: flag(&arguments, "replace_all"),
            };
            let (changed, told) = edit.apply(&content)?;
            replace(&place.path, changed.as_bytes(), true).map_err(|error| failed("write", &place.shown, &error))?;
            Ok(ToolOutput::text(told))
        })
        .await
    }
}

fn read_whole(place: &Place) -> Result<String, ToolError> {
    let shown = &place.shown;
    let meta = fs::metadata(&place.path).map_err(|error| failed("edit", shown, &error))?;
    if !meta.is_file() {
        return Err(ToolError(format!("`{shown}` is not a regular file")));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(ToolError(format!("`{shown}` has {} bytes, more than the {FILE_BYTES_MAX} that can be edited", meta.len())));
    }
    let bytes = fs::read(&place.path).map_err(|error| failed("read", shown, &error))?;
    String::from_utf8(bytes).map_err(|_| ToolError(format!("`{shown}` is not UTF-8 text, and an edit would harm it")))
}

/// `text` with the line endings of `content`: a model sees and writes `\n`, also where a file has `\r\n`.
fn with_endings_of<'a>(content: &str, text: &'a str) -> Cow<'a, str> {
    let newlines = content.matches('\n').count();
    if newlines > 0 && content.matches("\r\n").count() == newlines && !text.contains('\r') {
        return Cow::Owned(text.replace('\n', "\r\n"));
    }
    Cow::Borrowed(text)
}

struct Edit<'a> {
    shown: &'a str,
    old: Cow<'a, str>,
    new: Cow<'a, str>,
    replace_all: bool,
}

impl Edit<'_> {
    fn apply(&self, content: &str) -> Result<(String, String), ToolError> {
        if self.old == self.new {
            return Err(ToolError("`old` and `new` are the same: nothing to do".into()));
        }
        let places = self.places(content);
        match places.as_slice() {
            [] => Err(self.absent(content)),
            [_, _, ..] if !self.replace_all => Err(self.ambiguous(content, &places)),
            [first, rest @ ..] => {
                let line = line_of(content, *first);
                let told = match rest.len() {
                    0 => format!("Replaced 1 occurrence in `{}`, at line {line}.", self.shown),
                    more => format!("Replaced {} occurrences in `{}`, the first at line {line}.", more + 1, self.shown),
                };
                Ok((content.replace(&*self.old, &self.new), told))
            }
        }
    }

    /// Where `old` begins. Occurrences that overlap are one to replace, but two for the question which one is meant.
    fn places(&self, content: &str) -> Vec<usize> {
        let mut places: Vec<usize> = content.match_indices(&*self.old).map(|(at, _)| at).collect();
        if let ([first], Some(last)) = (places.as_slice(), content.rfind(&*self.old))
            && last != *first
            && !self.replace_all
        {
            places.push(last);
        }
        places
    }

    fn absent(&self, content: &str) -> ToolError {
        let told = format!("`old` does not occur in `{}`", self.shown);
        let first = self.old.lines().map(str::trim).find(|line| !line.is_empty());
        let near = first.and_then(|first| content.lines().position(|line| line.trim() == first));
        ToolError(match near {
            Some(line) => {
                format!("{told}: line {} differs from it in white space, or what follows it does. Read it again", line + 1)
            }
            None => format!("{told}. Read it again: it may have changed"),
        })
    }

    fn ambiguous(&self, content: &str, places: &[usize]) -> ToolError {
        let lines: Vec<String> = places.iter().take(PLACES_MAX).map(|at| line_of(content, *at).to_string()).collect();
        let more = if places.len() > PLACES_MAX { ", ..." } else { "" };
        ToolError(format!(
            "`old` occurs {} times in `{}`, at lines {}{more}: give more of the lines around it, or set `replace_all`",
            places.len(),
            self.shown,
            lines.join(", ")
        ))
    }
}

fn line_of(content: &str, at: usize) -> usize {
    content[..at].matches('\n').count() + 1
}
