//! An agent loop whose sessions are written down, stop within 50 ms and can be replayed.

mod clocks;
mod interrupt;
mod model;
mod permissions;
mod runtime;
mod secrets;
mod session;
mod tool;
mod turn;

pub use clocks::Clocks;
pub use interrupt::{INTERRUPT_POLL, Interrupt};
pub use model::{Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentResult};
pub use permissions::{PermissionMode, Permissions};
pub use runtime::{Runtime, Setup};
pub use secrets::Secrets;
pub use session::{SendError, Session};
pub use session_store;
pub use tool::{Approval, ApprovalRequest, Approver, Tool, ToolContext, ToolError, ToolOutput};
pub use turn::{Delta, DeltaKind, Denial, EndReason, Turn, TurnError, TurnEvent, TurnOutcome};
