//! Builds that are repeated on this machine, and compared with what is valid.
//!
//! They are this machine's only, as in Nix, which never asks its build hook for them
//! (`src/libstore/build/derivation-building-goal.cc`): what another machine makes differently says
//! nothing of this one's. The scheduler has nothing to choose then, so they pass it by: as many run
//! at once as this machine has slots, beside what is built there otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use drover_core::{OutputName, StorePath};
use drover_schedule::MachineKind;
use drover_store::{
    AfterFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, FailureCause, RealiseEvent,
    RealiseObserver, RealiseStatus, Realised, StoreError, Wanted,
};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use crate::event::{FleetEvent, Observer};
use crate::graph::NodeId;
use crate::job_log::JobLog;
use crate::machine::MachineSpec;
use crate::service::STOPPING;
use crate::service::request::{Asked, Request};
use crate::service::survey::{Answers, whole};
use crate::terms::{JobTerms, Terms};
use crate::verdict::lasting;

/// Where builds are repeated: this machine, and its slots.
#[derive(Clone)]
pub(crate) struct Bench {
    spec: MachineSpec,
    slots: Arc<Semaphore>,
}

impl Bench {
    /// Returns this machine, if it's among these.
    pub(crate) fn among(machines: &[MachineSpec]) -> Option<Bench> {
        let is_here = |spec: &&MachineSpec| spec.description.kind == MachineKind::Local;
        let spec = machines.iter().find(is_here)?.clone();
        let slots = usize::try_from(spec.description.all_slots()).unwrap_or(1).max(1);
        Some(Bench { spec, slots: Arc::new(Semaphore::new(slots)) })
    }
}

/// What becomes of what is built once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It's compared with what is valid.
    Compare,
    /// It takes the place of what is damaged.
    Replace,
}

/// Outputs by name.
pub(crate) type Outputs = BTreeMap<OutputName, StorePath>;

impl Request {
    /// Builds derivations once more that are valid, and compares. Paths that are no derivations' are
    /// made valid, as otherwise.
    pub(crate) async fn check(
        &self,
        wanted: &[Wanted],
        bench: Option<&Bench>,
    ) -> Result<Vec<Realised>, StoreError> {
        let mut answers: Answers = vec![None; wanted.len()];
        let asked = self.derivations(wanted, &mut answers).await?;
        let Some(bench) = bench.filter(|_| !asked.is_empty()) else {
            let what = "check builds by repeating them where none are done on this machine \
                        ('max-jobs = 0')";
            let store = self.store.name().to_owned();
            return match asked.is_empty() {
                true => Ok(whole(answers)),
                false => Err(StoreError::Unsupported { store, what }),
            };
        };
        let check = |asked| async move { (asked, self.check_one(asked, bench).await) };
        let mut checks: FuturesUnordered<_> = asked.iter().map(check).collect();
        let mut is_stopped = false;
        while let Some((asked, answer)) = checks.next().await {
            let answer = answer?;
            is_stopped |=
                !answer.status.is_success() && self.settings.after_failure == AfterFailure::Stop;
            if let Some(place) = answers.get_mut(asked.at) {
                *place = Some(answer);
            }
            if is_stopped {
                break;
            }
        }
        drop(checks);
        for answer in answers.iter_mut().filter(|answer| is_stopped && answer.is_none()) {
            let why = "cancelled because another build failed".to_owned();
            *answer = Some(Realised::failed(FailureCause::Cancelled, why));
        }
        Ok(whole(answers))
    }

    async fn check_one(&self, asked: &Asked, bench: &Bench) -> Result<Realised, StoreError> {
        let shown = self.store.store_dir().display(&asked.target.derivation);
        let Some(outputs) = self.valid_outputs(asked).await? else {
            let message = format!(
                "some outputs of '{shown}' are not valid, so checking is not possible\nHint: \
                 --rebuild and --check error if the derivation was not previously built and cannot \
                 be substituted.\n      Remove it to perform a fresh build, or use --repair to \
                 rewrite missing or corrupted builds in the store."
            );
            return Ok(Realised::failed(FailureCause::Other, message));
        };
        if let Some(failure) = self.make_inputs(asked, &shown).await? {
            return Ok(failure);
        }
        let stopped = || Realised::failed(FailureCause::Passing, STOPPING);
        tokio::select! {
            answer = self.repeat(asked, outputs, bench, Repeat::Compare) => answer,
            () = self.handle.stopped.cancelled() => Ok(stopped()),
        }
    }

    /// Returns the wanted outputs if all of them are valid.
    async fn valid_outputs(&self, asked: &Asked) -> Result<Option<Outputs>, StoreError> {
        let Some(outputs) = self.outputs(asked).await? else { return Ok(None) };
        let paths: BTreeSet<StorePath> = outputs.values().cloned().collect();
        let valid = self.store.hold_valid(&paths, self.settings.substitute).await?;
        Ok((valid.len() == paths.len()).then_some(outputs))
    }

