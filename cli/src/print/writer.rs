//! The thread that writes standard output, or a file of results.
//!
//! It promises that a reader who is slow, stopped or gone holds up nothing but what is printed: lines wait in a bounded queue,
//! each is flushed, and the first write that fails ends the thread. [`Writer::finish`] joins it; where its reader hangs and a
//! signal came, it is left to the end of the process.

use crate::error::{CliError, Exit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many lines wait in the queue.
const LINES_MAX: usize = 256;

/// Hands lines to the thread.
pub(crate) struct Writer {
    /// Lines that the queue had no room for. Whoever pushes lines waits until these are gone before it makes more.
    waiting: VecDeque<Vec<u8>>,
    queue: Option<mpsc::Sender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// What it writes to, in words.
    target: String,
}

impl Writer {
    /// Starts the thread, on the blocking pool.
    pub(crate) fn start() -> Self {
        Self::to("standard output".to_owned(), |lines| write_all(lines, io::stdout().lock()))
    }

    /// The same, to write a file.
    pub(crate) fn to_file(file: File, path: &Path) -> Self {
        Self::to(format!("`{}`", path.display()), |lines| write_all(lines, file))
    }

    fn to(target: String, write: impl FnOnce(mpsc::Receiver<Vec<u8>>) -> io::Result<()> + Send + 'static) -> Self {
        let (queue, lines) = mpsc::channel(LINES_MAX);
        let thread = tokio::task::spawn_blocking(move || write(lines));
        Self { waiting: VecDeque::new(), queue: Some(queue), thread: Some(thread), target }
    }

    /// Takes a line to be written behind all others.
    pub(crate) fn push(&mut self, line: Vec<u8>) {
        if !line.is_empty() {
            self.waiting.push_back(line);
        }
    }

    /// Whether lines wait for room in the queue.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Moves lines into the queue as soon as there is room for one; false where they cannot be written any more. Cancel-safe.
    pub(crate) async fn catch_up(&mut self) -> bool {
        let Some(queue) = &self.queue else { return false };
        let Ok(room) = queue.reserve().await else {
            self.waiting.clear();
            return false;
        };
        if let Some(line) = self.waiting.pop_front() {
            room.send(line);
        }
        while let (false, Ok(room)) = (self.waiting.is_empty(), queue.try_reserve()) {
            if let Some(line) = self.waiting.pop_front() {
                room.send(line);
            }
        }
        true
    }

    /// Returns when all is written, or nothing more can be, and says how the program ends for it. Cancel-safe.
    pub(crate) async fn finish(&mut self) -> Exit {
        while self.is_behind() && self.catch_up().await {}
        self.queue = None;
        let Some(thread) = &mut self.thread else { return Exit::Done };
        let outcome = thread.await;
        self.thread = None;
        match outcome {
            Ok(Err(error)) if error.kind() != ErrorKind::BrokenPipe => {
                CliError::failed(format!("cannot write to {}: {error}", self.target)).tell()
            }
            _ => Exit::Done,
        }
    }
}

fn write_all(mut lines: mpsc::Receiver<Vec<u8>>, mut out: impl Write) -> io::Result<()> {
    while let Some(line) = lines.blocking_recv() {
        out.write_all(&line)?;
        out.flush()?;
    }
    Ok(())
}

/// Whether standard output is a pipe or a socket that nobody reads any more. Nothing is written to find out.
pub(crate) fn is_reader_gone() -> bool {
    let stdout = rustix::stdio::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(1..)) && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}
