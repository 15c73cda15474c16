//! The one place where failures become a message, a hint and an exit code.

use crate::output;
use agent_runtime::SendError;
use agent_runtime::session_store::{AppendError, ShutdownError, StoreError};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// How the program ends. Where several apply, [`Exit::or`] knows which one is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Wrong usage.
    Usage,
    /// The model call failed for good.
    Model,
    /// A time limit of a model call ended the turn.
    Timeout,
    /// The session could not be stored.
    Store,
    /// The session is open for writing elsewhere.
    Held,
    /// Ended, but a tool was refused because nobody could be asked.
    Refused,
    /// Ended at a limit: max turns, max tokens.
    Limit,
    /// This signal stopped it, and is raised again at the end.
    Signal(i32),
}

impl Exit {
    /// The code that a shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Model => 3,
            Self::Timeout => 4,
            Self::Store => 5,
            Self::Held => 6,
            Self::Refused => 7,
            Self::Limit => 8,
            Self::Signal(number) => 128_u8.wrapping_add(u8::try_from(number).unwrap_or(0)),
        }
    }

    /// Of two that apply, the one to tell: usage, held, store, signal, timeout, model, limit, refused, failed, done.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        if other.rank() < self.rank() { other } else { self }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Usage => 0,
            Self::Held => 1,
            Self::Store => 2,
            Self::Signal(_) => 3,
            Self::Timeout => 4,
            Self::Model => 5,
            Self::Limit => 6,
            Self::Refused => 7,
            Self::Failed => 8,
            Self::Done => 9,
        }
    }
}

/// Why a command failed, or ended early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// Something to tell.
    Told {
        /// What happened, to what: one sentence, names in backticks, no full stop.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// How the program ends.
        exit: Exit,
    },
    /// Whoever read standard output has gone: there is nobody to print for, and nothing failed.
    StdoutClosed,
}

impl CliError {
    /// An error that ends the program with `exit`.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Told { message: message.into(), hint: None, exit }
    }

    /// Something failed: exit 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Something was typed wrong: exit 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A file could not be worked on: exit 1.
    pub(crate) fn io(action: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let message = format!("cannot {action} `{}`", path.into().display());
        move |error| Self::failed(format!("{message}: {error}"))
    }

    /// The same error with what to do about it.
    #[must_use]
    pub(crate) fn hint(self, words: impl Into<String>) -> Self {
        match self {
            Self::Told { message, exit, .. } => Self::Told { message, hint: Some(words.into()), exit },
            Self::StdoutClosed => self,
        }
    }

    /// How the program ends with it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Told { exit, .. } => *exit,
            Self::StdoutClosed => Exit::Done,
        }
    }

    /// Tells it on standard error.
    pub(crate) fn tell(&self) -> Exit {
        if let Self::Told { message, hint, .. } = self {
            output::stderr(&format!("error: {message}\n"));
            if let Some(hint) = hint {
                output::stderr(&format!("\nhint: {hint}\n"));
            }
        }
        self.exit()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told { message, .. } => f.write_str(message),
            Self::StdoutClosed => f.write_str("standard output was closed"),
        }
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NoEvent { id, .. } => Self::usage(message).hint(format!("`longhand sessions show {id}` shows the events' numbers")),
            StoreError::NothingStale(id) => {
                Self::failed(message).hint(format!("`longhand sessions verify {id}` names the lines of stale writers"))
            }
            StoreError::NotFound(_) => Self::usage(message).hint("`longhand sessions list` shows what there is"),
            StoreError::Held { id, .. } => Self::new(Exit::Held, message).hint(format!(
                "follow it with `longhand sessions tail {id}`, ask for it with `longhand -r {id} --take-over`, or go on in a copy with `longhand -r {id} --fork-session`"
            )),
            StoreError::Io { action: "read" | "look at", .. } => Self::failed(message),
            StoreError::Io { action: "open", source, .. } if source.kind() != ErrorKind::ReadOnlyFilesystem => Self::failed(message),
            StoreError::Io { .. } => Self::new(Exit::Store, message).hint(
                "stored sessions can still be read; make room, or choose another `--home DIR`; `longhand doctor` looks at the disk",
            ),
            StoreError::Lost { id, .. } => {
                Self::new(Exit::Store, message).hint(format!("`longhand sessions verify {id}` shows what is in its file"))
            }
            _ => Self::failed(message),
        }
    }
}

impl From<SendError> for CliError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Store(error) => Self::from(error),
            SendError::Append(error @ (AppendError::Full { .. } | AppendError::NotOpen { .. })) => {
                Self::new(Exit::Store, error.to_string()).hint("`longhand doctor` looks at the home and its disk")
            }
            SendError::Empty | SendError::BadKey | SendError::TooManyImages { .. } => Self::usage(error.to_string()),
            SendError::KeyTaken(_) => Self::usage(error.to_string())
                .hint("a message that is sent again has the same words; another message needs another `--message-id`"),
            SendError::TooLong { .. } => {
                Self::failed(error.to_string()).hint("send less, or choose a model with a larger context window")
            }
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<ShutdownError> for CliError {
    fn from(error: ShutdownError) -> Self {
        let Some((id, events, why)) = error.not_durable.first() else { return Self::new(Exit::Store, error.to_string()) };
        let more = match error.not_durable.len() {
            1 => String::new(),
            count => format!(", nor the last of {} more sessions", count - 1),
        };
        Self::new(Exit::Store, format!("the last {events} events of session `{id}` could not be stored{more}: {why}"))
            .hint(format!("what came before them is kept: `longhand sessions show {id}`; `longhand doctor` looks at the disk"))
    }
}
