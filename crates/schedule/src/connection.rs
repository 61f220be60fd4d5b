//! Machines: adding, connecting, failing, coming back.
//!
//! Invariant: a machine is connected to only while some job that it could take is open; after a
//! failure only when its back-off is over, or when new jobs came that nothing else could take.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::command::{Command, Reasons, Verdict};
use crate::description::{Machine, MachineKind};
use crate::event::{Chance, MachineFault};
use crate::explanation::{Outcome, Trouble};
use crate::id::{JobId, MachineId, Moment, PathId};
use crate::job::{Afterwards, NextTime, State, Tried};
use crate::machine::{Duty, Face, Grace, Link, MachineRecord, Past, Trust};
use crate::scheduler::Scheduler;
use crate::table::RequirementId;

/// More lanes than this are not used on one machine.
pub(crate) const MAX_SLOTS: u32 = 4096;

/// After this many jobs in a row came back from a machine it gets one at a time.
const RETURNS_UNTIL_PROBATION: u32 = 3;

impl Scheduler {
    /// Adds a machine; an id in use is ignored.
    pub(crate) fn add_machine(&mut self, machine: MachineId, description: Machine) {
        if self.machines.get(machine).is_some() {
            return;
        }
        if description.kind == MachineKind::Local {
            self.locals.push(machine);
        }
        let record = MachineRecord {
            speed: description.speed(),
            slots: 0,
            faces: Vec::new(),
            link: Link::Asleep,
            duty: Duty::Working,
            past: Past::NeverUp,
            trouble: None,
            strikes: 0,
            returns: 0,
            trust: Trust::Full,
            grace: Grace::Denied,
            asked: Moment::START,
            round_trip: description.round_trip,
            lanes: Vec::new(),
            free: BTreeSet::new(),
            moving_until: Moment::START,
            epoch: 0,
            made: BTreeSet::new(),
            description,
        };
        self.machines.insert(machine, record);
        self.settle_in(machine);
    }

    /// Takes a connection that is up.
    pub(crate) fn connected(&mut self, machine: MachineId, round_trip: Duration) {
        let Some(record) = self.machines.get_mut(machine) else { return };
        if let Link::BackingOff { until } = record.link {
            self.backing_off.remove(&(until, machine));
        }
        record.link = Link::Up;
        record.past = Past::WasUp;
        record.grace = Grace::Denied;
        record.round_trip = round_trip;
        record.moving_until = self.now;
        self.reindex(machine);
        self.find_again(machine);
    }

    /// Takes the failure of a machine: its jobs come back, and it is left alone for a while.
    pub(crate) fn machine_failed(
        &mut self,
        machine: MachineId,
        cause: String,
        fault: MachineFault,
        chance: Chance,
    ) {
        let Some(record) = self.machines.get_mut(machine) else { return };
        let was = record.link;
        if was == Link::Refused {
            return;
        }
        if let Link::BackingOff { until } = was {
            self.backing_off.remove(&(until, machine));
        }
        record.strikes = record.strikes.saturating_add(1);
        record.trust = Trust::Probation;
        record.grace = Grace::Denied;
        record.epoch = record.epoch.wrapping_add(1);
        let until = self.now.plus(back_off(&self.settings, record.strikes, chance));
        record.link = match fault {
            MachineFault::Refused => Link::Refused,
            MachineFault::Unreachable
            | MachineFault::Unready
            | MachineFault::Lost
            | MachineFault::DiskFull
            | MachineFault::Misbehaved => Link::BackingOff { until },
        };
        if record.link != Link::Refused {
            self.backing_off.insert((until, machine));
        }
        let text = cause.as_str().into();
        record.trouble = Some(Trouble { fault, cause: text, since: self.now });
        let mut lanes = Vec::new();
        for (lane, index) in record.lanes.iter_mut().zip(0_u32..) {
            if !lane.queue.is_empty() {
                lanes.push(std::mem::take(&mut lane.queue));
                record.free.insert(index);
            }
        }
        self.reindex(machine);
        self.come_back(machine, &lanes, &cause);
        self.mourn(machine);
    }

