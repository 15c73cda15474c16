//! Asking a holder to let go of a session.
//!
//! ```text
//!   owners/<writer>.asks/          made by each process that writes, and watched by it
//!   owners/<writer>.asks/<id>      somebody wants the session `<id>`; who, as JSON
//! ```
//!
//! **Parties.** An asker ([`release`]) puts its file there, and waits until nobody holds the session, or until its limit; then it takes the
//! file away. The holder's thread ([`run`]) sees the folder change and tells the session's owner ([`Progress::asked`](crate::Progress::asked)), who
//! decides: to let go is to close the session, as always. An ask that is withdrawn is told too.
//!
//! **What it does not do.** It takes nothing from anybody: a holder that is busy, stopped or of another mind keeps the session,
//! and the log alone says who owns it. Where the folder cannot be made or seen, nobody can ask.

use super::engine::{Core, Holding};
use super::{lock, owner, read};
use crate::error::StoreError;
use crate::event::{Opened, Owner};
use crate::fs::{OpenMode, Watch, append_all, read_all};
use crate::id::SessionId;
use crate::store::Holder;
use std::collections::HashMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How often the folder is looked at where changes are not told.
const LOOK_EACH: Duration = Duration::from_secs(1);
/// How often an asker looks whether the session is free: at first, and later.
const POLL_MIN: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(250);
/// No request is longer.
const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// What ends the thread that looks for requests.
#[derive(Default)]
pub(super) struct Asks {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    is_stopped: bool,
    watch: Option<Arc<dyn Watch>>,
}

