//! Random graphs on random machines with random faults: whatever happens, a run ends, says what
//! became of each target, and what it calls built is here whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drover_core::StorePath;
use drover_schedule::MachineKind;
use drover_store::{BuildFailure, FailureCause, Store as _, Substitute, Trust};
use proptest::prelude::*;
use proptest::sample::select;
use tokio_util::sync::CancellationToken;

use crate::machine::{Act, Connect, ImportFault, Machine};
use crate::run::Run;
use crate::stream::ExportFault;
use crate::world::{Drv, Keeps, World, options};

#[derive(Clone, Debug)]
struct Job {
    /// Among the jobs before it.
    inputs: Vec<usize>,
    outputs: usize,
    size: usize,
    seconds: u64,
    keeps: Keeps,
    floating: bool,
    other_system: bool,
}

#[derive(Clone, Debug)]
struct Host {
    slots: u32,
    local: bool,
    other_system: bool,
    fragile: bool,
    trust: Trust,
    connects: Vec<Connect>,
    exports: Vec<ExportFault>,
    imports: Vec<ImportFault>,
    /// What happens with some jobs, before they are built.
    acts: Vec<(usize, Vec<Act>)>,
}

#[derive(Clone, Debug)]
struct Plot {
    jobs: Vec<Job>,
    hosts: Vec<Host>,
    targets: Vec<usize>,
    keep_going: bool,
    everything: bool,
    cancel_after: Option<u64>,
}

fn job(at: usize) -> impl Strategy<Value = Job> {
    let sizes = select(vec![10, 1_000, 70_000, 300_000, 1_200_000]);
    let keeps = select(vec![Keeps::Inputs, Keeps::Nothing]);
    let rare = proptest::bool::weighted(0.15);
    (prop::collection::vec(0..at.max(1), 0..4), 1..3_usize, sizes, 0..20_u64, keeps, rare, rare)
        .prop_map(move |(mut inputs, outputs, size, seconds, keeps, floating, other_system)| {
            inputs.retain(|input| *input < at);
            inputs.sort_unstable();
            inputs.dedup();
            Job { inputs, outputs, size, seconds, keeps, floating, other_system }
        })
}

fn act() -> impl Strategy<Value = Act> {
    let message = || "it went wrong".to_owned();
    select(vec![
        Act::Builds,
        Act::Builds,
        Act::Fails(BuildFailure { cause: FailureCause::Build, message: message() }),
        Act::Fails(BuildFailure { cause: FailureCause::TimedOut, message: message() }),
        Act::Fails(BuildFailure { cause: FailureCause::Machine, message: message() }),
        Act::Fails(BuildFailure { cause: FailureCause::NoRoom, message: message() }),
        Act::Fails(BuildFailure { cause: FailureCause::Refused, message: message() }),
        Act::LosesConnection,
        Act::LosesConnection,
        Act::LosesConnectionAfter,
        Act::OtherPath,
        Act::MissingOutput,
        Act::ExtraOutput,
        Act::ForeignReference,
        Act::WrongHash,
    ])
}

fn host() -> impl Strategy<Value = Host> {
    let connects = select(vec![
        Connect::Answers,
        Connect::Answers,
        Connect::Unreachable,
        Connect::Late(Duration::from_secs(8)),
        Connect::NoNix,
    ]);
    let exports =
        select(vec![ExportFault::LostAtOnce, ExportFault::LostMidway, ExportFault::Corrupted]);
    let imports =
        select(vec![ImportFault::LostBefore, ImportFault::LostAfter, ImportFault::DiskFull]);
    let trust = select(vec![Trust::Trusted, Trust::Trusted, Trust::NotTrusted, Trust::Unknown]);
    let kinds = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.2), any::<bool>());
    let acts = (0..12_usize, prop::collection::vec(act(), 1..3));
    let faults = (
        prop::collection::vec(connects, 0..3),
        prop::collection::vec(exports, 0..2),
        prop::collection::vec(imports, 0..2),
        prop::collection::vec(acts, 0..4),
    );
    (1..4_u32, kinds, trust, faults).prop_map(
        |(slots, (local, other_system, fragile), trust, (connects, exports, imports, acts))| {
            let acts = acts.into_iter().map(|(job, mut script)| {
                // the last one stays
                script.push(Act::Builds);
                (job, script)
            });
            let acts = acts.collect();
            Host { slots, local, other_system, fragile, trust, connects, exports, imports, acts }
        },
    )
}

