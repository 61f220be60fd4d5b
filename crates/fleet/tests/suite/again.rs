//! What is being built again when all else is decided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drover_fleet::{CopyBack, FleetEvent, FleetOptions};
use drover_nar::{Executable, single_file_nar};
use drover_schedule::MachineKind;
use drover_store::{BuildFailure, FailureCause};

use crate::machine::{Act, Connect, Machine};
use crate::run::Run;
use crate::stream::ExportFault;
use crate::world::{Drv, Keeps, World, keep_going, nar_info, put};

/// `above` needs `base` and `doomed`.
struct Lost {
    base: Drv,
    above: Drv,
    one: Arc<Machine>,
    two: Arc<Machine>,
    other: Arc<Machine>,
}

/// Machine `one` is lost for good with `base`, which `two` then builds again for `above`; but that
/// fails long before, as `doomed` does.
async fn lost(world: &mut World) -> Lost {
    let took = Duration::from_secs;
    let base = world.draft("base").took(took(100)).size(200_000).write().await;
    let delay = world.draft("delay").took(took(150)).write().await;
    let doomed = world.draft("doomed").took(took(20)).needs(&delay, &["out"]).write().await;
    let above = world.draft("above").needs(&base, &["out"]).needs(&doomed, &["out"]);
    let above = above.system("aarch64-linux").write().await;
    let refuses = [Connect::Answers, Connect::NoNix];
    let one = Machine::new("one", 2).connects(&refuses).does("doomed", &[Act::LosesConnection]);
    let fails = Act::Fails(BuildFailure { cause: FailureCause::Build, message: "no".to_owned() });
    let two = Machine::new("two", 2).connects(&[Connect::Late(took(155))]);
    let other = Machine::of_kind("other", 1, MachineKind::Remote, "aarch64-linux");
    Lost { base, above, one, two: two.does("doomed", &[fails]), other }
}

fn begun(run: &Run, drv: &str, on: &str) -> usize {
    let begun = run.events.iter().filter(|event| match event {
        FleetEvent::Building { node, machine } => run.name(*node) == drv && machine == on,
        _ => false,
    });
    begun.count()
}

/// What is wanted goes on to its end.
#[tokio::test(start_paused = true)]
async fn a_target_that_is_being_built_again_is_waited_for() {
    let mut world = World::new().await;
    let Lost { base, above, one, two, other } = lost(&mut world).await;
    let run = world.build_with(&[&one, &two, &other], &[&base, &above], keep_going()).await;
    assert_eq!(run.failure(&above).cause, FailureCause::Dependency);
    assert!(run.report().targets[0].outcome.is_ok());
    assert!(world.valid().await.contains(&base.out()));
    assert_eq!(begun(&run, "base", "two"), 1);
}

#[tokio::test(start_paused = true)]
async fn with_all_outputs_wanted_so_is_what_is_no_target() {
    let mut world = World::new().await;
    let Lost { base, above, one, two, other } = lost(&mut world).await;
    let everything = FleetOptions { copy_back: CopyBack::Everything, ..keep_going() };
    let run = world.build_with(&[&one, &two, &other], &[&above], everything).await;
    assert_eq!(run.failure(&above).cause, FailureCause::Dependency);
    assert!(world.valid().await.contains(&base.out()));
    assert_eq!(begun(&run, "base", "two"), 1);
}

/// It was lost with a machine that lied, which then turns out to have all that needed it.
#[tokio::test(start_paused = true)]
async fn a_target_that_is_built_again_when_the_rest_was_found_is_waited_for() {
    let mut world = World::new().await;
    let none = Duration::ZERO;
    let low = world.draft("low").took(none).write().await;
    let middle =
        world.draft("middle").took(none).keeps(Keeps::Nothing).needs(&low, &["out"]).write().await;
    let high =
        world.draft("high").took(none).keeps(Keeps::Nothing).needs(&middle, &["out"]).write().await;
    let one = Machine::new("one", 1).does("middle", &[Act::OtherPath, Act::Builds]);
    let run = world.build(&[&one], &[&low, &high]).await;
    run.all_built();
    assert_eq!(run.report().found, 2);
}

/// What nobody needs is ended with the run, but not for good.
#[tokio::test(start_paused = true)]
async fn what_was_ended_with_the_run_is_begun_anew_where_it_is_needed_after_all() {
    let mut world = World::new().await;
    let Lost { base, above, one, two, other } = lost(&mut world).await;
    let top = world.draft("top").needs(&base, &["out"]).system("aarch64-linux");
    let top = top.size(2_000_000).keeps(Keeps::Nothing).write().await;
    // it's there before, so it needs no `base` until it can't be fetched
    let nar = single_file_nar(&[b'.'; 2_000_000], Executable::No);
    put(&other.store, nar_info(top.out(), &nar, BTreeSet::new()), nar).await;
    let other = other.exports(&[ExportFault::Corrupted]);
    let run = world.build_with(&[&one, &two, &other], &[&top, &above], keep_going()).await;
    assert_eq!(run.failure(&above).cause, FailureCause::Dependency);
    assert!(run.report().targets[0].outcome.is_ok());
    assert!(world.valid().await.contains(&top.out()));
    assert_eq!(begun(&run, "base", "two"), 2);
}
