//! Connects the state machine to the world: one loop that waits for keys, events of the turn, questions, signals and time, and does what the state machine wants
//! done. What takes a while is a [`Job`], polled by the same loop, so that typing never waits.

use super::approval::{Ask, ChatApprover};
use super::attached::{Attached, references};
use super::complete::{Completion, Lookup};
use super::external_editor::ExternalEditor;
use super::feed::sentence;
use super::find::{self, Behind, Said};
use super::history::History;
use super::keys;
use super::live_area::Size;
use super::markdown::Look;
use super::picker::Picker;
use super::screen::{self, Screen};
use super::seam;
use super::shell::{self, Ran};
use super::slash::Slash;
use super::styled::{DIM, ERROR, GOOD, Line, PLAIN, WARN};
use super::ui::{Effect, Start, TICK, Ui, Waiting, Work};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::handoff;
use crate::resolve::short_id;
use crate::safe_text::safe_line;
use crate::setup::{Opened, Plan, SessionChoice, kept_words};
use crate::signals::{Caught, Signals};
use agent_runtime::session_store::{
    Clock, Event, Owner, Progress, SearchIndex, Seq, SessionId, SessionSummary, SystemClock, with_images,
};
use agent_runtime::{
    Approver, EndReason, Interrupt, Model, PermissionMode, SendError, Session, Turn, TurnEvent, TurnOutcome, UserInput,
    check_images,
};
use crossterm::event::{Event as TerminalEvent, EventStream};
use futures_util::future::OptionFuture;
use futures_util::{FutureExt, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};

/// How long a new size has to last before something is painted for it. While a window is dragged, a terminal multiplexer resizes its screen at once and tells of it
/// up to 250 ms later; a painting in between would erase too little, or too much.
const RESIZE_SETTLES: Duration = Duration::from_millis(300);
/// The shortest time between two paintings that nobody's key asked for.
const FRAME: Duration = Duration::from_millis(16);
/// How many events of a turn are taken in before the next painting.
const EVENTS_AT_ONCE: usize = 256;
/// How many lines of a `!` command's output are shown.
const SHELL_LINES_SHOWN: usize = 200;

/// A folder that is read within this is waited for, so that keys which come together, as from a script, are taken in their order.
const LOOKUP_AT_ONCE: Duration = Duration::from_millis(50);
/// How long leaving waits for a file that is being written.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);

/// Something that takes a while.
pub(super) type Job<'a> = Pin<Box<dyn Future<Output = Done> + 'a>>;

/// An image on its way from its file.
pub(super) type ReadImage = Pin<Box<dyn Future<Output = Result<Attached, CliError>>>>;

/// What came of a job.
pub(super) enum Done {
    /// A message was sent (or not, and then it is given back, or waits on).
    Started { message: Outgoing, session: Session, notice: Option<String>, turn: Result<Turn, String> },
    /// The session that a message was for could not be opened: it is given back with what waited for it.
    NotOpened { message: Outgoing, pending: Pending, why: String },
    /// A turn is over, and so is what its end had to wait for.
    TurnOver(Arc<TurnOutcome>),
    /// Another session was opened.
    Opened(Result<Opened, CliError>),
    /// The session was let go of.
    Closed(Result<(), String>),
    /// The sessions there are.
    Listed(Result<Vec<SessionSummary>, CliError>),
    /// A command of the person's ended: how, where it did not go well.
    Shell(Option<String>),
    /// The session was let go of, because somebody asked for it.
    LetGo(Arc<Owner>, Result<(), String>),
    /// An image was read.
    Image(Result<Attached, CliError>),
    /// Something to say.
    Told(Vec<Line>),
}

/// A message on its way.
pub(super) enum Outgoing {
    New(String, Vec<Attached>),
    Waited(Waiting),
}

impl Outgoing {
    /// What the person sees of it.
    fn words(&self) -> String {
        match self {
            Self::New(text, images) => with_images(text, &references(images)).into_owned(),
            Self::Waited(waiting) => waiting.words().into_owned(),
        }
    }
}

/// What is to be changed in a session once there is one.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) model: Option<Arc<dyn Model>>,
    pub(super) effort: Option<String>,
    pub(super) name: Option<String>,
    /// What the model is to be told with the next message.
    notes: Vec<String>,
}

