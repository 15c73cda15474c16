//! An embedded session in about ten lines: start it, say something, read the answer as it comes.
//!
//! `cargo run -p longhand-examples --bin embed` keeps its session in a temporary folder; pass a folder to keep it there.

use agent_runtime::session_store::{FileStore, FileStoreOptions};
use agent_runtime::{OfflineModel, Runtime, Setup, TurnEvent, tools};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let home = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("longhand-embed"), Into::into);
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(home))?));
    let mut setup = Setup::new(Arc::new(OfflineModel::new()), std::env::current_dir()?);
    setup.tools = tools::builtin();

    let session = runtime.create(setup).await?;
    let mut turn = session.send("What is in this folder?").await?;
    while let Some(event) = turn.next().await {
        if let TurnEvent::Delta(delta) = event {
            write!(std::io::stdout(), "{}", delta.text)?;
        }
    }
    writeln!(std::io::stdout(), "\n[{} in session {}]", turn.outcome().await.reason.as_str(), session.id())?;
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
