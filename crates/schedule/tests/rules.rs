//! One test per rule, as events and commands.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use drover_schedule::*;
use rstest::rstest;

const RTT: Duration = Duration::from_millis(10);

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn machine(slots: u32) -> Machine {
    Machine {
        name: String::new(),
        kind: MachineKind::Remote,
        systems: set(&["x86_64-linux"]),
        slots,
        speed_factor: 1.0,
        supported_features: BTreeSet::new(),
        mandatory_features: BTreeSet::new(),
        round_trip: RTT,
        bandwidth: Bandwidth(1_000_000),
        other_terms: Vec::new(),
    }
}

fn job(dependencies: &[u32]) -> Job {
    Job {
        system: "x86_64-linux".to_owned(),
        dependencies: dependencies.iter().map(|job| JobId(*job)).collect(),
        expected: Some(seconds(10)),
        ..Job::default()
    }
}

fn lasting(dependencies: &[u32], expected: u64) -> Job {
    Job { expected: Some(seconds(expected)), ..job(dependencies) }
}

fn making(output: u32, dependencies: &[u32]) -> Job {
    Job { outputs: vec![PathId(output)], ..job(dependencies) }
}

fn lane(machine: u32, index: u32) -> Lane {
    Lane { machine: MachineId(machine), index }
}

fn start(job: u32, machine: u32, index: u32, after: Option<u32>) -> Command {
    Command::Start { job: JobId(job), lane: lane(machine, index), after: after.map(JobId) }
}

fn done(job: u32, verdict: Verdict) -> Command {
    Command::Done { job: JobId(job), verdict }
}

fn stop(job: u32) -> Command {
    Command::Stop { job: JobId(job) }
}

fn connect(machine: u32) -> Command {
    Command::Connect { machine: MachineId(machine) }
}

fn because(job: u32) -> Verdict {
    Verdict::DependencyFailed { because: JobId(job) }
}

/// A scheduler with a hand on the clock.
struct Bench {
    scheduler: Scheduler,
    now: Duration,
}

impl Bench {
    fn new(settings: Settings, machines: Vec<Machine>) -> Bench {
        let mut scheduler = Scheduler::new(settings);
        let added = machines.into_iter().zip(0_u32..).map(|(machine, number)| {
            let name = format!("m{number}");
            let description = Machine { name, ..machine };
            Event::MachineAdded { machine: MachineId(number), description }
        });
        assert_eq!(scheduler.on_all(Moment::START, added), []);
        Bench { scheduler, now: Duration::ZERO }
    }

    /// Machines that are all connected, and jobs numbered from 0.
    fn running(machines: Vec<Machine>, jobs: Vec<Job>) -> (Bench, Vec<Command>) {
        Bench::running_with(Settings::default(), machines, jobs)
    }

    fn running_with(
        settings: Settings,
        machines: Vec<Machine>,
        jobs: Vec<Job>,
    ) -> (Bench, Vec<Command>) {
        let count = u32::try_from(machines.len()).unwrap();
        let mut bench = Bench::new(settings, machines);
        let mut events = submit(0, jobs);
        events.extend((0..count).map(connected));
        let mut commands = bench.scheduler.on_all(Moment(bench.now), events);
        commands.retain(|command| !matches!(command, Command::Connect { .. }));
        (bench, commands)
    }

    fn on(&mut self, event: Event) -> Vec<Command> {
        self.scheduler.on(Moment(self.now), event)
    }

    fn later(&mut self, seconds: u64, event: Event) -> Vec<Command> {
        self.now += Duration::from_secs(seconds);
        self.on(event)
    }

    fn reason(&self, job: u32, machine: usize) -> String {
        self.scheduler.explain(JobId(job)).unwrap().machines[machine].choice.to_string()
    }
}

fn submit(first: u32, jobs: Vec<Job>) -> Vec<Event> {
    let numbered = jobs.into_iter().zip(first..);
    numbered.map(|(description, job)| Event::Submitted { job: JobId(job), description }).collect()
}

fn connected(machine: u32) -> Event {
    Event::Connected { machine: MachineId(machine), round_trip: RTT }
}

fn finished(job: u32) -> Event {
    Event::Finished { job: JobId(job), took: Some(seconds(10)), outputs: Vec::new() }
}

fn made(job: u32, output: u32) -> Event {
    let outputs = vec![(PathId(output), ByteCount(1_000_000))];
    Event::Finished { job: JobId(job), took: Some(seconds(10)), outputs }
}

fn build_failed(job: u32) -> Event {
    Event::Failed { job: JobId(job), failure: JobFailure::Build }
}

fn returned(job: u32) -> Event {
    let cause = "no space left on device".to_owned();
    Event::Failed { job: JobId(job), failure: JobFailure::Infrastructure { cause } }
}

fn failed(machine: u32, fault: MachineFault) -> Event {
    failed_by(machine, fault, Chance(0))
}

fn failed_by(machine: u32, fault: MachineFault, chance: Chance) -> Event {
    let (machine, cause) = (MachineId(machine), "it broke".to_owned());
    Event::MachineFailed { machine, cause, fault, chance }
}

fn wakes(commands: &[Command]) -> Vec<Duration> {
    let at = |command: &Command| match command {
        Command::Wake { at } => Some(at.0),
        _ => None,
    };
    commands.iter().filter_map(at).collect()
}

#[rstest]
#[case::plain(job(&[]), "possible")]
#[case::builtin(Job { system: "builtin".to_owned(), ..job(&[]) }, "possible")]
#[case::other_system(
    Job { system: "aarch64-linux".to_owned(), ..job(&[]) },
    "not chosen: it does not build for aarch64-linux (only for x86_64-linux)"
)]
#[case::has_feature(Job { required_features: set(&["kvm"]), ..job(&[]) }, "possible")]
#[case::lacks_feature(
    Job { required_features: set(&["kvm", "big"]), ..job(&[]) },
    "not chosen: it lacks feature big"
)]
fn matching(#[case] job: Job, #[case] answer: &str) {
    let machine = Machine { supported_features: set(&["kvm"]), ..machine(1) };
    let (bench, commands) = Bench::running(vec![machine], vec![job]);
    let text = bench.reason(0, 0);
    match answer {
        "possible" => {
            assert_eq!(commands, [start(0, 0, 0, None)]);
            assert!(text.starts_with("chosen: it is estimated to be done first there"), "{text}");
        }
        answer => assert_eq!(text, answer),
    }
}

#[rstest]
#[case::mandatory_counts_as_supported(&["benchmark"], None)]
#[case::mandatory_not_asked_for(&[], Some("it takes only jobs that ask for feature benchmark"))]
fn mandatory_features(#[case] asked: &[&str], #[case] refusal: Option<&str>) {
    let machine = Machine { mandatory_features: set(&["benchmark"]), ..machine(1) };
    let said = machine.refusal("x86_64-linux", &set(asked)).map(|reason| reason.to_string());
    assert_eq!(said.as_deref(), refusal);
}

/// `ssh://h x86_64-linux - 2`, and `ssh://h aarch64-linux - 1` for the same host.
fn with_two_lines() -> Machine {
    let other = Terms {
        systems: set(&["aarch64-linux"]),
        slots: 1,
        speed_factor: 1.0,
        supported_features: BTreeSet::new(),
        mandatory_features: BTreeSet::new(),
    };
    Machine { other_terms: vec![other], ..machine(2) }
}

