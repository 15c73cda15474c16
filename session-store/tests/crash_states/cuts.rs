//! The states that a power cut can leave, from a trace of what was done to a disk. The fault model is described in `main.rs`.

use crate::disk::{Image, Inode, Op};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// How large the pieces are that a disk writes whole.
const SECTOR: usize = 512;
/// So many operations at the most have all their subsets tried.
const ALL_SUBSETS_OF: usize = 4;
/// So many operations at the most are each tried alone, and each left out alone.
const SINGLES_OF: usize = 12;

/// A disk at an instant of a trace: what is certain to be there, and what may be.
pub(crate) struct Cut {
    /// All that was synced.
    base: Image,
    pending: Vec<Pending>,
}

struct Pending {
    op: Op,
    /// The folders that have to be synced before it is certain, for a change of entries.
    folders: BTreeSet<Inode>,
}

/// What became of an operation that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    Lost,
    /// Only so many of its bytes were written, and the file does not go on.
    Head(usize),
    /// Of its sectors those were written whose bit, counted from any place, is set.
    Sectors(u64),
    /// The file got its length, but from so many of its bytes on it has zeros.
    Zeros(usize),
}

impl Cut {
    pub(crate) fn new(base: Image) -> Self {
        Self { base, pending: Vec::new() }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Goes on by one operation.
    pub(crate) fn push(&mut self, op: &Op) {
        match op {
            // Nothing leads to it before its entry does.
            Op::Make { .. } => self.base.apply(op),
            Op::Write { .. } => self.pending.push(Pending { op: op.clone(), folders: BTreeSet::new() }),
            Op::Entries(entries) => {
                let folders = entries.iter().map(|(folder, ..)| *folder).collect();
                self.pending.push(Pending { op: op.clone(), folders });
            }
            Op::SyncFile(inode) => {
                self.settle(|pending| matches!(pending.op, Op::Write { inode: of, .. } if of == *inode));
            }
            Op::SyncFolder(folder) => self.sync_folder(*folder),
            Op::SyncAll => self.settle(|_| true),
            Op::Promise(_) => {}
        }
    }

    /// A change of two folders is certain when both are synced; what came before it to the same names is certain with it.
    fn sync_folder(&mut self, folder: Inode) {
        let mut settled_names = BTreeSet::new();
        let mut is_settled = vec![false; self.pending.len()];
        for (index, pending) in self.pending.iter_mut().enumerate().rev() {
            let Op::Entries(entries) = &pending.op else { continue };
            pending.folders.remove(&folder);
            let names = || entries.iter().map(|(folder, name, _)| (*folder, name.clone()));
            if pending.folders.is_empty() || names().any(|name| settled_names.contains(&name)) {
                is_settled[index] = true;
                settled_names.extend(names());
            }
        }
        let mut is_settled = is_settled.into_iter();
        self.settle(|_| is_settled.next().unwrap_or(false));
    }

    fn settle(&mut self, mut is_settled: impl FnMut(&Pending) -> bool) {
        let base = &mut self.base;
        self.pending.retain(|pending| {
            let is_settled = is_settled(pending);
            if is_settled {
                base.apply(&pending.op);
            }
            !is_settled
        });
    }

    /// Fates worth trying for each of the pending operations, in all at most about `budget` of them: the simple ones always, then random ones.
    pub(crate) fn fates(&self, budget: usize, rng: &mut Rng) -> Vec<Vec<Fate>> {
        let count = self.pending.len();
        let all_but = |fate, other, index| {
            let mut fates = vec![fate; count];
            fates[index] = other;
            fates
        };
        let mut tried = vec![vec![Fate::Lost; count]];
        if count == 0 {
            return tried;
        }
        tried.push(vec![Fate::Done; count]);
        if budget <= tried.len() {
            return tried;
        }
        if count <= ALL_SUBSETS_OF {
            let subsets = 1..(1_usize << count) - 1;
            tried.extend(
                subsets.map(|set| (0..count).map(|bit| if set >> bit & 1 == 1 { Fate::Done } else { Fate::Lost }).collect()),
            );
        } else {
            let singles: Vec<usize> = if count <= SINGLES_OF {
                (0..count).collect()
            } else {
                (0..SINGLES_OF - 1).map(|_| rng.usize(..count)).chain([count - 1]).collect()
            };
            for index in singles {
                tried.push(all_but(Fate::Lost, Fate::Done, index));
                tried.push(all_but(Fate::Done, Fate::Lost, index));
            }
        }
        // The newest write torn, all before it done: the most common crash of all.
        tried.extend((0..3).map(|_| all_but(Fate::Done, self.torn(count - 1, rng), count - 1)));
        while tried.len() < budget {
            let lost_of_8 = rng.u8(1..8);
            let torn_of_8 = rng.u8(0..4);
            tried.push((0..count).map(|index| self.random(index, lost_of_8, torn_of_8, rng)).collect());
        }
        tried
    }

    fn random(&self, index: usize, lost_of_8: u8, torn_of_8: u8, rng: &mut Rng) -> Fate {
        if rng.u8(..8) < torn_of_8 {
            self.torn(index, rng)
        } else if rng.u8(..8) < lost_of_8 {
            Fate::Lost
        } else {
            Fate::Done
        }
    }

    /// A fate in which a part of a write is there.
    fn torn(&self, index: usize, rng: &mut Rng) -> Fate {
        let Op::Write { bytes, .. } = &self.pending[index].op else { return Fate::Lost };
        match rng.u8(..4) {
            0 => Fate::Head(rng.usize(..bytes.len().max(1))),
            1 => Fate::Zeros(rng.usize(..bytes.len().max(1)) / 2),
            2 => Fate::Zeros(0),
            _ => Fate::Sectors(rng.u64(..)),
        }
    }

    /// The disk on which each pending operation had its fate.
    pub(crate) fn state(&self, fates: &[Fate]) -> Image {
        let mut image = self.base.clone();
        for (pending, fate) in self.pending.iter().zip(fates) {
            match (&pending.op, fate) {
                (_, Fate::Lost) => {}
                (Op::Write { inode, offset, bytes, .. }, fate) => write(&mut image, *inode, *offset, bytes, *fate),
                (op, _) => image.apply(op),
            }
        }
        image
    }

    /// The same, and then some files that are shorter than what was written to them.
    pub(crate) fn shortened_state(&self, fates: &[Fate], rng: &mut Rng) -> Image {
        let mut image = self.state(fates);
        let mut written = BTreeMap::new();
        for pending in &self.pending {
            if let Op::Write { inode, .. } = pending.op {
                written.entry(inode).or_insert_with(|| self.base.length(inode));
            }
        }
        for (inode, durable) in written {
            let length = image.length(inode);
            if length > durable && rng.bool() {
                image.set_length(inode, rng.usize(durable..=length));
            }
        }
        image
    }

    /// What is pending, for people.
    pub(crate) fn describe(&self, fates: &[Fate]) -> String {
        let what = |op: &Op| match op {
            Op::Write { inode, offset, bytes, .. } => {
                format!(
                    "write {} bytes at {offset} of node {inode}: {}",
                    bytes.len(),
                    bytes[..bytes.len().min(60)].escape_ascii()
                )
            }
            Op::Entries(entries) => format!("entries {entries:?}"),
            _ => String::new(),
        };
        self.pending.iter().zip(fates).map(|(pending, fate)| format!("  {fate:?}: {}\n", what(&pending.op))).collect()
    }
}

fn write(image: &mut Image, inode: Inode, offset: usize, bytes: &[u8], fate: Fate) {
    match fate {
        Fate::Lost => {}
        Fate::Done => image.write(inode, offset, bytes),
        Fate::Head(length) => image.write(inode, offset, &bytes[..length]),
        Fate::Zeros(from) => {
            image.write(inode, offset, &bytes[..from]);
            // Only where the file grows: what is there already is not wiped.
            let length = image.length(inode).max(offset + bytes.len());
            image.set_length(inode, length);
        }
        Fate::Sectors(mask) => {
            let length = image.length(inode).max(offset + bytes.len());
            image.set_length(inode, length);
            let mut from = 0;
            while from < bytes.len() {
                let sector = (offset + from) / SECTOR;
                let to = ((sector + 1) * SECTOR - offset).min(bytes.len());
                if mask >> (sector % 64) & 1 == 1 {
                    image.write(inode, offset + from, &bytes[from..to]);
                }
                from = to;
            }
        }
    }
}
