//! The record format: one event as one line of JSON, its checksum chained to the line before.
//!
//! ```text
//! {"seq":7,"at":"2026-01-31T23:59:59.999Z","type":"user.message","text":"hello","crc":"1a2b3c4d"}
//! |<------------------- body: what the checksum covers ----------------------->||<-- 18 bytes -->|
//! ```
//!
//! The CRC-32C of a line covers its body and starts from the CRC of the line before (the first from 0), so it is the CRC
//! of all bodies up to here as if they were one text. It is checked without parsing. An event whose fields are too large
//! for a line has them in a side file, a JSON object; its line names the file in `side` instead.
//!
//! This module encodes and decodes single lines. Whether a line continues the chain, and what becomes of one that does
//! not, is the [scanner's](crate::scan) to say.

use crate::event::{Entry, Event, SideRef};
use crate::id::Seq;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What every line ends in, with eight lower-case hexadecimal digits between the two: 18 bytes.
pub(crate) const CRC_KEY: &[u8] = b",\"crc\":\"";
pub(crate) const CRC_END: &[u8] = b"\"}";
pub(crate) const CRC_DIGITS: usize = 8;
/// How many bytes of a line its own checksum takes.
pub(crate) const CRC_BYTES: usize = CRC_KEY.len() + CRC_DIGITS + CRC_END.len();

/// The last member of the body of a line that a repair kept though it could not be checked. What ends so is no part of a text:
/// a text ends in a quotation mark, an object in a brace.
pub(crate) const UNCHECKED: &[u8] = b",\"unchecked\":true";

/// What a line holds.
#[expect(clippy::large_enum_variant, reason = "nearly every line is an entry")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decoded {
    /// A whole event. `sound` is false: only the chain can tell.
    Entry(Entry),
    /// An event whose fields are in a side file.
    Side(SideLine),
}

/// A line whose event has its fields in a side file: read that, then [`Event::read_fields`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SideLine {
    /// The event's place.
    pub(crate) seq: Seq,
    /// When it was accepted.
    pub(crate) at: Timestamp,
    /// Whether the line's checksum continued the chain.
    pub(crate) sound: bool,
    /// The event's `type`.
    pub(crate) type_name: String,
    /// Where its fields are.
    pub(crate) side: SideRef,
}

impl Decoded {
    pub(crate) fn seq(&self) -> Seq {
        match self {
            Self::Entry(entry) => entry.seq,
            Self::Side(line) => line.seq,
        }
    }

    pub(crate) fn set_seq(&mut self, seq: Seq) {
        match self {
            Self::Entry(entry) => entry.seq = seq,
            Self::Side(line) => line.seq = seq,
        }
    }
}

/// Appends the line of `event`, with its newline, to `out`, and returns its checksum, which the next line starts from.
pub(crate) fn encode(out: &mut Vec<u8>, previous_crc: u32, seq: Seq, at: Timestamp, event: &Event) -> u32 {
    let start = out.len();
    write_open_object(out, seq, at, event);
    finish(out, start, previous_crc)
}

/// Appends the same object without checksum and newline.
pub(crate) fn write_json(out: &mut Vec<u8>, seq: Seq, at: Timestamp, event: &Event) {
    write_open_object(out, seq, at, event);
    out.push(b'}');
}

/// Like [`encode`], for an event of type `type_name` whose fields are in the side file `side`.
pub(crate) fn encode_side(out: &mut Vec<u8>, previous_crc: u32, seq: Seq, at: Timestamp, type_name: &str, side: &SideRef) -> u32 {
    let start = out.len();
    write_head(out, seq, at, type_name);
    out.extend_from_slice(b",\"side\":{\"sha256\":");
    write_string(out, &side.sha256);
    out.extend_from_slice(b",\"bytes\":");
    write_number(out, side.bytes);
    out.push(b'}');
    finish(out, start, previous_crc)
}

/// Reads a line (without its newline), whoever wrote it; nothing where it is no record.
///
/// A type that this build does not know, and one that it knows but whose fields it cannot read, is an
/// [`Event::Unknown`] with all its fields.
pub(crate) fn decode(line: &[u8]) -> Option<Decoded> {
    let head = Head::scan(line).or_else(|| Head::parse(line))?;
    if head.seq > SEQ_MAX {
        return None;
    }
    if let Some(side) = head.side {
        return Some(Decoded::Side(SideLine {
            seq: head.seq,
            at: head.at,
            sound: false,
            type_name: head.type_name.into_owned(),
            side,
        }));
    }
    let event = Event::read_fields(&head.type_name, line).or_else(|_| Event::read_unknown(&head.type_name, line)).ok()?;
    Some(Decoded::Entry(Entry { sound: false, ..Entry::new(head.seq, head.at, event) }))
}

