//! `builtin:buildenv`: packages as one tree, in the order of their priorities.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::BuiltinError;
use crate::attributes::{Attributes, path};
use crate::links::Tree;

/// A package that is to be in the environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    /// The smallest goes first.
    priority: i64,
    path: PathBuf,
}

/// The priority of the first package that came in by another; each further one has the next. They go
/// after all that were asked for.
const PROPAGATED: i64 = 1000;

/// Builds the environment that the attributes say.
pub(crate) fn build(attributes: Attributes<'_>, out: &[u8]) -> Result<(), BuiltinError> {
    let out = path(out);
    std::fs::create_dir(&out).map_err(BuiltinError::io("create", &out))?;
    let mut packages = packages(attributes.bytes("derivations")?)?;
    packages.sort();
    let mut making = Making { tree: Tree::new(&out), done: BTreeSet::new(), next: BTreeSet::new() };
    for package in packages {
        making.add(package)?;
    }
    let mut priority = PROPAGATED;
    while !making.next.is_empty() {
        for path in std::mem::take(&mut making.next) {
            making.add(Package { priority, path })?;
            priority += 1;
        }
    }
    let manifest = path_of(attributes.bytes("manifest")?);
    let at = out.join("manifest.nix");
    std::os::unix::fs::symlink(manifest, &at).map_err(BuiltinError::io("link", at))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    path(bytes)
}

/// Reads the packages that are active. Each is `true` or `false`, a priority, the number of its outputs,
/// and these.
fn packages(text: &[u8]) -> Result<Vec<Package>, BuiltinError> {
    let mut words = words(text);
    let mut packages = Vec::new();
    while let Some(active) = words.next() {
        let priority = number(words.next())?;
        let outputs = number(words.next())?;
        for _ in 0..outputs {
            let path = path(words.next().ok_or(BuiltinError::Derivations)?);
            if active != b"false" {
                packages.push(Package { priority, path });
            }
        }
    }
    Ok(packages)
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| b" \t\r\n".contains(byte)).filter(|word| !word.is_empty())
}

fn number(word: Option<&[u8]>) -> Result<i64, BuiltinError> {
    let text = word.and_then(|word| std::str::from_utf8(word).ok());
    text.and_then(|text| text.parse::<i32>().ok()).map(i64::from).ok_or(BuiltinError::Derivations)
}

/// An environment in the making.
struct Making {
    tree: Tree,
    done: BTreeSet<PathBuf>,
    /// What those that are in it want to have in it too.
    next: BTreeSet<PathBuf>,
}

impl Making {
    fn add(&mut self, Package { priority, path }: Package) -> Result<(), BuiltinError> {
        if !self.done.insert(path.clone()) {
            return Ok(());
        }
        self.tree.add(&path, priority)?;
        let wanted = propagated(&path)?;
        self.next.extend(wanted.into_iter().filter(|it| !self.done.contains(it)));
        Ok(())
    }
}

/// Returns what a package wants to have beside it.
fn propagated(package: &Path) -> Result<Vec<PathBuf>, BuiltinError> {
    let file = package.join("nix-support/propagated-user-env-packages");
    match std::fs::read(&file) {
        Ok(text) => Ok(words(&text).map(path).collect()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(BuiltinError::io("read", file)(error)),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn package(priority: i64, path: &str) -> Package {
        Package { priority, path: path.into() }
    }

    #[rstest]
    #[case::none("", Some(vec![]))]
    #[case::one("true 5 1 /a", Some(vec![package(5, "/a")]))]
    #[case::outputs("true -2 2 /a /b\ntrue 7 0", Some(vec![package(-2, "/a"), package(-2, "/b")]))]
    #[case::inactive("false 5 2 /a /b true 5 1 /c", Some(vec![package(5, "/c")]))]
    #[case::cut("true 5 2 /a", None)]
    #[case::no_priority("true", None)]
    #[case::no_number("true x 1 /a", None)]
    #[case::large("true 5 9999999999 /a", None)]
    fn packages_are_read(#[case] text: &str, #[case] expected: Option<Vec<Package>>) {
        assert_eq!(packages(text.as_bytes()).ok(), expected);
    }
}
