//! Making paths absolute without looking at the file system.

use std::path::{Component, Path, PathBuf};

/// Returns `path`, seen from `base`, without `.` and `..`.
///
/// Like `absPath` of C++ Nix (`src/libutil/file-system.cc`), it goes by the
/// text: `..` behind a symbolic link leads back to where the link is.
pub(crate) fn absolute(path: &Path, base: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for component in base.join(path).components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("a.conf", "/etc/nix/a.conf")]
    #[case("/x//y/./z", "/x/y/z")]
    #[case("../a", "/etc/a")]
    #[case("../../../../a", "/a")]
    fn goes_by_the_text(#[case] path: &str, #[case] expected: &str) {
        assert_eq!(absolute(Path::new(path), Path::new("/etc/nix")), Path::new(expected));
    }
}
