//! `longhand sessions rm`: for good, so it asks. A session that is open for writing is refused.

use super::{ask, can_ask};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output;
use crate::resolve::resolve;
use crate::transcript::count_words;
use session_store::{SessionId, SessionStore};

#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// The sessions: their ids, exact names or the starts of their ids
    #[arg(required = true)]
    ids: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn run(app: &App, args: RmArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let mut ids = Vec::new();
    for text in &args.ids {
        let id = resolve(store.as_ref(), text).await?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if !args.yes && !is_wanted(store.as_ref(), &ids).await? {
        return Err(CliError::failed("nothing was removed"));
    }
    for id in &ids {
        store.remove(*id).await?;
        output::stderr(&format!("removed {id}\n"));
    }
    Ok(Exit::Done)
}

/// Asks on the terminal.
async fn is_wanted(store: &dyn SessionStore, ids: &[SessionId]) -> Result<bool, CliError> {
    if !can_ask() {
        return Err(CliError::usage("nobody can be asked whether to remove it").hint("say so with `--yes`"));
    }
    for id in ids {
        let what = match store.load(*id).await {
            Ok(loaded) => {
                let title = loaded.state.name.or(loaded.state.title).unwrap_or_else(|| "(untitled)".to_owned());
                format!("{title}, {}", count_words(loaded.state.messages, "message"))
            }
            Err(error) => error.to_string(),
        };
        output::stderr(&format!("{id}  {what}\n"));
    }
    Ok(ask(&format!("Remove {} for good?", count_words(ids.len() as u64, "session"))).await)
}
