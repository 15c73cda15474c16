//! What every state must stand: a store opens it, and what it finds is held against what was promised.
//!
//! Sessions do not know each other, so a session is looked at once for all states in which all that belongs to it is the same.

use crate::cuts::Cut;
use crate::disk::{Disk, Files, Image, Lines, Op, Promise, lines, log_path, seq_of, side};
use crate::workload::{say, soon, store};
use fastrand::Rng;
use session_store::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

/// Of so many states that were new, the recovery of one is cut by a power cut too.
const RECOVERIES_CUT: u64 = 64;

/// A broken promise, in words.
pub(crate) type Broken = String;

/// What is promised of one session at an instant.
#[derive(Clone, Default)]
struct Promised {
    lines: Vec<Arc<Lines>>,
    sides: Vec<String>,
    fate: Existence,
    /// Only the events have to be the same, and not the bytes of the lines.
    is_rewritten: bool,
    is_archived: bool,
    /// Changes with each promise.
    version: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Existence {
    #[default]
    There,
    BeingRemoved,
    Removed,
}

/// What is promised of all sessions.
#[derive(Clone, Default)]
pub(crate) struct Promises {
    sessions: BTreeMap<SessionId, Promised>,
    made: u64,
}

impl Promises {
    fn push(&mut self, promise: &Promise) {
        self.made += 1;
        let (Promise::Durable { id, .. }
        | Promise::Side { id, .. }
        | Promise::Removing(id)
        | Promise::Removed(id)
        | Promise::Rewriting(id)
        | Promise::Archived(id)) = promise;
        let promised = self.sessions.entry(*id).or_default();
        promised.version = self.made;
        match promise {
            Promise::Durable { lines, .. } => promised.lines.push(Arc::new(lines.clone())),
            Promise::Side { sha256, .. } => promised.sides.push(sha256.clone()),
            Promise::Removing(_) => {
                *promised = Promised { fate: Existence::BeingRemoved, version: self.made, ..Promised::default() }
            }
            Promise::Removed(_) => promised.fate = Existence::Removed,
            Promise::Rewriting(_) => (promised.is_rewritten, promised.is_archived) = (true, false),
            Promise::Archived(_) => promised.is_archived = true,
        }
    }
}

/// What a store found of a session.
struct Found {
    delivered: HashMap<Seq, Arc<Entry>>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Different states of a disk.
    pub(crate) states: u64,
    /// Of them, those of which something was new, so that a store opened it.
    pub(crate) opened: u64,
    /// Different states of a session that a store recovered.
    pub(crate) sessions: u64,
    /// States that a power cut during a recovery left.
    pub(crate) second_cuts: u64,
}

#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) counts: Counts,
    /// All lines that were ever written.
    written: HashSet<Vec<u8>>,
    /// Disks that were held against their promises, and sessions that were opened, and those that were held against theirs, by hashes.
    states: HashSet<(u64, u64)>,
    found: HashMap<(SessionId, u64), Arc<Found>>,
    kept: HashSet<(SessionId, u64, u64)>,
    /// Failures are expected.
    glances: bool,
}

impl Checker {
    /// Looks at the states that a power cut during `ops` can leave of a disk that held `base`, `per_cut` at each instant.
    pub(crate) async fn explore(&mut self, base: Image, ops: &[Op], per_cut: usize, rng: &mut Rng) -> Result<(), Broken> {
        self.learn(ops);
        self.walk(base, ops, Promises::default(), per_cut, rng, true).await
    }

    /// Looks only at what is certain, and at all that was done, at each instant of another trace of the same sessions.
    pub(crate) async fn glance(&mut self, base: Image, ops: &[Op]) -> Result<(), Broken> {
        self.learn(ops);
        // The same bytes may be promised more, or less.
        self.states.clear();
        self.glances = true;
        self.walk(base, ops, Promises::default(), 2, &mut Rng::with_seed(0), false).await
    }

    /// Notes the records that were written. What is only written again may be what a crash made of some.
    fn learn(&mut self, ops: &[Op]) {
        for op in ops {
            if let Op::Write { bytes, is_append: true, .. } = op {
                self.written.extend(lines(bytes).map(|(_, line)| line.to_vec()));
            }
        }
    }

