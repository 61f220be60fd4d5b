//! Store paths as users name them.
//!
//! Follows `Store::followLinksToStore` (`src/libstore/store-api.cc`), `toStorePath` and
//! `parsePathWithOutputs` (`src/libstore/path-with-outputs.cc`) of Nix.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use drover_core::{StoreDir, StorePath};
use drover_store::Wanted;

use crate::error::CompatError;

/// Links followed from the user's path to the store; as many as the system follows.
pub(crate) const MAX_LINKS: usize = 40;

/// Returns a path without `.`, `..` and doubled slashes, absolute.
///
/// Links are not looked at, so `x/..` is where `x` stands, whatever it leads to.
pub(crate) fn absolute(path: &Path, base: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in base.join(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Returns the store path that a path of the file system is in, or leads to by links.
///
/// # Errors
///
/// A path that neither is in the store nor leads there.
pub(crate) fn follow_to_store(
    store_dir: &StoreDir,
    argument: &OsStr,
    base: &Path,
) -> Result<StorePath, CompatError> {
    let mut path = absolute(Path::new(argument), base);
    for _ in 0..MAX_LINKS {
        if let Some(name) = name_in_store(store_dir, &path) {
            let Some(name) = name.to_str() else { break };
            return Ok(StorePath::from_base_name(name)?);
        }
        let Ok(target) = std::fs::read_link(&path) else { break };
        let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
        path = absolute(&target, &parent);
    }
    Err(CompatError::failed(format!("path \"{}\" is not in the Nix store", path.display())))
}

/// Returns the first component below the store's directory.
fn name_in_store<'a>(store_dir: &StoreDir, path: &'a Path) -> Option<&'a OsStr> {
    let rest = path.strip_prefix(store_dir.as_str()).ok()?;
    rest.components().next().map(Component::as_os_str)
}

/// What a user wants of a path: `PATH`, `DRV!out,dev` or, with the newer command, `DRV^out,dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathWithOutputs {
    /// The path.
    pub(crate) path: StorePath,
    /// The outputs, each once, in the order in which they were given; none means all.
    pub(crate) outputs: Vec<String>,
}

impl PathWithOutputs {
    /// Reads it, following links to the store.
    pub(crate) fn follow(
        store_dir: &StoreDir,
        argument: &OsStr,
        separator: u8,
        base: &Path,
    ) -> Result<PathWithOutputs, CompatError> {
        let bytes = argument.as_bytes();
        let (path, outputs) = match bytes.iter().position(|byte| *byte == separator) {
            None => (bytes, None),
            Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
        };
        let outputs = OsString::from_vec(outputs.unwrap_or_default().to_vec());
        let outputs = crate::options::text(outputs)?;
        let mut named: Vec<String> = Vec::new();
        for output in outputs.split(',').filter(|output| !output.is_empty() && *output != "*") {
            if !named.iter().any(|other| other == output) {
                named.push(output.to_owned());
            }
        }
        let path = follow_to_store(store_dir, OsStr::from_bytes(path), base)?;
        Ok(PathWithOutputs { path, outputs: named })
    }

    /// Returns what is to be made valid.
    pub(crate) fn wanted(&self) -> Wanted {
        let path = self.path.clone();
        match (path.is_derivation(), self.outputs.is_empty()) {
            (_, false) => Wanted::Outputs(path, self.outputs.iter().cloned().collect()),
            (true, true) => Wanted::AllOutputs(path),
            (false, true) => Wanted::Path(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rstest::rstest;

    use super::*;

    const NAME: &str = "3880j94arxkya3irs3d8nr2x076sp1m8-a.drv";

    fn outputs(argument: &str) -> Wanted {
        let store_dir = StoreDir::default();
        let argument = argument.replace("DRV", &format!("/nix/store/{NAME}"));
        let base = Path::new("/");
        PathWithOutputs::follow(&store_dir, argument.as_ref(), b'!', base).unwrap().wanted()
    }

    #[rstest]
    #[case("a/../b/./c", "/base/b/c")]
    #[case("//x//y/", "/x/y")]
    #[case("../../..", "/")]
    fn absolute_paths(#[case] path: &str, #[case] expected: &str) {
        assert_eq!(absolute(Path::new(path), Path::new("/base")), Path::new(expected));
    }

    #[test]
    fn outputs_of_derivations() {
        let path = StorePath::from_base_name(NAME).unwrap();
        assert_eq!(outputs("DRV"), Wanted::AllOutputs(path.clone()));
        assert_eq!(outputs("DRV/bin/x"), Wanted::AllOutputs(path.clone()));
        let dev = BTreeSet::from(["dev".to_owned(), "out".to_owned()]);
        assert_eq!(outputs("DRV!out,dev"), Wanted::Outputs(path, dev));
    }

    #[test]
    fn links_are_followed_to_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store_dir = StoreDir::default();
        let link = |name: &str, target: &str| {
            std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
        };
        link("result", &format!("/nix/store/{NAME}/bin"));
        link("two", "result");
        link("loop", "loop");
        link("out", "/etc");
        let follow = |name: &str| follow_to_store(&store_dir, name.as_ref(), folder.path());
        assert_eq!(follow("two").unwrap().base_name(), NAME);
        for name in ["loop", "out", "none", "/nix/store", "/nix/store/.."] {
            let said = follow(name).unwrap_err().to_string();
            assert!(said.ends_with("is not in the Nix store"), "{said}");
        }
        let odd = OsStr::from_bytes(b"/nix/store/\xff\xfe");
        assert!(follow_to_store(&store_dir, odd, folder.path()).is_err());
    }
}
