//! Damage of every kind, at every place of a small log, against four promises: nothing panics; what was not touched is
//! delivered, as it was and nearly always as sound; everything is reported; chunks do not matter.

use super::*;
use crate::event::{Closed, Compacted, Lost};
use crate::id::Seq;
use crate::samples::{any_event, continued, every_event, lines, note, opened};
use proptest::prelude::*;

/// A small log with what matters to the chain: two owners, and text that looks like records.
fn small_log() -> Vec<Vec<u8>> {
    let events = [
        opened(1),
        note("one"),
        note("{\"seq\":1,\"at\":"),
        note("three \u{1f30a}\n"),
        Closed { epoch: 1, summary: None }.into(),
        opened(2),
        note("six"),
        note(""),
        note("eight"),
    ];
    lines(&events)
}

fn scan(bytes: &[u8]) -> Vec<Scanned> {
    scan_in_chunks(bytes, bytes.len().max(1))
}

fn scan_in_chunks(bytes: &[u8], size: usize) -> Vec<Scanned> {
    let (mut scanner, mut out) = (Scanner::new(), Vec::new());
    bytes.chunks(size).for_each(|chunk| scanner.feed(chunk, &mut out));
    scanner.finish(&mut out);
    out
}

fn entries(found: &[Scanned]) -> impl Iterator<Item = &Entry> {
    found.iter().filter_map(|item| if let Scanned::Entry(entry) = item { Some(entry) } else { None })
}

fn kinds(found: &[Scanned]) -> Vec<ProblemKind> {
    found.iter().filter_map(|item| if let Scanned::Problem(problem) = item { Some(problem.kind) } else { None }).collect()
}

/// Every sound `seq`, in the order of delivery.
fn sound(found: &[Scanned]) -> Vec<Seq> {
    entries(found).filter(|entry| entry.sound).map(|entry| entry.seq).collect()
}

fn unchecked(found: &[Scanned]) -> Vec<Seq> {
    entries(found).filter(|entry| !entry.sound).map(|entry| entry.seq).collect()
}

fn set_aside(found: &[Scanned]) -> usize {
    found.iter().filter(|item| matches!(item, Scanned::SetAside { .. })).count()
}

fn is_reported(found: &[Scanned]) -> bool {
    found.iter().any(|item| matches!(item, Scanned::Problem(_) | Scanned::Fragment { .. }))
}

fn whole(log: &[Vec<u8>]) -> Vec<Entry> {
    entries(&scan(&log.concat())).cloned().collect()
}

#[track_caller]
fn assert_delivered(found: &[Scanned], expected: &Entry, why: &dyn std::fmt::Debug) {
    let same = entries(found).any(|entry| (entry.seq, entry.at, &entry.event) == (expected.seq, expected.at, &expected.event));
    assert!(same, "event {} was lost by {why:?}: {found:#?}", expected.seq);
}

#[track_caller]
fn assert_sound(found: &[Scanned], expected: &Entry, why: &dyn std::fmt::Debug) {
    assert!(entries(found).any(|entry| entry == expected), "event {} is not sound after {why:?}: {found:#?}", expected.seq);
}

#[test]
fn a_whole_log_is_sound_and_without_problems() {
    let log = lines(&every_event());
    let found = scan(&log.concat());
    assert_eq!(sound(&found), (0..log.len() as u64).collect::<Vec<_>>());
    assert_eq!(found.len(), log.len());
    let (mut line, mut offset) = (0, 0);
    for (item, bytes) in found.iter().zip(&log) {
        line += 1;
        let Scanned::Entry(Entry { place, .. }) = item else { panic!("{item:?}") };
        let crc = claim(&bytes[..bytes.len() - 1]).expect("a checksum").1;
        assert_eq!(*place, Place { line, offset, len: bytes.len() as u32 - 1, crc });
        offset += bytes.len() as u64;
    }
}

