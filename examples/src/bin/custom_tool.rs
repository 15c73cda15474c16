//! A tool of your own: what the model sees of it, whether it changes anything, and what it does.
//!
//! `cargo run -p longhand-examples --bin custom_tool` plays a script in place of a model, so that the tool is called for sure.

use agent_runtime::session_store::{Event, FileStore, FileStoreOptions, ToolSpec};
use agent_runtime::{Runtime, ScriptedAnswer, ScriptedModel, Setup, Tool, ToolContext, ToolError, ToolOutput, TurnEvent};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::StreamExt;

/// Rolls dice.
struct Dice;

#[async_trait]
impl Tool for Dice {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "dice".to_owned(),
            description: "Rolls `count` dice and gives their sum.".to_owned(),
            // The arguments are checked against this before the tool runs; what does not fit goes back to the model.
            parameters: json!({
                "type": "object",
                "properties": {"count": {"type": "integer", "minimum": 1, "maximum": 100}},
                "required": ["count"],
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("roll {} dice", arguments["count"])
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let count = arguments["count"].as_u64().ok_or_else(|| ToolError("`count` is missing".to_owned()))?;
        // The call's id is unique in the session and stable over a resume: the same call rolls the same dice.
        let seed: u64 = context.call.bytes().map(u64::from).sum();
        let mut sum = 0;
        for die in 0..count {
            let eyes = 1 + (seed + die * 7) % 6;
            // Whoever watches sees each die as it falls, and so does the log; the model sees the result alone.
            context.output.write(format!("a {eyes}\n"));
            sum += eyes;
        }
        Ok(ToolOutput::text(sum.to_string()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let home = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("longhand-dice"), Into::into);
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(home))?));
    let model = ScriptedModel::new([
        ScriptedAnswer::new().text("I roll. ").tool_call("dice", r#"{"count": 3}"#),
        ScriptedAnswer::new().text("There you are."),
    ]);
    let mut setup = Setup::new(Arc::new(model), std::env::current_dir()?);
    setup.tools = vec![Arc::new(Dice)];

    let session = runtime.create(setup).await?;
    let mut turn = session.send("Roll three dice.").await?;
    let mut out = std::io::stdout();
    while let Some(event) = turn.next().await {
        match event {
            TurnEvent::Delta(delta) => write!(out, "{}", delta.text)?,
            TurnEvent::ToolDelta(delta) => write!(out, "{}", delta.text)?,
            TurnEvent::Entry(entry) => {
                if let Event::ToolFinished(finished) = &entry.event {
                    writeln!(out, "[{} gave {}]", finished.name, finished.output)?;
                }
            }
            _ => {}
        }
    }
    writeln!(out)?;
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
