//! How much memory drover takes. Not how fast it is.

use drover_testkit::Suite;

use crate::counts::measured;
use crate::{Lab, builders};

/// KiB that a run may take in all.
const MOST: u64 = 100 * 1024;
/// KiB more that a run with a large output may take: buffers that a small one doesn't fill.
const BUFFERS: u64 = 24 * 1024;

/// Builds two outputs of so many bytes on another machine and fetches them; returns the KiB that drover
/// took at most.
fn peak(lab: &Lab, size: u64) -> u64 {
    let size = size.to_string();
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "1"), ("size", &size)]).unwrap();
    let machines = builders("ssh-ng", &["b1"], 1);
    let line = format!("drover build --no-link -j0 --builders '{machines}' {drv}");
    let (peak, said, code) = measured(&lab.client, &line);
    assert_eq!(code, Some(0), "{said}");
    peak
}

#[test]
fn a_large_output_takes_no_more_memory_than_a_small_one() {
    let lab = Lab::new("memory", Suite::Forky, Suite::Forky);
    let small = peak(&lab, 10_000_000);
    let large = peak(&lab, 100_000_000);
    assert!(large < MOST, "{large} KiB");
    assert!(
        large < small + BUFFERS,
        "{large} KiB for the large one, {small} KiB for the small one"
    );
}