#[test]
fn a_checksum_runs_backwards() {
    for body in [&b""[..], b"x", b"{\"seq\":0}", &[0; 1000]] {
        for seed in [0, 1, 0xdead_beef, u32::MAX] {
            assert_eq!(seed_of(body, crc32c::crc32c_append(seed, body)), seed);
        }
    }
}

/// Where a byte of the joined log belongs: its line, and whether it is the newline.
fn owner_of(log: &[Vec<u8>], byte: usize) -> (usize, bool) {
    let mut start = 0;
    for (index, line) in log.iter().enumerate() {
        if byte < start + line.len() {
            return (index, byte + 1 == start + line.len());
        }
        start += line.len();
    }
    (log.len(), false)
}

#[test]
fn a_changed_byte_costs_its_own_line_at_most() {
    let log = small_log();
    let (bytes, all) = (log.concat(), whole(&log));
    for at in 0..bytes.len() {
        for change in [1, 2, 4, 8, 16, 32, 64, 128, bytes[at], bytes[at] ^ b'\n', bytes[at] ^ b'"', bytes[at] ^ b'0'] {
            if change == 0 {
                continue;
            }
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            let found = scan(&damaged);
            assert!(is_reported(&found), "byte {at} ^ {change}: {found:#?}");
            let (hit, is_newline) = owner_of(&log, at);
            for entry in &all {
                if entry.seq != hit as u64 || is_newline {
                    assert_sound(&found, entry, &("byte", at, change, damaged[at] as char));
                }
            }
        }
    }
}

#[test]
fn a_removed_or_inserted_byte_costs_its_own_line_at_most() {
    let log = small_log();
    let (bytes, all) = (log.concat(), whole(&log));
    for at in 0..bytes.len() {
        let (hit, is_newline) = owner_of(&log, at);
        let mut cut = bytes.clone();
        cut.remove(at);
        let found = scan(&cut);
        assert!(is_reported(&found), "byte {at} removed");
        all.iter()
            .filter(|entry| entry.seq != hit as u64 || is_newline)
            .for_each(|entry| assert_sound(&found, entry, &("cut", at)));

        for byte in *b"\n\r \0x}0\"{\xff" {
            let mut longer = bytes.clone();
            longer.insert(at, byte);
            let found = scan(&longer);
            assert!(is_reported(&found), "{byte} inserted at {at}");
            all.iter()
                .filter(|entry| entry.seq != hit as u64)
                .for_each(|entry| assert_sound(&found, entry, &("insert", at, byte)));
        }
    }
}

#[test]
fn a_file_cut_anywhere_keeps_every_whole_line() {
    let log = small_log();
    let (bytes, all) = (log.concat(), whole(&log));
    for end in 0..bytes.len() {
        let (cut, _) = owner_of(&log, end);
        let found = scan(&bytes[..end]);
        all[..cut].iter().for_each(|entry| assert_sound(&found, entry, &("cut at", end)));
        let start: usize = log[..cut].iter().map(Vec::len).sum();
        if start < end {
            let only_newline = end + 1 == start + log[cut].len();
            let fragment =
                Scanned::Fragment { offset: start as u64, bytes: bytes[start..end].to_vec(), holds_records: only_newline };
            assert!(found.contains(&fragment), "cut at {end}: {found:#?}");
            assert_eq!(sound(&found).len(), cut + usize::from(only_newline));
        }
        let problems = kinds(&found);
        assert_eq!(problems.contains(&ProblemKind::Empty), sound(&found).is_empty());
    }
}

#[test]
fn a_missing_line_is_a_gap_and_the_line_after_it_is_unchecked() {
    let log = small_log();
    let all = whole(&log);
    for missing in 0..log.len() - 1 {
        let mut shorter = log.clone();
        shorter.remove(missing);
        let found = scan(&shorter.concat());
        assert_eq!(kinds(&found), [ProblemKind::Unchecked, ProblemKind::Gap], "line {missing}");
        assert_eq!(unchecked(&found), [missing as u64 + 1]);
        all.iter().filter(|entry| entry.seq != missing as u64).for_each(|entry| assert_delivered(&found, entry, &missing));
        assert_eq!(sound(&found).len(), log.len() - 2);
    }
}

