//! The scheduler itself: its state, and the way of an event through it.
//!
//! Invariant: an event first changes what is known (who is where, what is built, who is up), then
//! [`Scheduler::settle`] lets jobs become ready, then `dispatch` fills lanes; commands are appended
//! in that order. No step looks at all jobs or at all machines, except for events that concern
//! them all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::command::{Command, Reasons, Verdict};
use crate::description::Job;
use crate::duration::Durations;
use crate::estimate::Wanted;
use crate::event::{Event, JobFailure};
use crate::explanation::{JobCounts, Outcome};
use crate::id::{JobId, Lane, MachineId, Moment, OwnerId, PathId};
use crate::job::{JobRecord, State};
use crate::machine::{Class, ClassKey, MachineRecord, Needs, Requirement};
use crate::path::PathRecord;
use crate::settings::Settings;
use crate::table::{ClassId, RequirementId, Table};

/// The scheduler; see the [crate](crate) for what it is.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) settings: Settings,
    pub(crate) now: Moment,
    pub(crate) jobs: Table<JobId, JobRecord>,
    pub(crate) counts: JobCounts,
    pub(crate) submitted: u64,
    pub(crate) machines: Table<MachineId, MachineRecord>,
    pub(crate) classes: Table<ClassId, Class>,
    pub(crate) class_ids: BTreeMap<ClassKey, ClassId>,
    pub(crate) requirements: Table<RequirementId, Requirement>,
    pub(crate) requirement_ids: BTreeMap<Needs, RequirementId>,
    /// Jobs in lanes, by owner.
    pub(crate) shares: BTreeMap<OwnerId, u32>,
    pub(crate) paths: Table<PathId, PathRecord>,
    pub(crate) durations: Durations,
    /// Local machines, which jobs may prefer.
    pub(crate) locals: Vec<MachineId>,
    /// Machines that are in several classes.
    pub(crate) many_faced: BTreeSet<MachineId>,
    /// Requirements with ready jobs.
    pub(crate) with_ready: BTreeSet<RequirementId>,
    /// Requirements whose ready jobs wait for something better, and until when.
    pub(crate) patience: BTreeMap<(RequirementId, Wanted), Moment>,
    /// Jobs that stand behind others which they do not need.
    pub(crate) prefetched: BTreeSet<JobId>,
    /// What the machines say to jobs of a requirement, while nothing changes.
    pub(crate) shared_reasons: BTreeMap<RequirementId, Reasons>,
    /// Machines that are left alone, by when that is over.
    pub(crate) backing_off: BTreeSet<(Moment, MachineId)>,
    /// The earliest `Wake` that was asked for and has not come.
    pub(crate) wake: Option<Moment>,
    /// Jobs whose last dependency was built, to be looked at.
    pub(crate) ripe: VecDeque<JobId>,
    /// Requirements which a machine was lost to.
    pub(crate) bereft: BTreeSet<RequirementId>,
    /// Jobs that were found built, whose dependencies may be needed no more.
    pub(crate) newly_found: Vec<JobId>,
    /// Until when nothing is started before the other machines have said what they have, once
    /// something was found on one.
    pub(crate) hold: Option<Moment>,
    /// Until when some machine may be waited for that was asked for a connection.
    pub(crate) asking_until: Moment,
    /// Lanes at the end of which another job might be queued.
    pub(crate) tails: BTreeSet<Lane>,
    pub(crate) commands: Vec<Command>,
}

impl Scheduler {
    /// Returns a scheduler that knows no machine and no job.
    #[must_use]
    pub fn new(settings: Settings) -> Scheduler {
        Scheduler {
            settings,
            now: Moment::START,
            jobs: Table::default(),
            counts: JobCounts::default(),
            submitted: 0,
            machines: Table::default(),
            classes: Table::default(),
            class_ids: BTreeMap::new(),
            requirements: Table::default(),
            requirement_ids: BTreeMap::new(),
            shares: BTreeMap::new(),
            paths: Table::default(),
            durations: Durations::default(),
            locals: Vec::new(),
            many_faced: BTreeSet::new(),
            with_ready: BTreeSet::new(),
            patience: BTreeMap::new(),
            prefetched: BTreeSet::new(),
            shared_reasons: BTreeMap::new(),
            backing_off: BTreeSet::new(),
            wake: None,
            ripe: VecDeque::new(),
            bereft: BTreeSet::new(),
            newly_found: Vec::new(),
            hold: None,
            asking_until: Moment::START,
            tails: BTreeSet::new(),
            commands: Vec::new(),
        }
    }

