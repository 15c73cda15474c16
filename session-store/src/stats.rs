//! Counters of a store.

use serde::Serialize;

/// Counters since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StoreStats {
    /// Events accepted.
    pub events: u64,
    /// Rounds of the writer.
    pub batches: u64,
    /// Calls of `write`.
    pub writes: u64,
    /// Bytes written to logs.
    pub bytes: u64,
    /// Syncs asked of the file system: of files, of folders and of whole file systems.
    pub syncs: u64,
    /// Those of them that were of a whole file system.
    pub volume_syncs: u64,
    /// Writes and syncs that failed.
    pub failures: u64,
    /// Events in the largest batch.
    pub largest_batch_events: u64,
    /// Bytes in the largest batch.
    pub largest_batch_bytes: u64,
    /// Buffers taken from the pool.
    pub buffers_reused: u64,
    /// Buffers that had to be allocated.
    pub buffers_allocated: u64,
    /// Bytes that are accepted and not yet durable, now.
    pub bytes_in_memory: u64,
    /// Logs that are open, now. Side files that are not durable and readers come on top.
    pub open_files: u64,
    /// Sessions that wait to be written, now.
    pub queued_writes: u64,
    /// Sessions that wait for the background to sync them, now.
    pub queued_syncs: u64,
    /// Sessions that wait to be written and synced because somebody waits for them, now.
    pub queued_commits: u64,
    /// Time from accepted to durable, one sample for each batch of a session.
    pub time_to_durable: Histogram,
    /// Time of a write to a log.
    pub time_of_writes: Histogram,
    /// Time of a sync of one session by the background, with its side files and folders.
    pub time_of_file_syncs: Histogram,
    /// Time of a sync of a whole file system.
    pub time_of_volume_syncs: Histogram,
    /// Time of a sync of one session that somebody waits for, with its side files and folders.
    pub time_of_commits: Histogram,
}

/// A histogram of durations with buckets that double: bucket `i` counts samples below `2^i` microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Histogram {
    /// Samples by bucket.
    pub buckets: [u64; 32],
}

impl Histogram {
    /// Counts a sample of `micros` microseconds.
    pub fn record(&mut self, micros: u64) {
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(self.buckets.len() - 1)] += 1;
    }

    pub(crate) fn record_duration(&mut self, duration: std::time::Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many samples there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound, in microseconds, of the bucket that holds the quantile `q` (0 to 1); 0 without samples.
    #[must_use]
    pub fn quantile_micros(&self, q: f64) -> u64 {
        let rank = (self.count() as f64 * q.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return 1 << bucket;
            }
        }
        0
    }
}
