//! What it costs to run a stored session again: 10,000 steps, each a request with an answer, a tool call and its result, beside reading their
//! log with `serde_json` alone.
//!
//! `cargo bench -p longhand-agent-runtime --bench rerun`. The session is recorded first, by the loop itself.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use agent_runtime::rerun::{Present, rerun};
use agent_runtime::session_store::{Block, FileStore, FileStoreOptions, Origin, SessionStore, StopReason, ToolCall, ToolSpec};
use agent_runtime::{
    Body, Clocks, Conversation, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, PermissionMode, Runtime,
    ScriptedModel, Sent, Setup, Tool, ToolContext, ToolError, ToolOutput,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const STEPS: usize = 10_000;
const STEPS_OF_A_TURN: usize = 100;
const RESULT_BYTES: usize = 400;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let store: Arc<dyn SessionStore> = Arc::new(FileStore::open(FileStoreOptions::new(folder.path()))?);
    let runtime = Runtime::new(Arc::clone(&store));
    let mut setup = Setup::new(Arc::new(Steps::new(Origin::default())), folder.path());
    setup.tools = vec![Arc::new(Look)];
    setup.permissions.mode = PermissionMode::Allow;
    let session = runtime.create(setup).await?;
    for turn in 0..STEPS / STEPS_OF_A_TURN {
        session.send(&format!("question {turn}")).await?.outcome().await;
    }
    session.close().await?;
    let log = std::fs::read_to_string(find(folder.path())?)?;
    println!("{STEPS} steps, a log of {:.1} MB", log.len() as f64 / 1e6);

    let (mut again, mut reference) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut present =
            Present::new(Arc::new(|origin: &Origin, _: &[String]| Some(Arc::new(Steps::new(origin.clone())) as Arc<dyn Model>)));
        present.tools = vec![Arc::new(Look)];
        let report = rerun(Arc::clone(&store), session.id(), present).await?;
        again.push(start.elapsed());
        assert!(report.is_same(), "{report:#?}");
        assert_eq!((report.rebuilt, report.resent), (STEPS as u64, STEPS as u64));
        let start = Instant::now();
        let lines = log.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
        reference.push(start.elapsed());
        assert!(lines > STEPS);
    }
    println!("run again: median {:?}, slowest {:?}", median(&mut again), again[ROUNDS - 1]);
    println!("serde_json alone: median {:?}", median(&mut reference));
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The only log below `folder`.
fn find(folder: &std::path::Path) -> Outcome<std::path::PathBuf> {
    let mut folders = vec![folder.join("sessions")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "jsonl") {
                return Ok(path);
            }
        }
    }
    Err("there is no log".into())
}

/// A model that calls a tool in each answer but the last of a turn, and takes all there is.
struct Steps {
    form: ScriptedModel,
    calls: AtomicUsize,
}

impl Steps {
    fn new(origin: Origin) -> Self {
        let limits = ModelLimits { context_window: 1 << 40, ..ModelLimits::default() };
        Self { form: ScriptedModel::new([]).with_origin(origin).with_limits(limits), calls: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Model for Steps {
    fn origin(&self) -> &Origin {
        self.form.origin()
    }

    fn limits(&self) -> ModelLimits {
        self.form.limits()
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        self.form.body(conversation)
    }

    fn head(&self, conversation: &Conversation) -> Option<Vec<u8>> {
        self.form.head(conversation)
    }

    fn messages(&self, messages: &[Sent]) -> Body {
        self.form.messages(messages)
    }

    async fn call(&self, _body: Body, _clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let text = "I look at the next one.".to_owned();
        let mut events = vec![ModelEvent::Text(text.clone()), ModelEvent::Block(Block::Text { text })];
        let stop = if call % STEPS_OF_A_TURN == STEPS_OF_A_TURN - 1 {
            StopReason::EndTurn
        } else {
            let (provider_id, name, arguments) = (format!("look_{call}"), "look".to_owned(), "{}".to_owned());
            events.push(ModelEvent::Block(Block::ToolCall(ToolCall { provider_id, name, arguments, ..ToolCall::default() })));
            StopReason::ToolUse
        };
        events.push(ModelEvent::Done { stop, opaque: None });
        Ok(Box::pin(tokio_stream::iter(events.into_iter().map(Ok))))
    }
}

struct Look;

#[async_trait]
impl Tool for Look {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: "look".to_owned(), description: "Looks.".to_owned(), parameters: json!({"type": "object"}) }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _arguments: &Value) -> String {
        "look".to_owned()
    }

    async fn run(&self, _arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        Ok(ToolOutput::text(format!("{:.<RESULT_BYTES$}", context.call)))
    }
}
