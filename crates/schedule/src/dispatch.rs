//! Filling lanes: the ready jobs, most urgent first, each to the machine that is done first.
//!
//! Invariant: an idle machine that a ready job could use is only left idle when waiting for
//! another one clearly wins by the estimate, and then the scheduler asks to be woken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::time::Duration;

use crate::command::Command;
use crate::duration::tenths;
use crate::estimate::{Offer, Wanted};
use crate::explanation::Why;
use crate::id::{JobId, Lane, MachineId, Moment};
use crate::job::{Decision, Queueing, ReadyKey, State};
use crate::machine::Class;
use crate::path::Presence;
use crate::scheduler::Scheduler;
use crate::settings::Policy;
use crate::table::RequirementId;

/// How many jobs may be left waiting for a better lane while others idle, per round.
const WAITS: u32 = 32;
/// Having decided to wait, jobs do not think it over for this part of the time until they would
/// be done: it costs no more than that share of it, and spares a look at each of them per event.
const PATIENCE: u32 = 16;
/// How many jobs may be passed over in a round because no idle machine is right for them.
const SKIPS: u32 = 64;

/// One round of filling lanes of one kind.
#[derive(Debug)]
struct Round {
    wanted: Wanted,
    waits: u32,
    max_waits: u32,
    skips_left: u32,
    /// When the lanes of a busy machine are free, with the jobs that wait for them in this round.
    booked: BTreeMap<MachineId, BinaryHeap<Reverse<Moment>>>,
    /// Until when the requirements of those jobs need not be thought over.
    patience: BTreeMap<RequirementId, Moment>,
    /// When the first of those waits should be thought over.
    revisit: Option<Moment>,
}

/// What became of a job in a round.
enum Placed {
    Started,
    /// It waits for something better, or for another machine.
    Skipped,
    /// Neither it nor those behind it have anything to gain in this round.
    NoMore,
}

impl Scheduler {
    /// Starts what can be started; returns when waiting jobs should be thought over.
    pub(crate) fn dispatch(&mut self) -> Option<Moment> {
        if let Policy::Stock { rounding } = self.settings.policy {
            self.tails.clear();
            self.dispatch_stock(rounding);
            return None;
        }
        let revisit = self.fill(Round::new(Wanted::FreeLane, WAITS));
        self.extend_chains();
        self.fill(Round::new(Wanted::PlaceInQueue, WAITS / 4));
        self.extend_chains();
        let recall = self.recall_queued();
        revisit.into_iter().chain(recall).min()
    }

    fn fill(&mut self, mut round: Round) -> Option<Moment> {
        // who has least comes first; among equals the most urgent job
        let mut heads: BTreeSet<(u32, ReadyKey, RequirementId)> = BTreeSet::new();
        for requirement in &self.with_ready {
            if self.has_room(*requirement, round.wanted) {
                let asked = self.requirements.at(*requirement);
                let share = self.share(asked.needs.owner);
                heads.extend(asked.ready.first().map(|key| (share, *key, *requirement)));
            }
        }
        while let Some((known, key, requirement)) = heads.pop_first() {
            if !self.has_room(requirement, round.wanted) {
                continue;
            }
            let owner = self.requirements.at(requirement).needs.owner;
            let share = self.share(owner);
            if known < share {
                // another queue of the same owner has got something meanwhile
                heads.insert((share, key, requirement));
                continue;
            }
            match self.place(key.job, requirement, &mut round) {
                Placed::Started | Placed::Skipped => {}
                Placed::NoMore => continue,
            }
            let behind = (Bound::Excluded(key), Bound::Unbounded);
            let next = self.requirements.at(requirement).ready.range(behind).next();
            heads.extend(next.map(|key| (self.share(owner), *key, requirement)));
        }
        for (requirement, until) in round.patience {
            self.patience.insert((requirement, round.wanted), until);
        }
        round.revisit
    }

    /// Returns whether jobs of another owner wait for a machine that could run these, too.
    fn is_contended(&self, requirement: RequirementId) -> bool {
        let asked = self.requirements.at(requirement);
        self.with_ready.iter().map(|other| self.requirements.at(*other)).any(|other| {
            other.needs.owner != asked.needs.owner
                && other.classes.iter().any(|class| asked.classes.contains(class))
        })
    }

    /// Returns whether some machine has a lane of that kind for a requirement's jobs.
    pub(crate) fn has_room(&self, requirement: RequirementId, wanted: Wanted) -> bool {
        let asked = self.requirements.at(requirement);
        let mut classes = asked.classes.iter().map(|class| self.classes.at(*class));
        match wanted {
            Wanted::FreeLane => classes.any(|class| !class.idle.is_empty()),
            // Queued jobs cannot balance the load any more, so none is queued at the tail. And what stands
            // behind a running job has its slot for certain: where several wait for slots, each slot has to
            // become free, so that it goes to the one who has least.
            Wanted::PlaceInQueue => {
                !self.is_contended(requirement)
                    && self.hopeful_lanes(requirement) < asked.ready.len() as u64
                    && classes.any(|class| !class.queueable.is_empty())
            }
        }
    }

