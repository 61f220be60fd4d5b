//! A service with clients: what they share, what ends with them, what is forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use drover_derivation::{BasicDerivation, Derivation, derivation_name};
use drover_fleet::{OwnKind, ServiceOptions, Shutdown};
use drover_store::{
    AfterFailure, BuildFailure, BuildMode, FailureCause, RealiseEvent, RealiseStatus, Realiser,
    Store as _, StoreError, Substitute, Wanted,
};
use rstest::rstest;

use crate::clients::{Crowd, Daemon, Heard, built, settings};
use crate::machine::{Act, Connect, Machine};
use crate::stream::ExportFault;
use crate::world::{Drv, World};

fn fails(message: &str) -> Act {
    Act::Fails(BuildFailure { cause: FailureCause::Build, message: message.to_owned() })
}

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_built_comes_here_with_its_closure() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let top = world.drv("top", &[&low]).await;
    let one = Machine::new("one", 2);
    let daemon = Daemon::new(&world, &[&one]);
    let answers = daemon.ask(&[&top]).await;
    built(&answers);
    assert_eq!(answers[0].outputs["out"], top.out());
    assert!(answers[0].period.is_some());
    assert!(daemon.kept.is_valid(&top.out()).await && daemon.kept.is_valid(&low.out()).await);
    assert_eq!(one.made(), ["low", "top"]);
    let again = daemon.ask(&[&top]).await;
    assert_eq!(again[0].status, RealiseStatus::AlreadyValid);
    assert_eq!(again[0].outputs["out"], top.out());
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn two_clients_share_a_build_and_its_log() {
    let mut world = World::new().await;
    let drv = world.draft("job").took(Duration::from_secs(10)).write().await;
    let one = Machine::new("one", 4);
    let daemon = Daemon::new(&world, &[&one]);
    let (first, late) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::clone(&first)));
    after(5).await;
    crowd.add(daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::clone(&late)));
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!(one.made(), ["job"]);
    for heard in [&first, &late] {
        heard.check();
        assert_eq!(heard.lines(), first.lines());
        assert!(!heard.lines().is_empty(), "{:?}", heard.events());
    }
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_impure_is_built_anew_for_each_who_asks() {
    let mut world = World::new().await;
    let low = world.draft("low").impure().took(Duration::from_secs(10)).write().await;
    let top = world.draft("top").impure().needs(&low, &["out"]).write().await;
    let one = Machine::new("one", 4);
    let daemon = Daemon::new(&world, &[&one]);
    let mut made = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let answers = daemon.ask(&[&top]).await;
        built(&answers);
        let out = answers[0].outputs["out"].clone();
        let info = one.store.path_infos(std::slice::from_ref(&out)).await.unwrap().remove(0);
        let mut inputs = info.unwrap().references;
        inputs.retain(|path| path.name() == "low");
        made.extend(inputs);
        made.insert(out);
    }
    assert_eq!(one.made(), ["low", "top", "low", "top", "low", "top"]);
    assert_eq!(made.len(), 6, "each is made of what was built for it: {made:?}");
    // those who ask while it is built get what becomes of it
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_with(&[&low], AfterFailure::Stop, Arc::default()));
    after(5).await;
    crowd.add(daemon.ask_with(&[&low], AfterFailure::Stop, Arc::default()));
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!(one.made().len(), 7);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_pure_is_not_made_of_what_is_impure() {
    let mut world = World::new().await;
    let low = world.draft("low").impure().write().await;
    let top = world.draft("top").deferred().needs(&low, &["out"]).write().await;
    let one = Machine::new("one", 4);
    let daemon = Daemon::new(&world, &[&one]);
    let answer = daemon.ask(&[&top]).await.remove(0);
    assert_eq!(answer.status, RealiseStatus::Failed(FailureCause::Other));
    let expected = format!("pure derivation '/nix/store/{}' depends on impure", top.path);
    assert!(answer.message.contains(&expected), "{}", answer.message);
    assert!(one.made().is_empty());
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn five_hundred_clients_are_one_build_and_one_fetch() {
    let mut world = World::new().await;
    let low = world.draft("low").size(300_000).write().await;
    let top = world.draft("top").size(2_000_000).needs(&low, &["out"]).write().await;
    let one = Machine::new("one", 4);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    for _ in 0..500 {
        crowd.add(daemon.ask_with(&[&top], AfterFailure::Stop, Arc::default()));
    }
    let answers = crowd.all().await;
    assert_eq!(answers.len(), 500);
    answers.iter().for_each(|answers| built(answers));
    assert_eq!(one.made(), ["low", "top"]);
    assert_eq!(one.connections.load(Ordering::SeqCst), 1);
    let fetched = daemon.kept.fetched();
    assert_eq!(fetched.len(), 2, "{fetched:?}");
    let census = daemon.quiet().await;
    assert_eq!((census.clients, census.open, census.bundles), (0, 0, 0), "{census:?}");
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn slots_are_those_of_all_clients_together() {
    let mut world = World::new().await;
    let mut drvs = Vec::new();
    for number in 0..6 {
        let name = format!("job{number}");
        drvs.push(world.draft(&name).took(Duration::from_secs(10)).write().await);
    }
    let one = Machine::new("one", 2);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    let began = tokio::time::Instant::now();
    for drv in &drvs {
        crowd.add(daemon.ask_with(&[drv], AfterFailure::Stop, Arc::default()));
    }
    after(5).await;
    assert!(one.live_lanes() <= 2);
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    daemon.end(&[&one]).await;
}

/// Settings of a client that says so.
fn saying(name: &str, value: &str) -> drover_store::RealiseSettings {
    let mut settings = settings(AfterFailure::Stop);
    settings.build.overrides.insert(name.to_owned(), value.to_owned());
    settings
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_builds_here_shares_the_slots_of_others() {
    let mut world = World::new().await;
    let (here, one) = (Machine::local(4), Machine::new("one", 2));
    let mut drvs = Vec::new();
    for number in 0..6 {
        let name = format!("job{number}");
        drvs.push(world.draft(&name).took(Duration::from_secs(10)).write().await);
    }
    let daemon = Daemon::new(&world, &[&here, &one]);
    let mut crowd = Crowd::default();
    let began = tokio::time::Instant::now();
    for drv in &drvs {
        crowd.add(daemon.ask_on(&[drv], saying("max-jobs", "0"), Arc::default()));
    }
    after(5).await;
    assert_eq!((one.live_lanes(), here.live_lanes()), (2, 0));
    // who doesn't mind shares one of the builds that wait, which is then done here
    let late = drvs.last().unwrap();
    built(&daemon.ask(&[late]).await);
    assert_eq!((here.made(), began.elapsed().as_secs()), (vec!["job5".to_owned()], 15));
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!((one.made().len(), began.elapsed().as_secs()), (5, 30));
    daemon.end(&[&here, &one]).await;
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_other_machines_has_none() {
    let mut world = World::new().await;
    let drv = world.draft("job").took(Duration::from_secs(10)).write().await;
    let other = world.draft("other").took(Duration::from_secs(10)).write().await;
    let (here, one) = (Machine::local(1), Machine::new("one", 8));
    let daemon = Daemon::new(&world, &[&here, &one]);
    let mut crowd = Crowd::default();
    for drv in [&drv, &other] {
        crowd.add(daemon.ask_on(&[drv], saying("builders", ""), Arc::default()));
    }
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!((here.made().len(), one.made().len()), (2, 0));
    // and none at all where this machine isn't wanted, either
    let third = world.draft("third").write().await;
    let mut settings = saying("builders", "");
    settings.build.overrides.insert("max-jobs".to_owned(), "0".to_owned());
    let answer = daemon.ask_on(&[&third], settings, Arc::default()).await.unwrap().remove(0);
    let said = &answer.message;
    assert!(!answer.status.is_success() && said.contains("wants no builds here"), "{said}");
    assert!(said.contains("wants no builds on other machines"), "{said}");
    daemon.end(&[&here, &one]).await;
}

#[tokio::test(start_paused = true)]
async fn where_a_build_may_run_is_up_to_who_still_waits() {
    let mut world = World::new().await;
    let busy = world.draft("busy").took(Duration::from_secs(20)).write().await;
    let drv = world.draft("job").took(Duration::from_secs(10)).write().await;
    let here = Machine::local(1);
    let daemon = Daemon::new(&world, &[&here]);
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_on(&[&busy], settings(AfterFailure::Stop), Arc::default()));
    after(1).await;
    let lenient = crowd.add(daemon.ask_on(&[&drv], settings(AfterFailure::Stop), Arc::default()));
    after(1).await;
    let mut strict = tokio::task::JoinSet::new();
    strict.spawn(daemon.ask_on(&[&drv], saying("max-jobs", "0"), Arc::default()));
    after(1).await;
    assert!(strict.try_join_next().is_none(), "it is built for the other one, and waits with it");
    lenient.abort();
    let answer = strict.join_next().await.unwrap().unwrap().unwrap().remove(0);
    assert!(answer.message.contains("wants no builds here"), "{answer:?}");
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!(here.made(), ["busy"]);
    daemon.end(&[&here]).await;
}

#[tokio::test(start_paused = true)]
async fn a_build_ends_with_its_last_client() {
    let mut world = World::new().await;
    let low = world.draft("low").took(Duration::from_secs(1)).write().await;
    let drv = world.draft("job").took(Duration::from_secs(100)).needs(&low, &["out"]).write().await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    let first = crowd.add(daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::default()));
    let second = crowd.add(daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::default()));
    after(10).await;
    first.abort();
    after(10).await;
    assert_eq!((one.live_lanes(), daemon.quiet().await.open), (1, 1), "the other waits");
    second.abort();
    let census = daemon.quiet().await;
    assert_eq!((one.live_lanes(), census.open, census.clients), (0, 0, 0), "{census:?}");
    assert_eq!(one.made(), ["low"]);
    // what was cancelled can be asked for again, and what it needs isn't built again
    built(&daemon.ask(&[&drv]).await);
    assert_eq!(one.made(), ["low", "job"]);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_takes_nobody_elses_build_along() {
    let mut world = World::new().await;
    let slow = world.draft("slow").took(Duration::from_secs(1_000)).write().await;
    let other = world.draft("other").took(Duration::from_secs(10)).write().await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    let leaver = crowd.add(daemon.ask_with(&[&slow], AfterFailure::Stop, Arc::default()));
    after(1).await;
    // it may stand behind the other in the same queue
    crowd.add(daemon.ask_with(&[&other], AfterFailure::Stop, Arc::default()));
    after(1).await;
    leaver.abort();
    let began = tokio::time::Instant::now();
    let answers = crowd.all().await;
    assert_eq!(answers.len(), 1);
    built(&answers[0]);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(one.made(), ["other"]);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_from_behind_does_not_disturb_what_runs() {
    let mut world = World::new().await;
    let running = world.draft("running").took(Duration::from_secs(100)).write().await;
    let mut waiting = Vec::new();
    for number in 0..3 {
        let name = format!("waiting{number}");
        waiting.push(world.draft(&name).took(Duration::from_secs(100)).write().await);
    }
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let heard = Arc::new(Heard::default());
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_with(&[&running], AfterFailure::Stop, Arc::clone(&heard)));
    after(1).await;
    let waiting: Vec<&Drv> = waiting.iter().collect();
    let leaver = crowd.add(daemon.ask_with(&waiting, AfterFailure::Stop, Arc::default()));
    after(10).await;
    leaver.abort();
    let answers = crowd.all().await;
    built(&answers[0]);
    let started = |event: &&RealiseEvent| matches!(event, RealiseEvent::Started { .. });
    assert_eq!(heard.events().iter().filter(started).count(), 1);
    let census = daemon.quiet().await;
    assert_eq!((census.open, one.made()), (0, vec!["running".to_owned()]), "{census:?}");
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_stops_only_those_who_want_that() {
    let mut world = World::new().await;
    let bad = world.draft("bad").took(Duration::from_secs(2)).write().await;
    let good = world.draft("good").took(Duration::from_secs(20)).write().await;
    let mine = world.draft("mine").took(Duration::from_secs(20)).write().await;
    let one = Machine::new("one", 4).does("bad", &[fails("it is broken")]);
    let daemon = Daemon::new(&world, &[&one]);
    let stop = daemon.ask_with(&[&bad, &good, &mine], AfterFailure::Stop, Arc::default());
    let go_on = daemon.ask_with(&[&bad, &good], AfterFailure::KeepGoing, Arc::default());
    let began = tokio::time::Instant::now();
    let stop = async { (stop.await, began.elapsed()) };
    let ((stopped, took), went_on) = tokio::join!(stop, go_on);
    assert!(took < Duration::from_secs(10), "{took:?}");
    let statuses = |answer: crate::clients::Answer| -> Vec<RealiseStatus> {
        answer.expect("a sound store").iter().map(|answer| answer.status).collect()
    };
    use RealiseStatus::{Built, Failed};
    let cancelled = Failed(FailureCause::Cancelled);
    assert_eq!(statuses(stopped), [Failed(FailureCause::Build), cancelled, cancelled]);
    assert_eq!(statuses(went_on), [Failed(FailureCause::Build), Built]);
    assert!(!one.made().contains(&"mine".to_owned()));
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_build_is_tried_again_for_the_next_client() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let top = world.drv("top", &[&low]).await;
    let one = Machine::new("one", 1).does("low", &[fails("bad luck"), Act::Builds]);
    let daemon = Daemon::new(&world, &[&one]);
    let heard = Arc::new(Heard::default());
    let answer = daemon.ask_with(&[&top], AfterFailure::Stop, Arc::clone(&heard)).await.unwrap();
    assert_eq!(answer[0].status, RealiseStatus::Failed(FailureCause::Dependency));
    let failed = RealiseEvent::Failed { derivation: low.path.clone(), cause: FailureCause::Build };
    assert_eq!(heard.events().iter().filter(|event| **event == failed).count(), 1);
    let is_failure = |event: &&RealiseEvent| matches!(event, RealiseEvent::Failed { .. });
    assert_eq!(heard.events().iter().filter(is_failure).count(), 1, "the rest is consequence");
    let message = &answer[0].message;
    assert!(message.starts_with("Cannot build '/nix/store/"), "{message}");
    assert!(
        message.contains("-top.drv'.\nReason: 1 dependency failed.\nOutput paths:\n"),
        "{message}"
    );
    let tells = |event: &RealiseEvent| matches!(event, RealiseEvent::Note(text) if text.contains("bad luck"));
    assert!(heard.events().iter().any(tells), "{:?}", heard.events());
    let census = daemon.quiet().await;
    assert_eq!((census.jobs, census.paths), (0, 1), "{census:?}");
    built(&daemon.ask(&[&top]).await);
    daemon.end(&[&one]).await;
}

/// Scripts look for what Nix says, and people read on.
#[tokio::test(start_paused = true)]
async fn what_no_machine_can_take_is_refused_in_the_words_of_nix() {
    let mut world = World::new().await;
    let alien = world.draft("alien").system("riscv64-linux").write().await;
    let own_kind = Some(OwnKind {
        system: "x86_64-linux".to_owned(),
        other_systems: BTreeSet::from(["i686-linux".to_owned()]),
        features: BTreeSet::new(),
    });
    let options = || ServiceOptions { own_kind: own_kind.clone(), ..ServiceOptions::default() };
    let shown = world.local.store_dir().display(&alien.path);
    let mismatch = "Reason: platform mismatch\nRequired system: 'riscv64-linux'\nCurrent system: 'x86_64-linux'\n";
    let here = Machine::local(1);
    let daemon = Daemon::with(&world, &[&here], options());
    let answers = daemon.ask(&[&alien]).await;
    let expected = format!("Cannot build '{shown}'.\n{mismatch}no machine could build it\n");
    assert!(answers[0].message.starts_with(&expected), "{}", answers[0].message);
    daemon.end(&[&here]).await;
    // where nothing is built here that is told as well
    let one = Machine::new("one", 1);
    let daemon = Daemon::with(&world, &[&one], options());
    let answers = daemon.ask(&[&alien]).await;
    let said = &answers[0].message;
    let start =
        format!("Cannot build '{shown}'.\nReason: local builds are disabled (max-jobs = 0)\n");
    assert!(said.starts_with(&start) && said.contains(mismatch), "{said}");
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_machine_can_take_fails_with_the_reasons() {
    let mut world = World::new().await;
    let alien = world.draft("alien").system("riscv64-linux").write().await;
    let plain = world.drv("plain", &[]).await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let keep_going = AfterFailure::KeepGoing;
    let answers = daemon.ask_with(&[&alien, &plain], keep_going, Arc::default()).await.unwrap();
    assert_eq!(answers[0].status, RealiseStatus::Failed(FailureCause::Unsuited));
    let said = &answers[0].message;
    assert!(said.contains("one: it does not build for riscv64-linux"), "{said}");
    built(&answers[1..]);
    daemon.end(&[&one]).await;

    let down = Machine::new("down", 1).connects(&vec![Connect::Unreachable; 50]);
    let daemon = Daemon::new(&world, &[&down]);
    daemon.kept.delete(&plain.out());
    let answers = daemon.ask(&[&plain]).await;
    assert_eq!(answers[0].status, RealiseStatus::Failed(FailureCause::NoMachine));
    assert!(answers[0].message.contains("No route to host"), "{}", answers[0].message);
    daemon.end(&[&down]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_valid_is_asked_of_the_disk_each_time() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let top = world.drv("top", &[&low]).await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    built(&daemon.ask(&[&top]).await);
    daemon.kept.delete(&low.out());
    daemon.kept.delete(&top.out());
    built(&daemon.ask(&[&top]).await);
    assert!(daemon.kept.is_valid(&low.out()).await && daemon.kept.is_valid(&top.out()).await);
    assert_eq!(one.made(), ["low", "top"], "the machine had both");
    // what was an input before and is needed as one again
    daemon.kept.delete(&low.out());
    daemon.kept.delete(&top.out());
    let next = world.drv("next", &[&low, &top]).await;
    built(&daemon.ask(&[&next]).await);
    assert!(daemon.kept.is_valid(&low.out()).await);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn idle_machines_are_left_and_what_they_have_is_forgotten() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let top = world.drv("top", &[&low]).await;
    let one = Machine::new("one", 1);
    let idle = Some(Duration::from_secs(60));
    let options = ServiceOptions { idle, ..ServiceOptions::default() };
    let daemon = Daemon::with(&world, &[&one], options);
    built(&daemon.ask(&[&top]).await);
    let census = daemon.quiet().await;
    assert_eq!((census.connected, census.retained), (1, 2), "{census:?}");
    after(61).await;
    let census = daemon.quiet().await;
    assert_eq!(census, drover_fleet::Census::default(), "{census:?}");
    daemon.kept.delete(&top.out());
    built(&daemon.ask(&[&top]).await);
    assert_eq!(one.connections.load(Ordering::SeqCst), 2);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn memory_does_not_grow_with_what_was_done() {
    let mut world = World::new().await;
    let one = Machine::new("one", 2);
    let daemon = Daemon::new(&world, &[&one]);
    for number in 0..30 {
        let low = world.drv(&format!("low{number}"), &[]).await;
        let top = world.drv(&format!("top{number}"), &[&low]).await;
        let mut crowd = Crowd::default();
        let leaver = crowd.add(daemon.ask_with(&[&top], AfterFailure::Stop, Arc::default()));
        if number % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(number * 90)).await;
            leaver.abort();
        }
        crowd.all().await;
    }
    after(120).await;
    let census = daemon.quiet().await;
    assert_eq!(census, drover_fleet::Census::default(), "{census:?}");
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_machine_is_survived_by_all_who_wait() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let top = world.drv("top", &[&low]).await;
    let script = [Act::LosesConnection, Act::Builds];
    let (one, two) = (Machine::new("one", 1).does("top", &script), Machine::new("two", 1));
    let two = two.does("top", &script);
    let daemon = Daemon::new(&world, &[&one, &two]);
    let mut crowd = Crowd::default();
    for _ in 0..10 {
        crowd.add(daemon.ask_with(&[&top], AfterFailure::Stop, Arc::default()));
    }
    let answers = crowd.all().await;
    assert_eq!(answers.len(), 10);
    answers.iter().for_each(|answers| built(answers));
    daemon.end(&[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_fetched_is_built_again() {
    let mut world = World::new().await;
    let drv = world.draft("job").size(2_000_000).write().await;
    let one = Machine::new("one", 1).exports(&[ExportFault::LostMidway]);
    let daemon = Daemon::new(&world, &[&one]);
    built(&daemon.ask(&[&drv]).await);
    assert!(daemon.kept.is_valid(&drv.out()).await);
    daemon.end(&[&one]).await;
}

/// As in a run of one's own, what is valid stays, and nothing of another build comes beside it.
#[rstest]
#[case::alike(Act::Builds, RealiseStatus::Built)]
#[case::different(Act::BuildsItsOwn, RealiseStatus::Failed(FailureCause::NotDeterministic))]
#[tokio::test(start_paused = true)]
async fn outputs_come_from_one_attempt(#[case] act: Act, #[case] expected: RealiseStatus) {
    let mut world = World::new().await;
    let drv = world.draft("job").outputs(&["dev", "out"]).size(200_000).write().await;
    let one = Machine::new("one", 1).connects_once().exports(&[ExportFault::LostInTheLast]);
    let one = one.does("job", std::slice::from_ref(&act));
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let two = two.does("job", std::slice::from_ref(&act));
    let daemon = Daemon::new(&world, &[&one, &two]);
    // whoever asks for it again is told the same
    for time in 0..2 {
        let answer = daemon.ask(&[&drv]).await.remove(0);
        let expected = match expected {
            RealiseStatus::Built if time > 0 => RealiseStatus::AlreadyValid,
            expected => expected,
        };
        assert_eq!(answer.status, expected, "{}", answer.message);
        assert_eq!((one.made(), two.made()), (vec!["job".to_owned()], vec!["job".to_owned()]));
        if let RealiseStatus::Failed(FailureCause::NotDeterministic) = expected {
            assert!(answer.message.contains("is of another build than"), "{}", answer.message);
            assert_eq!(daemon.valid_of(&drv, &["dev", "out"]).await.len(), 1);
        }
    }
    // what is in the way can be deleted
    if let RealiseStatus::Failed(FailureCause::NotDeterministic) = expected {
        for output in daemon.valid_of(&drv, &["dev", "out"]).await {
            daemon.kept.delete(&output);
        }
        built(&daemon.ask(&[&drv]).await);
    }
    daemon.end(&[&one, &two]).await;
}

/// The first client leaves when one of two outputs has come, and the machine is lost: what the next client gets
/// belongs together, or it gets nothing.
#[rstest]
#[case::alike(Act::Builds, RealiseStatus::Built)]
#[case::different(Act::BuildsItsOwn, RealiseStatus::Failed(FailureCause::NotDeterministic))]
#[tokio::test(start_paused = true)]
async fn outputs_come_from_one_attempt_for_the_next_client(
    #[case] act: Act,
    #[case] expected: RealiseStatus,
) {
    let mut world = World::new().await;
    let drv = world.draft("job").outputs(&["dev", "out"]).size(200_000).write().await;
    let on_top = world.draft("top").needs(&drv, &["dev", "out"]).write().await;
    let other = world.drv("other", &[]).await;
    let one = Machine::new("one", 1).connects_once().does("job", std::slice::from_ref(&act));
    *one.pace.lock().unwrap() = Duration::from_millis(500);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    let two = two.does("job", std::slice::from_ref(&act));
    let daemon = Daemon::new(&world, &[&one, &two]);
    let mut crowd = Crowd::default();
    let leaver = crowd.add(daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::default()));
    while daemon.valid_of(&drv, &["dev", "out"]).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    leaver.abort();
    one.now.lock().unwrap().cancel();
    assert_eq!(daemon.valid_of(&drv, &["dev", "out"]).await.len(), 1);
    let all = [&drv, &other, &on_top];
    let asking = daemon.ask_with(&all, AfterFailure::KeepGoing, Arc::default());
    let answers = asking.await.expect("the store is sound");
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [expected, RealiseStatus::Built, expected], "{answers:#?}");
    assert!(daemon.kept.is_valid(&other.out()).await);
    daemon.end(&[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn clients_can_leave_at_any_moment() {
    for step in 0..60 {
        let mut world = World::new().await;
        let low = world.draft("low").size(200_000).write().await;
        let left = world.draft("left").size(2_000_000).needs(&low, &["out"]).write().await;
        let right = world.draft("right").size(200).needs(&low, &["out"]).write().await;
        let top = world.drv("top", &[&left, &right]).await;
        let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
        for machine in [&one, &two] {
            *machine.pace.lock().unwrap() = Duration::from_millis(150);
        }
        let daemon = Daemon::new(&world, &[&one, &two]);
        let mut crowd = Crowd::default();
        let leaver = crowd.add(daemon.ask_with(&[&top], AfterFailure::Stop, Arc::default()));
        crowd.add(daemon.ask_with(&[&right], AfterFailure::Stop, Arc::default()));
        tokio::time::sleep(Duration::from_millis(step * 70)).await;
        leaver.abort();
        let answers = crowd.all().await;
        assert!(answers.iter().any(|answer| answer[0].outputs.values().any(|p| *p == right.out())));
        let census = daemon.quiet().await;
        assert_eq!((census.clients, census.open, census.bundles), (0, 0, 0), "at {step}");
        daemon.end(&[&one, &two]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_drops_no_build() {
    let mut world = World::new().await;
    let (a, b) = (
        world.draft("a").took(Duration::from_secs(20)).write().await,
        world.draft("b").took(Duration::from_secs(20)).write().await,
    );
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_with(&[&a], AfterFailure::Stop, Arc::default()));
    after(5).await;
    let spec = |machine: &Arc<Machine>| machine.spec(&world.recipes, &world.local);
    daemon.service.reload(vec![spec(&two)], ServiceOptions::default());
    crowd.add(daemon.ask_with(&[&b], AfterFailure::Stop, Arc::default()));
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!((one.made(), two.made()), (vec!["a".to_owned()], vec!["b".to_owned()]));
    let census = daemon.quiet().await;
    assert_eq!(census.connected, 1, "the one that vanished is left: {census:?}");
    // more slots for the one that stays
    let wide = Machine::new("two", 3);
    daemon.service.reload(vec![spec(&wide)], ServiceOptions::default());
    let mut drvs = Vec::new();
    for number in 0..3 {
        let name = format!("wide{number}");
        drvs.push(world.draft(&name).took(Duration::from_secs(10)).write().await);
    }
    let began = tokio::time::Instant::now();
    built(&daemon.ask(&drvs.iter().collect::<Vec<_>>()).await);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // and none at all
    daemon.service.reload(Vec::new(), ServiceOptions::default());
    let last = world.drv("last", &[]).await;
    let answers = daemon.ask(&[&last]).await;
    assert!(answers[0].message.contains("no machine"), "{:?}", answers[0]);
    daemon.end(&[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_drains_or_cancels() {
    let mut world = World::new().await;
    let drv = world.draft("job").took(Duration::from_secs(100)).write().await;
    for how in [Shutdown::Drain, Shutdown::Cancel] {
        let one = Machine::new("one", 1);
        let daemon = Daemon::new(&world, &[&one]);
        daemon.kept.delete(&drv.out());
        let mut crowd = Crowd::default();
        crowd.add(daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::default()));
        after(10).await;
        let began = tokio::time::Instant::now();
        daemon.service.shutdown(how).await;
        let answers = crowd.all().await;
        match how {
            Shutdown::Drain => built(&answers[0]),
            Shutdown::Cancel => {
                assert_eq!(
                    answers[0][0].status,
                    RealiseStatus::Failed(FailureCause::Cancelled),
                    "{answers:?}"
                );
                assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            }
        }
        assert_eq!(one.live_lanes(), 0);
        let late = daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::default()).await;
        assert!(matches!(late, Err(StoreError::Refused { .. })), "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_offered_is_refused_by_name() {
    let mut world = World::new().await;
    let drv = world.drv("job", &[]).await;
    let daemon = Daemon::new(&world, &[]);
    let mode = BuildMode::Check;
    let settings = drover_store::RealiseSettings { mode, ..settings(AfterFailure::Stop) };
    let wanted = vec![Wanted::AllOutputs(drv.path.clone())];
    let heard = Arc::new(Heard::default());
    let answer = daemon.service.realise(daemon.kept.view(), wanted, settings, heard).await;
    assert!(matches!(answer, Err(StoreError::Unsupported { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_one_is_said_of_that_one() {
    let mut world = World::new().await;
    let good = world.drv("good", &[]).await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let lost = world.drv("lost", &[]).await;
    daemon.kept.delete(&lost.path);
    let source = good.path.clone();
    let wanted = vec![
        Wanted::AllOutputs(good.path.clone()),
        Wanted::Outputs(good.path.clone(), ["doc".to_owned()].into()),
        Wanted::AllOutputs(lost.path.clone()),
        Wanted::Path(lost.out()),
        Wanted::Path(source),
    ];
    let heard = Arc::new(Heard::default());
    let service = &daemon.service;
    let answers = service
        .realise(daemon.kept.view(), wanted, settings(AfterFailure::KeepGoing), heard)
        .await
        .unwrap();
    use RealiseStatus::{AlreadyValid, Built, Failed};
    let (other, nowhere) = (Failed(FailureCause::Other), Failed(FailureCause::NoSubstituters));
    let statuses: Vec<RealiseStatus> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [Built, other, nowhere, nowhere, AlreadyValid]);
    assert!(answers[1].message.contains("does not have output 'doc'"));
    daemon.end(&[&one]).await;
}

async fn basic(daemon: &Daemon, drv: &Drv) -> BasicDerivation {
    let view = daemon.kept.view();
    let file = view.read_files(std::slice::from_ref(&drv.path)).await.unwrap().remove(0);
    let name = derivation_name(&drv.path).unwrap();
    Derivation::parse_aterm(view.store_dir(), &name, &file).unwrap().basic
}

#[tokio::test(start_paused = true)]
async fn a_derivation_can_be_brought_along_and_is_shared_by_its_content() {
    let mut world = World::new().await;
    let drv = world.draft("job").took(Duration::from_secs(10)).write().await;
    let one = Machine::new("one", 4);
    let daemon = Daemon::new(&world, &[&one]);
    let given = basic(&daemon, &drv).await;
    daemon.kept.delete(&drv.path);
    let ask = |derivation: BasicDerivation| {
        let (settings, heard) = (settings(AfterFailure::Stop), Arc::new(Heard::default()));
        let what = (drv.path.clone(), derivation);
        daemon.service.build_derivation(daemon.kept.view(), what, settings, heard)
    };
    let other = BasicDerivation { args: vec![b"other".as_slice().into()], ..given.clone() };
    let (first, second, third) = tokio::join!(ask(given.clone()), ask(given.clone()), ask(other));
    built(&[first.unwrap(), second.unwrap(), third.unwrap()]);
    assert_eq!(one.made(), ["job", "job"], "two contents");
    let valid = ask(given).await.unwrap();
    assert_eq!(valid.status, RealiseStatus::AlreadyValid);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn what_would_have_to_be_done_is_told() {
    let mut world = World::new().await;
    let low = world.drv("low", &[]).await;
    let offered = world.drv("offered", &[]).await;
    let top = world.drv("top", &[&low, &offered]).await;
    let unknown = world.drv("unknown", &[]).await.out();
    let daemon = Daemon::new(&world, &[]);
    daemon.kept.offered.lock().unwrap().insert(offered.out());
    let library = world.drv("library", &[]).await.out();
    daemon.kept.referred.lock().unwrap().insert(offered.out(), library.clone());
    let wanted = vec![Wanted::AllOutputs(top.path.clone()), Wanted::Path(unknown.clone())];
    let missing =
        daemon.service.missing(daemon.kept.view(), wanted, Substitute::Yes).await.unwrap();
    assert_eq!(missing.build, [low.path.clone(), top.path.clone()].into());
    assert_eq!(missing.substitute, [offered.out(), library.clone()].into());
    assert_eq!((missing.download_size, missing.nar_size), (2, 20));
    assert_eq!(missing.unknown, [unknown].into());

    // the same again counts once
    let wanted = vec![
        Wanted::AllOutputs(top.path.clone()),
        Wanted::Path(offered.out()),
        Wanted::AllOutputs(offered.path.clone()),
    ];
    let missing =
        daemon.service.missing(daemon.kept.view(), wanted, Substitute::Yes).await.unwrap();
    assert_eq!(missing.substitute, [offered.out(), library].into());
    assert_eq!((missing.download_size, missing.nar_size), (2, 20));
}

#[tokio::test(start_paused = true)]
async fn a_small_output_that_was_kept_is_of_no_use_without_what_it_refers_to() {
    for alone in [true, false] {
        let mut world = World::new().await;
        let big = world.draft("big").size(70_000).write().await;
        let small = world.drv("small", &[&big]).await;
        let top = world.drv("top", &[&small]).await;
        let one = Machine::new("one", 1).does("top", &[Act::LosesConnection, Act::Builds]);
        let two = Machine::new("two", 1);
        if alone {
            world.build(&[&one, &two], &[&top]).await.all_built();
        } else {
            let daemon = Daemon::new(&world, &[&one, &two]);
            built(&daemon.ask(&[&top]).await);
            daemon.end(&[&one, &two]).await;
        }
    }
}
