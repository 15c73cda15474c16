//! The descriptors of logs that are open: so many at most, those used last.
//!
//! A log may be closed with bytes that are not synced. Who has no descriptor is not told when the kernel fails to write them back, and
//! one that is opened later may not be either. So they become durable by a sync of the whole file system, whose
//! descriptor is told, or they are written once more, through a descriptor that stays open until it is synced
//! ([`Disk::closed_end`](super::session::Disk)).

use super::lock;
use super::session::{Disk, Session};
use crate::fs::File;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most that stay open, ...
const FILES_MAX: u64 = 1024;
/// ... and the fewest that the process's limit, or a lack of descriptors, leaves.
const FILES_MIN: usize = 16;
/// A lack of descriptors is taken to be over after this long.
const SHORTAGE: Duration = Duration::from_secs(10);

/// The descriptor of a log; `used` is its place in the order of use.
pub(super) struct OpenFile {
    pub(super) file: Arc<dyn File>,
    used: u64,
}

pub(super) struct OpenFiles {
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_use: BTreeMap<u64, Arc<Session>>,
    uses: u64,
    /// Fewer than `max` until then.
    shortage: Option<(usize, Instant)>,
}

impl State {
    fn budget(&mut self, max: usize) -> usize {
        match self.shortage {
            Some((budget, until)) if Instant::now() < until => budget,
            _ => {
                self.shortage = None;
                max
            }
        }
    }
}

impl OpenFiles {
    /// A quarter of what the process may have open, 1,024 at most.
    pub(super) fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let max = usize::try_from((limit / 4).min(FILES_MAX)).unwrap_or(FILES_MIN).max(FILES_MIN);
        Self { max, state: Mutex::default() }
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        lock(&self.state).by_use.len()
    }

    /// Whether no more should be opened than have to be.
    pub(super) fn is_full(&self) -> bool {
        let mut state = lock(&self.state);
        state.by_use.len() >= state.budget(self.max)
    }

    /// Makes `file` the descriptor of `session`, whose disk the caller has locked, and closes what that makes too many.
    pub(super) fn keep(&self, session: &Arc<Session>, disk: &mut Disk, file: Arc<dyn File>) {
        let mut state = lock(&self.state);
        state.uses += 1;
        let used = state.uses;
        state.by_use.insert(used, Arc::clone(session));
        disk.file = Some(OpenFile { file, used });
        let budget = state.budget(self.max);
        let closed = close_oldest(&mut state, budget);
        drop(state);
        drop(closed);
    }

    /// The descriptor of a log, which is now the one used last.
    pub(super) fn of(&self, disk: &mut Disk) -> Option<Arc<dyn File>> {
        let open = disk.file.as_mut()?;
        let mut state = lock(&self.state);
        state.uses += 1;
        let used = state.uses;
        if let Some(session) = state.by_use.remove(&open.used) {
            state.by_use.insert(used, session);
        }
        open.used = used;
        Some(Arc::clone(&open.file))
    }

    /// Closes a log.
    pub(super) fn close(&self, disk: &mut Disk) {
        let Some(open) = disk.file.take() else { return };
        disk.closed_end = disk.end;
        let session = lock(&self.state).by_use.remove(&open.used);
        drop((open, session));
    }

    /// Calls `open`, and again with fewer logs open where the descriptors have run out: whoever else in the process needs some finds
    /// them.
    pub(super) fn open<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                Err(error) if is_shortage(&error) && self.close_half() => {}
                outcome => return outcome,
            }
        }
    }

    /// Keeps half as many logs open for a while; false where that closes none.
    fn close_half(&self) -> bool {
        let mut state = lock(&self.state);
        let open = state.by_use.len();
        let budget = if open > FILES_MIN { (open / 2).max(FILES_MIN) } else { 0 };
        state.shortage = Some((budget.max(FILES_MIN), Instant::now() + SHORTAGE));
        let closed = close_oldest(&mut state, budget);
        drop(state);
        !closed.is_empty()
    }
}

/// Closes logs until `budget` are left. What is being written just now is passed over. They are for the caller to drop, because
/// to close one may take its time.
fn close_oldest(state: &mut State, budget: usize) -> Vec<(OpenFile, Arc<Session>)> {
    let mut closed = Vec::new();
    let mut too_many = state.by_use.len().saturating_sub(budget);
    if too_many == 0 {
        return closed;
    }
    let mut after = 0;
    for _ in 0..too_many + FILES_MIN {
        let Some((&used, session)) = state.by_use.range(after..).next().filter(|_| too_many > 0) else { break };
        let session = Arc::clone(session);
        after = used + 1;
        let Ok(mut disk) = session.disk.try_lock() else { continue };
        if let Some(open) = disk.file.take() {
            disk.closed_end = disk.end;
            state.by_use.remove(&used);
            too_many -= 1;
            drop(disk);
            closed.push((open, session));
        }
    }
    closed
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
