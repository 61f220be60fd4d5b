//! A queue of builds at a server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_core::{BuildStatus, PathInfo, StorePath};
use drover_derivation::BasicDerivation;
use drover_store::{
    BuildFailure, BuildLog, BuildMode, BuildOutcome, BuildPlan, BuildRequest, BuildSettings,
    BuildWishes, Built, FailureCause, Lane, PathStream, Pending, StoreError, Verified,
};
use drover_wire::{
    BuildResult, DerivedPath, Dialect, Request, Response, ServeBuildOptions, ServeDialect,
    ServeRequest,
};

use crate::failure::{Asked, exited, failure, refusal};
use crate::import::Addition;
use crate::log::Listener;
use crate::pool::{Lease, Pool, Purpose};
use crate::reply::{Patience, Silence};
use crate::session::{Language, serve_options};

/// The version of the worker protocol from which on servers tell what they do: that a request for a
/// build has arrived, first of all.
const TELLS_ACTIVITIES: u8 = 20;

/// A queue of builds: one channel, whose server does one thing after another.
pub(crate) struct RemoteLane {
    lease: Arc<Lease>,
    pool: Arc<Pool>,
    further: Further,
}

/// Where is asked for what only the end of a build tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Further {
    /// On another channel, as builds are queued on this one.
    Elsewhere,
    /// On this one, as nothing is queued behind the build.
    SameChannel,
}

impl RemoteLane {
    pub(crate) fn new(lease: Lease, pool: Arc<Pool>) -> RemoteLane {
        RemoteLane { lease: Arc::new(lease), pool, further: Further::Elsewhere }
    }

    /// Returns a lane for a single build, which takes no other channel.
    pub(crate) fn alone(lease: Lease, pool: Arc<Pool>) -> RemoteLane {
        RemoteLane { lease: Arc::new(lease), pool, further: Further::SameChannel }
    }
}

impl Lane for RemoteLane {
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()> {
        Box::pin(crate::import::import(self.lease.session(), paths, Addition::PLAIN))
    }

    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        match &self.lease.session().language {
            Language::Worker(dialect) => self.worker_build(dialect, request, log),
            Language::Serve(dialect) => self.serve_build(dialect, request, log),
        }
    }
}

impl RemoteLane {
    fn finish(&self, known: BTreeMap<String, StorePath>) -> Finish {
        let lease = match self.further {
            Further::Elsewhere => None,
            Further::SameChannel => Some(Arc::clone(&self.lease)),
        };
        let (store, pool) = (self.pool.name().to_owned(), Arc::clone(&self.pool));
        Finish { store, pool, lease, known }
    }

    /// Returns the settings of a build: those of this store, and what is asked of it alone.
    fn settings(&self, wishes: &BuildWishes) -> BuildSettings {
        let mut settings = self.pool.opener().settings.clone();
        settings.cores = wishes.cores.or(settings.cores);
        settings.keep_failed |= wishes.keep_failed;
        settings
    }

    fn serve_derivation(
        &self,
        dialect: &ServeDialect,
        (derivation, basic): (StorePath, Box<BasicDerivation>),
        (settings, silence): (ServeBuildOptions, Silence),
        log: Arc<dyn BuildLog>,
    ) -> Pending<Result<BuildResult, BuildFailure>> {
        let request = ServeRequest::BuildDerivation(derivation, basic, settings);
        let built = self.lease.session().serve_build(dialect, &request, silence, log);
        Box::pin(async move {
            let result = built.await?;
            Ok(match result.status.is_success() {
                true => Ok(result),
                false => Err(failure(&result, Asked::Derivation)),
            })
        })
    }

    /// Builds a `.drv`, whose outputs the server doesn't tell.
    fn serve_from_store(
        &self,
        dialect: &ServeDialect,
        (derivation, outputs): (&StorePath, &BTreeSet<String>),
        (settings, silence): (ServeBuildOptions, Silence),
        log: Arc<dyn BuildLog>,
    ) -> Pending<Result<BuildResult, BuildFailure>> {
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let wanted = format!("{}!{}", dialect.store_dir.display(derivation), outputs.join(","));
        let request = ServeRequest::BuildPaths(vec![wanted], settings).encode(dialect);
        let built = self.lease.session().serve_build_paths(request, silence, log);
        Box::pin(async move {
            Ok(match built.await? {
                None => Ok(BuildResult::new(BuildStatus::Built, "")),
                Some((status, message)) => Err(exited(status, &message)),
            })
        })
    }

