//! Machines that do not take builds at our word.

use std::time::Duration;

use drover_store::{BuildFailure, FailureCause, Trust};
use rstest::rstest;

use crate::machine::{Act, Connect, Machine};
use crate::world::{Keeps, World};

#[rstest]
#[case::says_so(Trust::NotTrusted)]
#[case::does_not_say(Trust::Unknown)]
#[tokio::test(start_paused = true)]
async fn a_machine_without_trust_gets_the_derivations(#[case] says: Trust) {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let high = world.drv("high", &[&low]).await;
    let one = Machine::new("one", 2).distrustful(says);
    let run = world.build(&[&one], &[&high]).await;
    run.all_built();
    assert_eq!(one.made(), ["low", "high"]);
    let added = one.added.lock().unwrap().clone();
    for drv in [&low, &high] {
        assert_eq!(added.iter().filter(|path| **path == drv.path).count(), 1, "{added:?}");
    }
    assert!(!added.contains(&low.out()), "it would not take that");
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_of_trust_outlives_a_connection() {
    let mut world = World::new().await;
    let mut jobs = Vec::new();
    for at in 0..6 {
        jobs.push(world.draft(&format!("job{at}")).keeps(Keeps::Nothing).write().await);
    }
    let one = Machine::new("one", 1).distrustful(Trust::Unknown);
    let one = one.does("job3", &[Act::LosesConnection, Act::Builds]);
    let run = world.build(&[&one], &jobs.iter().collect::<Vec<_>>()).await;
    run.all_built();
    let connections = one.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(connections, 2, "a refusal is no reason to connect again, a loss is");
}

/// Inputs that are valid here and signed go to a machine that trusts the signer; where it doesn't it
/// builds them itself.
#[rstest]
#[case::trusted("good-1", &["high"])]
#[case::not_trusted("other-1", &["low", "high"])]
#[tokio::test(start_paused = true)]
async fn signed_inputs_are_not_built_again(#[case] key: &str, #[case] made: &[&str]) {
    let mut world = World::new().await;
    let low = world.draft("low").keeps(Keeps::Nothing).write().await;
    let high = world.draft("high").keeps(Keeps::Nothing).needs(&low, &["out"]).write().await;
    world.provide_signed(&low, "out", key).await;
    let one = Machine::new("one", 1).distrustful(Trust::NotTrusted).trusting("good-1");
    let run = world.build(&[&one], &[&high]).await;
    run.all_built();
    assert_eq!(one.made(), made);
    assert!(run.downs().is_empty(), "{:?}", run.downs());
}

/// A machine that doesn't say what it thinks of us says so by what it refuses.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_refused_is_built_there() {
    let mut world = World::new().await;
    let low = world.draft("low").keeps(Keeps::Nothing).write().await;
    let high = world.draft("high").keeps(Keeps::Nothing).needs(&low, &["out"]).write().await;
    world.provide(&low, "out").await;
    let one = Machine::new("one", 1).distrustful(Trust::Unknown);
    let run = world.build(&[&one], &[&high]).await;
    run.all_built();
    assert_eq!(one.made(), ["low", "high"]);
    assert!(run.downs().is_empty(), "{:?}", run.downs());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_explained_with_its_fix() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let message = "cannot add path: it lacks a signature by a trusted key".to_owned();
    let refused = Act::Fails(BuildFailure { cause: FailureCause::Refused, message });
    let one = Machine::new("one", 1).does("job", std::slice::from_ref(&refused));
    let run = world.build(&[&one], &[&drv]).await;
    let report = run.failure(&drv);
    assert_eq!(report.cause, FailureCause::NoMachine);
    assert!(report.message.contains("trusted-users"), "{}", report.message);

    let one = Machine::new("one", 1).does("job", &[refused]);
    let two = Machine::new("two", 1).connects(&[Connect::Late(Duration::from_secs(5))]);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_trust_resolves_floating_derivations_itself() {
    let mut world = World::new().await;
    let low = world.draft("low").floating().write().await;
    let high = world.draft("high").deferred().needs(&low, &["out"]).write().await;
    let one = Machine::new("one", 1).distrustful(Trust::NotTrusted);
    let run = world.build(&[&one], &[&high]).await;
    run.all_built();
    assert!(run.downs().is_empty());
}