/// A chat in a terminal.
pub(super) struct Chat<'a> {
    pub(super) app: &'a App,
    pub(super) plan: &'a Plan,
    pub(super) ui: Ui,
    screen: Screen,
    keys: Option<EventStream>,
    pub(super) approver: Arc<dyn Approver>,
    asks: mpsc::Receiver<Ask>,
    /// What the first message opens.
    choice: SessionChoice,
    pub(super) session: Option<Session>,
    turn: Option<Turn>,
    job: Option<Job<'a>>,
    /// Ends the wait of a job for a disk that does not answer.
    give_up: Interrupt,
    /// The job is this command of the person's, which may be dropped.
    shell: Option<shell::Running>,
    /// The job writes a file of the person's, which is not to be left half written.
    is_export: bool,
    /// An image that is read while a turn runs.
    pub(super) image: Option<ReadImage>,
    /// A slow folder that is read; one at a time. It changes nothing, so that it may be left behind.
    lookup: Option<JoinHandle<(Lookup, Completion)>>,
    /// What the store takes is counted, once; it may be left behind.
    counting: Option<JoinHandle<Option<String>>>,
    /// Old sessions are made cold, until the first message.
    keeping: Option<JoinHandle<()>>,
    /// The search index is brought up to date; never while a turn or a job runs.
    indexing: Option<Behind<()>>,
    /// What the list of sessions looks for in them.
    finding: Option<Behind<Said>>,
    /// Somebody pressed Esc before the turn had begun.
    stop_wanted: bool,
    pub(super) pending: Pending,
    /// The mode that was chosen with `/permissions`.
    pub(super) mode: Option<PermissionMode>,
    progress: Option<watch::Receiver<Progress>>,
    is_in_trouble: bool,
    /// Somebody asks for the session.
    asked: Option<Arc<Owner>>,
    /// The session's events go to the rescue folder, and the person was told.
    is_rescued: bool,
    last_paint: Option<Instant>,
    /// The terminal's size, and when it last changed.
    size: (Size, Option<Instant>),
    signals: Signals,
    job_control: JobControl,
    /// How the chat ends, once it does.
    exit: Option<Result<Exit, CliError>>,
}

/// The signals of job control.
struct JobControl {
    stop: Signal,
    go_on: Signal,
}

impl JobControl {
    fn catch() -> Result<Self, CliError> {
        let catch = |name: rustix::process::Signal| signal(SignalKind::from_raw(name.as_raw()));
        let failed = |error| CliError::failed(format!("cannot catch signals: {error}"));
        Ok(Self {
            stop: catch(rustix::process::Signal::TSTP).map_err(failed)?,
            go_on: catch(rustix::process::Signal::CONT).map_err(failed)?,
        })
    }
}

impl<'a> Chat<'a> {
    /// Takes the terminal and shows the first prompt, with `images` for the first message.
    ///
    /// # Errors
    /// The terminal cannot be used, or job control not be caught.
    pub(super) fn new(app: &'a App, plan: &'a Plan, images: Vec<Attached>, signals: Signals) -> Result<Self, CliError> {
        let job_control = JobControl::catch()?;
        let screen = Screen::take(app).map_err(|error| CliError::failed(format!("cannot use this terminal: {error}")))?;
        let (approver, asks) = ChatApprover::new();
        let ui = Ui::new(Start {
            look: if app.colors_stdout() { Look::Styled } else { Look::Plain },
            size: screen::size(),
            cwd: plan.cwd().to_owned(),
            history: History::new(plan.is_kept().then(|| app.home().join("history"))),
            tools: plan.tools().to_vec(),
        });
        let mut chat = Self {
            app,
            plan,
            ui,
            screen,
            keys: None,
            approver: Arc::new(approver),
            asks,
            choice: plan.choice,
            session: None,
            turn: None,
            job: None,
            give_up: Interrupt::new(),
            shell: None,
            is_export: false,
            image: None,
            lookup: None,
            counting: None,
            keeping: None,
            indexing: None,
            finding: None,
            stop_wanted: false,
            pending: Pending::default(),
            mode: None,
            progress: None,
            is_in_trouble: false,
            asked: None,
            is_rescued: false,
            last_paint: None,
            size: (screen::size(), None),
            signals,
            job_control,
            exit: None,
        };
        images.into_iter().for_each(|image| chat.ui.attach(image));
        chat.welcome();
        chat.screen.paint(&mut chat.ui, Instant::now());
        Ok(chat)
    }

    /// Runs until somebody leaves.
    ///
    /// # Errors
    /// The session that was asked for at the start cannot be opened.
    pub(super) async fn run(&mut self) -> Result<Exit, CliError> {
        self.keys = Some(EventStream::new());
        self.start();
        self.counting = self.plan.count_quota();
        self.keeping = Some(self.plan.keep_cold());
        loop {
            if let Some(exit) = self.exit.take() {
                return exit;
            }
            if self.screen.has_failed() {
                return Ok(Exit::Done);
            }
            let repaint = self.repaint();
            tokio::select! {
                event = next_key(&mut self.keys) => match event {
                    Some(Ok(event)) => self.terminal_event(event).await,
                    // The terminal is gone.
                    Some(Err(_)) | None => self.exit = Some(Ok(Exit::Done)),
                },
                event = next_event(&mut self.turn) => self.turn_event(event),
                Some(done) = OptionFuture::from(self.job.as_mut()) => {
                    self.job = None;
                    self.done(done).await;
                }
                Some(read) = OptionFuture::from(self.image.as_mut()) => {
                    self.image = None;
                    self.image_read(read);
                }
                Some(found) = OptionFuture::from(self.lookup.as_mut()) => {
                    self.lookup = None;
                    self.found(found.ok());
                }
                Some(counted) = OptionFuture::from(self.counting.as_mut()) => {
                    self.counting = None;
                    if let Ok(Some(warning)) = counted {
                        self.ui.tell(&warning, WARN);
                    }
                }
                Some(_) = OptionFuture::from(self.keeping.as_mut()) => self.keeping = None,
                Some(()) = OptionFuture::from(self.indexing.as_mut()) => self.indexed(),
                Some(said) = OptionFuture::from(self.finding.as_mut()) => {
                    self.finding = None;
                    self.last_paint = None;
                    self.ui.was_said(&said.query, said.sessions);
                }
                Some(ask) = self.asks.recv() => self.ask(ask),
                why = summary_failed(&self.session) => self.ui.tell(&format!("There is no summary of older steps: {}", sentence(&why)), DIM),
                progress = next_progress(&mut self.progress) => self.store_trouble(progress),
                caught = self.signals.next() => self.caught(caught),
                Some(()) = self.job_control.stop.recv() => self.suspend().await,
                Some(()) = self.job_control.go_on.recv() => self.go_on(),
                () = self.screen.written() => {}
                Some(()) = OptionFuture::from(repaint.map(tokio::time::sleep)) => {}
            }
        }
    }

