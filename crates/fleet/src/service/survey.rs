//! What a question comes to: what is valid already, what substituters have, what is to be built.
//!
//! Invariant: something wrong with one thing that is asked for is answered there, and doesn't keep
//! the rest from being done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::{OutputName, StorePath, with_causes};
use drover_derivation::{Derivation, derivation_name};
use drover_schedule::JobId;
use drover_store::{
    FailureCause, Keeper, RealiseEvent, RealiseStatus, Realised, Store, StoreError, Substitute,
    Wanted,
};

use crate::approach::Approach;
use crate::event::Silent;
use crate::fleet::{BuildError, CopyBack, Fallback, Fleet, FleetOptions, Target};
use crate::graph::{Graph, GraphError};
use crate::prepare::{Offered, Work, prepare};
use crate::service::request::{Asked, Request};
use crate::service::table::{Content, Key};
use crate::vouched::OutputTrust;

/// Answers, as far as they are known.
pub(crate) type Answers = Vec<Option<Realised>>;

/// Returns all answers.
pub(crate) fn whole(answers: Answers) -> Vec<Realised> {
    let lost = || Realised::failed(FailureCause::Other, "nothing became of it");
    answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
}

impl Request {
    /// Answers a question.
    pub(crate) async fn realise(&self, wanted: &[Wanted]) -> Result<Vec<Realised>, StoreError> {
        let mut answers: Answers = vec![None; wanted.len()];
        let asked = self.survey(wanted, &mut answers).await?;
        if !asked.is_empty() {
            self.build_all(asked, &mut answers).await?;
        }
        Ok(whole(answers))
    }

    /// Answers what needs no building, and returns the rest.
    async fn survey(
        &self,
        wanted: &[Wanted],
        answers: &mut Answers,
    ) -> Result<Vec<Asked>, StoreError> {
        let asked = self.derivations(wanted, answers).await?;
        self.drop_valid(asked, answers).await
    }

    /// Returns the derivations that are asked for, and answers what is none.
    pub(crate) async fn derivations(
        &self,
        wanted: &[Wanted],
        answers: &mut Answers,
    ) -> Result<Vec<Asked>, StoreError> {
        let mut paths = BTreeSet::new();
        for wanted in wanted {
            let (Wanted::Path(path) | Wanted::AllOutputs(path) | Wanted::Outputs(path, _)) = wanted;
            paths.insert(path.clone());
        }
        let valid = self.store.hold_valid(&paths, Substitute::No).await?;
        let lacking: BTreeSet<StorePath> = paths.difference(&valid).cloned().collect();
        let fetched = match self.settings.substitute {
            Substitute::Yes if !lacking.is_empty() => {
                self.store.hold_valid(&lacking, Substitute::Yes).await?
            }
            _ => BTreeSet::new(),
        };
        let mut asked = Vec::new();
        for ((at, wanted), answer) in wanted.iter().enumerate().zip(answers.iter_mut()) {
            let (path, outputs) = match wanted {
                Wanted::Path(path) => (path, None),
                Wanted::AllOutputs(path) => (path, Some(BTreeSet::new())),
                Wanted::Outputs(path, outputs) => (path, Some(outputs.clone())),
            };
            if !valid.contains(path) && !fetched.contains(path) {
                *answer = Some(self.unobtainable(path));
                continue;
            }
            match outputs {
                None => {
                    let status = match valid.contains(path) {
                        true => RealiseStatus::AlreadyValid,
                        false => RealiseStatus::Substituted,
                    };
                    *answer = Some(there(status, BTreeMap::new()));
                }
                Some(outputs) => asked.push((at, path.clone(), outputs)),
            }
        }
        self.read(asked, answers).await
    }

    fn unobtainable(&self, path: &StorePath) -> Realised {
        let path = self.store.store_dir().display(path);
        let message =
            format!("path '{path}' is required, but there is no substituter that can build it");
        Realised::failed(FailureCause::NoSubstituters, message)
    }

    /// Reads the derivations that are asked for, and checks that they have what is wanted.
    async fn read(
        &self,
        asked: Vec<(usize, StorePath, BTreeSet<String>)>,
        answers: &mut Answers,
    ) -> Result<Vec<Asked>, StoreError> {
        let paths = asked.iter().map(|(_, path, _)| path);
        let drvs: BTreeSet<StorePath> =
            paths.filter(|path| derivation_name(path).is_some()).cloned().collect();
        let drvs: Vec<StorePath> = drvs.into_iter().collect();
        let files = self.store.read_files(&drvs).await?;
        let files: BTreeMap<StorePath, bytes::Bytes> = drvs.into_iter().zip(files).collect();
        let mut read = Vec::new();
        for (at, path, outputs) in asked {
            match self.asked(at, path, &outputs, &files) {
                Ok(asked) => read.push(asked),
                Err(message) => set(answers, at, Realised::failed(FailureCause::Other, message)),
            }
        }
        Ok(read)
    }

