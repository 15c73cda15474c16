//! `longhand sessions import`: sessions of other programs become sessions here. Nothing is changed where they come from.
//!
//! A file is read twice, line by line: once to see what it is and which sessions are in it, once to write them. A session that is here
//! already (the same id, the same bytes) is left alone. Each session is there whole or not at all.

mod scan;

use super::json;
use crate::app::App;
use crate::commands::sessions::checked_name;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::progress::Progress;
use crate::raw_lines::RawLines;
use crate::safe_text::safe_line;
use agent_runtime::Secrets;
use serde::Serialize;
use serde_json::Value;
use session_store::exchange::{self, Foreign, ImportError, ImportFormat, Notice};
use session_store::{
    Clock, Event, FileStore, RawLog, SessionId, SessionImported, SessionRenamed, SessionStore, SystemClock, Timestamp,
};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;
use tempfile::NamedTempFile;

/// How many places of a file that could not be read are told one by one.
const NOTICES_TOLD_MAX: usize = 20;

const SCAN_HINT: &str = "`longhand sessions import --scan` finds the sessions of Claude Code, Codex and pi";
const FORMAT_HINT: &str = "`--format` says what a file is";

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --json, an array of objects, one for each session or file: `file`, `state` (`imported`, `known`: it is here already, `found`: it was looked at only, or `failed`), `session` (its \
id here), `format`, `id` (the one that its program gave it), `title`, `cwd`, `created_at`, `messages` (each null where unknown), `bytes`, `notices` (`line`, `reason`: what could not be \
read) and `error` (a message, or null).")]
pub(crate) struct ImportArgs {
    /// Files of other programs; `-` is standard input
    #[arg(value_name = "FILE", required_unless_present = "scan")]
    files: Vec<PathBuf>,
    /// What the files are
    #[arg(long, default_value = "auto")]
    format: Format,
    /// Name the session
    #[arg(short, long)]
    name: Option<String>,
    /// Look for sessions of Claude Code, Codex and pi in their usual places, and list them
    #[arg(long, conflicts_with_all = ["files", "format", "name"])]
    scan: bool,
    /// With --scan: import all that are not here yet
    #[arg(long, requires = "scan")]
    all: bool,
    /// Import what is here already once more
    #[arg(long)]
    again: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// By what is in the file
    Auto,
    ClaudeCode,
    Codex,
    Pi,
    /// `hermes sessions export`
    Hermes,
    /// Messages of OpenAI's Chat Completions
    Openai,
    /// Messages of Anthropic's API
    Anthropic,
    /// Headings name the speakers
    Markdown,
}

impl Format {
    fn known(self) -> Option<ImportFormat> {
        Some(match self {
            Self::Auto => return None,
            Self::ClaudeCode => ImportFormat::ClaudeCode,
            Self::Codex => ImportFormat::Codex,
            Self::Pi => ImportFormat::Pi,
            Self::Hermes => ImportFormat::Hermes,
            Self::Openai => ImportFormat::OpenAi,
            Self::Anthropic => ImportFormat::Anthropic,
            Self::Markdown => ImportFormat::Markdown,
        })
    }
}

/// What became of a session, or of a file that holds none.
#[derive(Debug, Serialize)]
struct Outcome {
    file: String,
    state: OutcomeState,
    /// The session here.
    session: Option<SessionId>,
    format: Option<&'static str>,
    /// The id that its program gave it.
    id: Option<String>,
    title: Option<String>,
    cwd: Option<String>,
    created_at: Option<Timestamp>,
    messages: Option<u64>,
    bytes: u64,
    /// What could not be read.
    notices: Vec<Notice>,
    error: Option<String>,
    /// What to do about the error.
    #[serde(skip)]
    hint: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeState {
    Imported,
    /// It is here already.
    Known,
    /// It was looked at only.
    Found,
    Failed,
}

pub(super) async fn run(app: &App, args: ImportArgs) -> Result<Exit, CliError> {
    args.name.as_deref().map(checked_name).transpose()?;
    let store = app.file_store()?;
    let importer = Importer {
        secrets: Secrets::from_env(app.envs()),
        known: if args.again { HashMap::new() } else { known(&store).await? },
        store,
    };
    if args.scan { scan::run(app, importer, &args).await } else { import_files(importer, &args).await }
}

async fn import_files(mut importer: Importer, args: &ImportArgs) -> Result<Exit, CliError> {
    let mut outcomes = Vec::new();
    let sources: Vec<Result<Source, Box<Outcome>>> = args.files.iter().map(|file| Source::open(file)).collect();
    let total = sources.iter().flatten().map(|source| source.bytes).sum();
    let progress = Arc::new(Progress::bytes("importing", total));
    for source in sources {
        let found = match source {
            Ok(source) => importer.survey(source, args.format.known()).await,
            Err(failed) => Err(failed),
        };
        match found {
            Err(failed) => outcomes.push(*failed),
            Ok(found) if args.name.is_some() && (found.len() > 1 || args.files.len() > 1) => {
                return Err(CliError::usage("`--name` names one session, and there are more").hint("import them one by one"));
            }
            Ok(found) => {
                for candidate in found {
                    outcomes.push(importer.import(candidate, args.name.clone(), &progress).await?);
                }
            }
        }
    }
    drop(progress);
    report(&outcomes, args.json)
}

/// Prints what became of all, and says how the program ends.
fn report(outcomes: &[Outcome], as_json: bool) -> Result<Exit, CliError> {
    let mut out = Stdout::new();
    if as_json {
        out.raw(&json(&outcomes)?)?;
        out.raw(b"\n")?;
    }
    for outcome in outcomes {
        if !as_json && outcome.state != OutcomeState::Failed {
            out.raw(outcome.line().as_bytes())?;
        }
        outcome.tell();
    }
    out.flush()?;
    let hints: BTreeSet<&str> = outcomes.iter().filter_map(|outcome| outcome.hint).collect();
    for (nth, hint) in hints.iter().enumerate() {
        output::stderr(&format!("{}hint: {hint}\n", if nth == 0 { "\n" } else { "" }));
    }
    let is_failed = outcomes.iter().any(|outcome| outcome.state == OutcomeState::Failed);
    Ok(if is_failed { Exit::Failed } else { Exit::Done })
}

impl Outcome {
    fn failed(file: &str, bytes: u64, error: &dyn std::fmt::Display) -> Box<Self> {
        Box::new(Self {
            file: file.to_owned(),
            state: OutcomeState::Failed,
            session: None,
            format: None,
            id: None,
            title: None,
            cwd: None,
            created_at: None,
            messages: None,
            bytes,
            notices: Vec::new(),
            error: Some(error.to_string()),
            hint: None,
        })
    }

