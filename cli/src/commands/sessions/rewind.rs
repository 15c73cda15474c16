//! `longhand sessions rewind`.

use super::close;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output;
use crate::resolve::resolve;
use agent_runtime::Runtime;
use session_store::{AppendError, ContextRestored, ContextRewound, Event, Seq, SessionStore, State};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(crate) struct RewindArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// The last event that stays, completed to a whole step: a `seq` of `sessions show`
    #[arg(long, value_name = "SEQ", required_unless_present = "undo", conflicts_with = "undo")]
    to: Option<Seq>,
    /// Undo the last rewind
    #[arg(long)]
    undo: bool,
}

pub(super) async fn run(app: &App, args: RewindArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
    let to = match args.to {
        Some(to) => Some(Runtime::new(Arc::clone(&store) as Arc<dyn SessionStore>).end_of_step(id, to).await?),
        None => None,
    };
    let session = store.open(id).await?;
    let change = match to {
        Some(to) => rewind(&session.state, to),
        None => undo(&session.state),
    };
    let told = change.and_then(|(event, told)| {
        let appended = session.log.append(event);
        appended.map_err(|error: AppendError| CliError::new(Exit::Store, error.to_string())).map(|_| told)
    });
    close(store.as_ref(), session.log.as_ref()).await?;
    output::stderr(&told?);
    Ok(Exit::Done)
}

fn rewind(state: &State, to: Seq) -> Result<(Event, String), CliError> {
    match state.messages_after(to) {
        0 => Err(CliError::failed(format!("no message of the conversation came after event {to}"))),
        count => {
            let told = format!("the conversation is back at event {to}: {count} messages left it; `--undo` brings them back\n");
            Ok((ContextRewound { to }.into(), told))
        }
    }
}

fn undo(state: &State) -> Result<(Event, String), CliError> {
    let last = state.undo_list().rfind(|change| change.rewound_to.is_some());
    let last = last.ok_or_else(|| CliError::failed("there is no rewind to undo"))?;
    let told = format!("{} messages are back in the conversation\n", last.messages);
    Ok((ContextRestored { undo: last.by }.into(), told))
}