    fn asked(
        &self,
        at: usize,
        path: StorePath,
        outputs: &BTreeSet<String>,
        files: &BTreeMap<StorePath, bytes::Bytes>,
    ) -> Result<Asked, String> {
        let shown = self.store.store_dir().display(&path);
        let (Some(name), Some(file)) = (derivation_name(&path), files.get(&path)) else {
            return Err(format!(
                "path '{shown}' is not a derivation: its name doesn't end in .drv"
            ));
        };
        let derivation = Derivation::parse_aterm(self.store.store_dir(), &name, file)
            .map_err(|error| format!("cannot read derivation '{shown}': {error}"))?;
        let mut names = BTreeSet::new();
        for output in outputs {
            match derivation.outputs.get_key_value(output.as_str()) {
                Some((name, _)) => names.insert(name.clone()),
                None => {
                    return Err(format!("derivation '{shown}' does not have output '{output}'"));
                }
            };
        }
        let target = Target { derivation: path, outputs: names };
        Ok(Asked { at, target, derivation: Arc::new(derivation) })
    }

    /// Answers those all of whose outputs are valid.
    async fn drop_valid(
        &self,
        asked: Vec<Asked>,
        answers: &mut Answers,
    ) -> Result<Vec<Asked>, StoreError> {
        let mut known = Vec::with_capacity(asked.len());
        for asked in asked {
            let outputs = self.outputs(&asked).await?;
            known.push((asked, outputs));
        }
        let all = known.iter().filter_map(|(_, outputs)| outputs.as_ref());
        let all: BTreeSet<StorePath> = all.flat_map(BTreeMap::values).cloned().collect();
        let valid = self.store.hold_valid(&all, Substitute::No).await?;
        let mut left = Vec::new();
        for (asked, outputs) in known {
            match outputs.filter(|outputs| outputs.values().all(|path| valid.contains(path))) {
                Some(outputs) => {
                    let named = outputs.into_iter().map(|(name, path)| (name.to_string(), path));
                    set(answers, asked.at, there(RealiseStatus::AlreadyValid, named.collect()));
                }
                None => left.push(asked),
            }
        }
        Ok(left)
    }

    /// Returns the paths of the wanted outputs, if all of them are known.
    pub(crate) async fn outputs(
        &self,
        asked: &Asked,
    ) -> Result<Option<BTreeMap<OutputName, StorePath>>, StoreError> {
        let path = |name: &OutputName| asked.derivation.outputs.get(name)?.path().cloned();
        let fixed = asked.names().map(|name| Some((name.clone(), path(name)?))).collect();
        if let Some(fixed) = fixed {
            return Ok(Some(fixed));
        }
        let map = self.store.output_map(&asked.target.derivation).await?;
        let mapped = |name: &OutputName| map.get(name.as_str())?.clone();
        Ok(asked.names().map(|name| Some((name.clone(), mapped(name)?))).collect())
    }

    /// Says whether substituters are asked, and what becomes of what they fail at.
    pub(crate) fn how(&self) -> (Substitute, Fallback) {
        let fallback = match self.settings.build.switch("fallback") {
            Some(true) => Fallback::Build,
            Some(false) | None => Fallback::Fail,
        };
        (self.settings.substitute, fallback)
    }

    /// Finds out what has to be built, and answers what fails as it can't be fetched though it's
    /// offered.
    async fn plan_of_fetched(
        &self,
        asked: &mut Vec<Asked>,
        answers: &mut Answers,
    ) -> Result<Option<(Arc<Graph>, Work)>, StoreError> {
        loop {
            let Some((graph, work)) = self.plan(asked, answers).await? else { return Ok(None) };
            if work.refused.is_empty() {
                return Ok(Some((graph, work)));
            }
            for (_, report) in &work.refused {
                let (derivation, cause) = (report.derivation.clone(), report.cause);
                self.observer.event(RealiseEvent::Failed { derivation, cause });
            }
            let before = asked.len();
            let spoiled = work.spoiled();
            asked.retain(|asked| {
                let node = graph.find(&asked.target.derivation);
                let job = node.and_then(|node| work.job_of.get(&node));
                let Some(report) = job.and_then(|job| spoiled.get(job)) else { return true };
                let cause = match report.derivation == asked.target.derivation {
                    true => report.cause,
                    false => FailureCause::Dependency,
                };
                set(answers, asked.at, Realised::failed(cause, report.message.clone()));
                false
            });
            // each that was refused is needed by somebody
            if asked.is_empty() || asked.len() == before {
                return Ok(None);
            }
        }
    }

