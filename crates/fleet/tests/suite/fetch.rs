//! What is fetched from substituters, here and on the machines.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use drover_core::StorePath;
use drover_fleet::{Fallback, FleetEvent, FleetOptions};
use drover_schedule::MachineKind;
use drover_store::{FailureCause, Substitute};
use rstest::rstest;

use crate::machine::Machine;
use crate::world::{Drv, World, keep_going, options};

/// A job whose input is valid here.
async fn with_input(world: &mut World, name: &str, system: &str) -> (Drv, StorePath) {
    let input = world.drv(&format!("{name}-input"), &[]).await;
    world.provide(&input, "out").await;
    let job = world.draft(name).needs(&input, &["out"]).system(system).write().await;
    (job, input.out())
}

#[tokio::test(start_paused = true)]
async fn a_machine_fetches_the_inputs_of_its_own_jobs() {
    let mut world = World::new().await;
    let (here, input) = with_input(&mut world, "here", "x86_64-linux").await;
    let (there, other) = with_input(&mut world, "there", "aarch64-linux").await;
    let take = Duration::from_millis(500);
    let one = Machine::new("one", 1).caches(&[input.clone(), other.clone()], take);
    let two = Machine::of_kind("two", 1, MachineKind::Remote, "aarch64-linux");
    let two = two.caches(&[], take);
    let run = world.build(&[&one, &two], &[&here, &there]).await;
    run.all_built();
    let fetched: BTreeSet<StorePath> =
        one.fetches.lock().unwrap().iter().flatten().cloned().collect();
    assert!(fetched.contains(&input) && !fetched.contains(&other), "{fetched:?}");
    assert!(!one.added.lock().unwrap().contains(&input), "it was sent all the same");
    assert!(two.added.lock().unwrap().contains(&other), "what no cache has is sent");
    let told = run.events.iter().any(|event| {
        matches!(event, FleetEvent::CopyStarted { from, to: Some(to), .. }
            if to == "one" && from == &[Some("its substituters".to_owned())])
    });
    assert!(told, "nobody is told what is waited for");
}

#[tokio::test(start_paused = true)]
async fn substituters_that_hang_hold_up_nobody_else_and_not_for_ever() {
    let mut world = World::new().await;
    let mut targets = Vec::new();
    for at in 0..4 {
        let name = format!("job{at}");
        targets.push(with_input(&mut world, &name, "x86_64-linux").await.0);
    }
    let hour = Duration::from_secs(3600);
    let (one, two) = (Machine::new("one", 1).caches(&[], hour), Machine::new("two", 1));
    let targets: Vec<&Drv> = targets.iter().collect();
    let run = world.build(&[&one, &two], &targets).await;
    run.all_built();
    assert!(two.made().len() >= 3, "the others waited: {:?}", run.built());
    assert!(run.took < Duration::from_secs(35), "took {:?}", run.took);
    // alone, it gets its inputs from here after a while
    let (job, _) = with_input(&mut world, "alone", "x86_64-linux").await;
    let run = world.build(&[&one], &[&job]).await;
    run.all_built();
    let note = run.events.iter().any(|event| {
        matches!(event, FleetEvent::Note(text) if text.contains("one has not fetched inputs"))
    });
    assert!(note, "{:?}", run.events);
}

#[tokio::test(start_paused = true)]
async fn what_is_made_in_the_run_is_not_looked_for_in_caches() {
    let mut world = World::new().await;
    let low = world.draft("low").system("aarch64-linux").write().await;
    let high = world.drv("high", &[&low]).await;
    let one = Machine::new("one", 1).caches(&[], Duration::ZERO);
    let two = Machine::of_kind("two", 1, MachineKind::Remote, "aarch64-linux");
    let run = world.build(&[&one, &two], &[&high]).await;
    run.all_built();
    assert!(one.fetches.lock().unwrap().iter().all(|paths| !paths.contains(&low.out())));
}

#[tokio::test(start_paused = true)]
async fn machines_that_no_job_can_use_are_left_alone() {
    let mut world = World::new().await;
    let job = world.drv("job", &[]).await;
    let one = Machine::new("one", 1);
    let two = Machine::of_kind("two", 1, MachineKind::Remote, "aarch64-linux");
    let run = world.build(&[&one, &two], &[&job]).await;
    run.all_built();
    assert_eq!(one.connections.load(Ordering::SeqCst), 1);
    assert_eq!(two.connections.load(Ordering::SeqCst), 0, "it was approached");
}

fn substituting(options: FleetOptions) -> FleetOptions {
    FleetOptions { substitute: Substitute::Yes, ..options }
}

/// `top` needs `base`, which a substituter offers and doesn't give.
async fn offered(world: &mut World) -> (Drv, Drv) {
    let base = world.drv("base", &[]).await;
    let top = world.draft("top").needs(&base, &["out"]).write().await;
    world.local.offered.lock().unwrap().insert(base.out());
    (base, top)
}

#[rstest]
#[case::stop(options())]
#[case::keep_going(keep_going())]
#[tokio::test(start_paused = true)]
async fn what_is_offered_and_can_not_be_fetched_fails(#[case] options: FleetOptions) {
    let mut world = World::new().await;
    let (base, top) = offered(&mut world).await;
    let other = world.drv("other", &[]).await;
    let one = Machine::new("one", 1);
    let goes_on = options.keep_going;
    let run = world.build_with(&[&one], &[&top, &other], substituting(options)).await;
    let [failure] = run.report().failures.as_slice() else { panic!("{:?}", run.report()) };
    assert_eq!((failure.cause, &failure.derivation), (FailureCause::NotFetched, &base.path));
    assert!(failure.message.contains("--fallback"), "{}", failure.message);
    assert!(failure.message.contains(&base.out().to_string()), "{}", failure.message);
    assert!(run.report().targets[0].outcome.is_err());
    let made: &[&str] = if goes_on { &["other"] } else { &[] };
    assert_eq!(one.made(), made);
}

#[tokio::test(start_paused = true)]
async fn with_fallback_what_can_not_be_fetched_is_built() {
    let mut world = World::new().await;
    let (_, top) = offered(&mut world).await;
    let one = Machine::new("one", 1);
    let options = FleetOptions { fallback: Fallback::Build, ..substituting(options()) };
    let run = world.build_with(&[&one], &[&top], options).await;
    run.all_built();
    assert_eq!(one.made(), ["base", "top"]);
}
