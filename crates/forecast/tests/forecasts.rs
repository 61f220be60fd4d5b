//! What is expected of jobs, and what is said of them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use drover_forecast::{
    Answer, Availability, Candidate, Expected, Group, Remedy, Unusable, forecast, groups, remedies,
};
use drover_schedule::{
    Bandwidth, Job, JobId, Machine, MachineKind, PathId, Preference, Reason, Settings,
};
use rstest::rstest;

const SYSTEM: &str = "x86_64-linux";
const USABLE: Availability = Availability::Usable { busy: 0 };

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn candidate(slots: u32, availability: Availability) -> Candidate {
    let description = Machine {
        name: "m".to_owned(),
        kind: MachineKind::Remote,
        systems: words(&[SYSTEM]),
        slots,
        speed_factor: 1.0,
        supported_features: BTreeSet::new(),
        mandatory_features: BTreeSet::new(),
        round_trip: Duration::from_millis(1),
        bandwidth: Bandwidth(0),
        other_terms: Vec::new(),
    };
    Candidate { description, availability }
}

fn with_features(slots: u32, supported: &[&str], mandatory: &[&str]) -> Candidate {
    let mut candidate = candidate(slots, USABLE);
    candidate.description.supported_features = words(supported);
    candidate.description.mandatory_features = words(mandatory);
    candidate
}

fn down() -> Availability {
    Availability::Unusable(Unusable::Down { cause: "No route to host".to_owned() })
}

fn job(number: u32, dependencies: &[u32]) -> Job {
    Job {
        system: SYSTEM.to_owned(),
        dependencies: dependencies.iter().copied().map(JobId).collect(),
        outputs: vec![PathId(number)],
        ..Job::default()
    }
}

fn jobs(dependencies: &[&[u32]]) -> Vec<Job> {
    (0..).zip(dependencies).map(|(number, dependencies)| job(number, dependencies)).collect()
}

fn asking(system: &str, features: &[&str]) -> Job {
    Job { system: system.to_owned(), required_features: words(features), ..job(0, &[]) }
}

fn expected(candidates: &[Candidate], jobs: &[Job]) -> Vec<Expected> {
    forecast(&Settings::default(), candidates, jobs).jobs
}

/// Returns where and when jobs run, in usual durations.
fn runs(candidates: &[Candidate], jobs: &[Job]) -> Vec<(usize, u128, u128)> {
    let told = forecast(&Settings::default(), candidates, jobs);
    let builds = |time: Duration| time.as_millis() / told.usual.as_millis();
    let runs = told.jobs.iter().map(|job| match job {
        Expected::Runs { machine, begins, ends } => (*machine, builds(*begins), builds(*ends)),
        other => panic!("{other:?}"),
    });
    runs.collect()
}

fn grouped(candidates: &[Candidate], jobs: &[Job]) -> Vec<Group> {
    groups(jobs, candidates, &forecast(&Settings::default(), candidates, jobs))
}

#[test]
fn a_chain_runs_in_order_on_one_machine() {
    let told = runs(&[candidate(4, USABLE)], &jobs(&[&[], &[0], &[1]]));
    assert_eq!(told, [(0, 0, 1), (0, 1, 2), (0, 2, 3)]);
}

#[test]
fn what_is_independent_runs_beside_each_other_as_far_as_slots_go() {
    let machines = [candidate(2, USABLE), candidate(1, USABLE)];
    let told = runs(&machines, &jobs(&[&[], &[], &[], &[]]));
    let at_once = told.iter().filter(|(_, begins, _)| *begins == 0).count();
    assert_eq!(at_once, 3, "{told:?}");
    assert!(told.iter().all(|(_, _, ends)| *ends <= 2), "{told:?}");
}

#[test]
fn slots_of_others_are_free_when_those_are_done() {
    let busy = candidate(2, Availability::Usable { busy: 2 });
    assert_eq!(runs(std::slice::from_ref(&busy), &jobs(&[&[]])), [(0, 1, 2)]);
    let told = grouped(&[busy], &jobs(&[&[]]));
    assert_eq!(told[0].answers, [Answer::AcceptsLater { busy: 2, slots: 2 }]);
    assert_eq!(told[0].answers[0].to_string(), "accepted, but its slots are full (2/2)");
    // more than there are, after a reload
    let over = candidate(1, Availability::Usable { busy: 7 });
    assert_eq!(runs(&[over], &jobs(&[&[]])), [(0, 1, 2)]);
}

#[test]
fn a_fast_machine_takes_more() {
    let mut fast = candidate(1, USABLE);
    fast.description.speed_factor = 4.0;
    let dependencies: Vec<&[u32]> = vec![&[]; 10];
    let told = runs(&[candidate(1, USABLE), fast], &jobs(&dependencies));
    let on_fast = told.iter().filter(|(machine, ..)| *machine == 1).count();
    assert!(on_fast >= 7, "{told:?}");
}