#[test]
fn an_event_whose_seq_alone_was_changed_is_unchecked_in_its_place() {
    let log = lines(&[opened(1), note("one"), note("two"), note("three")]);
    let expected = whole(&log);
    for line in 0..log.len() {
        for seq in ["7", "0", "1", "2", "3", "900", "9007199254740991"].into_iter().filter(|seq| *seq != line.to_string()) {
            let mut damaged = log.clone();
            let text = String::from_utf8(damaged[line].clone()).expect("text");
            damaged[line] = text.replacen(&format!("\"seq\":{line}"), &format!("\"seq\":{seq}"), 1).into_bytes();
            let found = scan(&damaged.concat());
            let delivered: Vec<_> = entries(&found).map(|entry| (entry.seq, entry.event.clone(), entry.sound)).collect();
            let all: Vec<_> = expected.iter().map(|entry| (entry.seq, entry.event.clone(), entry.seq != line as Seq)).collect();
            assert_eq!(delivered, all, "line {line} says {seq}");
            assert_eq!(kinds(&found).len(), 1, "line {line} says {seq}: {found:?}");
        }
    }
}

#[test]
fn events_that_are_left_out_are_no_gap() {
    let left_out = |from, to| -> Event { Compacted { from, to, count: to - from + 1 }.into() };
    let (mut log, crc) = continued(0, 0, &[opened(1), note("one"), left_out(2, 4)]);
    let (more, crc) = continued(crc, 5, &[left_out(5, 8)]);
    log.extend(more);
    log.extend(continued(crc, 9, &[note("nine"), note("ten")]).0);
    let mut scanner = Scanner::new();
    let mut found = Vec::new();
    scanner.feed(&log.concat(), &mut found);
    scanner.finish(&mut found);
    assert_eq!((sound(&found), kinds(&found)), (vec![0, 1, 2, 5, 9, 10], Vec::new()));
    assert_eq!(scanner.next_seq(), 11);

    // What is really missing is told, and a line that cannot be checked stands for itself alone.
    let without = [&log[..3], &log[4..]].concat().concat();
    assert_eq!(kinds(&scan(&without)), [ProblemKind::Unchecked, ProblemKind::Gap]);
    let mut damaged = log;
    let at = damaged[2].len() - 5;
    damaged[2][at] ^= 1;
    let found = scan(&damaged.concat());
    assert!(kinds(&found).contains(&ProblemKind::Gap), "{found:?}");
    assert_eq!(sound(&found), [0, 1, 5, 9, 10]);
}

#[test]
fn a_repeated_line_is_set_aside() {
    let log = small_log();
    let all = whole(&log);
    for (from, to) in pairs(log.len(), log.len() + 1).filter(|(from, to)| from < to) {
        let mut longer = log.clone();
        longer.insert(to, log[from].clone());
        let found = scan(&longer.concat());
        assert_eq!(kinds(&found), [ProblemKind::OutOfPlace], "line {from} again before {to}");
        assert_eq!((sound(&found), set_aside(&found)), ((0..log.len() as u64).collect(), 1), "line {from} again before {to}");
        assert_eq!(whole(&longer), all);
    }
}

#[test]
fn a_line_that_came_too_early_is_told_and_everything_is_kept() {
    let log = small_log();
    let all = whole(&log);
    for (from, to) in pairs(log.len(), log.len()).filter(|(from, to)| from > to) {
        let mut longer = log.clone();
        longer.insert(to, log[from].clone());
        let found = scan(&longer.concat());
        assert!(is_reported(&found));
        all.iter().for_each(|entry| assert_sound(&found, entry, &("too early", from, to)));
    }
}

