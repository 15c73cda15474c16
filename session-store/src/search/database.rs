//! The index in SQLite: which words are in which messages, and how far each session is in it.
//!
//! ```text
//!   session   a row for each session: what its log was when it was read, and where to read on
//!   message   a row for each document: its session, its event, which of the event's documents it is, its time, the place of its line
//!   moved     by how much an id is more than its document's time, at most
//!   words     FTS5 without its content: the words of each document, and its filters as words
//! ```
//!
//! A document's id is its time in eighths of a second, or a free number near it: so the newest come first without sorting, but for those of one moment, and a
//! date is a range of ids. All of it blocks.

use super::SearchError;
use super::documents::Document;
use super::query::{SearchOrder, SearchQuery, facet, model_names};
use super::words::append_words;
use crate::fs::{FileSystem, OpenMode, RealFs, create_dirs};
use crate::id::{Place, Seq, SessionId};
use crate::time::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Goes up with every change of the tables, of the words or of what is indexed: another version's index is built again.
const VERSION: i64 = 1;

/// How long a statement waits for another process that writes.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// How long an id is, in milliseconds. Ids that are close take fewer bytes, for each word of each message.
const MS_PER_ID: i64 = 125;

/// Among how many of the newest the best are looked for: to weigh one takes a microsecond or two.
const AMONG: i64 = 5000;

const SCHEMA: &str = "
    CREATE TABLE session(num INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        next INTEGER NOT NULL, crc INTEGER NOT NULL, cwd TEXT, model TEXT);
    CREATE TABLE message(id INTEGER PRIMARY KEY, session INTEGER NOT NULL, seq INTEGER NOT NULL, part INTEGER NOT NULL,
        at INTEGER NOT NULL, offset INTEGER NOT NULL, len INTEGER NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE moved(most INTEGER NOT NULL);
    INSERT INTO moved VALUES(0);
    CREATE INDEX message_session ON message(session);
    CREATE VIRTUAL TABLE words USING fts5(line, content='', contentless_delete=1, tokenize='ascii');
    INSERT INTO words(words, rank) VALUES('hashsize', 33554432);";

/// An open index.
pub(super) struct Database {
    connection: Connection,
    /// A number that nearly no other one has: tells it from an index that is made in its place.
    pub(super) made: i32,
}

/// What is in the index of a session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// The log when it was read to its end; 0 and 0 where it was not.
    pub(super) bytes: u64,
    pub(super) updated_at: i64,
    pub(super) next: Seq,
    pub(super) crc: u32,
    pub(super) cwd: Option<String>,
    pub(super) model: Option<String>,
}

/// Documents of a session that go into the index together.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) session: SessionId,
    /// Where the index has to be with the session, or nothing of this is added: another process was faster. Absent: what there is of it goes first.
    pub(super) from: Option<Seq>,
    pub(super) documents: Vec<Document>,
    pub(super) known: Known,
}

/// A document that may be what is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: i64,
    pub(super) session: SessionId,
    pub(super) seq: Seq,
    pub(super) part: u32,
    pub(super) at: Timestamp,
    pub(super) place: Place,
}

/// Where a query goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    /// No id is larger.
    last: i64,
    /// Where the best come first: those among which they are looked for.
    among: Option<Among>,
    is_at_end: bool,
}

#[derive(Clone, Copy, Debug)]
struct Among {
    /// No id is smaller.
    first: i64,
    /// How many were given.
    given: i64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { last: i64::MAX, among: None, is_at_end: false }
    }
}

impl Cursor {
    /// Whether all was given.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }
}

