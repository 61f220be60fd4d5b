//! What clients of a service ask of their builds: limits, cores, folders that are kept.

use std::sync::Arc;
use std::time::Duration;

use drover_store::{
    AfterFailure, BuildSettings, BuildWishes, FailureCause, RealiseSettings, RealiseStatus,
};
use rstest::rstest;
use tokio::time::Instant;

use crate::clients::{Crowd, Daemon, Heard, built, settings};
use crate::machine::{Act, Machine};
use crate::world::World;

fn asking(build: BuildSettings) -> RealiseSettings {
    RealiseSettings { build, ..settings(AfterFailure::KeepGoing) }
}

fn timeout(seconds: u64) -> BuildSettings {
    BuildSettings { timeout: Some(Duration::from_secs(seconds)), ..BuildSettings::default() }
}

fn silence(seconds: u64) -> BuildSettings {
    let limit = Some(Duration::from_secs(seconds));
    BuildSettings { max_silent_time: limit, ..BuildSettings::default() }
}

fn log_size(bytes: u64) -> BuildSettings {
    let mut build = BuildSettings::default();
    build.overrides.insert("max-build-log-size".to_owned(), bytes.to_string());
    build
}

#[rstest]
#[case::timeout(
    timeout(10),
    Act::Chatters,
    RealiseStatus::Failed(FailureCause::TimedOut),
    "timed out after 10 seconds",
    10
)]
#[case::silence(
    silence(10),
    Act::Hangs,
    RealiseStatus::Failed(FailureCause::TimedOut),
    "timed out after 10 seconds of silence",
    10
)]
#[case::log_size(
    log_size(100),
    Act::Chatters,
    RealiseStatus::Failed(FailureCause::LogLimit),
    "killed after writing more than 100 bytes of log output",
    9
)]
#[tokio::test(start_paused = true)]
async fn a_build_that_goes_too_far_is_ended(
    #[case] build: BuildSettings,
    #[case] act: Act,
    #[case] status: RealiseStatus,
    #[case] words: &str,
    #[case] seconds: u64,
) {
    let mut world = World::new().await;
    let drv = world.drv("far", &[]).await;
    let after = world.drv("after", &[&drv]).await;
    let one = Machine::new("one", 1).does("far", &[act]);
    let daemon = Daemon::new(&world, &[&one]);
    let began = Instant::now();
    let answers = daemon.ask_on(&[&drv, &after], asking(build), Arc::default()).await.unwrap();
    assert_eq!(answers[0].status, status, "{answers:?}");
    assert!(answers[0].message.ends_with(words), "{answers:?}");
    assert!(answers[0].message.contains("far.drv' "), "{answers:?}");
    assert_eq!(answers[1].status, RealiseStatus::Failed(FailureCause::Dependency), "{answers:?}");
    assert_eq!(began.elapsed().as_secs(), seconds);
    daemon.quiet().await;
    assert_eq!(one.live_lanes(), 0, "it still runs");
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn words_keep_a_build_from_being_silent() {
    let mut world = World::new().await;
    let drv = world.drv("chatty", &[]).await;
    let one = Machine::new("one", 1).does("chatty", &[Act::Chatters]);
    let daemon = Daemon::new(&world, &[&one]);
    let build = BuildSettings { max_silent_time: Some(Duration::from_secs(3)), ..timeout(60) };
    let answers = daemon.ask_on(&[&drv], asking(build), Arc::default()).await.unwrap();
    assert!(answers[0].message.ends_with("timed out after 60 seconds"), "{answers:?}");
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_is_built_all_the_same() {
    let mut world = World::new().await;
    let stuck = world.drv("stuck", &[]).await;
    let others = [world.drv("a", &[]).await, world.drv("b", &[]).await, world.drv("c", &[]).await];
    let one = Machine::new("one", 1).does("stuck", &[Act::Hangs]);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_on(&[&stuck], asking(timeout(30)), Arc::default()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for other in &others {
        // these wait longer than their own limit, which doesn't count before they begin
        crowd.add(daemon.ask_on(&[other], asking(timeout(5)), Arc::default()));
    }
    let answers = crowd.all().await;
    let timed_out = answers
        .iter()
        .filter(|answer| answer[0].status == RealiseStatus::Failed(FailureCause::TimedOut));
    assert_eq!(timed_out.count(), 1, "{answers:?}");
    let mut made = one.made();
    made.sort();
    assert_eq!(made, ["a", "b", "c"]);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn the_laxer_limit_of_those_who_wait_counts() {
    let mut world = World::new().await;
    let drv = world.draft("job").took(Duration::from_secs(20)).write().await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_on(&[&drv], asking(timeout(5)), Arc::default()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    crowd.add(daemon.ask_on(&[&drv], asking(timeout(60)), Arc::default()));
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!(one.made(), ["job"]);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_laxer_one_leaves_the_stricter_limit_counts() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let one = Machine::new("one", 1).does("job", &[Act::Hangs]);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    let began = Instant::now();
    crowd.add(daemon.ask_on(&[&drv], asking(timeout(5)), Arc::default()));
    let lax = crowd.add(daemon.ask_on(&[&drv], asking(timeout(60)), Arc::default()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    lax.abort();
    let answers = crowd.all().await;
    assert_eq!(answers.len(), 1);
    assert!(answers[0][0].message.ends_with("timed out after 5 seconds"), "{answers:?}");
    assert_eq!(began.elapsed().as_secs(), 10);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn cores_and_kept_folders_reach_the_machine() {
    let mut world = World::new().await;
    let (plain, special) = (world.drv("plain", &[]).await, world.drv("special", &[]).await);
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let heard = Arc::new(Heard::default());
    built(&daemon.ask_on(&[&plain], asking(BuildSettings::default()), heard).await.unwrap());
    let build = BuildSettings { cores: Some(3), keep_failed: true, ..BuildSettings::default() };
    built(&daemon.ask_on(&[&special], asking(build), Arc::default()).await.unwrap());
    let usual = BuildWishes::of(&BuildSettings::default());
    let expected = [usual.clone(), BuildWishes { cores: Some(3), keep_failed: true, ..usual }];
    assert_eq!(*one.wishes.lock().unwrap(), expected);
    daemon.end(&[&one]).await;
}