#[test]
fn swapped_and_moved_lines_are_kept_and_told() {
    let log = small_log();
    let all = whole(&log);
    for (a, b) in pairs(log.len(), log.len()).filter(|(a, b)| a != b) {
        let mut swapped = log.clone();
        swapped.swap(a, b);
        let mut moved = log.clone();
        let line = moved.remove(a);
        moved.insert(b, line);
        for lines in [swapped, moved] {
            let found = scan(&lines.concat());
            assert!(kinds(&found).contains(&ProblemKind::Unchecked), "{a} {b}: {found:#?}");
            all.iter().for_each(|entry| assert_delivered(&found, entry, &("swapped or moved", a, b)));
            assert!(sound(&found).len() + 3 >= log.len(), "{a} {b}: {found:#?}");
            assert_eq!(entries(&found).count(), log.len(), "{a} {b}: {found:#?}");
        }
    }
}

fn pairs(a: usize, b: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..a).flat_map(move |a| (0..b).map(move |b| (a, b)))
}

#[test]
fn two_damaged_lines_leave_what_is_between_them() {
    let log = small_log();
    let all = whole(&log);
    let bytes = log.concat();
    let starts: Vec<usize> = (0..log.len()).map(|line| log[..line].iter().map(Vec::len).sum()).collect();
    for (a, b) in pairs(log.len(), log.len()).filter(|(a, b)| a < b) {
        for (in_a, in_b) in pairs(5, 5) {
            let mut damaged = bytes.clone();
            damaged[starts[a] + (log[a].len() - 2) * in_a / 4] ^= 1;
            damaged[starts[b] + (log[b].len() - 2) * in_b / 4] ^= 1;
            let found = scan(&damaged);
            for entry in all.iter().filter(|entry| entry.seq != a as u64 && entry.seq != b as u64) {
                assert_sound(&found, entry, &("two bytes", a, in_a, b, in_b));
            }
        }
    }
}

#[test]
fn a_hole_of_zeros_costs_what_was_in_it_and_a_line() {
    let log = small_log();
    let (bytes, all) = (log.concat(), whole(&log));
    for (from, to) in pairs(bytes.len(), bytes.len()).filter(|(from, to)| from < to && (from + to) % 53 == 0) {
        let mut damaged = bytes.clone();
        damaged[from..to].fill(0);
        let found = scan(&damaged);
        assert!(is_reported(&found));
        let (first, first_is_newline) = owner_of(&log, from);
        let (last, last_is_newline) = owner_of(&log, to - 1);
        for entry in &all {
            let line = entry.seq as usize;
            if line < first || line > last || (line == first && first_is_newline) {
                assert_delivered(&found, entry, &("hole", from, to, last_is_newline));
            }
        }
    }
}

#[test]
fn carriage_returns_and_a_byte_order_mark_are_read_around() {
    let log = small_log();
    let text = String::from_utf8(log.concat()).expect("UTF-8");
    let found = scan(format!("\u{feff}{}", text.replace('\n', "\r\n")).as_bytes());
    assert_eq!(sound(&found).len(), log.len());
    assert_eq!(kinds(&found), vec![ProblemKind::Formatting; log.len()]);
}

#[test]
fn blank_lines_are_told_and_cost_nothing() {
    let log = small_log();
    for at in 0..=log.len() {
        for blank in [&b"\n"[..], b"   \n", b"\r\n"] {
            let mut longer = log.clone();
            longer.insert(at, blank.to_vec());
            let found = scan(&longer.concat());
            assert_eq!((sound(&found).len(), kinds(&found)), (log.len(), vec![ProblemKind::Formatting]), "before {at}");
        }
    }
}

#[test]
fn a_file_that_another_tool_rewrote_is_read_and_none_of_it_is_sound() {
    let log = small_log();
    let rewritten: String = log
        .iter()
        .map(|line| {
            let json: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            let mut members: Vec<_> = json.as_object().expect("an object").clone().into_iter().collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            format!("{}\n", serde_json::Value::Object(members.into_iter().collect())).replace("\":", "\": ")
        })
        .collect();
    let found = scan(rewritten.as_bytes());
    assert_eq!(unchecked(&found), (0..log.len() as u64).collect::<Vec<_>>());
    let mut expected = vec![ProblemKind::Unchecked; log.len()];
    expected.push(ProblemKind::Empty);
    assert_eq!(kinds(&found), expected);
}

