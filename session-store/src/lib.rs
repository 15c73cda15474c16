//! Agent sessions as append-only, checksummed logs that cannot be lost.

mod error;
mod event;
mod file_store;
mod fs;
mod id;
mod line;
#[cfg(test)]
mod samples;
mod scan;
mod side;
mod state;
mod stats;
mod store;
mod time;

pub use error::{AppendError, ShutdownError, StoreError};
pub use event::*;
pub use file_store::{FileStore, FileStoreOptions, Machine};
pub use fs::{DirEntry, File, FileSystem, OpenMode, RealFs, Stat};
pub use id::{Seq, SeqRange, SessionId};
pub use line::{Problem, ProblemKind};
pub use side::sha256_hex;
pub use state::{InFlight, Message, OpenTurn, Slot, State, Unresolved};
pub use stats::{Histogram, StoreStats};
pub use store::{
    EntryReader, Holder, Loaded, NewSession, OpenSession, Progress, SessionListState, SessionLog, SessionStore, SessionSummary,
    Verified,
};
pub use time::{Clock, NotATime, SystemClock, Timestamp};
