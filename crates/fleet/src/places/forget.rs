//! Forgetting what is known of paths, where many runs share it.

use std::collections::BTreeSet;

use drover_core::{OutputName, StorePath};
use drover_schedule::Place;

use super::{Inner, Places};

impl Places {
    /// Notes that a path isn't valid here any more, as far as anybody knows.
    pub(crate) fn not_here(&self, path: &StorePath) {
        let mut inner = self.inner();
        if let Some(places) = inner.at.get_mut(path) {
            places.remove(&Place::Here);
        }
        inner.drop_if_homeless(path);
    }

    /// Notes that a path is in the caller's store no more; returns the places where it was thought to be
    /// for that.
    pub(crate) fn vanished(&self, path: &StorePath) -> Vec<Place> {
        let mut inner = self.inner();
        let local: Vec<Place> = std::iter::once(Place::Here).chain(inner.twin).collect();
        if let Some(places) = inner.at.get_mut(path) {
            places.retain(|place| !local.contains(place));
        }
        inner.coming.retain(|(place, coming), _| coming != path || !local.contains(place));
        inner.drop_if_homeless(path);
        local
    }

    /// Whether a path is valid in the caller's store, as far as is known, and on no other machine.
    pub(crate) fn is_only_here(&self, path: &StorePath) -> bool {
        let inner = self.inner();
        let is_local = |place: &Place| *place == Place::Here || inner.twin == Some(*place);
        inner.at.get(path).is_some_and(|places| places.iter().all(is_local))
    }

    /// Forgets those of some paths that are nowhere.
    pub(crate) fn drop_homeless(&self, paths: &[StorePath]) {
        let mut inner = self.inner();
        for path in paths {
            inner.drop_if_homeless(path);
        }
    }

    /// Notes that no job needs a path: what is kept of it in memory goes.
    pub(crate) fn unused(&self, path: &StorePath) {
        let mut inner = self.inner();
        inner.unkeep(path);
        inner.drop_if_homeless(path);
    }

    /// Drops kept NARs that refer to what is nowhere any more, as nothing can be made of them;
    /// returns their paths.
    pub(crate) fn drop_broken(&self) -> Vec<StorePath> {
        let mut inner = self.inner();
        let is_broken = |path: &&StorePath| inner.is_broken(path);
        let broken: Vec<StorePath> = inner.kept.keys().filter(is_broken).cloned().collect();
        for path in &broken {
            inner.unkeep(path);
        }
        broken
    }

    /// Forgets which path an output became.
    pub(crate) fn unrealise(&self, derivation: &StorePath, output: &OutputName) {
        self.inner().realised.remove(&(derivation.clone(), output.clone()));
    }

    /// Whether a path is valid on some machine.
    pub(crate) fn is_on_machine(&self, path: &StorePath) -> bool {
        let inner = self.inner();
        let places = inner.at.get(path);
        places.is_some_and(|places| places.iter().any(|place| *place != Place::Here))
    }

    /// Returns what is valid here, and these.
    pub(crate) fn all_here(&self, others: impl Iterator<Item = StorePath>) -> BTreeSet<StorePath> {
        let inner = self.inner();
        let here = inner.at.iter().filter(|(_, places)| places.contains(&Place::Here));
        here.map(|(path, _)| path.clone()).chain(others).collect()
    }

    /// Forgets what is known of paths on machines, once there are more than `limit` paths in all,
    /// unless it is needed: machines can be asked again.
    pub(crate) fn shrink(&self, limit: usize, is_needed: impl Fn(&StorePath) -> bool) {
        let mut inner = self.inner();
        if inner.infos.len().max(inner.at.len()) <= limit {
            return;
        }
        inner.at.retain(|path, places| places.contains(&Place::Here) || is_needed(path));
        let paths: Vec<StorePath> = inner.infos.keys().cloned().collect();
        for path in &paths {
            inner.drop_if_homeless(path);
        }
    }

    /// Returns how many paths something is known of.
    pub(crate) fn known(&self) -> usize {
        let inner = self.inner();
        inner.infos.len().max(inner.at.len()).max(inner.realised.len()).max(inner.coming.len())
    }
}

impl Inner {
    fn drop_if_homeless(&mut self, path: &StorePath) {
        if self.at.get(path).is_some_and(|places| !places.is_empty()) {
            return;
        }
        self.at.remove(path);
        self.infos.remove(path);
        self.made.remove(path);
        self.unkeep(path);
    }

    /// Whether something in the closure of a path is nowhere.
    fn is_broken(&self, path: &StorePath) -> bool {
        let mut seen: BTreeSet<&StorePath> = BTreeSet::from([path]);
        let mut left = vec![path];
        while let Some(path) = left.pop() {
            if self.nearest(path).is_none() {
                return true;
            }
            // a store's own closure is whole
            let is_at_store = self.at.get(path).is_some_and(|places| !places.is_empty());
            let info = self.infos.get(path).filter(|_| !is_at_store);
            let references = info.into_iter().flat_map(|info| &info.references);
            left.extend(references.filter(|path| seen.insert(path)));
        }
        false
    }

    fn unkeep(&mut self, path: &StorePath) {
        if let Some(nar) = self.kept.remove(path) {
            self.kept_bytes = self.kept_bytes.saturating_sub(nar.len());
        }
    }
}
