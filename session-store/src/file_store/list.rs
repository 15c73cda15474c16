//! The list of sessions: of every log in `sessions/YYYY/MM/DD/` the last line, which says all that a list shows where the session was
//! closed; else the log is folded from its newest checkpoint on. What is no log is passed over, what cannot be read is listed as damaged.
//! Where a log is as it was when it was last listed, its row of the list's index ([`super::list_index`]) spares reading it.

use super::engine::{Core, Holding};
use super::layout::Layout;
use super::list_index::{self, ListIndex, Listed};
use super::tail::{self, Log};
use super::text::{Files, Text};
use super::{lock, owner, read};
use crate::error::StoreError;
use crate::event::{Closed, Entry, Event, Summary};
use crate::fs::{OpenMode, Stat};
use crate::id::SessionId;
use crate::line::{Decoded, claim, decode};
use crate::store::{Holder, SessionListState, SessionSummary};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much of the end of a log is read for its last line.
const END_BYTES: u64 = 2 << 10;

pub(super) fn list(core: &Arc<Core>) -> Result<Vec<SessionSummary>, StoreError> {
    let listed = listed(core, &ids(core, &core.layout.sessions())?, &ListIndex::read(core));
    list_index::write_if_worth(core, &listed);
    Ok(sorted(listed))
}

/// The sessions in the archive, and nowhere else.
pub(super) fn list_archived(core: &Arc<Core>) -> Result<Vec<SessionSummary>, StoreError> {
    Ok(sorted(listed(core, &archived(core)?, &ListIndex::default())))
}

/// How many they are. No log is read.
pub(super) fn archived_count(core: &Arc<Core>) -> Result<usize, StoreError> {
    archived(core).map(|found| found.len())
}

fn archived(core: &Core) -> Result<Vec<Found>, StoreError> {
    let mut found = ids(core, &core.layout.archive())?;
    found.retain(|found| Files::find(core, found.id).is_ok_and(|files| files.is_archived));
    Ok(found)
}

fn sorted(listed: Vec<Listed>) -> Vec<SessionSummary> {
    let mut summaries: Vec<SessionSummary> = listed.into_iter().map(|listed| listed.summary).collect();
    summaries.sort_by_key(|summary| (std::cmp::Reverse(summary.updated_at), summary.id));
    summaries
}

fn listed(core: &Arc<Core>, found: &[Found], index: &ListIndex) -> Vec<Listed> {
    in_parallel(found, |found| listed_one(core, found, index))
}

/// What `work` makes of `items`, in no order, by some threads.
fn in_parallel<T: Sync, R: Send, I: IntoIterator<Item = R>>(items: &[T], work: impl Fn(&T) -> I + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || std::iter::from_fn(|| items.get(next.fetch_add(1, Ordering::Relaxed))).flat_map(&work).collect::<Vec<_>>();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    std::thread::scope(|scope| {
        let start = || std::thread::Builder::new().name("session-list".to_owned()).spawn_scoped(scope, worker).ok();
        let others: Vec<_> = (1..threads).filter_map(|_| start()).collect();
        let mut results = worker();
        for other in others {
            // A panic was reported by its own thread; what it had is missing from the list.
            results.extend(other.join().unwrap_or_default());
        }
        results
    })
}

/// A session whose log is there.
struct Found {
    id: SessionId,
    /// Its file before it is read; absent where a part of it is cold, and another is not.
    stat: Option<Stat>,
}

fn ids(core: &Core, root: &Path) -> Result<Vec<Found>, StoreError> {
    match core.fs().read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("read", root))?,
    };
    let days = folders(core, root).flat_map(|year| folders(core, &year)).flat_map(|month| folders(core, &month));
    let days: Vec<PathBuf> = days.collect();
    let mut found = in_parallel(&days, |day| logs(core, day));
    found.sort_unstable_by_key(|found| found.id);
    found.dedup_by(|next, first| {
        let is_same = next.id == first.id;
        if is_same {
            first.stat = None;
        }
        is_same
    });
    Ok(found)
}

/// The folders in `path` that are named by a number.
fn folders(core: &Core, path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let path = path.to_path_buf();
    let is_number = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let entries = core.fs().read_dir(&path).unwrap_or_default().into_iter();
    entries
        .filter(move |entry| entry.is_dir && entry.name.to_str().is_some_and(is_number))
        .map(move |entry| path.join(entry.name))
}

/// The logs in the folder of a day, by their names. One that lies in another folder than its id says is not found by its id.
fn logs(core: &Core, day: &Path) -> impl Iterator<Item = Found> + use<> {
    let entries = core.fs().read_dir_stat(day).unwrap_or_default().into_iter();
    let layout = core.layout.clone();
    let day = day.to_path_buf();
    // Those of a folder have one date, or few.
    let mut checked = None;
    entries.filter_map(move |(entry, stat)| {
        let name = entry.name.to_str()?;
        let (name, is_cold) = name.strip_suffix(".zst").map_or((name, false), |name| (name, true));
        let name = name.strip_suffix(".jsonl")?;
        let id: SessionId = name.parse().ok()?;
        let date = id.created_at().date();
        let place = match checked {
            Some((before, place)) if before == date => place,
            _ => Place::of(&layout, id, &day),
        };
        checked = Some((date, place));
        let is_here = matches!((place, is_cold), (Place::Sessions, _) | (Place::Archive, true));
        // The same id in capitals is another name.
        let is_its_name = name == id.uuid().hyphenated().encode_lower(&mut [0; 36]);
        (!entry.is_dir && is_here && is_its_name).then_some(Found { id, stat })
    })
}

