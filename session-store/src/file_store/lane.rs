//! A queue of sessions that one thread serves, or a few: the writer, the background syncer and the waiters' syncer of a
//! device have one each, and the store has one for those that are rescued.
//!
//! A session waits in a lane once at most, so a lane is bounded by the number of open sessions, and while it is served it is
//! not given to a second thread: a busy one has one thread at a time, whatever it does to the disk. A lane holds no events:
//! those stay in the session, and whoever serves it takes what is there by then.

use super::lock;
use super::session::{Mark, Session};
use super::syncer::Piece;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many that are shared are few.
const FEW: usize = 16;

/// Which lane: a session keeps its marks for each.
#[derive(Clone, Copy, Debug)]
pub(super) enum LaneName {
    Writer = 0,
    Background = 1,
    Commit = 2,
    /// Of the store, not of a device.
    Rescue = 3,
}

/// When a lane's thread should look at a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    Now,
    /// One window after the lane's last such round; at once where that was longer ago.
    Window(Duration),
    /// In this time at the latest.
    Within(Duration),
}

/// What a thread of a lane has to do.
pub(super) enum Work {
    /// All that were due.
    Batch(Vec<Arc<Session>>),
    /// One of those that another thread of the lane shares.
    Piece(Piece),
    /// Nothing was due by then.
    Nothing,
    /// Nothing more will come, or others are enough to wait for it.
    End,
}

/// How long a thread waits for work.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Endless,
    /// Then it looks after something else.
    Until(Instant),
    /// Then it ends, if another one waits.
    Helper(Instant),
}

pub(super) struct Lane {
    name: LaneName,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    ready: Vec<Arc<Session>>,
    later: Vec<Arc<Session>>,
    /// When `later` is to be taken.
    due: Option<Instant>,
    /// When `later` was taken last.
    last_round: Option<Instant>,
    /// What failed, and when it is tried again; never taken early, whatever else happens.
    retries: Vec<(Instant, Arc<Session>)>,
    /// What is served, one by one, by whichever thread is free.
    shared: VecDeque<Piece>,
    /// Whether a shared one goes before what came meanwhile: they take turns.
    is_shared_first: bool,
    /// Threads beside the first.
    helpers: usize,
    /// Threads that wait for work.
    waiting: usize,
    /// Until when the one of them sleeps that looks after what is due at a time.
    watched_until: Option<Instant>,
    stopped: bool,
}

impl Lane {
    pub(super) fn new(name: LaneName) -> Self {
        Self { name, queue: Mutex::default(), wake: Condvar::new() }
    }

    pub(super) fn name(&self) -> LaneName {
        self.name
    }

    /// Puts `session` in the lane; says whether somebody is free to take it.
    pub(super) fn push(&self, session: &Arc<Session>, due: Due) -> bool {
        let mut queue = lock(&self.queue);
        let is_free = queue.waiting > 0 && !session.has(self.name, Mark::Served);
        if queue.push(self.name, session, due) {
            drop(queue);
            self.wake.notify_one();
        }
        is_free
    }

