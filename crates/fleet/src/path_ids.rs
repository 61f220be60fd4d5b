//! The numbers by which the scheduler knows paths.
//!
//! Invariant: a number stands for one path at a time; it is given to another only after the
//! scheduler was told to forget the path.

use std::collections::HashMap;

use drover_core::StorePath;
use drover_schedule::PathId;

/// Paths with their numbers.
#[derive(Default)]
pub(crate) struct PathIds {
    ids: HashMap<StorePath, PathId>,
    free: Vec<PathId>,
    next: u32,
}

impl PathIds {
    /// Returns the number of a path, a new one where it has none.
    pub(crate) fn of(&mut self, path: &StorePath) -> PathId {
        if let Some(id) = self.ids.get(path) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            let id = PathId(self.next);
            self.next = self.next.saturating_add(1);
            id
        });
        self.ids.insert(path.clone(), id);
        id
    }

    pub(crate) fn get(&self, path: &StorePath) -> Option<PathId> {
        self.ids.get(path).copied()
    }

    /// Takes the number from a path; the scheduler has to be told.
    pub(crate) fn release(&mut self, path: &StorePath) -> Option<PathId> {
        let id = self.ids.remove(path)?;
        self.free.push(id);
        Some(id)
    }

    pub(crate) fn known(&self) -> impl Iterator<Item = StorePath> {
        self.ids.keys().cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}
