//! `search`: a regular expression over the files of a directory.

use super::list::walk;
use super::path::{Place, show};
use super::read::{next_line, open_text};
use super::{Stop, clip, failed, flag, number, push_line, reading, text, visible};
use crate::tool::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use globset::{GlobBuilder, GlobMatcher};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Value, json};
use session_store::ToolSpec;
use std::fs;
use std::path::Path;

/// Matching lines that are given where the model does not say how many.
const MATCHES_DEFAULT: usize = 200;
/// Of a matching line.
const LINE_BYTES_MAX: usize = 400;
/// A line is searched up to here.
const SEARCHED_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Searches text files, without what `.gitignore` leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub struct SearchTool;

#[async_trait]
impl Tool for SearchTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "search".into(),
            description: "Search the text files of a directory for a regular expression (Rust syntax, line by line). Gives the \
                          matching lines with their numbers, by file, sorted. Binary files and what `.gitignore` names are left out."
                .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "pattern": {"type": "string", "minLength": 1, "description": "The regular expression; put `(?i)` in front, or set `ignore_case`, where case does not matter."},
                    "path": {"type": "string", "minLength": 1, "description": "The directory or file to search, relative to the working directory or absolute; the working directory by default."},
                    "glob": {"type": "string", "minLength": 1, "description": "Only files that this matches: `*.rs`, `src/**/*.toml`."},
                    "ignore_case": {"type": "boolean", "description": "Whether upper and lower case are the same; false by default."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 2000, "description": "How many matching lines to give; 200 by default."}
                },
                "required": ["pattern"],
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn needs_approval(&self, arguments: &Value, context: &ToolContext) -> bool {
        Place::needs_approval(root(arguments), context)
    }

    fn describe(&self, arguments: &Value) -> String {
        let files = arguments["glob"].as_str().map_or(String::new(), |glob| format!(" ({})", visible(glob)));
        format!("search `{}` in {}{files}", visible(text(arguments, "pattern")), visible(root(arguments)))
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let at = context.clone();
        let pattern = RegexBuilder::new(text(&arguments, "pattern"))
            .case_insensitive(flag(&arguments, "ignore_case"))
            .build()
            .map_err(|error| ToolError(format!("`pattern` is no regular expression: {error}")))?;
        let glob = arguments["glob"].as_str().map(file_glob).transpose()?;
        let limit = number(&arguments, "limit", MATCHES_DEFAULT);
        reading(&context, move |stop| {
            let place = Place::of(root(&arguments), &at)?;
            let mut search = Search { pattern, glob, limit, found: 0, files: 0, out: String::new() };
            search.run(&place, stop)?;
            Ok(ToolOutput::text(search.told(&place)))
        })
        .await
    }
}

fn root(arguments: &Value) -> &str {
    arguments.get("path").and_then(Value::as_str).unwrap_or(".")
}

/// A glob without a slash matches a name in any directory.
fn file_glob(glob: &str) -> Result<GlobMatcher, ToolError> {
    let anywhere = if glob.contains('/') { glob.to_owned() } else { format!("**/{glob}") };
    let glob = GlobBuilder::new(&anywhere).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|error| ToolError(format!("`glob` is no glob: {error}")))
}

struct Search {
    pattern: Regex,
    glob: Option<GlobMatcher>,
    limit: usize,
    found: usize,
    files: usize,
    out: String,
}

impl Search {
    fn run(&mut self, place: &Place, stop: &Stop) -> Result<(), ToolError> {
        let meta = fs::metadata(&place.path).map_err(|error| failed("search", &place.shown, &error))?;
        if meta.is_file() {
            return self.file(place, stop);
        }
        for entry in walk(&place.path).build() {
            stop.check()?;
            // What cannot be read is left out, as a person's own search would.
            let Ok(entry) = entry else { continue };
            if self.is_wanted(entry.path(), &place.path) && entry.file_type().is_some_and(|kind| kind.is_file()) {
                let inner = show(entry.path(), &place.path);
                let shown = if place.shown == "." { inner } else { format!("{}/{inner}", place.shown) };
                self.file(&Place { path: entry.into_path(), shown, inside: place.inside }, stop)?;
            }
            if self.found > self.limit {
                break;
            }
        }
        Ok(())
    }

    fn is_wanted(&self, path: &Path, root: &Path) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.is_match(path.strip_prefix(root).unwrap_or(path)))
    }

    /// Searches one file; one that is no text, or cannot be read, has no matches.
    fn file(&mut self, place: &Place, stop: &Stop) -> Result<(), ToolError> {
        let Ok(mut file) = open_text(place) else { return Ok(()) };
        let mut line = Vec::new();
        let mut number = 0_u64;
        let mut first = true;
        loop {
            let length = match next_line(&mut file, &mut line, SEARCHED_LINE_BYTES_MAX, stop) {
                Ok(Some(length)) => length,
                Ok(None) => return Ok(()),
                Err(_) => return stop.check(),
            };
            number += 1;
            let Some(place_in_line) = self.pattern.find(&line) else { continue };
            self.found += 1;
            if self.found > self.limit {
                return Ok(());
            }
            if std::mem::take(&mut first) {
                self.files += 1;
                self.out.push_str(&visible(&place.shown));
                self.out.push('\n');
            }
            push_line(&mut self.out, number, &around(&line, length, place_in_line.start()));
        }
    }

    fn told(mut self, place: &Place) -> String {
        if self.found == 0 {
            return format!("[nothing in `{}` matches]\n", place.shown);
        }
        if self.found > self.limit {
            self.out
                .push_str(&format!("[more lines match than these {}: narrow the pattern, the path or the glob]\n", self.limit));
        } else {
            self.out.push_str(&format!("[{} in {}]\n", counted(self.found, "line"), counted(self.files, "file")));
        }
        self.out
    }
}

fn counted(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// The part of a line that shows the match: its start where that is near enough.
fn around(line: &[u8], length: u64, at: usize) -> String {
    if at + LINE_BYTES_MAX / 4 < LINE_BYTES_MAX {
        return clip(line, length, LINE_BYTES_MAX);
    }
    let from = at - LINE_BYTES_MAX / 2;
    let part = &line[from..line.len().min(from + LINE_BYTES_MAX)];
    format!("[...] {} [... a line of {length} bytes]", String::from_utf8_lossy(part))
}
