//! Reading a stored session: its messages through the same fold as everything else, without owning it.
//!
//! `cargo run -p longhand-examples --bin replay -- HOME [SESSION]`; without a session, the newest.

use agent_runtime::session_store::{Event, FileStore, FileStoreOptions, SessionStore, State};
use std::io::Write;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let home = arguments.next().ok_or("usage: replay HOME [SESSION]")?;
    let store = FileStore::open(FileStoreOptions::new(home))?;
    let id = match arguments.next() {
        Some(id) => id.parse()?,
        None => store.list().await?.first().ok_or("there is no session")?.id,
    };
    let mut out = std::io::stdout();
    let mut state = State::default();
    let mut reader = store.read(id, 0).await?;
    while let Some(entry) = reader.next().await? {
        state.apply(&entry);
        match &entry.event {
            Event::UserMessage(message) => writeln!(out, "{} > {}", entry.at, message.text)?,
            Event::AssistantMessage(message) => writeln!(out, "{} {}", entry.at, message.text())?,
            Event::ToolFinished(finished) => writeln!(out, "{} [{}: {:?}]", entry.at, finished.name, finished.outcome)?,
            _ => {}
        }
    }
    writeln!(out, "{} messages, {} in the context, {} todos", state.messages, state.context.len(), state.todos.len())?;
    Ok(())
}
