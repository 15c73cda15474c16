//! What a session store is, whatever it keeps sessions in: two traits, [`SessionStore`] and [`SessionLog`].
//!
//! Three words, each with a promise of its own. An event is *accepted* when it is in memory and every reader in this
//! process can see it; *written* when it survives this process; *durable* when it survives the machine.

use crate::error::{AppendError, ShutdownError, StoreError};
use crate::event::{Entry, Event, Owner, SessionImported, SideRef};
use crate::id::{Place, Seq, SessionId};
use crate::line::Problem;
use crate::state::State;
use crate::stats::StoreStats;
use crate::time::Timestamp;
use async_trait::async_trait;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A place where sessions are kept.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Creates a session and opens it for writing. `opened` and `session.started` are its first events; they are
    /// accepted, not yet durable.
    async fn create(&self, new: NewSession) -> Result<OpenSession, StoreError>;

    /// Opens a session for writing: takes a new epoch, recovers what a crash left, folds the log.
    ///
    /// # Errors
    /// [`StoreError::Held`] where another process (or this one) holds it, [`StoreError::NotFound`], or why it failed.
    async fn open(&self, id: SessionId) -> Result<OpenSession, StoreError>;

    /// Creates a session whose first lines are those of `parent` up to and with `at` (absent: all that is written),
    /// copied byte for byte, and opens it for writing. Works on a session that is held.
    async fn fork(&self, parent: SessionId, at: Option<Seq>) -> Result<OpenSession, StoreError>;

    /// Folds a session without owning it, and says what is wrong with its log.
    async fn load(&self, id: SessionId) -> Result<Loaded, StoreError>;

    /// Folds a session's events up to and with `at`, without owning it. Bodies of messages may be missing ([`State::missing`]).
    async fn load_at(&self, id: SessionId, at: Seq) -> Result<State, StoreError>;

    /// Reads a session from `from` on, in the order of `seq`, without owning it. Damage is skipped here and told by
    /// [`SessionStore::verify`].
    async fn read(&self, id: SessionId, from: Seq) -> Result<Box<dyn EntryReader>, StoreError>;

    /// The event `seq`, or nothing where there is none. `place` is where its entry said that it stands ([`Entry::place`]), to be found there at once; anywhere else it
    /// is looked for.
    async fn read_one(&self, id: SessionId, seq: Seq, place: Place) -> Result<Option<Arc<Entry>>, StoreError> {
        let _ = place;
        let mut entries = self.read(id, seq).await?;
        Ok(entries.next().await?.filter(|entry| entry.seq == seq))
    }

    /// Like [`SessionStore::read`], and then waits for more, as another process writes them. What it sees is written,
    /// perhaps not yet durable.
    async fn follow(&self, id: SessionId, from: Seq) -> Result<Box<dyn EntryReader>, StoreError>;

    /// The file beside the log that `side` names, checked against its hash.
    async fn read_side(&self, id: SessionId, side: &SideRef) -> Result<Vec<u8>, StoreError>;

    /// Checks every line; changes nothing.
    async fn verify(&self, id: SessionId) -> Result<Verified, StoreError>;

    /// All sessions, newest first.
    async fn list(&self) -> Result<Vec<SessionSummary>, StoreError>;

    /// Writes a whole session of another program at once. `fill` gives its events, on a thread that may block; the session is there when all of them
    /// are durable, and closed. Where `fill` fails, or the process dies, there is none.
    ///
    /// # Errors
    /// What `fill` gave, or why the store failed.
    async fn import(&self, new: NewImport, fill: FillImport) -> Result<SessionId, StoreError>;

    /// Removes a session and what is beside it for good.
    ///
    /// # Errors
    /// [`StoreError::Held`] while it is open for writing anywhere.
    async fn remove(&self, id: SessionId) -> Result<(), StoreError>;

    /// Asks whoever holds a session to let go of it, and returns once nobody holds it: the holder is told through
    /// [`Progress::asked`], and closes the session when it can. Nothing is taken from anybody. Cancel-safe: dropping the future
    /// withdraws the request.
    ///
    /// # Errors
    /// [`StoreError::Held`] where it is still held after `within`, or its holder takes no requests.
    async fn release(&self, id: SessionId, within: Duration) -> Result<(), StoreError> {
        let _ = within;
        match self.load(id).await?.holder {
            Holder::Nobody => Ok(()),
            Holder::Alive(owner) => Err(StoreError::Held { id, owner, alive: true }),
            Holder::Unknown(owner) => Err(StoreError::Held { id, owner, alive: false }),
        }
    }

    /// Returns when all that was accepted in any session before the call is durable.
    async fn flush(&self) -> Result<(), StoreError>;

    /// Closes every session, makes everything durable and stops, in `limit` at most.
    ///
    /// # Errors
    /// What was not durable by then.
    async fn shutdown(&self, limit: Duration) -> Result<(), ShutdownError>;

    /// Counters since the store was opened.
    fn stats(&self) -> StoreStats;
}

