//! One build, from what is asked to what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use drover_core::{DrvOutput, OutputName, PathInfo, Realisation, StorePath};
use drover_derivation::{BasicDerivation, BuildOptions, DerivationKind, Output};
use drover_recipe::{OutputFacts, OutputRules};
use drover_sandbox::{Launcher, Standing, Support};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildRequest, Built, FailureCause, LogEvent, Store as _,
};
use drover_store_local::{BuildLocks, LocalStore, Product, Workshop};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt::Attempt;
use crate::builtin;
use crate::compare::Comparison;
use crate::failure::{Trouble, of_bug, of_range, of_rule, of_rules, rejected};
use crate::harvest::{Gathered, Harvest, Reach};
use crate::inputs;
use crate::lane::words;
use crate::left::Fate;
use crate::places::{self, Places};
use crate::references::References;
use crate::settings::{BuildUsers, KeepFailed, LocalSettings, SandboxFallback, SandboxMode};
use crate::suitable::{self, Unsupported};
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
    pub(crate) places: &'a Places,
    pub(crate) references: &'a References,
    pub(crate) cancel: &'a CancellationToken,
}

/// What a build is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What it makes becomes valid.
    Build,
    /// What it makes is compared with what is valid.
    Check,
    /// What it makes takes the place of what is valid and damaged.
    Repair,
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
        if !self.post_build_hooks().is_empty() {
            // before the lock, which may be on this very path
            self.write_derivation(&subject).await?;
        }
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
            Purpose::Repair => None,
        };
        self.choose_scratch(&mut subject).await?;
        // they follow from the derivation, on which or on whose outputs there is a lock
        locks.cover(subject.scratch.values().cloned());
        let workshop = self.open_workshop(&subject).await?;
        let done = match to_compare {
            None => self.build_and_register(&subject, &workshop, locks).await,
            Some(valid) => self.build_and_compare(&subject, &workshop, locks, valid).await,
        };
        let (outputs, locks) = match done {
            Ok(done) => done,
            Err(trouble) => {
                self.clear_away(workshop);
                return Err(trouble);
            }
        };
        // nobody else makes or removes anything there while the hook has to do with it
        let hooked = self.run_post_build_hook(&subject, &outputs).await;
        drop(locks);
        let left = match places::may_be_kept(&subject, self.purpose, self.settings) {
            true => self.places.keep(workshop, subject),
            false => Some(workshop),
        };
        if let Some(workshop) = left {
            self.clear_away(workshop);
        }
        hooked?;
        Ok(built(outputs, Some(began)))
    }

    async fn open_workshop(&self, subject: &Subject) -> Result<Arc<Workshop>, Trouble> {
        match self.places.take(subject) {
            Ok(Some(workshop)) => return Ok(workshop),
            Ok(None) => {}
            Err(other) => self.clear_away(other),
        }
        Ok(Arc::new(self.store.workshop().await?))
    }

    /// Removes what is in a workshop, off the way of what follows.
    fn clear_away(&self, workshop: Arc<Workshop>) {
        self.tracker.spawn_blocking(move || workshop.clear());
    }

    /// Finds out all that has to be known before the outputs are locked.
    async fn subject(
        &self,
        path: StorePath,
        derivation: BasicDerivation,
    ) -> Result<Subject, Trouble> {
        let store_dir = self.store.store_dir();
        let (kind, options) = (derivation.kind()?, derivation.options()?);
        let shown = store_dir.display(&path);
        match suitable::check(&derivation, &options, self.settings) {
            Err(Unsupported::Builtin { name }) => {
                return Err(builtin::unknown(self, &shown, &derivation, &name).into());
            }
            checked => checked?,
        }
        let rules = OutputRules::of(&derivation, store_dir);
        let rules = rules.map_err(|error| of_rules(&shown, &error))?;
        let due = Reach::due(kind);
        let shelter = self.shelter(&shown, due, &options)?;
        if shelter == Shelter::None && options.required_system_features.contains("uid-range") {
            return Err(rejected(of_range(&shown)).into());
        }
        let reach = match shelter {
            Shelter::None => Reach::Network,
            Shelter::Namespaces => due,
        };
        let mut roots = derivation.input_sources.clone();
        if shelter == Shelter::Namespaces {
            roots.extend(store_paths_of(&self.settings.paths, store_dir));
        }
        let closure = self.references.closure(&self.store, &roots).await?;
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

    /// Decides whether a build is shut in, by what of the network it is due among other things.
    fn shelter(&self, shown: &str, due: Reach, options: &BuildOptions) -> Result<Shelter, Trouble> {
        let layout = self.store.layout();
        let is_diverted = layout.real.as_os_str() != layout.store_dir.as_str();
        let wanted = match self.settings.sandbox {
            SandboxMode::Always if options.no_chroot => {
                let text = format!(
                    "derivation '{shown}' has '__noChroot' set, but that's not allowed when \
                     'sandbox' is 'true'"
                );
                return Err(rejected(text).into());
            }
            SandboxMode::Always => true,
            SandboxMode::Relaxed => due == Reach::None && !options.no_chroot,
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
            _ => {
                let why = "this system has no namespaces for builds, which this one needs";
                Err(BuildFailure::new(FailureCause::Machine, why).into())
            }
        }
    }

    /// A build that isn't shut in writes to the store itself, which only a group may.
    fn without_shelter(&self) -> Result<Shelter, Trouble> {
        let standing = Standing::of_this_process();
        match self.settings.users {
            BuildUsers::Allocated { .. } if standing == Standing::Root => {
                let why = "builds that are not shut in take the users of 'build-users-group'";
                Err(BuildFailure::new(FailureCause::Machine, why).into())
            }
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
    pub(crate) async fn clear(&self, subject: &Subject, locks: &BuildLocks) -> Result<(), Trouble> {
        if subject.shelter == Shelter::None {
            let paths = subject.scratch.values().cloned().collect();
            self.store.clear_outputs(locks, paths).await?;
        }
        Ok(())
    }

    /// Builds, and takes over what was built; that must be the same as these outputs.
    pub(crate) async fn build(
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
            reach: reach_of(&user, subject),
            from: made.outputs,
            folder,
        };
        let gathered = catch_unwind(AssertUnwindSafe(|| harvest.gather()))
            .unwrap_or_else(|panic| Err(of_bug(&subject.shown, &words(panic.as_ref())).into()));
        drop(harvest);
        let checked = match gathered {
            Ok(Gathered { products, mismatch: Some(failure) }) => {
                self.keep_mismatched(workshop, products).await;
                Err(failure.into())
            }
            Ok(Gathered { products, mismatch: None }) => {
                let comparison = Comparison { subject, workshop, user: &user, made: &made.folders };
                match self.compare(&comparison, &products, same_as).await {
                    Ok(()) => self.check_rules(subject, &products).await.map(|()| products),
                    Err(trouble) => Err(trouble),
                }
            }
            Err(trouble) => Err(trouble),
        };
        let fate = match &checked {
            Ok(_) => Fate::Removed,
            Err(_) => self.fate_of_failed(subject),
        };
        made.folders.leave(self, fate, user);
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
    pub(crate) fn realisations(
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

/// Returns how far outside a build's outputs can have been reached: who is root over a range of users can do
/// so much in its namespaces that it isn't relied on that all of its files stayed there.
fn reach_of(user: &BuildUser, subject: &Subject) -> Reach {
    match user {
        BuildUser::Range(..) => Reach::Network,
        _ => subject.reach,
    }
}
