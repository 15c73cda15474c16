//! [`Session`]: a conversation that this process owns.
//!
//! Everything that happens goes through [`Shared::append`]: into the log, through the fold, to the readers. A turn is a task that owns the
//! session while it runs; the handle only starts, steers and stops it.

use crate::agent_loop::TurnTask;
use crate::answered;
use crate::breaker::Breakers;
use crate::context::{Budget, TokenCounter};
use crate::images::{Image, image_tokens};
use crate::interrupt::Interrupt;
use crate::live::Live;
use crate::model::{Model, ModelLimits};
use crate::output_sink::OutputSink;
use crate::projection::PROJECTION_VERSION;
use crate::request::{RequestBuilder, Resting};
use crate::runtime::{Setup, origin_name};
use crate::spent::Purse;
use crate::summary::{self, Summarizer};
use crate::todos::TodoCache;
use crate::turn::{Turn, TurnOutcome};
use session_store::{
    AppendError, Entry, Event, ImageRef, KEY_BYTES_MAX, MESSAGE_IMAGE_BYTES_MAX, MESSAGE_IMAGES_MAX, Message, ModelError,
    ModelWaiting, Note, OpenSession, Parameters, Place, Profile, Progress, RequestLimits, Seq, SessionId, SessionLog,
    SessionRenamed, SessionStore, State, StoreError, Timestamp, Todo, UserKind, UserMessage,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// An open session. Cheap to clone; all clones are the same session. Dropping the last one does not close it: call
/// [`Session::close`], or shut the runtime down.
#[derive(Clone)]
pub struct Session {
    pub(crate) shared: Arc<Shared>,
}

/// A message to be sent. A text is one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserInput {
    /// The words; with an image there need be none.
    pub text: String,
    /// Images that go with them, [`MESSAGE_IMAGES_MAX`] at most with [`MESSAGE_IMAGE_BYTES_MAX`] together.
    pub images: Vec<Image>,
    /// The sender's own name for this message, 1 to 256 bytes. A message that is sent again with the same key is not added again: see
    /// [`Session::send`]. A session remembers its newest 256 keys.
    pub key: Option<String>,
}

impl UserInput {
    /// A message of these words.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// The same message with one image more.
    #[must_use]
    pub fn with_image(mut self, image: Image) -> Self {
        self.images.push(image);
        self
    }

    /// The same message with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

impl<T: Into<String>> From<T> for UserInput {
    fn from(text: T) -> Self {
        Self::text(text)
    }
}

/// What became of [`Session::compact`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// How many messages left the context.
    pub messages: usize,
    /// Why there is no summary of them, where there is none.
    pub without_summary: Option<String>,
}

/// A message was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A turn runs. Steer it, queue a follow-up, or wait for it.
    #[error("a turn is running in this session")]
    Busy,
    /// No turn runs that could be steered.
    #[error("no turn is running in this session")]
    Idle,
    /// The message has no words.
    #[error("the message is empty")]
    Empty,
    /// The message has more images than a request may hold.
    #[error(
        "a message takes {MESSAGE_IMAGES_MAX} images with {MESSAGE_IMAGE_BYTES_MAX} bytes at most, and this one has {count} with {bytes}"
    )]
    TooManyImages {
        /// How many there are.
        count: usize,
        /// How large they are together.
        bytes: u64,
    },
    /// As many messages wait as may.
    #[error("no more messages can wait in this session")]
    QueueFull,
    /// That event is no message that waits.
    #[error("event {0} is no message that waits")]
    NotQueued(Seq),
    /// The message does not fit the context window, even alone.
    #[error("the message takes about {tokens} tokens, and the context window leaves room for {room}")]
    TooLong {
        /// Its size, in tokens.
        tokens: u64,
        /// What there is room for, in tokens.
        room: u64,
    },
    /// The key is empty or too long.
    #[error("a message's key has 1 to {KEY_BYTES_MAX} bytes")]
    BadKey,
    /// Another message was sent with this key.
    #[error("another message of this session has the key `{0}`")]
    KeyTaken(String),
    /// The log did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The store could not make it durable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether one message may have all these images.
///
/// # Errors
/// [`SendError::TooManyImages`].
pub fn check_images(images: &[Image]) -> Result<(), SendError> {
    let (count, bytes) = (images.len(), images.iter().map(|image| image.reference().bytes).sum());
    let is_fine = count <= MESSAGE_IMAGES_MAX && bytes <= MESSAGE_IMAGE_BYTES_MAX;
    if is_fine { Ok(()) } else { Err(SendError::TooManyImages { count, bytes }) }
}

