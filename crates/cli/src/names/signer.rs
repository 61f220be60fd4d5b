//! Signatures on what was built for a client: on what it asked for, and on what that took.
//!
//! This machine's builder signs with the keys of the configuration itself. What is left to sign is what
//! other machines built and is here now, and, for a client with keys of its own, all that was built.

use std::collections::BTreeSet;

use drover_core::{SecretKey, StorePath};
use drover_store::{
    Keeper, RealiseObserver, RealiseSettings, RealiseStatus, Realised, StoreError, Substitute,
};

use crate::after_build::BuiltElsewhere;

/// Who signs for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    /// The client, with its own keys.
    Client,
    /// The configuration.
    Configuration,
}

impl Signer {
    /// Returns who signs for a client with these settings.
    pub(super) fn of(settings: &RealiseSettings) -> Signer {
        match settings.build.overrides.contains_key("secret-key-files") {
            true => Signer::Client,
            false => Signer::Configuration,
        }
    }

    /// Signs what was built, in the store, as far as it is valid there.
    pub(super) async fn sign(
        self,
        store: &dyn Keeper,
        realised: &[Realised],
        keys: &[SecretKey],
        built: &BuiltElsewhere<dyn RealiseObserver, StorePath>,
    ) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let targets = realised.iter().filter(|each| each.status == RealiseStatus::Built);
        let mut paths: BTreeSet<StorePath> =
            targets.flat_map(|each| each.outputs.values().cloned()).collect();
        let mut derivations = built.elsewhere();
        if self == Signer::Client {
            derivations.extend(built.take_here());
        }
        let mut begun = BTreeSet::new();
        for derivation in store.hold_valid(&derivations, Substitute::No).await? {
            begun.extend(store.output_map(&derivation).await?.into_values().flatten());
        }
        let begun: Vec<StorePath> =
            store.hold_valid(&begun, Substitute::No).await?.into_iter().collect();
        // a build that was begun needn't have ended well, and what was there before isn't of it
        let infos = store.path_infos(&begun).await?.into_iter().flatten();
        let made = infos.filter(|info| built.is_of_this_time(info.registration_time));
        paths.extend(made.map(|info| info.path));
        let valid: Vec<StorePath> =
            store.hold_valid(&paths, Substitute::No).await?.into_iter().collect();
        for info in store.path_infos(&valid).await?.into_iter().flatten() {
            let fingerprint = info.fingerprint(store.store_dir());
            let signatures = keys.iter().map(|key| key.sign(&fingerprint)).collect();
            store.add_signatures(&info.path, &signatures).await?;
        }
        Ok(())
    }
}
