//! A disk in memory that is cheap to copy and remembers, in order, all that was done to it.
//!
//! An [`Image`] shares what it has in common with its copies, so a state of the disk costs what differs. A [`Disk`] is an image with a
//! file system's face; whatever changes it is also an [`Op`] of its trace, and so is each promise that the store made meanwhile.

use session_store::{DirEntry, File, FileSystem, OpenMode, SessionId, Stat, Volume};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Where a file or a folder is in [`Image::nodes`].
pub(crate) type Inode = usize;

const ROOT: Inode = 0;

/// The bytes of a file, with their hash once somebody asked for it.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    hash: OnceLock<u64>,
}

impl Content {
    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| hash_of(&self.bytes))
    }
}

#[derive(Clone)]
enum Node {
    File(Arc<Content>),
    Folder(Arc<BTreeMap<String, Inode>>),
}

/// What a disk holds. Nodes stay when their last name goes: nobody can reach them then.
#[derive(Clone)]
pub(crate) struct Image {
    nodes: Vec<Node>,
}

/// An entry of a folder that is set to a node, or taken away.
pub(crate) type Entry = (Inode, String, Option<Inode>);

/// Something that was done to a disk, or said of it.
#[derive(Clone)]
pub(crate) enum Op {
    /// A node was made; nothing leads to it yet.
    Make {
        is_folder: bool,
    },
    /// All or none of these entries change: two for a rename.
    Entries(Vec<Entry>),
    Write {
        inode: Inode,
        offset: usize,
        bytes: Arc<[u8]>,
        is_append: bool,
    },
    SyncFile(Inode),
    SyncFolder(Inode),
    SyncAll,
    Promise(Promise),
}

/// Lines of a log without their newlines, each with its offset.
pub(crate) type Lines = Vec<(usize, Vec<u8>)>;

/// What the store answered for at an instant of the trace.
#[derive(Clone)]
pub(crate) enum Promise {
    /// These lines of the log are durable, each with its offset.
    Durable { id: SessionId, lines: Lines },
    /// This side file is.
    Side { id: SessionId, sha256: String },
    /// The removal of a session began: it may be there, or any part of it.
    Removing(SessionId),
    /// It is gone for good.
    Removed(SessionId),
    /// From here on its events stay, but not the bytes of its lines nor the files that they are in.
    Rewriting(SessionId),
    /// It is in the archive, and nowhere else.
    Archived(SessionId),
}

