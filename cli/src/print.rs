//! `longhand -p`: one turn, its answer on standard output.

use crate::app::App;
use crate::args::RunArgs;
use crate::error::{CliError, Exit};
use std::io::IsTerminal;

/// Whether one turn is printed: where it was asked for, or where there is no terminal to chat in.
pub(crate) fn is_asked_for(typed: &RunArgs) -> bool {
    typed.print || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal()
}

pub(crate) async fn run(app: &App, typed: RunArgs) -> Result<Exit, CliError> {
    let _ = (app, typed);
    Err(CliError::failed("not built yet"))
}
