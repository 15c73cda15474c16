//! The text of a log, whatever files it is in.
//!
//! ```text
//!   sessions/YYYY/MM/DD/<id>.jsonl        all of it, or what came after the cold part
//!   sessions/YYYY/MM/DD/<id>.jsonl.zst    a cold session, or its cold part
//!   archive/YYYY/MM/DD/<id>.jsonl.zst     an archived session
//! ```
//!
//! Everybody reads one [`File`], with one run of offsets: the cold part unpacked, then the other file. Only writers know where that begins
//! ([`Text::base`]), because they write into it.
//!
//! Both files are there in three cases, told apart by the lines where they meet ([`Meeting`]). A `.jsonl` that begins with event 0 is the
//! whole session, and wins over whatever is beside it: a crash came before it could be removed, or in the middle of all. One that goes on
//! where the cold part ends is a cold session that was resumed. One whose last line the cold part has too was packed into that, with all that
//! is before it, and the crash came before it was removed.

use super::engine::Core;
use super::frames::Frames;
use crate::error::StoreError;
use crate::fs::{File, OpenMode, Stat, read_full_at};
use crate::id::SessionId;
use crate::line;
use crate::scan::LINE_BYTES_MAX;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of a file is looked at where it meets the other one: more than an `opened` and a `closed` take.
const MEETING_BYTES: usize = 64 << 10;

/// The files of a log, as they were found.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The one that is appended to.
    pub(super) hot: Option<Stat>,
    pub(super) cold: Option<Stat>,
    pub(super) is_archived: bool,
}

impl Files {
    /// Finds them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where there is none.
    pub(super) fn find(core: &Core, id: SessionId) -> Result<Self, StoreError> {
        let hot = stat(core, &core.layout.log(id))?;
        let cold = stat(core, &core.layout.cold(id))?;
        if hot.is_some() || cold.is_some() {
            return Ok(Self { hot, cold, is_archived: false });
        }
        match stat(core, &core.layout.archived(id))? {
            Some(archived) => Ok(Self { hot: None, cold: Some(archived), is_archived: true }),
            // It may have been packed between the two looks.
            None => match stat(core, &core.layout.log(id))? {
                Some(hot) => Ok(Self { hot: Some(hot), cold: None, is_archived: false }),
                None => Err(StoreError::NotFound(id)),
            },
        }
    }

    /// Whether these are the same files in the same places, whatever was appended.
    pub(super) fn are(&self, other: &Self) -> bool {
        let identity = |stat: &Option<Stat>| stat.as_ref().map(|stat| (stat.device, stat.inode));
        let found = |files: &Self| (identity(&files.hot), identity(&files.cold), files.is_archived);
        found(self) == found(other)
    }

    /// The bytes that they take on the disk.
    pub(super) fn bytes(&self) -> u64 {
        [&self.hot, &self.cold].into_iter().flatten().map(|stat| stat.size).sum()
    }

    fn cold_path(&self, core: &Core, id: SessionId) -> PathBuf {
        if self.is_archived { core.layout.archived(id) } else { core.layout.cold(id) }
    }
}

