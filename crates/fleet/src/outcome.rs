//! What the driver makes of how a job ended on its machine.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use drover_core::{StorePath, with_causes};
use drover_schedule::{ByteCount, Event, JobFailure, JobId, MachineFault, MachineId, Place};
use drover_store::{BuildFailure, Built, FailureCause, StoreError, Trust, says_unfit};

use crate::driver::{Driver, JobPhase};
use crate::event::{FleetEvent, JobFailureReport};
use crate::fault::{fault_of, is_own_limit, refusal_of};
use crate::job_end::{JobEnd, Took};
use crate::lanes::SOONER_ELSEWHERE;
use crate::machine_state::{Left, Opening};
use crate::merge::{Origin, SMALL};
use crate::places::Kept;
use crate::shared::Happened;
use crate::verdict::lasting;

impl Driver {
    /// Takes a job off the lane where it ran, unless it was taken off before.
    pub(crate) fn leave_lane(&mut self, machine: MachineId, opening: Opening, job: JobId) -> Left {
        let state = self.jobs.get(job.0 as usize);
        let lane =
            state.filter(|state| matches!(state.state, JobPhase::Started | JobPhase::Stopping));
        let Some(lane) = lane.and_then(|state| state.lane) else { return Left::Before };
        match self.machines.get_mut(machine.0 as usize).filter(|_| lane.machine == machine) {
            Some(machine) => machine.leave_lane(job, lane.index, opening),
            None => Left::Before,
        }
    }

    /// Takes a job that has come back from its lane.
    pub(crate) fn job_ended(
        &mut self,
        machine: MachineId,
        opening: Opening,
        job: JobId,
        end: JobEnd,
    ) {
        let lane = self.jobs.get(job.0 as usize).and_then(|state| state.lane);
        match end {
            JobEnd::Built { built, took } => self.built(machine, job, built, took),
            JobEnd::Failed { failure, tail, took } => {
                self.was_busy(machine, took);
                self.build_failed(machine, job, failure, tail);
            }
            JobEnd::Exceeded { failure, tail, took } => {
                self.was_busy(machine, took);
                self.build_failed(machine, job, failure, tail);
                self.end_lane(machine, opening, "what was ahead of it went beyond its limits");
            }
            JobEnd::Input { cause } => self.try_elsewhere(job, cause),
            JobEnd::Derivation { cause } => {
                let failure = BuildFailure::new(FailureCause::Build, cause);
                self.failed_for_good(machine, job, failure, Vec::new());
            }
            JobEnd::Lie { lie } => {
                let (cause, fault) = (lie.to_string(), lie.fault());
                self.retried(job, &cause);
                self.machine_failed(machine, cause, fault);
            }
            JobEnd::Broken { error, source } => self.broken(machine, job, &error, source),
        }
        self.came_back(job);
        if let Some(lane) = lane {
            self.end_lane_if_unwanted(lane);
        }
    }

    /// Notes that a job runs no more.
    pub(crate) fn came_back(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        match state.state {
            JobPhase::Started => state.state = JobPhase::Waiting,
            JobPhase::Stopping => state.state = JobPhase::Stopped(SOONER_ELSEWHERE),
            _ => {}
        }
    }

    fn built(&mut self, machine: MachineId, job: JobId, built: Built, took: Took) {
        let place = self.shared.place_of(machine);
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        // one that is built once more gets no second verdict
        state.state = JobPhase::Built;
        self.found.remove(&job);
        let (plan, mut outputs, mut bytes) = (Arc::clone(&state.plan), Vec::new(), 0);
        let mut nars = built.nars;
        for info in built.outputs.into_values() {
            match nars.remove(&info.path) {
                Some(nar) => self.came_along(place, &info.path, nar),
                None if info.nar_size.0 <= SMALL && place != Place::Here => {
                    self.fetch_ahead(machine, place, info.clone());
                }
                None => {}
            }
            bytes += info.nar_size.0;
            outputs.push((self.path_id(&info.path), ByteCount(info.nar_size.0)));
            if place == Place::Here {
                self.path_at(&info.path, Place::Here, Some(info.nar_size.0));
            }
        }
        if let Some(state) = self.machines.get_mut(machine.0 as usize) {
            state.builds += 1;
        }
        self.was_busy(machine, took);
        self.tell_scheduler(Event::Finished { job, took: took.told, outputs });
        let (node, machine, took) = (plan.node, self.shared.name_of(machine), took.seen);
        self.shared.observer.event(FleetEvent::Built { node, machine, took, bytes });
    }

    fn was_busy(&mut self, machine: MachineId, took: Took) {
        if let Some(state) = self.machines.get_mut(machine.0 as usize) {
            state.busy += took.seen;
        }
    }

    /// Keeps the NAR of an output that came with the answer to its build.
    fn came_along(&mut self, place: Place, path: &StorePath, nar: Bytes) {
        let bytes = nar.len() as u64;
        self.shared.traffic(place).down.fetch_add(bytes, Ordering::Relaxed);
        if self.shared.places.keep(path, nar) == Kept::Yes {
            self.take(Happened::Kept { path: path.clone() });
        }
    }

