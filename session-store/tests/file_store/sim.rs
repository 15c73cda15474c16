//! A disk in memory that can lose power and fail.
//!
//! **Fault model.** A file has bytes that programs see and bytes that survive a power cut; a directory has entries of both
//! kinds. `sync_data` carries a file's bytes over, `sync_dir` a directory's entries; nothing else does, not even a
//! rename. Power goes with the Nth sync: that sync and all calls after it fail. A sync may fail once, and then it behaves as the
//! page cache does: what was dirty is shown, is clean, and never reaches the disk unless it is written again. A write
//! may find no room, take less than all, or hang.
//!
//! A file or the file system (`Volume`) that is synced tells of each failed write-back since its descriptor was opened, once. A
//! failure that nobody was told of is told to who opens the file later, too. A part of the tree may be another device; a device, a file's
//! syncs and a file's writes may hang by themselves, and descriptors may run out.
//!
//! What it does not model: a part of the dirty pages that reaches the disk by itself (the record format has property
//! tests for holes), and metadata that persists with a file's sync.

use session_store::{DirEntry, File, FileSystem, OpenMode, Stat, Volume};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

type Inode = u64;

#[derive(Clone, Default)]
struct Node {
    is_dir: bool,
    /// 0, or which other device it is on.
    device: u64,
    /// How many write-backs failed, and whether somebody was told of the last one.
    failed_write_backs: u64,
    failure_is_told: bool,
    descriptors: usize,
    live: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last sync: `live` and `durable` may differ elsewhere too, after a failed sync.
    dirty: Vec<(usize, usize)>,
    entries: BTreeMap<String, Inode>,
    durable_entries: BTreeMap<String, Inode>,
}

#[derive(Default)]
struct Disk {
    nodes: BTreeMap<Inode, Node>,
    /// Inode and the descriptor that has the lock.
    locks: BTreeMap<Inode, u64>,
    room: Option<usize>,
    read_only: bool,
    /// Other kernels have it mounted too.
    is_shared: bool,
    /// Nothing but the root is there.
    is_unmounted: bool,
    /// How often it was mounted anew: each time it is another device.
    mounts: u64,
    off: bool,
    /// How many write-backs failed, of any file.
    failed_write_backs: u64,
    /// Whether it can be synced as a whole.
    has_volume: bool,
    descriptors: usize,
    /// The most that there were.
    descriptors_peak: usize,
    descriptors_max: Option<usize>,
}

/// Switches and counters; all tests hold one of these.
#[derive(Default)]
pub(crate) struct Control {
    disk: Mutex<Disk>,
    syncs: AtomicU64,
    folder_syncs: AtomicU64,
    writes: AtomicU64,
    /// The files of the writes, one after the other.
    written: Mutex<Vec<Inode>>,
    /// How many bytes were read.
    read_bytes: AtomicU64,
    /// The sync with which the power goes, counted from 1; 0: never.
    power_off_at: AtomicU64,
    failing_syncs: AtomicU64,
    failing_writes: AtomicU64,
    failing_opens: AtomicU64,
    /// What failing syncs and opens say, instead of EIO.
    errno: AtomicI32,
    /// The most bytes that one write takes; 0: no limit.
    write_limit: AtomicU64,
    next_descriptor: AtomicU64,
    /// Where syncs of files wait.
    sync_gate: Gate,
    /// What `device_gate` is for.
    hung_device: AtomicU64,
    /// Where writes and syncs of a device wait.
    device_gate: Gate,
    /// What `file_gate` is for.
    hung_file: AtomicU64,
    /// Where syncs of one file wait.
    file_gate: Gate,
    /// The file whose writes take credit.
    slow_file: AtomicU64,
    /// How many bytes may be written to it, and how many writes have come to wait for more.
    credit: Mutex<(u64, u64)>,
    credited: Condvar,
    /// How long a sync of a file takes, in microseconds.
    sync_delay: AtomicU64,
    volume_syncs: AtomicU64,
    failing_volume_syncs: AtomicU64,
    /// Where one read waits that found the end of its file.
    end_gate: Gate,
    /// Which of the next such reads that is; 0: none.
    end_to_hang: AtomicU64,
}

/// Lets through whoever comes, unless it is shut.
#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
    /// How many have come to wait since it was shut.
    waited: AtomicU64,
}

