//! A deterministic simulator: machines, links and faults in virtual time around the real scheduler.
//!
//! Invariant: the same [`World`] always gives the same [`Report`]. Every command is checked against
//! what a caller may rely on, so a run that returns at all has kept the scheduler's promises.

#![allow(dead_code, unreachable_pub)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io::Write;
use std::time::Duration;

use drover_schedule::*;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct World {
    pub settings: Settings,
    pub machines: Vec<Machine>,
    pub jobs: Vec<(Job, Truth)>,
    /// Sizes of all outputs.
    pub output_size: ByteCount,
    pub faults: Vec<(Duration, Fault)>,
    /// Jobs that were built before the run, with the remote machines where that was.
    pub left: Vec<(usize, u32)>,
    /// One of so many attempts fails for reasons of infrastructure; 0 is never.
    pub flaky: u64,
    pub seed: u64,
}

/// What the scheduler is not told about a job.
#[derive(Clone, Copy, Debug)]
pub struct Truth {
    pub takes: Duration,
    pub fails: bool,
}

/// What goes wrong, or is asked for.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The machine is gone, for good or for a while; its store survives or not.
    Crash {
        machine: usize,
        back_after: Option<Duration>,
        store: Store,
    },
    /// It refuses us from now on.
    Refuse {
        machine: usize,
    },
    Drain {
        machine: usize,
    },
    Resume {
        machine: usize,
    },
    Cancel {
        job: usize,
    },
    /// Who waits for it lets it run there.
    Scope {
        job: usize,
        scope: Scope,
    },
    CancelAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Survives,
    IsLost,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    pub makespan: Duration,
    pub verdicts: BTreeMap<JobId, Vec<Verdict>>,
    pub starts: Vec<(Duration, JobId, Lane, Option<JobId>)>,
    pub connects: Vec<MachineId>,
    pub events: usize,
    /// All events and commands, for people.
    pub log: Vec<String>,
}

impl Report {
    pub fn count(&self, is: impl Fn(&Verdict) -> bool) -> usize {
        self.verdicts.values().filter(|verdicts| is(verdicts.last().unwrap())).count()
    }
}

#[derive(Clone, Debug)]
enum Happening {
    /// A message of a machine's session reaches the scheduler.
    Deliver {
        machine: usize,
        session: u32,
        attempt: Option<u32>,
        event: Event,
    },
    /// Something else reaches the scheduler.
    Tell(Event),
    /// A command reaches a machine.
    Order {
        machine: usize,
        session: u32,
        order: Order,
    },
    /// A build is over.
    Complete {
        machine: usize,
        session: u32,
        lane: usize,
        attempt: u32,
    },
    /// The inputs of the head of a lane are there.
    Begin {
        machine: usize,
        session: u32,
        lane: usize,
    },
    Answer {
        machine: usize,
    },
    Fault(Fault),
    Back {
        machine: usize,
    },
}

#[derive(Clone, Debug)]
enum Order {
    Start { job: JobId, lane: usize, attempt: u32 },
    Stop { job: JobId },
}

#[derive(Debug)]
struct Builder {
    up: bool,
    refuses: bool,
    session: u32,
    /// Per lane: job, attempt, when its inputs are there.
    lanes: Vec<VecDeque<(JobId, u32, Duration)>>,
    running: Vec<Option<u32>>,
    link_free: Duration,
    store: BTreeSet<PathId>,
}

pub struct Simulator {
    world: World,
    scheduler: Scheduler,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    builders: Vec<Builder>,
    here: BTreeSet<PathId>,
    // What the scheduler knows, kept independently.
    connected: Vec<bool>,
    lanes: BTreeMap<Lane, VecDeque<JobId>>,
    attempts: BTreeMap<JobId, u32>,
    built: BTreeSet<JobId>,
    /// Whether everything was cancelled, so that nothing may start any more.
    cancelled: bool,
    report: Report,
}

pub fn run(world: World) -> Report {
    let mut simulator = Simulator::new(world);
    simulator.run();
    std::mem::take(&mut simulator.report)
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.report.log.join("\n");
            let written = writeln!(std::io::stderr(), "the run that failed:\n{log}");
            written.expect("stderr can be written to");
        }
    }
}