    async fn walk(
        &mut self,
        base: Image,
        ops: &[Op],
        mut promises: Promises,
        per_cut: usize,
        rng: &mut Rng,
        cuts_recoveries: bool,
    ) -> Result<(), Broken> {
        let mut cut = Cut::new(base);
        for op in ops {
            cut.push(op);
            if let Op::Promise(promise) = op {
                promises.push(promise);
            }
            // A node that nothing leads to changes nothing.
            if matches!(op, Op::Make { .. }) {
                continue;
            }
            let budget = per_cut.min(2 + 8 * cut.pending());
            for fates in cut.fates(budget, rng) {
                let image = if rng.u8(..8) == 0 { cut.shortened_state(&fates, rng) } else { cut.state(&fates) };
                let recovery = match self.check(&image, &promises).await {
                    Ok(recovery) => recovery,
                    Err(broken) if self.glances => return Err(broken),
                    Err(broken) => return Err(format!("{broken}\n{}\n{}", cut.describe(&fates), keep(&image))),
                };
                let Some(recovery) = recovery.filter(|_| cuts_recoveries && self.counts.opened.is_multiple_of(RECOVERIES_CUT))
                else {
                    continue;
                };
                self.learn(&recovery);
                let before = self.counts.states;
                Box::pin(self.walk(image, &recovery, promises.clone(), 8, rng, false))
                    .await
                    .map_err(|broken| format!("a power cut during the recovery: {broken}"))?;
                self.counts.second_cuts += self.counts.states - before;
            }
        }
        Ok(())
    }

    /// Holds a disk against what was promised. Gives what a store did to recover it, where it had to look.
    async fn check(&mut self, image: &Image, promises: &Promises) -> Result<Option<Vec<Op>>, Broken> {
        let (hashes, whole) = image.hashes();
        if !self.states.insert((whole, promises.made)) {
            return Ok(None);
        }
        self.counts.states += 1;
        let is_new =
            |(id, hash): &(&SessionId, &u64)| Files::of(image, **id).exist() && !self.found.contains_key(&(**id, **hash));
        let new: BTreeSet<SessionId> = hashes.iter().filter(is_new).map(|(id, _)| *id).collect();
        let mut recovery = None;
        if !new.is_empty() {
            self.counts.opened += 1;
            let disk = Disk::new(image.clone());
            let recoverer = Recovery { store: store(&disk, "boot 2"), disk, written: &self.written };
            let is_listed = |id: &SessionId| Files::of(image, *id).are_listed();
            recoverer.list(&hashes.keys().copied().filter(is_listed).collect()).await?;
            for id in new {
                let found = recoverer.recover(id).await.map_err(|broken| format!("session {id}: {broken}"))?;
                self.counts.sessions += 1;
                self.found.insert((id, hashes[&id]), Arc::new(found));
            }
            recovery = Some(recoverer.disk.take_ops());
        }
        for (id, promised) in &promises.sessions {
            let hash = hashes.get(id).copied().unwrap_or(0);
            if self.kept.insert((*id, hash, promised.version)) {
                self.hold(image, *id, hash, promised).map_err(|broken| format!("session {id}: {broken}"))?;
            }
        }
        Ok(recovery)
    }

    /// Holds one session against what was promised of it.
    fn hold(&self, image: &Image, id: SessionId, hash: u64, promised: &Promised) -> Result<(), Broken> {
        let files = Files::of(image, id);
        match promised.fate {
            Existence::Removed if files.exist() => return Err(format!("it was removed, and is there: {files:?}")),
            Existence::Removed | Existence::BeingRemoved => return Ok(()),
            Existence::There if promised.lines.is_empty() => return Ok(()),
            Existence::There if !files.exist() => return Err("it had durable events, and is gone".to_owned()),
            Existence::There if promised.is_archived && files.are_listed() => {
                return Err(format!("it was archived, and is not only in the archive: {files:?}"));
            }
            Existence::There => {}
        }
        let Some(found) = self.found.get(&(id, hash)) else { return Err("it was not looked at".to_owned()) };
        let log = image.contents(&log_path(id));
        for (offset, line) in promised.lines.iter().flat_map(|lines| lines.iter()) {
            let seq = seq_of(line).unwrap_or_default();
            let is_in_place = log.as_ref().is_some_and(|log| log.bytes.get(*offset..offset + line.len()) == Some(line));
            if !promised.is_rewritten && !is_in_place {
                return Err(format!("event {seq} was durable, and its line is not there"));
            }
            let entry = found.delivered.get(&seq).filter(|entry| entry.sound);
            let is_left_out = entry.is_none_or(|entry| matches!(entry.event, Event::Compacted(_)));
            if is_left_out && promised.is_rewritten && may_be_left_out(line) {
                continue;
            }
            let Some(entry) = entry else {
                return Err(format!("event {seq} was durable, and is not delivered as sound"));
            };
            let is_it = match Entry::read_line(line) {
                Some(expected) => entry.event == expected.event,
                // Its fields are in a side file.
                None => !matches!(entry.event, Event::Unknown(_)),
            };
            check(is_it, || format!("event {seq} was durable, and is not what is delivered: {entry:?}"))?;
        }
        for sha256 in &promised.sides {
            if side(image, id, sha256).is_none_or(|side| sha256_hex(&side.bytes) != *sha256) {
                return Err(format!("the side file {sha256} was durable, and is gone or damaged"));
            }
        }
        Ok(())
    }
}

