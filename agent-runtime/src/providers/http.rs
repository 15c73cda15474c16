//! One model call over HTTP: the request goes out, and the answer comes in as a stream of model events.
//!
//! Parties: the caller (the loop) polls; `reqwest` moves the bytes; a [`Decoder`] knows one provider's protocol. There is no
//! task and no thread of ours in between, so that dropping the future or the stream drops the connection, and a caller who does
//! not read holds the server back through TCP.
//!
//! Promises: each wait is limited by the five clocks ([`crate::clocks`]); at a limit, an error or the end of the answer the
//! connection is let go of at once, even if the stream itself is kept. A key goes to the endpoint that it was given for
//! and nowhere else: redirects are not followed.
//!
//! HTTP/1.1 only: each call then has a connection of its own. Over HTTP/2 calls share one, and a dead one (a laptop woken up, a
//! NAT that forgot) would fail call after call, because dropping a stream leaves its connection in the pool.
//!
//! What it does not do: retry ([`crate::Retry`]), follow redirects, decompress.

use super::failure::{Peer, ServerError, start_of};
use super::retry_after::retry_after;
use super::sse::SseParser;
use crate::clocks::{Clocks, Limit, Meter};
use crate::model::{Body, FailureKind, ModelEvent, ModelFailure, ModelStream};
use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, Url};
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, Sleep};

/// A plain JSON answer, where a server ignores that a stream was asked for.
const WHOLE_ANSWER_MAX: usize = 16 << 20;
/// What is read of a refusal.
const REFUSAL_MAX: usize = 64 << 10;
/// What a connection is given of the body at a time, so that sending it can be seen to go on.
const PIECE_BYTES: usize = 64 << 10;

/// A shared, lazily built HTTP client; clones share it. Cheap to make: to read the system's certificates takes some 16 ms, and
/// that is done on a blocking thread by the first call, or before it by [`HttpClient::warm`].
#[derive(Clone, Debug, Default)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    system_proxy: bool,
    /// For servers on this very machine over plain HTTP: no certificates, no proxy; built at once.
    local: OnceCell<Client>,
    /// For all others.
    remote: OnceCell<Client>,
}

impl HttpClient {
    /// A client that connects directly.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client that goes through the proxy that the system's settings name, such as `HTTPS_PROXY`.
    #[must_use]
    pub fn with_system_proxy() -> Self {
        Self { shared: Arc::new(Shared { system_proxy: true, ..Shared::default() }) }
    }

    /// Builds what calls to servers elsewhere need, so that the first of them does not wait for it. Does nothing the
    /// second time. An error is left for the call to tell. Dropping the future leaves the work to the first call.
    pub async fn warm(&self) {
        let _ = self.remote().await;
    }

    pub(crate) async fn for_url(&self, url: &Url) -> Result<&Client, String> {
        if is_local(url) { self.shared.local.get_or_try_init(async || build(false, false)).await } else { self.remote().await }
    }

    async fn remote(&self) -> Result<&Client, String> {
        let proxy = self.shared.system_proxy;
        let build = async || tokio::task::spawn_blocking(move || build(true, proxy)).await.map_err(|error| error.to_string())?;
        self.shared.remote.get_or_try_init(build).await
    }
}

/// Whether `url` is plain HTTP to this machine.
pub(crate) fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    loopback && url.scheme() == "http"
}

fn build(certificates: bool, proxy: bool) -> Result<Client, String> {
    // The provider is passed in: a library that installs one for the whole process would take that choice from its embedder.
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let tls = if certificates {
        use rustls_platform_verifier::BuilderVerifierExt;
        tls.with_platform_verifier().map_err(|error| error.to_string())?
    } else {
        tls.with_root_certificates(rustls::RootCertStore::empty())
    };
    let client = Client::builder()
        .tls_backend_preconfigured(tls.with_no_client_auth())
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")));
    let client = if proxy { client } else { client.no_proxy() };
    client.build().map_err(|error| words_of(&error))
}

/// What a provider's protocol makes of an answer.
pub(crate) trait Decoder: Send + Unpin + 'static {
    /// Takes the data of one server-sent event and appends what it means.
    fn event(&mut self, data: &str, out: &mut Events) -> Result<(), DecodeError>;

    /// Takes a whole answer in plain JSON: the server ignored that a stream was asked for.
    fn whole(&mut self, answer: &Value, out: &mut Events) -> Result<(), DecodeError>;

    /// The connection ended. Where that is a legal end of the answer, appends the rest of it.
    fn end(&mut self, out: &mut Events);
}

