//! One run of the program: started, watched, signalled, waited for with a limit.

use super::HUNG;
use fault_server::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the program finds on standard input.
pub(crate) enum Input {
    /// `/dev/null`.
    Nothing,
    /// A regular file.
    File(File),
    /// A pipe with these bytes and then its end.
    Pipe(Vec<u8>),
    /// A pipe with nothing in it that stays open.
    OpenPipe,
}

/// A run that has not begun.
pub(crate) struct Run {
    command: Command,
    input: Input,
    limit: Duration,
}

impl Run {
    pub(crate) fn new(command: Command, limit: Duration) -> Self {
        Self { command, input: Input::Nothing, limit }
    }

    pub(crate) fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    #[must_use]
    pub(crate) fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let (stdin, mut bytes, keep_open) = match self.input {
            Input::Nothing => (Stdio::null(), None, false),
            Input::File(file) => (Stdio::from(file), None, false),
            Input::Pipe(bytes) => (Stdio::piped(), Some(bytes), false),
            Input::OpenPipe => (Stdio::piped(), None, true),
        };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command));
        let mut stdin = child.stdin.take();
        let writer = bytes.take().zip(stdin.take_if(|_| !keep_open)).map(|(bytes, mut pipe)| {
            // A program that does not want all of it closes the pipe, which is its right.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let out = Reader::start(child.stdout.take().expect("it is piped"));
        let err = Reader::start(child.stderr.take().expect("it is piped"));
        Running { child, _stdin: stdin, writer, out, err, started, limit: self.limit }
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn finish(self) -> Finished {
        self.start().finish()
    }
}

/// A run that is going on. Dropping it kills the process.
pub(crate) struct Running {
    child: Child,
    _stdin: Option<ChildStdin>,
    writer: Option<JoinHandle<()>>,
    out: Reader,
    err: Reader,
    started: Instant,
    limit: Duration,
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        // Until the program itself runs, a signal would go to what starts it.
        let name = || std::fs::read_to_string(format!("/proc/{}/comm", self.child.id())).unwrap_or_default();
        assert!(wait_until(HUNG, || name().trim() != "env"), "the program starts");
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        // An error means that it has ended already, which `finish` shows.
        let _ = kill_process(pid, signal);
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of standard output so far, each with the time at which it came.
    pub(crate) fn lines(&self) -> Vec<(Instant, String)> {
        self.out.lines()
    }

    /// Standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.err.lines().into_iter().map(|(_, line)| line).collect()
    }

    /// Waits until `condition` holds for the lines of standard output.
    #[track_caller]
    pub(crate) fn wait_for_output(&mut self, what: &str, mut condition: impl FnMut(&str) -> bool) {
        let reached = wait_until(self.limit, || {
            let all: String = self.out.lines().into_iter().map(|(_, line)| line).collect();
            condition(&all)
        });
        assert!(reached, "waited in vain for {what}; stdout: {:?} stderr: {}", self.lines(), self.stderr());
    }

    /// Closes the reading end of standard output after the next line.
    pub(crate) fn close_stdout(&self) {
        self.out.stop();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let ended = wait_until(self.limit, || self.child.try_wait().is_ok_and(|status| status.is_some()));
        let took = self.started.elapsed();
        assert!(ended, "hung for {took:?}; stdout: {:?} stderr: {}", self.lines(), self.stderr());
        let status = self.child.wait().expect("it has ended");
        drop(self.writer.take().map(JoinHandle::join));
        let (stdout, stderr) = (self.out.end(), self.err.end());
        Finished { code: status.code(), signal: status.signal(), stdout, stderr, took }
    }
}

impl Running {
    /// Waits for its end, and gives the whole JSON lines of standard output with the time at which each came.
    #[track_caller]
    pub(crate) fn finish_lines(mut self) -> Vec<(Instant, Value)> {
        let ended = wait_until(self.limit, || self.has_ended());
        assert!(ended, "it does not end");
        self.out.end();
        let lines = self.out.lines().into_iter();
        lines.filter_map(|(at, line)| Some((at, serde_json::from_str(&line).ok()?))).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code, where it ended by itself.
    pub(crate) code: Option<i32>,
    /// The signal, where one ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Finished {
    /// The result object: the whole of standard output for `json`, its last line for `stream-json`.
    #[track_caller]
    pub(crate) fn result(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(&self.stdout)
            .or_else(|_| serde_json::from_str(last))
            .unwrap_or_else(|error| panic!("no result object: {error}: {self:?}"))
    }

    /// The events of `stream-json`.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        self.stdout.lines().map(parse).collect()
    }

    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{self:?}");
    }
}

/// A thread that reads a pipe line by line.
struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<(Instant, String)>>,
    stop: std::sync::atomic::AtomicBool,
}

impl Reader {
    fn start(pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let filled = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                filled.lines.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), text));
                line.clear();
                if filled.stop.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    fn lines(&self) -> Vec<(Instant, String)> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(&self) {
        self.shared.stop.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    fn end(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            // It ends with the pipe, which the process held.
            let _ = thread.join();
        }
        self.lines().into_iter().map(|(_, line)| line).collect()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("pid", &self.child.id()).field("lines", &self.lines()).finish_non_exhaustive()
    }
}
