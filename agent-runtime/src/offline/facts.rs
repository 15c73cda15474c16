//! Facts from the results of tools, as Markdown.

/// How many names of a directory are told.
const NAMES_MAX: usize = 12;
/// How much of a command's output is told.
const OUTPUT_LINES_MAX: usize = 40;

pub(super) struct Listing<'a> {
    pub(super) directories: Vec<&'a str>,
    pub(super) files: Vec<&'a str>,
    /// Whether there was more than was listed.
    is_cut: bool,
}

impl<'a> Listing<'a> {
    /// Reads an output of `list`.
    pub(super) fn of(output: &'a str) -> Self {
        let mut listing = Self { directories: Vec::new(), files: Vec::new(), is_cut: false };
        for line in output.lines().filter(|line| !line.is_empty()) {
            if line.starts_with('[') && line.ends_with(']') {
                listing.is_cut |= line.contains("more entries");
            } else if line.ends_with('/') {
                listing.directories.push(line);
            } else {
                let name = line.split_once(" -> ").map_or(line, |(name, _)| name);
                listing.files.push(name.rsplit_once("  ").map_or(name, |(name, _)| name));
            }
        }
        listing
    }

    pub(super) fn readme(&self) -> Option<&'a str> {
        self.files.iter().copied().find(|name| name.to_lowercase().starts_with("readme"))
    }
}

pub(super) fn of_listing(path: &str, output: &str) -> String {
    let listing = Listing::of(output);
    let place = if path == "." { "This folder".to_owned() } else { format!("`{path}`") };
    if listing.directories.is_empty() && listing.files.is_empty() {
        return format!("{place} is empty.");
    }
    let least = if listing.is_cut { "at least " } else { "" };
    let mut told = format!(
        "{place} holds {least}**{}** and **{}**.\n",
        counted(listing.directories.len(), "directory", "directories"),
        counted(listing.files.len(), "file", "files")
    );
    for (title, names) in [("Directories", &listing.directories), ("Files", &listing.files)] {
        if !names.is_empty() {
            told.push_str(&format!("\n- {title}: {}", named(names)));
        }
    }
    if let Some((ending, count)) = commonest_ending(&listing.files) {
        told.push_str(&format!("\n- Most files ({count}) end in `.{ending}`"));
    }
    told
}

fn commonest_ending<'a>(files: &[&'a str]) -> Option<(&'a str, usize)> {
    let mut endings: Vec<&str> = files.iter().filter_map(|name| name.rsplit_once('.')).map(|(_, ending)| ending).collect();
    endings.sort_unstable();
    let groups = endings.chunk_by(|a, b| a == b).map(|group| (group[0], group.len()));
    // Of two that are as common, the first by name.
    groups.filter(|(_, count)| *count > 1).min_by_key(|(_, count)| usize::MAX - count)
}

pub(super) fn of_file(path: &str, output: &str) -> String {
    let lines = numbered(output);
    let Some(last) = lines.last() else { return format!("`{path}` is empty.") };
    let least = if output.contains("\n[more lines follow") { "at least " } else { "" };
    let mut told = format!("`{path}` has {least}**{}**.", counted(last.0, "line", "lines"));
    let headings = headings(&lines);
    if let Some(first) = headings.first() {
        told.push_str(&format!(" Its first heading is **{first}**"));
        if headings.len() > 1 {
            told.push_str(&format!(", followed by {} more", headings.len() - 1));
        }
        told.push('.');
    }
    if let Some(words) = first_words(&lines) {
        told.push_str(&format!("\n\n> {words}"));
    }
    told
}

/// The lines of an output of `read`, with their numbers.
fn numbered(output: &str) -> Vec<(usize, &str)> {
    let line = |line| {
        let (number, text): (&str, &str) = str::split_once(line, '\t')?;
        Some((number.trim().parse().ok()?, text))
    };
    output.lines().filter_map(line).collect()
}

/// Markdown headings outside of fences.
fn headings<'a>(lines: &[(usize, &'a str)]) -> Vec<&'a str> {
    let mut in_fence = false;
    let mut found = Vec::new();
    for (_, line) in lines {
        if line.starts_with("```") || line.starts_with("~~~") {
            in_fence = !in_fence;
        }
        let text = line.trim_start_matches('#');
        if !in_fence && line.len() > text.len() && text.starts_with(' ') {
            found.push(text.trim());
        }
    }
    found
}

/// The first line that is prose: no heading, badge, tag, comment or fence.
fn first_words<'a>(lines: &[(usize, &'a str)]) -> Option<&'a str> {
    let is_prose =
        |line: &&str| line.chars().next().is_some_and(|first| first.is_alphanumeric() || matches!(first, '*' | '_' | '`' | '>'));
    lines.iter().map(|(_, line)| line.trim().trim_start_matches("> ")).find(is_prose)
}

pub(super) fn of_search(output: &str) -> String {
    let mut told = String::new();
    let mut file = "";
    let mut hits = 0;
    for line in output.lines() {
        if let Some((number, text)) = numbered(line).first() {
            hits += 1;
            if hits <= NAMES_MAX {
                told.push_str(&format!("\n- `{file}` line {number}: `{}`", text.trim().replace('`', "'")));
            }
        } else if !line.starts_with('[') {
            file = line;
        }
    }
    if hits == 0 {
        return "Nothing matches.".into();
    }
    let least = if output.contains("[more lines match") { "at least " } else { "" };
    let rest = if hits > NAMES_MAX { format!("\n- and {} more", hits - NAMES_MAX) } else { String::new() };
    format!("I found {least}**{}**:\n{told}{rest}", counted(hits, "matching line", "matching lines"))
}

/// An output as a code block, its middle left out where it is long.
pub(super) fn fenced(output: &str) -> String {
    let lines: Vec<&str> = output.trim_end().lines().collect();
    let fence = if output.contains("```") { "`````" } else { "```" };
    let body = if lines.len() > OUTPUT_LINES_MAX {
        let half = OUTPUT_LINES_MAX / 2;
        let left_out = format!("[... {} lines ...]", lines.len() - OUTPUT_LINES_MAX);
        [&lines[..half], &[left_out.as_str()], &lines[lines.len() - half..]].concat().join("\n")
    } else {
        lines.join("\n")
    };
    format!("{fence}text\n{body}\n{fence}")
}

fn named(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
