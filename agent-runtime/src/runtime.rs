//! [`Runtime`]: sessions over a store.

use crate::answered::{self, Answered};
use crate::breaker::{BreakerPolicy, BreakerStatus, Breakers};
use crate::clocks::Clocks;
use crate::model::Model;
use crate::permissions::Permissions;
use crate::request::Resting;
use crate::retry::RetryPolicy;
use crate::secrets::Secrets;
use crate::session::{SendError, Session, Shared, lock};
use crate::spent::SpendingLimit;
use crate::tool::Tool;
use crate::turn::TurnOutcome;
use futures_util::future::join_all;
use serde_json::Value;
use session_store::{
    ChildOpened, Clock, Entry, Event, NewSession, OpenSession, Origin, Seq, SessionId, SessionStore, ShutdownError, State,
    StoreError, SystemClock, UserKind,
};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Runs sessions that are kept in one store. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    store: Arc<dyn SessionStore>,
    /// The sessions that this runtime opened: it stops their turns at shutdown.
    sessions: Arc<Mutex<Vec<Weak<Shared>>>>,
    resting: Arc<Resting>,
    breakers: Breakers,
}

/// All that a session needs and that its log does not hold.
#[derive(Clone)]
pub struct Setup {
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// Who is asked where the one before cannot answer, in this order: after what another try did not cure, where a model or path does
    /// not exist, and where the breaker is open. Until the end of the turn; the next one begins with `model` again.
    pub fallbacks: Vec<Arc<dyn Model>>,
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
    /// Whether a model sums up what leaves the context window: asked in the background once three quarters of it are taken, so that the summary is there when a trim
    /// is due. Such calls count and cost like others; where one fails, messages leave without a summary.
    pub summarize: bool,
    /// The JSON Schema that the last answer of each turn has to fit ([`check_output_schema`](crate::check_output_schema)). One that does not is asked for once more; then the
    /// turn fails with [`TurnError::Misfit`](crate::TurnError::Misfit). Absent: answers are free, also in a session that had a schema.
    pub output_schema: Option<Value>,
    /// The most model calls of a turn. Absent: no limit.
    pub max_model_calls: Option<u64>,
    /// What the session and its children may use altogether. Absent: no limit but that of the session that it works for.
    pub spending: Option<SpendingLimit>,
    /// The session that this one works for, of the same store: what this one spends counts there as well, and it stops where that one's limit is reached. The log of the
    /// parent names its children ([`ChildOpened`]); who opens a child again gives its parent again.
    pub parent: Option<Session>,
    /// The limits of each model call.
    pub clocks: Clocks,
    /// When a failed call is tried again.
    pub retry: RetryPolicy,
    /// The wall clock, for waits that end at a time of day.
    pub clock: Arc<dyn Clock>,
    /// Values that must reach neither the log nor a model.
    pub secrets: Secrets,
}

/// The answer to a message that was sent with a key.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who answered, as `provider/name`.
    pub model: Option<String>,
    /// How the turn ended that answered it.
    pub outcome: TurnOutcome,
}

impl Setup {
    /// A setup with `model` and `cwd`, and nothing else: no tools, no system prompt, default limits.
    pub fn new(model: Arc<dyn Model>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            model,
            fallbacks: Vec::new(),
            system: None,
            tools: Vec::new(),
            cwd: cwd.into(),
            add_dirs: Vec::new(),
            env: Vec::new(),
            permissions: Permissions::default(),
            effort: None,
            max_output_tokens: None,
            context_window: None,
            summarize: false,
            output_schema: None,
            max_model_calls: None,
            spending: None,
            parent: None,
            clocks: Clocks::default(),
            retry: RetryPolicy::default(),
            clock: Arc::new(SystemClock),
            secrets: Secrets::default(),
        }
    }
}