impl Gate {
    fn shut(&self) {
        self.waited.store(0, Ordering::SeqCst);
        *self.is_shut.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.is_shut.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_shut = self.is_shut.lock().unwrap();
        self.waited.fetch_add(u64::from(*is_shut), Ordering::SeqCst);
        while *is_shut {
            is_shut = self.opened.wait(is_shut).unwrap();
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct SimFs(pub(crate) Arc<Control>);

const ROOT: Inode = 1;

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl SimFs {
    /// A test that failed elsewhere is told by its own words, not by a poisoned lock.
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new() -> Self {
        let fs = Self::default();
        fs.disk().nodes.insert(ROOT, Node { is_dir: true, ..Node::default() });
        fs
    }

    pub(crate) fn power_off_at_sync(&self, count: u64) {
        self.0.power_off_at.store(count, Ordering::SeqCst);
    }

    pub(crate) fn fail_syncs(&self, count: u64) {
        self.0.failing_syncs.store(count, Ordering::SeqCst);
    }

    /// From now on what fails says this, and not EIO.
    pub(crate) fn fail_with(&self, errno: i32) {
        self.0.errno.store(errno, Ordering::SeqCst);
    }

    pub(crate) fn fail_opens(&self, count: u64) {
        self.0.failing_opens.store(count, Ordering::SeqCst);
    }

    fn failure(&self) -> io::Error {
        let errno = self.0.errno.load(Ordering::SeqCst);
        io::Error::from_raw_os_error(if errno == 0 { 5 } else { errno })
    }

    pub(crate) fn fail_writes(&self, count: u64) {
        self.0.failing_writes.store(count, Ordering::SeqCst);
    }

    pub(crate) fn limit_writes(&self, bytes: u64) {
        self.0.write_limit.store(bytes, Ordering::SeqCst);
    }

    /// Makes `path` another device; it is a folder, made if it is missing, as is what leads to it.
    pub(crate) fn set_device(&self, path: &Path, device: u64) {
        self.put(&path.join("mark"), b"");
        let mut disk = self.disk();
        let inode = disk.find(path).unwrap();
        disk.nodes.get_mut(&inode).unwrap().device = device;
    }

    /// From now on writes and syncs of files of this device do not return.
    pub(crate) fn hang_device(&self, device: u64) {
        self.0.hung_device.store(device, Ordering::SeqCst);
        self.0.device_gate.shut();
    }

    pub(crate) fn hung_on_device(&self) -> u64 {
        self.0.device_gate.waited.load(Ordering::SeqCst)
    }

    pub(crate) fn let_device_go(&self) {
        self.0.device_gate.open();
    }

    /// From now on syncs of this file do not return.
    pub(crate) fn hang_syncs_of(&self, path: &Path) {
        let inode = self.disk().find(path).unwrap();
        self.0.hung_file.store(inode, Ordering::SeqCst);
        self.0.file_gate.shut();
    }

    pub(crate) fn hung_syncs_of_file(&self) -> u64 {
        self.0.file_gate.waited.load(Ordering::SeqCst)
    }

    pub(crate) fn let_file_go(&self) {
        self.0.file_gate.open();
    }

    /// From now on writes to this file wait for credit.
    pub(crate) fn slow_down(&self, path: &Path) {
        let inode = self.disk().find(path).unwrap();
        self.0.slow_file.store(inode, Ordering::SeqCst);
    }

    /// Lets so many more bytes be written to the slow file.
    pub(crate) fn credit(&self, bytes: u64) {
        let mut credit = self.0.credit.lock().unwrap();
        credit.0 += bytes;
        self.0.credited.notify_all();
    }

    /// How many writes have come to wait for credit.
    pub(crate) fn waited_for_credit(&self) -> u64 {
        self.0.credit.lock().unwrap().1
    }

    fn take_credit(&self, inode: Inode, bytes: u64) {
        if self.0.slow_file.load(Ordering::SeqCst) != inode {
            return;
        }
        let mut credit = self.0.credit.lock().unwrap();
        credit.1 += u64::from(credit.0 < bytes);
        while credit.0 < bytes {
            credit = self.0.credited.wait(credit).unwrap();
        }
        credit.0 -= bytes;
    }

    /// How long a sync of a file takes from now on.
    pub(crate) fn delay_syncs(&self, delay: std::time::Duration) {
        self.0.sync_delay.store(u64::try_from(delay.as_micros()).unwrap(), Ordering::SeqCst);
    }

    /// Lets all of it be synced at once.
    pub(crate) fn set_volume(&self) {
        self.disk().has_volume = true;
    }

    pub(crate) fn volume_syncs(&self) -> u64 {
        self.0.volume_syncs.load(Ordering::SeqCst)
    }

    /// The next so many syncs of all of it lose what is dirty.
    pub(crate) fn fail_volume_syncs(&self, count: u64) {
        self.0.failing_volume_syncs.store(count, Ordering::SeqCst);
    }

    pub(crate) fn failing_volume_syncs(&self) -> u64 {
        self.0.failing_volume_syncs.load(Ordering::SeqCst)
    }

    /// The kernel writes back what is dirty of a file by itself, and fails; somebody else is told.
    pub(crate) fn lose(&self, path: &Path) {
        let mut disk = self.disk();
        let inode = disk.find(path).unwrap();
        disk.fail_write_back(inode);
        disk.nodes.get_mut(&inode).unwrap().failure_is_told = true;
    }

    pub(crate) fn limit_descriptors(&self, max: Option<usize>) {
        let mut disk = self.disk();
        disk.descriptors_max = max;
        disk.descriptors_peak = disk.descriptors;
    }

    /// How many descriptors are open on a file.
    pub(crate) fn descriptors_of(&self, path: &Path) -> usize {
        let disk = self.disk();
        let inode = disk.find(path).unwrap();
        disk.nodes[&inode].descriptors
    }

    pub(crate) fn descriptors_peak(&self) -> usize {
        self.disk().descriptors_peak
    }

    /// How many more bytes files may have, all together.
    pub(crate) fn set_room(&self, room: Option<usize>) {
        self.disk().room = room;
    }

    pub(crate) fn set_read_only(&self) {
        self.disk().read_only = true;
    }

    pub(crate) fn set_writable(&self) {
        self.disk().read_only = false;
    }

    pub(crate) fn unmount(&self) {
        self.disk().is_unmounted = true;
    }

    /// Mounts it again, as another device.
    pub(crate) fn mount(&self) {
        let mut disk = self.disk();
        disk.is_unmounted = false;
        disk.mounts += 1;
    }

    pub(crate) fn set_shared(&self) {
        self.disk().is_shared = true;
    }

    /// From now on syncs of files do not return.
    pub(crate) fn hang_syncs(&self) {
        self.0.sync_gate.shut();
    }

    /// How many syncs have come to wait since they hang.
    pub(crate) fn hung_syncs(&self) -> u64 {
        self.0.sync_gate.waited.load(Ordering::SeqCst)
    }

    pub(crate) fn let_syncs_go(&self) {
        self.0.sync_gate.open();
    }

    /// The `count`th read from now on that finds the end of its file does not return.
    pub(crate) fn hang_at_end_of_file(&self, count: u64) {
        self.0.end_gate.shut();
        self.0.end_to_hang.store(count, Ordering::SeqCst);
    }

    /// Whether that read has come.
    pub(crate) fn has_hung_read(&self) -> bool {
        self.0.end_gate.waited.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn let_read_go(&self) {
        self.0.end_gate.open();
    }

    /// All locks are free, as if their holders were dead.
    pub(crate) fn forget_locks(&self) {
        self.disk().locks.clear();
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::SeqCst)
    }

    pub(crate) fn folder_syncs(&self) -> u64 {
        self.0.folder_syncs.load(Ordering::SeqCst)
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.0.read_bytes.load(Ordering::SeqCst)
    }

    /// The files that were appended to since the last call, in that order.
    pub(crate) fn take_written(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.written.lock().unwrap())
    }

    pub(crate) fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::SeqCst)
    }

