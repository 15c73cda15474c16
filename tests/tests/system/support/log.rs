//! A reader of session files that shares no code with the store: lines, JSON, and the chain of checksums.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// What every line ends in: `,"crc":"xxxxxxxx"}`.
const CRC_BYTES: usize = 18;

/// A session file as it is.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) lines: Vec<Line>,
    /// What stands after the last newline.
    pub(crate) fragment: Vec<u8>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// The JSON, where it is any.
    pub(crate) value: Option<Value>,
    /// Whether its checksum continues the chain of the lines before it.
    pub(crate) sound: bool,
    /// The line without its newline.
    pub(crate) bytes: Vec<u8>,
}

impl Log {
    pub(crate) fn read(path: &Path) -> Self {
        Self::parse(&fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display())))
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut lines = Vec::new();
        let mut chain = 0;
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let bytes = rest[..end].to_vec();
            let continued = continues(chain, &bytes);
            chain = continued.unwrap_or(chain);
            lines.push(Line { value: serde_json::from_slice(&bytes).ok(), sound: continued.is_some(), bytes });
            rest = &rest[end + 1..];
        }
        Self { lines, fragment: rest.to_vec() }
    }

    /// The sound events, in order.
    pub(crate) fn events(&self) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(|line| line.sound).filter_map(|line| line.value.as_ref())
    }

    /// The sound events of one type.
    pub(crate) fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.events().filter(move |event| event["type"] == kind)
    }

    /// The text of the answer to the request `message`: of its message, or else of its pieces.
    pub(crate) fn text_of(&self, message: u64) -> String {
        let of = |event: &&Value| event["message"] == message;
        if let Some(whole) = self.of_type("assistant.message").find(of) {
            let texts = whole["blocks"].as_array().into_iter().flatten().filter(|block| block["type"] == "text");
            return texts.filter_map(|block| block["text"].as_str()).collect();
        }
        self.of_type("assistant.text").filter(of).filter_map(|piece| piece["text"].as_str()).collect()
    }

    /// All text that any model said, in order.
    pub(crate) fn answers(&self) -> String {
        self.of_type("model.request").filter_map(|request| request["seq"].as_u64()).map(|seq| self.text_of(seq)).collect()
    }

    /// Every line is sound, numbered from 0 without a gap, and nothing is torn. Lines of blanks, where a torn tail was put
    /// aside, are no events and are left out.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        assert!(self.fragment.is_empty(), "a torn tail: {}", String::from_utf8_lossy(&self.fragment));
        let records = self.lines.iter().filter(|line| !line.bytes.iter().all(|byte| *byte == b' '));
        for (index, line) in records.enumerate() {
            let text = String::from_utf8_lossy(&line.bytes);
            assert!(line.sound, "line {} does not continue the chain: {text}", index + 1);
            let seq = line.value.as_ref().and_then(|value| value["seq"].as_u64());
            assert_eq!(seq, Some(index as u64), "out of place: {text}");
        }
    }
}

/// The line's checksum, where it continues a chain that stands at `chain`.
fn continues(chain: u32, line: &[u8]) -> Option<u32> {
    let (body, tail) = line.split_at_checked(line.len().checked_sub(CRC_BYTES)?)?;
    let digits = tail.strip_prefix(b",\"crc\":\"")?.strip_suffix(b"\"}")?;
    let told = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (crc32c(chain, body) == told).then_some(told)
}

/// CRC-32C (Castagnoli), going on from `crc`; bit by bit, by its definition.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ REVERSED_POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(!crc, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[test]
fn the_checksum_is_the_one_of_the_standard() {
    // The check value of CRC-32C, from the catalogue of parametrised CRC algorithms.
    assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
}

#[test]
fn a_line_is_sound_only_after_the_line_before_it() {
    let mut file = Vec::new();
    let mut chain = 0;
    for seq in 0..3 {
        let body = format!("{{\"seq\":{seq},\"at\":\"2026-01-31T23:59:59.999Z\",\"type\":\"note\",\"text\":\"x\"");
        chain = crc32c(chain, body.as_bytes());
        file.extend_from_slice(format!("{body},\"crc\":\"{chain:08x}\"}}\n").as_bytes());
    }
    Log::parse(&file).assert_sound();
    let swapped: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let swapped = [swapped[0], swapped[2], swapped[1]].concat();
    let sound: Vec<bool> = Log::parse(&swapped).lines.iter().map(|line| line.sound).collect();
    assert_eq!(sound, [true, false, true]);
}
