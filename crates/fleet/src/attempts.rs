//! Outputs of one derivation come from one build of it. Where a machine is lost while they are fetched, some
//! are valid here, and the others are built again. What is valid is not replaced; so if that one came out
//! otherwise, what is made now can't be put beside it.

use std::collections::BTreeSet;

use drover_core::{PathInfo, StorePath};
use drover_store::{Store, StoreError, Substitute};

use crate::places::Places;

/// What was on its way here, since the first attempt to fetch it.
#[derive(Default)]
pub(crate) struct Earlier {
    came: BTreeSet<StorePath>,
    /// What was valid here before that, whoever made it.
    before: Option<BTreeSet<StorePath>>,
}

/// Two outputs of one derivation that are of different builds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{shown}' is of another build than '{here}', which was fetched before the machine that had both was \
     lost, and came out otherwise this time: they don't belong together, as the derivation is not \
     deterministic. Delete '{here}' and build again"
)]
pub(crate) struct Mixed {
    /// The whole path of the one that is here.
    here: String,
    /// The whole path of the other one.
    shown: String,
    pub(crate) coming: StorePath,
}

impl Earlier {
    /// Notes what is to come now. Returns two outputs of one derivation, if there are any: one that came
    /// earlier, and that the last build made otherwise, and one that is to come.
    pub(crate) async fn begin(
        &mut self,
        places: &Places,
        store: &dyn Store,
        mut coming: BTreeSet<StorePath>,
    ) -> Result<Option<Mixed>, StoreError> {
        let Some(before) = &self.before else {
            let before = store.hold_valid(&coming, Substitute::No).await?;
            self.came = coming.difference(&before).cloned().collect();
            self.before = Some(before);
            return Ok(None);
        };
        let asked: Vec<StorePath> = self.came.iter().cloned().collect();
        self.came.extend(coming.difference(before).cloned());
        let here: Vec<PathInfo> = store.path_infos(&asked).await?.into_iter().flatten().collect();
        for info in &here {
            coming.remove(&info.path);
        }
        let otherwise = here.iter().filter(|info| {
            places.info(&info.path).is_some_and(|now| now.nar_hash != info.nar_hash)
        });
        let mut mixed = otherwise.filter_map(|here| {
            let siblings = places.siblings(&here.path);
            let coming = siblings.intersection(&coming).next()?.clone();
            let whole = |path: &StorePath| store.store_dir().display(path);
            Some(Mixed { here: whole(&here.path), shown: whole(&coming), coming })
        });
        Ok(mixed.next())
    }
}