    /// The disk as it is after a power cut: what was synced, and no locks.
    pub(crate) fn after_power_cut(&self) -> Self {
        let disk = self.disk();
        let kept = |node: &Node| Node {
            is_dir: node.is_dir,
            device: node.device,
            live: node.durable.clone(),
            durable: node.durable.clone(),
            dirty: Vec::new(),
            entries: node.durable_entries.clone(),
            durable_entries: node.durable_entries.clone(),
            ..Node::default()
        };
        Self::of(disk.nodes.iter().map(|(inode, node)| (*inode, kept(node))).collect())
    }

    /// The disk as it is after the process was killed: all that was written, and no locks.
    pub(crate) fn after_kill(&self) -> Self {
        Self::of(self.disk().nodes.clone())
    }

    fn of(nodes: BTreeMap<Inode, Node>) -> Self {
        let fs = Self::default();
        fs.disk().nodes = nodes;
        fs
    }

    pub(crate) fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        let inode = disk.find(path).ok()?;
        Some(disk.nodes[&inode].live.clone())
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let inode = disk.find(path).unwrap();
        let node = disk.nodes.get_mut(&inode).unwrap();
        change(&mut node.live);
        node.durable = node.live.clone();
    }

    /// The same while it is not mounted.
    pub(crate) fn edit_unmounted(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let was = std::mem::take(&mut self.disk().is_unmounted);
        self.edit(path, change);
        self.disk().is_unmounted = was;
    }

    /// What is on the disk now stays, whatever happens.
    pub(crate) fn make_durable(&self) {
        for node in self.disk().nodes.values_mut() {
            node.durable = node.live.clone();
            node.durable_entries = node.entries.clone();
            node.dirty.clear();
        }
    }

    /// Puts a file there, with the folders above it.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) {
        let mut folder = PathBuf::new();
        for part in path.parent().unwrap() {
            folder.push(part);
            if folder != Path::new("/") {
                let _ = self.create_dir(&folder);
            }
        }
        if self.stat(path).is_err() {
            self.open(path, OpenMode::CreateNew).unwrap();
        }
        self.edit(path, |file| *file = bytes.to_vec());
    }

    /// All files below the root.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        fn walk(disk: &Disk, at: Inode, path: &Path, out: &mut Vec<PathBuf>) {
            for (name, inode) in &disk.nodes[&at].entries {
                let path = path.join(name);
                match disk.nodes.get(inode) {
                    Some(node) if node.is_dir => walk(disk, *inode, &path, out),
                    _ => out.push(path),
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.disk(), ROOT, Path::new("/"), &mut out);
        out
    }

    /// Counts a sync. The power may go with it; it may hang first, or fail.
    fn sync(&self, inode: impl FnOnce(&Disk) -> io::Result<Inode>, is_dir: bool) -> io::Result<()> {
        if !is_dir {
            self.0.sync_gate.pass();
        }
        let mut disk = self.disk();
        disk.check_power()?;
        let count = self.0.syncs.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.folder_syncs.fetch_add(u64::from(is_dir), Ordering::SeqCst);
        if self.0.power_off_at.load(Ordering::SeqCst) == count {
            disk.off = true;
            return disk.check_power();
        }
        let inode = inode(&disk)?;
        let node = disk.nodes.get_mut(&inode).unwrap();
        let dirty = std::mem::take(&mut node.dirty);
        let fails = self.0.failing_syncs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails && !is_dir {
            disk.fail_write_back(inode);
            return Err(self.failure());
        }
        node.dirty = dirty;
        node.write_back();
        Ok(())
    }

    /// Waits where writes and syncs of the file's device, or of all files, hang.
    fn pass_gates(&self, inode: Inode) {
        let device = self.disk().nodes[&inode].device;
        if self.0.hung_device.load(Ordering::SeqCst) == device {
            self.0.device_gate.pass();
        }
    }
}

