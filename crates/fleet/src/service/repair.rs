//! What is damaged is fetched again, or built again on this machine where nobody has it as it was.
//!
//! Follows `LocalStore::repairPath`, `DerivationGoal::repairClosure` and the goals that they make
//! (`src/libstore/build/entry-points.cc`, `derivation-goal.cc`) of Nix: what other machines build isn't taken
//! for it. Nix fetches a path that it's to repair whether it's damaged or not; here what is as it was stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use drover_core::StorePath;
use drover_store::{FailureCause, RealiseStatus, Realised, StoreError, Substitute, Wanted};

use crate::service::STOPPING;
use crate::service::check::{Bench, Repeat};
use crate::service::request::Request;
use crate::service::survey::Answers;

/// How deep builds may lie behind builds that are to be done again; no graph is as deep.
const MOST_STEPS: usize = 1_000;

impl Request {
    /// Makes valid what isn't, and mends what is damaged of what was asked for and of all that it refers
    /// to; of a path that is no derivation's, of that alone.
    pub(crate) async fn repair(
        &self,
        wanted: &[Wanted],
        bench: Option<&Bench>,
    ) -> Result<Vec<Realised>, StoreError> {
        let mut answers = self.realise(wanted).await?;
        for (wanted, answer) in wanted.iter().zip(&mut answers) {
            if !answer.status.is_success() {
                continue;
            }
            let outputs = answer.outputs.values().cloned().collect();
            let paths = match wanted {
                Wanted::Path(path) => BTreeSet::from([path.clone()]),
                Wanted::AllOutputs(_) | Wanted::Outputs(..) => self.closure(outputs).await?,
            };
            let mended = tokio::select! {
                mended = self.mend_all(paths, bench, MOST_STEPS) => mended?,
                () = self.handle.stopped.cancelled() => {
                    Mended::Failed(Realised::failed(FailureCause::Passing, STOPPING))
                }
            };
            match (mended, wanted) {
                (Mended::Nothing, Wanted::Path(path)) if self.is_from_nowhere(path).await? => {
                    *answer = Realised::failed(FailureCause::Other, self.required(path));
                }
                (Mended::Nothing, _) => {}
                (Mended::All, _) => answer.status = RealiseStatus::Built,
                (Mended::Failed(failure), Wanted::Path(path))
                    if failure.status == RealiseStatus::Failed(FailureCause::Other) =>
                {
                    let message = format!("{}\n{}", self.required(path), failure.message);
                    *answer = Realised::failed(FailureCause::Other, message);
                }
                (Mended::Failed(failure), _) => *answer = failure,
            }
        }
        Ok(answers)
    }

    /// Whether a path could be had from nobody if it were damaged. Nix, which fetches it anew in any case,
    /// says so then even of one that is as it was.
    async fn is_from_nowhere(&self, path: &StorePath) -> Result<bool, StoreError> {
        let itself = BTreeSet::from([path.clone()]);
        if self.settings.substitute == Substitute::Yes
            && !self.store.substitutable(&itself).await?.is_empty()
        {
            return Ok(false);
        }
        let infos = self.store.path_infos(std::slice::from_ref(path)).await?;
        let deriver = infos.into_iter().flatten().find_map(|info| info.deriver);
        let Some(deriver) = deriver else { return Ok(true) };
        Ok(self.store.hold_valid(&BTreeSet::from([deriver]), Substitute::No).await?.is_empty())
    }

    /// Says as Nix does that nobody has a path.
    fn required(&self, path: &StorePath) -> String {
        let shown = self.store.store_dir().display(path);
        format!("path '{shown}' is required, but there is no substituter that can build it")
    }

    /// Returns all that paths refer to, and themselves.
    async fn closure(&self, roots: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        let (mut all, mut new) = (roots.clone(), roots);
        while !new.is_empty() {
            let paths: Vec<StorePath> = new.into_iter().collect();
            let infos = self.store.path_infos(&paths).await?;
            let references = infos.into_iter().flatten().flat_map(|info| info.references);
            new = references.filter(|path| !all.contains(path)).collect();
            all.extend(new.iter().cloned());
        }
        Ok(all)
    }

    /// Mends what is damaged among paths. `steps` says how many builds may still lie behind each other.
    async fn mend_all(
        &self,
        paths: BTreeSet<StorePath>,
        bench: Option<&Bench>,
        steps: usize,
    ) -> Result<Mended, StoreError> {
        let damaged = self.store.damaged(&paths).await?;
        let mut mended = Mended::Nothing;
        for path in damaged {
            // a build may have mended several
            if self.store.damaged(&BTreeSet::from([path.clone()])).await?.is_empty() {
                continue;
            }
            if let Some(failure) = Box::pin(self.mend(&path, bench, steps)).await? {
                return Ok(Mended::Failed(failure));
            }
            mended = Mended::All;
        }
        Ok(mended)
    }

    /// Mends one path; returns what kept it from that.
    async fn mend(
        &self,
        path: &StorePath,
        bench: Option<&Bench>,
        steps: usize,
    ) -> Result<Option<Realised>, StoreError> {
        let Err(unfetched) = self.store.repair(path).await else { return Ok(None) };
        let given_up = |why: &str| {
            let message = format!("{unfetched}; {why}");
            Ok(Some(Realised::failed(FailureCause::Other, message)))
        };
        let infos = self.store.path_infos(std::slice::from_ref(path)).await?;
        let Some(deriver) = infos.into_iter().flatten().find_map(|info| info.deriver) else {
            return given_up("what it was built from isn't known");
        };
        let known = BTreeSet::from([deriver.clone()]);
        if self.store.hold_valid(&known, Substitute::No).await?.is_empty() {
            let shown = self.store.store_dir().display(&deriver);
            return given_up(&format!("what it was built from, '{shown}', isn't valid"));
        }
        let Some(bench) = bench else {
            return given_up("no builds are done on this machine ('max-jobs = 0')");
        };
        let Some(steps) = steps.checked_sub(1) else {
            return given_up("too many builds lie behind it");
        };
        let mut answers: Answers = vec![None];
        let asked = self.derivations(&[Wanted::AllOutputs(deriver)], &mut answers).await?;
        let Some(asked) = asked.into_iter().next() else {
            return Ok(answers.into_iter().flatten().next());
        };
        let Some(outputs) = self.outputs(&asked).await? else {
            return given_up("what its derivation's outputs became isn't known");
        };
        let shown = self.store.store_dir().display(&asked.target.derivation);
        if let Some(failure) = self.make_inputs(&asked, &shown).await? {
            return Ok(Some(failure));
        }
        let inputs = self.inputs_of(&asked.derivation).await?;
        if let Mended::Failed(failure) = self.mend_all(inputs, Some(bench), steps).await? {
            return Ok(Some(failure));
        }
        let built = self.repeat(&asked, outputs, bench, Repeat::Replace).await?;
        Ok((!built.status.is_success()).then_some(built))
    }

    /// Returns all that a derivation's build sees, which is valid by now.
    async fn inputs_of(
        &self,
        derivation: &Arc<drover_derivation::Derivation>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let mut roots = derivation.input_sources.clone();
        for (path, names) in &derivation.input_derivations {
            let known = self.store.output_map(path).await?;
            let named = names.iter().filter_map(|name| known.get(name.as_str())?.clone());
            roots.extend(named);
        }
        self.closure(roots).await
    }
}

/// What came of mending.
enum Mended {
    /// There was nothing to be mended.
    Nothing,
    /// All that was damaged is as it should be.
    All,
    /// Something isn't, and this is why.
    Failed(Realised),
}