#[test]
fn a_file_of_anything_else_is_empty() {
    for bytes in [&b""[..], b"\n", b"hello\n", b"\0\0\0\0", b"{}\n{}\n", b"[1,2,3]", b"\xff\xfe\n"] {
        let found = scan(bytes);
        assert!(kinds(&found).contains(&ProblemKind::Empty), "{found:?}");
        assert_eq!(entries(&found).count(), 0);
    }
}

/// A log whose first owner died in the middle of a line, as the next owner leaves it.
fn recovered_log(blank: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let log = small_log();
    let (first, rest) = log.split_at(3);
    let fragment = &rest[0][..rest[0].len() / 2];
    let offset: usize = first.iter().map(Vec::len).sum();
    let crc = claim(first[2].trim_ascii()).expect("a checksum").1;
    let recovered = Recovered {
        offset: offset as u64,
        bytes: fragment.len() as u64,
        fragment: String::from_utf8_lossy(fragment).into_owned(),
        full: None,
    };
    let (after, _) = continued(crc, 3, &[opened(2), recovered.into(), note("on we go")]);
    let mut fragment_line = blank(fragment.len());
    fragment_line.push(b'\n');
    [first.concat(), fragment_line, after.concat()].concat()
}

#[test]
fn a_torn_line_that_was_put_aside_is_no_problem() {
    for line in [|len: usize| vec![b' '; len], |len: usize| small_log()[3][..len].to_vec()] {
        let found = scan(&recovered_log(line));
        assert_eq!((kinds(&found), sound(&found)), (vec![], vec![0, 1, 2, 3, 4, 5]));
    }
    let found = scan(&recovered_log(|len| vec![b' '; len + 1]));
    assert_eq!(kinds(&found), [ProblemKind::Formatting], "a blank line that nothing explains");
}

type Lines = Vec<Vec<u8>>;

/// A log taken over after `at` of its lines by a new owner, and what the old owner would have written.
fn overtaken(at: usize) -> (Lines, Lines, Lines) {
    let before = small_log()[..at].to_vec();
    let crc = claim(before[at - 1].trim_ascii()).expect("a checksum").1;
    let (new, _) = continued(crc, at as u64, &[opened(7), note("new 1"), note("new 2"), note("new 3")]);
    let (stale, _) = continued(crc, at as u64, &[note("old 1"), note("old 2"), note("old 3"), note("old 4"), note("old 5")]);
    (before, new, stale)
}

#[test]
fn a_stale_writer_is_set_aside_however_its_lines_are_mixed_in() {
    for at in [1, 3, 5, 8] {
        let (before, new, stale) = overtaken(at);
        // Every way to mix five stale lines into what follows the new owner's first.
        for mix in 0..1_u32 << 8 {
            if mix.count_ones() != 5 {
                continue;
            }
            let (mut old, mut own) = (stale.iter(), new[1..].iter());
            let mixed: Vec<_> =
                (0..8).filter_map(|bit| if mix >> bit & 1 == 1 { old.next() } else { own.next() }).cloned().collect();
            let found = scan(&[before.concat(), new[0].clone(), mixed.concat()].concat());
            assert_eq!(sound(&found), (0..at as u64 + 4).collect::<Vec<_>>(), "{mix:b}: {found:#?}");
            assert_eq!((unchecked(&found), set_aside(&found)), (vec![], 5));
            assert_eq!(kinds(&found), vec![ProblemKind::StaleWriter; 5]);
        }
    }
}