/// What is at `path`; nothing where there is nothing.
fn stat(core: &Core, path: &Path) -> Result<Option<Stat>, StoreError> {
    match core.fs().stat(path) {
        Ok(stat) if stat.is_file => Ok(Some(stat)),
        // To open a pipe would wait for its other end.
        Ok(_) => Err(StoreError::io("open", path)(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    }
}

/// What the files of a log are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// There is only the one that is appended to, or it is all of the session.
    Hot,
    /// There is only the cold one, or it has all of the other.
    Cold {
        /// The other is there, and can go.
        has_leftover: bool,
    },
    /// First the cold one, then the other.
    Both,
}

/// The text of a log, open.
pub(super) struct Text {
    /// Reads all of it, and writes what can be written.
    pub(super) file: Arc<dyn File>,
    /// Where the file begins that is appended to.
    pub(super) base: u64,
    pub(super) files: Files,
    pub(super) meeting: Meeting,
    /// The cold part.
    frames: Option<Arc<Frames>>,
    is_unreadable: bool,
}

impl Text {
    /// The text of a log that has no name yet.
    pub(super) fn of_file(file: Arc<dyn File>) -> Self {
        let files = Files { hot: None, cold: None, is_archived: false };
        Self { file, base: 0, files, meeting: Meeting::Hot, frames: None, is_unreadable: false }
    }

    /// The text of frames that have no name yet.
    pub(super) fn of_frames(frames: Frames) -> Self {
        let frames = Arc::new(frames);
        Self {
            file: Arc::new(Joined { cold: Arc::clone(&frames), hot: None }),
            base: frames.len(),
            files: Files { hot: None, cold: None, is_archived: false },
            meeting: Meeting::Cold { has_leftover: false },
            frames: Some(frames),
            is_unreadable: false,
        }
    }

    /// Whether a part of it is missing, by what was read so far.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_unreadable || self.frames.as_ref().is_some_and(|frames| frames.is_damaged())
    }

    /// Opens the log of `id`. A cold one can only be read.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or why it cannot be opened.
    pub(super) fn open(core: &Core, id: SessionId, mode: OpenMode) -> Result<Self, StoreError> {
        let mut tries = 0;
        loop {
            let files = Files::find(core, id)?;
            tries += 1;
            match Self::open_files(core, id, mode, files) {
                // It was packed, archived or restored meanwhile.
                Err(StoreError::NotFound(_)) if tries < 3 => {}
                text => return text,
            }
        }
    }

    /// Whether there is a cold file beside it that does not begin as it does. Then it was not made of it, and may be all that there is of
    /// something else.
    ///
    /// # Errors
    /// Why one of them cannot be read.
    pub(super) fn hides_another(&self, core: &Core, id: SessionId) -> Result<bool, StoreError> {
        if self.meeting != Meeting::Hot || self.files.cold.is_none() {
            return Ok(false);
        }
        let Ok(cold) = open_cold(core, id, &self.files)? else { return Ok(true) };
        let cold = Joined { cold: Arc::new(cold), hot: None };
        let first = |file: &dyn File| first_line(file).map_err(StoreError::io("read", core.layout.log(id)));
        Ok(!is_same_body(&first(&*self.file)?, &first(&cold)?))
    }

    fn open_files(core: &Core, id: SessionId, mode: OpenMode, files: Files) -> Result<Self, StoreError> {
        let open = |path: PathBuf, mode| core.open(&path, mode).map_err(|error| not_found_or("open", id, &path, error));
        let hot = files.hot.map(|_| open(core.layout.log(id), mode)).transpose()?;
        let cold = match files.cold {
            Some(_) => Some(open_cold(core, id, &files)?),
            None => None,
        };
        let of_hot = |file, is_unreadable| Self {
            file,
            base: 0,
            files: files.clone(),
            meeting: Meeting::Hot,
            frames: None,
            is_unreadable,
        };
        let path = files.cold_path(core, id);
        let (hot, cold) = match (hot, cold) {
            (None, None) => return Err(StoreError::NotFound(id)),
            (Some(hot), None) => return Ok(of_hot(hot, false)),
            (hot, Some(cold)) => match (hot, cold) {
                (Some(hot), _) if begins_session(&*hot).map_err(StoreError::io("read", core.layout.log(id)))? => {
                    return Ok(of_hot(hot, false));
                }
                // To go on without what cannot be read just now would hide it for good.
                (_, Err(error)) if mode != OpenMode::Read && !is_garbage(&error) => return Err(error),
                (Some(hot), Err(error)) => {
                    // What can be read is read; what is missing shows as a gap.
                    tracing::warn!(session = %id, %error, "the cold part of the session cannot be read");
                    return Ok(of_hot(hot, true));
                }
                (hot, cold) => (hot, Arc::new(cold?)),
            },
        };
        let has_leftover = match &hot {
            Some(hot) => was_packed(&**hot, &cold).map_err(StoreError::io("read", path))?,
            None => false,
        };
        let meeting = if hot.is_none() || has_leftover { Meeting::Cold { has_leftover } } else { Meeting::Both };
        let hot = hot.filter(|_| meeting == Meeting::Both);
        let (base, frames) = (cold.len(), Some(Arc::clone(&cold)));
        Ok(Self { file: Arc::new(Joined { cold, hot }), base, files, meeting, frames, is_unreadable: false })
    }
}

fn not_found_or(action: &'static str, id: SessionId, path: &Path, error: io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::NotFound { StoreError::NotFound(id) } else { StoreError::io(action, path)(error) }
}

/// The cold part; the inner error says that it cannot be read, the outer one that it is gone.
fn open_cold(core: &Core, id: SessionId, files: &Files) -> Result<Result<Frames, StoreError>, StoreError> {
    let path = files.cold_path(core, id);
    match core.open(&path, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NotFound(id)),
        opened => Ok(opened.and_then(Frames::open).map_err(StoreError::io("read", path))),
    }
}

/// Whether a cold part is no such thing, whoever reads it: then it will not be readable at another time.
fn is_garbage(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::InvalidData)
}

