//! What travels where, and what is built at all.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_fleet::{CopyBack, FleetEvent, FleetOptions, Target};
use drover_store::Store as _;

use crate::machine::Machine;
use crate::world::{Drv, Keeps, World, keep_going, options};

/// Outputs larger than what is kept in memory.
const LARGE: usize = 200_000;

fn paths(drvs: &[&Drv]) -> BTreeSet<drover_core::StorePath> {
    drvs.iter().map(|drv| drv.out()).collect()
}

/// `top` needs `left` and `right`, which need `base`.
async fn diamond(world: &mut World, keeps: Keeps) -> [Drv; 4] {
    let base = world.draft("base").size(LARGE).keeps(keeps).write().await;
    let left = world.draft("left").size(LARGE).keeps(keeps).needs(&base, &["out"]);
    let left = left.took(Duration::from_secs(20)).write().await;
    let right = world.draft("right").size(LARGE).keeps(keeps).needs(&base, &["out"]);
    let right = right.took(Duration::from_secs(20)).write().await;
    let top = world.draft("top").size(10).keeps(keeps);
    let top = top.needs(&left, &["out"]).needs(&right, &["out"]).write().await;
    [base, left, right, top]
}

#[tokio::test(start_paused = true)]
async fn of_a_diamond_only_what_was_asked_for_comes_back() {
    let mut world = World::new().await;
    let [_, _, _, top] = diamond(&mut world, Keeps::Nothing).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let run = world.build(&[&one, &two], &[&top]).await;
    run.all_built();
    assert_eq!(run.report().built, 4);
    assert_eq!(world.valid().await, paths(&[&top]));
    assert_eq!(one.made().len() + two.made().len(), 4);
    assert!(!one.made().is_empty() && !two.made().is_empty(), "both had something to do");
    // base went to the machine that did not build it, and one of the sides to the other one
    let totals = ["one", "two"].map(|name| run.totals(name).clone());
    let large = LARGE as u64;
    let (up, down) =
        (totals[0].bytes_up + totals[1].bytes_up, totals[0].bytes_down + totals[1].bytes_down);
    assert!((2 * large..2 * large + 2_000).contains(&up), "{up} bytes up");
    assert!((2 * large..2 * large + 2_000).contains(&down), "{down} bytes down");
    assert_eq!(totals[0].builds + totals[1].builds, 4);
}

#[tokio::test(start_paused = true)]
async fn the_closure_of_what_was_asked_for_comes_back_whole() {
    let mut world = World::new().await;
    let [base, left, right, top] = diamond(&mut world, Keeps::Inputs).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let run = world.build(&[&one, &two], &[&top]).await;
    run.all_built();
    assert_eq!(world.valid().await, paths(&[&base, &left, &right, &top]));
}

#[tokio::test(start_paused = true)]
async fn everything_comes_back_where_that_was_asked_for() {
    let mut world = World::new().await;
    let [base, left, right, top] = diamond(&mut world, Keeps::Nothing).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let options = FleetOptions { copy_back: CopyBack::Everything, ..options() };
    let run = world.build_with(&[&one, &two], &[&top], options).await;
    run.all_built();
    assert_eq!(world.valid().await, paths(&[&base, &left, &right, &top]));
}

#[tokio::test(start_paused = true)]
async fn what_goes_from_builder_to_builder_is_not_stored_here() {
    let mut world = World::new().await;
    let low = world.draft("low").size(LARGE).keeps(Keeps::Nothing).write().await;
    let high = world.draft("high").needs(&low, &["out"]).keeps(Keeps::Nothing);
    let high = high.system("aarch64-linux").write().await;
    let one = Machine::new("one", 1);
    let kind = drover_schedule::MachineKind::Remote;
    let two = Machine::of_kind("two", 1, kind, "aarch64-linux");
    let run = world.build(&[&one, &two], &[&high]).await;
    run.all_built();
    assert_eq!(world.valid().await, paths(&[&high]));
    assert!(two.added.lock().unwrap().contains(&low.out()));
    let streamed = run.events.iter().any(|event| match event {
        FleetEvent::CopyStarted { from, to, .. } => {
            from.contains(&Some("one".to_owned())) && *to == Some("two".to_owned())
        }
        _ => false,
    });
    assert!(streamed, "it went straight through");
}

