//! One lane of a machine: brings a job's inputs, sends the build, and goes on to the next without
//! waiting for the answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use drover_core::{OutputName, PathInfo, StorePath};
use drover_derivation::{BasicDerivation, Derivation};
use drover_schedule::{JobId, MachineId, Place};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, Built, Lane, LogEvent, Pending,
    StoreError, Trust,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::check_built;
use crate::event::{FleetEvent, Observer};
use crate::fleet::total_bytes;
use crate::graph::NodeId;
use crate::machine::Site;
use crate::merge::Merged;
use crate::places::{Flight, Needs};
use crate::prepare::JobPlan;
use crate::shared::Shared;

/// Bytes of inputs from which on they don't go through the lane while it builds something else:
/// the server would not read them before that has ended.
const ASIDE: u64 = 256 * 1024;

/// A job for a lane.
pub(crate) struct LaneJob {
    pub(crate) job: JobId,
    pub(crate) plan: Arc<JobPlan>,
}

/// Something that a lane tells the driver.
pub(crate) enum JobEnd {
    /// All outputs are valid on the machine.
    Built { built: Built, took: Duration },
    /// The build failed.
    Failed { failure: BuildFailure, tail: Vec<String> },
    /// It couldn't be tried: it's not to blame, nor is this machine.
    Input { cause: String },
    /// The derivation itself can't be built.
    Derivation { cause: String },
    /// The machine's answer can't be right.
    Lie { cause: String },
    /// A connection broke; whose, the error's store says.
    Broken { error: StoreError },
}

/// A machine's lane.
pub(crate) struct LaneContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) site: Arc<dyn Site>,
    pub(crate) machine: MachineId,
    pub(crate) name: Arc<str>,
    pub(crate) place: Place,
    pub(crate) index: u32,
    pub(crate) trust: Trust,
    pub(crate) generation: u32,
}

impl LaneContext {
    fn tell(&self, job: JobId, end: JobEnd) {
        self.shared.job_ended(self.machine, self.generation, job, end);
    }
}

/// Works through the queue until the driver drops it, which ends everything that runs here.
pub(crate) async fn run_lane(context: Arc<LaneContext>, mut queue: mpsc::UnboundedReceiver<LaneJob>) {
    let mut running = JoinSet::new();
    let mut lane: Option<Arc<dyn Lane>> = None;
    while let Some(job) = queue.recv().await {
        let id = job.job;
        let open = match &lane {
            Some(lane) => Arc::clone(lane),
            None => match context.site.open_lane().await {
                Ok(opened) => Arc::clone(lane.insert(Arc::from(opened))),
                Err(error) => {
                    context.tell(id, JobEnd::Broken { error });
                    continue;
                }
            },
        };
        while running.try_join_next().is_some() {}
        let busy = if running.is_empty() { Busy::No } else { Busy::Yes };
        match submit(&context, &open, job, busy).await {
            Ok(submitted) => {
                running.spawn(submitted.follow(Arc::clone(&context)));
            }
            Err(end) => context.tell(id, end),
        }
    }
}

/// Whether a build runs on the lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    Yes,
    No,
}

/// A build that was sent.
struct Submitted {
    job: JobId,
    basic: BasicDerivation,
    inputs: Vec<StorePath>,
    outcome: Pending<BuildOutcome>,
    import: Option<Import>,
    log: Arc<JobLog>,
    sent: Instant,
    produced: watch::Sender<Flight>,
    outputs: Vec<StorePath>,
}

/// Inputs that were sent ahead of a build.
struct Import {
    done: Pending<()>,
    paths: Vec<PathInfo>,
    state: watch::Sender<Flight>,
}

impl Import {
    /// Waits until they are valid there.
    async fn finish(self, context: &LaneContext) -> Result<(), StoreError> {
        let result = self.done.await;
        match &result {
            Ok(()) => {
                context.shared.places.landed(&self.paths, context.place);
                context.shared.paths_arrived(&self.paths, context.place);
                self.state.send_replace(Flight::Landed);
            }
            Err(_) => {
                let paths = self.paths.iter().map(|info| &info.path);
                context.shared.places.not_coming(paths, context.place);
                self.state.send_replace(Flight::Failed);
            }
        }
        result
    }
}

