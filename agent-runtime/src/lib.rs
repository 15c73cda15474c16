//! An agent loop whose sessions are written down, stop within 50 ms and can be replayed.

mod clocks;
mod interrupt;
mod model;
pub mod providers;
mod retry;
mod tool;

pub use clocks::Clocks;
pub use interrupt::{INTERRUPT_POLL, Interrupt};
pub use model::{
    Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentResult,
};
pub use retry::{Retry, RetryDecision, RetryPolicy};
pub use session_store;
pub use tool::{Approval, ApprovalRequest, Approver, Tool, ToolContext, ToolError, ToolOutput};
