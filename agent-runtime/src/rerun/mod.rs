//! A stored session run again, without a model and without tools: [`rerun`].
//!
//! Two questions are answered. **Can each request be built again, byte for byte, from the log alone?** Its body is built by the recorded
//! profile and limits and held against the recorded hash (`rebuild.rs`). **Would the present program send the same?** The loop itself runs over the session:
//! a model and tools play the recorded answers and results back, and the recorded log stands in for the log (`recording.rs`), so that every
//! event gets the place that it had. The first request that would be another one is told as a diff, with what made the difference.
//!
//! What people, servers and the machine did is taken from the log: messages, notes, rewinds, interrupts, approvals, what an endpoint refused, how often a
//! call was tried again, and how long anything took (nothing waits). What the program makes of it is made again: trims, the shortening of long results, the checks of
//! arguments, every word that the loop says to the model. A turn in which something happened that cannot be played (a crash, a full disk, a defect in a tool) is run
//! as far as it can be; the rest of it is taken as recorded, and told in [`Rerun::left_out`].

mod diff;
mod players;
mod rebuild;
mod recording;

use crate::agent_loop::TurnTask;
use crate::breaker::{BreakerPolicy, Breakers};
use crate::interrupt::Interrupt;
use crate::model::{Conversation, Model};
use crate::models::ModelTable;
use crate::permissions::{PermissionMode, Permissions};
use crate::projection::{PROJECTION_VERSION, project};
use crate::providers;
use crate::request::RequestBuilder;
use crate::retry::RetryPolicy;
use crate::runtime::Setup;
use crate::session::{Shared, lock};
use crate::tool::Tool;
use players::{PlayedApprover, PlayedModel, PlayedTool};
use rebuild::{Rebuilder, Rebuilt, hydrate, is_own};
use recording::{RecordedStore, Recording, Stop, is_passed_over, without_place};
use serde::Serialize;
use session_store::{
    Entry, Event, Origin, Parameters, Profile, Seq, SessionId, SessionLog, SessionStore, SideRef, State, StoreError, ToolSpec,
    UserKind,
};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The present model for an origin, with what its endpoint had refused by then ([`Model::learned`]); nothing where nobody knows how such a model is
/// asked. Only its limits and its bodies are used: it is never called, and needs no key.
pub type BuildModel = Arc<dyn Fn(&Origin, &[String]) -> Option<Arc<dyn Model>> + Send + Sync>;

/// The program as it is now, as far as a session depends on it.
#[derive(Clone)]
pub struct Present {
    /// The models.
    pub models: BuildModel,
    /// The tools. They are asked for their specification and never run.
    pub tools: Vec<Arc<dyn Tool>>,
    /// Whether a session may have been given only some of the tools: then a tool that it did not have is no difference.
    pub tools_are_chosen: bool,
    /// The system text; absent: as recorded.
    pub system: Option<String>,
    /// The parameters of requests; absent: as recorded.
    pub parameters: Option<Parameters>,
}

impl Present {
    /// A program with the clients of this crate, what `table` says of their models, and these tools; the system text and the parameters are those of the session.
    #[must_use]
    pub fn with_clients(table: ModelTable, tools: Vec<Arc<dyn Tool>>) -> Self {
        let models = move |origin: &Origin, learned: &[String]| {
            providers::of_origin(origin, learned, table.limits(&origin.provider, &origin.model))
        };
        Self { tools, ..Self::new(Arc::new(models)) }
    }

    /// A program with these models and no tools, whose system text and parameters are those of the session.
    #[must_use]
    pub fn new(models: BuildModel) -> Self {
        Self { models, tools: Vec::new(), tools_are_chosen: false, system: None, parameters: None }
    }
}

/// What came of running a session again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rerun {
    /// The session.
    pub session: SessionId,
    /// How many requests it sent.
    pub requests: u64,
    /// How many of them were built again from the log, byte for byte.
    pub rebuilt: u64,
    /// How many could not be, because the log does not say which limits they kept to (older builds did not write them).
    pub not_recorded: u64,
    /// How many could not be, because nobody knows how their model is asked.
    pub unknown_models: u64,
    /// Those that were built otherwise than they were, by their `seq`.
    pub changed: Vec<Seq>,
    /// How many requests the present loop sent again, with the same bytes.
    pub resent: u64,
    /// How many turns it ran.
    pub turns: u64,
    /// Turns that were not run, or not to their end.
    pub left_out: Vec<LeftOut>,
    /// The first step at which the present program would send something else.
    pub difference: Option<Difference>,
}

