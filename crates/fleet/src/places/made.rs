//! What may be referred to by what machines built, and what of that nobody has looked through yet.

use std::collections::{BTreeSet, HashMap, HashSet};

use drover_core::{PathInfo, StorePath};
use drover_schedule::Place;

use crate::hidden::{Mentionable, Search};
use crate::places::{Berth, Inner, Places};

impl Places {
    /// Notes what a path can mention that was built at a berth.
    pub(crate) fn made(&self, path: &StorePath, mentionable: Mentionable, berth: Berth) {
        let mut inner = self.inner();
        if inner.is_current(berth) {
            inner.made.insert(path.clone(), (berth.place, mentionable));
        }
    }

    /// Returns the search of a path that was made at a place and comes from there, if nobody has looked through
    /// it yet.
    pub(crate) fn search(&self, info: &PathInfo, from: Place) -> Option<Search> {
        let mentionable = {
            let inner = self.inner();
            let (_, mentionable) = inner.made.get(&info.path).filter(|(at, _)| *at == from)?;
            inner.with_closure(mentionable)
        };
        Some(Search::new(info, &mentionable))
    }

    /// Notes that a path mentions nothing but what it refers to.
    pub(crate) fn searched(&self, path: &StorePath) {
        self.inner().made.remove(path);
    }

    /// Returns all outputs of the derivations that make a path.
    pub(crate) fn siblings(&self, path: &StorePath) -> BTreeSet<StorePath> {
        let inner = self.inner();
        let makers = inner.realised.iter().filter(|(_, made)| *made == path);
        let makers: BTreeSet<&StorePath> = makers.map(|((maker, _), _)| maker).collect();
        let siblings = inner.realised.iter().filter(|((maker, _), _)| makers.contains(maker));
        siblings.map(|(_, path)| path.clone()).collect()
    }

    /// Returns the outputs of each derivation that makes some of these paths.
    pub(crate) fn broods(&self, paths: &BTreeSet<StorePath>) -> Vec<BTreeSet<StorePath>> {
        let inner = self.inner();
        let makers = inner.realised.iter().filter(|(_, path)| paths.contains(*path));
        let mut broods: HashMap<&StorePath, BTreeSet<StorePath>> =
            makers.map(|((maker, _), _)| (maker, BTreeSet::new())).collect();
        if broods.is_empty() {
            return Vec::new();
        }
        for ((maker, _), path) in &inner.realised {
            if let Some(brood) = broods.get_mut(maker) {
                brood.insert(path.clone());
            }
        }
        broods.into_values().collect()
    }

    /// Returns one of `wanted` that isn't in the closure of `inputs`, if there is any.
    pub(crate) fn outside_closure(
        &self,
        inputs: &[StorePath],
        wanted: &BTreeSet<StorePath>,
    ) -> Option<StorePath> {
        let inner = self.inner();
        let mut left: BTreeSet<&StorePath> = wanted.iter().collect();
        let mut seen: HashSet<&StorePath> = HashSet::new();
        // nearest first, as most references are to the inputs themselves
        let mut level: Vec<&StorePath> = inputs.iter().collect();
        while !level.is_empty() {
            for path in &level {
                left.remove(*path);
            }
            if left.is_empty() {
                return None;
            }
            let infos = level.iter().filter(|path| seen.insert(path));
            let infos = infos.filter_map(|path| inner.infos.get(*path));
            level = infos.flat_map(|info| &info.references).collect();
        }
        left.into_iter().next().cloned()
    }
}

impl Inner {
    fn with_closure(&self, Mentionable { inputs, outputs }: &Mentionable) -> Vec<StorePath> {
        let mut closure: HashSet<&StorePath> = outputs.iter().chain(inputs.iter()).collect();
        let mut left: Vec<&StorePath> = inputs.iter().collect();
        while let Some(path) = left.pop() {
            let references = self.infos.get(path).into_iter().flat_map(|info| &info.references);
            left.extend(references.filter(|path| closure.insert(path)));
        }
        closure.into_iter().cloned().collect()
    }
}
