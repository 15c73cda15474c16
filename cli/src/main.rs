//! The `longhand` program: chat with agents whose sessions cannot be lost.
//!
//! Here is no logic that an embedder would want: what was typed becomes a call of `agent_runtime`, and what comes back is printed.
//! One road in, one road out: every command gives an [`Exit`] or a [`CliError`], and only this file turns them into an
//! exit code. Help, version and completions are answered before anything else is built.

mod app;
mod args;
mod chat;
mod commands;
mod error;
mod export;
mod handoff;
mod images;
mod instructions;
mod learned;
mod local_time;
mod models;
mod output;
mod print;
mod progress;
mod quota;
mod raw_lines;
mod resolve;
mod safe_text;
mod setup;
mod signals;
mod stdin;
mod table;
mod transcript;
mod units;

use crate::app::App;
use crate::args::{Args, Command};
use crate::error::{CliError, Exit};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let exit = match Args::typed() {
        Ok(Some(args)) => dispatch(args).unwrap_or_else(|error| error.tell()),
        Ok(None) => Exit::Done,
        Err(error) => error.tell(),
    };
    output::finish_stderr(Duration::from_secs(1));
    signals::raise_again(exit);
    ExitCode::from(exit.code())
}

fn dispatch(args: Args) -> Result<Exit, CliError> {
    let app = || App::new(&args.globals);
    match args.command {
        Some(Command::Completions(args)) => commands::completions::run(&args),
        Some(Command::Doctor(args)) => commands::doctor::run(&app()?, &args),
        Some(Command::Models(args)) => commands::models::run(&app()?, &args),
        Some(Command::Usage(args)) => {
            let app = app()?;
            app.block_on(commands::usage::run(&app, args))?
        }
        Some(Command::Sessions(args)) => {
            let app = app()?;
            app.block_on(commands::sessions::run(&app, args))?
        }
        Some(Command::Batch(args)) => {
            let app = app()?;
            app.block_on(commands::batch::run(&app, *args))?
        }
        Some(Command::Replay(args)) => {
            let app = app()?;
            app.block_on(commands::replay::run(&app, args))?
        }
        None => {
            let app = app()?;
            app.block_on(async {
                if print::is_asked_for(&args.run) {
                    return print::run(&app, args.run).await;
                }
                chat::run(&app, setup::Plan::new(&app, args.run, setup::Manner::Chat).await?).await
            })?
        }
    }
}