impl Simulator {
    fn new(world: World) -> Simulator {
        let builders = world
            .machines
            .iter()
            .map(|machine| Builder {
                up: true,
                refuses: false,
                session: 0,
                lanes: vec![VecDeque::new(); machine.all_slots() as usize],
                running: vec![None; machine.all_slots() as usize],
                link_free: Duration::ZERO,
                store: BTreeSet::new(),
            })
            .collect();
        let mut builders: Vec<Builder> = builders;
        for (machine, job) in &world.left {
            let outputs = &world.jobs[*job as usize].0.outputs;
            builders[*machine].store.extend(outputs);
        }
        Simulator {
            scheduler: Scheduler::new(world.settings.clone()),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            builders,
            here: BTreeSet::new(),
            connected: vec![false; world.machines.len()],
            lanes: BTreeMap::new(),
            attempts: BTreeMap::new(),
            built: BTreeSet::new(),
            cancelled: false,
            report: Report::default(),
            world,
        }
    }

    fn run(&mut self) {
        for (at, fault) in self.world.faults.clone() {
            self.later(at, Happening::Fault(fault));
        }
        let machines =
            self.world.machines.clone().into_iter().zip(0..).map(|(description, machine)| {
                Event::MachineAdded { machine: MachineId(machine), description }
            });
        let jobs = self.world.jobs.clone().into_iter().zip(0..);
        let jobs =
            jobs.map(|((description, _), job)| Event::Submitted { job: JobId(job), description });
        let events: Vec<Event> = machines.chain(jobs).collect();
        let inputs = self.world.jobs.iter().flat_map(|(job, _)| job.inputs.iter().copied());
        self.here.extend(inputs);
        let commands = self.scheduler.on_all(Moment::START, events);
        self.obey(commands);
        while let Some(Reverse((at, id))) = self.queue.pop() {
            assert!(self.report.events < 2_000_000, "no end in sight");
            self.report.events += 1;
            self.now = at;
            let happening = self.happenings.remove(&id).unwrap();
            self.happen(happening);
            if self.report.events.is_multiple_of(16) {
                self.check_explanations();
            }
        }
        self.check_end();
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn tell(&mut self, event: Event) {
        self.report.log.push(format!("{:?} {event:?}", self.now));
        let commands = self.scheduler.on(Moment(self.now), event);
        self.obey(commands);
    }

    fn half_trip(&self, machine: usize) -> Duration {
        self.world.machines[machine].round_trip / 2
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tell(event) => self.tell(event),
            Happening::Deliver { machine, session, attempt, event } => {
                if session == self.builders[machine].session {
                    self.deliver(attempt, event);
                }
            }
            Happening::Order { machine, session, order } => {
                if session == self.builders[machine].session && self.builders[machine].up {
                    self.order(machine, order);
                }
            }
            Happening::Begin { machine, session, lane } => {
                if session == self.builders[machine].session {
                    self.begin(machine, lane);
                }
            }
            Happening::Complete { machine, session, lane, attempt } => {
                let builder = &self.builders[machine];
                if session == builder.session && builder.running[lane] == Some(attempt) {
                    self.complete(machine, lane);
                }
            }
            Happening::Answer { machine } => self.answer(machine),
            Happening::Back { machine } => self.builders[machine].up = true,
            Happening::Fault(fault) => self.fault(fault),
        }
    }

    /// A message about an attempt that the scheduler may still hear of.
    fn deliver(&mut self, attempt: Option<u32>, event: Event) {
        if let Event::Finished { job, .. } | Event::Failed { job, .. } | Event::Stopped { job } =
            event
        {
            assert_eq!(attempt, self.attempts.get(&job).copied(), "{job}: one attempt at a time");
            let lane = self.lanes.values_mut().find(|lane| lane.contains(&job));
            lane.expect("a started job stands in a lane").retain(|other| *other != job);
            if matches!(event, Event::Finished { .. }) {
                self.built.insert(job);
            }
        }
        self.tell(event);
    }

