//! `longhand sessions repair`: writes damaged logs again without their damage, and keeps them as they were.

use super::{JsonArray, problem_words};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::Stdout;
use crate::progress::Progress;
use crate::resolve::resolve;
use crate::safe_text::safe_line;
use crate::transcript::count_words;
use session_store::{FileStore, Repair, RepairAction, SessionId};
use std::sync::Arc;

/// How many times a repair reads a log, about.
const PASSES: u64 = 3;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
What is sound stays as it is, and every event keeps its number. A record that cannot be checked stays and is marked, lost events are noted, \
repeated and foreign lines are left out. The log as it was is kept in the folder `repaired` of the home; nothing removes it from there.

With --json, an array of objects: `id`, `mended` (each with `line`, `offset`, `kind`, `detail` as of `sessions verify`, and `action`: `marked`, `left_out`, \
`moved`, `split`, `noted`, `cleaned`, `put_aside` or `stays`), `rewrites` (whether the log was, or would be, written again) and `original` (the path of the \
log as it was, or null).")]
pub(crate) struct RepairArgs {
    /// The sessions: their ids, exact names or the starts of their ids
    #[arg(required = true)]
    ids: Vec<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Exit 0 when all are sound now (with `--dry-run`: would be), 1 where something stays, 6 where one is open for writing.
pub(super) async fn run(app: &App, args: RepairArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let mut ids = Vec::with_capacity(args.ids.len());
    for text in &args.ids {
        let id = resolve(store.as_ref(), text).await?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let space = store.space().await?;
    let bytes = |id: &SessionId| space.sessions.get(id).map_or(0, |session| session.log_bytes + session.cold_bytes);
    let passes = if args.dry_run { 1 } else { PASSES };
    let progress = Arc::new(Progress::bytes("repairing", passes * ids.iter().map(bytes).sum::<u64>()));
    let mut report = match args.json {
        true => Report::Json(JsonArray::begin(Stdout::new())?),
        false => Report::Text(Stdout::new(), args.dry_run),
    };
    let mut left = 0;
    for id in ids {
        let repair = one(&store, id, args.dry_run, &progress).await?;
        left += repair.left();
        progress.suspend(|| report.add(&repair))?;
    }
    drop(progress);
    report.end()?;
    match left {
        0 => Ok(Exit::Done),
        left => Err(CliError::failed(format!("{} cannot be mended", count_words(left as u64, "problem")))
            .hint("a missing side file is mended by its return: copy it back from a backup into the session's folder")),
    }
}

async fn one(store: &FileStore, id: SessionId, dry_run: bool, progress: &Arc<Progress>) -> Result<Repair, CliError> {
    let progress = Arc::clone(progress);
    let advance = Arc::new(move |bytes| progress.add(bytes));
    Ok(if dry_run { store.plan_repair(id, advance).await? } else { store.repair(id, advance).await? })
}

/// What is printed, as it is done.
enum Report {
    Json(JsonArray),
    /// Whether it would only be done.
    Text(Stdout, bool),
}

impl Report {
    fn add(&mut self, repair: &Repair) -> Result<(), CliError> {
        match self {
            Self::Json(array) => array.push(repair),
            Self::Text(out, dry_run) => {
                out.raw(lines(repair, *dry_run).as_bytes())?;
                out.flush()
            }
        }
    }

    fn end(self) -> Result<(), CliError> {
        match self {
            Self::Json(array) => array.end("\n"),
            Self::Text(mut out, _) => out.flush(),
        }
    }
}

fn lines(repair: &Repair, dry_run: bool) -> String {
    if repair.mended.is_empty() {
        return format!("{}  sound, nothing to do\n", repair.id);
    }
    let problems = count_words(repair.mended.len() as u64, "problem");
    let mut out = format!("{}  {problems}{}\n", repair.id, if dry_run { "; nothing is changed yet" } else { "" });
    for mended in &repair.mended {
        let line = format!("{}: {}", problem_words(&mended.problem), words(mended.action, dry_run));
        out += &format!("  {}\n", safe_line(&line));
    }
    if let Some(original) = &repair.original {
        out += &format!("  the log as it was: {}\n", safe_line(&original.display().to_string()));
    } else if dry_run && repair.rewrites {
        out += "  the log as it is would be kept in the folder `repaired` of the home\n";
    }
    out
}

fn words(action: RepairAction, dry_run: bool) -> String {
    let done = match action {
        RepairAction::Marked => "kept, and marked as unchecked",
        RepairAction::LeftOut => "left out",
        RepairAction::Moved => "moved to its place",
        RepairAction::Split => "its records put on lines of their own",
        RepairAction::Noted => "noted",
        RepairAction::Cleaned => "cleaned",
        RepairAction::PutAside => "put aside",
        _ => return "stays".to_owned(),
    };
    if dry_run {
        format!("would be {done}").replace("would be its records put", "its records would be put")
    } else {
        done.to_owned()
    }
}
