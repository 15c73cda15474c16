//! From what was typed to what runs: [`Plan`].
//!
//! What was typed, the environment and the stored session together say which model answers, with which system prompt, tools,
//! permissions and limits, in which session. A plan is made without touching the disk (but for `-c` and `-r ID`, which have to
//! look a session up) and without building an HTTP client; a session is created or opened by [`Plan::open`].
//!
//! A resumed session keeps its system prompt, its tools and its model, so that what was sent stays what is sent. What changed around it
//! (the project's instructions, the working directory, `--append-system-prompt`) is told to the model as a note.

use crate::app::{self, App};
use crate::args::{self, RunArgs, SetupArgs};
use crate::commands::sessions::checked_name;
use crate::error::CliError;
use crate::handoff;
use crate::images;
use crate::instructions;
use crate::models::{ModelName, Models};
use crate::output;
use crate::quota;
use crate::resolve;
use agent_runtime::session_store::{
    FileStore, KeepCold, Loaded, Message, ModelWaiting, Origin, Progress, Rescued, Seq, SessionId, SessionListState,
    SessionStore, State, StoreError,
};
use agent_runtime::{
    Approver, Clocks, Image, Model, ModelTable, PermissionMode, Permissions, Runtime, Secrets, SendError, Session, Setup,
    SpendingLimit, Tool, UserInput, check_output_schema, tools,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The longest that leaving waits for turns, tools and the disk.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// The same where the disk has failed already, or no session was opened: it gets one more chance.
const SHUTDOWN_LIMIT_IN_TROUBLE: Duration = Duration::from_secs(1);
/// The longest wait of `--wait`: a limit of a week, and some.
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// How a run talks with its person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// In a chat: somebody can be asked.
    Chat,
    /// Once, for a program.
    Print,
}

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
    /// The id of the session where it is a new one that is to be found again.
    new_id: Option<SessionId>,
    typed: RunArgs,
    manner: Manner,
    cwd: PathBuf,
    add_dirs: Vec<PathBuf>,
    tools: Vec<Arc<dyn Tool>>,
    output_schema: Option<Value>,
    /// `--take-over` was meant for the session that is opened first.
    is_taken: AtomicBool,
    place: Arc<Place>,
}

/// Where runs happen: what all plans of a process share.
struct Place {
    env: Vec<(String, String)>,
    user_home: Option<PathBuf>,
    models: Models,
    runtime: Runtime,
    /// The store that the runtime has.
    files: Arc<FileStore>,
    /// How the log of the session that was opened last fares; [`Plan::shutdown`] looks whether the disk is in trouble.
    progress: Mutex<Option<watch::Receiver<Progress>>>,
    /// With `--no-session`, the folder of the store; removed when the last plan is dropped, or by the system after a crash.
    nothing_kept: Option<TempDir>,
}

/// How long a chat does nothing before it makes old sessions cold, ...
const COLD_AFTER: Duration = Duration::from_secs(3);
/// ... those to which nothing was added for so long, ...
const COLD_IDLE_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// ... and no more than this at a time.
const COLD_SESSIONS_MAX: usize = 20;
const COLD_BYTES_MAX: u64 = 200 << 20;

/// A session that was opened.
pub(crate) struct Opened {
    /// The session.
    pub(crate) session: Session,
    /// The first event that was not there before.
    pub(crate) first: Seq,
    /// What the person should know of its log.
    pub(crate) notice: Option<String>,
    /// With `--wait`: what its last turn waited for when it was left.
    pub(crate) waiting: Option<ModelWaiting>,
}