    /// Has derivations built.
    async fn build_all(
        &self,
        mut asked: Vec<Asked>,
        answers: &mut Answers,
    ) -> Result<(), StoreError> {
        let planned = self.plan_of_fetched(&mut asked, answers).await?;
        let Some((graph, work)) = planned else { return Ok(()) };
        let mut to_build = Vec::new();
        for asked in asked {
            let node = graph.find(&asked.target.derivation);
            match node.and_then(|node| work.job_of.get(&node)) {
                Some(job) => to_build.push((asked, JobId(job.0))),
                None => {
                    let outputs = self.outputs(&asked).await?.unwrap_or_default();
                    let named = outputs.into_iter().map(|(name, path)| (name.to_string(), path));
                    set(answers, asked.at, there(RealiseStatus::Substituted, named.collect()));
                }
            }
        }
        if to_build.is_empty() {
            return Ok(());
        }
        let key = |path: &StorePath| Key { derivation: path.clone(), content: Content::Stored };
        let keys = work.jobs.iter().map(|job| key(&job.path)).collect();
        let built = self.build(work, keys, &to_build).await?;
        for ((asked, _), answer) in to_build.iter().zip(built) {
            set(answers, asked.at, answer);
        }
        Ok(())
    }

    /// Finds out what has to be built. What can't be is answered and left out.
    async fn plan(
        &self,
        asked: &mut Vec<Asked>,
        answers: &mut Answers,
    ) -> Result<Option<(Arc<Graph>, Work)>, StoreError> {
        match plan(&self.store, self.how(), asked).await {
            Ok(planned) => return Ok(Some(planned)),
            Err(error) => {
                refusal(error)?;
            }
        }
        let mut sound = Vec::new();
        for one in std::mem::take(asked) {
            let at = one.at;
            let single = vec![one];
            match plan(&self.store, self.how(), &single).await {
                Ok(_) => sound.extend(single),
                Err(error) => set(answers, at, refusal(error)?),
            }
        }
        *asked = sound;
        if asked.is_empty() {
            return Ok(None);
        }
        match plan(&self.store, self.how(), asked).await {
            Ok(planned) => Ok(Some(planned)),
            Err(error) => {
                let answer = refusal(error)?;
                for asked in std::mem::take(asked) {
                    set(answers, asked.at, answer.clone());
                }
                Ok(None)
            }
        }
    }
}

/// Reads the graph below derivations and finds out what has to be built of it.
pub(crate) async fn plan(
    store: &Arc<dyn Keeper>,
    (substitute, fallback): (Substitute, Fallback),
    asked: &[Asked],
) -> Result<(Arc<Graph>, Work), BuildError> {
    let roots: Vec<StorePath> = asked.iter().map(|asked| asked.target.derivation.clone()).collect();
    let targets: Vec<Target> = asked.iter().map(|asked| asked.target.clone()).collect();
    let local = Arc::clone(store) as Arc<dyn Store>;
    let graph = Arc::new(Graph::read(local.as_ref(), &roots).await?);
    let options = FleetOptions {
        keep_going: true,
        substitute,
        fallback,
        copy_back: CopyBack::Wanted,
        outputs: OutputTrust::Machine,
        log_lines: 0,
        policy: drover_schedule::Policy::EarliestFinish,
    };
    let fleet = Fleet::new(local, Vec::new(), options, Arc::new(Silent));
    let fleet = fleet.with_ledger(Arc::clone(store));
    let work =
        prepare(&fleet, Arc::clone(&graph), &targets, &Approach::default(), Offered::Fetch).await?;
    Ok((graph, work))
}

/// Turns an error into an answer, unless it is the store's own.
fn refusal(error: BuildError) -> Result<Realised, StoreError> {
    let text = with_causes(&error);
    match error {
        BuildError::Store(StoreError::NotValid { .. })
        | BuildError::Graph(GraphError::Store { source: StoreError::NotValid { .. } }) => {
            Ok(Realised::failed(FailureCause::NoSubstituters, text))
        }
        BuildError::Store(source) | BuildError::Graph(GraphError::Store { source }) => Err(source),
        // with the status of Nix, which says nothing more of it either
        _ => Ok(Realised::failed(FailureCause::Other, text)),
    }
}

fn there(status: RealiseStatus, outputs: BTreeMap<String, StorePath>) -> Realised {
    Realised { status, message: String::new(), outputs, period: None }
}

fn set(answers: &mut Answers, at: usize, answer: Realised) {
    if let Some(slot) = answers.get_mut(at) {
        *slot = Some(answer);
    }
}
