//! `longhand sessions archive` and `longhand sessions compress`: less room for old sessions, nothing lost.

use super::JsonArray;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::progress::Progress;
use crate::resolve::{choose_archived, resolve};
use crate::transcript::count_words;
use crate::units::{parse_age, size_words};
use serde::Serialize;
use session_store::{
    Clock, Compressed, FileStore, SessionId, SessionListState, SessionStore, SessionSummary, StoreError, SystemClock,
};
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true).multiple(true).args(["ids", "older_than"]),
    after_long_help = "\
A session in the archive is compressed and does not show in the list; it is read by its whole id, and comes back when it is resumed, or with --undo. Nothing is ever \
removed from there by itself.

With --json, an array of objects: `id`, `before` and `after` (the bytes of its log), and `error` (why it was left alone, or null)."
)]
pub(crate) struct ArchiveArgs {
    /// The sessions: their ids, exact names or the starts of their ids
    ids: Vec<String>,
    /// All sessions without an event for so long, like `90d`; with `--undo`, those of them in the archive
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// Bring sessions back from the archive
    #[arg(long)]
    undo: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true).multiple(true).args(["ids", "older_than"]),
    after_long_help = "\
A compressed session lists, reads and resumes like any other. Its log is a zstd file with the same lines (`zstdcat`), without the pieces of answers that came whole later.

With --json, an array of objects: `id`, `before` and `after` (the bytes of its log), and `error` (why it was left alone, or null)."
)]
pub(crate) struct CompressArgs {
    /// The sessions: their ids, exact names or the starts of their ids
    ids: Vec<String>,
    /// All sessions without an event for so long, like `7d`
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// What is done to each session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Compress,
    Archive,
    Undo,
}

impl Work {
    fn doing(self) -> &'static str {
        match self {
            Self::Compress => "compressing",
            Self::Archive => "archiving",
            Self::Undo => "restoring",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Compress => "compressed",
            Self::Archive => "archived",
            Self::Undo => "back from the archive:",
        }
    }
}

pub(super) async fn run(app: &App, args: ArchiveArgs) -> Result<Exit, CliError> {
    let work = if args.undo { Work::Undo } else { Work::Archive };
    all(&*app.file_store()?, work, &args.ids, args.older_than, args.json).await
}

pub(super) async fn compress(app: &App, args: CompressArgs) -> Result<Exit, CliError> {
    all(&*app.file_store()?, Work::Compress, &args.ids, args.older_than, args.json).await
}

/// What became of a session.
#[derive(Serialize)]
struct Row {
    id: SessionId,
    before: u64,
    after: u64,
    error: Option<String>,
}

/// One that was named and cannot be done is an error; one that is only old enough is passed over and told.
async fn all(store: &FileStore, work: Work, ids: &[String], older_than: Option<Duration>, json: bool) -> Result<Exit, CliError> {
    let named = named(store, work, ids).await?;
    let old = match older_than {
        Some(age) => old(store, work, age).await?.into_iter().filter(|id| !named.contains(id)).collect(),
        None => Vec::new(),
    };
    let progress = Progress::count(work.doing(), (named.len() + old.len()) as u64);
    let mut rows = Vec::new();
    for (id, is_named) in named.into_iter().map(|id| (id, true)).chain(old.into_iter().map(|id| (id, false))) {
        let (compressed, error) = match one(store, work, id).await {
            Ok(compressed) => (compressed, None),
            Err(error) if is_named => return Err(error.into()),
            Err(error) => (Compressed { before: 0, after: 0 }, Some(error.to_string())),
        };
        let row = Row { id, before: compressed.before, after: compressed.after, error };
        progress.add(1);
        if !json {
            progress.suspend(|| output::stderr(&words(work, &row)));
        }
        rows.push(row);
    }
    drop(progress);
    store.shutdown(super::SHUTDOWN_LIMIT).await?;
    if json {
        let mut array = JsonArray::begin(Stdout::new())?;
        rows.iter().try_for_each(|row| array.push(row))?;
        array.end("\n")?;
    } else if rows.is_empty() {
        output::stderr("no session is old enough\n");
    } else if rows.len() > 1 && work != Work::Undo {
        let (before, after) = rows.iter().fold((0, 0), |sum, row| (sum.0 + row.before, sum.1 + row.after));
        let sessions = count_words(rows.len() as u64, "session");
        output::stderr(&format!("{sessions}: {} became {}\n", size_words(before), size_words(after)));
    }
    Ok(Exit::Done)
}

async fn one(store: &FileStore, work: Work, id: SessionId) -> Result<Compressed, StoreError> {
    match work {
        Work::Compress => store.compress(id).await,
        Work::Archive => store.archive(id).await,
        Work::Undo => store.unarchive(id).await.map(|()| Compressed { before: 0, after: 0 }),
    }
}

fn words(work: Work, row: &Row) -> String {
    let id = row.id;
    match &row.error {
        Some(error) => format!("left alone: {error}\n"),
        None if work == Work::Undo => format!("{} {id}\n", work.done()),
        None if row.before == row.after && work == Work::Compress => {
            format!("{id} is compressed already, {}\n", size_words(row.after))
        }
        None if row.before == row.after => format!("{} {id}, {}\n", work.done(), size_words(row.after)),
        None => format!("{} {id}: {} became {}\n", work.done(), size_words(row.before), size_words(row.after)),
    }
}

/// The sessions that were typed.
async fn named(store: &FileStore, work: Work, texts: &[String]) -> Result<Vec<SessionId>, CliError> {
    let mut ids = Vec::new();
    // Names and starts of ids are looked for where the sessions are that can be meant.
    let archived = if work == Work::Undo && !texts.is_empty() { store.list_archived().await? } else { Vec::new() };
    for text in texts {
        let id = match work {
            Work::Undo => match choose_archived(&archived, text.trim()) {
                Ok(id) => id,
                Err(error) => unlisted(store, text).await.ok_or(error)?,
            },
            Work::Compress | Work::Archive => resolve(store, text).await?,
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The session with this whole id, where it is in the archive though the list does not show it. Of one that is not there, a copy may be,
/// which an undo left that was cut off: it is removed.
async fn unlisted(store: &FileStore, text: &str) -> Option<SessionId> {
    let id = text.trim().parse().ok()?;
    match store.is_archived(id).await {
        Ok(true) => Some(id),
        // A copy that stays does no harm, and what is wrong with the disk is told by whatever needs it.
        Ok(false) => store.unarchive(id).await.err().and(None),
        Err(_) => None,
    }
}

/// The sessions to which nothing was added for `age`, by their own records, the oldest first.
async fn old(store: &FileStore, work: Work, age: Duration) -> Result<Vec<SessionId>, CliError> {
    let now = SystemClock.now();
    let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let is_old = |session: &SessionSummary| {
        session.state == SessionListState::Idle && now.as_ms().saturating_sub(session.updated_at.as_ms()) >= age_ms
    };
    let sessions = if work == Work::Undo { store.list_archived().await? } else { store.list().await? };
    Ok(sessions.iter().rev().filter(|session| is_old(session)).map(|session| session.id).collect())
}