    fn build_failed(
        &mut self,
        machine: MachineId,
        job: JobId,
        failure: BuildFailure,
        tail: Vec<String>,
    ) {
        let BuildFailure { cause, message } = failure;
        let cause = match cause {
            // nobody else could be asked, and here it would come to the same end again
            FailureCause::NoRoom if self.is_alone_here(machine) => FailureCause::Passing,
            FailureCause::NoRoom => return self.without_room(machine, job, message),
            FailureCause::Machine if says_unfit(&message) => return self.unfit(job, message),
            FailureCause::Machine => return self.try_elsewhere(job, message),
            FailureCause::Refused => return self.refused(machine, job, message),
            cause => match self.jobs.get(job.0 as usize) {
                Some(state) => lasting(cause, &state.plan.derivation),
                None => cause,
            },
        };
        if let Some(state) = self.machines.get_mut(machine.0 as usize) {
            state.failures += 1;
        }
        self.tell_of_kept_folder(machine, job);
        self.failed_for_good(machine, job, BuildFailure { cause, message }, tail);
    }

    /// The machine has no room for a job, and gets none until it says that it has.
    fn without_room(&mut self, machine: MachineId, job: JobId, message: String) {
        self.tell_scheduler(Event::NoRoom { job });
        // only one that may be run elsewhere is tried again
        match self.scheduler.has_room_elsewhere(job) {
            true => self.retried(job, &message),
            false => self.came_back(job),
        }
        self.machine_failed(machine, message, MachineFault::DiskFull);
    }

    fn failed_for_good(
        &mut self,
        machine: MachineId,
        job: JobId,
        failure: BuildFailure,
        log_tail: Vec<String>,
    ) {
        self.report(machine, job, failure, log_tail);
        self.tell_scheduler(Event::Failed { job, failure: JobFailure::Build });
    }

    /// The machine doesn't take builds, or what they need, at our word. It gets the `.drv` files
    /// from now on; where it refuses something even then, there's no way on.
    fn refused(&mut self, machine: MachineId, job: JobId, message: String) {
        let state = self.machines.get_mut(machine.0 as usize);
        let trust = state.map(|state| std::mem::replace(&mut state.trust, Trust::NotTrusted));
        if trust != Some(Trust::NotTrusted) {
            return self.distrusted(machine, job, &message);
        }
        self.retried(job, &message);
        let advice = format!(
            "{message}. That machine doesn't trust the user that connects: add it to \
             'trusted-users' in its nix.conf, or sign what is sent with a key that it trusts"
        );
        self.machine_failed(machine, advice, MachineFault::Refused);
    }

    /// Starts everything anew that was on a machine's lanes when it was found out that it doesn't
    /// trust us.
    fn distrusted(&mut self, machine: MachineId, job: JobId, message: &str) {
        let name = self.shared.name_of(machine);
        let note = format!(
            "'{name}' doesn't trust the user that connects: it gets the derivations and builds \
             what they need by itself, unless that is signed ({message})"
        );
        self.shared.observer.event(FleetEvent::Note(note));
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        let lanes: Vec<Opening> = state.all_lanes().map(|lane| lane.opening).collect();
        let queued = lanes.into_iter().flat_map(|opening| state.end_lane(opening));
        for job in std::iter::once(job).chain(queued.collect::<Vec<JobId>>()) {
            self.retried(job, "its machine is to get the derivations");
            self.came_back(job);
            self.tell_scheduler(Event::Stopped { job });
        }
    }

    /// The machine builds for other systems, or has other features, than its line says.
    fn unfit(&mut self, job: JobId, cause: String) {
        self.retried(job, &cause);
        self.tell_scheduler(Event::Failed { job, failure: JobFailure::Unfit { cause } });
    }

    fn try_elsewhere(&mut self, job: JobId, cause: String) {
        self.retried(job, &cause);
        self.tell_scheduler(Event::Failed { job, failure: JobFailure::Infrastructure { cause } });
    }

    /// Tells that a job comes back and is tried again, unless it shall stop anyway.
    pub(crate) fn retried(&mut self, job: JobId, cause: &str) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        let (JobPhase::Started, Some(lane)) = (&state.state, state.lane) else { return };
        state.state = JobPhase::Waiting;
        let (node, cause) = (state.plan.node, cause.to_owned());
        let machine = self.shared.name_of(lane.machine);
        self.shared.observer.event(FleetEvent::Retried { node, machine, cause });
    }

    /// A connection broke, perhaps that of another machine from which inputs came. That machine
    /// fails first: then the scheduler knows why the job came back.
    fn broken(
        &mut self,
        machine: MachineId,
        job: JobId,
        error: &StoreError,
        source: Option<Origin>,
    ) {
        let cause = with_causes(error);
        match source {
            Some(origin) => {
                self.source_failed(origin, error);
                self.try_elsewhere(job, cause);
            }
            None if matches!(error, StoreError::Waiting { .. }) => self.not_sent(job, cause),
            None if is_own_limit(error) => self.try_elsewhere(job, cause),
            None if self.ended_for_want_of_an_input(job, error) => {
                self.came_back(job);
                self.tell_scheduler(Event::Stopped { job });
            }
            None if error.is_infrastructure() => {
                self.retried(job, &cause);
                self.machine_failed(machine, cause, fault_of(error));
            }
            None => self.build_failed(machine, job, refusal_of(error), Vec::new()),
        }
    }

    /// Fails a job for what is wrong with the machine that this runs on, which no other makes good.
    fn not_sent(&mut self, job: JobId, message: String) {
        let Some(state) = self.jobs.get(job.0 as usize) else { return };
        let (derivation, cause) = (state.plan.path.clone(), FailureCause::NotSent);
        let log_tail = Vec::new();
        let report = JobFailureReport { derivation, cause, machine: None, message, log_tail };
        self.reports.insert(job, report);
        self.tell_scheduler(Event::Failed { job, failure: JobFailure::Build });
    }
}