/// Whether a file has the session's first event.
fn begins_session(hot: &dyn File) -> io::Result<bool> {
    let mut start = vec![0; MEETING_BYTES];
    let length = read_full_at(hot, &mut start, 0)?;
    start.truncate(length);
    // A damaged first line may still say this much.
    let first = start.split(|byte| *byte == b'\n').find_map(line::decode).map(|record| record.seq());
    Ok(first.is_some_and(|seq| seq <= 1) || start.starts_with(b"{\"seq\":0,"))
}

fn first_line(file: &dyn File) -> io::Result<Vec<u8>> {
    let mut start = vec![0; MEETING_BYTES];
    let length = read_full_at(file, &mut start, 0)?;
    start.truncate(length);
    start.truncate(start.iter().position(|byte| *byte == b'\n').unwrap_or(length));
    Ok(start)
}

/// Whether all of `hot` is in the cold part. Lines are only ever appended to it, so the last one tells for all: whoever packed it had the session, and
/// appended nothing behind that.
fn was_packed(hot: &dyn File, cold: &Arc<Frames>) -> io::Result<bool> {
    let cold = Joined { cold: Arc::clone(cold), hot: None };
    let Some(line) = LinesBack::new(hot)?.next()? else { return Ok(false) };
    let Some(seq) = line::decode(&line).map(|record| record.seq()) else { return Ok(false) };
    let mut before = LinesBack::new(&cold)?;
    while let Some(other) = before.next()? {
        match line::decode(&other).map(|record| record.seq()) {
            Some(other_seq) if other_seq < seq => return Ok(false),
            Some(_) if is_same_body(&other, &line) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// The whole lines of a file, from its end back to the first one that is longer than any may be.
struct LinesBack<'a> {
    file: &'a dyn File,
    /// Where `bytes` begins: the end of what is yet to be given.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> LinesBack<'a> {
    fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Self { file, start: file.stat()?.size, bytes: Vec::new() })
    }

    /// The one before, without its newline; nothing where there is none, or the file does not end in a newline.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(text) = self.bytes.strip_suffix(b"\n") {
                let newline = text.iter().rposition(|byte| *byte == b'\n');
                if newline.is_some() || self.start == 0 {
                    let line = self.bytes.split_off(newline.map_or(0, |at| at + 1));
                    return Ok(line.strip_suffix(b"\n").map(<[u8]>::to_vec));
                }
            } else if !self.bytes.is_empty() {
                return Ok(None);
            }
            if self.start == 0 || self.bytes.len() > LINE_BYTES_MAX {
                return Ok(None);
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        // Twice as much each time, so that a long line is not copied often.
        let size = self.start.min(self.bytes.len().max(MEETING_BYTES) as u64);
        self.start -= size;
        let mut chunk = vec![0; size as usize]; // At most twice the longest line.
        if read_full_at(self.file, &mut chunk, self.start)? < chunk.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        chunk.append(&mut self.bytes);
        self.bytes = chunk;
        Ok(())
    }
}

/// Whether two lines say the same, whatever they continue.
fn is_same_body(one: &[u8], other: &[u8]) -> bool {
    matches!((line::claim(one), line::claim(other)), (Some((one, _)), Some((other, _))) if one == other)
}

/// A cold part, and what came after it.
struct Joined {
    cold: Arc<Frames>,
    hot: Option<Arc<dyn File>>,
}

impl Joined {
    fn hot(&self) -> io::Result<&dyn File> {
        self.hot.as_deref().ok_or_else(|| io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Who locks a log locks the file that is appended to, where there is one.
    fn lockable(&self) -> &dyn File {
        self.hot.as_deref().unwrap_or(&**self.cold.file())
    }
}

impl File for Joined {
    fn stat(&self) -> io::Result<Stat> {
        match &self.hot {
            Some(hot) => hot.stat().map(|stat| Stat { size: self.cold.len() + stat.size, ..stat }),
            None => self.cold.file().stat().map(|stat| Stat { size: self.cold.len(), ..stat }),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match (offset.checked_sub(self.cold.len()), &self.hot) {
            (None, _) => self.cold.read_at(buffer, offset),
            (Some(offset), Some(hot)) => hot.read_at(buffer, offset),
            (Some(_), None) => Ok(0),
        }
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.hot()?.append(parts)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let offset = offset.checked_sub(self.cold.len()).ok_or(io::ErrorKind::ReadOnlyFilesystem)?;
        self.hot()?.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.hot()?.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.lockable().try_lock()
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.lockable().is_locked()
    }

    fn unlock(&self) -> io::Result<()> {
        self.lockable().unlock()
    }

    fn forget_cached(&self) {
        self.cold.file().forget_cached();
        if let Some(hot) = &self.hot {
            hot.forget_cached();
        }
    }
}
