//! A queue of builds at a server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drover_core::{PathInfo, StorePath};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, Built, Lane, PathStream, Pending,
    StoreError,
};
use drover_wire::{
    BuildMode, BuildResult, BuildStatus, DerivedPath, Dialect, Request, Response, ServeRequest,
};

use crate::pool::{Lease, Pool};
use crate::reply::Patience;
use crate::session::{Language, serve_options};

/// A queue of builds: one channel, whose server does one thing after another.
pub(crate) struct RemoteLane {
    lease: Arc<Lease>,
    pool: Arc<Pool>,
}

impl RemoteLane {
    pub(crate) fn new(lease: Lease, pool: Arc<Pool>) -> RemoteLane {
        RemoteLane { lease: Arc::new(lease), pool }
    }
}

impl Lane for RemoteLane {
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()> {
        Box::pin(crate::import::import(self.lease.session(), paths))
    }

    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        match &self.lease.session().language {
            Language::Worker(dialect) => self.worker_build(dialect, request, log),
            Language::Serve(dialect) => {
                let settings = serve_options(self.pool.settings());
                let serve = match request.plan {
                    BuildPlan::Derivation(derivation) => {
                        ServeRequest::BuildDerivation(request.derivation, derivation, settings)
                    }
                    BuildPlan::FromStore => {
                        let store = self.pool.name().to_owned();
                        let what = "build from a .drv over the serve protocol";
                        return Box::pin(async { Err(StoreError::Unsupported { store, what }) });
                    }
                };
                let session = self.lease.session();
                log.event(drover_store::LogEvent::Started);
                let built = session.serve_build(dialect, &serve);
                let known: Vec<StorePath> = request.known_outputs.values().cloned().collect();
                let infos = session.serve_path_infos(dialect, known.iter().cloned().collect());
                let finish = Finish::new(&self.pool, &self.lease, request.known_outputs);
                Box::pin(async move {
                    let result = built.await?;
                    if !result.status.is_success() {
                        return Ok(BuildOutcome::Failed(failure(result)));
                    }
                    let infos = infos.await?.into_values().collect();
                    finish.outcome(result, infos).await
                })
            }
        }
    }
}

impl RemoteLane {
    /// Sends the build, and right behind it the question what its outputs are: the answers come
    /// together. Of a build that failed they are "not valid", which costs nothing.
    fn worker_build(
        &self,
        dialect: &Dialect,
        request: BuildRequest,
        log: Arc<dyn BuildLog>,
    ) -> Pending<BuildOutcome> {
        let session = self.lease.session();
        let BuildRequest { derivation, outputs, known_outputs, plan } = request;
        let wire_request = match plan {
            BuildPlan::Derivation(basic) => {
                Request::BuildDerivation(derivation, basic, BuildMode::Normal)
            }
            BuildPlan::FromStore if dialect.since(34) => Request::BuildPathsWithResults(
                vec![DerivedPath::Outputs(derivation, outputs)],
                BuildMode::Normal,
            ),
            BuildPlan::FromStore => Request::BuildPaths(
                vec![DerivedPath::Outputs(derivation, outputs)],
                BuildMode::Normal,
            ),
        };
        let built = session.ask_with(dialect, wire_request, Patience::Unlimited, log);
        let infos: Vec<_> = known_outputs
            .values()
            .map(|path| session.ask(dialect, Request::QueryPathInfo(path.clone())))
            .collect();
        let finish = Finish::new(&self.pool, &self.lease, known_outputs);
        Box::pin(async move {
            let result = match built.await {
                Ok(Response::BuildResult(result)) => *result,
                Ok(Response::BuildResults(results)) => {
                    let first = results.into_iter().next().map(|(_, result)| result);
                    first.unwrap_or_else(|| BuildResult::new(BuildStatus::MiscFailure, "no result"))
                }
                Ok(_) => BuildResult::new(BuildStatus::Built, ""),
                Err(StoreError::Refused { message, .. }) => {
                    return Ok(BuildOutcome::Failed(refusal(message)));
                }
                Err(error) => return Err(error),
            };
            if !result.status.is_success() {
                return Ok(BuildOutcome::Failed(failure(result)));
            }
            let mut known = Vec::with_capacity(infos.len());
            for info in infos {
                if let Response::PathInfo(Some(info)) = info.await? {
                    known.push(*info);
                }
            }
            finish.outcome(result, known).await
        })
    }
}

/// What is needed to turn a result into an outcome.
struct Finish {
    store: String,
    pool: Arc<Pool>,
    known: BTreeMap<String, StorePath>,
    /// Keeps the channel from being given back while answers are awaited.
    _lease: Arc<Lease>,
}

impl Finish {
    fn new(pool: &Arc<Pool>, lease: &Arc<Lease>, known: BTreeMap<String, StorePath>) -> Finish {
        let (pool, _lease) = (Arc::clone(pool), Arc::clone(lease));
        Finish { store: pool.name().to_owned(), pool, known, _lease }
    }

    /// Checks that every output is there, and asks for those whose paths only the build could tell.
    async fn outcome(
        self,
        result: BuildResult,
        infos: Vec<PathInfo>,
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
            let lease = self.pool.lease(crate::pool::Purpose::Other).await?;
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
        Ok(BuildOutcome::Built(Built { outputs, already_valid, took }))
    }
}

/// Turns a failed result into a failure that says whose it is.
fn failure(result: BuildResult) -> BuildFailure {
    let message = crate::log::plain_text(&result.error);
    match result.status {
        BuildStatus::TimedOut => BuildFailure::TimedOut { message },
        BuildStatus::NotDeterministic => BuildFailure::NotDeterministic { message },
        BuildStatus::OutputRejected if message.contains("hash mismatch") => {
            BuildFailure::HashMismatch { message }
        }
        BuildStatus::TransientFailure => machine_failure(message),
        BuildStatus::InputRejected | BuildStatus::MiscFailure | BuildStatus::DependencyFailed
        | BuildStatus::NoSubstituters => other_failure(message),
        BuildStatus::PermanentFailure if is_disk_full(&message) => machine_failure(message),
        _ if message.contains("hash mismatch in fixed-output") => {
            BuildFailure::HashMismatch { message }
        }
        _ => BuildFailure::Failed { message },
    }
}

/// Turns an error that the server raised instead of answering into a failure.
fn refusal(message: String) -> BuildFailure {
    if message.contains("hash mismatch in fixed-output") {
        return BuildFailure::HashMismatch { message };
    }
    other_failure(message)
}

fn other_failure(message: String) -> BuildFailure {
    const REFUSED: &[&str] = &[
        "not privileged",
        "lacks a signature by a trusted key",
        "lacks a valid signature",
        "restricted setting",
        "experimental",
    ];
    const MACHINE: &[&str] = &[
        "does not exist, and substitution is disabled",
        "is not valid",
        "don't know how to build",
        "no build users",
        "all build users are currently in use",
        "unable to start any build",
        "Required system",
        "required (system, features)",
        "a '",
        "interrupted",
        "cannot allocate memory",
        "unable to fork",
        "database",
        "opening lock file",
    ];
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(REFUSED) {
        BuildFailure::Refused { message }
    } else if is_disk_full(&message) || has(MACHINE) {
        machine_failure(message)
    } else {
        BuildFailure::Failed { message }
    }
}

fn machine_failure(message: String) -> BuildFailure {
    let disk_full = is_disk_full(&message);
    BuildFailure::Machine { message, disk_full }
}

fn is_disk_full(message: &str) -> bool {
    message.contains("No space left on device") || message.contains("Disk quota exceeded")
}