fn plot() -> impl Strategy<Value = Plot> {
    let jobs = (1..12_usize).prop_flat_map(|count| (0..count).map(job).collect::<Vec<_>>());
    let hosts = prop::collection::vec(host(), 0..4);
    let targets = prop::collection::vec(0..12_usize, 1..4);
    let cancel = proptest::option::weighted(0.15, 0..60_000_u64);
    (jobs, hosts, targets, any::<bool>(), proptest::bool::weighted(0.3), cancel).prop_map(
        |(jobs, mut hosts, targets, keep_going, everything, cancel_after)| {
            // one local machine at the most
            let mut seen = false;
            for host in &mut hosts {
                host.local = host.local && !seen;
                seen = seen || host.local;
            }
            Plot { jobs, hosts, targets, keep_going, everything, cancel_after }
        },
    )
}

async fn write(world: &mut World, jobs: &[Job]) -> Vec<Drv> {
    let mut drvs: Vec<Drv> = Vec::new();
    // below a floating one no path is known
    let mut unknown: Vec<bool> = Vec::new();
    for (at, job) in jobs.iter().enumerate() {
        let below_unknown = job.inputs.iter().any(|input| unknown[*input]);
        let mut draft = world.draft(&format!("job{at}")).size(job.size).keeps(job.keeps);
        draft = draft.took(Duration::from_secs(job.seconds));
        draft = draft.outputs(&["out", "dev"][..job.outputs]);
        for input in &job.inputs {
            let names = ["out", "dev"];
            let last = jobs[*input].outputs - 1;
            draft = draft.needs(&drvs[*input], &names[last..=last]);
        }
        if job.floating {
            draft = draft.floating();
        } else if below_unknown {
            draft = draft.deferred();
        }
        if job.other_system {
            draft = draft.system("aarch64-linux");
        }
        unknown.push(job.floating || below_unknown);
        drvs.push(draft.write().await);
    }
    drvs
}

fn machines(hosts: &[Host]) -> Vec<Arc<Machine>> {
    let build = |(at, host): (usize, &Host)| {
        let kind = if host.local { MachineKind::Local } else { MachineKind::Remote };
        let system = if host.other_system { "aarch64-linux" } else { crate::world::SYSTEM };
        let machine = Machine::of_kind(&format!("host{at}"), host.slots, kind, system);
        let mut machine = match host.trust {
            says @ (Trust::NotTrusted | Trust::Unknown) if !host.local => machine.distrustful(says),
            _ => machine,
        };
        *machine.fragile.lock().unwrap() = host.fragile;
        machine = machine.connects(&host.connects);
        if !host.local {
            machine = machine.exports(&host.exports).imports(&host.imports);
        }
        for (job, script) in &host.acts {
            // the caller's own store is believed
            let honest = script.iter().filter(|act| !host.local || !is_lie(act)).cloned();
            machine = machine.does(&format!("job{job}"), &honest.collect::<Vec<_>>());
        }
        machine
    };
    hosts.iter().enumerate().map(build).collect()
}

fn is_lie(act: &Act) -> bool {
    matches!(
        act,
        Act::OtherPath
            | Act::MissingOutput
            | Act::ExtraOutput
            | Act::ForeignReference
            | Act::WrongHash
    )
}

