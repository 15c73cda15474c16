//! The live area: a few rows at the bottom that are redrawn in place, below the finished lines that belong to the terminal's scrollback.
//!
//! Promises: finished lines are written once and never touched again; the live area leaves nothing behind, also when the terminal was resized between
//! two paintings. Each painting is one write, inside a synchronized update, so that no half of it is seen.
//!
//! To erase the live area, the painter has to know how many rows it takes now. Terminals differ at a resize: most break rows that became too long and
//! move the cursor with its text, a few cut them. The painter remembers the width of every row that it drew and computes what the terminal made of them. Rows are never wider
//! than the terminal less one column, so that a wider terminal changes nothing and no row waits to wrap.

use super::styled::{Line, terminal_rows};
use std::fmt::Write as _;

/// What stands at the bottom.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Frame {
    /// From top to bottom; each narrower than the terminal.
    pub(super) rows: Vec<Line>,
    /// Row and column of the cursor; nothing: it is hidden.
    pub(super) cursor: Option<(usize, usize)>,
}

/// The size of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Size {
    /// The widest row that may be drawn.
    pub(super) fn limit(self) -> usize {
        self.columns.saturating_sub(1).max(10)
    }
}

/// How a terminal treats rows that are too long after a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnResize {
    /// It breaks them.
    Reflows,
    /// It cuts them.
    Cuts,
}

/// Turns frames into bytes.
pub(super) struct Painter {
    colour: bool,
    on_resize: OnResize,
    /// The widths of the rows that are on the screen, and the row and column of the cursor.
    drawn: Vec<usize>,
    cursor: (usize, usize),
    last: Option<(Frame, Size)>,
}

impl Painter {
    pub(super) fn new(colour: bool, on_resize: OnResize) -> Self {
        Self { colour, on_resize, drawn: Vec::new(), cursor: (0, 0), last: None }
    }

    /// The bytes that print `finished` and then draw `frame` below; none where nothing has changed.
    pub(super) fn paint(&mut self, finished: &[Line], frame: Frame, size: Size) -> String {
        if finished.is_empty() && self.last.as_ref().is_some_and(|last| *last == (frame.clone(), size)) {
            return String::new();
        }
        let mut out = String::from("\x1b[?2026h\x1b[?25l");
        self.go_to_top(size, &mut out);
        if self.last.as_ref().is_none_or(|(_, last)| *last != size) {
            // Rows that the terminal broke are marked as one line, and stay so when they are only written over: a later resize would join them.
            out.push_str("\x1b[J");
        }
        for line in finished {
            self.row(line, size, &mut out);
            out.push_str("\r\n");
        }
        for (at, line) in frame.rows.iter().enumerate() {
            if at > 0 {
                out.push_str("\r\n");
            }
            self.row(line, size, &mut out);
        }
        out.push_str("\x1b[J");
        self.drawn = frame.rows.iter().map(Line::width).collect();
        self.place_cursor(&frame, &mut out);
        out.push_str("\x1b[?2026l");
        self.last = Some((frame, size));
        out
    }

    /// The bytes that take the live area away, with the cursor where it began.
    pub(super) fn clear(&mut self, size: Size) -> String {
        let mut out = String::new();
        self.go_to_top(size, &mut out);
        out.push_str("\x1b[J\x1b[?25h");
        self.drawn.clear();
        self.cursor = (0, 0);
        self.last = None;
        out
    }

    /// Nothing is known of the screen any more: what comes next is drawn from the cursor's row on.
    pub(super) fn forget(&mut self) {
        self.drawn.clear();
        self.cursor = (0, 0);
        self.last = None;
    }

    fn go_to_top(&self, size: Size, out: &mut String) {
        let rows_of = |width: usize| match self.on_resize {
            OnResize::Reflows => terminal_rows(width, size.columns),
            OnResize::Cuts => 1,
        };
        let (row, column) = self.cursor;
        let above: usize = self.drawn.iter().take(row).map(|&width| rows_of(width)).sum();
        let own = match self.on_resize {
            // A cursor behind the last column of a full row stays in that row.
            OnResize::Reflows => (column / size.columns.max(1)).min(self.drawn.get(row).map_or(0, |&width| rows_of(width) - 1)),
            OnResize::Cuts => 0,
        };
        out.push('\r');
        if above + own > 0 {
            // Writing to a `String` does not fail.
            let _ = write!(out, "\x1b[{}A", above + own);
        }
    }

    fn row(&self, line: &Line, size: Size, out: &mut String) {
        if line.width() >= size.columns {
            // The terminal will wrap it over rows that are not cleared one by one.
            out.push_str("\x1b[J");
            line.write_to(out, self.colour);
        } else {
            line.write_to(out, self.colour);
            out.push_str("\x1b[K");
        }
    }

