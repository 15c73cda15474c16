//! `write`: a whole file, new or replaced.

use super::{changing, failed, path::Place, text, visible};
use crate::tool::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use serde_json::{Value, json};
use session_store::ToolSpec;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Creates a file or replaces it whole.
///
/// The new content is written beside the file and renamed into its place: whoever looks sees the old file or the new one, never
/// half of one, and a full disk harms nothing. The file's mode is kept; other names of it (hard links) keep the old content.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteTool;

#[async_trait]
impl Tool for WriteTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "write".into(),
            description:
                "Create a file, or replace the whole content of one. Missing directories are made. To change a part of a \
                          file use `edit`."
                    .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1, "description": "The file, relative to the working directory or absolute."},
                    "content": {"type": "string", "description": "The whole new content."}
                },
                "required": ["path", "content"],
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("write {} ({} bytes)", visible(text(arguments, "path")), text(arguments, "content").len())
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        if text(&arguments, "path").ends_with('/') {
            return Err(ToolError("`path` ends in `/`: name a file".into()));
        }
        let at = context.clone();
        changing(&context, move |_| {
            let place = Place::of(text(&arguments, "path"), &at)?;
            let content = text(&arguments, "content").as_bytes();
            let before = existing(&place)?;
            let parent = place.path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).map_err(|error| failed("make the directory of", &place.shown, &error))?;
            replace(&place.path, content, before).map_err(|error| failed("write", &place.shown, &error))?;
            let how = if before { "Replaced" } else { "Created" };
            Ok(ToolOutput::text(format!("{how} `{}` ({} bytes).", place.shown, content.len())))
        })
        .await
    }
}

/// Whether there is a file to be replaced.
fn existing(place: &Place) -> Result<bool, ToolError> {
    match fs::metadata(&place.path) {
        Ok(meta) if meta.is_file() => Ok(true),
        Ok(meta) if meta.is_dir() => Err(ToolError(format!("`{}` is a directory", place.shown))),
        Ok(_) => Err(ToolError(format!("`{}` is not a regular file", place.shown))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("write", &place.shown, &error)),
    }
}

/// Puts `content` at `path`, whole or not at all, with the mode of the file that is there where `keep_mode` says that there is one.
pub(super) fn replace(path: &Path, content: &[u8], keep_mode: bool) -> io::Result<()> {
    let mode = if keep_mode { Some(fs::metadata(path)?.permissions()) } else { None };
    if mode.as_ref().is_some_and(Permissions::readonly) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is read-only"));
    }
    let temporary = beside(path);
    let done = fill(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        // The first error is the one to tell; what is left has a name that says what it is.
        let _ = fs::remove_file(&temporary);
    }
    done
}

fn fill(temporary: &Path, content: &[u8], mode: Option<Permissions>) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    // Before the content: what was private stays so.
    if let Some(mode) = mode {
        file.set_permissions(mode)?;
    }
    file.write_all(content)?;
    // Without this a power cut after the rename can leave an empty file under the old name.
    file.sync_data()
}

fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".longhand-{:016x}.tmp", fastrand::u64(..)))
}