impl Rerun {
    /// Whether nothing differs, as far as that can be told.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.changed.is_empty() && self.difference.is_none()
    }
}

/// A turn that was not run to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// The event that opened it.
    pub seq: Seq,
    /// Why.
    pub why: String,
}

/// The first step at which the present program would send something else.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The recorded request; where the present program would ask once more, the last event before that.
    pub seq: Seq,
    /// Which of the session's requests it is, counted from 1.
    pub request: u64,
    /// What differs, in a sentence.
    pub what: String,
    /// What made the difference.
    pub causes: Vec<Cause>,
    /// The lines of both bodies, as JSON, that differ: `-` as recorded, `+` as it would be now. Empty where the recorded body cannot be built again.
    pub diff: String,
}

/// What made a difference, each with what about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "cause", content = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The program: the rules of the projection, the form of a body, what the loop does.
    Code(String),
    /// The profile: the system text, a tool, a parameter.
    Profile(String),
    /// The table of models: a window, a limit of the output.
    Models(String),
}

/// Runs the session `id` of `store` again as the program is at `present`. Only reads; all of the log is held in memory meanwhile. The work is done on a thread of its own; dropping the
/// future calls it off.
///
/// # Errors
/// Where the session cannot be read.
pub async fn rerun(store: Arc<dyn SessionStore>, id: SessionId, present: Present) -> Result<Rerun, StoreError> {
    let mut reader = store.read(id, 0).await?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().await? {
        entries.push(entry);
    }
    let is_cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&is_cancelled));
    let done = tokio::task::spawn_blocking(move || run(id, entries, store, &present, &is_cancelled)).await;
    drop(guard);
    match done {
        Ok(done) => done,
        Err(panic) => Err(StoreError::Lost { id, why: format!("it cannot be run again: {panic}") }),
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// On one thread, so that a recording is played in the same order each time.
fn run(
    id: SessionId,
    entries: Vec<Arc<Entry>>,
    store: Arc<dyn SessionStore>,
    present: &Present,
    is_cancelled: &AtomicBool,
) -> Result<Rerun, StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| StoreError::Lost { id, why: format!("it cannot be run again: {error}") })?;
    let rebuilder = Rebuilder::new(Arc::clone(&present.models));
    let read = |side: &SideRef| runtime.block_on(store.read_side(id, side)).ok();
    let rebuilt = rebuilder.all(&entries, read, || is_cancelled.load(Ordering::Relaxed));
    let count = |is: fn(&Rebuilt) -> bool| rebuilt.iter().filter(|(_, rebuilt)| is(rebuilt)).count() as u64;
    let changed = rebuilt.iter().filter(|(_, rebuilt)| matches!(rebuilt, Rebuilt::Changed(_))).map(|(at, _)| entries[*at].seq);
    let mut report = Rerun {
        session: id,
        requests: rebuilt.len() as u64,
        rebuilt: count(|rebuilt| *rebuilt == Rebuilt::Same),
        not_recorded: count(|rebuilt| matches!(rebuilt, Rebuilt::NotRecorded(_))),
        unknown_models: count(|rebuilt| *rebuilt == Rebuilt::NoModel),
        changed: changed.collect(),
        resent: 0,
        turns: 0,
        left_out: Vec::new(),
        difference: None,
    };
    // What was built with the present limits is as right as what was recorded, where that is not known.
    let also_right = rebuilt.iter().filter_map(|(at, rebuilt)| match rebuilt {
        Rebuilt::NotRecorded(hash) => Some((*at, hash.clone())),
        _ => None,
    });
    let also_right: HashMap<usize, String> = also_right.collect();
    let recording = Arc::new(Recording::new(id, entries, also_right, store));
    let mut again = Again::new(recording, present, &rebuilder, rebuilt.into_iter().collect());
    runtime.block_on(again.run(&mut report, is_cancelled));
    Ok(report)
}

/// The loop over a recorded session.
struct Again<'a> {
    recording: Arc<Recording>,
    present: &'a Present,
    rebuilder: &'a Rebuilder,
    rebuilt: HashMap<usize, Rebuilt>,
    shared: Arc<Shared>,
}

