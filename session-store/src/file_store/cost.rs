//! What a sync costs, each way: a running estimate, by which the cheapest way is chosen.
//!
//! There are two ways: each file by itself, many at a time, and the whole file system at once. On a quiet disk the second is
//! cheaper from some files on; beside a process that streams it waits for what that one wrote too, and the order turns
//! round. What a way costs is a first guess times how much longer than that the last rounds took, for each order of
//! magnitude by itself: what one file takes on a busy disk says little of thirty thousand. Now and then the way that
//! looks dearer is tried, because otherwise nobody would see that it became the cheaper one.

use std::time::{Duration, Instant};

/// So many bytes make as much work as one more file.
const BYTES_PER_FILE: f64 = 8192.0;
/// What an observation still counts after each one that follows.
const MEMORY: f64 = 0.7;
/// The dearer way is tried so long after the cheaper one became that, ...
const TRY_AFTER: Duration = Duration::from_secs(5);
/// ... then after twice as long each time, up to this.
const TRY_AFTER_MAX: Duration = Duration::from_secs(80);
/// Orders of magnitude that are told apart: from one file to a million and more.
const MAGNITUDES: usize = 7;

/// How much there is to sync.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) files: usize,
    pub(super) bytes: u64,
}

impl Load {
    fn work(self) -> f64 {
        self.files as f64 + self.bytes as f64 / BYTES_PER_FILE
    }

    /// 0 for a few files, 1 from ten on, 2 from a hundred on.
    fn magnitude(self) -> usize {
        (self.work().max(1.0).log10() as usize).min(MAGNITUDES - 1)
    }

    /// One from the middle.
    fn of_magnitude(magnitude: usize) -> Self {
        Self { files: 3 * 10_usize.pow(magnitude as u32), bytes: 0 }
    }
}

