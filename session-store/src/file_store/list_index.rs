//! The list's index: what the logs said when they were last listed, in one small file, `<home>/index/list`.
//!
//! It only saves reading. Every listing walks the folders; a row is taken for a log only where the log's file is the very one, as long and as old as
//! when it was read; all other logs are read. A session that this file lacks, or a file that is damaged, of another version or not writable, costs time and nothing
//! else. It has a row for each session that nobody was writing.
//!
//! ```text
//!   magic   8 bytes, the version in the last
//!   rows    id 16; device, inode, size, modified 8 each; created, updated, messages, bytes 8 each;
//!           name, title, cwd, model: length 4 (all ones: absent), then UTF-8
//!   crc     CRC-32C of all before it, 4; numbers are little-endian
//! ```

use super::engine::Core;
use crate::fs::{self, OpenMode, Stat, append_all};
use crate::id::SessionId;
use crate::store::{SessionListState, SessionSummary};
use crate::time::Timestamp;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::PathBuf;
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"lh-list\x01";
/// A file that is longer is not ours: there is room for more than a hundred thousand sessions.
const BYTES_MAX: u64 = 64 << 20;
/// How many logs must have been read in a listing before the file is written again.
const WORTH_WRITING: usize = 64;
/// About how long a row is.
const ROW_BYTES: usize = 200;
/// The length of a text that is absent.
const ABSENT: u32 = u32::MAX;

/// Which file a row was read from, and how it was then: device, inode, size, time of the last change.
type Stamp = [u64; 4];

fn stamp(stat: &Stat) -> Stamp {
    [stat.device, stat.inode, stat.size, stat.modified_ns.cast_unsigned()]
}

/// A session of the list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listed {
    pub(super) summary: SessionSummary,
    /// Its file before it was read.
    pub(super) stat: Option<Stat>,
    /// Whether its log was read, as there was no row for it.
    pub(super) was_read: bool,
}

/// The rows by their sessions.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ListIndex {
    bytes: Vec<u8>,
    /// What of a row is behind its stamp.
    rows: HashMap<SessionId, (Stamp, Range<usize>)>,
}

impl ListIndex {
    /// What there is of it.
    pub(super) fn read(core: &Core) -> Self {
        let path = path(core);
        let may_be_ours = core.fs().stat(&path).is_ok_and(|stat| stat.is_file && stat.size <= BYTES_MAX);
        let bytes = if may_be_ours { fs::read_all(core.fs(), &path).unwrap_or_default() } else { Vec::new() };
        decode(bytes).unwrap_or_default()
    }

    /// The row of a session whose file is as it was.
    pub(super) fn get(&self, id: SessionId, stat: &Stat) -> Option<SessionSummary> {
        let (_, row) = self.rows.get(&id).filter(|(seen, _)| *seen == stamp(stat))?;
        summary(id, self.bytes.get(row.clone())?)
    }
}

/// Writes the file again where many logs had to be read. Nothing is told where that fails: the next listing reads the logs.
pub(super) fn write_if_worth(core: &Core, listed: &[Listed]) {
    let is_new = |listed: &&Listed| listed.was_read && listed.summary.state == SessionListState::Idle;
    if listed.iter().filter(is_new).count() >= WORTH_WRITING
        && let Err(error) = write(core, listed)
    {
        tracing::debug!(%error, "the list's index was not written");
    }
}

/// Replaces the file whole. It is not synced: what a power cut leaves of it has the wrong checksum.
fn write(core: &Core, listed: &[Listed]) -> io::Result<()> {
    let path = path(core);
    let part = path.with_extension("part");
    if let Some(folder) = path.parent() {
        fs::create_dirs(core.fs(), folder, &mut |_| {})?;
    }
    // Left by a process that died, or about to be renamed by another: then what that one renames is cut, and is not read.
    let _ = core.fs().remove_file(&part);
    let file = core.fs().open(&part, OpenMode::CreateNew)?;
    append_all(&*file, &mut [IoSlice::new(&encode(listed))], |_| {})?;
    core.fs().rename(&part, &path)
}

fn path(core: &Core) -> PathBuf {
    core.layout.home().join("index").join("list")
}

