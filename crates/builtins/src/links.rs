//! A tree of links to the files of packages. Folders are made only where packages share them.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::BuiltinError;
use crate::task::say;

/// What nobody wants to see in a profile, or what every package has its own of.
const LEFT_OUT: [&str; 7] = [
    "/propagated-build-inputs",
    "/nix-support",
    "/perllocal.pod",
    "/info/dir",
    "/log",
    "/manifest.nix",
    "/manifest.json",
];

/// A tree of links.
pub(crate) struct Tree {
    root: PathBuf,
    /// Of which priority each link is.
    priorities: HashMap<PathBuf, i64>,
}

/// Something of a package, and its place.
struct Pair {
    from: PathBuf,
    to: PathBuf,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Tree {
        Tree { root: root.to_owned(), priorities: HashMap::new() }
    }

    /// Adds a package. Those with a smaller number go before what is there.
    pub(crate) fn add(&mut self, package: &Path, priority: i64) -> Result<(), BuiltinError> {
        let root = self.root.clone();
        self.add_folder(package, &root, priority)
    }

    fn add_folder(&mut self, from: &Path, to: &Path, priority: i64) -> Result<(), BuiltinError> {
        let reading = || BuiltinError::io("read", from);
        let entries = match fs::read_dir(from) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                say(&format!(
                    "warning: '{}' is not in the environment, as it's no folder",
                    from.display()
                ));
                return Ok(());
            }
            entries => entries.map_err(reading())?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(reading())?.file_name());
        }
        // so that the same conflict is told every time
        names.sort();
        for name in names {
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let pair = Pair { from: from.join(&name), to: to.join(&name) };
            let Some(metadata) = look(fs::metadata(&pair.from), "read", &pair.from)? else {
                say(&format!("warning: '{}' leads nowhere, so it's left out", pair.from.display()));
                continue;
            };
            let shown = pair.from.as_os_str().as_bytes();
            if LEFT_OUT.iter().any(|end| shown.ends_with(end.as_bytes())) {
                continue;
            }
            self.add_one(pair, &metadata, priority)?;
        }
        Ok(())
    }

    fn add_one(&mut self, pair: Pair, from: &Metadata, priority: i64) -> Result<(), BuiltinError> {
        let there = look(fs::symlink_metadata(&pair.to), "read", &pair.to)?;
        match there {
            None => self.link(pair, priority),
            Some(there) if there.is_dir() && from.is_dir() => {
                self.add_folder(&pair.from, &pair.to, priority)
            }
            Some(there) if there.is_dir() => {
                Err(BuiltinError::FolderConflict { folder: pair.to, other: pair.from })
            }
            Some(_) if from.is_dir() => self.open_up(pair, priority),
            Some(_) => self.replace(pair, priority),
        }
    }

    /// Makes a folder of the link that is there, and links what both have in it.
    fn open_up(&mut self, Pair { from, to }: Pair, priority: i64) -> Result<(), BuiltinError> {
        let before = fs::canonicalize(&to).map_err(BuiltinError::io("read", &to))?;
        if !before.is_dir() {
            return Err(BuiltinError::FolderConflict { folder: from, other: before });
        }
        fs::remove_file(&to).map_err(BuiltinError::io("remove", &to))?;
        fs::create_dir(&to).map_err(BuiltinError::io("create", &to))?;
        let its_priority = self.priorities.get(&to).copied().unwrap_or_default();
        self.add_folder(&before, &to, its_priority)?;
        self.add_folder(&from, &to, priority)
    }

    /// Puts a link in the place of another, if it goes before that.
    fn replace(&mut self, pair: Pair, priority: i64) -> Result<(), BuiltinError> {
        let before = self.priorities.get(&pair.to).copied().unwrap_or_default();
        if before == priority {
            let one = fs::read_link(&pair.to).map_err(BuiltinError::io("read", &pair.to))?;
            return Err(BuiltinError::Conflict { one, other: pair.from, priority });
        }
        if before < priority {
            return Ok(());
        }
        fs::remove_file(&pair.to).map_err(BuiltinError::io("remove", &pair.to))?;
        self.link(pair, priority)
    }

    fn link(&mut self, Pair { from, to }: Pair, priority: i64) -> Result<(), BuiltinError> {
        symlink(&from, &to).map_err(BuiltinError::io("link", &to))?;
        self.priorities.insert(to, priority);
        Ok(())
    }
}