/// The files of the index.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    pub(super) fn in_home(home: &Path) -> Self {
        Self { folder: home.join("index") }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.folder.join("search.sqlite")
    }

    fn lock(&self) -> PathBuf {
        self.folder.join("search.lock")
    }

    /// Makes what is missing, for the owner only; SQLite gives its side files the mode of the database.
    fn create(&self) -> io::Result<()> {
        create_dirs(&RealFs, &self.folder, &mut |_| {})?;
        match RealFs.open(&self.database(), OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    }

    /// Removes the database and its side files.
    pub(super) fn remove(&self) -> Result<(), SearchError> {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let mut path = self.database().into_os_string();
            path.push(ending);
            match RealFs.remove_file(path.as_ref()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.unavailable(&error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the lock of those who change the index; nothing where another has it for longer than `patience`.
    #[expect(
        clippy::disallowed_methods,
        reason = "on a blocking thread; a lock of another process has no wake-up, and it ends at `patience`"
    )]
    pub(super) fn lock_within(&self, patience: Duration) -> Result<Option<Lock>, SearchError> {
        self.create().map_err(|error| self.unavailable(&error))?;
        let path = self.lock();
        match RealFs.open(&path, OpenMode::CreateNew) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(self.unavailable(&error)),
            _ => {}
        }
        let file = RealFs.open(&path, OpenMode::InPlace).map_err(|error| self.unavailable(&error))?;
        let until = std::time::Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(true) => return Ok(Some(Lock(file))),
                Ok(false) if std::time::Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                Ok(false) => return Ok(None),
                // What is written is checked against what others wrote, lock or not.
                Err(_) => return Ok(Some(Lock(file))),
            }
        }
    }

    fn unavailable(&self, error: &io::Error) -> SearchError {
        SearchError::Unavailable { path: self.folder.clone(), why: error.to_string() }
    }
}

/// Held by who changes the index.
pub(super) struct Lock(std::sync::Arc<dyn crate::fs::File>);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Database {
    /// Opens the index, and makes an empty one where there is none.
    pub(super) fn create(files: &Files) -> Result<Self, SearchError> {
        files.create().map_err(|error| files.unavailable(&error))?;
        Self::open(files)
    }

    /// Opens the index that is there.
    ///
    /// # Errors
    /// [`SearchError::Damaged`] where it is none of this version.
    pub(super) fn open(files: &Files) -> Result<Self, SearchError> {
        let path = files.database();
        let mut connection =
            Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_MAX)?;
        // The file is somebody's to damage: nothing in it may run code, and pages are checked.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.execute_batch(
            "PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
        )?;
        check_or_make_schema(&mut connection)?;
        let made = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        Ok(Self { connection, made })
    }

    /// What is in the index.
    pub(super) fn known(&self) -> Result<HashMap<SessionId, Known>, SearchError> {
        let mut rows = self.connection.prepare("SELECT id, bytes, updated_at, next, crc, cwd, model FROM session")?;
        let known = rows.query_map([], |row| {
            Ok((
                session_id(row.get(0)?),
                Known {
                    bytes: row.get(1)?,
                    updated_at: row.get(2)?,
                    next: row.get(3)?,
                    crc: row.get(4)?,
                    cwd: row.get(5)?,
                    model: row.get(6)?,
                },
            ))
        })?;
        Ok(known.collect::<Result<_, _>>()?)
    }

    /// Takes sessions out.
    pub(super) fn forget(&mut self, sessions: &[SessionId]) -> Result<(), SearchError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for session in sessions {
            forget(&transaction, *session)?;
        }
        Ok(transaction.commit()?)
    }

    /// Adds documents, all or nothing; how many.
    pub(super) fn add(&mut self, parts: &[Part]) -> Result<u64, SearchError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let added = add(&transaction, parts)?;
        transaction.commit()?;
        Ok(added)
    }

    /// The next documents that may be what is looked for, `limit` at most; there may be more behind fewer.
    pub(super) fn candidates(
        &self,
        query: &SearchQuery,
        cursor: &mut Cursor,
        limit: usize,
    ) -> Result<Vec<Candidate>, SearchError> {
        let moved: i64 = self.connection.query_row("SELECT most FROM moved", [], |row| row.get(0))?;
        let first = query.since.map_or(i64::MIN, id_of);
        let last = cursor.last.min(query.until.map_or(i64::MAX, |until| id_of(until).saturating_add(moved)));
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        match query.order {
            SearchOrder::Newest => {
                let candidates = self.select("rowid DESC", query, [first, last, rows, 0])?;
                cursor.last = candidates.last().map_or(i64::MIN, |candidate| candidate.id.saturating_sub(1));
                cursor.is_at_end = candidates.len() < limit;
                Ok(candidates)
            }
            SearchOrder::Best => {
                let mut among = match cursor.among {
                    Some(among) => among,
                    None => Among { first: self.newest(query, [first, last, AMONG])?.unwrap_or(first), given: 0 },
                };
                let candidates = self.select("rank", query, [among.first, last, rows, among.given])?;
                among.given += rows;
                cursor.among = Some(among);
                if candidates.len() < limit {
                    cursor.is_at_end = among.first == first;
                    (cursor.last, cursor.among) = (among.first.saturating_sub(1), None);
                }
                Ok(candidates)
            }
        }
    }

    /// What the words are found in, with ids from `first` to `last`, `limit` at most behind `offset`.
    fn select(
        &self,
        order: &str,
        query: &SearchQuery,
        [first, last, limit, offset]: [i64; 4],
    ) -> Result<Vec<Candidate>, SearchError> {
        // The words are looked up first: a join inside would make SQLite sort.
        let sql = format!(
            "SELECT found.id, session.id, message.seq, message.part, message.at, \
             message.offset, message.len, message.crc FROM \
             (SELECT rowid AS id FROM words WHERE words MATCH ?1 AND rowid BETWEEN ?2 AND ?3 ORDER BY {order} LIMIT ?4 OFFSET ?5) AS found \
             CROSS JOIN message ON message.id = found.id CROSS JOIN session ON session.num = message.session"
        );
        let mut rows = self.connection.prepare(&sql)?;
        let candidates = rows.query_map(params![query.to_fts(), first, last, limit, offset], |row| {
            let at = Timestamp::from_ms(row.get(4)?);
            let place = Place { line: 0, offset: row.get(5)?, len: row.get(6)?, crc: row.get(7)? };
            Ok(Candidate { id: row.get(0)?, session: session_id(row.get(1)?), seq: row.get(2)?, part: row.get(3)?, at, place })
        })?;
        Ok(candidates.collect::<Result<_, _>>()?)
    }

    /// The smallest id of the newest `count`; nothing where there are no more than those.
    fn newest(&self, query: &SearchQuery, [first, last, count]: [i64; 3]) -> Result<Option<i64>, SearchError> {
        let sql =
            "SELECT rowid FROM words WHERE words MATCH ?1 AND rowid BETWEEN ?2 AND ?3 ORDER BY rowid DESC LIMIT 2 OFFSET ?4";
        let mut rows = self.connection.prepare(sql)?;
        let found = rows.query_map(params![query.to_fts(), first, last, count - 1], |row| row.get(0))?;
        let found: Vec<i64> = found.collect::<Result<_, _>>()?;
        Ok(if found.len() == 2 { found.first().copied() } else { None })
    }

    /// What ends a query of this connection from outside.
    pub(super) fn interrupt_handle(&self) -> rusqlite::InterruptHandle {
        self.connection.get_interrupt_handle()
    }
}