/// Brings the inputs on their way and sends the build behind them.
async fn submit(
    context: &Arc<LaneContext>,
    lane: &Arc<dyn Lane>,
    job: LaneJob,
    busy: Busy,
) -> Result<Submitted, JobEnd> {
    let plan = &job.plan;
    let resolved = resolve(context, plan)?;
    let from_store = context.trust == Trust::NotTrusted;
    let mut wanted = resolved.inputs.clone();
    if from_store {
        wanted = context.shared.derivation_closure(&plan.path).await.map_err(broken)?;
    }
    let mut import = bring(context, lane, &wanted, busy).await?;
    if let (Some(pending), true) = (&import, busy == Busy::Yes)
        && total_bytes(&pending.paths) > ASIDE
        && let Some(pending) = import.take()
    {
        pending.finish(context).await.map_err(broken)?;
    }
    let known_outputs: BTreeMap<String, StorePath> = resolved
        .basic
        .outputs
        .iter()
        .filter_map(|(name, output)| Some((name.to_string(), output.path()?.clone())))
        .collect();
    let outputs: Vec<StorePath> = known_outputs.values().cloned().collect();
    let (produced, state) = watch::channel(Flight::Flying);
    context.shared.places.will_be_built(outputs.iter(), context.place, context.index, &state);
    let log = Arc::new(JobLog {
        node: plan.node,
        machine: Arc::clone(&context.name),
        observer: Arc::clone(&context.shared.observer),
        limit: context.shared.log_lines,
        started: OnceLock::new(),
        tail: Mutex::default(),
    });
    let request = BuildRequest {
        derivation: resolved.path,
        outputs: resolved.basic.outputs.keys().map(OutputName::to_string).collect(),
        known_outputs,
        plan: match from_store {
            true => BuildPlan::FromStore,
            false => BuildPlan::Derivation(Box::new(resolved.basic.clone())),
        },
    };
    let outcome = lane.build(request, Arc::clone(&log) as Arc<dyn BuildLog>);
    let (basic, inputs) = (resolved.basic, resolved.inputs);
    let sent = Instant::now();
    Ok(Submitted { job: job.job, basic, inputs, outcome, import, log, sent, produced, outputs })
}

fn broken(error: StoreError) -> JobEnd {
    JobEnd::Broken { error }
}

/// A derivation with all inputs known.
struct Resolved {
    path: StorePath,
    basic: BasicDerivation,
    inputs: Vec<StorePath>,
}

fn resolve(context: &LaneContext, plan: &JobPlan) -> Result<Resolved, JobEnd> {
    let store_dir = &context.shared.store_dir;
    let derivation = &plan.derivation;
    let bad = |error: drover_derivation::DerivationError| JobEnd::Derivation { cause: error.to_string() };
    let realised = |path: &StorePath, output: &OutputName| context.shared.realised(path, output);
    let mut inputs = plan.inputs.clone();
    for (path, output) in &plan.built_inputs {
        match realised(path, output) {
            Some(path) => inputs.push(path),
            None => {
                let cause = format!("output '{output}' of '{path}' is not known");
                return Err(JobEnd::Input { cause });
            }
        }
    }
    if derivation.must_resolve().map_err(bad)? {
        let basic = derivation.resolve(store_dir, realised).map_err(bad)?;
        let path = Derivation::from(basic.clone()).derivation_path(store_dir).map_err(bad)?;
        return Ok(Resolved { path, basic, inputs });
    }
    let basic = derivation.to_basic(inputs.iter().cloned());
    Ok(Resolved { path: plan.path.clone(), basic, inputs })
}

/// Sends what is missing on its way, and waits for what others bring.
async fn bring(
    context: &Arc<LaneContext>,
    lane: &Arc<dyn Lane>,
    wanted: &[StorePath],
    busy: Busy,
) -> Result<Option<Import>, JobEnd> {
    let (state, watched) = watch::channel(Flight::Flying);
    let places = &context.shared.places;
    let Needs { bring, await_others, await_first, lost } =
        places.claim(wanted, context.place, context.index, &watched);
    if let Some(path) = lost.first() {
        places.not_coming(bring.iter().map(|(info, _)| &info.path), context.place);
        return Err(JobEnd::Input { cause: format!("input '{path}' is nowhere any more") });
    }
    let not_brought = || JobEnd::Input { cause: "an input could not be brought".to_owned() };
    if !all_landed(await_first).await {
        places.not_coming(bring.iter().map(|(info, _)| &info.path), context.place);
        return Err(not_brought());
    }
    let import = match bring.is_empty() {
        true => None,
        false => Some(start_import(context, lane, bring, state, busy).await?),
    };
    if !all_landed(await_others).await {
        if let Some(import) = import {
            import.finish(context).await.map_err(broken)?;
        }
        return Err(not_brought());
    }
    Ok(import)
}