    fn answer(&mut self, machine: usize) {
        let id = MachineId(u32::try_from(machine).unwrap());
        let chance = self.chance(machine);
        let builder = &mut self.builders[machine];
        builder.session += 1;
        let event = if builder.refuses {
            let cause = "permission denied".to_owned();
            Event::MachineFailed { machine: id, cause, fault: MachineFault::Refused, chance }
        } else if builder.up {
            self.connected[machine] = true;
            return self.connected_and_found(machine, id);
        } else {
            let cause = "connection refused".to_owned();
            Event::MachineFailed { machine: id, cause, fault: MachineFault::Unreachable, chance }
        };
        self.tell(event);
    }

    /// Says that a machine is there, and which jobs need not be built because of that.
    fn connected_and_found(&mut self, machine: usize, id: MachineId) {
        let round_trip = self.world.machines[machine].round_trip;
        let mut events = vec![Event::Connected { machine: id, round_trip }];
        for (number, (description, _)) in (0..).zip(&self.world.jobs) {
            let job = JobId(number);
            let is_there = |path| self.builders[machine].store.contains(path);
            let status = self.scheduler.explain(job).unwrap().status;
            let is_open = matches!(
                status,
                JobStatus::Waiting { .. } | JobStatus::Ready | JobStatus::Done(Outcome::Unneeded)
            );
            if description.outputs.iter().all(is_there) && is_open {
                let size = self.world.output_size;
                let outputs = description.outputs.iter().map(|path| (*path, size)).collect();
                events.push(Event::Found { job, machine: id, outputs });
                self.built.insert(job);
            }
        }
        self.report.log.push(format!("{:?} {events:?}", self.now));
        let commands = self.scheduler.on_all(Moment(self.now), events);
        self.obey(commands);
    }

    fn fault(&mut self, fault: Fault) {
        let id = |machine: usize| MachineId(u32::try_from(machine).unwrap());
        match fault {
            Fault::Drain { machine } => self.tell(Event::Drain { machine: id(machine) }),
            Fault::Resume { machine } => self.tell(Event::Resume { machine: id(machine) }),
            Fault::Cancel { job } => {
                self.tell(Event::Cancel { job: JobId(u32::try_from(job).unwrap()) })
            }
            Fault::Scope { job, scope } => {
                self.world.jobs[job].0.scope = scope;
                self.tell(Event::Scoped { job: JobId(u32::try_from(job).unwrap()), scope });
            }
            Fault::CancelAll => {
                self.cancelled = true;
                self.tell(Event::CancelAll);
            }
            Fault::Refuse { machine } => {
                self.builders[machine].refuses = true;
                self.crash(machine, Some(Duration::ZERO), Store::Survives);
            }
            Fault::Crash { machine, back_after, store } => self.crash(machine, back_after, store),
        }
    }

    fn crash(&mut self, machine: usize, back_after: Option<Duration>, store: Store) {
        let id = MachineId(u32::try_from(machine).unwrap());
        let builder = &mut self.builders[machine];
        builder.up = false;
        builder.session += 1;
        builder.lanes.iter_mut().for_each(VecDeque::clear);
        builder.running.iter_mut().for_each(|running| *running = None);
        builder.link_free = self.now;
        let gone = match store {
            Store::IsLost => std::mem::take(&mut builder.store),
            Store::Survives => BTreeSet::new(),
        };
        if let Some(after) = back_after {
            self.later(after, Happening::Back { machine });
        }
        if std::mem::take(&mut self.connected[machine]) {
            for lane in self.lanes.iter_mut().filter(|(lane, _)| lane.machine == id) {
                lane.1.clear();
            }
            let cause = "connection lost".to_owned();
            let (fault, chance) = (MachineFault::Lost, self.chance(machine));
            self.tell(Event::MachineFailed { machine: id, cause, fault, chance });
        }
        for path in gone {
            self.tell(Event::PathGone { path, place: Place::On(id) });
        }
    }

