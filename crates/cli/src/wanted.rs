//! From what the user named to derivations in the local store.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use drover_core::StorePath;
use drover_fleet::Target;

use crate::arguments::SourceArguments;
use crate::evaluate::Evaluator;
use crate::installable::{Attribute, Installable, Named, Outputs, is_derivation};
use crate::local_store::LocalStore;

/// Symbolic links that are followed one after another.
const MAX_LINKS: usize = 40;

/// Finds out what is wanted, in the order in which it was named: files or the expression first.
///
/// # Errors
///
/// Something that isn't there, can't be evaluated, or isn't a derivation.
pub(crate) async fn targets(
    source: &SourceArguments,
    evaluator: &Evaluator<'_>,
    current_dir: &Path,
) -> anyhow::Result<Vec<Target>> {
    let local = evaluator.local;
    let evaluates = source.file.is_some() || source.expr.is_some();
    if !evaluates {
        refuse_evaluation(source)?;
    }
    let (named, attributes): (Vec<&String>, Vec<&String>) =
        source.installables.iter().partition(|text| !evaluates || is_derivation(text));
    let mut targets = vec![];
    if evaluates {
        let by_flag = source.attributes.iter().map(|text| (text, Named::ByFlag));
        let alone = attributes.into_iter().map(|text| (text, Named::Alone));
        let all = by_flag.chain(alone).map(|(text, named)| Attribute::parse(text, named));
        let attributes: Vec<Attribute> = all.collect::<Result<_, _>>()?;
        targets.extend(evaluator.instantiate(&attributes).await?);
    }
    let fallback = ".".to_owned();
    let named = match &named[..] {
        [] if evaluates => vec![],
        [] if current_dir.join("flake.nix").exists() => vec![&fallback],
        [] => bail!(
            "nothing to build: give a PATH.drv, -f FILE, -E EXPR or a flake reference such as .#x"
        ),
        _ => named,
    };
    for text in named {
        targets.push(match Installable::parse(text, local.store_dir.as_str())? {
            Installable::Derivation { path, outputs } => {
                let derivation = derivation_path(&path, local, current_dir)?;
                let outputs = match outputs {
                    Outputs::Default | Outputs::All => Default::default(),
                    Outputs::Named(names) => names,
                };
                Target { derivation, outputs }
            }
            Installable::Flake { reference, outputs } => {
                evaluator.flake(&reference, &outputs).await?
            }
        });
    }
    if targets.is_empty() {
        bail!("the evaluation gave no derivation: there is nothing to build");
    }
    Ok(targets)
}

/// Whether anything has to be evaluated, so that Nix's evaluator is run.
pub(crate) fn takes_evaluation(source: &SourceArguments) -> bool {
    source.file.is_some()
        || source.expr.is_some()
        || source.installables.is_empty()
        || !source.installables.iter().all(|text| is_derivation(text))
}

/// Refuses what would be of no consequence where no file or expression is evaluated.
fn refuse_evaluation(source: &SourceArguments) -> anyhow::Result<()> {
    if !source.attributes.is_empty() {
        bail!("-A names an attribute of a file or an expression; give one with -f or -E");
    }
    if !source.installables.is_empty()
        && source.installables.iter().all(|text| is_derivation(text))
        && let Some(flag) = source.evaluation_flag()
    {
        bail!("{flag} goes with something that is evaluated, and a PATH.drv isn't");
    }
    Ok(())
}

/// Returns the store path that a file name stands for, by way of links if need be.
pub(crate) fn derivation_path(
    text: &str,
    local: &LocalStore,
    current_dir: &Path,
) -> anyhow::Result<StorePath> {
    let mut file = without_dots(&current_dir.join(text));
    for _ in 0..MAX_LINKS {
        let logical = local.logical(&file);
        if logical.parent() == Some(Path::new(local.store_dir.as_str())) {
            let logical = logical.to_str().context("a store path is not UTF-8")?;
            return Ok(local.store_dir.parse(logical)?);
        }
        match fs_err::read_link(&file) {
            Ok(target) => {
                let parent = file.parent().unwrap_or(Path::new("/"));
                file = without_dots(&parent.join(target));
            }
            Err(_) if file.exists() => break,
            Err(_) => bail!("'{text}' does not exist"),
        }
    }
    bail!(
        "'{text}' is not in the store '{}'; add it with 'nix-store --add', or build it from the \
         Nix file that it was made from",
        local.store_dir
    )
}

/// Takes `.` and `..` out of an absolute path, by its text.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use drover_core::StoreDir;
    use drover_store_remote::Address;
    use rstest::rstest;

    use super::*;

    const BASE: &str = "3880j94arxkya3irs3d8nr2x076sp1m8-a.drv";

    fn local(root: &Path) -> LocalStore {
        LocalStore {
            name: "daemon".to_owned(),
            address: Address::Socket("/s".into()),
            connections: None,
            store_dir: StoreDir::default(),
            real_dir: Some(root.join("nix/store")),
            argument: None,
        }
    }

    #[rstest]
    #[case::logical("/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv")]
    #[case::dots("../../nix/./store/3880j94arxkya3irs3d8nr2x076sp1m8-a.drv")]
    fn store_paths_need_no_file(#[case] text: &str) {
        let found = derivation_path(text, &local(Path::new("/r")), Path::new("/a/b")).unwrap();
        assert_eq!(found.base_name(), BASE);
    }

    #[test]
    fn follows_links_and_real_paths() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        std::os::unix::fs::symlink(format!("/nix/store/{BASE}"), dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        let found = derivation_path("b", &local, dir.path()).unwrap();
        assert_eq!(found.base_name(), BASE);
        let real = format!("nix/store/{BASE}");
        assert_eq!(derivation_path(&real, &local, dir.path()).unwrap().base_name(), BASE);
    }

    #[test]
    fn says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        fs_err::write(dir.path().join("x.drv"), "").unwrap();
        let said = |text| derivation_path(text, &local, dir.path()).unwrap_err().to_string();
        assert_eq!(said("y.drv"), "'y.drv' does not exist");
        assert!(said("x.drv").starts_with("'x.drv' is not in the store '/nix/store'; "));
        let bad = "/nix/store/x.drv";
        assert!(said(bad).starts_with("'/nix/store/x.drv' is not a store path: "));
    }
}
