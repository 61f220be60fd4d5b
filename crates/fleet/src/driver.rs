//! The loop around the scheduler: what happened goes in, what is to be done comes out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use drover_core::{PathInfo, StorePath};
use drover_schedule::{
    ByteCount, Command, Event, JobFailure, JobId, JobStatus, Lane, MachineId, MachineKind, Moment,
    OnFailure, Outcome, PathId, Place, Scheduler, Settings, Verdict,
};
use drover_store::Trust;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::event::{FleetEvent, JobFailureReport};
use crate::fleet::Fleet;
use crate::graph::Graph;
use crate::intake::expected_channels;
use crate::lane::{Guessing, LaneContext, LaneJob, run_lane};
use crate::machine::MachineSpec;
use crate::machine_state::{LaneHandle, MachineState};
use crate::merge::{Found, Sources as _, fetch_small};
use crate::places::Kept;
use crate::prepare::{JobPlan, Work};
use crate::shared::{Happened, Shared};

/// A job in a run.
pub(crate) struct JobState {
    pub(crate) plan: Arc<JobPlan>,
    /// Where it runs or ran.
    pub(crate) lane: Option<Lane>,
    pub(crate) state: JobPhase,
    pub(crate) verdict: Awaited,
}

/// Whether the run goes on until a job has its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    Yes,
    /// It had one; another may come of itself.
    No,
}

/// How far a job has come.
pub(crate) enum JobPhase {
    Waiting,
    Started,
    Stopping,
    /// It came back after it was told to stop.
    Stopped,
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
    pub(crate) paths: HashMap<StorePath, PathId>,
    /// Paths that machines are asked about when they connect.
    pub(crate) interesting: Arc<BTreeSet<StorePath>>,
    happened: mpsc::UnboundedReceiver<Happened>,
    pub(crate) pending: Vec<Event>,
    wake: Option<Instant>,
    began: Instant,
    pub(crate) undecided: usize,
    /// Channels that a machine will surely need beside its first.
    expected_channels: usize,
}

impl Driver {
    pub(crate) fn new(
        fleet: &Fleet,
        machines: Vec<MachineSpec>,
        graph: Arc<Graph>,
        work: Work,
    ) -> Driver {
        let (tell, happened) = mpsc::unbounded_channel();
        let names = machines.iter().map(|spec| spec.description.name.clone()).collect();
        let is_local = |spec: &MachineSpec| spec.description.kind == MachineKind::Local;
        let local_machine = (0..).map(MachineId).zip(&machines).find(|(_, spec)| is_local(spec));
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
            expected_channels: expected_channels(&work, machines.len()),
            machines: machines.into_iter().map(MachineState::new).collect(),
            jobs: Vec::new(),
            job_of: HashMap::new(),
            options: fleet.options.clone(),
            reports: HashMap::new(),
            paths: HashMap::new(),
            interesting: Arc::new(work.infos.iter().map(|info| info.path.clone()).collect()),
            happened,
            pending: Vec::new(),
            wake: None,
            began: Instant::now(),
            undecided: 0,
        };
        driver.take_work(work);
        driver
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

