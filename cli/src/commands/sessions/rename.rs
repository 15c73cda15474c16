//! `longhand sessions rename`.

use super::close;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output;
use crate::resolve::resolve;
use agent_runtime::Secrets;
use session_store::{AppendError, Seq, SessionId, SessionLog, SessionRenamed, SessionStore};
use std::sync::Arc;

/// The longest name, in characters.
const NAME_CHARS_MAX: usize = 200;

#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// The name; empty takes the name away
    name: String,
}

pub(super) async fn run(app: &App, args: RenameArgs) -> Result<Exit, CliError> {
    let name = storable_name(app, &args.name)?;
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
    let session = store.open(id).await?;
    rename(&session.log, &name)?;
    close(store.as_ref(), session.log.as_ref()).await?;
    output::stderr(&told(id, &name));
    Ok(Exit::Done)
}

/// Appends the new name.
pub(super) fn rename(log: &Arc<dyn SessionLog>, name: &str) -> Result<Seq, CliError> {
    let entry = log.append(SessionRenamed { name: name.to_owned() }.into());
    entry.map(|entry| entry.seq).map_err(|error: AppendError| CliError::new(Exit::Store, error.to_string()))
}

/// A name that can be typed and printed, with known secrets hidden.
pub(super) fn storable_name(app: &App, name: &str) -> Result<String, CliError> {
    Ok(Secrets::from_env(app.envs()).hide(checked_name(name)?.to_owned()))
}

/// A name that can be typed and printed.
pub(crate) fn checked_name(name: &str) -> Result<&str, CliError> {
    let name = name.trim();
    if name.chars().any(char::is_control) {
        return Err(CliError::usage("a name is one line of ordinary characters"));
    }
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(CliError::usage(format!("a name has {NAME_CHARS_MAX} characters at most")));
    }
    Ok(name)
}

fn told(id: SessionId, name: &str) -> String {
    if name.is_empty() { format!("{id} has no name any more\n") } else { format!("{id} is now `{name}`\n") }
}
