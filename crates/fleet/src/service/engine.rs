//! The one task that owns the scheduler, the machines and the jobs of all clients.
//!
//! Invariants: each client gets exactly one answer to each of its questions; a job without waiters
//! is built or on its way out; what is known of a path here is known through a view that some
//! client or some job's bundle keeps open.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use drover_core::{OutputName, StorePath};
use drover_schedule::{Event, JobId, MachineId, Scope, Verdict};
use drover_store::{AfterFailure, BuildFailure, Keeper, RealiseObserver};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::driver::Driver;
use crate::machine::{MachineSpec, Site};
use crate::machine_state::Generation;
use crate::merge::Origin;
use crate::prepare::Work;
use crate::service::builds::{BuildExplanation, BuildId, BuildList, KeptLog};
use crate::service::control::{Control, Duty};
use crate::service::failures::Role;
use crate::service::here::Here;
use crate::service::options::{OwnKind, ServiceOptions, Shutdown};
use crate::service::owners::Owners;
use crate::service::router::{ClientId, Router};
use crate::service::table::{Bundle, BundleId, Key, Progress, Table, Uses};
use crate::service::vanished::Doubts;
use crate::service::view::MachineView;
use crate::sought::Findings;
use crate::terms::Terms;

/// What clients ask of the engine.
pub(crate) enum Command {
    /// What should be looked at, now that these jobs are asked for?
    Look { keys: Vec<Key>, reply: oneshot::Sender<Doubts> },
    /// Have these jobs built, and say what became of them.
    Join(Box<Joining>),
    /// Outputs of targets are nowhere: have them built again.
    Again { client: ClientId, lost: BTreeSet<StorePath>, reply: oneshot::Sender<Settled> },
    /// Paths could not be had from a machine.
    SourceFailed { origin: Origin, error: drover_store::StoreError, done: oneshot::Sender<()> },
    /// The client wants nothing any more.
    Leave { client: ClientId },
    /// Other machines, from now on.
    Reload { machines: Vec<MachineSpec>, options: ServiceOptions },
    /// It is over.
    Shutdown { how: Shutdown, done: oneshot::Sender<()> },
    /// How are the machines?
    Machines { reply: oneshot::Sender<Vec<MachineView>> },
    /// What is built, or waits to be?
    Builds { reply: oneshot::Sender<BuildList> },
    /// Why is a build where it is?
    Explain { build: BuildId, reply: oneshot::Sender<Option<BuildExplanation>> },
    /// Which is the last build of the derivation of this name, whether it's over or not?
    Last { name: String, reply: oneshot::Sender<Option<BuildId>> },
    /// What is kept of the log of a build?
    Log { build: BuildId, reply: oneshot::Sender<Option<KeptLog>> },
    /// Connect to those that nobody has needed, and say how they are when one is there or none is.
    Reach { reply: oneshot::Sender<Vec<MachineView>> },
    /// Have the machines of a name take jobs or not.
    SetDuty { name: String, duty: Duty },
    /// How much is kept?
    Census { reply: oneshot::Sender<super::Census> },
}

/// A machine that is connected or is being connected to.
pub(crate) struct Reachable {
    pub(crate) machine: MachineId,
    pub(crate) description: drover_schedule::Machine,
    pub(crate) generation: Generation,
    pub(crate) site: Arc<dyn Site>,
}

/// What a machine was found to have.
pub(crate) struct Learned {
    pub(crate) machine: MachineId,
    pub(crate) generation: Generation,
    pub(crate) valid: BTreeSet<StorePath>,
    /// Outputs of the client's jobs.
    pub(crate) found: Findings,
}

/// A client with its jobs.
pub(crate) struct Joining {
    pub(crate) client: ClientId,
    pub(crate) work: Work,
    /// The keys of the jobs, in their order.
    pub(crate) keys: Vec<Key>,
    /// Those among them that are asked for.
    pub(crate) targets: Vec<JobId>,
    pub(crate) learned: Vec<Learned>,
    /// What was built into the store and isn't there any more.
    pub(crate) lost: BTreeSet<StorePath>,
    pub(crate) store: Arc<dyn Keeper>,
    /// Who it is, where that is known.
    pub(crate) name: Option<String>,
    pub(crate) observer: Arc<dyn RealiseObserver>,
    pub(crate) after_failure: AfterFailure,
    pub(crate) terms: Terms,
    /// Where its builds may run.
    pub(crate) scope: Scope,
    pub(crate) reply: oneshot::Sender<Settled>,
}

/// What became of a target.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Built {
        outputs: std::collections::BTreeMap<OutputName, StorePath>,
        period: Option<(SystemTime, SystemTime)>,
    },
    Failed(BuildFailure),
}

/// What became of the targets, in the order of the question.
pub(crate) type Settled = Vec<Outcome>;

