//! The places in which a turn waits, for the test and the bench of interrupts: how a turn is brought to each.

use agent_runtime::providers::{Endpoint, HttpClient, OpenAi};
use agent_runtime::session_store::{
    DirEntry, Event, File, FileStore, FileStoreOptions, FileSystem, OpenMode, RealFs, Stat, ToolSpec,
};
use agent_runtime::{
    Approval, ApprovalRequest, Approver, BreakerPolicy, EndReason, FailureKind, Model, ModelFailure, PermissionMode, RetryPolicy,
    Runtime, ScriptedAnswer, ScriptedModel, Session, Setup, Tool, ToolContext, ToolError, ToolOutput, Turn, TurnEvent, tools,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_stream::StreamExt;

/// Longer than anything takes; whoever reaches it hangs.
pub(crate) const TOO_LONG: Duration = Duration::from_secs(60);
/// What the log of a stuck disk takes.
const SMALL_LOG: u64 = 64 << 10;
/// How long an answer needs to fill it, and to wait for room.
const FILLED: Duration = Duration::from_millis(600);

/// Where a turn waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Connecting,
    TlsHandshake,
    Headers,
    Stream,
    BackPressure,
    RetryPause,
    Breaker,
    LongWait,
    Tool,
    Shell,
    /// A command whose output has no end.
    Flood,
    Approval,
    StoreBarrier,
}

impl Place {
    pub(crate) const ALL: [Self; 13] = [
        Self::Connecting,
        Self::TlsHandshake,
        Self::Headers,
        Self::Stream,
        Self::BackPressure,
        Self::RetryPause,
        Self::Breaker,
        Self::LongWait,
        Self::Tool,
        Self::Shell,
        Self::Flood,
        Self::Approval,
        Self::StoreBarrier,
    ];

    /// Whether the disk does nothing meanwhile, so that the end of the turn is waited for in vain.
    pub(crate) fn is_stuck(self) -> bool {
        matches!(self, Self::BackPressure | Self::StoreBarrier)
    }
}

/// Stores, servers and a disk that gets stuck.
pub(crate) struct World {
    folder: tempfile::TempDir,
    runtime: Runtime,
    stuck: Runtime,
    gate: Arc<Gate>,
    hole: Hole,
    silent: Silent,
}