#[test]
fn lines_for_one_machine_share_its_slots() {
    let arm = || Job { system: "aarch64-linux".to_owned(), ..job(&[]) };
    let (_, commands) = Bench::running(vec![with_two_lines()], vec![arm(), arm(), job(&[])]);
    assert_eq!(commands, [start(0, 0, 0, None), start(2, 0, 1, None)]);
    // only the first slot is for both
    let jobs = vec![job(&[]), job(&[]), arm()];
    let (mut bench, commands) = Bench::running(vec![with_two_lines()], jobs);
    assert_eq!(commands, [start(0, 0, 0, None), start(1, 0, 1, None)]);
    assert_eq!(bench.on(finished(1)), [done(1, Verdict::Built)]);
    assert!(bench.reason(2, 0).contains("full (1/1)"), "{}", bench.reason(2, 0));
    assert_eq!(bench.on(finished(0)), [done(0, Verdict::Built), start(2, 0, 0, None)]);
}

#[test]
fn a_machine_with_several_lines_that_is_lost_is_not_another_one() {
    let line = Terms { systems: set(&["x86_64-linux"]), ..with_two_lines().other_terms.remove(0) };
    let line = Terms { supported_features: set(&["kvm"]), ..line };
    let machine = Machine { other_terms: vec![line], ..machine(1) };
    let (mut bench, _) = Bench::running(vec![machine], vec![job(&[])]);
    // it is tried there again, as there is no other
    assert_eq!(bench.on(returned(0)), [start(0, 0, 0, None)]);
}

#[test]
fn impossible_jobs_end_at_once_with_what_depends_on_them() {
    let strange = Job { system: "riscv64-linux".to_owned(), ..job(&[]) };
    let machines = vec![machine(0), machine(1)];
    let (_, commands) = Bench::running(machines, vec![strange, job(&[0]), job(&[1])]);
    let Command::Done { verdict: Verdict::Impossible { reasons }, .. } = &commands[0] else {
        panic!("{commands:?}")
    };
    assert_eq!(reasons.len(), 2);
    assert_eq!(commands[1..], [done(1, because(0)), done(2, because(0))]);
}

#[test]
fn zero_slots_make_impossible() {
    let (_, commands) = Bench::running(vec![machine(0)], vec![job(&[])]);
    let reasons = [(MachineId(0), Reason::ZeroSlots)].into();
    assert_eq!(commands, [done(0, Verdict::Impossible { reasons })]);
}

#[test]
fn cycles_and_unknown_dependencies_end() {
    let (_, commands) = Bench::running(vec![machine(1)], vec![job(&[1]), job(&[0]), job(&[77])]);
    let expected = [done(2, because(77)), done(0, because(0)), done(1, because(0))];
    assert_eq!(commands, expected);
}

#[test]
fn only_machines_that_a_job_needs_are_connected() {
    let other = Machine { systems: set(&["aarch64-linux"]), ..machine(1) };
    let local = Machine { kind: MachineKind::Local, ..machine(1) };
    let mut bench = Bench::new(Settings::default(), vec![machine(1), other, local, machine(0)]);
    let commands = bench.scheduler.on_all(Moment::START, submit(0, vec![job(&[]), job(&[])]));
    assert_eq!(commands, [connect(0), connect(2)]);
    assert_eq!(bench.on(connected(2)), [start(0, 2, 0, None)]);
    assert_eq!(bench.on(connected(0)), [start(1, 0, 0, None)]);
}

#[test]
fn the_critical_path_goes_first_then_the_longer_job_then_the_earlier() {
    let jobs =
        vec![lasting(&[], 1), lasting(&[], 5), lasting(&[], 5), lasting(&[], 3), lasting(&[3], 9)];
    let (mut bench, commands) = Bench::running(vec![machine(1)], jobs);
    // Two of them at once: another is queued while there is more to do than there are lanes.
    assert_eq!(commands, [start(3, 0, 0, None), start(4, 0, 0, Some(3))]);
    assert_eq!(bench.later(3, finished(3))[1..], [start(1, 0, 0, Some(4))]);
    assert_eq!(bench.later(9, finished(4))[1..], [start(2, 0, 0, Some(1))]);
}

#[test]
fn a_later_batch_can_raise_the_rank_of_an_earlier_job() {
    let jobs = vec![lasting(&[], 8), lasting(&[], 5), lasting(&[], 4)];
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    bench.scheduler.on_all(Moment::START, submit(0, jobs));
    bench.scheduler.on_all(Moment::START, submit(3, vec![lasting(&[2], 90)]));
    assert_eq!(bench.on(connected(0))[0], start(2, 0, 0, None));
}

/// Of two that are alike it is said what decided.
#[test]
fn what_decides_between_equals_is_told() {
    let (bench, _) = Bench::running(vec![machine(1), machine(1)], vec![job(&[])]);
    let text = bench.reason(0, 1);
    let expected = "done in 10.0 s there as on m0, which comes first in the list of machines";
    assert!(text.ends_with(expected), "{text}");
    let (bench, _) = Bench::running(vec![machine(2), machine(2)], vec![job(&[]), job(&[])]);
    let text = bench.reason(1, 0);
    assert!(text.ends_with("as on m1, which had less to do"), "{text}");
}

#[test]
fn a_fast_machine_is_waited_for_when_that_clearly_wins() {
    let fast = Machine { speed_factor: 10.0, ..machine(1) };
    let (mut bench, commands) = Bench::running(vec![fast, machine(1)], vec![job(&[]), job(&[])]);
    // The second one is done after 2 s on the fast machine, after 10 s on the idle one.
    assert_eq!(commands[0], start(0, 0, 0, None));
    assert_eq!(commands.len(), 2);
    assert_eq!(wakes(&commands).len(), 1);
    let text = bench.reason(1, 1);
    assert_eq!(text, "not chosen: it would be done there in 10.0 s, on m0 in 2.0 s");
    assert_eq!(bench.reason(1, 0), "not chosen: its slots are full (1/1)");
    assert_eq!(bench.later(1, finished(0))[1..], [start(1, 0, 0, None)]);
}

#[test]
fn no_wake_up_is_lost_when_the_awaited_machine_is_late() {
    let fast = Machine { speed_factor: 10.0, ..machine(1) };
    let (mut bench, mut commands) =
        Bench::running(vec![fast, machine(1)], vec![job(&[]), job(&[])]);
    // The fast machine never answers: following nothing but the wake-ups, the other one gets it.
    for _ in 0..100 {
        if commands.contains(&start(1, 1, 0, None)) {
            assert!(bench.now < seconds(60), "{:?}", bench.now);
            return;
        }
        bench.now = *wakes(&commands).last().expect("a waiting job asks for a wake-up");
        commands = bench.on(Event::Tick);
    }
    panic!("the job still waits");
}

#[test]
fn the_machine_with_the_inputs_wins() {
    let input = PathId(0);
    let jobs = vec![Job { inputs: vec![input], ..job(&[]) }];
    let mut bench = Bench::new(Settings::default(), vec![machine(1), machine(1), machine(1)]);
    let size = Some(ByteCount(500_000_000));
    let mut events = vec![
        Event::PathAt { path: input, place: Place::Here, size },
        Event::PathAt { path: input, place: Place::On(MachineId(2)), size },
    ];
    events.extend(submit(0, jobs));
    events.extend((0..3).map(connected));
    let commands = bench.scheduler.on_all(Moment::START, events);
    assert_eq!(commands[3..], [start(0, 2, 0, None)]);
    assert!(bench.reason(0, 0).contains("510.0 s, on m2 in 10.0 s"), "{}", bench.reason(0, 0));
}

#[test]
fn a_shared_input_is_moved_once() {
    let input = PathId(0);
    let shared = || Job { inputs: vec![input], ..job(&[]) };
    let mut bench = Bench::new(Settings::default(), vec![machine(2), machine(2)]);
    let size = Some(ByteCount(100_000_000));
    let mut events = vec![Event::PathAt { path: input, place: Place::Here, size }];
    events.extend(submit(0, vec![shared(), shared()]));
    events.extend((0..2).map(connected));
    let commands = bench.scheduler.on_all(Moment::START, events);
    assert_eq!(commands[2..], [start(0, 0, 0, None), start(1, 0, 1, None)]);
}

