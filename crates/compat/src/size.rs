//! Sizes as Nix prints them.

/// Returns a size with its unit, one digit after the point, from `0.0 KiB` on.
///
/// As `renderSize` (`src/libutil/util.cc`) of Nix 2.34; 2.8 always prints MiB.
pub(crate) fn render_size(bytes: u64) -> String {
    let (value, unit) = scaled(bytes);
    format!("{value:.1} {unit}iB")
}

/// Returns the same in a column.
pub(crate) fn render_aligned_size(bytes: u64) -> String {
    let (value, unit) = scaled(bytes);
    format!("{value:6.1} {unit}iB")
}

fn scaled(bytes: u64) -> (f64, char) {
    let mut value = bytes as f64 / 1024.0;
    let mut units = ['K', 'M', 'G', 'T', 'P', 'E'].into_iter();
    let mut unit = units.next().unwrap_or('K');
    for larger in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    (value, unit)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0.0 KiB")]
    #[case(100, "0.1 KiB")]
    #[case(1023 * 1024, "1023.0 KiB")]
    #[case(1024 * 1024, "1.0 MiB")]
    #[case(u64::MAX, "16.0 EiB")]
    fn sizes(#[case] bytes: u64, #[case] expected: &str) {
        assert_eq!(render_size(bytes), expected);
    }

    #[test]
    fn in_a_column() {
        assert_eq!(render_aligned_size(2_500_000), "   2.4 MiB");
    }
}
