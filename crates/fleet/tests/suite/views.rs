//! What a service says of its machines, and what can be done with them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use drover_fleet::{
    BuildEnding, BuildId, BuildList, BuildState, Duty, MachineCondition, MachineView,
    ServiceOptions,
};
use drover_schedule::MachineFault;
use drover_store::{AfterFailure, BuildFailure, FailureCause, RealiseSettings};

use crate::clients::{Crowd, Daemon, built, settings};
use crate::machine::{Act, Connect, Machine};
use crate::world::{Drv, World};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(3600);

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn conditions(views: &[MachineView]) -> Vec<(&str, MachineCondition)> {
    views.iter().map(|view| (view.description.name.as_str(), view.condition)).collect()
}

async fn jobs(world: &mut World, names: &[&str], took: u64) -> Vec<Drv> {
    let mut jobs = Vec::new();
    for name in names {
        jobs.push(world.draft(name).took(Duration::from_secs(took)).write().await);
    }
    jobs
}

#[tokio::test(start_paused = true)]
async fn machines_are_told_before_anybody_asks_for_a_build_and_while_one_runs() {
    let mut world = World::new().await;
    let jobs = jobs(&mut world, &["a", "b", "c", "d", "e"], 100).await;
    let (one, two) = (Machine::new("one", 2), Machine::new("two", 1));
    let two = two.connects(&[Connect::Unreachable]);
    let daemon = Daemon::new(&world, &[&one, &two]);
    let views = daemon.service.machines().await;
    let unused = MachineCondition::Unused;
    assert_eq!(conditions(&views), [("one", unused), ("two", unused)]);
    assert_eq!(one.connections.load(Ordering::SeqCst), 0, "it was only asked");
    let mut crowd = Crowd::default();
    let wanted: Vec<&Drv> = jobs.iter().collect();
    crowd.add(daemon.ask_with(&wanted, AfterFailure::Stop, Arc::default()));
    after(1).await;
    let views = daemon.service.machines().await;
    assert_eq!((views[0].condition, views[0].busy), (MachineCondition::Connected, 2));
    assert!(views[0].queued > 0, "{views:?}");
    assert_eq!(views[0].free_slots("x86_64-linux", &[].into()), 0);
    assert!(matches!(views[1].condition, MachineCondition::Down { .. }), "{views:?}");
    let failure = views[1].last_failure.as_ref().unwrap();
    assert_eq!(failure.fault, MachineFault::Unreachable);
    assert!(failure.cause.contains("No route to host"), "{failure:?}");
    assert!(failure.ago <= Duration::from_secs(1), "{failure:?}");
    crowd.all().await.iter().for_each(|answers| built(answers));
    let views = daemon.service.machines().await;
    assert_eq!((views[0].busy, views[0].queued), (0, 0));
    assert!(views[1].last_failure.is_some(), "the last failure is remembered");
    daemon.end(&[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_machine_that_is_there_is_enough() {
    let world = World::new().await;
    let late = Machine::new("late", 1).connects(&[Connect::Late(Duration::from_secs(30))]);
    let (down, there) = (Machine::new("down", 1), Machine::new("there", 1));
    let down = down.connects(&[Connect::Unreachable]);
    let daemon = Daemon::new(&world, &[&late, &down, &there]);
    let began = tokio::time::Instant::now();
    let views = daemon.service.reach(daemon.kept.view().as_ref(), LONG).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(views[0].condition, MachineCondition::Connecting);
    assert_eq!(views[2].condition, MachineCondition::Connected);
    after(31).await;
    let views = daemon.service.machines().await;
    assert_eq!(views[0].condition, MachineCondition::Connected, "what was begun goes on");
    // nobody came, so it is left again
    after(120).await;
    let views = daemon.service.machines().await;
    assert_eq!(views[0].condition, MachineCondition::Unused);
    assert_eq!(views[1].condition, MachineCondition::Unused, "nobody needs it");
    assert!(views[1].last_failure.is_some());
    daemon.end(&[&late, &down, &there]).await;
}

#[tokio::test(start_paused = true)]
async fn that_no_machine_is_there_is_known_when_all_have_failed() {
    let world = World::new().await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let one = one.connects(&[Connect::Unreachable]);
    let two = two.connects(&[Connect::NoNix]);
    let daemon = Daemon::new(&world, &[&one, &two]);
    let began = tokio::time::Instant::now();
    let views = daemon.service.reach(daemon.kept.view().as_ref(), LONG).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(views.iter().all(|view| !view.is_usable()), "{views:?}");
    assert!(matches!(views[0].condition, MachineCondition::Down { .. }));
    assert_eq!(views[1].condition, MachineCondition::Refused);
    daemon.end(&[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_machine_waits_no_longer_than_to_the_deadline() {
    let world = World::new().await;
    let mute = Machine::new("mute", 1).connects(&[Connect::Never]);
    let daemon = Daemon::new(&world, &[&mute]);
    let began = tokio::time::Instant::now();
    let deadline = Duration::from_secs(3);
    let views = daemon.service.reach(daemon.kept.view().as_ref(), deadline).await.unwrap();
    assert_eq!(began.elapsed(), deadline);
    assert_eq!(conditions(&views), [("mute", MachineCondition::Connecting)]);
    let none = Daemon::new(&world, &[]);
    assert!(none.service.reach(none.kept.view().as_ref(), LONG).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drained_machine_ends_what_it_has_and_gets_nothing_new() {
    let mut world = World::new().await;
    let jobs = jobs(&mut world, &["a", "b", "c", "d"], 100).await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let daemon = Daemon::new(&world, &[&one, &two]);
    let mut crowd = Crowd::default();
    let wanted: Vec<&Drv> = jobs.iter().collect();
    crowd.add(daemon.ask_with(&wanted, AfterFailure::Stop, Arc::default()));
    after(10).await;
    daemon.service.set_duty("one", Duty::Draining);
    after(1).await;
    let views = daemon.service.machines().await;
    assert_eq!((views[0].condition, views[0].busy), (MachineCondition::Draining, 1));
    assert_eq!(views[0].queued, 0, "what stood behind others there goes elsewhere");
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!((one.made().len(), two.made().len()), (1, 3));
    daemon.end(&[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_stays_drained_over_a_reload_and_works_again_when_it_is_resumed() {
    let mut world = World::new().await;
    let job = world.drv("job", &[]).await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    daemon.service.set_duty("one", Duty::Draining);
    let views = daemon.service.machines().await;
    assert_eq!(conditions(&views), [("one", MachineCondition::Draining)], "nobody was there yet");
    let specs = || vec![one.spec(&world.recipes, &world.local)];
    daemon.service.reload(Vec::new(), ServiceOptions::default());
    daemon.service.reload(specs(), ServiceOptions::default());
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_with(&[&job], AfterFailure::Stop, Arc::default()));
    after(10).await;
    daemon.service.reload(specs(), ServiceOptions::default());
    let views = daemon.service.machines().await;
    assert_eq!(conditions(&views), [("one", MachineCondition::Draining)]);
    assert_eq!(one.connections.load(Ordering::SeqCst), 0);
    daemon.service.set_duty("one", Duty::Working);
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert_eq!(one.connections.load(Ordering::SeqCst), 1);
    daemon.end(&[&one]).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_left_the_configuration_is_told_while_it_works() {
    let mut world = World::new().await;
    let job = world.draft("job").took(Duration::from_secs(100)).write().await;
    let one = Machine::new("one", 1);
    let daemon = Daemon::new(&world, &[&one]);
    let mut crowd = Crowd::default();
    crowd.add(daemon.ask_with(&[&job], AfterFailure::Stop, Arc::default()));
    after(10).await;
    daemon.service.reload(Vec::new(), ServiceOptions::default());
    let views = daemon.service.machines().await;
    assert_eq!(conditions(&views), [("one", MachineCondition::Leaving)]);
    crowd.all().await.iter().for_each(|answers| built(answers));
    assert!(daemon.service.machines().await.is_empty());
    daemon.end(&[&one]).await;
}

async fn ask_as(daemon: &Daemon, drvs: &[&Drv], client: &str) -> crate::clients::Answer {
    let client = Some(client.to_owned());
    let settings = RealiseSettings { client, ..settings(AfterFailure::Stop) };
    daemon.ask_on(drvs, settings, Arc::default()).await
}

#[tokio::test(start_paused = true)]
async fn builds_are_told_with_where_they_are_and_who_waits() {
    let mut world = World::new().await;
    let slow = world.draft("slow").took(Duration::from_secs(100)).write().await;
    let top = world.drv("top", &[&slow]).await;
    let alien = world.draft("alien").system("riscv64-linux").write().await;
    let (one, two) = (Machine::new("one", 1), Machine::new("two", 1));
    let two = two.connects(&vec![Connect::Unreachable; 50]);
    let daemon = Daemon::new(&world, &[&one, &two]);
    assert_eq!(daemon.service.builds().await, BuildList::default());
    let daemon = Arc::new(daemon);
    let mut clients = tokio::task::JoinSet::new();
    for (name, drv) in [("ann", &top), ("bob", &slow), ("bob", &slow)] {
        let (daemon, drv, name) = (Arc::clone(&daemon), drv.clone(), name.to_owned());
        clients.spawn(async move { ask_as(&daemon, &[&drv], &name).await });
    }
    after(10).await;
    let list = daemon.service.builds().await;
    assert_eq!((list.total, list.builds.len()), (2, 2));
    let [first, second] = list.builds.as_slice() else { panic!("two") };
    assert_eq!(first.derivation, slow.path);
    assert!(
        matches!(&first.state, BuildState::Building { machine, .. } if machine == "one"),
        "{first:?}"
    );
    assert_eq!((first.clients.join(" "), first.waiting), ("ann bob".to_owned(), 3));
    assert_eq!((second.clients.join(" "), second.waiting), ("ann".to_owned(), 1));
    let BuildState::Queued { machine, after: ahead } = &second.state else { panic!("{second:?}") };
    assert_eq!((machine.as_str(), ahead), ("one", &Some(slow.path.clone())));

    let explanation = daemon.service.explain(first.id).await.unwrap();
    let said: Vec<&str> = explanation.machines.iter().map(|one| one.text.as_str()).collect();
    assert!(said[0].starts_with("chosen: "), "{said:?}");
    assert!(said[1].contains("it is down since "), "{said:?}");
    assert!(said[1].contains("s ago (cannot be reached: "), "{said:?}");
    let log = daemon.service.kept_log(first.id).await.unwrap();
    assert_eq!((log.lines.is_empty(), log.build.log_lines), (false, log.lines.len()));
    while let Some(answers) = clients.join_next().await {
        built(&answers.unwrap().unwrap());
    }
    assert_eq!(daemon.service.builds().await, BuildList::default());
    assert!(daemon.service.explain(BuildId(4_000)).await.is_none());
    // it is known for a while why they were where they were
    for (id, path) in [(first.id, &slow.path), (second.id, &top.path)] {
        assert_eq!(daemon.service.last_build(path.base_name()).await, Some(id));
        let explanation = daemon.service.explain(id).await.unwrap();
        let BuildState::Over { outcome, took, .. } = &explanation.build.state else {
            panic!("{explanation:?}")
        };
        assert_eq!((*outcome, took.is_some()), (BuildEnding::Built, true));
        assert_ne!(explanation.build.clients, Vec::<String>::new(), "for whom it was stays known");
        assert!(explanation.machines[0].text.starts_with("chosen: "), "{explanation:?}");
    }
    let failure = BuildFailure { cause: FailureCause::Build, message: "no".to_owned() };
    let bad = world.draft("bad").write().await;
    let one = one.does("bad", &[Act::Fails(failure)]);
    ask_as(&daemon, &[&bad], "ann").await.unwrap();
    let id = daemon.service.last_build(bad.path.base_name()).await.unwrap();
    let explanation = daemon.service.explain(id).await.unwrap();
    let BuildState::Over { outcome, .. } = &explanation.build.state else {
        panic!("{explanation:?}")
    };
    assert_eq!(*outcome, BuildEnding::Failed);
    assert_eq!(explanation.build.clients, ["ann"]);
    assert!(explanation.machines[0].text.starts_with("chosen: "), "{explanation:?}");
    // what fails at once leaves nothing behind
    ask_as(&daemon, &[&alien], "ann").await.unwrap();
    assert_eq!(daemon.service.builds().await, BuildList::default());
    Arc::into_inner(daemon).unwrap().end(&[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn services_that_share_their_numbers_give_none_twice() {
    let mut world = World::new().await;
    let jobs = jobs(&mut world, &["a", "b"], 100).await;
    let options = ServiceOptions::default();
    let one = Machine::new("one", 2);
    let mut ids = std::collections::BTreeSet::new();
    let mut daemons = Vec::new();
    let mut crowd = Crowd::default();
    for job in &jobs {
        let daemon = Daemon::with(&world, &[&one], options.clone());
        crowd.add(daemon.ask_with(&[job], AfterFailure::Stop, Arc::default()));
        after(1).await;
        ids.extend(daemon.service.builds().await.builds.into_iter().map(|build| build.id));
        daemons.push(daemon);
    }
    assert_eq!(ids.len(), 2, "{ids:?}");
    crowd.all().await.iter().for_each(|answers| built(answers));
    for daemon in daemons {
        daemon.end(&[]).await;
    }
}
