//! The settings of a local store.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_core::{StorePath, TrustedKeys};
use drover_store::{LogForm, Optimise, OwnSetting, SignedRealisations};

/// The settings of a local store.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Who must sign what is added, where that is checked (`require-sigs`).
    pub signatures: RequiredSignatures,
    /// Whether what floating outputs are said to have become must be signed.
    pub realisations: SignedRealisations,
    /// What of the contents is on the disk before a path becomes valid.
    pub contents: ContentSync,
    /// Whether the database is synced (`fsync-metadata`).
    pub metadata: drover_store_db::Sync,
    /// Whether equal files become hard links when they are added (`auto-optimise-store`).
    pub optimise: Optimise,
    /// How build logs are kept (`compress-build-log`).
    pub logs: LogForm,
    /// The group of build users, which gets the store's directory where root makes it.
    pub build_group: Option<String>,
    /// Whether the store or a folder above it may be a symbolic link (`allow-symlinked-store`).
    pub symlinks: Symlinks,
    /// Bytes kept back for the garbage collector (`gc-reserved-space`).
    pub reserved: u64,
    /// Whether outputs of live derivations live (`keep-outputs`).
    pub keep_outputs: bool,
    /// Whether derivations of live outputs live (`keep-derivations`).
    pub keep_derivations: bool,
    /// Less free space than this begins a collection when something is added; 0 is never
    /// (`min-free`).
    pub min_free: u64,
    /// Such a collection ends when so many bytes are free (`max-free`).
    pub max_free: u64,
    /// How often free space is looked at (`min-free-check-interval`).
    pub free_interval: Duration,
    /// How long is waited for a lock on a path, which a build holds as long as it runs.
    pub lock_patience: Duration,
    /// Paths whose locks are held by who has started this process, and waits for what it adds: the
    /// outputs of a build that Nix has given to its hook.
    pub locked_by_caller: BTreeSet<StorePath>,
    /// How long is waited for another process's transaction.
    pub database_patience: Duration,
}

/// Whether paths must be signed, where the one who adds them asks for the check.
#[derive(Clone, Debug)]
pub enum RequiredSignatures {
    /// Nobody need sign.
    None,
    /// One of these keys must have signed what isn't content-addressed.
    By(TrustedKeys),
}

impl RequiredSignatures {
    /// Returns the names of the keys that are trusted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let keys = match self {
            RequiredSignatures::None => None,
            RequiredSignatures::By(keys) => Some(keys),
        };
        keys.into_iter().flat_map(TrustedKeys::names)
    }
}

/// What of the contents is on the disk before a path becomes valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentSync {
    /// All: after a power cut, what is valid is whole. One sync for each batch of paths.
    Full,
    /// Whatever the system has written by then, as in Nix unless `fsync-store-paths` is set.
    Off,
}

/// Whether the store or a folder above it may be a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symlinks {
    /// It may not: paths in it would be called otherwise than they are.
    Refused,
    /// It may.
    Allowed,
}

impl LocalOptions {
    /// Returns these, but for what one session has otherwise.
    pub(crate) fn with(&self, own: &[OwnSetting]) -> LocalOptions {
        let mut options = self.clone();
        for setting in own {
            match setting {
                OwnSetting::KeepOutputs(keep) => options.keep_outputs = *keep,
                OwnSetting::KeepDerivations(keep) => options.keep_derivations = *keep,
                OwnSetting::Optimise(optimise) => options.optimise = *optimise,
                OwnSetting::Logs(form) => options.logs = *form,
                OwnSetting::TrustedKeys(keys) => {
                    if let RequiredSignatures::By(trusted) = &mut options.signatures {
                        trusted.clone_from(keys);
                    }
                }
                OwnSetting::MoreTrustedKeys(keys) => {
                    if let RequiredSignatures::By(trusted) = &mut options.signatures {
                        trusted.extend(keys);
                    }
                }
                OwnSetting::SignedRealisations(signed) => options.realisations = *signed,
                // whoever needs them asks the supply
                OwnSetting::Substituters(_) | OwnSetting::MoreSubstituters(_) => {}
            }
        }
        options
    }
}

impl Default for LocalOptions {
    fn default() -> LocalOptions {
        LocalOptions {
            signatures: RequiredSignatures::By(TrustedKeys::default()),
            realisations: SignedRealisations::AsPaths,
            contents: ContentSync::Full,
            metadata: drover_store_db::Sync::Normal,
            optimise: Optimise::OnDemand,
            logs: LogForm::Compressed,
            build_group: None,
            symlinks: Symlinks::Refused,
            reserved: 8 * 1024 * 1024,
            keep_outputs: false,
            keep_derivations: true,
            min_free: 0,
            max_free: u64::MAX,
            free_interval: Duration::from_secs(5),
            lock_patience: Duration::from_secs(3600),
            locked_by_caller: BTreeSet::new(),
            database_patience: Duration::from_secs(60),
        }
    }
}