    fn order(&mut self, machine: usize, order: Order) {
        match order {
            Order::Start { job, lane, attempt } => {
                let description = &self.world.machines[machine];
                let absent: Vec<PathId> = needs(&self.world, job)
                    .into_iter()
                    .filter(|path| {
                        !self.builders[machine].store.contains(path) && self.is_anywhere(*path)
                    })
                    .collect();
                let builder = &mut self.builders[machine];
                let mut there = self.now;
                if description.kind == MachineKind::Local {
                    self.here.extend(absent);
                } else if !absent.is_empty() {
                    let bytes = ByteCount(absent.len() as u64 * self.world.output_size.0);
                    builder.link_free = builder.link_free.max(self.now)
                        + description.round_trip
                        + description.bandwidth.time_for(bytes);
                    there = builder.link_free;
                    builder.store.extend(absent);
                }
                builder.lanes[lane].push_back((job, attempt, there));
                self.begin(machine, lane);
            }
            Order::Stop { job } => {
                for lane in 0..self.builders[machine].lanes.len() {
                    let builder = &mut self.builders[machine];
                    let at = builder.lanes[lane].iter().position(|(other, _, _)| *other == job);
                    if let Some(at) = at {
                        let (_, attempt, _) = builder.lanes[lane].remove(at).unwrap();
                        if builder.running[lane] == Some(attempt) {
                            builder.running[lane] = None;
                        }
                        self.send(machine, attempt, Event::Stopped { job });
                        self.begin(machine, lane);
                    }
                }
            }
        }
    }

    fn is_anywhere(&self, path: PathId) -> bool {
        self.here.contains(&path)
            || self.builders.iter().any(|builder| builder.up && builder.store.contains(&path))
    }

    fn send(&mut self, machine: usize, attempt: u32, event: Event) {
        let session = self.builders[machine].session;
        let attempt = Some(attempt);
        self.later(
            self.half_trip(machine),
            Happening::Deliver { machine, session, attempt, event },
        );
    }

    /// Starts the head of a lane if it is not running and its inputs are there.
    fn begin(&mut self, machine: usize, lane: usize) {
        let session = self.builders[machine].session;
        if self.builders[machine].running[lane].is_some() {
            return;
        }
        let Some((job, attempt, there)) = self.builders[machine].lanes[lane].front().copied()
        else {
            return;
        };
        if self.now < there {
            self.later(there - self.now, Happening::Begin { machine, session, lane });
            return;
        }
        // An input that is neither there nor anywhere: a dependency failed just ahead.
        if !needs(&self.world, job).iter().all(|path| self.is_anywhere(*path)) {
            self.builders[machine].lanes[lane].pop_front();
            let dependencies = &self.world.jobs[job.0 as usize].0.dependencies;
            let is_ahead = dependencies.iter().any(|other| !self.built.contains(other));
            let failure = match self.random(u64::from(attempt)) % 2 {
                0 if is_ahead => JobFailure::Build,
                _ => JobFailure::Infrastructure { cause: "an input is not valid".to_owned() },
            };
            self.send(machine, attempt, Event::Failed { job, failure });
            self.begin(machine, lane);
            return;
        }
        self.builders[machine].running[lane] = Some(attempt);
        let takes = self.takes(machine, job);
        self.later(takes, Happening::Complete { machine, session, lane, attempt });
    }

    fn takes(&self, machine: usize, job: JobId) -> Duration {
        let takes = self.world.jobs[job.0 as usize].1.takes;
        takes.div_f64(self.world.machines[machine].speed())
    }

    fn complete(&mut self, machine: usize, lane: usize) {
        self.builders[machine].running[lane] = None;
        let (job, attempt, _) = self.builders[machine].lanes[lane].pop_front().unwrap();
        let (description, truth) = self.world.jobs[job.0 as usize].clone();
        let luck = self.random(u64::from(attempt) * 7919 + u64::from(job.0));
        let is_flaky = self.world.flaky != 0 && luck.is_multiple_of(self.world.flaky);
        let event = if is_flaky {
            let cause = "the builder ran out of luck".to_owned();
            Event::Failed { job, failure: JobFailure::Infrastructure { cause } }
        } else if truth.fails {
            Event::Failed { job, failure: JobFailure::Build }
        } else {
            let size = self.world.output_size;
            let outputs: Vec<_> = description.outputs.iter().map(|path| (*path, size)).collect();
            match self.world.machines[machine].kind {
                MachineKind::Local => self.here.extend(&description.outputs),
                MachineKind::Remote => self.builders[machine].store.extend(&description.outputs),
            }
            Event::Finished { job, took: Some(self.takes(machine, job)), outputs }
        };
        self.send(machine, attempt, event);
        self.begin(machine, lane);
    }

