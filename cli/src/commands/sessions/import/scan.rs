//! `sessions import --scan`: where other programs keep their sessions, and what is there.

use super::{Candidate, ImportArgs, Importer, OutcomeState, Source, can_ask, report, typed_name};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::progress::Progress;
use crate::safe_text::safe_line;
use crate::transcript::count_words;
use crate::units::size_words;
use session_store::exchange::ImportFormat;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many files are looked at; the newest are.
const FILES_MAX: usize = 100_000;
/// How deep a place is searched.
const DEPTH_MAX: usize = 5;

/// Looks in all places, shows what is there, and imports what is asked for.
pub(super) async fn run(app: &App, importer: Importer, args: &ImportArgs) -> Result<Exit, CliError> {
    let places = places(app);
    let files = tokio::task::spawn_blocking(move || files(&places)).await;
    let files = files.map_err(|error| CliError::failed(format!("cannot look for sessions: {error}")))?;
    let total = files.iter().map(|(_, source)| source.bytes).sum();
    let progress = Progress::bytes("reading", total);
    let (mut found, mut outcomes) = (Vec::new(), Vec::new());
    for (format, source) in files {
        progress.add(source.bytes);
        match importer.survey(source, Some(format)).await {
            Ok(candidates) => found.extend(candidates),
            Err(failed) => outcomes.push(*failed),
        }
    }
    drop(progress);
    if let Some(hermes) = hermes(app) {
        output::stderr(&format!("`{}` is hermes's; `hermes sessions export FILE` gives a file to import\n", hermes.display()));
    }
    if found.is_empty() && !args.json {
        output::stderr("no sessions of other programs in their usual places\n");
        outcomes.iter().for_each(super::Outcome::tell);
        return Ok(Exit::Done);
    }
    let chosen = if args.all {
        (0..found.len()).filter(|at| found[*at].known.is_none()).collect()
    } else if args.json {
        Vec::new()
    } else {
        show(&found)?;
        if can_ask() && found.iter().any(|candidate| candidate.known.is_none()) { ask(&found)? } else { Vec::new() }
    };
    if chosen.is_empty() && !args.json {
        if !args.all && !can_ask() && found.iter().any(|candidate| candidate.known.is_none()) {
            output::stderr("hint: `--all` imports them; `longhand sessions import FILE` one of them\n");
        }
        outcomes.iter().for_each(super::Outcome::tell);
        return Ok(Exit::Done);
    }
    import(importer, found, &chosen, outcomes, args.json).await
}

async fn import(
    mut importer: Importer,
    found: Vec<Candidate>,
    chosen: &[usize],
    mut outcomes: Vec<super::Outcome>,
    as_json: bool,
) -> Result<Exit, CliError> {
    let bytes = chosen.iter().filter_map(|at| found.get(*at)).map(|candidate| candidate.source.bytes).sum();
    let progress = Arc::new(Progress::bytes("importing", bytes));
    for (at, candidate) in found.into_iter().enumerate() {
        if chosen.contains(&at) {
            outcomes.push(importer.import(candidate, None, &progress).await?);
        } else if as_json {
            let state = if candidate.known.is_some() { OutcomeState::Known } else { OutcomeState::Found };
            outcomes.push(candidate.outcome(state));
        }
    }
    drop(progress);
    report(&outcomes, as_json)
}

/// Where the programs keep their sessions, by their own variables and defaults.
fn places(app: &App) -> Vec<(ImportFormat, PathBuf)> {
    let home = std::env::home_dir().unwrap_or_default();
    let of = |name: &str, default: &str| app.env(name).map_or_else(|| home.join(default), PathBuf::from);
    let codex = of("CODEX_HOME", ".codex");
    let pi = of("PI_CODING_AGENT_DIR", ".pi/agent");
    vec![
        (ImportFormat::ClaudeCode, of("CLAUDE_CONFIG_DIR", ".claude").join("projects")),
        (ImportFormat::Codex, codex.join("sessions")),
        (ImportFormat::Codex, codex.join("archived_sessions")),
        (ImportFormat::Pi, app.env("PI_CODING_AGENT_SESSION_DIR").map_or_else(|| pi.join("sessions"), PathBuf::from)),
    ]
}