    /// Takes back the jobs of a failed machine; only those at the head of a lane were running.
    fn come_back(&mut self, machine: MachineId, lanes: &[VecDeque<JobId>], cause: &str) {
        let mut returned = Vec::new();
        for queue in lanes {
            for (job, position) in queue.iter().zip(0_u32..) {
                let record = self.jobs.at(*job);
                let was_running = position == 0 && record.missing == 0;
                returned.push((*job, record.state, was_running));
            }
        }
        // First all of them, so that none is told to stop that runs no more.
        for (job, _, _) in &returned {
            self.prefetched.remove(job);
            self.set_state(*job, State::Waiting);
        }
        for (job, state, was_running) in returned {
            if self.jobs.at(job).state != State::Waiting {
                continue;
            }
            match state {
                State::Stopping { then: Afterwards::End(outcome), .. } => {
                    self.end_alone(job, outcome);
                }
                State::Started { .. } if was_running => {
                    let attempts = self.count_attempt(job, machine, cause);
                    let room = self.jobs.at_mut(job).without_room.take();
                    match attempts == Attempts::UsedUp || room == Some(machine) {
                        true => self.end_without_machine(job),
                        false => self.ripe.push_back(job),
                    }
                }
                _ => self.ripe.push_back(job),
            }
        }
    }

    /// Counts that a job could not be run on a machine.
    pub(crate) fn count_attempt(
        &mut self,
        job: JobId,
        machine: MachineId,
        cause: &str,
    ) -> Attempts {
        let record = self.jobs.at_mut(job);
        record.attempts += 1;
        let now = Tried { machine, cause: cause.into(), next_time: NextTime::Open };
        match record.tried.iter_mut().find(|tried| tried.machine == machine) {
            Some(tried) => *tried = now,
            None => record.tried.push(now),
        }
        match record.attempts < self.settings.attempts {
            true => Attempts::Left,
            false => Attempts::UsedUp,
        }
    }

    /// Notes that a job came back from a machine that is up.
    pub(crate) fn count_return(&mut self, machine: MachineId) {
        let record = self.machines.at_mut(machine);
        record.returns += 1;
        if RETURNS_UNTIL_PROBATION <= record.returns {
            record.trust = Trust::Probation;
        }
    }

    /// Notes that a job was built on a machine.
    pub(crate) fn count_success(&mut self, machine: MachineId) {
        let record = self.machines.at_mut(machine);
        record.returns = 0;
        record.strikes = 0;
        record.trust = Trust::Full;
    }

    /// Asks for a connection.
    pub(crate) fn connect(&mut self, machine: MachineId) {
        let (now, until) = (self.now, self.now.plus(self.settings.ask));
        let record = self.machines.at_mut(machine);
        record.link = Link::Connecting;
        record.asked = now;
        if record.strikes == 0 {
            self.asking_until = self.asking_until.max(until);
        }
        self.reindex(machine);
        self.commands.push(Command::Connect { machine });
    }

    /// Asks again for connections to machines whose back-off is over.
    pub(crate) fn reconnect(&mut self) {
        while let Some((until, machine)) = self.backing_off.first().copied() {
            if self.now < until {
                return;
            }
            self.backing_off.pop_first();
            match self.is_needed(machine) {
                true => self.connect(machine),
                false => {
                    self.machines.at_mut(machine).link = Link::Asleep;
                    self.reindex(machine);
                }
            }
        }
    }

    /// Connects to machines that a requirement's jobs could use and nobody asked for so far; and
    /// when no machine has an attempt left, gives each that failed another one for the new jobs.
    pub(crate) fn renew_hope(&mut self, requirement: RequirementId) {
        if self.requirements.at(requirement).open == 0 {
            return;
        }
        let is_hopeless = self.hopeful_machines(requirement) == 0;
        for class in self.requirements.at(requirement).classes.clone() {
            for machine in self.classes.at(class).asleep.clone() {
                if is_hopeless {
                    self.machines.at_mut(machine).grace = Grace::Granted;
                }
                self.connect(machine);
            }
            if !is_hopeless {
                continue;
            }
            for machine in self.classes.at(class).members.clone() {
                let record = self.machines.at_mut(machine);
                if let (Link::BackingOff { until }, Duty::Working) = (record.link, record.duty) {
                    record.grace = Grace::Granted;
                    self.backing_off.remove(&(until, machine));
                    self.connect(machine);
                } else if record.link == Link::Connecting && record.grace == Grace::Denied {
                    record.grace = Grace::Granted;
                    self.reindex(machine);
                }
            }
        }
    }

    /// Returns whether some open job could run on a machine.
    pub(crate) fn is_needed(&self, machine: MachineId) -> bool {
        let record = self.machines.at(machine);
        let wants = |face: &Face| {
            let requirements = &self.classes.at(face.class).requirements;
            requirements.iter().any(|requirement| self.requirements.at(*requirement).open != 0)
        };
        record.duty == Duty::Working && record.faces.iter().any(wants)
    }