#[test]
fn jobs_that_prefer_the_local_machine_get_it_while_it_has_room() {
    let local = Machine { kind: MachineKind::Local, speed_factor: 0.1, ..machine(1) };
    let prefers = || Job { preference: Preference::PreferLocal, ..job(&[]) };
    let (bench, commands) =
        Bench::running(vec![machine(4), local], vec![prefers(), prefers(), job(&[])]);
    let expected = [start(0, 1, 0, None), start(1, 0, 0, None), start(2, 0, 1, None)];
    assert_eq!(commands, expected);
    assert!(bench.reason(0, 1).contains("prefers the local machine"), "{}", bench.reason(0, 1));
}

#[test]
fn dependents_are_queued_one_behind_each() {
    let jobs = vec![job(&[]), job(&[0]), job(&[0]), job(&[1])];
    let (mut bench, commands) = Bench::running(vec![machine(2)], jobs);
    let expected = [start(0, 0, 0, None), start(1, 0, 0, Some(0)), start(3, 0, 0, Some(1))];
    assert_eq!(commands, expected);
    assert_eq!(bench.later(10, finished(0))[1..], [start(2, 0, 1, None)]);
    let status = bench.scheduler.explain(JobId(3)).unwrap().status;
    assert_eq!(status, JobStatus::Queued { lane: lane(0, 0), after: JobId(1) });
}

#[test]
fn chains_are_bounded() {
    let settings = Settings { chain_depth: 3, ..Settings::default() };
    let jobs = vec![job(&[]), job(&[0]), job(&[1]), job(&[2]), job(&[3])];
    let (mut bench, commands) = Bench::running_with(settings, vec![machine(1)], jobs);
    assert_eq!(commands.len(), 3);
    let expected = [done(0, Verdict::Built), start(3, 0, 0, Some(2))];
    assert_eq!(bench.later(10, finished(0)), expected);
}

#[test]
fn a_job_is_not_queued_away_from_its_large_inputs() {
    let large = PathId(9);
    let jobs = vec![job(&[]), Job { inputs: vec![large], ..job(&[0]) }];
    let mut bench = Bench::new(Settings::default(), vec![machine(1), machine(1)]);
    let size = Some(ByteCount(500_000_000));
    let mut events = vec![Event::PathAt { path: large, place: Place::On(MachineId(1)), size }];
    events.extend(submit(0, jobs));
    events.extend((0..2).map(connected));
    let commands = bench.scheduler.on_all(Moment::START, events);
    assert_eq!(commands[2..], [start(0, 0, 0, None)]);
    assert_eq!(bench.later(10, finished(0))[1..], [start(1, 1, 0, None)]);
}

#[test]
fn independent_jobs_are_queued_only_while_there_is_more_than_enough() {
    let (_, commands) = Bench::running(vec![machine(2)], vec![job(&[]); 4]);
    assert_eq!(commands, [start(0, 0, 0, None), start(1, 0, 1, None)]);
    let (_, commands) = Bench::running(vec![machine(2)], vec![job(&[]); 9]);
    let expected = [start(2, 0, 0, Some(0)), start(3, 0, 1, Some(1))];
    assert_eq!(commands[2..], expected);
}

#[test]
fn a_failed_build_takes_along_what_depends_on_it() {
    let jobs = vec![job(&[]), job(&[0]), job(&[1]), job(&[1]), job(&[])];
    let (mut bench, commands) = Bench::running(vec![machine(1)], jobs);
    assert_eq!(commands.len(), 3);
    let commands = bench.later(1, build_failed(0));
    let expected = [done(0, Verdict::Failed), stop(1), done(3, because(0)), stop(2)];
    assert_eq!(commands, expected);
    // However they come back, it was the dependency.
    assert_eq!(bench.on(build_failed(1)), [done(1, because(0))]);
    assert_eq!(bench.on(Event::Stopped { job: JobId(2) })[0], done(2, because(0)));
    assert_eq!(bench.scheduler.snapshot().jobs.dependency_failed, 3);
}

#[rstest]
#[case::as_build_failure(build_failed(1))]
#[case::as_infrastructure(returned(1))]
fn a_queued_job_that_fails_before_its_dependency_waits_for_it(#[case] event: Event) {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[]), job(&[0])]);
    assert_eq!(bench.later(1, event), []);
    // The dependency was built after all: now it runs, and has all its attempts left.
    let expected = [done(0, Verdict::Built), start(1, 0, 0, None)];
    assert_eq!(bench.later(9, finished(0)), expected);
    assert_eq!(bench.later(9, build_failed(1)), [done(1, Verdict::Failed)]);
}

#[test]
fn stop_all_cancels_the_rest() {
    let settings = Settings { on_failure: OnFailure::StopAll, ..Settings::default() };
    let jobs = vec![job(&[]), job(&[]), job(&[1])];
    let (mut bench, _) = Bench::running_with(settings, vec![machine(1), machine(1)], jobs);
    let commands = bench.later(1, build_failed(0));
    let (first, rest) = commands.split_first().unwrap();
    assert_eq!(*first, done(0, Verdict::Failed));
    assert_eq!(rest, [stop(1), stop(2)]);
    let stopped = |job| Event::Stopped { job: JobId(job) };
    assert_eq!(bench.on(stopped(1)), [done(1, Verdict::Cancelled)]);
    assert_eq!(bench.on(stopped(2)), [done(2, Verdict::Cancelled)]);
}

#[test]
fn a_build_that_is_faster_than_its_stop_counts() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[]), job(&[])]);
    assert_eq!(bench.on(Event::CancelAll), [stop(0), done(1, Verdict::Cancelled)]);
    assert_eq!(bench.on(finished(0)), [done(0, Verdict::Built)]);
}

#[test]
fn cancel_takes_along_what_depends_on_it() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[]), job(&[]), job(&[1])]);
    let commands = bench.on(Event::Cancel { job: JobId(0) });
    assert_eq!(commands[0], done(0, Verdict::Cancelled));
    assert_eq!(bench.scheduler.snapshot().jobs.cancelled, 1);
}

#[test]
fn infrastructure_failures_are_tried_elsewhere() {
    let (mut bench, _) = Bench::running(vec![machine(1), machine(1)], vec![job(&[]), job(&[0])]);
    assert_eq!(bench.on(returned(0)), [stop(1), start(0, 1, 0, None)]);
    let text = bench.reason(0, 0);
    assert_eq!(text, "not chosen: the job was tried there already: no space left on device");
    assert_eq!(bench.on(Event::Stopped { job: JobId(1) }), [start(1, 1, 0, Some(0))]);
    // Both were tried: either may be tried again, once.
    let commands = bench.on(returned(0));
    assert_eq!(commands[0], stop(1));
    assert!(matches!(commands[1], Command::Start { job: JobId(0), .. }), "{commands:?}");
    let commands = bench.on(returned(0));
    let Command::Done { verdict: Verdict::NoMachineLeft { reasons }, .. } = &commands[0] else {
        panic!("{commands:?}")
    };
    assert_eq!(reasons.len(), 2);
}

/// It isn't asked three times, and what others have for it isn't held up.
#[test]
fn a_machine_that_cannot_build_such_a_job_is_asked_once() {
    let unfit = |job| {
        let cause = "missing system features".to_owned();
        Event::Failed { job: JobId(job), failure: JobFailure::Unfit { cause } }
    };
    let (mut bench, _) = Bench::running(vec![machine(3)], vec![job(&[]); 3]);
    for failing in 0..3 {
        let commands = bench.on(unfit(failing));
        let Command::Done { verdict: Verdict::NoMachineLeft { reasons }, .. } = &commands[0] else {
            panic!("{commands:?}")
        };
        let told = reasons[0].1.when_over();
        assert_eq!(told, "the job was tried there already: missing system features");
    }
    let link = &bench.scheduler.snapshot().machines[0].link;
    assert_eq!(*link, drover_schedule::LinkState::Connected);
    // another one may have them
    let (mut bench, _) = Bench::running(vec![machine(1), machine(1)], vec![job(&[])]);
    assert_eq!(bench.on(unfit(0)), [start(0, 1, 0, None)]);
    assert!(matches!(bench.on(unfit(0))[0], Command::Done { .. }));
}

