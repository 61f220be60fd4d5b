//! Clients that come and go: what they share, what is submitted for them, what ends with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::{OutputName, PathInfo, StorePath};
use drover_derivation::{Derivation, DerivationKind};
use drover_schedule::{Event, JobId, JobStatus, OwnerId, Place, Scope};
use drover_store::Keeper;

use crate::driver::{Interest, JobPhase};
use crate::prepare::{JobPlan, Work};
use crate::service::engine::{Client, Engine, Joining};
use crate::service::router::ClientId;
use crate::service::table::{Bundle, BundleId, GoodFor, Key, Progress, Use};
use crate::terms::Terms;

/// Paths about which something is known, from which on what no job needs is forgotten.
const KNOWN_PATHS: usize = 200_000;

impl Engine {
    /// Takes a client in: its jobs are those of others where they are the same, and new ones
    /// otherwise.
    pub(crate) fn join(&mut self, joining: Joining) {
        let Joining { client, work, keys, targets, learned, lost, .. } = joining;
        self.router.add_client(client, joining.observer);
        let Work { infos, realised, jobs: plans, .. } = work;
        let (mapped, new) = self.share(plans, keys, &lost);
        let jobs = self.table.closure(mapped.iter().flatten().copied());
        let lacks_bundle =
            |job: &JobId| self.table.get(*job).is_some_and(|entry| entry.bundle.is_none());
        let lacking: Vec<JobId> = jobs.iter().copied().filter(lacks_bundle).collect();
        let sizes: BTreeMap<StorePath, u64> =
            infos.iter().map(|info| (info.path.clone(), info.nar_size.0)).collect();
        if !lacking.is_empty() {
            self.open_bundle(&lacking, infos, realised, joining.store);
        }
        let found = self.learn(learned);
        let submitted: Vec<JobId> = new.iter().map(|(job, _)| *job).collect();
        let owner = self.owners.of(joining.name.as_deref());
        for (job, plan) in new {
            self.submit((owner, joining.scope), job, plan, &sizes);
        }
        for job in &jobs {
            self.wait_for(client, *job, joining.terms.clone(), joining.scope);
        }
        let targets: Vec<JobId> = targets
            .iter()
            .map(|at| mapped.get(at.0 as usize).copied().flatten().unwrap_or(JobId(u32::MAX)))
            .collect();
        self.need(&targets, &jobs);
        for (machine, found) in found {
            self.driver.take_found(machine, found);
        }
        let is_open = |job: &JobId| self.is(*job, &Progress::Open);
        let pending: BTreeSet<JobId> = jobs.iter().copied().filter(is_open).collect();
        let state = Client {
            name: joining.name,
            targets,
            jobs,
            pending,
            after_failure: joining.after_failure,
            terms: joining.terms,
            scope: joining.scope,
            reply: Some(joining.reply),
        };
        let is_done = state.pending.is_empty();
        self.clients.insert(client, state);
        if is_done {
            self.answer(client, "");
        }
        self.explain_waits(&submitted);
    }

    /// Finds which of a client's jobs are there already, and makes entries for the others, such whose
    /// outputs are `lost` among them; returns the number of each, and the new ones with their dependencies
    /// before them.
    fn share(
        &mut self,
        plans: Vec<JobPlan>,
        keys: Vec<Key>,
        lost: &BTreeSet<StorePath>,
    ) -> (Vec<Option<JobId>>, Vec<(JobId, JobPlan)>) {
        self.vanished(lost);
        let order = dependencies_first(&plans);
        let mut mapped: Vec<Option<JobId>> = vec![None; plans.len()];
        let mut new = Vec::new();
        let mut plans: Vec<Option<(JobPlan, Key)>> =
            plans.into_iter().zip(keys).map(Some).collect();
        for at in order {
            let Some((mut plan, key)) = plans.get_mut(at).and_then(Option::take) else { continue };
            let own = plan.dependencies.iter();
            let dependencies: Vec<JobId> =
                own.filter_map(|job| mapped.get(job.0 as usize).copied().flatten()).collect();
            let good_for = good_for(&plan.derivation);
            let vanished = self.table.find(&key).is_some_and(|job| self.has_vanished(job, lost));
            let shared = self.table.shareable(&key, &dependencies, good_for);
            let job = shared.filter(|_| !vanished).unwrap_or_else(|| {
                let (job, node) = self.table.add(key, dependencies.clone());
                self.router.open(node, plan.path.clone());
                for output in plan.derivation.outputs.keys() {
                    self.realised.add(&(plan.path.clone(), output.clone()));
                    if good_for == GoodFor::Waiters || vanished {
                        // what depends on it waits for what it becomes this time
                        self.driver.shared.places.unrealise(&plan.path, output);
                    }
                }
                (plan.node, plan.dependencies) = (node, dependencies);
                new.push((job, plan));
                job
            });
            if let Some(slot) = mapped.get_mut(at) {
                *slot = Some(job);
            }
        }
        (mapped, new)
    }