#[tokio::test(start_paused = true)]
async fn a_chain_stays_on_one_lane() {
    let mut world = World::new().await;
    let mut last = world.draft("link0").keeps(Keeps::Nothing).write().await;
    for at in 1..30 {
        let link = world.draft(&format!("link{at}")).keeps(Keeps::Nothing);
        last = link.needs(&last, &["out"]).write().await;
    }
    let (one, two) = (Machine::new("one", 2), Machine::new("two", 2));
    let run = world.build(&[&one, &two], &[&last]).await;
    run.all_built();
    assert_eq!(one.made().len().max(two.made().len()), 30);
    assert!(run.took < Duration::from_secs(32), "took {:?}", run.took);
    let order: Vec<String> = run.built().into_iter().map(|(name, _)| name).collect();
    let expected: Vec<String> = (0..30).map(|at| format!("link{at}")).collect();
    assert_eq!(order, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_valid_is_not_built_again() {
    let mut world = World::new().await;
    let [base, left, _, top] = diamond(&mut world, Keeps::Nothing).await;
    world.provide(&left, "out").await;
    let one = Machine::new("one", 1);
    let run = world.build(&[&one], &[&top]).await;
    run.all_built();
    assert_eq!(one.made(), ["base", "right", "top"]);
    assert!(one.added.lock().unwrap().contains(&left.out()));

    world.provide(&base, "out").await;
    let idle = Machine::new("idle", 1);
    let run = world.build(&[&idle], &[&top]).await;
    run.all_built();
    assert!(idle.made().is_empty());
    assert_eq!(idle.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn of_several_outputs_the_wanted_ones_come_back() {
    let mut world = World::new().await;
    let many = world.draft("many").outputs(&["out", "dev", "doc"]).keeps(Keeps::Nothing);
    let many = many.write().await;
    let user = world.draft("user").needs(&many, &["dev"]).keeps(Keeps::Nothing).write().await;
    let one = Machine::new("one", 1);
    let wanted = BTreeSet::from(["doc".parse().expect("a name")]);
    let targets = vec![Target { derivation: many.path.clone(), outputs: wanted }, user.target()];
    let run = world.run(&[&one], targets, options(), Default::default()).await;
    run.all_built();
    let expected = BTreeSet::from([many.output("doc"), user.out()]);
    assert_eq!(world.valid().await, expected);
    assert_eq!(run.report().targets[0].outcome.as_ref().expect("built").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_valid_output_of_two_does_not_hide_the_other() {
    let mut world = World::new().await;
    let both = world.draft("both").outputs(&["out", "dev"]).keeps(Keeps::Nothing).write().await;
    world.provide(&both, "out").await;
    let user = world.draft("user").needs(&both, &["out"]).keeps(Keeps::Nothing).write().await;
    let one = Machine::new("one", 1);
    let run = world.build(&[&one], &[&user]).await;
    run.all_built();
    assert_eq!(one.made(), ["user"], "what it needs is valid");
    let run = world.build(&[&one], &[&both]).await;
    run.all_built();
    assert!(world.valid().await.contains(&both.output("dev")));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_output_is_an_error_with_those_that_there_are() {
    let mut world = World::new().await;
    let drv = world.drv("a", &[]).await;
    let wanted = BTreeSet::from(["lib".parse().expect("a name")]);
    let target = Target { derivation: drv.path.clone(), outputs: wanted };
    let run = world.run(&[], vec![target], options(), Default::default()).await;
    let error = run.result.expect_err("no such output").to_string();
    assert!(error.contains("has no output 'lib'; it has: out"), "{error}");
}

/// A floating derivation, one of unknown path that needs it, and a valid one that both need.
async fn floating_graph(world: &mut World) -> [Drv; 3] {
    let low = world.drv("low", &[]).await;
    let middle = world.draft("middle").floating().needs(&low, &["out"]).size(LARGE).write().await;
    let high = world.draft("high").deferred().needs(&middle, &["out"]).needs(&low, &["out"]);
    let high = high.write().await;
    [low, middle, high]
}

#[tokio::test(start_paused = true)]
async fn floating_derivations_are_resolved() {
    let mut world = World::new().await;
    let [_, _, high] = floating_graph(&mut world).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let run = world.build(&[&one, &two], &[&high]).await;
    run.all_built();
    let outputs = run.report().targets[0].outcome.as_ref().expect("built");
    let path = outputs.values().next().expect("an output").clone();
    let found = world.local.path_infos(&[path]).await.expect("memory");
    assert!(found[0].is_some(), "it is here");
    let retried = |event: &FleetEvent| matches!(event, FleetEvent::Retried { .. });
    assert!(!run.events.iter().any(retried), "nothing was tried in vain");
}

#[tokio::test(start_paused = true)]
async fn floating_derivations_take_valid_inputs() {
    let mut world = World::new().await;
    let [low, _, high] = floating_graph(&mut world).await;
    world.provide(&low, "out").await;
    let one = Machine::new("one", 2);
    let run = world.build_with(&[&one], &[&high], keep_going()).await;
    run.all_built();
    assert_eq!(one.made(), ["middle", "high"]);
}

#[tokio::test(start_paused = true)]
async fn large_outputs_come_in_an_order_that_a_store_takes() {
    let mut world = World::new().await;
    let big = 2 * 1024 * 1024;
    let mut all: Vec<Drv> = Vec::new();
    for at in 0..12 {
        let size = if at % 3 == 1 { 1_000 } else { big };
        let mut draft = world.draft(&format!("layer{at}")).size(size);
        for input in all.iter().rev().take(2) {
            draft = draft.needs(input, &["out"]);
        }
        all.push(draft.write().await);
    }
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let top = all.last().expect("some");
    let run = world.build(&[&one, &two], &[top]).await;
    run.all_built();
    assert_eq!(world.valid().await.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn the_local_machine_needs_no_copies() {
    let mut world = World::new().await;
    let [_, _, _, top] = diamond(&mut world, Keeps::Nothing).await;
    let here = Machine::local(2);
    let run = world.build(&[&here], &[&top]).await;
    run.all_built();
    let copied = |event: &FleetEvent| matches!(event, FleetEvent::CopyStarted { .. });
    assert!(!run.events.iter().any(copied));
}

#[tokio::test(start_paused = true)]
async fn a_target_outside_the_graph_is_an_error() {
    let mut world = World::new().await;
    let [inside, outside] = [world.drv("inside", &[]).await, world.drv("outside", &[]).await];
    let roots = [inside.path.clone()];
    let graph = drover_fleet::Graph::read(&*world.local, &roots).await.expect("sound");
    let fleet = drover_fleet::Fleet::new(
        world.local.clone(),
        Vec::new(),
        options(),
        std::sync::Arc::new(drover_fleet::Silent),
    );
    let targets = vec![outside.target()];
    let result = fleet.build(std::sync::Arc::new(graph), targets, Default::default()).await;
    let error = result.expect_err("it is not there").to_string();
    assert!(error.contains("outside.drv' is not in the graph"), "{error}");
}

/// When what was built so far was small, outputs are asked for with their builds. One that is large
/// after all ends its lane; what was sent behind it is sent again, and nobody is taken out for it.
#[tokio::test(start_paused = true)]
async fn a_large_output_after_small_ones_costs_nothing_but_a_lane() {
    let mut world = World::new().await;
    let mut tops = Vec::new();
    for number in 0..6 {
        tops.push(world.draft(&format!("small{number}")).size(10).write().await);
    }
    for number in 0..4 {
        let large = world.draft(&format!("large{number}")).size(LARGE);
        let large = large.needs(&tops[number], &["out"]).write().await;
        let next = world.draft(&format!("next{number}")).size(10).needs(&large, &["out"]);
        tops.push(next.write().await);
    }
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let wanted: Vec<&Drv> = tops.iter().collect();
    let run = world.build(&[&one, &two], &wanted).await;
    run.all_built();
    assert_eq!(one.made().len() + two.made().len(), 14, "each was built once");
    assert_eq!(run.downs(), []);
}

/// Small outputs that came along are not fetched again.
#[tokio::test(start_paused = true)]
async fn what_came_along_is_counted_once() {
    let mut world = World::new().await;
    let mut all = Vec::new();
    for number in 0..12 {
        all.push(world.draft(&format!("small{number}")).size(1000).write().await);
    }
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let wanted: Vec<&Drv> = all.iter().collect();
    let run = world.build(&[&one, &two], &wanted).await;
    run.all_built();
    let down: u64 = ["one", "two"].iter().map(|name| run.totals(name).bytes_down).sum();
    assert!((12_000..16_000).contains(&down), "{down} bytes down");
}

/// What a target needs from another machine is fed to the caller's store on its way there, and does
/// not cross the link a second time for the result.
#[rstest::rstest]
#[case::wanted(Keeps::Inputs)]
#[case::not_wanted(Keeps::Nothing)]
#[tokio::test(start_paused = true)]
async fn bulky_inputs_of_a_target_come_here_on_their_way(#[case] keeps: Keeps) {
    const BULKY: usize = 2_000_000;
    let mut world = World::new().await;
    let mut inputs = Vec::new();
    for number in 0..4 {
        let input = world.draft(&format!("input{number}")).size(BULKY);
        inputs.push(input.took(Duration::from_secs(20)).write().await);
    }
    let mut top = world.draft("top").size(10).keeps(keeps);
    for input in &inputs {
        top = top.needs(input, &["out"]);
    }
    let top = top.write().await;
    let (one, two) = (Machine::new("one", 2), Machine::new("two", 2));
    let run = world.build(&[&one, &two], &[&top]).await;
    run.all_built();
    let mut expected = paths(&[&top]);
    if keeps == Keeps::Inputs {
        expected.extend(inputs.iter().map(|input| input.out()));
    }
    assert_eq!(world.valid().await, expected);
    let down: u64 = ["one", "two"].iter().map(|name| run.totals(name).bytes_down).sum();
    assert!((8_000_000..8_010_000).contains(&down), "{down} bytes down");
}

/// What the last job is made of comes here while it runs, and is given up if its result doesn't refer
/// to it.
#[rstest::rstest]
#[case::wanted(Keeps::Inputs)]
#[case::not_wanted(Keeps::Nothing)]
#[tokio::test(start_paused = true)]
async fn bulky_inputs_of_the_last_job_come_here_while_it_runs(#[case] keeps: Keeps) {
    const BULKY: usize = 2_000_000;
    let mut world = World::new().await;
    let mut inputs = Vec::new();
    for number in 0..3 {
        let input = world.draft(&format!("input{number}")).size(BULKY).keeps(Keeps::Nothing);
        inputs.push(input.write().await);
    }
    let mut top = world.draft("top").size(10).keeps(keeps).took(Duration::from_secs(30));
    for input in &inputs {
        top = top.needs(input, &["out"]);
    }
    let top = top.write().await;
    let one = Machine::new("one", 2);
    let run = world.build(&[&one], &[&top]).await;
    run.all_built();
    let fetched = |event: &FleetEvent| matches!(event, FleetEvent::CopyStarted { to: None, bytes, .. } if *bytes > 1_000_000);
    let built = |event: &FleetEvent| matches!(event, FleetEvent::Built { node, .. } if run.name(*node) == "top");
    let top_built = run.events.iter().position(built).unwrap();
    let early = run.events[..top_built].iter().filter(|event| fetched(event)).count();
    let all = run.events.iter().filter(|event| fetched(event)).count();
    assert_eq!((early, all), (3, 3));
    let mut expected = paths(&[&top]);
    if keeps == Keeps::Inputs {
        expected.extend(inputs.iter().map(|input| input.out()));
    }
    assert_eq!(world.valid().await, expected);
    let down = run.totals("one").bytes_down;
    assert!((6_000_000..6_010_000).contains(&down), "{down} bytes down");
}

/// Being told what would be done does nothing, and fetches nothing.
#[tokio::test(start_paused = true)]
async fn a_dry_run_fetches_nothing() {
    let mut world = World::new().await;
    let base = world.drv("base", &[]).await;
    let top = world.draft("top").size(10).needs(&base, &["out"]).write().await;
    world.local.offered.lock().unwrap().insert(base.out());
    let graph = drover_fleet::Graph::read(&*world.local, std::slice::from_ref(&top.path))
        .await
        .expect("sound");
    let fleet = drover_fleet::Fleet::new(
        world.local.clone(),
        Vec::new(),
        FleetOptions { substitute: drover_store::Substitute::Yes, ..options() },
        std::sync::Arc::new(drover_fleet::Silent),
    );
    let told = fleet.dry_run(std::sync::Arc::new(graph), vec![top.target()]).await;
    let told = told.expect("an answer");
    assert_eq!((told.build, told.substitute), (vec![top.path.clone()], vec![base.out()]));
    assert_eq!(*world.local.fetched.lock().unwrap(), BTreeSet::new());
}
