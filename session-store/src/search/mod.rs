//! Full text search over all sessions, by an index that can be deleted at any time.
//!
//! **What it promises.** A finding was read from its session's log a moment ago and has what was looked for: an index that is stale or damaged shows nothing that is
//! not there. After [`SearchIndex::refresh`] every message of every listed session is found. Nothing else depends on the index: it is made from the logs, through
//! [`SessionStore`] alone, and made anew where it is missing, damaged or of another version. [`scan`] finds the same without it.
//!
//! **Parties.** [`SearchIndex::refresh`] reads what is new in the logs ([`documents`]) and adds its words ([`words`]) in transactions of some megabytes; one process does
//! that at a time, any number search meanwhile. A process that dies leaves what it had committed. [`SearchIndex::search`] asks the [`database`] for candidates, reads
//! each from its log, and matches it again ([`query`]).
//!
//! **What it does not do.** It does not look into side files. Bytes of the index that a disk changed without SQLite noticing may hide a
//! message until the index is made anew. SQLite does its own reading and writing, not through [`crate::FileSystem`].

mod database;
mod documents;
mod query;
mod refresh;
mod scan;
mod snippet;
mod words;

pub use query::{SearchOrder, SearchQuery, SearchRole};
pub use refresh::{RefreshProgress, Refreshed};
pub use scan::scan;
pub use snippet::Snippet;

use crate::error::StoreError;
use crate::id::{Seq, SessionId};
use crate::store::SessionStore;
use crate::time::Timestamp;
use database::{Candidate, Cursor, Database, Files};
use documents::{Document, Documents};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How many candidates are fetched at a time.
const PAGE: usize = 64;

/// How many messages are read in vain before the index is asked for the start of a word.
const READ_MAX: usize = 48;

/// How many candidates that are not what is looked for are passed over, at most, in one search: only a damaged index has many.
const MISSES_MAX: usize = 10_000;

/// Why the index could not be used. Whoever wants an answer all the same has [`scan`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// There is none, and none can be made: the home cannot be written, say.
    #[error("the search index in `{path}` cannot be used: {why}")]
    Unavailable {
        /// Its folder or file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is damaged, or of another version. [`SearchIndex::refresh`] makes it anew.
    #[error("the search index is damaged: {0}")]
    Damaged(String),
    /// Another process writes it for longer than is waited.
    #[error("the search index is in use by another process")]
    Busy,
    /// SQLite failed in another way.
    #[error("the search index failed: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for SearchError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let damaged = matches!(
            error,
            rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::Utf8Error(..)
        );
        match error.sqlite_error_code() {
            _ if damaged => Self::Damaged(error.to_string()),
            // What the statements say is constant: a table or a value they do not fit was changed by somebody else.
            Some(
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::SchemaChanged
                | ErrorCode::TooBig
                | ErrorCode::Unknown
                | ErrorCode::InternalMalfunction,
            ) => Self::Damaged(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::DiskFull) => {
                Self::Unavailable { path: PathBuf::from("index"), why: error.to_string() }
            }
            _ => Self::Sqlite(error),
        }
    }
}

/// A message that has what was looked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SearchHit {
    /// Its session.
    pub session: SessionId,
    /// Its event: where to jump to. Of an answer that was cut by a crash, its request.
    pub seq: Seq,
    /// When it was said.
    pub at: Timestamp,
    /// Whose words they are.
    pub role: SearchRole,
    /// The tool, of a call and of its output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What was found, and what is around it.
    pub snippet: Snippet,
}

impl SearchHit {
    fn new(session: SessionId, document: &Document, places: &[std::ops::Range<usize>]) -> Self {
        let snippet = Snippet::cut(&document.text, places);
        Self { session, seq: document.seq, at: document.at, role: document.role, tool: document.tool.clone(), snippet }
    }
}

/// The index of a home, in `<home>/index/search.sqlite`. Holds nothing open; cheap to make and to clone.
#[derive(Clone, Debug)]
pub struct SearchIndex {
    files: Files,
    /// Only this one is searched, where it is given.
    made: Option<i32>,
}

impl SearchIndex {
    /// The index of the sessions in `home`. Makes nothing.
    #[must_use]
    pub fn new(home: impl AsRef<Path>) -> Self {
        Self { files: Files::in_home(home.as_ref()), made: None }
    }

    /// The same, for searches that have to find all that `refreshed` brought into it: they fail where the index was deleted since and another process
    /// is making a new one, which may have next to nothing yet. Where nothing was refreshed, because another process does it, nothing is promised.
    #[must_use]
    pub fn of(&self, refreshed: &Refreshed) -> Self {
        Self { files: self.files.clone(), made: refreshed.made }
    }

