//! Text in frames: how the log of a cold session is packed.
//!
//! ```text
//! frame frame ... frame  table
//! |<- zstd, each by itself ->|  |<- a frame that zstd passes over: how long each one is, packed and plain ->|
//! ```
//!
//! This is zstd's own seekable format, so `zstdcat` unpacks it, and a part of the text costs the frames that it lies in. A frame holds
//! a MiB or two of whole lines, and carries zstd's checksum.
//!
//! **What it does not do.** There is no dictionary: it would make a session of some ten kilobytes smaller by a tenth to a fifth, and unreadable wherever the dictionary is not.
//!
//! **Promises of the reader.** Whatever the file holds, memory is bounded by [`PLAIN_BYTES_MAX`] a frame and the length of the table, and the
//! text has one length and one content: what of a frame cannot be unpacked is zeros up to a last newline, which whoever reads lines reports as
//! an unreadable one. Where the table is missing or does not fit, the frames are found one by one, and such a line is added at the
//! end, because nothing tells whether that is all of them.

use super::lock;
use super::stop::Stop;
use crate::fs::{File, append_all, read_full_at};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::{CParameter, DParameter, get_frame_content_size};

/// A text is cut into frames of about one length, at least this where it is long enough.
const FRAME_BYTES: u64 = 3 << 20;
/// The longest frame that is written, and read: a longer line is cut between two.
const PLAIN_BYTES_MAX: usize = 8 << 20;
/// The longest that such a frame can be when it is packed.
const PACKED_BYTES_MAX: u64 = (PLAIN_BYTES_MAX as u64) + (64 << 10);
/// The binary logarithm of how far back a frame may refer.
const WINDOW_LOG_MAX: u32 = 23;
/// Higher packs tighter and takes longer; to unpack takes the same. A text is packed once, so it may take some seconds, ...
const LEVEL: i32 = 17;
/// ... but not minutes: this one is six times as fast and makes a twelfth more, for texts longer than [`LONG_BYTES`].
const LONG_LEVEL: i32 = 9;
const LONG_BYTES: u64 = 64 << 20;
/// How much is packed before it is asked whether to go on.
const PACK_BYTES: usize = 128 << 10;
/// A frame is unpacked as far as it is wanted, by multiples of what zstd makes at a time.
const BLOCK_BYTES: usize = 128 << 10;
/// How many unpacked frames are kept: a reader goes through one after the other, or between the end and a place before it.
const KEPT: usize = 2;

const FRAME_MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// The table's own kind of skippable frame.
const TABLE_MAGIC: u32 = 0x184D_2A5E;
const FOOTER_MAGIC: u32 = 0x8F92_EAB1;
const SKIPPABLE_HEADER_BYTES: u64 = 8;
const FOOTER_BYTES: u64 = 9;
/// In the footer: the entries have checksums.
const HAS_CHECKSUMS: u8 = 1 << 7;
/// In the footer: what must be zero.
const RESERVED: u8 = 0b0111_1100;

/// Packs text into frames at the end of a file.
pub(super) struct FrameWriter<'a> {
    file: &'a dyn File,
    stop: &'a Stop,
    packer: Encoder<'static>,
    /// A frame is ended with the line that makes it this long.
    frame_bytes: usize,
    plain: Vec<u8>,
    packed: Vec<u8>,
    /// The table's entries: lengths packed and plain.
    table: Vec<u8>,
    packed_bytes: u64,
}

impl<'a> FrameWriter<'a> {
    /// For a text of about `bytes`; `stop` calls it off within some milliseconds.
    ///
    /// # Errors
    /// Where there is no memory.
    pub(super) fn new(file: &'a dyn File, bytes: u64, stop: &'a Stop) -> io::Result<Self> {
        let mut packer = Encoder::new(if bytes > LONG_BYTES { LONG_LEVEL } else { LEVEL })?;
        packer.set_parameter(CParameter::ChecksumFlag(true))?;
        // Of one length, so that no short one is left: it would pack badly.
        let frame_bytes = bytes.div_ceil((bytes / FRAME_BYTES).max(1)).max(FRAME_BYTES) as usize; // Less than two of `FRAME_BYTES`.
        Ok(Self { file, stop, packer, frame_bytes, plain: Vec::new(), packed: Vec::new(), table: Vec::new(), packed_bytes: 0 })
    }

