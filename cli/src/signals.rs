//! SIGINT, SIGTERM and SIGHUP. The first one is an interrupt: the turn stops, all is flushed, and then the signal is raised again
//! with its default effect, so that a shell's loop ends too. A second one of the same kind ends the process at once, whatever it does.

use crate::error::{CliError, Exit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a program, from now on caught.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
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
        let catch = |number| {
            // The order matters: the second signal finds the flag that the first one set.
            let came = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register_conditional_default(number, Arc::clone(&came))?;
            signal_hook::flag::register(number, came)?;
            signal(SignalKind::from_raw(number))
        };
        let failed = |error| CliError::failed(format!("cannot catch signals: {error}"));
        Ok(Self {
            interrupt: catch(SIGINT).map_err(failed)?,
            terminate: catch(SIGTERM).map_err(failed)?,
            hang_up: catch(SIGHUP).map_err(failed)?,
            last: None,
        })
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Caught {
        let caught = tokio::select! {
            Some(()) = self.interrupt.recv() => Caught { number: SIGINT, name: "SIGINT" },
            Some(()) = self.terminate.recv() => Caught { number: SIGTERM, name: "SIGTERM" },
            Some(()) = self.hang_up.recv() => Caught { number: SIGHUP, name: "SIGHUP" },
            else => std::future::pending().await,
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

/// At the program's end: where a signal stopped it, the signal gets its default effect after all, and this does not return.
pub(crate) fn raise_again(exit: Exit) {
    if let Exit::Signal(number) = exit {
        // Where it fails, the exit code still says which signal it was.
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
}
