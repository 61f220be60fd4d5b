//! Builds.
//!
//! Follows the cases `BuildPaths`, `BuildPathsWithResults`, `BuildDerivation` and `QueryMissing` of
//! `performOp` in `src/libstore/daemon.cc`, and `Worker::failingExitStatus` in
//! `src/libstore/build/worker.cc` of Nix.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use drover_core::{Hash, StoreDir, StorePath};
use drover_derivation::{BasicDerivation, Derivation, DerivationKind, HashModuloCache};
use drover_store::{
    AfterFailure, BuildMode, FailureCause, RealiseSettings, RealiseStatus, Realised, exit_code,
};
use drover_wire::{BuildResult, DerivedPath, MadeOutputs, Missing, Request, Response};

use crate::answer::{Answer, Context};
use crate::failure::Failure;
use crate::log_queue::Level;
use crate::made::{Making, wanted};
use crate::observer::Observer;
use crate::server::ClientTrust;

/// Ends the activities of an observer, however the work ends.
struct Finished(Arc<Observer>);

impl Drop for Finished {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Context {
    pub(crate) async fn realise(self, request: Request) -> Answer {
        match request {
            Request::BuildPaths(paths, mode) => self.build_paths(paths, mode).await,
            Request::BuildPathsWithResults(paths, mode) => {
                let realised = self.realise_paths(&paths, mode).await?;
                let results = self.told_of(&paths, realised).into_iter().map(|(path, realised)| {
                    (path.display(&self.dialect), build_result(realised, Some(path)))
                });
                Ok(Response::BuildResults(results.collect()))
            }
            Request::BuildDerivation(path, derivation, mode) => {
                self.build_derivation(path, *derivation, mode).await
            }
            Request::QueryMissing(paths) => {
                let wanted = paths.into_iter().map(wanted).collect();
                // a question holds nothing: what is asked about may be deleted next
                let keeper = Arc::clone(&self.keeper).session().await;
                let keeper = keeper.map_err(|error| self.failure(&error))?;
                keeper.set_own(&self.settings.store);
                let substitute = self.settings.substitute;
                let missing = self.shared.realiser.missing(keeper, wanted, substitute).await;
                let missing = missing.map_err(|error| self.failure(&error))?;
                Ok(Response::Missing(Box::new(Missing {
                    build: missing.build,
                    substitute: missing.substitute,
                    unknown: missing.unknown,
                    download_size: missing.download_size,
                    nar_size: missing.nar_size,
                })))
            }
            request => {
                Err(Failure::new(format!("operation {} builds nothing", request.operation())))
            }
        }
    }

    fn observer(&self) -> Finished {
        let store_dir = self.keeper.store_dir().clone();
        Finished(Arc::new(Observer::new(Arc::clone(&self.log), store_dir, self.settings.lines)))
    }

    pub(crate) fn realise_settings(&self, mode: BuildMode) -> RealiseSettings {
        RealiseSettings { client: self.client.user.clone(), ..self.settings.realise(mode) }
    }

    pub(crate) async fn realise_paths(
        &self,
        paths: &[DerivedPath],
        mode: BuildMode,
    ) -> Result<Vec<Realised>, Failure> {
        self.client.trust.may_build(mode)?;
        let observer = self.observer();
        let making = Making {
            realiser: &*self.shared.realiser,
            keeper: Arc::clone(&self.keeper),
            settings: self.realise_settings(mode),
            observer: observer.0.clone(),
        };
        let count = paths.len();
        let realised = making.realise(paths).await.map_err(|error| self.failure(&error))?;
        if realised.len() != count {
            return Err(Failure::new(format!("{} answers to {count} builds", realised.len())));
        }
        Ok(realised)
    }

    /// Returns what a client is told of. What the first failure kept from being built has not failed
    /// itself, and Nix passes over it.
    fn told_of<'a>(
        &self,
        paths: &'a [DerivedPath],
        realised: Vec<Realised>,
    ) -> Vec<(&'a DerivedPath, Realised)> {
        let kept = |cause: FailureCause| match self.settings.after_failure {
            AfterFailure::KeepGoing => cause == FailureCause::Cancelled,
            AfterFailure::Stop => cause.is_consequence(),
        };
        let is_kept = |each: &Realised| each.status.failure().is_some_and(kept);
        let failed = |each: &Realised| !each.status.is_success() && !is_kept(each);
        let passes_over = realised.iter().any(failed);
        let mut told: Vec<(&DerivedPath, Realised)> = paths.iter().zip(realised).collect();
        told.retain(|(_, each)| !passes_over || !is_kept(each));
        told
    }

