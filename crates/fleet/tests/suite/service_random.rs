//! Random clients over random graphs, in every order that chance finds: each gets one answer, slots
//! hold, and nothing runs or is kept when all have gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drover_fleet::ServiceOptions;
use drover_store::{AfterFailure, BuildFailure, FailureCause, RealiseStatus};
use proptest::prelude::*;
use proptest::sample::select;

use crate::clients::{Crowd, Daemon, Heard};
use crate::machine::{Act, Machine};
use crate::stream::ExportFault;
use crate::world::{Drv, World};

#[derive(Clone, Debug)]
struct Visit {
    targets: Vec<usize>,
    /// Milliseconds from the beginning.
    comes: u64,
    /// Milliseconds until it leaves, if it does.
    leaves: Option<u64>,
    after_failure: AfterFailure,
}

/// Slots, what happens with some jobs, and what happens on the way back.
type Host = (u32, Vec<(usize, Vec<Act>)>, Vec<ExportFault>);

#[derive(Clone, Debug)]
struct Plot {
    /// The jobs that each needs, the milliseconds it takes, and its size.
    jobs: Vec<(Vec<usize>, u64, usize)>,
    machines: Vec<Host>,
    visits: Vec<Visit>,
    /// When what is valid here is deleted.
    wiped: Vec<u64>,
    /// When the machines are loaded anew, with the first one or without.
    reloads: Vec<(u64, usize)>,
}

fn act() -> impl Strategy<Value = Act> {
    let failed = || {
        Act::Fails(BuildFailure { cause: FailureCause::Build, message: "it went wrong".to_owned() })
    };
    let machine = BuildFailure { cause: FailureCause::Machine, message: "no luck".to_owned() };
    let some =
        [Act::Builds, Act::Builds, failed(), Act::LosesConnection, Act::LosesConnectionAfter];
    let mut all = some.to_vec();
    all.push(Act::Fails(machine));
    select(all)
}

fn plots() -> impl Strategy<Value = Plot> {
    let job = |at: usize| {
        let needs = prop::collection::btree_set(0..at.max(1), 0..3);
        // the same moments again and again, so that what happens at once is met
        let takes = select(vec![100_u64, 100, 200, 500, 2_000]);
        (needs, takes, select(vec![10_usize, 10, 70_000, 1_200_000])).prop_map(
            move |(needs, takes, size)| {
                let needs = needs.into_iter().filter(|need| *need < at).collect();
                (needs, takes, size)
            },
        )
    };
    let jobs = (1..9_usize).prop_flat_map(move |count| (0..count).map(job).collect::<Vec<_>>());
    let acts = prop::collection::vec((0..9_usize, prop::collection::vec(act(), 1..3)), 0..3);
    let faults = select(vec![ExportFault::LostAtOnce, ExportFault::LostMidway]);
    let faults = prop::collection::vec(faults, 0..2);
    let machines = prop::collection::vec((1..4_u32, acts, faults), 1..3);
    let moments = || select(vec![0_u64, 0, 50, 110, 111, 121, 122, 131, 210, 330, 620, 1_100]);
    let after = select(vec![AfterFailure::Stop, AfterFailure::KeepGoing]);
    let targets = prop::collection::vec(0..9_usize, 1..3);
    let visit = (targets, moments(), prop::option::weighted(0.4, moments()), after).prop_map(
        |(targets, comes, leaves, after_failure)| Visit { targets, comes, leaves, after_failure },
    );
    let visits = prop::collection::vec(visit, 1..8);
    let wiped = prop::collection::vec(moments(), 0..2);
    let reloads = prop::collection::vec((moments(), 0..2_usize), 0..2);
    (jobs, machines, visits, wiped, reloads).prop_map(|(jobs, machines, visits, wiped, reloads)| {
        Plot { jobs, machines, visits, wiped, reloads }
    })
}

