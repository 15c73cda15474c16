//! Agent sessions as append-only, checksummed logs that cannot be lost.
//!
//! A session is a sequence of [`Event`]s. A [`SessionStore`] keeps sessions; opening one for writing gives a [`SessionLog`] to
//! append to, and the [`State`] that is the fold of what is in it. [`FileStore`] keeps each session in one JSONL file,
//! whose format `FORMAT.md` describes for people who write other tools.
//!
//! ```
//! use session_store::{FileStore, FileStoreOptions, NewSession, SessionStore, UserMessage};
//! use std::time::Duration;
//!
//! # async fn example(home: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! let store = FileStore::open(FileStoreOptions::new(home))?;
//! let session = store.create(NewSession::default()).await?;
//!
//! // Accepted: in memory, and seen by every reader in this process. Within 500 ms it is written.
//! let entry = session.log.append(UserMessage { text: "hello".into(), ..UserMessage::default() }.into())?;
//! // Durable: survives the machine.
//! session.log.durable(entry.seq).await?;
//!
//! let id = session.log.id();
//! session.log.close().await?;
//! assert_eq!(store.load(id).await?.state.messages, 1);
//! store.shutdown(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! # let home = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(example(home.path())).unwrap();
//! ```
//!
//! Three words, each with a promise of its own: an event is *accepted* when it is in memory, *written* when it survives
//! this process, *durable* when it survives the machine. Nothing that ends in the page cache is called durable.

mod error;
mod event;
pub mod exchange;
mod file_store;
mod fs;
mod id;
mod image;
mod line;
#[cfg(test)]
mod samples;
mod scan;
mod search;
mod side;
mod state;
mod stats;
mod store;
mod time;

pub use error::{AppendError, ShutdownError, StoreError};
pub use event::*;
pub use file_store::{
    Advance, Compressed, FileStore, FileStoreOptions, KeepCold, Kept, Machine, Mended, Quota, RawLog, Repair, RepairAction,
    SessionSpace, Space, StaleLines,
};
pub use fs::{DirEntry, File, FileSystem, OpenMode, RealFs, Stat, Volume, Watch};
pub use id::{Place, Seq, SeqRange, SessionId};
pub use image::{IMAGE_BYTES_MAX, IMAGE_SIDE_MAX, ImageError, MESSAGE_IMAGE_BYTES_MAX, MESSAGE_IMAGES_MAX, is_image};
pub use line::{Problem, ProblemKind};
pub use search::{
    RefreshProgress, Refreshed, SearchError, SearchHit, SearchIndex, SearchOrder, SearchQuery, SearchRole, Snippet, scan,
};
pub use side::{hexadecimal, sha256_hex};
pub use state::{
    ContextRanges, ContextSummary, InFlight, KEY_BYTES_MAX, KEYED_MAX, KeyedMessage, Message, OpenTurn, QueuedMessage,
    REFUSED_IMAGES_MAX, RefusedImage, Slot, State, TOOL_OUTPUT_KEPT, UNDO_MAX, UNDO_MESSAGES_MAX, Undoable, Unresolved,
};
pub use stats::{Histogram, StoreStats};
pub use store::{
    EntryReader, FillImport, Holder, ImportLog, Loaded, NewImport, NewSession, OpenSession, Progress, Rescued, SessionListState,
    SessionLog, SessionStore, SessionSummary, Verified,
};
pub use time::{Clock, NotATime, SystemClock, Timestamp};
