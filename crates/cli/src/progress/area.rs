//! The lines at the bottom of a terminal that are kept up to date.

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Its width.
    pub(crate) columns: usize,
    /// Its height.
    pub(crate) rows: usize,
}

/// The lines at the bottom of a terminal. The cursor stands at the end of the last one.
#[derive(Debug, Default)]
pub(crate) struct Area {
    drawn: Vec<String>,
}

impl Area {
    /// Returns what to write so that lines stand above and others at the bottom; nothing if that
    /// changes nothing. Where the others have no room there is only the last of them.
    pub(crate) fn frame(&mut self, above: &[String], kept: Vec<String>, size: Size) -> String {
        let mut kept: Vec<String> =
            kept.iter().map(|line| cut(line, size.columns.saturating_sub(1))).collect();
        if size.rows <= kept.len() + 1 {
            kept.drain(..kept.len().saturating_sub(1));
        }
        if above.is_empty() && kept == self.drawn {
            return String::new();
        }
        let mut text = String::new();
        match self.drawn.len() {
            0 => {}
            1 => text.push_str("\r\x1b[J"),
            lines => text.push_str(&format!("\r\x1b[{}A\x1b[J", lines - 1)),
        }
        for line in above {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&kept.join("\n"));
        self.drawn = kept;
        text
    }
}

/// Returns the first characters of a line, the last of them an ellipsis where there are more.
fn cut(line: &str, columns: usize) -> String {
    let plain = line.replace(|c: char| c.is_control(), " ");
    if plain.chars().count() <= columns {
        return plain;
    }
    let mut cut: String = plain.chars().take(columns.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { columns: 11, rows: 10 };

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn draws_over_what_was_drawn() {
        let mut area = Area::default();
        assert_eq!(area.frame(&[], lines(&["a", "b"]), SIZE), "a\nb");
        assert_eq!(area.frame(&[], lines(&["a", "b"]), SIZE), "");
        assert_eq!(area.frame(&lines(&["x"]), lines(&["c"]), SIZE), "\r\x1b[1A\x1b[Jx\nc");
        assert_eq!(area.frame(&[], Vec::new(), SIZE), "\r\x1b[J");
        assert_eq!(area.frame(&lines(&["y"]), Vec::new(), SIZE), "y\n");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut area = Area::default();
        let drawn = area.frame(&[], lines(&["0123456789", "0123456789a", "a\tb"]), SIZE);
        assert_eq!(drawn, "0123456789\n012345678…\na b");
    }

    #[test]
    fn a_low_terminal_has_the_last_line() {
        let mut area = Area::default();
        let size = Size { columns: 80, rows: 3 };
        assert_eq!(area.frame(&[], lines(&["a", "b"]), size), "b");
    }
}
