//! Standard output and standard error. Data goes to the one, talk to the other. A closed reader is never a panic: on standard
//! output it ends the command quietly, on standard error nobody is left to be told.

use crate::error::CliError;
use crate::safe_text::safe;
use std::io::{self, BufWriter, ErrorKind, Write};

/// Buffered standard output. Nothing is seen before [`Stdout::flush`] (or the drop, which cannot tell of a failure).
pub(crate) struct Stdout {
    out: BufWriter<io::Stdout>,
}

impl Stdout {
    /// The process's standard output.
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, io::stdout()) }
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes).map_err(|error| stdout_error(&error))
    }

    /// Makes all that was written visible.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(|error| stdout_error(&error))
    }
}

fn stdout_error(error: &io::Error) -> CliError {
    match error.kind() {
        ErrorKind::BrokenPipe => CliError::StdoutClosed,
        _ => CliError::failed(format!("cannot write to standard output: {error}")),
    }
}

/// Says something on standard error, made safe to print. Where nobody can be told, nothing happens.
pub(crate) fn stderr(text: &str) {
    let _ = io::stderr().write_all(safe(text).as_bytes());
}