/// What it said is the one thing that helps; that it's on probation now follows from it.
#[test]
fn a_machine_that_has_said_why_is_quoted_in_the_end() {
    let (mut bench, _) = Bench::running(vec![machine(2)], vec![job(&[]), job(&[])]);
    bench.on(returned(0));
    bench.on(returned(0));
    let commands = bench.on(returned(0));
    let Command::Done { verdict: Verdict::NoMachineLeft { reasons }, .. } = &commands[0] else {
        panic!("{commands:?}")
    };
    let told = reasons[0].1.when_over();
    assert_eq!(told, "the job was tried there already: no space left on device");
    // one that is down says nothing of it
    let (mut bench, _) = Bench::running(vec![machine(1), machine(1)], vec![job(&[])]);
    bench.on(returned(0));
    bench.on(returned(0));
    bench.on(failed(1, MachineFault::Lost));
    let Some(Command::Done { verdict: Verdict::NoMachineLeft { reasons }, .. }) =
        bench.on(returned(0)).into_iter().next()
    else {
        panic!("it was tried often enough")
    };
    assert!(reasons[1].1.when_over().starts_with("it is down"), "{reasons:?}");
}

#[test]
fn a_machine_failure_counts_only_for_the_job_that_ran() {
    let settings = Settings { attempts: 1, ..Settings::default() };
    let machines = vec![machine(1), machine(0)];
    let (mut bench, _) = Bench::running_with(settings, machines, vec![job(&[]); 4]);
    let commands = bench.on(failed(0, MachineFault::Lost));
    let is_given_up = |command: &Command| {
        matches!(command, Command::Done { verdict: Verdict::NoMachineLeft { .. }, .. })
    };
    assert_eq!(commands.iter().filter(|command| is_given_up(command)).count(), 1);
    assert_eq!(bench.scheduler.snapshot().jobs.ready, 3);
}

#[test]
fn back_off_grows_and_is_capped() {
    let other = machine(1);
    let (mut bench, _) = Bench::running(vec![machine(1), other], vec![job(&[]), job(&[])]);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let commands = bench.on(failed(0, MachineFault::Lost));
        let at = wakes(&commands)[0];
        pauses.push((at - bench.now).as_secs());
        bench.now = at - Duration::from_nanos(1);
        assert_eq!(bench.on(Event::Tick), []);
        bench.now = at;
        let commands = bench.on(Event::Tick);
        assert!(commands.contains(&connect(0)), "{commands:?}");
    }
    assert_eq!(pauses, [1, 4, 16, 64, 256, 300, 300]);
}

/// Of many who lose a machine at once, not all are back at once.
#[test]
fn a_back_off_is_longer_by_chance() {
    let pause = |chance| {
        let (mut bench, _) = Bench::running(vec![machine(1), machine(1)], vec![job(&[]); 2]);
        let commands = bench.on(failed_by(0, MachineFault::Lost, Chance(chance)));
        wakes(&commands)[0] - bench.now
    };
    let pauses = [0, 1, 20_000, 40_000, u16::MAX].map(pause);
    assert!(pauses.is_sorted_by(|some, more| some < more), "{pauses:?}");
    assert_eq!(pauses[0], seconds(1));
    let most = seconds(3) / 2;
    assert!(pauses[4] <= most && most - pauses[4] < Duration::from_millis(1), "{pauses:?}");
}

#[test]
fn a_machine_that_came_back_is_probed_with_one_job() {
    let (mut bench, _) = Bench::running(vec![machine(4)], vec![job(&[]); 3]);
    bench.on(failed(0, MachineFault::Lost));
    bench.later(1, Event::Tick);
    assert_eq!(bench.on(connected(0)), [start(0, 0, 0, None)]);
    let text = bench.reason(1, 0);
    assert!(text.contains("one job at a time until one succeeds"), "{text}");
    let commands = bench.later(9, finished(0));
    assert_eq!(commands[1..], [start(1, 0, 0, None), start(2, 0, 1, None)]);
}

#[test]
fn refused_machines_are_not_tried_again() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    bench.scheduler.on_all(Moment::START, submit(0, vec![job(&[]), job(&[0])]));
    let commands = bench.on(failed(0, MachineFault::Refused));
    let reasons = [(MachineId(0), Reason::Refused { cause: "it broke".to_owned() })].into();
    assert_eq!(commands, [done(0, Verdict::NoMachineLeft { reasons }), done(1, because(0))]);
    let commands = bench.scheduler.on_all(Moment(seconds(1000)), submit(2, vec![job(&[])]));
    assert_eq!(commands.len(), 1, "{commands:?}");
}

#[test]
fn a_machine_that_never_connected_is_given_up_after_one_attempt() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    bench.scheduler.on_all(Moment::START, submit(0, vec![job(&[])]));
    let commands = bench.on(failed(0, MachineFault::Unreachable));
    let [Command::Done { verdict: Verdict::NoMachineLeft { reasons }, .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
    let expected = "it is down since 0.0 s into the run (cannot be reached: it broke) \
                    and is tried again at 1.0 s";
    assert_eq!(reasons[0].1.to_string(), expected);
    // New jobs are a new reason to try, at once.
    let commands = bench.scheduler.on_all(Moment(seconds(5)), submit(1, vec![job(&[])]));
    assert_eq!(commands, [connect(0)]);
    bench.now = seconds(6);
    assert_eq!(bench.on(connected(0)), [start(1, 0, 0, None)]);
}

#[test]
fn a_machine_that_is_not_ready_yet_gets_three_reconnections() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    bench.scheduler.on_all(Moment::START, submit(0, vec![job(&[])]));
    let mut commands = bench.on(failed(0, MachineFault::Unready));
    for _ in 0..3 {
        assert!(!commands.iter().any(|command| matches!(command, Command::Done { .. })));
        bench.now = wakes(&commands)[0];
        assert_eq!(bench.on(Event::Tick), [connect(0)]);
        commands = bench.on(failed(0, MachineFault::Unready));
    }
    let [Command::Done { verdict: Verdict::NoMachineLeft { .. }, .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
}

#[test]
fn a_machine_that_was_up_gets_three_reconnections() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[])]);
    let mut commands = bench.on(failed(0, MachineFault::Lost));
    for _ in 0..3 {
        assert!(!commands.iter().any(|command| matches!(command, Command::Done { .. })));
        bench.now = wakes(&commands)[0];
        assert_eq!(bench.on(Event::Tick), [connect(0)]);
        commands = bench.on(failed(0, MachineFault::Unreachable));
    }
    let is_over =
        matches!(commands[..], [Command::Done { verdict: Verdict::NoMachineLeft { .. }, .. }]);
    assert!(is_over, "{commands:?}");
}

#[test]
fn draining_machines_take_nothing_new() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[]), job(&[])]);
    bench.on(Event::Drain { machine: MachineId(0) });
    assert_eq!(bench.later(10, finished(0)), [done(0, Verdict::Built)]);
    assert_eq!(bench.reason(1, 0), "not chosen: it is draining and takes no further jobs");
    let resumed = bench.on(Event::Resume { machine: MachineId(0) });
    assert_eq!(resumed, [start(1, 0, 0, None)]);
}

