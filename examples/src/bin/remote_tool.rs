//! A tool that lives in another process, and how it is asked there: in JSON lines.
//!
//! ```text
//!   this process                                     the other one, for as long as the call takes
//!     {"key": "...", "arguments": {"steps": 3}}  -->
//!                                                <--  {"output": "step 1 of 3\n"}     as often as there is something to show
//!                                                <--  {"result": "..."}               or {"error": "..."}
//! ```
//!
//! The runtime drops the future of a call that is interrupted or out of time: the other process is killed then, and what it had put out
//! is in the result. A server elsewhere would be told to stop, and given the key, so that it does nothing twice.
//!
//! `cargo run -p longhand-examples --bin remote_tool` is both processes, and plays a script in place of a model.

use agent_runtime::session_store::{Event, FileStore, FileStoreOptions, ToolSpec};
use agent_runtime::{
    PermissionMode, Runtime, ScriptedAnswer, ScriptedModel, Setup, Tool, ToolContext, ToolError, ToolOutput, TurnEvent,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio_stream::StreamExt;

/// What the other process may say altogether, in bytes: it must not fill the memory of this one.
const SAID_MAX: u64 = 16 << 20;

/// What the other process says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Output(String),
    Result(String),
    Error(String),
}

/// Takes steps in another process.
struct Steps {
    program: PathBuf,
}

#[async_trait]
impl Tool for Steps {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "steps".to_owned(),
            description: "Takes `steps` steps, a tenth of a second each.".to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {"steps": {"type": "integer", "minimum": 1}},
                "required": ["steps"],
                "additionalProperties": false
            }),
        }
    }

    /// So a call runs alone, and is in the log before it begins.
    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("take {} steps", arguments["steps"])
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let failed = |error: std::io::Error| ToolError(format!("the tool's process cannot be asked: {error}"));
        let mut process = Command::new(&self.program)
            .arg("steps")
            .env_clear()
            .envs(context.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&context.cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(mut ask), Some(said)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(ToolError("the tool's process has no pipes".to_owned()));
        };
        let request = json!({"key": context.idempotency_key(), "arguments": arguments});
        ask.write_all(format!("{request}\n").as_bytes()).await.map_err(failed)?;
        let mut lines = BufReader::new(said.take(SAID_MAX)).lines();
        while let Some(line) = lines.next_line().await.map_err(failed)? {
            match serde_json::from_str(&line) {
                Ok(Said::Output(text)) => context.output.write(text),
                Ok(Said::Result(text)) => return Ok(ToolOutput::text(text)),
                Ok(Said::Error(text)) => return Err(ToolError(text)),
                Err(error) => return Err(ToolError(format!("the tool's process said what is no message: {error}"))),
            }
        }
        Err(ToolError("the tool's process ended without a result".to_owned()))
    }
}

/// The other process.
#[expect(clippy::disallowed_methods, reason = "it has nothing else to do, and is killed where nobody waits for it")]
fn steps() -> Result<(), Box<dyn std::error::Error>> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let request: Value = serde_json::from_str(&line)?;
    let steps = request["arguments"]["steps"].as_u64().unwrap_or(0);
    let mut out = std::io::stdout();
    let mut say = |said: &Said| -> Result<(), Box<dyn std::error::Error>> {
        writeln!(out, "{}", serde_json::to_string(said)?)?;
        // Without this, nobody would see it before the end.
        Ok(out.flush()?)
    };
    say(&Said::Output(format!("process {}\n", std::process::id())))?;
    for step in 1..=steps {
        say(&Said::Output(format!("step {step} of {steps}\n")))?;
        std::thread::sleep(Duration::from_millis(100));
    }
    say(&Said::Result(format!("{steps} steps were taken")))
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let home = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("longhand-steps"), Into::into);
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(home))?));
    let model = ScriptedModel::new([
        ScriptedAnswer::new().text("A short walk.\n").tool_call("steps", r#"{"steps": 3}"#),
        ScriptedAnswer::new().text("A long walk.\n").tool_call("steps", r#"{"steps": 1000}"#),
        ScriptedAnswer::new().text("It was too long.\n"),
    ]);
    let mut setup = Setup::new(Arc::new(model), std::env::current_dir()?);
    setup.tools = vec![Arc::new(Steps { program: std::env::current_exe()? })];
    setup.permissions.mode = PermissionMode::Allow;

    let session = runtime.create(setup).await?;
    let mut turn = session.send("Take a walk.").await?;
    let mut out = std::io::stdout();
    while let Some(event) = turn.next().await {
        match event {
            TurnEvent::Delta(delta) => write!(out, "{}", delta.text)?,
            TurnEvent::ToolDelta(delta) => write!(out, "{}", delta.text)?,
            TurnEvent::Entry(entry) => {
                if let Event::ToolFinished(finished) = &entry.event {
                    writeln!(out, "[{:?}: {}]", finished.outcome, finished.output)?;
                }
            }
            _ => {}
        }
    }
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some("steps") {
        return steps();
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}