/// The body of a line and the checksum that it claims, where it ends as a line must.
pub(crate) fn claim(line: &[u8]) -> Option<(&[u8], u32)> {
    let (body, tail) = line.split_at_checked(line.len().checked_sub(CRC_BYTES)?)?;
    let digits = tail.strip_prefix(CRC_KEY)?.strip_suffix(CRC_END)?;
    Some((body, hexadecimal(digits)?))
}

/// What follows the `seq` of a body that begins as every line does.
pub(crate) fn after_seq(body: &[u8]) -> Option<&[u8]> {
    let digits = body.strip_prefix(b"{\"seq\":")?;
    let rest = digits.get(digits.iter().take_while(|byte| byte.is_ascii_digit()).count()..)?;
    rest.starts_with(b",").then_some(rest)
}

/// The number that `digits`, at most eight in lower case, are.
pub(crate) fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u32::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u32::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// The largest `seq`: what every JSON reader can hold exactly.
pub(crate) const SEQ_MAX: Seq = (1 << 53) - 1;

/// The members that every line starts with.
#[derive(Deserialize)]
struct Head<'a> {
    seq: Seq,
    at: Timestamp,
    #[serde(rename = "type", borrow)]
    type_name: Cow<'a, str>,
    #[serde(default)]
    side: Option<SideRef>,
}

impl<'a> Head<'a> {
    /// Reads the head of a line as this format writes it, byte by byte; nothing where the line was written otherwise.
    fn scan(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"{\"seq\":")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (seq, rest) = rest.split_at_checked(digits)?;
        let rest = rest.strip_prefix(b",\"at\":\"")?;
        let (at, rest) = rest.split_at_checked(24)?;
        let rest = rest.strip_prefix(b"\",\"type\":\"")?;
        let name = rest.iter().position(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_'))?;
        let (type_name, rest) = rest.split_at_checked(name)?;
        let rest = rest.strip_prefix(b"\"")?;
        if rest.starts_with(b",\"side\":") {
            return None;
        }
        Some(Self {
            seq: std::str::from_utf8(seq).ok()?.parse().ok()?,
            at: Timestamp::from_bytes(at.try_into().ok()?)?,
            type_name: Cow::Borrowed(std::str::from_utf8(type_name).ok()?),
            side: None,
        })
    }

    /// Reads the head of any JSON object that has these members, in whatever order and form.
    fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

fn write_head(out: &mut Vec<u8>, seq: Seq, at: Timestamp, type_name: &str) {
    out.extend_from_slice(b"{\"seq\":");
    write_number(out, seq);
    out.extend_from_slice(b",\"at\":\"");
    out.extend_from_slice(&at.to_bytes());
    out.extend_from_slice(b"\",\"type\":");
    write_string(out, type_name);
}

/// Appends the object of an event, all but its closing brace.
fn write_open_object(out: &mut Vec<u8>, seq: Seq, at: Timestamp, event: &Event) {
    write_head(out, seq, at, event.type_name());
    let fields = out.len();
    if event.write_fields(out).is_err() {
        // Cannot happen (see there); an event without its fields is still a line that every reader understands.
        out.truncate(fields);
        out.extend_from_slice(b"{}");
    }
    splice_fields(out, fields);
}

/// Turns the object at `at`, the end of `out`, into further members of the object around it.
fn splice_fields(out: &mut Vec<u8>, at: usize) {
    if out.len() - at <= b"{}".len() {
        out.truncate(at);
    } else {
        out[at] = b',';
        out.pop();
    }
}

/// Ends the body that `out` has from `start` on with its checksum and a newline.
pub(crate) fn finish(out: &mut Vec<u8>, start: usize, previous_crc: u32) -> u32 {
    let crc = crc32c::crc32c_append(previous_crc, &out[start..]);
    out.extend_from_slice(CRC_KEY);
    for place in (0..CRC_DIGITS).rev() {
        out.push(b"0123456789abcdef"[(crc >> (4 * place) & 0xf) as usize]);
    }
    out.extend_from_slice(CRC_END);
    out.push(b'\n');
    crc
}

fn write_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Something wrong in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: u64,
    /// The byte in the file where it starts.
    pub offset: u64,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// What it is, in words.
    pub detail: String,
}

/// Kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The line is no record at all.
    Unreadable,
    /// The line is a record whose checksum does not continue the chain.
    Unchecked,
    /// Records are missing before this line.
    Gap,
    /// The record was seen before, or is older than its place.
    OutOfPlace,
    /// The line was written by a writer that had lost the session; it is set aside.
    StaleWriter,
    /// The file does not end in a newline: its last record was torn.
    TornTail,
    /// A blank line, a byte-order mark or a carriage return.
    Formatting,
    /// A side file that a record names is missing or damaged.
    SideFile,
    /// The file holds no sound record.
    Empty,
    /// Events in the rescue folder do not continue the log; they are kept there.
    Rescued,
    /// A checkpoint is not the fold of what stands before it; whoever reads passes over it.
    Checkpoint,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{any_event, every_event};
    use crate::side::sha256_hex;
    use proptest::prelude::*;
    use serde_json::Value;

    fn read(line: &[u8]) -> Entry {
        match decode(line) {
            Some(Decoded::Entry(entry)) => entry,
            other => panic!("{other:?} from {}", String::from_utf8_lossy(line)),
        }
    }

    #[test]
    fn the_samples_hold_every_type_once() {
        let mut types: Vec<String> = every_event().iter().map(|event| event.type_name().to_owned()).collect();
        let mut known: Vec<&str> = Event::TYPES.to_vec();
        types.sort_unstable();
        known.sort_unstable();
        assert_eq!(types, known);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(event in any_event(), seq in 0..=SEQ_MAX, at in any::<i64>(), previous in any::<u32>()) {
            let at = Timestamp::from_ms(at);
            let mut line = b"before".to_vec();
            let crc = encode(&mut line, previous, seq, at, &event);
            let line = &line[b"before".len()..];
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let line = &line[..line.len() - 1];

            let (body, claimed) = claim(line).expect("a checksum");
            prop_assert_eq!(claimed, crc);
            prop_assert_eq!(crc32c::crc32c_append(previous, body), crc);
            prop_assert_eq!(read(line), Entry { sound: false, ..Entry::new(seq, at, event) });

            let json: Value = serde_json::from_slice(line).expect("JSON");
            let names: Vec<&String> = json.as_object().expect("an object").keys().collect();
            prop_assert_eq!((names[0].as_str(), names[1].as_str(), names[2].as_str()), ("seq", "at", "type"));
            prop_assert_eq!(names[names.len() - 1], "crc");
        }

        #[test]
        fn any_bytes_can_be_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (decode(&bytes), claim(&bytes));
        }
    }

    #[test]
    fn a_line_is_read_in_whatever_form_another_tool_left_it() {
        for event in every_event() {
            let mut line = Vec::new();
            encode(&mut line, 0, 3, Timestamp::from_ms(5), &event);
            let json: Value = serde_json::from_slice(&line).expect("JSON");
            let mut members: Vec<_> = json.as_object().expect("an object").clone().into_iter().collect();
            members.reverse();
            let other = serde_json::to_vec_pretty(&Value::Object(members.into_iter().collect())).expect("JSON");
            assert_eq!(read(&other), Entry { sound: false, ..Entry::new(3, Timestamp::from_ms(5), event) });
        }
    }

    #[test]
    fn fields_of_a_newer_version_do_not_stop_an_older_one() {
        let line = br#"{"seq":1,"at":"2026-01-31T23:59:59.999Z","type":"note","text":"hello","mood":"calm","crc":"00000000"}"#;
        assert_eq!(read(line).event, Event::from(crate::event::Note { text: "hello".to_owned() }));
    }

    #[test]
    fn a_known_type_with_fields_that_do_not_fit_is_kept_as_unknown() {
        let line = br#"{"seq":1,"at":"2026-01-31T23:59:59.999Z","type":"tool.finished","outcome":"teleported","crc":"00000000"}"#;
        let Event::Unknown(unknown) = read(line).event else { panic!("not unknown") };
        assert_eq!(unknown.type_name, "tool.finished");
        assert_eq!(Value::Object(unknown.fields), serde_json::json!({"outcome": "teleported"}));
    }

    #[test]
    fn a_line_names_the_side_file_that_has_its_fields() {
        let side = SideRef { sha256: sha256_hex(b"fields"), bytes: 2_000_000 };
        let (mut line, at) = (Vec::new(), Timestamp::from_ms(7));
        let crc = encode_side(&mut line, 9, 4, at, "tool.finished", &side);
        let line = line.strip_suffix(b"\n").expect("a newline");
        assert_eq!(claim(line).expect("a checksum").1, crc);
        let expected = SideLine { seq: 4, at, sound: false, type_name: "tool.finished".to_owned(), side };
        assert_eq!(decode(line), Some(Decoded::Side(expected)));
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        let lines: [&[u8]; 7] = [
            b"",
            b"{}",
            b"null",
            br#"{"seq":-1,"at":"2026-01-31T23:59:59.999Z","type":"note","text":""}"#,
            br#"{"seq":9007199254740992,"at":"2026-01-31T23:59:59.999Z","type":"note","text":""}"#,
            br#"{"seq":1,"at":"yesterday","type":"note","text":""}"#,
            br#"{"seq":1,"at":"2026-01-31T23:59:59.999Z","text":""}"#,
        ];
        for line in lines {
            assert_eq!(decode(line), None, "{}", String::from_utf8_lossy(line));
        }
    }
}