/// What a model is told where the turn of a message with a key has to be done to its end: its sender wants the whole answer.
const ANSWER_AGAIN: &str =
    "The last turn did not come to its end. Go on, without doing again what is done, and give your whole answer at the end.";

/// What the handle, the turn's task and its readers share.
pub(crate) struct Shared {
    pub(crate) log: Arc<dyn SessionLog>,
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) setup: Mutex<Setup>,
    /// The profile that was made for the setup as it is, once that was looked at.
    profile: Mutex<Option<KnownProfile>>,
    state: Mutex<State>,
    pub(crate) counter: Arc<Mutex<TokenCounter>>,
    pub(crate) todos: TodoCache,
    /// The answer that is coming in, for readers who want it before it is in the log.
    pub(crate) live: Mutex<Live>,
    /// The output of each call that runs, for the same readers.
    pub(crate) outputs: Mutex<Vec<(String, OutputSink)>>,
    /// Counts up at each event and each delta: readers wait for it to change.
    pub(crate) activity: watch::Sender<u64>,
    /// Tools that a person approved for as long as the session stays open.
    pub(crate) approved: Mutex<BTreeSet<String>>,
    /// The value of [`State::rewrites`] for which missing bodies were last read.
    pub(crate) hydrated_for: Mutex<Option<u64>>,
    /// What the requests of this session have in common; locked behind the state.
    pub(crate) requests: Mutex<RequestBuilder>,
    pub(crate) resting: Arc<Resting>,
    pub(crate) breakers: Breakers,
    pub(crate) purse: Option<Arc<Purse>>,
    /// How many of the models could not answer in this turn: 0, the first one is asked; 1, the first fallback; ...
    fallback: AtomicUsize,
    running: Mutex<Option<Running>>,
    pub(crate) summarizer: Mutex<Summarizer>,
    /// Held while a message with a key is sent: of two with the same key, the second finds the first.
    sending: tokio::sync::Mutex<()>,
}

/// A profile that holds, and its size: nothing of it is looked at again until it is another one.
struct KnownProfile {
    profile: Arc<Profile>,
    /// Its system text and the schemas of its tools, in bytes.
    bytes: usize,
}

impl KnownProfile {
    fn new(profile: &Arc<Profile>) -> Self {
        let tools = profile.tools.iter().map(|tool| tool.parameters.to_string().len()).sum::<usize>();
        Self { profile: Arc::clone(profile), bytes: profile.system.len() + tools }
    }
}

/// The turn that runs, or the last one; or somebody who makes room in the context, as [`Session::compact`] does.
struct Running {
    is_turn: bool,
    /// The event that it began with.
    first: Seq,
    interrupt: Interrupt,
    by: Arc<Mutex<Option<String>>>,
    outcome: watch::Receiver<Option<Arc<TurnOutcome>>>,
    task: Option<JoinHandle<()>>,
}

impl Running {
    /// Whether it has no outcome yet, and a task that can still give one.
    fn is_busy(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }
}

