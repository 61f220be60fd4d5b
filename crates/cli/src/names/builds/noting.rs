//! What outputs of derivations have become, noted for clients that ask for it.

use drover_core::{DrvOutput, Realisation, StorePath};
use drover_derivation::{Derivation, DerivationKind, derivation_name};
use drover_store::{Keeper, Realised, SignatureCheck, StoreError, Wanted};

/// Notes what the outputs of derivations are, where floating ones are in use: a client with
/// `ca-derivations` asks for that of every derivation, be its outputs' paths known from the beginning
/// or not, and ends with an assertion where it gets no answer.
///
/// Follows `registerOutputs` in `src/libstore/unix/build/derivation-builder.cc` of Nix.
pub(super) async fn note_outputs(
    store: &dyn Keeper,
    wanted: &[Wanted],
    realised: &[Realised],
) -> Result<(), StoreError> {
    for (wanted, realised) in wanted.iter().zip(realised) {
        let (Wanted::AllOutputs(path) | Wanted::Outputs(path, _)) = wanted else { continue };
        if !realised.status.is_success() || is_impure(store, path).await? {
            continue;
        }
        let hash = store.realisation_hash(path).await?;
        for (name, out_path) in &realised.outputs {
            let Ok(output) = name.parse() else { continue };
            let id = DrvOutput { hash: hash.clone(), output };
            if store.realisation(&id).await?.is_none() {
                let (out_path, signatures) = (out_path.clone(), Default::default());
                let realisation = Realisation { id, out_path, signatures };
                store.register_realisation(&realisation, SignatureCheck::Skip).await?;
            }
        }
    }
    Ok(())
}

/// Whether a derivation's outputs are others each time. One that can't be read has none to note.
async fn is_impure(store: &dyn Keeper, path: &StorePath) -> Result<bool, StoreError> {
    let Some(name) = derivation_name(path) else { return Ok(true) };
    let files = store.read_files(std::slice::from_ref(path)).await?;
    let parsed = files.iter().map(|file| {
        let derivation = Derivation::parse_aterm(store.store_dir(), &name, file).ok()?;
        derivation.kind().ok()
    });
    Ok(parsed.flatten().all(|kind| kind == DerivationKind::Impure))
}
