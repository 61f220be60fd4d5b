//! One build, from what is asked to what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use drover_core::{DrvOutput, OutputName, PathInfo, Realisation, StorePath};
use drover_derivation::{BasicDerivation, BuildOptions, DerivationKind, Output};
use drover_recipe::{OutputFacts, OutputRules};
use drover_sandbox::{Launcher, Support};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildRequest, Built, LogEvent, Store as _,
};
use drover_store_local::{BuildLocks, LocalStore, Product, Workshop};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt::Attempt;
use crate::compare::Comparison;
use crate::failure::{Trouble, failed, of_bug, of_rule};
use crate::harvest::{Harvest, Reach};
use crate::inputs;
use crate::settings::{BuildUsers, KeepFailed, LocalSettings, SandboxFallback, SandboxMode};
use crate::suitable;
use crate::surroundings::store_paths_of;
use crate::users::BuildUser;

/// What a build has to do with.
pub(crate) struct Job<'a> {
    pub(crate) store: Arc<LocalStore>,
    pub(crate) settings: &'a LocalSettings,
    pub(crate) launcher: Launcher,
    pub(crate) support: Support,
    pub(crate) tracker: &'a TaskTracker,
    pub(crate) purpose: Purpose,
    pub(crate) request: BuildRequest,
    pub(crate) log: Arc<dyn BuildLog>,
    pub(crate) cancel: &'a CancellationToken,
}

/// What a build is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What it makes becomes valid.
    Build,
    /// What it makes is compared with what is valid.
    Check,
}

/// How a build is kept from the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shelter {
    /// In namespaces of its own.
    Namespaces,
    /// By its user alone.
    None,
}

/// What is known of outputs, by name.
pub(crate) type Outputs = Vec<(OutputName, PathInfo)>;

/// A derivation that is about to be built.
pub(crate) struct Subject {
    /// Its path, and the whole of it for messages.
    pub(crate) path: StorePath,
    pub(crate) shown: String,
    pub(crate) derivation: BasicDerivation,
    pub(crate) kind: DerivationKind,
    pub(crate) options: BuildOptions,
    pub(crate) rules: OutputRules,
    pub(crate) shelter: Shelter,
    /// Whether it has the machine's network.
    pub(crate) reach: Reach,
    /// All that it needs, with all that this refers to.
    pub(crate) closure: BTreeSet<StorePath>,
    /// Where each output is to be written.
    pub(crate) scratch: BTreeMap<OutputName, StorePath>,
}