/// What was decoded and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Events {
    queue: VecDeque<ModelEvent>,
    progressed: bool,
    done: bool,
}

impl Events {
    pub(crate) fn push(&mut self, event: ModelEvent) {
        self.progressed |=
            matches!(event, ModelEvent::Text(_) | ModelEvent::Reasoning(_) | ModelEvent::ToolArguments | ModelEvent::Block(_));
        self.done |= matches!(event, ModelEvent::Done { .. });
        self.queue.push_back(event);
    }

    /// The answer got further in a way that is no event (a signature).
    pub(crate) fn progressed(&mut self) {
        self.progressed = true;
    }
}

/// An event that is not part of an answer.
#[derive(Debug)]
pub(crate) enum DecodeError {
    /// The server says that it failed.
    Server(ServerError),
    /// It is not what the protocol has here.
    Malformed(String),
}

impl DecodeError {
    /// `data` is not JSON, or not the JSON that is expected.
    pub(crate) fn malformed(why: impl std::fmt::Display, data: &str) -> Self {
        Self::Malformed(format!("{why} in `{}`", start_of(data, 200)))
    }
}

/// A request that is ready to go.
pub(crate) struct Request {
    pub(crate) peer: Arc<Peer>,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// A call that failed before its answer began, with the server's own error, where it gave one.
pub(crate) struct Refusal {
    pub(crate) failure: ModelFailure,
    pub(crate) error: Option<ServerError>,
}

impl From<ModelFailure> for Refusal {
    fn from(failure: ModelFailure) -> Self {
        Self { failure, error: None }
    }
}

/// Sends `request` and gives its answer, once the response's head is there.
pub(crate) async fn send<D: Decoder>(
    http: &HttpClient,
    request: Request,
    clocks: &Clocks,
    decoder: D,
) -> Result<ModelStream, Refusal> {
    let peer = request.peer;
    let client = http.for_url(&request.url).await;
    let client = client.map_err(|why| peer.failure(FailureKind::Connect, "cannot be asked", &why))?;
    let mut meter = Meter::new(clocks);
    let (body, stages) = StagedBody::new(request.body);
    let sending = client.post(request.url).headers(request.headers).body(reqwest::Body::wrap(body)).send();
    let response = head(sending, stages, &mut meter, &peer).await?;

    let status = response.status().as_u16();
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let retry_after = retry_after(status, response.headers());
    let mut body = Reading::new(response, meter, Arc::clone(&peer));

    let form = match content_type.as_str() {
        _ if !(200..300).contains(&status) => {
            let words = body.up_to(REFUSAL_MAX).await;
            let error = ServerError::parse(&words);
            return Err(Refusal { failure: peer.refusal(Some(status), &error, retry_after), error: Some(error) });
        }
        // Some servers forget to say what they send.
        "text/event-stream" | "" => Form::Events(SseParser::default()),
        "application/json" => Form::Whole(Vec::new()),
        other => {
            let words = String::from_utf8_lossy(&body.up_to(512).await).into_owned();
            let ours = format!("answered {status} with `{other}` where a model's answer was expected (is the base URL right?)");
            let failure = peer.failure(FailureKind::Protocol, &ours, &words);
            return Err(ModelFailure { status: Some(status), ..failure }.into());
        }
    };
    Ok(Box::pin(Answer { peer, body: Some(body), form, decoder, events: Events::default(), failure: None }))
}

/// Waits for the response's head.
async fn head(
    sending: impl Future<Output = reqwest::Result<Response>>,
    mut stages: watch::Receiver<Stage>,
    meter: &mut Meter,
    peer: &Peer,
) -> Result<Response, ModelFailure> {
    let mut sending = std::pin::pin!(sending);
    let mut watching = true;
    loop {
        let since = Instant::now();
        let moved = tokio::select! {
            biased;
            response = &mut sending => {
                meter.charge(since.elapsed());
                meter.enter(Limit::Idle);
                return response.map_err(|error| transport_failure(peer, &error));
            }
            moved = stages.changed(), if watching => Some(moved),
            () = tokio::time::sleep(meter.left()) => None,
        };
        meter.charge(since.elapsed());
        match moved {
            Some(Ok(())) => meter.enter(match *stages.borrow_and_update() {
                Stage::Connecting => Limit::Connect,
                Stage::Sending => Limit::Idle,
                Stage::Sent => Limit::FirstByte,
            }),
            // The connection let go of the body, all of it sent or not: its answer or error follows.
            Some(Err(_)) => watching = false,
            None => {}
        }
        if let Some((kind, words)) = meter.expired() {
            return Err(peer.failure(kind, &words, ""));
        }
    }
}

/// How far the request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Sending,
    Sent,
}