    /// Returns how many machines a requirement's jobs may hope for.
    pub(crate) fn hopeful_machines(&self, requirement: RequirementId) -> u32 {
        let classes = &self.requirements.at(requirement).classes;
        let all: u32 = classes.iter().map(|class| self.classes.at(*class).hopeful).sum();
        // a machine that is in several of the classes is still only one
        let again = self.hopes_of_many(requirement).map(|hopes| hopes.count().saturating_sub(1));
        all.saturating_sub(u32::try_from(again.sum::<usize>()).unwrap_or(u32::MAX))
    }

    /// Returns, for each machine in several classes, its hopes in those that meet a requirement.
    fn hopes_of_many(
        &self,
        requirement: RequirementId,
    ) -> impl Iterator<Item = impl Iterator<Item = u32> + '_> + '_ {
        let classes = &self.requirements.at(requirement).classes;
        self.many_faced.iter().map(move |machine| {
            let faces = self.machines.at(*machine).faces.iter();
            let meeting = faces.filter(|face| classes.contains(&face.class));
            meeting.map(|face| face.indexed.hope).filter(|hope| *hope != 0)
        })
    }

    /// Returns whether there is another machine for a started job than the one that it runs on, which may
    /// be up some time: not one that refused, nor one that is left alone because it has no room either.
    #[must_use]
    pub fn has_room_elsewhere(&self, job: JobId) -> bool {
        let Some(record) = self.jobs.get(job) else { return false };
        let than = record.lane().map(|lane| lane.machine);
        let classes = &self.requirements.at(record.requirement).classes;
        let members = classes.iter().flat_map(|class| &self.classes.at(*class).members);
        members.filter(|machine| Some(**machine) != than).any(|machine| {
            let record = self.machines.at(*machine);
            let is_full =
                record.trouble.as_ref().is_some_and(|it| it.fault == MachineFault::DiskFull);
            let may_work = match record.link {
                Link::Refused => false,
                Link::BackingOff { .. } => !is_full,
                Link::Up | Link::Asleep | Link::Connecting => true,
            };
            may_work && record.duty == Duty::Working
        })
    }

    /// Returns how many lanes those machines have.
    pub(crate) fn hopeful_lanes(&self, requirement: RequirementId) -> u64 {
        let classes = &self.requirements.at(requirement).classes;
        let all: u64 = classes.iter().map(|class| self.classes.at(*class).lanes).sum();
        let again = self.hopes_of_many(requirement).map(|hopes| {
            let (sum, most) = hopes.fold((0, 0), |(sum, most), hope| (sum + hope, hope.max(most)));
            u64::from(sum - most)
        });
        all.saturating_sub(again.sum())
    }

    /// Ends a job for which no machine is left.
    pub(crate) fn end_without_machine(&mut self, job: JobId) {
        let requirement = self.jobs.at(job).requirement;
        let reasons = match self.jobs.at(job).tried.is_empty() {
            // Many jobs can be without a machine at once, and all hear the same.
            true => match self.shared_reasons.get(&requirement) {
                Some(reasons) => Arc::clone(reasons),
                None => {
                    let reasons: Reasons = self.reasons(job).into();
                    self.shared_reasons.insert(requirement, Arc::clone(&reasons));
                    reasons
                }
            },
            false => self.reasons(job).into(),
        };
        self.end(job, Outcome::NoMachineLeft, Verdict::NoMachineLeft { reasons });
    }

    /// Notes the loss of a machine's store: what was only there, and is needed, is built again.
    pub(crate) fn mourn(&mut self, machine: MachineId) {
        let made: Vec<PathId> = self.machines.at(machine).made.iter().copied().collect();
        for path in made {
            if let Some(maker) = self.paths.get(path).and_then(|record| record.maker) {
                self.rebuild_if_lost(maker);
            }
        }
    }

    /// Notes that a machine's store is back: what is there need not be built again.
    fn find_again(&mut self, machine: MachineId) {
        let made: Vec<PathId> = self.machines.at(machine).made.iter().copied().collect();
        for path in made {
            if let Some(maker) = self.paths.get(path).and_then(|record| record.maker) {
                self.restore_if_found(maker);
            }
        }
    }
}

/// Whether a job may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempts {
    Left,
    UsedUp,
}

/// Returns how long a machine is left alone: up to half as long again as it must be, as others may have lost
/// it at the same moment and shall not all be back at the same one.
fn back_off(
    settings: &crate::settings::Settings,
    strikes: u32,
    Chance(chance): Chance,
) -> Duration {
    let factor = settings.back_off_factor.saturating_pow(strikes.saturating_sub(1));
    let least = settings.back_off_first.saturating_mul(factor).min(settings.back_off_limit);
    least + least / (2 * u32::from(u16::MAX)) * u32::from(chance)
}
