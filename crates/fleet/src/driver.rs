//! The loop around the scheduler: what happened goes in, what is to be done comes out.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use drover_core::{PathInfo, StorePath};
use drover_schedule::{
    ByteCount, Chance, Command, Event, JobId, Lane, MachineId, MachineKind, Moment, OnFailure,
    PathId, Place, Scheduler, Settings, Verdict,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::event::{FleetEvent, JobFailureReport};
use crate::fleet::Fleet;

use crate::graph::Graph;
use crate::intake::expected_channels;
use crate::machine::MachineSpec;
use crate::machine_state::{MachineState, Opening};
use crate::merge::{Sources as _, fetch_small};
use crate::path_ids::PathIds;
use crate::places::Kept;
use crate::prepare::{JobPlan, Work};
use crate::shared::{Answer, Happened, Shared};
use crate::sought::{Greeted, greet, tell_connected};
use crate::verdict::{Renewal, renewal, stops_for_dependency};

/// How long nothing is started while machines have not said what they have. One that takes longer, or
/// is not there, is no reason to wait; what it has is used when it has said so.
pub(crate) const ASK: Duration = Duration::from_secs(1);
/// For so many jobs of a run the same is waited once more: that is about many outputs.
const JOBS_FOR_MORE: usize = 5000;
/// How many times it's waited at the most.
const MOST_TIMES: usize = 4;

/// A job in a run.
pub(crate) struct JobState {
    pub(crate) plan: Arc<JobPlan>,
    /// Where it runs or ran.
    pub(crate) lane: Option<Lane>,
    pub(crate) state: JobPhase,
    pub(crate) verdict: Awaited,
    pub(crate) interest: Interest,
}

/// Whether somebody waits for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Some,
    /// Nobody does any more.
    Lost,
}

/// How long what a driver knows of paths is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// To the end of the one run that it is for.
    OneRun,
    /// Many come and go: it's kept as long as some job needs it.
    Shared,
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
    /// It was stopped, for this reason; so it may be started anew.
    Stopped(&'static str),
    Built,
    /// Nobody needs it, as long as what was found elsewhere is there.
    Unneeded,
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
    /// Jobs that needed no build, as their outputs were found somewhere.
    pub(crate) found: BTreeSet<JobId>,
    /// What failed by itself, until the scheduler has its verdict.
    pub(crate) reports: HashMap<JobId, JobFailureReport>,
    pub(crate) paths: PathIds,
    pub(crate) lasting: Lasting,
    /// Verdicts, in order, for those who share this driver; nobody asks in a single run.
    pub(crate) news: Vec<(JobId, Verdict)>,
    /// Paths that machines are asked about when they connect.
    pub(crate) interesting: Arc<BTreeSet<StorePath>>,
    happened: mpsc::UnboundedReceiver<Happened>,
    pub(crate) pending: Vec<Event>,
    wake: Option<Instant>,
    began: Instant,
    pub(crate) undecided: usize,
    /// Channels that a machine will surely need beside its first.
    pub(crate) expected_channels: usize,
    pub(crate) openings: Opening,
    /// How long nothing is started while machines have not said what they have.
    ask: Duration,
}

/// Returns how long the machines of a run may take to say what they have.
fn ask_for(jobs: usize) -> Duration {
    let times = (1 + jobs / JOBS_FOR_MORE).min(MOST_TIMES);
    ASK.saturating_mul(u32::try_from(times).unwrap_or(1))
}

impl Driver {
    pub(crate) fn new(
        fleet: &Fleet,
        machines: Vec<MachineSpec>,
        graph: Arc<Graph>,
        targets: BTreeSet<StorePath>,
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
        shared.targets.get_or_init(|| targets);
        let on_failure = match fleet.options.keep_going {
            true => OnFailure::KeepGoing,
            false => OnFailure::StopAll,
        };
        let policy = fleet.options.policy;
        let ask = ask_for(work.jobs.len());
        let settings = Settings { policy, on_failure, ask, ..Settings::default() };
        let mut driver = Driver {
            expected_channels: expected_channels(&work, machines.len()),
            interesting: Arc::new(work.infos.iter().map(|info| info.path.clone()).collect()),
            ..Driver::idle(shared, happened, fleet.options.clone(), settings)
        };
        driver.graph = graph;
        driver.machines = machines.into_iter().map(MachineState::new).collect();
        driver.take_work(work);
        driver
    }

