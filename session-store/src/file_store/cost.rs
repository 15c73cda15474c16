//! What a sync costs, each way: a running estimate, by which the cheapest way is chosen.
//!
//! There are two ways: each file by itself, many at a time, and the whole file system at once. On a quiet disk the second is
//! cheaper from some files on; beside a process that streams it waits for what that one wrote too, and the order turns
//! round. The cost of a way is taken to be a line, `base + slope * work`, fitted to what the last rounds took. Now and then
//! the way that looks dearer is tried, because otherwise nobody would see that it became the cheaper one.

use std::time::{Duration, Instant};

/// So many bytes make as much work as one more file.
const BYTES_PER_FILE: f64 = 8192.0;
/// What an observation still counts after each one that follows.
const MEMORY: f64 = 0.8;
/// What the first guess counts beside an observation.
const GUESS_WEIGHT: f64 = 0.02;
/// The dearer way is tried so long after the cheaper one became that, ...
const TRY_AFTER: Duration = Duration::from_secs(5);
/// ... then after twice as long each time, up to this.
const TRY_AFTER_MAX: Duration = Duration::from_secs(80);

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) way: Way,
    /// It looks dearer and is tried: a part of a large round is enough.
    pub(super) is_trial: bool,
}

/// What both ways cost on one device.
pub(super) struct Costs {
    files: Line,
    volume: Line,
    cheaper: Option<Way>,
    try_at: Option<Instant>,
    try_after: Duration,
    /// The dearer way was much cheaper than it looked: it is tried again soon.
    is_promising: bool,
}

impl Default for Costs {
    /// The first guess is an SSD that has nothing else to do.
    fn default() -> Self {
        Self {
            files: Line::guess(300e-6, 16e-6),
            volume: Line::guess(1e-3, 8e-6),
            cheaper: None,
            try_at: None,
            try_after: TRY_AFTER,
            is_promising: false,
        }
    }
}

impl Costs {
    /// The way to sync `load`: the cheapest, or the other one where that is to be tried again. `dirty` is what a sync of the whole
    /// file system takes with it, as far as this store knows.
    pub(super) fn choose(&mut self, load: Load, dirty: Load, now: Instant) -> Choice {
        let files_are_cheaper = self.files.seconds(load.work()) <= self.volume.seconds(dirty.work());
        let way = if files_are_cheaper { Way::Files } else { Way::Volume };
        if self.cheaper != Some(way) || std::mem::take(&mut self.is_promising) {
            self.cheaper = Some(way);
            self.try_after = TRY_AFTER;
            self.try_at = Some(now + TRY_AFTER);
        }
        let is_trial = self.try_at.is_some_and(|at| at <= now);
        if is_trial {
            self.try_after = (self.try_after * 2).min(TRY_AFTER_MAX);
            self.try_at = Some(now + self.try_after);
        }
        Choice { way: if is_trial { way.other() } else { way }, is_trial }
    }

    /// Counts what a round took.
    pub(super) fn record(&mut self, way: Way, load: Load, took: Duration) {
        let line = match way {
            Way::Files => &mut self.files,
            Way::Volume => &mut self.volume,
        };
        let seconds = took.as_secs_f64();
        self.is_promising |= self.cheaper == Some(way.other()) && seconds < line.seconds(load.work()) / 2.0;
        line.add(load.work(), seconds);
    }
}

/// A line through weighted observations: least squares of the relative errors, as sums that fade.
struct Line {
    guess: (f64, f64),
    seen: Sums,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    weight: f64,
    work: f64,
    work_squared: f64,
    seconds: f64,
    work_seconds: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, work: f64, seconds: f64) {
        // A large round is not to be right at the cost of all small ones.
        let weight = weight / (work + 100.0).powi(2);
        self.weight += weight;
        self.work += weight * work;
        self.work_squared += weight * work * work;
        self.seconds += weight * seconds;
        self.work_seconds += weight * work * seconds;
    }

    fn fade(&mut self) {
        for sum in [&mut self.weight, &mut self.work, &mut self.work_squared, &mut self.seconds, &mut self.work_seconds] {
            *sum *= MEMORY;
        }
    }

    /// Base and slope; neither is negative.
    fn fit(&self) -> (f64, f64) {
        let determinant = self.weight * self.work_squared - self.work * self.work;
        let slope = (self.weight * self.work_seconds - self.work * self.seconds) / determinant;
        let base = (self.seconds - slope * self.work) / self.weight;
        if slope < 0.0 {
            (self.seconds / self.weight, 0.0)
        } else if base < 0.0 {
            (0.0, self.work_seconds / self.work_squared)
        } else {
            (base, slope)
        }
    }
}

impl Line {
    fn guess(base: f64, slope: f64) -> Self {
        Self { guess: (base, slope), seen: Sums::default() }
    }

    fn add(&mut self, work: f64, seconds: f64) {
        self.seen.fade();
        self.seen.add(1.0, work, seconds);
    }

    fn seconds(&self, work: f64) -> f64 {
        let mut sums = self.seen;
        // Observations of one size say nothing of others; the guess then gives the line its direction.
        let (base, slope) = self.guess;
        for size in [1.0, 10_000.0] {
            sums.add(GUESS_WEIGHT, size, base + slope * size);
        }
        let (base, slope) = sums.fit();
        base + slope * work
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
            costs.record(choice.way, load, Duration::from_secs_f64(seconds(load.files as f64)));
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
            costs.record(choice.way, of(1000), Duration::from_millis(if choice.is_trial { 25 } else { 8 }));
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
            costs.record(Way::Volume, of(1000), Duration::from_millis(8));
            costs.record(Way::Files, of(1000), Duration::from_millis(20));
        }
        costs.record(Way::Volume, of(1000), Duration::from_millis(800));
        assert_eq!(way(&mut costs, 1000), Way::Files);
        for _ in 0..16 {
            costs.record(Way::Volume, of(1000), Duration::from_millis(8));
        }
        assert_eq!(way(&mut costs, 1000), Way::Volume);
    }
}