/// The request's body, which tells how far it went: a connection asks for the first piece once it stands, and for the
/// next ones as it sends them.
struct StagedBody {
    body: Body,
    /// The next piece of the body, and how much of it is sent.
    next: (usize, usize),
    left: usize,
    stage: watch::Sender<Stage>,
}

impl StagedBody {
    fn new(body: Body) -> (Self, watch::Receiver<Stage>) {
        let (stage, stages) = watch::channel(Stage::Connecting);
        (Self { left: body.len(), body, next: (0, 0), stage }, stages)
    }

    /// At most [`PIECE_BYTES`] of what is left; a piece of the body is not copied.
    fn take(&mut self) -> Option<Bytes> {
        let (number, from) = self.next;
        let piece = self.body.pieces().get(number)?;
        let to = piece.len().min(from + PIECE_BYTES);
        self.next = if to == piece.len() { (number + 1, 0) } else { (number, to) };
        self.left -= to - from;
        Some(piece.slice(from..to))
    }
}

impl http_body::Body for StagedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.take();
        let stage = if self.left == 0 { Stage::Sent } else { Stage::Sending };
        // Nobody listens any more once the head is there or the call was dropped.
        let _ = self.stage.send(stage);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

/// A response's body with its clocks.
struct Reading {
    peer: Arc<Peer>,
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    meter: Meter,
    timer: Pin<Box<Sleep>>,
    /// Since when we wait; nothing while the caller does not read.
    waiting: Option<Instant>,
    noted: Arc<NotedWake>,
    waker: Waker,
}

impl Reading {
    fn new(response: Response, meter: Meter, peer: Arc<Peer>) -> Self {
        let noted = Arc::new(NotedWake::default());
        let waker = Waker::from(Arc::clone(&noted));
        let timer = Box::pin(tokio::time::sleep(meter.left()));
        Self { peer, body: Box::pin(response.bytes_stream()), meter, timer, waiting: None, noted, waker }
    }

    /// The next bytes, nothing at the end.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ModelFailure>> {
        let woken = self.noted.listen(cx.waker());
        if let Some(since) = self.waiting.take() {
            // Between the wake-up and this call it was the caller who was late, not the server.
            self.meter.charge(woken.unwrap_or_else(Instant::now).saturating_duration_since(since));
        }
        let mut own = Context::from_waker(&self.waker);
        // Bytes that are there beat a limit that is used up.
        match self.body.as_mut().poll_next(&mut own) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.meter.enter(Limit::Idle);
                return Poll::Ready(Ok(Some(bytes)));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(transport_failure(&self.peer, &error))),
            Poll::Ready(None) => return Poll::Ready(Ok(None)),
            Poll::Pending => {}
        }
        loop {
            if let Some((kind, words)) = self.meter.expired() {
                return Poll::Ready(Err(self.peer.failure(kind, &words, "")));
            }
            let now = Instant::now();
            self.timer.as_mut().reset(now + self.meter.left());
            if self.timer.as_mut().poll(&mut own).is_pending() {
                self.waiting = Some(now);
                return Poll::Pending;
            }
            self.meter.charge(now.elapsed().max(Duration::from_millis(1)));
        }
    }

    /// At most `max` bytes of the body, or what came of it until it broke or stalled: the words of a refusal.
    async fn up_to(&mut self, max: usize) -> Vec<u8> {
        let mut words = Vec::new();
        while words.len() < max {
            match std::future::poll_fn(|cx| self.poll_bytes(cx)).await {
                Ok(Some(bytes)) => words.extend_from_slice(&bytes),
                Ok(None) | Err(_) => break,
            }
        }
        words.truncate(max);
        words
    }
}

/// Passes a wake-up on and notes when it came.
#[derive(Default)]
struct NotedWake {
    inner: Mutex<(Option<Waker>, Option<Instant>)>,
}

impl NotedWake {
    /// From here on wakes `waker`; gives the time of the first wake-up since the last call.
    fn listen(&self, waker: &Waker) -> Option<Instant> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.0.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.0 = Some(waker.clone());
        }
        inner.1.take()
    }
}