/// What isn't there is `None`.
fn look(
    found: io::Result<Metadata>,
    doing: &'static str,
    path: &Path,
) -> Result<Option<Metadata>, BuiltinError> {
    match found {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(BuiltinError::io(doing, path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{Builtin, Fetching, Task};

    /// Packages in a folder, each with its files. What ends in a slash is a folder, what has an arrow
    /// a link.
    fn packages(files: &[&str]) -> TempDir {
        let home = tempfile::tempdir().unwrap();
        for file in files {
            let (path, target) = file.split_once(" -> ").unwrap_or((file, ""));
            let at = home.path().join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match (path.ends_with('/'), target) {
                (true, _) => fs::create_dir_all(at).unwrap(),
                (_, "") => fs::write(at, path).unwrap(),
                _ => symlink(target, at).unwrap(),
            }
        }
        home
    }

    fn build(home: &TempDir, derivations: &str) -> Result<Vec<String>, String> {
        let folder = home.path().display().to_string();
        let task = Task {
            builtin: Builtin::Buildenv,
            environment: [
                ("derivations", derivations.replace('@', &format!("{folder}/"))),
                ("manifest", "/the/manifest".to_owned()),
            ]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
            out: format!("{folder}/out").into_bytes(),
            fetching: Fetching::default(),
        };
        let done =
            task.carry_out().map_err(|error| drover_core::with_causes(&error).replace(&folder, ""));
        done.map(|()| listing(home.path(), &home.path().join("out")))
    }

    fn listing(home: &Path, folder: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let shown = path.strip_prefix(home.join("out")).unwrap().display().to_string();
            match fs::read_link(&path) {
                Ok(target) => {
                    let target = target.strip_prefix(home).unwrap_or(&target).to_owned();
                    lines.push(format!("{shown} -> {}", target.display()));
                }
                Err(_) => lines.extend(listing(home, &path)),
            }
        }
        lines.sort();
        lines
    }

    #[test]
    fn folders_are_shared_where_they_must_be() {
        let home = packages(&[
            "a/bin/a",
            "a/share/a/x",
            "b/bin/b",
            "b/lib/b",
            "b/.hidden",
            "b/nix-support/x",
        ]);
        let expected = [
            "bin/a -> a/bin/a",
            "bin/b -> b/bin/b",
            "lib -> b/lib",
            "manifest.nix -> /the/manifest",
            "share -> a/share",
        ];
        assert_eq!(build(&home, "true 5 1 @a true 5 1 @b").unwrap(), expected);
    }

    #[test]
    fn the_smaller_number_wins() {
        let home = packages(&["a/bin/x", "a/bin/y", "b/bin/x", "c/bin/x"]);
        let expected = ["bin/x -> b/bin/x", "bin/y -> a/bin/y", "manifest.nix -> /the/manifest"];
        assert_eq!(build(&home, "true 5 1 @a true -3 1 @b true 7 1 @c").unwrap(), expected);
    }

    /// A link to a folder is a folder, and what is linked is what it leads to.
    #[test]
    fn links_to_folders() {
        let home = packages(&["a/lib64 -> lib", "a/lib/a", "b/lib64/b", "b/dangling -> nowhere"]);
        let folder = home.path().canonicalize().unwrap();
        assert_eq!(folder, home.path());
        let expected = [
            "lib -> a/lib",
            "lib64/a -> a/lib/a",
            "lib64/b -> b/lib64/b",
            "manifest.nix -> /the/manifest",
        ];
        assert_eq!(build(&home, "true 5 1 @a true 5 1 @b").unwrap(), expected);
    }

    #[test]
    fn what_packages_bring_along() {
        let home = packages(&["a/bin/x", "c/bin/x", "c/bin/c", "file"]);
        let wants = home.path().join("a/nix-support");
        fs::create_dir(&wants).unwrap();
        let text = format!("{0}/c {0}/c\n{0}/a {0}/file\n", home.path().display());
        fs::write(wants.join("propagated-user-env-packages"), text).unwrap();
        let expected = ["bin/c -> c/bin/c", "bin/x -> a/bin/x", "manifest.nix -> /the/manifest"];
        assert_eq!(build(&home, "true 5 1 @a false 5 1 @none").unwrap(), expected);
    }

    #[test]
    fn conflicts_name_both() {
        let home = packages(&["a/bin/x", "b/bin/x"]);
        let said = build(&home, "true 5 1 @a true 5 1 @b").unwrap_err();
        assert!(
            said.contains("\n  /a/bin/x\n  /b/bin/x\n") && said.contains("priority 5"),
            "{said}"
        );
        let home = packages(&["a/x", "b/x/y", "c/x/z"]);
        for order in ["true 5 1 @a true 6 1 @b", "true 6 1 @a true 5 1 @b true 5 1 @c"] {
            if home.path().join("out").exists() {
                fs::remove_dir_all(home.path().join("out")).unwrap();
            }
            let said = build(&home, order).unwrap_err();
            assert!(said.contains("is a folder") && said.contains("is none"), "{said}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let home = packages(&["a/x"]);
        let said = build(&home, "true 5 1 @nowhere").unwrap_err();
        assert!(said.contains("'/nowhere': No such file"), "{said}");
    }
}
