//! Counting tokens with o200k, for estimates until a provider reports its own count.
//!
//! The table takes about 100 ms and 46 MB to load, so it is loaded once a process, off the runtime's threads, and only when
//! a conversation is near its limit.

use std::panic::catch_unwind;

/// Longer texts are counted in pieces: tiktoken-rs panics on about a million equal blanks, and its cost grows with the piece.
const PIECE_BYTES: usize = 64 * 1024;

/// The tokens of `text` in o200k. Blocks for as long as it takes (about 100 ns a byte; the first call loads the table).
#[must_use]
pub fn count_tokens(text: &str) -> u64 {
    let mut rest = text;
    let mut tokens = 0;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(floor_char_boundary(rest, PIECE_BYTES));
        tokens += count_piece(piece);
        rest = after;
    }
    tokens
}

/// Ordinary encoding only: text that looks like a special token is text. Where the tokenizer gives up, a token a byte is the safe guess.
fn count_piece(piece: &str) -> u64 {
    let counted = catch_unwind(|| tiktoken_rs::o200k_base_singleton().encode_ordinary(piece).len());
    counted.unwrap_or(piece.len()) as u64
}

/// The largest place that is at most `at` and does not cut a character.
pub(crate) fn floor_char_boundary(text: &str, at: usize) -> usize {
    if at >= text.len() {
        return text.len();
    }
    (0..=at).rev().find(|place| text.is_char_boundary(*place)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_blanks_are_counted() {
        assert!(count_tokens(&" ".repeat(1_000_000)) > 0);
        assert_eq!(count_tokens("hello world"), 2);
        assert_eq!(count_tokens("<|endoftext|>"), count_tokens("<|endoftext|>"));
        assert!(count_tokens("<|endoftext|>") > 1, "a special token in a text is text");
    }
}