#[test]
fn a_stale_writer_that_finishes_its_torn_line_is_set_aside() {
    let (before, new, stale) = overtaken(4);
    for cut in 1..stale[0].len() - 1 {
        let (start, rest) = stale[0].split_at(cut);
        let file = [before.concat(), start.to_vec(), b"\n".to_vec(), new.concat(), rest.to_vec(), stale[1..].concat()].concat();
        let found = scan(&file);
        assert_eq!(sound(&found), (0..8).collect::<Vec<_>>(), "{cut}: {found:#?}");
        assert_eq!((unchecked(&found), set_aside(&found)), (vec![], 4), "{cut}: {found:#?}");
    }
}

#[test]
fn the_first_to_open_an_epoch_owns_it() {
    let log = small_log();
    let crc = claim(log[8].trim_ascii()).expect("a checksum").1;
    let winner = continued(crc, 9, &[opened(3), note("won")]).0;
    let Event::Opened(mut other) = opened(3) else { panic!("not opened") };
    other.writer = uuid::Uuid::from_u128(1);
    let loser = continued(crc, 9, &[Event::from(other), note("lost")]).0;

    let quiet = scan(&[log.concat(), winner[0].clone(), loser[0].clone(), winner[1].clone()].concat());
    assert_eq!((sound(&quiet).len(), set_aside(&quiet), kinds(&quiet)), (11, 1, vec![]), "a loser that gives up is no problem");

    let loud = scan(&[log.concat(), winner[0].clone(), loser.concat(), winner[1].clone()].concat());
    assert_eq!((sound(&loud).len(), set_aside(&loud), kinds(&loud)), (11, 2, vec![ProblemKind::StaleWriter]));
}

#[test]
fn an_epoch_that_is_taken_is_not_opened_again_on_top_of_its_owner() {
    let log = small_log();
    let crc = claim(log[8].trim_ascii()).expect("a checksum").1;
    let (second, _) = continued(crc, 9, &[opened(2), note("aside")]);
    let (own, _) = continued(crc, 9, &[note("main")]);
    let found = scan(&[log.concat(), second.concat(), own.concat()].concat());
    assert_eq!((sound(&found).len(), set_aside(&found)), (10, 2));
    assert_eq!(entries(&found).last().map(|entry| entry.event.clone()), Some(note("main")));
}

#[test]
fn a_writer_goes_on_after_any_damage_and_its_lines_are_sound() {
    let log = small_log();
    let bytes = log.concat();
    for at in 0..bytes.len() {
        for change in [1, 0x40, bytes[at] ^ b'\n', bytes[at]] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            let (mut scanner, mut out) = (Scanner::new(), Vec::new());
            scanner.feed(&damaged, &mut out);
            let mut end = scanner.clone();
            end.finish(&mut out);
            if damaged.last() != Some(&b'\n') {
                damaged.push(b'\n');
            }
            let (more, _) = continued(end.last_crc(), end.next_seq(), &[opened(3), note("after")]);
            let found = scan(&[damaged, more.concat()].concat());
            let last: Vec<_> = entries(&found).filter(|entry| entry.sound).map(|entry| entry.event.clone()).collect();
            assert!(last.ends_with(&[opened(3), note("after")]), "byte {at} ^ {change}: {found:#?}");
        }
    }
}

#[test]
fn reading_goes_on_from_any_known_position() {
    let log = small_log();
    let all = whole(&log);
    for split in 0..log.len() {
        let (mut first, mut out) = (Scanner::new(), Vec::new());
        first.feed(&log[..split].concat(), &mut out);
        let mut second = Scanner::resume(first.position());
        second.feed(&log[split..].concat(), &mut out);
        second.finish(&mut out);
        assert_eq!(entries(&out).cloned().collect::<Vec<_>>(), all);
        assert_eq!((kinds(&out), second.offset()), (vec![], log.concat().len() as u64));
        assert_eq!(second.position().epoch, 2);
    }
}