    /// Keeps what a client found out about the inputs of jobs, and its view of the store, as long
    /// as those jobs need them.
    fn open_bundle(
        &mut self,
        jobs: &[JobId],
        infos: Vec<PathInfo>,
        realised: Vec<(StorePath, OutputName, StorePath)>,
        store: Arc<dyn Keeper>,
    ) {
        self.next_bundle += 1;
        let id = BundleId(self.next_bundle);
        let paths: Vec<StorePath> = infos.iter().map(|info| info.path.clone()).collect();
        for info in infos {
            self.paths_here.add(&info.path);
            self.driver.shared.places.add(info, Place::Here);
        }
        let mut outputs = Vec::with_capacity(realised.len());
        for (derivation, output, path) in realised {
            let of = (derivation, output);
            self.realised.add(&of);
            self.driver.shared.places.realise(&of.0, of.1.clone(), path);
            outputs.push(of);
        }
        let view = self.here.view(store);
        let bundle = Bundle { paths, realised: outputs, users: jobs.len(), _view: view };
        self.bundles.insert(id, bundle);
        for job in jobs {
            if let Some(entry) = self.table.get_mut(*job) {
                entry.bundle = Some(id);
            }
        }
    }

    fn submit(
        &mut self,
        whose: (OwnerId, Scope),
        job: JobId,
        plan: JobPlan,
        sizes: &BTreeMap<StorePath, u64>,
    ) {
        let outputs = plan.derivation.outputs.values().filter_map(|output| output.path());
        let outputs: Vec<StorePath> = outputs.cloned().collect();
        for path in plan.inputs.iter().chain(&outputs) {
            self.use_path(job, path);
        }
        for path in &plan.inputs {
            self.driver.path_at(path, Place::Here, sizes.get(path).copied());
        }
        if let Some(entry) = self.table.get_mut(job) {
            entry.scopes.told(whose.1);
        }
        self.driver.submit(whose, job, plan);
    }

    fn wait_for(&mut self, client: ClientId, job: JobId, terms: Terms, scope: Scope) {
        self.table.wanted_again(job);
        let Some(entry) = self.table.get_mut(job) else { return };
        if entry.waiters.insert(client)
            && let Some(state) = self.driver.jobs.get(job.0 as usize)
        {
            state.plan.terms.add(terms);
            entry.scopes.add(scope);
        }
        self.router.listen(entry.node, client);
        self.renew_scope(job);
    }

    /// Tells the scheduler where a job may run now: on this machine where one of those who wait for it
    /// lets it.
    fn renew_scope(&mut self, job: JobId) {
        if let Some(scope) = self.table.get_mut(job).and_then(|entry| entry.scopes.renewed()) {
            self.tell_scheduler(Event::Scoped { job, scope });
        }
    }

    /// Takes a client out.
    pub(crate) fn leave(&mut self, client: ClientId) {
        let Some(state) = self.clients.get(&client) else { return };
        let jobs = state.jobs.iter().copied().collect();
        self.driver.let_scheduler_decide();
        self.drop_interest(client, jobs);
        self.clients.remove(&client);
        self.router.remove_client(client);
        self.driver.let_scheduler_decide();
        self.evict();
        self.close_retired();
        let (here, jobs) = (&self.paths_here, &self.paths_of_jobs);
        let is_needed = |path: &StorePath| here.contains(path) || jobs.contains(path);
        self.driver.shared.places.shrink(KNOWN_PATHS, is_needed);
    }

