//! The lines of a foreign file, whatever is in it: each is text, is bounded, and has a number that an error can name.
//!
//! A byte order mark goes; UTF-16 is read as what it says; bytes that are no UTF-8 become replacement characters and are reported; NULs around a
//! line (a crash leaves them) go. A line that is too long is passed over piece by piece, never held.

use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// The longest line, and the largest file of those that are read whole. What is longer is reported and left out.
pub const RECORD_BYTES_MAX: usize = 32 << 20;
const CHUNK_BYTES: usize = 1 << 16;

/// A line of a foreign file.
pub(super) enum Line {
    /// Its text without the line's end; `exact` is false where bytes were replaced.
    Text { text: String, exact: bool },
    /// It has more than [`RECORD_BYTES_MAX`] bytes.
    TooLong,
}

#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Utf8,
    Utf16 { is_big: bool },
}

/// Reads lines one after the other.
pub(super) struct Lines<'a> {
    from: Box<dyn Read + 'a>,
    /// Nothing before the first bytes were seen.
    encoding: Option<Encoding>,
    /// Raw bytes that are not decoded yet: an odd byte or half a surrogate pair of UTF-16.
    held: Vec<u8>,
    /// Decoded bytes that no line was made of yet, from `start` on.
    decoded: Vec<u8>,
    start: usize,
    /// How far `decoded` has no newline.
    searched: usize,
    is_too_long: bool,
    is_at_end: bool,
    hash: Sha256,
    bytes: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(from: Box<dyn Read + 'a>) -> Self {
        Self {
            from,
            encoding: None,
            held: Vec::new(),
            decoded: Vec::new(),
            start: 0,
            searched: 0,
            is_too_long: false,
            is_at_end: false,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// How many bytes were read so far, as they are in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of them.
    pub(super) fn sha256(&self) -> String {
        crate::side::hexadecimal(&self.hash.clone().finalize())
    }

    /// The next line; blank ones too, so that lines count as in an editor.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(found) = self.decoded[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + found;
                let line = self.take(end);
                self.start = end + 1;
                self.searched = self.start;
                return Ok(Some(line));
            }
            self.searched = self.decoded.len();
            if self.is_at_end {
                if self.start >= self.decoded.len() && !self.is_too_long {
                    return Ok(None);
                }
                let end = self.decoded.len();
                let line = self.take(end);
                self.start = end;
                return Ok(Some(line));
            }
            if self.searched - self.start > RECORD_BYTES_MAX {
                self.is_too_long = true;
                self.start = self.searched;
            }
            self.fill()?;
        }
    }

    /// All that is left as one text; nothing where it is too long.
    pub(super) fn rest(mut self) -> io::Result<(Option<String>, Self)> {
        let mut whole = String::new();
        let mut is_first = true;
        let mut fits = true;
        while let Some(line) = self.next_line()? {
            match line {
                Line::Text { text, .. } if whole.len() + text.len() < RECORD_BYTES_MAX => {
                    if !std::mem::take(&mut is_first) {
                        whole.push('\n');
                    }
                    whole.push_str(&text);
                }
                _ => fits = false,
            }
        }
        Ok((fits.then_some(whole), self))
    }

    fn take(&mut self, end: usize) -> Line {
        let line = &self.decoded[self.start..end];
        if std::mem::take(&mut self.is_too_long) || line.len() > RECORD_BYTES_MAX {
            return Line::TooLong;
        }
        let is_padding = |byte: &u8| matches!(byte, 0 | b'\r');
        let from = line.iter().position(|byte| !is_padding(byte)).unwrap_or(line.len());
        let to = line.iter().rposition(|byte| !is_padding(byte)).map_or(from, |last| last + 1);
        let line = &line[from..to];
        match std::str::from_utf8(line) {
            Ok(text) => Line::Text { text: text.to_owned(), exact: true },
            Err(_) => Line::Text { text: String::from_utf8_lossy(line).into_owned(), exact: false },
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.decoded.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut length = 0;
        // The mark at the start is never seen in halves.
        while length < 4 {
            match self.from.read(&mut chunk[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.encoding.is_some() {
                break;
            }
        }
        chunk.truncate(length);
        self.is_at_end = length == 0;
        self.bytes += length as u64;
        self.hash.update(&chunk);
        let (encoding, mark) = match self.encoding {
            Some(encoding) => (encoding, 0),
            None => encoding_of(&chunk),
        };
        self.encoding = Some(encoding);
        match encoding {
            Encoding::Utf8 => self.decoded.extend_from_slice(&chunk[mark..]),
            Encoding::Utf16 { is_big } => self.decode_utf16(&chunk[mark..], is_big),
        }
        Ok(())
    }

    fn decode_utf16(&mut self, chunk: &[u8], is_big: bool) {
        self.held.extend_from_slice(chunk);
        let unit = |pair: &[u8]| {
            let pair = [pair[0], pair[1]];
            if is_big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
        };
        let mut whole = self.held.len() / 2;
        let is_first_half = |at: usize| (0xD800..0xDC00).contains(&unit(&self.held[2 * at..2 * at + 2]));
        if !self.is_at_end && whole > 0 && is_first_half(whole - 1) {
            whole -= 1;
        }
        let units = self.held[..2 * whole].chunks_exact(2).map(unit);
        let text: String = char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        self.held.drain(..2 * whole);
        self.decoded.extend_from_slice(text.as_bytes());
    }
}

/// How a file that begins with `start` is encoded, and the length of its byte order mark.
fn encoding_of(start: &[u8]) -> (Encoding, usize) {
    match start {
        [0xEF, 0xBB, 0xBF, ..] => (Encoding::Utf8, 3),
        [0xFF, 0xFE, ..] => (Encoding::Utf16 { is_big: false }, 2),
        [0xFE, 0xFF, ..] => (Encoding::Utf16 { is_big: true }, 2),
        [0, a, 0, b, ..] if *a != 0 && *b != 0 => (Encoding::Utf16 { is_big: true }, 0),
        [a, 0, b, 0, ..] if *a != 0 && *b != 0 => (Encoding::Utf16 { is_big: false }, 0),
        _ => (Encoding::Utf8, 0),
    }
}
