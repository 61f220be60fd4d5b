//! One lane of a machine: brings a job's inputs, sends the build, and goes on to the next without
//! waiting for the answer.

use std::collections::VecDeque;
use std::sync::Arc;

use drover_core::{NarSize, OutputName, PathInfo, StorePath};
use drover_schedule::{JobId, MachineId, Place};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, Built, Lane, Pending,
    StoreError, Substitute, Trust,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ahead::fetching_ahead;
use crate::bug::{followed, unless_it_panics};
use crate::check::{Promised, check_made};
use crate::event::Observer;
use crate::hidden::look_through;
use crate::inputs::{Busy, Import, all_landed, bring, broken, goes_aside};
use crate::job_end::{JobEnd, Took};
use crate::job_log::JobLog;
use crate::machine::Site;
use crate::machine_state::{Generation, Opening};
use crate::merge::{Culprit, Origin};
use crate::offer::offer;
use crate::places::{Berth, Flight};
use crate::prepare::JobPlan;
use crate::resolve::{Resolved, is_resolvable, resolve};
use crate::room;
use crate::shared::Shared;
use crate::transfer::AlsoHere;

/// A job for a lane.
#[derive(Clone)]
pub(crate) struct LaneJob {
    pub(crate) job: JobId,
    pub(crate) plan: Arc<JobPlan>,
}

/// A machine's lane.
pub(crate) struct LaneContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) site: Arc<dyn Site>,
    pub(crate) machine: MachineId,
    pub(crate) name: Arc<str>,
    pub(crate) berth: Berth,
    pub(crate) trust: Trust,
    /// Whether it may fetch inputs from its own substituters.
    pub(crate) substitute: Substitute,
    pub(crate) generation: Generation,
    pub(crate) opening: Opening,
    /// Where it's told what its builds say.
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) guessing: Guessing,
    /// Lanes that must be gone before something is built on this one.
    pub(crate) before: Vec<watch::Receiver<()>>,
}

/// Whether outputs may be asked for before it's known that they are there. A build that fails ends
/// the lane then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guessing {
    Allowed,
    /// Failures are nothing special.
    No,
}

impl LaneContext {
    /// Returns the size up to which outputs are asked for together with their build.
    fn bring(&self) -> Option<NarSize> {
        let useful = self.guessing == Guessing::Allowed
            && self.berth.place != Place::Here
            && self.shared.has_several_sites();
        useful.then(|| self.shared.output_sizes.guess()).flatten()
    }

    /// Whether something is built on a lane that must be gone before this one builds.
    fn is_held_up(&self) -> bool {
        self.before.iter().any(|lane| lane.has_changed().is_ok())
    }

    /// Protects what was built into the caller's store before the lane lets go of it.
    async fn hold_here(&self, built: &Built) {
        let places = &self.shared.places;
        if self.berth.place != Place::Here && !places.is_twin(self.berth.place) {
            return;
        }
        let paths = built.outputs.values().map(|info| info.path.clone()).collect();
        // what isn't there any more when it's wanted is built again
        self.shared.local.hold_valid(&paths, Substitute::No).await.ok();
    }

    async fn until_others_are_gone(&self) {
        for mut lane in self.before.iter().cloned() {
            while lane.changed().await.is_ok() {}
        }
    }

    pub(crate) fn places_not_coming(&self, outputs: &[StorePath]) {
        self.shared.places.not_coming(outputs.iter(), self.berth);
    }

    pub(crate) fn tell(&self, job: JobId, end: JobEnd) {
        self.shared.job_ended(self.machine, self.opening, job, end);
    }
}