    async fn build_paths(&self, paths: Vec<DerivedPath>, mode: BuildMode) -> Answer {
        let realised = self.realise_paths(&paths, mode).await?;
        let failed = self.told_of(&paths, realised);
        let failed: Vec<(&DerivedPath, &Realised)> = failed
            .iter()
            .filter(|(_, each)| !each.status.is_success())
            .map(|(path, each)| (*path, each))
            .collect();
        match failed.as_slice() {
            [] => Ok(Response::Done),
            [(path, only)] => Err(Failure {
                message: self.message(path, only),
                status: exit_code(only.status.failure()).into(),
            }),
            several => {
                for (path, realised) in several {
                    let message = self.message(path, realised);
                    self.log.tell(Level::Error, &format!("\x1b[31;1merror:\x1b[0m {message}"));
                }
                let store_dir = self.keeper.store_dir();
                let mut names: Vec<String> = several
                    .iter()
                    .map(|(path, _)| format!("'{}'", store_dir.display(path.path())))
                    .collect();
                names.sort();
                let causes = several.iter().filter_map(|(_, realised)| realised.status.failure());
                Err(Failure {
                    message: format!("build of {} failed", names.join(", ")),
                    status: exit_code(causes).into(),
                })
            }
        }
    }

    /// What the user reads of a failure.
    fn message(&self, path: &DerivedPath, realised: &Realised) -> String {
        if realised.message.is_empty() {
            return format!("build of '{}' failed", path.display(&self.dialect));
        }
        realised.message.clone()
    }

    async fn build_derivation(
        &self,
        path: StorePath,
        derivation: BasicDerivation,
        mode: BuildMode,
    ) -> Answer {
        self.client.trust.may_build(mode)?;
        let path = self.permitted(path, &derivation).await?;
        let known_by = known_by(self.keeper.store_dir(), &derivation);
        let observer = self.observer();
        let (keeper, settings) = (Arc::clone(&self.keeper), self.realise_settings(mode));
        let realised = self
            .shared
            .realiser
            .build_derivation(keeper, (path, derivation), settings, observer.0.clone())
            .await
            .map_err(|error| self.failure(&error))?;
        let result = BuildResult { known_by, ..build_result(realised, None) };
        Ok(Response::BuildResult(Box::new(result)))
    }

    /// Returns the path under which a client may have a derivation built.
    ///
    /// What an input-addressed output is called follows from derivations that needn't be here, so it
    /// is taken at the word of trusted clients only. Content-addressed outputs are called by what they
    /// are; the derivation itself is then named anew, so that no other's name can be claimed.
    async fn permitted(
        &self,
        path: StorePath,
        derivation: &BasicDerivation,
    ) -> Result<StorePath, Failure> {
        let kind = derivation.kind().map_err(|error| Failure::new(error.to_string()))?;
        let by_content = match kind {
            DerivationKind::Fixed | DerivationKind::Floating | DerivationKind::Impure => true,
            DerivationKind::InputAddressed | DerivationKind::Deferred => false,
        };
        if self.client.trust == ClientTrust::Trusted {
            return Ok(path);
        }
        if !by_content {
            self.client
                .trust
                .require("you are not privileged to build input-addressed derivations")?;
        }
        let whole = Derivation::from(derivation.clone());
        let name = format!("{}.drv", derivation.name);
        let text = whole.to_aterm(self.keeper.store_dir());
        self.text_path(&name, text, derivation.input_sources.clone()).await
    }
}

/// Returns what a derivation is known by that came without others, where it's kept what its outputs became.
pub(crate) fn known_by(store_dir: &StoreDir, derivation: &BasicDerivation) -> Option<Hash> {
    let whole = Derivation::from(derivation.clone());
    // one without such a hash fails to build, and then it's said why
    Some(HashModuloCache::new().masked(store_dir, &whole).ok()?.to_hash())
}

/// Returns a result as it travels, with those outputs that were asked for.
pub(crate) fn build_result(realised: Realised, asked: Option<&DerivedPath>) -> BuildResult {
    let mut result = BuildResult::new(realised.status.into(), realised.message);
    result.times_built = u64::from(realised.status == RealiseStatus::Built);
    result.non_deterministic =
        realised.status == RealiseStatus::Failed(FailureCause::NotDeterministic);
    if let Some((began, ended)) = realised.period {
        (result.start_time, result.stop_time) = (since_1970(began), since_1970(ended));
    }
    result.outputs = match asked {
        Some(DerivedPath::Outputs(_, names) | DerivedPath::Made(_, MadeOutputs::Some(names))) => {
            realised.outputs.into_iter().filter(|(name, _)| names.contains(name)).collect()
        }
        _ => realised.outputs,
    };
    if !realised.status.is_success() {
        result.outputs.clear();
    }
    result
}

fn since_1970(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_secs())
}
