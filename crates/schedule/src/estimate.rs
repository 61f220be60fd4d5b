//! The cost model: when would a job be done on a machine?
//!
//! Invariant: the finish is the later of "the lane is free" and "its inputs are there", plus the
//! duration by the machine's speed; inputs move one after another behind those already moving.

use std::time::Duration;

use crate::description::{MachineKind, Preference};
use crate::explanation::Why;
use crate::id::{ByteCount, JobId, MachineId, Moment, PathId};
use crate::index::load;
use crate::job::{JobRecord, NextTime, State};
use crate::machine::MachineRecord;
use crate::path::Presence;
use crate::reason::Edge;
use crate::scheduler::Scheduler;
use crate::table::RequirementId;

/// How many machines of a class are looked at for one job.
const BEST_OF_CLASS: usize = 2;
/// How many of a job's largest inputs are looked at to find machines that have them.
const LARGEST_INPUTS: usize = 3;
/// How many machines that have such an input are looked at.
const HOLDERS: usize = 8;
/// Smaller inputs are no reason to look at a machine.
const WORTH_A_LOOK: ByteCount = ByteCount(64 << 10);

/// What kind of lane is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// One without any job.
    FreeLane,
    /// One where another job can be queued.
    PlaceInQueue,
}

/// A lane where a job could go; the best one is the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offer {
    /// When the job would be done.
    pub(crate) finish: Moment,
    /// What would have to be moved there.
    missing: ByteCount,
    pub(crate) load: u32,
    /// The place of its class in the requirement.
    position: usize,
    pub(crate) machine: MachineId,
    pub(crate) lane: u32,
}

impl Offer {
    /// Says in what it is before one that is worse.
    pub(crate) fn edge_over(&self, other: &Offer) -> Edge {
        if self.finish != other.finish {
            Edge::Sooner
        } else if self.missing != other.missing {
            Edge::LessToBring
        } else if self.load != other.load {
            Edge::LessToDo
        } else {
            Edge::Listed
        }
    }
}

impl Scheduler {
    /// Returns lanes where a job could go, best first.
    pub(crate) fn offers(&self, job: JobId, wanted: Wanted, holders: &[MachineId]) -> Vec<Offer> {
        let record = self.jobs.at(job);
        let avoid = self.machines_to_avoid(record);
        let spare = BEST_OF_CLASS + avoid.len();
        let mut offers: Vec<Offer> = Vec::new();
        let classes = &self.requirements.at(record.requirement).classes;
        let mut look_at = |machine: MachineId, position: usize| {
            if avoid.contains(&machine) || offers.iter().any(|offer| offer.machine == machine) {
                return;
            }
            offers.extend(self.offer(record, machine, position, wanted));
        };
        for (class, position) in classes.iter().zip(0..) {
            let class = self.classes.at(*class);
            match wanted {
                Wanted::FreeLane => {
                    class.idle.iter().take(spare).for_each(|key| look_at(key.machine, position));
                }
                Wanted::PlaceInQueue => {
                    let queueable = class.queueable.iter().take(spare);
                    queueable.for_each(|(_, machine)| look_at(*machine, position));
                }
            }
        }
        for machine in holders {
            if let Some(position) = self.position(record.requirement, *machine) {
                look_at(*machine, position);
            }
        }
        offers.sort_unstable();
        offers
    }

    /// Returns the offer of the local machine to a job that prefers it.
    pub(crate) fn preferred_offer(&self, job: JobId) -> Option<(Offer, Why)> {
        let record = self.jobs.at(job);
        if record.preference != Preference::PreferLocal {
            return None;
        }
        let avoid = self.machines_to_avoid(record);
        let offers =
            self.locals.iter().filter(|machine| !avoid.contains(machine)).filter_map(|machine| {
                let position = self.position(record.requirement, *machine)?;
                self.offer(record, *machine, position, Wanted::FreeLane)
            });
        offers.min().map(|offer| (offer, Why::PreferLocal))
    }

    fn offer(
        &self,
        job: &JobRecord,
        machine: MachineId,
        position: usize,
        wanted: Wanted,
    ) -> Option<Offer> {
        let record = self.machines.at(machine);
        if !record.takes_jobs() {
            return None;
        }
        let reach = self.reach(job.requirement, machine);
        let (lane, free_at) = match wanted {
            Wanted::FreeLane => (record.free_lane(reach)?, self.now),
            Wanted::PlaceInQueue if record.free_lane(reach).is_some() => return None,
            Wanted::PlaceInQueue => {
                record.first_lane(self.settings.prefetch_depth as usize, self.now, reach)?
            }
        };
        let transfer = self.transfer(job, machine);
        let finish = free_at.max(transfer.done_at).plus(self.duration_on(job, machine));
        let missing = transfer.missing;
        Some(Offer { finish, missing, load: load(record), position, machine, lane })
    }

    /// Returns the place of a machine's class in a requirement, if it meets it; of several classes
    /// that of the first.
    pub(crate) fn position(&self, requirement: RequirementId, machine: MachineId) -> Option<usize> {
        let faces = &self.machines.get(machine)?.faces;
        let classes = &self.requirements.at(requirement).classes;
        classes.iter().position(|class| faces.iter().any(|face| face.class == *class))
    }