    /// Gives the terminal back. What is to be said when all is durable.
    pub(super) async fn leave(mut self) -> Option<String> {
        let export = self.job.take().filter(|_| self.is_export);
        self.keys = None;
        self.screen.give(&mut self.ui).await;
        if let Some(export) = export {
            let _ = tokio::time::timeout(EXPORT_WITHIN, export).await;
        }
        let session = self.session.as_ref().filter(|_| self.plan.is_kept())?;
        let has_words = session.state(|state| state.messages > 0);
        has_words.then(|| format!("To go on with this session: longhand -r {}\n", short_id(session.id())))
    }

    /// Paints, if it is time; else tells how long until it is.
    fn repaint(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let size = screen::size();
        if size != self.size.0 {
            self.size = (size, Some(now));
        }
        let settles = self.size.1.and_then(|changed| RESIZE_SETTLES.checked_sub(now.duration_since(changed)));
        if settles.is_some_and(|wait| !wait.is_zero()) {
            return settles;
        }
        let since = self.last_paint.map_or(FRAME, |last| now.duration_since(last));
        if (self.turn.is_some() || self.shell.is_some()) && since < FRAME {
            return Some(FRAME - since);
        }
        if let Some(shell) = &mut self.shell {
            self.ui.turn_event(&TurnEvent::ToolDelta(shell.news()));
        }
        self.ui.size = self.size.0;
        self.screen.paint(&mut self.ui, now);
        self.last_paint = Some(now);
        self.ui.is_working().then_some(TICK)
    }

    fn welcome(&mut self) {
        let version = env!("CARGO_PKG_VERSION");
        self.ui
            .tell(&format!("longhand {version}: every word is written down as it comes. After a crash: `longhand -c`."), PLAIN);
        let cwd = self.plan.cwd().display();
        let who = match (self.choice, self.plan.model_name()) {
            (SessionChoice::New, Ok(model)) => format!("{model} answers, in {cwd}. "),
            _ => String::new(),
        };
        self.ui.tell(&format!("{who}/help shows the keys and the commands."), DIM);
        if self.choice == SessionChoice::New && self.plan.is_offline_by_default() {
            self.ui.tell(
                "No key is set, so the built-in offline model answers: it is no AI, it shows how things work. \
                 Set ANTHROPIC_API_KEY or OPENAI_API_KEY, or name a model with -m.",
                WARN,
            );
        }
    }

    fn start(&mut self) {
        match self.choice {
            SessionChoice::New => self.plan.warm(),
            SessionChoice::Pick { .. } => self.list(),
            choice => self.open(choice),
        }
        match &self.plan.prompt {
            Some(prompt) if self.job.is_none() => {
                let images = self.ui.take_images();
                self.send(Outgoing::New(prompt.clone(), images));
            }
            Some(prompt) => {
                let images = self.ui.take_images();
                self.ui.queue(prompt.clone(), images);
            }
            None => {}
        }
        self.index_after(find::IDLE);
    }

    async fn terminal_event(&mut self, event: TerminalEvent) {
        let now = Instant::now();
        let effect = match event {
            TerminalEvent::Key(event) => keys::key(event).and_then(|key| self.ui.key(key, now)),
            TerminalEvent::Paste(text) => self.ui.paste(&text, now),
            // A resize needs no more than the painting that follows.
            _ => None,
        };
        // What a key did is seen at once.
        self.last_paint = None;
        if let Some(effect) = effect {
            self.effect(effect).await;
        }
        self.log_waiting().await;
    }

    /// What waits is in the log as soon as there is one. Where that does not take it, the store's trouble is told anyway, and it is tried again. What no
    /// request has room for is given back.
    async fn log_waiting(&mut self) {
        let Some(session) = self.session.clone() else { return };
        for mut waiting in std::mem::take(self.ui.waiting()) {
            if waiting.queued.is_none() {
                match self.signals.unless_caught(session.queue(input(&waiting.text, &waiting.attached))).await {
                    Some(Err(error @ (SendError::TooLong { .. } | SendError::TooManyImages { .. }))) => {
                        self.refused(&waiting.text, waiting.attached, error);
                        continue;
                    }
                    Some(queued) => waiting.queued = queued.ok(),
                    None => self.was_caught(),
                }
            }
            self.ui.waiting().push_back(waiting);
        }
    }