    /// Adds text: a line, or whatever should stay in one frame where it is not too long for that.
    pub(super) fn push(&mut self, mut text: &[u8]) -> io::Result<()> {
        while self.plain.len() + text.len() > PLAIN_BYTES_MAX {
            let (now, rest) = text.split_at(PLAIN_BYTES_MAX - self.plain.len());
            self.plain.extend_from_slice(now);
            text = rest;
            self.end_frame()?;
        }
        self.plain.extend_from_slice(text);
        if self.plain.len() >= self.frame_bytes { self.end_frame() } else { Ok(()) }
    }

    /// Ends the frame here, so that what follows is read without what came before.
    pub(super) fn end_frame(&mut self) -> io::Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        self.pack()?;
        append_all(self.file, &mut [IoSlice::new(&self.packed)], |_| {})?;
        self.packed_bytes += self.packed.len() as u64;
        self.table.extend_from_slice(&(self.packed.len() as u32).to_le_bytes()); // Both are far below 4 GiB.
        self.table.extend_from_slice(&(self.plain.len() as u32).to_le_bytes());
        self.plain.clear();
        Ok(())
    }

    /// Makes a frame of what was gathered.
    fn pack(&mut self) -> io::Result<()> {
        self.packer.reinit()?;
        // It stands in the frame: without the table, the frame says itself how much it holds.
        self.packer.set_pledged_src_size(Some(self.plain.len() as u64))?;
        self.packed.clear();
        self.packed.resize(zstd::zstd_safe::compress_bound(self.plain.len()), 0);
        let mut packed = OutBuffer::around(&mut self.packed[..]);
        let mut is_all = true;
        for part in self.plain.chunks(PACK_BYTES) {
            self.stop.check()?;
            let mut part = InBuffer::around(part);
            self.packer.run(&mut part, &mut packed)?;
            is_all &= part.pos() == part.src.len();
        }
        // There is room for the worst, so each step takes all that it is given.
        is_all &= self.packer.finish(&mut packed, true)? == 0;
        if !is_all {
            return Err(io::Error::other("a frame is longer than the longest that can be"));
        }
        let length = packed.pos();
        self.packed.truncate(length);
        Ok(())
    }

    /// Writes what is left, and the table; says how long the file is.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.end_frame()?;
        let frames = self.table.len() / 8;
        let bytes = self.table.len() + FOOTER_BYTES as usize;
        let too_many = |_| io::Error::new(io::ErrorKind::FileTooLarge, "more frames than a table can hold");
        let mut end = Vec::with_capacity(bytes + SKIPPABLE_HEADER_BYTES as usize);
        end.extend_from_slice(&TABLE_MAGIC.to_le_bytes());
        end.extend_from_slice(&u32::try_from(bytes).map_err(too_many)?.to_le_bytes());
        end.extend_from_slice(&self.table);
        end.extend_from_slice(&u32::try_from(frames).map_err(too_many)?.to_le_bytes());
        end.push(0);
        end.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        append_all(self.file, &mut [IoSlice::new(&end)], |_| {})?;
        Ok(self.packed_bytes + end.len() as u64)
    }
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// In the file.
    start: u64,
    /// Its length there; 0 where nothing is, and the text is a hole.
    packed: u32,
    /// Where its text ends.
    plain_end: u64,
}

/// Text that is packed in a file.
pub(super) struct Frames {
    file: Arc<dyn File>,
    frames: Vec<Frame>,
    /// The frame that was used last is the last.
    unpacked: Mutex<VecDeque<Unpacked>>,
    is_damaged: AtomicBool,
}

impl Frames {
    /// Reads the table, or finds the frames without it.
    ///
    /// # Errors
    /// Where the file cannot be read, or is no such file at all.
    pub(super) fn open(file: Arc<dyn File>) -> io::Result<Self> {
        let length = file.stat()?.size;
        let table = read_table(&*file, length)?;
        let is_damaged = table.is_none();
        let frames = match table {
            Some(frames) => frames,
            None => find_frames(&*file, length)?,
        };
        Ok(Self { file, frames, unpacked: Mutex::default(), is_damaged: AtomicBool::new(is_damaged) })
    }

