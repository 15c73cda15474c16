//! `longhand sessions export`: JSONL copies the lines of the log byte for byte; Markdown and HTML are for people; the others are for the programs
//! whose form they have.

use super::show::{each_item, is_open};
use super::tell_problems;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::export::{Document, Facts, Pictures, Redactor};
use crate::output::{self, Stdout};
use crate::raw_lines::RawLines;
use crate::resolve::resolve;
use session_store::exchange::{ExportFormat, Exporter};
use session_store::{FileStore, Problem, SessionId, SessionStore};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// What to write; what looks like a credential is replaced in Markdown and HTML
    #[arg(long, default_value = "jsonl")]
    format: Format,
    /// Write to this file, which is replaced when all is there [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// The lines of the log, as they are
    Jsonl,
    Markdown,
    /// One page that needs nothing else
    Html,
    /// A session of Claude Code
    ClaudeCode,
    /// A rollout of Codex
    Codex,
    /// A session of pi
    Pi,
    /// Messages as OpenAI's Chat Completions take them
    Openai,
    /// Messages as Anthropic's API takes them
    Anthropic,
}

pub(super) async fn run(app: &App, args: ExportArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
    let mut target = Target::open(args.output.as_deref().filter(|path| *path != Path::new("-")))?;
    let found = write(&store, id, args.format, &mut target).await?;
    if let Some(path) = target.finish()? {
        output::stderr(&format!("wrote {}\n", path.display()));
    }
    if found.held_back > 0 {
        output::stderr(&format!(
            "warning: {} bytes after the last whole line are left out: they are being written, or a crash tore them\n",
            found.held_back
        ));
    }
    if let Some(beside) = &found.beside {
        output::stderr(&format!(
            "warning: some results and events are in files beside the log; copy `{}` too\n",
            beside.display()
        ));
    }
    tell_problems(id, &found.problems);
    Ok(Exit::Done)
}

/// Writes the session to a file, without a word.
///
/// # Errors
/// The session cannot be read, or the file not be written.
pub(crate) async fn write_file(store: &FileStore, id: SessionId, format: Format, path: &Path) -> Result<(), CliError> {
    let mut target = Target::open(Some(path))?;
    write(store, id, format, &mut target).await?;
    target.finish().map(drop)
}

/// What was found beside what was written.
#[derive(Default)]
struct Found {
    /// Bytes after the last whole line.
    held_back: u64,
    /// The folder of what the lines only name, where they were copied without it.
    beside: Option<PathBuf>,
    problems: Vec<Problem>,
}

async fn write(store: &FileStore, id: SessionId, format: Format, target: &mut Target) -> Result<Found, CliError> {
    match format {
        Format::Jsonl => copy_lines(store, id, target).await,
        Format::Markdown => write_document(store, id, Document::Markdown, target).await,
        Format::Html => write_document(store, id, Document::Html, target).await,
        Format::ClaudeCode => write_foreign(store, id, ExportFormat::ClaudeCode, target).await,
        Format::Codex => write_foreign(store, id, ExportFormat::Codex, target).await,
        Format::Pi => write_foreign(store, id, ExportFormat::Pi, target).await,
        Format::Openai => write_foreign(store, id, ExportFormat::OpenAi, target).await,
        Format::Anthropic => write_foreign(store, id, ExportFormat::Anthropic, target).await,
    }
}

/// Writes a session as another program would have. Nothing is redacted: it is to be gone on with.
async fn write_foreign(
    store: &dyn SessionStore,
    id: SessionId,
    format: ExportFormat,
    target: &mut Target,
) -> Result<Found, CliError> {
    let problems = store.load(id).await?.problems;
    let mut exporter = Exporter::new(format, id);
    let mut entries = store.read(id, 0).await?;
    while let Some(entry) = entries.next().await? {
        exporter.survey(&entry);
    }
    target.write(&exporter.begin())?;
    let mut entries = store.read(id, 0).await?;
    while let Some(entry) = entries.next().await? {
        for image in exporter.images(&entry) {
            if let Ok(bytes) = store.read_side(id, &image.side()).await {
                exporter.add_image(image, bytes);
            }
        }
        target.write(&exporter.write(&entry))?;
    }
    target.write(&exporter.finish())?;
    Ok(Found { problems, ..Found::default() })
}