#[test]
fn what_stands_behind_others_leaves_a_machine_that_drains() {
    let jobs = vec![job(&[]), lasting(&[0], 5), job(&[1])];
    let (mut bench, commands) = Bench::running(vec![machine(1)], jobs);
    assert!(commands.contains(&start(2, 0, 0, Some(1))), "{commands:?}");
    let commands = bench.on(Event::Drain { machine: MachineId(0) });
    assert_eq!(commands, [stop(1), stop(2)]);
    for job in [1, 2] {
        assert_eq!(bench.on(Event::Stopped { job: JobId(job) }), []);
    }
    assert_eq!(bench.later(10, finished(0)), [done(0, Verdict::Built)]);
    assert_eq!(bench.scheduler.snapshot().machines[0].running, 0);
    // twice is as good as once
    assert_eq!(bench.on(Event::Drain { machine: MachineId(0) }), []);
    let resumed = bench.on(Event::Resume { machine: MachineId(0) });
    assert_eq!(resumed, [start(1, 0, 0, None), start(2, 0, 0, Some(1))]);
}

fn scoped(job: u32, scope: Scope) -> Event {
    Event::Scoped { job: JobId(job), scope }
}

#[rstest]
#[case::remote(Scope::RemoteMachines, 1, "whoever asked wants no builds here (max-jobs is 0)")]
#[case::local(Scope::LocalMachines, 0, "wants no builds on other machines (builders is empty)")]
fn a_job_keeps_to_its_scope(#[case] scope: Scope, #[case] barred: u32, #[case] why: &str) {
    let local = Machine { kind: MachineKind::Local, ..machine(1) };
    let machines = vec![machine(1), local];
    let confined = || Job { scope, ..job(&[]) };
    let (mut bench, commands) = Bench::running(machines, vec![confined(), confined(), job(&[])]);
    let mut starts = commands;
    starts.sort_by_key(|command| format!("{command:?}"));
    assert_eq!(starts, [start(0, 1 - barred, 0, None), start(2, barred, 0, None)]);
    assert!(bench.reason(1, barred as usize).contains(why), "{}", bench.reason(1, barred as usize));
    // a slot that is free there is none for it, before somebody waits for it who doesn't mind
    assert_eq!(bench.later(10, finished(2)), [done(2, Verdict::Built)]);
    assert_eq!(bench.on(scoped(1, Scope::AllMachines)), [start(1, barred, 0, None)]);
    // once it runs it goes on there
    assert_eq!(bench.on(scoped(1, scope)), []);
}

#[test]
fn a_job_that_may_run_nowhere_any_more_ends() {
    let local = Machine { kind: MachineKind::Local, ..machine(1) };
    let jobs = vec![job(&[]), lasting(&[], 5), job(&[1])];
    let (mut bench, commands) = Bench::running(vec![local], jobs);
    assert_eq!(commands, [start(1, 0, 0, None), start(2, 0, 0, Some(1))]);
    let commands = bench.on(scoped(0, Scope::RemoteMachines));
    let kind = MachineKind::Local;
    let reasons = [(MachineId(0), Reason::OutOfScope { kind })].into();
    assert_eq!(commands, [done(0, Verdict::Impossible { reasons })]);
    // what stands behind another is taken back, and has nowhere to go
    assert_eq!(bench.on(scoped(2, Scope::RemoteMachines)), [stop(2)]);
    let ended = [bench.on(Event::Stopped { job: JobId(2) }), bench.later(5, finished(1))].concat();
    let verdicts = ended.iter().map(|command| match command {
        Command::Done { job, verdict } => (job.0, *verdict == Verdict::Built),
        other => panic!("{other:?}"),
    });
    assert_eq!(verdicts.collect::<BTreeSet<_>>(), [(1, true), (2, false)].into());
}

#[test]
fn a_machine_that_drains_is_not_connected_to() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    bench.on(Event::Drain { machine: MachineId(0) });
    let submitted = Event::Submitted { job: JobId(0), description: job(&[]) };
    assert_eq!(bench.on(submitted), []);
    assert_eq!(bench.on(Event::Reach { machine: MachineId(0) }), []);
    assert_eq!(bench.reason(0, 0), "not chosen: it is draining and takes no further jobs");
    assert_eq!(bench.on(Event::Resume { machine: MachineId(0) }), [connect(0)]);
}

#[test]
fn a_machine_that_is_gone_is_neither_drained_nor_resumed() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[])]);
    bench.on(Event::MachineRemoved { machine: MachineId(0) });
    bench.on(Event::Drain { machine: MachineId(0) });
    bench.on(Event::Resume { machine: MachineId(0) });
    let machine = bench.scheduler.snapshot().machines.remove(0);
    assert_eq!(machine.state, MachineState::Not(Reason::Removed));
}

#[test]
fn a_machine_can_be_reached_before_a_job_needs_it() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1), machine(0)]);
    let reach = |machine| Event::Reach { machine: MachineId(machine) };
    assert_eq!(bench.on(reach(0)), [connect(0)]);
    assert_eq!(bench.on(reach(0)), []);
    assert_eq!(bench.on(reach(1)), [], "it has no slots");
    bench.on(failed(0, MachineFault::Unreachable));
    assert_eq!(bench.on(reach(0)), [], "it is left alone");
    let machine = bench.scheduler.snapshot().machines.remove(0);
    assert!(matches!(machine.link, LinkState::Down { .. }), "{machine:?}");
    assert_eq!(machine.trouble.map(|trouble| trouble.fault), Some(MachineFault::Unreachable));
}

/// Job 0 makes path 0 on one of two machines; job 1 needs it once job 2 is built, too.
fn with_output_on_a_machine() -> (Bench, u32) {
    let jobs = vec![making(0, &[]), making(1, &[0, 2]), lasting(&[], 50)];
    let settings = Settings { chain_depth: 1, ..Settings::default() };
    let (mut bench, commands) = Bench::running_with(settings, vec![machine(1), machine(1)], jobs);
    let at = commands.iter().find_map(|command| match command {
        Command::Start { job: JobId(0), lane, .. } => Some(lane.machine.0),
        _ => None,
    });
    bench.later(10, made(0, 0));
    (bench, at.unwrap())
}

#[test]
fn lost_outputs_are_built_again() {
    let (mut bench, holder) = with_output_on_a_machine();
    bench.on(failed(holder, MachineFault::Lost));
    assert_eq!(bench.scheduler.snapshot().jobs.built, 0);
    let other = 1 - holder;
    // Its verdict was told already.
    assert_eq!(
        bench.later(40, finished(2))[..2],
        [done(2, Verdict::Built), start(0, other, 0, None)]
    );
}

#[test]
fn outputs_that_come_back_are_not_built_again() {
    let (mut bench, holder) = with_output_on_a_machine();
    bench.on(failed(holder, MachineFault::Lost));
    bench.later(1, Event::Tick);
    bench.on(connected(holder));
    assert_eq!(bench.scheduler.snapshot().jobs.built, 1);
    let commands = bench.later(40, finished(2));
    assert_eq!(commands[1..], [start(1, holder, 0, None)]);
}

#[test]
fn a_second_copy_is_as_good() {
    let (mut bench, holder) = with_output_on_a_machine();
    bench.on(Event::PathAt { path: PathId(0), place: Place::Here, size: None });
    bench.on(failed(holder, MachineFault::Lost));
    assert_eq!(bench.scheduler.snapshot().jobs.built, 1);
}

