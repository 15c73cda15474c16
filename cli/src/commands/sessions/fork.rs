//! `longhand sessions fork`: a copy of a session's lines, to go on with. Works on a session that is held.

use super::{close, rename};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::progress::Progress;
use crate::resolve::resolve;
use agent_runtime::Runtime;
use session_store::{FileStore, OpenSession, Seq, SessionId, SessionStore, StoreError};
use std::io::{Seek, SeekFrom};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(crate) struct ForkArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// Copy up to and with this event, completed to a whole step [default: all of it]
    #[arg(long, value_name = "SEQ")]
    at: Option<Seq>,
    /// Copy what a writer wrote that had lost the session, with what came before it; a copy for each such writer
    #[arg(long, conflicts_with = "at")]
    stale: bool,
    /// Name the copy
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
}

/// With a bar for a large log.
async fn copy(store: &FileStore, parent: SessionId, at: Option<Seq>) -> Result<OpenSession, CliError> {
    let mut log = store.raw_log(parent).await?;
    let bytes = tokio::task::spawn_blocking(move || log.seek(SeekFrom::End(0)).unwrap_or(0)).await.unwrap_or(0);
    let progress = Arc::new(Progress::bytes("copying", bytes));
    let advance = {
        let progress = Arc::clone(&progress);
        Arc::new(move |bytes| progress.add(bytes))
    };
    Ok(store.fork_with(parent, at, advance).await?)
}

pub(super) async fn run(app: &App, args: ForkArgs) -> Result<Exit, CliError> {
    let name = args.name.as_deref().map(|name| rename::storable_name(app, name)).transpose()?;
    let store = app.file_store()?;
    let parent = resolve(store.as_ref(), &args.id).await?;
    let at = match args.at {
        Some(at) => Some(Runtime::new(Arc::clone(&store) as Arc<dyn SessionStore>).end_of_step(parent, at).await?),
        None => None,
    };
    let stale = if args.stale { store.stale_lines(parent).await?.into_iter().map(Some).collect() } else { vec![None] };
    if stale.is_empty() {
        return Err(StoreError::NothingStale(parent).into());
    }
    for (place, stale) in stale.into_iter().enumerate() {
        let fork = match stale {
            Some(lines) => store.fork_stale(parent, lines).await?,
            None => copy(&store, parent, at).await?,
        };
        let id = fork.log.id();
        if let Some(name) = &name {
            // Each has a name of its own.
            let name = if place == 0 { name.clone() } else { format!("{name} {}", place + 1) };
            rename::rename(&fork.log, &name)?;
        }
        close(store.as_ref(), fork.log.as_ref()).await?;
        let mut out = Stdout::new();
        out.raw(format!("{id}\n").as_bytes())?;
        out.flush()?;
        let part = match (at, stale) {
            (Some(at), _) => format!(" up to event {at}"),
            (None, Some(lines)) => format!(", as a stale writer went on with it from event {} to {}", lines.first, lines.last),
            (None, None) => String::new(),
        };
        output::stderr(&format!("forked from {parent}{part}; go on with `longhand -r {id}`\n"));
    }
    Ok(Exit::Done)
}
