//! New jobs: who depends on whom, who comes first, who can do it.
//!
//! Invariant: a batch costs time linear in its jobs and edges, plus the earlier jobs whose rank it
//! raises; matching happens once per distinct requirement, not once per job.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::command::Verdict;
use crate::description::Job;
use crate::explanation::Outcome;
use crate::id::{JobId, PathId};
use crate::job::{JobRecord, Queueing, State, VerdictDue};
use crate::machine::{Class, ClassKey, Duty, Needs, Requirement};
use crate::scheduler::{Scheduler, count};
use crate::table::{ClassId, RequirementId};

/// Longer than any run.
const AGES: Duration = Duration::from_secs(1 << 40);

impl Scheduler {
    /// Takes new jobs; ids in use are ignored.
    pub(crate) fn submit(&mut self, batch: Vec<(JobId, Job)>) {
        if batch.is_empty() {
            return;
        }
        let mut jobs = Vec::with_capacity(batch.len());
        for (job, description) in batch {
            if self.jobs.get(job).is_none() {
                self.insert_job(job, description);
                jobs.push(job);
            }
        }
        for job in &jobs {
            self.link_job(*job);
        }
        let first = jobs.first().map_or(0, |job| self.jobs.at(*job).order);
        let order = self.topological(&jobs, first);
        self.rank(&order, first);
        self.open(&jobs, &order);
        let asked: std::collections::BTreeSet<RequirementId> =
            jobs.iter().map(|job| self.jobs.at(*job).requirement).collect();
        for requirement in asked {
            self.renew_hope(requirement);
        }
    }

    fn insert_job(&mut self, job: JobId, description: Job) {
        let requirement = self.requirement(Needs {
            owner: description.owner,
            scope: description.scope,
            system: description.system,
            features: description.required_features,
        });
        let mut dependencies = description.dependencies;
        dependencies.sort_unstable();
        dependencies.dedup();
        for path in &description.outputs {
            self.paths.entry(*path).maker = Some(job);
        }
        let weight = self.usual_duration(description.expected);
        // Every second that a job has waited counts like a second of what depends on it, so that
        // none waits for ever behind longer graphs that keep coming.
        let seniority = AGES.saturating_sub(self.now.0);
        let record = JobRecord {
            name: description.name.into_boxed_str(),
            requirement,
            preference: description.preference,
            demand: description.demand,
            needs: description.inputs.into_boxed_slice(),
            dependencies: dependencies.into_boxed_slice(),
            dependents: Vec::new(),
            outputs: description.outputs.into_boxed_slice(),
            expected: description.expected,
            weight,
            rank: weight.saturating_add(seniority),
            order: self.submitted,
            missing: 0,
            state: State::Waiting,
            attempts: 0,
            rebuilds: 0,
            tried: Vec::new(),
            without_room: None,
            queueing: Queueing::Allowed,
            verdict: VerdictDue::Owed,
            decision: None,
        };
        self.submitted += 1;
        self.requirements.at_mut(requirement).open += 1;
        *count(&mut self.counts, State::Waiting) += 1;
        self.jobs.insert(job, record);
    }

    /// Joins a job to its dependencies.
    fn link_job(&mut self, job: JobId) {
        let dependencies = self.jobs.at(job).dependencies.clone();
        let mut needs: Vec<PathId> = self.jobs.at(job).needs.to_vec();
        let mut missing = 0;
        for dependency in &dependencies {
            let Some(record) = self.jobs.get_mut(*dependency) else {
                missing += 1;
                continue;
            };
            record.dependents.push(job);
            needs.extend_from_slice(&record.outputs);
            if record.state != State::Built {
                missing += 1;
            }
        }
        needs.sort_unstable();
        needs.dedup();
        let record = self.jobs.at_mut(job);
        record.missing = missing;
        record.needs = needs.into_boxed_slice();
    }