/// A client that is there.
pub(crate) struct Client {
    /// Who it is, where that is known.
    pub(crate) name: Option<String>,
    /// All jobs that it waits for, what those depend on among them.
    pub(crate) jobs: BTreeSet<JobId>,
    pub(crate) targets: Vec<JobId>,
    /// Those without a verdict.
    pub(crate) pending: BTreeSet<JobId>,
    pub(crate) after_failure: AfterFailure,
    /// What it asks of the builds.
    pub(crate) terms: Terms,
    pub(crate) scope: Scope,
    pub(crate) reply: Option<oneshot::Sender<Settled>>,
}

/// See the module.
pub(crate) struct Engine {
    pub(crate) driver: Driver,
    pub(crate) here: Arc<Here>,
    pub(crate) router: Arc<Router>,
    pub(crate) table: Table,
    pub(crate) clients: HashMap<ClientId, Client>,
    pub(crate) bundles: HashMap<BundleId, Bundle>,
    pub(crate) next_bundle: u64,
    /// Paths that are valid here as bundles say.
    pub(crate) paths_here: Uses<StorePath>,
    /// Paths that the scheduler knows because of jobs.
    pub(crate) paths_of_jobs: Uses<StorePath>,
    /// Outputs whose paths are known because of jobs and bundles.
    pub(crate) realised: Uses<(StorePath, OutputName)>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// See [`ServiceOptions::own_kind`].
    pub(crate) own_kind: Option<OwnKind>,
    /// After how long without clients machines are disconnected; never where absent.
    pub(crate) idle: Option<Duration>,
    /// Since when there has been no client, as long as a machine is connected.
    pub(crate) alone_since: Option<Instant>,
    /// Machines that are in the configuration no more.
    pub(crate) retired: BTreeSet<MachineId>,
    /// Builds that are over and forgotten, the last ones last.
    pub(crate) past: VecDeque<BuildExplanation>,
    /// The generations of all machines together when it was last looked at what was lost with them.
    pub(crate) losses: u64,
    pub(crate) control: Control,
    pub(crate) owners: Owners,
    /// Those who wait for the end.
    pub(crate) ending: Vec<oneshot::Sender<()>>,
}

