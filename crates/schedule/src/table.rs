//! Dense tables: state is kept in vectors indexed by ids.
//!
//! Invariant: this is the only place that turns an id into an index. [`Table::at`] is for ids that
//! the scheduler took from its own state; ids that come with an event go through [`Table::get`].

use std::marker::PhantomData;

use crate::id::{JobId, MachineId, PathId};

/// An id that is used as an index.
pub(crate) trait Key: Copy + std::fmt::Debug {
    fn index(self) -> usize;
    fn from_index(index: usize) -> Self;
}

macro_rules! key {
    ($($name:ident),*) => {$(
        impl Key for $name {
            fn index(self) -> usize {
                self.0 as usize
            }
            fn from_index(index: usize) -> Self {
                $name(u32::try_from(index).expect("a table is only indexed by 32-bit ids"))
            }
        }
    )*};
}

/// A set of machines that nothing tells apart but their load and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassId(pub(crate) u32);

/// What some jobs ask of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequirementId(pub(crate) u32);

key!(JobId, MachineId, PathId, ClassId, RequirementId);

/// A map from small ids.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    slots: Vec<Option<V>>,
    key: PhantomData<K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { slots: Vec::new(), key: PhantomData }
    }
}

impl<K: Key, V> Table<K, V> {
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        self.slots.get(key.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.slots.get_mut(key.index())?.as_mut()
    }

    /// # Panics
    /// If `key` is not in the table, which is a bug of this crate.
    pub(crate) fn at(&self, key: K) -> &V {
        self.get(key).unwrap_or_else(|| panic!("{key:?} stands in the scheduler's own state"))
    }

    /// # Panics
    /// If `key` is not in the table, which is a bug of this crate.
    pub(crate) fn at_mut(&mut self, key: K) -> &mut V {
        self.get_mut(key).unwrap_or_else(|| panic!("{key:?} stands in the scheduler's own state"))
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let index = key.index();
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(value);
        }
    }

    /// Puts `value` behind all others and returns its id.
    pub(crate) fn push(&mut self, value: V) -> K {
        self.slots.push(Some(value));
        K::from_index(self.slots.len() - 1)
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        self.slots.get_mut(key.index())?.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((K::from_index(index), slot.as_ref()?)))
    }
}

impl<K: Key, V: Default> Table<K, V> {
    /// Returns the entry of `key`, made if there is none.
    pub(crate) fn entry(&mut self, key: K) -> &mut V {
        if self.get(key).is_none() {
            self.insert(key, V::default());
        }
        self.at_mut(key)
    }
}
