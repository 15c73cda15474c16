//! `list`: what is in a directory.

use super::{Stop, failed, number, path::Place, reading, visible};
use crate::tool::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use ignore::{DirEntry, WalkBuilder};
use serde_json::{Value, json};
use session_store::ToolSpec;
use std::fs;
use std::path::Path;

/// Entries that are listed where the model does not say how many.
const ENTRIES_DEFAULT: usize = 500;

/// Lists a directory, without what `.gitignore` leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListTool;

#[async_trait]
impl Tool for ListTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "list".into(),
            description:
                "List a directory, sorted by name: directories end in `/`, files are followed by their size in bytes. What \
                          `.gitignore` names, and `.git` itself, is left out. `depth` lists deeper levels too."
                    .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1, "description": "The directory, relative to the working directory or absolute; the working directory by default."},
                    "depth": {"type": "integer", "minimum": 1, "maximum": 10, "description": "How many levels to list; 1 by default."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 5000, "description": "How many entries to list; 500 by default."}
                },
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn needs_approval(&self, arguments: &Value, context: &ToolContext) -> bool {
        Place::needs_approval(directory(arguments), context)
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("list {}", visible(directory(arguments)))
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let at = context.clone();
        let depth = number(&arguments, "depth", 1);
        let limit = number(&arguments, "limit", ENTRIES_DEFAULT);
        reading(&context, move |stop| list(&Place::of(directory(&arguments), &at)?, depth, limit, stop).map(ToolOutput::text))
            .await
    }
}

fn directory(arguments: &Value) -> &str {
    arguments.get("path").and_then(Value::as_str).unwrap_or(".")
}

fn list(place: &Place, depth: usize, limit: usize, stop: &Stop) -> Result<String, ToolError> {
    // The walk itself would give an entry for a file, and leave out a directory that cannot be read.
    fs::read_dir(&place.path).map_err(|error| match fs::metadata(&place.path) {
        Ok(meta) if !meta.is_dir() => ToolError(format!("`{}` is a file: use `read`", place.shown)),
        _ => failed("list", &place.shown, &error),
    })?;
    let mut lines = Vec::new();
    let mut more = 0_usize;
    for entry in walk(&place.path).max_depth(Some(depth)).build() {
        stop.check()?;
        let Ok(entry) = entry else { continue };
        if entry.depth() == 0 {
            continue;
        }
        if lines.len() < limit { lines.push(line(&entry, &place.path)) } else { more += 1 }
    }
    if lines.is_empty() {
        return Ok(format!("[`{}` is empty]\n", place.shown));
    }
    if more > 0 {
        lines.push(format!("[{more} more entries: list a directory in it, or raise `limit`]"));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn line(entry: &DirEntry, base: &Path) -> String {
    let name = entry.path().strip_prefix(base).unwrap_or(entry.path());
    let name = visible(&name.to_string_lossy()).into_owned();
    match entry.file_type() {
        Some(kind) if kind.is_dir() => format!("{name}/"),
        Some(kind) if kind.is_symlink() => match fs::read_link(entry.path()) {
            Ok(target) => format!("{name} -> {}", visible(&target.to_string_lossy())),
            Err(_) => name,
        },
        _ => entry.metadata().map_or_else(|_| name.clone(), |meta| format!("{name}  {}", meta.len())),
    }
}

/// A walk over `root` that heeds `.gitignore` and `.ignore` files, in a repository or not, follows no links, and is sorted, so
/// that the same files give the same output. Nothing of the user's home is read.
pub(super) fn walk(root: &Path) -> WalkBuilder {
    let mut walk = WalkBuilder::new(root);
    walk.hidden(false)
        .require_git(false)
        .git_global(false)
        .follow_links(false)
        .sort_by_file_name(Ord::cmp)
        .filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git");
    walk
}
