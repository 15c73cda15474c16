//! Where a path of a model's leads to, links resolved, and whether that is inside the directories it was given.
//!
//! The answer is about the file system as it is at the moment of asking: a link that is exchanged between the question and
//! the use is not seen. No tool of a session runs beside one with side effects, so a model cannot do that by itself.

use crate::tool::{ToolContext, ToolError};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// As many links in one path as the kernel allows.
const MAX_LINKS: u32 = 40;

/// A path with its links resolved.
pub(super) struct Place {
    /// Absolute, without links and `..`; need not exist.
    pub(super) path: PathBuf,
    /// How it is shown: relative where it is inside the working directory.
    pub(super) shown: String,
    /// Whether it lies in the working directory or in one of the added ones.
    pub(super) inside: bool,
}

impl Place {
    /// Resolves `path`, relative to the working directory, as far as it exists.
    ///
    /// # Errors
    /// An empty path, one with a NUL, or a loop of links.
    pub(super) fn of(path: &str, context: &ToolContext) -> Result<Self, ToolError> {
        if path.is_empty() || path.contains('\0') {
            return Err(ToolError("a path cannot be empty or hold a NUL character".into()));
        }
        let cwd = resolve(&context.cwd);
        let cwd = cwd.as_deref().unwrap_or(&context.cwd);
        let resolved = resolve(&cwd.join(path)).ok_or_else(|| ToolError(format!("too many links in `{path}`")))?;
        let inside = resolved.starts_with(cwd)
            || context.add_dirs.iter().any(|dir| resolved.starts_with(resolve(dir).as_deref().unwrap_or(dir)));
        Ok(Self { shown: show(&resolved, cwd), path: resolved, inside })
    }

    /// Whether a call that only reads `path` must be asked for: it leads outside, or nowhere that can be told.
    pub(super) fn needs_approval(path: &str, context: &ToolContext) -> bool {
        Self::of(path, context).map_or(true, |place| !place.inside)
    }
}

/// `path` as it is shown to a model: relative to `base` where it lies in it.
pub(super) fn show(path: &Path, base: &Path) -> String {
    match path.strip_prefix(base) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".into(),
        Ok(rest) => rest.to_string_lossy().into_owned(),
        Err(_) => path.to_string_lossy().into_owned(),
    }
}

/// Follows `path` component by component, as the kernel does, but goes on where something does not exist: a dangling link
/// leads to its target. Nothing where there are too many links.
fn resolve(path: &Path) -> Option<PathBuf> {
    let mut links = 0;
    let mut resolved = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = names(path).collect();
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        resolved.push(&name);
        if let Ok(target) = fs::read_link(&resolved) {
            links += 1;
            if links > MAX_LINKS {
                return None;
            }
            resolved.pop();
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            }
            for name in names(&target).rev() {
                rest.push_front(name);
            }
        }
    }
    Some(resolved)
}

fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}