    /// The database's file; SQLite puts others beside it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.files.database()
    }

    /// Removes the index; the next refresh makes it anew.
    ///
    /// # Errors
    /// [`SearchError::Busy`] while another process writes it, or why its files cannot be removed.
    pub async fn remove(&self) -> Result<(), SearchError> {
        let files = self.files.clone();
        blocking(move || {
            let _lock = files.lock_within(refresh::LOCK_PATIENCE)?.ok_or(SearchError::Busy)?;
            files.remove()
        })
        .await
    }

    /// Gives what is found to `found`, in the query's order, until it breaks. What was not refreshed is not found. Each finding is read from its log, through
    /// `store`. Dropping the future ends the query.
    ///
    /// # Errors
    /// Where the index cannot be used: [`scan`] then finds the same, slowly.
    pub async fn search(
        &self,
        store: &dyn SessionStore,
        query: &SearchQuery,
        found: &mut (dyn FnMut(SearchHit) -> ControlFlow<()> + Send),
    ) -> Result<(), SearchError> {
        let files = self.files.clone();
        if !blocking(move || Ok(files.database().exists())).await? {
            return Err(SearchError::Unavailable { path: self.path(), why: "there is none yet".to_owned() });
        }
        let files = self.files.clone();
        let mut database = blocking(move || Database::open(&files)).await?;
        if self.made.is_some_and(|made| made != database.made) {
            return Err(SearchError::Unavailable { path: self.path(), why: "it is being made anew".to_owned() });
        }
        let (mut cursor, mut misses) = (Cursor::default(), 0);
        // The index gathers all words that begin so before it gives the first. Where they are in many messages, the newest of all are read sooner;
        // where they are in few, it is quick.
        let mut more = query.without_starts().filter(|_| query.order == SearchOrder::Newest);
        while !cursor.is_at_end() {
            let candidates;
            (database, cursor, candidates) = page(database, more.as_ref().unwrap_or(query), cursor).await?;
            for candidate in in_order(&candidates, query) {
                match read(store, candidate, query).await {
                    Some(hit) => {
                        if found(hit).is_break() {
                            return Ok(());
                        }
                    }
                    None => misses += 1,
                }
            }
            if more.is_some() && misses > READ_MAX {
                (more, misses) = (None, 0);
            }
            if misses > MISSES_MAX {
                break;
            }
        }
        Ok(())
    }
}

/// Those of the time that is looked for. Where the newest come first, their ids are in order to about a moment; here they are by their times.
fn in_order(page: &[Candidate], query: &SearchQuery) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = page.iter().filter(|candidate| query.is_in_time(candidate.at)).copied().collect();
    if query.order == SearchOrder::Newest {
        candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.at, candidate.session, candidate.seq, candidate.part)));
    }
    candidates
}

/// The next candidates. Where nobody waits for them any more, SQLite is told to stop.
async fn page(
    database: Database,
    query: &SearchQuery,
    mut cursor: Cursor,
) -> Result<(Database, Cursor, Vec<Candidate>), SearchError> {
    struct Interrupt(Option<rusqlite::InterruptHandle>);
    impl Drop for Interrupt {
        fn drop(&mut self) {
            if let Some(handle) = &self.0 {
                handle.interrupt();
            }
        }
    }
    let mut interrupt = Interrupt(Some(database.interrupt_handle()));
    let query = query.clone();
    let page = blocking(move || {
        let candidates = database.candidates(&query, &mut cursor, PAGE)?;
        Ok((database, cursor, candidates))
    })
    .await;
    interrupt.0 = None;
    page
}

/// The document of a candidate, from its log, where it is what is looked for.
async fn read(store: &dyn SessionStore, candidate: Candidate, query: &SearchQuery) -> Option<SearchHit> {
    let document = read_document(store, candidate).await.ok()??;
    let places = query.find(&document)?;
    Some(SearchHit::new(candidate.session, &document, &places))
}

async fn read_document(store: &dyn SessionStore, candidate: Candidate) -> Result<Option<Document>, StoreError> {
    let Candidate { session, seq, part, place, .. } = candidate;
    let mut documents = Documents::resume(seq, 0, None, None);
    let mut found = Vec::new();
    let Some(entry) = store.read_one(session, seq, place).await? else { return Ok(None) };
    documents.push(&entry, &mut found);
    if !documents.is_coming() {
        return Ok(found.into_iter().find(|document| document.part == part));
    }
    // An answer that was cut takes the events behind its first one, too.
    let mut entries = store.read(session, seq + 1).await?;
    loop {
        let entry = entries.next().await?;
        match &entry {
            Some(entry) => documents.push(entry, &mut found),
            None => documents.finish(&mut found),
        }
        let wanted = found.drain(..).find(|document| (document.seq, document.part) == (seq, part));
        if wanted.is_some() || entry.is_none() || !documents.is_coming() {
            return Ok(wanted);
        }
    }
}

/// Runs `work` on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, SearchError> + Send + 'static) -> Result<T, SearchError> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.map_err(|error| SearchError::Unavailable { path: PathBuf::from("index"), why: error.to_string() })?
}
