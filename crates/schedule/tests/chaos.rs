//! Random graphs on random machines with random faults: whatever happens, every job gets its
//! verdict, and no promise to the caller is broken (see the checks of the simulator).

#[cfg(test)]
mod simulator;

use std::collections::BTreeSet;
use std::time::Duration;

use drover_schedule::*;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use simulator::{Fault, Store, Truth, World, job, machine, run};

const FEATURES: [&str; 3] = ["kvm", "big-parallel", "benchmark"];
const SYSTEMS: [&str; 2] = ["x86_64-linux", "aarch64-linux"];

fn features() -> impl Strategy<Value = BTreeSet<String>> {
    let feature = prop::sample::select(FEATURES.as_slice()).prop_map(str::to_owned);
    prop::collection::btree_set(feature, 0..2)
}

/// Another line for a machine.
fn terms() -> impl Strategy<Value = Terms> {
    let systems = prop::sample::subsequence(SYSTEMS.to_vec(), 1..=2);
    let one = (0..4_u32, features(), prop::bool::weighted(0.2), systems);
    one.prop_map(|(slots, supported, has_mandatory, systems)| Terms {
        systems: systems.into_iter().map(str::to_owned).collect(),
        slots,
        speed_factor: 1.0,
        mandatory_features: supported.iter().take(usize::from(has_mandatory)).cloned().collect(),
        supported_features: supported,
    })
}

fn machines() -> impl Strategy<Value = Vec<Machine>> {
    let one = (
        0..5_u32,
        prop::sample::select(vec![0.5, 1.0, 1.1, 4.0]),
        features(),
        prop::bool::weighted(0.1),
        prop::sample::subsequence(SYSTEMS.to_vec(), 1..=2),
        prop::bool::weighted(0.2),
        0..200_u64,
    );
    let one = one.prop_map(|(slots, speed, supported, has_mandatory, systems, local, trip)| {
        let mandatory = supported.iter().take(usize::from(has_mandatory)).cloned().collect();
        Machine {
            kind: if local { MachineKind::Local } else { MachineKind::Remote },
            systems: systems.into_iter().map(str::to_owned).collect(),
            speed_factor: speed,
            supported_features: supported,
            mandatory_features: mandatory,
            round_trip: Duration::from_millis(trip),
            ..machine("", slots)
        }
    });
    let one = (one, prop::collection::vec(terms(), 0..3));
    let one = one.prop_map(|(machine, terms)| Machine {
        other_terms: if machine.kind == MachineKind::Local { Vec::new() } else { terms },
        ..machine
    });
    prop::collection::vec(one, 0..6).prop_map(|mut machines| {
        for (number, machine) in machines.iter_mut().enumerate() {
            machine.name = format!("m{number}");
        }
        machines
    })
}

fn jobs() -> impl Strategy<Value = Vec<(Job, Truth)>> {
    let one = (
        prop::collection::vec(1..12_u32, 0..4),
        (0..3_u32, 1..2000_u64),
        prop::option::weighted(0.6, 1..2000_u64),
        prop::bool::weighted(0.04),
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1), any::<bool>()),
        (prop::option::weighted(0.15, features()), prop::option::weighted(0.1, scopes())),
    );
    prop::collection::vec(one, 1..40).prop_map(|descriptions| {
        let numbered = descriptions.into_iter().zip(0_u32..);
        let build = |(
            (back, (owner, takes), expected, fails, (arm, local, asked), (wanted, scope)),
            number,
        ): (_, u32)| {
            let back: Vec<u32> = back;
            let needs: Vec<u32> =
                back.iter().filter_map(|back| number.checked_sub(*back)).collect();
            let (mut description, mut truth) = job(number, &needs, Duration::from_millis(takes));
            description.expected = Option::map(expected, Duration::from_millis);
            description.system = if arm { SYSTEMS[1] } else { SYSTEMS[0] }.to_owned();
            description.required_features = Option::unwrap_or_default(wanted);
            if local {
                description.preference = Preference::PreferLocal;
            }
            description.demand = if asked { Demand::Asked } else { Demand::ForOthers };
            description.owner = OwnerId(owner);
            description.scope = Option::unwrap_or_default(scope);
            truth.fails = fails;
            (description, truth)
        };
        numbered.map(build).collect()
    })
}

fn scopes() -> impl Strategy<Value = Scope> {
    prop::sample::select(vec![
        Scope::AllMachines,
        Scope::AllMachines,
        Scope::RemoteMachines,
        Scope::LocalMachines,
        Scope::NoMachine,
    ])
}