/// What a folder of a day is to a session.
#[derive(Clone, Copy)]
enum Place {
    Sessions,
    Archive,
    Elsewhere,
}

impl Place {
    fn of(layout: &Layout, id: SessionId, day: &Path) -> Self {
        if layout.day(id) == day {
            Self::Sessions
        } else if layout.archived(id).parent() == Some(day) {
            Self::Archive
        } else {
            Self::Elsewhere
        }
    }
}

/// A session by its row, or else by its log. Nothing where it is gone by now.
fn listed_one(core: &Arc<Core>, found: &Found, index: &ListIndex) -> Option<Listed> {
    let Found { id, stat } = *found;
    match stat.as_ref().and_then(|stat| index.get(id, stat)).filter(|_| !is_ours(core, id)) {
        Some(summary) => Some(Listed { summary, stat, was_read: false }),
        // What is written from here on makes the row stale, never wrong.
        None => summary(core, id).map(|summary| Listed { summary, stat, was_read: true }),
    }
}

/// Nothing where the session is gone by now.
fn summary(core: &Arc<Core>, id: SessionId) -> Option<SessionSummary> {
    if let Ok(Some(summary)) = closed_summary(core, id) {
        return Some(summary);
    }
    match read::fold_for_list(core, id) {
        Ok(folded) => Some(summary_of(core, id, folded)),
        Err(StoreError::NotFound(_)) => None,
        Err(_) => Some(SessionSummary { state: SessionListState::Damaged, ..unknown(id) }),
    }
}

/// What the last line says, where the session was closed with it.
fn closed_summary(core: &Core, id: SessionId) -> Result<Option<SessionSummary>, StoreError> {
    let text = Text::open(core, id, OpenMode::Read)?;
    let length = text.file.stat().map_err(StoreError::io("look at", core.layout.log(id)))?.size;
    let log = Log { core, id, file: &*text.file };
    let start = length.saturating_sub(END_BYTES);
    let end = log.read(start, length - start)?;
    let Some(line) = end.strip_suffix(b"\n") else { return Ok(None) };
    let Some(before) = line.iter().rposition(|byte| *byte == b'\n').map(|newline| newline + 1) else { return Ok(None) };
    let line = &line[before..];
    let continues = |(body, crc)| tail::seed_before(&end[..before]).is_some_and(|seed| crc32c::crc32c_append(seed, body) == crc);
    if !claim(line).is_some_and(continues) {
        return Ok(None);
    }
    let Some(Decoded::Entry(Entry { at, event: Event::Closed(Closed { summary: Some(closed), .. }), .. })) = decode(line) else {
        return Ok(None);
    };
    if closed.offset != start + before as u64 {
        return Ok(None);
    }
    let state = if is_ours(core, id) { SessionListState::Open } else { SessionListState::Idle };
    let Summary { name, title, cwd, model, created_at, messages, .. } = *closed;
    let (updated_at, bytes) = (closed.updated_at.unwrap_or(at), text.files.bytes());
    Ok(Some(SessionSummary { id, name, title, cwd, model, created_at, updated_at, messages, bytes, state }))
}

fn summary_of(core: &Core, id: SessionId, folded: read::Folded) -> SessionSummary {
    let state = if folded.events == 0 {
        SessionListState::Damaged
    } else if is_open(core, id, &folded) {
        SessionListState::Open
    } else {
        SessionListState::Idle
    };
    let unknown = unknown(id);
    let model = folded.state.model().map(str::to_owned);
    let fold = folded.state;
    SessionSummary {
        id,
        name: fold.name,
        title: fold.title,
        cwd: fold.cwd,
        model,
        created_at: fold.created_at.unwrap_or(unknown.created_at),
        updated_at: fold.updated_at.unwrap_or(unknown.updated_at),
        messages: fold.messages,
        bytes: Files::find(core, id).map_or(folded.length, |files| files.bytes()),
        state,
    }
}

fn is_open(core: &Core, id: SessionId, folded: &read::Folded) -> bool {
    is_ours(core, id) || !matches!(owner::holder_of(core, id, &folded.state), Holder::Nobody)
}

/// Whether this process has it open; its first line may not be written yet.
fn is_ours(core: &Core, id: SessionId) -> bool {
    matches!(lock(&core.sessions).get(&id), Some(Holding::Open(_)))
}

fn unknown(id: SessionId) -> SessionSummary {
    SessionSummary {
        id,
        name: None,
        title: None,
        cwd: None,
        model: None,
        created_at: id.created_at(),
        updated_at: id.created_at(),
        messages: 0,
        bytes: 0,
        state: SessionListState::Idle,
    }
}
