//! Runs the scheduler on a model: machines that are up, and builds that all take the same time.
//!
//! Invariant: it ends. Whatever the scheduler asks for, so many events are taken for each job and no
//! more; a job that is not over then counts as one that waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use drover_schedule::{
    Chance, Command, Event, Job, JobId, Lane, MachineFault, MachineId, Moment, PathId, Preference,
    Scheduler, Settings, Terms, Verdict,
};

use crate::answer::Unusable;
use crate::model::{Availability, Candidate, Expected, Forecast};

/// Events for each job and machine.
const STEPS: usize = 64;

/// Says what is expected of jobs, which are numbered in their order: their dependencies are such
/// numbers, too.
pub fn forecast(settings: &Settings, candidates: &[Candidate], jobs: &[Job]) -> Forecast {
    let mut simulation = Simulation::new(settings.clone(), candidates, jobs);
    simulation.run(jobs);
    Forecast { jobs: simulation.expected, usual: settings.unknown_duration }
}

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A build is over, unless it was stopped.
    Ends { job: JobId, run: u64 },
    /// The scheduler asked to be woken.
    Wakes,
}

struct Simulation<'a> {
    scheduler: Scheduler,
    settings: Settings,
    candidates: &'a [Candidate],
    now: Moment,
    happenings: BinaryHeap<Reverse<(Moment, Happening)>>,
    lanes: BTreeMap<Lane, VecDeque<JobId>>,
    lane_of: BTreeMap<JobId, Lane>,
    /// The builds that run, by which run that is.
    running: BTreeMap<JobId, u64>,
    runs: u64,
    outputs: Vec<Vec<PathId>>,
    expected: Vec<Expected>,
    steps_left: usize,
}

impl<'a> Simulation<'a> {
    fn new(settings: Settings, candidates: &'a [Candidate], jobs: &[Job]) -> Simulation<'a> {
        Simulation {
            scheduler: Scheduler::new(settings.clone()),
            settings,
            candidates,
            now: Moment::START,
            happenings: BinaryHeap::new(),
            lanes: BTreeMap::new(),
            lane_of: BTreeMap::new(),
            running: BTreeMap::new(),
            runs: 0,
            outputs: jobs.iter().map(|job| job.outputs.clone()).collect(),
            expected: vec![Expected::Waits; jobs.len()],
            steps_left: STEPS * (jobs.len() + candidates.len() + 1),
        }
    }

    fn run(&mut self, jobs: &[Job]) {
        let machines = self.machines();
        self.tell(machines);
        let others = self.jobs_of_others(jobs.len());
        self.tell(others);
        let numbered = (0..).map(JobId).zip(jobs);
        let submitted = numbered
            .map(|(job, description)| Event::Submitted { job, description: description.clone() });
        self.tell(submitted.collect());
        while let Some(Reverse((at, happening))) = self.happenings.pop() {
            self.now = at;
            match happening {
                Happening::Wakes => self.tell(vec![Event::Tick]),
                Happening::Ends { job, run } if self.running.get(&job) == Some(&run) => {
                    self.end(job);
                }
                Happening::Ends { .. } => {}
            }
        }
    }

    /// Returns what the scheduler is told of the machines. Slots that others use are taken by jobs
    /// that nothing else could take.
    fn machines(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (machine, candidate) in (0..).map(MachineId).zip(self.candidates) {
            let mut description = candidate.description.clone();
            if let Availability::Usable { busy: 1.. } = candidate.availability {
                let speed_factor = description.speed();
                description.other_terms.push(Terms {
                    systems: BTreeSet::from([taken(machine)]),
                    slots: description.all_slots(),
                    speed_factor,
                    supported_features: BTreeSet::new(),
                    mandatory_features: BTreeSet::new(),
                });
            }
            let round_trip = description.round_trip;
            events.push(Event::MachineAdded { machine, description });
            events.push(match &candidate.availability {
                Availability::Usable { .. } => Event::Connected { machine, round_trip },
                Availability::Unusable(Unusable::Draining) => Event::Drain { machine },
                Availability::Unusable(why) => Event::MachineFailed {
                    machine,
                    cause: why.to_string(),
                    fault: MachineFault::Refused,
                    chance: Chance(0),
                },
            });
        }
        events
    }

    /// Returns the jobs that others have running, numbered from `first` on.
    fn jobs_of_others(&self, first: usize) -> Vec<Event> {
        let mut number = u32::try_from(first).unwrap_or(u32::MAX);
        let mut events = Vec::new();
        for (machine, candidate) in (0..).map(MachineId).zip(self.candidates) {
            let Availability::Usable { busy } = candidate.availability else { continue };
            for _ in 0..busy.min(candidate.description.all_slots()) {
                let description = Job {
                    system: taken(machine),
                    preference: Preference::Anywhere,
                    ..Job::default()
                };
                events.push(Event::Submitted { job: JobId(number), description });
                number = number.saturating_add(1);
            }
        }
        events
    }

    /// Tells the scheduler, and does what it says until that calls for nothing more at this moment.
    fn tell(&mut self, events: Vec<Event>) {
        let mut events = events;
        while !events.is_empty() {
            let Some(left) = self.steps_left.checked_sub(1) else { return };
            self.steps_left = left;
            let commands = self.scheduler.on_all(self.now, std::mem::take(&mut events));
            for command in commands {
                events.extend(self.carry_out(command));
            }
        }
    }

    fn carry_out(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Connect { machine } => {
                let candidate = self.candidates.get(machine.0 as usize)?;
                let round_trip = candidate.description.round_trip;
                return Some(Event::Connected { machine, round_trip });
            }
            Command::Start { job, lane, .. } => {
                let queue = self.lanes.entry(lane).or_default();
                queue.push_back(job);
                let is_first = queue.len() == 1;
                self.lane_of.insert(job, lane);
                if is_first {
                    self.begin(job, lane);
                }
            }
            Command::Stop { job } => {
                self.leave(job);
                return Some(Event::Stopped { job });
            }
            Command::Done { job, verdict } => self.note(job, &verdict),
            Command::Wake { at } => {
                self.happenings.push(Reverse((at.max(self.now), Happening::Wakes)));
            }
        }
        None
    }

