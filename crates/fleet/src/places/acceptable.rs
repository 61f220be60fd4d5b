//! What a machine takes that doesn't trust us.

use std::collections::{HashMap, HashSet};

use drover_core::{PathInfo, StorePath};
use drover_schedule::Place;

use crate::places::{Flight, Places};

impl Places {
    /// Returns those of `wanted` that can be brought to a place which only takes what `is_good`: with
    /// all that they refer to, as far as that isn't there, or on its way.
    pub(crate) fn acceptable(
        &self,
        wanted: &[StorePath],
        place: Place,
        is_good: impl Fn(&PathInfo) -> bool,
    ) -> Vec<StorePath> {
        let inner = self.inner();
        let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
        let mut seen: HashSet<&StorePath> = HashSet::new();
        let mut stack: Vec<&StorePath> = wanted.iter().collect();
        let mut spoiled: Vec<&StorePath> = Vec::new();
        while let Some(path) = stack.pop() {
            if !seen.insert(path) || inner.is_at(path, place) {
                continue;
            }
            let coming = inner.coming.get(&(place, path.clone()));
            if coming.is_some_and(|carrier| carrier.flight() != Flight::Failed) {
                continue;
            }
            let info = inner.infos.get(path).filter(|info| is_good(info));
            match info.filter(|_| inner.nearest(path).is_some()) {
                Some(info) => {
                    for reference in info.references.iter().filter(|other| *other != path) {
                        referrers.entry(reference).or_default().push(path);
                        stack.push(reference);
                    }
                }
                None => spoiled.push(path),
            }
        }
        let mut bad: HashSet<&StorePath> = HashSet::new();
        while let Some(path) = spoiled.pop() {
            if bad.insert(path) {
                spoiled.extend(referrers.remove(path).unwrap_or_default());
            }
        }
        wanted.iter().filter(|path| !bad.contains(path)).cloned().collect()
    }
}