    /// How long the text is.
    pub(super) fn len(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.plain_end)
    }

    /// Whether anything that was read so far was not as it was written.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// The file that holds the frames.
    pub(super) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Reads text at `offset`, of one frame at most; 0 bytes at its end.
    ///
    /// # Errors
    /// Where the file cannot be read. What cannot be unpacked is no error.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let index = self.frames.partition_point(|frame| frame.plain_end <= offset);
        let Some(frame) = self.frames.get(index) else { return Ok(0) };
        let start = index.checked_sub(1).and_then(|before| self.frames.get(before)).map_or(0, |before| before.plain_end);
        // A frame is at most `PLAIN_BYTES_MAX`.
        let (from, size) = ((offset - start) as usize, (frame.plain_end - start) as usize);
        let length = buffer.len().min(size - from);

        let mut kept = lock(&self.unpacked);
        let mut unpacked = match kept.iter().position(|unpacked| unpacked.index == index).and_then(|at| kept.remove(at)) {
            Some(unpacked) => unpacked,
            None => {
                let spare = if kept.len() == KEPT { kept.pop_front() } else { None };
                Unpacked::new(&*self.file, index, *frame, size, spare)?
            }
        };
        if !unpacked.reach(from + length) {
            self.is_damaged.store(true, Ordering::Relaxed);
        }
        buffer[..length].copy_from_slice(&unpacked.plain[from..from + length]);
        kept.push_back(unpacked);
        Ok(length)
    }
}

/// A frame that is being unpacked, as far as it was wanted.
struct Unpacked {
    index: usize,
    packed: Vec<u8>,
    /// How much of `packed` was used.
    used: usize,
    /// All of the text, zeros where it is not there yet.
    plain: Vec<u8>,
    done: usize,
    decoder: Option<Decoder<'static>>,
}

impl Unpacked {
    /// `spare` is no longer needed; its memory is used again.
    fn new(file: &dyn File, index: usize, frame: Frame, size: usize, spare: Option<Self>) -> io::Result<Self> {
        let (mut packed, mut plain, decoder) =
            spare.map_or((Vec::new(), Vec::new(), None), |spare| (spare.packed, spare.plain, spare.decoder));
        packed.resize(frame.packed as usize, 0);
        let length = read_full_at(file, &mut packed, frame.start)?;
        packed.truncate(length);
        plain.clear();
        plain.resize(size, 0);
        let decoder = match decoder {
            Some(mut decoder) => decoder.reinit().map(|()| decoder),
            None => new_decoder(),
        };
        Ok(Self { index, packed, used: 0, plain, done: 0, decoder: Some(decoder?) })
    }

    /// Unpacks up to `want`; false where that failed, and the rest is a hole.
    fn reach(&mut self, want: usize) -> bool {
        let target = want.next_multiple_of(BLOCK_BYTES).min(self.plain.len());
        while self.done < want {
            let step = match &mut self.decoder {
                Some(decoder) => decoder.run_on_buffers(&self.packed[self.used..], &mut self.plain[self.done..target]),
                None => return false,
            };
            match step {
                Ok(step) if step.bytes_read + step.bytes_written > 0 => {
                    self.used += step.bytes_read;
                    self.done += step.bytes_written;
                    if step.remaining == 0 && self.done < self.plain.len() {
                        return self.leave_hole();
                    }
                }
                _ => return self.leave_hole(),
            }
        }
        true
    }

    /// What is left stays zeros, as a line.
    fn leave_hole(&mut self) -> bool {
        self.plain[self.done..].fill(0);
        if let Some(last) = self.plain.last_mut() {
            *last = b'\n';
        }
        self.done = self.plain.len();
        false
    }
}

fn new_decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
    Ok(decoder)
}