/// Whether a line is one that a cold session does without: a later one has all that it says, or it is a cache.
fn may_be_left_out(line: &[u8]) -> bool {
    let starts = |kind: &str| line.windows(kind.len()).take(80).any(|window| window == kind.as_bytes());
    ["\"type\":\"assistant.text\"", "\"type\":\"assistant.reasoning\"", "\"type\":\"checkpoint\""].into_iter().any(starts)
}

/// A store that opens what is left.
struct Recovery<'a> {
    disk: Disk,
    store: FileStore,
    written: &'a HashSet<Vec<u8>>,
}

impl Recovery<'_> {
    async fn list(&self, expected: &HashSet<SessionId>) -> Result<(), Broken> {
        let list = told("list", self.store.list()).await?;
        let listed: HashSet<SessionId> = list.iter().map(|summary| summary.id).collect();
        check(list.len() == listed.len() && listed == *expected, || {
            format!("{expected:?} are there, and {listed:?} are listed")
        })?;
        check(list.iter().all(|summary| summary.state != SessionListState::Open), || "nobody is left who holds any".to_owned())
    }

    /// Reads a session, opens it, says something, reads it again, and opens it once more as after a `kill -9`.
    async fn recover(&self, id: SessionId) -> Result<Found, Broken> {
        let before = self.text(id).await?;
        self.disk.promises_begin_at(id, self.disk.image().contents(&log_path(id)).map_or(0, |log| log.bytes.len()));
        if !Files::of(&self.disk.image(), id).are_listed() {
            // It leaves the archive now.
            self.disk.promise(Promise::Rewriting(id));
        }
        let loaded = told("load", self.store.load(id)).await?;
        check(loaded.holder == Holder::Nobody, || format!("nobody holds it, but {:?}", loaded.holder))?;
        let delivered = self.read(&self.store, id).await?;
        self.all_whole_lines_are_there(&before, &delivered)?;
        let verified = told("verify", self.store.verify(id)).await?;

        let opened = told("open", self.store.open(id)).await?;
        let mut state = opened.state;
        let said = opened.log.append(say("after the cut")).map_err(|error| format!("it takes no event: {error}"))?;
        state.apply(&said);
        told("durable", opened.log.durable(said.seq)).await?;
        self.disk.durable(id, said.seq);
        check(told("load", self.store.load(id)).await?.state == state, || "it is not loaded as it was live".to_owned())?;
        let after = self.read(&self.store, id).await?;
        check(after.get(&said.seq).is_some_and(|entry| **entry == *said), || "what was said is not read".to_owned())?;
        self.nothing_was_lost(&delivered, &after)?;
        self.no_byte_changed(&before, &self.text(id).await?)?;
        self.is_opened_again(id, &after).await?;

        told("close", opened.log.close()).await?;
        let left = told("verify", self.store.verify(id)).await?;
        self.nothing_new_is_wrong(&verified, &left)?;
        if !left.ok {
            self.repair(id, &after).await?;
        }
        Ok(Found { delivered })
    }

    async fn repair(&self, id: SessionId, before: &HashMap<Seq, Arc<Entry>>) -> Result<(), Broken> {
        self.disk.promise(Promise::Rewriting(id));
        let repair = told("repair", self.store.repair(id, Arc::new(|_| {}))).await?;
        let left = told("verify", self.store.verify(id)).await?.problems;
        check(left.len() == repair.left(), || format!("{repair:?} left {left:?}"))?;
        let mut before = before.clone();
        // They are caches, of places that are no longer right.
        before.retain(|_, entry| !matches!(entry.event, Event::Checkpoint(_)));
        self.nothing_was_lost(&before, &self.read(&self.store, id).await?)
    }

    /// The log, whatever files it is in.
    async fn text(&self, id: SessionId) -> Result<Vec<u8>, Broken> {
        let mut log = told("raw_log", self.store.raw_log(id)).await?;
        let mut text = Vec::new();
        log.read_to_end(&mut text).map_err(|error| format!("the raw log cannot be read: {error}"))?;
        Ok(text)
    }

    async fn read(&self, store: &FileStore, id: SessionId) -> Result<HashMap<Seq, Arc<Entry>>, Broken> {
        let mut reader = told("read", store.read(id, 0)).await?;
        let mut entries: HashMap<Seq, Arc<Entry>> = HashMap::new();
        while let Some(entry) = told("read on", reader.next()).await? {
            // A sound one may follow an unchecked one of the same `seq`.
            if entries.get(&entry.seq).is_none_or(|other| !other.sound) {
                entries.insert(entry.seq, entry);
            }
        }
        Ok(entries)
    }

    /// Every record that came to the disk whole is an event of the session, whatever stands around it.
    fn all_whole_lines_are_there(&self, log: &[u8], delivered: &HashMap<Seq, Arc<Entry>>) -> Result<(), Broken> {
        for (offset, line) in lines(log).filter(|(_, line)| self.written.contains(*line)) {
            let seq = seq_of(line).unwrap_or_default();
            let Some(entry) = delivered.get(&seq) else {
                return Err(format!("the record {seq} at {offset} is whole and is not delivered"));
            };
            if let Some(expected) = Entry::read_line(line) {
                check(entry.event == expected.event, || {
                    format!("the record {seq} at {offset} is not what is delivered: {entry:?}")
                })?;
            }
        }
        Ok(())
    }

    fn nothing_was_lost(&self, before: &HashMap<Seq, Arc<Entry>>, after: &HashMap<Seq, Arc<Entry>>) -> Result<(), Broken> {
        for (seq, entry) in before {
            let kept = after.get(seq).is_some_and(|kept| kept.event == entry.event && (kept.sound || !entry.sound));
            check(kept, || format!("the recovery lost event {seq}: {:?}", entry.event))?;
        }
        Ok(())
    }

    /// Only what stands after the last newline may have been blanked.
    fn no_byte_changed(&self, before: &[u8], after: &[u8]) -> Result<(), Broken> {
        let whole = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        check(after.len() >= before.len() && after[..whole] == before[..whole], || "the recovery changed a line".to_owned())?;
        let fragment = &after[whole..before.len()];
        let is_kept = fragment == &before[whole..] || fragment.iter().all(|byte| *byte == b' ');
        check(is_kept, || "the recovery changed what stands after the last newline".to_owned())
    }

    /// Another process finds the same, and goes on.
    async fn is_opened_again(&self, id: SessionId, expected: &HashMap<Seq, Arc<Entry>>) -> Result<(), Broken> {
        let disk = Disk::new(self.disk.image());
        let store = store(&disk, "boot 2");
        let again = told("open again", store.open(id)).await?;
        let found = self.read(&store, id).await?;
        self.nothing_was_lost(expected, &found)?;
        let added = found.len() - expected.len();
        check(added == 1, || format!("a second recovery had {added} events to add, and not only `opened`"))?;
        drop(again);
        Ok(())
    }

    fn nothing_new_is_wrong(&self, before: &Verified, after: &Verified) -> Result<(), Broken> {
        let was =
            |problem: &Problem| before.problems.iter().any(|other| other.offset == problem.offset && other.kind == problem.kind);
        match after.problems.iter().find(|problem| !was(problem)) {
            Some(problem) => Err(format!("the recovery left a problem: {problem:?}, of {:?}", after.problems)),
            None => Ok(()),
        }
    }
}

async fn told<T>(what: &str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Broken> {
    soon(call).await.map_err(|error| format!("`{what}` failed: {error}"))
}

fn check(holds: bool, broken: impl FnOnce() -> Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(broken()) }
}

/// Writes a disk to a folder, for whoever looks into a failure.
fn keep(image: &Image) -> String {
    let folder = std::env::temp_dir().join(format!("longhand-crash-{:016x}", image.hashes().1));
    let mut outcome = Ok(());
    image.walk(|path, content| {
        let path = folder.join(path.trim_start_matches('/'));
        let written = match content {
            Some(content) => {
                path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, &content.bytes))
            }
            None => std::fs::create_dir_all(&path),
        };
        if let Err(error) = written {
            outcome = Err(error);
        }
    });
    match outcome {
        Ok(()) => format!("the disk is kept in {}", folder.display()),
        Err(error) => format!("the disk could not be kept in {}: {error}", folder.display()),
    }
}