    /// By the seed, so that each run is the same again.
    fn chance(&self, machine: usize) -> Chance {
        let salt = self.now.as_secs() ^ u64::from(self.now.subsec_nanos()) ^ machine as u64;
        let [low, high, ..] = self.random(salt).to_le_bytes();
        Chance(u16::from_le_bytes([low, high]))
    }

    fn random(&self, salt: u64) -> u64 {
        let mut x =
            self.world.seed ^ salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
        for _ in 0..3 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        x >> 11
    }

    fn obey(&mut self, commands: Vec<Command>) {
        let lines = commands.iter().map(|command| format!("{:?}   -> {command:?}", self.now));
        self.report.log.extend(lines);
        for command in commands {
            match command {
                Command::Connect { machine } => {
                    self.report.connects.push(machine);
                    let index = machine.0 as usize;
                    assert!(!self.connected[index], "{machine} is connected already");
                    // Key exchange and handshake.
                    let after = self.world.machines[index].round_trip * 3;
                    self.later(after, Happening::Answer { machine: index });
                }
                Command::Start { job, lane, after } => self.obey_start(job, lane, after),
                Command::Stop { job } => {
                    let lane = self.lanes.iter().find(|(_, queue)| queue.contains(&job));
                    let (lane, _) = lane.expect("only started jobs are stopped");
                    let machine = lane.machine.0 as usize;
                    let session = self.builders[machine].session;
                    let order = Order::Stop { job };
                    let after = self.half_trip(machine);
                    self.later(after, Happening::Order { machine, session, order });
                }
                Command::Done { job, verdict } => {
                    let stops_all = self.world.settings.on_failure == OnFailure::StopAll;
                    self.cancelled |= stops_all && verdict == Verdict::Failed;
                    let verdicts = self.report.verdicts.entry(job).or_default();
                    let may = match verdicts.last() {
                        None => true,
                        Some(last) => {
                            let is_good =
                                |verdict: &_| matches!(verdict, Verdict::Built | Verdict::Unneeded);
                            is_good(last) && !is_good(&verdict)
                        }
                    };
                    assert!(may, "{job}: {verdict:?} after {verdicts:?}");
                    verdicts.push(verdict);
                    self.report.makespan = self.now;
                }
                Command::Wake { at } => {
                    assert!(self.now < at.0, "a wake-up in the future");
                    self.later(at.0 - self.now, Happening::Tell(Event::Tick));
                }
            }
        }
    }

    fn obey_start(&mut self, job: JobId, lane: Lane, after: Option<JobId>) {
        let index = lane.machine.0 as usize;
        let machine = &self.world.machines[index];
        let description = &self.world.jobs[job.0 as usize].0;
        assert!(!self.cancelled, "{job} on {lane}: everything was cancelled");
        assert!(self.connected[index], "{job} on {lane}: not connected");
        let refusal = machine.refusal(&description.system, &description.required_features);
        assert_eq!(refusal, None, "{job} on {lane}");
        assert!(description.scope.includes(machine.kind), "{job} on {lane}");
        let slots = machine.slots_for(&description.system, &description.required_features);
        assert!(lane.index < slots, "{lane} is there, and its job may use it");
        let started = self.lanes.values().any(|queue| queue.contains(&job));
        assert!(!started, "{job} is started already");
        let queue = self.lanes.entry(lane).or_default();
        assert_eq!(after, queue.back().copied(), "{job} on {lane}");
        for dependency in &description.dependencies {
            let is_there = self.built.contains(dependency) || queue.contains(dependency);
            assert!(is_there, "{job} on {lane} needs {dependency}");
        }
        queue.push_back(job);
        assert!(queue.len() <= self.world.settings.chain_depth as usize, "{lane} is too full");
        if let Policy::Stock { .. } = self.world.settings.policy {
            assert_eq!(queue.len(), 1);
        }
        let attempt = self.attempts.entry(job).or_default();
        *attempt += 1;
        let order = Order::Start { job, lane: lane.index as usize, attempt: *attempt };
        self.report.starts.push((self.now, job, lane, after));
        let session = self.builders[index].session;
        self.later(self.half_trip(index), Happening::Order { machine: index, session, order });
    }

