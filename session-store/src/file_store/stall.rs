//! Notices a disk that does not answer. A call that does not return is no failure, so nobody else is told of it.
//!
//! **When.** A thread of a device has been at one thing for most of a window, and something that a session there accepted is not durable a
//! while after it should have been written. Its owner is told ([`Progress::stalled`](crate::Progress::stalled)) within one window of that, and
//! nothing else changes: slow is not broken. Where there is a rescue folder, its events go there when they are two windows old, and from then on at once,
//! until the disk answers.
//!
//! **Nobody else writes meanwhile.** A process that hangs keeps its lock as long as one of its threads does ([`FileStore`](super::FileStore) lets go of it only when all have
//! ended), so its sessions are held. What hung goes on by itself, and looks before and after each write whether the file is what it left
//! ([`super::fate`]). Should another have taken the session over all the same, where locks prove nothing, readers set the late lines aside.
//!
//! **Parties.** The threads of a device say when they begin and end something ([`Stalls::begin`]). One thread of the store looks; it never calls the
//! disk, and sleeps while nothing is under way.

use super::device::Device;
use super::engine::{Core, Holding};
use super::lane::Due;
use super::session::Session;
use super::{lock, rescue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many times a window it looks.
const LOOKS: u32 = 4;
const LOOK_MIN: Duration = Duration::from_millis(1);
/// No disk is taken for one that will not answer before this.
const RESCUE_MIN: Duration = Duration::from_secs(1);

/// What wakes and ends the thread that looks.
#[derive(Default)]
pub(super) struct Stalls {
    is_stopped: Mutex<bool>,
    wake: Condvar,
    /// Nothing was under way when it looked last.
    is_asleep: AtomicBool,
}

/// What the threads of a device are at: since when.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<Vec<Instant>>);

impl UnderWay {
    fn oldest(&self) -> Option<Instant> {
        lock(&self.0).iter().min().copied()
    }
}

/// Something that a thread is at, until it is dropped.
pub(super) struct Work<'a> {
    under_way: &'a UnderWay,
    since: Instant,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way.0);
        if let Some(place) = under_way.iter().position(|since| *since == self.since) {
            under_way.swap_remove(place);
        }
    }
}

impl Stalls {
    /// A thread of `device` turns to the disk.
    pub(super) fn begin<'a>(&self, device: &'a Device) -> Work<'a> {
        let since = Instant::now();
        lock(&device.under_way.0).push(since);
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            // Whoever says that it sleeps has the lock until it does.
            drop(lock(&self.is_stopped));
            self.wake.notify_one();
        }
        Work { under_way: &device.under_way, since }
    }

    pub(super) fn stop(&self) {
        *lock(&self.is_stopped) = true;
        self.wake.notify_all();
    }

    /// Waits for `time` where something is under way, else until something is; false after [`Stalls::stop`].
    fn wait(&self, core: &Core, time: Duration) -> bool {
        let is_under_way = || core.devices().iter().any(|device| device.under_way.oldest().is_some());
        let mut is_stopped = lock(&self.is_stopped);
        while !*is_stopped {
            if is_under_way() {
                is_stopped = self.wake.wait_timeout(is_stopped, time).unwrap_or_else(PoisonError::into_inner).0;
                return !*is_stopped;
            }
            self.is_asleep.store(true, Ordering::SeqCst);
            // What began before that woke nobody.
            if !is_under_way() {
                is_stopped = self.wake.wait(is_stopped).unwrap_or_else(PoisonError::into_inner);
            }
            self.is_asleep.store(false, Ordering::SeqCst);
        }
        false
    }
}

/// The thread that looks.
pub(super) fn run(core: &Core) {
    let window = core.options.window;
    while core.stalls.wait(core, (window / LOOKS).max(LOOK_MIN)) {
        let now = Instant::now();
        let is_slow = |device: &Arc<Device>| device.under_way.oldest().is_some_and(|since| now - since >= window * 3 / 4);
        for device in core.devices().iter().filter(|device| is_slow(device)) {
            sessions_on(core, device).iter().for_each(|session| look(core, session, now));
        }
    }
}

fn sessions_on(core: &Core, device: &Arc<Device>) -> Vec<Arc<Session>> {
    let sessions = lock(&core.sessions);
    let held = sessions.values().filter_map(|holding| match holding {
        Holding::Open(session) | Holding::Released(session) => Some(session),
        Holding::Reserved | Holding::LongWork(_) => None,
    });
    held.filter(|session| Arc::ptr_eq(&session.device, device)).cloned().collect()
}

/// Tells the owner of `session` where it waits for the disk, and has it rescued where it waits for long.
fn look(core: &Core, session: &Arc<Session>, now: Instant) {
    let window = core.options.window;
    let mut buffer = lock(&session.buffer);
    let Some(waits) = buffer.waits_since().map(|since| now.saturating_duration_since(since)) else { return };
    if buffer.is_lost() || waits < window * 5 / 4 {
        return;
    }
    if !std::mem::replace(&mut buffer.is_stalled, true) {
        session.publish(&buffer);
    }
    let is_long = waits >= RESCUE_MIN.max(window * rescue::PATIENCE_WINDOWS);
    if core.options.rescue_dir.is_some() && !buffer.is_safe() && (is_long || buffer.rescue.is_some()) {
        buffer.wants_rescue = true;
        drop(buffer);
        core.rescues.push(session, Due::Now);
    }
}
