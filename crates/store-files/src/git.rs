//! The hash that git gives a tree of files: of a blob for a file, of a tree for a directory.
//!
//! Follows `src/libutil/git.cc` of Nix: a directory without entries counts, and the mode of what is
//! hashed itself doesn't.

use std::os::fd::{AsFd, BorrowedFd};

use drover_core::{Hash, HashAlgorithm, Hasher};
use rustix::fs::FileType;

use crate::handle;
use crate::{FileName, FilesError, TreePath};

/// Nodes from the root to any other, both included, as in archives.
const DEPTH: usize = 64;

/// Bytes that are read at once.
const BLOCK: usize = 256 << 10;

/// Returns the hash of `name` in `dir`. Git knows SHA-1 and SHA-256.
///
/// # Errors
///
/// Something that is neither a file, a directory nor a symbolic link, a file that changes meanwhile,
/// directories that are nested too deep, and what the system refused.
pub fn git_hash(
    dir: BorrowedFd<'_>,
    name: &FileName,
    algorithm: HashAlgorithm,
) -> Result<Hash, FilesError> {
    let mut walk = Walk { algorithm, trail: Vec::new() };
    walk.visit(dir, name).map(|(_, hash)| hash)
}

struct Walk {
    algorithm: HashAlgorithm,
    trail: Vec<FileName>,
}

/// What git writes of an entry beside its name and hash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Executable,
    Link,
    Directory,
}

impl Kind {
    fn mode(self) -> &'static [u8] {
        match self {
            Kind::Plain => b"100644",
            Kind::Executable => b"100755",
            Kind::Link => b"120000",
            Kind::Directory => b"40000",
        }
    }
}