pub(crate) fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Image {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::Folder(Arc::default())] }
    }

    /// Does what changes an image; the rest says nothing about the bytes on it.
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Make { is_folder } => self.make(*is_folder),
            Op::Entries(entries) => entries.iter().for_each(|entry| self.set_entry(entry)),
            Op::Write { inode, offset, bytes, .. } => self.write(*inode, *offset, bytes),
            Op::SyncFile(_) | Op::SyncFolder(_) | Op::SyncAll | Op::Promise(_) => {}
        }
    }

    fn make(&mut self, is_folder: bool) {
        self.nodes.push(if is_folder { Node::Folder(Arc::default()) } else { Node::File(Arc::default()) });
    }

    fn set_entry(&mut self, (folder, name, inode): &Entry) {
        let Node::Folder(entries) = &mut self.nodes[*folder] else { panic!("an entry of what is no folder") };
        let entries = Arc::make_mut(entries);
        match inode {
            Some(inode) => entries.insert(name.clone(), *inode),
            None => entries.remove(name),
        };
    }

    /// Writes; what was never written before `offset` reads as zeros.
    pub(crate) fn write(&mut self, inode: Inode, offset: usize, bytes: &[u8]) {
        self.change(inode, |content| {
            let end = offset + bytes.len();
            content.resize(content.len().max(end), 0);
            content[offset..end].copy_from_slice(bytes);
        });
    }

    /// Gives a file another length, with zeros where it grows.
    pub(crate) fn set_length(&mut self, inode: Inode, length: usize) {
        self.change(inode, |content| content.resize(length, 0));
    }

    fn change(&mut self, inode: Inode, change: impl FnOnce(&mut Vec<u8>)) {
        let Node::File(content) = &mut self.nodes[inode] else { panic!("a write to what is no file") };
        let content = Arc::make_mut(content);
        content.hash = OnceLock::new();
        change(&mut content.bytes);
    }

    pub(crate) fn length(&self, inode: Inode) -> usize {
        match &self.nodes[inode] {
            Node::File(content) => content.bytes.len(),
            Node::Folder(_) => 0,
        }
    }

    fn find(&self, path: &Path) -> io::Result<Inode> {
        path.iter().skip(1).try_fold(ROOT, |at, part| match &self.nodes[at] {
            Node::Folder(entries) => entries.get(part.to_str().expect("UTF-8")).copied().ok_or(io::ErrorKind::NotFound.into()),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        })
    }

    fn parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?, name.to_owned()))
    }

    /// The bytes of the file at `path`.
    pub(crate) fn contents(&self, path: &Path) -> Option<Arc<Content>> {
        match &self.nodes[self.find(path).ok()?] {
            Node::File(content) => Some(Arc::clone(content)),
            Node::Folder(_) => None,
        }
    }

    /// All files and folders, by their paths.
    pub(crate) fn walk(&self, mut visit: impl FnMut(&str, Option<&Arc<Content>>)) {
        let mut left = vec![(String::new(), ROOT)];
        while let Some((path, inode)) = left.pop() {
            match &self.nodes[inode] {
                Node::File(content) => visit(&path, Some(content)),
                Node::Folder(entries) => {
                    visit(&path, None);
                    left.extend(entries.iter().map(|(name, inode)| (format!("{path}/{name}"), *inode)));
                }
            }
        }
    }

    /// A hash of all that belongs to each session (every path that names it), and of the whole.
    pub(crate) fn hashes(&self) -> (HashMap<SessionId, u64>, u64) {
        let (mut sessions, mut whole) = (HashMap::new(), 0_u64);
        self.walk(|path, content| {
            // A sum, because the order of a walk says nothing.
            let hash = hash_of(&(path, content.map(|content| content.hash())));
            whole = whole.wrapping_add(hash);
            if let Some(id) = session_in(path) {
                let sum: &mut u64 = sessions.entry(id).or_default();
                *sum = sum.wrapping_add(hash);
            }
        });
        (sessions, whole)
    }

    fn stat(&self, inode: Inode) -> Stat {
        let is_file = matches!(self.nodes[inode], Node::File(_));
        Stat { device: 1, inode: inode as u64, links: 1, size: self.length(inode) as u64, modified_ns: 0, is_file }
    }
}

/// The session that a path names, at any depth.
fn session_in(path: &str) -> Option<SessionId> {
    path.split('/').find_map(|part| part.get(..36)?.parse().ok()).filter(|_| !path.contains("/owners/"))
}

/// What a sync is of, by the first name of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synced {
    Log,
    SideFile,
    SideFolder,
    /// A day's folder, where logs have their entries.
    Day,
    /// A folder on the way there.
    Way,
    /// Everything.
    All,
}

/// What each operation of a trace that begins with an empty disk syncs, if it is a sync.
pub(crate) fn syncs(ops: &[Op]) -> Vec<Option<Synced>> {
    let mut names: HashMap<Inode, (String, Inode)> = HashMap::from([(ROOT, (String::new(), ROOT))]);
    for (folder, name, inode) in
        ops.iter().filter_map(|op| if let Op::Entries(entries) = op { Some(entries) } else { None }).flatten()
    {
        if let Some(inode) = inode {
            names.entry(*inode).or_insert_with(|| (name.clone(), *folder));
        }
    }
    let depth = |inode: &Inode| std::iter::successors(Some(*inode), |at| (*at != ROOT).then(|| names[at].1)).count() - 1;
    let kind = |op: &Op| match op {
        Op::SyncFile(inode) if names[inode].0.len() == 64 => Some(Synced::SideFile),
        Op::SyncFile(_) => Some(Synced::Log),
        // /home/sessions/2026/01/01 and below
        Op::SyncFolder(inode) if depth(inode) > 5 => Some(Synced::SideFolder),
        Op::SyncFolder(inode) if depth(inode) == 5 => Some(Synced::Day),
        Op::SyncFolder(_) => Some(Synced::Way),
        Op::SyncAll => Some(Synced::All),
        _ => None,
    };
    ops.iter().map(kind).collect()
}

#[derive(Default)]
struct Recording {
    ops: Vec<Op>,
    /// How far the lines of each log were promised already.
    promised: HashMap<SessionId, usize>,
    locks: HashMap<Inode, u64>,
}

struct Inner {
    image: Image,
    recording: Recording,
}

/// A file system on an image. Copies are the same disk.
#[derive(Clone)]
pub(crate) struct Disk {
    inner: Arc<Mutex<Inner>>,
    descriptors: Arc<AtomicU64>,
    /// Whether all of it can be synced at once.
    has_volume: bool,
}

