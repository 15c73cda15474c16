//! A stored session as a regression test: your program is run over what was recorded, without a model and without running a tool, and
//! the first request that would be another one is shown.
//!
//! `cargo run -p longhand-examples --bin regression -- record HOME` records a session; `... -- check HOME` holds the program to all
//! that are recorded there. Change `SYSTEM`, the tool's description or the words of a check, and see. `examples/recorded` is such a home.

use agent_runtime::rerun::{Present, rerun};
use agent_runtime::session_store::{FileStore, FileStoreOptions, SessionStore, ToolSpec};
use agent_runtime::{ModelTable, OfflineModel, PermissionMode, Runtime, Setup, Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

const SYSTEM: &str = "You roll dice, and say what came.";

/// No second run would give the same: what counts is what was recorded.
struct Dice;

#[async_trait]
impl Tool for Dice {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "dice".to_owned(),
            description: "Rolls a die.".to_owned(),
            parameters: json!({"type": "object", "properties": {}, "additionalProperties": false}),
        }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _arguments: &Value) -> String {
        "roll a die".to_owned()
    }

    async fn run(&self, _arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        // No generator of random numbers is needed for an example.
        let rolled = context.session.to_string().bytes().map(u32::from).sum::<u32>() % 6 + 1;
        Ok(ToolOutput::text(rolled.to_string()))
    }
}

fn tools() -> Vec<Arc<dyn Tool>> {
    vec![Arc::new(Dice)]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (what, home) = (arguments.next(), arguments.next().ok_or("usage: regression record|check HOME")?);
    let store: Arc<dyn SessionStore> = Arc::new(FileStore::open(FileStoreOptions::new(home))?);
    match what.as_deref() {
        Some("record") => record(store).await,
        Some("check") => check(store).await,
        _ => Err("usage: regression record|check HOME".into()),
    }
}

async fn record(store: Arc<dyn SessionStore>) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::new(store);
    let mut setup = Setup::new(Arc::new(OfflineModel::with_word_delay(Duration::ZERO)), "/");
    setup.system = Some(SYSTEM.to_owned());
    setup.tools = tools();
    setup.permissions.mode = PermissionMode::Allow;
    let session = runtime.create(setup).await?;
    for message in ["offline: call dice {}", "offline: call dice {\"sides\": 20}", "what did I say first?"] {
        session.send(message).await?.outcome().await;
    }
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

async fn check(store: Arc<dyn SessionStore>) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    for session in store.list().await? {
        let mut present = Present::with_clients(ModelTable::built_in(), tools());
        present.system = Some(SYSTEM.to_owned());
        let again = rerun(Arc::clone(&store), session.id, present).await?;
        if let Some(difference) = again.difference {
            writeln!(out, "request {}: {:?}\n{}", difference.request, difference.causes, difference.diff)?;
            return Err(difference.what.into());
        }
        writeln!(out, "{}: {} requests, all the same", session.id, again.resent)?;
    }
    Ok(())
}