fn faults() -> impl Strategy<Value = Vec<(Duration, Fault)>> {
    let crash = (0..6_usize, prop::option::weighted(0.7, 0..20_000_u64), any::<bool>()).prop_map(
        |(machine, back, survives)| Fault::Crash {
            machine,
            back_after: back.map(Duration::from_millis),
            store: if survives { Store::Survives } else { Store::IsLost },
        },
    );
    let fault = prop_oneof![
        8 => crash,
        1 => (0..6_usize).prop_map(|machine| Fault::Refuse { machine }),
        1 => (0..6_usize).prop_map(|machine| Fault::Drain { machine }),
        1 => (0..40_usize).prop_map(|job| Fault::Cancel { job }),
        2 => (0..40_usize, scopes()).prop_map(|(job, scope)| Fault::Scope { job, scope }),
        1 => Just(Fault::CancelAll),
    ];
    prop::collection::vec((0..15_000_u64, fault), 0..6).prop_map(|faults| {
        let timed = faults.into_iter().map(|(at, fault)| (Duration::from_millis(at), fault));
        timed.collect()
    })
}

prop_compose! {
    fn worlds()(
        machines in machines(),
        jobs in jobs(),
        faults in faults(),
        left in prop::collection::vec((0..6_usize, 0..40_u32), 0..12),
        flaky in prop::sample::select(vec![0, 0, 3, 10]),
        stop_all in prop::bool::weighted(0.2),
        stock in prop::bool::weighted(0.15),
        seed in any::<u64>(),
    ) -> World {
        let fits = |fault: &Fault| match fault {
            Fault::Crash { machine, .. }
            | Fault::Refuse { machine }
            | Fault::Drain { machine }
            | Fault::Resume { machine } => *machine < machines.len(),
            Fault::Cancel { job } | Fault::Scope { job, .. } => *job < jobs.len(),
            Fault::CancelAll => true,
        };
        let mut faults: Vec<_> = faults.into_iter().filter(|(_, fault)| fits(fault)).collect();
        // Whoever drains a machine brings it back, or jobs wait for it for ever.
        for (at, fault) in faults.clone() {
            if let Fault::Drain { machine } = fault {
                faults.push((at + Duration::from_secs(9), Fault::Resume { machine }));
            }
        }
        let left = left.into_iter().filter(|(machine, job)| {
            let is_remote = |machine: &Machine| machine.kind == MachineKind::Remote;
            machines.get(*machine).is_some_and(is_remote)
                && jobs.get(*job as usize).is_some_and(|(_, truth)| !truth.fails)
        });
        let left = left.collect();
        let settings = Settings {
            on_failure: if stop_all { OnFailure::StopAll } else { OnFailure::KeepGoing },
            policy: match stock {
                true => Policy::Stock { rounding: Rounding::Float },
                false => Policy::EarliestFinish,
            },
            ..Settings::default()
        };
        let output_size = ByteCount(1_000_000);
        World { settings, machines, jobs, output_size, faults, left, flaky, seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        // says the seed of what fails, and begins with it the next time
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_job_gets_its_verdict(world in worlds()) {
        let report = run(world.clone());
        let log = report.log.join("\n");
        let has_cancel = world
            .faults
            .iter()
            .any(|(_, fault)| matches!(fault, Fault::CancelAll | Fault::Cancel { .. }));
        let goes_on = world.settings.on_failure == OnFailure::KeepGoing;
        let is_calm = world.faults.is_empty() && world.flaky == 0;
        for (job, verdicts) in &report.verdicts {
            let truth = world.jobs[job.0 as usize].1;
            match verdicts.last().unwrap() {
                Verdict::Built => prop_assert!(!truth.fails, "{job}\n{log}"),
                Verdict::Failed => prop_assert!(truth.fails, "{job}\n{log}"),
                Verdict::Unneeded => {
                    let description = &world.jobs[job.0 as usize].0;
                    prop_assert_eq!(description.demand, Demand::ForOthers);
                    prop_assert!(!world.left.is_empty(), "{job}\n{log}");
                }
                Verdict::Cancelled => prop_assert!(has_cancel || !goes_on, "{job}\n{log}"),
                Verdict::NoMachineLeft { .. } => prop_assert!(!is_calm, "{job}\n{log}"),
                Verdict::Impossible { reasons } => {
                    prop_assert_eq!(reasons.len(), world.machines.len());
                }
                Verdict::DependencyFailed { because } => {
                    let root = report.verdicts[because].last().unwrap();
                    let is_root = !matches!(root, Verdict::DependencyFailed { .. });
                    prop_assert!(is_root && *root != Verdict::Built, "{job} {root:?}\n{log}");
                }
            }
        }
    }

    #[test]
    fn a_run_is_reproducible(world in worlds()) {
        let (first, second) = (run(world.clone()), run(world));
        prop_assert_eq!(first.starts, second.starts);
        prop_assert_eq!(first.verdicts, second.verdicts);
    }
}