#[test]
fn lines_of_any_length_take_bounded_memory() {
    let log = small_log();
    let long = vec![b'x'; LINE_BYTES_MAX * 2 + 5];
    let mut bytes = [log[..4].concat(), long, b"\n".to_vec(), log[4..].concat()].concat();
    let found = scan_in_chunks(&bytes, 1 << 20);
    assert_eq!(sound(&found).len(), log.len());
    assert_eq!(kinds(&found), vec![ProblemKind::Unreadable; 3]);
    assert_eq!(found, scan(&bytes));

    bytes.truncate(bytes.len() - 10);
    let (mut scanner, mut out) = (Scanner::new(), Vec::new());
    for chunk in bytes.chunks(100_000) {
        scanner.feed(chunk, &mut out);
        assert!(scanner.partial.capacity() <= 2 * LINE_BYTES_MAX);
    }
    assert!(scanner.partial.capacity() <= 1 << 20, "what a long line needed was kept");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn chunks_do_not_matter(
        events in prop::collection::vec(any_event(), 0..8),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        size in 1_usize..60,
    ) {
        let mut bytes = lines(&events).concat();
        for (at, byte) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        prop_assert_eq!(scan_in_chunks(&bytes, size), scan(&bytes));
    }

    #[test]
    fn no_edit_of_a_log_of_anything_costs_an_untouched_line(
        events in prop::collection::vec(any_event(), 1..8),
        at in any::<prop::sample::Index>(),
        remove in 0_usize..40,
        insert in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let log = lines(&events);
        let (mut bytes, all) = (log.concat(), whole(&log));
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + remove);
        let (first, _) = owner_of(&log, at);
        let (last, _) = owner_of(&log, end.saturating_sub(1).max(at));
        bytes.splice(at..end, insert);
        let found = scan(&bytes);
        for entry in all.iter().filter(|entry| (entry.seq as usize) < first || entry.seq as usize > last) {
            assert_delivered(&found, entry, &("edit", at, end));
        }
    }

    #[test]
    fn several_damages_at_once_make_no_sound_event_and_no_line_vanishes(
        edits in prop::collection::vec((0_u8..4, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u8..), 1..5),
    ) {
        let all = whole(&small_log());
        let only_moved = edits.iter().all(|(kind, ..)| matches!(kind, 0 | 2));
        let mut log = small_log();
        for (kind, a, b, bits) in edits {
            let (a, b) = (a.index(log.len()), b.index(log.len()));
            match kind {
                0 if log.len() > 1 => drop(log.remove(a)),
                1 => log.insert(b, log[a].clone()),
                2 => log.swap(a, b),
                _ => {
                    let at = usize::from(bits) % (log[a].len() - 1);
                    log[a][at] ^= bits;
                }
            }
        }
        let bytes = log.concat();
        let found = scan(&bytes);
        let mut seen = sound(&found);
        seen.sort_unstable();
        prop_assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "twice sound: {seen:?}");
        for entry in entries(&found).filter(|entry| entry.sound) {
            prop_assert!(all.contains(entry), "never written: {entry:?}");
        }
        // What a damaged copy took the place of is set aside; else it is delivered.
        let aside: Vec<&[u8]> = found
            .iter()
            .filter_map(|item| if let Scanned::SetAside { place } = item { Some(place) } else { None })
            .map(|place| &bytes[place.offset as usize..][..place.len as usize])
            .collect();
        for (entry, line) in all.iter().zip(small_log()).filter(|(_, line)| log.contains(line)) {
            if only_moved || !aside.contains(&line.trim_ascii()) {
                assert_delivered(&found, entry, &"several damages");
            }
        }
    }

    #[test]
    fn any_bytes_can_be_scanned(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\n{}\"seq:0,"[..])], 0..400)) {
        let found = scan(&bytes);
        prop_assert!(kinds(&found).contains(&ProblemKind::Empty));
    }
}

