//! The record format: one event as one line of JSON, its checksum chained to the line before.

use serde::Serialize;

/// Something wrong in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: u64,
    /// The byte in the file where it starts.
    pub offset: u64,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// What it is, in words.
    pub detail: String,
}

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The line is no record at all.
    Unreadable,
    /// The line is a record whose checksum does not continue the chain.
    Unchecked,
    /// Records are missing before this line.
    Gap,
    /// The record was seen before, or is older than its place.
    OutOfPlace,
    /// The line was written by a writer that had lost the session; it is set aside.
    StaleWriter,
    /// The file does not end in a newline: its last record was torn.
    TornTail,
    /// A blank line, a byte-order mark or a carriage return.
    Formatting,
    /// A side file that a record names is missing or damaged.
    SideFile,
    /// The file holds no sound record.
    Empty,
}
