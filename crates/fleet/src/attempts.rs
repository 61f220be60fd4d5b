//! Outputs of one derivation come from one build of it. Where a machine is lost while they are fetched, some
//! are valid here, and the others are built again. What is valid is not replaced; so if that one came out
//! otherwise, what is made now can't be put beside it.

use std::collections::BTreeSet;

use drover_core::{PathInfo, StorePath};
use drover_store::{Store, StoreError};

use crate::places::Places;

/// What was on its way here when a machine was lost.
#[derive(Default)]
pub(crate) struct Earlier(BTreeSet<StorePath>);

/// Two outputs of one derivation that are of different builds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{coming}' is of another build than '{here}', which was fetched before the machine that had both was \
     lost, and came out otherwise this time: they don't belong together, as the derivation is not \
     deterministic. Delete '{here}' and build again"
)]
pub(crate) struct Mixed {
    pub(crate) here: StorePath,
    pub(crate) coming: StorePath,
}

impl Earlier {
    /// Notes what did not all arrive.
    pub(crate) fn note<'a>(&mut self, paths: impl IntoIterator<Item = &'a PathInfo>) {
        self.0.extend(paths.into_iter().map(|info| info.path.clone()));
    }

    /// Returns two outputs of one derivation: one that did arrive, and that the last build made otherwise,
    /// and one that is to come.
    pub(crate) async fn mixed(
        &self,
        places: &Places,
        store: &dyn Store,
        coming: impl Iterator<Item = StorePath>,
    ) -> Result<Option<Mixed>, StoreError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let asked: Vec<StorePath> = self.0.iter().cloned().collect();
        let here: Vec<PathInfo> = store.path_infos(&asked).await?.into_iter().flatten().collect();
        let mut coming: BTreeSet<StorePath> = coming.collect();
        for info in &here {
            coming.remove(&info.path);
        }
        let otherwise = here.iter().filter(|info| {
            places.info(&info.path).is_some_and(|now| now.nar_hash != info.nar_hash)
        });
        let mut mixed = otherwise.filter_map(|here| {
            let siblings = places.siblings(&here.path);
            let coming = siblings.intersection(&coming).next()?.clone();
            Some(Mixed { here: here.path.clone(), coming })
        });
        Ok(mixed.next())
    }
}
