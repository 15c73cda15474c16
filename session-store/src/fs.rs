//! The seam to the file system: what the store asks of it, in two small traits.
//!
//! Everything the file store does to a disk goes through here, so that a crash test is a small struct: count the syncs,
//! stop at each one, keep what was synced, open again, check. The traits promise no more than POSIX does: what was
//! written is in the page cache; a file's bytes are durable after [`File::sync_data`], an entry of a directory after
//! [`FileSystem::sync_dir`]; after a failed sync nothing is known of what was written since the last clean one. There is no way to
//! cut or shrink a file.

#![expect(clippy::disallowed_methods, reason = "this is the seam: what calls the real file system is here")]

use std::ffi::OsString;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

/// How much of a file is read at a time where a part of it is copied.
const COPY_BYTES: usize = 1 << 20;

/// How much the kernel is asked to copy at a time: a multiple of every file system's block, so that blocks can be shared.
#[cfg(target_os = "linux")]
const KERNEL_COPY_BYTES: u64 = 256 << 20;

/// A file system. All paths are absolute, or relative to the working directory of the process.
pub trait FileSystem: Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// As of `open(2)`.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// What is at `path`, without following a link in its last part.
    ///
    /// # Errors
    /// As of `lstat(2)`.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// The entries of a directory, in no order.
    ///
    /// # Errors
    /// As of `readdir(3)`.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// The entries of a directory, in no order, each with what [`FileSystem::stat`] says of it; without that where it is gone by then.
    ///
    /// # Errors
    /// As of `readdir(3)`.
    fn read_dir_stat(&self, path: &Path) -> io::Result<Vec<(DirEntry, Option<Stat>)>> {
        let entries = self.read_dir(path)?.into_iter();
        Ok(entries.map(|entry| (entry.clone(), self.stat(&path.join(entry.name)).ok())).collect())
    }

    /// Makes a directory that only its owner can enter (0700).
    ///
    /// # Errors
    /// As of `mkdir(2)`.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// As of `fsync(2)`.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name in the same file system, replacing what had that name.
    ///
    /// # Errors
    /// As of `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a further name in the same file system, which nothing has yet.
    ///
    /// # Errors
    /// As of `link(2)`; [`io::ErrorKind::Unsupported`] where a file has one name only.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _ = (from, to);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes the name of a file.
    ///
    /// # Errors
    /// As of `unlink(2)`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As of `rmdir(2)`.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// A descriptor of the file system that holds `path`, to sync all of it; nothing where a sync that failed might not be told.
    ///
    /// # Errors
    /// As of `open(2)` and `statfs(2)`.
    fn volume(&self, path: &Path) -> io::Result<Option<Arc<dyn Volume>>> {
        let _ = path;
        Ok(None)
    }

    /// How much room there is for files of this user in the file system that holds `path`, in bytes; nothing where that is not known.
    ///
    /// # Errors
    /// As of `statvfs(3)`.
    fn free_bytes(&self, path: &Path) -> io::Result<Option<u64>> {
        let _ = path;
        Ok(None)
    }

    /// Tells of changes in a folder; nothing where it has to be looked at now and then.
    ///
    /// # Errors
    /// Where the machine gives no more of them.
    fn watch(&self, folder: &Path) -> io::Result<Option<Arc<dyn Watch>>> {
        let _ = folder;
        Ok(None)
    }

    /// Whether a lock on a file in `path` is seen by everybody who can see the file: true on the file systems of one
    /// kernel, false on those of a network and where it is not known.
    fn locks_are_trusted(&self, path: &Path) -> bool;
}

/// Tells of changes in one folder.
pub trait Watch: Send + Sync {
    /// Returns when an entry may have come or gone since it returned last, or when it is woken; costs nothing meanwhile.
    ///
    /// # Errors
    /// When it tells of nothing any more.
    fn wait(&self) -> io::Result<()>;

    /// Ends a wait, or the next one.
    fn wake(&self);
}

