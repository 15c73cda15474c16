//! Calling off long work: copying and packing whole logs on a thread that cannot be dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the work should be given up, after all.
#[derive(Debug, Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Asked by the work, at least every some megabytes.
    ///
    /// # Errors
    /// Where it should be given up.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(io::Error::other("it was called off")) } else { Ok(()) }
    }
}

/// Raises the flag when nobody waits any more.
#[derive(Default)]
pub(super) struct StopOnDrop(Arc<Stop>);

impl StopOnDrop {
    pub(super) fn flag(&self) -> Arc<Stop> {
        Arc::clone(&self.0)
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.raise();
    }
}