fn read_exactly<const BYTES: usize>(file: &dyn File, offset: u64) -> io::Result<Option<[u8; BYTES]>> {
    let mut bytes = [0; BYTES];
    Ok((read_full_at(file, &mut bytes, offset)? == BYTES).then_some(bytes))
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The frames by the table at the end of the file; nothing where that is not what it should be.
fn read_table(file: &dyn File, length: u64) -> io::Result<Option<Vec<Frame>>> {
    let Some(footer_at) = length.checked_sub(FOOTER_BYTES) else { return Ok(None) };
    let Some(footer) = read_exactly::<9>(file, footer_at)? else { return Ok(None) };
    let (count, descriptor) = (number(&footer).unwrap_or(0), footer[4]);
    let entry_bytes = if descriptor & HAS_CHECKSUMS == 0 { 8 } else { 12 };
    let entries = u64::from(count) * entry_bytes;
    let table_at = footer_at.checked_sub(entries + SKIPPABLE_HEADER_BYTES);
    let Some(table_at) = table_at.filter(|_| number(&footer[5..]) == Some(FOOTER_MAGIC) && descriptor & RESERVED == 0) else {
        return Ok(None);
    };
    // No longer than the file.
    let mut table = vec![0; (SKIPPABLE_HEADER_BYTES + entries) as usize];
    let is_whole = read_full_at(file, &mut table, table_at)? == table.len();
    let is_table = number(&table) == Some(TABLE_MAGIC) && number(&table[4..]).map(u64::from) == Some(entries + FOOTER_BYTES);
    if !is_whole || !is_table {
        return Ok(None);
    }
    let (mut frames, mut start, mut plain_end) = (Vec::with_capacity(count as usize), 0, 0);
    for entry in table[SKIPPABLE_HEADER_BYTES as usize..].chunks_exact(entry_bytes as usize) {
        let (Some(packed), Some(plain)) = (number(entry), number(&entry[4..])) else { return Ok(None) };
        if u64::from(packed) > PACKED_BYTES_MAX || plain as usize > PLAIN_BYTES_MAX {
            return Ok(None);
        }
        plain_end += u64::from(plain);
        if plain > 0 {
            frames.push(Frame { start, packed, plain_end });
        }
        start += u64::from(packed);
    }
    Ok((start == table_at).then_some(frames))
}

/// The frames by what is in them, as far as one follows the other.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where the file does not start with a frame, or with one that is too long to be read in parts.
fn find_frames(file: &dyn File, length: u64) -> io::Result<Vec<Frame>> {
    let (mut frames, mut at, mut plain_end): (Vec<Frame>, _, _) = (Vec::new(), 0, 0);
    while at < length {
        let mut head = [0; 18];
        let got = read_full_at(file, &mut head, at)?;
        match number(&head[..got]) {
            Some(FRAME_MAGIC) => {
                let plain = get_frame_content_size(&head[..got]).ok().flatten();
                let Some(plain) = plain.filter(|plain| *plain <= PLAIN_BYTES_MAX as u64) else { break };
                let end = end_of_frame(file, at, &head[..got])?.unwrap_or(length).min(length);
                let Some(packed) = u32::try_from(end - at).ok().filter(|packed| u64::from(*packed) <= PACKED_BYTES_MAX) else {
                    break;
                };
                plain_end += plain;
                frames.push(Frame { start: at, packed, plain_end });
                at = end;
            }
            Some(magic) if magic & !0xF == SKIPPABLE_MAGIC => {
                let Some(size) = number(&head[4..got.max(4)]) else { break };
                at += SKIPPABLE_HEADER_BYTES + u64::from(size);
            }
            _ => break,
        }
    }
    if frames.is_empty() {
        let words = "it does not start with a zstd frame that can be read in parts; `unzstd` may unpack it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    // The line that says that there may have been more.
    frames.push(Frame { start: length, packed: 0, plain_end: plain_end + 2 });
    Ok(frames)
}

/// Where the frame at `at` ends, by its blocks; nothing where it does not in this file.
fn end_of_frame(file: &dyn File, at: u64, head: &[u8]) -> io::Result<Option<u64>> {
    let Some(descriptor) = head.get(4) else { return Ok(None) };
    let is_single_segment = descriptor & 0x20 != 0;
    let content_size_bytes = match descriptor >> 6 {
        0 => u64::from(is_single_segment),
        power => 1 << power,
    };
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let mut block_at = at + 5 + u64::from(!is_single_segment) + dictionary_bytes + content_size_bytes;
    loop {
        let Some(header) = read_exactly::<3>(file, block_at)? else { return Ok(None) };
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, u64::from(header >> 3));
        if kind == 3 {
            return Ok(None);
        }
        // One byte stands for a block that repeats it.
        block_at += 3 + if kind == 1 { 1 } else { size };
        if is_last {
            let checksum_bytes = u64::from(descriptor & 4);
            return Ok(Some(block_at + checksum_bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "real files, to be damaged")]

    use super::*;
    use crate::fs::{FileSystem, OpenMode, RealFs};
    use proptest::prelude::*;

    struct Packed(tempfile::TempDir);

    impl Packed {
        fn new(lines: &[Vec<u8>]) -> Self {
            let packed = Self(tempfile::tempdir().expect("a folder"));
            let file = RealFs.open(&packed.path(), OpenMode::CreateNew).expect("made");
            let (stop, bytes) = (Stop::default(), lines.iter().map(Vec::len).sum::<usize>());
            let mut writer = FrameWriter::new(&*file, bytes as u64, &stop).expect("memory");
            writer.frame_bytes = 1 << 20; // So that a short text has some.
            lines.iter().for_each(|line| writer.push(line).expect("written"));
            let length = writer.finish().expect("written");
            assert_eq!(length, packed.bytes().len() as u64);
            packed
        }

        fn of(bytes: &[u8]) -> Self {
            let packed = Self(tempfile::tempdir().expect("a folder"));
            std::fs::write(packed.path(), bytes).expect("written");
            packed
        }

        fn path(&self) -> std::path::PathBuf {
            self.0.path().join("log.zst")
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(self.path()).expect("read")
        }

        fn open(&self) -> io::Result<Frames> {
            Frames::open(RealFs.open(&self.path(), OpenMode::Read)?)
        }
    }

    fn text(frames: &Frames, mut range: std::ops::Range<u64>) -> Vec<u8> {
        let mut text = Vec::new();
        while range.start < range.end {
            let mut chunk = vec![0; usize::try_from(range.end - range.start).expect("small").min(300_000)];
            let length = frames.read_at(&mut chunk, range.start).expect("read");
            if length == 0 {
                break;
            }
            text.extend_from_slice(&chunk[..length]);
            range.start += length as u64;
        }
        text
    }

    fn all(frames: &Frames) -> Vec<u8> {
        text(frames, 0..u64::MAX)
    }

    /// Lines that differ, so that they do not pack to nothing.
    fn lines(count: u64, bytes: usize) -> Vec<Vec<u8>> {
        let line = |number: u64| {
            let mut state = number;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                b'a' + (state >> 60) as u8
            };
            let mut line: Vec<u8> = (1..bytes).map(|_| next()).collect();
            line.push(b'\n');
            line
        };
        (0..count).map(line).collect()
    }

    #[test]
    fn any_part_of_a_text_is_read_from_its_frames() {
        let lines = lines(300, 20_000);
        let packed = Packed::new(&lines);
        let (frames, plain) = (packed.open().expect("opens"), lines.concat());
        assert!(frames.frames.len() > 4 && frames.len() == plain.len() as u64);
        assert_eq!(all(&frames), plain);
        for (from, length) in [(0, 10), (1 << 20, 3 << 20), (5_999_999, 10), (2_000_000, 1), (6_000_000, 5), (123, 5_000_000)] {
            let (from, end): (usize, usize) = (from, (from + length).min(plain.len()));
            assert_eq!(text(&frames, from as u64..end as u64), plain[from.min(end)..end], "{from}");
        }
        assert!(!frames.is_damaged());
        assert!(lock(&frames.unpacked).len() <= KEPT);
    }

    #[test]
    fn a_line_of_any_length_takes_frames_of_bounded_length() {
        let long = |bytes| [vec![b'x'; bytes], b"\n".to_vec()].concat();
        let lines = [long(100), long(20_000_000), long(5_000_000), long(5_000_000)];
        let packed = Packed::new(&lines);
        let frames = packed.open().expect("opens");
        let ends: Vec<u64> = std::iter::once(0).chain(frames.frames.iter().map(|frame| frame.plain_end)).collect();
        assert!(ends.windows(2).all(|pair| pair[1] - pair[0] <= PLAIN_BYTES_MAX as u64), "{ends:?}");
        assert_eq!(all(&frames), lines.concat());
    }

    #[test]
    fn nothing_is_packed_and_unpacked() {
        let frames = Packed::new(&[]).open().expect("opens");
        assert_eq!((frames.len(), all(&frames).len()), (0, 0));
    }

    #[test]
    fn a_damaged_frame_is_a_hole_and_costs_no_other() {
        let lines = lines(40, 100_000);
        let packed = Packed::new(&lines);
        let plain = lines.concat();
        let whole = packed.open().expect("opens").frames;
        let mut bytes = packed.bytes();
        let middle = whole[1].start as usize + 2000;
        bytes[middle..middle + 100].fill(0xEE);
        let frames = Packed::of(&bytes).open().expect("opens");
        let text = all(&frames);
        let (from, to) = (whole[0].plain_end as usize, whole[1].plain_end as usize);
        assert!(frames.is_damaged());
        assert_eq!(text.len(), plain.len());
        assert!(text[..from] == plain[..from] && text[to..] == plain[to..], "the others are whole");
        assert_eq!(text[to - 1], b'\n');
        // Whatever is read first, the text is the same.
        let again = Packed::of(&bytes).open().expect("opens");
        assert_eq!(self::text(&again, to as u64 - 5..to as u64 + 5), text[to - 5..to + 5]);
    }

    #[test]
    fn without_its_table_a_text_is_read_as_far_as_it_goes() {
        let lines = lines(40, 100_000);
        let packed = Packed::new(&lines);
        let (bytes, plain) = (packed.bytes(), lines.concat());
        let whole = packed.open().expect("opens").frames;
        let cut_in_frame = whole[2].start as usize + whole[2].packed as usize / 2;
        let cut_in_table = bytes.len() - 3;
        for (cut, sound) in [
            (cut_in_table, plain.len()),
            (whole[1].start as usize, whole[0].plain_end as usize),
            (cut_in_frame, whole[1].plain_end as usize),
        ] {
            let frames = Packed::of(&bytes[..cut]).open().expect("opens");
            let text = all(&frames);
            assert!(frames.is_damaged());
            assert_eq!(text.len() as u64, frames.len());
            assert!(text[..sound] == plain[..sound], "{cut}");
            assert!(text.ends_with(b"\0\n"), "it says that there may have been more");
        }
    }

    #[test]
    fn what_is_no_packed_text_is_refused() {
        let one_large_frame = zstd::bulk::compress(&vec![b'x'; 20 << 20], 1).expect("packed");
        for bytes in [&b""[..], b"{\"seq\":0}\n", &[0; 100], &FRAME_MAGIC.to_le_bytes(), &one_large_frame] {
            let error = Packed::of(bytes).open().err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn lengths_that_lie_cost_no_memory() {
        let packed = Packed::new(&lines(3, 1000));
        let bytes = packed.bytes();
        let table_at = bytes.len() - FOOTER_BYTES as usize - 8;
        let with = |at: usize, number: u32| {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        // A packed length and a plain length that are too long, a count of frames that is, and a text that is longer than it says.
        let count_at = bytes.len() - FOOTER_BYTES as usize;
        for (bytes, is_hole) in
            [(with(table_at, u32::MAX), true), (with(table_at + 4, u32::MAX), true), (with(count_at, u32::MAX), true)]
        {
            let frames = Packed::of(&bytes).open().expect("opens");
            assert!(frames.is_damaged() && frames.len() == 3002 && is_hole);
        }
        let frames = Packed::of(&with(table_at + 4, 500)).open().expect("opens");
        assert_eq!(all(&frames), lines(3, 1000).concat()[..500]);
        let frames = Packed::of(&with(table_at + 4, 5 << 20)).open().expect("opens");
        let text = all(&frames);
        assert!(text.len() == 5 << 20 && text.starts_with(&lines(3, 1000).concat()) && text.ends_with(b"\0\n"));
    }

    #[test]
    fn a_frame_that_wants_more_memory_than_ours_is_a_hole() {
        let mut packer = zstd::bulk::Compressor::new(1).expect("memory");
        packer.set_parameter(CParameter::WindowLog(27)).expect("a window of 128 MiB");
        packer.set_parameter(CParameter::ContentSizeFlag(false)).expect("so that it is not made smaller");
        let mut bytes = packer.compress(b"hello\n").expect("packed");
        let packed = bytes.len() as u32;
        bytes.extend_from_slice(&TABLE_MAGIC.to_le_bytes());
        for number in [17, packed, 6, 1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        let frames = Packed::of(&bytes).open().expect("opens");
        let text = all(&frames);
        assert!(text == b"hello\n" || (text == b"\0\0\0\0\0\n" && frames.is_damaged()), "{text:?}");
    }

    #[test]
    fn the_tool_of_zstd_unpacks_it() {
        let lines = lines(40, 100_000);
        let packed = Packed::new(&lines);
        let mut text = Vec::new();
        // What the tool does: frame by frame, passing over what is none.
        zstd::stream::copy_decode(&packed.bytes()[..], &mut text).expect("unpacked");
        assert!(text == lines.concat());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn any_damage_leaves_a_text_of_one_length(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = Packed::new(&lines(5, 300)).bytes();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(frames) = Packed::of(&bytes).open() {
                prop_assert_eq!(all(&frames).len() as u64, frames.len());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&FRAME_MAGIC.to_le_bytes()[..], &bytes].concat();
            if let Ok(frames) = Packed::of(&bytes).open() {
                prop_assert_eq!(all(&frames).len() as u64, frames.len());
            }
        }
    }
}
