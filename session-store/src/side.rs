//! Hashes of what is kept beside a log.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// SHA-256 of `bytes`, as 64 hexadecimal digits; what `sha256sum` prints.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
