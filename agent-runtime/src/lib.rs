//! An agent loop whose sessions are written down, stop within 50 ms and can be replayed.

mod clocks;
mod interrupt;
mod model;
mod offline;
mod scripted;
mod tool;
pub mod tools;

pub use clocks::Clocks;
pub use interrupt::{INTERRUPT_POLL, Interrupt};
pub use model::{Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentResult};
pub use offline::OfflineModel;
pub use scripted::{ScriptedAnswer, ScriptedModel};
pub use session_store;
pub use tool::{Approval, ApprovalRequest, Approver, Tool, ToolContext, ToolError, ToolOutput};
