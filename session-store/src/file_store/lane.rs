//! A queue of sessions that one thread serves: the writer, the background syncer and the waiters' syncer have one each.
//!
//! A session is in a lane once at most, so a lane is bounded by the number of open sessions. It holds no events: those
//! stay in the session, and whoever serves it takes what is there by then.

use super::lock;
use super::session::Session;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Which lane: a session keeps a mark for each.
#[derive(Clone, Copy, Debug)]
pub(super) enum LaneName {
    Writer = 0,
    Background = 1,
    Commit = 2,
}

/// When a lane's thread should look at a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    Now,
    /// One window after the lane's last round; at once where that was longer ago.
    Window(Duration),
    /// In this time at the latest.
    Within(Duration),
}

pub(super) struct Lane {
    name: LaneName,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    ready: Vec<Arc<Session>>,
    /// When `ready` is to be taken.
    due: Option<Instant>,
    /// What failed, and when it is tried again; never taken early, whatever else happens.
    retries: Vec<(Instant, Arc<Session>)>,
    last_round: Option<Instant>,
    /// Whether the thread is at work on what it took.
    busy: bool,
    stopped: bool,
}

impl Lane {
    pub(super) fn new(name: LaneName) -> Self {
        Self { name, queue: Mutex::default(), wake: Condvar::new() }
    }

    /// Puts `session` in the lane; says whether the thread is busy with others.
    pub(super) fn push(&self, session: &Arc<Session>, due: Due) -> bool {
        let now = Instant::now();
        let mut queue = lock(&self.queue);
        let due = match due {
            Due::Now => now,
            Due::Within(time) => now + time,
            Due::Window(window) => queue.last_round.map_or(now, |last| now.max(last + window)),
        };
        if session.enter(self.name) {
            queue.ready.push(Arc::clone(session));
        }
        let sooner = queue.due.is_none_or(|other| due < other);
        if sooner {
            queue.due = Some(due);
        }
        let busy = queue.busy;
        drop(queue);
        if sooner {
            self.wake.notify_one();
        }
        busy
    }

    /// Tries `session` again at `at`.
    pub(super) fn retry(&self, session: &Arc<Session>, at: Instant) {
        let mut queue = lock(&self.queue);
        if session.enter_retry(self.name) {
            queue.retries.push((at, Arc::clone(session)));
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// The thread takes what is due, and waits for it if it must; empty at `until`, where nothing was due by then. Nothing once the
    /// lane was stopped and what was in it has been served; what fails is still tried again at its time, and not sooner.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<Vec<Arc<Session>>> {
        let mut queue = lock(&self.queue);
        queue.busy = false;
        loop {
            let now = Instant::now();
            if queue.stopped && !queue.ready.is_empty() {
                queue.due = Some(now);
            }
            let taken = queue.take_due(self.name, now);
            if !taken.is_empty() || (!queue.stopped && until.is_some_and(|until| until <= now)) {
                return Some(taken);
            }
            if queue.stopped && queue.retries.is_empty() {
                return None;
            }
            queue = match queue.next_due().into_iter().chain(until.filter(|_| !queue.stopped)).min() {
                Some(next) => {
                    let (queue, _) = self
                        .wake
                        .wait_timeout(queue, next.saturating_duration_since(now))
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    queue
                }
                None => self.wake.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
    }

    /// Lets the thread end once it has served what is in the lane.
    pub(super) fn stop(&self) {
        lock(&self.queue).stopped = true;
        self.wake.notify_all();
    }
}

impl Queue {
    fn next_due(&self) -> Option<Instant> {
        self.retries.iter().map(|(at, _)| *at).chain(self.due).min()
    }

    fn take_due(&mut self, name: LaneName, now: Instant) -> Vec<Arc<Session>> {
        let mut taken = Vec::new();
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            taken = std::mem::take(&mut self.ready);
            taken.iter().for_each(|session| session.leave(name));
        }
        for (_, session) in self.retries.extract_if(.., |(at, _)| *at <= now) {
            session.leave_retry(name);
            taken.push(session);
        }
        if !taken.is_empty() {
            self.last_round = Some(now);
            self.busy = true;
        }
        taken
    }
}