    fn withdraw(&mut self, queued: Seq) {
        if let Some(Err(error)) = self.session.as_ref().map(|session| session.withdraw(queued)) {
            self.ui.tell(&words(&error.into()), ERROR);
        }
    }

    /// The messages that wait are those of `session`, and what was typed for it before there was one.
    fn show_waiting(&mut self, session: Option<&Session>) {
        let waiting = self.ui.waiting();
        waiting.retain(|waiting| waiting.queued.is_none());
        for queued in session.map(Session::queued).unwrap_or_default().into_iter().rev() {
            waiting.push_front(Waiting::logged(queued));
        }
    }

    async fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send(text) => {
                let images = self.ui.take_images();
                self.send(Outgoing::New(text, images));
            }
            Effect::SendWaiting(waiting) => self.send(Outgoing::Waited(waiting)),
            Effect::Withdraw(queued) => self.withdraw(queued),
            Effect::Steer(text) => self.steer(text).await,
            Effect::Command(line, command) => {
                self.ui.said(&line);
                self.command(command);
            }
            Effect::Shell(command) => self.shell(command),
            Effect::Stop => self.stop(),
            Effect::Picked(id) => self.picked(id),
            Effect::FindSaid(query) => self.find_said(query),
            Effect::NotPicked if self.session.is_none() && matches!(self.choice, SessionChoice::Pick { .. }) => {
                self.exit = Some(Ok(Exit::Done));
            }
            Effect::NotPicked => {}
            Effect::Rewind => self.command(Slash::Rewind { undo: false }),
            Effect::GoBack(place) => self.go_back(place),
            Effect::LookUp(lookup) => self.look_up(lookup).await,
            Effect::OpenEditor => self.edit().await,
            Effect::Suspend => self.suspend().await,
            Effect::Redraw => self.screen.redraw(self.ui.size),
            Effect::Leave => self.leave_now(),
        }
    }

    fn find_said(&mut self, query: String) {
        // What was looked for before is nobody's concern any more.
        let store = Arc::clone(self.plan.runtime().store());
        self.finding = Some(find::said(SearchIndex::new(self.app.home()), store, query));
    }

    /// Brings the search index up to date when nothing has happened for a while, if sessions are kept at all.
    fn index_after(&mut self, after: Duration) {
        let is_free = self.turn.is_none() && self.job.is_none() && self.plan.is_kept();
        self.indexing = is_free.then(|| {
            let store = Arc::clone(self.plan.runtime().store());
            find::index(SearchIndex::new(self.app.home()), store, after)
        });
    }

    fn indexed(&mut self) {
        self.indexing = None;
        // What was not found before may be there now.
        if let Some(query) = self.ui.picker_query().filter(|query| !query.trim().is_empty()) {
            self.find_said(query);
        }
    }

    async fn look_up(&mut self, lookup: Lookup) {
        if self.lookup.is_some() {
            if lookup.is_tab {
                self.ui.hint("a folder is still being read");
            }
            return;
        }
        let mut reading = spawn_blocking(move || {
            let found = lookup.find();
            (lookup, found)
        });
        match tokio::time::timeout(LOOKUP_AT_ONCE, &mut reading).await {
            Ok(found) => self.found(found.ok()),
            Err(_) => self.lookup = Some(reading),
        }
    }

    /// Shows what a lookup found; nothing where it panicked.
    fn found(&mut self, found: Option<(Lookup, Completion)>) {
        if let Some((lookup, completion)) = found {
            self.last_paint = None;
            self.ui.completed(&lookup, completion);
        }
    }

    pub(super) fn leave_now(&mut self) {
        self.interrupt("user");
        self.exit = Some(Ok(Exit::Done));
    }

    /// Runs `job`, which writes a file that leaving waits for.
    pub(super) fn run_export(&mut self, job: Job<'a>) {
        self.run_job("exporting", job);
        self.is_export = true;
    }

    /// Whether nothing goes on.
    pub(super) fn is_idle(&self) -> bool {
        self.job.is_none() && self.turn.is_none()
    }

    /// Runs `job`, shown as `what`. Nothing else may run: a job in the place of another would drop what that one has in hand, and its end would be taken for
    /// the end of the turn.
    pub(super) fn run_job(&mut self, what: &str, job: Job<'a>) {
        debug_assert!(self.is_idle(), "`{what}` would run beside something else");
        self.ui.begin(Work::Other { what: what.to_owned(), since: Instant::now() });
        self.job = Some(job);
        self.indexing = None;
    }

    /// Runs the job that `make` makes, which waits for the disk of the home first. Esc gives up that wait, and only that.
    pub(super) fn run_opening(&mut self, what: &str, make: impl FnOnce(Interrupt) -> Job<'a>) {
        self.give_up = Interrupt::new();
        self.run_job(what, make(self.give_up.clone()));
        self.ui.waits_for_disk(self.plan.home());
    }

    fn send(&mut self, message: Outgoing) {
        if let Some(keeping) = self.keeping.take() {
            keeping.abort();
        }
        self.ui.said(&message.words());
        self.stop_wanted = false;
        let (plan, approver, choice) = (self.plan, Arc::clone(&self.approver), self.choice);
        let permissions = self.mode.map(|_| self.current_permissions());
        let (session, pending) = (self.session.clone(), std::mem::take(&mut self.pending));
        let send = async move |session: Session, notice, message, pending| {
            if let Some(permissions) = permissions {
                session.set_permissions(permissions);
            }
            let turn = send(&session, &message, pending).await;
            Done::Started { message, session, notice, turn: turn.map_err(|error| words(&error.into())) }
        };
        match session {
            Some(session) => self.run_job("writing it down", Box::pin(send(session, None, message, pending))),
            None => self.run_opening("writing it down", |give_up| {
                Box::pin(async move {
                    match unless_given_up(&give_up, plan.open(choice, Some(approver))).await {
                        Ok(opened) => send(opened.session, opened.notice, message, pending).await,
                        Err(error) => Done::NotOpened { message, pending, why: words(&error) },
                    }
                })
            }),
        }
    }

    async fn steer(&mut self, text: String) {
        if let Some(reading) = self.image.take() {
            match self.signals.unless_caught(reading).await {
                Some(read) => self.image_read(read),
                None => self.was_caught(),
            }
        }
        let images = self.ui.take_images();
        let Some(session) = self.session.clone() else { return self.ui.queue(text, images) };
        match self.signals.unless_caught(session.steer(input(&text, &images))).await {
            Some(Ok(seq)) => self.ui.steered(seq, with_images(&text, &references(&images)).into_owned()),
            // The turn ended in the same moment: the message opens the next one.
            Some(Err(SendError::Idle)) => self.ui.queue(text, images),
            Some(Err(error)) => self.refused(&text, images, error),
            None => self.was_caught(),
        }
    }

    /// A message was not taken: the person has it again.
    fn refused(&mut self, text: &str, images: Vec<Attached>, error: SendError) {
        self.ui.tell(&words(&error.into()), ERROR);
        self.ui.give_back(text);
        images.into_iter().for_each(|image| self.ui.attach(image));
    }

    fn shell(&mut self, command: String) {
        if command.is_empty() {
            self.ui.hint("`!` runs a command, as in `!git status`");
            return;
        }
        self.ui.said(&format!("!{command}"));
        let (cwd, running) = (self.plan.cwd(), shell::Running::new(command.clone()));
        let (what, output) = (command.clone(), running.output.clone());
        self.run_job(&what, Box::pin(async move { Done::Shell(shell::run(&command, cwd, &output).await) }));
        self.ui.begin_shell(&what);
        self.shell = Some(running);
    }

    fn stop(&mut self) {
        if self.turn.is_some() {
            self.interrupt("user");
        } else if self.job.is_some() {
            self.stop_wanted = true;
            self.give_up.raise();
            // A session that is summed up stops as a turn does.
            if self.session.as_ref().is_some_and(Session::is_busy) {
                self.interrupt("user");
            }
            if let Some(running) = self.shell.take() {
                // Dropping it kills the command.
                self.job = None;
                self.shell_ended(&running.ended(Some("stopped by the user".to_owned())), false);
            }
        }
    }

    pub(super) fn interrupt(&mut self, by: &str) {
        if let Some(session) = &self.session {
            session.interrupt(by);
        }
    }

    fn picked(&mut self, id: SessionId) {
        let fork = matches!(self.choice, SessionChoice::Pick { fork: true }) && self.session.is_none();
        self.open(if fork { SessionChoice::Fork { parent: id, at: None } } else { SessionChoice::Resume(id) });
    }

    /// Lists the sessions to pick from.
    pub(super) fn list(&mut self) {
        let store = Arc::clone(self.plan.runtime().store());
        self.run_opening("looking for sessions", |give_up| {
            Box::pin(async move {
                let list = async { store.list().await.map_err(CliError::from) };
                Done::Listed(unless_given_up(&give_up, list).await)
            })
        });
    }

    /// Opens another session; the present one is let go of when that has worked.
    pub(super) fn open(&mut self, choice: SessionChoice) {
        let (plan, approver, before) = (self.plan, Arc::clone(&self.approver), self.session.clone());
        self.run_opening("opening the session", |give_up| {
            Box::pin(async move { Done::Opened(change(plan, approver, before, choice, &give_up).await) })
        });
    }

    async fn done(&mut self, done: Done) {
        self.last_paint = None;
        self.is_export = false;
        match done {
            Done::Started { message, session, notice, turn } => {
                self.use_session(session, notice).await;
                self.started(message, turn);
            }
            Done::NotOpened { message, pending, why } => {
                self.pending = pending;
                self.started(message, Err(why));
            }
            Done::TurnOver(outcome) => self.turn_over(&outcome),
            Done::Opened(Ok(opened)) => {
                self.seam(&opened.session);
                if self.mode.is_some() {
                    opened.session.set_permissions(self.current_permissions());
                }
                self.use_session(opened.session.clone(), opened.notice).await;
                match opened.waiting.map(|waiting| opened.session.go_on_waiting(waiting)) {
                    Some(Ok(turn)) => self.begin_turn(turn),
                    Some(Err(error)) => {
                        self.ui.tell(&words(&error.into()), ERROR);
                        self.over(false);
                    }
                    None => self.over(true),
                }
            }
            Done::Closed(closed) => {
                match closed {
                    Ok(()) => self.ui.tell("A new session starts with the next message.", DIM),
                    Err(why) => self.ui.tell(&why, ERROR),
                }
                self.session = None;
                self.progress = None;
                self.show_waiting(None);
                self.choice = SessionChoice::New;
                self.over(true);
            }
            Done::LetGo(asker, closed) => {
                match closed {
                    Ok(()) => self.ui.tell(
                        &format!(
                            "{} asked for this session, and it was let go. `/resume` goes on with it once it is free; a message starts a new one.",
                            handoff::words(&asker)
                        ),
                        WARN,
                    ),
                    Err(why) => self.ui.tell(&why, ERROR),
                }
                (self.session, self.progress) = (None, None);
                self.show_waiting(None);
                self.choice = SessionChoice::New;
                self.over(false);
            }
            Done::Listed(Ok(sessions)) => {
                self.over(false);
                let own = self.session.as_ref().map(Session::id);
                let others = sessions.into_iter().filter(|session| Some(session.id) != own).collect();
                self.ui.pick(Picker::new(others, SystemClock.now()));
                self.index_after(Duration::ZERO);
            }
            // Whoever asked for a session with `-c` or `-r` gets that one or none: the next message must not start another.
            Done::Opened(Err(error)) | Done::Listed(Err(error))
                if self.session.is_none() && self.choice != SessionChoice::New =>
            {
                self.exit = Some(Err(error));
            }
            Done::Opened(Err(error)) | Done::Listed(Err(error)) => {
                self.ui.tell(&words(&error), ERROR);
                self.over(false);
            }
            Done::Shell(trouble) => {
                if let Some(running) = self.shell.take() {
                    self.shell_ended(&running.ended(trouble), true);
                }
            }
            Done::Image(read) => {
                self.image_read(read);
                self.over(true);
            }
            Done::Told(lines) => {
                self.ui.print(lines);
                self.over(true);
            }
        }
    }

    /// What ran is over: the next message that waits may go.
    fn over(&mut self, ended_well: bool) {
        // Somebody who pressed Esc meant what ran and what waited for it, not what comes later.
        let stopped = std::mem::take(&mut self.stop_wanted);
        if let Some(next) = self.ui.end(ended_well && !stopped && self.asked.is_none()) {
            self.send(Outgoing::Waited(next));
        }
        self.index_after(find::IDLE);
        self.let_go_if_asked();
    }

    /// Closes the session where somebody asks for it and nothing goes on in it; what runs ends first.
    fn let_go_if_asked(&mut self) {
        if self.turn.is_some() || self.job.is_some() || self.session.is_none() {
            return;
        }
        if let Some((asker, session)) = self.asked.take().zip(self.session.clone()) {
            self.run_job(
                "letting go of the session",
                Box::pin(async move { Done::LetGo(asker, session.close().await.map_err(|error| words(&error.into()))) }),
            );
        }
    }

    fn started(&mut self, message: Outgoing, turn: Result<Turn, String>) {
        match turn {
            Ok(turn) => self.begin_turn(turn),
            Err(why) => {
                self.ui.tell(&why, ERROR);
                match message {
                    Outgoing::Waited(waiting @ Waiting { queued: Some(_), .. }) => self.ui.wait_on(waiting),
                    Outgoing::Waited(Waiting { text, attached: images, .. }) | Outgoing::New(text, images) => {
                        self.ui.give_back(&text);
                        images.into_iter().for_each(|image| self.ui.attach(image));
                    }
                }
                self.over(false);
            }
        }
    }

    pub(super) fn begin_turn(&mut self, turn: Turn) {
        self.ui.begin(Work::Turn { since: Instant::now() });
        self.turn = Some(turn);
        if std::mem::take(&mut self.stop_wanted) {
            self.interrupt("user");
        }
    }

    async fn use_session(&mut self, session: Session, notice: Option<String>) {
        if let Some(notice) = notice {
            self.ui.tell(&notice, WARN);
        }
        if self.session.as_ref().map(Session::id) != Some(session.id()) {
            self.progress = Some(session.progress());
            (self.is_in_trouble, self.is_rescued, self.asked) = (false, false, None);
            self.choice = SessionChoice::Resume(session.id());
            self.show_waiting(Some(&session));
        }
        self.session = Some(session);
        self.log_waiting().await;
    }

    fn seam(&mut self, session: &Session) {
        let (look, limit) = (self.ui.look, self.ui.size.limit());
        let lines = session.state(|state| seam::lines(state, look, limit, SystemClock.now()));
        self.ui.print_wrapped(lines);
    }

    fn image_read(&mut self, read: Result<Attached, CliError>) {
        match read.and_then(|image| self.check_attached(image)) {
            Ok(image) => self.ui.attach(image),
            Err(error) => self.ui.tell(&words(&error), ERROR),
        }
    }

    /// Whether the next message may have this image, too.
    fn check_attached(&self, image: Attached) -> Result<Attached, CliError> {
        let images: Vec<_> = self.ui.attached().iter().chain([&image]).map(|attached| attached.image.clone()).collect();
        check_images(&images)?;
        Ok(image)
    }

    fn shell_ended(&mut self, ran: &Ran, ended_well: bool) {
        let all: Vec<&str> = ran.output.lines().collect();
        let mut lines: Vec<Line> = all.iter().take(SHELL_LINES_SHOWN).map(|line| Line::plain(safe_line(line))).collect();
        if all.len() > SHELL_LINES_SHOWN {
            lines.push(Line::new(format!("... {} more lines", all.len() - SHELL_LINES_SHOWN), DIM));
        }
        match &ran.trouble {
            Some(trouble) => lines.push(Line::new(safe_line(trouble), WARN)),
            None if lines.is_empty() => lines.push(Line::new("(no output)", DIM)),
            None => {}
        }
        self.ui.print(lines);
        self.pending.notes.push(ran.note());
        self.over(ended_well);
    }

    /// Shows a question, behind all that happened before it was asked.
    fn ask(&mut self, ask: Ask) {
        while let Some(Some(event)) = next_event(&mut self.turn).now_or_never() {
            self.ui.turn_event(&event);
        }
        self.ui.ask(ask, Instant::now());
    }

    fn turn_event(&mut self, event: Option<TurnEvent>) {
        let mut event = event;
        for _ in 0..EVENTS_AT_ONCE {
            let Some(happened) = event else {
                return self.turn_ended();
            };
            if matches!(&happened, TurnEvent::Entry(entry) if matches!(entry.event, Event::TurnEnded(_))) {
                // From here on a message opens the next turn.
                self.ui.begin(Work::Other { what: "writing it down".to_owned(), since: Instant::now() });
            }
            self.ui.turn_event(&happened);
            match next_event(&mut self.turn).now_or_never() {
                Some(next) => event = next,
                None => return,
            }
        }
        if let Some(happened) = event {
            self.ui.turn_event(&happened);
        }
    }

    fn turn_ended(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.ui.begin(Work::Other { what: "writing it down".to_owned(), since: Instant::now() });
            self.job = Some(Box::pin(async move { Done::TurnOver(turn.outcome().await) }));
        }
    }

    fn turn_over(&mut self, outcome: &TurnOutcome) {
        if let Some(agent_runtime::TurnError::Store(why)) = &outcome.error
            && self.progress.as_ref().is_none_or(|progress| progress.borrow().trouble.is_none())
        {
            // It is over by now, so that nobody else tells of it.
            self.ui.tell(&format!("The session could not be stored: {why}"), ERROR);
        }
        if let Some(session) = &self.session {
            self.ui.missed(session.queued());
        }
        self.over(outcome.reason == EndReason::Done);
    }

    fn store_trouble(&mut self, progress: Option<Progress>) {
        let Some(progress) = progress else {
            self.progress = None;
            return;
        };
        self.asked.clone_from(&progress.asked);
        self.let_go_if_asked();
        let was_rescued = std::mem::replace(&mut self.is_rescued, progress.rescued.is_some());
        self.ui.is_stalled = progress.stalled;
        if let Some(kept) = kept_words(&progress).filter(|_| !was_rescued) {
            self.is_in_trouble = progress.trouble.is_some();
            match progress.trouble {
                Some(lost) => {
                    let words = format!("{} {} `/new` starts another.", sentence(&lost.to_string()), sentence(&kept));
                    self.ui.tell(&words, ERROR);
                }
                None => self.ui.tell(&format!("Nothing is lost: {kept}."), WARN),
            }
            return;
        }
        if was_rescued && !self.is_rescued && progress.trouble.is_none() {
            self.ui.tell("The session's own disk works again and has all of it.", GOOD);
            return;
        }
        match (progress.trouble, self.is_in_trouble) {
            (Some(trouble), false) => {
                self.is_in_trouble = true;
                self.ui.tell(
                    &format!("The session cannot be written: {trouble}. Nothing is lost: all is kept in memory and tried again; do not kill this process."),
                    ERROR,
                );
            }
            (None, true) => {
                self.is_in_trouble = false;
                self.ui.tell("The session is written again; nothing was lost.", GOOD);
            }
            _ => {}
        }
    }

    async fn edit(&mut self) {
        let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| self.app.env(name)).unwrap_or("vi").to_owned();
        self.keys = None;
        self.screen.give(&mut self.ui).await;
        let Some(edited) = self.edited(&editor).await else { return };
        self.go_on();
        self.keys = Some(EventStream::new());
        match edited {
            Ok(text) => self.ui.set_input(text.trim_end()),
            Err(why) => self.ui.tell(&format!("`{editor}` did not work: {why}"), ERROR),
        }
    }

    /// What came out of the editor; nothing where a signal ends the chat, and the editor with it.
    async fn edited(&mut self, command: &str) -> Option<std::io::Result<String>> {
        let mut editor = match ExternalEditor::open(command, &self.ui.input()) {
            Ok(editor) => editor,
            Err(error) => return Some(Err(error)),
        };
        loop {
            tokio::select! {
                edited = editor.text() => return Some(edited),
                caught = self.signals.next() => {
                    // Ctrl-C was typed into the editor; what it means there is for the editor to say.
                    if caught.number == rustix::process::Signal::INT.as_raw() {
                        continue;
                    }
                    self.caught(caught);
                    editor.end().await;
                    return None;
                }
                Some(()) = self.job_control.stop.recv() => {
                    // Where only the editor stops, the shell waits on for this process, and the terminal is nobody's.
                    let _ = rustix::process::kill_current_process_group(rustix::process::Signal::STOP);
                }
                // The terminal is still the editor's.
                Some(()) = self.job_control.go_on.recv() => {}
            }
        }
    }

    /// The same where one came during a wait.
    fn was_caught(&mut self) {
        if let Some(caught) = self.signals.last() {
            self.caught(caught);
        }
    }

    /// A signal ends the chat.
    fn caught(&mut self, caught: Caught) {
        self.interrupt(caught.name);
        self.exit = Some(Ok(Exit::Signal(caught.number)));
    }

    /// Stops this process group, as Ctrl-Z does. It goes on with SIGCONT, which [`Chat::go_on`] answers.
    async fn suspend(&mut self) {
        self.screen.give(&mut self.ui).await;
        if rustix::process::kill_current_process_group(rustix::process::Signal::STOP).is_err() {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        self.size = (screen::size(), None);
        self.last_paint = None;
        if self.screen.take_back().is_err() {
            self.exit = Some(Ok(Exit::Done));
        }
    }
}

