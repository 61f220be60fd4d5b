//! Paths that can't lead astray: absolute ones inside of the root, relative ones below a folder.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An absolute path inside of the root, such as `/nix/store`: at least one component, none of them
/// `.` or `..`, no double or trailing slash, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Target(Vec<u8>);

/// A relative path below a folder, by the same rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Below(Vec<u8>);

/// Why a path can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It starts somewhere else than it must.
    #[error("'{path}' must be an absolute path")]
    NotAbsolute {
        /// The path.
        path: String,
    },
    /// A component is missing, `.` or `..`, or has a NUL in it.
    #[error("'{path}' must consist of names with single slashes between them, without '.' or '..'")]
    Component {
        /// The path.
        path: String,
    },
}

impl Target {
    /// Checks an absolute path.
    ///
    /// # Errors
    /// If it isn't absolute, or is `/` alone, or has a component that isn't a name.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Target, PathError> {
        let path = path.into();
        let Some(rest) = path.strip_prefix(b"/") else {
            return Err(PathError::NotAbsolute { path: lossy(&path) });
        };
        match are_names(rest) {
            true => Ok(Target(path)),
            false => Err(PathError::Component { path: lossy(&path) }),
        }
    }

    /// Returns the path with its leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the names that it consists of.
    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').skip(1)
    }
}

impl Below {
    /// Checks a relative path.
    ///
    /// # Errors
    /// If it's empty or has a component that isn't a name.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Below, PathError> {
        let path = path.into();
        match are_names(&path) {
            true => Ok(Below(path)),
            false => Err(PathError::Component { path: lossy(&path) }),
        }
    }

    /// Returns the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn are_names(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|name| {
        let special: [&[u8]; 3] = [b"", b".", b".."];
        !special.contains(&name) && !name.contains(&0)
    })
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl TryFrom<Vec<u8>> for Target {
    type Error = PathError;

    fn try_from(path: Vec<u8>) -> Result<Target, PathError> {
        Target::new(path)
    }
}

impl TryFrom<Vec<u8>> for Below {
    type Error = PathError;

    fn try_from(path: Vec<u8>) -> Result<Below, PathError> {
        Below::new(path)
    }
}

impl From<Target> for Vec<u8> {
    fn from(target: Target) -> Vec<u8> {
        target.0
    }
}

impl From<Below> for Vec<u8> {
    fn from(below: Below) -> Vec<u8> {
        below.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&lossy(&self.0))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", lossy(&self.0))
    }
}

impl fmt::Display for Below {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&lossy(&self.0))
    }
}

impl fmt::Debug for Below {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("/nix/store", true)]
    #[case::dots_in_name("/a/..b/c..", true)]
    #[case::root("/", false)]
    #[case::empty("", false)]
    #[case::relative("nix", false)]
    #[case::parent("/a/../b", false)]
    #[case::itself("/a/./b", false)]
    #[case::double("/a//b", false)]
    #[case::trailing("/a/", false)]
    #[case::nul("/a\0b", false)]
    fn targets_are_checked(#[case] path: &str, #[case] good: bool) {
        assert_eq!(Target::new(path).is_ok(), good);
        if let Some(rest) = path.strip_prefix('/') {
            assert_eq!(Below::new(rest).is_ok(), good);
        }
    }

    #[test]
    fn what_comes_from_elsewhere_is_checked_too() {
        let bytes = postcard::to_stdvec(&b"/a/../b".to_vec()).unwrap();
        assert!(postcard::from_bytes::<Target>(&bytes).is_err());
    }
}