    /// Starts one job, or decides that it had better wait.
    fn place(&mut self, job: JobId, requirement: RequirementId, round: &mut Round) -> Placed {
        if round.wanted == Wanted::FreeLane
            && let Some((offer, why)) = self.preferred_offer(job)
        {
            self.take(job, offer, why, &[]);
            return Placed::Started;
        }
        if round.wanted == Wanted::PlaceInQueue && self.jobs.at(job).queueing == Queueing::NotAgain
        {
            return round.skip();
        }
        let holders = self.holders(job);
        let offers = self.offers(job, round.wanted, &holders);
        let Some(best) = offers.first().copied() else {
            return round.skip();
        };
        if let Some((machine, free_at, finish)) = self.better_later(job, best, &holders, round) {
            let exceeds = self.backlog(requirement, job, machine) > best.finish.since(self.now);
            let is_patient = round.waits < round.max_waits;
            if !is_patient && !exceeds {
                return Placed::NoMore;
            }
            let patient_until = self.patience.get(&(requirement, round.wanted)).copied();
            if let Some(until) = patient_until.filter(|until| self.now < *until)
                && !round.patience.contains_key(&requirement)
            {
                round.revisit_at(until);
                return Placed::NoMore;
            }
            if is_patient {
                round.waits += 1;
                round.book(machine, finish);
                round.revisit_at(free_at);
                let until = self.now.plus(finish.since(self.now) / PATIENCE);
                let patience = round.patience.entry(requirement).or_insert(until);
                *patience = until.min(*patience);
                return Placed::Skipped;
            }
        }
        let why = match round.wanted {
            Wanted::FreeLane => Why::EarliestFinish,
            Wanted::PlaceInQueue => Why::Prefetch,
        };
        self.take(job, best, why, offers.get(1..).unwrap_or_default());
        Placed::Started
    }

    /// Returns how long all ready jobs of a requirement would keep its lanes busy.
    fn backlog(&self, requirement: RequirementId, job: JobId, machine: MachineId) -> Duration {
        let duration = self.duration_on(self.jobs.at(job), machine);
        let ready = self.requirements.at(requirement).ready.len() as u64;
        let lanes = self.hopeful_lanes(requirement).max(1);
        duration.saturating_mul(u32::try_from(ready / lanes).unwrap_or(u32::MAX))
    }

    /// Returns a busy machine for which waiting clearly wins: the machine, when it is free, and
    /// when the job would be done there.
    fn better_later(
        &self,
        job: JobId,
        best: Offer,
        holders: &[MachineId],
        round: &mut Round,
    ) -> Option<(MachineId, Moment, Moment)> {
        let record = self.jobs.at(job);
        let pace = |machine| self.machines.at(machine).speed.to_bits() >> 50;
        let avoid = self.machines_to_avoid(record);
        let mut winner: Option<(Moment, Moment, MachineId)> = None;
        let mut look_at = |machine: MachineId, round: &mut Round| {
            if avoid.contains(&machine) {
                return;
            }
            let free_at = round.free_at(machine, self);
            let finish = self.finish_at(record, machine, free_at);
            if winner.is_none_or(|(other, _, _)| finish < other) {
                winner = Some((finish, free_at, machine));
            }
        };
        for class in &self.requirements.at(record.requirement).classes {
            let class = self.classes.at(*class);
            let Some((_, first)) = class.full.first() else { continue };
            if pace(*first) <= pace(best.machine) {
                break;
            }
            if let Some(machine) = round.first_full(class, self) {
                look_at(machine, round);
            }
        }
        for machine in holders {
            let (held, reach) =
                (self.machines.at(*machine), self.reach(record.requirement, *machine));
            let is_full = self.position(record.requirement, *machine).is_some()
                && held.takes_jobs()
                && held.free_lane(reach).is_none();
            if is_full && *machine != best.machine {
                look_at(*machine, round);
            }
        }
        let (finish, free_at, machine) = winner?;
        let there = finish.since(self.now);
        let here = best.finish.since(self.now);
        let margin = match record.expected {
            Some(_) => 11,
            None => 15,
        };
        (tenths(there, margin) < here).then_some((machine, free_at, finish))
    }

    fn take(&mut self, job: JobId, offer: Offer, why: Why, others: &[Offer]) {
        let mut next = others.iter().map(|other| {
            (other.machine, other.finish.since(self.now).into(), offer.edge_over(other))
        });
        let decision = Decision {
            machine: offer.machine,
            why,
            estimate: offer.finish.since(self.now).into(),
            others: [next.next(), next.next(), next.next()],
        };
        self.start(job, Lane { machine: offer.machine, index: offer.lane }, decision);
    }

