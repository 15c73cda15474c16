//! What a line costs to write and to read, beside `serde_json` to and from its `Value` on the same bytes.
//!
//! `cargo bench -p longhand-session-store --bench format`. Each figure is the median of [`ROUNDS`] rounds; the ways take turns, so
//! that a busy machine slows all of them.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use serde_json::Value;
use session_store::{AssistantText, Entry, Event, Timestamp, ToolFinished, ToolOutcome};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 41;
const CALLS: u32 = 20_000;
const LINE_BYTES: usize = 600;
/// Text as models write it: with line ends and quotes, which JSON escapes.
const PROSE: &str = "The tide \"turns\" twice a day,\nand nobody has asked it why. ";

fn main() {
    let text = |bytes: usize| PROSE.chars().cycle().take(bytes).collect::<String>();
    let piece: Event = AssistantText { message: 1000, offset: 48_000, text: text(470) }.into();
    let result: Event = ToolFinished {
        call: "call_1000_0".to_owned(),
        name: "read".to_owned(),
        outcome: ToolOutcome::Ok,
        output: text(420),
        full: None,
        images: Vec::new(),
        duration_ms: 12,
    }
    .into();
    println!("{:<16} {:>6}  {:>21}  {:>21}", "event", "bytes", "write: ours / Value", "read: ours / Value");
    for event in [piece, result] {
        compare(&Entry { sound: false, ..Entry::new(1001, Timestamp::from_ms(1_769_904_000_000), event) });
    }
}

fn compare(entry: &Entry) {
    let mut line = Vec::new();
    entry.write_line(&mut line, 0x1234_5678);
    assert!(line.len().abs_diff(LINE_BYTES) < LINE_BYTES / 10, "{} bytes", line.len());
    let json = &line[..line.len() - 1];
    let value: Value = serde_json::from_slice(json).expect("our own line");
    assert_eq!(Entry::read_line(json).as_ref(), Some(entry), "what is timed is right");

    let mut out = Vec::with_capacity(4096);
    let mut ours = |_| {
        out.clear();
        black_box(black_box(entry).write_line(&mut out, 0x1234_5678));
    };
    let mut other = Vec::with_capacity(4096);
    let mut theirs = |_| {
        other.clear();
        serde_json::to_writer(&mut other, black_box(&value)).expect("written to memory");
        black_box(&other);
    };
    let write = race(&mut ours, &mut theirs);
    let read = race(
        &mut |_| {
            black_box(Entry::read_line(black_box(json)));
        },
        &mut |_| {
            black_box(serde_json::from_slice::<Value>(black_box(json)).ok());
        },
    );
    println!("{:<16} {:>6}  {}  {}", entry.event.type_name(), line.len(), cell(write), cell(read));
}

fn cell((ours, theirs): (f64, f64)) -> String {
    format!("{ours:>5.0} / {theirs:<5.0}ns {:>4.2}x", ours / theirs)
}

/// The medians of both, in nanoseconds a call.
fn race(ours: &mut dyn FnMut(u32), theirs: &mut dyn FnMut(u32)) -> (f64, f64) {
    let mut samples: (Vec<f64>, Vec<f64>) = (0..ROUNDS).map(|_| (time(ours), time(theirs))).unzip();
    (median(&mut samples.0), median(&mut samples.1))
}

fn time(call: &mut dyn FnMut(u32)) -> f64 {
    let start = Instant::now();
    (0..CALLS).for_each(call);
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
