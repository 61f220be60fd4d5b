//! One lane of a machine: brings a job's inputs, sends the build, and goes on to the next without
//! waiting for the answer.

use std::sync::Arc;
use std::time::Duration;

use drover_core::{OutputName, PathInfo, StorePath};
use drover_schedule::{JobId, MachineId, Place};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, Built, Lane, Pending, Store,
    StoreError, Trust,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::{Promised, check_built};
use crate::fleet::total_bytes;
use crate::job_log::JobLog;
use crate::machine::Site;
use crate::merge::{Culprit, Merged, Origin};
use crate::places::{Berth, Flight, Needs};
use crate::prepare::JobPlan;
use crate::resolve::{Resolved, is_resolvable, resolve};
use crate::shared::Shared;
use crate::transfer::{BULKY, Destination, copy_all};

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
    /// A connection broke: the machine's, unless it was that of a source of its inputs.
    Broken { error: StoreError, source: Option<Origin> },
}

/// A machine's lane.
pub(crate) struct LaneContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) site: Arc<dyn Site>,
    pub(crate) machine: MachineId,
    pub(crate) name: Arc<str>,
    pub(crate) berth: Berth,
    pub(crate) trust: Trust,
    pub(crate) generation: u32,
}

impl LaneContext {
    fn tell(&self, job: JobId, end: JobEnd) {
        self.shared.job_ended(self.machine, self.generation, job, end);
    }
}

/// An open lane.
#[derive(Clone)]
struct Open {
    lane: Arc<dyn Lane>,
    /// The source that broke off what was sent on this lane. Whatever breaks on it after that is
    /// not the machine's fault.
    culprit: Culprit,
    /// The job sent last, until it has ended.
    ahead: Option<watch::Receiver<Flight>>,
}

/// Works through the queue until the driver ends the task, which ends everything that runs here.
pub(crate) async fn run_lane(
    context: Arc<LaneContext>,
    mut queue: mpsc::UnboundedReceiver<LaneJob>,
) {
    let mut running = JoinSet::new();
    let mut open: Option<Open> = None;
    while let Some(job) = next_job(&mut queue, &mut running, &mut open).await {
        let id = job.job;
        // a lane on which a transfer was broken off may be of no use any more
        let usable = open.take().filter(|open| open.culprit.get().is_none());
        let on = match usable {
            Some(usable) => open.insert(usable),
            None => match context.site.open_lane().await {
                Ok(lane) => {
                    let (lane, culprit) = (Arc::from(lane), Culprit::default());
                    open.insert(Open { lane, culprit, ahead: None })
                }
                Err(error) => {
                    context.tell(id, JobEnd::Broken { error, source: None });
                    continue;
                }
            },
        };
        while running.try_join_next().is_some() {}
        let busy = if running.is_empty() { Busy::No } else { Busy::Yes };
        match submit(&context, on, job, busy).await {
            Ok(submitted) => {
                on.ahead = Some(submitted.produced.subscribe());
                let followed = submitted.follow(Arc::clone(&context));
                running.spawn(context.shared.tracker.track_future(followed));
            }
            Err(end) => context.tell(id, end),
        }
    }
    // until the driver ends the task, what was sent goes on
    while running.join_next().await.is_some() {}
}

