//! An agent loop whose sessions are written down, stop within 50 ms and can be replayed.

mod agent_loop;
mod answer;
mod clocks;
mod context;
mod interrupt;
mod live;
mod model;
mod permissions;
mod projection;
mod retry;
mod runtime;
mod secrets;
mod session;
mod todos;
mod tokens;
mod tool;
mod tool_calls;
pub mod tools;
mod turn;

pub use clocks::Clocks;
pub use context::TokenCounter;
pub use interrupt::{INTERRUPT_POLL, Interrupt};
pub use model::{Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentResult};
pub use permissions::{PermissionMode, Permissions};
pub use projection::{PROJECTION_VERSION, project};
pub use retry::{Retry, RetryDecision, RetryPolicy};
pub use runtime::{Runtime, Setup};
pub use secrets::Secrets;
pub use session::{SendError, Session};
pub use session_store;
pub use todos::TodoCache;
pub use tokens::count_tokens;
pub use tool::{Approval, ApprovalRequest, Approver, Tool, ToolContext, ToolError, ToolOutput};
pub use turn::{Delta, DeltaKind, Denial, EndReason, Turn, TurnError, TurnEvent, TurnOutcome};
