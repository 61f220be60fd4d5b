//! What is where: paths that appear and vanish, outputs that are lost and built again.
//!
//! Invariant: a job is `Built` only while each of its outputs that was ever seen, and that some
//! waiting job needs, can be had from the caller's store or from a machine that is up.

use crate::description::MachineKind;
use crate::explanation::Outcome;
use crate::id::{ByteCount, JobId, MachineId, PathId, Place};
use crate::job::{Afterwards, State, VerdictDue};
use crate::machine::Link;
use crate::path::{Presence, Seen};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Notes that a path is valid somewhere.
    pub(crate) fn path_at(&mut self, path: PathId, place: Place, size: Option<ByteCount>) {
        let record = self.paths.entry(path);
        record.size = size.or(record.size);
        self.note_present(path, place);
        if let Some(maker) = self.paths.at(path).maker {
            self.restore_if_found(maker);
        }
    }

    pub(crate) fn note_present(&mut self, path: PathId, place: Place) {
        let shared = self.machine_at(place);
        let record = self.paths.entry(path);
        record.seen = Seen::Once;
        match shared {
            None => record.here = Presence::Present,
            Some(machine) => {
                record.set_on(machine, Presence::Present);
                if record.maker.is_some()
                    && let Some(machine) = self.machines.get_mut(machine)
                {
                    machine.made.insert(path);
                }
            }
        }
    }

    /// Notes that a path is no longer valid somewhere.
    pub(crate) fn path_gone(&mut self, path: PathId, place: Place) {
        let shared = self.machine_at(place);
        let Some(record) = self.paths.get_mut(path) else { return };
        let maker = record.maker;
        match shared {
            None => record.here = Presence::Absent,
            Some(machine) => {
                record.set_on(machine, Presence::Absent);
                if let Some(machine) = self.machines.get_mut(machine) {
                    machine.made.remove(&path);
                }
            }
        }
        if let Some(maker) = maker {
            self.rebuild_if_lost(maker);
        }
    }

    /// Returns the machine whose own store a place is; none for the caller's store.
    fn machine_at(&self, place: Place) -> Option<MachineId> {
        match place {
            Place::Here => None,
            Place::On(machine) => match self.machines.get(machine) {
                Some(record) if record.description.kind == MachineKind::Local => None,
                Some(_) | None => Some(machine),
            },
        }
    }

    /// Notes what a finished job left on its machine: what it made and what it needed.
    pub(crate) fn note_products(
        &mut self,
        job: JobId,
        machine: MachineId,
        made: &[(PathId, ByteCount)],
    ) {
        for (path, size) in made {
            let record = self.paths.entry(*path);
            record.size = Some(*size);
            record.maker.get_or_insert(job);
            self.note_present(*path, Place::On(machine));
        }
        for path in self.jobs.at(job).needs.clone() {
            self.note_present(path, Place::On(machine));
        }
    }

    /// Returns whether a path that was somewhere cannot be had from anywhere now.
    fn is_lost(&self, path: PathId) -> bool {
        let Some(record) = self.paths.get(path) else { return false };
        let is_up = |machine| self.machines.get(machine).is_some_and(|m| m.link == Link::Up);
        record.seen == Seen::Once
            && record.here != Presence::Present
            && !record
                .places
                .iter()
                .any(|(machine, presence)| *presence == Presence::Present && is_up(*machine))
    }

    /// Returns whether a built job's outputs cannot be had any more.
    pub(crate) fn outputs_are_lost(&self, job: JobId) -> bool {
        self.jobs.get(job).is_some_and(|record| {
            record.state == State::Built && record.outputs.iter().any(|path| self.is_lost(*path))
        })
    }

    /// Has a job built again if its outputs are lost and a job that is not started needs them.
    pub(crate) fn rebuild_if_lost(&mut self, job: JobId) {
        if !self.outputs_are_lost(job) {
            return;
        }
        let is_needed = self.jobs.at(job).dependents.iter().any(|dependent| {
            self.jobs
                .get(*dependent)
                .is_some_and(|record| matches!(record.state, State::Waiting | State::Ready))
        });
        if is_needed {
            self.unbuild(job);
        }
    }

    /// Has a built job built again; its dependents wait for it once more.
    pub(crate) fn unbuild(&mut self, job: JobId) {
        self.set_state(job, State::Waiting);
        for dependent in self.jobs.at(job).dependents.clone() {
            let Some(record) = self.jobs.get_mut(dependent) else { continue };
            record.missing += 1;
            if record.state == State::Ready {
                self.set_state(dependent, State::Waiting);
            }
        }
        let record = self.jobs.at_mut(job);
        record.rebuilds += 1;
        let is_enough = self.settings.rebuilds < record.rebuilds;
        let requirement = record.requirement;
        self.need_dependencies(job);
        if let Some(because) = self.failed_dependency(job) {
            self.end_for_dependency(job, because);
        } else if is_enough {
            self.end_without_machine(job);
        } else {
            self.ripe.push_back(job);
            self.renew_hope(requirement);
        }
    }

    /// Takes a job for built again that waits to be rebuilt, if its outputs can be had after all.
    pub(crate) fn restore_if_found(&mut self, job: JobId) {
        let Some(record) = self.jobs.get(job) else { return };
        let was_built = record.rebuilds != 0
            && record.verdict == VerdictDue::Given
            && matches!(record.state, State::Waiting | State::Ready);
        if was_built && !record.outputs.iter().any(|path| self.is_lost(*path)) {
            self.mark_built(job);
        }
    }

    /// Has a built job built again because the caller wants its outputs back.
    pub(crate) fn rebuild(&mut self, job: JobId) {
        let Some(record) = self.jobs.get_mut(job) else { return };
        match record.state {
            State::Built => {
                record.verdict = VerdictDue::Owed;
                self.unbuild(job);
            }
            // It is being built again already; now the caller waits for it, too.
            State::Waiting
            | State::Ready
            | State::Started { .. }
            | State::Stopping { then: Afterwards::Again, .. } => {
                record.verdict = VerdictDue::Owed;
            }
            State::Ended(Outcome::Unneeded) => {
                record.verdict = VerdictDue::Owed;
                self.need(job);
            }
            State::Stopping { then: Afterwards::End(_), .. } | State::Ended(_) => {}
        }
    }

    /// Forgets a job that has its verdict and on which nothing open depends.
    pub(crate) fn forget(&mut self, job: JobId) {
        let is_over = |job: JobId| {
            self.jobs
                .get(job)
                .is_some_and(|record| matches!(record.state, State::Built | State::Ended(_)))
        };
        let Some(record) = self.jobs.get(job) else { return };
        if !is_over(job) || !record.dependents.iter().all(|dependent| is_over(*dependent)) {
            return;
        }
        let Some(record) = self.jobs.remove(job) else { return };
        *crate::scheduler::count(&mut self.counts, record.state) -= 1;
        for dependency in &record.dependencies {
            if let Some(dependency) = self.jobs.get_mut(*dependency) {
                dependency.dependents.retain(|dependent| *dependent != job);
            }
        }
        for dependent in &record.dependents {
            if let Some(dependent) = self.jobs.get_mut(*dependent) {
                dependent.dependencies =
                    dependent.dependencies.iter().copied().filter(|other| *other != job).collect();
            }
        }
        for path in &record.outputs {
            if let Some(path) = self.paths.get_mut(*path).filter(|path| path.maker == Some(job)) {
                path.maker = None;
            }
        }
    }

    /// Forgets a path that no job needs or makes.
    pub(crate) fn forget_path(&mut self, path: PathId) {
        if self.paths.get(path).is_none_or(|record| record.maker.is_some()) {
            return;
        }
        let Some(record) = self.paths.remove(path) else { return };
        for (machine, _) in record.places {
            if let Some(machine) = self.machines.get_mut(machine) {
                machine.made.remove(&path);
            }
        }
    }
}
