//! What a running tool puts out, as it comes.
//!
//! ```text
//!   tool --write--> bytes -> UTF-8 -> known secrets replaced -> start and end are kept
//!                                                                 |-- readers of the turn, at once (`Turn`)
//!                                                                 |-- pieces in the log, each 250 ms (`tool_calls.rs`)
//!                                                                 `-- the words of a tool that was stopped
//! ```
//!
//! Promises: a write never waits, whoever reads; what is kept is bounded; nothing that leaves here holds a known secret, wherever it was cut into
//! pieces. So of the end as much is held back as may still become a secret or a character.

use crate::secrets::{Hiding, Secrets};
use crate::session::lock;
use crate::tokens::floor_char_boundary;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Kept of the output's start, and as much of its end, in bytes.
const HALF_BYTES: usize = 512 * 1024;

/// Takes a tool's output while the tool runs: people see it at once, the log has it soon after, and a tool that is stopped, or dies with the process,
/// does not lose it. Clones are the same sink.
///
/// What a tool writes is no part of its result; [`OutputSink::text`] gives it for that. Of a great deal of output the start and the end are kept, and watchers see no more than they
/// can follow.
#[derive(Clone, Default)]
pub struct OutputSink {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    written: Mutex<Written>,
    /// Somebody logs it.
    more: Notify,
    /// Told of each write.
    on_write: Option<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for OutputSink {
    /// Says how much, not what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutputSink({} bytes)", self.end())
    }
}

impl OutputSink {
    /// A sink that replaces `secrets` and calls `on_write` after each write.
    pub(crate) fn new(secrets: &Secrets, on_write: impl Fn() + Send + Sync + 'static) -> Self {
        let written = Written { hiding: secrets.hiding(), ..Written::default() };
        Self {
            shared: Arc::new(Shared { written: Mutex::new(written), more: Notify::new(), on_write: Some(Box::new(on_write)) }),
        }
    }

    /// Takes more output. Never waits. A character may be cut by the end of `bytes`; what is no UTF-8 is replaced.
    pub fn write(&self, bytes: impl AsRef<[u8]>) {
        lock(&self.shared.written).write(bytes.as_ref());
        self.shared.more.notify_one();
        if let Some(on_write) = &self.shared.on_write {
            on_write();
        }
    }

    /// All of it so far, with known secrets replaced by their markers; of more than 1 MiB its start and its end.
    #[must_use]
    pub fn text(&self) -> String {
        lock(&self.shared.written).text()
    }

    /// How much came, in bytes of the text that it became.
    pub(crate) fn end(&self) -> u64 {
        lock(&self.shared.written).end()
    }

    /// What came after `offset`, the newest `most` bytes of it at most (64 KiB and no more are sure to be there), and where that starts: offsets count bytes
    /// of the text that the output became.
    #[must_use]
    pub fn since(&self, offset: u64, most: usize) -> (u64, String) {
        lock(&self.shared.written).since(offset, most)
    }

    /// Returns once something came after `offset`; one at a time may wait.
    pub(crate) async fn more_than(&self, offset: u64) {
        while self.end() <= offset {
            self.shared.more.notified().await;
        }
    }
}

/// Text of any length in bounded memory: its start and its end.
#[derive(Default)]
struct Written {
    /// The start of a character that is not whole yet.
    cut: Vec<u8>,
    hiding: Hiding,
    head: String,
    /// Twice its size at most: what is too much leaves in large pieces.
    tail: String,
    left_out: u64,
}

impl Written {
    fn write(&mut self, bytes: &[u8]) {
        let joined;
        let bytes = if self.cut.is_empty() {
            bytes
        } else {
            joined = [&std::mem::take(&mut self.cut), bytes].concat();
            &joined
        };
        let mut safe = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.hiding.push(chunk.valid(), &mut safe);
            match chunk.invalid() {
                [] => {}
                cut if chunks.peek().is_none() && is_start_of_char(cut) => self.cut = cut.to_vec(),
                _ => self.hiding.push("\u{fffd}", &mut safe),
            }
        }
        self.push(&safe);
    }

    fn push(&mut self, text: &str) {
        let room = if self.tail.is_empty() && self.left_out == 0 { HALF_BYTES - self.head.len() } else { 0 };
        let (head, tail) = text.split_at(floor_char_boundary(text, room));
        self.head.push_str(head);
        self.tail.push_str(tail);
        if self.tail.len() > 2 * HALF_BYTES {
            let excess = self.tail.len() - end_of(&self.tail, HALF_BYTES).len();
            self.tail.drain(..excess);
            self.left_out += excess as u64;
        }
    }

    fn end(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + self.left_out
    }

    fn since(&self, offset: u64, most: usize) -> (u64, String) {
        let new = usize::try_from(self.end().saturating_sub(offset)).unwrap_or(usize::MAX).min(most);
        let mut text = String::new();
        if new > self.tail.len() && self.left_out == 0 {
            text.push_str(end_of(&self.head, new - self.tail.len()));
        }
        text.push_str(end_of(&self.tail, new));
        (self.end() - text.len() as u64, text)
    }

    /// As if it ended here.
    fn text(&self) -> String {
        let mut held = String::new();
        let mut hiding = self.hiding.clone();
        if !self.cut.is_empty() {
            hiding.push("\u{fffd}", &mut held);
        }
        hiding.finish(&mut held);
        let mut all = Self { head: self.head.clone(), tail: self.tail.clone(), left_out: self.left_out, ..Self::default() };
        all.push(&held);
        let Self { mut head, tail, left_out, .. } = all;
        let shown = end_of(&tail, HALF_BYTES);
        match left_out + (tail.len() - shown.len()) as u64 {
            0 => head + shown,
            left_out => {
                head.push_str(&format!("\n[... {left_out} bytes left out ...]\n"));
                head + shown
            }
        }
    }
}

