//! A service whose machines have outputs already, and outputs that have to be signed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drover_core::{SecretKey, StoreDir, TrustedKeys};
use drover_fleet::{FleetEvent, FleetOptions, OutputTrust, ServiceOptions};
use drover_nar::{Executable, single_file_nar};
use drover_store::{AfterFailure, FailureCause, RealiseEvent};
use rstest::rstest;

use crate::clients::{Crowd, Daemon, Heard, built};
use crate::found::{chain, leave};
use crate::machine::{Connect, Machine};
use crate::world::{Drv, World, nar_info, options, put};

/// Puts an output into a machine's store, signed.
async fn leave_signed(machine: &Machine, drv: &Drv, key: &SecretKey) {
    let nar = single_file_nar(b"left", Executable::No);
    let mut info = nar_info(drv.out(), &nar, BTreeSet::new());
    info.signatures.insert(key.sign(&info.fingerprint(&StoreDir::default())));
    put(&machine.store, info, nar).await;
}

fn key(name: &str) -> SecretKey {
    SecretKey::generate(name).expect("randomness")
}

fn signed_by(key: &SecretKey) -> OutputTrust {
    let public = key.public_key().to_string();
    OutputTrust::Signature(TrustedKeys::parse([public.as_str()]).expect("a key"))
}

fn nothing_made(machines: &[&Arc<Machine>]) {
    let made: Vec<String> = machines.iter().flat_map(|machine| machine.made()).collect();
    assert!(made.is_empty(), "{made:?}");
}

#[rstest]
#[case::connected_for_it(false)]
#[case::connected_before(true)]
#[tokio::test(start_paused = true)]
async fn a_hit_is_neither_built_nor_are_its_dependencies(#[case] is_connected: bool) {
    let mut world = World::new().await;
    let drvs = chain(&mut world, 4).await;
    let other = world.drv("other", &[]).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let daemon = Daemon::new(&world, &[&one, &two]);
    if is_connected {
        built(&daemon.ask(&[&other]).await);
        [&one, &two].iter().for_each(|machine| machine.made.lock().unwrap().clear());
    }
    leave(&two, &drvs[3], &[]).await;
    let before = daemon.kept.fetched().len();
    built(&daemon.ask(&[&drvs[3]]).await);
    nothing_made(&[&one, &two]);
    assert!(daemon.kept.is_valid(&drvs[3].out()).await);
    assert_eq!(daemon.kept.fetched().len() - before, 1, "only what is needed moves");
    let census = daemon.quiet().await;
    assert_eq!((census.clients, census.open, census.bundles), (0, 0, 0), "{census:?}");
    daemon.end(&[&one, &two]).await;
}