impl Node {
    fn write_back(&mut self) {
        self.durable_entries = self.entries.clone();
        for (from, to) in std::mem::take(&mut self.dirty) {
            if self.durable.len() < to {
                self.durable.resize(to, 0);
            }
            self.durable[from..to].copy_from_slice(&self.live[from..to]);
        }
    }
}

impl Disk {
    fn check_power(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// What was dirty is clean, and never reaches the disk.
    fn fail_write_back(&mut self, inode: Inode) {
        let node = self.nodes.get_mut(&inode).unwrap();
        node.dirty.clear();
        node.failed_write_backs += 1;
        node.failure_is_told = false;
        self.failed_write_backs += 1;
    }

    fn check_writable(&self) -> io::Result<()> {
        self.check_power()?;
        if self.read_only { Err(error(io::ErrorKind::ReadOnlyFilesystem)) } else { Ok(()) }
    }

    fn find(&self, path: &Path) -> io::Result<Inode> {
        self.check_power()?;
        let mut at = ROOT;
        if self.is_unmounted && path.iter().nth(1).is_some() {
            return Err(error(io::ErrorKind::NotFound));
        }
        for part in path.iter().skip(1) {
            let name = part.to_str().unwrap();
            at = *self.nodes[&at].entries.get(name).ok_or(error(io::ErrorKind::NotFound))?;
        }
        Ok(at)
    }

    fn parent<'a>(&self, path: &'a Path) -> io::Result<(Inode, &'a str)> {
        let parent = self.find(path.parent().unwrap())?;
        Ok((parent, path.file_name().unwrap().to_str().unwrap()))
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<Inode> {
        self.check_writable()?;
        let (parent, name) = self.parent(path)?;
        let inode = self.nodes.keys().max().unwrap() + 1;
        if self.nodes[&parent].entries.contains_key(name) {
            return Err(error(io::ErrorKind::AlreadyExists));
        }
        let device = self.nodes[&parent].device;
        self.nodes.insert(inode, Node { device, ..node });
        self.nodes.get_mut(&parent).unwrap().entries.insert(name.to_owned(), inode);
        Ok(inode)
    }

    fn take(&mut self, path: &Path) -> io::Result<Inode> {
        self.check_writable()?;
        let (parent, name) = self.parent(path)?;
        self.nodes.get_mut(&parent).unwrap().entries.remove(name).ok_or(error(io::ErrorKind::NotFound))
    }

    fn write(&mut self, inode: Inode, bytes: &[u8], offset: Option<u64>) -> io::Result<usize> {
        self.check_writable()?;
        let end = self.nodes[&inode].live.len();
        let at = offset.map_or(end, |offset| usize::try_from(offset).unwrap());
        let grows = (at + bytes.len()).saturating_sub(end);
        let lacks = self.room.map_or(0, |room| grows.saturating_sub(room));
        let bytes = &bytes[..bytes.len().saturating_sub(lacks)];
        if bytes.is_empty() {
            return Err(error(io::ErrorKind::StorageFull));
        }
        if let Some(room) = &mut self.room {
            *room -= grows - lacks;
        }
        let node = self.nodes.get_mut(&inode).unwrap();
        node.live.resize(end.max(at + bytes.len()), 0);
        node.live[at..at + bytes.len()].copy_from_slice(bytes);
        node.dirty.push((at, at + bytes.len()));
        Ok(bytes.len())
    }

    fn stat(&self, inode: Inode) -> Stat {
        let node = &self.nodes[&inode];
        // What it is mounted on is another one.
        let device = if self.is_unmounted { 1_000_000 } else { 1 + self.mounts + 1000 * node.device };
        Stat { device, inode, links: 1, size: node.live.len() as u64, modified_ns: 0, is_file: !node.is_dir }
    }
}

impl FileSystem for SimFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let left = &self.0.failing_opens;
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(self.failure());
        }
        let mut disk = self.disk();
        if disk.descriptors_max.is_some_and(|max| disk.descriptors >= max) {
            return Err(io::Error::from_raw_os_error(24));
        }
        let inode = match mode {
            OpenMode::CreateNew => disk.add(path, Node::default())?,
            _ => disk.find(path)?,
        };
        if matches!(mode, OpenMode::Append | OpenMode::InPlace) {
            disk.check_writable()?;
        }
        disk.descriptors += 1;
        disk.nodes.get_mut(&inode).unwrap().descriptors += 1;
        disk.descriptors_peak = disk.descriptors_peak.max(disk.descriptors);
        let node = &disk.nodes[&inode];
        let seen = AtomicU64::new(node.failed_write_backs - u64::from(node.failed_write_backs > 0 && !node.failure_is_told));
        let descriptor = self.0.next_descriptor.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(SimFile { fs: self.clone(), inode, mode, descriptor, seen }))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let disk = self.disk();
        disk.find(path).map(|inode| disk.stat(inode))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.disk();
        let inode = disk.find(path)?;
        let entries = disk.nodes[&inode].entries.iter();
        Ok(entries.map(|(name, inode)| DirEntry { name: name.into(), is_dir: disk.nodes[inode].is_dir }).collect())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk().add(path, Node { is_dir: true, ..Node::default() }).map(|_| ())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.sync(|disk| disk.find(path), true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.take(from)?;
        let (parent, name) = disk.parent(to)?;
        disk.nodes.get_mut(&parent).unwrap().entries.insert(name.to_owned(), inode);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let inode = disk.take(path)?;
        let freed = disk.nodes[&inode].live.len();
        if let Some(room) = &mut disk.room {
            *room += freed;
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk().take(path).map(|_| ())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(self.disk().room.map(|room| room as u64))
    }

    fn volume(&self, _: &Path) -> io::Result<Option<Arc<dyn Volume>>> {
        let disk = self.disk();
        let volume = SimVolume { fs: self.clone(), seen: AtomicU64::new(disk.failed_write_backs) };
        Ok(disk.has_volume.then(|| Arc::new(volume) as Arc<dyn Volume>))
    }

    fn locks_are_trusted(&self, _: &Path) -> bool {
        !self.disk().is_shared
    }
}

