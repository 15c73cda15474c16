//! What a power cut can leave, tried rather than argued.
//!
//! A workload runs on a disk in memory that remembers every write, sync, creation, rename and removal in their order, and among them what
//! the store promised at each instant: these events are durable, this session is removed. From that trace come the states that a power cut could
//! have left. A store opens each, and what it finds is held against the promises:
//!
//! - what was reported durable is there, byte for byte, and delivered as sound; what was reported removed is not;
//! - every record that came to the disk whole is delivered, whatever stands around it;
//! - every session lists, loads, reads, verifies, opens, takes an event and makes it durable;
//! - a recovery loses nothing, changes no line and leaves no new problem; done again it finds nothing to do;
//! - a damaged log can be repaired, loses nothing by that, and is well then;
//! - all of this also where the power goes a second time, in the middle of the recovery.
//!
//! **Fault model.** A file's bytes are certain after a sync of the file, an entry of a folder after a sync of the folder, and nothing else is:
//! not by time, not by the sync of another file, not by the order in which it was done. So each prefix of the trace is a cut, and
//! at a cut each operation that is not certain may have happened or not, in any combination:
//!
//! - a write may be there in part: up to any byte, with the file ending there; up to any byte, with zeros behind, where the length came to the disk
//!   and the bytes did not (ext4 and xfs do this); or in any of its sectors of 512 bytes, with what was there before in the others;
//! - a later write may be there without an earlier one, which leaves a hole of zeros;
//! - a file may be shorter than what was written to it;
//! - a name may be there without its file's bytes, and the bytes without the name;
//! - a rename is one operation, and certain when both folders are synced; so is the making or the removal of a name.
//!
//! That is more than POSIX rules out, and more than ext4, xfs and btrfs do: their journals keep the order of names, and a sync of a new file
//! brings its name along. A store that holds here needs none of that.
//!
//! **What it does not model.** Disks that acknowledge a flush and forget it, or that damage what was there before (`scan.rs` has property tests for any
//! damage); syncs that fail (the tests of failures have them); zeros over bytes that were synced; an inode that is used again. The order of
//! the store's own threads is what it happened to be while the workload ran: two runs of a seed may have two traces, but what is
//! tried of a trace depends on the seed alone.
//!
//! `LONGHAND_CRASH_SEED=7` runs the workload of that seed and no other, `LONGHAND_CRASH_STATES=1000000` goes on until that many states were tried. A state
//! that breaks a promise is kept as a folder, and named.

#![expect(clippy::disallowed_methods, reason = "what failed is kept on the real disk, and a slow disk is slow")]

mod check;
mod cuts;
mod disk;
mod workload;

use check::{Broken, Checker, Counts};
use disk::{Disk, Image, Op, Synced, syncs};
use fastrand::Rng;

/// How many steps the workload of a seed has: more with each, up to a point.
fn steps(seed: u64) -> usize {
    12 + (seed % 10) as usize * 7
}

/// How many states are tried at one instant at most.
const STATES_PER_CUT: usize = 16;
/// How many states are tried where nobody asks for more.
const STATES: u64 = 6_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What the workload of a seed did.
async fn trace(steps: usize, seed: u64) -> Vec<Op> {
    let disk = Disk::new(Image::new());
    let disk = if seed.is_multiple_of(2) { disk.with_volume() } else { disk };
    workload::run(&disk, steps, seed).await.take_ops()
}

async fn explore(ops: &[Op], seed: u64) -> Result<Counts, Broken> {
    let mut checker = Checker::default();
    checker.explore(Image::new(), ops, STATES_PER_CUT, &mut Rng::with_seed(seed)).await?;
    Ok(checker.counts)
}

#[tokio::test]
async fn no_power_cut_breaks_a_promise() {
    let only = number("LONGHAND_CRASH_SEED");
    let wanted = number("LONGHAND_CRASH_STATES").unwrap_or(STATES);
    let mut sum = Counts::default();
    for seed in only.unwrap_or(1).. {
        let ops = trace(steps(seed), seed).await;
        match explore(&ops, seed).await {
            Ok(counts) => {
                sum.states += counts.states;
                sum.opened += counts.opened;
                sum.sessions += counts.sessions;
                sum.second_cuts += counts.second_cuts;
                let volumes = syncs(&ops).into_iter().filter(|sync| *sync == Some(Synced::All)).count();
                println!("seed {seed}: {} operations, {volumes} of them syncs of everything; {counts:?}", ops.len());
            }
            Err(broken) => panic!("LONGHAND_CRASH_SEED={seed}: {broken}"),
        }
        if only.is_some() || sum.states >= wanted {
            break;
        }
    }
    println!(
        "{} states of a disk, {} of them after a second power cut; {} opened, with {} states of sessions",
        sum.states, sum.second_cuts, sum.opened, sum.sessions
    );
}

/// The checker is worth what it catches. Here it gets the trace of a store that says it syncs and does not: one kind of sync, or a single one.
#[tokio::test]
async fn a_store_that_skips_a_sync_is_caught() {
    let ops = trace(60, 1).await;
    let kinds = syncs(&ops);
    let without = |is_skipped: &dyn Fn(usize) -> bool| {
        ops.iter().enumerate().filter(|(index, _)| !is_skipped(*index)).map(|(_, op)| op.clone()).collect::<Vec<Op>>()
    };
    let mut checker = Checker::default();
    checker.glance(Image::new(), &ops).await.expect("it skips none");
    for kind in [Synced::Log, Synced::SideFile, Synced::SideFolder, Synced::Day, Synced::Way] {
        assert!(kinds.contains(&Some(kind)), "the workload has no sync of this kind: {kind:?}");
        let broken = checker.glance(Image::new(), &without(&|index| kinds[index] == Some(kind))).await;
        println!(
            "without any sync of a {kind:?}: {}",
            broken.as_ref().err().map_or("", |broken| broken.lines().next().unwrap_or_default())
        );
        assert!(broken.is_err(), "a store that syncs no {kind:?} is not caught");
    }
    // Some single ones may be missing: another sync of the same file or folder came before the promise.
    let logs: Vec<usize> = (0..ops.len()).filter(|index| kinds[*index] == Some(Synced::Log)).collect();
    let mut caught = 0;
    for skipped in &logs {
        caught += usize::from(checker.glance(Image::new(), &without(&|index| index == *skipped)).await.is_err());
    }
    println!("of {} syncs of a log, {caught} are caught where they alone are missing", logs.len());
    assert!(caught * 2 > logs.len(), "only {caught} of {} syncs of a log are missed", logs.len());
}