/// An open file; closed when the last reference goes.
pub trait File: Send + Sync {
    /// What the descriptor is open on, whatever became of its name.
    ///
    /// # Errors
    /// As of `fstat(2)`.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads at `offset`; 0 bytes at the end of the file.
    ///
    /// # Errors
    /// As of `pread(2)`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at the end with one call; may write less than all. Needs [`OpenMode::Append`] or [`OpenMode::CreateNew`].
    ///
    /// # Errors
    /// As of `writev(2)`.
    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes at `offset`; may write less than all. Needs [`OpenMode::InPlace`].
    ///
    /// # Errors
    /// As of `pwrite(2)`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Copies from `range` of `source` to `offset`; may copy less than all, and nothing only where `source` ends. Needs
    /// [`OpenMode::InPlace`]. The kernel copies where it can, and shares the blocks on a file system that can do that.
    ///
    /// # Errors
    /// As of `copy_file_range(2)`, `pread(2)` and `pwrite(2)`.
    fn copy_at(&self, offset: u64, source: &dyn File, range: Range<u64>) -> io::Result<u64> {
        copy_chunk(self, offset, source, range)
    }

    /// The descriptor, where there is one, for [`File::copy_at`].
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Asks the system to forget what it keeps of the file in memory, so that the next read asks the disk. Only what is durable can be
    /// forgotten, and the system may not do it.
    fn forget_cached(&self) {}

    /// Makes the file's bytes and its length durable.
    ///
    /// # Errors
    /// As of `fdatasync(2)`. After an error nothing is known of what was written since the last success, and a second
    /// call that succeeds says nothing about it.
    fn sync_data(&self) -> io::Result<()>;

    /// Takes the file's exclusive lock if nobody has it; says whether it did. The lock goes with [`File::unlock`], or
    /// with the last descriptor.
    ///
    /// # Errors
    /// Where the file system has no locks.
    fn try_lock(&self) -> io::Result<bool>;

    /// Whether somebody else has the lock. Takes nothing that another could miss.
    ///
    /// # Errors
    /// Where the file system has no locks.
    fn is_locked(&self) -> io::Result<bool>;

    /// Gives the lock back. Closing is not enough: a child between fork and exec keeps the lock of a closed descriptor.
    ///
    /// # Errors
    /// As of `flock(2)`.
    fn unlock(&self) -> io::Result<()>;
}

/// A whole file system, as one long-lived descriptor knows it.
pub trait Volume: Send + Sync {
    /// Makes all durable that was written to the file system before the call, by whomever, whether its files are still open or not.
    ///
    /// # Errors
    /// As of `syncfs(2)`: where anything failed to reach the disk since the last call, or since the descriptor was opened. It is told
    /// once.
    fn sync(&self) -> io::Result<()>;
}

/// How a file is opened. Files are made for their owner only (0600).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// To read.
    Read,
    /// To read, and to write at the end.
    Append,
    /// Made now, else an error; to read, and to write at the end.
    CreateNew,
    /// To read, and to write anywhere; it has to be there.
    InPlace,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The device, with `inode` the file's identity.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When its bytes last changed, in nanoseconds since 1970 by the file system's own clock: only to notice that they did.
    pub modified_ns: i64,
    /// Whether it is a regular file.
    pub is_file: bool,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl FileSystem for RealFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::Append => options.append(true),
            OpenMode::CreateNew => options.append(true).create_new(true),
            OpenMode::InPlace => options.write(true),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        std::fs::symlink_metadata(path).map(|found| stat_of(&found))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        std::fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok(DirEntry { is_dir: entry.file_type()?.is_dir(), name: entry.file_name() })
            })
            .collect()
    }

    fn read_dir_stat(&self, path: &Path) -> io::Result<Vec<(DirEntry, Option<Stat>)>> {
        std::fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                // Asked of the open directory, which is cheaper than a path.
                let stat = entry.metadata().ok().map(|found| stat_of(&found));
                Ok((DirEntry { is_dir: entry.file_type()?.is_dir(), name: entry.file_name() }, stat))
            })
            .collect()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    #[cfg(target_os = "linux")]
    fn volume(&self, path: &Path) -> io::Result<Option<Arc<dyn Volume>>> {
        let folder = std::fs::File::open(path)?;
        let found = rustix::fs::fstatfs(&folder)?;
        let tells = u64::try_from(found.f_type).is_ok_and(|magic| TELLS_OF_FAILED_SYNCS.contains(&magic));
        Ok((tells && kernel_tells_of_failed_syncs()).then(|| Arc::new(RealVolume(folder)) as Arc<dyn Volume>))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    #[cfg(target_os = "linux")]
    fn watch(&self, folder: &Path) -> io::Result<Option<Arc<dyn Watch>>> {
        Ok(Some(Arc::new(inotify::FolderWatch::begin(folder)?)))
    }

    fn locks_are_trusted(&self, path: &Path) -> bool {
        is_of_one_kernel(path)
    }
}

