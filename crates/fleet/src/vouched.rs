//! Whether outputs that come from machines are believed without a signature.
//!
//! Nix believes what it has had built (`src/libstore/build/derivation-building-goal.cc`): a machine is
//! configured by somebody who trusts it. Who doesn't want that has the machines sign.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{PathInfo, StoreDir, TrustedKeys};
use drover_derivation::{Derivation, Output};

/// Names of keys that are shown, and characters of each.
const MAX_NAMES: usize = 5;
const MAX_NAME: usize = 64;

/// What outputs must have that come from other machines, built there now or before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OutputTrust {
    /// Nothing: the machines are in the configuration.
    #[default]
    Machine,
    /// The signature of one of these keys (`require-sigs-from-builders`), unless the derivation says
    /// what an output's hash is.
    Signature(TrustedKeys),
}

/// Why an output isn't believed.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{path}' lacks a signature by a trusted key (saw: {saw}), and 'require-sigs-from-builders' is set: \
     have the machine sign what it builds ('secret-key-files' in its nix.conf) and name its key in \
     'trusted-public-keys'"
)]
pub(crate) struct Unsigned {
    path: String,
    saw: String,
}

impl OutputTrust {
    /// Checks outputs of a derivation by their names.
    pub(crate) fn check_all(
        &self,
        store_dir: &StoreDir,
        derivation: &Derivation,
        outputs: &BTreeMap<String, PathInfo>,
    ) -> Result<(), Unsigned> {
        outputs.iter().try_for_each(|(name, info)| self.check(store_dir, derivation, name, info))
    }

    /// Checks an output of a derivation.
    pub(crate) fn check(
        &self,
        store_dir: &StoreDir,
        derivation: &Derivation,
        output: &str,
        info: &PathInfo,
    ) -> Result<(), Unsigned> {
        let OutputTrust::Signature(keys) = self else { return Ok(()) };
        // whichever store the contents come to checks that they are what the address says
        let is_fixed = match derivation.outputs.get(output) {
            Some(Output::Fixed { address, .. }) => info.content_address.as_ref() == Some(address),
            _ => false,
        };
        if is_fixed || keys.vouch_for(info, store_dir) {
            return Ok(());
        }
        let names: BTreeSet<&str> = info.signatures.iter().map(|one| one.key()).collect();
        // nothing that a terminal would obey
        let cut = |name: &&str| name.escape_debug().take(MAX_NAME).collect::<String>();
        let saw = match names.is_empty() {
            true => "none".to_owned(),
            false => names.iter().take(MAX_NAMES).map(cut).collect::<Vec<_>>().join(", "),
        };
        Err(Unsigned { path: store_dir.display(&info.path).to_string(), saw })
    }
}