fn count_up(activity: &watch::Sender<u64>) {
    activity.send_modify(|count| *count = count.wrapping_add(1));
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere does not make the data wrong: each critical section leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// A session whose log folds to `state`.
    pub(crate) fn new(
        log: Arc<dyn SessionLog>,
        state: State,
        store: Arc<dyn SessionStore>,
        resting: Arc<Resting>,
        mut setup: Setup,
        breakers: Breakers,
    ) -> Self {
        let todos = TodoCache::default();
        todos.hydrate(&state);
        let parent = setup.parent.take().and_then(|parent| parent.shared.purse.clone());
        let purse = Purse::of(log.id(), setup.spending.clone(), parent);
        Self {
            log,
            store,
            setup: Mutex::new(setup),
            profile: Mutex::default(),
            state: Mutex::new(state),
            counter: Arc::default(),
            todos,
            live: Mutex::default(),
            outputs: Mutex::default(),
            activity: watch::Sender::new(0),
            approved: Mutex::default(),
            hydrated_for: Mutex::default(),
            requests: Mutex::default(),
            resting,
            breakers,
            purse,
            fallback: AtomicUsize::new(0),
            running: Mutex::new(None),
            summarizer: Mutex::default(),
            sending: tokio::sync::Mutex::default(),
        }
    }

    /// Accepts an event: the log, the fold and the readers see it, in this order, under one lock.
    pub(crate) fn append(&self, event: impl Into<Event>) -> Result<Arc<Entry>, AppendError> {
        self.append_with(|log| log.append(event.into()))
    }

    pub(crate) fn append_with(
        &self,
        append: impl FnOnce(&dyn SessionLog) -> Result<Arc<Entry>, AppendError>,
    ) -> Result<Arc<Entry>, AppendError> {
        self.apply(lock(&self.state), append)
    }

    /// Accepts the event that `make` gives for the present state, if it gives one; nothing comes in between.
    pub(crate) fn append_if(&self, make: impl FnOnce(&State) -> Option<Event>) -> Result<Option<Arc<Entry>>, AppendError> {
        let state = lock(&self.state);
        let Some(event) = make(&state) else { return Ok(None) };
        self.apply(state, |log| log.append(event)).map(Some)
    }

    fn apply(
        &self,
        mut state: MutexGuard<'_, State>,
        append: impl FnOnce(&dyn SessionLog) -> Result<Arc<Entry>, AppendError>,
    ) -> Result<Arc<Entry>, AppendError> {
        let entry = append(&*self.log)?;
        state.apply(&entry);
        if let Some(purse) = &self.purse {
            purse.take_in(self.log.id(), &entry);
        }
        self.todos.hydrate(&state);
        if state.checkpoint_due() {
            self.append_checkpoint(&mut state);
        }
        drop(state);
        self.bump();
        Ok(entry)
    }

    /// Writes a checkpoint of the state. It is only a cache: where the log does not take it, a later one will do.
    fn append_checkpoint(&self, state: &mut State) {
        if let Some(checkpoint) = state.checkpoint()
            && let Ok(entry) = self.log.append(checkpoint.into())
        {
            state.apply(&entry);
        }
    }

    /// Writes a checkpoint before the session is closed, where it spares the next owner some reading.
    pub(crate) fn append_closing_checkpoint(&self) {
        let mut state = lock(&self.state);
        if state.closing_checkpoint_due() {
            self.append_checkpoint(&mut state);
        }
    }

    /// Messages that steered a turn which is over, and that no request had, wait from here on like those of [`Session::queue`], also where there are too many of these.
    pub(crate) fn put_missed_back(&self) -> Result<(), AppendError> {
        let next = |state: &State| state.missed().map(Event::from);
        while let Some(entry) = self.append_if(next)? {
            self.log.start_commit(entry.seq);
        }
        Ok(())
    }

    pub(crate) fn bump(&self) {
        count_up(&self.activity);
    }

    /// The same for who does not hold the session.
    pub(crate) fn bumper(&self) -> impl Fn() + Send + Sync + use<> {
        let activity = self.activity.clone();
        move || count_up(&activity)
    }

    /// Readers see the output of the call until what this gives is dropped.
    pub(crate) fn show_output(&self, call: &str, output: &OutputSink) -> impl Drop + '_ {
        struct Shown<'a>(&'a Shared, String);
        impl Drop for Shown<'_> {
            fn drop(&mut self) {
                lock(&self.0.outputs).retain(|(call, _)| *call != self.1);
            }
        }
        lock(&self.outputs).push((call.to_owned(), output.clone()));
        Shown(self, call.to_owned())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The room that a request to the present model has.
    pub(crate) fn budget(&self) -> Budget {
        let (limits, asked) = self.limits();
        let output = self.state().profile.as_ref().and_then(|profile| profile.parameters.max_output_tokens);
        Budget::new(asked.unwrap_or(limits.context_window), output.unwrap_or(limits.max_output_tokens))
    }

    /// What a request to the present model keeps to, for its event.
    pub(crate) fn request_limits(&self) -> RequestLimits {
        let (limits, asked) = self.limits();
        RequestLimits {
            max_output_tokens: self.budget().output,
            context_window: asked.unwrap_or(limits.context_window),
            window_asked: asked.is_some(),
        }
    }

    /// The limits of the present model, and the window that was chosen for the session.
    fn limits(&self) -> (ModelLimits, Option<u64>) {
        let limits = self.model().limits();
        // What was chosen was meant for the first model; another one may take less.
        let most = if self.is_fallback() { limits.context_window } else { u64::MAX };
        let asked = lock(&self.setup).context_window.map(|asked| asked.min(most));
        (limits, asked)
    }

    /// The model that is asked now.
    pub(crate) fn model(&self) -> Arc<dyn Model> {
        let setup = lock(&self.setup);
        let place = self.fallback.load(Ordering::Relaxed);
        Arc::clone(place.checked_sub(1).and_then(|place| setup.fallbacks.get(place)).unwrap_or(&setup.model))
    }

    /// Whether another model than the first is asked.
    fn is_fallback(&self) -> bool {
        self.fallback.load(Ordering::Relaxed) > 0
    }

    /// The first model is asked again.
    pub(crate) fn begin_with_first_model(&self) {
        self.fallback.store(0, Ordering::Relaxed);
    }

    /// Whether there is a model to ask in the place of the present one.
    pub(crate) fn has_fallback(&self) -> bool {
        lock(&self.setup).fallbacks.len() > self.fallback.load(Ordering::Relaxed)
    }

    /// From here on the next model is asked; nothing where there is none.
    pub(crate) fn fall_back(&self) -> Option<Arc<dyn Model>> {
        if !self.has_fallback() {
            return None;
        }
        self.fallback.fetch_add(1, Ordering::Relaxed);
        Some(self.model())
    }

    /// Writes a `profile` if what requests are built with has changed.
    fn update_profile(&self) -> Result<(), AppendError> {
        let before = self.state().profile.clone();
        if self.known_profile_bytes(before.as_ref()).is_some() {
            return Ok(());
        }
        let setup = lock(&self.setup).clone();
        let profile = next_profile(&setup, before.as_deref());
        if before.is_none_or(|before| before.hash != profile.hash) {
            self.append(profile)?;
        }
        *lock(&self.profile) = self.state().profile.as_ref().map(KnownProfile::new);
        Ok(())
    }

    /// The size of `profile`, where it is the one that was made for the setup.
    fn known_profile_bytes(&self, profile: Option<&Arc<Profile>>) -> Option<usize> {
        let known = lock(&self.profile);
        known
            .as_ref()
            .filter(|known| profile.is_some_and(|profile| Arc::ptr_eq(profile, &known.profile)))
            .map(|known| known.bytes)
    }

    /// `text` without known secrets, as it may be logged and sent.
    pub(crate) fn hide(&self, text: String) -> String {
        lock(&self.setup).secrets.hide(text)
    }

    /// The words of a message, as they may be logged and sent.
    pub(crate) fn words(&self, text: impl Into<String>) -> Result<String, SendError> {
        let text = text.into();
        if text.trim().is_empty() { Err(SendError::Empty) } else { Ok(self.hide(text)) }
    }

    /// Keeps images beside the log, before the message that names them: their references.
    pub(crate) async fn keep_images(&self, images: Vec<Image>) -> Result<Vec<ImageRef>, AppendError> {
        let references = images.iter().map(|image| image.reference().clone()).collect();
        if !images.is_empty() {
            let log = Arc::clone(&self.log);
            // An error would be a panic; nothing in there does.
            let put = move || images.iter().try_for_each(|image| log.put_side(image.bytes().to_vec()).map(drop));
            let kept = tokio::task::spawn_blocking(put).await;
            kept.map_err(|error| AppendError::NotOpen { why: error.to_string() })??;
        }
        Ok(references)
    }

    fn is_busy(&self) -> bool {
        lock(&self.running).as_ref().is_some_and(Running::is_busy)
    }

    /// Keeps turns from starting for as long as it is held; nothing where one runs.
    pub(crate) fn idle(&self) -> Option<impl Drop + '_> {
        let running = lock(&self.running);
        (!running.as_ref().is_some_and(Running::is_busy)).then_some(running)
    }
}