/// Where the log of a session is, in a store whose home is `/home`.
pub(crate) fn log_path(id: SessionId) -> PathBuf {
    PathBuf::from("/home/sessions").join(id.relative_path()).with_extension("jsonl")
}

/// Where the files of a session are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) hot: bool,
    pub(crate) cold: bool,
    pub(crate) archived: bool,
}

impl Files {
    pub(crate) fn of(image: &Image, id: SessionId) -> Self {
        let is_there = |path: &Path| image.find(path).is_ok();
        let (hot, archived) = (log_path(id), archived_path(id));
        Self { hot: is_there(&hot), cold: is_there(&hot.with_extension("jsonl.zst")), archived: is_there(&archived) }
    }

    pub(crate) fn are_listed(self) -> bool {
        self.hot || self.cold
    }

    pub(crate) fn exist(self) -> bool {
        self.are_listed() || self.archived
    }
}

fn archived_path(id: SessionId) -> PathBuf {
    PathBuf::from("/home/archive").join(id.relative_path()).with_extension("jsonl.zst")
}

/// The side file with this name, wherever the session is.
pub(crate) fn side(image: &Image, id: SessionId, sha256: &str) -> Option<Arc<Content>> {
    let folders = [log_path(id).with_extension(""), archived_path(id).with_extension("").with_extension("")];
    folders.iter().find_map(|folder| image.contents(&folder.join(sha256)))
}

impl Disk {
    pub(crate) fn new(image: Image) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner { image, recording: Recording::default() })),
            descriptors: Arc::default(),
            has_volume: false,
        }
    }

    /// All of it can be synced at once.
    pub(crate) fn with_volume(self) -> Self {
        Self { has_volume: true, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn image(&self) -> Image {
        self.lock().image.clone()
    }

    pub(crate) fn take_ops(&self) -> Vec<Op> {
        std::mem::take(&mut self.lock().recording.ops)
    }

    /// The process that used this disk is killed: its locks are free, and the page cache is as it was. What its threads still do goes to
    /// a copy that nobody looks at.
    pub(crate) fn kill(&self) -> Self {
        let mut inner = self.lock();
        let mut recording = std::mem::take(&mut inner.recording);
        recording.locks.clear();
        Self { inner: Arc::new(Mutex::new(Inner { image: inner.image.clone(), recording })), ..self.clone() }
    }

    /// Appends to a file what a process that died was writing.
    pub(crate) fn tear(&self, path: &Path, bytes: &[u8]) {
        let mut inner = self.lock();
        let inode = inner.image.find(path).expect("the log is there");
        let offset = inner.image.length(inode);
        inner.write(inode, offset, bytes, true);
    }

    /// What stands before `offset` in a log was not promised by whoever uses this disk from here on.
    pub(crate) fn promises_begin_at(&self, id: SessionId, offset: usize) {
        self.lock().recording.promised.insert(id, offset);
    }

    /// The store said that all events up to and with `seq` are durable.
    pub(crate) fn durable(&self, id: SessionId, seq: u64) {
        let mut inner = self.lock();
        let Some(log) = inner.image.contents(&log_path(id)) else { panic!("an event of a log that is not there is durable") };
        let from = inner.recording.promised.get(&id).copied().unwrap_or(0);
        let new = lines(&log.bytes).filter(|(offset, line)| *offset >= from && seq_of(line).is_some_and(|other| other <= seq));
        let new: Lines = new.map(|(offset, line)| (offset, line.to_vec())).collect();
        let Some((offset, line)) = new.last() else { return };
        inner.recording.promised.insert(id, offset + line.len());
        inner.recording.ops.push(Op::Promise(Promise::Durable { id, lines: new }));
    }

    pub(crate) fn promise(&self, promise: Promise) {
        let mut inner = self.lock();
        if let Promise::Rewriting(id) = promise {
            // Its lines may be in another file then.
            inner.recording.promised.insert(id, 0);
        }
        inner.recording.ops.push(Op::Promise(promise));
    }
}

/// The whole lines of a log that are records by their form, without newlines, each with its offset. Zeros before one are a hole of the file.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut end = 0;
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let placed = whole.map(move |line| {
        end += line.len() + 1;
        let zeros = line.iter().take_while(|byte| **byte == 0).count();
        (end - 1 - line.len() + zeros, &line[zeros..])
    });
    placed.filter(|(_, line)| seq_of(line).is_some() && line.ends_with(b"\"}"))
}