#[rstest]
#[case::down(down(), Expected::NoMachine)]
#[case::draining(Availability::Unusable(Unusable::Draining), Expected::Waits)]
#[case::none_of_that_system(USABLE, Expected::Impossible)]
fn what_cannot_run(#[case] availability: Availability, #[case] first: Expected) {
    let system = match first {
        Expected::Impossible => "riscv64-linux",
        _ => SYSTEM,
    };
    let jobs = [asking(system, &[]), Job { outputs: vec![PathId(1)], ..job(1, &[0]) }];
    let told = expected(&[candidate(1, availability)], &jobs);
    assert_eq!(told[0], first);
    match first {
        Expected::Waits => assert_eq!(told[1], Expected::Waits),
        _ => assert_eq!(told[1], Expected::Blocked { because: 0 }),
    }
}

#[test]
fn without_machines_or_jobs_it_ends() {
    assert_eq!(expected(&[], &jobs(&[&[]])), [Expected::Impossible]);
    assert!(expected(&[candidate(1, USABLE)], &[]).is_empty());
    // what depends on itself
    let told = expected(&[candidate(1, USABLE)], &jobs(&[&[1], &[0]]));
    assert!(told.iter().all(|job| matches!(job, Expected::Blocked { .. })), "{told:?}");
}

#[test]
fn a_large_graph_is_over_soon_and_all_of_it_runs() {
    let jobs: Vec<Job> = (0..2_000)
        .map(|number: u32| {
            let back = [3, 50, 700].iter().filter_map(|back| number.checked_sub(*back));
            job(number, &back.collect::<Vec<u32>>())
        })
        .collect();
    let machines: Vec<Candidate> =
        (0..20).map(|number| candidate(4, Availability::Usable { busy: number % 4 })).collect();
    let told = expected(&machines, &jobs);
    assert!(told.iter().all(|job| matches!(job, Expected::Runs { .. })));
}

#[test]
fn what_asks_for_the_same_is_told_together_and_what_nobody_takes_first() {
    let machines = [with_features(1, &["kvm"], &[]), candidate(1, USABLE), candidate(2, down())];
    let mut jobs = vec![asking(SYSTEM, &[]), asking(SYSTEM, &["kvm"]), asking(SYSTEM, &["cuda"])];
    jobs.push(asking(SYSTEM, &["kvm"]));
    jobs.push(Job { preference: Preference::PreferLocal, ..asking(SYSTEM, &[]) });
    let told = grouped(&machines, &jobs);
    let jobs_of: Vec<&[usize]> = told.iter().map(|group| group.jobs.as_slice()).collect();
    assert_eq!(jobs_of, [[2].as_slice(), &[1, 3], &[0], &[4]]);
    assert!(!told[0].is_possible() && told[1].is_accepted());
    let codes: Vec<&str> = told[1].answers.iter().map(Answer::code).collect();
    assert_eq!(codes, ["accepted", "features", "features"]);
    assert_eq!(told[2].answers[2].to_string(), "not used: it is down (No route to host)");
    assert_eq!(told[1].runs, [(0, 2)].into());
}

#[rstest]
#[case::the_fewest_features(
    &[with_features(1, &["a"], &[]), with_features(1, &["a", "b"], &[])],
    asking(SYSTEM, &["a", "b", "c"]),
    &[Remedy::AddFeatures { machine: 1, features: words(&["c"]) }],
)]
#[case::kept_for_others(
    &[with_features(1, &[], &["big"])],
    asking(SYSTEM, &[]),
    &[Remedy::FreeMachine { machine: 0, features: words(&["big"]) }],
)]
#[case::no_slots(&[candidate(0, USABLE)], asking(SYSTEM, &[]), &[Remedy::AddSlots { machine: 0 }])]
#[case::no_such_system(
    &[candidate(1, USABLE)],
    asking("riscv64-linux", &["kvm"]),
    &[Remedy::AddMachine { system: "riscv64-linux".to_owned() }],
)]
#[case::no_machine(&[], asking(SYSTEM, &[]), &[Remedy::AddMachine { system: SYSTEM.to_owned() }])]
#[case::it_is_possible(&[candidate(1, down())], asking(SYSTEM, &[]), &[])]
fn says_what_to_change(
    #[case] machines: &[Candidate],
    #[case] job: Job,
    #[case] expected: &[Remedy],
) {
    let told = grouped(machines, &[job]);
    assert_eq!(remedies(&told[0]), expected);
}

#[test]
fn refusals_are_those_of_the_scheduler() {
    let told = grouped(&[with_features(1, &["kvm"], &[])], &[asking(SYSTEM, &["kvm", "cuda"])]);
    let reason = Reason::LacksFeatures { features: words(&["cuda"]) };
    assert_eq!(told[0].answers, [Answer::Refuses(reason)]);
    assert_eq!(told[0].answers[0].to_string(), "declined: it lacks feature cuda");
}
