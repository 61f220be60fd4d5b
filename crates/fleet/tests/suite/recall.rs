//! Jobs that were queued behind a long one, while another machine has nothing to do.

use std::time::Duration;

use drover_fleet::FleetEvent;
use drover_schedule::MachineKind;

use crate::machine::Machine;
use crate::run::Run;
use crate::world::{Drv, World, keep_going};

/// A job of 100 s, and short ones with one behind each: one machine gets one of those behind the
/// long one, and the other machine soon has nothing more to do.
struct Queued {
    world: World,
    targets: Vec<Drv>,
}

/// Derivations that `queued` writes.
const COUNT: usize = 11;

async fn queued() -> Queued {
    let mut world = World::new().await;
    let long = world.draft("long").took(Duration::from_secs(100)).write().await;
    let short = world.draft("short").took(Duration::from_secs(2)).write().await;
    let mut targets = vec![world.drv("high", &[&long, &short]).await];
    for at in 0..4 {
        let low = world.draft(&format!("low{at}")).took(Duration::from_secs(2)).write().await;
        targets.push(world.drv(&format!("top{at}"), &[&low]).await);
    }
    Queued { world, targets }
}

impl Queued {
    async fn build(&self, machines: &[&std::sync::Arc<Machine>]) -> Run {
        let targets: Vec<&Drv> = self.targets.iter().collect();
        self.world.build_with(machines, &targets, keep_going()).await
    }
}

/// When a derivation was built, as its place among all that were.
fn place(run: &Run, name: &str) -> usize {
    let built = run.built();
    built.iter().position(|(built, _)| built == name).expect("it was built")
}

fn taken_back(run: &Run) -> usize {
    let retried = run.events.iter().filter(|event| matches!(event, FleetEvent::Retried { .. }));
    retried.count()
}

#[tokio::test(start_paused = true)]
async fn a_job_behind_a_long_one_goes_to_an_idle_machine() {
    let queued = queued().await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let run = queued.build(&[&one, &two]).await;
    run.all_built();
    assert!(taken_back(&run) > 0, "nothing was queued behind the long one: {:?}", run.built());
    assert_eq!(place(&run, "long"), COUNT - 2, "all else was built meanwhile: {:?}", run.built());
    assert!(run.took < Duration::from_secs(103), "took {:?}", run.took);
    let made = [one.made(), two.made()].concat();
    assert_eq!(made.len(), COUNT, "nothing was built twice: {made:?}");
}

#[tokio::test(start_paused = true)]
async fn an_input_that_waits_behind_a_build_holds_nobody_else_up() {
    let mut world = World::new().await;
    let long = world.draft("long").took(Duration::from_secs(100)).write().await;
    let short = world.draft("short").took(Duration::from_secs(5)).write().await;
    let low = world.draft("low").system("aarch64-linux").write().await;
    let mut targets = vec![long, short];
    for at in 0..4 {
        targets.push(world.drv(&format!("high{at}"), &[&low]).await);
    }
    let one = Machine::new("one", 2);
    let two = Machine::of_kind("two", 1, MachineKind::Remote, "aarch64-linux");
    let targets: Vec<&Drv> = targets.iter().collect();
    let run = world.build(&[&one, &two], &targets).await;
    run.all_built();
    assert_eq!(place(&run, "long"), 6, "{:?}", run.built());
    assert!(run.took < Duration::from_secs(102), "took {:?}", run.took);
}