/// The id of a document of this time, where it is free.
fn id_of(at: Timestamp) -> i64 {
    at.as_ms().div_euclid(MS_PER_ID)
}

fn session_id(bytes: [u8; 16]) -> SessionId {
    SessionId::from_uuid(Uuid::from_bytes(bytes))
}

fn check_or_make_schema(connection: &mut Connection) -> Result<(), SearchError> {
    let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    if version(connection)? == 0 {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another may have made it meanwhile.
        if version(&transaction)? == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            transaction.pragma_update(None, "application_id", random_number())?;
        }
        transaction.commit()?;
    }
    match version(connection)? {
        VERSION => Ok(()),
        other => Err(SearchError::Damaged(format!("it is of version {other}, and this program writes version {VERSION}"))),
    }
}

/// The end of an id, which is random.
fn random_number() -> i32 {
    SessionId::new(Timestamp::default()).uuid().as_u128() as i32
}

fn forget(connection: &Connection, session: SessionId) -> Result<(), SearchError> {
    let Some(num) = num_of(connection, session)? else { return Ok(()) };
    connection.prepare_cached("DELETE FROM words WHERE rowid IN (SELECT id FROM message WHERE session = ?1)")?.execute([num])?;
    connection.prepare_cached("DELETE FROM message WHERE session = ?1")?.execute([num])?;
    connection.prepare_cached("DELETE FROM session WHERE num = ?1")?.execute([num])?;
    Ok(())
}

fn num_of(connection: &Connection, session: SessionId) -> Result<Option<i64>, SearchError> {
    let mut rows = connection.prepare_cached("SELECT num FROM session WHERE id = ?1")?;
    Ok(rows.query_row([session.uuid().as_bytes()], |row| row.get(0)).optional()?)
}

