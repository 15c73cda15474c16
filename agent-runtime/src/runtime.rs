//! [`Runtime`]: sessions over a store.

use crate::clocks::Clocks;
use crate::model::Model;
use crate::permissions::Permissions;
use crate::secrets::Secrets;
use crate::session::Session;
use crate::tool::Tool;
use session_store::{SessionId, SessionStore, ShutdownError, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Runs sessions that are kept in one store. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    store: Arc<dyn SessionStore>,
}

/// All that a session needs and that its log does not hold.
#[derive(Clone)]
pub struct Setup {
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// The system prompt. Absent: a new session has none, a resumed one keeps its own.
    pub system: Option<String>,
    /// The tools. A resumed session whose tools have the same names and schemas keeps the bytes that its log has for them.
    pub tools: Vec<Arc<dyn Tool>>,
    /// The directory in which tools work, absolute.
    pub cwd: PathBuf,
    /// Other directories that tools may use without asking.
    pub add_dirs: Vec<PathBuf>,
    /// The environment that tools give to their child processes; credentials are taken out (see [`Secrets`]).
    pub env: Vec<(String, String)>,
    /// Who may run which tool.
    pub permissions: Permissions,
    /// How much the model may reason: `off`, `low`, `medium`, `high`. Absent: as before, or the model's default.
    pub effort: Option<String>,
    /// The most tokens of an answer. Absent: as before, or the model's default.
    pub max_output_tokens: Option<u64>,
    /// The most tokens of the context, answer included. Absent: the model's window.
    pub context_window: Option<u64>,
    /// The most model calls of a turn. Absent: no limit.
    pub max_model_calls: Option<u64>,
    /// The limits of each model call.
    pub clocks: Clocks,
    /// Values that must reach neither the log nor a model.
    pub secrets: Secrets,
}

impl Setup {
    /// A setup with `model` and `cwd`, and nothing else: no tools, no system prompt, default limits.
    pub fn new(model: Arc<dyn Model>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            model,
            system: None,
            tools: Vec::new(),
            cwd: cwd.into(),
            add_dirs: Vec::new(),
            env: Vec::new(),
            permissions: Permissions::default(),
            effort: None,
            max_output_tokens: None,
            context_window: None,
            max_model_calls: None,
            clocks: Clocks::default(),
            secrets: Secrets::default(),
        }
    }
}

impl Runtime {
    /// A runtime over `store`.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    /// Starts a new session.
    ///
    /// # Errors
    /// When the store cannot create it.
    pub async fn create(&self, setup: Setup) -> Result<Session, StoreError> {
        let _ = setup;
        unimplemented!()
    }

    /// Goes on with a session.
    ///
    /// # Errors
    /// [`StoreError::Held`] while it is open elsewhere, [`StoreError::NotFound`], or why the store failed.
    pub async fn resume(&self, id: SessionId, setup: Setup) -> Result<Session, StoreError> {
        let _ = (id, setup);
        unimplemented!()
    }

    /// Goes on with a copy of a session, up to the event `at` (completed to a whole step; absent: all of it).
    ///
    /// # Errors
    /// As [`Runtime::resume`], though a session that is held can be forked.
    pub async fn fork(&self, parent: SessionId, at: Option<u64>, setup: Setup) -> Result<Session, StoreError> {
        let _ = (parent, at, setup);
        unimplemented!()
    }

    /// Interrupts every turn, waits for all of them and for processes that tools left, then shuts the store down; in `limit` at most.
    ///
    /// # Errors
    /// What was not durable by then.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), ShutdownError> {
        self.store.shutdown(limit).await
    }
}