impl Plan {
    /// Makes sense of what was typed.
    ///
    /// # Errors
    /// Wrong usage; a model without a key; a session that is not there.
    pub(crate) async fn new(app: &App, typed: RunArgs, manner: Manner) -> Result<Self, CliError> {
        if manner == Manner::Chat && (typed.json || typed.output_format.is_some()) {
            return Err(
                CliError::usage("a chat has no output format").hint("`-p` prints one turn in the format that is asked for")
            );
        }
        if manner == Manner::Chat && typed.setup.output_schema.is_some() {
            return Err(CliError::usage("`--output-schema` is for programs, and this is a chat").hint("add `-p`"));
        }
        if manner == Manner::Chat && typed.message_id.is_some() {
            return Err(CliError::usage("`--message-id` names one message, and a chat has many").hint("add `-p`"));
        }
        let nothing_kept = typed.no_session.then(tempfile::tempdir).transpose();
        let nothing_kept = nothing_kept.map_err(|error| CliError::failed(format!("cannot make a temporary folder: {error}")))?;
        let home = nothing_kept.as_ref().map_or(app.home(), TempDir::path);
        let files = if nothing_kept.is_some() { app::open_store(home, |_| {})? } else { app.file_store()? };
        let place = Place {
            env: app.envs().to_vec(),
            user_home: std::env::home_dir(),
            models: Models::new(app, home, typed.setup.base_url.clone())?,
            runtime: Runtime::new(Arc::clone(&files) as Arc<dyn SessionStore>),
            files,
            progress: Mutex::new(None),
            nothing_kept,
        };
        Self::at(Arc::new(place), typed, manner).await
    }

