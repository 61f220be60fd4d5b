//! What it costs to say where 5,000 builds would run, on 100 machines.

#![allow(missing_docs, reason = "divan makes public items")]

use std::collections::BTreeSet;
use std::time::Duration;

use divan::Bencher;
use drover_forecast::{Availability, Candidate, forecast, groups};
use drover_schedule::{Bandwidth, Job, JobId, Machine, MachineKind, PathId, Settings};

const JOBS: u32 = 5_000;
const MACHINES: u32 = 100;

fn main() {
    divan::main();
}

fn candidate(number: u32) -> Candidate {
    let description = Machine {
        name: format!("machine{number}"),
        kind: MachineKind::Remote,
        systems: BTreeSet::from(["x86_64-linux".to_owned()]),
        slots: 4,
        speed_factor: f64::from(1 + number % 4),
        supported_features: BTreeSet::new(),
        mandatory_features: BTreeSet::new(),
        round_trip: Duration::from_millis(5),
        bandwidth: Bandwidth(50_000_000),
        other_terms: Vec::new(),
    };
    Candidate { description, availability: Availability::Usable { busy: number % 4 } }
}

/// Each needs three earlier ones.
fn job(number: u32) -> Job {
    let dependencies = [3, 50, 700].iter().filter_map(|back| number.checked_sub(*back));
    Job {
        system: "x86_64-linux".to_owned(),
        dependencies: dependencies.map(JobId).collect(),
        outputs: vec![PathId(number)],
        ..Job::default()
    }
}

/// From the jobs to what is told of them.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn of_a_graph(bencher: Bencher) {
    let candidates: Vec<Candidate> = (0..MACHINES).map(candidate).collect();
    let jobs: Vec<Job> = (0..JOBS).map(job).collect();
    bencher.bench(|| {
        let forecast = forecast(&Settings::default(), &candidates, &jobs);
        groups(&jobs, &candidates, &forecast)
    });
}
