//! What can go wrong with a store, by what the caller can do about it.

use crate::event::Owner;
use crate::id::{Seq, SessionId};
use std::io;
use std::path::PathBuf;

/// A store or a session failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such session.
    #[error("there is no session `{0}`")]
    NotFound(SessionId),
    /// The session has no such event.
    #[error("event {seq} is not in session `{id}`{}", last.map(|last| format!(", whose last event is {last}")).unwrap_or_default())]
    NoEvent {
        /// The session.
        id: SessionId,
        /// The event that was asked for.
        seq: Seq,
        /// The last event that there is.
        last: Option<Seq>,
    },
    /// No writer that had lost the session left anything that could be made a session of its own.
    #[error("no stale writer left anything in session `{0}`")]
    NothingStale(SessionId),
    /// The session exists already.
    #[error("session `{0}` exists already")]
    Exists(SessionId),
    /// Somebody else holds the session for writing. Follow it or fork it.
    #[error("session `{id}` is open for writing by pid {} on {} ({}) since {}{}", owner.pid, owner.host, owner.program, owner.since, if *.alive { "" } else { " (whether that process still lives cannot be told from here)" })]
    Held {
        /// The session.
        id: SessionId,
        /// The holder.
        owner: Owner,
        /// Whether it is known to live; false: unknown.
        alive: bool,
    },
    /// This owner lost the session: another took it over, or its file was replaced or cut. What was accepted and
    /// not written is kept in memory.
    #[error("session `{id}` was lost: {why}")]
    Lost {
        /// The session.
        id: SessionId,
        /// What was seen.
        why: String,
    },
    /// A call to the file system failed. Where it concerns writing, everything is kept and tried again each window.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried: `read`, `write`, `sync`, `create`, ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The log or the store is closed.
    #[error("the session store is closed")]
    Closed,
    /// What was to be imported cannot be read.
    #[error("cannot import: {why}")]
    Import {
        /// Why not.
        why: String,
    },
    /// A side file is missing or does not match its hash.
    #[error("`{path}` is missing or damaged")]
    SideFile {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// The same error once more, for another who waits for the same thing.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::NotFound(id) => Self::NotFound(*id),
            Self::Exists(id) => Self::Exists(*id),
            Self::NothingStale(id) => Self::NothingStale(*id),
            Self::Held { id, owner, alive } => Self::Held { id: *id, owner: owner.clone(), alive: *alive },
            Self::Lost { id, why } => Self::Lost { id: *id, why: why.clone() },
            Self::Io { action, path, source } => {
                let source = source
                    .raw_os_error()
                    .map_or_else(|| io::Error::new(source.kind(), source.to_string()), io::Error::from_raw_os_error);
                Self::Io { action, path: path.clone(), source }
            }
            Self::Closed => Self::Closed,
            Self::Import { why } => Self::Import { why: why.clone() },
            Self::SideFile { path } => Self::SideFile { path: path.clone() },
            Self::NoEvent { id, seq, last } => Self::NoEvent { id: *id, seq: *seq, last: *last },
        }
    }
}

/// An event was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// What waits to be written is at its bound. Wait with `reserve` for `needed` bytes, then append again.
    #[error("{bytes} bytes wait to be written, about the most that is allowed")]
    Full {
        /// What waits.
        bytes: u64,
        /// What was to be added, in bytes; 0 where not even that could be looked at. With room for less, the next try would be refused at once.
        needed: usize,
    },
    /// The session was lost to another owner or closed.
    #[error("the session is no longer open for writing: {why}")]
    NotOpen {
        /// Why.
        why: String,
    },
}

/// A store was shut down before everything was durable.
#[derive(Debug, thiserror::Error)]
#[error("{} sessions were not durable at shutdown: {}", not_durable.len(), self.first_words())]
pub struct ShutdownError {
    /// The sessions, with how many of their events are not durable, and what stood in the way.
    pub not_durable: Vec<(SessionId, u64, String)>,
}

impl ShutdownError {
    fn first_words(&self) -> String {
        self.not_durable.first().map(|(id, events, why)| format!("{id} ({events} events): {why}")).unwrap_or_default()
    }
}