    /// For people: the session here, and what it is.
    fn line(&self) -> String {
        let id = self.session.map(|id| id.to_string()).unwrap_or_default();
        let title = safe_line(self.title.as_deref().unwrap_or("(untitled)")).into_owned();
        let what = match (self.state, self.messages) {
            (OutcomeState::Imported, Some(1)) => "1 message".to_owned(),
            (OutcomeState::Imported, Some(count)) => format!("{count} messages"),
            _ => "is here already".to_owned(),
        };
        format!("{id}  {}  {what}  {title}\n", typed_name(self.format.unwrap_or_default()))
    }

    fn tell(&self) {
        if let Some(error) = &self.error {
            output::stderr(&format!("error: cannot import `{}`: {error}\n", self.file));
        }
        for notice in self.notices.iter().take(NOTICES_TOLD_MAX) {
            output::stderr(&format!("warning: `{}`: {notice}\n", self.file));
        }
        if self.notices.len() > NOTICES_TOLD_MAX {
            let more = self.notices.len() - NOTICES_TOLD_MAX;
            output::stderr(&format!("warning: `{}`: and {more} more places; `--json` lists them\n", self.file));
        }
    }
}

/// The name of a format as `--format` takes it.
fn typed_name(format: &str) -> String {
    format.replace('_', "-")
}

/// A file that is read twice: what standard input or a pipe gives is kept until then.
#[derive(Clone)]
struct Source {
    /// What it is called in messages.
    name: String,
    /// Where it is read.
    path: PathBuf,
    /// Where it is, absolute; absent for what is no file.
    origin: Option<String>,
    bytes: u64,
    modified: Timestamp,
    _spool: Option<Arc<NamedTempFile>>,
}

impl Source {
    fn open(file: &Path) -> Result<Self, Box<Outcome>> {
        let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
        Self::try_open(file, &name).map_err(|error| {
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            Outcome { hint: is_gone.then_some(SCAN_HINT), ..*Outcome::failed(&name, 0, &error) }.into()
        })
    }

    fn try_open(file: &Path, name: &str) -> io::Result<Self> {
        let now = SystemClock.now();
        if file == Path::new("-") {
            return Self::spool(name, &mut io::stdin().lock(), now);
        }
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder; name the files in it"));
        }
        if !found.is_file() {
            return Self::spool(name, &mut File::open(file)?, now);
        }
        let modified = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.and_then(|since| i64::try_from(since.as_millis()).ok()).map_or(now, Timestamp::from_ms);
        let path = std::path::absolute(file)?;
        let origin = Some(path.to_string_lossy().into_owned());
        Ok(Self { name: name.to_owned(), path, origin, bytes: found.len(), modified, _spool: None })
    }

    fn spool(name: &str, from: &mut dyn Read, now: Timestamp) -> io::Result<Self> {
        let mut spool = NamedTempFile::new()?;
        let bytes = io::copy(from, spool.as_file_mut())?;
        let path = spool.path().to_owned();
        Ok(Self { name: name.to_owned(), path, origin: None, bytes, modified: now, _spool: Some(Arc::new(spool)) })
    }
}

/// A session in a file, ready to be imported.
struct Candidate {
    source: Source,
    foreign: Foreign,
    known: Option<SessionId>,
}