async fn play(plot: Plot) {
    let mut world = World::new().await;
    let mut drvs: Vec<Drv> = Vec::new();
    for (at, (needs, takes, size)) in plot.jobs.iter().enumerate() {
        let name = format!("job{at}");
        let mut draft = world.draft(&name).took(Duration::from_millis(*takes)).size(*size);
        for need in needs {
            draft = draft.needs(&drvs[*need], &["out"]);
        }
        let drv = draft.write().await;
        drvs.push(drv);
    }
    let machines: Vec<Arc<Machine>> = plot
        .machines
        .iter()
        .enumerate()
        .map(|(at, (slots, acts, faults))| {
            let mut machine = Machine::new(&format!("m{at}"), *slots).exports(faults);
            for (job, script) in acts {
                let script: Vec<Act> = script.iter().cloned().chain([Act::Builds]).collect();
                machine = machine.does(&format!("job{job}"), &script);
            }
            machine
        })
        .collect();
    let all: Vec<&Arc<Machine>> = machines.iter().collect();
    let idle = Some(Duration::from_secs(60));
    let daemon = Daemon::with(&world, &all, ServiceOptions { idle, ..ServiceOptions::default() });
    let outputs: Vec<_> = drvs.iter().map(Drv::out).collect();
    let wipes = async {
        for at in &plot.wiped {
            tokio::time::sleep(Duration::from_millis(*at)).await;
            // everything goes, as a store whose paths refer to what isn't there is none
            outputs.iter().for_each(|path| daemon.kept.delete(path));
        }
    };
    let reloads = async {
        for (at, from) in &plot.reloads {
            tokio::time::sleep(Duration::from_millis(*at)).await;
            let left = machines.iter().skip(*from);
            let specs = left.map(|machine| machine.spec(&world.recipes, &world.local)).collect();
            daemon.service.reload(specs, ServiceOptions { idle, ..ServiceOptions::default() });
        }
    };
    let watch = async {
        for _ in 0..400 {
            tokio::time::sleep(Duration::from_millis(7)).await;
            for (machine, (slots, ..)) in machines.iter().zip(&plot.machines) {
                // a lane may be open already that waits for the one before it
                assert!(machine.live_builds() <= *slots as usize, "{} slots", machine.name());
            }
        }
    };
    let visits = async { visit_all(&plot, &daemon, &drvs).await };
    tokio::join!(wipes, reloads, watch, visits);
    let census = daemon.quiet().await;
    assert_eq!((census.clients, census.open, census.bundles), (0, 0, 0), "{census:?}");
    for machine in &machines {
        assert_eq!(machine.live_lanes(), 0, "{} still builds", machine.name());
    }
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let census = daemon.quiet().await;
    assert_eq!(census, drover_fleet::Census::default(), "{census:?}");
    daemon.end(&all).await;
}

async fn visit_all(plot: &Plot, daemon: &Daemon, drvs: &[Drv]) {
    let mut crowd = Crowd::default();
    let mut staying = 0;
    let mut all_heard = Vec::new();
    for visit in &plot.visits {
        let targets: BTreeSet<usize> = visit.targets.iter().map(|at| at % drvs.len()).collect();
        let targets: Vec<&Drv> = targets.iter().map(|at| &drvs[*at]).collect();
        let heard = Arc::new(Heard::default());
        let asking = daemon.ask_with(&targets, visit.after_failure, Arc::clone(&heard));
        all_heard.push(heard);
        let (comes, leaves) = (visit.comes, visit.leaves);
        let count = targets.len();
        let client = async move {
            tokio::time::sleep(Duration::from_millis(comes)).await;
            let leaving = async {
                match leaves {
                    Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = asking => {
                    assert_eq!(answer.as_ref().map_or(count, Vec::len), count);
                    answer
                }
                () = leaving => Ok(Vec::new()),
            }
        };
        staying += usize::from(leaves.is_none());
        crowd.add(client);
    }
    let answers = crowd.all().await;
    assert_eq!(answers.len(), plot.visits.len());
    assert!(answers.iter().filter(|answer| !answer.is_empty()).count() >= staying);
    let quiet = plot.wiped.is_empty() && plot.reloads.is_empty();
    let acts = plot.machines.iter().flat_map(|(_, acts, faults)| {
        acts.iter().flat_map(|(_, script)| script).map(|_| ()).chain(faults.iter().map(|_| ()))
    });
    if quiet && acts.count() == 0 {
        for answer in answers.iter().flatten() {
            let good = [RealiseStatus::Built, RealiseStatus::AlreadyValid];
            assert!(good.contains(&answer.status), "{answer:?}");
        }
    }
    for heard in all_heard {
        heard.check();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_built_again_for_others_ends_with_them() {
    play(Plot {
        jobs: vec![
            (vec![], 100, 10),
            (vec![], 100, 70_000),
            (vec![1], 100, 10),
            (vec![2], 100, 10),
        ],
        machines: vec![(1, vec![(3, vec![Act::LosesConnection])], vec![]), (1, vec![], vec![])],
        visits: vec![Visit {
            targets: vec![3],
            comes: 0,
            leaves: None,
            after_failure: AfterFailure::Stop,
        }],
        wiped: vec![],
        reloads: vec![],
    })
    .await;
}

/// The outputs of one that was built are lost, and building it again fails: what was built from it stays.
#[tokio::test(start_paused = true)]
async fn what_fails_after_it_was_built_holds_nothing_for_those_who_left() {
    let visit = |target, comes| Visit {
        targets: vec![target],
        comes,
        leaves: None,
        after_failure: AfterFailure::Stop,
    };
    play(Plot {
        jobs: vec![
            (vec![], 2000, 70_000),
            (vec![], 200, 10),
            (vec![], 200, 10),
            (vec![0, 2], 100, 10),
        ],
        machines: vec![
            (1, vec![], vec![ExportFault::LostMidway]),
            (2, vec![(3, vec![Act::LosesConnectionAfter])], vec![]),
        ],
        visits: vec![visit(1, 0), visit(3, 50)],
        wiped: vec![],
        reloads: vec![],
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn clients_come_and_go(plot in plots()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(play(plot));
    }
}
