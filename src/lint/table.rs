//! Columns of text, as wide as their widest cell.

/// Lays out rows with `gap` blanks between columns. Every cell but a row's last is padded.
pub(super) fn table(rows: &[Vec<&str>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() > column + 1).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + gap
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                out.push_str(cell);
            } else {
                // Padding by `format!` is limited to 65535.
                let blanks = widths[column].saturating_sub(cell.chars().count());
                out.push_str(cell);
                out.push_str(&" ".repeat(blanks));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_may_be_longer_than_formatting_can_pad() {
        let long = "y".repeat(70_000);
        let text = super::table(&[vec![&long, "a"], vec!["é", "b"]], 2);
        assert_eq!(text, format!("{long}  a\né{}b\n", " ".repeat(70_001)));
    }
}