/// The store never takes a path before its references, so a valid path's closure is valid.
async fn check(world: &World, run: &Run, plot: &Plot) {
    let Ok(report) = &run.result else {
        let cancelled = matches!(run.result, Err(drover_fleet::BuildError::Cancelled));
        assert!(cancelled && plot.cancel_after.is_some(), "{:?}", run.result);
        return;
    };
    for target in &report.targets {
        match &target.outcome {
            Ok(outputs) => {
                assert!(!outputs.is_empty());
                let paths: BTreeSet<StorePath> = outputs.values().cloned().collect();
                let valid = world.local.hold_valid(&paths, Substitute::No).await.expect("memory");
                assert_eq!(valid, paths, "what is called built is here");
            }
            Err(failure) => assert_eq!(failure.derivation, target.target.derivation),
        }
    }
    let failed = report.targets.iter().any(|target| target.outcome.is_err());
    assert!(!failed || !report.failures.is_empty(), "something is to blame");
}

fn live(plot: Plot) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let mut world = World::new().await;
        let drvs = write(&mut world, &plot.jobs).await;
        let machines = machines(&plot.hosts);
        let targets: BTreeSet<usize> =
            plot.targets.iter().map(|target| target % drvs.len()).collect();
        let targets = targets.into_iter().map(|target| drvs[target].target()).collect();
        let mut options = options();
        options.keep_going = plot.keep_going;
        if plot.everything {
            options.copy_back = drover_fleet::CopyBack::Everything;
        }
        let cancel = CancellationToken::new();
        let machines: Vec<&Arc<Machine>> = machines.iter().collect();
        let run = world.run(&machines, targets, options, cancel.clone());
        let alarm = async {
            if let Some(after) = plot.cancel_after {
                tokio::time::sleep(Duration::from_millis(after)).await;
                cancel.cancel();
            }
        };
        let (run, ()) = tokio::join!(run, alarm);
        check(&world, &run, &plot).await;
    });
}

proptest! {
    #[test]
    fn a_run_ends_and_tells_the_truth(plot in plot()) {
        live(plot);
    }
}

#[test]
fn a_job_that_was_taken_back_is_told_before_it_is_given_away_again() {
    let job = |inputs: &[usize], size, seconds, special| Job {
        inputs: inputs.to_vec(),
        outputs: 1,
        size,
        seconds,
        keeps: Keeps::Inputs,
        floating: special,
        other_system: special,
    };
    let host = |other_system, exports: &[ExportFault]| Host {
        slots: 1,
        local: false,
        other_system,
        fragile: false,
        trust: Trust::Trusted,
        connects: Vec::new(),
        exports: exports.to_vec(),
        imports: Vec::new(),
        acts: Vec::new(),
    };
    for keep_going in [true, false] {
        live(Plot {
            jobs: vec![
                job(&[], 300_000, 0, true),
                job(&[], 10, 0, false),
                job(&[], 10, 6, false),
                job(&[0, 2], 10, 0, false),
                job(&[3], 10, 0, false),
            ],
            hosts: vec![host(false, &[]), host(true, &[ExportFault::LostAtOnce])],
            targets: vec![4],
            keep_going,
            everything: false,
            cancel_after: None,
        });
    }
}

/// What a target refers to was built on a machine that is lost for good when it's fetched from.
#[test]
fn what_is_lost_for_good_is_told_and_not_half_of_it_copied() {
    let job = |inputs: &[usize], size, other_system| Job {
        inputs: inputs.to_vec(),
        outputs: 1,
        size,
        seconds: 0,
        keeps: Keeps::Inputs,
        floating: false,
        other_system,
    };
    let host = |trust, other_system, connects: &[Connect], exports: &[ExportFault]| Host {
        slots: 1,
        local: false,
        other_system,
        fragile: false,
        trust,
        connects: connects.to_vec(),
        exports: exports.to_vec(),
        imports: Vec::new(),
        acts: Vec::new(),
    };
    for everything in [true, false] {
        live(Plot {
            jobs: vec![job(&[], 1_200_000, true), job(&[], 10, false), job(&[0, 1], 10, false)],
            hosts: vec![
                host(Trust::NotTrusted, false, &[], &[]),
                host(
                    Trust::Trusted,
                    true,
                    &[Connect::Answers, Connect::NoNix],
                    &[ExportFault::LostAtOnce],
                ),
            ],
            targets: vec![2],
            keep_going: false,
            everything,
            cancel_after: None,
        });
    }
}