#[test]
fn what_vanishes_is_built_again_a_bounded_number_of_times() {
    let jobs = vec![making(0, &[]), making(1, &[0, 2]), lasting(&[], 500)];
    let settings = Settings { chain_depth: 1, ..Settings::default() };
    let (mut bench, _) = Bench::running_with(settings, vec![machine(1), machine(1)], jobs);
    let gone = |machine| Event::PathGone { path: PathId(0), place: Place::On(MachineId(machine)) };
    for _ in 0..3 {
        bench.later(10, made(0, 0));
        let commands = [bench.on(gone(0)), bench.on(gone(1))].concat();
        assert!(matches!(commands[0], Command::Start { job: JobId(0), .. }), "{commands:?}");
    }
    bench.later(10, made(0, 0));
    let commands = [bench.on(gone(0)), bench.on(gone(1))].concat();
    let is_given_up =
        matches!(commands[0], Command::Done { verdict: Verdict::NoMachineLeft { .. }, .. });
    assert!(is_given_up, "{commands:?}");
    assert_eq!(commands[1], done(1, because(0)));
}

#[test]
fn rebuild_gives_another_verdict() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![making(0, &[])]);
    assert_eq!(bench.later(10, made(0, 0)), [done(0, Verdict::Built)]);
    assert_eq!(bench.on(Event::Rebuild { job: JobId(0) }), [start(0, 0, 0, None)]);
    assert_eq!(bench.later(10, made(0, 0)), [done(0, Verdict::Built)]);
}

/// Jobs 0 and 1, one behind the other, are built again for job 3, and the first comes back.
#[test]
fn one_that_is_taken_back_while_it_is_built_again_gets_a_verdict_where_it_is_wanted() {
    let long = || lasting(&[], 500);
    let jobs = vec![making(0, &[]), making(1, &[0]), long(), job(&[1, 2, 4, 5]), long(), long()];
    // job 3 waits to the end
    let settings = Settings { chain_depth: 2, ..Settings::default() };
    let machines = (0..5).map(|_| machine(1)).collect();
    let (mut bench, commands) = Bench::running_with(settings, machines, jobs);
    let holder = commands.iter().find_map(|command| match command {
        Command::Start { job: JobId(1), lane, after: Some(_) } => Some(lane.machine.0),
        _ => None,
    });
    let holder = holder.unwrap();
    bench.later(10, made(0, 0));
    assert_eq!(bench.later(10, made(1, 1)), [done(1, Verdict::Built)]);
    let commands = bench.on(failed(holder, MachineFault::Lost));
    let is_queued = |command: &Command| {
        matches!(command, Command::Start { job: JobId(1), after: Some(JobId(0)), .. })
    };
    assert!(commands.iter().any(is_queued), "{commands:?}");
    assert!(bench.on(returned(0)).contains(&stop(1)));
    let status = bench.scheduler.explain(JobId(1)).unwrap().status;
    assert!(matches!(status, JobStatus::Stopping { then: Afterwards::Again, .. }), "{status:?}");
    bench.on(Event::Rebuild { job: JobId(1) });
    bench.on(Event::Stopped { job: JobId(1) });
    bench.later(10, made(0, 0));
    assert_eq!(bench.on(connected(holder)), [start(1, holder, 0, None)]);
    assert_eq!(bench.later(10, made(1, 1)), [done(1, Verdict::Built)]);
}

#[test]
fn forgotten_ids_can_be_used_again() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![making(0, &[]), making(1, &[0])]);
    bench.on(Event::Forget { job: JobId(0) });
    assert!(bench.scheduler.explain(JobId(0)).is_some(), "it is running");
    bench.later(10, made(0, 0));
    bench.later(10, made(1, 1));
    for job in [0, 1] {
        bench.on(Event::Forget { job: JobId(job) });
        assert_eq!(bench.scheduler.explain(JobId(job)), None);
    }
    let commands = bench.scheduler.on_all(Moment(bench.now), submit(0, vec![making(0, &[])]));
    assert_eq!(commands, [start(0, 0, 0, None)]);
    assert_eq!(bench.scheduler.snapshot().jobs, JobCounts { started: 1, ..JobCounts::default() });
}

#[test]
fn events_about_the_unknown_are_ignored() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[])]);
    let events = [
        finished(9),
        build_failed(9),
        returned(9),
        connected(9),
        failed(9, MachineFault::Lost),
        Event::Stopped { job: JobId(9) },
        Event::Rebuild { job: JobId(0) },
        Event::Cancel { job: JobId(9) },
        Event::Drain { machine: MachineId(9) },
        Event::PathGone { path: PathId(9), place: Place::On(MachineId(9)) },
    ];
    for event in events {
        assert_eq!(bench.on(event), []);
    }
}

#[rstest]
// Slots and speed of each machine, and where six jobs go, one after another.
#[case::float_idle_first(Rounding::Float, &[(2, 1.0), (8, 100.0)], &[1, 0, 1, 1, 1, 1])]
#[case::integer_fast_first(Rounding::Integer, &[(2, 1.0), (8, 100.0)], &[1, 1, 1, 1, 1, 1])]
#[case::integer_quotient(Rounding::Integer, &[(4, 1.0), (8, 3.0)], &[1, 1, 1, 0, 1, 1])]
#[case::float_quotient(Rounding::Float, &[(4, 1.0), (8, 2.0)], &[1, 0, 1, 1, 0, 1])]
#[case::file_order(Rounding::Float, &[(3, 1.0), (3, 1.0)], &[0, 1, 0, 1, 0, 1])]
#[case::full_machines_are_passed_over(Rounding::Float, &[(1, 9.0), (5, 1.0)], &[0, 1, 1, 1, 1, 1])]
fn stock_choice(
    #[case] rounding: Rounding,
    #[case] machines: &[(u32, f64)],
    #[case] expected: &[u32],
) {
    let settings = Settings { policy: Policy::Stock { rounding }, ..Settings::default() };
    let machines = machines
        .iter()
        .map(|(slots, speed_factor)| Machine { speed_factor: *speed_factor, ..machine(*slots) })
        .collect();
    let (mut bench, _) = Bench::running_with(settings, machines, vec![job(&[])]);
    let mut chosen = Vec::new();
    let explanation = bench.scheduler.explain(JobId(0)).unwrap();
    let JobStatus::Running { lane } = explanation.status else { panic!("{explanation:?}") };
    chosen.push(lane.machine.0);
    for number in 1..6 {
        let commands = bench.scheduler.on_all(Moment::START, submit(number, vec![job(&[])]));
        let others = commands.iter().filter_map(|command| match command {
            Command::Start { lane, after: None, .. } => Some(lane.machine.0),
            _ => None,
        });
        chosen.extend(others);
    }
    assert_eq!(chosen, expected);
}

fn no_room(job: u32) -> Event {
    Event::NoRoom { job: JobId(job) }
}

#[test]
fn a_job_without_room_on_the_only_machine_ends_and_others_wait_for_its_pause() {
    let jobs = vec![job(&[]), job(&[]), job(&[0])];
    let (mut bench, commands) = Bench::running(vec![machine(1)], jobs);
    assert_eq!(commands[0], start(0, 0, 0, None));
    let ends = |commands: &[Command]| -> Vec<u32> {
        let ended = commands.iter().filter_map(|command| match command {
            Command::Done { job, .. } => Some(job.0),
            _ => None,
        });
        ended.collect()
    };
    assert_eq!(bench.on(no_room(0)), []);
    let commands = bench.on(failed(0, MachineFault::DiskFull));
    assert_eq!(ends(&commands), [0, 2], "{commands:?}");
    let said = commands.iter().find_map(|command| match command {
        Command::Done { verdict: Verdict::NoMachineLeft { reasons }, .. } => Some(reasons),
        _ => None,
    });
    let said = said.unwrap()[0].1.to_string();
    assert!(said.contains("disk full") && said.contains("it broke"), "{said}");
    let commands = bench.later(1, Event::Tick);
    assert!(commands.contains(&connect(0)), "{commands:?}");
    assert!(bench.on(connected(0)).contains(&start(1, 0, 0, None)));
}