    /// Ends a client's interest in jobs; what nobody else waits for is ended.
    pub(crate) fn drop_interest(&mut self, client: ClientId, jobs: Vec<JobId>) {
        let mut alone = Vec::new();
        let state = self.clients.get(&client);
        let terms = state.map(|state| state.terms.clone()).unwrap_or_default();
        let scope = state.map(|state| state.scope).unwrap_or_default();
        for job in jobs {
            if let Some(state) = self.clients.get_mut(&client) {
                state.jobs.remove(&job);
            }
            let Some(entry) = self.table.get_mut(job) else { continue };
            self.router.leave(entry.node, client);
            if !entry.waiters.remove(&client) {
                continue;
            }
            if let Some(state) = self.driver.jobs.get(job.0 as usize) {
                state.plan.terms.remove(terms.clone());
            }
            entry.scopes.remove(scope);
            match entry.waiters.is_empty() {
                true => alone.push(job),
                false => self.renew_scope(job),
            }
        }
        // all of them before the first is cancelled, as that takes along what depends on it
        for job in &alone {
            self.reopen_if_rebuilt(*job);
        }
        for job in alone {
            self.nobody_waits(job);
        }
    }

    /// Asks for a verdict on a job that is being built again as its outputs were lost.
    fn reopen_if_rebuilt(&mut self, job: JobId) {
        let Some(entry) = self.table.get_mut(job) else { return };
        let status = self.driver.scheduler.job_status(job);
        let is_over = matches!(status, Some(JobStatus::Done(_)) | None);
        if matches!(entry.progress, Progress::Built | Progress::Unneeded) && !is_over {
            entry.progress = Progress::Open;
            self.tell_scheduler(Event::Rebuild { job });
        }
    }

    /// Ends a job that nobody waits for, keeps it, or forgets it.
    pub(crate) fn nobody_waits(&mut self, job: JobId) {
        let Some(entry) = self.table.get(job) else { return };
        match entry.progress {
            Progress::Open => self.abandon(job),
            Progress::Built | Progress::Unneeded => {
                self.leave_bundle(job);
                self.table.retain(job);
                if self.is_lost(job) {
                    // looked at when all that goes with it has gone
                    self.losses = u64::MAX;
                }
            }
            Progress::Failed(_) => {
                // where something depends on it that was built before, it stays for that
                self.leave_bundle(job);
                self.forget(job);
            }
        }
    }

    fn abandon(&mut self, job: JobId) {
        self.table.unshare(job);
        let Some(state) = self.driver.jobs.get_mut(job.0 as usize) else { return };
        state.interest = Interest::Lost;
        if let (JobPhase::Stopping, Some(lane)) = (&state.state, state.lane) {
            self.driver.end_lane_if_unwanted(lane);
        }
        self.tell_scheduler(Event::Cancel { job });
    }

    pub(crate) fn leave_bundle(&mut self, job: JobId) {
        let Some(id) = self.table.get_mut(job).and_then(|entry| entry.bundle.take()) else {
            return;
        };
        let Some(bundle) = self.bundles.get_mut(&id) else { return };
        bundle.users = bundle.users.saturating_sub(1);
        if bundle.users > 0 {
            return;
        }
        let Some(bundle) = self.bundles.remove(&id) else { return };
        for path in &bundle.paths {
            if self.paths_here.remove(path) == Use::None {
                self.driver.shared.places.not_here(path);
                if let Some(path) = self.driver.paths.get(path) {
                    self.tell_scheduler(Event::PathGone { path, place: Place::Here });
                }
            }
        }
        for output in &bundle.realised {
            self.unrealise(output);
        }
    }
}

fn good_for(derivation: &Derivation) -> GoodFor {
    match derivation.kind() {
        Ok(DerivationKind::Impure) => GoodFor::Waiters,
        _ => GoodFor::Everybody,
    }
}

/// Returns places of jobs so that what a job depends on comes before it. Those that depend on
/// themselves come last.
fn dependencies_first(plans: &[JobPlan]) -> Vec<usize> {
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); plans.len()];
    let mut missing: Vec<usize> = vec![0; plans.len()];
    for (at, plan) in plans.iter().enumerate() {
        for dependency in &plan.dependencies {
            if let (Some(others), Some(count)) =
                (dependents.get_mut(dependency.0 as usize), missing.get_mut(at))
            {
                others.push(at);
                *count += 1;
            }
        }
    }
    let mut order: Vec<usize> =
        missing.iter().enumerate().filter(|(_, count)| **count == 0).map(|(at, _)| at).collect();
    let mut next = 0;
    while let Some(at) = order.get(next).copied() {
        next += 1;
        for dependent in dependents.get(at).into_iter().flatten() {
            if let Some(count) = missing.get_mut(*dependent) {
                *count -= 1;
                if *count == 0 {
                    order.push(*dependent);
                }
            }
        }
    }
    let cyclic = missing.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, _)| at);
    order.extend(cyclic);
    order
}