impl Engine {
    /// Works until it is shut down, or until nobody can ask anything any more.
    pub(crate) async fn run(mut self) {
        loop {
            self.settle();
            if !self.ending.is_empty() && self.clients.is_empty() {
                break;
            }
            let idle = self.alone_since.zip(self.idle).map(|(since, idle)| since + idle);
            let idle = async {
                match idle {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => {
                    let Some(command) = command else { break };
                    self.command(command);
                    while let Ok(command) = self.commands.try_recv() {
                        self.command(command);
                    }
                }
                () = self.driver.step() => {}
                () = idle => self.disconnect_idle(),
            }
        }
        self.driver.stop_everything().await;
        for done in self.ending {
            // whoever waited may be gone
            done.send(()).ok();
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Look { keys, reply } => drop(reply.send(self.doubts(&keys))),
            Command::Join(joining) => self.join(*joining),
            Command::Again { client, lost, reply } => self.again(client, &lost, reply),
            Command::SourceFailed { origin, error, done } => {
                self.driver.source_failed(origin, &error);
                done.send(()).ok();
            }
            Command::Leave { client } => self.leave(client),
            Command::Reload { machines, options } => self.reload(machines, &options),
            Command::Shutdown { how, done } => {
                self.ending.push(done);
                if how == Shutdown::Cancel {
                    let clients: Vec<ClientId> = self.clients.keys().copied().collect();
                    for client in clients {
                        self.answer(client, "cancelled, as the daemon is stopping");
                        self.leave(client);
                    }
                }
            }
            Command::Machines { reply } => drop(reply.send(self.views())),
            Command::Builds { reply } => drop(reply.send(self.builds())),
            Command::Explain { build, reply } => drop(reply.send(self.explain(build))),
            Command::Last { name, reply } => drop(reply.send(self.last_build(&name))),
            Command::Log { build, reply } => drop(reply.send(self.kept_log(build))),
            Command::Reach { reply } => self.reach(reply),
            Command::SetDuty { name, duty } => self.set_duty(&name, duty),
            Command::Census { reply } => drop(reply.send(self.census())),
        }
    }

    /// Lets the scheduler decide, and tells everybody what follows, until nothing does.
    fn settle(&mut self) {
        loop {
            self.driver.let_scheduler_decide();
            let news = std::mem::take(&mut self.driver.news);
            if news.is_empty() && self.driver.pending.is_empty() {
                break;
            }
            let over: Vec<JobId> =
                news.into_iter().filter_map(|(job, verdict)| self.note(job, &verdict)).collect();
            for job in over {
                self.tell_waiters(job);
            }
        }
        for machine in &mut self.driver.machines {
            while machine.tasks.try_join_next().is_some() {}
            while machine.connecting.try_join_next().is_some() {}
        }
        let losses = self.driver.machines.iter().map(|state| u64::from(state.generation.0)).sum();
        if self.losses != losses {
            self.losses = losses;
            self.drop_lost();
        }
        self.tell_reached();
        let connected = self.driver.machines.iter().any(|state| state.site.is_some());
        match self.clients.is_empty() && connected {
            true => drop(self.alone_since.get_or_insert_with(Instant::now)),
            false => self.alone_since = None,
        }
    }

    /// Takes note of a verdict.
    fn note(&mut self, job: JobId, verdict: &Verdict) -> Option<JobId> {
        let progress = match verdict {
            Verdict::Built => Progress::Built,
            Verdict::Unneeded => Progress::Unneeded,
            _ => Progress::Failed(self.failure(job)),
        };
        let node = self.table.get(job)?.node;
        let end = self.end_of(job);
        self.table.get_mut(job)?.end = end;
        if progress == Progress::Built {
            let period = self.router.began(node).map(|began| (began, SystemTime::now()));
            let made: Vec<StorePath> = self.outputs_of(job).into_values().collect();
            for path in &made {
                self.use_path(job, path);
            }
            self.table.get_mut(job)?.period = period;
        }
        self.table.get_mut(job)?.progress = progress;
        Some(job)
    }

    /// Returns the paths that a job's outputs became, as far as they are known.
    pub(crate) fn outputs_of(
        &self,
        job: JobId,
    ) -> std::collections::BTreeMap<OutputName, StorePath> {
        let Some(state) = self.driver.jobs.get(job.0 as usize) else { return Default::default() };
        let plan = &state.plan;
        let path = |name: &OutputName| {
            let known = plan.derivation.outputs.get(name).and_then(|output| output.path());
            known.cloned().or_else(|| self.driver.shared.realised(&plan.path, name))
        };
        let names = plan.derivation.outputs.keys();
        names.filter_map(|name| Some((name.clone(), path(name)?))).collect()
    }

    /// Tells those who wait for a job of its end.
    fn tell_waiters(&mut self, job: JobId) {
        let Some(entry) = self.table.get(job) else { return };
        let failure = match &entry.progress {
            Progress::Failed(failure) => Some(failure.clone()),
            Progress::Open | Progress::Built | Progress::Unneeded => None,
        };
        let waiters = entry.waiters.clone();
        for client in &waiters {
            let Some(state) = self.clients.get_mut(client) else { continue };
            state.pending.remove(&job);
            let stops = failure.is_some() && state.after_failure == AfterFailure::Stop;
            let is_over = stops || state.pending.is_empty();
            let role = Role::of(job, &state.targets);
            if let Some(failure) = &failure {
                self.tell_failure(*client, job, failure, role);
            }
            if is_over {
                self.answer(*client, "cancelled because another build failed");
            }
        }
        if waiters.is_empty() {
            self.nobody_waits(job);
        }
    }

    /// Answers a client that waits for an answer, and drops its interest in what it won't get.
    pub(crate) fn answer(&mut self, client: ClientId, unfinished: &str) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let Some(reply) = state.reply.take() else { return };
        let open: Vec<JobId> = std::mem::take(&mut state.pending).into_iter().collect();
        let targets = self.clients.get(&client).map(|state| &state.targets);
        let settled: Settled =
            targets.into_iter().flatten().map(|job| self.outcome(*job, unfinished)).collect();
        // the client may be gone, and then it says so
        drop(reply.send(settled));
        self.drop_interest(client, open);
    }

    /// Has what is lost built again, and answers when it is.
    fn again(
        &mut self,
        client: ClientId,
        lost: &BTreeSet<StorePath>,
        reply: oneshot::Sender<Settled>,
    ) {
        let Some(state) = self.clients.get(&client) else { return };
        let makes_lost = |job: &JobId| {
            let outputs = self.outputs_of(*job);
            outputs.values().any(|path| lost.contains(path))
        };
        let makers: Vec<JobId> = state.jobs.iter().copied().filter(makes_lost).collect();
        for job in &makers {
            let Some(entry) = self.table.get_mut(*job) else { continue };
            if entry.progress == Progress::Built {
                (entry.progress, entry.end) = (Progress::Open, None);
                self.driver.build_again(*job);
            }
        }
        self.revive(makers.clone());
        let is_open = |job: &JobId| {
            self.table.get(*job).is_some_and(|entry| entry.progress == Progress::Open)
        };
        let pending = makers.into_iter().filter(is_open).collect();
        if let Some(state) = self.clients.get_mut(&client) {
            state.pending = pending;
            state.reply = Some(reply);
            if state.pending.is_empty() {
                self.answer(client, "");
            }
        }
    }

    /// Notes that a job has a path known to the scheduler.
    pub(crate) fn use_path(&mut self, job: JobId, path: &StorePath) {
        if let Some(entry) = self.table.get_mut(job)
            && entry.paths.insert(path.clone())
        {
            self.paths_of_jobs.add(path);
        }
    }

    /// Tells the scheduler, as `Driver::tell_scheduler`.
    pub(crate) fn tell_scheduler(&mut self, event: Event) {
        self.driver.tell_scheduler(event);
    }
}