fn encode(listed: &[Listed]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for Listed { summary, stat, .. } in listed {
        // Whether a session that is open still is cannot be told from its file.
        let (Some(stat), SessionListState::Idle) = (stat, summary.state) else { continue };
        out.extend_from_slice(summary.id.uuid().as_bytes());
        stamp(stat).iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        for number in [summary.created_at.as_ms(), summary.updated_at.as_ms()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [summary.messages, summary.bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for text in [&summary.name, &summary.title, &summary.cwd, &summary.model] {
            let length = text.as_ref().map_or(ABSENT, |text| u32::try_from(text.len()).unwrap_or(ABSENT));
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(text.as_deref().filter(|_| length != ABSENT).unwrap_or_default().as_bytes());
        }
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Nothing where the bytes are not what [`encode`] wrote.
fn decode(mut bytes: Vec<u8>) -> Option<ListIndex> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let length = body.len();
    bytes.truncate(length);
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut rows = HashMap::with_capacity(length / ROW_BYTES);
    while !rest.is_empty() {
        let id = SessionId::from_uuid(Uuid::from_bytes(take(&mut rest)?));
        let mut number = || take(&mut rest).map(u64::from_le_bytes);
        let stamp = [number()?, number()?, number()?, number()?];
        let start = length - rest.len();
        rest = rest.get(4 * size_of::<u64>()..)?;
        for _ in 0..4 {
            text(&mut rest)?;
        }
        rows.insert(id, (stamp, start..length - rest.len()));
    }
    Some(ListIndex { bytes, rows })
}

/// A summary from what is behind the stamp of its row.
fn summary(id: SessionId, mut row: &[u8]) -> Option<SessionSummary> {
    let mut number = || take(&mut row).map(u64::from_le_bytes);
    let [created, updated, messages, bytes] = [number()?, number()?, number()?, number()?];
    let mut text = || match text(&mut row)? {
        Some(text) => Some(Some(std::str::from_utf8(text).ok()?.to_owned())),
        None => Some(None),
    };
    let (name, title, cwd, model) = (text()?, text()?, text()?, text()?);
    Some(SessionSummary {
        id,
        name,
        title,
        cwd,
        model,
        created_at: Timestamp::from_ms(created.cast_signed()),
        updated_at: Timestamp::from_ms(updated.cast_signed()),
        messages,
        bytes,
        state: SessionListState::Idle,
    })
}

/// The next text, or that it is absent; nothing where the bytes end before it does.
fn text<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = take(rest).map(u32::from_le_bytes)?;
    if length == ABSENT {
        return Some(None);
    }
    let (text, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(Some(text))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(number: u64, state: SessionListState) -> Listed {
        let at = Timestamp::from_ms(1_700_000_000_000 + number.cast_signed());
        let summary = SessionSummary {
            id: SessionId::new(at),
            name: number.is_multiple_of(2).then(|| format!("name {number} 日本")),
            title: Some(String::new()),
            cwd: None,
            model: Some("offline".to_owned()),
            created_at: at,
            updated_at: at,
            messages: number,
            bytes: 7,
            state,
        };
        let stat = Stat { device: 1, inode: number, links: 1, size: 7, modified_ns: -5, is_file: true };
        Listed { summary, stat: Some(stat), was_read: true }
    }

    #[test]
    fn a_row_is_taken_only_for_the_file_that_it_was_read_from() {
        let all: Vec<Listed> = (0..5).map(|number| listed(number, SessionListState::Idle)).collect();
        let index = decode(encode(&all)).expect("sound");
        for Listed { summary, stat, .. } in &all {
            let stat = stat.expect("there");
            assert_eq!(index.get(summary.id, &stat).as_ref(), Some(summary));
            let others = [
                Stat { inode: 99, ..stat },
                Stat { device: 2, ..stat },
                Stat { size: 8, ..stat },
                Stat { modified_ns: -4, ..stat },
            ];
            assert!(others.iter().all(|other| index.get(summary.id, other).is_none()));
        }
    }

    #[test]
    fn only_sessions_that_nobody_writes_have_a_row() {
        let open = listed(1, SessionListState::Open);
        let damaged = listed(2, SessionListState::Damaged);
        assert!(decode(encode(&[open, damaged])).is_some_and(|index| index.rows.is_empty()));
    }

    #[test]
    fn bytes_that_changed_or_are_missing_make_it_no_index() {
        let sound = encode(&[listed(1, SessionListState::Idle), listed(2, SessionListState::Idle)]);
        for at in 0..sound.len() {
            assert_eq!(decode(sound[..at].to_vec()), None, "{at} bytes");
            let mut flipped = sound.clone();
            flipped[at] ^= 0x10;
            assert_eq!(decode(flipped), None, "byte {at}");
        }
        assert_eq!(decode(b"lh-list\x02".to_vec()), None);
    }
}