impl Walk {
    fn visit(&mut self, dir: BorrowedFd<'_>, name: &FileName) -> Result<(Kind, Hash), FilesError> {
        self.trail.push(name.clone());
        let stat =
            handle::status(dir, name.as_c_str()).map_err(|errno| self.io("look at", errno))?;
        let visited = match handle::kind(&stat) {
            FileType::RegularFile => {
                let executable = stat.st_mode & 0o100 != 0;
                let kind = if executable { Kind::Executable } else { Kind::Plain };
                (kind, self.file(dir, name, handle::size(&stat))?)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name.as_c_str(), Vec::new())
                    .map_err(|errno| self.io("read", errno))?;
                (Kind::Link, self.object(b"blob", target.as_bytes()))
            }
            FileType::Directory if self.trail.len() <= DEPTH => {
                (Kind::Directory, self.directory(dir, name)?)
            }
            FileType::Directory => {
                return Err(FilesError::TooDeep { path: self.path(), limit: DEPTH });
            }
            kind => {
                let (path, kind) = (self.path(), handle::kind_name(kind));
                return Err(FilesError::UnsupportedType { path, kind });
            }
        };
        self.trail.pop();
        Ok(visited)
    }

    fn object(&self, kind: &[u8], contents: &[u8]) -> Hash {
        let mut hasher = self.begin(kind, contents.len() as u64);
        hasher.update(contents);
        hasher.finish()
    }

    fn begin(&self, kind: &[u8], size: u64) -> Hasher {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(kind);
        hasher.update(format!(" {size}\0").as_bytes());
        hasher
    }

    fn file(&self, dir: BorrowedFd<'_>, name: &FileName, size: u64) -> Result<Hash, FilesError> {
        let file =
            handle::open_file(dir, name.as_c_str()).map_err(|errno| self.io("open", errno))?;
        let mut hasher = self.begin(b"blob", size);
        let mut block = vec![0; BLOCK];
        let mut left = size;
        // what it has beyond its size when it was looked at doesn't count
        while 0 < left {
            let read =
                rustix::io::read(&file, &mut block).map_err(|errno| self.io("read", errno))?;
            if read == 0 {
                let (path, found) = (self.path(), size - left);
                return Err(FilesError::Changed { path, announced: size, found });
            }
            let counted = read.min(usize::try_from(left).unwrap_or(usize::MAX));
            hasher.update(block.get(..counted).unwrap_or_default());
            left -= counted as u64;
        }
        Ok(hasher.finish())
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: &FileName) -> Result<Hash, FilesError> {
        let opened =
            handle::open_dir(dir, name.as_c_str()).map_err(|errno| self.io("open", errno))?;
        let entries = handle::list(opened.as_fd()).map_err(|errno| self.io("list", errno))?;
        let mut lines = Vec::with_capacity(entries.len());
        for entry in entries {
            let (kind, hash) = self.visit(opened.as_fd(), &entry.name)?;
            let mut line = kind.mode().to_vec();
            line.push(b' ');
            line.extend_from_slice(entry.name.as_bytes());
            line.push(0);
            line.extend_from_slice(hash.digest());
            // Git orders directories as if their names ended in a slash.
            let mut key = entry.name.as_bytes().to_vec();
            key.extend((kind == Kind::Directory).then_some(b'/'));
            lines.push((key, line));
        }
        lines.sort();
        let contents: Vec<u8> = lines.into_iter().flat_map(|(_, line)| line).collect();
        Ok(self.object(b"tree", &contents))
    }

    fn io(&self, action: &'static str, errno: rustix::io::Errno) -> FilesError {
        FilesError::io(action, self.path(), errno)
    }

    fn path(&self) -> TreePath {
        TreePath::of(self.trail.iter().map(FileName::as_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use std::process::Command;

    use drover_core::HashNotation;

    use super::*;

    fn write(tree: &Path, name: &str, contents: impl AsRef<[u8]>) {
        let file = tree.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
        fs::write(file, contents).expect("a file");
    }

    fn hash(folder: &Path, algorithm: HashAlgorithm) -> String {
        let dir = fs::File::open(folder).expect("a folder");
        let name: FileName = "tree".parse().expect("a name");
        let hash = git_hash(dir.as_fd(), &name, algorithm).expect("a hash");
        hash.digits(HashNotation::Base16)
    }

    fn git(tree: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git").current_dir(tree).args(arguments).output().expect("git");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Names that sort differently for directories, an executable file, links, a large file.
    #[rstest::rstest]
    #[case(HashAlgorithm::Sha1, "sha1")]
    #[case(HashAlgorithm::Sha256, "sha256")]
    fn as_git_has_it(#[case] algorithm: HashAlgorithm, #[case] format: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("tree");
        for name in ["a/in", "a.txt", "a-b", "a0", "b/c/d", "empty"] {
            write(&tree, name, if name == "empty" { "" } else { name });
        }
        write(&tree, "large", vec![7; 700_000]);
        write(&tree, "run", "#!/bin/sh\n");
        fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o555)).expect("a mode");
        symlink("a/in", tree.join("link")).expect("a link");
        let ours = hash(folder.path(), algorithm);
        git(&tree, &["init", "--quiet", &format!("--object-format={format}"), "."]);
        git(&tree, &["add", "--all"]);
        assert_eq!(ours, git(&tree, &["write-tree"]));
        // A file by itself.
        fs::rename(tree.join("large"), folder.path().join("large")).expect("moved");
        let blob = git(&tree, &["hash-object", "../large"]);
        fs::rename(&tree, folder.path().join("old")).expect("moved");
        fs::rename(folder.path().join("large"), &tree).expect("moved");
        assert_eq!(hash(folder.path(), algorithm), blob);
    }

    #[test]
    fn what_git_has_not_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("tree").join("x/".repeat(DEPTH))).expect("folders");
        let dir = fs::File::open(folder.path()).expect("a folder");
        let name: FileName = "tree".parse().expect("a name");
        let refused = git_hash(dir.as_fd(), &name, HashAlgorithm::Sha1);
        assert!(matches!(refused, Err(FilesError::TooDeep { limit: DEPTH, .. })), "{refused:?}");
        let socket: FileName = "socket".parse().expect("a name");
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket"));
        let refused = git_hash(dir.as_fd(), &socket, HashAlgorithm::Sha1);
        assert!(matches!(refused, Err(FilesError::UnsupportedType { .. })), "{refused:?}");
    }
}