impl Runtime {
    /// A runtime over `store`.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store, sessions: Arc::default(), resting: Arc::default(), breakers: Breakers::default() }
    }

    /// With other rules for when an endpoint is left alone. Sessions that are open keep the ones they have.
    #[must_use]
    pub fn with_breaker(mut self, policy: BreakerPolicy) -> Self {
        self.breakers = Breakers::new(policy);
        self
    }

    /// The endpoints whose last call failed, in any session of this runtime.
    #[must_use]
    pub fn breakers(&self) -> Vec<BreakerStatus> {
        self.breakers.statuses(Instant::now())
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
    pub async fn create(&self, setup: Setup) -> Result<Session, SendError> {
        self.create_with(None, setup).await
    }

    /// Starts a new session with an id of the caller's, such as one of [`SessionId::of_key`].
    ///
    /// # Errors
    /// [`StoreError::Exists`] where there is one with this id, or why the store cannot create it.
    pub async fn create_as(&self, id: SessionId, setup: Setup) -> Result<Session, SendError> {
        self.create_with(Some(id), setup).await
    }

    async fn create_with(&self, id: Option<SessionId>, setup: Setup) -> Result<Session, SendError> {
        let new = NewSession { id, cwd: Some(setup.cwd.to_string_lossy().into_owned()) };
        let opened = self.store.create(new).await?;
        self.session(opened, setup).await
    }

    /// Goes on with a session.
    ///
    /// # Errors
    /// [`StoreError::Held`](session_store::StoreError::Held) while it is open elsewhere, `NotFound`, or why the store failed.
    pub async fn resume(&self, id: SessionId, setup: Setup) -> Result<Session, SendError> {
        let opened = self.store.open(id).await?;
        self.session(opened, setup).await
    }

    /// Goes on with a copy of a session, up to and with the event `at`, completed to a whole step (absent: all of it).
    ///
    /// # Errors
    /// As [`Runtime::resume`], though a session that is held can be forked.
    pub async fn fork(&self, parent: SessionId, at: Option<Seq>, setup: Setup) -> Result<Session, SendError> {
        let at = match at {
            Some(at) => Some(self.end_of_step(parent, at).await?),
            None => None,
        };
        let opened = self.store.fork(parent, at).await?;
        self.session(opened, setup).await
    }

    /// The answer to the message that was sent to the session `id` with `key`, without owning the session; nothing where there is no such session or
    /// message, or no answer yet.
    ///
    /// # Errors
    /// Why the session cannot be read.
    pub async fn answer_to(&self, id: SessionId, key: &str) -> Result<Option<Answer>, StoreError> {
        let state = match self.store.load(id).await {
            Ok(loaded) => loaded.state,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(sent) = state.keyed.iter().find(|sent| sent.key == key) else { return Ok(None) };
        Ok(answered::read(&*self.store, id, sent).await?.map(|Answered { model, outcome, .. }| Answer { model, outcome }))
    }

    /// Stops every turn that runs in a session of this runtime, as [`Session::interrupt`] does. Returns at once.
    pub fn interrupt_all(&self, by: &str) {
        let open: Vec<_> = lock(&self.sessions).iter().filter_map(Weak::upgrade).collect();
        for shared in open {
            Session { shared }.interrupt(by);
        }
    }

    /// The last event of the step that `at` is in: an answer goes whole, and with all its tools' results, where there are any.
    ///
    /// # Errors
    /// [`StoreError::NoEvent`](session_store::StoreError::NoEvent) where the session has no such event, or why it cannot be read.
    pub async fn end_of_step(&self, id: SessionId, at: Seq) -> Result<Seq, StoreError> {
        let mut state = self.store.load_at(id, at).await?;
        let mut reader = self.store.read(id, state.next_seq.min(at.saturating_add(1))).await?;
        while let Some(entry) = reader.next().await? {
            if entry.seq > at && (is_whole(&state) || starts_another(&entry)) {
                break;
            }
            state.apply(&entry);
        }
        match state.next_seq.checked_sub(1) {
            Some(end) if end >= at => Ok(end),
            last => Err(StoreError::NoEvent { id, seq: at, last }),
        }
    }

    async fn session(&self, opened: OpenSession, setup: Setup) -> Result<Session, SendError> {
        for problem in &opened.problems {
            tracing::warn!(session = %opened.log.id(), line = problem.line, "{}", problem.detail);
        }
        if let Some(Session { shared: parent }) = &setup.parent {
            // No call of the child may be missing where the parent's are added up.
            let named = parent.append(ChildOpened { session: opened.log.id() })?;
            parent.log.durable(named.seq).await?;
        }
        let session = Session::new(opened, Arc::clone(&self.store), Arc::clone(&self.resting), setup, self.breakers.clone())?;
        let mut sessions = lock(&self.sessions);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&session.shared));
        Ok(session)
    }

    /// Interrupts every turn, waits for all of them and for processes that tools left, then shuts the store down; in about `limit` at most.
    ///
    /// # Errors
    /// What was not durable by then.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), ShutdownError> {
        let end = Instant::now() + limit;
        let open: Vec<_> = lock(&self.sessions).drain(..).filter_map(|session| session.upgrade()).collect();
        let turns = open.into_iter().map(|shared| async {
            let session = Session { shared };
            session.stop_turn("shutdown").await;
            session.shared.append_closing_checkpoint();
        });
        let _ = tokio::time::timeout_at(end, join_all(turns)).await;
        if tokio::time::timeout_at(end, crate::tools::reaper().all_idle()).await.is_err() {
            crate::tools::reaper().kill_all();
        }
        self.store.shutdown(end.saturating_duration_since(Instant::now())).await
    }
}

/// `provider/name`, as `--model` takes it; a built-in model is its name alone.
pub(crate) fn model_name(model: &dyn Model) -> String {
    origin_name(model.origin())
}

pub(crate) fn origin_name(origin: &Origin) -> String {
    if origin.provider == origin.model { origin.model.clone() } else { format!("{}/{}", origin.provider, origin.model) }
}

fn is_whole(state: &State) -> bool {
    state.in_flight.is_none() && state.unresolved.values().all(|call| call.settled)
}

/// Whether `entry` shows that the step before it was given up, whatever it lacks.
fn starts_another(entry: &Entry) -> bool {
    match &entry.event {
        Event::Opened(_) | Event::Closed(_) | Event::TurnEnded(_) => true,
        Event::UserMessage(user) => user.kind != UserKind::Steer,
        _ => false,
    }
}