async fn copy_lines(store: &FileStore, id: SessionId, target: &mut Target) -> Result<Found, CliError> {
    let mut lines = RawLines::new(store.raw_log(id).await?);
    while let Some(line) = lines.next_line().map_err(cannot_read(id))? {
        target.write(line)?;
    }
    let beside = lines.log().sides();
    Ok(Found { held_back: lines.held_back() as u64, beside, ..Found::default() })
}

pub(super) fn cannot_read(id: SessionId) -> impl FnOnce(std::io::Error) -> CliError {
    move |error| CliError::failed(format!("cannot read session `{id}`: {error}"))
}

/// Writes a session as a document for people, with what looks like a credential replaced.
async fn write_document(
    store: &dyn SessionStore,
    id: SessionId,
    document: Document,
    target: &mut Target,
) -> Result<Found, CliError> {
    let redactor = Redactor::new();
    let loaded = store.load(id).await?;
    target.write(document.head(&Facts::new(id, &loaded.state, &redactor)).as_bytes())?;
    let mut pictures = Pictures::default();
    each_item(store, id, is_open(&loaded.holder), async |item| {
        if document.has_pictures() {
            pictures.read(store, id, item).await;
        }
        target.write(document.item(&redactor.clean_item(item.clone()), &pictures).as_bytes())
    })
    .await?;
    target.write(document.foot().as_bytes())?;
    Ok(Found { problems: loaded.problems, ..Found::default() })
}

/// Where an export goes.
enum Target {
    Stdout(Stdout),
    /// A device or a pipe, which cannot be replaced.
    Device(BufWriter<File>, PathBuf),
    /// A file, put in its place when all is written: nobody finds half an export.
    File(BufWriter<NamedTempFile>, PathBuf),
}

impl Target {
    fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else { return Ok(Self::Stdout(Stdout::new())) };
        let cannot = || CliError::io("write", path);
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let device = OpenOptions::new().write(true).open(path).map_err(cannot())?;
            return Ok(Self::Device(BufWriter::new(device), path.to_owned()));
        }
        // A link stays a link: what it names is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.exists() {
            return Err(CliError::failed(format!(
                "cannot write `{}`: there is no folder `{}`",
                path.display(),
                folder.display()
            ))
            .hint("make it, or choose another file with `-o FILE`"));
        }
        // The whole error would name the temporary file, which nobody knows.
        let file = NamedTempFile::new_in(folder).map_err(|error| cannot()(error.kind().into()))?;
        Ok(Self::File(BufWriter::with_capacity(1 << 16, file), path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        match self {
            Self::Stdout(out) => out.raw(bytes),
            Self::Device(device, path) => device.write_all(bytes).map_err(CliError::io("write", &*path)),
            Self::File(file, path) => file.write_all(bytes).map_err(CliError::io("write", &*path)),
        }
    }

    /// Makes all of it be there; the file, where it is one.
    fn finish(self) -> Result<Option<PathBuf>, CliError> {
        match self {
            Self::Stdout(mut out) => out.flush().map(|()| None),
            Self::Device(mut device, path) => device.flush().map_err(CliError::io("write", path)).map(|()| None),
            Self::File(file, path) => {
                let cannot = || CliError::io("write", &path);
                let file = file.into_inner().map_err(|error| cannot()(error.into_error()))?;
                file.as_file().sync_all().map_err(cannot())?;
                file.persist(&path).map_err(|error| cannot()(error.error))?;
                Ok(Some(path))
            }
        }
    }
}
