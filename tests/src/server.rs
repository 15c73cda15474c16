//! The server itself: a thread with a runtime of its own, so that tests that block can use it as well as tests that await.
//!
//! Each connection is a task; requests on it are answered one after the other, as HTTP/1.1 has it. What a test may ask about (the
//! requests, the words sent so far) is shared behind one lock, which is never held over a wait. Dropping the server closes every
//! connection and joins the thread.

use crate::answer::{Answer, Flaw, Reply};
use crate::http::{Connection, RawRequest};
use crate::render::{self, Frame, Provider};
use crate::script::Script;
use crate::strict;
use serde_json::Value;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const LONG_LINE_BYTES: usize = 10 << 20;

/// A request as it came, and what became of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose protocol it speaks, by its path; nothing for another path.
    pub provider: Option<Provider>,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub raw: Vec<u8>,
    /// The body as JSON; null where it is none.
    pub body: Value,
    /// When it had come whole.
    pub at: Instant,
    /// The connection that it came on, counted from 0.
    pub connection: u64,
    /// What strict mode said to it, where it refused.
    pub refused: Option<String>,
    /// The words of text that were sent in answer, each with the time at which it was handed to the network.
    pub sent: Vec<(Instant, String)>,
    /// When the answer was over: complete, broken, or given up because the client hung up.
    pub ended: Option<Instant>,
    /// Whether the client closed the connection before the answer was over.
    pub hung_up: bool,
}

impl Request {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The messages of its body.
    #[must_use]
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().or_else(|| self.body["input"].as_array()).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the conversation ends with results of tools.
    #[must_use]
    pub fn ends_with_tool_result(&self) -> bool {
        let Some(last) = self.messages().last() else { return false };
        let has_result =
            |content: &Value| content.as_array().is_some_and(|blocks| blocks.iter().any(|b| b["type"] == "tool_result"));
        last["role"] == "tool" || last["type"] == "function_call_output" || has_result(&last["content"])
    }

    /// All words that were sent in answer.
    #[must_use]
    pub fn sent_text(&self) -> String {
        self.sent.iter().map(|(_, word)| word.as_str()).collect()
    }
}

#[derive(Debug)]
struct State {
    script: Script,
    requests: Vec<Request>,
    /// The complete replies that reasoned: the messages they answered, and the reasoning blocks.
    reasoned: Vec<strict::Reasoned>,
    strict: bool,
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // A test that panicked inside a script's function leaves the state as whole as it was.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server.
#[derive(Debug)]
pub struct FaultServer {
    address: SocketAddr,
    shared: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultServer {
    /// Starts a strict server on a free port of the loopback interface.
    ///
    /// # Errors
    /// Where there is no port or no thread to be had.
    pub fn start(script: impl Into<Script>) -> io::Result<Self> {
        Self::start_at("127.0.0.1:0", true, script)
    }

    /// Starts a server that answers whatever it is asked.
    ///
    /// # Errors
    /// Where there is no port or no thread to be had.
    pub fn start_lenient(script: impl Into<Script>) -> io::Result<Self> {
        Self::start_at("127.0.0.1:0", false, script)
    }

    /// Starts a server at `address`.
    ///
    /// # Errors
    /// Where the address cannot be had.
    pub fn start_at(address: &str, strict: bool, script: impl Into<Script>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = State { script: script.into(), requests: Vec::new(), reasoned: Vec::new(), strict };
        let shared = Arc::new(Mutex::new(state));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("fault-server".into()).spawn(move || {
            // The tasks of the connections end with the runtime, at the end of this closure.
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for Anthropic's clients, which ends before `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL for OpenAI's clients, which ends in `/v1`.
    #[must_use]
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Adds answers to the end of the script.
    pub fn then(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared).script.push(answers);
    }

    /// Replaces the script.
    pub fn follow(&self, script: impl Into<Script>) {
        lock(&self.shared).script = script.into();
    }

    /// All requests until now, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared).requests.clone()
    }

    /// What strict mode refused until now, in its words.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        lock(&self.shared).requests.iter().filter_map(|request| request.refused.clone()).collect()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in a script's function was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// An address that takes connections and never completes one: a listener whose queue is full.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _fill: Vec<std::net::TcpStream>,
    _runtime: tokio::runtime::Runtime,
}

impl BlackHole {
    /// Opens the hole.
    ///
    /// # Errors
    /// Where there is no port to be had.
    pub fn open() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        drop(guard);
        // Connections are completed by the kernel until the queue is full; from then on they wait.
        let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let fill = (0..16).map_while(connect).collect();
        Ok(Self { address, _listener: listener, _fill: fill, _runtime: runtime })
    }

    /// The base URL for Anthropic's clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = tokio::task::JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let connection = Connection::new(stream);
        if lock(&shared).script.refuses_connection() {
            connection.reset();
            continue;
        }
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // An error is a client that went away, which `Request::hung_up` tells.
            let _ = serve(connection, number, shared).await;
        });
    }
}