/// What was let be for one client is built for another who asks for it.
#[tokio::test(start_paused = true)]
async fn what_nobody_needed_is_built_when_somebody_asks() {
    let mut world = World::new().await;
    let drvs = chain(&mut world, 3).await;
    let top = world.draft("top").took(Duration::from_secs(50)).needs(&drvs[2], &["out"]);
    let top = top.write().await;
    let one = Machine::new("one", 2);
    leave(&one, &drvs[2], &[]).await;
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_with(&[&top], AfterFailure::Stop, Arc::default()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    built(&daemon.ask(&[&drvs[1]]).await);
    assert_eq!(one.made(), ["c0", "c1"]);
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!(one.made(), ["c0", "c1", "top"]);
    built(&daemon.ask(&[&drvs[0]]).await);
    assert_eq!(one.made(), ["c0", "c1", "top"]);
    let census = daemon.quiet().await;
    assert_eq!((census.clients, census.open, census.bundles), (0, 0, 0), "{census:?}");
    daemon.end(&[&one]).await;
}

/// What was found and is gone with its machine is built, with all that it needs.
#[tokio::test(start_paused = true)]
async fn what_was_found_and_is_lost_is_built_for_clients() {
    let mut world = World::new().await;
    let drvs = chain(&mut world, 3).await;
    let script = [Connect::Answers].into_iter();
    let script: Vec<Connect> =
        script.chain(std::iter::repeat_n(Connect::Unreachable, 20)).collect();
    let fault = crate::stream::ExportFault::LostAtOnce;
    let one = Machine::new("one", 1).connects(&script).exports(&[fault; 4]);
    let two = Machine::new("two", 1).connects(&[Connect::Unreachable]);
    leave(&one, &drvs[2], &[]).await;
    let daemon = Daemon::new(&world, &[&one, &two]);
    built(&daemon.ask(&[&drvs[2]]).await);
    assert_eq!(two.made(), ["c0", "c1", "c2"]);
    let census = daemon.quiet().await;
    assert_eq!((census.clients, census.open, census.bundles), (0, 0, 0), "{census:?}");
    daemon.end(&[&one, &two]).await;
}

/// Before anything is built here, others say what they have; one that doesn't is not waited for long.
#[rstest]
#[case::late(Connect::Late(Duration::from_millis(500)), 0)]
#[case::never(Connect::Never, 1)]
#[case::unreachable(Connect::Unreachable, 1)]
#[tokio::test(start_paused = true)]
async fn machines_are_asked_before_anything_is_built(#[case] how: Connect, #[case] builds: usize) {
    let mut world = World::new().await;
    let (drv, other) = (world.drv("drv", &[]).await, world.drv("other", &[]).await);
    let (one, here) =
        (Machine::new("one", 1).connects(std::slice::from_ref(&how)), Machine::local(1));
    leave(&one, &drv, &[]).await;
    leave(&one, &other, &[]).await;
    let run = world.build(&[&here, &one], &[&drv]).await;
    run.all_built();
    assert_eq!(here.made().len(), builds);
    assert!(run.took < Duration::from_secs(4), "{:?}", run.took);
    let one = one.connects(&[how]);
    let daemon = Daemon::new(&world, &[&here, &one]);
    let began = tokio::time::Instant::now();
    built(&daemon.ask(&[&other]).await);
    assert_eq!(here.made().len(), 2 * builds);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    daemon.end(&[&one, &here]).await;
}

/// Who asks for signatures takes nothing unsigned from a machine, found or built, and is told which
/// keys were seen.
#[tokio::test(start_paused = true)]
async fn unsigned_outputs_are_refused_where_signatures_are_asked_for() {
    let mut world = World::new().await;
    let (drv, fresh) = (world.drv("left", &[]).await, world.drv("fresh", &[]).await);
    let (trusted, other) = (key("good-1"), key("other-1"));
    let one = Machine::new("one", 1);
    leave_signed(&one, &drv, &other).await;
    let strict = FleetOptions { outputs: signed_by(&trusted), ..options() };
    let run = world.build_with(&[&one], &[&drv], strict.clone()).await;
    let report = run.failure(&drv);
    assert_eq!(report.cause, FailureCause::NoMachine);
    let words = "lacks a signature by a trusted key (saw: other-1)";
    assert!(report.message.contains(words), "{}", report.message);
    let is_told = run.events.iter().any(|event| match event {
        FleetEvent::Note(note) => {
            note.contains("what 'one' has is not used") && note.contains(words)
        }
        _ => false,
    });
    assert!(is_told, "{:?}", run.events);
    let run = world.build_with(&[&one], &[&fresh], strict).await;
    assert!(run.failure(&fresh).message.contains("(saw: none)"), "{}", run.failure(&fresh).message);
    assert!(world.valid().await.is_empty());
    // the same for clients of a daemon
    let options = ServiceOptions { outputs: signed_by(&trusted), ..ServiceOptions::default() };
    let daemon = Daemon::with(&world, &[&one], options);
    let heard = Arc::new(Heard::default());
    let answers = daemon.ask_with(&[&drv], AfterFailure::Stop, Arc::clone(&heard)).await.unwrap();
    assert!(answers[0].message.contains(words), "{answers:?}");
    let notes = heard.events();
    assert!(notes.iter().any(|event| matches!(event, RealiseEvent::Note(_))), "{notes:?}");
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn signed_outputs_are_found_where_signatures_are_asked_for() {
    let mut world = World::new().await;
    let drvs = chain(&mut world, 3).await;
    let (trusted, other) = (key("good-1"), key("other-1"));
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    leave_signed(&one, &drvs[2], &other).await;
    leave_signed(&two, &drvs[2], &trusted).await;
    let strict = FleetOptions { outputs: signed_by(&trusted), ..options() };
    let run = world.build_with(&[&one, &two], &[&drvs[2]], strict).await;
    run.all_built();
    nothing_made(&[&one, &two]);
    // what is built in one's own store needs no signature
    let (here, fresh) = (Machine::local(1), world.drv("fresh", &[]).await);
    let strict = FleetOptions { outputs: signed_by(&trusted), ..options() };
    world.build_with(&[&here], &[&fresh], strict).await.all_built();
}