    /// Returns a driver that knows no machine and no job.
    pub(crate) fn idle(
        shared: Arc<Shared>,
        happened: mpsc::UnboundedReceiver<Happened>,
        options: crate::fleet::FleetOptions,
        settings: Settings,
    ) -> Driver {
        shared.set_output_trust(options.outputs.clone());
        Driver {
            ask: settings.ask,
            shared,
            graph: Arc::default(),
            scheduler: Scheduler::new(settings),
            machines: Vec::new(),
            jobs: Vec::new(),
            job_of: HashMap::new(),
            options,
            found: BTreeSet::new(),
            reports: HashMap::new(),
            paths: PathIds::default(),
            lasting: Lasting::OneRun,
            news: Vec::new(),
            interesting: Arc::default(),
            happened,
            pending: Vec::new(),
            wake: None,
            began: Instant::now(),
            undecided: 0,
            expected_channels: 0,
            openings: Opening::default(),
        }
    }

    pub(crate) fn path_id(&mut self, path: &StorePath) -> PathId {
        self.paths.of(path)
    }

    /// Returns the number of a path, unless no job needs or makes it and that isn't worth one.
    pub(crate) fn path_id_if_used(&mut self, path: &StorePath) -> Option<PathId> {
        match self.lasting {
            Lasting::OneRun => Some(self.paths.of(path)),
            Lasting::Shared => self.paths.get(path),
        }
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
        let status = self.scheduler.job_status(job);
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        if matches!(state.state, JobPhase::Failed(_)) {
            return;
        }
        match renewal(status.as_ref()) {
            // it was being built again, and that was cancelled without a word
            Renewal::Cancelled => self.decided(job, Verdict::Cancelled),
            Renewal::Awaited => {
                if state.verdict == Awaited::No {
                    state.verdict = Awaited::Yes;
                    self.undecided += 1;
                    self.shared.set_jobs_left(self.undecided);
                }
                self.pending.push(Event::Rebuild { job });
            }
        }
    }

    /// Whether a job is being stopped because something it depends on failed.
    pub(crate) fn stops_for_dependency(&self, job: JobId) -> bool {
        self.scheduler.job_status(job).is_some_and(|status| stops_for_dependency(&status))
    }

    /// Returns the time by the scheduler's clock.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.began.elapsed())
    }

    /// Of many who lose a machine at once none sees it at the same billionth of a second since its own
    /// beginning: that is as good as random, and each test is the same again.
    pub(crate) fn chance(&self, machine: MachineId) -> Chance {
        let mut hasher = DefaultHasher::new();
        (self.now().0, machine.0).hash(&mut hasher);
        let [low, high, ..] = hasher.finish().to_le_bytes();
        Chance(u16::from_le_bytes([low, high]))
    }

    /// Works until every job has its verdict.
    pub(crate) async fn run(&mut self) {
        loop {
            self.let_scheduler_decide();
            if self.undecided == 0 {
                return;
            }
            self.step().await;
        }
    }

    /// Waits until something happens, and takes it. Nothing is lost where this is dropped.
    pub(crate) async fn step(&mut self) {
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

    pub(crate) fn let_scheduler_decide(&mut self) {
        while !self.pending.is_empty() {
            let now = self.now();
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
                    self.shared.set_jobs_left(self.undecided);
                }
                self.decided(job, verdict);
            }
            Command::Wake { at } => self.wake = Some(self.began + at.0),
        }
    }

    fn connect(&mut self, machine: MachineId) {
        let interesting = match self.lasting {
            Lasting::OneRun => Arc::clone(&self.interesting),
            Lasting::Shared => Arc::new(self.shared.places.all_here(self.paths.known())),
        };
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        let site = state.approached.take().unwrap_or_else(|| (state.spec.open)());
        site.expect(self.expected_channels.min(state.spec.description.all_slots() as usize));
        state.site = Some(Arc::clone(&site));
        let generation = state.generation;
        let shared = Arc::clone(&self.shared);
        let name = shared.name_of(machine);
        shared.observer.event(FleetEvent::Connecting { machine: name });
        let sought = self.sought(machine);
        let ask = self.ask;
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        state.connecting.spawn(async move {
            let began = Instant::now();
            match greet(site.as_ref(), &interesting, &sought).await {
                Ok(Greeted { description, valid, found, unasked }) => {
                    let took = began.elapsed();
                    let round_trip = site.round_trip().unwrap_or_default();
                    let answer = Answer { description, valid, found, took, round_trip };
                    let (which, until) = ((machine, generation), began + ask);
                    tell_connected(site.as_ref(), &shared, which, answer, &unasked, until).await;
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
        let Ok(found) = self.shared.source(place) else { return };
        if up < 2 {
            return;
        }
        let shared = Arc::clone(&self.shared);
        state.tasks.spawn(async move {
            let path = info.path.clone();
            // where it fails, whoever needs the path finds out why
            if let Ok(nar) = fetch_small(found, info).await
                && shared.places.keep(&path, nar) == Kept::Yes
            {
                shared.tell(Happened::Kept { path });
            }
        });
    }
}
