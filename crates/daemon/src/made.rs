//! Builds of derivations that other derivations make: what is asked for is known step by step.
//!
//! Follows `DerivationTrampolineGoal` in `src/libstore/build/derivation-trampoline-goal.cc` of Nix.

use std::collections::BTreeSet;
use std::sync::Arc;

use drover_store::{
    FailureCause, Keeper, RealiseObserver, RealiseSettings, Realised, Realiser, StoreError, Wanted,
};
use drover_wire::{DerivedPath, MadeDerivation};

/// What builds are done with.
pub(crate) struct Making<'a> {
    pub(crate) realiser: &'a dyn Realiser,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) settings: RealiseSettings,
    pub(crate) observer: Arc<dyn RealiseObserver>,
}

/// How far one thing that is asked for is known.
enum Asked {
    Known(Wanted),
    /// It is an output of a derivation that one of these makes.
    Made(MadeDerivation, drover_wire::MadeOutputs),
    Failed(Realised),
}

impl Making<'_> {
    /// Realises what is asked for; answers in the order of the question.
    pub(crate) async fn realise(self, paths: &[DerivedPath]) -> Result<Vec<Realised>, StoreError> {
        let mut asked: Vec<Asked> = paths.iter().cloned().map(asked).collect();
        while asked.iter().any(|asked| matches!(asked, Asked::Made(..))) {
            self.next_step(&mut asked).await?;
        }
        let known = asked.iter().filter_map(|asked| match asked {
            Asked::Known(wanted) => Some(wanted.clone()),
            _ => None,
        });
        let mut realised = self.ask(known.collect()).await?.into_iter();
        let lost = || rejected("nothing became of it".to_owned());
        let answers = asked.into_iter().map(|asked| match asked {
            Asked::Failed(failed) => failed,
            _ => realised.next().unwrap_or_else(lost),
        });
        Ok(answers.collect())
    }

    async fn ask(&self, wanted: Vec<Wanted>) -> Result<Vec<Realised>, StoreError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (keeper, observer) = (Arc::clone(&self.keeper), Arc::clone(&self.observer));
        self.realiser.realise(keeper, wanted, self.settings.clone(), observer).await
    }

    /// Makes the next derivation of all that wait for one.
    async fn next_step(&self, asked: &mut [Asked]) -> Result<(), StoreError> {
        let wanted = asked.iter().filter_map(|asked| match asked {
            Asked::Made(made, _) => first_step(made),
            _ => None,
        });
        let realised = self.ask(wanted.collect()).await?;
        let waiting = asked.iter_mut().filter(|asked| matches!(asked, Asked::Made(..)));
        for (asked, realised) in waiting.zip(realised) {
            let before = std::mem::replace(asked, Asked::Failed(rejected(String::new())));
            *asked = self.taken(before, realised);
        }
        Ok(())
    }

    /// Returns what is known when a step has been taken.
    fn taken(&self, asked: Asked, realised: Realised) -> Asked {
        let Asked::Made(mut made, outputs) = asked else { return asked };
        let step = made.steps.remove(0);
        let store_dir = self.keeper.store_dir();
        let from = store_dir.display(&made.derivation);
        if !realised.status.is_success() {
            let why = realised.message;
            let message = format!("failed to obtain derivation of '{from}^{step}': {why}");
            return Asked::Failed(Realised::failed(FailureCause::Dependency, message));
        }
        match realised.outputs.get(&step) {
            Some(path) if path.is_derivation() && made.steps.is_empty() => {
                Asked::Known(wanted(outputs.of(path.clone())))
            }
            Some(path) if path.is_derivation() => {
                made.derivation = path.clone();
                Asked::Made(made, outputs)
            }
            Some(path) => Asked::Failed(rejected(format!(
                "output '{step}' of '{from}' is '{}', which is not a derivation",
                store_dir.display(path)
            ))),
            None => Asked::Failed(rejected(format!("output '{step}' of '{from}' is not known"))),
        }
    }
}

fn asked(path: DerivedPath) -> Asked {
    match path {
        DerivedPath::Made(made, outputs) if !made.steps.is_empty() => Asked::Made(made, outputs),
        path => Asked::Known(wanted(path)),
    }
}

/// Returns what is to be made first of what leads to something that is asked for.
fn first_step(made: &MadeDerivation) -> Option<Wanted> {
    let step = made.steps.first()?.clone();
    Some(Wanted::Outputs(made.derivation.clone(), BTreeSet::from([step])))
}

/// Returns what is asked for, as far as it is known: of what a derivation makes, that derivation.
pub(crate) fn wanted(path: DerivedPath) -> Wanted {
    match path {
        DerivedPath::Opaque(path) => Wanted::Path(path),
        DerivedPath::All(path) => Wanted::AllOutputs(path),
        DerivedPath::Outputs(path, outputs) => Wanted::Outputs(path, outputs),
        DerivedPath::Made(made, outputs) => {
            first_step(&made).unwrap_or_else(|| wanted(outputs.of(made.derivation)))
        }
    }
}

fn rejected(message: String) -> Realised {
    Realised::failed(FailureCause::Refused, message)
}