    fn begin(&mut self, job: JobId, lane: Lane) {
        self.runs += 1;
        let run = self.runs;
        self.running.insert(job, run);
        let takes = self.duration(lane.machine);
        let ends = Moment(self.now.0.saturating_add(takes));
        self.happenings.push(Reverse((ends, Happening::Ends { job, run })));
        if let Some(expected) = self.expected.get_mut(job.0 as usize) {
            let machine = lane.machine.0 as usize;
            *expected = Expected::Runs { machine, begins: self.now.0, ends: ends.0 };
        }
    }

    /// Returns how long a build takes on a machine.
    fn duration(&self, machine: MachineId) -> Duration {
        let speed = self.candidates.get(machine.0 as usize);
        let speed = speed.map_or(1.0, |candidate| candidate.description.speed());
        let usual = self.settings.unknown_duration;
        Duration::try_from_secs_f64(usual.as_secs_f64() / speed).unwrap_or(usual)
    }

    fn end(&mut self, job: JobId) {
        self.leave(job);
        let took = Some(self.settings.unknown_duration);
        let outputs = self.outputs.get(job.0 as usize).into_iter().flatten();
        let outputs = outputs.map(|path| (*path, self.settings.unknown_size)).collect();
        self.tell(vec![Event::Finished { job, took, outputs }]);
    }

    /// Takes a job off its lane, where the next one begins.
    fn leave(&mut self, job: JobId) {
        self.running.remove(&job);
        let Some(lane) = self.lane_of.remove(&job) else { return };
        let Some(queue) = self.lanes.get_mut(&lane) else { return };
        queue.retain(|other| *other != job);
        let next = queue.front().copied().filter(|next| !self.running.contains_key(next));
        if let Some(next) = next {
            self.begin(next, lane);
        }
    }

    fn note(&mut self, job: JobId, verdict: &Verdict) {
        let Some(expected) = self.expected.get_mut(job.0 as usize) else { return };
        *expected = match verdict {
            Verdict::Built => return,
            Verdict::Impossible { .. } => Expected::Impossible,
            Verdict::DependencyFailed { because } => {
                Expected::Blocked { because: because.0 as usize }
            }
            Verdict::NoMachineLeft { .. } | Verdict::Failed => Expected::NoMachine,
            Verdict::Cancelled | Verdict::Unneeded => Expected::Waits,
        };
    }
}

/// Returns the system of the jobs that others have running on a machine.
fn taken(machine: MachineId) -> String {
    format!("what others have running on {machine}")
}