/// Waits for the next job. Where there is none when all that was sent has ended, the connection is
/// given back, for transfers or another lane.
async fn next_job(
    queue: &mut mpsc::UnboundedReceiver<LaneJob>,
    running: &mut JoinSet<()>,
    open: &mut Option<Open>,
) -> Option<LaneJob> {
    loop {
        tokio::select! {
            biased;
            job = queue.recv() => return job,
            Some(_) = running.join_next() => {}
        }
        if running.is_empty() {
            *open = None;
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
    plan: Arc<JobPlan>,
    promised: Promised,
    inputs: Vec<StorePath>,
    outcome: Pending<BuildOutcome>,
    import: Option<Import>,
    log: Arc<JobLog>,
    sent: Instant,
    produced: watch::Sender<Flight>,
    /// Outputs whose paths are known.
    outputs: Vec<StorePath>,
    on: Open,
}

/// Inputs that were sent ahead of a build.
struct Import {
    done: Pending<()>,
    paths: Vec<PathInfo>,
    state: watch::Sender<Flight>,
    culprit: Culprit,
}

impl Import {
    /// Waits until they are valid there.
    async fn finish(self, context: &LaneContext) -> Result<(), JobEnd> {
        match self.done.await {
            Ok(()) => {
                context.shared.places.landed(&self.paths, context.berth);
                let (machine, generation) = (context.machine, context.generation);
                context.shared.paths_arrived(machine, generation, &self.paths);
                self.state.send_replace(Flight::Landed);
                Ok(())
            }
            Err(error) => {
                let paths = self.paths.iter().map(|info| &info.path);
                context.shared.places.not_coming(paths, context.berth);
                self.state.send_replace(Flight::Failed);
                Err(broken(&self.culprit, error))
            }
        }
    }
}

/// Brings the inputs on their way and sends the build behind them.
async fn submit(
    context: &Arc<LaneContext>,
    on: &Open,
    job: LaneJob,
    busy: Busy,
) -> Result<Submitted, JobEnd> {
    let (shared, plan) = (&context.shared, &job.plan);
    if !is_resolvable(shared, plan)
        && let Some(ahead) = on.ahead.clone()
    {
        // only the build ahead can tell where its outputs are
        all_landed(vec![ahead]).await;
    }
    let Resolved { path, basic, inputs } = resolve(shared, plan)?;
    let from_store = context.trust == Trust::NotTrusted;
    let mut import = match from_store {
        true => {
            let found = shared.derivation_closure(&plan.path).await;
            let source = Some(Origin::Here);
            let files = found.map_err(|error| JobEnd::Broken { error, source })?;
            bring(context, on, &files, busy).await?
        }
        false => bring(context, on, &inputs, busy).await?,
    };
    if let Some(pending) = import.take_if(|import| goes_aside(&import.paths, busy)) {
        pending.finish(context).await?;
    }
    let promised = Promised { name: basic.name.clone(), outputs: basic.outputs.clone() };
    let known_outputs = promised.known();
    let outputs: Vec<StorePath> = known_outputs.values().cloned().collect();
    let (produced, state) = watch::channel(Flight::Flying);
    shared.places.will_be_built(outputs.iter(), context.berth, &state);
    let (observer, machine) = (Arc::clone(&shared.observer), Arc::clone(&context.name));
    let log = Arc::new(JobLog::new(plan.node, machine, observer, shared.log_lines));
    let request = BuildRequest {
        // the resolved one is in no store
        derivation: if from_store { plan.path.clone() } else { path },
        outputs: promised.outputs.keys().map(OutputName::to_string).collect(),
        known_outputs,
        plan: match from_store {
            true => BuildPlan::FromStore,
            false => BuildPlan::Derivation(Box::new(basic)),
        },
    };
    let outcome = on.lane.build(request, Arc::clone(&log) as Arc<dyn BuildLog>);
    let LaneJob { job, plan } = job;
    let (sent, on) = (Instant::now(), on.clone());
    Ok(Submitted { job, plan, promised, inputs, outcome, import, log, sent, produced, outputs, on })
}

/// Says whose connection broke.
fn broken(culprit: &Culprit, error: StoreError) -> JobEnd {
    match culprit.get() {
        Some((origin, error)) => JobEnd::Broken { error: error.clone(), source: Some(*origin) },
        None => JobEnd::Broken { error, source: None },
    }
}

/// Sends what is missing on its way, and waits for what others bring.
async fn bring(
    context: &Arc<LaneContext>,
    on: &Open,
    wanted: &[StorePath],
    busy: Busy,
) -> Result<Option<Import>, JobEnd> {
    let (state, watched) = watch::channel(Flight::Flying);
    let places = &context.shared.places;
    let Needs { bring, await_others, await_first, lost } =
        places.claim(wanted, context.berth, &watched);
    if let Some(path) = lost.first() {
        places.not_coming(bring.iter().map(|(info, _)| &info.path), context.berth);
        return Err(JobEnd::Input { cause: format!("input '{path}' is nowhere any more") });
    }
    let not_brought = || JobEnd::Input { cause: "an input could not be brought".to_owned() };
    if !all_landed(await_first).await {
        places.not_coming(bring.iter().map(|(info, _)| &info.path), context.berth);
        return Err(not_brought());
    }
    let import = match bring.is_empty() {
        true => None,
        false => Some(start_import(context, on, bring, state, busy).await?),
    };
    if !all_landed(await_others).await {
        if let Some(import) = import {
            import.finish(context).await?;
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
    on: &Open,
    bring: Vec<(PathInfo, Place)>,
    state: watch::Sender<Flight>,
    busy: Busy,
) -> Result<Import, JobEnd> {
    let shared = &context.shared;
    let paths: Vec<PathInfo> = bring.iter().map(|(info, _)| info.clone()).collect();
    let mut culprit = Culprit::default();
    if goes_aside(&paths, busy) {
        let to = Destination {
            store: Arc::clone(&context.site) as Arc<dyn Store>,
            berth: context.berth,
            machine: Some(context.machine),
            culprit: culprit.clone(),
        };
        let shared = Arc::clone(shared);
        let done = Box::pin(async move { copy_all(&shared, to, bring).await });
        return Ok(Import { done, paths, state, culprit });
    }
    let transfer = shared.start_transfer(&bring, Some(context.machine));
    let to = shared.traffic(context.berth.place);
    match Merged::open(shared.as_ref(), bring, to, transfer, culprit.clone()).await {
        Ok(mut merged) => {
            // from here on a source that breaks off may take the lane with it
            merged.culprit = on.culprit.clone();
            culprit = on.culprit.clone();
            Ok(Import { done: on.lane.import(Box::new(merged)), paths, state, culprit })
        }
        Err(error) => {
            shared.places.not_coming(paths.iter().map(|info| &info.path), context.berth);
            Err(broken(&culprit, error))
        }
    }
}

/// Whether inputs take other channels than the lane's: a busy lane reads nothing before its build
/// has ended, and several bulky paths are faster side by side.
fn goes_aside(paths: &[PathInfo], busy: Busy) -> bool {
    let bulky = paths.iter().filter(|info| info.nar_size.0 >= BULKY).count();
    bulky > 1 || (busy == Busy::Yes && total_bytes(paths) > ASIDE)
}

impl Submitted {
    /// Waits for the build, checks it, and tells the driver; after those that were sent before, as
    /// what they made may be what this one refers to.
    async fn follow(mut self, context: Arc<LaneContext>) {
        let imported = match self.import.take() {
            Some(import) => import.finish(&context).await,
            None => Ok(()),
        };
        let outcome = (&mut self.outcome).await;
        let took = self.log.started().unwrap_or(self.sent).elapsed();
        if let Some(ahead) = self.on.ahead.take() {
            all_landed(vec![ahead]).await;
        }
        let end = match (imported, outcome) {
            (Err(end), Ok(BuildOutcome::Failed(_)) | Err(_)) => end,
            (_, Err(error)) => broken(&self.on.culprit, error),
            (_, Ok(BuildOutcome::Failed(failure))) => {
                JobEnd::Failed { failure, tail: self.log.take_tail() }
            }
            (_, Ok(BuildOutcome::Built(built))) => self.built(&context, built, took),
        };
        context.shared.places.not_coming(self.outputs.iter(), context.berth);
        let flight = match end {
            JobEnd::Built { .. } => Flight::Landed,
            _ => Flight::Failed,
        };
        context.tell(self.job, end);
        self.produced.send_replace(flight);
    }

    /// Believes what was built, if it can be right.
    fn built(&self, context: &LaneContext, built: Built, took: Duration) -> JobEnd {
        let places = &context.shared.places;
        if let Err(lie) = check_built(&self.promised, &self.inputs, &built, places) {
            return JobEnd::Lie { cause: lie.to_string() };
        }
        for (name, info) in &built.outputs {
            places.built(info.clone(), context.berth);
            if let Some((name, _)) = self.promised.outputs.get_key_value(name.as_str()) {
                places.realise(&self.plan.path, name.clone(), info.path.clone());
            }
        }
        JobEnd::Built { built, took }
    }
}