fn add(connection: &Connection, parts: &[Part]) -> Result<u64, SearchError> {
    let mut taken = HashSet::new();
    let mut rows = Vec::new();
    for part in parts {
        if part.from.is_none() {
            forget(connection, part.session)?;
        }
        let Some(num) = advance(connection, part)? else { continue };
        let filters = common_filters(part.known.cwd.as_deref());
        for document in &part.documents {
            rows.push((free_id(connection, &mut taken, document, num)?, num, document, filters.clone()));
        }
    }
    // FTS5 takes them best in the order of their ids.
    rows.sort_unstable_by_key(|(id, ..)| *id);
    let mut add_words = connection.prepare_cached("INSERT INTO words(rowid, line) VALUES(?1, ?2)")?;
    let mut add_message = connection.prepare_cached(
        "INSERT INTO message(id, session, seq, part, at, offset, len, crc) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut line = String::new();
    for (id, num, document, filters) in &rows {
        line.clear();
        line.push_str(filters);
        push_filters(document, &mut line);
        append_words(&document.text, &mut line);
        add_words.execute(params![id, line])?;
        add_message.execute(params![
            id,
            num,
            document.seq,
            document.part,
            document.at.as_ms(),
            document.place.offset,
            document.place.len,
            document.place.crc
        ])?;
    }
    let moved = rows.iter().map(|(id, _, document, _)| id.saturating_sub(id_of(document.at))).max().unwrap_or(0);
    connection.execute("UPDATE moved SET most = max(most, ?1)", [moved])?;
    Ok(rows.len() as u64)
}

/// Notes how far a session is; its number, or nothing where the index is not where the documents go on.
fn advance(connection: &Connection, part: &Part) -> Result<Option<i64>, SearchError> {
    let known = &part.known;
    let mut row = connection.prepare_cached("SELECT next FROM session WHERE id = ?1")?;
    let there: Option<Seq> = row.query_row([part.session.uuid().as_bytes()], |row| row.get(0)).optional()?;
    if there != part.from {
        return Ok(None);
    }
    connection
        .prepare_cached(
            "INSERT INTO session(id, bytes, updated_at, next, crc, cwd, model) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT(id) DO UPDATE SET bytes = ?2, updated_at = ?3, next = ?4, crc = ?5, cwd = ?6, model = ?7",
        )?
        .execute(params![
            part.session.uuid().as_bytes(),
            known.bytes,
            known.updated_at,
            known.next,
            known.crc,
            known.cwd,
            known.model
        ])?;
    num_of(connection, part.session)
}

/// The id of the document's time, or a free one behind it. Where many share one moment, each step looks up to twice as far as the one before, at a place that is
/// the document's own: so a crowd takes about as many steps as its number has binary digits.
fn free_id(connection: &Connection, taken: &mut HashSet<i64>, document: &Document, num: i64) -> Result<i64, SearchError> {
    let mut is_in_index = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM message WHERE id = ?1)")?;
    let wanted = id_of(document.at);
    let own = crc32c::crc32c(format!("{num} {} {}", document.seq, document.part).as_bytes());
    let mut id = wanted;
    for step in 1_u32.. {
        if !taken.contains(&id) && !is_in_index.query_row([id], |row| row.get::<_, bool>(0))? {
            break;
        }
        let reach = 1_i64 << step.min(40);
        id = wanted.saturating_add(i64::from(own.wrapping_mul(step.wrapping_mul(2_654_435_761) | 1)) % reach);
    }
    taken.insert(id);
    Ok(id)
}

/// The filters that all documents of a session share: its folder and those above.
fn common_filters(cwd: Option<&str>) -> String {
    let mut filters = String::new();
    for folder in cwd.map(Path::new).into_iter().flat_map(Path::ancestors) {
        filters += &facet('d', &folder.to_string_lossy());
        filters.push(' ');
    }
    filters
}

fn push_filters(document: &Document, line: &mut String) {
    let mut push = |kind, value: &str| {
        line.push_str(&facet(kind, value));
        line.push(' ');
    };
    push('r', document.role.name());
    if let Some(tool) = &document.tool {
        push('t', &tool.to_lowercase());
    }
    for name in document.model.iter().map(|model| model.to_lowercase()) {
        model_names(&name).for_each(|name| push('m', name));
    }
}