impl<'a> Again<'a> {
    fn new(recording: Arc<Recording>, present: &'a Present, rebuilder: &'a Rebuilder, rebuilt: HashMap<usize, Rebuilt>) -> Self {
        let mut setup = Setup::new(Arc::new(crate::offline::OfflineModel::new()), "/");
        // Every call is decided as it was, and what was tried again is tried again at once.
        let approver: Arc<dyn crate::tool::Approver> = Arc::new(PlayedApprover(Arc::clone(&recording)));
        setup.permissions = Permissions { mode: PermissionMode::Ask, approver: Some(approver), ..Permissions::default() };
        setup.retry = RetryPolicy { retries: u32::MAX, scale: 0.0, ..RetryPolicy::default() };
        // Whether an endpoint was left alone is recorded.
        let breakers = Breakers::new(BreakerPolicy { failures: 0, ..BreakerPolicy::default() });
        let log = Arc::clone(&recording) as Arc<dyn SessionLog>;
        let store = Arc::new(RecordedStore(Arc::clone(&recording))) as Arc<dyn SessionStore>;
        let shared = Arc::new(Shared::new(log, State::default(), store, Arc::default(), setup, breakers));
        recording.attach(&shared);
        Self { recording, present, rebuilder, rebuilt, shared }
    }

    async fn run(&mut self, report: &mut Rerun, is_cancelled: &AtomicBool) {
        let mut at = 0;
        while at < self.recording.entries().len() && !is_cancelled.load(Ordering::Relaxed) {
            let Some(turn) = self.turn_at(at) else {
                self.take_over(at);
                at += 1;
                continue;
            };
            let opening = self.recording.entries()[at].seq;
            let (resent, stop) = self.turn(at, &turn).await;
            report.resent += resent;
            report.turns += 1;
            at = turn.end;
            match stop {
                None => {}
                Some(Stop::Unknown(why)) => {
                    report.left_out.push(LeftOut { seq: opening, why });
                    // What the loop did of it is forgotten.
                    *self.shared.state() = State::default();
                    *lock(&self.shared.requests) = RequestBuilder::default();
                    (0..at).for_each(|before| self.take_over(before));
                }
                Some(stop) => {
                    report.difference = Some(self.difference(stop));
                    return;
                }
            }
        }
    }

    /// Takes an event as it was recorded; a profile as it would be now.
    fn take_over(&self, at: usize) {
        let entry = without_place(&self.recording.entries()[at]);
        let entry = match &entry.event {
            Event::Profile(profile) => Entry { event: self.present_profile(profile).into(), ..entry },
            _ => entry,
        };
        let mut state = self.shared.state();
        state.apply(&entry);
        self.shared.todos.hydrate(&state);
    }

    /// The recorded events of the turn that the event at `at` opens; nothing where it opens none, or none that asks a model.
    fn turn_at(&self, at: usize) -> Option<Range<usize>> {
        let entries = self.recording.entries();
        let start = match &entries[at].event {
            Event::UserMessage(user) if user.kind != UserKind::Steer => at + 1,
            // A turn that was tried again opens with a note.
            Event::Note(_) => {
                let next = entries[at + 1..].iter().find(|entry| !is_passed_over(&entry.event))?;
                matches!(next.event, Event::ModelRequest(_)).then_some(at + 1)?
            }
            Event::ModelRequest(_) => at,
            _ => return None,
        };
        let is_end = |entry: &Arc<Entry>| matches!(entry.event, Event::TurnEnded(_));
        let is_other = |entry: &Arc<Entry>| match &entry.event {
            Event::Opened(_) | Event::Closed(_) | Event::SessionForked(_) => true,
            Event::UserMessage(user) => user.kind != UserKind::Steer,
            _ => false,
        };
        let end = entries[start..].iter().position(|entry| is_end(entry) || is_other(entry));
        let end = end.map_or(entries.len(), |end| start + end + usize::from(is_end(&entries[start + end])));
        let first = (start..end).find_map(|at| self.recording.request(at))?;
        is_own(first).then_some(start..end)
    }

