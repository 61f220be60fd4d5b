//! Stores as they are typed, before they are read: a path may be said from where one is.

use std::path::{Component, Path, PathBuf};

use crate::store_reference::Scheme;

/// Returns the name of a store with `base` before it, if it is a path that doesn't begin at the root:
/// `./x` and `a/b`, but neither `auto` nor `ssh://host/x`. Parameters stay as they are.
///
/// Follows `isNonUriPath` and `absPath` of Nix (`src/libstore/store-reference.cc`).
pub fn whole_store_name(typed: &str, base: &Path) -> String {
    let (name, parameters) = match typed.split_once('?') {
        Some((name, parameters)) => (name, Some(parameters)),
        None => (typed, None),
    };
    if has_scheme(name) || !name.contains('/') || name.starts_with('/') {
        return typed.to_owned();
    }
    let mut whole = PathBuf::new();
    for component in base.join(name).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(whole.pop()),
            component => whole.push(component),
        }
    }
    match parameters {
        Some(parameters) => format!("{}?{parameters}", whole.display()),
        None => whole.display().to_string(),
    }
}

/// Whether it's an address: `ssh://host/x`, and `file:/x` as well.
fn has_scheme(name: &str) -> bool {
    name.split_once(":/").is_some_and(|(scheme, _)| Scheme::is_one(scheme))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("./x", "/a/b/x")]
    #[case("x/../../y?root=./z", "/a/y?root=./z")]
    #[case("../../../..", "/")]
    #[case("/x", "/x")]
    #[case("x", "x")]
    #[case("auto", "auto")]
    #[case("local?root=./x", "local?root=./x")]
    #[case("ssh-ng://h/./x", "ssh-ng://h/./x")]
    #[case("file:/x/y", "file:/x/y")]
    #[case("./file:/x", "/a/b/file:/x")]
    #[case("a/b:/x", "/a/b/a/b:/x")]
    fn begins_at_the_root(#[case] typed: &str, #[case] expected: &str) {
        assert_eq!(whole_store_name(typed, Path::new("/a/b")), expected);
    }
}