/// How to sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Each file by itself, some at the same time.
    Files,
    /// All of the file system.
    Volume,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Files => Self::Volume,
            Self::Volume => Self::Files,
        }
    }

    /// The first guess, in seconds: an SSD that has nothing else to do.
    fn guess(self, load: Load) -> f64 {
        match self {
            Self::Files => 300e-6 + 16e-6 * load.work(),
            Self::Volume => 1e-3 + 8e-6 * load.work(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) way: Way,
    /// It looks dearer and is tried: a part of a large round is enough.
    pub(super) is_trial: bool,
}

/// What both ways cost on one device.
#[derive(Default)]
pub(super) struct Costs {
    files: Factors,
    volume: Factors,
    tries: [Tries; MAGNITUDES],
}

impl Costs {
    /// The way to sync `load`: the cheapest, or the other one where that is to be tried again. `dirty` is what a sync of the whole
    /// file system takes with it, as far as this store knows.
    pub(super) fn choose(&mut self, load: Load, dirty: Load, now: Instant) -> Choice {
        let files_are_cheaper = self.seconds(Way::Files, load) <= self.seconds(Way::Volume, dirty);
        let way = if files_are_cheaper { Way::Files } else { Way::Volume };
        let is_trial = self.tries[load.magnitude()].is_due(way, now);
        Choice { way: if is_trial { way.other() } else { way }, is_trial }
    }

    /// Counts what a round took: `part` was synced, which stands for `load`, of which it may be all.
    pub(super) fn record(&mut self, way: Way, load: Load, part: Load, took: Duration) {
        let factor = took.as_secs_f64().max(1e-6) / way.guess(part);
        let is_half = way.guess(load) * factor < self.seconds(way, load) / 2.0;
        let tries = &mut self.tries[load.magnitude()];
        tries.is_promising |= is_half && tries.cheaper == Some(way.other());
        match way {
            Way::Files => self.files.add(load.magnitude(), factor),
            Way::Volume => self.volume.add(load.magnitude(), factor),
        }
    }

    /// What a way is expected to take. Where nothing of this size was seen, the nearest size says most: of files, that each takes so much
    /// longer than guessed; of the whole file system, if it was a smaller one, how long one waits for what others wrote, however little one
    /// has to sync.
    fn seconds(&self, way: Way, load: Load) -> f64 {
        let guess = way.guess(load);
        match (way, self.factors(way).nearest(load.magnitude())) {
            (_, None) => guess,
            (Way::Volume, Some((seen, factor))) if seen < load.magnitude() => {
                guess + (factor - 1.0).max(0.0) * way.guess(Load::of_magnitude(seen))
            }
            (_, Some((_, factor))) => guess * factor,
        }
    }

    fn factors(&self, way: Way) -> &Factors {
        match way {
            Way::Files => &self.files,
            Way::Volume => &self.volume,
        }
    }
}

/// How much longer than guessed a way takes: for each order of magnitude the geometric mean of what was seen, as it fades. (A
/// single round that took a hundred times as long is no reason to leave a way.)
#[derive(Default)]
struct Factors([Option<f64>; MAGNITUDES]);

impl Factors {
    fn add(&mut self, magnitude: usize, factor: f64) {
        let seen = &mut self.0[magnitude];
        *seen = Some(seen.map_or(factor, |seen| seen.powf(MEMORY) * factor.powf(1.0 - MEMORY)));
    }

    /// The magnitude nearest to `magnitude` of which something was seen, and what.
    fn nearest(&self, magnitude: usize) -> Option<(usize, f64)> {
        let seen = self.0.iter().enumerate().filter_map(|(at, factor)| Some((at, (*factor)?)));
        seen.min_by_key(|(at, _)| at.abs_diff(magnitude))
    }
}

/// When the way that looks dearer is tried.
#[derive(Default)]
struct Tries {
    cheaper: Option<Way>,
    at: Option<Instant>,
    after: Duration,
    /// The dearer way was much cheaper than it looked: it is tried again soon.
    is_promising: bool,
}

impl Tries {
    /// Whether the other way is to be tried now, where `cheaper` looks cheaper.
    fn is_due(&mut self, cheaper: Way, now: Instant) -> bool {
        if self.cheaper != Some(cheaper) || std::mem::take(&mut self.is_promising) {
            self.cheaper = Some(cheaper);
            self.after = TRY_AFTER;
            self.at = Some(now + TRY_AFTER);
        }
        let is_due = self.at.is_some_and(|at| at <= now);
        if is_due {
            self.after = (self.after * 2).min(TRY_AFTER_MAX);
            self.at = Some(now + self.after);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: usize) -> Load {
        Load { files, bytes: files as u64 * 600 }
    }

    /// A disk as the estimate meets it: seconds for a number of files, each way.
    struct Disk {
        files: fn(f64) -> f64,
        volume: fn(f64) -> f64,
    }

    const QUIET: Disk = Disk { files: |n| 200e-6 + 17e-6 * n, volume: |n| 800e-6 + 7e-6 * n };
    const NOISY: Disk = Disk { files: |n| 1e-3 + 38e-6 * n, volume: |n| 50e-3 + 30e-6 * n };
    const SYNC_OF_5_MS: Disk = Disk { files: |n| 5e-3 * (n / 16.0).ceil(), volume: |n| 5e-3 + 7e-6 * n };
    const SYNC_OF_50_MS: Disk = Disk { files: |n| 50e-3 * (n / 16.0).ceil(), volume: |n| 50e-3 + 7e-6 * n };

    /// Ten seconds of rounds, two a second and some small ones, of what is chosen each time.
    fn live(costs: &mut Costs, disk: &Disk, sizes: &[usize], now: &mut Instant) {
        for round in 0..20 {
            let load = of(sizes[round % sizes.len()]);
            let choice = costs.choose(load, load, *now);
            let seconds = if choice.way == Way::Files { disk.files } else { disk.volume };
            costs.record(choice.way, load, load, Duration::from_secs_f64(seconds(load.files as f64)));
            *now += Duration::from_millis(500);
        }
    }

    /// The way that is chosen when none is tried.
    fn way(costs: &mut Costs, files: usize) -> Way {
        let (load, then) = (of(files), Instant::now());
        let choice = costs.choose(load, load, then.checked_sub(Duration::from_secs(3600)).unwrap_or(then));
        assert!(!choice.is_trial);
        choice.way
    }

    #[test]
    fn a_quiet_disk_syncs_few_files_by_themselves_and_many_at_once() {
        let mut costs = Costs::default();
        live(&mut costs, &QUIET, &[10, 100, 1000, 30_000], &mut Instant::now());
        assert_eq!(way(&mut costs, 3), Way::Files);
        for files in [200, 1000, 30_000] {
            assert_eq!(way(&mut costs, files), Way::Volume, "{files} files");
        }
    }

    #[test]
    fn a_noisy_neighbour_turns_it_round_and_its_end_turns_it_back() {
        let (mut costs, mut now) = (Costs::default(), Instant::now());
        live(&mut costs, &QUIET, &[1000], &mut now);
        assert_eq!(way(&mut costs, 1000), Way::Volume);
        live(&mut costs, &NOISY, &[1000], &mut now);
        assert_eq!(way(&mut costs, 1000), Way::Files);
        for _ in 0..12 {
            live(&mut costs, &QUIET, &[1000], &mut now);
        }
        assert_eq!(way(&mut costs, 1000), Way::Volume);
    }

    #[test]
    fn a_slow_disk_is_synced_at_once_where_files_would_take_turns() {
        for disk in [SYNC_OF_5_MS, SYNC_OF_50_MS] {
            let (mut costs, mut now) = (Costs::default(), Instant::now());
            live(&mut costs, &disk, &[10, 100, 1000], &mut now);
            live(&mut costs, &disk, &[10, 100, 1000], &mut now);
            for files in [200, 1000, 10_000] {
                assert_eq!(way(&mut costs, files), Way::Volume, "{files} files");
            }
        }
    }

    #[test]
    fn what_looks_dearer_is_tried_ever_more_rarely() {
        let (mut costs, mut now) = (Costs::default(), Instant::now());
        let mut tries = Vec::new();
        for second in 0..300 {
            let choice = costs.choose(of(1000), of(1000), now);
            if choice.is_trial {
                assert_eq!(choice.way, Way::Files);
                tries.push(second);
            }
            costs.record(choice.way, of(1000), of(1000), Duration::from_millis(if choice.is_trial { 25 } else { 8 }));
            now += Duration::from_secs(1);
        }
        assert_eq!(tries, [5, 15, 35, 75, 155, 235]);
    }

    #[test]
    fn what_others_of_the_store_have_dirty_counts_against_the_whole_file_system() {
        let mut costs = Costs::default();
        let now = Instant::now();
        assert_eq!(costs.choose(of(1000), of(1000), now).way, Way::Volume);
        assert_eq!(costs.choose(of(1000), Load { files: 1000, bytes: 100 << 20 }, now).way, Way::Files);
    }

    #[test]
    fn one_slow_round_does_not_count_for_long() {
        let mut costs = Costs::default();
        for _ in 0..20 {
            costs.record(Way::Volume, of(1000), of(1000), Duration::from_millis(8));
            costs.record(Way::Files, of(1000), of(1000), Duration::from_millis(20));
        }
        costs.record(Way::Volume, of(1000), of(1000), Duration::from_millis(800));
        assert_eq!(way(&mut costs, 1000), Way::Files);
        for _ in 0..16 {
            costs.record(Way::Volume, of(1000), of(1000), Duration::from_millis(8));
        }
        assert_eq!(way(&mut costs, 1000), Way::Volume);
    }

    #[test]
    fn small_rounds_say_nothing_of_large_ones() {
        let mut costs = Costs::default();
        for _ in 0..20 {
            costs.record(Way::Volume, of(30_000), of(30_000), Duration::from_millis(240));
            costs.record(Way::Volume, of(10), of(10), Duration::from_millis(200));
            costs.record(Way::Files, of(10), of(10), Duration::from_millis(1));
        }
        assert_eq!(way(&mut costs, 10), Way::Files);
        assert_eq!(way(&mut costs, 30_000), Way::Volume);
    }

    #[test]
    fn a_small_round_that_waits_for_others_is_a_base_for_large_ones_not_a_factor() {
        let mut costs = Costs::default();
        costs.record(Way::Volume, of(10), of(10), Duration::from_millis(100));
        costs.record(Way::Files, of(10), of(10), Duration::from_millis(2));
        assert_eq!(way(&mut costs, 10), Way::Files);
        assert_eq!(way(&mut costs, 30_000), Way::Volume);
    }

    #[test]
    fn a_part_that_is_tried_stands_for_the_whole() {
        let mut costs = Costs::default();
        for _ in 0..5 {
            costs.record(Way::Volume, of(30_000), of(30_000), Duration::from_secs(3));
        }
        costs.record(Way::Files, of(30_000), of(128), Duration::from_millis(50));
        assert_eq!(way(&mut costs, 30_000), Way::Volume, "12 s for all of them");
        for _ in 0..10 {
            costs.record(Way::Files, of(30_000), of(128), Duration::from_millis(3));
        }
        assert_eq!(way(&mut costs, 30_000), Way::Files);
    }

    #[test]
    fn rounds_of_other_sizes_do_not_put_a_trial_off() {
        let (mut costs, mut now) = (Costs::default(), Instant::now());
        let mut tries = 0;
        for round in 0..100 {
            let load = of(if round % 2 == 0 { 3 } else { 10_000 });
            tries += usize::from(costs.choose(load, load, now).is_trial && load.files > 3);
            now += Duration::from_millis(500);
        }
        assert!(tries > 0);
    }
}