struct SimVolume {
    fs: SimFs,
    seen: AtomicU64,
}

impl Volume for SimVolume {
    fn sync(&self) -> io::Result<()> {
        let control = &self.fs.0;
        let mut disk = self.fs.disk();
        disk.check_power()?;
        control.volume_syncs.fetch_add(1, Ordering::SeqCst);
        if control.syncs.fetch_add(1, Ordering::SeqCst) + 1 == control.power_off_at.load(Ordering::SeqCst) {
            disk.off = true;
            return disk.check_power();
        }
        let left = &control.failing_volume_syncs;
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let dirty: Vec<Inode> =
                disk.nodes.iter().filter(|(_, node)| !node.dirty.is_empty()).map(|(inode, _)| *inode).collect();
            dirty.into_iter().for_each(|inode| disk.fail_write_back(inode));
        } else {
            disk.nodes.values_mut().for_each(Node::write_back);
        }
        let failed = disk.failed_write_backs;
        if self.seen.swap(failed, Ordering::SeqCst) == failed { Ok(()) } else { Err(io::Error::from_raw_os_error(5)) }
    }
}

struct SimFile {
    fs: SimFs,
    inode: Inode,
    mode: OpenMode,
    descriptor: u64,
    /// How many failed write-backs it was told of, or had been when it was opened.
    seen: AtomicU64,
}

