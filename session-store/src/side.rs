//! Hashes of what is kept beside a log.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// SHA-256 of `bytes`, as 64 hexadecimal digits; what `sha256sum` prints.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Two lower-case digits for each byte.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
