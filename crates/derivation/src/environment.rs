//! The environment of a build, packed.

use std::collections::BTreeMap;
use std::fmt;

use crate::EscapedBytes;

/// The environment variables of a derivation, sorted by name: names and values are bytes.
///
/// All of them lie in one buffer, because a scheduler holds the environments of 100,000
/// derivations at once: the cost over the bytes themselves is 16 bytes for each variable.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Environment {
    bytes: Box<[u8]>,
    ends: Box<[(usize, usize)]>,
}

impl Environment {
    /// Returns the value of the variable `name`.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        let mut range = 0..self.ends.len();
        while !range.is_empty() {
            let middle = range.start + range.len() / 2;
            let (found, value) = self.entry(middle)?;
            match found.cmp(name) {
                std::cmp::Ordering::Equal => return Some(value),
                std::cmp::Ordering::Less => range.start = middle + 1,
                std::cmp::Ordering::Greater => range.end = middle,
            }
        }
        None
    }

    /// Returns names and values in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        (0..self.ends.len()).map(|at| self.entry(at).unwrap_or_default())
    }

    /// Returns the number of variables.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no variable at all.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the number of bytes of all names and values.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn entry(&self, at: usize) -> Option<(&[u8], &[u8])> {
        let start = match at.checked_sub(1) {
            Some(before) => self.ends.get(before)?.1,
            None => 0,
        };
        let &(name, value) = self.ends.get(at)?;
        Some((self.bytes.get(start..name)?, self.bytes.get(name..value)?))
    }
}

/// The last of several values for one name stays, as in Nix.
impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Environment {
        let entries: Vec<(N, V)> = entries.into_iter().collect();
        let sorted: BTreeMap<&[u8], &[u8]> =
            entries.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        let mut packed = EnvironmentBuilder::default();
        for (name, value) in sorted {
            packed.push(name, value);
        }
        packed.finish()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.iter() {
            map.entry(
                &format_args!("{}", EscapedBytes(name)),
                &format_args!("{}", EscapedBytes(value)),
            );
        }
        map.finish()
    }
}

/// An environment in the making; the caller adds the names in ascending order.
#[derive(Default)]
pub(crate) struct EnvironmentBuilder {
    bytes: Vec<u8>,
    ends: Vec<(usize, usize)>,
}

impl EnvironmentBuilder {
    /// Adds a variable behind all others.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let name = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((name, self.bytes.len()));
    }

    /// Returns the environment.
    pub(crate) fn finish(self) -> Environment {
        Environment { bytes: self.bytes.into(), ends: self.ends.into() }
    }
}
