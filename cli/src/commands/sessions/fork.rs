//! `longhand sessions fork`: a copy of a session's lines, to go on with. Works on a session that is held.

use super::{close, rename};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::resolve::resolve;
use session_store::{Entry, Event, Seq, SessionId, SessionStore, State, UserKind};

#[derive(Debug, clap::Args)]
pub(crate) struct ForkArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// Copy up to and with this event, completed to a whole step [default: all of it]
    #[arg(long, value_name = "SEQ")]
    at: Option<Seq>,
    /// Name the copy
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn run(app: &App, args: ForkArgs) -> Result<Exit, CliError> {
    let name = args.name.as_deref().map(rename::checked_name).transpose()?;
    let store = app.store()?;
    let parent = resolve(store.as_ref(), &args.id).await?;
    let at = match args.at {
        Some(at) => Some(end_of_step(store.as_ref(), parent, at).await?),
        None => None,
    };
    let fork = store.fork(parent, at).await?;
    let id = fork.log.id();
    if let Some(name) = name {
        rename::rename(&fork.log, name)?;
    }
    close(store.as_ref(), fork.log.as_ref()).await?;
    let mut out = Stdout::new();
    out.raw(format!("{id}\n").as_bytes())?;
    out.flush()?;
    let part = at.map(|at| format!(" up to event {at}")).unwrap_or_default();
    output::stderr(&format!("forked from {parent}{part}; go on with `longhand -r {id}`\n"));
    Ok(Exit::Done)
}

/// The last event of the step that `at` is in: an answer is copied whole, and with all its tools' results.
async fn end_of_step(store: &dyn SessionStore, id: SessionId, at: Seq) -> Result<Seq, CliError> {
    let mut entries = store.read(id, 0).await?;
    let mut state = State::default();
    let mut end = None;
    while let Some(entry) = entries.next().await? {
        if entry.seq > at && (is_whole(&state) || starts_another(&entry)) {
            break;
        }
        state.apply(&entry);
        end = Some(entry.seq);
    }
    match end {
        Some(end) if end >= at => Ok(end),
        Some(last) => Err(CliError::usage(format!("event {at} is not in the session, whose last event is {last}"))),
        None => Err(CliError::failed(format!("session `{id}` holds no readable event"))),
    }
}

fn is_whole(state: &State) -> bool {
    state.in_flight.is_none() && state.unresolved.is_empty()
}

/// Whether `entry` shows that the step before it was given up, whatever it lacks.
fn starts_another(entry: &Entry) -> bool {
    match &entry.event {
        Event::Opened(_) | Event::Closed(_) | Event::TurnEnded(_) => true,
        Event::UserMessage(user) => user.kind != UserKind::Steer,
        _ => false,
    }
}