impl File for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        let disk = self.fs.disk();
        disk.check_power()?;
        Ok(disk.stat(self.inode))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.fs.disk();
        disk.check_power()?;
        let rest = disk.nodes[&self.inode].live.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        drop(disk);
        self.fs.0.read_bytes.fetch_add(length as u64, Ordering::SeqCst);
        let left = &self.fs.0.end_to_hang;
        if length == 0 && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1) {
            self.fs.0.end_gate.pass();
        }
        Ok(length)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(matches!(self.mode, OpenMode::Append | OpenMode::CreateNew), "the descriptor has no O_APPEND");
        self.fs.0.writes.fetch_add(1, Ordering::SeqCst);
        self.fs.0.written.lock().unwrap().push(self.inode);
        if self.fs.0.failing_writes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(self.fs.failure());
        }
        let mut bytes = parts.iter().map(|part| &**part).collect::<Vec<_>>().concat();
        match self.fs.0.write_limit.load(Ordering::SeqCst) {
            0 => {}
            limit => bytes.truncate(usize::try_from(limit).unwrap()),
        }
        self.fs.pass_gates(self.inode);
        self.fs.take_credit(self.inode, bytes.len() as u64);
        self.fs.disk().write(self.inode, &bytes, None)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        assert_eq!(self.mode, OpenMode::InPlace, "with O_APPEND the offset would not count");
        self.fs.disk().write(self.inode, bytes, Some(offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fs.pass_gates(self.inode);
        if self.fs.0.hung_file.load(Ordering::SeqCst) == self.inode {
            self.fs.0.file_gate.pass();
        }
        let delay = self.fs.0.sync_delay.load(Ordering::SeqCst);
        if delay > 0 {
            std::thread::sleep(std::time::Duration::from_micros(delay));
        }
        let outcome = self.fs.sync(|_| Ok(self.inode), false);
        let mut disk = self.fs.disk();
        let node = disk.nodes.get_mut(&self.inode).unwrap();
        let failed = node.failed_write_backs;
        if self.seen.swap(failed, Ordering::SeqCst) == failed {
            return outcome;
        }
        node.failure_is_told = true;
        outcome.and(Err(io::Error::from_raw_os_error(5)))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut disk = self.fs.disk();
        disk.check_power()?;
        Ok(*disk.locks.entry(self.inode).or_insert(self.descriptor) == self.descriptor)
    }

    fn is_locked(&self) -> io::Result<bool> {
        let disk = self.fs.disk();
        Ok(disk.locks.get(&self.inode).is_some_and(|holder| *holder != self.descriptor))
    }

    fn unlock(&self) -> io::Result<()> {
        let mut disk = self.fs.disk();
        if disk.locks.get(&self.inode) == Some(&self.descriptor) {
            disk.locks.remove(&self.inode);
        }
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = self.fs.disk();
        disk.descriptors -= 1;
        if let Some(node) = disk.nodes.get_mut(&self.inode) {
            node.descriptors -= 1;
        }
        drop(disk);
        let _ = self.unlock();
    }
}