    /// Has a job built again whose outputs are gone.
    pub(crate) fn build_again(&mut self, job: JobId) {
        self.let_scheduler_decide();
        let status = self.scheduler.explain(job).map(|explanation| explanation.status);
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        if matches!(state.state, JobPhase::Failed(_)) {
            return;
        }
        match status {
            None | Some(JobStatus::Stopping { .. }) => self.decided(job, Verdict::Cancelled),
            Some(JobStatus::Done(outcome)) if outcome != Outcome::Built => {
                // it was being built again, and that was cancelled without a word
                self.decided(job, Verdict::Cancelled);
            }
            Some(_) => {
                if state.verdict == Awaited::No {
                    state.verdict = Awaited::Yes;
                    self.undecided += 1;
                }
                self.pending.push(Event::Rebuild { job });
            }
        }
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
                if let Some(state) = self.jobs.get_mut(job.0 as usize)
                    && state.verdict == Awaited::Yes
                {
                    state.verdict = Awaited::No;
                    self.undecided = self.undecided.saturating_sub(1);
                }
                self.decided(job, verdict);
            }
            Command::Wake { at } => self.wake = Some(self.began + at.0),
        }
    }

    fn connect(&mut self, machine: MachineId) {
        let interesting = Arc::clone(&self.interesting);
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        let site = state.approached.take().unwrap_or_else(|| (state.spec.open)());
        site.expect(self.expected_channels.min(state.spec.description.slots as usize));
        state.site = Some(Arc::clone(&site));
        let (generation, substitute) = (state.generation, state.spec.substitute);
        let shared = Arc::clone(&self.shared);
        let name = shared.name_of(machine);
        shared.observer.event(FleetEvent::Connecting { machine: name });
        state.connecting.spawn(async move {
            let began = Instant::now();
            let connected = async {
                // the questions go with the greeting
                let valid = site.hold_valid(&interesting, substitute).await?;
                let description = site.connect().await?;
                Ok((description, valid))
            };
            match connected.await {
                Ok((description, valid)) => {
                    let took = began.elapsed();
                    let round_trip = site.round_trip().unwrap_or_default();
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
        let Ok(Found { store, traffic, .. }) = self.shared.source(place) else { return };
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
        let before = state.lane.replace(lane);
        let was = std::mem::replace(&mut state.state, JobPhase::Started);
        let plan = Arc::clone(&state.plan);
        let node = plan.node;
        let (machine, shared) = (lane.machine, Arc::clone(&self.shared));
        if let (JobPhase::Stopped, Some(before)) = (was, before) {
            let cause = "another machine will be done sooner".to_owned();
            let machine = shared.name_of(before.machine);
            shared.observer.event(FleetEvent::Retried { node, machine, cause });
        }
        let name = shared.name_of(machine);
        shared.observer.event(FleetEvent::Assigned { node, machine: name.clone() });
        let Some(on) = self.machines.get_mut(machine.0 as usize) else { return };
        let Some(site) = on.site.clone() else {
            let cause = "the machine is not connected".to_owned();
            let failure = JobFailure::Infrastructure { cause };
            return self.pending.push(Event::Failed { job, failure });
        };
        let guessing = match self.options.keep_going {
            true => Guessing::No,
            false => Guessing::Allowed,
        };
        let handle = on.lanes.entry(lane.index).or_insert_with(|| {
            let (queue, jobs) = mpsc::unbounded_channel();
            let context = LaneContext {
                berth: shared.places.berth(shared.place_of(machine)),
                shared,
                site,
                machine,
                name: name.into(),
                trust: on.trust,
                generation: on.generation,
                guessing,
            };
            let task = on.tasks.spawn(run_lane(Arc::new(context), jobs));
            LaneHandle { queue, task, jobs: BTreeSet::new() }
        });
        handle.jobs.insert(job);
        // a lane ends only with its machine, whose failing is told apart
        drop(handle.queue.send(LaneJob { job, plan }));
    }

    /// Notes that a job is not wanted any more. A lane can only be ended whole, so a job stops when
    /// all that are on its lane shall. Where the rest goes on, a job is only stopped because one
    /// ahead of it failed, and then it ends by itself at once, for want of an input; except where
    /// the machine would make that input itself.
    fn stop(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        // one that came back meanwhile has told so
        let (JobPhase::Started, Some(lane)) = (&state.state, state.lane) else { return };
        state.state = JobPhase::Stopping;
        let Some(machine) = self.machines.get_mut(lane.machine.0 as usize) else { return };
        if self.options.keep_going && machine.trust != Trust::NotTrusted {
            return;
        }
        let Some(handle) = machine.lanes.get(&lane.index) else { return };
        let is_stopping = |job: &JobId| {
            let state = self.jobs.get(job.0 as usize);
            state.is_some_and(|state| matches!(state.state, JobPhase::Stopping))
        };
        if !handle.jobs.iter().all(is_stopping) {
            return;
        }
        for job in machine.end_lane(lane.index) {
            if let Some(state) = self.jobs.get_mut(job.0 as usize) {
                state.state = JobPhase::Stopped;
            }
            self.pending.push(Event::Stopped { job });
        }
    }

    /// Gives the lanes' channels back, for the transfers that follow.
    pub(crate) async fn close_lanes(&mut self) {
        for machine in &mut self.machines {
            machine.lanes.clear();
            machine.tasks.abort_all();
        }
        self.until_ended().await;
    }

    /// Ends everything on all machines, and waits until it has ended here.
    pub(crate) async fn stop_everything(&mut self) {
        self.shared.tees.clear();
        for machine in &mut self.machines {
            machine.end();
        }
        for (machine, _) in (0..).map(MachineId).zip(&self.machines) {
            self.shared.forget_site(machine);
        }
        for machine in &mut self.machines {
            while machine.connecting.join_next().await.is_some() {}
        }
        self.until_ended().await;
    }

    /// Waits until the tasks of lanes that were ended are gone.
    async fn until_ended(&mut self) {
        for machine in &mut self.machines {
            while machine.tasks.join_next().await.is_some() {}
        }
        let tracker = &self.shared.tracker;
        tracker.close();
        tracker.wait().await;
        tracker.reopen();
    }
}
