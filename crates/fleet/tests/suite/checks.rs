//! Builds that are repeated, for clients of a service.

use std::sync::Arc;
use std::time::Duration;

use drover_store::{
    AfterFailure, BuildFailure, BuildMode, FailureCause, RealiseSettings, RealiseStatus, StoreError,
};

use crate::clients::{Crowd, Daemon, Heard, built, settings};
use crate::machine::{Act, Machine};
use crate::world::World;

fn checking(after_failure: AfterFailure) -> RealiseSettings {
    RealiseSettings { mode: BuildMode::Check, ..settings(after_failure) }
}

fn differs() -> Act {
    Act::Fails(BuildFailure {
        cause: FailureCause::NotDeterministic,
        message: "it differs".to_owned(),
    })
}

/// Whatever other machines there are; and only what is asked for.
#[tokio::test(start_paused = true)]
async fn a_build_is_repeated_on_this_machine() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let top = world.drv("top", &[&low]).await;
    let (here, one) = (Machine::local(1), Machine::new("one", 8));
    let daemon = Daemon::new(&world, &[&here, &one]);
    built(&daemon.ask(&[&top]).await);
    let before = [here.made(), one.made()];
    let heard = Arc::new(Heard::default());
    let asking = daemon.ask_on(&[&top], checking(AfterFailure::Stop), Arc::clone(&heard));
    let answers = asking.await.unwrap();
    built(&answers);
    assert_eq!(answers[0].outputs["out"], top.out());
    assert!(answers[0].period.is_some());
    assert_eq!(here.made(), [before[0].clone(), vec!["top once more".to_owned()]].concat());
    assert_eq!(one.made(), before[1]);
    heard.check();
    assert_eq!(heard.lines(), ["building top once more"]);
    daemon.end(&[&here, &one]).await;
}

/// As many at once as this machine has slots, over all clients.
#[tokio::test(start_paused = true)]
async fn as_many_are_repeated_at_once_as_there_are_slots() {
    let mut world = World::new().await;
    let took = Duration::from_secs(10);
    let mut drvs = Vec::new();
    for name in ["a", "b", "c", "d"] {
        drvs.push(world.draft(name).took(took).write().await);
    }
    let here = Machine::local(2);
    let daemon = Daemon::new(&world, &[&here]);
    built(&daemon.ask(&drvs.iter().collect::<Vec<_>>()).await);
    let began = tokio::time::Instant::now();
    let mut crowd = Crowd::default();
    for both in drvs.chunks(2) {
        let both: Vec<_> = both.iter().collect();
        crowd.add(daemon.ask_on(&both, checking(AfterFailure::Stop), Arc::default()));
    }
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!(began.elapsed().as_secs(), 20);
    daemon.end(&[&here]).await;
}

#[tokio::test(start_paused = true)]
async fn what_differs_stops_the_rest_unless_that_is_to_go_on() {
    let mut world = World::new().await;
    let bad = world.drv("bad", &[]).await;
    let good = world.draft("good").took(Duration::from_secs(60)).write().await;
    let here = Machine::local(2).does("bad", &[Act::Builds, differs()]);
    let daemon = Daemon::new(&world, &[&here]);
    built(&daemon.ask(&[&bad, &good]).await);
    for (after_failure, rest) in [
        (AfterFailure::Stop, RealiseStatus::Failed(FailureCause::Cancelled)),
        (AfterFailure::KeepGoing, RealiseStatus::Built),
    ] {
        let asking = daemon.ask_on(&[&bad, &good], checking(after_failure), Arc::default());
        let answers = asking.await.unwrap();
        assert_eq!(answers[0].status, RealiseStatus::Failed(FailureCause::NotDeterministic));
        assert_eq!(answers[0].message, "it differs");
        assert_eq!(answers[1].status, rest);
    }
    daemon.end(&[&here]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_valid_is_not_repeated() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let here = Machine::local(1);
    let daemon = Daemon::new(&world, &[&here]);
    let asking = daemon.ask_on(&[&drv], checking(AfterFailure::Stop), Arc::default());
    let answers = asking.await.unwrap();
    assert_eq!(answers[0].status, RealiseStatus::Failed(FailureCause::Other));
    assert!(answers[0].message.contains("so checking is not possible"), "{answers:?}");
    assert!(here.made().is_empty());
    daemon.end(&[&here]).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_build_has_its_limits() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let here = Machine::local(1).does("job", &[Act::Builds, Act::Hangs]);
    let daemon = Daemon::new(&world, &[&here]);
    built(&daemon.ask(&[&drv]).await);
    let mut limited = checking(AfterFailure::Stop);
    limited.build.timeout = Some(Duration::from_secs(7));
    let answers = daemon.ask_on(&[&drv], limited, Arc::default()).await.unwrap();
    assert_eq!(answers[0].status, RealiseStatus::Failed(FailureCause::TimedOut));
    assert!(answers[0].message.ends_with("timed out after 7 seconds"), "{answers:?}");
    daemon.end(&[&here]).await;
}

#[tokio::test(start_paused = true)]
async fn without_builds_here_nothing_can_be_repeated() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    built(&daemon.ask(&[&drv]).await);
    let asking = daemon.ask_on(&[&drv], checking(AfterFailure::Stop), Arc::default());
    assert!(matches!(asking.await, Err(StoreError::Unsupported { .. })));
    daemon.end(&[&one]).await;
}
