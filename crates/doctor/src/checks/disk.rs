//! There is room in the machine's store.

use crate::step::Verdict;

/// Bytes below which hardly anything can be built.
const LITTLE: u64 = 1 << 30;
/// Bytes below which Nix itself gives up.
const NOTHING: u64 = 100 << 20;

/// Returns the free bytes of the last file system that `df -Pk` has printed.
pub fn free(printed: &str) -> Option<u64> {
    let line = printed.lines().rev().find(|line| line.contains('%'))?;
    let kibibytes: u64 = line.split_ascii_whitespace().nth(3)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Judges the bytes that are free in a store.
pub fn judge(free: Option<u64>, store_dir: &str) -> Verdict {
    let Some(free) = free else {
        return Verdict::unknown(format!("free space in {store_dir} could not be asked for (df)"));
    };
    let shown = format!("{:.1} GiB free in {store_dir}", gibibytes(free));
    match free {
        0..NOTHING => Verdict::wrong(shown, "there: nix-collect-garbage -d, or a larger disk"),
        NOTHING..LITTLE => Verdict::odd(
            shown,
            "there: nix-collect-garbage -d; 'min-free' in its nix.conf does so by itself",
        ),
        _ => Verdict::good(shown),
    }
}

/// Returns bytes as GiB, rounded down to tenths.
fn gibibytes(bytes: u64) -> f64 {
    let tenths = u32::try_from(bytes / ((1 << 30) / 10)).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}
