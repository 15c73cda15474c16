//! `longhand sessions verify`: exit 0 when all logs are sound, 1 where not. Never changes a file.

use super::{JsonArray, has_stale_lines, problem_words, stale_hint};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::Stdout;
use crate::progress::Progress;
use crate::resolve::resolve;
use crate::safe_text::safe_line;
use crate::transcript::count_words;
use session_store::{Problem, ProblemKind, SessionId, SessionStore, Verified};

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The sessions: their ids, exact names or the starts of their ids [default: all]
    ids: Vec<String>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: &App, args: VerifyArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let ids = wanted(store.as_ref(), &args.ids).await?;
    let progress = Progress::count("verifying", ids.len() as u64);
    let mut report = match args.json {
        true => Report::Json(JsonArray::begin(Stdout::new())?),
        false => Report::Text(Stdout::new()),
    };
    let mut damaged = 0_u64;
    let mut stale = None;
    for id in &ids {
        let verified = verify(store.as_ref(), *id).await;
        damaged += u64::from(!verified.ok);
        stale = stale.or_else(|| has_stale_lines(&verified.problems).then_some(*id));
        progress.suspend(|| report.add(&verified))?;
        progress.add(1);
    }
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
async fn verify(store: &dyn SessionStore, id: SessionId) -> Verified {
    store.verify(id).await.unwrap_or_else(|error| {
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

async fn wanted(store: &dyn SessionStore, typed: &[String]) -> Result<Vec<SessionId>, CliError> {
    if typed.is_empty() {
        return Ok(store.list().await?.into_iter().map(|session| session.id).collect());
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
    let head = format!("{}  {problems}, {events} sound\n", verified.id);
    verified.problems.iter().fold(head, |out, problem| format!("{out}  {}\n", safe_line(&problem_words(problem))))
}