/// Whether bytes that are no UTF-8 may become it.
fn is_start_of_char(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The last `most` bytes of `text`, fewer where a character would be cut.
fn end_of(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "sk-123456789012";
    const LONGER: &str = "sk-123456789012-and-more";
    const TWISTED: &str = "ababababababac-äß";

    fn secrets() -> Secrets {
        let env = [("MY_API_KEY", KEY), ("LONG_TOKEN", LONGER), ("OTHER_TOKEN", TWISTED)];
        Secrets::from_env(&env.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    fn sink() -> OutputSink {
        OutputSink::new(&secrets(), || {})
    }

    /// Output in which secrets begin, end, overlap and are cut.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(KEY.as_bytes().to_vec()),
            Just(LONGER.as_bytes().to_vec()),
            Just(TWISTED.as_bytes().to_vec()),
            (0..LONGER.len()).prop_map(|end| LONGER.as_bytes()[..end].to_vec()),
            (0..TWISTED.len()).prop_map(|end| TWISTED.as_bytes()[..end].to_vec()),
            prop::collection::vec(any::<u8>(), 0..8),
            "[a-cäß日 \n]{0,9}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_the_pieces_the_text_is_the_same_and_none_holds_a_secret(
            output in output(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
        ) {
            let whole = secrets().hide(String::from_utf8_lossy(&output).into_owned());
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(output.len() + 1)).chain([0, output.len()]).collect();
            cuts.sort_unstable();
            let sink = sink();
            let (mut seen, mut live) = (0, String::new());
            for piece in cuts.windows(2) {
                sink.write(&output[piece[0]..piece[1]]);
                let (offset, text) = sink.since(seen, usize::MAX);
                prop_assert_eq!(offset, seen);
                seen = offset + text.len() as u64;
                live.push_str(&text);
                for secret in [KEY, LONGER, TWISTED] {
                    prop_assert!(!live.contains(secret) && !sink.text().contains(secret));
                }
            }
            prop_assert_eq!(sink.text(), whole.clone());
            prop_assert!(whole.starts_with(&live), "{:?} {:?}", live, whole);
        }
    }

    #[test]
    fn no_more_is_held_back_than_may_become_a_secret_or_a_character() {
        let sink = sink();
        sink.write(format!("tests: {}", &KEY[..10]));
        assert_eq!(sink.since(0, 100), (0, "tests: ".to_owned()));
        sink.write(" it was none\n\u{20ac}".as_bytes().split_last().expect("bytes").1);
        assert_eq!(sink.since(7, 100).1, format!("{} it was none\n", &KEY[..10]));
        sink.write([0xac]);
        assert_eq!(sink.since(7, 100).1, format!("{} it was none\n\u{20ac}", &KEY[..10]));
    }

    #[test]
    fn of_any_amount_of_output_the_start_and_the_end_are_kept_in_bounded_memory() {
        let sink = OutputSink::default();
        let line = "a line of output, as so many\n".repeat(4_096);
        let lines = 600;
        sink.write("the start\n");
        for _ in 0..lines {
            sink.write(&line);
            let written = lock(&sink.shared.written);
            assert!(written.head.capacity() + written.tail.capacity() < 8 * HALF_BYTES);
        }
        sink.write("the end");
        let all = 17 + line.len() * lines;
        let text = sink.text();
        assert!(text.starts_with("the start\n") && text.ends_with("the end"));
        let left_out = format!("\n[... {} bytes left out ...]\n", all - 2 * HALF_BYTES);
        assert!(text.contains(&left_out) && text.len() == 2 * HALF_BYTES + left_out.len());
        assert_eq!(sink.since(0, 7), (all as u64 - 7, "the end".to_owned()));
    }
}
