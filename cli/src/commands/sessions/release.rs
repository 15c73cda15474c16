//! `longhand sessions release`: asks whoever holds a session to let go of it.

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::handoff;
use crate::output;
use crate::resolve::resolve;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// Wait so many seconds for the holder, who ends a running turn first
    #[arg(long, value_name = "SECS", default_value_t = handoff::TAKE_OVER_LIMIT.as_secs())]
    wait: u64,
}

pub(super) async fn run(app: &App, args: ReleaseArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
    handoff::release(store.as_ref(), id, Duration::from_secs(args.wait)).await?;
    output::stderr(&format!("nobody holds {id}; go on with `longhand -r {id}`\n"));
    Ok(Exit::Done)
}
