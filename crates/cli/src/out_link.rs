//! Links to results, which are roots of the garbage collector as well.
//!
//! Follows `createOutLinks` (`src/libcmd/command.cc`) and `LocalFSStore::addPermRoot` of Nix.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use drover_core::{OutputName, StoreDir, StorePath};
use drover_fleet::TargetResult;
use drover_store::Store;

use crate::terminal::Terminal;

/// Returns the link for an output of the target with that number: `result`, `result-dev`,
/// `result-1`, `result-1-dev`.
pub(crate) fn link_name(prefix: &Path, target: usize, output: &OutputName) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    if target > 0 {
        name.push(format!("-{target}"));
    }
    if !output.is_out() {
        name.push(format!("-{output}"));
    }
    PathBuf::from(name)
}

/// Makes links to all results, and registers them as roots.
///
/// # Errors
///
/// Something other than a link to the store in the place of a link, which is left alone, or a
/// folder that can't be written. A root that can't be registered is only warned of.
pub(crate) async fn make_links(
    prefix: &Path,
    results: &[TargetResult],
    store: &dyn Store,
    terminal: &Terminal,
) -> anyhow::Result<()> {
    for (number, result) in results.iter().enumerate() {
        for (output, path) in result.outcome.iter().flatten() {
            let link = link_name(prefix, number, output);
            put_link(&link, store.store_dir(), path)?;
            let registered = match link.to_str() {
                Some(link) => store.add_indirect_root(link).await.map_err(anyhow::Error::from),
                None => Err(anyhow::anyhow!("its name is not UTF-8")),
            };
            if let Err(error) = registered {
                terminal.warn(&format!(
                    "'{}' keeps nothing from the garbage collector: {error:#}",
                    link.display()
                ));
            }
        }
    }
    Ok(())
}

/// Puts a link in place, at once, over one that may be there.
fn put_link(link: &Path, store_dir: &StoreDir, path: &StorePath) -> anyhow::Result<()> {
    check_replaceable(link, store_dir)?;
    let whole = store_dir.display(path);
    let mut name = link.as_os_str().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let put = || -> io::Result<()> {
        match fs_err::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs_err::os::unix::fs::symlink(&whole, &temporary)?;
        fs_err::rename(&temporary, link)
    };
    put().with_context(|| {
        format!("cannot make the link '{}'; choose another with -o, or --no-link", link.display())
    })
}

/// Only a link to the store is replaced.
fn check_replaceable(link: &Path, store_dir: &StoreDir) -> anyhow::Result<()> {
    let Ok(metadata) = fs_err::symlink_metadata(link) else { return Ok(()) };
    let is_ours = metadata.is_symlink()
        && fs_err::read_link(link).is_ok_and(|target| target.starts_with(store_dir.as_str()));
    if !is_ours {
        bail!(
            "cannot make the link '{}': there is something that is not a link to '{store_dir}'; \
             move it away, or choose another with -o, or --no-link",
            link.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("result", 0, "out", "result")]
    #[case("result", 0, "dev", "result-dev")]
    #[case("result", 1, "out", "result-1")]
    #[case("/x/y", 2, "dev", "/x/y-2-dev")]
    fn named_as_nix_build_does(
        #[case] prefix: &str,
        #[case] target: usize,
        #[case] output: &str,
        #[case] expected: &str,
    ) {
        let output = output.parse().unwrap();
        assert_eq!(link_name(Path::new(prefix), target, &output), Path::new(expected));
    }

    #[test]
    fn replaces_only_links_to_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("result");
        let store_dir = StoreDir::default();
        let path = |name: &str| {
            StorePath::from_base_name(&format!("3880j94arxkya3irs3d8nr2x076sp1m8-{name}")).unwrap()
        };
        for name in ["a", "b"] {
            put_link(&link, &store_dir, &path(name)).unwrap();
            let target = fs_err::read_link(&link).unwrap();
            assert_eq!(target, Path::new(&store_dir.display(&path(name))));
        }
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
        fs_err::remove_file(&link).unwrap();
        fs_err::write(&link, "mine").unwrap();
        let said = put_link(&link, &store_dir, &path("a")).unwrap_err().to_string();
        assert!(said.contains("not a link to '/nix/store'"), "{said}");
        assert_eq!(fs_err::read_to_string(&link).unwrap(), "mine");
        fs_err::remove_file(&link).unwrap();
        fs_err::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(put_link(&link, &store_dir, &path("a")).is_err());
    }
}
