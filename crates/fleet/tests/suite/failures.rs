//! Builds that fail, and what follows from that.

use std::time::Duration;

use drover_fleet::FleetEvent;
use drover_store::{BuildFailure, FailureCause};
use rstest::rstest;

use crate::machine::{Act, Machine};
use crate::world::{World, keep_going, options};

fn fails() -> Act {
    Act::Fails(BuildFailure {
        cause: FailureCause::Build,
        message: "builder failed with exit code 1".to_owned(),
    })
}

#[rstest]
#[case::failed(BuildFailure { cause: FailureCause::Build, message: "no".to_owned() }, FailureCause::Build)]
#[case::timed_out(BuildFailure { cause: FailureCause::TimedOut, message: "slow".to_owned() }, FailureCause::TimedOut)]
#[case::hash(
    BuildFailure { cause: FailureCause::HashMismatch, message: "hash mismatch".to_owned() },
    FailureCause::HashMismatch
)]
#[case::rounds(
    BuildFailure { cause: FailureCause::NotDeterministic, message: "differs".to_owned() },
    FailureCause::NotDeterministic
)]
#[tokio::test(start_paused = true)]
async fn a_build_that_fails_is_not_tried_again(
    #[case] failure: BuildFailure,
    #[case] kind: FailureCause,
) {
    let mut world = World::new().await;
    let drv = world.drv("bad", &[]).await;
    let one = Machine::new("one", 1).does("bad", &[Act::Fails(failure.clone()), Act::Builds]);
    let two = Machine::new("two", 1).does("bad", &[Act::Fails(failure), Act::Builds]);
    let run = world.build(&[&one, &two], &[&drv]).await;
    let report = run.failure(&drv);
    assert_eq!(report.cause, kind);
    assert_eq!(report.log_tail, ["building bad"]);
    assert!(report.machine.is_some());
    assert_eq!(run.report().failures.len(), 1);
    assert!(one.made().is_empty() && two.made().is_empty());
    assert!(run.downs().is_empty(), "the machine did nothing wrong");
    let failures: usize = run.report().machines.iter().map(|machine| machine.failures).sum();
    assert_eq!(failures, 1);
}

/// A bug in the task that waits for a build is that build's failure, in words; what else is to be built
/// is built.
#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure() {
    let mut world = World::new().await;
    let bad = world.drv("bad", &[]).await;
    let after = world.drv("after", &[&bad]).await;
    let good = world.drv("good", &[]).await;
    let one = Machine::new("one", 1).does("bad", &[Act::Panics]);
    let run = world.build_with(&[&one], &[&bad, &after, &good], keep_going()).await;
    let report = run.failure(&bad);
    assert_eq!(report.cause, FailureCause::Build);
    assert!(report.message.ends_with("because it has a bug: a bug in a lane"), "{report:#?}");
    assert_eq!(one.made(), ["good"]);
}

#[tokio::test(start_paused = true)]
async fn without_keep_going_the_rest_is_cancelled() {
    let mut world = World::new().await;
    let bad = world.drv("bad", &[]).await;
    let slow = world.draft("slow").took(Duration::from_secs(1_000)).write().await;
    let behind = world.drv("behind", &[&slow]).await;
    let above = world.drv("above", &[&bad]).await;
    let one = Machine::new("one", 2).does("bad", &[fails()]);
    let run = world.build_with(&[&one], &[&slow, &above, &behind], options()).await;
    assert!(run.took < Duration::from_secs(3), "took {:?}", run.took);
    assert_eq!(run.failure(&above).cause, FailureCause::Dependency);
    assert!(run.failure(&above).message.contains("bad.drv"));
    assert_eq!(run.failure(&slow).cause, FailureCause::Cancelled);
    assert_eq!(run.failure(&behind).cause, FailureCause::Cancelled);
    let kinds: Vec<FailureCause> =
        run.report().failures.iter().map(|failure| failure.cause).collect();
    assert_eq!(kinds, [FailureCause::Build]);
}