    fn serve_build(
        &self,
        dialect: &ServeDialect,
        request: BuildRequest,
        log: Arc<dyn BuildLog>,
    ) -> Pending<BuildOutcome> {
        let BuildRequest { derivation, outputs, known_outputs, plan, wishes, .. } = request;
        let settings = self.settings(&wishes);
        // words come by another way, so that only the end of all time can be told
        let limits = (serve_options(&settings), settings.timeout);
        let is_kept = log.is_kept();
        let session = self.lease.session();
        let built = match plan {
            BuildPlan::Derivation(basic) => {
                self.serve_derivation(dialect, (derivation, basic), limits, log)
            }
            BuildPlan::FromStore => {
                if outputs.iter().any(|output| !known_outputs.contains_key(output)) {
                    return Box::pin(async { Ok(BuildOutcome::Failed(cannot_tell_outputs())) });
                }
                self.serve_from_store(dialect, (&derivation, &outputs), limits, log)
            }
        };
        let known: BTreeSet<StorePath> = known_outputs.values().cloned().collect();
        let infos = session.serve_path_infos(dialect, known);
        let stderr = session.channel.peer().stderr.clone();
        let finish = self.finish(known_outputs);
        Box::pin(async move {
            let built = built.await;
            if is_kept && matches!(&built, Ok(Ok(result)) if result.status == BuildStatus::Built) {
                // the answer can be faster than the last lines, and a log is kept whole
                stderr.settled().await;
            }
            let result = match built {
                Ok(Ok(result)) => result,
                Ok(Err(failure)) => {
                    stderr.settled().await;
                    return Ok(BuildOutcome::Failed(failure));
                }
                Err(StoreError::Refused { message, .. }) => {
                    return Ok(BuildOutcome::Failed(refusal(message, FailureCause::Machine)));
                }
                Err(error) => return Err(error),
            };
            let infos = infos.await?.into_values().collect();
            finish.outcome(result, infos, BTreeMap::new()).await
        })
    }

    /// Sends the build, and right behind it the question what its outputs are: the answers come
    /// together. Of a build that failed they are "not valid", which costs nothing.
    fn worker_build(
        &self,
        dialect: &Dialect,
        request: BuildRequest,
        log: Arc<dyn BuildLog>,
    ) -> Pending<BuildOutcome> {
        let session = self.lease.session();
        let BuildRequest { derivation, outputs, known_outputs, plan, wishes, bring } = request;
        let asked = match plan {
            BuildPlan::Derivation(_) => Asked::Derivation,
            BuildPlan::FromStore => Asked::FromStore,
        };
        let settings = self.settings(&wishes);
        session.settle(dialect, &settings);
        let patience = patience(dialect, &settings);
        let wire_request = wire_request(dialect, derivation, outputs, plan);
        let built = session.ask_with(dialect, wire_request, patience, Listener::Build(log));
        let infos: Vec<_> = known_outputs
            .values()
            .map(|path| session.ask(dialect, Request::QueryPathInfo(path.clone())))
            .collect();
        let nars: Vec<_> = bring
            .iter()
            .flat_map(|size| known_outputs.values().map(|path| (path, *size)))
            .map(|(path, size)| (path.clone(), session.hoped_nar(path, size)))
            .collect();
        let finish = self.finish(known_outputs);
        Box::pin(async move {
            let result = match built.await {
                Ok(response) => only_result(response),
                Err(StoreError::Refused { message, .. }) => {
                    return Ok(BuildOutcome::Failed(refusal(message, FailureCause::Machine)));
                }
                Err(error) => return Err(error),
            };
            if !result.status.is_success() {
                return Ok(BuildOutcome::Failed(failure(&result, asked)));
            }
            let mut known = Vec::with_capacity(infos.len());
            for info in infos {
                if let Response::PathInfo(Some(info)) = info.await? {
                    known.push(*info);
                }
            }
            let nars = checked_nars(&finish.store, &known, nars).await?;
            finish.outcome(result, known, nars).await
        })
    }
}

