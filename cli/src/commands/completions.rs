//! `longhand completions SHELL`: a completion script on standard output.

use crate::args::Args;
use crate::error::{CliError, Exit};
use crate::output::Stdout;
use clap::CommandFactory;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "longhand", &mut script);
    let mut out = Stdout::new();
    out.raw(&script)?;
    out.flush()?;
    Ok(Exit::Done)
}
