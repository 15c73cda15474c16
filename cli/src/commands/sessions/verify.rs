//! `longhand sessions verify`: exit 0 when all logs are sound, 1 where not. Never changes a file.

use super::{JsonArray, has_stale_lines, problem_words, stale_hint};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::Stdout;
use crate::progress::Progress;
use crate::resolve::resolve;
use crate::safe_text::safe_line;
use crate::transcript::count_words;
use futures_util::{StreamExt, stream};
use session_store::{FileStore, Problem, ProblemKind, SessionId, SessionStore, Verified};
use std::sync::Arc;

/// How many problems of a session a person is told, those that repeat from line to line once.
const ROWS_MAX: usize = 50;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --json, an array of objects: `id`, `ok`, `events` (how many are sound) and `problems`, each with `line`, `offset` (in bytes), `kind` and `detail`. Exit code 1 \
where a session has problems.")]
pub(crate) struct VerifyArgs {
    /// The sessions: their ids, exact names or the starts of their ids [default: all]
    ids: Vec<String>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: &App, args: VerifyArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let ids = wanted(&store, &args.ids).await?;
    let space = store.space().await?;
    let bytes_of =
        |id| space.sessions.get(id).or_else(|| space.archived.get(id)).map_or(0, |files| files.log_bytes + files.cold_bytes);
    let progress = Arc::new(Progress::bytes("verifying", ids.iter().map(bytes_of).sum()));
    let mut report = match args.json {
        true => Report::Json(JsonArray::begin(Stdout::new())?),
        false => Report::Text(Stdout::new()),
    };
    let mut damaged = 0_u64;
    let mut stale = None;
    let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = stream::iter(&ids).map(|id| verify(&store, *id, &progress)).buffered(at_a_time);
    while let Some(verified) = all.next().await {
        damaged += u64::from(!verified.ok);
        stale = stale.or_else(|| has_stale_lines(&verified.problems).then_some(verified.id));
        progress.suspend(|| report.add(&verified))?;
    }
    drop(all);
    drop(progress);
    report.end()?;
    if damaged == 0 {
        return Ok(Exit::Done);
    }
    let have = if damaged == 1 { "has" } else { "have" };
    let words = format!("{damaged} of {} {have} problems", count_words(ids.len() as u64, "session"));
    let stale = stale.map(|id| format!("; {}", stale_hint(id))).unwrap_or_default();
    Err(CliError::failed(words).hint(format!(
        "what is sound stays readable, so nothing has to be done to go on with a session; `longhand sessions repair ID` mends a log, and keeps it as it was{stale}",
    )))
}

/// Checks one session. That its file cannot be read at all is a problem like others: the next ones are checked all the same.
async fn verify(store: &FileStore, id: SessionId, progress: &Arc<Progress>) -> Verified {
    let progress = Arc::clone(progress);
    store.verify_with(id, Arc::new(move |bytes| progress.add(bytes))).await.unwrap_or_else(|error| {
        let problem = Problem { line: 1, offset: 0, kind: ProblemKind::Unreadable, detail: error.to_string() };
        Verified { id, ok: false, events: 0, problems: vec![problem] }
    })
}

/// What is printed, as it is found.
enum Report {
    Json(JsonArray),
    Text(Stdout),
}

impl Report {
    fn add(&mut self, verified: &Verified) -> Result<(), CliError> {
        match self {
            Self::Json(array) => array.push(verified),
            Self::Text(out) => {
                out.raw(lines(verified).as_bytes())?;
                out.flush()
            }
        }
    }

    fn end(self) -> Result<(), CliError> {
        match self {
            Self::Json(array) => array.end("\n"),
            Self::Text(mut out) => out.flush(),
        }
    }
}

/// The sessions that were typed, else all, those in the archive too.
async fn wanted(store: &FileStore, typed: &[String]) -> Result<Vec<SessionId>, CliError> {
    if typed.is_empty() {
        let (sessions, archived) = (store.list().await?, store.list_archived().await?);
        return Ok(sessions.into_iter().chain(archived).map(|session| session.id).collect());
    }
    let mut ids = Vec::with_capacity(typed.len());
    for text in typed {
        ids.push(resolve(store, text).await?);
    }
    Ok(ids)
}

fn lines(verified: &Verified) -> String {
    let events = count_words(verified.events, "event");
    if verified.ok {
        return format!("{}  sound, {events}\n", verified.id);
    }
    let problems = count_words(verified.problems.len() as u64, "problem");
    let mut out = format!("{}  {problems}, {events} sound\n", verified.id);
    let is_like =
        |one: &Problem, next: &Problem| (one.kind, &one.detail) == (next.kind, &next.detail) && next.line <= one.line + 1;
    let runs: Vec<&[Problem]> = verified.problems.chunk_by(is_like).collect();
    for run in runs.iter().take(ROWS_MAX) {
        let Some((first, rest)) = run.split_first() else { continue };
        let more = rest.last().map_or_else(String::new, |last| format!("; so it is up to line {}", last.line));
        out += &format!("  {}{more}\n", safe_line(&problem_words(first)));
    }
    if let more @ 1.. = runs.iter().skip(ROWS_MAX).map(|run| run.len()).sum::<usize>() {
        out += &format!("  and {more} more; `--json` has them all\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: u64, detail: &str) -> Problem {
        Problem { line, offset: line * 10, kind: ProblemKind::Unreadable, detail: detail.to_owned() }
    }

    #[test]
    fn what_is_wrong_with_many_lines_in_a_row_is_said_once() {
        let id = "019c0000-0000-7000-8000-000000000000".parse().expect("an id");
        let mut problems: Vec<Problem> = (2..10_000).map(|line| problem(line, "no record")).collect();
        problems.push(problem(20_000, "no record"));
        let said = lines(&Verified { id, ok: false, events: 1, problems });
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(said.contains("  line 2 (byte 20): unreadable: no record; so it is up to line 9999\n"), "{said}");
    }

    #[test]
    fn a_person_is_told_no_more_than_can_be_read() {
        let id = "019c0000-0000-7000-8000-000000000000".parse().expect("an id");
        let problems = (0..1_000).map(|line| problem(line * 2, "no record")).collect();
        let said = lines(&Verified { id, ok: false, events: 1, problems });
        assert!(said.ends_with("  and 950 more; `--json` has them all\n"), "{said}");
    }
}
