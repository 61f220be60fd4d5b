//! Durations: what jobs took, and arithmetic that cannot overflow.

use std::time::Duration;

/// What the finished jobs of the run took, as a histogram of eighths of octaves.
///
/// Invariant: its size does not depend on how many durations were recorded.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// How many jobs took that long, by bucket.
    buckets: std::collections::BTreeMap<u64, u64>,
    count: u64,
    median: Option<Duration>,
}

impl Durations {
    /// Adds one duration, as on a machine of speed 1.
    pub(crate) fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        *self.buckets.entry(bucket(nanos)).or_default() += 1;
        self.count += 1;
        let mut below = 0;
        self.median = self.buckets.iter().find_map(|(bucket, count)| {
            below += count;
            (self.count < 2 * below + 1).then(|| Duration::from_nanos(lower_bound(*bucket)))
        });
    }

    /// Returns the median to within an eighth, or nothing if nothing was recorded.
    pub(crate) fn median(&self) -> Option<Duration> {
        self.median
    }
}

/// Returns the bucket of `nanos`: its highest bit, then the three bits below that.
fn bucket(nanos: u64) -> u64 {
    let octave = u64::from(nanos.ilog2());
    octave * 8 + ((nanos >> octave.saturating_sub(3)) & 7)
}

/// Returns the least duration of `bucket` in nanoseconds.
fn lower_bound(bucket: u64) -> u64 {
    let octave = bucket / 8;
    (8 + bucket % 8) << octave.saturating_sub(3)
}

/// Returns how long something takes at `speed` that takes `duration` at speed 1.
pub(crate) fn at_speed(duration: Duration, speed: f64) -> Duration {
    match speed.to_bits() == 1.0_f64.to_bits() {
        true => duration,
        false => {
            Duration::try_from_secs_f64(duration.as_secs_f64() / speed).unwrap_or(Duration::MAX)
        }
    }
}

/// Returns `tenths` tenths of a duration.
pub(crate) fn tenths(duration: Duration, tenths: u32) -> Duration {
    (duration / 10).saturating_mul(tenths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_near() {
        let mut durations = Durations::default();
        assert_eq!(durations.median(), None);
        for seconds in [1, 100, 3, 2, 50] {
            durations.record(Duration::from_secs(seconds));
        }
        let median = durations.median().unwrap();
        assert!(median <= Duration::from_secs(3) && Duration::from_secs(2) < median, "{median:?}");
    }

    #[test]
    fn extremes_have_buckets() {
        let mut durations = Durations::default();
        durations.record(Duration::ZERO);
        durations.record(Duration::MAX);
        durations.record(Duration::MAX);
        assert!(Duration::from_secs(1_000_000_000) < durations.median().unwrap());
    }
}
