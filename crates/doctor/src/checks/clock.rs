//! The machine's clock is right.

use std::time::Duration;

use crate::step::Verdict;

/// How wrong a clock may be.
const TOLERATED: u64 = 30;

/// Returns the seconds that `date +%s` has printed, on the last line with nothing but digits.
pub fn seconds(printed: &str) -> Option<u64> {
    printed.lines().rev().find_map(|line| line.trim().parse().ok())
}

/// Judges a clock that showed `there` at some time between `before` and `after`, all since 1970.
pub fn judge(before: Duration, there: Option<u64>, after: Duration) -> Verdict {
    let Some(there) = there else {
        return Verdict::unknown("its clock could not be read (date)");
    };
    let (earliest, latest) = (before.as_secs(), after.as_secs());
    let (apart, way) = match there {
        _ if there < earliest => (earliest - there, "behind"),
        _ if there > latest => (there - latest, "ahead"),
        _ => (0, ""),
    };
    match apart {
        0..=1 => Verdict::good("its clock is right"),
        2..=TOLERATED => Verdict::good(format!("its clock is {apart} s {way}")),
        _ => Verdict::odd(
            format!("its clock is {apart} s {way}: certificates and file times will look wrong"),
            "there: sudo timedatectl set-ntp true",
        ),
    }
}
