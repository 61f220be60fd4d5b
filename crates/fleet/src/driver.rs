//! The loop around the scheduler: what happened goes in, what is to be done comes out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use drover_core::{PathInfo, StorePath};
use drover_schedule::{
    ByteCount, Command, Event, JobId, Lane, MachineId, MachineKind, Moment, OnFailure, PathId,
    Place, Scheduler, Settings,
};
use drover_store::{Trust, closure_order};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::event::{FleetEvent, JobFailureReport};
use crate::fleet::Fleet;
use crate::graph::Graph;
use crate::lane::{LaneContext, LaneJob, run_lane};
use crate::machine::{MachineSpec, Site};
use crate::merge::{Sources as _, fetch_small};
use crate::places::Kept;
use crate::prepare::{JobPlan, Work};
use crate::shared::{Happened, Shared};

/// A machine in a run.
pub(crate) struct MachineState {
    pub(crate) spec: MachineSpec,
    /// Grows with each failure: what is told of an earlier one is passed over.
    pub(crate) generation: u32,
    pub(crate) site: Option<Arc<dyn Site>>,
    pub(crate) trust: Trust,
    lanes: HashMap<u32, mpsc::UnboundedSender<LaneJob>>,
    tasks: JoinSet<()>,
    pub(crate) builds: usize,
    pub(crate) failures: usize,
    pub(crate) busy: Duration,
}

/// A job in a run.
pub(crate) struct JobState {
    pub(crate) plan: Arc<JobPlan>,
    /// Where it runs or ran.
    pub(crate) lane: Option<Lane>,
    pub(crate) state: JobPhase,
}

/// How far a job has come.
pub(crate) enum JobPhase {
    Waiting,
    Started,
    Stopping,
    Built,
    Failed(Box<JobFailureReport>),
}

/// Runs jobs until each has its verdict.
pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) scheduler: Scheduler,
    pub(crate) machines: Vec<MachineState>,
    pub(crate) jobs: Vec<JobState>,
    pub(crate) job_of: HashMap<crate::graph::NodeId, JobId>,
    pub(crate) options: crate::fleet::FleetOptions,
    /// What failed by itself, until the scheduler has its verdict.
    pub(crate) reports: HashMap<JobId, JobFailureReport>,
    paths: HashMap<StorePath, PathId>,
    /// Paths that machines are asked about when they connect.
    interesting: BTreeSet<StorePath>,
    happened: mpsc::UnboundedReceiver<Happened>,
    pending: Vec<Event>,
    wake: Option<Instant>,
    began: Instant,
    undecided: usize,
    /// Channels that a machine will surely need beside its first.
    expected_channels: usize,
}

impl Driver {
    pub(crate) fn new(fleet: &Fleet, graph: Arc<Graph>, work: Work) -> Driver {
        let (tell, happened) = mpsc::unbounded_channel();
        let names = fleet.machines.iter().map(|spec| spec.description.name.clone()).collect();
        let is_local = |spec: &MachineSpec| spec.description.kind == MachineKind::Local;
        let local_machine =
            (0..).map(MachineId).zip(&fleet.machines).find(|(_, spec)| is_local(spec));
        let shared = Arc::new(Shared::new(
            Arc::clone(&fleet.local),
            Arc::clone(&fleet.observer),
            fleet.options.log_lines,
            names,
            local_machine.map(|(machine, _)| machine),
            tell,
        ));
        let on_failure = match fleet.options.keep_going {
            true => OnFailure::KeepGoing,
            false => OnFailure::StopAll,
        };
        let settings = Settings { policy: fleet.options.policy, on_failure, ..Settings::default() };
        let mut driver = Driver {
            shared,
            graph,
            scheduler: Scheduler::new(settings),
            machines: fleet.machines.iter().cloned().map(MachineState::new).collect(),
            jobs: Vec::new(),
            job_of: HashMap::new(),
            options: fleet.options.clone(),
            reports: HashMap::new(),
            paths: HashMap::new(),
            interesting: work.infos.iter().map(|info| info.path.clone()).collect(),
            happened,
            pending: Vec::new(),
            wake: None,
            began: Instant::now(),
            undecided: 0,
            expected_channels: expected_channels(&work, fleet.machines.len()),
        };
        driver.take_work(work);
        driver
    }

    /// Tells the scheduler of machines, paths and jobs.
    fn take_work(&mut self, work: Work) {
        for (machine, state) in (0..).map(MachineId).zip(&self.machines) {
            let description = state.spec.description.clone();
            self.pending.push(Event::MachineAdded { machine, description });
        }
        for info in closure_order(work.infos) {
            self.path_at(&info.path, Place::Here, Some(info.nar_size.0));
            self.shared.places.add(info, Place::Here);
        }
        self.job_of = work.job_of;
        self.undecided = work.jobs.len();
        for (job, plan) in (0..).map(JobId).zip(work.jobs) {
            self.submit(job, plan);
        }
    }