#[tokio::test(start_paused = true)]
async fn with_keep_going_what_does_not_depend_on_it_goes_on() {
    let mut world = World::new().await;
    let bad = world.drv("bad", &[]).await;
    let slow = world.draft("slow").took(Duration::from_secs(100)).write().await;
    let behind = world.drv("behind", &[&slow]).await;
    let above = world.drv("above", &[&bad]).await;
    let higher = world.drv("higher", &[&above, &behind]).await;
    let one = Machine::new("one", 2).does("bad", &[fails()]);
    let targets = [&behind, &above, &higher];
    let run = world.build_with(&[&one], &targets, keep_going()).await;
    assert!(run.report().targets[0].outcome.is_ok());
    assert_eq!(run.failure(&above).cause, FailureCause::Dependency);
    let higher = run.failure(&higher);
    assert_eq!(higher.cause, FailureCause::Dependency);
    assert!(higher.message.contains("bad.drv"), "{}", higher.message);
    assert_eq!(run.report().failures.len(), 1);
    assert!(world.valid().await.contains(&behind.out()));
    assert!(!one.made().contains(&"above".to_owned()));
}

#[rstest]
#[case::trusted(drover_store::Trust::Trusted)]
#[case::untrusted(drover_store::Trust::NotTrusted)]
#[tokio::test(start_paused = true)]
async fn a_chain_ends_at_its_first_failure(
    #[case] trust: drover_store::Trust,
    #[values(options(), keep_going())] options: drover_fleet::FleetOptions,
) {
    let mut world = World::new().await;
    let mut chain = vec![world.drv("link0", &[]).await];
    for at in 1..10 {
        let link = world.drv(&format!("link{at}"), &[&chain[at - 1]]).await;
        chain.push(link);
    }
    let one = Machine::new("one", 1).does("link3", &[fails()]);
    *one.trust.lock().unwrap() = trust;
    let run = world.build_with(&[&one], &[&chain[9]], options).await;
    let report = run.failure(&chain[9]);
    assert_eq!(report.cause, FailureCause::Dependency);
    assert!(report.message.contains("link3.drv"), "{}", report.message);
    assert_eq!(one.made(), ["link0", "link1", "link2"]);
    assert_eq!(run.report().failures.len(), 1);
    assert!(run.took < Duration::from_secs(6), "took {:?}", run.took);
}

#[tokio::test(start_paused = true)]
async fn the_last_lines_of_a_failed_build_are_kept() {
    let mut world = World::new().await;
    let bad = world.drv("bad", &[]).await;
    let one = Machine::new("one", 1).does("bad", &[fails()]);
    let none = drover_fleet::FleetOptions { log_lines: 0, ..options() };
    let run = world.build_with(&[&one], &[&bad], none).await;
    assert!(run.failure(&bad).log_tail.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_here_that_takes_nothing_unsigned_is_explained() {
    let mut world = World::new().await;
    let drv = world.drv("a", &[]).await;
    let message = "cannot add path because it lacks a signature by a trusted key".to_owned();
    *world.local.refuses.lock().unwrap() = Some(message);
    let one = Machine::new("one", 1);
    let run = world.build(&[&one], &[&drv]).await;
    let error = run.result.expect_err("it takes nothing");
    assert!(matches!(error, drover_fleet::BuildError::LocalStoreDistrusts), "{error:?}");
    assert!(!run.events.iter().any(|event| matches!(event, FleetEvent::MachineDown { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_store_here_is_told_though_other_transfers_are_broken_off() {
    let mut world = World::new().await;
    let big = world.draft("big").size(2_000_000).write().await;
    let small = world.drv("small", &[&big]).await;
    let bigger = world.draft("bigger").size(3_000_000).needs(&small, &["out"]).write().await;
    *world.local.refuses.lock().unwrap() = Some("disk I/O error".to_owned());
    let one = Machine::new("one", 1);
    let run = world.build(&[&one], &[&bigger]).await;
    match run.result.expect_err("it takes nothing") {
        drover_fleet::BuildError::Store(drover_store::StoreError::Refused { message, .. }) => {
            assert_eq!(message, "disk I/O error");
        }
        other => panic!("{other:?}"),
    }
}

/// A machine that works for hours at what fails in the end was busy.
#[tokio::test(start_paused = true)]
async fn the_time_of_failed_builds_counts() {
    let mut world = World::new().await;
    let drv = world.drv("bad", &[]).await;
    let failure = BuildFailure { cause: FailureCause::Build, message: "no".to_owned() };
    let one = Machine::new("one", 1).does("bad", &[Act::Fails(failure)]);
    let run = world.build(&[&one], &[&drv]).await;
    run.failure(&drv);
    assert!(!run.totals("one").busy.is_zero(), "{:?}", run.totals("one"));
}
