//! An agent loop whose sessions are written down, stop within 50 ms and can be replayed.
//!
//! A [`Runtime`] runs [`Session`]s over a [`session_store::SessionStore`]. Sending a message starts a [`Turn`]: a task that owns the
//! session, asks a [`Model`], runs [`Tool`]s, and logs everything as it happens. The `Turn` itself is a cursor, to be read at any pace or dropped.
//!
//! ```
//! use agent_runtime::session_store::{FileStore, FileStoreOptions};
//! use agent_runtime::{OfflineModel, Runtime, Setup, tools};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! # async fn example(home: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(home))?));
//! let mut setup = Setup::new(Arc::new(OfflineModel::new()), home);
//! setup.tools = tools::builtin();
//!
//! let session = runtime.create(setup).await?;
//! let outcome = session.send("What is in this folder?").await?.outcome().await;
//! assert_eq!(outcome.reason.as_str(), "done");
//!
//! runtime.shutdown(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! # let home = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(example(home.path())).unwrap();
//! ```
//!
//! Nothing in here reads the environment, the home or the working directory: all of it is passed in by [`Setup`].

mod agent_loop;
mod answer;
mod answered;
mod breaker;
mod clocks;
mod context;
mod images;
mod interrupt;
mod live;
mod model;
mod models;
mod offline;
mod output_schema;
mod output_sink;
mod permissions;
mod pins;
mod projection;
pub mod providers;
mod queue;
mod refused_images;
mod request;
pub mod rerun;
mod retry;
mod rewind;
mod runtime;
mod scripted;
mod secrets;
mod session;
mod spent;
mod summary;
mod todos;
mod tokens;
mod tool;
mod tool_calls;
pub mod tools;
mod turn;

pub use breaker::{BreakerPolicy, BreakerState, BreakerStatus};
pub use clocks::Clocks;
pub use context::TokenCounter;
pub use images::{Base64, Image, Images};
pub use interrupt::{INTERRUPT_POLL, Interrupt};
pub use model::{
    BODY_END, Body, Conversation, Cure, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent, SentImage,
    SentPart, SentResult, whole_body,
};
pub use models::{BadModels, LongPrice, ModelFacts, ModelTable, Price};
pub use offline::OfflineModel;
pub use output_schema::check_output_schema;
pub use output_sink::OutputSink;
pub use permissions::{PermissionMode, Permissions};
pub use pins::PinError;
pub use projection::{PROJECTION_VERSION, project};
pub use queue::QUEUED_MAX;
pub use request::{Request, RequestBuilder};
pub use retry::{Retry, RetryDecision, RetryPolicy};
pub use rewind::RewindError;
pub use runtime::{Answer, Runtime, Setup};
pub use scripted::{ScriptedAnswer, ScriptedModel};
pub use secrets::Secrets;
pub use session::{Compacted, SendError, Session, UserInput, check_images};
pub use session_store;
pub use session_store::{IMAGE_BYTES_MAX, IMAGE_SIDE_MAX, ImageError, MESSAGE_IMAGE_BYTES_MAX, MESSAGE_IMAGES_MAX};
pub use spent::{SpendingLimit, Spent};
pub use todos::TodoCache;
pub use tokens::count_tokens;
pub use tool::{Approval, ApprovalRequest, Approver, Tool, ToolContext, ToolError, ToolOutput};
pub use turn::{Delta, DeltaKind, Denial, EndReason, ToolDelta, Turn, TurnError, TurnEvent, TurnOutcome};
