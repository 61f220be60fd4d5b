//! Cancelling, at every moment.

use std::time::Duration;

use drover_fleet::BuildError;
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::machine::{Act, Connect, Machine};
use crate::stream::ExportFault;
use crate::world::{World, keep_going, options};

async fn cancelled_after(
    world: &World,
    machines: &[&std::sync::Arc<Machine>],
    drv: &crate::world::Drv,
    after: Duration,
) {
    let cancel = CancellationToken::new();
    let targets = vec![drv.target()];
    let run = world.run(machines, targets, keep_going(), cancel.clone());
    let alarm = async {
        tokio::time::sleep(after).await;
        cancel.cancel();
    };
    let (run, ()) = tokio::join!(run, alarm);
    match &run.result {
        Err(BuildError::Cancelled) => {
            let late = run.took.saturating_sub(after);
            assert!(late < Duration::from_millis(10), "{late:?} late");
        }
        // it was done before
        Ok(_) => assert!(run.took <= after),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_at_once_whenever_it_is_cancelled() {
    for step in 0..60 {
        let mut world = World::new().await;
        let low = world.draft("low").size(200_000).write().await;
        let left = world.draft("left").size(2_000_000).needs(&low, &["out"]).write().await;
        let right = world.draft("right").size(200).needs(&low, &["out"]).write().await;
        let top = world.drv("top", &[&left, &right]).await;
        let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
        for machine in [&one, &two] {
            *machine.pace.lock().unwrap() = Duration::from_millis(150);
        }
        let after = Duration::from_millis(step * 70);
        cancelled_after(&world, &[&one, &two], &top, after).await;
    }
}

#[rstest]
#[case::connecting(Machine::new("one", 1).connects(&[Connect::Never]))]
#[case::building(Machine::new("one", 1).does("job", &[Act::Hangs]))]
#[case::retrieving(Machine::new("one", 1).exports(&[ExportFault::Stalled]))]
#[case::backing_off(Machine::new("one", 1).does("job", &[Act::LosesConnection]))]
#[tokio::test(start_paused = true)]
async fn a_run_that_would_hang_can_be_cancelled(#[case] one: std::sync::Arc<Machine>) {
    let mut world = World::new().await;
    let drv = world.draft("job").size(2_000_000).write().await;
    cancelled_after(&world, &[&one], &drv, Duration::from_millis(1_600)).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_cancelled_before_it_began_does_nothing() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 1);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let run = world.run(&[&one], vec![drv.target()], options(), cancel).await;
    assert!(matches!(run.result, Err(BuildError::Cancelled)) || run.result.is_ok());
    assert!(one.made().is_empty());
}