/// The `seq` of a line.
pub(crate) fn seq_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let length = digits.iter().position(|byte| *byte == b',')?;
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

impl Inner {
    fn record(&mut self, op: Op) {
        self.image.apply(&op);
        self.recording.ops.push(op);
    }

    fn write(&mut self, inode: Inode, offset: usize, bytes: &[u8], is_append: bool) {
        self.record(Op::Write { inode, offset, bytes: bytes.into(), is_append });
    }

    fn add(&mut self, path: &Path, is_folder: bool) -> io::Result<Inode> {
        let (folder, name) = self.image.parent(path)?;
        if self.image.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = self.image.nodes.len();
        self.record(Op::Make { is_folder });
        self.record(Op::Entries(vec![(folder, name, Some(inode))]));
        Ok(inode)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.image.parent(path)?;
        match &self.image.nodes[self.image.find(path)?] {
            Node::Folder(entries) if !entries.is_empty() => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            _ => {}
        }
        self.record(Op::Entries(vec![(folder, name, None)]));
        Ok(())
    }
}

impl FileSystem for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut inner = self.lock();
        let inode = match mode {
            OpenMode::CreateNew => inner.add(path, false)?,
            _ => inner.image.find(path)?,
        };
        let descriptor = self.descriptors.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(OpenFile { disk: self.clone(), inode, mode, descriptor }))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let inner = self.lock();
        inner.image.find(path).map(|inode| inner.image.stat(inode))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let image = &self.lock().image;
        let Node::Folder(entries) = &image.nodes[image.find(path)?] else { return Err(io::ErrorKind::NotADirectory.into()) };
        let is_dir = |inode: &Inode| matches!(image.nodes[*inode], Node::Folder(_));
        Ok(entries.iter().map(|(name, inode)| DirEntry { name: name.into(), is_dir: is_dir(inode) }).collect())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.lock().add(path, true).map(|_| ())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let inode = inner.image.find(path)?;
        inner.record(Op::SyncFolder(inode));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        let inode = inner.image.find(from)?;
        let ((from, old), (to, new)) = (inner.image.parent(from)?, inner.image.parent(to)?);
        inner.record(Op::Entries(vec![(from, old, None), (to, new, Some(inode))]));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.lock().remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.lock().remove(path)
    }

    fn volume(&self, _: &Path) -> io::Result<Option<Arc<dyn Volume>>> {
        Ok(self.has_volume.then(|| Arc::new(self.clone()) as Arc<dyn Volume>))
    }

    fn locks_are_trusted(&self, _: &Path) -> bool {
        true
    }
}

impl Volume for Disk {
    fn sync(&self) -> io::Result<()> {
        self.lock().record(Op::SyncAll);
        Ok(())
    }
}

struct OpenFile {
    disk: Disk,
    inode: Inode,
    mode: OpenMode,
    descriptor: u64,
}

impl File for OpenFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.lock().image.stat(self.inode))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.disk.lock();
        let Node::File(content) = &inner.image.nodes[self.inode] else { return Err(io::ErrorKind::IsADirectory.into()) };
        let rest = usize::try_from(offset).ok().and_then(|offset| content.bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(matches!(self.mode, OpenMode::Append | OpenMode::CreateNew), "not opened to append");
        let bytes = parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>();
        let mut inner = self.disk.lock();
        let end = inner.image.length(self.inode);
        inner.write(self.inode, end, &bytes, true);
        Ok(bytes.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        assert!(self.mode == OpenMode::InPlace, "not opened to write in place");
        self.disk.lock().write(self.inode, usize::try_from(offset).map_err(io::Error::other)?, bytes, false);
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.disk.has_volume {
            // So that the store finds that it is better to sync all at once.
            std::thread::sleep(Duration::from_millis(1));
        }
        self.disk.lock().record(Op::SyncFile(self.inode));
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(*self.disk.lock().recording.locks.entry(self.inode).or_insert(self.descriptor) == self.descriptor)
    }

    fn is_locked(&self) -> io::Result<bool> {
        Ok(self.disk.lock().recording.locks.get(&self.inode).is_some_and(|holder| *holder != self.descriptor))
    }

    fn unlock(&self) -> io::Result<()> {
        let locks = &mut self.disk.lock().recording.locks;
        if locks.get(&self.inode) == Some(&self.descriptor) {
            locks.remove(&self.inode);
        }
        Ok(())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let _ = self.unlock();
    }
}