/// What version 1 wrote, and what it met. These files are never edited; a new version reads them as the old one did.
#[test]
fn the_fixtures_of_version_1_are_read_as_they_always_were() {
    use ProblemKind::{Empty, Formatting, Gap, StaleWriter, Unchecked, Unreadable};
    // A name, the file, its events, those of them that are not sound, how many lines are set aside, and the problems.
    type Row<'a> = (&'a str, &'a [u8], Vec<Seq>, Vec<Seq>, usize, Vec<ProblemKind>);
    let table: [Row<'_>; 8] = [
        ("every event", include_bytes!("../../tests/fixtures/v1/every-event.jsonl"), (0..27).collect(), vec![], 0, vec![]),
        ("recovered", include_bytes!("../../tests/fixtures/v1/recovered.jsonl"), (0..6).collect(), vec![], 0, vec![]),
        ("newer", include_bytes!("../../tests/fixtures/v1/newer.jsonl"), (0..4).collect(), vec![], 0, vec![]),
        ("torn", include_bytes!("../../tests/fixtures/v1/torn.jsonl"), (0..8).collect(), vec![], 0, vec![]),
        (
            "stale writer",
            include_bytes!("../../tests/fixtures/v1/stale-writer.jsonl"),
            (0..8).collect(),
            vec![],
            5,
            vec![StaleWriter; 5],
        ),
        (
            "damaged",
            include_bytes!("../../tests/fixtures/v1/damaged.jsonl"),
            vec![0, 2, 5, 8],
            vec![1, 4, 7],
            0,
            vec![Unchecked, Unchecked, Unreadable, Unchecked, Gap],
        ),
        ("windows", include_bytes!("../../tests/fixtures/v1/windows.jsonl"), (0..9).collect(), vec![], 0, vec![Formatting; 9]),
        (
            "rewritten",
            include_bytes!("../../tests/fixtures/v1/rewritten.jsonl"),
            vec![],
            (0..9).collect(),
            0,
            [vec![Unchecked; 9], vec![Empty]].concat(),
        ),
    ];
    for (name, bytes, sound_events, unchecked_events, aside, problems) in table {
        let found = scan(bytes);
        assert_eq!(
            (sound(&found), unchecked(&found), set_aside(&found), kinds(&found)),
            (sound_events, unchecked_events, aside, problems),
            "{name}"
        );
    }
}

/// The line with a mark before its checksum, and that made new, behind a line with checksum `crc`.
fn marked(line: &[u8], crc: u32) -> (Vec<u8>, u32) {
    let (body, _) = claim(line.trim_ascii_end()).expect("a line");
    let body = [body, UNCHECKED].concat();
    let crc = crc32c::crc32c_append(crc, &body);
    ([&body[..], format!(",\"crc\":\"{crc:08x}\"}}\n").as_bytes()].concat(), crc)
}

#[test]
fn what_a_repair_marked_stays_unchecked_in_a_sound_chain() {
    let (before, crc) = continued(0, 0, &[opened(1), note("one")]);
    let (approved, crc) = marked(&continued(0, 2, &[note("two")]).0[0], crc);
    // A marked `opened` of an epoch that is taken has lost no race.
    let (again, crc) = marked(&continued(0, 3, &[opened(1)]).0[0], crc);
    let (missing, crc) = continued(crc, 4, &[Lost { from: 4, to: 6 }.into()]);
    let (after, _) = continued(crc, 7, &[note("seven")]);
    let found = scan(&[before.concat(), approved, again, missing.concat(), after.concat()].concat());
    assert_eq!((sound(&found), unchecked(&found)), (vec![0, 1, 4, 7], vec![2, 3]), "{found:?}");
    assert_eq!((kinds(&found), set_aside(&found)), (Vec::new(), 0));
    assert!(entries(&found).all(|entry| !format!("{entry:?}").contains("unchecked")), "the mark is no field");
}

#[test]
fn the_events_of_version_1_mean_what_they_meant() {
    let found = scan(include_bytes!("../../tests/fixtures/v1/every-event.jsonl"));
    let events: Vec<Event> = entries(&found).map(|entry| entry.event.clone()).collect();
    // Types that came later stand behind them.
    assert_eq!(events, every_event()[..events.len()]);
}
