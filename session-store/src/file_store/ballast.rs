//! Ballast: a file of real bytes in the home that is given up when the disk is full, so that sessions can say how they ended.
//!
//! It is made with the first session, where there is plenty of room, and made again some time after there is room again.
//! Any process may give it up for all. It is a help and no promise: nothing fails because it is not there.

use super::engine::Core;
use super::lock;
use crate::error::StoreError;
use crate::fs::{OpenMode, append_all};
use std::io::{self, IoSlice};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// It is made only where there is room for so many of its kind.
const ROOM_TIMES: u64 = 16;
/// How long it stays away at least.
const AWAY: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 64 << 10;

/// Whether this process gave it up.
#[derive(Default)]
pub(super) struct Ballast {
    is_given: AtomicBool,
    given_at: Mutex<Option<Instant>>,
}

/// Makes it, where it is missing and there is room.
pub(super) fn make(core: &Core) {
    let bytes = core.options.ballast_bytes;
    let path = core.layout.ballast();
    let has_room =
        || matches!(core.fs().free_bytes(core.layout.home()), Ok(Some(free)) if free >= bytes.saturating_mul(ROOM_TIMES));
    if bytes == 0 || core.fs().stat(&path).is_ok_and(|found| found.size >= bytes) || !has_room() {
        return;
    }
    // A part of one is none.
    let _ = core.fs().remove_file(&path);
    let made = core
        .fs()
        .open(&path, OpenMode::CreateNew)
        .and_then(|file| fill(bytes, |chunk| append_all(&*file, &mut [IoSlice::new(chunk)], |_| {})));
    match made {
        Ok(()) => core.ballast.is_given.store(false, Ordering::Relaxed),
        Err(error) => {
            tracing::debug!(%error, "no ballast can be made");
            let _ = core.fs().remove_file(&path);
        }
    }
}

/// Bytes that no file system can compress, so that they take the room they seem to.
fn fill(bytes: u64, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        for word in chunk.chunks_exact_mut(8) {
            // Xorshift: good enough for noise.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        sink(&chunk[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// A write or a sync failed with `error`: gives it up where that makes room.
pub(super) fn failed(core: &Core, error: &StoreError) {
    let is_full = matches!(error, StoreError::Io { source, .. }
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
    if !is_full || core.ballast.is_given.swap(true, Ordering::Relaxed) {
        return;
    }
    *lock(&core.ballast.given_at) = Some(Instant::now());
    if core.fs().remove_file(&core.layout.ballast()).is_ok() {
        tracing::warn!("the disk is full: the ballast was given up");
    }
}

/// Something became durable: makes it again, where it was given up a while ago.
pub(super) fn restore(core: &Core) {
    if !core.ballast.is_given.load(Ordering::Relaxed) {
        return;
    }
    let mut given_at = lock(&core.ballast.given_at);
    if given_at.is_some_and(|given| given.elapsed() < AWAY) {
        return;
    }
    *given_at = Some(Instant::now());
    drop(given_at);
    make(core);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_it_should_be_and_no_two_chunks_are_alike() {
        let mut written = Vec::new();
        let filled = fill(200_000, |chunk| {
            written.extend_from_slice(chunk);
            Ok(())
        });
        assert!(filled.is_ok());
        assert_eq!(written.len(), 200_000);
        assert_ne!(written[..CHUNK_BYTES], written[CHUNK_BYTES..2 * CHUNK_BYTES]);
    }
}
