//! Times and sizes as people read them.

use std::time::Duration;

/// Returns a time to the tenth of a second where it is short, else in minutes and hours.
pub(crate) fn time(duration: Duration) -> String {
    let tenths = duration.as_millis().saturating_add(50) / 100;
    if tenths < 600 {
        return format!("{}.{}s", tenths / 10, tenths % 10);
    }
    whole_time(Duration::from_secs(u64::try_from(tenths / 10).unwrap_or(u64::MAX)))
}

/// Returns a time in whole seconds, minutes and hours.
pub(crate) fn whole_time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// Returns a number of bytes with a unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while 10 * 1024 <= tenths {
        let Some(next) = units.next() else { break };
        unit = Some(next);
        tenths /= 1024;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, unit.unwrap_or(&""))
}

/// Returns a number with its noun: `1 build`, `2 builds`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0.0s")]
    #[case(349, "0.3s")]
    #[case(350, "0.4s")]
    #[case(59_900, "59.9s")]
    #[case(59_990, "1m")]
    #[case(120_000, "2m")]
    #[case(125_000, "2m05s")]
    #[case(3_725_000, "1h02m")]
    fn times(#[case] millis: u64, #[case] expected: &str) {
        assert_eq!(time(Duration::from_millis(millis)), expected);
    }

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(1024, "1.0 KiB")]
    #[case(1_258_291, "1.1 MiB")]
    #[case(20_000_000, "19.0 MiB")]
    #[case(u64::MAX, "16383.9 PiB")]
    fn sizes(#[case] count: u64, #[case] expected: &str) {
        assert_eq!(bytes(count), expected);
    }
}