/// The profile for `setup`; what it leaves open stays as it was `before`.
fn next_profile(setup: &Setup, before: Option<&Profile>) -> Profile {
    let mut tools: Vec<_> = setup.tools.iter().map(|tool| tool.spec()).collect();
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    let old = before.map_or(&[][..], |before| &before.tools);
    let same = old.len() == tools.len()
        && old.iter().zip(&tools).all(|(old, new)| old.name == new.name && old.parameters == new.parameters);
    let parameters = before.map(|before| before.parameters.clone()).unwrap_or_default();
    Profile {
        hash: String::new(),
        model: crate::runtime::model_name(&*setup.model),
        system: match &setup.system {
            Some(system) => setup.secrets.hide(system.clone()),
            None => before.map(|before| before.system.clone()).unwrap_or_default(),
        },
        tools: if same { old.to_vec() } else { tools },
        parameters: Parameters {
            max_output_tokens: setup.max_output_tokens.or(parameters.max_output_tokens),
            effort: setup.effort.clone().or(parameters.effort),
            output_schema: setup.output_schema.clone(),
            ..parameters
        },
        // 0: another program made the requests so far.
        projection: before.map(|before| before.projection).filter(|version| *version != 0).unwrap_or(PROJECTION_VERSION),
    }
    .sealed()
}