    /// Runs the turn that the event at `opening` opened: how many requests were the same, and why it was stopped, where it was.
    async fn turn(&self, opening: usize, range: &Range<usize>) -> (u64, Option<Stop>) {
        if opening < range.start {
            self.take_over(opening);
        }
        if let Some(why) = self.cannot_be_played(range) {
            return (0, Some(Stop::Unknown(why)));
        }
        if self.prepare(range).is_none() {
            return (0, Some(Stop::Unknown("it is not known how its model is asked".to_owned())));
        }
        let interrupt = Interrupt::new();
        let first = self.recording.entries()[opening].seq;
        let mut task = TurnTask::new(Arc::clone(&self.shared), interrupt.clone(), Arc::default(), first, None);
        self.recording.begin(range.clone(), interrupt);
        tokio::select! {
            biased;
            () = self.recording.stopped() => {}
            _ = task.run_to_end() => self.recording.put_in_rest(),
        }
        self.recording.end()
    }

    /// What happened in a turn that no recording can bring about again.
    fn cannot_be_played(&self, range: &Range<usize>) -> Option<String> {
        let entries = &self.recording.entries()[range.clone()];
        entries.iter().find_map(|entry| match &entry.event {
            Event::Error(error) if matches!(error.scope.as_str(), "tool" | "runtime") => Some(error.message.clone()),
            Event::TurnEnded(ended) => ended.error.clone().filter(|error| error.starts_with("the session could not be stored")),
            _ if !entry.sound => Some("a line of the log cannot be checked".to_owned()),
            _ => None,
        })
    }

    /// Sets up what the turn was run with; nothing where nobody knows how one of its models is asked.
    fn prepare(&self, range: &Range<usize>) -> Option<()> {
        let mut requests = range.clone().filter_map(|at| self.recording.request(at)).peekable();
        let first = *requests.peek()?;
        let mut origins: Vec<&Origin> = Vec::new();
        for request in requests {
            // Models are asked one after the other, and none again once another was asked.
            if !origins.contains(&&request.origin) {
                origins.push(&request.origin);
            }
        }
        let played = |origin: &&Origin| PlayedModel::new(origin, &self.recording, &self.present.models);
        let models: Option<Vec<_>> = origins.iter().map(|origin| Some(Arc::new(played(origin)?) as Arc<dyn Model>)).collect();
        let mut models = models?.into_iter();
        let profile = self.shared.state().profile.clone();
        let chosen = self.present_tools(profile.as_deref());
        let mut setup = lock(&self.shared.setup);
        setup.model = models.next()?;
        setup.fallbacks = models.collect();
        setup.tools = chosen.iter().map(|tool| Arc::new(PlayedTool::new(tool, &self.recording)) as Arc<dyn Tool>).collect();
        setup.context_window = match first.limits {
            Some(limits) => limits.window_asked.then_some(limits.context_window),
            // Which trims there were is recorded, and not why.
            None => Some(u64::from(u32::MAX)),
        };
        setup.max_model_calls = self.recording.entries()[range.clone()].iter().find_map(|entry| match &entry.event {
            Event::TurnEnded(ended) if matches!(ended.reason.as_str(), "max_turns" | "budget") => Some(ended.model_calls),
            _ => None,
        });
        Some(())
    }

    fn present_tools(&self, recorded: Option<&Profile>) -> Vec<Arc<dyn Tool>> {
        let is_known =
            |spec: &ToolSpec| recorded.is_some_and(|recorded| recorded.tools.iter().any(|tool| tool.name == spec.name));
        let tools = self.present.tools.iter();
        tools.filter(|tool| !self.present.tools_are_chosen || is_known(&tool.spec())).cloned().collect()
    }

    /// What the program would write in the place of `recorded` now.
    fn present_profile(&self, recorded: &Profile) -> Profile {
        if recorded.projection == 0 {
            return recorded.clone();
        }
        Profile {
            hash: String::new(),
            model: recorded.model.clone(),
            system: self.present.system.clone().unwrap_or_else(|| recorded.system.clone()),
            tools: self.present_tools(Some(recorded)).iter().map(|tool| tool.spec()).collect(),
            parameters: self.present.parameters.clone().unwrap_or_else(|| recorded.parameters.clone()),
            projection: PROJECTION_VERSION,
        }
        .sealed()
    }

    fn difference(&self, stop: Stop) -> Difference {
        let entries = self.recording.entries();
        let number = |upto: usize| {
            entries[..upto].iter().filter(|entry| matches!(&entry.event, Event::ModelRequest(request) if is_own(request))).count()
                as u64
                + 1
        };
        match stop {
            Stop::OtherRequest(at) => self.other_request(at, number(at)),
            Stop::OneLess(at) => Difference {
                seq: entries[at].seq,
                request: number(at),
                what: "the present program ends the turn where the session asked the model again".to_owned(),
                causes: vec![Cause::Code("the loop".to_owned())],
                diff: String::new(),
            },
            Stop::OneMore(seq) => Difference {
                seq,
                request: number(entries.partition_point(|entry| entry.seq <= seq)),
                what: "the present program asks the model again where the turn was over".to_owned(),
                causes: vec![Cause::Code("the loop".to_owned())],
                diff: String::new(),
            },
            Stop::Unknown(what) => Difference { seq: 0, request: 0, what, causes: Vec::new(), diff: String::new() },
        }
    }

