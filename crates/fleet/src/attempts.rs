//! Outputs of one derivation come from one build of it. Where a machine is lost while they are fetched, some
//! are valid here, and the others are built again. What is valid is not replaced; so if that one came out
//! otherwise, what is made now can't be put beside it. A client that has gone meanwhile leaves no less behind: what
//! came without the rest of its build counts for the next one, too, as long as the service lives.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{PathInfo, StorePath};
use drover_schedule::Place;
use drover_store::{Store, StoreError, Substitute};

use crate::places::Places;

/// What was on its way here, since the first attempt to fetch it.
#[derive(Default)]
pub(crate) struct Earlier {
    came: BTreeSet<StorePath>,
    /// What was valid here before that, whoever made it.
    before: Option<BTreeSet<StorePath>>,
    halves: Arc<Halves>,
}

/// What was on its way here along with other outputs of its build, until all of them are here.
#[derive(Default)]
pub(crate) struct Halves(Mutex<BTreeSet<StorePath>>);

impl Halves {
    fn paths(&self) -> MutexGuard<'_, BTreeSet<StorePath>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    coming: StorePath,
}

impl Mixed {
    /// Whether a path is the one that isn't here, or refers to it, itself or by others.
    pub(crate) fn concerns(&self, places: &Places, path: &StorePath) -> bool {
        reaches(places, path, &BTreeSet::from([&self.coming])).is_some()
    }
}

/// Returns one of `gone` in the closure of a path, if there is any.
pub(crate) fn reaches(
    places: &Places,
    path: &StorePath,
    gone: &BTreeSet<&StorePath>,
) -> Option<StorePath> {
    let (mut left, mut seen) = (vec![path.clone()], BTreeSet::from([path.clone()]));
    while let Some(path) = left.pop() {
        if gone.contains(&path) {
            return Some(path);
        }
        if !places.is_at(&path, Place::Here) {
            let references = places.info(&path).map(|info| info.references);
            let new = references.into_iter().flatten().filter(|path| seen.insert(path.clone()));
            left.extend(new.collect::<Vec<_>>());
        }
    }
    None
}

impl Earlier {
    /// Begins to fetch for a client of a service.
    pub(crate) fn among(halves: &Arc<Halves>) -> Earlier {
        Earlier { halves: Arc::clone(halves), ..Earlier::default() }
    }

    /// Notes what is to come now. Returns two outputs of one derivation, if there are any: one that came
    /// earlier, and that the last build made otherwise, and one that is to come.
    pub(crate) async fn begin(
        &mut self,
        places: &Places,
        store: &dyn Store,
        mut coming: BTreeSet<StorePath>,
    ) -> Result<Option<Mixed>, StoreError> {
        let before = match &self.before {
            Some(before) => before,
            None => self.before.insert(store.hold_valid(&coming, Substitute::No).await?),
        };
        let new: BTreeSet<StorePath> = coming.difference(before).cloned().collect();
        let broods = places.broods(&new);
        let asked = self.earlier_of(&broods);
        self.came.extend(new.iter().cloned());
        let here = here(store, asked).await?;
        for info in &here {
            coming.remove(&info.path);
        }
        for brood in broods {
            let together: Vec<&StorePath> = brood.intersection(&new).collect();
            if together.len() > 1 {
                self.halves.paths().extend(together.into_iter().cloned());
            }
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

    /// Returns what was to come before now, for this client or, of these derivations, for any.
    fn earlier_of(&self, broods: &[BTreeSet<StorePath>]) -> BTreeSet<StorePath> {
        let halves = self.halves.paths();
        let of_others = broods.iter().flatten().filter(|path| halves.contains(*path));
        self.came.iter().chain(of_others).cloned().collect()
    }

    /// Notes that what was to come has come. What came together counts no more once all of it is here.
    pub(crate) fn arrived(&self, places: &Places, came: &BTreeSet<StorePath>) {
        if self.halves.paths().is_empty() {
            return;
        }
        for brood in places.broods(came) {
            let is_here = |path: &StorePath| came.contains(path) || places.is_at(path, Place::Here);
            let mut halves = self.halves.paths();
            if brood.iter().filter(|path| halves.contains(*path)).all(is_here) {
                halves.retain(|path| !brood.contains(path));
            }
        }
    }
}

/// Returns what is known of those of some paths that are valid here.
async fn here(store: &dyn Store, asked: BTreeSet<StorePath>) -> Result<Vec<PathInfo>, StoreError> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let asked: Vec<StorePath> = asked.into_iter().collect();
    Ok(store.path_infos(&asked).await?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use drover_store::MemoryStore;

    use super::*;

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).expect("a good name")
    }

    fn set(names: &[&str]) -> BTreeSet<StorePath> {
        names.iter().copied().map(path).collect()
    }

    /// Who fetches something else meanwhile, or only a part of it, takes nothing of it for done.
    #[tokio::test]
    async fn what_comes_together_is_remembered_until_all_of_it_is_here() {
        let (places, store) = (Places::default(), MemoryStore::default());
        for output in ["out", "dev", "doc"] {
            places.realise(&path("x.drv"), output.parse().expect("a name"), path(output));
        }
        let halves = Arc::new(Halves::default());
        let mut first = Earlier::among(&halves);
        assert_eq!(first.begin(&places, &store, set(&["out", "dev", "doc"])).await.unwrap(), None);
        let mut other = Earlier::among(&halves);
        assert_eq!(other.begin(&places, &store, set(&["other"])).await.unwrap(), None);
        other.arrived(&places, &set(&["other"]));
        assert_eq!(*halves.paths(), set(&["out", "dev", "doc"]));
        other.arrived(&places, &set(&["dev"]));
        assert_eq!(*halves.paths(), set(&["out", "dev", "doc"]));
        first.arrived(&places, &set(&["out", "dev", "doc"]));
        assert_eq!(*halves.paths(), BTreeSet::new());
    }
}
