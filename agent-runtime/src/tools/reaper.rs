//! What stopped tools have left running, so that nobody goes on before it is gone.
//!
//! A tool that is stopped is reported at once; its processes (or a file that is just being replaced) may take some seconds
//! more. While they do, no tool of the session with side effects may start, and the process may not leave: the loop waits
//! for [`Reaper::idle`], and who ends the process waits for [`Reaper::all_idle`]. Both waits are bounded by the reaping
//! itself, 2 seconds until SIGKILL and at most 10 more where the kernel cannot end a process. Who does not want to wait for the
//! 2 seconds says [`Reaper::kill`].

use session_store::SessionId;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use tokio::sync::watch;

/// The side effects that are under way in this process, by session. There is one, as child processes belong to the
/// process and not to a runtime: [`reaper`].
#[derive(Debug)]
pub struct Reaper {
    running: watch::Sender<BTreeMap<SessionId, Running>>,
}

/// What a session has under way.
#[derive(Debug, Default)]
struct Running {
    count: usize,
    /// Whether what is stopped gets no time to end by itself.
    kill: bool,
}

/// The reaper of this process.
#[must_use]
pub fn reaper() -> &'static Reaper {
    static REAPER: LazyLock<Reaper> = LazyLock::new(|| Reaper { running: watch::Sender::new(BTreeMap::new()) });
    &REAPER
}

impl Reaper {
    /// Returns once no tool of `session` has a side effect under way. Cancel-safe; wait for it before such a tool starts.
    pub async fn idle(&self, session: SessionId) {
        // An error would mean that the sender is gone, and it is in `self`.
        let _ = self.running.subscribe().wait_for(|running| !running.contains_key(&session)).await;
    }

    /// Returns once no tool of any session has a side effect under way. Cancel-safe; wait for it before the process ends.
    pub async fn all_idle(&self) {
        let _ = self.running.subscribe().wait_for(BTreeMap::is_empty).await;
    }

    /// Whether anything of any session is under way now.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.borrow().is_empty()
    }

    /// Ends at once, with SIGKILL, the processes of `session` whose tool was stopped already and that are given time to end by themselves.
    pub fn kill(&self, session: SessionId) {
        self.running.send_modify(|running| {
            if let Some(running) = running.get_mut(&session) {
                running.kill = true;
            }
        });
    }

    /// As [`Reaper::kill`], for all sessions.
    pub fn kill_all(&self) {
        self.running.send_modify(|running| running.values_mut().for_each(|running| running.kill = true));
    }

    /// Counts a side effect of `session` until the guard is dropped.
    pub(super) fn enter(&'static self, session: SessionId) -> Busy {
        self.running.send_modify(|running| running.entry(session).or_default().count += 1);
        Busy { reaper: self, session }
    }
}

/// A side effect that is under way.
pub(super) struct Busy {
    reaper: &'static Reaper,
    session: SessionId,
}

impl Busy {
    /// Returns once [`Reaper::kill`] was said for the session.
    pub(super) fn killed(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut running, session) = (self.reaper.running.subscribe(), self.session);
        async move {
            let _ = running.wait_for(|running| running.get(&session).is_some_and(|running| running.kill)).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.reaper.running.send_modify(|running| {
            let Some(of_session) = running.get_mut(&self.session) else { return };
            of_session.count -= 1;
            if of_session.count == 0 {
                running.remove(&self.session);
            }
        });
    }
}