/// An open lane.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) lane: Arc<dyn Lane>,
    /// The source that broke off what was sent on this lane. Whatever breaks on it after that is
    /// not the machine's fault.
    pub(crate) culprit: Culprit,
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
    let mut again = VecDeque::new();
    while let Some(job) = next_job(&mut queue, &mut running, &mut open, &mut again).await {
        let id = job.job;
        // a lane on which a transfer was broken off may be of no use any more
        let usable = open.take().filter(|open| open.culprit.get().is_none());
        let on = match usable {
            Some(usable) => open.insert(usable),
            None => match room::open_lane(&*context.site).await {
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
        while let Some(ended) = running.try_join_next() {
            again.extend(ended.ok().flatten());
        }
        let busy = if running.is_empty() { Busy::No } else { Busy::Yes };
        let submitted = unless_it_panics(submit(&context, on, job, busy)).await;
        match submitted.and_then(|submitted| submitted) {
            Ok(submitted) => {
                on.ahead = Some(submitted.produced.subscribe());
                let (context, outputs) = (Arc::clone(&context), submitted.outputs.clone());
                let tracker = context.shared.tracker.clone();
                running.spawn(tracker.track_future(async move {
                    let work = submitted.follow(Arc::clone(&context));
                    followed(&context, id, &outputs, work).await
                }));
            }
            Err(end) => {
                context.tell(id, end);
                if running.is_empty() {
                    open = None;
                }
            }
        }
    }
    // until the driver ends the task, what was sent goes on
    while running.join_next().await.is_some() {}
}

/// Waits for the next job. Where there is none when all that was sent has ended, the connection is
/// given back, for transfers or another lane.
async fn next_job(
    queue: &mut mpsc::UnboundedReceiver<LaneJob>,
    running: &mut JoinSet<Option<LaneJob>>,
    open: &mut Option<Open>,
    again: &mut VecDeque<LaneJob>,
) -> Option<LaneJob> {
    loop {
        if !again.is_empty() {
            // all that was sent behind a wrong guess comes back, in this order
            while let Some(ended) = running.join_next().await {
                again.extend(ended.ok().flatten());
            }
            *open = None;
            return again.pop_front();
        }
        tokio::select! {
            biased;
            job = queue.recv() => return job,
            Some(ended) = running.join_next() => again.extend(ended.ok().flatten()),
        }
        if running.is_empty() {
            *open = None;
        }
    }
}

/// A build that was sent.
struct Submitted {
    job: JobId,
    plan: Arc<JobPlan>,
    promised: Promised,
    inputs: Arc<[StorePath]>,
    outcome: Pending<BuildOutcome>,
    import: Option<Import>,
    log: Arc<JobLog>,
    sent: Instant,
    produced: watch::Sender<Flight>,
    /// Outputs whose paths are known.
    outputs: Vec<StorePath>,
    on: Open,
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
    let mut import = bring_inputs(context, on, plan, &inputs, busy).await?;
    let held_up = context.is_held_up();
    if let Some(pending) = import.take_if(|import| held_up || goes_aside(&import.paths, busy)) {
        pending.finish(context).await?;
    }
    context.until_others_are_gone().await;
    let promised = Promised { name: basic.name.clone(), outputs: basic.outputs.clone() };
    let known_outputs = promised.known();
    let outputs: Vec<StorePath> = known_outputs.values().cloned().collect();
    let (produced, state) = watch::channel(Flight::Flying);
    shared.places.will_be_built(outputs.iter(), context.berth, &state);
    let (observer, machine) = (Arc::clone(&context.observer), Arc::clone(&context.name));
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
        wishes: plan.terms.wishes(),
        bring: context.bring(),
    };
    let outcome = on.lane.build(request, Arc::clone(&log) as Arc<dyn BuildLog>);
    let LaneJob { job, plan } = job;
    let (sent, on, inputs) = (Instant::now(), on.clone(), inputs.into());
    Ok(Submitted { job, plan, promised, inputs, outcome, import, log, sent, produced, outputs, on })
}

/// Has what the build needs brought: its inputs, or what a machine wants to see that doesn't trust
/// us.
async fn bring_inputs(
    context: &Arc<LaneContext>,
    on: &Open,
    plan: &JobPlan,
    inputs: &[StorePath],
    busy: Busy,
) -> Result<Option<Import>, JobEnd> {
    let shared = &context.shared;
    if context.trust == Trust::NotTrusted {
        let found = shared.derivation_closure(&plan.path).await;
        let source = Some(Origin::Here);
        let mut files = found.map_err(|error| JobEnd::Broken { error, source })?;
        offer(context, inputs).await;
        // anybody takes what is content-addressed
        let is_addressed = |info: &PathInfo| info.content_address.is_some();
        files.extend(shared.places.acceptable(inputs, context.berth.place, is_addressed));
        return bring(context, on, &files, busy, AlsoHere::No).await;
    }
    let also_here = match shared.is_target(&plan.path) {
        true => AlsoHere::Yes,
        false => AlsoHere::No,
    };
    bring(context, on, inputs, busy, also_here).await
}

