//! What a tool is to the loop. A call is prepared (arguments parsed and checked, approval), executed and finalised by the loop
//! (`agent_loop.rs`); a tool only runs.

use crate::images::Image;
use crate::interrupt::Interrupt;
use crate::output_sink::OutputSink;
use async_trait::async_trait;
use serde_json::Value;
use session_store::{SessionId, Todo, ToolSpec};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Something that a model can call.
///
/// It may do its work elsewhere, in another process or at a server: [`Tool::run`] then passes on the arguments and
/// [`ToolContext::idempotency_key`], tells the other side when its future is dropped, and gives its words back. What is asked of such a tool without a wait ([`Tool::spec`],
/// [`Tool::side_effects`], [`Tool::describe`], [`Tool::time_limit`]) has to be known by then.
#[async_trait]
pub trait Tool: Send + Sync + 'static {
    /// What the model sees. Must not change while a session is open.
    fn spec(&self) -> ToolSpec;

    /// Whether it can change anything outside the session. Calls without side effects run in parallel; a call with side effects runs alone, is durable as
    /// `tool.started` before it runs, and is never run again by itself.
    fn side_effects(&self) -> bool;

    /// Whether this call needs approval in the mode `ask`. By default, where it has side effects.
    fn needs_approval(&self, arguments: &Value, context: &ToolContext) -> bool {
        let _ = (arguments, context);
        self.side_effects()
    }

    /// The call in one line for a person, as in an approval prompt: `write src/main.rs (312 bytes)`.
    fn describe(&self, arguments: &Value) -> String;

    /// How long a call may take.
    fn time_limit(&self) -> Duration {
        Duration::from_secs(120)
    }

    /// Runs. The arguments fit the schema of [`Tool::spec`]. The future is dropped at an interrupt or at the time limit,
    /// unless the tool ends by itself within 20 ms of [`ToolContext::interrupt`]; a tool that starts processes leaves none behind.
    ///
    /// # Errors
    /// What the model is told.
    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError>;
}

/// Where a tool runs. All that it may know of its surroundings is in here.
#[derive(Clone, Debug)]
pub struct ToolContext {
    /// The session.
    pub session: SessionId,
    /// The call's id: unique in the session, and stable over a resume.
    pub call: String,
    /// The working directory, absolute.
    pub cwd: PathBuf,
    /// Other directories that may be read and written without asking.
    pub add_dirs: Vec<PathBuf>,
    /// The environment for child processes, without credentials.
    pub env: Arc<Vec<(String, String)>>,
    /// Raised when the turn is stopped.
    pub interrupt: Interrupt,
    /// The session's todo list at the call's start.
    pub todos: Arc<Vec<Todo>>,
    /// Takes output as it comes, for people who watch and for the log; a tool need not use it.
    pub output: OutputSink,
}

impl ToolContext {
    /// A name of this call that no other call of any session has, the same whenever the session is opened again. A tool that asks another service
    /// to do something passes it on, so that the service does it once, however often it is asked: when a connection broke, the answer to
    /// the first request is not known.
    #[must_use]
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.session, self.call)
    }
}

/// What a tool gives back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolOutput {
    /// What the model sees; shortened by the loop where it is too long, the whole kept beside the log.
    pub text: String,
    /// The new todo list, where the tool changed it.
    pub todos: Option<Vec<Todo>>,
    /// Images that the model sees with the text.
    pub images: Vec<Image>,
}

impl ToolOutput {
    /// An output of text alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// A tool call that failed; the model is told, and the turn goes on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ToolError(
    /// What the model is told.
    pub String,
);

/// Somebody who can be asked whether a tool may run.
#[async_trait]
pub trait Approver: Send + Sync + 'static {
    /// Whether it decides about every call, also about those that the tool itself would let pass ([`Tool::needs_approval`]).
    fn decides_all(&self) -> bool {
        false
    }

    /// Asks. The future is dropped when the turn is interrupted.
    async fn ask(&self, request: ApprovalRequest) -> Approval;
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalRequest {
    /// The call's id.
    pub call: String,
    /// The tool's name.
    pub tool: String,
    /// The arguments as the model wrote them.
    pub arguments: String,
    /// The call in one line: [`Tool::describe`].
    pub description: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Approval {
    /// It may run.
    Approve,
    /// It may run, and so may every later call of this tool in this session while it stays open.
    ApproveAlways,
    /// It may not run, for a reason that the model is told (may be empty).
    Deny(String),
    /// It may not run because a rule says so, and no person did.
    Forbid {
        /// Which rule, in a word, for the log.
        by: String,
        /// Why, for the model and the log, word by word.
        reason: String,
    },
}