impl Asks {
    pub(super) fn stop(&self) {
        let mut state = lock(&self.state);
        state.is_stopped = true;
        if let Some(watch) = &state.watch {
            watch.wake();
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Whoever stops the thread wakes `watch` from here on.
    fn set_watch(&self, watch: Option<Arc<dyn Watch>>) {
        lock(&self.state).watch = watch;
    }

    fn is_stopped(&self) -> bool {
        lock(&self.state).is_stopped
    }

    fn wait(&self) {
        let state = lock(&self.state);
        let waited = self.wake.wait_timeout_while(state, LOOK_EACH, |state| !state.is_stopped);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// The thread that looks for requests. Without a folder there are none, and it ends.
pub(super) fn run(core: &Core) {
    let Ok((writer, _)) = owner::begin(core) else { return };
    let folder = core.layout.asks(writer);
    if core.create_dirs(&folder).is_err() {
        return;
    }
    let mut watch = core.fs().watch(&folder).ok().flatten();
    core.asks.set_watch(watch.clone());
    while !core.asks.is_stopped() {
        // After the watch began, so that nothing comes unseen.
        look(core, &folder);
        match &watch {
            Some(told) if told.wait().is_err() => watch = None,
            Some(_) => {}
            None => core.asks.wait(),
        }
    }
    core.asks.set_watch(None);
    remove_folder(core, &folder);
}

/// Removes a folder of requests.
pub(super) fn remove_folder(core: &Core, folder: &Path) {
    for entry in core.fs().read_dir(folder).unwrap_or_default() {
        let _ = core.fs().remove_file(&folder.join(entry.name));
    }
    let _ = core.fs().remove_dir(folder);
}

/// Tells the owners of this process's sessions who asks for them now. A request for a session that is not here has been answered.
fn look(core: &Core, folder: &Path) {
    let entries = core.fs().read_dir(folder).unwrap_or_default();
    let ids = entries.iter().filter_map(|entry| entry.name.to_str()?.parse::<SessionId>().ok());
    let asked: HashMap<SessionId, Arc<Owner>> =
        ids.filter_map(|id| Some((id, Arc::new(request(core, &folder.join(id.to_string()))?)))).collect();
    let sessions = lock(&core.sessions);
    let answered: Vec<SessionId> = asked.keys().filter(|id| !sessions.contains_key(id)).copied().collect();
    for (id, holding) in sessions.iter() {
        let Holding::Open(session) = holding else { continue };
        session.publish_asked(asked.get(id));
    }
    drop(sessions);
    for id in answered {
        let _ = core.fs().remove_file(&folder.join(id.to_string()));
    }
}

fn request(core: &Core, path: &Path) -> Option<Owner> {
    let is_one = core.fs().stat(path).is_ok_and(|found| found.is_file && found.size <= REQUEST_BYTES_MAX);
    if !is_one {
        return None;
    }
    serde_json::from_slice(&read_all(core.fs(), path).ok()?).ok()
}

/// Who is asked, and how it stood when that was looked at last.
struct Asking {
    core: Arc<Core>,
    id: SessionId,
    /// The request, once it is made.
    request: Option<PathBuf>,
    /// The log's length, and its owner by then.
    seen: Option<(u64, Option<Opened>)>,
}

impl Drop for Asking {
    /// Withdraws the request, on a thread that may block where there is one.
    fn drop(&mut self) {
        let Some(path) = self.request.take() else { return };
        let core = Arc::clone(&self.core);
        let remove = move || drop(core.fs().remove_file(&path));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Asks whoever holds `id` to let go, and returns once nobody holds it. Dropping the future withdraws the request.
///
/// # Errors
/// [`StoreError::Held`] where it is still held after `within`, or its holder takes no requests.
pub(super) async fn release(core: &Arc<Core>, id: SessionId, within: Duration) -> Result<(), StoreError> {
    let limit = Instant::now() + within;
    let mut asking = Asking { core: Arc::clone(core), id, request: None, seen: None };
    let mut pause = POLL_MIN;
    loop {
        let step = tokio::task::spawn_blocking(move || {
            let held = asking.step();
            (asking, held)
        });
        let (next, held) =
            step.await.map_err(|error| StoreError::io("use", core.layout.home())(std::io::Error::other(error.to_string())))?;
        asking = next;
        let Some(held) = held? else { return Ok(()) };
        if asking.request.is_none() || Instant::now() >= limit {
            return Err(held);
        }
        tokio::time::sleep_until(limit.min(Instant::now() + pause)).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}

impl Asking {
    /// Looks who holds the session, and asks the first time; nothing where nobody does.
    fn step(&mut self) -> Result<Option<StoreError>, StoreError> {
        let (core, id) = (&self.core, self.id);
        let path = core.layout.log(id);
        let bytes = core.fs().stat(&path).map(|found| found.size).ok();
        let known = self.seen.take().filter(|(seen, _)| Some(*seen) == bytes);
        let opened = match known {
            Some((_, opened)) => opened,
            None => read::fold(core, id)?.state.owner,
        };
        let held = match owner::holder_now(core, id, opened.as_ref()) {
            Holder::Nobody => return Ok(None),
            Holder::Alive(owner) => StoreError::Held { id, owner, alive: true },
            Holder::Unknown(owner) => StoreError::Held { id, owner, alive: false },
        };
        if let Some(opened) = opened.as_ref().filter(|_| self.request.is_none()) {
            self.request = ask(core, id, opened.writer)?;
        }
        self.seen = bytes.map(|bytes| (bytes, opened));
        Ok(Some(held))
    }
}

/// Puts a request before the holder; nothing where it takes none.
fn ask(core: &Core, id: SessionId, writer: Uuid) -> Result<Option<PathBuf>, StoreError> {
    let folder = core.layout.asks(writer);
    if core.fs().stat(&folder).is_err() {
        return Ok(None);
    }
    let path = folder.join(id.to_string());
    // Whole when it gets its name.
    let part = folder.join(format!("{id}.{}", SessionId::new(core.options.clock.now())));
    let file = core.open(&part, OpenMode::CreateNew).map_err(StoreError::io("create", &part))?;
    let json = serde_json::to_vec(&owner::this_process(core)).unwrap_or_default();
    append_all(&*file, &mut [IoSlice::new(&json)], |_| {}).map_err(StoreError::io("write", &part))?;
    core.fs().rename(&part, &path).map_err(StoreError::io("rename", &part))?;
    Ok(Some(path))
}
