//! Who may write: one file in `owners/` for each process that writes, locked as long as the process lives.
//!
//! The log itself says who owns a session (its last `opened`); the lock says whether that owner lives. One lock and one
//! descriptor for a process, not for a session. On a local file system the lock alone decides, whatever host the owner
//! names. Where a lock proves nothing (a file system of a network, or of a kind that is not known) the answer is "unknown", never
//! "dead": a session is rather forked than written by two.
//!
//! It does not say that a process is well: one that is stopped keeps its lock, and one that wakes up after the machine
//! slept may find its lock gone only because its host was taken for dead elsewhere. Readers fence such a writer.

use super::engine::{Core, Holding};
use super::{ask, ballast, lock};
use crate::error::StoreError;
use crate::event::{Opened, Owner};
use crate::fs::{File, OpenMode, write_all_at};
use crate::id::SessionId;
use crate::state::State;
use crate::store::Holder;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// How many files of dead owners are looked at when a new owner begins.
const LEFTOVERS_MAX: usize = 64;

/// Which machine and process this is, as others would tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The host's name.
    pub host: String,
    /// The kernel's boot id; empty where there is none.
    pub boot: String,
    /// The process.
    pub pid: u32,
}

impl Machine {
    /// This machine and this process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the kernel's own file, of this machine and not of the store")]
    pub fn here() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Self { host, boot, pid: std::process::id() }
    }

    fn has_booted_with(&self, owner: &Owner) -> bool {
        self.boot == owner.boot && (!self.boot.is_empty() || self.host == owner.host)
    }

    fn runs(pid: u32) -> bool {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        pid.is_none_or(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }
}

/// This process as an owner, once it writes.
#[derive(Default)]
pub(super) struct Ownership {
    held: Mutex<Option<Held>>,
}

struct Held {
    writer: Uuid,
    owner: Owner,
    /// The process that made the file.
    process: u32,
    /// Keeps the lock.
    file: Arc<dyn File>,
}

/// This process's name as a writer. Made, with its file, at the first call.
pub(super) fn begin(core: &Core) -> Result<(Uuid, Owner), StoreError> {
    let mut held = lock(&core.ownership.held);
    if let Some(held) = &*held {
        return Ok((held.writer, held.owner.clone()));
    }
    if core.is_closed() {
        // The shutdown has let go, and nobody would let go again.
        return Err(StoreError::Closed);
    }
    let folder = core.layout.owners();
    core.create_dirs(&folder)?;
    remove_leftovers(core, &folder);
    let owner = this_process(core);
    let (writer, file) = create_locked(core, &owner)?;
    *held = Some(Held { writer, owner: owner.clone(), process: std::process::id(), file });
    ballast::make(core);
    Ok((writer, owner))
}

/// This process, as others would be told of it now.
pub(super) fn this_process(core: &Core) -> Owner {
    let machine = &core.options.machine;
    Owner {
        pid: machine.pid,
        host: machine.host.clone(),
        boot: machine.boot.clone(),
        since: core.options.clock.now(),
        program: core.options.program.clone(),
    }
}

/// Makes an owner's file and locks it. Between the two another process may take it for a leftover; then once more.
fn create_locked(core: &Core, owner: &Owner) -> Result<(Uuid, Arc<dyn File>), StoreError> {
    loop {
        let writer = SessionId::new(core.options.clock.now()).uuid();
        let path = core.layout.owner(writer);
        let file = core.open(&path, OpenMode::CreateNew).map_err(StoreError::io("create", &path))?;
        let is_locked = file.try_lock().map_err(StoreError::io("lock", &path))?;
        let is_there = core.fs().stat(&path).is_ok_and(|found| file.stat().is_ok_and(|ours| found.inode == ours.inode));
        if !is_locked || !is_there {
            continue;
        }
        let in_place = core.open(&path, OpenMode::InPlace).map_err(StoreError::io("open", &path))?;
        let mut json = serde_json::to_vec(owner).unwrap_or_default();
        json.push(b'\n');
        write_all_at(&*in_place, &json, 0).map_err(StoreError::io("write", &path))?;
        return Ok((writer, file));
    }
}