/// Opens another session and lets go of the one `before`, which must be durable first: where that fails, it stays the session of the chat.
pub(super) async fn change(
    plan: &Plan,
    approver: Arc<dyn Approver>,
    before: Option<Session>,
    choice: SessionChoice,
    give_up: &Interrupt,
) -> Result<Opened, CliError> {
    if let Some(before) = &before {
        unless_given_up(give_up, async { Ok(before.flush().await?) }).await?;
    }
    let opened = unless_given_up(give_up, plan.open(choice, Some(approver))).await?;
    if let Some(before) = before {
        // It is flushed; what remains is its lock, which goes with this process at the latest.
        let _ = before.close().await;
    }
    Ok(opened)
}

/// The output of `wait`, for a disk, unless somebody gives it up.
pub(super) async fn unless_given_up<T>(
    give_up: &Interrupt,
    wait: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        biased;
        () = give_up.raised() => Err(CliError::failed("stopped before any session was open")),
        done = wait => done,
    }
}

/// Gives the session what waited for it, and then the message.
async fn send(session: &Session, message: &Outgoing, pending: Pending) -> Result<Turn, SendError> {
    if let Some(model) = pending.model {
        session.set_model(model)?;
    }
    if let Some(effort) = pending.effort {
        session.set_effort(&effort)?;
    }
    if let Some(name) = pending.name {
        session.rename(&name)?;
    }
    for note in pending.notes {
        session.note(&note)?;
    }
    match message {
        Outgoing::New(text, images) => session.send(input(text, images)).await,
        Outgoing::Waited(Waiting { queued: Some(queued), .. }) => session.send_queued(*queued).await,
        Outgoing::Waited(Waiting { text, attached, .. }) => session.send_follow_up(input(text, attached)).await,
    }
}

