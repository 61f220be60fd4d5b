//! Many jobs, and many threads.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::machine::{Act, Connect, Machine};
use crate::world::{Drv, Keeps, World, keep_going, options};

/// Jobs that need nothing, and one that needs them all.
async fn fan(world: &mut World, count: usize, took: Duration) -> Drv {
    let mut jobs = Vec::with_capacity(count);
    for at in 0..count {
        let job = world.draft(&format!("job{at}")).size(10).keeps(Keeps::Inputs).took(took);
        jobs.push(job.write().await);
    }
    let mut top = world.draft("top").size(10).took(took);
    for job in &jobs {
        top = top.needs(job, &["out"]);
    }
    top.write().await
}

/// Returns the processor time that this thread has had, on which all of a test runs.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

/// Fails where ten times as much costs far more than ten times as much: quadratic work costs a hundred times.
#[track_caller]
fn assert_in_proportion(few: Duration, many: Duration) {
    assert!(many < 40 * few, "{few:?}, and for ten times as many {many:?}");
}

async fn cost_of_built(count: usize) -> Duration {
    let mut world = World::new().await;
    let top = fan(&mut world, count, Duration::from_millis(10)).await;
    let machines = ["one", "two", "three", "four"].map(|name| Machine::new(name, 8));
    let machines: Vec<_> = machines.iter().collect();
    let before = spent();
    let run = world.build(&machines, &[&top]).await;
    let cost = spent() - before;
    run.all_built();
    assert_eq!(run.report().built, count + 1);
    cost
}

async fn cost_of_cancelled(count: usize) -> Duration {
    let mut world = World::new().await;
    let top = fan(&mut world, count, Duration::from_secs(10)).await;
    let failure = drover_store::BuildFailure::new(drover_store::FailureCause::Build, "no");
    let slots = u32::try_from(count / 2).unwrap();
    let one = Machine::new("one", slots).does("job7", &[Act::Fails(failure)]);
    let before = spent();
    let run = world.build_with(&[&one], &[&top], options()).await;
    let cost = spent() - before;
    assert!(run.report().targets[0].outcome.is_err());
    cost
}

#[tokio::test(start_paused = true)]
async fn a_thousand_jobs_cost_little() {
    let (few, many) = (cost_of_built(100).await, cost_of_built(1_000).await);
    assert_in_proportion(few, many);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_cancelled_jobs_cost_little() {
    let (few, many) = (cost_of_cancelled(100).await, cost_of_cancelled(1_000).await);
    assert_in_proportion(few, many);
}

#[test]
fn many_threads_change_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for round in 0..4 {
            let mut world = World::new().await;
            let mut before: Vec<Drv> = Vec::new();
            for layer in 0..8 {
                let mut drvs = Vec::new();
                for at in 0..6 {
                    let mut draft = world.draft(&format!("job{layer}x{at}"));
                    draft = draft.took(Duration::ZERO).size(if at == 0 { 100_000 } else { 50 });
                    for input in before.iter().skip(at % 3).take(3) {
                        draft = draft.needs(input, &["out"]);
                    }
                    drvs.push(draft.write().await);
                }
                before = drvs;
            }
            let lost = format!("job{}x1", round % 8);
            let one = Machine::new("one", 3).does(&lost, &[Act::LosesConnection, Act::Builds]);
            let two = Machine::new("two", 3).connects(&[Connect::Unreachable]);
            let three = Machine::new("three", 1);
            let targets: Vec<&Drv> = before.iter().collect();
            let run = world.build_with(&[&one, &two, &three], &targets, keep_going()).await;
            run.all_built();
            let downs = run.downs();
            assert!(downs.iter().all(|(machine, _)| machine != "three"), "{downs:?}");
        }
    });
}
