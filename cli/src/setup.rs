//! From what was typed to what runs: [`Plan`].
//!
//! What was typed, the environment and the stored session together say which model answers, with which system prompt, tools,
//! permissions and limits, in which session. A plan is made without touching the disk (but for `-c` and `-r ID`, which have to
//! look a session up) and without building an HTTP client; a session is created or opened by [`Plan::open`].

use crate::app::App;
use crate::args::RunArgs;
use crate::error::CliError;
use agent_runtime::session_store::SessionId;
use agent_runtime::{Approver, Model, Runtime, Session};
use std::path::Path;
use std::sync::Arc;

/// Which session a run goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionChoice {
    /// A new one.
    New,
    /// This one.
    Resume(SessionId),
    /// A copy of this one, up to and with the event `at` (absent: all of it).
    Fork {
        /// The session that is copied.
        parent: SessionId,
        /// The last event that is copied.
        at: Option<u64>,
    },
    /// One that the person picks from a list; with `fork`, a copy of it.
    Pick {
        /// Whether to go on in a copy.
        fork: bool,
    },
}

/// A run, ready to start.
pub(crate) struct Plan {
    /// The first message.
    pub(crate) prompt: Option<String>,
    /// The session.
    pub(crate) choice: SessionChoice,
    runtime: Runtime,
}

impl Plan {
    /// Makes sense of what was typed.
    ///
    /// # Errors
    /// Wrong usage; a model without a key; a session that is not there.
    pub(crate) async fn new(app: &App, typed: RunArgs) -> Result<Self, CliError> {
        let runtime = Runtime::new(app.store()?);
        Ok(Self { prompt: typed.prompt, choice: SessionChoice::New, runtime })
    }

    /// The runtime, over the store of the home (or, with `--no-session`, over one that is removed with this plan).
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The directory in which tools work, absolute.
    pub(crate) fn cwd(&self) -> &Path {
        unimplemented!()
    }

    /// The model that answers in a new session, as `provider/name`.
    pub(crate) fn model_name(&self) -> &str {
        unimplemented!()
    }

    /// Whether the offline model answers because there is no key, though nobody asked for it.
    pub(crate) fn is_offline_by_default(&self) -> bool {
        unimplemented!()
    }

    /// Starts to build the HTTP client, on a thread of its own. Returns at once; nothing happens where none is needed.
    pub(crate) fn warm(&self) {
        unimplemented!()
    }

    /// The model `name` (`provider/name`), for `/model`.
    ///
    /// # Errors
    /// An unknown provider, or no key.
    pub(crate) fn model(&self, name: &str) -> Result<Arc<dyn Model>, CliError> {
        let _ = name;
        unimplemented!()
    }

    /// Creates, opens or copies the session of `choice`, which must not be [`SessionChoice::Pick`]. `approver` is asked where
    /// the mode is `ask`.
    ///
    /// # Errors
    /// The store's; a stored session whose model has no key.
    pub(crate) async fn open(&self, choice: SessionChoice, approver: Option<Arc<dyn Approver>>) -> Result<Session, CliError> {
        let _ = (choice, approver);
        unimplemented!()
    }
}
