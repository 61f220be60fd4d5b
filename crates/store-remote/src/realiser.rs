//! Makes paths valid in a store behind a connection, by having its server build them.
//!
//! Follows `RemoteStore::buildPathsWithResults` and `setOptions` in `src/libstore/remote-store.cc` of
//! Nix. Each request has a connection of its own: a server keeps the settings that it was sent, and
//! ends what it does for a client that goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use drover_core::StorePath;
use drover_derivation::BasicDerivation;
use drover_store::{
    AfterFailure, BuildMode, FailureCause, Keeper, MissingPaths, RealiseObserver, RealiseSettings,
    RealiseStatus, Realised, Realiser, StoreError, Substitute, Wanted,
};
use drover_wire::{BuildResult, ClientOptions, DerivedPath, Dialect, Request, Response};

use crate::activities::Activities;
use crate::ends::{by_words, realised_of};
use crate::log::Listener;
use crate::pool::{Lease, Pool, Purpose};
use crate::reply::Patience;
use crate::session::Language;

/// Makes paths valid in the store behind a connection.
///
/// The stores that its methods are given must be views of that store; they keep what was made valid
/// from the garbage collector. Dropping a future closes its connection, and the server ends what it
/// does for it.
pub struct RemoteRealiser {
    pool: Arc<Pool>,
}

/// A connection for one request.
struct Apart {
    lease: Lease,
    dialect: Dialect,
    listener: Listener,
}

impl RemoteRealiser {
    pub(crate) fn new(pool: Arc<Pool>) -> RemoteRealiser {
        RemoteRealiser { pool }
    }

    fn cannot<T>(&self, what: &'static str) -> Result<T, StoreError> {
        Err(StoreError::Unsupported { store: self.pool.name().to_owned(), what })
    }

    /// Opens a connection with these settings.
    async fn open(
        &self,
        settings: &RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Apart, StoreError> {
        let lease = self.pool.lease_fresh().await?;
        let dialect = match &lease.session().language {
            Language::Worker(dialect) => dialect.clone(),
            Language::Serve(_) => return self.cannot("build what a daemon's client asks for"),
        };
        // its failing would be the connection's, which the build finds
        drop(lease.session().ask(&dialect, Request::SetOptions(client_options(settings))));
        let activities = Activities::new(dialect.store_dir.clone(), observer);
        Ok(Apart { lease, dialect, listener: Listener::Messages(Arc::new(activities)) })
    }
}

impl Apart {
    async fn build(&self, request: Request) -> Result<Response, StoreError> {
        let listener = self.listener.clone();
        self.lease.session().ask_with(&self.dialect, request, Patience::Watched, listener).await
    }

    fn unexpected(&self) -> StoreError {
        let reason = "it answered something else than was asked".to_owned();
        StoreError::Protocol { store: self.lease.session().channel.peer().name.clone(), reason }
    }