#[test]
fn a_job_without_room_is_tried_once_on_each_machine() {
    let (mut bench, commands) = Bench::running(vec![machine(1), machine(1)], vec![job(&[])]);
    assert_eq!(commands[0], start(0, 0, 0, None));
    assert_eq!(bench.on(no_room(0)), []);
    let commands = bench.on(failed(0, MachineFault::DiskFull));
    assert!(commands.contains(&start(0, 1, 0, None)), "{commands:?}");
    assert_eq!(bench.on(no_room(0)), []);
    let commands = bench.on(failed(1, MachineFault::DiskFull));
    let is_end = |command: &Command| {
        matches!(command, Command::Done { verdict: Verdict::NoMachineLeft { .. }, .. })
    };
    assert!(commands.iter().any(is_end), "{commands:?}");
}

#[test]
fn the_snapshot_counts() {
    let jobs = vec![job(&[]), job(&[0]), job(&[]), job(&[2, 0])];
    let (mut bench, _) = Bench::running(vec![machine(1), machine(1)], jobs);
    bench.on(failed(1, MachineFault::DiskFull));
    let snapshot = bench.scheduler.snapshot();
    assert_eq!(snapshot.jobs.started + snapshot.jobs.ready + snapshot.jobs.waiting, 4);
    assert_eq!((snapshot.machines[0].running, snapshot.machines[0].slots), (1, 1));
    assert_eq!(snapshot.machines[0].state, MachineState::Up);
    let down = matches!(snapshot.machines[1].state, MachineState::Not(Reason::Down { .. }));
    assert!(down, "{snapshot:?}");
}

#[test]
fn a_machine_that_is_removed_finishes_what_runs_there_and_gets_no_more() {
    let (mut bench, commands) = Bench::running(vec![machine(1)], vec![job(&[]), job(&[])]);
    assert_eq!(commands[0], start(0, 0, 0, None));
    let commands = bench.on(Event::MachineRemoved { machine: MachineId(0) });
    assert!(
        commands.iter().all(|command| !matches!(command, Command::Start { .. })),
        "{commands:?}"
    );
    let commands = bench.later(10, finished(0));
    assert!(commands.contains(&done(0, Verdict::Built)), "{commands:?}");
    let commands = bench.scheduler.on_all(Moment(bench.now), submit(2, vec![job(&[])]));
    let nobody = Verdict::Impossible { reasons: Vec::new().into() };
    assert_eq!(commands, [done(2, nobody)], "nothing waits for it");
}

#[test]
fn what_waits_only_for_a_machine_that_is_removed_ends() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    assert_eq!(bench.scheduler.on_all(Moment::START, submit(0, vec![job(&[])])), [connect(0)]);
    let commands = bench.on(Event::MachineRemoved { machine: MachineId(0) });
    let ended = |command: &Command| {
        matches!(command, Command::Done { job: JobId(0), verdict: Verdict::NoMachineLeft { .. } })
    };
    assert!(commands.iter().any(ended), "{commands:?}");
}

#[test]
fn a_machine_gets_more_and_fewer_slots_while_it_works() {
    let jobs = vec![job(&[]); 6];
    let settings = Settings { prefetch_depth: 1, ..Settings::default() };
    let (mut bench, _) = Bench::running_with(settings, vec![machine(2)], jobs);
    let running = |bench: &Bench| bench.scheduler.snapshot().machines[0].running;
    assert_eq!(running(&bench), 2);
    let described = |slots| Event::MachineChanged {
        machine: MachineId(0),
        description: Machine { name: "m0".to_owned(), ..machine(slots) },
    };
    bench.on(described(4));
    assert_eq!(running(&bench), 4);
    bench.on(described(1));
    assert_eq!(running(&bench), 4, "what runs goes on");
    for (job, left) in [(0, 3), (1, 2), (2, 1), (3, 1)] {
        bench.later(1, finished(job));
        assert_eq!(running(&bench), left, "after job {job}");
    }
}

#[test]
fn a_machine_of_another_kind_of_work_takes_that() {
    let arm = Job { system: "aarch64-linux".to_owned(), ..job(&[]) };
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    let description =
        Machine { systems: set(&["aarch64-linux"]), name: "m0".to_owned(), ..machine(1) };
    bench.on(Event::MachineChanged { machine: MachineId(0), description });
    let commands = bench.scheduler.on_all(Moment::START, submit(0, vec![arm]));
    assert_eq!(commands, [connect(0)]);
    assert_eq!(bench.on(connected(0)), [start(0, 0, 0, None)]);
}

#[test]
fn a_machine_that_refused_gets_another_chance_when_it_is_described_anew() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1)]);
    bench.scheduler.on_all(Moment::START, submit(0, vec![job(&[])]));
    bench.on(failed(0, MachineFault::Refused));
    let again = Machine { name: "m0".to_owned(), ..machine(1) };
    bench.on(Event::MachineChanged { machine: MachineId(0), description: again });
    let commands = bench.scheduler.on_all(Moment::START, submit(1, vec![job(&[])]));
    assert_eq!(commands, [connect(0)]);
}

#[test]
fn a_machine_that_nobody_needed_is_connected_to_again() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![job(&[])]);
    assert_eq!(bench.on(Event::Disconnected { machine: MachineId(0) }), [], "it is busy");
    bench.later(10, finished(0));
    assert_eq!(bench.on(Event::Disconnected { machine: MachineId(0) }), []);
    let commands = bench.scheduler.on_all(Moment(bench.now), submit(1, vec![job(&[])]));
    assert_eq!(commands, [connect(0)]);
    assert_eq!(bench.on(connected(0)), [start(1, 0, 0, None)]);
}

#[test]
fn who_has_waited_long_is_not_passed_by_longer_graphs_for_ever() {
    let settings = Settings { prefetch_depth: 1, ..Settings::default() };
    let first = vec![lasting(&[], 10_000)];
    let (mut bench, _) = Bench::running_with(settings, vec![machine(1)], first);
    bench.scheduler.on_all(Moment(bench.now), submit(1, vec![lasting(&[], 1)]));
    // later comes one whose critical path is longer, but not by as much as the other has waited
    bench.now += Duration::from_secs(5_000);
    bench.scheduler.on_all(Moment(bench.now), submit(2, vec![lasting(&[], 1_000)]));
    bench.scheduler.on_all(Moment(bench.now), submit(3, vec![lasting(&[], 9_000)]));
    let mut order = Vec::new();
    let mut commands = bench.later(5_000, finished(0));
    for _ in 0..3 {
        let begun = commands.iter().filter_map(|command| match command {
            Command::Start { job, .. } => Some(job.0),
            _ => None,
        });
        let begun: Vec<u32> = begun.collect();
        order.extend(begun.iter().copied());
        commands = order.last().map(|job| bench.later(1, finished(*job))).unwrap_or_default();
    }
    let place = |job: u32| order.iter().position(|other| *other == job);
    assert!(place(3) < place(1) && place(1) < place(2), "{order:?}");
}

#[test]
fn forgotten_jobs_and_paths_can_be_numbered_anew() {
    let (mut bench, _) = Bench::running(vec![machine(1)], vec![making(7, &[])]);
    bench.later(10, made(0, 7));
    bench.on(Event::ForgetPath { path: PathId(7) });
    bench.on(Event::Forget { job: JobId(0) });
    bench.on(Event::ForgetPath { path: PathId(7) });
    let again = bench.scheduler.on_all(Moment(bench.now), submit(0, vec![making(7, &[])]));
    assert_eq!(again, [start(0, 0, 0, None)]);
}

fn for_others(output: u32, dependencies: &[u32]) -> Job {
    Job { demand: Demand::ForOthers, ..making(output, dependencies) }
}

fn found(job: u32, machine: u32) -> Event {
    let outputs = vec![(PathId(job), ByteCount(1))];
    Event::Found { job: JobId(job), machine: MachineId(machine), outputs }
}