    /// Makes valid what it's made from, as for any build; says what becomes of the check where that
    /// fails.
    pub(crate) async fn make_inputs(
        &self,
        asked: &Asked,
        shown: &str,
    ) -> Result<Option<Realised>, StoreError> {
        let inputs = asked.derivation.input_derivations.iter().map(|(path, names)| {
            Wanted::Outputs(path.clone(), names.iter().map(OutputName::to_string).collect())
        });
        let inputs: Vec<Wanted> = inputs.collect();
        if inputs.is_empty() {
            return Ok(None);
        }
        let made = Box::pin(self.realise(&inputs)).await?;
        let lacking = made.iter().filter(|answer| !answer.status.is_success());
        let message: Vec<&str> = lacking.map(|answer| answer.message.as_str()).collect();
        Ok((!message.is_empty()).then(|| {
            let counted = match message.len() {
                1 => "1 dependency".to_owned(),
                several => format!("{several} dependencies"),
            };
            let said = message.join("\n");
            let message = format!("Cannot build '{shown}'.\nReason: {counted} failed.\n{said}");
            Realised::failed(FailureCause::Dependency, message)
        }))
    }

    /// Builds it once more. Dropping the future ends the build.
    pub(crate) async fn repeat(
        &self,
        asked: &Asked,
        outputs: Outputs,
        bench: &Bench,
        repeat: Repeat,
    ) -> Result<Realised, StoreError> {
        let shown = self.store.store_dir().display(&asked.target.derivation);
        // it is never closed
        let _slot = bench.slots.acquire().await.ok();
        let lane = (bench.spec.open)().open_lane().await?;
        let derivation = asked.target.derivation.clone();
        let follower = Arc::new(Follower::new(&derivation, Arc::clone(&self.observer)));
        // the failure itself has the end of the log
        let lines = 0;
        let log = Arc::new(JobLog::new(NodeId(0), "".into(), Arc::clone(&follower) as _, lines));
        let terms = JobTerms::default();
        terms.add(Terms::of(&self.settings.build));
        let request = request(derivation, &outputs, &terms);
        let began = SystemTime::now();
        let build_log = Arc::clone(&log) as Arc<dyn BuildLog>;
        let outcome = match repeat {
            Repeat::Compare => lane.check(request, build_log),
            Repeat::Replace => lane.repair(request, build_log),
        };
        let outcome = tokio::select! {
            biased;
            outcome = outcome => outcome?,
            failure = terms.exceeded(&shown, &log) => BuildOutcome::Failed(failure),
        };
        follower.ended();
        let period = Some((began, SystemTime::now()));
        Ok(match outcome {
            BuildOutcome::Built(_) => {
                let outputs = outputs.into_iter().map(|(name, path)| (name.to_string(), path));
                let (status, message) = (RealiseStatus::Built, String::new());
                Realised { status, message, outputs: outputs.collect(), period }
            }
            BuildOutcome::Failed(failure) => {
                let cause = lasting(failure.cause, &asked.derivation);
                Realised { period, ..Realised::failed(cause, failure.message) }
            }
        })
    }
}

fn request(derivation: StorePath, outputs: &Outputs, terms: &JobTerms) -> BuildRequest {
    let named = outputs.iter().map(|(name, path)| (name.to_string(), path.clone()));
    BuildRequest {
        derivation,
        outputs: outputs.keys().map(OutputName::to_string).collect(),
        known_outputs: named.collect(),
        plan: BuildPlan::FromStore,
        wishes: terms.wishes(),
        bring: None,
    }
}

/// Tells a client of the one build that it follows.
struct Follower {
    derivation: StorePath,
    to: Arc<dyn RealiseObserver>,
    begun: OnceLock<()>,
}

impl Follower {
    fn new(derivation: &StorePath, to: Arc<dyn RealiseObserver>) -> Follower {
        Follower { derivation: derivation.clone(), to, begun: OnceLock::new() }
    }

    fn ended(&self) {
        if self.begun.get().is_some() {
            self.to.event(RealiseEvent::Ended { derivation: self.derivation.clone() });
        }
    }
}

impl Observer for Follower {
    fn event(&self, event: FleetEvent) {
        let derivation = self.derivation.clone();
        self.to.event(match event {
            FleetEvent::Building { .. } => {
                self.begun.set(()).ok();
                RealiseEvent::Started { derivation, machine: String::new() }
            }
            FleetEvent::LogLine { line, .. } => RealiseEvent::Line { derivation, line },
            FleetEvent::Phase { phase, .. } => RealiseEvent::Phase { derivation, phase },
            FleetEvent::Note(text) => RealiseEvent::Note(text),
            _ => return,
        });
    }
}