impl Candidate {
    fn outcome(&self, state: OutcomeState) -> Outcome {
        let facts = &self.foreign.facts;
        let (notices, more) = self.foreign.notices();
        let mut notices = notices.to_vec();
        if more > 0 {
            notices.push(Notice { line: 0, reason: format!("and {more} more places") });
        }
        Outcome {
            file: self.source.name.clone(),
            state,
            session: self.known,
            format: Some(self.foreign.format.name()),
            id: Some(facts.id.clone()).filter(|id| !id.is_empty()),
            title: facts.title.clone(),
            cwd: facts.cwd.clone(),
            created_at: facts.created_at,
            messages: None,
            bytes: self.source.bytes,
            notices,
            error: None,
            hint: None,
        }
    }
}

/// What tells an original from all others: its format, its own id, and its bytes.
type Original = (String, String, String);

struct Importer {
    store: Arc<dyn SessionStore>,
    secrets: Secrets,
    /// The sessions here that were imported.
    known: HashMap<Original, SessionId>,
}

impl Importer {
    /// Looks what is in a file.
    async fn survey(&self, source: Source, format: Option<ImportFormat>) -> Result<Vec<Candidate>, Box<Outcome>> {
        let (name, bytes, path, secrets) = (source.name.clone(), source.bytes, source.path.clone(), self.secrets.clone());
        let surveyed = tokio::task::spawn_blocking(move || {
            let open = || -> io::Result<Box<dyn Read>> { Ok(Box::new(File::open(&path)?)) };
            exchange::survey(&open, format, &|text| secrets.hide(text))
        });
        let found = surveyed.await.map_err(|error| Outcome::failed(&name, bytes, &error))?.map_err(|error| {
            let hint = matches!(error, ImportError::UnknownFormat { .. }).then_some(FORMAT_HINT);
            Outcome { hint, ..*Outcome::failed(&name, bytes, &error) }
        })?;
        let candidate = |foreign: Foreign| {
            let original = (foreign.format.name().to_owned(), foreign.facts.id.clone(), foreign.sha256.clone());
            Candidate { known: self.known.get(&original).copied(), source: source.clone(), foreign }
        };
        Ok(found.into_iter().map(candidate).collect())
    }

    /// Imports a session, unless it is here already.
    async fn import(
        &mut self,
        candidate: Candidate,
        name: Option<String>,
        progress: &Arc<Progress>,
    ) -> Result<Outcome, CliError> {
        if candidate.known.is_some() {
            progress.add(candidate.source.bytes);
            return Ok(candidate.outcome(OutcomeState::Known));
        }
        let mut outcome = candidate.outcome(OutcomeState::Imported);
        let Candidate { source, foreign, .. } = candidate;
        let original = (foreign.format.name().to_owned(), foreign.facts.id.clone(), foreign.sha256.clone());
        let new = foreign.new_import(source.origin.clone(), source.modified);
        let messages = Arc::new(AtomicU64::new(0));
        let fill = {
            let (secrets, messages, progress) = (self.secrets.clone(), Arc::clone(&messages), Arc::clone(progress));
            let (path, modified) = (source.path.clone(), source.modified);
            move |log: &mut dyn session_store::ImportLog| {
                let open = || -> io::Result<Box<dyn Read>> { Ok(Box::new(File::open(&path)?)) };
                let last_at = foreign.facts.updated_at.unwrap_or(modified);
                let mut done = 0;
                let mut tell = |bytes: u64| progress.add(bytes - std::mem::replace(&mut done, bytes));
                let hide = |text| secrets.hide(text);
                messages.store(exchange::import(foreign, &open, &hide, modified, log, &mut tell)?, Ordering::Relaxed);
                if let Some(name) = name {
                    log.append(last_at, Event::from(SessionRenamed { name: hide(name.trim().to_owned()) }))?;
                }
                Ok(())
            }
        };
        match self.store.import(new, Box::new(fill)).await {
            Ok(id) => {
                outcome.session = Some(id);
                outcome.messages = Some(messages.load(Ordering::Relaxed));
                self.known.insert(original, id);
            }
            Err(session_store::StoreError::Import { why }) => {
                outcome.state = OutcomeState::Failed;
                outcome.error = Some(why);
            }
            // The disk here is in trouble: the next one would fare no better.
            Err(error) => return Err(error.into()),
        }
        Ok(outcome)
    }
}

/// The imported sessions of the store.
async fn known(store: &FileStore) -> Result<HashMap<Original, SessionId>, CliError> {
    let mut known = HashMap::new();
    for session in store.list().await? {
        if let Some(imported) = store.raw_log(session.id).await.ok().and_then(|log| imported(RawLines::new(log))) {
            known.insert((imported.format, imported.id, imported.sha256), session.id);
        }
    }
    Ok(known)
}

/// What the third line of a log says, where that was imported. No more of it is read: there may be thousands, each of any length.
fn imported(mut log: RawLines<RawLog>) -> Option<SessionImported> {
    for _ in 0..2 {
        log.next_line().ok()??;
    }
    let line: Value = serde_json::from_slice(log.next_line().ok()??).ok()?;
    if line["type"] == "session.imported" { serde_json::from_value(line).ok() } else { None }
}

/// Whether a person can be asked.
fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
