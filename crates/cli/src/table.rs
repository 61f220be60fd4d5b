//! Rows in columns, for people.

/// Returns a table with a heading; columns are as wide as they must be, and two blanks apart.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|word| word.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.map(str::to_owned);
    let lines = std::iter::once(&heading).chain(rows).map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["a".to_owned(), "xxxx".to_owned()], ["bbbbb".to_owned(), String::new()]];
        assert_eq!(table(["name", "x"], &rows), "name   x\na      xxxx\nbbbbb");
        assert_eq!(table(["name"], &[]), "name");
    }
}