    fn submit(&mut self, job: JobId, plan: JobPlan) {
        let derivation = &plan.derivation;
        let options = derivation.options();
        let known = |plan: &JobPlan| -> Vec<StorePath> {
            plan.derivation.outputs.values().filter_map(|output| output.path()).cloned().collect()
        };
        for (name, output) in &derivation.outputs {
            if let Some(path) = output.path() {
                self.shared.places.realise(&plan.path, name.clone(), path.clone());
            }
        }
        let required_features = derivation.required_system_features().unwrap_or_default();
        let prefer_local = options.is_ok_and(|options| options.prefer_local_build);
        let description = drover_schedule::Job {
            name: plan.path.to_string(),
            system: derivation.system.clone(),
            required_features,
            preference: match prefer_local {
                true => drover_schedule::Preference::PreferLocal,
                false => drover_schedule::Preference::Anywhere,
            },
            inputs: plan.inputs.iter().map(|path| self.path_id(path)).collect(),
            dependencies: plan.dependencies.clone(),
            outputs: known(&plan).iter().map(|path| self.path_id(path)).collect(),
            expected: None,
        };
        self.pending.push(Event::Submitted { job, description });
        self.jobs.push(JobState { plan: Arc::new(plan), lane: None, state: JobPhase::Waiting });
    }

    pub(crate) fn path_id(&mut self, path: &StorePath) -> PathId {
        let next = u32::try_from(self.paths.len()).map_or(PathId(u32::MAX), PathId);
        *self.paths.entry(path.clone()).or_insert(next)
    }

    /// Tells the scheduler where a path is. What is here is also on the machine that builds here.
    pub(crate) fn path_at(&mut self, path: &StorePath, place: Place, size: Option<u64>) {
        let (path, size) = (self.path_id(path), size.map(ByteCount));
        self.pending.push(Event::PathAt { path, place, size });
        if let (Place::Here, Some(local)) = (place, self.shared.local_machine()) {
            self.pending.push(Event::PathAt { path, place: Place::On(local), size });
        }
    }

    pub(crate) fn tell_scheduler(&mut self, event: Event) {
        self.pending.push(event);
    }

    pub(crate) fn undecided_again(&mut self) {
        self.undecided += 1;
    }

    /// Works until every job has its verdict.
    pub(crate) async fn run(&mut self) {
        loop {
            self.let_scheduler_decide();
            if self.undecided == 0 {
                return;
            }
            let wake = self.wake;
            let asleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let happened = tokio::select! {
                happened = self.happened.recv() => happened,
                () = asleep => {
                    self.wake = None;
                    self.pending.push(Event::Tick);
                    None
                }
            };
            let mut next = happened;
            while let Some(happened) = next {
                self.take(happened);
                next = self.happened.try_recv().ok();
            }
        }
    }

    pub(crate) fn let_scheduler_decide(&mut self) {
        while !self.pending.is_empty() {
            let now = Moment(self.began.elapsed());
            let events = std::mem::take(&mut self.pending);
            for command in self.scheduler.on_all(now, events) {
                self.carry_out(command);
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Connect { machine } => self.connect(machine),
            Command::Start { job, lane, .. } => self.start(job, lane),
            Command::Stop { job } => self.stop(job),
            Command::Done { job, verdict } => {
                self.undecided = self.undecided.saturating_sub(1);
                self.decided(job, verdict);
            }
            Command::Wake { at } => self.wake = Some(self.began + at.0),
        }
    }

    fn connect(&mut self, machine: MachineId) {
        let interesting = self.interesting.clone();
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        let site = (state.spec.open)();
        site.expect(self.expected_channels.min(state.spec.description.slots as usize));
        state.site = Some(Arc::clone(&site));
        let (generation, substitute) = (state.generation, state.spec.substitute);
        let shared = Arc::clone(&self.shared);
        let name = shared.name_of(machine);
        shared.observer.event(FleetEvent::Connecting { machine: name });
        state.tasks.spawn(async move {
            let began = Instant::now();
            let connected = async {
                let description = site.connect().await?;
                let took = began.elapsed();
                let valid = site.hold_valid(&interesting, substitute).await?;
                Ok((description, took, valid))
            };
            match connected.await {
                Ok((description, took, valid)) => {
                    shared.set_site(machine, site);
                    let round_trip = began.elapsed().saturating_sub(took);
                    shared.tell(Happened::Connected {
                        machine,
                        generation,
                        description,
                        valid,
                        took,
                        round_trip,
                    });
                }
                Err(error) => {
                    shared.tell(Happened::ConnectFailed { machine, generation, error });
                }
            }
        });
    }

    /// Fetches a small output before somebody asks, where other machines may: then its way to them
    /// is half as long.
    pub(crate) fn fetch_ahead(&mut self, machine: MachineId, place: Place, info: PathInfo) {
        let up = self.machines.iter().filter(|machine| machine.site.is_some()).count();
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        let Ok((store, traffic)) = self.shared.source(place) else { return };
        if up < 2 {
            return;
        }
        let shared = Arc::clone(&self.shared);
        state.tasks.spawn(async move {
            let path = info.path.clone();
            // where it fails, whoever needs the path finds out why
            if let Ok(nar) = fetch_small(store, traffic, info).await
                && shared.places.keep(&path, nar) == Kept::Yes
            {
                shared.tell(Happened::Kept { path });
            }
        });
    }

    fn start(&mut self, job: JobId, lane: Lane) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        state.lane = Some(lane);
        state.state = JobPhase::Started;
        let plan = Arc::clone(&state.plan);
        let node = plan.node;
        let (machine, shared) = (lane.machine, Arc::clone(&self.shared));
        let name = shared.name_of(machine);
        shared.observer.event(FleetEvent::Assigned { node, machine: name.clone() });
        let Some(on) = self.machines.get_mut(machine.0 as usize) else { return };
        let Some(site) = on.site.clone() else { return };
        let queue = on.lanes.entry(lane.index).or_insert_with(|| {
            let (queue, jobs) = mpsc::unbounded_channel();
            let context = LaneContext {
                place: shared.place_of(machine),
                shared,
                site,
                machine,
                name: name.into(),
                index: lane.index,
                trust: on.trust,
                generation: on.generation,
            };
            on.tasks.spawn(run_lane(Arc::new(context), jobs));
            queue
        });
        // a lane ends only with its machine, whose failing is told apart
        drop(queue.send(LaneJob { job, plan }));
    }

