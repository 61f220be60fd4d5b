//! What a decision costs: 100,000 jobs on 1,000 machines, from submission to the last verdict.

#![allow(missing_docs, reason = "divan makes public items")]

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use divan::{Bencher, counter::ItemsCount};
use drover_schedule::*;

const JOBS: u32 = 100_000;
const MACHINES: u32 = 1_000;
const SLOTS: u32 = 4;

fn main() {
    divan::main();
}

/// Jobs without dependencies.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn wide(bencher: Bencher) {
    bench(bencher, &[1.0], |_| Vec::new());
}

/// Each job needs three earlier ones.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn layers(bencher: Bencher) {
    bench(bencher, &[1.0], three_earlier);
}

/// The same on machines of different speeds, where it can be better to wait.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn layers_on_mixed_machines(bencher: Bencher) {
    bench(bencher, &[0.5, 1.0, 2.0, 4.0], three_earlier);
}

/// Chains of twenty.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn chains(bencher: Bencher) {
    bench(bencher, &[1.0], |job| match job % 20 {
        0 => Vec::new(),
        _ => vec![JobId(job - 1)],
    });
}

fn three_earlier(job: u32) -> Vec<JobId> {
    const LAYER: u32 = 10_000;
    match job.checked_sub(LAYER) {
        None => Vec::new(),
        Some(below) => {
            let first = below - below % LAYER;
            [1, 7, 31].iter().map(|step| JobId(first + (job * step + 11) % LAYER)).collect()
        }
    }
}

fn bench(bencher: Bencher, speeds: &[f64], dependencies: impl Fn(u32) -> Vec<JobId> + Sync) {
    bencher
        .counter(ItemsCount::new(JOBS))
        .with_inputs(|| (machines(speeds), jobs(&dependencies)))
        .bench_values(|(machines, jobs)| run(machines, jobs));
}

fn machines(speeds: &[f64]) -> Vec<Event> {
    let systems = BTreeSet::from(["x86_64-linux".to_owned()]);
    let speeds = speeds.iter().copied().cycle();
    let describe = |(number, speed_factor): (u32, f64)| Event::MachineAdded {
        machine: MachineId(number),
        description: Machine {
            name: format!("builder-{number}"),
            kind: MachineKind::Remote,
            systems: systems.clone(),
            slots: SLOTS,
            speed_factor,
            supported_features: BTreeSet::new(),
            mandatory_features: BTreeSet::new(),
            round_trip: Duration::from_millis(1),
            bandwidth: Bandwidth(100_000_000),
            other_terms: Vec::new(),
        },
    };
    (0..MACHINES).zip(speeds).map(describe).collect()
}

fn jobs(dependencies: impl Fn(u32) -> Vec<JobId>) -> Vec<Event> {
    let describe = |number: u32| Event::Submitted {
        job: JobId(number),
        description: Job {
            name: format!("job-{number}"),
            system: "x86_64-linux".to_owned(),
            dependencies: dependencies(number),
            outputs: vec![PathId(number)],
            expected: Some(Duration::from_millis(u64::from(number * 7919 % 5000))),
            ..Job::default()
        },
    };
    (0..JOBS).map(describe).collect()
}

/// Runs everything; jobs finish in the order in which they were started.
fn run(machines: Vec<Event>, jobs: Vec<Event>) -> usize {
    let mut scheduler = Scheduler::new(Settings::default());
    let mut now = Duration::ZERO;
    let up = (0..MACHINES).map(|machine| Event::Connected {
        machine: MachineId(machine),
        round_trip: Duration::from_millis(1),
    });
    let start = machines.into_iter().chain(jobs).chain(up);
    let mut commands = scheduler.on_all(Moment(now), start);
    let mut started: VecDeque<JobId> = VecDeque::new();
    let mut done = 0;
    loop {
        for command in commands {
            match command {
                Command::Start { job, .. } => started.push_back(job),
                Command::Done { .. } => done += 1,
                Command::Connect { .. } | Command::Stop { .. } | Command::Wake { .. } => {}
            }
        }
        now += Duration::from_micros(500);
        let Some(job) = started.pop_front() else { break };
        let outputs = vec![(PathId(job.0), ByteCount(u64::from(job.0 % 1000) * 1000))];
        let took = Some(Duration::from_secs(1));
        commands = scheduler.on(Moment(now), Event::Finished { job, took, outputs });
    }
    assert_eq!(done, JOBS as usize);
    done
}