    /// Takes one event; see [`Scheduler::on_all`].
    pub fn on(&mut self, now: Moment, event: Event) -> Vec<Command> {
        self.on_all(now, [event])
    }

    /// Takes events that happened up to `now`, in order, and returns what is to be done, in order.
    ///
    /// A graph should come in one batch, so that nothing is started before all of it is known.
    /// Time does not go back: an earlier `now` than before counts as the latest one.
    pub fn on_all(&mut self, now: Moment, events: impl IntoIterator<Item = Event>) -> Vec<Command> {
        self.now = self.now.max(now);
        let mut batch: Vec<(JobId, Job)> = Vec::new();
        for event in events {
            match event {
                Event::Submitted { job, description } => batch.push((job, description)),
                Event::MachineAdded { machine, description } => {
                    self.add_machine(machine, description);
                }
                Event::PathAt { path, place, size } => self.path_at(path, place, size),
                other => {
                    self.submit(std::mem::take(&mut batch));
                    self.handle(other);
                }
            }
        }
        self.submit(batch);
        self.settle();
        self.let_unneeded_be();
        let revisit = match self.holding_until() {
            Some(until) => Some(until),
            None => self.dispatch(),
        };
        self.reconnect();
        self.ask_for_wake(revisit);
        std::mem::take(&mut self.commands)
    }

    /// Takes one event about what is known already.
    fn handle(&mut self, event: Event) {
        match event {
            Event::MachineAdded { .. } | Event::Submitted { .. } | Event::PathAt { .. } => {}
            Event::PathGone { path, place } => self.path_gone(path, place),
            Event::Connected { machine, round_trip } => self.connected(machine, round_trip),
            Event::MachineFailed { machine, cause, fault, chance } => {
                self.machine_failed(machine, cause, fault, chance);
            }
            Event::MachineChanged { machine, description } => {
                self.change_machine(machine, description);
            }
            Event::MachineRemoved { machine } => self.remove_machine(machine),
            Event::Disconnected { machine } => self.disconnected(machine),
            Event::Drain { machine } => self.drain(machine),
            Event::Resume { machine } => self.resume(machine),
            Event::Reach { machine } => self.bring_up(machine),
            Event::Finished { job, took, outputs } => self.finished(job, took, &outputs),
            Event::Found { job, machine, outputs } => self.found(job, machine, &outputs),
            Event::Failed { job, failure: JobFailure::Build } => self.build_failed(job),
            Event::Failed { job, failure: JobFailure::Infrastructure { cause } } => {
                self.attempt_failed(job, &cause);
            }
            Event::Failed { job, failure: JobFailure::Unfit { cause } } => {
                self.machine_unfit(job, &cause);
            }
            Event::NoRoom { job } => self.no_room(job),
            Event::Stopped { job } => self.stopped(job),
            Event::Rebuild { job } => self.rebuild(job),
            Event::Asked { job } => self.asked_for(job),
            Event::Scoped { job, scope } => self.change_scope(job, scope),
            Event::Cancel { job } => self.cancel(job),
            Event::CancelAll => self.cancel_all(),
            Event::Forget { job } => self.forget(job),
            Event::ForgetPath { path } => self.forget_path(path),
            Event::Tick => {}
        }
        // What one event made possible must be known before the next one is judged.
        self.settle();
    }