/// Returns how long a build's server may be silent.
fn patience(dialect: &Dialect, settings: &BuildSettings) -> Patience {
    let silence = settings.max_silent_time.into_iter().chain(settings.timeout).min();
    match dialect.since(TELLS_ACTIVITIES) {
        true => Patience::Beginning(silence),
        false => Patience::Begun(silence),
    }
}

/// Returns why a server of the serve protocol can't build a content-addressed derivation from its
/// `.drv`.
fn cannot_tell_outputs() -> BuildFailure {
    let message = "over ssh:// a machine that doesn't trust the user can't tell the outputs of \
                   content-addressed derivations; over ssh-ng:// it can";
    BuildFailure::new(FailureCause::Machine, message)
}

/// Returns the request for a build, as the server's version has it.
fn wire_request(
    dialect: &Dialect,
    derivation: StorePath,
    outputs: BTreeSet<String>,
    plan: BuildPlan,
) -> Request {
    let mode = BuildMode::Normal;
    let from_store = match plan {
        BuildPlan::Derivation(basic) => return Request::BuildDerivation(derivation, basic, mode),
        BuildPlan::FromStore => vec![DerivedPath::Outputs(derivation, outputs)],
    };
    match dialect.since(34) {
        true => Request::BuildPathsWithResults(from_store, mode),
        false => Request::BuildPaths(from_store, mode),
    }
}

/// Waits for NARs that were asked for on a guess. One that is not what was announced is an error,
/// one that doesn't come isn't.
async fn checked_nars<F>(
    store: &str,
    infos: &[PathInfo],
    nars: Vec<(StorePath, F)>,
) -> Result<BTreeMap<StorePath, Bytes>, StoreError>
where
    F: Future<Output = Result<Bytes, StoreError>>,
{
    let mut checked = BTreeMap::new();
    for (path, nar) in nars {
        let Some(info) = infos.iter().find(|info| info.path == path) else { break };
        let Ok(nar) = nar.await else { break };
        let mut verified = Verified::new(store.to_owned(), info.clone());
        verified.pass(&nar)?;
        verified.finish()?;
        checked.insert(path, nar);
    }
    Ok(checked)
}

/// Returns the one result of an answer. `BuildPaths` has none: what fails there is an error.
fn only_result(response: Response) -> BuildResult {
    match response {
        Response::BuildResult(result) => *result,
        Response::BuildResults(results) => {
            let first = results.into_iter().next().map(|(_, result)| result);
            first.unwrap_or_else(|| BuildResult::new(BuildStatus::MiscFailure, "no result"))
        }
        _ => BuildResult::new(BuildStatus::Built, ""),
    }
}

/// What is needed to turn a result into an outcome.
struct Finish {
    store: String,
    pool: Arc<Pool>,
    /// The channel to ask on; another one where there is none.
    lease: Option<Arc<Lease>>,
    known: BTreeMap<String, StorePath>,
}

impl Finish {
    /// Checks that every output is there, and asks for those whose paths only the build could tell.
    async fn outcome(
        self,
        result: BuildResult,
        infos: Vec<PathInfo>,
        nars: BTreeMap<StorePath, Bytes>,
    ) -> Result<BuildOutcome, StoreError> {
        let mut by_path: BTreeMap<StorePath, PathInfo> =
            infos.into_iter().map(|info| (info.path.clone(), info)).collect();
        let mut names = self.known;
        for (name, path) in &result.outputs {
            names.entry(name.clone()).or_insert_with(|| path.clone());
        }
        let unknown: Vec<StorePath> =
            names.values().filter(|path| !by_path.contains_key(path)).cloned().collect();
        if !unknown.is_empty() {
            let lease = match self.lease {
                Some(lease) => lease,
                None => Arc::new(self.pool.lease(Purpose::Question).await?),
            };
            for info in lease.session().path_infos(&unknown).await?.into_iter().flatten() {
                by_path.insert(info.path.clone(), info);
            }
        }
        let mut outputs = BTreeMap::new();
        for (name, path) in names {
            match by_path.get(&path) {
                Some(info) => outputs.insert(name, info.clone()),
                None => return Err(StoreError::NotValid { store: self.store, path }),
            };
        }
        let seconds = result.stop_time.saturating_sub(result.start_time);
        let took = (result.start_time != 0).then(|| Duration::from_secs(seconds));
        let already_valid = result.status != BuildStatus::Built;
        Ok(BuildOutcome::Built(Built { outputs, already_valid, took, nars }))
    }
}
