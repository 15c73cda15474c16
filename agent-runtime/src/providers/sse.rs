//! Server-sent events, as the WHATWG standard has them, from chunks cut anywhere.
//!
//! Promises: the events are the same however the bytes are cut into chunks; lines end in LF, CRLF or CR; a byte-order mark
//! at the start, comments and unknown fields are passed over; bytes that are not UTF-8 become U+FFFD. A line and an event are
//! bounded by [`MAX_EVENT_BYTES`]. The work is linear in the bytes, also for one line in ten thousand chunks.
//!
//! It does not reconnect: `id` and `retry` are passed over.

/// The longest line and the longest event.
pub(crate) const MAX_EVENT_BYTES: usize = 16 << 20;

/// One event. Its name is not kept: the models' protocols say it in the data as well, and some servers leave the name out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) data: String,
}

/// A line or an event was longer than [`MAX_EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EventTooLong;

/// Turns chunks into events: `push` one, then call `next` until there is none.
#[derive(Debug)]
pub(crate) struct SseParser {
    buffer: Vec<u8>,
    /// Where the line that is being read starts in `buffer`.
    line: usize,
    /// How far that line was searched for its end.
    searched: usize,
    /// The last line ended in CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Nothing was read yet: a byte-order mark may come.
    at_start: bool,
    data: Vec<u8>,
    has_data: bool,
    max: usize,
}

impl Default for SseParser {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            line: 0,
            searched: 0,
            after_cr: false,
            at_start: true,
            data: Vec::new(),
            has_data: false,
            max: MAX_EVENT_BYTES,
        }
    }
}

impl SseParser {
    /// Takes a chunk. All events of earlier chunks must have been taken out with `next`.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.line);
        self.searched -= self.line;
        self.line = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// The next event that is complete.
    pub(crate) fn next(&mut self) -> Result<Option<SseEvent>, EventTooLong> {
        while let Some((from, to)) = self.next_line() {
            if from == to {
                if let Some(event) = self.finish() {
                    return Ok(Some(event));
                }
            } else {
                self.field(from, to)?;
            }
        }
        if self.buffer.len() - self.line > self.max { Err(EventTooLong) } else { Ok(None) }
    }

    /// The event whose lines are all there but not the blank line after them: at the end of a stream, some servers leave it
    /// out. A line without its end is dropped.
    pub(crate) fn finish(&mut self) -> Option<SseEvent> {
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        let data = String::from_utf8_lossy(&self.data).into_owned();
        self.data.clear();
        Some(SseEvent { data })
    }

    /// The place of the next whole line, without its end.
    fn next_line(&mut self) -> Option<(usize, usize)> {
        if self.after_cr && self.line < self.buffer.len() {
            self.after_cr = false;
            if self.buffer[self.line] == b'\n' {
                self.line += 1;
                self.searched = self.line;
            }
        }
        let Some(found) = self.buffer[self.searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            self.searched = self.buffer.len();
            return None;
        };
        let (mut from, to) = (self.line, self.searched + found);
        self.after_cr = self.buffer[to] == b'\r';
        self.line = to + 1;
        self.searched = self.line;
        if std::mem::take(&mut self.at_start) && self.buffer[from..to].starts_with(b"\xEF\xBB\xBF") {
            from += 3;
        }
        Some((from, to))
    }

    /// Takes a line that is not blank.
    fn field(&mut self, from: usize, to: usize) -> Result<(), EventTooLong> {
        let line = &self.buffer[from..to];
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        if name != b"data" {
            return Ok(());
        }
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.data.len() + value.len() >= self.max {
            return Err(EventTooLong);
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All events of `bytes`, cut into chunks before each place of `cuts`.
    fn parse(bytes: &[u8], cuts: &[usize]) -> Vec<String> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            parser.push(&bytes[pair[0]..pair[1]]);
            while let Some(event) = parser.next().expect("short") {
                events.push(event.data);
            }
        }
        events.extend(parser.finish().map(|event| event.data));
        events
    }

    #[test]
    fn each_kind_of_line_end_ends_a_line() {
        assert_eq!(parse(b"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\r\n\n", &[]), ["a", "b", "c", "d"]);
    }

    #[test]
    fn data_lines_join_and_everything_else_is_passed_over() {
        let stream =
            b"\xEF\xBB\xBFdata: 1\nevent: x\nid: 7\nretry: 9\nnonsense\n:comment\ndata:2\ndata\ndata:  3\n\n: ping\n\n\n";
        assert_eq!(parse(stream, &[]), ["1\n2\n\n 3"]);
    }

    #[test]
    fn an_event_without_its_blank_line_counts_at_the_end_and_a_torn_line_does_not() {
        assert_eq!(parse(b"data: a\n\ndata: b\ndata: to", &[]), ["a", "b"]);
        assert_eq!(parse(b"data: torn", &[]), [""; 0]);
    }

    #[test]
    fn what_is_not_utf8_is_replaced() {
        assert_eq!(parse(b"data: a\xFFb\n\n", &[]), ["a\u{FFFD}b"]);
    }

    #[test]
    fn a_line_or_an_event_over_the_bound_is_refused() {
        let small = || SseParser { max: 10, ..SseParser::default() };
        let mut parser = small();
        parser.push(b"data: 0123456789");
        assert_eq!(parser.next(), Err(EventTooLong));
        let mut parser = small();
        parser.push(b"data: 12345\ndata: 67890\n\n");
        assert_eq!(parser.next(), Err(EventTooLong));
    }

    #[test]
    fn one_line_of_ten_megabytes_in_small_chunks_is_one_event() {
        let mut parser = SseParser::default();
        parser.push(b"data: ");
        for _ in 0..10_240 {
            assert_eq!(parser.next(), Ok(None));
            parser.push(&[b'x'; 1024]);
        }
        parser.push(b"\n\n");
        assert_eq!(parser.next().map(|event| event.map(|event| event.data.len())), Ok(Some(10 << 20)));
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_stream_is_cut(
            lines in prop::collection::vec("(data: ?[a-zäß漢🦀:]{0,6}|: ping|event: x|data|)(\n|\r\n|\r)", 0..20),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let stream = lines.concat();
            prop_assert_eq!(parse(stream.as_bytes(), &cuts), parse(stream.as_bytes(), &[]));
        }

        #[test]
        fn no_bytes_make_it_panic_and_cuts_never_matter(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            prop_assert_eq!(parse(&bytes, &cuts), parse(&bytes, &[]));
        }
    }
}