    /// Lets jobs become ready whose dependencies are built, and gives up those without a machine.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(job) = self.ripe.pop_front() {
                self.become_ready(job);
            }
            let Some(requirement) = self.bereft.pop_first() else {
                self.shared_reasons.clear();
                return;
            };
            if self.hopeful_machines(requirement) == 0 {
                let ready = self.requirements.at(requirement).ready.clone();
                for key in ready {
                    self.end_without_machine(key.job);
                }
            }
        }
    }

    /// Makes a job ready, unless one of its inputs was lost or no machine is left for it.
    fn become_ready(&mut self, job: JobId) {
        let Some(record) = self.jobs.get(job) else { return };
        if record.state != State::Waiting || record.missing != 0 {
            return;
        }
        let requirement = record.requirement;
        let dependencies = record.dependencies.clone();
        for dependency in &dependencies {
            if self.outputs_are_lost(*dependency) {
                self.unbuild(*dependency);
            }
        }
        let record = self.jobs.at(job);
        if record.state != State::Waiting || record.missing != 0 {
            return;
        }
        if self.hopeful_machines(requirement) == 0 {
            self.end_without_machine(job);
            return;
        }
        self.set_state(job, State::Ready);
    }

    /// Changes a job's state, and with it everything that is counted or indexed by state.
    pub(crate) fn set_state(&mut self, job: JobId, state: State) {
        let record = self.jobs.at_mut(job);
        let before = std::mem::replace(&mut record.state, state);
        let key = record.ready_key(job);
        let requirement = record.requirement;
        *count(&mut self.counts, before) -= 1;
        *count(&mut self.counts, state) += 1;
        let asked = self.requirements.at_mut(requirement);
        if before == State::Ready {
            asked.ready.remove(&key);
            if asked.ready.is_empty() {
                self.with_ready.remove(&requirement);
            }
        }
        if state == State::Ready {
            asked.ready.insert(key);
            self.with_ready.insert(requirement);
        }
        let owner = asked.needs.owner;
        match (is_in_lane(before), is_in_lane(state)) {
            (false, true) => *self.shares.entry(owner).or_default() += 1,
            (true, false) => self.give_back(owner),
            (true, true) | (false, false) => {}
        }
        let asked = self.requirements.at_mut(requirement);
        match (is_open(before), is_open(state)) {
            (Open::Yes, Open::No) => asked.open -= 1,
            (Open::No, Open::Yes) => asked.open += 1,
            (Open::Yes, Open::Yes) | (Open::No, Open::No) => {}
        }
    }

    fn give_back(&mut self, owner: OwnerId) {
        if let Some(share) = self.shares.get_mut(&owner) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&owner);
            }
        }
    }

    /// Returns how many jobs of an owner are in lanes.
    pub(crate) fn share(&self, owner: OwnerId) -> u32 {
        self.shares.get(&owner).copied().unwrap_or(0)
    }

    /// Asks for a `Tick` when a back-off is over or a wait should be thought over.
    fn ask_for_wake(&mut self, revisit: Option<Moment>) {
        let back = self
            .backing_off
            .iter()
            .find(|(_, machine)| self.is_needed(*machine))
            .map(|(until, _)| *until);
        let Some(at) = back.into_iter().chain(revisit).min() else { return };
        match self.wake {
            Some(asked) if self.now < asked && asked <= at => {}
            Some(_) | None => {
                self.wake = Some(at);
                self.commands.push(Command::Wake { at });
            }
        }
    }

    /// Tells a verdict.
    pub(crate) fn done(&mut self, job: JobId, verdict: Verdict) {
        self.commands.push(Command::Done { job, verdict });
    }
}

/// Whether a job still has to be worked on.
pub(crate) enum Open {
    Yes,
    No,
}

fn is_in_lane(state: State) -> bool {
    matches!(state, State::Started { .. } | State::Stopping { .. })
}

pub(crate) fn is_open(state: State) -> Open {
    match state {
        State::Waiting | State::Ready | State::Started { .. } | State::Stopping { .. } => Open::Yes,
        State::Built | State::Ended(_) => Open::No,
    }
}

/// Returns the counter of jobs in this state.
pub(crate) fn count(counts: &mut JobCounts, state: State) -> &mut usize {
    match state {
        State::Waiting => &mut counts.waiting,
        State::Ready => &mut counts.ready,
        State::Started { .. } => &mut counts.started,
        State::Stopping { .. } => &mut counts.stopping,
        State::Built | State::Ended(Outcome::Built) => &mut counts.built,
        State::Ended(Outcome::Failed) => &mut counts.failed,
        State::Ended(Outcome::DependencyFailed { .. }) => &mut counts.dependency_failed,
        State::Ended(Outcome::Impossible | Outcome::NoMachineLeft) => &mut counts.no_machine,
        State::Ended(Outcome::Cancelled) => &mut counts.cancelled,
        State::Ended(Outcome::Unneeded) => &mut counts.unneeded,
    }
}
