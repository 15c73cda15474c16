//! The built-in tools: files, a search, a shell and the todo list.
//!
//! Promises: file work never blocks a thread of the runtime; every output is bounded, so that no file and no command can
//! fill the memory; a file is replaced whole or not at all; what is stopped is told at once, and what it leaves behind is
//! brought down by the [`Reaper`] before anything else with side effects starts.
//!
//! What they do not do: they do not ask, log, count or shorten (the loop does), they know nothing of secrets, and they are
//! no sandbox: `shell` can do what its user can do, which is why it is asked for.

mod arguments;
mod edit;
mod list;
mod path;
mod read;
mod reaper;
mod search;
mod shell;
mod todo;
mod write;

pub use arguments::check as check_arguments;
pub(crate) use arguments::{compiled, problems_of};
pub use edit::EditTool;
pub use list::ListTool;
pub use read::ReadTool;
pub use reaper::{Reaper, reaper};
pub use search::SearchTool;
pub use shell::ShellTool;
pub use todo::TodoTool;
pub use write::WriteTool;

use crate::interrupt::Interrupt;
use crate::tokens::floor_char_boundary;
use crate::tool::{Tool, ToolContext, ToolError};
use reaper::Busy;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// All built-in tools, sorted by name.
#[must_use]
pub fn builtin() -> Vec<Arc<dyn Tool>> {
    vec![
        Arc::new(EditTool),
        Arc::new(ListTool),
        Arc::new(ReadTool),
        Arc::new(SearchTool),
        Arc::new(ShellTool),
        Arc::new(TodoTool),
        Arc::new(WriteTool),
    ]
}

/// `text` in one line and safe to print: control characters, and those that turn the direction of writing or cannot be
/// seen, are written as escapes.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text argument `name`; empty where it is absent. Arguments were checked against the schema before.
fn text<'a>(arguments: &'a Value, name: &str) -> &'a str {
    arguments[name].as_str().unwrap_or_default()
}

/// The whole number `name`, or `default` where it is absent.
fn number(arguments: &Value, name: &str, default: usize) -> usize {
    arguments[name].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}

fn flag(arguments: &Value, name: &str) -> bool {
    arguments[name].as_bool().unwrap_or(false)
}

/// The error of a call to the file system, for the model.
fn failed(action: &str, path: &str, error: &io::Error) -> ToolError {
    ToolError(format!("cannot {action} `{path}`: {error}"))
}

/// A line's number in front of it, as `read` and `search` show it.
fn push_line(out: &mut String, number: u64, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{number:>6}\t{line}");
}

/// A line of a file as text, at most about `most` bytes of it: `kept` is its start, `length` its whole length in the file.
/// What is no UTF-8 is replaced.
fn clip(kept: &[u8], length: u64, most: usize) -> String {
    let text = String::from_utf8_lossy(kept.strip_suffix(b"\r").unwrap_or(kept));
    if length <= most as u64 {
        return text.into_owned();
    }
    format!("{} [... a line of {length} bytes]", &text[..floor_char_boundary(&text, most)])
}

/// Asked by long file work between its steps: whether anybody still waits for it.
struct Stop {
    interrupt: Interrupt,
    abandoned: Arc<AtomicBool>,
}

impl Stop {
    fn check(&self) -> Result<(), ToolError> {
        if self.interrupt.is_raised() || self.abandoned.load(Ordering::Relaxed) {
            return Err(ToolError("stopped before it was done".into()));
        }
        Ok(())
    }
}

/// Tells [`Stop`] when the tool's future is dropped, at an interrupt or at a time limit.
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs file work that changes nothing on a thread for blocking work.
async fn reading<T: Send + 'static>(
    context: &ToolContext,
    work: impl FnOnce(&Stop) -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    blocking(context, None, work).await
}

/// Runs file work that changes something. The [`Reaper`] knows of it until it is over, also where nobody waits any more.
async fn changing<T: Send + 'static>(
    context: &ToolContext,
    work: impl FnOnce(&Stop) -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    let busy = reaper().enter(context.session);
    blocking(context, Some(busy), work).await
}

async fn blocking<T: Send + 'static>(
    context: &ToolContext,
    busy: Option<Busy>,
    work: impl FnOnce(&Stop) -> Result<T, ToolError> + Send + 'static,
) -> Result<T, ToolError> {
    let abandoned = Arc::new(AtomicBool::new(false));
    let _abandon = AbandonOnDrop(Arc::clone(&abandoned));
    let stop = Stop { interrupt: context.interrupt.clone(), abandoned };
    let task = tokio::task::spawn_blocking(move || {
        let _busy = busy;
        stop.check()?;
        work(&stop)
    });
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ToolError("the runtime is shutting down".into())),
    }
}