/// Lets go: every session was closed, so nobody will ask for this owner again.
pub(super) fn end(core: &Core) {
    let Some(held) = lock(&core.ownership.held).take() else { return };
    // In a child after a fork the file is still the parent's.
    if held.process == std::process::id() {
        let _ = core.fs().remove_file(&core.layout.owner(held.writer));
    }
    let _ = held.file.unlock();
}

/// Removes the files of owners that are dead for certain: without its file an owner is as dead as with an unlocked one.
fn remove_leftovers(core: &Core, folder: &Path) {
    if !core.fs().locks_are_trusted(folder) {
        return;
    }
    let Ok(entries) = core.fs().read_dir(folder) else { return };
    let is_owner = |name: &OsStr| name.to_str().is_some_and(|name| Uuid::parse_str(name).is_ok());
    for entry in entries.iter().filter(|entry| is_owner(&entry.name)).take(LEFTOVERS_MAX) {
        let path = folder.join(&entry.name);
        let Ok(file) = core.open(&path, OpenMode::Read) else { continue };
        if file.try_lock().unwrap_or(false) {
            let _ = core.fs().remove_file(&path);
            let _ = file.unlock();
        }
    }
    let is_orphan = |name: &&str| name.strip_suffix(".asks").is_some_and(|owner| core.fs().stat(&folder.join(owner)).is_err());
    for name in entries.iter().filter_map(|entry| entry.name.to_str()).filter(is_orphan).take(LEFTOVERS_MAX) {
        ask::remove_folder(core, &folder.join(name));
    }
}

/// Who has a session whose fold is `state`; where it is this process, too.
pub(super) fn holder_of(core: &Core, id: SessionId, state: &State) -> Holder {
    holder_now(core, id, state.owner.as_ref())
}

/// Who has a session that was opened last by `opened`; where it is this process, too.
pub(super) fn holder_now(core: &Core, id: SessionId, opened: Option<&Opened>) -> Holder {
    let ours = matches!(lock(&core.sessions).get(&id), Some(Holding::Open(_) | Holding::Released(_)));
    match opened {
        Some(opened) if ours => Holder::Alive(opened.owner.clone()),
        opened => holder(core, opened),
    }
}

/// Whether the owner in `opened`, the last of its log and not closed, is there.
pub(super) fn holder(core: &Core, opened: Option<&Opened>) -> Holder {
    let Some(opened) = opened else { return Holder::Nobody };
    if lock(&core.ownership.held).as_ref().is_some_and(|held| held.writer == opened.writer) {
        // It is this process; the caller knows which sessions that holds.
        return Holder::Nobody;
    }
    match is_locked(core, opened.writer) {
        Some(true) => Holder::Alive(opened.owner.clone()),
        Some(false) if is_proof(core, &opened.owner) => Holder::Nobody,
        _ => Holder::Unknown(opened.owner.clone()),
    }
}

/// Whether the owner's file is locked; false where it is gone, nothing where it cannot be told.
fn is_locked(core: &Core, writer: Uuid) -> Option<bool> {
    match core.open(&core.layout.owner(writer), OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
        Ok(file) => file.is_locked().ok(),
    }
}

/// Whether the missing lock of `owner` proves that it is dead. Where one kernel has all locks it does, whatever host and boot the
/// owner names: the host may have another name by now, and a copy of a home has owners that never come back to it.
fn is_proof(core: &Core, owner: &Owner) -> bool {
    let machine = &core.options.machine;
    // Elsewhere it does so together with a process of this very machine that is not there.
    (core.fs().locks_are_trusted(core.layout.home()) && core.fs().locks_are_trusted(&core.layout.sessions()))
        || (machine.has_booted_with(owner) && machine.host == owner.host && !Machine::runs(owner.pid))
}
