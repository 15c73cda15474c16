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