    /// Returns the new jobs with every job behind its dependencies; without those on a cycle.
    fn topological(&self, jobs: &[JobId], first: u64) -> Vec<JobId> {
        let is_new = |job: &JobId| self.jobs.get(*job).is_some_and(|record| first <= record.order);
        let mut waits_for: BTreeMap<JobId, usize> = BTreeMap::new();
        let mut order = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.jobs.at(*job).dependencies.iter().filter(|job| is_new(job)).count() {
                0 => order.push(*job),
                count => drop(waits_for.insert(*job, count)),
            }
        }
        let mut next = 0;
        while let Some(job) = order.get(next).copied() {
            next += 1;
            for dependent in &self.jobs.at(job).dependents {
                if let Some(count) = waits_for.get_mut(dependent) {
                    *count -= 1;
                    if *count == 0 {
                        order.push(*dependent);
                    }
                }
            }
        }
        order
    }

    /// Computes the ranks of new jobs, and raises those of earlier jobs that they depend on.
    fn rank(&mut self, order: &[JobId], first: u64) {
        let mut raised: VecDeque<(JobId, Duration)> = VecDeque::new();
        for job in order.iter().rev() {
            let rank = self.jobs.at(*job).rank;
            let dependencies = self.jobs.at(*job).dependencies.clone();
            for dependency in &dependencies {
                let Some(record) = self.jobs.get_mut(*dependency) else { continue };
                let through = record.weight.saturating_add(rank);
                if record.order < first {
                    raised.push_back((*dependency, through));
                } else if record.rank < through {
                    record.rank = through;
                }
            }
        }
        while let Some((job, rank)) = raised.pop_front() {
            let record = self.jobs.at(job);
            if rank <= record.rank || matches!(record.state, State::Built | State::Ended(_)) {
                continue;
            }
            let was = record.state;
            if was == State::Ready {
                self.set_state(job, State::Waiting);
            }
            self.jobs.at_mut(job).rank = rank;
            if was == State::Ready {
                self.set_state(job, State::Ready);
            }
            for dependency in &self.jobs.at(job).dependencies {
                if let Some(dependency_record) = self.jobs.get(*dependency) {
                    raised.push_back((*dependency, dependency_record.weight.saturating_add(rank)));
                }
            }
        }
    }

    /// Ends what can never run, and looks at what can run at once.
    fn open(&mut self, jobs: &[JobId], order: &[JobId]) {
        for job in jobs {
            if self.jobs.at(*job).state != State::Waiting {
                continue;
            }
            let requirement = self.jobs.at(*job).requirement;
            if self.requirements.at(requirement).classes.is_empty() {
                let reasons = self.impossible(requirement);
                self.end(*job, Outcome::Impossible, Verdict::Impossible { reasons });
                continue;
            }
            self.need_dependencies(*job);
            if let Some(because) = self.failed_dependency(*job) {
                self.end_for_dependency(*job, because);
            } else if self.jobs.at(*job).missing == 0 {
                self.ripe.push_back(*job);
            }
        }
        if order.len() < jobs.len() {
            self.end_cycles(jobs, order);
        }
    }

    /// Returns the root of why a job can never run because of a dependency, if so.
    pub(crate) fn failed_dependency(&self, job: JobId) -> Option<JobId> {
        self.jobs.at(job).dependencies.iter().find_map(|dependency| {
            match self.jobs.get(*dependency).map(|record| record.state) {
                None => Some(*dependency),
                Some(State::Ended(Outcome::DependencyFailed { because })) => Some(because),
                // it can be built after all
                Some(State::Ended(Outcome::Unneeded)) => None,
                Some(State::Ended(_)) => Some(*dependency),
                Some(_) => None,
            }
        })
    }

    /// Ends jobs that depend on themselves: there is nothing that could be built first.
    fn end_cycles(&mut self, jobs: &[JobId], order: &[JobId]) {
        let sound: std::collections::BTreeSet<&JobId> = order.iter().collect();
        for job in jobs {
            if !sound.contains(job) && self.jobs.at(*job).state == State::Waiting {
                self.end_for_dependency(*job, *job);
            }
        }
    }

    /// Returns the id of what some jobs need, matched against all classes if it is new.
    pub(crate) fn requirement(&mut self, needs: Needs) -> RequirementId {
        if let Some(id) = self.requirement_ids.get(&needs) {
            return *id;
        }
        let mut classes: Vec<(Reverse<u64>, usize, ClassId)> = Vec::new();
        for (key, id) in &self.class_ids {
            if key.meets(&needs) {
                classes.push((key.pace, key.features.len(), *id));
            }
        }
        classes.sort_unstable();
        let id = self.requirements.push(Requirement {
            needs: needs.clone(),
            classes: classes.iter().map(|(_, _, class)| *class).collect(),
            ready: std::collections::BTreeSet::new(),
            open: 0,
            impossible: None,
        });
        for (_, _, class) in classes {
            self.classes.at_mut(class).requirements.push(id);
        }
        self.requirement_ids.insert(needs, id);
        id
    }

    /// Returns the class of machines like this one, matched against all requirements if it is new.
    pub(crate) fn class(&mut self, key: ClassKey, machine: crate::id::MachineId) -> ClassId {
        if let Some(id) = self.class_ids.get(&key) {
            self.classes.at_mut(*id).members.push(machine);
            return *id;
        }
        let id = self.classes.push(Class { members: vec![machine], ..Class::default() });
        let met: Vec<RequirementId> = self
            .requirements
            .iter()
            .filter(|(_, asked)| key.meets(&asked.needs))
            .map(|(requirement, _)| requirement)
            .collect();
        self.class_ids.insert(key, id);
        let places: BTreeMap<ClassId, (Reverse<u64>, usize)> =
            self.class_ids.iter().map(|(key, id)| (*id, (key.pace, key.features.len()))).collect();
        for requirement in &met {
            let classes = &mut self.requirements.at_mut(*requirement).classes;
            classes.push(id);
            classes.sort_by_key(|class| (places.get(class).copied(), *class));
        }
        self.classes.at_mut(id).requirements = met;
        id
    }

    /// Returns why no machine meets a requirement.
    pub(crate) fn impossible(&mut self, requirement: RequirementId) -> crate::command::Reasons {
        let asked = self.requirements.at(requirement);
        if let Some(reasons) = &asked.impossible {
            return Arc::clone(reasons);
        }
        let reasons: crate::command::Reasons = self
            .machines
            .iter()
            .filter(|(_, record)| record.duty != Duty::Removed)
            .filter_map(|(machine, record)| {
                Some((machine, record.description.refusal_of(&asked.needs)?))
            })
            .collect();
        self.requirements.at_mut(requirement).impossible = Some(Arc::clone(&reasons));
        reasons
    }

    /// Returns what a job is taken to last at speed 1.
    pub(crate) fn usual_duration(&self, expected: Option<Duration>) -> Duration {
        expected.or_else(|| self.durations.median()).unwrap_or(self.settings.unknown_duration)
    }
}
