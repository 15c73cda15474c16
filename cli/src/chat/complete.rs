//! What Tab may put in place of the word before the cursor: a command, or a file of the working directory.

use super::slash;
use crate::safe_text::safe_line;
use std::path::{Path, PathBuf};

/// A folder with more entries than this is not read to its end.
const ENTRIES_MAX: usize = 4000;

/// Candidates that are looked for: after Tab, or while a word is typed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lookup {
    pub(super) before_cursor: String,
    pub(super) cwd: PathBuf,
    pub(super) is_tab: bool,
}

impl Lookup {
    /// Whether a folder is read, which may take as long as its disk or its network wants.
    pub(super) fn reads_folder(&self) -> bool {
        !is_command(&self.before_cursor)
    }

    /// Finds them. Blocks where it reads a folder.
    pub(super) fn find(&self) -> Completion {
        complete(&self.before_cursor, &self.cwd)
    }
}

/// What may stand in the place of the text before the cursor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Completion {
    /// How many bytes before the cursor a candidate replaces.
    pub(super) replaces: usize,
    pub(super) candidates: Vec<String>,
}

impl Completion {
    /// The text that is common to all candidates; a single file or command is followed by a space.
    pub(super) fn common(&self) -> Option<String> {
        let (first, others) = self.candidates.split_first()?;
        if others.is_empty() {
            let end = if first.ends_with('/') { "" } else { " " };
            return Some(format!("{first}{end}"));
        }
        let mut common = first.as_str();
        for other in others {
            let same = common.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
            let length = same.map_or(common.len().min(other.len()), |((at, _), _)| at);
            common = &common[..length];
        }
        (common.len() > self.replaces).then(|| common.to_owned())
    }
}

/// Whether candidates are shown while somebody types, before any Tab.
pub(super) fn suggests(before_cursor: &str) -> bool {
    is_command(before_cursor) || word(before_cursor).starts_with('@')
}

/// The candidates for the word before the cursor.
fn complete(before_cursor: &str, cwd: &Path) -> Completion {
    let word = word(before_cursor);
    if is_command(before_cursor) {
        let candidates = slash::complete(before_cursor).into_iter().map(str::to_owned).collect();
        return Completion { replaces: before_cursor.len(), candidates };
    }
    let (mark, path) = match word.strip_prefix(['@', '!']) {
        Some(path) => (&word[..1], path),
        None if word.is_empty() => return Completion::default(),
        None => ("", word),
    };
    let mut candidates: Vec<String> = files(path, cwd).into_iter().map(|file| format!("{mark}{file}")).collect();
    candidates.sort_unstable();
    Completion { replaces: word.len(), candidates }
}

fn is_command(before_cursor: &str) -> bool {
    before_cursor.len() > 1 && before_cursor.starts_with('/') && before_cursor[1..].bytes().all(|byte| byte.is_ascii_lowercase())
}

fn word(before_cursor: &str) -> &str {
    before_cursor.rsplit(char::is_whitespace).next().unwrap_or_default()
}

/// The files whose paths begin with `path`; folders end in `/`. Hidden ones only where their dot was typed.
fn files(path: &str, cwd: &Path) -> Vec<String> {
    let (folder, start) = path.rfind('/').map_or(("", path), |slash| path.split_at(slash + 1));
    let Ok(entries) = std::fs::read_dir(cwd.join(folder)) else { return Vec::new() };
    let matching = entries.take(ENTRIES_MAX).flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_shown = name.starts_with(start) && (start.starts_with('.') || !name.starts_with('.'));
        // A name that could not be typed or shown as it is would become another one.
        if !is_shown || safe_line(&name) != name {
            return None;
        }
        let is_folder = cwd.join(folder).join(&name).is_dir();
        Some(format!("{folder}{name}{}", if is_folder { "/" } else { "" }))
    });
    matching.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("src")).expect("made");
        for file in ["src/main.rs", "src/mailbox.rs", "src/.hidden", "README.md", "bad\u{1b}name"] {
            std::fs::write(folder.path().join(file), "").expect("written");
        }
        folder
    }

    #[track_caller]
    fn check(before: &str, candidates: &[&str], common: Option<&str>) {
        let folder = folder();
        let completion = complete(before, folder.path());
        assert_eq!(completion.candidates, candidates);
        assert_eq!(completion.common().as_deref(), common);
    }

    #[test]
    fn files_complete_with_and_without_an_at() {
        check("look at @REA", &["@README.md"], Some("@README.md "));
        check("@s", &["@src/"], Some("@src/"));
        check("cat src/ma", &["src/mailbox.rs", "src/main.rs"], Some("src/mai"));
        check("src/.h", &["src/.hidden"], Some("src/.hidden "));
        check("!sr", &["!src/"], Some("!src/"));
        check("@", &["@README.md", "@src/"], None);
        check("bad", &[], None);
        check("a ", &[], None);
        check("nowhere/x", &[], None);
    }

    #[test]
    fn commands_complete_at_the_start_only() {
        check("/mo", &["/model"], Some("/model "));
        check("/re", &["/resume", "/rewind", "/rename", "/retry"], None);
        check("see /mo", &[], None);
    }
}