/// The database of hermes, where there is one: it is not read, for it changes while hermes runs.
fn hermes(app: &App) -> Option<PathBuf> {
    let home = app.env("HERMES_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".hermes")))?;
    Some(home.join("state.db")).filter(|path| path.is_file())
}

/// The sessions in these places, oldest first. What cannot be looked at is passed over.
fn files(places: &[(ImportFormat, PathBuf)]) -> Vec<(ImportFormat, Source)> {
    let mut files = Vec::new();
    for (format, place) in places {
        search(*format, place, 0, &mut files);
    }
    files.sort_by_key(|(_, source)| source.modified);
    let surplus = files.len().saturating_sub(FILES_MAX);
    files.drain(..surplus);
    files
}

fn search(format: ImportFormat, folder: &Path, depth: usize, files: &mut Vec<(ImportFormat, Source)>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        match entry.file_type() {
            // Links are not followed: they may go round.
            Ok(kind) if kind.is_dir() && depth < DEPTH_MAX && name != "subagents" => search(format, &path, depth + 1, files),
            Ok(kind) if kind.is_file() && is_session(format, &name) => {
                files.extend(Source::open(&path).ok().map(|source| (format, source)));
            }
            _ => {}
        }
    }
}

fn is_session(format: ImportFormat, name: &str) -> bool {
    let is_of_format = match format {
        ImportFormat::Codex => name.starts_with("rollout-"),
        // The helpers of a session, which are part of no conversation.
        ImportFormat::ClaudeCode => !name.starts_with("agent-"),
        _ => true,
    };
    is_of_format && name.ends_with(".jsonl")
}

/// The list, numbered from 1, and the sums below it.
fn show(found: &[Candidate]) -> Result<(), CliError> {
    let mut out = Stdout::new();
    for (number, candidate) in (1..).zip(found) {
        let facts = &candidate.foreign.facts;
        let when = facts.updated_at.map_or_else(|| "?".repeat(16), crate::transcript::clock);
        let title = safe_line(facts.title.as_deref().unwrap_or("(untitled)")).into_owned();
        let here = if candidate.known.is_some() { "  (is here already)" } else { "" };
        let (format, bytes) = (typed_name(candidate.foreign.format.name()), size_words(candidate.source.bytes));
        out.raw(format!("{number:>5}  {format:<11}  {when}  {bytes:>8}  {title}{here}\n").as_bytes())?;
    }
    out.flush()?;
    let bytes = found.iter().map(|candidate| candidate.source.bytes).sum();
    let new = found.iter().filter(|candidate| candidate.known.is_none()).count();
    let are = if new == 1 { "is" } else { "are" };
    output::stderr(&format!("{}, {}; {new} {are} not here yet\n", count_words(found.len() as u64, "session"), size_words(bytes)));
    Ok(())
}

/// Asks which of them to import.
fn ask(found: &[Candidate]) -> Result<Vec<usize>, CliError> {
    output::stderr("Import which? Numbers and ranges (1,4-7), `all`, or nothing: ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| CliError::failed(format!("cannot read the answer: {error}")))?;
    choose(line.trim(), found.len()).ok_or_else(|| {
        CliError::usage(format!("`{}` names none of them", line.trim())).hint("for example: `1`, `1,3`, `2-5`, `all`")
    })
}

fn choose(text: &str, count: usize) -> Option<Vec<usize>> {
    if text == "all" {
        return Some((0..count).collect());
    }
    let mut chosen = Vec::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if from == 0 || to > count || from > to {
            return None;
        }
        chosen.extend(from - 1..to);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn numbers_and_ranges_choose() {
        assert_eq!(choose("1,3-4 6", 6), Some(vec![0, 2, 3, 5]));
        assert_eq!(choose("all", 2), Some(vec![0, 1]));
        assert_eq!(choose("", 2), Some(vec![]));
        for text in ["0", "3", "2-1", "x", "1-9"] {
            assert_eq!(choose(text, 2), None, "{text}");
        }
    }
}
