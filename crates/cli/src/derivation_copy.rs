//! Derivations that only the store of this machine has, copied to the store elsewhere that they are to be built in.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use drover_core::{PathInfo, StorePath};
use drover_fleet::Target;
use drover_store::{Store, Substitute, closure_order};

use crate::configuration::Configuration;
use crate::names;
use crate::terminal::Terminal;
use crate::units;

/// Has `store` have the derivations that are wanted, with all that they refer to, as far as this machine has what
/// it lacks. A store of this machine is left as it is. What is copied is kept as long as `store` is open.
///
/// # Errors
///
/// The store there can't be used, or what is here can't be copied.
pub(crate) async fn bring_derivations(
    configuration: &Configuration,
    store: &dyn Store,
    targets: &[Target],
    terminal: &Terminal,
) -> anyhow::Result<()> {
    if !configuration.settings.store.scheme().is_ssh() {
        return Ok(());
    }
    let wanted: BTreeSet<StorePath> =
        targets.iter().map(|target| target.derivation.clone()).collect();
    let valid = store.hold_valid(&wanted, Substitute::No).await?;
    let lacking: BTreeSet<StorePath> = wanted.difference(&valid).cloned().collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let here = names::keeper(&configuration.of_this_machine()?, terminal)?;
    let closure = match closure(&*here, lacking).await {
        Ok(closure) => closure,
        Err(error) => {
            // the store there says what it lacks
            terminal
                .warn(&format!("this machine's store can't be asked for derivations: {error:#}"));
            return Ok(());
        }
    };
    // what isn't valid there yet is kept as soon as it is
    let valid = store.hold_valid(&closure.keys().cloned().collect(), Substitute::No).await?;
    let copied: Vec<PathInfo> = closure
        .into_iter()
        .filter(|(path, _)| !valid.contains(path))
        .map(|(_, info)| info)
        .collect();
    if copied.is_empty() {
        return Ok(());
    }
    let (count, to) = (units::count(copied.len(), "path"), store.name());
    terminal.info(&format!("copying {count} of derivations to '{to}'"));
    let stream = here.export(closure_order(copied)).await?;
    store.import(stream).await.with_context(|| {
        format!("cannot copy what is to be built from this machine's store to '{to}'")
    })
}

/// Returns what paths refer to, themselves among it. Those that aren't valid are passed over: whoever reads them
/// says so.
async fn closure(
    store: &dyn Store,
    roots: BTreeSet<StorePath>,
) -> anyhow::Result<BTreeMap<StorePath, PathInfo>> {
    let mut known = BTreeMap::new();
    let mut next = roots;
    while !next.is_empty() {
        let paths: Vec<StorePath> = next.into_iter().collect();
        let mut referred = BTreeSet::new();
        for info in store.path_infos(&paths).await?.into_iter().flatten() {
            referred.extend(info.references.iter().cloned());
            known.insert(info.path.clone(), info);
        }
        next = referred.into_iter().filter(|path| !known.contains_key(path)).collect();
    }
    Ok(known)
}
