//! How much memory drover takes. Not how fast it is.

use drover_testkit::Suite;

use crate::{LIMIT, Lab, assert_code, builders, stdout};

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
    // the high-water mark stays readable until the process is gone
    let script = format!(
        "mkdir -p /w; drover build --no-link -j0 --builders '{machines}' {drv} 2>/w/said & pid=$!; \
         while grep VmHWM /proc/$pid/status >/w/now 2>/dev/null && [ -s /w/now ]; do \
           cp /w/now /w/peak; sleep 0.02; done; \
         wait $pid || {{ cat /w/said >&2; exit 1; }}; grep -o '[0-9]*' /w/peak"
    );
    let measured = lab.client.run_within(LIMIT, &["sh", "-c", &script]).unwrap();
    assert_code(&measured, 0);
    stdout(&measured).parse().unwrap()
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
