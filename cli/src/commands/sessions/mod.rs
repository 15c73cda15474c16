//! `longhand sessions ...`: what is stored.

use crate::app::App;
use crate::error::{CliError, Exit};

#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    pub(crate) command: SessionsCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum SessionsCommand {
    /// All sessions, newest first
    List {
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(app: &App, args: SessionsArgs) -> Result<Exit, CliError> {
    let _ = (app, args);
    Err(CliError::failed("not built yet"))
}
