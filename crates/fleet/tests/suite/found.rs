//! Outputs that machines have before a run.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_core::StorePath;
use drover_fleet::{CopyBack, FleetEvent, FleetOptions};
use drover_nar::{Executable, single_file_nar};
use tokio_util::sync::CancellationToken;

use crate::machine::Machine;
use crate::run::Run;
use crate::world::{Drv, Keeps, World, nar_info, options, put};

/// Puts an output into a machine's store, as another client's build might have.
pub(crate) async fn leave(machine: &Machine, drv: &Drv, references: &[StorePath]) {
    let nar = single_file_nar(b"left", Executable::No);
    let info = nar_info(drv.out(), &nar, references.iter().cloned().collect());
    put(&machine.store, info, nar).await;
}

pub(crate) async fn chain(world: &mut World, length: usize) -> Vec<Drv> {
    let mut drvs: Vec<Drv> = Vec::new();
    for number in 0..length {
        let mut draft = world.draft(&format!("c{number}")).keeps(Keeps::Nothing);
        if let Some(last) = drvs.last() {
            draft = draft.needs(last, &["out"]);
        }
        drvs.push(draft.write().await);
    }
    drvs
}

fn unneeded(run: &Run) -> BTreeSet<String> {
    let names = run.events.iter().filter_map(|event| match event {
        FleetEvent::Unneeded { node } => Some(run.name(*node)),
        _ => None,
    });
    names.collect()
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_run_goes_on_where_it_was() {
    let mut world = World::new().await;
    let mut sides = Vec::new();
    let base = world.drv("base", &[]).await;
    for name in ["short", "long"] {
        let took = Duration::from_secs(if name == "short" { 5 } else { 60 });
        sides.push(world.draft(name).took(took).needs(&base, &["out"]).write().await);
    }
    let top = world.drv("top", &[&sides[0], &sides[1]]).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let cancel = CancellationToken::new();
    let later = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        cancel.cancel();
    };
    let machines = [&one, &two];
    let running = world.run(&machines, vec![top.target()], options(), cancel.clone());
    let (run, ()) = tokio::join!(running, later);
    assert!(run.result.is_err());
    assert_eq!(one.made().len() + two.made().len(), 2, "{:?} {:?}", one.made(), two.made());
    let run = world.build(&[&one, &two], &[&top]).await;
    run.all_built();
    let mut made = [one.made(), two.made()].concat();
    made.sort();
    assert_eq!(made, ["base", "long", "short", "top"]);
    assert_eq!((run.report().built, run.report().found), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_only_found_outputs_need_is_not_built() {
    let mut world = World::new().await;
    let drvs = chain(&mut world, 4).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    leave(&two, &drvs[3], &[]).await;
    let run = world.build(&[&one, &two], &[&drvs[3]]).await;
    run.all_built();
    assert_eq!(world.valid().await, BTreeSet::from([drvs[3].out()]));
    assert_eq!((one.made().len(), two.made().len()), (0, 0), "{:?} {:?}", one.made(), two.made());
    assert_eq!(unneeded(&run), ["c0", "c1", "c2"].map(str::to_owned).into());
    assert_eq!((run.report().built, run.report().found), (0, 1));
}

/// Where everything is to be brought back, it has to be there.
#[tokio::test(start_paused = true)]
async fn with_all_outputs_wanted_none_is_unneeded() {
    let mut world = World::new().await;
    let drvs = chain(&mut world, 3).await;
    let one = Machine::new("one", 1);
    leave(&one, &drvs[2], &[]).await;
    let everything = FleetOptions { copy_back: CopyBack::Everything, ..options() };
    let run = world.build_with(&[&one], &[&drvs[2]], everything).await;
    run.all_built();
    assert_eq!(one.made(), ["c0", "c1"]);
    assert_eq!(world.valid().await, drvs.iter().map(Drv::out).collect());
}

/// An output that a build of the job could not have made is none of its.
#[tokio::test(start_paused = true)]
async fn what_refers_to_strangers_is_passed_over() {
    let mut world = World::new().await;
    let stranger = world.drv("stranger", &[]).await;
    let drv = world.drv("x", &[]).await;
    let one = Machine::new("one", 1);
    leave(&one, &stranger, &[]).await;
    leave(&one, &drv, &[stranger.out()]).await;
    let run = world.build(&[&one], &[&drv]).await;
    assert_eq!(run.report().found, 0);
    assert_eq!(run.report().built, 0, "the machine has it, and then that is a lie");
}

/// What was found and lost with its machine is built, with all that it needs.
#[tokio::test(start_paused = true)]
async fn what_was_found_and_is_lost_is_built() {
    let mut world = World::new().await;
    let drvs = chain(&mut world, 3).await;
    let took = Duration::from_secs(30);
    let top = world.draft("top").took(took).needs(&drvs[2], &["out"]).write().await;
    let one = Machine::new("one", 1).does("top", &[crate::machine::Act::LosesConnection]);
    let one = one.connects(&[crate::machine::Connect::Answers, crate::machine::Connect::NoNix]);
    let two = Machine::new("two", 1);
    leave(&one, &drvs[2], &[]).await;
    let run = world.build(&[&one, &two], &[&top]).await;
    run.all_built();
    assert_eq!(two.made(), ["c0", "c1", "c2", "top"]);
}

/// More outputs than go into the first message are asked about behind it.
#[tokio::test(start_paused = true)]
async fn many_outputs_are_asked_about_later() {
    let mut world = World::new().await;
    let mut drvs = Vec::new();
    for number in 0..700 {
        let took = Duration::from_secs(100);
        drvs.push(world.draft(&format!("w{number}")).took(took).write().await);
    }
    let (one, two) = (Machine::new("one", 2), Machine::new("two", 2));
    for drv in &drvs[..600] {
        leave(&two, drv, &[]).await;
    }
    let run = world.build(&[&one, &two], &drvs.iter().collect::<Vec<_>>()).await;
    run.all_built();
    // nothing is started before it has said so
    assert_eq!((run.report().built, run.report().found), (100, 600));
}
