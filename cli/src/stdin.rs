//! Standard input beside a prompt.
//!
//! | standard input | with a prompt | without |
//! |---|---|---|
//! | a regular file | read, after the prompt | read, is the prompt |
//! | a pipe, a socket | waited for: 3 s for its first byte (told after 1 s), then read, or left alone | read to the end |
//! | a terminal, `/dev/null`, anything else | not read | wrong usage |
//!
//! `-` as the prompt reads to the end, whatever it is. 10 MB at most. A program that is started with an inherited pipe that nobody
//! writes to must not wait for ever; this is why a prompt does not wait for the end of a pipe that says nothing.
//!
//! A blocking read runs on a thread of the blocking pool. Where it is left alone, the thread stays in its read until the
//! process ends, and the process does not wait for it.

use crate::error::CliError;
use crate::output;
use rustix::fs::{FileType, fstat};
use std::io::{self, Read};
use std::time::Duration;
use tokio::sync::oneshot;

/// The most that is read, in bytes.
const BYTES_MAX: usize = 10_000_000;
const TELL_AFTER: Duration = Duration::from_secs(1);
const LEAVE_AFTER: Duration = Duration::from_secs(3);

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has an end, and is read.
    File,
    /// Perhaps somebody writes to it.
    Pipe,
    /// Nobody means it to be read.
    Other,
}

impl Kind {
    /// What the process's standard input is.
    pub(crate) fn of_process() -> Self {
        match fstat(rustix::stdio::stdin()).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::RegularFile) => Self::File,
            Ok(FileType::Fifo | FileType::Socket) => Self::Pipe,
            _ => Self::Other,
        }
    }
}

/// The message: `prompt` and what standard input adds to it.
///
/// # Errors
/// Wrong usage: no words at all, or more than 10 MB.
pub(crate) async fn message(prompt: Option<&str>, kind: Kind) -> Result<String, CliError> {
    let message = match (prompt, kind) {
        (Some("-"), _) | (None, Kind::File | Kind::Pipe) => whole().await?,
        (Some(prompt), Kind::File) => joined(prompt, &whole().await?),
        (Some(prompt), Kind::Pipe) => joined(prompt, &if_it_comes().await?),
        (Some(prompt), Kind::Other) => prompt.to_owned(),
        (None, Kind::Other) => {
            return Err(CliError::usage("there is no prompt").hint("give it as an argument, or on standard input"));
        }
    };
    if message.trim().is_empty() {
        return Err(CliError::usage("the prompt is empty").hint("give it as an argument, or on standard input"));
    }
    Ok(message)
}

fn joined(prompt: &str, input: &str) -> String {
    if input.trim().is_empty() { prompt.to_owned() } else { format!("{prompt}\n\n{input}") }
}

/// Reads to the end.
async fn whole() -> Result<String, CliError> {
    Reading::start().end().await
}

/// Reads to the end, unless nothing comes in time.
async fn if_it_comes() -> Result<String, CliError> {
    let mut reading = Reading::start();
    if tokio::time::timeout(TELL_AFTER, reading.begun()).await.is_err() {
        output::stderr("waiting for standard input, which is a pipe (`< /dev/null` says that there is nothing)\n");
        if tokio::time::timeout(LEAVE_AFTER - TELL_AFTER, reading.begun()).await.is_err() {
            output::stderr("nothing came on standard input in 3 s: going on without it\n");
            return Ok(String::new());
        }
    }
    reading.end().await
}

/// A read of standard input on a thread of its own.
struct Reading {
    /// Answered at the first byte, or at the end where there is none.
    begun: oneshot::Receiver<()>,
    has_begun: bool,
    bytes: tokio::task::JoinHandle<Result<Vec<u8>, CliError>>,
}

impl Reading {
    fn start() -> Self {
        let (first, begun) = oneshot::channel();
        Self { begun, has_begun: false, bytes: tokio::task::spawn_blocking(move || read(io::stdin().lock(), first)) }
    }

    /// Returns when the first byte or the end is there. Cancel-safe.
    async fn begun(&mut self) {
        if !self.has_begun {
            // An error is a reader that failed: the end tells why.
            let _ = (&mut self.begun).await;
            self.has_begun = true;
        }
    }

    async fn end(self) -> Result<String, CliError> {
        let bytes = self.bytes.await.map_err(|error| CliError::failed(format!("cannot read standard input: {error}")))??;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| {
            output::stderr("standard input is not UTF-8: what is no text in it was replaced\n");
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }))
    }
}

fn read(mut input: impl Read, first: oneshot::Sender<()>) -> Result<Vec<u8>, CliError> {
    let failed = |error| CliError::failed(format!("cannot read standard input: {error}"));
    let mut bytes = Vec::new();
    input.by_ref().take(1).read_to_end(&mut bytes).map_err(failed)?;
    let _ = first.send(());
    input.by_ref().take((BYTES_MAX - bytes.len() + 1) as u64).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > BYTES_MAX {
        return Err(too_large());
    }
    Ok(bytes)
}

/// The size is known where standard input is a file; a pipe is not read to its end to learn it.
fn too_large() -> CliError {
    let size = match fstat(rustix::stdio::stdin()) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => format!("{} bytes", stat.st_size),
        _ => format!("more than {BYTES_MAX} bytes"),
    };
    CliError::usage(format!("standard input has {size}, and {BYTES_MAX} are the most that is read"))
        .hint("name the file in the prompt: the model can read it piece by piece")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_megabytes_are_read_and_one_byte_more_is_refused() {
        let all = read(io::repeat(b'x').take(BYTES_MAX as u64), oneshot::channel().0).expect("fits");
        assert_eq!(all.len(), BYTES_MAX);
        let error = read(io::repeat(b'x'), oneshot::channel().0).expect_err("too large");
        assert_eq!(error.exit(), crate::error::Exit::Usage);
    }

    #[test]
    fn the_first_byte_or_the_end_is_told() {
        for input in [&b"x"[..], &b""[..]] {
            let (first, mut begun) = oneshot::channel();
            read(input, first).expect("readable");
            assert_eq!(begun.try_recv(), Ok(()));
        }
    }

    #[test]
    fn input_stands_after_the_prompt() {
        assert_eq!(joined("explain", "fn main() {}\n"), "explain\n\nfn main() {}\n");
        assert_eq!(joined("explain", " \n"), "explain");
    }
}
