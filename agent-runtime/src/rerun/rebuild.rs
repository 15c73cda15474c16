//! Each recorded request built again from the log alone, and held against its hash.

use super::BuildModel;
use crate::clocks::Clocks;
use crate::context::Budget;
use crate::images::{Base64, Images};
use crate::model::{Body, Conversation, FailureKind, Model, ModelFailure, ModelLimits, ModelStream, Sent};
use crate::projection::project;
use crate::request::RequestBuilder;
use crate::session::lock;
use crate::summary::asking;
use async_trait::async_trait;
use bytes::Bytes;
use session_store::{ContextSummarizing, Entry, Event, ModelRequest, Origin, SideRef, State, sha256_hex};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rebuilt {
    /// The very bytes.
    Same,
    /// The log does not say which limits it kept to, and with the present ones its body has this hash.
    NotRecorded(String),
    /// Other bytes, with this hash.
    Changed(String),
    /// Nobody knows how such a model is asked.
    NoModel,
}

/// By origin and by what its endpoint had refused.
type Models = HashMap<(Origin, Vec<String>), Option<Arc<dyn Model>>>;

/// Builds requests again.
pub(super) struct Rebuilder {
    build: BuildModel,
    models: Mutex<Models>,
}

impl Rebuilder {
    pub(super) fn new(build: BuildModel) -> Self {
        Self { build, models: Mutex::default() }
    }

    /// Every request of the log that this program sent, by its place, until `is_cancelled`. `read` reads what is beside the log.
    pub(super) fn all(
        &self,
        entries: &[Arc<Entry>],
        read: impl Fn(&SideRef) -> Option<Vec<u8>>,
        is_cancelled: impl Fn() -> bool,
    ) -> Vec<(usize, Rebuilt)> {
        let mut state = State::default();
        let mut builder = RequestBuilder::new();
        // The value of `State::rewrites` for which bodies were last looked for: only that brings old ones back.
        let mut hydrated_for = None;
        let mut all = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if let Event::ModelRequest(request) = &entry.event
                && is_own(request)
            {
                if is_cancelled() {
                    break;
                }
                if hydrated_for.replace(state.rewrites()) != Some(state.rewrites()) {
                    hydrate(&mut state, entries);
                }
                for image in builder.unknown_images(&state) {
                    builder.add_image(&image, read(&image.side()).map(|bytes| Base64::of(&bytes)));
                }
                all.push((at, self.check(&state, request, &mut builder)));
            }
            if let Event::ContextSummarizing(asked) = &entry.event {
                if is_cancelled() {
                    break;
                }
                hydrate(&mut state, entries);
                all.push((at, self.check_summary(&state, asked)));
            }
            state.apply(entry);
        }
        all
    }

    fn check(&self, state: &State, request: &ModelRequest, builder: &mut RequestBuilder) -> Rebuilt {
        let Some((model, output)) = self.model_and_output(state, request) else { return Rebuilt::NoModel };
        let Some(built) = builder.build(state, &*model, output) else {
            return Rebuilt::Changed(String::new());
        };
        match request.limits {
            _ if built.sha256 == request.body_sha256 => Rebuilt::Same,
            None => Rebuilt::NotRecorded(built.sha256),
            Some(_) => Rebuilt::Changed(built.sha256),
        }
    }

    fn check_summary(&self, state: &State, asked: &ContextSummarizing) -> Rebuilt {
        let request = &asked.request;
        let Some((model, output)) = self.model_and_output(state, request) else { return Rebuilt::NoModel };
        let Some(profile) = &state.profile else { return Rebuilt::Changed(String::new()) };
        let sha256 = sha256_hex(&model.body(&asking(state, profile, &request.origin, output, asked.keep.as_deref())));
        if sha256 == request.body_sha256 { Rebuilt::Same } else { Rebuilt::Changed(sha256) }
    }

    /// What `request` was built from, and its body, with `state` as it was before and its `images`; nothing where nobody knows how such a model is
    /// asked.
    pub(super) fn build(&self, state: &State, images: &Images, request: &ModelRequest) -> Option<(Conversation, Bytes)> {
        let (model, output) = self.model_and_output(state, request)?;
        let conversation = project(state, state.profile.as_ref()?, images, &request.origin, output);
        let body = model.body(&conversation);
        Some((conversation, body))
    }

    /// The present model, and the longest answer that was asked for, as far as that was recorded.
    fn model_and_output(&self, state: &State, request: &ModelRequest) -> Option<(Arc<dyn Model>, u64)> {
        let model = self.model(&request.origin, &request.learned)?;
        let output = request.limits.map_or_else(
            || {
                let limits = model.limits();
                let asked = state.profile.as_ref().and_then(|profile| profile.parameters.max_output_tokens);
                Budget::new(limits.context_window, asked.unwrap_or(limits.max_output_tokens)).output
            },
            |limits| limits.max_output_tokens,
        );
        Some((model, output))
    }

    fn model(&self, origin: &Origin, learned: &[String]) -> Option<Arc<dyn Model>> {
        let key = (origin.clone(), learned.to_vec());
        let make = || {
            let model = (self.build)(origin, learned)?;
            Some(Arc::new(AsRecorded { origin: origin.clone(), model }) as Arc<dyn Model>)
        };
        lock(&self.models).entry(key).or_insert_with(make).clone()
    }
}

/// A model that builds bodies for the origin that was asked.
struct AsRecorded {
    origin: Origin,
    model: Arc<dyn Model>,
}

#[async_trait]
impl Model for AsRecorded {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn limits(&self) -> ModelLimits {
        self.model.limits()
    }

    fn body(&self, conversation: &Conversation) -> Bytes {
        self.model.body(conversation)
    }

    fn head(&self, conversation: &Conversation) -> Option<Vec<u8>> {
        self.model.head(conversation)
    }

    fn messages(&self, messages: &[Sent]) -> Body {
        self.model.messages(messages)
    }

    fn learned(&self) -> Vec<String> {
        self.model.learned()
    }

    async fn call(&self, _body: Body, _clocks: &Clocks) -> Result<ModelStream, ModelFailure> {
        Err(ModelFailure::new(FailureKind::BadRequest, "a recorded request is not sent"))
    }
}

/// Whether this program sent it: what was imported has no body.
pub(super) fn is_own(request: &ModelRequest) -> bool {
    !request.body_sha256.is_empty()
}

/// Reads bodies again that left the context and came back.
pub(super) fn hydrate(state: &mut State, entries: &[Arc<Entry>]) {
    let missing = state.missing();
    let (Some(&first), Some(&last)) = (missing.first(), missing.last()) else { return };
    for entry in &entries[entries.partition_point(|entry| entry.seq < first)..] {
        // An answer that a crash cut goes on until the next event that ends it.
        if entry.seq > last && entry.event.ends_answer() {
            break;
        }
        state.hydrate(entry);
    }
}