fn input(text: &str, images: &[Attached]) -> UserInput {
    UserInput { text: text.to_owned(), images: images.iter().map(|attached| attached.image.clone()).collect(), key: None }
}

/// What an error says, with what can be done.
pub(super) fn words(error: &CliError) -> String {
    match error {
        CliError::Told { message, hint: Some(hint), .. } => format!("{message}\n{hint}"),
        other => other.to_string(),
    }
}

async fn next_key(keys: &mut Option<EventStream>) -> Option<std::io::Result<TerminalEvent>> {
    match keys {
        Some(keys) => keys.next().await,
        None => std::future::pending().await,
    }
}

async fn next_event(turn: &mut Option<Turn>) -> Option<TurnEvent> {
    match turn {
        Some(turn) => turn.next().await,
        None => std::future::pending().await,
    }
}

/// Why there is no summary that was to be made beside the conversation, during a turn or after it.
async fn summary_failed(session: &Option<Session>) -> String {
    match session {
        Some(session) => session.summary_failed().await,
        None => std::future::pending().await,
    }
}

async fn next_progress(progress: &mut Option<watch::Receiver<Progress>>) -> Option<Progress> {
    match progress {
        Some(progress) => progress.changed().await.ok().map(|()| progress.borrow_and_update().clone()),
        None => std::future::pending().await,
    }
}
