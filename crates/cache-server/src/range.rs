//! Which part of a file is asked for.
//!
//! Follows RFC 9110, section 14, for one range. Several at once, which nobody needs and which have made
//! servers fall over, are refused like those that aren't there.

/// What a `Range` header means for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: another unit, or no header.
    Whole,
    /// From its first byte up to and without its last.
    Bytes {
        /// The first.
        from: u64,
        /// The one behind the last; always greater.
        to: u64,
    },
    /// Nothing that is there.
    Unsatisfiable,
}

impl Part {
    /// Reads the header for a file of `size` bytes.
    pub(crate) fn parse(header: Option<&str>, size: u64) -> Part {
        let unit = header.and_then(|header| header.trim().split_once('='));
        // the names of units are alike in whichever case
        let Some((_, ranges)) = unit.filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes")) else {
            return Part::Whole;
        };
        bytes(ranges.trim(), size).unwrap_or(Part::Unsatisfiable)
    }
}

fn bytes(range: &str, size: u64) -> Option<Part> {
    let (first, last) = range.split_once('-')?;
    let (from, to) = match (first, last) {
        ("", suffix) => (size.saturating_sub(number(suffix)?), size),
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            (first, last.saturating_add(1).min(size))
        }
    };
    (from < to).then_some(Part::Bytes { from, to })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("bytes=0-0", 0, 1)]
    #[case("bytes=5-", 5, 100)]
    #[case("bytes=-10", 90, 100)]
    #[case("bytes=-1000", 0, 100)]
    #[case("bytes=10-99999999999", 10, 100)]
    #[case(" bytes=0-9 ", 0, 10)]
    #[case("BYTES=0-5", 0, 6)]
    fn parts(#[case] header: &str, #[case] from: u64, #[case] to: u64) {
        assert_eq!(Part::parse(Some(header), 100), Part::Bytes { from, to });
    }

    #[rstest]
    #[case("bytes=5-1")]
    #[case("bytes=-0")]
    #[case("bytes=9000000000-")]
    #[case("bytes=100-")]
    #[case("bytes=5-1,-0,9000000000-")]
    #[case("bytes=0-1,3-4")]
    #[case("bytes=")]
    #[case("bytes=-")]
    #[case("bytes=+1-2")]
    #[case("bytes=99999999999999999999999-")]
    fn none(#[case] header: &str) {
        assert_eq!(Part::parse(Some(header), 100), Part::Unsatisfiable);
    }

    #[test]
    fn other_units_mean_all() {
        assert_eq!(Part::parse(None, 100), Part::Whole);
        assert_eq!(Part::parse(Some("pages=1-2"), 100), Part::Whole);
    }

    proptest! {
        #[test]
        fn stays_inside(header in "bytes=[0-9,-]{0,20}", size: u64) {
            if let Part::Bytes { from, to } = Part::parse(Some(&header), size) {
                prop_assert!(from < to && to <= size);
            }
        }
    }
}