impl Session {
    pub(crate) fn new(
        opened: OpenSession,
        store: Arc<dyn SessionStore>,
        resting: Arc<Resting>,
        setup: Setup,
        breakers: Breakers,
    ) -> Result<Self, AppendError> {
        let shared = Shared::new(opened.log, opened.state, store, resting, setup, breakers);
        shared.put_missed_back()?;
        shared.update_profile()?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.shared.log.id()
    }

    /// The epoch that this process owns: with a `seq` it makes a cursor that no crash makes ambiguous.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.log.epoch()
    }

    /// Looks at the session's state. `look` must be short: the turn waits for it, and it must not call the session.
    pub fn state<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.shared.state())
    }

    /// Sends a message and starts a turn, which goes on whether or not the [`Turn`] is read or kept. The message is durable
    /// before a model is asked.
    ///
    /// A message with a [`UserInput::key`] that was sent before is answered once. The [`Turn`] is then a cursor on the turn that answered it,
    /// with that turn's outcome; or on the turn that runs for it; or, where that turn was cut (by a crash or an interrupt) or failed, a new turn that
    /// answers it. Cancel-safe: when the future is dropped, the message was sent or it was not.
    ///
    /// # Errors
    /// [`SendError::Busy`], [`SendError::Empty`], [`SendError::TooLong`], [`SendError::KeyTaken`], [`SendError::BadKey`], or the log's; the message
    /// is not in the log then.
    pub async fn send(&self, message: impl Into<UserInput>) -> Result<Turn, SendError> {
        self.send_as(message.into(), UserKind::Prompt).await
    }

    /// Like [`Session::send`], for a message that waited for the turn before to end.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn send_follow_up(&self, message: impl Into<UserInput>) -> Result<Turn, SendError> {
        self.send_as(message.into(), UserKind::FollowUp).await
    }

    async fn send_as(&self, input: UserInput, kind: UserKind) -> Result<Turn, SendError> {
        let (message, images) = self.message(input, kind)?;
        self.send_message(message, images).await
    }

    /// Sends a message with those of its images that may not be beside the log yet.
    pub(crate) async fn send_message(&self, message: UserMessage, images: Vec<Image>) -> Result<Turn, SendError> {
        let key = message.key.clone();
        let _sending = match &key {
            Some(key) if !(1..=KEY_BYTES_MAX).contains(&key.len()) => return Err(SendError::BadKey),
            Some(_) => Some(self.shared.sending.lock().await),
            None => None,
        };
        if let Some(key) = &key
            && let Some(turn) = self.sent_before(key, &message).await?
        {
            return Ok(turn);
        }
        self.check_length(&message).await?;
        if self.is_busy() {
            return Err(SendError::Busy);
        }
        // Beside the log before the message that names them.
        self.shared.keep_images(images).await?;
        self.start(None, |shared| shared.append(message).map(|entry| entry.seq))
    }

    /// The event of a message, and its images.
    pub(crate) fn message(
        &self,
        UserInput { text, images, key }: UserInput,
        kind: UserKind,
    ) -> Result<(UserMessage, Vec<Image>), SendError> {
        if text.trim().is_empty() && images.is_empty() {
            return Err(SendError::Empty);
        }
        check_images(&images)?;
        let text = self.shared.hide(text);
        let references = images.iter().map(|image| image.reference().clone()).collect();
        Ok((UserMessage { text, kind, key, images: references }, images))
    }

    /// The turn of a message that was sent with `key` before; nothing where there is none.
    async fn sent_before(&self, key: &str, message: &UserMessage) -> Result<Option<Turn>, SendError> {
        let Some(sent) = self.state(|state| state.keyed.iter().find(|sent| sent.key == key).cloned()) else { return Ok(None) };
        let is_same = |text: &str, images: &[ImageRef]| {
            if text == message.text && images == message.images { Ok(()) } else { Err(SendError::KeyTaken(key.to_owned())) }
        };
        if sent.answered.is_some() {
            let Some(answered) = answered::read(&*self.shared.store, self.id(), &sent).await? else { return Ok(None) };
            is_same(&answered.message.text, &answered.message.images)?;
            let (_, outcome) = watch::channel(Some(Arc::new(answered.outcome)));
            return Ok(Some(Turn::new(self.clone(), answered.first, outcome)));
        }
        if let Some(Message::User { text, images, .. }) = self.message_at(sent.message).await?.as_deref() {
            is_same(text, images)?;
        }
        if let Some(running) = lock(&self.shared.running).as_ref().filter(|running| running.is_turn && running.is_busy()) {
            return Ok(Some(Turn::new(self.clone(), running.first, running.outcome.clone())));
        }
        self.start(None, |shared| {
            let is_last = shared.state().context.last().is_some_and(|last| last.seq == sent.message);
            // Where nothing came of it yet, nothing has to be said.
            if is_last { Ok(sent.message) } else { shared.append(Note { text: ANSWER_AGAIN.to_owned() }).map(|entry| entry.seq) }
        })
        .map(Some)
    }

    /// The message at `seq`; nothing where it cannot be read.
    async fn message_at(&self, seq: Seq) -> Result<Option<Arc<Message>>, StoreError> {
        let known = self.state(|state| state.context.iter().rfind(|slot| slot.seq == seq)?.message.clone());
        if known.is_some() {
            return Ok(known);
        }
        let entry = self.shared.store.read_one(self.id(), seq, Place::default()).await?;
        Ok(entry.and_then(|entry| Message::from_event(&entry.event)).map(Arc::new))
    }

    /// Asks the model again without a new message, after a turn that failed or was stopped.
    ///
    /// # Errors
    /// [`SendError::Busy`], or [`SendError::Empty`] where nothing was ever said.
    pub fn retry(&self) -> Result<Turn, SendError> {
        if self.state(|state| state.context.is_empty()) {
            return Err(SendError::Empty);
        }
        self.start(None, |shared| {
            let text = "The last turn did not come to its end. Go on.".to_owned();
            shared.append(Note { text }).map(|entry| entry.seq)
        })
    }

    /// When the model was to be asked again as the session was left: a server had asked for a wait before the last turn was answered. Reads
    /// what the log has behind the last message.
    ///
    /// # Errors
    /// The store's.
    pub async fn wait_left(&self) -> Result<Option<ModelWaiting>, StoreError> {
        let Some(last) = self.state(|state| state.context.last().map(|slot| slot.seq)) else { return Ok(None) };
        self.shared.log.flush().await?;
        let (mut reader, mut waiting) = (self.shared.store.read(self.id(), last).await?, None);
        let mut asked = String::new();
        while let Some(entry) = reader.next().await? {
            match &entry.event {
                Event::ModelRequest(request) => {
                    asked = origin_name(&request.origin);
                    waiting = None;
                }
                Event::ModelError(ModelError { kind, retry_at: Some(until), .. }) => {
                    waiting = Some(ModelWaiting { model: asked.clone(), reason: kind.clone(), until: *until });
                }
                Event::ModelWaiting(until) => waiting = Some(until.clone()),
                _ => {}
            }
        }
        Ok(waiting)
    }

    /// Goes on with a turn that was left while it waited for a model ([`Session::wait_left`]): waits until the same time, and asks. No message
    /// is added. Where another model answers by now, it is asked at once.
    ///
    /// # Errors
    /// [`SendError::Busy`], or the log's.
    pub fn go_on_waiting(&self, waiting: ModelWaiting) -> Result<Turn, SendError> {
        let is_other = waiting.model != crate::runtime::model_name(&*lock(&self.shared.setup).model);
        let until = if is_other { lock(&self.shared.setup).clock.now() } else { waiting.until };
        self.start(Some(until), |shared| shared.append(ModelWaiting { until, ..waiting }).map(|entry| entry.seq))
    }

    /// Starts a turn with the event that `open` appends; it asks no model before `not_before`. Whoever is first wins; a second one is busy.
    fn start(
        &self,
        not_before: Option<Timestamp>,
        open: impl FnOnce(&Shared) -> Result<Seq, AppendError>,
    ) -> Result<Turn, SendError> {
        let mut running = lock(&self.shared.running);
        if running.as_ref().is_some_and(Running::is_busy) {
            return Err(SendError::Busy);
        }
        self.shared.put_missed_back()?;
        self.shared.update_profile()?;
        let first = open(&self.shared)?;
        let (report, outcome) = watch::channel(None);
        let interrupt = Interrupt::new();
        let by = Arc::default();
        let task = TurnTask::new(Arc::clone(&self.shared), interrupt.clone(), Arc::clone(&by), first, not_before);
        let task = tokio::spawn(task.run(report));
        *running = Some(Running { is_turn: true, first, interrupt, by, outcome: outcome.clone(), task: Some(task) });
        drop(running);
        Ok(Turn::new(self.clone(), first, outcome))
    }

    /// Refuses a message that cannot fit even alone; a message whose bytes fit is not counted.
    pub(crate) async fn check_length(&self, message: &UserMessage) -> Result<(), SendError> {
        let text = &message.text;
        let images: u64 = message.images.iter().map(image_tokens).sum();
        let budget = self.shared.budget();
        let profile = self.state(|state| state.profile.clone());
        let known = self.shared.known_profile_bytes(profile.as_ref());
        let fixed = known.unwrap_or_else(|| profile.map_or(0, |profile| KnownProfile::new(&profile).bytes));
        if (text.len() + fixed) as u64 + images <= budget.input {
            return Ok(());
        }
        let factor = self.shared.model().limits().token_factor;
        let owned = text.to_owned();
        let counted = tokio::task::spawn_blocking(move || crate::tokens::count_tokens(&owned)).await.unwrap_or(text.len() as u64);
        let tokens = (counted as f64 * factor).ceil() as u64 + images;
        // The system prompt and the tools are estimated by the usual four bytes a token.
        let room = budget.input.saturating_sub(fixed as u64 / 4);
        if tokens > room { Err(SendError::TooLong { tokens, room }) } else { Ok(()) }
    }

    /// Gives a message to the turn that runs: it is in the log at once, and the model sees it after the current tools. One that comes too late, because the turn
    /// is stopped or fails before it asks again, is not sent by itself: from the end of the turn on it waits, as one of [`Session::queued`]. A key
    /// says nothing here. Waits only where a text is so long that it has to be counted, or for images. Cancel-safe: when the future is dropped, the message was
    /// taken or it was not.
    ///
    /// # Errors
    /// [`SendError::Idle`] where no turn runs, [`SendError::Empty`], [`SendError::TooLong`], [`SendError::TooManyImages`], or the log's; the message is not in
    /// the log then.
    pub async fn steer(&self, message: impl Into<UserInput>) -> Result<Seq, SendError> {
        let (message, images) = self.message(UserInput { key: None, ..message.into() }, UserKind::Steer)?;
        if self.state(|state| state.turn.is_none()) {
            return Err(SendError::Idle);
        }
        self.check_length(&message).await?;
        self.shared.keep_images(images).await?;
        let message = Event::from(message);
        // After `turn.ended` nobody would answer it, also while the turn's task is still at its end.
        let entry = self.shared.append_if(|state| state.turn.is_some().then_some(message))?.ok_or(SendError::Idle)?;
        self.shared.log.start_commit(entry.seq);
        Ok(entry.seq)
    }

    /// Stops the turn that runs, if one does, and keeps what came. `by` says who: `user`, `SIGINT`, ... A second time, what its
    /// tools left running is killed at once, without the two seconds that it has to end by itself.
    pub fn interrupt(&self, by: &str) {
        if let Some(running) = &*lock(&self.shared.running) {
            if running.interrupt.is_raised() {
                crate::tools::reaper().kill(self.id());
            }
            lock(&running.by).get_or_insert_with(|| by.to_owned());
            running.interrupt.raise();
        }
        summary::call_off(&self.shared);
    }

    /// The interrupt of the turn that runs, for a signal handler that can only set a flag.
    #[must_use]
    pub fn interrupt_handle(&self) -> Option<Interrupt> {
        lock(&self.shared.running).as_ref().map(|running| running.interrupt.clone())
    }

    /// Whether a turn runs.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.shared.is_busy()
    }

    /// The todo list: a cached read.
    #[must_use]
    pub fn todos(&self) -> Arc<Vec<Todo>> {
        self.shared.todos.get()
    }

    /// Tells the model something, without a turn: it is sent with the next message.
    ///
    /// # Errors
    /// [`SendError::Empty`], or the log's.
    pub fn note(&self, text: &str) -> Result<Seq, SendError> {
        let text = self.shared.words(text)?;
        Ok(self.shared.append(Note { text })?.seq)
    }

    /// Names the session; empty takes the name away.
    ///
    /// # Errors
    /// The log's.
    pub fn rename(&self, name: &str) -> Result<Seq, SendError> {
        let name = self.shared.hide(name.trim().to_owned());
        Ok(self.shared.append(SessionRenamed { name })?.seq)
    }

    /// Another model answers from the next turn on.
    ///
    /// # Errors
    /// [`SendError::Busy`].
    pub fn set_model(&self, model: Arc<dyn Model>) -> Result<(), SendError> {
        self.change(|setup| setup.model = model)
    }

    /// The model may reason this much from the next turn on: `off`, `low`, `medium`, `high`.
    ///
    /// # Errors
    /// [`SendError::Busy`].
    pub fn set_effort(&self, effort: &str) -> Result<(), SendError> {
        self.change(|setup| setup.effort = Some(effort.to_owned()))
    }

    /// Allows as much again as [`Setup::spending`](crate::Setup::spending) says, beyond what was used; for whoever was asked after a turn ended with
    /// [`EndReason::Budget`](crate::EndReason::Budget). That holds for each limit that is used up: the session's own, and those of the sessions that it works for.
    pub fn allow_more(&self) {
        if let Some(purse) = &self.shared.purse {
            purse.raise();
        }
    }

    /// Other permissions hold from the next tool call on.
    pub fn set_permissions(&self, permissions: crate::Permissions) {
        lock(&self.shared.setup).permissions = permissions;
    }

    fn change(&self, change: impl FnOnce(&mut Setup)) -> Result<(), SendError> {
        if self.is_busy() {
            return Err(SendError::Busy);
        }
        change(&mut lock(&self.shared.setup));
        *lock(&self.shared.profile) = None;
        Ok(())
    }

    /// Trims the context now, as deep as it goes; how many messages left it.
    ///
    /// # Errors
    /// [`SendError::Busy`], or the log's.
    pub async fn trim(&self) -> Result<usize, SendError> {
        if self.is_busy() {
            return Err(SendError::Busy);
        }
        Ok(crate::agent_loop::trim(&self.shared, 0, "user").await?.unwrap_or(0))
    }

    /// Lets a model sum up what can leave the context, above all what is to be kept, and then trims it as deep as it goes, with the summary in the trim's
    /// note. Where there is none (a failed call, a budget that is used up), it is trimmed without. Like a turn it is stopped by [`Session::interrupt`], which
    /// leaves the context as it is, and nothing else can be sent meanwhile. Dropping the future stops it as well.
    ///
    /// # Errors
    /// [`SendError::Busy`], or the log's.
    pub async fn compact(&self, keep: Option<&str>) -> Result<Compacted, SendError> {
        let interrupt = Interrupt::new();
        let (busy, outcome) = watch::channel(None);
        {
            let mut running = lock(&self.shared.running);
            if running.as_ref().is_some_and(Running::is_busy) {
                return Err(SendError::Busy);
            }
            self.shared.update_profile()?;
            let (first, by, interrupt) = (self.shared.state().next_seq, Arc::default(), interrupt.clone());
            *running = Some(Running { is_turn: false, first, interrupt, by, outcome, task: None });
        }
        self.shared.begin_with_first_model();
        if let Some(task) = summary::call_off(&self.shared) {
            let _ = task.await;
        }
        let keep = keep.map(|keep| self.shared.hide(keep.to_owned()));
        let made = summary::make(&self.shared, &interrupt, keep, 0).await;
        let mut compacted = Compacted { messages: 0, without_summary: made.err() };
        compacted.messages = tokio::select! {
            biased;
            () = interrupt.raised() => 0,
            trimmed = crate::agent_loop::trim(&self.shared, 0, "user") => trimmed?.unwrap_or(0),
        };
        drop(busy);
        Ok(compacted)
    }

    /// About how many tokens the next request takes, and how many there is room for.
    pub async fn context_size(&self) -> (u64, u64) {
        (crate::agent_loop::estimate(&self.shared).await, self.shared.budget().input)
    }

    /// How far the log is, and what is wrong with its store right now.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.log.progress()
    }

    /// Returns when all that happened is durable.
    ///
    /// # Errors
    /// The store's.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.log.flush().await
    }

    /// Interrupts the turn, waits for it, and lets go of the session. Idempotent.
    ///
    /// # Errors
    /// The store's.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.stop_turn("shutdown").await;
        self.shared.append_closing_checkpoint();
        self.shared.log.close().await
    }

    pub(crate) async fn stop_turn(&self, by: &str) {
        if self.is_busy() {
            self.interrupt(by);
        }
        let task = lock(&self.shared.running).as_mut().and_then(|running| running.task.take());
        if let Some(task) = task {
            // A panic in the task was already told as the turn's outcome.
            let _ = task.await;
        }
        if let Some(task) = summary::call_off(&self.shared) {
            let _ = task.await;
        }
    }
}
