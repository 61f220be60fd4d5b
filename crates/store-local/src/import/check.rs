//! What is checked of a path before it becomes valid.

use std::collections::BTreeMap;

use drover_core::{
    HashAlgorithm, HashNotation, IngestionMethod, NarHash, NarSize, OutputName, PathInfo,
    References, StorePath,
};
use drover_derivation::{Derivation, DerivationKind, HashModuloCache};
use drover_recipe::HashModulo;
use drover_store::SignatureCheck;
use drover_store_locks::TempDir;

use crate::error::LocalError;
use crate::options::RequiredSignatures;
use crate::signers;
use crate::tree;
use crate::view::View;

/// What is checked beyond what always is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    pub(crate) signatures: SignatureCheck,
}

/// Checks what needs no contents: who signed, and that the path follows from its content address.
pub(crate) fn check_info(view: &View, info: &PathInfo, checks: &Checks) -> Result<(), LocalError> {
    let path = || view.display(&info.path);
    if let Some(address) = &info.content_address {
        let mut references = References { others: info.references.clone(), itself: false };
        references.itself = references.others.remove(&info.path);
        let name = info.path.store_name();
        let store_dir = &view.layout().store_dir;
        let expected = store_dir.content_addressed_path(address, &references, &name);
        if expected.as_ref() != Ok(&info.path) {
            return Err(LocalError::NotContentAddressed { path: path() });
        }
        return Ok(());
    }
    match (checks.signatures, &view.options().signatures) {
        (SignatureCheck::AsConfigured, RequiredSignatures::By(keys))
            if !keys.vouch_for(info, &view.layout().store_dir) =>
        {
            Err(LocalError::Unsigned { path: path(), saw: signers::seen(&info.signatures) })
        }
        _ => Ok(()),
    }
}

pub(super) fn check_nar(
    view: &View,
    info: &PathInfo,
    hash: NarHash,
    size: NarSize,
) -> Result<(), LocalError> {
    let path = view.display(&info.path);
    if hash != info.nar_hash {
        return Err(LocalError::Hash { path, specified: info.nar_hash, got: hash });
    }
    if size != info.nar_size {
        return Err(LocalError::Size { path, specified: info.nar_size, got: size });
    }
    Ok(())
}

/// Checks that the contents are those by which the path is addressed. The NAR's hash has been
/// checked already.
pub(super) fn check_content_address(
    view: &View,
    info: &PathInfo,
    folder: &TempDir,
    entry: &str,
) -> Result<(), LocalError> {
    let Some(address) = &info.content_address else { return Ok(()) };
    let algorithm = address.hash.algorithm();
    let itself = info.references.contains(&info.path);
    let found = match address.method {
        IngestionMethod::Nar if algorithm == HashAlgorithm::Sha256 && !itself => {
            vec![info.nar_hash.to_hash()]
        }
        IngestionMethod::Nar => {
            let mut hash = HashModulo::new(algorithm, (&info.path).into());
            tree::pack(folder, entry, |block| hash.update(block))?;
            hash.finish().into()
        }
        IngestionMethod::Flat | IngestionMethod::Text => {
            let mut hash = HashModulo::new(algorithm, (&info.path).into());
            tree::read_blocks(folder, entry, |block| hash.update(block))?;
            hash.finish().into()
        }
        // Its address was taken for one, so the algorithm is one of git's.
        IngestionMethod::Git => vec![tree::git_hash(folder, entry, algorithm)?],
    };
    if found.contains(&address.hash) {
        return Ok(());
    }
    let got = found.first().map(|hash| hash.display(HashNotation::Base32)).unwrap_or_default();
    let specified = address.hash.display(HashNotation::Base32);
    Err(LocalError::ContentHash { path: view.display(&info.path), specified, got })
}

/// Checks that a derivation says of its outputs what follows from it; without this, an edited one
/// could claim the output of another.
pub(crate) fn check_derivation(
    view: &View,
    path: &StorePath,
    derivation: &Derivation,
    pending: impl Fn(&StorePath) -> Option<Derivation>,
) -> Result<(), LocalError> {
    let bad = |source| LocalError::Derivation { path: view.display(path), source };
    let store_dir = &view.layout().store_dir;
    match derivation.kind().map_err(bad)? {
        DerivationKind::InputAddressed => {
            view.with_input_hashes(path, derivation, pending, |hashes| {
                derivation.check_outputs(store_dir, hashes)
            })
        }
        _ => derivation.check_outputs(store_dir, &HashModuloCache::new()).map_err(bad),
    }
}

/// Returns the outputs whose paths are known before the build.
pub(crate) fn known_outputs(derivation: &Derivation) -> BTreeMap<OutputName, StorePath> {
    let outputs = derivation.outputs.iter();
    outputs.filter_map(|(name, output)| Some((name.clone(), output.path()?.clone()))).collect()
}