/// A session that this process owns.
#[async_trait]
pub trait SessionLog: Send + Sync + 'static {
    /// The session.
    fn id(&self) -> SessionId;

    /// The epoch that this owner has: with `seq` it makes a cursor that no crash can make ambiguous.
    fn epoch(&self) -> u64;

    /// Accepts an event. It is written within one window (500 ms unless the store was told otherwise) and durable soon
    /// after. Never blocks on the disk.
    ///
    /// # Errors
    /// [`AppendError::Full`] at the bound of the session or the store: wait with [`SessionLog::reserve`].
    fn append(&self, event: Event) -> Result<Arc<Entry>, AppendError>;

    /// Like [`SessionLog::append`], to be written within `within`, where that is less than the window: for an event
    /// that holds what arrived a while ago.
    fn append_within(&self, event: Event, within: Duration) -> Result<Arc<Entry>, AppendError>;

    /// Waits until there is room for an event of about `bytes`. Cancel-safe: dropping the future gives the place up.
    ///
    /// # Errors
    /// When the log is closed or lost for good.
    async fn reserve(&self, bytes: usize) -> Result<(), StoreError>;

    /// Returns when the event `seq` and all before it are written. Cancel-safe.
    async fn written(&self, seq: Seq) -> Result<(), StoreError>;

    /// Returns when the event `seq` and all before it are durable; drives a sync at once. Cancel-safe.
    async fn durable(&self, seq: Seq) -> Result<(), StoreError>;

    /// Starts making `seq` and all before it durable now, without waiting.
    fn start_commit(&self, seq: Seq);

    /// Returns when all that was accepted before the call is durable.
    async fn flush(&self) -> Result<(), StoreError>;

    /// Keeps `bytes` beside the log, to be durable before any event that is appended after this call.
    ///
    /// # Errors
    /// [`AppendError::Full`] at the bound.
    fn put_side(&self, bytes: Vec<u8>) -> Result<SideRef, AppendError>;

    /// How far the log is; changes wake the receiver.
    fn progress(&self) -> watch::Receiver<Progress>;

    /// The accepted events from `from` on that are still in memory (some hundreds of the newest, and all that are not
    /// yet written), or nothing where `from` is older: read those from the store.
    fn recent(&self, from: Seq) -> Option<Vec<Arc<Entry>>>;

    /// Appends `closed`, makes all durable, and lets go of the session. Idempotent.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Reads a session's entries one after the other.
#[async_trait]
pub trait EntryReader: Send {
    /// The next entry, or `None` at the end of what there is (never for a follower). Cancel-safe.
    async fn next(&mut self) -> Result<Option<Arc<Entry>>, StoreError>;
}

/// What a new session starts with.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    /// The id; absent: a new one.
    pub id: Option<SessionId>,
    /// The working directory, absolute.
    pub cwd: Option<String>,
}

/// What an imported session starts with.
#[derive(Clone, Debug)]
pub struct NewImport {
    /// When the original began; the session's id carries it.
    pub created_at: Timestamp,
    /// The working directory of the original, absolute.
    pub cwd: Option<String>,
    /// Where it came from; `imported_at` is filled in.
    pub imported: SessionImported,
}