    /// Another run beside this one, in the same store and with the same models. A base URL holds for all of them.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) async fn beside(&self, typed: RunArgs) -> Result<Self, CliError> {
        Self::at(Arc::clone(&self.place), typed, self.manner).await
    }

    async fn at(place: Arc<Place>, typed: RunArgs, manner: Manner) -> Result<Self, CliError> {
        if typed.setup.max_output_tokens.zip(typed.setup.context_window).is_some_and(|(output, window)| output >= window) {
            return Err(CliError::usage("`--max-output-tokens` leaves no room in `--context-window`")
                .hint("the answer is part of the window: make it smaller, or the window larger"));
        }
        let cwd = directory(typed.setup.cd.as_deref().unwrap_or(Path::new(".")))?;
        let add_dirs = typed.setup.add_dir.iter().map(|dir| directory(dir)).collect::<Result<_, _>>()?;
        let tools = visible_tools(&typed.setup)?;
        typed.setup.model.as_deref().map(ModelName::parse).transpose()?;
        fallback_names(&typed.setup)?;
        typed.name.as_deref().map(checked_name).transpose()?;
        if typed.setup.base_url.is_some() && typed.setup.model.is_none() && !typed.go_on && typed.resume.is_none() {
            return Err(CliError::usage("`--base-url` needs a model").hint("name it: `-m PROVIDER/NAME --base-url URL`"));
        }
        let output_schema = match typed.setup.output_schema.clone() {
            Some(schema) => Some(read_schema(schema).await?),
            None => None,
        };
        let (prompt, choice, is_taken) = (typed.prompt.clone(), SessionChoice::New, AtomicBool::new(false));
        let new_id = typed.message_id.as_deref().map(SessionId::of_key);
        let mut plan = Self { prompt, choice, new_id, typed, manner, cwd, add_dirs, tools, output_schema, is_taken, place };
        plan.choice = output::tell_if_slow(plan.home(), plan.choose()).await?;
        if plan.choice == SessionChoice::New {
            // What is wrong with the model is told before anything is asked of the person.
            plan.place.models.endpoint(&plan.name_of_model(None)?, None)?;
            plan.fallbacks()?;
        }
        Ok(plan)
    }

    /// The runtime, over the store of the home (or, with `--no-session`, over one that is removed with this plan).
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.place.runtime
    }

    /// Counts what the store takes, beside other work, where there is a quota. What comes of it is what to tell.
    pub(crate) fn count_quota(&self) -> Option<JoinHandle<Option<String>>> {
        quota::count(&self.place.files)
    }

    /// Makes a few sessions cold that were idle for a week, beside other work. Aborting it calls it off; so does opening such a session.
    pub(crate) fn keep_cold(&self) -> JoinHandle<()> {
        let files = Arc::clone(&self.place.files);
        tokio::spawn(async move {
            tokio::time::sleep(COLD_AFTER).await;
            let what = KeepCold { idle_for: COLD_IDLE_FOR, sessions_max: COLD_SESSIONS_MAX, bytes_max: COLD_BYTES_MAX };
            // Whatever cannot be made cold stays as it is.
            let _ = files.keep_cold(what).await;
        })
    }

    /// The directory in which tools work, absolute.
    pub(crate) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Where its sessions are kept.
    pub(crate) fn home(&self) -> &Path {
        self.place.files.home()
    }

    /// The tools that a new session's model sees.
    pub(crate) fn tools(&self) -> &[Arc<dyn Tool>] {
        &self.tools
    }

    /// What is known of models.
    pub(crate) fn model_table(&self) -> &ModelTable {
        self.place.models.table()
    }

    /// Whether sessions are kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.place.nothing_kept.is_none()
    }

    /// The model that answers in a new session, as `provider/name`.
    ///
    /// # Errors
    /// No key where one is needed, or no model at all.
    pub(crate) fn model_name(&self) -> Result<String, CliError> {
        self.name_of_model(None).map(|name| name.to_string())
    }

    /// Whether a new session is answered by the offline model because there is no key, though nobody asked for it.
    pub(crate) fn is_offline_by_default(&self) -> bool {
        self.manner == Manner::Chat && self.typed.setup.model.is_none() && self.place.models.default().is_none()
    }

    /// The model `name` (`provider/name`), for `/model`.
    ///
    /// # Errors
    /// An unknown provider, or no key.
    pub(crate) fn model(&self, name: &str) -> Result<Arc<dyn Model>, CliError> {
        self.place.models.make(&ModelName::parse(name)?, None)
    }

    /// Whether a wait that the session of `choice` was left in is gone on with: without a prompt, `--wait` says that it is.
    pub(crate) fn goes_on_waiting(&self, choice: SessionChoice) -> bool {
        self.typed.setup.wait && self.prompt.is_none() && matches!(choice, SessionChoice::Resume(_))
    }

    /// A message of `text` and `images`, with the key that was typed.
    pub(crate) fn message(&self, text: &str, images: Vec<Image>) -> UserInput {
        UserInput { text: text.to_owned(), images, key: self.typed.message_id.clone() }
    }

    /// The files of the images that were named for the first message.
    pub(crate) fn image_files(&self) -> &[PathBuf] {
        &self.typed.image
    }

    /// The images that were named for the first message.
    ///
    /// # Errors
    /// Wrong usage: one of them cannot be sent.
    pub(crate) async fn images(&self) -> Result<Vec<Image>, CliError> {
        images::read_all(self.typed.image.clone()).await
    }

    /// Starts to build what asking the model of a new session needs, beside what else happens. Returns at once. [`Plan::open`]
    /// does it too.
    pub(crate) fn warm(&self) {
        if self.choice == SessionChoice::New {
            // What is wrong with the model is told when the session is opened.
            let _ = self.model_for(None);
        }
    }

    /// Creates, opens or copies the session of `choice`, which must not be [`SessionChoice::Pick`]. `approver` is asked where
    /// the mode is `ask`. Dropping the future gives it up, also where the disk does not answer: what is opened later is let go again.
    ///
    /// # Errors
    /// The store's; a stored session whose model has no key.
    pub(crate) async fn open(&self, choice: SessionChoice, approver: Option<Arc<dyn Approver>>) -> Result<Opened, CliError> {
        if let SessionChoice::Resume(id) = choice
            && self.typed.take_over
            && matches!(self.choice, SessionChoice::Pick { .. } | SessionChoice::Resume(_))
            && !self.is_taken.swap(true, Ordering::Relaxed)
        {
            handoff::release(self.store().as_ref(), id, handoff::TAKE_OVER_LIMIT).await?;
        }
        let opening = self.open_now(choice, approver);
        match self.manner {
            Manner::Print => output::tell_if_slow(self.home(), opening).await,
            // A chat tells it in its own way.
            Manner::Chat => opening.await,
        }
    }

    async fn open_now(&self, choice: SessionChoice, approver: Option<Arc<dyn Approver>>) -> Result<Opened, CliError> {
        let stored = match choice {
            SessionChoice::New => None,
            SessionChoice::Resume(id) | SessionChoice::Fork { parent: id, .. } => Some(self.store().load(id).await?),
            SessionChoice::Pick { .. } => return Err(which_session()),
        };
        let state = stored.as_ref().map(|stored| &stored.state);
        let instructions = self.instructions().await;
        let setup = self.setup(state, &instructions, approver)?;
        let elsewhere = state.and_then(|state| asked_elsewhere(state, setup.model.origin()));
        let restored = match choice {
            SessionChoice::Resume(id) => {
                self.place.files.is_archived(id).await?.then(|| "the session is back from the archive".to_owned())
            }
            _ => None,
        };
        let session = match choice {
            SessionChoice::Resume(id) => self.place.runtime.resume(id, setup).await?,
            SessionChoice::Fork { parent, at } => self.place.runtime.fork(parent, at, setup).await?,
            SessionChoice::New | SessionChoice::Pick { .. } => match self.new_id {
                Some(id) => match self.place.runtime.create_as(id, setup.clone()).await {
                    // Somebody sent the same message at the same time.
                    Err(SendError::Store(StoreError::Exists(_))) => self.place.runtime.resume(id, setup).await?,
                    created => created?,
                },
                None => self.place.runtime.create(setup).await?,
            },
        };
        if let Some(name) = self.typed.name.as_deref().filter(|name| session.state(|state| state.name.as_deref() != Some(name))) {
            session.rename(name)?;
        }
        let notes = stored.as_ref().map(|_| session.state(|state| self.notes(state, &instructions))).unwrap_or_default();
        for note in notes {
            session.note(&note)?;
        }
        *self.place.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.progress());
        let first = match choice {
            SessionChoice::Fork { .. } => session.state(|state| state.parent.map_or(0, |(_, last)| last + 1)),
            _ => state.map_or(0, |state| state.next_seq),
        };
        let notices: Vec<String> = stored.as_ref().and_then(notice).into_iter().chain(elsewhere).chain(restored).collect();
        let notice = (!notices.is_empty()).then(|| notices.join("\n"));
        let waiting = if self.goes_on_waiting(choice) { session.wait_left().await? } else { None };
        Ok(Opened { session, first, notice, waiting })
    }

    /// The instructions of the project, read on a thread that may block.
    async fn instructions(&self) -> String {
        let (cwd, home) = (self.cwd.clone(), self.place.user_home.clone());
        // Reading cannot panic; without an answer there are no instructions.
        tokio::task::spawn_blocking(move || instructions::of_project(&cwd, home.as_deref())).await.unwrap_or_default()
    }

    /// Ends every turn, makes all durable and lets go of every session.
    ///
    /// # Errors
    /// What was not durable within 5 s, or within 1 s where the disk has failed already.
    pub(crate) async fn shutdown(&self) -> Result<(), CliError> {
        self.place.models.finish().await;
        let progress = self.place.progress.lock().unwrap_or_else(PoisonError::into_inner).take();
        let is_well = progress.as_ref().is_some_and(|progress| progress.borrow().trouble.is_none());
        let kept = self.place.runtime.shutdown(if is_well { SHUTDOWN_LIMIT } else { SHUTDOWN_LIMIT_IN_TROUBLE }).await;
        if let Some(kept) = progress.and_then(|progress| kept_words(&progress.borrow())) {
            output::stderr(&format!("warning: {kept}\n"));
        }
        Ok(kept?)
    }

    /// The session that a person wants to go on with by `text`.
    ///
    /// # Errors
    /// As of [`resolve::resolve_to_resume`].
    pub(crate) async fn resolve(&self, text: &str) -> Result<SessionId, CliError> {
        resolve::resolve_to_resume(&self.place.files, text).await
    }

    fn store(&self) -> &Arc<dyn SessionStore> {
        self.place.runtime.store()
    }

    async fn choose(&self) -> Result<SessionChoice, CliError> {
        let typed = &self.typed;
        let id = match &typed.resume {
            Some(None) if self.manner == Manner::Print => return Err(which_session()),
            Some(None) => return Ok(SessionChoice::Pick { fork: typed.fork_session }),
            Some(Some(text)) => self.resolve(text).await?,
            None if typed.go_on => self.newest_here().await?,
            None => match self.new_id {
                Some(id) if self.is_there(id).await? => id,
                _ => return Ok(SessionChoice::New),
            },
        };
        Ok(if typed.fork_session { SessionChoice::Fork { parent: id, at: typed.at } } else { SessionChoice::Resume(id) })
    }

    async fn is_there(&self, id: SessionId) -> Result<bool, CliError> {
        match self.store().load(id).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The session of this directory that was written last.
    async fn newest_here(&self) -> Result<SessionId, CliError> {
        let cwd = self.cwd.to_string_lossy();
        let here = self.store().list().await?;
        let here =
            here.iter().filter(|session| session.state != SessionListState::Damaged && session.cwd.as_deref() == Some(&*cwd));
        here.max_by_key(|session| session.updated_at).map(|session| session.id).ok_or_else(|| {
            CliError::failed(format!("there is no session of `{cwd}` to go on with"))
                .hint("`longhand sessions list` shows those of all directories; `-r ID` goes on with one of them")
        })
    }

    fn setup(&self, stored: Option<&State>, instructions: &str, approver: Option<Arc<dyn Approver>>) -> Result<Setup, CliError> {
        let typed = &self.typed;
        let mut setup = Setup::new(self.model_for(stored)?, &self.cwd);
        setup.fallbacks = self.fallbacks()?;
        setup.system = self.system(stored, instructions);
        setup.tools = self.tools_for(stored);
        setup.add_dirs.clone_from(&self.add_dirs);
        setup.env.clone_from(&self.place.env);
        setup.permissions = self.permissions(approver);
        setup.effort = typed.setup.effort.map(|effort| effort.as_str().to_owned());
        setup.max_output_tokens = typed.setup.max_output_tokens;
        setup.context_window = typed.setup.context_window;
        setup.summarize = typed.setup.summarize;
        setup.output_schema.clone_from(&self.output_schema);
        setup.max_model_calls = typed.setup.max_turns;
        setup.spending = self.spending(&*setup.model)?;
        setup.clocks = clocks(&typed.setup);
        if typed.setup.wait {
            setup.retry.longest_wait = LONGEST_WAIT;
        }
        setup.secrets = Secrets::from_env(&self.place.env);
        Ok(setup)
    }

    /// What the session may use altogether, as it was typed.
    ///
    /// # Errors
    /// A limit in money where nobody knows what `model` costs.
    fn spending(&self, model: &dyn Model) -> Result<Option<SpendingLimit>, CliError> {
        let (tokens, usd) = (self.typed.setup.max_tokens_total, self.typed.setup.budget);
        let (table, origin) = (self.model_table(), model.origin());
        let is_free = origin.provider == "offline";
        if usd.is_some() && !is_free && table.facts(&origin.provider, &origin.model).price.is_none() {
            return Err(CliError::usage(format!(
                "`--budget` cannot be kept: the price of `{}/{}` is not known",
                origin.provider, origin.model
            ))
            .hint("`models.json` in the home can tell it (`longhand models --help`); `--max-tokens-total` needs no price"));
        }
        let is_limited = tokens.is_some() || usd.is_some();
        Ok(is_limited.then(|| SpendingLimit { tokens, usd, models: Arc::new(table.clone()) }))
    }

    /// The system prompt to set: of a new session, of a stored one that has none, or the one that was typed.
    fn system(&self, stored: Option<&State>, instructions: &str) -> Option<String> {
        let profile = stored.and_then(|state| state.profile.as_ref());
        // An imported session has the system prompt of its original only where that was the person's own.
        let is_known = profile.is_some_and(|profile| profile.projection != 0 || !profile.system.is_empty());
        if is_known && self.typed.setup.system_prompt.is_none() {
            return None;
        }
        let base = self.typed.setup.system_prompt.clone().unwrap_or_else(|| instructions::default_prompt(&self.cwd));
        Some(instructions::system_prompt(&base, instructions, self.typed.setup.append_system_prompt.as_deref()))
    }

    /// What a resumed session has to be told.
    fn notes(&self, state: &State, instructions: &str) -> Vec<String> {
        let instructions = instructions::note_of_change(state, instructions);
        let appended = self.typed.setup.append_system_prompt.clone().filter(|text| !instructions::is_told(state, text));
        [self.moved(state), instructions, appended].into_iter().flatten().collect()
    }

    /// Where the session goes on in another directory than the one that it knows.
    fn moved(&self, state: &State) -> Option<String> {
        const START: &str = "The working directory is now `";
        let note = format!("{START}{}`.", self.cwd.display());
        let told = state.context.iter().rev().find_map(|slot| match slot.message.as_deref() {
            Some(Message::Note { text }) if text.starts_with(START) => Some(text),
            _ => None,
        });
        let is_known = match told {
            Some(told) => *told == note,
            None => state.cwd.as_deref().is_none_or(|cwd| Path::new(cwd) == self.cwd),
        };
        (!is_known).then_some(note)
    }

    /// The tools that were asked for; else those that the stored session has; else all.
    fn tools_for(&self, stored: Option<&State>) -> Vec<Arc<dyn Tool>> {
        let profile = stored.and_then(|state| state.profile.as_ref()).filter(|profile| profile.projection != 0);
        match profile {
            Some(profile) if self.typed.setup.tools.is_empty() && !self.typed.setup.no_tools => {
                let is_known = |tool: &&Arc<dyn Tool>| profile.tools.iter().any(|known| known.name == tool.spec().name);
                self.tools.iter().filter(is_known).cloned().collect()
            }
            _ => self.tools.clone(),
        }
    }

    /// Who may run which tool, as it was typed.
    pub(crate) fn permissions(&self, approver: Option<Arc<dyn Approver>>) -> Permissions {
        let mode = match self.typed.setup.permission_mode {
            // Left to its default, `-p` is read-only because nobody can be asked, which is what a refusal then says.
            None | Some(args::PermissionMode::Ask) => PermissionMode::Ask,
            Some(args::PermissionMode::ReadOnly) => PermissionMode::ReadOnly,
            Some(args::PermissionMode::Allow) => PermissionMode::Allow,
        };
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        Permissions {
            mode,
            allowed: set(&self.typed.setup.allowed_tools),
            disallowed: set(&self.typed.setup.disallowed_tools),
            approver,
        }
    }

    fn model_for(&self, stored: Option<&State>) -> Result<Arc<dyn Model>, CliError> {
        let name = self.name_of_model(stored)?;
        let before = stored.filter(|_| self.typed.setup.model.is_none()).and_then(last_endpoint);
        self.place.models.make(&name, before.as_deref())
    }

    fn fallbacks(&self) -> Result<Vec<Arc<dyn Model>>, CliError> {
        fallback_names(&self.typed.setup)?.iter().map(|name| self.place.models.make(name, None)).collect()
    }

    /// The model that was typed, else the stored session's own, else the default.
    fn name_of_model(&self, stored: Option<&State>) -> Result<ModelName, CliError> {
        if let Some(typed) = &self.typed.setup.model {
            return ModelName::parse(typed);
        }
        // What was imported may not say which model it was.
        if let Some(profile) = stored.and_then(|state| state.profile.as_ref()).filter(|profile| !profile.model.is_empty()) {
            return ModelName::parse(&profile.model);
        }
        match self.place.models.default() {
            Some(name) => Ok(name),
            None if self.manner == Manner::Chat && stored.is_none() => Ok(ModelName::offline()),
            None => Err(CliError::usage("there is no model to ask: no key is set and no model is named").hint(
                "set `ANTHROPIC_API_KEY` or `OPENAI_API_KEY`, name a model with `-m PROVIDER/NAME`, or try it without a key: `-m offline`",
            )),
        }
    }
}