    /// Puts all of `sessions` in the lane, to be served now, as one batch.
    pub(super) fn push_all<'a>(&self, sessions: impl IntoIterator<Item = &'a Arc<Session>>) {
        let mut queue = lock(&self.queue);
        for session in sessions {
            queue.push(self.name, session, Due::Now);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Tries `session` again at `at`.
    pub(super) fn retry(&self, session: &Arc<Session>, at: Instant) {
        let mut queue = lock(&self.queue);
        if session.mark(self.name, Mark::Retry) {
            queue.retries.push((at, Arc::clone(session)));
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Shares out what a thread took, and wakes those that wait. A few go before many that were shared earlier.
    pub(super) fn share(&self, pieces: Vec<Piece>) {
        let mut queue = lock(&self.queue);
        if pieces.len() <= FEW {
            pieces.into_iter().rev().for_each(|piece| queue.shared.push_front(piece));
        } else {
            queue.shared.extend(pieces);
        }
        drop(queue);
        self.wake.notify_all();
    }

    /// `sessions` were served; what came meanwhile is due.
    pub(super) fn done<'a>(&self, sessions: impl IntoIterator<Item = &'a Arc<Session>>) {
        let mut queue = lock(&self.queue);
        for session in sessions {
            session.unmark(self.name, Mark::Served);
            if session.has(self.name, Mark::Ready) {
                queue.ready.push(Arc::clone(session));
            }
        }
        let has_more = !queue.ready.is_empty();
        drop(queue);
        if has_more {
            self.wake.notify_one();
        }
    }

    /// Waits for work. After [`Lane::stop`] there is an end once all is served; what fails is still tried again at its time,
    /// and not sooner.
    pub(super) fn take(&self, patience: Patience) -> Work {
        let mut queue = lock(&self.queue);
        loop {
            let now = Instant::now();
            if let Some(work) = queue.pick(self.name, now) {
                self.pass_on(&queue);
                return work;
            }
            if queue.stopped && !queue.has_more() {
                // Nothing wakes the others any more.
                self.wake.notify_all();
                return queue.end(patience);
            }
            let until = match patience {
                Patience::Endless => None,
                Patience::Until(_) if queue.stopped => None,
                Patience::Helper(until) if until <= now && queue.waiting == 0 => None,
                Patience::Until(until) | Patience::Helper(until) if now < until => Some(until),
                Patience::Until(_) => return Work::Nothing,
                Patience::Helper(_) => {
                    self.pass_on(&queue);
                    return queue.end(patience);
                }
            };
            let due = queue.unwatched();
            queue.watched_until = due.or(queue.watched_until);
            queue.waiting += 1;
            queue = match due.into_iter().chain(until).min() {
                Some(next) => {
                    let wait = next.saturating_duration_since(now);
                    self.wake.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            if due.is_some() && queue.watched_until == due {
                queue.watched_until = None;
            }
            queue.waiting -= 1;
        }
    }

    /// A thread leaves, perhaps for long: another one takes what is left, and looks after what is due later.
    fn pass_on(&self, queue: &Queue) {
        let is_left = !(queue.ready.is_empty() && queue.shared.is_empty()) || queue.unwatched().is_some();
        if queue.waiting > 0 && is_left {
            self.wake.notify_one();
        }
    }

    /// Whether another thread is needed, because none waits for work; the caller then starts it, or calls [`Lane::helper_ended`].
    pub(super) fn wants_helper(&self, helpers_max: usize) -> bool {
        let mut queue = lock(&self.queue);
        let wants = queue.waiting == 0 && queue.helpers < helpers_max;
        queue.helpers += usize::from(wants);
        wants
    }

    /// A helper could not be started.
    pub(super) fn helper_ended(&self) {
        lock(&self.queue).helpers -= 1;
    }

    /// How many sessions wait in it.
    pub(super) fn len(&self) -> usize {
        let queue = lock(&self.queue);
        queue.ready.len() + queue.later.len() + queue.shared.len() + queue.retries.len()
    }

    /// Lets the threads end once they have served what is in the lane.
    pub(super) fn stop(&self) {
        lock(&self.queue).stopped = true;
        self.wake.notify_all();
    }
}

impl Queue {
    /// Says whether a thread has to look.
    fn push(&mut self, name: LaneName, session: &Arc<Session>, due: Due) -> bool {
        let now = Instant::now();
        let at = match due {
            Due::Now => {
                let is_new = session.mark(name, Mark::Ready);
                let is_served = session.has(name, Mark::Served);
                if is_new && !is_served {
                    self.ready.push(Arc::clone(session));
                }
                return is_new && !is_served;
            }
            Due::Within(time) => now + time,
            Due::Window(window) => self.last_round.map_or(now, |last| now.max(last + window)),
        };
        if session.mark(name, Mark::Later) {
            self.later.push(Arc::clone(session));
        }
        let is_sooner = self.due.is_none_or(|other| at < other);
        if is_sooner {
            self.due = Some(at);
        }
        is_sooner
    }

    fn pick(&mut self, name: LaneName, now: Instant) -> Option<Work> {
        self.is_shared_first = !self.is_shared_first;
        let is_piece_next = self.is_shared_first || self.ready.is_empty();
        if is_piece_next && let Some(piece) = self.shared.pop_front() {
            return Some(Work::Piece(piece));
        }
        let mut batch = std::mem::take(&mut self.ready);
        for session in &batch {
            session.unmark(name, Mark::Ready);
            session.mark(name, Mark::Served);
        }
        if self.due.is_some_and(|due| due <= now) || self.stopped {
            self.due = None;
            self.last_round = Some(now);
            for session in std::mem::take(&mut self.later) {
                session.unmark(name, Mark::Later);
                if session.mark(name, Mark::Served) {
                    batch.push(session);
                }
            }
        }
        for (_, session) in self.retries.extract_if(.., |(at, _)| *at <= now) {
            session.unmark(name, Mark::Retry);
            if session.mark(name, Mark::Served) {
                batch.push(session);
            } else {
                // Whoever serves it comes back to it.
                session.mark(name, Mark::Ready);
            }
        }
        (!batch.is_empty()).then_some(Work::Batch(batch))
    }

    fn next_due(&self) -> Option<Instant> {
        self.retries.iter().map(|(at, _)| *at).chain(self.due).min()
    }

    /// When something is due that nobody who waits will wake up for: one of them is enough.
    fn unwatched(&self) -> Option<Instant> {
        self.next_due().filter(|due| self.watched_until.is_none_or(|watched| *due < watched))
    }

    fn has_more(&self) -> bool {
        !(self.ready.is_empty() && self.later.is_empty() && self.retries.is_empty() && self.shared.is_empty())
    }

    fn end(&mut self, patience: Patience) -> Work {
        if matches!(patience, Patience::Helper(_)) {
            self.helpers -= 1;
        }
        Work::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_store::FileStoreOptions;
    use crate::file_store::buffer::Buffer;
    use crate::file_store::engine::Core;
    use crate::file_store::session::Disk;
    use crate::file_store::summary::Tally;
    use crate::id::SessionId;
    use crate::scan::Position;
    use crate::time::Timestamp;
    use std::sync::mpsc;

    const SOON: Duration = Duration::from_secs(20);

    fn session(core: &Core) -> Arc<Session> {
        let buffer = Buffer::new(Position::default(), 0, Tally::default());
        Arc::new(Session::new(core, SessionId::new(Timestamp::from_ms(0)), 1, buffer, Disk::new((0, 0), 0)))
    }

    /// Starts a thread that takes work until there is an end; it sends the size of each batch, and 0 at the end.
    fn thread(lane: &Arc<Lane>, patience: Patience, told: &mpsc::Sender<usize>) {
        let (lane, told) = (Arc::clone(lane), told.clone());
        std::thread::spawn(move || {
            loop {
                match lane.take(patience) {
                    Work::Batch(sessions) => {
                        lane.done(&sessions);
                        let _ = told.send(sessions.len());
                    }
                    Work::End => {
                        let _ = told.send(0);
                        break;
                    }
                    Work::Piece(_) | Work::Nothing => {}
                }
            }
        });
    }

    #[test]
    fn what_is_due_is_taken_although_the_thread_that_watched_for_it_ended() {
        let core = Core::new(FileStoreOptions::new("/nowhere"));
        let lane = Arc::new(Lane::new(LaneName::Background));
        let (told, heard) = mpsc::channel();
        lane.retry(&session(&core), Instant::now() + Duration::from_millis(200));
        assert!(lane.wants_helper(1));
        // It watches, until it has waited for long enough.
        thread(&lane, Patience::Helper(Instant::now() + Duration::from_millis(100)), &told);
        while lock(&lane.queue).waiting == 0 {
            std::thread::yield_now();
        }
        thread(&lane, Patience::Endless, &told);
        assert_eq!(heard.recv_timeout(SOON), Ok(0));
        assert_eq!(heard.recv_timeout(SOON), Ok(1));
    }

    #[test]
    fn all_threads_end_once_the_last_that_failed_was_served() {
        let core = Core::new(FileStoreOptions::new("/nowhere"));
        let lane = Arc::new(Lane::new(LaneName::Background));
        let (told, heard) = mpsc::channel();
        (0..4).for_each(|_| thread(&lane, Patience::Endless, &told));
        lane.retry(&session(&core), Instant::now() + Duration::from_millis(100));
        lane.stop();
        let mut all: Vec<usize> = (0..5).map_while(|_| heard.recv_timeout(SOON).ok()).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 0, 0, 0, 1]);
    }
}
