//! `longhand doctor`: what this machine gives longhand to work with.

use crate::app::App;
use crate::error::{CliError, Exit};

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(app: &App, args: &DoctorArgs) -> Result<Exit, CliError> {
    let _ = (app, args.json);
    Err(CliError::failed("not built yet"))
}