/// The models of `--fallback-model`, each of which can help: it is not the one before it.
fn fallback_names(typed: &SetupArgs) -> Result<Vec<ModelName>, CliError> {
    let names = typed.fallback_model.iter().map(|name| ModelName::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let first = typed.model.as_deref().map(ModelName::parse).transpose()?;
    let mut known: Vec<&ModelName> = first.iter().collect();
    for name in &names {
        if known.contains(&name) {
            return Err(CliError::usage(format!("`--fallback-model` names `{name}`, which was asked before it"))
                .hint("each model is asked once, the one of `--model` first"));
        }
        known.push(name);
    }
    Ok(names)
}

/// What is said of a stored session whose log has damage.
fn notice(stored: &Loaded) -> Option<String> {
    let id = stored.state.session.map(|id| id.to_string()).unwrap_or_default();
    match stored.problems.len() {
        0 => None,
        _ if stored.state.next_seq == 0 => {
            Some("the file of this session holds no sound record: it goes on as an empty conversation".to_owned())
        }
        count => Some(format!(
            "the log of this session is damaged ({}): all that is sound in it is here; `longhand sessions verify {id}` tells more",
            if count == 1 { "one place".to_owned() } else { format!("{count} places") }
        )),
    }
}

/// What is said where a session goes on at another endpoint of the same provider: the whole conversation goes there.
fn asked_elsewhere(state: &State, asked: &Origin) -> Option<String> {
    let before = last_endpoint(state).filter(|before| !before.is_empty() && *before != asked.endpoint)?;
    (!asked.endpoint.is_empty())
        .then(|| format!("this session was answered at {before}; now {} is asked (`--base-url` names another)", asked.endpoint))
}

/// Where a stored session was answered last.
fn last_endpoint(state: &State) -> Option<String> {
    state.context.iter().rev().find_map(|slot| match slot.message.as_deref() {
        // Another program does not say where it asked, and would not be believed.
        Some(Message::Assistant(message)) if message.origin.credential == Origin::IMPORTED => None,
        Some(Message::Assistant(message)) if !message.origin.provider.is_empty() => Some(message.origin.endpoint.clone()),
        _ => None,
    })
}

/// Where a session's events are that are not in its log.
pub(crate) fn kept_words(progress: &Progress) -> Option<String> {
    let Rescued { path, why } = progress.rescued.as_deref()?;
    let path = path.display();
    Some(if progress.trouble.is_some() {
        format!(
            "what the log does not have is kept in `{path}`; if the log is still there, `longhand sessions fork --stale ID` makes a session of both"
        )
    } else {
        format!(
            "the disk of the session does not take it ({why}); what it lacks is kept in `{path}`, and goes back when the session is opened again with the same rescue folder, or when the disk works"
        )
    })
}

fn which_session() -> CliError {
    CliError::usage("`-r` without a session needs a terminal to choose on")
        .hint("`longhand sessions list` shows what there is; `-r ID` takes an id, an exact name or the start of an id")
}

/// The built-in tools that the model sees, after every name that was typed is known to be right.
fn visible_tools(typed: &SetupArgs) -> Result<Vec<Arc<dyn Tool>>, CliError> {
    let all = tools::builtin();
    let names: Vec<String> = all.iter().map(|tool| tool.spec().name).collect();
    for name in typed.tools.iter().chain(&typed.allowed_tools).chain(&typed.disallowed_tools) {
        if !names.contains(name) {
            return Err(CliError::usage(format!("there is no tool `{name}`")).hint(format!("there are: {}", names.join(", "))));
        }
    }
    if typed.no_tools {
        return Ok(Vec::new());
    }
    if typed.tools.is_empty() {
        return Ok(all);
    }
    if let Some(name) = typed.allowed_tools.iter().find(|name| !typed.tools.contains(name)) {
        return Err(CliError::usage(format!("`--allowed-tools` names `{name}`, which `--tools` leaves out"))
            .hint(format!("add it to `--tools`, or take it out of `--allowed-tools`: the model does not see `{name}`")));
    }
    Ok(all.into_iter().filter(|tool| typed.tools.contains(&tool.spec().name)).collect())
}

/// The schema that was typed, or that is in the file that was typed.
async fn read_schema(typed: String) -> Result<Value, CliError> {
    let text = if typed.trim_start().starts_with('{') {
        typed
    } else {
        let failed = |why: String| CliError::usage(format!("cannot read the schema `{typed}`: {why}"));
        tokio::fs::read_to_string(&typed).await.map_err(|error| failed(error.to_string()))?
    };
    let bad = |why: String| CliError::usage(format!("`--output-schema` is no JSON Schema: {why}"));
    let schema = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    check_output_schema(&schema).map_err(bad)?;
    Ok(schema)
}

/// An existing directory, absolute, links resolved.
fn directory(path: &Path) -> Result<PathBuf, CliError> {
    let failed = |why: String| CliError::usage(format!("cannot work in `{}`: {why}", path.display()));
    let absolute = path.canonicalize().map_err(|error| failed(error.to_string()))?;
    if absolute.is_dir() { Ok(absolute) } else { Err(failed("it is no directory".to_owned())) }
}

fn clocks(typed: &SetupArgs) -> Clocks {
    let default = Clocks::default();
    Clocks {
        connect: typed.connect_timeout.unwrap_or(default.connect),
        first_byte: typed.first_byte_timeout.unwrap_or(default.first_byte),
        idle: typed.idle_timeout.unwrap_or(default.idle),
        progress: typed.timeout.unwrap_or(default.progress),
        cap: default.cap,
    }
}
