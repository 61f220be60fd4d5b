//! Registers paths whose files lie in the store already.
//!
//! Follows `registerValidity` in `src/nix/nix-store/nix-store.cc` and `registerValidPaths` in
//! `src/libstore/local-store.cc` of Nix.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use drover_core::PathInfo;
use drover_store::Adoption;
use drover_store_db::Registration;
use drover_store_files::{FileName, IGNORED_ATTRIBUTES, Owners, Tree, canonicalise};

use crate::error::LocalError;
use crate::import::{check_derivation, known_outputs};
use crate::options::ContentSync;
use crate::tree;
use crate::view::View;

/// Registers paths, all or none. Derivations are checked as when they are added.
pub(crate) fn adopt(
    view: &View,
    mut infos: Vec<PathInfo>,
    adoption: Adoption,
) -> Result<(), LocalError> {
    view.refuse_read_only("register paths")?;
    view.hold(infos.iter().map(|info| &info.path))?;
    for info in &mut infos {
        match adoption {
            Adoption::AsGiven => {}
            Adoption::Canonical => make_canonical(view, info)?,
            Adoption::Measured => {
                make_canonical(view, info)?;
                (info.nar_hash, info.nar_size) = tree::path_nar_hash(view, &info.path)?;
            }
        }
    }
    if adoption != Adoption::AsGiven && view.options().contents == ContentSync::Full {
        tree::sync(view, infos.iter().map(|info| &info.path))?;
    }
    let mut registrations = Vec::with_capacity(infos.len());
    for info in infos {
        let mut outputs = BTreeMap::new();
        if info.path.is_derivation() {
            let not_valid = || LocalError::NotValid { path: view.display(&info.path) };
            let derivation = view.derivation(&info.path)?.ok_or_else(not_valid)?;
            check_derivation(view, &info.path, &derivation, |_| None)?;
            outputs = known_outputs(&derivation);
        }
        registrations.push(Registration { info, outputs });
    }
    view.opened.write(|database| database.register(&registrations))
}

fn make_canonical(view: &View, info: &PathInfo) -> Result<(), LocalError> {
    let name = FileName::new(info.path.base_name().as_bytes())?;
    let tree = Tree { dir: view.opened.real_store.as_fd(), name: &name };
    Ok(canonicalise(&[tree], &Owners::Anybody, &IGNORED_ATTRIBUTES)?)
}