/// Waits for what others bring. A carrier that is gone has failed.
async fn all_landed(flights: Vec<watch::Receiver<Flight>>) -> bool {
    for mut flight in flights {
        let landed = flight.wait_for(|state| *state != Flight::Flying).await;
        if !landed.is_ok_and(|state| *state == Flight::Landed) {
            return false;
        }
    }
    true
}

async fn start_import(
    context: &Arc<LaneContext>,
    lane: &Arc<dyn Lane>,
    bring: Vec<(PathInfo, Place)>,
    state: watch::Sender<Flight>,
    busy: Busy,
) -> Result<Import, JobEnd> {
    let shared = &context.shared;
    let paths: Vec<PathInfo> = bring.iter().map(|(info, _)| info.clone()).collect();
    let transfer = shared.start_transfer(&bring, Some(context.machine));
    let to = shared.traffic(context.place);
    let observer = Arc::clone(&shared.observer);
    let merged = match Merged::open(shared.as_ref(), bring, to, transfer, observer).await {
        Ok(merged) => Box::new(merged),
        Err(error) => {
            shared.places.not_coming(paths.iter().map(|info| &info.path), context.place);
            return Err(broken(error));
        }
    };
    let aside = busy == Busy::Yes && total_bytes(&paths) > ASIDE;
    let done: Pending<()> = match aside {
        false => lane.import(merged),
        true => {
            let site = Arc::clone(&context.site);
            Box::pin(async move { site.import(merged).await })
        }
    };
    Ok(Import { done, paths, state })
}

impl Submitted {
    /// Waits for the build, checks it, and tells the driver.
    async fn follow(self, context: Arc<LaneContext>) {
        let Submitted { job, basic, inputs, outcome, import, log, sent, produced, outputs } = self;
        let imported = match import {
            Some(import) => import.finish(&context).await,
            None => Ok(()),
        };
        let outcome = outcome.await;
        let took = log.started.get().copied().unwrap_or(sent).elapsed();
        let end = match (imported, outcome) {
            (Err(error), Ok(BuildOutcome::Failed(_)) | Err(_)) => JobEnd::Broken { error },
            (_, Err(error)) => JobEnd::Broken { error },
            (_, Ok(BuildOutcome::Failed(failure))) => {
                JobEnd::Failed { failure, tail: log.take_tail() }
            }
            (_, Ok(BuildOutcome::Built(built))) => {
                match check_built(&basic, &inputs, &built, &context.shared.places) {
                    Ok(()) => JobEnd::Built { built, took },
                    Err(lie) => JobEnd::Lie { cause: lie.to_string() },
                }
            }
        };
        if let JobEnd::Built { built, .. } = &end {
            for info in built.outputs.values() {
                context.shared.places.add(info.clone(), context.place);
            }
            produced.send_replace(Flight::Landed);
        } else {
            produced.send_replace(Flight::Failed);
        }
        context.shared.places.not_coming(outputs.iter(), context.place);
        context.tell(job, end);
    }
}

/// Follows one build.
struct JobLog {
    node: NodeId,
    machine: Arc<str>,
    observer: Arc<dyn Observer>,
    limit: usize,
    started: OnceLock<Instant>,
    tail: Mutex<VecDeque<String>>,
}

impl JobLog {
    fn take_tail(&self) -> Vec<String> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.drain(..).collect()
    }

    fn keep(&self, line: &str) {
        /// Bytes of a line that are kept for the report of a failure.
        const KEPT: usize = 4096;
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() >= self.limit {
            tail.pop_front();
        }
        tail.push_back(line.chars().take(KEPT).collect());
    }
}

impl BuildLog for JobLog {
    fn event(&self, event: LogEvent) {
        let node = self.node;
        match event {
            LogEvent::Started => {
                if self.started.set(Instant::now()).is_ok() {
                    let machine = self.machine.to_string();
                    self.observer.event(FleetEvent::Building { node, machine });
                }
            }
            LogEvent::Line(line) => {
                self.keep(&line);
                self.observer.event(FleetEvent::LogLine { node, line });
            }
            LogEvent::Phase(phase) => self.observer.event(FleetEvent::Phase { node, phase }),
            LogEvent::Message(message) => {
                let text = format!("{}: {message}", self.machine);
                self.observer.event(FleetEvent::Note(text));
            }
        }
    }
}
