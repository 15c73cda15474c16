//! The model, the tools and the approver that play a recording back.

use super::BuildModel;
use super::recording::{Answered, CUT_OFF, Recording, Stop, is_stopped_without_words};
use crate::clocks::Clocks;
use crate::images::Image;
use crate::model::{Body, Conversation, FailureKind, Model, ModelEvent, ModelFailure, ModelLimits, ModelStream, Sent};
use crate::session::lock;
use crate::tool::{Approval, ApprovalRequest, Approver, Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;
use session_store::{AssistantMessage, Block, Event, ModelError, Origin, ToolFinished, ToolOutcome, ToolSpec};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than anybody waits: a server that asks for such a pause is not asked again.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// A model that says what the recorded one said, and builds the bodies that the present one would.
pub(super) struct PlayedModel {
    origin: Origin,
    limits: ModelLimits,
    recording: Arc<Recording>,
    build: BuildModel,
    /// The present model, by what its endpoint had refused.
    built: Mutex<HashMap<Vec<String>, Arc<dyn Model>>>,
}

impl PlayedModel {
    /// Nothing where nobody knows how such a model is asked.
    pub(super) fn new(origin: &Origin, recording: &Arc<Recording>, build: &BuildModel) -> Option<Self> {
        let limits = build(origin, &[])?.limits();
        let (recording, build) = (Arc::clone(recording), Arc::clone(build));
        Some(Self { origin: origin.clone(), limits, recording, build, built: Mutex::default() })
    }

    /// The present model with what its endpoint refuses at this place.
    fn present(&self) -> Option<Arc<dyn Model>> {
        let learned = self.learned();
        let mut built = lock(&self.built);
        if let Some(model) = built.get(&learned) {
            return Some(Arc::clone(model));
        }
        let model = (self.build)(&self.origin, &learned)?;
        built.insert(learned, Arc::clone(&model));
        Some(model)
    }

    /// The failure that a recorded error tells of. Whether the same model is asked again is as recorded: how often, and how long a server
    /// is waited for, is for those to choose who run a session.
    fn failure(&self, event: &Event) -> ModelFailure {
        let Event::ModelError(ModelError { kind, detail, status, .. }) = event else {
            return ModelFailure::new(FailureKind::Protocol, "no error was recorded");
        };
        let kind = FailureKind::ALL.into_iter().find(|known| known.as_str() == kind).unwrap_or(FailureKind::BadRequest);
        let is_asked_again = self.recording.next_request().is_some_and(|next| next.origin == self.origin);
        let retry_after = (!is_asked_again).then_some(NEVER);
        ModelFailure { kind, detail: detail.clone(), status: *status, retry_after }
    }
}

#[async_trait]
impl Model for PlayedModel {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn limits(&self) -> ModelLimits {
        self.limits
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        self.present().map(|model| model.body(conversation)).unwrap_or_default()
    }

    fn head(&self, conversation: &Conversation) -> Option<Vec<u8>> {
        self.present()?.head(conversation)
    }

    fn messages(&self, messages: &[Sent]) -> Body {
        self.present().map(|model| model.messages(messages)).unwrap_or_default()
    }

    /// What an endpoint refuses is its own matter: as recorded.
    fn learned(&self) -> Vec<String> {
        self.recording.next_request().map(|request| request.learned.clone()).unwrap_or_default()
    }

    async fn call(&self, _body: Body, _clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        let recording = Arc::clone(&self.recording);
        let (message, end) = match recording.answered() {
            None => (None, End::Unknown),
            Some(Answered::Interrupted(message)) => (Some(message), End::Interrupted),
            Some(Answered::By(message, error)) => {
                recording.put_in_during_answer(message, error);
                match (message, error.and_then(|at| recording.entries().get(at))) {
                    (message, Some(entry)) => (message, End::Failed(self.failure(&entry.event))),
                    (Some(message), None) => (Some(message), End::Done),
                    (None, None) => (None, End::Unknown),
                }
            }
        };
        let message = message.and_then(|at| recording.entries().get(at)).and_then(|entry| match &entry.event {
            Event::AssistantMessage(message) => Some(message.clone()),
            _ => None,
        });
        let end = match (&message, end) {
            (None, End::Failed(failure)) => return Err(failure),
            (Some(message), End::Done) if message.partial => End::Unknown,
            (_, end) => end,
        };
        let played = Played { events: message.as_ref().map(|message| events(message, &end)).unwrap_or_default(), end, recording };
        Ok(Box::pin(stream::unfold(played, Played::next)))
    }
}

/// How an answer ends.
enum End {
    Done,
    Failed(ModelFailure),
    /// Somebody stopped the turn.
    Interrupted,
    /// Nothing more is recorded.
    Unknown,
}

struct Played {
    events: VecDeque<ModelEvent>,
    end: End,
    recording: Arc<Recording>,
}

impl Played {
    async fn next(mut self) -> Option<(Result<ModelEvent, ModelFailure>, Self)> {
        if let Some(event) = self.events.pop_front() {
            return Some((Ok(event), self));
        }
        match std::mem::replace(&mut self.end, End::Done) {
            End::Done => return None,
            End::Failed(failure) => return Some((Err(failure), self)),
            End::Interrupted => self.recording.interrupt(),
            End::Unknown => self.recording.stop(Stop::Unknown(CUT_OFF.to_owned())),
        }
        std::future::pending().await
    }
}

fn events(message: &AssistantMessage, end: &End) -> VecDeque<ModelEvent> {
    let mut events = VecDeque::new();
    for block in &message.blocks {
        match block {
            Block::Text { text } => events.push_back(ModelEvent::Text(text.clone())),
            Block::Reasoning { text, .. } => events.push_back(ModelEvent::Reasoning(text.clone())),
            _ => {}
        }
        events.push_back(ModelEvent::Block(block.clone()));
    }
    events.extend(message.usage.map(ModelEvent::Usage));
    if matches!(end, End::Done) {
        events.push_back(ModelEvent::Done { stop: message.stop.clone(), opaque: message.opaque.clone() });
    }
    events
}

/// A present tool that gives the recorded results.
pub(super) struct PlayedTool {
    spec: ToolSpec,
    tool: Arc<dyn Tool>,
    recording: Arc<Recording>,
}

impl PlayedTool {
    pub(super) fn new(tool: &Arc<dyn Tool>, recording: &Arc<Recording>) -> Self {
        Self { spec: tool.spec(), tool: Arc::clone(tool), recording: Arc::clone(recording) }
    }

    /// It cannot be told what became of the call.
    async fn unknown(&self, why: &str) -> Result<ToolOutput, ToolError> {
        self.recording.stop(Stop::Unknown(why.to_owned()));
        std::future::pending().await
    }

    /// The images of a result; one that is gone keeps its name.
    async fn images(&self, finished: &ToolFinished) -> Vec<Image> {
        let mut images = Vec::with_capacity(finished.images.len());
        for image in &finished.images {
            let bytes = self.recording.whole(&image.side()).await.unwrap_or_default();
            images.push(Image::stored(image.clone(), bytes));
        }
        images
    }

    async fn interrupted(&self, finished: &ToolFinished) -> Result<ToolOutput, ToolError> {
        if !self.recording.is_interrupted() {
            return self.unknown("a tool was stopped, and it was not written down by whom").await;
        }
        self.recording.interrupt();
        if is_stopped_without_words(finished) {
            return std::future::pending().await;
        }
        // The turn sees the interrupt first, and then hears the tool's own words.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        Ok(ToolOutput::text(finished.output.clone()))
    }
}

#[async_trait]
impl Tool for PlayedTool {
    fn spec(&self) -> ToolSpec {
        self.spec.clone()
    }

    fn side_effects(&self) -> bool {
        self.tool.side_effects()
    }

    fn describe(&self, _arguments: &Value) -> String {
        String::new()
    }

    fn time_limit(&self) -> Duration {
        NEVER
    }

    async fn run(&self, _arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let Some(at) = self.recording.result(&context.call) else { return self.unknown(CUT_OFF).await };
        let Event::ToolFinished(finished) = &self.recording.entries()[at].event else { return self.unknown(CUT_OFF).await };
        let text = match &finished.full {
            None => finished.output.clone(),
            Some(side) => match self.recording.whole(side).await.map(String::from_utf8) {
                Ok(Ok(text)) => text,
                _ => return self.unknown("the whole of a long result is missing beside the log").await,
            },
        };
        match finished.outcome {
            ToolOutcome::Ok => {
                let images = self.images(finished).await;
                Ok(ToolOutput { todos: self.recording.todos_of(at), images, ..ToolOutput::text(text) })
            }
            ToolOutcome::Error | ToolOutcome::Timeout => Err(ToolError(text)),
            ToolOutcome::Interrupted => self.interrupted(finished).await,
            _ => Ok(ToolOutput::text("[The session did not run this call.]")),
        }
    }
}

/// Decides as was recorded.
pub(super) struct PlayedApprover(pub(super) Arc<Recording>);

#[async_trait]
impl Approver for PlayedApprover {
    fn decides_all(&self) -> bool {
        true
    }

    async fn ask(&self, request: ApprovalRequest) -> Approval {
        match self.0.denied(&request.call) {
            Some((by, reason)) => Approval::Forbid { by, reason },
            None => Approval::Approve,
        }
    }
}