/// What is found isn't built, nor what only it needed; what something else needs, or the caller, is.
#[test]
fn what_is_found_is_not_built() {
    let mut bench = Bench::new(Settings::default(), vec![machine(4)]);
    let jobs = vec![
        for_others(0, &[]),
        for_others(1, &[0]),
        making(2, &[1]),
        for_others(3, &[]),
        making(4, &[3]),
        making(5, &[]),
        making(6, &[3, 5]),
    ];
    bench.scheduler.on_all(Moment::START, submit(0, jobs));
    let events = [connected(0), found(2, 0), found(6, 0)];
    let commands = bench.scheduler.on_all(Moment::START, events);
    let expected = [
        done(2, Verdict::Built),
        done(6, Verdict::Built),
        done(1, Verdict::Unneeded),
        done(0, Verdict::Unneeded),
        start(3, 0, 0, None),
        start(5, 0, 1, None),
        start(4, 0, 0, Some(3)),
    ];
    assert_eq!(commands, expected);
    // what runs is not taken back
    assert_eq!(bench.on(found(5, 0)), []);
    let counts = bench.scheduler.snapshot().jobs;
    assert_eq!((counts.built, counts.unneeded, counts.started), (2, 2, 3));
}

/// What was let be is built after all when what was found is lost.
#[test]
fn what_was_found_and_is_lost_is_built() {
    let mut bench = Bench::new(Settings::default(), vec![machine(1), machine(1)]);
    let jobs = vec![for_others(0, &[]), for_others(1, &[0]), making(2, &[1]), making(3, &[2])];
    bench.scheduler.on_all(Moment::START, submit(0, jobs));
    let events = [connected(0), connected(1), found(2, 0)];
    let commands = bench.scheduler.on_all(Moment::START, events);
    let first = [done(2, Verdict::Built), done(1, Verdict::Unneeded), done(0, Verdict::Unneeded)];
    assert_eq!(commands, [first.as_slice(), &[start(3, 0, 0, None)]].concat());
    let commands = bench.on(failed(0, MachineFault::Lost));
    assert!(commands.contains(&start(0, 1, 0, None)), "{commands:?}");
    assert!(commands.contains(&start(3, 1, 0, Some(2))), "{commands:?}");
}

/// Where something was left on one machine, the others are asked before anything is built again.
#[test]
fn the_others_may_have_more() {
    let both = || vec![machine(1), machine(1)];
    let jobs = || vec![making(0, &[]), making(1, &[]), making(2, &[])];
    let mut bench = Bench::new(Settings::default(), both());
    bench.scheduler.on_all(Moment::START, submit(0, jobs()));
    let commands = bench.scheduler.on_all(Moment::START, [connected(0), found(0, 0)]);
    assert_eq!(commands[0], done(0, Verdict::Built));
    assert_eq!(wakes(&commands), [seconds(2)]);
    assert_eq!(commands.len(), 2, "{commands:?}");
    let commands = bench.scheduler.on_all(Moment::START, [connected(1), found(1, 1)]);
    assert_eq!(commands, [done(1, Verdict::Built), start(2, 0, 0, None)]);
    // but not for ever, and not where nothing was found
    let mut bench = Bench::new(Settings::default(), both());
    bench.scheduler.on_all(Moment::START, submit(0, jobs()));
    bench.scheduler.on_all(Moment::START, [connected(0), found(0, 0)]);
    assert_eq!(bench.later(2, Event::Tick), [start(1, 0, 0, None)]);
    let mut bench = Bench::new(Settings::default(), both());
    bench.scheduler.on_all(Moment::START, submit(0, jobs()));
    assert_eq!(bench.on(connected(0))[0], start(0, 0, 0, None));
}

fn for_owner(owner: u32, job: Job) -> Job {
    Job { owner: OwnerId(owner), ..job }
}

/// Two owners with work for all slots have half of them each, whoever came first and whatever takes
/// longer; who is alone has all.
#[test]
fn slots_are_shared_out_among_owners() {
    let first = (0..20).map(|_| for_owner(1, lasting(&[], 1000))).collect();
    let settings = Settings { chain_depth: 1, ..Settings::default() };
    let (mut bench, started) = Bench::running_with(settings, vec![machine(4)], first);
    let mut lanes: Vec<Vec<u32>> = vec![Vec::new(); 4];
    let note = |lanes: &mut Vec<Vec<u32>>, commands: &[Command]| {
        for command in commands {
            if let Command::Start { job, lane, .. } = command {
                lanes[lane.index as usize].push(job.0);
            }
        }
    };
    note(&mut lanes, &started);
    assert!(lanes.iter().all(|lane| !lane.is_empty()));
    let later = (0..20).map(|_| for_owner(2, lasting(&[], 10))).collect();
    let commands = bench.scheduler.on_all(Moment(bench.now), submit(20, later));
    note(&mut lanes, &commands);
    // what stood in lanes is done first; from then on each has two
    let mut running = Vec::new();
    for at in 0..20 {
        let job = lanes[at % 4].remove(0);
        let commands = bench.later(1, finished(job));
        note(&mut lanes, &commands);
        let of_second = lanes.iter().filter(|lane| lane.first().is_some_and(|job| 20 <= *job));
        running.push(of_second.count());
    }
    assert_eq!(running[10..], [2; 10]);
}

/// A chain of one owner doesn't hold a slot that another one waits for with none.
#[test]
fn a_chain_gives_way_to_another_owner() {
    let chain = (0..8).map(|at| match at {
        0 => for_owner(1, lasting(&[], 1000)),
        at => for_owner(1, lasting(&[at - 1], 1000)),
    });
    let beside = (0..8).map(|_| for_owner(1, lasting(&[], 1000)));
    let (mut bench, _) = Bench::running(vec![machine(2)], chain.chain(beside).collect());
    let other = vec![for_owner(2, lasting(&[], 1))];
    bench.scheduler.on_all(Moment(bench.now), submit(16, other));
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 6, "the other owner's job has not been started");
        let running: Vec<u32> = (0..17)
            .filter(|job| {
                let status = bench.scheduler.explain(JobId(*job)).unwrap().status;
                matches!(status, JobStatus::Running { .. })
            })
            .collect();
        if running.contains(&16) {
            break;
        }
        for job in running {
            bench.later(1, finished(job));
        }
    }
}

/// Who waits for machines that the other can't use doesn't keep that one's jobs from being sent ahead.
#[test]
fn owners_of_different_machines_are_not_in_each_others_way() {
    let arm = |job: Job| Job { system: "aarch64-linux".to_owned(), ..job };
    let other = Machine { systems: set(&["aarch64-linux"]), ..machine(1) };
    let mut jobs: Vec<Job> = (0..8).map(|_| for_owner(1, lasting(&[], 10))).collect();
    jobs.extend((0..3).map(|_| for_owner(2, arm(lasting(&[], 10)))));
    let (_, commands) = Bench::running(vec![machine(2), other], jobs);
    let ahead = commands.iter().filter(|command| {
        matches!(command, Command::Start { lane, after: Some(_), .. } if lane.machine.0 == 0)
    });
    assert_eq!(ahead.count(), 2);
}

/// What is told in the end is all that there is to go by.
#[test]
fn reasons_say_what_happened_before() {
    let trouble = Some((MachineFault::Lost, "no space left".to_owned()));
    let told = Reason::OnProbation { trouble }.when_over();
    assert!(told.contains("connection lost: no space left"), "{told}");
    let (fault, cause) = (MachineFault::Unreachable, "no route".to_owned());
    let down = Reason::Down { fault, cause, since: Moment::START, again: Moment(seconds(1)) };
    let told = down.when_over();
    assert!(told.contains("no route") && !told.contains("again"), "{told}");
}