    /// Starts a job at the end of a lane.
    pub(crate) fn start(&mut self, job: JobId, lane: Lane, decision: Decision) {
        let transfer = self.transfer(self.jobs.at(job), lane.machine);
        let duration = self.duration_on(self.jobs.at(job), lane.machine);
        self.note_coming(job, lane.machine, transfer.latest);
        self.set_state(job, State::Started { lane });
        self.jobs.at_mut(job).without_room = None;
        self.jobs.at_mut(job).decision = Some(decision);
        if decision.why == Why::Prefetch {
            self.prefetched.insert(job);
        }
        let now = self.now;
        let machine = self.machines.at_mut(lane.machine);
        if transfer.latest == Presence::Absent {
            machine.moving_until = transfer.done_at;
        }
        machine.free.remove(&lane.index);
        let state = machine.lane_mut(lane.index);
        let after = state.queue.back().copied();
        let free_at = state.free_at(now);
        if after.is_none() {
            state.head_since = now;
        }
        state.queue.push_back(job);
        state.until = free_at.max(transfer.done_at).plus(duration);
        self.tails.insert(lane);
        self.reindex(lane.machine);
        self.commands.push(Command::Start { job, lane, after });
    }

    /// Notes that what a job needs is on its way to its machine.
    fn note_coming(&mut self, job: JobId, machine: MachineId, latest: Presence) {
        if latest != Presence::Absent {
            return;
        }
        let record = self.machines.at(machine);
        let coming = Presence::Coming { epoch: record.epoch };
        let is_local = record.description.kind == crate::description::MachineKind::Local;
        for path in self.jobs.at(job).needs.clone() {
            let record = self.machines.at(machine);
            if self.presence(path, machine, record) == Presence::Absent {
                let known = self.paths.entry(path);
                match is_local {
                    true => known.here = coming,
                    false => known.set_on(machine, coming),
                }
            }
        }
    }

    /// Takes a job out of its lane; the caller reindexes the machine.
    pub(crate) fn leave(&mut self, job: JobId, lane: Lane) {
        let now = self.now;
        let state = self.machines.at_mut(lane.machine).lane_mut(lane.index);
        let was_head = state.queue.front() == Some(&job);
        state.queue.retain(|other| *other != job);
        self.prefetched.remove(&job);
        if was_head {
            state.head_since = now;
            if let Some(head) = state.queue.front() {
                self.prefetched.remove(head);
            }
        }
        let mut until = state.head_since;
        for (queued, position) in state.queue.clone().into_iter().zip(0_u32..) {
            until = until.plus(self.duration_on(self.jobs.at(queued), lane.machine));
            if position == 0 {
                until = until.max(now);
            }
        }
        let machine = self.machines.at_mut(lane.machine);
        let state = machine.lane_mut(lane.index);
        state.until = until;
        match state.queue.is_empty() {
            true => drop(machine.free.insert(lane.index)),
            false => drop(self.tails.insert(lane)),
        }
    }
}

impl Round {
    fn new(wanted: Wanted, max_waits: u32) -> Round {
        Round {
            wanted,
            waits: 0,
            max_waits,
            skips_left: SKIPS,
            booked: BTreeMap::new(),
            patience: BTreeMap::new(),
            revisit: None,
        }
    }

    fn revisit_at(&mut self, at: Moment) {
        self.revisit = Some(self.revisit.map_or(at, |other| other.min(at)));
    }

    fn skip(&mut self) -> Placed {
        match self.skips_left.checked_sub(1) {
            Some(left) => {
                self.skips_left = left;
                Placed::Skipped
            }
            None => Placed::NoMore,
        }
    }

    /// Returns the machine of a class that has the first free lane, of those without any now.
    fn first_full(&mut self, class: &Class, scheduler: &Scheduler) -> Option<MachineId> {
        let mut first: Option<(Moment, MachineId)> = None;
        for (_, machine) in &class.full {
            // Behind the first one that nobody waits for, all are free later than that one.
            let is_new = !self.booked.contains_key(machine);
            let free_at = self.free_at(*machine, scheduler);
            if first.is_none_or(|(other, _)| free_at < other) {
                first = Some((free_at, *machine));
            }
            if is_new {
                break;
            }
        }
        first.map(|(_, machine)| machine)
    }

    /// Returns when the first lane of a busy machine is free for another job.
    fn free_at(&mut self, machine: MachineId, scheduler: &Scheduler) -> Moment {
        let lanes = self.booked.entry(machine).or_insert_with(|| {
            let lanes = scheduler.machines.at(machine).lanes.iter();
            let busy = lanes.filter(|lane| !lane.queue.is_empty());
            busy.map(|lane| Reverse(lane.free_at(scheduler.now))).collect()
        });
        lanes.peek().map_or(scheduler.now, |first| first.0)
    }

    /// Notes that a job waits for the first lane of a machine and is done at `finish`.
    fn book(&mut self, machine: MachineId, finish: Moment) {
        if let Some(lanes) = self.booked.get_mut(&machine) {
            lanes.pop();
            lanes.push(Reverse(finish));
        }
    }
}
