//! Bringing the index up to date with the logs.

use super::database::{Database, Files, Known, Lock, Part};
use super::documents::Documents;
use super::{SearchError, SearchIndex, blocking};
use crate::error::StoreError;
use crate::id::{Seq, SessionId};
use crate::store::{EntryReader, SessionListState, SessionStore, SessionSummary};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long another process that refreshes is waited for.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How much text goes into the index with one transaction. What a process that dies loses of its work, and what others wait for.
const BATCH_BYTES: usize = 4 << 20;

/// How many sessions are taken out with one transaction.
const FORGET_AT_ONCE: usize = 256;

/// How far a refresh is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshProgress {
    /// Bytes of logs that are read.
    pub done: u64,
    /// Bytes of logs that are to be read, as far as is known.
    pub total: u64,
}

/// What a refresh did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Refreshed {
    /// Messages that were added.
    pub added: u64,
    /// Sessions that left the index.
    pub removed: u64,
    /// True where another process was refreshing, so that nothing was done here.
    pub is_busy: bool,
    /// Why the index was thrown away and made anew, where it was.
    pub rebuilt: Option<String>,
    /// The index that was brought up to date; see [`SearchIndex::of`].
    pub(super) made: Option<i32>,
    /// Sessions that could not be read; what the index has of them stays.
    pub unread: Vec<(SessionId, StoreError)>,
}

impl SearchIndex {
    /// Brings the index up to date with `sessions`, which is all that there are: [`SessionStore::list`]. Others leave the index. Of a session that it has, only what is
    /// new is read; of one whose log is not the one that was indexed, all. The newest sessions come first.
    ///
    /// Where another process is refreshing, it is waited for a second, then left to it. Dropping the future ends the refresh; what was committed stays, some
    /// megabytes at a time.
    ///
    /// # Errors
    /// Where the index can be neither used nor made anew.
    pub async fn refresh(
        &self,
        store: &dyn SessionStore,
        sessions: &[SessionSummary],
        report: &mut (dyn FnMut(RefreshProgress) + Send),
    ) -> Result<Refreshed, SearchError> {
        let files = self.files.clone();
        let Some(lock) = blocking(move || files.lock_within(LOCK_PATIENCE)).await? else {
            return Ok(Refreshed { is_busy: true, ..Refreshed::default() });
        };
        let lock = Arc::new(lock);
        match self.refresh_locked(store, sessions, report, &lock).await {
            Err(SearchError::Damaged(why)) => {
                tracing::info!(%why, "the search index is made anew");
                let files = self.files.clone();
                blocking(move || files.remove()).await?;
                let refreshed = self.refresh_locked(store, sessions, report, &lock).await?;
                Ok(Refreshed { rebuilt: Some(why), ..refreshed })
            }
            refreshed => refreshed,
        }
    }

    async fn refresh_locked(
        &self,
        store: &dyn SessionStore,
        sessions: &[SessionSummary],
        report: &mut (dyn FnMut(RefreshProgress) + Send),
        lock: &Arc<Lock>,
    ) -> Result<Refreshed, SearchError> {
        let (writer, known, made) = Writer::open(&self.files, lock).await?;
        let refreshed = refresh(store, sessions, report, writer, known).await?;
        Ok(Refreshed { made: Some(made), ..refreshed })
    }
}

async fn refresh(
    store: &dyn SessionStore,
    sessions: &[SessionSummary],
    report: &mut (dyn FnMut(RefreshProgress) + Send),
    mut writer: Writer,
    mut known: HashMap<SessionId, Known>,
) -> Result<Refreshed, SearchError> {
    let mut refreshed = Refreshed::default();
    let listed: HashSet<SessionId> = sessions.iter().map(|session| session.id).collect();
    let gone: Vec<SessionId> = known.keys().filter(|id| !listed.contains(id)).copied().collect();
    for some in gone.chunks(FORGET_AT_ONCE) {
        let some = some.to_vec();
        writer.run(move |database| database.forget(&some).map(|()| 0)).await?;
    }
    refreshed.removed = gone.len() as u64;

    let mut changed: Vec<(&SessionSummary, Option<Known>)> = sessions
        .iter()
        .map(|session| (session, known.remove(&session.id)))
        .filter(|(session, known)| {
            known.as_ref().is_none_or(|known| (known.bytes, known.updated_at) != (session.bytes, session.updated_at.as_ms()))
        })
        .collect();
    changed.sort_by_key(|(session, _)| std::cmp::Reverse(session.updated_at));
    let new_bytes = |session: &SessionSummary, known: Option<&Known>| {
        known.and_then(|known| session.bytes.checked_sub(known.bytes)).unwrap_or(session.bytes)
    };
    let total = changed.iter().map(|(session, known)| new_bytes(session, known.as_ref())).sum();
    let mut progress = RefreshProgress { done: 0, total };
    for (session, known) in changed {
        let bytes = new_bytes(session, known.as_ref());
        match index(store, session, known, &mut writer).await {
            Ok(()) | Err(Failure::Store(StoreError::NotFound(_))) => {}
            Err(Failure::Store(error)) => refreshed.unread.push((session.id, error)),
            Err(Failure::Index(error)) => return Err(error),
        }
        progress.done += bytes;
        report(progress);
    }
    refreshed.added = writer.finish().await?;
    Ok(refreshed)
}