#[cfg(target_os = "linux")]
struct RealVolume(std::fs::File);

#[cfg(target_os = "linux")]
impl Volume for RealVolume {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

/// The magic numbers of the file systems whose `syncfs` is known to fail where a write-back did: ext4, xfs, btrfs.
#[cfg(target_os = "linux")]
const TELLS_OF_FAILED_SYNCS: [u64; 3] = [0xEF53, 0x5846_5342, 0x9123_683E];

/// Linux tells a failed write-back to `syncfs` since 5.8, and a failed commit of the journal since 5.17.
#[cfg(target_os = "linux")]
fn kernel_tells_of_failed_syncs() -> bool {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().unwrap_or_default().split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
    (next(), next()) >= (5, 17)
}

#[cfg(target_os = "linux")]
mod inotify {
    //! A folder that is watched by the kernel.

    use super::Watch;
    use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
    use rustix::fd::OwnedFd;
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    use rustix::io::Errno;
    use std::io;
    use std::mem::MaybeUninit;
    use std::path::Path;

    pub(super) struct FolderWatch {
        changes: OwnedFd,
        /// Readable once somebody woke it.
        woken: OwnedFd,
    }

    impl FolderWatch {
        pub(super) fn begin(folder: &Path) -> io::Result<Self> {
            let changes = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let kinds = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
            add_watch(&changes, folder, kinds | WatchFlags::ONLYDIR)?;
            Ok(Self { changes, woken: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
        }
    }

    impl Watch for FolderWatch {
        fn wait(&self) -> io::Result<()> {
            let mut descriptors = [PollFd::new(&self.changes, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
            match poll(&mut descriptors, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // What changed is looked up by name; here it only has to be taken away.
            let mut room = [MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(&self.changes, &mut room);
            loop {
                match events.next() {
                    // The folder is gone, or its file system.
                    Ok(event) if event.events().contains(ReadFlags::IGNORED) => return Err(io::ErrorKind::NotFound.into()),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        }

        fn wake(&self) {
            // It fails only where it is woken already.
            let _ = rustix::io::write(&self.woken, &1_u64.to_ne_bytes());
        }
    }
}

struct RealFile(std::fs::File);

impl File for RealFile {
    fn stat(&self) -> io::Result<Stat> {
        self.0.metadata().map(|found| stat_of(&found))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buffer, offset)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.0).write_vectored(parts)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.0, bytes, offset)
    }

    fn copy_at(&self, offset: u64, source: &dyn File, range: Range<u64>) -> io::Result<u64> {
        copy_by_kernel(&self.0, offset, source, range.clone()).unwrap_or_else(|| copy_chunk(self, offset, source, range))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    #[cfg(target_os = "linux")]
    fn forget_cached(&self) {
        // Only advice: where it is not taken, the read finds what was written.
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match fs4::FileExt::try_lock(&self.0) {
            Ok(()) => Ok(true),
            Err(fs4::TryLockError::WouldBlock) => Ok(false),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        }
    }

    fn is_locked(&self) -> io::Result<bool> {
        match fs4::FileExt::try_lock_shared(&self.0) {
            Ok(()) => fs4::FileExt::unlock(&self.0).map(|()| false),
            Err(fs4::TryLockError::WouldBlock) => Ok(true),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        fs4::FileExt::unlock(&self.0)
    }
}

fn stat_of(found: &std::fs::Metadata) -> Stat {
    use std::os::unix::fs::MetadataExt;
    Stat {
        device: found.dev(),
        inode: found.ino(),
        links: found.nlink(),
        size: found.size(),
        modified_ns: found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()),
        is_file: found.is_file(),
    }
}

/// The magic numbers (`statfs(2)`) of ext2/3/4, xfs, btrfs, tmpfs, overlayfs, zfs, f2fs, bcachefs: only one kernel mounts them at a
/// time, so its locks are everybody's.
#[cfg(target_os = "linux")]
fn is_of_one_kernel(path: &Path) -> bool {
    const LOCAL: [u64; 8] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1, 0xF2F5_2010, 0xCA45_1A4E];
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|magic| LOCAL.contains(&magic)))
}

/// Elsewhere the kernel says so itself.
#[cfg(not(target_os = "linux"))]
fn is_of_one_kernel(_: &Path) -> bool {
    true
}

/// Copies up to a chunk through memory.
fn copy_chunk<F: File + ?Sized>(into: &F, offset: u64, source: &dyn File, range: Range<u64>) -> io::Result<u64> {
    let mut chunk = vec![0; usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX).min(COPY_BYTES)];
    let length = read_full_at(source, &mut chunk, range.start)?;
    if length == 0 { Ok(0) } else { into.write_at(&chunk[..length], offset).map(|count| count as u64) }
}

/// Nothing where the kernel cannot copy between the two.
#[cfg(target_os = "linux")]
fn copy_by_kernel(into: &std::fs::File, mut offset: u64, source: &dyn File, range: Range<u64>) -> Option<io::Result<u64>> {
    use rustix::io::Errno;
    let source = source.descriptor()?;
    let mut from = range.start;
    let length = usize::try_from(range.end.saturating_sub(range.start).min(KERNEL_COPY_BYTES)).ok()?;
    match rustix::fs::copy_file_range(source, Some(&mut from), into, Some(&mut offset), length) {
        Ok(count) => Some(Ok(count as u64)),
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => None,
        Err(error) => Some(Err(error.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn copy_by_kernel(_: &std::fs::File, _: u64, _: &dyn File, _: Range<u64>) -> Option<io::Result<u64>> {
    None
}

/// Copies all of `range` of `source` to `offset`.
pub(crate) fn copy_all_at(into: &dyn File, mut offset: u64, source: &dyn File, mut range: Range<u64>) -> io::Result<()> {
    while range.start < range.end {
        match into.copy_at(offset, source, range.clone()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                offset += count;
                range.start += count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all_at(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `parts` at the end, with one call where the system takes all of it; `wrote` is told what each call took.
pub(crate) fn append_all(file: &dyn File, mut parts: &mut [IoSlice<'_>], mut wrote: impl FnMut(u64)) -> io::Result<()> {
    // Empty ones at the start go; what is left then holds something, or is nothing.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.append(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                wrote(count as u64);
                IoSlice::advance_slices(&mut parts, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buffer` from `offset` on, as far as the file goes; says how much it got.
pub(crate) fn read_full_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads the bytes in `range` and gives them to `sink`, with the offset of each chunk; ends early where the file does.
pub(crate) fn for_each_chunk(
    file: &dyn File,
    mut range: Range<u64>,
    mut sink: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunk = vec![0; usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX).min(COPY_BYTES)];
    while range.start < range.end {
        let want = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(chunk.len());
        let length = read_full_at(file, &mut chunk[..want], range.start)?;
        if length == 0 {
            break;
        }
        sink(&chunk[..length], range.start)?;
        range.start += length as u64;
    }
    Ok(())
}

/// Makes a folder and those above it that are missing, and calls `about_to_make` with each of them first.
pub(crate) fn create_dirs(fs: &dyn FileSystem, path: &Path, about_to_make: &mut dyn FnMut(&Path)) -> io::Result<()> {
    if fs.stat(path).is_ok() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_dirs(fs, above, about_to_make)?;
    }
    about_to_make(path);
    match fs.create_dir(path) {
        // Another made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Reads a whole file.
pub(crate) fn read_all(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.stat()?.size).map_err(io::Error::other)?];
    let length = read_full_at(&*file, &mut bytes, 0)?;
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_is_copied_into_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(&from, &bytes).expect("written");
        std::fs::write(&to, b"start").expect("written");
        let source = RealFs.open(&from, OpenMode::Read).expect("opens");
        let into = RealFs.open(&to, OpenMode::InPlace).expect("opens");
        copy_all_at(&*into, 5, &*source, 7..2_500_000).expect("copied");
        let copied = std::fs::read(&to).expect("read");
        assert_eq!(copied, [b"start", &bytes[7..2_500_000]].concat());
        let beyond = copy_all_at(&*into, 0, &*source, 2_999_999..3_000_001).expect_err("there is no such byte");
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
