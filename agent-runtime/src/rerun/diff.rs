//! The difference of two bodies for people: a line diff of their JSON, spread over lines, around what differs.

use serde_json::Value;
use std::fmt::Write;

/// Lines without a difference that are shown on either side of one.
const CONTEXT: usize = 3;
/// The most lines that are shown, and characters of each.
const LINES_MAX: usize = 120;
const LINE_CHARS: usize = 160;
/// Where two texts are compared line by line with each other, at most so many pairs of lines.
const PAIRS_MAX: usize = 4_000_000;

/// What a line of a diff is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    Same(usize),
    Then(usize),
    Now(usize),
}

/// The body as JSON over many lines, or as it is where it is none.
pub(super) fn pretty(body: &[u8]) -> String {
    let json = serde_json::from_slice::<Value>(body).and_then(|body| serde_json::to_string_pretty(&body));
    json.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned())
}

/// The lines of `then` and `now` that differ, with `-` and `+` before them, and some that do not around them.
pub(super) fn diff(then: &str, now: &str) -> String {
    let (then, now): (Vec<&str>, Vec<&str>) = (then.lines().collect(), now.lines().collect());
    let lines = compare(&then, &now);
    let mut out = String::new();
    let (mut shown, mut place) = (0, 0);
    while place < lines.len() {
        if matches!(lines[place], Line::Same(_)) && !is_near(&lines, place) {
            let skipped = lines[place..]
                .iter()
                .enumerate()
                .take_while(|(at, line)| matches!(line, Line::Same(_)) && !is_near(&lines, place + at))
                .count();
            let _ = writeln!(out, "@@ {skipped} lines are the same @@");
            place += skipped;
            continue;
        }
        if shown == LINES_MAX {
            let _ = writeln!(out, "@@ {} more lines @@", lines.len() - place);
            break;
        }
        let (mark, text, other) = match lines[place] {
            Line::Same(at) => (' ', then[at], None),
            Line::Then(at) => ('-', then[at], pair(&lines, place).map(|at| now[at])),
            Line::Now(at) => ('+', now[at], pair(&lines, place).map(|at| then[at])),
        };
        let _ = writeln!(out, "{mark}{}", shortened(text, other));
        shown += 1;
        place += 1;
    }
    out
}

fn is_near(lines: &[Line], place: usize) -> bool {
    let around = place.saturating_sub(CONTEXT)..(place + CONTEXT + 1).min(lines.len());
    lines[around].iter().any(|line| !matches!(line, Line::Same(_)))
}

/// The line on the other side that stands for the one at `place`: both have the same place in their run.
fn pair(lines: &[Line], place: usize) -> Option<usize> {
    let start = lines[..place].iter().rposition(|line| matches!(line, Line::Same(_))).map_or(0, |same| same + 1);
    let end = lines[place..].iter().position(|line| matches!(line, Line::Same(_))).map_or(lines.len(), |same| place + same);
    let run = &lines[start..end];
    let is_then = |line: &&Line| matches!(line, Line::Then(_));
    let (then, now): (Vec<&Line>, Vec<&Line>) = run.iter().partition(is_then);
    let (own, others) = if matches!(lines[place], Line::Then(_)) { (then, now) } else { (now, then) };
    let at = own.iter().position(|line| **line == lines[place])?;
    match others.get(at)? {
        Line::Then(other) | Line::Now(other) | Line::Same(other) => Some(*other),
    }
}

/// A long line around the place where it differs from `other`.
fn shortened(line: &str, other: Option<&str>) -> String {
    if line.chars().count() <= LINE_CHARS {
        return line.to_owned();
    }
    let same = other.map_or(0, |other| line.chars().zip(other.chars()).take_while(|(a, b)| a == b).count());
    let from = same.saturating_sub(LINE_CHARS / 3);
    let text: String = line.chars().skip(from).take(LINE_CHARS).collect();
    let before = if from > 0 { "[...] " } else { "" };
    let after = if from + LINE_CHARS < line.chars().count() { " [...]" } else { "" };
    format!("{before}{text}{after}")
}

/// The longest common lines, where that is not too much work; else all of the middle differs.
fn compare(then: &[&str], now: &[&str]) -> Vec<Line> {
    let start = then.iter().zip(now).take_while(|(a, b)| a == b).count();
    let end = then[start..].iter().rev().zip(now[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&then[start..then.len() - end], &now[start..now.len() - end]);
    let mut lines: Vec<Line> = (0..start).map(Line::Same).collect();
    if old.len().saturating_mul(new.len()) <= PAIRS_MAX {
        // `longest[i][j]`: how many lines `old[i..]` and `new[j..]` have in common.
        let width = new.len() + 1;
        let mut longest = vec![0_u32; (old.len() + 1) * width];
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                longest[i * width + j] = if old[i] == new[j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < old.len() || j < new.len() {
            if i < old.len() && j < new.len() && old[i] == new[j] {
                lines.push(Line::Same(start + i));
                (i, j) = (i + 1, j + 1);
            } else if j == new.len() || i < old.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                lines.push(Line::Then(start + i));
                i += 1;
            } else {
                lines.push(Line::Now(start + j));
                j += 1;
            }
        }
    } else {
        lines.extend((0..old.len()).map(|at| Line::Then(start + at)));
        lines.extend((0..new.len()).map(|at| Line::Now(start + at)));
    }
    lines.extend((then.len() - end..then.len()).map(Line::Same));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown_with_a_little_around_it() {
        let then: String = (0..50).map(|line| format!("line {line}\n")).collect();
        let now = then.replace("line 20\n", "LINE 20\n").replace("line 22\n", "");
        let shown = diff(&then, &now);
        assert_eq!(
            shown,
            "@@ 17 lines are the same @@\n line 17\n line 18\n line 19\n-line 20\n+LINE 20\n line 21\n-line 22\n line 23\n line 24\n line 25\n@@ 24 lines are the same @@\n"
        );
        assert_eq!(diff(&then, &then), "@@ 50 lines are the same @@\n");
    }

    #[test]
    fn a_long_line_is_shown_where_it_differs() {
        let then = format!("{}here{}", "a".repeat(1_000), "b".repeat(1_000));
        let now = then.replace("here", "there");
        let shown = diff(&then, &now);
        assert!(shown.contains("aahere") && shown.contains("aathere") && shown.len() < 500, "{shown}");
    }

    #[test]
    fn a_body_is_spread_over_lines_in_its_own_order() {
        assert_eq!(pretty(br#"{"b":1,"a":[2]}"#), "{\n  \"b\": 1,\n  \"a\": [\n    2\n  ]\n}");
        assert_eq!(pretty(b"no json"), "no json");
    }
}
