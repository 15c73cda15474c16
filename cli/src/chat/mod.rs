//! The interactive chat.
//!
//! ```text
//! keys, turn events, questions, signals, ticks --> driver --> ui (pure: state, lines, live area) --> screen (a thread) --> terminal
//!                                                    |  ^
//!                                          effects   v  |  what came of them
//!                                              session, store, shell, editor
//! ```
//!
//! Promises: the terminal's scrollback is the terminal's own: finished text is printed once, and only a few rows at the bottom are redrawn. Typing works
//! whatever the model does. Nothing runs while nothing happens: ticks come only while something works. The first prompt waits for no session, no HTTP client and no file: a
//! session is created by its first message.

mod approval;
mod attached;
mod commands;
mod complete;
mod driver;
mod editor;
mod external_editor;
mod feed;
mod find;
mod history;
mod keys;
mod live_area;
mod markdown;
mod picker;
mod rewind;
mod screen;
mod seam;
mod shell;
mod slash;
mod styled;
mod ui;

use self::attached::Attached;
use self::driver::Chat;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output;
use crate::setup::Plan;
use crate::signals::Signals;

/// Chats in this terminal until the person leaves.
///
/// # Errors
/// The terminal cannot be used, or the session that was asked for not be opened. What could not be made durable at the end is told, and is in the exit.
pub(crate) async fn run(app: &App, plan: Plan) -> Result<Exit, CliError> {
    let signals = Signals::catch()?;
    let images = plan.images().await?.into_iter().zip(plan.image_files());
    let images = images.map(|(image, path)| Attached::new(path, image)).collect();
    let mut chat = Chat::new(app, &plan, images, signals)?;
    let exit = chat.run().await;
    let left = chat.leave().await;
    let kept = plan.shutdown().await;
    if let Some(words) = left {
        output::stderr(&words);
    }
    match (exit, kept) {
        (exit, Ok(())) => exit,
        // Both are told: the one says why the chat ended, the other what it could not keep.
        (exit, Err(error)) => Ok(exit.unwrap_or_else(|why| why.tell()).or(error.tell())),
    }
}