    /// Returns the paths of a derivation's outputs as far as they are known; nothing where the
    /// server can't say.
    async fn outputs(&self, wanted: &Wanted) -> Result<BTreeMap<String, StorePath>, StoreError> {
        let (derivation, names) = match wanted {
            Wanted::Path(_) => return Ok(BTreeMap::new()),
            Wanted::AllOutputs(derivation) => (derivation, None),
            Wanted::Outputs(derivation, names) => (derivation, Some(names)),
        };
        if !self.dialect.since(22) {
            return Ok(BTreeMap::new());
        }
        let request = Request::QueryDerivationOutputMap(derivation.clone());
        let known = match self.lease.session().ask(&self.dialect, request).await {
            Ok(Response::OutputMap(known)) => known,
            Ok(_) => return Err(self.unexpected()),
            Err(StoreError::Refused { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let asked = |name: &String| names.is_none_or(|names| names.contains(name));
        let known = known.into_iter().filter(|(name, _)| asked(name));
        Ok(known.filter_map(|(name, path)| Some((name, path?))).collect())
    }

    /// Builds, and has the server tell how each build ended.
    async fn with_results(
        &self,
        wanted: &[Wanted],
        mode: BuildMode,
    ) -> Result<Vec<Realised>, StoreError> {
        let asked = wanted.iter().map(derived_path).collect();
        let results = match self.build(Request::BuildPathsWithResults(asked, mode)).await? {
            Response::BuildResults(results) => results,
            _ => return Err(self.unexpected()),
        };
        let results: Vec<(DerivedPath, BuildResult)> = results
            .into_iter()
            .filter_map(|(key, result)| {
                Some((DerivedPath::parse(&key, &self.dialect).ok()?, result))
            })
            .collect();
        let mut realised = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let mut one = match result_of(&results, &derived_path(wanted)) {
                Some(result) => realised_of(result),
                // Nix passes over what another failure kept from being built
                None => Realised::failed(FailureCause::Cancelled, "the server told no result"),
            };
            if one.status.is_success() && lacks_outputs(wanted, &one) {
                let mut known = self.outputs(wanted).await?;
                known.append(&mut one.outputs);
                one.outputs = known;
            }
            realised.push(one);
        }
        Ok(realised)
    }

    /// Builds by a server that only tells whether all went well (before 1.34): how each went has to
    /// be found out from what is valid before and after.
    async fn without_results(
        &self,
        wanted: &[Wanted],
        mode: BuildMode,
    ) -> Result<Vec<Realised>, StoreError> {
        let before = self.all_valid(wanted).await?;
        let asked = wanted.iter().map(derived_path).collect();
        let refused = match self.build(Request::BuildPaths(asked, mode)).await {
            Ok(_) => None,
            Err(StoreError::Refused { message, .. }) => Some(message),
            Err(error) => return Err(error),
        };
        let after = match refused {
            None => vec![true; wanted.len()],
            Some(_) => self.all_valid(wanted).await?,
        };
        let mut realised = Vec::with_capacity(wanted.len());
        for ((wanted, before), after) in wanted.iter().zip(before).zip(after) {
            let mut one = match (before, after, &refused) {
                (true, true, _) if mode == BuildMode::Normal => {
                    Realised::succeeded(RealiseStatus::AlreadyValid)
                }
                (_, true, None) => Realised::succeeded(RealiseStatus::Built),
                (false, true, Some(_)) => Realised::succeeded(RealiseStatus::Built),
                (_, _, message) => by_words(message.clone().unwrap_or_default()),
            };
            if one.status.is_success() {
                one.outputs = self.outputs(wanted).await?;
            }
            realised.push(one);
        }
        Ok(realised)
    }

    /// Says of each whether all of it is valid.
    async fn all_valid(&self, wanted: &[Wanted]) -> Result<Vec<bool>, StoreError> {
        let mut valid = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let paths: BTreeSet<StorePath> = match wanted {
                Wanted::Path(path) => BTreeSet::from([path.clone()]),
                _ => self.outputs(wanted).await?.into_values().collect(),
            };
            let substitute = Substitute::No;
            let found = self.lease.session().valid_paths(&paths, substitute).await?;
            valid.push(!paths.is_empty() && found.len() == paths.len());
        }
        Ok(valid)
    }
}

#[async_trait]
impl Realiser for RemoteRealiser {
    async fn realise(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>, StoreError> {
        let apart = self.open(&settings, observer).await?;
        let mode = settings.mode;
        let realised = match apart.dialect.since(34) {
            true => apart.with_results(&wanted, mode).await?,
            false => apart.without_results(&wanted, mode).await?,
        };
        // the connection that was built on, which keeps them until now, is about to end
        let mut kept: BTreeSet<StorePath> = BTreeSet::new();
        for (wanted, realised) in wanted.iter().zip(&realised) {
            kept.extend(realised.outputs.values().cloned());
            if let Wanted::Path(path) = wanted {
                kept.insert(path.clone());
            }
        }
        keep(store.as_ref(), kept).await?;
        Ok(realised)
    }

    async fn build_derivation(
        &self,
        store: Arc<dyn Keeper>,
        (path, derivation): (StorePath, BasicDerivation),
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Realised, StoreError> {
        let apart = self.open(&settings, observer).await?;
        let outputs = derivation.outputs.iter();
        let known: BTreeMap<String, StorePath> = outputs
            .filter_map(|(name, output)| Some((name.to_string(), output.path()?.clone())))
            .collect();
        let request = Request::BuildDerivation(path, Box::new(derivation), settings.mode);
        let mut realised = match apart.build(request).await? {
            Response::BuildResult(result) => realised_of(&result),
            _ => return Err(apart.unexpected()),
        };
        if realised.status.is_success() {
            for (name, path) in known {
                realised.outputs.entry(name).or_insert(path);
            }
        }
        keep(store.as_ref(), realised.outputs.values().cloned().collect()).await?;
        Ok(realised)
    }

    async fn missing(
        &self,
        _: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        _: Substitute,
    ) -> Result<MissingPaths, StoreError> {
        let lease = self.pool.lease(Purpose::Question).await?;
        let Language::Worker(dialect) = &lease.session().language else {
            return self.cannot("say what is missing");
        };
        let request = Request::QueryMissing(wanted.iter().map(derived_path).collect());
        match lease.session().ask(dialect, request).await? {
            Response::Missing(missing) => Ok(MissingPaths {
                build: missing.build,
                substitute: missing.substitute,
                unknown: missing.unknown,
                download_size: missing.download_size,
                nar_size: missing.nar_size,
            }),
            _ => {
                let reason = "it answered something else than was asked".to_owned();
                Err(StoreError::Protocol { store: self.pool.name().to_owned(), reason })
            }
        }
    }
}

async fn keep(store: &dyn Keeper, paths: BTreeSet<StorePath>) -> Result<(), StoreError> {
    if paths.is_empty() {
        return Ok(());
    }
    store.hold_valid(&paths, drover_store::Substitute::No).await.map(drop)
}

/// Returns the settings for a connection. Those that have a place of their own in the message are
/// taken out of the others, as Nix's clients do.
pub fn client_options(settings: &RealiseSettings) -> ClientOptions {
    let build = &settings.build;
    let mut overrides = build.overrides.clone();
    for own in ["keep-failed", "keep-going", "max-silent-time", "cores", "substitute", "fallback"] {
        overrides.remove(own);
    }
    let max_jobs = overrides.get("max-jobs").and_then(|jobs| jobs.parse().ok());
    if max_jobs.is_some() {
        overrides.remove("max-jobs");
    }
    if let Some(timeout) = build.timeout {
        overrides.insert("timeout".to_owned(), timeout.as_secs().to_string());
    }
    ClientOptions {
        keep_failed: build.keep_failed,
        keep_going: settings.after_failure == AfterFailure::KeepGoing,
        fallback: build.switch("fallback") == Some(true),
        verbosity: 3,
        max_jobs: max_jobs.unwrap_or(1),
        max_silent_time: build.max_silent_time.map_or(0, |limit| limit.as_secs()),
        verbose_build: true,
        cores: build.told_cores().into(),
        use_substitutes: settings.substitute == drover_store::Substitute::Yes,
        overrides,
    }
}

fn derived_path(wanted: &Wanted) -> DerivedPath {
    match wanted {
        Wanted::Path(path) => DerivedPath::Opaque(path.clone()),
        Wanted::AllOutputs(derivation) => DerivedPath::All(derivation.clone()),
        Wanted::Outputs(derivation, names) => {
            DerivedPath::Outputs(derivation.clone(), names.clone())
        }
    }
}

/// Returns how something ended. Up to Nix 2.8 results are in an order of their own, and one stands
/// for all that was wanted of a derivation.
fn result_of<'a>(
    results: &'a [(DerivedPath, BuildResult)],
    asked: &DerivedPath,
) -> Option<&'a BuildResult> {
    let is_plain = |path: &DerivedPath| matches!(path, DerivedPath::Opaque(_));
    let same = results.iter().find(|(key, _)| key == asked);
    let alike = || {
        results
            .iter()
            .find(|(key, _)| key.path() == asked.path() && is_plain(key) == is_plain(asked))
    };
    same.or_else(alike).map(|(_, result)| result)
}

fn lacks_outputs(wanted: &Wanted, realised: &Realised) -> bool {
    match wanted {
        Wanted::Path(_) => false,
        Wanted::AllOutputs(_) => realised.outputs.is_empty(),
        Wanted::Outputs(_, names) => names.iter().any(|name| !realised.outputs.contains_key(name)),
    }
}

#[cfg(test)]
mod tests {
    use drover_store::BuildSettings;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::yes(Some("yes"), true)]
    #[case::one(Some("1"), true)]
    #[case::on(Some("true"), true)]
    #[case::no(Some("no"), false)]
    #[case::unsaid(None, false)]
    #[case::no_switch(Some("perhaps"), false)]
    fn fallback_is_passed_on(#[case] said: Option<&str>, #[case] expected: bool) {
        let overrides = said.map(|said| ("fallback".to_owned(), said.to_owned()));
        let build = BuildSettings {
            overrides: overrides.into_iter().collect(),
            ..BuildSettings::default()
        };
        let settings = RealiseSettings {
            mode: BuildMode::Normal,
            after_failure: AfterFailure::Stop,
            substitute: drover_store::Substitute::No,
            build,
            client: None,
        };
        let options = client_options(&settings);
        assert_eq!(options.fallback, expected);
        assert!(!options.overrides.contains_key("fallback"), "it has a place of its own");
    }
}
