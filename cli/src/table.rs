//! Small tables for people: columns as wide as what is in them, numbers below each other's ends.

use unicode_width::UnicodeWidthStr;

/// A column: its title, and whether it holds numbers.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// The lines of a table, the first with the titles. Cells must be safe to print.
pub(crate) fn table<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> Vec<String> {
    let titles = columns.map(|column| match column {
        Column::Text(title) | Column::Number(title) => title.to_owned(),
    });
    let mut widths = [0; N];
    for row in std::iter::once(&titles).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).zip(columns).map(|((cell, width), column)| {
            let pad = " ".repeat(width.saturating_sub(cell.width()));
            if matches!(column, Column::Number(_)) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(&titles).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_below_each_others_ends() {
        let rows = [["a".to_owned(), "5".to_owned()], ["日本".to_owned(), "1234".to_owned()]];
        let lines = table([Column::Text("NAME"), Column::Number("N")], &rows);
        assert_eq!(lines, ["NAME     N", "a        5", "日本  1234"]);
    }
}
