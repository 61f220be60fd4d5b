//! What a server is to keep from its garbage collector, and which channel has told it how much of that.
//!
//! A server forgets a temporary root with the connection that registered it. Paths are therefore kept in
//! the order in which they came, and each channel knows how many of them it has registered, the first
//! ones: so it's known of each what it lacks, however many channels there are and whichever of them end.

use std::collections::BTreeSet;

use drover_core::StorePath;

/// The paths that are held, for as long as the store object lives.
#[derive(Default)]
pub(crate) struct Held {
    order: Vec<StorePath>,
    known: BTreeSet<StorePath>,
}

/// Some of the first paths that are held: a number of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct First(pub(crate) usize);

impl Held {
    /// Takes note of paths that are to be held from now on.
    pub(crate) fn note(&mut self, paths: &BTreeSet<StorePath>) {
        for path in paths {
            if self.known.insert(path.clone()) {
                self.order.push(path.clone());
            }
        }
    }

    /// Returns all that there are.
    pub(crate) fn all(&self) -> First {
        First(self.order.len())
    }

    /// Returns what one lacks that has these.
    pub(crate) fn lacking(&self, has: First) -> BTreeSet<StorePath> {
        self.order.get(has.0..).unwrap_or_default().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(numbers: &[u8]) -> BTreeSet<StorePath> {
        let name = "x".parse().expect("a name");
        numbers.iter().map(|number| StorePath::new([*number; 20], &name)).collect()
    }

    #[test]
    fn each_lacks_what_came_after_it_was_told() {
        let mut held = Held::default();
        held.note(&paths(&[3]));
        let early = held.all();
        held.note(&paths(&[1, 3]));
        held.note(&paths(&[2]));
        assert_eq!(held.lacking(First::default()), paths(&[1, 2, 3]));
        assert_eq!(held.lacking(early), paths(&[1, 2]));
        assert_eq!(held.lacking(held.all()), paths(&[]));
    }
}