    /// Notes that a job is not wanted any more. A lane can only be ended whole, so a job stops when
    /// all that are on its lane shall. Where the rest goes on, a job is only stopped because one
    /// ahead of it failed, and then it ends by itself at once, for want of an input.
    fn stop(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        state.state = JobPhase::Stopping;
        if self.options.keep_going {
            return;
        }
        let Some(lane) = state.lane else { return };
        let on_lane = |state: &&JobState| {
            state.lane == Some(lane)
                && matches!(state.state, JobPhase::Started | JobPhase::Stopping)
        };
        let all_stop = self
            .jobs
            .iter()
            .filter(on_lane)
            .all(|state| matches!(state.state, JobPhase::Stopping));
        if !all_stop {
            return;
        }
        let stopped: Vec<JobId> = (0..)
            .map(JobId)
            .zip(&self.jobs)
            .filter(|(_, state)| on_lane(state))
            .map(|(job, _)| job)
            .collect();
        self.end_lane(lane);
        for job in stopped {
            if let Some(state) = self.jobs.get_mut(job.0 as usize) {
                state.state = JobPhase::Waiting;
            }
            self.pending.push(Event::Stopped { job });
        }
    }

    /// Ends what runs on a lane: its queue's end is the end of its tasks and its connection.
    fn end_lane(&mut self, lane: Lane) {
        if let Some(machine) = self.machines.get_mut(lane.machine.0 as usize) {
            machine.lanes.remove(&lane.index);
        }
    }

    /// Gives the lanes' channels back, for the transfers that follow, and gives up on machines that
    /// have not connected yet.
    pub(crate) async fn close_lanes(&mut self) {
        for machine in &mut self.machines {
            machine.lanes.clear();
            machine.tasks.abort_all();
        }
        for machine in &mut self.machines {
            while machine.tasks.join_next().await.is_some() {}
        }
    }

    /// Ends everything on all machines, and waits until it has ended here.
    pub(crate) async fn stop_everything(&mut self) {
        for machine in &mut self.machines {
            machine.end();
        }
        for (machine, _) in (0..).map(MachineId).zip(&self.machines) {
            self.shared.forget_site(machine);
        }
        for machine in &mut self.machines {
            while machine.tasks.join_next().await.is_some() {}
        }
    }
}

/// Returns how many channels a machine will need beside its first: as many as it can use for the
/// jobs that are ready at once, and one for outputs that go elsewhere.
fn expected_channels(work: &Work, machines: usize) -> usize {
    let ready = work.jobs.iter().filter(|job| job.dependencies.is_empty()).count();
    let lanes = ready.div_ceil(machines.max(1));
    let transfers = usize::from(machines > 1 && ready > 1 && ready < work.jobs.len());
    (lanes + transfers).saturating_sub(1)
}

impl MachineState {
    fn new(spec: MachineSpec) -> MachineState {
        MachineState {
            spec,
            generation: 0,
            site: None,
            trust: Trust::Unknown,
            lanes: HashMap::new(),
            tasks: JoinSet::new(),
            builds: 0,
            failures: 0,
            busy: Duration::ZERO,
        }
    }

    /// Drops all connections and what was asked over them.
    pub(crate) fn end(&mut self) {
        self.generation += 1;
        self.lanes.clear();
        self.tasks.abort_all();
        self.site = None;
    }
}
