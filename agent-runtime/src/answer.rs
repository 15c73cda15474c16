//! Asking the model: fit, project, send, and take the answer in as it comes.
//!
//! A piece of text is in memory for readers at once, in the log within [`PIECE_WINDOW`], and written within two of
//! them: what a kill costs of an answer is at most the store's window.

use crate::agent_loop::{Stop, TurnTask, estimate, hydrate, trim};
use crate::breaker::Admitted;
use crate::context::tokens_at_most;
use crate::images::Base64;
use crate::model::{Body, Cure, FailureKind, Model, ModelEvent, ModelFailure};
use crate::pins::pinned_size;
use crate::refused_images::{IMAGES_REFUSED_MAX, REASON_BYTES_MAX, refused};
use crate::request::Request;
use crate::retry::{Retry, RetryDecision, RetryPolicy};
use crate::runtime::model_name;
use crate::session::lock;
use crate::summary;
use crate::tokens::floor_char_boundary;
use crate::turn::{DeltaKind, TurnError};
use futures_util::StreamExt;
use session_store::{
    AppendError, AssistantMessage, AssistantReasoning, AssistantText, Block, Error, Event, ImageRef, ImagesRefused, ModelError,
    ModelFallback, ModelRequest, ModelWaiting, Note, Origin, Seq, StopReason, Timestamp, Usage,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long text may wait to become a logged piece: half of the store's default window, so that both together are one window.
pub(crate) const PIECE_WINDOW: Duration = Duration::from_millis(250);
/// A piece is logged at this size at once.
const PIECE_BYTES: usize = 64 * 1024;
/// How many events of an answer that are there at once are taken in before anybody else has a turn: its readers, and who stops it.
const AT_ONCE_MAX: usize = 64;
/// How often a request is trimmed because the provider says that it is too long.
const TOO_LONG_MAX: u32 = 3;
/// The most that a request may have in bytes: below what the providers take.
const REQUEST_BYTES_MAX: usize = 30_000_000;
/// How many messages a request may take in on a runtime's thread, some microseconds each.
const BEHIND_MAX: usize = 64;
/// How often an endpoint may answer in something else than its protocol and be asked again: it may be a wrong address, of which somebody should hear soon.
const PROTOCOL_MAX: u32 = 2;
/// How many parameters an endpoint may refuse one after the other.
pub(crate) const LEARNED_MAX: u32 = 6;

const GO_ON: &str =
    "The connection broke while you were answering. Go on exactly where your text stopped, without repeating any of it.";

/// An answer while it comes in.
struct Incoming {
    message: Seq,
    origin: Origin,
    blocks: Vec<Block>,
    /// Bytes of text that are in `blocks`; the rest of the live text belongs to a block that is not complete.
    text_in_blocks: usize,
    /// Bytes of text and reasoning that are in logged pieces.
    logged: [u64; 2],
    /// When the first byte came that is not in a logged piece.
    waiting_since: Option<Instant>,
    calls: usize,
    usage: Option<Usage>,
}

impl TurnTask {
    /// One answer, whatever it takes: retries, waits, other models, trims, parameters and images left out. Gives the `seq` of its message, and the message.
    pub(crate) async fn ask(&mut self) -> Result<(Seq, AssistantMessage), Stop> {
        let policy = lock(&self.shared.setup).retry;
        let mut tries = Tries::new(policy);
        loop {
            let model = self.shared.model();
            let seam = self.before_seam.len();
            let (message, mut failure, images) = match self.shared.breakers.admit(model.origin(), Instant::now()) {
                Ok(admitted) => {
                    let (request, built_at) = self.fit(&model).await?;
                    let (body, tokens_max) = (request.body.clone(), request.tokens_max);
                    // A message that came in meanwhile belongs into the request: it would stand before the answer in the log.
                    let Some(message) = self.log_request(&*model, request, built_at).await? else { continue };
                    summary::consider(&self.shared, tokens_max);
                    match self.receive(&*model, body.clone(), message, admitted).await? {
                        Ok(answer) => return Ok(answer),
                        Err(failure) => {
                            let images = self.images_refused(&model, body, message, &failure, tries.images + 1).await?;
                            (Some(message), failure, images)
                        }
                    }
                }
                Err(refusal) => (None, refusal, None),
            };
            if failure.kind == FailureKind::ImageRefused && images.is_none() {
                // There was none in it: another try would be the same.
                failure.kind = FailureKind::BadRequest;
            }
            let decision = tries.next(&failure, self.shared.has_fallback());
            let other = match decision {
                RetryDecision::After(_) => None,
                _ if failure.kind.cure() == Cure::Nothing => None,
                _ => self.shared.fall_back(),
            };
            self.log_failure(message, &failure, &decision).await?;
            let goes_on = other.is_some() || matches!(decision, RetryDecision::After(_) | RetryDecision::Wait(_));
            if goes_on && self.before_seam.len() > seam {
                self.append(Note { text: GO_ON.to_owned() }).await?;
            }
            match (decision, other) {
                (_, Some(other)) => {
                    let (from, to) = (model.origin().clone(), other.origin().clone());
                    let (reason, detail) = (failure.kind.as_str().to_owned(), failure.detail);
                    self.append(ModelFallback { from, to, reason, detail }).await?;
                    tries = Tries::new(policy);
                }
                (RetryDecision::After(pause), None) => {
                    if failure.kind == FailureKind::ContextTooLong {
                        self.shorten_by_a_fifth(&failure).await?;
                    }
                    if let Some(images) = images {
                        self.append(images).await?;
                    }
                    if failure.kind == FailureKind::BreakerOpen {
                        self.log_wait(&*model, &failure, self.in_a_while(pause)).await?;
                    }
                    self.guard(tokio::time::sleep(pause)).await?;
                }
                (RetryDecision::Wait(_), None) => {
                    let until = self.retry_at.unwrap_or_default();
                    let waiting = self.log_wait(&*model, &failure, until).await?;
                    self.guard(self.shared.log.durable(waiting)).await??;
                    self.wait_until(until).await?;
                    tries = Tries::new(policy);
                }
                (_, None) => return Err(failure.into()),
            }
        }
    }

    /// The time of the wall clock after `pause`.
    fn in_a_while(&self, pause: Duration) -> Timestamp {
        let now = lock(&self.shared.setup).clock.now();
        Timestamp::from_ms(now.as_ms().saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)))
    }

    async fn log_wait(&self, model: &dyn Model, failure: &ModelFailure, until: Timestamp) -> Result<Seq, Stop> {
        let reason = failure.kind.as_str().to_owned();
        let waiting = ModelWaiting { model: model_name(model), reason, until };
        Ok(self.append(waiting).await?.seq)
    }

    /// The next request, after whatever trim it takes to fit the window, and the `seq` up to which the log is in it.
    async fn fit(&mut self, model: &Arc<dyn Model>) -> Result<(Request, Seq), Stop> {
        self.guard(hydrate(&self.shared.store, &self.shared)).await??;
        let budget = self.shared.budget();
        let built = self.build_within_bytes(model, budget.output).await?;
        let fits = |tokens: u64| tokens <= budget.input;
        if fits(built.0.tokens_max) || tokens_at_most(&self.shared.state()).is_some_and(fits) {
            return Ok(built);
        }
        let tokens = self.guard(estimate(&self.shared)).await?;
        if tokens <= budget.input {
            return Ok(built);
        }
        self.guard(trim(&self.shared, budget.input / 2, "budget")).await??;
        let tokens = self.guard(estimate(&self.shared)).await?;
        if tokens > budget.input {
            let pins = match self.guard(pinned_size(&self.shared)).await? {
                (0, _) => String::new(),
                (_, pinned) => format!(" (pinned messages take about {pinned} of them)"),
            };
            return Err(Stop::Failed(TurnError::TooLong(format!(
                "what has to be sent takes about {tokens} tokens{pins}, and the context window leaves room for {}",
                budget.input
            ))));
        }
        self.build(model, budget.output).await
    }

    /// The next request, small enough for the providers, whose bound in bytes only images come near to.
    async fn build_within_bytes(&self, model: &Arc<dyn Model>, max_output_tokens: u64) -> Result<(Request, Seq), Stop> {
        let mut built = self.build(model, max_output_tokens).await?;
        for _ in 0..TOO_LONG_MAX {
            if built.0.body.len() <= REQUEST_BYTES_MAX {
                return Ok(built);
            }
            let tokens = self.guard(estimate(&self.shared)).await?;
            if self.guard(trim(&self.shared, tokens / 2, "request_bytes")).await??.is_none() {
                break;
            }
            built = self.build(model, max_output_tokens).await?;
        }
        match built.0.body.len() {
            0..=REQUEST_BYTES_MAX => Ok(built),
            bytes => Err(Stop::Failed(TurnError::TooLong(format!(
                "what has to be sent takes {bytes} bytes with its images, and providers take {REQUEST_BYTES_MAX} at most"
            )))),
        }
    }

    /// Builds the next request, with no turn of another session in the way: where much has to be taken in, elsewhere.
    async fn build(&self, model: &Arc<dyn Model>, max_output_tokens: u64) -> Result<(Request, Seq), Stop> {
        let no_profile = || Stop::Failed(TurnError::Panic("the session has no profile".to_owned()));
        let (state, mut requests) = loop {
            let unknown = {
                let state = self.shared.state();
                let mut requests = lock(&self.shared.requests);
                let unknown = requests.unknown_images(&state);
                if unknown.is_empty() {
                    if requests.behind(&state) <= BEHIND_MAX && !requests.has_images_ahead(&state) {
                        let request = requests.build(&state, &**model, max_output_tokens).ok_or_else(no_profile)?;
                        return Ok((request, state.next_seq));
                    }
                    break (state.clone(), std::mem::take(&mut *requests));
                }
                unknown
            };
            self.guard(self.read_images(unknown)).await?;
        };
        let (model, seq) = (Arc::clone(model), state.next_seq);
        let built = tokio::task::spawn_blocking(move || {
            let request = requests.build(&state, &*model, max_output_tokens);
            (request, requests)
        });
        let built = self.guard(built).await?;
        let (request, requests) = built.map_err(|panic| Stop::Failed(TurnError::Panic(panic.to_string())))?;
        *lock(&self.shared.requests) = requests;
        Ok((request.ok_or_else(no_profile)?, seq))
    }

    /// Reads images from beside the log; one that cannot be read is missing from here on, until the session is opened again.
    async fn read_images(&self, images: Vec<ImageRef>) {
        for image in images {
            let bytes = self.shared.store.read_side(self.shared.log.id(), &image.side()).await.ok();
            let base64 = tokio::task::spawn_blocking(move || bytes.map(|bytes| Base64::of(&bytes))).await;
            lock(&self.shared.requests).add_image(&image, base64.ok().flatten());
        }
    }

    /// The provider says that the request is too long, whatever we counted: at least a fifth of it leaves.
    async fn shorten_by_a_fifth(&mut self, failure: &ModelFailure) -> Result<(), Stop> {
        let before = self.guard(estimate(&self.shared)).await?;
        let most = before / 5 * 4;
        self.guard(trim(&self.shared, most, "context_too_long")).await??;
        if self.guard(estimate(&self.shared)).await? > most {
            let why = format!("{} (nothing more of the conversation can be left out)", failure.detail);
            return Err(Stop::Failed(TurnError::TooLong(why)));
        }
        Ok(())
    }

    /// The images that leave the requests to `model`, where it refused the request `message` for one of them: the `times`th time for this answer.
    async fn images_refused(
        &self,
        model: &Arc<dyn Model>,
        body: Body,
        message: Seq,
        failure: &ModelFailure,
        times: u32,
    ) -> Result<Option<ImagesRefused>, Stop> {
        if failure.kind != FailureKind::ImageRefused {
            return Ok(None);
        }
        let (state, images) = (self.shared.state().clone(), lock(&self.shared.requests).images().clone());
        let (origin, words) = (model.origin().clone(), failure.detail.clone());
        let chosen = tokio::task::spawn_blocking(move || refused(&state, &images, &origin, &body, &words, times));
        let chosen = self.guard(chosen).await?.map_err(|panic| Stop::Failed(TurnError::Panic(panic.to_string())))?;
        if chosen.images.is_empty() {
            return Ok(None);
        }
        let reason = failure.detail[..floor_char_boundary(&failure.detail, REASON_BYTES_MAX)].to_owned();
        let (images, answered) = (chosen.images, chosen.answered);
        Ok(Some(ImagesRefused { message, origin: model.origin().clone(), images, reason, answered }))
    }

    /// Logs the request; nothing where the log went on since `built_at`, so that it has to be built again.
    async fn log_request(&mut self, model: &dyn Model, request: Request, built_at: Seq) -> Result<Option<Seq>, Stop> {
        let mut event = ModelRequest {
            origin: model.origin().clone(),
            profile: String::new(),
            context: request.context,
            body_sha256: request.sha256,
            body_bytes: request.body.len() as u64,
            limits: Some(self.shared.request_limits()),
            learned: model.learned(),
        };
        let appended = self.shared.append_if(|state| {
            event.profile = state.profile.as_ref().map(|profile| profile.hash.clone()).unwrap_or_default();
            (state.next_seq == built_at).then(|| event.into())
        });
        let entry = match appended {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(None),
            Err(AppendError::Full { needed, .. }) => {
                self.guard(self.shared.log.reserve(needed)).await??;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        self.model_calls += 1;
        self.shared.log.start_commit(entry.seq);
        lock(&self.shared.live).begin(entry.seq);
        Ok(Some(entry.seq))
    }

    /// Logs how the request `message` failed; a call that the breaker did not let through was no request.
    async fn log_failure(&mut self, message: Option<Seq>, failure: &ModelFailure, decision: &RetryDecision) -> Result<(), Stop> {
        self.retry_at = failure.retry_after.map(|asked| self.in_a_while(asked));
        let Some(message) = message else { return Ok(()) };
        let retry_in_ms = match decision {
            RetryDecision::After(pause) => Some(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
            _ => None,
        };
        let (kind, detail, retry_at) = (failure.kind.as_str().to_owned(), failure.detail.clone(), self.retry_at);
        self.append(ModelError { message, kind, detail, status: failure.status, retry_in_ms, retry_at }).await?;
        Ok(())
    }

    /// Sends a request and takes its answer in. The outer error ends the turn, the inner one is the call's own. In either
    /// case what came is in the log.
    async fn receive(
        &mut self,
        model: &dyn Model,
        body: Body,
        message: Seq,
        mut admitted: Admitted,
    ) -> Result<Result<(Seq, AssistantMessage), ModelFailure>, Stop> {
        let mut incoming = Incoming::new(message, model.origin().clone());
        let ended = self.stream(model, body, &mut incoming, &mut admitted).await;
        if let Some(usage) = &incoming.usage {
            self.usage.add(usage);
        }
        match ended {
            Ok(Ok((stop, opaque))) => {
                let answer = AssistantMessage { stop, opaque, partial: false, ..self.whole(incoming) };
                let entry = self.append(answer.clone()).await?;
                lock(&self.shared.live).end();
                Ok(Ok((entry.seq, answer)))
            }
            Ok(Err(failure)) => {
                admitted.failed(&failure, Instant::now());
                self.keep_partial(incoming)?;
                Ok(Err(failure))
            }
            Err(stop) => {
                // The first reason counts: a store that is in trouble is told by the turn's end.
                let _ = self.keep_partial(incoming);
                Err(stop)
            }
        }
    }

    /// Takes in the stream until its terminal event.
    async fn stream(
        &self,
        model: &dyn Model,
        body: Body,
        incoming: &mut Incoming,
        admitted: &mut Admitted,
    ) -> Result<Result<(StopReason, Option<serde_json::Value>), ModelFailure>, Stop> {
        let clocks = lock(&self.shared.setup).clocks;
        let mut stream = match self.guard(model.call(body, &clocks)).await? {
            Ok(stream) => stream,
            Err(failure) => return Ok(Err(failure)),
        };
        let (mut has_begun, mut at_once) = (false, 0);
        loop {
            if at_once == AT_ONCE_MAX {
                self.guard(self.tell_readers(&mut at_once, tokio::task::yield_now())).await?;
            }
            let event = tokio::select! {
                biased;
                event = stream.next(), if !self.interrupt.is_raised() => event,
                due = self.guard(self.tell_readers(&mut at_once, incoming.piece_due())) => {
                    due?;
                    self.log_pieces(incoming).await?;
                    continue;
                }
            };
            at_once += 1;
            if !has_begun && matches!(event, Some(Ok(_))) {
                has_begun = true;
                admitted.answered();
            }
            match event {
                None => {
                    let detail = "the answer broke off before its end";
                    return Ok(Err(ModelFailure::new(FailureKind::Reset, detail)));
                }
                Some(Err(failure)) => return Ok(Err(failure)),
                Some(Ok(ModelEvent::Done { stop, opaque })) => return Ok(Ok((stop, opaque))),
                Some(Ok(event)) => self.take_in(event, incoming).await?,
            }
        }
    }

    /// Readers hear of what came `at_once`, and then it is waited.
    async fn tell_readers(&self, at_once: &mut usize, wait: impl Future<Output = ()>) {
        if std::mem::take(at_once) > 0 {
            self.shared.bump();
        }
        wait.await;
    }

    async fn take_in(&self, event: ModelEvent, incoming: &mut Incoming) -> Result<(), Stop> {
        match event {
            ModelEvent::Text(text) => self.show(DeltaKind::Text, &text, incoming).await?,
            ModelEvent::Reasoning(text) => self.show(DeltaKind::Reasoning, &text, incoming).await?,
            ModelEvent::Block(block) => incoming.add(block),
            ModelEvent::Usage(usage) => incoming.usage = Some(usage),
            ModelEvent::Warning(message) => {
                self.append(Error { scope: "model".to_owned(), message }).await?;
            }
            ModelEvent::ToolArguments | ModelEvent::Done { .. } => {}
        }
        Ok(())
    }

    async fn show(&self, kind: DeltaKind, text: &str, incoming: &mut Incoming) -> Result<(), Stop> {
        let unlogged = {
            let mut live = lock(&self.shared.live);
            live.push(kind, text);
            live.since(DeltaKind::Text, incoming.logged[0]).len() + live.since(DeltaKind::Reasoning, incoming.logged[1]).len()
        };
        let since = *incoming.waiting_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= PIECE_WINDOW || unlogged >= PIECE_BYTES {
            self.log_pieces(incoming).await?;
        }
        Ok(())
    }

    /// Logs what came since the last pieces.
    async fn log_pieces(&self, incoming: &mut Incoming) -> Result<(), Stop> {
        incoming.waiting_since = None;
        let (text, reasoning) = {
            let live = lock(&self.shared.live);
            (
                live.since(DeltaKind::Text, incoming.logged[0]).to_owned(),
                live.since(DeltaKind::Reasoning, incoming.logged[1]).to_owned(),
            )
        };
        let message = incoming.message;
        let [text_offset, reasoning_offset] = incoming.logged;
        if !reasoning.is_empty() {
            incoming.logged[1] += reasoning.len() as u64;
            self.append_piece(AssistantReasoning { message, offset: reasoning_offset, text: reasoning }.into()).await?;
        }
        if !text.is_empty() {
            incoming.logged[0] += text.len() as u64;
            self.append_piece(AssistantText { message, offset: text_offset, text }.into()).await?;
        }
        Ok(())
    }

    /// Its oldest byte is up to a [`PIECE_WINDOW`] old, so it is written within the other half of the store's window.
    async fn append_piece(&self, piece: Event) -> Result<(), Stop> {
        self.append_with(|log| log.append_within(piece.clone(), PIECE_WINDOW)).await.map(drop)
    }

    /// What came of an answer that did not come to its end goes into the log as a partial message.
    fn keep_partial(&mut self, incoming: Incoming) -> Result<(), Stop> {
        let (message, offset) = (incoming.message, incoming.logged[1]);
        let text = lock(&self.shared.live).since(DeltaKind::Reasoning, offset).to_owned();
        if !text.is_empty() {
            self.shared.append(AssistantReasoning { message, offset, text })?;
        }
        let partial = self.whole(incoming);
        lock(&self.shared.live).end();
        if partial.blocks.is_empty() {
            return Ok(());
        }
        self.before_seam.push_str(&partial.text());
        let calls: Vec<_> = partial.tool_calls().cloned().collect();
        self.shared.append(partial)?;
        self.not_run(&calls, "Not run: the answer was cut off.")
    }

    /// The message as far as it came, with the text of a block that is not complete.
    fn whole(&self, mut incoming: Incoming) -> AssistantMessage {
        let rest = lock(&self.shared.live).since(DeltaKind::Text, incoming.text_in_blocks as u64).to_owned();
        if !rest.is_empty() {
            incoming.blocks.push(Block::Text { text: rest });
        }
        AssistantMessage {
            message: incoming.message,
            origin: incoming.origin,
            blocks: incoming.blocks,
            stop: StopReason::Cut,
            partial: true,
            usage: incoming.usage,
            opaque: None,
        }
    }
}

/// What was tried to get one answer.
struct Tries {
    retry: Retry,
    too_long: u32,
    learned: u32,
    images: u32,
    protocol: u32,
}

impl Tries {
    fn new(policy: RetryPolicy) -> Self {
        Self { retry: Retry::new(policy), too_long: 0, learned: 0, images: 0, protocol: 0 }
    }

    /// What to do after `failure`.
    fn next(&mut self, failure: &ModelFailure, has_fallback: bool) -> RetryDecision {
        let (times, most) = match failure.kind {
            FailureKind::Learned => (&mut self.learned, LEARNED_MAX),
            FailureKind::ContextTooLong => (&mut self.too_long, TOO_LONG_MAX),
            FailureKind::ImageRefused => (&mut self.images, IMAGES_REFUSED_MAX),
            FailureKind::Protocol if self.protocol == PROTOCOL_MAX => return RetryDecision::No,
            FailureKind::Protocol => {
                self.protocol += 1;
                return self.retry.next(failure);
            }
            kind if has_fallback && kind.cure() == Cure::AnotherModelOrTry => return RetryDecision::No,
            _ => return self.retry.next(failure),
        };
        *times += 1;
        if *times <= most { RetryDecision::After(Duration::ZERO) } else { RetryDecision::No }
    }
}

impl Incoming {
    fn new(message: Seq, origin: Origin) -> Self {
        Self {
            message,
            origin,
            blocks: Vec::new(),
            text_in_blocks: 0,
            logged: [0; 2],
            waiting_since: None,
            calls: 0,
            usage: None,
        }
    }

    /// Returns when what came has waited for a [`PIECE_WINDOW`].
    fn piece_due(&self) -> impl Future<Output = ()> + use<> {
        let since = self.waiting_since;
        async move {
            let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
            tokio::time::sleep(PIECE_WINDOW.saturating_sub(waited)).await;
        }
    }

    fn add(&mut self, mut block: Block) {
        match &mut block {
            Block::Text { text } => self.text_in_blocks += text.len(),
            Block::ToolCall(call) => {
                call.id = format!("call_{}_{}", self.message, self.calls);
                self.calls += 1;
            }
            _ => {}
        }
        self.blocks.push(block);
    }
}