impl Submitted {
    /// Waits for the build, checks it, and tells the driver; after those that were sent before, as
    /// what they made may be what this one refers to. Returns the job if it must be sent again, as
    /// something ahead of it ended the lane.
    async fn follow(mut self, context: Arc<LaneContext>) -> Option<LaneJob> {
        let imported = match self.import.take() {
            Some(import) => import.finish(&context).await,
            None => Ok(()),
        };
        let (plan, inputs) = (Arc::clone(&self.plan), Arc::clone(&self.inputs));
        let outcome = self.outcome_in_time(&context);
        let outcome = match fetching_ahead(&context.shared, &plan.path, &inputs, outcome).await {
            Ok(outcome) => outcome,
            Err(failure) => {
                context.places_not_coming(&self.outputs);
                let (tail, took) = (self.log.take_tail(), self.took());
                context.tell(self.job, JobEnd::Exceeded { failure, tail, took });
                // what was sent behind it waits for the driver, which ends the lane
                return None;
            }
        };
        let took = self.took();
        if let Some(ahead) = self.on.ahead.take() {
            all_landed(vec![ahead]).await;
        }
        let end = match (imported, outcome) {
            (Err(end), Ok(BuildOutcome::Failed(_)) | Err(_)) => end,
            (_, Err(error)) => broken(&self.on.culprit, error),
            (_, Ok(BuildOutcome::Failed(failure))) => {
                JobEnd::Failed { failure, tail: self.log.take_tail(), took }
            }
            (_, Ok(BuildOutcome::Built(built))) => {
                context.hold_here(&built).await;
                self.built(&context, built, took)
            }
        };
        context.places_not_coming(&self.outputs);
        let flight = match end {
            JobEnd::Built { .. } => Flight::Landed,
            _ => Flight::Failed,
        };
        let again = match end {
            JobEnd::Broken { error: StoreError::LaneEnded { .. }, source: None } => {
                Some(LaneJob { job: self.job, plan: Arc::clone(&self.plan) })
            }
            end => {
                context.tell(self.job, end);
                None
            }
        };
        self.produced.send_replace(flight);
        again
    }

    /// Returns how long the build took until now. It began when what was sent before it had ended, at
    /// the earliest.
    fn took(&self) -> Took {
        let told = self.log.started();
        let began = told.or(self.log.first()).unwrap_or(self.sent);
        Took { seen: began.elapsed(), told: told.map(|began| began.elapsed()) }
    }

    /// Waits for the build, or until it has gone beyond what is asked of it. Its time begins when
    /// what was sent before it has ended.
    async fn outcome_in_time(
        &mut self,
        context: &LaneContext,
    ) -> Result<Result<BuildOutcome, StoreError>, BuildFailure> {
        let derivation = context.shared.store_dir.display(&self.plan.path);
        let (ahead, log, terms) = (self.on.ahead.clone(), &self.log, &self.plan.terms);
        let exceeded = async {
            if let Some(ahead) = ahead {
                all_landed(vec![ahead]).await;
                log.is_first();
            }
            terms.exceeded(&derivation, log).await
        };
        tokio::select! {
            biased;
            outcome = &mut self.outcome => Ok(outcome),
            failure = exceeded => Err(failure),
        }
    }

    /// Believes what was built, if it can be right.
    fn built(&self, context: &LaneContext, built: Built, took: Took) -> JobEnd {
        let (shared, derivation) = (&context.shared, &self.plan.derivation);
        let whose = (context.berth.place, derivation.as_ref());
        if let Err(lie) = check_made(shared, whose, &self.promised, &self.inputs, &built) {
            return JobEnd::Lie { lie };
        }
        let places = &shared.places;
        if let Err(lie) = look_through(context, derivation, &self.inputs, &built) {
            return JobEnd::Lie { lie };
        }
        for (name, info) in &built.outputs {
            places.built(info.clone(), context.berth);
            context.shared.output_sizes.note(info);
            if let Some((name, _)) = self.promised.outputs.get_key_value(name.as_str()) {
                places.realise(&self.plan.path, name.clone(), info.path.clone());
            }
        }
        JobEnd::Built { built, took }
    }
}