    /// Explaining never fails, and what is told agrees with what was commanded.
    fn check_explanations(&self) {
        for job in (0..self.world.jobs.len()).map(|job| JobId(u32::try_from(job).unwrap())) {
            let explanation = self.scheduler.explain(job).unwrap();
            let placed = self.lanes.iter().find(|(_, queue)| queue.contains(&job));
            let told = match &explanation.status {
                JobStatus::Running { lane }
                | JobStatus::Queued { lane, .. }
                | JobStatus::Stopping { lane, .. } => Some(lane),
                JobStatus::Waiting { .. } | JobStatus::Ready | JobStatus::Done(_) => None,
            };
            assert_eq!(told, placed.map(|(lane, _)| lane), "{explanation:?}");
            for machine in &explanation.machines {
                assert_ne!(machine.choice.to_string(), "");
            }
        }
    }

    fn check_end(&self) {
        for job in (0..self.world.jobs.len()).map(|job| JobId(u32::try_from(job).unwrap())) {
            let has_verdict = self.report.verdicts.contains_key(&job);
            assert!(has_verdict, "{job} is stuck: {:#?}", self.scheduler.explain(job));
        }
        let counts = self.scheduler.snapshot().jobs;
        let open = counts.waiting + counts.ready + counts.started + counts.stopping;
        assert_eq!(open, 0, "{counts:?}");
        assert!(self.lanes.values().all(VecDeque::is_empty));
    }
}

/// All paths that a job needs.
fn needs(world: &World, job: JobId) -> Vec<PathId> {
    let description = &world.jobs[job.0 as usize].0;
    let outputs = |job: &JobId| world.jobs[job.0 as usize].0.outputs.clone();
    description.dependencies.iter().flat_map(outputs).chain(description.inputs.clone()).collect()
}

/// A machine of the most usual kind.
pub fn machine(name: &str, slots: u32) -> Machine {
    Machine {
        name: name.to_owned(),
        kind: MachineKind::Remote,
        systems: BTreeSet::from(["x86_64-linux".to_owned()]),
        slots,
        speed_factor: 1.0,
        supported_features: BTreeSet::new(),
        mandatory_features: BTreeSet::new(),
        round_trip: Duration::from_millis(1),
        bandwidth: Bandwidth(100_000_000),
        other_terms: Vec::new(),
    }
}

/// A job of the most usual kind, whose number is also that of its output.
pub fn job(number: u32, dependencies: &[u32], takes: Duration) -> (Job, Truth) {
    let description = Job {
        name: format!("job-{number}"),
        system: "x86_64-linux".to_owned(),
        dependencies: dependencies.iter().map(|job| JobId(*job)).collect(),
        outputs: vec![PathId(number)],
        expected: Some(takes),
        ..Job::default()
    };
    (description, Truth { takes, fails: false })
}

/// A world where nothing goes wrong.
pub fn world(machines: Vec<Machine>, jobs: Vec<(Job, Truth)>) -> World {
    World {
        settings: Settings::default(),
        machines,
        jobs,
        output_size: ByteCount(1000),
        faults: Vec::new(),
        left: Vec::new(),
        flaky: 0,
        seed: 1,
    }
}

/// The bound that no schedule can beat: the critical path, the work, and the tails of it.
pub fn bound(world: &World) -> f64 {
    let speed = world.machines.iter().map(Machine::speed).fold(0.0, f64::max);
    let capacity: f64 = world.machines.iter().map(|m| f64::from(m.all_slots()) * m.speed()).sum();
    let takes: Vec<f64> = world.jobs.iter().map(|job| job.1.takes.as_secs_f64()).collect();
    let mut rank: Vec<f64> = takes.iter().map(|takes| takes / speed).collect();
    for job in (0..world.jobs.len()).rev() {
        for dependency in &world.jobs[job].0.dependencies {
            let dependency = dependency.0 as usize;
            assert!(dependency < job);
            rank[dependency] = rank[dependency].max(takes[dependency] / speed + rank[job]);
        }
    }
    let mut best = rank.iter().copied().fold(0.0, f64::max);
    for job in 0..takes.len() {
        let after = rank[job] - takes[job] / speed;
        let work: f64 = (0..takes.len())
            .filter(|other| after <= rank[*other] - takes[*other] / speed + 1e-9)
            .map(|other| takes[other])
            .sum();
        best = best.max(work / capacity + after);
    }
    best
}