impl World {
    pub(crate) async fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let gate = Arc::new(Gate::default());
        let mut options = FileStoreOptions::new(folder.path().join("stuck"));
        options.fs = Arc::new(StuckDisk { gate: Arc::clone(&gate) });
        options.session_bytes_max = SMALL_LOG;
        let store = |options| FileStore::open(options).map_err(io::Error::other);
        // A pause of the breaker that outlasts everything: whoever waits behind it is stopped.
        let breaker = BreakerPolicy { failures: 1, first_pause: TOO_LONG, longest_pause: TOO_LONG };
        let runtime = Runtime::new(Arc::new(store(FileStoreOptions::new(folder.path().join("home")))?)).with_breaker(breaker);
        let stuck = Runtime::new(Arc::new(store(options)?));
        Ok(Self { folder, runtime, stuck, gate, hole: Hole::open().await?, silent: Silent::open().await? })
    }

    /// A turn that waits in `place`. `number` tells it from others.
    pub(crate) async fn turn_in(&self, place: Place, number: usize) -> (Session, Turn) {
        let asked = Arc::new(Notify::new());
        let runtime = if place.is_stuck() { &self.stuck } else { &self.runtime };
        let session = runtime.create(self.setup(place, number, &asked)).await.expect("a session");
        session.flush().await.expect("a disk that works so far");
        if place == Place::StoreBarrier {
            self.gate.close();
        }
        let mut turn = session.send("Wait.").await.expect("a turn");
        let come = async {
            match place {
                Place::StoreBarrier => tokio::time::sleep(Duration::from_millis(5)).await,
                Place::Approval => asked.notified().await,
                Place::TlsHandshake | Place::Headers => self.silent.accepted.notified().await,
                Place::BackPressure => {
                    until(&mut turn, |event| matches!(event, TurnEvent::Delta(_))).await;
                    self.gate.close();
                    tokio::time::sleep(FILLED).await;
                }
                _ => until(&mut turn, |event| is_there(place, event)).await,
            }
        };
        tokio::time::timeout(TOO_LONG, come).await.expect("the turn comes to the place");
        (session, turn)
    }

    /// Lets go of a session whose turn was stopped; its disk works again.
    pub(crate) async fn end(&self, session: &Session) {
        self.gate.open();
        session.close().await.expect("everything durable");
    }

    /// The session opens again, and takes a turn.
    pub(crate) async fn goes_on(&self, place: Place, session: Session) {
        self.end(&session).await;
        let model = Arc::new(ScriptedModel::new([ScriptedAnswer::new().text("Going on.")]));
        let runtime = if place.is_stuck() { &self.stuck } else { &self.runtime };
        let session = runtime.resume(session.id(), Setup::new(model, self.folder.path())).await.expect("it opens again");
        let outcome = session.send("Go on.").await.expect("a turn").outcome().await;
        assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, "Going on."), "{place:?}: {:?}", outcome.error);
        session.close().await.expect("everything durable");
    }

    pub(crate) async fn shutdown(self) {
        self.gate.open();
        self.runtime.shutdown(TOO_LONG).await.expect("everything durable");
        self.stuck.shutdown(TOO_LONG).await.expect("everything durable");
    }

    fn setup(&self, place: Place, number: usize, asked: &Arc<Notify>) -> Setup {
        let mut setup = Setup::new(self.model(place, number), self.folder.path());
        setup.tools = tools::builtin();
        setup.tools.push(Arc::new(Deaf));
        setup.env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        setup.permissions.mode = PermissionMode::Allow;
        if place == Place::Approval {
            setup.permissions.mode = PermissionMode::Ask;
            setup.permissions.approver = Some(Arc::new(Silence { asked: Arc::clone(asked) }));
        }
        let first_pause = if place == Place::RetryPause { TOO_LONG } else { Duration::from_millis(1) };
        setup.retry =
            RetryPolicy { first_pause, longest_pause: TOO_LONG, longest_wait: TOO_LONG * 1000, ..RetryPolicy::default() };
        setup
    }

    fn model(&self, place: Place, number: usize) -> Arc<dyn Model> {
        let failing = |kind, retry_after| {
            let failure = ModelFailure { retry_after, ..ModelFailure::new(kind, "a bad moment") };
            vec![ScriptedAnswer::failure(failure)]
        };
        let answers = match place {
            Place::Connecting => return http(format!("http://{}/v1", self.hole.address)),
            Place::TlsHandshake => return http(format!("https://{}/v1", self.silent.address)),
            Place::Headers => return http(format!("http://{}/v1", self.silent.address)),
            Place::Stream => vec![ScriptedAnswer::new().text("The tide turns.").hang()],
            Place::BackPressure => {
                // Slowly enough for the disk to be stuck before it is full.
                let flood = (0..200).fold(ScriptedAnswer::new().text("The tide turns."), |answer, _| {
                    answer.wait(Duration::from_millis(2)).text("The tide turns twice a day. ".repeat(40))
                });
                vec![flood.hang()]
            }
            Place::RetryPause => failing(FailureKind::RateLimit, None),
            Place::Breaker => failing(FailureKind::Connect, None),
            Place::LongWait => failing(FailureKind::RateLimit, Some(TOO_LONG * 100)),
            Place::Tool | Place::Approval => vec![ScriptedAnswer::new().tool_call("deaf", "{}")],
            Place::Shell => vec![ScriptedAnswer::new().tool_call("shell", r#"{"command": "sleep 60"}"#)],
            Place::Flood => vec![ScriptedAnswer::new().tool_call("shell", r#"{"command": "yes the tide turns"}"#)],
            Place::StoreBarrier => Vec::new(),
        };
        let model = ScriptedModel::new(answers);
        let mut origin = model.origin().clone();
        // An endpoint of its own, so that the breaker of one turn is not that of another.
        origin.model = format!("{place:?} {number}");
        Arc::new(model.with_origin(origin))
    }
}

fn http(url: String) -> Arc<dyn Model> {
    Arc::new(OpenAi::new(Endpoint::new("openai", url, "gpt-5"), HttpClient::new()).expect("a good endpoint"))
}

async fn until(turn: &mut Turn, is_there: impl Fn(&TurnEvent) -> bool) {
    while let Some(event) = turn.next().await {
        if is_there(&event) {
            return;
        }
    }
    panic!("the turn ended before");
}

fn is_there(place: Place, event: &TurnEvent) -> bool {
    let TurnEvent::Entry(entry) = event else { return matches!(place, Place::Stream | Place::Flood) };
    match place {
        Place::Connecting => matches!(entry.event, Event::ModelRequest(_)),
        Place::RetryPause => matches!(entry.event, Event::ModelError(_)),
        Place::Breaker | Place::LongWait => matches!(entry.event, Event::ModelWaiting(_)),
        Place::Tool | Place::Shell => matches!(entry.event, Event::ToolStarted(_)),
        _ => false,
    }
}

/// A listener whose queue is full: connections to it do not come about.
struct Hole {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Hole {
    async fn open() -> io::Result<Self> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(stream);
        }
        Ok(Self { address, _listener: listener, _waiting: waiting })
    }
}

/// A server that accepts, and says nothing until its client goes.
struct Silent {
    address: SocketAddr,
    accepted: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Silent {
    async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepted = Arc::new(Notify::new());
        let tell = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let tell = Arc::clone(&tell);
                connections.spawn(async move {
                    let mut bytes = [0; 4096];
                    // The client has said something, so that it waits for an answer now.
                    let mut has_told = false;
                    while stream.readable().await.is_ok() {
                        match stream.try_read(&mut bytes) {
                            Ok(0) => return,
                            Ok(_) if !has_told => {
                                has_told = true;
                                tell.notify_one();
                            }
                            Ok(_) => {}
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(_) => return,
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, accepted, task })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A tool that never ends and does not listen.
struct Deaf;

#[async_trait]
impl Tool for Deaf {
    fn spec(&self) -> ToolSpec {
        let parameters = json!({"type": "object", "properties": {}});
        ToolSpec { name: "deaf".to_owned(), description: "Never ends.".to_owned(), parameters }
    }

    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, _: &Value) -> String {
        "deaf".to_owned()
    }

    async fn run(&self, _: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        std::future::pending().await
    }
}

/// Somebody who is asked and does not answer.
struct Silence {
    asked: Arc<Notify>,
}

#[async_trait]
impl Approver for Silence {
    async fn ask(&self, _: ApprovalRequest) -> Approval {
        self.asked.notify_one();
        std::future::pending().await
    }
}

/// Holds up writes and syncs while it is closed.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn close(&self) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn open(&self) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(is_closed, |is_closed| *is_closed).unwrap_or_else(PoisonError::into_inner));
    }
}

/// The machine's disk, which does not answer while its gate is closed.
struct StuckDisk {
    gate: Arc<Gate>,
}

struct StuckFile {
    file: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl FileSystem for StuckDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(StuckFile { file: RealFs.open(path, mode)?, gate: Arc::clone(&self.gate) }))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        RealFs.stat(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealFs.read_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.pass();
        RealFs.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }

    fn locks_are_trusted(&self, path: &Path) -> bool {
        RealFs.locks_are_trusted(path)
    }
}

impl File for StuckFile {
    fn stat(&self) -> io::Result<Stat> {
        self.file.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.gate.pass();
        self.file.append(parts)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.gate.pass();
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.file.is_locked()
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}