    /// The request at `at` would be another one.
    fn other_request(&self, at: usize, number: u64) -> Difference {
        let entries = self.recording.entries();
        let mut state = State::default();
        entries[..at].iter().for_each(|entry| state.apply(entry));
        hydrate(&mut state, entries);
        let Event::ModelRequest(request) = &entries[at].event else { return self.difference(Stop::Unknown(String::new())) };
        // The request that differs was built just now, so that its images are known.
        let images = lock(&self.shared.requests).images().clone();
        let now = {
            let budget = self.shared.budget();
            let state = self.shared.state();
            state.profile.as_ref().map(|profile| project(&state, profile, &images, &request.origin, budget.output))
        };
        let (Some(now), Some((then, then_body))) = (now, self.rebuilder.build(&state, &images, request)) else {
            return self.difference(Stop::Unknown("the request cannot be built".to_owned()));
        };
        let now_body = self.shared.model().body(&now);
        let is_rebuilt = !matches!(self.rebuilt.get(&at), Some(Rebuilt::Changed(_)));
        let mut causes = Vec::new();
        if !is_rebuilt {
            let what =
                "the request cannot be built from the log as it was: the rules of the projection or the form of the body changed";
            causes.push(Cause::Code(format!("{what} (version {PROJECTION_VERSION})")));
        }
        causes.extend(profile_causes(&then.profile, &now.profile));
        causes.extend(self.model_causes(request, &then, &now));
        if causes.is_empty() {
            causes.push(Cause::Code("the loop makes something else of what happened".to_owned()));
        }
        let diff = if is_rebuilt { diff::diff(&diff::pretty(&then_body), &diff::pretty(&now_body)) } else { String::new() };
        let what = format!("the request has {} bytes and would have {}", request.body_bytes, now_body.len());
        Difference { seq: entries[at].seq, request: number, what, causes, diff }
    }

    /// What of the table of models made a difference.
    fn model_causes(&self, request: &session_store::ModelRequest, then: &Conversation, now: &Conversation) -> Vec<Cause> {
        let mut causes = Vec::new();
        let model = format!("{}/{}", request.origin.provider, request.origin.model);
        let is_own = now.profile.parameters.max_output_tokens.is_none();
        if is_own && then.max_output_tokens != now.max_output_tokens {
            let (then, now) = (then.max_output_tokens, now.max_output_tokens);
            causes.push(Cause::Models(format!("the longest answer of `{model}`: {then} tokens, and now {now}")));
        }
        let window = self.shared.model().limits().context_window;
        if let Some(limits) = request.limits
            && !limits.window_asked
            && limits.context_window != window
            && then.messages != now.messages
        {
            causes.push(Cause::Models(format!(
                "the context window of `{model}`: {} tokens, and now {window}",
                limits.context_window
            )));
        }
        causes
    }
}

/// What differs between two profiles.
fn profile_causes(then: &Profile, now: &Profile) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut profile = |what: String| causes.push(Cause::Profile(what));
    if then.system != now.system {
        profile("the system text".to_owned());
    }
    for tool in &then.tools {
        match now.tools.iter().find(|other| other.name == tool.name) {
            None => profile(format!("the tool `{}` is gone", tool.name)),
            Some(now) => {
                if now.description != tool.description {
                    profile(format!("the description of the tool `{}`", tool.name));
                }
                if now.parameters != tool.parameters {
                    profile(format!("the parameters of the tool `{}`", tool.name));
                }
            }
        }
    }
    for tool in now.tools.iter().filter(|tool| !then.tools.iter().any(|other| other.name == tool.name)) {
        profile(format!("the tool `{}` is new", tool.name));
    }
    if then.parameters != now.parameters {
        profile("the parameters".to_owned());
    }
    if then.projection != now.projection {
        causes.push(Cause::Code(format!("the rules of the projection: version {}, and now {}", then.projection, now.projection)));
    }
    causes
}
