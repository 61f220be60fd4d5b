//! Machines that fail, lie, or are not there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use drover_fleet::FleetEvent;
use drover_schedule::MachineKind;
use drover_store::{BuildFailure, FailureCause, Store as _};
use rstest::rstest;

use crate::machine::{Act, Connect, ImportFault, Machine};
use crate::stream::ExportFault;
use crate::world::{Drv, Keeps, World, keep_going};

const LARGE: usize = 200_000;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn other_system(name: &str) -> Arc<Machine> {
    Machine::of_kind(name, 1, MachineKind::Remote, "aarch64-linux")
}

#[rstest]
#[case::mid_build(Act::LosesConnection)]
#[case::after_it(Act::LosesConnectionAfter)]
#[tokio::test(start_paused = true)]
async fn a_job_of_a_lost_machine_moves(#[case] act: Act) {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 1).does("job", &[act.clone(), Act::Builds]);
    let two = Machine::new("two", 1);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
    assert_eq!(run.downs().len(), 1);
    let retried = run.events.iter().filter(|event| matches!(event, FleetEvent::Retried { .. }));
    assert_eq!(retried.count(), 1);
    // and where there is no other it is tried there again
    let alone = Machine::new("alone", 1).does("job", &[act, Act::Builds]);
    let other = world.draft("job2").write().await;
    let alone = alone.does("job2", &[Act::LosesConnection, Act::Builds]);
    let run = world.build(&[&alone], &[&other]).await;
    run.all_built();
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_machine_had_built_is_built_again_when_it_is_needed() {
    let mut world = World::new().await;
    let base = world.draft("base").size(LARGE).write().await;
    let slow = world.draft("slow").took(Duration::from_secs(50)).needs(&base, &["out"]);
    let slow = slow.write().await;
    // the first machine dies for good while it builds what needs `base`, which only it has
    let never =
        [Connect::Answers, Connect::Unreachable, Connect::Unreachable, Connect::Unreachable];
    let unreachable = std::iter::repeat_n(Connect::Unreachable, 20);
    let script: Vec<Connect> = never.into_iter().chain(unreachable).collect();
    let one = Machine::new("one", 1).connects(&script).does("slow", &[Act::LosesConnection]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&slow]).await;
    run.all_built();
    assert_eq!(one.made(), ["base"]);
    assert_eq!(two.made(), ["base", "slow"]);
    assert_eq!(world.valid().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_machine_still_has_when_it_is_back_is_not_built_again() {
    let mut world = World::new().await;
    let base = world.draft("base").size(LARGE).write().await;
    let high = world.drv("high", &[&base]).await;
    let one = Machine::new("one", 1).does("high", &[Act::LosesConnection, Act::Builds]);
    let run = world.build(&[&one], &[&high]).await;
    run.all_built();
    assert_eq!(one.made(), ["base", "high"]);
    let built: Vec<String> = run.built().into_iter().map(|(name, _)| name).collect();
    assert_eq!(built, ["base", "high"], "base was not even asked for again");
}

#[rstest]
#[case::at_once(ExportFault::LostAtOnce, 2_000_000)]
#[case::midway(ExportFault::LostMidway, 2_000_000)]
#[case::midway_small(ExportFault::LostMidway, 100)]
#[case::corrupted(ExportFault::Corrupted, 2_000_000)]
#[tokio::test(start_paused = true)]
async fn what_is_lost_during_retrieval_is_built_again(
    #[case] fault: ExportFault,
    #[case] size: usize,
) {
    let mut world = World::new().await;
    let drv = world.draft("job").size(size).write().await;
    let one = Machine::new("one", 1).connects_once().exports(&[fault]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
    assert!(world.valid().await.contains(&drv.out()));
}

/// What is valid stays, and nothing of another build comes beside it.
#[rstest]
#[case::alike(Act::Builds)]
#[case::different(Act::BuildsItsOwn)]
#[tokio::test(start_paused = true)]
async fn outputs_come_from_one_attempt(#[case] act: Act) {
    let mut world = World::new().await;
    let drv = world.draft("job").outputs(&["dev", "out"]).size(LARGE).write().await;
    let on_top = world.draft("top").needs(&drv, &["dev", "out"]).write().await;
    let one = Machine::new("one", 1).connects_once().exports(&[ExportFault::LostInTheLast]);
    let one = one.does("job", std::slice::from_ref(&act));
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let two = two.does("job", std::slice::from_ref(&act));
    let run = world.build_with(&[&one, &two], &[&drv, &on_top], keep_going()).await;
    assert_eq!((one.made(), two.made()[0].as_str()), (names(&["job", "top"]), "job"));
    if let Act::Builds = act {
        run.all_built();
        return;
    }
    let paths = [drv.output("dev"), drv.output("out")];
    let infos = world.local.store.path_infos(&paths).await.expect("memory");
    let valid: Vec<_> = infos.into_iter().flatten().collect();
    let first = one.store.path_infos(&[valid[0].path.clone()]).await.expect("memory");
    assert_eq!((valid.len(), Some(&valid[0])), (1, first[0].as_ref()));
    for drv in [&drv, &on_top] {
        let report = run.failure(drv);
        assert_eq!(report.cause, FailureCause::NotDeterministic);
        assert!(report.message.contains("is of another build than"), "{}", report.message);
    }
}

/// What was valid before anything was built is of no attempt, as with Nix.
#[tokio::test(start_paused = true)]
async fn what_was_valid_before_stands_in_nobody_s_way() {
    let mut world = World::new().await;
    let drv = world.draft("job").outputs(&["dev", "out"]).size(LARGE).write().await;
    world.provide(&drv, "out").await;
    let one = Machine::new("one", 1).connects_once().exports(&[ExportFault::LostMidway]);
    let one = one.does("job", &[Act::BuildsItsOwn]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let two = two.does("job", &[Act::BuildsItsOwn]);
    let before = world.local.store.path_infos(&[drv.output("out")]).await.expect("memory");
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!((one.made(), two.made()), (names(&["job"]), names(&["job"])));
    let after = world.local.store.path_infos(&[drv.output("out")]).await.expect("memory");
    assert_eq!(before, after, "it isn't replaced");
    assert!(world.valid().await.contains(&drv.output("dev")));
}

#[tokio::test(start_paused = true)]
async fn a_target_lost_before_retrieval_is_built_again() {
    let mut world = World::new().await;
    let first = world.draft("first").size(LARGE).keeps(Keeps::Nothing).write().await;
    let slow = world.draft("slow").took(Duration::from_secs(100)).write().await;
    // `first` is done, and lost with its machine while `slow` is built; nothing else needs it
    let one = Machine::new("one", 2).connects_once().does("slow", &[Act::LosesConnection]);
    let two = Machine::new("two", 2).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&first, &slow]).await;
    run.all_built();
    assert!(world.valid().await.contains(&first.out()), "it is really here");
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_closure_lost_before_retrieval_is_built_again() {
    let mut world = World::new().await;
    let base = world.draft("base").size(LARGE).write().await;
    let top = world.draft("top").needs(&base, &["out"]).size(LARGE).write().await;
    let slow = world.draft("slow").took(Duration::from_secs(100)).write().await;
    let one = Machine::new("one", 2).does("slow", &[Act::LosesConnection, Act::Builds]);
    let two = Machine::new("two", 2).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&top, &slow]).await;
    run.all_built();
    assert!(world.valid().await.is_superset(&[base.out(), top.out()].into()));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_can_never_be_fetched_from_fails_what_only_it_has() {
    let mut world = World::new().await;
    let drv = world.draft("job").size(2_000_000).write().await;
    let one = Machine::new("one", 1).exports(&[ExportFault::Corrupted; 20]);
    let run = world.build(&[&one], &[&drv]).await;
    let report = run.failure(&drv);
    assert_eq!(report.cause, FailureCause::NoMachine);
    assert!(report.message.contains("NAR of"), "{}", report.message);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_machine_leaves_the_work_to_others() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 1).connects(&[const { Connect::Unreachable }; 30]);
    let two = Machine::new("two", 1);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
    assert_eq!(run.downs()[0].0, "one");
    assert!(run.took < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_comes_back_is_used() {
    let mut world = World::new().await;
    let mut jobs = Vec::new();
    for at in 0..20 {
        let job = world.draft(&format!("job{at}")).took(Duration::from_secs(30));
        jobs.push(job.write().await);
    }
    let script = [Connect::Unreachable, Connect::Unreachable];
    let (one, two) = (Machine::new("one", 1).connects(&script), Machine::new("two", 1));
    let run = world.build(&[&one, &two], &jobs.iter().collect::<Vec<_>>()).await;
    run.all_built();
    assert!(one.made().len() > 5, "it built {:?}", one.made());
}

#[tokio::test(start_paused = true)]
async fn with_no_machine_left_each_one_s_words_are_told() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 1).connects(&[const { Connect::Unreachable }; 30]);
    let two = Machine::new("two", 1).connects(&[const { Connect::NoNix }; 30]);
    let three = other_system("three");
    let run = world.build(&[&one, &two, &three], &[&drv]).await;
    let report = run.failure(&drv);
    assert_eq!(report.cause, FailureCause::NoMachine);
    for words in [
        "one: it is down",
        "No route to host",
        "two: it refuses us",
        "nix-daemon: command not found",
        "three: it does not build for x86_64-linux",
    ] {
        assert!(report.message.contains(words), "no '{words}' in: {}", report.message);
    }
    assert_eq!(run.report().failures.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_any_machine_the_way_out_is_told() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let high = world.drv("high", &[&low]).await;
    let run = world.build(&[], &[&high]).await;
    let first = &run.report().failures[0];
    assert_eq!(first.cause, FailureCause::Unsuited);
    assert!(first.message.contains("--builders"), "{}", first.message);
    assert!(run.report().targets[0].outcome.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_local_machine_is_the_last_resort() {
    let mut world = World::new().await;
    let low = world.draft("low").size(LARGE).write().await;
    let high = world.drv("high", &[&low]).await;
    let script = [const { Connect::Unreachable }; 30];
    let (one, here) = (Machine::new("one", 4).connects(&script), Machine::local(1));
    let run = world.build(&[&one, &here], &[&high]).await;
    run.all_built();
    assert_eq!(here.made(), ["low", "high"]);
}

#[tokio::test(start_paused = true)]
async fn the_local_machine_takes_what_a_builder_made() {
    let mut world = World::new().await;
    let low = world.draft("low").system("aarch64-linux").size(LARGE).write().await;
    let high = world.drv("high", &[&low]).await;
    let (one, here) = (other_system("one"), Machine::local(1));
    let run = world.build(&[&one, &here], &[&high]).await;
    run.all_built();
    assert_eq!((one.made(), here.made()), (vec!["low".to_owned()], vec!["high".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_never_answers_holds_nobody_up() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 8).connects(&[Connect::Never]);
    let two = Machine::new("two", 1);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert!(run.took < Duration::from_secs(3), "took {:?}", run.took);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_answers_late_takes_over_from_one_lost_during_retrieval() {
    let mut world = World::new().await;
    let drv = world.draft("job").size(2_000_000).write().await;
    let one = Machine::new("one", 1).connects_once().exports(&[ExportFault::LostMidway]);
    let late = Machine::new("late", 1).connects(&[Connect::Late(Duration::from_secs(60))]);
    let run = world.build(&[&one, &late], &[&drv]).await;
    run.all_built();
    assert_eq!(late.made(), ["job"]);
}

#[rstest]
#[case::other_path(Act::OtherPath, "which should be")]
#[case::missing(Act::MissingOutput, "did not return output")]
#[case::extra(Act::ExtraOutput, "does not have")]
#[case::reference(Act::ForeignReference, "no input of the build")]
#[case::hidden_reference(Act::HiddenReference, "said not to refer to")]
#[case::hidden_before(Act::HiddenReferenceBefore, "said not to refer to")]
#[tokio::test(start_paused = true)]
async fn a_liar_is_taken_out(#[case] act: Act, #[case] words: &str) {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 1).does("job", &[act]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
    let downs = run.downs();
    let down = downs.iter().find(|(machine, _)| machine == "one").expect("it is out");
    assert!(down.1.contains(words), "{}", down.1);
}

/// Whether it's for here or for another machine, fetched ahead, along with the answer or in a stream.
#[rstest]
#[case::along(100, &["a", "b", "c", "d"])]
#[case::ahead(100, &[])]
#[case::streamed(LARGE, &[])]
#[case::bulky(3_000_000, &[])]
#[tokio::test(start_paused = true)]
async fn a_reference_that_is_left_out_is_found_where_it_passes(
    #[case] size: usize,
    #[case] before: &[&str],
    #[values("x86_64-linux", "aarch64-linux")] for_system: &str,
    #[values(Act::HiddenReference, Act::HiddenReferenceBefore)] act: Act,
) {
    let mut world = World::new().await;
    let mut needed = Vec::new();
    for name in before {
        needed.push(world.drv(name, &[]).await);
    }
    let mut low = world.draft("low").size(size).keeps(Keeps::Inputs);
    for drv in &needed {
        low = low.needs(drv, &["out"]);
    }
    let low = low.write().await;
    let high = world.draft("high").needs(&low, &["out"]).system(for_system).write().await;
    let one = Machine::new("one", 1).does("low", &[act]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build_with(&[&one, &two, &other_system("three")], &[&high], keep_going()).await;
    run.all_built();
    assert!(two.made().contains(&"low".to_owned()), "{:?}", run.downs());
    let downs = run.downs();
    let down = downs.iter().find(|(machine, _)| machine == "one").expect("it is out");
    assert!(down.1.contains("said not to refer to"), "{}", down.1);
    let info = world.local.store.path_infos(&[low.out()]).await.expect("memory").pop().flatten();
    assert!(!info.expect("it is here").references.is_empty());
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn what_is_mentioned_and_said_is_believed(#[values(100, 3_000_000)] size: usize) {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let high = world.draft("high").size(size).needs(&low, &["out"]).write().await;
    let one = Machine::new("one", 1).does("high", &[Act::Mentions]);
    let run = world.build(&[&one], &[&high]).await;
    run.all_built();
    assert_eq!(run.downs(), []);
}

/// T45: when something was registered on a machine is told by a clock that may show anything; the store that it comes
/// to has its own.
#[rstest]
#[case::behind(1_000_000_000)]
#[case::ahead(4_000_000_000)]
#[case::far(u64::MAX)]
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_is_of_no_account(
    #[case] clock: u64,
    #[values(100, LARGE, 3_000_000)] size: usize,
) {
    let mut world = World::new().await;
    let low = world.draft("low").size(size).write().await;
    let high = world.draft("high").size(size).needs(&low, &["out"]).write().await;
    let one = Machine::new("one", 1).does("high", &[Act::LosesConnection, Act::Builds]);
    one.clock.store(clock, std::sync::atomic::Ordering::Relaxed);
    let run = world.build(&[&one], &[&high, &low]).await;
    run.all_built();
    for path in [low.out(), high.out()] {
        let here = world.local.store.path_infos(std::slice::from_ref(&path)).await.expect("memory");
        let there = one.store.path_infos(&[path]).await.expect("memory");
        let times = [here, there].map(|infos| infos[0].as_ref().map(|info| info.registration_time));
        assert_eq!(times, [Some(0), Some(clock)]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_path_of_a_floating_output_must_follow_from_its_contents() {
    let mut world = World::new().await;
    let drv = world.draft("job").floating().write().await;
    let one = Machine::new("one", 1).does("job", &[Act::OtherContents]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
    let downs = run.downs();
    let down = downs.iter().find(|(machine, _)| machine == "one").expect("it is out");
    assert!(down.1.contains("not the path of its contents"), "{}", down.1);
}

#[rstest]
#[case::small(100)]
#[case::large(2_000_000)]
#[tokio::test(start_paused = true)]
async fn a_nar_that_is_not_what_was_announced_never_arrives(#[case] size: usize) {
    let mut world = World::new().await;
    let low = world.draft("low").size(size).write().await;
    let high = world.draft("high").needs(&low, &["out"]).system("aarch64-linux").write().await;
    let one = Machine::new("one", 1).does("low", &[Act::WrongHash]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let high_machine = other_system("three");
    let run = world.build_with(&[&one, &two, &high_machine], &[&high], keep_going()).await;
    run.all_built();
    assert_eq!(two.made(), ["low"], "{:?}", run.downs());
    assert!(run.downs().iter().any(|(machine, _)| machine == "one"));
    assert!(run.downs().iter().all(|(machine, _)| machine != "three"), "{:?}", run.downs());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_sends_the_work_elsewhere() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let message = "No space left on device".to_owned();
    let full = Act::Fails(BuildFailure { cause: FailureCause::NoRoom, message });
    let one = Machine::new("one", 1).does("job", &[full]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
}

/// Where there is nowhere else, it's the build's own failure, and told once.
#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_the_build_where_there_is_no_other_machine() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let message = "the build's own words".to_owned();
    let full = Act::Fails(BuildFailure { cause: FailureCause::NoRoom, message: message.clone() });
    let here = Machine::local(1).does("job", &[full]);
    let run = world.build(&[&here], &[&drv]).await;
    let report = run.failure(&drv);
    assert_eq!((report.cause, report.message), (FailureCause::Passing, message));
    assert_eq!(run.downs(), []);
}

/// Another machine that is alone isn't asked the same again.
#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_the_build_at_once_where_a_single_machine_builds() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let message = "No space left on device".to_owned();
    let full = Act::Fails(BuildFailure { cause: FailureCause::NoRoom, message });
    let one = Machine::new("one", 1).does("job", &[full.clone(), full, Act::Builds]);
    let run = world.build(&[&one], &[&drv]).await;
    let report = run.failure(&drv);
    assert!(report.message.contains("one: "), "{}", report.message);
    assert!(report.message.contains("No space left on device"), "{}", report.message);
    assert_eq!(run.downs().len(), 1, "{:?}", run.downs());
}

#[rstest]
#[case::full(ImportFault::DiskFull)]
#[case::lost_before(ImportFault::LostBefore)]
#[case::lost_after(ImportFault::LostAfter)]
#[tokio::test(start_paused = true)]
async fn inputs_that_do_not_get_there_send_the_work_elsewhere(#[case] fault: ImportFault) {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let high = world.drv("high", &[&low]).await;
    let one = Machine::new("one", 1).imports(&[fault]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&high]).await;
    run.all_built();
    let downs = run.downs();
    assert!(downs.iter().any(|(machine, _)| machine == "one"), "{downs:?}");
}

/// `high` needs `low`, and they can only be built on different machines.
async fn across(world: &mut World, size: usize) -> Drv {
    let low = world.draft("low").size(size).write().await;
    let high = world.draft("high").needs(&low, &["out"]).system("aarch64-linux");
    high.write().await
}

#[rstest]
#[case::lost(ExportFault::LostMidway)]
#[case::at_once(ExportFault::LostAtOnce)]
#[case::corrupted(ExportFault::Corrupted)]
#[tokio::test(start_paused = true)]
async fn a_source_that_breaks_off_is_blamed_and_not_who_was_sent_to(
    #[case] fault: ExportFault,
    #[values(LARGE, 3_000_000)] size: usize,
    #[values(true, false)] fragile: bool,
) {
    let mut world = World::new().await;
    let high = across(&mut world, size).await;
    let one = Machine::new("one", 1).exports(&[fault]);
    let two = other_system("two");
    *two.fragile.lock().unwrap() = fragile;
    let run = world.build(&[&one, &two], &[&high]).await;
    run.all_built();
    let downs = run.downs();
    assert!(downs.iter().all(|(machine, _)| machine == "one"), "{downs:?}");
    assert_eq!(two.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_machines_of_one_name_the_right_one_is_taken_out() {
    let mut world = World::new().await;
    let first = world.draft("first").took(Duration::from_secs(10)).write().await;
    let second = world.draft("second").system("aarch64-linux").write().await;
    let one = Machine::new("same", 1);
    let two = other_system("same").does("second", &[Act::LosesConnection, Act::Builds]);
    let run = world.build(&[&one, &two], &[&first, &second]).await;
    run.all_built();
    assert_eq!(one.connections.load(Ordering::SeqCst), 1, "the first one was left alone");
    assert_eq!(two.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_build_for_want_of_memory_goes_elsewhere() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let message = "cannot allocate memory".to_owned();
    let poor = Act::Fails(BuildFailure { cause: FailureCause::Machine, message });
    let one = Machine::new("one", 1).does("job", &[poor]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let run = world.build(&[&one, &two], &[&drv]).await;
    run.all_built();
    assert_eq!(two.made(), ["job"]);
    assert!(run.downs().iter().all(|(machine, _)| machine == "two"), "it stays in use");
}
