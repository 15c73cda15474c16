//! The interrupt of a turn: a flag that any thread or signal handler may set, and a wake-up for those who wait.
//!
//! Every wait of a turn selects over [`Interrupt::raised`]. The wake-up carries it at once where the setter can send
//! one; a setter that can only set the flag (a signal handler) is seen by the poll. The poll is a part of the 50 ms within which every wait
//! ends: a tool still gets 20 ms to say what it did, and what it said is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often a wait looks at the flag where nothing wakes it.
pub const INTERRUPT_POLL: Duration = Duration::from_millis(20);

/// A flag and a wake-up; clones share both.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    flag: Arc<AtomicBool>,
    wake: Notify,
    /// See [`Interrupt::raised_at`].
    raised_at: OnceLock<Instant>,
}

impl Interrupt {
    /// An interrupt that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag and wakes all who wait.
    pub fn raise(&self) {
        self.shared.raised_at.get_or_init(Instant::now);
        self.shared.flag.store(true, Ordering::SeqCst);
        self.shared.wake.notify_waiters();
    }

    /// Whether it was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.shared.flag.load(Ordering::SeqCst)
    }

    /// When it was raised; where only the flag was set, when somebody who waited first saw that.
    pub(crate) fn raised_at(&self) -> Option<Instant> {
        self.shared.raised_at.get().copied()
    }

    /// The bare flag, for a signal handler: to set it raises the interrupt, seen within [`INTERRUPT_POLL`].
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.flag)
    }

    /// Returns once it is raised. Cancel-safe.
    pub async fn raised(&self) {
        loop {
            let wake = self.shared.wake.notified();
            if self.is_raised() {
                // Where only the flag was set, whoever polls first notes the time, and wakes the others.
                self.shared.raised_at.get_or_init(Instant::now);
                self.shared.wake.notify_waiters();
                return;
            }
            let _ = tokio::time::timeout(INTERRUPT_POLL, wake).await;
        }
    }
}
