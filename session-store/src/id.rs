//! Names of things: sessions, writers, and places in a log.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use uuid::Uuid;

/// The place of an event in its session: consecutive from 0.
pub type Seq = u64;

/// Where a line stands in the file of its log; of several lines, the first one's start and the last one's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The line, counted from 1.
    pub line: u64,
    /// The byte at which the record starts.
    pub offset: u64,
    /// Its bytes, without the last newline. 0: the place is not known.
    pub len: u32,
    /// The checksum that the (last) line claims; 0 where it claims none.
    pub crc: u32,
}

impl Place {
    /// Whether it says where something is.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.len > 0
    }

    /// The byte behind its newline.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset + u64::from(self.len) + 1
    }

    /// The place from here through `last`; unknown where either is, or where it is too long to be told.
    #[must_use]
    pub fn through(self, last: Self) -> Self {
        let len = (last.end() - 1).checked_sub(self.offset).and_then(|len| u32::try_from(len).ok());
        match len.filter(|_| self.is_known() && last.is_known()) {
            Some(len) => Self { len, crc: last.crc, ..self },
            None => Self::default(),
        }
    }
}

/// A session's name for machines: a UUID version 7, whose first 48 bits are its time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

impl SessionId {
    /// A new id for a session that begins at `now`; ids made in one process sort in the order in which they were made.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let ms = u64::try_from(now.as_ms()).unwrap_or(0);
        let time = uuid::Timestamp::from_unix(
            uuid::timestamp::context::NoContext,
            ms / 1000,
            u32::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        );
        Self(Uuid::new_v7(time))
    }

    /// The id that belongs to `key`, always the same: for a session that has to be found again by who started it, whatever became of that
    /// process. It is a UUID version 8 of the key's SHA-256 and carries no time, so its log lies in the folder of 1970-01-01.
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(key)[..16]);
        Self(Uuid::new_v8(bytes))
    }

    /// The id in `uuid`, whatever its version.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID itself.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// The time that the id says the session was created; 1970 for a UUID that carries none.
    #[must_use]
    pub fn created_at(self) -> Timestamp {
        let ms = self.0.get_timestamp().map_or(0, |time| {
            let (seconds, nanos) = time.to_unix();
            i64::try_from(seconds).unwrap_or(0).saturating_mul(1000) + i64::from(nanos / 1_000_000)
        });
        Timestamp::from_ms(ms)
    }

    /// The path of the log below the folder `sessions`, without an ending: `2026/01/31/<uuid>`. The date is the id's own.
    #[must_use]
    pub fn relative_path(self) -> PathBuf {
        let (year, month, day) = self.created_at().date();
        PathBuf::from(format!("{year:04}/{month:02}/{day:02}/{self}"))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

/// A range of events, both ends included; written as `[from, to]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeqRange(pub Seq, pub Seq);

impl SeqRange {
    /// Whether `seq` is inside.
    #[must_use]
    pub fn contains(self, seq: Seq) -> bool {
        (self.0..=self.1).contains(&seq)
    }
}
