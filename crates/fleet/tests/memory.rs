//! How much memory a run of many small jobs takes. Not how fast it is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]
#![allow(dead_code, reason = "the machines can do more than is asked of them here")]

#[path = "suite/local.rs"]
mod local;
#[path = "suite/machine.rs"]
mod machine;
#[path = "suite/making.rs"]
mod making;
#[path = "suite/recorder.rs"]
mod recorder;
#[path = "suite/run.rs"]
mod run;
#[path = "suite/site.rs"]
mod site;
#[path = "suite/stream.rs"]
mod stream;
#[path = "suite/world.rs"]
mod world;

use std::time::Duration;

use machine::Machine;
use world::World;

/// KiB that a run of `JOBS` jobs may add to what the machines, their stores and what is recorded of
/// the run for this test take.
const MOST: u64 = 60 * 1024;
const JOBS: usize = 2_000;

/// Returns a number of KiB that the kernel tells of this process.
fn of_process(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn many_small_jobs_take_little_memory() {
    let mut world = World::new().await;
    let mut jobs = Vec::with_capacity(JOBS);
    for at in 0..JOBS {
        let took = Duration::from_millis(100);
        jobs.push(world.draft(&format!("job{at}")).size(100).took(took).write().await);
    }
    let mut top = world.draft("top");
    for job in &jobs {
        top = top.needs(job, &["out"]);
    }
    let top = top.write().await;
    let (one, two) = (Machine::new("one", 4), Machine::new("two", 4));
    let before = of_process("VmRSS");
    let run = world.build(&[&one, &two], &[&top]).await;
    let peak = of_process("VmHWM");
    run.all_built();
    assert_eq!(run.report().built, JOBS + 1);
    assert!(peak < before + MOST, "{before} KiB before, {peak} KiB at most");
}