enum Failure {
    Store(StoreError),
    Index(SearchError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Self {
        Self::Index(error)
    }
}

/// Reads what is new in a session and gives it to the writer.
async fn index(
    store: &dyn SessionStore,
    session: &SessionSummary,
    known: Option<Known>,
    writer: &mut Writer,
) -> Result<(), Failure> {
    let (mut entries, mut documents, mut from) = begin(store, session.id, known).await?;
    let mut out = Vec::new();
    let mut counted = 0;
    loop {
        let entry = entries.next().await?;
        match &entry {
            Some(entry) => documents.push(entry, &mut out),
            // Nobody goes on with the answer that was coming in.
            None if session.state != SessionListState::Open => documents.finish(&mut out),
            None => {}
        }
        writer.waiting_bytes += out[counted..].iter().map(|document| document.text.len() + DOCUMENT_BYTES).sum::<usize>();
        counted = out.len();
        let is_end = entry.is_none();
        if is_end || writer.waiting_bytes >= BATCH_BYTES {
            let (next, crc) = documents.place();
            let (bytes, updated_at) = if is_end { (session.bytes, session.updated_at.as_ms()) } else { (0, 0) };
            let known = Known { bytes, updated_at, next, crc, cwd: documents.cwd.clone(), model: documents.model.clone() };
            counted = 0;
            writer
                .add(Part { session: session.id, from: from.replace(next), documents: std::mem::take(&mut out), known })
                .await?;
        }
        if is_end {
            return Ok(());
        }
    }
}

/// What a document, or a session, costs besides its text.
const DOCUMENT_BYTES: usize = 100;

/// A reader where the index goes on with a session, and what it has of it: the next `seq`, or nothing where it begins anew.
async fn begin(
    store: &dyn SessionStore,
    id: SessionId,
    known: Option<Known>,
) -> Result<(Box<dyn EntryReader>, Documents, Option<Seq>), StoreError> {
    if let Some(known) = known.filter(|known| known.next > 0) {
        let documents = Documents::resume(known.next, known.crc, known.cwd, known.model);
        let mut entries = store.read(id, known.next - 1).await?;
        if entries.next().await?.is_some_and(|entry| documents.continues(&entry)) {
            return Ok((entries, documents, Some(known.next)));
        }
    }
    Ok((store.read(id, 0).await?, Documents::default(), None))
}

/// Writes a batch while the next one is read.
struct Writer {
    database: Option<Database>,
    running: Option<JoinHandle<Result<(Database, u64), SearchError>>>,
    added: u64,
    /// The next batch, and about how large it is, what is read for it included.
    parts: Vec<Part>,
    waiting_bytes: usize,
    /// Also whoever no longer waits for a batch has the lock until it is written.
    lock: Arc<Lock>,
}

impl Writer {
    async fn open(files: &Files, lock: &Arc<Lock>) -> Result<(Self, HashMap<SessionId, Known>, i32), SearchError> {
        let (files, lock) = (files.clone(), Arc::clone(lock));
        let (database, known) = blocking(move || {
            let database = Database::create(&files)?;
            let known = database.known()?;
            Ok((database, known))
        })
        .await?;
        let made = database.made;
        let writer = Self { database: Some(database), running: None, added: 0, parts: Vec::new(), waiting_bytes: 0, lock };
        Ok((writer, known, made))
    }

    async fn add(&mut self, part: Part) -> Result<(), SearchError> {
        self.parts.push(part);
        self.waiting_bytes += DOCUMENT_BYTES;
        if self.waiting_bytes >= BATCH_BYTES { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<(), SearchError> {
        self.waiting_bytes = 0;
        let parts = std::mem::take(&mut self.parts);
        self.run(move |database| database.add(&parts)).await
    }

    /// Runs `work` when what runs is done, and does not wait for it.
    async fn run(
        &mut self,
        work: impl FnOnce(&mut Database) -> Result<u64, SearchError> + Send + 'static,
    ) -> Result<(), SearchError> {
        self.settle().await?;
        let Some(mut database) = self.database.take() else { return Err(SearchError::Busy) };
        let lock = Arc::clone(&self.lock);
        self.running = Some(tokio::task::spawn_blocking(move || {
            let _lock = lock;
            let added = work(&mut database)?;
            Ok((database, added))
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), SearchError> {
        if let Some(running) = self.running.take() {
            let (database, added) = blocking_outcome(running.await)?;
            self.database = Some(database);
            self.added += added;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<u64, SearchError> {
        self.write().await?;
        self.settle().await?;
        let database = self.database.take();
        // Closing it moves the last pages to their places.
        blocking(move || {
            drop(database);
            Ok(())
        })
        .await?;
        Ok(self.added)
    }
}

fn blocking_outcome<T>(outcome: Result<Result<T, SearchError>, tokio::task::JoinError>) -> Result<T, SearchError> {
    outcome.map_err(|error| SearchError::Unavailable { path: "index".into(), why: error.to_string() })?
}