impl Job<'_> {
    pub(crate) async fn run(self) -> Result<BuildOutcome, Trouble> {
        let began = Instant::now();
        let BuildRequest { derivation, plan, .. } = &self.request;
        let (path, derivation) = inputs::derivation(&self.store, derivation, plan).await?;
        let mut subject = self.subject(path, derivation).await?;
        let mut locks = tokio::select! {
            locks = self.store.lock_outputs(self.to_lock(&subject)) => locks?,
            () = self.cancel.cancelled() => return Err(Trouble::Cancelled),
        };
        let to_compare = match self.purpose {
            Purpose::Build => match self.already_valid(&subject).await? {
                Some(outputs) => return Ok(built(outputs, None)),
                None => None,
            },
            Purpose::Check => Some(self.to_compare(&subject).await?),
        };
        self.choose_scratch(&mut subject).await?;
        // they follow from the derivation, on which or on whose outputs there is a lock
        locks.cover(subject.scratch.values().cloned());
        let workshop = Arc::new(self.store.workshop().await?);
        let done = match to_compare {
            None => self.build_and_register(&subject, &workshop, locks).await,
            Some(valid) => self.build_and_compare(&subject, &workshop, locks, valid).await,
        };
        // off the way of what follows
        self.tracker.spawn_blocking(move || workshop.clear());
        let outputs = done?;
        self.run_post_build_hook(&subject, &outputs).await?;
        Ok(built(outputs, Some(began)))
    }

    async fn build_and_register(
        &self,
        subject: &Subject,
        workshop: &Arc<Workshop>,
        locks: BuildLocks,
    ) -> Result<Outputs, Trouble> {
        let products = match self.build(subject, workshop, &locks, &[]).await {
            Ok(products) => products,
            Err(trouble) => {
                self.clear(subject, &locks).await?;
                return Err(trouble);
            }
        };
        let realisations = self.realisations(subject, &products)?;
        let names: Vec<(OutputName, StorePath)> = products
            .iter()
            .map(|(name, product)| (name.clone(), product.info.path.clone()))
            .collect();
        let products = products.into_values().map(|product| self.signed(product)).collect();
        let locked = tokio::select! {
            locked = self.store.lock_products(locks, products) => locked?,
            () = self.cancel.cancelled() => return Err(Trouble::Cancelled),
        };
        self.store.register_outputs(workshop, locked, realisations).await?;
        self.infos(names).await
    }

    /// Signs an output with all keys, as Nix signs what it has built itself.
    fn signed(&self, mut product: Product) -> Product {
        let keys = &self.settings.keys.0;
        if !keys.is_empty() {
            let fingerprint = product.info.fingerprint(self.store.store_dir());
            product.info.signatures = keys.iter().map(|key| key.sign(&fingerprint)).collect();
        }
        product
    }

    /// Builds once more, and leaves what is valid as it is. What was made is removed with the workshop,
    /// unless it differs and is to be looked at.
    async fn build_and_compare(
        &self,
        subject: &Subject,
        workshop: &Arc<Workshop>,
        locks: BuildLocks,
        valid: Outputs,
    ) -> Result<Outputs, Trouble> {
        let done = self.build(subject, workshop, &locks, &valid).await;
        self.clear(subject, &locks).await?;
        done.map(|_| valid)
    }

    /// Finds out all that has to be known before the outputs are locked.
    async fn subject(
        &self,
        path: StorePath,
        derivation: BasicDerivation,
    ) -> Result<Subject, Trouble> {
        let store_dir = self.store.store_dir();
        let (kind, options) = (derivation.kind()?, derivation.options()?);
        suitable::check(&derivation, &options, self.settings)?;
        let rules = OutputRules::of(&derivation, store_dir)?;
        let shown = store_dir.display(&path);
        let networked = matches!(kind, DerivationKind::Fixed | DerivationKind::Impure);
        let shelter = self.shelter(&shown, networked, &options)?;
        let reach = match networked || shelter == Shelter::None {
            true => Reach::Network,
            false => Reach::None,
        };
        let mut roots = derivation.input_sources.clone();
        if shelter == Shelter::Namespaces {
            roots.extend(store_paths_of(&self.settings.paths, store_dir));
        }
        let closure = inputs::closure(&self.store, &roots).await?;
        let scratch = BTreeMap::new();
        let mut subject = Subject {
            path,
            shown,
            derivation,
            kind,
            options,
            rules,
            shelter,
            reach,
            closure,
            scratch,
        };
        subject.scratch = self.usual_scratch(&subject)?;
        let known: BTreeSet<StorePath> = subject.scratch.values().cloned().collect();
        self.store.hold_valid(&known, drover_store::Substitute::No).await?;
        Ok(subject)
    }

    /// Whether what is left of it is kept if it fails.
    pub(crate) fn keeps_failed(&self) -> bool {
        self.request.wishes.keep_failed || self.settings.keep_failed == KeepFailed::Yes
    }

    /// Decides whether a build is shut in.
    fn shelter(
        &self,
        shown: &str,
        networked: bool,
        options: &BuildOptions,
    ) -> Result<Shelter, Trouble> {
        let layout = self.store.layout();
        let is_diverted = layout.real.as_os_str() != layout.store_dir.as_str();
        let wanted = match self.settings.sandbox {
            SandboxMode::Always if options.no_chroot => {
                let text = format!(
                    "derivation '{shown}' has '__noChroot' set, but that's not allowed when \
                     'sandbox' is 'true'"
                );
                return Err(failed(text).into());
            }
            SandboxMode::Always => true,
            SandboxMode::Relaxed => !networked && !options.no_chroot,
            SandboxMode::Never => false,
        };
        if !wanted && !is_diverted {
            return self.without_shelter();
        }
        let possible = self.support.namespaces == drover_sandbox::Availability::Available;
        match (possible, self.settings.fallback) {
            (true, _) => Ok(Shelter::Namespaces),
            (false, SandboxFallback::WithoutSandbox) if !is_diverted => {
                let text = "this system has no namespaces for builds, so they are not shut in \
                            ('sandbox-fallback')";
                self.log.event(LogEvent::Message(text.to_owned()));
                self.without_shelter()
            }
            _ => Err(BuildFailure::Machine {
                message: "this system has no namespaces for builds, which this one needs"
                    .to_owned(),
                disk_full: false,
            }
            .into()),
        }
    }

    /// A build that isn't shut in writes to the store itself, which only a group may.
    fn without_shelter(&self) -> Result<Shelter, Trouble> {
        let is_root = rustix::process::geteuid().is_root();
        match self.settings.users {
            BuildUsers::Allocated { .. } if is_root => Err(BuildFailure::Machine {
                message: "builds that are not shut in take the users of 'build-users-group'"
                    .to_owned(),
                disk_full: false,
            }
            .into()),
            _ => Ok(Shelter::None),
        }
    }

    fn to_lock(&self, subject: &Subject) -> BTreeSet<StorePath> {
        let outputs = subject.derivation.outputs.values();
        let known = outputs.filter_map(Output::path).cloned();
        let mut paths: BTreeSet<StorePath> = known.collect();
        if paths.is_empty() {
            paths.insert(subject.path.clone());
        }
        paths
    }

    /// Removes what a build that isn't shut in may have left at its outputs' places.
    async fn clear(&self, subject: &Subject, locks: &BuildLocks) -> Result<(), Trouble> {
        if subject.shelter == Shelter::None {
            let paths = subject.scratch.values().cloned().collect();
            self.store.clear_outputs(locks, paths).await?;
        }
        Ok(())
    }

    /// Builds, and takes over what was built; that must be the same as these outputs.
    async fn build(
        &self,
        subject: &Subject,
        workshop: &Arc<Workshop>,
        locks: &BuildLocks,
        same_as: &[(OutputName, PathInfo)],
    ) -> Result<BTreeMap<OutputName, Product>, Trouble> {
        self.clear(subject, locks).await?;
        let attempt = Attempt { job: self, subject, workshop };
        let made = attempt.run().await?;
        let user = Arc::clone(&made.user);
        let (folder, _) = workshop
            .descriptors()
            .map_err(|error| crate::failure::machine("take outputs over", &error))?;
        let harvest = Harvest {
            store_dir: self.store.store_dir().clone(),
            path: subject.path.clone(),
            derivation: subject.derivation.clone(),
            rules: subject.rules.clone(),
            scratch: subject.scratch.clone(),
            closure: subject.closure.clone(),
            owners: user.owners(),
            reach: match &*user {
                // its folders are open to others than the build's own user
                BuildUser::Range(..) => Reach::Network,
                _ => subject.reach,
            },
            from: made.outputs,
            folder,
        };
        let gathered = tokio::task::spawn_blocking(move || harvest.gather()).await;
        let gathered = gathered.unwrap_or_else(|error| Err(of_bug(&subject.shown, &error).into()));
        let checked = match gathered {
            Ok(products) => {
                let comparison = Comparison { subject, workshop, user: &user, made: &made.folders };
                let compared = self.compare(&comparison, &products, same_as).await;
                match compared {
                    Ok(()) => self.check_rules(subject, &products).await.map(|()| products),
                    Err(trouble) => Err(trouble),
                }
            }
            Err(trouble) => Err(trouble),
        };
        made.folders.leave(self, checked.is_err(), user);
        checked
    }

    /// Checks what the derivation asks of its outputs.
    async fn check_rules(
        &self,
        subject: &Subject,
        products: &BTreeMap<OutputName, Product>,
    ) -> Result<(), Trouble> {
        if subject.rules.allow_anything() {
            return Ok(());
        }
        let infos = inputs::infos(&self.store, &subject.closure).await?;
        let known: BTreeMap<StorePath, OutputFacts> = infos
            .into_iter()
            .map(|info| {
                let PathInfo { path, references, nar_size, .. } = info;
                (path, OutputFacts { references, nar_size: nar_size.0 })
            })
            .collect();
        let made: BTreeMap<OutputName, PathInfo> =
            products.iter().map(|(name, product)| (name.clone(), product.info.clone())).collect();
        let known = |path: &StorePath| known.get(path).cloned();
        let checked = subject.rules.check(&made, self.store.store_dir(), &known);
        checked.map_err(|violation| of_rule(&violation).into())
    }

    /// Says what outputs became whose paths follow from their contents.
    fn realisations(
        &self,
        subject: &Subject,
        products: &BTreeMap<OutputName, Product>,
    ) -> Result<Vec<Realisation>, Trouble> {
        if subject.kind != DerivationKind::Floating {
            return Ok(Vec::new());
        }
        let hash = self.masked(subject)?;
        let of = |(name, product): (&OutputName, &Product)| Realisation {
            id: DrvOutput { hash: hash.clone(), output: name.clone() },
            out_path: product.info.path.clone(),
            signatures: BTreeSet::new(),
        };
        Ok(products.iter().map(of).collect())
    }
}

fn built(outputs: Outputs, began: Option<Instant>) -> BuildOutcome {
    let outputs = outputs.into_iter().map(|(name, info)| (name.to_string(), info)).collect();
    BuildOutcome::Built(Built {
        outputs,
        already_valid: began.is_none(),
        took: began.map(|began| began.elapsed()),
        nars: BTreeMap::new(),
    })
}