    fn place_cursor(&mut self, frame: &Frame, out: &mut String) {
        let last = frame.rows.len().saturating_sub(1);
        let (row, column) = frame.cursor.unwrap_or((last, self.drawn.last().copied().unwrap_or(0)));
        let up = last - row.min(last);
        if up > 0 {
            let _ = write!(out, "\x1b[{up}A");
        }
        out.push('\r');
        if column > 0 {
            let _ = write!(out, "\x1b[{column}C");
        }
        if frame.cursor.is_some() {
            out.push_str("\x1b[?25h");
        }
        self.cursor = (row.min(last), column);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::styled::PLAIN;

    /// A terminal with endless scrollback that breaks long rows and joins them again, as most do.
    #[derive(Default)]
    struct Terminal {
        /// Lines as they were written, without breaks.
        lines: Vec<Vec<char>>,
        columns: usize,
        /// The line and the column in it of the cursor.
        cursor: (usize, usize),
    }

    impl Terminal {
        fn rows_of(&self, line: usize) -> usize {
            terminal_rows(self.lines[line].len(), self.columns)
        }

        /// The row of the cursor within its line. Behind the last column of a full row it stays in that row.
        fn row(&self) -> usize {
            (self.cursor.1 / self.columns).min(self.rows_of(self.cursor.0) - 1)
        }

        fn up(&mut self, rows: usize) {
            let mut row = self.row();
            for _ in 0..rows {
                if row > 0 {
                    row -= 1;
                } else if self.cursor.0 > 0 {
                    self.cursor.0 -= 1;
                    row = self.rows_of(self.cursor.0) - 1;
                }
            }
            self.cursor.1 = row * self.columns;
        }

        fn write(&mut self, text: &str) {
            let mut chars = text.chars().peekable();
            while let Some(char) = chars.next() {
                match char {
                    '\r' => self.cursor.1 = self.row() * self.columns,
                    '\n' => {
                        self.cursor.0 += 1;
                        self.cursor.1 = 0;
                        if self.cursor.0 == self.lines.len() {
                            self.lines.push(Vec::new());
                        }
                    }
                    '\x1b' => {
                        assert_eq!(chars.next(), Some('['));
                        let mut sequence = String::new();
                        for next in chars.by_ref() {
                            sequence.push(next);
                            if next.is_ascii_alphabetic() {
                                break;
                            }
                        }
                        self.command(&sequence);
                    }
                    char => {
                        let line = &mut self.lines[self.cursor.0];
                        line.resize(line.len().max(self.cursor.1 + 1), ' ');
                        line[self.cursor.1] = char;
                        self.cursor.1 += 1;
                    }
                }
            }
        }

        fn command(&mut self, sequence: &str) {
            let (count, command) = sequence.split_at(sequence.len() - 1);
            let (line, column) = self.cursor;
            match command {
                "A" => self.up(count.parse().expect("a number")),
                "C" => self.cursor.1 += count.parse::<usize>().expect("a number"),
                "K" => self.lines[line].truncate(column),
                "J" => {
                    self.lines.truncate(line + 1);
                    self.lines[line].truncate(column);
                }
                "h" | "l" => {}
                other => panic!("{other}"),
            }
        }

        fn text(&self) -> String {
            self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
        }
    }

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| Line::new(*text, PLAIN)).collect()
    }

    fn size(columns: usize) -> Size {
        Size { columns, rows: 30 }
    }

    #[test]
    fn whatever_is_painted_at_whatever_size_the_finished_lines_are_whole_and_the_live_area_is_below() {
        let mut terminal = Terminal { lines: vec![Vec::new()], columns: 40, cursor: (0, 0) };
        let mut painter = Painter::new(false, OnResize::Reflows);
        let mut finished = Vec::new();
        let mut random = 3_u64;
        let mut next = |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % bound
        };
        for step in 0..2000 {
            terminal.columns = 12 + next(60);
            let limit = size(terminal.columns).limit();
            // Finished lines may be longer than a row, as those of code are; rows of the live area never are.
            let new: Vec<String> = (0..next(3)).map(|at| format!("{step}.{at} {}", "f".repeat(next(100)))).collect();
            let rows: Vec<String> = (0..1 + next(5)).map(|_| "l".repeat(next(limit + 1))).collect();
            let row = next(rows.len());
            let cursor = (row, next(rows[row].len() + 1));
            let frame = Frame { rows: lines(&rows.iter().map(String::as_str).collect::<Vec<_>>()), cursor: Some(cursor) };
            let new: Vec<&str> = new.iter().map(String::as_str).collect();
            terminal.write(&painter.paint(&lines(&new), frame, size(terminal.columns)));
            finished.extend(new.iter().map(|line| (*line).to_owned()));
            let expected: String = finished.iter().chain(&rows).map(|line| line.trim_end().to_owned() + "\n").collect();
            assert_eq!(terminal.text(), expected, "step {step}");
            assert_eq!(terminal.cursor, (finished.len() + row, cursor.1), "step {step}");
            if finished.len() > 50 {
                finished.drain(..40);
                terminal.lines.drain(..40);
                terminal.cursor.0 -= 40;
            }
        }
        terminal.write(&painter.clear(size(terminal.columns)));
        assert_eq!(terminal.text(), finished.iter().map(|line| line.clone() + "\n").collect::<String>() + "\n");
    }

    #[test]
    fn what_has_not_changed_is_not_painted() {
        let mut painter = Painter::new(true, OnResize::Reflows);
        let frame = Frame { rows: lines(&["> "]), cursor: Some((0, 2)) };
        assert!(!painter.paint(&[], frame.clone(), size(80)).is_empty());
        assert_eq!(painter.paint(&[], frame.clone(), size(80)), "");
        assert!(!painter.paint(&[], frame, size(81)).is_empty());
    }

    #[test]
    fn a_painting_is_one_synchronized_update() {
        let mut painter = Painter::new(true, OnResize::Reflows);
        let frame = Frame { rows: lines(&["> "]), cursor: Some((0, 2)) };
        let painting = painter.paint(&lines(&["done"]), frame, size(80));
        assert!(painting.starts_with("\x1b[?2026h") && painting.ends_with("\x1b[?2026l"));
    }
}
