//! SIGINT, SIGTERM and SIGHUP. The first one is an interrupt: the turn stops, all is flushed, and then the signal is raised again
//! with its default effect, so that a shell's loop ends too. A second SIGINT or SIGTERM, half a second later or more, ends the
//! process at once, whatever it does; sooner it is the same wish, forwarded by a shell or a wrapper. SIGHUP comes twice when a terminal is
//! closed, and never ends the process before all is flushed. A signal that was ignored when the program started (`nohup`, a
//! background job of a script) stays ignored.

use crate::error::{CliError, Exit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;
use std::io;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Two signals closer than this are one wish.
const SECOND_AFTER: Duration = Duration::from_millis(500);

/// The signals that end a program, from now on caught.
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
    last: Option<Caught>,
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caught {
    /// Its number.
    pub(crate) number: i32,
    /// Its name, as in `interrupted` of the log.
    pub(crate) name: &'static str,
}

impl Signals {
    /// Catches them. Must be called inside the tokio runtime.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(crate) fn catch() -> Result<Self, CliError> {
        let ignored = ignored_at_start();
        let catch = |number: i32| match ignored & (1 << (number - 1)) {
            0 => signal(SignalKind::from_raw(number)).map(Some),
            _ => Ok(None),
        };
        let all = || {
            let caught = Self { interrupt: catch(SIGINT)?, terminate: catch(SIGTERM)?, hang_up: catch(SIGHUP)?, last: None };
            let deadly = [(SIGINT, &caught.interrupt), (SIGTERM, &caught.terminate)];
            end_at_second(deadly.iter().filter(|(_, caught)| caught.is_some()).map(|(number, _)| *number))?;
            Ok(caught)
        };
        all().map_err(|error: io::Error| CliError::failed(format!("cannot catch signals: {error}")))
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Caught {
        let caught = tokio::select! {
            () = one(&mut self.interrupt) => Caught { number: SIGINT, name: "SIGINT" },
            () = one(&mut self.terminate) => Caught { number: SIGTERM, name: "SIGTERM" },
            () = one(&mut self.hang_up) => Caught { number: SIGHUP, name: "SIGHUP" },
        };
        self.last = Some(caught);
        caught
    }

    /// The output of `work`, or nothing where a signal came first; `work` is dropped then.
    pub(crate) async fn unless_caught<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            output = work => Some(output),
            _ = self.next() => None,
        }
    }

    /// The signal that came last.
    pub(crate) fn last(&self) -> Option<Caught> {
        self.last
    }
}

async fn one(signal: &mut Option<Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Ends the process at the second of `numbers`, on a thread of its own: it works also where the runtime is stuck. The thread waits for as
/// long as the process lives.
fn end_at_second(numbers: impl Iterator<Item = i32>) -> io::Result<()> {
    let mut signals = SignalIterator::new(numbers)?;
    let watch = move || {
        let mut first: Option<Instant> = None;
        for number in signals.forever() {
            if first.is_some_and(|first| first.elapsed() >= SECOND_AFTER) {
                let _ = signal_hook::low_level::emulate_default_handler(number);
            }
            first.get_or_insert_with(Instant::now);
        }
    };
    std::thread::Builder::new().name("second-signal".to_owned()).spawn(watch).map(drop)
}

/// The signals that were ignored when the program started, a bit each; none where the system does not say.
fn ignored_at_start() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// At the program's end: where a signal stopped it, the signal gets its default effect after all, and this does not return.
pub(crate) fn raise_again(exit: Exit) {
    if let Exit::Signal(number) = exit {
        // Where it fails, the exit code still says which signal it was.
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
}
