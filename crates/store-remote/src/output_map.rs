//! What a derivation makes, from the derivation itself: for servers that can't tell names with paths
//! (before 1.22).

use std::collections::BTreeMap;

use drover_core::StorePath;
use drover_derivation::{Derivation, derivation_name};
use drover_store::{Store as _, StoreError};

use crate::store::RemoteStore;

/// Reads a derivation's outputs.
pub(crate) async fn read(
    store: &RemoteStore,
    path: &StorePath,
) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
    let refused = |rule: String| {
        let message = format!("'{}' is no good derivation: {rule}", path.base_name());
        StoreError::refused(store.name(), message)
    };
    let name = derivation_name(path).ok_or_else(|| refused("its name must end in .drv".into()))?;
    let text = store.read_files(std::slice::from_ref(path)).await?.into_iter().next();
    let text = text.unwrap_or_default();
    let derivation = Derivation::parse_aterm(store.store_dir(), &name, &text)
        .map_err(|error| refused(error.to_string()))?;
    let outputs = &derivation.basic.outputs;
    Ok(outputs.iter().map(|(name, output)| (name.to_string(), output.path().cloned())).collect())
}
