//! What inputs refer to, as far as a queue has seen.
//!
//! A queue holds all inputs that it has had, until it ends, so that they stay, and what a valid path
//! refers to never changes. Builds one after another have most of their inputs in common, and only about
//! the others the database is asked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drover_core::StorePath;
use drover_store::{Store as _, Substitute};
use drover_store_local::LocalStore;

use crate::failure::{Trouble, failed};
use crate::inputs::not_valid;

/// Paths of which it is remembered what they refer to; with more all are forgotten.
const MOST: usize = 200_000;

/// What a queue knows of inputs.
#[derive(Default)]
pub(crate) struct References(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// What is held, and so is all that it refers to.
    held: HashSet<StorePath>,
    /// Of some of these, and of what they refer to: what that refers to.
    references: HashMap<StorePath, Vec<StorePath>>,
}

impl References {
    /// Holds paths, and returns them with all that they refer to. `store` is always the same, as it is
    /// its session that holds them.
    pub(crate) async fn closure(
        &self,
        store: &LocalStore,
        roots: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, Trouble> {
        let new: BTreeSet<StorePath> = {
            let known = self.lock();
            roots.iter().filter(|path| !known.held.contains(*path)).cloned().collect()
        };
        if !new.is_empty() {
            let valid = store.hold_valid(&new, Substitute::No).await?;
            if let Some(absent) = new.difference(&valid).next() {
                return Err(not_valid(store, absent).into());
            }
            self.lock().held.extend(new);
        }
        let mut closure = BTreeSet::new();
        let mut ahead: Vec<StorePath> = roots.iter().cloned().collect();
        loop {
            let unknown = self.lock().walk(&mut closure, ahead);
            if unknown.is_empty() {
                return Ok(closure);
            }
            ahead = self.ask(store, unknown).await?;
        }
    }

    /// Finds out what paths refer to, and returns all of that.
    async fn ask(
        &self,
        store: &LocalStore,
        paths: Vec<StorePath>,
    ) -> Result<Vec<StorePath>, Trouble> {
        let infos = store.path_infos(&paths).await?;
        let mut found = BTreeMap::new();
        for (path, info) in paths.into_iter().zip(infos) {
            let Some(info) = info else {
                return Err(failed("the closure of its inputs can't be found".to_owned()).into());
            };
            found.insert(path, info.references.into_iter().collect::<Vec<StorePath>>());
        }
        let ahead = found.values().flatten().cloned().collect();
        self.lock().remember(found);
        Ok(ahead)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Goes on from `ahead`, as far as is known, and returns those of which it isn't known what they
    /// refer to. All of it is added to the closure.
    fn walk(&self, closure: &mut BTreeSet<StorePath>, mut ahead: Vec<StorePath>) -> Vec<StorePath> {
        let mut unknown = Vec::new();
        while let Some(path) = ahead.pop() {
            if closure.contains(&path) {
                continue;
            }
            match self.references.get(&path) {
                Some(to) => ahead.extend(to.iter().filter(|to| !closure.contains(*to)).cloned()),
                None => unknown.push(path.clone()),
            }
            closure.insert(path);
        }
        unknown
    }

    fn remember(&mut self, found: BTreeMap<StorePath, Vec<StorePath>>) {
        if MOST < self.references.len() + found.len() {
            self.references.clear();
        }
        self.references.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(seed: u8) -> StorePath {
        StorePath::new([seed; 20], &"x".parse().unwrap())
    }

    #[test]
    fn what_is_known_is_walked_and_what_is_not_is_told_once() {
        let mut known = Known::default();
        // in a circle with itself, as outputs that mention themselves
        known.remember(BTreeMap::from([
            (path(1), vec![path(1), path(2), path(3)]),
            (path(2), vec![path(3)]),
        ]));
        let mut closure = BTreeSet::new();
        assert_eq!(known.walk(&mut closure, vec![path(1), path(2)]), [path(3)]);
        known.remember(BTreeMap::from([(path(3), vec![path(4), path(1)]), (path(4), vec![])]));
        let ahead = vec![path(4), path(1)];
        assert!(known.walk(&mut closure, ahead).is_empty());
        assert_eq!(closure, BTreeSet::from([1, 2, 3, 4].map(path)));
    }
}
