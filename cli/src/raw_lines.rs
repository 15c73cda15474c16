//! The lines of a log as bytes, nothing read into them: for copies, which must not change a byte.
//!
//! Only whole lines are given, newline included; what comes after the last newline is perhaps being written, or was torn by a crash.
//! A log only grows, so a reader keeps its place; bytes that are not there yet are asked for again at the next call.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

/// Reads a log line by line.
pub(crate) struct RawLines<Log> {
    log: BufReader<Log>,
    line: Vec<u8>,
    last_seq: Option<u64>,
}

impl<Log: Read + Seek> RawLines<Log> {
    /// Reads `log`, from where it is.
    pub(crate) fn new(log: Log) -> Self {
        Self { log: BufReader::with_capacity(1 << 16, log), line: Vec::new(), last_seq: None }
    }

    /// What is read.
    pub(crate) fn log(&self) -> &Log {
        self.log.get_ref()
    }

    /// The next whole line, or nothing where there is none yet.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        if self.line.ends_with(b"\n") {
            self.line.clear();
        }
        self.log.read_until(b'\n', &mut self.line)?;
        let line = self.line.ends_with(b"\n").then_some(self.line.as_slice());
        self.last_seq = line.and_then(seq_of).or(self.last_seq);
        Ok(line)
    }

    /// The `seq` of the last whole line that is the record of an event.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        self.last_seq
    }

    /// How many bytes after the last whole line were read and held back.
    pub(crate) fn held_back(&self) -> usize {
        if self.line.ends_with(b"\n") { 0 } else { self.line.len() }
    }

    /// Goes to the start of the first whole line that is the record of an event behind `seq`, or to the end of what there is.
    pub(crate) fn skip_past(&mut self, seq: u64) -> io::Result<()> {
        let mut start = 0;
        while let Some(line) = self.next_line()? {
            if seq_of(line).is_some_and(|found| found > seq) {
                break;
            }
            start += line.len() as u64;
        }
        self.line.clear();
        self.log.seek(SeekFrom::Start(start))?;
        Ok(())
    }

    /// Goes to the start of the last `n` whole lines.
    pub(crate) fn skip_to_last(&mut self, n: usize) -> io::Result<()> {
        let mut starts = std::collections::VecDeque::from([0_u64]);
        let mut end = 0;
        while let Some(line) = self.next_line()? {
            end += line.len() as u64;
            starts.push_back(end);
            // One more than `n`: the last is the end.
            starts.drain(..starts.len().saturating_sub(n + 1));
        }
        self.line.clear();
        self.log.seek(SeekFrom::Start(starts.front().copied().unwrap_or(0)))?;
        Ok(())
    }
}

/// The `seq` that a line begins with; nothing where it is no record.
fn seq_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(lines: &mut RawLines<std::fs::File>) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().expect("readable") {
            all.push(String::from_utf8_lossy(line).into_owned());
        }
        all
    }

    #[test]
    fn a_line_is_given_when_it_is_whole_and_once() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut lines = RawLines::new(file.reopen().expect("opens"));
        file.write_all(b"one\ntw").expect("written");
        assert_eq!(all(&mut lines), ["one\n"]);
        assert_eq!((all(&mut lines).len(), lines.held_back()), (0, 2));
        file.write_all(b"o\n\nthree\n").expect("written");
        assert_eq!(all(&mut lines), ["two\n", "\n", "three\n"]);
        assert_eq!(lines.held_back(), 0);
    }

    #[test]
    fn skipping_to_the_last_lines_keeps_what_comes_after_them() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"one\ntwo\nthree\nfo").expect("written");
        for (n, expected) in [(0, &[][..]), (2, &["two\n", "three\n"]), (9, &["one\n", "two\n", "three\n"])] {
            let mut lines = RawLines::new(file.reopen().expect("opens"));
            lines.skip_to_last(n).expect("readable");
            assert_eq!(all(&mut lines), expected, "{n}");
        }
        let mut lines = RawLines::new(file.reopen().expect("opens"));
        lines.skip_to_last(0).expect("readable");
        file.write_all(b"ur\n").expect("written");
        assert_eq!(all(&mut lines), ["four\n"]);
    }

    #[test]
    fn skipping_past_an_event_goes_to_the_next_record() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"{\"seq\":1,\n  \n{\"seq\":2,\nno record\n{\"seq\":7,\n{\"seq\":8,").expect("written");
        for (seq, expected) in [(0, 5), (1, 3), (2, 1), (6, 1), (7, 0)] {
            let mut lines = RawLines::new(file.reopen().expect("opens"));
            lines.skip_past(seq).expect("readable");
            assert_eq!(all(&mut lines).len(), expected, "{seq}");
        }
    }
}
