//! `longhand sessions ...`: what is stored. Data goes to standard output, talk to standard error; nothing but `rename`, `rewind`, `fork`,
//! `rm`, `repair`, `archive`, `compress`, `prune` and `import` changes anything, so the rest works on a full or read-only disk and beside a process that writes.

mod archive;
pub(crate) mod export;
mod fork;
mod import;
mod list;
mod prune;
mod release;
mod rename;
mod repair;
mod rewind;
mod rm;
mod search;
mod show;
mod stats;
mod tail;
mod verify;

pub(crate) use rename::checked_name;

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use serde::Serialize;
use session_store::{Problem, ProblemKind, SessionId, SessionLog, SessionStore};
use std::io::{BufRead, IsTerminal};
use std::time::Duration;

/// How long a command waits for its few events to become durable.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// How many problems of a session are told one by one where they are not what was asked for.
const PROBLEMS_TOLD_MAX: usize = 20;

#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    pub(crate) command: SessionsCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum SessionsCommand {
    /// List all sessions, newest first
    List(list::ListArgs),
    /// Show a session's messages
    Show(show::ShowArgs),
    /// Follow a session while it is written
    Tail(tail::TailArgs),
    /// Find words in all sessions but those in the archive
    Search(search::SearchArgs),
    /// Name a session
    Rename(rename::RenameArgs),
    /// Take a conversation back to an earlier event, or undo that
    Rewind(rewind::RewindArgs),
    /// Copy a session, to go on with the copy
    Fork(fork::ForkArgs),
    /// Ask the process that holds a session to let go of it
    Release(release::ReleaseArgs),
    /// Remove sessions for good
    Rm(rm::RmArgs),
    /// Check every line of the logs; changes nothing
    Verify(verify::VerifyArgs),
    /// Mend damaged logs; each is kept as it was
    Repair(repair::RepairArgs),
    /// Put sessions away, compressed, or bring them back
    Archive(archive::ArchiveArgs),
    /// Make old sessions small
    Compress(archive::CompressArgs),
    /// Make room: put old sessions into the archive, or remove what is in it
    Prune(prune::PruneArgs),
    /// Say what the sessions take, by age, directory and model
    Stats(stats::StatsArgs),
    /// Write a session as JSONL, Markdown, one HTML page, or in the form of another program
    Export(export::ExportArgs),
    /// Take in sessions of other programs
    Import(import::ImportArgs),
}

/// Runs one of them.
pub(crate) async fn run(app: &App, args: SessionsArgs) -> Result<Exit, CliError> {
    match args.command {
        SessionsCommand::List(args) => list::run(app, args).await,
        SessionsCommand::Show(args) => show::run(app, args).await,
        SessionsCommand::Tail(args) => tail::run(app, args).await,
        SessionsCommand::Search(args) => search::run(app, args).await,
        SessionsCommand::Rename(args) => rename::run(app, args).await,
        SessionsCommand::Rewind(args) => rewind::run(app, args).await,
        SessionsCommand::Fork(args) => fork::run(app, args).await,
        SessionsCommand::Release(args) => release::run(app, args).await,
        SessionsCommand::Rm(args) => rm::run(app, args).await,
        SessionsCommand::Verify(args) => verify::run(app, args).await,
        SessionsCommand::Repair(args) => repair::run(app, args).await,
        SessionsCommand::Archive(args) => archive::run(app, args).await,
        SessionsCommand::Compress(args) => archive::compress(app, args).await,
        SessionsCommand::Prune(args) => prune::run(app, args).await,
        SessionsCommand::Stats(args) => stats::run(app, args).await,
        SessionsCommand::Export(args) => export::run(app, args).await,
        SessionsCommand::Import(args) => import::run(app, args).await,
    }
}

/// An array of JSON objects, one a line, printed as they come.
struct JsonArray {
    out: Stdout,
    is_empty: bool,
}

impl JsonArray {
    fn begin(mut out: Stdout) -> Result<Self, CliError> {
        out.raw(b"[")?;
        Ok(Self { out, is_empty: true })
    }

    fn push(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let separator = if std::mem::take(&mut self.is_empty) { "\n" } else { ",\n" };
        self.out.raw(separator.as_bytes())?;
        self.out.raw(&json(value)?)
    }

    /// Ends the array with `after` behind it, and makes all of it visible.
    fn end(mut self, after: &str) -> Result<(), CliError> {
        self.out.raw(if self.is_empty { b"]" } else { b"\n]" })?;
        self.out.raw(after.as_bytes())?;
        self.out.flush()
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, CliError> {
    serde_json::to_vec(value).map_err(|error| CliError::failed(format!("cannot write JSON: {error}")))
}

/// Tells what is wrong with a log, on standard error.
fn tell_problems(id: SessionId, problems: &[Problem]) {
    if problems.is_empty() {
        return;
    }
    for problem in problems.iter().take(PROBLEMS_TOLD_MAX) {
        output::stderr(&format!("warning: {}\n", problem_words(problem)));
    }
    if problems.len() > PROBLEMS_TOLD_MAX {
        output::stderr(&format!("warning: and {} more problems\n", problems.len() - PROBLEMS_TOLD_MAX));
    }
    output::stderr(&format!("\nhint: what is sound is shown; `longhand sessions verify {id}` checks every line\n"));
    if has_stale_lines(problems) {
        output::stderr(&format!("hint: {}\n", stale_hint(id)));
    }
}

/// Whether some lines can be made a session of their own.
fn has_stale_lines(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| matches!(problem.kind, ProblemKind::StaleWriter | ProblemKind::Rescued))
}

fn stale_hint(id: SessionId) -> String {
    format!("`longhand sessions fork {id} --stale` makes a session of what each stale writer wrote")
}

fn problem_words(problem: &Problem) -> String {
    let kind = serde_json::to_value(problem.kind).ok().and_then(|kind| Some(kind.as_str()?.replace('_', " ")));
    format!("line {} (byte {}): {}: {}", problem.line, problem.offset, kind.unwrap_or_default(), problem.detail)
}

/// Whether somebody can be asked on a terminal.
fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks on the terminal; what is not a yes is a no.
async fn ask(question: &str) -> bool {
    output::stderr(&format!("{question} [y/N] "));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = answer.await.unwrap_or_else(|_| Ok(String::new())).unwrap_or_default();
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Lets go of a session that a command wrote to, and of the store.
async fn close(store: &dyn SessionStore, log: &dyn SessionLog) -> Result<(), CliError> {
    log.close().await?;
    Ok(store.shutdown(SHUTDOWN_LIMIT).await?)
}
