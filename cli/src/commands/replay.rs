//! `longhand replay ID`: a session as it happened.

use crate::app::App;
use crate::error::{CliError, Exit};

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The session: its id, its exact name or the start of its id
    pub(crate) id: String,
    /// So many times as fast as it happened
    #[arg(long, value_name = "X", conflicts_with = "instant")]
    pub(crate) speed: Option<f64>,
    /// All at once
    #[arg(long)]
    pub(crate) instant: bool,
    /// Only up to and with this event
    #[arg(long, value_name = "SEQ")]
    pub(crate) at: Option<u64>,
}

pub(crate) async fn run(app: &App, args: ReplayArgs) -> Result<Exit, CliError> {
    let _ = (app, args);
    Err(CliError::failed("not built yet"))
}