    /// Returns below which lane a machine takes jobs of a requirement.
    pub(crate) fn reach(&self, requirement: RequirementId, machine: MachineId) -> u32 {
        let classes = &self.requirements.at(requirement).classes;
        match self.machines.at(machine).faces.as_slice() {
            [only] => only.slots,
            faces => {
                let meeting = faces.iter().filter(|face| classes.contains(&face.class));
                meeting.map(|face| face.slots).max().unwrap_or(0)
            }
        }
    }

    /// Returns machines a job came back from, as long as there are others: all of them, or else those that
    /// can't build such jobs.
    pub(crate) fn machines_to_avoid(&self, job: &JobRecord) -> Vec<MachineId> {
        let is_hopeful = |machine: MachineId| {
            self.position(job.requirement, machine).is_some()
                && self.machines.at(machine).faces.iter().any(|face| face.indexed.hope != 0)
        };
        let hopeful = self.hopeful_machines(job.requirement) as usize;
        let tried = job.tried.iter().filter(|tried| is_hopeful(tried.machine));
        let unfit = tried.clone().filter(|tried| tried.next_time == NextTime::TheSame);
        if tried.clone().count() < hopeful {
            tried.map(|tried| tried.machine).collect()
        } else if unfit.clone().count() < hopeful {
            unfit.map(|tried| tried.machine).collect()
        } else {
            Vec::new()
        }
    }

    /// Returns when a job would be done on a machine with a lane free at `free_at`.
    pub(crate) fn finish_at(&self, job: &JobRecord, machine: MachineId, free_at: Moment) -> Moment {
        let moved_at = self.transfer(job, machine).done_at;
        free_at.max(moved_at).plus(self.duration_on(job, machine))
    }

    /// Returns how long a job is expected to take on a machine.
    pub(crate) fn duration_on(&self, job: &JobRecord, machine: MachineId) -> Duration {
        let usual = self.usual_duration(job.expected);
        crate::duration::at_speed(usual, self.machines.at(machine).speed)
    }

    /// Returns what has to be moved to a machine for a job.
    pub(crate) fn transfer(&self, job: &JobRecord, machine: MachineId) -> Transfer {
        let record = self.machines.at(machine);
        let mut missing = ByteCount(0);
        // what is here goes out right ahead of the build; what is elsewhere has to be asked for
        let mut detour = Duration::ZERO;
        let mut latest = Presence::Present;
        for path in &job.needs {
            match self.presence(*path, machine, record) {
                Presence::Present => {}
                Presence::Coming { epoch } if latest == Presence::Present => {
                    latest = Presence::Coming { epoch };
                }
                Presence::Coming { .. } => {}
                Presence::Absent => {
                    latest = Presence::Absent;
                    missing.0 = missing.0.saturating_add(self.size(*path).0);
                    if self.paths.get(*path).is_none_or(|known| known.here != Presence::Present) {
                        detour = record.round_trip;
                    }
                }
            }
        }
        let done_at = match latest {
            Presence::Present => self.now,
            Presence::Coming { .. } => self.now.max(record.moving_until),
            Presence::Absent => {
                let moving = record.description.bandwidth.time_for(missing);
                self.now.max(record.moving_until).plus(detour).plus(moving)
            }
        };
        Transfer { latest, missing, done_at }
    }

    /// Returns whether a path is on a machine, or will be when a job needs it there.
    pub(crate) fn presence(
        &self,
        path: PathId,
        machine: MachineId,
        record: &MachineRecord,
    ) -> Presence {
        let Some(known) = self.paths.get(path) else { return Presence::Absent };
        let noted = match record.description.kind {
            MachineKind::Local => known.here,
            MachineKind::Remote => known.on(machine),
        };
        match noted {
            Presence::Present => Presence::Present,
            Presence::Coming { epoch } if epoch == record.epoch => noted,
            Presence::Coming { .. } | Presence::Absent => {
                let maker = known.maker.and_then(|maker| self.jobs.get(maker));
                match maker.map(|maker| maker.state) {
                    Some(State::Started { lane }) if lane.machine == machine => Presence::Present,
                    _ => Presence::Absent,
                }
            }
        }
    }

    fn size(&self, path: PathId) -> ByteCount {
        self.paths.get(path).and_then(|path| path.size).unwrap_or(self.settings.unknown_size)
    }

    /// Returns machines that have some of a job's largest inputs, and local machines.
    pub(crate) fn holders(&self, job: JobId) -> Vec<MachineId> {
        let mut largest: Vec<(ByteCount, PathId)> = Vec::with_capacity(LARGEST_INPUTS + 1);
        for path in &self.jobs.at(job).needs {
            let Some(record) = self.paths.get(*path) else { continue };
            let size = self.size(*path);
            if size < WORTH_A_LOOK || record.places.is_empty() {
                continue;
            }
            if largest.len() < LARGEST_INPUTS || largest.last().is_some_and(|last| last.0 < size) {
                largest.push((size, *path));
                largest.sort_unstable_by(|left, right| right.cmp(left));
                largest.truncate(LARGEST_INPUTS);
            }
        }
        let mut holders: Vec<MachineId> = self.locals.iter().take(HOLDERS).copied().collect();
        for (_, path) in largest {
            for (machine, presence) in self.paths.at(path).places.iter().take(HOLDERS) {
                if *presence != Presence::Absent && !holders.contains(machine) {
                    holders.push(*machine);
                }
            }
        }
        holders
    }
}

/// What has to be moved to a machine for a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// The presence of the input that is furthest from there.
    pub(crate) latest: Presence,
    /// The bytes of those that are absent.
    pub(crate) missing: ByteCount,
    /// When everything is there.
    pub(crate) done_at: Moment,
}
