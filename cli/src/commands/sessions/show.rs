//! `longhand sessions show`: a session's messages, for people or for programs.

use super::{JsonArray, json, tell_problems};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::handoff;
use crate::output::Stdout;
use crate::resolve::resolve;
use crate::safe_text::safe_line;
use crate::transcript::{Item, JsonMessage, Painter, Transcript, clock};
use serde::Serialize;
use session_store::{Holder, Loaded, Problem, ProblemKind, Seq, SessionId, SessionStore, State, Timestamp, Todo, Usage};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --json, an object: `id`; `meta` with `name`, `title`, `cwd`, `model`, `created_at`, `updated_at`, `messages`, `state` (`open`, `idle` or `damaged`), `parent` (`id` and `at_seq`, \
or null), `usage` (`input_tokens`, `output_tokens` and others where a provider told them), `todos` (`content`, `status`), `last_turn` (how it ended) and `problems` (as of `sessions verify`); and \
`messages`, an array in order: `seq` (what `--at` takes), `at`, `role` (`system`, `user`, `assistant` or `tool`), `text`, `tool_calls` (`id`, `name`, `arguments`), `tool_call_id` (of a \
tool's message: the call that it answers) and `partial` (true where the text was cut, or is still coming; the partial output of a tool is the end of what it put out).")]
pub(crate) struct ShowArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: &App, args: ShowArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
    let loaded = store.load(id).await?;
    match args.json {
        true => print_json(store.as_ref(), id, &loaded).await?,
        false => print_text(Painter::new(app.colors_stdout()), store.as_ref(), id, &loaded).await?,
    }
    tell_problems(id, &loaded.problems);
    Ok(Exit::Done)
}

/// Reads a session to its end and gives each item of its transcript to `show`.
pub(super) async fn each_item(
    store: &dyn SessionStore,
    id: SessionId,
    live: bool,
    mut show: impl AsyncFnMut(&Item) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut transcript = Transcript::default();
    let mut entries = store.read(id, 0).await?;
    while let Some(entry) = entries.next().await? {
        for item in transcript.push(&entry) {
            show(&item).await?;
        }
    }
    for item in transcript.finish(live) {
        show(&item).await?;
    }
    Ok(())
}

/// Whether somebody writes the session, as far as can be told.
pub(super) fn is_open(holder: &Holder) -> bool {
    !matches!(holder, Holder::Nobody)
}

fn head(painter: Painter, id: SessionId, loaded: &Loaded) -> String {
    let state = &loaded.state;
    let title = state.name.as_deref().or(state.title.as_deref()).unwrap_or("Untitled session");
    let open = match &loaded.holder {
        Holder::Alive(owner) => format!("; open for writing by {} since {}", handoff::words(owner), owner.since),
        Holder::Unknown(owner) => format!("; perhaps open for writing by {} since {}", handoff::words(owner), owner.since),
        _ => String::new(),
    };
    let cwd = state.cwd.as_ref().map(|cwd| format!("; in {cwd}")).unwrap_or_default();
    let since = state.created_at.map(|at| format!("; since {} UTC", clock(at))).unwrap_or_default();
    let parent = state.parent.map(|(parent, at)| format!("; forked from {parent} at {at}")).unwrap_or_default();
    format!("{}\n{}\n\n", painter.bold(&safe_line(title)), painter.dim(&safe_line(&format!("{id}{since}{cwd}{parent}{open}"))))
}

/// What `--json` says of the session besides its messages.
#[derive(Serialize)]
struct Meta<'a> {
    name: Option<&'a str>,
    title: Option<&'a str>,
    cwd: Option<&'a str>,
    model: Option<&'a str>,
    created_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
    messages: u64,
    /// `open`, `idle` or `damaged`, as in the list.
    state: &'static str,
    parent: Option<Parent>,
    usage: Usage,
    todos: &'a [Todo],
    /// How the last turn ended; null where none did.
    last_turn: Option<&'a str>,
    problems: &'a [Problem],
}

#[derive(Serialize)]
struct Parent {
    id: SessionId,
    at_seq: Seq,
}

impl<'a> Meta<'a> {
    fn new(loaded: &'a Loaded) -> Self {
        let state: &State = &loaded.state;
        Self {
            name: state.name.as_deref(),
            title: state.title.as_deref(),
            cwd: state.cwd.as_deref(),
            model: state.profile.as_ref().map(|profile| profile.model.as_str()),
            created_at: state.created_at,
            updated_at: state.updated_at,
            messages: state.messages,
            state: if loaded.problems.iter().any(|problem| problem.kind == ProblemKind::Empty) {
                "damaged"
            } else if is_open(&loaded.holder) {
                "open"
            } else {
                "idle"
            },
            parent: state.parent.map(|(id, at_seq)| Parent { id, at_seq }),
            usage: state.usage,
            todos: &state.todos,
            last_turn: state.last_turn.as_ref().map(|turn| turn.reason.as_str()),
            problems: &loaded.problems,
        }
    }
}

async fn print_text(mut painter: Painter, store: &dyn SessionStore, id: SessionId, loaded: &Loaded) -> Result<(), CliError> {
    let mut out = Stdout::new();
    out.raw(head(painter, id, loaded).as_bytes())?;
    each_item(store, id, is_open(&loaded.holder), async |item| out.raw(painter.item(item).as_bytes())).await?;
    out.flush()
}

/// One object, its messages printed while they are read, each on a line.
async fn print_json(store: &dyn SessionStore, id: SessionId, loaded: &Loaded) -> Result<(), CliError> {
    let mut out = Stdout::new();
    out.raw(b"{\"id\":")?;
    out.raw(&json(&id)?)?;
    out.raw(b",\"meta\":")?;
    out.raw(&json(&Meta::new(loaded))?)?;
    out.raw(b",\"messages\":")?;
    let mut messages = JsonArray::begin(out)?;
    let read = each_item(store, id, is_open(&loaded.holder), async |item| match JsonMessage::from_item(item) {
        Some(message) => messages.push(&message),
        None => Ok(()),
    });
    // A log that breaks off in the middle still gives a whole object; then the failure is told.
    let read = read.await;
    messages.end("}\n")?;
    read
}
