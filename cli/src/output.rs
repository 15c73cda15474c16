//! Standard output and standard error. Data goes to the one, talk to the other. A closed reader is never a panic: on standard
//! output it ends the command quietly, on standard error nobody is left to be told.

use crate::error::CliError;
use crate::safe_text::safe;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

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

/// After this, somebody who waits for a disk is told so.
pub(crate) const DISK_ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Messages that wait for a reader of standard error who is slow; more are dropped.
const MESSAGES_MAX: usize = 256;

/// The thread that writes standard error, once there is one.
static TALK: OnceLock<SyncSender<Talk>> = OnceLock::new();

enum Talk {
    Say(String),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// Says something on standard error, made safe to print. Where nobody can be told, nothing happens.
pub(crate) fn stderr(text: &str) {
    match TALK.get() {
        // Where nobody has read for so long that the queue is full, this is lost.
        Some(talk) => drop(talk.try_send(Talk::Say(safe(text).into_owned()))),
        None => drop(io::stderr().write_all(safe(text).as_bytes())),
    }
}

/// What `work`, which waits for the disk of `home`, comes to. Where that takes long, a person is told what is waited for.
pub(crate) async fn tell_if_slow<T>(home: &Path, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Ok(done) = tokio::time::timeout(DISK_ANSWERS_WITHIN, &mut work).await {
        return done;
    }
    stderr(&format!("still waiting: the disk of `{}` is slow, or does not answer; Ctrl-C stops the wait\n", home.display()));
    work.await
}

/// From now on standard error is written by a thread of its own, so that a reader who hangs holds up nothing else.
pub(crate) fn detach_stderr() {
    let (talk, said) = std::sync::mpsc::sync_channel(MESSAGES_MAX);
    let write = move || {
        for talk in said {
            match talk {
                Talk::Say(text) => drop(io::stderr().write_all(text.as_bytes())),
                Talk::Flush(done) => drop(done.try_send(())),
            }
        }
    };
    // Without the thread, whoever speaks writes.
    if std::thread::Builder::new().name("stderr".to_owned()).spawn(write).is_ok() {
        let _ = TALK.set(talk);
    }
}

/// At the program's end: waits until standard error is written, for `limit` at most.
pub(crate) fn finish_stderr(limit: Duration) {
    if let Some(talk) = TALK.get() {
        let (done, written) = std::sync::mpsc::sync_channel(1);
        if talk.try_send(Talk::Flush(done)).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }
}