async fn serve(mut connection: Connection, number: u64, shared: Shared) -> io::Result<()> {
    while let Some(raw) = connection.request().await? {
        let (index, answer) = take_in(raw, number, &shared);
        let mut exchange = Exchange { connection, shared: Arc::clone(&shared), index };
        let outcome = exchange.answer(answer).await;
        let mut state = lock(&shared);
        let request = &mut state.requests[index];
        request.ended = Some(Instant::now());
        request.hung_up |= outcome.is_err();
        drop(state);
        match outcome? {
            Next::KeepAlive => connection = exchange.connection,
            Next::Close => return Ok(()),
            Next::Reset => {
                exchange.connection.reset();
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Keeps the request, and decides what to answer.
fn take_in(raw: RawRequest, connection: u64, shared: &Shared) -> (usize, Answer) {
    let provider = match (raw.method.as_str(), raw.path.split('?').next()) {
        ("POST", Some("/v1/messages")) => Some(Provider::Anthropic),
        ("POST", Some("/v1/chat/completions")) => Some(Provider::OpenAi),
        ("POST", Some("/v1/responses")) => Some(Provider::Responses),
        _ => None,
    };
    let body = serde_json::from_slice(&raw.body).unwrap_or(Value::Null);
    let mut request = Request {
        provider,
        method: raw.method,
        path: raw.path,
        headers: raw.headers,
        raw: raw.body,
        body,
        at: Instant::now(),
        connection,
        refused: None,
        sent: Vec::new(),
        ended: None,
        hung_up: false,
    };
    let mut state = lock(shared);
    let answer = if let (true, Err((status, why))) = (state.strict, check(&request, &state.reasoned)) {
        request.refused = Some(why.clone());
        Answer::error(status, why)
    } else if provider.is_none() {
        Answer::error(404, "Not found")
    } else {
        state.script.next(&request)
    };
    state.requests.push(request);
    (state.requests.len() - 1, answer)
}

/// What the real services refuse, with the status that they give.
fn check(request: &Request, reasoned: &[strict::Reasoned]) -> Result<(), (u16, String)> {
    let refuse = |why: String| (400, why);
    match request.provider {
        Some(Provider::Anthropic) => {
            if request.header("x-api-key").is_none() && request.header("authorization").is_none() {
                return Err((401, "x-api-key header is required".into()));
            }
            if request.header("anthropic-version").is_none() {
                return Err(refuse("anthropic-version: header is required".into()));
            }
            strict::check_anthropic(&request.body).map_err(refuse)?;
            strict::check_signatures(&request.body).map_err(refuse)?;
            strict::check_reasoning_kept(&request.body, reasoned).map_err(refuse)
        }
        Some(Provider::OpenAi) => strict::check_openai(&request.body).map_err(refuse),
        Some(Provider::Responses) => strict::check_responses(&request.body).map_err(refuse),
        None => Ok(()),
    }
}

enum Next {
    KeepAlive,
    Close,
    Reset,
}

/// One request that is being answered.
struct Exchange {
    connection: Connection,
    shared: Shared,
    index: usize,
}

impl Exchange {
    async fn answer(&mut self, answer: Answer) -> io::Result<Next> {
        let provider = lock(&self.shared).requests[self.index].provider.unwrap_or(Provider::Anthropic);
        match answer {
            Answer::Reply(reply) => self.healthy(provider, &reply).await,
            Answer::Broken { reply, after, flaw } => self.broken(provider, &reply, after, flaw).await,
            Answer::Trickle { reply, byte_us } => {
                self.connection.stream_head().await?;
                for frame in self.frames(provider, &reply) {
                    for byte in &frame.bytes {
                        tokio::time::sleep(Duration::from_micros(byte_us)).await;
                        self.connection.chunk(&[*byte]).await?;
                    }
                    self.note_sent(&frame);
                }
                self.complete(provider, &reply).await
            }
            Answer::PingsThen { pings, every_ms, reply } => {
                self.connection.stream_head().await?;
                for _ in 0..pings {
                    tokio::time::sleep(Duration::from_millis(every_ms)).await;
                    self.connection.chunk(&render::ping(provider)).await?;
                }
                self.send_paced(&reply, &self.frames(provider, &reply)).await?;
                self.complete(provider, &reply).await
            }
            Answer::NeverAnswer => self.stall().await,
            Answer::Refuse => Ok(Next::Reset),
            Answer::Status(status) => {
                if status.body.contains("thinking") {
                    // A script that refuses a request for its reasoning wants to see it come back without.
                    lock(&self.shared).reasoned.clear();
                }
                let is_json = status.body.trim_start().starts_with('{');
                let body = if is_json { status.body } else { render::error_body(provider, status.status, &status.body) };
                self.connection.whole(status.status, &status.headers, "application/json", &body).await?;
                Ok(Next::KeepAlive)
            }
            Answer::WrongContentType => {
                let page = "<!doctype html><title>Sign in</title><p>Please sign in to this network.";
                self.connection.whole(200, &[], "text/html; charset=utf-8", page).await?;
                Ok(Next::KeepAlive)
            }
        }
    }

    async fn healthy(&mut self, provider: Provider, reply: &Reply) -> io::Result<Next> {
        self.connection.stream_head().await?;
        self.send_paced(reply, &self.frames(provider, reply)).await?;
        self.complete(provider, reply).await
    }

    async fn broken(&mut self, provider: Provider, reply: &Reply, after: usize, flaw: Flaw) -> io::Result<Next> {
        let frames = self.frames(provider, reply);
        // The frames up to and with the `after`th delta; none for 0.
        let mut deltas = 0;
        let whole = frames
            .iter()
            .take_while(|frame| {
                let keep = deltas < after;
                deltas += usize::from(frame.is_delta);
                keep
            })
            .count();
        let (before, rest) = frames.split_at(whole);
        self.connection.stream_head().await?;
        self.send_paced(reply, before).await?;
        match flaw {
            Flaw::Stall => self.stall().await,
            Flaw::Pings { every_ms } => loop {
                tokio::time::sleep(Duration::from_millis(every_ms)).await;
                self.connection.chunk(&render::ping(provider)).await?;
            },
            Flaw::CutMidEvent => {
                let next = rest.iter().find(|frame| frame.is_delta).map(|frame| frame.bytes.as_slice());
                let next = next.unwrap_or_else(|| render::malformed(provider));
                self.connection.chunk(&next[..next.len() / 2]).await?;
                Ok(Next::Close)
            }
            Flaw::EndEarly => {
                self.connection.end().await?;
                Ok(Next::KeepAlive)
            }
            Flaw::Reset => Ok(Next::Reset),
            Flaw::Error { kind, message } => {
                self.connection.chunk(&render::stream_error(provider, &kind, &message)).await?;
                self.connection.end().await?;
                Ok(Next::KeepAlive)
            }
            Flaw::MalformedJson => self.interpose(reply, render::malformed(provider), rest).await,
            Flaw::TenMegabyteLine => self.interpose(reply, &render::long_line(provider, LONG_LINE_BYTES), rest).await,
        }
    }

    async fn interpose(&mut self, reply: &Reply, event: &[u8], rest: &[Frame]) -> io::Result<Next> {
        self.connection.chunk(event).await?;
        self.send_paced(reply, rest).await?;
        self.connection.end().await?;
        Ok(Next::KeepAlive)
    }

    fn frames(&self, provider: Provider, reply: &Reply) -> Vec<Frame> {
        let body = lock(&self.shared).requests[self.index].body.clone();
        render::frames(provider, reply, &body, self.index as u64)
    }

    async fn send_paced(&mut self, reply: &Reply, frames: &[Frame]) -> io::Result<()> {
        for frame in frames {
            if frame.is_delta && reply.pace_ms > 0 {
                tokio::time::sleep(Duration::from_millis(reply.pace_ms)).await;
            }
            self.connection.chunk(&frame.bytes).await?;
            self.note_sent(frame);
        }
        Ok(())
    }

    fn note_sent(&self, frame: &Frame) {
        if !frame.text.is_empty() {
            lock(&self.shared).requests[self.index].sent.push((Instant::now(), frame.text.clone()));
        }
    }

    /// Ends a reply that was sent whole, and remembers its reasoning.
    async fn complete(&mut self, provider: Provider, reply: &Reply) -> io::Result<Next> {
        if provider == Provider::Anthropic {
            let mut state = lock(&self.shared);
            let body = state.requests[self.index].body.clone();
            state.reasoned.extend(strict::Reasoned::new(&body, reply));
        }
        self.connection.end().await?;
        Ok(Next::KeepAlive)
    }

    async fn stall(&mut self) -> io::Result<Next> {
        self.connection.hung_up().await;
        lock(&self.shared).requests[self.index].hung_up = true;
        Ok(Next::Close)
    }
}
