//! Makespans in virtual time against the bound that no schedule can beat.

#[cfg(test)]
mod simulator;

use std::time::Duration;

use drover_schedule::*;
use rstest::rstest;
use simulator::{Report, Truth, World, bound, job, machine, run, world};

fn wide(count: u32, millis: u64) -> Vec<(Job, Truth)> {
    (0..count).map(|number| job(number, &[], Duration::from_millis(millis))).collect()
}

fn chain(count: u32, millis: u64) -> Vec<(Job, Truth)> {
    let before = |number: u32| number.checked_sub(1);
    let one = |number| job(number, before(number).as_slice(), Duration::from_millis(millis));
    (0..count).map(one).collect()
}

fn layers(width: u32, depth: u32, fan_in: u32, millis: u64) -> Vec<(Job, Truth)> {
    let mut jobs = Vec::new();
    for layer in 0..depth {
        for column in 0..width {
            let below = |k| (layer - 1) * width + (column + k * 3 + 1) % width;
            let needs: Vec<u32> = match layer {
                0 => Vec::new(),
                _ => (0..fan_in).map(below).collect(),
            };
            jobs.push(job(layer * width + column, &needs, Duration::from_millis(millis)));
        }
    }
    jobs
}

fn uniform(count: usize, slots: u32) -> Vec<Machine> {
    (0..count).map(|number| machine(&format!("m{number}"), slots)).collect()
}

fn heterogeneous() -> Vec<Machine> {
    let mut machines = uniform(4, 1);
    for (machine, speed) in machines.iter_mut().zip([4.0, 4.0, 1.0, 1.0]) {
        machine.speed_factor = speed;
    }
    machines
}

/// Ten single jobs and a chain of ten.
fn mixed() -> Vec<(Job, Truth)> {
    let mut jobs = wide(10, 1000);
    for number in 10..20_u32 {
        let before: &[u32] = if number == 10 { &[] } else { &[number - 1] };
        jobs.push(job(number, before, Duration::from_secs(1)));
    }
    jobs
}

/// Layers of jobs of very different lengths.
fn random_layers() -> Vec<(Job, Truth)> {
    let mut jobs = layers(20, 10, 3, 100);
    let mut x = 88_172_645_463_325_252_u64;
    for (description, truth) in &mut jobs {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let normal = (0..12).map(|bits| (x >> (bits * 5)) & 31).sum::<u64>() as f64 / 31.0 - 6.0;
        let seconds = (0.4 * (normal * 0.9).exp()).clamp(0.05, 3.0);
        truth.takes = Duration::from_secs_f64(seconds);
        description.expected = Some(truth.takes);
    }
    jobs
}

fn efficiency(world: &World, report: &Report) -> f64 {
    assert_eq!(report.count(|verdict| *verdict == Verdict::Built), world.jobs.len());
    bound(world) / report.makespan.as_secs_f64()
}

#[rstest]
#[case::sixteen_on_two(uniform(2, 1), wide(16, 1000), 0.99)]
#[case::layers(uniform(2, 4), layers(8, 6, 3, 500), 0.97)]
#[case::wide_fifty(uniform(2, 4), wide(50, 100), 0.88)]
#[case::chain(uniform(2, 4), chain(20, 100), 0.99)]
#[case::heterogeneous(heterogeneous(), wide(24, 2000), 0.95)]
#[case::singles_and_a_chain(uniform(2, 1), mixed(), 0.99)]
#[case::fan_out(uniform(4, 2), fan_out(), 0.98)]
#[case::random_layers(uniform(4, 2), random_layers(), 0.88)]
fn near_the_bound(
    #[case] machines: Vec<Machine>,
    #[case] jobs: Vec<(Job, Truth)>,
    #[case] wanted: f64,
) {
    let world = world(machines, jobs);
    let report = run(world.clone());
    let reached = efficiency(&world, &report);
    assert!(wanted <= reached, "{reached:.3}: {:?} {:#?}", report.makespan, report.starts);
}

/// One job, and eight that need it.
fn fan_out() -> Vec<(Job, Truth)> {
    let one = |number| {
        let needs: &[u32] = if number == 0 { &[] } else { &[0] };
        job(number, needs, Duration::from_secs(1))
    };
    (0..9).map(one).collect()
}

#[test]
fn a_chain_is_one_lane_without_round_trips() {
    let mut machines = uniform(2, 4);
    for machine in &mut machines {
        machine.round_trip = Duration::from_millis(50);
    }
    let report = run(world(machines, chain(20, 10)));
    let first = report.starts[0];
    assert!(report.starts.iter().all(|start| (start.0, start.2) == (first.0, first.2)));
    // Connecting takes three round trips here, the first start half of one, the last answer too.
    assert_eq!(report.makespan, Duration::from_millis(150 + 50 + 200));
}

#[test]
fn prefetch_hides_round_trips() {
    let mut machines = uniform(2, 2);
    for machine in &mut machines {
        machine.round_trip = Duration::from_millis(100);
    }
    let report = run(world(machines, wide(80, 100)));
    // 20 on each lane. Without queueing each would cost a round trip more: 20 × 200 ms.
    assert!(report.makespan < Duration::from_millis(2900), "{:?}", report.makespan);
}

#[test]
fn fan_out_is_not_serialised() {
    let report = run(world(uniform(4, 2), fan_out()));
    let behind: Vec<JobId> = report
        .starts
        .iter()
        .filter(|start| start.3 == Some(JobId(0)))
        .map(|start| start.1)
        .collect();
    assert_eq!(behind, [JobId(1)]);
    let lanes: std::collections::BTreeSet<Lane> =
        report.starts.iter().map(|start| start.2).collect();
    assert_eq!(lanes.len(), 8);
}

#[test]
fn wrong_estimates_do_not_stop_anything() {
    let mut jobs = wide(40, 500);
    for (number, (description, _)) in jobs.iter_mut().enumerate() {
        let guess = Duration::from_millis([1, 100_000, 20][number % 3]);
        description.expected = Some(guess);
    }
    let world = world(heterogeneous(), jobs);
    let report = run(world.clone());
    assert!(0.5 < efficiency(&world, &report), "{:?}", report.makespan);
}

#[test]
fn queued_jobs_are_recalled_from_behind_a_long_one() {
    let mut jobs = wide(5, 1000);
    for (description, _) in &mut jobs {
        description.expected = None;
    }
    jobs[0].1.takes = Duration::from_secs(100);
    let report = run(world(uniform(2, 1), jobs));
    assert!(report.makespan < Duration::from_secs(101), "{}", report.log.join("\n"));
    let short: Vec<_> = report.starts.iter().filter(|start| start.1 != JobId(0)).collect();
    assert!(short.iter().all(|start| start.0 < Duration::from_secs(10)), "{short:?}");
}