impl Wake for NotedWake {
    fn wake(self: Arc<Self>) {
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.1.get_or_insert_with(Instant::now);
            inner.0.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

enum Form {
    Events(SseParser),
    Whole(Vec<u8>),
}

/// An answer as it comes.
struct Answer<D> {
    peer: Arc<Peer>,
    /// Gone once the answer is complete or failed, and the connection with it.
    body: Option<Reading>,
    form: Form,
    decoder: D,
    events: Events,
    /// Told once all events before it were read.
    failure: Option<ModelFailure>,
}

impl<D: Decoder> Answer<D> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), ModelFailure> {
        match &mut self.form {
            Form::Whole(all) if all.len() + bytes.len() <= WHOLE_ANSWER_MAX => {
                all.extend_from_slice(bytes);
                Ok(())
            }
            Form::Whole(_) => Err(too_long(&self.peer)),
            Form::Events(parser) => {
                parser.push(bytes);
                while !self.events.done {
                    let Some(event) = parser.next().map_err(|_| too_long(&self.peer))? else { break };
                    self.decoder.event(&event.data, &mut self.events).map_err(|error| decode_failure(&self.peer, error))?;
                }
                Ok(())
            }
        }
    }

    /// The connection ended.
    fn close(&mut self) -> Result<(), ModelFailure> {
        let decoded = match &mut self.form {
            Form::Events(parser) => match parser.finish() {
                Some(event) => self.decoder.event(&event.data, &mut self.events),
                None => Ok(()),
            },
            Form::Whole(all) => match serde_json::from_slice::<Value>(all) {
                Ok(answer) => match ServerError::from_json(&answer) {
                    Some(error) => Err(DecodeError::Server(error)),
                    None => self.decoder.whole(&answer, &mut self.events),
                },
                Err(error) => Err(DecodeError::malformed(error, &String::from_utf8_lossy(all))),
            },
        };
        decoded.map_err(|error| decode_failure(&self.peer, error))?;
        if !self.events.done {
            self.decoder.end(&mut self.events);
        }
        if self.events.done {
            return Ok(());
        }
        Err(self.peer.failure(FailureKind::Reset, "ended its answer before it was complete", ""))
    }

    fn fail(&mut self, failure: ModelFailure) {
        // What the protocol lets count as the end may have come before the failure.
        self.decoder.end(&mut self.events);
        if !self.events.done {
            self.failure = Some(failure);
        }
        self.body = None;
    }
}

impl<D: Decoder> Stream for Answer<D> {
    type Item = Result<ModelEvent, ModelFailure>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.events.queue.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            let Some(body) = &mut this.body else {
                return Poll::Ready(this.failure.take().map(Err));
            };
            let came = match body.poll_bytes(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(came) => came,
            };
            let taken = match came {
                Ok(Some(bytes)) => this.take(&bytes),
                Ok(None) => this.close(),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = taken {
                this.fail(failure);
            } else if this.events.done {
                this.body = None;
            } else if std::mem::take(&mut this.events.progressed)
                && let Some(body) = &mut this.body
            {
                body.meter.progressed();
            }
        }
    }
}

fn too_long(peer: &Peer) -> ModelFailure {
    peer.failure(FailureKind::Protocol, "sent an event of more than 16 MiB", "")
}

fn decode_failure(peer: &Peer, error: DecodeError) -> ModelFailure {
    match error {
        DecodeError::Server(error) => peer.refusal(None, &error, None),
        DecodeError::Malformed(why) => peer.failure(FailureKind::Protocol, "sent what is no answer of its protocol", &why),
    }
}

fn transport_failure(peer: &Peer, error: &reqwest::Error) -> ModelFailure {
    let (kind, ours) = if error.is_connect() {
        (FailureKind::Connect, "cannot be reached")
    } else if error.is_builder() {
        (FailureKind::BadRequest, "cannot be asked")
    } else {
        (FailureKind::Reset, "broke the connection")
    };
    peer.failure(kind, ours, &words_of(error))
}

/// The innermost reason; the outer ones repeat the URL, which may hold a password.
fn words_of(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    if std::ptr::addr_eq(reason, error) { "the request could not be made".to_owned() } else { reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_this_machine_is_local() {
        let local = |url: &str| is_local(&url.parse().expect("a URL"));
        assert!(local("http://127.0.0.1:1/") && local("http://localhost/v1") && local("http://[::1]:8080/"));
        assert!(!local("https://localhost/") && !local("http://10.0.0.1/") && !local("http://localhost.example/"));
    }
}