/// Gives the events of an imported session.
pub type FillImport = Box<dyn FnOnce(&mut dyn ImportLog) -> Result<(), StoreError> + Send>;

/// The log of a session that is being imported.
pub trait ImportLog {
    /// The `seq` of the next event.
    fn next_seq(&self) -> Seq;

    /// Adds an event that happened at `at`.
    ///
    /// # Errors
    /// Where the disk refuses it: the import is over.
    fn append(&mut self, at: Timestamp, event: Event) -> Result<Seq, StoreError>;

    /// Keeps `bytes` beside the log, for the events that name it.
    ///
    /// # Errors
    /// Where the disk refuses it: the import is over.
    fn put_side(&mut self, bytes: &[u8]) -> Result<SideRef, StoreError>;
}

/// A session that was just created, opened or forked.
pub struct OpenSession {
    /// The log, to append to.
    pub log: Arc<dyn SessionLog>,
    /// The fold of all that is in it.
    pub state: State,
    /// What was wrong with it; all of it is kept.
    pub problems: Vec<Problem>,
}

impl std::fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSession").field("id", &self.log.id()).field("problems", &self.problems).finish_non_exhaustive()
    }
}

/// A session that was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The fold.
    pub state: State,
    /// What is wrong with the log.
    pub problems: Vec<Problem>,
    /// Whether a process holds it for writing.
    pub holder: Holder,
}

/// What `verify` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The session.
    pub id: SessionId,
    /// Whether there are no problems.
    pub ok: bool,
    /// How many sound events there are.
    pub events: u64,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Who holds a session for writing.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Holder {
    /// Nobody: it was closed, or its owner is dead.
    Nobody,
    /// A process that lives.
    Alive(Owner),
    /// It was not closed, and whether its owner lives cannot be told from here (another host, a network file system).
    Unknown(Owner),
}

/// How far a log is. The three numbers count events: the event `seq` is written when `seq < written`.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Accepted: in memory.
    pub accepted: Seq,
    /// Written: survives the process.
    pub written: Seq,
    /// Durable: survives the machine.
    pub durable: Seq,
    /// What is wrong with the store right now; nothing accepted is lost meanwhile. Gone when it works again.
    pub trouble: Option<Arc<StoreError>>,
    /// The disk does not answer: something that was accepted is not durable a while after it should have been written, and nothing has failed. It is all kept, and the
    /// disk may answer yet. Gone when it does, and while the events are rescued.
    pub stalled: bool,
    /// Where the events go meanwhile, where the store has another place for them and that works: then there is no trouble, and what is
    /// in that place counts as written and durable. Gone when the log has it all.
    pub rescued: Option<Arc<Rescued>>,
    /// Somebody asks for the session ([`SessionStore::release`]). To answer, close it when nothing goes on in it; to keep it, do nothing.
    /// Gone when the request is withdrawn.
    pub asked: Option<Arc<Owner>>,
    /// No more events will come.
    pub closed: bool,
}

/// Another place that keeps a session's events while its own disk takes none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    /// The file with the lines, as they would be in the log.
    pub path: PathBuf,
    /// What the session's own disk said.
    pub why: String,
}

/// A line of the list of sessions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionSummary {
    /// Its id.
    pub id: SessionId,
    /// The name that a person gave it.
    pub name: Option<String>,
    /// The first line of its first message.
    pub title: Option<String>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// The model, as `provider/name`.
    pub model: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its last event was written; that somebody opened, closed or compressed it makes it no newer.
    pub updated_at: Timestamp,
    /// How many messages it has.
    pub messages: u64,
    /// What its log takes on the disk, in bytes.
    pub bytes: u64,
    /// `open` while a process writes it, `idle`, or `damaged` where it holds no sound record.
    pub state: SessionListState,
}

/// Whether a listed session is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionListState {
    /// A process writes it.
    Open,
    /// Nobody writes it.
    Idle,
    /// It holds no sound record.
    Damaged,
}
