//! Which outputs of an input derivation are wanted.

use std::fmt;

use drover_core::OutputName;

/// A set of output names, in order.
///
/// Nearly always `out` alone, and there is one for each edge of the graph: hence a slice, a
/// twelfth of what a `BTreeSet` takes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputNames(Box<[OutputName]>);

impl OutputNames {
    /// Returns the names in order.
    pub fn iter(&self) -> std::slice::Iter<'_, OutputName> {
        self.0.iter()
    }

    /// Whether `output` is one of them.
    pub fn contains(&self, output: &OutputName) -> bool {
        self.0.binary_search(output).is_ok()
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<OutputName> for OutputNames {
    fn from(output: OutputName) -> OutputNames {
        OutputNames([output].into())
    }
}

impl FromIterator<OutputName> for OutputNames {
    fn from_iter<I: IntoIterator<Item = OutputName>>(names: I) -> OutputNames {
        let mut names: Vec<OutputName> = names.into_iter().collect();
        names.sort();
        names.dedup();
        OutputNames(names.into())
    }
}

impl<'a> IntoIterator for &'a OutputNames {
    type Item = &'a OutputName;
    type IntoIter = std::slice::Iter<'a, OutputName>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Debug for OutputNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
